"""The exact Hessian of the data loss, for problems of few weights.

Weights are vectors ``(m, c, p + 1)`` here: each class has its own column of W and, last, the
intercept at the centre of the features. A row is x − μ with 1 appended; its Hessian is that of
the loss in the scores, c × c, times the outer product of the row with itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xplinear.data import Block
from xplinear.losses import Loss
from xplinear.namespace import Array, Namespace, accumulator
from xplinear.objective import (
    Objective,
    Params,
    class_scores,
    column_gradient,
    columns,
    loss_and_grads,
)
from xplinear.penalties import Penalty

__all__ = [
    "Evaluated",
    "augmented",
    "augmented_rows",
    "check_room",
    "column_curvature",
    "curvatures",
    "has_hessian",
    "hessian_product",
    "loss_grad_and_hessian",
    "params_of_augmented",
    "refusal_without_hessian",
    "row_curvature",
    "rows_hessian",
]


_FEW_BYTES = 2**28  # there for any fit: how much is free is not asked


class Evaluated(NamedTuple):
    """Mean loss ``(m,)``, its gradient in W and b, and its Hessian ``(m, c(p + 1), c(p + 1))``."""

    loss: Array
    grads: Params
    hessian: Array


def check_room(objective: Objective, solver: str, dtype: Any, *, blocks: int = 1) -> None:
    """Raise MemoryError where the Hessians of all models, and their factors, are beyond memory.

    Each is of ``blocks`` square matrices along its diagonal.
    """
    size = columns(objective.loss, objective.k) // blocks * (objective.data.p + 1)
    entry = objective.xp.finfo(dtype).bits // 8
    bytes_ = 2 * entry * objective.m * blocks * size**2
    if bytes_ > _FEW_BYTES and bytes_ > objective.data.backend.free_memory():
        msg = (
            f"solver {solver!r} makes a matrix of {size:,} × {size:,} numbers for each model, "
            "which memory does not hold; solver='auto' takes one that makes none"
        )
        raise MemoryError(msg)


def augmented(W: Array, b: Array, *, xp: Namespace) -> Array:
    """Return W ``(p, m, c)`` and b ``(m, c)`` as one vector per class ``(m, c, p + 1)``."""
    return xp.concat([xp.permute_dims(W, (1, 2, 0)), b[:, :, None]], axis=2)


def params_of_augmented(vectors: Array, *, xp: Namespace) -> Params:
    """Return the W and b that `augmented` makes one vector of."""
    return Params(xp.permute_dims(vectors[:, :, :-1], (2, 0, 1)), vectors[:, :, -1])


def augmented_rows(X: Array, centre: Array, free: float, *, xp: Namespace) -> Array:
    """Return rows x − μ with ``free`` appended ``(r, p + 1)``; ``centre (p,)``."""
    return xp.concat([X - centre, xp.full_like(X[:, :1], free)], axis=1)


def rows_hessian(rows: Array, M: Array, *, xp: Namespace) -> Array:
    """Return Σ_i M_i ⊗ x_i x_iᵀ ``(m, c(p + 1), c(p + 1))`` of curvatures ``M (r, m, c, c)``."""
    r, m, c, _ = M.shape
    d = rows.shape[1]
    upper: list[Array] = []  # (m, d, c − j, d) of each class j: symmetric matrices need no more
    for j in range(c):
        weighted = xp.reshape(M[:, :, j, j:], (r, m * (c - j)))[:, :, None] * rows[:, None, :]
        product = rows.T @ xp.reshape(weighted, (r, m * (c - j) * d))
        upper.append(xp.permute_dims(xp.reshape(product, (d, m, c - j, d)), (1, 0, 2, 3)))
    lines: list[Array] = []
    for j in range(c):
        lower = [xp.matrix_transpose(upper[i][:, :, j - i, :])[:, :, None, :] for i in range(j)]
        lines.append(xp.concat([*lower, upper[j]], axis=2))
    return xp.reshape(xp.stack(lines, axis=1), (m, c * d, c * d))


def column_curvature(M: Array) -> Array:
    """Return the curvature ``(..., 1, 1)`` in the score u of one column: scores are (−u/2, u/2)."""
    return 0.25 * (M[..., :1, :1] - M[..., :1, 1:] - M[..., 1:, :1] + M[..., 1:, 1:])


def row_curvature(loss: Any, block: Block, params: Params, *, xp: Namespace) -> Array:
    """Return the weighted curvature of each row in the scores of the columns ``(r, m, c, c)``."""
    rows, y, s = block
    Z = rows.scores(*params, xp=xp)
    M = loss.hessian(class_scores(Z, xp=xp), y, xp=xp)
    M = column_curvature(M) if Z.shape[-1] == 1 else M
    return M if s is None else M * s[:, :, None, None]


def _block(
    loss: Any, free: float, xp: Namespace, block: Block, params: Params, centre: Array
) -> tuple[Array, ...]:
    value, (dW, db) = loss_and_grads(loss, *block, params, xp=xp)
    M = row_curvature(loss, block, params, xp=xp)
    H = rows_hessian(augmented_rows(block.rows.dense(), centre, free, xp=xp), M, xp=xp)
    return xp.sum(value, axis=0, dtype=accumulator(value, xp=xp)), dW, db, H


def loss_grad_and_hessian(objective: Objective, params: Params, centre: Array) -> Evaluated:
    """Return the mean loss at ``params`` and its derivatives.

    The Hessian is in the coordinates of `augmented`, the intercept being that at ``centre (p,)``.
    The loss must offer ``hessian``.
    """
    data, xp = objective.data, objective.xp
    p, m, c = params.W.shape
    free = float(objective.fit_intercept)
    held = m * objective.k + m * c * c * (p + 1)  # what a row makes
    total, dW, db, H = data.reduce(
        _block, (objective.loss, free, xp), params, centre, scores=held // 4 + 1
    )
    means = data.backend.compile(_means, objective.fit_intercept, xp)
    return means(total, dW, db, H, data.weight_sum)


def _means(
    fit_intercept: bool, xp: Namespace, total: Array, dW: Array, db: Array, H: Array, weight: Array
) -> Evaluated:
    own = xp.astype(weight, dW.dtype)[:, None]
    grads = Params(dW / own, db / own if fit_intercept else xp.zeros_like(db))
    return Evaluated(total / weight, grads, H / own[:, :, None])


def has_hessian(loss: Loss) -> bool:
    """Return whether a loss offers its Hessian in the scores."""
    return getattr(loss, "hessian", None) is not None


def hessian_product(loss: Any, Z: Array, y: Array, V: Array, *, xp: Namespace) -> Array:
    """Return the Hessian of the loss in the scores times ``V``, both ``(r, m, k)``."""
    own = getattr(loss, "hessian_product", None)
    if own is not None:
        return own(Z, y, V, xp=xp)
    return (loss.hessian(Z, y, xp=xp) @ V[..., None])[..., 0]


def curvatures(loss: Any, Z: Array, y: Array, *, xp: Namespace) -> Array:
    """Return the loss's curvature in each column of scores ``(r, m, c)``."""
    if Z.shape[-1] == 1:
        both = class_scores(Z, xp=xp)
        ends = class_scores(xp.ones_like(Z), xp=xp)
        return column_gradient(hessian_product(loss, both, y, ends, xp=xp), 1)
    own = getattr(loss, "hessian_diagonal", None)
    return xp.linalg.diagonal(loss.hessian(Z, y, xp=xp)) if own is None else own(Z, y, xp=xp)


def refusal_without_hessian(solver: str, loss: Loss, penalty: Penalty) -> str | None:
    """Return why a solver by Hessians cannot do what is kinked, or has none; None where it can."""
    if loss.smooth and penalty.smooth and has_hessian(loss):
        return None
    return (
        f"solver {solver!r} needs a smooth penalty and a loss with a Hessian, got "
        f"{loss!r} and {penalty!r}; use 'auto'"
    )
