"""L2-norm loss on one-hot targets."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import scores_namespace
from xplinear.losses.true_class import diagonal, true_class, true_score
from xplinear.namespace import Array, Namespace

__all__ = ["SquaredErrorLoss"]


@dataclass(frozen=True)
class SquaredErrorLoss:
    """Squared error to the one-hot target (ridge classification).

    $L_i = ½‖z − e_y‖²$. Gradient: z − e_y.

    References
    ----------
    Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, §4.2.

    Examples
    --------
    >>> import numpy as np
    >>> SquaredErrorLoss().value_and_grad(np.asarray([[0.5, 0.5]]), np.asarray([0]))
    (array([0.25]), array([[-0.5,  0.5]]))
    """

    smooth = True
    shift_invariant = False
    probabilistic = False

    def curvature(self, k: int) -> float:
        """Return 1: the Hessian is the identity."""
        del k
        return 1.0

    def lipschitz(self, k: int) -> None:
        """Return None: the gradient grows with the scores."""

    def value_and_grad(self, Z: Array, y: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return losses ``(...)`` and gradient ``(..., k)`` for ``Z (..., k)``, ``y (...)``."""
        xp = scores_namespace(Z, y, xp=xp)
        error = Z - xp.astype(true_class(Z, y, xp=xp), Z.dtype)
        return 0.5 * xp.sum(error * error, axis=-1), error

    def hessian(self, Z: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return the identity ``(..., k, k)``."""
        xp = scores_namespace(Z, y, xp=xp)
        return diagonal(xp.ones_like(Z), xp=xp)

    def hessian_product(self, Z: Array, y: Array, V: Array, *, xp: Namespace = None) -> Array:
        """Return V itself."""
        scores_namespace(Z, y, xp=xp)
        return V

    def hessian_diagonal(self, Z: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return ones ``(..., k)``."""
        return scores_namespace(Z, y, xp=xp).ones_like(Z)

    def conjugate(self, A: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return $½‖a‖² + a_y$."""
        xp = scores_namespace(A, y, xp=xp)
        true = true_class(A, y, xp=xp)
        return 0.5 * xp.sum(A * A, axis=-1) + true_score(A, true, xp=xp)[..., 0]
