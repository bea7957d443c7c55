"""scikit-learn's LogisticRegression, by solver."""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression

from benchmarks.problems import Fit, Problem, Solution

TOL = 1e-12  # the budget ends the fit


def prepare(problem: Problem, *, solver: str) -> Fit:
    C = 1 / (problem.alpha * len(problem.y))

    def fit(budget: int) -> Solution:
        clf = LogisticRegression(C=C, solver=solver, max_iter=budget, tol=TOL, random_state=0)
        clf.fit(problem.X, problem.y)
        return clf.coef_, clf.intercept_

    return fit
