"""The products of some rows: all that is ever multiplied with a block's X is here.

Standardized features (x − μ)·d are not made, but are part of the products:

    scores    (X − 1μᵀ)D·W = X(DW) − 1(μᵀDW)
    gradient  D(XᵀG − μ(1ᵀG))

They cost what those of X cost, and μ and d may be those of all models or each model's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from xplinear.namespace import Array, Namespace

__all__ = ["DenseRows", "FarStandard", "Rows", "Standard", "centred_scores", "spread"]


class Rows(Protocol):
    """X of a block ``(r, p)``, in the computation's dtype, as products with it."""

    @property
    def shape(self) -> tuple[int, int]: ...

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

    def scores(self, W: Array, b: Array, *, xp: Namespace) -> Array:
        """Return XW + b ``(r, m, c)``."""
        p, m, c = W.shape
        if self.standard is not None:
            centre, scale = map(_columns, self.standard)
            W = scale[:, :, None] * W
            b = b - centred_scores(centre, W, xp=xp)
        return xp.reshape(self.X @ xp.reshape(W, (p, m * c)), (self.X.shape[0], m, c)) + b

    def gradient(
        self, G: Array, *, xp: Namespace, total: Array | None = None
    ) -> tuple[Array, Array]:
        """Return XᵀG ``(p, m, c)`` and 1ᵀG ``(m, c)``, which may be given."""
        (r, m, c), p = G.shape, self.X.shape[1]
        # The product in this order leaves each column contiguous.
        dW = xp.reshape((xp.reshape(G, (r, m * c)).T @ self.X).T, (p, m, c))
        db = xp.sum(G, axis=0) if total is None else total
        if self.standard is not None:
            centre, scale = map(_columns, self.standard)
            dW = scale[:, :, None] * (dW - spread(centre, db, xp=xp))
        return dW, db

    def squares(self, h: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Return Σ h x and Σ h x² ``(p, m, c)``."""
        own = DenseRows(self.X)
        (first, total), (second, _) = (
            own.gradient(h, xp=xp),
            DenseRows(self.X * self.X).gradient(h, xp=xp),
        )
        if self.standard is not None:
            centre, scale = (_columns(a)[:, :, None] for a in self.standard)
            second = scale * scale * (second - centre * (2.0 * first - centre * total))
            first = scale * (first - centre * total)
        return first, second

    def moments(
        self, s: Array | None, shift: Array, unit: Array, *, xp: Namespace
    ) -> tuple[Array, Array]:
        """Return Σ s z and Σ s z² of z = (x − shift)·unit."""
        if self.standard is None:
            return _moments(self.X, s, shift, unit, xp=xp)
        centre, scale = map(_columns, self.standard)
        shift = centre + shift[:, None] / xp.where(scale != 0.0, scale, 1.0)
        unit, m = scale * unit[:, None], centre.shape[1]
        own = [s if s is None or 1 in (m, s.shape[1]) else s[:, j : j + 1] for j in range(m)]
        parts = [_moments(self.X, own[j], shift[:, j], unit[:, j], xp=xp) for j in range(m)]
        first, second = (xp.concat(part, axis=1) for part in zip(*parts, strict=True))
        return first, second

    def lengths(self, *, xp: Namespace) -> Array:
        """Return the norms ‖x‖ ``(r, 1 or m)``."""
        X = self.X
        if self.standard is None:
            return xp.sqrt(xp.sum(X * X, axis=1))[:, None]
        centre, scale = map(_columns, self.standard)
        near = centre * scale
        square = (X * X) @ (scale * scale) - 2.0 * (X @ (near * scale))
        square = square + xp.sum(near * near, axis=0)
        return xp.sqrt(xp.where(square > 0.0, square, 0.0))

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
        centre, scale = map(_columns, self.standard)
        if centre.shape[1] > 1:
            msg = "models that standardize the features each for itself have no rows in common"
            raise ValueError(msg)
        return (self.X - centre[:, 0]) * scale[:, 0]

    def common(self, *, xp: Namespace) -> Array:
        """Return X ``(r, p)``, standardized by the mean of the models' standards."""
        if self.standard is None:
            return self.X
        mean = Standard(*(xp.mean(_columns(a), axis=1) for a in self.standard))
        return DenseRows(self.X, mean).dense()


def _columns(a: Array) -> Array:
    """Return ``(p,)`` or ``(p, m)`` as ``(p, 1 or m)``."""
    return a[:, None] if len(a.shape) == 1 else a


def _moments(
    X: Array, s: Array | None, shift: Array, unit: Array, *, xp: Namespace
) -> tuple[Array, Array]:
    if s is None:
        s = xp.ones_like(X[:, :1])
    else:
        X = xp.where(xp.max(s, axis=1, keepdims=True) > 0, X, shift)
    X = (X - shift) * unit
    return X.T @ s, (X * X).T @ s
