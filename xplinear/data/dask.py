"""Rows in partitions, on the workers of a Dask cluster or in this process: they never move.

Functions, parameters and labels go to the rows, and sums come back, added in an order that is
that of the partitions, however many workers hold them. Nothing is pinned to a worker: where one
dies, Dask makes its partitions again elsewhere, and what they give is the same to the last bit.
"""

from __future__ import annotations

import operator
import pickle
import sys
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from scipy.sparse import vstack

from xplinear.arguments import ArgumentError
from xplinear.backends.base import GPU_COLUMNS, AcceleratedLoss, Backend, backend_of
from xplinear.backends.epoch import Epoch
from xplinear.backends.sparse import ScipyRows, canonical, is_scipy, is_sparse
from xplinear.backends.threads import blas
from xplinear.data import blocks
from xplinear.data.arrays import ArrayData
from xplinear.data.blocks import joined, shuffled
from xplinear.data.protocol import Block, Data, Kernel
from xplinear.data.rows import Standard
from xplinear.data.sparse import SparseData
from xplinear.data.streamed import counts_of, data_of
from xplinear.losses import LOSSES, Loss
from xplinear.namespace import Array, HostArray, is_array, name_of

__all__ = ["DaskData", "Partitions", "added", "gathered", "libraries"]

Client: TypeAlias = Any  # a `distributed.Client`
Handle: TypeAlias = Any  # a `distributed.Future`; without a client, what it would stand for

_TASK_BYTES = 2**28  # a task reads all its partitions into memory, also those that were spilled
_FAR = 1e6  # times as far as the rows that count: squares of scores are still finite in float32
_ROUND = 3e8  # operations of one core in the time of a round of tasks, some 30 ms
_OF_ROWS = "loss_and_grad", "sgd"  # kernels that are given rows


class Facts(NamedTuple):
    """What is known of a partition."""

    rows: int
    columns: int
    dtype: str
    entries: int
    bytes: int
    sparse: bool
    aligned: bool


class Partitions:
    """Parts of X ``(n, p)`` that stay where they are, in order; those without rows are left out.

    Parameters
    ----------
    chunks : sequence
        A future of each, or each itself where there is no client: an array ``(r, p)`` of NumPy
        or CuPy, or a sparse matrix.
    client : distributed.Client, optional
        None computes in threads of this process.

    Attributes
    ----------
    rounds, sent : int
        How often it waited for the cluster, and the bytes of parameters that went there.

    Examples
    --------
    >>> import numpy as np
    >>> X = Partitions([np.zeros((3, 2)), np.zeros((0, 2)), np.ones((1, 2))])
    >>> X.shape, X.sizes
    ((4, 2), (3, 1))
    >>> X.each(np.sum, [(chunk,) for chunk in X.chunks])
    [np.float64(0.0), np.float64(2.0)]
    """

    def __init__(self, chunks: Sequence[Handle], client: Client | None = None) -> None:
        self.client = client
        self.chunks: list[Handle] = list(chunks)
        self.rounds = self.sent = 0
        self._workers: list[str] | None = None  # where each partition was last
        self._threads: dict[str, int] = {}
        self._facts: list[Facts] = []
        self._sampled: dict[bytes, Any] = {}
        facts: list[Facts] = self.each(_facts, [(chunk,) for chunk in chunks])
        self._names = [i for i, own in enumerate(facts) if own.rows]
        self.chunks = [chunks[i] for i in self._names]
        self._facts = [facts[i] for i in self._names]
        for i, own in enumerate(self._facts):
            if not own.aligned:
                (self.chunks[i],) = self.keep(_aligned, [(self.chunks[i],)])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The rows of each partition."""
        return tuple(own.rows for own in self._facts)

    @property
    def shape(self) -> tuple[int, int]:
        return sum(self.sizes), self._facts[0].columns

    @property
    def dtype(self) -> Any:
        """NumPy's dtype that holds what all are stored in."""
        return np.result_type(*(own.dtype for own in self._facts))

    @property
    def sparse(self) -> bool:
        return self._facts[0].sparse

    @property
    def entries(self) -> int:
        """The numbers that a product reads."""
        return sum(own.entries for own in self._facts)

    @property
    def free_columns(self) -> int:
        """Columns that are computed in the time a round takes: the same on any cluster."""
        most = 1 if self.client is None else GPU_COLUMNS
        return max(1, min(most, int(_ROUND // (4 * self.entries))))

    @cached_property
    def ends(self) -> HostArray:
        """Where the rows of each partition end."""
        return np.cumsum(self.sizes)

    def cut(self, a: HostArray | None) -> list[Any]:
        """Return the part of each partition of what there is of all rows."""
        if a is None:
            return [None] * len(self.chunks)
        return [np.ascontiguousarray(part) for part in np.split(a, self.ends[:-1])]

    def keep(
        self, function: Callable[..., Any], columns: Sequence[Sequence[Handle]], *args: Any
    ) -> list[Handle]:
        """Return handles of ``function(*args, *own)`` of each partition, which stays with it.

        ``columns`` has, for each partition, what is its own: the first is where it lies. They may
        be those of some partitions only.
        """
        if self.client is None:
            return [function(*args, *own) for own in columns]
        submit, payload = self._open().submit, self._packed(function, args)
        with _unlimited():
            return [submit(_one, payload, *own, pure=False) for own in columns]

    def each(
        self, function: Callable[..., Any], columns: Sequence[Sequence[Handle]], *args: Any
    ) -> list[Any]:
        """Return ``function(*args, *own)`` of each partition, in order, in one round.

        ``columns`` are as in `keep`.
        """
        found = dict(self._round(_each, function, columns, args))
        return [found[i] for i in range(len(columns))]

    def sums(
        self, function: Callable[..., Any], columns: Sequence[Sequence[Handle]], *args: Any
    ) -> tuple[Any, ...]:
        """Return the sums of ``function(*args, *own)``, a tuple of arrays, of all partitions."""
        count = len(columns)
        nodes = dict(self._round(partial(_sums, count), function, columns, args))
        (total,) = added(nodes, count).values()
        return total

    def some(self, index: HostArray, parts: Sequence[Handle], view: View) -> Any:
        """Return some rows on the host, which are numbered in ascending order; they are kept."""
        key = index.tobytes()
        if key not in self._sampled:
            of = np.searchsorted(self.ends, index, side="right")
            starts = self.ends - self.sizes
            columns = [(part, index[of == i] - starts[i]) for i, part in enumerate(parts)]
            found = self.each(_some_rows, columns, view)
            there = [X for X in found if X.shape[0]]
            X = vstack([X.matrix for X in there]) if self.sparse else np.concatenate(there)
            last = list(self._sampled.items())[-1:]  # solvers look at two samples
            self._sampled = {**dict(last), key: X}
        return self._sampled[key]

    def counted(self, index: HostArray) -> Partitions:
        """Return the same rows where only some count: what stands in others must not matter.

        The others weigh nothing; of a partition in which one is far beyond those that count, it is
        0 in a copy.
        """
        there = self.cut(counts_of(index, self.shape[0]))
        columns = list(zip(self.chunks, there, strict=True))
        own, others = np.asarray(self.each(_reach, columns)).T
        limit = _FAR * float(own.max())
        if others.max() <= limit:
            return self
        cleared = self.keep(_cleared, [columns[i] for i in np.flatnonzero(others > limit)], limit)
        chunks = self.chunks.copy()
        for i, chunk in zip(np.flatnonzero(others > limit), cleared, strict=True):
            chunks[i] = chunk
        return Partitions(chunks, self.client)

    def chain(
        self,
        function: Callable[..., Any],
        order: Sequence[int],
        columns: Sequence[Sequence[Handle]],
        carry: Any,
        *args: Any,
    ) -> Any:
        """Return ``carry = function(carry, *args, *own)`` of one partition after the other.

        ``columns`` are those of the partitions in this order.
        """
        self.rounds += 1
        if self.client is None:
            for own in columns:
                carry = function(carry, *args, *own)
            return carry
        state: Any = self._packed(function, args, carry)
        runs, submit, last = self._runs(order), self._open().submit, list[Any]()
        with _calling_off(self._open(), last), _unlimited():
            for run in runs:
                names, own = [self._names[order[k]] for k in run], [columns[k] for k in run]
                state = submit(_chained, state, names, own, run is runs[-1], pure=False)
                last[:] = [state]
            ((worker, carry),) = self._open().gather(last)
        self._look_again(worker, order[runs[-1][0]])
        return _unpacked(carry)

    def _round(
        self,
        how: Callable[..., Any],
        function: Callable[..., Any],
        columns: Sequence[Sequence[Handle]],
        args: tuple[Any, ...],
    ) -> Iterator[tuple[Any, Any]]:
        """Yield what ``how`` makes of the results of some partitions at a time."""
        self.rounds += 1
        if self.client is None:
            made = blas.each(lambda own: function(*args, *own), iter(columns), at_once=True)
            yield from how(enumerate(made))
            return
        submit, every = self._open().submit, len(columns) == len(self._facts)
        # Before there are facts, partitions may not even be computed.
        groups = self._groups() if every else [[i] for i in range(len(columns))]
        payload = self._packed(function, args, times=len(groups))
        futures: list[Any] = []
        with _calling_off(self._open(), futures), _unlimited():
            for group in groups:
                names = [self._names[i] for i in group] if every else group
                own = [columns[i] for i in group]
                futures.append(submit(_some, how, payload, group, names, own, pure=False))
            answers = self._open().gather(futures)
        for group, (worker, results) in zip(groups, answers, strict=True):
            if every:
                self._look_again(worker, group[0])
            yield from _unpacked(results)

    def _groups(self) -> list[list[int]]:
        """Return partitions that lie on the same worker, some for each of its threads."""
        workers, groups = self._located(), list[list[int]]()
        for worker in dict.fromkeys(workers):
            own = [i for i, at in enumerate(workers) if at == worker]
            size = sum(self._facts[i].bytes for i in own)
            tasks = max(self._threads.get(worker, 1), -(-size // _TASK_BYTES))
            groups += [part.tolist() for part in np.array_split(own, min(tasks, len(own)))]
        return groups

    def _runs(self, order: Sequence[int]) -> list[list[int]]:
        """Return places in an order of partitions, in runs that lie on the same worker."""
        workers, runs, size = self._located(), list[list[int]](), 0
        for k, i in enumerate(order):
            size += self._facts[i].bytes
            if not k or workers[i] != workers[order[k - 1]] or size > _TASK_BYTES:
                runs, size = [*runs, []], self._facts[i].bytes
            runs[-1].append(k)
        return runs

    def _located(self) -> list[str]:
        """Return the worker of each partition."""
        if self._workers is None:
            import distributed

            client = self._open()
            with _explained(), client.as_current():
                distributed.wait(self.chunks)
            holders, self._threads = client.who_has(self.chunks), client.nthreads()
            self._workers = [next(iter(holders[chunk.key]), "") for chunk in self.chunks]
        return self._workers

    def _look_again(self, worker: str, partition: int) -> None:
        """Forget where partitions are if one was elsewhere: some worker died."""
        if self._workers is not None and worker != self._workers[partition]:
            self._workers = None

    def _open(self) -> Client:
        """Return the client, which must be open."""
        if self.client is None or self.client.status != "running":
            raise RuntimeError(_CLOSED)
        if self.client.asynchronous:
            raise RuntimeError(_ASYNCHRONOUS)
        return self.client

    def _packed(self, *call: Any, times: int = 1) -> bytes:
        """Return what the workers are to do, for so many tasks."""
        try:
            payload = _packed(call)
        except Exception as error:
            msg = (
                f"what is computed goes to the workers, and part of it cannot be pickled: {error}; "
                "a loss or penalty of your own must hold no lock, open file or generator"
            )
            raise TypeError(msg) from error
        self.sent += times * len(payload)
        return payload


def gathered(client: Client, futures: list[Any]) -> list[Any]:
    """Return results of tasks; where one fails, or Ctrl-C comes, the others are called off.

    Raises
    ------
    RuntimeError
        If workers die again and again, or the client forgets its tasks.
    """
    with _calling_off(client, futures):
        return client.gather(futures)


@contextmanager
def _calling_off(client: Client, futures: list[Any]) -> Generator[None]:
    """Call off tasks that are there where something happens, while they are submitted too."""
    try:
        with _explained():
            yield
    except BaseException:
        if client.status == "running":
            client.cancel(futures)
        raise


@contextmanager
def _explained() -> Generator[None]:
    """Say what happened to tasks that were lost, and what to do."""
    import distributed

    try:
        yield
    except distributed.KilledWorker as error:
        raise RuntimeError(_KILLED) from error
    except CancelledError as error:
        raise RuntimeError(_CLOSED) from error


_CLOSED = (
    "the Dask client that holds X is closed, was restarted, or has lost its scheduler, and X with "
    "it; make X anew, and fit, and compute, while the client is open"
)
_ASYNCHRONOUS = (
    "the Dask client is asynchronous, and a fit waits for results: use one made with "
    "Client(asynchronous=False), outside of the event loop"
)
_KILLED = (
    "workers died again and again while they computed with the same partitions of X, as they do "
    "where memory runs out: make its chunks smaller, as X.rechunk({0: rows}) does, or give each "
    "worker more memory"
)


def _unlimited() -> AbstractContextManager[Any]:
    """Send labels and parameters of any size without a warning."""
    from dask import config

    return config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"})


def _facts(chunk: Any) -> Facts:
    """Return what is known of a partition."""
    r, p = chunk.shape
    if not is_scipy(chunk) and not is_sparse(chunk):
        entries = r * p
        size = entries * chunk.dtype.itemsize
        own = isinstance(chunk, np.ndarray) and not chunk.flags.aligned
        return Facts(r, p, name_of(chunk.dtype), entries, size, sparse=False, aligned=not own)
    entries = max(r, chunk.nnz)
    size = entries * (chunk.dtype.itemsize + 4)
    return Facts(r, p, name_of(chunk.dtype), entries, size, sparse=True, aligned=True)


def _aligned(a: Any) -> Any:
    """Return an array as products read it: what came over the network may lie at odd addresses.

    NumPy would copy it for every product.
    """
    return a if not isinstance(a, np.ndarray) or a.flags.aligned else a.copy()


def _each(results: Iterator[tuple[int, Any]]) -> list[tuple[int, Any]]:
    return list(results)


def _sums(count: int, results: Iterator[tuple[int, Any]]) -> list[tuple[Any, Any]]:
    """Return sums of partitions beside each other, as far as these are there."""
    nodes: dict[tuple[int, int], Any] = {}
    for i, result in results:
        nodes[0, i] = result
        nodes = added(nodes, count)
    return list(nodes.items())


def added(nodes: dict[tuple[int, int], Any], count: int) -> dict[tuple[int, int], Any]:
    """Return sums in a tree over partitions, each two neighbours added that are there.

    Node (l, j) is the sum of partitions from j·2ˡ to before (j + 1)·2ˡ: which are added first
    does not depend on who has them.
    """
    nodes = dict(nodes)
    for level in range((count - 1).bit_length()):
        for i in sorted(i for own, i in nodes if own == level and not i % 2):
            left, right = (level, i), (level, i + 1)
            if right in nodes:
                pair = nodes.pop(left), nodes.pop(right)
                nodes[level + 1, i // 2] = tuple(map(operator.add, *pair))
            elif (i + 1) << level >= count:  # it has no neighbour
                nodes[level + 1, i // 2] = nodes.pop(left)
    return nodes


def _sizes(rows: Any) -> HostArray:
    """Return the largest number ``(r,)`` of each row."""
    if is_scipy(rows):
        X, size = ScipyRows(canonical(rows)), np.zeros(rows.shape[0])
        np.maximum.at(size, X.owners, np.abs(X.values))
        return size
    backend = backend_of(rows)
    ends = (f(rows, axis=1) for f in (backend.xp.max, backend.xp.min))
    high, low = (backend.to_host(end).astype(np.float64) for end in ends)
    return np.maximum(high, -low)


def _reach(rows: Any, counted: HostArray) -> tuple[float, float]:
    """Return how far from 0 rows go that count, and others."""
    size = _sizes(rows)
    own, others = (size[at].max(initial=0.0) for at in (counted, ~counted))
    return float(own), float(others)


def _cleared(limit: float, rows: Any, counted: HostArray) -> Any:
    """Return rows with 0 in those that do not count and go beyond a limit."""
    stay = counted | (_sizes(rows) <= limit)
    if is_scipy(rows):
        X = ScipyRows(canonical(rows))
        return X.with_values(np.where(stay[X.owners], X.values, 0)).matrix
    backend = backend_of(rows)
    return rows * backend.asarray(stay[:, None], rows.dtype)


def _packed(what: Any) -> bytes:
    """Return something for the network: arrays keep their order in memory, as not on Dask's way."""
    import cloudpickle

    return cloudpickle.dumps(what, protocol=5)


def _unpacked(payload: bytes) -> Any:
    """Return what was packed."""
    return pickle.loads(payload)  # noqa: S301 - a cluster runs what its client sends


def _one(payload: bytes, *own: Any) -> Any:
    """Do what is said in the payload with what a partition has, on a worker."""
    function, args = _unpacked(payload)
    return function(*args, *own)


def _some(
    how: Callable[..., Any],
    payload: bytes,
    places: list[int],
    names: list[int],
    columns: list[Any],
) -> tuple[str, Any]:
    """Do it with some partitions, one after the other; and say on which worker."""
    function, args = _unpacked(payload)

    def results() -> Iterator[tuple[int, Any]]:
        for i, name, own in zip(places, names, columns, strict=True):
            with _naming(name):
                result = function(*args, *own)
            yield i, result

    return _worker(), _packed(how(results()))


def _chained(state: Any, names: list[int], columns: list[Any], last: bool) -> Any:
    """Take the state of a chain further, by some partitions; or return its end, and the worker."""
    function, args, carry = _unpacked(state)
    for name, own in zip(names, columns, strict=True):
        with _naming(name):
            carry = function(carry, *args, *own)
    return (_worker(), _packed(carry)) if last else _packed((function, args, carry))


def _worker() -> str:
    import distributed

    return distributed.get_worker().address


@contextmanager
def _naming(partition: int) -> Generator[None]:
    """Say of an error in which partition of X it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in partition {partition} of X, on a worker of the Dask cluster")
        raise


class _Namespace:
    """Stands for the array library of a partition."""


@dataclass(frozen=True)
class _Kernel:
    """Stands for the kernel of a partition's library, if it has one."""

    operation: str

    def __call__(self, loss: Loss, *_: Any) -> Any:
        raise NotImplementedError


class _Accelerated(NamedTuple):
    """Stands for a loss as the partition's library computes it."""

    loss: Loss


class View(NamedTuple):
    """How the rows are seen: what a source of arrays holds, but for what it has of each row."""

    dtype: str
    accelerates: bool
    models: Array | None
    targets: Array | None
    positives: Array | None
    standard: Standard | None


class Kept:
    """Sparse rows of a partition, cut into blocks, with what their library made of each."""

    def __init__(self, rows: SparseData) -> None:
        self.rows = rows

    def __sizeof__(self) -> int:
        """Return their bytes: Dask weighs by them what it moves."""
        X = self.rows.X
        return X.nnz * (X.dtype.itemsize + 4)


def _mapped(part: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples with other parts."""
    if isinstance(part, tuple) and not isinstance(part, _Accelerated):
        part = cast("Any", part)
        own = [_mapped(a, change) for a in part]
        return tuple(own) if type(part) is tuple else part._make(own)
    return change(part)


def _portable(backend: Backend, call: Any) -> Any:
    """Return what is to be computed without what is of the backend."""

    def change(part: Any) -> Any:
        if part is backend.xp:
            return _Namespace
        return _Accelerated(part.loss) if isinstance(part, AcceleratedLoss) else _compact(part)

    return _mapped(call, change)


def _native(backend: Backend, call: Any) -> Any:
    """Return it again for a backend."""

    def change(part: Any) -> Any:
        if part is _Namespace:
            return backend.xp
        if isinstance(part, _Accelerated):
            return backend.accelerated(part.loss)
        if isinstance(part, partial) and isinstance(part.func, _Kernel):
            return backend.kernel(part.args[0], part.func.operation)
        return backend.asarray(_aligned(part)) if isinstance(part, np.ndarray) else part

    return _mapped(call, change)


def _fetched(backend: Backend, result: Any) -> Any:
    """Return nested tuples of arrays on the host."""
    return _mapped(result, lambda a: _compact(backend.to_host(a)) if is_array(a) else a)


def _compact(part: Any) -> Any:
    """Return an array without holes, its axes in the same order in memory: as one is packed."""
    dense = not isinstance(part, np.ndarray) or part.flags.forc
    return part if dense else part.copy(order="K")


def _kept(dtype: str, chunk: Any) -> Kept:
    """Return sparse rows ready for products."""
    backend = backend_of(chunk)
    X = chunk if is_sparse(chunk) else backend.sparse(chunk)
    return Kept(SparseData(X, None, dtype=getattr(backend.xp, dtype), backend=backend))


def _standardized(standard: Standard, rows: Kept) -> Kept:
    """Return rows standardized: those of which much is centred in a copy once."""
    return Kept(rows.rows.with_standard(_native(rows.rows.backend, standard)))


def _backend(rows: Any, view: View) -> Backend:
    backend = rows.rows.backend if isinstance(rows, Kept) else backend_of(rows)
    return backend.accelerating(view.accelerates)


def _data(view: View, rows: Any, y: Any, s: Any) -> Data:
    """Return the rows of a partition with their labels and weights, on its own backend."""
    backend = _backend(rows, view)
    y, s, models, targets, positives = _native(backend, (y, s, *view[2:5]))
    own: dict[str, Any] = {"backend": backend, "targets": targets, "positives": positives}
    if isinstance(rows, Kept):
        return replace(rows.rows, y=y, s=s, models=models, **own)
    dtype, standard = getattr(backend.xp, view.dtype), _native(backend, view.standard)
    return ArrayData(_aligned(rows), y, s, dtype, models, standard=standard, **own)


def _reduced(view: View, call: Any, rows: Any, y: Any, s: Any, *each: Any) -> tuple[Any, ...]:
    """Return the sums of a partition."""
    data = _data(view, rows, y, s)
    function, static, args, scores, kernel, each = _native(data.backend, (*call, each))
    sums = data.reduce(function, static, *args, scores=scores, kernel=kernel, each=each)
    return _fetched(data.backend, sums)


def _of_rows(view: View, call: Any, rows: Any, y: Any, s: Any, *each: Any) -> HostArray:
    """Return what a function gives of the rows of a partition."""
    data = _data(view, rows, y, s)
    function, static, args, scores, each = _native(data.backend, (*call, each))
    parts = list(data.map(function, static, *args, scores=scores, each=each))
    return data.backend.to_host(joined(parts, backend=data.backend))


def _epoch(
    carry: Any, view: View, call: Any, rows: Any, y: Any, s: Any, schedule: Sequence[float]
) -> Any:
    """Return the carry after the mini-batches of a partition, of about the same size."""
    data = _data(view, rows, y, s)
    own = _native(data.backend, (carry, call))
    carry, (update, rule, constants, shuffle, fold) = own
    after = data.epoch(
        *(update, rule, carry, constants),
        batch_size=-(-data.n // len(schedule)),
        shuffle=shuffle,
        schedule=schedule,
        fold=fold,
    )
    return _fetched(data.backend, after)


def _some_rows(view: View, rows: Any, index: HostArray) -> Any:
    """Return rows of a partition on the host: an array, or `ScipyRows`."""
    data: Any = _data(view, rows, None, None)
    X = data.gathered(data.backend.asarray(index))
    return X if isinstance(X, ScipyRows) else data.backend.to_host(X)


def _same(rows: Any, part: Any) -> Any:
    """Keep a part of the labels or weights beside its rows."""
    del rows
    return _aligned(part)


class Column:
    """What there is of each row: it goes to the partitions once, when it is first asked for."""

    def __init__(self, X: Partitions, values: HostArray | None) -> None:
        self.X, self.values = X, values

    @cached_property
    def parts(self) -> list[Handle]:
        """A handle of each part."""
        if self.values is None:
            return [None] * len(self.X.chunks)
        return self.X.keep(_same, list(zip(self.X.chunks, self.X.cut(self.values), strict=True)))


class Prepared:
    """Sparse rows, standardized, as `Kept` parts; dense ones as they are."""

    def __init__(
        self, X: Partitions, dtype: str, standard: Standard | None, plain: Prepared | None = None
    ) -> None:
        self.X, self.dtype, self.standard, self.plain = X, dtype, standard, plain

    def standardized(self, standard: Standard | None) -> Prepared:
        """Return the same rows with another standard."""
        if standard is self.standard or not self.X.sparse:
            return self
        plain = self.plain or self
        return plain if standard is None else Prepared(self.X, self.dtype, standard, plain)

    @cached_property
    def parts(self) -> list[Handle]:
        """A handle of each part."""
        if not self.X.sparse:
            return self.X.chunks
        if self.plain is None:
            return self.X.keep(_kept, [(chunk,) for chunk in self.X.chunks], self.dtype)
        own = [(part,) for part in self.plain.parts]
        return self.X.keep(_standardized, own, self.standard)


@dataclass(frozen=True, eq=False)
class DaskData:
    """X in partitions, which stay where they are; y and weights of all rows on the host.

    The computation around the passes is NumPy's, whatever library computes with the partitions.

    Parameters
    ----------
    X : Partitions
    y, s, dtype, models, backend, targets, positives, standard, classes
        As in `ArrayData`, of NumPy. What there is of each row goes to its partition once.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.backends import get_backend
    >>> X = Partitions([np.eye(3), np.ones((2, 3))])
    >>> data = DaskData(X, np.asarray([0, 1, 2, 0, 1]), backend=get_backend("numpy"))
    >>> data.n, data.p, data.sample(2).X.tolist()
    (5, 3, [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    """

    X: Partitions
    y: HostArray
    s: HostArray | None = None
    dtype: Any = None
    models: HostArray | None = None
    backend: Backend = field(kw_only=True)
    targets: HostArray | None = field(default=None, kw_only=True)
    positives: HostArray | None = field(default=None, kw_only=True)
    standard: Standard | None = field(default=None, kw_only=True)
    classes: int | None = field(default=None, kw_only=True, repr=False)
    labels: Column = field(default=cast("Column", None), kw_only=True, repr=False)
    weighing: Column = field(default=cast("Column", None), kw_only=True, repr=False)
    rows: Prepared = field(default=cast("Prepared", None), kw_only=True, repr=False)

    padding = 0
    distant = True

    def __post_init__(self) -> None:
        if self.backend.name != "numpy":
            msg = (
                "backend must be 'numpy', or be left out, where X is in partitions: the library "
                f"that each is of computes with it, NumPy the rest; got {self.backend.name!r}"
            )
            raise ArgumentError(msg)
        # A partition takes the kernel of its own library, by name.
        there = {(loss, name): _Kernel(name) for loss in LOSSES.values() for name in _OF_ROWS}
        kernels = {**self.backend.kernels, **there} if self.backend.accelerates else {}
        stored = self.X.dtype
        like = np.zeros((1, self.p), stored)
        own = replace(self.backend, kernels=kernels, free_columns=self.X.free_columns)
        object.__setattr__(self, "backend", own)
        blocks.settle(self, lambda: like, self.n)
        dtype = name_of(self.dtype)
        rows = cast("Prepared | None", self.rows) or Prepared(self.X, dtype, None)
        object.__setattr__(self, "rows", rows.standardized(self.standard))
        for name, values in (("labels", self.y), ("weighing", self.s)):
            column = cast("Column | None", getattr(self, name))
            if column is None or column.values is not values:
                object.__setattr__(self, name, Column(self.X, values))

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.X.shape[0]

    @property
    def held(self) -> int:
        """The number of rows."""
        return self.n

    @property
    def p(self) -> int:
        """The number of features."""
        return self.X.shape[1]

    @property
    def sparse(self) -> bool:
        """Whether partitions are sparse matrices."""
        return self.X.sparse

    @property
    def entries(self) -> int:
        """The numbers of X, or those that are stored."""
        return self.X.entries

    weight_sum = cached_property(blocks.weight_sum)
    shares = cached_property(blocks.shares)
    check_classes = blocks.check_classes
    as_held = blocks.as_held
    with_weights = blocks.with_weights
    with_labels = blocks.with_labels
    with_standard = blocks.with_standard
    narrowed = blocks.as_it_is
    ordered = blocks.in_order
    take = blocks.take

    def _view(self) -> View:
        standard = None if self.sparse else self.standard
        kinds = name_of(self.dtype), self.backend.accelerates
        return View(*kinds, self.models, self.targets, self.positives, standard)

    def _columns(self, *each: Any) -> list[tuple[Any, ...]]:
        """Return what each partition has of its own."""
        own = self.rows.parts, self.labels.parts, self.weighing.parts
        self.X.sent += sum(a.nbytes for a in each)
        return list(zip(*own, *(self.X.cut(a) for a in each), strict=True))

    def map(
        self,
        function: Callable[..., Array],
        static: Sequence[Hashable],
        *args: Any,
        scores: int,
        each: Sequence[Array] = (),
    ) -> Iterator[Array]:
        """Yield ``function(*static, block, *each, *args)`` of each partition, in order."""
        call = _portable(self.backend, (function, tuple(static), args, scores))
        yield from self.X.each(_of_rows, self._columns(*each), self._view(), call)

    def reduce(
        self,
        function: Callable[..., tuple[Array, ...]],
        static: Sequence[Hashable],
        *args: Any,
        scores: int = 0,
        kernel: Kernel | None = None,
        each: Sequence[Array] = (),
    ) -> tuple[Array, ...]:
        """Return the sums over all partitions of ``function(*static, block, *each, *args)``."""
        call = _portable(self.backend, (function, tuple(static), args, scores, kernel))
        return self.X.sums(_reduced, self._columns(*each), self._view(), call)

    def batches(self, batch_size: int) -> int:
        """Return how many mini-batches an epoch has: none is of two partitions."""
        return sum(-(-rows // batch_size) for rows in self.X.sizes)

    def epoch(
        self,
        update: Callable[..., Any],
        rule: Hashable,
        carry: Any,
        constants: Any = None,
        *,
        batch_size: int,
        shuffle: tuple[int, int],
        schedule: Sequence[float],
        fold: Callable[[Epoch], Any] | None = None,
    ) -> Any:
        """Fold an update over the rows of one partition after another, both in shuffled orders."""
        seed, epoch = shuffle[0], shuffle[1]
        order, columns = shuffled(len(self.X.sizes), seed, epoch).tolist(), self._columns()
        own, done = list[tuple[Any, ...]](), 0
        for i in order:
            batches = -(-self.X.sizes[i] // batch_size)
            own.append((*columns[i], schedule[done : done + batches]))
            done += batches
        call = _portable(self.backend, (update, rule, constants, (seed, epoch), fold))
        start = _portable(self.backend, carry)
        return self.X.chain(_epoch, order, own, start, self._view(), call)

    def sample(self, rows: int) -> Block:
        """Return at most ``rows`` rows, evenly spaced in their weights."""
        n, s = self.n, self.s
        index = np.arange(0, n, -(-n // rows))
        if s is not None:
            index, s = (index, s[index]) if n <= rows else blocks.chosen(self, rows)
        plain = self.rows.standardized(None)
        X = self.X.some(index, plain.parts, self._view()._replace(standard=None))
        few: Any = data_of(X, self.y[index], s, self.dtype, backend=self.backend)
        few = few.with_labels(few.y, self.targets, self.positives).with_weights(s, self.models)
        return few.with_standard(self.standard).sample(len(index))


def libraries() -> tuple[Any, Any]:
    """Return dask, and distributed where it is loaded: otherwise it holds nothing."""
    import dask

    return dask, sys.modules.get("distributed")
