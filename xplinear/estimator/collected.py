"""How Dask's collections enter a fit: rows stay in their partitions, labels and weights come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.sparse import csr_array
from sklearn.exceptions import DataConversionWarning

from xplinear.arguments import warn
from xplinear.backends import Backend, backend_of
from xplinear.backends.sparse import canonical, is_scipy
from xplinear.data.dask import Partitions
from xplinear.data.partitions import (
    Collection,
    DaskRows,
    computed,
    held,
    is_collection,
    mapped,
)
from xplinear.estimator.labels import coded, coded_together
from xplinear.estimator.tables import matrix_of, table_of
from xplinear.estimator.targets import has_columns, indicator, indicators_together
from xplinear.estimator.validation import check_features, on_host, refuse_masked
from xplinear.namespace import HostArray

__all__ = ["collected", "lazily"]

_KINDS = "a dask.array of two axes or a dask.dataframe"


class _Missing(NamedTuple):
    """What takes the place of rows where some lack numbers, and the first that does."""

    why: str
    shape: tuple[int, ...]
    row: int


class _Answer(NamedTuple):
    """What a partition tells of itself."""

    rows: int
    dtype: Any
    sparse: bool
    labels: Any
    weights: Any
    missing: _Missing | None


def _is_frame(X: Collection) -> bool:
    return hasattr(type(X), "columns") and X.ndim == 2  # a `Delayed` says yes to any name


def _is_array(X: Collection) -> bool:
    return hasattr(type(X), "chunks")


def _one_row(X: Collection) -> Any:
    """Return a row as those of X may be, for checks of its columns and types.

    Raises
    ------
    ValueError, TypeError
        If X is another collection, or its columns are not in one chunk.
    """
    if _is_frame(X):
        return X._meta_nonempty.iloc[:1]  # noqa: SLF001 - Dask's own name of it for others
    if not _is_array(X):
        msg = f"X is of Dask's type {type(X).__name__}; give {_KINDS}"
        raise TypeError(msg)
    if X.ndim != 2:
        msg = (
            f"X must have two axes, samples and features; it has shape {X.shape}"
            + ": one sample is X[None, :]" * (X.ndim == 1)
        )
        raise ValueError(msg)
    if X.numblocks[1] > 1:
        msg = (
            f"X has its columns in {X.numblocks[1]} chunks, and rows must not be divided: "
            "X.rechunk({1: -1})"
        )
        raise ValueError(msg)
    if X.shape[1] != X.shape[1]:
        msg = "X has an unknown number of columns: X.compute_chunk_sizes() finds it"
        raise ValueError(msg)
    if X.dtype.kind == "O":
        msg = "X is of dtype object, but features must be numbers: X.astype(float) converts"
        raise ValueError(msg)
    return np.zeros((1, X.shape[1]), X.dtype)


def collected(
    owner: Any, X: Any, y: Any, sample_weight: Any, chosen: Backend | None, *, reset: bool
) -> tuple[Any, Any, Any]:
    """Return X, y and weights of Dask as `prepare` takes them, others as they are.

    X then is `DaskRows`; labels come to the host as codes, and weights as they are given.

    Raises
    ------
    ValueError, TypeError
        If X is what `check_features` refuses, or the others are not partitioned as X is, or another
        backend is ``chosen`` than NumPy.
    """
    if not is_collection(X):
        return X, computed(y), computed(sample_weight)
    if chosen is not None and chosen.name != "numpy":
        msg = (
            f"backend {chosen.name!r} was chosen, but X is of Dask: its partitions are computed "
            "with where they are, by NumPy or CuPy, and the model is on NumPy; set backend=None, "
            f"and move the model: clf.to({chosen.name!r})"
        )
        raise ValueError(msg)
    _, names = check_features(owner, _one_row(X), reset=reset)
    given = {"y": y, "sample_weight": sample_weight}
    beside = {name: a for name, a in given.items() if is_collection(a)}
    for name, a in beside.items():
        _check_partitioned(name, a, X)
    many, p = has_columns(y), X.shape[1]
    if "y" in beside and not many and len(y.shape) == 2:
        warn(
            "A column-vector y was passed when a 1d array was expected. "
            "Please change the shape of y to (n_samples,), for example using y[:, 0].",
            DataConversionWarning,
        )
    found = held(X, *beside.values())
    parts = dict(zip(["X", *beside], found.parts, strict=True))
    rows, none = parts["X"], [None] * len(parts["X"])
    if type(X._meta) is not np.ndarray:  # noqa: SLF001 - likewise
        columns = list(X.columns) if _is_frame(X) else None
        rows = found.each(partial(_rows, columns), rows, keep=True)
    own = rows, parts.get("y", none), parts.get("sample_weight", none)
    answers: list[_Answer] = found.each(partial(_answer, p, many), *own)
    _check_rows(answers, owner)
    if any(answer.sparse for answer in answers):
        rows = found.each(_compressed, rows, keep=True)
    if "y" in beside:
        labels: list[Any] = [answer.labels for answer in answers]
        y = indicators_together(labels) if many else coded_together(labels)
    if "sample_weight" in beside:
        sample_weight = np.concatenate([answer.weights for answer in answers])
    return DaskRows(Partitions(rows, found.client), names), y, sample_weight


def _check_partitioned(name: str, a: Collection, X: Collection) -> None:
    """Raise ValueError, or TypeError, if labels or weights are not partitioned as X is."""
    array = _is_array(a)
    if not (array or hasattr(type(a), "known_divisions")):
        msg = f"{name} is of Dask's type {type(a).__name__}; give an array, a series or a frame"
        raise TypeError(msg)
    if array and a.ndim > 2:
        msg = f"{name} must have one entry for each row of X; it has shape {a.shape}"
        raise ValueError(msg)
    if array and math.prod(a.numblocks[1:]) > 1:
        msg = f"{name} has its columns in several chunks, {a.chunks[1:]}: {name}.rechunk({{1: -1}})"
        raise ValueError(msg)
    both = array and _is_array(X)
    known = both and not any(np.isnan([*a.chunks[0], *X.chunks[0]]))
    frames = not array and _is_frame(X) and X.known_divisions and a.known_divisions
    alike = a.npartitions == X.npartitions
    if alike and not (known and a.chunks[0] != X.chunks[0]):
        alike = not (frames and a.divisions != X.divisions)
    if not alike:
        parts = (f"{b.chunks[0] if known else b.npartitions}" for b in (a, X))
        msg = (
            f"{name} is not partitioned as X is: {' against '.join(parts)}"
            f"{'' if known else ' partitions'}; {_remedy(name, both=both)}"
        )
        raise ValueError(msg)


def _remedy(name: str, *, both: bool) -> str:
    if both:
        return f"{name}.rechunk({{0: X.chunks[0]}})"
    return (
        "take both of one frame, or give both the same divisions: "
        f"{name}.repartition(divisions=X.divisions)"
    )


def _rows(columns: list[Any] | None, part: Any) -> Any:
    """Return the rows of a partition as an array or a canonical sparse matrix."""
    if is_scipy(part):
        return canonical(part)
    if not hasattr(part, "columns"):
        return part
    if columns is not None and list(part.columns) != columns:
        msg = f"X has a partition of other columns than all: {list(part.columns)}, not {columns}"
        raise ValueError(msg)
    try:
        return matrix_of(cast(Any, table_of(part)))
    except ValueError as error:
        missing = np.asarray(part.isna()).any(axis=1)
        if not missing.any():
            raise
        return _Missing(str(error), part.shape, int(missing.argmax()))


def _compressed(rows: Any) -> Any:
    return canonical(rows if is_scipy(rows) else csr_array(rows))


def _answer(p: int, many: bool, rows: Any, y: Any, weights: Any) -> _Answer:
    """Return what a fit asks of a partition."""
    if isinstance(rows, _Missing):
        return _Answer(rows.shape[0], None, False, None, None, rows)
    refuse_masked("X", rows)
    if len(rows.shape) != 2 or rows.shape[1] != p:
        msg = f"X has a partition of shape {rows.shape}, but its columns are said to be {p}"
        raise ValueError(msg)
    labels = y if y is None else indicator(y) if many else coded(y)
    if weights is not None:
        refuse_masked("sample_weight", weights)
        weights = np.asarray(on_host("sample_weight", weights))
    return _Answer(rows.shape[0], np.dtype(rows.dtype), is_scipy(rows), labels, weights, None)


def _check_rows(answers: Sequence[_Answer], owner: Any) -> None:
    """Raise ValueError if X has no rows, some are not numbers, or others are not of them."""
    start = 0
    for part, answer in enumerate(answers):
        if answer.missing:
            row = start + answer.missing.row
            msg = f"{answer.missing.why}; the first is row {row}, in partition {part}"
            raise ValueError(msg)
        start += answer.rows
        for name, own in (("y", answer.labels), ("sample_weight", answer.weights)):
            if own is not None and own.shape[0] != answer.rows:
                msg = (
                    f"partition {part} has {answer.rows} rows of X and {own.shape[0]} of {name}, "
                    f"which must be partitioned as X is; {_remedy(name, both=False)}"
                )
                raise ValueError(msg)
        if answer.dtype.kind not in "biuf" or answer.dtype.itemsize > 8:
            msg = f"X has a partition of dtype {answer.dtype}: X.astype(float) converts"
            raise ValueError(msg)
    if not start:
        msg = (
            f"X has no rows in any of its {len(answers)} partitions; {type(owner).__name__} needs "
            "at least one"
        )
        raise ValueError(msg)


def lazily(clf: Any, X: Collection, method: str) -> Collection:
    """Return what a method of a fitted classifier gives of each row, not computed yet.

    Of an array it is an array in the same chunks; of a frame a series, or a frame with a column
    for each class or label, with the index of X.
    """
    row = _one_row(X)
    like = getattr(clf, method)(row)
    return mapped(partial(_predicted, method), X, _server(clf), _framed(like, row, clf.classes_))


def _server(clf: Any) -> Any:
    """Return a copy of a classifier for rows that are checked to have its features' names."""
    model = clf.to("numpy")
    vars(model).pop("feature_names_in_", None)
    return model


def _predicted(method: str, part: Any, clf: Any) -> Any:
    """Return what a method of a classifier gives of a partition, which may have no rows.

    It computes where the rows are, and answers on the host.
    """
    rows = _rows(None, part)
    if isinstance(rows, _Missing):
        raise ValueError(rows.why)  # noqa: TRY004 - the type is right, what is in it not
    some = rows if rows.shape[0] else np.zeros((1, clf.n_features_in_))
    there = backend_of(some)
    model = clf if there.name == clf.backend_.name else clf.to(there)
    values = on_host("X", getattr(model, method)(some))
    return _framed(values[: rows.shape[0]], part, clf.classes_)


def _framed(values: Any, rows: Any, classes: HostArray) -> Any:
    """Return predictions as a series or frame with the index of the rows, if these have one."""
    if not hasattr(rows, "columns"):
        return values
    if values.ndim == 1:
        return type(rows)({0: values}, index=rows.index)[0].rename(None)
    return type(rows)(dict(zip(classes.tolist(), values.T, strict=True)), index=rows.index)
