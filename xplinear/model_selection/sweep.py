"""Many strengths, folds and learning rates through one X: what is stacked, what follows what."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from xplinear.arguments import integer
from xplinear.backends import matmul_precision
from xplinear.data import ArrayData
from xplinear.estimator.solve import at_the_floor
from xplinear.minimize import Interrupted, Progress, Result, minimize, time_left
from xplinear.model_selection.scoring import SCORINGS, HostScoring, class_counts, without_classes
from xplinear.namespace import Array, HostArray
from xplinear.objective import OBJECTIVE, Objective, Params, columns
from xplinear.penalties import L1Penalty, NoPenalty
from xplinear.solvers import GD, Solver
from xplinear.solvers.metric import loss_curvature
from xplinear.solvers.protocol import declared, take_models

__all__ = [
    "Grid",
    "Run",
    "Stack",
    "SweepProgress",
    "automatic_alphas",
    "stack_width",
    "stacks",
    "stacks_beyond",
]

_GRID = 20
_L1_DECADES, _L2_DECADES = 4, 7
_SMALL_DECADES = 3  # below what acts on the smallest feature that tells classes apart
_TELLING = 10.0  # F of the analysis of variance: chance gives 1
_EXTENSIONS, _FURTHER = 2, 5  # each by a fifth of the grid
_SAMPLE_ROWS = 8192
_STATE_VECTORS = 32  # arrays of the size of the weights that a solver holds
_WIDE = 640  # columns from which a product of matrices on a CPU no longer gains by more


class SweepProgress(NamedTuple):
    """What a callback of `LinearClassifierCV.fit` sees after each iteration of a stack.

    ``loss`` is the mean of the models in the stack.

    Examples
    --------
    >>> print(SweepProgress(24, 72, alpha=0.1, iteration=7, seconds=1.5, loss=0.25))
    24/72 models  alpha 1.00e-01  iteration 7  loss 0.25  1.50 s, time left 0:00:03
    """

    done: int
    models: int
    alpha: float
    iteration: int
    seconds: float
    loss: float

    def __str__(self) -> str:
        """Return a line for people."""
        left = time_left(self.seconds, self.done, self.models)
        return (
            f"{self.done}/{self.models} models  alpha {self.alpha:.2e}  "
            f"iteration {self.iteration}  loss {self.loss:.6g}  {self.seconds:.2f} s, "
            f"time left {left}"
        )


def automatic_alphas(objective: Objective, count: int = _GRID) -> HostArray:
    """Return strengths from strong to weak, evenly spaced in the logarithm.

    L1 and elastic net start at the weakest α that makes every weight zero, the largest entry of
    the gradient at W = 0 and the best intercept (over ``l1_ratio``), and span 4 decades. Other
    penalties start at the loss's curvature times the total variance of the features, which no
    curvature of the mean loss exceeds, and span 7. Both reach further where features have very
    different scales, so that the largest does not hide the others: to 3 decades below what
    shrinks the smallest of those whose means differ from class to class.

    Parameters
    ----------
    objective : Objective
        Of one model; its α does not matter.
    count : int, default 20

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear import Objective, losses, penalties
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> F = Objective(losses.SoftmaxLoss(), penalties.L1Penalty(), np.ones(1), data, k=3)
    >>> automatic_alphas(F, 3).round(6).tolist()
    [0.222222, 0.002222, 2.2e-05]
    """
    OBJECTIVE("objective", objective)
    count = integer(1)("count", count)
    deviation, telling = _features(objective)
    strongest = _strongest_alphas(objective)
    if strongest is None:
        unit = loss_curvature(objective.loss, objective.k) * deviation**2
        top, decades = unit.sum(), _L2_DECADES
    else:
        slope = strongest / np.where(deviation > 0, deviation, np.inf)
        unit, (top, decades) = slope.max() * deviation, (strongest.max(), _L1_DECADES)
    if not (top > 0.0 and telling.any()):
        msg = "alphas cannot be chosen: every feature is constant; give alphas as numbers"
        raise ValueError(msg)
    weakest = min(top * 10.0**-decades, unit[telling].min() * 10.0**-_SMALL_DECADES)
    return top * np.logspace(0.0, np.log10(weakest / top), count)


def _strongest_alphas(objective: Objective) -> HostArray | None:
    """Return the weakest α ``(p,)`` at which each feature alone has no weight; None if none does.

    A penalty that does not say is taken for L1.
    """
    penalty, xp = objective.penalty, objective.xp
    if penalty.smooth:
        return None
    start = Params(objective.zeros().W, _best_intercept(objective))
    _, grads = objective.data_loss_and_grad(start)
    alone = xp.permute_dims(grads.W, (1, 0, 2))  # each feature as a model of its own
    alpha = getattr(penalty, "strongest_alpha", L1Penalty().strongest_alpha)(alone, xp=xp)
    return None if alpha is None else objective.data.backend.to_host(alpha).astype(np.float64)


def _features(objective: Objective) -> tuple[HostArray, HostArray]:
    """Return each feature's standard deviation ``(p,)``, and which ones tell classes apart.

    Those have, by the analysis of variance, class means that differ by more than chance; where
    none do, it is the one of median deviation.
    """
    data, xp = objective.data, objective.xp
    block = data.sample(_SAMPLE_ROWS)
    X, y, s = block.rows.common(xp=xp), block.y, block.weights(xp=xp)
    total = xp.sum(s)
    s = s / xp.where(total > 0, total, 1.0)
    D = X - xp.sum(s * X, axis=0)
    size = xp.max(xp.abs(D), axis=0)
    varies = size > 16.0 * xp.finfo(X.dtype).eps * xp.max(xp.abs(X), axis=0)
    D = xp.where(varies, D / xp.where(varies, size, 1.0), 0.0)  # squares stay in range
    D = D - xp.sum(s * D, axis=0)
    classes = xp.arange(objective.k, **data.backend.kind(y.dtype))
    weight = s * xp.astype(y[:, None] == classes, X.dtype)  # (r, k)
    mass, sums = xp.sum(weight, axis=0), weight.T @ D
    between = xp.sum(sums * sums / xp.where(mass > 0, mass, 1.0)[:, None], axis=0)
    moments = xp.stack([size, xp.sum(s * D * D, axis=0), between])
    size, variance, between = data.backend.to_host(moments).astype(np.float64)
    rows = 1.0 / max(float(data.backend.to_host(xp.sum(s * s))), 1.0 / X.shape[0])
    deviation = size * np.sqrt(variance)
    within = np.maximum(variance - between, np.finfo(np.float64).eps)
    F = between / within * max(rows - objective.k, 0.0) / (objective.k - 1)
    telling = (F > _TELLING) & (deviation > 0.0)
    if not telling.any() and (deviation > 0.0).any():
        telling = deviation == np.quantile(deviation[deviation > 0.0], 0.5, method="lower")
    return deviation, telling


def _best_intercept(objective: Objective) -> Array:
    """Return b ``(1, c)`` that minimizes the loss at W = 0: all rows of a class are one row."""
    data, xp, k = objective.data, objective.xp, objective.k
    nothing = objective.zeros()
    if not objective.fit_intercept:
        return nothing.b
    true, _, _ = class_counts(objective, nothing)
    kind = data.backend.kind(data.dtype)
    rows = ArrayData(
        xp.zeros((k, 1), **kind),
        xp.arange(k, **data.backend.kind(data.labels.dtype)),
        xp.astype(true, data.dtype).T,
        data.dtype,
        backend=data.backend,
        classes=k,
    )
    few = replace(objective, data=rows, penalty=NoPenalty())
    return minimize(few, GD(tol=1e-6)).params.b


def stack_width(objective: Objective, lanes: int, *, follows: bool) -> tuple[int, int]:
    """Return how many lanes, and how many strengths of each, to solve as one stack.

    A lane is a fold (at a learning rate): the models that differ in α only. Measured with L-BFGS
    on 5,000 rows of Fashion-MNIST, 45 strengths (C from 1e-6 to 1e5), to relative gradients of
    1e-3 / 1e-4 (or 100 iterations): one strength after the other, each following the two before
    it, needs 141 / 470 passes over X of one model each; all at once from zero need 58 / 100
    passes, but 1,159 / 2,397 models in them. So strengths share a stack only where further
    columns cost next to nothing: on a GPU, up to `Backend.free_columns`. A solver that cannot
    follow always starts from zero, and takes what the matrix product gains by. Half of the free
    memory may hold the solver's state.

    Parameters
    ----------
    objective : Objective
    lanes : int
    follows : bool
        Whether the solver can start from neighbouring solutions.
    """
    data = objective.data
    c = columns(objective.loss, objective.k)
    model = _STATE_VECTORS * c * data.p * (objective.xp.finfo(data.dtype).bits // 8)
    room = max(1, data.backend.free_memory() // 2 // model)
    width = min(lanes, room)
    free = data.backend.free_columns if follows else max(_WIDE, data.backend.free_columns)
    return width, max(1, min(free // c, room) // width)


class Grid(NamedTuple):
    """All there is to solve, and to score it."""

    alphas: HostArray  # strong to weak
    rates: Sequence[float | None]
    train: Array  # weights (n, f), or one column more for the refit on all rows
    held_out: Array  # (n, f)
    tests: Sequence[HostArray]  # the rows held out
    known: HostArray  # (f, k): whether a fold's training rows have the class

    @property
    def lanes(self) -> list[tuple[int, int]]:
        """Rate and fold of every lane."""
        return [(r, f) for r in range(len(self.rates)) for f in range(self.train.shape[1])]


class Stack(NamedTuple):
    """What was solved together: the strengths ``at``, each with all ``lanes``."""

    at: range
    lanes: list[tuple[int, int]]
    objective: Objective
    result: Result

    def params(self, models: Sequence[int]) -> Params:
        """Return the parameters of some models."""
        backend, xp = self.objective.data.backend, self.objective.xp
        return take_models(self.result.params, backend.asarray(np.asarray(models)), xp=xp)

    def params_at(self, a: int) -> Params:
        """Return the parameters of all lanes at one strength."""
        first = (a - self.at.start) * len(self.lanes)
        return self.params(range(first, first + len(self.lanes)))


def stacks(
    objective: Objective,
    solver: Solver,
    grid: Grid,
    callback: Callable[[range, Progress], bool] | None,
    precision: str = "float32",
) -> Iterator[Stack]:
    """Solve all models, stack by stack: each strength starts from the stronger ones before it.

    No fold starts from the solution on all rows, near as it is: where a run is stopped early,
    its held-out rows would have been seen. A stack that memory does not hold is halved. Of one
    that Ctrl-C cuts short, the models that were done are yielded too, before `Interrupted`.
    """
    planned = declared(solver, "planned")
    if planned is not None:
        solver = planned(_stacked(objective, grid, range(len(grid.alphas)), grid.lanes))
    follows = declared(solver, "follow") is not None
    width, depth = stack_width(objective, len(grid.lanes), follows=follows)
    waiting = [(grid.lanes, 0)]  # and the first of the strengths that are left to do
    while waiting:
        lanes, start = waiting.pop()
        if len(lanes) > width:
            waiting.append((lanes[width:], start))
            lanes = lanes[:width]
        last: Stack | None = None
        solved: list[tuple[float, Params]] = []
        while start < len(grid.alphas):
            at = range(start, min(start + depth, len(grid.alphas)))
            stack = _stacked(objective, grid, at, lanes)
            own = solver
            if grid.rates[0] is not None:
                rates = tuple(grid.rates[r] for r, _ in lanes)
                own = declared(solver, "with_rates")(rates * len(at))
            interrupt: Interrupted | None = None
            with matmul_precision(precision):
                try:
                    result = _within_memory(
                        stack,
                        own,
                        follow=partial(_followed, stack, own, last, solved)
                        if follows and last
                        else None,
                        release=not follows or at.stop == len(grid.alphas),
                        callbacks=[partial(callback, at)] if callback else (),
                    )
                except Interrupted as error:
                    result, interrupt = error.result, error
            if result is None and len(at) > 1:
                depth = len(at) // 2
                continue
            if result is None:  # the halves start anew: what they could follow takes memory too
                width = len(lanes) // 2
                waiting.append((lanes, start))
                break
            last = Stack(at, lanes, stack, result)
            yield last
            if interrupt is not None:
                raise interrupt
            ends = [(float(grid.alphas[a]), last.params_at(a)) for a in at[-2:]]
            solved = [*solved, *ends][-2:]
            start = at.stop


def stacks_beyond(
    objective: Objective,
    solver: Solver,
    run: Run,
    callback: Callable[[range, Progress], bool] | None,
    precision: str = "float32",
    *,
    extends: bool,
) -> Iterator[Stack]:
    """Solve the grid of a run, and weaker strengths while they are the best of all, if it extends.

    Each stack is to be added to the run before the next one is asked for.
    """
    first, step = 0, run.grid.alphas[-1] / run.grid.alphas[-2:][0]
    more = max(1, len(run.grid.alphas) // _FURTHER)
    for extensions in range(_EXTENSIONS + 1):
        if extensions:
            if not extends or run.rises_to != "weakest":
                return
            first = len(run.grid.alphas)
            run.extend(run.grid.alphas[-1] * step ** np.arange(1, more + 1))
        part = run.grid._replace(alphas=run.grid.alphas[first:])
        show = callback and partial(_shifted, callback, first)
        for stack in stacks(objective, solver, part, show, precision):
            at = range(stack.at.start + first, stack.at.stop + first)
            yield stack._replace(at=at)


def _shifted(
    callback: Callable[[range, Progress], bool], first: int, at: range, progress: Progress
) -> bool:
    return callback(range(at.start + first, at.stop + first), progress)


def _within_memory(
    stack: Objective, solver: Solver, *, follow: Callable[[], Any] | None, **settings: Any
) -> Result | None:
    """Return the solution of a stack; None where there is not enough memory for so many models."""
    backend = stack.data.backend
    try:
        return minimize(stack, solver, state=follow() if follow else None, **settings)
    except Exception as error:
        if stack.m == 1 or not backend.out_of_memory(error):
            raise
    # Not in `except`: until its end, the traceback holds the arrays of the run that failed.
    gc.collect()
    backend.release_memory()
    warnings.warn(
        f"out of memory with a stack of {stack.m} models; going on with half as many at a time: "
        "results are the same within tol, it takes more passes",
        RuntimeWarning,
        stacklevel=5,
    )
    return None


def _stacked(
    objective: Objective, grid: Grid, at: range, lanes: Sequence[tuple[int, int]]
) -> Objective:
    """Return the objective of a stack."""
    data = objective.data
    alpha = np.repeat(grid.alphas[at.start : at.stop], len(lanes))
    folds = data.backend.asarray(np.asarray([f for _, f in lanes] * len(at)))
    return replace(
        objective,
        alpha=data.backend.asarray(alpha, data.dtype),
        data=data.with_weights(grid.train, folds),
    )


def _followed(
    objective: Objective, solver: Any, last: Stack, solved: Sequence[tuple[float, Params]]
) -> Any:
    """Return the solver's first state at new strengths, from that of the last stack.

    The start is extrapolated, linearly in log α, from the last two strengths solved.
    """
    xp, backend, lanes = objective.xp, objective.data.backend, len(last.lanes)
    repeats = objective.m // lanes
    nearest = np.tile(np.arange(lanes) + last.objective.m - lanes, repeats)
    index = backend.asarray(nearest)
    start = take_models(last.result.params, index, xp=xp)
    if len(solved) == 2:
        (early, old), (late, _) = solved
        new = backend.to_host(objective.alpha).astype(np.float64)
        ahead = np.minimum(np.log(late / new) / np.log(early / late), 1.0)[:, None]
        ahead = backend.asarray(ahead, objective.data.dtype)
        old = take_models(old, backend.asarray(nearest % lanes), xp=xp)
        start = Params(*(a + ahead * (a - b) for a, b in zip(start, old, strict=True)))
    state = solver.take(last.result.state, index, xp=xp)
    return solver.follow(objective, start, state, xp.take(last.objective.alpha, index))


def _held_out_scores(
    stack: Stack, grid: Grid, models: list[int], scoring: str | HostScoring
) -> HostArray:
    """Return the scores of some models on the rows of their folds."""
    data, xp = stack.objective.data, stack.objective.xp
    asarray, to_host = data.backend.asarray, data.backend.to_host
    folds = [stack.lanes[model % len(stack.lanes)][1] for model in models]
    alpha = xp.take(stack.objective.alpha, asarray(np.asarray(models)))

    def known(some: slice) -> Params:
        params, classes = stack.params(models[some]), asarray(grid.known[folds[some]])
        return without_classes(params, classes, xp=xp)

    if isinstance(scoring, str):
        own = data.with_weights(grid.held_out, asarray(np.asarray(folds)))
        part = replace(stack.objective, alpha=alpha, data=own)
        return to_host(SCORINGS[scoring](part, known(slice(None))))
    rows, strengths = [grid.tests[fold] for fold in folds], to_host(alpha).tolist()
    few = max(1, len(models) // len(stack.at))  # one strength at a time, to bound the memory
    parts = [slice(start, start + few) for start in range(0, len(models), few)]
    return np.concatenate(
        [scoring.scores(data, known(some), rows[some], strengths[some]) for some in parts]
    )


def _one(result: Result, model: int, params: Params) -> Result:
    """Return one model's part of a result."""
    one = slice(model, model + 1)
    history = {
        name: column if column.ndim == 1 else column[:, one]
        for name, column in result.history.items()
    }
    return replace(
        result,
        params=params,
        history=history,
        converged=result.converged[one],
        residual=result.residual[one],
        lower_bound=result.lower_bound[one],
        reasons=result.reasons[one],
    )


class Run:
    """Scores and solutions as they come in."""

    def __init__(
        self, grid: Grid, callbacks: Sequence[Callable[[SweepProgress], bool | None]]
    ) -> None:
        self.grid, self.callbacks = grid, callbacks
        self.scores = np.full((len(grid.alphas), len(grid.rates), len(grid.tests)), np.nan)
        self.diverged = np.zeros(self.scores.shape[:2], dtype=bool)
        self.lanes_done = np.zeros(len(grid.alphas), dtype=int)
        self.refits: dict[tuple[int, int], Result] = {}
        self.reasons: list[str] = []
        self.stalled: list[tuple[float, bool]] = []  # residual, and whether it is a gap
        self._start = time.perf_counter()

    @property
    def models(self) -> int:
        """How many there are to solve."""
        return len(self.grid.alphas) * len(self.grid.lanes)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._start

    def show(self, at: range, progress: Progress) -> bool:
        """Tell the callbacks; return whether one wants to stop."""
        news = SweepProgress(
            done=len(self.reasons),
            models=self.models,
            alpha=float(self.grid.alphas[at[-1]]),
            iteration=progress.iteration,
            seconds=self.seconds,
            loss=float(progress.loss.mean()),
        )
        return sum(bool(callback(news)) for callback in self.callbacks) > 0

    def add(self, stack: Stack, scoring: str | HostScoring) -> None:
        """Score what was solved, and keep the fits to all rows.

        A strength is done when all its models are: those that Ctrl-C cut short are not.
        """
        folds, result = len(self.grid.tests), stack.result
        place = [(a, *lane) for a in stack.at for lane in stack.lanes]
        cut = np.asarray(result.reasons) == "interrupted"
        whole: HostArray = ~cut.reshape(len(stack.at), len(stack.lanes)).any(axis=1)
        solved = [i for i, (a, *_) in enumerate(place) if whole[a - stack.at.start]]
        models = [i for i in solved if place[i][2] < folds]
        if models:
            values: Any = _held_out_scores(stack, self.grid, models, scoring)
            for model, value in zip(models, values, strict=True):
                self.scores[place[model]] = value
        for model in sorted(set(solved) - set(models)):
            self.refits[place[model][:2]] = _one(result, model, stack.params([model]))
        used = result.history["step_size"][-1]
        for model in solved:
            a, r, _ = place[model]
            # Only divergence makes a given rate smaller.
            self.diverged[a, r] |= self.grid.rates[r] is not None and not (
                0.5 < used[model] / cast(float, self.grid.rates[r]) < 2.0
            )
        self.reasons += result.reasons
        proven = np.isfinite(result.lower_bound)
        self.stalled += [
            (residual, gap)
            for residual, gap, reason in zip(result.residual, proven, result.reasons, strict=True)
            if reason == "rounding"
        ]
        self.lanes_done[stack.at.start : stack.at.stop] += whole * len(stack.lanes)

    @property
    def done(self) -> HostArray:
        """The strengths of which every lane is solved."""
        return np.nonzero(self.lanes_done == len(self.grid.lanes))[0]

    def extend(self, alphas: HostArray) -> None:
        """Take in strengths that are weaker than those there are."""
        self.grid = self.grid._replace(alphas=np.concatenate([self.grid.alphas, alphas]))
        new = np.full((len(alphas), *self.scores.shape[1:]), np.nan)
        self.scores = np.concatenate([self.scores, new])
        self.diverged = np.concatenate([self.diverged, np.zeros(new.shape[:2], dtype=bool)])
        self.lanes_done = np.concatenate([self.lanes_done, np.zeros(len(alphas), dtype=int)])

    @property
    def rises_to(self) -> Literal["strongest", "weakest"] | None:
        """The end of the grid that is better than all else there, if the grid has an inside."""
        mean = np.where(self.diverged, -np.inf, self.scores.mean(axis=2)).max(axis=1)
        if len(mean) < 3 or not np.isfinite(mean).all():  # or was stopped before its end
            return None
        if mean[-1] > mean[:-1].max():
            return "weakest"
        return "strongest" if mean[0] > mean[1:].max() else None

    def warn_of_an_end(self) -> None:
        """Say so where better strengths may lie beyond the grid."""
        end = self.rises_to
        if end is not None:
            alpha = self.grid.alphas[0 if end == "strongest" else -1]
            warnings.warn(
                f"the best mean score is that of the {end} alpha, {alpha:.3g}: better ones may lie "
                f"beyond the grid; give {end.replace('est', 'er')} alphas too",
                UserWarning,
                stacklevel=4,
            )

    def best(self, *, one_standard_error: bool) -> tuple[int, int]:
        """Return the strength and learning rate to choose, as places in ``scores``."""
        done = self.done
        if not done.size:
            msg = "stopped before any strength was done in all folds: there is nothing to choose"
            raise ValueError(msg)
        self.scores[self.diverged] = np.nan
        scores, lost = self.scores[done], self.diverged[done]
        if lost.all():
            msg = "every learning rate diverged at every strength; give smaller learning_rates"
            raise ValueError(msg)
        wrong = np.argwhere(~np.isfinite(scores) & ~lost[:, :, None])
        if wrong.size:
            a, _, fold = wrong[0]
            msg = (
                f"scoring gave NaN or infinity at alpha={self.grid.alphas[done[a]]:g}, fold "
                f"{fold}; it must give finite numbers"
            )
            raise ValueError(msg)
        mean = np.where(lost, -np.inf, scores.mean(axis=2))
        a, r = divmod(int(mean.argmax()), mean.shape[1])
        if one_standard_error:
            error = scores[a, r].std(ddof=1) / scores.shape[2] ** 0.5
            a = int(np.argmax(mean.max(axis=1) >= mean[a, r] - error))
            r = int(mean[a].argmax())
        return a, r

    def warn(self, objective: Objective, precision: str, tol: float) -> None:
        """Say once how many models stopped before ``tol``, and why."""
        count = {reason: self.reasons.count(reason) for reason in ("max_iter", "rounding")}
        if count["max_iter"]:
            warnings.warn(
                f"{count['max_iter']} of {len(self.reasons)} models stopped at max_iter before "
                f"tol={tol:g} was reached: more would improve their weights; raise max_iter, or "
                "tol if they are good enough",
                ConvergenceWarning,
                stacklevel=4,
            )
        if count["rounding"]:
            worst, gap = max(self.stalled)
            measured = f"{'gap' if gap else 'residual'} up to {worst:.0e}"
            floor = at_the_floor(objective, precision, measured, tol)
            message = f"{count['rounding']} of {len(self.reasons)} models {floor}"
            warnings.warn(message, ConvergenceWarning, stacklevel=4)
