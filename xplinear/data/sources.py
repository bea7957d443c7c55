"""Which objects are rows that are not in memory, and what each becomes: one line, one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xplinear.data.batches import Batches, batches_of
from xplinear.data.remote import RemoteRows, is_remote
from xplinear.data.scanned import by_name
from xplinear.data.sliced import sliced_rows
from xplinear.namespace import HostArray

__all__ = ["SOURCES", "known_rows", "remote_rows", "rows_and_targets"]

# Each gives the rows of an object that it knows, an array where these are few, else None.
SOURCES: dict[str, Callable[[Any], RemoteRows | HostArray | None]] = {
    "slices": sliced_rows,
    "batches": batches_of,
}


def remote_rows(X: Any, model: Any = None) -> Any:
    """Return rows that are not in memory as `RemoteRows`, or an array; anything else as it is.

    A table becomes the features of a ``model``, if it is given, or all its columns.

    Examples
    --------
    >>> remote_rows([[1.0, 2.0]])
    [[1.0, 2.0]]
    """
    if type(X) is np.ndarray or is_remote(X):
        return X
    (X,) = by_name(X, model)
    for rows_of in SOURCES.values():
        found = rows_of(X)
        if found is not None:
            return found
    return X


def rows_and_targets(X: Any, y: Any, sample_weight: Any, model: Any = None) -> tuple[Any, Any, Any]:
    """Return what a fit is given, with rows as `remote_rows` has them, and their y and weights.

    Of a table these may be the names of columns.
    """
    X, y, sample_weight = by_name(X, model, y=y, sample_weight=sample_weight)
    X = remote_rows(X)
    if is_remote(X):
        return X, *X.targets(y, sample_weight)
    return X, y, sample_weight


def known_rows(X: Any) -> int | None:
    """Return how many rows there are, where it takes no pass to know it."""
    return None if isinstance(X, Batches) or not hasattr(X, "shape") else int(X.shape[0])
