"""Sweeps of many two-class models, of labels or of classes against the rest.

Each is solved in every fold and at every strength: model j of fold i is fold i L + j of a `Grid`,
with the weights of fold i and the labels of model j. Scores are of each label, and those of all
labels are made of them; those of one against the rest are of the classes that it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from xplinear.arguments import naming, shown
from xplinear.estimator.journal import Journal, Runs
from xplinear.estimator.problem import Problem
from xplinear.estimator.settings import Settings
from xplinear.estimator.solve import solver_for
from xplinear.estimator.targets import Targets
from xplinear.model_selection.alphas import automatic_alphas
from xplinear.model_selection.folds import Folds, Split, columns_of, standards_of
from xplinear.model_selection.ranking import by_columns
from xplinear.model_selection.scoring import (
    OTHER_NAMES,
    RANKINGS,
    SCORINGS,
    AgainstRest,
    HeldOut,
    RankScoring,
    class_counts,
    decisions,
    scoring_named,
    sums_of,
    without_classes,
)
from xplinear.model_selection.sweep import (
    Grid,
    Run,
    SweepProgress,
    held_out_decisions,
    scattered,
    stacks_beyond,
)
from xplinear.namespace import Array, HostArray, accumulator
from xplinear.objective import Objective, Params
from xplinear.solvers import Solver

__all__ = [
    "LabelSweep",
    "alphas_of_labels",
    "scoring_of_models",
    "sweep_labels",
    "with_alphas",
]

_F1 = "macro_f1", "micro_f1", "weighted_f1"
_NAMES = ("accuracy", "log_loss", "balanced_accuracy", *_F1, "roc_auc", "average_precision")
_FEW = 8  # labels that tell which strengths are worth a trial


def scoring_of_models(scoring: Any, targets: Targets, *, per_label: bool) -> str:
    """Return the one name of a scoring of many models; raise ValueError where it is none."""
    scoring = "accuracy" if scoring is None else scoring
    if targets.kind == "one_vs_rest" and isinstance(scoring, str) and not per_label:
        return scoring_named(scoring, targets.models)
    name = "micro_f1" if scoring == "f1_micro" else OTHER_NAMES.get(scoring, scoring)
    if not isinstance(name, str) or name not in _NAMES:
        msg = f"scoring of many models must be one of {', '.join(_NAMES)}, got {shown(scoring)}"
        raise ValueError(msg)
    if per_label and name == "micro_f1":
        msg = f"scoring={scoring!r} is of all labels together; with alpha_per_label use macro_f1"
        raise ValueError(msg)
    return name


def alphas_of_labels(problem: Problem, count: int) -> HostArray:
    """Return strengths from strong to weak, as `automatic_alphas`: from what a few labels need."""
    objective = problem.objective
    true, _, _ = class_counts(objective, objective.zeros())
    varied = np.flatnonzero((objective.data.backend.to_host(true) > 0).all(axis=1))
    varied = varied if varied.size else np.zeros(1, dtype=int)  # others have no weights at any
    some = varied[np.unique(np.linspace(0, len(varied) - 1, _FEW).astype(int))]
    asarray = objective.data.backend.asarray
    found = [automatic_alphas(objective.take(asarray(label[None])), 2) for label in some]
    return np.geomspace(np.max(found), np.min(found), count)


def with_alphas(problem: Problem, alphas: HostArray) -> Problem:
    """Return the problem of every label, with strengths of their own ``(L,)``."""
    own, data = alphas[problem.sample.models], problem.objective.data
    objective = replace(problem.objective, alpha=data.backend.asarray(own, data.dtype))

    def others(models: slice) -> Problem:
        return with_alphas(problem.of(models), alphas)

    return replace(problem, objective=objective, alpha=own, others=others)


@dataclass(frozen=True)
class _LabelScoring:
    """A scoring of each label: in parts ``(m, q)``, of which a score of all labels can be made."""

    name: str
    held_out: HeldOut
    models: int
    first: int  # of all labels
    there: HostArray  # whether anything is known of a label in the rows held out

    @property
    def parts(self) -> int:
        return 3 if self.name in _F1 else 1

    def scores(self, part: Objective, params: Params, folds: Sequence[int]) -> HostArray:
        """Return the parts ``(m, q)`` of the score of each model."""
        to_host, nothing = part.data.backend.to_host, np.nan
        if self.name in _F1:
            true, predicted, both = (a[:, 1] for a in class_counts(part, params))
            found, nothing = to_host(part.xp.stack([2.0 * both, true, predicted], axis=1)), 0.0
        elif self.name in SCORINGS:
            found = to_host(SCORINGS[self.name](part, params))[:, None]
        else:
            found = self._rankings(part, params, folds)[:, None]
        return np.where(self.there[folds, None], found, nothing)

    def _rankings(self, part: Objective, params: Params, folds: Sequence[int]) -> HostArray:
        backend, xp = part.data.backend, part.xp
        tests, codes, weights = self.held_out.tests, self.held_out.codes, self.held_out.weights
        groups = [list(group) for _, group in groupby(folds, lambda fold: fold // self.models)]
        places = [self.held_out.places(tests[group[0]]) for group in groups]
        all_Z = decisions(part.data, params, places, [len(group) for group in groups])
        found: list[Array] = []
        for Z, group in zip(all_Z, groups, strict=True):
            rows, labels, s = tests[group[0]], np.asarray(group) % self.models, None
            if weights is not None:
                own = weights[rows][:, labels] if weights.ndim > 1 else weights[rows][:, None]
                s = backend.asarray(own, accumulator(Z, xp=xp))
            own = codes[rows]
            own = own[:, labels] if own.ndim > 1 else own[:, None] == labels + self.first
            hits = backend.asarray(own.astype(np.int8)) == 1
            own = Z[:, :, 1] - Z[:, :, 0]
            found.append(by_columns(RANKINGS[self.name], own, hits, s, xp=xp))
        return backend.to_host(xp.concat(found, axis=0))

    def each(self, parts: HostArray) -> HostArray:
        """Return the scores of each label ``(a, f, L)`` of their parts ``(a, f, L, q)``."""
        if self.name not in _F1:
            return parts[..., 0]
        return _f1(*np.moveaxis(parts, -1, 0))

    def together(self, parts: HostArray) -> HostArray:
        """Return the scores of all labels ``(a, f)``."""
        each = self.each(parts)
        if self.name == "micro_f1":
            return _f1(*np.moveaxis(parts.sum(axis=2), -1, 0))
        if self.name == "weighted_f1":
            true = parts[..., 1]
            total = true.sum(axis=2)
            return (true * each).sum(axis=2) / np.where(total > 0, total, 1.0)
        return _mean(each, 2)


@dataclass(frozen=True)
class _ClassScoring:
    """A scoring of the classes that models give of each against the rest."""

    scoring: str | RankScoring
    held_out: Array
    known: HostArray  # (f, k): whether training rows have the class
    parts: int = 1

    def scores(self, part: Objective, params: Params, folds: Sequence[int]) -> HostArray:
        """Return for each model the score of its fold, whose models come in turn."""
        backend, xp, k = part.data.backend, part.xp, self.known.shape[1]
        if len(folds) % k or any(fold % k != i % k for i, fold in enumerate(folds)):
            msg = f"memory does not hold the models of all {k} classes at once; use fewer features"
            raise MemoryError(msg)
        W, b = params
        if b.shape[1] == 2:
            W, b = W[:, :, 1:] - W[:, :, :1], b[:, 1:] - b[:, :1]
        own = np.asarray(folds[::k]) // k
        classes = Params(xp.reshape(W, (-1, len(own), k)), xp.reshape(b, (len(own), k)))
        classes = without_classes(classes, backend.asarray(self.known[own]), xp=xp)
        against: Any = AgainstRest(*classes) if part.loss.probabilistic else classes
        data = part.data.take(backend.asarray(np.arange(0, len(folds), k)))
        data = data.with_labels(data.y).with_weights(self.held_out, backend.asarray(own))
        alpha = xp.zeros((len(own),), **backend.kind(data.dtype))
        whole = replace(part, alpha=alpha, data=data, k=k)
        if isinstance(self.scoring, str):
            values = backend.to_host(sums_of(self.scoring)(whole, against))
        else:
            values = self.scoring.scores(whole, against, own.tolist())
        return np.repeat(values, k)[:, None]

    def each(self, parts: HostArray) -> HostArray:
        """Return what `together` does: the models of a fold have one score."""
        return parts[..., 0]

    def together(self, parts: HostArray) -> HostArray:
        """Return the scores ``(a, f)``."""
        return parts[:, :, 0, 0]


def _f1(both: HostArray, true: HostArray, predicted: HostArray) -> HostArray:
    whole = true + predicted
    return both / np.where(whole > 0, whole, 1.0)


def _mean(scores: HostArray, axis: int) -> HostArray:
    """Return the mean of what is there; NaN where nothing is."""
    there = ~np.isnan(scores)
    total, count = np.where(there, scores, 0.0).sum(axis=axis), there.sum(axis=axis)
    return np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)


def _folds(
    problem: Problem, splits: Sequence[Split], total: float, *, standardize: bool
) -> tuple[Folds, HostArray, HostArray | None, HostArray]:
    """Return the folds of the labels at hand, and what is known of them.

    That is of which there are rows to score, what rows weigh in scores, and of which classes there
    are rows to train on. ``total`` is what shares are of.
    """
    sample, w = problem.sample, problem.objective.m
    targets, n = sample.targets, sample.codes.shape[0]
    counted = np.arange(n) if problem.rows is None else problem.rows
    bare, unit = targets.weights_of(sample.models, classed=False)
    bare = None if bare is None else bare * np.exp2(unit)
    visible = np.isin(np.arange(n), counted)
    train: list[HostArray] = []
    seen: list[HostArray] = []
    scored: list[HostArray] = []
    sums: list[HostArray] = []
    for fold, split in enumerate(splits):
        learnt, held_out = (np.bincount(rows, minlength=n) * visible for rows in split)
        if not held_out.any():
            msg = f"cv: fold {fold} has no rows of positive weight to score"
            raise ValueError(msg)
        given = targets.sample_weight
        given = learnt if given is None else (given.T * learnt).T
        with naming(f"cv: fold {fold}"):
            own: Any = targets._replace(sample_weight=given).weights_of(sample.models)
        train.append(own[0])
        sums.append(np.broadcast_to(own[0].sum(axis=0) * np.exp2(own[1]), (w,)))
        for times, into in ((learnt, seen), (held_out, scored)):
            into.append(times.astype(float) if bare is None else (bare.T * times).T)
    known = np.stack([np.broadcast_to(weights.any(axis=0), (w,)) for weights in scored])
    positive = np.stack([_positive(sample.codes, weights) for weights in train])
    data, present = problem.objective.data, problem.present
    standard = None
    if standardize:
        standard = standards_of(problem, columns_of(_beside(seen), present), refit=False)
    given = targets.sample_weight
    held = _beside(scored)[present] / (1.0 if given is None else given.max())  # alike in all parts
    tests = [rows[visible[rows]] for _, rows in splits]
    folds = Folds(
        data.as_held(columns_of(_beside(train), present)),
        data.as_held(np.where(held.any(axis=0), held, 1.0)),
        [rows for rows in tests for _ in range(w)],
        np.ones((len(splits) * w, 2), dtype=bool),
        np.concatenate(sums) / total,
        standard,
        w,
    )
    return folds, known.ravel(), bare, positive


def _positive(codes: HostArray, weights: HostArray) -> HostArray:
    """Return whether each class ``(k,)`` has rows; of labels nothing needs to know."""
    if codes.ndim > 1:
        return np.ones(1, dtype=bool)
    if weights.ndim > 1:  # what a row weighs in the model of its own class
        weights = weights[np.arange(len(codes)), np.minimum(codes, weights.shape[1] - 1)]
    return np.bincount(codes, weights) > 0


def _beside(weights: Sequence[HostArray]) -> HostArray:
    return np.concatenate([one.reshape(len(one), -1) for one in weights], axis=1)


class LabelSweep(NamedTuple):
    """What the sweep of all labels found, of the strengths that are ``done``."""

    done: HostArray
    scores: HostArray  # (a, f), or (a, f, L)
    chosen: HostArray  # place among those done, of all labels () or of each (L,)
    alpha: HostArray  # of each label (L,)
    held_out_scores: Array | None


@dataclass(frozen=True)
class _Part:
    """The labels that are solved together, their folds, and what came of them."""

    problem: Problem
    solver: Solver
    run: Run
    held_out: HeldOut
    scoring: _LabelScoring | _ClassScoring

    @property
    def models(self) -> int:
        """How many labels."""
        return self.run.grid.folds.models

    @property
    def scores(self) -> HostArray:
        """The parts of all scores ``(a, f, w, q)``."""
        scores, w = self.run.scores[:, 0], self.models
        return scores.reshape(len(scores), -1, w, scores.shape[-1])

    def solve(self, runs: Runs, *, verbose: bool) -> bool:
        """Solve and score stack by stack; return whether a callback ended it."""
        run = self.run
        stacks = stacks_beyond(self.problem.objective, self.solver, run, runs, extends=False)
        for stack in stacks:
            run.add(stack, self.scoring)
            if verbose:
                last = stack.at[-1]
                run.tell(last, float(_mean(self.scoring.together(self.scores[last, None])[0], 0)))
            if stack.result.reason == "callback":
                return True
            del stack
        return False

    def decisions(self, chosen: HostArray, runs: Runs) -> Array:
        """Return decision functions ``(r, w)`` at the strength chosen for each label."""
        grid, w = self.run.grid, self.models
        own = np.tile(grid.alphas[chosen], len(grid.folds.tests) // w)
        Cs = None if grid.Cs is None else np.ones(1)
        one = grid._replace(alphas=np.ones(1), Cs=Cs, own=own)
        objective = self.problem.objective
        Z = held_out_decisions(objective, self.solver, one, (0, 0), self.held_out, runs)
        xp = objective.xp
        folds = [
            xp.stack([z[:, 1] - z[:, 0] for z in Z[first : first + w]], axis=1)
            for first in range(0, len(Z), w)
        ]
        return xp.concat(folds, axis=0)


def sweep_labels(
    problem: Problem,
    settings: Settings,
    splits: Sequence[Split],
    strengths: tuple[HostArray, HostArray | None],
    scoring: str,
    callbacks: Sequence[Callable[[SweepProgress], bool | None]],
    journal: Journal,
    *,
    per_label: bool,
    one_standard_error: bool,
    held_out_scores: bool,
) -> LabelSweep:
    """Solve every model in every fold at every strength, score, and choose.

    ``strengths`` are α of the first label, and C where that is given.
    """
    (alphas, Cs), parts = strengths, list[_Part]()
    runs = Runs(settings.precision, journal)
    total = 1.0 / float(np.ravel(problem.alpha)[0])  # α is that of C = 1
    against_rest = problem.sample.targets.kind == "one_vs_rest" and not per_label
    width, models = problem.objective.m, problem.sample.targets.models
    for first in range(0, models, width):
        at = slice(first, min(first + width, models))
        one = problem if first == 0 else problem.of(at)
        standardize = settings.standardize
        folds, there, weights, known = _folds(one, splits, total, standardize=standardize)
        held_out = HeldOut(folds.tests, one.places, one.sample.codes, weights)
        if against_rest:
            scorer = _class_scoring(scoring, one, folds, held_out, known)
        else:
            scorer = _LabelScoring(scoring, held_out, folds.models, one.sample.models.start, there)
        run = Run(Grid(alphas, [None], folds, Cs), callbacks, journal, (scorer.parts,))
        solver = solver_for(settings, one.objective, one.seed)
        parts.append(_Part(one, solver, run, held_out, scorer))
        if parts[-1].solve(runs, verbose=bool(settings.verbose)):
            break
    widths, scorer = [part.models for part in parts], parts[0].scoring
    done = reduce(np.intersect1d, [part.run.done for part in parts])
    if not done.size or sum(widths) < problem.sample.targets.models:
        msg = "stopped before any strength was done for all labels: there is nothing to choose"
        raise ValueError(msg)
    _warn(parts, settings)
    found = np.concatenate([part.scores for part in parts], axis=2)[done]
    scores = scorer.together(found)
    if not np.isfinite(scores).all():
        fold = np.argwhere(~np.isfinite(scores))[0][1]
        msg = (
            f"cv: fold {fold} holds out no label's rows of both kinds, which scoring={scoring!r} "
            "needs; use other folds, or another scoring"
        )
        raise ValueError(msg)
    at = _choice(scores, one_standard_error=one_standard_error)
    if per_label:
        scores = scorer.each(found)
        at = _choice(scores, one_standard_error=one_standard_error, instead=at)
    chosen = done[np.broadcast_to(at, (sum(widths),))]
    alpha = alphas[chosen]
    if Cs is not None:
        alpha = alpha * total * np.concatenate([np.ravel(part.problem.alpha) for part in parts])
    out = None
    if held_out_scores:
        own = np.split(chosen, np.cumsum(widths)[:-1])
        columns = [part.decisions(a, runs) for part, a in zip(parts, own, strict=True)]
        Z = problem.objective.xp.concat(columns, axis=1)
        held_out = parts[0].held_out
        rows = np.concatenate(held_out.tests[:: widths[0]])
        out = scattered(Z, rows, len(held_out.codes), problem.objective)
    return LabelSweep(done, scores, at, alpha, out)


def _class_scoring(
    name: str, problem: Problem, folds: Folds, held_out: HeldOut, known: HostArray
) -> _ClassScoring:
    targets, k = problem.sample.targets, folds.models
    if targets.own_rows or k < targets.models:
        what = "weights for each class" if targets.own_rows else f"{targets.models} classes"
        msg = f"multi_class='one_vs_rest' has no score with {what}; set alpha_per_label=True"
        raise ValueError(msg)
    if name not in RANKINGS:
        return _ClassScoring(name, folds.held_out, known)
    own = held_out._replace(tests=held_out.tests[::k])
    return _ClassScoring(RankScoring(name, own), folds.held_out, known)


def _choice(scores: HostArray, *, one_standard_error: bool, instead: Any = 0) -> HostArray:
    """Return the place of the best mean of ``(a, f, …)``, or of the strongest as good as it."""
    mean = _mean(scores, 1)
    known = ~np.isnan(mean).all(axis=0)
    mean = np.where(np.isnan(mean), -np.inf, mean)
    best = mean.argmax(axis=0)
    if one_standard_error:
        own = np.take_along_axis(scores, best[None, None], axis=0)[0]
        count = (~np.isnan(own)).sum(axis=0)
        square = _mean((own - _mean(own, 0)) ** 2, 0)
        error = np.where(count > 1, np.sqrt(square / np.where(count > 1, count - 1, 1)), 0.0)
        best = (mean >= mean.max(axis=0) - error).argmax(axis=0)
    return np.where(known, best, instead)


def _warn(parts: Sequence[_Part], settings: Settings) -> None:
    first = parts[0]
    for part in parts[1:]:
        first.run.reasons += part.run.reasons
        first.run.stalled += part.run.stalled
    tol = getattr(first.solver, "tol", settings.tol)
    first.run.warn(first.problem.objective, settings.precision, tol)
