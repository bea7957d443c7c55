"""What `train` and `sweep` share: from a data set to a fit, what is said of it, and its files.

The settings of the estimators are options under the same names, with the same defaults.
"""

from __future__ import annotations

import inspect
import shlex
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np

from xplinear.backends.sparse import is_scipy
from xplinear.checks.certificate import Certificate
from xplinear.cli import options
from xplinear.cli.options import Context, option
from xplinear.cli.terminal import Table, progress_bar, show
from xplinear.datasets import Dataset, holdout, load
from xplinear.datasets.preparation import Preparation
from xplinear.estimator.classifier import LinearClassifier, save
from xplinear.estimator.settings import checked
from xplinear.formats.checkpoint import Checkpoint, Summary
from xplinear.formats.model_file import ENDING
from xplinear.formats.writing import written
from xplinear.losses import LOSSES
from xplinear.model_selection.cross_validation import LinearClassifierCV
from xplinear.model_selection.scoring import RANKINGS, SCORINGS
from xplinear.namespace import name_of
from xplinear.penalties import PENALTIES
from xplinear.solvers import SOLVERS

__all__ = [
    "Given",
    "Report",
    "certificate_record",
    "fit",
    "fits",
    "mean_of",
    "numbers_of",
    "range_of",
    "save_picture",
]

_NO_LABEL = np.zeros(1, dtype=int)
_DPI = 150
_SCORINGS = (*SCORINGS, *RANKINGS, "top_5_accuracy")

# In the order in which they are listed; None for those that are described where they are declared.
_OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("data", "format_")),
    "alphas": option(help="Strengths, 1e-5,1e-4,…; or how many, chosen for the data; 20."),
    "cv": option(min=2, help="Folds."),
    "scoring": option(help=f"{', '.join(_SCORINGS)}, or other numbers than 5.", words=_SCORINGS),
    "one_se": option("--one-se", help="The strongest within one standard error."),
    "loss": option(help=f"{', '.join(LOSSES)}.", words=LOSSES),
    "penalty": option(help=f"{', '.join(PENALTIES)}.", words=PENALTIES),
    "alpha": option(help="Strength λ of the penalty: 1 / (C n)."),
    "C": option("--C", help="Strength as scikit-learn has it; 1 where --alpha is not given."),
    "l1_ratio": option(help="Share of L1 in elastic_net."),
    "standardize": option(
        "--standardize/--no-standardize",
        help="Train on features of mean 0 and variance 1; by default for tables only.",
        show_default=False,
    ),
    "solver": option(help=f"auto, {', '.join(SOLVERS)}.", words=["auto", *SOLVERS]),
    "batch_size": option(help="Rows of a mini-batch: 64, or 1024 of a sparse X."),
    "learning_rate": option(help="auto, or a number."),
    "learning_rates": option(help="Of sgd, all in the same stack: 0.001,0.01,…"),
    "Cs": option("--Cs", help="In place of --alphas: 0.01,0.1,…, or how many from 1e-4 to 1e4."),
    "multi_class": option(help="joint, or one_vs_rest: a model of each class and the rest."),
    "alpha_per_label": option(
        "--alpha-per-label", help="A strength for each class, with one_vs_rest."
    ),
    "max_iter": option(help="Iterations, epochs of sgd; the solver's own by default."),
    "tol": option(help="Tolerance of the stopping test."),
    "early_stopping": option("--early-stopping", help="Stop on a held-out tenth of the rows."),
    "backend": option(help="numpy, cupy, torch:cuda:0, auto …", words=options.BACKEND_NAMES),
    "dtype": option(help="float32 or float64; that of the data.", words=["float32", "float64"]),
    "precision": option(
        help="Of matrix products in training: tf32 is faster on GPUs, and rougher."
    ),
    "seed": option(min=0, max=2**32 - 1, help="Of the split and the shuffles."),
    "target": None,
    "impute": option("--impute", help="Fill missing values: median, or the most frequent text."),
    "test_fraction": option(help="Rows held out where DATA has no test part; 0 for none."),
    "accelerate": option("--accelerate/--no-accelerate", help="Use the backend's own kernels."),
    "checkpoint": option(
        help="Keep what is done in FILE.ckpt meanwhile; the same command goes on from it."
    ),
    "plot": None,
    "out": option(help="Save the model: FILE.safetensors."),
    "as_json": None,
}
_TYPES = (str, int, float, bool, Path, type(None))  # what can be typed


class Given(NamedTuple):
    """What `train` and `sweep` are given beside the settings of their estimators."""

    data: options.Data
    format_: options.Format = None
    standardize: bool | None = None
    seed: int = 0
    target: options.Target = None
    impute: bool = False
    test_fraction: float = 0.25
    checkpoint: Path | None = None
    out: Path | None = None
    as_json: options.Json = False


def fits(
    estimator: type, *, but: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function of the context, what is `Given`, own options, and settings.

    The settings of the estimator are options under their names, with their types and defaults.
    """
    kinds = get_type_hints(Given, include_extras=True)
    given = [one.replace(annotation=kinds[name]) for name, one in _parameters(Given).items()]
    settings = [one for name, one in _parameters(estimator).items() if name not in but]

    def decorated(fit: Callable[..., None]) -> Callable[..., None]:
        ctx, _, *own, _ = _parameters(fit).values()
        known = {one.name: one for one in (*settings, *given, *own)}
        listed = [_option(known[name]) for name in _OPTIONS if name in known]

        @wraps(fit)
        def command(ctx: Context, **values: Any) -> None:
            fit(ctx, Given(**{name: values.pop(name) for name in Given._fields}), **values)

        vars(command)["__signature__"] = inspect.Signature([ctx, *listed])
        return command

    return decorated


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function, eval_str=True).parameters


def _option(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter as an option: what it may be apart from an object, and its help."""
    kind: Any = parameter.annotation
    if get_origin(kind) is not Annotated:
        parts = [one for one in get_args(kind) if one in _TYPES]
        kind = Annotated[Union[*parts] if parts else kind, _OPTIONS[parameter.name]]
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind)


class Report(NamedTuple):
    """What a command says of a fit that the other one does not: of the record, and for people."""

    record: dict[str, Any]
    rows: dict[str, str]  # of the table, towards its end
    chosen: Mapping[str, str] = MappingProxyType({})  # in its midst
    tables: Sequence[Table] = ()


def fit(
    ctx: Context,
    given: Given,
    plot: Path | None,
    estimator: Callable[..., Any],
    report: Callable[[Any, dict[str, Any]], Report],
) -> None:
    """Load the data, fit, say how good it is, write the files, and say what to do next."""
    options.check_picture(plot)
    options.check_file("--out", given.out, ENDING)
    options.check_file("--checkpoint", given.checkpoint)
    dataset, preparation = _loaded(given)
    # Columns of a table are in units of their own.
    is_table = dataset.target is not None
    standardize = is_table if given.standardize is None else given.standardize
    clf = estimator(standardize=standardize, random_state=given.seed)
    with _kept(ctx, clf, given.checkpoint) as before:
        start = time.perf_counter()
        with progress_bar() as news:
            clf.fit(dataset.X, dataset.y, callbacks=[news])
        seconds = time.perf_counter() - start + before
        best = clf.best_estimator_ if isinstance(clf, LinearClassifierCV) else clf
        record = _record(best, dataset, seconds)
        own, files = report(clf, record), {"model": given.out, "picture": plot}
        rows = {**_described(record), **own.chosen, **_results(record, best, dataset), **own.rows}
        rows |= {name: str(path) for name, path in files.items() if path is not None}
        show(record | own.record | files, [*own.tables, rows], as_json=given.as_json)
        # Last of all: Ctrl-C before that leaves nothing behind.
        with written(given.out, plot) as (model, picture):
            if model is not None:
                save(best, model, preparation)
            if picture is not None:
                from xplinear.plot import LossCurveDisplay, ValidationCurveDisplay

                curve = LossCurveDisplay if best is clf else ValidationCurveDisplay
                save_picture(curve.from_estimator(clf, data=dataset.name).figure_, picture)
    if not given.as_json:
        _show_next(ctx, best.solver_, given.out)


@contextmanager
def _kept(ctx: Context, clf: Any, path: Path | None) -> Generator[float]:
    """Let a fit go on from a checkpoint, which goes when its files are there.

    Given are the seconds that it took before.
    """
    if path is None:
        yield 0.0
        return
    clf.checkpoint, seconds = Checkpoint(path, keep=True), 0.0
    if path.exists():
        before = Summary.of(path)
        seconds = before.seconds
        options.echo(f"found {path}, to go on from: {before}", err=True)
    try:
        yield seconds
    except KeyboardInterrupt as interrupt:
        if path.exists():
            again = shlex.join(["xplinear", *_again(ctx)])
            msg = f"what is done is in {path}; to go on from there: {again}"
            raise options.Kept(msg) from interrupt
        raise
    path.unlink(missing_ok=True)


def save_picture(figure: Any, path: Path) -> None:
    """Write a picture in the format of its ending; a device has none, and gets PNG."""
    figure.savefig(path, format=path.suffix[1:] or "png", dpi=_DPI)


def _loaded(given: Given) -> tuple[Dataset, dict[str, Any] | None]:
    """Return data to train on, and what a model file keeps of how a file became numbers."""
    data, fraction, impute = given.data, given.test_fraction, given.impute
    if not 0.0 <= fraction < 1.0:
        msg = f"--test-fraction must lie between 0 and 1, got {fraction}; 0 holds out no rows"
        raise ValueError(msg)
    ending = options.ending_of(given.format_)
    dataset = load(data, ending=ending, target=given.target, mixed=True, missing=impute)
    _warn_of_row_numbers(dataset)
    if dataset.X_test is not None:
        _warn_of_new_labels(dataset)
    dataset = dataset if fraction == 0.0 else holdout(dataset, fraction, given.seed)
    if dataset.names is None:
        if impute:
            msg = f"--impute is for tables, .csv and .parquet; {dataset.name} is none"
            raise ValueError(msg)
        if dataset.index_base is None:
            return dataset, None
    preparation = Preparation.learned(dataset, impute=impute)
    return preparation.apply(dataset), asdict(preparation)


def _warn_of_row_numbers(dataset: Dataset) -> None:
    """Say so where a column counts the rows, as a row index does that was written with them."""
    n = dataset.X.shape[0]
    for name, values in zip(dataset.names or (), dataset.X.T, strict=False):
        counts = n >= 20 and np.array_equal(values - values[0], np.arange(n))
        if counts and name not in dataset.texts:
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


def _record(clf: LinearClassifier, dataset: Dataset, seconds: float) -> dict[str, Any]:
    """Return what is reported of a fit, under the names that scripts read."""
    n, p = dataset.X.shape
    record = {
        "data": dataset.name,
        "target": dataset.target,
        "n": n,
        "p": p,
        "k": len(clf.classes_),
        "density": dataset.X.nnz / (n * p) if is_scipy(dataset.X) else None,
        "dtype": dataset.X.dtype,
        "computed_in": name_of(clf.coef_.dtype),
        "backend": clf.backend_.name,
        "device": clf.backend_.device,
        "loss": clf.loss,
        "penalty": clf.penalty,
        "alpha": clf.alpha_,
        "C": clf.C,
        "multi_class": clf.multi_class,
        "standardize": clf.standardize,
        "solver": clf.solver_,
        "objective": clf.objective_,
        "certificate": certificate_record(clf),
        "train_accuracy": clf.score(dataset.X, dataset.y),
        "seconds": seconds,
    }
    if dataset.X_test is not None:
        record["test_accuracy"] = clf.score(dataset.X_test, dataset.y_test)
        record["test_rows"] = dataset.X_test.shape[0]
        # Of who always says the label that is most frequent in training.
        always = np.asarray(dataset.y_test) == _most_frequent(dataset)
        record["baseline_accuracy"] = float(np.mean(always))
    return record


def certificate_record(clf: LinearClassifier) -> dict[str, Any] | None:
    """Return what is reported of a certificate, where there is one."""
    certificate: Certificate | None = getattr(clf, "certificate_", None)
    if certificate is None:
        return None
    if certificate.reasons[1:]:  # of many labels
        return {
            "objective": certificate.objective.tolist(),
            "lower_bound": certificate.lower_bound.tolist(),
            "reason": list(certificate.reasons),
        }
    return {
        "objective": float(certificate.objective[0]),
        "lower_bound": float(certificate.lower_bound[0]),
        "reason": certificate.reasons[0],
    }


def range_of(numbers: Any, digits: int = 6) -> str:
    """Return a number, or of many the least and the largest."""
    ends = np.unique([np.min(numbers), np.max(numbers)])
    return " … ".join(f"{end:.{digits}g}" for end in ends)


def mean_of(objective: Any) -> str:
    """Return the objective of a model, or the mean of many."""
    return f"{np.mean(objective):.6g}" + " in the mean of all models" * bool(np.ndim(objective))


def _described(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the rows that say what was computed, and where."""
    n, p, k = (record[name] for name in "npk")
    rows = {"data": f"{record['data']}: {n:,} rows, {p:,} features, {k:,} classes"}
    if record["density"] is not None:
        rows["sparse"] = f"{100 * record['density']:.2g} % of the values are not 0"
    if record["target"] is not None:
        rows["labels"] = f"column {record['target']}"
    if record["standardize"]:
        rows["features"] = "standardized; --no-standardize leaves them as they are"
    rows["dtype"] = f"{record['dtype']}, computed in {record['computed_in']}"
    rows["backend, device"] = f"{record['backend']}, {record['device']}"
    return rows


def _results(record: Mapping[str, Any], clf: LinearClassifier, dataset: Dataset) -> dict[str, str]:
    """Return the rows that say how good the fit is."""
    rows: dict[str, str] = {}
    if "test_accuracy" in record:
        untrained = f"{record['test_rows']:,} rows it was not trained on"
        rows["test accuracy"] = f"{record['test_accuracy']:.4f}  ({untrained})"
        always = f"always answering {_most_frequent(dataset)}, the most frequent class"
        rows["baseline"] = f"{record['baseline_accuracy']:.4f}  ({always})"
    return rows | {"train accuracy": f"{record['train_accuracy']:.4f}", "trained": _how_far(clf)}


def _most_frequent(dataset: Dataset) -> Any:
    labels, counts = np.unique(np.asarray(dataset.y), return_counts=True)
    return labels[counts.argmax()].item()


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
    if certificate.reasons[1:]:  # of many models
        return str(certificate)
    end = _ENDS.get(certificate.reasons[0], certificate.reasons[0])
    if not np.isfinite(certificate.gap[0]):
        return f"{end} by the solver's own estimate; nothing is proven"
    # All scores 0, before training: the same loss whatever the label.
    start, _ = checked(clf, "loss").value_and_grad(np.zeros((1, len(clf.classes_))), _NO_LABEL)
    gain = float(start[0] - certificate.lower_bound[0])
    share = float(certificate.gap[0]) / max(gain, np.finfo(float).tiny)
    left = "less than a millionth" if share < 1e-6 else f"at most {100 * min(share, 1.0):.2g} %"
    return f"{end}; {left} of what training can gain is left, proven"


def _show_next(ctx: Any, solver: str, out: Path | None) -> None:
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
        options.echo(f"{word:6}{step:{width}}  # {purpose}")


def _again(ctx: Any) -> list[str]:
    """Return the whole command."""
    return [ctx.command.name, ctx.params["data"], *_given(ctx, ctx.command, ["data"])]


def _given(
    ctx: Any, command: Any, but: Sequence[str] = ("data", "plot", "out", "as_json")
) -> list[str]:
    """Return the options that were given, of those that a command has; not what it prints."""
    given: list[str] = []
    known = {one.name for one in command.params}.difference(but)
    for one in ctx.command.params:
        source = ctx.get_parameter_source(one.name)
        if one.name in known and source.name == "COMMANDLINE":
            value = ctx.params[one.name]
            flag = one.opts[0] if value else (one.secondary_opts or one.opts)[0]
            given.append(flag if isinstance(value, bool) else f"{one.opts[0]}={value}")
    return given


def numbers_of(option: str, text: str | None) -> list[float] | None:
    """Return the numbers of a comma-separated option."""
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        msg = f"{option}: numbers with commas between are needed, got {text!r}"
        raise ValueError(msg) from error
