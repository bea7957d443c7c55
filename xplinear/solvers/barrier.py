"""The step of the interior-point method: Newton's equations of a quadratic program with barriers.

See `xplinear.solvers.interior_point.InteriorPoint` for what is solved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xplinear.data import Block
from xplinear.losses.polytope import Polytope
from xplinear.losses.true_class import diagonal, pairwise_curvature, true_class
from xplinear.namespace import Array, Namespace, accumulator, device
from xplinear.objective import class_scores, column_gradient
from xplinear.solvers.hessian import augmented_rows, column_curvature, rows_hessian
from xplinear.solvers.metric import safe_divisor

__all__ = ["Point", "Problem", "Rows", "iterated", "made_ready", "problem_of"]

_SHARE = 0.25  # of a box, from its lower bounds, where a starts
_SLACK = 1.5  # of the largest |v| at the start: the least slack then
_NEAR = 0.99  # of the way to the boundary
_CORRECTORS = 2  # of Gondzio: a solution of the equations costs a tenth of making them
_FARTHER = 0.3  # than the step so far they aim
_OUTLYING = 10.0  # times the target, or a tenth of it: products beyond are corrected
_WORTH = 0.02  # by which both steps together are to grow
_MOST_FAIR = 1e9  # times the mean product
_FAR = 1e30  # no step is as large
_RIDGE = 4.0  # times eps: on a diagonal of ones


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

    def scores(self, theta: Array, *, xp: Namespace) -> Array:
        """Return X θ in the scores of the classes ``(n, m, k)``."""
        m, c, d = theta.shape
        Z = self.X @ xp.reshape(theta, (m * c, d)).T
        return class_scores(xp.reshape(Z, (self.X.shape[0], m, c)), xp=xp)


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

    def start(self, *, xp: Namespace) -> Point:
        """Return where the iterations start: no weights, a well inside, and slacks not small."""
        polytope, _, rows, kinks, _ = self
        m, c = rows.given.shape
        theta = xp.zeros((m, c, rows.X.shape[1]), **_kind(rows.X))
        V = xp.where(kinks.live, self.violations(theta, xp=xp), 0.0)
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

    def violations(self, theta: Array, *, xp: Namespace) -> Array:
        """Return v ``(n, m, k)``."""
        polytope, _, rows, kinks, _ = self
        Z = rows.scores(theta, xp=xp) + class_scores(rows.given, xp=xp)
        return polytope.differences(Z, kinks.true, xp=xp) + kinks.offset

    def gradient(self, A: Array, *, xp: Namespace) -> Array:
        """Return Σ_i s_i g_i x_iᵀ ``(m, c, p + 1)``, g_i the gradient of a_i·v in the scores."""
        rows = self.rows
        A = rows.weights[:, :, None] * self.polytope.gradient(A, self.kinks.true, xp=xp)
        m, c = rows.given.shape
        A = column_gradient(A, c)
        n, d = rows.X.shape
        return xp.reshape(xp.reshape(A, (n, m * c)).T @ rows.X, (m, c, d))

    def ridge(self, *, xp: Namespace) -> Array:
        """Return the curvature of the penalty ``(m, 1, p + 1)``: none in the intercepts."""
        rows = self.rows
        feature = xp.arange(rows.X.shape[1], dtype=xp.int32, device=device(rows.X))
        return xp.where(feature < rows.centre.shape[0], self.alpha[:, None, None], 0.0)

    def mean_product(self, point: Point, *, xp: Namespace) -> Array:
        """Return the weighted mean ``(m,)`` of the products."""
        low, high = _products(point, xp=xp)
        weights = self.rows.weights[:, :, None] * xp.astype(self.kinks.live, low.dtype)
        count = (1.0 if point.upper is None else 2.0) * xp.sum(weights, axis=(0, 2))
        return xp.sum(weights * (low + high), axis=(0, 2)) / safe_divisor(count, xp=xp)


def _kind(x: Array) -> dict[str, Any]:
    return {"dtype": x.dtype, "device": device(x)}


def made_ready(free: bool, k: int, block: Block, b: Array, *, xp: Namespace) -> Rows:
    """Return all rows as an iteration reads them; ``b (m, c)`` is the intercept at the start."""
    X = block.rows.astype(accumulator(b, xp=xp), xp=xp).dense()
    s = xp.astype(block.weights(xp=xp), X.dtype) + xp.zeros((1, b.shape[0]), **_kind(X))
    weights = s / xp.sum(s, axis=0)
    shared = xp.mean(weights, axis=1)
    X = xp.where((shared > 0)[:, None], X, 0.0)  # whatever stands in rows that do not count
    centre, given = shared @ X, xp.astype(b, X.dtype)
    centre, given = (centre, xp.zeros_like(given)) if free else (xp.zeros_like(centre), given)
    X = augmented_rows(X, centre, 1.0 if free else 0.0, xp=xp)
    true = true_class(xp.zeros((1, 1, k), **_kind(X)), block.y, xp=xp)
    share = xp.sum(xp.where(true, weights[:, :, None], 0.0), axis=0)
    return Rows(X, block.y, weights, share, centre, given)


def problem_of(
    polytope: Polytope, free: bool, rows: Rows, alpha: Array, *, xp: Namespace
) -> Problem:
    """Return what an iteration is given: see `Problem`."""
    true = true_class(rows.share[None, :, :], rows.y, xp=xp)
    side = polytope.sides(true, rows.X, xp=xp)
    width = side.upper - side.lower
    live = (width > 0) & (rows.weights > 0)[:, :, None]
    live = live & _takes_part(polytope, free, rows)
    kinks = Kinks(true, side.lower, width, side.offset, live)
    return Problem(polytope, free, rows, kinks, xp.astype(alpha, rows.X.dtype))


def _takes_part(polytope: Polytope, free: bool, rows: Rows) -> Array:
    """Return which classes are more than bystanders ``(m, k)``: those with rows, or all.

    Nothing would give back what a class without rows receives, as a free intercept demands.
    """
    return rows.share > (0.0 if free and polytope.pairwise else -1.0)


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


def iterated(
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
    mean = problem.mean_product(point, xp=xp)
    share = problem.mean_product(there, xp=xp) / safe_divisor(mean, xp=xp)
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
        old, far = (_at_most_1(a, xp=xp) for a in (steps, new_steps))
        longer = far.primal + far.dual > old.primal + old.dual + _WORTH
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


def _outlying(product: Array, target: Array, *, xp: Namespace) -> Array:
    """Return what brings products nearer to those that may be, none by much less."""
    most = _OUTLYING * target
    change = xp.maximum(xp.minimum(product, most), target / _OUTLYING) - product
    return xp.maximum(change, -most)


def _products(point: Point, *, xp: Namespace) -> tuple[Array, Array]:
    """Return what is 0 at the optimum ``(n, m, k)``: lower × slack, and upper × excess."""
    low = point.lower * point.slack
    return low, xp.zeros_like(low) if point.upper is None else point.upper * point.excess


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
    ridge = xp.broadcast_to(problem.ridge(xp=xp), point.theta.shape)
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
    if not polytope.pairwise:  # the classes of a row have nothing to do with each other
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
    E = E + problem.violations(point.theta, xp=xp) - point.excess + point.slack
    A = kinks.lower + xp.where(live, point.lower, 0.0)
    A = A + _answer(polytope, h, E, xp=xp)[0]
    right = -problem.gradient(A, xp=xp) - problem.ridge(xp=xp) * point.theta
    right = system.scale * xp.reshape(right, system.scale.shape)
    move = system.scale * xp.linalg.solve(system.matrix, right[:, :, None])[:, :, 0]
    theta = xp.reshape(move, point.theta.shape)
    E = E + polytope.differences(rows.scores(theta, xp=xp), kinks.true, xp=xp)
    d_lower, d_excess = _answer(polytope, h, E, xp=xp)
    if upper is not None:
        d_excess = xp.where(live, (aim.high + point.excess * d_lower) / upper, 0.0)
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
