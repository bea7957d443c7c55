"""Columns of tables that are not in memory: which are features, and their rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Condition
from typing import Any, NamedTuple, cast

import numpy as np

from xplinear.arguments import TEXT, sequence, shown
from xplinear.data.arrow import (
    Form,
    Part,
    Parts,
    changed,
    check_present,
    form_of,
    labels_in,
    numbers_in,
    parts_of,
    pyarrow_for,
)
from xplinear.data.remote import KEPT_BYTES
from xplinear.data.sliced import SlicedRows
from xplinear.namespace import HostArray, is_array

__all__ = ["Scanned", "by_name", "scan"]

_BATCH_BYTES = 2**22  # decoded together: they stay in the cache
_TABLE_CELLS = 2**18  # likewise, of a table
_CHUNK_BYTES = 2**24  # that are best read together
_MOMENT = 0.01  # s
_OPEN = 10  # in the middle of a part, where reading has stopped

_NAMES = sequence(TEXT, "a sequence of names of columns")
_WANTS = (
    "the path of a Parquet file or of a folder of them, a Dataset or ParquetFile of pyarrow, or a "
    "Dataset of Hugging Face"
)


class _Run(NamedTuple):
    """Rows of one part."""

    part: int
    start: int
    rows: int


class _Cursor:
    """Where reading of a part has come to."""

    def __init__(self, batches: Iterator[Any], rows: int) -> None:
        self.batches, self.rows = batches, rows
        self.at, self.rest = 0, cast(Any, None)

    def run(self, start: int, count: int) -> Generator[Any]:
        """Yield so many rows from ``start`` on, which was not passed yet."""
        while count:
            if not self.rest:
                self.rest = next(self.batches, None)
                if self.rest is None:  # who counts rows will miss them
                    return
            skipped = min(start - self.at, len(self.rest))
            here = self.rest.slice(skipped, count)
            self.rest = self.rest.slice(skipped + len(here))
            self.at += skipped + len(here)
            start, count = start + len(here), count - len(here)
            if len(here):
                yield here

    def close(self) -> None:
        """Leave the file."""
        getattr(self.batches, "close", lambda: None)()


class _Cursors:
    """Those of all parts; of the readers of a part that of the first rows goes first."""

    def __init__(self) -> None:
        self.turn = Condition()
        self.open = list[tuple[int, _Cursor]]()
        self.wanted: dict[int, list[int]] = {}  # by those who read, or wait

    @contextmanager
    def wanting(self, runs: Iterable[_Run]) -> Generator[None]:
        """Let readers of later rows of some parts wait."""
        with self.turn:
            for run in runs:
                self.wanted.setdefault(run.part, []).append(run.start)
        try:
            yield
        finally:
            with self.turn:
                for run in runs:
                    self.wanted[run.part].remove(run.start)
                self.turn.notify_all()

    def _is_first(self, run: _Run) -> bool:
        return min(self.wanted[run.part]) == run.start

    def _nearest(self, run: _Run) -> tuple[int, _Cursor] | None:
        near = [one for one in self.open if one[0] == run.part and one[1].at <= run.start]
        return max(near, key=lambda one: one[1].at, default=None)

    @contextmanager
    def at(self, run: _Run, new: Callable[[], _Cursor]) -> Generator[_Cursor]:
        """Give a cursor that has not passed a run: that nearest to it, or a new one."""
        with self.turn:
            self.turn.wait_for(lambda: self._is_first(run))
            own = self._nearest(run)
            if own is not None and own[1].at < run.start:  # who reads up to here may be about to
                self.turn.wait(_MOMENT)
                self.turn.wait_for(lambda: self._is_first(run))
                own = self._nearest(run)
            self.open = [one for one in self.open if one is not own]
        cursor = new() if own is None else own[1]
        try:
            yield cursor
        except BaseException:
            cursor.close()
            raise
        with self.turn:
            if cursor.at < cursor.rows:
                self.open.append((run.part, cursor))
                cursor = self.open.pop(0)[1] if len(self.open) > _OPEN else None
        if cursor is not None:
            cursor.close()


@dataclass(frozen=True, eq=False)
class Scanned:
    """Columns of a table that is not in memory; made by `scan`.

    They are `xplinear.data.remote.Slices`: numbers of several columns, or one column of lists of
    one length. A row group of Parquet need not fit in memory; runs of rows cost least in their
    order.

    Parameters
    ----------
    source : Parts
        All columns of the table, and where its rows are.
    columns : tuple of str
        Those that are rows.
    chosen : bool, default False
        Whether the columns were named by the user.
    argument : str, default "X"
        What messages call the rows.
    """

    source: Parts
    columns: tuple[str, ...]
    chosen: bool = False
    argument: str = "X"
    cursors: _Cursors = field(default_factory=_Cursors, init=False, repr=False)

    def __repr__(self) -> str:
        return f"<columns {shown(list(self.columns))} of {self.source.name}>"

    def __array__(self, *_: Any, **__: Any) -> HostArray:
        """Raise TypeError: whoever takes rows of an array is not to be given another object."""
        msg = (
            f"X is columns of {self.source.name}, which are not in memory, and was to become an "
            "array; LinearClassifier and LinearClassifierCV take it as it is, and the latter "
            "chooses strengths; for others make a table of it, pyarrow.parquet.read_table(...)"
        )
        raise TypeError(msg)

    @cached_property
    def ends(self) -> HostArray:
        """The row after the last of each part."""
        return np.cumsum([part.rows for part in self.source.parts], dtype=np.int64)

    @property
    def is_plain(self) -> bool:
        """Whether it is a table in memory without lists, as others take it."""
        forms = (form_of(self.source.schema.field(name).type) for name in self.columns)
        return self.source.table is not None and all(a is None or a.width is None for a in forms)

    @cached_property
    def form(self) -> Form:
        """The dtype of the numbers, and the length of the lists if they are in one column."""
        forms = {name: self._form_of(name) for name in self.columns}
        lists = [name for name, form in forms.items() if form.width is not None]
        problem = None
        if not forms:
            problem = f"{self.source.name} has no columns left for the features"
        elif lists and len(forms) > 1:
            others = ", ".join(repr(name) for name in self.columns if name != lists[0])
            problem = (
                f"column {lists[0]!r} of {self.source.name} holds lists, beside {others}; features "
                "are one column of lists, or columns of numbers: "
                f"xplinear.scan(..., columns=[{lists[0]!r}])"
            )
        elif self.source.beyond and not self.chosen:
            problem = f"{self.source.beyond}; xplinear.scan(..., columns=[...]) chooses"
        if problem is not None:
            msg = f"{self.argument}: {problem}"
            raise ValueError(msg)
        if not lists:
            return Form(np.result_type(*(form.dtype for form in forms.values())))
        form = forms[lists[0]]
        return form._replace(width=form.width or self._first_length(lists[0]))

    def _form_of(self, name: str) -> Form:
        kind = self.source.schema.field(name).type
        form = form_of(kind)
        if form is None:
            msg = (
                f"{self.argument}: column {name!r} of {self.source.name} is of type {kind}; "
                "features are columns of numbers or truth values, or one column of lists of "
                "numbers: encode it, or leave it out, xplinear.scan(..., columns=[...])"
            )
            raise ValueError(msg)
        return form

    def _first_length(self, name: str) -> int:
        part = next((part for part in self.source.parts if part.rows), None)
        if part is None:
            return 0
        with closing(_Cursor(part.batches([name], 1), 1)) as cursor:
            (column,) = (batch.column(0) for batch in cursor.run(0, 1))
        check_present(column, self.argument, self._cell(part, name, 0))
        return len(column[0])

    def _cell(self, part: Part, name: str, first: int) -> Callable[[int], str]:
        """Return what messages call the values of rows of a part, from ``first`` on."""
        return lambda row: f"column {name!r} of {part.file}, row {part.before + first + row:,}"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the numbers of each."""
        n, width = int(self.ends[-1]) if self.source.parts else 0, self.form.width
        return n, len(self.columns) if width is None else width

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that holds all numbers."""
        return self.form.dtype

    @property
    def sequence(self) -> int:
        """The rows of the largest part: of a row group there is no beginning but its first row."""
        return max((part.rows for part in self.source.parts), default=1)

    @property
    def chunk(self) -> int:
        """The rows of the largest part, or as many of them as memory is meant for."""
        most = _CHUNK_BYTES // max(1, self.shape[1] * self.dtype.itemsize)
        return max(1, min(self.sequence, most))

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write rows to an array of their shape; several threads may call it."""
        runs, at = list[_Run](), start
        first, last = np.searchsorted(self.ends, [start, stop - 1], "right")
        for part in range(int(first), int(last) + 1):
            begin, end = int(self.ends[part]) - self.source.parts[part].rows, int(self.ends[part])
            if at < end:  # some parts are empty
                runs.append(_Run(part, at - begin, min(stop, end) - at))
                at = min(stop, end)
        with self.cursors.wanting(runs):
            for run in runs:
                self._read_run(run, into[: run.rows])
                into = into[run.rows :]

    def _read_run(self, run: _Run, into: HostArray) -> None:
        part, done = self.source.parts[run.part], 0
        size = 1 + _BATCH_BYTES // (1 + self.shape[1] * self.dtype.itemsize)

        def new() -> _Cursor:
            return _Cursor(part.batches(self.columns, size), part.rows)

        with self.cursors.at(run, new) as cursor:
            for batch in cursor.run(run.start, run.rows):
                self._write(batch, part, run.start + done, into[done : done + len(batch)])
                done += len(batch)
            if done < run.rows:
                raise changed(part.file)

    def _write(self, batch: Any, part: Part, row: int, into: HostArray) -> None:
        """Write rows of a part, those from ``row`` on, to an array."""
        width = self.form.width
        for j, (column, name) in enumerate(zip(batch.columns, self.columns, strict=True)):
            found = numbers_in(column, width, self.argument, self._cell(part, name, row))
            if width is None:
                into[:, j] = found
            else:
                into[...] = found

    def of(self, columns: Sequence[str], argument: str = "X") -> Scanned:
        """Return the same rows of columns chosen."""
        name, there = self.source.name, self.source.schema.names
        missing = [column for column in columns if column not in there]
        if missing:
            msg = f"{argument}: {name} has no column {missing[0]!r}; it has {shown(there)}"
            raise ValueError(msg)
        twice = [column for i, column in enumerate(columns) if column in columns[:i]]
        if twice:
            msg = f"{argument}: column {twice[0]!r} of {name} is named twice"
            raise ValueError(msg)
        return replace(self, columns=tuple(columns), chosen=True, argument=argument)

    def table(self) -> Any:
        """Return the columns as a table of Arrow in memory, without missing values."""
        pa = pyarrow_for("Arrow")
        schema = pa.schema([self.source.schema.field(name) for name in self.columns])
        found: list[Any] = []
        for part in self.source.parts:
            row = 0
            for batch in part.batches(self.columns, 1 + _TABLE_CELLS // len(self.columns)):
                for column, name in zip(batch.columns, self.columns, strict=True):
                    check_present(column, self.argument, self._cell(part, name, row))
                found.append(batch)
                row += len(batch)
            if row != part.rows:
                raise changed(part.file)
        return pa.Table.from_batches(found) if found else schema.empty_table()

    def column(self, name: str, argument: str) -> HostArray:
        """Return all values of a column, for an argument: ``(n,)``, or of lists ``(n, w)``."""
        one = self.of([name], argument)
        kind = self.source.schema.field(name).type
        if form_of(kind) is None:
            return labels_in(
                one.table().column(0), f"{argument}: column {name!r} of {self.source.name}"
            )
        values = np.empty(one.shape, one.dtype)
        one.read(0, len(values), values)
        return values[:, 0] if one.form.width is None else values

    def features_of(self, model: Any) -> Scanned:
        """Return the features that a model has: of their names, or the one column of such lists."""
        p, names = (getattr(model, f"{name}_in_", None) for name in ("n_features", "feature_names"))
        if self.chosen or p is None:
            return self
        if names is not None:
            return self.of(names)
        forms = {name: form_of(self.source.schema.field(name).type) for name in self.columns}
        lists = [self.of([name]) for name, form in forms.items() if form and form.width is not None]
        fit = [one for one in lists if one.shape[1] == p]
        return fit[0] if len(fit) == 1 else self

    def _lists_of(self, table: Any) -> HostArray:
        """Return lists in memory as a matrix, which is their memory where that is in one piece."""
        (name,), row, found = self.columns, 0, list[HostArray]()
        whole = Part(self.source.name, 0, len(table), lambda *_: iter(()))
        for piece in table.column(name).chunks:
            cell = self._cell(whole, name, row)
            found.append(numbers_in(piece, self.form.width, self.argument, cell))
            row += len(piece)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def in_memory(self) -> Any:
        """Return rows that are few as a table or an array, others as those of a file."""
        n, p = self.shape
        if n == 0:
            msg = f"X: {self.source.name} has no rows"
            raise ValueError(msg)
        lists, table = self.form.width is not None, self.source.table
        if table is not None:
            return self._lists_of(table) if lists else table.select(self.columns)
        rows = SlicedRows(self, None if lists else np.asarray(self.columns, dtype=object))
        if n * p * self.dtype.itemsize > KEPT_BYTES:
            return rows
        return rows.array() if lists else self.table()


def scan(source: Any, *, columns: Sequence[str] | None = None) -> Scanned:
    """Return rows of a table that is not in memory, for `fit` and all that predicts.

    Parameters
    ----------
    source : path, sequence of paths, or object
        A Parquet file or a folder of them, in the order of their names; columns that its paths
        name, ``year=2020/``, are among them. Or a Dataset or ParquetFile of pyarrow, or a Dataset
        of Hugging Face, in any format but a transform.
    columns : sequence of str, optional
        The features, in this order: numbers and truth values, or one column of lists of numbers,
        all of one length. By default all columns but the row index of pandas and those that are
        named as labels or weights.

    Returns
    -------
    Scanned
        Pass it as X. Labels and weights may then be named: ``fit(X, "label")``.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    TypeError, ValueError, FileNotFoundError
        If it is no such source.

    Notes
    -----
    What these are may be passed as X itself; `scan` is for a choice of columns. A model takes its
    features by their names from every source it predicts.

    Examples
    --------
    >>> import tempfile, pyarrow.parquet
    >>> folder = tempfile.TemporaryDirectory()
    >>> rows = pyarrow.table({"id": [7, 8, 9], "size": [0.0, 2.0, 3.0], "kind": ["a", "b", "b"]})
    >>> pyarrow.parquet.write_table(rows, folder.name + "/rows.parquet")
    >>> X = scan(folder.name, columns=["size"])
    >>> X.shape
    (3, 1)
    >>> from xplinear import LinearClassifier
    >>> LinearClassifier(C=10.0).fit(X, "kind").predict(X)
    array(['a', 'b', 'b'], dtype='<U1')
    >>> folder.cleanup()
    """
    rows = _scanned(source)
    if rows is None:
        msg = f"source must be {_WANTS}, got {shown(source)}"
        raise TypeError(msg)
    if columns is None:
        return rows
    return replace(rows.of(_NAMES("columns", columns), "columns"), argument="X")


def by_name(X: Any, model: Any = None, **given: Any) -> tuple[Any, ...]:
    """Return X, and what was given with it; columns of X are taken for their names.

    Parameters
    ----------
    X : Any
        What `scan` knows becomes a table or an array where it is small, else `SlicedRows`.
    model : classifier, optional
        Whose features are to be taken, if it is fitted.
    **given
        The arguments that may be names.

    Examples
    --------
    >>> by_name([[1.0]], y=[0])
    ([[1.0]], [0])
    """
    taken = {name: _of_hugging_face(value, name) for name, value in given.items()}
    many = isinstance(X, (list, tuple))
    if many and X and isinstance(X[0], Scanned):
        msg = "X is a list of what xplinear.scan returned; scan all files at once: scan([a, b])"
        raise TypeError(msg)
    rows = None if is_array(X) or many else _scanned(X)
    columns = {name: value for name, value in taken.items() if isinstance(value, str)}
    if rows is None or (rows is not X and rows.is_plain and not columns):
        return X, *taken.values()
    if "y" in taken and taken["y"] is None:
        msg = f"y must be the labels of all rows, or the name of a column of {rows.source.name}"
        raise ValueError(msg)
    others = [name for name in rows.columns if name not in columns.values()]
    features = replace(rows, columns=tuple(others)).features_of(model)
    taken |= {name: rows.column(value, name) for name, value in columns.items()}
    return features.in_memory(), *taken.values()


def _scanned(source: Any) -> Scanned | None:
    """Return rows of a table that is not in memory, None of what is none."""
    if isinstance(source, Scanned):
        return source
    found = parts_of(source)
    return found and Scanned(found, found.columns)


def _of_hugging_face(values: Any, argument: str) -> Any:
    """Return a column of a Dataset of Hugging Face as an array, anything else as it is."""
    if type(values).__module__ != "datasets.arrow_dataset":
        return values
    rows = scan(values)
    return rows.column(rows.columns[0], argument)
