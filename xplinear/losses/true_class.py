"""Where the true class stands among the scores."""

from __future__ import annotations

from xplinear.namespace import Array, Namespace, device

__all__ = ["true_class", "true_score"]


def true_class(Z: Array, y: Array, *, xp: Namespace) -> Array:
    """Return the mask ``(..., k)``, broadcastable to Z, that is True at each sample's class."""
    lead = tuple(y.shape) + (1,) * (Z.ndim - y.ndim)
    return xp.reshape(y, lead) == xp.arange(Z.shape[-1], dtype=xp.int32, device=device(Z))


def true_score(Z: Array, true: Array, *, xp: Namespace) -> Array:
    """Return z_y ``(..., 1)``: a sum over a mask, which every backend does without a gather."""
    return xp.sum(xp.where(true, Z, 0.0), axis=-1, keepdims=True)
