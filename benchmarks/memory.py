"""Peak memory of one evaluation of objective and gradient, beyond X itself.

X (n × 100, float32, NumPy) and y are made first. ``traced_mb`` is the peak of what Python and
NumPy allocate from then on; ``resident_mb`` by how much the peak resident memory of the process
has grown since before the first loss, buffers of the BLAS included, so it never falls from one
loss to the next. For comparison: one array of all scores.
"""

from __future__ import annotations

import resource
import sys
import time
import tracemalloc

import numpy as np
import typer

import xplinear as xl
from benchmarks.report import report
from xplinear.data import ArrayData
from xplinear.losses import LOSSES
from xplinear.penalties import L2Penalty

P, K = 100, 100
ROWS, QUICK_ROWS = 1_000_000, 100_000
MB = 1e6


def peak_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(*, quick: bool = False) -> None:
    """Measure; --quick takes a tenth of the rows."""
    n = QUICK_ROWS if quick else ROWS
    rng, backend = np.random.default_rng(0), xl.get_backend("numpy")
    X = rng.standard_normal((n, P), dtype=np.float32)
    data = ArrayData(X, rng.integers(0, K, n, dtype=np.int32), backend=backend)
    W = 0.1 * rng.standard_normal((P, 1, K), dtype=np.float32)
    params = xl.Params(W, np.zeros((1, K), dtype=np.float32))
    before, rows = peak_resident(), []
    for name, loss in LOSSES.items():
        alpha = np.asarray([1e-4], dtype=np.float32)
        F = xl.Objective(backend.accelerated(loss()), L2Penalty(), alpha, data, K)
        start = time.perf_counter()
        F.value_and_grad(params)
        seconds = time.perf_counter() - start
        resident = peak_resident() - before
        tracemalloc.start()
        F.value_and_grad(params)
        _, traced = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        rows.append(
            {
                "loss": name,
                "traced_mb": round(traced / MB, 1),
                "resident_mb": round(resident / MB, 1),
                "scores_mb": round(n * K * X.itemsize / MB, 1),
                "X_mb": round(X.nbytes / MB, 1),
                "seconds": round(seconds, 2),
            }
        )
    report("memory", rows, quick=quick, n=n, p=P, k=K, dtype=str(X.dtype))


if __name__ == "__main__":
    typer.run(main)
