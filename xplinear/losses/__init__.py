"""Losses: functions of scores and labels; they never see X, W or the penalty.

``Z (..., k)`` are scores, the axes of ``y`` are the leading axes of ``Z``:
``y (n,)`` serves ``Z (n, k)`` and the stacked ``Z (n, m, k)``, whose models have labels of their
own in ``y (n, m)``; ``y (n, 1)`` is for all of them.
A new loss is one file plus one line in ``LOSSES``.
"""

from __future__ import annotations

from typing import Protocol

from xplinear.arguments import offering
from xplinear.losses.absolute_error import AbsoluteErrorLoss
from xplinear.losses.crammer_singer import CrammerSingerLoss
from xplinear.losses.multiclass_hinge import MulticlassHingeLoss
from xplinear.losses.softmax import SoftmaxLoss
from xplinear.losses.squared_error import SquaredErrorLoss
from xplinear.losses.squared_hinge import SquaredHingeLoss
from xplinear.namespace import Array, Namespace

__all__ = [
    "LOSSES",
    "AbsoluteErrorLoss",
    "CrammerSingerLoss",
    "Loss",
    "MulticlassHingeLoss",
    "SoftmaxLoss",
    "SquaredErrorLoss",
    "SquaredHingeLoss",
]


class Loss(Protocol):
    """What a loss must offer; a frozen dataclass is the natural form.

    A loss may also offer ``conjugate(A, y, *, xp)``: $ℓ*(a) = sup_z a·z − ℓ(z)$ ``(...)`` for
    ``A (..., k)`` in its domain, from which `xplinear.duality` bounds the optimum. It takes a
    loss that is never negative, and a domain that keeps a point whose a_j, j ≠ y, shrink
    ($a_y = −Σ a_j$ following where the loss is shift-invariant, else shrinking as well).

    A smooth loss may offer ``hessian(Z, y, *, xp)``: its second derivative in the scores
    ``(..., k, k)``, positive semidefinite (where the gradient has a kink, one of its elements),
    with which problems of few weights, and of sparse rows, are solved by Newton steps. Where less
    is needed than the matrix it may offer ``hessian_product(Z, y, V, *, xp)``, that times
    ``V (..., k)``, and ``hessian_diagonal(Z, y, *, xp)``, its diagonal ``(..., k)``.

    A kinked loss may offer the property ``polytope``, a `xplinear.losses.polytope.Polytope`: how
    it is a maximum over a box or a simplex, which the solver ``interior_point`` needs. For the
    solver ``smoothing`` it offers ``smoothed(Z, y, width, *, xp)``: see `MulticlassHingeLoss`.

    Attributes
    ----------
    smooth : bool
        Whether the gradient is continuous.
    shift_invariant : bool
        Whether only differences of scores matter. Two classes then need one column of weights.
    probabilistic : bool
        Whether softmax(Z) estimates class probabilities.
    """

    @property
    def smooth(self) -> bool: ...

    @property
    def shift_invariant(self) -> bool: ...

    @property
    def probabilistic(self) -> bool: ...

    def curvature(self, k: int) -> float | None:
        """Bound the largest eigenvalue of the Hessian in the scores; None where kinked."""
        ...

    def lipschitz(self, k: int) -> float | None:
        """Bound the norm of the gradient in the scores; None where it grows without end."""
        ...

    def value_and_grad(self, Z: Array, y: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return the per-sample losses ``(...)`` and their gradient in the scores ``(..., k)``.

        Who passes ``xp`` has checked the arrays: without it, those of this package check them.
        """
        ...


LOSSES: dict[str, type[Loss]] = {
    "softmax": SoftmaxLoss,
    "multiclass_hinge": MulticlassHingeLoss,
    "crammer_singer": CrammerSingerLoss,
    "squared_hinge": SquaredHingeLoss,
    "squared_error": SquaredErrorLoss,
    "absolute_error": AbsoluteErrorLoss,
}

LOSS = offering(Loss, "an object with the methods of xplinear.losses.Loss")
