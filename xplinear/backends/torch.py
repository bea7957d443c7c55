"""PyTorch: CPU, CUDA and MPS tensors; on CUDA an epoch replays one captured mini-batch."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from threading import Lock
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch

from xplinear.backends.base import (
    GPU_COLUMNS,
    Backend,
    BackendError,
    is_memory_error,
    native,
    write_in_place,
)
from xplinear.backends.epoch import Epoch, fold_in_python
from xplinear.backends.precision import in_precision
from xplinear.backends.threads import Setting, Threads, renewed_in_children
from xplinear.backends.transfer import upload_ahead
from xplinear.namespace import HostArray

__all__ = ["describe", "follow", "select"]

_WARM_UP = 3  # mini-batches before the capture: libraries set themselves up in their first calls
_WORTH_A_CAPTURE = 64  # mini-batches
# Of the host, of the device or that can be pinned, for a library.
_OUT_OF_MEMORY = "DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED"
# Dtypes that torch stores, and hardly computes with.
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
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


def _fold_by(capture: _Capture, epoch: Epoch) -> Any:
    """Fold as `fold_in_python` does, the whole batches by replays of one captured update.

    ``capture`` records the work of a function and returns what repeats it. A recording knows
    addresses, not values: the carry is updated in place, and a counter in device memory finds
    the batch.
    """
    order, schedule, size = epoch.order, epoch.schedule, epoch.size
    whole = order.shape[0] // size
    if whole < _WORTH_A_CAPTURE:
        return fold_in_python(epoch)
    first, last = _WARM_UP * size, whole * size
    # What the caller passed must not change; what warm-up passed on unchanged is the caller's.
    warm_up = epoch._replace(order=order[:first], schedule=schedule[:_WARM_UP])
    carry = _copied(fold_in_python(warm_up))
    batches = torch.reshape(order[first:last], (-1, size))
    device, dtype = order.device, _tensors(carry)[0].dtype
    factors = torch.asarray(schedule[_WARM_UP:whole], dtype=dtype, device=device)
    counter = torch.zeros(1, dtype=torch.int64, device=device)

    def step() -> None:
        index, factor = (torch.index_select(a, 0, counter)[0] for a in (batches, factors))
        rows = tuple(None if a is None else torch.index_select(a, 0, index) for a in epoch.rows)
        updated = epoch.step(carry, rows, factor)
        for old, new in zip(_tensors(carry), _tensors(updated), strict=True):
            old.copy_(new)
        counter.add_(1)

    replay = capture(step)
    for _ in range(whole - _WARM_UP):
        replay()
    rest = epoch._replace(carry=carry, order=order[last:], schedule=schedule[whole:])
    return fold_in_python(rest)


@cache  # cuBLAS keeps a workspace for every stream; new streams are old ones again after 32
def _stream(device: torch.device, _purpose: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _captured(stream: torch.cuda.Stream, function: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on using CUDA meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        function()
    return graph.replay


def _fold_on(device: torch.device, epoch: Epoch) -> Any:
    """Fold by a CUDA graph, on a stream of its own: the default one cannot be captured."""
    with _one_capture, torch.cuda.device(device):
        outer, stream = torch.cuda.current_stream(), _stream(device, "capture")
        stream.wait_stream(outer)
        try:
            with torch.cuda.stream(stream):
                return _fold_by(partial(_captured, stream), epoch)
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


def _each(function: Callable[[Any], Any], items: Iterator[Any]) -> Iterator[Any]:
    """Compute in several threads, unless somebody may follow what is done in this one."""
    if torch.is_grad_enabled() or _tracing():
        return map(function, items)
    return _threads.each(torch.no_grad()(function), items)


def _fold_on_cpu(epoch: Epoch) -> Any:
    numbers = max(part.numel() for part in _tensors(epoch.carry))
    with _threads.products(2.0 * epoch.size * numbers):
        return fold_in_python(epoch)


@contextmanager
def _products(tf32: bool) -> Generator[None]:
    """Multiply float32 matrices in TF32, or not; the user's own setting comes back."""
    matmul = torch.backends.cuda.matmul
    new = hasattr(matmul, "fp32_precision")  # since torch 2.9; reading both would be an error
    name, value = ("fp32_precision", "tf32" if tf32 else "ieee") if new else ("allow_tf32", tf32)
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        setattr(matmul, name, before)


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
        fold = in_precision(products, _fold_on, device)
        own |= {
            "tensor_cores": True,
            "free_memory": partial(_free_gpu_memory, device),
            "upload": partial(upload_ahead, copier=partial(_Copies, device)),
            "release_memory": torch.cuda.empty_cache,
            "synchronize": partial(torch.cuda.synchronize, device),
        }
    elif kind == "mps":
        own["synchronize"] = torch.mps.synchronize
    return Backend(
        name="torch" if kind == "cpu" else f"torch:{device}",
        xp=xp,
        device=device,
        move=move,
        fetch=_fetch,
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
        self._pinned = [torch.empty(shape, dtype=kind, pin_memory=True) for _ in range(2)]
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


def _fetch(x: torch.Tensor) -> HostArray:
    x = x.detach().cpu().resolve_conj().resolve_neg()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no bfloat16


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
    if x.layout != torch.strided:
        return "is a sparse tensor; make it dense: to_dense()"
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
