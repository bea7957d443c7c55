"""``xplinear train``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from xplinear.cli.fitting import (
    described,
    files,
    fitted,
    loaded,
    problem_of,
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
    option,
    with_settings_of,
)
from xplinear.cli.terminal import show
from xplinear.estimator.classifier import LinearClassifier
from xplinear.formats.model_file import ENDING

__all__ = ["train"]


@with_settings_of(LinearClassifier)
def train(
    ctx: Context,
    data: Data,
    format_: Format = None,
    standardize: Standardize = None,
    learning_rate: Annotated[str, option(help="auto, or a number.")] = "auto",
    seed: Seed = 0,
    target: Target = None,
    impute: Impute = False,
    test_fraction: TestFraction = 0.25,
    plot: Annotated[
        Path | None,
        option(help="Draw loss, and validation accuracy if there is one: FILE.png."),
    ] = None,
    out: ModelFile = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train a classifier and report how well it does."""
    check_picture(plot)
    check_file("--out", out, ENDING)
    dataset, preparation = loaded(data, format_, target, test_fraction, seed, impute=impute)
    clf = LinearClassifier(
        **settings,
        standardize=standardizes(standardize, dataset),
        learning_rate=_rate(learning_rate),
        random_state=seed,
    )
    seconds = fitted(clf, dataset)
    record = record_of(clf, dataset, seconds) | {
        "iterations": clf.n_iter_,
        "examples_per_second": dataset.X.shape[0] * clf.n_iter_ / seconds,
        "model": out,
        "picture": plot,
    }
    unit = "epoch" if clf.solver_ == "sgd" else "iteration"
    made = f"{clf.n_iter_:,} {unit}{'s' * (clf.n_iter_ != 1)} ({clf.solver_})"
    own = {
        "objective": f"{clf.objective_:.6g}  ({problem_of(clf)})",
        "training": f"{made}, {seconds:.2f} s",
    }
    rows = described(record) | results(record, clf, dataset) | own | files(record)
    show(record, [rows], as_json=as_json)
    save_fit(clf, preparation, dataset.name, out, plot)
    if not as_json:
        show_next(ctx, clf.solver_, out)


def _rate(text: str) -> Literal["auto"] | float:
    if text == "auto":
        return "auto"
    with suppress(ValueError):
        if 0.0 < float(text) < float("inf"):
            return float(text)
    msg = f"--learning-rate: 'auto' or a number is needed, got {text!r}; it must be positive"
    raise ValueError(msg)
