"""A warning points at the line that called the package, however deep in it it comes from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import xplinear as xl

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 4)), np.tile([0, 1, 2], 20)
ALPHAS = [1.0, 0.1, 0.01]
RISING = np.where(np.arange(60) % 3 == 0, 3.0, -1.0)[:, None] * np.ones(4) + 0.1 * X


def fit(rows: Any = X, labels: Any = Y, **settings: Any) -> None:
    xl.LinearClassifier(**settings).fit(rows, labels)


def partial_fit() -> None:
    xl.LinearClassifier().partial_fit(X, Y[:, None], classes=[0, 1, 2])


def search(rows: Any = X, labels: Any = Y, **settings: Any) -> None:
    xl.LinearClassifierCV(ALPHAS, cv=2, **settings).fit(rows, labels)


CAUSES: dict[str, tuple[Callable[[], None], str]] = {
    "labels in a column": (lambda: fit(labels=Y[:, None]), "column-vector"),
    "labels in a column, in turn": (partial_fit, "column-vector"),
    "features out of range": (lambda: fit(X * [1e200, 1, 1, 1]), "power of 2"),
    "too few iterations": (lambda: fit(max_iter=1), "max_iter"),
    "rounding": (lambda: fit(tol=0.0, dtype="float32", solver="lbfgs"), "floor"),
    "no optimum": (lambda: fit(10.0 * RISING, Y == 0, alpha=0.0), "separates"),
    "nothing learnt": (
        lambda: fit(10.0 * X, solver="sgd", learning_rate=1e3, max_iter=1, alpha=0.0),
        "nothing was learnt",
    ),
    "models that stopped": (lambda: search(max_iter=1), "models stopped"),
    "labels in a column, searched": (lambda: search(labels=Y[:, None]), "column-vector"),
    "an end of the grid": (lambda: search(RISING, Y == 0, scoring="log_loss"), "beyond"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_it_points_at_the_caller(cause: str) -> None:
    provoke, words = CAUSES[cause]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        provoke()
    ours = [one for one in caught if words in str(one.message)]
    assert ours, [str(one.message) for one in caught]
    assert {Path(one.filename).name for one in caught} == {Path(__file__).name}


def test_only_one_place_warns() -> None:
    package = Path(xl.__file__).parent
    users = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "stacklevel" in path.read_text(encoding="utf-8")
    ]
    own = ("arguments.py", "cli/", "datasets/")  # tables are read in one step
    assert [name for name in users if not name.startswith(own)] == []


def test_the_tolerance_is_that_of_the_solver() -> None:
    with pytest.warns(ConvergenceWarning, match="before tol=1e-09 was reached"):
        fit(solver=xl.solvers.LBFGS(tol=1e-9, max_iter=1))
