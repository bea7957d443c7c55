"""Tables of Parquet."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from xplinear.data.arrow import pyarrow_for, row_index
from xplinear.datasets import tables
from xplinear.datasets.dataset import Dataset
from xplinear.datasets.reader import DAMAGED, File, Request, rows_at_once
from xplinear.namespace import HostArray

__all__ = ["parquet_parts", "read_parquet"]

_BUFFER_BYTES = 2**20
_SHORTER = "timestamp[s]", "date32"  # times as pandas writes them to a text file


def read_parquet(file: File, request: Request) -> Dataset:
    """Read the columns of a table."""
    table, stored, _ = _opened(file, request)
    try:
        rows = stored.read()  # read_table refuses names that come twice
    except DAMAGED as error:
        _refuse(file, error)
    return _dataset(table, rows)


def parquet_parts(file: File, request: Request) -> Generator[Dataset]:
    """Yield a table that a model expects, some rows at a time, as `read_parquet` reads it."""
    # By default pyarrow keeps what it has read of the file.
    table, stored, pa = _opened(file, request, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    times, start = _times(table, stored), 0
    if not stored.metadata.num_rows:
        yield _dataset(table, stored.schema_arrow.empty_table())
    for batch in _batches(file, stored):
        rows = pa.Table.from_batches([batch])
        for j, count in times.items():
            texts = _arrow_texts(rows.column(j), pa.types, count)
            rows = rows.set_column(j, rows.field(j).name, texts)
        yield _dataset(table, rows, start)
        start += batch.num_rows


class _Table(NamedTuple):
    """A file of which the footer is read: what its columns are called, and which are what."""

    file: File
    request: Request
    types: Any  # pyarrow's functions that tell them
    names: Sequence[str]
    label: int | None
    features: Sequence[int]
    places: Sequence[int]  # of all these in the file


def _opened(file: File, request: Request, **reading: Any) -> tuple[_Table, Any, Any]:
    """Return the table of a file, the file, and pyarrow."""
    pa = pyarrow_for("reading .parquet")
    try:
        stored = pa.parquet.ParquetFile(file.path, **reading)
    except DAMAGED as error:
        _refuse(file, error)
    schema = stored.schema_arrow
    places = _places(file, schema, request)
    columns = tables.columns_of(file, [schema.names[place] for place in places], request)
    return _Table(file, request, pa.types, *columns, places), stored, pa


def _refuse(file: File, error: Exception) -> NoReturn:
    file.refuse(f" cannot be read as .parquet: {error}")


def _batches(file: File, stored: Any, columns: Sequence[str] | None = None) -> Generator[Any]:
    """Yield the rows, some at a time."""
    size = rows_at_once(len(stored.schema_arrow.names))
    try:
        yield from stored.iter_batches(size, columns=columns)
    except DAMAGED as error:
        _refuse(file, error)


def _times(table: _Table, stored: Any) -> dict[int, int]:
    """Return the places of times that are texts, and how often all of a column can be shortened.

    How one is written is decided by all of them.
    """
    expected, schema = table.request.columns, stored.schema_arrow
    texts = [j for j in table.features if expected and expected.texts[table.names[j]] is not None]
    places = [table.places[j] for j in (*texts, table.label) if j is not None]
    found = {j: len(_SHORTER) for j in places if table.types.is_timestamp(schema.types[j])}
    names = [schema.names[j] for j in found]
    for batch in _batches(table.file, stored, names) if names else ():
        for j, name in zip(found, names, strict=True):
            found[j] = min(found[j], _shortened(batch[name])[1])
    return found


def _dataset(table: _Table, rows: Any, start: int | None = None) -> Dataset:
    """Return rows of a table; ``start`` is the number of those before, if it is not all."""
    file, request, types, names, label, features, places = table
    stored = rows.select(places)
    columns: list[HostArray] = []
    texts: dict[str, Sequence[str]] = {}
    for j in features:
        column, name = _plain(stored.column(j), types), names[j]
        kind = _arrow_kind(column.type, types)
        trained = request.columns is not None and request.columns.texts[name] is not None
        text = trained or (kind == "text" and request.mixed and request.columns is None)
        if kind == "other" or (kind in {"date", "text"} and not text):
            file.refuse(f": column {name!r} is of type {column.type}, {request.numbers}")
        if not request.missing:
            null = column.null_count > 0
            where = tables.first_row(column.is_null().to_numpy()[:, None], start) if null else ""
            tables.no_missing(file, [name], [null], request.remedy + where)
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
        missing = list(tables.columns_with(np.isnan, X))
        where = tables.first_row(np.isnan(X), start) if any(missing) else ""
        tables.no_missing(file, found, missing, request.remedy + where)
    if label is None:
        return Dataset(X, None, names=found, texts=texts)
    y = _arrow_labels(file, names[label], stored.column(label), types, request)
    return Dataset(X, y, names=found, target=names[label], texts=texts)


def _places(file: File, schema: Any, request: Request) -> list[int]:
    """Return where the columns are that are no row index of pandas."""
    columns = request.columns
    wanted = {request.target} | ({*columns.texts, columns.target} if columns else set[str | None]())
    index = row_index(schema)
    nameless = {name for name in index if name.startswith("__index_level_")}
    index -= nameless | wanted
    if index and request.n_features is None:
        file.warn(
            f": the row index of pandas, {', '.join(sorted(index))}, is "
            "left out; reset_index() makes it a feature"
        )
    kept = [j for j, name in enumerate(schema.names) if name not in index | nameless]
    if not kept:
        file.refuse(" is empty: it has no columns")
    return kept


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


def _arrow_texts(column: Any, types: Any, shortenings: int | None = None) -> Any:
    if not types.is_timestamp(column.type):
        return column.cast("string")
    if shortenings is None:
        return _shortened(column)[0].cast("string")
    for shorter in _SHORTER[:shortenings]:
        column = column.cast(shorter, safe=False)
    return column.cast("string")


def _shortened(column: Any) -> tuple[Any, int]:
    """Return times as short as they are without loss, and how many shortenings that were."""
    for count, shorter in enumerate(_SHORTER):
        cut = column.cast(shorter, safe=False)
        if not cut.cast(column.type).equals(column):
            return column, count
        column = cut
    return column, len(_SHORTER)


def _arrow_numbers(column: Any, types: Any) -> HostArray:
    if types.is_boolean(column.type):  # with nulls NumPy would make objects of them
        column = column.cast("uint8")
    elif types.is_decimal(column.type) or types.is_null(column.type):
        column = column.cast("float64")
    return column.to_numpy()


def _arrow_labels(file: File, name: str, column: Any, types: Any, request: Request) -> HostArray:
    """Return a column of labels: dates as their texts, numbers and texts as they are."""
    if request.classes is None:
        tables.no_missing(file, [name], [column.null_count > 0], tables.UNLABELLED)
    column = _plain(column, types)
    kind = _arrow_kind(column.type, types)
    if kind == "other":
        file.refuse(
            f": labels must be numbers or strings, column {name!r} is of type {column.type}"
        )
    decimal = types.is_decimal(column.type)
    if kind == "date" or decimal:
        column = _arrow_texts(column, types)
    if request.classes is not None:
        return np.asarray([*column.to_pylist(), None], dtype=object)[:-1]
    if decimal:
        encoded = column.combine_chunks().dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        return tables.parsed_labels(file, name, texts)[encoded.indices.to_numpy()]
    return column.to_numpy() if kind == "number" else np.asarray(column.to_pylist(), dtype=str)
