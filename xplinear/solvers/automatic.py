"""What ``solver="auto"`` means: the first solver that can do a problem, and is worth it."""

from __future__ import annotations

from xplinear.objective import Objective
from xplinear.solvers import SOLVERS
from xplinear.solvers.gram import gram_pays
from xplinear.solvers.protocol import declared

__all__ = ["automatic_solver", "cheap_optimum", "cheap_passes", "shared_passes"]

_PREFERRED = "newton", "newton_cg", "lbfgs", "proximal_lbfgs", "interior_point", "smoothing"
_FEWER = 20  # times fewer passes that products with the Hessian need
_CHEAP_PASS = 2e7  # products of numbers up to which a thousand passes take seconds
_SHARED_PASS = 1e9  # numbers of X up to which some dozens do, for each of many models


def cheap_passes(entries: int, k: int) -> bool:
    """Whether going to the optimum takes seconds: of so many numbers of X, and k classes."""
    return entries * k <= _CHEAP_PASS


def cheap_optimum(objective: Objective) -> bool:
    """Whether going to the optimum takes seconds: of sparse rows that needs some 100 passes.

    A step of SGD moves all weights, however few entries a row has: there it saves less, too; and
    of rows in partitions its epochs gain nothing by further machines.
    """
    data = objective.data
    if data.distant:  # passes have all machines at once, epochs one at a time
        return True
    fewer = _FEWER if data.sparse and automatic_solver(objective) == "newton_cg" else 1
    return cheap_passes(data.entries // fewer, objective.k)


def shared_passes(objective: Objective) -> bool:
    """Whether many models reach the optimum in about the time that epochs of SGD take.

    They share a Gram matrix and wide products, in which batches of few rows are no faster.
    """
    lbfgs, data = SOLVERS["lbfgs"](), objective.data
    smooth = declared(lbfgs, "refuses")(objective.loss, objective.penalty) is None
    small = data.entries <= _SHARED_PASS
    return objective.m > 1 and smooth and small and gram_pays(objective)


def automatic_solver(
    objective: Objective, lanes: int = 1, strengths: int = 1, *, penalized: bool = True
) -> str:
    """Return the name of the solver that finds the optimum of this objective, or ``sgd``.

    ``lanes`` models are solved at a time, which follow a path of ``strengths``; a solver that
    follows none solves all at once.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear import losses, penalties
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> loss, penalty = losses.MulticlassHingeLoss(), penalties.L2Penalty()
    >>> automatic_solver(Objective(loss, penalty, np.ones(1), data, k=3))
    'interior_point'
    """
    for name in _PREFERRED:
        solver = SOLVERS[name]()
        models = lanes if declared(solver, "follow") else lanes * strengths
        if (
            declared(solver, "refuses")(objective.loss, objective.penalty) is None
            and declared(solver, "pays")(objective, models)
            and (penalized or not declared(solver, "needs_alpha"))
        ):
            return name
    return "sgd"
