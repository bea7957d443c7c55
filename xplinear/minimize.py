"""The only loop: stopping, history, callbacks, interrupts. The only place that waits.

Once per iteration one small array comes to the host; everything decided here is decided
from it.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xplinear.arguments import (
    CALLABLE,
    CALLABLES,
    FLAG,
    NONE,
    ArgumentError,
    check_finite,
    check_same_library,
    integer,
    number,
)
from xplinear.backends.base import Backend, undisturbed
from xplinear.namespace import Array
from xplinear.objective import OBJECTIVE, Objective, Params
from xplinear.solvers.protocol import (
    SOLVER,
    SOLVER_OF_STACKS,
    STATE,
    Solver,
    State,
    check_suits,
    select,
    take_models,
)

__all__ = ["Interrupted", "Progress", "Result", "minimize", "time_left"]

HostArray = np.ndarray[Any, np.dtype[np.float64]]

_QUICK = 1e7  # products in a pass, of rows, features, models and classes

_LOG = logging.getLogger("xplinear")


def time_left(seconds: float, done: int, total: int) -> str:
    """Return how long the rest takes if it goes on like this, as h:mm:ss.

    Examples
    --------
    >>> time_left(60.0, done=1, total=5)
    '0:04:00'
    """
    return str(timedelta(seconds=round(seconds / done * (total - done)))) if done else "unknown"


class Progress(NamedTuple):
    """What a callback sees after each iteration; arrays have shape ``(m,)``.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> print(Progress(3, 1000, 0.5 * one, 0.01 * one, 0.9 * one, one, 0.6, None))
    iteration 3/1000  loss 0.5  penalty 0.01  validation 0.9000  0.60 s, time left up to 0:03:19
    """

    iteration: int
    iterations: int
    loss: HostArray
    penalty: HostArray
    validation_score: HostArray
    step_size: HostArray
    seconds: float
    params: Params

    def __str__(self) -> str:
        """Return a line for people; of several models the means."""
        score = self.validation_score.mean()
        validation = f"  validation {score:.4f}" if np.isfinite(score) else ""
        left = time_left(self.seconds, self.iteration, self.iterations)
        return (
            f"iteration {self.iteration}/{self.iterations}  loss {self.loss.mean():.6g}  "
            f"penalty {self.penalty.mean():.3g}{validation}  {self.seconds:.2f} s, "
            f"time left up to {left}"
        )


@dataclass(frozen=True)
class Result:
    """What `minimize` found.

    Parameters
    ----------
    params : Params
        The solution.
    state : State
        The solver's last state, of the models that were still in the stack.
    n_iter : int
        Iterations made.
    converged : ndarray of bool, shape (m,)
        Whether each model met the solver's own test.
    residual : ndarray of shape (m,)
        What the solver compared with its ``tol``: $√(e / 10 (F(0) − F))$, e an estimate of F − F*;
        NaN where it measures none, the relative gap where it proves a lower bound.
    lower_bound : ndarray of shape (m,)
        What the solver proved F cannot go below; −inf where it proves nothing.
    history : dict of str to ndarray
        ``loss``, ``penalty``, ``validation_score`` (NaN without validation), ``step_size``,
        each ``(n_iter, m)``; ``seconds`` since the start, ``(n_iter,)``.
    reason : str
        ``"converged"``, ``"finished"`` (a solver such as SGD, which measures no distance from the
        optimum, is through), ``"max_iter"``, ``"early_stopping"``, ``"callback"``,
        ``"interrupted"``.
    reasons : tuple of m strings
        The same for each model; ``"rounding"`` where the dtype's rounding stopped it before tol.
    """

    params: Params
    state: State
    n_iter: int
    converged: np.ndarray[Any, np.dtype[np.bool_]]
    residual: HostArray
    lower_bound: HostArray
    history: dict[str, np.ndarray[Any, Any]]
    reason: str
    reasons: tuple[str, ...]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `minimize`: who holds on to ``result`` keeps the best so far, and raises again.

    Parameters
    ----------
    result : Result
        Of the iterations that were completed, at least one; its ``reason`` is ``"interrupted"``.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear import losses, objective, penalties, solvers
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> F = objective.Objective(
    ...     losses.SoftmaxLoss(), penalties.L2Penalty(), np.asarray([0.1]), data, k=3
    ... )
    >>> def press_ctrl_c(progress):
    ...     raise KeyboardInterrupt
    >>> try:
    ...     minimize(F, solvers.GD(), callbacks=[press_ctrl_c])
    ... except Interrupted as interrupt:
    ...     print(interrupt, interrupt.result.params.W.shape)
    interrupted after 1 iteration; the best so far is kept (3, 1, 3)
    """

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        """Return a line for people."""
        n = self.result.n_iter
        return f"interrupted after {n:,} iteration{'s' * (n != 1)}; the best so far is kept"


def place_of(objective: Objective, *_: Any, **__: Any) -> Backend:
    """Return the backend of the objective that a function is given first."""
    return OBJECTIVE("objective", objective).data.backend


@undisturbed(place_of)
def minimize(
    objective: Objective,
    solver: Solver,
    params: Params | None = None,
    *,
    state: State | None = None,
    validation_score: Callable[[Params], Array] | None = None,
    patience: int = 5,
    min_improvement: float = 1e-4,
    release: bool = True,
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
    release : bool
        Whether models that converged leave the stack, and with it the last state.
    callbacks : sequence of callables
        Each is given a `Progress`; a true value returned stops the run.

    Returns
    -------
    Result

    Raises
    ------
    Interrupted
        If Ctrl-C, or a callback that raises KeyboardInterrupt, stopped the run; its ``result`` is
        the best so far, by validation score or else by objective. Before the first iteration is
        complete it is the KeyboardInterrupt itself.

    Warns
    -----
    RuntimeWarning
        If an iteration diverged and was undone.

    Notes
    -----
    ``logging.getLogger("xplinear")`` is told what is minimized, where, and why it ended (INFO),
    and every `Progress` (DEBUG).

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
    _check_start(objective, solver, params, state, validation_score)
    patience = integer(1)("patience", patience)
    min_improvement = number("[0, inf)")("min_improvement", min_improvement)
    release = FLAG("release", release)
    callbacks = CALLABLES("callbacks", callbacks)
    backend = objective.data.backend
    start = time.perf_counter()
    callbacks = _logged(objective, solver, callbacks)
    if state is None:
        with backend.products(0.0):  # blocks, and most of what solvers multiply
            state = solver.init(objective, objective.zeros() if params is None else params)
    stack = _Stack(objective, solver, np.arange(objective.m))
    nothing = np.full(objective.m, -np.inf), np.zeros(objective.m, dtype=int)
    loop = _Loop(0, stack, state, state.params, *nothing)
    iterations = solver.iterations(objective.data.n)
    rows: list[HostArray] = []
    seconds: list[float] = []
    least = 0.0 if validation_score is None else min_improvement
    limit = None if validation_score is None else patience
    reason, interrupt = None, None
    try:
        for iteration in range(1, iterations + 1):
            stack = loop.stack
            with backend.products(0.0):
                state = solver.step(stack.objective, loop.state)
                row = backend.to_host(stack.observed(state, validation_score)).astype(np.float64)
            seconds.append(time.perf_counter() - start)
            rows.append(stack.fill(row, rows[-1] if rows else None))
            loss_, penalty_, score_, step_, converged_, diverged_, *_ = rows[-1]
            _warn_of_divergence(iteration, diverged_, step_)
            loop = loop.after(state, -(loss_ + penalty_) if limit is None else score_, least)
            stopped = False
            if callbacks:
                numbers = iteration, iterations, loss_, penalty_, score_, step_, seconds[-1]
                progress = Progress(*numbers, stack.whole(state.params))
                stopped = sum(bool(callback(progress)) for callback in callbacks) > 0
            reason = loop.reason(converged_, limit, stopped=stopped)
            if reason is not None:
                break
            if release and limit is None:
                loop = loop.released(converged_)
    except KeyboardInterrupt as error:
        if not loop.iteration:
            raise
        reason, interrupt = "interrupted", error
    best = limit is not None or interrupt is not None
    result = _result(objective, loop, rows, seconds, reason or "max_iter", best=best)
    _LOG.info(
        "%s after %d iterations, %.2f s",
        " or ".join(dict.fromkeys(result.reasons)),
        result.n_iter,
        time.perf_counter() - start,
    )
    if interrupt is not None:
        raise Interrupted(result) from interrupt
    return result


def _check_start(
    objective: Objective,
    solver: Solver,
    params: Params | None,
    state: State | None,
    validation_score: Any,
) -> None:
    """Raise ArgumentError where what is to be minimized, how, and from where, do not agree."""
    (CALLABLE | NONE)("validation_score", validation_score)
    (SOLVER if objective.m == 1 else SOLVER_OF_STACKS)("solver", solver)
    check_suits(solver, objective)
    if state is not None:
        objective.check_params(STATE("state", state).params, "the params of state")
    elif params is not None:
        objective.check_params(params)
        check_finite("params: W", params.W)
        check_finite("params: b", params.b)


def _result(
    objective: Objective,
    loop: _Loop,
    rows: Sequence[HostArray],
    seconds: Sequence[float],
    reason: str,
    *,
    best: bool,
) -> Result:
    """Return what was found by the last iteration that is complete."""
    n = loop.iteration
    table = np.asarray(rows[:n] or [np.full((9, objective.m), np.nan)])
    converged, stalled = table[-1, 4] > 0, table[-1, 7] > 0
    done = "finished" if np.isnan(table[-1, 6]).all() else "converged"
    names = ("loss", "penalty", "validation_score", "step_size")
    params = loop.best_params if best else loop.state.params
    return Result(
        params=objective.canonical(loop.stack.whole(params)),
        state=loop.state,
        n_iter=n,
        converged=converged,
        residual=table[-1, 6],
        lower_bound=table[-1, 8],
        history={name: table[:n, i] for i, name in enumerate(names)}
        | {"seconds": np.asarray(seconds[:n])},
        reason=done if reason == "converged" else reason,
        reasons=tuple(
            "rounding" if floor else done if through else reason
            for through, floor in zip(converged, stalled, strict=True)
        ),
    )


def _logged(
    objective: Objective, solver: Solver, callbacks: Sequence[Callable[[Progress], bool | None]]
) -> Sequence[Callable[[Progress], bool | None]]:
    """Tell the log what begins; return the callbacks, and that of the log where it wants more."""
    data, backend = objective.data, objective.data.backend
    _LOG.info(
        "minimize %r + alpha %r: n=%d, p=%d, k=%d, %d models; %r; on %s, device %s",
        *(objective.loss, objective.penalty),
        *(data.n, data.p, objective.k, objective.m),
        *(solver, backend.name, backend.device),
    )
    if _LOG.isEnabledFor(logging.DEBUG):
        return (*callbacks, partial(_LOG.debug, "%s"))
    return callbacks


def _warn_of_divergence(iteration: int, diverged: HostArray, step_size: HostArray) -> None:
    if diverged.any():
        warnings.warn(
            f"iteration {iteration} diverged for {int(diverged.sum())} of {len(diverged)} models; "
            f"undone, step size now {step_size.min():.3g}",
            RuntimeWarning,
            stacklevel=4,
        )


@dataclass(frozen=True)
class _Stack:
    """The models still running; those that converged leave, and are put back in the end."""

    objective: Objective
    solver: Solver
    models: np.ndarray[Any, Any]
    left: tuple[tuple[np.ndarray[Any, Any], Params], ...] = ()

    def observed(self, state: State, validation_score: Callable[[Params], Array] | None) -> Array:
        """Return what `minimize` decides from, ``(9, models running)``."""
        xp = self.objective.xp
        penalty = self.objective.penalty_value(state.params)
        score = xp.full_like(penalty, xp.nan)
        if validation_score is not None:
            score = validation_score(state.params)
            check_same_library("what validation_score returns", score, "alpha", penalty)
            if score.shape != penalty.shape:
                msg = (
                    f"validation_score must return one score per model, shape {penalty.shape}, "
                    f"got shape {tuple(score.shape)}"
                )
                raise ArgumentError(msg)
        observed = (
            state.loss,
            penalty,
            score,
            state.step_size,
            state.converged,
            state.diverged,
            state.residual,
            state.stalled,
            state.lower_bound,
        )
        return xp.stack([xp.astype(a, penalty.dtype) for a in observed])

    def fill(self, row: HostArray, previous: HostArray | None) -> HostArray:
        """Return a row of all models: what left keeps its last values, and has not diverged."""
        if previous is None:
            return row
        full = previous.copy()
        full[5] = 0.0
        full[:, self.models] = row
        return full

    def leaving(self, converged: HostArray) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Return which models are to leave, of those that are done: none, or a quarter at least.

        Where each smaller stack is compiled anew, half of it leaves, down to a power of 2, and
        only where a pass takes milliseconds.
        """
        done = np.nonzero(converged[self.models])[0]
        m, data = len(self.models), self.objective.data
        least = m / 4
        if data.backend.compiles:
            running = m - len(done)
            done = done[: m - (1 << (running - 1).bit_length())]
            least = m / 2 if data.n * data.p * m * self.objective.k > _QUICK else m
        return done if len(done) >= least else done[:0]

    def whole(self, params: Params) -> Params:
        """Return the parameters of all models, those that left included."""
        if not self.left:
            return params
        xp = self.objective.xp
        models, parts = zip(*self.left, (self.models, params), strict=True)
        order = self.objective.data.backend.asarray(np.argsort(np.concatenate(models)))
        W = xp.concat([part.W for part in parts], axis=1)
        b = xp.concat([part.b for part in parts], axis=0)
        return take_models(Params(W, b), order, xp=xp)


class _Loop(NamedTuple):
    """What there is after an iteration: one value, so that Ctrl-C finds it whole."""

    iteration: int
    stack: _Stack
    state: State
    best_params: Params
    best_score: HostArray
    waited: np.ndarray[Any, Any]

    def after(self, state: State, merit: HostArray, least: float) -> _Loop:
        """Return what there is after one more iteration, by how good its parameters are."""
        stack, best_params = self.stack, self.best_params
        better = merit > self.best_score + least
        if better.any():
            backend = stack.objective.data.backend
            keep = backend.asarray(better[stack.models])
            best_params = select(keep, state.params, best_params, xp=backend.xp)
        return self._replace(
            iteration=self.iteration + 1,
            state=state,
            best_params=best_params,
            best_score=np.where(better, merit, self.best_score),
            waited=np.where(better, 0, self.waited + 1),
        )

    def reason(self, converged: HostArray, patience: int | None, *, stopped: bool) -> str | None:
        """Return why to stop here, None where there is no reason."""
        if stopped:
            return "callback"
        if converged.all():
            return "converged"
        waited = patience is not None and (self.waited >= patience).all()
        return "early_stopping" if waited else None

    def released(self, converged: HostArray) -> _Loop:
        """Return what goes on without the models that are done."""
        stack, solver = self.stack, self.stack.solver
        asarray, xp = stack.objective.data.backend.asarray, stack.objective.xp
        leaving = stack.leaving(converged)
        if not leaving.size:
            return self
        staying = np.setdiff1d(np.arange(len(stack.models)), leaving)
        gone, kept = asarray(leaving), asarray(staying)
        left = stack.models[leaving], take_models(self.state.params, gone, xp=xp)
        objective = stack.objective.take(kept)
        return self._replace(
            stack=_Stack(objective, solver, stack.models[staying], (*stack.left, left)),
            state=solver.take(self.state, kept, xp=xp),
            best_params=take_models(self.best_params, kept, xp=xp),
        )
