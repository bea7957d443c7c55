"""Softmax loss: the negative log-likelihood of softmax probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import check_array, scores_namespace
from xplinear.losses.exponential import shares
from xplinear.losses.true_class import diagonal, over_classes, true_class, true_score
from xplinear.namespace import Array, Namespace

__all__ = ["SoftmaxLoss", "softmax"]


def softmax(Z: Array, *, xp: Namespace = None) -> Array:
    """Return class probabilities $P_j = exp(z_j) / Σ_i exp(z_i)$, shape ``(..., k)`` as Z.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.asarray([3.2, 5.1, -1.7])).round(4)
    array([0.13 , 0.869, 0.001])
    """
    xp = check_array("Z", Z, ndim=1) if xp is None else xp
    E = xp.exp(Z - xp.max(Z, axis=-1, keepdims=True))
    return E / xp.sum(E, axis=-1, keepdims=True)


@dataclass(frozen=True)
class SoftmaxLoss:
    """Softmax loss (cross-entropy, multinomial logistic loss).

    $L_i = −log P_y = log Σ_j exp(z_j) − z_y$, in nats; always positive, log k when all scores
    are equal. Gradient in the scores: P − e_y.

    References
    ----------
    Böhning, Multinomial logistic regression algorithm, AISM 1992 (the curvature bound ½).

    Examples
    --------
    >>> import numpy as np
    >>> value, grad = SoftmaxLoss().value_and_grad(np.asarray([[3.2, 5.1, -1.7]]), np.asarray([0]))
    >>> value.round(4), grad.round(4)
    (array([2.0404]), array([[-0.87 ,  0.869,  0.001]]))
    """

    smooth = True
    shift_invariant = True
    probabilistic = True

    def curvature(self, k: int) -> float:
        """Return ½, the bound of the eigenvalues of $diag(P) − P Pᵀ$."""
        del k
        return 0.5

    def lipschitz(self, k: int) -> float:
        """Return √2, the bound of $‖P − e_y‖$."""
        del k
        return 2.0**0.5

    def value_and_grad(self, Z: Array, y: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return losses ``(...)`` and gradient ``(..., k)`` in the dtype of Z.

        Parameters
        ----------
        Z : Array of shape (..., k)
            Scores, real floating; any magnitude, the maximum is subtracted first.
        y : Array of shape (...)
            Class codes 0 … k−1, integer.
        """
        xp = scores_namespace(Z, y, xp=xp)
        true = true_class(Z, y, xp=xp)
        Z = Z - xp.max(Z, axis=-1, keepdims=True)
        P, total = shares(Z, xp=xp)
        value = xp.log(total) - true_score(Z, true, xp=xp)
        return value[..., 0], P - xp.astype(true, Z.dtype)

    def hessian(self, Z: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return diag(P) − P Pᵀ ``(..., k, k)``."""
        P, xp = self._shares(Z, y, xp=xp)
        return diagonal(P, xp=xp) - P[..., :, None] * P[..., None, :]

    def hessian_product(self, Z: Array, y: Array, V: Array, *, xp: Namespace = None) -> Array:
        """Return $(diag(P) − P Pᵀ) v$ for ``V (..., k)``."""
        P, xp = self._shares(Z, y, xp=xp)
        return P * (V - xp.vecdot(P, V)[..., None])

    def hessian_diagonal(self, Z: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return $P (1 − P)$ ``(..., k)``."""
        P, xp = self._shares(Z, y, xp=xp)
        return P * (1.0 - P)

    def conjugate(self, A: Array, y: Array, *, xp: Namespace = None) -> Array:
        """Return $Σ_j p_j log p_j$ of the probabilities p = a + e_y."""
        xp = scores_namespace(A, y, xp=xp)
        true = true_class(A, y, xp=xp)
        a, others = true_score(A, true, xp=xp)[..., 0], xp.where(true | (A <= 0), 1.0, A)
        # log1p, because p_y = 1 + a is 1 up to rounding where a sample is learned.
        own = (1.0 + a) * xp.log1p(xp.where(a > -1.0, a, 0.0))
        return own + over_classes(others * xp.log(others), xp=xp)[..., 0]

    @staticmethod
    def _shares(Z: Array, y: Array, *, xp: Namespace) -> tuple[Array, Namespace]:
        xp = scores_namespace(Z, y, xp=xp)
        # Of half the range, as products of two are made of them.
        return shares(Z - xp.max(Z, axis=-1, keepdims=True), xp=xp, precision=0.5)[0], xp
