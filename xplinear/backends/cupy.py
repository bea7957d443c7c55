"""CuPy: CUDA GPUs."""

from __future__ import annotations

from functools import partial
from typing import Any

import array_api_compat.cupy as xp
import cupy

from xplinear.backends.base import GPU_COLUMNS, Backend, BackendError, fold_in_python

__all__ = ["describe", "follow", "select"]


def _on(index: int) -> Backend:
    device = cupy.cuda.Device(index)

    def move(x: Any) -> cupy.ndarray:
        with device:
            return cupy.asarray(x)

    def synchronize() -> None:
        device.synchronize()

    return Backend(
        name="cupy" if index == 0 else f"cupy:{index}",
        xp=xp,
        device=device,
        move=move,
        fetch=cupy.asnumpy,
        fold=partial(fold_in_python, xp=xp),
        block_bytes=256 * 2**20,
        free_columns=GPU_COLUMNS,
        free_memory=lambda: device.mem_info[0] + cupy.get_default_memory_pool().free_bytes(),
        synchronize=synchronize,
    )


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
