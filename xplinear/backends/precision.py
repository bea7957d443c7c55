"""How matrices of float32 are multiplied: exactly, or in TF32 by tensor cores."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from xplinear.arguments import one_of

__all__ = ["PRECISIONS", "in_precision", "matmul_precision"]

PRECISIONS = "float32", "tf32"
_tf32: ContextVar[bool] = ContextVar("xplinear_tf32", default=False)


@contextmanager
def matmul_precision(name: str) -> Generator[None]:
    """Choose how backends with tensor cores multiply float32 matrices: ``float32`` or ``tf32``.

    Whatever a backend compiles or folds within is concerned, whatever the settings of the library
    it wraps.
    """
    token = _tf32.set(one_of(*PRECISIONS)("precision", name) == "tf32")
    try:
        yield
    finally:
        _tf32.reset(token)


def in_precision(
    products: Callable[[bool], AbstractContextManager[Any]],
    function: Callable[..., Any],
    *static: Hashable,
) -> Callable[..., Any]:
    """Return ``function`` with its static arguments bound, run in the precision chosen.

    ``products(tf32)`` gives a context in which float32 matrices are multiplied in TF32, or not.
    """

    def call(*args: Any, **named: Any) -> Any:
        with products(_tf32.get()):
            return function(*static, *args, **named)

    return call
