"""Folds of cross-validation as columns of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from sklearn.model_selection import KFold, check_cv

from xplinear.arguments import NONE, integer, naming, satisfying
from xplinear.backends import Backend, backend_of
from xplinear.data import Standard
from xplinear.data.remote import is_remote
from xplinear.data.rows import FarStandard
from xplinear.estimator.labels import weights_of
from xplinear.estimator.problem import Problem
from xplinear.estimator.standardize import composed, standard_of
from xplinear.estimator.validation import on_host, refuse_masked
from xplinear.namespace import Array, HostArray, is_array

__all__ = ["CV", "Folds", "Split", "columns_of", "folds_of", "splits_of", "standards_of"]

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
    """Folds as weights of rows.

    Of L two-class models, each in every fold, f counts both: model j of fold i is i L + j.
    """

    train: Array  # weights (n, f), or one column more for the refit on all rows
    held_out: Array  # (n, f); of L models both may have a column for each fold alone
    tests: Sequence[HostArray]  # the rows held out
    known: HostArray  # (f, k): whether a fold's training rows have the class
    shares: HostArray  # Σ s of the training rows over that of all rows, (f,) or (f + 1,)
    standard: Standard | None  # likewise, each fold's own, where it was asked for
    models: int = 1  # L

    def columns(self, of: Array, folds: Sequence[int]) -> HostArray:
        """Return which columns serve these folds."""
        index = np.asarray(folds)
        return index if of.shape[-1] > len(self.tests) // self.models else index // self.models

    def standard_of(self, folds: Sequence[int], *, backend: Backend) -> Standard | None:
        """Return the standard of models of these folds: ``(p,)`` where they have one."""
        if self.standard is None:
            return None
        columns = self.columns(self.standard.centre, folds)
        if len(set(columns.tolist())) == 1:
            return self.standard._make(a[:, int(columns[0])] for a in self.standard)
        xp, index = backend.xp, backend.asarray(columns)
        return self.standard._make(xp.take(a, index, axis=1) for a in self.standard)


def splits_of(cv: Any, X: Any, labels: Any, groups: Any) -> list[Split]:
    """Return the training and test rows of each fold; ``cv`` has been checked.

    ``labels`` are ``(n,)``, or ``(n, L)`` of 0 and 1, dense or sparse.
    """
    n = labels.shape[0]
    X = np.empty((n, 0)) if is_remote(X) else X
    if groups is not None:
        refuse_masked("groups", groups)
        with naming("groups"):
            groups = np.asarray(on_host("groups", groups))
        if groups.shape != (n,):
            msg = f"groups must have one entry per row of X, shape ({n},), got {groups.shape}"
            raise ValueError(msg)
    if labels.ndim > 1 and (cv is None or isinstance(cv, int)):
        cv = KFold(5 if cv is None else cv)  # as scikit-learn has it: no strata
    if hasattr(cv, "split") and not isinstance(labels, np.ndarray):
        labels = labels.toarray()
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


def folds_of(
    problem: Problem, splits: Sequence[Split], class_weight: Any, *, standardize: bool, refit: bool
) -> Folds:
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
    data, own, present = problem.objective.data, len(train), problem.present
    standard = None
    if standardize:
        standard = standards_of(problem, columns_of(np.stack(train, axis=1), present), refit=refit)
    weighed = [weights_of(one, class_weight, codes, classes) for one in [*train, weights]]
    sums = np.asarray([one.sum() * 2.0**unit for one, unit in cast(Any, weighed)])
    train = [one for one, _ in cast(Any, weighed)][: own + refit]
    return Folds(
        data.as_held(columns_of(np.stack(cast(Any, train), axis=1), present)),
        data.as_held(columns_of(np.stack(held_out, axis=1), present)),
        [rows[weights[rows] > 0] for _, rows in splits],
        np.stack([np.bincount(codes, one, minlength=k) > 0 for one in train[:own]]),
        sums[: own + refit] / sums[-1],
        standard,
    )


def columns_of(weights: HostArray, counted: Any) -> HostArray:
    """Return columns of mean 1: what all share, such as a metric, weighs them alike."""
    columns = weights[counted]
    return columns / columns.mean(axis=0)


def standards_of(problem: Problem, weights: HostArray, *, refit: bool) -> Standard:
    """Return what standardizes the features for each fold, and last for the fit to all rows.

    As for that fit, class weights do not enter.
    """
    objective, xp = problem.objective, problem.objective.xp
    m = weights.shape[1]
    any_labels = objective.data.backend.asarray(np.zeros(m, dtype=int))
    data = objective.data.take(any_labels).with_standard(problem.reach)
    data = data.with_weights(data.as_held(weights))
    alpha = xp.zeros((m,), **data.backend.kind(data.dtype))
    own = composed(
        problem.reach, standard_of(replace(objective, alpha=alpha, data=data, measured=None))
    )
    parts = [own, cast(Standard, problem.standard)][: 1 + refit]
    kind = FarStandard if any(isinstance(part, FarStandard) for part in parts) else Standard
    p = data.p
    return kind(
        *(
            xp.concat([xp.reshape(a, (p, -1)) for a in pair], axis=1)
            for pair in zip(*parts, strict=True)
        )
    )


def _rows(part: Any, n: int, fold: int) -> HostArray:
    """Return the rows that a splitter names, as indices 0 … n − 1; it may give a mask."""
    rows = backend_of(part).to_host(part) if is_array(part) else np.asarray(part)
    try:
        return np.arange(n)[rows if rows.size else rows.astype(np.intp)]
    except IndexError as error:
        msg = f"cv: fold {fold} names rows that X, of {n} rows, does not have: {error}"
        raise ValueError(msg) from error
