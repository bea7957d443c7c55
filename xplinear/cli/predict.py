"""``xplinear predict``."""

from __future__ import annotations

import csv
import gzip
import sys
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import numpy as np

from xplinear.cli import options
from xplinear.cli.options import option
from xplinear.cli.terminal import show
from xplinear.data.arrow import write_parquet
from xplinear.datasets import Dataset
from xplinear.datasets.loading import load_parts
from xplinear.datasets.preparation import Column, Preparation
from xplinear.estimator import classifier
from xplinear.estimator.classifier import LinearClassifier
from xplinear.estimator.outputs import columns_of
from xplinear.formats.model_file import content_of
from xplinear.formats.writing import written
from xplinear.namespace import HostArray

__all__ = ["predict"]

_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")


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
    tally = _Tally()
    with closing(_prepared(clf, model, data, format_, target)) as parts:
        results = _predicted(clf, parts, tally, proba=proba)
        if out is not None:
            _write_predictions(out, clf, results)
        all_labels, all_probabilities = _joined(results, kept=as_json)
    if tally.accuracy is None and out is None and not as_json:
        msg = f"{tally.name} has no labels to compare with; --out FILE.csv writes the predictions"
        raise ValueError(msg)
    record: dict[str, Any] = {"data": tally.name, "rows": tally.rows, "labelled": tally.labelled}
    record |= {"accuracy": tally.accuracy, "file": out}
    rows = {"data": f"{tally.name}: {tally.rows:,} rows"}
    if tally.accuracy is not None:
        some = f"  ({tally.labelled:,} of {tally.rows:,} rows have a label)"
        rows["accuracy"] = f"{tally.accuracy:.4f}{some * (tally.labelled < tally.rows)}"
    if out is None:
        record |= {"labels": all_labels} | ({"probabilities": all_probabilities} if proba else {})
    else:
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
) -> Generator[Dataset]:
    """Yield data to predict, some rows at a time, prepared as those the model was trained on."""
    record = content_of(model)["preparation"]
    names = vars(clf).pop("feature_names_in_", ())  # the rows come as a matrix, in their order
    plain = Preparation(tuple(map(Column, names)), None)
    preparation = plain if record is None else Preparation.from_record(record)
    parts = load_parts(
        data,
        ending=options.ending_of(format_),
        target=target,
        n_features=clf.n_features_in_,
        columns=preparation.expected,
        classes=None if clf.multilabel_ else clf.classes_,
        index_base=preparation.index_base,
        missing=preparation.imputes,
    )
    with closing(parts):
        for dataset in parts:
            if preparation.columns and dataset.names is not None:
                yield preparation.apply(dataset)
                continue
            if preparation.has_text:
                names = ", ".join(column.name for column in preparation.columns)
                msg = f"{dataset.name} is no table; the model needs one with the columns {names}"
                raise ValueError(msg)
            p, expected = dataset.X.shape[1], clf.n_features_in_
            if p != expected:
                msg = f"{dataset.name} has {p:,} features, the model was trained on {expected:,}"
                raise ValueError(msg)
            yield dataset


@dataclass
class _Tally:
    """How many rows there were, how many had a label, and of how many it is the one predicted."""

    name: str = ""
    rows: int = 0
    labelled: int = 0
    right: int = 0
    unknown: int = 0  # of the labels
    example: Any = None  # of these

    @property
    def accuracy(self) -> float | None:
        """The share of the labels that are predicted; None where there are none."""
        return self.right / self.labelled if self.labelled else None

    def add(self, clf: LinearClassifier, labels: Any, y: Any) -> None:
        """Compare labels that are predicted with those of the data, if it has any."""
        self.rows += len(labels)
        if y is None:
            return
        known = set(clf.classes_.tolist())
        both = zip(labels.tolist(), y.tolist(), strict=True)
        pairs = [(label, true) for label, true in both if true is not None]
        self.labelled += len(pairs)
        self.right += sum(label == true for label, true in pairs)
        unknown = [true for _, true in pairs if true not in known]
        self.example = unknown[0] if unknown and not self.unknown else self.example
        self.unknown += len(unknown)

    def check(self, clf: LinearClassifier) -> None:
        """Raise or warn where labels are not those of the model."""
        if self.unknown and self.unknown == self.labelled:
            some = ", ".join(map(str, clf.classes_.tolist()[:5]))
            msg = (
                f"no label of {self.name} is one of the model's ({some} ...): name their column "
                "with --target, or leave it out if it holds none"
            )
            raise ValueError(msg)
        if self.unknown:
            message = (
                f"{self.name}: {self.unknown:,} rows have labels the model does not know, "
                f"such as {self.example!r}; they count as errors"
            )
            warnings.warn(message, UserWarning, stacklevel=2)


_Result: TypeAlias = tuple[HostArray, HostArray | None]  # labels, and probabilities if asked for


def _predicted(
    clf: LinearClassifier, parts: Iterable[Dataset], tally: _Tally, *, proba: bool
) -> Generator[_Result]:
    """Yield the predictions of each part, counted; what is wrong with all labels is told last."""
    for dataset in parts:
        X, y = dataset.X, dataset.y
        if dataset.X_test is not None:
            X, y = dataset.X_test, dataset.y_test
        labels = clf.predict(X)
        tally.name = dataset.name
        tally.add(clf, labels, None if clf.multilabel_ else y)
        yield labels, clf.predict_proba(X) if proba else None
    tally.check(clf)


def _joined(results: Iterable[_Result], *, kept: bool) -> tuple[HostArray | None, ...]:
    """Go through results; return all of them if they are kept."""
    parts = [result for result in results if kept]
    if not parts:
        return None, None
    return tuple(
        None if column[0] is None else np.concatenate(cast(Any, column))
        for column in zip(*parts, strict=True)
    )


def _columns(clf: LinearClassifier, labels: Any, probabilities: Any) -> dict[str, HostArray]:
    """Return the columns of a table: labels, and the probabilities of each class if they are given.

    Where rows have many labels, a column of 0 and 1 for each.
    """
    columns = columns_of(labels, clf, "predict")
    if probabilities is not None:
        # A class of that name must not be taken for the labels.
        for name, own in columns_of(probabilities, clf, "predict_proba").items():
            columns[f"probability of {name}" if name in columns else name] = own
    return columns


def _write_predictions(out: Path, clf: LinearClassifier, results: Iterable[_Result]) -> None:
    """Write a table, part by part."""
    tables = (_columns(clf, *result) for result in results)
    if str(out) == "-":
        _write_rows(csv.writer(sys.stdout, lineterminator="\n"), tables)
        return
    packed, separator = out.suffix.lower() == ".gz", "\t" if ".tsv" in out.name.lower() else ","
    with written(out) as (path,):
        if out.suffix.lower() == ".parquet":
            write_parquet(path, tables)
            return
        opened = cast(Callable[..., Any], gzip.open if packed else open)
        with opened(path, "wt", newline="", encoding="utf-8") as file:
            _write_rows(csv.writer(file, delimiter=separator), tables)


def _write_rows(writer: Any, tables: Iterable[dict[str, HostArray]]) -> None:
    for i, columns in enumerate(tables):
        if i == 0:
            writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
