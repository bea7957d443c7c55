"""From a name or a file to a data set; the formats that can be read."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from xplinear.datasets.arrays import read_npy, read_npz
from xplinear.datasets.columns import columns_with
from xplinear.datasets.dataset import Columns, Dataset
from xplinear.datasets.labels import UNLABELLED, in_terms_of
from xplinear.datasets.names import NAMES, read_idx_directory
from xplinear.datasets.parquet import read_parquet
from xplinear.datasets.reader import File, Parts, Request, no_target
from xplinear.datasets.svmlight import read_svmlight
from xplinear.datasets.text import read_csv
from xplinear.namespace import HostArray

__all__ = ["FORMATS", "load"]

FORMATS: dict[str, Callable[[File, Request], Parts]] = {
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
        - ``.npy``: X, with the labels in ``y.npy`` beside it;
        - ``.csv`` with numeric features, with or without a header; ``.tsv`` has tabs;
        - ``.parquet`` with numeric features (needs pyarrow);
        - ``.svm``, ``.libsvm``, ``.svmlight``: made dense;
        - of the last, ``.csv`` and ``.tsv`` packed by gzip: ``.csv.gz``;
        - ``"-"``: standard input.
    ending : str, optional
        The format, such as ``".csv"``, whatever the source's name ends in; that of ``"-"`` is
        ``".csv"`` by default.
    target : str, optional
        Where the labels are: the column of a table (the last by default), the array of an
        ``.npz``, or the ``.npy`` file of the labels.
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
    if str(source) in NAMES:
        no_target(str(source), target)
        if ending is not None:
            msg = f"ending does not apply to {source}, the name of a data set; a file is ./{source}"
            raise ValueError(msg)
        parts, name = NAMES[str(source)](), str(source)
    elif str(source) != "-" and Path(source).is_dir():
        no_target(str(source), target)
        parts, name = read_idx_directory(Path(source)), Path(source).name
    else:
        request = Request(target, n_features, columns, classes, index_base, mixed, missing)
        with _found(source, ending) as file:
            parts, name = FORMATS[file.ending](file, request), Path(file.name).name
    if parts.y is None and n_features is None:
        msg = f"{name} has no labels"
        raise ValueError(msg)
    image_shape = (8, 8) if name == "digits" else parts.X.shape[1:] if parts.X.ndim > 2 else None
    X, y = _checked(parts.X, parts.y, name, classes, parts.target)
    _check_finite(X, parts.names, name)
    X_test, y_test = parts.X_test, parts.y_test
    if X_test is not None:
        X_test, y_test = _checked(X_test, y_test, f"the test part of {name}", classes, parts.target)
        if X_test.shape[1] != X.shape[1]:
            msg = f"{name}: X has {X.shape[1]} features, X_test has {X_test.shape[1]}"
            raise ValueError(msg)
    return Dataset(X, y, X_test, y_test, name, image_shape, *parts[4:])


@contextmanager
def _found(source: str | os.PathLike[str], ending: str | None) -> Generator[File]:
    """Give the file to read; what a pipe holds becomes one."""
    path, name = Path(source), str(source)
    if ending is None:
        ends = (one for one in FORMATS if name.lower().endswith(one))
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
    if path.is_file() and name != "-":
        yield File(path, name, ending)
        return
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder, f"piped{ending}")
        content.write_bytes(sys.stdin.buffer.read() if name == "-" else path.read_bytes())
        yield File(content, "standard input" if name == "-" else name, ending)


def _checked(
    X: HostArray, y: HostArray | None, name: str, classes: HostArray | None, target: str | None
) -> tuple[HostArray, HostArray | None]:
    """Return X as a numeric matrix and y as labels, or say what is wrong with them."""
    if X.ndim < 2:
        msg = f"{name}: X must be a matrix, one row per sample; its shape is {X.shape}"
        raise ValueError(msg)
    if X.size == 0:
        msg = f"{name} is empty: X has shape {X.shape}"
        raise ValueError(msg)
    if X.dtype.kind not in "biuf":
        msg = f"{name}: X must be numeric, its dtype is {X.dtype}"
        raise ValueError(msg)
    X = X.reshape(X.shape[0], -1)
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
        where = "y" if target is None else f"column {target!r}"
        other = "; if the labels are elsewhere, target must name their column" * (
            target is not None
        )
        msg = f"{name}: labels must be classes, {where} has real numbers such as {real}{other}"
        raise ValueError(msg)
    return X, y


def _check_finite(X: HostArray, names: Sequence[str] | None, name: str) -> None:
    """Raise if there is infinity, or NaN in what is no table, whose reader has looked for it."""
    if X.dtype.kind != "f" or np.isfinite(X).all():
        return
    for what, test in (("infinity", np.isinf), ("missing values (NaN)", np.isnan)):
        found = [str(j) for j, one in enumerate(columns_with(test, X)) if one]
        if found and (names is None or test is np.isinf):
            columns = found if names is None else [names[int(j)] for j in found]
            plural = "s" * (len(columns) > 1)
            listed = ", ".join(columns[:20])
            msg = f"{name}: {what} in column{plural} {listed}; drop those rows or columns"
            raise ValueError(msg)
