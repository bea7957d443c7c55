"""What `train` and `sweep` share: from a data set to a fit, what is said of it, and its files."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from xplinear.checks.certificate import Certificate
from xplinear.cli.options import Context, Given, check_file, check_picture, echo, ending_of
from xplinear.cli.terminal import Table, progress_bar, show
from xplinear.datasets import Dataset, holdout, load
from xplinear.datasets.preparation import Preparation
from xplinear.estimator.classifier import LinearClassifier, save
from xplinear.estimator.validation import dtype_name
from xplinear.formats.model_file import ENDING
from xplinear.formats.writing import written
from xplinear.losses import LOSSES
from xplinear.model_selection.cross_validation import LinearClassifierCV

__all__ = ["Report", "certificate_record", "fit", "problem_of", "save_picture"]

_NO_LABEL = np.zeros(1, dtype=int)
_DPI = 150


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
    check_picture(plot)
    check_file("--out", given.out, ENDING)
    dataset, preparation = _loaded(given)
    # Columns of a table are in units of their own.
    is_table = dataset.target is not None
    standardize = is_table if given.standardize is None else given.standardize
    clf = estimator(standardize=standardize, random_state=given.seed)
    start = time.perf_counter()
    with progress_bar() as news:
        clf.fit(dataset.X, dataset.y, callbacks=[news])
    seconds = time.perf_counter() - start
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


def save_picture(figure: Any, path: Path) -> None:
    """Write a picture in the format of its ending; a device has none, and gets PNG."""
    figure.savefig(path, format=path.suffix[1:] or "png", dpi=_DPI)


def _loaded(given: Given) -> tuple[Dataset, dict[str, Any] | None]:
    """Return data to train on, and what a model file keeps of how a file became numbers."""
    data, fraction, impute = given.data, given.test_fraction, given.impute
    if not 0.0 <= fraction < 1.0:
        msg = f"--test-fraction must lie between 0 and 1, got {fraction}; 0 holds out no rows"
        raise ValueError(msg)
    ending = ending_of(given.format_)
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
        "certificate": certificate_record(clf),
        "train_accuracy": clf.score(dataset.X, dataset.y),
        "seconds": seconds,
    }
    if dataset.X_test is not None:
        record["test_accuracy"] = clf.score(dataset.X_test, dataset.y_test)
        record["test_rows"] = dataset.X_test.shape[0]
        record["baseline_accuracy"] = _baseline(dataset)
    return record


def certificate_record(clf: LinearClassifier) -> dict[str, Any] | None:
    """Return what is reported of a certificate, where there is one."""
    certificate: Certificate | None = getattr(clf, "certificate_", None)
    if certificate is None:
        return None
    return {
        "objective": float(certificate.objective[0]),
        "lower_bound": float(certificate.lower_bound[0]),
        "reason": certificate.reasons[0],
    }


def problem_of(clf: LinearClassifier) -> str:
    """Return loss, strength and penalty as the formula has them."""
    if clf.penalty == "none":
        return f"{clf.loss}, no penalty"
    # Weights that were given, not fitted, know no number of rows.
    alpha = getattr(clf, "alpha_", None)
    strength = f"{alpha:g}" if alpha is not None else f"1 / ({clf.C or 1.0:g} n)"
    return f"{clf.loss} + {strength} · {clf.penalty}"


def _described(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the rows that say what was computed, and where."""
    n, p, k = (record[name] for name in "npk")
    rows = {"data": f"{record['data']}: {n:,} rows, {p:,} features, {k:,} classes"}
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
    return rows | {
        "train accuracy": f"{record['train_accuracy']:.4f}",
        "trained": _how_far(clf),
    }


def _most_frequent(dataset: Dataset) -> Any:
    labels, counts = np.unique(np.asarray(dataset.y), return_counts=True)
    return labels[counts.argmax()].item()


def _baseline(dataset: Dataset) -> float:
    """Return the test accuracy of who always says the label that is most frequent in training."""
    return float(np.mean(np.asarray(dataset.y_test) == _most_frequent(dataset)))


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
        echo(f"{word:6}{step:{width}}  # {purpose}")


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
