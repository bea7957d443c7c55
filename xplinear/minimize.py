"""The only loop: stopping, history, callbacks, interrupts. The only place that waits.

Once per iteration one small array comes to the host; everything decided here is decided
from it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xplinear.namespace import Array
from xplinear.objective import Objective, Params
from xplinear.solvers.protocol import Solver, State, select

__all__ = ["Progress", "Result", "minimize"]

HostArray = np.ndarray[Any, np.dtype[np.float64]]


class Progress(NamedTuple):
    """What a callback sees after each iteration; arrays have shape ``(m,)``."""

    iteration: int
    iterations: int
    loss: HostArray
    penalty: HostArray
    validation_score: HostArray
    step_size: HostArray
    seconds: float
    params: Params


@dataclass(frozen=True)
class Result:
    """What `minimize` found.

    Parameters
    ----------
    params : Params
        The solution.
    state : State
        The solver's last state.
    n_iter : int
        Iterations made.
    converged : ndarray of bool, shape (m,)
        Whether each model met the solver's own test.
    history : dict of str to ndarray
        ``loss``, ``penalty``, ``validation_score`` (NaN without validation), ``step_size``,
        each ``(n_iter, m)``; ``seconds`` since the start, ``(n_iter,)``.
    reason : str
        ``"converged"``, ``"max_iter"``, ``"early_stopping"``, ``"callback"``, ``"interrupted"``.
    """

    params: Params
    state: State
    n_iter: int
    converged: np.ndarray[Any, np.dtype[np.bool_]]
    history: dict[str, np.ndarray[Any, Any]]
    reason: str


# BLAS kernels raise this flag on finite operands too (numpy#24067); here `diverged` decides.
@np.errstate(invalid="ignore")
def minimize(
    objective: Objective,
    solver: Solver,
    params: Params | None = None,
    *,
    state: State | None = None,
    validation_score: Callable[[Params], Array] | None = None,
    patience: int = 5,
    min_improvement: float = 1e-4,
    callbacks: Sequence[Callable[[Progress], bool | None]] = (),
) -> Result:
    """Minimize the objective.

    Parameters
    ----------
    objective : Objective
    solver : Solver
    params : Params, optional
        Where to start; zeros by default.
    state : State, optional
        A state of this solver to go on from, instead of ``params``.
    validation_score : callable, optional
        Score ``(m,)`` of parameters, larger is better, on the device. With it, a model stops
        after ``patience`` iterations without an improvement of ``min_improvement``, and its
        best parameters are returned.
    patience, min_improvement : int, float
    callbacks : sequence of callables
        Each is given a `Progress`; a true value returned stops the run.

    Returns
    -------
    Result

    Warns
    -----
    RuntimeWarning
        If an iteration diverged and was undone, or Ctrl-C stopped the run; the result is then
        the best so far, by validation score or else by objective.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear import losses, objective, penalties, solvers
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> F = objective.Objective(
    ...     losses.SoftmaxLoss(), penalties.L2Penalty(), np.asarray([0.1, 1.0]), data, k=3
    ... )
    >>> result = minimize(F, solvers.GD())
    >>> result.reason, result.params.W.shape
    ('converged', (3, 2, 3))
    """
    xp, backend = objective.xp, objective.data.backend
    start = time.perf_counter()
    if state is None:
        state = solver.init(objective, objective.zeros() if params is None else params)
    iterations = solver.iterations(objective.data.n)
    rows: list[HostArray] = []
    seconds: list[float] = []
    best_params, best_score = state.params, np.full(objective.m, -np.inf)
    waited = np.zeros(objective.m, dtype=int)
    reason = "max_iter"
    try:
        for iteration in range(1, iterations + 1):
            state = solver.step(objective, state)
            penalty = objective.penalty_value(state.params)
            score = (
                xp.full_like(penalty, xp.nan)
                if validation_score is None
                else xp.astype(validation_score(state.params), penalty.dtype)
            )
            observed = (
                state.loss,
                penalty,
                score,
                state.step_size,
                state.converged,
                state.diverged,
            )
            row = backend.to_host(xp.stack([xp.astype(a, penalty.dtype) for a in observed]))
            seconds.append(time.perf_counter() - start)
            rows.append(row.astype(np.float64))
            loss_, penalty_, score_, step_, converged_, diverged_ = rows[-1]
            if diverged_.any():
                warnings.warn(
                    f"iteration {iteration} diverged for {int(diverged_.sum())} of "
                    f"{objective.m} models; undone, step size now {step_.min():.3g}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            merit = -(loss_ + penalty_) if validation_score is None else score_
            better = merit > best_score + (0.0 if validation_score is None else min_improvement)
            if better.any():
                keep = backend.asarray(better)
                best_params = select(keep, state.params, best_params, xp=xp)
                best_score = np.where(better, merit, best_score)
            waited = np.where(better, 0, waited + 1)
            progress = Progress(
                iteration, iterations, loss_, penalty_, score_, step_, seconds[-1], state.params
            )
            if sum(bool(callback(progress)) for callback in callbacks):
                reason = "callback"
                break
            if converged_.all():
                reason = "converged"
                break
            if validation_score is not None and (waited >= patience).all():
                reason = "early_stopping"
                break
    except KeyboardInterrupt:
        reason = "interrupted"
        warnings.warn(
            f"interrupted after {len(rows)} iterations; the result is the best so far",
            RuntimeWarning,
            stacklevel=2,
        )
    use_best = validation_score is not None or reason == "interrupted"
    table = np.asarray(rows).reshape(len(rows), 6, objective.m)
    names = ("loss", "penalty", "validation_score", "step_size")
    return Result(
        params=best_params if use_best else state.params,
        state=state,
        n_iter=len(rows),
        converged=table[-1, 4].astype(bool) if rows else np.zeros(objective.m, dtype=bool),
        history={name: table[:, i] for i, name in enumerate(names)}
        | {"seconds": np.asarray(seconds)},
        reason=reason,
    )
