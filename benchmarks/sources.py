"""A fit to rows that do not fit: seconds of a pass beside a plain read of the same file, memory.

Rows of float16 (4,000,000 × 1024: 8.2 GB) in ten classes are written in pieces, to a memory map,
to HDF5, to Zarr (in chunks of 4096 rows, compressed as it does by default) and to Parquet (a column
of fixed-size lists, neither compressed nor in a dictionary, which would be read ten times more
slowly). Each is fitted to ``tol`` 1e-3 by L-BFGS in a process of its own, which only opens it.

The system keeps files in memory that is free, as larger ones would not be: before every plain read
and every iteration it is told to forget the file (``--warm`` leaves it). ``plain_s`` is the median
of reads by the format's own library, from first to last row in one thread, before the fit and
after it; ``pass_s`` that of an iteration, most of which are one pass; ``ratio`` is of these two.
``read_times`` is how often the file was read in all by the fit, by what the process asked of the
system; ``peak_mb`` the most memory that it held at any time, mapped pages included.

``--only zarr`` measures one format, and leaves the others as they are in the results; ``--rows``
scales all down, to ``results/quick/``.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

import xplinear as xl
from benchmarks.report import RESULTS, report
from benchmarks.worker import PROCESS, resident_mb

ROWS, P, K = 4_000_000, 1024, 10
PIECE, CHUNK = 2**15, 4096
ALPHA, TOL = 1e-5, 1e-3
READS = 2  # before the fit, and after it
LABELS = "y.npy"

Array = np.ndarray[Any, np.dtype[Any]]


def pieces(n: int) -> Iterator[tuple[int, Array, Array]]:
    """Yield where some rows begin, and rows and labels: variances fall as 1/j, classes overlap."""
    scale = 4.0 * np.arange(1, P + 1, dtype=np.float32) ** -0.5
    centres = 0.3 * np.random.default_rng(0).standard_normal((K, P), dtype=np.float32)
    for start in range(0, n, PIECE):
        rng = np.random.default_rng([1, start])
        size = min(PIECE, n - start)
        y = rng.integers(0, K, size, dtype=np.int8)
        X = rng.standard_normal((size, P), dtype=np.float32)
        X += centres[y]
        X *= scale
        yield start, X.astype(np.float16), y


def write_memory_map(path: Path, n: int) -> Iterator[Callable[[int, Array], None]]:
    X = np.lib.format.open_memmap(path, "w+", np.float16, (n, P))

    def write(start: int, rows: Array) -> None:
        X[start : start + len(rows)] = rows

    yield write
    X.flush()


def write_hdf5(path: Path, n: int) -> Iterator[Callable[[int, Array], None]]:
    import h5py

    with h5py.File(path, "w") as file:
        X = file.create_dataset("X", (n, P), np.float16)

        def write(start: int, rows: Array) -> None:
            X[start : start + len(rows)] = rows

        yield write


def write_zarr(path: Path, n: int) -> Iterator[Callable[[int, Array], None]]:
    import zarr

    X = zarr.create_array(path, shape=(n, P), dtype=np.float16, chunks=(CHUNK, P))

    def write(start: int, rows: Array) -> None:
        X[start : start + len(rows)] = rows

    yield write


def write_parquet(path: Path, n: int) -> Iterator[Callable[[int, Array], None]]:
    import pyarrow as pa
    from pyarrow import parquet

    del n
    schema = pa.schema([("X", pa.list_(pa.float16(), P))])
    with parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:

        def write(start: int, rows: Array) -> None:
            del start
            lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), P)
            file.write_table(pa.table({"X": lists}, schema))

        yield write


def read_memory_map(path: Path) -> None:
    buffer = np.empty(2**24, np.uint8)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer.data):
            pass


def read_hdf5(path: Path) -> None:
    import h5py

    buffer = np.empty((2 * CHUNK, P), np.float16)
    with h5py.File(path) as file:
        X = file["X"]
        for start in range(0, len(X), len(buffer)):
            size = min(len(buffer), len(X) - start)
            X.read_direct(buffer, np.s_[start : start + size], np.s_[:size])


def read_zarr(path: Path) -> None:
    import zarr

    X = zarr.open_array(path, mode="r")
    for start in range(0, X.shape[0], 2 * CHUNK):
        X[start : start + 2 * CHUNK]


def read_parquet(path: Path) -> None:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(2 * CHUNK, use_threads=False):
            batch.column(0).flatten()


def open_memory_map(path: Path) -> Any:
    return np.load(path, mmap_mode="r")


def open_hdf5(path: Path) -> Any:
    import h5py

    return h5py.File(path)["X"]


def open_zarr(path: Path) -> Any:
    import zarr

    return zarr.open_array(path, mode="r")


def open_parquet(path: Path) -> Any:
    return str(path)


FORMATS: dict[str, tuple[str, Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "memory map": ("X.npy", write_memory_map, read_memory_map, open_memory_map),
    "hdf5": ("X.h5", write_hdf5, read_hdf5, open_hdf5),
    "zarr": ("X.zarr", write_zarr, read_zarr, open_zarr),
    "parquet": ("X.parquet", write_parquet, read_parquet, open_parquet),
}


def files_of(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def forget(path: Path) -> None:
    """Let the system forget what it keeps of a file in memory."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files_of(path):
        with file.open("rb") as own:
            os.posix_fadvise(own.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write(name: str, folder: Path, n: int) -> float:
    """Write rows and labels; return the seconds."""
    file, writer, *_ = FORMATS[name]
    labels, start = np.empty(n, np.int8), time.perf_counter()
    for put in writer(folder / file, n):
        for first, X, y in pieces(n):
            put(first, X)
            labels[first : first + len(y)] = y
    np.save(folder / LABELS, labels)
    for path in files_of(folder / file):  # what is not on the disk yet cannot be forgotten
        with path.open("rb") as own:
            os.fsync(own.fileno())
    return time.perf_counter() - start


def plain_reads(name: str, path: Path, warm: bool) -> list[float]:
    """Return the seconds of some plain reads."""
    found: list[float] = []
    for _ in range(READS):
        if not warm:
            forget(path)
        start = time.perf_counter()
        FORMATS[name][2](path)
        found.append(time.perf_counter() - start)
    return found


def bytes_asked() -> float:
    """Return how many bytes this process has read so far; only Linux tells."""
    if not PROCESS.is_dir():
        return float("nan")
    return float((PROCESS / "io").read_text(encoding="ascii").split()[1])  # rchar


def fit(name: str, path: Path, warm: bool) -> dict[str, float]:
    """Return what a fit took, in this process."""
    warnings.simplefilter("ignore")
    X, y = FORMATS[name][3](path), np.load(path.parent / LABELS)
    ends: list[float] = []

    def ended(_: Any) -> None:
        ends.append(time.perf_counter())
        if not warm:
            forget(path)
            ends[-1] = time.perf_counter()

    begun, before = time.perf_counter(), bytes_asked()
    settings: dict[str, Any] = {"solver": "lbfgs", "alpha": ALPHA, "tol": TOL}
    clf = xl.LinearClassifier(**settings).fit(X, y, callbacks=[ended])
    seconds = time.perf_counter() - begun
    size = sum(file.stat().st_size for file in files_of(path))
    return {
        "pass_s": median(np.diff(ends)),
        "fit_s": seconds,
        "n_iter": clf.n_iter_,
        "read_times": (bytes_asked() - before) / size,
        "relative_gap": clf.certificate_.relative_gap[0],
        "peak_mb": resident_mb("VmHWM"),
    }


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function gives in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(function, *arguments).result()


def measured(name: str, folder: Path, n: int, warm: bool) -> dict[str, Any]:
    """Write, read and fit the rows in one format."""
    path = folder / FORMATS[name][0]
    print(f"{name}: writing {n} rows", flush=True)
    written = apart(write, name, folder, n)
    reads = apart(plain_reads, name, path, warm)
    print(f"{name}: fitting, a plain read takes {median(reads):.3g} s", flush=True)
    found = apart(fit, name, path, warm)
    plain = median(reads + apart(plain_reads, name, path, warm))
    return {
        "format": name,
        "rows": n,
        "cache": "warm" if warm else "cold",
        "gb": n * P * 2 / 1e9,
        "write_s": written,
        "plain_s": plain,
        "pass_s": found["pass_s"],
        "ratio": found["pass_s"] / plain,
        **{key: value for key, value in found.items() if key != "pass_s"},
    }


def others(name: str, n: int, warm: bool, quick: bool) -> list[dict[str, Any]]:
    """Return what an earlier run found of other formats, of as many rows."""
    path = (RESULTS / "quick" if quick else RESULTS) / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cache = "warm" if warm else "cold"
    return [row for row in rows if (int(row["rows"]), row["cache"]) == (n, cache)]


def main(
    rows: int = ROWS,
    only: str = "",
    folder: Annotated[Path | None, typer.Option(help="Where files are written; a new one.")] = None,
    *,
    warm: bool = False,
    quick: bool = False,
) -> None:
    """Measure; --quick takes a hundredth of the rows, --rows any number."""
    n = ROWS // 100 if quick else rows
    names = [name for name in FORMATS if only in name]
    results = "sources_warm" if warm else "sources"
    found = {row["format"]: row for row in others(results, n, warm, n < ROWS)}
    for name in names:
        own = Path(tempfile.mkdtemp(dir=folder, prefix="xplinear-"))
        try:
            found[name] = measured(name, own, n, warm)
        finally:
            shutil.rmtree(own)
        lines = [found[key] for key in FORMATS if key in found]
        report(results, lines, quick=n < ROWS, p=P, k=K, alpha=ALPHA, tol=TOL)


if __name__ == "__main__":
    typer.run(main)
