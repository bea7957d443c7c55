"""A whole grid of strengths, without and with folds, beside scikit-learn fit by fit.

Softmax with L2 on Fashion-MNIST scaled to [0, 1] in float32 (digits with --quick), 45 values of
C = 1 / (alpha n) from 1e-6 to 1e5. scikit-learn's LogisticRegression (lbfgs, 200 iterations) is
timed at every ``STRIDE``-th of them and the sum multiplied; its grid search over 5 folds is that
times 5 · 0.8, the rows of a fold, plus one fit to all rows. xplinear makes all of them. The
objectives of the same values of C are compared, in float64, on all rows.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import typer
from sklearn.linear_model import LogisticRegression

import xplinear as xl
from benchmarks.problems import PROBLEMS, Host, Problem, objective
from benchmarks.report import report
from xplinear.data import ArrayData
from xplinear.formats.fitted import linear_coefficients
from xplinear.minimize import Progress
from xplinear.model_selection.folds import Folds
from xplinear.model_selection.sweep import Grid, Stack, stacks

CS = np.logspace(-6, 5, 45)
STRIDE, FOLDS, MAX_ITER = 5, 5, 200
TOLS = (3e-4,)


def scikit_learn(problem: Problem, C: float) -> tuple[float, float]:
    """Return seconds and objective of one fit."""
    clf = LogisticRegression(C=C, max_iter=MAX_ITER, tol=1e-4)
    start = time.perf_counter()
    clf.fit(problem.X, problem.y)
    seconds = time.perf_counter() - start
    return seconds, value(problem, C, clf.coef_, clf.intercept_)


def value(problem: Problem, C: float, coef: Host, intercept: Host) -> float:
    """Return the objective in float64."""
    return objective(problem._replace(alpha=1 / (C * len(problem.y))), coef, intercept)


def path(problem: Problem, tol: float) -> tuple[float, list[tuple[Host, Host]]]:
    """Return seconds and the solutions of all strengths, from strong to weak, on all rows."""
    backend, n = xl.get_backend("numpy"), len(problem.y)
    start = time.perf_counter()
    data = ArrayData(problem.X, problem.y.astype(np.int32), backend=backend)
    loss, alpha = backend.accelerated(xl.losses.SoftmaxLoss()), np.ones(1, np.float32)
    F = xl.Objective(loss, xl.penalties.L2Penalty(), alpha, data, problem.k)
    fits = [
        linear_coefficients(stack.params([i]))
        for stack in on_all_rows(F, 1 / (CS * n), tol)
        for i in range(len(stack.at))
    ]
    return time.perf_counter() - start, [(coef[0], intercept[0]) for coef, intercept in fits]


def on_all_rows(
    F: xl.Objective,
    alphas: Host,
    tol: float,
    callback: Callable[[range, Progress], bool] | None = None,
) -> Iterator[Stack]:
    """Solve all strengths, from strong to weak, without folds."""
    asarray, n = F.data.backend.asarray, F.data.n
    all_rows, nothing = asarray(np.ones((n, 1), np.float32)), asarray(np.zeros((n, 0), np.float32))
    grid = Grid(alphas, [None], Folds(all_rows, nothing, [], np.zeros((0, F.k), bool)))
    return stacks(F, xl.solvers.LBFGS(tol=tol), grid, callback)


def search(problem: Problem, tol: float) -> tuple[float, xl.LinearClassifierCV]:
    """Return seconds and the sweep over all folds, the fits to all rows included."""
    clf = xl.LinearClassifierCV(1 / (CS * len(problem.y)), cv=FOLDS, tol=tol, random_state=0)
    start = time.perf_counter()
    clf.fit(problem.X, problem.y)
    return time.perf_counter() - start, clf


def compared(
    problem: Problem, fits: list[tuple[Host, Host]], theirs: list[tuple[float, float]]
) -> dict[str, Any]:
    """Return the worst of our objectives over scikit-learn's; strong alpha is small C."""
    ours = [value(problem, C, *fit) for C, fit in zip(CS, fits, strict=True)][::STRIDE]
    excess = [a / b - 1 for a, (_, b) in zip(ours, theirs, strict=True)]
    return {"worst_excess": max(excess)}


def main(*, quick: bool = False) -> None:
    """Measure; --quick takes digits."""
    warnings.simplefilter("ignore")  # both are stopped before the weakest strengths converge
    problem = PROBLEMS["digits" if quick else "fashion-mnist"]()
    theirs = [scikit_learn(problem, C) for C in CS[::STRIDE]]
    single = sum(seconds for seconds, _ in theirs) * len(CS) / len(theirs)
    searched = single * FOLDS * (1 - 1 / FOLDS) + max(seconds for seconds, _ in theirs)
    rows: list[dict[str, Any]] = []
    for tol in TOLS:
        seconds, fits = path(problem, tol)
        row = {"fits": len(CS), "tol": tol, "seconds": seconds, "scikit_learn_seconds": single}
        rows.append(row | compared(problem, fits, theirs) | {"best_C": math.nan})
        seconds, clf = search(problem, tol)
        fits = list(zip(clf.coefs_paths_, clf.intercepts_paths_, strict=True))
        row = {"fits": (FOLDS + 1) * len(CS), "tol": tol, "seconds": seconds}
        row |= {"scikit_learn_seconds": searched} | compared(problem, fits, theirs)
        rows.append(row | {"best_C": 1 / (clf.alpha_ * len(problem.y))})
    for row in rows:
        row["times_faster"] = row["scikit_learn_seconds"] / row["seconds"]
    report("sweep", rows, quick=quick, cs=list(CS[::STRIDE]), scikit_learn=theirs)


if __name__ == "__main__":
    typer.run(main)
