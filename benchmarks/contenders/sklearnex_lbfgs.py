"""LogisticRegression of the Extension for scikit-learn (oneDAL): lbfgs."""

from __future__ import annotations

from benchmarks.problems import Fit, Problem, Solution

TOL = 1e-12  # the budget ends the fit


def prepare(problem: Problem) -> Fit:
    from sklearnex.linear_model import LogisticRegression

    C = 1 / (problem.alpha * len(problem.y))

    def fit(budget: int) -> Solution:
        clf = LogisticRegression(C=C, max_iter=budget, tol=TOL).fit(problem.X, problem.y)
        return clf.coef_, clf.intercept_

    return fit
