"""Multiclass SVM loss of Weston and Watkins."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import number, scores_namespace, settle
from xplinear.losses.polytope import Polytope, Side
from xplinear.losses.true_class import true_class, true_score
from xplinear.namespace import Array, Namespace

__all__ = ["MulticlassHingeLoss", "violations"]


def violations(Z: Array, y: Array, margin: float, *, xp: Namespace) -> tuple[Array, Array]:
    """Return max(0, z_j − z_y + Δ) for j ≠ y (0 at the true class) and the true-class mask."""
    true = true_class(Z, y, xp=xp)
    gap = Z - true_score(Z, true, xp=xp) + margin
    return xp.where(true | (gap < 0), 0.0, gap), true


@dataclass(frozen=True)
class MulticlassHingeLoss:
    """Multiclass SVM loss (Weston–Watkins hinge).

    $L_i = Σ_{j≠y} max(0, z_j − z_y + Δ)$, Δ the margin; k − 1 times Δ when all scores are equal.
    Gradient: $1[z_j − z_y + Δ > 0]$ for j ≠ y, minus their number at y (0 at the kink itself).

    Parameters
    ----------
    margin : float, default 1.0
        Δ, in units of the scores.

    References
    ----------
    Weston and Watkins, Support vector machines for multi-class pattern recognition, ESANN 1999.

    Examples
    --------
    >>> import numpy as np
    >>> Z = np.asarray([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
    >>> MulticlassHingeLoss().value_and_grad(Z, np.asarray([0, 1, 2]))[0].round(4)
    array([ 2.9,  0. , 12.9])
    """

    margin: float = 1.0

    smooth = False
    shift_invariant = True
    probabilistic = False

    def __post_init__(self) -> None:
        settle(self, margin=number("(0, inf)"))

    def curvature(self, k: int) -> None:
        """Return None: the loss is kinked."""

    def lipschitz(self, k: int) -> float:
        """Return √(k (k − 1)), the norm when all classes violate the margin."""
        return (k * (k - 1)) ** 0.5

    def value_and_grad(self, Z: Array, y: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return losses ``(...)`` and a subgradient ``(..., k)``: ``Z (..., k)``, ``y (...)``."""
        xp = scores_namespace(Z, y, xp=xp)
        violation, true = violations(Z, y, self.margin, xp=xp)
        active = xp.astype(violation > 0, Z.dtype)
        count = xp.sum(active, axis=-1, keepdims=True)
        return xp.sum(violation, axis=-1), xp.where(true, -count, active)

    @property
    def polytope(self) -> Polytope:
        """max(0, v_j) = max a v_j over 0 ≤ a ≤ 1, for j ≠ y."""
        return Polytope(Side(0.0, 0.0, 0.0), Side(0.0, 1.0, self.margin), pairwise=True)

    def conjugate(self, A: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return $−Δ Σ_{j≠y} a_j$, for 0 ≤ a_j ≤ 1 (j ≠ y)."""
        xp = scores_namespace(A, y, xp=xp)
        return self.margin * true_score(A, true_class(A, y, xp=xp), xp=xp)[..., 0]

    def smoothed(
        self, Z: Array, y: Array, width: Array, *, xp: Namespace = None
    ) -> tuple[Array, Array, Array]:
        """Return losses, smoothed losses ``(...)`` and the gradient of the latter ``(..., k)``.

        Each hinge is rounded to a parabola over ``width (...)`` above its kink: it is
        max a·v − width·a²/2 over a in [0, 1], v the violation; at most (k − 1) width/2 below
        the loss. −Δ times the gradient at y is the dual value of these a.
        """
        xp = scores_namespace(Z, y, xp=xp)
        violation, true = violations(Z, y, self.margin, xp=xp)
        width = width[..., None]
        active = xp.minimum(violation / width, xp.ones_like(violation))
        smooth = xp.sum(active * (violation - 0.5 * width * active), axis=-1)
        count = xp.sum(active, axis=-1, keepdims=True)
        return xp.sum(violation, axis=-1), smooth, xp.where(true, -count, active)
