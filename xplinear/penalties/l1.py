"""L1 penalty (lasso)."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import weights_namespace
from xplinear.namespace import Array, Namespace, accumulator

__all__ = ["L1Penalty", "soft_threshold"]


def soft_threshold(W: Array, threshold: Array | float, *, xp: Namespace) -> Array:
    """Return sign(W)·max(|W| − threshold, 0), with exact zeros."""
    magnitude = xp.abs(W) - threshold
    return xp.where(magnitude > 0, xp.sign(W) * magnitude, 0.0)


@dataclass(frozen=True)
class L1Penalty:
    """$Ω = ‖W‖₁$, drives weights to exact zeros.

    Subgradient: sign(W), 0 at the kink. Prox: soft thresholding.

    References
    ----------
    Parikh and Boyd, Proximal Algorithms, 2014, §6.5.2.

    Examples
    --------
    >>> import numpy as np
    >>> L1Penalty().prox(np.asarray([[3.0], [-0.5]]), 1.0)
    array([[2.],
           [0.]])
    """

    smooth = False
    separable = True

    def value(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return $‖W‖₁$ ``(m,)``."""
        xp = weights_namespace(W, xp=xp)
        return xp.sum(xp.abs(W), axis=(0, -1), dtype=accumulator(W, xp=xp))

    def grad(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return sign(W)."""
        return weights_namespace(W, xp=xp).sign(W)

    def prox(self, W: Array, step: Array | float, *, xp: Namespace = None) -> Array:
        """Return W soft-thresholded at ``step``."""
        return soft_threshold(W, step, xp=weights_namespace(W, step, xp=xp))

    def strongest_alpha(self, gradient: Array, *, xp: Namespace = None) -> Array:
        """Return the largest magnitude in the gradient ``(m,)``."""
        xp = weights_namespace(gradient, xp=xp, name="gradient")
        return xp.max(xp.abs(gradient), axis=(0, -1))

    def conjugate(self, V: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return Ω*(tV) = 0 and $t = min(1, 1 / ‖V‖_∞)$: Ω* is infinite where |v| > 1."""
        xp = weights_namespace(V, xp=xp, name="V")
        largest = self.strongest_alpha(V, xp=xp)
        return xp.zeros_like(largest), 1.0 / xp.where(largest > 1.0, largest, 1.0)
