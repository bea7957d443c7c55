"""How well scores rank rows: m columns of scores against m columns of 0/1 labels, by sorting.

Rows of equal scores stand at one threshold, as in scikit-learn. A column that nothing can be said
of, for want of rows of the one kind or the other, is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from xplinear.namespace import Array, Namespace, accumulator, device

__all__ = ["average_precision", "by_columns", "roc_auc"]

_ENTRIES = 2**22  # sorted at once: some 60 bytes each


def by_columns(
    measure: Callable[..., Array], Z: Array, hits: Array, s: Array | None, *, xp: Namespace
) -> Array:
    """Return a measure of every column ``(m,)``, of as many at a time as memory bears."""
    (n, m), each = Z.shape, s is not None and s.shape[1] > 1
    few = max(1, _ENTRIES // n)
    parts = [slice(start, min(start + few, m)) for start in range(0, m, few)]
    values = [
        measure(Z[:, at], hits[:, at], s[:, at] if each else s, xp=xp)  # type: ignore[index]
        for at in parts
    ]
    return xp.concat(values, axis=0)


def roc_auc(Z: Array, hits: Array, s: Array | None = None, *, xp: Namespace) -> Array:
    """Return the share ``(m,)`` of the pairs of a hit and another row that are ranked rightly.

    Parameters
    ----------
    Z : Array of shape (n, m)
    hits : Array of bool of shape (n, m)
    s : Array of shape (n, 1) or (n, m), optional
        Weights.

    Examples
    --------
    >>> import numpy as np
    >>> Z, hits = np.asarray([[0.1], [0.4], [0.4], [0.8]]), np.asarray([[0], [0], [1], [1]]) > 0
    >>> roc_auc(Z, hits, xp=np)
    array([0.875])
    """
    hit, other = _weights(Z, hits, s, xp=xp)
    hit, other = _ranked(Z, hit, other, xp=xp)
    pairs = xp.sum(hit.own, axis=1) * xp.sum(other.own, axis=1)
    right = xp.sum(other.own * 0.5 * (hit.above + hit.down_to), axis=1)
    return _share(right, pairs, xp=xp)


def average_precision(Z: Array, hits: Array, s: Array | None = None, *, xp: Namespace) -> Array:
    """Return the mean precision ``(m,)`` at the scores of the hits.

    Parameters are those of `roc_auc`.

    Examples
    --------
    >>> import numpy as np
    >>> Z, hits = np.asarray([[0.1], [0.4], [0.4], [0.8]]), np.asarray([[0], [0], [1], [1]]) > 0
    >>> average_precision(Z, hits, xp=np).round(4)
    array([0.8333])
    """
    hit, other = _weights(Z, hits, s, xp=xp)
    hit, other = _ranked(Z, hit, other, xp=xp)
    precision = _share(hit.down_to, hit.down_to + other.down_to, xp=xp, instead=0.0)
    return _share(xp.sum(hit.own * precision, axis=1), xp.sum(hit.own, axis=1), xp=xp)


class _Ranked(NamedTuple):
    """Weights ``(m, n)`` from the largest score on, and their sums at each row's score."""

    own: Array
    above: Array  # of larger scores
    down_to: Array  # of larger and equal ones


def _ranked(Z: Array, *weights: Array, xp: Namespace) -> list[_Ranked]:
    n, m = Z.shape
    order = xp.argsort(-Z.T, axis=1)
    Z = xp.take_along_axis(Z.T, order, axis=1)
    differs = xp.astype(Z[:, 1:] != Z[:, :-1], order.dtype)
    group = xp.concat([xp.zeros_like(order[:, :1]), differs], axis=1)
    # Thresholds by their number, ascending through all columns: one search finds them all.
    column = xp.arange(m, dtype=order.dtype, device=device(Z))[:, None]
    group = xp.reshape(xp.cumulative_sum(group, axis=1) + n * column, (-1,))
    first, end = (xp.searchsorted(group, group, side=side) for side in ("left", "right"))
    ranked: list[_Ranked] = []
    for weight in weights:
        own = xp.take_along_axis(weight.T, order, axis=1)
        sums = xp.cumulative_sum(own, axis=1)
        above, down_to = xp.reshape(sums - own, (-1,)), xp.reshape(sums, (-1,))
        ranked.append(
            _Ranked(
                own,
                xp.reshape(xp.take(above, first), (m, n)),
                xp.reshape(xp.take(down_to, end - 1), (m, n)),
            )
        )
    return ranked


def _weights(Z: Array, hits: Array, s: Array | None, *, xp: Namespace) -> tuple[Array, Array]:
    """Return the weights ``(n, m)`` of the hits and of the other rows."""
    wide = accumulator(Z, xp=xp)
    s = xp.ones_like(Z, dtype=wide) if s is None else xp.astype(s, wide)
    none = xp.zeros_like(s)
    return xp.where(hits, s, none), xp.where(hits, none, s)


def _share(part: Array, whole: Array, *, xp: Namespace, instead: float = math.nan) -> Array:
    return xp.where(whole > 0, part / xp.where(whole > 0, whole, 1.0), instead)
