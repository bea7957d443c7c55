"""Microseconds per SGD step: softmax loss, batch 64, momentum 0.9, float32, Fashion-MNIST.

Every contender makes whole epochs over the same 60,000 × 784 array, its shuffle and the gathering
of its batches included, and ends each with a read on the host. Contenders alternate epoch by
epoch in one process; the first epoch of each, in which JAX compiles, is left out. The plain loops
are what one writes by hand; xplinear besides sums up the loss, centres and scales the features,
keeps the penalty's prox exact, and never leaves out the incomplete last batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import typer

import xplinear as xl
from benchmarks.report import report
from xplinear.data import ArrayData
from xplinear.datasets import load
from xplinear.losses import SoftmaxLoss
from xplinear.penalties import L2Penalty

BATCH, MOMENTUM, RATE, ALPHA, K = 64, 0.9, 0.01, 1e-4, 10
EPOCHS = 9


class Contender(NamedTuple):
    epoch: Callable[[], float]  # returns a number that depends on the last step
    steps: int


def rows() -> tuple[np.ndarray, np.ndarray, str]:
    """Return X in [0, 1], y, and where they come from."""
    try:
        data = load("fashion-mnist")
    except OSError:
        rng = np.random.default_rng(0)
        X = rng.random((60_000, 784), dtype=np.float32)
        return X, rng.integers(0, K, len(X)), "random numbers in the shape of Fashion-MNIST"
    return data.X / np.float32(255), data.y.astype(np.int64), "Fashion-MNIST"


def xplinear_epochs(name: str, X: np.ndarray, y: np.ndarray, *, accelerate: bool) -> Contender:
    backend = xl.get_backend(name)
    backend = backend if accelerate else backend.reference()
    loss = backend.accelerated(SoftmaxLoss())
    alpha = backend.asarray(np.asarray([ALPHA], dtype=np.float32))
    data = ArrayData(backend.asarray(X), backend.asarray(y.astype(np.int32)), backend=backend)
    F = xl.Objective(loss, L2Penalty(), alpha, data, K)
    solver = xl.solvers.SGD(schedule="constant", batch_size=BATCH, momentum=MOMENTUM)
    state = solver.init(F, F.zeros())

    def epoch() -> float:
        nonlocal state
        state = solver.step(F, state)
        return float(backend.to_host(state.report.loss)[0])

    return Contender(epoch, -(-len(X) // BATCH))


def torch_loop(X: np.ndarray, y: np.ndarray, device: str = "cpu") -> Contender:
    import torch

    rows, labels = torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)
    model = torch.nn.Linear(X.shape[1], K, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=ALPHA)

    def epoch() -> float:
        order = torch.randperm(len(rows), device=device)
        for start in range(0, len(rows), BATCH):
            batch = order[start : start + BATCH]
            loss = torch.nn.functional.cross_entropy(model(rows[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return Contender(epoch, -(-len(X) // BATCH))


def jax_scan(X: np.ndarray, y: np.ndarray) -> Contender:
    import jax
    import jax.numpy as jnp

    rows, labels = jnp.asarray(X), jnp.asarray(y.astype(np.int32))
    steps = len(X) // BATCH
    W, b = jnp.zeros((X.shape[1], K)), jnp.zeros(K)
    carry, rng = (W, b, W, b), np.random.default_rng(0)

    def step(carry: Any, batch: Any, rows: Any, labels: Any) -> tuple[Any, None]:
        W, b, VW, Vb = carry
        X, y = rows[batch], labels[batch]
        G = (jax.nn.softmax(X @ W + b) - jax.nn.one_hot(y, K)) / BATCH
        VW = MOMENTUM * VW - RATE * (X.T @ G + ALPHA * W)
        Vb = MOMENTUM * Vb - RATE * jnp.sum(G, axis=0)
        return (W + VW, b + Vb, VW, Vb), None

    @jax.jit
    def scan(carry: Any, order: Any, rows: Any, labels: Any) -> Any:
        return jax.lax.scan(partial(step, rows=rows, labels=labels), carry, order)[0]

    def epoch() -> float:
        nonlocal carry
        order = rng.permutation(len(X))[: steps * BATCH].reshape(steps, BATCH)
        carry = scan(carry, jnp.asarray(order, dtype=jnp.int32), rows, labels)
        return float(carry[1][0])

    return Contender(epoch, steps)


CONTENDERS: dict[str, Callable[..., Contender]] = {
    "xplinear, NumPy": partial(xplinear_epochs, "numpy", accelerate=True),
    "xplinear, NumPy, accelerate=False": partial(xplinear_epochs, "numpy", accelerate=False),
    "xplinear, torch": partial(xplinear_epochs, "torch", accelerate=True),
    "xplinear, JAX": partial(xplinear_epochs, "jax", accelerate=True),
    "torch loop": torch_loop,
    "JAX jit(scan) by hand": jax_scan,
}


def alternate(
    kinds: Mapping[str, Callable[..., Contender]], X: np.ndarray, y: np.ndarray, epochs: int
) -> dict[str, list[float]]:
    """Return the microseconds per step of each contender's epochs, the warm-up first.

    A contender whose library or device is not there is left out.
    """
    contenders: dict[str, Contender] = {}
    for name, prepare in kinds.items():
        try:
            contenders[name] = prepare(X, y)
        except (ImportError, xl.BackendError) as error:
            print(f"{name} left out: {error}")
    micro: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(1 + epochs):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender.epoch()
            micro[name].append(1e6 * (time.perf_counter() - start) / contender.steps)
    return micro


def main(*, quick: bool = False, only: str = "") -> None:
    """Measure; --quick makes 3 epochs over a tenth of the rows, --only TEXT filters by name."""
    X, y, source = rows()
    X, y, epochs = (X[::10].copy(), y[::10].copy(), 3) if quick else (X, y, EPOCHS)
    kinds = {name: prepare for name, prepare in CONTENDERS.items() if only in name}
    micro = {name: measured[1:] for name, measured in alternate(kinds, X, y, epochs).items()}
    own = median(micro["xplinear, NumPy"])
    report(
        f"sgd_step_{only}" if only else "sgd_step",
        [
            {
                "contender": name,
                "us_per_step": round(median(measured), 1),
                "fastest": round(min(measured), 1),
                "slowest": round(max(measured), 1),
                "times_xplinear_numpy": round(median(measured) / own, 2),
            }
            for name, measured in micro.items()
        ],
        quick=quick,
        data=source,
        shape=X.shape,
        batch_size=BATCH,
        epochs=epochs,
    )


if __name__ == "__main__":
    typer.run(main)
