"""What a backend is, an array library on one device as plain functions, and which there are.

A new backend is one file with ``select``, ``follow`` and ``describe``, plus one line in
``BACKENDS``; the library it wraps is imported there and nowhere else.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import numpy as np

from xplinear.arguments import TEXT, instance
from xplinear.backends.epoch import Epoch, fold_in_python
from xplinear.backends.sparse import SparseMatrix
from xplinear.backends.transfer import RowIndices, Slices, read_ahead
from xplinear.losses import Loss
from xplinear.namespace import (
    Array,
    HostArray,
    Namespace,
    array_namespace,
    device,
    is_array,
    name_of,
    widest,
)

__all__ = [
    "BACKENDS",
    "GPU_COLUMNS",
    "AcceleratedLoss",
    "Backend",
    "BackendError",
    "backend_of",
    "fetched",
    "free_host_memory",
    "get_backend",
    "gpu_block_bytes",
    "host_reads",
    "is_memory_error",
    "module_of",
    "native",
    "undisturbed",
    "write_in_place",
    "written",
]

_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")


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


class _HostReads:
    """Counts the transfers from a device to the host, so that tests can bound them."""

    count = 0


host_reads = _HostReads()
GPU_COLUMNS = 512  # 30 to 45 models of ten classes cost a GPU about as much as one


def gpu_block_bytes(memory: int) -> int:
    """Return `Backend.block_bytes` of a GPU with so many bytes of memory.

    Blocks of 1 GB take a tenth less time than of 256 MB, larger ones hardly less. They do not
    depend on how much is free: the same fit twice adds up in the same order.

    Examples
    --------
    >>> [gpu_block_bytes(gigabytes * 2**30) // 2**20 for gigabytes in (8, 80)]
    [256, 1024]
    """
    return min(2**30, memory // 32)


def is_memory_error(error: BaseException, said: Sequence[str] = ()) -> bool:
    """Return whether memory ran out: a MemoryError, or a RuntimeError that says so in these words.

    Examples
    --------
    >>> is_memory_error(RuntimeError("CUDA error: out of memory"), said=["out of memory"])
    True
    """
    spoke = isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    return spoke or isinstance(error, MemoryError)


def written(ring: Array, slot: Array, rows: Array) -> Array:
    """Return what `Backend.write` does, in new memory."""
    xp = array_namespace(ring)
    at = xp.arange(ring.shape[1], dtype=slot.dtype, device=device(ring)) == slot[:, None]
    return xp.where(at[:, :, None], rows[:, None, :], ring)


def write_in_place(ring: Array, slot: Array, rows: Array) -> Array:
    """Return what `Backend.write` does, in the memory of ``ring``."""
    models = array_namespace(ring).arange(ring.shape[0], dtype=slot.dtype, device=device(ring))
    ring[models, slot] = rows
    return ring


def _no_sparse(_: Any) -> SparseMatrix:
    msg = (
        "X is sparse, and this backend has no products of sparse matrices; use backend='numpy', "
        "'torch' or 'cupy', or X.toarray() where that is small"
    )
    raise BackendError(msg)


class _Entry(NamedTuple):
    roots: tuple[str, ...]  # top-level modules whose arrays belong to the backend
    install: str


BACKENDS: dict[str, _Entry] = {
    "numpy": _Entry(("numpy",), "pip install numpy"),
    "cupy": _Entry(("cupy", "cupyx"), "pip install 'xplinear[cuda13]' (or [cuda12])"),
    "torch": _Entry(("torch",), "pip install 'xplinear[torch]'"),
    "jax": _Entry(("jax", "jaxlib"), "pip install 'xplinear[jax]'"),
    "array_api_strict": _Entry(("array_api_strict",), "pip install array-api-strict"),
}


@dataclass(frozen=True)
class AcceleratedLoss:
    """A loss whose value and gradient come from a backend's own kernel."""

    loss: Loss
    kernel: Callable[..., tuple[Array, Array]] = field(repr=False)

    def value_and_grad(self, Z: Array, y: Array, *, xp: Namespace = None) -> tuple[Array, Array]:
        """Return what the loss does, by the kernel."""
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
        ``fetch(x) -> numpy.ndarray``; of a sparse matrix, one of SciPy.
    is_sparse : callable
        Whether something of this library is a sparse matrix.
    refuses : callable
        What is wrong with an array of this library whose values cannot be had, and what to do;
        None where they can.
    traced : callable
        Whether an array stands for values that are not known yet, as inside ``jax.jit``.
    settings : callable
        ``settings(gradients)`` gives a context in which the library computes as if nobody had
        changed its settings, and records nothing for gradients unless asked.
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
    own_memory : bool
        Whether the device has memory of its own, beside the host's.
    upload : callable
        ``upload(X, pieces)`` yields rows of a host array, or of a file, on the device or to be
        moved there, reading ahead; see `read_ahead`. Each piece may be overwritten once the next
        is asked for.
    out_of_memory : callable
        Whether an exception says that memory ran out.
    release_memory : callable
        Gives the device memory back that is held for later use.
    synchronize : callable
        Waits for the device.
    compile : callable
        ``compile(function, *static)`` gives ``function`` with its static arguments bound.
    loop : callable, optional
        What `repeat` does, where the library has loops of its own.
    over : callable
        Whether all of an array is True, as far as that can be known without waiting.
    write : callable
        ``write(ring, slot, rows)`` gives the ``ring (m, r, d)`` with ``rows (m, d)`` in its places
        ``slot (m,)``, one in each model. That may be the memory it was given: these places must
        not be read there any more, all others stay as they are.
    plain_compile : callable, optional
        That of `reference`, where ``compile`` has its own way to compute.
    warm : callable
        Compiles ahead what does not depend on the shapes of arrays, and returns the folder where
        compiled code is kept for other processes; None where there is none.
    each : callable
        ``each(function, items, at_once=)`` yields ``function(item)`` of each, in order; computed
        by more than one thread where that pays, ``at_once`` where it is known to.
    products : callable
        ``products(flops)`` gives a context for matrix products of so many operations each.
    widened : callable
        ``widened(x, dtype)``: ``x`` in a wider dtype, where there is a faster way than the
        library's own; else None.
    double_precision : callable
        Gives a context in which float64 works on this backend.
    tensor_cores : bool
        Whether `matmul_precision` has a choice here.
    kernels : mapping
        Accelerated kernels by (loss type, operation). Each is called with the loss first:
        ``value_and_grad`` then as its method, ``sgd`` as ``fold``, with an epoch of `SGD`,
        ``loss_and_grad`` with a block as it is stored, what its models share, and parameters:
        it returns summed losses and gradients, or None.
    sparse : callable
        ``sparse(X)`` gives the compressed rows of a sparse matrix of SciPy on the device.
    accelerates : bool
        Whether it is not the `reference` of another.

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
    fetch: Callable[[Array], HostArray]
    fold: Callable[[Epoch], Any] = fold_in_python
    is_sparse: Callable[[Any], bool] = lambda x: False
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
    own_memory: bool = False
    upload: Callable[[HostArray | Slices, Sequence[RowIndices]], Generator[Any]] = read_ahead
    out_of_memory: Callable[[BaseException], bool] = is_memory_error
    release_memory: Callable[[], None] = lambda: None
    synchronize: Callable[[], None] = lambda: None
    compile: Callable[..., Callable[..., Any]] = partial
    write: Callable[[Array, Array, Array], Array] = written
    plain_compile: Callable[..., Callable[..., Any]] | None = None
    warm: Callable[[], str | None] = lambda: None
    loop: Callable[..., Callable[..., Any]] | None = None
    over: Callable[[Array], bool] = lambda x: False
    each: Callable[..., Iterator[Any]] = lambda function, items, at_once=False: map(function, items)
    products: Callable[[float], AbstractContextManager[Any]] = nullcontext
    widened: Callable[[Array, Any], Array | None] = lambda x, dtype: None
    double_precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    tensor_cores: bool = False
    kernels: Mapping[tuple[type, str], Callable[..., Any]] = field(default_factory=dict)
    sparse: Callable[[Any], SparseMatrix] = _no_sparse
    accelerates: bool = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name: modules and functions cannot be pickled."""
        return _unpickled, (self.name, self.accelerates)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return ``x`` on this backend, converted to ``dtype`` if given.

        It is converted where it is: the device may not hold what it was. Where the device has no
        float64, that becomes float32.
        """
        own = backend_of(x)
        if own.name != self.name:
            x = own.move(x)  # of a list, an array
            if dtype is None and name_of(x.dtype) == "float64":
                dtype = widest(self.device, xp=self.xp)
            there = None if dtype is None else getattr(own.xp, name_of(dtype), None)
            x = x if there is None else own.xp.astype(x, there, copy=False)
        array = self.move(x)
        return array if dtype is None else self.xp.astype(array, dtype, copy=False)

    def astype(self, x: Array, dtype: Any) -> Array:
        """Return an array of this backend in a dtype; itself where it is in that."""
        wide = self.widened(x, dtype)
        return self.xp.astype(x, dtype, copy=False) if wide is None else wide

    def kind(self, dtype: Any) -> dict[str, Any]:
        """Return the keywords every creation function is given: dtype and device."""
        return {"dtype": dtype, "device": self.device}

    def to_host(self, x: Array) -> HostArray:
        """Return ``x`` as a NumPy array: the one counted door to the host."""
        host_reads.count += 1
        return self.fetch(x)

    @contextmanager
    def usual_settings(self, *, gradients: bool = False) -> Generator[None]:
        """Compute as if nobody had changed the settings of NumPy and of the library."""
        # BLAS kernels raise "invalid" on finite operands too (numpy#24067).
        as_ever = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "ignore"}
        quiet = {kind: "ignore" for kind, how in np.geterr().items() if how == "ignore"}
        with np.errstate(**cast(Any, as_ever | quiet)), self.settings(gradients):
            yield

    def repeat(self, function: Callable[..., Any], *static: Any) -> Callable[..., Any]:
        """Return ``(times, carry, *rest) -> carry``: so often ``carry = function(carry, *rest)``.

        The function is compiled as by ``compile``, once for all times. Models of the carry that
        say they are ``solved (m,)`` it must leave as they are: where it costs nothing to look,
        the repetitions end when all are.
        """
        if self.loop is not None:
            return self.loop(function, *static)
        once = self.compile(function, *static)

        def repeated(times: int, carry: Any, *rest: Any) -> Any:
            for _ in range(times):
                carry = once(carry, *rest)
                if self.over(carry.solved):
                    break
            return carry

        return repeated

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
        plain = {
            "fold": self.plain_fold or self.fold,
            "compile": self.plain_compile or self.compile,
            "widened": lambda x, dtype: None,
        }
        return replace(self, kernels={}, accelerates=False, **plain)

    def accelerating(self, accelerate: bool) -> Backend:
        """Return this backend, but its reference if so chosen, here or by the environment."""
        off = not accelerate or os.environ.get("XPLINEAR_ACCELERATE") == "0"
        return self.reference() if off else self


_MATRICES = "cupyx.scipy.sparse", "jax.experimental.sparse"  # that are no arrays
_BACKEND = TEXT | instance(Backend, "a Backend")


def module_of(name: str) -> Any:
    """Return the file of a backend by the backend's name."""
    library = name.partition(":")[0]
    if library not in BACKENDS or name.endswith(":"):
        msg = f"unknown backend {name!r}; choose from auto, {', '.join(BACKENDS)}"
        raise ValueError(msg)
    try:
        return importlib.import_module(f"xplinear.backends.{library}")
    except ImportError as error:
        msg = f"backend {name!r} cannot be used: {error}. {BACKENDS[library].install}"
        raise BackendError(msg) from error


def get_backend(name: str | Backend = "auto") -> Backend:
    """Return a backend by name, ready to use.

    Parameters
    ----------
    name : str or Backend
        ``auto``, ``numpy``, ``cupy``, ``cupy:1``, ``torch``, ``torch:cuda:0``, ``jax``,
        ``jax:cpu``, ``array_api_strict``. ``auto`` is a CUDA device where one works, else NumPy.

    Raises
    ------
    ValueError
        If the name is unknown.
    BackendError
        If the backend cannot be used: not installed, no driver, no such device.

    Examples
    --------
    >>> get_backend("numpy").name
    'numpy'
    """
    _BACKEND("backend", name)
    if isinstance(name, Backend):
        return name
    if name == "auto":
        try:
            return get_backend("cupy")
        except BackendError:
            return get_backend("numpy")
    module = module_of(name)
    try:
        return module.select(name.partition(":")[2])
    except BackendError as error:
        msg = f"backend {name!r} cannot be used: {error}"
        raise BackendError(msg) from error


def backend_of(x: Any) -> Backend:
    """Return the backend an array lives on; anything that is no array lives on NumPy.

    Examples
    --------
    >>> backend_of([[1.0, 2.0]]).name
    'numpy'
    """
    if type(x) is np.ndarray:  # most are: predictions of one row take microseconds
        return module_of("numpy").follow(x)
    if is_array(x) or type(x).__module__.startswith(_MATRICES):
        roots = {kind.__module__.partition(".")[0] for kind in type(x).__mro__}
        for name, entry in BACKENDS.items():
            if not roots.isdisjoint(entry.roots):
                return module_of(name).follow(x)
    return get_backend("numpy")


def fetched(x: Any) -> HostArray:
    """Return an array of any library, or what NumPy can read, on the host."""
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


def _unpickled(name: str, accelerates: bool) -> Backend:
    backend = get_backend(name)
    return backend if accelerates else backend.reference()


def undisturbed(
    find: Callable[..., Backend],
) -> Callable[[Callable[_Arguments, _Returned]], Callable[_Arguments, _Returned]]:
    """Decorate a function that computes as if nobody had changed a library's settings.

    ``find`` gives the backend of a call, from the same arguments; see `Backend.usual_settings`.
    """

    def decorate(function: Callable[_Arguments, _Returned]) -> Callable[_Arguments, _Returned]:
        @wraps(function)
        def call(*args: _Arguments.args, **settings: _Arguments.kwargs) -> _Returned:
            with find(*args, **settings).usual_settings():
                return function(*args, **settings)

        return call

    return decorate
