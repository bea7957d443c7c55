"""Strengths of the penalty to try, where none are given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xplinear.arguments import integer
from xplinear.data import ArrayData, Block
from xplinear.data.protocol import compiled
from xplinear.minimize import minimize
from xplinear.model_selection.scoring import class_counts
from xplinear.namespace import Array, HostArray, Namespace, device
from xplinear.objective import OBJECTIVE, Objective, Params
from xplinear.penalties import L1Penalty, NoPenalty
from xplinear.solvers import GD
from xplinear.solvers.metric import loss_curvature

__all__ = ["automatic_alphas"]

_L1_DECADES, _L2_DECADES = 4, 7
_SMALL_DECADES = 3  # below what acts on the smallest feature that tells classes apart
_TELLING = 10.0  # F of the analysis of variance: chance gives 1
_SAMPLE_ROWS = 8192


def automatic_alphas(objective: Objective, count: int = 20) -> HostArray:
    """Return strengths from strong to weak, evenly spaced in the logarithm.

    L1 and elastic net start at the weakest α that makes every weight zero, the largest entry of
    the gradient at W = 0 and the best intercept (over ``l1_ratio``), and span 4 decades. Other
    penalties start at the loss's curvature times the total variance of the features, which no
    curvature of the mean loss exceeds, and span 7. Both reach further where features have very
    different scales, so that the largest does not hide the others: to 3 decades below what
    shrinks the smallest of those whose means differ from class to class.

    Parameters
    ----------
    objective : Objective
        Of one model; its α does not matter.
    count : int, default 20

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear import Objective, losses, penalties
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> F = Objective(losses.SoftmaxLoss(), penalties.L1Penalty(), np.ones(1), data, k=3)
    >>> automatic_alphas(F, 3).round(6).tolist()
    [0.222222, 0.002222, 2.2e-05]
    """
    OBJECTIVE("objective", objective)
    count = integer(1)("count", count)
    deviation, telling = _features(objective)
    strongest = _strongest_alphas(objective)
    if strongest is None:
        unit = loss_curvature(objective.loss, objective.k) * deviation**2
        top, decades = unit.sum(), _L2_DECADES
    else:
        slope = strongest / np.where(deviation > 0, deviation, np.inf)
        unit, (top, decades) = slope.max() * deviation, (strongest.max(), _L1_DECADES)
    if not (top > 0.0 and telling.any()):
        msg = "alphas cannot be chosen: every feature is constant; give alphas as numbers"
        raise ValueError(msg)
    weakest = min(top * 10.0**-decades, unit[telling].min() * 10.0**-_SMALL_DECADES)
    return top * np.logspace(0.0, np.log10(weakest / top), count)


def _strongest_alphas(objective: Objective) -> HostArray | None:
    """Return the weakest α ``(p,)`` at which each feature alone has no weight; None if none does.

    A penalty that does not say is taken for L1.
    """
    penalty, xp = objective.penalty, objective.xp
    if penalty.smooth:
        return None
    start = Params(objective.zeros().W, _best_intercept(objective))
    _, grads = objective.data_loss_and_grad(start)
    alone = xp.permute_dims(grads.W, (1, 0, 2))  # each feature as a model of its own
    alpha = getattr(penalty, "strongest_alpha", L1Penalty().strongest_alpha)(alone, xp=xp)
    return None if alpha is None else objective.data.backend.to_host(alpha).astype(np.float64)


def _features(objective: Objective) -> tuple[HostArray, HostArray]:
    """Return each feature's standard deviation ``(p,)``, and which ones tell classes apart.

    Those have, by the analysis of variance, class means that differ by more than chance; where
    none do, it is the one of median deviation.
    """
    data, fetch = objective.data, objective.data.backend.to_host
    block = data.sample(_SAMPLE_ROWS)
    measure = compiled(data, _dispersion, objective.k, objective.xp)
    moments, evenness = measure(block)
    size, variance, between = fetch(moments).astype(np.float64)
    rows = 1.0 / max(float(fetch(evenness)), 1.0 / block.rows.shape[0])
    deviation = size * np.sqrt(variance)
    within = np.maximum(variance - between, np.finfo(np.float64).eps)
    F = between / within * max(rows - objective.k, 0.0) / (objective.k - 1)
    telling = (F > _TELLING) & (deviation > 0.0)
    if not telling.any() and (deviation > 0.0).any():
        telling = deviation == np.quantile(deviation[deviation > 0.0], 0.5, method="lower")
    return deviation, telling


def _dispersion(k: int, xp: Namespace, block: Block) -> tuple[Array, Array]:
    """Return size, variance and that of the class means ``(3, p)`` of deviations, and Σs².

    Variances are of deviations over their size.
    """
    y, s = block.y, block.weights(xp=xp)
    point, rows = block.rows.near(block.s, xp=xp)
    total = xp.sum(s)
    s = s / xp.where(total > 0, total, 1.0)
    size = rows.reach(xp=xp)
    varies = size > 16.0 * float(xp.finfo(s.dtype).eps) * (xp.abs(point) + size)
    unit = xp.where(varies, 1.0 / xp.where(varies, size, 1.0), 0.0)  # squares stay in range
    classes = xp.arange(k, dtype=y.dtype, device=device(y))
    weight = s * xp.astype(xp.reshape(y, (-1, 1)) == classes, s.dtype)  # (r, k)
    mass, sums = xp.sum(weight, axis=0), rows.transposed_product(weight) * unit[:, None]
    moments = rows.moments(s, xp.zeros_like(unit), unit, xp=xp)
    mean, second = (xp.astype(a[:, 0], s.dtype) for a in moments)
    sums = sums - mass * mean[:, None]
    between = xp.sum(sums * sums / xp.where(mass > 0, mass, 1.0), axis=1)
    return xp.stack([size, second - mean * mean, between]), xp.sum(s * s)


def _best_intercept(objective: Objective) -> Array:
    """Return b ``(1, c)`` that minimizes the loss at W = 0: all rows of a class are one row."""
    data, xp, k = objective.data, objective.xp, objective.k
    nothing = objective.zeros()
    if not objective.fit_intercept:
        return nothing.b
    true, _, _ = class_counts(objective, nothing)
    rows = ArrayData(
        xp.zeros((k, 1), **data.backend.kind(data.dtype)),
        xp.arange(k, **data.backend.kind(data.y.dtype)),
        xp.astype(true, data.dtype).T,
        data.dtype,
        backend=data.backend,
        classes=k,
    )
    few = replace(objective, data=rows, penalty=NoPenalty())
    return minimize(few, GD(tol=1e-6)).params.b
