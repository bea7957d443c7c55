"""Numerical gradients, and the check that finds wrong analytic ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from xplinear.gradients import GradientCheck, check_gradient, numerical_gradient
from xplinear.losses import (
    LOSSES,
    AbsoluteErrorLoss,
    CrammerSingerLoss,
    MulticlassHingeLoss,
    SoftmaxLoss,
)
from xplinear.namespace import device
from xplinear.objective import Objective, Params
from xplinear.penalties import L1Penalty, L2Penalty


def cubes(backend: Any, dtype: str = "float64") -> tuple[Any, Any]:
    """Return f(w) = Σ w³ / 3 and a point (2, 3)."""
    w = backend.asarray([[0.5, -1.0, 2.0], [1.5, -0.25, 3.0]], dtype)
    return lambda w: backend.xp.sum(w**3) / 3.0, w


class TestNumericalGradient:
    @pytest.mark.parametrize("method", ["central", "five_point"])
    def test_of_a_scalar(self, method: Any, backend: Any, dtype: str) -> None:
        f, w = cubes(backend, dtype)
        g = numerical_gradient(f, w, method=method)
        assert (g.shape, g.dtype, device(g)) == (w.shape, w.dtype, device(w))
        error = np.abs(backend.to_numpy(g) - backend.to_numpy(w) ** 2)
        assert error.max() < (1e-8 if dtype == "float64" else 1e-3)

    def test_of_independent_values(self, backend: Any) -> None:
        W = backend.asarray(np.arange(1.0, 7.0).reshape(3, 2))
        g = numerical_gradient(lambda W: backend.xp.sum(W**2, axis=0), W)
        np.testing.assert_allclose(backend.to_numpy(g), 2 * backend.to_numpy(W), rtol=1e-8)

    @pytest.mark.parametrize("step", [1e-1, 1e-2])
    def test_orders_of_the_error(self, step: float) -> None:
        w = np.asarray([0.7])
        central, five_point = (
            numerical_gradient(lambda w: np.sum(np.exp(w)), w, method=method, step=step)
            for method in ("central", "five_point")
        )
        e = math.exp(0.7)
        np.testing.assert_allclose(central / e - 1, step**2 / 6, rtol=1e-2)
        np.testing.assert_allclose(five_point / e - 1, -(step**4) / 30, rtol=1e-2)

    def test_five_points_are_more_exact_by_default(self, dtype: str) -> None:
        w = np.linspace(-2.0, 2.0, 20).astype(dtype)
        errors = [
            np.abs(numerical_gradient(lambda w: np.sum(np.sin(w)), w, method=m) - np.cos(w)).max()
            for m in ("central", "five_point")
        ]
        assert errors[1] < errors[0] < (1e-9 if dtype == "float64" else 1e-3)

    def test_the_step_grows_with_the_coordinate(self) -> None:
        w = np.asarray([1e9, 1e-9])
        g = numerical_gradient(lambda w: np.sum(w**2), w)
        np.testing.assert_allclose(g, 2 * w, rtol=1e-6, atol=1e-6)

    def test_of_a_python_float(self) -> None:
        g = numerical_gradient(lambda w: math.sin(float(w)), np.asarray(0.5))
        assert g == pytest.approx(math.cos(0.5))

    def test_of_nothing(self, backend: Any) -> None:
        w = backend.asarray(np.zeros((0, 3)))
        assert numerical_gradient(backend.xp.sum, w).shape == (0, 3)

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match="method must be 'central' or 'five_point', got"):
            numerical_gradient(np.sum, np.ones(2), method="forward")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="step must be a finite number of more than 0 or"):
            numerical_gradient(np.sum, np.ones(2), step=-1e-3)
        with pytest.raises(ValueError, match=r"w must be a real floating array .* dtype int64"):
            numerical_gradient(np.sum, np.asarray([1, 2]))
        with pytest.raises(TypeError):
            numerical_gradient(np.sum, [1.0, 2.0])


class TestFunction:
    def test_right_gradient_passes(self, backend: Any, dtype: str) -> None:
        f, w = cubes(backend, dtype)
        report = check_gradient(f, w, grad=lambda w: w**2)
        assert report.passed, report
        assert (report.coordinates, report.kinks) == (6, 0)
        assert check_gradient(f, w, grad=w**2) == report

    @pytest.mark.parametrize("factor", [0.99, 1.01, -1.0, 0.0])
    def test_wrong_gradient_fails(self, factor: float, backend: Any, dtype: str) -> None:
        f, w = cubes(backend, dtype)
        report = check_gradient(f, w, grad=lambda w: factor * w**2)
        assert not report.passed
        expected = abs(factor - 1) / max(1, abs(factor))
        assert report.max_relative_error == pytest.approx(expected, rel=0.3)

    def test_one_wrong_coordinate_is_found_and_named(self, backend: Any, dtype: str) -> None:
        f, w = cubes(backend, dtype)
        wrong = backend.to_numpy(w) ** 2
        wrong[1, 0] *= 1.01
        report = check_gradient(f, w, grad=backend.asarray(wrong))
        assert not report.passed
        assert (report.array, report.index) == ("w", (1, 0))
        assert report.analytic == pytest.approx(1.01 * 1.5**2, rel=1e-6)
        assert report.numerical == pytest.approx(1.5**2, rel=5e-3)
        assert "FAILED" in str(report)
        assert "w[1, 0]" in str(report)

    def test_nan_fails(self, backend: Any) -> None:
        f, w = cubes(backend)
        assert not check_gradient(f, w, grad=w * float("nan")).passed

    def test_random_subset(self) -> None:
        w = np.linspace(-1.0, 1.0, 500)
        wrong = 2 * w + (np.arange(500) < 100)

        def check(seed: int, coordinates: int = 20) -> GradientCheck:
            return check_gradient(
                lambda w: np.sum(w**2), w, grad=wrong, coordinates=coordinates, seed=seed
            )

        assert check(0).coordinates == 20
        assert check(0) == check(0)
        assert check(0).index != check(1).index
        assert not check(0).passed
        assert check(0, 1000).coordinates == 500

    @pytest.mark.parametrize("at", [0.0, 1e-8, -3e-8])
    def test_kink(self, at: float, backend: Any, dtype: str) -> None:
        w = backend.asarray([at, 0.5, -2.0], dtype)
        xp = backend.xp
        inside = [-1.0, 0.3, 1.0] if at == 0.0 else [math.copysign(1.0, at)]

        def check(slope: float) -> GradientCheck:
            grad = xp.where(xp.abs(w) < 1e-3, slope, xp.sign(w))
            return check_gradient(lambda w: xp.sum(xp.abs(w)), w, grad=grad)

        for slope in inside:
            report = check(slope)
            assert report.passed, report
            assert (report.coordinates, report.kinks) == (3, 1)
        for slope in (-1.02, 1.02, 3.0):
            assert not check(slope).passed

    def test_a_kink_beside_the_point_is_none(self, dtype: str) -> None:
        # Between the smallest and the largest step: the smaller steps see a smooth function.
        w = np.asarray([0.03 if dtype == "float32" else 3e-4], dtype=dtype)
        assert check_gradient(lambda w: np.sum(np.abs(w)), w, grad=np.sign(w)).kinks == 0
        assert not check_gradient(lambda w: np.sum(np.abs(w)), w, grad=0.98 * np.sign(w)).passed

    def test_a_steep_bend_is_no_kink(self) -> None:
        w = np.asarray([0.0, 0.1])

        def huber(w: Any) -> Any:
            return np.sum(np.sqrt(w**2 + 1e-6))

        report = check_gradient(huber, w, grad=w / np.sqrt(w**2 + 1e-6))
        assert report.passed, report
        assert report.kinks == 0
        assert not check_gradient(huber, w, grad=w / np.sqrt(w**2 + 1e-6) + 1e-3).passed

    def test_a_hinge_of_many_samples(self, dtype: str) -> None:
        failed = 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            A, w = rng.standard_normal((50, 6)).astype(dtype), rng.standard_normal(6).astype(dtype)
            g = -(A.T @ (A @ w < 1).astype(dtype)) / 50

            def f(w: Any, A: Any = A) -> Any:
                return np.mean(np.maximum(0, 1 - A @ w))

            assert not check_gradient(f, w, grad=1.01 * g).passed
            failed += not check_gradient(f, w, grad=g).passed
        assert failed == 0

    def test_bad_arguments(self) -> None:
        w = np.ones(3)
        with pytest.raises(TypeError, match="with its gradient"):
            check_gradient(np.sum, w)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match=r"gradient in w has shape \(2,\), not \(3,\)"):
            check_gradient(np.sum, w, grad=np.ones(2))
        with pytest.raises(ValueError, match="real floating"):
            check_gradient(np.sum, np.asarray([1, 2]), grad=np.asarray([1, 1]))


@dataclass(frozen=True)
class Wrong:
    """A loss whose gradient is off by a factor."""

    loss: Any
    factor: float = 1.01

    smooth = True
    shift_invariant = True
    probabilistic = False

    def curvature(self, k: int) -> float | None:
        return self.loss.curvature(k)

    def lipschitz(self, k: int) -> float | None:
        return self.loss.lipschitz(k)

    def value_and_grad(self, Z: Any, y: Any, *, xp: Any = None) -> tuple[Any, Any]:
        value, G = self.loss.value_and_grad(Z, y, xp=xp)
        return value, self.factor * G


class TestLoss:
    @pytest.mark.parametrize("name", LOSSES)
    def test_right_passes_and_wrong_fails(self, name: str, backend: Any, dtype: str) -> None:
        rng = np.random.default_rng(0)
        Z = backend.asarray(rng.standard_normal((3, 2, 4)), dtype)
        y = backend.asarray(rng.integers(0, 4, 3))
        report = check_gradient(LOSSES[name](), Z, y, coordinates=4)
        assert report.passed, report
        assert report.coordinates == 4
        assert not check_gradient(Wrong(LOSSES[name]()), Z, y, coordinates=4).passed

    def test_float32_is_checked_against_values_in_float64(self, backend: Any) -> None:
        # Confident predictions: in float32 the values' rounding would drown the slopes.
        Z = backend.asarray([[30.0, 25.0, 20.0], [1.0, 9.0, 2.0]], "float32")
        report = check_gradient(SoftmaxLoss(), Z, backend.asarray([0, 1]), tolerance=1e-4)
        assert report.passed, report

    def test_kinks(self, numpy_backend: Any, dtype: str) -> None:
        backend, y = numpy_backend, np.asarray([0, 1, 2])
        for loss, Z, kinks in (
            (AbsoluteErrorLoss(), np.zeros((3, 4)), 9),
            (AbsoluteErrorLoss(), np.eye(3, 4), 12),
            (CrammerSingerLoss(), np.zeros((3, 4)), 9),
            (MulticlassHingeLoss(), np.zeros((3, 4)), 0),
            (MulticlassHingeLoss(), np.eye(3, 4), 12),
        ):
            report = check_gradient(loss, backend.asarray(Z, dtype), y)
            assert report.passed, report
            assert report.kinks == kinks
        Z = backend.asarray(np.zeros((3, 4)), dtype)
        assert not check_gradient(Wrong(AbsoluteErrorLoss()), Z, y).passed


class TestObjective:
    def problem(self, backend: Any, loss: Any, penalty: Any, dtype: str, **kind: Any) -> Objective:
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((20, 3)), rng.integers(0, 3, 20)
        return backend.objective(loss, penalty, X, y, alpha=[0.1, 10.0], dtype=dtype, **kind)

    def test_right_passes_and_wrong_fails(self, backend: Any, dtype: str) -> None:
        F = self.problem(backend, SoftmaxLoss(), L2Penalty(), dtype)
        params = backend.params(F)
        report = check_gradient(F, params, coordinates=8)
        assert report.passed, report
        assert (report.coordinates, report.kinks) == (8 + 6, 0)
        assert not check_gradient(replace(F, loss=Wrong(F.loss)), params, coordinates=4).passed

    def test_an_error_in_one_model_is_named(self, numpy_backend: Any, dtype: str) -> None:
        @dataclass(frozen=True)
        class Broken(L2Penalty):
            def grad(self, W: Any, *, xp: Any = None) -> Any:
                del xp
                return W * np.asarray([1.0, 1.02], dtype=W.dtype)[:, None]

        F = self.problem(numpy_backend, SoftmaxLoss(), Broken(), dtype)
        report = check_gradient(F, numpy_backend.params(F))
        assert not report.passed
        assert report.array == "W"
        assert report.index[1] == 1

    def test_an_intercept_that_is_not_fitted_is_not_checked(self, backend: Any) -> None:
        F = self.problem(backend, SoftmaxLoss(), L2Penalty(), "float64", fit_intercept=False)
        report = check_gradient(F, backend.params(F), coordinates=4)
        assert report.passed, report
        assert report.coordinates == 4

    def test_kinks_of_the_penalty(self, numpy_backend: Any) -> None:
        F = self.problem(numpy_backend, SoftmaxLoss(), L1Penalty(), "float64")
        report = check_gradient(F, F.zeros())
        assert report.passed, report
        assert report.kinks == 18

    def test_features_of_a_large_scale(self, numpy_backend: Any, dtype: str) -> None:
        rng = np.random.default_rng(0)
        X, y = rng.integers(0, 256, (40, 5)), rng.integers(0, 3, 40)
        for loss in LOSSES.values():
            F = numpy_backend.objective(
                loss(), L2Penalty(), X, y, dtype=dtype, stored="uint8", alpha=[0.1]
            )
            W, b = numpy_backend.params(F)
            report = check_gradient(F, Params(W * W.dtype.type(0.01), b))
            assert report.passed, report


def test_report_reads_well() -> None:
    report = GradientCheck(0.02, "W", (3, 0, 1), 0.25, 0.245, 30, 2, 6e-6)
    assert not report.passed
    assert str(report) == (
        "FAILED: largest relative error 0.02 (tolerance 6e-06) at W[3, 0, 1], "
        "analytic 0.25, numerical 0.245; 30 coordinates, 2 at a kink"
    )
    assert not replace(report, max_relative_error=float("nan")).passed
