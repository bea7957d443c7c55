"""Which solver goes to the optimum, the fit itself, and what is said where it fell short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from xplinear.arguments import configured, warn
from xplinear.backends import matmul_precision
from xplinear.checks.certificate import Certificate, certify
from xplinear.estimator.predictions import accuracy
from xplinear.estimator.problem import Problem, history_of_one
from xplinear.estimator.settings import Settings
from xplinear.formats.fitted import Fitted
from xplinear.minimize import Interrupted, Progress, Result, minimize
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params
from xplinear.penalties import has_strength
from xplinear.solvers import SOLVERS, Solver
from xplinear.solvers.automatic import automatic_solver, cheap_optimum
from xplinear.solvers.protocol import declared

__all__ = [
    "at_the_floor",
    "certificate_of",
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
        exact = cheap_optimum(objective) and not (partial or settings.stochastic)
        penalized = not settings.unpenalized
        solver = automatic_solver(objective, penalized=penalized) if exact else "sgd"
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


def _minimized(
    precision: str, objective: Objective, solver: Any, start: Params | None = None, **settings: Any
) -> tuple[Result, KeyboardInterrupt | None]:
    """Return what `minimize` finds, and the Ctrl-C to raise again once it is kept."""
    with matmul_precision(precision):
        try:
            return minimize(objective, solver, start, **settings), None
        except Interrupted as interrupt:
            return interrupt.result, interrupt


def solve(
    settings: Settings,
    problem: Problem,
    start: Params | None,
    callbacks: Sequence[Callable[[Progress], bool | None]],
) -> Solution:
    """Solve a problem, and say so where rounding or ``max_iter`` ended that.

    Returned are the model, and the Ctrl-C to raise again once it is kept.
    """
    objective = problem.objective
    minimized = partial(_minimized, settings.precision, objective)
    solver = solver_for(settings, objective, problem.seed)
    relay = declared(solver, "relay") if settings.solver == "auto" else None
    solver, successor = (relay and relay(objective)) or (solver, None)
    held_out = problem.held_out
    result, interrupt = minimized(
        solver,
        start,
        validation_score=partial(accuracy, replace(objective, data=held_out)) if held_out else None,
        patience=settings.n_iter_no_change,
        min_improvement=settings.tol,
        callbacks=callbacks,
    )
    before = None
    if successor and interrupt is None and result.reasons[0] in ("max_iter", "rounding"):
        before, solver = history_of_one(result.history), successor
        result, interrupt = minimized(successor, result.params, callbacks=callbacks)
    tol = getattr(solver, "tol", settings.tol)
    if result.reason == "max_iter" and not result.converged.all():
        made = result.n_iter + (0 if before is None else len(before["seconds"]))
        warn(
            f"stopped after max_iter={made} iterations before tol={tol} was reached: more "
            "would improve the weights; raise max_iter, or tol if they are good enough",
            ConvergenceWarning,
        )
    if result.reasons[0] == "rounding":
        measure = "gap" if np.isfinite(result.lower_bound[0]) else "residual"
        measured = f"{measure} {result.residual[0]:.0e}"
        warn(at_the_floor(objective, settings.precision, measured, tol), ConvergenceWarning)
    result = problem.rounded(result)
    certificate = None
    try:
        certificate = certificate_of(objective, solver, result)
    except KeyboardInterrupt as error:
        interrupt = interrupt or error
    return problem.fitted(solver, result, certificate, before), interrupt


def solve_in_turn(settings: Settings, problem: Problem, model: Fitted | None) -> Solution:
    """Make one epoch of SGD, going on from a model if there is one."""
    objective = problem.objective
    solver = solver_for(settings, objective, problem.seed, partial=True)
    start = objective.zeros() if model is None else problem.start_from(model)
    previous = None if model is None else model.sgd_state
    # Each call's weights are told in a unit of its own.
    shift = 0.0 if model is None else model.weight_unit - problem.sample.weight_unit
    unit = 2.0 ** float(np.clip(shift, -60.0, 60.0))
    with matmul_precision(settings.precision):
        state = solver.init(objective, start, previous, unit)
    result, interrupt = _minimized(settings.precision, objective, solver, state=state)
    before = model.history if model is not None and previous is not None else None
    return problem.fitted(solver, result, before=before, sgd_state=result.state), interrupt


def _loss_and_strength(xp: Namespace, zero: Array, alpha: Array) -> Array:
    return xp.stack([zero[0], xp.max(alpha)])


def warn_of_no_optimum(objective: Objective, value: float) -> None:
    """Say so when there is no optimum, or the start was better than what was found."""
    backend = objective.data.backend
    ends = backend.compile(_loss_and_strength, objective.xp)
    zero, alpha = backend.to_host(ends(objective.loss_at_zero(), objective.alpha)).tolist()
    free = alpha == 0.0 or not has_strength(objective.penalty)
    if free and objective.loss.probabilistic and value < _SEPARATED * zero:
        warn(
            "a linear function separates the classes, and nothing holds the weights: they grow as "
            "long as the fit goes on; set a penalty",
            ConvergenceWarning,
        )
    if not value <= _WORSE * zero:
        warn(
            f"the objective is {value:.4g}, above the {zero:.4g} of zero weights: nothing was "
            "learnt; set learning_rate='auto', standardize=True or another solver",
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
