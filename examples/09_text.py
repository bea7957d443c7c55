"""Text: a TF-IDF matrix as it is, beside scikit-learn, the strength, and the words that count.

Without an argument the texts are made up: words of five topics among those of a long tail.
``python examples/09_text.py FOLDER`` takes real ones: a folder per class, a file per text.
"""

import sys
import time

import numpy as np
from sklearn.datasets import load_files
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import xplinear as xl

TOPICS = {
    "cooking": "oven butter salt onion garlic flour simmer recipe taste pan",
    "law": "court judge appeal statute clause verdict plaintiff contract ruling trial",
    "music": "melody chord rhythm violin concert tempo orchestra choir album song",
    "sailing": "mast rudder harbour knot tide sail anchor deck wind compass",
    "space": "orbit rocket comet launch telescope galaxy probe lunar crater planet",
}


def made_up(rows: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Return texts of 60 words, of which a few are of the text's topic, and the topics."""
    tail = np.asarray([f"word{i}" for i in range(20_000)])
    often = 1.0 / (10.0 + np.arange(tail.size))
    labels = rng.choice(list(TOPICS), rows)
    texts: list[str] = []
    for label in labels:
        of = [label if rng.random() < 0.5 else other for other in rng.choice(list(TOPICS), 6)]
        told = [rng.choice(TOPICS[one].split()) for one in of]
        texts.append(" ".join([*told, *rng.choice(tail, 54, p=often / often.sum())]))
    return texts, labels


if len(sys.argv) > 1:
    files = load_files(sys.argv[1], encoding="utf-8", decode_error="replace")
    texts, labels = files.data, np.asarray(files.target_names)[files.target]
else:
    texts, labels = made_up(4000, np.random.default_rng(0))
split = train_test_split(texts, labels, random_state=0, stratify=labels)
vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
X, X_test = vectorizer.fit_transform(split[0]), vectorizer.transform(split[1])
y, y_test = split[2:]
(n, p), stored = X.shape, X.nnz
print(
    f"{n:,} texts, {p:,} words, {stored / n:.0f} a text: {12e-6 * stored:.1f} MB, "
    f"and {8e-6 * n * p:,.0f} MB if the zeros were written out"
)

print("One model, C = 10:")
for clf in (xl.LinearClassifier(C=10.0), LogisticRegression(C=10.0, max_iter=1000)):
    start = time.perf_counter()
    clf.fit(X, y)
    seconds, accuracy = time.perf_counter() - start, clf.score(X_test, y_test)
    print(f"  {type(clf).__name__:18}  {seconds:6.3f} s, test accuracy {accuracy:.4f}")

print("Seven strengths and five folds, and all rows at each strength: 42 models through one X.")
search = xl.LinearClassifierCV(Cs=np.logspace(-2, 4, 7), cv=5).fit(X, y)
for C, scores in zip(search.Cs_, search.cv_scores_, strict=True):
    mark = "  <- chosen" if C == search.C_ else ""
    print(f"  C {C:6g}: accuracy {scores.mean():.4f}{mark}")
print(f"test accuracy {search.score(X_test, y_test):.4f}, {search.best_estimator_.certificate_}")

print("Which words count, by L1:")
few = xl.LinearClassifier(penalty="l1", C=3.0).fit(X, y)
words = vectorizer.get_feature_names_out()
print(f"  {np.any(few.coef_ != 0.0, axis=0).sum():,} of {p:,} have a weight")
for name, weights in zip(few.classes_[-few.coef_.shape[0] :], few.coef_, strict=True):
    print(f"  {name}: {', '.join(words[np.argsort(-weights)[:6]])}")
