"""NumPy: the CPU, and the host every other backend moves data to and from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import array_api_compat.numpy as xp
import numpy as np

from xplinear.backends.base import Backend, BackendError, fetched, write_in_place
from xplinear.backends.epoch import Epoch
from xplinear.backends.threads import blas
from xplinear.backends.transfer import read_rows
from xplinear.losses import SoftmaxLoss
from xplinear.namespace import HostArray, Namespace

__all__ = ["describe", "follow", "select"]

_PIECE_BYTES = 4 * 2**20


def _fold(epoch: Epoch) -> Any:
    """Fold as `fold_in_python` does, while a thread gathers the rows of the next batches.

    Scattered reads wait for memory, not for the processor; `take` releases the interpreter lock.
    """
    carry, step, size, n = epoch.carry, epoch.step, epoch.size, len(epoch.order)
    order = epoch.order.astype(np.intp)  # once, not in every `take`
    row_bytes = sum(a[:1].nbytes for a in epoch.rows if a is not None)
    per_piece = size * max(1, min(_PIECE_BYTES // (size * row_bytes), -(-n // size)))
    # Two pieces in turn, in the same memory: fresh memory would cost a page fault per 4 KiB.
    pieces = [
        [None if a is None else np.empty((per_piece, *a.shape[1:]), a.dtype) for a in epoch.rows]
        for _ in range(1 + (n > per_piece))
    ]

    def gather(start: int) -> list[HostArray | None]:
        index = order[start : start + per_piece]
        piece = pieces[start // per_piece % 2]
        return [
            a if a is None or into is None else read_rows(a, index, into)
            for a, into in zip(epoch.rows, piece, strict=True)
        ]

    factors = iter(epoch.schedule)
    with ThreadPoolExecutor(1) as thread, blas.products(2.0 * size * _numbers(carry)):
        piece = gather(0)
        for start in range(0, n, per_piece):
            coming = thread.submit(gather, start + per_piece) if start + per_piece < n else None
            for i in range(0, min(per_piece, n - start), size):
                rows = tuple(None if a is None else a[i : i + size] for a in piece)
                carry = step(carry, rows, next(factors))
            piece = coming.result() if coming else piece
    return carry


def _numbers(part: Any) -> int:
    """Return how many the largest array in nested tuples holds: of a carry, its weights."""
    if isinstance(part, tuple):
        return max(map(_numbers, cast("tuple[Any, ...]", part)), default=0)
    return np.size(part)


def _softmax(
    loss: SoftmaxLoss, Z: HostArray, y: HostArray, *, xp: Namespace
) -> tuple[HostArray, HostArray]:
    """Softmax loss and gradient in one buffer, classes first: reductions then run over rows."""
    del loss, xp
    n, m, k = Z.shape
    G = Z.reshape(n * m, k).T.copy()
    y = y.reshape(-1) if y.size == n * m else np.repeat(y, m)
    true = np.multiply(y, n * m, dtype=np.intp) + np.arange(n * m)
    G -= np.maximum.reduce(G, axis=0)
    flat = G.reshape(-1)
    value = flat.take(true)
    np.exp(G, out=G)
    total = np.add.reduce(G, axis=0)
    value = np.log(total) - value
    G /= total
    flat[true] -= 1.0
    return value.reshape(n, m), G.T.reshape(n, m, k)


_BACKEND = Backend(
    name="numpy",
    xp=xp,
    device="cpu",
    move=fetched,
    fetch=np.asarray,
    block_bytes=2 * 2**20,  # a block and its scores stay in the second-level cache
    fold=_fold,
    write=write_in_place,
    over=lambda x: bool(x.all()),
    each=blas.each,
    products=blas.products,
    kernels={(SoftmaxLoss, "value_and_grad"): _softmax},
)


def select(device: str) -> Backend:
    """Return the backend; it has one device."""
    if device not in ("", "cpu"):
        msg = f"NumPy has no device {device!r}; use 'numpy'"
        raise BackendError(msg)
    return _BACKEND


def follow(_: Any) -> Backend:
    """Return the backend of a NumPy array."""
    return _BACKEND


def describe() -> tuple[str, list[str]]:
    """Return version and devices."""
    return np.__version__, ["cpu"]
