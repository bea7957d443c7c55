"""The objective against its formula, sample by sample; blocks, weights and stacks of models."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from xplinear.gradients import check_gradient
from xplinear.losses import LOSSES, AbsoluteErrorLoss, MulticlassHingeLoss, SoftmaxLoss
from xplinear.namespace import device
from xplinear.objective import Objective, Params, columns
from xplinear.penalties import PENALTIES, L1Penalty, L2Penalty, NoPenalty

RTOL = {"float64": 1e-12, "float32": 1e-5}
N, P, M, K = 12, 3, 2, 3


@pytest.fixture(params=LOSSES.values(), ids=LOSSES)
def loss(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture(params=PENALTIES.values(), ids=PENALTIES)
def penalty(request: pytest.FixtureRequest) -> Any:
    return request.param()


def rows(n: int = N, p: int = P, k: int = K, seed: int = 0) -> tuple[Any, Any]:
    """Return X (n, p), exact in float32, and class codes y (n,)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, p)).astype("float32").astype("float64"), rng.integers(0, k, n)


def by_hand(
    objective: Objective, X: Any, y: Any, s: Any, W: Any, b: Any, alpha: Any
) -> tuple[Any, Any, Any]:
    """Return value and gradients of the formula: a loop over models, a loop over samples."""
    m = W.shape[1]
    value, dW, db = np.zeros(m), np.zeros_like(W), np.zeros_like(b)
    for j in range(m):
        for x, label, weight in zip(X, y, s[:, j] / s[:, j].sum(), strict=True):
            z = x @ W[:, j] + b[j]
            Z = np.asarray([-z[0] / 2, z[0] / 2]) if len(z) == 1 else z
            loss, g = objective.loss.value_and_grad(Z, np.asarray(label))
            g = (g[1:] - g[:1]) / 2 if len(z) == 1 else g
            value[j] += weight * loss
            dW[:, j] += weight * np.outer(x, g)
            db[j] += weight * g
        value[j] += alpha[j] * objective.penalty.value(W[:, j])
        dW[:, j] += alpha[j] * objective.penalty.grad(W[:, j])
    return value, dW, db


def to_numpy(backend: Any, result: tuple[Any, Params]) -> tuple[Any, Any, Any]:
    value, (dW, db) = result
    return tuple(backend.to_numpy(a) for a in (value, dW, db))


def assert_same(actual: Any, expected: Any, rtol: float = 1e-12) -> None:
    """Compare value and gradients, each relative to its largest entry."""
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_formula(loss: Any, penalty: Any, backend: Any, dtype: str) -> None:
    k = 2 if dtype == "float32" else K  # both numbers of columns, without doubling the time
    X, y = rows(k=k)
    s = np.random.default_rng(1).integers(0, 4, (N, M)) / 2.0
    alpha = np.asarray([0.25, 0.0])
    F = backend.objective(loss, penalty, X, y, s, alpha=alpha, k=k, dtype=dtype)
    params = backend.params(F)
    W, b = (backend.to_numpy(a).astype("float64") for a in params)
    assert W.shape[2] == columns(loss, k)
    actual = to_numpy(backend, F.value_and_grad(params))
    assert_same(actual, by_hand(F, X, y, s, W, b, alpha), RTOL[dtype])


def test_value_is_loss_plus_penalty(loss: Any, penalty: Any, backend: Any) -> None:
    F = backend.objective(loss, penalty, *rows(), alpha=[0.25, 0.0])
    params = backend.params(F)
    value, _ = F.value_and_grad(params)
    for other in (F.value(params), F.data_loss(params) + F.penalty_value(params)):
        np.testing.assert_allclose(
            backend.to_numpy(other), backend.to_numpy(value), rtol=RTOL["float64"]
        )


def test_dtype_and_device(backend: Any, dtype: str) -> None:
    X, y = rows()
    F = backend.objective(SoftmaxLoss(), L2Penalty(), X, y, dtype=dtype)
    value, (dW, db) = F.value_and_grad(F.zeros())
    # The loss is accumulated in float64, the gradients stay in the dtype of the computation.
    assert value.dtype == backend.xp.float64
    assert dW.dtype == db.dtype == F.data.dtype
    assert device(value) == device(dW) == device(db) == device(F.data.X)


def test_gradient_is_that_of_differences(loss: Any, penalty: Any, backend: Any) -> None:
    X, y = rows()
    s = np.random.default_rng(1).uniform(0.5, 2.0, (N, M))
    F = backend.objective(loss, penalty, X, y, s, alpha=[0.1, 2.0], dtype="float32")
    report = check_gradient(F, backend.params(F), coordinates=2)
    assert report.passed, report
    assert report.coordinates == 4


@pytest.mark.parametrize(("k", "fit_intercept"), [(2, True), (4, True), (4, False)])
def test_every_coordinate_of_the_gradient(
    loss: Any, penalty: Any, k: int, fit_intercept: bool, dtype: str, numpy_backend: Any
) -> None:
    X, y = rows(30, 3, k)
    F = numpy_backend.objective(
        loss, penalty, X, y, alpha=[0.0, 0.1], k=k, dtype=dtype, fit_intercept=fit_intercept
    )
    report = check_gradient(F, numpy_backend.params(F))
    assert report.passed, report
    assert report.coordinates == 2 * columns(loss, k) * (3 + fit_intercept)


@pytest.mark.parametrize("block_bytes", [1, 2**30])
def test_blocks_do_not_matter(block_bytes: int, backend: Any) -> None:
    X, y = rows(700)
    s = np.random.default_rng(1).uniform(0.5, 2.0, (700, 1))
    small = backend.with_blocks_of(block_bytes)
    F = small.objective(SoftmaxLoss(), L2Penalty(), X, y, s, alpha=[0.1, 0.2])
    assert (F.data.rows_per_block(M * K) == 700) == (block_bytes == 2**30)
    params = backend.params(F)
    W, b = (backend.to_numpy(a) for a in params)
    expected = by_hand(F, X, y, np.broadcast_to(s, (700, M)), W, b, [0.1, 0.2])
    assert_same(to_numpy(backend, F.value_and_grad(params)), expected)
    np.testing.assert_allclose(backend.to_numpy(F.value(params)), expected[0], rtol=1e-12)


def test_weights_equal_repeated_rows(loss: Any, backend: Any) -> None:
    X, y = rows()
    times = np.random.default_rng(1).integers(0, 4, N)  # a weight of 0 drops the row
    weighted = backend.objective(loss, L2Penalty(), X, y, times[:, None])
    repeated = backend.objective(
        loss, L2Penalty(), np.repeat(X, times, axis=0), np.repeat(y, times)
    )
    params = backend.params(weighted)
    assert_same(
        to_numpy(backend, weighted.value_and_grad(params)),
        to_numpy(backend, repeated.value_and_grad(params)),
    )


def test_stack_equals_single_models(loss: Any, penalty: Any, backend: Any) -> None:
    X, y = rows()
    s = np.random.default_rng(1).integers(0, 2, (N, M)).astype(float)  # two folds
    alpha = np.asarray([0.01, 1.0])
    F = backend.objective(loss, penalty, X, y, s, alpha=alpha)
    params = backend.params(F)
    value, dW, db = to_numpy(backend, F.value_and_grad(params))
    W, b = (backend.to_numpy(a) for a in params)
    for j in range(M):
        one = slice(j, j + 1)
        single = backend.objective(loss, penalty, X, y, s[:, one], alpha=alpha[one])
        own = Params(backend.asarray(W[:, one]), backend.asarray(b[one]))
        assert_same(
            to_numpy(backend, single.value_and_grad(own)), (value[one], dW[:, one], db[one])
        )


def test_x_is_stored_in_any_dtype(backend: Any, dtype: str) -> None:
    bits, y = np.random.default_rng(0).integers(0, 2, (N, P)), rows()[1]
    kinds = ["bool", "uint8", "int16", "int64", "float16", "bfloat16"]
    for stored in [kind for kind in kinds if kind in dir(backend.xp)]:
        X = bits * (1.0 if stored == "bool" else 120.0)
        as_stored, as_float = (
            backend.objective(SoftmaxLoss(), L2Penalty(), X, y, dtype=dtype, stored=kind)
            for kind in (stored, None)
        )
        assert as_stored.data.X.dtype == getattr(backend.xp, stored)
        params = backend.params(as_float)
        assert_same(
            to_numpy(backend, as_stored.value_and_grad(params)),
            to_numpy(backend, as_float.value_and_grad(params)),
        )


def test_two_classes_need_one_column(backend: Any, dtype: str) -> None:
    X, y = rows(k=2)
    F = backend.objective(SoftmaxLoss(), NoPenalty(), X, y, k=2, dtype=dtype)
    params = backend.params(F)
    assert params.W.shape == (P, 1, 1)
    z = X @ backend.to_numpy(params.W)[:, 0, 0] + backend.to_numpy(params.b)[0, 0]
    logistic = np.log1p(np.exp(-np.where(y == 1, z, -z))).mean()
    np.testing.assert_allclose(backend.to_numpy(F.value(params)), [logistic], rtol=RTOL[dtype])


def test_without_intercept_b_keeps_its_value_and_has_no_gradient(backend: Any) -> None:
    X, y = rows()
    F, G = (
        backend.objective(SoftmaxLoss(), L2Penalty(), X, y, fit_intercept=fitted)
        for fitted in (True, False)
    )
    params = backend.params(F)
    with_b, without = (to_numpy(backend, f.value_and_grad(params)) for f in (F, G))
    assert_same(without[:2], with_b[:2])
    np.testing.assert_array_equal(without[2], 0.0)


def test_zeros_is_where_a_fit_starts(backend: Any, dtype: str) -> None:
    X, y = rows()
    for loss, start in ((SoftmaxLoss(), np.log(K)), (MulticlassHingeLoss(), K - 1.0)):
        F = backend.objective(loss, L1Penalty(), X, y, alpha=[0.1] * M, dtype=dtype)
        W, b = F.zeros()
        assert (W.shape, b.shape, W.dtype) == ((P, M, K), (M, K), F.data.dtype)
        np.testing.assert_allclose(backend.to_numpy(F.value(F.zeros())), start, rtol=RTOL[dtype])


@dataclass(frozen=True)
class MeanHinge:
    """The multiclass SVM loss divided by the number of classes: a loss the package lacks."""

    smooth = False
    shift_invariant = True
    probabilistic = False

    def curvature(self, k: int) -> None:
        del k

    def lipschitz(self, k: int) -> float:
        return MulticlassHingeLoss().lipschitz(k) / k

    def value_and_grad(self, Z: Any, y: Any, *, xp: Any = None) -> tuple[Any, Any]:
        value, G = MulticlassHingeLoss().value_and_grad(Z, y, xp=xp)
        return value / Z.shape[-1], G / Z.shape[-1]


def test_lecture_mean_over_the_classes_rescales(backend: Any) -> None:
    X, y = rows()
    total = backend.objective(MulticlassHingeLoss(), L2Penalty(), X, y, alpha=[0.3])
    mean = backend.objective(MeanHinge(), L2Penalty(), X, y, alpha=[0.3 / K])
    params = backend.params(total)
    a, b = (to_numpy(backend, F.value_and_grad(params)) for F in (total, mean))
    # The whole objective is divided by k: its minimizer stays.
    assert_same([K * part for part in b], a)


def test_check_gradient_takes_a_loss_the_package_lacks(numpy_backend: Any) -> None:
    F = numpy_backend.objective(MeanHinge(), L2Penalty(), *rows())
    assert check_gradient(F, numpy_backend.params(F)).passed


@pytest.mark.parametrize("stored", ["float32", "uint8"])
def test_memory_of_one_evaluation_is_bounded(stored: str, numpy_backend: Any) -> None:
    n, p, k = 100_000, 20, 100
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (n, p)), rng.integers(0, k, n)
    F = numpy_backend.objective(
        SoftmaxLoss(), L2Penalty(), X, y, k=k, dtype="float32", stored=stored
    )
    params = numpy_backend.params(F)
    tracemalloc.start()
    F.value_and_grad(params)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6 < n * min(4 * k, 4 * p + 20)  # neither the scores nor X in float32 at once


def test_absolute_error_at_zero_is_a_kink_of_the_whole_objective(numpy_backend: Any) -> None:
    X, y = rows()
    F = numpy_backend.objective(AbsoluteErrorLoss(), L1Penalty(), X, y)
    report = check_gradient(F, F.zeros())
    assert report.passed, report
    assert report.kinks > 0
