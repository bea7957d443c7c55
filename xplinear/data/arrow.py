"""Columns of Arrow, read in part or written; the only file that imports pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from xplinear.namespace import HostArray

__all__ = ["pyarrow_for", "write_parquet"]

_GROUP_BYTES = 2**25  # of the rows that are written together


def pyarrow_for(what: str) -> Any:
    """Return pyarrow, with the modules of it that are needed here; ``what`` needs it."""
    try:
        import pyarrow as pa
        import pyarrow.dataset
        import pyarrow.parquet
        import pyarrow.types
    except ImportError as error:
        msg = f"{what} needs pyarrow: pip install 'xplinear[parquet]'"
        raise ImportError(msg) from error
    return pa


def write_parquet(path: str | os.PathLike[str], blocks: Iterable[Mapping[str, HostArray]]) -> int:
    """Write blocks of rows to one Parquet file, in bounded memory; return how many rows.

    Parameters
    ----------
    path : path-like
    blocks : iterable of mappings
        Of columns by name, the same in each block: arrays ``(r,)`` of numbers or texts, or
        ``(r, w)``, which become a column of fixed-size lists. The first block tells their types.

    Examples
    --------
    >>> import tempfile
    >>> blocks = [{"label": np.asarray(["yes", "no"]), "probabilities": np.eye(2)}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_parquet(os.path.join(folder, "a.parquet"), blocks)
    2
    """
    pa = pyarrow_for("writing .parquet")
    writer, waiting, total = None, [], 0
    try:
        for block in blocks:
            columns = {name: _column(pa, np.asarray(a)) for name, a in block.items()}
            schema = None if writer is None else writer.schema
            waiting.append(pa.table(columns, schema=schema))
            if writer is None:
                writer = pa.parquet.ParquetWriter(path, waiting[0].schema)
            total += len(waiting[-1])
            if sum(table.nbytes for table in waiting) >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if writer is None:
            msg = f"{str(path)!r}: there are no blocks to write, so no columns"
            raise ValueError(msg)
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    finally:
        if writer is not None:
            writer.close()
    return total


def _column(pa: Any, a: HostArray) -> Any:
    """Return an array as a column; rows of a matrix as lists of one length."""
    a = a.astype(a.dtype.newbyteorder("="), copy=False)
    if a.ndim == 1:
        return pa.array(a)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(a)), a.shape[1])
