"""Dual points in a bundle: their best mixture bounds the optimum of a kinked loss from below."""

from __future__ import annotations

from typing import NamedTuple

from xplinear.data import Block
from xplinear.data.rows import spread
from xplinear.losses.true_class import diagonal, true_class
from xplinear.namespace import Array, Namespace, accumulator, device
from xplinear.objective import Objective, Params
from xplinear.solvers.metric import safe_divisor

__all__ = ["Bundle", "Classes", "class_means", "collect", "no_points", "prove"]

_BUNDLE = 80  # dual points kept, the best mixture among them
_NEWTON = 15  # each divides the distance to the best mixture by about 5
_PRICE = 3.0  # of a residual: well above what it can gain, or it would stay
_CENTRING = 0.1  # of the products x·z, from one such step to the next
_ROUNDING = 16.0  # times eps and F: taken off every bound


class DualPoint(NamedTuple):
    """Gradient ``(m, c p)``, residual ``(m, c)`` and value ``(m,)``; several ``(m, t, …)``."""

    gradient: Array
    residual: Array
    value: Array


class Bundle(NamedTuple):
    """The best mixture so far and the last dual points; the start is the point 0.

    Those ``(m, t, …)`` are in a ring, in the order of ``age (m, t)``; see `Backend.write`. The one
    of age 0, which will be written next, counts as the point 0.
    """

    mixture: DualPoint
    last: DualPoint
    age: Array

    def points(self, *, xp: Namespace) -> DualPoint:
        """Return all of them, the mixture first, in the dtype of the values."""
        live, wide = self.age[:, :, None] > 0, self.last.value.dtype
        last = self.last._replace(gradient=xp.where(live, self.last.gradient, 0.0))
        both = zip(self.mixture, last, strict=True)
        return DualPoint(
            *(xp.astype(xp.concat([a[:, None, ...], b], axis=1), wide) for a, b in both)
        )


class Classes(NamedTuple):
    """Share of the weight ``(m, k)`` and centre ``(m, k, p)`` of each class, from that of X."""

    share: Array
    centre: Array


def no_points(objective: Objective, params: Params, value: Array) -> Bundle:
    """Return a bundle in which each point is the start, 0."""
    xp, backend = objective.xp, objective.data.backend
    kind, wide = backend.kind(objective.data.dtype), backend.kind(value.dtype)
    p, m, c = params.W.shape
    mixture, last = (
        DualPoint(
            xp.zeros((*shape, c * p), **kind),
            xp.zeros((*shape, c), **wide),
            xp.zeros(shape, **wide),
        )
        for shape in ((m,), (m, _BUNDLE))
    )
    return Bundle(mixture, last, xp.stack([xp.arange(_BUNDLE, **backend.kind(xp.int32))] * m))


def class_means(objective: Objective, centre: Array) -> Classes:
    """Return the classes as a dual point needs them: seen from the centre of X."""
    data, xp, k = objective.data, objective.xp, objective.k
    like = xp.zeros_like(objective.alpha)
    share, total = data.reduce(_block_classes, (k, xp), like, scores=objective.m * k)
    return data.backend.compile(_seen, xp)(share, total, data.weight_sum, centre)


def _seen(xp: Namespace, share: Array, total: Array, weight: Array, centre: Array) -> Classes:
    share = xp.astype(share / weight[:, None], total.dtype)
    total = total / xp.astype(weight, total.dtype)[:, None, None]
    return Classes(share, total - share[:, :, None] * centre[:, 0])


def _block_classes(k: int, xp: Namespace, block: Block, like: Array) -> tuple[Array, Array]:
    s = block.weights(xp=xp)
    true = true_class(xp.zeros((1, 1, k), dtype=s.dtype, device=device(s)), block.y, xp=xp)
    members = (s + like)[:, :, None] * xp.astype(true, s.dtype)  # (n, m, k)
    total, _ = block.rows.gradient(members, xp=xp)
    wide = accumulator(s, xp=xp)
    return xp.sum(members, axis=0, dtype=wide), xp.permute_dims(total, (1, 2, 0))


def collect(
    objective: Objective, bundle: Bundle, grads: Params, dual: Array, centre: Array
) -> Bundle:
    """Let a new dual point take the place of the oldest."""
    backend = objective.data.backend
    add = backend.compile(_added, objective.xp)
    last, age, place, gradient = add(bundle, grads, dual, centre)
    ring = backend.write(bundle.last.gradient, place, gradient)
    return Bundle(bundle.mixture, last._replace(gradient=ring), age)


def _added(
    xp: Namespace, bundle: Bundle, grads: Params, dual: Array, centre: Array
) -> tuple[DualPoint, Array, Array, Array]:
    """Return the points less their gradients, their ages, the new one's place and gradient."""
    (p, m, c), (_, last, age) = grads.W.shape, bundle
    dW = xp.permute_dims(grads.W - spread(centre, grads.b, xp=xp), (1, 2, 0))
    b = xp.astype(grads.b, dual.dtype)
    new, next_to_go = age == 0, age == 1
    residual = xp.where(next_to_go[:, :, None], 0.0, last.residual)
    value = xp.where(next_to_go, 0.0, last.value)
    points = DualPoint(
        None,
        xp.where(new[:, :, None], b[:, None, :], residual),
        xp.where(new, dual[:, None], value),
    )
    older = xp.where(new, age.shape[1] - 1, age - 1)
    return points, older, xp.argmax(-age, axis=1), xp.reshape(dW, (m, c * p))


def prove(
    objective: Objective,
    bundle: Bundle,
    classes: Classes,
    intercept: Array,
    value: Array,
    bound: Array,
) -> tuple[Bundle, Array]:
    """Put the best mixture of the dual points first; return the best bound so far."""
    xp, compile_ = objective.xp, objective.data.backend.compile
    program, point = compile_(_program, xp)(bundle, classes, intercept, value, objective.alpha)
    newton = compile_(_newton, xp)
    for _ in range(_NEWTON):
        point = newton(program, point)
    mix = compile_(_bound, xp)
    mixture, bound = mix(bundle, point.x, classes, value, objective.alpha, bound)
    return bundle._replace(mixture=mixture), bound


class Program(NamedTuple):
    """Minimize ½ xᵀQx − qᵀx over x ≥ 0 with Ax = (1, 0, …, 0): Q ``(m, d, d)``, A ``(m, r, d)``."""

    Q: Array
    q: Array
    A: Array


class Point(NamedTuple):
    """x ``(m, d)`` and the multipliers of x ≥ 0 and of the equations ``(m, r)``."""

    x: Array
    z: Array
    u: Array


def _program(
    xp: Namespace,
    bundle: Bundle,
    classes: Classes,
    intercept: Array,
    value: Array,
    alpha: Array,
) -> tuple[Program, Point]:
    """Return the search for the best mixture, and where it starts.

    x holds the shares of the points, then what their residuals exceed 0 by, up and down, at
    a price: there is always a solution inside.
    """
    G, residuals, values = bundle.points(xp=xp)
    wide, (_, t, c) = values.dtype, residuals.shape
    K = G @ xp.matrix_transpose(G) / safe_divisor(xp.astype(alpha, wide), xp=xp)[:, None, None]
    none = xp.concat([0.0 * residuals, 0.0 * residuals], axis=2)
    corner = xp.matrix_transpose(none) @ none
    Q = _bordered(K, none, corner, xp=xp)
    least = xp.min(xp.where(classes.share > 0, classes.share, 1.0), axis=1)
    price = _PRICE * (value / least + xp.max(xp.abs(intercept), axis=1))
    counted = xp.concat([xp.ones_like(values), none[:, 0, :]], axis=1)
    q = xp.concat([values, none[:, 0, :] - price[:, None]], axis=1)
    unit = 0.0 * residuals[:, :1, :] + xp.eye(c, dtype=wide, device=device(values))
    rows = xp.concat([xp.matrix_transpose(residuals), unit, -unit], axis=2)
    A = xp.concat([counted[:, None, :], rows], axis=1)
    excess = xp.max(xp.abs(residuals), axis=(1, 2)) + float(xp.finfo(wide).eps)
    x = xp.where(counted > 0, 1.0 / t, excess[:, None])
    z = xp.zeros_like(x) + xp.max(xp.abs(_times(Q, x) - q), axis=1, keepdims=True)
    return Program(Q, q, A), Point(x, z, xp.zeros_like(A[:, :, 0]))


def _bordered(K: Array, side: Array, corner: Array, *, xp: Namespace) -> Array:
    """Return the symmetric matrices of the blocks K and side, sideᵀ and corner."""
    upper = xp.concat([K, side], axis=2)
    return xp.concat([upper, xp.concat([xp.matrix_transpose(side), corner], axis=2)], axis=1)


def _times(M: Array, v: Array) -> Array:
    return (M @ v[:, :, None])[:, :, 0]


def _newton(xp: Namespace, program: Program, point: Point) -> Point:
    """Make one step of the primal-dual interior-point method."""
    Q, q, A = program
    x, z, u = point
    At, r = xp.matrix_transpose(A), A.shape[1]
    tiny = float(xp.finfo(x.dtype).eps)
    # Nothing is gained by coming nearer to the boundary than rounding allows.
    target = _CENTRING * xp.mean(x * z, axis=1, keepdims=True) + tiny * xp.max(
        xp.abs(q), axis=1, keepdims=True
    )
    one = xp.astype(xp.arange(r, dtype=xp.int32, device=device(x)) == 0, x.dtype)
    slope = q + _times(At, u) - _times(Q, x)
    right = xp.concat([target / x + slope, one - _times(A, x)], axis=1)
    corner = 0.0 * A[:, :, :r] - tiny * xp.eye(r, dtype=x.dtype, device=device(x))
    M = _bordered(Q + diagonal(z / x, xp=xp), At, corner, xp=xp)
    move = xp.linalg.solve(M, right[:, :, None])[:, :, 0]
    dx, du = move[:, : x.shape[1]], -move[:, x.shape[1] :]
    dz = (target - z * dx) / x - z

    def room(v: Array, dv: Array) -> Array:
        return xp.min(xp.where(dv < 0, -0.99 * v / xp.where(dv < 0, dv, -1.0), 1.0), axis=1)

    step = xp.minimum(room(x, dx), room(z, dz))[:, None]
    return Point(x + step * dx, z + step * dz, u + step * du)


def _bound(
    xp: Namespace,
    bundle: Bundle,
    x: Array,
    classes: Classes,
    best: Array,
    alpha: Array,
    bound: Array,
) -> tuple[DualPoint, Array]:
    """Return the mixture of shares x, and the larger of the bounds.

    What is left of the residual is taken away by a point with rows that are alike in each class;
    both together, times 1 − θ, are a dual point again.
    """
    points, wide = bundle.points(xp=xp), x.dtype
    share = x[:, : points.value.shape[1]]
    share = xp.where(share > 0, share, 0.0)
    total = xp.sum(share, axis=1, keepdims=True)
    first = xp.arange(share.shape[1], dtype=xp.int32, device=device(share)) == 0
    solved = xp.isfinite(total) & (total > 0)
    share = xp.where(solved, share / safe_divisor(total, xp=xp), xp.astype(first, wide))
    mixed = DualPoint(
        *((share[:, None, :] @ a)[:, 0, :] for a in points[:2]),
        value=xp.sum(share * points.value, axis=1),
    )
    r = mixed.residual
    r = xp.concat([-r, r], axis=1) if r.shape[1] == 1 else r
    share, centre = (xp.astype(a, wide) for a in classes)
    present = share > 0
    # From class to class, what makes up for r: its rows receive −r.
    flow = (r[:, :, None] - r[:, None, :]) / xp.sum(xp.astype(present, wide), axis=1)[:, None, None]
    flow = xp.where((flow > 0) & present[:, :, None] & present[:, None, :], flow, 0.0)
    given = xp.sum(flow, axis=2)
    theta = xp.max(given / safe_divisor(share, xp=xp), axis=1)
    centre = centre / safe_divisor(share, xp=xp)[:, :, None]
    G = xp.matrix_transpose(flow) @ centre - given[:, :, None] * centre
    G = G[:, 1:, :] if mixed.residual.shape[1] == 1 else G
    G = (1.0 - theta)[:, None] * (mixed.gradient + xp.reshape(G, mixed.gradient.shape))
    alpha = xp.astype(alpha, wide)
    value = (1.0 - theta) * mixed.value - 0.5 * xp.sum(G * G, axis=1) / safe_divisor(alpha, xp=xp)
    # The sums over the rows were made in the dtype of the data.
    dtype = bundle.last.gradient.dtype
    value = value - _ROUNDING * float(xp.finfo(dtype).eps) * best
    astray = xp.any(~present & (r != 0), axis=1)
    proven = (theta <= 1) & (alpha > 0) & ~astray & (value > bound)
    mixed = mixed._replace(gradient=xp.astype(mixed.gradient, dtype))
    return mixed, xp.minimum(xp.where(proven, value, bound), best)
