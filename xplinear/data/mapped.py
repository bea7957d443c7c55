"""Memory maps, read from their file: mapped pages would come one by one, and count as memory."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xplinear.namespace import HostArray

__all__ = ["Mapped", "in_file"]


@dataclass(frozen=True, eq=False)
class Mapped:
    """Rows of a memory map that lie in its file one after the other."""

    path: Path
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunk: int = 1

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write some rows to an array."""
        memory = into.reshape(-1).view(np.uint8).data
        row, done = self.shape[1] * self.dtype.itemsize, 0
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + start * row)
            while done < (stop - start) * row:
                count = file.readinto(memory[done:])
                if not count:
                    msg = (
                        f"X has changed while it was read: its file {self.path} ends before row "
                        f"{start + (done // row)} of {self.shape[0]}"
                    )
                    raise ValueError(msg)
                done += count


def in_file(X: np.memmap[Any, Any]) -> Mapped | None:
    """Return the rows of a memory map in its file; None where they are not there as they seem.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/X.npy", np.eye(3))
    ...     X = np.load(f"{folder}/X.npy", mmap_mode="r")
    ...     rows, into = in_file(X), np.empty((1, 3))
    ...     rows.read(1, 2, into)
    ...     into
    array([[0., 1., 0.]])
    """
    whole: Any = X
    while whole is not None and not isinstance(whole, mmap.mmap):
        whole = getattr(whole, "base", None)
    # What is written to a private map, "c", is not in the file.
    if whole is None or X.filename is None or X.mode == "c" or not X.flags.c_contiguous:
        return None
    if not X.dtype.isnative:
        return None
    begins = X.offset - X.offset % mmap.ALLOCATIONGRANULARITY
    address = np.frombuffer(whole, np.uint8).ctypes.data
    rows = Mapped(Path(X.filename), begins + X.ctypes.data - address, X.shape, X.dtype)
    return rows if _same(rows, X) else None


def _same(rows: Mapped, X: HostArray) -> bool:
    """Whether a few rows are the same in both: the file may be another by now."""
    one = np.empty((1, rows.shape[1]), rows.dtype)
    try:
        for i in {0, len(X) // 2, len(X) - 1}:
            rows.read(i, i + 1, one)
            if one.tobytes() != X[i].tobytes():
                return False
    except (OSError, ValueError):
        return False
    return True
