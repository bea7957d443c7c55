"""LinearClassifierCV: the strength of the penalty by cross-validation, through one X."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from xplinear.arguments import CALLABLES, FLAG, NONE, integer, number, sequence, shown
from xplinear.backends import Backend, backend_of
from xplinear.backends.base import undisturbed
from xplinear.data.remote import is_remote
from xplinear.data.sources import rows_and_targets
from xplinear.estimator.classifier import LinearClassifier, is_probabilistic
from xplinear.estimator.fingerprint import told
from xplinear.estimator.journal import Journal, Runs
from xplinear.estimator.problem import Problem, place_of, prepare
from xplinear.estimator.settings import Settings, SharedParameters, check_fields, given, parameter
from xplinear.estimator.solve import certificate_of, minimized, solve, solver_for
from xplinear.estimator.validation import sparse_on_host
from xplinear.formats.fitted import Fitted, keep, linear_coefficients
from xplinear.model_selection.alphas import automatic_alphas
from xplinear.model_selection.folds import CV, Folds, folds_of, splits_of
from xplinear.model_selection.labels import (
    alphas_of_labels,
    scoring_of_models,
    sweep_labels,
    with_alphas,
)
from xplinear.model_selection.scoring import (
    RANKINGS,
    HeldOut,
    HostScoring,
    OfRows,
    RankScoring,
    scoring_named,
)
from xplinear.model_selection.sweep import (
    Grid,
    Run,
    SweepProgress,
    end_of,
    held_out_decisions,
    scattered,
    stacks_beyond,
    warn_of_an_end,
)
from xplinear.namespace import Array, HostArray
from xplinear.objective import Objective, Params
from xplinear.penalties import has_strength
from xplinear.solvers import Solver
from xplinear.solvers.automatic import automatic_solver
from xplinear.solvers.protocol import declared

__all__ = ["LinearClassifierCV"]

# ruff: noqa: RUF009 - `parameter` makes fields, as `dataclasses.field` does


_STRENGTHS = sequence(number("(0, inf)"), "a sequence of positive, finite numbers, such as [1.0]")
_MOST = 1000  # strengths over 7 decades: each is 1.6 % less than the one before it


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What is searched, and how, checked: what `LinearClassifierCV` is told beside `Settings`."""

    alphas: Sequence[float] | int | None = parameter(None, _STRENGTHS | integer(2) | NONE)
    Cs: Sequence[float] | int | None = parameter(None, _STRENGTHS | integer(2) | NONE)
    cv: Any = parameter(None, CV)
    one_standard_error: bool = parameter(False, FLAG)
    learning_rates: Sequence[float] | None = parameter(None, _STRENGTHS | NONE)
    refit: bool = parameter(True, FLAG)
    held_out_scores: bool = parameter(False, FLAG)
    alpha_per_label: bool = parameter(False, FLAG)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.alphas is not None and self.Cs is not None:
            msg = (
                "alphas and Cs are two ways to say which strengths of the penalty to try, "
                "alpha = 1 / (C n): give only one of them"
            )
            raise ValueError(msg)
        for name in ("alphas", "Cs"):
            count = getattr(self, name)
            if isinstance(count, int) and count > _MOST:
                msg = (
                    f"{name}={count} is how many strengths to fit in every fold, and more than "
                    f"{_MOST} lie too close together to choose among; give fewer, or a list: "
                    f"[{count}] is one strength"
                )
                raise ValueError(msg)

    def check_folds(self, tests: Sequence[HostArray]) -> None:
        """Raise ValueError where folds do not give what is asked for; ``tests`` they hold out."""
        if self.one_standard_error and len(tests) < 2:
            msg = "one_standard_error needs at least two folds"
            raise ValueError(msg)
        rows, times = np.unique(np.concatenate(tests), return_counts=True)
        if self.held_out_scores and times.max() > 1:
            msg = (
                f"held_out_scores needs folds that hold out each row once at most, and row "
                f"{rows[times.argmax()]} is held out {times.max()} times; use folds that do not "
                "repeat, or held_out_scores=False"
            )
            raise ValueError(msg)

    def strengths(self, problem: Problem) -> tuple[HostArray, HostArray | None]:
        """Return the strengths to try, strong to weak, and the C of each where Cs are given."""
        if self.Cs is not None:
            Cs = np.logspace(-4, 4, self.Cs) if isinstance(self.Cs, int) else np.unique(self.Cs)
            return float(np.ravel(problem.alpha)[0]) / Cs, Cs  # problems are of C = 1
        if problem.sample.targets.kind != "classes" and not isinstance(self.alphas, Sequence):
            return alphas_of_labels(problem, self.alphas or 20), None
        if self.alphas is None or isinstance(self.alphas, int):
            return automatic_alphas(problem.objective, self.alphas or 20), None
        return np.unique(self.alphas)[::-1], None


@dataclass(kw_only=True, eq=False, repr=False)
class LinearClassifierCV(SharedParameters, ClassifierMixin, BaseEstimator):
    """Linear classifier whose strength of the penalty is chosen by cross-validation.

    All strengths and folds share one X: a fold is a column of 0/1 weights, a stack of models one
    matrix product.

    Parameters
    ----------
    alphas : sequence of float, int or None
        Strengths to try, more than 0; or how many, chosen by `automatic_alphas`; None is 20 and,
        but of many models, up to 8 weaker ones while the weakest has the best score. A strength is
        the same α in every fold and in the fit to all rows.
    Cs : sequence of float or int, optional
        In place of ``alphas``, scikit-learn's C: it is C that is the same in every fold and in the
        fit to all rows, and α is 1 / (C Σs) of the weights s that each is trained with, as in
        ``LinearClassifier(C=...)``. An integer is how many, from 1e-4 to 1e4, as
        `sklearn.linear_model.LogisticRegressionCV` has it.
    cv : int, splitter, iterable or None
        Folds: a number of stratified ones, None for 5, any splitter of scikit-learn (given X as
        it is passed, and the labels), or pairs of training and test rows: one pair is one
        validation split. A row counts as often as it is named. A fold whose training rows are all
        of one class is refused. A class that they lack, of several, has the lowest score and
        probability 0 in that fold, whatever ``scoring``: what a model makes of a class it has not
        seen depends on ``tol``. The other classes' probabilities sum to 1, and the log loss of a
        row of that class is that of eps, about 36 in float64 and 16 in float32.
    scoring : str, callable or None, default "accuracy"
        ``accuracy``, ``log_loss`` (negated, of probabilities of at least the dtype's eps, as
        scikit-learn's; also ``neg_log_loss``), ``balanced_accuracy``, ``macro_f1`` and
        ``weighted_f1`` (also ``f1_macro``, ``f1_weighted``), ``top_5_accuracy`` (or any number),
        ``roc_auc`` and ``average_precision`` (of two classes that of the second; of more the mean
        over each against the others, by their probabilities and scores, without those that no row
        held out is of), ``roc_auc_ovr_weighted`` (the mean by the classes' rows), computed on the
        device with the sample weights; None is ``accuracy``. Or
        ``scoring(y, Z) -> float``, larger is better, of the labels and the decision function
        ``(n, k)``, ``(n,)`` when binary, of a fold's held-out rows, on the host; or a scorer
        ``scoring(estimator, X, y) -> float``, as `sklearn.metrics.make_scorer` makes it. Both are
        given ``sample_weight`` where there are weights and the callable takes them, and no row
        of weight 0. Of many labels, only by name: the mean over the labels of the scores of each,
        so that ``accuracy`` is the share of labels that are right, and ``roc_auc`` leaves out
        those that all or none of the rows held out have; and ``micro_f1``, as scikit-learn's.
    one_standard_error : bool, default False
        Choose the strongest α whose mean score is within one standard error of the best.
    learning_rates : sequence of float, optional
        Learning rates to try with ``solver="sgd"``, in the same stack. Where a run diverges, it
        goes on with a smaller rate than the one it stands for: that rate then loses at that
        strength, and its ``cv_scores_`` there are NaN.
    refit : bool, default True
        Also fit to all rows, at every strength, as one more fold of the stacks.
    held_out_scores : bool, default False
        Keep the decision function of every row by the model of the strength chosen that did not
        see it: one more fit of every fold, from zero. No row may be held out twice.
    alpha_per_label : bool, default False
        Choose a strength for each of many labels, or of many classes against the rest, by its own
        scores; by default one for all.
    multi_class : {"joint", "one_vs_rest"}, default "joint"
        As in `LinearClassifier`.
    loss, penalty, l1_ratio, fit_intercept, batch_size, learning_rate, momentum, max_iter, tol
        As in `LinearClassifier`.
    standardize : bool, default False
        As in `LinearClassifier`, with mean and variance of each fold's own training rows: what a
        pipeline of a scaler and the classifier does.
    solver : str or Solver, default "auto"
        "auto" is a solver that goes to the optimum where there is one, else ``sgd``.
    class_weight, random_state, backend, dtype, precision, accelerate
        As in `LinearClassifier`; "balanced" weights are those of each fold's training rows, and
        do not enter the scores. Those are computed in full float32 always.
    checkpoint : path-like, Checkpoint or None
        As in `LinearClassifier`, written after each strength too.
    verbose : int, default 0
        1 prints a line per stack: the last strength, its mean score, and the time left.

    Attributes
    ----------
    alphas_ : ndarray of shape (a,)
        From strong to weak; where ``Cs`` are given, those of all rows.
    Cs_ : ndarray of shape (a,)
        From strong to weak, if given.
    cv_scores_ : ndarray of shape (a, f)
        Score of each strength and fold; ``(a, r, f)`` with ``learning_rates``, ``(a, f, L)`` with
        ``alpha_per_label``.
    alpha_ : float, or ndarray of shape (L,) of many labels
        The strength chosen, that of all rows; of equally good ones the strongest.
    C_ : float, or ndarray of shape (L,) with ``alpha_per_label``
        Likewise, where ``Cs`` are given.
    best_index_ : int, tuple, or ndarray of shape (L,) with ``alpha_per_label``
        Its place in ``cv_scores_``, without the axis of the folds.
    learning_rate_ : float
        The learning rate chosen, with ``learning_rates``.
    coefs_paths_ : Array of shape (a, k, p), or (a, 1, p) when binary
        ``coef_`` at each strength (and the learning rate chosen), fitted to all rows; not of many
        labels or classes against the rest, which are fitted to them at the strength chosen only.
    intercepts_paths_ : Array of shape (a, k), or (a, 1)
    held_out_scores_ : Array of shape (n, k), (n, L), or (n,) when binary
        With ``held_out_scores``; NaN in rows that no fold holds out, and in those of weight 0.
    best_estimator_ : LinearClassifier
        The classifier at ``alpha_``; its fitted attributes (``coef_``, ``classes_``, ...) are
        attributes here too.

    Raises
    ------
    ValueError, TypeError
        If an argument or the data is invalid; what was fitted before stays as it was.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        If some models stopped before ``tol`` was reached.
    UserWarning
        If a class has fewer rows than there are stratified folds; as in scikit-learn, it is an
        error where all classes have fewer. If, of three or more strengths, the first or the last
        has a better score than all others: better ones may lie beyond it. Not with
        ``alpha_per_label``.

    Notes
    -----
    Models differ from `LinearClassifier` by no more than ``tol`` allows: each strength starts
    from the stronger ones before it, on a GPU many at once. The one chosen is fitted once more,
    as `LinearClassifier` does; not where Ctrl-C ended the search. Rows larger than the device are
    streamed as there, in one pass for all models of a stack. What the choice is made from
    (``alphas_``, ``cv_scores_``) is on the host, the weights are where the data is.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplinear as xl
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = xl.LinearClassifierCV(alphas=[1.0, 0.1, 0.01]).fit(X, y)
    >>> clf.alpha_, clf.cv_scores_.shape, clf.coefs_paths_.shape
    (0.1, (3, 5), (3, 10, 64))
    """

    alphas: Sequence[float] | int | None = field(default=_Search.alphas, kw_only=False)
    Cs: Sequence[float] | int | None = _Search.Cs
    cv: Any = _Search.cv
    scoring: str | Callable[..., float] | None = "accuracy"
    one_standard_error: bool = _Search.one_standard_error
    learning_rates: Sequence[float] | None = _Search.learning_rates
    refit: bool = _Search.refit
    held_out_scores: bool = _Search.held_out_scores
    alpha_per_label: bool = _Search.alpha_per_label

    @undisturbed(place_of)
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        callbacks: Sequence[Callable[[SweepProgress], bool | None]] = (),
    ) -> Self:
        """Fit every strength and fold, choose, and keep the classifier fitted to all rows.

        Parameters
        ----------
        X, y : arrays
            As in `LinearClassifier.fit`: sparse X and many labels too.
        sample_weight : array of shape (n,), or of many labels also (n, L), optional
            Of training and of scoring.
        groups : array of shape (n,), optional
            For splitters that keep groups together.
        callbacks : sequence of callables
            Each is given a `SweepProgress` per iteration; a true value stops, and the choice is
            made among the strengths done, those of the stack it stopped included.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C, once the choice among the strengths done in all folds is kept; where
            there is none yet, what was fitted before stays as it was.
        """
        callbacks = CALLABLES("callbacks", callbacks)
        search, settings = given(_Search, self), given(Settings, self)
        X, y, sample_weight = rows_and_targets(X, y, sample_weight)
        say = partial(told, self, settings, search, scoring=self.scoring)
        with Journal(settings.checkpoint, say) as journal:
            settings = journal.seeded(settings)
            return self._fit(search, settings, X, y, sample_weight, groups, callbacks, journal)

    def _fit(
        self,
        search: _Search,
        settings: Settings,
        X: Any,
        y: Any,
        sample_weight: Any,
        groups: Any,
        callbacks: Sequence[Callable[[SweepProgress], bool | None]],
        journal: Journal,
    ) -> Self:
        problem = prepare(settings, X, y, sample_weight, owner=self, scored=True)
        objective = problem.objective
        X = problem.sample.X if is_remote(problem.sample.X) else X
        if not has_strength(objective.penalty):
            msg = "penalty='none' has no strength to choose; use LinearClassifier"
            raise ValueError(msg)
        if problem.sample.targets.kind != "classes":
            problem = journal.as_wide(problem)
            return self._fit_many(search, settings, problem, X, groups, callbacks, journal)
        if search.alpha_per_label:
            msg = (
                "alpha_per_label needs many labels, Y of 0 and 1 (n, L), or more than two classes "
                "and multi_class='one_vs_rest'; y has one label per row"
            )
            raise ValueError(msg)
        scoring = self._scoring(objective)
        alphas, Cs = search.strengths(problem)
        splits = splits_of(search.cv, X, problem.sample.targets.labels, groups)
        journal.begin(problem, folds=splits)
        how = {"standardize": settings.standardize, "refit": search.refit}
        folds = folds_of(problem, splits, settings.class_weight, **how)
        search.check_folds(folds.tests)
        held_out = _held_out(problem, folds)
        grid = Grid(alphas, search.learning_rates or [None], folds, Cs)
        if self.solver == "auto":  # what suits one model may be too much for many
            name = automatic_solver(objective, len(grid.lanes), len(alphas))
            settings = replace(settings, solver=name)
        solver = solver_for(settings, objective, problem.seed)
        if search.learning_rates and declared(solver, "with_rates") is None:
            msg = f"learning_rates are for solver='sgd', got solver={self.solver!r}"
            raise ValueError(msg)
        chosen = {one.name: getattr(self, one.name) for one in fields(SharedParameters)}
        chosen |= {"solver": settings.solver, "checkpoint": None}
        scored = _scoring_of_rows(scoring, chosen, problem, X, folds, held_out)
        run, own, runs = Run(grid, callbacks, journal), None, Runs(settings.precision, journal)
        try:
            self._solve(objective, solver, run, scored, runs)
            if search.refit and declared(solver, "follow") is not None:
                self._refit(objective, solver, run, runs)
            if search.held_out_scores:
                own = self._held_out_scores(objective, solver, run, held_out, runs)
        except KeyboardInterrupt as interrupt:
            with suppress(Exception):  # nothing to choose from, say: it is Ctrl-C that counts
                self._choose(chosen, problem, solver, run)
                raise
            msg = f"interrupted before a strength was done in all folds; {journal.rest}"
            raise KeyboardInterrupt(msg) from interrupt
        run.warn(objective, settings.precision, getattr(solver, "tol", settings.tol))
        self._choose(chosen, problem, solver, run, own)
        run.warn_of_an_end()
        return self

    def _fit_many(
        self,
        search: _Search,
        settings: Settings,
        problem: Problem,
        X: Any,
        groups: Any,
        callbacks: Sequence[Callable[[SweepProgress], bool | None]],
        journal: Journal,
    ) -> Self:
        if search.learning_rates:
            msg = "learning_rates are for one model of all classes; give learning_rate"
            raise ValueError(msg)
        targets, per_label = problem.sample.targets, search.alpha_per_label
        scoring = scoring_of_models(self.scoring, targets, per_label=per_label)
        self._check_probabilities(scoring, problem.objective)
        alphas, Cs = strengths = search.strengths(problem)
        splits = splits_of(search.cv, X, targets.labels, groups)
        journal.begin(problem, folds=splits)
        search.check_folds([rows for _, rows in splits])
        if self.solver == "auto":
            lanes = problem.objective.m * len(splits)
            name = automatic_solver(problem.objective, lanes, len(alphas))
            settings = replace(settings, solver=name)
        found = sweep_labels(
            problem,
            settings,
            splits,
            strengths,
            scoring,
            callbacks,
            journal,
            per_label=per_label,
            one_standard_error=search.one_standard_error,
            held_out_scores=search.held_out_scores,
        )
        alphas, Cs = alphas[found.done], Cs if Cs is None else Cs[found.done]
        name, given = ("alpha", alphas) if Cs is None else ("C", Cs)
        chosen = {one.name: getattr(self, one.name) for one in fields(SharedParameters)}
        chosen |= {"solver": settings.solver, "checkpoint": None}
        best = LinearClassifier(**chosen).set_params(**{name: given[found.chosen].tolist()})
        interrupt = None
        if search.refit:
            own = with_alphas(problem, found.alpha)
            fitted, interrupt = solve(settings, own, None, (), journal)
            keep(best, fitted)
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self.alphas_, self.cv_scores_, self.alpha_ = alphas, found.scores, found.alpha
        self.best_index_ = found.chosen if found.chosen.ndim else int(found.chosen)
        if Cs is not None:
            self.Cs_, self.C_ = Cs, Cs[found.chosen]
        if found.held_out_scores is not None:
            self.held_out_scores_ = found.held_out_scores
        if search.refit:
            self.best_estimator_ = best
            vars(self).update({name: a for name, a in vars(best).items() if name.endswith("_")})
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # its traceback holds this frame, and so all rows
        if not per_label and len(found.done) == len(strengths[0]):
            warn_of_an_end(end_of(found.scores.mean(axis=1)), given, name)
        return self

    def _solve(
        self,
        objective: Objective,
        solver: Solver,
        run: Run,
        scoring: str | OfRows,
        runs: Runs,
    ) -> None:
        """Solve and score stack by stack."""
        extends = self.alphas is None and self.Cs is None
        for stack in stacks_beyond(objective, solver, run, runs, extends=extends):
            run.add(stack, scoring)
            if self.verbose:
                last = stack.at[-1]
                run.tell(last, run.scores[last].mean(axis=1).max())
            if stack.result.reason == "callback":
                break
            del stack  # its state takes memory that the next one needs

    def _refit(self, objective: Objective, solver: Solver, run: Run, runs: Runs) -> None:
        """Fit the model chosen anew, from zero as `LinearClassifier` does.

        Where it stopped within ``tol`` depends on where it started, and in the stacks that is what
        the strengths solved before it ended at: other ones on a CPU than on a GPU.
        """
        a, r = run.best(one_standard_error=self.one_standard_error)
        place = int(run.done[a]), r
        own = _of_strength(objective, float(run.grid.alphas[place[0]]))
        result, interrupt = minimized(runs, own, solver, whole=True)
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt
        run.refit(place, result)

    def _held_out_scores(
        self, objective: Objective, solver: Solver, run: Run, held_out: HeldOut, runs: Runs
    ) -> Array:
        """Return the decision function of every row; models are fitted as `_refit` does it."""
        a, r = run.best(one_standard_error=self.one_standard_error)
        place = int(run.done[a]), r
        parts = held_out_decisions(objective, solver, run.grid, place, held_out, runs)
        Z = objective.xp.concat(parts, axis=0)
        Z = Z[:, 1] - Z[:, 0] if Z.shape[1] == 2 else Z
        return scattered(Z, np.concatenate(held_out.tests), len(held_out.codes), objective)

    def predict(self, X: Any, *, out: Any = None) -> Array:
        """Return the label ``(n,)`` of the largest score of each row; of many 0 or 1 ``(n, L)``."""
        return self._best().predict(X, out=out)

    def decision_function(self, X: Any, *, out: Any = None) -> Array:
        """Return scores ``(n, k)``, or ``(n,)`` when binary: positive for the second class.

        Of many labels ``(n, L)``: positive for 1.
        """
        return self._best().decision_function(X, out=out)

    @available_if(is_probabilistic)
    def predict_proba(self, X: Any, *, out: Any = None) -> Array:
        """Return class probabilities ``(n, k)``; only for losses that estimate them (softmax).

        Of many labels ``(n, L)``: that of 1.
        """
        return self._best().predict_proba(X, out=out)

    @available_if(is_probabilistic)
    def predict_log_proba(self, X: Any, *, out: Any = None) -> Array:
        """Return the logarithm of `predict_proba`, exact also for tiny probabilities."""
        return self._best().predict_log_proba(X, out=out)

    def predict_blocks(self, X: Any, method: str = "predict") -> Iterator[Array]:
        """Yield what a method gives of X, some rows at a time; see `LinearClassifier`."""
        return self._best().predict_blocks(X, method)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy on ``X (n, p)`` and ``y (n,)``, whatever ``scoring`` is.

        Of many labels it is the share of the rows all of whose labels are right.
        """
        return self._best().score(X, y, sample_weight)

    def to(self, backend: str | Backend) -> LinearClassifier:
        """Return a copy of the chosen classifier on another backend."""
        return self._best().to(backend)

    def to_sklearn(self) -> Any:
        """Return the chosen classifier as one of scikit-learn; see `LinearClassifier.to_sklearn`.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = LinearClassifierCV(alphas=[0.1, 0.01]).fit(X, y)
        >>> clf.to_sklearn().predict(X[:1])
        array([0])
        """
        return self._best().to_sklearn()

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the chosen classifier to an ONNX file; see `LinearClassifier.to_onnx`."""
        self._best().to_onnx(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the chosen classifier to a safetensors file; `xplinear.load` gives it back."""
        self._best().save(path)

    def __sklearn_tags__(self) -> Any:
        """Declare that sparse matrices are taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _best(self) -> LinearClassifier:
        check_is_fitted(self)
        if not self.refit:
            msg = "refit=False kept no classifier fitted to all rows; set refit=True and fit again"
            raise AttributeError(msg)
        return self.best_estimator_

    def _scoring(self, objective: Objective) -> str | Callable[..., float]:
        """Return the one name of a scoring, or the callable."""
        if self.scoring is None:
            return "accuracy"
        if not isinstance(self.scoring, str):
            if not callable(self.scoring) or isinstance(self.scoring, type):
                msg = f"scoring must be a name, a callable or None, got {shown(self.scoring)}"
                raise TypeError(msg)
            return self.scoring
        scoring = scoring_named(self.scoring, objective.k)
        self._check_probabilities(scoring, objective)
        return scoring

    def _check_probabilities(self, scoring: str, objective: Objective) -> None:
        if scoring == "log_loss" and not objective.loss.probabilistic:
            msg = (
                f"scoring={self.scoring!r} needs probabilities; {self.loss!r} gives none: "
                "use loss='softmax', or another scoring"
            )
            raise ValueError(msg)

    def _choose(
        self,
        parameters: Mapping[str, Any],
        problem: Problem,
        solver: Solver,
        run: Run,
        held_out_scores: Array | None = None,
    ) -> None:
        """Take over the results."""
        a, r = run.best(one_standard_error=self.one_standard_error)
        done, objective, rate = run.done, problem.objective, run.grid.rates[r]
        alpha, (name, strength) = float(run.grid.alphas[done[a]]), run.grid.named(done[a])
        best = LinearClassifier(**parameters).set_params(**{name: strength})
        if rate is not None:
            best.learning_rate = rate
        paths = None
        if self.refit:
            xp, own = objective.xp, _of_strength(objective, alpha)
            result = problem.rounded(run.refits[int(done[a]), r])
            certificate = certificate_of(own, solver, result)
            chosen = replace(problem, objective=own, alpha=alpha)
            keep(best, chosen.fitted(solver, result, certificate))
            W, b = zip(*(run.refits[int(i), r].params for i in done), strict=True)
            stacked = Params(xp.concat(W, axis=1), xp.concat(b, axis=0))
            paths = linear_coefficients(problem.unstandardized(stacked))
        # Last what computes nothing more: Ctrl-C finds the old choice, or all of the new one.
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self.alphas_, self.alpha_ = run.grid.alphas[done], alpha
        if run.grid.Cs is not None:
            self.Cs_, self.C_ = run.grid.Cs[done], strength
        if held_out_scores is not None:
            self.held_out_scores_ = held_out_scores
        self.cv_scores_, self.best_index_ = run.scores[done][:, 0], a
        if rate is not None:
            self.cv_scores_, self.best_index_ = run.scores[done], (a, r)
            self.learning_rate_ = rate
        if paths is not None:
            self.coefs_paths_, self.intercepts_paths_ = paths
            self.best_estimator_ = best
            vars(self).update({name: a for name, a in vars(best).items() if name.endswith("_")})


def _of_strength(objective: Objective, alpha: float) -> Objective:
    """Return the objective of one model."""
    data = objective.data
    return replace(objective, alpha=data.backend.asarray(np.asarray([alpha]), data.dtype))


def _scoring_of_rows(
    scoring: str | Callable[..., float],
    parameters: Mapping[str, Any],
    problem: Problem,
    X: Any,
    folds: Folds,
    held_out: HeldOut,
) -> str | OfRows:
    """Return what scores rows; the name of what needs sums over them only."""
    if isinstance(scoring, str):
        return RankScoring(scoring, held_out) if scoring in RANKINGS else scoring

    def classifier(params: Params, alpha: float, fold: int) -> LinearClassifier:
        clf = LinearClassifier(**parameters).set_params(alpha=alpha, backend=None)
        if is_remote(X):
            keep(clf, Fitted(params, problem.sample.classes, backend_of(params.W)))
            return clf
        standard = folds.standard_of([fold], backend=problem.sample.backend) or problem.standard
        keep(clf, replace(problem, standard=standard).model(params).to("numpy"))
        return clf

    rows = sparse_on_host(X)  # rows of which can be taken
    return HostScoring(scoring, rows, problem.sample.targets.labels, held_out, classifier)


def _held_out(problem: Problem, folds: Folds) -> HeldOut:
    sample = problem.sample
    return HeldOut(folds.tests, problem.places, sample.codes, sample.targets.sample_weight)
