"""The pairs of L-BFGS in their rings: against the update written out, and what is copied."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from xplinear.losses import MulticlassHingeLoss, SoftmaxLoss
from xplinear.objective import Params
from xplinear.penalties import L2Penalty
from xplinear.solvers import LBFGS, Smoothing

rng = np.random.default_rng(0)
N, P, K, MEMORY = 60, 4, 3, 3
X = rng.standard_normal((N, P)) * [1.0, 3.0, 0.3, 1.0] + 1.0
Y = np.argmax(X[:, :K] + rng.gumbel(size=(N, K)), axis=1).astype(np.int32)


def dense_inverse(H: Any, pairs: list[Any]) -> Any:
    """Return what BFGS makes of an inverse Hessian, by its formula."""
    for s, y in pairs:
        V = np.eye(len(s)) - np.outer(s, y) / (s @ y)
        H = V @ H @ V.T + np.outer(s, s) / (s @ y)
    return H


def dense_start(case: Any, pre: Any, m: int, d: int) -> Any:
    """Return the preconditioner of each model as a matrix ``(m, d, d)``."""
    arrays = {name: case.to_numpy(getattr(pre, name)) for name in ("basis", "inner")}
    pre = pre._replace(**arrays)
    columns = [pre.times(np.tile(e, (m, 1)), K, xp=np) for e in np.eye(d)]
    return np.stack(columns, axis=2)


@pytest.mark.parametrize("gram", [True, False])
def test_steps_are_those_of_the_update_written_out(backend: Any, gram: bool) -> None:
    """More steps than places, and models that reject some: their rings are at odds."""
    alphas = (1e-4, 0.1, 3.0)
    objective = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=alphas)
    solver = LBFGS(tol=0.0, memory=MEMORY, gram=gram)
    W, b = backend.params(objective)
    state = solver.init(objective, Params(20.0 * W, b))  # so far off that steps are too long
    host = backend.to_numpy
    m, d = state.point.shape
    start = dense_start(backend, state.preconditioner, m, d)
    for j in range(m):
        np.testing.assert_allclose(start[j], start[j].T, atol=1e-12)
    pairs: list[list[Any]] = [[] for _ in alphas]
    scale, rejected = host(state.scale).copy(), np.zeros(m, dtype=int)
    for _ in range(14):
        proposal = solver.propose(objective, state)
        point, gradient, length = (
            host(a).copy() for a in (state.point, state.gradient, state.report.step_size)
        )
        moves = host(proposal.point) - point
        for j in range(m):
            H = dense_inverse(scale[j] * start[j], pairs[j][-MEMORY:])
            np.testing.assert_allclose(moves[j], -length[j] * H @ gradient[j], 1e-7, 1e-10)
            np.testing.assert_allclose(host(proposal.slope)[j], gradient[j] @ moves[j], 1e-7, 1e-12)
        found = objective.data_loss_and_grad(proposal.params)
        state = solver.judge(objective, state, proposal, found)
        for j in range(m):
            s, y = host(state.point)[j] - point[j], host(state.gradient)[j] - gradient[j]
            rejected[j] += not s.any()
            if s.any() and s @ y > 1e-12 * s @ s:
                pairs[j].append((s, y))
                scale[j] = s @ y / (y @ start[j] @ y)
        np.testing.assert_allclose(host(state.scale), scale, 1e-7)
    assert len({len(known) for known in pairs}) > 1
    assert rejected.any()
    assert min(len(known) for known in pairs) > MEMORY + 1


def test_a_stack_that_is_taken_has_rings_of_its_own(numpy_backend: Any) -> None:
    objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=(0.1, 0.01))
    solver = LBFGS()
    state = solver.step(objective, solver.init(objective, objective.zeros()))
    xp = numpy_backend.xp
    for other in (solver.copy(state, xp=xp), solver.take(state, np.arange(2), xp=xp)):
        for name in ("steps", "changes"):
            one, own = getattr(state, name), getattr(other, name)
            np.testing.assert_array_equal(one, own)
            assert not np.shares_memory(one, own)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(
    ("solver", "loss"), [(LBFGS(memory=40), SoftmaxLoss()), (Smoothing(), MulticlassHingeLoss())]
)
def test_an_iteration_copies_no_ring(numpy_backend: Any, solver: Any, loss: Any, m: int) -> None:
    rows = np.random.default_rng(0).standard_normal((10, 5000))
    alpha, labels = np.full(m, 0.1), np.arange(10) % K
    objective = numpy_backend.objective(loss, L2Penalty(), rows, labels, alpha=alpha)
    state = solver.init(objective, objective.zeros())
    for _ in range(3):
        state = solver.step(objective, state)
    tracemalloc.start()
    try:
        state = solver.step(objective, state)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    vectors = peak / state.params.W.nbytes
    assert vectors < 16  # a ring is 41, or 80
