"""Interior point: kinked losses of few weights to a certified optimum, for m models at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from xplinear.data import Block
from xplinear.losses import Loss
from xplinear.losses.polytope import Polytope
from xplinear.losses.true_class import diagonal, pairwise_curvature, true_class
from xplinear.namespace import Array, Namespace, accumulator, device
from xplinear.objective import Objective, Params, class_scores, columns
from xplinear.penalties import L2Penalty
from xplinear.solvers.hessian import (
    augmented,
    augmented_rows,
    column_curvature,
    params_of_augmented,
    rows_hessian,
)
from xplinear.solvers.protocol import select, take_models

__all__ = ["InteriorPoint", "InteriorPointState", "interior_point_pays"]

_NEAR = 0.99  # of the way to the boundary
_RIDGE = 4.0  # times eps: on a diagonal of ones
_FAR = 1e30  # steps, and scores, are shorter
_ROUNDING = 16.0  # times eps and the magnitudes of what was summed: charged to the bound
_LESS = 0.9  # of the gap before: more is no progress
_PATIENCE = 50  # iterations without
_FLOPS = 5e9  # of an iteration and a model: a quarter of a second
_BYTES = 2**30


class Rows(NamedTuple):
    """All rows, made ready once: what an iteration reads and does not change.

    X ``(n, p + 1)`` is centred, its last column 1 where the intercept is free, else 0; weights
    ``(n, m)`` sum to 1, as do the shares of the classes ``(m, k)``; ``given (m, c)`` is the
    intercept that is not free.
    """

    X: Array
    y: Array
    weights: Array
    share: Array
    centre: Array
    given: Array


class Point(NamedTuple):
    """Weights ``(m, c, p + 1)``, intercepts at the centre, and what must stay positive.

    a − lower and upper − a are the multipliers of slack = excess − v ≥ 0 and of excess ≥ 0, all
    ``(n, m, k)``. Of a simplex, there is no upper and the excess ``(n, m, 1)`` is the loss.
    """

    theta: Array
    lower: Array
    upper: Array | None
    slack: Array
    excess: Array


class InteriorPointState(NamedTuple):
    """State of `InteriorPoint`; ``params`` are the best so far, ``residual`` is the relative gap."""

    params: Params
    loss: Array
    step_size: Array
    converged: Array
    diverged: Array
    residual: Array
    stalled: Array
    lower_bound: Array
    value: Array  # F at params
    idle: Array
    point: Point
    rows: Rows


@dataclass(frozen=True)
class InteriorPoint:
    """Primal-dual interior point, for kinked losses with the L2 penalty, to a proven gap.

    A loss that is a maximum over a polytope, ℓ(z) = max a·v, makes a quadratic program of F.
    Its slacks are eliminated row by row, and a step of Mehrotra's method solves

    (αI + Σ_i s_i x_i x_iᵀ ⊗ M_i) ΔW = −(αW + Σ_i s_i x_i g_iᵀ) + …,

    c (p + 1) equations, M_i (c × c) the curvature that the barriers give the loss of row i. The
    a are a dual point, and so

    F ≥ Σ_i s_i a_i·c_i − ‖G‖² / (2α),  G = Σ_i s_i x_i g_iᵀ,  Σ_i s_i g_i = 0

    (weights s of sum 1; the last with a free intercept), c the constants in v and g the gradient
    of a·v in the scores. 10 to 25 iterations do, whatever the data and their units, but each
    costs n c² p² + c³ p³ operations, and all rows are held in float64: see `interior_point_pays`.

    Parameters
    ----------
    max_iter : int, default 100
    tol : float, default 1e-4
        Stop a model when F minus its lower bound is at most ``tol`` times F.

    Raises
    ------
    ValueError
        If a parameter is out of its range, the loss offers no ``polytope``, or the penalty is
        not L2. With α = 0 nothing is proven, and no model converges.

    References
    ----------
    Mehrotra, On the implementation of a primal-dual interior point method, SIAM Journal on
    Optimization 1992; Ferris and Munson, Interior-point methods for massive support vector
    machines, SIAM Journal on Optimization 2002.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import xplinear as xl
    >>> X, y = load_iris(return_X_y=True)
    >>> solver = xl.solvers.InteriorPoint()
    >>> clf = xl.LinearClassifier(loss="multiclass_hinge", solver=solver, alpha=1.0)
    >>> round(clf.fit(X, y).objective_, 3)
    0.752
    """

    max_iter: int = 100
    tol: float = 1e-4

    def __post_init__(self) -> None:
        if self.max_iter < 1:
            msg = f"max_iter must be at least 1, got {self.max_iter!r}"
            raise ValueError(msg)

    def iterations(self, n: int) -> int:
        """Return ``max_iter``."""
        del n
        return self.max_iter

    def init(self, objective: Objective, params: Params) -> InteriorPointState:
        """Evaluate the start, and make the rows ready."""
        if objective.penalty != L2Penalty():
            msg = f"solver 'interior_point' needs penalty='l2', got {objective.penalty!r}"
            raise ValueError(msg)
        if _polytope(objective.loss) is None:
            msg = (
                "solver 'interior_point' needs a loss that is a maximum over a polytope, such as "
                "'multiclass_hinge', 'crammer_singer' or 'absolute_error', got "
                f"{objective.loss!r}; use 'lbfgs' where the loss is smooth, else 'sgd'"
            )
            raise ValueError(msg)
        data, backend = objective.data, objective.data.backend
        static = objective.loss, objective.fit_intercept, objective.k, objective.xp
        with backend.double_precision():
            # Rows are few where this solver pays.
            return backend.compile(_start, *static)(data.sample(data.n), params, objective.alpha)

    def step(self, objective: Objective, state: InteriorPointState) -> InteriorPointState:
        """Make a predictor and a corrector, and prove a bound at the new point."""
        backend = objective.data.backend
        static = objective.loss, objective.fit_intercept, self.tol, objective.xp
        with backend.double_precision():
            return backend.compile(_advance, *static)(state, objective.alpha)

    def take(
        self, state: InteriorPointState, models: Array, *, xp: Namespace
    ) -> InteriorPointState:
        """Return the state of a stack of these models only; the rows stay."""
        theta, *others = state.point
        rows = state.rows
        light = cast("Any", state)._replace(point=None, rows=None)
        kept = InteriorPointState(*take_models(light, models, xp=xp))
        return kept._replace(
            point=Point(
                xp.take(theta, models, axis=0),
                *(None if a is None else xp.take(a, models, axis=1) for a in others),
            ),
            rows=rows._replace(
                weights=xp.take(rows.weights, models, axis=1),
                share=xp.take(rows.share, models, axis=0),
                given=xp.take(rows.given, models, axis=0),
            ),
        )


def interior_point_pays(objective: Objective) -> bool:
    """Return whether an interior point fits in memory and takes seconds at most.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> from xplinear.losses import CrammerSingerLoss
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> F = Objective(CrammerSingerLoss(), L2Penalty(), np.asarray([0.1]), data, k=3)
    >>> interior_point_pays(F)
    True
    """
    polytope = _polytope(objective.loss)
    if objective.penalty != L2Penalty() or polytope is None:
        return False
    n, m, k, d = objective.data.n, objective.m, objective.k, objective.data.p + 1
    c = columns(objective.loss, k)
    blocks, size = (1, c) if _coupled(polytope) else (c, 1)
    flops = blocks * (n * size * (size + 1) * d**2 + 1.4 * (size * d) ** 3)
    entries = n * d + m * (n * (20 * k + size * (size + d)) + 4 * blocks * (size * d) ** 2)
    return flops <= _FLOPS and 8 * entries <= _BYTES


def _polytope(loss: Any) -> Polytope | None:
    return getattr(loss, "polytope", None)


def _coupled(polytope: Polytope) -> bool:
    """Whether the classes of a row have to do with each other."""
    return polytope.pairwise or polytope.simplex


def _positive(x: Array, *, xp: Namespace) -> Array:
    """Return x where it is positive, else 1: a safe divisor."""
    return xp.where(x > 0, x, 1.0)


class Kinks(NamedTuple):
    """Of the polytope of each row ``(n, 1, k)``, and which a_j are variables ``(n, m, k)``."""

    true: Array
    lower: Array
    width: Array
    offset: Array
    live: Array


def _kinks(polytope: Polytope, free: bool, rows: Rows, *, xp: Namespace) -> Kinks:
    true = true_class(rows.share[None, :, :], rows.y, xp=xp)
    side = polytope.sides(true, rows.X, xp=xp)
    width = side.upper - side.lower
    live = (width > 0) & (rows.weights > 0)[:, :, None]
    if free and polytope.pairwise:  # no row gives back what a class without rows receives
        live = live & (rows.share > 0)
    return Kinks(true, side.lower, width, side.offset, live)


def _start(
    loss: Any, free: bool, k: int, xp: Namespace, block: Block, params: Params, alpha: Array
) -> InteriorPointState:
    rows = _rows(free, k, block, params, xp=xp)
    kinks = _kinks(loss.polytope, free, rows, xp=xp)
    value, mean = _value(loss, free, rows, params, alpha, xp=xp)
    flags = xp.zeros_like(value) > 0
    return InteriorPointState(
        params=params,
        loss=mean,
        step_size=xp.ones_like(value),
        converged=value <= 0.0,
        diverged=flags,
        residual=xp.ones_like(value),
        stalled=flags,
        lower_bound=xp.zeros_like(value),  # no loss is negative
        value=value,
        idle=xp.zeros_like(value),
        point=_centre(loss.polytope, rows, kinks, xp=xp),
        rows=rows,
    )


def _rows(free: bool, k: int, block: Block, params: Params, *, xp: Namespace) -> Rows:
    wide, m = accumulator(block.X, xp=xp), params.b.shape[0]
    X = xp.astype(block.X, wide)
    s = xp.ones_like(X[:, :1]) if block.s is None else xp.astype(block.s, wide)
    s = s + xp.zeros((1, m), dtype=wide, device=device(X))
    weights = s / xp.sum(s, axis=0)
    shared = xp.mean(weights, axis=1)
    X = xp.where((shared > 0)[:, None], X, 0.0)  # whatever is in rows that do not count
    given = xp.astype(params.b, wide)
    centre = shared @ X
    if free:
        given = xp.zeros_like(given)
    else:
        centre = xp.zeros_like(centre)
    members = xp.astype(true_class(xp.zeros((1, k), **_kind(X)), block.y, xp=xp), wide)
    return Rows(
        augmented_rows(X, centre, 1.0 if free else 0.0, xp=xp),
        block.y,
        weights,
        weights.T @ members,
        centre,
        given,
    )


def _kind(x: Array) -> dict[str, Any]:
    return {"dtype": x.dtype, "device": device(x)}


def _centre(polytope: Polytope, rows: Rows, kinks: Kinks, *, xp: Namespace) -> Point:
    """Return where the iterations start: no weights, and a in the middle of the polytope."""
    m, c = rows.given.shape
    theta = xp.zeros((m, c, rows.X.shape[1]), **_kind(rows.X))
    live = xp.astype(kinks.live, rows.X.dtype)
    V = _violations(polytope, rows, kinks, theta, xp=xp)
    if polytope.simplex:
        lower = live / _positive(xp.sum(live, axis=-1, keepdims=True), xp=xp)
        upper, excess = None, 1.0 + xp.max(V, axis=-1, keepdims=True)
    else:
        lower = upper = 0.5 * kinks.width * xp.ones_like(live)
        excess = 1.0 + xp.where(V > 0, V, 0.0)
    return Point(theta, lower, upper, excess - V, excess)


def _scores(rows: Rows, theta: Array, *, xp: Namespace) -> Array:
    """Return X θ in the scores of the classes ``(n, m, k)``."""
    m, c, d = theta.shape
    Z = rows.X @ xp.reshape(theta, (m * c, d)).T
    return class_scores(xp.reshape(Z, (rows.X.shape[0], m, c)), xp=xp)


def _gradient(rows: Rows, A: Array, *, xp: Namespace) -> Array:
    """Return Σ_i s_i a_i x_iᵀ ``(m, c, d)`` of rows a_i in the scores of the classes."""
    A = rows.weights[:, :, None] * A
    m, c = rows.given.shape
    A = 0.5 * (A[..., 1:] - A[..., :1]) if c == 1 else A
    n, d = rows.X.shape
    return xp.reshape(xp.reshape(A, (n, m * c)).T @ rows.X, (m, c, d))


def _violations(
    polytope: Polytope, rows: Rows, kinks: Kinks, theta: Array, *, xp: Namespace
) -> Array:
    """Return v ``(n, m, k)``."""
    Z = _scores(rows, theta, xp=xp) + class_scores(rows.given, xp=xp)
    return polytope.differences(Z, kinks.true, xp=xp) + kinks.offset


def _advance(
    loss: Any, free: bool, tol: float, xp: Namespace, state: InteriorPointState, alpha: Array
) -> InteriorPointState:
    rows, wide = state.rows, state.value.dtype
    kinks = _kinks(loss.polytope, free, rows, xp=xp)
    alpha = xp.astype(alpha, wide)
    # No penalty of the intercept.
    ridge = xp.where(xp.arange(rows.X.shape[1], dtype=xp.int32, device=device(alpha)) < rows.centre.shape[0], alpha[:, None], 0.0)
    point, step = _mehrotra(loss.polytope, rows, kinks, state.point, ridge, xp=xp)
    params = _params(loss.polytope, free, rows, kinks, point.theta, state.params, xp=xp)
    value, mean = _value(loss, free, rows, params, alpha, xp=xp)
    bound = _bound(loss.polytope, free, rows, kinks, point, alpha, xp=xp)
    better = (value < state.value) & ~state.converged
    best = xp.where(better, value, state.value)
    bound = xp.where(bound > state.lower_bound, bound, state.lower_bound)
    bound = xp.where(state.converged, state.lower_bound, xp.minimum(bound, best))
    residual = (best - bound) / _positive(best, xp=xp)
    idle = xp.where(residual < _LESS * state.residual, 0.0, state.idle + 1.0)
    reached = residual <= tol
    stalled = state.stalled | ((idle >= _PATIENCE) & ~reached & ~state.converged)
    return state._replace(
        params=select(better, params, state.params, xp=xp),
        loss=xp.where(better, mean, state.loss),
        step_size=xp.where(state.converged, state.step_size, step),
        converged=state.converged | reached | stalled,
        residual=residual,
        stalled=stalled,
        lower_bound=bound,
        value=best,
        idle=idle,
        point=point,
    )


class System(NamedTuple):
    """Newton's equations, rows and columns times ``scale (b, q)``, and curvatures ``(n, m, k)``.

    Where classes have nothing to do with each other, each is a system of its own: b = m k.
    """

    matrix: Array
    scale: Array
    curvature: Array


class Change(NamedTuple):
    """A change of the `Point`; that of upper is the opposite of that of lower."""

    theta: Array
    lower: Array
    slack: Array
    excess: Array


def _mehrotra(
    polytope: Polytope, rows: Rows, kinks: Kinks, point: Point, ridge: Array, *, xp: Namespace
) -> tuple[Point, Array]:
    """Return the point after a predictor and a corrector, and the size of the step ``(m,)``."""
    system = _system(polytope, rows, kinks, point, ridge, xp=xp)
    low = -point.lower * point.slack
    high = xp.zeros_like(low) if point.upper is None else -point.upper * point.excess
    ahead = _change(polytope, rows, kinks, point, ridge, system, low, high, xp=xp)
    there = _moved(point, ahead, _room(kinks, point, ahead, xp=xp))
    mean = _mean_product(rows, kinks, point, xp=xp)
    target = _mean_product(rows, kinks, there, xp=xp) / _positive(mean, xp=xp)
    target = (mean * target**3)[:, None]
    low = low + target - ahead.lower * ahead.slack
    high = high + target + ahead.lower * ahead.excess
    change = _change(polytope, rows, kinks, point, ridge, system, low, high, xp=xp)
    step = _NEAR * _room(kinks, point, change, xp=xp)
    step = xp.minimum(step, xp.ones_like(step))
    return _moved(point, change, step), step


def _mean_product(rows: Rows, kinks: Kinks, point: Point, *, xp: Namespace) -> Array:
    """Return the weighted mean ``(m,)`` of the products that are 0 at the optimum."""
    product, pairs = point.lower * point.slack, 1.0
    if point.upper is not None:
        product, pairs = product + point.upper * point.excess, 2.0
    weights = rows.weights[:, :, None] * xp.astype(kinks.live, product.dtype)
    total = xp.sum(weights, axis=(0, 2))
    return xp.sum(weights * product, axis=(0, 2)) / (pairs * _positive(total, xp=xp))


def _room(kinks: Kinks, point: Point, change: Change, *, xp: Namespace) -> Array:
    """Return the largest step ``(m,)`` that leaves positive what must be."""

    def room(x: Array, dx: Array) -> Array:
        shrinks = kinks.live & (dx < 0)
        step = xp.where(shrinks, -x / xp.where(shrinks, dx, 1.0), _FAR)
        return xp.min(step, axis=(0, 2))

    step = xp.minimum(room(point.lower, change.lower), room(point.slack, change.slack))
    if point.upper is None:
        return step
    step = xp.minimum(step, room(point.upper, -change.lower))
    return xp.minimum(step, room(point.excess, change.excess))


def _moved(point: Point, change: Change, step: Array) -> Point:
    step = step[:, None]
    return Point(
        point.theta + step[:, :, None] * change.theta,
        point.lower + step * change.lower,
        None if point.upper is None else point.upper - step * change.lower,
        point.slack + step * change.slack,
        point.excess + step * change.excess,
    )


def _system(
    polytope: Polytope, rows: Rows, kinks: Kinks, point: Point, ridge: Array, *, xp: Namespace
) -> System:
    """Return the Hessian that is left when all but the weights is eliminated."""
    m, c, d = point.theta.shape
    lower = xp.where(kinks.live, point.lower, 1.0)
    compliance = point.slack / lower
    if point.upper is not None:
        compliance = compliance + point.excess / xp.where(kinks.live, point.upper, 1.0)
    h = xp.where(kinks.live, 1.0 / compliance, 0.0)
    if not _coupled(polytope):
        M = xp.reshape(rows.weights[:, :, None] * h, (h.shape[0], m * c, 1, 1))
    else:
        if polytope.simplex:
            total = _positive(xp.sum(h, axis=-1), xp=xp)[..., None, None]
            M = diagonal(h, xp=xp) - h[..., :, None] * h[..., None, :] / total
        else:
            M = pairwise_curvature(h, xp.astype(kinks.true, h.dtype), xp=xp)
        M = rows.weights[:, :, None, None] * (column_curvature(M) if c == 1 else M)
    H = rows_hessian(rows.X, M, xp=xp)
    b, q, _ = H.shape
    eye = xp.eye(q, **_kind(H))
    # The penalty; and where only differences count, a price of what is alike in all classes,
    # which stays 0: without it, the intercepts had no one solution.
    own = xp.reshape(xp.linalg.diagonal(H), (b, q // d, d))
    alike = xp.mean(own, axis=1) if q > d else 0.0 * own[:, 0, :]
    alike = xp.reshape(alike[:, None, :] + xp.zeros_like(own), (b, q))
    ridge = xp.reshape(xp.broadcast_to(ridge[:, None, :], (m, c, d)), (b, q))
    same = xp.reshape(xp.arange(q, dtype=xp.int32, device=device(H)), (q // d, d))
    del same
    H = H + eye * ridge[:, None, :]
    if q > d:
        H = H + xp.tile(xp.eye(d, **_kind(H)), (q // d, q // d)) * alike[:, None, :]
    own = xp.linalg.diagonal(H)
    fixed = own <= 0
    scale = 1.0 / xp.sqrt(xp.where(fixed, 1.0, own))
    tiny = _RIDGE * float(xp.finfo(H.dtype).eps)
    H = H * scale[:, :, None] * scale[:, None, :]
    H = H + eye * (tiny + xp.astype(fixed, H.dtype))[:, None, :]
    known = xp.all(xp.isfinite(H), axis=(1, 2))
    return System(xp.where(known[:, None, None], H, eye), scale, h)


def _bend(polytope: Polytope, h: Array, E: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Return by what a changes where v does by E, and by what the largest of v does."""
    if not polytope.simplex:
        return h * E, xp.zeros_like(E)
    largest = xp.sum(h * E, axis=-1, keepdims=True)
    largest = largest / _positive(xp.sum(h, axis=-1, keepdims=True), xp=xp)
    return h * (E - largest), largest


def _change(
    polytope: Polytope,
    rows: Rows,
    kinks: Kinks,
    point: Point,
    ridge: Array,
    system: System,
    low: Array,
    high: Array,
    *,
    xp: Namespace,
) -> Change:
    """Solve Newton's equations: the products change by ``low`` and ``high``, to first order."""
    theta, lower, upper, slack, excess = point
    live, true, h = kinks.live, kinks.true, system.curvature
    lower = xp.where(live, lower, 1.0)
    E = low / lower + _violations(polytope, rows, kinks, theta, xp=xp) - excess + slack
    if upper is not None:
        upper = xp.where(live, upper, 1.0)
        E = E - high / upper
    A = xp.where(live, kinks.lower + point.lower, kinks.lower)
    A = A + _bend(polytope, h, E, xp=xp)[0]
    right = -_gradient(rows, polytope.gradient(A, true, xp=xp), xp=xp)
    right = xp.reshape(right - ridge[:, None, :] * theta, system.scale.shape)
    move = xp.linalg.solve(system.matrix, (system.scale * right)[:, :, None])[:, :, 0]
    move = xp.reshape(system.scale * move, theta.shape)
    E = E + polytope.differences(_scores(rows, move, xp=xp), true, xp=xp)
    d_lower, d_excess = _bend(polytope, h, E, xp=xp)
    d_slack = (low - slack * d_lower) / lower
    if upper is not None:
        d_excess = (high + excess * d_lower) / upper
    return Change(move, d_lower, xp.where(live, d_slack, 0.0), d_excess)


def _params(
    polytope: Polytope,
    free: bool,
    rows: Rows,
    kinks: Kinks,
    theta: Array,
    like: Params,
    *,
    xp: Namespace,
) -> Params:
    """Return the parameters at a point, in the dtype of others."""
    W, b = params_of_augmented(theta, xp=xp)
    if free:
        if polytope.pairwise:
            b = b + _aside(polytope, rows, kinks, theta, xp=xp)
        b = b - _at(rows.centre, W, xp=xp)
    else:
        b = rows.given
    return Params(xp.astype(W, like.W.dtype), xp.astype(b, like.b.dtype))


def _at(centre: Array, W: Array, *, xp: Namespace) -> Array:
    """Return the scores ``(m, c)`` of weights ``(p, m, c)`` at the centre."""
    return xp.sum(centre[:, None, None] * W, axis=0)


def _aside(
    polytope: Polytope, rows: Rows, kinks: Kinks, theta: Array, *, xp: Namespace
) -> Array:
    """Return intercepts ``(m, c)`` that keep classes without rows out of every loss."""
    Z = _scores(rows, theta, xp=xp)
    counted = kinks.true & (rows.weights > 0)[:, :, None]
    least = xp.min(xp.where(counted, Z, _FAR), axis=(0, 2))[:, None]
    apart = 2.0 * max(polytope.others.offset, 0.0) + 1.0
    b = xp.where(rows.share > 0, 0.0, least - apart)
    return b if rows.given.shape[1] > 1 else b[:, 1:] - b[:, :1]


def _value(
    loss: Loss, free: bool, rows: Rows, params: Params, alpha: Array, *, xp: Namespace
) -> tuple[Array, Array]:
    """Return F and the mean loss ``(m,)`` of parameters, whatever their dtype, in that of X."""
    W, b = (xp.astype(a, rows.X.dtype) for a in params)
    if free:
        b = b + _at(rows.centre, W, xp=xp)
    Z = _scores(rows, augmented(W, b, xp=xp), xp=xp)
    if not free:
        Z = Z + class_scores(b, xp=xp)
    value, _ = loss.value_and_grad(Z, rows.y, xp=xp)
    mean = xp.sum(rows.weights * value, axis=0)
    return mean + 0.5 * xp.astype(alpha, W.dtype) * xp.sum(W * W, axis=(0, 2)), mean


def _bound(
    polytope: Polytope,
    free: bool,
    rows: Rows,
    kinks: Kinks,
    point: Point,
    alpha: Array,
    *,
    xp: Namespace,
) -> Array:
    """Return the lower bound ``(m,)`` that the dual point proves."""
    A = xp.where(point.lower < kinks.width, point.lower, kinks.width) + kinks.lower
    A = xp.where(kinks.live & (point.lower > 0), A, kinks.lower)
    if polytope.simplex:
        A = A / _positive(xp.sum(A, axis=-1, keepdims=True), xp=xp)
    if free:
        balanced = _circulating if polytope.pairwise else _level
        A = balanced(polytope, rows, kinks, A, xp=xp)
    cost = xp.sum(rows.weights * xp.sum(A * kinks.offset, axis=-1), axis=0)
    A = polytope.gradient(A, kinks.true, xp=xp)
    if not free:  # a constant in the scores
        Z = class_scores(rows.given, xp=xp)
        cost = cost + xp.sum(rows.weights * xp.sum(A * Z, axis=-1), axis=0)
    G = _gradient(rows, A, xp=xp)[:, :, :-1]
    quadratic = xp.sum(G * G, axis=(1, 2)) / (2.0 * _positive(alpha, xp=xp))
    # t times the point proves t·cost − t²·quadratic: take the best t in [0, 1].
    best = 0.5 * cost / _positive(quadratic, xp=xp)
    best = xp.where((quadratic > 0) & (best < 1), best, 1.0)
    best = xp.where(cost > 0, best, 0.0)
    length = xp.sqrt(xp.sum(rows.X * rows.X, axis=1))[:, None]
    size = xp.sum(rows.weights * length * xp.sum(xp.abs(A), axis=-1), axis=0)
    longest = xp.sqrt(xp.max(xp.sum(point.theta * point.theta, axis=2), axis=1))
    magnitude = 1.0 + xp.abs(cost) + quadratic + size * longest
    rounding = _ROUNDING * float(xp.finfo(A.dtype).eps) * magnitude
    bound = best * (cost - best * quadratic - rounding)
    return xp.where((alpha > 0) & xp.isfinite(bound), bound, 0.0)


def _circulating(
    polytope: Polytope, rows: Rows, kinks: Kinks, A: Array, *, xp: Namespace
) -> Array:
    """Return the dual point mixed with one alike in each class, such that Σ_i s_i g_i = 0.

    What is left to balance is what rounding and shortened steps left.
    """
    A = xp.where(kinks.true, 0.0, A)
    g = rows.weights[:, :, None] * polytope.gradient(A, kinks.true, xp=xp)
    r = xp.sum(g, axis=0)  # (m, k): what a class receives too much
    there = rows.share > 0
    both = there[:, :, None] & there[:, None, :]
    flow = (r[:, :, None] - r[:, None, :]) / xp.sum(xp.astype(there, r.dtype), axis=1)[:, None, None]
    flow = xp.where(both & (flow > 0), flow, 0.0) / _positive(rows.share, xp=xp)[:, :, None]
    more = xp.max(xp.sum(flow, axis=2), axis=1)[:, None]
    own = xp.take(xp.permute_dims(flow, (1, 0, 2)), xp.astype(rows.y, xp.int32), axis=0)
    return (A + own) / (1.0 + more)


def _level(polytope: Polytope, rows: Rows, kinks: Kinks, A: Array, *, xp: Namespace) -> Array:
    """Return the dual point shrunk where it is positive, or negative, such that Σ_i s_i a_i = 0."""
    del polytope, kinks
    weighted = rows.weights[:, :, None] * A
    up = xp.sum(xp.where(A > 0, weighted, 0.0), axis=0)
    down = xp.sum(xp.where(A < 0, -weighted, 0.0), axis=0)
    less = xp.minimum(up, down)
    return A * xp.where(A > 0, less / _positive(up, xp=xp), less / _positive(down, xp=xp))
