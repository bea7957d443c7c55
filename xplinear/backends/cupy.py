"""CuPy: CUDA GPUs. The kernels are in ``cupy.cu``; each is compiled when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import array_api_compat.cupy as xp
import cupy
import cupyx
import numpy as np
from cupy._core import _routines_linalg as linalg
from cupy.cuda import cublas, driver

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
from xplinear.backends.transfer import upload_ahead
from xplinear.losses import LOSSES, Loss
from xplinear.namespace import HostArray, Namespace
from xplinear.penalties import ElasticNetPenalty, L1Penalty, L2Penalty, NoPenalty

__all__ = ["describe", "follow", "select"]

_SOURCE = Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
_TYPES = {
    "float32": "float",
    "float64": "double",
    "bfloat16": "bfloat16",
    "bool": "bool",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned",
    "uint64": "unsigned long long",
}
# Those of ``cupy.cu`` are structs of the same names.
_LOSSES = [loss for loss in LOSSES.values() if f"struct {loss.__name__} " in _SOURCE]
# The penalties whose prox is there: the shares of L1 and L2 in each.
_SHARES: dict[type, Callable[[Any], tuple[float, float]]] = {
    NoPenalty: lambda penalty: (0.0, 0.0),
    L2Penalty: lambda penalty: (0.0, 1.0),
    L1Penalty: lambda penalty: (1.0, 0.0),
    ElasticNetPenalty: lambda penalty: (penalty.l1_ratio, 1.0 - penalty.l1_ratio),
}
_THREADS = 256  # of a block
_WARP_CLASSES = 1024
_ALIGNMENT = 8  # of packed weights: cuBLAS reads aligned rows faster
_PIECE_BYTES = 256 * 2**20  # of rows gathered at a time
# Of the device, that can be pinned, or for a library.
_OUT_OF_MEMORY = (
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_DEFAULT_MATH, _TF32_MATH = 0, 3  # of cublasMath_t
# Chosen by counting bytes and barriers, not measured: batches and stacks of models up to which
# one kernel for the whole epoch should beat matrix products.
_SMALL_BATCH, _MOST_ROUNDS = 128, 4


@cache
def _kernel(name: str, loss: type, dtype: str, stored: str) -> cupy.RawKernel:
    """Return a kernel of ``cupy.cu``; ``sgd`` runs only if all of its blocks run at once."""
    types = {"DTYPE": _TYPES[dtype], "STORED": _TYPES[stored], "LOSS": loss.__name__}
    options = ("-std=c++17", *(f"-D{key}={value}" for key, value in types.items()))
    return cupy.RawKernel(_SOURCE, name, options, enable_cooperative_groups=name == "sgd")


def _pointer(array: cupy.ndarray | None) -> Any:
    return np.intp(0) if array is None else array


def _columns(array: cupy.ndarray | None) -> int:
    return 0 if array is None else array.size // len(array)


def _at(array: cupy.ndarray, row: int) -> np.intp:
    return np.intp(array.data.ptr + row * array.strides[0])


def _integers(*values: int) -> tuple[np.int32, ...]:
    return tuple(np.int32(value) for value in values)


def _strides(X: cupy.ndarray) -> tuple[np.int64, ...]:
    """Return the strides of X in elements."""
    return tuple(np.int64(stride // X.itemsize) for stride in X.strides)


def _loss_launcher(
    loss: Loss, dtype: np.dtype[Any], m: int, c: int, labels: int, weights: int = 0
) -> Callable[..., None]:
    """Return a function that launches the kernel ``loss``, for many calls with the same shapes.

    It takes n and the pointers of Z ``(n, m, c)``, y ``(n, labels)``, targets, s ``(n, weights)``,
    models, rows, values ``(n, m)`` and G, which may be Z.
    """
    k = max(c, 2)
    # A warp serves several rows of few classes, a block one row of very many.
    team = min(32, 1 << (k // 4).bit_length()) if k <= _WARP_CLASSES else _THREADS
    teams = _THREADS // team
    kernel = _kernel("loss", type(loss), str(dtype), str(dtype))
    numbers = *_integers(m, k, c, labels, weights), dtype.type(getattr(loss, "margin", 0.0))

    def launch(n: int, *pointers: Any) -> None:
        grid, arguments = (-(-n * m // teams),), (*pointers, np.int64(n), *numbers)
        kernel(grid, (team, teams), arguments, shared_mem=8 * _THREADS // 32)

    return launch


def _value_and_grad(
    device: cupy.cuda.Device, loss: Loss, Z: cupy.ndarray, y: cupy.ndarray, *, xp: Namespace
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Return losses ``(n, m)`` and their gradient ``(n, m, k)``: one launch for both."""
    del xp
    n, m, k = Z.shape
    with device:
        Z, y = cupy.ascontiguousarray(Z), cupy.ascontiguousarray(y, np.int32)
        values, G = cupy.empty((n, m), Z.dtype), cupy.empty_like(Z)
        launch, nothing = _loss_launcher(loss, Z.dtype, m, k, _columns(y)), [_pointer(None)] * 4
        launch(n, Z, y, *nothing, values, G)
    return values, G


class _Packed(NamedTuple):
    """An epoch of SGD as the kernels take it; packed arrays ``(m, c, P)`` as in ``cupy.cu``."""

    loss: Loss
    X: cupy.ndarray
    y: cupy.ndarray
    s: cupy.ndarray | None
    models: cupy.ndarray | None
    targets: cupy.ndarray | None
    rows: cupy.ndarray
    schedule: HostArray
    size: int
    centre: cupy.ndarray  # (1 or m, p)
    step: cupy.ndarray  # packed, as all that follow
    shrink: cupy.ndarray
    W: cupy.ndarray
    V: cupy.ndarray
    total: cupy.ndarray | None
    rule: tuple[Any, ...]  # momentum, nesterov, shares of L1 and L2

    def labels(self) -> tuple[Any, ...]:
        """Return pointers to labels and weights, each with those to the columns of the models."""
        return self.y, *map(_pointer, (self.targets, self.s, self.models))

    def kernel(self, name: str) -> cupy.RawKernel:
        return _kernel(name, type(self.loss), str(self.W.dtype), str(self.X.dtype))


def _sgd(loss: Loss, epoch: Epoch) -> Any:
    """Fold SGD's update over the mini-batches of an epoch, as `fold_in_python` does."""
    rule: Any = epoch.update.rule
    (X, y, s), (steps, models, targets, standard) = epoch.rows, epoch.shared
    (W, b), velocity, total, seen = epoch.carry
    shares, real = _SHARES.get(type(rule.penalty)), W.dtype.type
    if shares is None or standard is not None or str(X.dtype) not in _TYPES:
        return fold_in_python(epoch)
    packed = _Packed(
        loss=loss,
        X=X,
        y=cupy.ascontiguousarray(y, np.int32),
        s=None if s is None else cupy.ascontiguousarray(s),
        models=None if models is None else cupy.ascontiguousarray(models, np.int32),
        targets=None if targets is None else cupy.ascontiguousarray(targets, np.int32),
        rows=cupy.ascontiguousarray(epoch.order, np.int64),
        schedule=np.asarray(epoch.schedule, real),
        size=min(epoch.size, len(epoch.order)),
        centre=cupy.ascontiguousarray(steps.centre.T),
        step=_packed(steps.weights, steps.intercept),
        shrink=_packed(steps.penalty, cupy.zeros_like(b)),
        W=_packed(W, b),
        V=_packed(*velocity),
        total=_packed(*total) if rule.average else None,
        rule=(real(rule.momentum), np.int32(rule.nesterov), *map(real, shares(rule.penalty))),
    )
    losses = _in_one_kernel(packed)
    losses = _by_products(packed) if losses is None else losses
    if losses is None:
        return fold_in_python(epoch)
    params = type(velocity)

    def unpacked(packed: cupy.ndarray) -> Any:
        return params(packed[:, :, : len(W)].transpose(2, 0, 1), packed[:, :, len(W)])

    total = unpacked(packed.total) if rule.average else total
    return unpacked(packed.W), unpacked(packed.V), total, seen + losses


def _packed(W: cupy.ndarray, b: cupy.ndarray) -> cupy.ndarray:
    p, m, c = W.shape
    packed = cupy.zeros((m, c, -(-(p + 1) // _ALIGNMENT) * _ALIGNMENT), W.dtype)
    packed[:, :, :p] = W.transpose(1, 2, 0)
    packed[:, :, p] = b
    return packed


class _Plan(NamedTuple):
    """How the kernel ``sgd`` divides its work: the best compares lowest."""

    rounds: int  # models that a group of blocks takes, one after the other
    width: int  # packed features per block
    members: int  # blocks of a group
    tile: int  # rows at a time
    shared_bytes: int


def _plan(epoch: _Packed, kernel: cupy.RawKernel) -> _Plan | None:
    """Return a plan whose blocks all fit on the GPU at once."""
    m, c, P = epoch.W.shape
    limits, item = cupy.cuda.Device().attributes, epoch.W.dtype.itemsize
    tile = max(8, min(64, 1 << (epoch.size - 1).bit_length()))
    kernel.max_dynamic_shared_size_bytes = most = limits["MaxSharedMemoryPerBlockOptin"]
    plans = []
    for width in sorted({min(P, width) for width in (64, 128, 256)}):
        stride, members = width | 1, -(-P // width)
        reals = 2 * tile * stride + 5 * c * stride + tile * c + 2 * tile
        shared = max(8 * _THREADS, item * reals + 8 * tile)
        if shared > most:
            continue
        ready = driver.occupancyMaxActiveBlocksPerMultiprocessor(
            kernel.kernel.ptr, _THREADS, shared
        )
        groups = min(m, limits["MultiProcessorCount"] * ready // members)
        if groups and -(-m // groups) <= _MOST_ROUNDS:
            plans.append(_Plan(-(-m // groups), width, members, tile, shared))
    return min(plans, default=None)


def _in_one_kernel(epoch: _Packed) -> cupy.ndarray | None:
    """Run an epoch in one launch and return its losses ``(m,)``; None where that does not pay."""
    kernel = epoch.kernel("sgd")
    plan = _plan(epoch, kernel) if epoch.size <= _SMALL_BATCH else None
    if plan is None:
        return None
    X, W, centre = epoch.X, epoch.W, epoch.centre
    m, c, P = W.shape
    groups = -(-m // plan.rounds)
    losses = cupy.zeros(m, np.float64)
    exchange = cupy.empty((groups, 2, plan.members, plan.tile, c), W.dtype)
    arrivals = cupy.zeros(groups, np.uint32)
    arguments = (
        *(X, *_strides(X), *epoch.labels(), epoch.rows),
        *(cupy.asarray(epoch.schedule), centre, epoch.step, epoch.shrink, W, epoch.V),
        *(_pointer(epoch.total), losses, exchange, arrivals, np.int64(len(epoch.rows))),
        *_integers(epoch.size, X.shape[1], P, m, max(c, 2), c),
        *_integers(_columns(epoch.y), _columns(epoch.s), len(centre)),
        *_integers(plan.members, plan.width, plan.tile),
        *(W.dtype.type(getattr(epoch.loss, "margin", 0.0)), *epoch.rule),
    )
    kernel((groups * plan.members,), (_THREADS,), arguments, shared_mem=plan.shared_bytes)
    return losses


def _by_products(epoch: _Packed) -> cupy.ndarray | None:
    """Run an epoch with four launches per step and return its losses ``(m,)``.

    Rows are gathered and centred by the piece. None where each model has its own centre.
    """
    if len(epoch.centre) > 1:
        return None
    X, W, size = epoch.X, epoch.W, epoch.size
    (m, c, P), n, item = W.shape, len(epoch.rows), W.dtype.itemsize
    per_piece = size * max(1, min(_PIECE_BYTES // (size * P * item), -(-n // size)))
    piece = cupy.empty((min(per_piece, n), P), W.dtype)
    Z, values = cupy.empty((size, m, c), W.dtype), cupy.empty((len(piece), m), W.dtype)
    gradient, losses = cupy.empty_like(W), cupy.zeros(m, np.float64)
    # All that does not change from step to step is made here: a step takes microseconds.
    gather, update = epoch.kernel("gather"), epoch.kernel("update")
    loss = _loss_launcher(epoch.loss, W.dtype, m, c, _columns(epoch.y), _columns(epoch.s))
    weights = gradient, epoch.step, epoch.shrink, W, epoch.V, _pointer(epoch.total)
    labels = epoch.labels()
    multiply = cublas.sgemm if item == 4 else cublas.dgemm
    handle, blocks = cupy.cuda.device.get_cublas_handle(), (-(-W.size // _THREADS),)
    plain, transposed = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
    scalars, elements = np.asarray([1.0, 0.0], W.dtype), np.int64(W.size)
    one, zero = scalars.ctypes.data, scalars.ctypes.data + item  # cuBLAS reads them at the call
    w, z, g = W.data.ptr, Z.data.ptr, gradient.data.ptr
    factors = iter(epoch.schedule)
    for start in range(0, n, per_piece):
        rows = epoch.rows[start : start + per_piece]
        widths = _integers(X.shape[1], P)
        gather((len(rows),), (128,), (X, *_strides(X), rows, epoch.centre, piece, *widths))
        for i in range(0, len(rows), size):
            r, factor, x = min(size, len(rows) - i), next(factors), piece.data.ptr + i * P * item
            # cuBLAS counts by columns: to it every matrix here is its transpose.
            multiply(handle, transposed, plain, m * c, r, P, one, w, P, x, P, zero, z, m * c)
            loss(r, Z, *labels, _at(rows, i), _at(values, i), Z)
            multiply(handle, plain, transposed, P, m * c, r, one, x, P, z, m * c, zero, g, P)
            numbers = elements, factor / factor.dtype.type(r), factor, *epoch.rule
            update(blocks, (_THREADS,), (*weights, *numbers))
        losses += values[: len(rows)].sum(axis=0, dtype=np.float64)
    return losses


@contextmanager
def _products(device: cupy.cuda.Device, tf32: bool) -> Generator[None]:
    """Multiply float32 matrices in TF32, or not, whatever ``CUPY_TF32`` says."""
    with device:
        handle, before = cupy.cuda.device.get_cublas_handle(), linalg.get_compute_type(cupy.float32)
        now = linalg.COMPUTE_TYPE_TF32 if tf32 else linalg.COMPUTE_TYPE_DEFAULT
        mode = cublas.getMathMode(handle)
        linalg.set_compute_type(cupy.float32, now)
        cublas.setMathMode(handle, _TF32_MATH if tf32 else _DEFAULT_MATH)  # of our own products
        try:
            yield
        finally:
            linalg.set_compute_type(cupy.float32, before)
            cublas.setMathMode(handle, mode)


def _on(index: int) -> Backend:
    device = cupy.cuda.Device(index)
    products = partial(_products, device)

    def move(x: Any) -> cupy.ndarray:
        device.use()  # CuPy computes on the current device, wherever the arrays are
        try:
            return cupy.asarray(x)
        except (TypeError, RuntimeError):  # a tensor that CuPy cannot read, of bfloat16, say
            return cupy.asarray(native(x))

    def free_memory() -> int:
        with device:
            return device.mem_info[0] + cupy.get_default_memory_pool().free_bytes()

    kernels: dict[str, Callable[..., Any]] = {
        "value_and_grad": partial(_value_and_grad, device),
        "sgd": in_precision(products, _sgd),
    }
    return Backend(
        name="cupy" if index == 0 else f"cupy:{index}",
        xp=xp,
        device=device,
        move=move,
        fetch=cupy.asnumpy,
        fold=in_precision(products, fold_in_python),
        compile=partial(in_precision, products),
        write=in_precision(products, write_in_place),
        tensor_cores=True,
        block_bytes=256 * 2**20,
        free_columns=GPU_COLUMNS,
        free_memory=free_memory,
        upload=partial(upload_ahead, copier=partial(_Copies, index)),
        out_of_memory=partial(is_memory_error, said=_OUT_OF_MEMORY),
        release_memory=partial(_release_memory, index),
        synchronize=device.synchronize,
        kernels={(loss, name): kernel for loss in _LOSSES for name, kernel in kernels.items()},
    )


class _Copies:
    """The `Copier` of a device."""

    def __init__(self, index: int, shape: tuple[int, ...], dtype: Any) -> None:
        self._index = index
        with cupy.cuda.Device(index):
            self._compute = cupy.cuda.get_current_stream()
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._pinned = [cupyx.empty_pinned(shape, dtype) for _ in range(2)]
            self._buffers = [cupy.empty(shape, dtype) for _ in range(2)]
            self._copied = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]

    def mark(self) -> cupy.cuda.Event:
        # The default stream is that of the current device.
        with cupy.cuda.Device(self._index):
            return self._compute.record(cupy.cuda.Event(disable_timing=True))

    def pinned(self, slot: int) -> HostArray:
        self._copied[slot].synchronize()
        return self._pinned[slot]

    def copy(self, slot: int, rows: int, free: cupy.cuda.Event) -> cupy.ndarray:
        there = self._buffers[slot][:rows]
        with cupy.cuda.Device(self._index):
            self._stream.wait_event(free)
            there.set(self._pinned[slot][:rows], stream=self._stream)
            self._stream.record(self._copied[slot])
        return there

    def await_copy(self, slot: int) -> None:
        with cupy.cuda.Device(self._index):
            self._compute.wait_event(self._copied[slot])

    def finish(self) -> None:
        self._stream.synchronize()


def _release_memory(index: int) -> None:
    with cupy.cuda.Device(index):
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


def _device_count() -> int:
    try:
        return cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        msg = f"CuPy {cupy.__version__} finds no CUDA device ({error}); check the NVIDIA driver"
        raise BackendError(msg) from error


def select(device: str) -> Backend:
    """Return the backend on GPU 0 (the default) or on the GPU of the given number."""
    count = _device_count()
    if device and not (device.isdigit() and int(device) < count):
        msg = f"CuPy has no device {device!r}; there are {count}, numbered from 0"
        raise BackendError(msg)
    return _on(int(device or 0))


def follow(x: cupy.ndarray) -> Backend:
    """Return the backend on the device of ``x``."""
    return _on(x.device.id)


def describe() -> tuple[str, list[str]]:
    """Return version and devices."""
    names = [
        cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(_device_count())
    ]
    return cupy.__version__, names
