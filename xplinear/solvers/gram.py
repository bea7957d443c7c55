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
    "sampled_rows",
    "scaled_gram",
    "vector",
]

_SAMPLE_ROWS = 8192
_FEW_ROWS = 1024  # they do for variances and a largest eigenvalue
_SAMPLE_ENTRIES = 2**26
_LARGEST_GRAM = 4096  # features; an eigendecomposition of more takes minutes
_DAMPING = 0.3  # of the mean eigenvalue; 0.03 to 1 need about as many steps, 0 up to twice as many
_WILD = 100.0  # mean variance over median variance from which features are scaled
_LEAST_VARIANCE = 1e-4  # share of the mean below which a penalized feature is not scaled up


def gram_pays(objective: Objective) -> bool:
    """Return whether p² ≤ 2 n m c and p ≤ 4096: whether work on p² costs less than it saves."""
    n, p = objective.data.n, objective.data.p
    scores = objective.m * columns(objective.loss, objective.k)
    return p <= _LARGEST_GRAM and p * p <= 2 * n * scores


def sampled_rows(gram: bool, objective: Objective) -> Block:
    """Return the rows the Gram matrix is made of, or fewer where there will be none."""
    rows = min(_SAMPLE_ROWS if gram else _FEW_ROWS, _SAMPLE_ENTRIES // objective.data.p)
    return objective.data.sample(max(64, rows))


def centred_rows(
    fit_intercept: bool, xp: Namespace, block: Block
) -> tuple[Array, Array, Array, Array]:
    """Return the centre ``(p,)``, √s (X − centre), the variances ``(p,)`` and their mean, not 0.

    s is the mean of the models' weights, scaled to a mean of 1.
    """
    X, _, s = block
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


def scaled_gram(
    xp: Namespace, X: Array, variance: Array, typical: Array, alpha: Array
) -> tuple[Array, Array]:
    """Return squared scales d ``(p,)`` and the Gram matrix ``(p, p)`` of the features x √d.

    d is 1, unless features are of very different units: in theirs, the damping would drown the
    small ones.
    """
    wild = typical > _WILD * xp.sort(variance)[variance.shape[0] // 2]
    tiny = float(xp.finfo(X.dtype).eps) ** 2
    least = xp.where(xp.max(alpha) > 0.0, _LEAST_VARIANCE * typical, tiny * typical)
    square = xp.where(wild, 1.0 / xp.maximum(variance, least), 1.0)
    X = X * xp.sqrt(square)
    return square, X.T @ X / X.shape[0]


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
