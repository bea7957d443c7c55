"""Columns of Arrow: where they are, their numbers, a writer; the only file that imports pyarrow."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, NoReturn, cast

import numpy as np

from xplinear.namespace import HostArray

__all__ = [
    "Form",
    "Part",
    "Parts",
    "changed",
    "check_present",
    "form_of",
    "labels_in",
    "numbers_in",
    "parts_of",
    "pyarrow_for",
    "row_index",
    "write_parquet",
]

_GROUP_BYTES = 2**25  # of the rows that are written together
_PAGE_BYTES = 2**20  # read of a column at a time: all of it in a row group may be large
_PAGES_BYTES = 2**24  # and of all columns
_SLICE_ROWS = 4096  # of a table that gives any of its rows


def pyarrow_for(what: str) -> Any:
    """Return pyarrow, with the modules of it that are used here; ``what`` needs it."""
    try:
        import pyarrow as pa

        for module in ("dataset", "parquet", "types"):
            import_module(f"pyarrow.{module}")
    except ImportError as error:
        msg = f"{what} needs pyarrow: pip install 'xplinear[parquet]'"
        raise ImportError(msg) from error
    return pa


class Part(NamedTuple):
    """Rows that are stored together."""

    file: str  # for messages
    before: int  # rows in that file
    rows: int
    batches: Callable[[Sequence[str], int], Iterator[Any]]  # columns, so many rows at a time


class Parts(NamedTuple):
    """All rows of a source.

    ``columns`` are those it shows; ``table`` is all of it where it is in memory, and ``beyond``
    tells of a column that is not in all files.
    """

    name: str
    schema: Any
    columns: tuple[str, ...]
    parts: tuple[Part, ...]
    table: Any = None
    beyond: str = ""


class Form(NamedTuple):
    """What is in a column: numbers, or lists of so many of them, of 0 where it may be any."""

    dtype: np.dtype[Any]
    width: int | None = None


def form_of(kind: Any) -> Form | None:
    """Return what is in a column of a type of Arrow, None if neither numbers nor lists of them."""
    pa = pyarrow_for("Arrow")
    types = pa.types
    if isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) == 1:
        kind = kind.storage_type
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return Form(np.dtype(kind.to_pandas_dtype()))
    if types.is_decimal(kind):
        return Form(np.dtype(np.float64))
    lists = types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view
    fixed = types.is_fixed_size_list(kind)
    if not (fixed or any(is_list(kind) for is_list in lists)):
        return None
    inner = form_of(kind.value_type)
    if inner is None or inner.width is not None:
        return None
    return Form(inner.dtype, kind.list_size if fixed else 0)


def check_present(column: Any, argument: str, cell: Callable[[int], str]) -> None:
    """Raise ValueError if a value is missing; ``cell(row)`` is what messages call it."""
    if column.null_count:
        at = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        remedy = "impute it, or leave the row out" if argument == "X" else "leave the row out"
        msg = f"Input {argument} contains NaN: {cell(at)}, is missing; {remedy}"
        raise ValueError(msg)


def numbers_in(
    column: Any, width: int | None, argument: str, cell: Callable[[int], str]
) -> HostArray:
    """Return a column ``(r,)``, or lists ``(r, width)``: its own memory where that will do.

    ``argument`` and ``cell(row)`` name a value in messages.

    Raises
    ------
    ValueError
        If a value is missing, or a list has another length.
    """
    pa = pyarrow_for("Arrow")
    check_present(column, argument, cell)
    if width is None:
        column = column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column
        return column.to_numpy(zero_copy_only=False)  # truth values are bits
    column = getattr(column, "storage", column)
    if not pa.types.is_fixed_size_list(column.type):
        lengths = column.value_lengths().to_numpy()
        others = np.flatnonzero(lengths != width)
        if len(others):
            at = int(others[0])
            msg = (
                f"{argument}: {cell(at)}, is a list of {lengths[at]:,} numbers, the first one has "
                f"{width:,}; lists must be of one length"
            )
            raise ValueError(msg)

    def inside(at: int) -> str:
        return f"{cell(at // width)}, element {at % width}"

    return numbers_in(column.flatten(), None, argument, inside).reshape(len(column), width)


def labels_in(column: Any, name: str) -> HostArray:
    """Return the texts or dates of a column without missing values.

    Raises
    ------
    ValueError
        If it holds other things; ``name`` is what messages call it.
    """
    types = pyarrow_for("Arrow").types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_temporal(column.type) or types.is_integer(column.type):
        return column.to_numpy()
    if not any(
        is_text(column.type)
        for is_text in (types.is_string, types.is_large_string, types.is_string_view)
    ):
        msg = f"{name} is of type {column.type}; give numbers or texts"
        raise ValueError(msg)
    coded = column.dictionary_encode().combine_chunks()
    texts = coded.dictionary.to_pylist()
    named = np.asarray(texts, dtype=str)
    if named.tolist() != texts:  # NumPy forgets a NUL at the end of a text
        named = np.asarray(texts, dtype=object)
    return named[coded.indices.to_numpy()]


def row_index(schema: Any) -> set[str]:
    """Return the columns of a table that are the row index of pandas."""
    index = (schema.pandas_metadata or {}).get("index_columns", ())
    named = {name for name in index if isinstance(name, str)}
    return {name for name in schema.names if name in named or name.startswith("__index_level_")}


def parts_of(source: Any) -> Parts | None:
    """Return the rows of a path, or an object of pyarrow or of Hugging Face; None of another one.

    Raises
    ------
    TypeError, ValueError
        If it gives its rows once only, or not as they are stored.
    FileNotFoundError
        If nothing is there.
    """
    paths = source if isinstance(source, (list, tuple)) and source else [source]
    if all(isinstance(path, (str, os.PathLike)) for path in cast(list[Any], paths)):
        return _of_paths(source)
    kinds = [f"{kind.__module__}.{kind.__name__}" for kind in type(source).__mro__]
    maker = next((_MAKERS[kind] for kind in kinds if kind in _MAKERS), None)
    return None if maker is None else maker(source)


def _of_paths(source: Any) -> Parts:
    pa = pyarrow_for("a path as X")
    many = isinstance(source, (list, tuple))
    paths = [os.fspath(path) for path in (cast(list[Any], source) if many else [source])]
    for path in paths:
        if not path or ("://" not in path and not Path(path).exists()):
            msg = f"no file or folder {path!r} to be the source of X"
            raise FileNotFoundError(msg)
    name = repr(paths[0]) if len(paths) == 1 else f"{paths[0]!r}, …"
    try:
        dataset = pa.dataset.dataset(
            paths if many else paths[0], format="parquet", partitioning="hive"
        )
    except (OSError, ValueError) as error:
        raise _no_parquet(name, error) from error
    if not dataset.files:
        msg = f"X: the folder {name} holds no Parquet files"
        raise ValueError(msg)
    found = _of_dataset(dataset, name)
    for fragment in dataset.get_fragments():
        more = [
            column
            for column in fragment.physical_schema.names
            if column not in dataset.schema.names
        ]
        if more:
            first, other = dataset.files[0], fragment.path
            return found._replace(beyond=f"{other!r} has a column {more[0]!r}, {first!r} has none")
    return found


def _no_parquet(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"X: {name} cannot be read as Parquet ({error}); xplinear.datasets.load reads files of "
        "other formats"
    )


def _of_dataset(dataset: Any, name: str = "the pyarrow Dataset") -> Parts:
    pa, schema = pyarrow_for("Arrow"), dataset.schema
    if isinstance(dataset, pa.dataset.InMemoryDataset):
        return _of_table(dataset.to_table(), name)
    try:
        fragments = list(dataset.get_fragments())
    except ValueError as error:
        msg = (
            f"X: {name} is filtered or projected; write it, pyarrow.dataset.write_dataset(...), or "
            "take it to memory, .to_table()"
        )
        raise ValueError(msg) from error
    parts = [part for fragment in fragments for part in _of_fragment(fragment, schema, name)]
    return _shown(name, schema, parts)


def _of_arrays(arrays: Any) -> Parts:
    pa = pyarrow_for("Arrow")
    if isinstance(arrays, pa.RecordBatch):
        return _of_table(pa.Table.from_batches([arrays]), "the pyarrow RecordBatch")
    return _of_table(pa.table({"X": arrays}), "the pyarrow array")


def _of_table(table: Any, name: str = "the pyarrow Table") -> Parts:
    return _of_runs(name, table.schema, len(table), table.select)._replace(table=table)


def _shown(name: str, schema: Any, parts: Iterable[Part]) -> Parts:
    """Return the parts of a table, all of whose columns are shown but the row index of pandas."""
    twice = {column for column in schema.names if schema.names.count(column) > 1}
    if twice:
        msg = f"X: {name} names two columns {min(twice)!r}"
        raise ValueError(msg)
    index = row_index(schema)
    columns = tuple(column for column in schema.names if column not in index)
    return Parts(name, schema, columns, tuple(parts))


def _of_runs(name: str, schema: Any, rows: int, of: Callable[[tuple[str, ...]], Any]) -> Parts:
    """Return parts of a table of which any run can be had: ``of(columns)[start:stop]``."""

    def batches(first: int, count: int, columns: Sequence[str], size: int) -> Iterator[Any]:
        table = of(tuple(columns))
        for start in range(first, first + count, size):
            run = table[start : min(start + size, first + count)]
            yield from run.select(list(columns)).to_batches()

    starts = range(0, rows, _SLICE_ROWS)
    counts = [min(_SLICE_ROWS, rows - start) for start in starts]
    parts = (
        Part(name, start, count, partial(batches, start, count))
        for start, count in zip(starts, counts, strict=True)
    )
    return _shown(name, schema, parts)


def _of_fragment(fragment: Any, schema: Any, name: str) -> Iterator[Part]:
    """Yield the row groups of a file of Parquet, or all rows of one of another format."""
    pa = pyarrow_for("Arrow")
    file = repr(getattr(fragment, "path", None) or name)
    if not isinstance(fragment, pa.dataset.ParquetFileFragment):

        def batches(columns: Sequence[str], size: int) -> Iterator[Any]:
            wanted = {column: pa.dataset.field(column) for column in columns}
            scanner = fragment.scanner(
                schema, columns=wanted, batch_size=size, batch_readahead=1, fragment_readahead=1
            )
            return scanner.to_batches()

        yield Part(file, 0, fragment.count_rows(), batches)
        return
    try:
        metadata, groups = fragment.metadata, [group.id for group in fragment.row_groups]
    except (OSError, ValueError) as error:
        raise _no_parquet(file, error) from error
    keys = pa.dataset.get_partition_keys(fragment.partition_expression)
    found = _ParquetFile(file, schema, keys, metadata, fragment, _seen(fragment))
    yield from _row_groups(file, metadata, groups, found.batches)


def _row_groups(
    file: str, metadata: Any, groups: Iterable[int], batches: Callable[..., Iterator[Any]]
) -> Iterator[Part]:
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    before = [0, *accumulate(sizes)]
    for group in groups:
        yield Part(file, before[group], sizes[group], partial(batches, group))


def _of_file(file: Any) -> Parts:
    """Return the row groups of a ParquetFile, whose one handle takes one reader at a time."""
    lock, schema, name = Lock(), file.schema_arrow, "the ParquetFile"

    def batches(group: int, columns: Sequence[str], size: int) -> Iterator[Any]:
        found = file.iter_batches(size, row_groups=[group], columns=list(columns))
        while True:
            with lock:
                batch = next(found, None)
            if batch is None:
                return
            yield batch.select(list(columns))

    groups = range(file.metadata.num_row_groups)
    return _shown(name, schema, _row_groups(name, file.metadata, groups, batches))


@dataclass(frozen=True)
class _ParquetFile:
    """A file of a data set, as it was at first."""

    file: str
    schema: Any  # of the data set
    keys: Mapping[str, Any]  # the columns that are in its path
    metadata: Any
    fragment: Any
    seen: tuple[int, int] | None

    def batches(self, group: int, columns: Sequence[str], size: int) -> Iterator[Any]:
        """Yield some columns of a row group, so many rows at a time at most."""
        pa = pyarrow_for("Arrow")
        if _seen(self.fragment) != self.seen:
            raise changed(self.file)
        own = self.metadata.schema.to_arrow_schema()
        stored = [name for name in columns if self._is_stored(own, name)]
        buffer = min(_PAGE_BYTES, _PAGES_BYTES // max(1, len(stored)))
        how = {"metadata": self.metadata, "pre_buffer": False, "buffer_size": buffer}
        with (
            _reading(self.file),
            pa.parquet.ParquetFile(self.fragment.open(), **how) as file,
        ):
            for batch in file.iter_batches(size, row_groups=[group], columns=stored):
                arrays = [
                    batch.column(name)
                    if name in stored
                    else pa.repeat(pa.scalar(self.keys[name]), len(batch))
                    for name in columns
                ]
                yield pa.record_batch(arrays, list(columns))

    def _is_stored(self, schema: Any, name: str) -> bool:
        """Whether a column is in the file, not in its path; raise ValueError if in neither."""
        if name not in schema.names:
            if name in self.keys:
                return False
            msg = f"X: {self.file} has no column {name!r}, which the first file has"
            raise ValueError(msg)
        own, first = schema.field(name).type, self.schema.field(name).type
        if own != first:
            msg = (
                f"X: column {name!r} of {self.file} is of type {own}, that of the first file of "
                f"type {first}; write them alike"
            )
            raise ValueError(msg)
        return True


@contextmanager
def _reading(file: str) -> Generator[None]:
    """Let errors name the file that is read."""
    try:
        yield
    except (OSError, ValueError) as error:
        msg = f"X: {file} cannot be read: {error}"
        raise OSError(msg) from error


def _seen(fragment: Any) -> tuple[int, int] | None:
    """Return the size and the time of a file, None of a buffer."""
    if fragment.buffer is not None:
        return None
    info = fragment.filesystem.get_file_info(fragment.path)
    return info.size, info.mtime_ns


def changed(file: str) -> ValueError:
    """Return the error of a file that does not give the rows it gave at first."""
    return ValueError(f"X: {file} changed while it was read; every pass must find the same rows")


def _of_hugging_face(dataset: Any) -> Parts:
    if dataset.format["type"] == "custom":
        msg = (
            "X is a Dataset with a transform, which makes other rows than it holds: "
            "dataset.map(...) writes them, with_format(None) leaves it out"
        )
        raise TypeError(msg)

    @cache
    def of(columns: tuple[str, ...]) -> Any:
        return dataset.select_columns(list(columns)).with_format("arrow")

    schema, shown = dataset.features.arrow_schema, dataset.format["columns"]
    found = _of_runs("the Dataset", schema, len(dataset), of)
    return found._replace(columns=tuple(name for name in found.columns if name in shown))


def _of_column(column: Any) -> Parts:
    return _of_hugging_face(column.source)._replace(columns=(column.column_name,))


def _refuse(what: str) -> Callable[[Any], NoReturn]:
    def refuse(source: Any) -> NoReturn:
        names = f" ({', '.join(map(repr, source))})" if isinstance(source, dict) else ""
        msg = f"X is of type {type(source).__name__}{names}: {what}"
        raise TypeError(msg)

    return refuse


_ONCE = _refuse("it gives its rows once; pass the Dataset or the file that it reads")
_STREAM = _refuse("its rows come one after another only; load it without streaming")
_MAKERS: dict[str, Callable[[Any], Parts]] = {
    "pyarrow._dataset.Dataset": _of_dataset,
    "pyarrow.parquet.core.ParquetFile": _of_file,
    "pyarrow.lib.Array": _of_arrays,
    "pyarrow.lib.ChunkedArray": _of_arrays,
    "pyarrow.lib.RecordBatch": _of_arrays,
    "pyarrow.lib.Table": _of_table,
    "pyarrow.lib.RecordBatchReader": _ONCE,
    "pyarrow._dataset.Scanner": _ONCE,
    "datasets.arrow_dataset.Dataset": _of_hugging_face,
    "datasets.arrow_dataset.Column": _of_column,
    "datasets.dataset_dict.DatasetDict": _refuse("pass one of its splits"),
    "datasets.dataset_dict.IterableDatasetDict": _STREAM,
    "datasets.iterable_dataset.IterableDataset": _STREAM,
}


def write_parquet(path: str | os.PathLike[str], blocks: Iterable[Mapping[str, HostArray]]) -> int:
    """Write blocks of rows to one Parquet file, in bounded memory; return how many rows.

    Parameters
    ----------
    path : path-like
    blocks : iterable of mappings
        Of columns by name, the same in each block: arrays ``(r,)`` of numbers or texts, or
        ``(r, w)``, which become a column of fixed-size lists. The first block tells their types.

    Raises
    ------
    ValueError
        If there are no blocks, or one does not have the columns of the first.
    OSError
        If the file cannot be written; what there is of it then stays.

    Examples
    --------
    >>> import tempfile
    >>> blocks = [{"label": np.asarray(["yes", "no"]), "probabilities": np.eye(2)}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_parquet(os.path.join(folder, "a.parquet"), blocks)
    2
    """
    pa = pyarrow_for("writing .parquet")
    writer, waiting, total = None, list[Any](), 0
    try:
        for block in blocks:
            columns = {name: _column(pa, np.asarray(a)) for name, a in block.items()}
            if writer is None:
                schema = pa.table(columns).schema
                texts = [name for name in columns if form_of(schema.field(name).type) is None]
                # Numbers that differ gain nothing by a dictionary, and take long to be read.
                writer = pa.parquet.ParquetWriter(path, schema, use_dictionary=texts)
            waiting.append(pa.table(columns, schema=writer.schema))
            total += len(waiting[-1])
            if sum(table.nbytes for table in waiting) >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if writer is None:
            msg = f"no blocks to write to {str(path)!r}, so no columns"
            raise ValueError(msg)
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    finally:
        if writer is not None:
            writer.close()
    return total


def _column(pa: Any, a: HostArray) -> Any:
    """Return an array as a column; rows of a matrix as lists of one length."""
    a = a.astype(a.dtype.newbyteorder("="), copy=False)
    if a.ndim == 1:
        return pa.array(a)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(a)), a.shape[1])
