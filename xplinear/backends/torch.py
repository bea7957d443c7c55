"""PyTorch: CPU, CUDA and MPS tensors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch

from xplinear.backends.base import (
    GPU_COLUMNS,
    Backend,
    BackendError,
    fold_in_python,
    free_host_memory,
    upload_ahead,
)

__all__ = ["describe", "follow", "select"]


def _on(device: torch.device) -> Backend:
    def move(x: Any) -> torch.Tensor:
        if isinstance(x, torch.Tensor):
            return x.detach().to(device)
        array = np.asarray(x)
        # torch shares memory with NumPy but has neither read-only nor negatively strided tensors.
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        return torch.from_numpy(array).to(device)

    backend = Backend(
        name="torch" if device.type == "cpu" else f"torch:{device}",
        xp=xp,
        device=device,
        move=move,
        fetch=_fetch,
        fold=partial(fold_in_python, xp=xp),
        block_bytes=16 * 2**20 if device.type == "cpu" else 256 * 2**20,
        free_columns=1 if device.type == "cpu" else GPU_COLUMNS,
        free_memory=free_host_memory,
        out_of_memory=_out_of_memory,
    )
    if device.type != "cuda":
        return backend
    return replace(
        backend,
        free_memory=partial(_free_gpu_memory, device),
        upload=partial(upload_ahead, copier=partial(_Copies, device)),
        release_memory=torch.cuda.empty_cache,
        synchronize=torch.cuda.synchronize,
    )


class _Copies:
    """The `Copier` of a CUDA device."""

    def __init__(self, device: torch.device, shape: tuple[int, ...], dtype: Any) -> None:
        self._compute = torch.cuda.current_stream(device)
        self._stream = torch.cuda.Stream(device)
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        self._pinned = [torch.empty(shape, dtype=kind, pin_memory=True) for _ in range(2)]
        self._buffers = [torch.empty(shape, dtype=kind, device=device) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)]

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(self._compute)
        return event

    def pinned(self, slot: int) -> np.ndarray[Any, Any]:
        self._copied[slot].synchronize()
        return self._pinned[slot].numpy()

    def copy(self, slot: int, rows: int, free: torch.cuda.Event) -> torch.Tensor:
        there = self._buffers[slot][:rows]
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(free)
            there.copy_(self._pinned[slot][:rows], non_blocking=True)
            self._copied[slot].record(self._stream)
        return there

    def await_copy(self, slot: int) -> None:
        self._compute.wait_event(self._copied[slot])

    def finish(self) -> None:
        self._stream.synchronize()


def _out_of_memory(error: BaseException) -> bool:
    on_host = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return on_host or isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))


def _free_gpu_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def _fetch(x: torch.Tensor) -> np.ndarray[Any, Any]:
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no bfloat16


def select(device: str) -> Backend:
    """Return the backend on ``cpu`` (the default), ``cuda``, ``cuda:1``, ``mps`` ..."""
    try:
        chosen = torch.device(device or "cpu")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        msg = f"torch {torch.__version__} has no device {device!r} here ({error})"
        raise BackendError(msg) from error
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", torch.cuda.current_device())
    return _on(chosen)


def follow(x: torch.Tensor) -> Backend:
    """Return the backend on the device of ``x``."""
    return _on(x.device)


def describe() -> tuple[str, list[str]]:
    """Return version and devices."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return torch.__version__, ["cpu", *cuda, *mps]
