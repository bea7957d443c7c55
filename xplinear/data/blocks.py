"""What all sources of rows have in common: weights, and full passes within the memory there is."""

from __future__ import annotations

import gc
import logging
import math
import operator
import sys
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from xplinear.arguments import (
    NONE,
    ArgumentError,
    check_array,
    check_dtype,
    check_rows,
    check_weights,
    instance,
    integer,
    warn,
)
from xplinear.arguments import settle as check_fields
from xplinear.backends.base import Backend
from xplinear.backends.epoch import Epoch, Shared, Update, fold_sparse, labels_of
from xplinear.backends.sparse import SparseMatrix, is_sparse
from xplinear.data.protocol import Batch, Block, Data, Followed, Kernel, compiled
from xplinear.data.rows import DenseRows, FarStandard, Rows, SparseRows, Standard
from xplinear.namespace import Array, HostArray, Namespace, accumulator, array_namespace, device

__all__ = [
    "Budget",
    "Nearby",
    "Orders",
    "Source",
    "anywhere",
    "as_held",
    "as_it_is",
    "batches",
    "check_classes",
    "chosen",
    "copies",
    "epoch",
    "in_order",
    "joined",
    "map_",
    "padded",
    "reduce",
    "row_bytes",
    "rows_per_block",
    "sample",
    "settle",
    "shares",
    "shuffled",
    "take",
    "weight_sum",
    "weights_held",
    "with_labels",
    "with_standard",
    "with_weights",
]

_LOG = logging.getLogger("xplinear")
_Stored: TypeAlias = "Array | SparseMatrix"
_BACKEND = instance(Backend, "a Backend, see xplinear.get_backend")
_CLASSES, _ROWS = NONE | integer(1), integer(0)
_FEW_ROWS = 256  # a block of fewer rows wastes the matrix product ...
_FEW_BYTES = 64 * 2**20  # ... unless even these would take more than this
_ALIKE = 0.1  # by how much the weight of a few rows may differ from their number
_FEW_TO_DRAW = 10_000  # an order of fewer rows is there before a thread is


@dataclass
class Budget:
    """Bytes a block may take: no limit, until the device has run out of memory."""

    bytes: int = sys.maxsize


class Nearby(NamedTuple):
    """How rows in a file are shuffled: blocks of so many, then the rows of a window of blocks.

    A window holds whole blocks and whole mini-batches. Where a file gives blocks one after another
    only, or reads again what is before them, as many as a ``run`` stay in order: the blocks of a
    window are then of as many runs.
    """

    block: int
    window: int
    run: int = 1


class Orders:
    """The orders of epochs: that of the next one is drawn by a thread while this one runs."""

    def __init__(self) -> None:
        self._drawn: tuple[tuple[Any, ...], HostArray] | None = None

    @contextmanager
    def order(
        self, n: int, shuffle: tuple[int, int], nearby: Nearby | None = None
    ) -> Generator[HostArray]:
        """Give the order of an epoch; nothing is drawn any more at its end, however it ends."""
        among = () if nearby is None else (nearby,)
        (drawn, self._drawn), key = (self._drawn, None), (n, *shuffle, *among)
        order = drawn[1] if drawn and drawn[0] == key else shuffled(*key)
        if n < _FEW_TO_DRAW or not isinstance(shuffle, Followed):
            yield order
            return
        following = n, shuffle.seed, shuffle.epoch + 1, *among
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(shuffled, *following)
            yield order
        self._drawn = following, coming.result()


class Labelled(Data, Protocol):
    """What is known of labels and weights: all that many of the functions below ask for."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def s(self) -> Array | None: ...
    @property
    def models(self) -> Array | None: ...
    @property
    def targets(self) -> Array | None: ...
    @property
    def positives(self) -> Array | None: ...
    @property
    def standard(self) -> Standard | None: ...
    @property
    def classes(self) -> int | None: ...
    @property
    def padding(self) -> int: ...
    @property
    def shares(self) -> Any: ...  # as `shares` gives them, once


class Source(Labelled, Protocol):
    """What the functions below need to know, besides, of a source: a frozen dataclass."""

    @property
    def budget(self) -> Budget: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def orders(self) -> Orders: ...
    @property
    def weights(self) -> Array | None: ...
    def row_bytes(self, scores: int) -> int:
        """Return the bytes of a row, with about four arrays of so many scores."""
        ...

    def rows_per_block(self, scores: int) -> int:
        """Return how many rows to go through at a time."""
        ...

    @property
    def spacing(self) -> int:
        """Of every so many rows one costs little to sample."""
        ...

    def nearby(self, batch_size: int) -> Nearby | None:
        """Return among which rows an epoch is shuffled; None is all."""
        ...

    def gathered(self, rows: slice | Array) -> _Stored:
        """Return some rows of X as they are stored, on the device."""
        ...

    def stored(self, start: int, size: int) -> Generator[tuple[_Stored, slice]]:
        """Yield rows of X from ``start`` on, ``size`` at a time, and which rows they are.

        They last until the next ones are asked for.
        """
        ...

    def drawn(
        self, order: HostArray, batch_size: int
    ) -> Generator[tuple[tuple[Array, Array, Array | None], Array]]:
        """Yield parts of X, y and s, and the order of their rows: whole batches but the last.

        Together they are the rows in the given order; they last as those of `stored` do.
        """
        ...


_AnySource = TypeVar("_AnySource", bound=Labelled)


def shuffled(
    n: int, seed: int, epoch: int, nearby: Nearby | None = None
) -> np.ndarray[Any, np.dtype[np.int32 | np.int64]]:
    """Return the row order ``(n,)`` of one epoch, from NumPy's generator on every backend.

    Examples
    --------
    >>> shuffled(5, seed=0, epoch=0)
    array([2, 4, 3, 0, 1], dtype=int32)
    >>> shuffled(9, seed=0, epoch=0, nearby=Nearby(2, 4))
    array([1, 0, 5, 4, 3, 7, 2, 6, 8], dtype=int32)
    """
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    dtype = np.int32 if n < 2**31 else np.int64
    if nearby is None:
        return random.permutation(n).astype(dtype)
    # What is left of a last block comes last, so that all windows but the last are whole.
    order, (block, window, run) = np.arange(n, dtype=dtype), nearby
    whole = order[: n // block * block].reshape(-1, block)
    if run == 1:
        order[: whole.size] = random.permutation(whole).reshape(-1)
    else:
        lanes = _in_lanes(len(whole), run, window // block, random)
        order[: whole.size] = whole[lanes].reshape(-1)
    for start in range(0, n, window):
        random.shuffle(order[start : start + window])
    return order


def _in_lanes(count: int, run: int, lanes: int, random: np.random.Generator) -> HostArray:
    """Return an order of blocks: of so many lanes one block each, which go through runs of them.

    Runs are shorter where there are too few for all lanes. What is left comes last.

    Examples
    --------
    >>> _in_lanes(9, 2, 2, np.random.default_rng(0))
    array([4, 2, 5, 3, 0, 6, 1, 7, 8])
    """
    run = max(1, min(run, count // lanes))
    starts = run * random.permutation(count // run)
    each = len(starts) // lanes * lanes
    order = (starts[:each, None] + np.arange(run)).reshape(lanes, -1).T.reshape(-1)
    return np.append(order, np.setdiff1d(np.arange(count), order))


def padded(rows: Array, padding: int, *, backend: Backend, weigh: bool = False) -> Array:
    """Return rows on the backend, and as many more as `Backend.padding` said.

    These are copies of the first, so that they hold nothing unusual; 0 in weights.

    Examples
    --------
    >>> from xplinear.backends import get_backend
    >>> padded(np.asarray([3, 5]), 2, backend=get_backend("numpy"))
    array([3, 5, 3, 3])
    """
    if not padding:
        return backend.asarray(rows)
    rows = backend.near(rows)
    xp = array_namespace(rows)
    more = xp.broadcast_to(rows[:1, ...], (padding, *rows.shape[1:]))
    parts = [rows, xp.zeros_like(more) if weigh else more]
    if not isinstance(rows, np.ndarray):
        return xp.concat(parts, axis=0)
    into = _aligned((rows.shape[0] + padding, *rows.shape[1:]), rows.dtype.newbyteorder("="))
    return backend.asarray(np.concatenate(parts, out=into))


def _aligned(shape: tuple[int, ...], dtype: Any) -> HostArray:
    """Return memory that JAX shares instead of copying it."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def joined(parts: Sequence[Array], *, backend: Backend) -> Array:
    """Return what there is of all rows, of the parts that `Data.map` gives."""
    near = [backend.near(part) for part in parts] if len(parts) > 1 else []
    if near and all(isinstance(part, np.ndarray) for part in near):
        return backend.asarray(np.concatenate(near))
    return backend.xp.concat(parts, axis=0)


def batches(source: Labelled, batch_size: int) -> int:
    """Return how many mini-batches an epoch has: all but the last are full."""
    return -(-source.n // batch_size)


def epoch(
    source: Source,
    update: Callable[..., Any],
    rule: Hashable,
    carry: Any,
    constants: Any = None,
    *,
    batch_size: int,
    shuffle: tuple[int, int],
    schedule: Sequence[float],
    fold: Callable[[Epoch], Any] | None = None,
) -> Any:
    """Fold an update over shuffled mini-batches, one part of the rows after another."""
    fold, done = fold or source.backend.fold, 0
    fold = compiled(source, fold_sparse) if source.sparse else fold
    changes = Update(update, rule, source.backend.xp, source.dtype)
    shared = Shared(constants, source.models, source.targets, source.standard, source.positives)
    nearby = source.nearby(batch_size)
    if nearby is not None and shuffle[1] == 0:
        _LOG.info(
            "mini-batches are not those of an array: blocks of %d rows are shuffled, and then the "
            "rows of %d blocks at a time",
            nearby.block,
            nearby.window // nearby.block,
        )
    with (
        source.orders.order(source.n, shuffle, nearby) as drawn,
        closing(source.drawn(drawn, batch_size)) as parts,
    ):
        for rows, order in parts:
            own = schedule[done : done + -(-order.shape[0] // batch_size)]
            done += len(own)
            carry = fold(Epoch(_minibatch, changes, shared, carry, rows, order, own, batch_size))
    return carry


def _minibatch(
    update: Update, shared: Shared, carry: Any, rows: tuple[Any, ...], factor: float | Array
) -> Any:
    """Return the carry after a batch of rows as they are stored.

    ``rows`` are X, y and s, and how many of them count if not all do.
    """
    X, y, s, *count = rows
    function, rule, xp, dtype = update
    y = labels_of(y, shared.targets, shared.positives, xp=xp)
    s, n = _weights_of(s, shared.models, xp=xp), X.shape[0]
    if count:
        there = xp.arange(n, dtype=xp.int32, device=device(X))[:, None] < count[0]
        there, n = xp.astype(there, dtype), xp.astype(count[0], dtype)
        s = there if s is None else there * s
    batch = Batch(_rows_of(X, dtype, shared.standard, xp=xp), y, s, n)
    return function(rule, xp, carry, batch, factor, shared.constants)


def copies(standard: Standard, dtype: Any) -> bool:
    """Return whether blocks are copied to be standardized."""
    return isinstance(standard, FarStandard) or standard.centre.dtype != dtype


def _rows_of(
    X: _Stored,
    dtype: Any,
    standard: Standard | None,
    *,
    xp: Namespace,
    astype: Callable[[Array, Any], Array] | None = None,
) -> Rows:
    """Return rows as they are stored in the dtype of the computation, standardized if asked."""
    if is_sparse(X):
        return SparseRows(X, standard)
    astype = astype or partial(xp.astype, copy=False)
    if standard is None or not copies(standard, dtype):
        return DenseRows(astype(X, dtype), standard)
    # In the dtype of the standard: another may not hold what is stored before it is brought near.
    X, (centre, scale) = astype(X, standard.centre.dtype), standard
    if len(centre.shape) == 1:
        return DenseRows(xp.astype((X - centre) * scale, dtype, copy=False))
    near = xp.mean(centre, axis=1, keepdims=True)
    own = (xp.astype(a, dtype, copy=False) for a in (centre - near, scale))
    return DenseRows(xp.astype(X - near[:, 0], dtype, copy=False), Standard(*own))


def _weights_of(s: Array | None, models: Array | None, *, xp: Namespace) -> Array | None:
    """Return the weights of each model, given its column."""
    return s if s is None or models is None else xp.take(s, models, axis=1)


def shares(source: Labelled) -> tuple[Array, Array]:
    """Return the share ``(n,)`` of each row in the weights, mean of the columns, and their sums."""
    xp = source.backend.xp
    return source.backend.compile(_shares, xp)(source.s)


def _shares(xp: Namespace, s: Array) -> tuple[Array, Array]:
    wide = accumulator(s, xp=xp)
    total = xp.sum(s, axis=0, dtype=wide)
    part = xp.astype(1.0 / xp.where(total > 0, total, 1.0) / s.shape[1], s.dtype)
    share = xp.astype(s @ part, wide)
    return share, xp.cumulative_sum(share)


def _sampled(rows: int, xp: Namespace, share: Array, sums: Array, s: Array) -> tuple[Array, Array]:
    """Return indices of rows, evenly spaced in the sums of their shares, and their weights.

    A row of no weight is never among them, and one that carries all the weight always is. To
    be weighted as all rows are, a row's weights are divided by its share times n.
    """
    n = share.shape[0]
    where = xp.astype(xp.arange(rows, dtype=xp.int32, device=device(share)), share.dtype)
    index = xp.searchsorted(sums, (where + 0.5) * (sums[-1] / rows), side="right")
    index = xp.where(index < n, index, n - 1)
    own = n * xp.take(share, index)
    factor = xp.astype(1.0 / xp.where(own > 0, own, 1.0), s.dtype)
    return index, xp.take(s, index, axis=0) * factor[:, None]


def _labelled(source: Source, X: _Stored, rows: slice) -> Block:
    """Return rows in the dtype of the computation, with their labels and weights."""
    # Without labels nothing is summed, and rows that were added do not matter.
    weights = None if source.y is None else source.weights
    s = None if weights is None else weights[rows, :]
    y = None if source.y is None else source.y[rows, ...]
    return _block(source, X, y, s)


def _as_stored(source: Source, X: Array, rows: slice) -> Block:
    """Return rows as a kernel takes them: X, and the labels and weights of all models, as held."""
    standard, own = source.standard, DenseRows(X, source.standard)
    if standard is not None and copies(standard, source.dtype):
        backend = source.backend
        own = _rows_of(X, source.dtype, standard, xp=backend.xp, astype=backend.astype)
    return Block(
        own, source.y[rows, ...], None if source.weights is None else source.weights[rows, :]
    )


def _block(source: Source, X: _Stored, y: Array | None, s: Array | None) -> Block:
    xp = source.backend.xp
    y = None if y is None else labels_of(y, source.targets, source.positives, xp=xp)
    s = _weights_of(s, source.models, xp=xp)
    standard, astype = source.standard, source.backend.astype
    return Block(_rows_of(X, source.dtype, standard, xp=xp, astype=astype), y, s)


def settle(source: Labelled, find: Callable[[], Array], n: int | None = None) -> None:
    """Check that the parts of a source belong together, and settle its dtype.

    ``find`` gives X on the backend, or the first of its n rows.
    """
    check_fields(source, backend=_BACKEND, classes=_CLASSES, padding=_ROWS)
    X = find()
    labelled = source.y is not None  # else they are rows to predict, which are checked
    if labelled:
        check_rows(X, source.y, source.s, n)
    if source.dtype is None:
        object.__setattr__(source, "dtype", X.dtype)
    if labelled:
        check_dtype("dtype", source.dtype, xp=source.backend.xp)


def weight_sum(source: Labelled) -> Array:
    """Return Σ_i s_ij, ``(1,)`` or ``(m,)``."""
    xp = source.backend.xp
    if source.s is None:
        like = xp.zeros((1,), **source.backend.kind(source.dtype))
        return xp.full_like(like, source.n, dtype=accumulator(like, xp=xp))
    total = xp.sum(source.s, axis=0, dtype=accumulator(source.s, xp=xp))
    return total if source.models is None else xp.take(total, source.models)


def as_held(source: Labelled, weights: Any) -> Array:
    """Return weights ``(n, …)`` of the rows as ``s`` has them."""
    more = padded(weights, source.padding, backend=source.backend, weigh=True)
    return source.backend.asarray(more, source.dtype)


def with_weights(
    source: _AnySource, weights: Array | None, models: Array | None = None
) -> _AnySource:
    """Return the same rows with other weights; ``models``: the column that serves each model."""
    return replace(source, s=weights, models=models)


def with_labels(
    source: _AnySource,
    labels: Array,
    targets: Array | None = None,
    positives: Array | None = None,
) -> _AnySource:
    """Return the same rows with other labels.

    ``targets``: the column that serves each model; ``positives``: the class that is 1 for each.
    """
    return replace(source, y=labels, targets=targets, positives=positives, classes=None)


def with_standard(source: _AnySource, standard: Standard | None) -> _AnySource:
    """Return the same rows, standardized in this way instead of that they had."""
    return source if standard is source.standard else replace(source, standard=standard)


def as_it_is(source: _AnySource) -> _AnySource:
    """Return the rows themselves: copies of each block in another dtype would cost too much."""
    return source


def anywhere(source: Source, batch_size: int) -> None:
    """Return None: an epoch is shuffled among all rows."""
    del source, batch_size


def in_order(source: _AnySource) -> tuple[_AnySource, None]:
    """Return the rows themselves: products read all of each row."""
    return source, None


def take(source: _AnySource, models: Array) -> _AnySource:
    """Return the same rows for a stack of these models only; nothing is copied."""
    xp, standard = source.backend.xp, source.standard
    if standard is not None and standard.centre.shape[1:] > (1,):
        own = standard._make(xp.take(a, models, axis=1) for a in standard)
        source = with_standard(source, own)

    def kept(a: Array | None, own: Array | None) -> Array | None:
        if own is not None:
            return xp.take(own, models)
        return None if a is None or math.prod(a.shape[1:]) == 1 else models

    weights, labels = kept(source.s, source.models), kept(source.y, source.targets)
    own = kept(None, source.positives)
    if weights is None and labels is None and own is None:
        return source
    return replace(source, models=weights, targets=labels, positives=own)


def check_classes(source: Labelled, k: int, m: int) -> None:
    """Raise ArgumentError if y holds other codes than 0 … k − 1, or is not for m models.

    The labels are read once.
    """
    y, s, positives = source.y, source.s, source.positives
    if positives is None:
        _check_columns("y", y, "targets", source.targets, m)
    else:
        _check_positives(source, positives, m)
    if source.classes is None:
        try:
            low, high = _range(y, source.backend)
        except (TypeError, NotImplementedError):  # traced, or meta: there are no values
            return
        at = low.argmin()
        if low[at] < 0:
            msg = f"y must hold class codes from 0 on; it goes from {low[at]} to {high[at]}"
            raise ArgumentError(msg + _in_column(low, at))
        if s is not None:
            check_weights(s)
        _check_chosen(source, "targets", y, source.targets)
        if positives is not None and (least := _range(positives, source.backend).min()) < 0:
            msg = f"positives must be class codes from 0 on; they begin at {least}"
            raise ArgumentError(msg)
        _check_chosen(source, "models", s, source.models)
        classes = int(high.max()) + 1 if positives is None else 2
        object.__setattr__(source, "classes", classes)
    if s is not None:
        _check_columns("s", s, "models", source.models, m)
    if source.classes is not None and source.classes > k:
        high = _range(y, source.backend)[1] if y.ndim > 1 else np.zeros(1)
        msg = (
            f"k must be the number of classes, at least {source.classes} for class codes y up to "
            f"{source.classes - 1}{_in_column(high, high.argmax())}, got {k}"
        )
        raise ArgumentError(msg)


def _check_columns(name: str, a: Array, chosen: str, columns: Array | None, m: int) -> None:
    """Raise ArgumentError unless a column is for all of m models, or one is for each."""
    given = math.prod(a.shape[1:])
    if columns is not None:
        check_array(chosen, columns, ndim=1, kind="integral")
        if a.ndim < 2 or columns.ndim > 1:
            shapes = f"{tuple(columns.shape)} for {name} of shape {tuple(a.shape)}"
            msg = f"{chosen} must choose a column of {name} for each model, ({m},), got {shapes}"
            raise ArgumentError(msg)
        given = columns.shape[0]
    if given != m and (given != 1 or columns is not None):
        msg = f"{name} must have one column for all models, or one for each of the {m}, got {given}"
        raise ArgumentError(msg)


def _check_positives(source: Labelled, positives: Array, m: int) -> None:
    """Raise ArgumentError unless a class is given for each of m models, and a column of labels."""
    check_array("positives", positives, ndim=1, kind="integral")
    if positives.shape[0] != m or math.prod(source.y.shape[1:]) != 1 or source.targets is not None:
        msg = (
            f"positives must be the class that is 1 for each of the {m} models, ({m},), with y of "
            f"shape (n,) and no targets, got {tuple(positives.shape)} for y of shape "
            f"{tuple(source.y.shape)}"
        )
        raise ArgumentError(msg)


def _check_chosen(source: Labelled, name: str, a: Array | None, columns: Array | None) -> None:
    """Raise ArgumentError where a model is given a column that there is not."""
    if a is not None and columns is not None:
        low, high = _range(columns, source.backend)
        if low.min() < 0 or high.max() >= a.shape[1]:
            ends = f"they go from {low.min()} to {high.max()}"
            msg = f"{name} must be columns from 0 to {a.shape[1] - 1}; {ends}"
            raise ArgumentError(msg)


def _range(integers: Array, backend: Backend) -> HostArray:
    """Return the least and the greatest integer of each column ``(2, L)``."""
    xp = backend.xp
    ends = xp.stack([xp.min(integers, axis=0), xp.max(integers, axis=0)])
    return np.reshape(backend.to_host(ends), (2, -1))


def _in_column(codes: HostArray, column: Any) -> str:
    return f" in column {column}" if len(codes) > 1 else ""


def weights_held(source: Labelled) -> Array | None:
    """Return the weights of the rows held; None is 1 everywhere."""
    if source.s is not None or not source.padding:
        return source.s
    there = (np.arange(source.held) < source.n)[:, None]
    return source.backend.asarray(there, source.dtype)


def chosen(source: Labelled, rows: int, spacing: int = 1) -> tuple[Array, Array]:
    """Return which rows to sample, evenly spaced in their weights, and the weights these then have.

    They are in order; of every so-manieth row, if asked for.
    """
    xp, (share, sums), weights = source.backend.xp, source.shares, source.s
    assert weights is not None
    if spacing > 1:
        share, weights = spacing * share[::spacing], weights[::spacing, :]
        sums = xp.cumulative_sum(share)
    index, s = source.backend.compile(_sampled, rows, xp)(share, sums, weights)
    return (index * spacing if spacing > 1 else index), s


def sample(source: Source, rows: int) -> Block:
    """Return at most ``rows`` rows, evenly spaced in their weights."""
    n, xp, asarray = source.n, source.backend.xp, source.backend.asarray
    step, spacing = -(-n // rows), source.spacing
    step = step if step < spacing else -(-step // spacing) * spacing
    if n <= rows or (source.s is None and not source.padding):
        some = slice(0, source.held, step)
        return _labelled(source, source.gathered(some), some)
    if source.s is not None:
        apart = spacing if step >= spacing and _alike(source, spacing) else 1
        index, s = chosen(source, rows, apart)
    else:
        where = np.arange(0, n, step)
        there = np.ones((len(where), 1))
        more = source.backend.padding(source.gathered(slice(1)), len(where))
        index = padded(where, more, backend=source.backend)
        s = asarray(padded(there, more, backend=source.backend, weigh=True), source.dtype)
    y = None if source.y is None else xp.take(source.y, index, axis=0)
    return _block(source, source.gathered(index), y, s)


def _alike(source: Source, spacing: int) -> bool:
    """Whether every so-manieth row is weighted as all rows are."""
    if spacing == 1:
        return True
    share, sums = source.shares
    part = spacing * source.backend.xp.sum(share[::spacing]) / sums[-1]
    return abs(float(source.backend.to_host(part)) - 1.0) < _ALIKE


def row_bytes(source: Source, scores: int) -> int:
    """Return the bytes of a row, with about four arrays of scores, and a copy if one is made."""
    xp, p, standard = source.backend.xp, source.p, source.standard
    row = xp.finfo(source.dtype).bits // 8 * (p + 4 * scores)
    if standard is None or not copies(standard, source.dtype):
        return row
    return row + xp.finfo(standard.centre.dtype).bits // 8 * p


def rows_per_block(source: Source, scores: int) -> int:
    """Return how many rows keep X and about four arrays of scores in the byte budget."""
    row = row_bytes(source, scores)
    few = min(_FEW_ROWS, _FEW_BYTES // row)
    rows = max(few, source.block_bytes // row)
    return max(1, min(source.held, rows, source.budget.bytes // row))


def _by_kernel(
    source: Source, kernel: Kernel, args: tuple[Any, ...], stored: tuple[Array, slice]
) -> tuple[Array, ...] | None:
    shared = Shared(None, source.models, source.targets, positives=source.positives)
    return kernel(_as_stored(source, *stored), shared, *args)


def _results(
    source: Source,
    function: Callable[..., Any],
    static: Sequence[Hashable],
    args: tuple[Any, ...],
    scores: int,
    kernel: Kernel | None = None,
    each: Sequence[Array] = (),
) -> Iterator[Any]:
    """Yield ``function(*static, block, *each, *args)`` of each block, by the kernel where it can.

    Where a block does not fit in memory, the pass goes on from there with blocks half as large.
    """
    backend, budget = source.backend, source.budget
    apply = compiled(source, function, *static)
    done = failed = 0

    def applied(stored: tuple[_Stored, slice]) -> Any:
        own = None if kernel is None else _by_kernel(source, kernel, args, stored)
        if own is not None:
            return own
        return apply(_labelled(source, *stored), *(a[stored[1], ...] for a in each), *args)

    while done < source.n:
        size = source.rows_per_block(scores)
        try:
            with closing(source.stored(done, size)) as blocks:
                # Blocks of sparse rows are large, where there is more than one.
                for result in backend.each(applied, blocks, at_once=source.sparse):
                    done = min(done + size, source.held)
                    if failed:
                        _warn(failed, size)
                        failed = 0
                    yield result
        except Exception as error:
            if not backend.out_of_memory(error):
                raise
            if size == 1:
                budget.bytes = sys.maxsize  # blocks are not what takes the memory
                raise
        else:
            break
        # Not in `except`: until its end, the traceback holds the arrays of the block that failed.
        failed = size if budget.bytes == sys.maxsize else failed
        budget.bytes = size // 2 * source.row_bytes(scores)
        gc.collect()  # an exception that crosses threads is part of a cycle
        backend.release_memory()


def _warn(failed: int, size: int) -> None:
    warn(
        f"out of memory with blocks of {failed} rows; this pass went on, and others will be made, "
        f"with {size} rows at a time: results are the same",
        RuntimeWarning,
    )


def map_(
    source: Source,
    function: Callable[..., Array],
    static: Sequence[Hashable],
    *args: Any,
    scores: int,
    each: Sequence[Array] = (),
) -> Iterator[Array]:
    """Yield ``function(*static, block, *each, *args)`` of each block, in order."""
    backend, left = source.backend, source.n
    for part in _results(source, function, static, args, scores, each=each):
        # Without the rows that were added, of which a block may be made alone.
        if left > 0:
            yield part if part.shape[0] <= left else backend.asarray(backend.near(part)[:left, ...])
        left -= part.shape[0]


def reduce(
    source: Source,
    function: Callable[..., tuple[Array, ...]],
    static: Sequence[Hashable],
    *args: Any,
    scores: int = 0,
    kernel: Kernel | None = None,
    each: Sequence[Array] = (),
) -> tuple[Array, ...]:
    """Return the sums over all blocks of ``function(*static, block, *each, *args)``."""
    parts: Any = _results(source, function, static, args, scores, kernel, each)
    with closing(parts):  # at once, though an error's traceback may hold them
        total, add = next(parts), operator.add
        for part in parts:
            total = tuple(map(add, total, part))
            add = operator.iadd  # into memory of its own
        return total
