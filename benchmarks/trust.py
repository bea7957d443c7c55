"""Is what says that it has converged at its optimum? Random problems in wild units, by default.

Those of ``tests/test_trust.py``: 30 to 600 rows, 1 to 12 features in units from 1e-6 to 1e6, some
far from 0, 2 to 4 classes, weights of 0, alpha from 1e-6 to 0.1, float32 and float64. ``missed``
counts fits without a warning that are further than 1e-3 of F(0) − F* from the minimum, found by
other Newton steps; ``looseness`` is the proven gap over the true one, where that is no rounding.
"""

from __future__ import annotations

import time
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import typer

from benchmarks.report import report

TESTS = run_path(str(Path(__file__).parents[1] / "tests" / "test_trust.py"))


def measure(loss: str, problems: int, **settings: Any) -> dict[str, Any]:
    missed = warned = below = 0
    seconds, excesses, looseness = [], [], []
    for seed in range(problems):
        case = TESTS["random_case"](seed)
        start = time.perf_counter()
        clf, told = TESTS["fitted"](case, loss=loss, **settings)
        seconds.append(time.perf_counter() - start)
        standard = settings.get("standardize", False)
        first, best = TESTS["minimum"](TESTS["standardized"](case) if standard else case, loss)
        excess, gap = clf.objective_ - best, clf.certificate_.gap[0]
        excesses.append(max(excess, 0.0) / (first - best))
        warned += told
        missed += not told and excess > TESTS["PROMISE"] * (first - best)
        below += gap < excess - 1e-8 * best - 1e-12 * first
        if excess > 1e-11 * first:
            looseness.append(gap / excess)
    return {
        "loss": loss,
        "settings": ", ".join(f"{name}={value}" for name, value in settings.items()),
        "problems": problems,
        "warned": warned,
        "missed": missed,
        "largest_excess": max(excesses),
        "bounds_above_the_minimum": below,
        "median_looseness": float(np.median(looseness)),
        "median_milliseconds": round(1e3 * float(np.median(seconds)), 2),
    }


def main(*, problems: int = 2000, quick: bool = False) -> None:
    """Measure; --quick takes 50 problems."""
    count = 50 if quick else problems
    runs = [
        ("softmax", {}),
        ("softmax", {"standardize": True}),
        ("softmax", {"solver": "lbfgs"}),
        ("squared_hinge", {}),
    ]
    report("trust", [measure(loss, count, **given) for loss, given in runs], quick=quick)


if __name__ == "__main__":
    typer.run(main)
