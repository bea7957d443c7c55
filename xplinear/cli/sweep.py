"""``xplinear sweep``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from xplinear.cli.fitting import Given, Report, fit, fits, mean_of, numbers_of, range_of
from xplinear.cli.options import Context, option
from xplinear.cli.terminal import Table
from xplinear.model_selection.cross_validation import LinearClassifierCV

__all__ = ["sweep"]


@fits(LinearClassifierCV, but=["batch_size", "learning_rate"])
def sweep(
    ctx: Context,
    given: Given,
    alphas: str | None = None,
    cv: int = 5,
    one_se: bool = False,
    learning_rates: str | None = None,
    Cs: str | None = None,
    plot: Annotated[Path | None, option(help="Draw the scores: FILE.png.")] = None,
    **settings: Any,
) -> None:
    """Choose the strength of the penalty by cross-validation."""
    estimator = partial(
        LinearClassifierCV,
        _strengths("--alphas", alphas),
        Cs=_strengths("--Cs", Cs),
        cv=cv,
        one_standard_error=one_se,
        learning_rates=numbers_of("--learning-rates", learning_rates),
        **settings,
    )
    fit(ctx, given, plot, estimator, _report)


def _strengths(option: str, text: str | None) -> list[float] | int | None:
    """Return strengths, or how many."""
    return int(text) if text is not None and text.isdigit() else numbers_of(option, text)


def _report(clf: LinearClassifierCV, record: dict[str, Any]) -> Report:
    of_each = clf.alpha_per_label
    every = np.nanmean(clf.cv_scores_, axis=2) if of_each else clf.cv_scores_
    *grid, folds = every.shape
    # Those of the folds, and those to all rows: of many at the strengths chosen only.
    models = int(np.prod(grid)) * (folds + 1)
    if np.ndim(clf.alpha_):
        models = np.size(clf.alpha_) * (int(np.prod(grid)) * folds + 1)
    # As its numbers are: larger is better, so that log loss is negated.
    scoring = "neg_log_loss" if clf.scoring == "log_loss" else clf.scoring
    rates = clf.learning_rates or ()
    title = ["learning rate"] if rates else []
    name, strengths = ("alpha", clf.alphas_) if clf.Cs is None else ("C", clf.Cs_)
    table = Table(name, *title, f"mean {scoring}", "standard error", "")
    for index in np.ndindex(*grid):
        scores = every[index]
        chosen = clf.best_index_ == index if rates else np.sum(clf.best_index_ == index[0])
        table.add_row(
            f"{strengths[index[0]]:.3e}",
            *(f"{rates[r]:g}" for r in index[1:]),
            f"{scores.mean():.4f}",
            f"{scores.std(ddof=1) / len(scores) ** 0.5:.4f}",
            f"chosen{f' for {chosen}' * of_each}" if chosen else "",
            style="bold" if chosen else None,
        )
    given = "" if clf.Cs is None else f"C = {range_of(clf.C_, 4)}, "
    strength = f"alpha = {range_of(clf.alpha_, 4)}"
    return Report(
        {
            "alphas": clf.alphas_,
            "Cs": None if clf.Cs is None else clf.Cs_,
            "learning_rates": clf.learning_rates,
            "scoring": scoring,
            "scores": clf.cv_scores_,
            "models": models,
        },
        {
            "objective": mean_of(record["objective"]),
            "training": f"{models:,} models, {record['seconds']:.2f} s",
        },
        {"chosen": f"{given}{strength}  ({clf.loss} + alpha · {clf.penalty})"},
        [table],
    )
