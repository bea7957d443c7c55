"""Data sets by name and from files, as NumPy arrays.

A new file format is one function plus one line in ``FORMATS``; a new name is one function plus
one line in ``NAMES``. Only this file imports pyarrow, and only for ``.parquet``.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from sklearn.datasets import fetch_openml, load_digits, load_svmlight_file
from sklearn.model_selection import train_test_split

__all__ = ["FORMATS", "NAMES", "Columns", "Dataset", "holdout", "load"]

HostArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist
_DENSE_BYTES = 4 * 2**30  # a sparse file that takes more than this when dense is refused
_MISSING = {"", "NA", "NaN", "nan", "null"}  # cells of a CSV file that hold no value
_UNLABELLED = "every row needs a label: drop the others"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # that a CSV file may have by mistake
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


class Columns(NamedTuple):
    """What a model expects of a table: features, whether each is text, and labels' column."""

    text: Mapping[str, bool]
    target: str | None

    @property
    def by_place(self) -> bool:
        """Whether columns have no names, but numbers that are their places."""
        return all(name.isdigit() for name in self.text)


class _Parts(NamedTuple):
    """What a reader returns."""

    X: HostArray
    y: HostArray | None
    X_test: HostArray | None = None
    y_test: HostArray | None = None
    names: tuple[str, ...] | None = None
    target: str | None = None
    texts: Mapping[str, Sequence[str]] = MappingProxyType({})


class _Request(NamedTuple):
    """What a reader is asked for: see `load`."""

    target: str | None
    n_features: int | None
    columns: Columns | None
    mixed: bool
    missing: bool

    @property
    def remedy(self) -> str:
        """What to do about missing values."""
        if self.mixed:
            return "fill or drop them, or use --impute"
        trained = self.columns is not None
        return "fill or drop them" + ", or train with --impute" * trained


def load(
    source: str | os.PathLike[str],
    *,
    target: str | None = None,
    n_features: int | None = None,
    columns: Columns | None = None,
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
        - ``.csv`` with numeric features, with or without a header;
        - ``.parquet`` with numeric features (needs pyarrow);
        - ``.svm``, ``.libsvm``, ``.svmlight``: made dense.
    target : str, optional
        Where the labels are: the column of a table (the last by default), the array of an
        ``.npz``, or the ``.npy`` file of the labels.
    n_features : int, optional
        The number of features a model expects. Labels may then be missing: a table with just
        so many columns has none. Rows of an ``.svm`` are padded to it.
    columns : Columns, optional
        The columns a model expects of a table, which may have others and may lack the labels.
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
        If Fashion-MNIST is neither installed nor can be downloaded.
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
        parts, name = NAMES[str(source)](), str(source)
    else:
        path = Path(source)
        name = path.name
        if path.is_dir():
            _no_target(str(path), target)
            parts = _read_idx_directory(path)
        elif path.suffix.lower() not in FORMATS:
            msg = (
                f"unknown data set {str(source)!r}: give {', '.join(NAMES)}, a directory of IDX "
                f"files, or a file ending in {', '.join(FORMATS)}"
            )
            raise ValueError(msg)
        elif not path.is_file():
            msg = f"no file {str(path)!r}"
            raise FileNotFoundError(msg)
        else:
            request = _Request(target, n_features, columns, mixed, missing)
            parts = FORMATS[path.suffix.lower()](path, request)
    if parts.y is None and n_features is None:
        msg = f"{name} has no labels"
        raise ValueError(msg)
    image_shape = (8, 8) if name == "digits" else parts.X.shape[1:] if parts.X.ndim > 2 else None
    X, y = _checked(parts.X, parts.y, name)
    infinity = zip(parts.names or (), _columns_with(np.isinf, X), strict=False)
    infinite = [column for column, one in infinity if one]
    if infinite:
        msg = f"{name}: infinity in columns {', '.join(infinite[:20])}; drop those rows or columns"
        raise ValueError(msg)
    X_test, y_test = parts.X_test, parts.y_test
    if X_test is not None:
        X_test, y_test = _checked(X_test, y_test, f"the test part of {name}")
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
    try:
        train, test = train_test_split(
            np.arange(n), test_size=fraction, stratify=dataset.y, random_state=seed
        )
    except ValueError as error:
        msg = (
            f"cannot hold out {fraction} of the {n} rows of {dataset.name} with every class in "
            f"both parts: {error}"
        )
        raise ValueError(msg) from error
    X, y = dataset.X, dataset.y
    assert y is not None
    return dataset._replace(X=X[train], y=y[train], X_test=X[test], y_test=y[test])


def _no_target(source: str, target: str | None) -> None:
    if target is not None:
        msg = f"target does not apply to {source}: its labels are known"
        raise ValueError(msg)


def _checked(X: HostArray, y: HostArray | None, name: str) -> tuple[HostArray, HostArray | None]:
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
    if y.dtype.kind not in "biufU":
        msg = f"{name}: labels must be numbers or strings, the dtype of y is {y.dtype}"
        raise ValueError(msg)
    if y.dtype.kind == "f":
        if np.isnan(y).any():
            msg = f"{name}: labels are missing (NaN) in {int(np.isnan(y).sum())} rows"
            raise ValueError(msg)
        if (y != np.floor(y)).any():
            real = y[y != np.floor(y)][0]
            msg = f"{name}: labels must be classes, y has real numbers such as {real}"
            raise ValueError(msg)
    return X, y


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


def _read_npz(path: Path, request: _Request) -> _Parts:
    target, n_features = request[:2]
    label = target or "y"
    names = ("X", label, "X_test", f"{label}_test")
    try:
        with np.load(path, allow_pickle=False) as archive:
            there = list(archive)
            arrays = {name: archive[name] for name in names if name in there}
    except (*_DAMAGED, TypeError, AttributeError) as error:
        # A file that is no archive gives an array, which is no context manager.
        msg = f"{str(path)!r} cannot be read as .npz: {error}"
        raise ValueError(msg) from error
    needed = (
        {"X"}
        | ({label} if n_features is None else set())
        | ({f"{label}_test"} if "X_test" in arrays else set())
    )
    if needed - set(arrays):
        msg = (
            f"{str(path)!r} has no array {', '.join(sorted(needed - set(arrays)))}; "
            f"it has {', '.join(there) or 'none'}"
        )
        raise ValueError(msg)
    found: Any = [arrays.get(name) for name in names]
    return _Parts(*found)


def _read_npy(path: Path, request: _Request) -> _Parts:
    target, n_features = request[:2]
    labels = path.with_name("y.npy") if target is None else Path(target)
    if not labels.is_file() and n_features is not None and target is None:
        return _Parts(_load_npy(path), None)
    if not labels.is_file():
        msg = f"no file {str(labels)!r} with the labels of {path.name}; target can name another"
        raise FileNotFoundError(msg)
    return _Parts(_load_npy(path), _load_npy(labels))


def _load_npy(path: Path) -> HostArray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except _DAMAGED as error:
        msg = f"{str(path)!r} cannot be read as .npy: {error}"
        raise ValueError(msg) from error


def _read_csv(path: Path, request: _Request) -> _Parts:
    try:
        return _parse_csv(path, request)
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{str(path)!r} is no text file in UTF-8 ({error}); save it as one"
        raise ValueError(msg) from error


def _parse_csv(path: Path, request: _Request) -> _Parts:
    columns = request.columns
    with path.open(newline="", encoding="utf-8-sig") as file:
        first, second = (*islice(csv.reader(file), 2), [], [])[:2]
    header = _is_header(first, second, request)
    if not first or (header and not second):
        msg = f"{str(path)!r} is empty: it has no rows"
        raise ValueError(msg)
    if len(first) == 1 and (found := set(first[0]) & set(_SEPARATORS)):
        seen = " or ".join(sorted(_SEPARATORS[separator] for separator in found))
        msg = (
            f"{str(path)!r} has {seen} between its columns, commas are expected; save it with "
            "commas (pandas: to_csv(index=False))"
        )
        raise ValueError(msg)
    names = [cell.strip() for cell in first] if header else [str(j) for j in range(len(first))]
    if columns is not None and not header and len(names) == len(columns.text):
        names = list(columns.text)  # without a header it is their order that counts
    label = _target_column(path, names, request)
    features = _features(path, names, label, request)
    if columns is not None:
        text = {j for j in features if columns.text[names[j]]}
        return _parse_cells(path, names, label, features, text, request, header=header)
    try:
        return _parse_cells(path, names, label, features, set(), request, header=header)
    except UnicodeDecodeError:
        raise
    except ValueError:
        text = _text_columns(path, features, header=header) if request.mixed else set[int]()
        if not text:
            raise
        parts = _parse_cells(path, names, label, features, text, request, header=header)
        _warn_of_stray_texts(path, parts.texts)
        return parts


def _parse_cells(
    path: Path,
    names: Sequence[str],
    label: int | None,
    features: Sequence[int],
    text: set[int],
    request: _Request,
    *,
    header: bool,
) -> _Parts:
    """Read a table whose columns ``text`` are text; the labels are anything."""
    codes: dict[int, dict[str, float]] = {j: {} for j in text | {label} if j is not None}

    def coded(j: int) -> Callable[[str], float]:
        known = codes[j]

        def code(cell: str) -> float:
            cell = cell.strip()
            if j != label and cell in _MISSING:
                return math.nan
            return known.setdefault(cell, float(len(known)))

        return code

    converters: dict[int | str, Callable[[str], float]] = {j: coded(j) for j in codes}
    if request.missing:
        converters |= {j: _number_or_nan for j in features if j not in text}
    converters |= {j: lambda _: 0.0 for j in range(len(names)) if j not in {label, *features}}
    try:
        table = np.loadtxt(
            path,
            delimiter=",",
            comments=None,
            quotechar='"',
            skiprows=int(header),
            converters=converters,
            encoding="utf-8-sig",
            ndmin=2,
        )
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        numeric = set(features) - text
        bad = _first_bad_cell(path, names, numeric, request.remedy, header=header)
        msg = bad or f"{str(path)!r}: {error}"
        raise ValueError(msg) from error
    X = table if label is None and len(features) == len(names) else table[:, features]
    found = [names[j] for j in features]
    if not request.missing:
        _no_missing(path, found, _columns_with(np.isnan, X), request.remedy)
    texts = {names[j]: tuple(codes[j]) for j in text}
    if label is None:
        return _Parts(X, None, names=tuple(found), texts=texts)
    if "" in codes[label]:
        _no_missing(path, [names[label]], [True], _UNLABELLED)
    y = _parsed_labels(list(codes[label]))[table[:, label].astype(np.intp)]
    return _Parts(X, y, names=tuple(found), target=names[label], texts=texts)


def _number_or_nan(cell: str) -> float:
    return math.nan if cell.strip() in _MISSING else _number(cell)


def _number(cell: str) -> float:
    return float(cell.replace("_", "?"))  # "1_2" is a number in Python alone


def _text_columns(path: Path, features: Sequence[int], *, header: bool) -> set[int]:
    """Return the columns with a cell that is no number."""
    numeric = set(features)
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in islice(csv.reader(file), int(header), None):
            numeric -= {
                j
                for j in numeric
                if j < len(row) and row[j].strip() not in _MISSING and not _is_number(row[j])
            }
    return set(features) - numeric


def _warn_of_stray_texts(path: Path, texts: Mapping[str, Sequence[str]]) -> None:
    """Say so where a few cells, typing errors perhaps, make a column of numbers one of text."""
    for name, cells in texts.items():
        strays = [cell for cell in cells if not _is_number(cell)]
        if 2 * len(strays) < len(cells) and strays:
            message = (
                f"{str(path)!r}: column {name!r} is taken as text, since {len(strays)} of its "
                f"{len(cells)} different values are no numbers, such as {strays[0]!r}"
            )
            warnings.warn(message, UserWarning, stacklevel=2)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _is_header(first: Sequence[str], second: Sequence[str], request: _Request) -> bool:
    """Whether the first line names columns: those asked for, no number, or a word above one."""
    cells = {cell.strip() for cell in first}
    named = request.target in cells and not _is_number(str(request.target))
    if request.columns is not None and not request.columns.by_place:
        named = named or cells >= set(request.columns.text)
    if named or not any(_is_number(cell) for cell in first):
        return True
    words = [not _is_number(a) and a.strip() not in _MISSING for a in first]
    return any(word and _is_number(b) for word, b in zip(words, second, strict=False))


def _target_column(path: Path, names: Sequence[str], request: _Request) -> int | None:
    """Return the index of the labels' column, or None where there are only features."""
    target, columns = request.target, request.columns
    if target is None and columns is not None and columns.target is not None:
        return names.index(columns.target) if columns.target in names else None
    if target is None and len(names) == request.n_features:
        return None
    if "" in names:
        msg = (
            f"{str(path)!r}: column {names.index('') + 1} has no name; name it, or leave it out "
            "if it is a row index (pandas: index=False)"
        )
        raise ValueError(msg)
    if len(names) < 2:
        msg = (
            f"{str(path)!r} has one column, {names[0]!r}: features and labels are expected, "
            "separated by commas"
        )
        raise ValueError(msg)
    if target is None:
        return len(names) - 1
    if names.count(target) != 1:
        msg = (
            f"{str(path)!r} has {names.count(target) or 'no'} columns {target!r}: {_listed(names)}"
        )
        raise ValueError(msg)
    return names.index(target)


def _features(
    path: Path, names: Sequence[str], label: int | None, request: _Request
) -> Sequence[int]:
    """Return the indices of the features' columns, in the order a model expects if one does."""
    wanted = names if request.columns is None else request.columns.text
    twice = [name for name in wanted if names.count(name) > 1]
    if twice and (request.mixed or request.columns is not None):
        msg = f"{str(path)!r} has {names.count(twice[0])} columns {twice[0]!r}; rename one of them"
        raise ValueError(msg)
    if request.columns is None:
        return [j for j in range(len(names)) if j != label]
    absent = [name for name in request.columns.text if name not in names]
    if absent:
        msg = (
            f"{str(path)!r} lacks {'a column' if len(absent) == 1 else 'columns'} the model was "
            f"trained on: {', '.join(absent[:20])}; {_listed(names)}"
        )
        raise ValueError(msg)
    return [names.index(name) for name in request.columns.text]


def _listed(names: Sequence[str], most: int = 20) -> str:
    """Return the names, the middle of a long list left out."""
    some = names if len(names) <= most else [*names[: most - 1], "…", names[-1]]
    return f"its columns are {', '.join(some)}"


def _first_bad_cell(
    path: Path, names: Sequence[str], numeric: set[int], remedy: str, *, header: bool
) -> str:
    """Return what is wrong in the first line that cannot be read, naming its column."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for row in islice(reader, int(header), None):
            where = f"{str(path)!r}, line {reader.line_num}"
            if row and len(row) != len(names):
                return f"{where}: {len(row)} columns where the first line has {len(names)}"
            for j, cell in enumerate(row):
                if j in numeric and cell.strip() in _MISSING - {"nan", "NaN"}:
                    return f"{where}: column {names[j]!r} has a missing value; {remedy}"
                if j in numeric and not _is_number(cell):
                    return (
                        f"{where}: column {names[j]!r} has {cell!r}, features must be numbers; "
                        "encode or drop the column, or name it as the target"
                    )
    return ""


def _columns_with(test: Callable[[HostArray], HostArray], X: HostArray) -> Iterator[bool]:
    """Yield for each column whether a value passes the test; integers are neither NaN nor ∞."""
    return (X.dtype.kind == "f" and bool(test(x).any()) for x in X.T)


def _no_missing(path: Path, names: Sequence[str], missing: Iterable[bool], remedy: str) -> None:
    columns = [name for name, one in zip(names, missing, strict=True) if one]
    if columns:
        plural = "column has" if len(columns) == 1 else "columns have"
        msg = f"{str(path)!r}: {plural} missing values: {', '.join(columns[:20])}; {remedy}"
        raise ValueError(msg)


def _parsed_labels(texts: Sequence[str]) -> HostArray:
    """Return labels from their texts: integers if all are, else numbers if all are, else texts.

    Codes with leading zeros, such as 01, are texts: as integers they would lose them.
    """
    labels = np.asarray(texts, dtype=str)
    if any(text.isdigit() and text[0] == "0" < text for text in texts):
        return labels
    for dtype in (np.int64, np.float64):
        try:
            return labels.astype(dtype)
        except (ValueError, OverflowError):
            continue
    return labels


def _parquet_table(path: Path) -> tuple[Any, Any]:
    """Return the table of a file, and pyarrow's functions that tell types."""
    try:
        from pyarrow import parquet, types
    except ImportError as error:
        msg = "reading .parquet needs pyarrow: pip install 'xplinear[parquet]'"
        raise ImportError(msg) from error
    try:
        table = parquet.read_table(path)
    except _DAMAGED as error:
        msg = f"{str(path)!r} cannot be read as .parquet: {error}"
        raise ValueError(msg) from error
    # pandas writes its row index as such columns.
    index = [name for name in table.column_names if name.startswith("__index_level_")]
    return table.drop_columns(index), types


def _read_parquet(path: Path, request: _Request) -> _Parts:
    table, types = _parquet_table(path)
    names = table.column_names
    label = _target_column(path, names, request)
    features = _features(path, names, label, request)
    columns: list[HostArray] = []
    texts: dict[str, Sequence[str]] = {}
    strings = types.is_string, types.is_large_string, types.is_string_view
    numbers = types.is_integer, types.is_floating, types.is_boolean
    for j in features:
        column, name = table.column(j), names[j]
        kind = column.type.value_type if types.is_dictionary(column.type) else column.type
        text, numeric = (any(is_(kind) for is_ in kinds) for kinds in (strings, numbers))
        expected = request.mixed if request.columns is None else request.columns.text[name]
        if not (numeric or (text and expected)):
            msg = (
                f"{str(path)!r}: column {name!r} is of type {kind}, features must be numbers; "
                "encode or drop the column, or name it as the target"
            )
            raise ValueError(msg)
        if not request.missing:
            _no_missing(path, [name], [column.null_count > 0], request.remedy)
        if text or (request.columns is not None and expected):
            encoded = column.cast("string").combine_chunks().dictionary_encode()
            columns.append(encoded.indices.to_numpy(zero_copy_only=False).astype(np.float64))
            texts[name] = tuple(encoded.dictionary.to_pylist())
        else:
            truth = types.is_boolean(kind)  # with nulls NumPy would make objects of them
            columns.append((column.cast("uint8") if truth else column).to_numpy())
    X = np.stack(columns, axis=1)
    found = tuple(names[j] for j in features)
    if not request.missing:
        _no_missing(path, found, _columns_with(np.isnan, X), request.remedy)
    if label is None:
        return _Parts(X, None, names=found, texts=texts)
    column = table.column(label)
    _no_missing(path, [names[label]], [column.null_count > 0], _UNLABELLED)
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    y = column.to_numpy()
    # Arrow's strings become Python objects.
    if y.dtype.kind == "O" and all(isinstance(one, str) for one in y):
        y = y.astype(str)
    return _Parts(X, y, names=found, target=names[label], texts=texts)


def _read_svmlight(path: Path, request: _Request) -> _Parts:
    target, n_features = request[:2]
    _no_target(str(path), target)
    try:
        X, y = load_svmlight_file(path, n_features=n_features)[:2]
    except _DAMAGED as error:
        msg = f"{str(path)!r} cannot be read as svmlight: {error}"
        raise ValueError(msg) from error
    n, p = X.shape
    if X.dtype.itemsize * n * p > _DENSE_BYTES:
        msg = (
            f"{str(path)!r} is sparse and too large to be made dense: {n} × {p} values take "
            f"{X.dtype.itemsize * n * p / 2**30:.1f} GiB, {X.nnz} are not zero; select features"
        )
        raise ValueError(msg)
    whole = y.size and (y == np.floor(y)).all() and math.isfinite(y.sum())
    return _Parts(X.toarray(), y.astype(np.int64) if whole else y)


NAMES: dict[str, Callable[[], _Parts]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
}

FORMATS: dict[str, Callable[[Path, _Request], _Parts]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".svm": _read_svmlight,
    ".libsvm": _read_svmlight,
    ".svmlight": _read_svmlight,
}
