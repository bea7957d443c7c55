"""A run in two parts is the run in one, to the last bit; what cannot go on says why."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from xplinear.arguments import ArgumentError
from xplinear.backends import backend_of
from xplinear.losses import MulticlassHingeLoss, SoftmaxLoss, SquaredErrorLoss
from xplinear.minimize import Interrupted, minimize
from xplinear.penalties import ElasticNetPenalty, L1Penalty, L2Penalty
from xplinear.solvers import (
    GD,
    LBFGS,
    SGD,
    SOLVERS,
    InteriorPoint,
    Newton,
    NewtonCG,
    ProximalLBFGS,
    Smoothing,
)

rng = np.random.default_rng(1)
X = rng.standard_normal((120, 5))
Y = np.argmax(X[:, :3] + 0.5 * rng.gumbel(size=(120, 3)), axis=1).astype(np.int32)
ALPHAS = (1e-3, 30.0, 0.3, 1e-2, 3.0, 0.1, 1.0)
L2, L1, HINGE = L2Penalty(), L1Penalty(), MulticlassHingeLoss()

# Solver, loss and penalty, and whether models leave before the others are done.
RUNS = [
    (GD(16, tol=3e-2), SoftmaxLoss(), L2, True),
    (GD(16, tol=1e-2), SoftmaxLoss(), ElasticNetPenalty(), True),
    (GD(16, step_size="curvature"), SoftmaxLoss(), L1, True),
    (GD(16), HINGE, L1, False),
    (LBFGS(16, tol=1e-6), SoftmaxLoss(), L2, True),
    (LBFGS(16, tol=1e-6, gram=False), SoftmaxLoss(), L2, True),
    (Newton(16, tol=1e-9), SoftmaxLoss(), L2, True),
    (NewtonCG(16, tol=1e-7), SoftmaxLoss(), L2, True),
    (ProximalLBFGS(16, tol=1e-7), SoftmaxLoss(), L1, True),
    (ProximalLBFGS(16, tol=1e-3), SoftmaxLoss(), ElasticNetPenalty(), True),
    (Smoothing(160, tol=1e-3), HINGE, L2, True),
    (InteriorPoint(16, tol=1e-9), HINGE, L2, True),
    (SGD(16, schedule="constant", tol=0.05, patience=2), SoftmaxLoss(), L2, True),
    (SGD(16, average=True, tol=0.02, schedule="inverse_scaling"), HINGE, L1, True),
    (SGD(16, average=True, nesterov=True, schedule="linear"), SoftmaxLoss(), L1, False),
    (SGD(16, learning_rate=(0.1,) * 7, momentum=0.5, schedule="cosine"), HINGE, L2, False),
]


def stack(case: Any, loss: Any, penalty: Any, **settings: Any) -> Any:
    return case.objective(loss, penalty, X, Y, **{"alpha": ALPHAS} | settings)


def after(n: int) -> Any:
    return lambda progress: progress.iteration == n


def leaves(part: Any) -> Iterator[Any]:
    """Yield everything in nested tuples and lists."""
    if isinstance(part, tuple | list):
        for one in part:
            yield from leaves(one)
    else:
        yield part


def assert_same(case: Any, result: Any, expected: Any) -> None:
    """Compare two results bit by bit, and what could go on from them; but not the clock."""
    assert (result.n_iter, result.reason) == (expected.n_iter, expected.reason)
    assert result.reasons == expected.reasons
    both = (
        leaves((r.params, r.loop._replace(history=[row[:-1] for row in r.loop.history])))
        for r in (result, expected)
    )
    for found, wanted in zip(*both, strict=True):
        if isinstance(wanted, str | int | float | None):
            assert found == wanted
        else:
            host = (a if isinstance(a, np.ndarray) else case.to_numpy(a) for a in (found, wanted))
            np.testing.assert_array_equal(*host)


def test_every_solver_is_run() -> None:
    assert {type(run[0]) for run in RUNS} >= set(SOLVERS.values())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{type(run[0]).__name__}-{run[1]}-{run[2]}")
@pytest.mark.parametrize("part", [0.3, 0.5, 0.8])
def test_two_parts_equal_the_whole(numpy_backend: Any, run: Any, part: float) -> None:
    solver, loss, penalty, some_leave = run
    objective = stack(numpy_backend, loss, penalty)
    whole = minimize(objective, solver)
    assert bool(whole.loop.left) == some_leave
    half = minimize(objective, solver, callbacks=[after(int(part * whole.n_iter))])
    assert half.reason == "callback"
    for _ in range(2):  # whoever goes on does not change where from
        again = minimize(objective, solver, loop=half.loop)
        assert_same(numpy_backend, again, whole)
        assert (np.diff(again.history["seconds"]) > 0).all()
        assert len(half.loop.history) == half.n_iter


@pytest.mark.parametrize("solver", [LBFGS(16, tol=1e-6), SGD(8, average=True)])
def test_two_parts_equal_the_whole_on_every_library(library: Any, solver: Any) -> None:
    objective = stack(library, SoftmaxLoss(), L2)
    half = minimize(objective, solver, callbacks=[after(4)])
    whole = minimize(objective, solver)
    assert_same(library, minimize(objective, solver, loop=half.loop), whole)


@pytest.mark.parametrize(
    ("solver", "loss"),
    [(LBFGS(16, tol=1e-6, memory=3), SoftmaxLoss()), (Smoothing(60, tol=1e-3), HINGE)],
)
@pytest.mark.parametrize("written", [20, 21, 22])
def test_a_step_that_is_cut_short_changes_nothing(
    numpy_backend: Any, solver: Any, loss: Any, written: int
) -> None:
    """Wherever it was, what it wrote into the state before is not read."""
    objective, writes = stack(numpy_backend, loss, L2), []

    def write(*args: Any) -> Any:
        writes.append(1)
        if len(writes) == written:
            raise KeyboardInterrupt
        return numpy_backend.backend.write(*args)

    pressed = replace(numpy_backend, backend=replace(numpy_backend.backend, write=write))
    with pytest.raises(Interrupted) as got:
        minimize(stack(pressed, loss, L2), solver)
    loop = got.value.result.loop
    assert 0 < loop.iteration < written / 2
    assert_same(numpy_backend, minimize(objective, solver, loop=loop), minimize(objective, solver))


@pytest.mark.parametrize("solver", [GD(40, tol=0.0), SGD(40), Newton(40, tol=0.0)])
def test_patience_goes_on(numpy_backend: Any, solver: Any) -> None:
    objective = stack(numpy_backend, SoftmaxLoss(), L2)
    score: dict[str, Any] = {
        "validation_score": lambda params: -objective.data_loss(params),
        "patience": 2,
        "min_improvement": 0.05,
    }
    whole = minimize(objective, solver, **score)
    assert whole.reason == "early_stopping"
    for n in range(1, whole.n_iter):
        half = minimize(objective, solver, callbacks=[after(n)], **score)
        assert_same(numpy_backend, minimize(objective, solver, loop=half.loop, **score), whole)


def test_the_best_so_far_is_so_by_the_measure_of_this_run(numpy_backend: Any) -> None:
    objective, solver = stack(numpy_backend, SoftmaxLoss(), L2), LBFGS(tol=1e-6)

    def press(progress: Any) -> None:
        if progress.iteration == 6:
            raise KeyboardInterrupt

    def perfect(params: Any) -> Any:
        return np.ones_like(params.b[:, 0])

    half = minimize(objective, solver, callbacks=[after(3)], validation_score=perfect)
    with pytest.raises(Interrupted) as got:
        minimize(objective, solver, callbacks=[press], loop=half.loop)
    with pytest.raises(Interrupted) as expected:
        minimize(objective, solver, callbacks=[press])
    for found, wanted in zip(got.value.result.params, expected.value.result.params, strict=True):
        np.testing.assert_array_equal(found, wanted)
    half = minimize(objective, solver, callbacks=[after(3)])
    worse = minimize(
        objective, solver, loop=half.loop, validation_score=lambda params: -99 * perfect(params)
    )
    assert (worse.n_iter, worse.reason) == (3 + 1 + 5, "early_stopping")


def test_ctrl_c_anywhere_loses_nothing(numpy_backend: Any) -> None:
    objective, solver = stack(numpy_backend, SoftmaxLoss(), L2), LBFGS(tol=1e-6)
    whole = minimize(objective, solver)

    class Pressed(LBFGS):
        def step(self, objective: Any, state: Any) -> Any:
            if objective.m < len(ALPHAS):  # when some have just left
                raise KeyboardInterrupt
            return super().step(objective, state)

    with pytest.raises(Interrupted) as got:
        minimize(objective, Pressed(tol=1e-6))
    loop = got.value.result.loop
    assert loop.left
    assert len(loop.running) < len(ALPHAS)
    assert_same(numpy_backend, minimize(objective, solver, loop=loop), whole)


def test_what_left_is_known_as_it_left_and_does_not_diverge_again(numpy_backend: Any) -> None:
    loop = minimize(stack(numpy_backend, SoftmaxLoss(), L2), LBFGS(tol=1e-6)).loop
    last = loop.last._replace(diverged=np.ones(len(ALPHAS)))
    loop = loop._replace(history=[*loop.history[:-1], last])
    seen = loop.observing(np.zeros((9, len(loop.running))), 1.0)
    gone = np.concatenate([models for models, _ in loop.left])
    assert gone.size
    assert not seen.diverged.any()
    np.testing.assert_array_equal(seen.loss[gone], last.loss[gone])


def test_what_is_done_stays_done(numpy_backend: Any) -> None:
    objective = stack(numpy_backend, SoftmaxLoss(), L2)
    for solver in (LBFGS(tol=1e-4), LBFGS(3)):
        done = minimize(objective, solver)
        assert_same(numpy_backend, minimize(objective, solver, loop=done.loop), done)
    longer = minimize(objective, LBFGS(20), loop=done.loop)  # max_iter is of the whole
    assert longer.n_iter > 3
    assert_same(numpy_backend, longer, minimize(objective, LBFGS(20)))


@pytest.mark.parametrize("run", RUNS[::2], ids=lambda run: type(run[0]).__name__)
def test_a_loop_can_be_stored(numpy_backend: Any, run: Any) -> None:
    solver, loss, penalty, _ = run
    objective = stack(numpy_backend, loss, penalty)
    whole = minimize(objective, solver)
    loop = minimize(objective, solver, callbacks=[after(whole.n_iter // 2)]).loop
    kinds = np.ndarray, np.number, int, float, str, type(None)
    assert all(isinstance(part, kinds) for part in leaves(loop))
    again = minimize(objective, solver, loop=pickle.loads(pickle.dumps(loop)))
    assert again.reasons == whole.reasons
    # Pickled, arrays lie in memory otherwise: sums round otherwise.
    for found, wanted in zip(again.params, whole.params, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_what_cannot_go_on_says_why(numpy_backend: Any) -> None:
    objective = stack(numpy_backend, SoftmaxLoss(), L2)
    solver = LBFGS(tol=1e-6)
    result = minimize(objective, solver)
    assert result.loop.left

    def refuses(why: str, objective: Any = objective, solver: Any = solver, **start: Any) -> None:
        with pytest.raises(ArgumentError, match=why):
            minimize(objective, solver, **start)

    refuses(
        "state must be a GDState, of this solver, got LBFGSState", solver=GD(), loop=result.loop
    )
    first = LBFGS().init(objective, objective.zeros())
    refuses("state must be a GDState, of this solver", solver=GD(), state=first)
    refuses("of 7 models, the others left: give loop instead", state=result.state)
    for other in (
        stack(numpy_backend, SoftmaxLoss(), L2, alpha=ALPHAS[:6]),
        stack(numpy_backend, SquaredErrorLoss(), L2),
        replace(objective, fit_intercept=False),
        stack(numpy_backend, SoftmaxLoss(), L2, dtype="float32"),
        numpy_backend.objective(SoftmaxLoss(), L2, X[:, :4], Y, alpha=ALPHAS),
        numpy_backend.objective(SoftmaxLoss(), L2, X[:90], Y[:90], alpha=ALPHAS),
    ):
        refuses("loop must be of this problem, .*; it is of SoftmaxLoss.*", other, loop=result.loop)
    few = numpy_backend.objective(SoftmaxLoss(), L2, X[:, :4], Y, alpha=ALPHAS)
    refuses("the params of state must be Params of W", few, state=first)
    refuses("give no params and no state with it", loop=result.loop, params=objective.zeros())
    refuses("give no params and no state with it", loop=result.loop, state=first)
    score = objective.data_loss
    refuses("models have left its stack", loop=result.loop, validation_score=score)
    refuses("loop must be the loop of a Result of minimize or None", loop=result)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{type(run[0]).__name__}-{run[1]}-{run[2]}")
@pytest.mark.parametrize("done", [False, True])
def test_a_problem_of_the_same_shape_is_another(numpy_backend: Any, run: Any, done: bool) -> None:
    solver, loss, penalty, _ = run
    objective = stack(numpy_backend, loss, penalty)
    loop = minimize(objective, solver, callbacks=[] if done else [after(3)]).loop
    weaker = stack(numpy_backend, loss, penalty, alpha=(*ALPHAS[:3], 0.011, *ALPHAS[4:]))
    with pytest.raises(ArgumentError, match=r"other strengths: the penalty of model 3 was"):
        minimize(weaker, solver, loop=loop)
    if isinstance(solver, SGD):  # whose loss is a mean over an epoch
        return
    others = [
        numpy_backend.objective(loss, penalty, X[:, ::-1], Y, alpha=ALPHAS),
        numpy_backend.objective(loss, penalty, X, np.roll(Y, 1), alpha=ALPHAS),
        numpy_backend.objective(loss, penalty, X, Y, np.linspace(0, 2, 120)[:, None], alpha=ALPHAS),
    ]
    for other in others:
        with pytest.raises(ArgumentError, match=r"other rows, labels or weights: the loss of mod"):
            minimize(other, solver, loop=loop)


def test_it_goes_on_in_the_library_where_it_was(numpy_backend: Any) -> None:
    strict = pytest.importorskip("array_api_strict")
    loop = minimize(stack(numpy_backend, SoftmaxLoss(), L2), LBFGS(3)).loop
    elsewhere = replace(numpy_backend, backend=backend_of(strict.asarray(0)))
    with pytest.raises(ArgumentError, match=r"params of state: W must be .* array_api_strict"):
        minimize(stack(elsewhere, SoftmaxLoss(), L2), LBFGS(6), loop=loop)
