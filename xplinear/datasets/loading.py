"""From a name or a file to a data set; the formats that can be read."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
from sklearn.datasets import fetch_openml, load_digits

from xplinear.backends.sparse import HostRows, is_scipy
from xplinear.datasets.arrays import (
    npy_parts,
    read_idx_directory,
    read_npy,
    read_npz,
    read_svmlight,
    svmlight_parts,
)
from xplinear.datasets.dataset import Columns, Dataset
from xplinear.datasets.parquet import parquet_parts, read_parquet
from xplinear.datasets.reader import File, Request, no_target
from xplinear.datasets.stores import read_store, store_parts
from xplinear.datasets.tables import UNLABELLED, columns_with, first_row, in_terms_of
from xplinear.datasets.text import csv_parts, read_csv
from xplinear.namespace import HostArray

__all__ = ["FORMATS", "NAMES", "PARTS", "load", "load_parts"]

_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist

FORMATS: dict[str, Callable[[File, Request], Dataset]] = {
    ".npz": read_npz,
    ".npy": read_npy,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".tsv": read_csv,
    ".tsv.gz": read_csv,
    ".parquet": read_parquet,
    ".svm": read_svmlight,
    ".svm.gz": read_svmlight,
    ".libsvm": read_svmlight,
    ".svmlight": read_svmlight,
    ".h5": read_store,
    ".hdf5": read_store,
    ".zarr": read_store,
}

# Those that can be read some rows at a time.
PARTS: dict[Callable[[File, Request], Dataset], Callable[[File, Request], Iterator[Dataset]]] = {
    read_npy: npy_parts,
    read_csv: csv_parts,
    read_parquet: parquet_parts,
    read_svmlight: svmlight_parts,
    read_store: store_parts,
}


def fashion_mnist() -> Dataset:
    if _FASHION_MNIST.is_dir():
        return read_idx_directory(_FASHION_MNIST)
    try:
        # The default parser of fetch_openml needs pandas.
        X, y = fetch_openml(
            "Fashion-MNIST",
            version=1,
            return_X_y=True,
            as_frame=False,
            parser="liac-arff",
            n_retries=1,
        )
    except OSError as error:
        msg = (
            f"Fashion-MNIST is not installed and cannot be downloaded from OpenML ({error}): "
            "install the Debian package dataset-fashion-mnist, or give the directory of its "
            "four IDX files instead of the name"
        )
        raise OSError(msg) from error
    X, y = X.astype(np.uint8).reshape(-1, 28, 28), y.astype(np.int64)
    return Dataset(X[:60000], y[:60000], X[60000:], y[60000:])


NAMES: dict[str, Callable[[], Dataset]] = {
    "digits": lambda: Dataset(*cast(Any, load_digits(return_X_y=True)), image_shape=(8, 8)),
    "fashion-mnist": fashion_mnist,
}


def load(
    source: str | os.PathLike[str],
    *,
    ending: str | None = None,
    target: str | None = None,
    n_features: int | None = None,
    columns: Columns | None = None,
    classes: HostArray | None = None,
    index_base: int | None = None,
    mixed: bool = False,
    missing: bool = False,
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    source : str or path
        ``"digits"``, ``"fashion-mnist"``, or a path:

        - a directory with the four IDX files of MNIST's format, gzipped or not;
        - ``.npz`` with arrays X and y, optionally X_test and y_test; images are flattened;
        - ``.npz`` of `scipy.sparse.save_npz`, with the labels in an array y in it, or in ``y.npy``
          beside it;
        - ``.npy``: X, with the labels in ``y.npy`` beside it;
        - ``.csv`` with numeric features, with or without a header; ``.tsv`` has tabs;
        - ``.parquet`` with numeric features (needs pyarrow);
        - ``.h5``, ``.hdf5`` and ``.zarr`` with arrays X and y (needs h5py, zarr); ``a.h5::rows``
          has its X in the array ``rows``;
        - ``.svm``, ``.libsvm``, ``.svmlight``; these and sparse matrices stay sparse where
          that takes a quarter of the memory, and become dense otherwise;
        - of the last, ``.csv`` and ``.tsv`` packed by gzip: ``.csv.gz``;
        - ``"-"``: standard input.
    ending : str, optional
        The format, such as ``".csv"``, whatever the source's name ends in; that of ``"-"`` is
        ``".csv"`` by default.
    target : str, optional
        Where the labels are: the column of a table (the last by default), the array of an
        ``.npz``, ``.h5`` or ``.zarr``, or the ``.npy`` file of the labels.
    n_features : int, optional
        The number of features a model expects. Labels may then be missing: a table with just
        so many columns has none. Rows of an ``.svm`` are padded to it.
    columns : Columns, optional
        The columns a model expects of a table, which may have others and may lack the labels.
    classes : ndarray, optional
        The classes of a model. Labels are then what these are, texts or numbers, in any format;
        they come as Python objects, None where a row has no label.
    index_base : int, optional
        The number of the first feature of an ``.svm``, 0 or 1. Otherwise 0 where a row has a
        feature 0.
    mixed : bool, default False
        Accept columns of text in a table; see `Dataset`.
    missing : bool, default False
        Accept missing values in the features of a table, as NaN.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the source is unknown, or the file is damaged, empty, or not numeric.
    OSError
        If Fashion-MNIST is neither installed nor can be downloaded, or a file cannot be read.
    ImportError
        If the file's format needs a library that is not installed.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.X.shape, digits.image_shape
    ((1797, 64), (8, 8))
    """
    name = str(source)
    if name in NAMES:
        no_target(name, target)
        if ending is not None:
            msg = f"ending does not apply to {source}, the name of a data set; a file is ./{source}"
            raise ValueError(msg)
        read = NAMES[name]()
    elif _is_idx(name):
        no_target(name, target)
        read, name = read_idx_directory(Path(source)), Path(source).name
    else:
        request = Request(target, n_features, columns, classes, index_base, mixed, missing)
        with _found(source, ending) as file:
            read, name = FORMATS[file.ending](file, request), Path(file.name).name
    return _sound(read, name, n_features, classes)


def load_parts(
    source: str | os.PathLike[str],
    *,
    ending: str | None = None,
    target: str | None = None,
    n_features: int,
    columns: Columns | None = None,
    classes: HostArray | None = None,
    index_base: int | None = None,
    missing: bool = False,
) -> Generator[Dataset]:
    """Yield the rows that a model is given as `load` reads them, some at a time.

    Of tables, ``.npy`` and ``.svm`` no more is in memory; others are one part. Parameters and
    errors are those of `load`; what is wrong in a file is told when its rows are reached.

    Examples
    --------
    >>> [part.X.shape for part in load_parts("digits", n_features=64)]
    [(1797, 64)]
    """
    name, said = str(source), {"target": target, "columns": columns, "classes": classes}
    if name in NAMES or _is_idx(name):
        yield load(source, ending=ending, n_features=n_features, **cast(Any, said))
        return
    request = Request(
        target, n_features, columns, classes, index_base, mixed=False, missing=missing
    )
    with _found(source, ending) as file:
        name, start = Path(file.name).name, 0
        read = FORMATS[file.ending]
        parts = PARTS[read](file, request) if read in PARTS else [read(file, request)]
        for part in parts:
            if not start or part.X.shape[0]:
                yield _sound(part, name, n_features, classes, start if read in PARTS else None)
                start += part.X.shape[0]


def _sound(
    read: Dataset,
    name: str,
    n_features: int | None,
    classes: HostArray | None,
    start: int | None = None,
) -> Dataset:
    """Return what was read, checked; ``start`` is the number of rows before, if it is not all."""
    if read.y is None and n_features is None:
        msg = f"{name} has no labels"
        raise ValueError(msg)
    X, y = _checked(read.X, read.y, name, classes, read.target)
    _check_finite(X, read.names, name, start)
    X_test, y_test = read.X_test, read.y_test
    if X_test is not None:
        X_test, y_test = _checked(X_test, y_test, f"the test part of {name}", classes, read.target)
        if X_test.shape[1] != X.shape[1]:
            msg = f"{name}: X has {X.shape[1]} features, X_test has {X_test.shape[1]}"
            raise ValueError(msg)
    image_shape = read.X.shape[1:] if read.X.ndim > 2 else read.image_shape
    return Dataset(X, y, X_test, y_test, name, image_shape, *read[6:])


def _is_idx(name: str) -> bool:
    """Whether it is a directory, of IDX files then."""
    return name != "-" and Path(name).is_dir() and not name.rstrip("/").lower().endswith(".zarr")


@contextmanager
def _found(source: str | os.PathLike[str], ending: str | None) -> Generator[File]:
    """Give the file to read; what a pipe holds becomes one."""
    path, name, member = Path(source), str(source), None
    if "::" in name and not path.exists():
        name, _, member = name.partition("::")
        path = Path(name)
    if ending is None:
        ends = (one for one in FORMATS if name.rstrip("/").lower().endswith(one))
        ending = max(ends, key=len, default=".csv" if name == "-" else None)
    if ending not in FORMATS:
        what = f"unknown ending {ending!r}" if ending else f"unknown data set {name!r}"
        msg = (
            f"{what}: give {', '.join(NAMES)}, a directory of IDX files, or a file ending in "
            f"{', '.join(FORMATS)}"
        )
        raise ValueError(msg)
    if name != "-" and not path.exists():
        msg = f"no file {name!r}"
        raise FileNotFoundError(msg)
    if member is not None and FORMATS[ending] is not read_store:
        msg = f"{name}::{member} names an array, but {ending} has none by name"
        raise ValueError(msg)
    if path.is_dir() and ending != ".zarr":
        msg = f"{name!r} is a directory"
        raise IsADirectoryError(msg)
    if (path.is_file() or path.is_dir()) and name != "-":
        yield File(path, name, ending, member)
        return
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder, f"piped{ending}")
        with (
            content.open("wb") as into,
            nullcontext(sys.stdin.buffer) if name == "-" else path.open("rb") as piped,
        ):
            shutil.copyfileobj(piped, into)
        yield File(content, "standard input" if name == "-" else name, ending)


def _checked(
    X: HostRows, y: HostArray | None, name: str, classes: HostArray | None, target: str | None
) -> tuple[HostRows, HostArray | None]:
    """Return X as a numeric matrix and y as labels, or say what is wrong with them."""
    if X.ndim < 2:
        msg = f"{name}: X must be a matrix, one row per sample; its shape is {X.shape}"
        raise ValueError(msg)
    if 0 in X.shape:
        msg = f"{name} is empty: X has shape {X.shape}"
        raise ValueError(msg)
    if X.dtype.kind not in "biuf":
        msg = f"{name}: X must be numeric, its dtype is {X.dtype}"
        raise ValueError(msg)
    X = X if is_scipy(X) else X.reshape(X.shape[0], -1)
    if y is None:
        return X, None
    if y.shape != X.shape[:1]:
        msg = f"{name}: X has {X.shape[0]} rows, so y must have shape {X.shape[:1]}, not {y.shape}"
        raise ValueError(msg)
    if classes is not None:
        return X, in_terms_of(classes, y)
    if y.dtype.kind not in "biufU":
        msg = f"{name}: labels must be numbers or strings, the dtype of y is {y.dtype}"
        raise ValueError(msg)
    missing = np.isnan(y) if y.dtype.kind == "f" else y == "" if y.dtype.kind == "U" else None
    if missing is not None and missing.any():
        what = "NaN" if y.dtype.kind == "f" else "empty"
        msg = f"{name}: labels are missing ({what}) in {int(missing.sum())} rows; {UNLABELLED}"
        raise ValueError(msg)
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        real = y[y != np.floor(y)][0]
        elsewhere = "; if the labels are elsewhere, target must name their column"
        where, other = ("y", "") if target is None else (f"column {target!r}", elsewhere)
        msg = f"{name}: labels must be classes, {where} has real numbers such as {real}{other}"
        raise ValueError(msg)
    return X, y


def _check_finite(
    X: HostRows, names: Sequence[str] | None, name: str, start: int | None = None
) -> None:
    """Raise if there is infinity, or NaN in what is no table, whose reader has looked for it."""
    if X.dtype.kind != "f" or np.isfinite(X.data if is_scipy(X) else X).all():
        return
    for what, test in (("infinity", np.isinf), ("missing values (NaN)", np.isnan)):
        columns = [str(j) if names is None else names[int(j)] for j in _columns_with(test, X)]
        if columns and (names is None or test is np.isinf):
            plural, listed = "s" * (len(columns) > 1), ", ".join(columns[:20])
            where = "" if is_scipy(X) else first_row(test(X), start)
            msg = f"{name}: {what} in column{plural} {listed}; drop those rows or columns{where}"
            raise ValueError(msg)


def _columns_with(test: Callable[[HostArray], HostArray], X: HostRows) -> HostArray:
    """Return the columns where a value passes the test."""
    if is_scipy(X):
        return np.unique(X.indices[test(X.data)])
    return np.flatnonzero(list(columns_with(test, X)))
