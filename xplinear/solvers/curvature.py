"""Each column's own curvature, measured on a sample of the rows: a preconditioner for L-BFGS."""

from __future__ import annotations

from typing import Any

from xplinear.data import Block
from xplinear.data.protocol import compiled, row_width
from xplinear.data.rows import Rows
from xplinear.losses.true_class import diagonal
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params, columns
from xplinear.solvers.gram import LARGEST_GRAM
from xplinear.solvers.hessian import augmented_rows, curvatures, has_hessian
from xplinear.solvers.metric import safe_divisor

__all__ = [
    "CURVED",
    "curvature_pays",
    "inverse_hessian",
    "inverse_hessians",
    "mean_inverse_hessians",
    "own_curvature_pays",
    "own_inverse_hessians",
]

CURVED = 1024  # rows of most curvature, of each class; twice as many help no more
_ROWS = 32768  # among which they are looked for, unless these hold more than so many numbers
_ENTRIES = 2**26
_CHEAP_ENTRIES = 2**20  # of rows that are taken even if they have little
_BLOCK_ENTRIES = 2**27
_DAMPING = 0.1  # of the mean curvature of a feature
_MANY = 16  # iterations: fewer are not worth shortening
_SAVED = 0.75  # of the iterations that are left
_SMALL = 1024  # features; Hessians of more are worth several threads each
_SORTING = 1000  # operations per row, to find those of most curvature
_WORTH = 3e9  # operations left: fewer take a fraction of a second


def curvature_pays(objective: Objective, iterations: int) -> bool:
    """Return whether the mean model's Hessian costs less than half of so many iterations."""
    p, m = objective.data.p, objective.m
    cost = 2 * p * p * (p + CURVED)
    pays = iterations > _MANY and cost <= objective.data.entries * m * iterations
    return pays and _feasible(objective, models=1)


def own_curvature_pays(objective: Objective, iterations: float) -> bool:
    """Return whether each model's own Hessian costs less than it saves of so many iterations."""
    p, sampled = objective.data.p, _sampled(objective)
    cost = 2 * p * p * (p + min(_taken(p), sampled)) + _SORTING * sampled  # of each column
    work = 4 * objective.data.entries * iterations
    worth = work * objective.m * columns(objective.loss, objective.k) >= _WORTH
    return worth and cost <= _SAVED * work and _feasible(objective, objective.m)


def _feasible(objective: Objective, models: int) -> bool:
    """Return whether memory holds the Hessians of so many models, and the loss has one."""
    m, k, p = objective.m, objective.k, objective.data.p
    small = models * columns(objective.loss, k) * (p + 1) ** 2 <= _BLOCK_ENTRIES
    small = small and (p <= LARGEST_GRAM or not objective.data.sparse)
    return small and CURVED * m * k**2 <= _ENTRIES and has_hessian(objective.loss)


def _sampled(objective: Objective) -> int:
    """Return among how many rows those of most curvature are looked for."""
    rows = min(_ROWS, _ENTRIES // max(row_width(objective.data), objective.m * objective.k**2))
    return min(objective.data.n, max(64, rows))


def _taken(p: int) -> int:
    """Return how many rows of most curvature there are to be."""
    return max(CURVED, _CHEAP_ENTRIES // p)


def mean_inverse_hessians(objective: Objective, params: Params, pre: Any) -> Array:
    """Return the inverse of each column's block of the Hessian ``(1, c, p + 1, p + 1)``.

    It is that of the mean of the models, all of one α. Rows that a model is sure of have next to
    no curvature, and the others are different ones for each class: where the penalty is weak, the
    Gram matrix of all rows is far from the Hessian.
    """
    return _measured(objective, params, pre, shared=True)


def own_inverse_hessians(objective: Objective, params: Params, pre: Any) -> Array:
    """Return those of each model ``(m, c, p + 1, p + 1)``: see `mean_inverse_hessians`."""
    return _measured(objective, params, pre, shared=False)


def _measured(objective: Objective, params: Params, pre: Any, *, shared: bool) -> Array:
    block = objective.data.sample(_sampled(objective))
    measure = compiled(objective.data, _curvatures, objective.loss, shared, objective.xp)
    weights = measure(block, params)
    return inverse_hessians(objective, block.rows, weights, pre, most=_taken(objective.data.p))


def inverse_hessians(
    objective: Objective, rows: Rows, weights: Array, pre: Any, *, most: int
) -> Array:
    """Return the inverse Hessians ``(g, c, p + 1, p + 1)``, by weights ``(g, c, n)`` of rows.

    ``most`` rows are taken for each; ``objective.alpha`` holds the strengths of the g.
    """
    xp, free, backend = objective.xp, float(objective.fit_intercept), objective.data.backend
    invert = compiled(objective.data, inverse_hessian, most, free, xp)
    g, c, _ = weights.shape

    def inverse(column: tuple[int, int]) -> Array:
        j, i = column
        centre, basis = pre.centre[:, 0], pre.basis
        return invert(rows, weights[j, i, :], centre, basis, objective.alpha[j])

    one_by_one = iter([(j, i) for j in range(g) for i in range(c)])
    if g * c > 1 and objective.data.p <= _SMALL:
        inverses = list(backend.each(inverse, one_by_one))
    else:
        with backend.products(objective.data.p**3):
            inverses = list(map(inverse, one_by_one))
    return xp.reshape(xp.stack(inverses), (g, c, *inverses[0].shape))


def _curvatures(loss: Any, shared: bool, xp: Namespace, block: Block, params: Params) -> Array:
    """Return each row's share in the curvature of each column ``(m, c, n)``, or the mean's."""
    rows, y, s = block
    h = curvatures(loss, rows.scores(*params, xp=xp), y, xp=xp)
    h = h if s is None else h * s[:, :, None]
    h = h / safe_divisor(xp.sum(block.weights(xp=xp), axis=0), xp=xp)[:, None]
    return xp.permute_dims(xp.mean(h, axis=1, keepdims=True) if shared else h, (1, 2, 0))


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
    index = xp.argsort(weight, descending=True, stable=False)[: min(most, rows.shape[0])]
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
