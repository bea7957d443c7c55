"""Which solver goes to the optimum, the fit itself, and what is said where it fell short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from xplinear.arguments import configured, warn
from xplinear.backends import matmul_precision
from xplinear.checks.certificate import Certificate, certify
from xplinear.estimator.journal import Journal, Runs
from xplinear.estimator.memory import within_memory
from xplinear.estimator.predictions import accuracy
from xplinear.estimator.problem import Problem
from xplinear.estimator.settings import Settings
from xplinear.formats.fitted import Fitted, joined
from xplinear.minimize import Interrupted, Progress, Result, minimize
from xplinear.objective import Objective, Params
from xplinear.penalties import has_strength
from xplinear.solvers import SOLVERS, Solver
from xplinear.solvers.automatic import automatic_solver, cheap_optimum, shared_passes
from xplinear.solvers.protocol import declared, take_models

__all__ = [
    "at_the_floor",
    "certificate_of",
    "minimized",
    "solve",
    "solve_in_turn",
    "solver_for",
    "warn_of_no_optimum",
]

Solution: TypeAlias = tuple[Fitted, KeyboardInterrupt | None]

_WORSE = 1.01  # than no weights at all, but for the noise of short fits
_SEPARATED = 1e-4  # share of the first loss below which every row is on its side


def certificate_of(objective: Objective, solver: Solver, result: Result) -> Certificate | None:
    """Return how far a result can be from the optimum; None where the solver does not go there.

    Short fits that do not would pay much for two more passes.
    """
    return certify(objective, result, solver) if declared(solver, "exact") else None


def solver_for(
    settings: Settings, objective: Objective, seed: int, *, partial: bool = False
) -> Any:
    """Return the solver of a fit, or of a call of `partial_fit`, told what the settings say."""
    solver = settings.solver
    if solver == "auto":
        cheap = cheap_optimum(objective)
        exact = (cheap or shared_passes(objective)) and not (partial or settings.stochastic)
        penalized = not settings.unpenalized
        auto = automatic_solver(objective, objective.m, penalized=penalized) if exact else "sgd"
        solver = auto
    if isinstance(solver, str):
        rate = None if settings.learning_rate == "auto" else settings.learning_rate
        named = "max_iter", "tol", "batch_size", "momentum"
        told = {name: getattr(settings, name) for name in named}
        told |= {"patience": settings.n_iter_no_change, "learning_rate": rate, "seed": seed}
        solver = configured(SOLVERS[solver], told)
    if not partial:
        return solver
    in_turn = declared(solver, "in_turn")
    if in_turn is None:
        msg = f"partial_fit needs solver='sgd' (or 'auto'), got {settings.solver!r}"
        raise ValueError(msg)
    return in_turn()


def minimized(
    runs: Runs,
    objective: Objective,
    solver: Any,
    start: Params | None = None,
    *,
    state: Callable[[], Any] | None = None,
    whole: bool = False,
    **settings: Any,
) -> tuple[Result, KeyboardInterrupt | None]:
    """Return what `minimize` finds, and the Ctrl-C to raise again once it is kept.

    The only door to it: what a journal knows is not found again, nor is the ``state`` to start from
    made. Of a result whose state is looked at after the next run, it is kept ``whole``.
    """
    journal, best = runs.journal, settings.get("validation_score") is not None
    known = journal.recalled(objective, solver, best=best, whole=whole)
    if isinstance(known, Result):
        return known, None
    with matmul_precision(runs.precision):
        begin = {"loop": known} if known else {"params": start, "state": state and state()}
        try:
            result = minimize(objective, solver, **begin, **settings, keep=journal.keep)
        except Interrupted as interrupt:
            journal.found(interrupt.result)
            return interrupt.result, interrupt.with_traceback(None)
        except Exception as error:
            if objective.m > 1 and objective.data.backend.out_of_memory(error):
                journal.refused()
            raise
    journal.found(result)
    return result, None


class _Outcome(NamedTuple):
    """What became of some models: the iterations of all, and of each, and where it ended."""

    fitted: Fitted
    result: Result
    tol: float


def solve(
    settings: Settings,
    problem: Problem,
    warm: Fitted | None,
    callbacks: Sequence[Callable[[Progress], bool | None]],
    journal: Journal,
) -> Solution:
    """Solve a problem, from a ``warm`` start if there is one, and say what ended it early.

    Many models are solved as many at a time as memory holds; a stack that it does not is halved.
    Returned is the model, and the Ctrl-C to raise again once it is kept.
    """
    outcomes: list[_Outcome] = []
    models, width, done, part = problem.sample.targets.models, problem.objective.m, 0, problem
    interrupt: KeyboardInterrupt | None = None
    while True:
        own = partial(_solved, settings, part, warm, callbacks, journal)
        found = within_memory(part.objective, own)
        if found is None:
            width //= 2
        else:
            outcome, interrupt = found
            outcomes.append(outcome)
            done += part.objective.m
        if done == models:
            break
        if interrupt is not None:
            msg = f"interrupted before every label had its turn; {journal.rest}"
            raise KeyboardInterrupt(msg) from interrupt
        part = problem.of(slice(done, min(done + width, models)))
    _warn_of_early_ends(settings, problem.objective, outcomes)
    return joined([one.fitted for one in outcomes]), interrupt


def _solved(
    settings: Settings,
    problem: Problem,
    warm: Fitted | None,
    callbacks: Sequence[Callable[[Progress], bool | None]],
    journal: Journal,
) -> tuple[_Outcome, KeyboardInterrupt | None]:
    start = problem.start_from(warm) if warm else None
    objective = problem.objective
    run = partial(minimized, Runs(settings.precision, journal))
    solver = solver_for(settings, objective, problem.seed)
    relay = declared(solver, "relay") if settings.solver == "auto" else None
    solver, successor = (relay and relay(objective)) or (solver, None)
    held_out = problem.held_out
    result, interrupt = run(
        objective,
        solver,
        start,
        validation_score=partial(accuracy, replace(objective, data=held_out)) if held_out else None,
        patience=settings.n_iter_no_change,
        min_improvement=settings.tol,
        callbacks=callbacks,
    )
    n_iter = result.iterations_of_each
    behind = [j for j, why in enumerate(result.reasons) if why in ("max_iter", "rounding")]
    if successor and behind and interrupt is None:
        solver, at = successor, np.asarray(behind)
        index = objective.data.backend.asarray(at)
        some = objective.take(index) if len(at) < objective.m else objective
        begin = take_models(result.params, index, xp=objective.xp)
        more, interrupt = run(some, solver, begin, callbacks=callbacks)
        n_iter[at] += more.iterations_of_each
        result = _gone_on(objective, result, more, at)
    result = problem.rounded(result)
    certificate = None
    try:
        certificate = journal.certified(partial(certificate_of, objective, solver, result))
    except KeyboardInterrupt as error:
        interrupt = interrupt or error.with_traceback(None)
    fitted = problem.fitted(solver, result, certificate, n_iter=n_iter)
    return _Outcome(fitted, result, getattr(solver, "tol", settings.tol)), interrupt


def _gone_on(
    objective: Objective, before: Result, after: Result, models: np.ndarray[Any, Any]
) -> Result:
    """Return the result of a stack some of whose models went on after the others."""
    rest = np.setdiff1d(np.arange(objective.m), models)
    asarray, xp = objective.data.backend.asarray, objective.xp
    params = after.params
    if rest.size:
        kept = take_models(before.params, asarray(rest), xp=xp)
        order = asarray(np.argsort(np.concatenate([rest, models])))
        both = xp.concat([kept.W, params.W], axis=1), xp.concat([kept.b, params.b], axis=0)
        params = take_models(Params(*both), order, xp=xp)

    def scattered(old: Any, new: Any) -> Any:
        whole = np.repeat(old, len(new), axis=0) if new.ndim == 2 else old.copy()
        whole[..., models] = new
        return whole

    history = dict(before.history)
    for name, a in after.history.items():
        own = a + history[name][-1] if name == "seconds" else scattered(history[name][-1:], a)
        history[name] = np.concatenate([history[name], own])
    names = "converged", "residual", "lower_bound"
    reasons = scattered(np.asarray(before.reasons, object), np.asarray(after.reasons, object))
    return replace(
        after,
        params=params,
        n_iter=before.n_iter + after.n_iter,
        history=history,
        reasons=tuple(reasons),
        **{name: scattered(getattr(before, name), getattr(after, name)) for name in names},
    )


def _warn_of_early_ends(
    settings: Settings, objective: Objective, outcomes: Sequence[_Outcome]
) -> None:
    """Say how many models ended before ``tol``, by ``max_iter`` or by rounding."""
    results, tol = [one.result for one in outcomes], outcomes[-1].tol
    reasons = [reason for one in results for reason in one.reasons]
    many = len(reasons) > 1
    early = sum(int((~one.converged).sum()) for one in results if one.reason == "max_iter")
    if early:
        made = max(one.n_iter for one in results)
        which = f"{early} of {len(reasons)} models " if many else ""
        warn(
            f"{which}stopped after max_iter={made} iterations before tol={tol} was reached: more "
            "would improve the weights; raise max_iter, or tol if they are good enough",
            ConvergenceWarning,
        )
    floor = [j for j, reason in enumerate(reasons) if reason == "rounding"]
    if floor:
        residual, bound = (
            np.concatenate([getattr(one, name) for one in results])[floor]
            for name in ("residual", "lower_bound")
        )
        worst = int(np.nanargmax(residual)) if np.isfinite(residual).any() else 0
        measure = "gap" if np.isfinite(bound[worst]) else "residual"
        measured = f"{measure} {'up to ' * many}{residual[worst]:.0e}"
        which = f"{len(floor)} of {len(reasons)} models " if many else ""
        message = at_the_floor(objective, settings.precision, measured, tol)
        warn(which + message, ConvergenceWarning)


def solve_in_turn(settings: Settings, problem: Problem, model: Fitted | None) -> Solution:
    """Make one epoch of SGD, going on from a model if there is one."""
    objective = problem.objective
    solver = solver_for(settings, objective, problem.seed, partial=True)
    start = objective.zeros() if model is None else problem.start_from(model)
    previous = None if model is None else model.sgd_state
    # Each call's weights are told in a unit of its own.
    shift = 0.0 if model is None else model.weight_unit - problem.sample.weight_unit
    unit: Any = np.exp2(np.clip(shift, -60.0, 60.0))
    unit = objective.data.backend.asarray(unit, objective.data.dtype) if unit.ndim else float(unit)
    with matmul_precision(settings.precision):
        state = solver.init(objective, start, previous, unit)
    runs = Runs(settings.precision, Journal(None))
    result, interrupt = minimized(runs, objective, solver, state=lambda: state)
    before = model if model is not None and previous is not None else None
    n_iter = result.iterations_of_each
    if before is not None and before.n_iter is not None:
        n_iter = n_iter + before.n_iter
    fitted = problem.fitted(solver, result, None, before, sgd_state=result.state, n_iter=n_iter)
    return fitted, interrupt


def warn_of_no_optimum(objective: Objective, fitted: Fitted) -> None:
    """Say so when there is no optimum, or the start was better than what was found."""
    zero = float(objective.data.backend.to_host(objective.loss_at_zero())[0])
    known: Any = fitted.alpha, np.atleast_1d(cast(Any, fitted.objective))
    alpha, value = np.broadcast_arrays(*known)
    free = (alpha == 0.0) | (not has_strength(objective.penalty))
    parted = free & objective.loss.probabilistic & (value < _SEPARATED * zero)
    worse = ~(value <= _WORSE * zero)
    of = f" of {len(value)} models" if len(value) > 1 else ""
    if parted.any():
        what = f"the rows of {int(parted.sum())}{of}" if of else "the classes"
        warn(
            f"a linear function separates {what}, and nothing holds the weights: they grow as "
            "long as the fit goes on; set a penalty",
            ConvergenceWarning,
        )
    if worse.any():
        which = f" of {int(worse.sum())}{of}" if of else ""
        warn(
            f"the objective{which} is {value[worse].max():.4g}, above the {zero:.4g} of zero "
            "weights: nothing was learnt; set learning_rate='auto', standardize=True or another "
            "solver",
            ConvergenceWarning,
        )


def at_the_floor(objective: Objective, precision: str, measured: str, tol: float) -> str:
    """Return what rounding prevented, and what to do."""
    floor, remedy = f"float{objective.xp.finfo(objective.data.dtype).bits}", ""
    if precision == "tf32":
        floor, remedy = precision, "use precision='float32' or "
    elif floor == "float32":
        remedy = "use dtype='float64' or "
    return (
        f"stopped at the {floor} floor: relative {measured}, above tol={tol:g}, and rounding hides "
        f"what would improve the weights; {remedy}raise tol"
    )
