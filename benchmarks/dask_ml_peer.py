"""dask-ml's side of `benchmarks.dask`, in an environment of its own: it imports nothing else of us.

``python dask_ml_peer.py ROWS.npz WORKERS CHUNKS SOLVER MAX_ITER TOL`` fits the rows X and labels y
of a file once and prints JSON: the seconds, the weights and the versions.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib.metadata import version

import dask.array as da
import numpy as np
from dask_ml.linear_model import LogisticRegression
from distributed import Client, LocalCluster


def main(path: str, workers: str, chunks: str, solver: str, max_iter: str, tol: str) -> None:
    """Fit once on a cluster that holds the rows."""
    warnings.simplefilter("ignore")
    stored = np.load(path)
    size = -(-len(stored["y"]) // int(chunks))
    own = {"n_workers": int(workers), "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**own) as cluster, Client(cluster) as client:
        X = da.from_array(stored["X"], chunks=(size, -1)).persist()
        y = da.from_array(stored["y"], chunks=size).persist()
        client.gather([client.submit(len, part) for part in client.compute([X[:1], y[:1]])])
        model = LogisticRegression(
            solver=solver, fit_intercept=False, max_iter=int(max_iter), tol=float(tol)
        )
        start = time.perf_counter()
        model.fit(X, y)
        seconds = time.perf_counter() - start
    names = ("dask-ml", "dask-glm", "dask", "distributed")
    coef = np.ravel(model.coef_).tolist()
    print(json.dumps({"seconds": seconds, "coef": coef, "versions": {n: version(n) for n in names}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
