"""Sparse rows on a device, where a library multiplies a CSR matrix with a dense one.

Products with a transposed matrix are 10 to 50 times slower in torch, and on a GPU may add up in
any order: Xᵀ is kept as rows of its own, made when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from xplinear.backends.base import host_reads
from xplinear.namespace import Array, HostArray, Namespace, device

__all__ = ["CSR", "Library", "Pattern", "csr"]


class Library(NamedTuple):
    """What a library on a device does for its matrices.

    ``multiply(values, pattern)`` gives what multiplies a matrix with a dense one, which
    ``laid_out`` brings in the order that suits it; ``owners(starts, total)`` the row of each of so
    many values; ``starts(owners, rows)`` the starts of so many rows, given that of each value in
    order. None of them waits for the device.
    """

    xp: Namespace
    move: Callable[[HostArray], Array]
    fetch: Callable[[Array], HostArray]
    multiply: Callable[[Array, Pattern], Callable[[Array], Array]]
    laid_out: Callable[[Array], Array]
    owners: Callable[[Array, int], Array]
    starts: Callable[[Array, int], Array]


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the values of a matrix stand: the column of each, and where each row starts."""

    indices: Array  # (nnz,)
    starts: Array  # (r + 1,)
    shape: tuple[int, int]
    library: Library

    @property
    def owners(self) -> Array:
        """The row of each value ``(nnz,)``."""
        return self.library.owners(self.starts, self.indices.shape[0])

    @cached_property
    def transposed(self) -> tuple[Array, Pattern]:
        """The order of the values in Xᵀ, and its pattern."""
        (r, p), xp = self.shape, self.library.xp
        order = xp.argsort(self.indices, stable=True)
        starts = self.library.starts(xp.take(self.indices, order), p)
        return order, Pattern(xp.take(self.owners, order), starts, (p, r), self.library)


@dataclass(frozen=True, eq=False)
class CSR:
    """Compressed rows on a device, a `SparseMatrix`.

    Parameters
    ----------
    values : Array of shape (nnz,)
    pattern : Pattern
        Shared by all matrices that have it, with that of Xᵀ.
    ends : ndarray of shape (r + 1,)
        Where rows start, on the host: to find some of them, nobody has to wait.
    """

    values: Array
    pattern: Pattern
    ends: HostArray

    @property
    def shape(self) -> tuple[int, int]:
        return self.pattern.shape

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    @property
    def nnz(self) -> int:
        return self.values.shape[0]

    @property
    def indices(self) -> Array:
        return self.pattern.indices

    @property
    def starts(self) -> Array:
        return self.pattern.starts

    @property
    def owners(self) -> Array:
        """The row of each value."""
        return self.pattern.owners

    @cached_property
    def _product(self) -> Callable[[Array], Array]:
        return self.pattern.library.multiply(self.values, self.pattern)

    @cached_property
    def _transposed_product(self) -> Callable[[Array], Array]:
        (order, pattern), library = self.pattern.transposed, self.pattern.library
        return library.multiply(library.xp.take(self.values, order), pattern)

    def times(self, D: Array) -> Array:
        """Return XD ``(r, d)``."""
        return self._product(self.laid_out(D))

    def transposed_times(self, G: Array) -> Array:
        """Return XᵀG ``(p, d)``."""
        return self._transposed_product(self.laid_out(G))

    def laid_out(self, D: Array) -> Array:
        """Return a dense array as the library's products read it."""
        return self.pattern.library.laid_out(D)

    def rows(self, index: slice | Array) -> CSR:
        """Return some rows; indices had better be on the host."""
        library, (r, p) = self.pattern.library, self.shape
        if isinstance(index, slice):
            start, stop, step = index.indices(r)
            if step == 1:
                return self._run(start, max(start, stop))
            index = np.arange(start, stop, step)
        elif not isinstance(index, np.ndarray):
            host_reads.count += 1
            index = library.fetch(index)
        first, last = self.ends[index], self.ends[index + 1]
        ends = np.append(first[:0], [0, *np.cumsum(last - first)]).astype(self.ends.dtype)
        starts, shift = map(library.move, (ends, first - ends[:-1]))
        owners, xp = library.owners(starts, int(ends[-1])), library.xp
        at = xp.arange(owners.shape[0], dtype=owners.dtype, device=device(owners))
        at = at + xp.take(shift, owners)
        pattern = Pattern(xp.take(self.indices, at), starts, (len(index), p), library)
        return CSR(xp.take(self.values, at), pattern, ends)

    def _run(self, start: int, stop: int) -> CSR:
        first, last = map(int, self.ends[[start, stop]])
        starts, ends = (a[start : stop + 1] - first for a in (self.starts, self.ends))
        shape, library = (stop - start, self.shape[1]), self.pattern.library
        return CSR(
            self.values[first:last],
            Pattern(self.indices[first:last], starts, shape, library),
            ends,
        )

    def columns(self, index: Array) -> Array:
        """Return some columns ``(r, q)``, dense."""
        xp, q = self.pattern.library.xp, index.shape[0]
        chosen = xp.zeros((self.shape[1], q), dtype=self.dtype, device=device(self.values))
        chosen[index, xp.arange(q, device=device(index))] = 1
        return self.times(chosen)

    def with_values(self, values: Array) -> CSR:
        """Return other values in the same places."""
        return replace(self, values=values)

    def astype(self, dtype: Any) -> CSR:
        """Return the matrix in another dtype; itself where it is that."""
        xp = self.pattern.library.xp
        return self if dtype == self.dtype else self.with_values(xp.astype(self.values, dtype))

    def to_dense(self) -> Array:
        """Return the matrix ``(r, p)``, dense."""
        xp = self.pattern.library.xp
        dense = xp.zeros(self.shape, dtype=self.dtype, device=device(self.values))
        dense[self.owners, self.indices] = self.values
        return dense


def csr(X: Any, library: Library) -> CSR:
    """Return compressed rows of SciPy, in canonical form, on the device of a library."""
    indices, starts = map(library.move, (X.indices, X.indptr))
    return CSR(library.move(X.data), Pattern(indices, starts, X.shape, library), X.indptr)
