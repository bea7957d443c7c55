"""Weights that sum to 0 over the classes, where only differences of scores matter.

Such a loss has no curvature along weights that grow alike in all classes. What rounding puts
there stays, and grows from step to step, unless it is taken out.
"""

from __future__ import annotations

from typing import NamedTuple

from xplinear.data.rows import spread
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params, columns
from xplinear.penalties import L2Penalty, NoPenalty, Penalty

__all__ = ["Smooth", "evened", "smooth"]


class Smooth(NamedTuple):
    """What is to be known of a smooth objective but its data: what it is compiled for."""

    penalty: Penalty
    shift_invariant: bool
    even: bool  # the gradient sums to 0 over the classes where the weights do

    def gradient(
        self, W: Array, grads: Params, centre: Array, alpha: Array, *, xp: Namespace
    ) -> Params:
        """Return that of F in W and the intercept at the centre, from those of the data loss."""
        dW = grads.W - spread(centre, grads.b, xp=xp)
        gradient = Params(dW + alpha[:, None] * self.penalty.grad(W, xp=xp), grads.b)
        return _balanced(gradient, xp=xp) if self.even else gradient


def smooth(objective: Objective) -> Smooth:
    """Return what is to be known; even it is under a penalty that is quadratic, or none."""
    loss, penalty = objective.loss, objective.penalty
    even = loss.shift_invariant and columns(loss, objective.k) > 1
    quadratic = penalty in (L2Penalty(), NoPenalty())
    return Smooth(penalty, loss.shift_invariant, even and quadratic)


def evened(objective: Objective, params: Params) -> Params:
    """Return a start whose weights sum to 0 over the classes, where that changes no score."""
    if not smooth(objective).even:
        return params
    return objective.data.backend.compile(_evened, objective.xp)(params)


def _evened(xp: Namespace, params: Params) -> Params:
    return Params(_balanced(params, xp=xp).W, params.b)


def _balanced(params: Params, *, xp: Namespace) -> Params:
    """Return the parameters less their means over the classes."""
    W, b = params
    return Params(W - xp.mean(W, axis=2, keepdims=True), b - xp.mean(b, axis=1, keepdims=True))
