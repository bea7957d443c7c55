"""How many models are solved together, and what happens where memory does not hold them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

from xplinear.arguments import warn
from xplinear.objective import Objective

__all__ = ["STATE_VECTORS", "WIDE", "within_memory"]

STATE_VECTORS = 32  # arrays of the size of the weights that a solver holds
WIDE = 640  # columns from which a product of matrices on a CPU no longer gains by more

_Found = TypeVar("_Found")


def within_memory(objective: Objective, solve: Callable[[], _Found]) -> _Found | None:
    """Return what ``solve()`` does; None, with a warning, where memory does not hold the stack.

    Half as many models are then to be tried; a single one must fit.
    """
    backend, m = objective.data.backend, objective.m
    try:
        return solve()
    except Exception as error:
        if m == 1 or not backend.out_of_memory(error):
            raise
    # Not in `except`: until its end, the traceback holds the arrays of the run that failed.
    gc.collect()
    backend.release_memory()
    warn(
        f"out of memory with a stack of {m} models; going on with half as many at a time: "
        "results are the same within tol, it takes more passes",
        RuntimeWarning,
    )
    return None
