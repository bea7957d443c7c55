"""Who is compared, one file per program.

A contender is prepared for a problem, which imports its library and is not timed, and gives
``fit(budget) -> (coef, intercept)``, which is: from NumPy arrays to NumPy arrays, anew each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from benchmarks.contenders import (
    jax_scan,
    sklearn_logistic,
    sklearn_one_vs_rest,
    sklearnex_lbfgs,
    torch_lbfgs,
    torch_loop,
    xplinear_fit,
)
from benchmarks.problems import Fit, Problem


class Contender(NamedTuple):
    """How to prepare it, and what its measurement must know."""

    prepare: Callable[[Problem], Fit]
    same_objective: bool = True  # as the problem's, not a relative of it
    compiles: bool = False  # anew for each budget


CONTENDERS: dict[str, Contender] = {
    "xplinear-numpy": Contender(partial(xplinear_fit.prepare, backend="numpy", solver="lbfgs")),
    "xplinear-torch": Contender(partial(xplinear_fit.prepare, backend="torch", solver="lbfgs")),
    "xplinear-jax": Contender(
        partial(xplinear_fit.prepare, backend="jax", solver="lbfgs"), compiles=True
    ),
    "xplinear-sgd": Contender(partial(xplinear_fit.prepare, backend="numpy", solver="sgd")),
    "sklearn-lbfgs": Contender(partial(sklearn_logistic.prepare, solver="lbfgs")),
    "sklearn-newton-cg": Contender(partial(sklearn_logistic.prepare, solver="newton-cg")),
    "sklearn-saga": Contender(partial(sklearn_logistic.prepare, solver="saga")),
    "sklearn-sgd": Contender(sklearn_one_vs_rest.prepare_sgd, same_objective=False),
    "sklearn-linearsvc": Contender(sklearn_one_vs_rest.prepare_svc, same_objective=False),
    "sklearnex-lbfgs": Contender(sklearnex_lbfgs.prepare),
    "torch-lbfgs": Contender(torch_lbfgs.prepare),
    "torch-loop": Contender(torch_loop.prepare),
    "jax-scan": Contender(jax_scan.prepare),
}
