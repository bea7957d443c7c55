"""One contender on one problem, in a process of its own, so that its memory is its own."""

from __future__ import annotations

import ctypes
import gc
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import xplinear as xl
from benchmarks.contenders import CONTENDERS
from benchmarks.problems import PROBLEMS, TARGETS, accuracy, minima, objective, suboptimality

GROWTH = 1.5  # of the budget from fit to fit
PATIENCE, GAIN = 3, 0.01  # give up after so many fits that are not better by 1 %
WARM_UP = 2  # iterations: the second may need another program than the first
PROCESS = Path("/proc/self")


class Measurement(NamedTuple):
    """One fit."""

    budget: int
    seconds: float
    objective: float
    suboptimality: float
    test_accuracy: float
    extra_mb: float


def work(sender: Connection, problem_name: str, name: str, cap: float, again: list[int]) -> None:
    """Send a `Measurement` per budget, or the reason why the contender is left out.

    Budgets grow until the smallest target is met, the next fit would take more than ``cap``
    seconds, or more iterations bring nothing; or they are those of an earlier run, ``again``.
    """
    warnings.simplefilter("ignore")  # fits are meant to end before they have converged
    problem, minimum = PROBLEMS[problem_name](), minima()[problem_name]
    contender = CONTENDERS[name]
    try:
        fit = contender.prepare(problem)
    except (ImportError, xl.BackendError) as error:
        sender.send(str(error))
        return
    fit(WARM_UP)
    measured: list[Measurement] = []
    for budget in again or growing():
        if contender.compiles:
            fit(budget)
        before = resident_mb_now()
        start = time.perf_counter()
        solution = fit(budget)
        seconds = time.perf_counter() - start
        extra = resident_mb("VmHWM") - before
        value = objective(problem, *solution) if contender.same_objective else math.nan
        excess = suboptimality(problem, value, minimum)
        score = accuracy(problem, *solution)
        measured.append(Measurement(budget, seconds, value, excess, score, extra))
        sender.send(measured[-1])
        if not again and (
            excess <= TARGETS[-1] or seconds * GROWTH > cap or is_stuck(list(map(merit, measured)))
        ):
            return


def growing() -> Iterator[int]:
    """Yield 1, 2, 3, 5, 8, 12, 18, ..."""
    budget = 1
    while True:
        yield budget
        budget = math.ceil(GROWTH * budget)


def merit(measured: Measurement) -> float:
    """Return what should become small."""
    other = math.isnan(measured.suboptimality)
    return 1 - measured.test_accuracy if other else measured.suboptimality


def is_stuck(merits: Sequence[float]) -> bool:
    """Whether the last fits were no better than those before."""
    earlier, last = merits[:-PATIENCE], merits[-PATIENCE:]
    return bool(earlier) and min(last) > (1 - GAIN) * min(earlier)


def resident_mb_now() -> float:
    """Return resident memory without what is already freed, and let its peak start from here."""
    if not PROCESS.is_dir():
        return math.nan
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    (PROCESS / "clear_refs").write_text("5", encoding="utf-8")
    return resident_mb("VmRSS")


def resident_mb(field: str) -> float:
    """Return resident memory, ``VmRSS``, or its peak, ``VmHWM``; only Linux tells.

    Unlike ``ru_maxrss``, the peak can start anew and does not contain the parent's.
    """
    if not PROCESS.is_dir():
        return math.nan
    lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))
