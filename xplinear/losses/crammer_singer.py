"""Multiclass SVM loss of Crammer and Singer."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import number, scores_namespace, settle
from xplinear.losses.exponential import shares
from xplinear.losses.polytope import Polytope, Side
from xplinear.losses.true_class import true_class, true_score
from xplinear.namespace import Array, Namespace

__all__ = ["CrammerSingerLoss"]


@dataclass(frozen=True)
class CrammerSingerLoss:
    """Crammer–Singer multiclass hinge: only the worst violation counts.

    $L_i = max_j (z_j + Δ·1[j ≠ y]) − z_y$. Subgradient: the mean of e_j over the maximizers,
    minus e_y; symmetric in tied classes, so equal scores move no class first.

    Parameters
    ----------
    margin : float, default 1.0
        Δ, in units of the scores.

    References
    ----------
    Crammer and Singer, On the algorithmic implementation of multiclass kernel-based vector
    machines, JMLR 2001.

    Examples
    --------
    >>> import numpy as np
    >>> Z = np.asarray([[3.2, 5.1, -1.7], [2.2, 2.5, -3.1]])
    >>> CrammerSingerLoss().value_and_grad(Z, np.asarray([0, 2]))[0].round(4)
    array([2.9, 6.6])
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
        """Return √2, the norm of $e_j − e_y$."""
        del k
        return 2.0**0.5

    def value_and_grad(self, Z: Array, y: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return losses ``(...)`` and a subgradient ``(..., k)``: ``Z (..., k)``, ``y (...)``."""
        xp = scores_namespace(Z, y, xp=xp)
        true = true_class(Z, y, xp=xp)
        gap = Z - true_score(Z, true, xp=xp) + xp.where(true, 0.0, xp.full_like(Z, self.margin))
        worst = xp.max(gap, axis=-1, keepdims=True)
        tied = xp.astype(gap == worst, Z.dtype)
        share = tied / xp.sum(tied, axis=-1, keepdims=True)
        return worst[..., 0], share - xp.astype(true, Z.dtype)

    @property
    def polytope(self) -> Polytope:
        """The largest of v_j is max a·v over a ≥ 0 with sum 1."""
        sides = Side(0.0, 1.0, 0.0), Side(0.0, 1.0, self.margin)
        return Polytope(*sides, pairwise=True, simplex=True)

    def conjugate(self, A: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return $−Δ Σ_{j≠y} a_j$, for a_j ≥ 0 (j ≠ y) with sum at most 1."""
        xp = scores_namespace(A, y, xp=xp)
        return self.margin * true_score(A, true_class(A, y, xp=xp), xp=xp)[..., 0]

    def smoothed(
        self, Z: Array, y: Array, width: Array, *, xp: Namespace = None
    ) -> tuple[Array, Array, Array]:
        """Return losses, smoothed losses ``(...)`` and the gradient of the latter ``(..., k)``.

        The maximum of the violations v becomes width·log mean exp(v / width), ``width (...)``:
        max a·v − width·Σ a log(k a) over a ≥ 0 with sum 1; at most width·log k below the loss.
        −Δ times the gradient at y is the dual value of these a.
        """
        xp = scores_namespace(Z, y, xp=xp)
        true = true_class(Z, y, xp=xp)
        gap = Z - true_score(Z, true, xp=xp) + xp.where(true, 0.0, xp.full_like(Z, self.margin))
        worst = xp.max(gap, axis=-1, keepdims=True)
        P, total = shares((gap - worst) / width[..., None], xp=xp)
        worst = worst[..., 0]
        smooth = worst + width * xp.log(total[..., 0] / Z.shape[-1])
        return worst, smooth, P - xp.astype(true, Z.dtype)
