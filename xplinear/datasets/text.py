"""Tables in text files: ``.csv`` and ``.tsv``, packed by gzip or not."""

from __future__ import annotations

import csv
import gzip
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

from xplinear.datasets.columns import (
    SEPARATORS,
    as_trained,
    columns_with,
    feature_columns,
    no_missing,
    target_column,
)
from xplinear.datasets.labels import (
    MISSING,
    TRUTHS,
    UNLABELLED,
    is_code,
    is_number,
    number,
    parsed_labels,
)
from xplinear.datasets.reader import File, Parts, Request

__all__ = ["read_csv"]

_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+(,\d+)?\s*")

_NO_TEXT = {
    b"\x1f\x8b": "packed by gzip; its format is csv.gz or tsv.gz, whatever its name",
    b"PK": "a zip file, as spreadsheets are; export it as .csv",
    b"PAR1": "a Parquet file; its format is parquet, whatever its name",
    b"\xff\xfe": "a text file in UTF-16; save it in UTF-8",
    b"\xfe\xff": "a text file in UTF-16; save it in UTF-8",
}


def read_csv(file: File, request: Request) -> Parts:
    """Read a table, or say what is wrong with its text."""
    try:
        return _parse_csv(file, request)
    except (UnicodeDecodeError, csv.Error) as error:
        with file.open() as content:
            head = content.read(4)
        for start, what in _NO_TEXT.items():
            if head.startswith(start):
                msg = f"{str(file)!r} is {what}"
                raise ValueError(msg) from error
        msg = f"{str(file)!r} is no text file in UTF-8 ({error}); save it as one"
        raise ValueError(msg) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"{str(file)!r} cannot be read as {file.ending}: {error}"
        raise ValueError(msg) from error


def _parse_csv(file: File, request: Request) -> Parts:
    columns = request.columns
    (line, first), (_, second) = (*islice(file.rows(), 2), (0, []), (0, []))[:2]
    header = _is_header(first, second, request)
    if not first or (header and not second):
        msg = f"{str(file)!r} is empty: it has no rows"
        raise ValueError(msg)
    _check_separator(file, first, second)
    names = [cell.strip() for cell in first] if header else [str(j) for j in range(len(first))]
    names = as_trained(file, names, columns, header=header)
    label = target_column(file, names, request)
    features = feature_columns(file, names, label, request)
    text = {j for j in features if columns is not None and columns.texts[names[j]] is not None}
    skip = line if header else 0
    if request.mixed and columns is None:
        text = _columns_of_codes(file, features, skip)
    try:
        parts = _parse_cells(file, names, label, features, text, set(), request, skip)
    except UnicodeDecodeError:
        raise
    except ValueError:
        other, truths = _kinds_of_columns(file, set(features) - text, skip)
        other = other if request.mixed and columns is None else set[int]()
        if not other | truths:
            raise
        text = text | other
        parts = _parse_cells(file, names, label, features, text, truths, request, skip)
    if header and (columns is None or columns.by_place):
        _warn_of_header(file, names, parts)
    return parts


def _check_separator(file: File, first: Sequence[str], second: Sequence[str]) -> None:
    """Raise if there is another separator between the columns than the format has."""
    own, others = file.separator, set(SEPARATORS) - {file.separator}
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
    seen = " or ".join(sorted(SEPARATORS[other] for other in found))
    written = "" if own == "," else ", sep=chr(9)"
    remedy = f"save it with {SEPARATORS[own]} (pandas: to_csv(index=False{written}))"
    if found == ["\t"]:
        remedy = "name it .tsv, or s" + remedy[1:]
    msg = f"{str(file)!r} has {seen} between its columns, {SEPARATORS[own]} are expected; {remedy}"
    raise ValueError(msg)


def _is_header(first: Sequence[str], second: Sequence[str], request: Request) -> bool:
    """Whether the first line names columns: those asked for, no number, or a word above one."""
    cells = {cell.strip() for cell in first}
    named = request.target in cells and not is_number(str(request.target))
    if request.columns is not None and not request.columns.by_place:
        named = named or cells >= set(request.columns.texts)
    if named or not any(is_number(cell) or cell.strip() in TRUTHS for cell in first):
        return True
    words = [not is_number(a) and a.strip() not in MISSING | set(TRUTHS) for a in first]
    if any(word and is_number(b) for word, b in zip(words, second, strict=False)):
        return True
    return len(first) > 2 and _counts(first)


def _counts(first: Sequence[str]) -> bool:
    """Whether the first line is 0, 1, 2, …, as pandas names columns that have no names."""
    return [cell.strip() for cell in first] == [str(j) for j in range(len(first))]


def _warn_of_header(file: File, names: Sequence[str], parts: Parts) -> None:
    """Say so where a first line that is taken as names may be a row."""
    like_rows = all(name in parts.texts.get(name, ()) for name in parts.names or ())
    if _counts(names) or (like_rows and parts.y is not None and parts.target in parts.y):
        message = (
            f"{str(file)!r}: the first line, {', '.join(names[:5])}{', …' * (len(names) > 5)}, is "
            "taken as names of the columns; if it is a row, put a line of names before it"
        )
        warnings.warn(message, UserWarning, stacklevel=2)


def _parse_cells(
    file: File,
    names: Sequence[str],
    label: int | None,
    features: Sequence[int],
    text: set[int],
    truths: set[int],
    request: Request,
    skip: int,
) -> Parts:
    """Read a table whose columns ``text`` are text, ``truths`` truth values; labels are anything.

    The first ``skip`` lines are those of the header.
    """
    codes: dict[int, dict[str, float]] = {j: {} for j in text | {label} if j is not None}

    def coded(j: int) -> Callable[[str], float]:
        known = codes[j]
        missing = MISSING.difference(_texts_of_model(request, None if j == label else names[j]))

        def code(cell: str) -> float:
            cell = cell.strip()
            return math.nan if cell in missing else known.setdefault(cell, float(len(known)))

        return code

    converters: dict[int | str, Callable[[str], float]] = {j: coded(j) for j in codes}
    if request.missing:
        converters |= {j: _number_or_nan for j in features if j not in text}
    converters |= {j: lambda cell: float(TRUTHS.get(cell.strip(), math.nan)) for j in truths}
    converters |= {j: lambda _: 0.0 for j in {*range(len(names))} - {label, *features}}
    try:
        with file.text() as lines:
            table = np.loadtxt(
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
        numeric = set(features) - text - truths
        bad = _first_bad_cell(file, names, numeric, request, skip)
        msg = bad or f"{str(file)!r}: {error}"
        raise ValueError(msg) from error
    X = table if list(features) == list(range(table.shape[1])) else table[:, features]
    found = [names[j] for j in features]
    if not request.missing:
        no_missing(file, found, columns_with(np.isnan, X), request.remedy)
    texts = {names[j]: tuple(codes[j]) for j in text}
    if label is None:
        return Parts(X, None, names=tuple(found), texts=texts)
    missing = np.isnan(table[:, label])
    if request.classes is None:
        empty = f"{UNLABELLED} (empty cells, NA, NaN, nan and null are none)"
        no_missing(file, [names[label]], [bool(missing.any())], empty)
        labels = parsed_labels(file, names[label], list(codes[label]))
    else:
        labels = np.asarray([*codes[label], None], dtype=object)
    y = labels[np.where(missing, -1.0, table[:, label]).astype(np.intp)]
    return Parts(X, y, names=tuple(found), target=names[label], texts=texts)


def _texts_of_model(request: Request, name: str | None) -> Iterable[str]:
    """Return the texts of a feature that a model knows, or for None those of its classes."""
    if name is not None:
        return (request.columns and request.columns.texts[name]) or ()
    classes = request.classes
    return () if classes is None or classes.dtype.kind in "biuf" else map(str, classes)


def _number_or_nan(cell: str) -> float:
    return math.nan if cell.strip() in MISSING else number(cell)


def _kinds_of_columns(file: File, columns: set[int], skip: int) -> tuple[set[int], set[int]]:
    """Return the columns with a cell that is no number, apart those of truth values alone."""
    numbers, truths = set(columns), set(columns)
    for line, row in file.rows():
        if line <= skip:
            continue
        cells = {j: row[j].strip() for j in numbers | truths if j < len(row)}
        there = {j: cell for j, cell in cells.items() if cell not in MISSING}
        numbers -= {j for j, cell in there.items() if j in numbers and not is_number(cell)}
        truths -= {j for j, cell in there.items() if cell not in TRUTHS}
    return columns - numbers - truths, truths - numbers


def _columns_of_codes(file: File, features: Sequence[int], skip: int) -> set[int]:
    """Return the columns with numbers that begin with 0, such as the zip code 01234."""
    if not _may_have_codes(file):
        return set()
    return {
        j
        for line, row in file.rows()
        if line > skip
        for j in features
        if j < len(row) and is_code(row[j].strip())
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


def _first_bad_cell(
    file: File, names: Sequence[str], numeric: set[int], request: Request, skip: int
) -> str:
    """Return what is wrong in the first line that cannot be read, naming its column."""
    for line, row in file.rows():
        if line <= skip:
            continue
        where = f"{str(file)!r}, line {line}"
        if len(row) != len(names):
            return f"{where}: {len(row)} columns where the first line has {len(names)}"
        for j, cell in enumerate(row):
            if j in numeric and cell.strip() in MISSING - {"nan", "NaN"}:
                return f"{where}: column {names[j]!r} has a missing value; {request.remedy}"
            if j in numeric and not is_number(cell):
                return f"{where}: column {names[j]!r} has {cell!r}, {request.numbers}"
    return ""
