"""Many labels per row in one fit: beside scikit-learn, with labels missing, a strength for each.

Embeddings are made up: 64 numbers, of which every label is a direction; some labels are rare. The
last part is of one label per row: one class against the rest, beside the joint model.
"""

import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss
from sklearn.multiclass import OneVsRestClassifier

import xplinear as xl
from xplinear.datasets import holdout, load

N, P, L = 4000, 64, 100
rng = np.random.default_rng(0)
X = rng.standard_normal((N, P)) * rng.uniform(0.2, 2.0, P)
rarity = rng.uniform(0.0, 6.0, L)
logits = X @ rng.standard_normal((P, L)) / 4.0 - rarity
Y = (logits + rng.logistic(size=(N, L)) > 0).astype(int)
X, X_test, Y, Y_test = X[:2000], X[2000:], Y[:2000], Y[2000:]
shares = Y.mean(axis=0)
print(f"{len(X):,} rows, {L} labels, each of {shares.min():.1%} to {shares.max():.1%} of them")


def precision(clf: xl.LinearClassifier | xl.LinearClassifierCV | OneVsRestClassifier) -> float:
    """Return the mean of the labels' average precision on new rows."""
    return average_precision_score(Y_test, clf.decision_function(X_test), average="macro")


print("All labels in one fit, C = 1:")
ours, theirs = (
    xl.LinearClassifier(),
    OneVsRestClassifier(LogisticRegression(tol=1e-6, max_iter=1000)),
)
for clf in (ours, theirs):
    start = time.perf_counter()
    clf.fit(X, Y)
    seconds, mean = time.perf_counter() - start, precision(clf)
    print(f"  {type(clf).__name__:19} {seconds:6.3f} s, mean average precision {mean:.4f}")
difference = np.max(np.abs(ours.predict_proba(X_test) - theirs.predict_proba(X_test)))
print(f"  probabilities differ by {difference:.1e} at most; {ours.certificate_}")

print("A third of the entries of Y unknown, NaN; each row counts for the labels it is known of:")
known = np.where(rng.random(Y.shape) < 2 / 3, Y, np.nan)
print(f"  mean average precision {precision(xl.LinearClassifier().fit(X, known)):.4f}")

print("The strength, by the average precision in three folds:")
settings = {"Cs": np.logspace(-4, 1, 6), "cv": 3, "scoring": "average_precision"}
search = xl.LinearClassifierCV(**settings).fit(X, Y)
print(f"  for all labels C = {search.C_:g}: mean average precision {precision(search):.4f}")
search = xl.LinearClassifierCV(**settings, alpha_per_label=True).fit(X, Y)
print(f"  for each its own C: mean average precision {precision(search):.4f}")
for C in np.unique(search.C_):
    own = shares[search.C_ == C]
    print(f"    C {C:6g}: {len(own):3} labels, of {own.mean():.1%} of the rows in the mean")

digits = holdout(load("digits"))
print("Digits, one label per row, with each class against the rest and with all classes together:")
for kind in ("one_vs_rest", "joint"):
    clf = xl.LinearClassifier(multi_class=kind).fit(digits.X / 16.0, digits.y)
    loss = log_loss(digits.y_test, clf.predict_proba(digits.X_test / 16.0))
    accuracy = clf.score(digits.X_test / 16.0, digits.y_test)
    print(f"  {kind:11}: test accuracy {accuracy:.4f}, log loss {loss:.4f}")
