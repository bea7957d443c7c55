"""What all sources of rows have in common: weights, mini-batches and full passes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import reduce
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from xplinear.backends.base import Backend
from xplinear.data.protocol import Block
from xplinear.namespace import Array, Namespace, accumulator

__all__ = [
    "Source",
    "labelled",
    "minibatch",
    "of_models",
    "results",
    "rows_per_block",
    "shuffled",
    "sums",
    "take",
    "weight_sum",
]

_FEW_ROWS = 256  # a block of fewer rows wastes the matrix product ...
_FEW_BYTES = 64 * 2**20  # ... unless even these would take more than this


class Source(Protocol):
    """What the functions below need to know of a source of rows."""

    @property
    def backend(self) -> Backend: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def n(self) -> int: ...
    @property
    def p(self) -> int: ...
    @property
    def y(self) -> Array: ...
    @property
    def s(self) -> Array | None: ...
    @property
    def models(self) -> Array | None: ...
    def blocks(self, start: int, size: int) -> Generator[Block]:
        """Yield the rows from ``start`` on, ``size`` at a time; a block lasts until the next."""
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


def minibatch(
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
    """Return ``update`` of a batch as it is stored; what `Backend.fold` is given."""
    X, y, s = batch
    block = Block(xp.astype(X, dtype, copy=False), y, of_models(s, models, xp=xp))
    return update(*static, carry, block, factor, *args)


def of_models(weights: Array | None, models: Array | None, *, xp: Namespace) -> Array | None:
    """Return the weights of each model, given its column."""
    if weights is None or models is None:
        return weights
    return xp.take(weights, models, axis=-1)


def labelled(source: Source, X: Array, rows: slice) -> Block:
    """Return rows in the dtype of the computation, with their labels and weights."""
    xp = source.backend.xp
    s = None if source.s is None else source.s[rows, :]
    y = None if source.y is None else source.y[rows]
    return Block(xp.astype(X, source.dtype, copy=False), y, of_models(s, source.models, xp=xp))


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
    if source.s is None or (source.s.shape[1] == 1 and source.models is None):
        return source
    own = source.models
    kept = models if own is None else source.backend.xp.take(own, models)
    return replace(cast(Any, source), models=kept)


def rows_per_block(source: Source, scores: int) -> int:
    """Return how many rows keep X and about four arrays of scores in the byte budget."""
    row = source.backend.xp.finfo(source.dtype).bits // 8 * (source.p + 4 * scores)
    few = min(_FEW_ROWS, _FEW_BYTES // row)
    return min(source.n, max(1, few, source.backend.block_bytes // row))


def results(
    source: Source,
    function: Callable[..., Any],
    static: Sequence[Hashable],
    args: tuple[Any, ...],
    scores: int,
) -> Iterator[Any]:
    """Yield ``function(*static, block, *args)`` of each block."""
    apply = source.backend.compile(function, *static)
    with closing(source.blocks(0, rows_per_block(source, scores))) as blocks:
        for block in blocks:
            yield apply(block, *args)


def sums(parts: Iterator[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Return the sums of the blocks' results."""
    return reduce(lambda total, part: tuple(a + b for a, b in zip(total, part, strict=True)), parts)
