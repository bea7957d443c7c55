"""Penalties Ω(W): functions of the weights; they never see X, y or the loss.

``W (p, m, k)`` gives values ``(m,)``: the first and last axes are summed, so ``W (p, k)``
gives a scalar. A step broadcasts against W and already contains α: ``(m, 1)`` is one step
per model, ``(p, m, 1)`` one per feature.
A new penalty is one file plus one line in ``PENALTIES``.
"""

from __future__ import annotations

from typing import Protocol

from xplinear.arguments import offering
from xplinear.namespace import Array, Namespace
from xplinear.penalties.elastic_net import ElasticNetPenalty
from xplinear.penalties.l1 import L1Penalty
from xplinear.penalties.l2 import L2Penalty
from xplinear.penalties.none import NoPenalty

__all__ = ["PENALTIES", "ElasticNetPenalty", "L1Penalty", "L2Penalty", "NoPenalty", "Penalty"]


class Penalty(Protocol):
    """What a penalty must offer; a frozen dataclass is the natural form.

    Who passes ``xp`` has checked the arrays: without it, those of this package check them.

    A penalty that grows at most with the square of W may also offer ``conjugate(V, *, xp)``:
    $Ω*(tV) = sup_W tV·W − Ω(W)$ and t, both ``(m,)``, for the largest t in (0, 1] at which it is
    finite; `xplinear.duality` bounds the optimum with it.
    A penalty that is a sum over the weights, the prox of each its own, may say so with
    ``separable = True``: where most weights are zero, `ProximalLBFGS` then looks at some only.
    A kinked penalty may offer ``strongest_alpha(gradient, *, xp)``, from which a path of
    strengths begins: the weakest α ``(m,)`` at which all weights are zero where the loss has this
    gradient ``(p, m, k)`` at zero weights; None where there is none.
    A penalty that is 0 everywhere says so with ``absent = True``: it has no strength.

    Attributes
    ----------
    smooth : bool
        Whether the gradient is continuous.
    """

    @property
    def smooth(self) -> bool: ...

    def value(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return Ω ``(m,)`` of ``W (p, m, k)``."""
        ...

    def grad(self, W: Array, *, xp: Namespace = None) -> Array:
        """Return the gradient, or a subgradient where kinked, in the shape of W."""
        ...

    def prox(self, W: Array, step: Array | float, *, xp: Namespace = None) -> Array:
        """Return $argmin_V ½‖V − W‖² + step·Ω(V)$, in the shape of W."""
        ...


PENALTIES: dict[str, type[Penalty]] = {
    "none": NoPenalty,
    "l2": L2Penalty,
    "l1": L1Penalty,
    "elastic_net": ElasticNetPenalty,
}


def has_strength(penalty: Penalty) -> bool:
    """Return whether there is a penalty at all."""
    return not getattr(penalty, "absent", False)


PENALTY = offering(Penalty, "an object with the methods of xplinear.penalties.Penalty")
