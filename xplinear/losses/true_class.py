"""Where the true class stands among the scores."""

from __future__ import annotations

from xplinear.namespace import Array, Namespace, device

__all__ = [
    "diagonal",
    "of_true_class",
    "over_classes",
    "pairwise_curvature",
    "true_class",
    "true_score",
]


def true_class(Z: Array, y: Array, *, xp: Namespace) -> Array:
    """Return the mask ``(..., k)``, broadcastable to Z, that is True at each sample's class."""
    lead = tuple(y.shape) + (1,) * (Z.ndim - y.ndim)
    return xp.reshape(y, lead) == xp.arange(Z.shape[-1], dtype=xp.int32, device=device(Z))


def true_score(Z: Array, true: Array, *, xp: Namespace) -> Array:
    """Return z_y ``(..., 1)``: a sum over a mask, which every backend does without a gather."""
    return over_classes(xp.where(true, Z, 0.0), xp=xp)


def over_classes(Z: Array, *, xp: Namespace) -> Array:
    """Return the sum over the classes ``(..., 1)``: of two as one of arrays, not of each row."""
    if Z.shape[-1] == 2:
        return Z[..., :1] + Z[..., 1:]
    return xp.sum(Z, axis=-1, keepdims=True)


def of_true_class(table: Array, y: Array, *, xp: Namespace) -> Array:
    """Return the rows ``(n, m, k)`` of a ``table (k, m, k)`` for the class and model of each."""
    k, m, _ = table.shape
    y = xp.reshape(xp.astype(y, xp.int32), (y.shape[0], -1))
    index = y * m + xp.arange(m, dtype=xp.int32, device=device(table))
    own = xp.take(xp.reshape(table, (k * m, k)), xp.reshape(index, (-1,)), axis=0)
    return xp.reshape(own, (-1, m, k))


def diagonal(D: Array, *, xp: Namespace) -> Array:
    """Return the matrices ``(..., k, k)`` with these diagonals ``(..., k)``."""
    return D[..., None] * xp.eye(D.shape[-1], dtype=D.dtype, device=device(D))


def pairwise_curvature(h: Array, true: Array, *, xp: Namespace) -> Array:
    """Return Σ_{j≠y} h_j (e_j − e_y)(e_j − e_y)ᵀ ``(..., k, k)`` of ``h (..., k)``, 0 at y.

    ``true (..., k)`` is 1 at y and 0 elsewhere, in the dtype of h.
    """
    total = xp.sum(h, axis=-1, keepdims=True)
    cross = h[..., :, None] * true[..., None, :]
    return diagonal(h + total * true, xp=xp) - cross - xp.matrix_transpose(cross)
