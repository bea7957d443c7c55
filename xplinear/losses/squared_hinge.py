"""Squared multiclass hinge: Weston–Watkins violations, squared."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import number, scores_namespace, settle
from xplinear.losses.multiclass_hinge import violations
from xplinear.losses.true_class import pairwise_curvature, true_class, true_score
from xplinear.namespace import Array, Namespace

__all__ = ["SquaredHingeLoss"]


@dataclass(frozen=True)
class SquaredHingeLoss:
    """Squared multiclass hinge, the smooth relative of the multiclass SVM loss.

    $L_i = Σ_{j≠y} max(0, z_j − z_y + Δ)²$. Gradient: twice the violation for j ≠ y, minus
    their sum at y.

    Parameters
    ----------
    margin : float, default 1.0
        Δ, in units of the scores.

    References
    ----------
    Lee and Lin, A study on L2-loss (squared hinge-loss) multiclass SVM, Neural Computation 2013.

    Examples
    --------
    >>> import numpy as np
    >>> Z = np.asarray([[3.2, 5.1, -1.7]])
    >>> SquaredHingeLoss().value_and_grad(Z, np.asarray([0]))[0].round(2)
    array([8.41])
    """

    margin: float = 1.0

    smooth = True
    shift_invariant = True
    probabilistic = False

    def __post_init__(self) -> None:
        settle(self, margin=number("(0, inf)"))

    def curvature(self, k: int) -> float:
        """Return 2k, the largest eigenvalue of $2 Σ_{j≠y} (e_j − e_y)(e_j − e_y)ᵀ$."""
        return 2.0 * k

    def lipschitz(self, k: int) -> None:
        """Return None: the gradient grows with the scores."""

    def value_and_grad(self, Z: Array, y: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return losses ``(...)`` and gradient ``(..., k)`` for ``Z (..., k)``, ``y (...)``."""
        xp = scores_namespace(Z, y, xp=xp)
        violation, true = violations(Z, y, self.margin, xp=xp)
        total = xp.sum(violation, axis=-1, keepdims=True)
        return xp.sum(violation * violation, axis=-1), 2.0 * xp.where(true, -total, violation)

    def hessian(self, Z: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return $2 Σ (e_j − e_y)(e_j − e_y)ᵀ$ ``(..., k, k)`` over the violations j ≠ y."""
        xp = scores_namespace(Z, y, xp=xp)
        violation, true = violations(Z, y, self.margin, xp=xp)
        h = 2.0 * xp.astype(violation > 0, Z.dtype)
        return pairwise_curvature(h, xp.astype(true, Z.dtype), xp=xp)

    def hessian_product(self, Z: Array, y: Array, V: Array, *, xp: Namespace = None) -> Array:
        """Return $2 Σ (v_j − v_y)(e_j − e_y)$ ``(..., k)`` over the violations j ≠ y."""
        xp = scores_namespace(Z, y, xp=xp)
        violation, true = violations(Z, y, self.margin, xp=xp)
        own = xp.where(violation > 0, 2.0 * (V - true_score(V, true, xp=xp)), 0.0)
        return xp.where(true, -xp.sum(own, axis=-1, keepdims=True), own)

    def hessian_diagonal(self, Z: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return 2 at each violation, and their sum at y ``(..., k)``."""
        xp = scores_namespace(Z, y, xp=xp)
        violation, true = violations(Z, y, self.margin, xp=xp)
        h = 2.0 * xp.astype(violation > 0, Z.dtype)
        return xp.where(true, xp.sum(h, axis=-1, keepdims=True), h)

    def conjugate(self, A: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return $Σ_{j≠y} (a_j²/4 − Δ a_j)$, for a_j ≥ 0 (j ≠ y)."""
        xp = scores_namespace(A, y, xp=xp)
        others = xp.where(true_class(A, y, xp=xp), 0.0, A)
        return xp.sum(others * (0.25 * others - self.margin), axis=-1)
