"""Step sizes in units of each feature: why data of any scale needs no tuning.

Gradient steps are made in centred and scaled features, (x_j − μ_j) √d_j with d_j = 1 / var_j,
without touching X: the intercept absorbs μ (an unpenalized intercept makes this a mere change
of coordinates, b' = b + μᵀW), and feature j moves with its own step d_j · η. The penalty's prox
takes the same step, so the minimizer is that of the original objective.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xplinear.data import Block
from xplinear.data.protocol import compiled, row_width
from xplinear.data.rows import centred_scores
from xplinear.losses import Loss
from xplinear.namespace import Array, Namespace, accumulator
from xplinear.objective import Objective, Params, columns, loss_and_grads
from xplinear.penalties import Penalty

__all__ = [
    "Metric",
    "Moments",
    "feature_metric",
    "feature_moments",
    "loss_curvature",
    "mean_loss",
    "penalty_curvature",
    "plain_metric",
    "safe_divisor",
    "small_sample",
    "uncentred",
    "vary",
]

_ROWS = 2048  # of a sample that tells the scale of things, or as many as hold these numbers
_ENTRIES = 2**22
_POWER_ITERATIONS = 10
_LAST_BIT = 2.0**-52  # of a number of float64, relative


class Moments(NamedTuple):
    """Weight ``(m,)``, mean ``(p, m)`` and sum of squared deviations ``(p, m)`` of the features.

    ``evenness (m,)`` of the last rows is (Σs)² / (n Σs²): as many in one equally weighted rows are
    as many rows as theirs in a mean.
    """

    weight: Array
    mean: Array
    deviation: Array
    evenness: Array


class Metric(NamedTuple):
    """Centre μ and scale d ``(p, m)``; eigenvalue and squared row norms ``(m,)``.

    Of the rows x in centred and scaled features, 1 added for the intercept: ``eigenvalue`` is
    the largest of E[x xᵀ]; ``row`` is E‖x‖⁴ / E‖x‖², a mean in which long rows count more;
    ``worst_row`` is the largest E[‖x‖² x_j²] / E[x_j²] of any feature j, which rare features
    raise. m is 1 where all models have it in common.
    """

    centre: Array
    scale: Array
    eigenvalue: Array
    row: Array
    worst_row: Array

    def take(self, models: Array, *, xp: Namespace) -> Metric:
        """Return the metric of a stack of these models only."""
        return Metric(*(a if a.shape[-1] == 1 else xp.take(a, models, axis=-1) for a in self))


def uncentred(fit_intercept: bool, centre: Array, params: Params, *, xp: Namespace) -> Params:
    """Return parameters for X itself, of those whose intercept is at the ``centre (p, m or 1)``."""
    W, b = params
    return Params(W, b - centred_scores(centre, W, xp=xp)) if fit_intercept else params


def safe_divisor(x: Array, *, xp: Namespace) -> Array:
    """Return x where it is positive, else 1."""
    return xp.where(x > 0.0, x, 1.0)


def _block_moments(xp: Namespace, block: Block, shift: Array, unit: Array) -> tuple[Array, ...]:
    s = block.weights(xp=xp)
    wide = accumulator(s, xp=xp)
    return (
        xp.sum(s, axis=0, dtype=wide),
        xp.sum(s * s, axis=0, dtype=wide),
        *(xp.astype(a, wide) for a in block.rows.moments(block.s, shift, unit, xp=xp)),
    )


def _shift_and_unit(xp: Namespace, sample: Block) -> tuple[Array, Array]:
    """Return a nearby point and units near the size of deviations from it, powers of two.

    Squares of the raw features would cancel, or leave the range of float32.
    """
    shift, rows = sample.rows.near(sample.s, xp=xp)
    size = rows.reach(xp=xp)
    least = 8.0 * float(xp.finfo(size.dtype).smallest_normal)
    usual = (size > least) & (size < 0.125 * float(xp.finfo(size.dtype).max))
    return shift, xp.where(usual, 2.0 ** -xp.floor(xp.log2(xp.where(usual, size, 1.0))), 1.0)


def feature_moments(
    objective: Objective, previous: Moments | None = None, unit: float = 1.0
) -> Moments:
    """Return the weighted moments of the features, those of ``previous`` rows included.

    Their weights count ``unit`` times as much as they did. What is known is not measured again.

    References
    ----------
    Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983.
    """
    data, xp = objective.data, objective.xp
    if previous is None and objective.measured and objective.measured[0] is data:
        return objective.measured[1]
    shift, size = compiled(data, _shift_and_unit, xp)(small_sample(objective))
    sums = data.reduce(_block_moments, (xp,), shift, size, scores=row_width(data))
    return data.backend.compile(_moments_of, data.dtype, xp)(
        sums, shift, size, data.n, previous, unit
    )


def _moments_of(
    dtype: Any,
    xp: Namespace,
    sums: tuple[Array, ...],
    shift: Array,
    size: Array,
    n: int,
    previous: Moments | None,
    unit: float,
) -> Moments:
    """Return the moments, by the sums over all rows of what is near ``shift``, in units."""
    weight, squares, first, second = sums
    evenness = xp.astype(weight * weight / (n * squares), dtype)
    mean = first / weight
    scale = xp.astype(1.0 / size, mean.dtype)[:, None]
    deviation = (second - first * mean) * scale * scale
    mean = mean * scale + xp.astype(shift, mean.dtype)[:, None]
    if previous is None:
        return Moments(weight, mean, deviation, evenness)
    past, gap = unit * previous.weight, mean - previous.mean
    total = past + weight
    mean = previous.mean + gap * (weight / total)
    deviation = unit * previous.deviation + deviation + gap * gap * (past * weight / total)
    return Moments(total, mean, deviation, evenness)


def feature_metric(
    objective: Objective, moments: Moments | None = None, ridge: Array | None = None
) -> Metric:
    """Return the metric in which every feature has unit variance (unit square, if not centred).

    ``ridge (m,)`` is added to the variances: the curvature of the penalty in units of the
    loss's, so that features of little variance, which the penalty holds, do not move wildly.
    A feature that is constant gets scale 0: it has no direction of its own.
    """
    moments = feature_moments(objective) if moments is None else moments
    static = objective.fit_intercept, objective.data.dtype, objective.xp
    centre, scale = objective.data.backend.compile(_centre_and_scale, *static)(moments, ridge)
    return Metric(centre, scale, *_spectrum(objective, centre, scale))


def _centre_and_scale(
    fit_intercept: bool, dtype: Any, xp: Namespace, moments: Moments, ridge: Array | None
) -> tuple[Array, Array]:
    mean, variance = moments.mean, moments.deviation / moments.weight
    if fit_intercept:
        varies = vary(mean, variance)
    else:
        variance = variance + mean * mean
        varies = variance > 0
        mean = xp.zeros_like(mean)
    square = variance if ridge is None else variance + xp.astype(ridge, variance.dtype)
    scale = xp.where(varies, 1.0 / xp.where(varies, square, 1.0), 0.0)
    return xp.astype(mean, dtype), xp.astype(scale, dtype)


def vary(mean: Array, variance: Array) -> Array:
    """Return which features are not constant.

    Moments about a nearby point are exact: what float32 can tell apart varies. In float64, values
    that differ in the last bit do not.
    """
    return variance > (_LAST_BIT * mean) ** 2


def plain_metric(objective: Objective) -> Metric:
    """Return the metric of the raw features: no centre, scale 1."""
    like = objective.zeros().W[:, :1, 0]
    xp = objective.xp
    centre, scale = xp.zeros_like(like), xp.ones_like(like)
    return Metric(centre, scale, *_spectrum(objective, centre, scale))


def small_sample(objective: Objective) -> Block:
    """Return rows that tell the scale of things."""
    return objective.data.sample(max(64, min(_ROWS, _ENTRIES // row_width(objective.data))))


def mean_loss(loss: Loss, xp: Namespace, block: Block, params: Params) -> Array:
    """Return the mean loss ``(m,)`` of some rows."""
    value, _ = loss_and_grads(loss, *block, params, xp=xp)
    total = xp.sum(block.weights(xp=xp), axis=0)
    return xp.sum(value, axis=0) / safe_divisor(total, xp=xp)


def _spectrum(objective: Objective, centre: Array, scale: Array) -> tuple[Array, ...]:
    """Return what `Metric` says of the rows, from a sample of them."""
    block, data = small_sample(objective), objective.data
    start = np.random.Generator(np.random.PCG64(0)).standard_normal((data.p, 1))
    norms = compiled(data, _norms, objective.xp)
    return norms(block, centre, scale, data.backend.asarray(start, data.dtype))


def _norms(xp: Namespace, block: Block, centre: Array, scale: Array, start: Array) -> Any:
    s = block.weights(xp=xp)
    total = safe_divisor(xp.sum(s, axis=0), xp=xp)  # a sample may hold only rows of weight 0
    shift, near = block.rows.near(block.s, xp=xp)
    squared = near.squared(xp=xp)
    gap, root = centre - shift[:, None], xp.sqrt(scale)

    v, norm = start * xp.ones_like(scale), xp.ones_like(total)
    for _ in range(_POWER_ITERATIONS):
        v = v / xp.where(norm > 0, norm, 1.0)
        direction = root * v
        u = s * (near.product(direction) - xp.sum(gap * direction, axis=0))
        v = root * (near.transposed_product(u) - gap * xp.sum(u, axis=0)) / total
        norm = xp.sqrt(xp.sum(v * v, axis=0))

    def squares(weights: Array) -> Array:
        """Return Σ_i weights_i (x_ij − μ_j)² ``(p, m)``."""
        total = xp.sum(weights, axis=0)
        square, product = (a.transposed_product(weights) for a in (squared, near))
        return square - 2.0 * gap * product + gap * gap * total

    rows = squared.product(scale) - 2.0 * near.product(scale * gap)
    rows = 1.0 + rows + xp.sum(scale * gap * gap, axis=0)
    row = xp.sum(s * rows * rows, axis=0) / xp.maximum(xp.sum(s * rows, axis=0), 1e-30 * total)
    plain, weighted = squares(s), squares(s * rows)
    worst = xp.max(weighted / xp.where(plain > 0, plain, xp.inf), axis=0)
    return tuple(xp.where(a > 1.0, a, 1.0) for a in (norm, row, xp.maximum(row, worst)))


def penalty_curvature(objective: Objective, times: float = 1.0) -> Array:
    """Return α Ω″ ``(m,)`` away from the kink, so many times: α for L2, 0 for L1."""
    curvature = objective.data.backend.compile(_curvature, objective.penalty, objective.xp)
    return curvature(objective.alpha, times)


def _curvature(penalty: Penalty, xp: Namespace, alpha: Array, times: float) -> Array:
    ones = xp.ones_like(alpha)[None, :, None]
    first, second = (penalty.grad(t * ones, xp=xp) for t in (1.0, 2.0))
    return alpha * (second - first)[0, :, 0] * times


def loss_curvature(loss: Loss, k: int) -> float:
    """Return the curvature in the scores of the columns.

    Where the loss is kinked: half its steepest slope, as if the kink were rounded over two units.
    """
    bound, slope = loss.curvature(k), loss.lipschitz(k)
    curvature = bound if bound is not None else 1.0 if slope is None else 0.5 * slope
    return 0.5 * curvature if columns(loss, k) == 1 else curvature
