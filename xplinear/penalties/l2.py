"""L2 penalty (ridge, weight decay)."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import weights_namespace
from xplinear.namespace import Array, Namespace, accumulator

__all__ = ["L2Penalty"]


@dataclass(frozen=True)
class L2Penalty:
    """$Ω = ½‖W‖²$, spreads the weight over all features.

    Gradient: W. Prox: W / (1 + step).

    References
    ----------
    Parikh and Boyd, Proximal Algorithms, 2014, §6.1.1.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.asarray([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]])[:, :, None]
    >>> L2Penalty().value(w)
    array([0.5  , 0.125])
    """

    smooth = True
    separable = True

    def value(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return $½‖W‖²$ ``(m,)``."""
        xp = weights_namespace(W, xp=xp)
        return 0.5 * xp.sum(W * W, axis=(0, -1), dtype=accumulator(W, xp=xp))

    def grad(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return W."""
        weights_namespace(W, xp=xp)
        return W

    def prox(self, W: Array, step: Array | float, *, xp: Namespace = None) -> Array:
        """Return W / (1 + step)."""
        weights_namespace(W, step, xp=xp)
        return W / (1.0 + step)

    def conjugate(self, V: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return $Ω*(V) = ½‖V‖²$ and 1: any V will do."""
        value = self.value(V, xp=xp)
        return value, weights_namespace(V, xp=xp, name="V").ones_like(value)
