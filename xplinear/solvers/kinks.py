"""Kinks rounded over a width: the loss, its gradient and dual point, and its curvature there."""

from __future__ import annotations

from typing import Any

from xplinear.data import Block
from xplinear.data.protocol import compiled, row_width
from xplinear.losses.true_class import true_class
from xplinear.namespace import Array, Namespace, accumulator
from xplinear.objective import Objective, Params, class_scores, column_gradient, columns
from xplinear.solvers.curvature import CURVED, inverse_hessians
from xplinear.solvers.lbfgs import LBFGSState
from xplinear.solvers.metric import safe_divisor

__all__ = ["bending_pays", "first_width", "kinked_inverse_hessians", "rounded_loss"]

_ROWS = 32768  # among which kinks are looked for, unless they hold more than so many numbers
_ENTRIES = 2**26
_BAND = 0.6  # of the first width: kinks that near count
_BLOCK_ENTRIES = 2**27
_WORTH = 200  # passes: as much work may measuring it be


def first_width(loss: Any) -> float:
    """Return the width of the first stage: the margin of the loss."""
    return getattr(loss, "margin", 0.0) or 1.0


def rounded_loss(
    objective: Objective, params: Params, width: Array
) -> tuple[Array, Array, Array, Params]:
    """Return loss, smoothed loss and dual value ``(m,)``, and the smoothed loss's gradient."""
    data, xp = objective.data, objective.xp
    loss, smooth, dual, dW, db = data.reduce(
        _block_sums, (objective.loss, xp), params, width, scores=objective.m * objective.k
    )
    means = data.backend.compile(_means, objective.fit_intercept, xp)
    return means(loss, smooth, dual, Params(dW, db), data.weight_sum, params.b)


def _means(
    fit_intercept: bool,
    xp: Namespace,
    loss: Array,
    smooth: Array,
    dual: Array,
    grads: Params,
    total: Array,
    b: Array,
) -> tuple[Array, Array, Array, Params]:
    """Return what `rounded_loss` does, of sums over the rows."""
    dW, db = grads.W, grads.b / total[:, None]
    dual = dual / total
    if not fit_intercept:  # b is given: a constant in the scores
        dual = dual + xp.sum(db * xp.astype(b, db.dtype), axis=1)
        db = xp.zeros_like(db)
    dW = dW / xp.astype(total, dW.dtype)[:, None]
    return loss / total, smooth / total, dual, Params(dW, xp.astype(db, dW.dtype))


def _block_sums(
    loss: Any, xp: Namespace, block: Block, params: Params, width: Array
) -> tuple[Array, ...]:
    rows, y, s = block
    Z = rows.scores(*params, xp=xp)
    value, smooth, A = loss.smoothed(class_scores(Z, xp=xp), y, width, xp=xp)
    dual = -loss.conjugate(A, y, xp=xp)
    A = column_gradient(A, Z.shape[-1])
    if s is not None:
        value, smooth, dual, A = value * s, smooth * s, dual * s, A * s[..., None]
    dW, _ = rows.gradient(A, xp=xp)
    wide = accumulator(value, xp=xp)
    value, smooth, dual = (xp.sum(a, axis=0, dtype=wide) for a in (value, smooth, dual))
    return value, smooth, dual, dW, xp.sum(A, axis=0, dtype=wide)


def bending_pays(objective: Objective) -> bool:
    """Whether measuring the curvature near the kinks is worth its work."""
    data, p = objective.data, objective.data.p
    numbers = objective.m * columns(objective.loss, objective.k) * (p + 1) ** 2
    cost = p * p * (p + min(data.n, CURVED))
    return numbers <= _BLOCK_ENTRIES and cost <= _WORTH * data.entries


def kinked_inverse_hessians(
    objective: Objective, inner: LBFGSState, params: Params, width: Array
) -> Array:
    """Return the inverse of each class's block of the Hessian ``(m, c, p + 1, p + 1)``.

    The rows near a kink of a class, a few percent of all, lie elsewhere than the others and
    spread less: in the Gram matrix of all rows, L-BFGS takes many times as many steps.
    """
    data, xp, loss = objective.data, objective.xp, objective.loss
    block = data.sample(max(64, min(_ROWS, _ENTRIES // row_width(data))))
    band = xp.maximum(width, xp.full_like(width, _BAND * first_width(loss)))
    weights = compiled(data, _curvatures, loss, xp)(block, params, band)
    return inverse_hessians(objective, block.rows, weights, inner.preconditioner, most=CURVED)


def _curvatures(loss: Any, xp: Namespace, block: Block, params: Params, band: Array) -> Array:
    """Return each row's share in the curvature of each column ``(m, c, n)``: near kinks only."""
    rows, y, s = block
    Z = class_scores(rows.scores(*params, xp=xp), xp=xp)
    true = true_class(Z, y, xp=xp)
    # Rounded on both sides of the kink: what is about to cross it counts too.
    Z = xp.where(true, Z - 0.5 * band[:, None], Z)
    A = loss.smoothed(Z, y, band, xp=xp)[2]
    h = xp.where(true, 0.0, A * (1.0 - A)) / band[:, None]
    h = xp.where(true, xp.sum(h, axis=-1, keepdims=True), h)
    total = xp.full_like(band, rows.shape[0])
    if s is not None:
        h, total = h * s[..., None], xp.sum(s, axis=0)
    h = h / safe_divisor(total, xp=xp)[:, None]
    return xp.permute_dims(h if params.b.shape[1] > 1 else h[..., 1:], (1, 2, 0))
