"""``xplinear info``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from xplinear.cli.fitting import certificate_record, mean_of, range_of
from xplinear.cli.options import Json, Model
from xplinear.cli.terminal import show
from xplinear.datasets.preparation import Preparation
from xplinear.estimator.classifier import LinearClassifier, load, problem_of
from xplinear.formats.checkpoint import Summary, is_checkpoint
from xplinear.formats.model_file import content_of

__all__ = ["info"]


def info(model: Model, as_json: Json = False) -> None:
    """Show what a model file holds: the problem, the classes, the features, the versions.

    Or how far the fit of a checkpoint has come, and what it was told.
    """
    if is_checkpoint(model):
        _show_checkpoint(model, as_json=as_json)
        return
    clf, content = load(model), content_of(model)
    names: list[str] = list(getattr(clf, "feature_names_in_", ()))
    record = {
        "loss": clf.loss,
        "penalty": clf.penalty,
        "alpha": getattr(clf, "alpha_", None),
        "C": clf.C,
        "standardize": clf.standardize,
        "multi_class": clf.multi_class,
        "multilabel": clf.multilabel_,
        "classes": clf.classes_.tolist(),
        "n_features": clf.n_features_in_,
        "feature_names": names or None,
        "shape": clf.coef_.shape,
        "dtype": clf.coef_.dtype,
        "objective": getattr(clf, "objective_", None),
        "certificate": certificate_record(clf),
        "preparation": content["preparation"],
        "libraries": content["libraries"],
    }
    show(record, [_rows(record, clf)], as_json=as_json)


def _show_checkpoint(path: Path, *, as_json: bool) -> None:
    found = Summary.of(path)
    when = datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat(" ", "seconds")
    rows = {"checkpoint": str(found), "written": when, **found.told}
    rows |= {"begun with": _versions(found.libraries)}
    show(found._asdict() | {"written": when}, [rows], as_json=as_json)


def _versions(libraries: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in libraries.items())


def _rows(record: Mapping[str, Any], clf: LinearClassifier) -> dict[str, str]:
    names, alpha = record["feature_names"] or (), record["alpha"]
    # Weights that were given, not fitted, know no number of rows.
    strength = "1 / (C n)" if np.ndim(clf.C or 1.0) else f"1 / ({clf.C or 1.0:g} n)"
    if alpha is not None:
        strength = range_of(alpha)
    problem = problem_of(clf, strength) + ", standardized features" * record["standardize"]
    if record["multi_class"] == "one_vs_rest" and not record["multilabel"] and len(clf.coef_) > 1:
        problem += ", each class against the rest"
    rows = {
        "problem": problem,
        "labels" if clf.multilabel_ else "classes": _some(record["classes"]),
        "features": f"{record['n_features']:,}{': ' * bool(names)}{_some(names)}",
        "coefficients": f"{record['shape']}, {record['dtype']}",
    }
    if record["objective"] is not None:
        rows["objective"] = mean_of(record["objective"])
    if record["certificate"] is not None:
        rows["certificate"] = str(clf.certificate_)
    if record["preparation"] is not None:
        preparation = Preparation.from_record(record["preparation"])
        for column in preparation.columns:
            kind = "a number" if column.categories is None else _some(column.categories)
            filled = "" if column.fill is None else f"; where missing {column.fill}"
            rows[f"column {column.name}"] = kind + filled
        if preparation.index_base is not None:
            rows["feature numbers"] = f"counted from {preparation.index_base}, in .svm files"
        if preparation.target is not None:
            rows["labels"] = f"column {preparation.target}"
    return rows | {"saved with": _versions(record["libraries"])}


def _some(values: Sequence[Any], most: int = 10) -> str:
    """Return the first of the values, and how many more there are."""
    more = f", … ({len(values):,})" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more
