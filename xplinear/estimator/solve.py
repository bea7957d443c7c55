"""Which solver goes to the optimum, the fit itself, and what is said where it fell short."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from xplinear.backends import matmul_precision
from xplinear.checks.certificate import Certificate, certify
from xplinear.estimator.predictions import accuracy
from xplinear.estimator.problem import Problem, history_of_one, is_cheap
from xplinear.estimator.settings import Settings
from xplinear.formats.fitted import Fitted
from xplinear.minimize import Interrupted, Progress, Result, minimize
from xplinear.objective import Objective, Params
from xplinear.penalties import L2Penalty, NoPenalty
from xplinear.solvers import (
    GD,
    LBFGS,
    SGD,
    SOLVERS,
    InteriorPoint,
    Newton,
    ProximalLBFGS,
    Smoothing,
    Solver,
)
from xplinear.solvers.interior_point import interior_point_pays
from xplinear.solvers.newton import newton_pays

__all__ = [
    "Solution",
    "at_the_floor",
    "automatic_solver",
    "certificate_of",
    "solve",
    "solve_in_turn",
    "solver_for",
    "warn_of_no_optimum",
]

_TO_THE_OPTIMUM = InteriorPoint, LBFGS, Newton, ProximalLBFGS, Smoothing
_UNCERTIFIED = GD, SGD  # short fits of these would pay much for two more passes
_TRIED = 200  # iterations of L-BFGS before a Newton step is worth what it costs
_AFFORDABLE_STEP = 5e9  # operations: some tenths of a second
_WORSE = 1.01  # than no weights at all, but for the noise of short fits
_SEPARATED = 1e-4  # share of the first loss below which every row is on its side


def certificate_of(objective: Objective, solver: Solver, result: Result) -> Certificate | None:
    """Return how far a result can be from the optimum; None where the solver does not go there."""
    return None if isinstance(solver, _UNCERTIFIED) else certify(objective, result, solver)


def automatic_solver(objective: Objective, lanes: int = 1, strengths: int = 1) -> str:
    """Return the name of the solver that finds the optimum of this objective, or ``sgd``.

    Second-order steps are for few weights: those of ``lanes`` models at a time, which follow a
    path of ``strengths``; an interior point follows none, and solves all at once.
    """
    loss, penalty = objective.loss, objective.penalty
    if loss.smooth and penalty.smooth:
        return "newton" if newton_pays(objective, lanes) else "lbfgs"
    if loss.smooth:
        return "proximal_lbfgs"
    if interior_point_pays(objective, lanes * strengths):
        return "interior_point"
    suits = isinstance(penalty, L2Penalty) and hasattr(loss, "smoothed")
    return "smoothing" if suits else "sgd"


def solver_for(
    settings: Settings, objective: Objective, seed: int, *, partial: bool = False
) -> Any:
    """Return the solver of a fit, or of a call of `partial_fit`, told what the settings say."""
    name, data = settings.solver, objective.data
    if name == "auto":
        optimum = automatic_solver(objective)
        cheap = is_cheap(data.n, data.p, objective.k)
        lost = optimum in ("interior_point", "smoothing") and settings.unpenalized
        name = "sgd" if partial or settings.stochastic or not cheap or lost else optimum
    limit = 1000 if settings.max_iter is None else settings.max_iter
    rate = settings.learning_rate
    if name == "gd" and not partial:
        return GD(limit, settings.tol, "backtracking" if rate == "auto" else rate)
    for kind in _TO_THE_OPTIMUM:
        if isinstance(name, str) and SOLVERS.get(name) is kind and not partial:
            return kind(limit, settings.tol)
    if name == "sgd":
        solver = SGD(
            settings.max_iter,
            settings.tol,
            settings.n_iter_no_change,
            settings.batch_size,
            rate,
            momentum=settings.momentum,
            seed=seed,
        )
    else:
        solver = SOLVERS[name]() if isinstance(name, str) else name
    if partial:
        if not isinstance(solver, SGD):
            msg = f"partial_fit needs solver='sgd' (or 'auto'), got {settings.solver!r}"
            raise ValueError(msg)
        return replace(solver, max_iter=1, schedule="inverse_scaling", average=False)
    return solver


def _with_newton(
    settings: Settings, objective: Objective, solver: Any
) -> tuple[Any, Newton | None]:
    """Return the solver and what goes on where it does not get there; None if nothing can.

    Where L-BFGS is slow, its metric does not suit the data: exact Hessians do.
    """
    if settings.solver != "auto" or not isinstance(solver, LBFGS):
        return solver, None
    rest = solver.max_iter - _TRIED
    if rest < 1 or not newton_pays(objective, most=_AFFORDABLE_STEP):
        return solver, None
    return replace(solver, max_iter=_TRIED), Newton(rest, settings.tol)


def _minimized(
    precision: str,
    objective: Objective,
    solver: Any,
    start: Params | None = None,
    **settings: Any,
) -> tuple[Result, KeyboardInterrupt | None]:
    """Return what `minimize` finds, and the Ctrl-C to raise again once it is kept."""
    with matmul_precision(precision):
        try:
            return minimize(objective, solver, start, **settings), None
        except Interrupted as interrupt:
            return interrupt.result, interrupt


class Solution(NamedTuple):
    """A fitted model, and the Ctrl-C to raise again once it is kept."""

    fitted: Fitted
    interrupt: KeyboardInterrupt | None


def solve(
    settings: Settings,
    problem: Problem,
    start: Params | None,
    callbacks: Sequence[Callable[[Progress], bool | None]],
) -> Solution:
    """Solve a problem, and say so where rounding or ``max_iter`` ended that."""
    objective = problem.objective
    minimized = partial(_minimized, settings.precision, objective)
    solver, newton = _with_newton(
        settings, objective, solver_for(settings, objective, problem.seed)
    )
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
    if newton and interrupt is None and result.reasons[0] in ("max_iter", "rounding"):
        before, solver = history_of_one(result.history), newton
        result, interrupt = minimized(newton, result.params, callbacks=callbacks)
    if result.reason == "max_iter" and not result.converged.all():
        made = result.n_iter + (0 if before is None else len(before["seconds"]))
        warnings.warn(
            f"stopped after max_iter={made} iterations before tol={settings.tol} was reached: more "
            "would improve the weights; raise max_iter, or tol if they are good enough",
            ConvergenceWarning,
            stacklevel=4,
        )
    if isinstance(solver, _TO_THE_OPTIMUM):
        _warn_at_the_floor(objective, solver, result, settings.precision)
    result = problem.rounded(result)
    certificate = None
    try:
        certificate = certificate_of(objective, solver, result)
    except KeyboardInterrupt as error:
        interrupt = interrupt or error
    return Solution(problem.fitted(solver, result, certificate, before), interrupt)


def solve_in_turn(settings: Settings, problem: Problem, model: Fitted | None) -> Solution:
    """Make one epoch of SGD, going on from a model if there is one."""
    objective = problem.objective
    solver = solver_for(settings, objective, problem.seed, partial=True)
    start = objective.zeros() if model is None else problem.start_from(model)
    previous = None if model is None else model.sgd_state
    if model is not None and previous is not None and previous.moments is not None:
        # Each call's weights are told in a unit of its own.
        factor = 2.0 ** float(np.clip(model.weight_unit - problem.sample.weight_unit, -60.0, 60.0))
        moments = previous.moments
        moments = moments._replace(
            weight=factor * moments.weight, deviation=factor * moments.deviation
        )
        previous = previous._replace(moments=moments)
    with matmul_precision(settings.precision):
        state = solver.init(objective, start, previous)
    result, interrupt = _minimized(settings.precision, objective, solver, state=state)
    before = model.history if model is not None and previous is not None else None
    fitted = problem.fitted(solver, result, before=before, sgd_state=result.state)
    return Solution(fitted, interrupt)


def _warn_at_the_floor(
    objective: Objective,
    solver: Any,
    result: Result,
    precision: str,
) -> None:
    """Say so when rounding, not ``tol``, ended the run."""
    floored = np.asarray(result.reasons) == "rounding"
    if floored.any():
        measure = "gap" if np.isfinite(result.lower_bound).any() else "residual"
        measured = f"{measure} {result.residual[floored].max():.0e}"
        message = at_the_floor(objective, precision, measured, solver.tol)
        warnings.warn(message, ConvergenceWarning, stacklevel=5)


def warn_of_no_optimum(objective: Objective, value: float) -> None:
    """Say so when there is no optimum, or the start was better than what was found."""
    backend, xp = objective.data.backend, objective.xp
    numbers = xp.stack([objective.loss_at_zero()[0], xp.max(objective.alpha)])
    zero, alpha = backend.to_host(numbers).tolist()
    free = alpha == 0.0 or objective.penalty == NoPenalty()
    if free and objective.loss.probabilistic and value < _SEPARATED * zero:
        warnings.warn(
            "a linear function separates the classes, and nothing holds the weights: they grow as "
            "long as the fit goes on; set a penalty",
            ConvergenceWarning,
            stacklevel=4,
        )
    if not value <= _WORSE * zero:
        warnings.warn(
            f"the objective is {value:.4g}, above the {zero:.4g} of zero weights: nothing was "
            "learnt; set learning_rate='auto', standardize=True or another solver",
            ConvergenceWarning,
            stacklevel=4,
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
