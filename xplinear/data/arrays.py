"""Rows held in one array on one device."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np

from xplinear.backends.base import Backend
from xplinear.data.protocol import Block
from xplinear.namespace import Array, Namespace, accumulator

__all__ = ["ArrayData", "shuffled"]

_FEW_ROWS = 256  # a block of fewer rows wastes the matrix product ...
_FEW_BYTES = 64 * 2**20  # ... unless even these would take more than this


def shuffled(n: int, seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.int32 | np.int64]]:
    """Return the row order ``(n,)`` of one epoch, from NumPy's generator on every backend.

    Examples
    --------
    >>> shuffled(5, seed=0, epoch=0)
    array([2, 4, 3, 0, 1], dtype=int32)
    """
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    return order.permutation(n).astype(np.int32 if n < 2**31 else np.int64)


def _minibatch(
    update: Callable[..., Any],
    static: tuple[Hashable, ...],
    xp: Namespace,
    dtype: Any,
    carry: Any,
    batch: tuple[Array, Array, Array | None],
    factor: float | Array,
    models: Array | None,
    *args: Any,
) -> Any:
    X, y, s = batch
    block = Block(xp.astype(X, dtype, copy=False), y, _of_models(s, models, xp=xp))
    return update(*static, carry, block, factor, *args)


def _of_models(weights: Array | None, models: Array | None, *, xp: Namespace) -> Array | None:
    if weights is None or models is None:
        return weights
    return xp.take(weights, models, axis=-1)


@dataclass(frozen=True, eq=False)
class ArrayData:
    """X, y and weights as arrays of one backend; X stays as it is stored.

    Parameters
    ----------
    X : Array of shape (n, p)
        Any numeric dtype; converted to ``dtype`` block by block.
    y : Array of shape (n,)
        Class codes 0 … k−1, integer, checked by the caller.
    s : Array of shape (n, 1) or (n, m), optional
        Weights in ``dtype``; None is 1 everywhere and costs nothing.
    dtype : optional
        The dtype of the computation; that of X by default.
    models : Array of shape (m,), optional
        The column of ``s`` that serves each model, an integer: ``s`` is then ``(n, f)``, one
        column per fold, however many models share it.
    backend : Backend

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.backends import get_backend
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> data.n, data.p, data.weight_sum
    (3, 3, array([3.]))
    """

    X: Array
    y: Array
    s: Array | None = None
    dtype: Any = None
    models: Array | None = None
    backend: Backend = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.dtype is None:
            object.__setattr__(self, "dtype", self.X.dtype)

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.X.shape[0]

    @property
    def p(self) -> int:
        """The number of features."""
        return self.X.shape[1]

    @cached_property
    def weight_sum(self) -> Array:
        """Σ_i s_ij, ``(1,)`` or ``(m,)``."""
        xp = self.backend.xp
        if self.s is None:
            like = xp.zeros((1,), **self.backend.kind(self.dtype))
            return xp.full_like(like, self.n, dtype=accumulator(like, xp=xp))
        total = xp.sum(self.s, axis=0, dtype=accumulator(self.s, xp=xp))
        return total if self.models is None else xp.take(total, self.models)

    def take(self, models: Array) -> ArrayData:
        """Return the same rows for a stack of these models only; nothing is copied."""
        if self.s is None or (self.s.shape[1] == 1 and self.models is None):
            return self
        kept = models if self.models is None else self.backend.xp.take(self.models, models)
        return replace(self, models=kept)

    def block(self, start: int, stop: int, step: int = 1) -> Block:
        """Return the rows ``start:stop:step``, X converted to the computation's dtype."""
        X = self.backend.xp.astype(self.X[start:stop:step, :], self.dtype, copy=False)
        s = None if self.s is None else self.s[start:stop:step, :]
        y = None if self.y is None else self.y[start:stop:step]
        return Block(X, y, _of_models(s, self.models, xp=self.backend.xp))

    def rows_per_block(self, scores: int) -> int:
        """Return how many rows keep X and about four arrays of scores in the byte budget."""
        row = self.backend.xp.finfo(self.dtype).bits // 8 * (self.p + 4 * scores)
        few = min(_FEW_ROWS, _FEW_BYTES // row)
        return min(self.n, max(1, few, self.backend.block_bytes // row))

    def map(
        self, function: Callable[..., Array], static: Sequence[Hashable], *args: Any, scores: int
    ) -> Array:
        """Return the results of ``function(*static, block, *args)``, one under another."""
        return self.backend.xp.concat(list(self._apply(function, static, args, scores)), axis=0)

    def _apply(
        self,
        function: Callable[..., Any],
        static: Sequence[Hashable],
        args: tuple[Any, ...],
        scores: int,
    ) -> Iterator[Any]:
        apply, size = self.backend.compile(function, *static), self.rows_per_block(scores)
        for start in range(0, self.n, size):
            yield apply(self.block(start, min(start + size, self.n)), *args)

    def reduce(
        self,
        function: Callable[..., tuple[Array, ...]],
        static: Sequence[Hashable],
        *args: Any,
        scores: int = 0,
    ) -> tuple[Array, ...]:
        """Return the sums over all blocks of ``function(*static, block, *args)``."""
        return reduce(
            lambda total, part: tuple(a + b for a, b in zip(total, part, strict=True)),
            self._apply(function, static, args, scores),
        )

    def epoch(
        self,
        update: Callable[..., Any],
        static: Sequence[Hashable],
        carry: Any,
        *args: Any,
        batch_size: int,
        shuffle: tuple[int, int],
        schedule: Sequence[float],
        fold: Callable[..., Any] | None = None,
    ) -> Any:
        """Fold ``update(*static, carry, block, factor, *args)`` over shuffled mini-batches."""
        rows = self.backend.asarray(shuffled(self.n, *shuffle))
        return (fold or self.backend.fold)(
            _minibatch,
            (update, tuple(static), self.backend.xp, self.dtype),
            carry,
            (self.X, self.y, self.s),
            rows,
            schedule,
            batch_size,
            self.models,
            *args,
        )

    def sample(self, rows: int) -> Block:
        """Return at most ``rows`` evenly spaced rows."""
        return self.block(0, self.n, max(1, -(-self.n // rows)))
