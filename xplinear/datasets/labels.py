"""What texts stand for, and labels as they are or as a model has them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from xplinear.datasets.reader import File
from xplinear.namespace import HostArray

__all__ = [
    "EXACT",
    "MISSING",
    "TRUTHS",
    "UNLABELLED",
    "in_terms_of",
    "is_code",
    "is_number",
    "number",
    "parsed_labels",
]

MISSING = {"", "NA", "NaN", "nan", "null"}  # cells of a text file that hold no value
TRUTHS = {word: word[0] in "Tt" for word in ("True", "true", "TRUE", "False", "false", "FALSE")}
UNLABELLED = "every row needs a label: drop the others"
EXACT = 2**53  # whole numbers beyond are rounded where they are kept as float64


def number(cell: str) -> float:
    """Return the number of a cell, or raise ValueError."""
    return float(cell.replace("_", "?"))  # "1_2" is a number in Python alone


def is_number(cell: str) -> bool:
    """Whether a cell of a text file holds a number."""
    try:
        number(cell)
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
    found = np.empty(len(labels), dtype=object)
    found[:] = [known[label] for label in labels]
    return found


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
    message = (
        f"{str(file)!r}: the labels, column {column!r}, are taken as texts, such as {texts[0]!r}: "
        f"{reason}"
    )
    warnings.warn(message, UserWarning, stacklevel=2)
    return labels
