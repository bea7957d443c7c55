"""Which array library, which device: select, detect, move, compile.

Priority: explicit argument > `use_backend` > ``XPLINEAR_BACKEND`` > the input's own library.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextvars import ContextVar
from threading import current_thread, main_thread
from typing import NamedTuple

from xplinear.backends.base import (
    BACKENDS,
    Backend,
    BackendError,
    backend_of,
    get_backend,
    host_reads,
    module_of,
)
from xplinear.backends.precision import PRECISIONS, matmul_precision

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


_choices: ContextVar[tuple[use_backend, ...]] = ContextVar("xplinear_backend", default=())
_of_main: list[use_backend] = []  # the choices of the main thread, for threads that make none


class BackendStatus(NamedTuple):
    """One row of `available_backends`."""

    name: str
    available: bool
    version: str
    devices: tuple[str, ...]
    reason: str


def _forget(choices: Sequence[use_backend]) -> None:
    for choice in choices:
        if choice in _of_main:
            _of_main.remove(choice)


class use_backend:  # noqa: N801 - called like a function, with or without `with`
    """Choose the backend for a ``with`` block, or for all that follows.

    Without ``with`` the choice stands until the next one; ``use_backend(None)`` takes it back.

    Parameters
    ----------
    name : str, Backend or None
        What `get_backend` knows; checked at once. None leaves the choice to
        ``XPLINEAR_BACKEND``, else to the library of the data.

    Notes
    -----
    A choice holds in its own thread, or task of asyncio. Threads that make none follow the last of
    the main thread, such as those of a ``ThreadPoolExecutor`` or of joblib within a block. Other
    processes, such as those of ``cross_val_score(n_jobs=2)``, do not see it: give the estimator
    its ``backend``, or set ``XPLINEAR_BACKEND``.

    Examples
    --------
    >>> with use_backend("numpy"):
    ...     chosen_backend(None).name
    'numpy'
    """

    def __init__(self, name: str | Backend | None) -> None:
        if name is not None:
            get_backend(name)
        self.name = name
        self.entered = False
        self._choose()

    def _choose(self) -> None:
        choices = _choices.get()
        if len(choices) > 1 and not any(choice.entered for choice in choices[-2:]):
            _forget(choices[-2:-1])  # of two choices without `with` the second stands
            choices = choices[:-2] + choices[-1:]
        _choices.set((*choices, self))
        if current_thread() is main_thread():
            _of_main.append(self)

    def __enter__(self) -> None:
        if self.entered or self not in _choices.get()[-1:]:  # not the block it was made for
            self._choose()
        self.entered = True

    def __exit__(self, *exc: object) -> None:
        choices, left = _choices.get(), [self]
        if self in choices:  # else it is left in another context, or once too often
            at = len(choices) - 1 - choices[::-1].index(self)
            choices, left = choices[:at], choices[at:]
            _choices.set(choices)
        _forget(left)


def chosen_backend(explicit: str | Backend | None) -> Backend | None:
    """Return the backend somebody chose, by argument, `use_backend` or environment, else None."""
    if explicit is not None:
        return get_backend(explicit)
    choices = _choices.get()
    if not choices and current_thread() is not main_thread():
        choices = _of_main
    if choices and (chosen := choices[-1].name) is not None:
        return get_backend(chosen)
    name = os.environ.get("XPLINEAR_BACKEND")
    try:
        return get_backend(name) if name else None
    except (ValueError, BackendError) as error:
        msg = f"XPLINEAR_BACKEND: {error}"
        raise type(error)(msg) from error


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
            version, devices = module_of(name).describe()
            get_backend(name)
            rows.append(BackendStatus(name, True, version, tuple(devices), ""))
        except BackendError as error:
            rows.append(BackendStatus(name, False, "", (), str(error)))
    return rows
