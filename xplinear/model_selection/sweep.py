"""Many strengths, folds and learning rates through one X: what is stacked, what follows what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from xplinear.arguments import warn
from xplinear.data import Data
from xplinear.estimator.journal import Journal, Runs
from xplinear.estimator.memory import STATE_VECTORS, WIDE, within_memory
from xplinear.estimator.solve import at_the_floor, minimized
from xplinear.minimize import Progress, Result, time_left
from xplinear.model_selection.folds import Folds
from xplinear.model_selection.scoring import HeldOut, OfRows, sums_of, without_classes
from xplinear.namespace import Array, HostArray
from xplinear.objective import Objective, Params, columns
from xplinear.solvers import Solver
from xplinear.solvers.protocol import declared, take_models

__all__ = [
    "Grid",
    "Run",
    "Stack",
    "SweepProgress",
    "end_of",
    "held_out_decisions",
    "scattered",
    "stack_width",
    "stacks",
    "stacks_beyond",
    "warn_of_an_end",
]

_EXTENSIONS, _FURTHER = 2, 5  # each by a fifth of the grid


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


def stack_width(objective: Objective, lanes: int, *, follows: bool) -> tuple[int, int]:
    """Return how many lanes, and how many strengths of each, to solve as one stack.

    A lane is a fold (at a learning rate): the models that differ in α only. Measured with L-BFGS
    on 5,000 rows of Fashion-MNIST, 45 strengths (C from 1e-6 to 1e5), to relative gradients of
    1e-3 / 1e-4 (or 100 iterations): one strength after the other, each following the two before
    it, needs 141 / 470 passes over X of one model each; all at once from zero need 58 / 100
    passes, but 1,159 / 2,397 models in them. So strengths share a stack only where further
    columns cost next to nothing: on a GPU, up to `Backend.free_columns`. A solver that cannot
    follow always starts from zero, and takes what the matrix product gains by. Half of the free
    memory may hold the solver's state. Products of sparse rows gain nothing by further columns, and
    cost more where these are too many for the caches: there weights take no more than a block.

    Parameters
    ----------
    objective : Objective
    lanes : int
    follows : bool
        Whether the solver can start from neighbouring solutions.
    """
    data = objective.data
    c = columns(objective.loss, objective.k)
    weights = c * data.p * (objective.xp.finfo(data.dtype).bits // 8)
    room = max(1, data.backend.free_memory() // 2 // (STATE_VECTORS * weights))
    room = min(room, max(1, data.backend.block_bytes // weights)) if data.sparse else room
    width = min(lanes, room)
    free = data.backend.free_columns if follows else max(WIDE, data.backend.free_columns)
    return width, max(1, min(free // c, room) // width)


class Grid(NamedTuple):
    """All there is to solve, and to score it."""

    alphas: HostArray  # strong to weak
    rates: Sequence[float | None]
    folds: Folds
    # Where these are given, ``alphas`` are 1 / (C Σs) of all rows, and each fold has its own.
    Cs: HostArray | None = None
    own: HostArray | None = None  # of each fold, by which its strengths differ from ``alphas``

    def named(self, a: int) -> tuple[str, float]:
        """Return a strength, and the parameter that it is given by."""
        if self.Cs is None:
            return "alpha", float(self.alphas[a])
        return "C", float(self.Cs[a])

    def strengths(self, at: range, lanes: Sequence[tuple[int, int]]) -> HostArray:
        """Return α of each model of a stack ``(m,)``."""
        own = np.ones(1) if self.own is None else self.own
        if self.Cs is not None:
            own = own / self.folds.shares
        own = np.broadcast_to(own, self.folds.shares.shape)[[f for _, f in lanes]]
        return np.ravel(self.alphas[at.start : at.stop, None] * own)

    @property
    def lanes(self) -> list[tuple[int, int]]:
        """Rate and fold of every lane."""
        return [(r, f) for r in range(len(self.rates)) for f in range(len(self.folds.shares))]


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
    runs: Runs,
    first: int = 0,
) -> Iterator[Stack]:
    """Solve the models from the ``first`` strength on: each starts from the stronger ones before.

    No fold starts from the solution on all rows, near as it is: where a run is stopped early,
    its held-out rows would have been seen. A stack that memory does not hold is halved. Of one
    that Ctrl-C cuts short, the models that were done are yielded too, before `Interrupted`.
    """
    planned = declared(solver, "planned")
    if planned is not None:
        solver = planned(_stacked(objective, grid, range(first, len(grid.alphas)), grid.lanes))
    follows = declared(solver, "follow") is not None
    groups = _together(grid, solver)
    widest = partial(stack_width, objective, max(map(len, groups)), follows=follows)
    width, depth = runs.journal.drawn("widths of stacks", widest)
    width -= width % grid.folds.models if width > grid.folds.models else 0  # whole folds
    # And the first of the strengths that are left to do.
    waiting = [(group, first) for group in reversed(groups)]
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
            new = grid.alphas[at.start : at.stop]
            follow = partial(_followed, stack, own, last, solved, new) if follows and last else None
            solve = partial(
                minimized,
                *(runs, stack, own),
                state=follow,
                release=not follows or at.stop == len(grid.alphas),
                callbacks=[partial(callback, at)] if callback else (),
            )
            found = within_memory(stack, solve)
            if found is None and len(at) > 1:
                depth = len(at) // 2
                continue
            if found is None:  # the halves start anew: what they could follow takes memory too
                width = len(lanes) // 2
                waiting.append((lanes, start))
                break
            result, interrupt = found
            last = Stack(at, lanes, stack, result)
            yield last
            if interrupt is not None:
                try:
                    raise interrupt
                finally:
                    del found, interrupt  # its traceback holds this frame, and so all rows
            ends = [(float(grid.alphas[a]), last.params_at(a)) for a in at[-2:]]
            solved = [*solved, *ends][-2:]
            start = at.stop


def _together(grid: Grid, solver: Solver) -> list[list[tuple[int, int]]]:
    """Return the lanes that may be in one stack."""
    standard = grid.folds.standard
    if standard is None or not declared(solver, "common_rows"):
        return [grid.lanes]
    columns = grid.folds.columns(standard.centre, [f for _, f in grid.lanes])
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for lane, column in zip(grid.lanes, columns.tolist(), strict=True):
        groups.setdefault((lane[0], column), []).append(lane)
    return list(groups.values())


def stacks_beyond(
    objective: Objective,
    solver: Solver,
    run: Run,
    runs: Runs,
    *,
    extends: bool,
) -> Iterator[Stack]:
    """Solve the grid of a run, and weaker strengths while they are the best of all, if it extends.

    Each stack is to be added to the run before the next one is asked for.
    """
    step = run.grid.alphas[-1] / run.grid.alphas[-2:][0]
    more = max(1, len(run.grid.alphas) // _FURTHER)
    callback = run.show if run.callbacks else None
    yield from stacks(objective, solver, run.grid, callback, runs)
    for _ in range(_EXTENSIONS):
        if not extends or run.rises_to != "weakest":
            return
        first = len(run.grid.alphas)
        run.extend(run.grid.alphas[-1] * step ** np.arange(1, more + 1))
        yield from stacks(objective, solver, run.grid, callback, runs, first)


def held_out_decisions(
    objective: Objective,
    solver: Solver,
    grid: Grid,
    place: tuple[int, int],
    held_out: HeldOut,
    runs: Runs,
) -> list[Array]:
    """Return the class scores ``(r, k)`` of each fold, of the rows that it holds out."""
    (a, r), count = place, len(grid.folds.tests)
    one = grid._replace(
        alphas=grid.alphas[a : a + 1],
        rates=grid.rates[r : r + 1],
        folds=grid.folds._replace(shares=grid.folds.shares[:count]),
        Cs=None if grid.Cs is None else grid.Cs[a : a + 1],
    )
    found: dict[int, Array] = {}
    for stack in stacks(objective, solver, one, None, runs):
        folds = [f for _, f in stack.lanes]
        params = _known(grid, stack.result.params, folds, objective)
        found |= zip(folds, held_out.decisions(stack.objective.data, params, folds), strict=True)
    return [found[f] for f in range(count)]


def scattered(Z: Array, rows: HostArray, n: int, objective: Objective) -> Array:
    """Return scores of some rows in the places of these among n; the others are NaN."""
    xp, at = objective.xp, np.full(n, len(rows))
    at[rows] = np.arange(len(rows))
    Z = xp.concat([Z, xp.full_like(Z[:1, ...], float("nan"))], axis=0)
    return xp.take(Z, objective.data.backend.asarray(at), axis=0)


def _stacked(
    objective: Objective, grid: Grid, at: range, lanes: Sequence[tuple[int, int]]
) -> Objective:
    """Return the objective of a stack."""
    folds = [f for _, f in lanes] * len(at)
    models = objective.data.backend.asarray(np.asarray(folds) % grid.folds.models)
    data = objective.data.take(models)
    standard = grid.folds.standard_of(folds, backend=data.backend)
    data = data if standard is None else data.with_standard(standard)
    return replace(
        objective,
        alpha=data.backend.asarray(grid.strengths(at, lanes), data.dtype),
        data=_weighted(data, grid, grid.folds.train, folds),
    )


def _weighted(data: Data, grid: Grid, weights: Array, folds: Sequence[int]) -> Data:
    return data.with_weights(weights, data.backend.asarray(grid.folds.columns(weights, folds)))


def _followed(
    objective: Objective,
    solver: Any,
    last: Stack,
    solved: Sequence[tuple[float, Params]],
    alphas: HostArray,
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
        ahead = np.minimum(np.log(late / alphas) / np.log(early / late), 1.0)
        ahead = backend.asarray(np.repeat(ahead, lanes)[:, None], objective.data.dtype)
        old = take_models(old, backend.asarray(nearest % lanes), xp=xp)
        start = Params(*(a + ahead * (a - b) for a, b in zip(start, old, strict=True)))
    state = solver.take(last.result.state, index, xp=xp)
    state = solver.follow(objective, start, state, xp.take(last.objective.alpha, index))
    curved = declared(solver, "curved") if repeats == 1 else None
    return curved(objective, state, last.result.n_iter) if curved else state


def _known(grid: Grid, params: Params, folds: list[int], objective: Objective) -> Params:
    known = objective.data.backend.asarray(grid.folds.known[folds])
    return without_classes(params, known, xp=objective.xp)


def _held_out_scores(
    stack: Stack, grid: Grid, models: list[int], scoring: str | OfRows
) -> HostArray:
    """Return the scores of some models on the rows of their folds."""
    backend = stack.objective.data.backend
    # Of sums all at once, else one strength at a time, to bound the memory.
    few = len(models) if isinstance(scoring, str) else max(1, len(models) // len(stack.at))
    found: list[HostArray] = []
    for start in range(0, len(models), few):
        some = models[start : start + few]
        folds = [stack.lanes[model % len(stack.lanes)][1] for model in some]
        part = stack.objective.take(backend.asarray(np.asarray(some)))
        params = _known(grid, stack.params(some), folds, part)
        part = replace(part, data=_weighted(part.data, grid, grid.folds.held_out, folds))
        if isinstance(scoring, str):
            found.append(backend.to_host(sums_of(scoring)(part, params)))
        else:
            found.append(scoring.scores(part, params, folds))
    return np.concatenate(found)


def _one(result: Result, model: int, params: Params) -> Result:
    """Return one model's part of a result."""
    one = slice(model, model + 1)
    history = {
        name: column if column.ndim == 1 else column[:, one]
        for name, column in result.history.items()
    }
    names = "converged", "residual", "lower_bound", "reasons"
    own = {name: getattr(result, name)[one] for name in names}
    return replace(result, params=params, history=history, **own)


def end_of(mean: HostArray) -> Literal["strongest", "weakest"] | None:
    """Return the end of a grid whose score is better than all others, if it has an inside."""
    if len(mean) < 3 or not np.isfinite(mean).all():  # or was stopped before its end
        return None
    if mean[-1] > mean[:-1].max():
        return "weakest"
    return "strongest" if mean[0] > mean[1:].max() else None


def warn_of_an_end(
    end: Literal["strongest", "weakest"] | None, strengths: HostArray, name: str
) -> None:
    """Say so where better strengths may lie beyond the grid; they are named alpha, or C."""
    if end is None:
        return
    value, which = strengths[0 if end == "strongest" else -1], str(end)
    if name == "C":
        which = "smallest" if end == "strongest" else "largest"
    warn(
        f"the best mean score is that of the {which} {name}, {value:.3g}: better ones may "
        f"lie beyond the grid; give {which.replace('est', 'er')} {name}s too"
    )


class Run:
    """Scores and solutions as they come in."""

    def __init__(
        self,
        grid: Grid,
        callbacks: Sequence[Callable[[SweepProgress], bool | None]],
        journal: Journal,
        parts: tuple[int, ...] = (),
    ) -> None:
        self.grid, self.callbacks, self._journal = grid, callbacks, journal
        shape = len(grid.alphas), len(grid.rates), len(grid.folds.tests), *parts
        self.scores = np.full(shape, np.nan)  # each in parts, if so
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
        """Since the start, those included that a checkpoint saved."""
        return time.perf_counter() - self._start + self._journal.passed

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

    def tell(self, a: int, score: float) -> None:
        """Print how far it is, and the mean score of a strength; once of each."""
        if self._journal.answered:
            return
        (name, strength), done = self.grid.named(a), len(self.reasons)
        left = time_left(self.seconds, done, self.models)
        print(  # noqa: T201 - asked for
            f"{name} {strength:.3g}  score {score:.4f}  {done}/{self.models} models"
            f"  {self.seconds:.2f} s, time left {left}"
        )

    def add(self, stack: Stack, scoring: str | OfRows) -> None:
        """Score what was solved, and keep the fits to all rows.

        A strength is done when all its models are: those that Ctrl-C cut short are not.
        """
        folds, result = len(self.grid.folds.tests), stack.result
        place = [(a, *lane) for a in stack.at for lane in stack.lanes]
        cut = np.asarray(result.reasons) == "interrupted"
        whole: HostArray = ~cut.reshape(len(stack.at), len(stack.lanes)).any(axis=1)
        solved = [i for i, (a, *_) in enumerate(place) if whole[a - stack.at.start]]
        models = [i for i in solved if place[i][2] < folds]
        if models:
            score = partial(_held_out_scores, stack, self.grid, models, scoring)
            values = self._journal.drawn("scores", lambda: score().tolist())
            for model, value in zip(models, values, strict=True):
                self.scores[place[model]] = value
        for model in sorted(set(solved) - set(models)):
            self.refits[place[model][:2]] = _one(result, model, stack.params([model]))
        used = result.history["step_size"][-1]
        for model in solved:
            a, r, _ = place[model]
            rate = self.grid.rates[r]
            if rate is not None and not 0.5 < used[model] / rate < 2.0:
                self.diverged[a, r] = True  # only divergence makes a given rate smaller
        self._count(result)
        self.lanes_done[stack.at.start : stack.at.stop] += whole * len(stack.lanes)

    def _count(self, result: Result) -> None:
        self.reasons += result.reasons
        rounded = np.asarray(result.reasons) == "rounding"
        gaps = np.isfinite(result.lower_bound[rounded])
        self.stalled += zip(result.residual[rounded], gaps, strict=True)

    def refit(self, place: tuple[int, int], result: Result) -> None:
        """Take a fit to all rows in the place of the one there is."""
        self.reasons.remove(self.refits[place].reasons[0])
        self.refits[place] = result
        self._count(result)

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
        return end_of(np.where(self.diverged, -np.inf, self.scores.mean(axis=2)).max(axis=1))

    def warn_of_an_end(self) -> None:
        """Say so where better strengths may lie beyond the grid."""
        given = self.grid.alphas if self.grid.Cs is None else self.grid.Cs
        warn_of_an_end(self.rises_to, given, "alpha" if self.grid.Cs is None else "C")

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
            warn(
                f"{count['max_iter']} of {len(self.reasons)} models stopped at max_iter before "
                f"tol={tol:g} was reached: more would improve their weights; raise max_iter, or "
                "tol if they are good enough",
                ConvergenceWarning,
            )
        if count["rounding"]:
            worst, gap = max(self.stalled)
            measured = f"{'gap' if gap else 'residual'} up to {worst:.0e}"
            floor = at_the_floor(objective, precision, measured, tol)
            message = f"{count['rounding']} of {len(self.reasons)} models {floor}"
            warn(message, ConvergenceWarning)
