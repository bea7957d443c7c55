"""The products of some rows: all that is ever multiplied with a block's X is here.

Standardized features (x − μ)·d are not made, but are part of the products:

    scores    (X − 1μᵀ)D·W = X(DW) − 1(μᵀDW)
    gradient  D(XᵀG − μ(1ᵀG))

They cost what those of X cost, and μ and d may be those of all models or each model's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from xplinear.backends.sparse import SparseMatrix
from xplinear.namespace import Array, Namespace, accumulator, device

__all__ = [
    "DenseRows",
    "FarStandard",
    "Rows",
    "SparseRows",
    "Standard",
    "centred_scores",
    "of_models",
    "spread",
]

_FEW_DENSE = 2**20  # numbers of sparse rows that are written out at a time ...
_MOST_DENSE = 2**27  # ... and at most


class Rows(Protocol):
    """X of a block ``(r, p)``, in the computation's dtype, as products with it."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def product(self, V: Array) -> Array:
        """Return XV ``(r, d)`` of ``V (p, d)``: of X as it is, whatever the standard."""
        ...

    def transposed_product(self, U: Array) -> Array:
        """Return XᵀU ``(p, d)`` of ``U (r, d)``, likewise."""
        ...

    def scores(self, W: Array, b: Array, *, xp: Namespace) -> Array:
        """Return XW + b ``(r, m, c)`` of ``W (p, m, c)`` and ``b (m, c)``."""
        ...

    def gradient(self, G: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Return XᵀG ``(p, m, c)`` and 1ᵀG ``(m, c)`` of ``G (r, m, c)``."""
        ...

    def squares(self, h: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Return Σ h x and Σ h x² ``(p, m, c)`` of ``h (r, m, c)``."""
        ...

    def moments(
        self, s: Array | None, shift: Array, unit: Array, *, xp: Namespace
    ) -> tuple[Array, Array]:
        """Return Σ s z and Σ s z² ``(p, 1 or m)`` of z = (x − shift)·unit, both ``(p,)``.

        What stands in rows of weight 0 does not matter.
        """
        ...

    def lengths(self, *, xp: Namespace) -> Array:
        """Return the norms ‖x‖ ``(r, 1 or m)``."""
        ...

    def ones(self, *, xp: Namespace) -> Array:
        """Return weights ``(r, 1)`` of 1."""
        ...

    def take(self, index: Array, *, xp: Namespace) -> Rows:
        """Return some of the rows."""
        ...

    def astype(self, dtype: Any, *, xp: Namespace) -> Rows:
        """Return the rows for a computation in another dtype."""
        ...

    def dense(self) -> Array:
        """Return X ``(r, p)``: a copy, where X is not held as it is."""
        ...

    def common(self, *, xp: Namespace) -> Array:
        """Return X ``(r, p)`` as `dense`; by the mean of their standards, where models differ."""
        ...

    def columns(self, index: Array, *, xp: Namespace) -> Array:
        """Return some features ``(r, q)`` of `dense`, of which there may be too many to write out.

        ``index (q,)``.
        """
        ...

    def near(self, s: Array | None, *, xp: Namespace) -> tuple[Array, Rows]:
        """Return a point ``(p,)``, and the rows of `common` as seen from there: x − point.

        Of features that are far from 0 it is the mean by the weights ``s (r, 1 or m)``, of equal
        values their own, to the last bit. What stands in rows of weight 0 does not matter; they
        are rows of 0.
        """
        ...

    def reach(self, *, xp: Namespace) -> Array:
        """Return how far from 0 each feature goes ``(p,)``: no less, and at most r times that."""
        ...

    def squared(self, *, xp: Namespace) -> Rows:
        """Return the squares of the features, which must not be standardized."""
        ...

    def gram(self, s: Array | None, *, xp: Namespace) -> Array:
        """Return Σ s x xᵀ ``(p, p)``, s ``(r, 1)``, of features that are not standardized."""
        ...


class Standard(NamedTuple):
    """Centre μ and scale d of the features, $(X − μ)·d$ instead of X; ``(p,)``, or ``(p, m)``.

    Where their dtype is not that of the computation, blocks are copied: X is centred and scaled
    in theirs.
    """

    centre: Array
    scale: Array


class FarStandard(Standard):
    """One of features so far from 0 that products of X would cancel: blocks are centred."""

    __slots__ = ()


def centred_scores(centre: Array, W: Array, *, xp: Namespace) -> Array:
    """Return μᵀW ``(m, c)``: the scores of the centre ``(p, m or 1)`` without intercept."""
    return xp.vecdot(xp.permute_dims(W, (1, 2, 0)), centre.T[:, None, :])


def spread(centre: Array, db: Array, *, xp: Namespace) -> Array:
    """Return μ dbᵀ ``(p, m, c)``: the transpose of `centred_scores`."""
    return xp.permute_dims(centre.T[:, None, :] * db[:, :, None], (2, 0, 1))


def _of_features(
    standard: Standard | None, W: Array, b: Array, *, xp: Namespace
) -> tuple[Array, Array]:
    """Return the parameters that give the features as they are the same scores."""
    if standard is None:
        return W, b
    centre, scale = map(of_models, standard)
    W = scale[:, :, None] * W
    return W, b - centred_scores(centre, W, xp=xp)


def _of_standardized(standard: Standard | None, dW: Array, db: Array, *, xp: Namespace) -> Array:
    """Return the gradient in the weights of the standardized features, from that of features."""
    if standard is None:
        return dW
    centre, scale = map(of_models, standard)
    return scale[:, :, None] * (dW - spread(centre, db, xp=xp))


def _mean(standard: Standard | None, *, xp: Namespace) -> Standard | None:
    """Return the mean ``(p,)`` of the standards of all models."""
    if standard is None:
        return None
    return Standard(*(xp.mean(of_models(a), axis=1) for a in standard))


def _seen(standard: Standard, shift: Array, unit: Array, *, xp: Namespace) -> Standard:
    """Return the standard ``(p, 1 or m)`` of z = (x − shift)·unit, of x the standardized."""
    centre, scale = map(of_models, standard)
    shift = centre + shift[:, None] / xp.where(scale != 0.0, scale, 1.0)
    return Standard(shift, scale * unit[:, None])


class DenseRows(NamedTuple):
    """Rows as a matrix ``(r, p)``, standardized in the products if a standard is given.

    Examples
    --------
    >>> import numpy as np
    >>> rows = DenseRows(np.asarray([[1.0], [3.0]]), Standard(np.asarray([2.0]), np.asarray([0.5])))
    >>> rows.scores(np.ones((1, 1, 1)), np.zeros((1, 1)), xp=np).ravel()
    array([-0.5,  0.5])
    """

    X: Array
    standard: Standard | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.X.shape

    def product(self, V: Array) -> Array:
        """Return XV ``(r, d)``."""
        return self.X @ V

    def transposed_product(self, U: Array) -> Array:
        """Return XᵀU ``(p, d)``; in this order each column is contiguous."""
        return (U.T @ self.X).T

    def scores(self, W: Array, b: Array, *, xp: Namespace) -> Array:
        """Return XW + b ``(r, m, c)``."""
        return _scores(self, self.standard, W, b, xp=xp)

    def gradient(
        self, G: Array, *, xp: Namespace, total: Array | None = None
    ) -> tuple[Array, Array]:
        """Return XᵀG ``(p, m, c)`` and 1ᵀG ``(m, c)``, which may be given."""
        return _gradient(self, self.standard, G, total, xp=xp)

    def squares(self, h: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Return Σ h x and Σ h x² ``(p, m, c)``."""
        return _squares(DenseRows(self.X), self.standard, h, xp=xp)

    def moments(
        self, s: Array | None, shift: Array, unit: Array, *, xp: Namespace
    ) -> tuple[Array, Array]:
        """Return Σ s z and Σ s z² of z = (x − shift)·unit."""
        if self.standard is None:
            return _moments(self.X, s, shift, unit, xp=xp)
        seen = _seen(self.standard, shift, unit, xp=xp)
        return _of_each(lambda *own: _moments(self.X, *own, xp=xp), s, seen, xp=xp)

    def lengths(self, *, xp: Namespace) -> Array:
        """Return the norms ‖x‖ ``(r, 1 or m)``."""
        X = self.X
        if self.standard is None:
            return xp.sqrt(xp.sum(X * X, axis=1))[:, None]
        centre, scale = map(of_models, self.standard)
        return _lengths(
            (X * X) @ (scale * scale), X @ (centre * scale * scale), self.standard, xp=xp
        )

    def ones(self, *, xp: Namespace) -> Array:
        """Return weights ``(r, 1)`` of 1."""
        return xp.ones_like(self.X[:, :1])

    def take(self, index: Array, *, xp: Namespace) -> DenseRows:
        """Return some of the rows."""
        return DenseRows(xp.take(self.X, index, axis=0), self.standard)

    def astype(self, dtype: Any, *, xp: Namespace) -> DenseRows:
        """Return the rows for a computation in another dtype."""
        X, *standard = (xp.astype(a, dtype, copy=False) for a in (self.X, *(self.standard or ())))
        return DenseRows(X, Standard(*standard) if standard else None)

    def dense(self) -> Array:
        """Return X ``(r, p)`` itself, standardized in a copy."""
        if self.standard is None:
            return self.X
        centre, scale = map(of_models, self.standard)
        if centre.shape[1] > 1:
            msg = "models that standardize the features each for itself have no rows in common"
            raise ValueError(msg)
        return (self.X - centre[:, 0]) * scale[:, 0]

    def common(self, *, xp: Namespace) -> Array:
        """Return X ``(r, p)``, standardized by the mean of the models' standards."""
        return DenseRows(self.X, _mean(self.standard, xp=xp)).dense()

    def columns(self, index: Array, *, xp: Namespace) -> Array:
        """Return some features ``(r, q)``."""
        return DenseRows(
            xp.take(self.X, index, axis=1), _taken(self.standard, index, xp=xp)
        ).dense()

    def near(self, s: Array | None, *, xp: Namespace) -> tuple[Array, DenseRows]:
        """Return a point ``(p,)``, and the rows of `common` as seen from there."""
        X = self.common(xp=xp)
        weight = xp.mean(xp.ones_like(X[:, :1]) if s is None else s, axis=1)
        first = xp.take(X, _counted(weight, xp=xp), axis=0)[0, :]
        there = None if s is None else xp.max(s, axis=1, keepdims=True) > 0
        X = X if there is None else xp.where(there, X, first)
        mean = first + _shares(weight, xp=xp) @ (X - first)
        point = xp.where(xp.all(first == X, axis=0), first, mean)
        X = X - point
        return point, DenseRows(X if there is None else xp.where(there, X, 0.0))

    def reach(self, *, xp: Namespace) -> Array:
        """Return how far from 0 each feature goes ``(p,)``."""
        return xp.max(xp.abs(self.X), axis=0)

    def squared(self, *, xp: Namespace) -> DenseRows:
        """Return the squares of the features."""
        del xp
        return DenseRows(self.X * self.X)

    def gram(self, s: Array | None, *, xp: Namespace) -> Array:
        """Return Σ s x xᵀ ``(p, p)``."""
        X = self.X if s is None else xp.sqrt(s) * self.X
        return X.T @ X


class SparseRows(NamedTuple):
    """Rows as a sparse matrix ``(r, p)``: nothing of the size r × p is made, but by `dense`.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import eye_array
    >>> from xplinear.backends import get_backend
    >>> rows = SparseRows(get_backend("numpy").sparse(eye_array(2)))
    >>> rows.scores(np.ones((2, 1, 1)), np.zeros((1, 1)), xp=np).ravel()
    array([1., 1.])
    """

    X: SparseMatrix
    standard: Standard | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.X.shape

    def product(self, V: Array) -> Array:
        """Return XV ``(r, d)``."""
        return self.X.times(V)

    def transposed_product(self, U: Array) -> Array:
        """Return XᵀU ``(p, d)``."""
        return self.X.transposed_times(U)

    def scores(self, W: Array, b: Array, *, xp: Namespace) -> Array:
        """Return XW + b ``(r, m, c)``."""
        return _scores(self, self.standard, W, b, xp=xp)

    def gradient(self, G: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Return XᵀG ``(p, m, c)`` and 1ᵀG ``(m, c)``."""
        return _gradient(self, self.standard, G, None, xp=xp)

    def squares(self, h: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Return Σ h x and Σ h x² ``(p, m, c)``."""
        return _squares(SparseRows(self.X), self.standard, h, xp=xp)

    def moments(
        self, s: Array | None, shift: Array, unit: Array, *, xp: Namespace
    ) -> tuple[Array, Array]:
        """Return Σ s z and Σ s z² of z = (x − shift)·unit."""
        s = self.ones(xp=xp) if s is None else s
        wide = accumulator(s, xp=xp)
        X, s = self.X.astype(wide), xp.astype(s, wide)
        shift, unit = (xp.astype(a, wide) for a in (shift, unit))
        if self.standard is None:
            return _sparse_moments(X, s, shift, unit, xp=xp)
        standard = Standard(*(xp.astype(a, wide) for a in self.standard))
        seen = _seen(standard, shift, unit, xp=xp)
        return _of_each(lambda s, *own: _sparse_moments(X, s, *own, xp=xp), s, seen, xp=xp)

    def lengths(self, *, xp: Namespace) -> Array:
        """Return the norms ‖x‖ ``(r, 1 or m)``."""
        X2 = self.X.with_values(self.X.values * self.X.values)
        if self.standard is None:
            return xp.sqrt(
                X2.times(xp.ones((self.shape[1], 1), dtype=X2.dtype, device=device(X2.values)))
            )
        centre, scale = map(of_models, self.standard)
        products = X2.times(scale * scale), self.X.times(centre * scale * scale)
        return _lengths(*products, self.standard, xp=xp)

    def ones(self, *, xp: Namespace) -> Array:
        """Return weights ``(r, 1)`` of 1."""
        return xp.ones((self.shape[0], 1), dtype=self.X.dtype, device=device(self.X.values))

    def take(self, index: Array, *, xp: Namespace) -> SparseRows:
        """Return some of the rows."""
        del xp
        return SparseRows(self.X.rows(index), self.standard)

    def astype(self, dtype: Any, *, xp: Namespace) -> SparseRows:
        """Return the rows for a computation in another dtype."""
        standard = self.standard
        if standard is not None:
            standard = Standard(*(xp.astype(a, dtype, copy=False) for a in standard))
        return SparseRows(self.X.astype(dtype), standard)

    def dense(self) -> Array:
        """Return X ``(r, p)``, written out: of few features only."""
        r, p = self.shape
        if r * p > _MOST_DENSE:
            msg = (
                f"{r} sparse rows of {p} features would have to be written out, {r * p} numbers; "
                "use solver='auto', which chooses one that needs only products with X"
            )
            raise ValueError(msg)
        return DenseRows(self.X.to_dense(), self.standard).dense()

    def common(self, *, xp: Namespace) -> Array:
        """Return X ``(r, p)``, standardized by the mean of the models' standards."""
        return SparseRows(self.X, _mean(self.standard, xp=xp)).dense()

    def columns(self, index: Array, *, xp: Namespace) -> Array:
        """Return some features ``(r, q)``."""
        return DenseRows(self.X.columns(index), _taken(self.standard, index, xp=xp)).dense()

    def near(self, s: Array | None, *, xp: Namespace) -> tuple[Array, SparseRows]:
        """Return a point ``(p,)``, and the rows of `common` as seen from there.

        A feature of which not all values are stored is near 0: there the rows have zeros.
        """
        X, ones = self.X, self.ones(xp=xp)
        weight = xp.mean(ones if s is None else s, axis=1)
        values = X.values if s is None else _of_counted(X, weight, xp=xp)
        # A product finds the row without asking a device where that is.
        index = _counted(weight, xp=xp)
        at = xp.arange(self.shape[0], dtype=index.dtype, device=device(weight)) == index
        first = X.with_values(values).transposed_times(xp.astype(at, X.dtype)[:, None])[:, 0]
        first = xp.where(_full(X, weight[:, None], xp=xp)[:, 0], first, 0.0)
        left = X.with_values(values - xp.take(first, X.indices))
        shift = first + left.transposed_times(_shares(weight, xp=xp)[:, None])[:, 0]
        shift = xp.where(first != 0.0, shift, 0.0)
        values = X.values - xp.take(shift, X.indices)
        mean, point = _mean(self.standard, xp=xp), shift
        if mean is not None:
            values = values * xp.take(mean.scale, X.indices)
            point = (shift - mean.centre) * mean.scale
        seen = X.with_values(values)
        return point, SparseRows(
            seen if s is None else seen.with_values(_of_counted(seen, weight, xp=xp))
        )

    def reach(self, *, xp: Namespace) -> Array:
        """Return how far from 0 each feature goes ``(p,)``: the sum of all."""
        size = self.X.with_values(xp.abs(self.X.values))
        return size.transposed_times(self.ones(xp=xp))[:, 0]

    def squared(self, *, xp: Namespace) -> SparseRows:
        """Return the squares of the features."""
        del xp
        return SparseRows(self.X.with_values(self.X.values * self.X.values))

    def gram(self, s: Array | None, *, xp: Namespace) -> Array:
        """Return Σ s x xᵀ ``(p, p)``, some rows written out at a time."""
        r, p = self.shape
        size = max(1, _FEW_DENSE // p)
        parts = [slice(i, min(i + size, r)) for i in range(0, r, size)]
        ones = self.ones(xp=xp) if s is None else s

        def part(rows: slice) -> Array:
            X = self.X.rows(rows)
            return X.transposed_times(ones[rows, :] * X.to_dense())

        total = part(parts[0])
        for rows in parts[1:]:
            total = total + part(rows)
        return total


def _scores(rows: Rows, standard: Standard | None, W: Array, b: Array, *, xp: Namespace) -> Array:
    """Return XW + b of the rows, standardized."""
    p, m, c = W.shape
    W, b = _of_features(standard, W, b, xp=xp)
    return xp.reshape(rows.product(xp.reshape(W, (p, m * c))), (rows.shape[0], m, c)) + b


def _gradient(
    rows: Rows, standard: Standard | None, G: Array, total: Array | None, *, xp: Namespace
) -> tuple[Array, Array]:
    """Return XᵀG and 1ᵀG, which may be given, of the rows, standardized."""
    r, m, c = G.shape
    dW = rows.transposed_product(xp.reshape(G, (r, m * c)))
    dW = xp.reshape(dW, (rows.shape[1], m, c))
    db = xp.sum(G, axis=0) if total is None else total
    return _of_standardized(standard, dW, db, xp=xp), db


def _squares(
    rows: Rows, standard: Standard | None, h: Array, *, xp: Namespace
) -> tuple[Array, Array]:
    """Return Σ h x and Σ h x² of the rows, standardized."""
    (first, total), (second, _) = (a.gradient(h, xp=xp) for a in (rows, rows.squared(xp=xp)))
    if standard is None:
        return first, second
    centre, scale = (of_models(a)[:, :, None] for a in standard)
    second = scale * scale * (second - centre * (2.0 * first - centre * total))
    return scale * (first - centre * total), second


def of_models(a: Array) -> Array:
    """Return what all models share ``(p,)``, or each has ``(p, m)``, as ``(p, 1 or m)``."""
    return a[:, None] if len(a.shape) == 1 else a


def _taken(standard: Standard | None, index: Array, *, xp: Namespace) -> Standard | None:
    """Return the standard of some features."""
    if standard is None:
        return None
    return Standard(*(xp.take(a, index, axis=0) for a in standard))


def _counted(weight: Array, *, xp: Namespace) -> Array:
    """Return the index ``(1,)`` of a row that counts, if any does."""
    return xp.argmax(weight, axis=0, keepdims=True)


def _shares(weight: Array, *, xp: Namespace) -> Array:
    """Return weights ``(r,)`` of sum 1, or 0 where there is no weight."""
    total = xp.sum(weight)
    return weight / xp.where(total > 0.0, total, 1.0)


def _of_each(
    moments: Callable[[Array | None, Array, Array], tuple[Array, Array]],
    s: Array | None,
    seen: Standard,
    *,
    xp: Namespace,
) -> tuple[Array, ...]:
    """Return the moments of features that models standardize each for itself."""
    shift, unit = seen
    m = shift.shape[1]
    own = [s if s is None or 1 in (m, s.shape[1]) else s[:, j : j + 1] for j in range(m)]
    parts = [moments(own[j], shift[:, j], unit[:, j]) for j in range(m)]
    return tuple(xp.concat(part, axis=1) for part in zip(*parts, strict=True))


def _lengths(square: Array, product: Array, standard: Standard, *, xp: Namespace) -> Array:
    """Return the norms of (x − μ)·d, from X²·d² and X·μd²."""
    centre, scale = map(of_models, standard)
    near = centre * scale
    square = square - 2.0 * product + xp.sum(near * near, axis=0)
    return xp.sqrt(xp.where(square > 0.0, square, 0.0))


def _moments(
    X: Array, s: Array | None, shift: Array, unit: Array, *, xp: Namespace
) -> tuple[Array, Array]:
    if s is None:
        s = xp.ones_like(X[:, :1])
    else:
        X = xp.where(xp.max(s, axis=1, keepdims=True) > 0, X, shift)
    X = (X - shift) * unit
    return X.T @ s, (X * X).T @ s


def _of_counted(X: SparseMatrix, weight: Array, *, xp: Namespace) -> Array:
    """Return the values, 0 in rows of no weight: what is there must not matter."""
    return xp.where(xp.take(weight, X.owners) > 0, X.values, 0.0)


def _full(X: SparseMatrix, s: Array, *, xp: Namespace) -> Array:
    """Return in which features ``(p, q)`` all values of rows that count ``s (r, q)`` are stored."""
    counted = xp.astype(s > 0, s.dtype)
    stored = X.with_values(xp.ones_like(X.values)).transposed_times(counted)
    return stored == xp.sum(counted, axis=0)


def _sparse_moments(
    X: SparseMatrix, s: Array, shift: Array, unit: Array, *, xp: Namespace
) -> tuple[Array, Array]:
    """Return Σ s z and Σ s z² ``(p, q)``: those of stored values, and of the zeros at −shift."""
    values = _of_counted(X, xp.max(s, axis=1), xp=xp)
    values = (values - xp.take(shift, X.indices)) * xp.take(unit, X.indices)
    pattern = X.with_values(xp.ones_like(values))
    zeros = xp.sum(s, axis=0) - pattern.transposed_times(s)
    # Of what is stored everywhere, constant ones too, rounding must not leave any.
    zeros = xp.where(_full(X, s, xp=xp), 0.0, zeros)
    zero = (-shift * unit)[:, None]
    first = X.with_values(values).transposed_times(s)
    second = X.with_values(values * values).transposed_times(s)
    return first + zeros * zero, second + zeros * zero * zero
