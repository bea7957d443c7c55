"""Batches of rows and labels that come again in every pass, such as a DataLoader of torch gives."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import numpy as np

from xplinear.backends.base import backend_of, fetched
from xplinear.backends.sparse import is_scipy
from xplinear.data.remote import Survey
from xplinear.namespace import HostArray, is_array

__all__ = ["Batches", "is_batches"]

_Made = TypeVar("_Made")

_ONE_SHOT = (
    "X is {}, which can be gone through once, and a fit makes many passes: give a function that "
    "makes it, such as fit(lambda: read_batches(path)), or learn from each batch as it comes: "
    "partial_fit(X, y, classes=...)"
)
_ANEW = (
    "every pass must give the same rows in the same order: a DataLoader needs shuffle=False and "
    "no random transforms; from rows that are other ones each time learn by partial_fit"
)
_FORM = "a batch is (X, y) or (X, y, weights), with X of shape (rows, features)"


def is_batches(X: Any) -> bool:
    """Return whether X is no matrix, but gives batches: an iterable, or a function that makes one.

    Of lists and tuples these are the ones whose first item is a tuple or list of arrays.
    """
    if isinstance(X, (str, bytes, bytearray, dict, set, frozenset, type)) or is_array(X):
        return False
    if isinstance(X, (list, tuple)):
        first: Any = cast("Sequence[Any]", X)[0] if X else None
        many = isinstance(first, (list, tuple)) and len(cast("Sequence[Any]", first)) > 0
        return many and len(getattr(cast("Sequence[Any]", first)[0], "shape", ())) > 1
    if hasattr(X, "shape") or hasattr(X, "__array__") or hasattr(X, "__dataframe__"):
        return False
    return hasattr(X, "__iter__") or (callable(X) and not hasattr(X, "__getitem__"))


class _Batch(NamedTuple):
    """A batch on the host, and its number."""

    X: HostArray
    y: HostArray | None
    weights: HostArray | None
    number: int

    @property
    def mark(self) -> tuple[int, int]:
        """Checksums of what is in it: of the rows, and of labels and weights."""
        return _checksum(self.X, len(self.X)), _checksum(self.weights, _checksum(self.y))


class _Found(NamedTuple):
    """What the first pass finds."""

    shape: tuple[int, int]
    dtype: Any
    y: HostArray | None
    weights: HostArray | None
    survey: Survey
    marks: list[tuple[int, int]]  # of the batches


class Batches:
    """Rows ``(n, p)`` that come in batches, with labels and weights, the same ones in each pass.

    Labels and weights are kept from the first pass; every later one is compared with it. A thread
    reads ahead of the computation.

    Parameters
    ----------
    source : iterable, or function of no arguments
        Gives, or returns an iterator that does, in every pass the same batches ``(X, y)`` or
        ``(X, y, weights)``, of any numbers of rows and of any array library; for predictions also
        ``X`` alone.

    Examples
    --------
    >>> batches = Batches(lambda: iter([(np.eye(2), [0, 1]), (np.ones((1, 2)), [1])]))
    >>> batches.shape, batches.y
    ((3, 2), array([0, 1, 1]))
    """

    def __init__(self, source: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
        self._source = source

    def _begin(self) -> Iterator[Any]:
        """Begin a pass: here, not in a thread, as it may start processes."""
        source = cast(Any, self._source)
        if hasattr(source, "__iter__"):
            return iter(source)
        made = source()
        if not hasattr(made, "__iter__"):
            msg = (
                f"X is a function, which must return an iterator of batches; it returned "
                f"{type(made).__name__}"
            )
            raise TypeError(msg)
        return iter(made)

    @cached_property
    def _found(self) -> _Found:
        """What the first pass finds."""
        source = self._source
        if hasattr(source, "__iter__") and iter(cast("Iterable[Any]", source)) is source:
            raise TypeError(_ONE_SHOT.format(f"a {type(source).__name__}"))
        marks: list[tuple[int, int]] = []
        ys: list[HostArray | None] = []
        weights: list[HostArray | None] = []
        low = high = dtype = None
        n, digest = 0, 0
        with closing(_ahead(_batches(self._begin()))) as batches:
            for X, y, s, number in batches:
                batch = _Batch(X, y, s, number)
                marks.append(batch.mark)
                if not len(X):
                    continue
                least, most = _bounds(batch, n)
                low = least if low is None else np.minimum(low, least)
                high = most if high is None else np.maximum(high, most)
                dtype = X.dtype if dtype is None else np.result_type(dtype, X.dtype)
                digest, n = _checksum(X, digest), n + len(X)
                for name, own, all_of_it in (("y", y, ys), ("weights", s, weights)):
                    if all_of_it and (own is None) != (all_of_it[0] is None):
                        _refuse(number, f"has {'no ' * (own is None)}{name}, unlike the first one")
                    all_of_it.append(own)
        if low is None or high is None:
            msg = "X gives no rows: its first pass was without any"
            raise ValueError(msg)
        shape, survey = (n, len(low)), Survey(low, high, digest)
        return _Found(shape, dtype, _joined("y", ys), _joined("weights", weights), survey, marks)

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and features there are."""
        return self._found.shape

    @property
    def dtype(self) -> Any:
        """NumPy's dtype that holds the numbers of all batches."""
        return self._found.dtype

    @property
    def y(self) -> HostArray | None:
        """The labels of all rows."""
        return self._found.y

    @property
    def weights(self) -> HostArray | None:
        """The weights of all rows."""
        return self._found.weights

    def blocks(self) -> Generator[HostArray]:
        """Yield the rows of each batch; of an iterator too, which is gone through."""
        with closing(_ahead(_batches(self._begin()))) as batches:
            yield from (batch.X for batch in batches if len(batch.X))

    def runs(self, runs: Sequence[range]) -> Generator[HostArray]:
        """Yield runs of rows, each after the last one, copied; what lies between is left out."""
        return _ahead(self._runs(runs, self._begin()))

    def _runs(self, runs: Sequence[range], iterator: Iterator[Any]) -> Generator[HostArray]:
        (n, p), dtype = self.shape, self.dtype
        with closing(self._same(iterator)) as batches:
            X, start = np.empty((0, p), dtype), 0
            for run in runs:
                rows, at = np.empty((len(run), p), dtype), run.start
                while at < run.stop:
                    while start + len(X) <= at:
                        start, X = start + len(X), next(batches)
                    part = X[at - start : run.stop - start]
                    rows[at - run.start : at - run.start + len(part)] = part
                    at += len(part)
                if run.stop == n:
                    for _ in batches:  # that there are no more of them
                        pass
                yield rows

    def _same(self, iterator: Iterator[Any]) -> Generator[HostArray]:
        """Yield the rows of each batch of a later pass; raise where they are not those they were.

        Raises
        ------
        ValueError
            If a batch has other rows, labels or weights than in the first pass.
        """
        marks, count = self._found.marks, 0
        with closing(_batches(iterator)) as batches:
            for batch in batches:
                count = batch.number + 1
                if count > len(marks):
                    _refuse(count - 1, f"is one more than the {len(marks)} of the first pass; {_ANEW}")
                differ = [a != b for a, b in zip(batch.mark, marks[batch.number], strict=True)]
                if any(differ):
                    names = ("rows", "labels or weights")
                    what = " and ".join(name for name, one in zip(names, differ, strict=True) if one)
                    _refuse(batch.number, f"has other {what} than in the first pass; {_ANEW}")
                yield batch.X
        if count < len(marks):
            again = "" if count else "; a function given as X must make a new iterator each time"
            msg = (
                f"X gave {count} batches in this pass, and {len(marks)} in the first; {_ANEW}{again}"
            )
            raise ValueError(msg)


def _ahead(made: Generator[_Made]) -> Generator[_Made]:
    """Yield what a generator makes; a thread makes the next one meanwhile."""
    with closing(made), ThreadPoolExecutor(1, "xplinear-batches") as thread:
        coming = thread.submit(next, made, None)
        while (one := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield one


def _batches(iterator: Iterator[Any]) -> Generator[_Batch]:
    """Yield batches on the host; at the end, however it comes, the iterator is closed."""
    p = None
    try:
        for number, given in enumerate(iterator):
            batch = _batch(given, number)
            if p is not None and batch.X.shape[1] != p:
                _refuse(number, f"has {batch.X.shape[1]} features, the first one has {p}")
            p = batch.X.shape[1]
            yield batch
    finally:
        if hasattr(iterator, "close"):
            cast(Any, iterator).close()
        del iterator  # a traceback that holds this frame must not keep its worker processes


def _batch(given: Any, number: int) -> _Batch:
    """Return a batch on the host, checked."""
    parts: list[Any] = [given]
    if isinstance(given, (list, tuple)):
        parts = list(cast("Sequence[Any]", given))
    if isinstance(given, dict):
        names = [repr(name) for name in cast("dict[Any, Any]", given)][:5]
        _refuse(
            number,
            f"is a dict of {', '.join(names)}; give a function that picks X and y of each, such "
            f"as fit(lambda: ((b[{names[0] if names else 'x'}], b[{names[-1] if names else 'y'}]) "
            "for b in batches))",
        )
    if not 1 <= len(parts) <= 3:
        _refuse(number, f"has {len(parts)} parts; {_FORM}")
    X = _array(parts[0], "X", number)
    if X.ndim != 2:
        remedy = ""
        if X.ndim > 2:
            remedy = ": flatten each row, X.reshape(len(X), -1)"
        elif X.ndim == 1:
            remedy = ": of single rows torch.utils.data.DataLoader(rows, batch_size=1024) makes some"
        _refuse(number, f"has X of shape {X.shape}, but {_FORM}{remedy}")
    if X.dtype.name == "bfloat16":
        X = X.astype(np.float32)
    if X.dtype.kind not in "biuf":
        _refuse(number, f"has X of dtype {X.dtype}, but features must be numbers; convert them")
    y, weights = (
        None if part is None else _array(part, name, number)
        for part, name in zip((*parts[1:], None, None)[:2], ("y", "weights"), strict=True)
    )
    for name, part in (("labels", y), ("weights", weights)):
        if part is not None and part.shape[:1] != X.shape[:1]:
            _refuse(number, f"has {len(X)} rows and {name} of shape {part.shape}; {_FORM}")
    return _Batch(X, y, weights, number)


def _array(given: Any, name: str, number: int) -> HostArray:
    if is_scipy(given) or backend_of(given).is_sparse(given):
        _refuse(
            number,
            f"has a sparse {name}; a sparse matrix of all rows, scipy.sparse.vstack(...), takes "
            "little memory: fit it as a whole",
        )
    problem = backend_of(given).refuses(given) if is_array(given) else None
    if problem is not None:
        _refuse(number, f"has {name} that {problem}")
    try:
        return np.asarray(fetched(given))
    except (TypeError, ValueError) as error:
        _refuse(number, f"has {name} that is no array: {error}")


def _refuse(number: int, what: str) -> NoReturn:
    msg = f"X: batch {number} {what}"
    raise ValueError(msg)


def _checksum(values: HostArray | None, before: int = 0) -> int:
    if values is None:
        return before
    if values.dtype.kind == "O":
        return zlib.crc32(repr(values.tolist()).encode(), before)
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8).reshape(-1), before)


def _bounds(batch: _Batch, start: int) -> tuple[HostArray, HostArray]:
    """Return the least and the greatest number of each column; raise where one is not finite."""
    X = batch.X
    with np.errstate(invalid="ignore"):
        low, high = X.min(axis=0), X.max(axis=0)
    if X.dtype.kind == "f" and not (np.isfinite(low).all() and np.isfinite(high).all()):
        row, column = np.argwhere(~np.isfinite(X))[0]
        _refuse(
            batch.number,
            f"contains NaN or infinity: {X[row, column]} in its row {row}, column {column} (row "
            f"{start + row} of all): impute or drop",
        )
    return low, high


def _joined(name: str, parts: Sequence[HostArray | None]) -> HostArray | None:
    """Return what all batches have of labels or weights."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    kinds = {"n" if part.dtype.kind in "biuf" else part.dtype.kind for part in there}
    if len(kinds) > 1:
        msg = f"X: {name} are numbers in some batches and others in others; make them alike"
        raise ValueError(msg)
    try:
        return np.concatenate(there)
    except ValueError as error:
        msg = f"X: {name} of the batches do not go together: {error}"
        raise ValueError(msg) from error
