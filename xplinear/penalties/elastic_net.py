"""Elastic net: L1 and L2 mixed."""

from __future__ import annotations

from dataclasses import dataclass

from xplinear.arguments import number, settle, weights_namespace
from xplinear.namespace import Array, Namespace
from xplinear.penalties.l1 import L1Penalty, soft_threshold
from xplinear.penalties.l2 import L2Penalty

__all__ = ["ElasticNetPenalty"]

_L1, _L2 = L1Penalty(), L2Penalty()


@dataclass(frozen=True)
class ElasticNetPenalty:
    """$Ω = r‖W‖₁ + (1 − r)·½‖W‖²$, r the share of L1.

    Prox: soft thresholding at step·r, then division by $1 + step·(1 − r)$.

    Parameters
    ----------
    l1_ratio : float, default 0.15
        r in [0, 1].

    Raises
    ------
    ValueError
        If ``l1_ratio`` is outside [0, 1].

    References
    ----------
    Zou and Hastie, Regularization and variable selection via the elastic net, JRSS B 2005.

    Examples
    --------
    >>> import numpy as np
    >>> ElasticNetPenalty(l1_ratio=0.5).value(np.asarray([[3.0], [-1.0]]))
    np.float64(4.5)
    """

    l1_ratio: float = 0.15

    smooth = False
    separable = True

    def __post_init__(self) -> None:
        settle(self, l1_ratio=number("[0, 1]"))

    def value(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return $r‖W‖₁ + (1 − r)·½‖W‖²$ ``(m,)``."""
        r = self.l1_ratio
        return r * _L1.value(W, xp=xp) + (1.0 - r) * _L2.value(W, xp=xp)

    def grad(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return $r·sign(W) + (1 − r)·W$."""
        r = self.l1_ratio
        return r * _L1.grad(W, xp=xp) + (1.0 - r) * _L2.grad(W, xp=xp)

    def prox(self, W: Array, step: Array | float, *, xp: Namespace = None) -> Array:
        """Return the prox of L1, then of L2, each with its share of the step."""
        r, xp = self.l1_ratio, weights_namespace(W, step, xp=xp)
        return _L2.prox(_L1.prox(W, r * step, xp=xp), (1.0 - r) * step, xp=xp)

    def strongest_alpha(self, gradient: Array, *, xp: Namespace = None) -> Array | None:
        """Return that of L1 over r; where r is 0 no strength makes every weight zero."""
        r = self.l1_ratio
        return None if r == 0.0 else _L1.strongest_alpha(gradient, xp=xp) / r

    def conjugate(self, V: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return $Ω*(V) = ½‖soft(V, r)‖² / (1 − r)$ and 1; where r is 1, that of L1."""
        r = self.l1_ratio
        if r == 1.0:
            return _L1.conjugate(V, xp=xp)
        xp = weights_namespace(V, xp=xp, name="V")
        value, scale = _L2.conjugate(soft_threshold(V, r, xp=xp), xp=xp)
        return value / (1.0 - r), scale
