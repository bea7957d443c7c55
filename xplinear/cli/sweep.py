"""``xplinear sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from xplinear.cli.fitting import (
    described,
    files,
    fitted,
    loaded,
    record_of,
    results,
    save_fit,
    show_next,
    standardizes,
)
from xplinear.cli.options import (
    Context,
    Data,
    Format,
    Impute,
    Json,
    ModelFile,
    Seed,
    Standardize,
    Target,
    TestFraction,
    check_file,
    check_picture,
    numbers_of,
    option,
    with_settings_of,
)
from xplinear.cli.terminal import Table, show
from xplinear.formats.model_file import ENDING
from xplinear.model_selection.cross_validation import LinearClassifierCV

__all__ = ["sweep"]


@with_settings_of(LinearClassifierCV, but=["batch_size"])
def sweep(
    ctx: Context,
    data: Data,
    format_: Format = None,
    alphas: Annotated[
        str | None, option(help="Strengths, 1e-5,1e-4,…; or how many, chosen for the data; 20.")
    ] = None,
    cv: Annotated[int, option(min=2, help="Folds.")] = 5,
    one_se: Annotated[
        bool, option("--one-se", help="The strongest within one standard error.")
    ] = False,
    standardize: Standardize = None,
    learning_rates: Annotated[
        str | None, option(help="Of sgd, all in the same stack: 0.001,0.01,…")
    ] = None,
    seed: Seed = 0,
    target: Target = None,
    impute: Impute = False,
    test_fraction: TestFraction = 0.25,
    plot: Annotated[Path | None, option(help="Draw the scores: FILE.png.")] = None,
    out: ModelFile = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Choose the strength of the penalty by cross-validation."""
    check_picture(plot)
    check_file("--out", out, ENDING)
    dataset, preparation = loaded(data, format_, target, test_fraction, seed, impute=impute)
    count = int(alphas) if alphas is not None and alphas.isdigit() else None
    clf = LinearClassifierCV(
        numbers_of("--alphas", alphas) if count is None else count,
        cv=cv,
        one_standard_error=one_se,
        learning_rates=numbers_of("--learning-rates", learning_rates),
        standardize=standardizes(standardize, dataset),
        random_state=seed,
        **settings,
    )
    seconds = fitted(clf, dataset)
    best = clf.best_estimator_
    *grid, folds = clf.cv_scores_.shape
    scoring: str = settings["scoring"]
    scoring = "neg_log_loss" if scoring == "log_loss" else scoring  # as its numbers are
    record = record_of(best, dataset, seconds) | {
        "alphas": clf.alphas_,
        "learning_rates": clf.learning_rates,
        "scoring": scoring,
        "scores": clf.cv_scores_,
        "models": int(np.prod(grid)) * (folds + 1),  # those of the folds, and those to all rows
        "model": out,
        "picture": plot,
    }
    chosen = f"alpha = {clf.alpha_:.4g}  ({best.loss} + alpha · {best.penalty})"
    own = {
        "objective": f"{best.objective_:.6g}",
        "training": f"{record['models']:,} models, {seconds:.2f} s",
    }
    rows = described(record) | {"chosen": chosen} | results(record, best, dataset) | own
    show(record, [_scores_table(clf, scoring), rows | files(record)], as_json=as_json)
    save_fit(clf, preparation, dataset.name, out, plot)
    if not as_json:
        show_next(ctx, best.solver_, out)


def _scores_table(clf: LinearClassifierCV, scoring: str) -> Table:
    rates = clf.learning_rates or ()
    title = ["learning rate"] if rates else []
    table = Table("alpha", *title, f"mean {scoring}", "standard error", "")
    for index in np.ndindex(clf.cv_scores_.shape[:-1]):
        scores = clf.cv_scores_[index]
        chosen = clf.best_index_ == (index if rates else index[0])
        table.add_row(
            f"{clf.alphas_[index[0]]:.3e}",
            *(f"{rates[r]:g}" for r in index[1:]),
            f"{scores.mean():.4f}",
            f"{scores.std(ddof=1) / len(scores) ** 0.5:.4f}",
            "chosen" if chosen else "",
            style="bold" if chosen else None,
        )
    return table
