"""Data sets by name and from files, as NumPy arrays.

A new file format is one function plus one line in ``FORMATS``; a new name is one function plus
one line in ``NAMES``. Only this file imports pyarrow, and only for ``.parquet``.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import pickle
import re
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple, TypeAlias, cast

import numpy as np
from sklearn.datasets import fetch_openml, load_digits, load_svmlight_file
from sklearn.model_selection import train_test_split

__all__ = ["FORMATS", "NAMES", "Columns", "Dataset", "holdout", "load"]

HostArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist
_DENSE_BYTES = 4 * 2**30  # a sparse file that takes more than this when dense is refused
_MISSING = {"", "NA", "NaN", "nan", "null"}  # cells of a text file that hold no value
_TRUTHS = {word: word[0] in "Tt" for word in ("True", "true", "TRUE", "False", "false", "FALSE")}
_UNLABELLED = "every row needs a label: drop the others"
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+(,\d+)?\s*")
_NO_TEXT = {
    b"\x1f\x8b": "packed by gzip; its format is csv.gz or tsv.gz, whatever its name",
    b"PK": "a zip file, as spreadsheets are; export it as .csv",
    b"PAR1": "a Parquet file; its format is parquet, whatever its name",
    b"\xff\xfe": "a text file in UTF-16; save it in UTF-8",
    b"\xfe\xff": "a text file in UTF-16; save it in UTF-8",
}
_EXACT = 2**53  # whole numbers beyond are rounded where they are kept as float64
_DAMAGED = (EOFError, OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error)


class Dataset(NamedTuple):
    """Rows and labels of a data set; what it does not have is None.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        Features, in the dtype they are stored in.
    y : ndarray of shape (n,) or None
        Labels; None only where `load` was told the number of features.
    X_test, y_test : ndarray or None
        The data set's own test part.
    name : str
    image_shape : tuple of int or None
        What a row looks like as an image.
    names : tuple of str or None
        Names of the features, of a table.
    target : str or None
        Name of the labels' column, of a table.
    texts : mapping from str to sequence of str
        Columns of text that `load` was told to accept: X holds the index of each cell's text.
    index_base : int or None
        Number of the first feature, 0 or 1, of an ``.svm``.
    """

    X: HostArray
    y: HostArray | None
    X_test: HostArray | None
    y_test: HostArray | None
    name: str
    image_shape: tuple[int, ...] | None
    names: tuple[str, ...] | None = None
    target: str | None = None
    texts: Mapping[str, Sequence[str]] = MappingProxyType({})
    index_base: int | None = None


class Columns(NamedTuple):
    """What a model expects of a table: features with their texts, and the labels' column.

    A feature that is a number has None for texts.
    """

    texts: Mapping[str, Sequence[str] | None]
    target: str | None

    @property
    def by_place(self) -> bool:
        """Whether columns have no names, but numbers that are their places."""
        names = [*self.texts, *([] if self.target is None else [self.target])]
        return set(names) == {str(j) for j in range(len(names))}


class _Parts(NamedTuple):
    """What a reader returns."""

    X: HostArray
    y: HostArray | None
    X_test: HostArray | None = None
    y_test: HostArray | None = None
    names: tuple[str, ...] | None = None
    target: str | None = None
    texts: Mapping[str, Sequence[str]] = MappingProxyType({})
    index_base: int | None = None


class _Request(NamedTuple):
    """What a reader is asked for: see `load`."""

    target: str | None
    n_features: int | None
    columns: Columns | None
    classes: HostArray | None
    index_base: int | None
    mixed: bool
    missing: bool

    @property
    def remedy(self) -> str:
        """What to do about missing values."""
        if self.mixed:
            return "fill or drop them, or use --impute"
        trained = self.columns is not None
        return "fill or drop them" + ", or train with --impute" * trained

    @property
    def numbers(self) -> str:
        """What is wrong with a feature that is no number, and what to do about it."""
        if self.columns is not None:
            return "the model was trained on numbers there; write them as in training"
        return "features must be numbers; encode or drop the column, or name it as the target"


class _File(NamedTuple):
    """A file to read: where it is, what messages call it, and the ending that tells its format."""

    path: Path
    name: str
    ending: str

    def __str__(self) -> str:
        return self.name

    @property
    def separator(self) -> str:
        return "\t" if self.ending.startswith(".tsv") else ","

    def open(self) -> IO[bytes]:
        """Open it for reading, unpacked."""
        packed = self.ending.endswith(".gz")
        return cast(IO[bytes], gzip.open(self.path)) if packed else self.path.open("rb")

    @contextmanager
    def text(self) -> Generator[io.TextIOWrapper]:
        """Open it for reading as text."""
        with self.open() as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            yield text

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the cells of each row that is not blank, and the number of its last line."""
        with self.text() as file:
            reader = csv.reader(file, delimiter=self.separator)
            yield from ((reader.line_num, row) for row in reader if row)


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
        _no_target(str(source), target)
        if ending is not None:
            msg = f"ending does not apply to {source}, the name of a data set; a file is ./{source}"
            raise ValueError(msg)
        parts, name = NAMES[str(source)](), str(source)
    elif str(source) != "-" and Path(source).is_dir():
        _no_target(str(source), target)
        parts, name = _read_idx_directory(Path(source)), Path(source).name
    else:
        request = _Request(target, n_features, columns, classes, index_base, mixed, missing)
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


def holdout(dataset: Dataset, fraction: float = 0.25, seed: int = 0) -> Dataset:
    """Hold out a random, stratified part of the rows as the test part.

    Parameters
    ----------
    dataset : Dataset
        Returned as it is if it has a test part already.
    fraction : float, default 0.25
        Share of the rows to hold out.
    seed : int, default 0

    Raises
    ------
    ValueError
        If the fraction is not in (0, 1), or leaves a class out of one of the parts.

    Examples
    --------
    >>> digits = holdout(load("digits"))
    >>> digits.X.shape, digits.X_test.shape
    ((1347, 64), (450, 64))
    """
    if dataset.X_test is not None:
        return dataset
    if not 0.0 < fraction < 1.0:
        msg = f"fraction must lie between 0 and 1, got {fraction!r}"
        raise ValueError(msg)
    n = dataset.X.shape[0]
    rows = f"{fraction} of the {n} rows of {dataset.name} with every class in both parts"
    labels, counts = np.unique(cast(HostArray, dataset.y), return_counts=True)
    rare = labels[counts < 2].tolist()
    if rare:
        some = ", ".join(map(repr, rare[:5])) + ", …" * (len(rare) > 5)
        doubtful = dataset.target is not None and 2 * len(rare) > len(labels)
        column = f"; is column {dataset.target!r} that of the labels?" * doubtful
        msg = (
            f"cannot hold out {rows}: {len(rare)} of the {len(labels)} classes have one row, "
            f"{some}; drop them, or train on all rows (--test-fraction 0){column}"
        )
        raise ValueError(msg)
    try:
        train, test = train_test_split(
            np.arange(n), test_size=fraction, stratify=dataset.y, random_state=seed
        )
    except ValueError as error:
        msg = (
            f"cannot hold out {rows}, {len(labels)} in all: choose another fraction, or train on "
            "all rows (--test-fraction 0)"
        )
        raise ValueError(msg) from error
    X, y = dataset.X, dataset.y
    assert y is not None
    return dataset._replace(X=X[train], y=y[train], X_test=X[test], y_test=y[test])


@contextmanager
def _found(source: str | os.PathLike[str], ending: str | None) -> Generator[_File]:
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
        yield _File(path, name, ending)
        return
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder, f"piped{ending}")
        content.write_bytes(sys.stdin.buffer.read() if name == "-" else path.read_bytes())
        yield _File(content, "standard input" if name == "-" else name, ending)


def _no_target(source: str, target: str | None) -> None:
    if target is not None:
        msg = f"target does not apply to {source}: its labels are known"
        raise ValueError(msg)


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
        return X, _in_terms_of(classes, y)
    if y.dtype.kind not in "biufU":
        msg = f"{name}: labels must be numbers or strings, the dtype of y is {y.dtype}"
        raise ValueError(msg)
    missing = np.isnan(y) if y.dtype.kind == "f" else y == "" if y.dtype.kind == "U" else None
    if missing is not None and missing.any():
        what = "NaN" if y.dtype.kind == "f" else "empty"
        msg = f"{name}: labels are missing ({what}) in {int(missing.sum())} rows; {_UNLABELLED}"
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
        found = [str(j) for j, one in enumerate(_columns_with(test, X)) if one]
        if found and (names is None or test is np.isinf):
            columns = found if names is None else [names[int(j)] for j in found]
            plural = "s" * (len(columns) > 1)
            listed = ", ".join(columns[:20])
            msg = f"{name}: {what} in column{plural} {listed}; drop those rows or columns"
            raise ValueError(msg)


def _in_terms_of(classes: HostArray, y: HostArray) -> HostArray:
    """Return labels as a model has them, texts or numbers; None where there is none."""
    words = classes.dtype.kind not in "biuf"
    labels = y.tolist()
    known: dict[Any, Any] = {"": None, None: None}
    for label in set(labels) - set(known):
        if label != label:  # noqa: PLR0124 - only NaN differs from itself
            known[label] = None
        elif words:
            whole = isinstance(label, float) and label.is_integer()
            known[label] = str(int(label) if whole else label)
        else:
            known[label] = _value(label) if isinstance(label, str) else label
    found = np.empty(len(labels), dtype=object)
    found[:] = [known[label] for label in labels]
    return found


def _value(text: str) -> Any:
    """Return the number or the truth value that a text stands for; other texts as they are."""
    if text in _TRUTHS:
        return _TRUTHS[text]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text.replace("_", "?"))
    return text


def _digits() -> _Parts:
    X, y = cast(tuple[HostArray, HostArray], load_digits(return_X_y=True))
    return _Parts(X, y)


def _fashion_mnist() -> _Parts:
    if _FASHION_MNIST.is_dir():
        return _read_idx_directory(_FASHION_MNIST)
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
    return _Parts(X[:60000], y[:60000], X[60000:], y[60000:])


def _read_idx_directory(path: Path) -> _Parts:
    """Read the four files of MNIST and its kin."""

    def read(pattern: str) -> HostArray:
        files = sorted(path.glob(pattern))
        if not files:
            msg = f"no file {pattern} in {str(path)!r}: the four IDX files of MNIST are expected"
            raise FileNotFoundError(msg)
        return _read_idx(files[0])

    X, y, X_test, y_test = (
        read(f"{part}-{kind}?ubyte*")
        for part in ("train", "t10k")
        for kind in ("images?idx3", "labels?idx1")
    )
    return _Parts(X, y, X_test, y_test)


def _read_idx(path: Path) -> HostArray:
    """Read an IDX file of bytes: two zeros, type 8, number of axes, their lengths, the data."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if content[:3] != b"\0\0\x08":
            msg = "it does not begin as an IDX file of bytes does"
            raise ValueError(msg)
        axes = content[3]
        shape = np.frombuffer(content, ">u4", count=axes, offset=4).tolist()
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except _DAMAGED as error:
        msg = f"{str(path)!r} is damaged: {error}"
        raise ValueError(msg) from error


def _read_npz(file: _File, request: _Request) -> _Parts:
    target, n_features = request[:2]
    label = target or "y"
    names = ("X", label, "X_test", f"{label}_test")
    try:
        with np.load(file.path, allow_pickle=False) as archive:
            there = list(archive)
            arrays = {name: archive[name] for name in names if name in there}
    except (*_DAMAGED, TypeError, AttributeError) as error:
        # A file that is no archive gives an array, which is no context manager.
        msg = f"{str(file)!r} cannot be read as .npz: {_reason(error)}"
        raise ValueError(msg) from error
    needed = {"X"}
    if n_features is None:
        needed |= {label} | ({f"{label}_test"} if "X_test" in arrays else set())
    if needed - set(arrays):
        asked = "target: " * (target is not None)
        msg = (
            f"{asked}{str(file)!r} has no array {', '.join(sorted(needed - set(arrays)))}; "
            f"it has {', '.join(there) or 'none'}"
        )
        raise ValueError(msg)
    found: Any = [arrays.get(name) for name in names]
    return _Parts(*found)


def _read_npy(file: _File, request: _Request) -> _Parts:
    target, n_features = request[:2]
    labels = file.path.with_name("y.npy") if target is None else Path(target)
    if not labels.is_file() and n_features is not None and target is None:
        return _Parts(_load_npy(file.path), None)
    if not labels.is_file():
        name = Path(file.name)  # the path is another where it was piped
        there = str(name.with_name("y.npy") if target is None else target)
        msg = f"no file {there!r} with the labels of {name.name}; target can name another"
        raise FileNotFoundError(msg)
    return _Parts(_load_npy(file.path), _load_npy(labels))


def _load_npy(path: Path) -> HostArray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except _DAMAGED as error:
        msg = f"{str(path)!r} cannot be read as .npy: {_reason(error)}"
        raise ValueError(msg) from error


def _reason(error: Exception) -> str:
    """Return why NumPy reads no array; it says to allow pickles, which may run code."""
    if "pickle" in str(error):
        return (
            "it holds no array, or Python objects, which are not read as they may run code; save "
            "numbers or texts, such as y.astype(str)"
        )
    return str(error)


def _read_csv(file: _File, request: _Request) -> _Parts:
    try:
        return _parse_csv(file, request)
    except (UnicodeDecodeError, csv.Error) as error:
        with file.open() as content:
            head = content.read(4)
        for start, what in _NO_TEXT.items():
            if head.startswith(start):
                msg = f"{str(file)!r} is {what}"
                raise ValueError(msg) from error
        msg = f"{str(file)!r} is no text file in UTF-8 ({error}); save it as one"
        raise ValueError(msg) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"{str(file)!r} cannot be read as {file.ending}: {error}"
        raise ValueError(msg) from error


def _parse_csv(file: _File, request: _Request) -> _Parts:
    columns = request.columns
    (line, first), (_, second) = (*islice(file.rows(), 2), (0, []), (0, []))[:2]
    header = _is_header(first, second, request)
    if not first or (header and not second):
        msg = f"{str(file)!r} is empty: it has no rows"
        raise ValueError(msg)
    _check_separator(file, first, second)
    names = [cell.strip() for cell in first] if header else [str(j) for j in range(len(first))]
    names = _as_trained(file, names, columns, header=header)
    label = _target_column(file, names, request)
    features = _features(file, names, label, request)
    text = {j for j in features if columns is not None and columns.texts[names[j]] is not None}
    skip = line if header else 0
    try:
        parts = _parse_cells(file, names, label, features, text, set(), request, skip)
    except UnicodeDecodeError:
        raise
    except ValueError:
        other, truths = _kinds_of_columns(file, set(features) - text, skip)
        other = other if request.mixed and columns is None else set[int]()
        if not other | truths:
            raise
        text = text | other
        parts = _parse_cells(file, names, label, features, text, truths, request, skip)
    if header and (columns is None or columns.by_place):
        _warn_of_header(file, names, parts)
    return parts


def _check_separator(file: _File, first: Sequence[str], second: Sequence[str]) -> None:
    """Raise if there is another separator between the columns than the format has."""
    own, others = file.separator, set(_SEPARATORS) - {file.separator}
    rows = [own.join(row) for row in (first, second) if row]
    found = sorted(other for other in others if other in rows[0])
    if len(first) > 1:  # as decimal commas make it
        found = [
            other
            for other in found
            if all(_DECIMAL_COMMA.fullmatch(cell) for row in rows for cell in row.split(other))
        ]
    if not found:
        return
    seen = " or ".join(sorted(_SEPARATORS[other] for other in found))
    written = "" if own == "," else ", sep=chr(9)"
    remedy = f"save it with {_SEPARATORS[own]} (pandas: to_csv(index=False{written}))"
    if found == ["\t"]:
        remedy = "name it .tsv, or s" + remedy[1:]
    msg = f"{str(file)!r} has {seen} between its columns, {_SEPARATORS[own]} are expected; {remedy}"
    raise ValueError(msg)


def _as_trained(
    file: _File, names: Sequence[str], columns: Columns | None, *, header: bool = True
) -> Sequence[str]:
    """Return the columns' names; those of the model where it is their order that counts."""
    p, count = 0 if columns is None else len(columns.texts), len(names)
    if columns is None or (header and not (columns.by_place and count in {p, p + 1})):
        return names
    if header and set(columns.texts) <= set(names):  # the other one is that of the labels
        return [name if name in columns.texts else columns.target or name for name in names]
    if header:
        message = (
            f"{str(file)!r}: the columns are taken in their order, {', '.join(names[:5])}"
            f"{', …' * (count > 5)}: the file the model was trained on has no names"
        )
        warnings.warn(message, UserWarning, stacklevel=2)
    return list(columns.texts) if count == p else [str(j) for j in range(count)]


def _parse_cells(
    file: _File,
    names: Sequence[str],
    label: int | None,
    features: Sequence[int],
    text: set[int],
    truths: set[int],
    request: _Request,
    skip: int,
) -> _Parts:
    """Read a table whose columns ``text`` are text, ``truths`` truth values; labels are anything.

    The first ``skip`` lines are those of the header.
    """
    codes: dict[int, dict[str, float]] = {j: {} for j in text | {label} if j is not None}

    def coded(j: int) -> Callable[[str], float]:
        known = codes[j]
        missing = _MISSING.difference(_texts_of_model(request, None if j == label else names[j]))

        def code(cell: str) -> float:
            cell = cell.strip()
            return math.nan if cell in missing else known.setdefault(cell, float(len(known)))

        return code

    converters: dict[int | str, Callable[[str], float]] = {j: coded(j) for j in codes}
    if request.missing:
        converters |= {j: _number_or_nan for j in features if j not in text}
    converters |= {j: lambda cell: float(_TRUTHS.get(cell.strip(), math.nan)) for j in truths}
    converters |= {j: lambda _: 0.0 for j in {*range(len(names))} - {label, *features}}
    try:
        with file.text() as lines:
            table = np.loadtxt(
                lines,
                delimiter=file.separator,
                comments=None,
                quotechar='"',
                skiprows=skip,
                converters=converters,
                ndmin=2,
            )
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        numeric = set(features) - text - truths
        bad = _first_bad_cell(file, names, numeric, request, skip)
        msg = bad or f"{str(file)!r}: {error}"
        raise ValueError(msg) from error
    X = table if list(features) == list(range(table.shape[1])) else table[:, features]
    found = [names[j] for j in features]
    if not request.missing:
        _no_missing(file, found, _columns_with(np.isnan, X), request.remedy)
    texts = {names[j]: tuple(codes[j]) for j in text}
    if label is None:
        return _Parts(X, None, names=tuple(found), texts=texts)
    missing = np.isnan(table[:, label])
    if request.classes is None:
        empty = f"{_UNLABELLED} (empty cells, NA, NaN, nan and null are none)"
        _no_missing(file, [names[label]], [bool(missing.any())], empty)
        labels = _parsed_labels(file, names[label], list(codes[label]))
    else:
        labels = np.asarray([*codes[label], None], dtype=object)
    y = labels[np.where(missing, -1.0, table[:, label]).astype(np.intp)]
    return _Parts(X, y, names=tuple(found), target=names[label], texts=texts)


def _texts_of_model(request: _Request, name: str | None) -> Iterable[str]:
    """Return the texts of a feature that a model knows, or for None those of its classes."""
    if name is not None:
        return (request.columns and request.columns.texts[name]) or ()
    classes = request.classes
    return () if classes is None or classes.dtype.kind in "biuf" else map(str, classes)


def _number_or_nan(cell: str) -> float:
    return math.nan if cell.strip() in _MISSING else _number(cell)


def _number(cell: str) -> float:
    return float(cell.replace("_", "?"))  # "1_2" is a number in Python alone


def _kinds_of_columns(file: _File, columns: set[int], skip: int) -> tuple[set[int], set[int]]:
    """Return the columns with a cell that is no number, apart those of truth values alone."""
    numbers, truths = set(columns), set(columns)
    for line, row in file.rows():
        if line <= skip:
            continue
        cells = {j: row[j].strip() for j in numbers | truths if j < len(row)}
        there = {j: cell for j, cell in cells.items() if cell not in _MISSING}
        numbers -= {j for j, cell in there.items() if j in numbers and not is_number(cell)}
        truths -= {j for j, cell in there.items() if cell not in _TRUTHS}
    return columns - numbers - truths, truths - numbers


def is_number(cell: str) -> bool:
    """Whether a cell of a text file holds a number."""
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _is_header(first: Sequence[str], second: Sequence[str], request: _Request) -> bool:
    """Whether the first line names columns: those asked for, no number, or a word above one."""
    cells = {cell.strip() for cell in first}
    named = request.target in cells and not is_number(str(request.target))
    if request.columns is not None and not request.columns.by_place:
        named = named or cells >= set(request.columns.texts)
    if named or not any(is_number(cell) or cell.strip() in _TRUTHS for cell in first):
        return True
    words = [not is_number(a) and a.strip() not in _MISSING | set(_TRUTHS) for a in first]
    if any(word and is_number(b) for word, b in zip(words, second, strict=False)):
        return True
    return len(first) > 2 and _counts(first)


def _counts(first: Sequence[str]) -> bool:
    """Whether the first line is 0, 1, 2, …, as pandas names columns that have no names."""
    return [cell.strip() for cell in first] == [str(j) for j in range(len(first))]


def _warn_of_header(file: _File, names: Sequence[str], parts: _Parts) -> None:
    """Say so where a first line that is taken as names may be a row."""
    like_rows = all(name in parts.texts.get(name, ()) for name in parts.names or ())
    if _counts(names) or (like_rows and parts.y is not None and parts.target in parts.y):
        message = (
            f"{str(file)!r}: the first line, {', '.join(names[:5])}{', …' * (len(names) > 5)}, is "
            "taken as names of the columns; if it is a row, put a line of names before it"
        )
        warnings.warn(message, UserWarning, stacklevel=2)


def _target_column(file: _File, names: Sequence[str], request: _Request) -> int | None:
    """Return the index of the labels' column, or None where there are only features."""
    target, columns = request.target, request.columns
    if target is None and columns is not None and columns.target is not None:
        return names.index(columns.target) if columns.target in names else None
    if target is None and len(names) == request.n_features:
        return None
    if "" in names:
        msg = (
            f"{str(file)!r}: column {names.index('') + 1} has no name; name it, or leave it out "
            "if it is a row index (pandas: index=False)"
        )
        raise ValueError(msg)
    if len(names) < 2:
        between = f", separated by {_SEPARATORS[file.separator]}" * (file.ending != ".parquet")
        msg = (
            f"{str(file)!r} has one column, {names[0]!r}: features and labels are expected{between}"
        )
        raise ValueError(msg)
    if target is None:
        return len(names) - 1
    if names.count(target) != 1:
        count = names.count(target)
        found = f"{count} columns" if count else "no column"
        msg = f"target: {str(file)!r} has {found} {target!r}: {_listed(names)}"
        raise ValueError(msg)
    return names.index(target)


def _features(
    file: _File, names: Sequence[str], label: int | None, request: _Request
) -> Sequence[int]:
    """Return the indices of the features' columns, in the order a model expects if one does."""
    wanted = names if request.columns is None else request.columns.texts
    counts, places = Counter(names), {name: j for j, name in enumerate(names)}
    twice = [name for name in wanted if counts[name] > 1]
    if twice and (request.mixed or request.columns is not None):
        msg = f"{str(file)!r} has {counts[twice[0]]} columns {twice[0]!r}; rename one of them"
        raise ValueError(msg)
    if request.columns is None:
        return [j for j in range(len(names)) if j != label]
    absent = [name for name in wanted if name not in places]
    if absent:
        nameless = ", its first line names none" * all(name.isdigit() for name in names)
        msg = (
            f"{str(file)!r} lacks {'a column' if len(absent) == 1 else 'columns'} the model was "
            f"trained on: {', '.join(absent[:20])}; {_listed(names)}{nameless}"
        )
        raise ValueError(msg)
    return [places[name] for name in wanted]


def _listed(names: Sequence[str], most: int = 20) -> str:
    """Return the names, the middle of a long list left out."""
    some = names if len(names) <= most else [*names[: most - 1], "…", names[-1]]
    return f"its columns are {', '.join(some)}"


def _first_bad_cell(
    file: _File, names: Sequence[str], numeric: set[int], request: _Request, skip: int
) -> str:
    """Return what is wrong in the first line that cannot be read, naming its column."""
    for line, row in file.rows():
        if line <= skip:
            continue
        where = f"{str(file)!r}, line {line}"
        if len(row) != len(names):
            return f"{where}: {len(row)} columns where the first line has {len(names)}"
        for j, cell in enumerate(row):
            if j in numeric and cell.strip() in _MISSING - {"nan", "NaN"}:
                return f"{where}: column {names[j]!r} has a missing value; {request.remedy}"
            if j in numeric and not is_number(cell):
                return f"{where}: column {names[j]!r} has {cell!r}, {request.numbers}"
    return ""


def _columns_with(test: Callable[[HostArray], HostArray], X: HostArray) -> Iterator[bool]:
    """Yield for each column whether a value passes the test; integers are neither NaN nor ∞."""
    return (X.dtype.kind == "f" and bool(test(x).any()) for x in X.T)


def _no_missing(file: _File, names: Sequence[str], missing: Iterable[bool], remedy: str) -> None:
    columns = [name for name, one in zip(names, missing, strict=True) if one]
    if columns:
        plural = "column has" if len(columns) == 1 else "columns have"
        msg = f"{str(file)!r}: {plural} missing values: {', '.join(columns[:20])}; {remedy}"
        raise ValueError(msg)


def _parsed_labels(file: _File, column: str, texts: Sequence[str]) -> HostArray:
    """Return labels as truth values or numbers if all their texts are such, else as texts.

    They stay texts where as numbers they would not be what they were: codes with leading zeros,
    such as 01, numbers too long, and texts of one number, such as 100 and 1E2.
    """
    labels = np.asarray(texts, dtype=str)
    if set(texts) <= set(_TRUTHS):
        return np.asarray([_TRUTHS[text] for text in texts])
    codes = any(text.isdigit() and text[0] == "0" < text for text in texts)
    if codes or not all(map(is_number, texts)):
        return labels
    values = [_value(text) for text in texts]
    if all(isinstance(value, int) for value in values):
        unsigned = min(values) >= 0 and 2**63 <= max(values) < 2**64
        numbers = np.asarray(values, np.uint64 if unsigned else None)
        exact = numbers.dtype.kind in "iu"  # beyond 64 bits they are objects, or float64
    else:
        numbers = np.asarray([float(text) for text in texts])
        if (numbers != np.floor(numbers)).any():  # no classes, as the caller will say
            return numbers
        exact = bool((np.abs(numbers) < _EXACT).all())
    if exact and len(np.unique(numbers)) == len(texts):
        return numbers
    reason = "some are the same number" if exact else "as numbers they would be rounded"
    message = (
        f"{str(file)!r}: the labels, column {column!r}, are taken as texts, such as {texts[0]!r}: "
        f"{reason}"
    )
    warnings.warn(message, UserWarning, stacklevel=2)
    return labels


def _parquet_table(file: _File, request: _Request) -> tuple[Any, Any]:
    """Return the table of a file, and pyarrow's functions that tell types."""
    try:
        from pyarrow import parquet, types
    except ImportError as error:
        msg = "reading .parquet needs pyarrow: pip install 'xplinear[parquet]'"
        raise ImportError(msg) from error
    try:
        table = parquet.ParquetFile(file.path).read()  # read_table refuses names that come twice
    except _DAMAGED as error:
        msg = f"{str(file)!r} cannot be read as .parquet: {error}"
        raise ValueError(msg) from error
    columns = request.columns
    wanted = {request.target} | ({*columns.texts, columns.target} if columns else set[str | None]())
    index = {
        name
        for name in (table.schema.pandas_metadata or {}).get("index_columns", ())
        if isinstance(name, str) and name in table.column_names and name not in wanted
    }
    nameless = {name for name in table.column_names if name.startswith("__index_level_")}
    if index - nameless and request.n_features is None:
        message = (
            f"{str(file)!r}: the row index of pandas, {', '.join(sorted(index - nameless))}, is "
            "left out; reset_index() makes it a feature"
        )
        warnings.warn(message, UserWarning, stacklevel=2)
    kept = [j for j, name in enumerate(table.column_names) if name not in index | nameless]
    if not kept:
        msg = f"{str(file)!r} is empty: it has no columns"
        raise ValueError(msg)
    return table.select(kept), types


def _read_parquet(file: _File, request: _Request) -> _Parts:
    table, types = _parquet_table(file, request)
    names = _as_trained(file, table.column_names, request.columns)
    label = _target_column(file, names, request)
    features = _features(file, names, label, request)
    columns: list[HostArray] = []
    texts: dict[str, Sequence[str]] = {}
    for j in features:
        column, name = _plain(table.column(j), types), names[j]
        kind = _arrow_kind(column.type, types)
        trained = request.columns is not None and request.columns.texts[name] is not None
        text = trained or (kind == "text" and request.mixed and request.columns is None)
        if kind == "other" or (kind in {"date", "text"} and not text):
            msg = f"{str(file)!r}: column {name!r} is of type {column.type}, {request.numbers}"
            raise ValueError(msg)
        if not request.missing:
            _no_missing(file, [name], [column.null_count > 0], request.remedy)
        if text:
            encoded = _arrow_texts(column, types).combine_chunks().dictionary_encode()
            columns.append(encoded.indices.to_numpy(zero_copy_only=False).astype(np.float64))
            cells = encoded.dictionary.to_pylist()
            truth = types.is_boolean(column.type)  # arrow writes true, Python True
            texts[name] = tuple(cell.capitalize() if truth else cell for cell in cells)
        else:
            columns.append(_arrow_numbers(column, types))
    X = np.stack(columns, axis=1)
    found = tuple(names[j] for j in features)
    if not request.missing:
        _no_missing(file, found, _columns_with(np.isnan, X), request.remedy)
    if label is None:
        return _Parts(X, None, names=found, texts=texts)
    y = _arrow_labels(file, names[label], table.column(label), types, request)
    return _Parts(X, y, names=found, target=names[label], texts=texts)


def _plain(column: Any, types: Any) -> Any:
    """Return the values of a column of categories, others as they are."""
    return column.cast(column.type.value_type) if types.is_dictionary(column.type) else column


def _arrow_kind(kind: Any, types: Any) -> str:
    """Return what values of a type of arrow are: text, dates, numbers, or other things."""
    for name, members in (
        ("text", (types.is_string, types.is_large_string, types.is_string_view)),
        ("date", (types.is_date, types.is_timestamp)),
        ("number", (types.is_integer, types.is_floating, types.is_decimal)),
        ("number", (types.is_boolean, types.is_null)),
    ):
        if any(is_member(kind) for is_member in members):
            return name
    return "other"


def _arrow_texts(column: Any, types: Any) -> Any:
    if types.is_timestamp(column.type):  # as pandas writes them to a text file
        for shorter in ("timestamp[s]", "date32"):
            cut = column.cast(shorter, safe=False)
            column = cut if cut.cast(column.type).equals(column) else column
    return column.cast("string")


def _arrow_numbers(column: Any, types: Any) -> HostArray:
    if types.is_boolean(column.type):  # with nulls NumPy would make objects of them
        column = column.cast("uint8")
    elif types.is_decimal(column.type) or types.is_null(column.type):
        column = column.cast("float64")
    return column.to_numpy()


def _arrow_labels(file: _File, name: str, column: Any, types: Any, request: _Request) -> HostArray:
    """Return a column of labels: dates as their texts, numbers and texts as they are."""
    if request.classes is None:
        _no_missing(file, [name], [column.null_count > 0], _UNLABELLED)
    column = _plain(column, types)
    kind = _arrow_kind(column.type, types)
    if kind == "other":
        msg = (
            f"{str(file)!r}: labels must be numbers or strings, column {name!r} is of type "
            f"{column.type}"
        )
        raise ValueError(msg)
    decimal = types.is_decimal(column.type)
    if kind == "date" or decimal:
        column = _arrow_texts(column, types)
    if request.classes is not None:
        return np.asarray([*column.to_pylist(), None], dtype=object)[:-1]
    if decimal:
        texts = list(dict.fromkeys(column.to_pylist()))
        codes = {text: code for code, text in enumerate(texts)}
        return _parsed_labels(file, name, texts)[[codes[text] for text in column.to_pylist()]]
    return column.to_numpy() if kind == "number" else np.asarray(column.to_pylist(), dtype=str)


def _read_svmlight(file: _File, request: _Request) -> _Parts:
    _no_target(str(file), request.target)
    read: Any = load_svmlight_file
    try:
        with file.open() as lines:
            X, y = read(lines, zero_based=True)
    except (*_DAMAGED, OverflowError) as error:
        msg = (
            f"{str(file)!r} cannot be read as svmlight, whose lines are a label and index:value "
            f"pairs: {error}"
        )
        raise ValueError(msg) from error
    X, index_base = _counted(file, X, request)
    n, p = X.shape
    if X.dtype.itemsize * n * p > _DENSE_BYTES:
        msg = (
            f"{str(file)!r} is sparse and too large to be made dense: {n} × {p} values take "
            f"{X.dtype.itemsize * n * p / 2**30:.1f} GiB, {X.nnz} are not zero; select features"
        )
        raise ValueError(msg)
    if np.abs(y).max(initial=0.0) >= _EXACT:
        msg = (
            f"{str(file)!r} has labels of 2**53 or more, which this format rounds, such as "
            f"{y[np.abs(y).argmax()]:.0f}; use .csv or .parquet"
        )
        raise ValueError(msg)
    whole = y.size and (y == np.floor(y)).all()
    return _Parts(X.toarray(), y.astype(np.int64) if whole else y, index_base=index_base)


def _counted(file: _File, X: Any, request: _Request) -> tuple[Any, int]:
    """Return rows of the features a model expects, and the number of the first one."""
    p, base = request.n_features, request.index_base
    lowest, end = int(X.indices.min(initial=1)), X.shape[1]
    if base is None:
        base = int(lowest > 0)
        if p is not None and lowest > 0 and end <= p:
            message = (
                f"{str(file)!r} has neither a feature 0 nor a feature {p}: its features are taken "
                "as counted from 1"
            )
            warnings.warn(message, UserWarning, stacklevel=2)
    elif lowest < base:
        msg = (
            f"{str(file)!r} counts features from 0, the file the model was trained on from 1: "
            "count from 1"
        )
        raise ValueError(msg)
    if p is not None and end > p + base:
        msg = (
            f"{str(file)!r} has a feature {end - 1}, the model has {p} features, counted from "
            f"{base}"
        )
        raise ValueError(msg)
    X = X[:, base:]
    if p is not None:
        X.resize((X.shape[0], p))
    return X, base


NAMES: dict[str, Callable[[], _Parts]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
}

FORMATS: dict[str, Callable[[_File, _Request], _Parts]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".tsv": _read_csv,
    ".tsv.gz": _read_csv,
    ".parquet": _read_parquet,
    ".svm": _read_svmlight,
    ".svm.gz": _read_svmlight,
    ".libsvm": _read_svmlight,
    ".svmlight": _read_svmlight,
}
