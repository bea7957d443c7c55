"""The only loop: stopping, history, callbacks, interrupts. The only place that waits.

Once per iteration one small array comes to the host; everything decided here is decided
from it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xplinear.arguments import (
    CALLABLE,
    CALLABLES,
    FLAG,
    NONE,
    ArgumentError,
    check_finite,
    check_same_library,
    instance,
    integer,
    nameless,
    number,
    warn,
)
from xplinear.backends.base import Backend, undisturbed
from xplinear.namespace import Array, HostArray, Namespace, name_of
from xplinear.objective import OBJECTIVE, Objective, Params, weighted_penalty
from xplinear.solvers import Solver, State, protocol
from xplinear.solvers.report import Report

__all__ = ["Interrupted", "Progress", "Result", "minimize", "time_left"]

Indices = np.ndarray[Any, np.dtype[np.intp]]

_SAME = 1e-3  # relative: what tf32 may make of it
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


class Observed(NamedTuple):
    """What the host knows of an iteration, of all models ``(m,)``: those that left, as they left.

    Flags are 0.0 or 1.0; ``seconds`` are since the start.
    """

    penalty: HostArray
    validation_score: HostArray
    loss: HostArray
    step_size: HostArray
    converged: HostArray
    diverged: HostArray
    residual: HostArray
    stalled: HostArray
    lower_bound: HostArray
    seconds: float


class Loop(NamedTuple):
    """All that `minimize` keeps between iterations: arrays, numbers and text, fit for a file.

    One value, so that Ctrl-C finds it whole. A run that goes on from it is the same to the last
    bit where the arrays lie in memory as they did: each column of weights contiguous.

    Attributes
    ----------
    subject : str
        What is minimized: nothing else can go on from here.
    iteration : int
        Iterations made.
    state : State
        Of the models that are running: they are still in the stack.
    running : ndarray of int
        Which models these are.
    left : tuple of (ndarray of int, Params)
        Which models left together, and with what.
    best : Params
        The best so far of those running.
    best_score : ndarray of shape (m,)
        By what it is the best: larger is better.
    waited : ndarray of shape (m,)
        Iterations since then.
    history : list of Observed
        Of each iteration.
    """

    subject: str
    iteration: int
    state: Any
    running: Indices
    left: tuple[tuple[Indices, Params], ...]
    best: Params
    best_score: HostArray
    waited: Indices
    history: list[Observed]

    @property
    def last(self) -> Observed:
        """What was observed of the last iteration; before the first, nothing."""
        if self.iteration:
            return self.history[self.iteration - 1]
        return Observed._make([*np.full((9, len(self.waited)), np.nan), 0.0])

    def observing(self, table: HostArray, seconds: float) -> Observed:
        """Return what is known of all models, by the ``table (9, running)`` of some."""
        if not self.left:
            return Observed._make([*table, seconds])
        *before, _ = self.last._replace(diverged=np.zeros(len(self.waited)))
        full = np.stack(before)
        full[:, self.running] = table
        return Observed._make([*full, seconds])

    def after(
        self, state: State, observed: Observed, stack: Objective, least: float | None
    ) -> Loop:
        """Return what there is after one more iteration.

        Its parameters are the best if they improve the objective or, where ``least`` is given,
        the validation score by so much.
        """
        merit = -(observed.loss + observed.penalty) if least is None else observed.validation_score
        better, best = merit > self.best_score + (least or 0.0), self.best
        if better[self.running].all():
            best = state.params
        elif better.any():
            keep = stack.data.backend.asarray(better[self.running])
            best = stack.data.backend.compile(_best, stack.xp)(keep, state.params, best)
        self.history.append(observed)
        return self._replace(
            iteration=self.iteration + 1,
            state=state,
            best=best,
            best_score=np.where(better, merit, self.best_score),
            waited=np.where(better, 0, self.waited + 1),
        )

    def judged_anew(self) -> Loop:
        """Return the loop without a best so far: it was so by another measure."""
        nothing = np.full_like(self.best_score, -np.inf), np.zeros_like(self.waited)
        return self._replace(best=self.state.params, best_score=nothing[0], waited=nothing[1])

    def reason(self, patience: int | None) -> str | None:
        """Return why to stop here, None where there is no reason."""
        if (self.last.converged > 0).all():
            return "converged"
        waited = patience is not None and (self.waited >= patience).all()
        return "early_stopping" if waited else None

    def whole(self, params: Params, objective: Objective) -> Params:
        """Return the parameters of all models, those that left included."""
        if not self.left:
            return params
        xp = objective.xp
        models, parts = zip(*self.left, (self.running, params), strict=True)
        order = objective.data.backend.asarray(np.argsort(np.concatenate(models)))
        W = xp.concat([part.W for part in parts], axis=1)
        b = xp.concat([part.b for part in parts], axis=0)
        return protocol.take_models(Params(W, b), order, xp=xp)


Callbacks: TypeAlias = Sequence[Callable[[Progress], bool | None]]
LOOP = instance(Loop, "the loop of a Result of minimize")


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
    loop : Loop
        What to go on from.
    """

    params: Params
    state: State
    n_iter: int
    converged: np.ndarray[Any, np.dtype[np.bool_]]
    residual: HostArray
    lower_bound: HostArray
    history: dict[str, HostArray]
    reason: str
    reasons: tuple[str, ...]
    loop: Loop

    @property
    def iterations_of_each(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """The iterations ``(m,)`` until each model met the solver's test for good, or all."""
        met = np.stack([row.converged > 0 for row in self.loop.history])
        last = np.where(met.all(axis=0), 0, len(met) - np.argmin(met[::-1], axis=0))
        return np.minimum(last + 1, len(met))


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
    loop: Loop | None = None,
    validation_score: Callable[[Params], Array] | None = None,
    patience: int = 5,
    min_improvement: float = 1e-4,
    release: bool = True,
    callbacks: Callbacks = (),
    keep: Callable[[Loop], None] | None = None,
) -> Result:
    """Minimize the objective.

    Parameters
    ----------
    objective : Objective
    solver : Solver
    params : Params, optional
        Where to start; zeros by default.
    state : State, optional
        A state of this solver, of all models, to go on from instead of ``params``.
    loop : Loop, optional
        ``result.loop`` of an earlier run of this problem, to go on from as if it had not ended:
        ``max_iter`` is that of the whole, and so are history and patience; models that converged
        stay as they are, whatever ``tol`` is now.
    validation_score : callable, optional
        Score ``(m,)`` of parameters, larger is better, on the device. With it, a model stops
        after ``patience`` iterations without an improvement of ``min_improvement``, and its
        best parameters are returned.
    patience, min_improvement : int, float
    release : bool
        Whether models that converged leave the stack, and with it the last state.
    callbacks : sequence of callables
        Each is given a `Progress`; a true value returned stops the run.
    keep : callable, optional
        Told the loop after each iteration, so that it can be gone on from whatever happens.

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
    subject = subject_of(objective)
    _check_start(objective, solver, subject, params, state, loop, validation_score)
    patience = integer(1)("patience", patience)
    min_improvement = number("[0, inf)")("min_improvement", min_improvement)
    release = FLAG("release", release)
    callbacks = CALLABLES("callbacks", callbacks)
    note = (CALLABLE | NONE)("keep", keep) or _forget
    backend, start = objective.data.backend, time.perf_counter()
    callbacks = _logged(subject, objective, solver, callbacks)
    least, limit = (None, None) if validation_score is None else (min_improvement, patience)
    copy = protocol.declared(solver, "copy") if loop or state is not None else None
    if loop is None:
        loop = _first_loop(subject, objective, solver, params, state)
    loop = loop._replace(history=loop.history[: loop.iteration])  # this run's own
    start -= loop.last.seconds
    stack = objective.take(backend.asarray(loop.running)) if loop.left else objective
    stack.check_params(loop.state.params, "the params of state")
    if loop.iteration:
        loop = _going_on(objective, loop, scored=limit is not None)
    reason, interrupt = loop.reason(limit) if loop.iteration else None, None
    if copy:  # whoever goes on does not change where from
        loop = loop._replace(state=copy(loop.state, xp=objective.xp))
    counted = protocol.declared(solver, "iterations_on")
    iterations = counted(objective) if counted else solver.iterations(objective.data.n)
    try:
        for iteration in range(loop.iteration + 1, iterations + 1):
            if reason is not None:
                break
            if release and limit is None:
                loop, stack = _released(loop, stack, solver)
            with backend.products(0.0):
                state = solver.step(stack, _renewed(loop, stack, solver))
                table = backend.to_host(_observed(stack, state, validation_score))
            observed = loop.observing(table.astype(np.float64), time.perf_counter() - start)
            _warn_of_divergence(iteration, observed)
            loop = loop.after(state, observed, stack, least)
            note(loop)
            stopped = callbacks and _stopped(callbacks, loop, iterations, objective)
            reason = "callback" if stopped else loop.reason(limit)
    except KeyboardInterrupt as error:
        if not loop.iteration:
            raise
        # Where it came is of no use, and its frames would hold all rows as long as they are kept.
        reason, interrupt = "interrupted", error.with_traceback(None)
    best = limit is not None or interrupt is not None
    result = result_of(objective, loop, reason or "max_iter", best=best)
    reasons, seconds = " or ".join(dict.fromkeys(result.reasons)), time.perf_counter() - start
    _LOG.info("%s after %d iterations, %.2f s", reasons, result.n_iter, seconds)
    if interrupt is not None:
        raise Interrupted(result) from interrupt
    return result


def subject_of(objective: Objective) -> str:
    """Return what is minimized, for the log, and to know it again."""
    data, loss, penalty = objective.data, objective.loss, objective.penalty
    shape = f"{name_of(data.dtype)}, n={data.n}, p={data.p}, k={objective.k}, {objective.m} models"
    intercept = "" if objective.fit_intercept else ", intercepts as given"
    return f"{nameless(loss)} + alpha {nameless(penalty)}: {shape}{intercept}"


def _check_start(
    objective: Objective,
    solver: Solver,
    subject: str,
    params: Params | None,
    state: State | None,
    loop: Loop | None,
    validation_score: Any,
) -> None:
    """Raise ArgumentError where what is to be minimized, how, and from where, do not agree."""
    (CALLABLE | NONE)("validation_score", validation_score)
    (protocol.SOLVER if objective.m == 1 else protocol.SOLVER_OF_STACKS)("solver", solver)
    protocol.check_suits(solver, objective)
    (LOOP | NONE)("loop", loop)
    if loop is not None:
        if params is not None or state is not None:
            msg = "loop is to go on from; give no params and no state with it"
            raise ArgumentError(msg)
        if loop.subject != subject:
            msg = f"loop must be of this problem, {subject}; it is of {loop.subject}"
            raise ArgumentError(msg)
        if loop.left and validation_score is not None:
            msg = "loop cannot go on with validation_score: models have left its stack"
            raise ArgumentError(msg)
    elif state is not None:
        m = protocol.STATE("state", state).report.loss.shape[0]
        if m < objective.m:
            msg = f"state is of {m} of {objective.m} models, the others left: give loop instead"
            raise ArgumentError(msg)
    elif params is not None:
        objective.check_params(params)
        check_finite("params: W", params.W)
        check_finite("params: b", params.b)
    kind, state = protocol.declared(solver, "state_type"), loop.state if loop else state
    if kind is not None and state is not None:
        instance(kind, f"a {kind.__name__}, of this solver")("state", state)


def _going_on(objective: Objective, loop: Loop, *, scored: bool) -> Loop:
    """Return the loop as it goes on; raise ArgumentError where the objective is not what it was.

    It is told by its value there: its penalty, and in one pass its loss. That of SGD, which
    measures no residual, is a mean over an epoch, and tells nothing.
    """
    xp, last, params = objective.xp, loop.last, loop.whole(loop.state.params, objective)
    measured = not np.isnan(last.residual).all()
    zero, penalty = objective.loss_at_zero(), objective.penalty_value(params)
    loss = objective.data_loss(params) if measured else zero
    table = xp.stack([xp.astype(a, zero.dtype) for a in (penalty, loss, zero)])
    penalty, loss, zero = objective.data.backend.to_host(table)
    _check_near("penalty", "strengths", penalty, last.penalty, last.penalty)
    if measured:
        what = "rows, labels or weights"
        _check_near("loss", what, loss, last.loss, zero + np.abs(last.loss))
    return loop.judged_anew() if np.isnan(last.validation_score).all() == scored else loop


def _check_near(name: str, what: str, here: HostArray, there: HostArray, scale: HostArray) -> None:
    far = np.abs(here - there) > _SAME * scale
    if far.any():
        j = int(np.argmax(far))
        msg = (
            f"loop must be of this problem, and is of other {what}: the {name} of model {j} was "
            f"{there[j]:.6g}, and is {here[j]:.6g} where it is to go on"
        )
        raise ArgumentError(msg)


def _first_loop(
    subject: str, objective: Objective, solver: Solver, params: Params | None, state: State | None
) -> Loop:
    """Return what there is before the first iteration of a run."""
    m = objective.m
    if state is None:
        with objective.data.backend.products(0.0):  # blocks, and most of what solvers multiply
            state = solver.init(objective, objective.zeros() if params is None else params)
        protocol.STATE("state", state)
    nothing = np.full(m, -np.inf), np.zeros(m, dtype=np.intp)
    return Loop(subject, 0, state, np.arange(m), (), state.params, *nothing, [])


def _forget(loop: Loop) -> None:
    del loop


def _observed(
    objective: Objective, state: State, validation_score: Callable[[Params], Array] | None
) -> Array:
    """Return what `Observed` holds of an iteration, ``(9, models running)``."""
    score = None
    if validation_score is not None:
        score = validation_score(state.params)
        check_same_library("what validation_score returns", score, "alpha", objective.alpha)
        if score.shape != objective.alpha.shape:
            msg = (
                f"validation_score must return one score per model, shape {objective.alpha.shape}, "
                f"got shape {tuple(score.shape)}"
            )
            raise ArgumentError(msg)
    table = objective.data.backend.compile(_table, objective.penalty, objective.xp)
    return table(state.params.W, objective.alpha, score, state.report)


def _best(xp: Namespace, keep: Array, params: Params, best: Params) -> Params:
    return protocol.select(keep, params, best, xp=xp)


def _table(
    penalty: Any, xp: Namespace, W: Array, alpha: Array, score: Array | None, report: Report
) -> Array:
    value = weighted_penalty(penalty, xp, W, alpha)
    score = xp.full_like(value, xp.nan) if score is None else score
    return xp.stack([xp.astype(a, value.dtype) for a in (value, score, *report)])


def _released(loop: Loop, stack: Objective, solver: Solver) -> tuple[Loop, Objective]:
    """Return what goes on without models that are done: none of them, or a quarter at least.

    Where each smaller stack is compiled anew, half of it leaves, down to a power of 2, and
    only where a pass takes milliseconds.
    """
    asarray, xp, data = stack.data.backend.asarray, stack.xp, stack.data
    done = np.nonzero(loop.last.converged[loop.running] > 0)[0]
    m = len(loop.running)
    least = m / 4
    if data.backend.compiles:
        done = done[: m - (1 << (m - len(done) - 1).bit_length())]
        least = m / 2 if data.entries * m * stack.k > _QUICK else m
    if len(done) < least:
        return loop, stack
    staying = np.setdiff1d(np.arange(m), done)
    gone, kept = asarray(done), asarray(staying)
    left = loop.running[done], protocol.take_models(loop.state.params, gone, xp=xp)
    loop = loop._replace(
        state=solver.take(loop.state, kept, xp=xp),
        running=loop.running[staying],
        left=(*loop.left, left),
        best=protocol.take_models(loop.best, kept, xp=xp),
    )
    return loop, stack.take(kept)


def _renewed(loop: Loop, stack: Objective, solver: Solver) -> State:
    """Return the state before the next step, told of what the host knows of those before."""
    renewed = protocol.declared(solver, "renewed") if loop.iteration else None
    if renewed is None:
        return loop.state
    residuals = loop.last.residual[loop.running].tolist()
    return renewed(stack, loop.state, loop.iteration, residuals)


def _stopped(callbacks: Callbacks, loop: Loop, iterations: int, objective: Objective) -> bool:
    """Tell the callbacks of an iteration; return whether one of them wants to stop."""
    last = loop.last
    numbers = last.loss, last.penalty, last.validation_score, last.step_size, last.seconds
    params = loop.whole(loop.state.params, objective)
    progress = Progress(loop.iteration, iterations, *numbers, params)
    return sum(bool(callback(progress)) for callback in callbacks) > 0


def result_of(objective: Objective, loop: Loop, reason: str, *, best: bool) -> Result:
    """Return what was found by the last iteration that is complete."""
    loop = loop._replace(history=loop.history[: loop.iteration])
    last, shape = loop.last, (loop.iteration, objective.m)
    converged = last.converged > 0
    done = "finished" if np.isnan(last.residual).all() else "converged"
    names = "loss", "penalty", "validation_score", "step_size"
    history = {name: [getattr(row, name) for row in loop.history] for name in names}
    return Result(
        params=objective.canonical(loop.whole(loop.best if best else loop.state.params, objective)),
        state=loop.state,
        n_iter=loop.iteration,
        converged=converged,
        residual=last.residual,
        lower_bound=last.lower_bound,
        history={name: np.reshape(rows, shape) for name, rows in history.items()}
        | {"seconds": np.asarray([row.seconds for row in loop.history])},
        reason=done if reason == "converged" else reason,
        reasons=tuple(
            "rounding" if floor else done if through else reason
            for through, floor in zip(converged, last.stalled > 0, strict=True)
        ),
        loop=loop,
    )


def _logged(subject: str, objective: Objective, solver: Solver, callbacks: Callbacks) -> Callbacks:
    """Tell the log what begins; return the callbacks, and that of the log where it wants more."""
    where = objective.data.backend
    _LOG.info("minimize %s; %r; on %s, device %s", subject, solver, where.name, where.device)
    if _LOG.isEnabledFor(logging.DEBUG):
        return (*callbacks, partial(_LOG.debug, "%s"))
    return callbacks


def _warn_of_divergence(iteration: int, observed: Observed) -> None:
    diverged = observed.diverged
    if diverged.any():
        warn(
            f"iteration {iteration} diverged for {int(diverged.sum())} of {len(diverged)} models; "
            f"undone, step size now {observed.step_size.min():.3g}",
            RuntimeWarning,
        )
