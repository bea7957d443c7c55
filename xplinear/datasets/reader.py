"""What the reader of a file format is given: a file, and what is asked for."""

from __future__ import annotations

import csv
import gzip
import io
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, cast

from xplinear.datasets.dataset import Columns
from xplinear.namespace import HostArray

__all__ = ["DAMAGED", "DENSE_BYTES", "File", "Request", "no_target", "rows_at_once"]

DENSE_BYTES = 4 * 2**30  # what takes more than this when it is dense is refused
_PART_BYTES = 2**25
DAMAGED = (EOFError, OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error)


class Request(NamedTuple):
    """What a reader is asked for: see `load`."""

    target: str | None
    n_features: int | None
    columns: Columns | None
    classes: HostArray | None
    index_base: int | None
    mixed: bool
    missing: bool

    @property
    def remedy(self) -> str:
        """What to do about missing values."""
        if self.mixed:
            return "fill or drop them, or use --impute"
        trained = self.columns is not None
        return "fill or drop them" + ", or train with --impute" * trained

    @property
    def numbers(self) -> str:
        """What is wrong with a feature that is no number, and what to do about it."""
        if self.columns is not None:
            return "the model was trained on numbers there; write them as in training"
        return "features must be numbers; encode or drop the column, or name it as the target"


class File(NamedTuple):
    """A file to read: where it is, what messages call it, and the ending that tells its format."""

    path: Path
    name: str
    ending: str

    def __str__(self) -> str:
        return repr(self.name)

    def refuse(self, what: str) -> NoReturn:
        """Raise ValueError: its name, and what is wrong with it."""
        msg = f"{self}{what}"
        raise ValueError(msg)

    def warn(self, what: str) -> None:
        """Warn of it: its name, and what was noticed."""
        warnings.warn(f"{self}{what}", UserWarning, stacklevel=3)

    @property
    def separator(self) -> str:
        return "\t" if self.ending.startswith(".tsv") else ","

    def open(self) -> IO[bytes]:
        """Open it for reading, unpacked."""
        packed = self.ending.endswith(".gz")
        return cast(IO[bytes], gzip.open(self.path)) if packed else self.path.open("rb")

    def text(self) -> io.TextIOWrapper:
        """Open it for reading as text."""
        return io.TextIOWrapper(self.open(), "utf-8-sig", newline="")

    def rows(self, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
        """Yield after some lines each row that is not blank, and the number of its last line."""
        with self.text() as file:
            reader = csv.reader(file, delimiter=self.separator)
            yield from ((reader.line_num, row) for row in reader if row and reader.line_num > skip)


def no_target(source: str, target: str | None) -> None:
    """Raise if a column is asked for where there is none."""
    if target is not None:
        msg = f"target does not apply to {source}: its labels are known"
        raise ValueError(msg)


def rows_at_once(columns: int) -> int:
    """Return how many rows of a table are read at a time, where not all are."""
    return max(1, _PART_BYTES // (8 * columns))
