"""PyTorch: CPU, CUDA and MPS tensors; on CUDA an epoch replays captured mini-batches."""

from __future__ import annotations

import ctypes
import gc
import threading
import warnings
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from threading import Lock
from typing import Any, NamedTuple
from weakref import ref

import array_api_compat.torch as xp
import numpy as np
import torch
from scipy.sparse import coo_array, csc_array, csr_array

from xplinear.backends.base import (
    GPU_COLUMNS,
    Backend,
    BackendError,
    gpu_block_bytes,
    is_memory_error,
    native,
    write_in_place,
)
from xplinear.backends.csr import CSR, Library, Pattern, csr
from xplinear.backends.epoch import Epoch, fold_in_python
from xplinear.backends.precision import in_precision
from xplinear.backends.sparse import canonical
from xplinear.backends.threads import Setting, Threads, renewed_in_children
from xplinear.backends.transfer import upload_ahead
from xplinear.losses import LOSSES, Loss
from xplinear.namespace import HostArray

__all__ = ["describe", "follow", "select"]

_TOGETHER, _TOGETHER_BYTES = 8, 2**26  # in a recording: mini-batches, and their rows
_MOST_KEPT = 4  # epochs: one fit has one, or one for each size of its stack
# Of the host, of the device or that can be pinned, for a library.
_OUT_OF_MEMORY = "DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED"
# Dtypes that torch stores, and hardly computes with.
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_SPARSE = torch.sparse_csr, torch.sparse_csc, torch.sparse_coo
_one_capture = Lock()  # at a time in a process, CUDA demands

_Capture = Callable[[Callable[[], None]], Callable[[], None]]


def _tensors(part: Any) -> list[torch.Tensor]:
    """Return the tensors in nested tuples."""
    if isinstance(part, tuple):
        return [tensor for a in part for tensor in _tensors(a)]
    return [part] if isinstance(part, torch.Tensor) else []


def _copied(part: Any) -> Any:
    """Return nested tuples with every tensor copied."""
    if isinstance(part, tuple):
        copies = [_copied(a) for a in part]
        return type(part)(*copies) if hasattr(part, "_fields") else tuple(copies)
    return part.clone() if isinstance(part, torch.Tensor) else part


def _layout(part: Any) -> Any:
    """Return nested tuples with the shape and the dtype of a tensor in its place."""
    if isinstance(part, tuple):
        return type(part), *map(_layout, part)
    return (part.shape, part.dtype) if isinstance(part, torch.Tensor) else part


def _place(part: Any) -> Any:
    """Return nested tuples with what a recording knows of a tensor in its place."""
    if isinstance(part, tuple):
        return type(part), *map(_place, part)
    if not isinstance(part, torch.Tensor):
        return part
    return part.data_ptr(), part.shape, part.stride(), part.dtype, part.device


def _foreach(operation: str) -> Callable[..., Any]:
    """Return an operation on lists of tensors: one launch for all; torch calls it private."""
    return getattr(torch, f"_foreach_{operation}")


def _write(old: Any, new: Any) -> None:
    """Copy nested tuples of tensors to others."""
    pairs = zip(_tensors(old), _tensors(new), strict=True)
    changed = [pair for pair in pairs if pair[0] is not pair[1]]
    if changed:
        into, values = map(list, zip(*changed, strict=True))
        _foreach("copy_")(into, values)


class _Recording(NamedTuple):
    """Mini-batches that are repeated, and where they find the numbers of their rows and factors."""

    replay: Callable[[], None]
    order: torch.Tensor
    schedule: Any


class _Recordings(NamedTuple):
    """Those of epochs alike, by how many mini-batches they make, and of how many rows."""

    labels: ref[torch.Tensor]  # those of a fit: when it ends, nobody needs the recordings
    memory: list[tuple[Any, Any]]  # one carry and its constants, once there are any
    made: dict[tuple[int, int], _Recording | None]  # None after a first time, not recorded


_Kept = dict[Hashable, _Recordings]


def _recordings(kept: _Kept, epoch: Epoch) -> _Recordings:
    """Return those of such an epoch, whose rows are where those of this one are."""
    tf32 = getattr(torch.backends.cuda.matmul, _tf32_setting())
    there = _place((epoch.rows, epoch.shared._replace(constants=None)))
    values = _layout((epoch.carry, epoch.shared.constants))
    key = epoch.minibatch, epoch.update, epoch.size, tf32, there, values
    found = kept.pop(key, None)
    if found is None:
        found = _Recordings(ref(epoch.rows[1], lambda _: kept.pop(key, None)), [], {})
    kept[key] = found
    for old in [*kept][:-_MOST_KEPT]:
        kept.pop(old, None)
    return found


def _parted(epoch: Epoch, batches: int) -> tuple[Epoch, Epoch]:
    """Return the first whole batches of an epoch, and the others."""
    rows, (order, schedule) = batches * epoch.size, (epoch.order, epoch.schedule)
    first = epoch._replace(order=order[:rows], schedule=schedule[:batches])
    return first, epoch._replace(order=order[rows:], schedule=schedule[batches:])


def _fold_in_place(epoch: Epoch) -> None:
    """Update the carry by all batches of an epoch, which are whole."""
    size, carry = epoch.size, epoch.carry
    rows = [None if a is None else torch.index_select(a, 0, epoch.order) for a in epoch.rows]
    for i, factor in enumerate(epoch.schedule):
        at = slice(i * size, (i + 1) * size)
        carry = epoch.step(carry, tuple(None if a is None else a[at] for a in rows), factor)
    _write(epoch.carry, carry)


def _repeat(capture: _Capture, recordings: _Recordings, epoch: Epoch) -> None:
    """Update as `_fold_in_place` does; what comes a second time is recorded.

    In their first calls libraries set themselves up, which cannot be.
    """
    made, key = recordings.made, (len(epoch.schedule), epoch.size)
    if key not in made:
        made[key] = None
        return _fold_in_place(epoch)
    found = made[key]
    if found is None:
        own = epoch._replace(order=_copied(epoch.order), schedule=_copied(epoch.schedule))
        found = _Recording(capture(partial(_fold_in_place, own)), own.order, own.schedule)
        made[key] = found
    _write((found.order, found.schedule), (epoch.order, epoch.schedule))
    return found.replay()


def _fold_by(capture: _Capture, kept: _Kept, epoch: Epoch) -> Any:
    """Fold as `fold_in_python` does, by replays of captured mini-batches.

    ``capture`` records the work of a function and returns what repeats it. A recording knows
    addresses, not values: it serves all epochs whose rows are where they were. ``kept`` has those
    of the last epochs.
    """
    size, values = epoch.size, (epoch.carry, epoch.shared.constants)
    recordings = _recordings(kept, epoch)
    if not recordings.memory:
        recordings.memory.append(_copied(values))
    carry, constants = memory = recordings.memory[0]
    _write(memory, values)
    dtype, device = _tensors(carry)[0].dtype, epoch.order.device
    epoch = epoch._replace(
        carry=carry,
        shared=epoch.shared._replace(constants=constants),
        schedule=torch.asarray(epoch.schedule, dtype=dtype, device=device),
    )
    together = _TOGETHER_BYTES // max(1, size * epoch.rows[0][0].nbytes)
    for count in (max(1, min(_TOGETHER, together)), 1):
        while len(epoch.order) >= count * size:
            first, epoch = _parted(epoch, count)
            _repeat(capture, recordings, first)
    if len(epoch.order):  # the last batch is incomplete
        _repeat(capture, recordings, epoch._replace(size=len(epoch.order)))
    return _copied(carry)  # the caller's is not the next epoch's


def _columns_first(part: Any) -> Any:
    """Return nested tuples with every weight ``(p, m, c)`` in the order of its gradient."""
    if isinstance(part, tuple):
        parts = [_columns_first(a) for a in part]
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
    return part.permute(1, 2, 0).contiguous().permute(2, 0, 1) if part.ndim == 3 else part


def _update(rule: Any, xp: Any, carry: Any, batch: Any, factor: Any, steps: Any) -> Any:
    """Make one mini-batch update of SGD in place: each launch costs more than it computes.

    X is centred in place of W's scores and gradient; weights and intercepts go together.
    """
    params, velocity, total, seen = carry
    (W, b), (p, m, c) = params, params.W.shape
    X = batch.rows.dense() - steps.centre.T
    Z = torch.addmm(b.reshape(-1), X, W.reshape(p, m * c)).reshape(-1, m, c)
    value, G = rule.loss.value_and_grad(Z, batch.y, xp=xp)
    if batch.s is not None:
        value, G = value * batch.s, G * batch.s[..., None]
    gradient = (G.reshape(-1, m * c).T @ X).T.reshape(p, m, c), G.sum(0)
    step, share = _foreach("mul")((steps.weights, steps.intercept), factor), -1.0 / batch.count
    _foreach("mul_")(velocity, rule.momentum)
    _foreach("addcmul_")(velocity, gradient, step, share)
    if rule.nesterov:
        _foreach("add_")(params, velocity, alpha=rule.momentum)
        _foreach("addcmul_")(params, gradient, step, share)
    else:
        _foreach("add_")(params, velocity)
    params = params._replace(W=rule.penalty.prox(W, factor * steps.penalty, xp=xp))
    if rule.average:
        _foreach("add_")(total, params)
    seen.add_(value.sum(0))
    return params, velocity, total, seen


def _sgd(fold: Callable[[Epoch], Any], loss: Loss, epoch: Epoch) -> Any:
    """Fold SGD's update over the mini-batches of an epoch, by a fold that owns the carry."""
    del loss  # it is in the rule
    steps, shared, standard = epoch.shared.constants, epoch.shared, epoch.shared.standard
    own = steps.centre.shape[1] > 1 or (standard is not None and standard.centre.ndim > 1)
    if own or epoch.carry[0].W.shape[2] == 1:  # rows of each model's own; one column for two
        return fold(epoch)
    carry, steps = _columns_first((epoch.carry, steps))
    update, shared = epoch.update._replace(function=_update), shared._replace(constants=steps)
    return fold(epoch._replace(update=update, shared=shared, carry=carry))


@cache  # cuBLAS keeps a workspace for every stream; new streams are old ones again after 32
def _stream(device: torch.device, _purpose: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _captured(stream: torch.cuda.Stream, function: Callable[[], None]) -> Callable[[], None]:
    """Return a graph of the function's work; what cannot be captured is called as it is.

    A loss or a penalty of the user's own may ask for a value, and memory may run out.
    """
    graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.disable()  # it might free another graph, which is no part of this one
    try:
        # Other threads may go on using CUDA meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            function()
    except RuntimeError:
        return function
    finally:
        if collects:
            gc.enable()
    return graph.replay


@cache
def _kept(_device: torch.device) -> _Kept:
    return {}


def _fold_on(device: torch.device, epoch: Epoch) -> Any:
    """Fold by a CUDA graph, on a stream of its own: the default one cannot be captured."""
    try:
        hash(epoch.update)
    except TypeError:  # a loss or a penalty of the user's own, which may change
        return fold_in_python(epoch._replace(carry=_copied(epoch.carry)))
    with _one_capture, torch.cuda.device(device):
        outer, stream = torch.cuda.current_stream(), _stream(device, "capture")
        stream.wait_stream(outer)
        try:
            with torch.cuda.stream(stream):
                carry = _fold_by(partial(_captured, stream), _kept(device), epoch)
            for tensor in _tensors(carry):  # its memory is not the stream's before this one is done
                tensor.record_stream(outer)
            return carry
        finally:
            outer.wait_stream(stream)  # after an error too: what was queued reads the arrays


@cache
def _of_a_thread() -> list[Setting]:
    """Return what `torch.set_num_threads` changes in the calling thread.

    It also changes what threads to come will have, such as those of the user, for as long as they
    live: that is not for us to do.
    """
    file = torch._C.__file__  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    library = ctypes.CDLL(file)  # finds what it depends on too
    openmp: Any = getattr(library, "omp_set_num_threads", None)  # not on Windows
    mkl: Any = getattr(library, "MKL_Set_Num_Threads_Local", None)  # not on ARM

    def get_mkl() -> int:
        before = mkl(0)  # it returns what was; 0 is whatever OpenMP has
        mkl(before)
        return before

    if not openmp:
        return []
    # The number must be asked of torch: its first use in a thread sets it.
    return [Setting(torch.get_num_threads, openmp)] + ([Setting(get_mkl, mkl)] if mkl else [])


class _Threads(Threads, threading.local):
    """Those of torch: each of its users' threads has settings of its own."""


_threads = renewed_in_children(_Threads(_of_a_thread))


def _each(
    function: Callable[[Any], Any], items: Iterator[Any], at_once: bool = False
) -> Iterator[Any]:
    """Compute in several threads, unless somebody may follow what is done in this one."""
    if torch.is_grad_enabled() or _tracing():
        return map(function, items)
    return _threads.each(torch.no_grad()(function), items, at_once=at_once)


def _fold_on_cpu(epoch: Epoch) -> Any:
    numbers = max(part.numel() for part in _tensors(epoch.carry))
    with _threads.products(2.0 * epoch.size * numbers):
        return fold_in_python(epoch)


def _tf32_setting() -> str:
    new = hasattr(torch.backends.cuda.matmul, "fp32_precision")  # since torch 2.9
    return "fp32_precision" if new else "allow_tf32"  # reading both would be an error


@contextmanager
def _products(tf32: bool) -> Generator[None]:
    """Multiply float32 matrices in TF32, or not; the user's own setting comes back."""
    matmul, name = torch.backends.cuda.matmul, _tf32_setting()
    value = tf32 if name == "allow_tf32" else "tf32" if tf32 else "ieee"
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        setattr(matmul, name, before)


def _sparse_csr(
    values: torch.Tensor, indices: torch.Tensor, starts: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    # Invariants are checked where a matrix comes in.
    return torch.sparse_csr_tensor(starts, indices, values, size=shape, check_invariants=False)


@cache
def _hushed() -> None:
    """Let torch say now, and once, what it says of sparse tensors: it is for us, not for users."""
    none = torch.zeros(1, dtype=torch.int32)
    with warnings.catch_warnings(action="ignore"):
        _sparse_csr(none, none, torch.arange(2, dtype=torch.int32), (1, 1))


def _multiply(values: torch.Tensor, pattern: Pattern) -> Callable[[torch.Tensor], torch.Tensor]:
    return partial(
        torch.matmul, _sparse_csr(values, pattern.indices, pattern.starts, pattern.shape)
    )


def _owners(starts: torch.Tensor, total: int) -> torch.Tensor:
    rows = torch.arange(len(starts) - 1, dtype=starts.dtype, device=starts.device)
    # Without its size the host would have to wait for it.
    return torch.repeat_interleave(rows, starts[1:] - starts[:-1], output_size=total)


def _starts(owners: torch.Tensor, rows: int) -> torch.Tensor:
    counts = torch.zeros(rows + 1, dtype=owners.dtype, device=owners.device)
    counts.index_add_(0, owners + 1, torch.ones_like(owners))
    return torch.cumsum(counts, 0, dtype=counts.dtype)


def _sparse(move: Callable[[Any], torch.Tensor], X: Any) -> CSR:
    _hushed()
    library = Library(xp, move, _fetch, _multiply, lambda D: D, _owners, _starts)
    return csr(canonical(X), library)


def _kernels(sgd: Callable[..., Any]) -> dict[tuple[type, str], Callable[..., Any]]:
    return {(loss, "sgd"): sgd for loss in LOSSES.values()}


@cache
def _on(device: torch.device) -> Backend:
    def move(x: Any) -> torch.Tensor:
        if isinstance(x, torch.Tensor):
            return _widened(x.to(device))
        array = native(x)
        if array.dtype.name == "bfloat16":  # of ml_dtypes: torch reads its bits only
            return move(array.view(np.int16)).view(torch.bfloat16)
        # torch shares memory with NumPy but has neither read-only nor negatively strided tensors.
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        return _widened(torch.from_numpy(array).to(device))

    kind = device.type
    products = _products if kind == "cuda" else partial(_without_autocast, kind)
    plain = fold = in_precision(products, _fold_on_cpu if kind == "cpu" else fold_in_python)
    own: dict[str, Any] = {"block_bytes": 256 * 2**20, "free_columns": GPU_COLUMNS}
    if kind == "cpu":
        own = {"block_bytes": 16 * 2**20, "each": _each, "products": _threads.products}
    elif kind == "cuda":
        captured = partial(_fold_on, device)
        fold = in_precision(products, captured)
        own |= {
            "tensor_cores": True,
            "block_bytes": gpu_block_bytes(torch.cuda.get_device_properties(device).total_memory),
            "kernels": _kernels(in_precision(products, _sgd, captured)),
            "free_memory": partial(_free_gpu_memory, device),
            "own_memory": True,
            "upload": partial(upload_ahead, copier=partial(_Copies, device)),
            "release_memory": partial(_release_memory, device),
            "synchronize": partial(torch.cuda.synchronize, device),
        }
    elif kind == "mps":
        own["synchronize"] = torch.mps.synchronize
    if kind != "mps":  # which has no such products
        own["sparse"] = partial(_sparse, move)
    return Backend(
        name="torch" if kind == "cpu" else f"torch:{device}",
        xp=xp,
        device=device,
        move=move,
        fetch=_fetch,
        is_sparse=_is_sparse,
        refuses=_refuses,
        traced=_traced,
        settings=partial(_settings, kind),
        compile=partial(in_precision, products),
        write=write_in_place,
        fold=fold,
        plain_fold=plain,
        out_of_memory=partial(is_memory_error, said=_OUT_OF_MEMORY),
        **own,
    )


class _Copies:
    """The `Copier` of a CUDA device."""

    def __init__(self, device: torch.device, shape: tuple[int, ...], dtype: Any) -> None:
        self._compute = torch.cuda.current_stream(device)
        self._stream = _stream(device, "copy")
        self._dtype, self._bits = dtype, dtype.name == "bfloat16"  # torch reads its bits only
        kind = torch.from_numpy(np.empty(0, np.int16 if self._bits else dtype)).dtype
        pinned = partial(torch.empty, device="cpu", pin_memory=True)
        self._pinned = [pinned(shape, dtype=kind) for _ in range(2)]
        self._buffers = [torch.empty(shape, dtype=kind, device=device) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)]

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(self._compute)
        return event

    def pinned(self, slot: int) -> HostArray:
        self._copied[slot].synchronize()
        return self._pinned[slot].numpy().view(self._dtype)

    def copy(self, slot: int, rows: int, free: torch.cuda.Event) -> torch.Tensor:
        there = self._buffers[slot][:rows]
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(free)
            there.copy_(self._pinned[slot][:rows], non_blocking=True)
            self._copied[slot].record(self._stream)
        return there.view(torch.bfloat16) if self._bits else there

    def await_copy(self, slot: int) -> None:
        self._compute.wait_event(self._copied[slot])

    def finish(self) -> None:
        self._stream.synchronize()


def _free_gpu_memory(device: torch.device) -> int:
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def _release_memory(device: torch.device) -> None:
    with _one_capture:  # of another thread: torch cannot release anything meanwhile
        _kept(device).clear()
        torch.cuda.empty_cache()


def _is_sparse(x: torch.Tensor) -> bool:
    return x.layout != torch.strided


def _fetch(x: torch.Tensor) -> Any:
    if _is_sparse(x):
        return _matrix_on_host(x.detach())
    x = x.detach().cpu().resolve_conj().resolve_neg()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no bfloat16


def _matrix_on_host(x: torch.Tensor) -> Any:
    """Return a sparse tensor as a matrix of SciPy, of the same layout."""
    if x.layout == torch.sparse_coo:
        x = x.coalesce()
        places = tuple(map(_fetch, x.indices()))
        return coo_array((_fetch(x.values()), places), shape=tuple(x.shape))
    rows = x.layout == torch.sparse_csr
    parts = (x.col_indices(), x.crow_indices()) if rows else (x.row_indices(), x.ccol_indices())
    kind = csr_array if rows else csc_array
    return kind((_fetch(x.values()), *map(_fetch, parts)), shape=tuple(x.shape))


def _widened(x: torch.Tensor) -> torch.Tensor:
    """Return unsigned integers in a dtype that torch computes with."""
    if x.dtype not in _WIDER:
        return x
    wider = x.to(_WIDER[x.dtype])
    return x.to(torch.float64) if x.dtype == torch.uint64 and bool((wider < 0).any()) else wider


def _refuses(x: torch.Tensor) -> str | None:
    if _wrapped(x):
        return "is traced by torch.func: it has no values; fit outside"
    if x.is_nested:
        return "is a nested tensor; give one with a row per sample: torch.nested.to_padded_tensor"
    if _is_sparse(x) and (x.layout not in _SPARSE or x.ndim != 2 or x.dense_dim()):
        return (
            f"is a sparse tensor of layout {x.layout} and shape {tuple(x.shape)}; give one of two "
            "axes: x.to_dense().to_sparse_csr(), say"
        )
    if x.is_quantized:
        return "is quantized; give its values: dequantize()"
    if x.device.type == "meta":
        return "is on the device 'meta', which keeps no values; give one that has them"
    return None


def _tracing() -> bool:
    level = torch._C._functorch.peek_interpreter_stack()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return torch.compiler.is_compiling() or level is not None


_wrapped: Callable[[torch.Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def _traced(x: torch.Tensor) -> bool:
    return torch.compiler.is_compiling() or (isinstance(x, torch.Tensor) and _wrapped(x))


# TF32 concerns a GPU alone: see `_products`.
def _without_autocast(kind: str, _tf32: bool = False) -> AbstractContextManager[Any]:
    """Compute in the dtypes that are given."""
    autocasts = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if autocasts else nullcontext()


@contextmanager
def _settings(kind: str, gradients: bool) -> Generator[None]:
    # What is made in inference mode can never be part of a gradient, such as that of X.
    made = nullcontext() if gradients else torch.inference_mode(mode=False)
    with _without_autocast(kind), made, nullcontext() if gradients else torch.no_grad():
        yield


def select(device: str) -> Backend:
    """Return the backend on ``cpu`` (the default), ``cuda``, ``cuda:1``, ``mps`` ..."""
    try:
        # A tensor's device has its number, as in "cuda:0": the name `follow` gives.
        return _on(torch.empty(0, device=device or "cpu").device)
    except (RuntimeError, AssertionError) as error:
        msg = f"torch {torch.__version__} has no device {device!r} here ({error})"
        raise BackendError(msg) from error


def follow(x: torch.Tensor) -> Backend:
    """Return the backend on the device of ``x``."""
    return _on(x.device)


def describe() -> tuple[str, list[str]]:
    """Return version and devices."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return torch.__version__, ["cpu", *cuda, *mps]
