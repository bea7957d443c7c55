"""Which array library, which device: select, detect, move, compile.

Priority: explicit argument > `use_backend` > ``XPLINEAR_BACKEND`` > the input's own library.
A new backend is one file with ``select``, ``follow`` and ``describe``, plus one line in
``BACKENDS``; the library it wraps is imported there and nowhere else.
"""

from __future__ import annotations

import importlib
import os
from contextvars import ContextVar
from typing import Any, NamedTuple

from xplinear.arguments import TEXT, instance
from xplinear.backends.base import (
    PRECISIONS,
    Backend,
    BackendError,
    host_reads,
    matmul_precision,
)

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Backend",
    "BackendError",
    "BackendStatus",
    "available_backends",
    "backend_of",
    "chosen_backend",
    "get_backend",
    "host_reads",
    "matmul_precision",
    "use_backend",
]


class _Entry(NamedTuple):
    roots: tuple[str, ...]  # top-level modules whose arrays belong to the backend
    install: str


BACKENDS: dict[str, _Entry] = {
    "numpy": _Entry(("numpy",), "pip install numpy"),
    "cupy": _Entry(("cupy",), "pip install 'xplinear[cuda13]' (or [cuda12])"),
    "torch": _Entry(("torch",), "pip install 'xplinear[torch]'"),
    "jax": _Entry(("jax", "jaxlib"), "pip install 'xplinear[jax]'"),
    "array_api_strict": _Entry(("array_api_strict",), "pip install array-api-strict"),
}

_current: ContextVar[str | None] = ContextVar("xplinear_backend", default=None)


class BackendStatus(NamedTuple):
    """One row of `available_backends`."""

    name: str
    available: bool
    version: str
    devices: tuple[str, ...]
    reason: str


_BACKEND = TEXT | instance(Backend, "a Backend")


def _module(name: str) -> Any:
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
    module = _module(name)
    try:
        return module.select(name.partition(":")[2])
    except BackendError as error:
        msg = f"backend {name!r} cannot be used: {error}"
        raise BackendError(msg) from error


class use_backend:  # noqa: N801 - called like a function, with or without `with`
    """Choose the backend for all that follows, or for a ``with`` block.

    Parameters
    ----------
    name : str
        A name `get_backend` knows; checked at once.

    Examples
    --------
    >>> with use_backend("numpy"):
    ...     chosen_backend(None).name
    'numpy'
    """

    def __init__(self, name: str) -> None:
        get_backend(name)
        self._token = _current.set(name)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._token)


def chosen_backend(explicit: str | Backend | None) -> Backend | None:
    """Return the backend somebody chose, by argument, `use_backend` or environment, else None."""
    if explicit is not None:
        return get_backend(explicit)
    name = _current.get() or os.environ.get("XPLINEAR_BACKEND")
    return get_backend(name) if name else None


def backend_of(x: Any) -> Backend:
    """Return the backend an array lives on; anything that is no array lives on NumPy.

    Examples
    --------
    >>> backend_of([[1.0, 2.0]]).name
    'numpy'
    """
    root = type(x).__module__.partition(".")[0]
    for name, entry in BACKENDS.items():
        if root in entry.roots:
            return _module(name).follow(x)
    return get_backend("numpy")


def available_backends() -> list[BackendStatus]:
    """Return the state of every known backend: version and devices, or why it cannot be used.

    Examples
    --------
    >>> [status.name for status in available_backends() if status.name == "numpy"]
    ['numpy']
    """
    rows: list[BackendStatus] = []
    for name in BACKENDS:
        try:
            version, devices = _module(name).describe()
            get_backend(name)
            rows.append(BackendStatus(name, True, version, tuple(devices), ""))
        except BackendError as error:
            rows.append(BackendStatus(name, False, "", (), str(error)))
    return rows
