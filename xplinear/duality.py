"""A proven lower bound of the optimum, by duality.

For any a_i in the domain of the conjugate ℓ*(a) = sup_z a·z − ℓ(z),

F ≥ −(1/S) Σ_i s_i ℓ*_i(a_i) − α Ω*(−G/α),  G = (1/S) Σ_i s_i x_i a_iᵀ,  S = Σ_i s_i,

provided that Σ_i s_i a_i = 0 where the intercept is free. With a_i the gradient of the loss the
bound meets F at the optimum. Away from it the sum is not 0: the dual weight that flows from
class to class is then shrunk until every class receives what it gives.

Everything is computed in float64 where the device has it, whatever the dtype of the fit.
"""

from __future__ import annotations

from typing import Any

from xplinear.data import Block
from xplinear.data.protocol import row_width
from xplinear.data.rows import Rows
from xplinear.losses import Loss
from xplinear.losses.true_class import diagonal, of_true_class, true_class
from xplinear.namespace import Array, Namespace, accumulator
from xplinear.objective import Objective, Params, class_scores, column_gradient, weighted_penalty

__all__ = ["value_and_lower_bound"]

_SWEEPS = 10  # after as many the rest of the imbalance is small enough for one exact step
_ROUNDING = 16.0  # times eps times the magnitudes of what was summed: charged to the bound


def value_and_lower_bound(
    objective: Objective,
    params: Params,
    ahead: Params | None = None,
    *,
    dual: Loss | None = None,
) -> tuple[Array, Array]:
    """Return F ``(m,)`` and a lower bound of its minimum ``(m,)``, −∞ where there is none.

    There is none without a conjugate of the loss or of the penalty, or where α is 0. The bound
    is true up to the rounding of sums in float64, for which a few eps of their magnitude are
    taken off. It costs one pass over the data, two with a free intercept.

    Parameters
    ----------
    objective : Objective
    params : Params
        Where F is evaluated.
    ahead : Params, optional
        Where the gradient of the loss is the dual point, by default at ``params``. The nearer to
        the optimum, the better the bound: its distance from F* is of second order, but with a
        large constant, $‖∇F‖² / 2α$, so that one step further makes much of the bound.
    dual : Loss, optional
        Another loss whose gradient is the dual point; it must lie in the domain of the
        conjugate of the objective's loss, as that of a smoothed hinge does.

    References
    ----------
    Boyd and Vandenberghe, Convex Optimization, 2004, §5.5.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> from xplinear.losses import SoftmaxLoss
    >>> from xplinear.penalties import L2Penalty
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> F = Objective(SoftmaxLoss(), L2Penalty(), np.asarray([1.0]), data, k=3)
    >>> value, bound = value_and_lower_bound(F, F.zeros())
    >>> value.round(4), bound.round(4)
    (array([1.0986]), array([0.9875]))
    """
    data, xp, loss, penalty = objective.data, objective.xp, objective.loss, objective.penalty
    backend = data.backend
    # JAX makes float64 only where it is told to.
    with backend.double_precision():
        if any(getattr(part, "conjugate", None) is None for part in (loss, penalty)):
            value = objective.value(params)
            return value, xp.full_like(value, -xp.inf)
        static, ratio, free = (loss, dual, xp), None, objective.fit_intercept
        scores = 2 * objective.m * objective.k + row_width(data)  # in float64, and so X
        if free:
            flows = data.reduce(_block_flows, static, ahead or params, scores=scores)
            ratio = backend.compile(_balance, loss.shift_invariant, xp)(*flows)
        sums = data.reduce(_block_sums, static, params, ahead, ratio, scores=scores)
        bound = backend.compile(_bound, penalty, free, xp)
        return bound(*sums, params, objective.alpha)


def _widen(xp: Namespace, block: Block, params: Params) -> tuple[Rows, Array, Params]:
    wide = accumulator(params.b, xp=xp)
    rows, s = block.rows.astype(wide, xp=xp), xp.astype(block.weights(xp=xp), wide)
    return rows, s, Params(*(xp.astype(a, wide) for a in params))


def _gradient(
    loss: Loss, dual: Loss | None, xp: Namespace, rows: Rows, y: Array, params: Params
) -> tuple[Array, Array]:
    """Return the losses ``(n, m)`` and the dual point ``(n, m, k)`` at the parameters."""
    Z = class_scores(rows.scores(*params, xp=xp), xp=xp)
    value, A = loss.value_and_grad(Z, y, xp=xp)
    return value, A if dual is None else dual.value_and_grad(Z, y, xp=xp)[1]


def _block_flows(
    loss: Loss, dual: Loss | None, xp: Namespace, block: Block, params: Params
) -> tuple[Array, ...]:
    """Return what must cancel: from class to class ``(m, k, k)``, or up and down ``(m, k)``."""
    rows, s, params = _widen(xp, block, params)
    _, A = _gradient(loss, dual, xp, rows, block.y, params)
    A = s[..., None] * A
    if not loss.shift_invariant:
        return xp.sum(xp.where(A > 0, A, 0.0), axis=0), xp.sum(xp.where(A < 0, -A, 0.0), axis=0)
    n, m, k = A.shape
    if k == 2:
        first = _of_first_class(A, block.y, xp=xp)
        up = xp.sum(xp.where(first, A[:, :, 1], 0.0), axis=0)
        down = xp.sum(xp.where(first, 0.0, A[:, :, 0]), axis=0)
        nothing = xp.zeros_like(up)
        rows_of = xp.stack([nothing, up], axis=1), xp.stack([down, nothing], axis=1)
        return (xp.stack(rows_of, axis=1),)
    true = true_class(A, block.y, xp=xp)
    t = true.shape[1]  # targets: 1 that all models share, or m
    members = xp.permute_dims(xp.astype(true, A.dtype), (1, 2, 0))
    A = xp.reshape(xp.where(true, 0.0, A), (n, t, m // t * k))
    flow = xp.reshape(members @ xp.permute_dims(A, (1, 0, 2)), (t, k, m // t, k))
    return (xp.reshape(xp.permute_dims(flow, (0, 2, 1, 3)), (m, k, k)),)


def _of_first_class(A: Array, y: Array, *, xp: Namespace) -> Array:
    """Return which rows of two classes are of the first ``(n, 1 or m)``."""
    return xp.reshape(y, (A.shape[0], -1)) == 0


def _balance(shift_invariant: bool, xp: Namespace, *flows: Array) -> Array:
    """Return ratios in [0, 1] that make the flows cancel: ``(k, m, k)``, or ``(2, m, k)``."""
    if shift_invariant:
        return xp.permute_dims(_circulation(flows[0], xp=xp), (1, 0, 2))
    both = xp.stack(flows)
    return xp.min(both, axis=0) / xp.where(both > 0, both, 1.0)


def _circulation(flow: Array, *, xp: Namespace) -> Array:
    """Return ratios ``(m, k, k)`` of a flow in which every class receives what it gives.

    Classes get potentials π with which the flow times 1 + π_c − π_j would balance. Only
    shrinking is allowed: falling flows are reduced, again and again, until the rest is small
    enough to be spread over all.
    """
    current = flow
    for _ in range(_SWEEPS):
        given, received = xp.sum(current, axis=2), xp.sum(current, axis=1)
        # What comes from nowhere, or leads there, is on no cycle.
        alive = (received[:, :, None] > 0) & (given[:, None, :] > 0)
        current = xp.where(alive, current, 0.0)
        change = 1.0 + _potential_differences(current, xp=xp)
        current = current * xp.where(change < 0, 0.0, xp.where(change > 1, 1.0, change))
    change = xp.where(current > 0, 1.0 + _potential_differences(current, xp=xp), 1.0)
    largest = xp.max(change, axis=(1, 2), keepdims=True)
    balanced = current * change / largest

    gap = xp.max(xp.abs(xp.sum(balanced, axis=2) - xp.sum(balanced, axis=1)), axis=1)
    exact = gap <= 100.0 * float(xp.finfo(flow.dtype).eps) * xp.sum(flow, axis=(1, 2))
    exact = exact & (xp.min(change, axis=(1, 2)) >= 0)
    # Back and forth alike always balances, if wastefully.
    mutual = xp.minimum(flow, xp.permute_dims(flow, (0, 2, 1)))
    kept = xp.where(exact[:, None, None], balanced, mutual)
    return xp.where(flow > 0, kept / xp.where(flow > 0, flow, 1.0), 0.0)


def _potential_differences(flow: Array, *, xp: Namespace) -> Array:
    """Return π_c − π_j, π the solution of a Laplace equation on the graph of the classes."""
    given, received = xp.sum(flow, axis=2), xp.sum(flow, axis=1)
    degree = given + received
    # The ridge fixes the level of each component of the graph, which has no effect.
    ridge = 1.0 + 1e3 * float(xp.finfo(flow.dtype).eps)
    degree = xp.where(degree > 0, ridge * degree, 1.0)
    laplacian = diagonal(degree, xp=xp) - flow - xp.permute_dims(flow, (0, 2, 1))
    potential = xp.linalg.solve(laplacian, (received - given)[:, :, None])
    return potential - xp.permute_dims(potential, (0, 2, 1))


def _feasible(
    shift_invariant: bool, A: Array, y: Array, ratio: Array | None, *, xp: Namespace
) -> Array:
    """Return the dual point with the ratios applied; where they must, its components cancel."""
    if not shift_invariant:
        return A if ratio is None else A * xp.where(A > 0, ratio[0, ...], ratio[1, ...])
    if A.shape[-1] == 2:
        first, (up, down) = _of_first_class(A, y, xp=xp), (A[:, :, 1], A[:, :, 0])
        if ratio is not None:
            up, down = up * ratio[0, :, 1], down * ratio[1, :, 0]
        A = xp.where(first, up, -down)
        return xp.stack([-A, A], axis=2)
    true = true_class(A, y, xp=xp)
    if ratio is not None:
        A = A * of_true_class(ratio, y, xp=xp)
    A = xp.where(true, 0.0, A)
    return xp.where(true, -xp.sum(A, axis=-1, keepdims=True), A)


def _block_sums(
    loss: Any,
    dual: Loss | None,
    xp: Namespace,
    block: Block,
    params: Params,
    ahead: Params | None,
    ratio: Array | None,
) -> tuple[Array, ...]:
    """Return Σ of s, sℓ, sℓ*, s|a|‖x‖ ``(m,)``, of sa ``(m, c)`` and of sxaᵀ ``(p, m, c)``."""
    rows, s, wide = _widen(xp, block, params)
    value, A = _gradient(loss, dual, xp, rows, block.y, wide)
    if ahead is not None:
        _, A = _gradient(loss, dual, xp, rows, block.y, _widen(xp, block, ahead)[2])
    A = _feasible(loss.shift_invariant, A, block.y, ratio, xp=xp)
    conjugate = loss.conjugate(A, block.y, xp=xp)
    A = s[..., None] * column_gradient(A, params.b.shape[1])
    G, total = rows.gradient(A, xp=xp)
    return (
        xp.sum(s, axis=0),
        xp.sum(s * value, axis=0),
        xp.sum(s * conjugate, axis=0),
        xp.sum(rows.lengths(xp=xp) * xp.sum(xp.abs(A), axis=-1), axis=0),
        total,
        G,
    )


def _bound(
    penalty: Any,
    free: bool,
    xp: Namespace,
    weight: Array,
    value: Array,
    conjugate: Array,
    size: Array,
    total: Array,
    G: Array,
    params: Params,
    alpha: Array,
) -> tuple[Array, Array]:
    """Return F and the lower bound ``(m,)`` from the sums over all rows."""
    W, b = (xp.astype(a, G.dtype) for a in params)
    alpha = xp.astype(alpha, G.dtype)
    value, cost, size = value / weight, conjugate / weight, size / weight
    F = value + weighted_penalty(penalty, xp, W, alpha)
    if not free:  # b is given: a constant in the scores
        cost = cost - xp.sum(total * b, axis=1) / weight
    V = -G / (weight * xp.where(alpha > 0, alpha, 1.0))[:, None]
    quadratic, scale = penalty.conjugate(V, xp=xp)
    cost, quadratic = scale * cost, alpha * quadratic
    # The point t times as large costs at most t·cost + t²·quadratic: take the best t in [0, 1].
    best = -0.5 * cost / xp.where(quadratic > 0, quadratic, 1.0)
    best = xp.where((quadratic > 0) & (best < 1), best, 1.0)
    best = xp.where(cost < 0, best, 0.0)
    bound = -best * (cost + best * quadratic)
    V_norm, W_norm = (xp.sqrt(xp.sum(a * a, axis=(0, 2))) for a in (V, W))
    magnitude = value + xp.abs(cost) + quadratic + size * xp.maximum(V_norm, W_norm)
    bound = bound - _ROUNDING * float(xp.finfo(G.dtype).eps) * best * magnitude
    bound = xp.maximum(bound, xp.zeros_like(bound))  # no loss is negative
    bound = xp.where(alpha > 0, xp.minimum(bound, F), -xp.inf)
    return F, xp.where(xp.isfinite(bound), bound, -xp.inf)
