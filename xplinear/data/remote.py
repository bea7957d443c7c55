"""Rows that are not in memory: in files, in batches that come again, on a cluster."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from xplinear.backends.base import Backend
from xplinear.data.protocol import Data
from xplinear.namespace import Array, HostArray

__all__ = ["RemoteRows", "Slices", "Survey"]


class Survey(NamedTuple):
    """What one pass over all rows finds: the bounds ``(p,)`` of each column, and a digest."""

    low: HostArray
    high: HostArray
    digest: int  # of every number, in the order of the rows


@runtime_checkable
class RemoteRows(Protocol):
    """X ``(n, p)`` at the door, where it is no array and no sparse matrix."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> Any:
        """NumPy's dtype of the numbers as they are stored."""
        ...

    def survey(self, counted: HostArray | None = None) -> Survey:
        """Look at every number once; bounds are those of the rows that count, all if None.

        Raises
        ------
        ValueError
            If one is not finite: it names the row and the column.
        """
        ...

    def data(
        self,
        y: Array,
        s: Array | None = None,
        dtype: Any = None,
        *,
        backend: Backend,
        classes: int | None = None,
    ) -> Data:
        """Return the rows with labels and weights of all of them, for a computation."""
        ...

    def blocks(self) -> Generator[HostArray]:
        """Yield all rows in order, some at a time: for predictions."""
        ...


class Slices(Protocol):
    """Rows of which any contiguous run can be read."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> Any: ...

    @property
    def chunk(self) -> int:
        """How many rows are stored together: runs that begin and end there cost least."""
        ...

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write rows to an array of their shape, in its dtype; several threads may call it."""
        ...
