"""What a fit says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import xplinear as xl
from xplinear.certificate import certify
from xplinear.losses import SoftmaxLoss
from xplinear.minimize import minimize
from xplinear.penalties import L2Penalty, NoPenalty
from xplinear.solvers import GD, LBFGS, SGD

FIELDS = ("objective", "lower_bound", "residual", "gap", "relative_gap")


def rows(k: int = 3) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((60, 4)), rng.integers(0, k, 60)


class TestCertify:
    def test_one_entry_per_model_as_if_fitted_alone(self, numpy_backend: Any, dtype: str) -> None:
        alphas = [1e-3, 0.1, 3.0]
        s = np.random.default_rng(1).exponential(size=(60, 3))

        def certificate(alpha: list[float], s: Any) -> xl.Certificate:
            objective = numpy_backend.objective(
                SoftmaxLoss(), L2Penalty(), *rows(), s, alpha=alpha, dtype=dtype
            )
            return certify(objective, minimize(objective, LBFGS(tol=1e-4)))

        stack = certificate(alphas, s)
        for field in FIELDS:
            assert getattr(stack, field).shape == (3,)
            assert getattr(stack, field).dtype == np.float64
        assert stack.reasons == ("converged",) * 3
        assert (stack.residual <= 1e-4).all()
        assert (stack.gap >= 0).all()
        assert (stack.relative_gap < 1e-3).all()
        np.testing.assert_array_equal(stack.gap, stack.objective - stack.lower_bound)
        np.testing.assert_allclose(stack.relative_gap, stack.gap / stack.objective)
        for j, alpha in enumerate(alphas):
            single = certificate([alpha], s[:, j : j + 1])
            np.testing.assert_allclose(single.objective, stack.objective[j], rtol=1e-5)

    def test_the_better_of_two_bounds(self, numpy_backend: Any) -> None:
        objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), *rows())
        result = minimize(objective, LBFGS(2))
        own = certify(objective, result)
        middle = (own.lower_bound + own.objective) / 2
        better = certify(objective, replace(result, lower_bound=middle))
        np.testing.assert_array_equal(better.lower_bound, middle)
        rounded = certify(objective, replace(result, lower_bound=own.objective + 1e-9))
        np.testing.assert_array_equal(rounded.gap, 0.0)

    def test_unknown_without_penalty(self, numpy_backend: Any) -> None:
        objective = numpy_backend.objective(SoftmaxLoss(), NoPenalty(), *rows(), alpha=[0.0])
        certificate = certify(objective, minimize(objective, GD(3)))
        assert certificate.lower_bound == -np.inf
        assert certificate.gap == certificate.relative_gap == np.inf
        assert np.isfinite(certificate.objective)
        assert str(certificate).startswith("ended by max_iter: no bound of the optimum is known")

    def test_a_line_per_model(self) -> None:
        certificate = xl.Certificate(
            np.asarray([0.5, 2.0]),
            np.asarray([0.49, -np.inf]),
            np.asarray([1e-5, np.nan]),
            ("converged", "max_iter"),
        )
        assert str(certificate).splitlines() == [
            "converged: within 2.0e-02 of the optimum, proven",
            "ended by max_iter: no bound of the optimum is known",
        ]


class TestClassifier:
    @pytest.mark.parametrize(("loss", "k"), [("softmax", 3), ("squared_hinge", 2)])
    def test_of_lbfgs(self, backend: Any, loss: str, k: int) -> None:
        X, y = rows(k)
        clf = xl.LinearClassifier(loss, solver="lbfgs", alpha=0.01, tol=1e-7)
        clf.fit(backend.asarray(X), backend.asarray(y))
        certificate = clf.certificate_
        assert clf.objective_ == certificate.objective[0]
        assert certificate.reasons == ("converged",)
        assert 0 <= certificate.relative_gap[0] < 1e-10
        # The same optimum by another way is above the bound.
        other = xl.LinearClassifier(loss, solver="gd", alpha=0.01, tol=1e-6, max_iter=5000)
        other.fit(backend.asarray(X), backend.asarray(y))
        assert certificate.lower_bound[0] <= other.objective_

    def test_float32_is_certified_in_float64(self) -> None:
        X, y = rows()
        clf = xl.LinearClassifier(solver="lbfgs", alpha=0.01, tol=1e-5)
        clf.fit(X.astype(np.float32), y)
        assert 0 <= clf.certificate_.relative_gap[0] < 1e-7

    def test_none_after_sgd(self) -> None:
        X, y = rows()
        clf = xl.LinearClassifier(solver="lbfgs", alpha=0.01).fit(X, y)
        assert clf.to("numpy").certificate_ is clf.certificate_
        for solver in (SGD(max_iter=2), GD()):
            assert not hasattr(clf.set_params(solver=solver).fit(X, y), "certificate_")
            clf.set_params(solver="lbfgs").fit(X, y)
        assert not hasattr(clf.set_params(solver="sgd").partial_fit(X, y), "certificate_")

    def test_saved_with_the_model(self, tmp_path: Any) -> None:
        clf = xl.LinearClassifier(solver="lbfgs", alpha=0.01).fit(*rows())
        clf.save(tmp_path / "a.safetensors")
        again = xl.load(tmp_path / "a.safetensors").certificate_
        for field in (*FIELDS, "reasons"):
            np.testing.assert_array_equal(getattr(again, field), getattr(clf.certificate_, field))
