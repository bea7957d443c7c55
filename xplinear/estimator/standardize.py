"""Other coordinates of the features, folded into the weights: X stays as it is.

The scores of features (x − μ)·d are those of X with other parameters,
((x − μ)·d) W + b = x (d·W) + (b − μᵀ(d·W)): blocks of rows are centred and scaled on the way to
the solver, and what it finds is told in the units of X. The penalty acts on W, the weights of the
centred and scaled features.

There are two reasons to do so. `standard_of` gives every feature mean 0 and variance 1, which is
asked for. `nearby` is for features that the arithmetic would not bear: squares of 1e30 are no
numbers of float32, and the scores of 20000 ± 1 cancel against the intercept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xplinear.arguments import warn
from xplinear.backends import Backend
from xplinear.backends.halves import half_bounds
from xplinear.backends.sparse import ScipyRows, filled, sparse_bounds
from xplinear.data import Standard
from xplinear.data.rows import FarStandard, centred_scores, of_models
from xplinear.namespace import Array, HostArray, Namespace, accumulator, array_namespace
from xplinear.objective import Objective, Params
from xplinear.solvers.metric import Moments, feature_moments, vary

__all__ = [
    "Nearby",
    "apart",
    "column_bounds",
    "composed",
    "moments_in",
    "nearby",
    "restandardized",
    "standard_of",
    "with_full_columns",
]


_BLOCK_BYTES = 2**20  # the second look at a block finds it in the cache
_FEW_COLUMNS = 64  # below, a minimum along the rows is slow: several rows are taken as one
_EDGES = {32: 50, 64: 400}  # powers of 2 between which sums of squares, and their squares, stay
_SAFE = {32: (-124, 120), 64: (-1020, 1000)}  # powers of 2 to multiply by
_CONSTANT = 2.0**20  # from here on the rounding of a mean, and so of what is centred by it, is seen
# Distance of a mean from 0, in deviations, from which products of features as they are cancel:
# gradients are off by 3e-6 and 2e-13, some 20 and 1,000 roundings, and L-BFGS still finds the
# same weights within 1e-6 and 1e-14. Much farther it takes more steps, or never gets there.
_CANCELS = {32: 8.0, 64: 128.0}
_FAR = 16.0  # distance from 0 in ranges of the values from which scores would cancel


def column_bounds(
    X: Array, rows: HostArray | None = None, *, backend: Backend
) -> tuple[HostArray, HostArray]:
    """Return the least and the largest value of each column ``(p,)``, on the host in float64.

    Parameters
    ----------
    X : ndarray, Array or ScipyRows of shape (n, p)
        On the host, or on the backend; finite.
    rows : ndarray of int, optional
        The rows that count; None is all.
    backend : Backend

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.backends import get_backend
    >>> column_bounds(np.asarray([[1, 5], [3, -5]]), backend=get_backend("numpy"))
    (array([ 1., -5.]), array([3., 5.]))
    """
    if isinstance(X, ScipyRows):
        return apart(*sparse_bounds((X if rows is None else X.rows(rows)).matrix))
    X = backend.near(X)
    host = isinstance(X, np.ndarray)
    xp = np if host else backend.xp
    n, p = X.shape[0] if rows is None else len(rows), X.shape[1]
    size = max(1, (_BLOCK_BYTES if host else backend.block_bytes) // (8 * p))
    if rows is not None and not host:
        rows = backend.asarray(rows)

    def block(i: int) -> Array:
        at = slice(i, min(i + size, n))
        if rows is None:
            return X[at, :]
        return X[rows[at]] if host else xp.take(X, rows[at], axis=0)

    def bounds(X: Array) -> Array:
        if "bool" in str(X.dtype):
            X = xp.astype(X, xp.int8)
        if host and p < _FEW_COLUMNS and X.flags.c_contiguous and len(X) > _FEW_COLUMNS:
            whole = len(X) // _FEW_COLUMNS * _FEW_COLUMNS
            wide = X[:whole].reshape(-1, _FEW_COLUMNS * p)
            ends = [f(wide, axis=0).reshape(_FEW_COLUMNS, p) for f in (np.min, np.max)]
            X = np.concatenate([*ends, X[whole:]])
        if host and X.dtype == np.float16:
            return half_bounds(X)
        return xp.stack([xp.min(X, axis=0), xp.max(X, axis=0)])

    blocks = iter(range(0, n, size))
    both = xp.stack(list(backend.each(lambda i: bounds(block(i)), blocks)))
    both = both if host else backend.to_host(both)
    return apart(both[:, 0].min(axis=0), both[:, 1].max(axis=0))


def with_full_columns(X: Any, standard: Standard | None, bits: int, *, backend: Backend) -> Any:
    """Return rows, if sparse with an entry in all of the columns that are to be centred in a copy.

    Without a standard those are the columns that may turn out to be: of the others the products
    are exact enough, as zeros that are not stored bring their mean near 0.
    """
    if not isinstance(X, ScipyRows):
        return X
    if standard is None:
        share = 1.0 - 1.0 / _CANCELS[bits] ** 2  # of mean 1, with which they are so far from 0
        there = np.bincount(X.indices, minlength=X.shape[1])
        columns = (there >= share * X.shape[0]) & (there < X.shape[0])
    else:
        centre, scale = (backend.to_host(a) for a in standard)
        columns = np.abs(centre * scale) > _CANCELS[bits]
    return ScipyRows(filled(X.matrix, np.flatnonzero(columns))) if columns.any() else X


def apart(low: HostArray, high: HostArray) -> tuple[HostArray, HostArray]:
    """Return bounds in float64, still apart where they are."""
    rounded, above = low.astype(np.float64), high.astype(np.float64)
    # Integers may be one in float64; what varies must be seen to.
    merged = (high > low) & (above == rounded)
    return rounded, np.where(merged, np.nextafter(above, np.inf), above)


class Nearby(NamedTuple):
    """Centre ``(p,)`` and powers of 2 ``(p,)`` that bring features within reach, on the host."""

    centre: HostArray
    power: HostArray

    def standard(self, dtype: Any, *, backend: Backend) -> Standard:
        """Return both as blocks of rows are given them."""
        scale = 2.0 ** self.power.astype(float)
        return FarStandard(backend.asarray(self.centre, dtype), backend.asarray(scale, dtype))

    def warn(self, low: HostArray, high: HostArray, bits: int) -> None:
        """Say which features the penalty sees in other units than their own."""
        columns = np.flatnonzero(self.power)
        if not columns.size:
            return
        column, power = columns[0], int(self.power[columns[0]])
        what = f"column {column}" if len(columns) == 1 else f"{len(columns)} columns"
        if len(columns) == len(low):
            what = f"all {len(columns)} columns"
        largest = max(abs(low[column]), abs(high[column]))
        warn(
            f"{what} of X cannot be computed with in float{bits} as they are (column {column} "
            f"reaches {largest:.0e}) and were multiplied by a power of 2 (column {column}: "
            f"2**{power}, about {2.0**power:.0e}): the penalty acts on the weights of what came "
            "out. Scale X, or set standardize=True"
        )


def nearby(
    low: HostArray, high: HostArray, bits: int, stored: int | None = None, *, centre: bool
) -> Nearby | None:
    """Return how to bring features within reach of the arithmetic; None where all are.

    Features whose squares, or whose squares' sums, would leave the range of a float of ``bits``
    are multiplied by a power of 2, which is exact in a float of ``stored`` bits: those too large,
    and those too small, by one power each, unless they are of very different sizes. Features of
    little spread far from 0 are centred on a value among theirs, if ``centre``, so that scores do
    not cancel.

    Examples
    --------
    >>> low, high = np.asarray([-1.0, 0.0, 19999.0]), np.asarray([1.0, 3e-30, 20001.0])
    >>> nearby(low, high, 32, centre=True)
    Nearby(centre=array([    0.,     0., 20000.]), power=array([  0, 101,   0]))
    """
    edge = 2.0 ** _EDGES[bits]
    largest, spread = np.maximum(np.abs(low), np.abs(high)), 0.5 * high - 0.5 * low
    far = largest > 2.0 * _FAR * spread
    # Values that differ in the last bit are one. A constant feature has no weight where there is
    # an intercept: it matters only by its size.
    varies = spread > float(np.finfo(np.float64).eps) * largest
    beyond = (largest > _CONSTANT) | ((largest > 0.0) & (largest < 1.0 / edge))
    far = far & (varies | beyond) & centre
    middle = np.where(far, 0.5 * low + 0.5 * high, 0.0)
    middle = np.where(far & (low == high), low, middle)
    size = np.where(far, spread, largest)
    power = np.zeros(len(low), dtype=np.int64)
    for outside in (size > edge, (size > 0.0) & (size < 1.0 / edge)):
        if outside.any():
            # Half the range then lies in [2, 4): features of variance about 1 stay as they are.
            own = 2 - np.frexp(np.where(largest > 2.0 * _FAR * spread, size, spread))[1]
            common = own[outside].min()
            power = np.where(outside, np.where(own - common <= _EDGES[bits], common, own), power)
    if not (far.any() or power.any()):
        return None
    return Nearby(middle, np.clip(power, *_SAFE[stored or bits]))


def standard_of(objective: Objective, moments: Moments | None = None) -> Standard:
    """Return centre and scale that give every feature weighted mean 0 and variance 1.

    A feature that is constant gets scale 0, and so weight 0. Without an intercept
    nothing is centred, as no intercept could make up for it; a constant feature is left as it is.
    Both are ``(p,)``, or ``(p, m)`` where moments are those of m models.

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
    xp, dtype, backend = objective.xp, objective.data.dtype, objective.data.backend
    moments = feature_moments(objective) if moments is None else moments
    standard = backend.compile(_standard, objective.fit_intercept, dtype, xp)
    mean, scale, distance = standard(moments)
    far = float(backend.to_host(distance)) > _CANCELS[xp.finfo(dtype).bits]
    return (FarStandard if far else Standard)(mean, scale)


def _standard(
    fit_intercept: bool, dtype: Any, xp: Namespace, moments: Moments
) -> tuple[Array, Array, Array]:
    """Return centre and scale, and how far the features are from 0 at most, in scales."""
    own = moments.mean.shape[1] > 1
    weight, mean, deviation = (a if own else a[..., 0] for a in moments[:3])
    variance = deviation / weight
    varies = vary(mean, variance)
    scale = 1.0 / xp.sqrt(xp.where(varies, variance, 1.0))
    if fit_intercept:
        scale = xp.where(varies, scale, 0.0)
    else:
        mean = xp.zeros_like(mean)
    mean, scale = xp.astype(mean, dtype), xp.astype(scale, dtype)
    return mean, scale, xp.max(xp.abs(mean) * scale)


def moments_in(xp: Namespace, standard: Standard, moments: Moments) -> Moments:
    """Return the moments of standardized features."""
    centre, scale = (of_models(xp.astype(a, moments.mean.dtype)) for a in standard)
    mean, deviation = (moments.mean - centre) * scale, moments.deviation * scale * scale
    return moments._replace(mean=mean, deviation=deviation)


def composed(first: Standard | None, second: Standard) -> Standard:
    """Return the standard that does what one after the other does.

    The second may be ``(p, m)``, each model's own.
    """
    if first is None:
        return second
    several = len(second.centre.shape) > 1
    centre, scale = (a[:, None] if several else a for a in first)
    xp = array_namespace(centre)
    wide = xp.result_type(centre, second.centre)
    parts = centre, scale, *second
    centre, scale, then, by = (xp.astype(a, wide, copy=False) for a in parts)
    return FarStandard(centre + then / scale, scale * by)


def restandardized(
    params: Params, old: Standard | None, new: Standard | None, *, xp: Namespace
) -> Params:
    """Return the parameters that give features of one standard the scores of another; None is X.

    Computed in float64 where there is one: a mean far from 0 cancels in the intercept. Weights
    beyond the range of their dtype become the largest there is.
    """
    if old is new:
        return params
    dtype, wide = params.W.dtype, accumulator(params.b, xp=xp)
    W, b = (xp.astype(a, wide) for a in params)
    none = xp.zeros_like(W[:, :1, 0])
    (from_centre, from_scale), (to_centre, to_scale) = (
        (none, none + 1.0)
        if standard is None
        else (of_models(xp.astype(a, wide)) for a in standard)
        for standard in (old, new)
    )
    shift = to_centre - from_centre
    moved = xp.where(shift[:, :, None] != 0.0, from_scale[:, :, None] * W, 0.0)
    b = b + centred_scores(shift, moved, xp=xp)
    ratio = xp.where(to_scale > 0, from_scale / xp.where(to_scale > 0, to_scale, 1.0), 0.0)
    most = float(xp.finfo(dtype).max)
    W = xp.clip(ratio[:, :, None] * W, -most, most)
    return Params(*(xp.astype(a, dtype) for a in (W, b)))
