"""array-api-strict: the standard and nothing else, for tests and parity."""

from __future__ import annotations

from typing import Any

import array_api_strict as xp
import numpy as np

from xplinear.backends.base import Backend, BackendError, native
from xplinear.namespace import HostArray

__all__ = ["describe", "follow", "select"]

_CPU = xp.Device("CPU_DEVICE")


def _on(device: Any) -> Backend:
    def move(x: Any) -> Any:
        if isinstance(x, type(xp.empty(0))):
            return x if x.device == device else xp.asarray(_fetch(x), device=device)
        array = native(x)
        try:
            return xp.asarray(array, device=device)
        except TypeError as error:
            msg = (
                f"array-api-strict has no arrays of dtype {array.dtype}; convert them to float32, "
                "or choose another backend"
            )
            raise TypeError(msg) from error

    name = "array_api_strict" if device == _CPU else f"array_api_strict:{_name(device)}"
    return Backend(name=name, xp=xp, device=device, move=move, fetch=_fetch)


def _name(device: Any) -> str:
    return str(device).split("'")[1]  # its only public form is the repr


def _fetch(x: Any) -> HostArray:
    """Return a NumPy array; other devices than the CPU refuse a direct conversion."""
    return np.asarray(x if x.device == _CPU else x.to_device(_CPU))


def select(device: str) -> Backend:
    """Return the backend on ``CPU_DEVICE`` (the default), ``device1`` or ``device2``."""
    try:
        return _on(xp.Device(device or "CPU_DEVICE"))
    except ValueError as error:
        msg = f"array-api-strict has no device {device!r}"
        raise BackendError(msg) from error


def follow(x: Any) -> Backend:
    """Return the backend on the device of ``x``."""
    return _on(x.device)


def describe() -> tuple[str, list[str]]:
    """Return version and devices."""
    return xp.__version__, [_name(device) for device in xp.__array_namespace_info__().devices()]
