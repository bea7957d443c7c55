"""LinearClassifier on one backend; its stopping test is switched off, the budget ends it."""

from __future__ import annotations

import xplinear as xl
from benchmarks.problems import Fit, Problem, Solution


def prepare(problem: Problem, *, backend: str, solver: str) -> Fit:
    chosen = xl.get_backend(backend)

    def fit(budget: int) -> Solution:
        clf = xl.LinearClassifier(
            alpha=problem.alpha,
            solver=solver,
            max_iter=budget,
            tol=0.0,
            random_state=0,
            backend=backend,
        ).fit(problem.X, problem.y)
        return chosen.to_host(clf.coef_), chosen.to_host(clf.intercept_)

    return fit
