"""Matrices without names: NumPy's, MNIST's, SciPy's sparse ones, rows of SVMlight and LIBSVM."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Callable, Generator
from itertools import product
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from scipy import sparse
from sklearn.datasets import load_svmlight_file

from xplinear.backends.sparse import HostRows, canonical, sparse_pays
from xplinear.datasets.dataset import Dataset
from xplinear.datasets.reader import DAMAGED, File, Request, no_target, rows_at_once
from xplinear.datasets.tables import EXACT
from xplinear.namespace import HostArray

__all__ = [
    "npy_parts",
    "read_idx_directory",
    "read_npy",
    "read_npz",
    "read_svmlight",
    "runs_of",
    "svmlight_parts",
]


def read_npz(file: File, request: Request) -> Dataset:
    """Read arrays X and y, and a test part if there is one; or a sparse X of `save_npz`."""
    target, n_features = request[:2]
    label = target or "y"
    names = ("X", label, "X_test", f"{label}_test")
    try:
        with np.load(file.path, allow_pickle=False) as archive:
            there = list(archive)
            arrays = {name: archive[name] for name in names if name in there}
    except (*DAMAGED, TypeError, AttributeError) as error:
        # A file that is no archive gives an array, which is no context manager.
        file.refuse(f" cannot be read as .npz: {_reason(error)}")
    if "X" not in there and {"format", "shape", "data"} <= set(there):
        y = arrays.get(label)
        return Dataset(_load_sparse(file), _labels_beside(file, request) if y is None else y)
    needed = {"X"}
    if n_features is None:
        needed |= {label} | ({f"{label}_test"} if "X_test" in arrays else set())
    if needed - set(arrays):
        asked = "target: " * (target is not None)
        msg = (
            f"{asked}{file} has no array {', '.join(sorted(needed - set(arrays)))}; "
            f"it has {', '.join(there) or 'none'}"
        )
        raise ValueError(msg)
    found: Any = [arrays.get(name) for name in names]
    return Dataset(*found)


def _load_sparse(file: File) -> HostRows:
    """Read one matrix, whose archive may hold other arrays too."""
    try:
        return _as_pays(canonical(cast(Any, sparse.load_npz)(file.path), "it"))
    except (*DAMAGED, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        file.refuse(f" cannot be read as a sparse .npz: {_reason(error)}")


def _as_pays(X: Any) -> HostRows:
    """Return a sparse matrix as it is, or dense where that does not pay."""
    return X if sparse_pays(X.nnz, X.shape, X.dtype) else X.toarray()


def read_npy(file: File, request: Request) -> Dataset:
    """Read X, and the labels from the file beside it."""
    return Dataset(_load_npy(file), _labels_beside(file, request))


def npy_parts(file: File, request: Request) -> Generator[Dataset]:
    """Yield X some rows at a time, and their labels."""
    X, y = _load_npy(file, mapped=True), _labels_beside(file, request, mapped=True)
    return runs_of(X, y, lambda a, rows: np.array(a[rows]))


def runs_of(
    X: Any, y: Any, read: Callable[[Any, Any], HostArray], chunk: int = 1
) -> Generator[Dataset]:
    """Yield rows of X and y some at a time, in whole chunks: ``read(X, slice)``."""
    pieces: list[Any] = [...]  # where something is wrong, which whoever takes all will say
    if len(X.shape) > 1 and 0 not in X.shape and (y is None or tuple(y.shape) == (X.shape[0],)):
        size = -(-rows_at_once(math.prod(X.shape[1:])) // chunk) * chunk
        pieces = [slice(start, start + size) for start in range(0, X.shape[0], size)]
    for rows in pieces:
        yield Dataset(read(X, rows), None if y is None else read(y, rows))


def _labels_beside(file: File, request: Request, *, mapped: bool = False) -> HostArray | None:
    """Return the labels from the file beside, or None where they may be missing."""
    target, n_features = request[:2]
    labels = file.path.with_name("y.npy") if target is None else Path(target)
    if labels.is_file():
        return _load_npy(File(labels, str(labels), ".npy"), mapped=mapped)
    if n_features is not None and target is None:
        return None
    name = Path(file.name)  # the path is another where it was piped
    there = str(name.with_name("y.npy") if target is None else target)
    msg = f"no file {there!r} with the labels of {name.name}; target can name another"
    raise FileNotFoundError(msg)


def _load_npy(file: File, *, mapped: bool = False) -> HostArray:
    try:
        return np.asarray(np.load(file.path, "r" if mapped else None, allow_pickle=False))
    except DAMAGED as error:
        file.refuse(f" cannot be read as .npy: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Return why NumPy reads no array; it says to allow pickles, which may run code."""
    if "pickle" in str(error) or "Python objects" in str(error):
        return (
            "it holds no array, or Python objects, which are not read as they may run code; save "
            "numbers or texts, such as y.astype(str)"
        )
    return str(error)


def read_idx_directory(path: Path) -> Dataset:
    """Read the four files of MNIST and its kin."""
    arrays: list[Any] = []
    for part, kind in product(("train", "t10k"), ("images?idx3", "labels?idx1")):
        pattern = f"{part}-{kind}?ubyte*"
        found = min(path.glob(pattern), default=None)
        if found is None:
            msg = f"no file {pattern} in {str(path)!r}: the four IDX files of MNIST are expected"
            raise FileNotFoundError(msg)
        arrays.append(_read_idx(found))
    return Dataset(*arrays)


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
    except DAMAGED as error:
        msg = f"{str(path)!r} is damaged: {error}"
        raise ValueError(msg) from error


def read_svmlight(file: File, request: Request) -> Dataset:
    """Read rows of a label and index:value pairs."""
    no_target(file.name, request.target)
    try:
        with file.open() as lines:
            X, y = _svmlight_rows(lines)
    except (*DAMAGED, OverflowError) as error:
        _refuse_svmlight(file, error)
    return _of_svmlight(file, X, y, request)


def svmlight_parts(file: File, request: Request) -> Generator[Dataset]:
    """Yield rows some at a time, as `read_svmlight` reads them at once."""
    no_target(file.name, request.target)
    if request.index_base is None:  # which all rows tell together
        ends = [(int(X.indices.min(initial=1)), X.shape[1]) for X, _ in _svmlight_parts(file)]
        base = _index_base(file, min(low for low, _ in ends), max(end for _, end in ends), request)
        request = request._replace(index_base=base)
    for X, y in _svmlight_parts(file):
        yield _of_svmlight(file, X, y, request)


def _svmlight_parts(file: File) -> Generator[tuple[Any, HostArray]]:
    """Yield the rows of some lines at a time; no rows once, if there are none."""
    first, none, lines = 1, True, list[bytes]()
    try:
        with file.open() as content:
            while (lines := content.readlines(8 * rows_at_once(1))) or none:
                rows = _svmlight_rows(io.BytesIO(b"".join(lines)))
                if len(rows[1]) or not lines:
                    none = False
                    yield rows
                first += len(lines)
    except (*DAMAGED, OverflowError) as error:
        _refuse_svmlight(file, error, _bad_line(lines, first))


def _svmlight_rows(lines: Any) -> tuple[Any, HostArray]:
    return cast(Any, load_svmlight_file)(lines, zero_based=True)


def _bad_line(lines: list[bytes], first: int) -> str:
    """Return where the first line is that cannot be read."""
    for number, line in enumerate(lines, first):
        try:
            _svmlight_rows(io.BytesIO(line))
        except (*DAMAGED, OverflowError):
            return f", line {number}:"
    return ""


def _refuse_svmlight(file: File, error: Exception, where: str = "") -> NoReturn:
    file.refuse(
        f"{where} cannot be read as svmlight, whose lines are a label and index:value pairs: "
        f"{error}"
    )


def _of_svmlight(file: File, X: Any, y: HostArray, request: Request) -> Dataset:
    X, index_base = _counted(file, X, request)
    if np.abs(y).max(initial=0.0) >= EXACT:
        file.refuse(
            f" has labels of 2**53 or more, which this format rounds, such as "
            f"{y[np.abs(y).argmax()]:.0f}; use .csv or .parquet"
        )
    whole = y.size and (y == np.floor(y)).all()
    rows = _as_pays(canonical(X, "it"))
    return Dataset(rows, y.astype(np.int64) if whole else y, index_base=index_base)


def _counted(file: File, X: Any, request: Request) -> tuple[Any, int]:
    """Return rows of the features a model expects, and the number of the first one."""
    p, base = request.n_features, request.index_base
    lowest, end = int(X.indices.min(initial=1)), X.shape[1]
    if base is None:
        base = _index_base(file, lowest, end, request)
    elif lowest < base:
        file.refuse(
            " counts features from 0, the file the model was trained on from 1: count from 1"
        )
    if p is not None and end > p + base:
        file.refuse(f" has a feature {end - 1}, the model has {p} features, counted from {base}")
    X = X[:, base:]
    if p is not None:
        X.resize((X.shape[0], p))
    return X, base


def _index_base(file: File, lowest: int, end: int, request: Request) -> int:
    """Return the number of the first feature, by the least and the end of those that rows have."""
    p, base = request.n_features, int(lowest > 0)
    if p is not None and lowest > 0 and end <= p:
        file.warn(
            f" has neither a feature 0 nor a feature {p}: its features are taken as counted from 1"
        )
    return base
