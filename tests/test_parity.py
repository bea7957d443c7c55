"""Every backend gives NumPy's losses, gradients and SGD steps, in either precision."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import xplinear as xl
from xplinear.losses import LOSSES
from xplinear.minimize import minimize
from xplinear.parity import Comparison, random_objective
from xplinear.solvers import LBFGS, ProximalLBFGS, Smoothing


@pytest.mark.parametrize("loss", LOSSES)
def test_parity(backend, dtype, loss):
    rows = xl.parity.compare([backend.backend], [dtype], [loss])
    assert [row.penalty for row in rows] == list(xl.penalties.PENALTIES)
    failed = [row for row in rows if not row.passed]
    assert not failed


def test_the_reference_path_is_compared_too(backend):
    rows = xl.parity.compare([backend.backend.reference()], ["float64"], ["softmax"], ["l2"])
    assert rows[0].passed


@pytest.mark.parametrize(
    ("dtype", "errors", "passed"),
    [
        ("float64", (1e-13, 1e-13, 1e-11), True),
        ("float64", (1e-11, 0.0, 0.0), False),
        ("float64", (0.0, 1e-11, 0.0), False),
        ("float64", (0.0, 0.0, 1e-9), False),
        ("float32", (1e-6, 1e-6, 1e-5), True),
        ("float32", (0.0, 0.0, 1e-3), False),
        ("float32", (float("nan"), 0.0, 0.0), False),
    ],
)
def test_a_comparison_passes_within_the_published_tolerances(dtype, errors, passed):
    assert Comparison("numpy", dtype, "softmax", "l2", *errors).passed is passed


# Solver, loss, penalty, and whether the optimal weights are sharply determined.
SOLVED = [
    (LBFGS(tol=1e-11), "softmax", "l2", True),
    (LBFGS(tol=1e-11), "squared_hinge", "l2", True),
    (LBFGS(tol=1e-11), "squared_error", "none", True),
    (ProximalLBFGS(tol=1e-6), "softmax", "l1", False),
    (ProximalLBFGS(tol=1e-6), "squared_error", "elastic_net", False),
    (Smoothing(tol=1e-3), "multiclass_hinge", "l2", False),
    (Smoothing(tol=1e-3), "crammer_singer", "l2", False),
]


def solve(backend, solver, loss, penalty):
    """Return the objective and the weights where a solver stops, and whether it converged."""
    with backend.double_precision():
        objective, _ = random_objective(backend, backend.xp.float64, loss, penalty)
        result = minimize(objective, solver)
        F, W = (backend.to_host(a) for a in (objective.value(result.params), result.params.W))
    return F, W, result


reference = cache(lambda *what: solve(xl.get_backend("numpy").reference(), *what))


@pytest.mark.parametrize(("solver", "loss", "penalty", "sharp"), SOLVED)
def test_every_backend_finds_the_same_optimum(library, solver, loss, penalty, sharp):
    expected, weights, _ = reference(solver, loss, penalty)
    F, W, result = solve(library.backend, solver, loss, penalty)
    assert result.reasons == ("converged",) * 2
    # Of a kinked loss the objective is known as near as the gap proves.
    kinked = isinstance(solver, Smoothing)
    np.testing.assert_allclose(F, expected, rtol=solver.tol if kinked else 1e-8)
    assert np.all(result.lower_bound <= expected)
    if sharp:
        np.testing.assert_allclose(W, weights, atol=1e-8 * np.abs(weights).max())


@pytest.mark.parametrize(("solver", "loss", "penalty"), [row[:3] for row in SOLVED])
def test_every_backend_makes_the_same_steps(backend, solver, loss, penalty):
    few = type(solver)(max_iter=5)
    _, expected, _ = reference(few, loss, penalty)
    _, W, _ = solve(backend.backend, few, loss, penalty)
    np.testing.assert_allclose(W, expected, atol=1e-10 * np.abs(expected).max())
