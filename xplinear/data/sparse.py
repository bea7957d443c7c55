"""Sparse rows on one device: cut once into blocks that are kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from xplinear.backends.base import Backend
from xplinear.backends.sparse import ScipyRows, SparseMatrix
from xplinear.data import blocks
from xplinear.data.blocks import Budget, Orders
from xplinear.data.protocol import Kernel, Order
from xplinear.data.rows import Standard
from xplinear.namespace import Array, HostArray, array_namespace, device, name_of

__all__ = ["SparseData"]

# Stored entries of a block per feature: what a block does of the size of the weights, its part of
# the gradient above all, is then little beside its products.
_PER_FEATURE = 5
_FEW, _SUMS_BYTES = 2, 2**29  # blocks are few where their parts of the gradient are large
_NARROW = 1e-15, 1e15  # sizes whose squares float32 holds
_SCORES_BYTES = 64 * 2**20  # of a block, unless those of a device are larger


class Cut:
    """The rows in blocks of one size: they are kept, with what a library makes of each.

    Rows on the host go to the device when they are asked for, and are not kept.
    """

    def __init__(self, X: SparseMatrix, dtype: Any, backend: Backend) -> None:
        self._stored, self._dtype, self._backend, self._size = X, dtype, backend, 0
        self._blocks: list[SparseMatrix] = []

    @cached_property
    def _rows(self) -> SparseMatrix:
        """The rows in the dtype of the computation, where they are."""
        host = isinstance(self._stored, ScipyRows)
        return self._stored.astype(name_of(self._dtype) if host else self._dtype)

    @cached_property
    def narrow(self) -> Cut | None:
        """The rows in float32; None where they are, or that may not hold what they do."""
        if self.moves or name_of(self._dtype) != "float64":
            return None
        size, (low, high) = self._backend.xp.abs(self._rows.values), _NARROW
        holds = (size == 0.0) | ((size >= low) & (size <= high))
        known = self._backend.over(holds)
        return Cut(self._rows, self._backend.xp.float32, self._backend) if known else None

    @cached_property
    def ordered(self) -> tuple[Cut, Order] | None:
        """The rows with features that have many entries first; None where that is not known to pay.

        What products read most often of the weights, and write, then lies together.
        """
        if self.moves or not isinstance(self._rows, ScipyRows):
            return None
        X, asarray = self._rows, self._backend.asarray
        first = np.argsort(-np.bincount(X.indices, minlength=X.shape[1]), kind="stable")
        place = np.empty_like(first)
        place[first] = np.arange(len(first))
        cut = Cut(X.renumbered(place), self._dtype, self._backend)
        return cut, Order(asarray(first), asarray(place))

    @cached_property
    def moves(self) -> bool:
        """Whether the rows are on the host, and the backend is not."""
        return isinstance(self._stored, ScipyRows) and self._backend.name != "numpy"

    def rows(self, index: slice | Array) -> SparseMatrix:
        """Return some rows."""
        if not self.moves:
            return self._rows.rows(index)
        at = index if isinstance(index, (slice, np.ndarray)) else self._backend.to_host(index)
        return self._backend.sparse(self._rows.rows(at))

    @cached_property
    def none(self) -> SparseMatrix:
        """No rows."""
        return self.rows(slice(0))

    def blocks(self, start: int, size: int) -> Iterator[tuple[SparseMatrix, slice]]:
        """Yield blocks of ``size`` rows from ``start`` on, and which rows they are."""
        n = self._rows.shape[0]
        parts = [slice(i, min(i + size, n)) for i in range(start, n, size)]
        if self.moves or start % size:  # a pass that ran out of memory goes on
            return ((self.rows(part), part) for part in parts)
        if size != self._size:
            self._blocks = []  # the memory of these first
            every = (slice(i, min(i + size, n)) for i in range(0, n, size))
            self._size, self._blocks = size, [self.rows(part) for part in every]
        return zip(self._blocks[start // size :], parts, strict=True)


@dataclass(frozen=True, eq=False)
class SparseData:
    """X as compressed rows, y and weights as arrays of the same backend.

    Nothing of the size n × p is made, standardized or not. Results are those of `ArrayData`.

    Parameters
    ----------
    X : SparseMatrix of shape (n, p)
        As `Backend.sparse` gives it, or `ScipyRows` on the host: their blocks go to the device in
        each pass. Any real dtype, converted to ``dtype`` once.
    y, s, dtype, models, backend, targets, positives, standard, classes, budget, orders
        As in `ArrayData`. Where features are far from 0, those of which all values are stored are
        centred in a copy; the others cannot be so far that products would cancel.
    origin : SparseMatrix, optional
        The rows before that.
    cut : Cut, optional
        Shared by all stacks made of the same rows.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import eye_array
    >>> from xplinear.backends import get_backend
    >>> backend = get_backend("numpy")
    >>> data = SparseData(backend.sparse(eye_array(3)), np.arange(3), backend=backend)
    >>> data.n, data.p, data.entries
    (3, 3, 3)
    """

    X: SparseMatrix
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
    origin: SparseMatrix | None = field(default=None, kw_only=True, repr=False)
    cut: Cut = field(default=cast("Cut", None), kw_only=True, repr=False)

    padding = 0
    sparse = True

    def __post_init__(self) -> None:
        stored = getattr(self.backend.xp, name_of(self.X.dtype))
        like = self.backend.xp.zeros((1, 1), **self.backend.kind(stored))
        blocks.settle(self, lambda: like, self.n)
        if cast("Cut | None", self.cut) is None:
            object.__setattr__(self, "cut", Cut(self.X, self.dtype, self.backend))

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.X.shape[0]

    @property
    def held(self) -> int:
        """The number of rows."""
        return self.n

    @property
    def p(self) -> int:
        """The number of features."""
        return self.X.shape[1]

    @property
    def entries(self) -> int:
        """The stored entries of X; at least one of a row, whose scores cost about as much."""
        return max(self.n, self.X.nnz)

    @property
    def block_bytes(self) -> int:
        """Working set of a block."""
        return self.backend.block_bytes

    weight_sum = cached_property(blocks.weight_sum)
    weights = cached_property(blocks.weights_held)
    shares = cached_property(blocks.shares)
    check_classes = blocks.check_classes
    as_held = blocks.as_held
    with_weights = blocks.with_weights
    with_labels = blocks.with_labels
    take = blocks.take
    sample = blocks.sample
    epoch = blocks.epoch
    nearby = blocks.anywhere
    spacing = 1

    def map(
        self,
        function: Callable[..., Array],
        static: Sequence[Hashable],
        *args: Any,
        scores: int,
        each: Sequence[Array] = (),
    ) -> Iterator[Array]:
        """Yield ``function(*static, block, *each, *args)`` of each block, in order."""
        args = self._laid_out(args)
        return blocks.map_(self, function, static, *args, scores=scores, each=each)

    def reduce(
        self,
        function: Callable[..., tuple[Array, ...]],
        static: Sequence[Hashable],
        *args: Any,
        scores: int = 0,
        kernel: Kernel | None = None,
        each: Sequence[Array] = (),
    ) -> tuple[Array, ...]:
        """Return the sums over all blocks of ``function(*static, block, *each, *args)``."""
        del kernel  # for dense rows
        args = self._laid_out(args)
        return blocks.reduce(self, function, static, *args, scores=scores, each=each)

    def _laid_out(self, args: Any) -> Any:
        """Return what there is of weights ``(p, m, c)`` as the products of all blocks read them."""
        if isinstance(args, tuple):
            parts = [self._laid_out(a) for a in cast("tuple[Any, ...]", args)]
            return tuple(parts) if type(args) is tuple else type(args)(*parts)
        shape = getattr(args, "shape", ())
        return self.cut.none.laid_out(args) if len(shape) == 3 and shape[0] == self.p else args

    def with_standard(self, standard: Standard | None) -> SparseData:
        """Return the same rows, standardized in this way instead of that they had."""
        X = self.X if self.origin is None else self.origin
        if standard is self.standard:
            return self
        if standard is None or not blocks.copies(standard, self.dtype):
            cut = self.cut if self.origin is None else None
            return replace(self, X=X, standard=standard, origin=None, cut=cut)
        xp, dtype, own = self.backend.xp, self.dtype, standard
        if self.cut.moves:  # where the rows are
            own = Standard(*map(self.backend.to_host, standard))
            xp, dtype = array_namespace(X.values), np.dtype(name_of(dtype))
        near, rest = _centred(X, own, dtype, xp=xp)
        rest = Standard(*map(self.backend.asarray, rest))
        return replace(self, X=near, standard=rest, origin=X, cut=None)

    def narrowed(self) -> SparseData:
        """Return the same rows in float32; or self, where these are no others."""
        narrow, xp, standard = self.cut.narrow, self.backend.xp, self.standard
        if narrow is None:
            return self
        if standard is not None:
            standard = Standard(*(xp.astype(a, xp.float32) for a in standard))
        s = None if self.s is None else xp.astype(self.s, xp.float32)
        return replace(self, dtype=xp.float32, s=s, standard=standard, cut=narrow)

    def ordered(self) -> tuple[SparseData, Order | None]:
        """Return the same rows with features in another order; centred copies as they are."""
        found, xp, standard = self.cut.ordered, self.backend.xp, self.standard
        if found is None or self.origin is not None:
            return self, None
        cut, order = found
        if standard is not None:
            standard = standard._make(xp.take(a, order.first, axis=0) for a in standard)
        return replace(self, X=cut.rows(slice(None)), standard=standard, cut=cut), order

    def row_bytes(self, scores: int) -> int:
        """Return the bytes of a row, with about four arrays of so many scores."""
        number = self.backend.xp.finfo(self.dtype).bits // 8
        return self.entries // self.n * (number + 8) + 4 * number * scores

    def rows_per_block(self, scores: int) -> int:
        """Return how many rows have entries enough, and not too many scores.

        That does not depend on how many threads there are.
        """
        number = self.backend.xp.finfo(self.dtype).bits // 8
        enough = max(_PER_FEATURE * self.p, self.block_bytes // (number + 4))
        sums = _SUMS_BYTES // (number * self.p * max(1, scores))
        count = max(1, min(self.entries // enough, max(_FEW, sums)))
        most = max(_SCORES_BYTES, self.block_bytes) // (4 * number * max(1, scores))
        rows = min(-(-self.n // count), most, self.budget.bytes // self.row_bytes(scores))
        return max(1, rows)

    def gathered(self, rows: slice | Array) -> SparseMatrix:
        """Return some rows of X in the dtype of the computation."""
        return self.cut.rows(rows)

    def stored(self, start: int, size: int) -> Generator[tuple[SparseMatrix, slice]]:
        """Yield rows of X from ``start`` on, ``size`` at a time, and which rows they are."""
        yield from self.cut.blocks(start, size)

    def drawn(
        self, order: HostArray, batch_size: int
    ) -> Generator[tuple[tuple[SparseMatrix, Array, Array | None], HostArray]]:
        """Yield parts of X, y and s in the given order: whole batches but the last.

        Many batches are gathered at once: nothing waits for a device to find the rows of each.
        """
        xp, asarray = self.backend.xp, self.backend.asarray
        size = batch_size * max(1, self.rows_per_block(0) // batch_size)
        for start in range(0, self.n, size):
            part = order[start : start + size]
            at = asarray(part)
            y, s = (None if a is None else xp.take(a, at, axis=0) for a in (self.y, self.s))
            yield (self.cut.rows(part), y, s), part


def _centred(
    X: SparseMatrix, standard: Standard, dtype: Any, *, xp: Any
) -> tuple[SparseMatrix, Standard]:
    """Return rows whose full columns are centred, and what is left of the standard to be done.

    In the dtype of the standard: another may not hold what is stored before it is brought near.
    """
    wide = standard.centre.dtype
    ones = X.with_values(xp.ones_like(X.values, dtype=wide))
    column = xp.ones((X.shape[0], 1), dtype=wide, device=device(X.values))
    full = ones.transposed_times(column)[:, 0] == X.shape[0]
    centre, scale = standard
    several = len(centre.shape) > 1
    near = xp.where(full, xp.mean(centre, axis=1) if several else centre, 0.0)
    values = xp.astype(X.values, wide, copy=False) - xp.take(near, X.indices)
    if several:
        rest = (xp.astype(a, dtype) for a in (centre - near[:, None], scale))
    else:
        values = values * xp.take(scale, X.indices)
        rest = (xp.astype(a, dtype) for a in ((centre - near) * scale, xp.ones_like(scale)))
    return X.with_values(xp.astype(values, dtype)), Standard(*rest)
