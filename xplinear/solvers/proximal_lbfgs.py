"""Proximal Newton and quasi-Newton steps: L1 and elastic net, m models at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from xplinear.arguments import integer, number, settle
from xplinear.data.protocol import row_width
from xplinear.data.rows import centred_scores, spread
from xplinear.losses import Loss
from xplinear.losses.true_class import diagonal
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params, columns, weighted_penalty
from xplinear.penalties import Penalty
from xplinear.solvers.gram import Bounds, bounds, gram_pays
from xplinear.solvers.hessian import augmented, has_hessian, params_of_augmented
from xplinear.solvers.metric import safe_divisor, uncentred
from xplinear.solvers.protocol import check_suits, max_iter_iterations, take_models
from xplinear.solvers.quadratic import (
    Quadratic,
    Trial,
    fista,
    flat,
    inner,
    of_weights,
    promise,
    quadratic,
    shrunk,
    start,
    towards_bottom,
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
_EXACT_ROUNDS = 12, 24  # of five inner steps and a solve; the second where twelve fell short
_ROUNDS = 10  # of five; fewer need more passes, more cost more than they save
_SOLVED = 0.01  # share of what the inner steps gained that may be left
_ENTRIES = 2**26  # of the Hessians of all models
_WORTH = 10  # iterations without the Hessian that one with it saves, at least
_INNER_ROWS = 500  # whose pass costs as much as the inner steps
_NEAR = 10.0  # times tol: so near, what is below the rounding of F is nothing to wait for
_DAMPED = 1e-7  # share of its bound by which curvature is raised after a step was too long
_LEAST_CURVATURE = 1e-8  # share of its bound below which curvature is not trusted


_DEPENDENT = 10.0  # times eps: the share of a step by which it may differ from those before


class Pairs(NamedTuple):
    """The last steps s and changes of the gradient y, each pair in its place of a ring.

    There is a place more than pairs: it is written next, and has none. So the state before a step
    stays whole until the step after.
    """

    rows: Array  # (m, 2 places, d), B₀s of every place, then y
    products: Array  # (m, places, 2, places), s of every place with these
    age: Array  # (m, places), in pairs; of the oldest, there is none


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
    pairs: Pairs | Any = None  # None until the first step without a Hessian on


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
    common_rows = True
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
        c = columns(objective.loss, objective.k)
        few = _few(objective, (objective.m, c, objective.data.p + 1), None)
        metric = bounds(objective, gram=not few and gram_pays(objective))
        return _started(objective, params, objective.loss_at_zero(), metric)

    def step(self, objective: Objective, state: ProximalLBFGSState) -> ProximalLBFGSState:
        """Try one step for every model; keep it where F decreases enough."""
        state, proposal, exact = self._propose(objective, state)
        loss, grads = objective.data_loss_and_grad(proposal.params)
        judge = objective.data.backend.compile(_judge, objective.penalty, exact, objective.xp)
        judged, newest = judge(state, objective.alpha, proposal, loss, grads, self.tol)
        # What went through JAX's compiler is another array: keep the one there is.
        judged = judged._replace(metric=state.metric)
        if state.pairs is None:
            return judged
        rows = state.pairs.rows
        for place, row in newest:
            rows = objective.data.backend.write(rows, place, row)
        return judged._replace(pairs=judged.pairs._replace(rows=rows))

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
        compile_, repeat = objective.data.backend.compile, objective.data.backend.repeat
        columns, weights, short = _columns(objective, state)
        exact = _few(objective, state.point.shape, columns)
        if exact:
            centre = state.metric.centre[:, 0]
            H = hessian(objective, state.params, centre, columns)
            model, trial = compile_(_exact_model, xp)(state, alpha, H, columns)
            advance, rounds = repeat(towards_bottom, penalty, weights, xp), _EXACT_ROUNDS[short]
        else:
            if state.pairs is None:
                state = state._replace(pairs=compile_(_no_pairs, self.memory + 1, xp)(state.point))
            model, trial = compile_(_learnt_model, xp)(state, alpha, columns)
            model = model._replace(gram=state.metric.gram)
            if columns is None:
                model = model._replace(rows=state.pairs.rows)
            advance, rounds = repeat(fista, penalty, xp), _ROUNDS
        trial = advance(rounds, trial, model)
        propose = compile_(_propose, penalty, objective.fit_intercept, xp)
        return state, propose(state, alpha, model, trial, columns), exact

    def take(
        self, state: ProximalLBFGSState, models: Array, *, xp: Namespace
    ) -> ProximalLBFGSState:
        """Return the state of a stack of these models only."""
        return take_models(state, models, xp=xp, metric=state.metric)

    def copy(self, state: ProximalLBFGSState, *, xp: Namespace) -> ProximalLBFGSState:
        """Return the state with a ring of its own."""
        if state.pairs is None:
            return state
        rows = state.pairs.rows
        rows = xp.astype(rows, rows.dtype, copy=True)
        return state._replace(pairs=state.pairs._replace(rows=rows))

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
            pairs=previous.pairs,
        )


def _few(
    objective: Objective, shape: tuple[int, ...], columns: Columns | None, most: int = _EXACT
) -> bool:
    """Return whether a model has so few weights, in these columns, that its Hessian is made."""
    _, c, width = shape
    if columns is not None:
        width, most = columns.index.shape[1] + 1, _affordable(objective, shape)
    room = math.isqrt(_ENTRIES // objective.m)
    return has_hessian(objective.loss) and c * width <= min(most, room)


def _affordable(objective: Objective, shape: tuple[int, ...]) -> int:
    """Return d up to which a Hessian d × d costs no more than some iterations without."""
    n, weights = objective.data.held, shape[1] * (row_width(objective.data) + 1)
    room = math.isqrt(_ENTRIES // objective.m)
    return min(_MOST, room, math.isqrt(_WORTH * weights * (n + _INNER_ROWS) // n))


def _columns(objective: Objective, state: ProximalLBFGSState) -> tuple[Columns | None, int, bool]:
    """Return the columns to move, how many weights, and whether the last model was left unsolved.

    None is all of them, where they are few or must stay together.
    """
    xp, compile_ = objective.xp, objective.data.backend.compile
    separable = getattr(objective.penalty, "separable", False)
    shape = state.point.shape
    few = _few(objective, shape, None, _EXACT_ALL)
    if few or not separable or state.metric.gram.shape[1]:
        return None, shape[1] * shape[2], False
    order, summary = compile_(_ranking, objective.penalty, xp)(state, objective.alpha)
    most = _affordable(objective, shape) // shape[1] - 1
    q, weights, short = needed(objective, summary, most)
    return (compile_(chosen, q, xp)(order) if q < objective.data.p else None), weights, short


def _ranking(
    penalty: Penalty, xp: Namespace, state: ProximalLBFGSState, alpha: Array
) -> tuple[Array, Array]:
    gain = _gain(penalty, xp, state, alpha)
    return ranking(xp, state.params.W, gain, state.short, ~state.report.converged)


def _gain(penalty: Penalty, xp: Namespace, state: ProximalLBFGSState, alpha: Array) -> Array:
    """Return about what a proximal step in each weight ``(m, c, p)`` alone gains."""
    D = state.metric.bound[:, :, :-1]
    moved = _alone(penalty, state, alpha, D, xp=xp)
    return D * moved * moved


def _alone(
    penalty: Penalty, state: ProximalLBFGSState, alpha: Array, D: Array, *, xp: Namespace
) -> Array:
    """Return how far each weight ``(m, c, p)`` would move in a proximal step over D."""
    W = state.point[:, :, :-1]
    point = W - state.gradient[:, :, :-1] / D
    return shrunk(penalty, point, alpha[:, None, None] / D, xp=xp) - W


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
) -> tuple[Quadratic, Trial]:
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
    exact = (H + diagonal(raised - met, xp=xp)) / flat(D, xp=xp)[:, :, None]
    model = quadratic(point, gradient, alpha, D, exact=exact, xp=xp)
    return model, start(model, 0.8 * state.eigenvalue, xp=xp)


def _learnt_model(
    xp: Namespace, state: ProximalLBFGSState, alpha: Array, columns: Columns | None
) -> tuple[Quadratic, Trial]:
    """Return the model learnt from the pairs; where all columns move, but for their rows."""
    pairs, eta, rows = state.pairs, state.report.step_size, None
    point, gradient, D = (
        narrowed(a, columns, xp=xp) for a in (state.point, state.gradient, state.metric.diagonal)
    )
    if columns is not None:
        (m, r, _), (_, c, width) = pairs.rows.shape, state.point.shape
        rows = narrowed(xp.reshape(pairs.rows, (m * r, c, width)), columns, xp=xp)
        rows = xp.reshape(rows, (m, r, c * rows.shape[2]))
    model = quadratic(
        point,
        eta[:, None, None] * gradient,
        eta * alpha,
        state.scale[:, None, None] * D,
        rows=rows,
        middle=_middle(pairs, state.scale, xp=xp),
        xp=xp,
    )
    return model, start(model, 0.8 * state.eigenvalue, xp=xp)


def _middle(pairs: Pairs, scale: Array, *, xp: Namespace) -> Array:
    """Return N ``(m, 2 places, 2 places)`` of B = γB₀ + RᵀNR, R the rows of the pairs.

    With E the diagonal of SYᵀ and L its part of s newer than y, where γB₀ is B₀ (Byrd, Nocedal and
    Schnabel 1994), B = B₀ + YᵀE⁻¹Y − Zᵀ(SB₀Sᵀ + LE⁻¹Lᵀ)⁻¹Z with Z = SB₀ + LE⁻¹Y.
    """
    age, places = pairs.age, pairs.age.shape[1]
    there = age < places - 1
    both = there[:, :, None] & there[:, None, :]
    SBS = scale[:, None, None] * xp.where(both, pairs.products[:, :, 0, :], 0.0)
    SY = pairs.products[:, :, 1, :]
    inverse = xp.where(there, 1.0 / xp.where(there, xp.linalg.diagonal(SY), 1.0), 0.0)
    L = xp.where(both & (age[:, :, None] < age[:, None, :]), SY, 0.0)
    over = L * inverse[:, None, :]
    K = SBS + over @ xp.matrix_transpose(L)
    unit = 1.0 / xp.sqrt(safe_divisor(xp.linalg.diagonal(K), xp=xp))
    # Steps that depend on each other say nothing new: B then stays larger, which is safe.
    dependent = _DEPENDENT * float(xp.finfo(unit.dtype).eps)
    ridge = xp.where(there, dependent, xp.ones_like(unit))
    K = unit[:, :, None] * K * unit[:, None, :] + diagonal(ridge, xp=xp)
    alone = scale[:, None] * xp.astype(there, unit.dtype)
    Z = unit[:, :, None] * xp.concat([diagonal(alone, xp=xp), over], axis=2)
    risen = diagonal(xp.concat([xp.zeros_like(inverse), inverse], axis=1), xp=xp)
    return risen - xp.matrix_transpose(Z) @ xp.linalg.solve(K, Z)


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
        D = D[:, :, :-1]
        away = _alone(penalty, state, alpha, D, xp=xp)
        away = xp.where(columns.place < columns.index.shape[1], 0.0, away)
        excess = excess + 0.5 * inner(away, D * away, xp=xp)
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
) -> tuple[ProximalLBFGSState, tuple[tuple[Array, Array], ...]]:
    """Keep the trial points that are good enough, and learn the curvature from all of them.

    Returns also what to write into the rows of the pairs.
    """
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
    learnt, newest = ({}, ()) if state.pairs is None else _learnt(state, step, change, xp=xp)
    after = after._replace(
        **learnt,
        report=after.report._replace(converged=done),
        point=xp.where(keep, trial, state.point),
        gradient=xp.where(keep, gradient, state.gradient),
        short=short,
        eigenvalue=xp.where(report.converged, state.eigenvalue, eigenvalue),
    )
    return after, newest


def _no_pairs(places: int, xp: Namespace, point: Array) -> Pairs:
    """Return a ring without pairs."""
    nothing = flat(point, xp=xp)[:, :1] * 0.0
    one = xp.ones_like(nothing[:, 0])
    ages = xp.stack([(places + i) * one for i in range(places)], axis=1)
    rows = xp.stack([xp.zeros_like(flat(point, xp=xp))] * (2 * places), axis=1)
    products = 0.0 * xp.stack([xp.stack([ages, ages], axis=1)] * places, axis=1)
    return Pairs(rows, products, ages)


def _learnt(
    state: ProximalLBFGSState, step: Array, change: Array, *, xp: Namespace
) -> tuple[dict[str, Any], tuple[tuple[Array, Array], ...]]:
    """Return pairs and the scale of B₀ after a step, kept or not; places, and rows for them."""
    metric, (rows, products, age) = state.metric, state.pairs
    D, places = metric.diagonal, age.shape[1]
    curvature = inner(step, change, xp=xp)
    least = 1e-7 * inner(step, D * step, xp=xp)
    useful = xp.isfinite(curvature) & (curvature > least) & ~state.report.converged
    bent = inner(change, of_weights(metric.inverse, change / D, xp=xp), xp=xp)
    scale = bent / xp.where(useful, curvature, 1.0)
    # Of no use, it is not there; but it must be a number.
    s, y = (xp.where(useful[:, None, None], a, 0.0) for a in (step, change))
    newest = flat(D * of_weights(metric.gram, s, xp=xp), xp=xp), flat(y, xp=xp)
    s = flat(s, xp=xp)
    oldest = xp.argmax(age, axis=1)
    here = (age == xp.max(age, axis=1, keepdims=True)) & useful[:, None]
    met = xp.reshape(rows @ s[:, :, None], (age.shape[0], 2, places))
    own = xp.stack([xp.sum(s * a, axis=1) for a in newest], axis=1)
    met = xp.where(here[:, None, :], own[:, :, None], met)
    # SB₀S is symmetric; an older s is never asked for its product with a newer y.
    products = xp.where(here[:, None, None, :], met[:, 0, :, None, None], products)
    products = xp.where(here[:, :, None, None], met[:, None, :, :], products)
    age = xp.where(useful[:, None], xp.where(here, 0.0, age + 1.0), age)
    learnt = {
        "pairs": Pairs(None, products, age),
        "scale": xp.where(useful, scale, state.scale),
    }
    return learnt, ((oldest, newest[0]), (places + oldest, newest[1]))
