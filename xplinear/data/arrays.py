"""Rows held in one array on one device."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from xplinear.arguments import (
    NONE,
    ArgumentError,
    check_dtype,
    check_rows,
    check_weights,
    instance,
    integer,
)
from xplinear.backends.base import Backend, HostArray
from xplinear.data.blocks import (
    Budget,
    labelled,
    minibatch,
    of_models,
    padded,
    results,
    rows_per_block,
    sampled,
    shares,
    shuffled,
    standardized,
    sums,
    take,
    unpadded,
    weight_sum,
)
from xplinear.data.protocol import Block, Standard
from xplinear.namespace import Array

__all__ = ["ArrayData"]

_BACKEND = instance(Backend, "a Backend, see xplinear.get_backend")
_CLASSES, _ROWS = NONE | integer(1), integer(0)


def _in_column(codes: HostArray, column: Any) -> str:
    return f" in column {column}" if len(codes) > 1 else ""


@dataclass(frozen=True, eq=False)
class ArrayData:
    """X, y and weights as arrays of one backend; X stays as it is stored.

    Parameters
    ----------
    X : Array of shape (n, p)
        Any numeric dtype; converted to ``dtype`` block by block.
    y : Array of shape (n,), (n, 1) or (n, m)
        Class codes 0 … k−1, integer, checked by the caller; of all models, or of each its own.
    s : Array of shape (n, 1) or (n, m), optional
        Weights in ``dtype``; None is 1 everywhere and costs nothing.
    dtype : optional
        The dtype of the computation; that of X by default.
    models : Array of shape (m,), optional
        The column of ``s`` that serves each model, an integer: ``s`` is then ``(n, f)``, one
        column per fold, however many models share it.
    backend : Backend
    targets : Array of shape (m,), optional
        The column of ``y`` that serves each model, as ``models`` says it of ``s``: ``y`` is then
        ``(n, L)``, one column per label, however many models share it.
    standard : Standard, optional
        Blocks and mini-batches hold standardized features; X stays as it is.
    classes : int, optional
        The number of classes that ``y`` was checked for; None leaves it to `check_classes`.
    budget : Budget
        Shared by all stacks made of the same rows: what one learnt of the memory, all know.
    padding : int
        How many rows, the last of X, y and s, are none: they weigh 0. See `Backend.padding`.

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
    targets: Array | None = field(default=None, kw_only=True)
    standard: Standard | None = field(default=None, kw_only=True)
    classes: int | None = field(default=None, kw_only=True, repr=False)
    budget: Budget = field(default_factory=Budget, kw_only=True, repr=False)
    padding: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        _BACKEND("backend", self.backend)
        _CLASSES("classes", self.classes)
        _ROWS("padding", self.padding)
        if self.y is not None:  # else they are rows to predict, which are checked
            check_rows(self.X, self.y, self.s)
        if self.n < 1:
            msg = f"padding must be less than the {self.held} rows of X, got {self.padding}"
            raise ArgumentError(msg)
        if self.dtype is None:
            object.__setattr__(self, "dtype", self.X.dtype)
        if self.y is not None:
            check_dtype("dtype", self.dtype, xp=self.backend.xp)

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.X.shape[0] - self.padding

    @property
    def held(self) -> int:
        """The number of rows in blocks, those included that weigh nothing."""
        return self.n + self.padding

    @property
    def p(self) -> int:
        """The number of features."""
        return self.X.shape[1]

    @cached_property
    def weight_sum(self) -> Array:
        """Σ_i s_ij, ``(1,)`` or ``(m,)``."""
        return weight_sum(self)

    def check_classes(self, k: int, m: int) -> None:
        """Raise ArgumentError if y holds other codes than 0 … k − 1, or is not for m models.

        The labels are read once.
        """
        given = (*self.y.shape, 1)[1] if self.targets is None else self.targets.shape[0]
        if given not in (1, m):
            msg = f"y must have one column for all models, or one for each of the {m}, got {given}"
            raise ArgumentError(msg)
        if self.classes is None:
            try:
                low, high = self._code_range()
            except (TypeError, NotImplementedError):  # traced, or meta: there are no values
                return
            at = low.argmin()
            if low[at] < 0:
                msg = f"y must hold class codes from 0 on; it goes from {low[at]} to {high[at]}"
                raise ArgumentError(msg + _in_column(low, at))
            object.__setattr__(self, "classes", int(high.max()) + 1)
            if self.s is not None:
                check_weights(self.s)
        if self.classes is not None and self.classes > k:
            high = self._code_range()[1] if self.y.ndim > 1 else np.zeros(1)
            msg = (
                f"k must be the number of classes, at least {self.classes} for class codes y up to "
                f"{self.classes - 1}{_in_column(high, high.argmax())}, got {k}"
            )
            raise ArgumentError(msg)

    def _code_range(self) -> HostArray:
        """Return the lowest and the highest code of each column of y ``(2, L)``."""
        xp = self.backend.xp
        ends = xp.stack([xp.min(self.y, axis=0), xp.max(self.y, axis=0)])
        return np.reshape(self.backend.to_host(ends), (2, -1))

    @cached_property
    def weights(self) -> Array | None:
        """The weights of the rows held; None is 1 everywhere."""
        if self.s is not None or not self.padding:
            return self.s
        return self.backend.asarray((np.arange(self.held) < self.n)[:, None], self.dtype)

    def as_held(self, weights: Any) -> Array:
        """Return weights ``(n, …)`` of the rows as ``s`` has them."""
        more = padded(weights, self.padding, backend=self.backend, weigh=True)
        return self.backend.asarray(more, self.dtype)

    def take(self, models: Array) -> ArrayData:
        """Return the same rows for a stack of these models only; nothing is copied."""
        return take(self, models)

    def block(self, start: int, stop: int, step: int = 1) -> Block:
        """Return the rows ``start:stop:step``, X converted to the computation's dtype."""
        return labelled(self, self.X[start:stop:step, :], slice(start, stop, step))

    def stored(self, start: int, size: int) -> Generator[tuple[Array, slice]]:
        """Yield rows of X from ``start`` on, ``size`` at a time, and which rows they are."""
        for first in range(start, self.n, size):
            rows = slice(first, min(first + size, self.held))
            yield self.X[rows, :], rows

    def rows_per_block(self, scores: int) -> int:
        """Return how many rows keep X and about four arrays of scores in the byte budget."""
        return rows_per_block(self, scores)

    def map(
        self, function: Callable[..., Array], static: Sequence[Hashable], *args: Any, scores: int
    ) -> Iterator[Array]:
        """Yield ``function(*static, block, *args)`` of each block, in order."""
        return unpadded(self, results(self, function, static, args, scores))

    def reduce(
        self,
        function: Callable[..., tuple[Array, ...]],
        static: Sequence[Hashable],
        *args: Any,
        scores: int = 0,
    ) -> tuple[Array, ...]:
        """Return the sums over all blocks of ``function(*static, block, *args)``."""
        parts: Any = results(self, function, static, args, scores)
        with closing(parts):  # at once, though an error's traceback may hold them
            return sums(parts)

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
        """Fold ``update(*static, carry, batch, factor, *args)`` over shuffled mini-batches."""
        return (fold or self.backend.fold)(
            minibatch,
            (update, tuple(static), self.backend.xp, self.dtype),
            carry,
            (self.X, self.y, self.s),
            self.backend.asarray(shuffled(self.n, *shuffle)),
            schedule,
            batch_size,
            self.models,
            self.targets,
            self.standard,
            *args,
        )

    @cached_property
    def _shares(self) -> tuple[Array, Array]:
        return shares(self)

    def sample(self, rows: int) -> Block:
        """Return at most ``rows`` rows, evenly spaced in their weights."""
        if self.n <= rows:
            return self.block(0, self.held)
        xp, asarray = self.backend.xp, self.backend.asarray
        if self.s is not None:
            index, factor = sampled(*self._shares, rows, xp=xp)
            s = xp.take(self.s, index, axis=0) * xp.astype(factor, self.s.dtype)[:, None]
        elif self.padding:
            where = np.arange(0, self.n, -(-self.n // rows))
            there = np.ones((len(where), 1))
            more = self.backend.padding(self.X, len(where))
            index = padded(where, more, backend=self.backend)
            s = asarray(padded(there, more, backend=self.backend, weigh=True), self.dtype)
        else:
            return self.block(0, self.n, -(-self.n // rows))
        y = None if self.y is None else xp.take(self.y, index, axis=0)
        y, s = of_models(y, self.targets, xp=xp), of_models(s, self.models, xp=xp)
        return Block(self._at(index), y, s)

    def _at(self, index: Array) -> Array:
        """Return some rows of X as blocks hold them."""
        xp = self.backend.xp
        X = xp.take(self.X, index, axis=0)
        return standardized(X, self.dtype, self.standard, xp=xp)
