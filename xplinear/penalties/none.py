"""No penalty."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import weights_namespace
from xplinear.namespace import Array, Namespace, accumulator

__all__ = ["NoPenalty"]


@dataclass(frozen=True)
class NoPenalty:
    """Ω = 0.

    Examples
    --------
    >>> import numpy as np
    >>> NoPenalty().value(np.ones((4, 2, 3)))
    array([0., 0.])
    """

    smooth = True
    separable = True
    absent = True

    def value(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return zeros ``(m,)``."""
        xp = weights_namespace(W, xp=xp)
        return xp.sum(xp.zeros_like(W), axis=(0, -1), dtype=accumulator(W, xp=xp))

    def grad(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return zeros in the shape of W."""
        return weights_namespace(W, xp=xp).zeros_like(W)

    def prox(self, W: Array, step: Array | float, *, xp: Namespace = None) -> Array:
        """Return W."""
        weights_namespace(W, step, xp=xp)
        return W
