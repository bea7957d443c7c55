"""Rows in a file: a fit that never holds them, what a pass costs, and predictions to another file.

A ``.npy`` file is written piece by piece, 1.2 GB of float16 unless told otherwise: ``python
examples/11_larger_than_memory.py ROWS``. What the process holds is told beside it.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import xplinear as xl

P, K, PIECE = 1024, 10, 2**15
n = int(sys.argv[1]) if len(sys.argv) > 1 else 600_000
rng = np.random.default_rng(0)
centres = 0.1 * rng.standard_normal((K, P), dtype=np.float32)


def memory() -> float:
    """Return the most memory that this process ever had, in MB; Linux counts in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "X.npy"
    y = rng.integers(0, K, n)
    about = {"descr": "<f2", "fortran_order": False, "shape": (n, P)}
    with path.open("wb") as file:  # pages of a map that is written count as memory
        np.lib.format.write_array_header_1_0(file, about)
        for start in range(0, n, PIECE):
            X = centres[y[start : start + PIECE]]
            X += rng.standard_normal(X.shape, np.float32)
            X.astype(np.float16).tofile(file)
    size = path.stat().st_size
    print(f"{n:,} rows of {P} features in ten classes, float16: a file of {size / 1e9:.2f} GB")

    rows = np.load(path, mmap_mode="r")
    passes: list[float] = []

    def ended(_: object) -> None:
        passes.append(time.perf_counter())

    start = time.perf_counter()
    clf = xl.LinearClassifier(solver="lbfgs", alpha=1e-4, tol=1e-3)
    clf.fit(rows, y, callbacks=[ended])
    seconds = time.perf_counter() - start
    each = np.median(np.diff(passes))
    print(f"fitted in {seconds:.1f} s, {clf.n_iter_} iterations of {each:.2f} s")
    print(f"  {size / 1e9 / each:.2f} GB/s, {clf.certificate_}")

    start = time.perf_counter()
    clf.predict_proba(rows, out=Path(folder) / "probabilities.npy")
    print(f"probabilities of all rows to a file in {time.perf_counter() - start:.1f} s")
    written = np.load(Path(folder) / "probabilities.npy", mmap_mode="r")
    accuracy = np.mean(written.argmax(axis=1) == y)
    print(f"training accuracy {accuracy:.4f}; the process never held more than {memory():.0f} MB")
