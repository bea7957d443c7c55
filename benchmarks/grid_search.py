"""The same grid search with scikit-learn's LogisticRegression, and with what replaces it here.

Fashion-MNIST, `GridSearchCV` over a Pipeline with scikit-learn's classifier as it is, then with one
line changed to `LinearClassifier.from_sklearn_settings`; last the same strengths in one
`LinearClassifierCV`. Seconds of the whole search with its refit, and test accuracy.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler

import xplinear as xl
from benchmarks.report import report
from xplinear.datasets import load

STRENGTHS = (0.01, 0.1, 1.0)  # C
FOLDS = 3


def main(*, quick: bool = False, notes: str = "") -> None:
    """Measure; --quick takes a tenth of the rows, --notes TEXT is written down."""
    warnings.simplefilter("ignore")  # scikit-learn's 100 iterations do not converge
    data = load("fashion-mnist")
    step = 10 if quick else 1
    X, y = np.asarray(data.X[::step], np.float32), data.y[::step]
    n = len(y) * (FOLDS - 1) / FOLDS
    alphas = [1.0 / (C * n) for C in STRENGTHS]
    folds = StratifiedKFold(FOLDS)

    def replaced(**settings: Any) -> GridSearchCV:
        model = LogisticRegression()
        ours: Any = xl.LinearClassifier.from_sklearn_settings(model, n, random_state=0, **settings)
        pipeline = make_pipeline(MinMaxScaler(), ours)
        return GridSearchCV(pipeline, {"linearclassifier__alpha": alphas}, cv=folds)

    def at_once(**settings: Any) -> Pipeline:
        search: Any = xl.LinearClassifierCV(alphas, cv=folds, random_state=0, **settings)
        return make_pipeline(MinMaxScaler(), search)

    contenders: dict[str, Any] = {
        "GridSearchCV, scikit-learn LogisticRegression": GridSearchCV(
            make_pipeline(MinMaxScaler(), LogisticRegression()),
            {"logisticregression__C": STRENGTHS},
            cv=folds,
        ),
        "GridSearchCV, xplinear LinearClassifier": replaced(),
        "GridSearchCV, xplinear, batch 128, 5 epochs": replaced(batch_size=128, max_iter=5),
        "xplinear LinearClassifierCV, SGD": at_once(solver="sgd"),
        "xplinear LinearClassifierCV, SGD, batch 256": at_once(solver="sgd", batch_size=256),
        "xplinear LinearClassifierCV, to the optimum": at_once(),
    }
    rows: list[dict[str, Any]] = []
    for name, search in contenders.items():
        start = time.perf_counter()
        search.fit(X, y)
        seconds = time.perf_counter() - start
        accuracy = float(search.score(data.X_test, data.y_test))
        rows.append({"search": name, "seconds": round(seconds, 2), "test_accuracy": accuracy})
        print(rows[-1], flush=True)
    settings = {"C": STRENGTHS, "folds": FOLDS, "shape": X.shape}
    report("grid_search", rows, quick=quick, notes=notes, **settings)


if __name__ == "__main__":
    typer.run(main)
