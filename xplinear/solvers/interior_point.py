"""Interior point: kinked losses of few weights to a certified optimum, for m models at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from xplinear.arguments import integer, number, settle
from xplinear.data import Block
from xplinear.data.rows import centred_scores
from xplinear.losses import Loss
from xplinear.losses.polytope import Polytope
from xplinear.losses.true_class import diagonal, of_true_class, pairwise_curvature, true_class
from xplinear.namespace import Array, Namespace, accumulator, device
from xplinear.objective import Objective, Params, class_scores, columns
from xplinear.penalties import L2Penalty, Penalty
from xplinear.solvers.hessian import (
    augmented,
    augmented_rows,
    column_curvature,
    params_of_augmented,
    rows_hessian,
)
from xplinear.solvers.metric import safe_divisor
from xplinear.solvers.protocol import check_suits, select, take_models
from xplinear.solvers.report import Report, first_report
from xplinear.solvers.stopping import relative_gap

__all__ = ["InteriorPoint", "InteriorPointState"]

_SHARE = 0.25  # of a box, from its lower bounds, where a starts
_SLACK = 1.5  # of the largest |v| at the start: the least slack then
_NEAR = 0.99  # of the way to the boundary
_CORRECTORS = 2  # of Gondzio: a solution of the equations costs a tenth of making them
_FARTHER = 0.3  # than the step so far they aim
_OUTLYING = 10.0  # times the target, or a tenth of it: products beyond are corrected
_WORTH = 0.02  # by which both steps together are to grow
_MOST_FAIR = 1e9  # times the mean product
_FAR = 1e30  # no step and no score is as large
_RIDGE = 4.0  # times eps: on a diagonal of ones
_ROUNDING = 16.0  # times eps and the magnitudes of what was summed: charged to the bound
_LESS = 0.9  # of what it was: more is no progress
_PATIENCE = 8  # iterations without
_FLOPS = 5e9  # of an iteration and a model: a quarter of a second
_OTHER = 1e4  # that as much time goes by per score, in what is not matrices
_BYTES = 2**30


class Rows(NamedTuple):
    """All rows, made ready once: what an iteration reads and does not change.

    X ``(n, p + 1)`` is centred, its last column 1 where the intercept is free, else 0; y
    ``(n,)`` or ``(n, 1 or m)``; weights ``(n, m)`` sum to 1, as do the shares of the classes
    ``(m, k)``; ``given (m, c)`` is the intercept that is not free.
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
    """State of `InteriorPoint`; ``params`` are the best so far, ``residual`` their relative gap."""

    params: Params
    report: Report
    value: Array  # F at params
    zero: Array  # F at W = 0, b = 0
    product: Array  # the least mean of the products that are 0 at the optimum
    idle: Array  # iterations without progress
    point: Point
    rows: Rows


@dataclass(frozen=True)
class InteriorPoint:
    """Primal-dual interior point, for kinked losses with the L2 penalty, to a proven gap.

    A loss that is a maximum over a polytope, ℓ(z) = max a·v, makes a quadratic program of F.
    Its slacks are eliminated row by row, and a step of Mehrotra's method solves

    $(αI + Σ_i s_i x_i x_iᵀ ⊗ M_i) ΔW = −(αW + Σ_i s_i x_i g_iᵀ) + …$,

    c (p + 1) equations, M_i (c × c) the curvature that the barriers give the loss of row i. The
    a are a dual point, and so

    $F ≥ Σ_i s_i a_i·c_i − ‖G‖² / (2α),  G = Σ_i s_i x_i g_iᵀ,  Σ_i s_i g_i = 0$

    (weights s of sum 1; the last with a free intercept), c the constants in v and g the gradient
    of a·v in the scores. 10 to 25 iterations do, whatever the data and their units, but each
    costs n c² p² + c³ p³ operations, and all rows are held in float64: see `pays`.

    Parameters
    ----------
    max_iter : int, default 100
    tol : float, default 1e-4
        Stop a model when F minus its lower bound is at most ``tol`` times F, or below the
        rounding of F at the start.

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

    state_type = InteriorPointState
    needs_alpha = True

    def __post_init__(self) -> None:
        settle(self, max_iter=integer(1), tol=number("[0, inf)"))

    def refuses(self, loss: Loss, penalty: Penalty) -> str | None:
        """Refuse all but a maximum over a polytope, with L2."""
        if penalty != L2Penalty():
            return f"solver 'interior_point' needs penalty='l2', got {penalty!r}; use 'sgd'"
        if _polytope(loss) is not None:
            return None
        return (
            "solver 'interior_point' needs a loss that is a maximum over a polytope, such as "
            f"'multiclass_hinge', 'crammer_singer' or 'absolute_error', got {loss!r}; use 'lbfgs' "
            "where the loss is smooth, else 'sgd'"
        )

    def pays(self, objective: Objective, models: int = 1) -> bool:
        """Return whether it fits in memory and takes seconds at most, for all models.

        Examples
        --------
        >>> import numpy as np
        >>> from xplinear.backends import get_backend
        >>> from xplinear.data import ArrayData
        >>> from xplinear.losses import CrammerSingerLoss
        >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
        >>> F = Objective(CrammerSingerLoss(), L2Penalty(), np.asarray([0.1]), data, k=3)
        >>> InteriorPoint().pays(F)
        True
        """
        polytope = _polytope(objective.loss)
        if polytope is None or self.refuses(objective.loss, objective.penalty) is not None:
            return False
        n, k, d = objective.data.n, objective.k, objective.data.p + 1
        c = columns(objective.loss, k)
        blocks, size = (1, c) if _coupled(polytope) else (c, 1)
        step = blocks * (n * size * (size + 1) * d**2 + 3.0 * (size * d) ** 3) + _OTHER * n * k
        flops = models * step
        entries = n * d + models * (n * (20 * k + size * (size + d)) + 4 * blocks * (size * d) ** 2)
        return flops <= _FLOPS and 8 * entries <= _BYTES

    def iterations(self, n: int) -> int:
        """Return ``max_iter``."""
        del n
        return self.max_iter

    def init(self, objective: Objective, params: Params) -> InteriorPointState:
        """Evaluate the start, and make the rows ready."""
        check_suits(self, objective)
        data, backend = objective.data, objective.data.backend
        static = objective.loss, objective.fit_intercept, objective.k, objective.xp
        with backend.double_precision():
            # Rows are few where this solver pays.
            start = backend.compile(_start, *static)
            zero = objective.loss_at_zero()
            return start(data.sample(data.n), params, zero, objective.alpha)

    def step(self, objective: Objective, state: InteriorPointState) -> InteriorPointState:
        """Make a predictor and a corrector, and prove a bound at the new point."""
        backend = objective.data.backend
        static = objective.loss, objective.fit_intercept, objective.xp
        hessian = 2.0 * objective.data.n * objective.data.p**2
        with backend.double_precision(), backend.products(hessian):
            return backend.compile(_advance, *static)(state, objective.alpha, self.tol)

    def take(
        self, state: InteriorPointState, models: Array, *, xp: Namespace
    ) -> InteriorPointState:
        """Return the state of a stack of these models only; the rows stay."""
        theta, *others = state.point
        rows = state.rows
        shared = rows.y.ndim == 1 or rows.y.shape[1] == 1
        light = cast("Any", state)._replace(point=None, rows=None)
        return take_models(light, models, xp=xp)._replace(
            point=Point(
                xp.take(theta, models, axis=0),
                *(None if a is None else xp.take(a, models, axis=1) for a in others),
            ),
            rows=rows._replace(
                y=rows.y if shared else xp.take(rows.y, models, axis=1),
                weights=xp.take(rows.weights, models, axis=1),
                share=xp.take(rows.share, models, axis=0),
                given=xp.take(rows.given, models, axis=0),
            ),
        )


def _polytope(loss: Any) -> Polytope | None:
    return getattr(loss, "polytope", None)


def _coupled(polytope: Polytope) -> bool:
    """Whether the classes of a row have to do with each other."""
    return polytope.pairwise or polytope.simplex


class Kinks(NamedTuple):
    """Of the polytope of each row ``(n, 1 or m, k)``, and which a_j are variables ``(n, m, k)``."""

    true: Array
    lower: Array
    width: Array
    offset: Array
    live: Array


class Problem(NamedTuple):
    """What an iteration is given; ``alpha (m,)`` in float64."""

    polytope: Polytope
    free: bool
    rows: Rows
    kinks: Kinks
    alpha: Array


def _kind(x: Array) -> dict[str, Any]:
    return {"dtype": x.dtype, "device": device(x)}


def _rows(free: bool, k: int, block: Block, b: Array, *, xp: Namespace) -> Rows:
    X = block.rows.astype(accumulator(b, xp=xp), xp=xp).dense()
    s = xp.astype(block.weights(xp=xp), X.dtype)
    s = s + xp.zeros((1, b.shape[0]), **_kind(X))
    weights = s / xp.sum(s, axis=0)
    shared = xp.mean(weights, axis=1)
    X = xp.where((shared > 0)[:, None], X, 0.0)  # whatever stands in rows that do not count
    centre, given = shared @ X, xp.astype(b, X.dtype)
    centre, given = (centre, xp.zeros_like(given)) if free else (xp.zeros_like(centre), given)
    X = augmented_rows(X, centre, 1.0 if free else 0.0, xp=xp)
    true = true_class(xp.zeros((1, 1, k), **_kind(X)), block.y, xp=xp)
    share = xp.sum(xp.where(true, weights[:, :, None], 0.0), axis=0)
    return Rows(X, block.y, weights, share, centre, given)


def _takes_part(polytope: Polytope, free: bool, rows: Rows) -> Array:
    """Return which classes are more than bystanders ``(m, k)``: those with rows, or all.

    Nothing would give back what a class without rows receives, as a free intercept demands.
    """
    return rows.share > (0.0 if free and polytope.pairwise else -1.0)


def _problem(polytope: Polytope, free: bool, rows: Rows, alpha: Array, *, xp: Namespace) -> Problem:
    true = true_class(rows.share[None, :, :], rows.y, xp=xp)
    side = polytope.sides(true, rows.X, xp=xp)
    width = side.upper - side.lower
    live = (width > 0) & (rows.weights > 0)[:, :, None]
    live = live & _takes_part(polytope, free, rows)
    kinks = Kinks(true, side.lower, width, side.offset, live)
    return Problem(polytope, free, rows, kinks, xp.astype(alpha, rows.X.dtype))


def _start(
    loss: Any,
    free: bool,
    k: int,
    xp: Namespace,
    block: Block,
    params: Params,
    zero: Array,
    alpha: Array,
) -> InteriorPointState:
    rows = _rows(free, k, block, params.b, xp=xp)
    problem = _problem(loss.polytope, free, rows, alpha, xp=xp)
    value, mean = _value(loss, problem, params, xp=xp)
    point = _centre(problem, xp=xp)
    none, zero = xp.zeros_like(value), xp.astype(zero, value.dtype)
    report = first_report(mean, xp.ones_like(value), xp=xp)
    return InteriorPointState(
        params=params,
        report=report._replace(
            converged=value <= 0.0,
            residual=value / safe_divisor(value, xp=xp),
            lower_bound=none,  # no loss is negative
        ),
        value=value,
        zero=zero,
        product=_mean_product(problem, point, xp=xp),
        idle=none,
        point=point,
        rows=rows,
    )


def _advance(
    loss: Any, free: bool, xp: Namespace, state: InteriorPointState, alpha: Array, tol: float
) -> InteriorPointState:
    report, running = state.report, ~state.report.converged
    problem = _problem(loss.polytope, free, state.rows, alpha, xp=xp)
    point, step = _iterated(problem, state.point, running, xp=xp)
    params = _params(problem, point.theta, state.params, xp=xp)
    value, mean = _value(loss, problem, params, xp=xp)
    better = (value < state.value) & running
    best = xp.where(better, value, state.value)
    bound = _bound(problem, point, xp=xp)
    higher = (bound > report.lower_bound) & running
    bound = xp.minimum(xp.where(higher, bound, report.lower_bound), best)
    residual = relative_gap(state.zero, best, bound, xp=xp)
    product = _mean_product(problem, point, xp=xp)
    eps = float(xp.finfo(best.dtype).eps)
    # Products may shrink for a while before the gap does; below rounding that means nothing.
    progress = (product < _LESS * state.product) & (product > eps * best)
    progress = progress | (residual < _LESS * report.residual)
    idle = xp.where(progress, 0.0, state.idle + 1.0)
    reached = (residual <= tol) | (best - bound <= eps * state.zero)
    stalled = (idle >= _PATIENCE) & ~reached & running
    return state._replace(
        params=select(better, params, state.params, xp=xp),
        report=report._replace(
            loss=xp.where(better, mean, report.loss),
            step_size=xp.where(running, step, report.step_size),
            converged=report.converged | reached | stalled,
            residual=residual,
            stalled=report.stalled | stalled,
            lower_bound=bound,
        ),
        value=best,
        product=xp.where(product < state.product, product, state.product),
        idle=idle,
        point=point,
    )


def _centre(problem: Problem, *, xp: Namespace) -> Point:
    """Return where the iterations start: no weights, a well inside, and slacks not small."""
    polytope, _, rows, kinks, _ = problem
    m, c = rows.given.shape
    theta = xp.zeros((m, c, rows.X.shape[1]), **_kind(rows.X))
    V = xp.where(kinks.live, _violations(problem, theta, xp=xp), 0.0)
    room = _SLACK * safe_divisor(xp.max(xp.abs(V), axis=(0, 2)), xp=xp)[:, None]
    if polytope.simplex:
        live = xp.astype(kinks.live, V.dtype)
        count = safe_divisor(xp.sum(live, axis=-1, keepdims=True), xp=xp)
        lower = 0.5 * live * (1.0 / count + xp.astype(kinks.true, V.dtype))
        excess = xp.max(V, axis=-1, keepdims=True) + room
        return Point(theta, lower, None, excess - V, excess)
    lower = _SHARE * kinks.width + xp.zeros_like(V)
    excess = xp.where(V > 0, V, 0.0) + room
    return Point(theta, lower, kinks.width - lower, excess - V, excess)


def _scores(rows: Rows, theta: Array, *, xp: Namespace) -> Array:
    """Return X θ in the scores of the classes ``(n, m, k)``."""
    m, c, d = theta.shape
    Z = rows.X @ xp.reshape(theta, (m * c, d)).T
    return class_scores(xp.reshape(Z, (rows.X.shape[0], m, c)), xp=xp)


def _violations(problem: Problem, theta: Array, *, xp: Namespace) -> Array:
    """Return v ``(n, m, k)``."""
    polytope, _, rows, kinks, _ = problem
    Z = _scores(rows, theta, xp=xp) + class_scores(rows.given, xp=xp)
    return polytope.differences(Z, kinks.true, xp=xp) + kinks.offset


def _gradient(problem: Problem, A: Array, *, xp: Namespace) -> Array:
    """Return Σ_i s_i g_i x_iᵀ ``(m, c, p + 1)``, g_i the gradient of a_i·v in the scores."""
    rows = problem.rows
    A = rows.weights[:, :, None] * problem.polytope.gradient(A, problem.kinks.true, xp=xp)
    m, c = rows.given.shape
    A = 0.5 * (A[..., 1:] - A[..., :1]) if c == 1 else A
    n, d = rows.X.shape
    return xp.reshape(xp.reshape(A, (n, m * c)).T @ rows.X, (m, c, d))


def _ridge(problem: Problem, *, xp: Namespace) -> Array:
    """Return the curvature of the penalty ``(m, 1, p + 1)``: none in the intercepts."""
    rows = problem.rows
    feature = xp.arange(rows.X.shape[1], dtype=xp.int32, device=device(rows.X))
    return xp.where(feature < rows.centre.shape[0], problem.alpha[:, None, None], 0.0)


class Aim(NamedTuple):
    """By how much lower × slack, and upper × excess, are to change ``(n, m, k)``."""

    low: Array
    high: Array


class Change(NamedTuple):
    """A change of the `Point`; that of upper is the opposite of that of lower."""

    theta: Array
    lower: Array
    slack: Array
    excess: Array


class Steps(NamedTuple):
    """How much of a change to make ``(m,)``: of weights, slack and excess; and of a."""

    primal: Array
    dual: Array


def _iterated(
    problem: Problem, point: Point, moving: Array, *, xp: Namespace
) -> tuple[Point, Array]:
    """Return the point after a predictor and correctors, and the smaller step ``(m,)``.

    Mehrotra's corrector aims at products that are all alike when weighted; those of Gondzio, at
    longer steps, by correcting only the products that would be far from that.
    """
    system = _system(problem, point, xp=xp)
    aim = Aim(*(-product for product in _products(point, xp=xp)))
    change = _change(problem, point, system, aim, xp=xp)
    there = _moved(point, change, _at_most_1(_steps(problem, point, change, xp=xp), xp=xp))
    mean = _mean_product(problem, point, xp=xp)
    share = _mean_product(problem, there, xp=xp) / safe_divisor(mean, xp=xp)
    target = mean * xp.where(share < 1.0, share**3, 1.0)
    target = target[:, None] * _fair(problem.rows.weights, xp=xp)[:, :, None]
    aim = Aim(
        aim.low + target - change.lower * change.slack,
        aim.high + target + change.lower * change.excess,
    )
    change = _change(problem, point, system, aim, xp=xp)
    steps = _steps(problem, point, change, xp=xp)
    for _ in range(_CORRECTORS):
        farther = Steps(*(_NEAR * a + _FARTHER for a in steps))
        there = _moved(point, change, _at_most_1(farther, xp=xp))
        products = zip(aim, _products(there, xp=xp), strict=True)
        new_aim = Aim(*(a + _outlying(product, target, xp=xp) for a, product in products))
        new = _change(problem, point, system, new_aim, xp=xp)
        new_steps = _steps(problem, point, new, xp=xp)
        longer = _total(new_steps, xp=xp) > _total(steps, xp=xp) + _WORTH
        aim = Aim(*(xp.where(longer[:, None], a, b) for a, b in zip(new_aim, aim, strict=True)))
        change = _choose(longer, new, change, xp=xp)
        steps = Steps(*(xp.where(longer, a, b) for a, b in zip(new_steps, steps, strict=True)))
    # Where the equations had no solution, the model stays.
    moving = moving & xp.all(xp.isfinite(change.theta), axis=(1, 2))
    stay = Change(*(xp.zeros_like(a) for a in change))
    steps = _at_most_1(Steps(*(_NEAR * a for a in steps)), xp=xp)
    point = _moved(point, _choose(moving, change, stay, xp=xp), steps)
    return point, xp.minimum(steps.primal, steps.dual)


def _fair(weights: Array, *, xp: Namespace) -> Array:
    """Return mean weight over weight ``(n, m)``: rows that count little shall not shorten steps."""
    counted = weights > 0
    count = xp.sum(xp.astype(counted, weights.dtype), axis=0)
    fair = 1.0 / (count * xp.where(counted, weights, 1.0))
    return xp.where(fair < _MOST_FAIR, fair, _MOST_FAIR)


def _choose(first: Array, a: Change, b: Change, *, xp: Namespace) -> Change:
    """Return, model by model, a where ``first (m,)`` is True and b elsewhere."""
    rows = (xp.where(first[:, None], x, y) for x, y in zip(a[1:], b[1:], strict=True))
    return Change(xp.where(first[:, None, None], a.theta, b.theta), *rows)


def _at_most_1(steps: Steps, *, xp: Namespace) -> Steps:
    return Steps(*(xp.where(a < 1.0, a, 1.0) for a in steps))


def _total(steps: Steps, *, xp: Namespace) -> Array:
    steps = _at_most_1(steps, xp=xp)
    return steps.primal + steps.dual


def _outlying(product: Array, target: Array, *, xp: Namespace) -> Array:
    """Return what brings products nearer to those that may be, none by much less."""
    most = _OUTLYING * target
    change = xp.maximum(xp.minimum(product, most), target / _OUTLYING) - product
    return xp.maximum(change, -most)


def _products(point: Point, *, xp: Namespace) -> tuple[Array, Array]:
    """Return what is 0 at the optimum ``(n, m, k)``: lower × slack, and upper × excess."""
    low = point.lower * point.slack
    return low, xp.zeros_like(low) if point.upper is None else point.upper * point.excess


def _mean_product(problem: Problem, point: Point, *, xp: Namespace) -> Array:
    """Return the weighted mean ``(m,)`` of the products."""
    low, high = _products(point, xp=xp)
    weights = problem.rows.weights[:, :, None] * xp.astype(problem.kinks.live, low.dtype)
    count = (1.0 if point.upper is None else 2.0) * xp.sum(weights, axis=(0, 2))
    return xp.sum(weights * (low + high), axis=(0, 2)) / safe_divisor(count, xp=xp)


def _steps(problem: Problem, point: Point, change: Change, *, xp: Namespace) -> Steps:
    """Return the largest steps that leave positive what must be."""

    def room(x: Array, dx: Array) -> Array:
        shrinks = problem.kinks.live & (dx < 0)
        step = xp.where(shrinks, -x / xp.where(shrinks, dx, 1.0), _FAR)
        return xp.min(step, axis=(0, 2))

    primal, dual = room(point.slack, change.slack), room(point.lower, change.lower)
    if point.upper is not None:
        primal = xp.minimum(primal, room(point.excess, change.excess))
        dual = xp.minimum(dual, room(point.upper, -change.lower))
    return Steps(primal, dual)


def _moved(point: Point, change: Change, steps: Steps) -> Point:
    primal, dual = (a[:, None] for a in steps)
    return Point(
        point.theta + primal[:, :, None] * change.theta,
        point.lower + dual * change.lower,
        None if point.upper is None else point.upper - dual * change.lower,
        point.slack + primal * change.slack,
        point.excess + primal * change.excess,
    )


class System(NamedTuple):
    """Newton's equations for the weights, rows and columns times ``scale (b, q)``.

    Classes that have nothing to do with each other make b = m k systems, else b = m. The
    ``curvature (n, m, k)`` is by how much a grows with v.
    """

    matrix: Array
    scale: Array
    curvature: Array


def _system(problem: Problem, point: Point, *, xp: Namespace) -> System:
    """Return what is left when all but the weights is eliminated."""
    rows, live, d = problem.rows, problem.kinks.live, point.theta.shape[2]
    compliance = point.slack / xp.where(live, point.lower, 1.0)
    if point.upper is not None:
        compliance = compliance + point.excess / xp.where(live, point.upper, 1.0)
    h = xp.where(live, 1.0 / xp.where(live, compliance, 1.0), 0.0)
    H = rows_hessian(rows.X, _row_curvature(problem, h, xp=xp), xp=xp)
    b, q, _ = H.shape
    eye = xp.eye(q, **_kind(H))
    ridge = xp.broadcast_to(_ridge(problem, xp=xp), point.theta.shape)
    H = H + eye * xp.reshape(ridge, (b, 1, q))
    own = xp.linalg.diagonal(H)
    held = xp.astype(own <= 0, H.dtype)  # intercepts that are given, or of no row
    if q > d:
        # What is alike in all classes stays 0; without a price, the intercepts would be free.
        alike = xp.mean(xp.reshape(own, (b, q // d, d)), axis=1)
        there = xp.astype(_takes_part(problem.polytope, problem.free, rows), H.dtype)
        price = there[:, :, None, None] * there[:, None, None, :] * alike[:, None, :, None]
        price = price[..., None] * xp.eye(d, **_kind(H))[:, None, :]
        H = H + xp.reshape(price, (b, q, q))
    scale = 1.0 / xp.sqrt(xp.linalg.diagonal(H) + held)
    tiny = _RIDGE * float(xp.finfo(H.dtype).eps)
    H = H * scale[:, :, None] * scale[:, None, :] + eye * (tiny + held)[:, None, :]
    finite = xp.all(xp.isfinite(H), axis=(1, 2))[:, None, None]
    return System(xp.where(finite, H, eye), scale, h)


def _row_curvature(problem: Problem, h: Array, *, xp: Namespace) -> Array:
    """Return the curvature ``(n, b, c, c)`` of each row in the scores of the columns."""
    polytope, _, rows, kinks, _ = problem
    n, m, k = h.shape
    if not _coupled(polytope):
        return xp.reshape(rows.weights[:, :, None] * h, (n, m * k, 1, 1))
    if polytope.simplex:
        total = safe_divisor(xp.sum(h, axis=-1), xp=xp)[:, :, None, None]
        # diag(h) − hhᵀ/Σh, without cancellation where one h is far above the others.
        M = h[..., :, None] * (h[..., None, :] / total)
        M = xp.where(xp.eye(k, **_kind(h)) > 0, 0.0, M)
        M = diagonal(xp.sum(M, axis=-1), xp=xp) - M
    else:
        M = pairwise_curvature(h, xp.astype(kinks.true, h.dtype), xp=xp)
    M = column_curvature(M) if rows.given.shape[1] == 1 else M
    return rows.weights[:, :, None, None] * M


def _change(problem: Problem, point: Point, system: System, aim: Aim, *, xp: Namespace) -> Change:
    """Return the solution of Newton's equations."""
    polytope, _, rows, kinks, _ = problem
    live, h = kinks.live, system.curvature
    lower = xp.where(live, point.lower, 1.0)
    upper = None if point.upper is None else xp.where(live, point.upper, 1.0)
    # What v would have to grow by for a to stay.
    E = aim.low / lower - (0.0 if upper is None else aim.high / upper)
    E = E + _violations(problem, point.theta, xp=xp) - point.excess + point.slack
    A = kinks.lower + xp.where(live, point.lower, 0.0)
    A = A + _answer(polytope, h, E, xp=xp)[0]
    right = -_gradient(problem, A, xp=xp) - _ridge(problem, xp=xp) * point.theta
    right = system.scale * xp.reshape(right, system.scale.shape)
    move = system.scale * xp.linalg.solve(system.matrix, right[:, :, None])[:, :, 0]
    theta = xp.reshape(move, point.theta.shape)
    E = E + polytope.differences(_scores(rows, theta, xp=xp), kinks.true, xp=xp)
    d_lower, d_excess = _answer(polytope, h, E, xp=xp)
    if upper is not None:
        d_excess = (aim.high + point.excess * d_lower) / upper
        d_excess = xp.where(live, d_excess, 0.0)
    d_slack = xp.where(live, (aim.low - point.slack * d_lower) / lower, 0.0)
    return Change(theta, d_lower, d_slack, d_excess)


def _answer(polytope: Polytope, h: Array, E: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Return by what a grows where v grows by E, and by what the largest v does, of a simplex."""
    if not polytope.simplex:
        return h * E, E
    # Relative to where h is largest: there the difference may be tiny.
    first = xp.astype(h == xp.max(h, axis=-1, keepdims=True), h.dtype)
    origin = xp.sum(first * E, axis=-1, keepdims=True) / xp.sum(first, axis=-1, keepdims=True)
    E = E - origin
    largest = xp.sum(h * E, axis=-1, keepdims=True)
    largest = largest / safe_divisor(xp.sum(h, axis=-1, keepdims=True), xp=xp)
    return h * (E - largest), origin + largest


def _params(problem: Problem, theta: Array, like: Params, *, xp: Namespace) -> Params:
    """Return the parameters at a point, in the dtype of others."""
    rows = problem.rows
    W, b = params_of_augmented(theta, xp=xp)
    b = b + rows.given
    if problem.free and problem.polytope.pairwise:
        b = b + _aside(problem, theta, xp=xp)
    W = xp.astype(W, like.W.dtype)
    # Of the rounded weights: far from 0, their rounding is a constant in the scores.
    b = b - centred_scores(rows.centre[:, None], xp.astype(W, b.dtype), xp=xp)
    return Params(W, xp.astype(b, like.b.dtype))


def _aside(problem: Problem, theta: Array, *, xp: Namespace) -> Array:
    """Return intercepts ``(m, c)`` that keep classes without rows below every margin."""
    polytope, _, rows, kinks, _ = problem
    Z = _scores(rows, theta, xp=xp)
    counted = kinks.true & (rows.weights > 0)[:, :, None]
    least = xp.min(xp.where(counted, Z, _FAR), axis=(0, 2))[:, None]
    b = xp.where(rows.share > 0, 0.0, least - 2.0 * abs(polytope.others.offset))
    return b if rows.given.shape[1] > 1 else b[:, 1:] - b[:, :1]


def _value(loss: Loss, problem: Problem, params: Params, *, xp: Namespace) -> tuple[Array, Array]:
    """Return F and the mean loss ``(m,)`` of parameters, whatever their dtype, in float64."""
    rows = problem.rows
    W, b = (xp.astype(a, rows.X.dtype) for a in params)
    b = b + centred_scores(rows.centre[:, None], W, xp=xp)
    Z = _scores(rows, augmented(W, b, xp=xp), xp=xp)
    if not problem.free:  # the last column of X is 0
        Z = Z + class_scores(b, xp=xp)
    value, _ = loss.value_and_grad(Z, rows.y, xp=xp)
    mean = xp.sum(rows.weights * value, axis=0)
    return mean + 0.5 * problem.alpha * xp.sum(W * W, axis=(0, 2)), mean


def _bound(problem: Problem, point: Point, *, xp: Namespace) -> Array:
    """Return the lower bound ``(m,)`` that a proves."""
    polytope, free, rows, kinks, alpha = problem
    A = xp.where(point.lower < kinks.width, point.lower, kinks.width)
    A = kinks.lower + xp.where(kinks.live & (A > 0), A, 0.0)
    if polytope.simplex:
        A = A / safe_divisor(xp.sum(A, axis=-1, keepdims=True), xp=xp)
    if free:
        A = (_circulating if polytope.pairwise else _level)(problem, A, xp=xp)
    costs = A * kinks.offset
    if not free:  # the intercept is a constant in the scores
        Z = class_scores(rows.given, xp=xp)
        costs = costs + A * polytope.differences(Z + xp.zeros_like(A), kinks.true, xp=xp)
    cost, size = (xp.sum(rows.weights * xp.sum(a, axis=-1), axis=0) for a in (costs, xp.abs(costs)))
    G = _gradient(problem, A, xp=xp)[:, :, :-1]
    quadratic = xp.sum(G * G, axis=(1, 2)) / (2.0 * safe_divisor(alpha, xp=xp))
    # t times as large, it proves t·cost − t²·quadratic: take the best t in [0, 1].
    t = 0.5 * cost / safe_divisor(quadratic, xp=xp)
    t = xp.where((quadratic > 0) & (t < 1.0), t, 1.0)
    t = xp.where(cost > 0, t, 0.0)
    length = xp.sqrt(xp.sum(rows.X * rows.X, axis=1))[:, None]
    length = xp.sum(rows.weights * length * xp.sum(xp.abs(A), axis=-1), axis=0)
    longest = xp.sqrt(xp.max(xp.sum(point.theta * point.theta, axis=2), axis=1))
    rounding = _ROUNDING * float(xp.finfo(A.dtype).eps) * (size + quadratic + length * longest)
    bound = t * (cost - t * quadratic - rounding)
    return xp.where((alpha > 0) & xp.isfinite(bound), bound, 0.0)


def _circulating(problem: Problem, A: Array, *, xp: Namespace) -> Array:
    """Return a mixed with a point alike in each class, such that Σ_i s_i g_i = 0.

    What is left to balance is what rounding and shortened steps left.
    """
    polytope, _, rows, kinks, _ = problem
    G = rows.weights[:, :, None] * polytope.gradient(A, kinks.true, xp=xp)
    r = xp.sum(G, axis=0)  # (m, k): what a class receives too much
    there = xp.astype(rows.share > 0, r.dtype)
    flow = (r[:, :, None] - r[:, None, :]) / xp.sum(there, axis=1)[:, None, None]
    flow = xp.where(flow > 0, flow, 0.0) * there[:, :, None] * there[:, None, :]
    flow = flow / safe_divisor(rows.share, xp=xp)[:, :, None]
    own = of_true_class(xp.permute_dims(flow, (1, 0, 2)), rows.y, xp=xp)
    A = xp.where(kinks.true, 0.0, A) + own
    return A / (1.0 + xp.max(xp.sum(flow, axis=2), axis=1)[:, None])


def _level(problem: Problem, A: Array, *, xp: Namespace) -> Array:
    """Return a, where positive or where negative shrunk such that Σ_i s_i a_i = 0."""
    weighted = problem.rows.weights[:, :, None] * A
    up = xp.sum(xp.where(A > 0, weighted, 0.0), axis=0)
    down = xp.sum(xp.where(A < 0, -weighted, 0.0), axis=0)
    less = xp.minimum(up, down)
    return A * xp.where(A > 0, less / safe_divisor(up, xp=xp), less / safe_divisor(down, xp=xp))
