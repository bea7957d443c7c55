"""Sparse matrices as products with dense ones: compressed rows of SciPy, or of another library.

The only file that imports ``scipy.sparse``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np

from xplinear.namespace import Array, HostArray, name_of

__all__ = ["ScipyRows", "SparseMatrix", "canonical", "is_scipy", "is_sparse"]

_Scipy: TypeAlias = Any  # csr_array: SciPy has no types


class SparseMatrix(Protocol):
    """Compressed rows ``(r, p)``: their values, the columns of these, and where each row starts.

    Columns rise within each row. Arrays are of one library, on one device.
    """

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def nnz(self) -> int: ...
    @property
    def values(self) -> Array: ...  # (nnz,)
    @property
    def indices(self) -> Array: ...  # (nnz,)
    @property
    def starts(self) -> Array: ...  # (r + 1,)
    @property
    def owners(self) -> Array:
        """The row of each value ``(nnz,)``."""
        ...

    def times(self, D: Array) -> Array:
        """Return XD ``(r, d)`` of a dense ``D (p, d)``, fastest where each of its rows is together.

        See `laid_out`.
        """
        ...

    def transposed_times(self, G: Array) -> Array:
        """Return XᵀG ``(p, d)`` of a dense ``G (r, d)``."""
        ...

    def laid_out(self, D: Array) -> Array:
        """Return a dense array with what belongs to each of its rows together in memory."""
        ...

    def rows(self, index: slice | Array) -> SparseMatrix:
        """Return some rows; those of a slice of step 1 are not copied."""
        ...

    def columns(self, index: Array) -> Array:
        """Return some columns ``(r, q)``, dense."""
        ...

    def with_values(self, values: Array) -> SparseMatrix:
        """Return other values in the same places."""
        ...

    def astype(self, dtype: Any) -> SparseMatrix:
        """Return the matrix in another dtype; itself where it is that."""
        ...

    def to_dense(self) -> Array:
        """Return the matrix ``(r, p)``, dense."""
        ...


def is_sparse(X: Any) -> TypeGuard[SparseMatrix]:
    """Return whether X is one of the matrices of this file, and no array."""
    return hasattr(type(X), "transposed_times")


def is_scipy(X: Any) -> bool:
    """Return whether X is a sparse matrix or array of SciPy, of any format.

    Examples
    --------
    >>> is_scipy(np.eye(3))
    False
    """
    # Who has one has imported SciPy's.
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and sparse.issparse(X)


def canonical(X: Any) -> _Scipy:
    """Return SciPy's sparse matrix as compressed rows: sorted, without duplicates, X unchanged.

    Indices are int32 where they fit; values of half precision become float32, those longer than
    float64 float64: SciPy has no products of these.
    """
    from scipy.sparse import csr_array

    rows = csr_array(X)  # shares memory with what is one already
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    values = rows.data.astype(_computable(rows.data.dtype), copy=False)
    small = max(*rows.shape, rows.nnz) < 2**31
    index = np.int32 if small else np.int64
    parts = (a.astype(index, copy=False) for a in (rows.indices, rows.indptr))
    return csr_array((values, *parts), shape=rows.shape)


def _computable(dtype: Any) -> Any:
    native = dtype.newbyteorder("=")
    return {"float16": np.dtype(np.float32), "longdouble": np.dtype(np.float64)}.get(
        "longdouble" if native == np.longdouble else name_of(native), native
    )


@dataclass(frozen=True, eq=False)
class ScipyRows:
    """Compressed rows of SciPy, in canonical form.

    Examples
    --------
    >>> from scipy.sparse import eye_array
    >>> X = ScipyRows(canonical(eye_array(3)))
    >>> X.rows(slice(1, 3)).times(np.asarray([[5.0], [6.0], [7.0]])).tolist()
    [[6.0], [7.0]]
    """

    matrix: _Scipy

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def dtype(self) -> Any:
        return self.matrix.dtype

    @property
    def nnz(self) -> int:
        return len(self.matrix.data)

    @property
    def values(self) -> HostArray:
        return self.matrix.data

    @property
    def indices(self) -> HostArray:
        return self.matrix.indices

    @property
    def starts(self) -> HostArray:
        return self.matrix.indptr

    @cached_property
    def owners(self) -> HostArray:
        """The row of each value."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.starts))

    @cached_property
    def _transposed(self) -> _Scipy:
        return self.matrix.T  # the same arrays, as compressed columns

    def times(self, D: HostArray) -> HostArray:
        """Return XD ``(r, d)``."""
        return self.matrix @ D

    def transposed_times(self, G: HostArray) -> HostArray:
        """Return XᵀG ``(p, d)``."""
        return self._transposed @ G

    def laid_out(self, D: HostArray) -> HostArray:
        """Return a dense array in C order: SciPy would copy any other for every product."""
        return np.ascontiguousarray(D)

    def rows(self, index: slice | HostArray) -> ScipyRows:
        """Return some rows."""
        if not isinstance(index, slice):
            return ScipyRows(self.matrix[index])
        start, stop, step = index.indices(self.shape[0])
        if step != 1:
            return ScipyRows(self.matrix[index])
        starts = self.starts[start : max(start, stop) + 1]
        inside = slice(starts[0], starts[-1])
        parts = self.values[inside], self.indices[inside], starts - starts[0]
        return self._like(parts, len(starts) - 1)

    def columns(self, index: HostArray) -> HostArray:
        """Return some columns ``(r, q)``, dense."""
        return self.matrix[:, index].toarray()

    def with_values(self, values: HostArray) -> ScipyRows:
        """Return other values in the same places."""
        return self._like((values, self.indices, self.starts), self.shape[0])

    def _like(self, parts: tuple[HostArray, ...], r: int) -> ScipyRows:
        return ScipyRows(type(self.matrix)(parts, shape=(r, self.shape[1])))

    def astype(self, dtype: Any) -> ScipyRows:
        """Return the matrix in another dtype."""
        same = self.dtype == dtype
        return self if same else self.with_values(self.values.astype(dtype))

    def to_dense(self) -> HostArray:
        """Return the matrix ``(r, p)``, dense."""
        return self.matrix.toarray()
