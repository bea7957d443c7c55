"""Batches of rows and labels that come again in every pass, such as a DataLoader of torch gives."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import isroutine
from itertools import repeat
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import numpy as np

from xplinear.backends.base import Backend, backend_of, fetched
from xplinear.backends.sparse import is_scipy
from xplinear.backends.transfer import RowIndices, ahead
from xplinear.data.protocol import Data
from xplinear.data.remote import (
    KEPT_BYTES,
    SAMPLED,
    SAMPLED_BYTES,
    Survey,
    checksum,
    finite,
    surveyed,
)
from xplinear.data.streamed import Spaced, counts_of, data_of, streamed
from xplinear.namespace import Array, HostArray, is_array

__all__ = ["Batches", "InOrderRows", "batches_of"]

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
_MARKED = "numbers of rows", "rows", "labels", "weights"
_NO_ROWS = "X gives no rows: there were none in a whole pass"
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
    many = hasattr(X, "__iter__") or isroutine(X) or isinstance(X, partial)
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
        return len(self.X), *map(_mark, self[:3])


class _Found(NamedTuple):
    """What the first pass finds."""

    shape: tuple[int, int]
    dtype: Any
    y: HostArray | None
    weights: HostArray | None
    survey: Survey
    marks: list[tuple[int, ...]]  # of the batches
    spaced: Spaced
    kept: HostArray | None  # all rows, where these are few


class _Gathered:
    """What is kept of the batches of the first pass."""

    def __init__(self) -> None:
        self.n = self.bytes = 0
        self.marks: list[tuple[int, ...]] = []
        self.y: list[HostArray | None] = []
        self.weights: list[HostArray | None] = []
        self.rows: list[HostArray] = []  # all, as long as they are few
        self.step, self.count, self.spaced = 1, 0, list[HostArray]()

    def add(self, batch: _Batch) -> None:
        X = np.array(batch.X)  # an iterator may use its memory again
        for name, own, parts in (
            ("labels", batch.y, self.y),
            ("weights", batch.weights, self.weights),
        ):
            if parts and (own is None) != (parts[0] is None):
                _refuse(batch.number, f"has {'no ' * (own is None)}{name}, unlike the first one")
            parts.append(None if own is None else np.array(own))
        self.marks.append(batch.mark)
        self.bytes += X.nbytes
        self.rows.append(X)
        if self.bytes > KEPT_BYTES:
            self.rows.clear()
        self.spaced.append(X[-self.n % self.step :: self.step].copy())
        self.n, self.count = self.n + len(X), self.count + len(self.spaced[-1])
        if self.count > 2 * SAMPLED or self.count * X.shape[1] * X.itemsize > 2 * SAMPLED_BYTES:
            self.step, self.spaced = 2 * self.step, [np.concatenate(self.spaced)[::2].copy()]
            self.count = len(self.spaced[0])

    def found(self, survey: Survey) -> _Found:
        spaced = np.concatenate(self.spaced)
        kept = np.concatenate(self.rows, dtype=spaced.dtype) if self.rows else None
        y, weights = _joined("labels", self.y), _joined("weights", self.weights)
        shape, few = (self.n, spaced.shape[1]), Spaced(self.step, spaced)
        return _Found(shape, spaced.dtype, y, weights, survey, self.marks, few, kept)


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
        gathered = _Gathered()
        with closing(_rows(_ahead(_batches(self._begin())), gathered.add)) as rows:
            survey = surveyed(rows)
        return gathered.found(survey)

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
        kept, how = self._found.kept, dict[str, Any](backend=backend, classes=classes)
        if kept is None:
            rows, spaced = InOrderRows(self), self._found.spaced
            return streamed(rows, y, s, dtype, counted, spaced=spaced, **how)
        if counted is not None:
            kept = np.where(counts_of(counted, len(kept))[:, None], kept, kept[counted[:1]])
        return data_of(kept, y, s, dtype, **how)

    def blocks(self) -> Generator[HostArray]:
        """Yield the rows of each batch, finite; of an iterator too, which is gone through."""
        return finite(_rows(_ahead(_batches(self._begin()))))

    def passed(self, pieces: Sequence[RowIndices]) -> Generator[HostArray]:
        """Yield pieces of the rows, each after the last one: what lies between is left out.

        In each the first row of all may follow, as often as asked for.
        """
        return _ahead(self._passed(pieces, self._begin()))

    def _passed(
        self, pieces: Sequence[RowIndices], iterator: Iterator[Any]
    ) -> Generator[HostArray]:
        (n, p), first = self.shape, self._found.spaced.rows[:1]
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
class InOrderRows:
    """The rows of batches as `Slices`."""

    batches: Batches

    @property
    def shape(self) -> tuple[int, int]:
        return self.batches.shape

    @property
    def dtype(self) -> Any:
        return self.batches.dtype

    chunk = 1

    def in_order(self, pieces: Sequence[RowIndices]) -> Generator[HostArray]:
        """Yield pieces of the rows in one pass."""
        return self.batches.passed(pieces)

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write some rows to an array: in a pass of their own."""
        with closing(self.in_order([range(start, stop)])) as rows:
            into[...] = next(rows)


def _ahead(made: Generator[_Made]) -> Generator[_Made]:
    """Yield what a generator makes; a thread makes the next one meanwhile."""
    with closing(made), closing(ahead(repeat(partial(next, made, None)))) as coming:
        for one in coming:
            if one is None:
                return
            yield one


def _rows(
    batches: Generator[_Batch], look: Callable[[_Batch], None] = lambda batch: None
) -> Generator[HostArray]:
    """Yield the rows of batches that have some; raise ValueError if none has."""
    none = True
    with closing(batches):
        for batch in batches:
            look(batch)
            if len(batch.X):
                none = False
                yield batch.X
    if none:
        raise ValueError(_NO_ROWS)


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


def _mark(values: HostArray | None) -> int:
    if values is None:
        return 0
    if values.dtype.kind == "O":
        return zlib.crc32(repr(values.tolist()).encode())
    return checksum(values)


def _joined(name: str, parts: Sequence[HostArray | None]) -> HostArray | None:
    """Return what all batches have of labels or weights."""
    there = [part for part in parts if part is not None and len(part)]
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
