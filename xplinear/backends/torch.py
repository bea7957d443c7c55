"""PyTorch: CPU, CUDA and MPS tensors."""

from __future__ import annotations

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

    return Backend(
        name="torch" if device.type == "cpu" else f"torch:{device}",
        xp=xp,
        device=device,
        move=move,
        fetch=_fetch,
        fold=partial(fold_in_python, xp=xp),
        block_bytes=16 * 2**20 if device.type == "cpu" else 256 * 2**20,
        synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None,
        free_columns=1 if device.type == "cpu" else GPU_COLUMNS,
        free_memory=partial(_free_gpu_memory, device)
        if device.type == "cuda"
        else free_host_memory,
    )


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
