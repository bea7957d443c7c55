"""What every penalty keeps, on every backend; and the lecture's example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xplinear.gradients import numerical_gradient
from xplinear.namespace import device
from xplinear.penalties import (
    PENALTIES,
    ElasticNetPenalty,
    L1Penalty,
    L2Penalty,
    NoPenalty,
)

RTOL = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture(params=PENALTIES.values(), ids=PENALTIES)
def penalty(request: pytest.FixtureRequest) -> Any:
    return request.param()


def weights(seed: int = 0) -> Any:
    """Return W (5, 2, 3) away from zero."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 2.0, (5, 2, 3)) * rng.choice([-1.0, 1.0], (5, 2, 3))


@pytest.mark.parametrize(
    ("penalty", "formula"),
    [
        (NoPenalty(), lambda w: 0.0 * w),
        (L2Penalty(), lambda w: w**2 / 2),
        (L1Penalty(), np.abs),
        (ElasticNetPenalty(0.3), lambda w: 0.3 * np.abs(w) + 0.7 * w**2 / 2),
    ],
    ids=["none", "l2", "l1", "elastic_net"],
)
def test_value_is_the_formula(penalty: Any, formula: Any, backend: Any, dtype: str) -> None:
    W = weights()
    value = backend.to_numpy(penalty.value(backend.asarray(W, dtype)))
    np.testing.assert_allclose(value, formula(W).sum(axis=(0, 2)), rtol=RTOL[dtype])


def test_value_is_one_per_model_and_zero_at_zero(penalty: Any, backend: Any, dtype: str) -> None:
    W = backend.asarray(weights(), dtype)
    value = penalty.value(W)
    assert value.shape == (2,)
    assert device(value) == device(W)
    np.testing.assert_array_equal(backend.to_numpy(penalty.value(0.0 * W)), 0.0)


def test_gradient_is_that_of_five_points(penalty: Any, backend: Any) -> None:
    W = backend.asarray(weights())
    numerical = numerical_gradient(penalty.value, W, method="five_point")
    np.testing.assert_allclose(
        backend.to_numpy(penalty.grad(W)), backend.to_numpy(numerical), rtol=5e-6, atol=1e-10
    )


def test_gradient_is_a_subgradient_even_on_kinks(penalty: Any, backend: Any) -> None:
    rng = np.random.default_rng(0)
    V, W = rng.integers(-1, 2, (2, 3, 50, 4)).astype(float)
    at_v, at_w = (backend.to_numpy(penalty.value(backend.asarray(a))) for a in (V, W))
    G = backend.to_numpy(penalty.grad(backend.asarray(V)))
    assert (at_w >= at_v + np.sum(G * (W - V), axis=(0, 2)) - 1e-12).all()


def test_dtype_shape_and_device_are_kept(penalty: Any, backend: Any, dtype: str) -> None:
    W = backend.asarray(weights(), dtype)
    step = backend.asarray([[0.1], [0.2]], dtype)
    for result in (penalty.grad(W), penalty.prox(W, 0.1), penalty.prox(W, step)):
        assert result.shape == W.shape
        assert result.dtype == W.dtype
        assert device(result) == device(W)


def test_input_is_not_modified(penalty: Any, backend: Any, dtype: str) -> None:
    W = backend.asarray(weights(), dtype)
    before = backend.to_numpy(W).copy()
    penalty.value(W), penalty.grad(W), penalty.prox(W, 0.5)
    np.testing.assert_array_equal(backend.to_numpy(W), before)


@pytest.mark.parametrize("step", [0.0, 0.1, 1.0, 10.0])
def test_prox_is_the_minimizer_on_a_grid(penalty: Any, backend: Any, step: float) -> None:
    grid = np.linspace(-3.0, 3.0, 6001)
    # Every grid point is one model of one weight: the penalty's values all come at once.
    omega = backend.to_numpy(penalty.value(backend.asarray(grid[None, :, None])))
    w = np.asarray([-2.9, -1.0, -0.1, -0.02, 0.0, 0.05, 0.1, 0.37, 1.0, 2.5])
    prox = backend.to_numpy(penalty.prox(backend.asarray(w[None, :, None]), step))[0, :, 0]
    merit = 0.5 * (grid - w[:, None]) ** 2 + step * omega
    np.testing.assert_allclose(prox, grid[np.argmin(merit, axis=1)], atol=1e-3)


@pytest.mark.parametrize("step", [0.1, 0.5, 2.0])
def test_prox_meets_its_optimality_condition(penalty: Any, backend: Any, step: float) -> None:
    W = weights()
    P = penalty.prox(backend.asarray(W), step)
    G, P = backend.to_numpy(penalty.grad(P)), backend.to_numpy(P)
    free = P != 0.0
    np.testing.assert_allclose((W - P)[free], step * G[free], rtol=1e-12, atol=1e-15)
    # At 0 the residual must be a subgradient there: step · Ω(v) ≥ residual · v for every v.
    residual = (W - P)[~free]
    unit = np.asarray(backend.to_numpy(penalty.value(backend.asarray(np.full((1, 1, 1), 1e-9)))))
    assert (np.abs(residual) <= step * unit / 1e-9 + 1e-6).all()


def test_prox_takes_a_step_per_model_and_per_feature(
    penalty: Any, backend: Any, dtype: str
) -> None:
    W = weights()
    per_model = np.asarray([[0.1], [0.7]])
    per_feature = np.random.default_rng(1).uniform(0.0, 1.0, (5, 2, 1))
    for step in (per_model, per_feature):
        whole = penalty.prox(backend.asarray(W, dtype), backend.asarray(step, dtype))
        each = np.broadcast_to(step, W.shape)
        single = [
            penalty.prox(np.asarray([[w]]), s)[0, 0] for w, s in zip(W.flat, each.flat, strict=True)
        ]
        np.testing.assert_allclose(
            backend.to_numpy(whole), np.reshape(single, W.shape), rtol=RTOL[dtype], atol=1e-7
        )


@pytest.mark.parametrize(("ratio", "twin"), [(0.0, L2Penalty()), (1.0, L1Penalty())])
def test_elastic_net_ends_in_l2_and_l1(ratio: float, twin: Any, backend: Any) -> None:
    W = backend.asarray(weights())
    mixed = ElasticNetPenalty(l1_ratio=ratio)
    for call in (
        lambda penalty: penalty.value(W),
        lambda penalty: penalty.grad(W),
        lambda penalty: penalty.prox(W, 0.3),
    ):
        np.testing.assert_allclose(backend.to_numpy(call(mixed)), backend.to_numpy(call(twin)))


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_elastic_net_refuses_a_share_outside_the_unit_interval(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"l1_ratio must be a number in \[0, 1\]"):
        ElasticNetPenalty(l1_ratio=ratio)


def test_l1_gives_exact_zeros(backend: Any, dtype: str) -> None:
    P = backend.to_numpy(L1Penalty().prox(backend.asarray(weights(), dtype), 1.0))
    assert 0 < np.count_nonzero(P == 0.0) < P.size


@pytest.mark.parametrize("kinked", [L1Penalty(), ElasticNetPenalty(0.3), ElasticNetPenalty(1.0)])
def test_the_strongest_alpha_is_where_the_last_weight_goes(
    kinked: Any, backend: Any, dtype: str
) -> None:
    gradient = backend.asarray(weights(), dtype)
    strongest = backend.to_numpy(kinked.strongest_alpha(gradient))
    assert strongest.shape == (2,)
    for factor, some in ((1.001, [False, False]), (0.999, [True, True])):
        alpha = backend.asarray(factor * strongest[:, None], dtype)
        step = backend.to_numpy(kinked.prox(-gradient, alpha))  # from W = 0
        np.testing.assert_array_equal(step.any(axis=(0, 2)), some)


def test_without_a_kink_no_strength_is_enough() -> None:
    assert ElasticNetPenalty(0.0).strongest_alpha(weights()) is None
    for smooth in (NoPenalty(), L2Penalty()):
        assert not hasattr(smooth, "strongest_alpha")


def test_lecture_l2_prefers_spread_weights(backend: Any) -> None:
    x = np.ones(4)
    W = np.asarray([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]])
    np.testing.assert_array_equal(x @ W, [1.0, 1.0])
    W = backend.asarray(W[:, :, None])
    np.testing.assert_array_equal(backend.to_numpy(L2Penalty().value(W)), [0.5, 0.125])
    np.testing.assert_array_equal(backend.to_numpy(L1Penalty().value(W)), [1.0, 1.0])
