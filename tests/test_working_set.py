"""Where most weights stay zero only some are moved; what is found is the optimum over all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xplinear.backends import host_reads
from xplinear.data import StreamedData
from xplinear.duality import value_and_lower_bound
from xplinear.losses import SoftmaxLoss, SquaredHingeLoss
from xplinear.minimize import minimize
from xplinear.objective import Params
from xplinear.penalties import ElasticNetPenalty, L1Penalty
from xplinear.solvers import ProximalLBFGS
from xplinear.solvers.working_set import chosen, hessian, narrowed, ranking, widened

rng = np.random.default_rng(0)
N, P, K = 60, 800, 3
X = rng.standard_normal((N, P))
Y = np.argmax(X[:, :K] + 0.3 * rng.gumbel(size=(N, K)), axis=1).astype(np.int32)
ALPHAS = (0.1, 0.01, 0.001)


def proven(objective, params, backend):
    """Return by how much F may still fall, at most, relative to F."""
    value, bound = (backend.to_numpy(a) for a in value_and_lower_bound(objective, params))
    return np.max((value - bound) / value)


def assert_the_optimum_is_found(backend, loss, alphas):
    objective = backend.objective(loss, L1Penalty(), X, Y, alpha=alphas)
    result = minimize(objective, ProximalLBFGS(tol=1e-6))
    assert result.reasons == ("converged",) * len(alphas)
    assert result.n_iter < 50
    assert proven(objective, result.params, backend) < 1e-6
    assert (backend.to_numpy(result.params.W) == 0).mean() > 0.9


def test_it_finds_the_optimum_in_few_iterations(library):
    assert_the_optimum_is_found(library, SoftmaxLoss(), ALPHAS[:1])


@pytest.mark.parametrize("loss", [SoftmaxLoss(), SquaredHingeLoss()])
def test_a_stack_finds_all_optima_in_few_iterations(numpy_backend, loss):
    assert_the_optimum_is_found(numpy_backend, loss, ALPHAS[:2])


def test_two_classes_of_many_features(numpy_backend):
    wide = np.random.default_rng(0).standard_normal((100, 20_000))
    y = (wide[:, :3].sum(axis=1) > 0).astype(np.int32)
    for alpha in (0.1, 0.001):
        objective = numpy_backend.objective(
            SoftmaxLoss(), L1Penalty(), wide, y, alpha=(alpha,), k=2
        )
        result = minimize(objective, ProximalLBFGS(tol=1e-5))
        assert result.n_iter < 30
        assert proven(objective, result.params, numpy_backend) < 1e-7


def test_a_stack_equals_single_fits(numpy_backend):
    s = rng.integers(0, 3, size=(N, 3)).astype(float)
    penalty, solver = ElasticNetPenalty(0.7), ProximalLBFGS(tol=1e-8)
    stacked = numpy_backend.objective(SoftmaxLoss(), penalty, X, Y, s, alpha=ALPHAS)
    W, b = minimize(stacked, solver).params
    for j, alpha in enumerate(ALPHAS):
        single = numpy_backend.objective(SoftmaxLoss(), penalty, X, Y, s[:, [j]], alpha=(alpha,))
        alone = minimize(single, solver).params
        np.testing.assert_allclose(W[:, j], alone.W[:, 0], atol=1e-6)
        np.testing.assert_allclose(b[j], alone.b[0], atol=1e-6)


def test_a_path_starts_from_what_was_in_use(numpy_backend):
    solver, state, before, cold, warm = ProximalLBFGS(), None, None, 0, 0
    for alpha in np.logspace(-1, -3, 6):
        objective = numpy_backend.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=(alpha,))
        cold += minimize(objective, solver).n_iter
        if state is not None:
            state = solver.follow(objective, state.params, state, before)
        result = minimize(objective, solver, state=state, release=False)
        state, before, warm = result.state, objective.alpha, warm + result.n_iter
        assert proven(objective, result.params, numpy_backend) < 1e-5
    assert warm < cold


def test_streamed_rows_give_the_same(backend):
    case = backend.with_blocks_of(100_000)
    objective = case.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=(0.05,))
    streamed = replace(objective, data=StreamedData(X, case.asarray(Y), None, backend=case.backend))
    solver = ProximalLBFGS(max_iter=3)
    one, other = (case.to_numpy(minimize(F, solver).params.W) for F in (objective, streamed))
    np.testing.assert_allclose(one, other, atol=1e-10)


def test_the_host_reads_once_more_per_iteration(backend):
    objective = backend.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=(0.05,))
    before = host_reads.count
    result = minimize(objective, ProximalLBFGS(max_iter=3))
    assert host_reads.count - before <= 2 * result.n_iter + 1  # and one for the step ahead


def test_what_is_chosen_is_in_use_or_gains_most(backend):
    xp = backend.xp
    W, gain = np.zeros((6, 2, 2)), rng.random((2, 2, 6))
    W[4, 0, 0] = W[1, 0, 1] = W[5, 1, 0] = 1.0
    running = backend.asarray([True, False])
    order, summary = ranking(xp, backend.asarray(W), backend.asarray(gain), running, running)
    assert backend.to_numpy(summary).tolist() == [1.0, 2.0, 1.0]
    index = backend.to_numpy(chosen(3, xp, order).index)
    for column, used in enumerate((4, 1)):
        rest = [j for j in np.argsort(-gain[0, column]) if j != used]
        assert index[column].tolist() == [used, *rest[:2]]


def test_wide_after_narrow_changes_only_what_was_chosen(backend):
    xp, a = backend.xp, rng.standard_normal((2, 3, 7))
    order = backend.asarray(np.stack([rng.permutation(6) for _ in range(3)]))
    columns = chosen(4, xp, order)
    few = narrowed(backend.asarray(a), columns, xp=xp)
    np.testing.assert_array_equal(
        backend.to_numpy(widened(few, backend.asarray(a), columns, xp=xp)), a
    )
    doubled = backend.to_numpy(widened(2.0 * few, backend.asarray(a), columns, xp=xp))
    assert (doubled != a).sum() == 2 * 3 * 5


def test_the_hessian_of_some_columns_is_a_part_of_all(backend):
    few = backend.objective(SoftmaxLoss(), L1Penalty(), X[:, :6], Y, alpha=ALPHAS[:2])
    W, b = backend.params(few)
    order = backend.asarray(np.stack([rng.permutation(6) for _ in range(3)]))
    columns, centre = chosen(4, backend.xp, order), backend.asarray(X[:, :6].mean(axis=0))
    part = backend.to_numpy(hessian(few, Params(W, b), centre, columns))
    index = backend.to_numpy(columns.index)
    where = np.concatenate([7 * j + np.append(index[j], 6) for j in range(3)])
    every = backend.to_numpy(hessian(few, Params(W, b), centre))
    np.testing.assert_allclose(part, every[:, where][:, :, where], atol=1e-12)
