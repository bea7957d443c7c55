"""Tables in text files: ``.csv`` and ``.tsv``, packed by gzip or not."""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from xplinear.datasets import tables
from xplinear.datasets.dataset import Dataset
from xplinear.datasets.reader import File, Request
from xplinear.namespace import HostArray

__all__ = ["read_csv"]

_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+(,\d+)?\s*")

_NO_TEXT = {
    b"\x1f\x8b": "packed by gzip; its format is csv.gz or tsv.gz, whatever its name",
    b"PK": "a zip file, as spreadsheets are; export it as .csv",
    b"PAR1": "a Parquet file; its format is parquet, whatever its name",
    b"\xff\xfe": "a text file in UTF-16; save it in UTF-8",
    b"\xfe\xff": "a text file in UTF-16; save it in UTF-8",
}


def read_csv(file: File, request: Request) -> Dataset:
    """Read a table, or say what is wrong with its text."""
    try:
        return _parse_csv(file, request)
    except (UnicodeDecodeError, csv.Error) as error:
        with file.open() as content:
            head = content.read(4)
        for start, what in _NO_TEXT.items():
            if head.startswith(start):
                file.refuse(f" is {what}")
        file.refuse(f" is no text file in UTF-8 ({error}); save it as one")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        file.refuse(f" cannot be read as {file.ending}: {error}")


class _Table(NamedTuple):
    """A file of which the header is read: what its columns are called, and which are what."""

    file: File
    request: Request
    names: Sequence[str]
    label: int | None
    features: Sequence[int]
    skip: int  # lines of the header

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        return self.file.rows(self.skip)


def _parse_csv(file: File, request: Request) -> Dataset:
    columns = request.columns
    (line, first), (_, second) = (*islice(file.rows(), 2), (0, []), (0, []))[:2]
    header = _is_header(first, second, request)
    if not first or (header and not second):
        file.refuse(" is empty: it has no rows")
    _check_separator(file, first, second)
    names = [cell.strip() for cell in first] if header else [str(j) for j in range(len(first))]
    names, label, features = tables.columns_of(file, names, request, header=header)
    table = _Table(file, request, names, label, features, line if header else 0)
    learns_texts = request.mixed and columns is None
    text = {j for j in features if columns is not None and columns.texts[names[j]] is not None}
    if learns_texts and _may_have_codes(file):
        text = _columns_of_codes(table)
    try:
        dataset = _parse_cells(table, text, set())
    except ValueError:
        other, truths = _kinds_of_columns(table, set(features) - text)
        other = other if learns_texts else set[int]()
        if not other | truths:
            raise
        dataset = _parse_cells(table, text | other, truths)
    if header and (columns is None or columns.by_place):
        _warn_of_header(file, names, dataset)
    return dataset


def _check_separator(file: File, first: Sequence[str], second: Sequence[str]) -> None:
    """Raise if there is another separator between the columns than the format has."""
    own, others = file.separator, set(tables.SEPARATORS) - {file.separator}
    rows = [own.join(row) for row in (first, second) if row]
    found = sorted(other for other in others if other in rows[0])
    if len(first) > 1:  # as decimal commas make it
        found = [
            other
            for other in found
            if all(_DECIMAL_COMMA.fullmatch(cell) for row in rows for cell in row.split(other))
        ]
    if not found:
        return
    seen = " or ".join(sorted(tables.SEPARATORS[other] for other in found))
    written = "" if own == "," else ", sep=chr(9)"
    remedy = f"save it with {tables.SEPARATORS[own]} (pandas: to_csv(index=False{written}))"
    if found == ["\t"]:
        remedy = "name it .tsv, or s" + remedy[1:]
    file.refuse(f" has {seen} between its columns, {tables.SEPARATORS[own]} are expected; {remedy}")


def _is_header(first: Sequence[str], second: Sequence[str], request: Request) -> bool:
    """Whether the first line names columns: those asked for, no number, or a word above one."""
    cells = {cell.strip() for cell in first}
    named = request.target in cells and not tables.is_number(str(request.target))
    if request.columns is not None and not request.columns.by_place:
        named = named or cells >= set(request.columns.texts)
    if named or not any(tables.is_number(cell) or cell.strip() in tables.TRUTHS for cell in first):
        return True
    known = tables.MISSING | set(tables.TRUTHS)
    for above, below in zip(first, second, strict=False):
        if tables.is_number(below) and not (tables.is_number(above) or above.strip() in known):
            return True
    return len(first) > 2 and _counts(first)


def _counts(first: Sequence[str]) -> bool:
    """Whether the first line is 0, 1, 2, …, as pandas names columns that have no names."""
    return [cell.strip() for cell in first] == [str(j) for j in range(len(first))]


def _warn_of_header(file: File, names: Sequence[str], rows: Dataset) -> None:
    """Say so where a first line that is taken as names may be a row."""
    like_rows = all(name in rows.texts.get(name, ()) for name in rows.names or ())
    if _counts(names) or (like_rows and rows.y is not None and rows.target in rows.y):
        file.warn(
            f": the first line, {', '.join(names[:5])}{', …' * (len(names) > 5)}, is "
            "taken as names of the columns; if it is a row, put a line of names before it"
        )


def _parse_cells(table: _Table, text: set[int], truths: set[int]) -> Dataset:
    """Read a table with columns of text, and of truth values; labels are anything."""
    file, request, names, label, features, skip = table
    codes: dict[int, dict[str, float]] = {j: {} for j in {*text, label} if j is not None}
    converters: dict[int | str, Callable[[str], float]] = {
        j: _coder(request, None if j == label else names[j], known) for j, known in codes.items()
    }
    if request.missing:
        converters |= {j: tables.number_or_nan for j in features if j not in text}
    converters |= {j: lambda cell: float(tables.TRUTHS.get(cell.strip(), math.nan)) for j in truths}
    converters |= {j: lambda _: 0.0 for j in {*range(len(names))} - {label, *features}}
    try:
        with file.text() as lines:
            cells = np.loadtxt(
                lines,
                delimiter=file.separator,
                comments=None,
                quotechar='"',
                skiprows=skip,
                converters=converters,
                ndmin=2,
            )
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        _refuse_bad_cell(table, set(features) - text - truths)
        file.refuse(f": {error}")
    X = cells if list(features) == list(range(cells.shape[1])) else cells[:, features]
    found = tuple(names[j] for j in features)
    if not request.missing:
        tables.no_missing(file, found, tables.columns_with(np.isnan, X), request.remedy)
    texts = {names[j]: tuple(codes[j]) for j in text}
    if label is None:
        return Dataset(X, None, names=found, texts=texts)
    y = _labels(file, names[label], cells[:, label], list(codes[label]), request.classes)
    return Dataset(X, y, names=found, target=names[label], texts=texts)


def _coder(
    request: Request, feature: str | None, known: dict[str, float]
) -> Callable[[str], float]:
    """Return what gives each text of a feature, or of the labels, the next number; NaN to none."""
    texts: Iterable[str] = ()  # that the model knows, which are no missing values
    if feature is not None:
        texts = (request.columns and request.columns.texts[feature]) or ()
    elif request.classes is not None and request.classes.dtype.kind not in "biuf":
        texts = map(str, request.classes)
    missing = tables.MISSING.difference(texts)

    def code(cell: str) -> float:
        cell = cell.strip()
        return math.nan if cell in missing else known.setdefault(cell, float(len(known)))

    return code


def _labels(
    file: File, name: str, codes: HostArray, texts: list[str], classes: HostArray | None
) -> HostArray:
    """Return the labels of a column of codes, NaN where there is none."""
    missing = np.isnan(codes)
    if classes is None:
        empty = f"{tables.UNLABELLED} (empty cells, NA, NaN, nan and null are none)"
        tables.no_missing(file, [name], [bool(missing.any())], empty)
        labels = tables.parsed_labels(file, name, texts)
    else:
        labels = np.asarray([*texts, None], dtype=object)
    return labels[np.where(missing, -1.0, codes).astype(np.intp)]


def _kinds_of_columns(table: _Table, columns: set[int]) -> tuple[set[int], set[int]]:
    """Return the columns with a cell that is no number, apart those of truth values alone."""
    numbers, truths = set(columns), set(columns)
    for _, row in table.rows():
        cells = {j: row[j].strip() for j in numbers | truths if j < len(row)}
        there = {j: cell for j, cell in cells.items() if cell not in tables.MISSING}
        numbers -= {j for j, cell in there.items() if j in numbers and not tables.is_number(cell)}
        truths -= {j for j, cell in there.items() if cell not in tables.TRUTHS}
    return columns - numbers - truths, truths - numbers


def _columns_of_codes(table: _Table) -> set[int]:
    """Return the columns with numbers that begin with 0, such as the zip code 01234."""
    return {
        j
        for _, row in table.rows()
        for j in table.features
        if j < len(row) and tables.is_code(row[j].strip())
    }


def _may_have_codes(file: File) -> bool:
    """Whether 0 and a digit follow a space, a quote or a comma: a quick look, most files say no."""
    last = b"\n"
    with file.open() as content:
        while block := content.read(2**16):
            x = np.frombuffer(last + block, dtype=np.uint8)
            last = block[-2:]
            begins = (x[:-2] <= ord('"')) | (x[:-2] == ord(","))
            if (begins & (x[1:-1] == ord("0")) & (x[2:] - ord("0") < 10)).any():
                return True
    return False


def _refuse_bad_cell(table: _Table, numeric: set[int]) -> None:
    """Raise for the first line that cannot be read, naming its column."""
    file, request, names = table[:3]
    for line, row in table.rows():
        if len(row) != len(names):
            count = f"{len(row)} columns where the first line has {len(names)}"
            file.refuse(f", line {line}: {count}")
        for j in sorted(numeric):
            where = f", line {line}: column {names[j]!r} has"
            if row[j].strip() in tables.MISSING - {"nan", "NaN"}:
                file.refuse(f"{where} a missing value; {request.remedy}")
            if not tables.is_number(row[j]):
                file.refuse(f"{where} {row[j]!r}, {request.numbers}")
