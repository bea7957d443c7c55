"""The pairs of L-BFGS in their rings: against the update written out, and what is copied."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from xplinear.losses import MulticlassHingeLoss, SoftmaxLoss, SquaredHingeLoss
from xplinear.minimize import minimize
from xplinear.objective import Params
from xplinear.penalties import L2Penalty
from xplinear.solvers import LBFGS, Smoothing
from xplinear.solvers.curvature import mean_inverse_hessians, own_inverse_hessians
from xplinear.solvers.gram import preconditioner
from xplinear.solvers.protocol import take_models

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


@pytest.mark.parametrize(
    ("loss", "k", "alphas", "weighted", "fit_intercept"),
    [
        (SoftmaxLoss(), 5, [1e-4], False, True),
        (SoftmaxLoss(), 5, [1e-2, 1e-4], True, False),
        (SoftmaxLoss(), 2, [1e-4], False, True),
        (SquaredHingeLoss(), 5, [1e-4], False, True),
    ],
)
def test_the_hessian_of_each_class_saves_iterations(
    numpy_backend: Any,
    monkeypatch: pytest.MonkeyPatch,
    loss: Any,
    k: int,
    alphas: list[float],
    weighted: bool,
    fit_intercept: bool,
) -> None:
    """And what stops at tol is as near to the optimum as without, or near enough."""
    monkeypatch.setattr("xplinear.solvers.curvature._WORTH", 0.0)
    backend, rng, n, p, m = numpy_backend, np.random.default_rng(0), 1000, 30, len(alphas)
    rows = (rng.standard_normal((n, p)) / np.arange(1, p + 1)) @ rng.standard_normal((p, p))
    labels = np.argmax(rows @ rng.standard_normal((p, k)) + rng.gumbel(size=(n, k)), axis=1)
    objective = backend.objective(
        loss, L2Penalty(), rows, labels, alpha=alphas, k=k, fit_intercept=fit_intercept
    )
    if weighted:
        weights = rng.integers(0, 3, (n, m)).astype(float)
        objective = replace(objective, data=objective.data.with_weights(backend.asarray(weights)))
    solver = LBFGS(tol=1e-5)
    own = minimize(objective, solver, release=False)
    assert own.state.preconditioner.blocks.shape == (m, 1 if k == 2 else k, p + 1, p + 1)
    monkeypatch.setattr("xplinear.solvers.lbfgs._LOOKS", ())
    plain = minimize(objective, solver, release=False)
    assert plain.state.preconditioner.blocks is None
    assert own.n_iter < 0.8 * plain.n_iter
    tight = minimize(objective, LBFGS(tol=1e-8), own.params)
    values = (backend.to_numpy(objective.value(r.params)) for r in (own, plain, tight))
    (a, b, best), zero = values, backend.to_numpy(objective.loss_at_zero())
    near = 100.0 * solver.tol**2 * (zero - best)  # ten times what is asked for
    assert (a - best <= np.maximum(b - best, near)).all()


def test_hessians_in_threads_are_those_made_in_turn(
    monkeypatch: pytest.MonkeyPatch, numpy_backend: Any
) -> None:
    """Of every model its own, from the rows of most curvature, which a label of them has."""
    backend, rng = numpy_backend, np.random.default_rng(0)
    rows, alpha = rng.standard_normal((500, 6)), [0.1, 0.2, 0.3, 0.4, 0.5]
    labels = (rows @ rng.standard_normal((6, 5)) > [0, 1, 1.5, 2, 2.5]).astype(int)
    objective = backend.objective(SoftmaxLoss(), L2Penalty(), rows, labels, alpha=alpha, k=2)
    W, b = objective.zeros()
    params = Params(W + 0.3, b - 1.0)
    pre = preconditioner(objective, gram=True)
    threads = own_inverse_hessians(objective, params, pre)
    monkeypatch.setattr("xplinear.solvers.curvature._SMALL", 0)
    in_turn = own_inverse_hessians(objective, params, pre)
    np.testing.assert_array_equal(*map(backend.to_numpy, (threads, in_turn)))
    for j, one in enumerate(backend.to_numpy(in_turn)[:, 0]):  # all rows are taken
        z = rows @ np.full(6, 0.3) - 1.0
        X = np.column_stack([rows - backend.to_numpy(pre.centre)[:, 0], np.ones(500)])
        h = np.exp(-np.logaddexp(0.0, z) - np.logaddexp(0.0, -z)) / 500
        H, damping = X.T @ (h[:, None] * X), np.linalg.inv(one)
        np.testing.assert_allclose((damping - H)[:6, 6], 0.0, atol=1e-12)
        assert (np.diag(damping - H)[:6] > alpha[j]).all()


def test_the_hessian_is_measured_where_that_pays(numpy_backend: Any) -> None:
    """Not for few iterations, little work, many features or classes."""
    rng = np.random.default_rng(0)

    def measured(n: int, p: int, k: int, iteration: int, *residuals: float, tol: float) -> bool:
        rows, labels = rng.standard_normal((n, p), dtype=np.float32), np.arange(n) % k
        alpha = [0.1] * len(residuals)
        objective = numpy_backend.objective(
            SoftmaxLoss(), L2Penalty(), rows, labels, alpha=alpha, k=k, dtype="float32"
        )
        solver = LBFGS(tol=tol, gram=False)
        state = solver.init(objective, objective.zeros())
        after = solver.renewed(objective, state, iteration, residuals)
        assert after is state or solver.renewed(objective, after, 20, residuals) is after
        return after is not state

    assert measured(20_000, 100, 10, 10, 1e-2, tol=1e-8)
    assert measured(20_000, 100, 10, 10, 1e-2, tol=0.0)
    assert not measured(20_000, 100, 10, 11, 1e-2, tol=1e-8)  # not every time
    assert not measured(20_000, 100, 10, 10, 1.1e-6, tol=1e-6)
    assert not measured(20_000, 100, 10, 10, 1e-7, tol=1e-6)
    assert not measured(20_000, 100, 10, 10, float("nan"), tol=1e-8)
    assert not measured(1_000, 30, 5, 10, 1e-2, tol=1e-8)
    assert not measured(500, 3_000, 5, 10, 1e-2, tol=1e-8)
    assert not measured(3_000, 20, 300, 10, 1e-2, tol=0.0)
    # Of a stack most models must have far to go, not one; those of which nothing is known have not.
    assert measured(20_000, 100, 10, 10, 1e-2, 1e-2, 1e-2, 2e-8, tol=1e-8)
    assert measured(20_000, 100, 10, 10, 1e-2, 1e-9, tol=1e-8)
    assert not measured(20_000, 100, 10, 10, 1e-2, 2e-8, 2e-8, 2e-8, tol=1e-8)


def test_inverse_hessians_of_a_stack_are_those_of_its_models(backend: Any) -> None:
    """And one that models share multiplies each of their vectors."""
    alphas, rng = [0.3, 1e-2], np.random.default_rng(0)
    objective = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=alphas)
    weights = backend.asarray(rng.integers(0, 3, (N, 2)).astype(float))
    objective = replace(objective, data=objective.data.with_weights(weights))
    params, pre, xp = backend.params(objective), preconditioner(objective, gram=False), backend.xp
    found = own_inverse_hessians(objective, params, pre)
    vector = backend.asarray(rng.standard_normal((2, K * P + K)))
    for j in range(2):
        one = backend.asarray(np.asarray([j]))
        own = take_models(params, one, xp=xp)
        alone = mean_inverse_hessians(objective.take(one), own, pre)
        block = backend.to_numpy(found)[j]
        np.testing.assert_allclose(block, backend.to_numpy(alone)[0], rtol=1e-9)
        shared = backend.to_numpy(pre._replace(blocks=alone).times(vector, K, xp=xp))[j]
        W, b = np.split(backend.to_numpy(vector)[j], [K * P])
        both = np.concatenate([W.reshape(K, P), b[:, None]], axis=1)
        both = np.einsum("kpq,kq->kp", block, both)
        expected = np.append(both[:, :-1].ravel(), both[:, -1])
        np.testing.assert_allclose(shared, expected, rtol=1e-9)
