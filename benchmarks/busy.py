"""Fits on all cores and on one, alone and beside programs that keep a core busy.

``loop`` is one program that counts for ever, ``loop + products`` another one that multiplies
matrices with every core, too. Each fit runs in a process of its own, with as many BLAS threads as
there are cores or with one, in turn; seconds are the medians of all rounds, and so are those of
the processor. What else the machine had to do meanwhile is in its load: run this on an idle one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import typer
from sklearn.datasets import load_breast_cancer, load_digits

import xplinear as xl
from benchmarks.report import report
from xplinear.datasets import load

LOOP = "while True: pass"
PRODUCTS = "import numpy as np; x = np.ones((1500, 1500))\nwhile True: x @ x"
BESIDE = {"nothing": (), "loop": (LOOP,), "loop + products": (LOOP, PRODUCTS)}


def many_classes() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((15_000, 64)).astype(np.float32)
    noise = 3 * rng.gumbel(size=(len(X), 1000))
    return X, np.argmax(X @ rng.standard_normal((64, 1000)) + noise, axis=1)


def fashion() -> tuple[Any, Any]:
    data = load("fashion-mnist")
    return np.asarray(data.X, dtype=np.float32) / np.float32(255), data.y


def digits() -> tuple[Any, Any]:
    return load_digits(return_X_y=True)


FITS: dict[str, tuple[Any, Any]] = {
    "digits": (digits, xl.LinearClassifier()),
    "breast_cancer": (lambda: load_breast_cancer(return_X_y=True), xl.LinearClassifier()),
    "digits, hinge": (digits, xl.LinearClassifier(loss="multiclass_hinge")),
    "digits, sweep": (digits, xl.LinearClassifierCV(cv=5)),
    "k = 1,000": (many_classes, xl.LinearClassifier(random_state=0)),
    "k = 1,000, L-BFGS": (many_classes, xl.LinearClassifier(solver="lbfgs", max_iter=20)),
    "fashion-mnist": (fashion, xl.LinearClassifier(random_state=0)),
    "fashion-mnist, L-BFGS": (fashion, xl.LinearClassifier(solver="lbfgs", max_iter=20)),
}


def fit(name: str, repeats: int) -> None:
    """Print the seconds of some fits, and of the processor, the first one left out."""
    warnings.simplefilter("ignore")  # L-BFGS is stopped early
    problem, estimator = FITS[name]
    X, y = problem()
    times = []
    for _ in range(repeats + 1):
        start, used = time.perf_counter(), time.process_time()
        estimator.fit(X, y)
        times.append((time.perf_counter() - start, time.process_time() - used))
    print(json.dumps(times[1:]))


@contextmanager
def beside(programs: tuple[str, ...]) -> Generator[None]:
    started = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        time.sleep(1.0 if programs else 0.0)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def fitted(name: str, threads: int, repeats: int) -> list[tuple[float, float]]:
    command = [sys.executable, "-m", "benchmarks.busy", "--fit", name, "--repeats", str(repeats)]
    number = {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command, env=os.environ | number, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def measure(name: str, programs: str, cores: int, rounds: int, repeats: int) -> dict[str, Any]:
    found: dict[int, list[tuple[float, float]]] = {cores: [], 1: []}
    with beside(BESIDE[programs]):
        for _ in range(rounds):
            for threads, times in found.items():
                times.extend(fitted(name, threads, repeats))
    (all_cores, all_cpu), (one, one_cpu) = (np.median(times, axis=0) for times in found.values())
    return {
        "fit": name,
        "beside": programs,
        "seconds": float(all_cores),
        "seconds_one_thread": float(one),
        "ratio": float(all_cores / one),
        "slowest": max(seconds for seconds, _ in found[cores]),
        "cpu_seconds": float(all_cpu),
        "cpu_seconds_one_thread": float(one_cpu),
    }


def main(
    *,
    rounds: int = 3,
    repeats: int = 3,
    quick: bool = False,
    fit_only: str = typer.Option("", "--fit"),
) -> None:
    """Measure; --quick makes one round of the small fits. --fit NAME only prints seconds."""
    if fit_only:
        fit(fit_only, repeats)
        return
    names = ["digits", "breast_cancer"] if quick else list(FITS)
    rounds, cores = 1 if quick else rounds, len(os.sched_getaffinity(0))
    rows = [
        measure(name, programs, cores, rounds, repeats) for name in names for programs in BESIDE
    ]
    report("busy", rows, quick=quick, threads=cores, rounds=rounds, repeats=repeats)


if __name__ == "__main__":
    typer.run(main)
