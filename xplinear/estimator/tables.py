"""Tables of pandas, polars and pyarrow as matrices and labels; the only file with narwhals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from xplinear.backends.sparse import HostRows, HostSparse, canonical, sparse_pays
from xplinear.namespace import HostArray, is_array

if TYPE_CHECKING:
    from narwhals.stable.v2 import DataFrame, Series

__all__ = ["matrix_of", "series_of", "table_of"]


def table_of(X: Any) -> DataFrame[Any] | None:
    """Return X as a table of narwhals if it is one of pandas, polars or pyarrow, else None.

    Raises
    ------
    TypeError
        If X is a table that is not computed yet.
    ValueError
        If it names two columns alike.
    """
    if is_array(X) or isinstance(X, (list, tuple)):
        return None
    import narwhals.stable.v2 as nw

    try:
        table = nw.from_native(X, pass_through=True)
    except nw.exceptions.DuplicateError as error:
        raise ValueError(" ".join(str(error).split())) from error
    if isinstance(table, nw.LazyFrame):
        msg = f"X is a lazy table, {type(X).__name__}; compute it first: .collect() or .compute()"
        raise TypeError(msg)
    return table if isinstance(table, nw.DataFrame) else None


def series_of(y: Any) -> Series[Any] | None:
    """Return y as a column of narwhals if it is one of pandas, polars or pyarrow, else None."""
    if is_array(y) or isinstance(y, (list, tuple)):
        return None
    import narwhals.stable.v2 as nw

    series = nw.from_native(y, pass_through=True, series_only=True)
    return series if isinstance(series, nw.Series) else None


def matrix_of(table: DataFrame[Any]) -> HostRows:
    """Return a table of numbers and truth values as a matrix, in the dtype that holds them all.

    Columns of Python objects that are numbers count as such. The matrix is sparse, and canonical,
    if all columns are sparse ones of pandas, or if some are and it then is much smaller.

    Raises
    ------
    ValueError
        If a column is of another type, or has missing values.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table = table_of(pa.table({"size": [1, 2], "new": [True, False]}))
    >>> matrix_of(table)
    array([[1, 1],
           [2, 0]])
    """
    import narwhals.stable.v2 as nw

    columns = list(table.iter_columns())
    # Objects may be numbers; pandas's sparse columns are of a type narwhals does not know.
    others = (nw.Boolean, nw.Object, nw.Unknown)
    nulls = [column.null_count() for column in columns]
    for column, count in zip(columns, nulls, strict=True):
        numeric = column.dtype.is_numeric() or any(column.dtype == other for other in others)
        if not numeric and count < len(table):  # of nothing but missing values any type is told
            raise _no_numbers(column)
    missing = [column.name for column, count in zip(columns, nulls, strict=True) if count > 0]
    if not missing:
        stored = [_stored(column) for column in columns]
        found = _sparse(columns, stored, len(table)) if any(stored) else None
        if found is not None:
            return found
        values = [_numbers(column) for column in columns]
        missing = [
            column.name
            for column, x in zip(columns, values, strict=True)
            if x.dtype.kind == "f" and np.isnan(x).any()
        ]
        if not missing:
            return np.stack(values, axis=1) if values else np.empty((len(table), 0))
    plural = "column has" if len(missing) == 1 else "columns have"
    names = ", ".join(map(str, missing[:20])) + ", …" * (len(missing) > 20)
    msg = f"Input X contains NaN: {plural} missing values: {names}; impute or drop them"
    raise ValueError(msg)


def _stored(column: Any) -> tuple[HostArray, HostArray] | None:
    """Return rows and values of the entries of a sparse column of pandas; None of another one."""
    array: Any = getattr(column.to_native(), "array", None)
    index = getattr(array, "sp_index", None)
    if index is None or array.fill_value != 0:
        return None
    if array.sp_values.dtype.kind not in "biuf":
        raise _no_numbers(column)
    return index.to_int_index().indices, array.sp_values


def _sparse(
    columns: Sequence[Any], stored: Sequence[tuple[HostArray, HostArray] | None], n: int
) -> HostSparse | None:
    """Return columns as a sparse matrix; None where others beside them make it large."""
    sizes = [n if own is None else len(own[0]) for own in stored]
    if not all(stored) and not sparse_pays(sum(sizes), (n, len(columns)), np.float64):
        return None
    parts = [
        (np.arange(n), _numbers(column)) if own is None else own
        for column, own in zip(columns, stored, strict=True)
    ]
    rows, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    starts = np.cumsum([0, *sizes])
    return canonical(sparse.csc_array((values, rows, starts), shape=(n, len(columns))))


def _numbers(column: Any) -> HostArray:
    import narwhals.stable.v2 as nw

    wide = column.dtype in (nw.Int128, nw.UInt128)  # which NumPy does not have
    x = (column.cast(nw.Float64) if wide else column).to_numpy()
    try:
        x = x.astype(np.float64) if x.dtype.kind == "O" else x  # decimals, objects
    except (TypeError, ValueError, OverflowError) as error:
        raise _no_numbers(column) from error
    if x.dtype.kind not in "biuf":
        raise _no_numbers(column)
    return x


def _no_numbers(column: Any) -> ValueError:
    return ValueError(
        f"X: column {column.name!r} is of type {column.dtype}, features must be numbers; "
        "encode it (scikit-learn: OneHotEncoder), convert it or drop it"
    )
