"""Batch gradient descent against SGD: time and passes over the data to the same training loss.

Each contender minimizes the same objective, softmax loss plus L2 penalty, from zero weights to

    F_target = F* + 1 % of (F(0) − F*),

F* found by L-BFGS. Gradient descent stops at its first step at the target. SGD is given the
smallest budget of whole epochs at whose end it is there; its schedule knows the budget, so what
a smaller budget lacked is not counted. Time is that of the run, choice of the step size
included, evaluation of SGD's objective excluded; passes count how often a row's gradient was
computed, on average. Contenders alternate; medians of the repeats are reported, of three where
they are quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import typer
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import xplinear as xl
from benchmarks.report import report
from xplinear.data import ArrayData
from xplinear.losses import SoftmaxLoss
from xplinear.minimize import Progress
from xplinear.penalties import L2Penalty

SIZES, QUICK_SIZES = (5_000, 100_000, 1_000_000), (5_000, 20_000)
BATCHES = (32, 64, 128, 1024)
BUDGETS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
P, K, ALPHA = 100, 10, 1e-4
TOLERANCE = 0.01
REPEATS, REPEAT_SECONDS = 3, 20.0


class Run(NamedTuple):
    seconds: float
    passes: int
    updates: int
    objective: float


def problem(n: int) -> tuple[xl.Objective, float]:
    """Return an objective and the data loss of the model that its labels were drawn from.

    Features are Gaussian of mean variance 1; the eigenvalues of their covariance fall as 1/j, in
    random directions, as they do in natural data.
    """
    rng = np.random.default_rng(n)
    eigenvalues = 1.0 / np.arange(1, P + 1)
    axes = np.linalg.qr(rng.standard_normal((P, P)))[0]
    axes *= np.sqrt(eigenvalues / np.mean(eigenvalues))
    X = rng.standard_normal((n, P), dtype=np.float32) @ axes.T.astype(np.float32)
    truth = xl.Params(
        0.5 * rng.standard_normal((P, 1, K), dtype=np.float32),
        rng.standard_normal((1, K), dtype=np.float32),
    )
    noise = rng.gumbel(size=(n, K)).astype(np.float32)
    y = np.argmax(X @ truth.W[:, 0] + truth.b + noise, axis=1)
    backend = xl.get_backend("numpy")
    data = ArrayData(X, y, backend=backend)
    alpha = np.asarray([ALPHA], dtype=np.float32)
    F = xl.Objective(backend.accelerated(SoftmaxLoss()), L2Penalty(), alpha, data, K)
    return F, float(F.data_loss(truth)[0])


def minimum(F: xl.Objective) -> float:
    """Return the least objective L-BFGS finds."""

    def value_and_grad(w: np.ndarray) -> tuple[float, np.ndarray]:
        W, b = np.split(w.astype(np.float32), [P * K])
        value, grads = F.value_and_grad(xl.Params(W.reshape(P, 1, K), b.reshape(1, K)))
        return float(value[0]), np.concatenate([g.ravel() for g in grads]).astype(np.float64)

    start = np.zeros((P + 1) * K)
    options = {"maxiter": 300, "ftol": 1e-9}
    return scipy.optimize.minimize(
        value_and_grad, start, jac=True, method="L-BFGS-B", options=options
    ).fun


def gradient_descent(F: xl.Objective, target: float) -> Run:
    def there(progress: Progress) -> bool:
        return progress.loss[0] + progress.penalty[0] <= target

    result = xl.minimize(F, xl.solvers.GD(max_iter=10_000, tol=0.0), callbacks=[there])
    objective = float(F.value(result.params)[0])
    # One more than the steps: the gradient at the start.
    return Run(result.history["seconds"][-1], result.n_iter + 1, result.n_iter, objective)


def stochastic(F: xl.Objective, batch_size: int, epochs: int) -> Run:
    result = xl.minimize(F, xl.solvers.SGD(max_iter=epochs, batch_size=batch_size))
    updates = epochs * -(-F.data.n // batch_size)
    objective = float(F.value(result.params)[0])
    return Run(result.history["seconds"][-1], epochs, updates, objective)


def smallest_budget(F: xl.Objective, batch_size: int, target: float) -> int:
    for epochs in BUDGETS:
        if stochastic(F, batch_size, epochs).objective <= target:
            return epochs
    msg = f"batch size {batch_size} does not reach the target in {epochs} epochs"
    raise RuntimeError(msg)


def measure(n: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return one row per method, and the losses that describe the problem."""
    F, truth = problem(n)
    (zero,), least = F.value(F.zeros()), minimum(F)
    target = least + TOLERANCE * (zero - least)
    budgets = {size: smallest_budget(F, size, target) for size in BATCHES}
    contenders = {"GD": partial(gradient_descent, F, target)} | {
        f"SGD, batch {size}": partial(stochastic, F, size, epochs)
        for size, epochs in budgets.items()
    }
    runs: dict[str, list[Run]] = {method: [] for method in contenders}
    for _ in range(REPEATS):
        for method, run in contenders.items():
            if sum(done.seconds for done in runs[method]) < REPEAT_SECONDS:
                runs[method].append(run())
    rows = [
        {
            "n": n,
            "method": method,
            "seconds": median(run.seconds for run in repeats),
            "passes": repeats[0].passes,
            "updates": repeats[0].updates,
            "repeats": len(repeats),
            "objective": repeats[0].objective,
            "target": float(target),
        }
        for method, repeats in runs.items()
    ]
    return rows, {"at_zero": float(zero), "minimum": float(least), "loss_of_true_model": truth}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    methods = dict.fromkeys(row["method"] for row in rows)
    # Colours of Okabe and Ito; markers and dashes tell the lines apart in grey.
    styles = (
        ("#000000", "o", "-"),
        ("#56b4e9", "s", "--"),
        ("#0072b2", "^", "-."),
        ("#009e73", "D", ":"),
        ("#d55e00", "v", (0, (5, 1, 1, 1, 1, 1))),
    )
    labels = (("seconds", "time [s]"), ("passes", "passes over the data"))
    for axes, (column, label) in zip(panels, labels, strict=True):
        for method, (colour, marker, dash) in zip(methods, styles, strict=True):
            points = [(row["n"], row[column]) for row in rows if row["method"] == method]
            axes.loglog(
                *zip(*points, strict=True),
                color=colour,
                marker=marker,
                linestyle=dash,
                linewidth=2,
                label=method,
            )
        sizes = sorted({row["n"] for row in rows})
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="training samples n", ylabel=label)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    figure.suptitle(
        f"To a training loss within {TOLERANCE:.0%} of F(0) − F* above its minimum F*"
        f" (softmax + L2, p = {P}, k = {K})"
    )
    figure.savefig(path, dpi=150)


def main(*, quick: bool = False) -> None:
    """Measure; --quick takes small n only."""
    measured = {n: measure(n) for n in (QUICK_SIZES if quick else SIZES)}
    rows = [row for rows, _ in measured.values() for row in rows]
    problems = {n: losses for n, (_, losses) in measured.items()}
    settings = {"tolerance": TOLERANCE, "alpha": ALPHA, "p": P, "k": K, "problems": problems}
    path = report("batch_size", rows, quick=quick, **settings)
    draw(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
