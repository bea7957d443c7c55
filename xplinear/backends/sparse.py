"""Sparse matrices as products with dense ones: compressed rows of SciPy, or of another library.

What comes of SciPy is brought to one form, and checked before any loop in C reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
from scipy import sparse

from xplinear.namespace import Array, HostArray, name_of

__all__ = [
    "HostRows",
    "HostSparse",
    "ScipyRows",
    "SparseMatrix",
    "canonical",
    "filled",
    "is_scipy",
    "is_sparse",
    "sparse_bounds",
    "sparse_pays",
]

# SciPy's types say less than its documentation.
HostSparse: TypeAlias = Any  # a `scipy.sparse.csr_array`
HostRows: TypeAlias = Any  # one, or an array of NumPy

_LAST_SHORT = np.iinfo(np.int32).max
_LARGE = 2**30  # bytes
_HALVES = "float16", "bfloat16"  # SciPy multiplies neither


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
    >>> is_scipy(sparse.eye_array(2)), is_scipy(np.eye(2))
    (True, False)
    """
    return bool(sparse.issparse(X))


def sparse_pays(entries: int, shape: tuple[int, int], dtype: Any) -> bool:
    """Return whether a matrix of so many entries should be sparse: what nobody said otherwise of.

    Products are faster from about a quarter of the memory on; a large one stays sparse earlier.

    Examples
    --------
    >>> sparse_pays(100, (100, 20), np.float64), sparse_pays(400, (100, 20), np.float64)
    (True, False)
    """
    (n, p), size = shape, np.dtype(dtype).itemsize
    dense, rows = n * p * size, entries * (size + 4) + 4 * n
    return rows < (0.25 * dense if dense < _LARGE else dense)


def canonical(X: Any, name: str = "X") -> HostSparse:
    """Return a sparse matrix of SciPy as CSR: rows sorted, each entry once.

    Indices are of 32 bits where these suffice, values in the byte order of this machine, those of
    16 bits in float32 and longer ones than 64 bits in float64. Arrays that are so already are
    shared; X itself is never changed.

    Parameters
    ----------
    X : sparse matrix or array, or ScipyRows
        Of two axes, in any of SciPy's formats; the second are canonical.
    name : str
        Of the argument, for messages.

    Raises
    ------
    ValueError
        If X has other than two axes or no real numbers, or its parts do not belong together.

    Examples
    --------
    >>> rows = sparse.csr_array(([2.0, 1.0, 3.0, 0.0], [1, 0, 1, 0], [0, 3, 4]), shape=(2, 2))
    >>> rows = canonical(rows)
    >>> rows.data, rows.indices, rows.indptr
    (array([1., 5., 0.]), array([0, 1, 0], dtype=int32), array([0, 2, 3], dtype=int32))
    """
    if isinstance(X, ScipyRows):
        return X.matrix
    if X.ndim != 2:
        msg = (
            f"{name} must have two axes, samples and features; it has shape {X.shape}"
            + f": one sample is {name}.reshape(1, -1)" * (X.ndim == 1)
        )
        raise ValueError(msg)
    _check_numbers(name, X.dtype)
    kind = type(X).__name__
    try:
        rows = _as_csr(X)
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
        msg = (
            f"{name} is a {kind} whose parts do not belong together: {error}; make it anew: "
            f"scipy.sparse.coo_array((values, (rows, columns)), shape)"
        )
        raise ValueError(msg) from error
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    if max(*rows.shape, rows.nnz) <= _LAST_SHORT:
        rows.indices, rows.indptr = (
            a.astype(np.int32, copy=False) for a in (rows.indices, rows.indptr)
        )
    if rows.data.itemsize > 8:
        rows.data = _doubles(name, rows)
    return rows


def filled(X: HostSparse, columns: HostArray) -> HostSparse:
    """Return a canonical matrix with an entry in every row of these columns: 0 where it has none.

    Examples
    --------
    >>> filled(canonical(sparse.eye_array(2)), np.asarray([1])).data
    array([1., 0., 1.])
    """
    n, p = X.shape
    place = np.full(p, -1)
    place[columns] = np.arange(len(columns))
    row = np.repeat(np.arange(n, dtype=X.indices.dtype), np.diff(X.indptr))
    at = place[X.indices]
    there = np.zeros((n, len(columns)), dtype=bool)
    there[row[at >= 0], at[at >= 0]] = True
    more, missing = np.nonzero(~there)
    if not more.size:
        return X
    values = np.concatenate([X.data, np.zeros(len(more), X.dtype)])
    places = np.concatenate([row, more]), np.concatenate([X.indices, columns[missing]])
    return canonical(sparse.coo_array((values, places), shape=X.shape))


def _check_numbers(name: str, dtype: Any) -> None:
    if dtype.kind in "biuf" or name_of(dtype) in _HALVES:
        return
    msg = f"{name} is of dtype {dtype}, but features must be numbers: {name}.astype(float) converts"
    if dtype.kind == "c":
        msg = f"Complex data not supported: {name} is complex; pass its real part, {name}.real"
    raise ValueError(msg)


def _as_csr(X: Any) -> HostSparse:
    """Return a matrix as a new CSR array that shares its arrays where it can; each is checked."""
    if X.format in ("csr", "csc", "bsr"):
        _check_integers(indices=X.indices, indptr=X.indptr)
        parts = _plain(X.data), X.indices, X.indptr
        own = getattr(sparse, f"{X.format}_array")(parts, shape=X.shape)
        own.check_format(full_check=True)
    elif X.format == "coo":
        row, col = X.coords
        _check_integers(row=row, col=col)
        own = sparse.coo_array((_plain(X.data), (row, col)), shape=X.shape)
    elif X.format == "dia":
        _check_integers(offsets=X.offsets)
        own = sparse.dia_array((_plain(X.data), X.offsets), shape=X.shape)
    else:
        if X.format == "lil" and list(map(len, X.rows)) != list(map(len, X.data)):
            msg = "a row has more columns than values, or fewer"
            raise ValueError(msg)
        own = X
    if own.format != "csr":
        own = sparse.csr_array(own.tocsr())
        own.data = _plain(own.data)
        own.check_format(full_check=True)
    return own


def _check_integers(**indices: Any) -> None:
    for name, a in indices.items():
        if a.dtype.kind not in "iu":
            msg = f"{name} holds {a.dtype} instead of integers"
            raise ValueError(msg)


def _plain(values: HostArray) -> HostArray:
    """Return values in a dtype that SciPy computes with, which holds them exactly."""
    values = np.asarray(values)
    dtype = np.float32 if name_of(values.dtype) in _HALVES else values.dtype.newbyteorder("=")
    return values.astype(dtype, copy=False)


def _doubles(name: str, rows: HostSparse) -> HostArray:
    with np.errstate(over="ignore"):
        rounded = rows.data.astype(np.float64)
    beyond = np.flatnonzero(np.isinf(rounded) & np.isfinite(rows.data))
    if beyond.size:
        msg = (
            f"{name} holds values that float64 cannot hold, such as {rows.data[beyond[0]]!s} in "
            f"column {rows.indices[beyond[0]]}; scale it"
        )
        raise ValueError(msg)
    return rounded


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

    matrix: HostSparse

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
    def _transposed(self) -> HostSparse:
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

    def renumbered(self, place: HostArray) -> ScipyRows:
        """Return the rows with the columns where ``place (p,)`` says."""
        indices = place.astype(self.indices.dtype)[self.indices]
        rows = self._like((self.values.copy(), indices, self.starts), self.shape[0])
        rows.matrix.sort_indices()  # products are a third faster in float32
        return rows

    def _like(self, parts: tuple[HostArray, ...], r: int) -> ScipyRows:
        return ScipyRows(type(self.matrix)(parts, shape=(r, self.shape[1])))

    def astype(self, dtype: Any) -> ScipyRows:
        """Return the matrix in another dtype."""
        same = self.dtype == dtype
        return self if same else self.with_values(self.values.astype(dtype))

    def to_dense(self) -> HostArray:
        """Return the matrix ``(r, p)``, dense."""
        return self.matrix.toarray()


def sparse_bounds(X: HostSparse) -> tuple[HostArray, HostArray]:
    """Return the least and the largest value of each column; where none is stored it is 0."""
    n, p = X.shape
    values = X.data.view(np.int8) if X.dtype.kind == "b" else X.data
    info = (np.iinfo if values.dtype.kind in "iu" else np.finfo)(values.dtype)
    full = np.bincount(X.indices, minlength=p) == n
    low, high = (np.where(full, end, 0).astype(values.dtype) for end in (info.max, info.min))
    np.minimum.at(low, X.indices, values)
    np.maximum.at(high, X.indices, values)
    return low, high
