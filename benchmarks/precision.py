"""What rounder products and rounder rows cost: TF32 emulated on the CPU, and X in bfloat16.

Softmax with L2: the first 10,000 rows of Fashion-MNIST scaled to [0, 1], alpha = 1e-3, and of the
power law of `benchmarks.problems` (features of very different scales), alpha = 1e-5. All in
float32, except:

- tf32: ``precision="tf32"`` on torch's CPU backend, whose matrix products are given inputs rounded
  to 10 bits of mantissa, to nearest; sums stay in float32. This is emulated rounding: a tensor core
  may round and add otherwise. Objective and accuracy are computed in full float32.
- bfloat16: X is stored with 8 bits of mantissa. ``suboptimality`` is that on X as it was,
  ``own_suboptimality`` that on the rounded X. Both are relative, (F − F*) / (F(0) − F*), in
  float64, F* by L-BFGS in float64 to a relative gradient of 1e-7.

``gradient_start`` and ``gradient_end`` are errors of the gradient in W against float64 at zero
and near the optimum, relative to the norm at zero: the norm at the optimum is 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import typer
from sklearn.exceptions import ConvergenceWarning
from torch.overrides import TorchFunctionMode

import xplinear as xl
from benchmarks.problems import (
    PROBLEMS,
    Host,
    Problem,
    Solution,
    accuracy,
    objective,
    suboptimality,
)
from benchmarks.report import report
from xplinear.backends import PRECISIONS, Backend, get_backend, matmul_precision
from xplinear.backends.precision import in_precision
from xplinear.data import ArrayData
from xplinear.objective import Objective, Params

ALPHAS = {"digits": 1e-3, "fashion-mnist": 1e-3, "power-law": 1e-5}
ROWS = 10_000
SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {"solver": "sgd", "random_state": 0},
    "lbfgs": {"solver": "lbfgs", "tol": 1e-6, "max_iter": 500},
}
Row = dict[str, Any]


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Return float32 rounded to 10 bits of mantissa, to nearest, ties to even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class RoundedProducts(TorchFunctionMode):
    """Rounds the inputs of float32 matrix products."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if "matmul" in func.__name__ and args[0].dtype == torch.float32:
            args = tuple(map(rounded, args))
        return func(*args, **(kwargs or {}))


def emulating_backend() -> Backend:
    """Return torch's CPU backend with emulated tensor cores."""

    def products(tf32: bool) -> AbstractContextManager[Any]:
        return RoundedProducts() if tf32 else nullcontext()

    backend, bind = get_backend("torch"), partial(in_precision, products)
    return replace(backend, compile=bind, fold=bind(backend.fold), tensor_cores=True)


def gradient(problem: Problem, X: torch.Tensor, dtype: torch.dtype, at: Solution) -> Host:
    """Return the gradient of F in W ``(p, k)``, X as it is stored."""
    backend, (coef, intercept) = emulating_backend(), at
    y = backend.asarray(problem.y.astype(np.int32))
    data = ArrayData(X, y, dtype=dtype, backend=backend)
    alpha = torch.asarray([problem.alpha], dtype=dtype)
    F = Objective(xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty(), alpha, data, k=problem.k)
    W, b = (backend.asarray(a, dtype) for a in (coef.T[:, None, :].copy(), intercept[None, :]))
    return backend.to_host(F.value_and_grad(Params(W, b))[1].W)[:, 0, :].astype(np.float64)


def optimum(problem: Problem) -> tuple[Solution, float]:
    """Return the solution in float64, and F* there."""
    clf = xl.LinearClassifier(
        alpha=problem.alpha, solver="lbfgs", tol=1e-7, max_iter=3000, dtype="float64"
    ).fit(problem.X, problem.y)
    solution = clf.coef_, clf.intercept_
    return solution, objective(problem, *solution)


def measure(name: str) -> Iterator[Row]:
    """Yield one row per storage, precision and solver."""
    problem = PROBLEMS[name]()
    problem = problem._replace(X=problem.X[:ROWS], y=problem.y[:ROWS], alpha=ALPHAS[name])
    best, minimum = optimum(problem)
    exact = torch.from_numpy(problem.X)
    start = np.zeros_like(best[0]), np.zeros_like(best[1])
    norm = np.linalg.norm(gradient(problem, exact, torch.float64, start))
    for X in (exact, exact.bfloat16()):
        own = problem._replace(X=X.float().numpy())
        own_minimum = minimum if X is exact else optimum(own)[1]
        for precision in PRECISIONS:
            errors: list[float] = []
            for at in (start, best):
                with matmul_precision(precision):
                    ours = gradient(problem, X, torch.float32, at)
                truth = gradient(problem, exact, torch.float64, at)
                errors.append(float(np.linalg.norm(ours - truth) / norm))
            for solver, settings in SOLVERS.items():
                clf = xl.LinearClassifier(
                    alpha=problem.alpha,
                    backend=emulating_backend(),
                    precision=precision,
                    **settings,
                ).fit(X, problem.y)
                found = clf.coef_.numpy(), clf.intercept_.numpy()
                yield {
                    "problem": name,
                    "rows": str(X.dtype).rpartition(".")[2],
                    "precision": precision,
                    "solver": solver,
                    "gradient_start": errors[0],
                    "gradient_end": errors[1],
                    "suboptimality": excess(problem, found, minimum),
                    "own_suboptimality": excess(own, found, own_minimum),
                    "test_accuracy": accuracy(problem, *found),
                    "optimum_test_accuracy": accuracy(problem, *best),
                    "iterations": clf.n_iter_,
                    "reason": clf.certificate_.reasons[0] if solver == "lbfgs" else "",
                }


def excess(problem: Problem, at: Solution, minimum: float) -> float:
    """Return (F − F*) / (F(0) − F*)."""
    return float(suboptimality(problem, objective(problem, *at), minimum))


def main(*, quick: bool = False) -> None:
    """Measure; --quick takes digits only."""
    warnings.simplefilter("ignore", ConvergenceWarning)  # that rounding ends a run is the point
    torch.set_num_threads(1)  # nothing here is timed
    names = ("digits",) if quick else ("fashion-mnist", "power-law")
    rows = [row for name in names for row in measure(name)]
    report("precision", rows, quick=quick, alphas=ALPHAS, solvers=SOLVERS, tf32="emulated rounding")


if __name__ == "__main__":
    typer.run(main)
