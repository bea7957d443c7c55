"""CuPy: CUDA GPUs. The kernels are in ``cupy.cu``; each is compiled when it is first used."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import product
from math import gcd
from pathlib import Path
from threading import local
from typing import Any, NamedTuple

import array_api_compat.cupy as xp
import cupy
import cupyx
import numpy as np
from cupy._core import _routines_linalg as linalg
from cupy.cuda import cublas, driver
from cupyx.scipy.sparse import csr_matrix

from xplinear.backends.base import (
    GPU_COLUMNS,
    Backend,
    BackendError,
    gpu_block_bytes,
    is_memory_error,
    native,
    write_in_place,
)
from xplinear.backends.csr import Library as Matrices
from xplinear.backends.csr import Pattern, csr
from xplinear.backends.epoch import Epoch, Shared, fold_in_python, labels_of
from xplinear.backends.fusion import fused, opaque
from xplinear.backends.precision import in_precision
from xplinear.backends.programs import OPERATIONS, ROOM, THREADS
from xplinear.backends.sparse import canonical
from xplinear.backends.tracing import DTYPES, Library
from xplinear.backends.transfer import upload_ahead
from xplinear.losses import LOSSES, Loss, SoftmaxLoss
from xplinear.namespace import HostArray, Namespace
from xplinear.penalties import ElasticNetPenalty, L1Penalty, L2Penalty, NoPenalty

__all__ = ["describe", "follow", "select"]

_SOURCE = Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
_PASS = Path(__file__).with_name("cupy_pass.cu").read_text(encoding="utf-8")
_FUSION = Path(__file__).with_name("fusion.cu").read_text(encoding="utf-8")
_TABLE = np.dtype([("at", np.int64, ROOM)])
_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "float16",
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
# Columns that one read of X serves, and bytes of the sums that a thread keeps of each feature.
_FEW_COLUMNS, _SUM_BYTES = 16, 80
_SUMMING_BLOCKS = 1024  # about as many sum up rows, 32 columns each
# Of an epoch in one kernel: threads of a block, rows of a tile, and features per thread of a warp;
# with four floats or less a second block has room beside the first (see ``cupy.cu``).
_SGD_THREADS, _TILE, _CHUNKS = 256, 64, (2, 4, 8)
# Cycles, counted and not measured: of a tile apart from its products, of what the blocks of a
# cluster tell each other, or tell each other in global memory; and of a step by matrix products,
# four launches by the host.
_TILE_CYCLES, _CLUSTER_CYCLES, _GLOBAL_CYCLES, _PRODUCTS_CYCLES = 1800, 600, 4000, 100_000
_LANES = 96  # of the 128 of a multiprocessor, that are busy in a product


@cache
def _kernel(
    name: str, loss: type, dtype: str, stored: str, standard: str, cluster: int = 0, chunks: int = 0
) -> cupy.RawKernel:
    """Return a kernel of ``cupy.cu``, which says what it is compiled with."""
    types = {"DTYPE": _TYPES[dtype], "STORED": _TYPES[stored], "LOSS": loss.__name__}
    types["STANDARD"] = _TYPES[standard]
    if name == "sgd":
        types |= {"MEMBERS": str(cluster), "CHUNKS": str(chunks)}
    options = ("-std=c++17", *(f"-D{key}={value}" for key, value in types.items()))
    together = name == "sgd" and cluster == 0  # blocks that wait for each other all run at once
    return cupy.RawKernel(_SOURCE, name, options, enable_cooperative_groups=together)


@cache
def _pass_kernel(loss: type, dtype: str, stored: str, name: str, **sizes: int) -> cupy.RawKernel:
    """Return a kernel of ``cupy_pass.cu``; those of the same sizes are compiled together."""
    types = {"DTYPE": _TYPES[dtype], "STORED": _TYPES[stored], "LOSS": loss.__name__}
    types["STANDARD"] = types["DTYPE"]
    defined = (f"-D{key}={value}" for key, value in (types | sizes).items())
    options = ("-std=c++17", "-DPASS", *defined)
    return cupy.RawKernel(_SOURCE + _PASS, name, options, enable_cooperative_groups=False)


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


def _team(k: int) -> int:
    """Return how many threads share a row: a few those of few classes, a block those of many."""
    return min(32, 1 << (k // 4).bit_length()) if k <= _WARP_CLASSES else _THREADS


def _loss_launcher(
    loss: Loss, dtype: np.dtype[Any], m: int, c: int, labels: int, weights: int = 0
) -> Callable[..., None]:
    """Return a function that launches the kernel ``loss``, for many calls with the same shapes.

    It takes n and the pointers of Z ``(n, m, c)``, y ``(n, labels)``, targets, s ``(n, weights)``,
    models, rows, values ``(n, m)`` and G, which may be Z. No ``labels`` are one column, of which
    each model has its target as class 1.
    """
    k = max(c, 2)
    team = _team(k)
    teams = _THREADS // team
    kernel = _kernel("loss", type(loss), *[str(dtype)] * 3)
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


class _Tiles(NamedTuple):
    """How the kernel ``one_read`` goes through rows."""

    kernel: Callable[[str], cupy.RawKernel]
    blocks: int  # that run at once
    rows: int  # at a time
    row_bytes: int
    stages: int  # how many times so many rows are in shared memory
    shared_bytes: int


@cache
def _tiles(
    device: int, kind: tuple[type, str], stored: str, stored_bytes: int, p: int, m: int, c: int
) -> _Tiles | None:
    """Return how to read rows once for a loss and its gradient; None where they do not fit."""
    limits, columns, item = cupy.cuda.Device(device).attributes, m * c, int(kind[1][5:]) // 8
    fours = -(-p // 4)
    groups = -(-fours // _THREADS)
    if columns > _FEW_COLUMNS or groups * columns * item > _SUM_BYTES:
        return None
    # The more slices of four features a row has, the more warps share it: 1, 2, 4 or 8.
    rows = 128 // min(8, 1 << (-(-fours // 4) - 1).bit_length())
    # Four words more than a multiple of 32: eight rows then lie on different memory banks.
    row_bytes = -(-(4 * fours * stored_bytes - 16) // 128) * 128 + 16
    reals = 4 * (fours * (columns | 1) + max(256, 32 * columns) + rows * -(-columns // 4)) + columns
    most = limits["MaxSharedMemoryPerBlockOptin"]
    for stages in (3, 2):
        shared = item * reals + stages * rows * (row_bytes + m * (item + 4))
        if shared > most:
            continue
        kernel = partial(_pass_kernel, *kind, stored, COLUMNS=columns, GROUPS=groups)
        one_read = kernel("one_read")
        one_read.max_dynamic_shared_size_bytes = most
        ready = driver.occupancyMaxActiveBlocksPerMultiprocessor(
            one_read.kernel.ptr, _THREADS, shared
        )
        if ready:
            blocks = ready * limits["MultiProcessorCount"]
            return _Tiles(kernel, blocks, rows, row_bytes, stages, shared)
    return None


def _loss_and_grad(
    device: cupy.cuda.Device, loss: Loss, block: Any, shared: Shared, params: Any
) -> tuple[cupy.ndarray, ...] | None:
    """Return summed losses ``(m,)`` of a block, and their gradient in W and b."""
    (X, standard), y, s, (W, b) = block.rows, block.y, block.s, params
    (p, m, c), n, stored, kind = W.shape, len(X), str(X.dtype), (type(loss), str(W.dtype))
    reals = [a for a in (b, s, *(standard or ())) if a is not None]
    known = stored in _TYPES and kind[1] in ("float32", "float64")
    if not known or any(a.dtype != W.dtype for a in reals):
        return None
    if shared.positives is not None:
        y = labels_of(y, None, shared.positives, xp=xp)
    y, targets, models = (
        None if a is None else cupy.ascontiguousarray(a, np.int32)
        for a in (y, shared.targets, shared.models)
    )
    s = None if s is None else cupy.ascontiguousarray(s)
    labels = y, *map(_pointer, (targets, s, models))
    dense = X.strides[1] == X.itemsize
    tiles = _tiles(device.id, kind, stored, X.itemsize, p, m, c) if dense else None
    if tiles is None:
        rows, values = block.rows.astype(W.dtype, xp=xp), cupy.empty((n, m), W.dtype)
        Z = cupy.ascontiguousarray(rows.scores(W, b, xp=xp))
        kernel = partial(_pass_kernel, *kind, kind[1])
        launch = _loss_launcher(loss, W.dtype, m, c, _columns(y), _columns(s))
        launch(n, Z, *labels, _pointer(None), values, Z)
        total = _row_sum(kernel, Z.reshape(n, m * c), W.dtype).reshape(m, c)
        return _row_sum(kernel, values, np.float64), *rows.gradient(Z, xp=xp, total=total)
    centre, scale = (
        None if a is None else cupy.ascontiguousarray(a.reshape(p, -1).T)
        for a in standard or (None, None)
    )
    P, blocks, k = 4 * -(-p // 4) + 4, min(tiles.blocks, -(-n // tiles.rows)), max(c, 2)
    partials = cupy.empty((blocks, m * c * P), W.dtype)
    losses = cupy.empty((blocks, m), np.float64)
    alignment = gcd(X.data.ptr, X.strides[0], p * X.itemsize)
    arguments = (
        *(X, np.int64(X.strides[0] // X.itemsize), *labels),
        *(cupy.ascontiguousarray(W.transpose(1, 2, 0)), cupy.ascontiguousarray(b)),
        *(_pointer(centre), _pointer(scale), partials, losses, np.int64(n)),
        *_integers(p, m, k, c, _columns(y), _columns(s), 0 if centre is None else len(centre)),
        *_integers(next((unit for unit in (16, 8, 4) if alignment % unit == 0), 0), tiles.rows),
        *_integers(tiles.row_bytes // X.itemsize, tiles.stages, _team(k)),
        W.dtype.type(getattr(loss, "margin", 0.0)),
    )
    one_read = tiles.kernel("one_read")
    one_read((blocks,), (_THREADS,), arguments, shared_mem=tiles.shared_bytes)
    sums = _part_sums(tiles.kernel, partials, W.dtype).reshape(m, c, P)
    dW, db = sums[:, :, :p].transpose(2, 0, 1), sums[:, :, P - 4]
    return _part_sums(tiles.kernel, losses, np.float64)[0], dW, db


def _part_sums(
    kernel: Callable[[str], cupy.RawKernel], A: cupy.ndarray, dtype: Any, parts: int = 1
) -> cupy.ndarray:
    """Return sums ``(parts, columns)`` of about equal parts of the rows of A ``(n, columns)``."""
    n, columns = A.shape
    width, chunk = min(32, 1 << (columns - 1).bit_length()), -(-n // parts)
    sums = cupy.empty((-(-n // chunk), columns), dtype)
    kinds = ("wide" if a.dtype == np.float64 else "real" for a in (A, sums))
    kernel("sum_" + "_".join(kinds))(
        (-(-columns // width) * len(sums),),
        (width, _THREADS // width),
        (A, sums, np.int64(n), *_integers(columns, chunk)),
        shared_mem=8 * _THREADS,
    )
    return sums


def _row_sum(kernel: Callable[[str], cupy.RawKernel], A: cupy.ndarray, dtype: Any) -> cupy.ndarray:
    """Return the sum ``(columns,)`` of the rows of A ``(n, columns)``, by enough blocks."""
    parts = max(1, min(_SUMMING_BLOCKS // -(-A.shape[1] // 32), A.shape[0] // 64))
    return _part_sums(kernel, _part_sums(kernel, A, np.float64, parts), dtype)[0]


class _Rows(NamedTuple):
    """What the kernels take of an epoch of SGD, whichever way it is folded."""

    loss: Loss
    dtype: np.dtype[Any]
    X: cupy.ndarray
    y: cupy.ndarray
    s: cupy.ndarray | None
    models: cupy.ndarray | None
    targets: cupy.ndarray | None  # or, where the labels have no columns, the class that is 1
    columns: int  # of the labels
    order: cupy.ndarray
    schedule: HostArray
    size: int
    standard: Any  # centre and scale (p, 1 or m), or None
    mean: cupy.ndarray  # (p, 1 or m)
    rule: tuple[Any, ...]  # momentum, nesterov, shares of L1 and L2

    def labels(self) -> tuple[Any, ...]:
        """Return pointers to labels and weights, each with those to the columns of the models."""
        return self.y, *map(_pointer, (self.targets, self.s, self.models))

    def features(self) -> tuple[Any, ...]:
        """Return pointers to centre and scale, and to the mean."""
        return *(self.standard or (np.intp(0), np.intp(0))), self.mean

    @property
    def standards(self) -> int:
        """The number of columns of the standard, 0 without one."""
        return 0 if self.standard is None else _columns(self.standard[0])

    def kernel(self, name: str, *layout: int) -> cupy.RawKernel:
        standard = self.dtype if self.standard is None else self.standard[0].dtype
        types = map(str, (self.dtype, self.X.dtype, standard))
        return _kernel(name, type(self.loss), *types, *layout)


def _sgd(loss: Loss, epoch: Epoch) -> Any:
    """Fold SGD's update over the mini-batches of an epoch, as `fold_in_python` does."""
    rule: Any = epoch.update.rule
    (X, y, s), (steps, models, targets, standard, positives) = epoch.rows, epoch.shared
    targets = targets if positives is None else positives
    W = epoch.carry[0].W
    shares, real = _SHARES.get(type(rule.penalty)), W.dtype.type
    if shares is None or str(X.dtype) not in _TYPES or not _alike(standard):
        return fold_in_python(epoch)
    rows = _Rows(
        loss=loss,
        dtype=W.dtype,
        X=X,
        y=cupy.ascontiguousarray(y, np.int32),
        s=None if s is None else cupy.ascontiguousarray(s),
        models=None if models is None else cupy.ascontiguousarray(models, np.int32),
        targets=None if targets is None else cupy.ascontiguousarray(targets, np.int32),
        columns=0 if positives is not None else _columns(y),
        order=cupy.ascontiguousarray(epoch.order, np.int64),
        schedule=np.asarray(epoch.schedule, real),
        size=min(epoch.size, len(epoch.order)),
        standard=standard and tuple(map(cupy.ascontiguousarray, standard)),
        mean=cupy.ascontiguousarray(steps.centre),
        rule=(real(rule.momentum), np.int32(rule.nesterov), *map(real, shares(rule.penalty))),
    )
    plan, products = _plan(rows, *W.shape), _cost_of_products(rows, *W.shape)
    if plan and plan.cycles <= products:
        found = _in_one_kernel(rows, plan, epoch.carry, steps, rule.average)
        if found is not None:
            return found
    if products < math.inf:
        return _by_products(rows, epoch.carry, steps, rule.average)
    return fold_in_python(epoch)


def _alike(standard: Any) -> bool:
    """Return whether the kernels can read centre and scale, or there are none."""
    if standard is None:
        return True
    (centre, scale), real = standard, ("float32", "float64")
    return centre.shape == scale.shape and centre.dtype == scale.dtype and str(scale.dtype) in real


class _Plan(NamedTuple):
    """How the kernel ``sgd`` divides its work: the best compares lowest."""

    cycles: float  # of a step
    members: int  # blocks of a group
    cluster: int  # the same, or 0 where they meet in global memory
    width: int  # features per block
    chunks: int
    tile: int  # rows at a time
    groups: int  # that take the models in turn
    shared_bytes: int


@cache
def _limits(device: int) -> tuple[int, int]:
    """Return the number of multiprocessors and the shared memory a block can have."""
    limits = cupy.cuda.Device(device).attributes  # a call of the driver for each of them
    return limits["MultiProcessorCount"], limits["MaxSharedMemoryPerBlockOptin"]


def _clusters() -> tuple[int, ...]:
    """Return the sizes of clusters to try; one is a block for itself, which every GPU has."""
    return (1, 2, 4, 8) if int(cupy.cuda.Device().compute_capability) >= 90 else (1,)


def _plan(rows: _Rows, p: int, m: int, c: int) -> _Plan | None:
    """Return the best plan for an epoch in one launch, None if there is none.

    A cluster is preferred to blocks that meet in global memory, which must all run at once.
    """
    processors, most = _limits(cupy.cuda.Device().id)
    item, fours = rows.dtype.itemsize, -(-c // 4)
    tile = max(8, min(_TILE, 1 << (rows.size - 1).bit_length()))
    stored = max(4, rows.X.dtype.itemsize)

    def plan(members: int, width: int, cluster: int) -> _Plan | None:
        chunks = next((chunks for chunks in _CHUNKS if width <= 32 * chunks), None)
        if chunks is None:
            return None
        partial = max(16 * _SGD_THREADS, 4 * fours * max(tile, width))
        reals = tile * (width | 4) + 12 * fours * width + 2 * width + partial
        reals += 4 * fours * tile * (1 + (cluster > 1))
        shared = 16 + 24 * width + 8 * tile + item * reals
        if shared > most:
            return None
        # As the kernel's launch bounds have it; a margin for what the system keeps of each block.
        two = item == 4 and chunks * stored <= 16 and 2 * (shared + 1024) <= most
        at_once = processors * (1 + two) // members
        groups = m if cluster else min(m, at_once)
        if not groups or not at_once:
            return None
        work = 2.0 * tile * width * 4 * fours / _LANES  # scores, then the gradient
        meetings = 0 if members == 1 else _CLUSTER_CYCLES if cluster else _GLOBAL_CYCLES
        alone = _TILE_CYCLES + meetings + work
        cycles = -(-m // at_once) * max(alone, (1 + two) * work) * -(-rows.size // tile)
        return _Plan(cycles, members, cluster, width, chunks, tile, groups, shared)

    features = p + 1
    clusters = (plan(q, _even(-(-features // q)), q) for q in _clusters())
    best = min((one for one in clusters if one), default=None)
    if best is None:
        widths = {min(_even(features), 32 * chunks) for chunks in _CHUNKS}
        free = (plan(-(-features // width), width, 0) for width in widths)
        best = min((one for one in free if one), default=None)
    return best


def _even(features: int) -> int:
    """Return the next multiple of four."""
    return -(-features // 4) * 4


def _cost_of_products(rows: _Rows, p: int, m: int, c: int) -> float:
    """Return the cycles of a step by matrix products; infinite where models differ in X."""
    if rows.standards > 1 or rows.mean.shape[1] > 1:
        return math.inf
    lanes = 64 * _limits(cupy.cuda.Device().id)[0]  # at half of their peak
    return _PRODUCTS_CYCLES + 2.0 * rows.size * p * m * c / lanes


def _fits(kernel: cupy.RawKernel, plan: _Plan) -> bool:
    """Prepare a launch, and return whether all blocks run at once, where they wait for each other.

    The driver may have less for us than the device has.
    """
    kernel.max_dynamic_shared_size_bytes = plan.shared_bytes
    if plan.cluster:
        return True
    ready = driver.occupancyMaxActiveBlocksPerMultiprocessor(
        kernel.kernel.ptr, _SGD_THREADS, plan.shared_bytes
    )
    return ready * _limits(cupy.cuda.Device().id)[0] >= plan.groups * plan.members


def _in_one_kernel(rows: _Rows, plan: _Plan, carry: Any, steps: Any, average: bool) -> Any:
    """Run an epoch in one launch; return None if the driver refuses it."""
    before, velocity, total, seen = carry
    (p, m, c), real = before.W.shape, rows.dtype.type
    params, blocks = type(velocity), plan.groups * plan.members
    kernel = rows.kernel("sgd", plan.cluster, plan.chunks)
    # Of the steps, which are alike in all columns, it reads the first.
    given = [cupy.ascontiguousarray(a) for a in (*steps[1:], *before, *velocity)]
    after = [cupy.empty(a.shape, real) for a in (*before, *velocity)]
    total = params(*(cupy.array(a, order="C") for a in total)) if average else total
    losses = cupy.empty((m, max(plan.cluster, 1)), np.float64)
    exchange, arrivals = None, None
    if not plan.cluster:
        shape = plan.groups, 2, plan.members, plan.tile, _even(c)
        exchange, arrivals = cupy.empty(shape, real), cupy.zeros(plan.groups, np.uint32)
    arguments = (
        *(rows.X, *_strides(rows.X), *rows.labels(), rows.order, cupy.asarray(rows.schedule)),
        *(*rows.features(), *given, *after, *(total if average else [np.intp(0)] * 2), losses),
        *(_pointer(exchange), _pointer(arrivals), np.int64(len(rows.order))),
        *_integers(rows.size, p, m, max(c, 2), c, rows.columns, _columns(rows.s)),
        *_integers(rows.standards, rows.mean.shape[1], plan.members, plan.width, plan.tile),
        *(real(getattr(rows.loss, "margin", 0.0)), *rows.rule),
    )
    try:
        if not _fits(kernel, plan):
            return None
        kernel((blocks,), (_SGD_THREADS,), arguments, shared_mem=plan.shared_bytes)
    except driver.CUDADriverError:  # too large for a part of a device, say
        return None
    seen = _plans(cupy.cuda.Device().id)(_counted, xp)(seen, losses)
    return params(*after[:2]), params(*after[2:]), total, seen


def _counted(xp: Namespace, seen: cupy.ndarray, losses: cupy.ndarray) -> cupy.ndarray:
    return seen + xp.sum(losses, axis=1)


def _packed(W: cupy.ndarray, b: cupy.ndarray) -> cupy.ndarray:
    p, m, c = W.shape
    packed = cupy.zeros((m, c, -(-(p + 1) // _ALIGNMENT) * _ALIGNMENT), W.dtype)
    packed[:, :, :p] = W.transpose(1, 2, 0)
    packed[:, :, p] = b
    return packed


def _by_products(rows: _Rows, carry: Any, steps: Any, average: bool) -> Any:
    """Run an epoch with four launches per step; packed arrays ``(m, c, P)`` as in ``cupy.cu``.

    Rows are gathered and centred by the piece.
    """
    params, velocity, total, seen = carry
    p, X, W, V, size = len(params.W), rows.X, _packed(*params), _packed(*velocity), rows.size
    step, shrink = _packed(*steps[1:3]), _packed(steps.penalty, cupy.zeros_like(params.b))
    sums = _packed(*total) if average else None
    (m, c, P), n, item = W.shape, len(rows.order), W.dtype.itemsize
    per_piece = size * max(1, min(_PIECE_BYTES // (size * P * item), -(-n // size)))
    piece = cupy.empty((min(per_piece, n), P), W.dtype)
    Z, values = cupy.empty((size, m, c), W.dtype), cupy.empty((len(piece), m), W.dtype)
    gradient, losses = cupy.empty_like(W), cupy.zeros(m, np.float64)
    # All that does not change from step to step is made here: a step takes microseconds.
    gather, update = rows.kernel("gather"), rows.kernel("update")
    loss = _loss_launcher(rows.loss, W.dtype, m, c, rows.columns, _columns(rows.s))
    weights, labels = (gradient, step, shrink, W, V, _pointer(sums)), rows.labels()
    multiply = cublas.sgemm if item == 4 else cublas.dgemm
    handle, blocks = cupy.cuda.device.get_cublas_handle(), (-(-W.size // _THREADS),)
    plain, transposed = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
    scalars, elements = np.asarray([1.0, 0.0], W.dtype), np.int64(W.size)
    one, zero = scalars.ctypes.data, scalars.ctypes.data + item  # cuBLAS reads them at the call
    w, z, g = W.data.ptr, Z.data.ptr, gradient.data.ptr
    factors = iter(rows.schedule)
    for start in range(0, n, per_piece):
        order = rows.order[start : start + per_piece]
        widths = _integers(rows.standards, p, P)
        gather((len(order),), (128,), (X, *_strides(X), order, *rows.features(), piece, *widths))
        for i in range(0, len(order), size):
            r, factor, x = min(size, len(order) - i), next(factors), piece.data.ptr + i * P * item
            # cuBLAS counts by columns: to it every matrix here is its transpose.
            multiply(handle, transposed, plain, m * c, r, P, one, w, P, x, P, zero, z, m * c)
            loss(r, Z, *labels, _at(order, i), _at(values, i), Z)
            multiply(handle, plain, transposed, P, m * c, r, one, x, P, z, m * c, zero, g, P)
            numbers = elements, factor / factor.dtype.type(r), factor, *rows.rule
            update(blocks, (_THREADS,), (*weights, *numbers))
        losses += values[: len(order)].sum(axis=0, dtype=np.float64)

    def unpacked(packed: cupy.ndarray) -> Any:
        return type(velocity)(packed[:, :, :p].transpose(2, 0, 1), packed[:, :, p])

    total = total if sums is None else unpacked(sums)
    return unpacked(W), unpacked(V), total, seen + losses


_NAMES = {
    "OPERATIONS": ",".join(OPERATIONS).upper(),
    "DTYPES": ",".join(DTYPES).upper(),
    "ROOM": str(ROOM),
}
INTERPRETER_OPTIONS = "-std=c++17", *(f"-D{key}={value}" for key, value in _NAMES.items())


@cache
def _interpreter(name: str = "fused") -> cupy.RawKernel:
    """Return a kernel of ``fusion.cu``: that for all programs, or ``write_rows``."""
    return cupy.RawKernel(_FUSION, name, INTERPRETER_OPTIONS)


def _write(
    device: cupy.cuda.Device, ring: cupy.ndarray, slot: cupy.ndarray, rows: cupy.ndarray
) -> cupy.ndarray:
    """Return what `Backend.write` does in one launch; by an index it would be several."""
    (m, places, d), words = ring.shape, ring.itemsize // 4
    if not (words and ring.flags.c_contiguous and rows.size):
        return write_in_place(ring, slot, rows)
    with device:
        slot, rows = (
            cupy.ascontiguousarray(a, kind) for a, kind in ((slot, np.int64), (rows, ring.dtype))
        )
        numbers = (np.int64(number) for number in (places, d * words, m * d * words))
        blocks = -(-m * d * words // _THREADS)
        _interpreter("write_rows")(
            (blocks,), (_THREADS,), (cupy.asarray(ring), slot, rows, *numbers)
        )
    return ring


@cache
def _blocks_at_once(device: int, shared_bytes: int) -> int:
    with cupy.cuda.Device(device) as here:
        ready = driver.occupancyMaxActiveBlocksPerMultiprocessor(
            _interpreter().kernel.ptr, THREADS, shared_bytes
        )
        return here.attributes["MultiProcessorCount"] * ready


class _Arrivals(local):
    """Counters that blocks meet at, one for each stream of a thread, and how far they are."""

    def __init__(self) -> None:
        self.counters: dict[tuple[int, int], tuple[cupy.ndarray, int]] = {}


_arrivals = _Arrivals()


def _launch(
    device: int, program: HostArray, blocks: int, barriers: int, registers: int
) -> Callable[[Sequence[int]], None]:
    """Return a function that launches a program, given the addresses of its arrays."""
    kernel, words = _interpreter(), cupy.asarray(program)
    shared = 8 * THREADS * (1 + registers)
    blocks = min(blocks, _blocks_at_once(device, shared))
    arrivals = blocks * barriers if blocks > 1 else 0

    def launch(addresses: Sequence[int]) -> None:
        table = np.zeros(1, _TABLE)
        table["at"][0, : len(addresses)] = addresses
        counter, arrived, stream = None, 0, (device, cupy.cuda.get_current_stream().ptr)
        if arrivals:  # of a launch that fails, nobody knows who arrived: the next begins anew
            counter, arrived = _arrivals.counters.pop(stream, (None, 0))
            counter = cupy.zeros(1, np.uint32) if counter is None else counter
        # A table of one element is passed by value.
        arguments = words, _pointer(counter), np.uint32(arrived), table
        kernel.kernel(
            *((blocks,), (THREADS,), arguments, shared),
            enable_cooperative_groups=arrivals > 0,
        )
        if arrivals:
            _arrivals.counters[stream] = counter, arrived + arrivals & 0xFFFFFFFF

    return launch


@cache
def _library(index: int) -> Library:
    return Library(
        xp=xp,
        array=cupy.ndarray,
        device=cupy.cuda.Device(index),
        alloc=cupy.cuda.alloc,
        address=lambda memory: memory.ptr,
        memory=lambda array: cupy.asarray(array).data,
        view=cupy.ndarray,
        launch=partial(_launch, index),
        synchronize=lambda: cupy.cuda.get_current_stream().synchronize(),
    )


def _multiply(values: cupy.ndarray, pattern: Pattern) -> Callable[[cupy.ndarray], cupy.ndarray]:
    matrix = csr_matrix((values, pattern.indices, pattern.starts), shape=pattern.shape)
    matrix.has_canonical_format = True  # else CuPy looks, and the host waits
    return lambda D: matrix @ D


def _owners(starts: cupy.ndarray, total: int) -> cupy.ndarray:
    values = cupy.arange(total, dtype=starts.dtype)
    return xp.searchsorted(starts, values, side="right").astype(starts.dtype) - 1


def _starts(owners: cupy.ndarray, rows: int) -> cupy.ndarray:
    numbers = cupy.arange(rows + 1, dtype=owners.dtype)
    return xp.searchsorted(owners, numbers).astype(owners.dtype)


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


def _warm(index: int) -> str:
    """Compile the loss kernels, and those of a default SGD; CuPy keeps what it compiles."""
    with cupy.cuda.Device(index):
        for name in ("fused", "write_rows"):
            _interpreter(name).compile()
        for loss, real in product(_LOSSES, ("float32", "float64")):
            _pass_kernel(loss, real, real, "sum_wide_wide").compile()
            _kernel("loss", loss, *[real] * 3).compile()
            if loss is SoftmaxLoss:
                for name in ("gather", "update"):
                    _kernel(name, loss, *[real] * 3).compile()
                for layout in product((0, *_clusters()), _CHUNKS):
                    _kernel("sgd", loss, *[real] * 3, *layout).compile()
    folder = os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")
    return str(Path(folder).expanduser())


@cache
def _plans(index: int) -> Callable[..., Callable[..., Any]]:
    return fused(_library(index))


def _compile(index: int, products: Any) -> Callable[..., Callable[..., Any]]:
    """Return ``compile`` of a device: what is compiled is traced, and made of few launches."""

    def compile_(function: Callable[..., Any], *static: Hashable) -> Callable[..., Any]:
        return in_precision(products, _plans(index)(function, *static))

    return compile_


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

    matrices = Matrices(xp, move, _fetch, _multiply, cupy.asfortranarray, _owners, _starts)
    kernels: dict[str, Callable[..., Any]] = {
        "value_and_grad": opaque(partial(_value_and_grad, device)),
        "loss_and_grad": in_precision(products, _loss_and_grad, device),
        "sgd": in_precision(products, _sgd),
    }
    return Backend(
        name="cupy" if index == 0 else f"cupy:{index}",
        xp=xp,
        device=device,
        move=move,
        fetch=_fetch,
        is_sparse=lambda x: not isinstance(x, cupy.ndarray),
        fold=in_precision(products, fold_in_python),
        compile=_compile(index, products),
        plain_compile=partial(in_precision, products),
        write=partial(_write, device),
        sparse=lambda X: csr(canonical(X), matrices),
        warm=partial(_warm, index),
        tensor_cores=True,
        block_bytes=gpu_block_bytes(device.mem_info[1]),
        free_columns=GPU_COLUMNS,
        free_memory=free_memory,
        own_memory=True,
        upload=partial(upload_ahead, copier=partial(_Copies, index)),
        out_of_memory=partial(is_memory_error, said=_OUT_OF_MEMORY),
        release_memory=partial(_release_memory, index),
        synchronize=device.synchronize,
        kernels={(loss, name): kernel for loss in _LOSSES for name, kernel in kernels.items()},
    )


def _fetch(x: Any) -> Any:
    return cupy.asnumpy(x) if isinstance(x, cupy.ndarray) else x.get()


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
