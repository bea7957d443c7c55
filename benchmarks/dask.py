"""Fits on a Dask cluster: beside dask-ml to the same objective, and what an iteration costs.

Fashion-MNIST (60,000 × 784, float64) in 24 chunks on a `LocalCluster` of one thread per worker.

``peer``: the first five classes against the others, without intercepts, C = 1. The objective to
reach is that of ``LinearClassifier(fit_intercept=False)``; each solver of dask-ml is run anew with
twice the iterations until its objective is as low to within 1e-4 relative, or a fit takes three
times our seconds; its seconds are those of that fit. dask-ml lives in an environment of its own
(``python -m venv ENV; ENV/bin/pip install dask-ml``), whose Python is named by --peer.

``workers``: milliseconds of an iteration of L-BFGS on softmax, the difference of fits of 30 and 10
iterations; and of a round alone, the same on rows of one feature, one row per chunk. More workers
than cores are simulated: their ``expected`` is the arithmetic of one worker over so many, plus the
round that was measured with so many processes. The figure is ``results/dask-workers.png``.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import typer
from distributed import Client, LocalCluster

import xplinear as xl
from benchmarks.report import report
from xplinear.datasets import load

CHUNKS, CORES = 24, 2
SOLVERS = ("lbfgs", "admm", "gradient_descent", "proximal_grad")  # newton has no penalty
WITHIN, PATIENCE = 1e-4, 3.0
WORKERS = (1, 2, 4, 8)
ROUNDS = 3
SCRIPT = Path(__file__).with_name("dask_ml_peer.py")
Host = np.ndarray[Any, np.dtype[Any]]


def objective(X: Host, y: Host, w: Host) -> float:
    """Return scikit-learn's, C = 1: the summed log loss plus half the squared weights."""
    z = np.where(y == 1, 1.0, -1.0) * (X @ w)
    return float(np.logaddexp(0.0, -z).sum() + 0.5 * (w @ w))


def held(client: Any, X: Host, y: Host, chunks: int) -> list[Any]:
    """Return rows and labels in chunks on the workers."""
    size = -(-len(y) // chunks)
    arrays = [da.from_array(X, chunks=(size, -1)), da.from_array(y, chunks=size)]
    arrays = client.persist(arrays)
    client.gather([client.submit(len, part) for part in client.futures_of(arrays)])
    return arrays


def cluster(workers: int) -> Any:
    """Return a cluster of so many processes of one thread."""
    return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")


def peer(python: str, X: Host, y: Host, workers: int) -> tuple[list[dict[str, Any]], Any]:
    """Return the rows of a table: our fit, then each solver of dask-ml; and its versions."""
    y = (y < 5).astype(np.int64)
    model = xl.LinearClassifier(fit_intercept=False)
    with cluster(workers) as own, Client(own) as client:
        rows, labels = held(client, X, y, CHUNKS)
        times = list[float]()
        for _ in range(ROUNDS):
            start = time.perf_counter()
            model.fit(rows, labels)
            times.append(time.perf_counter() - start)
    target, spent = objective(X, y, model.coef_[0]), float(np.median(times))
    name = f"xplinear {model.solver_}"
    table = [_row(name, model.n_iter_, spent, target, target)]
    with tempfile.TemporaryDirectory() as folder:
        path, own = Path(folder) / "rows.npz", (target * (1.0 + WITHIN), PATIENCE * spent)
        np.savez(path, X=X, y=y)
        command = [python, "-P", SCRIPT, path, workers, CHUNKS, *own, *SOLVERS]
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True
        )
    found = json.loads(done.stdout.splitlines()[-1])
    for solver, fit in found["fits"].items():
        spent, value = fit["seconds"], fit["objective"]
        table.append(_row(f"dask-ml {solver}", fit["iterations"], spent, value, target))
    return table, found["versions"]


def _row(name: str, iterations: int, spent: float, value: float, target: float) -> dict[str, Any]:
    there = {"contender": name, "iterations": iterations, "seconds": spent}
    return {**there, "objective": value, "over": value / target - 1.0}


def per_iteration(client: Any, X: Host, y: Host) -> float:
    """Return the milliseconds of an iteration of L-BFGS."""
    rows, labels = held(client, X, y, CHUNKS)
    found = list[float]()
    for _ in range(ROUNDS):
        spent = dict[int, float]()
        for max_iter in (10, 30):
            solver = xl.solvers.LBFGS(max_iter=max_iter, tol=0.0, gram=False)
            start = time.perf_counter()
            xl.LinearClassifier(solver=solver, alpha=1e-4).fit(rows, labels)
            spent[max_iter] = time.perf_counter() - start
        found.append((spent[30] - spent[10]) / 20 * 1e3)
    return float(np.median(found))


def workers(X: Host, y: Host) -> list[dict[str, Any]]:
    """Return the rows of a table: what an iteration costs with so many workers."""
    one = np.random.default_rng(0).standard_normal((10 * CHUNKS, 1))
    few = np.arange(10 * CHUNKS) % 10
    table, arithmetic = list[dict[str, Any]](), float("nan")
    for count in WORKERS:
        with cluster(count) as own, Client(own) as client:
            empty = per_iteration(client, one, few)
            measured = per_iteration(client, X, y) if count <= CORES else float("nan")
        if count == 1:
            arithmetic = measured - empty
        expected = arithmetic / count + empty
        table.append(
            {"workers": count, "round_ms": empty, "iteration_ms": measured, "expected_ms": expected}
        )
    return table


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the milliseconds of an iteration and of a round against the workers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    counts = [row["workers"] for row in rows]
    for key, label, *style in (
        ("expected_ms", "an iteration, simulated", "#56b4e9", "s", "--"),
        ("iteration_ms", "an iteration, measured", "#000000", "o", "-"),
        ("round_ms", "of which a round of tasks", "#d55e00", "^", ":"),
    ):
        colour, marker, line = style
        own = [row[key] for row in rows]
        axes.plot(counts, own, color=colour, marker=marker, linestyle=line, lw=2, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set(xlabel="workers of one thread", ylabel="[ms]", ylim=(0.0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


class Part(StrEnum):
    """What is measured."""

    PEER, WORKERS = "peer", "workers"


def main(
    *,
    peer_python: str = typer.Option("", "--peer", help="Python with dask-ml."),
    only: Part | None = None,
    quick: bool = False,
    notes: str = "",
) -> None:
    """Measure; --quick takes 6,000 rows."""
    warnings.simplefilter("ignore")
    data = load("fashion-mnist")
    n = 6000 if quick else len(data.y)
    X, y = np.asarray(data.X[:n], np.float64) / 255.0, np.asarray(data.y[:n])
    settings: dict[str, Any] = {"notes": notes, "shape": list(X.shape), "chunks": CHUNKS}
    if only is not Part.WORKERS:
        table, versions = peer(peer_python, X, y, CORES)
        report("dask-peer", table, quick=quick, versions=versions, **settings)
    if only is not Part.PEER:
        table = workers(X, y)
        path = report("dask-workers", table, quick=quick, **settings)
        draw(table, path.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
