"""LinearClassifier: the scikit-learn estimator, and the only mutable class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from xplinear.arguments import (
    CALLABLES,
    PATH,
    ArgumentError,
    check_array,
    check_finite,
    check_same_library,
    instance,
)
from xplinear.backends import Backend, backend_of, get_backend
from xplinear.backends.base import undisturbed
from xplinear.data.partitions import computed
from xplinear.data.sources import rows_and_targets
from xplinear.estimator.fingerprint import told
from xplinear.estimator.journal import Journal
from xplinear.estimator.labels import (
    check_classes,
    check_labels,
    encode_labels,
    in_dtype,
    weights_of,
)
from xplinear.estimator.outputs import METHOD, predicted_to, results_of
from xplinear.estimator.predictions import labels_of, predicted
from xplinear.estimator.problem import place_of, prepare
from xplinear.estimator.settings import Settings, SharedParameters, checked, given
from xplinear.estimator.solve import solve, solve_in_turn, warn_of_no_optimum
from xplinear.estimator.standardize import restandardized
from xplinear.estimator.targets import check_targets, has_columns, whole_indicator
from xplinear.estimator.validation import check_lengths, computation_dtype
from xplinear.formats.fitted import (
    Fitted,
    FittedAttributes,
    Kind,
    fitted_of,
    keep,
    linear_coefficients,
    stack_of,
)
from xplinear.formats.model_file import read, write
from xplinear.losses import Loss
from xplinear.minimize import Progress
from xplinear.namespace import Array, name_of
from xplinear.objective import Params, columns

__all__ = ["LinearClassifier", "is_probabilistic", "load", "problem_of", "save"]


def problem_of(clf: Any, alpha: str) -> str:
    """Return what a classifier minimizes as the formula has it, for a strength.

    Examples
    --------
    >>> problem_of(LinearClassifier(penalty="l1"), "0.5")
    'softmax + 0.5 · l1'
    """
    loss, penalty = (
        part if isinstance(part, str) else type(part).__name__
        for part in (clf.loss, "none" if clf.penalty is None else clf.penalty)
    )
    return f"{loss}, no penalty" if penalty == "none" else f"{loss} + {alpha} · {penalty}"


def _checked_params(params: Params, m: int, k: int, loss: Loss) -> Params:
    """Return parameters, integers as floats, that are those of m models of k classes."""
    instance(Params, "Params(W, b)")("params", params)
    for name, a in params._asdict().items():
        check_array(f"params: {name}", a, kind=("integral", "real floating"))
        check_finite(f"params: {name}", a)
    check_same_library("params: b", params.b, "W", params.W)
    c, shapes = columns(loss, k), (tuple(params.W.shape), tuple(params.b.shape))
    if shapes != ((*shapes[0][:1], m, c), (m, c)):
        msg = (
            f"params must have W of shape (p, {m}, {c}) and b of shape ({m}, {c}) for "
            f"{k} classes under {loss!r}, got {shapes[0]} and {shapes[1]}"
        )
        raise ArgumentError(msg)
    backend = backend_of(params.W)

    def floating(a: Array) -> Array:
        whole = "int" in name_of(a.dtype)
        return backend.asarray(a, computation_dtype(a, None, backend)) if whole else a

    return Params(*map(floating, params))


def is_probabilistic(estimator: Any) -> bool:
    """Return True if the loss of an estimator gives probabilities, else raise AttributeError."""
    if checked(estimator, "loss").probabilistic:
        return True
    msg = f"predict_proba needs loss='softmax'; {estimator.loss!r} gives scores, not probabilities"
    raise AttributeError(msg)


def _takes_rows_in_turn(estimator: Any) -> bool:
    """Return True if not all rows are needed at once, else raise AttributeError."""
    if not estimator.standardize:
        return True
    msg = (
        "partial_fit needs standardize=False: mean and variance are those of all rows; it measures "
        "the scale of each feature as rows come in (learning_rate='auto')"
    )
    raise AttributeError(msg)


@dataclass(kw_only=True, eq=False, repr=False)
class LinearClassifier(SharedParameters, FittedAttributes, ClassifierMixin, BaseEstimator):
    """Linear classifier: scores XW + b, trained on any array library and device.

    Minimizes $(1 / Σ s_i) Σ s_i ℓ(x_i W + b, y_i) + α Ω(W)$; the intercept is not penalized. Where
    rows have many labels, or with ``multi_class="one_vs_rest"``, this is done for each label or
    class: a stack of two-class models that share each pass over X.
    α is ``alpha``, or 1 / (C Σ s_i) for scikit-learn's ``C``. By default C is 1:
    ``LinearClassifier()`` minimizes what ``sklearn.linear_model.LogisticRegression()`` minimizes.

    Parameters
    ----------
    loss : str or Loss, default "softmax"
        ``softmax``, ``multiclass_hinge``, ``crammer_singer``, ``squared_hinge``,
        ``squared_error``, ``absolute_error``, or an object with the methods of
        `xplinear.losses.Loss`.
    penalty : str, Penalty or None, default "l2"
        ``none``, ``l2`` ($½‖W‖²$), ``l1``, ``elastic_net``, or an object.
    alpha : float or sequence of float, optional
        Strength of the penalty, at least 0, beside the mean loss: it means the same for any number
        of rows. Of many labels one for all, or one for each. None leaves it to ``C``; in
        `partial_fit`, which does not know how many rows are to come, None is the ``alpha_`` of the
        fit it goes on from, or 1e-4.
    C : float or sequence of float, optional
        The strength as scikit-learn has it, beside the sum of the losses: α = 1 / (C Σ s_i),
        where the sum is over the weights that count, sample times class weights, the number of
        rows without; rows held out by ``early_stopping`` do not count. More than 0; ``np.inf`` is
        no penalty. Default 1 where ``alpha`` is None too; only one of the two can be given.
    multi_class : {"joint", "one_vs_rest"}, default "joint"
        Of three or more classes: one model of all, or for each class a two-class model of it and
        the rest. With ``squared_hinge`` and ``multiclass_hinge`` these are what
        `sklearn.svm.LinearSVC` fits, its penalized intercept apart; with ``softmax`` what
        ``OneVsRestClassifier(LogisticRegression())`` does.
    l1_ratio : float, default 0.15
        Share of L1 in ``elastic_net``.
    fit_intercept : bool, default True
    standardize : bool, default False
        Train on features of mean 0 and variance 1, weighted by ``sample_weight``, as
        `sklearn.preprocessing.StandardScaler` makes them: one ``alpha`` then suits features of
        every scale. X is not copied, ``coef_`` and ``intercept_`` are for X itself, and constant
        features get weight 0. Without an intercept features are scaled but not centred.
    solver : str or Solver, default "auto"
        To the optimum: ``newton`` (few weights), ``newton_cg`` (sparse rows of many features) and
        ``lbfgs`` for smooth losses and penalties, ``proximal_lbfgs`` for smooth losses and
        penalties such as ``l1``, ``interior_point`` (few weights) and ``smoothing`` for kinked
        losses with ``l2``. Others: ``gd``, ``sgd``, or an object such as
        ``xplinear.solvers.SGD(schedule="cosine")``, whose own settings then stand for the six
        parameters below. ``auto`` goes to the optimum where a thousand passes take seconds
        ($n·p·k ≤ 2·10⁷$; of sparse X the numbers stored count in place of $n·p$, of ``newton_cg`` a
        twentieth of them) or many models share them, and nothing asks for SGD
        (``early_stopping``, a number as ``learning_rate``); else it is ``sgd``.
    batch_size : int, optional
        Rows of a step of ``sgd``: by default 64, or 1024 where X is sparse.
    learning_rate : "auto" or float, default "auto"
        "auto" measures the data and needs no tuning or scaling; a number is a plain step.
    momentum : float, default 0.9
    max_iter : int, optional
        Iterations (default the solver's own, 1000 for most) or, for ``sgd``, epochs (default 10,
        more on few rows).
    tol : float, default 1e-4
        How near to the optimum, relative; see the solver. A solver that goes there ends, by
        default, with F within 1e-3 of what there is to gain, F(0) − F*, or with a warning.
    n_iter_no_change : int, default 5
        Patience of ``early_stopping`` and of SGD schedules without an end.
    early_stopping : bool, default False
        Hold out ``validation_fraction`` of the rows, stop when their accuracy no longer
        grows, and keep the best weights.
    validation_fraction : float, default 0.1
    class_weight : dict, "balanced" or None
        Multiplied into the sample weights. Labels are told by their value, from any library. Of
        many labels 0 and 1 are the classes of each; with ``one_vs_rest`` a class weighs so much in
        its own model, as in ``LinearSVC``.
    warm_start : bool, default False
        Start from the weights of the last fit.
    random_state : int, RandomState or None
        Of the shuffles and the held-out rows, the same on every backend.
    backend : str, Backend or None
        ``numpy``, ``cupy``, ``torch``, ``jax``, ``cupy:1``, ``torch:cuda:0``, ``auto``, ...;
        None follows `xplinear.use_backend`, ``XPLINEAR_BACKEND``, or the library and device of X.
    dtype : "float32", "float64" or None
        Of the computation, by name or as a library has it, such as ``torch.float32``; None follows
        X, and computes small problems in float64 before it rounds the result. X itself is never
        converted as a whole.
    precision : {"float32", "tf32"}, default "float32"
        Of the products of float32 matrices during training. "tf32" makes them on the tensor cores
        of a GPU, inputs rounded to 10 bits: for SGD, and not for a small ``tol``. ``objective_``,
        ``certificate_`` and predictions are computed in full float32 all the same. "float32" means
        float32 whatever the settings of CuPy, torch or JAX, which come back after each call.
    accelerate : bool, default True
        Use the backend's own kernels where it has them.
    checkpoint : path-like, Checkpoint or None
        A file that keeps how far the fit is: every minute, after each run of a solver, and at
        Ctrl-C. A fit with the same file, settings and data goes on from there, and ends with the
        bits it would have had; then the file goes. See `xplinear.Checkpoint`. `partial_fit` uses
        none.
    verbose : int, default 0
        1 prints a line per iteration: loss, penalty, seconds, and the time left until
        ``max_iter``. The logger ``xplinear`` is told the same, and more; see `minimize`.

    Attributes
    ----------
    coef_ : Array of shape (k, p), or (1, p) when binary, or (L, p) of L labels
    intercept_ : Array of shape (k,), or (1,) when binary, or (L,)
    classes_ : ndarray of shape (k,)
        The labels, sorted; on the host always, wherever they came from and the model lives. Where
        rows have many, the names of their columns in a table, else 0 … L − 1.
    multilabel_ : bool
        Whether rows have many labels.
    alpha_ : float, or ndarray of shape (L,)
        The strength of the penalty, as given or from ``C``. This and what follows is told of each
        model where there are many, for labels or ``one_vs_rest``.
    solver_ : str
        The solver that ended the fit: what "auto" chose.
    n_iter_ : int, or ndarray of shape (L,)
        Iterations; epochs of ``sgd``.
    objective_ : float, or ndarray of shape (L,)
        F at the solution; with ``standardize``, its penalty is that of the standardized features.
    certificate_ : Certificate
        How far from the optimum F can be at most, and why the fit stopped; not after ``gd`` and
        ``sgd``. See `xplinear.Certificate`.
    history_ : dict of ndarray
        ``loss``, ``penalty``, ``validation_score``, ``step_size``, ``seconds`` per iteration, of
        many models ``(iterations, L)``: those that ended earlier stay as they ended;
        ``pandas.DataFrame(clf.history_)``, polars's, and ``pyarrow.table`` make a table of it.
    params_ : Params
        The same as the solvers see them: ``W (p, 1, c)``, ``b (1, c)``; of many models
        ``W (p, L, c)``, ``b (L, c)``.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
    backend_ : Backend
        Where the attributes live and the computation runs.

    Raises
    ------
    ValueError, TypeError
        If an argument or the data is invalid; what was fitted before stays as it was.
    xplinear.BackendError
        If the chosen backend cannot be used here.

    Notes
    -----
    Every parameter is checked in every fit, used or not. A number may be one of NumPy, or an array
    of no axes of any library; True and False are no numbers, and 0 and 1 no flags.

    Only the ratios of weights matter, and rows of weight 0 do not: they are left out. Features far
    from 0, such as 20000 ± 1, are centred on the way to the solver and in predictions, where an
    intercept makes up for it. Features that the dtype cannot square (about 1e-15 to 1e15 in
    float32, 1e-120 to 1e120 in float64) are multiplied by a power of 2, with a warning: the penalty
    acts on the weights of what comes out. ``coef_`` and ``intercept_`` are for X itself always.

    Predictions take rows where the model is, and from where those of the fit came, and come back
    in the library and on the device of the rows they are for; `to` moves a model. `predict` gives
    labels in that library where it holds every one exactly, else on the host, as strings always.

    Where rows and model are in one library, scores and probabilities are functions that `jax.jit`,
    `jax.grad` and `jax.vmap` go through, as torch's autograd and ``torch.func`` do. A fit records
    no gradients, and computes the same whatever the user's settings of NumPy, torch (autocast)
    and JAX.

    Rows on NumPy that would take more than half of the device's free memory stay there, or in
    their file if they are a memory map, and pass through the device piece by piece: in `fit` once
    per iteration, with the same results. Where memory runs out, blocks of rows are halved.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplinear as xl
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = xl.LinearClassifier(random_state=0).fit(X, y)
    >>> clf.coef_.shape, bool(clf.score(X, y) > 0.98)
    ((10, 64), True)
    """

    loss: str | Loss = field(default=Settings.loss, kw_only=False)
    alpha: float | Sequence[float] | None = Settings.alpha
    C: float | Sequence[float] | None = Settings.C
    early_stopping: bool = Settings.early_stopping
    validation_fraction: float = Settings.validation_fraction
    n_iter_no_change: int = Settings.n_iter_no_change
    warm_start: bool = Settings.warm_start

    @undisturbed(place_of)
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        callbacks: Sequence[Callable[[Progress], bool | None]] = (),
    ) -> Self:
        """Fit to rows ``X (n, p)`` and labels ``y (n,)`` of any type, or many, ``y (n, L)``.

        Parameters
        ----------
        X : array, sparse matrix or table of shape (n, p)
            Truth values, integers, or floats of 16 to 64 bits (longer ones are rounded), of any
            supported library and byte order, read-only or strided.
            Or a sparse matrix or array of SciPy, of any format: it is never made dense, and
            another format than CSR, unsorted or repeated entries cost a copy.
            Or a table of pandas, polars or pyarrow, whose columns are numbers or truth values;
            sparse columns of pandas make a sparse matrix if all are, or where it is much smaller.
            Or a table that is not in memory: the path of a Parquet file or of a folder of them, a
            Dataset of pyarrow or of Hugging Face, whose other columns are numbers, or whose other
            column holds lists of one length; see `xplinear.scan`.
            float16 and bfloat16 (of torch, JAX, ml_dtypes) take half the memory of float32 and
            stay as they are: blocks of rows are converted on the way.
            Or rows in files that need not fit in memory, of which runs are read in every pass:
            anything with ``shape``, ``dtype`` and slices, such as ``numpy.memmap``, an
            ``h5py.Dataset``, a ``zarr.Array`` or a slice of safetensors; or a list of these, one
            after another. Files of up to 256 MiB, and memory maps of up to 1 GiB, are arrays.
            Solvers to the optimum find that of the same rows in an array; ``sgd`` shuffles
            blocks of rows, and then the rows of a few blocks.
            Or batches ``(X, y)`` or ``(X, y, weights)`` in place of X, y and weights: an iterable
            that gives the same ones in every pass, such as a DataLoader of torch, or a function
            that makes such an iterator. Up to 256 MiB of rows are kept from the first pass; of
            more every pass is compared with it, and ``sgd`` shuffles the rows of about 64 MiB as
            they come.
            Or a collection of Dask: an array with its columns in one chunk, or a frame of numbers,
            with y and weights in the same partitions or in memory. Rows stay where they are, and
            what predicts is lazy.
        y : array or column of shape (n,), or array, sparse matrix or table of shape (n, L)
            Numbers or strings, of any library. Or 0 and 1 for each of L labels, of which any may
            be missing: NaN, masked, or None in a table. A label is learnt from the rows it is
            known of. One that all have, or none, is trained with a warning. Or the name of a
            column where X is a table that is not in memory.
        sample_weight : array of shape (n,), or of many labels also (n, L), optional
            At least 0, not all 0; of any library. Or the name of a column, likewise.
        callbacks : sequence of callables
            Each is given a `xplinear.minimize.Progress` per iteration; a true value stops. Its
            ``params`` are those of the features as they are centred and scaled, if they are.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C, once the best so far is kept as if the fit had ended with it; Ctrl-C
            before the first iteration is complete, or any other exception of a callback, leaves
            what was fitted before; so it does where memory holds a part of the labels at a time,
            until the last part is begun.

        Examples
        --------
        >>> rows, tags = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [[0, 1], [1, 0], [1, 1]]
        >>> clf = LinearClassifier(C=10.0).fit(rows, tags)
        >>> clf.predict(rows)
        array([[0, 1],
               [1, 0],
               [1, 1]])
        """
        callbacks = CALLABLES("callbacks", callbacks)
        settings = given(Settings, self)
        X, y, sample_weight = rows_and_targets(X, y, sample_weight)
        with Journal(settings.checkpoint, partial(told, self, settings)) as journal:
            problem = prepare(journal.seeded(settings), X, y, sample_weight, owner=self)
            problem = journal.as_wide(problem)
            warm = settings.warm_start and hasattr(self, "params_")
            before = fitted_of(self) if warm else None
            journal.begin(problem, before)
            shown = [print] if settings.verbose else []
            fitted, interrupt = solve(settings, problem, before, [*callbacks, *shown], journal)
            keep(self, fitted)
            if interrupt is not None:
                try:
                    raise interrupt
                finally:
                    del interrupt  # its traceback holds this frame, and so all rows
        warn_of_no_optimum(problem.objective, fitted)
        return self

    @available_if(_takes_rows_in_turn)
    @undisturbed(place_of)
    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Make one epoch of SGD over the given rows, going on from the last call.

        Parameters
        ----------
        X, y, sample_weight : arrays
            As in `fit`; rows to learn from now.
        classes : array of shape (k,)
            All labels there will ever be; needed in the first call, but where rows have many:
            there they name the columns of y.
        """
        X, y, sample_weight = rows_and_targets(X, y, sample_weight, self)
        before = fitted_of(self) if hasattr(self, "params_") else None
        labels = has_columns(y) if before is None else before.kind == "labels"
        if before is None and classes is None and not labels:
            msg = "classes must be passed on the first call to partial_fit."
            raise ValueError(msg)
        known = None if before is None else before.classes
        if classes is not None:
            named = check_labels(self, classes, name="classes")
            named = named if labels else encode_labels(named, name="classes")[0]
            if known is not None and sorted(named.tolist()) != sorted(known.tolist()):
                msg = (
                    f"classes={named.tolist()} differ from those of the first call, "
                    f"{known.tolist()}"
                )
                raise ValueError(msg)
            known = named if known is None else known
        settings = given(Settings, self)
        if settings.class_weight == "balanced":
            msg = "class_weight='balanced' needs all rows at once; give partial_fit a dict"
            raise ValueError(msg)
        problem = prepare(
            settings, X, y, sample_weight, owner=self, partial=True, classes=known, before=before
        )
        own = problem.objective.data.backend.name
        if before is not None and own != before.backend.name:
            msg = (
                f"partial_fit goes on where the model is, on {before.backend.name}, but these rows "
                f"are on {own}: move X, or go on with a copy of the model, clf.to({own!r})"
            )
            raise ValueError(msg)
        fitted, interrupt = solve_in_turn(settings, problem, before)
        keep(self, fitted)
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt
        return self

    def decision_function(self, X: Any, *, out: Any = None) -> Array:
        """Return scores ``(n, k)``, or ``(n,)`` when binary: positive for the second class.

        Of many labels ``(n, L)``: positive for 1.
        """
        return self._given(X, "decision_function", out)

    def predict(self, X: Any, *, out: Any = None) -> Array:
        """Return the label ``(n,)`` of the largest score of each row; of many 0 or 1 ``(n, L)``.

        Parameters
        ----------
        X : array, or what `fit` takes besides
            Also batches ``X`` or ``(X, y)``, which need come only once.
        out : path, or array, optional
            Where to write the results, block by block, here and in the methods below: a path that
            ends in ``.npy`` or ``.parquet``, or what takes slices, such as ``numpy.memmap``, an
            ``h5py.Dataset`` or a ``zarr.Array``. It is returned.
        """
        if out is not None:
            return predicted_to(self, X, "predict", out)
        codes = predicted(self, X, "predict")
        return codes if self._kind == "labels" else labels_of(codes, self.classes_)

    @available_if(is_probabilistic)
    def predict_proba(self, X: Any, *, out: Any = None) -> Array:
        """Return class probabilities ``(n, k)``; only for losses that estimate them (softmax).

        Of many labels ``(n, L)``: that of 1. Those of one against the rest are normalized to add
        up to 1.
        """
        return self._given(X, "predict_proba", out)

    @available_if(is_probabilistic)
    def predict_log_proba(self, X: Any, *, out: Any = None) -> Array:
        """Return the logarithm of `predict_proba`, exact also for tiny probabilities."""
        return self._given(X, "predict_log_proba", out)

    def _given(self, X: Any, method: str, out: Any) -> Any:
        return predicted(self, X, method) if out is None else predicted_to(self, X, method, out)

    def predict_blocks(self, X: Any, method: str = "predict") -> Iterator[Array]:
        """Yield what a method gives of X, some rows at a time: more than memory holds.

        Parameters
        ----------
        X : array, or what `fit` takes besides
            Rows; also batches ``X`` or ``(X, y)``, which need come only once.
        method : str, default "predict"
            Or ``predict_proba``, ``predict_log_proba`` or ``decision_function``.

        Examples
        --------
        >>> clf = LinearClassifier().fit(np.asarray([[0.0], [1.0]]), ["no", "yes"])
        >>> batches = (np.full((2, 1), float(i)) for i in range(2))
        >>> [labels.tolist() for labels in clf.predict_blocks(batches)]
        [['no', 'no'], ['yes', 'yes']]
        """
        check_is_fitted(self)
        getattr(self, METHOD("method", method))  # which not every loss has
        return results_of(self, X, method)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy on ``X (n, p)`` and ``y (n,)``, weighted if weights are given.

        Of many labels ``y (n, L)`` it is the share of the rows all of whose labels are right.
        """
        check_is_fitted(self)
        X, y, sample_weight = rows_and_targets(X, y, sample_weight, self)
        if self._kind == "labels":
            return self._share_all_right(X, y, sample_weight)
        labels = check_labels(self, y)
        if len({array.dtype.kind in "biuf" for array in (labels, self.classes_)}) == 2:
            msg = (
                f"y holds labels of dtype {labels.dtype}, but the classes that were fitted are "
                f"{self.classes_[:10].tolist()}; give y as numbers, or as text, as they are"
            )
            raise ValueError(msg)
        predicted = computed(self.predict(X))
        check_lengths(predicted, labels)
        backend = backend_of(predicted)
        if backend.refuses(predicted) is not None:
            msg = "score cannot be traced: it counts on the host; trace predict"
            raise TypeError(msg)
        predicted = backend.to_host(predicted)
        weights, _ = weights_of(sample_weight, None, np.zeros(len(labels)), labels)
        near, same = in_dtype(labels, predicted.dtype)
        return float(np.average((predicted == near) & same, weights=weights))

    def _share_all_right(self, X: Any, y: Any, sample_weight: Any) -> float:
        """Return the share of the rows all of whose labels are predicted right."""
        Y = whole_indicator(check_targets(self, y), self.classes_)
        codes = computed(self.predict(X))
        check_lengths(codes, Y)
        right = (backend_of(codes).to_host(codes) == Y).all(axis=1)
        weights, _ = weights_of(sample_weight, None, np.zeros(len(Y)), self.classes_)
        return float(np.average(right, weights=weights))

    def to(self, backend: str | Backend) -> Self:
        """Return a fitted copy on another backend: train on a GPU, serve on a CPU.

        Examples
        --------
        >>> import numpy as np
        >>> clf = LinearClassifier().fit(np.asarray([[0.0], [1.0]]), [0, 1])
        >>> clf.to("numpy").backend_.name
        'numpy'
        """
        fitted = fitted_of(self).to(get_backend(backend).accelerating(self.accelerate))
        settings: dict[str, Any] = {**self.get_params(deep=False), "backend": fitted.backend.name}
        moved = type(self)(**settings)
        keep(moved, fitted)
        return moved

    @classmethod
    def from_params(cls, params: Params, classes: Any, **settings: Any) -> Self:
        """Return a fitted classifier made of given weights.

        Parameters
        ----------
        params : Params
            ``W (p, 1, c)`` and ``b (1, c)``; c is 1 for two classes under a loss of score
            differences, else the number of classes. Or ``W (p, L, c)`` and ``b (L, c)`` of L
            two-class models: of labels or, with ``multi_class="one_vs_rest"``, of classes.
        classes : array of shape (k,) or (L,)
        **settings
            Parameters of the classifier.

        Examples
        --------
        >>> import numpy as np
        >>> import xplinear as xl
        >>> params = xl.Params(np.asarray([[[2.0]]]), np.asarray([[-1.0]]))
        >>> clf = xl.LinearClassifier.from_params(params, ["no", "yes"])
        >>> clf.predict([[0.0], [1.0]])
        array(['no', 'yes'], dtype='<U3')
        """
        clf, classes = cls(**settings), check_classes(classes)
        kind: Kind = "classes"
        if (
            isinstance(params, Params)
            and getattr(params.W, "ndim", 0) == 3
            and params.W.shape[1] > 1
        ):
            joint = checked(clf, "multi_class") == "joint"
            kind = "labels" if joint else "one_vs_rest"
        params = _checked_params(params, *stack_of(kind, classes), checked(clf, "loss"))
        backend = backend_of(params.W).accelerating(clf.accelerate)
        keep(clf, Fitted(params, classes, backend, kind=kind))
        return clf

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Return a fitted classifier that predicts as a fitted one of scikit-learn does.

        Parameters
        ----------
        model : LogisticRegression, SGDClassifier or LinearSVC
            Or a OneVsRestClassifier or MultiOutputClassifier of these. Labels, decision function
            and probabilities are the same; ``C`` or ``alpha`` come along.

        Raises
        ------
        TypeError
            If the model is of another class.
        ValueError
            If its loss has no counterpart.

        Examples
        --------
        >>> from sklearn.linear_model import LogisticRegression
        >>> model = LogisticRegression().fit([[0.0], [1.0], [3.0]], ["low", "low", "high"])
        >>> LinearClassifier.from_sklearn(model).predict([[0.5], [4.0]])
        array(['low', 'high'], dtype='<U4')
        """
        from xplinear.formats.scikit_learn import from_sklearn

        params, classes, settings, names = from_sklearn(model)
        clf = cls.from_params(params, classes, **settings)
        if names is not None:
            clf.feature_names_in_ = names
        return clf

    @classmethod
    def from_sklearn_settings(
        cls, model: Any, n_samples: float | None = None, **settings: Any
    ) -> Self:
        """Return an unfitted classifier that poses the problem a model of scikit-learn poses.

        Exactly, but for three things: the intercept is not penalized here, as it is by
        ``LinearSVC`` and ``solver="liblinear"``; two classes under
        ``multi_class="crammer_singer"`` have one column of weights here, so double ``C`` (halve
        ``alpha``); and tolerances are ours. ``LinearSVC``, ``SGDClassifier`` and
        ``OneVsRestClassifier`` become ``multi_class="one_vs_rest"``; what a
        ``MultiOutputClassifier`` is fitted to, columns of 0 and 1, any classifier here is.

        Parameters
        ----------
        model : LogisticRegression, SGDClassifier or LinearSVC
            Or a OneVsRestClassifier or MultiOutputClassifier of these; fitted or not.
        n_samples : float, optional
            Number of rows it is to be fitted to, or the sum of their weights (times class
            weights), for α = 1 / (C n) in place of C. ``SGDClassifier`` has an α itself.
        **settings
            Other parameters of the classifier; ``alpha`` or ``C`` stand for the model's.

        Examples
        --------
        >>> from sklearn.linear_model import LogisticRegression
        >>> LinearClassifier.from_sklearn_settings(LogisticRegression(C=10.0), tol=1e-6)
        LinearClassifier(C=10.0, tol=1e-06)
        """
        from xplinear.formats.scikit_learn import settings_of

        taken = settings_of(model, n_samples)
        if settings.keys() & {"alpha", "C"}:  # two ways to say one thing
            taken = {name: value for name, value in taken.items() if name not in ("alpha", "C")}
        return cls(**{**taken, **settings})

    def to_sklearn(self) -> Any:
        """Return a fitted classifier of scikit-learn that predicts as this one does.

        It is a ``LogisticRegression`` for ``softmax``, a ``LinearSVC`` for the hinge losses, else
        an ``SGDClassifier``, on NumPy; of many labels, or of softmax against the rest, a
        ``OneVsRestClassifier`` of them. What it would need to be fitted again keeps the defaults.

        Raises
        ------
        ValueError
            If the loss has no counterpart.

        Examples
        --------
        >>> clf = LinearClassifier().fit([[0.0], [1.0], [3.0]], ["low", "low", "high"])
        >>> clf.to_sklearn().predict([[0.5], [4.0]])
        array(['low', 'high'], dtype='<U4')
        """
        from xplinear.formats.scikit_learn import to_sklearn

        fitted = fitted_of(self).to("numpy")
        params = fitted.params
        if fitted.near is not None:  # in float64 the scores cancel less
            near = Params(*(a.astype(np.float64) for a in fitted.near.params))
            params = restandardized(near, fitted.near.standard, None, xp=fitted.backend.xp)
        coef, intercept = linear_coefficients(params)
        return to_sklearn(fitted, coef, intercept, self.loss, fit_intercept=self.fit_intercept)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to an ONNX file, for any program that runs such files.

        Its input is ``X (n, p)`` in float32. Its outputs are ``label (n,)`` and, of the classes in
        the order of ``classes_``, ``probabilities (n, k)`` (softmax) or else ``scores (n, k)``;
        of many labels, ``label (n, L)`` of 0 and 1 and ``probabilities`` or ``scores (n, L)``.
        It needs the package onnx: ``pip install 'xplinear[onnx]'``.
        """
        from xplinear.formats.onnx import to_onnx

        PATH("path", path)
        probabilistic = checked(self, "loss").probabilistic
        to_onnx(fitted_of(self).to("numpy"), path, probabilistic=probabilistic)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to a safetensors file; see `xplinear.load`."""
        PATH("path", path)
        save(self, path)

    def __sklearn_tags__(self) -> Any:
        """Declare what is taken: arrays of every library, sparse matrices, many labels."""
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags


def save(
    clf: LinearClassifier,
    path: str | os.PathLike[str],
    preparation: Mapping[str, Any] | None = None,
) -> None:
    """Write a fitted classifier to one safetensors file, replacing it only when complete.

    Parameters
    ----------
    clf : LinearClassifier
    path : path-like
        Ends in ``.safetensors``, or in nothing.
    preparation : mapping, optional
        How the rows were made from a table, as JSON can hold it; `content_of` gives it back.

    Raises
    ------
    TypeError
        If a parameter or the labels cannot be written without code (an own loss, say).
    OSError
        If the file cannot be written.
    ValueError
        If the name ends as those of another format do.

    Examples
    --------
    >>> import tempfile, os, numpy as np, xplinear as xl
    >>> clf = xl.LinearClassifier().fit(np.asarray([[0.0], [1.0]]), ["no", "yes"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clf.save(os.path.join(folder, "model.safetensors"))
    ...     xl.load(os.path.join(folder, "model.safetensors")).predict([[2.0]])
    array(['yes'], dtype='<U3')
    """
    write(fitted_of(clf).to("numpy"), clf.get_params(deep=False), path, preparation)


def load(path: str | os.PathLike[str], backend: str | Backend = "numpy") -> LinearClassifier:
    """Read a classifier that `save` wrote.

    A model that the command line trained on a table names its features as they were prepared, such
    as ``colour=red``; it refuses a table that is not: ``xplinear predict`` prepares it.

    Parameters
    ----------
    path : path-like
    backend : str or Backend, default "numpy"
        Where the classifier is to live.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, was not written by xplinear, or by a newer version.
    """
    PATH("path", path)
    clf = read(path, _classifier)
    target = get_backend(backend)
    return clf if target.name == "numpy" else clf.to(target)


def _classifier(
    fitted: Fitted, settings: dict[str, Any], content: dict[str, Any]
) -> LinearClassifier:
    if content["preparation"] is not None:  # of the command line: others need no time
        from xplinear.datasets.preparation import Preparation

        # A table that was not prepared has other columns, and is refused.
        preparation = Preparation.from_record(content["preparation"])
        expected = preparation.expected
        if expected is not None and not expected.by_place:
            names = np.asarray(preparation.feature_names, dtype=object)
            fitted = fitted._replace(feature_names=names)
    clf = LinearClassifier(**settings)
    _checked_params(fitted.params, *stack_of(fitted.kind, fitted.classes), checked(clf, "loss"))
    keep(clf, fitted._replace(backend=fitted.backend.accelerating(clf.accelerate)))
    return clf
