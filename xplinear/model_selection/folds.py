"""Folds of cross-validation as columns of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from sklearn.model_selection import check_cv

from xplinear.arguments import NONE, integer, naming, satisfying
from xplinear.backends import backend_of
from xplinear.estimator.labels import weights_of
from xplinear.estimator.problem import Problem
from xplinear.estimator.validation import on_host, refuse_masked
from xplinear.namespace import Array, HostArray, is_array

__all__ = ["CV", "Folds", "folds_of", "splits_of"]

Split = tuple[HostArray, HostArray]  # the training and the test rows of a fold

_SPLITTER = satisfying(
    lambda cv: callable(getattr(cv, "split", None)) and not isinstance(cv, (str, bytes, type)),
    "a splitter",
)
_PAIRS = satisfying(
    lambda cv: isinstance(cv, Iterable) and not isinstance(cv, (str, bytes, Mapping)),
    "pairs of training and test rows",
)
CV = integer(2) | _SPLITTER | _PAIRS | NONE


class Folds(NamedTuple):
    """Folds as weights of rows."""

    train: Array  # weights (n, f), or one column more for the refit on all rows
    held_out: Array  # (n, f)
    tests: Sequence[HostArray]  # the rows held out
    known: HostArray  # (f, k): whether a fold's training rows have the class


def splits_of(cv: Any, X: Any, labels: HostArray, groups: Any) -> list[Split]:
    """Return the training and test rows of each fold; ``cv`` has been checked."""
    n = len(labels)
    if groups is not None:
        refuse_masked("groups", groups)
        with naming("groups"):
            groups = np.asarray(on_host("groups", groups))
        if groups.shape != (n,):
            msg = f"groups must have one entry per row of X, shape ({n},), got {groups.shape}"
            raise ValueError(msg)
    splitter = cast(Any, check_cv(cv, labels, classifier=True))
    try:
        splits: list[Any] = list(splitter.split(X, labels, groups))
    except (TypeError, ValueError) as error:
        if hasattr(cv, "split"):
            raise
        msg = f"cv, if it is no splitter, must give pairs of training and test rows: {error}"
        if cv is None or isinstance(cv, int):
            msg = f"cv={cv} does not suit these rows: {error}"
        raise ValueError(msg) from error
    if not splits:
        msg = f"cv={cv!r} gives no folds; give a number of them, or pairs of rows"
        raise ValueError(msg)
    return [
        (_rows(train, n, fold), _rows(test, n, fold)) for fold, (train, test) in enumerate(splits)
    ]


def folds_of(problem: Problem, splits: Sequence[Split], class_weight: Any, *, refit: bool) -> Folds:
    """Return splits as weights, with those of all rows last if these are fitted too."""
    sample, codes, classes = problem.sample, problem.sample.codes, problem.sample.classes
    n, k = len(codes), len(classes)
    weights = np.zeros(n)
    counted = slice(None) if problem.rows is None else problem.rows
    weights[counted] = 1.0 if sample.unclassed is None else sample.unclassed[counted]
    train = [np.bincount(rows, minlength=n) * weights for rows, _ in splits]
    held_out = [np.bincount(rows, minlength=n) * weights for _, rows in splits]
    for fold, (learnt, scored) in enumerate(zip(train, held_out, strict=True)):
        if not (learnt.any() and scored.any()):
            msg = f"cv: fold {fold} has no rows of positive weight to train on or to score"
            raise ValueError(msg)
        there = classes[np.unique(codes[learnt > 0])].tolist()
        if len(there) < 2:
            msg = (
                f"cv: fold {fold} trains on one class only, {there[0]!r}, and a classifier "
                "needs two; use fewer folds, or stratified ones: cv=2"
            )
            raise ValueError(msg)
    if refit:
        train.append(weights)
    train = [weights_of(one, class_weight, codes, classes)[0] for one in train]
    # Of mean 1 in each fold: what all folds share, such as a metric, then weighs them alike.
    columns = [np.stack(cast(Any, part), axis=1)[counted] for part in (train, held_out)]
    trained, scored = (column / column.mean(axis=0) for column in columns)
    data = problem.objective.data
    return Folds(
        data.as_held(trained),
        data.as_held(scored),
        [rows[weights[rows] > 0] for _, rows in splits],
        np.stack([np.bincount(codes, one, minlength=k) > 0 for one in train[: len(splits)]]),
    )


def _rows(part: Any, n: int, fold: int) -> HostArray:
    """Return the rows that a splitter names, as indices 0 … n − 1; it may give a mask."""
    rows = backend_of(part).to_host(part) if is_array(part) else np.asarray(part)
    try:
        return np.arange(n)[rows if rows.size else rows.astype(np.intp)]
    except IndexError as error:
        msg = f"cv: fold {fold} names rows that X, of {n} rows, does not have: {error}"
        raise ValueError(msg) from error
