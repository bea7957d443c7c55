"""Predictions that are no array of all rows: yielded block by block, or written somewhere."""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from xplinear.arguments import one_of, shown
from xplinear.backends import backend_of
from xplinear.backends.base import fetched
from xplinear.data.arrow import write_parquet
from xplinear.data.partitions import computed, is_collection
from xplinear.data.remote import is_remote
from xplinear.data.sources import known_rows, remote_rows
from xplinear.estimator.validation import check_features
from xplinear.formats.writing import check_writable, written
from xplinear.namespace import HostArray, is_array

__all__ = ["METHOD", "columns_of", "predicted_to", "results_of"]

METHOD = one_of("predict", "predict_proba", "predict_log_proba", "decision_function")
_ENDINGS = ".npy", ".parquet"
_BLOCK_BYTES = 2**24  # of rows in memory
_OUT = (
    "out must be a path ending in .npy or .parquet, or offer shape, dtype and the assignment of "
    "slices, as np.memmap, h5py.Dataset and zarr.Array do"
)


def results_of(clf: Any, X: Any, method: str) -> Generator[Any]:
    """Yield what a method gives of X, some rows at a time."""
    X = remote_rows(X, clf)
    if is_remote(X) and X.names is not None:
        check_features(clf, X, reset=False)
        clf = copy(clf)
        vars(clf).pop("feature_names_in_", None)  # the blocks have no names
    with closing(_blocks_of(clf, X)) as blocks:
        for block in blocks:
            yield computed(getattr(clf, method)(block))


def _blocks_of(clf: Any, X: Any) -> Generator[Any]:
    """Yield rows to predict, some at a time; a table is one block."""
    if is_collection(X):
        yield from (X.partitions[i] for i in range(X.npartitions))
        return
    array: Any = X if is_array(X) and not backend_of(X).traced(X) else None
    if is_remote(X):
        with closing(X.blocks()) as blocks:
            yield from blocks
    elif array is not None and len(array.shape) == 2 and 0 not in array.shape:
        n, p = array.shape
        size = max(1, _BLOCK_BYTES // (8 * max(p, len(clf.classes_))))
        for start in range(0, n, size):
            yield array[start : min(start + size, n), :]
    else:
        yield X


def predicted_to(clf: Any, X: Any, method: str, out: Any) -> Any:
    """Write what a method gives to a file or an array, block by block; return ``out``.

    Raises
    ------
    ValueError, TypeError
        If it does not suit: its shape, dtype, or the ending of its name.
    OSError
        If it cannot be written; a file is then not there.
    """
    X = remote_rows(X, clf)
    results = (fetched(block) for block in results_of(clf, X, method))
    if isinstance(out, (str, os.PathLike)):
        try:
            check_writable(out, _ENDINGS)
        except (OSError, ValueError) as error:
            msg = f"out: {error}"
            raise type(error)(msg) from error
        write = _write_npy if Path(out).suffix.lower() == ".npy" else _write_table
        with written(out) as (path,), closing(results):
            write(path, results, clf, method)
        return out
    if not (hasattr(out, "__setitem__") and hasattr(out, "shape") and hasattr(out, "dtype")):
        msg = f"{_OUT}; got {shown(out)}"
        raise TypeError(msg)
    if is_array(out) and not isinstance(out, np.ndarray):
        msg = f"{_OUT}; got an array of {backend_of(out).name}: leave out out, results are that"
        raise TypeError(msg)
    both = isinstance(out, np.ndarray) and isinstance(X, np.ndarray)
    if both and X is not out and np.may_share_memory(X, out):
        msg = "out and X share memory, so rows would be lost before they are read; give another out"
        raise ValueError(msg)
    with closing(results):
        _assign(out, results, known_rows(X))
    return out


def _assign(out: Any, results: Iterable[HostArray], n: int | None) -> None:
    """Write all results; ``n`` is their number, None where nobody knows."""
    start = 0
    for block in results:
        stop = start + len(block)
        needed, shape = (n or stop, *block.shape[1:]), tuple(out.shape)
        if shape[1:] != needed[1:] or (shape[0] < stop if n is None else shape[0] != n):
            least = "at least " * (n is None)
            msg = f"out has the shape {shape}, and {least}{needed} is needed"
            raise ValueError(msg)
        out[start:stop] = _converted(block, out.dtype)
        start = stop
    if start != out.shape[0]:
        msg = f"out has {out.shape[0]} rows, and X has {start}; the others are as they were"
        raise ValueError(msg)
    if hasattr(out, "flush"):
        out.flush()


def _converted(block: HostArray, dtype: Any) -> HostArray:
    """Return results in a dtype that holds them: labels as they are, others rounded."""
    if np.can_cast(block.dtype, dtype, "same_kind") or block.dtype.kind not in "biuf":
        with suppress(TypeError, ValueError):
            found = block.astype(dtype)
            if block.dtype.kind == "f" or np.array_equal(found, block):
                return found
    msg = f"out is of dtype {dtype}, which does not hold results of dtype {block.dtype}"
    raise ValueError(msg)


def _write_npy(path: Path, results: Iterable[HostArray], *_: Any) -> None:
    """Write an array whose number of rows is known at its end: its header leaves room for it."""
    with path.open("wb") as file:
        header: dict[str, Any] = {}
        for block in results:
            n = header["shape"][0] if header else 0
            if not header:
                header = {"descr": block.dtype.str, "fortran_order": False}
                file.write(_npy_header(header | {"shape": block.shape}))
            header["shape"] = (n + len(block), *block.shape[1:])
            file.write(np.ascontiguousarray(block).data)
        file.seek(0)
        file.write(_npy_header(header))


def _npy_header(header: dict[str, Any]) -> bytes:
    into = io.BytesIO()
    np.lib.format.write_array_header_1_0(into, header)
    return into.getvalue()


def _write_table(path: Path, results: Iterable[HostArray], clf: Any, method: str) -> None:
    write_parquet(path, (columns_of(block, clf, method) for block in results))


def columns_of(block: HostArray, clf: Any, method: str) -> dict[str, HostArray]:
    """Return results as columns: labels, scores, or a column for each class or label."""
    if block.ndim == 1:
        return {"label" if method == "predict" else "score": block}
    names = map(str, clf.classes_.tolist())
    return dict(zip(names, block.T, strict=True))
