"""Where a fit says that it has converged, it has: random problems in wild units.

The reference is another method: damped Newton steps in standardized features, in float64, solved
by least squares.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning

import xplinear as xl
from xplinear.losses import LOSSES

PROMISE = 1e-3  # (F − F*) / (F(0) − F*)


class Case(NamedTuple):
    X: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    s: np.ndarray[Any, Any] | None
    alpha: float
    k: int


def random_case(seed: int) -> Case:
    """Return few rows in units from 1e-6 to 1e6, with offsets, weights of 0 and any strength."""
    rng = np.random.default_rng(seed)
    n, p, k = (int(rng.integers(*ends)) for ends in ((30, 601), (1, 13), (2, 5)))
    X = rng.normal(size=(n, p))
    if rng.random() < 0.3:
        X = X @ rng.normal(size=(p, p))
    W = rng.normal(size=(p, k)) * rng.choice([0.3, 1.0, 5.0])
    y = (X @ W + rng.gumbel(size=(n, k)) * rng.choice([0.1, 1.0])).argmax(axis=1)
    y[:k] = np.arange(k)
    unit = 10.0 ** rng.uniform(-6, 6, p) if rng.random() < 0.6 else np.ones(p)
    X = (X + rng.choice([0.0, 0.0, 1.0, 1e3]) * rng.normal(size=p)) * unit
    s = None
    if rng.random() < 0.5:
        s = rng.uniform(size=n) * (rng.random(n) < rng.choice([0.3, 0.8]))
        s[:k] = 1.0
    alpha = 10.0 ** rng.uniform(-6, -1)
    return Case(X.astype(rng.choice(["float32", "float64"])), y, s, alpha, k)


def minimum(case: Case, loss_name: str) -> tuple[float, float]:
    """Return F(0) and the minimum F*."""
    X, loss = case.X.astype(np.float64), LOSSES[loss_name]()
    s = np.ones(len(X)) if case.s is None else case.s
    s = s / s.sum()
    c = 1 if case.k == 2 and loss.shift_invariant else case.k
    centre = s @ X
    scale = np.sqrt(s @ (X - centre) ** 2)
    scale[scale == 0] = 1.0
    A = np.column_stack([(X - centre) / scale, np.ones(len(X))])
    ridge = np.append(case.alpha / scale**2, 0.0)

    def scores(V: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        Z = A @ V.T
        return np.concatenate([-Z / 2, Z / 2], axis=1) if c == 1 else Z

    def value(V: np.ndarray[Any, Any]) -> float:
        return float(s @ loss.value_and_grad(scores(V), case.y)[0] + 0.5 * np.sum(ridge * V * V))

    V = np.zeros((c, A.shape[1]))
    first = F = value(V)
    damping = 1e-12
    for _ in range(200):
        _, G = loss.value_and_grad(scores(V), case.y)
        M = loss.hessian(scores(V), case.y)
        if c == 1:
            G = 0.5 * (G[:, 1:] - G[:, :1])
            M = 0.25 * (M[:, :1, :1] - 2 * M[:, :1, 1:] + M[:, 1:, 1:])
        g = ((s[:, None] * G).T @ A + ridge * V).ravel()
        H = np.einsum("i,iab,ij,il->ajbl", s, M, A, A, optimize=True).reshape(len(g), len(g))
        H += np.diag(np.tile(ridge, c))
        step, after = np.zeros_like(g), np.inf
        while after > F and damping < 1e8:
            damped = H + damping * np.diag(np.diag(H) + 1e-300)
            step = np.linalg.lstsq(damped, g, rcond=1e-15)[0]
            after = value(V - step.reshape(V.shape))
            damping *= 0.1 if after <= F else 10.0
        if after > F:
            break
        V, F = V - step.reshape(V.shape), after
        if g @ step < 1e-22 * F:
            break
    return first, F


def standardized(case: Case) -> Case:
    """Return the case that ``standardize=True`` makes of one."""
    X = case.X.astype(np.float64)
    centre = np.average(X, axis=0, weights=case.s)
    scale = np.sqrt(np.average((X - centre) ** 2, axis=0, weights=case.s))
    return case._replace(X=(X - centre) / scale)


def fitted(case: Case, **settings: Any) -> tuple[xl.LinearClassifier, bool]:
    """Return the classifier, and whether it warned."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        clf = xl.LinearClassifier(alpha=case.alpha, **settings).fit(case.X, case.y, case.s)
    return clf, bool(told)


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_random_problems_are_solved_and_certified_near_the_truth(loss: str) -> None:
    warned, ratios = 0, []
    for seed in range(50):
        case = random_case(seed)
        first, best = minimum(case, loss)
        clf, told = fitted(case, loss=loss)
        excess = clf.objective_ - best
        warned += told
        assert told or excess <= PROMISE * (first - best), seed
        gap = clf.certificate_.gap[0]
        assert gap >= excess - 1e-12 * first, seed
        if excess > 1e-11 * first:  # else rounding is compared
            ratios.append(gap / excess)
    assert warned <= 10
    assert np.median(ratios) <= 10.0


def test_standardized_features_too() -> None:
    for seed in range(30):
        case = random_case(seed)
        first, best = minimum(standardized(case), "softmax")
        clf, told = fitted(case, standardize=True)
        assert told or clf.objective_ - best <= PROMISE * (first - best), seed


def test_lbfgs_keeps_the_promise_too() -> None:
    """Where the Hessian is too large to make, the same holds, from past steps."""
    for seed in range(40):
        case = random_case(seed)
        first, best = minimum(case, "softmax")
        clf, told = fitted(case, solver="lbfgs")
        assert told or clf.objective_ - best <= PROMISE * (first - best), seed


def test_newton_cg_keeps_the_promise_too() -> None:
    for seed in range(40):
        case = random_case(seed)
        first, best = minimum(case, "softmax")
        clf, told = fitted(case, solver="newton_cg")
        assert told or clf.objective_ - best <= PROMISE * (first - best), seed


@pytest.mark.parametrize("seed", [21, 29])
def test_newton_cg_sees_what_begins_to_bend(seed: int) -> None:
    """A feature that no violated margin has weighs as much as α lets it, until one has it."""
    rng = np.random.default_rng(seed)
    n, p, k = 50, 14, 4
    X = rng.normal(size=(n, p)) * (rng.random((n, p)) < 0.3)
    y = (X @ rng.normal(size=(p, k)) + 0.3 * rng.gumbel(size=(n, k))).argmax(axis=1)
    y[:k] = np.arange(k)
    case = Case(X * 10.0 ** rng.uniform(-8, 8, p), y, None, 10.0 ** rng.uniform(-9, -5), k)
    clf, told = fitted(case, loss="squared_hinge", solver="newton_cg")
    best, reference_told = fitted(case, loss="squared_hinge", solver="newton")
    assert not told
    assert not reference_told
    assert clf.objective_ - best.objective_ <= PROMISE * (k - best.objective_)


class TestUnits:
    """One column in large units hid all others."""

    @pytest.mark.parametrize("solver", ["auto", "lbfgs"])
    @pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
    def test_one_column_in_large_units(self, solver: str, loss: str) -> None:
        x = np.random.default_rng(0).normal(size=(400, 2))
        y = (x.sum(axis=1) > 0).astype(int)
        case = Case(x * [1e5, 1.0], y, None, 1e-4, 2)
        clf, told = fitted(case, loss=loss, solver=solver)
        assert not told
        assert clf.score(case.X, y) >= 0.99
        assert clf.objective_ <= minimum(case, loss)[1] * (1 + 1e-4)

    @pytest.mark.parametrize("solver", ["auto", "lbfgs"])
    def test_a_column_of_unix_times(self, solver: str) -> None:
        X, y = load_iris(return_X_y=True)
        plain = xl.LinearClassifier(solver=solver).fit(X, y)
        X = np.column_stack([X, 1.7e9 + np.random.default_rng(0).random(150) * 1e7])
        assert xl.LinearClassifier(solver=solver).fit(X, y).objective_ <= plain.objective_

    def test_a_lognormal_column(self) -> None:
        rng = np.random.default_rng(0)
        X = np.column_stack([rng.normal(size=(20_000, 10)), rng.lognormal(18, 3, 20_000)])
        y = X[:, :10].sum(axis=1) + 2.0 * rng.logistic(size=20_000) > 0
        plain = xl.LinearClassifier().fit(X[:, :10], y).score(X[:, :10], y)
        for solver in ("auto", "lbfgs"):
            assert xl.LinearClassifier(solver=solver).fit(X, y).score(X, y) >= plain - 0.002

    @pytest.mark.parametrize("rows", [200, 300, 400, 426])
    def test_breast_cancer(self, rows: int) -> None:
        X, y = load_breast_cancer(return_X_y=True)
        case = Case(X[:rows], y[:rows], None, 1e-4, 2)
        clf, told = fitted(case)
        assert not told
        assert clf.objective_ <= minimum(case, "softmax")[1] * (1 + 1e-6)
        assert clf.n_iter_ <= 25


class TestDirections:
    """What many columns share hid how they differ: the metric was damped by its mean."""

    rows = np.random.default_rng(0).normal(size=(300, 60))
    kinds = (rows @ np.random.default_rng(1).normal(size=(60, 6))).argmax(axis=1)

    @pytest.mark.parametrize(
        ("X", "settings"),
        [
            (rows[:, :1] * 1e4 + 0.1 * rows, {"C": 1.0}),
            (rows[:, :1] * 1e2 + 0.1 * rows, {"C": 100.0}),
            (rows + 1e5, {"fit_intercept": False}),
        ],
    )
    def test_one_that_all_columns_share(self, X: Any, settings: dict[str, Any]) -> None:
        best = xl.LinearClassifier(solver="newton", **settings).fit(X, self.kinds)
        clf = xl.LinearClassifier(**settings).fit(X, self.kinds)  # L-BFGS, then Newton
        gained = np.log(6) - best.objective_
        assert clf.objective_ - best.objective_ <= PROMISE * gained
        alone = xl.LinearClassifier(solver="lbfgs", **settings)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            alone.fit(X, self.kinds)
        assert told or alone.objective_ - best.objective_ <= PROMISE * gained

    def test_a_constant_without_a_penalty(self) -> None:
        X, y = self.rows[:60, :4], self.kinds[:60]
        wide = np.column_stack([X, np.full(60, 3.7), np.full(60, 1e9)])
        plain, more = (xl.LinearClassifier(alpha=1e-6).fit(a, y).objective_ for a in (X, wide))
        assert more == pytest.approx(plain, rel=1e-6)
        share = np.bincount(y) / 60
        clf = xl.LinearClassifier(penalty="none").fit(np.full((60, 2), 3.7), y)
        assert clf.objective_ == pytest.approx(-np.sum(share * np.log(share)), rel=1e-6)


class TestStarts:
    @pytest.mark.parametrize("solver", ["lbfgs", "newton"])
    def test_weights_that_have_a_part_in_common(self, solver: str) -> None:
        X, y = load_iris(return_X_y=True)
        best = xl.LinearClassifier(solver=solver, alpha=0.1, tol=1e-8).fit(X, y)
        W, b = best.params_
        clf = xl.LinearClassifier.from_params(
            xl.Params(W + 5.0, b), range(3), solver=solver, alpha=0.1, warm_start=True
        )
        assert clf.fit(X, y).objective_ == pytest.approx(best.objective_, rel=1e-6)

    def test_an_intercept_that_is_no_longer_wanted(self) -> None:
        X, y = load_iris(return_X_y=True)
        clf = xl.LinearClassifier(warm_start=True).fit(X, y)
        clf.set_params(fit_intercept=False).fit(X, y)
        cold = xl.LinearClassifier(fit_intercept=False).fit(X, y)
        assert not clf.intercept_.any()
        assert clf.objective_ == pytest.approx(cold.objective_, rel=1e-6)

    def test_an_unchanged_refit_stops_at_once(self) -> None:
        X, y = load_digits(return_X_y=True)
        clf = xl.LinearClassifier(warm_start=True, alpha=1e-4).fit(X, y)
        cold = xl.LinearClassifier(alpha=2e-4).fit(X, y)
        for _ in range(3):
            assert clf.fit(X, y).n_iter_ <= 3
        assert clf.set_params(alpha=2e-4).fit(X, y).n_iter_ < cold.n_iter_
        assert clf.objective_ <= cold.objective_ * (1 + 1e-3)

    @pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs", "gd"])
    @pytest.mark.parametrize("X", [np.zeros((150, 4)), np.full((150, 4), 3.0)])
    def test_nothing_to_learn(self, solver: str, X: np.ndarray[Any, Any]) -> None:
        y = load_iris().target.copy()
        y[:10] = 1  # classes of different sizes
        clf, told = fitted(Case(X, y, None, 1e-2, 3), solver=solver)
        assert not told
        share = np.bincount(y) / len(y)
        np.testing.assert_allclose(clf.predict_proba(X[:1])[0], share, atol=1e-4)

    def test_features_too_small_to_learn_from(self) -> None:
        X, y = load_iris(return_X_y=True)
        assert not fitted(Case(X * 1e-30, y, None, 1e-2, 3))[1]

    def test_a_path_needs_no_more_iterations_than_cold_fits(self) -> None:
        X, y = make_classification(5000, 100, n_informative=20, n_classes=5, random_state=0)
        alphas = 1 / (np.logspace(2, -3, 8)[::-1] * 4000)
        last: dict[float, int] = {}

        def count(progress: Any) -> None:
            last[progress.alpha] = progress.iteration

        settings = {"solver": "lbfgs", "tol": 1e-8}
        xl.LinearClassifierCV(alphas, cv=[(np.arange(5000), np.arange(100))], **settings).fit(
            X, y, callbacks=[count]
        )
        cold = [xl.LinearClassifier(alpha=a, **settings).fit(X, y).n_iter_ for a in alphas]
        assert sum(last.values()) <= sum(cold)


@pytest.mark.parametrize("loss", ["absolute_error", "crammer_singer", "multiclass_hinge"])
@pytest.mark.parametrize("scale", [0.01, 0.1])
def test_kinked_losses_where_little_is_to_be_gained(loss: str, scale: float) -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(32, 5))
    y = (X @ rng.normal(size=(5, 4))).argmax(axis=1)
    y[:4] = range(4)
    clf = xl.LinearClassifier(loss, fit_intercept=False).fit(X * scale, y)
    zero = {"absolute_error": 1.0, "crammer_singer": 1.0, "multiclass_hinge": 3.0}[loss]
    gained = zero - clf.objective_
    assert clf.certificate_.gap[0] <= max(PROMISE * gained, 1e-7)


def test_separable_classes_without_a_penalty_are_told() -> None:
    X = np.random.default_rng(0).normal(size=(100, 2))
    with pytest.warns(ConvergenceWarning, match="separates the classes"):
        xl.LinearClassifier(penalty="none").fit(X, X.sum(axis=1) > 0)


def test_worse_than_no_weights_at_all_is_told() -> None:
    X, y = load_digits(return_X_y=True)
    sgd = xl.solvers.SGD(learning_rate=1e-4, max_iter=1)
    with pytest.warns(ConvergenceWarning, match="zero weights"):
        xl.LinearClassifier("absolute_error", solver=sgd, alpha=1e-4).fit(X, y)
