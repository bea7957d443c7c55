"""``xplinear train``."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from xplinear.cli.fitting import Given, Report, fit, fits, mean_of, range_of
from xplinear.cli.options import Context, option
from xplinear.estimator.classifier import LinearClassifier, problem_of
from xplinear.solvers import SOLVERS
from xplinear.solvers.protocol import declared

__all__ = ["train"]


@fits(LinearClassifier)
def train(
    ctx: Context,
    given: Given,
    learning_rate: str = "auto",
    plot: Annotated[
        Path | None, option(help="Draw loss, and validation accuracy if there is one: FILE.png.")
    ] = None,
    **settings: Any,
) -> None:
    """Train a classifier and report how well it does."""
    estimator = partial(LinearClassifier, learning_rate=_rate(learning_rate), **settings)
    fit(ctx, given, plot, estimator, _report)


def _report(clf: LinearClassifier, record: dict[str, Any]) -> Report:
    n, seconds, iterations = record["n"], record["seconds"], int(np.max(clf.n_iter_))
    unit = declared(SOLVERS[clf.solver_], "unit")
    made = f"{iterations:,} {unit}{'s' * (iterations != 1)} ({clf.solver_})"
    return Report(
        {"iterations": iterations, "examples_per_second": n * iterations / seconds},
        {
            "objective": f"{mean_of(clf.objective_)}  ({problem_of(clf, range_of(clf.alpha_))})",
            "training": f"{made}, {seconds:.2f} s",
        },
    )


def _rate(text: str) -> Literal["auto"] | float:
    if text == "auto":
        return "auto"
    with suppress(ValueError):
        if 0.0 < float(text) < float("inf"):
            return float(text)
    msg = f"--learning-rate: 'auto' or a number is needed, got {text!r}; it must be positive"
    raise ValueError(msg)
