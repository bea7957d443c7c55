"""The lower bound: never above the optimum, and as near to it as the gradient is to zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xplinear.backends.base import AcceleratedLoss
from xplinear.duality import value_and_lower_bound
from xplinear.losses import LOSSES, MulticlassHingeLoss, SoftmaxLoss
from xplinear.losses.multiclass_hinge import violations
from xplinear.minimize import minimize
from xplinear.objective import Params
from xplinear.penalties import ElasticNetPenalty, L1Penalty, L2Penalty, NoPenalty
from xplinear.solvers import GD, LBFGS

SMOOTH = [name for name in LOSSES if LOSSES[name]().smooth]
PENALTIES = [L2Penalty(), L1Penalty(), ElasticNetPenalty(0.4), ElasticNetPenalty(1.0)]


def domain_points(name: str, n: int, k: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return points A (n, k) of the conjugate's domain, its border included, and labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, k, n)
    if name == "squared_error":
        return rng.standard_normal((n, k)), y
    if name == "absolute_error":
        return np.clip(rng.standard_normal((n, k)), -1, 1), y
    A = rng.uniform(0, 1, (n, k)) * rng.integers(0, 2, (n, k))
    if name in {"softmax", "crammer_singer"}:
        A /= np.maximum(A.sum(axis=1, keepdims=True), rng.integers(0, 2, (n, 1)) + 1e-300)
    if name == "squared_hinge":
        A *= 5
    A[np.arange(n), y] = 0
    A[np.arange(n), y] = -A.sum(axis=1)
    return A, y


@pytest.mark.parametrize("name", LOSSES)
class TestConjugateOfLoss:
    def test_inequality_of_fenchel(self, name: str, backend: Any) -> None:
        A, y = domain_points(name, 300, 4)
        Z = 2 * np.random.default_rng(1).standard_normal((300, 4))
        loss: Any = LOSSES[name]()
        value, _ = loss.value_and_grad(backend.asarray(Z), backend.asarray(y))
        conjugate = loss.conjugate(backend.asarray(A), backend.asarray(y))
        slack = backend.to_numpy(value) + backend.to_numpy(conjugate) - np.sum(A * Z, axis=1)
        assert slack.min() >= -1e-12

    def test_equality_at_the_gradient(self, name: str, backend: Any, dtype: str) -> None:
        rng = np.random.default_rng(0)
        Z, y = 2 * rng.standard_normal((300, 2, 4)), rng.integers(0, 4, 300)
        loss: Any = LOSSES[name]()
        Z, y = backend.asarray(Z, dtype), backend.asarray(y)
        value, A = loss.value_and_grad(Z, y)
        conjugate = loss.conjugate(A, y)
        assert (conjugate.shape, conjugate.dtype) == (value.shape, value.dtype)
        value, A, conjugate, Z = (backend.to_numpy(a) for a in (value, A, conjugate, Z))
        tolerance = 1e-12 if dtype == "float64" else 5e-5
        np.testing.assert_allclose(conjugate, np.sum(A * Z, -1) - value, rtol=0, atol=tolerance)

    def test_not_positive_at_zero(self, name: str) -> None:
        assert LOSSES[name]().conjugate(np.zeros((1, 4)), np.asarray([2]))[0] <= 0  # type: ignore[attr-defined]


class TestConjugateOfPenalty:
    @pytest.mark.parametrize("penalty", PENALTIES)
    def test_inequality_and_equality(self, penalty: Any, backend: Any) -> None:
        rng = np.random.default_rng(0)
        V, W = rng.standard_normal((2, 3, 40, 2))
        value, scale = (backend.to_numpy(a) for a in penalty.conjugate(backend.asarray(V)))
        assert ((scale > 0) & (scale <= 1)).all()
        bound = backend.to_numpy(penalty.value(backend.asarray(W))) + value
        assert (bound - scale * np.sum(V * W, axis=(0, 2)) >= -1e-12).all()
        # V in the subdifferential at W: both sides agree.
        V = penalty.grad(W)
        value, scale = penalty.conjugate(V)
        np.testing.assert_array_equal(scale, 1)
        np.testing.assert_allclose(penalty.value(W) + value, np.sum(V * W, axis=(0, 2)))


def problem(
    backend: Any, loss: Any, penalty: Any = None, *, k: int = 3, seed: int = 0, **settings_: Any
) -> Any:
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((40, 3)) + 1.0, rng.integers(0, k, 40)
    y[:k] = np.arange(k)
    X[np.arange(40), y % 3] += 1.0
    settings_ = {"alpha": [1e-2, 0.3], **settings_}
    return backend.objective(loss, penalty or L2Penalty(), X, y, k=k, **settings_)


@given(
    name=st.sampled_from(list(LOSSES)),
    penalty=st.sampled_from(PENALTIES),
    k=st.sampled_from([2, 3, 5]),
    intercept=st.booleans(),
    weights=st.sampled_from(["none", "shared", "each", "lost class"]),
    scale=st.sampled_from([0.0, 1e-3, 0.3, 10.0]),
    dtype=st.sampled_from(["float64", "float32"]),
    steps=st.sampled_from([0, 30]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=80, deadline=None)
def test_bound_is_never_above_any_value(
    numpy_backend: Any, name: str, penalty: Any, k: int, intercept: bool, weights: str,
    scale: float, dtype: str, steps: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    s = None
    if weights != "none":
        s = rng.exponential(size=(40, 1 if weights == "shared" else 2))
        s *= rng.integers(0, 2, (40, 1))
        s[:6] += 0.5
    X, y = rng.standard_normal((40, 3)) + rng.normal(), rng.integers(0, k, 40)
    y[:k] = np.arange(k)
    X[np.arange(40), y % 3] += 2 * rng.random()
    if weights == "lost class":
        s[y == 0, 1] = 0.0
    alpha = 10 ** rng.uniform(-4, 0, 2)
    build = {"alpha": alpha, "k": k, "fit_intercept": intercept}
    objective = numpy_backend.objective(LOSSES[name](), penalty, X, y, s, dtype=dtype, **build)
    W, b = objective.zeros()
    start = Params(*((a + scale * rng.standard_normal(a.shape)).astype(dtype) for a in (W, b)))
    params = start
    if steps:
        params = minimize(objective, GD(steps, tol=0.0), start).params
    # The same problem, data rounded to the dtype, in float64.
    data = [a if a is None else a.astype(dtype).astype(float) for a in (X, s, alpha)]
    exact = numpy_backend.objective(
        LOSSES[name](), penalty, data[0], y, data[1], **build | {"alpha": data[2]}
    )
    value, bound = value_and_lower_bound(objective, params)
    wide = Params(*(a.astype(float) for a in params))
    np.testing.assert_allclose(value, exact.value(wide), rtol=1e-12)
    assert value.dtype == bound.dtype == np.float64
    best = value
    wide_start = Params(*(a.astype(float) for a in start))
    if exact.loss.smooth and penalty.smooth:
        best = exact.value(minimize(exact, LBFGS(2000, tol=1e-11), wide_start).params)
    else:
        best = np.minimum(best, exact.value(minimize(exact, GD(300, tol=0.0), wide_start).params))
    assert (bound >= 0.0).all()
    assert (bound <= np.minimum(best, value)).all()


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("intercept", [True, False])
def test_gap_vanishes_on_the_way_to_the_optimum(
    numpy_backend: Any, name: str, k: int, intercept: bool
) -> None:
    s = np.random.default_rng(3).exponential(size=(40, 2))
    objective = problem(numpy_backend, LOSSES[name](), k=k, s=s, fit_intercept=intercept)
    solver = LBFGS(tol=1e-13)
    state = solver.init(objective, objective.zeros())
    gaps = []
    for _ in range(4):
        value, bound = value_and_lower_bound(objective, state.params)
        gaps.append((value - bound).max())
        for _ in range(12):
            state = solver.step(objective, state)
    assert gaps[-1] < 1e-12
    assert gaps[-1] < 1e-3 * gaps[1] or gaps[1] < 1e-12
    assert gaps[1] < 0.1 * gaps[0]


def test_without_intercept_the_gap_is_that_of_the_gradient(numpy_backend: Any) -> None:
    objective = problem(numpy_backend, SoftmaxLoss(), fit_intercept=False)
    result = minimize(objective, LBFGS(6))
    value, bound = value_and_lower_bound(objective, result.params)
    _, (dW, _) = objective.value_and_grad(result.params)
    square = np.sum(dW**2, axis=(0, 2))
    gap = value - bound
    np.testing.assert_allclose(gap, square / (2 * np.asarray([1e-2, 0.3])), rtol=1e-8, atol=1e-13)


def test_a_given_intercept_that_is_not_fitted(numpy_backend: Any) -> None:
    objective = problem(numpy_backend, SoftmaxLoss(), fit_intercept=False)
    b = np.asarray([[0.5, -1.0, 0.25]] * 2)
    start = objective.zeros()._replace(b=b)
    value, bound = value_and_lower_bound(objective, start)
    best = minimize(objective, LBFGS(tol=1e-12), start)
    optimum, tight = value_and_lower_bound(objective, best.params)
    np.testing.assert_array_equal(best.params.b, b)
    assert (bound < optimum).all()
    assert (optimum < value).all()
    np.testing.assert_allclose(tight, optimum, rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_of_a_known_optimum(numpy_backend: Any, name: str) -> None:
    # So strong a penalty that W = 0 is optimal for L1: the bound must touch.
    objective = problem(
        numpy_backend, LOSSES[name](), L1Penalty(), alpha=[1e4], fit_intercept=False
    )
    value, bound = value_and_lower_bound(objective, objective.zeros())
    np.testing.assert_allclose(bound, value, rtol=1e-9)


def test_l1_gap_is_small_at_the_optimum(numpy_backend: Any) -> None:
    objective = problem(numpy_backend, SoftmaxLoss(), L1Penalty(), alpha=[0.05, 0.1])
    result = minimize(objective, GD(3000, tol=1e-10))
    value, bound = value_and_lower_bound(objective, result.params)
    assert ((value - bound) / value < 1e-5).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("k", "intercept"), [(2, True), (3, True), (3, False)])
def test_every_backend_agrees(
    backend: Any, numpy_backend: Any, name: str, k: int, intercept: bool
) -> None:
    s = np.random.default_rng(3).exponential(size=(40, 2))
    results = []
    for case in (backend, numpy_backend):
        build = {"k": k, "s": s, "fit_intercept": intercept, "alpha": [0.3, 3.0]}
        objective = problem(case, LOSSES[name](), ElasticNetPenalty(0.4), **build)
        at = Params(*(0.1 * a for a in case.params(objective)))
        results.append([case.to_numpy(a) for a in value_and_lower_bound(objective, at)])
    np.testing.assert_allclose(*results, rtol=1e-9, atol=1e-12)
    assert (results[0][1][1] > 0.0).all()


def test_blocks_dtypes_and_stacks_agree(numpy_backend: Any) -> None:
    objective = problem(numpy_backend, SoftmaxLoss())
    params = minimize(objective, LBFGS(5)).params
    small = replace(objective, data=replace(objective.data, backend=replace(
        objective.data.backend, block_bytes=1024)))  # fmt: skip
    whole = value_and_lower_bound(objective, params)
    blocks = value_and_lower_bound(small, params)
    np.testing.assert_allclose(blocks, whole, rtol=1e-12)
    for j in range(2):
        one = replace(objective, alpha=objective.alpha[j : j + 1])
        own = Params(params.W[:, j : j + 1, :], params.b[j : j + 1, :])
        single = [a[0] for a in value_and_lower_bound(one, own)]
        np.testing.assert_allclose(single, [a[j] for a in whole], rtol=1e-12)


@dataclass(frozen=True)
class Unknown:
    """A loss without a conjugate."""

    smooth = True
    shift_invariant = True
    probabilistic = False

    def curvature(self, k: int) -> float:
        return 0.5

    def lipschitz(self, k: int) -> float:
        return 2.0**0.5

    def value_and_grad(self, Z: Any, y: Any, *, xp: Any = None) -> Any:
        return SoftmaxLoss().value_and_grad(Z, y, xp=xp)


class TestWhereThereIsNone:
    def test_loss_without_conjugate(self, numpy_backend: Any) -> None:
        kernel = AcceleratedLoss(Unknown(), lambda loss, *a, **k: loss.value_and_grad(*a, **k))
        for loss in (Unknown(), kernel):
            objective = problem(numpy_backend, loss)
            value, bound = value_and_lower_bound(objective, objective.zeros())
            np.testing.assert_allclose(value, np.log(3))
            assert (bound == -np.inf).all()

    def test_no_penalty_or_alpha(self, numpy_backend: Any) -> None:
        objective = problem(numpy_backend, SoftmaxLoss(), NoPenalty())
        assert (value_and_lower_bound(objective, objective.zeros())[1] == -np.inf).all()
        objective = problem(numpy_backend, SoftmaxLoss(), alpha=[0.0, 0.1])
        bound = value_and_lower_bound(objective, objective.zeros())[1]
        assert bound[0] == -np.inf
        assert bound[1] > 0


@dataclass(frozen=True)
class SmoothedHinge(MulticlassHingeLoss):
    """The multiclass hinge with parabolas in its kinks, up to ``width`` from them."""

    width: float = 0.05

    smooth = True

    def curvature(self, k: int) -> float:  # type: ignore[override]
        return k / self.width

    def value_and_grad(self, Z: Any, y: Any, *, xp: Any = None) -> Any:
        violation, true = violations(Z, y, self.margin, xp=xp)
        slope = xp.clip(violation / self.width, 0.0, 1.0)
        value = xp.sum(slope * (violation - 0.5 * self.width * slope), axis=-1)
        return value, xp.where(true, -xp.sum(slope, axis=-1, keepdims=True), slope)


@pytest.mark.parametrize("intercept", [True, False])
def test_dual_point_of_another_loss(numpy_backend: Any, intercept: bool) -> None:
    smooth = problem(numpy_backend, SmoothedHinge(), fit_intercept=intercept)
    params = minimize(smooth, LBFGS(tol=1e-8)).params
    kinked = replace(smooth, loss=MulticlassHingeLoss())
    value, plain, same, better = (
        a
        for dual in (None, SmoothedHinge())
        for a in value_and_lower_bound(kinked, params, dual=dual)
    )
    np.testing.assert_array_equal(same, value)
    assert (plain < better).all()
    assert (better < value).all()
    assert ((value - better) / value < 0.05).all()
