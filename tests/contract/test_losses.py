"""What every loss keeps, on every backend; and the lecture's numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xplinear.gradients import numerical_gradient
from xplinear.losses import LOSSES, MulticlassHingeLoss, SoftmaxLoss
from xplinear.losses.softmax import softmax
from xplinear.namespace import device

RTOL = {"float64": 1e-12, "float32": 1e-5}

# One sample at a time, as the textbook writes it.
FORMULAS = {
    "softmax": lambda z, y: math.log(sum(math.exp(a - z[y]) for a in z)),
    "multiclass_hinge": lambda z, y: sum(max(0, a - z[y] + 1) for j, a in enumerate(z) if j != y),
    "crammer_singer": lambda z, y: max(a - z[y] + (j != y) for j, a in enumerate(z)),
    "squared_hinge": lambda z, y: sum(max(0, a - z[y] + 1) ** 2 for j, a in enumerate(z) if j != y),
    "squared_error": lambda z, y: sum((a - (j == y)) ** 2 for j, a in enumerate(z)) / 2,
    "absolute_error": lambda z, y: sum(abs(a - (j == y)) for j, a in enumerate(z)),
}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES)
def loss(request: pytest.FixtureRequest) -> Any:
    return request.param()


def samples(*lead: int) -> tuple[Any, Any]:
    """Return scores (*lead, 4), away from every kink, and class codes (lead[0],).

    Few shapes are used in this file: JAX compiles every operation anew for each.
    """
    rng = np.random.default_rng(0)
    # No difference is 0 or 1, no value is 0 or 1: all margins and errors are clear.
    Z = np.broadcast_to([-1.63, -0.41, 0.27, 1.12], (*lead, 4))
    return rng.permuted(Z, axis=-1), rng.integers(0, 4, lead[:1])


@pytest.mark.parametrize("name", FORMULAS)
def test_value_is_the_formula(name: str, backend: Any, dtype: str) -> None:
    Z, y = samples(6)
    value, _ = LOSSES[name]().value_and_grad(backend.asarray(Z, dtype), backend.asarray(y))
    expected = [FORMULAS[name](z, i) for z, i in zip(Z.tolist(), y.tolist(), strict=True)]
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=RTOL[dtype])


def test_gradient_is_that_of_five_points(loss: Any, backend: Any) -> None:
    Z, y = samples(6)
    Z, y = backend.asarray(Z), backend.asarray(y)
    _, G = loss.value_and_grad(Z, y)
    numerical = numerical_gradient(lambda Z: loss.value_and_grad(Z, y)[0], Z, method="five_point")
    np.testing.assert_allclose(
        backend.to_numpy(G), backend.to_numpy(numerical), rtol=5e-6, atol=1e-10
    )


def test_dtype_shape_device_and_input_are_kept(loss: Any, backend: Any, dtype: str) -> None:
    host = samples(6, 2)
    Z, y = backend.asarray(host[0], dtype), backend.asarray(host[1])
    before = backend.to_numpy(Z).copy(), backend.to_numpy(y).copy()
    value, G = loss.value_and_grad(Z, y)
    assert (value.shape, G.shape) == ((6, 2), (6, 2, 4))
    assert value.dtype == Z.dtype == G.dtype
    assert device(value) == device(Z) == device(G)
    np.testing.assert_array_equal(backend.to_numpy(Z), before[0])
    np.testing.assert_array_equal(backend.to_numpy(y), before[1])


def test_leading_axes_agree(loss: Any, backend: Any) -> None:
    Z, y = samples(6, 2)
    stacked = loss.value_and_grad(backend.asarray(Z), backend.asarray(y))
    model = loss.value_and_grad(backend.asarray(Z[:, 1]), backend.asarray(y))
    sample = loss.value_and_grad(backend.asarray(Z[3, 1]), backend.asarray(y[3]))
    for many, some, one in zip(stacked, model, sample, strict=True):
        whole = backend.to_numpy(many)
        np.testing.assert_allclose(backend.to_numpy(some), whole[:, 1], rtol=1e-12)
        np.testing.assert_allclose(backend.to_numpy(one), whole[3, 1], rtol=1e-12)


def test_large_scores_in_float32_are_exact(loss: Any, backend: Any) -> None:
    rng = np.random.default_rng(0)
    # Multiples of ½: their differences are exact in float32, so only the formula can lose digits.
    Z = np.concatenate(
        [rng.integers(-(10**scale), 10**scale + 1, (50, 4)) / 2 for scale in (1, 2, 3, 4)]
    )
    Z[:3] = [[1e4, -1e4, 0, 0], [1e4] * 4, [-1e4] * 4]
    y = rng.integers(0, 4, 200)
    narrow = loss.value_and_grad(backend.asarray(Z, "float32"), backend.asarray(y))
    wide = loss.value_and_grad(backend.asarray(Z, "float64"), backend.asarray(y))
    for a, b in zip(narrow, wide, strict=True):
        assert np.isfinite(backend.to_numpy(a)).all()
        np.testing.assert_allclose(backend.to_numpy(a), backend.to_numpy(b), rtol=1e-5, atol=1e-6)


def test_no_product_is_denormal(loss: Any, backend: Any, dtype: str) -> None:
    # Such numbers take some processors ten times as long; scores far apart would make them.
    limits = np.finfo(dtype)
    least = float(limits.smallest_normal) / float(limits.eps)
    far = np.linspace(0.0, 1.2 * math.log(float(limits.smallest_subnormal)), 200)
    Z = np.stack([0.0 * far, far, far / 2, far / 3], axis=1).astype(dtype)
    y = np.arange(200) % 2
    held = backend.asarray(Z), backend.asarray(y)
    value, G = loss.value_and_grad(*held)
    made = [G]
    if hasattr(loss, "hessian"):
        made += [loss.hessian(*held), loss.hessian_diagonal(*held)]
    if hasattr(loss, "smoothed"):
        made.append(loss.smoothed(*held, backend.asarray(np.ones(1), dtype))[2])
    for array in made:
        size = np.abs(backend.to_numpy(array))
        assert not ((size > 0.0) & (size < 0.2 * least)).any()
    if isinstance(loss, SoftmaxLoss):
        Z = Z.astype(np.float64)
        others, P = np.arange(4) != y[:, None], scipy.special.softmax(Z, axis=1)
        rtol, atol = 10.0 * RTOL[dtype], 1.01 * least
        np.testing.assert_allclose(backend.to_numpy(G)[others], P[others], rtol, atol)
        total: Any = scipy.special.logsumexp(Z, axis=1)
        losses = total - Z[np.arange(200), y]
        np.testing.assert_allclose(backend.to_numpy(value), losses, RTOL[dtype], RTOL[dtype])


@pytest.mark.filterwarnings("ignore:invalid value")  # of NumPy, at the NaN
def test_softmax_hides_no_nan(backend: Any) -> None:
    Z, y = np.zeros((3, 3)), backend.asarray(np.asarray([0, 1, 2]))
    Z[0, 1], Z[1, 0] = np.nan, np.inf
    for loss in (SoftmaxLoss(), backend.backend.accelerated(SoftmaxLoss())):
        Zs = backend.asarray(Z[:, None, :])
        value, G = loss.value_and_grad(Zs, y, xp=backend.xp)
        known = np.isfinite(backend.to_numpy(G)).all(axis=(1, 2))
        assert known.tolist() == [False, False, True]
        assert np.isfinite(backend.to_numpy(value)[:, 0]).tolist() == [False, False, True]


@pytest.mark.parametrize("integer", ["uint8", "int32"])
def test_labels_of_any_integer_dtype(loss: Any, backend: Any, integer: str) -> None:
    # More classes than the dtype of the labels can count.
    Z = np.linspace(-2.0, 2.0, 600).reshape(2, 300)
    y = np.asarray([0, 100])
    value, _ = loss.value_and_grad(backend.asarray(Z), backend.asarray(y, integer))
    expected, _ = loss.value_and_grad(Z, y)
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-12)


def test_value_is_not_negative(loss: Any, backend: Any) -> None:
    rng = np.random.default_rng(0)
    Z, y = rng.standard_normal((200, 4)), rng.integers(0, 4, 200)
    Z *= 10 ** rng.uniform(-2, 2, (200, 1))
    value, _ = loss.value_and_grad(backend.asarray(Z, "float32"), backend.asarray(y))
    assert (backend.to_numpy(value) >= 0).all()


def test_gradient_is_a_subgradient_even_on_kinks(loss: Any, backend: Any) -> None:
    rng = np.random.default_rng(0)
    # Integer scores tie, and sit on margins, all the time.
    A, B = rng.integers(-2, 3, (2, 200, 4)).astype(float)
    y = rng.integers(0, 4, 200)
    at_a, G = (
        backend.to_numpy(a) for a in loss.value_and_grad(backend.asarray(A), backend.asarray(y))
    )
    at_b = backend.to_numpy(loss.value_and_grad(backend.asarray(B), backend.asarray(y))[0])
    assert (at_b >= at_a + np.sum(G * (B - A), axis=-1) - 1e-12).all()


def test_shift_invariance_is_as_declared(loss: Any, backend: Any) -> None:
    Z, y = samples(6)
    y = backend.asarray(y)
    value, G = loss.value_and_grad(backend.asarray(Z), y)
    shifted, _ = loss.value_and_grad(backend.asarray(Z + 2.5), y)
    same = np.isclose(backend.to_numpy(shifted), backend.to_numpy(value), rtol=1e-12)
    balanced = np.abs(backend.to_numpy(G).sum(axis=-1)) < 1e-12
    assert same.all() == loss.shift_invariant == balanced.all()


def test_products_with_the_hessian_are_those_of_the_matrix(
    loss: Any, backend: Any, dtype: str
) -> None:
    if not hasattr(loss, "hessian"):
        return
    rng = np.random.default_rng(0)
    Z, V = (backend.asarray(rng.standard_normal((50, 3, 4)), dtype) for _ in range(2))
    for y in (rng.integers(0, 4, 50), rng.integers(0, 4, (50, 3))):
        H = backend.to_numpy(loss.hessian(Z, backend.asarray(y)))
        product = loss.hessian_product(Z, backend.asarray(y), V)
        expected = (H @ backend.to_numpy(V)[..., None])[..., 0]
        np.testing.assert_allclose(backend.to_numpy(product), expected, atol=10 * RTOL[dtype])
        own = loss.hessian_diagonal(Z, backend.asarray(y))
        expected = np.diagonal(H, axis1=-2, axis2=-1)
        np.testing.assert_allclose(backend.to_numpy(own), expected, atol=RTOL[dtype])


@given(data=st.data(), k=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("name", LOSSES)
def test_curvature_bounds_the_hessian(name: str, data: Any, k: int) -> None:
    loss = LOSSES[name]()
    bound = loss.curvature(k)
    assert (bound is not None) == loss.smooth
    if bound is None:
        return
    z = data.draw(hnp.arrays(float, k, elements=st.floats(-5, 5, width=32)))
    y, h = np.full(k, data.draw(st.integers(0, k - 1))), 1e-5
    high, low = (loss.value_and_grad(z + step * np.eye(k), y)[1] for step in (h, -h))
    hessian = (high - low) / (2 * h)
    assert np.linalg.eigvalsh((hessian + hessian.T) / 2).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_lipschitz_bounds_the_gradient(loss: Any, k: int) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, k, 2000)
    norms = []
    for scale in (1.0, 100.0):
        Z = scale * rng.standard_normal((2000, k))
        # Every class beats the true one: the steepest place of a hinge.
        Z[: 2 * k] = np.where(np.arange(k) == y[: 2 * k, None], -scale, scale)
        _, G = loss.value_and_grad(Z, y)
        norms.append(np.linalg.norm(G, axis=1).max())
    bound = loss.lipschitz(k)
    if bound is None:
        assert norms[1] > 10 * norms[0]
    else:
        assert 0.7 * bound < max(norms) <= bound * (1 + 1e-12)


def test_softmax_gives_probabilities(backend: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((20, 2, 5)) * 10 ** rng.uniform(-2, 4, (20, 2, 1))
    P = backend.to_numpy(softmax(backend.asarray(Z, dtype)))
    assert P.min() >= 0.0
    assert P.max() <= 1.0
    np.testing.assert_allclose(P.sum(axis=-1), 1.0, rtol=RTOL[dtype])


class TestLecture:
    """The worked example, classes cat, car and frog, and what the two main losses do."""

    Z = np.asarray([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
    y = np.asarray([0, 1, 2])

    def test_svm_loss(self, backend: Any, dtype: str) -> None:
        value, _ = MulticlassHingeLoss().value_and_grad(
            backend.asarray(self.Z, dtype), backend.asarray(self.y)
        )
        value = backend.to_numpy(value)
        np.testing.assert_allclose(value, [2.9, 0.0, 12.9], rtol=RTOL[dtype])
        assert value.mean().round(4) == pytest.approx(5.2667)

    def test_softmax_loss(self, backend: Any, dtype: str) -> None:
        Z, y = backend.asarray(self.Z, dtype), backend.asarray(self.y)
        assert backend.to_numpy(softmax(Z))[0, 0] == pytest.approx(0.1300, abs=5e-5)
        value, _ = SoftmaxLoss().value_and_grad(Z, y)
        assert backend.to_numpy(value)[0] == pytest.approx(2.0404, abs=5e-5)

    @pytest.mark.parametrize("k", [2, 3, 10, 1000])
    def test_fresh_model(self, k: int) -> None:
        Z, y = np.zeros((2, k)), np.asarray([0, k - 1])
        np.testing.assert_allclose(MulticlassHingeLoss().value_and_grad(Z, y)[0], k - 1)
        np.testing.assert_allclose(SoftmaxLoss().value_and_grad(Z, y)[0], math.log(k))

    def test_only_softmax_sees_a_move_within_the_margin(self) -> None:
        car, y = self.Z[1:2], self.y[1:2]
        moved = car + np.asarray([0.3, -0.2, 0.4])
        for loss, sees in ((MulticlassHingeLoss(), False), (SoftmaxLoss(), True)):
            before, after = (loss.value_and_grad(z, y)[0] for z in (car, moved))
            assert (before != after).all() == sees

    def test_only_the_svm_loss_reaches_zero(self) -> None:
        for scale in (1.0, 5.0, 10.0):
            Z, y = scale * np.asarray([[3.0, 0.0, 0.0]]), np.asarray([0])
            assert MulticlassHingeLoss().value_and_grad(Z, y)[0] == 0.0
            assert 0.0 < SoftmaxLoss().value_and_grad(Z, y)[0] < 2.1 * math.exp(-3.0 * scale)

    @pytest.mark.parametrize("margin", [1.0, 2.5])
    def test_true_class_in_the_sum_adds_the_margin(self, margin: float) -> None:
        value, _ = MulticlassHingeLoss(margin).value_and_grad(self.Z, self.y)
        gap = self.Z - self.Z[np.arange(3), self.y][:, None] + margin
        np.testing.assert_allclose(np.maximum(0.0, gap).sum(axis=1), value + margin)

    def test_weights_of_zero_loss_are_not_unique(self) -> None:
        X = np.eye(3)
        W = 2.0 * np.eye(3)
        for scale in (1.0, 2.0, 3.0):
            assert (MulticlassHingeLoss().value_and_grad(X @ (scale * W), self.y)[0] == 0.0).all()
