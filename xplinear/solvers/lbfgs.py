"""Limited-memory BFGS in the metric of the Gram matrix, for m models at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

from xplinear.arguments import FLAG, integer, number, one_of, settle
from xplinear.data import Block
from xplinear.data.protocol import compiled
from xplinear.data.rows import centred_scores
from xplinear.losses import Loss
from xplinear.namespace import Array, Namespace, device
from xplinear.objective import Objective, Params, weighted_penalty
from xplinear.penalties import Penalty
from xplinear.solvers.balance import Smooth, evened, smooth
from xplinear.solvers.curvature import (
    curvature_pays,
    mean_inverse_hessians,
    own_curvature_pays,
    own_inverse_hessians,
)
from xplinear.solvers.gram import Preconditioner, gram_pays, preconditioner
from xplinear.solvers.metric import mean_loss, safe_divisor, small_sample, uncentred
from xplinear.solvers.newton import Newton
from xplinear.solvers.protocol import check_suits, max_iter_iterations, take_models
from xplinear.solvers.report import Report, first_report
from xplinear.solvers.stopping import backtracked, decreases, moved, relative_excess

__all__ = ["LBFGS", "LBFGSState", "Proposal"]

_UNTOLD = 0.03  # the metric alone is at times 1000 times too steep
_LONG = 1e-5  # of the weights: steps that are followed by more
_TRIED = 200  # iterations before a Newton step is worth what it costs
_AFFORDABLE_STEP = 5e9  # operations of one: some tenths of a second
_LOOKS = (10, 20, 40, 80, 160, 320)  # iterations after which the rest is judged
_EARLY = 0.1  # residual of the first steps
_FACTOR = 4.0  # from one length of the first step to the next


class Proposal(NamedTuple):
    """Trial points, as vectors ``(m, c p + c)`` and as parameters, and the slope on the way."""

    point: Array
    params: Params
    slope: Array


class LBFGSState(NamedTuple):
    """State of `LBFGS`; vectors ``(m, c p + c)`` hold W and the intercept at the centre.

    The pairs of steps and gradient changes are in rings, zero where a pair is empty, in the order
    of ``age``. A step writes the place of age 0, which the state before does not read.
    """

    params: Params
    report: Report
    point: Array
    gradient: Array
    value: Array
    zero: Array  # F at W = 0, b = 0
    idle: Array  # steps in a row without a decrease above rounding
    steps: Array  # (m, memory + 1, c p + c)
    changes: Array
    age: Array  # (m, memory + 1) of each place; the newest pair's is ``memory``
    products: Array  # (m, memory + 1, memory + 1) of steps with changes that are no older
    slopes: Array  # (m, memory + 1) of steps with the gradient
    scale: Array
    preconditioner: Preconditioner


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS for smooth losses and penalties, preconditioned by the features' Gram matrix.

    H approximates the inverse Hessian from the last ``memory`` steps, starting from
    $γ (c·(XᵀX/n + δI) + αI)⁻¹$, c the loss's curvature bound (Böhning), X centred. One
    eigendecomposition, of a sample of the rows, serves every α of a stack. Each iteration is
    one pass over the data for all models: a model whose trial point does not decrease F enough
    shortens its step. The first step is the best of a few lengths on a sample of the rows. Where
    many iterations are left after 10, or later, H starts instead from the inverse of each class's
    own Hessian at that point, of the rows that have most curvature, measured once.

    Parameters
    ----------
    max_iter : int, default 1000
    tol : float, default 1e-4
        Stop a model when $√(½ gᵀHg / 10 (F(0) − F))$ is at most ``tol``: ½ gᵀHg estimates what F
        exceeds its minimum by. It depends neither on the units of the features nor on the start.
    memory : int, default 10
        Pairs of steps and gradient changes kept.
    gram : "auto" or bool, default "auto"
        Whether to use the Gram matrix; "auto" where p ≤ 4096 and its eigendecomposition costs
        less than the passes it saves.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or loss or penalty are kinked.

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4; Böhning, Multinomial
    logistic regression algorithm, AISM 1992.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplinear as xl
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = xl.LinearClassifier(solver="lbfgs", alpha=0.01, tol=1e-6).fit(X, y)
    >>> round(clf.objective_, 4)
    0.0537
    """

    max_iter: int = 1000
    tol: float = 1e-4
    memory: int = 10
    gram: Literal["auto"] | bool = "auto"

    state_type = LBFGSState
    iterations = max_iter_iterations

    def __post_init__(self) -> None:
        gram = one_of("auto") | FLAG
        settle(self, max_iter=integer(1), tol=number("[0, inf)"), memory=integer(1), gram=gram)

    def refuses(self, loss: Loss, penalty: Penalty) -> str | None:
        """Refuse what is kinked."""
        kinds = (loss, "loss", "'smoothing' or 'sgd'"), (penalty, "penalty", "'proximal_lbfgs'")
        for part, kind, remedy in kinds:
            if not part.smooth:
                return f"solver 'lbfgs' needs a smooth {kind}, got {part!r}; use {remedy}"
        return None

    def planned(self, objective: Objective) -> LBFGS:
        """Let one Gram matrix serve all models."""
        return replace(self, gram=gram_pays(objective)) if self.gram == "auto" else self

    def relay(self, objective: Objective) -> tuple[LBFGS, Newton] | None:
        """Where this is slow, its metric does not suit the data: exact Hessians do."""
        rest = self.max_iter - _TRIED
        if rest < 1 or not Newton().pays(objective, most=_AFFORDABLE_STEP):
            return None
        return replace(self, max_iter=_TRIED), Newton(rest, self.tol)

    def init(self, objective: Objective, params: Params) -> LBFGSState:
        """Evaluate the start and decompose the Gram matrix."""
        check_suits(self, objective)
        params = evened(objective, params)
        return self.start(objective, params, objective.data_loss_and_grad(params))

    def start(
        self, objective: Objective, params: Params, found: tuple[Array, Params]
    ) -> LBFGSState:
        """Return the first state from the mean loss and its gradients at ``params``."""
        xp, backend = objective.xp, objective.data.backend
        gram = gram_pays(objective) if self.gram == "auto" else self.gram
        pre, zero = preconditioner(objective, gram=gram), objective.loss_at_zero()
        start = backend.compile(_start, smooth(objective), self.memory + 1, xp)
        state = start(params, found, pre.centre, objective.alpha, zero)
        # Rings are written in place: each has memory of its own.
        ring, kind = (*state.slopes.shape, state.point.shape[1]), backend.kind(state.point.dtype)
        state = state._replace(
            params=params,
            steps=xp.zeros(ring, **kind),
            changes=xp.zeros(ring, **kind),
            preconditioner=pre,
        )
        state = state._replace(scale=_first_scale(objective, state))
        return _measured(objective, state, self.tol)

    def step(self, objective: Objective, state: LBFGSState) -> LBFGSState:
        """Try one step for every model; keep it where F decreases enough."""
        proposal = self.propose(objective, state)
        found = objective.data_loss_and_grad(proposal.params)
        return self.judge(objective, state, proposal, found)

    def propose(self, objective: Objective, state: LBFGSState) -> Proposal:
        """Return the points to evaluate next."""
        propose = objective.data.backend.compile(_propose, objective.fit_intercept, objective.xp)
        return propose(state)

    def judge(
        self,
        objective: Objective,
        state: LBFGSState,
        proposal: Proposal,
        found: tuple[Array, Params],
    ) -> LBFGSState:
        """Return the next state from the mean loss and its gradients at the proposal."""
        judge = objective.data.backend.compile(_judge, smooth(objective), objective.xp)
        judged, place, step, change = judge(state, objective.alpha, proposal, found, self.tol)
        write = objective.data.backend.write
        return judged._replace(
            steps=write(state.steps, place, step),
            changes=write(state.changes, place, change),
            preconditioner=state.preconditioner,
        )

    def take(self, state: LBFGSState, models: Array, *, xp: Namespace) -> LBFGSState:
        """Return the state of a stack of these models only."""
        own = state.preconditioner.take(models, xp=xp)
        return take_models(state, models, xp=xp, preconditioner=own)

    def copy(self, state: LBFGSState, *, xp: Namespace) -> LBFGSState:
        """Return the state with rings of its own."""
        steps, changes = (
            xp.astype(ring, ring.dtype, copy=True) for ring in (state.steps, state.changes)
        )
        return state._replace(steps=steps, changes=changes)

    def ahead(self, objective: Objective, state: LBFGSState) -> Params:
        """Return where the next full step leads."""
        full = objective.data.backend.compile(_full_steps, objective.xp)(state.report)
        return self.propose(objective, state._replace(report=full)).params

    def bend(self, objective: Objective, state: LBFGSState, blocks: Array) -> LBFGSState:
        """Return the state preconditioned by inverse Hessians ``(m or 1, c, p + 1, p + 1)``."""
        even = 1.0 if smooth(objective).even else 0.0
        pre = state.preconditioner._replace(blocks=blocks, even=even)
        scale = objective.data.backend.compile(_rescaled, objective.xp)
        return state._replace(preconditioner=pre, scale=scale(state, pre))

    def curved(self, objective: Objective, state: LBFGSState, iterations: int) -> LBFGSState:
        """Return the state preconditioned by the Hessian of the mean model.

        Where that costs more than half of so many ``iterations``, it stays as it is.
        """
        if not curvature_pays(objective, iterations):
            return state
        blocks = mean_inverse_hessians(objective, state.params, state.preconditioner)
        return self.bend(objective, state, blocks)

    def renewed(
        self, objective: Objective, state: LBFGSState, iteration: int, residuals: Sequence[float]
    ) -> LBFGSState:
        """Return the state preconditioned by each model's own Hessian, where that saves more.

        ``max_iter`` does not count: a run that goes on is as if it had not ended.
        """
        if iteration not in _LOOKS or state.preconditioner.blocks is not None:
            return state
        left = [left for residual in residuals if (left := self._left(iteration, residual)) > 0.0]
        # The mean: of many models those near tol decide, not the one that is far from it.
        if not left or not own_curvature_pays(objective, sum(left) / len(left)):
            return state
        blocks = own_inverse_hessians(objective, state.params, state.preconditioner)
        return self.bend(objective, state, blocks)

    def _left(self, iteration: int, residual: float) -> float:
        """Return how many iterations a model has still to go, so many having led to its residual.

        Each power of ten takes at least as many as those before did.
        """
        if not residual < math.inf:  # the start was below F(0), or nothing is finite
            return 0.0
        gained = max(math.log(_EARLY / max(residual, 1e-30)), 1.0)
        asked = residual / self.tol if self.tol > 0.0 else math.inf
        return iteration * math.log(max(asked, 1.0)) / gained

    def follow(
        self, objective: Objective, params: Params, previous: LBFGSState, before: Array
    ) -> LBFGSState:
        """Return the first state of models that differ from earlier ones in α only.

        Parameters
        ----------
        objective : Objective
        params : Params
            Where to start; best extrapolated from the models before.
        previous : LBFGSState
            Their last state: its preconditioner stays, and so do the curvature pairs of all but
            tiny steps, corrected for α.
        before : Array of shape (m,)
            Their α.
        """
        params = evened(objective, params)
        found = objective.data_loss_and_grad(params)
        follow = objective.data.backend.compile(_follow, smooth(objective), objective.xp)
        state = follow(previous, params, found, before, objective.alpha)
        pre = previous.preconditioner.strengthened(objective)
        return _measured(objective, state._replace(preconditioner=pre), self.tol)


def _vector(params: Params, *, xp: Namespace) -> Array:
    """Return W and b as one vector per model ``(m, c p + c)``, W in its order in memory."""
    W, b = params
    p, m, c = W.shape
    return xp.concat([xp.reshape(xp.permute_dims(W, (1, 2, 0)), (m, c * p)), b], axis=1)


def _params_of(vector: Array, c: int, *, xp: Namespace) -> Params:
    """Return the W and b that `_vector` makes one vector of."""
    m, d = vector.shape
    W = xp.reshape(vector[:, : d - c], (m, c, d // c - 1))
    return Params(xp.permute_dims(W, (2, 0, 1)), vector[:, d - c :])


def _times(matrices: Array, vector: Array) -> Array:
    """Return the products of matrices ``(m, r, d)`` with vectors ``(m, d)``."""
    return (matrices @ vector[:, :, None])[:, :, 0]


def _mixture(shares: Array, ring: Array) -> Array:
    """Return the vectors ``(m, d)`` of shares ``(m, r)`` of those in a ring."""
    return (shares[:, None, :] @ ring)[:, 0, :]


def _point(params: Params, centre: Array, *, xp: Namespace) -> Array:
    """Return W and the intercept at the centre as a vector ``(m, c p + c)``."""
    W, b = params
    return _vector(Params(W, b + centred_scores(centre, W, xp=xp)), xp=xp)


def _start(
    shape: Smooth,
    places: int,
    xp: Namespace,
    params: Params,
    found: tuple[Array, Params],
    centre: Array,
    alpha: Array,
    zero: Array,
) -> LBFGSState:
    """Return the state of `LBFGS.start`, without its large parts."""
    point = _point(params, centre, xp=xp)
    value, gradient = _evaluate(shape, xp, point, found, centre, alpha)
    nothing, ones = xp.zeros_like(gradient[:, 0]), xp.ones_like(gradient[:, 0])
    m, here, kept = alpha.shape[0], device(point), cast("Any", None)
    age = xp.arange(places, dtype=xp.int32, device=here)
    return LBFGSState(
        params=kept,
        report=first_report(found[0], ones, xp=xp),
        point=point,
        gradient=gradient,
        value=value,
        zero=zero,
        idle=nothing,
        steps=kept,
        changes=kept,
        age=xp.stack([age] * m),
        products=xp.zeros((m, places, places), dtype=point.dtype, device=here),
        slopes=xp.zeros((m, places), dtype=point.dtype, device=here),
        scale=ones,
        preconditioner=kept,
    )


def _follow(
    shape: Smooth,
    xp: Namespace,
    previous: LBFGSState,
    params: Params,
    found: tuple[Array, Params],
    before: Array,
    alpha: Array,
) -> LBFGSState:
    """Return the state of `LBFGS.follow`, all but its preconditioner."""
    centre, c = previous.preconditioner.centre, params.b.shape[1]
    point = _point(params, centre, xp=xp)
    value, gradient = _evaluate(shape, xp, point, found, centre, alpha)

    (m, r, d), steps = previous.steps.shape, previous.steps
    bent = shape.penalty.grad(_params_of(xp.reshape(steps, (m * r, d)), c, xp=xp).W, xp=xp)
    bent = _vector(Params(bent, xp.zeros_like(bent[0, :, :])), xp=xp)
    changes = previous.changes + (alpha - before)[:, None, None] * xp.reshape(bent, steps.shape)
    curvature, length = (xp.sum(steps * a, axis=2) for a in (changes, steps))
    # The tiny steps at the end of a fit say nothing of the long way to the next strength.
    short = _LONG**2 * xp.vecdot(point, point)
    keep = (curvature > 1e-12 * length) & (length > short[:, None]) & (previous.age > 0)
    steps, changes = (xp.where(keep[:, :, None], a, 0.0) for a in (steps, changes))
    return previous._replace(
        params=params,
        report=first_report(found[0], xp.ones_like(previous.report.step_size), xp=xp),
        point=point,
        gradient=gradient,
        value=value,
        idle=xp.zeros_like(previous.idle),
        steps=steps,
        changes=changes,
        products=steps @ xp.matrix_transpose(changes),
        slopes=_times(steps, gradient),
    )


def _first_scale(objective: Objective, state: LBFGSState) -> Array:
    """Return the factor of H ``(m,)`` whose first step decreases F most on a sample.

    At zero the Hessian of k classes can be k times flatter than the curvature bound.
    """
    if objective.k < _FACTOR:
        return state.scale
    xp, compile_ = objective.xp, objective.data.backend.compile
    static = objective.loss, objective.penalty, objective.fit_intercept, xp
    attempt, sample = compiled(objective.data, _attempt, *static), small_sample(objective)
    values: list[Array] = []
    while _FACTOR ** len(values) <= objective.k:
        values.append(attempt(sample, state, objective.alpha, _FACTOR ** len(values)))
    return compile_(_best_scale, xp)(state.scale, tuple(values))


def _attempt(
    loss: Loss,
    penalty: Penalty,
    fit_intercept: bool,
    xp: Namespace,
    sample: Block,
    state: LBFGSState,
    alpha: Array,
    scale: float,
) -> Array:
    """Return F ``(m,)`` on a sample, after a step with a factor of H."""
    tried = state._replace(scale=scale * xp.ones_like(state.scale))
    params = _propose(fit_intercept, xp, tried).params
    return mean_loss(loss, xp, sample, params) + weighted_penalty(penalty, xp, params.W, alpha)


def _best_scale(xp: Namespace, scale: Array, values: tuple[Array, ...]) -> Array:
    """Return the power of the factor ``(m,)`` whose value is least."""
    best = xp.full_like(values[0], xp.inf)
    for i, value in enumerate(values):
        better = value < best
        scale, best = xp.where(better, _FACTOR**i, scale), xp.where(better, value, best)
    return scale


def _evaluate(
    shape: Smooth,
    xp: Namespace,
    point: Array,
    found: tuple[Array, Params],
    centre: Array,
    alpha: Array,
) -> tuple[Array, Array]:
    """Return F ``(m,)`` and its gradient ``(m, c p + c)`` at the centre."""
    loss, grads = found
    W = _params_of(point, grads.b.shape[1], xp=xp).W
    gradient = _vector(shape.gradient(W, grads, centre, alpha, xp=xp), xp=xp)
    return loss + weighted_penalty(shape.penalty, xp, W, alpha), gradient


def _rescaled(xp: Namespace, state: LBFGSState, pre: Preconditioner) -> Array:
    """Return the factor of H ``(m,)`` that suits the newest pair."""
    newest = xp.astype(state.age == state.age.shape[1] - 1, state.steps.dtype)
    step, change = (_mixture(newest, ring) for ring in (state.steps, state.changes))
    bent = pre.square(change, state.params.b.shape[1], xp=xp)
    scale = xp.vecdot(step, change) / xp.where(bent > 0.0, bent, 1.0)
    return xp.where((bent > 0.0) & (scale > 0.0), scale, 1.0)


def _full_steps(xp: Namespace, report: Report) -> Report:
    """Return the report of models that all make a full step, but those that rounding ended.

    No step of theirs decreased F any more: where a full one leads is noise.
    """
    step_size = xp.where(report.stalled, 0.0, xp.ones_like(report.step_size))
    return report._replace(converged=xp.zeros_like(report.converged), step_size=step_size)


def _measured(objective: Objective, state: LBFGSState, tol: float) -> LBFGSState:
    """Return a first state with its residual: a start may already be good."""
    measure = objective.data.backend.compile(_first_residual, objective.xp)
    return state._replace(report=measure(state, tol))


def _first_residual(xp: Namespace, state: LBFGSState, tol: float) -> Report:
    free = state._replace(report=_full_steps(xp, state.report))
    residual = _residual(state, _propose(False, xp, free).slope, xp=xp)
    converged = residual <= _bar(tol, state, xp=xp)
    return state.report._replace(residual=residual, converged=converged)


def _bar(tol: float, state: LBFGSState, *, xp: Namespace) -> Array:
    """Return what the residual must reach: less, where no step has told of the curvature yet."""
    filled = (xp.linalg.diagonal(state.products) > 0.0) & (state.age > 0)
    told = xp.any(filled, axis=1)
    return tol * xp.where(told, 1.0, xp.full_like(state.report.step_size, _UNTOLD))


def _residual(state: LBFGSState, slope: Array, *, xp: Namespace) -> Array:
    """Return the residual from the slope of F on the way to the next full step.

    The damping of the metric drowns directions of little variance. Without it, the metric bounds
    the curvature, and so from below what is left to gain along the basis, or by one weight alone.
    """
    (m, c), pre = state.params.b.shape, state.preconditioner
    W = xp.reshape(state.gradient[:, :-c], (m, c, -1))
    if pre.basis.shape[1]:
        units = xp.sum(pre.basis * pre.basis, axis=0)
        turned = xp.reshape(W, (m * c, -1)) @ pre.basis
        bound = safe_divisor(pre.bound + pre.ridge[:, None] * units, xp=xp)
        gain = xp.sum(xp.reshape(turned * turned, (m, c, -1)) / bound[:, None, :], axis=(1, 2))
    else:
        bound = safe_divisor(pre.bound + pre.ridge[:, None], xp=xp)
        gain = xp.max(W * W / bound[:, None, :], axis=(1, 2))
    return relative_excess(state.zero, state.value, 0.5 * xp.maximum(-slope, gain), xp=xp)


def _direction(state: LBFGSState, *, xp: Namespace) -> Array:
    """Return Hg ``(m, c p + c)``, the two loops over the pairs as solutions of triangular systems.

    With R the upper triangle of the products s_i·y_j, pairs scaled such that s_i·y_i = 1, the
    shares of the first loop are a = R⁻¹Sg, those of the second R⁻ᵀ(a − YH₀(g − Yᵀa)).
    """
    S, Y, age, c = state.steps, state.changes, state.age, state.params.b.shape[1]
    square = safe_divisor(xp.linalg.diagonal(state.products), xp=xp)
    unit = xp.where(age > 0, 1.0 / xp.sqrt(square), 0.0)
    R = unit[:, :, None] * state.products * unit[:, None, :]
    before, after = age[:, :, None], age[:, None, :]  # a triangle, its rows as the places are
    inverse = xp.linalg.inv(xp.where(before < after, R, xp.astype(before == after, R.dtype)))
    first = _times(inverse, unit * state.slopes)
    left = state.gradient - _mixture(unit * first, Y)
    left = state.preconditioner.times(left, c, xp=xp) * state.scale[:, None]
    second = _mixture(first - unit * _times(Y, left), inverse)
    return left + _mixture(unit * second, S)


def _propose(fit_intercept: bool, xp: Namespace, state: LBFGSState) -> Proposal:
    """Return the trial points of one step."""
    direction, c = _direction(state, xp=xp), state.params.b.shape[1]
    length = state.report.step_size * xp.astype(~state.report.converged, direction.dtype)
    trial = state.point - length[:, None] * direction
    centre = state.preconditioner.centre
    params = uncentred(fit_intercept, centre, _params_of(trial, c, xp=xp), xp=xp)
    return Proposal(trial, params, -length * xp.vecdot(direction, state.gradient))


def _judge(
    shape: Smooth,
    xp: Namespace,
    state: LBFGSState,
    alpha: Array,
    proposal: Proposal,
    found: tuple[Array, Params],
    tol: float,
) -> tuple[LBFGSState, Array, Array, Array]:
    """Keep the trial points that are good enough, and learn the curvature on the way there.

    Return the state without its large parts, the place in the rings, and what is to be there.
    """
    trial, params, slope = proposal
    report, pre, c = state.report, state.preconditioner, params.b.shape[1]
    value, gradient = _evaluate(shape, xp, trial, found, pre.centre, alpha)
    accept = decreases(state, value, slope, xp=xp) & ~report.converged
    keep = accept[:, None]
    point = xp.where(keep, trial, state.point)
    gradient = xp.where(keep, gradient, state.gradient)

    # What a rejected step met is left out: far from the valley it misleads.
    step, change = point - state.point, gradient - state.gradient
    curvature = xp.vecdot(step, change)
    bent = pre.square(change, c, xp=xp)  # 0 where it underflows, at a loss of nothing
    useful = accept & (curvature > 1e-12 * xp.vecdot(step, step)) & (bent > 0.0)
    scale = xp.where(useful, curvature / xp.where(useful, bent, 1.0), state.scale)
    here, memory = state.age == 0, state.age.shape[1] - 1
    column = xp.where(here, curvature[:, None], _times(state.steps, change))
    learnt = (here & useful[:, None])[:, None, :]
    slopes = xp.where(here, xp.vecdot(step, gradient)[:, None], _times(state.steps, gradient))

    shorter = backtracked(state.value, value, slope, xp=xp)
    # Of the point before: the direction from here is not known yet.
    residual = _residual(state, slope / safe_divisor(report.step_size, xp=xp), xp=xp)
    residual = xp.where(report.converged, report.residual, residual)
    step_size = xp.where(accept, 1.0, shorter * report.step_size)
    bar = _bar(tol, state, xp=xp)
    after = moved(state, accept, None, found[0], value, step_size, residual, bar, xp=xp)
    W = _params_of(point, c, xp=xp).W
    after = after._replace(
        params=Params(W, xp.where(keep, params.b, state.params.b)),
        point=point,
        gradient=gradient,
        steps=None,
        changes=None,
        age=xp.where(useful[:, None], xp.where(here, memory, state.age - 1), state.age),
        products=xp.where(learnt, column[:, :, None], state.products),
        slopes=slopes,
        scale=scale,
        preconditioner=None,
    )
    return after, xp.argmax(-state.age, axis=1), step, change
