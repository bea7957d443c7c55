"""What tables have in common: which columns are what, and what their texts stand for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from xplinear.datasets.dataset import Columns
from xplinear.datasets.reader import File, Request
from xplinear.namespace import HostArray

__all__ = [
    "EXACT",
    "MISSING",
    "SEPARATORS",
    "TRUTHS",
    "UNLABELLED",
    "columns_of",
    "columns_with",
    "first_row",
    "in_terms_of",
    "is_code",
    "is_number",
    "no_missing",
    "number_or_nan",
    "parsed_labels",
]

MISSING = {"", "NA", "NaN", "nan", "null"}  # cells of a text file that hold no value
TRUTHS = {word: word[0] in "Tt" for word in ("True", "true", "TRUE", "False", "false", "FALSE")}
UNLABELLED = "every row needs a label: drop the others"
EXACT = 2**53  # whole numbers beyond are rounded where they are kept as float64
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def columns_of(
    file: File, names: Sequence[str], request: Request, *, header: bool = True
) -> tuple[Sequence[str], int | None, Sequence[int]]:
    """Return the columns' names, the index of the labels, and those of the features."""
    names = _as_trained(file, names, request.columns, header=header)
    label = _target_column(file, names, request)
    return names, label, _feature_columns(file, names, label, request)


def _as_trained(
    file: File, names: Sequence[str], columns: Columns | None, *, header: bool
) -> Sequence[str]:
    """Return the columns' names; those of the model where it is their order that counts."""
    p, count = 0 if columns is None else len(columns.texts), len(names)
    if columns is None or (header and not (columns.by_place and count in {p, p + 1})):
        return names
    if header and set(columns.texts) <= set(names):  # the other one is that of the labels
        return [name if name in columns.texts else columns.target or name for name in names]
    if header:
        file.warn(
            f": the columns are taken in their order, {', '.join(names[:5])}"
            f"{', …' * (count > 5)}: the file the model was trained on has no names"
        )
    return list(columns.texts) if count == p else [str(j) for j in range(count)]


def _target_column(file: File, names: Sequence[str], request: Request) -> int | None:
    """Return the index of the labels' column, or None where there are only features."""
    target, columns = request.target, request.columns
    if target is None and columns is not None and columns.target is not None:
        return names.index(columns.target) if columns.target in names else None
    if target is None and len(names) == request.n_features:
        return None
    if "" in names:
        file.refuse(
            f": column {names.index('') + 1} has no name; name it, or leave it out "
            "if it is a row index (pandas: index=False)"
        )
    if len(names) < 2:
        between = f", separated by {SEPARATORS[file.separator]}" * (file.ending != ".parquet")
        file.refuse(f" has one column, {names[0]!r}: features and labels are expected{between}")
    if target is None:
        return len(names) - 1
    if names.count(target) != 1:
        count = names.count(target)
        found = f"{count} columns" if count else "no column"
        msg = f"target: {file} has {found} {target!r}: {_listed(names)}"
        raise ValueError(msg)
    return names.index(target)


def _feature_columns(
    file: File, names: Sequence[str], label: int | None, request: Request
) -> Sequence[int]:
    """Return the indices of the features' columns, in the order a model expects if one does."""
    wanted = names if request.columns is None else request.columns.texts
    counts, places = Counter(names), {name: j for j, name in enumerate(names)}
    twice = [name for name in wanted if counts[name] > 1]
    if twice and (request.mixed or request.columns is not None):
        file.refuse(f" has {counts[twice[0]]} columns {twice[0]!r}; rename one of them")
    if request.columns is None:
        return [j for j in range(len(names)) if j != label]
    absent = [name for name in wanted if name not in places]
    if absent:
        nameless = ", its first line names none" * all(name.isdigit() for name in names)
        file.refuse(
            f" lacks {'a column' if len(absent) == 1 else 'columns'} the model was "
            f"trained on: {', '.join(absent[:20])}; {_listed(names)}{nameless}"
        )
    return [places[name] for name in wanted]


def _listed(names: Sequence[str], most: int = 20) -> str:
    """Return the names, the middle of a long list left out."""
    some = names if len(names) <= most else [*names[: most - 1], "…", names[-1]]
    return f"its columns are {', '.join(some)}"


def columns_with(test: Callable[[HostArray], HostArray], X: HostArray) -> Iterator[bool]:
    """Yield for each column whether a value passes the test; integers are neither NaN nor ∞."""
    return (X.dtype.kind == "f" and bool(test(x).any()) for x in X.T)


def first_row(wrong: HostArray, start: int | None) -> str:
    """Return where the first cell is that is wrong, given the rows before; "" where all were read.

    Examples
    --------
    >>> first_row(np.asarray([[False, False], [False, True]]), 3_000_000)
    ' (first in row 3,000,002)'
    """
    if start is None:
        return ""
    return f" (first in row {start + int(np.flatnonzero(wrong.any(axis=1))[0]) + 1:,})"


def no_missing(file: File, names: Sequence[str], missing: Iterable[bool], remedy: str) -> None:
    """Raise if columns have missing values."""
    columns = [name for name, one in zip(names, missing, strict=True) if one]
    if columns:
        plural = "column has" if len(columns) == 1 else "columns have"
        file.refuse(f": {plural} missing values: {', '.join(columns[:20])}; {remedy}")


def _number(cell: str) -> float:
    """Return the number of a cell, or raise ValueError."""
    return float(cell.replace("_", "?"))  # "1_2" is a number in Python alone


def number_or_nan(cell: str) -> float:
    """Return the number of a cell; NaN where it holds no value."""
    return math.nan if cell.strip() in MISSING else _number(cell)


def is_number(cell: str) -> bool:
    """Whether a cell of a text file holds a number."""
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def is_code(text: str) -> bool:
    """Whether a text is digits of which a number would lose the first: leading zeros."""
    return text.isdigit() and text[0] == "0" < text


def value_of(text: str) -> Any:
    """Return the number or the truth value that a text stands for; other texts as they are."""
    if text in TRUTHS:
        return TRUTHS[text]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text.replace("_", "?"))
    return text


def in_terms_of(classes: HostArray, y: HostArray) -> HostArray:
    """Return labels as a model has them, texts or numbers; None where there is none."""
    words = classes.dtype.kind not in "biuf"
    labels = y.tolist()
    known: dict[Any, Any] = {"": None, None: None}
    for label in set(labels) - set(known):
        if label != label:  # noqa: PLR0124 - only NaN differs from itself
            known[label] = None
        elif words:
            whole = isinstance(label, float) and label.is_integer()
            known[label] = str(int(label) if whole else label)
        else:
            known[label] = value_of(label) if isinstance(label, str) else label
    return np.asarray([known[label] for label in labels], dtype=object)


def parsed_labels(file: File, column: str, texts: Sequence[str]) -> HostArray:
    """Return labels as truth values or numbers if all their texts are such, else as texts.

    They stay texts where as numbers they would not be what they were: codes with leading zeros,
    such as 01, numbers too long, and texts of one number, such as 100 and 1E2.
    """
    labels = np.asarray(texts, dtype=str)
    if set(texts) <= set(TRUTHS):
        return np.asarray([TRUTHS[text] for text in texts])
    if any(map(is_code, texts)) or not all(map(is_number, texts)):
        return labels
    values = [value_of(text) for text in texts]
    if all(isinstance(value, int) for value in values):
        unsigned = min(values) >= 0 and 2**63 <= max(values) < 2**64
        numbers = np.asarray(values, np.uint64 if unsigned else None)
        exact = numbers.dtype.kind in "iu"  # beyond 64 bits they are objects, or float64
    else:
        numbers = np.asarray([float(text) for text in texts])
        if (numbers != np.floor(numbers)).any():  # no classes, as the caller will say
            return numbers
        exact = bool((np.abs(numbers) < EXACT).all())
    if exact and len(np.unique(numbers)) == len(texts):
        return numbers
    reason = "some are the same number" if exact else "as numbers they would be rounded"
    file.warn(
        f": the labels, column {column!r}, are taken as texts, such as {texts[0]!r}: {reason}"
    )
    return labels
