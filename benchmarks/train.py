"""LinearClassifier with its defaults on real data: seconds of ``fit`` and test accuracy.

Fashion-MNIST with its own test set, as stored (uint8); digits with a stratified random quarter
held out. Beside it scikit-learn on the same rows scaled to [0, 1], which its solvers need.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import typer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier

import xplinear as xl
from benchmarks.report import report
from xplinear.datasets import Dataset, holdout, load

LOSSES = ("softmax", "multiclass_hinge", "crammer_singer", "squared_hinge")
ALPHA = 1e-4


def contenders(*, sklearn: bool) -> Iterator[tuple[str, Any, bool]]:
    """Yield names, estimators and whether they are given rows in [0, 1]."""
    for loss in LOSSES:
        yield f"xplinear {loss}", xl.LinearClassifier(loss, alpha=ALPHA, random_state=0), False
    if sklearn:
        logistic = LogisticRegression(max_iter=100)
        yield "scikit-learn LogisticRegression, 100 iterations", logistic, True
        hinge = SGDClassifier(loss="hinge", max_iter=5, tol=None, random_state=0)
        yield "scikit-learn SGDClassifier hinge, 5 epochs", hinge, True


def measure(data: Dataset, estimator: Any, *, scaled: bool) -> dict[str, Any]:
    X, X_test = data.X, data.X_test
    if scaled:
        largest = np.float32(np.max(X))
        X, X_test = (np.asarray(a / largest, dtype=np.float32) for a in (X, X_test))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are as given
        estimator.fit(X, data.y)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "test_accuracy": round(estimator.score(X_test, data.y_test), 4),
        "train_accuracy": round(estimator.score(X, data.y), 4),
        "iterations": int(np.max(estimator.n_iter_)),
    }


def main(*, sklearn: bool = True, quick: bool = False) -> None:
    """Measure; --no-sklearn leaves scikit-learn out, --quick takes digits only."""
    rows = []
    for source in ("digits",) if quick else ("fashion-mnist", "digits"):
        try:
            data = holdout(load(source))
        except OSError as error:
            print(f"{source} left out: {error}")
            continue
        for name, estimator, scaled in contenders(sklearn=sklearn):
            rows.append(
                {"data": source, "classifier": name} | measure(data, estimator, scaled=scaled)
            )
    report("train", rows, quick=quick)


if __name__ == "__main__":
    typer.run(main)
