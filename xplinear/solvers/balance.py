"""Weights that sum to 0 over the classes, where only differences of scores matter.

Such a loss has no curvature along weights that grow alike in all classes. What rounding puts
there stays, and grows from step to step, unless it is taken out.
"""

from __future__ import annotations

from xplinear.namespace import Namespace
from xplinear.objective import Objective, Params, columns
from xplinear.penalties import L2Penalty, NoPenalty

__all__ = ["balanced", "evened", "is_balanced"]


def is_balanced(objective: Objective) -> bool:
    """Return whether the gradient sums to 0 over the classes where the weights do.

    So it is under a penalty that is quadratic, or none.
    """
    quadratic = objective.penalty in (L2Penalty(), NoPenalty())
    return quadratic and objective.loss.shift_invariant and columns(objective.loss, objective.k) > 1


def evened(objective: Objective, params: Params) -> Params:
    """Return a start whose weights sum to 0 over the classes, where that changes no score."""
    if not is_balanced(objective):
        return params
    return Params(balanced(params, xp=objective.xp).W, params.b)


def balanced(params: Params, *, xp: Namespace) -> Params:
    """Return the parameters less their means over the classes."""
    W, b = params
    return Params(W - xp.mean(W, axis=2, keepdims=True), b - xp.mean(b, axis=1, keepdims=True))
