"""How close SGD alone comes to the optimum: softmax, L2 with alpha = 1e-3, float32, batch 64.

Relative suboptimality is (F − F*) / F*, F in float64, F* by L-BFGS in float64. Beside the
defaults of 5, 10 and 20 epochs, what was tried: other schedules, averaging, larger batches,
no momentum. Rows are scaled to [0, 1]; digits has a stratified random quarter held out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import typer

import xplinear as xl
from benchmarks.report import report
from xplinear.datasets import holdout, load
from xplinear.solvers import LBFGS, SGD

ALPHA = 1e-3
EPOCHS = (5, 10, 20)
VARIANTS: dict[str, dict[str, Any]] = {
    "linear": {"schedule": "linear"},
    "cosine": {"schedule": "cosine"},
    "average of the second half": {"average": True},
    "linear, average": {"schedule": "linear", "average": True},
    "batch 256": {"batch_size": 256},
    "no momentum": {"momentum": 0.0},
}


def fitted(
    solver: SGD | LBFGS, X: np.ndarray, y: np.ndarray, dtype: str
) -> tuple[xl.LinearClassifier, float]:
    """Return the fitted classifier and the seconds it took."""
    clf = xl.LinearClassifier(solver=solver, alpha=ALPHA, dtype=dtype)
    start = time.perf_counter()
    clf.fit(X, y)
    return clf, time.perf_counter() - start


def objective(clf: xl.LinearClassifier, X: np.ndarray, y: np.ndarray) -> float:
    """Return F in float64."""
    Z = clf.decision_function(X).astype(np.float64)
    loss, _ = xl.losses.SoftmaxLoss().value_and_grad(Z, y)
    W = clf.coef_.astype(np.float64)
    return float(np.mean(loss)) + 0.5 * ALPHA * float(np.sum(W * W))


def measure(source: str) -> Iterator[dict[str, Any]]:
    """Yield one row per variant and number of epochs."""
    data = holdout(load(source))
    largest = np.float32(np.max(data.X))
    X, X_test = (np.asarray(a / largest, dtype=np.float32) for a in (data.X, data.X_test))
    y, y_test = (a.astype(np.int32) for a in (data.y, data.y_test))
    best, _ = fitted(LBFGS(tol=1e-6), X, y, "float64")
    least = best.objective_
    runs: list[tuple[str, dict[str, Any]]] = [
        (f"{epochs} epochs", {"max_iter": epochs}) for epochs in EPOCHS
    ]
    runs += [(name, {"max_iter": EPOCHS[-1], **settings}) for name, settings in VARIANTS.items()]
    for name, settings in runs:
        clf, seconds = fitted(SGD(**settings), X, y, "float32")
        yield {
            "data": source,
            "variant": name,
            "epochs": clf.n_iter_,
            "suboptimality": float(f"{(objective(clf, X, y) - least) / least:.3g}"),
            "test_accuracy": round(clf.score(X_test, y_test), 4),
            "optimum_test_accuracy": round(best.score(X_test, y_test), 4),
            "seconds": round(seconds, 2),
        }


def main(*, quick: bool = False) -> None:
    """Measure; --quick takes digits only."""
    sources = ("digits",) if quick else ("fashion-mnist", "digits")
    rows = [row for source in sources for row in measure(source)]
    report("sgd_finish", rows, quick=quick, alpha=ALPHA, batch_size=64, dtype="float32")


if __name__ == "__main__":
    typer.run(main)
