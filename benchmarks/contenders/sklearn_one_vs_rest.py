"""scikit-learn's one-vs-rest classifiers: another objective, only their accuracy compares."""

from __future__ import annotations

from sklearn.linear_model import SGDClassifier
from sklearn.svm import LinearSVC

from benchmarks.problems import Fit, Problem, Solution


def prepare_sgd(problem: Problem) -> Fit:
    def fit(budget: int) -> Solution:
        clf = SGDClassifier(
            loss="log_loss", alpha=problem.alpha, max_iter=budget, tol=None, random_state=0
        ).fit(problem.X, problem.y)
        return clf.coef_, clf.intercept_

    return fit


def prepare_svc(problem: Problem) -> Fit:
    C = 1 / (problem.alpha * len(problem.y))

    def fit(budget: int) -> Solution:
        clf = LinearSVC(C=C, max_iter=budget, random_state=0).fit(problem.X, problem.y)
        return clf.coef_, clf.intercept_

    return fit
