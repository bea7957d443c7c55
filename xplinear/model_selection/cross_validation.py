"""LinearClassifierCV: the strength of the penalty by cross-validation, through one X."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import check_cv
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from xplinear.arguments import (
    CALLABLES,
    FLAG,
    NONE,
    Check,
    integer,
    number,
    satisfying,
    sequence,
    shown,
)
from xplinear.backends import Backend, backend_of
from xplinear.backends.base import undisturbed
from xplinear.data.rows import FarStandard
from xplinear.estimator.classifier import (
    LinearClassifier,
    Problem,
    automatic_solver,
    certificate_of,
    is_probabilistic,
    linear_coefficients,
    place_of,
    shift_features,
)
from xplinear.estimator.validation import check_groups, check_weights, host_weights
from xplinear.losses import Loss
from xplinear.minimize import time_left
from xplinear.model_selection.scoring import OTHER_NAMES, SCORINGS, HostScoring
from xplinear.model_selection.sweep import Grid, Run, SweepProgress, automatic_alphas, stacks_beyond
from xplinear.namespace import Array, is_array
from xplinear.objective import Objective, Params
from xplinear.penalties import NoPenalty, Penalty
from xplinear.solvers import SGD, Solver

__all__ = ["LinearClassifierCV"]

# The estimator prepares and keeps for both classifiers; that is no part of its public face.
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

HostArray = np.ndarray[Any, np.dtype[Any]]

_STRENGTHS = sequence(number("(0, inf)"), "a sequence of positive, finite numbers, such as [1.0]")
_SPLITTER = satisfying(
    lambda cv: callable(getattr(cv, "split", None)) and not isinstance(cv, (str, bytes, type)),
    "a splitter",
)
_PAIRS = satisfying(
    lambda cv: isinstance(cv, Iterable) and not isinstance(cv, (str, bytes, Mapping)),
    "pairs of training and test rows",
)
# Beside those of `LinearClassifier`.
ARGUMENTS: dict[str, Check] = {
    "alphas": _STRENGTHS | integer(2) | NONE,
    "cv": integer(2) | _SPLITTER | _PAIRS | NONE,
    "one_standard_error": FLAG,
    "learning_rates": _STRENGTHS | NONE,
    "refit": FLAG,
}


class LinearClassifierCV(ClassifierMixin, BaseEstimator):
    """Linear classifier whose strength of the penalty is chosen by cross-validation.

    All strengths and folds share one X: a fold is a column of 0/1 weights, a stack of models one
    matrix product. Where folds have nᶠ rows, the strength α is 1 / (C nᶠ) for scikit-learn's C.

    Parameters
    ----------
    alphas : sequence of float, int or None
        Strengths to try, more than 0; or how many, chosen by `automatic_alphas`; None is 20, and
        up to 8 weaker ones while the weakest has the best score.
    cv : int, splitter, iterable or None
        Folds: a number of stratified ones, None for 5, any splitter of scikit-learn (given X as
        it is passed, and the labels), or pairs of training and test rows. A row counts as often
        as it is named. A fold whose training rows are all of one class is refused. A class that
        they lack, of several, has the lowest score and probability 0 in that fold, whatever
        ``scoring``: what a model makes of a class it has not seen depends on ``tol``.
    scoring : str, callable or None, default "accuracy"
        ``accuracy``, ``log_loss`` (negated, of probabilities of at least the dtype's eps, as
        scikit-learn's; also ``neg_log_loss``), ``balanced_accuracy``, ``macro_f1`` (also
        ``f1_macro``), computed on the device with the sample weights; None is ``accuracy``. Or
        ``scoring(y, Z) -> float``, larger is better, of the labels and the decision function
        ``(n, k)``, ``(n,)`` when binary, of a fold's held-out rows, on the host; or a scorer
        ``scoring(estimator, X, y) -> float``, as `sklearn.metrics.make_scorer` makes it. Both are
        given ``sample_weight`` where there are weights and the callable takes them, and no row
        of weight 0.
    one_standard_error : bool, default False
        Choose the strongest α whose mean score is within one standard error of the best.
    learning_rates : sequence of float, optional
        Learning rates to try with ``solver="sgd"``, in the same stack. Where a run diverges, it
        goes on with a smaller rate than the one it stands for: that rate then loses at that
        strength, and its ``cv_scores_`` there are NaN.
    refit : bool, default True
        Also fit to all rows, at every strength, as one more fold of the stacks.
    loss, penalty, l1_ratio, fit_intercept, batch_size, learning_rate, momentum, max_iter, tol
        As in `LinearClassifier`.
    standardize : bool, default False
        As in `LinearClassifier`. Mean and variance are those of all rows: folds share them, as
        they share X, and an α means the same in each.
    solver : str or Solver, default "auto"
        "auto" is a solver that goes to the optimum where there is one, else ``sgd``.
    class_weight, random_state, backend, dtype, precision, accelerate
        As in `LinearClassifier`; "balanced" weights are those of each fold's training rows, and
        do not enter the scores. Those are computed in full float32 always.
    verbose : int, default 0
        1 prints a line per stack: the last strength, its mean score, and the time left.

    Attributes
    ----------
    alphas_ : ndarray of shape (a,)
        From strong to weak.
    cv_scores_ : ndarray of shape (a, f)
        Score of each strength and fold; ``(a, r, f)`` with ``learning_rates``.
    alpha_ : float
        The strength chosen; of equally good ones the strongest.
    best_index_ : int or tuple
        Its place in ``cv_scores_``, without the axis of the folds.
    learning_rate_ : float
        The learning rate chosen, with ``learning_rates``.
    coefs_paths_ : Array of shape (a, k, p), or (a, 1, p) when binary
        ``coef_`` at each strength (and the learning rate chosen), fitted to all rows.
    intercepts_paths_ : Array of shape (a, k), or (a, 1)
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
        has a better score than all others: better ones may lie beyond it.

    Notes
    -----
    Models differ from `LinearClassifier` by no more than ``tol`` allows: each strength starts
    from the stronger ones before it. Rows larger than the device are streamed as there, in one
    pass for all models of a stack. What the choice is made from (``alphas_``, ``cv_scores_``) is
    on the host, the weights are where the data is.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplinear as xl
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = xl.LinearClassifierCV(alphas=[1.0, 0.1, 0.01]).fit(X, y)
    >>> clf.alpha_, clf.cv_scores_.shape, clf.coefs_paths_.shape
    (0.1, (3, 5), (3, 10, 64))
    """

    def __init__(
        self,
        alphas: Sequence[float] | int | None = None,
        *,
        cv: Any = None,
        scoring: str | Callable[..., float] | None = "accuracy",
        one_standard_error: bool = False,
        learning_rates: Sequence[float] | None = None,
        refit: bool = True,
        loss: str | Loss = "softmax",
        penalty: str | Penalty | None = "l2",
        l1_ratio: float = 0.15,
        fit_intercept: bool = True,
        standardize: bool = False,
        solver: str | Solver = "auto",
        batch_size: int = 64,
        learning_rate: Literal["auto"] | float = "auto",
        momentum: float = 0.9,
        max_iter: int | None = None,
        tol: float = 1e-4,
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: int | np.random.RandomState | None = None,
        backend: str | Backend | None = None,
        dtype: str | None = None,
        precision: Literal["float32", "tf32"] = "float32",
        accelerate: bool = True,
        verbose: int = 0,
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.scoring = scoring
        self.one_standard_error = one_standard_error
        self.learning_rates = learning_rates
        self.refit = refit
        self.loss = loss
        self.penalty = penalty
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.solver = solver
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.random_state = random_state
        self.backend = backend
        self.dtype = dtype
        self.precision = precision
        self.accelerate = accelerate
        self.verbose = verbose

    @undisturbed(place_of)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        callbacks: Sequence[Callable[[SweepProgress], bool | None]] = (),
    ) -> Self:
        """Fit every strength and fold, choose, and keep the classifier fitted to all rows.

        Parameters
        ----------
        X : array of shape (n, p)
        y : array of shape (n,)
        sample_weight : array of shape (n,), optional
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
        for name in ARGUMENTS:
            self._plain(name)
        settings = self.get_params(deep=False)
        template = LinearClassifier(
            **{name: settings[name] for name in LinearClassifier().get_params() if name in settings}
        )
        problem = template._problem(X, y, sample_weight, scored=True)
        objective = problem.objective
        if objective.penalty == NoPenalty():
            msg = "penalty='none' has no strength to choose; use LinearClassifier"
            raise ValueError(msg)
        if self.solver == "auto":
            template.solver = automatic_solver(objective)
        solver = template._solver(objective, problem.seed)
        rates = self._rates(solver)
        scoring = self._scoring(objective.loss)
        alphas = self._alphas(objective)
        grid = self._grid(problem, X, sample_weight, groups, alphas, rates)
        if self.solver == "auto":  # what suits one model may be too much for many
            template.solver = automatic_solver(objective, len(grid.lanes), len(alphas))
            solver = template._solver(objective, problem.seed)
        if not isinstance(scoring, str):
            scoring = self._host_scoring(scoring, template, problem, X, sample_weight)
        run = Run(grid, callbacks)
        try:
            self._solve(objective, solver, run, scoring)
        except KeyboardInterrupt as interrupt:
            with suppress(Exception):  # nothing to choose from, say: it is Ctrl-C that counts
                self._choose(template, problem, solver, run)
                raise
            msg = "interrupted before a strength was done in all folds; nothing new is kept"
            raise KeyboardInterrupt(msg) from interrupt
        run.warn(objective, self.precision, getattr(solver, "tol", self.tol))
        self._choose(template, problem, solver, run)
        run.warn_of_an_end()
        return self

    def _solve(
        self, objective: Objective, solver: Solver, run: Run, scoring: str | HostScoring
    ) -> None:
        """Solve and score stack by stack."""
        show, extends = run.show if run.callbacks else None, self.alphas is None
        solved = stacks_beyond(objective, solver, run, show, self.precision, extends=extends)
        for stack in solved:
            run.add(stack, scoring)
            if self.verbose:
                last = stack.at[-1]
                alpha, mean = run.grid.alphas[last], run.scores[last].mean(axis=1).max()
                left = time_left(run.seconds, len(run.reasons), run.models)
                print(  # noqa: T201 - asked for
                    f"alpha {alpha:.3g}  score {mean:.4f}  {len(run.reasons)}/{run.models} models"
                    f"  {run.seconds:.2f} s, time left {left}"
                )
            if stack.result.reason == "callback":
                break
            del stack  # its state takes memory that the next one needs

    def predict(self, X: Any) -> Array:
        """Return the label ``(n,)`` of the largest score of each row."""
        return self._best().predict(X)

    def decision_function(self, X: Any) -> Array:
        """Return scores ``(n, k)``, or ``(n,)`` when binary: positive for the second class."""
        return self._best().decision_function(X)

    @available_if(is_probabilistic)
    def predict_proba(self, X: Any) -> Array:
        """Return class probabilities ``(n, k)``; only for losses that estimate them (softmax)."""
        return self._best().predict_proba(X)

    @available_if(is_probabilistic)
    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`, exact also for tiny probabilities."""
        return self._best().predict_log_proba(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy on ``X (n, p)`` and ``y (n,)``, whatever ``scoring`` is."""
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

    def _best(self) -> LinearClassifier:
        check_is_fitted(self)
        if not self.refit:
            msg = "refit=False kept no classifier fitted to all rows; set refit=True and fit again"
            raise AttributeError(msg)
        return self.best_estimator_

    def _plain(self, name: str) -> Any:
        """Return a parameter, checked, as plain Python has it."""
        return ARGUMENTS[name](name, getattr(self, name))

    def _scoring(self, loss: Loss) -> str | Callable[..., float]:
        """Return the name of a scoring of `SCORINGS`, or the callable."""
        if self.scoring is None:
            return "accuracy"
        if not isinstance(self.scoring, str):
            if not callable(self.scoring) or isinstance(self.scoring, type):
                msg = f"scoring must be a name, a callable or None, got {shown(self.scoring)}"
                raise TypeError(msg)
            return self.scoring
        scoring = OTHER_NAMES.get(self.scoring, self.scoring)
        if scoring not in SCORINGS:
            names = ", ".join([*SCORINGS, *OTHER_NAMES])
            msg = f"unknown scoring {self.scoring!r}; choose from {names}, or pass a callable"
            raise ValueError(msg)
        if scoring == "log_loss" and not loss.probabilistic:
            msg = (
                f"scoring={self.scoring!r} needs probabilities; {self.loss!r} gives none: "
                "use loss='softmax', or another scoring"
            )
            raise ValueError(msg)
        return scoring

    def _host_scoring(
        self,
        function: Callable[..., float],
        template: LinearClassifier,
        problem: Problem,
        X: Any,
        sample_weight: Any,
    ) -> HostScoring:
        classes, to_host = problem.classes, problem.objective.data.backend.to_host
        settings = {**template.get_params(deep=False), "backend": None}

        def classifier(params: Params, alpha: float) -> LinearClassifier:
            host = Params(*map(to_host, problem.unstandardized(params)))
            clf = LinearClassifier.from_params(host, classes, **{**settings, "alpha": alpha})
            if problem.shifted and problem.standard is not None:
                host = Params(*map(to_host, problem.held(params)))
                shift_features(clf, host, FarStandard(*map(to_host, problem.standard)))
            if problem.features.names is not None:
                clf.feature_names_in_ = problem.features.names
            return clf

        labels, n = classes[problem.codes], len(problem.codes)
        weights = None if sample_weight is None else host_weights(sample_weight, n)
        return HostScoring(function, X, labels, weights, problem.places, classifier)

    def _rates(self, solver: Solver) -> list[float | None]:
        if self.learning_rates is None:
            return [None]
        if not isinstance(solver, SGD):
            msg = f"learning_rates are for solver='sgd', got solver={self.solver!r}"
            raise ValueError(msg)  # noqa: TRY004 - it is the value
        return list(self._plain("learning_rates"))

    def _alphas(self, objective: Objective) -> HostArray:
        alphas = self._plain("alphas")
        if alphas is None:
            return automatic_alphas(objective)
        if isinstance(alphas, int):
            return automatic_alphas(objective, alphas)
        return np.unique(alphas)[::-1]

    def _grid(
        self,
        problem: Problem,
        X: Any,
        sample_weight: Any,
        groups: Any,
        alphas: HostArray,
        rates: Sequence[float | None],
    ) -> Grid:
        """Return the grid, with a column of weights for every fold."""
        data, classes = problem.objective.data, problem.classes
        codes = problem.codes
        weights = check_weights(sample_weight, None, codes, classes)
        weights = np.ones(len(codes)) if weights is None else weights
        weights[problem.left_out] = 0.0

        def weights_of(rows: HostArray) -> Any:
            return check_weights(rows, self.class_weight, codes, classes)

        train: list[HostArray] = []
        held_out: list[HostArray] = []
        tests: list[HostArray] = []
        known: list[HostArray] = []
        for fold, split in enumerate(self._splits(X, classes[codes], groups)):
            index = [_rows(part, len(codes), fold) for part in split]
            parts = [np.bincount(rows, minlength=len(codes)) * weights for rows in index]
            if not all(part.any() for part in parts):
                msg = f"cv: fold {fold} has no rows of positive weight to train on or to score"
                raise ValueError(msg)
            there = classes[np.unique(codes[parts[0] > 0])].tolist()
            if len(there) < 2:
                msg = (
                    f"cv: fold {fold} trains on one class only, {there[0]!r}, and a classifier "
                    "needs two; use fewer folds, or stratified ones: cv=2"
                )
                raise ValueError(msg)
            train.append(weights_of(parts[0]))
            known.append(np.bincount(codes, train[-1], minlength=len(classes)) > 0)
            held_out.append(parts[1])
            tests.append(index[1][weights[index[1]] > 0])
        if not tests:
            msg = f"cv={self.cv!r} gives no folds; give a number of them, or pairs of rows"
            raise ValueError(msg)
        if self.one_standard_error and len(tests) < 2:
            msg = "one_standard_error needs at least two folds"
            raise ValueError(msg)
        if self.refit:
            train.append(weights_of(weights))
        # Of mean 1 in each fold: what all folds share, such as a metric, then weighs them alike.
        columns = (problem.counted(np.stack(part, axis=1)) for part in (train, held_out))
        trained, scored = (column / column.mean(axis=0) for column in columns)
        return Grid(
            alphas,
            rates,
            data.as_held(trained),
            data.as_held(scored),
            tests,
            np.stack(known),
        )

    def _splits(self, X: Any, labels: HostArray, groups: Any) -> list[tuple[Any, Any]]:
        """Return the training and test rows of each fold."""
        if groups is not None:
            groups = check_groups(groups, len(labels))
        cv = self._plain("cv")
        splitter = cast(Any, check_cv(cv, labels, classifier=True))
        try:
            return list(splitter.split(X, labels, groups))
        except (TypeError, ValueError) as error:
            if hasattr(cv, "split"):
                raise
            msg = f"cv, if it is no splitter, must give pairs of training and test rows: {error}"
            if cv is None or isinstance(cv, int):
                msg = f"cv={cv} does not suit these rows: {error}"
            raise ValueError(msg) from error

    def _choose(
        self, template: LinearClassifier, problem: Problem, solver: Solver, run: Run
    ) -> None:
        """Take over the results."""
        a, r = run.best(one_standard_error=self.one_standard_error)
        done, objective, rate = run.done, problem.objective, run.grid.rates[r]
        template.alpha = float(run.grid.alphas[done[a]])
        template.learning_rate = template.learning_rate if rate is None else rate
        paths = None
        if self.refit:
            xp, backend = objective.xp, objective.data.backend
            alpha = backend.asarray(np.asarray([template.alpha]), objective.data.dtype)
            own = replace(objective, alpha=alpha)
            chosen = replace(problem, objective=own, alpha=template.alpha)
            result = problem.rounded(run.refits[int(done[a]), r])
            template._keep(chosen, solver, result, certificate_of(chosen.objective, solver, result))
            parts = [run.refits[int(i), r].params for i in done]
            stacked = Params(
                xp.concat([part.W for part in parts], axis=1),
                xp.concat([part.b for part in parts], axis=0),
            )
            paths = linear_coefficients(problem.unstandardized(stacked))
        # Last what computes nothing more: Ctrl-C finds the old choice, or all of the new one.
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self.alphas_, self.alpha_ = run.grid.alphas[done], template.alpha
        self.cv_scores_, self.best_index_ = run.scores[done][:, 0], a
        if rate is not None:
            self.cv_scores_, self.best_index_ = run.scores[done], (a, r)
            self.learning_rate_ = rate
        if paths is not None:
            self.coefs_paths_, self.intercepts_paths_ = paths
            self.best_estimator_ = template
            fitted = {name: value for name, value in vars(template).items() if name.endswith("_")}
            vars(self).update(fitted)


def _rows(part: Any, n: int, fold: int) -> HostArray:
    """Return the rows that a splitter names, as indices 0 … n − 1; it may give a mask."""
    rows = backend_of(part).to_host(part) if is_array(part) else np.asarray(part)
    try:
        return np.arange(n)[rows if rows.size else rows.astype(np.intp)]
    except IndexError as error:
        msg = f"cv: fold {fold} names rows that X, of {n} rows, does not have: {error}"
        raise ValueError(msg) from error
