"""What a backend is: an array library on one device, as plain functions in a frozen value."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from xplinear.arguments import one_of
from xplinear.backends.epoch import Epoch, fold_in_python
from xplinear.losses import Loss
from xplinear.namespace import Array, Namespace

__all__ = [
    "GPU_COLUMNS",
    "PRECISIONS",
    "Backend",
    "BackendError",
    "Copier",
    "HostArray",
    "Rows",
    "fetched",
    "free_host_memory",
    "host_reads",
    "in_precision",
    "is_memory_error",
    "matmul_precision",
    "native",
    "read_ahead",
    "read_rows",
    "undisturbed",
    "upload_ahead",
]

_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")

HostArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Rows: TypeAlias = "range | HostArray"  # a run of rows, or the indices of some


class BackendError(RuntimeError):
    """A backend that cannot be used: says why, and what to install or call."""


def free_host_memory() -> int:
    """Return the bytes of memory that are free; a guess where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2**32
    (available,) = (line for line in lines if line.startswith("MemAvailable"))
    return 1024 * int(available.split()[1])


def fetched(x: Any) -> HostArray:
    """Return an array of any library, or what NumPy can read, on the host."""
    from xplinear.backends import backend_of

    return x if isinstance(x, np.ndarray) else backend_of(x).fetch(x)


def native(x: Any) -> HostArray:
    """Return what `fetched` does, in the byte order of this machine: other libraries have no other.

    Examples
    --------
    >>> native(np.asarray([1, 2], ">i4")).dtype == np.int32
    True
    """
    array = fetched(x)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


class _HostReads:
    """Counts the transfers from a device to the host, so that tests can bound them."""

    count = 0


host_reads = _HostReads()
PRECISIONS = "float32", "tf32"
_tf32: ContextVar[bool] = ContextVar("xplinear_tf32", default=False)
GPU_COLUMNS = 512  # 30 to 45 models of ten classes cost a GPU about as much as one


@contextmanager
def matmul_precision(name: str) -> Generator[None]:
    """Choose how backends with tensor cores multiply float32 matrices: ``float32`` or ``tf32``.

    Whatever a backend compiles or folds within is concerned, whatever the settings of the library
    it wraps.
    """
    token = _tf32.set(one_of(*PRECISIONS)("precision", name) == "tf32")
    try:
        yield
    finally:
        _tf32.reset(token)


def in_precision(
    products: Callable[[bool], AbstractContextManager[Any]],
    function: Callable[..., Any],
    *static: Hashable,
) -> Callable[..., Any]:
    """Return ``function`` with its static arguments bound, run in the precision chosen.

    ``products(tf32)`` gives a context in which float32 matrices are multiplied in TF32, or not.
    """

    def call(*args: Any, **named: Any) -> Any:
        with products(_tf32.get()):
            return function(*static, *args, **named)

    return call


def read_rows(X: HostArray, rows: Rows, buffer: HostArray) -> HostArray:
    """Return some rows of a host array, written to the first rows of a buffer.

    Examples
    --------
    >>> read_rows(np.arange(5), np.asarray([3, 1]), np.zeros(4, dtype=int))
    array([3, 1])
    """
    into = buffer[: len(rows)]
    if isinstance(rows, range):
        np.copyto(into, X[rows.start : rows.stop : rows.step])
    elif X.flags.c_contiguous and X.flags.aligned and X.dtype == into.dtype:
        np.take(X, rows, 0, into, "clip")  # only "clip" writes straight there; indices are valid
    else:
        np.copyto(into, X[rows])  # `take` would first copy all of X
    return into


def _ahead(make: Callable[[int, Any], Any], count: int, mark: Callable[[], Any]) -> Generator[Any]:
    """Yield ``make(i, mark())`` for i below ``count``; a thread makes the next one meanwhile.

    ``mark`` is called here, when what was yielded before the last one is done with.
    """
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(make, 0, mark())
        for i in range(1, count + 1):
            made = coming.result()
            if i < count:
                coming = thread.submit(make, i, mark())
            yield made


def read_ahead(X: HostArray, pieces: Sequence[Rows]) -> Generator[HostArray]:
    """Yield pieces of the rows of a host array, copied; a thread reads the next one meanwhile.

    Each has memory of its own, which `Backend.move` may share.

    Examples
    --------
    >>> [rows.tolist() for rows in read_ahead(np.arange(5), [range(3), np.asarray([4, 0])])]
    [[0, 1, 2], [4, 0]]
    """
    dtype = X.dtype.newbyteorder("=")

    def make(i: int, _: None) -> HostArray:
        rows = pieces[i]
        return read_rows(X, rows, np.empty((len(rows), *X.shape[1:]), dtype))

    return _ahead(make, len(pieces), lambda: None)


class Copier(Protocol):
    """Two pinned buffers on the host, two on the device, and a stream that copies between them.

    The computation runs in another stream. ``slot`` is 0 or 1.
    """

    def mark(self) -> Any:
        """Return an event at the end of what the computation has been given so far."""
        ...

    def pinned(self, slot: int) -> HostArray:
        """Return a buffer to fill, as soon as what was in it has been copied."""
        ...

    def copy(self, slot: int, rows: int, free: Any) -> Array:
        """Copy the first rows, once the event ``free`` has come; return where they will be."""
        ...

    def await_copy(self, slot: int) -> None:
        """Let the computation wait for the copy."""
        ...

    def finish(self) -> None:
        """Wait until nothing is being copied."""
        ...


def upload_ahead(
    X: HostArray, pieces: Sequence[Rows], *, copier: Callable[[tuple[int, ...], Any], Copier]
) -> Generator[Array]:
    """Yield pieces of the rows of a host array on the device, each until the next is asked for.

    Meanwhile a thread reads the next one into pinned memory, and a stream of its own copies it.
    ``copier`` is given the shape and the dtype of the buffers.
    """
    shape = (max(map(len, pieces)), *X.shape[1:])
    copies = copier(shape, X.dtype.newbyteorder("="))

    def make(i: int, free: Any) -> Array:
        read_rows(X, pieces[i], copies.pinned(i % 2))
        # The buffer was last used for piece i − 2; `free` comes after its computation.
        return copies.copy(i % 2, len(pieces[i]), free)

    try:
        with closing(_ahead(make, len(pieces), copies.mark)) as uploaded:
            for i, rows in enumerate(uploaded):
                copies.await_copy(i % 2)
                yield rows
    finally:
        copies.finish()  # nobody else may be given the buffers before


def is_memory_error(error: BaseException, said: Sequence[str] = ()) -> bool:
    """Return whether memory ran out: a MemoryError, or a RuntimeError that says so in these words.

    Examples
    --------
    >>> is_memory_error(RuntimeError("CUDA error: out of memory"), said=["out of memory"])
    True
    """
    spoke = isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    return spoke or isinstance(error, MemoryError)


@dataclass(frozen=True)
class AcceleratedLoss:
    """A loss whose value and gradient come from a backend's own kernel."""

    loss: Loss
    kernel: Callable[..., tuple[Array, Array]] = field(repr=False)

    def value_and_grad(self, Z: Array, y: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        return self.kernel(self.loss, Z, y, xp=xp)

    def __repr__(self) -> str:
        return repr(self.loss)

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the loss has."""
        if name.startswith("__"):  # asked for by `copy` before there is a loss
            raise AttributeError(name)
        return getattr(self.loss, name)


@dataclass(frozen=True, eq=False)
class Backend:
    """An array library on one device.

    Parameters
    ----------
    name : str
        The name that selects it again, such as ``"numpy"`` or ``"torch:cuda:0"``.
    xp : Namespace
        Its array API namespace.
    device : object
        The device new arrays are created on.
    move : callable
        ``move(x) -> Array``: brings an array of any library, or anything NumPy can read,
        to the device; no copy where none is needed.
    fetch : callable
        ``fetch(x) -> numpy.ndarray``.
    refuses : callable
        What is wrong with an array of this library whose values cannot be had, and what to do;
        None where they can.
    traced : callable
        Whether an array stands for values that are not known yet, as inside ``jax.jit``.
    settings : callable
        ``settings(gradients)`` gives a context in which the library computes as if nobody had
        changed its settings, and records nothing for gradients unless asked; see `undisturbed`.
    fold : callable
        ``fold(epoch)`` gives the carry after all mini-batches of an `Epoch`.
    plain_fold : callable, optional
        The fold of `reference`, where ``fold`` needs updates that can be recorded.
    compiles : bool
        Whether code is compiled for the shapes of arrays, which takes seconds, and kept: `minimize`
        then goes through few sizes of stacks.
    padding : callable
        ``padding(X, n)``: how many rows to add to n rows like those of X, to weigh nothing. Where
        code is compiled anew for every number of rows, few numbers serve all.
    near : callable
        ``near(x)``: an array that comes from the user, or goes to them, on the host instead, if
        operations on it would be compiled for its shape and it is there already, or small.
    block_bytes : int
        Working set of one block of rows in a full pass.
    free_columns : int
        Columns of scores that a pass computes for about the price of one.
    free_memory : callable
        Bytes that can still be allocated, about.
    upload : callable
        ``upload(X, pieces)`` yields rows of a host array, on the device or to be moved there,
        reading ahead; see `read_ahead`. Each piece may be overwritten once the next is asked for.
    out_of_memory : callable
        Whether an exception says that memory ran out.
    release_memory : callable
        Gives the device memory back that is held for later use.
    synchronize : callable
        Waits for the device.
    compile : callable
        ``compile(function, *static)`` gives ``function`` with its static arguments bound.
    each : callable
        ``each(function, items)`` yields ``function(item)`` of each, in order; computed by more
        than one thread where that pays.
    products : callable
        ``products(flops)`` gives a context for matrix products of so many operations each.
    double_precision : callable
        Gives a context in which float64 works on this backend.
    tensor_cores : bool
        Whether `matmul_precision` has a choice here.
    kernels : mapping
        Accelerated kernels by (loss type, operation). Each is called with the loss first:
        ``value_and_grad`` then as its method, ``sgd`` as ``fold``, with an epoch of `SGD`.

    Examples
    --------
    >>> from xplinear.backends import get_backend
    >>> get_backend("numpy").name
    'numpy'
    """

    name: str
    xp: Namespace
    device: Any
    move: Callable[[Any], Array]
    fetch: Callable[[Array], np.ndarray[Any, Any]]
    fold: Callable[[Epoch], Any] = fold_in_python
    refuses: Callable[[Array], str | None] = lambda x: None
    traced: Callable[[Array], bool] = lambda x: False
    settings: Callable[[bool], AbstractContextManager[Any]] = nullcontext
    plain_fold: Callable[[Epoch], Any] | None = None
    compiles: bool = False
    padding: Callable[[Array, int], int] = lambda X, n: 0
    near: Callable[[Array], Array] = lambda x: x
    block_bytes: int = 16 * 2**20
    free_columns: int = 1
    free_memory: Callable[[], int] = free_host_memory
    upload: Callable[[HostArray, Sequence[Rows]], Generator[Any]] = read_ahead
    out_of_memory: Callable[[BaseException], bool] = is_memory_error
    release_memory: Callable[[], None] = lambda: None
    synchronize: Callable[[], None] = lambda: None
    compile: Callable[..., Callable[..., Any]] = partial
    each: Callable[[Callable[[Any], Any], Iterator[Any]], Iterator[Any]] = map
    products: Callable[[float], AbstractContextManager[Any]] = nullcontext
    double_precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    tensor_cores: bool = False
    kernels: Mapping[tuple[type, str], Callable[..., Any]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name: modules and functions cannot be pickled."""
        from xplinear.backends import get_backend

        return get_backend, (self.name,)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return ``x`` on this backend, converted to ``dtype`` if given."""
        array = self.move(x)
        return array if dtype is None else self.xp.astype(array, dtype, copy=False)

    def kind(self, dtype: Any) -> dict[str, Any]:
        """Return the keywords every creation function is given: dtype and device."""
        return {"dtype": dtype, "device": self.device}

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        """Return ``x`` as a NumPy array: the one counted door to the host."""
        host_reads.count += 1
        return self.fetch(x)

    @contextmanager
    def undisturbed(self, *, gradients: bool = False) -> Generator[None]:
        """Compute as if nobody had changed the settings of NumPy and of the library."""
        # BLAS kernels raise "invalid" on finite operands too (numpy#24067).
        as_ever = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "ignore"}
        quiet = {kind: "ignore" for kind, how in np.geterr().items() if how == "ignore"}
        with np.errstate(**cast(Any, as_ever | quiet)), self.settings(gradients):
            yield

    def kernel(self, loss: Loss, operation: str) -> Callable[..., Any] | None:
        """Return the kernel of an operation, given its loss; None leaves it to the reference."""
        plain = loss.loss if isinstance(loss, AcceleratedLoss) else loss
        kernel = self.kernels.get((type(plain), operation))
        return None if kernel is None else partial(kernel, plain)

    def accelerated(self, loss: Loss) -> Loss:
        """Return ``loss`` on this backend's own kernel where there is one, else itself."""
        kernel = self.kernels.get((type(loss), "value_and_grad"))
        return loss if kernel is None else cast(Loss, AcceleratedLoss(loss, kernel))

    def reference(self) -> Backend:
        """Return this backend without its accelerated kernels."""
        return replace(self, kernels=MappingProxyType({}), fold=self.plain_fold or self.fold)


def undisturbed(
    find: Callable[..., Backend],
) -> Callable[[Callable[_Arguments, _Returned]], Callable[_Arguments, _Returned]]:
    """Decorate a function that computes as if nobody had changed a library's settings.

    ``find`` gives the backend of a call, from the same arguments; see `Backend.undisturbed`.
    """

    def decorate(function: Callable[_Arguments, _Returned]) -> Callable[_Arguments, _Returned]:
        @wraps(function)
        def call(*args: _Arguments.args, **settings: _Arguments.kwargs) -> _Returned:
            with find(*args, **settings).undisturbed():
                return function(*args, **settings)

        return call

    return decorate
