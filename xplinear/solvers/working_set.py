"""The columns of the features that a step looks at, where most weights are and stay zero."""

from __future__ import annotations

from typing import Any, NamedTuple

from xplinear.data import Block
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params, class_scores, scores
from xplinear.solvers.hessian import augmented_rows, column_curvature, rows_hessian

__all__ = ["Columns", "chosen", "hessian", "narrowed", "needed", "ranking", "widened"]

_LEAST = 64  # columns of a working set; of more, up to half may be new


class Columns(NamedTuple):
    """Indices ``(q,)`` of the columns chosen, and for each column its place ``(p,)``, q if none."""

    index: Array
    place: Array


def ranking(
    xp: Namespace, W: Array, gain: Array, marked: Array, running: Array
) -> tuple[Array, Array]:
    """Return the columns ``(p,)`` from the most needed on; how many are in use, and marks.

    In use are those with a weight ``W (p, m, c)`` that is not zero in a model still ``running
    (m,)``; then come those whose ``gain (p, m)`` is largest.
    """
    rows = xp.astype(running, gain.dtype)
    used = xp.max(rows * xp.astype(xp.any(W != 0.0, axis=2), gain.dtype), axis=1)
    gain = xp.max(rows * gain, axis=1)
    largest = xp.max(gain)
    merit = used + 0.5 * gain / xp.where(largest > 0.0, largest, 1.0)
    marks = xp.sum(rows * xp.astype(marked, gain.dtype))
    return xp.argsort(merit, descending=True), xp.stack([xp.sum(used), marks])


def needed(objective: Objective, summary: Array, most: int) -> tuple[int, bool]:
    """Return how many columns to look at, and whether any running model is marked.

    Few sizes, so that JAX compiles for few shapes; the host has to know them. ``most`` is a size
    worth staying within.
    """
    used, marks = objective.data.backend.to_host(summary).tolist()
    size = max(_LEAST, 2 ** (2 * round(used) - 1).bit_length())
    size = most if used <= 0.8 * most < size else size
    return min(objective.data.p, size), marks > 0


def chosen(q: int, xp: Namespace, order: Array) -> Columns:
    """Return the first q columns of a ranking."""
    place = xp.argsort(order)
    return Columns(order[:q], xp.where(place < q, place, q))


def narrowed(a: Array, columns: Columns | None, *, xp: Namespace) -> Array:
    """Return the columns chosen of ``(..., p + 1)``, and the last, which is the intercept's."""
    if columns is None:
        return a
    return xp.concat([xp.take(a, columns.index, axis=-1), a[..., -1:]], axis=-1)


def widened(few: Array, rest: Array, columns: Columns | None, *, xp: Namespace) -> Array:
    """Return ``(m, c, p + 1)``: what was chosen from ``few (m, c, q + 1)``, the others' rest."""
    if columns is None:
        return few
    W = xp.take(few, columns.place, axis=2)
    W = xp.where(columns.place < columns.index.shape[0], W, rest[:, :, :-1])
    return xp.concat([W, few[:, :, -1:]], axis=2)


def _block(
    loss: Any,
    free: float,
    xp: Namespace,
    block: Block,
    params: Params,
    centre: Array,
    columns: Columns | None,
) -> tuple[Array]:
    X, y, s = block
    Z = scores(X, params, xp=xp)
    M = loss.hessian(class_scores(Z, xp=xp), y, xp=xp)
    M = column_curvature(M) if Z.shape[-1] == 1 else M
    M = M if s is None else M * s[:, :, None, None]
    if columns is not None:
        X, centre = (xp.take(a, columns.index, axis=-1) for a in (X, centre))
    return (rows_hessian(augmented_rows(X, centre, free, xp=xp), M, xp=xp),)


def hessian(
    objective: Objective, params: Params, centre: Array, columns: Columns | None = None
) -> Array:
    """Return the Hessian of the mean loss in some columns ``(m, c(q + 1), c(q + 1))``.

    As `xplinear.solvers.hessian.loss_grad_and_hessian`; ``centre (p,)``.
    """
    data, xp = objective.data, objective.xp
    p, m, c = params.W.shape
    q = p if columns is None else columns.index.shape[0]
    held = m * objective.k + m * c * c * (q + 1)  # what a row makes
    static = objective.loss, float(objective.fit_intercept), xp
    (H,) = data.reduce(_block, static, params, centre, columns, scores=held // 4 + 1)
    return H / xp.astype(data.weight_sum, H.dtype)[:, None, None]
