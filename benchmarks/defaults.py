"""``LinearClassifier()`` beside ``LogisticRegression(max_iter=5000)``: time and held-out log loss.

Both with their defaults, C = 1, on the same rows: 30 % of each data set is held out (Fashion-MNIST
has its own test set, and its pixels are scaled to [0, 1]). Contenders alternate; the time is the
median of the fits. ``optimum`` is the log loss of scikit-learn's model at ``tol=1e-8``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import typer
from sklearn.datasets import (
    load_breast_cancer,
    load_digits,
    load_iris,
    load_wine,
    make_classification,
)
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

import xplinear as xl
from benchmarks.report import report
from xplinear.datasets import load

Array = np.ndarray[Any, np.dtype[Any]]


class Split(NamedTuple):
    X: Array
    X_test: Array
    y: Array
    y_test: Array


def problems(*, quick: bool) -> Iterator[tuple[str, Split]]:
    sets = {
        "iris": load_iris(return_X_y=True),
        "wine": load_wine(return_X_y=True),
        "breast_cancer": load_breast_cancer(return_X_y=True),
        "digits": load_digits(return_X_y=True),
        "1000 x 500": make_classification(1000, 500, n_informative=20, flip_y=0.1, random_state=0),
    }
    for name, (X, y) in sets.items():
        yield name, Split(*train_test_split(X, y, test_size=0.3, random_state=0))
    if not quick:
        data = load("fashion-mnist")
        X, X_test = (
            np.asarray(a, dtype=np.float32) / np.float32(255) for a in (data.X, data.X_test)
        )
        yield "fashion-mnist", Split(X, X_test, data.y, data.y_test)


def seconds(estimator: Any, split: Split) -> float:
    start = time.perf_counter()
    estimator.fit(split.X, split.y)
    return time.perf_counter() - start


def measure(name: str, split: Split, rounds: int) -> dict[str, Any]:
    ours, theirs = xl.LinearClassifier(random_state=0), LogisticRegression(max_iter=5000)
    ours.fit(split.X, split.y)  # what is imported and compiled once
    times = [(seconds(ours, split), seconds(theirs, split)) for _ in range(rounds)]
    spent = np.median(np.asarray(times), axis=0)
    losses = [log_loss(split.y_test, fit.predict_proba(split.X_test)) for fit in (ours, theirs)]
    optimum = np.nan
    if len(split.y) < 10_000:
        exact = LogisticRegression(max_iter=100_000, tol=1e-8).fit(split.X, split.y)
        optimum = log_loss(split.y_test, exact.predict_proba(split.X_test))
    return {
        "data": name,
        "xplinear_seconds": spent[0],
        "sklearn_seconds": spent[1],
        "xplinear_log_loss": losses[0],
        "sklearn_log_loss": losses[1],
        "optimum_log_loss": optimum,
        "iterations": ours.n_iter_,
        "sklearn_iterations": int(np.max(theirs.n_iter_)),
        "certificate": str(getattr(ours, "certificate_", "")),
    }


def main(*, quick: bool = False) -> None:
    """Measure; --quick leaves Fashion-MNIST out."""
    warnings.simplefilter("ignore")  # scikit-learn may not converge in 5,000 iterations
    rows = [
        measure(name, split, 1 if name == "fashion-mnist" else 9)
        for name, split in problems(quick=quick)
    ]
    report("defaults", rows, quick=quick)


if __name__ == "__main__":
    typer.run(main)
