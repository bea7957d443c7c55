"""X in partitions of a Dask collection, at the door: `RemoteRows` that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xplinear.backends.base import Backend, backend_of
from xplinear.backends.sparse import HostRows, HostSparse, is_scipy, sparse_bounds
from xplinear.data.dask import DaskData, Partitions, gathered, libraries
from xplinear.data.protocol import Data
from xplinear.data.remote import Survey, checksum, finite_bounds, not_finite
from xplinear.data.streamed import counts_of
from xplinear.namespace import Array, HostArray

__all__ = ["Collection", "DaskRows", "Held", "computed", "held", "is_collection", "mapped"]

Collection: TypeAlias = Any  # an array, a frame or a series of Dask
Handle: TypeAlias = Any  # of a partition: where it is or, without a client, the partition itself


def is_collection(x: Any) -> bool:
    """Return whether x is one of Dask's collections; nothing is imported to know.

    Examples
    --------
    >>> import dask.array
    >>> is_collection(dask.array.ones(3)), is_collection(np.ones(3))
    (True, False)
    """
    return type(x).__module__.startswith(("dask.", "dask_expr.")) and hasattr(x, "__dask_graph__")


class Held(NamedTuple):
    """Collections that are computed, by whom, and their partitions."""

    client: Any  # a `distributed.Client`, or None
    parts: list[list[Handle]]

    def each(
        self, function: Callable[..., Any], *parts: Sequence[Handle], keep: bool = False
    ) -> list[Any]:
        """Return ``function(*args)`` of each partition in one round, or handles of what is kept."""
        if self.client is None:
            return [function(*args) for args in zip(*parts, strict=True)]
        futures = self.client.map(function, *parts, pure=False)
        return futures if keep else gathered(self.client, futures)


def held(*collections: Collection) -> Held:
    """Compute collections once, what they have in common too, and hold them in partitions.

    Those that are held already stay as they are.

    Raises
    ------
    ValueError
        If they are held by several clients, or by one that is closed.
    """
    dask, _ = libraries()
    client = _client_of(*collections)
    persist = (lambda own: dask.persist(*own)) if client is None else client.persist
    persisted = _of_each_kind(persist, collections)
    parts = [_partitions(one) for one in persisted]
    if client is None:
        return Held(None, [list(dask.compute(*own)) for own in parts])
    return Held(client, [client.compute(own) for own in parts])


def _of_each_kind(
    function: Callable[..., Sequence[Any]], collections: Sequence[Collection]
) -> Sequence[Any]:
    """Return what a function gives of collections: of those together that have one kind of graph.

    Dask warns where it cannot optimize what others have in common.
    """
    found = dict[int, Any]()
    for kind in (True, False):
        own = [i for i, one in enumerate(collections) if hasattr(one, "expr") is kind]
        if own:
            found |= zip(own, function([collections[i] for i in own]), strict=True)
    return [found[i] for i in range(len(collections))]


def computed(value: Any) -> Any:
    """Return a collection as it is on the host, and anything else as it is.

    Examples
    --------
    >>> import dask.array
    >>> computed(dask.array.ones(2)), computed(None)
    (array([1., 1.]), None)
    """
    return value.compute(scheduler=_client_of(value)) if is_collection(value) else value


def _partitions(collection: Collection) -> list[Any]:
    """Return the partitions of a collection whose columns are in one chunk, as `Delayed`."""
    parts = collection.to_delayed(optimize_graph=False)
    return list(np.ravel(np.asarray(parts, dtype=object)))


def _client_of(*collections: Collection) -> Any:
    """Return the client that holds collections, or else the one there is; None without any."""
    dask, distributed = libraries()
    if distributed is None:
        return None
    clients = {own.client for one in collections for own in distributed.futures_of(one)}
    if any(client.status != "running" for client in clients):
        msg = (
            "X, y or weights are held by a Dask client that is closed, or has lost its scheduler: "
            "make them anew, with one that is open"
        )
        raise ValueError(msg)
    if len(clients) > 1:
        msg = "X, y and weights are held by several Dask clients; persist all of them with one"
        raise ValueError(msg)
    scheduler = getattr(dask.base.get_scheduler(), "__self__", None)
    default = scheduler if isinstance(scheduler, distributed.Client) else None
    return clients.pop() if clients else default


def mapped(function: Callable[..., Any], X: Collection, constant: Any, like: Any) -> Collection:
    """Return ``function(part, constant)`` of each partition, as a collection: nothing is computed.

    ``like`` is what it gives of a row: an array, of X one, or a series or frame.
    """
    dask, _ = libraries()
    shared = dask.delayed(constant, pure=False)  # pickled once, not in every task
    if not isinstance(like, np.ndarray):
        return X.map_partitions(function, shared, meta=like.iloc[:0])
    return X.map_blocks(
        function,
        shared,
        dtype=like.dtype,
        chunks=(X.chunks[0], *((size,) for size in like.shape[1:])),
        drop_axis=list(range(like.ndim, 2)),
        meta=like[:0],
    )


class DaskRows:
    """X ``(n, p)`` as partitions of rows, dense all or sparse all; see `RemoteRows`."""

    def __init__(self, rows: Partitions, names: HostArray | None) -> None:
        self._rows = rows
        self.names = names

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return self._rows.shape

    @property
    def dtype(self) -> Any:
        """That holds those of all partitions."""
        return self._rows.dtype

    def targets(self, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Return labels and weights as they are: they came with the rows."""
        return y, sample_weight

    def survey(self, counted: HostArray | None = None) -> Survey:
        """Look at every number once; bounds are those of the rows that count, all if None."""
        rows, n = self._rows, self.shape[0]
        there = None if counted is None else counts_of(counted, n)
        starts = (rows.ends - rows.sizes).tolist()
        columns = list(zip(rows.chunks, starts, rows.cut(there), strict=True))
        found: list[Survey] = rows.each(_surveyed, columns)
        low, high = (np.concatenate([one[i] for one in found]) for i in (0, 1))
        digest = checksum(np.asarray([one.digest for one in found]))
        return Survey(low.min(axis=0), high.max(axis=0), digest)

    def data(
        self,
        y: Array,
        s: Array | None = None,
        dtype: Any = None,
        *,
        backend: Backend,
        classes: int | None = None,
        counted: HostArray | None = None,
    ) -> Data:
        """Return the rows with labels and weights of all of them, for a computation."""
        rows = self._rows if counted is None else self._rows.counted(counted)
        return DaskData(rows, y, s, dtype, backend=backend, classes=classes)

    def blocks(self) -> Generator[HostArray]:
        """Yield all rows in order, a partition at a time."""
        for chunk in self._rows.chunks:
            yield from self._rows.each(_itself, [(chunk,)])


def _itself(rows: Any) -> Any:
    return rows


def _surveyed(rows: Any, start: int, counted: HostArray | None) -> Survey:
    """Return the survey of a partition; its bounds are ``(b, p)``, of some rows at a time."""
    near: HostRows = rows if is_scipy(rows) else backend_of(rows).to_host(rows)
    bounds = _sparse_bounds if is_scipy(near) else finite_bounds
    digest = 0
    for a in (near.data, near.indices, near.indptr) if is_scipy(near) else (near,):
        digest = checksum(a, digest)
    low, high = bounds(near, start)
    if counted is not None and not counted.all():
        low, high = bounds(near[np.flatnonzero(counted)], start)
    return Survey(low, high, digest)


def _sparse_bounds(rows: HostSparse, start: int) -> tuple[HostArray, HostArray]:
    """Return what `finite_bounds` does, of sparse rows."""
    values = rows.data
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        row = int(np.searchsorted(rows.indptr, at, side="right")) - 1
        raise not_finite(values[at], start + row, int(rows.indices[at]))
    if not rows.shape[0]:
        return np.empty((0, rows.shape[1])), np.empty((0, rows.shape[1]))
    low, high = sparse_bounds(rows)
    return low[None, :], high[None, :]
