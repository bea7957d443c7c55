"""Batches of rows and labels that come again in every pass, such as a DataLoader of torch gives."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import numpy as np

from xplinear.backends.base import Backend, backend_of, fetched
from xplinear.backends.sparse import is_scipy
from xplinear.backends.transfer import RowIndices
from xplinear.data.protocol import Data
from xplinear.data.remote import Survey, finite_bounds, surveyed
from xplinear.data.streamed import data_of, streamed
from xplinear.namespace import Array, HostArray, is_array

__all__ = ["Batches", "batches_of"]

_Made = TypeVar("_Made")
_KEPT_BYTES = 2**28  # of rows that come once, and then are an array

_ONE_SHOT = (
    "X is {}, which can be gone through once, and a fit makes many passes: give a function that "
    "makes it, such as fit(lambda: read_batches(path)), or learn from each batch as it comes: "
    "partial_fit(X, y, classes=...)"
)
_ANEW = (
    "every pass must give the same rows in the same order: a DataLoader needs shuffle=False and "
    "no random transforms; from rows that are other ones each time learn by partial_fit"
)
_MARKED = "numbers of rows", "rows", "labels", "weights"
_FORM = "a batch is (X, y) or (X, y, weights), with X of shape (rows, features)"


def batches_of(X: Any) -> Batches | None:
    """Return batches, if X is no matrix, but an iterable or a function that makes an iterator.

    Of lists and other sequences these are the ones whose first item is a tuple or list of arrays.
    """
    if isinstance(X, (str, bytes, bytearray, Mapping, AbstractSet, type)) or is_array(X):
        return None
    if isinstance(X, Sequence):
        first: Any = cast("Sequence[Any]", X)[0] if X else None
        matrix: Any = first[0] if isinstance(first, (list, tuple)) and first else None
        return Batches(X) if len(getattr(matrix, "shape", ())) > 1 else None
    if hasattr(X, "shape") or hasattr(X, "__array__") or hasattr(X, "__dataframe__"):
        return None
    many = hasattr(X, "__iter__") or (callable(X) and not hasattr(X, "__getitem__"))
    return Batches(cast(Any, X)) if many else None


class _Batch(NamedTuple):
    """A batch on the host, and its number."""

    X: HostArray
    y: HostArray | None
    weights: HostArray | None
    number: int

    @property
    def mark(self) -> tuple[int, ...]:
        """How many rows it has, and checksums of what is in it."""
        return len(self.X), *map(_checksum, self[:3])


class _Found(NamedTuple):
    """What the first pass finds."""

    shape: tuple[int, int]
    dtype: Any
    y: HostArray | None
    weights: HostArray | None
    survey: Survey
    marks: list[tuple[int, ...]]  # of the batches
    first: HostArray  # row
    kept: HostArray | None  # all rows, where these are few


class Batches:
    """Rows that come in batches, with labels and weights: the same ones in every pass.

    Few rows are kept, and are an array from then on. Of many, labels and weights are kept, and
    every pass is compared with the first; a thread reads ahead of the computation. See
    `xplinear.data.remote.RemoteRows`.

    Parameters
    ----------
    source : iterable, or function of no arguments
        Gives, or returns an iterator that does, in every pass the same batches ``(X, y)`` or
        ``(X, y, weights)``, of any numbers of rows and of any array library; for predictions also
        ``X`` alone.

    Examples
    --------
    >>> batches = Batches(lambda: iter([(np.eye(2), [0, 1]), (np.ones((1, 2)), [1])]))
    >>> batches.shape, batches.targets(None, None)[0]
    ((3, 2), array([0, 1, 1]))
    """

    names = None

    def __init__(self, source: Iterable[Any] | Callable[[], Any]) -> None:
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
        marks: list[tuple[int, ...]] = []
        ys: list[HostArray | None] = []
        weights: list[HostArray | None] = []
        rows: list[HostArray] = []  # as long as they are few, and then the first of each dtype

        def noted(batches: Iterable[_Batch]) -> Generator[HostArray]:
            for X, y, s, number in batches:
                marks.append(_Batch(X, y, s, number).mark)
                for name, own, parts in (("labels", y, ys), ("weights", s, weights)):
                    if parts and (own is None) != (parts[0] is None):
                        _refuse(number, f"has {'no ' * (own is None)}{name}, unlike the first one")
                    parts.append(own)
                rows.append(np.array(X))  # an iterator may use its memory again
                if sum(part.nbytes for part in rows) > _KEPT_BYTES:
                    rows[:] = [part[:1] for part in rows]
                yield X

        with closing(_ahead(_batches(self._begin()))) as batches:
            survey = surveyed(noted(batches))
        if not rows:
            msg = "X gives no rows: there was none in a first pass"
            raise ValueError(msg)
        n, p = sum(mark[0] for mark in marks), rows[0].shape[1]
        dtype = np.result_type(*rows)
        kept = np.concatenate(rows, dtype=dtype) if sum(map(len, rows)) == n else None
        labels, s = _joined("labels", ys), _joined("weights", weights)
        return _Found((n, p), dtype, labels, s, survey, marks, rows[0][:1], kept)

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and features there are."""
        return self._found.shape

    @property
    def dtype(self) -> Any:
        """NumPy's dtype that holds the numbers of all batches."""
        return self._found.dtype

    def targets(self, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Return the labels and weights that came with the rows."""
        found = self._found
        for name, given in (("y", y), ("sample_weight", sample_weight)):
            if given is not None:
                msg = (
                    f"{name} is given, but X gives batches, which bring their own: leave it out; "
                    f"{_FORM}"
                )
                raise ValueError(msg)
        if found.y is None:
            msg = f"X gives batches without labels: {_FORM}"
            raise ValueError(msg)
        return found.y, found.weights

    def survey(self, counted: HostArray | None = None) -> Survey:
        """Return what was found in the first pass; of the rows that count in another one."""
        found = self._found
        if counted is None:
            return found.survey
        if found.kept is not None:
            return surveyed([found.kept], counted)
        with closing(_ahead(self._same(self._begin()))) as batches:
            return surveyed(batches, counted)._replace(digest=found.survey.digest)

    def data(
        self,
        y: Array,
        s: Array | None = None,
        dtype: Any = None,
        *,
        backend: Backend,
        classes: int | None = None,
        counted: HostArray | None = None,
    ) -> Data:
        """Return the rows as a stream, or as the array that few of them are."""
        kept, counts = self._found.kept, None
        if counted is not None:
            counts = np.zeros(self.shape[0], bool)
            counts[counted] = True
            kept = kept if kept is None else np.where(counts[:, None], kept, kept[counted[:1]])
        if kept is not None:
            return data_of(kept, y, s, dtype, backend=backend, classes=classes)
        return streamed(_InOrder(self, counts), y, s, dtype, backend=backend, classes=classes)

    def blocks(self) -> Generator[HostArray]:
        """Yield the rows of each batch, finite; of an iterator too, which is gone through."""
        first = 0
        with closing(_ahead(_batches(self._begin()))) as batches:
            for batch in batches:
                finite_bounds(batch.X, first)
                first += len(batch.X)
                yield batch.X

    def passed(self, pieces: Sequence[RowIndices]) -> Generator[HostArray]:
        """Yield pieces of the rows, each after the last one: what lies between is left out.

        In each the first row of all may follow, as often as asked for.
        """
        return _ahead(self._passed(pieces, self._begin()))

    def _passed(
        self, pieces: Sequence[RowIndices], iterator: Iterator[Any]
    ) -> Generator[HostArray]:
        (n, p), first = self.shape, self._found.first
        with closing(self._same(iterator)) as batches:
            X, start = first[:0], 0
            for piece in pieces:
                index = np.asarray(piece)
                rows, last = np.empty((len(index), p), self.dtype), index.max()
                rows[index < start] = first
                while True:
                    here = (start <= index) & (index < start + len(X))
                    rows[here] = X[index[here] - start]
                    if last < start + len(X):
                        break
                    start, X = start + len(X), next(batches)
                if last == n - 1:
                    for _ in batches:  # there must be no more of them
                        pass
                yield rows

    def _same(self, iterator: Iterator[Any]) -> Generator[HostArray]:
        """Yield the rows of each batch of a later pass.

        Raises
        ------
        ValueError
            If they are not those of the first pass, or their labels or weights are not.
        """
        marks, count = self._found.marks, 0
        with closing(_batches(iterator)) as batches:
            for batch in batches:
                if batch.number == len(marks):
                    _refuse(batch.number, f"is one more than in the first pass; {_ANEW}")
                both = zip(batch.mark, marks[batch.number], _MARKED, strict=True)
                other = " and ".join(what for own, before, what in both if own != before)
                if other:
                    _refuse(batch.number, f"has other {other} than in the first pass; {_ANEW}")
                count += 1
                yield batch.X
        if count < len(marks):
            again = "" if count else "; a function must make a new iterator in each call"
            msg = f"X gave {len(marks)} batches in its first pass, and now {count}; {_ANEW}{again}"
            raise ValueError(msg)


@dataclass(frozen=True, eq=False)
class _InOrder:
    """The rows of batches as `Slices`; those that do not count are made like one that does."""

    batches: Batches
    counts: HostArray | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.batches.shape

    @property
    def dtype(self) -> Any:
        return self.batches.dtype

    chunk = 1

    @cached_property
    def _one(self) -> HostArray | None:
        """A row that counts."""
        if self.counts is None:
            return None
        with closing(self.batches.passed([np.flatnonzero(self.counts)[:1]])) as rows:
            return next(rows)

    def in_order(self, pieces: Sequence[RowIndices]) -> Generator[HostArray]:
        """Yield pieces of the rows in one pass."""
        one = self._one
        with closing(self.batches.passed(pieces)) as passed:
            for piece, rows in zip(pieces, passed, strict=True):
                if one is not None and self.counts is not None:
                    rows[~self.counts[np.asarray(piece)]] = one
                yield rows

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write some rows to an array: in a pass of their own."""
        with closing(self.in_order([range(start, stop)])) as rows:
            into[...] = next(rows)


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
    if isinstance(given, Mapping):
        _refuse_names(list(cast("Mapping[Any, Any]", given)), number)
    tuples = isinstance(given, (list, tuple))
    parts = list(cast("Sequence[Any]", given)) if tuples else [given]
    if not 1 <= len(parts) <= 3:
        _refuse(number, f"has {len(parts)} parts; {_FORM}")
    X = _array(parts[0], "X", number)
    if X.ndim != 2:
        remedies = {1: ": DataLoader(rows, batch_size=1024) makes some of single rows"}
        flatten = ": flatten each row, X.reshape(len(X), -1)"
        remedy = remedies.get(X.ndim, flatten if X.ndim else "")
        _refuse(number, f"has X of shape {X.shape}; {_FORM}{remedy}")
    X = X.astype(np.float32) if X.dtype.name == "bfloat16" else X
    if X.dtype.kind not in "biuf":
        _refuse(number, f"has X of dtype {X.dtype}, but features must be numbers; convert them")
    y, weights = (
        None if part is None else _array(part, name, number)
        for part, name in zip((*parts[1:], None, None)[:2], ("labels", "weights"), strict=True)
    )
    for name, part in (("labels", y), ("weights", weights)):
        if part is not None and part.shape[:1] != X.shape[:1]:
            _refuse(number, f"has {len(X)} rows and {name} of shape {part.shape}; {_FORM}")
    return _Batch(X, y, weights, number)


def _refuse_names(names: Sequence[Any], number: int) -> NoReturn:
    shown = ", ".join(map(repr, names[:5])) + ", …" * (len(names) > 5)
    X, y = (repr(names[0]), repr(names[-1])) if len(names) > 1 else ("'x'", "'y'")
    _refuse(
        number,
        f"is a dict of {shown}; give a function that picks X and y of each, such as "
        f"fit(lambda: ((batch[{X}], batch[{y}]) for batch in batches))",
    )


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


def _checksum(values: HostArray | None) -> int:
    if values is None:
        return 0
    if values.dtype.kind == "O":
        return zlib.crc32(repr(values.tolist()).encode())
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8).data)


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
