"""What a pass costs from 100,000 to 10 million rows: in an array, in a file, simulated.

An evaluation of objective and gradient, softmax of ten classes in 1024 features stored as
float16, on NumPy: seconds (the least of some), and the most memory that the process held, X
included. ``array`` is X in memory, as far as a third of it goes; ``file`` a memory map on the disk,
of which the system keeps what it has room for, up to --disk GB; ``simulated`` is rows that are read
as a file's are, but copied from the same 100,000 in memory: what a file costs, of any size, whose
disk is as fast as memory. The rows of the last are on no disk. Each is measured in a process of
its own.

The figure is ``results/rows.png``.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

import xplinear as xl
from benchmarks.report import report
from benchmarks.sources import K, P, apart, pieces
from benchmarks.worker import resident_mb, resident_mb_now
from xplinear.backends.base import free_host_memory
from xplinear.data import ArrayData
from xplinear.data.mapped import in_file
from xplinear.data.sliced import SlicedRows

SIZES, QUICK_SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000), (10_000, 30_000, 100_000)
REPEATED, REPEATS = 100_000, 3
GB = 1e9
COLOURS = {"array": "#000000", "file": "#d55e00", "simulated": "#56b4e9"}

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Again:
    """Rows of an array, again and again: what `xplinear.backends.transfer.Slices` asks for."""

    rows: Array
    n: int
    chunk: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.rows.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype

    def read(self, start: int, stop: int, into: Array) -> None:
        done = 0
        while start + done < stop:
            first = (start + done) % len(self.rows)
            size = min(len(self.rows) - first, stop - start - done)
            into[done : done + size] = self.rows[first : first + size]
            done += size


def some_rows(n: int) -> Array:
    return np.concatenate([X for _, X, _ in pieces(n)])


def source(kind: str, n: int, folder: Path) -> Any:
    """Return rows, as `data_of` makes them of an array or `SlicedRows` of a file."""
    backend, y = xl.get_backend("numpy"), np.arange(n, dtype=np.int32) % K
    if kind == "array":
        X = np.empty((n, P), np.float16)
        few = some_rows(min(n, REPEATED))
        for start in range(0, n, len(few)):
            X[start : start + len(few)] = few[: n - start]
        return ArrayData(X, y, dtype=np.float32, backend=backend, classes=K)
    if kind == "file":
        slices = in_file(np.load(folder / "X.npy", mmap_mode="r"))
        if slices is None:
            msg = "the memory map cannot be read from its file"
            raise RuntimeError(msg)
    else:
        slices = Again(some_rows(min(n, REPEATED)), n)
    rows = SlicedRows(slices)
    return rows.data(y, None, np.float32, backend=backend, classes=K)


def write(folder: Path, n: int) -> None:
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float16, (n, P))
    few = some_rows(min(n, REPEATED))
    for start in range(0, n, len(few)):
        X[start : start + len(few)] = few[: n - start]
    X.flush()


def measure(kind: str, n: int, folder: Path) -> dict[str, Any]:
    """Return what a pass takes, in this process."""
    data, backend = source(kind, n, folder), xl.get_backend("numpy")
    loss, penalty = backend.accelerated(xl.losses.SoftmaxLoss()), xl.penalties.L2Penalty()
    F = xl.Objective(loss, penalty, np.asarray([1e-4], np.float32), data, K)
    params, seconds = F.zeros(), list[float]()
    resident_mb_now()  # from here on, not what making the rows took
    for _ in range(REPEATS):
        start = time.perf_counter()
        F.value_and_grad(params)
        seconds.append(time.perf_counter() - start)
    return {
        "source": kind,
        "n": n,
        "gb": n * P * 2 / GB,
        "pass_s": min(seconds),
        "s_per_million": 1e6 * min(seconds) / n,
        "peak_mb": resident_mb("VmHWM"),
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds and memory against the rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for kind, colour in COLOURS.items():
        own = [row for row in rows if row["source"] == kind]
        for axes, key in zip(panels, ("pass_s", "peak_mb"), strict=True):
            axes.loglog(
                [row["n"] for row in own],
                [row[key] for row in own],
                color=colour,
                marker="o",
                markersize=4,
                linestyle="--" if kind == "simulated" else "-",
                linewidth=2,
                label=kind,
            )
    for axes, label in zip(panels, ("a pass [s]", "peak memory [MB]"), strict=True):
        axes.set(xlabel="rows of 1024 features, float16", ylabel=label)
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=150)


def main(disk: float = 8.5, *, quick: bool = False) -> None:
    """Measure; --disk tells the largest file in GB, --quick takes few rows."""
    rows: list[dict[str, Any]] = []
    for n in QUICK_SIZES if quick else SIZES:
        size = n * P * 2
        with tempfile.TemporaryDirectory(prefix="xplinear-") as name:
            folder = Path(name)
            kinds = {
                "array": size < free_host_memory() / 3,
                "file": size <= disk * GB,
                "simulated": True,
            }
            if kinds["file"]:
                apart(write, folder, n)
            for kind in [kind for kind, possible in kinds.items() if possible]:
                rows.append(apart(measure, kind, n, folder))
                print(rows[-1], flush=True)
    path = report("rows", rows, quick=quick, p=P, k=K, repeated=REPEATED)
    draw(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
