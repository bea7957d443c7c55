"""Solvers that go to the optimum, the proof that they did, and a whole grid of strengths.

A fit is judged by how far its objective can still be from the minimum. Duality bounds that from
below for the price of two more passes; `certificate_` tells it.
"""

import numpy as np

import xplinear as xl
from xplinear.datasets import holdout, load

digits = holdout(load("digits"))
X, y = digits.X / 16.0, digits.y

print("How near the optimum, by tol (softmax with L2, alpha = 0.01):")
for tol in (1e-2, 1e-4, 1e-6):
    clf = xl.LinearClassifier(solver="lbfgs", alpha=0.01, tol=tol, dtype="float64").fit(X, y)
    print(f"  tol {tol:g}: {clf.n_iter_} passes, {clf.certificate_}")

print("L1 gives exact zeros, the multiclass hinge a proven gap:")
for loss, penalty in (("softmax", "l1"), ("multiclass_hinge", "l2")):
    clf = xl.LinearClassifier(loss, penalty=penalty, alpha=0.03, dtype="float64", tol=1e-3)
    clf.fit(X, y)
    zeros = np.mean(np.asarray(clf.coef_) == 0.0)
    print(f"  {loss}, {penalty}: {zeros:.0%} zeros, {clf.certificate_}")

print("Twelve strengths, five folds and the fits to all rows: 72 models through one X.")
search = xl.LinearClassifierCV(12, cv=5, one_standard_error=True).fit(X, y)
for alpha, scores in zip(search.alphas_, search.cv_scores_, strict=True):
    error = scores.std(ddof=1) / len(scores) ** 0.5
    mark = "  <- the strongest within one standard error" if alpha == search.alpha_ else ""
    print(f"  alpha {alpha:9.2e}: accuracy {scores.mean():.4f} ± {error:.4f}{mark}")
print(f"held-out accuracy {search.score(digits.X_test / 16.0, digits.y_test):.4f}")
