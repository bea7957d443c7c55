"""Exponentials that are no denormal numbers, nor make products with them such."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from xplinear.namespace import Array, Namespace, device

__all__ = ["least_exponent", "shares"]


@cache
def least_exponent(dtype: Any, *, xp: Namespace) -> float:
    """Return log of the least number whose products with numbers above ε are normal.

    Arithmetic with denormal numbers takes some processors ten times as long.

    Examples
    --------
    >>> import numpy as np
    >>> round(least_exponent(np.float32, xp=np), 1), round(least_exponent(np.float64, xp=np), 1)
    (-71.4, -672.4)
    """
    return math.log(float(xp.finfo(dtype).smallest_normal) / float(xp.finfo(dtype).eps))


def shares(D: Array, *, xp: Namespace, precision: float = 1.0) -> tuple[Array, Array]:
    """Return e_j / Σ_i e_i, e = exp(d), and the sum ``(..., 1)``, of ``D (..., k)``, max 0.

    No share is below what `least_exponent` says, or its power ``precision``: to each other they
    are the same to the last bit as if there were no such limit, for k < 1 / ε.
    """
    exponent = precision * least_exponent(D.dtype, xp=xp)
    # A number for `maximum` would be copied to a GPU by torch, which cannot be captured.
    E = xp.exp(xp.maximum(D, xp.full((), exponent, dtype=D.dtype, device=device(D))))
    total = xp.sum(E, axis=-1, keepdims=True)
    return E / total, total
