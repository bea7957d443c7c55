"""L1-norm loss on one-hot targets."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import scores_namespace
from xplinear.losses.polytope import Polytope, Side
from xplinear.losses.true_class import true_class, true_score
from xplinear.namespace import Array, Namespace

__all__ = ["AbsoluteErrorLoss"]


@dataclass(frozen=True)
class AbsoluteErrorLoss:
    """Absolute error to the one-hot target: a median fit, robust and hard to learn from.

    $L_i = ‖z − e_y‖₁$. Subgradient: $sign(z − e_y)$, 0 at the kink.

    References
    ----------
    Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, §10.6.

    Examples
    --------
    >>> import numpy as np
    >>> AbsoluteErrorLoss().value_and_grad(np.asarray([[0.5, 0.25]]), np.asarray([0]))
    (array([0.75]), array([[-1.,  1.]]))
    """

    smooth = False
    shift_invariant = False
    probabilistic = False

    def curvature(self, k: int) -> None:
        """Return None: the loss is kinked."""

    def lipschitz(self, k: int) -> float:
        """Return √k: every component is a sign."""
        return k**0.5

    def value_and_grad(self, Z: Array, y: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return losses ``(...)`` and a subgradient ``(..., k)``: ``Z (..., k)``, ``y (...)``."""
        xp = scores_namespace(Z, y, xp=xp)
        error = Z - xp.astype(true_class(Z, y, xp=xp), Z.dtype)
        return xp.sum(xp.abs(error), axis=-1), xp.sign(error)

    @property
    def polytope(self) -> Polytope:
        """$|z_j − t_j| = max a (z_j − t_j)$ over |a| ≤ 1."""
        return Polytope(Side(-1.0, 1.0, -1.0), Side(-1.0, 1.0, 0.0))

    def conjugate(self, A: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return a_y, for |a_j| ≤ 1."""
        xp = scores_namespace(A, y, xp=xp)
        return true_score(A, true_class(A, y, xp=xp), xp=xp)[..., 0]
