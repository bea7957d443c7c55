"""Arrays in HDF5 files and Zarr folders, read whole or some rows at a time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NoReturn

import numpy as np

from xplinear.datasets.arrays import runs_of
from xplinear.datasets.dataset import Dataset
from xplinear.datasets.reader import DAMAGED, File, Request

__all__ = ["read_store", "store_parts"]


def read_store(file: File, request: Request) -> Dataset:
    """Read the arrays of rows and labels."""
    with _opened(file) as store:
        X, y = _rows_and_labels(file, store, request)
        return Dataset(_read(file, X), None if y is None else _read(file, y))


def store_parts(file: File, request: Request) -> Generator[Dataset]:
    """Yield them some rows at a time, in whole chunks."""
    with _opened(file) as store:
        X, y = _rows_and_labels(file, store, request)
        chunk = (getattr(X, "chunks", None) or (1,))[0]
        yield from runs_of(X, y, partial(_read, file), chunk)


@contextmanager
def _opened(file: File) -> Generator[Any]:
    zarr_folder = file.ending == ".zarr"
    try:
        if zarr_folder:
            import zarr

            opened: Any = nullcontext(zarr.open(file.path, mode="r"))
        else:
            import h5py

            opened = h5py.File(file.path, "r")
    except ImportError as error:
        library, extra = ("zarr", "zarr") if zarr_folder else ("h5py", "hdf5")
        msg = f"reading {file.ending} needs {library}: pip install 'xplinear[{extra}]'"
        raise ImportError(msg) from error
    except DAMAGED as error:
        _refuse(file, error)
    with opened as store:
        yield store


def _rows_and_labels(file: File, store: Any, request: Request) -> tuple[Any, Any]:
    """Return the arrays of rows, X or what the file's name says, and labels, y or the target."""
    if hasattr(store, "shape"):  # a Zarr folder may be one array
        if file.member or request.n_features is None or request.target is not None:
            msg = f"{file} is one array; rows and labels are arrays of a group, such as X and y"
            raise ValueError(msg)
        return store, None
    names = sorted(name for name in store if hasattr(store[name], "shape"))
    wanted, label = file.member or "X", request.target or "y"
    needed = (
        [wanted] if request.n_features is not None and request.target is None else [wanted, label]
    )
    absent = [name for name in needed if not hasattr(store.get(name), "shape")]
    if absent:
        msg = (
            f"{file} has no array {', '.join(absent)}; it has {', '.join(names) or 'none'}: "
            f"{file.name}::NAME names that of the rows, target that of the labels"
        )
        raise ValueError(msg)
    y = store.get(label)
    return store[wanted], y if hasattr(y, "shape") else None


def _read(file: File, array: Any, rows: Any = ...) -> Any:
    try:
        found = np.asarray(array[rows])
    except DAMAGED as error:
        _refuse(file, error)
    if found.dtype.kind in "OST":  # texts
        texts = [x.decode() if isinstance(x, bytes) else x for x in found.ravel().tolist()]
        found = np.asarray(texts, dtype=str).reshape(found.shape)
    return found


def _refuse(file: File, error: Exception) -> NoReturn:
    file.refuse(f" cannot be read as {file.ending}: {error}")
