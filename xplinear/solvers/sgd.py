"""Mini-batch stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from xplinear.arguments import FLAG, NONE, integer, number, one_of, sequence, settle
from xplinear.data.protocol import Batch, Block, Followed, compiled, row_width
from xplinear.data.rows import centred_scores, spread
from xplinear.losses import Loss
from xplinear.namespace import Array, Namespace, accumulator
from xplinear.objective import Objective, Params, columns, loss_and_grads, weighted_penalty
from xplinear.penalties import Penalty
from xplinear.solvers.metric import (
    Metric,
    Moments,
    feature_metric,
    feature_moments,
    loss_curvature,
    mean_loss,
    penalty_curvature,
    plain_metric,
    small_sample,
)
from xplinear.solvers.protocol import select, take_models
from xplinear.solvers.proximal import proximal_step
from xplinear.solvers.report import Report, first_report

__all__ = ["SCHEDULES", "SGD", "SGDState"]

# Multiples of 1 / (curvature bound · norms of the batch). Squared error diverges at 2. A loss of
# bounded slope cannot be thrown far by a single row, and is flatter than its bound almost
# everywhere: softmax by about k/2.
_CAUTIOUS, _BOLD, _BOLDEST = 0.75, 2.0, 10.0
_ENDLESS = 0.25  # where the schedule does not end at zero: nothing else lowers the noise
_HALVING = 2000  # updates after which inverse scaling has shrunk the step by √2
_LEAST_UPDATES = 2000  # unless they cost more operations than this, for one model ...
_OPERATIONS = 2e10  # some seconds
_FEWEST_UPDATES = 200  # ... but so many in any case
_UPDATE = (
    5  # rows of all features: what moving all weights costs, which counts where rows are sparse
)
_SETTLING = 100  # updates per multiple
_LEAST_EPOCHS = 10
_BATCH, _SPARSE_BATCH = 64, 1024

# Factor of the learning rate at update t of T.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda t, T: 1.0,
    "inverse_scaling": lambda t, T: (1.0 + t / _HALVING) ** -0.5,
    "cosine": lambda t, T: 0.5 * (1.0 + math.cos(math.pi * min(t / T, 1.0))),
    "linear": lambda t, T: max(0.0, 1.0 - t / T),
    "quadratic": lambda t, T: max(0.0, 1.0 - t / T) ** 2,
}


class Walk(NamedTuple):
    """Where the updates are, their velocity, and the mean of the iterates so far."""

    current: Params
    velocity: Params
    average: Params


class Best(NamedTuple):
    """The lowest objective ``(m,)`` of an epoch so far, and the data loss and iterate there."""

    value: Array
    loss: Array
    current: Params


class Counts(NamedTuple):
    """What was made so far, earlier runs of `partial_fit` included in all but ``averaged``."""

    epochs: int
    updates: int
    averaged: int  # epochs in the mean of the iterates


class SGDState(NamedTuple):
    """State of `SGD`; all but ``params`` keep the intercept at the features' centre."""

    params: Params
    report: Report
    walk: Walk
    best: Best
    waited: Array  # epochs without an improvement
    limit: Array  # a loss above this is divergence
    metric: Metric
    moments: Moments | None
    counts: Counts


class _Steps(NamedTuple):
    """Constants of an epoch; the penalty's step contains α and what momentum multiplies."""

    centre: Array
    weights: Array
    intercept: Array
    penalty: Array


# Iterate, velocity, sum of the iterates (if averaged), sum of the losses.
_Carry: TypeAlias = tuple[Params, Params, Params, Array]


class Rule(NamedTuple):
    """What the updates of an epoch are made by; CuPy's kernel reads it too."""

    loss: Loss
    penalty: Penalty
    momentum: float
    nesterov: bool
    average: bool


def _update(
    rule: Rule, xp: Namespace, carry: _Carry, batch: Batch, factor: Any, steps: _Steps
) -> _Carry:
    """Make one mini-batch update."""
    rows, y, s, count = batch
    (W, b), velocity, total, seen = carry
    params = Params(W, b - centred_scores(steps.centre, W, xp=xp))
    value, (gW, gb) = loss_and_grads(rule.loss, rows, y, s, params, xp=xp)
    rate = factor / count
    gW = gW - spread(steps.centre, gb, xp=xp)
    dW, db = rate * (steps.weights * gW), rate * (steps.intercept * gb)
    momentum = rule.momentum
    velocity = Params(momentum * velocity.W - dW, momentum * velocity.b - db)
    if rule.nesterov:
        W, b = W + momentum * velocity.W - dW, b + momentum * velocity.b - db
    else:
        W, b = W + velocity.W, b + velocity.b
    W = rule.penalty.prox(W, factor * steps.penalty, xp=xp)
    if rule.average:
        total = Params(total.W + W, total.b + b)
    return Params(W, b), velocity, total, seen + xp.sum(value, axis=0)


@dataclass(frozen=True)
class SGD:
    """Mini-batch SGD: rows shuffled without replacement, momentum, penalty by its prox.

    $V ← βV − η g(batch), W ← prox_{ηαΩ/(1−β)}(W + V)$; an epoch visits every row once, the
    incomplete last batch included. A kinked penalty gets one proximal step on all rows at the
    end of a schedule, so that L1 gives the exact zeros that noise would blur. After an
    epoch whose loss explodes the run goes on from its best point with a tenth of the step.

    Parameters
    ----------
    max_iter : int, optional
        Epochs; by default 10, or as many as make 2,000 updates where that is more. Where features
        and classes are so many that these would take long, 200 updates or more must do.
    tol : float, default 1e-4
        With a schedule that does not end at zero: stop a model when its objective has
        not improved by ``tol`` relative in ``patience`` epochs.
    patience : int, default 5
    batch_size : int, optional
        By default 64; of sparse rows 1024: a step moves all weights, however few entries a row has.
    learning_rate : "auto", float or tuple of m floats, default "auto"
        ``"auto"`` measures feature j and moves it by $η / (var_j + α / c)$ in centred features,
        c the loss's curvature, η from the largest eigenvalue, the row norms, the batch size
        and c. A number is the plain η, the same for all features; a tuple has one for each
        model of the stack.
    schedule : {"quadratic", "linear", "cosine", "inverse_scaling", "constant"}
        The first three take η to zero over ``max_iter`` epochs; default "quadratic".
    momentum : float, default 0.9
        β in [0, 1). "auto" contains the factor 1 − β, a number does not.
    nesterov : bool, default False
    average : bool, default False
        Return the mean of the iterates: of the second half of the epochs where the schedule
        ends at zero, else of all but the first epoch.
    seed : int, default 0
        Of the shuffles, the same on every backend.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    References
    ----------
    Jain et al., Parallelizing stochastic gradient descent for least squares regression,
    JMLR 2018 (the step a batch allows); Polyak and Juditsky 1992 (averaging).

    Examples
    --------
    >>> import xplinear as xl
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = xl.LinearClassifier(solver=xl.solvers.SGD(schedule="cosine"), random_state=0)
    >>> bool(clf.fit(X, y).score(X, y) > 0.98)
    True
    """

    max_iter: int | None = None
    tol: float = 1e-4
    patience: int = 5
    batch_size: int | None = None
    learning_rate: Literal["auto"] | float | tuple[float, ...] = "auto"
    schedule: Literal["quadratic", "linear", "cosine", "inverse_scaling", "constant"] = "quadratic"
    momentum: float = 0.9
    nesterov: bool = False
    average: bool = False
    seed: int = 0

    state_type = SGDState
    exact = False
    unit = "epoch"

    def __post_init__(self) -> None:
        rate = number("(0, inf)")
        settle(
            self,
            max_iter=integer(1) | NONE,
            tol=number("[0, inf)"),
            patience=integer(1),
            batch_size=integer(1) | NONE,
            learning_rate=one_of("auto") | rate | sequence(rate, "a tuple of them, one per model"),
            schedule=one_of(*SCHEDULES),
            momentum=number("[0, 1)"),
            nesterov=FLAG,
            average=FLAG,
            seed=integer(0),
        )

    def with_rates(self, rates: tuple[float, ...]) -> SGD:
        """Return the solver with a learning rate for each model of a stack."""
        return replace(self, learning_rate=rates)

    def in_turn(self) -> SGD:
        """Return the solver for an epoch of rows that come in turn, which may go on for ever."""
        return replace(self, max_iter=1, schedule="inverse_scaling", average=False)

    @property
    def ends(self) -> bool:
        """Whether the schedule takes the step to zero."""
        return SCHEDULES[self.schedule](1, 1) == 0.0

    def iterations(self, n: int) -> int:
        """Return the largest number of epochs: that where updates cost little."""
        return self._epochs(math.ceil(n / (self.batch_size or _BATCH)), _LEAST_UPDATES)

    def _batch(self, objective: Objective) -> int:
        """Return how many rows a mini-batch has."""
        return self.batch_size or (_SPARSE_BATCH if objective.data.sparse else _BATCH)

    def _epochs(self, per_epoch: int, updates: float) -> int:
        return self.max_iter or max(_LEAST_EPOCHS, math.ceil(updates / per_epoch))

    def iterations_on(self, objective: Objective) -> int:
        """Return the number of epochs of these rows, the same for one model and in a stack."""
        n, size = objective.data.n, self._batch(objective)
        per_epoch, updates = objective.data.batches(size), _LEAST_UPDATES
        if self.ends:
            data, c = objective.data, columns(objective.loss, objective.k)
            step = min(n, size) * row_width(data) + (_UPDATE * data.p if data.sparse else 0)
            affordable = _OPERATIONS / (4 * step * c)
            updates = min(updates, max(_FEWEST_UPDATES, affordable))
        return self._epochs(per_epoch, updates)

    def init(
        self,
        objective: Objective,
        params: Params,
        previous: SGDState | None = None,
        unit: float = 1.0,
    ) -> SGDState:
        """Measure the features and choose the learning rate.

        ``previous`` is the state of an earlier run on other rows (`partial_fit`): its updates,
        its velocity and its rows' moments count on, the unit of their weights in that of now.
        """
        if self.learning_rate == "auto":
            moments = feature_moments(objective, previous.moments if previous else None, unit)
            metric, step_size = self._measured(objective, moments)
        else:
            moments, metric = None, plain_metric(objective)
            step_size = self._given(objective)
        nothing, before = objective.zeros(), metric.centre
        velocity = nothing
        if previous is not None:
            before, velocity = previous.metric.centre, previous.walk.velocity
        counts = previous.counts._replace(averaged=0) if previous else Counts(0, 0, 0)
        start = compiled(objective.data, _start, objective.loss, objective.xp)
        report, walk, best, waited, limit = start(
            *(small_sample(objective), params, nothing, velocity),
            *(metric.centre, before, step_size),
        )
        return SGDState(params, report, walk, best, waited, limit, metric, moments, counts)

    def _given(self, objective: Objective) -> Array:
        """Return the learning rates of the settings ``(m,)``."""
        rates, m = cast("float | tuple[float, ...]", self.learning_rate), objective.m
        rates = rates if isinstance(rates, tuple) else (rates,) * m
        if len(rates) != m:
            msg = (
                f"learning_rate has {len(rates)} numbers for a stack of {m} models; give one "
                "for each model, or a single number"
            )
            raise ValueError(msg)
        data = objective.data
        return objective.xp.asarray(list(rates), **data.backend.kind(data.dtype))

    def _measured(self, objective: Objective, moments: Moments) -> tuple[Metric, Array]:
        """Return the metric and the learning rates ``(m,)`` of "auto"."""
        loss, k, n = objective.loss, objective.k, objective.data.n
        curvature, bounded = loss_curvature(loss, k), loss.lipschitz(k) is not None
        most = min(k, _BOLDEST) if loss.smooth else _BOLD
        ridge = penalty_curvature(objective, (most if bounded else _CAUTIOUS) / curvature)
        metric = feature_metric(objective, moments, ridge)
        if not self.ends:
            least = most = _ENDLESS * (1.0 if bounded else 0.5)
        elif not bounded:
            least = most = _CAUTIOUS
        else:
            # Long steps stir up noise. It averages out where there are many rows per parameter,
            # and dies away where there are many updates.
            updates = self.iterations_on(objective) * objective.data.batches(self._batch(objective))
            most = min(most, max(0.1, updates / _SETTLING))
            least = min(_BOLD, most)
        rates = objective.data.backend.compile(_rates, objective.xp)
        row = metric.row if bounded else metric.worst_row
        batch = min(self._batch(objective), n)
        return metric, rates(
            *(row, moments.evenness, metric.eigenvalue, objective.alpha),
            *(n / k, least, most, curvature, batch, self.momentum),
        )

    def step(self, objective: Objective, state: SGDState) -> SGDState:
        """Make one epoch of mini-batch updates."""
        xp, data, penalty = objective.xp, objective.data, objective.penalty
        size = self._batch(objective)
        epochs, per_epoch = self.iterations_on(objective), data.batches(size)
        factor = SCHEDULES[self.schedule]
        done, epoch = state.counts, (self.seed, state.counts.epochs)
        average = self.average and done.epochs >= (epochs // 2 if self.ends else 1)

        prepare = data.backend.compile(_prepare, self.momentum, objective.fit_intercept, xp)
        carry, steps = prepare(state, objective.alpha, data.weight_sum, data.n)
        carry = data.epoch(
            _update,
            Rule(objective.loss, penalty, self.momentum, self.nesterov, average),
            carry,
            steps,
            batch_size=size,
            shuffle=Followed(*epoch) if done.epochs + 1 < epochs else epoch,
            schedule=[
                factor(t, epochs * per_epoch) for t in range(done.updates, done.updates + per_epoch)
            ],
            fold=data.backend.kernel(objective.loss, "sgd"),
        )
        averaged = done.averaged + int(average)
        settle = data.backend.compile(_settle, self.ends, penalty, average, xp)
        share = 1.0 / (averaged * per_epoch) if average else 0.0
        last = self.ends and done.epochs + 1 >= epochs
        settled = settle(
            *(state, carry, objective.alpha, data.weight_sum),
            *(share, per_epoch, last, self.tol, self.patience),
        )
        if last and not penalty.smooth:
            settled = self._clear(objective, settled)
        counts = Counts(done.epochs + 1, done.updates + per_epoch, averaged)
        return settled._replace(counts=counts)

    def take(self, state: SGDState, models: Array, *, xp: Namespace) -> SGDState:
        """Return the state of a stack of these models only."""
        metric = state.metric.take(models, xp=xp)
        return take_models(state, models, xp=xp, metric=metric, moments=None)

    def _clear(self, objective: Objective, state: SGDState) -> SGDState:
        """Make one proximal step on all rows, where it helps: it zeroes what only noise moved."""
        params, alpha = state.params, objective.alpha
        static, compile_ = (objective.penalty, objective.xp), objective.data.backend.compile
        loss, grads = objective.data_loss_and_grad(params)
        curvature = loss_curvature(objective.loss, objective.k)
        trial = compile_(_cleared, *static)(params, grads, state.metric, curvature, alpha)
        choose = compile_(_lower, *static)
        best = choose(params, loss, trial, objective.data_loss(trial), alpha)
        return state._replace(params=best)


def _cleared(
    penalty: Penalty,
    xp: Namespace,
    params: Params,
    grads: Params,
    metric: Metric,
    curvature: float,
    alpha: Array,
) -> Params:
    step_size = xp.ones_like(alpha) / (curvature * metric.eigenvalue)
    return proximal_step(penalty, xp, params, grads, metric, step_size, alpha).trial


def _lower(
    penalty: Penalty,
    xp: Namespace,
    params: Params,
    loss: Array,
    trial: Params,
    after: Array,
    alpha: Array,
) -> Params:
    """Return the trial where its F is no larger."""
    before, after = (
        loss + weighted_penalty(penalty, xp, W, alpha)
        for loss, W in ((loss, params.W), (after, trial.W))
    )
    return select(after <= before, trial, params, xp=xp)


def _start(
    loss: Loss,
    xp: Namespace,
    block: Block,
    params: Params,
    nothing: Params,
    velocity: Params,
    centre: Array,
    before: Array,
    step_size: Array,
) -> tuple[Report, Walk, Best, Array, Array]:
    """Return what `SGDState` holds before the first epoch; the velocity was at centre ``before``.

    ``nothing`` are zeros: XLA's products with a constant 0 may be of memory that nobody wrote.
    """
    current = Params(params.W, params.b + centred_scores(centre, params.W, xp=xp))
    W, b = velocity
    velocity = Params(W, b + centred_scores(centre - before, W, xp=xp))
    wide = accumulator(step_size, xp=xp)
    first, zero = (xp.astype(mean_loss(loss, xp, block, at), wide) for at in (params, nothing))
    report = first_report(first, step_size, xp=xp)
    return (
        report._replace(residual=xp.full_like(first, xp.nan)),
        Walk(current, velocity, nothing),
        Best(xp.full_like(first, xp.inf), first, current),
        xp.zeros_like(first),
        10.0 * xp.maximum(first, zero),
    )


def _rates(
    xp: Namespace,
    row: Array,
    evenness: Array,
    eigenvalue: Array,
    alpha: Array,
    rows_per_class: float,
    least: float,
    most: float,
    curvature: float,
    batch: int,
    momentum: float,
) -> Array:
    """Return the learning rates ``(m,)`` of "auto"."""
    row = row / evenness  # few rows that weigh much are as noisy as few rows
    share = xp.clip(rows_per_class / row, least, most)
    # Momentum lets the mean gradient bear steps (1 + β) times as long, and multiplies
    # the noise of the batches by 1 / (1 − β).
    bound = 2.0 * eigenvalue / (1.0 + momentum) + row / (batch * (1.0 - momentum))
    return share * xp.ones_like(alpha) / (curvature * bound)


def _prepare(
    momentum: float,
    fit_intercept: bool,
    xp: Namespace,
    state: SGDState,
    alpha: Array,
    weight_sum: Array,
    n: int,
) -> tuple[_Carry, _Steps]:
    """Return where an epoch starts and its constants, in the full shape of what they multiply."""
    (W, b), velocity, _ = state.walk
    step_size = state.report.step_size
    scale = state.metric.scale[:, :, None] * xp.ones_like(W)
    # Weights of mean 1 leave the step as it is.
    eta = (step_size / xp.astype(weight_sum / n, W.dtype))[:, None]
    lasting = step_size / (1.0 - momentum)
    steps = _Steps(
        centre=state.metric.centre,
        weights=eta * scale,
        intercept=eta * xp.ones_like(b) * float(fit_intercept),
        penalty=(lasting * alpha)[:, None] * scale,
    )
    nothing = Params(xp.zeros_like(W), xp.zeros_like(b))
    return (state.walk.current, velocity, nothing, xp.zeros_like(state.report.loss)), steps


def _settle(
    ends: bool,
    penalty: Penalty,
    average: bool,
    xp: Namespace,
    state: SGDState,
    carry: _Carry,
    alpha: Array,
    weight_sum: Array,
    share: float,
    per_epoch: int,
    last: bool,
    tol: float,
    patience: int,
) -> SGDState:
    """Judge an epoch: keep it, or go back to the best point where it diverged."""
    (current, velocity, total, seen), best, report = carry, state.best, state.report
    loss = seen / weight_sum
    diverged = ~(loss <= state.limit) & ~report.converged
    undone = diverged | report.converged
    current = select(diverged, best.current, current, xp=xp)
    current = select(report.converged, state.walk.current, current, xp=xp)
    velocity = select(undone, Params(*(xp.zeros_like(a) for a in velocity)), velocity, xp=xp)
    loss = xp.where(diverged, best.loss, loss)
    loss = xp.where(report.converged, report.loss, loss)

    result, mean = current, state.walk.average
    if average:
        both = zip(mean, total, strict=True)
        mean = Params(*(old + share * (new - per_epoch * old) for old, new in both))
        result = select(undone, current, mean, xp=xp)
    params = Params(result.W, result.b - centred_scores(state.metric.centre, result.W, xp=xp))

    now = loss + weighted_penalty(penalty, xp, current.W, alpha)
    lower = now < best.value
    improved = now + tol * xp.abs(now) < best.value
    waited = xp.where(improved | diverged | ends, 0.0, state.waited + 1.0)
    return state._replace(
        params=params,
        report=report._replace(
            loss=loss,
            step_size=xp.where(diverged, 0.1 * report.step_size, report.step_size),
            converged=report.converged | (waited >= patience) | last,
            diverged=diverged,
        ),
        walk=Walk(current, velocity, mean),
        best=Best(
            xp.where(lower, now, best.value),
            xp.where(lower, loss, best.loss),
            select(lower, current, best.current, xp=xp),
        ),
        waited=waited,
    )
