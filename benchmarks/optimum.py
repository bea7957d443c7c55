"""How near the optimum, and how fast: L1, multiclass hinges, and scikit-learn's own optimum.

Fashion-MNIST scaled to [0, 1] and digits, float32 unless said otherwise. ``objective`` is judged
in float64, ``gap`` is the certificate's: the proven distance from the optimum, relative.

- newton-cg: softmax with L2, digits and the power law in float64; how far scikit-learn
  (``tol=1e-12``) and xplinear (``tol=1e-10``) are from each other in objective and weights.
- L1: softmax, alpha = 1e-3; scikit-learn's saga (``tol=1e-5``) stops after ``SAGA_EPOCHS``.
  Zeros are compared where one weight exceeds 1e-4 of the largest.
- hinges: Weston-Watkins on Fashion-MNIST, alpha = 1e-4, until the gap is 1e-3; Crammer-Singer
  on digits beside LinearSVC, C = 1 and 0.01, no intercept.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import xplinear as xl
from benchmarks.problems import PROBLEMS, Host, Problem, objective
from benchmarks.report import report

SAGA_EPOCHS = 150
Row = dict[str, Any]


def timed(estimator: Any, problem: Problem) -> float:
    """Return the seconds of a fit."""
    start = time.perf_counter()
    estimator.fit(problem.X, problem.y)
    return time.perf_counter() - start


def row(case: str, contender: str, clf: Any, seconds: float, F: float, **more: float) -> Row:
    certificate = getattr(clf, "certificate_", None)
    gap = math.nan if certificate is None else float(certificate.relative_gap[0])
    return {
        "case": case,
        "contender": contender,
        "iterations": int(np.max(clf.n_iter_)),
        "seconds": seconds,
        "objective": F,
        "gap": gap,
        "difference": more.get("difference", math.nan),
        "zeros": more.get("zeros", math.nan),
        "other_zeros": more.get("other_zeros", math.nan),
    }


def newton(name: str) -> Iterator[Row]:
    problem = PROBLEMS[name]()
    problem = problem._replace(X=problem.X.astype(np.float64))
    C = 1 / (problem.alpha * len(problem.y))
    peer = LogisticRegression(C=C, solver="newton-cg", tol=1e-12, max_iter=1000)
    clf = xl.LinearClassifier(alpha=problem.alpha, solver="lbfgs", tol=1e-10, max_iter=5000)
    case = f"optimum in float64, {name}"
    for contender, fit in (("scikit-learn newton-cg", peer), ("xplinear lbfgs", clf)):
        seconds = timed(fit, problem)
        difference = float(np.abs(fit.coef_ - peer.coef_).max())
        F = objective(problem, fit.coef_, fit.intercept_)
        yield row(case, contender, fit, seconds, F, difference=difference)


def l1(name: str, epochs: int, alpha: float = 1e-3) -> Iterator[Row]:
    problem = PROBLEMS[name]()
    C = 1 / (alpha * len(problem.y))
    smooth = problem._replace(alpha=0.0)

    def value(clf: Any) -> float:
        penalty = alpha * float(np.abs(clf.coef_.astype(np.float64)).sum())
        return objective(smooth, clf.coef_, clf.intercept_) + penalty

    ours = {"penalty": "l1", "alpha": alpha, "solver": "proximal_lbfgs"}
    clf = xl.LinearClassifier(**ours, tol=1e-5)
    best = xl.LinearClassifier(**ours, tol=1e-7, dtype="float64")
    peer = LogisticRegression(
        C=C, l1_ratio=1.0, solver="saga", tol=1e-5, max_iter=epochs, random_state=0
    )
    best.fit(problem.X, problem.y)
    minimum = value(best)
    for contender, fit in (("xplinear", clf), ("scikit-learn saga", peer)):
        seconds, F = timed(fit, problem), value(fit)
        large = np.maximum(np.abs(fit.coef_), np.abs(best.coef_)) > 1e-4 * np.abs(best.coef_).max()
        yield row(
            f"L1, {name}",
            contender,
            fit,
            seconds,
            F,
            difference=F / minimum - 1,
            zeros=float(np.mean(fit.coef_ == 0)),
            other_zeros=int(np.sum(large & ((fit.coef_ == 0) != (best.coef_ == 0)))),
        )


def hinge(name: str) -> Iterator[Row]:
    problem = PROBLEMS[name]()
    clf = xl.LinearClassifier("multiclass_hinge", alpha=1e-4, solver="smoothing", tol=1e-3)
    seconds = timed(clf, problem)
    yield row(f"multiclass_hinge, {name}", "xplinear smoothing", clf, seconds, clf.objective_)


def crammer_singer(problem: Problem, coef: Host, alpha: float) -> float:
    Z = problem.X @ coef.T
    true = np.arange(Z.shape[1]) == problem.y[:, None]
    rival = np.max(np.where(true, -np.inf, Z), axis=1)
    loss = np.maximum(0, 1 + rival - Z[true])
    return float(np.mean(loss) + 0.5 * alpha * np.sum(coef * coef))


def linear_svc(C: float) -> Iterator[Row]:
    problem = PROBLEMS["digits"]()
    problem = problem._replace(X=problem.X.astype(np.float64))
    alpha = 1 / (C * len(problem.y))
    peer = LinearSVC(
        C=C, multi_class="crammer_singer", fit_intercept=False, tol=1e-8, max_iter=100_000
    )
    clf = xl.LinearClassifier(
        "crammer_singer", alpha=alpha, fit_intercept=False, solver="interior_point"
    )
    fits = [("scikit-learn LinearSVC", peer), ("xplinear interior_point", clf)]
    seconds = [timed(fit, problem) for _, fit in fits]
    values = [crammer_singer(problem, fit.coef_, alpha) for _, fit in fits]
    for (contender, fit), spent, F in zip(fits, seconds, values, strict=True):
        case = f"crammer_singer, digits, C = {C:g}"
        yield row(case, contender, fit, spent, F, difference=F / values[0] - 1)


def main(*, quick: bool = False, saga_epochs: int = SAGA_EPOCHS) -> None:
    """Measure; --quick takes digits alone."""
    warnings.simplefilter("ignore")  # saga is stopped early
    name = "digits" if quick else "fashion-mnist"
    rows = [*newton("digits"), *([] if quick else newton("power-law"))]
    rows += [*l1(name, saga_epochs), *hinge(name), *linear_svc(1.0), *linear_svc(0.01)]
    report("optimum", rows, quick=quick)


if __name__ == "__main__":
    typer.run(main)
