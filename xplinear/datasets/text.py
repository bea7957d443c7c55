"""Tables in text files: ``.csv`` and ``.tsv``, packed by gzip or not."""

from __future__ import annotations

import csv
import gzip
import math
import re
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from xplinear.datasets import tables
from xplinear.datasets.dataset import Dataset
from xplinear.datasets.reader import File, Request, rows_at_once
from xplinear.namespace import HostArray

__all__ = ["csv_parts", "read_csv"]

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
    with _told(file):
        return _parse_csv(file, request)


def csv_parts(file: File, request: Request) -> Generator[Dataset]:
    """Yield a table that a model expects, some rows at a time, as `read_csv` reads it at once."""
    with _told(file), file.text() as content:
        table, text = _opened(file, request)
        codes = _codes(table, text)
        truths: set[int] | None = None
        size, start, warned = rows_at_once(len(table.names)), 0, False
        lines: Iterator[str] = islice(content, table.skip, None)
        for first in lines:
            if not first.strip("\r\n"):
                continue
            taken: list[str] = []
            coming = _noted(chain([first], lines), taken)
            try:
                cells = _cells(table, coming, codes, truths or set(), size)
            except ValueError:
                found = _kinds_of_columns(table, set(table.features) - text)[1]
                if truths is not None or not found:
                    raise
                truths = found
                cells = _cells(table, chain(taken, lines), codes, truths, size)
            dataset = _dataset(table, cells, codes, text, start)
            start += len(cells)
            if not warned:
                warned = _warn_of_header(table, dataset)
            yield dataset


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    """Yield lines, and note them, as they may be needed again."""
    for line in lines:
        taken.append(line)
        yield line


@contextmanager
def _told(file: File) -> Generator[None]:
    """Say what is wrong with a file that is no text."""
    try:
        yield
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
    header: bool

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        return self.file.rows(self.skip)


def _opened(file: File, request: Request) -> tuple[_Table, set[int]]:
    """Return a table of which the header is read, and the columns that are known to be texts."""
    columns = request.columns
    (line, first), (_, second) = (*islice(file.rows(), 2), (0, []), (0, []))[:2]
    header = _is_header(first, second, request)
    if not first or (header and not second):
        file.refuse(" is empty: it has no rows")
    _check_separator(file, first, second)
    names = [cell.strip() for cell in first] if header else [str(j) for j in range(len(first))]
    names, label, features = tables.columns_of(file, names, request, header=header)
    skip = line if header else 0
    table = _Table(file, request, names, label, features, skip, header)
    if columns is None:
        return table, set()
    return table, {j for j in features if columns.texts[names[j]] is not None}


def _parse_csv(file: File, request: Request) -> Dataset:
    table, text = _opened(file, request)
    learns_texts = request.mixed and request.columns is None
    if learns_texts and _may_have_codes(file):
        text = _columns_of_codes(table)
    try:
        dataset = _parse_cells(table, text, set())
    except ValueError:
        other, truths = _kinds_of_columns(table, set(table.features) - text)
        other = other if learns_texts else set[int]()
        if not other | truths:
            raise
        dataset = _parse_cells(table, text | other, truths)
    _warn_of_header(table, dataset)
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


def _warn_of_header(table: _Table, rows: Dataset) -> bool:
    """Say so where a first line that is taken as names may be a row; return whether it may."""
    columns, names = table.request.columns, [*table.names]
    if not table.header or not (columns is None or columns.by_place):
        return False
    like_rows = all(name in rows.texts.get(name, ()) for name in rows.names or ())
    if _counts(names) or (like_rows and rows.y is not None and rows.target in rows.y):
        table.file.warn(
            f": the first line, {', '.join(names[:5])}{', …' * (len(names) > 5)}, is "
            "taken as names of the columns; if it is a row, put a line of names before it"
        )
        return True
    return False


def _parse_cells(table: _Table, text: set[int], truths: set[int]) -> Dataset:
    """Read a table with columns of text, and of truth values; labels are anything."""
    codes = _codes(table, text)
    with table.file.text() as lines:
        cells = _cells(table, islice(lines, table.skip, None), codes, truths)
    return _dataset(table, cells, codes, text)


def _codes(table: _Table, text: set[int]) -> dict[int, dict[str, float]]:
    """Return what will hold the codes of the texts of each column, and of the labels."""
    return {j: {} for j in {*text, table.label} if j is not None}


def _cells(
    table: _Table,
    lines: Iterable[str],
    codes: dict[int, dict[str, float]],
    truths: set[int],
    rows: int | None = None,
) -> HostArray:
    """Return the cells of rows as numbers, of texts their codes."""
    file, request, names, label, features = table[:5]
    converters: dict[int | str, Callable[[str], float]] = {
        j: _coder(request, None if j == label else names[j], known) for j, known in codes.items()
    }
    if request.missing:
        converters |= {j: tables.number_or_nan for j in features if j not in codes}
    converters |= {j: lambda cell: float(tables.TRUTHS.get(cell.strip(), math.nan)) for j in truths}
    converters |= {j: lambda _: 0.0 for j in {*range(len(names))} - {label, *features}}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input line .* contained no data", UserWarning)
            cells = np.loadtxt(
                lines,
                delimiter=file.separator,
                comments=None,
                quotechar='"',
                converters=converters,
                ndmin=2,
                max_rows=rows,
            )
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        _refuse_bad_cell(table, set(features) - set(codes) - truths)
        file.refuse(f": {error}")
    if cells.shape[1] != len(names):  # each line has as many as the others, but the first
        _refuse_bad_cell(table, set())
    return cells


def _dataset(
    table: _Table,
    cells: HostArray,
    codes: dict[int, dict[str, float]],
    text: set[int],
    start: int | None = None,
) -> Dataset:
    """Return rows of cells; ``start`` is the number of those before, if it is not all."""
    file, request, names, label, features = table[:5]
    X = cells if list(features) == list(range(cells.shape[1])) else cells[:, features]
    found = tuple(names[j] for j in features)
    if not request.missing:
        missing = list(tables.columns_with(np.isnan, X))
        where = tables.first_row(np.isnan(X), start) if any(missing) else ""
        tables.no_missing(file, found, missing, request.remedy + where)
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
