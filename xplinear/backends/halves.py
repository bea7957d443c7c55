"""float16 on the CPU by its bits: NumPy converts and compares such numbers one at a time.

That takes ten times as long as these few operations on integers, more than the products with X.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xplinear.namespace import HostArray

__all__ = ["half_bounds", "widened"]

_PIECE = 2**17  # numbers that stay in the second-level cache
_INFINITY, _BELOW = 0x7C00, 0xFC00  # from here on are +∞ and NaN; of numbers below 0, -∞ and NaN
_SIGN_AND_REST = np.int32(-(2**31) + (2**28 - 2**13))
_BIAS = np.float32(2.0 ** (127 - 15))  # between the exponents of float32 and of float16
_LEAST = np.float32(2.0 ** (-24 - 112))  # what the least number is before that


def widened(x: HostArray, dtype: Any) -> HostArray | None:
    """Return float16 numbers in a wider dtype, in the same order in memory; None of others.

    Examples
    --------
    >>> widened(np.asarray([0.1, -2.0], np.float16), np.float32)
    array([ 0.09997559, -2.        ], dtype=float32)
    """
    if x.dtype != np.float16 or dtype not in (np.float32, np.float64) or not x.ndim:
        return None
    if not _LEAST * _BIAS:  # a library has told the processor to take such numbers for 0
        return None
    wide = np.empty_like(x, dtype)
    size = max(1, _PIECE // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), size):
        own, into = x[start : start + size], wide[start : start + size]
        half = own.view(np.int16)
        if half.max() >= _INFINITY or half.view(np.uint16).max() >= _BELOW:
            np.copyto(into, own)
            continue
        single = into if into.dtype == np.float32 else np.empty_like(own, np.float32)
        bits = single.view(np.int32)
        np.copyto(bits, half)
        np.left_shift(bits, 13, out=bits)
        np.bitwise_and(bits, _SIGN_AND_REST, out=bits)
        np.multiply(single, _BIAS, out=into)
    return wide


def half_bounds(X: HostArray) -> HostArray:
    """Return the least and the greatest float16 of each column ``(2, p)``.

    Where a column holds a NaN, one of them is NaN.

    Examples
    --------
    >>> half_bounds(np.asarray([[1.0, -2.0], [3.0, -0.5]], np.float16))
    array([[ 1. , -2. ],
           [ 3. , -0.5]], dtype=float16)
    """
    ordered = _ordered(X.view(np.int16))
    ends = np.stack([ordered.min(axis=0), ordered.max(axis=0)])
    return _ordered(ends).view(np.float16)


def _ordered(bits: HostArray) -> HostArray:
    """Return integers in the order of the numbers; of these, the bits again."""
    return bits ^ ((bits >> 15) & 0x7FFF)
