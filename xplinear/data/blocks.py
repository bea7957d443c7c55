"""What all sources of rows have in common: weights, and full passes within the memory there is."""

from __future__ import annotations

import gc
import math
import sys
import warnings
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from xplinear.backends.base import Backend
from xplinear.data.protocol import Batch, Block, Standard
from xplinear.namespace import Array, Namespace, accumulator, array_namespace, device

__all__ = [
    "Budget",
    "Source",
    "joined",
    "labelled",
    "minibatch",
    "of_models",
    "padded",
    "results",
    "rows_per_block",
    "sampled",
    "shares",
    "shuffled",
    "standardized",
    "sums",
    "take",
    "unpadded",
    "weight_sum",
]

_FEW_ROWS = 256  # a block of fewer rows wastes the matrix product ...
_FEW_BYTES = 64 * 2**20  # ... unless even these would take more than this


@dataclass
class Budget:
    """Bytes a block may take: no limit, until the device has run out of memory."""

    bytes: int = sys.maxsize


class Source(Protocol):
    """What the functions below need to know of a source of rows."""

    @property
    def backend(self) -> Backend: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def n(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def p(self) -> int: ...
    @property
    def y(self) -> Array: ...
    @property
    def s(self) -> Array | None: ...
    @property
    def weights(self) -> Array | None: ...
    @property
    def models(self) -> Array | None: ...
    @property
    def targets(self) -> Array | None: ...
    @property
    def standard(self) -> Standard | None: ...
    @property
    def budget(self) -> Budget: ...
    def stored(self, start: int, size: int) -> Generator[tuple[Array, slice]]:
        """Yield rows of X from ``start`` on, ``size`` at a time, and which rows they are.

        They last until the next ones are asked for.
        """
        ...


_AnySource = TypeVar("_AnySource", bound=Source)


def shuffled(n: int, seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.int32 | np.int64]]:
    """Return the row order ``(n,)`` of one epoch, from NumPy's generator on every backend.

    Examples
    --------
    >>> shuffled(5, seed=0, epoch=0)
    array([2, 4, 3, 0, 1], dtype=int32)
    """
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    return order.permutation(n).astype(np.int32 if n < 2**31 else np.int64)


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


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Return memory that JAX shares instead of copying it."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def unpadded(source: Source, parts: Iterator[Array]) -> Iterator[Array]:
    """Yield what there is of each row, block by block, without the rows that were added."""
    backend, left = source.backend, source.n
    for part in parts:
        if part.shape[0] > left:
            yield backend.asarray(backend.near(part)[:left, ...])
        else:
            yield part
        left -= part.shape[0]


def joined(parts: Sequence[Array], *, backend: Backend) -> Array:
    """Return what there is of all rows, of the parts that `Data.map` gives."""
    near = [backend.near(part) for part in parts] if len(parts) > 1 else []
    if near and all(isinstance(part, np.ndarray) for part in near):
        return backend.asarray(np.concatenate(near))
    return backend.xp.concat(parts, axis=0)


def minibatch(
    update: Callable[..., Any],
    static: tuple[Hashable, ...],
    xp: Namespace,
    dtype: Any,
    carry: Any,
    rows: tuple[Any, ...],
    factor: float | Array,
    models: Array | None,
    targets: Array | None,
    standard: Standard | None,
    *args: Any,
) -> Any:
    """Return ``update`` of a batch as it is stored; what `Backend.fold` is given.

    ``rows`` are X, y and s, and how many of them count if not all do.
    """
    X, y, s, *count = rows
    X = standardized(X, dtype, standard, xp=xp)
    y, s, n = of_models(y, targets, xp=xp), of_models(s, models, xp=xp), X.shape[0]
    if count:
        there = xp.arange(n, dtype=xp.int32, device=device(X))[:, None] < count[0]
        there, n = xp.astype(there, dtype), xp.astype(count[0], dtype)
        s = there if s is None else there * s
    return update(*static, carry, Batch(X, y, s, n), factor, *args)


def standardized(X: Array, dtype: Any, standard: Standard | None, *, xp: Namespace) -> Array:
    """Return rows as they are stored in the dtype of the computation, standardized if asked."""
    if standard is None:
        return xp.astype(X, dtype, copy=False)
    # In the dtype of the standard: another may not hold what is stored before it is brought near.
    X = xp.astype(X, standard.centre.dtype, copy=False)
    return xp.astype((X - standard.centre) * standard.scale, dtype, copy=False)


def of_models(a: Array | None, columns: Array | None, *, xp: Namespace) -> Array | None:
    """Return the weights or labels of each model, given its column."""
    return a if a is None or columns is None else xp.take(a, columns, axis=1)


def shares(source: Source) -> tuple[Array, Array]:
    """Return the share ``(n,)`` of each row in the weights, mean of the columns, and their sums."""
    xp, s = source.backend.xp, cast(Array, source.s)
    wide = accumulator(s, xp=xp)
    total = xp.sum(s, axis=0, dtype=wide)
    part = xp.astype(1.0 / xp.where(total > 0, total, 1.0) / s.shape[1], s.dtype)
    share = xp.astype(s @ part, wide)
    return share, xp.cumulative_sum(share)


def sampled(share: Array, sums: Array, rows: int, *, xp: Namespace) -> tuple[Array, Array]:
    """Return indices of rows, evenly spaced in the sums of their shares, and what share is made of.

    A row of no weight is never among them, and one that carries all the weight always is. To
    be weighted as all rows are, a row's weights are divided by its share times n.
    """
    n = share.shape[0]
    where = xp.astype(xp.arange(rows, dtype=xp.int32, device=device(share)), share.dtype)
    index = xp.searchsorted(sums, (where + 0.5) * (sums[-1] / rows), side="right")
    index = xp.where(index < n, index, n - 1)
    own = n * xp.take(share, index)
    return index, 1.0 / xp.where(own > 0, own, 1.0)


def labelled(source: Source, X: Array, rows: slice) -> Block:
    """Return rows in the dtype of the computation, with their labels and weights."""
    xp = source.backend.xp
    # Without labels nothing is summed, and rows that were added do not matter.
    weights = None if source.y is None else source.weights
    s = None if weights is None else weights[rows, :]
    y = None if source.y is None else source.y[rows, ...]
    X = standardized(X, source.dtype, source.standard, xp=xp)
    return Block(X, of_models(y, source.targets, xp=xp), of_models(s, source.models, xp=xp))


def weight_sum(source: Source) -> Array:
    """Return Σ_i s_ij, ``(1,)`` or ``(m,)``."""
    xp = source.backend.xp
    if source.s is None:
        like = xp.zeros((1,), **source.backend.kind(source.dtype))
        return xp.full_like(like, source.n, dtype=accumulator(like, xp=xp))
    total = xp.sum(source.s, axis=0, dtype=accumulator(source.s, xp=xp))
    return total if source.models is None else xp.take(total, source.models)


def take(source: _AnySource, models: Array) -> _AnySource:
    """Return the same rows for a stack of these models only; nothing is copied."""

    def kept(a: Array | None, own: Array | None) -> Array | None:
        if own is not None:
            return source.backend.xp.take(own, models)
        return None if a is None or math.prod(a.shape[1:]) == 1 else models

    weights, labels = kept(source.s, source.models), kept(source.y, source.targets)
    if weights is None and labels is None:
        return source
    return replace(cast(Any, source), models=weights, targets=labels)


def _row_bytes(source: Source, scores: int) -> int:
    xp, p, standard = source.backend.xp, source.p, source.standard
    row = xp.finfo(source.dtype).bits // 8 * (p + 4 * scores)
    return row if standard is None else row + xp.finfo(standard.centre.dtype).bits // 8 * p


def rows_per_block(source: Source, scores: int) -> int:
    """Return how many rows keep X and about four arrays of scores in the byte budget."""
    row = _row_bytes(source, scores)
    few = min(_FEW_ROWS, _FEW_BYTES // row)
    rows = max(few, source.backend.block_bytes // row)
    return max(1, min(source.held, rows, source.budget.bytes // row))


def results(
    source: Source,
    function: Callable[..., Any],
    static: Sequence[Hashable],
    args: tuple[Any, ...],
    scores: int,
) -> Iterator[Any]:
    """Yield ``function(*static, block, *args)`` of each block.

    Where a block does not fit in memory, the pass goes on from there with blocks half as large.
    """
    backend, budget = source.backend, source.budget
    apply = backend.compile(function, *static)
    done = failed = 0
    while done < source.n:
        size = rows_per_block(source, scores)
        try:
            for stop, result in _pass(source, apply, args, done, size):
                done = stop
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
        budget.bytes = size // 2 * _row_bytes(source, scores)
        gc.collect()  # an exception that crosses threads is part of a cycle
        backend.release_memory()


def _pass(
    source: Source, apply: Callable[..., Any], args: tuple[Any, ...], start: int, size: int
) -> Iterator[tuple[int, Any]]:
    """Yield the result of each block, with the row after its last."""

    def applied(stored: tuple[Array, slice]) -> Any:
        return apply(labelled(source, *stored), *args)

    with closing(source.stored(start, size)) as blocks:
        for result in source.backend.each(applied, blocks):
            start = min(start + size, source.held)
            yield start, result


def _warn(failed: int, size: int) -> None:
    warnings.warn(
        f"out of memory with blocks of {failed} rows; this pass went on, and others will be made, "
        f"with {size} rows at a time: results are the same",
        RuntimeWarning,
        stacklevel=3,
    )


def sums(parts: Iterator[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Return the sums of the blocks' results."""
    return reduce(lambda total, part: tuple(a + b for a, b in zip(total, part, strict=True)), parts)
