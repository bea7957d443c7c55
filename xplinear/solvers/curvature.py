"""Bounds of the data loss's curvature: what its Hessian is like before any step was made."""

from __future__ import annotations

from typing import NamedTuple

from xplinear.data import Block
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, columns
from xplinear.solvers.gram import centred_rows, damping, sampled_rows, scaled_gram, squared_scales
from xplinear.solvers.metric import Moments, feature_moments, loss_curvature

__all__ = ["Bounds", "bounds"]


class Bounds(NamedTuple):
    """Bounds of the data loss's curvature, and what is made of them before any step.

    ``centre (p, 1)`` of the features; ``bound (1, c, p + 1)`` of each weight; ``gram`` and
    ``inverse (p, p)``, damped, or ``(p, 0)`` where they cost more than they save, and
    ``diagonal (1, c, p + 1)``, damped.
    """

    centre: Array
    bound: Array
    gram: Array
    inverse: Array
    diagonal: Array


def bounds(objective: Objective, *, gram: bool) -> Bounds:
    """Return the bounds, from a sample of the rows with a Gram matrix, from all without."""
    xp, compile_ = objective.xp, objective.data.backend.compile
    curvature, c = loss_curvature(objective.loss, objective.k), columns(objective.loss, objective.k)
    static = curvature, c, objective.fit_intercept, xp
    if gram:
        return compile_(_gram, *static)(sampled_rows(True, objective), objective.alpha)
    like = objective.zeros().W[:, 0, 0]
    return compile_(_variances, *static)(feature_moments(objective), like)


def _everywhere(features: Array, intercept: float, c: int, *, xp: Namespace) -> Array:
    row = xp.concat([features, xp.full_like(features[:1], intercept)])
    return xp.stack([row] * c, axis=0)[None, :, :]


def _gram(
    curvature: float, c: int, fit_intercept: bool, xp: Namespace, block: Block, alpha: Array
) -> Bounds:
    mean, X, variance, typical = centred_rows(fit_intercept, xp, block)
    square = squared_scales(xp, variance, typical, alpha, curvature)
    matrix = scaled_gram(X, square, xp=xp)
    count = xp.cumulative_sum(xp.ones_like(variance))
    damped = damping(xp.linalg.diagonal(matrix), xp=xp)
    matrix = matrix + xp.where(count[:, None] == count, damped, 0.0)
    units = xp.sqrt(square[:, None] * square)
    gram, inverse = curvature * matrix / units, xp.linalg.inv(matrix) * units / curvature
    diagonal = _everywhere(xp.linalg.diagonal(gram), curvature, c, xp=xp)
    return Bounds(mean[:, None], diagonal, gram, inverse, diagonal)


def _variances(
    curvature: float, c: int, fit_intercept: bool, xp: Namespace, moments: Moments, like: Array
) -> Bounds:
    mean, variance = moments.mean, moments.deviation / moments.weight
    if not fit_intercept:
        mean, variance = xp.zeros_like(mean), variance + mean * mean
    variance = xp.astype(xp.max(variance, axis=1), like.dtype)
    bound, damped = (
        _everywhere(curvature * a, curvature, c, xp=xp)
        for a in (xp.where(variance > 0.0, variance, 1.0), variance + damping(variance, xp=xp))
    )
    none = like[:, None][:, :0]
    centre = xp.astype(xp.mean(mean, axis=1, keepdims=True), like.dtype)
    return Bounds(centre, bound, none, none, damped)
