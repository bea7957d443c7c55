"""Standardized features, folded into the weights: X stays as it is.

The scores of standardized features are those of X with other parameters,
((x − μ)·d) W + b = x (d·W) + (b − μᵀ(d·W)): blocks of rows are standardized on the way to the
solver, and what it finds is told in the units of X. The penalty acts on W, the weights of the
standardized features.
"""

from __future__ import annotations

from xplinear.data import Standard
from xplinear.namespace import Array, Namespace, accumulator
from xplinear.objective import Objective, Params
from xplinear.solvers.metric import centred_scores, feature_moments

__all__ = ["standard_of", "standardized_params", "unstandardized"]


def standard_of(objective: Objective) -> Standard:
    """Return centre and scale that give every feature weighted mean 0 and variance 1.

    A feature that is constant up to rounding gets scale 0, and so weight 0. Without an intercept
    nothing is centred, as no intercept could make up for it; a constant feature is left as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> from xplinear.losses import SoftmaxLoss
    >>> from xplinear.penalties import L2Penalty
    >>> X, y = np.asarray([[1.0, 7.0], [5.0, 7.0]]), np.asarray([0, 1])
    >>> data = ArrayData(X, y, backend=get_backend("numpy"))
    >>> standard_of(Objective(SoftmaxLoss(), L2Penalty(), np.asarray([0.1]), data, k=2))
    Standard(centre=array([3., 7.]), scale=array([0.5, 0. ]))
    """
    xp, dtype = objective.xp, objective.data.dtype
    weight, mean, deviation = (a[..., 0] for a in feature_moments(objective))
    variance = deviation / weight
    varies = variance > (4.0 * float(xp.finfo(dtype).eps) * mean) ** 2
    scale = 1.0 / xp.sqrt(xp.where(varies, variance, 1.0))
    if objective.fit_intercept:
        scale = xp.where(varies, scale, 0.0)
    else:
        mean = xp.zeros_like(mean)
    return Standard(xp.astype(mean, dtype), xp.astype(scale, dtype))


def unstandardized(params: Params, standard: Standard, *, xp: Namespace) -> Params:
    """Return the parameters that give X the scores that ``params`` give standardized features."""
    centre, scale, W, b = _wide(standard, params, xp=xp)
    W = scale[:, None, None] * W
    b = b - centred_scores(centre[:, None], W, xp=xp)
    return Params(*(xp.astype(a, params.W.dtype) for a in (W, b)))


def standardized_params(params: Params, standard: Standard, *, xp: Namespace) -> Params:
    """Return the inverse of `unstandardized`; what constant features added goes to b."""
    centre, scale, W, b = _wide(standard, params, xp=xp)
    b = b + centred_scores(centre[:, None], W, xp=xp)
    W = xp.where(scale > 0, 1.0 / xp.where(scale > 0, scale, 1.0), 0.0)[:, None, None] * W
    return Params(*(xp.astype(a, params.W.dtype) for a in (W, b)))


def _wide(standard: Standard, params: Params, *, xp: Namespace) -> list[Array]:
    """Return all in float64 where there is one: a mean far from 0 cancels in the intercept."""
    wide = accumulator(params.b, xp=xp)
    return [xp.astype(a, wide) for a in (*standard, *params)]
