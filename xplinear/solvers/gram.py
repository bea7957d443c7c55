"""The Gram matrix of the features, and the coordinates in which it is close to the Hessian.

A vector ``(m, c p + c)`` holds W and the intercept at the centre of the features, one row per
model: there the Hessian of the data loss is about c·XᵀX/n in each column of W, X centred.
"""

from __future__ import annotations

from xplinear.data import Block
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params, columns

__all__ = [
    "centred_rows",
    "damping",
    "dot",
    "gram_pays",
    "params_of",
    "sampled_centre",
    "sampled_rows",
    "scaled_gram",
    "squared_scales",
    "vector",
]

_SAMPLE_ROWS = 8192
_FEW_ROWS = 1024  # they do for variances and a largest eigenvalue
_SAMPLE_ENTRIES = 2**26
_LARGEST_GRAM = 4096  # features; an eigendecomposition of more takes minutes
_DAMPING = 0.3  # of the mean eigenvalue; 0.03 to 1 need about as many steps, 0 up to twice as many
_WILD = 100.0  # mean variance over median variance from which features are scaled
_SAVED_PASSES = 100  # by the Gram matrix, in most cases
_DECOMPOSITION = 25  # p³ times this: the operations of an eigendecomposition


def gram_pays(objective: Objective) -> bool:
    """Return whether the Gram matrix costs less than the passes it saves, and p ≤ 4096."""
    n, p = objective.data.n, objective.data.p
    scores = objective.m * columns(objective.loss, objective.k)
    cost = p * (2 * min(n, _SAMPLE_ROWS) + _DECOMPOSITION * p)
    return p <= _LARGEST_GRAM and cost <= _SAVED_PASSES * 4 * n * scores


def sampled_rows(gram: bool, objective: Objective) -> Block:
    """Return the rows the Gram matrix is made of, or fewer where there will be none."""
    rows = min(_SAMPLE_ROWS if gram else _FEW_ROWS, _SAMPLE_ENTRIES // objective.data.p)
    return objective.data.sample(max(64, rows))


def sampled_centre(objective: Objective) -> Array:
    """Return the mean ``(p,)`` of a sample of the rows, 0 where the intercept is given."""
    centred = objective.data.backend.compile(centred_rows, objective.fit_intercept, objective.xp)
    return centred(sampled_rows(False, objective))[0]


def centred_rows(
    fit_intercept: bool, xp: Namespace, block: Block
) -> tuple[Array, Array, Array, Array]:
    """Return the centre ``(p,)``, √s (X − centre), the variances ``(p,)`` and their mean, not 0.

    s is the mean of the models' weights, scaled to a mean of 1.
    """
    X, s = block.rows.common(xp=xp), block.s
    if s is None:
        mean = xp.mean(X, axis=0)
    else:
        s = xp.mean(s, axis=1)
        total = xp.mean(s)
        s = s / xp.where(total > 0.0, total, 1.0)
        mean = s @ X / X.shape[0]
    mean = mean if fit_intercept else xp.zeros_like(mean)
    X = X - mean
    X = X if s is None else xp.sqrt(s)[:, None] * X
    variance = xp.mean(X * X, axis=0)
    typical = xp.mean(variance)
    return mean, X, variance, xp.where(typical > 0.0, typical, 1.0)


def squared_scales(
    xp: Namespace, variance: Array, typical: Array, alpha: Array, curvature: float
) -> Array:
    """Return squared scales d ``(p,)`` that bring the features to units of their own.

    d is 1, unless features are of very different units: there d is 1 / variance, but no larger
    than the penalty allows, which holds the weights of features of less variance.
    """
    wild = typical > _WILD * xp.sort(variance)[(variance.shape[0] - 1) // 2]
    tiny = float(xp.finfo(variance.dtype).smallest_normal) ** 0.5
    least = xp.min(alpha) / curvature
    return xp.where(wild, 1.0 / xp.maximum(variance, xp.maximum(least, tiny * typical)), 1.0)


def scaled_gram(X: Array, square: Array, *, xp: Namespace) -> Array:
    """Return the Gram matrix ``(p, p)`` of the features x √d, ``square`` being d."""
    X = X * xp.sqrt(square)
    return X.T @ X / X.shape[0]


def damping(spectrum: Array, *, xp: Namespace) -> Array:
    """Return what to add to the eigenvalues, given these or the diagonal."""
    mean = _DAMPING * xp.mean(spectrum)
    return xp.where(mean > 0.0, mean, 1.0)  # all features constant


def vector(params: Params, *, xp: Namespace) -> Array:
    """Return W and b as one vector per model ``(m, c p + c)``, W in its order in memory."""
    W, b = params
    p, m, c = W.shape
    return xp.concat([xp.reshape(xp.permute_dims(W, (1, 2, 0)), (m, c * p)), b], axis=1)


def params_of(vector: Array, c: int, *, xp: Namespace) -> Params:
    """Return the W and b that `vector` makes one vector of."""
    m, d = vector.shape
    W = xp.reshape(vector[:, : d - c], (m, c, d // c - 1))
    return Params(xp.permute_dims(W, (2, 0, 1)), vector[:, d - c :])


def dot(a: Array, b: Array, *, xp: Namespace) -> Array:
    """Return the inner products ``(m,)``."""
    return xp.sum(a * b, axis=1)
