"""Each column's own curvature, measured on a sample of the rows: a preconditioner for L-BFGS."""

from __future__ import annotations

from typing import Any

from xplinear.data import Block
from xplinear.data.rows import Rows
from xplinear.losses.true_class import diagonal
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params, columns
from xplinear.solvers.hessian import augmented_rows, has_hessian, row_curvature
from xplinear.solvers.metric import safe_divisor

__all__ = ["CURVED", "curvature_pays", "inverse_hessian", "mean_inverse_hessians"]

CURVED = 1024  # rows of most curvature, of each class; twice as many help no more
_ROWS = 32768  # among which they are looked for, unless these hold more than so many numbers
_ENTRIES = 2**26
_CHEAP_ENTRIES = 2**20  # of rows that are taken even if they have little
_BLOCK_ENTRIES = 2**27
_DAMPING = 0.1  # of the mean curvature of a feature
_MANY = 16  # iterations: fewer are not worth shortening


def curvature_pays(objective: Objective, iterations: int) -> bool:
    """Return whether `mean_inverse_hessians` costs less than half of so many iterations."""
    n, p, m, k = objective.data.n, objective.data.p, objective.m, objective.k
    small = columns(objective.loss, k) * (p + 1) ** 2 <= _BLOCK_ENTRIES
    small = small and CURVED * m * k**2 <= _ENTRIES and has_hessian(objective.loss)
    return small and iterations > _MANY and 2 * p * (p + CURVED) <= n * m * iterations


def mean_inverse_hessians(objective: Objective, params: Params, pre: Any) -> Array:
    """Return the inverse of each column's block of the Hessian ``(m, c, p + 1, p + 1)``.

    It is that of the mean of the models, all of one α. Rows that a model is sure of have next to
    no curvature, and the others are different ones for each class: where the penalty is weak, the
    Gram matrix of all rows is far from the Hessian.
    """
    data, xp = objective.data, objective.xp
    rows = min(_ROWS, _ENTRIES // max(data.p, objective.m * objective.k**2))
    block = data.sample(max(64, rows))
    weights = data.backend.compile(_curvatures, objective.loss, xp)(block, params)
    most, free = max(CURVED, _CHEAP_ENTRIES // data.p), float(objective.fit_intercept)
    invert = data.backend.compile(inverse_hessian, most, free, xp)
    inverses = xp.stack(
        [
            invert(block.rows, weights[j, :], pre.centre[:, 0], pre.basis, objective.alpha[0])
            for j in range(weights.shape[0])
        ]
    )
    return xp.broadcast_to(inverses[None, ...], (objective.m, *inverses.shape))


def _curvatures(loss: Any, xp: Namespace, block: Block, params: Params) -> Array:
    """Return each row's share in the curvature of each column ``(c, n)``, mean of the models."""
    h = xp.linalg.diagonal(row_curvature(loss, block, params, xp=xp))
    total = xp.sum(block.weights(xp=xp), axis=0)
    return xp.mean(h / safe_divisor(total, xp=xp)[:, None], axis=1).T


def inverse_hessian(
    most: int,
    free: float,
    xp: Namespace,
    rows: Rows,
    weight: Array,
    centre: Array,
    basis: Array,
    alpha: Array,
) -> Array:
    """Return the inverse ``(p + 1, p + 1)`` of the Hessian of one column, the intercept last.

    ``weight (n,)`` is what each row has of its curvature; the ``most`` that have most are taken.
    """
    index = xp.argsort(weight, descending=True)[: min(most, rows.shape[0])]
    h = xp.take(weight, index)
    h = h * (xp.sum(weight) / safe_divisor(xp.sum(h), xp=xp))
    X = augmented_rows(rows.take(index, xp=xp).common(xp=xp), centre, free, xp=xp)
    X = X * xp.sqrt(h)[:, None]
    H = X.T @ X
    # Squared units in which features compare.
    scale = xp.sum(basis * basis, axis=1) if basis.shape[1] else xp.ones_like(centre)
    own = xp.linalg.diagonal(H)
    typical = _DAMPING * safe_divisor(xp.mean(own[:-1] * scale), xp=xp)
    ridge = 1e-3 * safe_divisor(own[-1:], xp=xp)
    return xp.linalg.inv(H + diagonal(xp.concat([alpha + typical / scale, ridge]), xp=xp))
