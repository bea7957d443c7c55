"""Tables of Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xplinear.data.arrow import pyarrow_for
from xplinear.datasets import tables
from xplinear.datasets.dataset import Dataset
from xplinear.datasets.reader import DAMAGED, File, Request
from xplinear.namespace import HostArray

__all__ = ["read_parquet"]


def read_parquet(file: File, request: Request) -> Dataset:
    """Read the columns of a table."""
    table, types = _parquet_table(file, request)
    names, label, features = tables.columns_of(file, table.column_names, request)
    columns: list[HostArray] = []
    texts: dict[str, Sequence[str]] = {}
    for j in features:
        column, name = _plain(table.column(j), types), names[j]
        kind = _arrow_kind(column.type, types)
        trained = request.columns is not None and request.columns.texts[name] is not None
        text = trained or (kind == "text" and request.mixed and request.columns is None)
        if kind == "other" or (kind in {"date", "text"} and not text):
            file.refuse(f": column {name!r} is of type {column.type}, {request.numbers}")
        if not request.missing:
            tables.no_missing(file, [name], [column.null_count > 0], request.remedy)
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
        tables.no_missing(file, found, tables.columns_with(np.isnan, X), request.remedy)
    if label is None:
        return Dataset(X, None, names=found, texts=texts)
    y = _arrow_labels(file, names[label], table.column(label), types, request)
    return Dataset(X, y, names=found, target=names[label], texts=texts)


def _parquet_table(file: File, request: Request) -> tuple[Any, Any]:
    """Return the table of a file, and pyarrow's functions that tell types."""
    pa = pyarrow_for("reading .parquet")
    try:
        table = pa.parquet.ParquetFile(file.path).read()  # read_table refuses names that come twice
    except DAMAGED as error:
        file.refuse(f" cannot be read as .parquet: {error}")
    columns = request.columns
    wanted = {request.target} | ({*columns.texts, columns.target} if columns else set[str | None]())
    index = {
        name
        for name in (table.schema.pandas_metadata or {}).get("index_columns", ())
        if isinstance(name, str) and name in table.column_names and name not in wanted
    }
    nameless = {name for name in table.column_names if name.startswith("__index_level_")}
    if index - nameless and request.n_features is None:
        file.warn(
            f": the row index of pandas, {', '.join(sorted(index - nameless))}, is "
            "left out; reset_index() makes it a feature"
        )
    kept = [j for j, name in enumerate(table.column_names) if name not in index | nameless]
    if not kept:
        file.refuse(" is empty: it has no columns")
    return table.select(kept), pa.types


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
