"""Microseconds per SGD step on every device: the same code of xplinear, and loops by hand.

As `benchmarks.sgd_step`: softmax loss, batch 64, momentum 0.9, float32, p = 784, k = 10, whole
epochs over an array that is already on the device, alternating in one process, the first epoch
of each left out and reported as ``first``. Here xplinear runs on every backend that works, and
besides it what users of a GPU write by hand: torch's eager loop (on CUDA where there is one, else
on the CPU), the same step captured once as a CUDA graph and replayed, and JAX's
``jit(lax.scan)``. On a GPU JAX multiplies by hand in its default precision, TF32; xplinear
always in float32. Without a GPU the results go to ``results/quick/``: `benchmarks.sgd_step` is
the one for CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import typer

import xplinear as xl
from benchmarks.report import COLOURS, report
from benchmarks.sgd_step import (
    ALPHA,
    BATCH,
    EPOCHS,
    MOMENTUM,
    RATE,
    Contender,
    K,
    alternate,
    jax_scan,
    rows,
    torch_loop,
    xplinear_epochs,
)
from xplinear.bench import usable_backends


def torch_graph(X: np.ndarray, y: np.ndarray) -> Contender:
    """Prepare torch's step as a CUDA graph: one launch replays gather, gradient and update."""
    import torch

    if not torch.cuda.is_available():
        msg = "torch finds no CUDA device"
        raise xl.BackendError(msg)
    rows, labels = torch.from_numpy(X).cuda(), torch.from_numpy(y).cuda()
    model = torch.nn.Linear(X.shape[1], K, device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=ALPHA)
    batch = torch.arange(BATCH, device="cuda")  # what a replay reads its row numbers from

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(rows[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        return loss

    # The warm-up on a side stream, as torch's documentation asks for before a capture.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    steps = len(X) // BATCH  # a graph has one shape: the incomplete batch is left out

    def epoch() -> float:
        assert step  # it holds labels, model and optimizer, of which the graph knows addresses
        order = torch.randperm(len(rows), device="cuda")
        for start in range(0, steps * BATCH, BATCH):
            batch.copy_(order[start : start + BATCH])
            graph.replay()
        return loss.item()

    return Contender(epoch, steps)


def contenders() -> dict[str, Callable[..., Contender]]:
    """Return xplinear on every backend that works, and the loops by hand."""
    backends = usable_backends()
    cuda = any(backend.name.startswith("torch:cuda") for backend in backends)
    return {
        **{
            f"xplinear, {backend.name}": partial(xplinear_epochs, backend.name, accelerate=True)
            for backend in backends
        },
        f"torch loop, {'CUDA' if cuda else 'CPU'}": partial(
            torch_loop, device="cuda" if cuda else "cpu"
        ),
        "torch CUDA graph": torch_graph,
        "jax jit(scan) by hand": jax_scan,
    }


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a point per contender, xplinear's in black, with its fastest and slowest epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.45 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        middle, ends = row["us_per_step"], (row["fastest"], row["slowest"])
        colour, _ = COLOURS[row["contender"].partition(" ")[0].rstrip(",")]
        axes.plot(ends, (place, place), color=colour, linewidth=2)
        axes.plot(middle, place, "o", color=colour)
        axes.annotate(f"{middle:.4g}", (middle, place), (0, 6), textcoords="offset points")
    axes.set_yticks(range(len(rows)), [row["contender"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.8)
    axes.set(xscale="log", xlabel="µs per step: median, fastest and slowest epoch")
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(*, quick: bool = False, epochs: int = EPOCHS, notes: str = "") -> None:
    """Measure; --quick makes 3 epochs over a tenth of the rows, --notes TEXT is written down."""
    X, y, source = rows()
    X, y, epochs = (X[::10].copy(), y[::10].copy(), 3) if quick else (X, y, epochs)
    results = [
        {
            "contender": name,
            "us_per_step": round(median(measured), 1),
            "fastest": round(min(measured), 1),
            "slowest": round(max(measured), 1),
            "first": round(first, 1),
        }
        for name, (first, *measured) in alternate(contenders(), X, y, epochs).items()
    ]
    settings = {"data": source, "shape": X.shape, "batch_size": BATCH, "epochs": epochs}
    quick = quick or not any("cuda" in str(backend.device).lower() for backend in usable_backends())
    path = report("gpu", results, quick=quick, notes=notes, **settings)
    draw(results, path.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
