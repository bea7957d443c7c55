"""dask-ml's side of `benchmarks.dask`, in an environment of its own: it imports nothing else of us.

``python -P dask_ml_peer.py ROWS.npz WORKERS CHUNKS TARGET CAP SOLVER ...`` fits the rows X and
labels y of a file by each solver, with 5 iterations, then 10, 20 …, until the objective is at most
TARGET or a fit takes more than CAP seconds; it prints JSON: the last fit of each, and versions.
(-P, as the folder of this file has another ``dask``.)
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

import dask.array as da
import numpy as np
from dask_ml.linear_model import LogisticRegression
from distributed import Client, LocalCluster, wait


def objective(X: Any, y: Any, w: Any) -> float:
    """Return scikit-learn's, C = 1: the summed log loss plus half the squared weights."""
    z = np.where(y == 1, 1.0, -1.0) * (X @ w)
    return float(np.logaddexp(0.0, -z).sum() + 0.5 * (w @ w))


def main(path: str, workers: str, chunks: str, target: str, cap: str, *solvers: str) -> None:
    """Fit on a cluster that holds the rows."""
    warnings.simplefilter("ignore")
    stored = dict(np.load(path))
    size, fits = -(-len(stored["y"]) // int(chunks)), dict[str, Any]()
    own = {"n_workers": int(workers), "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**own) as cluster, Client(cluster) as client:
        arrays = da.from_array(stored["X"], chunks=(size, -1)), da.from_array(stored["y"], size)
        X, y = client.persist(arrays)
        wait([X, y])
        for solver in solvers:
            max_iter, seconds, value = 5, 0.0, np.inf
            while value > float(target) and seconds < float(cap):
                model = LogisticRegression(
                    solver=solver, fit_intercept=False, max_iter=max_iter, tol=1e-12
                )
                start = time.perf_counter()
                model.fit(X, y)
                seconds = time.perf_counter() - start
                value = objective(**stored, w=np.ravel(model.coef_))
                fits[solver] = {"iterations": max_iter, "seconds": seconds, "objective": value}
                max_iter *= 2
    names = ("dask-ml", "dask-glm", "dask", "distributed")
    print(json.dumps({"fits": fits, "versions": {name: version(name) for name in names}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
