"""Rows held in host memory, or in files, that pass through the device piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from xplinear.arguments import instance, offering
from xplinear.backends.base import Backend
from xplinear.backends.sparse import ScipyRows, SparseMatrix, canonical, is_scipy, is_sparse
from xplinear.backends.transfer import RowIndices, Slices, read_rows, sequence_of
from xplinear.data import blocks
from xplinear.data.arrays import ArrayData
from xplinear.data.blocks import Budget, Nearby, Orders, padded
from xplinear.data.protocol import Data
from xplinear.data.rows import Standard
from xplinear.data.sparse import SparseData
from xplinear.namespace import Array, HostArray

__all__ = ["Spaced", "StreamedData", "counts_of", "data_of", "streamed"]

_HOST_ROWS = instance(np.ndarray, "a NumPy array") | offering(Slices, "slices of rows in a file")
_MOST_BYTES = 256 * 2**20
_RUN_BYTES = 2**24  # of a file, read at a time
_BLOCK_BYTES, _WINDOW_BYTES = 2**20, 2**26  # that are shuffled, and among which rows are
_FEW_BLOCKS = 8  # of a window, up to the most bytes of a block
_SAMPLES = 2  # of rows in a file that are kept


_Passes: TypeAlias = Callable[[Sequence[RowIndices]], Generator[HostArray]]


def _in_order(X: HostArray | Slices) -> _Passes | None:
    """Return what yields pieces of rows, each after the last one, in one pass over all of them.

    Of rows that only come one after another it is an attribute ``in_order``.
    """
    return getattr(X, "in_order", None)


def counts_of(counted: HostArray, n: int) -> HostArray:
    """Return of each row whether it is among those that count."""
    counts = np.zeros(n, bool)
    counts[counted] = True
    return counts


@dataclass(frozen=True, eq=False)
class Counted:
    """Rows of which those that do not count are made like one that does."""

    rows: Slices
    counts: HostArray
    one: HostArray
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunk: int
    sequence: int

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write some rows to an array."""
        self.rows.read(start, stop, into)
        into[~self.counts[start:stop]] = self.one

    @property
    def in_order(self) -> _Passes | None:
        """What yields them in order, if they only come so."""
        return None if _in_order(self.rows) is None else self._passed

    def _passed(self, pieces: Sequence[RowIndices]) -> Generator[HostArray]:
        passes = cast("_Passes", _in_order(self.rows))
        with closing(passes(pieces)) as passed:
            for piece, rows in zip(pieces, passed, strict=True):
                yield np.where(self.counts[np.asarray(piece), None], rows, self.one)


class Spaced(NamedTuple):
    """Rows of a file that are in memory: one of every ``step``, from the first on."""

    step: int
    rows: HostArray


@dataclass(frozen=True, eq=False)
class StreamedData:
    """X in host memory or in files, y and weights on the device: for an X larger than the device.

    Rows go to the device while those before them are computed with; each serves all models of
    the stack. Results are those of `ArrayData`, mini-batches included; but those of files too large
    for that are shuffled in blocks, and rows among a few of these.

    Parameters
    ----------
    X : ndarray or Slices of shape (n, p)
        Or a memory map; any numeric dtype and layout, read-only too.
    y, s, dtype, models, backend, targets, positives, standard, classes, budget, orders, padding
        As in `ArrayData`; X itself is not padded.
    rows : ndarray of int, optional
        The rows of X that there are, in order; ``y`` and ``s`` are those of these rows.
    spaced : Spaced, optional
        Rows of a file that are in memory, to be sampled.
    samples : dict
        Of rows in a file, shared as ``budget`` is.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.backends import get_backend
    >>> data = StreamedData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> data.sample(3).X
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    """

    X: HostArray | Slices
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
    rows: HostArray | None = field(default=None, kw_only=True)
    spaced: Spaced | None = field(default=None, kw_only=True, repr=False)
    samples: dict[bytes, Array] = field(
        default_factory=dict[bytes, Array], kw_only=True, repr=False
    )

    def __post_init__(self) -> None:
        _HOST_ROWS("X", self.X)
        blocks.settle(self, self._first, self.held)

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.X.shape[0] if self.rows is None else len(self.rows)

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
        """Working set of a block: not too large to be read while the last one is computed with."""
        return min(self.backend.block_bytes, _MOST_BYTES)

    sparse = False
    distant = False
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
    batches = blocks.batches
    epoch = blocks.epoch

    def gathered(self, rows: slice | Array) -> Array:
        """Return some rows of X as they are stored, on the device."""
        if not isinstance(rows, slice):
            return self._moved(self.backend.to_host(rows))
        start, stop, step = rows.indices(self.held)
        return self._moved(rows if stop <= self.n else self._within(start, stop, step))

    @property
    def spacing(self) -> int:
        """Of every so many rows one is in memory."""
        return 1 if self.spaced is None else self.spaced.step

    def _first(self) -> Array:
        """Return the first row, or one like it: a file is not read."""
        if isinstance(self.X, np.ndarray):
            return self._moved(slice(1))
        return self.backend.asarray(np.zeros((1, self.p), self._dtype))

    @property
    def _dtype(self) -> Any:
        return self.X.dtype.newbyteorder("=")

    def _within(self, start: int, stop: int, step: int = 1) -> RowIndices:
        """Return a run of rows; the first stands for those that weigh nothing."""
        if stop <= self.n:
            return range(start, stop, step)
        index = np.arange(start, stop, step)
        return np.where(index < self.n, index, 0)

    def _moved(self, rows: slice | RowIndices) -> Array:
        """Return some rows, copied: no backend shares memory with the host's X."""
        at = rows if self.rows is None else self.rows[rows]
        if isinstance(self.X, np.ndarray):
            return self.backend.asarray(np.array(self.X[at], self._dtype))
        index = np.arange(self.n)[at] if isinstance(at, slice) else np.asarray(at)
        key = index.tobytes()
        if key not in self.samples:
            if self.spaced is not None and not (index % self.spaced.step).any():
                found = self.spaced.rows[index // self.spaced.step]
            elif (passes := _in_order(self.X)) is not None:
                with closing(passes([index])) as passed:
                    found = next(passed)
            else:
                found = read_rows(self.X, index, np.empty((len(index), self.p), self._dtype))
            for old in list(self.samples)[: 1 - _SAMPLES]:
                self.samples.pop(old, None)
            self.samples[key] = self.backend.asarray(found)
        return self.samples[key]

    def stored(self, start: int, size: int) -> Generator[tuple[Array, slice]]:
        """Yield rows of X from ``start`` on, ``size`` at a time, and which rows they are.

        They last until the next ones are asked for.
        """
        run = self._run(size)
        cuts = [start, *range((start // run + 1) * run, self.n, run), self.held]
        ends = list(pairwise(cuts))
        with closing(self._uploaded([self._within(*end) for end in ends])) as uploaded:
            for X, (first, stop) in zip(uploaded, ends, strict=True):
                for i in range(first, stop, size):
                    end = min(i + size, stop)
                    some = X if (i, end) == (first, stop) else X[i - first : end - first, :]
                    yield some, slice(i, end)

    def on_device(self) -> ArrayData:
        """Return the same rows in an array on the device."""
        xp = self.backend.xp
        how: dict[str, Any] = {"classes": self.classes, "padding": self.padding}
        with closing(self.stored(0, self.rows_per_block(0))) as stored:
            X = xp.concat([xp.asarray(some, copy=True) for some, _ in stored], axis=0)
        return ArrayData(X, self.y, self.s, self.dtype, backend=self.backend, **how)

    def _run(self, size: int) -> int:
        """Return how many rows to read at a time, for blocks of so many: of files whole chunks."""
        if isinstance(self.X, np.ndarray):
            return size
        row = self.p * self._dtype.itemsize
        run = size * max(1, _RUN_BYTES // (size * row))
        return -(-run // self.X.chunk) * self.X.chunk

    def _uploaded(self, pieces: Sequence[RowIndices]) -> Generator[Array]:
        """Yield pieces of X on the device, each until the next is asked for."""
        if self.rows is not None:
            slices = (slice(a.start, a.stop) if isinstance(a, range) else a for a in pieces)
            pieces = [self.rows[a] for a in slices]
        passes = _in_order(self.X)
        read = partial(self.backend.upload, self.X) if passes is None else passes
        with closing(read(pieces)) as uploaded:
            for X in uploaded:
                yield self.backend.asarray(X)

    def drawn(
        self, order: HostArray, batch_size: int
    ) -> Generator[tuple[tuple[Array, Array, Array | None], Array]]:
        """Yield parts of X, y and s, and the order of their rows.

        Those of many whole mini-batches are gathered on the host and go to the device together.
        """
        xp, asarray = self.backend.xp, self.backend.asarray
        batch_bytes = batch_size * self.p * self.X.dtype.itemsize
        size = batch_size * max(1, self.block_bytes // batch_bytes)
        nearby = self.nearby(batch_size)
        if not isinstance(self.X, np.ndarray):
            size = self.n if nearby is None else nearby.window
        pieces = [order[i : i + size] for i in range(0, self.n, size)]
        places = [np.arange(len(piece), dtype=order.dtype) for piece in pieces]
        if not isinstance(self.X, np.ndarray):  # read in order, taken in that of the batches
            first = [np.argsort(piece) for piece in pieces]
            for at, index in zip(places, first, strict=True):
                at[index] = np.arange(len(index), dtype=order.dtype)
            pieces = [piece[index] for piece, index in zip(pieces, first, strict=True)]
        if self.padding:
            more = self.backend.padding(self.X, len(pieces[-1]))
            pieces[-1] = np.append(pieces[-1], np.zeros(more, order.dtype))
        with closing(self._uploaded(pieces)) as uploaded:
            for X, piece, place in zip(uploaded, pieces, places, strict=True):
                at = asarray(piece)
                y, s = (None if a is None else xp.take(a, at, axis=0) for a in (self.y, self.s))
                yield (X, y, s), asarray(place)

    def nearby(self, batch_size: int) -> Nearby | None:
        """Return among which rows of a file an epoch is shuffled, the same on every backend.

        None where all of them are read together.
        """
        if isinstance(self.X, np.ndarray):
            return None
        row, chunk = self.p * self.X.dtype.itemsize, self.X.chunk
        if _in_order(self.X) is not None:
            return Nearby(self.n, max(1, _WINDOW_BYTES // (row * batch_size)) * batch_size)
        block = -(-max(1, _BLOCK_BYTES // row) // chunk) * chunk
        step = batch_size // math.gcd(block, batch_size)  # blocks of whole batches together
        if step * block * row > _WINDOW_BYTES:
            block, step = -(-block // batch_size) * batch_size, 1
        few = min(_FEW_BLOCKS, max(1, _MOST_BYTES // (block * row)))
        blocks = max(few, _WINDOW_BYTES // (block * row))
        window = -(-blocks // step) * step * block
        run = -(-sequence_of(self.X) // block)
        return None if window >= self.n else Nearby(block, window, run)


def streamed(
    X: Slices,
    y: Array,
    s: Array | None,
    dtype: Any,
    counted: HostArray | None,
    *,
    backend: Backend,
    classes: int | None,
    spaced: Spaced | None = None,
) -> StreamedData:
    """Return rows of files, or in batches, with labels and weights on the backend.

    Those that are not ``counted``, if that is given, may be huge: they are made like one that is.
    """
    if counted is not None:
        counts, first = counts_of(counted, X.shape[0]), int(counted[0])
        one = np.empty((1, X.shape[1]), X.dtype.newbyteorder("="))
        X.read(first, first + 1, one)
        X = Counted(X, counts, one, X.shape, X.dtype, X.chunk, sequence_of(X))
        if spaced is not None:
            own = counts[:: spaced.step, None]
            spaced = spaced._replace(rows=np.where(own, spaced.rows, one))
    padding = backend.padding(np.empty((1, X.shape[1]), np.int8), X.shape[0])
    y = padded(y, padding, backend=backend)
    s = None if s is None else padded(s, padding, backend=backend, weigh=True)
    s = s if s is None or dtype is None else backend.asarray(s, dtype)
    held: dict[str, Any] = {"backend": backend, "classes": classes, "padding": padding}
    return StreamedData(X, y, s, dtype, spaced=spaced, **held)


def _held(X: Any, backend: Backend) -> SparseMatrix:
    """Return rows of SciPy on the backend; on the host if they would take half of the memory.

    A device holds Xᵀ too, and the order of its values.
    """
    rows = ScipyRows(canonical(X))
    if backend.name == "numpy":
        return rows
    large = rows.nnz * (2 * rows.dtype.itemsize + 12) > backend.free_memory() // 2
    return rows if large else backend.sparse(rows)


def data_of(
    X: Array,
    y: Array,
    s: Array | None = None,
    dtype: Any = None,
    rows: HostArray | None = None,
    *,
    backend: Backend,
    classes: int | None = None,
) -> Data:
    """Return X moved to the backend, or streamed where it would take half of the free memory.

    Parameters
    ----------
    X : ndarray, Array or sparse matrix of shape (n, p)
        On the host, or on the backend.
    y, s : Array
        On the host, or on the backend.
    dtype, rows, backend, classes
        As in `StreamedData`; ``rows`` of X are copied where memory allows.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.backends import get_backend
    >>> type(data_of(np.eye(3), np.arange(3), backend=get_backend("numpy"))).__name__
    'ArrayData'
    """
    if is_sparse(X) or is_scipy(X):
        X = _held(X, backend) if is_scipy(X) or isinstance(X, ScipyRows) else X
        X = X if rows is None else X.rows(rows)
        y = None if y is None else backend.asarray(y)
        s = None if s is None else backend.asarray(s, dtype)
        return SparseData(X, y, s, dtype, backend=backend, classes=classes)
    moves = rows is not None or backend.name != "numpy"
    n = X.shape[0] if rows is None else len(rows)
    padding, there = backend.padding(X, n), not isinstance(X, np.ndarray)
    large = (padding > 0 or (moves and not there)) and (
        n * X.shape[1] * X.dtype.itemsize > backend.free_memory() // 2
    )
    if there and large:  # there is no room for another
        padding, large = 0, False
    X = backend.near(X) if padding or rows is not None else X
    y = None if y is None else padded(y, padding, backend=backend)
    s = None if s is None else padded(s, padding, backend=backend, weigh=True)
    s = s if s is None or dtype is None else backend.asarray(s, dtype)
    held: dict[str, Any] = {"backend": backend, "classes": classes, "padding": padding}
    if large:
        return StreamedData(X, y, s, dtype, rows=rows, **held)
    if rows is not None:
        host = isinstance(X, np.ndarray)
        X = X[rows] if host else backend.xp.take(X, backend.asarray(rows), axis=0)
    return ArrayData(padded(X, padding, backend=backend), y, s, dtype, **held)
