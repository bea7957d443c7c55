"""``xplinear predict``."""

from __future__ import annotations

import csv
import gzip
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np

from xplinear.cli import options
from xplinear.cli.options import option
from xplinear.cli.terminal import show
from xplinear.datasets import Dataset, load
from xplinear.datasets.preparation import Column, Preparation
from xplinear.estimator import classifier
from xplinear.estimator.classifier import LinearClassifier
from xplinear.formats.model_file import content_of
from xplinear.formats.writing import written

__all__ = ["predict"]

_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def predict(
    model: options.Model,
    data: options.Data,
    format_: options.Format = None,
    out: Annotated[
        Path | None,
        option(help=f"Write the labels: FILE{', '.join(_TABLES)}; - for standard output."),
    ] = None,
    proba: Annotated[
        bool, option("--proba", help="Give the probability of each class too.")
    ] = False,
    target: options.Target = None,
    as_json: options.Json = False,
) -> None:
    """Predict labels; report the accuracy where DATA has labels too, and the model one a row.

    The test part of DATA is taken where it has one. A table is prepared as in training; it may
    have further columns, and may lack that of the labels, or labels in some rows.
    """
    if out is not None:
        _check_table(out, data, as_json=as_json)
    clf = classifier.load(model)
    if proba and not hasattr(clf, "predict_proba"):
        msg = f"--proba: a model of loss {clf.loss!r} gives no probabilities; train with softmax"
        raise ValueError(msg)
    if proba and out is None and not as_json:
        msg = "--proba: --out FILE.csv or --json is needed too, to say where they go"
        raise ValueError(msg)
    dataset = _prepared(clf, model, data, format_, target)
    X, y = dataset.X, dataset.y
    if dataset.X_test is not None:
        X, y = dataset.X_test, dataset.y_test
    y = None if clf.multilabel_ else y
    labels = clf.predict(X)
    n, (counted, accuracy) = len(labels), _agreement(clf, labels, y, dataset.name)
    if accuracy is None and out is None and not as_json:
        msg = f"{dataset.name} has no labels to compare with; --out FILE.csv writes the predictions"
        raise ValueError(msg)
    probabilities = clf.predict_proba(X) if proba else None
    record: dict[str, Any] = {"data": dataset.name, "rows": n, "labelled": counted}
    record |= {"accuracy": accuracy, "file": out}
    rows = {"data": f"{dataset.name}: {n:,} rows"}
    if accuracy is not None:
        some = f"  ({counted:,} of {n:,} rows have a label)" * (counted < n)
        rows["accuracy"] = f"{accuracy:.4f}{some}"
    if out is None:
        record |= {"labels": labels} | ({"probabilities": probabilities} if proba else {})
    else:
        _write_predictions(out, clf, labels, probabilities)
        rows["labels"] = str(out)
    if str(out) != "-":  # the labels stand there
        show(record, [rows], as_json=as_json)


def _check_table(out: Path, data: str, *, as_json: bool) -> None:
    """Fail where predictions cannot be written, or where they should not."""
    if str(out) == "-":
        if as_json:
            msg = "--out: - and --json both write to standard output; give one of them"
            raise ValueError(msg)
        return
    options.check_file("--out", out, *_TABLES)
    if out.exists() and Path(data).exists() and out.samefile(data):
        msg = f"--out: {str(out)!r} is DATA itself; name another file"
        raise ValueError(msg)


def _prepared(
    clf: LinearClassifier, model: Path, data: str, format_: str | None, target: str | None
) -> Dataset:
    """Return data to predict, read and prepared as those that the model was trained on."""
    record = content_of(model)["preparation"]
    names = vars(clf).pop("feature_names_in_", ())  # the rows come as a matrix, in their order
    plain = Preparation(tuple(map(Column, names)), None)
    preparation = plain if record is None else Preparation.from_record(record)
    dataset = load(
        data,
        ending=options.ending_of(format_),
        target=target,
        n_features=clf.n_features_in_,
        columns=preparation.expected,
        classes=None if clf.multilabel_ else clf.classes_,
        index_base=preparation.index_base,
        missing=preparation.imputes,
    )
    if preparation.columns and dataset.names is not None:
        return preparation.apply(dataset)
    if preparation.has_text:
        names = ", ".join(column.name for column in preparation.columns)
        msg = f"{dataset.name} is no table; the model needs one with the columns {names}"
        raise ValueError(msg)
    p, expected = dataset.X.shape[1], clf.n_features_in_
    if p != expected:
        msg = f"{dataset.name} has {p:,} features, the model was trained on {expected:,}"
        raise ValueError(msg)
    return dataset


def _agreement(clf: LinearClassifier, labels: Any, y: Any, name: str) -> tuple[int, float | None]:
    """Return how many rows have a label, and the share of them where it is the one predicted."""
    if y is None:
        return 0, None
    both = zip(labels.tolist(), y.tolist(), strict=True)
    pairs = [(label, true) for label, true in both if true is not None]
    if not pairs:
        return 0, None
    classes = clf.classes_.tolist()
    known = set(classes)
    unknown = [true for _, true in pairs if true not in known]
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


def _write_predictions(out: Path, clf: LinearClassifier, labels: Any, probabilities: Any) -> None:
    """Write a table: labels, and a column of probabilities for each class if they are given.

    Where rows have many labels, a column of 0 and 1 for each.
    """
    header, columns = ["label"], [labels.tolist()]
    if clf.multilabel_:
        header, columns = clf.classes_.tolist(), labels.T.tolist()
    if probabilities is not None:
        # A class of that name must not be taken for the labels.
        names = clf.classes_.tolist() if clf.multilabel_ else ["label"]
        named = {name: f"probability of {name}" for name in names}
        header += [named.get(label, label) for label in clf.classes_.tolist()]
        columns += probabilities.T.tolist()
    rows = [header, *zip(*columns, strict=True)]
    if str(out) == "-":
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return
    packed, separator = out.suffix.lower() == ".gz", "\t" if ".tsv" in out.name.lower() else ","
    with written(out) as (path,):
        opened = cast(Callable[..., Any], gzip.open if packed else open)
        with opened(path, "wt", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=separator).writerows(rows)
