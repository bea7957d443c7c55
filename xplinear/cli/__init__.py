"""The command line: ``xplinear train digits`` and the rest; the only file that imports typer."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import rich.progress
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

import xplinear
from xplinear.backends import BACKENDS, Backend, available_backends, get_backend
from xplinear.backends.machine import machine
from xplinear.bench import CELLS, Measurement, measure, usable_backends
from xplinear.checks.certificate import Certificate
from xplinear.checks.gradients import check_gradient
from xplinear.checks.parity import TOLERANCES, WEIGHT_TOLERANCES, Comparison, compare
from xplinear.data import ArrayData
from xplinear.datasets import FORMATS, NAMES, Dataset, holdout, load
from xplinear.datasets.preparation import Column, Preparation
from xplinear.estimator.attributes import save
from xplinear.estimator.classifier import LinearClassifier
from xplinear.estimator.validation import dtype_name
from xplinear.formats.model_file import ENDING, content_of
from xplinear.formats.writing import check_writable, written
from xplinear.losses import LOSSES
from xplinear.minimize import Progress
from xplinear.model_selection.cross_validation import LinearClassifierCV
from xplinear.model_selection.scoring import SCORINGS
from xplinear.model_selection.sweep import SweepProgress
from xplinear.objective import Objective, Params
from xplinear.penalties import PENALTIES
from xplinear.solvers import SOLVERS

__all__ = ["app", "main"]

_NO_LABEL = np.zeros(1, dtype=int)
_PIPE_WIDTH = 160  # of tables that no terminal limits
_DPI = 150
_LINE_SECONDS = 5.0  # between lines of progress where stderr is no terminal
_INTERRUPTED = 128 + 2  # as a shell reports SIGINT
_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_PICTURES = (".png", ".svg", ".pdf", ".eps", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
_IN_PYTHON = re.compile(
    r"(, or| or|,) (None\b|pass a callable|an object with the methods of [\w.]+)"
)
_BAD_INPUT = (ValueError, OSError, ImportError, MemoryError, xplinear.BackendError)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"warning: {message}", err=True)


class _Commands(TyperGroup):
    """The commands; bad input ends in one line on stderr and exit code 2, Ctrl-C in 130."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            for category in (UserWarning, RuntimeWarning):
                warnings.simplefilter("always", category)
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # of ``| head``, no bad input
                raise
            except _BAD_INPUT as error:
                typer.echo(f"error: {self._with_options(str(error), ctx)}", err=True)
                raise typer.Exit(2) from error
            except KeyboardInterrupt as interrupt:
                typer.echo("interrupted: nothing is saved", err=True)
                raise typer.Exit(_INTERRUPTED) from interrupt

    def _with_options(self, message: str, ctx: Any) -> str:
        """Return the message with arguments named as the options that give them."""
        message = re.sub(r"^ending\b", "--format", message)
        for option in self.commands[ctx.invoked_subcommand].params:
            # A word such as loss is an argument only where a value or a rule follows.
            follows = "" if "_" in str(option.name) else "(?==|`? must )"
            pattern = rf"^{option.name}(?=: )|(?<![-\w'\"]){option.name}\b{follows}"
            message = re.sub(pattern, option.opts[0], message)
            message = re.sub(rf"^(unknown )?{option.name} '", rf"{option.opts[0]}: \g<0>", message)
        return _IN_PYTHON.sub("", message) if message.startswith("--") else message


def _words(*words: str) -> Callable[[str], list[str]]:
    """Return a completion: those of the words that begin so, after the last comma."""

    def complete(incomplete: str) -> list[str]:
        done, comma, last = incomplete.rpartition(",")
        return [done + comma + word for word in words if word.startswith(last)]

    return complete


def _data(incomplete: str) -> list[str]:
    """Complete the name of a data set, or of a file that can be read."""
    folder, slash, _ = incomplete.rpartition("/")
    names = list(NAMES)
    with suppress(OSError):
        names += [
            folder + slash + path.name + "/" * path.is_dir()
            for path in sorted(Path(folder + slash or ".").iterdir())
            if path.is_dir() or path.name.lower().endswith(tuple(FORMATS))
        ]
    return [name for name in names if name.startswith(incomplete)]


_BACKEND_NAMES = ("auto", *BACKENDS, "torch:cuda", "jax:cuda")

app = typer.Typer(
    cls=_Commands,
    help="Linear classifiers on any array library.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_DATA_HELP = f"{', '.join(NAMES)}, or a file: {', '.join(FORMATS)}; - for standard input."
_Data = Annotated[
    str,
    typer.Argument(metavar="DATA", help=_DATA_HELP, show_default=False, autocompletion=_data),
]
_ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A file that train --out wrote.")]
_Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Of DATA, such as csv, whatever its name ends in; that of standard input is csv.",
        autocompletion=_words(*(ending[1:] for ending in FORMATS)),
    ),
]
_Target = Annotated[
    str | None,
    typer.Option(help="Column (or array, or file) of the labels; the last column by default."),
]
# Of `train` and `sweep`.
_Loss = Annotated[str, typer.Option(help=f"{', '.join(LOSSES)}.", autocompletion=_words(*LOSSES))]
_Penalty = Annotated[
    str, typer.Option(help=f"{', '.join(PENALTIES)}.", autocompletion=_words(*PENALTIES))
]
_L1Ratio = Annotated[float, typer.Option(help="Share of L1 in elastic_net.")]
_Standardize = Annotated[
    bool | None,
    typer.Option(
        "--standardize/--no-standardize",
        help="Train on features of mean 0 and variance 1; by default for tables only.",
        show_default=False,
    ),
]
_Solver = Annotated[
    str,
    typer.Option(help=f"auto, {', '.join(SOLVERS)}.", autocompletion=_words("auto", *SOLVERS)),
]
_MaxIter = Annotated[
    int | None, typer.Option(help="Iterations, epochs of sgd; the solver's own by default.")
]
_Tol = Annotated[float, typer.Option(help="Tolerance of the stopping test.")]
_Backend = Annotated[
    str | None,
    typer.Option(help="numpy, cupy, torch:cuda:0, auto …", autocompletion=_words(*_BACKEND_NAMES)),
]
_Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32 or float64; that of the data.",
        autocompletion=_words("float32", "float64"),
    ),
]
_Precision = Annotated[
    Literal["float32", "tf32"],
    typer.Option(help="Of matrix products in training: tf32 is faster on GPUs, and rougher."),
]
_Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the split and the shuffles.")]
_TestFraction = Annotated[
    float, typer.Option(help="Rows held out where DATA has no test part; 0 for none.")
]
_Accelerate = Annotated[
    bool, typer.Option("--accelerate/--no-accelerate", help="Use the backend's own kernels.")
]
_Out = Annotated[Path | None, typer.Option(help="Save the model: FILE.safetensors.")]
_Impute = Annotated[
    bool,
    typer.Option("--impute", help="Fill missing values: median, or the most frequent text."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]
# Of the checks.
_Losses = Annotated[
    str | None,
    typer.Option(help=f"Of {', '.join(LOSSES)}; all by default.", autocompletion=_words(*LOSSES)),
]
_Backends = Annotated[
    str | None,
    typer.Option(
        help="Such as numpy,torch,jax, with commas between; all that work here by default.",
        autocompletion=_words(*_BACKEND_NAMES),
    ),
]


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xplinear {xplinear.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show it and exit."),
    ] = False,
) -> None:
    del version


def _console() -> Console:
    # Without markup: brackets belong to names of files and extras.
    width = None if Console().is_terminal else _PIPE_WIDTH
    return Console(width=width, markup=False)


def _split(names: str | None, known: Sequence[str], option: str) -> list[str]:
    """Return the names of a comma-separated option, all known ones where it is not given."""
    chosen = list(known) if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            msg = f"{option}: unknown {name!r}; choose from {', '.join(known)}"
            raise ValueError(msg)
    return chosen


def _chosen_backends(names: str | None) -> list[Backend]:
    if names is None:
        return [get_backend(status.name) for status in available_backends() if status.available]
    try:
        return [get_backend(name.strip()) for name in names.split(",")]
    except (ValueError, xplinear.BackendError) as error:
        msg = f"--backends: {error}"
        raise ValueError(msg) from error


def _check_writable(option: str, path: Path | None, *endings: str) -> None:
    """Fail before the work is done, not after it."""
    if path is not None:
        try:
            check_writable(path, endings)
        except (OSError, ValueError) as error:
            msg = f"{option}: {error}"
            raise ValueError(msg) from error


def _check_picture(path: Path | None) -> None:
    _check_writable("--plot", path, *_PICTURES)
    if path is not None:
        import_module("xplinear.plot")  # an error where matplotlib is not installed


@contextmanager
def _progress_bar() -> Generator[Callable[[Progress | SweepProgress], None]]:
    """Give a callback that shows the progress of a fit: a bar, or in a pipe a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _progress_lines()
        return
    bar = rich.progress.Progress(
        rich.progress.TextColumn("training"),
        rich.progress.BarColumn(None),  # what the words leave
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[news]}"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("left"),
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=4,
    )
    with bar:
        task = bar.add_task("training", total=None, news="")

        def show(progress: Progress | SweepProgress) -> None:
            if isinstance(progress, SweepProgress):
                done, total = progress.done, progress.models
                news = f"models, alpha {progress.alpha:.2e}, loss {progress.loss:.4f}"
            else:
                done, total = progress.iteration, progress.iterations
                news = f"loss {progress.loss[0]:.4f}"
            bar.update(task, completed=done, total=total, news=news)

        yield show


def _progress_lines() -> Callable[[Progress | SweepProgress], None]:
    last = time.perf_counter()

    def show(progress: Progress | SweepProgress) -> None:
        nonlocal last
        if time.perf_counter() - last >= _LINE_SECONDS:
            last = time.perf_counter()
            typer.echo(progress, err=True)

    return show


@app.command()
def train(
    ctx: typer.Context,
    data: _Data,
    format_: _Format = None,
    loss: _Loss = "softmax",
    penalty: _Penalty = "l2",
    alpha: Annotated[
        float | None, typer.Option(help="Strength λ of the penalty: 1 / (C n).")
    ] = None,
    C: Annotated[
        float | None,
        typer.Option("--C", help="Strength as scikit-learn has it; 1 where --alpha is not given."),
    ] = None,
    l1_ratio: _L1Ratio = 0.15,
    standardize: _Standardize = None,
    solver: _Solver = "auto",
    batch_size: Annotated[int, typer.Option(help="Rows of a mini-batch.")] = 64,
    learning_rate: Annotated[str, typer.Option(help="auto, or a number.")] = "auto",
    max_iter: _MaxIter = None,
    tol: _Tol = 1e-4,
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="Stop on a held-out tenth of the rows.")
    ] = False,
    backend: _Backend = None,
    dtype: _Dtype = None,
    precision: _Precision = "float32",
    seed: _Seed = 0,
    target: _Target = None,
    impute: _Impute = False,
    test_fraction: _TestFraction = 0.25,
    accelerate: _Accelerate = True,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw loss, and validation accuracy if there is one: FILE.png."),
    ] = None,
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """Train a classifier and report how well it does."""
    _check_picture(plot)
    _check_writable("--out", out, ENDING)
    dataset, preparation = _loaded(data, format_, target, test_fraction, seed, impute=impute)
    clf = LinearClassifier(
        loss,
        penalty=penalty,
        alpha=alpha,
        C=C,
        l1_ratio=l1_ratio,
        standardize=_standardizes(standardize, dataset),
        solver=solver,
        batch_size=batch_size,
        learning_rate=_rate(learning_rate),
        max_iter=max_iter,
        tol=tol,
        early_stopping=early_stopping,
        random_state=seed,
        backend=backend,
        dtype=dtype,
        precision=precision,
        accelerate=accelerate,
    )
    seconds = _fitted(clf, dataset)
    examples = dataset.X.shape[0] * clf.n_iter_
    if as_json:
        record = {"iterations": clf.n_iter_, "examples_per_second": examples / seconds}
        _print_json({**_record(clf, dataset, seconds), **record, "model": out, "picture": plot})
        _save_fit(clf, preparation, dataset.name, out, plot)
        return
    table = _described(clf, dataset)
    _add_results(table, clf, dataset)
    table.add_row("objective", f"{clf.objective_:.6g}  ({_problem_of(clf)})")
    table.add_row("training", f"{_made(clf)}, {seconds:.2f} s")
    _add_files(table, model=out, picture=plot)
    console = _console()
    console.print(table)
    _save_fit(clf, preparation, dataset.name, out, plot)
    _print_next(console, ctx, clf.solver_, out)


def _save_fit(
    clf: LinearClassifier | LinearClassifierCV,
    preparation: dict[str, Any] | None,
    data: str,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Write the model and the picture, last of all: Ctrl-C before that leaves nothing behind."""
    with written(out, plot) as (model, picture):
        if model is not None:
            best = clf.best_estimator_ if isinstance(clf, LinearClassifierCV) else clf
            save(best, model, preparation)
        if picture is not None:
            from xplinear.plot import LossCurveDisplay, ValidationCurveDisplay

            if isinstance(clf, LinearClassifierCV):
                display = ValidationCurveDisplay.from_estimator(clf, data=data)
            else:
                display = LossCurveDisplay.from_estimator(clf, data=data)
            display.figure_.savefig(picture, format=_picture_format(picture), dpi=_DPI)


def _picture_format(path: Path) -> str:
    """Return the format of a picture; a device has no ending, and gets PNG."""
    return path.suffix[1:] or "png"


def _problem_of(clf: LinearClassifier) -> str:
    """Return loss, strength and penalty as the formula has them."""
    if clf.penalty == "none":
        return f"{clf.loss}, no penalty"
    # Weights that were given, not fitted, know no number of rows.
    alpha = getattr(clf, "alpha_", None)
    strength = f"{alpha:g}" if alpha is not None else f"1 / ({clf.C or 1.0:g} n)"
    return f"{clf.loss} + {strength} · {clf.penalty}"


def _loaded(
    data: str,
    format_: str | None,
    target: str | None,
    test_fraction: float,
    seed: int,
    *,
    impute: bool,
) -> tuple[Dataset, dict[str, Any] | None]:
    """Return data to train on, and what a model file keeps of how a file became numbers."""
    if not 0.0 <= test_fraction < 1.0:
        msg = f"--test-fraction must lie between 0 and 1, got {test_fraction}; 0 holds out no rows"
        raise ValueError(msg)
    dataset = load(data, ending=_ending(format_), target=target, mixed=True, missing=impute)
    _warn_of_row_numbers(dataset)
    if dataset.X_test is not None:
        _warn_of_new_labels(dataset)
    dataset = dataset if test_fraction == 0.0 else holdout(dataset, test_fraction, seed)
    if dataset.names is None:
        if impute:
            msg = f"--impute is for tables, .csv and .parquet; {dataset.name} is none"
            raise ValueError(msg)
        if dataset.index_base is None:
            return dataset, None
    preparation = Preparation.learned(dataset, impute=impute)
    return preparation.apply(dataset), preparation.record()


def _warn_of_row_numbers(dataset: Dataset) -> None:
    """Say so where a column counts the rows, as a row index does that was written with them."""
    n = dataset.X.shape[0]
    for name, values in zip(dataset.names or (), dataset.X.T, strict=False):
        if (
            name not in dataset.texts
            and n >= 20
            and np.array_equal(values - values[0], np.arange(n))
        ):
            message = (
                f"{dataset.name}: column {name!r} counts the rows; if it is a row index, and no "
                "feature, drop it (pandas: index=False)"
            )
            warnings.warn(message, UserWarning, stacklevel=2)


def _warn_of_new_labels(dataset: Dataset) -> None:
    """Say so where the test part has labels that no row for training has."""
    y_test = np.asarray(dataset.y_test)
    new = y_test[~np.isin(y_test, np.asarray(dataset.y))]
    if new.size:
        message = (
            f"{dataset.name}: {new.size:,} test rows have labels that no row for training has, "
            f"such as {new[0].item()!r}; they count as errors"
        )
        warnings.warn(message, UserWarning, stacklevel=2)


def _ending(format_: str | None) -> str | None:
    """Return the ending that is asked for, of those that are known."""
    if format_ is None:
        return None
    ending = f".{format_.lower().removeprefix('.')}"
    if ending not in FORMATS:
        known = ", ".join(one[1:] for one in FORMATS)
        msg = f"--format: unknown {format_!r}; choose from {known}"
        raise ValueError(msg)
    return ending


def _standardizes(wanted: bool | None, dataset: Dataset) -> bool:
    """Return whether to standardize: columns of a table are in units of their own."""
    return dataset.target is not None if wanted is None else wanted


def _print_json(record: Any) -> None:
    """Print a record; what JSON has no number for, such as NaN, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        if isinstance(value, (np.ndarray, np.generic)):
            return plain(value.tolist())
        if isinstance(value, float) and not np.isfinite(value):
            return None
        return value if isinstance(value, (str, int, float, type(None))) else str(value)

    typer.echo(json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False))


def _record(clf: LinearClassifier, dataset: Dataset, seconds: float) -> dict[str, Any]:
    """Return what is reported of a fit, under the names that scripts read."""
    n, p = dataset.X.shape
    record = {
        "data": dataset.name,
        "target": dataset.target,
        "n": n,
        "p": p,
        "k": len(clf.classes_),
        "dtype": dataset.X.dtype,
        "computed_in": dtype_name(clf.coef_),
        "backend": clf.backend_.name,
        "device": clf.backend_.device,
        "loss": clf.loss,
        "penalty": clf.penalty,
        "alpha": clf.alpha_,
        "C": clf.C,
        "standardize": clf.standardize,
        "solver": clf.solver_,
        "objective": clf.objective_,
        "certificate": _certificate_record(clf),
        "train_accuracy": clf.score(dataset.X, dataset.y),
        "seconds": seconds,
    }
    if dataset.X_test is not None:
        record["test_accuracy"] = clf.score(dataset.X_test, dataset.y_test)
        record["test_rows"] = dataset.X_test.shape[0]
        record["baseline_accuracy"] = _baseline(dataset)
    return record


def _certificate_record(clf: LinearClassifier) -> dict[str, Any] | None:
    certificate: Certificate | None = getattr(clf, "certificate_", None)
    if certificate is None:
        return None
    return {
        "objective": float(certificate.objective[0]),
        "lower_bound": float(certificate.lower_bound[0]),
        "reason": certificate.reasons[0],
    }


def _fitted(clf: LinearClassifier | LinearClassifierCV, dataset: Dataset) -> float:
    """Fit under a progress bar; return the seconds it took."""
    start = time.perf_counter()
    with _progress_bar() as show:
        clf.fit(dataset.X, dataset.y, callbacks=[show])
    return time.perf_counter() - start


def _described(clf: LinearClassifier, dataset: Dataset) -> Table:
    """Return a table that begins with what was computed, and where."""
    n, p = dataset.X.shape
    table = Table(show_header=False)
    table.add_row(
        "data", f"{dataset.name}: {n:,} rows, {p:,} features, {len(clf.classes_):,} classes"
    )
    if dataset.target is not None:
        table.add_row("labels", f"column {dataset.target}")
    if clf.standardize:
        table.add_row("features", "standardized; --no-standardize leaves them as they are")
    table.add_row("dtype", f"{dataset.X.dtype}, computed in {dtype_name(clf.coef_)}")
    table.add_row("backend, device", f"{clf.backend_.name}, {clf.backend_.device}")
    return table


def _add_results(table: Table, clf: LinearClassifier, dataset: Dataset) -> None:
    if dataset.X_test is not None:
        score = clf.score(dataset.X_test, dataset.y_test)
        rows = f"{dataset.X_test.shape[0]:,} rows it was not trained on"
        table.add_row("test accuracy", f"{score:.4f}  ({rows})")
        always = f"always answering {_most_frequent(dataset)}, the most frequent class"
        table.add_row("baseline", f"{_baseline(dataset):.4f}  ({always})")
    table.add_row("train accuracy", f"{clf.score(dataset.X, dataset.y):.4f}")
    table.add_row("trained", _how_far(clf))


def _most_frequent(dataset: Dataset) -> Any:
    labels, counts = np.unique(np.asarray(dataset.y), return_counts=True)
    return labels[counts.argmax()].item()


def _baseline(dataset: Dataset) -> float:
    """Return the test accuracy of who always says the label that is most frequent in training."""
    return float(np.mean(np.asarray(dataset.y_test) == _most_frequent(dataset)))


def _made(clf: LinearClassifier) -> str:
    unit = "epoch" if clf.solver_ == "sgd" else "iteration"
    return f"{clf.n_iter_:,} {unit}{'s' * (clf.n_iter_ != 1)} ({clf.solver_})"


_ENDS = {
    "converged": "to the end",
    "rounding": "as far as rounding allows",
    "max_iter": "not to the end: --max-iter stopped it",
    "early_stopping": "until held-out rows gained no more",
}


def _how_far(clf: LinearClassifier) -> str:
    """Return in plain words whether training is done: its certificate."""
    certificate: Certificate | None = getattr(clf, "certificate_", None)
    if certificate is None:
        return f"by {clf.solver_}, which does not measure what is left to gain"
    end = _ENDS.get(certificate.reasons[0], certificate.reasons[0])
    if not np.isfinite(certificate.gap[0]):
        return f"{end} by the solver's own estimate; nothing is proven"
    # All scores 0, before training: the same loss whatever the label.
    start, _ = LOSSES[str(clf.loss)]().value_and_grad(np.zeros((1, len(clf.classes_))), _NO_LABEL)
    gain = float(start[0] - certificate.lower_bound[0])
    share = float(certificate.gap[0]) / max(gain, np.finfo(float).tiny)
    left = "less than a millionth" if share < 1e-6 else f"at most {100 * min(share, 1.0):.2g} %"
    return f"{end}; {left} of what training can gain is left, proven"


def _print_next(console: Console, ctx: Any, solver: str, out: Path | None) -> None:
    """Say which commands to try next, and what for."""
    command, data = ctx.command.name, ctx.params["data"]
    steps: dict[str, str] = {}
    if command == "train" and ctx.params["penalty"] != "none" and data != "-":
        given = _given(ctx, ctx.parent.command.commands["sweep"])
        # To the optimum of every strength would take long where one fit did not go there.
        if solver == "sgd" and "--solver=sgd" not in given:
            given.append("--solver=sgd")
        steps[shlex.join(["xplinear", "sweep", data, *given])] = "find a better strength"
    if out is None:
        again = shlex.join(["xplinear", command, data, *_given(ctx, ctx.command)])
        steps[f"{again} --out model.safetensors"] = "keep the model"
    else:
        model = shlex.quote(str(out))
        steps[f"xplinear predict {model} NEW.csv --out labels.csv"] = "label new rows"
    width = max(map(len, steps))
    for word, (step, purpose) in zip(("next:", ""), steps.items(), strict=False):
        console.print(f"{word:6}{step:{width}}  # {purpose}", soft_wrap=True, highlight=False)


def _given(ctx: Any, command: Any) -> list[str]:
    """Return the options that were given, of those that a command has; not what it prints."""
    given: list[str] = []
    known = {option.name for option in command.params} - {"data", "plot", "out", "as_json"}
    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name)
        if option.name in known and source.name == "COMMANDLINE":
            value = ctx.params[option.name]
            flag = option.opts[0] if value else (option.secondary_opts or option.opts)[0]
            given.append(flag if isinstance(value, bool) else f"{option.opts[0]}={value}")
    return given


def _add_files(table: Table, **paths: Path | None) -> None:
    for name, path in paths.items():
        if path is not None:
            table.add_row(name, str(path))


def _rate(text: str) -> Literal["auto"] | float:
    if text == "auto":
        return "auto"
    with suppress(ValueError):
        if 0.0 < float(text) < float("inf"):
            return float(text)
    msg = f"--learning-rate: 'auto' or a number is needed, got {text!r}; it must be positive"
    raise ValueError(msg)


@app.command()
def sweep(
    ctx: typer.Context,
    data: _Data,
    format_: _Format = None,
    alphas: Annotated[
        str | None,
        typer.Option(help="Strengths, 1e-5,1e-4,…; or how many, chosen for the data; 20."),
    ] = None,
    cv: Annotated[int, typer.Option(min=2, help="Folds.")] = 5,
    scoring: Annotated[
        str, typer.Option(help=f"{', '.join(SCORINGS)}.", autocompletion=_words(*SCORINGS))
    ] = "accuracy",
    one_se: Annotated[
        bool, typer.Option("--one-se", help="The strongest within one standard error.")
    ] = False,
    loss: _Loss = "softmax",
    penalty: _Penalty = "l2",
    l1_ratio: _L1Ratio = 0.15,
    standardize: _Standardize = None,
    solver: _Solver = "auto",
    learning_rates: Annotated[
        str | None, typer.Option(help="Of sgd, all in the same stack: 0.001,0.01,…")
    ] = None,
    max_iter: _MaxIter = None,
    tol: _Tol = 1e-4,
    backend: _Backend = None,
    dtype: _Dtype = None,
    precision: _Precision = "float32",
    seed: _Seed = 0,
    target: _Target = None,
    impute: _Impute = False,
    test_fraction: _TestFraction = 0.25,
    accelerate: _Accelerate = True,
    plot: Annotated[Path | None, typer.Option(help="Draw the scores: FILE.png.")] = None,
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """Choose the strength of the penalty by cross-validation."""
    _check_picture(plot)
    _check_writable("--out", out, ENDING)
    dataset, preparation = _loaded(data, format_, target, test_fraction, seed, impute=impute)
    chosen = int(alphas) if alphas is not None and alphas.isdigit() else None
    clf = LinearClassifierCV(
        _numbers("--alphas", alphas) if chosen is None else chosen,
        cv=cv,
        scoring=scoring,
        one_standard_error=one_se,
        learning_rates=_numbers("--learning-rates", learning_rates),
        loss=loss,
        penalty=penalty,
        l1_ratio=l1_ratio,
        standardize=_standardizes(standardize, dataset),
        solver=solver,
        max_iter=max_iter,
        tol=tol,
        random_state=seed,
        backend=backend,
        dtype=dtype,
        precision=precision,
        accelerate=accelerate,
    )
    seconds = _fitted(clf, dataset)
    best = clf.best_estimator_
    scoring = "neg_log_loss" if scoring == "log_loss" else scoring  # as its numbers are
    if as_json:
        grid = {"alphas": clf.alphas_, "learning_rates": learning_rates and clf.learning_rates}
        grid |= {"scoring": _said(scoring), "scores": clf.cv_scores_, "models": _models(clf)}
        _print_json({**_record(best, dataset, seconds), **grid, "model": out, "picture": plot})
        _save_fit(clf, preparation, dataset.name, out, plot)
        return
    console = _console()
    console.print(_scores_table(clf, scoring))
    table = _described(best, dataset)
    table.add_row("chosen", f"alpha = {clf.alpha_:.4g}  ({loss} + alpha · {penalty})")
    _add_results(table, best, dataset)
    table.add_row("objective", f"{best.objective_:.6g}")
    table.add_row("training", f"{_models(clf):,} models, {seconds:.2f} s")
    _add_files(table, model=out, picture=plot)
    console.print(table)
    _save_fit(clf, preparation, dataset.name, out, plot)
    _print_next(console, ctx, best.solver_, out)


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        msg = f"{option}: numbers with commas between are needed, got {text!r}"
        raise ValueError(msg) from error


def _models(clf: LinearClassifierCV) -> int:
    """Return how many models were fitted: those of the folds, and those to all rows."""
    *grid, folds = clf.cv_scores_.shape
    return int(np.prod(grid)) * (folds + 1)


def _said(scoring: str) -> str:
    """Return the name of what is shown: larger is better, so that log loss is negated."""
    return "neg_log_loss" if scoring == "log_loss" else scoring


def _scores_table(clf: LinearClassifierCV, scoring: str) -> Table:
    rates = clf.learning_rates or ()
    title = ["learning rate"] if rates else []
    table = Table("alpha", *title, f"mean {_said(scoring)}", "standard error", "")
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


def _agreement(clf: LinearClassifier, labels: Any, y: Any, name: str) -> tuple[int, float | None]:
    """Return how many rows have a label, and the share of them where it is the one predicted."""
    if y is None:
        return 0, None
    both = zip(labels.tolist(), y.tolist(), strict=True)
    pairs = [(label, true) for label, true in both if true is not None]
    classes = clf.classes_.tolist()
    known = set(classes)
    unknown = [true for _, true in pairs if true not in known]
    if not pairs:
        return 0, None
    if len(unknown) == len(pairs):
        some = ", ".join(map(str, classes[:5]))
        msg = (
            f"no label of {name} is one of the model's ({some} ...): name their column with "
            "--target, or leave it out if it holds none"
        )
        raise ValueError(msg)
    if unknown:
        message = (
            f"{name}: {len(unknown):,} rows have labels the model does not know, such as "
            f"{unknown[0]!r}; they count as errors"
        )
        warnings.warn(message, UserWarning, stacklevel=2)
    return len(pairs), float(np.mean([label == true for label, true in pairs]))


def _check_table(out: Path, data: str, *, as_json: bool) -> None:
    """Fail where predictions cannot be written, or where they should not."""
    if str(out) == "-":
        if as_json:
            msg = "--out: - and --json both write to standard output; give one of them"
            raise ValueError(msg)
        return
    _check_writable("--out", out, *_TABLES)
    if out.exists() and Path(data).exists() and out.samefile(data):
        msg = f"--out: {str(out)!r} is DATA itself; name another file"
        raise ValueError(msg)


def _check_probabilities(clf: LinearClassifier, *, told: bool) -> None:
    """Fail where there are none, or none were told where to go."""
    if not hasattr(clf, "predict_proba"):
        msg = f"--proba: a model of loss {clf.loss!r} gives no probabilities; train with softmax"
        raise ValueError(msg)
    if not told:
        msg = "--proba: --out FILE.csv or --json is needed too, to say where they go"
        raise ValueError(msg)


@app.command()
def predict(
    model: _ModelFile,
    data: _Data,
    format_: _Format = None,
    out: Annotated[
        Path | None,
        typer.Option(help=f"Write the labels: FILE{', '.join(_TABLES)}; - for standard output."),
    ] = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="Give the probability of each class too.")
    ] = False,
    target: _Target = None,
    as_json: _Json = False,
) -> None:
    """Predict labels; report the accuracy where DATA has labels too.

    The test part of DATA is taken where it has one. A table is prepared as in training; it may
    have further columns, and may lack that of the labels, or labels in some rows.
    """
    if out is not None:
        _check_table(out, data, as_json=as_json)
    clf = xplinear.load(model)
    if proba:
        _check_probabilities(clf, told=out is not None or as_json)
    dataset = _prepared(clf, model, data, format_, target)
    X, y = dataset.X, dataset.y
    if dataset.X_test is not None:
        X, y = dataset.X_test, dataset.y_test
    labels = clf.predict(X)
    n, (counted, accuracy) = len(labels), _agreement(clf, labels, y, dataset.name)
    if accuracy is None and out is None and not as_json:
        msg = f"{dataset.name} has no labels to compare with; --out FILE.csv writes the predictions"
        raise ValueError(msg)
    probabilities = clf.predict_proba(X) if proba else None
    if out is not None:
        _write_predictions(out, clf, labels, probabilities)
    if as_json:
        found = {"data": dataset.name, "rows": n, "labelled": counted, "accuracy": accuracy}
        given = {"labels": labels} | ({"probabilities": probabilities} if proba else {})
        _print_json({**found, "file": out} | (given if out is None else {}))
    elif str(out) != "-":
        table = Table(show_header=False)
        table.add_row("data", f"{dataset.name}: {n:,} rows")
        if accuracy is not None:
            some = f"  ({counted:,} of {n:,} rows have a label)" * (counted < n)
            table.add_row("accuracy", f"{accuracy:.4f}{some}")
        _add_files(table, labels=out)
        _console().print(table)


def _prepared(
    clf: LinearClassifier, model: Path, data: str, format_: str | None, target: str | None
) -> Dataset:
    """Return data to predict, read and prepared as those that the model was trained on."""
    record = content_of(model)["preparation"]
    preparation = None if record is None else Preparation.from_record(record)
    names = vars(clf).pop("feature_names_in_", None)  # the rows come as a matrix, in their order
    if preparation is None and names is not None:
        preparation = Preparation(tuple(Column(name) for name in names), None)
    dataset = load(
        data,
        ending=_ending(format_),
        target=target,
        n_features=clf.n_features_in_,
        columns=preparation and preparation.expected,
        classes=clf.classes_,
        index_base=preparation and preparation.index_base,
        missing=preparation is not None and preparation.imputes,
    )
    if preparation is not None and preparation.expected is not None and dataset.names is not None:
        return preparation.apply(dataset)
    if preparation is not None and preparation.has_text:
        names = ", ".join(column.name for column in preparation.columns)
        msg = f"{dataset.name} is no table; the model needs one with the columns {names}"
        raise ValueError(msg)
    p, expected = dataset.X.shape[1], clf.n_features_in_
    if p != expected:
        msg = f"{dataset.name} has {p:,} features, the model was trained on {expected:,}"
        raise ValueError(msg)
    return dataset


def _write_predictions(out: Path, clf: LinearClassifier, labels: Any, probabilities: Any) -> None:
    """Write a table: labels, and a column of probabilities for each class if they are given."""
    header, columns = ["label"], [labels.tolist()]
    if probabilities is not None:
        header, columns = header + clf.classes_.tolist(), columns + probabilities.T.tolist()
    rows = [header, *zip(*columns, strict=True)]
    if str(out) == "-":
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return
    packed, separator = out.suffix.lower() == ".gz", "\t" if ".tsv" in out.name.lower() else ","
    with written(out) as (path,):
        opened = cast(Callable[..., Any], gzip.open if packed else open)
        with opened(path, "wt", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=separator).writerows(rows)


@app.command()
def info(
    model: _ModelFile,
    as_json: _Json = False,
) -> None:
    """Show what a model file holds: the problem, the classes, the features, the versions."""
    clf, content = xplinear.load(model), content_of(model)
    preparation = content["preparation"]
    names: list[str] = list(getattr(clf, "feature_names_in_", ()))
    libraries = content["libraries"]
    classes = clf.classes_.tolist()
    if as_json:
        record = {
            "loss": clf.loss,
            "penalty": clf.penalty,
            "alpha": getattr(clf, "alpha_", None),
            "C": clf.C,
            "standardize": clf.standardize,
            "classes": classes,
            "n_features": clf.n_features_in_,
            "feature_names": names or None,
            "shape": clf.coef_.shape,
            "dtype": clf.coef_.dtype,
            "objective": getattr(clf, "objective_", None),
            "certificate": _certificate_record(clf),
            "preparation": preparation,
            "libraries": libraries,
        }
        _print_json(record)
        return
    table = Table(show_header=False)
    standardized = ", standardized features" if clf.standardize else ""
    table.add_row("problem", f"{_problem_of(clf)}{standardized}")
    table.add_row("classes", _some(classes))
    table.add_row("features", f"{clf.n_features_in_:,}{': ' * bool(names)}{_some(names)}")
    table.add_row("coefficients", f"{clf.coef_.shape}, {clf.coef_.dtype}")
    if hasattr(clf, "objective_"):
        table.add_row("objective", f"{clf.objective_:.6g}")
    if hasattr(clf, "certificate_"):
        table.add_row("certificate", str(clf.certificate_))
    for column in () if preparation is None else Preparation.from_record(preparation).columns:
        kind = "a number" if column.categories is None else _some(column.categories)
        filled = "" if column.fill is None else f"; where missing {column.fill}"
        table.add_row(f"column {column.name}", kind + filled)
    if preparation is not None and preparation.get("index_base") is not None:
        table.add_row("feature numbers", f"counted from {preparation['index_base']}, in .svm files")
    if preparation is not None and preparation["target"] is not None:
        table.add_row("labels", f"column {preparation['target']}")
    versions = (f"{name} {version}" for name, version in libraries.items())
    table.add_row("saved with", ", ".join(versions))
    _console().print(table)


def _some(values: Sequence[Any], most: int = 10) -> str:
    """Return the first of the values, and how many more there are."""
    more = f", … ({len(values):,})" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


@app.command()
def backends(as_json: _Json = False) -> None:
    """List the array libraries: what works here, and why the others do not."""
    if as_json:
        found = [status._asdict() for status in available_backends()]
        _print_json({"auto": get_backend("auto").name, "backends": found})
        return
    table = Table("backend", "version", "devices")
    for status in available_backends():
        if status.available:
            table.add_row(status.name, status.version, ", ".join(status.devices))
        else:
            table.add_row(status.name, "–", f"not available: {status.reason}", style="dim")
    console = _console()
    console.print(table)
    console.print(f"auto is {get_backend('auto').name}")


@app.command()
def parity(
    backends: _Backends = None,
    dtypes: Annotated[
        str | None,
        typer.Option(help=f"Of {', '.join(TOLERANCES)}.", autocompletion=_words(*TOLERANCES)),
    ] = None,
    losses: _Losses = None,
    as_json: _Json = False,
) -> None:
    """Compare losses, gradients and SGD steps of all backends with NumPy float64."""
    with Console(stderr=True).status("comparing with NumPy float64"):
        rows = compare(
            _chosen_backends(backends),
            _split(dtypes, list(TOLERANCES), "--dtypes"),
            _split(losses, list(LOSSES), "--losses"),
        )

    if as_json:
        _print_json([{**row._asdict(), "passed": row.passed} for row in rows])
        _exit_unless([row.passed for row in rows])
        return
    names = list(dict.fromkeys(row.backend for row in rows))

    def key(row: Comparison) -> tuple[int, int, int]:
        order = names.index(row.backend), list(TOLERANCES).index(row.dtype)
        return *order, list(LOSSES).index(row.loss)

    table = Table(
        "backend",
        "dtype",
        "loss",
        *("loss error", "gradient error", "weights error"),
        "result",
        caption="relative differences, the largest over all penalties; weights after 100 SGD steps",
    )
    for _, group in groupby(sorted(rows, key=key), key):
        same = list(group)
        one = same[0]
        # Not max(): it would lose a NaN.
        errors = np.max([[r.loss_error, r.gradient_error, r.weights_error] for r in same], axis=0)
        broken = [row.penalty for row in same if not row.passed]
        result = f"BROKEN: {', '.join(broken)}" if broken else "passed"
        cells = (one.backend, one.dtype, one.loss, *(f"{error:.1e}" for error in errors), result)
        table.add_row(*cells, style="red" if broken else None)
    console = _console()
    console.print(table)
    limits = "; ".join(
        f"{name} {limit:g}, weights {WEIGHT_TOLERANCES[name]:g}"
        for name, limit in TOLERANCES.items()
    )
    _conclude(console, [row.passed for row in rows], f"comparisons within tolerance ({limits})")


@app.command()
def bench(
    backends: Annotated[
        str | None,
        typer.Option(
            help="Such as numpy,torch:cuda; by default all of numpy, cupy, torch, "
            "torch:cuda, jax that work here.",
            autocompletion=_words(*_BACKEND_NAMES),
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long it may take.")] = 150.0,
    plot: Annotated[Path | None, typer.Option(help="Draw the throughput: FILE.png.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write FILE.csv, and FILE.json: machine and versions.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Measure the throughput of SGD and of full batches on every backend, for stacks of models."""
    _check_picture(plot)
    _check_writable("--out", out, ".csv")
    if not 0.0 < seconds < float("inf"):
        msg = f"--seconds must be a positive number, got {seconds}"
        raise ValueError(msg)
    end = time.perf_counter() + seconds
    usable = usable_backends()
    chosen = usable if backends is None else _chosen_backends(backends)
    rows: list[Measurement] = []
    try:
        _measure(rows, chosen, end - time.perf_counter())
    except KeyboardInterrupt:
        if rows and not as_json:
            _print_measurements(_console(), rows)
        raise
    if not rows:
        raise typer.Exit(1)

    with written(out, out and out.with_suffix(".json"), plot) as (table, about, picture):
        if out is not None:
            _save_measurements(rows, table, about)
        if plot is not None:
            from xplinear.plot import ThroughputDisplay

            figure = ThroughputDisplay(rows).plot().figure_
            figure.savefig(picture, format=_picture_format(picture), dpi=_DPI)
    if as_json:
        _print_json({"machine": machine(), "measurements": [row.record() for row in rows]})
        _exit_unless([not row.failed for row in rows])
        return
    console = _console()
    _print_measurements(console, rows)
    if out is not None:
        console.print(f"wrote {out} and {out.with_suffix('.json')}")
    if plot is not None:
        console.print(f"wrote {plot}")
    _conclude(console, [not row.failed for row in rows], "cells without an error")


def _print_measurements(console: Console, rows: Sequence[Measurement]) -> None:
    console.print(_ceilings_table(rows))
    console.print(_throughput_table(rows))
    for row in rows:
        if row.reason:
            console.print(f"not measured: {row.backend}, {row.cell}: {row.reason}")


def _measure(rows: list[Measurement], backends: Sequence[Backend], seconds: float) -> None:
    """Add what is measured to ``rows``, which hold what there is by the time of Ctrl-C."""
    total = len(CELLS) * len(backends)
    with Console(stderr=True).status("measuring what the devices can do") as status:
        for row in measure(backends, seconds):
            rows.append(row)
            status.update(f"{len(rows)} of {total} done, last {row.backend}: {row.cell}")


def _ceilings_table(rows: Sequence[Measurement]) -> Table:
    table = Table("backend", "device", "copy GB/s", "product GFLOP/s", title="ceilings")
    for row in {row.backend: row for row in rows}.values():
        copy, product = row.ceilings
        table.add_row(row.backend, row.device, f"{copy / 1e9:,.1f}", f"{product / 1e9:,.0f}")
    return table


def _throughput_table(rows: Sequence[Measurement]) -> Table:
    """Return a table by batch, shape and number of models, the backends beneath each other."""
    table = Table(
        *("batch", "p", "k", "models", "backend", "n", "steps/s", "examples/s"),
        *("examples × models/s", "GB/s", "of copy", "GFLOP/s", "of product"),
        caption="bytes and operations as the algorithm needs them at least; shares of the ceilings",
    )
    measured = [row for row in rows if not row.reason]
    ordered = sorted(measured, key=lambda row: (row.cell.batch or np.inf, *row.cell[1:]))
    for _, group in groupby(ordered, lambda row: row.cell[:3]):
        for row in group:
            batch, p, k, m = row.cell
            table.add_row(
                *(f"{batch or 'full'}", f"{p:,}", f"{k:,}", f"{m}", row.backend),
                f"{row.n:,}",
                f"{1.0 / row.seconds:,.4g}",
                f"{row.examples_per_second:,.0f}",
                f"{m * row.examples_per_second:,.0f}",
                f"{row.bytes_per_second / 1e9:,.3g}",
                f"{row.bytes_share:.1%}",
                f"{row.flops_per_second / 1e9:,.4g}",
                f"{row.flops_share:.1%}",
            )
        table.add_section()
    return table


def _save_measurements(rows: Sequence[Measurement], out: Path, machine_out: Path) -> None:
    records = [row.record() for row in rows]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    about = json.dumps(machine(), indent=2, ensure_ascii=False)
    machine_out.write_text(about + "\n", encoding="utf-8")


@app.command("check-gradient")
def check_gradients(
    backends: _Backends = None,
    losses: _Losses = None,
    penalties: Annotated[
        str | None,
        typer.Option(
            help=f"Of {', '.join(PENALTIES)}; all by default.", autocompletion=_words(*PENALTIES)
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random data.")] = 0,
    as_json: _Json = False,
) -> None:
    """Check the gradient of every objective against differences, in float64."""
    chosen = _chosen_backends(backends)
    table = Table(
        "backend", "loss", "penalty", "largest relative error", "where", "kinks", "result"
    )
    passed: list[bool] = []
    records: list[dict[str, Any]] = []
    with Console(stderr=True).status("checking gradients"):
        for backend in chosen:
            for loss in _split(losses, list(LOSSES), "--losses"):
                for penalty in _split(penalties, list(PENALTIES), "--penalties"):
                    with backend.double_precision():
                        check = check_gradient(*_random_problem(backend, loss, penalty, seed))
                    passed.append(check.passed)
                    record = {"backend": backend.name, "loss": loss, "penalty": penalty}
                    record |= {
                        name: getattr(check, name)
                        for name in ("max_relative_error", "coordinates", "kinks", "passed")
                    }
                    records.append(record)
                    table.add_row(
                        backend.name,
                        loss,
                        penalty,
                        f"{check.max_relative_error:.1e}",
                        f"{check.array}{list(check.index)}",
                        f"{check.kinks} of {check.coordinates}",
                        "passed" if check.passed else "WRONG",
                        style=None if check.passed else "red",
                    )
    if as_json:
        _print_json(records)
        _exit_unless(passed)
        return
    console = _console()
    console.print(table)
    _conclude(console, passed, "gradients agree with differences")


def _random_problem(
    backend: Backend, loss: str, penalty: str, seed: int
) -> tuple[Objective, Params]:
    """Return a small weighted objective and a point, in float64."""
    n, p, m, k = 20, 4, 1, 3
    random = np.random.default_rng(seed)
    X, s = random.standard_normal((n, p)), random.uniform(0.5, 2.0, (n, 1))
    y = random.integers(0, k, n, dtype=np.int32)
    W, b = random.standard_normal((p, m, k)), random.standard_normal((m, k))
    W[0] = 0.0  # where L1 has its kink
    X, y, s, alpha, W, b = (backend.asarray(a) for a in (X, y, s, np.asarray([0.1]), W, b))
    data = ArrayData(X, y, s, backend=backend)
    objective = Objective(backend.accelerated(LOSSES[loss]()), PENALTIES[penalty](), alpha, data, k)
    return objective, Params(W, b)


def _conclude(console: Console, passed: Sequence[bool], what: str) -> None:
    console.print(f"{sum(passed)} of {len(passed)} {what}")
    _exit_unless(passed)


def _exit_unless(passed: Sequence[bool]) -> None:
    if not all(passed):
        raise typer.Exit(1)
