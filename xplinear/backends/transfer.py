"""Rows that go from the host to a device: read ahead by a thread, copied beside the computation."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from functools import cache, partial
from itertools import islice
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from xplinear.namespace import Array, HostArray

__all__ = [
    "Copier",
    "RowIndices",
    "Slices",
    "ahead",
    "read_ahead",
    "read_rows",
    "sequence_of",
    "upload_ahead",
]

_Made = TypeVar("_Made")
RowIndices: TypeAlias = "range | HostArray"  # a run of rows, or the indices of some

# A core copies 5 to 10 GB/s, a bus 25 to 55. More than these would wait for the memory.
_READERS = 8
_PART_BYTES = 2**22  # read at a time: 0.5 ms
_FILE_READERS = 2  # at least: one waits for the disk while another unpacks a chunk
_AHEAD_BYTES = 2**28  # of what is read ahead of a computation, if that is more than a piece
_RUN_BYTES = 2**24  # of rows that lie apart, read together with those between them


@runtime_checkable
class Slices(Protocol):
    """Rows that are in no array, of which any contiguous run can be read."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def chunk(self) -> int:
        """How many rows are stored together: runs that begin and end there cost least."""
        ...

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write rows to an array of their shape; several threads may call it."""
        ...


def sequence_of(X: Slices) -> int:
    """Return how many rows of a file are read in their order, or else again from the first of them.

    A source where that is more than one has an attribute ``sequence``.
    """
    return getattr(X, "sequence", 1)


def read_rows(X: HostArray | Slices, rows: RowIndices, buffer: HostArray) -> HostArray:
    """Return some rows of a host array, written to the first rows of a buffer.

    Examples
    --------
    >>> read_rows(np.arange(5), np.asarray([3, 1]), np.zeros(4, dtype=int))
    array([3, 1])
    """
    into = buffer[: len(rows)]
    if not isinstance(X, np.ndarray):
        _read_runs(X, rows, into)
    elif isinstance(rows, range):
        stop = None if rows.stop < 0 else rows.stop  # of a run down to row 0
        np.copyto(into, X[rows.start : stop : rows.step])
    elif X.flags.c_contiguous and X.flags.aligned and X.dtype == into.dtype:
        np.take(X, rows, 0, into, "clip")  # only "clip" writes straight there; indices are valid
    else:  # `take` would first copy all of X
        order = np.argsort(rows)  # columns are read along the memory
        into[order] = X[rows[order]]
    return into


def _read_runs(X: Slices, rows: RowIndices, into: HostArray) -> None:
    """Read rows in runs: those of one chunk, or of chunks side by side, together."""
    if isinstance(rows, range) and rows.step == 1:
        X.read(rows.start, rows.stop, into)
        return
    rows = np.asarray(rows)
    order = np.argsort(rows, kind="stable")
    chunks = rows[order] // X.chunk
    row_bytes = into.nbytes // len(into)
    most = max(1, _RUN_BYTES // (X.chunk * row_bytes))  # chunks
    ends = (np.diff(chunks) > 1) | (np.diff(chunks // most) > 0)
    for at in np.split(order, np.flatnonzero(ends) + 1):
        own = rows[at]
        first, last = int(own[0]), int(own[-1]) + 1
        if (np.diff(own) == 1).all() and (np.diff(at) == 1).all():
            X.read(first, last, into[at[0] : at[-1] + 1])
        else:
            run = np.empty((last - first, *into.shape[1:]), into.dtype)
            X.read(first, last, run)
            into[at] = run[own - first]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_READERS, _cores()), "xplinear-reader")


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_readers.cache_clear)


def _read_together(X: HostArray | Slices, rows: RowIndices, buffer: HostArray) -> None:
    """Read as `read_rows` does, by several threads: NumPy copies without the interpreter."""
    size = max(1, _PART_BYTES * len(buffer) // max(1, buffer.nbytes))
    if not isinstance(X, np.ndarray):
        size = -(-size // X.chunk) * X.chunk

    def read(start: int) -> None:
        read_rows(X, rows[start : start + size], buffer[start : start + size])

    if len(rows) <= size:
        read(0)
    else:
        parts = [_readers().submit(read, start) for start in range(0, len(rows), size)]
        wait(parts)  # whoever learns of an error may give the buffer away
        for part in parts:
            part.result()


def ahead(
    calls: Iterable[Callable[[], _Made]], threads: int = 1, pieces: int = 1
) -> Generator[_Made]:
    """Yield what calls return, in order; threads make the next meanwhile.

    So many ``pieces`` are being made, or wait. A call is taken here; where that is one, when what
    was yielded before the last one is done with.
    """
    executor, calls = ThreadPoolExecutor(min(threads, pieces)), iter(calls)
    try:
        coming = deque(executor.submit(call) for call in islice(calls, pieces))
        while coming:
            made = coming.popleft().result()
            coming.extend(executor.submit(call) for call in islice(calls, 1))
            yield made
    finally:
        executor.shutdown(cancel_futures=True)


def read_ahead(X: HostArray | Slices, pieces: Sequence[RowIndices]) -> Generator[HostArray]:
    """Yield pieces of the rows of a host array, copied; a thread reads the next one meanwhile.

    Of a file several threads read several pieces ahead, as many as memory is meant for. Each has
    memory of its own, which `Backend.move` may share.

    Examples
    --------
    >>> [rows.tolist() for rows in read_ahead(np.arange(5), [range(3), np.asarray([4, 0])])]
    [[0, 1, 2], [4, 0]]
    """
    shape, dtype = (max(map(len, pieces)), *X.shape[1:]), X.dtype.newbyteorder("=")

    # Memory is made in this thread, where it is used again: another's would be new, page by page.
    reads = (partial(read_rows, X, piece, np.empty(shape, dtype)) for piece in pieces)
    if isinstance(X, np.ndarray):
        return ahead(reads)
    readers = max(_FILE_READERS, min(_READERS, _cores()))
    most = _AHEAD_BYTES // max(1, math.prod(shape) * dtype.itemsize)
    return ahead(reads, readers, max(1, min(readers + 1, most)))


class Copier(Protocol):
    """Two pinned buffers on the host, two on the device, and a stream that copies between them.

    The computation runs in another stream. ``slot`` is 0 or 1.
    """

    def mark(self) -> Any:
        """Return an event at the end of what the computation has been given so far."""
        ...

    def pinned(self, slot: int) -> HostArray:
        """Return a buffer to fill, as soon as what was in it has been copied."""
        ...

    def copy(self, slot: int, rows: int, free: Any) -> Array:
        """Copy the first rows, once the event ``free`` has come; return where they will be."""
        ...

    def await_copy(self, slot: int) -> None:
        """Let the computation wait for the copy."""
        ...

    def finish(self) -> None:
        """Wait until nothing is being copied."""
        ...


def upload_ahead(
    X: HostArray | Slices,
    pieces: Sequence[RowIndices],
    *,
    copier: Callable[[tuple[int, ...], Any], Copier],
) -> Generator[Array]:
    """Yield pieces of the rows of a host array on the device, each until the next is asked for.

    Meanwhile threads read the next one into pinned memory, and a stream of its own copies it.
    ``copier`` is given the shape and the dtype of the buffers.
    """
    shape = (max(map(len, pieces)), *X.shape[1:])
    copies = copier(shape, X.dtype.newbyteorder("="))

    def make(i: int, free: Any) -> Array:
        _read_together(X, pieces[i], copies.pinned(i % 2))
        # The buffer was last used for piece i − 2; `free` comes after its computation.
        return copies.copy(i % 2, len(pieces[i]), free)

    calls = (partial(make, i, copies.mark()) for i in range(len(pieces)))
    try:
        with closing(ahead(calls)) as uploaded:
            for i, rows in enumerate(uploaded):
                copies.await_copy(i % 2)
                yield rows
    finally:
        copies.finish()  # nobody else may be given the buffers before
