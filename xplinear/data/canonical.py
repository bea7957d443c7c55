"""SciPy's sparse matrices at the door: one form of all, checked before any loop in C reads them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from xplinear.namespace import HostArray, name_of

__all__ = ["HostRows", "HostSparse", "canonical", "is_sparse", "sparse_pays"]

# SciPy's types say less than its documentation.
HostSparse: TypeAlias = Any  # a `scipy.sparse.csr_array`
HostRows: TypeAlias = HostArray | HostSparse

_LAST_SHORT = np.iinfo(np.int32).max
_LARGE = 2**30  # bytes
_HALVES = "float16", "bfloat16"  # SciPy multiplies neither


def is_sparse(X: Any) -> bool:
    """Return whether X is a sparse matrix or array of SciPy.

    Examples
    --------
    >>> is_sparse(sparse.eye_array(2)), is_sparse(np.eye(2))
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


def canonical(name: str, X: Any) -> HostSparse:
    """Return a sparse matrix as CSR: rows sorted, each entry once, none of them 0.

    Indices are of 32 bits where these suffice, values in the byte order of this machine, those of
    16 bits in float32 and longer ones than 64 bits in float64. Arrays that are so already are
    shared; X itself is never changed.

    Parameters
    ----------
    name : str
        Of the argument, for messages.
    X : sparse matrix or array
        Of two axes, in any of SciPy's formats.

    Raises
    ------
    ValueError
        If X has other than two axes or no real numbers, or its parts do not belong together.

    Examples
    --------
    >>> rows = sparse.csr_array(([2.0, 1.0, 3.0, 0.0], [1, 0, 1, 0], [0, 3, 4]), shape=(2, 2))
    >>> rows = canonical("X", rows)
    >>> rows.data, rows.indices, rows.indptr
    (array([1., 5.]), array([0, 1], dtype=int32), array([0, 2, 2], dtype=int32))
    """
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
    if not rows.has_canonical_format or not rows.data.all():
        rows = rows.copy()
        rows.sum_duplicates()
        rows.eliminate_zeros()
    if max(*rows.shape, rows.nnz) <= _LAST_SHORT:
        rows.indices, rows.indptr = (
            a.astype(np.int32, copy=False) for a in (rows.indices, rows.indptr)
        )
    if rows.data.itemsize > 8:
        rows.data = _doubles(name, rows)
    return rows


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
    rows = sparse.csr_array(own.tocsr())
    rows.data = _plain(rows.data)
    rows.check_format(full_check=True)
    return rows


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
