"""Rows that are not in memory: in files, in batches that come again, on a cluster."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np

from xplinear.backends.base import Backend
from xplinear.backends.halves import half_bounds
from xplinear.backends.transfer import Slices
from xplinear.data.protocol import Data
from xplinear.namespace import Array, HostArray, name_of

__all__ = [
    "KEPT_BYTES",
    "SAMPLED",
    "SAMPLED_BYTES",
    "RemoteRows",
    "Slices",
    "Survey",
    "checksum",
    "finite",
    "finite_bounds",
    "is_remote",
    "not_finite",
    "surveyed",
]

KEPT_BYTES = 2**28  # of rows that are read once, and then are an array
SAMPLED, SAMPLED_BYTES = 2**15, 2**26  # rows that are kept to be sampled, and what they may take
_LOOK_BYTES = 2**20  # the second look at rows finds them in the cache


class Survey(NamedTuple):
    """What one pass over all rows finds: the bounds ``(p,)`` of each column, and a digest."""

    low: HostArray
    high: HostArray
    digest: int  # of every number, in the order of the rows


class RemoteRows(Protocol):
    """X ``(n, p)`` at the door, where it is no array and no sparse matrix."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> Any:
        """NumPy's dtype of the numbers as they are stored."""
        ...

    @property
    def names(self) -> HostArray | None:
        """The names of the features, if they have any."""
        ...

    def targets(self, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Return y and weights of all rows, as arrays or tables on the host: what `fit` was given.

        ``y`` may be None, where labels come with the rows, or say where they are.
        """
        ...

    def survey(self, counted: HostArray | None = None) -> Survey:
        """Look at every number once; bounds are those of the rows that count, all if None.

        Raises
        ------
        ValueError
            If one is not finite: it names the row and the column.
        """
        ...

    def data(
        self,
        y: Array,
        s: Array | None = None,
        dtype: Any = None,
        *,
        backend: Backend,
        classes: int | None = None,
        counted: HostArray | None = None,
    ) -> Data:
        """Return the rows with labels and weights of all of them, for a computation.

        What stands in a row that is not ``counted``, if that is given, does not matter: of a weight
        that becomes 0, it may be huge.
        """
        ...

    def blocks(self) -> Generator[HostArray]:
        """Yield all rows in order, some at a time, finite: for predictions."""
        ...


def is_remote(X: Any) -> TypeGuard[RemoteRows]:
    """Return whether X is rows that are not in memory, and no array."""
    return hasattr(type(X), "survey")


def surveyed(blocks: Iterable[HostArray], counted: HostArray | None = None) -> Survey:
    """Return what is found in blocks of rows, in order; ``counted`` are indices, sorted.

    Raises
    ------
    ValueError
        If a number is not finite.

    Examples
    --------
    >>> surveyed([np.eye(2), np.zeros((1, 2))], np.asarray([1, 2]))[:2]
    (array([0., 0.]), array([0., 1.]))
    """
    first = digest = 0
    lows: list[HostArray] = []
    highs: list[HostArray] = []
    for X in blocks:
        digest = checksum(X, digest)
        low, high = finite_bounds(X, first)
        if counted is not None:
            own = counted[slice(*np.searchsorted(counted, [first, first + len(X)]))] - first
            low, high = finite_bounds(X[own], first) if len(own) < len(X) else (low, high)
        lows.append(low)
        highs.append(high)
        first += len(X)
    low, high = (np.concatenate(ends).reshape(-1, lows[0].shape[-1]) for ends in (lows, highs))
    return Survey(low.min(axis=0), high.max(axis=0), digest)


def checksum(a: HostArray, before: int = 0) -> int:
    """Return the CRC-32 of the numbers of an array, or of those ``before`` it and these."""
    return zlib.crc32(np.ascontiguousarray(a).view(np.uint8).data, before)


def finite(blocks: Generator[HostArray]) -> Generator[HostArray]:
    """Yield blocks of rows, in order; raise ValueError at a number that is not finite."""
    first = 0
    with closing(blocks):
        for X in blocks:
            finite_bounds(X, first)
            first += len(X)
            yield X


def finite_bounds(X: HostArray, first: int) -> tuple[HostArray, HostArray]:
    """Return the least and the largest value ``(b, p)`` of each column, of some rows at a time.

    Raises
    ------
    ValueError
        If one is not finite; ``first`` is the number of the first row.
    """
    half, short = X.dtype == np.float16, name_of(X.dtype) in ("bool", "bfloat16")  # slow, or none
    lows: list[HostArray] = []
    highs: list[HostArray] = []
    size = max(1, _LOOK_BYTES // max(1, X[:1].nbytes))
    for start in range(0, len(X), size):
        part = X[start : start + size]
        part = part.astype(np.float32) if short else part
        low, high = half_bounds(part) if half else (part.min(axis=0), part.max(axis=0))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            row, column = np.argwhere(~np.isfinite(part))[0]
            raise not_finite(part[row, column], first + start + row, column)
        lows.append(low)
        highs.append(high)
    none = X[:0].astype(np.float32) if short else X[:0]
    return np.stack(lows) if lows else none, np.stack(highs) if highs else none


def not_finite(number: Any, row: Any, column: Any) -> ValueError:
    """Return the error about a number that nothing can be computed with."""
    return ValueError(
        f"Input X contains NaN or infinity: {number} in row {row}, column {column}; impute it, or "
        "leave the row out"
    )
