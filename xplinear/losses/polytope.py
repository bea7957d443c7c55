"""Kinked losses as maxima over a polytope: what a linear or quadratic program needs to know."""

from __future__ import annotations

from typing import NamedTuple

from xplinear.losses.true_class import true_score
from xplinear.namespace import Array, Namespace

__all__ = ["Polytope", "Side"]


class Side(NamedTuple):
    """What the true class, or each of the others, has: ``lower`` ≤ a_j ≤ ``upper``, and c_j.

    Where both bounds are the same, a_j is no variable.
    """

    lower: float
    upper: float
    offset: float


class Polytope(NamedTuple):
    """A loss ℓ(z) = max a·v over a polytope, v_j = z_j + c_j, or z_j − z_y + c_j if ``pairwise``.

    The polytope is a box, or where ``simplex`` the a ≥ 0 that sum to 1 (the bounds of the sides
    are then 0 and 1, and the loss is pairwise). It contains 0, if need be with a_y left out: no
    loss is negative.

    Parameters
    ----------
    true, others : Side
        Of a_j for j = y, and for j ≠ y.
    pairwise : bool
        Whether only differences of scores matter, as in a loss that is shift-invariant.
    simplex : bool

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.losses import AbsoluteErrorLoss
    >>> AbsoluteErrorLoss().polytope
    Polytope(true=Side(lower=-1.0, upper=1.0, offset=-1.0), \
others=Side(lower=-1.0, upper=1.0, offset=0.0), pairwise=False, simplex=False)
    """

    true: Side
    others: Side
    pairwise: bool = False
    simplex: bool = False

    def differences(self, Z: Array, true: Array, *, xp: Namespace) -> Array:
        """Return the part of v that is linear in the scores, D z ``(..., k)``."""
        return Z - true_score(Z, true, xp=xp) if self.pairwise else Z

    def gradient(self, A: Array, true: Array, *, xp: Namespace) -> Array:
        """Return the gradient of a·v in the scores, Dᵀa ``(..., k)``."""
        if not self.pairwise:
            return A
        A = xp.where(true, 0.0, A)  # a_y has no effect, and may be far above the others
        return A - xp.where(true, xp.sum(A, axis=-1, keepdims=True), 0.0)

    def sides(self, true: Array, like: Array, *, xp: Namespace) -> Side:
        """Return lower bounds, upper bounds and offsets in the shape of the mask ``true``."""
        true = xp.astype(true, like.dtype)
        return Side(*(b + (a - b) * true for a, b in zip(self.true, self.others, strict=True)))
