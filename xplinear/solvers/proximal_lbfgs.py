"""Proximal Newton and quasi-Newton steps: L1 and elastic net, m models at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from xplinear.arguments import integer, number, settle
from xplinear.data.rows import centred_scores, spread
from xplinear.losses import Loss
from xplinear.losses.true_class import diagonal
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params, weighted_penalty
from xplinear.penalties import Penalty
from xplinear.solvers.gram import Bounds, bounds, gram_pays
from xplinear.solvers.hessian import augmented, has_hessian, params_of_augmented
from xplinear.solvers.metric import uncentred
from xplinear.solvers.protocol import check_suits, max_iter_iterations, take_models
from xplinear.solvers.quadratic import (
    Quadratic,
    Trial,
    flat,
    improve,
    inner,
    of_weights,
    promise,
    prox,
    start,
)
from xplinear.solvers.report import Report, first_report
from xplinear.solvers.stopping import backtracked, decreases, moved, relative_excess
from xplinear.solvers.working_set import (
    Columns,
    chosen,
    hessian,
    narrowed,
    needed,
    ranking,
    widened,
)

__all__ = ["ProximalLBFGS", "ProximalLBFGSState"]

_EXACT = 512  # weights of a model up to which its Hessian is made: a solve costs about a pass
_MOST = 1030  # of those looked at, where most are zero: then the steps without it are slow
_EXACT_ALL = 128  # weights up to which it is made of all of them without a look
_EXACT_ROUNDS = 6, 12  # of ten inner steps and two solves; the second where six fell short
_ROUNDS = 5  # of ten; fewer need more passes, more cost more than they save
_SOLVED = 0.01  # share of what the inner steps gained that may be left
_ENTRIES = 2**26  # of the Hessians of all models
_WORTH = 10  # iterations without the Hessian that one with it saves, at least
_INNER_ROWS = 500  # whose pass costs as much as the inner steps
_NEAR = 10.0  # times tol: so near, what is below the rounding of F is nothing to wait for
_DAMPED = 1e-7  # share of its bound by which curvature is raised after a step was too long
_LEAST_CURVATURE = 1e-8  # share of its bound below which curvature is not trusted


class ProximalLBFGSState(NamedTuple):
    """State of `ProximalLBFGS`; points ``(m, c, p + 1)`` hold W and the intercept at the centre."""

    params: Params
    report: Report
    point: Array
    gradient: Array  # of the data loss alone
    value: Array
    zero: Array  # F at zero weights and intercepts; tol is relative to the fall from there
    idle: Array  # steps in a row without a decrease above rounding
    eigenvalue: Array  # of the model Hessian over its diagonal, for the inner steps
    scale: Array
    short: Array  # the inner steps of the last iteration left something to gain
    metric: Bounds
    steps: Array = None  # (m, memory, c (p + 1)), newest last; 0 where there is none
    changes: Array = None


class Proposal(NamedTuple):
    """Where to go next, and an estimate of F − F* ``(m,)`` here, before the step."""

    point: Array
    params: Params
    excess: Array
    short: Array
    eigenvalue: Array


@dataclass(frozen=True)
class ProximalLBFGS:
    """Proximal Newton for smooth losses and penalties with a prox, such as L1.

    Each iteration minimizes $gᵀv + vᵀBv / 2η + α Ω(W + v)$ in steps of greedy FISTA that do not
    touch X. Where a model has few weights, B is the Hessian, and the inner steps end at the
    bottom of the face that they find. Otherwise B comes from the last ``memory`` steps, on top
    of $γ c·(XᵀX/n + δI)$, c the loss's curvature bound (Böhning), X centred; where p² is large,
    on top of the variances. Under L1 and elastic net, of many features only those look worth
    it are moved: the nonzero ones, and as many of those whose gradient exceeds α most; whether
    the optimum is reached is judged by all. Weights that Ω drives to zero are exact zeros. Each
    iteration is one pass over the data for all models, two where the Hessian is made: a model
    whose trial point does not decrease F enough reduces η.

    Parameters
    ----------
    max_iter : int, default 1000
    tol : float, default 1e-4
        Stop a model when $√((F − F*) / 10 (F(0) − F))$ ≤ ``tol``, F − F* as estimated by what the
        model of F still promises. That does not depend on units, nor on the start.
    memory : int, default 10
        Pairs of steps and gradient changes kept.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the loss is kinked.

    References
    ----------
    Lee, Sun and Saunders, Proximal Newton-type methods for minimizing composite functions,
    2014; Liang, Luo and Schönlieb, Improving "Fast Iterative Shrinkage-Thresholding Algorithm":
    faster, smarter, and greedier, 2022; Böhning, Multinomial logistic regression algorithm,
    1992; Johnson and Guestrin, Blitz: a principled meta-algorithm for scaling sparse
    optimization, 2015.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplinear as xl
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = xl.LinearClassifier(penalty="l1", solver="proximal_lbfgs", alpha=0.01).fit(X, y)
    >>> round(clf.objective_, 4), round(float((clf.coef_ == 0).mean()), 2)
    (0.2534, 0.74)
    """

    max_iter: int = 1000
    tol: float = 1e-4
    memory: int = 10

    state_type = ProximalLBFGSState
    iterations = max_iter_iterations

    def __post_init__(self) -> None:
        settle(self, max_iter=integer(1), tol=number("[0, inf)"), memory=integer(1))

    def refuses(self, loss: Loss, penalty: Penalty) -> str | None:
        """Refuse a kinked loss."""
        del penalty
        if loss.smooth:
            return None
        return f"solver 'proximal_lbfgs' needs a smooth loss, got {loss!r}; use 'sgd' or 'gd'"

    def init(self, objective: Objective, params: Params) -> ProximalLBFGSState:
        """Evaluate the start and bound the curvature of the loss."""
        check_suits(self, objective)
        few = _few(objective, augmented(*objective.zeros(), xp=objective.xp), None)
        metric = bounds(objective, gram=not few and gram_pays(objective))
        return _started(objective, params, objective.loss_at_zero(), metric)

    def step(self, objective: Objective, state: ProximalLBFGSState) -> ProximalLBFGSState:
        """Try one step for every model; keep it where F decreases enough."""
        state, proposal, exact = self._propose(objective, state)
        loss, grads = objective.data_loss_and_grad(proposal.params)
        judge = objective.data.backend.compile(_judge, objective.penalty, exact, objective.xp)
        judged = judge(state, objective.alpha, proposal, loss, grads, self.tol)
        # What went through JAX's compiler is another array: keep the one there is.
        return judged._replace(metric=state.metric)

    def ahead(self, objective: Objective, state: ProximalLBFGSState) -> Params:
        """Return where the next step would go, for a dual point that is nearer the optimum."""
        # That no model is running would move nothing.
        free = state.report._replace(converged=state.report.diverged)
        return self._propose(objective, state._replace(report=free))[1].params

    def _propose(
        self, objective: Objective, state: ProximalLBFGSState
    ) -> tuple[ProximalLBFGSState, Proposal, bool]:
        """Return the state, where to go from there, and whether the Hessian was used."""
        xp, penalty, alpha = objective.xp, objective.penalty, objective.alpha
        compile_ = objective.data.backend.compile
        columns, weights, short = _columns(objective, state)
        exact = _few(objective, state.point, columns)
        if exact:
            centre = state.metric.centre[:, 0]
            H = hessian(objective, state.params, centre, columns)
            model = compile_(_exact_model, xp)(state, alpha, H, columns)
        else:
            if state.steps is None:
                nothing = xp.stack([xp.zeros_like(flat(state.point, xp=xp))] * self.memory, axis=1)
                state = state._replace(steps=nothing, changes=nothing)
            model = compile_(_learnt_model, xp)(state, alpha, columns)
        trial = start(model, 0.8 * state.eigenvalue, xp=xp)
        advance = compile_(improve, penalty, weights, xp)
        for _ in range(_EXACT_ROUNDS[short] if exact else _ROUNDS):
            trial = advance(model, trial)
        propose = compile_(_propose, penalty, objective.fit_intercept, xp)
        return state, propose(state, alpha, model, trial, columns), exact

    def take(
        self, state: ProximalLBFGSState, models: Array, *, xp: Namespace
    ) -> ProximalLBFGSState:
        """Return the state of a stack of these models only."""
        return take_models(state, models, xp=xp, metric=state.metric)

    def follow(
        self, objective: Objective, params: Params, previous: ProximalLBFGSState, before: Array
    ) -> ProximalLBFGSState:
        """Return the first state of models that differ from earlier ones in α only.

        As `LBFGS.follow`; what was learnt of the data loss does not depend on α.
        """
        del before
        return _started(objective, params, previous.zero, previous.metric)._replace(
            eigenvalue=previous.eigenvalue,
            scale=previous.scale,
            steps=previous.steps,
            changes=previous.changes,
        )


def _few(objective: Objective, point: Array, columns: Columns | None, most: int = _EXACT) -> bool:
    """Return whether a model has so few weights, in these columns, that its Hessian is made."""
    _, c, width = point.shape
    if columns is not None:
        width, most = columns.index.shape[1] + 1, _affordable(objective, point)
    room = math.isqrt(_ENTRIES // objective.m)
    return has_hessian(objective.loss) and c * width <= min(most, room)


def _affordable(objective: Objective, point: Array) -> int:
    """Return d up to which a Hessian d × d costs no more than some iterations without."""
    n, weights = objective.data.held, point.shape[1] * point.shape[2]
    room = math.isqrt(_ENTRIES // objective.m)
    return min(_MOST, room, math.isqrt(_WORTH * weights * (n + _INNER_ROWS) // n))


def _columns(objective: Objective, state: ProximalLBFGSState) -> tuple[Columns | None, int, bool]:
    """Return the columns to move, how many weights, and whether the last model was left unsolved.

    None is all of them, where they are few or must stay together.
    """
    xp, compile_ = objective.xp, objective.data.backend.compile
    separable = getattr(objective.penalty, "separable", False)
    few = _few(objective, state.point, None, _EXACT_ALL)
    if few or not separable or state.metric.gram.shape[1]:
        return None, flat(state.point, xp=xp).shape[1], False
    gain = compile_(_gain, objective.penalty, xp)(state, objective.alpha)
    look = compile_(ranking, xp)
    order, summary = look(state.params.W, gain, state.short, ~state.report.converged)
    most = _affordable(objective, state.point) // state.point.shape[1] - 1
    q, weights, short = needed(objective, summary, most)
    return (compile_(chosen, q, xp)(order) if q < objective.data.p else None), weights, short


def _gain(penalty: Penalty, xp: Namespace, state: ProximalLBFGSState, alpha: Array) -> Array:
    """Return about what a proximal step in each weight ``(m, c, p)`` alone gains."""
    D, point = state.metric.bound, state.point
    moved = prox(penalty, point - state.gradient / D, alpha[:, None, None] / D, xp=xp) - point
    return (D * moved * moved)[:, :, :-1]


def _started(
    objective: Objective, params: Params, zero: Array, metric: Bounds
) -> ProximalLBFGSState:
    loss, grads = objective.data_loss_and_grad(params)
    begin = objective.data.backend.compile(_start, objective.penalty, objective.xp)
    return begin(params, loss, grads, zero, metric, objective.alpha)._replace(metric=metric)


def _start(
    penalty: Penalty,
    xp: Namespace,
    params: Params,
    loss: Array,
    grads: Params,
    zero: Array,
    metric: Bounds,
    alpha: Array,
) -> ProximalLBFGSState:
    W, b = params
    ones = xp.ones_like(b[:, 0])
    report = first_report(loss, ones, xp=xp)
    return ProximalLBFGSState(
        params=params,
        report=report._replace(residual=xp.full_like(ones, xp.inf)),
        point=augmented(W, b + centred_scores(metric.centre, W, xp=xp), xp=xp),
        gradient=_gradient(grads, metric.centre, xp=xp),
        value=loss + weighted_penalty(penalty, xp, W, alpha),
        zero=zero,
        idle=xp.zeros_like(ones),
        eigenvalue=ones,
        scale=ones,
        short=report.stalled,
        metric=metric,
    )


def _gradient(grads: Params, centre: Array, *, xp: Namespace) -> Array:
    """Return the gradient in W and the intercept at the centre ``(m, c, p + 1)``."""
    return augmented(grads.W - spread(centre, grads.b, xp=xp), grads.b, xp=xp)


def _exact_model(
    xp: Namespace, state: ProximalLBFGSState, alpha: Array, H: Array, columns: Columns | None
) -> Quadratic:
    """Return the model with the Hessian H, its diagonal kept away from 0."""
    point, gradient, bound = (
        narrowed(a, columns, xp=xp) for a in (state.point, state.gradient, state.metric.bound)
    )
    met, bound = xp.linalg.diagonal(H), flat(bound, xp=xp)
    # Divided by η, no curvature would stay none: it is raised instead.
    raised = met + _DAMPED * (1.0 / state.report.step_size - 1.0)[:, None] * bound
    raised = xp.maximum(raised, _LEAST_CURVATURE * bound)
    D = xp.reshape(raised, point.shape)
    if columns is None:  # a penalty may join the weights of a feature: they share their step
        D = xp.mean(D, axis=1, keepdims=True) + xp.zeros_like(D)
    return Quadratic(
        start=point,
        gradient=gradient,
        alpha=alpha,
        diagonal=D,
        exact=H + diagonal(raised - met, xp=xp),
    )


def _learnt_model(
    xp: Namespace, state: ProximalLBFGSState, alpha: Array, columns: Columns | None
) -> Quadratic:
    """Return the model learnt from the pairs, written out from the oldest.

    B_{i+1} = B_i + yyᵀ / sᵀy − B_i s sᵀB_i / sᵀB_i s.
    """
    S, Y, metric = state.steps, state.changes, state.metric
    m, memory, d = S.shape
    _, c, width = state.point.shape
    BS = of_weights(metric.gram, metric.diagonal, xp.reshape(S, (m * memory, c, width)), xp=xp)
    BS = state.scale[:, None, None] * xp.reshape(BS, (m, memory, d))
    risen: list[Array] = []
    fallen: list[Array] = []
    for i in range(memory):
        s, y, Bs = S[:, i, :], Y[:, i, :], BS[:, i, :]
        plus, minus = _normalized(y, s, xp=xp), _normalized(Bs, s, xp=xp)
        BS = BS + (S @ plus[:, :, None]) * plus[:, None, :]
        BS = BS - (S @ minus[:, :, None]) * minus[:, None, :]
        risen.append(plus)
        fallen.append(minus)
    U = xp.reshape(xp.stack(risen + fallen, axis=1), (m * 2 * memory, c, width))
    U = narrowed(U, columns, xp=xp)
    ones = xp.ones_like(S[:, :, :1])
    eta = state.report.step_size
    return Quadratic(
        start=narrowed(state.point, columns, xp=xp),
        gradient=eta[:, None, None] * narrowed(state.gradient, columns, xp=xp),
        alpha=eta * alpha,
        diagonal=narrowed(metric.diagonal, columns, xp=xp),
        gram=metric.gram if columns is None else metric.gram[: columns.index.shape[1], :],
        scale=state.scale,
        U=xp.reshape(U, (m, 2 * memory, c * U.shape[2])),
        sign=xp.concat([ones, -ones], axis=1),
    )


def _normalized(y: Array, s: Array, *, xp: Namespace) -> Array:
    """Return y / √sᵀy, 0 where there is no pair."""
    square = xp.sum(s * y, axis=1)
    there = square > 0.0
    return xp.where(there, 1.0 / xp.sqrt(xp.where(there, square, 1.0)), 0.0)[:, None] * y


def _propose(
    penalty: Penalty,
    fit_intercept: bool,
    xp: Namespace,
    state: ProximalLBFGSState,
    alpha: Array,
    model: Quadratic,
    trial: Trial,
    columns: Columns | None,
) -> Proposal:
    """Return the trial point among all columns, and what they all promise."""
    gained, left = promise(penalty, xp, model, trial)
    excess = gained + left
    if model.exact is None:  # with η, which is in g and α too, at least η² of that with 1
        excess = excess / (state.report.step_size * state.report.step_size)
    point = widened(trial.x, state.point, columns, xp=xp)
    if columns is not None:
        D = state.metric.bound
        if model.exact is not None:  # far from 0, curvature is less than its bound
            share = model.diagonal / narrowed(D, columns, xp=xp)
            D = xp.mean(share[:, :, :-1], axis=(1, 2), keepdims=True) * D
        away = prox(penalty, state.point - state.gradient / D, alpha[:, None, None] / D, xp=xp)
        away = (away - state.point)[:, :, :-1]
        away = xp.where(columns.place < columns.index.shape[1], 0.0, away)
        excess = excess + 0.5 * inner(away, D[:, :, :-1] * away, xp=xp)
    params = params_of_augmented(point, xp=xp)
    params = uncentred(fit_intercept, state.metric.centre, params, xp=xp)
    return Proposal(point, params, excess, left > _SOLVED * gained, trial.eigenvalue)


def _judge(
    penalty: Penalty,
    exact: bool,
    xp: Namespace,
    state: ProximalLBFGSState,
    alpha: Array,
    proposal: Proposal,
    loss: Array,
    grads: Params,
    tol: float,
) -> ProximalLBFGSState:
    """Keep the trial points that are good enough, and learn the curvature from all of them."""
    trial, params, excess, short, eigenvalue = proposal
    report = state.report
    gradient = _gradient(grads, state.metric.centre, xp=xp)
    value = loss + weighted_penalty(penalty, xp, params.W, alpha)
    step, change = trial - state.point, gradient - state.gradient
    rise = (value - loss) - (state.value - report.loss)  # of the penalty
    slope = rise + xp.astype(inner(state.gradient, step, xp=xp), value.dtype)
    slope = xp.where(slope < 0.0, slope, 0.0)
    accept = decreases(state, value, slope, xp=xp) & ~report.converged
    keep = accept[:, None, None]
    shorter = xp.clip(backtracked(state.value, value, slope, xp=xp), 0.1, 0.25) if exact else 0.5
    longer = (4.0 if exact else 2.0) * report.step_size
    longer = xp.minimum(longer, xp.ones_like(longer))
    shorter = xp.astype(shorter * report.step_size, longer.dtype)
    residual = relative_excess(state.zero, state.value, excess, xp=xp)
    eps = float(xp.finfo(residual.dtype).eps)
    lost = excess <= eps * xp.abs(xp.astype(state.value, excess.dtype))
    # A model that is bent more than the loss promises too little to be believed; but where it
    # promises less than rounding, so does the step that bent it.
    doubtful = 2.0 * tol * xp.ones_like(residual)
    bent = (report.step_size < 1.0) & ~lost
    residual = xp.where(bent, xp.maximum(residual, doubtful), residual)
    step_size = xp.where(accept, longer, shorter)
    after = moved(state, accept, params, loss, value, step_size, residual, tol, xp=xp)
    done = after.report.converged | (lost & (residual <= _NEAR * tol))
    return after._replace(
        **({} if state.steps is None else _learnt(state, step, change, xp=xp)),
        report=after.report._replace(converged=done),
        point=xp.where(keep, trial, state.point),
        gradient=xp.where(keep, gradient, state.gradient),
        short=short,
        eigenvalue=xp.where(report.converged, state.eigenvalue, eigenvalue),
    )


def _learnt(
    state: ProximalLBFGSState, step: Array, change: Array, *, xp: Namespace
) -> dict[str, Array]:
    """Return the pairs and the scale of B₀ after a step, whether it was kept or not."""
    metric = state.metric
    curvature = inner(step, change, xp=xp)
    least = 1e-7 * inner(step, metric.diagonal * step, xp=xp)
    useful = xp.isfinite(curvature) & (curvature > least) & ~state.report.converged
    bent = inner(change, of_weights(metric.inverse, 1.0 / metric.diagonal, change, xp=xp), xp=xp)
    scale = bent / xp.where(useful, curvature, 1.0)
    learn = useful[:, None, None]
    return {
        "steps": xp.where(learn, _push(state.steps, step, xp=xp), state.steps),
        "changes": xp.where(learn, _push(state.changes, change, xp=xp), state.changes),
        "scale": xp.where(useful, scale, state.scale),
    }


def _push(pairs: Array, newest: Array, *, xp: Namespace) -> Array:
    return xp.concat([pairs[:, 1:, :], flat(newest, xp=xp)[:, None, :]], axis=1)
