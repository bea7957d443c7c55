"""The weights that a step looks at, where most are and stay zero: of each class some columns."""

from __future__ import annotations

from typing import Any, NamedTuple

from xplinear.data import Block
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params
from xplinear.solvers.hessian import augmented_rows, row_curvature, rows_hessian

__all__ = ["Columns", "chosen", "hessian", "narrowed", "needed", "ranking", "widened"]

_LEAST = 64  # columns of a working set; of more, up to half may be new


class Columns(NamedTuple):
    """Of each class the columns chosen ``(c, q)``; every column's place ``(c, p)``, q if none."""

    index: Array
    place: Array


def ranking(
    xp: Namespace, W: Array, gain: Array, marked: Array, running: Array
) -> tuple[Array, Array]:
    """Return each class's columns ``(c, p)`` from the most needed on; most in use, and marks.

    In use are those with a weight ``W (p, m, c)`` that is not zero in a model still ``running
    (m,)``; then come those whose ``gain (m, c, p)`` is largest. ``marked (m,)`` models that run
    are counted.
    """
    rows = xp.astype(running, gain.dtype)
    each = rows[:, None, None]
    used = each * xp.astype(xp.permute_dims(W, (1, 2, 0)) != 0.0, gain.dtype)
    total, used = xp.sum(used, axis=(1, 2)), xp.max(used, axis=0)
    gain = xp.max(each * gain, axis=0)
    largest = xp.max(gain)
    merit = used + 0.5 * gain / xp.where(largest > 0.0, largest, 1.0)
    marks = xp.sum(rows * xp.astype(marked, gain.dtype))
    most = xp.max(xp.sum(used, axis=1))
    return xp.argsort(-merit, axis=1), xp.stack([most, xp.max(total), marks])


def needed(objective: Objective, summary: Array, most: int) -> tuple[int, int, bool]:
    """Return how many columns to look at, weights that may be in use, and if a model is marked.

    Few sizes, so that JAX compiles for few shapes; the host has to know them. ``most`` is a size
    worth staying within.
    """
    used, total, marks = map(round, objective.data.backend.to_host(summary).tolist())
    size = _rounded(used + used // 2 + _LEAST // 2)
    size = most if used <= 0.8 * most < size else size
    return min(objective.data.p, size), _rounded(total + total // 4 + _LEAST), marks > 0


def _rounded(size: int) -> int:
    """Return the next larger of 2ⁱ and 3·2ⁱ."""
    power = 2 ** (size - 1).bit_length()
    return 3 * power // 4 if size <= 3 * power // 4 else power


def chosen(q: int, xp: Namespace, order: Array) -> Columns:
    """Return the first q columns of each class in a ranking."""
    place = xp.argsort(order, axis=1)
    return Columns(order[:, :q], xp.where(place < q, place, q))


def narrowed(a: Array, columns: Columns | None, *, xp: Namespace) -> Array:
    """Return the columns chosen of ``(m, c, p + 1)``, and the last, which is the intercept's."""
    if columns is None:
        return a
    few = xp.take_along_axis(a, columns.index[None, :, :], axis=2)
    return xp.concat([few, a[:, :, -1:]], axis=2)


def widened(few: Array, rest: Array, columns: Columns | None, *, xp: Namespace) -> Array:
    """Return ``(m, c, p + 1)``: what was chosen from ``few (m, c, q + 1)``, the others' rest."""
    if columns is None:
        return few
    W = xp.take_along_axis(few, columns.place[None, :, :], axis=2)
    W = xp.where(columns.place < few.shape[2] - 1, W, rest[:, :, :-1])
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
    """Return Σ_i M_i,lk x_il x_ikᵀ ``(m, c(q + 1), c(q + 1))``, each class with its columns."""
    M = row_curvature(loss, block, params, xp=xp)
    if columns is None:
        X = augmented_rows(block.rows.dense(), centre, free, xp=xp)
        return (rows_hessian(X, M, xp=xp),)
    c, q = columns.index.shape
    index = xp.reshape(columns.index, (c * q,))
    rows = block.rows.columns(index, xp=xp) - xp.take(centre, index)
    rows = xp.reshape(rows, (M.shape[0], c, q))
    rows = xp.concat([rows, xp.full_like(rows[:, :, :1], free)], axis=2)
    rows = xp.permute_dims(rows, (1, 0, 2))
    weighted = xp.permute_dims(M, (1, 2, 3, 0))[:, :, :, :, None] * rows  # (m, c, c, r, q + 1)
    H = xp.matrix_transpose(rows)[:, None, :, :] @ weighted
    H = xp.permute_dims(H, (0, 1, 3, 2, 4))
    return (xp.reshape(H, (M.shape[1], c * (q + 1), c * (q + 1))),)


def hessian(
    objective: Objective, params: Params, centre: Array, columns: Columns | None = None
) -> Array:
    """Return the Hessian of the mean loss in some columns ``(m, c(q + 1), c(q + 1))``.

    As `xplinear.solvers.hessian.loss_grad_and_hessian`; ``centre (p,)``.
    """
    data, xp = objective.data, objective.xp
    p, m, c = params.W.shape
    q = p if columns is None else columns.index.shape[1]
    held = m * objective.k + m * c * c * (q + 1)  # what a row makes
    static = objective.loss, float(objective.fit_intercept), xp
    (H,) = data.reduce(_block, static, params, centre, columns, scores=held // 4 + 1)
    return data.backend.compile(_mean, xp)(H, data.weight_sum)


def _mean(xp: Namespace, H: Array, weight: Array) -> Array:
    return H / xp.astype(weight, H.dtype)[:, None, None]
