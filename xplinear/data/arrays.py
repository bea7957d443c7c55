"""Rows held in one array on one device."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from xplinear.arguments import ArgumentError
from xplinear.backends.base import Backend
from xplinear.data import blocks
from xplinear.data.blocks import Budget, Orders
from xplinear.data.rows import Standard
from xplinear.namespace import Array, HostArray

__all__ = ["ArrayData"]


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
    positives : Array of shape (m,), optional
        The class that is 1 for each model, all others 0: one against the rest, made of
        ``y (n,)`` block by block.
    standard : Standard, optional
        Of the features of blocks and mini-batches; X stays as it is.
    classes : int, optional
        The number of classes that ``y`` was checked for; None leaves it to `check_classes`.
    budget : Budget
        Shared by all stacks made of the same rows: what one learnt of the memory, all know.
    orders : Orders
        Shared likewise: what was drawn for the next epoch.
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
    positives: Array | None = field(default=None, kw_only=True)
    standard: Standard | None = field(default=None, kw_only=True)
    classes: int | None = field(default=None, kw_only=True, repr=False)
    budget: Budget = field(default_factory=Budget, kw_only=True, repr=False)
    orders: Orders = field(default_factory=Orders, kw_only=True, repr=False)
    padding: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        blocks.settle(self, lambda: self.X)
        if self.n < 1:
            msg = f"padding must be less than the {self.held} rows of X, got {self.padding}"
            raise ArgumentError(msg)

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

    @property
    def entries(self) -> int:
        """The numbers of X."""
        return self.n * self.p

    @property
    def block_bytes(self) -> int:
        """Working set of a block."""
        return self.backend.block_bytes

    sparse = False
    weight_sum = cached_property(blocks.weight_sum)
    weights = cached_property(blocks.weights_held)
    shares = cached_property(blocks.shares)
    check_classes = blocks.check_classes
    as_held = blocks.as_held
    with_weights = blocks.with_weights
    with_labels = blocks.with_labels
    with_standard = blocks.with_standard
    narrowed = blocks.as_it_is
    ordered = blocks.in_order
    take = blocks.take
    row_bytes = blocks.row_bytes
    rows_per_block = blocks.rows_per_block
    map = blocks.map_
    reduce = blocks.reduce
    sample = blocks.sample
    epoch = blocks.epoch
    nearby = blocks.anywhere
    spacing = 1

    def gathered(self, rows: slice | Array) -> Array:
        """Return some rows of X as they are stored."""
        if isinstance(rows, slice):
            some = self.X[rows, :]
            # NumPy takes nothing of rows that lie apart without copying all of them each time.
            return some if rows.step in (None, 1) else self.backend.xp.asarray(some, copy=True)
        return self.backend.xp.take(self.X, rows, axis=0)

    def stored(self, start: int, size: int) -> Generator[tuple[Array, slice]]:
        """Yield rows of X from ``start`` on, ``size`` at a time, and which rows they are."""
        for first in range(start, self.n, size):
            rows = slice(first, min(first + size, self.held))
            yield self.X[rows, :], rows

    def drawn(
        self, order: HostArray, batch_size: int
    ) -> Generator[tuple[tuple[Array, Array, Array | None], Array]]:
        """Yield X, y and s themselves and the order: all batches are made of one part."""
        del batch_size
        yield (self.X, self.y, self.s), self.backend.asarray(order)
