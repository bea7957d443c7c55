"""LinearClassifier: the scikit-learn estimator, and the only mutable class."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from xplinear.arguments import (
    CALLABLES,
    DTYPE,
    FLAG,
    NONE,
    PATH,
    TEXT,
    ArgumentError,
    Check,
    check_array,
    check_finite,
    check_same_library,
    instance,
    integer,
    named,
    number,
    one_of,
)
from xplinear.backends import (
    PRECISIONS,
    Backend,
    backend_of,
    chosen_backend,
    get_backend,
    matmul_precision,
)
from xplinear.backends.base import undisturbed
from xplinear.checks.certificate import Certificate, certify
from xplinear.data import ArrayData, Block, Data, Standard, StreamedData, data_of
from xplinear.data.blocks import joined
from xplinear.estimator.standardize import (
    column_bounds,
    composed,
    nearby,
    restandardized,
    standard_of,
)
from xplinear.estimator.validation import (
    Features,
    check_classes,
    check_features,
    check_labels,
    check_lengths,
    check_precision,
    check_two_classes,
    check_weights,
    computation_dtype,
    dtype_name,
    encode_labels,
    in_dtype,
    labels_on,
    weights_and_unit,
)
from xplinear.losses import LOSS, LOSSES, Loss
from xplinear.losses.softmax import softmax
from xplinear.minimize import Interrupted, Progress, Result, minimize
from xplinear.namespace import Array, Namespace, accumulator, array_namespace
from xplinear.objective import Objective, Params, class_scores, columns, scores
from xplinear.penalties import PENALTIES, PENALTY, ElasticNetPenalty, L2Penalty, NoPenalty, Penalty
from xplinear.solvers import (
    GD,
    LBFGS,
    SGD,
    SOLVERS,
    InteriorPoint,
    Newton,
    ProximalLBFGS,
    Smoothing,
    Solver,
)
from xplinear.solvers.interior_point import interior_point_pays
from xplinear.solvers.newton import newton_pays
from xplinear.solvers.protocol import SOLVER

__all__ = [
    "LinearClassifier",
    "Problem",
    "accuracy",
    "at_the_floor",
    "automatic_solver",
    "block_scores",
    "certificate_of",
    "host_parameters",
    "is_probabilistic",
    "linear_coefficients",
    "place_of",
    "shift_features",
]

ARGUMENTS: dict[str, Check] = {
    "loss": named(LOSSES, LOSS),
    "penalty": named(PENALTIES, PENALTY) | NONE,
    "alpha": number("[0, inf)") | NONE,
    "C": number("(0, inf]") | NONE,
    "l1_ratio": number("[0, 1]"),
    "fit_intercept": FLAG,
    "standardize": FLAG,
    "solver": one_of("auto") | named(SOLVERS, SOLVER),
    "batch_size": integer(1),
    "learning_rate": one_of("auto") | number("(0, inf)"),
    "momentum": number("[0, 1)"),
    "max_iter": integer(1) | NONE,
    "tol": number("[0, inf)"),
    "early_stopping": FLAG,
    "validation_fraction": number("(0, 1)"),
    "n_iter_no_change": integer(1),
    "class_weight": instance(Mapping, "a dict") | one_of("balanced") | NONE,
    "warm_start": FLAG,
    "random_state": integer(0) | instance(np.random.RandomState, "a RandomState") | NONE,
    "backend": TEXT | instance(Backend, "a Backend") | NONE,
    "dtype": DTYPE | NONE,
    "precision": one_of(*PRECISIONS),
    "accelerate": FLAG,
    "verbose": integer(0) | FLAG,
}

_TO_THE_OPTIMUM = InteriorPoint, LBFGS, Newton, ProximalLBFGS, Smoothing
_UNCERTIFIED = GD, SGD  # short fits of these would pay much for two more passes
_CHEAP_PASS = 2e7  # n·p·k up to which a thousand passes take seconds
_TRIED = 200  # iterations of L-BFGS before a Newton step is worth what it costs
_AFFORDABLE_STEP = 5e9  # operations: some tenths of a second
_WORSE = 1.01  # than no weights at all, but for the noise of short fits
_SEPARATED = 1e-4  # share of the first loss below which every row is on its side
_FIRST_ALPHA = 1e-4  # of partial_fit, which cannot know how many rows will come


def block_scores(xp: Namespace, block: Block, params: Params) -> Array:
    """Return class scores ``(r, m, k)`` of a block, for `Data.map`."""
    return class_scores(scores(block.X, params, xp=xp), xp=xp)


def _block_decision(xp: Namespace, block: Block, params: Params) -> Array:
    Z = block_scores(xp, block, params)[:, 0, :]
    return Z[:, 1] - Z[:, 0] if Z.shape[1] == 2 else Z


def _block_codes(xp: Namespace, block: Block, params: Params) -> Array:
    return xp.argmax(block_scores(xp, block, params)[:, 0, :], axis=1)


def _block_probabilities(xp: Namespace, block: Block, params: Params) -> Array:
    return softmax(block_scores(xp, block, params)[:, 0, :], xp=xp)


def _block_log_probabilities(xp: Namespace, block: Block, params: Params) -> Array:
    Z = block_scores(xp, block, params)[:, 0, :]
    Z = Z - xp.max(Z, axis=1, keepdims=True)
    return Z - xp.log(xp.sum(xp.exp(Z), axis=1, keepdims=True))


def _block_correct(xp: Namespace, block: Block, params: Params) -> tuple[Array]:
    Z = class_scores(scores(block.X, params, xp=xp), xp=xp)
    y = xp.reshape(block.y, (Z.shape[0], -1))
    correct = xp.astype(xp.argmax(Z, axis=-1) == y, Z.dtype)
    correct = correct if block.s is None else correct * block.s
    return (xp.sum(correct, axis=0),)


def accuracy(objective: Objective, params: Params) -> Array:
    """Return the weighted share ``(m,)`` of the rows whose class has the largest score."""
    static, held = (objective.xp,), objective.m * objective.k
    (correct,) = objective.data.reduce(_block_correct, static, params, scores=held)
    return correct / objective.data.weight_sum


def certificate_of(objective: Objective, solver: Solver, result: Result) -> Certificate | None:
    """Return how far a result can be from the optimum; None where the solver does not go there."""
    return None if isinstance(solver, _UNCERTIFIED) else certify(objective, result, solver)


def automatic_solver(objective: Objective, lanes: int = 1, strengths: int = 1) -> str:
    """Return the name of the solver that finds the optimum of this objective, or ``sgd``.

    Second-order steps are for few weights: those of ``lanes`` models at a time, which follow a
    path of ``strengths``; an interior point follows none, and solves all at once.
    """
    loss, penalty = objective.loss, objective.penalty
    if loss.smooth and penalty.smooth:
        return "newton" if newton_pays(objective, lanes) else "lbfgs"
    if loss.smooth:
        return "proximal_lbfgs"
    if interior_point_pays(objective, lanes * strengths):
        return "interior_point"
    suits = isinstance(penalty, L2Penalty) and hasattr(loss, "smoothed")
    return "smoothing" if suits else "sgd"


def _is_cheap(n: int, p: int, k: int) -> bool:
    return n * p * k <= _CHEAP_PASS


def _of_one_model(history: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {key: a[:, 0] if a.ndim == 2 else a for key, a in history.items()}


def linear_coefficients(params: Params) -> tuple[Array, Array]:
    """Return ``coef (m, k, p)`` and ``intercept (m, k)`` as scikit-learn has them.

    For two classes k is 1: the difference between the second and the first.
    """
    W, b = params
    if W.shape[2] == 2:
        W, b = W[:, :, 1:] - W[:, :, :1], b[:, 1:] - b[:, :1]
    return array_namespace(W).permute_dims(W, (1, 2, 0)), b


def host_parameters(clf: LinearClassifier) -> tuple[Params, Standard | None]:
    """Return what predictions are made with, on the host: the standard of their features, if any.

    Without a standard the parameters are ``params_``. See `shift_features`.
    """
    shifted = clf._shifted  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - in its own file
    fetch = clf.backend_.to_host
    if shifted is None:
        return Params(*map(fetch, clf.params_)), None
    return Params(*map(fetch, shifted.params)), Standard(*map(fetch, shifted.standard))


def shift_features(clf: LinearClassifier, params: Params, standard: Standard) -> None:
    """Let a classifier predict with parameters for centred and scaled features.

    ``params_`` are the same for X, rounded: where features lie far from 0 their scores cancel.
    """
    clf._shifted = _Shifted(params, standard)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def _print_progress(progress: Progress) -> None:
    print(progress)  # noqa: T201 - asked for by `verbose`


def _warn_at_the_floor(
    objective: Objective,
    solver: Any,
    result: Result,
    precision: str,
) -> None:
    """Say so when rounding, not ``tol``, ended the run."""
    floored = np.asarray(result.reasons) == "rounding"
    if floored.any():
        measure = "gap" if np.isfinite(result.lower_bound).any() else "residual"
        measured = f"{measure} {result.residual[floored].max():.0e}"
        message = at_the_floor(objective, precision, measured, solver.tol)
        warnings.warn(message, ConvergenceWarning, stacklevel=4)


def _warn_of_no_optimum(objective: Objective, value: float) -> None:
    """Say so when there is no optimum, or the start was better than what was found."""
    backend, xp = objective.data.backend, objective.xp
    numbers = xp.stack([objective.loss_at_zero()[0], xp.max(objective.alpha)])
    zero, alpha = backend.to_host(numbers).tolist()
    free = alpha == 0.0 or objective.penalty == NoPenalty()
    if free and objective.loss.probabilistic and value < _SEPARATED * zero:
        warnings.warn(
            "a linear function separates the classes, and nothing holds the weights: they grow as "
            "long as the fit goes on; set a penalty",
            ConvergenceWarning,
            stacklevel=4,
        )
    if not value <= _WORSE * zero:
        warnings.warn(
            f"the objective is {value:.4g}, above the {zero:.4g} of zero weights: nothing was "
            "learnt; set learning_rate='auto', standardize=True or another solver",
            ConvergenceWarning,
            stacklevel=4,
        )


def at_the_floor(objective: Objective, precision: str, measured: str, tol: float) -> str:
    """Return what rounding prevented, and what to do."""
    floor, remedy = f"float{objective.xp.finfo(objective.data.dtype).bits}", ""
    if precision == "tf32":
        floor, remedy = precision, "use precision='float32' or "
    elif floor == "float32":
        remedy = "use dtype='float64' or "
    return (
        f"stopped at the {floor} floor: relative {measured}, above tol={tol:g}, and rounding hides "
        f"what would improve the weights; {remedy}raise tol"
    )


class _Shifted(NamedTuple):
    """Parameters for features that are centred and scaled first: those of X would cancel."""

    params: Params
    standard: Standard

    def to(self, backend: Backend, fetch: Callable[[Array], Array]) -> _Shifted:
        """Return the same on another backend."""
        params, standard = ([backend.asarray(fetch(a)) for a in part] for part in self)
        return _Shifted(Params(*params), Standard(*standard))


@dataclass(frozen=True)
class Problem:
    """A fit made ready: everything checked, nothing of the estimator changed yet.

    ``codes (n,)`` are on the host, of all rows; the objective has only the ``rows`` that count,
    all if None. ``shifted`` says that scores must be computed in the standard's features.
    """

    objective: Objective
    features: Features
    classes: np.ndarray[Any, Any]
    source: str  # the backend of X as given
    seed: int
    alpha: float
    held_out: Data | None
    standard: Standard | None
    shifted: bool
    codes: np.ndarray[Any, Any]
    rows: np.ndarray[Any, Any] | None
    weight_unit: float  # log2 of the weight as given that counts 1
    dtype: Any  # of the results; small problems are computed in float64

    def unstandardized(self, params: Params) -> Params:
        """Return what the solver found, as parameters for X itself, in the dtype of results."""
        params, xp = self.held(params), self.objective.xp
        if self.standard is None:
            return params
        return restandardized(params, self.standard, None, xp=xp)

    def held(self, params: Params) -> Params:
        """Return the parameters in the dtype of results."""
        return Params(*(self.objective.xp.astype(a, self.dtype, copy=False) for a in params))

    def rounded(self, result: Result) -> Result:
        """Return the result at the parameters that the dtype of results can hold."""
        xp, wide = self.objective.xp, self.objective.data.dtype
        params = (xp.astype(a, wide, copy=False) for a in self.held(result.params))
        return replace(result, params=Params(*params))

    @property
    def left_out(self) -> np.ndarray[Any, Any]:
        """The rows that do not count."""
        return np.setdiff1d(np.arange(len(self.codes)), self.counted(np.arange(len(self.codes))))

    def counted(self, per_row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return of an array over all rows what the rows that count have."""
        return per_row if self.rows is None else per_row[self.rows]

    def places(self, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return where the given rows of X are among those that count, without the others."""
        if self.rows is None:
            return index
        place = np.full(len(self.codes), -1)
        place[self.rows] = np.arange(len(self.rows))
        return place[index][place[index] >= 0]


def _scaled(number: float, exponent: float) -> float:
    """Return number · 2**exponent, infinite where float64 ends."""
    with np.errstate(over="ignore"):
        return float(np.float64(number) * np.exp2(exponent))


def _counted_rows(
    weights: np.ndarray[Any, Any] | None, dtype: Any, backend: Backend
) -> np.ndarray[Any, Any] | None:
    """Return the rows whose weight, of at most 1, is not 0 in this dtype; None if all are."""
    if weights is None:
        return None
    counts = weights >= float(backend.xp.finfo(dtype).smallest_normal)
    return None if counts.all() else np.flatnonzero(counts)


def _rows(X: Array, own: Backend, backend: Backend) -> Array:
    """Return X on the backend, or on the host where it comes from another library."""
    return backend.asarray(X) if own.xp is backend.xp and own.name != "numpy" else own.fetch(X)


def _check_conversion(X: Array, dtype: Any, backend: Backend) -> None:
    """Raise ValueError if rows in float64 are beyond a model in float32."""
    most = float(backend.xp.finfo(dtype).max)
    wide = most < np.finfo(np.float64).max and dtype_name(X) == "float64"
    if wide and not backend.traced(X):
        low, high = column_bounds(X, backend=backend)
        beyond = np.maximum(-low, high) > most
        if beyond.any():
            column = np.flatnonzero(beyond)[0]
            msg = (
                f"X holds values that float32 cannot hold, in which the model computes: column "
                f"{column} goes from {low[column]:g} to {high[column]:g}"
            )
            raise ValueError(msg)


def _check_alpha(alpha: float, info: Any) -> None:
    """Raise ValueError if a strength is beyond the dtype of the computation."""
    if alpha > float(info.max):
        msg = (
            f"alpha = {alpha:g} is beyond float{info.bits}; where it is not given, it is "
            "1 / (C n), n the sum of the weights: scale them, or give alpha"
        )
        raise ValueError(msg)


def _check_reach(
    low: np.ndarray[Any, Any], high: np.ndarray[Any, Any], info: Any, backend: Backend
) -> None:
    """Raise ValueError if a dtype cannot hold some columns of X, or not what varies in them."""
    largest = np.maximum(np.abs(low), np.abs(high))
    lost = (largest > float(info.max)) | ((largest > 0) & (largest < float(info.smallest_normal)))
    lost = lost | ((high > low) & (0.5 * high - 0.5 * low < float(info.eps) * largest))
    if lost.any():
        column = np.flatnonzero(lost)[0]
        msg = (
            f"X holds values that float{info.bits} cannot hold, or not tell apart: column {column} "
            f"goes from {low[column]:g} to {high[column]:g}; scale and centre it"
            + ", or compute in float64: jax.config.update('jax_enable_x64', True)"
            * (backend.name.startswith("jax") and info.bits == 32)
        )
        raise ValueError(msg)


def _check_given(params: Params, k: int, loss: Loss) -> None:
    """Raise ArgumentError if parameters are not those of one model of k classes."""
    instance(Params, "Params(W, b)")("params", params)
    for name, a in params._asdict().items():
        check_array(f"params: {name}", a)
        check_finite(f"params: {name}", a)
    check_same_library("params: b", params.b, "W", params.W)
    c, shapes = columns(loss, k), (tuple(params.W.shape), tuple(params.b.shape))
    if shapes != ((*shapes[0][:1], 1, c), (1, c)):
        msg = (
            f"params must have W of shape (p, 1, {c}) and b of shape (1, {c}) for {k} classes "
            f"under {loss!r}, got {shapes[0]} and {shapes[1]}"
        )
        raise ArgumentError(msg)


def is_probabilistic(estimator: Any) -> bool:
    """Return True if the loss of an estimator gives probabilities, else raise AttributeError."""
    if ARGUMENTS["loss"]("loss", estimator.loss).probabilistic:
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


def place_of(estimator: Any, X: Any = None, *_: Any, **__: Any) -> Backend:
    """Return where `fit` and `partial_fit` compute."""
    return chosen_backend(estimator.backend) or backend_of(X)


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """Linear classifier: scores XW + b, trained on any array library and device.

    Minimizes $(1 / Σ s_i) Σ s_i ℓ(x_i W + b, y_i) + α Ω(W)$; the intercept is not penalized.
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
    alpha : float, optional
        Strength of the penalty, at least 0, beside the mean loss: it means the same for any number
        of rows. None leaves it to ``C``; in `partial_fit`, which does not know how many rows are
        to come, None is the ``alpha_`` of the fit it goes on from, or 1e-4.
    C : float, optional
        The strength as scikit-learn has it, beside the sum of the losses: α = 1 / (C Σ s_i),
        where the sum is over the weights that count, sample times class weights, the number of
        rows without; rows held out by ``early_stopping`` do not count. More than 0; ``np.inf`` is
        no penalty. Default 1 where ``alpha`` is None too; only one of the two can be given.
    l1_ratio : float, default 0.15
        Share of L1 in ``elastic_net``.
    fit_intercept : bool, default True
    standardize : bool, default False
        Train on features of mean 0 and variance 1, weighted by ``sample_weight``, as
        `sklearn.preprocessing.StandardScaler` makes them: one ``alpha`` then suits features of
        every scale. X is not copied, ``coef_`` and ``intercept_`` are for X itself, and constant
        features get weight 0. Without an intercept features are scaled but not centred.
    solver : str or Solver, default "auto"
        To the optimum: ``newton`` (few weights) and ``lbfgs`` for smooth losses and penalties,
        ``proximal_lbfgs`` for smooth losses and penalties such as ``l1``, ``interior_point`` (few
        weights) and ``smoothing`` for kinked losses with ``l2``. Others: ``gd``, ``sgd``, or an
        object such as ``xplinear.solvers.SGD(schedule="cosine")``, whose own settings then stand
        for the six parameters below. ``auto`` goes to the optimum where a thousand passes
        take seconds ($n·p·k ≤ 2·10⁷$) and nothing asks for SGD (``early_stopping``, a number as
        ``learning_rate``); else it is ``sgd``.
    batch_size : int, default 64
    learning_rate : "auto" or float, default "auto"
        "auto" measures the data and needs no tuning or scaling; a number is a plain step.
    momentum : float, default 0.9
    max_iter : int, optional
        Iterations (default 1000) or, for ``sgd``, epochs (default 10, more on few rows).
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
        Multiplied into the sample weights. Labels are told by their value, from any library.
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
    verbose : int, default 0
        1 prints a line per iteration: loss, penalty, seconds, and the time left until
        ``max_iter``. The logger ``xplinear`` is told the same, and more; see `minimize`.

    Attributes
    ----------
    coef_ : Array of shape (k, p), or (1, p) when binary
    intercept_ : Array of shape (k,), or (1,) when binary
    classes_ : ndarray of shape (k,)
        The labels, sorted; on the host always, wherever they came from and the model lives.
    alpha_ : float
        The strength of the penalty, as given or from ``C``.
    solver_ : str
        The solver that ended the fit: what "auto" chose.
    n_iter_ : int
        Iterations; epochs of ``sgd``.
    objective_ : float
        F at the solution; with ``standardize``, its penalty is that of the standardized features.
    certificate_ : Certificate
        How far from the optimum F can be at most, and why the fit stopped; not after ``gd`` and
        ``sgd``. See `xplinear.Certificate`.
    history_ : dict of ndarray
        ``loss``, ``penalty``, ``validation_score``, ``step_size``, ``seconds`` per iteration;
        ``pandas.DataFrame(clf.history_)``, polars's, and ``pyarrow.table`` make a table of it.
    params_ : Params
        The same as the solvers see them: ``W (p, 1, c)``, ``b (1, c)``.
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

    def __init__(
        self,
        loss: str | Loss = "softmax",
        *,
        penalty: str | Penalty | None = "l2",
        alpha: float | None = None,
        C: float | None = None,
        l1_ratio: float = 0.15,
        fit_intercept: bool = True,
        standardize: bool = False,
        solver: str | Solver = "auto",
        batch_size: int = 64,
        learning_rate: Literal["auto"] | float = "auto",
        momentum: float = 0.9,
        max_iter: int | None = None,
        tol: float = 1e-4,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        class_weight: Mapping[Any, float] | str | None = None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        backend: str | Backend | None = None,
        dtype: str | None = None,
        precision: Literal["float32", "tf32"] = "float32",
        accelerate: bool = True,
        verbose: int = 0,
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.C = C
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.solver = solver
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
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
        callbacks: Sequence[Callable[[Progress], bool | None]] = (),
    ) -> Self:
        """Fit to rows ``X (n, p)`` and labels ``y (n,)`` of any type.

        Parameters
        ----------
        X : array or table of shape (n, p)
            Truth values, integers, or floats of 16 to 64 bits (longer ones are rounded), of any
            supported library and byte order, read-only or strided; not sparse.
            Or a table of pandas, polars or pyarrow, whose columns are numbers or truth values.
            float16 and bfloat16 (of torch, JAX, ml_dtypes) take half the memory of float32 and
            stay as they are: blocks of rows are converted on the way.
        y : array or column of shape (n,)
            Numbers or strings, of any library.
        sample_weight : array of shape (n,), optional
            At least 0, not all 0; of any library.
        callbacks : sequence of callables
            Each is given a `xplinear.minimize.Progress` per iteration; a true value stops. Its
            ``params`` are those of the features as they are centred and scaled, if they are.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C, once the best so far is kept as if the fit had ended with it; Ctrl-C
            before the first iteration is complete, or any other exception of a callback, leaves
            what was fitted before.
        """
        callbacks = CALLABLES("callbacks", callbacks)
        problem = self._problem(X, y, sample_weight)
        objective = problem.objective
        solver = self._solver(objective, problem.seed)
        start = None
        if self.warm_start and hasattr(self, "params_"):
            start = self._warm_params(problem)
        callbacks = [*callbacks, *([_print_progress] if self.verbose else [])]
        solver, newton = self._with_newton(objective, solver)
        result, interrupt = self._minimized(
            objective,
            solver,
            start,
            validation_score=partial(accuracy, replace(objective, data=problem.held_out))
            if problem.held_out
            else None,
            patience=self.n_iter_no_change,
            min_improvement=self.tol,
            callbacks=callbacks,
        )
        before = None
        if newton and interrupt is None and result.reasons[0] in ("max_iter", "rounding"):
            before, solver = _of_one_model(result.history), newton
            result, interrupt = self._minimized(
                objective, newton, result.params, callbacks=callbacks
            )
        if result.reason == "max_iter" and not result.converged.all():
            made = result.n_iter + (0 if before is None else len(before["seconds"]))
            warnings.warn(
                f"stopped after max_iter={made} iterations before tol={self.tol} was reached: more "
                "would improve the weights; raise max_iter, or tol if they are good enough",
                ConvergenceWarning,
                stacklevel=3,
            )
        if isinstance(solver, _TO_THE_OPTIMUM):
            _warn_at_the_floor(objective, solver, result, self.precision)
        result = problem.rounded(result)
        certificate = None
        try:
            certificate = certificate_of(objective, solver, result)
        except KeyboardInterrupt as error:
            interrupt = interrupt or error
        self._keep(problem, solver, result, certificate, before)
        if interrupt is not None:
            raise interrupt
        _warn_of_no_optimum(objective, self.objective_)
        return self

    @available_if(_takes_rows_in_turn)
    @undisturbed(place_of)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Make one epoch of SGD over the given rows, going on from the last call.

        Parameters
        ----------
        X, y, sample_weight : arrays
            As in `fit`; rows to learn from now.
        classes : array of shape (k,)
            All labels there will ever be; needed in the first call.
        """
        fitted = hasattr(self, "params_")
        if not fitted and classes is None:
            msg = "classes must be passed on the first call to partial_fit."
            raise ValueError(msg)
        known = self.classes_ if fitted else None
        if classes is not None:
            given, _ = encode_labels(check_labels(self, classes, name="classes"), name="classes")
            if known is not None and given.tolist() != sorted(known.tolist()):
                msg = (
                    f"classes={given.tolist()} differ from those of the first call, "
                    f"{known.tolist()}"
                )
                raise ValueError(msg)
            known = given if known is None else known
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            msg = "class_weight='balanced' needs all rows at once; give partial_fit a dict"
            raise ValueError(msg)
        problem = self._problem(X, y, sample_weight, classes=known)
        objective = problem.objective
        own = objective.data.backend.name
        if fitted and own != self.backend_.name:
            msg = (
                f"partial_fit goes on where the model is, on {self.backend_.name}, but these rows "
                f"are on {own}: move X, or go on with a copy of the model, clf.to({own!r})"
            )
            raise ValueError(msg)
        solver = self._solver(objective, problem.seed, partial=True)
        start = self._warm_params(problem) if fitted else objective.zeros()
        previous = getattr(self, "_sgd_state", None)
        if previous is not None and previous.moments is not None:
            # Each call's weights are told in a unit of its own.
            factor = 2.0 ** np.clip(self._weight_unit - problem.weight_unit, -60.0, 60.0)
            moments = previous.moments
            moments = moments._replace(
                weight=float(factor) * moments.weight, deviation=float(factor) * moments.deviation
            )
            previous = previous._replace(moments=moments)
        with matmul_precision(self.precision):
            state = solver.init(objective, start, previous)
        result, interrupt = self._minimized(objective, solver, state=state)
        before = getattr(self, "history_", None) if previous is not None else None
        self._keep(problem, solver, result, before=before, sgd_state=result.state)
        if interrupt is not None:
            raise interrupt
        return self

    def decision_function(self, X: Any) -> Array:
        """Return scores ``(n, k)``, or ``(n,)`` when binary: positive for the second class."""
        return self._predicted(X, "decision_function", _block_decision)

    def predict(self, X: Any) -> Array:
        """Return the label ``(n,)`` of the largest score of each row."""
        codes = self._predicted(X, "predict", _block_codes)
        backend = backend_of(codes)
        if backend.name == "numpy":
            return self.classes_[codes]
        labels, near = labels_on(backend, self.classes_), backend.near(codes)
        if labels is not None:
            if isinstance(near, np.ndarray):
                return backend.asarray(self.classes_[near])
            return backend.xp.take(labels, codes, axis=0)
        if backend.traced(codes):
            msg = (
                f"predict cannot be traced: classes_ are {self.classes_.dtype}, which "
                f"{backend.name} does not hold; trace decision_function"
            )
            raise TypeError(msg)
        return self.classes_[backend.to_host(codes)]

    @available_if(is_probabilistic)
    def predict_proba(self, X: Any) -> Array:
        """Return class probabilities ``(n, k)``; only for losses that estimate them (softmax)."""
        return self._predicted(X, "predict_proba", _block_probabilities)

    @available_if(is_probabilistic)
    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`, exact also for tiny probabilities."""
        return self._predicted(X, "predict_log_proba", _block_log_probabilities)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy on ``X (n, p)`` and ``y (n,)``, weighted if weights are given."""
        check_is_fitted(self)
        labels = check_labels(self, y)
        if len({array.dtype.kind in "biuf" for array in (labels, self.classes_)}) == 2:
            msg = (
                f"y holds labels of dtype {labels.dtype}, but the classes that were fitted are "
                f"{self.classes_[:10].tolist()}; give y as numbers, or as text, as they are"
            )
            raise ValueError(msg)
        predicted = self.predict(X)
        check_lengths(predicted, labels)
        backend = backend_of(predicted)
        if backend.refuses(predicted) is not None:
            msg = "score cannot be traced: it counts on the host; trace predict"
            raise TypeError(msg)
        predicted = backend.to_host(predicted)
        weights = check_weights(sample_weight, None, np.zeros(len(labels)), labels)
        near, same = in_dtype(labels, predicted.dtype)
        return float(np.average((predicted == near) & same, weights=weights))

    def to(self, backend: str | Backend) -> Self:
        """Return a fitted copy on another backend: train on a GPU, serve on a CPU.

        Examples
        --------
        >>> import numpy as np
        >>> clf = LinearClassifier().fit(np.asarray([[0.0], [1.0]]), [0, 1])
        >>> clf.to("numpy").backend_.name
        'numpy'
        """
        check_is_fitted(self)
        target = get_backend(backend)
        params = Params(*(target.asarray(self.backend_.to_host(a)) for a in self.params_))
        settings = {**self.get_params(deep=False), "backend": target.name}
        moved = self.from_params(params, self.classes_, **settings)
        if self._shifted is not None:
            shift_features(moved, *self._shifted.to(target, self.backend_.to_host))
        fitted = "solver_", "n_iter_", "objective_", "certificate_", "history_", "feature_names_in_"
        for name in fitted:
            if hasattr(self, name):
                setattr(moved, name, getattr(self, name))
        if hasattr(self, "alpha_"):
            moved.alpha_ = self.alpha_
        return moved

    @classmethod
    def from_params(cls, params: Params, classes: Any, **settings: Any) -> Self:
        """Return a fitted classifier made of given weights.

        Parameters
        ----------
        params : Params
            ``W (p, 1, c)`` and ``b (1, c)``; c is 1 for two classes under a loss of score
            differences, else the number of classes.
        classes : array of shape (k,)
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
        clf = cls(**settings)
        clf.classes_ = check_classes(classes)
        _check_given(params, len(clf.classes_), clf._plain("loss"))
        clf.n_features_in_ = params.W.shape[0]
        clf._set_params(backend_of(params.W), params)
        return clf

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Return a fitted classifier that predicts as a fitted one of scikit-learn does.

        Parameters
        ----------
        model : LogisticRegression, SGDClassifier or LinearSVC
            Labels and decision function are the same, and probabilities where they are those of
            softmax. Those of one-vs-rest over three or more classes are not: such a model keeps
            its scores under ``squared_hinge``, which offers none. ``C`` or ``alpha`` come along.

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

        return cast(Self, from_sklearn(cls, model))

    @classmethod
    def from_sklearn_settings(
        cls, model: Any, n_samples: float | None = None, **settings: Any
    ) -> Self:
        """Return an unfitted classifier that poses the problem a model of scikit-learn poses.

        Exactly, but for four things: the intercept is not penalized here, as it is by
        ``LinearSVC`` and ``solver="liblinear"``; three or more classes share one problem here,
        where ``SGDClassifier`` and ``LinearSVC`` solve one for each; two classes under
        ``multi_class="crammer_singer"`` have one column of weights here, so double ``C`` (halve
        ``alpha``); and tolerances are ours.

        Parameters
        ----------
        model : LogisticRegression, SGDClassifier or LinearSVC
            Fitted or not.
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
        an ``SGDClassifier``, on NumPy. What it would need to be fitted again keeps the defaults.

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

        return to_sklearn(self)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to an ONNX file, for any program that runs such files.

        Its input is ``X (n, p)`` in float32. Its outputs are ``label (n,)`` and, of the classes in
        the order of ``classes_``, ``probabilities (n, k)`` (softmax) or else ``scores (n, k)``.
        It needs the package onnx: ``pip install 'xplinear[onnx]'``.
        """
        from xplinear.formats.onnx import to_onnx

        PATH("path", path)
        to_onnx(self, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to a safetensors file; see `xplinear.load`."""
        from xplinear.formats.model_file import save

        PATH("path", path)
        save(self, path)

    def __sklearn_tags__(self) -> Any:
        """Declare array API support."""
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags

    # What follows prepares and keeps; the maths is elsewhere.

    _shifted: _Shifted | None = None
    _source = "numpy"  # the backend of the rows of the last fit: predictions take such rows too

    def _plain(self, name: str) -> Any:
        """Return a parameter, checked, as plain Python has it; a loss by name as an object."""
        return ARGUMENTS[name](name, getattr(self, name))

    def _check_parameters(self) -> None:
        for name in ARGUMENTS:
            self._plain(name)
        self._check_strength()

    @property
    def _stochastic(self) -> bool:
        """Whether something asks for SGD."""
        return bool(self.early_stopping) or not isinstance(self.learning_rate, str)

    def _check_strength(self) -> None:
        if self.alpha is not None and self.C is not None:
            msg = (
                f"alpha={self.alpha!r} and C={self.C!r} are two ways to say how strong the penalty "
                "is, alpha = 1 / (C n): give one of them, the other is None"
            )
            raise ValueError(msg)
        if self._unpenalized and self.solver in ("interior_point", "smoothing"):
            name, value = ("C", "inf") if self.alpha is None else ("alpha", "0")
            least = "finite" if self.alpha is None else "more than 0"
            msg = (
                f"{name} must be {least} for solver={self.solver!r}, got {value}; use solver='sgd'"
            )
            raise ValueError(msg)

    @property
    def _unpenalized(self) -> bool:
        """Whether α is 0, whatever the data."""
        return self._plain("alpha") == 0.0 or self._plain("C") == math.inf

    def _strength(self, total: float, *, partial: bool) -> float:
        """Return α, given or from C and the sum of the weights."""
        if self.alpha is not None:
            return self._plain("alpha")
        if not partial:
            with np.errstate(all="ignore"):  # C = inf
                C = 1.0 if self.C is None else self._plain("C")
                return float(1.0 / (C * np.float64(total)))
        if self.C is not None:
            msg = (
                f"partial_fit cannot use C={self.C!r}: alpha = 1 / (C n) needs the number of all "
                "rows to come; give alpha instead (after fit, set_params(C=None) goes on at alpha_)"
            )
            raise ValueError(msg)
        return getattr(self, "alpha_", _FIRST_ALPHA)

    def _penalty(self) -> Penalty:
        if self.penalty == "elastic_net":
            return ElasticNetPenalty(self.l1_ratio)
        return NoPenalty() if self.penalty is None else self._plain("penalty")

    def _solver(self, objective: Objective, seed: int, *, partial: bool = False) -> Any:
        name, data = self.solver, objective.data
        if name == "auto":
            optimum = automatic_solver(objective)
            cheap = _is_cheap(data.n, data.p, objective.k)
            lost = optimum in ("interior_point", "smoothing") and self._unpenalized
            name = "sgd" if partial or self._stochastic or not cheap or lost else optimum
        limit = 1000 if self.max_iter is None else self._plain("max_iter")
        rate = self._plain("learning_rate")
        if name == "gd" and not partial:
            return GD(limit, self.tol, "backtracking" if rate == "auto" else rate)
        for kind in _TO_THE_OPTIMUM:
            if isinstance(name, str) and SOLVERS.get(name) is kind and not partial:
                return kind(limit, self.tol)
        if name == "sgd":
            solver = SGD(
                self.max_iter,
                self.tol,
                self.n_iter_no_change,
                self.batch_size,
                rate,
                momentum=self.momentum,
                seed=seed,
            )
        else:
            solver = ARGUMENTS["solver"]("solver", name)
        if partial:
            if not isinstance(solver, SGD):
                msg = f"partial_fit needs solver='sgd' (or 'auto'), got {self.solver!r}"
                raise ValueError(msg)
            return replace(solver, max_iter=1, schedule="inverse_scaling", average=False)
        return solver

    def _with_newton(self, objective: Objective, solver: Any) -> tuple[Any, Newton | None]:
        """Return the solver and what goes on where it does not get there; None if nothing can.

        Where L-BFGS is slow, its metric does not suit the data: exact Hessians do.
        """
        if self.solver != "auto" or not isinstance(solver, LBFGS):
            return solver, None
        rest = solver.max_iter - _TRIED
        if rest < 1 or not newton_pays(objective, most=_AFFORDABLE_STEP):
            return solver, None
        return replace(solver, max_iter=_TRIED), Newton(rest, self.tol)

    def _problem(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        classes: np.ndarray[Any, Any] | None = None,
        *,
        scored: bool = False,
    ) -> Problem:
        """Check everything; ``classes`` are given by `partial_fit`, which may go on from before.

        Rows of weight 0 are left out; not those of class weight 0 where rows are ``scored`` too.
        """
        self._check_parameters()
        partial = classes is not None
        reset = not (partial and hasattr(self, "params_"))
        loss, penalty = self._plain("loss"), self._penalty()
        backend = chosen_backend(self.backend)
        labels = check_labels(self, y)
        X, features = check_features(self, X, reset=reset)
        check_lengths(X, labels)
        own = backend_of(X)
        backend = backend or own
        if not (self.accelerate and os.environ.get("XPLINEAR_ACCELERATE") != "0"):
            backend = backend.reference()
        classes, codes = encode_labels(labels, classes)
        weights, unit = weights_and_unit(sample_weight, self.class_weight, codes, classes)
        if not partial:
            check_two_classes(weights, codes, classes)
        seed = self._seed()
        rows = _rows(X, own, backend)
        dtype, result_dtype = self._dtypes(rows, len(classes), backend, partial=partial)
        # Class weights are about the loss: neither a score nor a scaler before the classifier
        # sees them.
        unclassed = check_weights(sample_weight, None, codes, classes)
        visible = _counted_rows(unclassed, dtype, backend)
        counted = visible if scored else _counted_rows(weights, dtype, backend)

        def part(index: np.ndarray[Any, Any] | None, weights: Any) -> ArrayData | StreamedData:
            """Return some rows; of weights only the ratios count, and equal ones need none."""
            own = None if weights is None else weights if index is None else weights[index]
            own = None if own is None or own.min() == own.max() else own / own.max()
            return data_of(
                rows,
                codes if index is None else codes[index],
                None if own is None else own[:, None],
                dtype,
                index,
                backend=backend,
                classes=len(classes),
            )

        scaled = visible if self.standardize else counted
        if partial and self._shifted is not None:  # it goes on in the same coordinates
            standard = self._shifted.to(backend, self.backend_.to_host).standard
        else:
            centre = self.fit_intercept and not partial
            standard = self._nearby(rows, scaled, result_dtype, backend, centre=centre)
        shifted, held_out, train = standard is not None, None, weights
        if self.early_stopping and not partial:
            all_rows = np.arange(len(codes)) if counted is None else counted
            index = self._held_out(all_rows, codes[all_rows], seed)
            held_out = part(index, weights)
            # Weight 0 instead of a copy of all the other rows.
            train = np.ones(len(codes)) if weights is None else weights.copy()
            train[index] = 0.0
        total = len(codes) if train is None else _scaled(train.sum(), unit)
        alpha = self._strength(total, partial=partial)
        _check_alpha(alpha, backend.xp.finfo(dtype))
        data = part(counted, train)
        objective = Objective(
            backend.accelerated(loss),
            penalty,
            backend.asarray(np.asarray([alpha], dtype=np.float64), dtype),
            replace(data, standard=standard),
            len(classes),
            self.fit_intercept,
        )
        if self.standardize:
            seen = replace(part(scaled, unclassed), standard=standard)
            standard = composed(standard, standard_of(replace(objective, data=seen)))
            objective = replace(objective, data=replace(data, standard=standard))
        return Problem(
            objective=objective,
            features=features,
            classes=classes,
            source=own.name,
            seed=seed,
            alpha=alpha,
            held_out=held_out and replace(held_out, standard=standard),
            standard=standard,
            shifted=shifted,
            codes=codes,
            rows=counted,
            weight_unit=unit,
            dtype=result_dtype,
        )

    def _seed(self) -> int:
        given = self._plain("random_state")
        return given if isinstance(given, int) else check_random_state(given).randint(2**31 - 1)

    def _dtypes(self, rows: Array, k: int, backend: Backend, *, partial: bool) -> tuple[Any, Any]:
        """Return the dtype to compute in and that of the results."""
        xp = backend.xp
        dtype = computation_dtype(rows, self.dtype, backend)
        check_precision(self.precision, dtype, backend)
        cheap = _is_cheap(rows.shape[0], rows.shape[1], k)
        first_order = self.solver in ("sgd", "gd") or isinstance(self.solver, _UNCERTIFIED)
        exact = not (first_order or partial or self._stochastic)
        if self.dtype is None and self.precision == "float32" and cheap and exact:
            # On few rows float64 costs little, and the rounding of float32 as many iterations.
            return accumulator(xp.empty((0,), **backend.kind(dtype)), xp=xp), dtype
        return dtype, dtype

    def _held_out(
        self, rows: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], seed: int
    ) -> np.ndarray[Any, Any]:
        """Return the rows that `early_stopping` holds out, of every class its share."""
        size, state = self._plain("validation_fraction"), seed % 2**32
        try:
            parts = train_test_split(rows, test_size=size, stratify=codes, random_state=state)
        except ValueError as error:
            msg = (
                f"early_stopping cannot hold out validation_fraction={size} of {len(rows)} rows "
                f"({error}): both parts need rows of every class; set another validation_fraction, "
                "or early_stopping=False"
            )
            raise ValueError(msg) from error
        return np.asarray(parts[1])

    def _nearby(
        self,
        X: Array,
        rows: np.ndarray[Any, Any] | None,
        dtype: Any,
        backend: Backend,
        *,
        centre: bool,
    ) -> Standard | None:
        """Return what brings the features within reach of the arithmetic; None where they are.

        Raises
        ------
        ValueError
            If the device has no dtype for the values of X.
        """
        xp = backend.xp
        low, high = column_bounds(X, rows, backend=backend)
        bits, wide, stored = xp.finfo(dtype).bits, dtype, dtype_name(X)
        if stored.endswith("float64"):
            wide = accumulator(xp.empty((0,), **backend.kind(dtype)), xp=xp)
        found = nearby(low, high, bits, xp.finfo(wide).bits, centre=centre)
        if found is None:
            return None
        if "float" not in stored or (stored.endswith("float64") and xp.finfo(wide).bits < 64):
            _check_reach(low, high, xp.finfo(wide), backend)
        if not self.standardize:
            found.warn(low, high, bits)
        return found.standard(wide, backend=backend)

    def _warm_params(self, problem: Problem) -> Params:
        start = problem.objective.zeros()
        known, shape = list(self.classes_), tuple(self.params_.W.shape)
        if shape != tuple(start.W.shape) or known != list(problem.classes):
            msg = (
                f"warm_start needs the features and classes of the last fit: {self.n_features_in_} "
                f"features, classes {self.classes_[:10].tolist()}; set warm_start=False"
            )
            raise ValueError(msg)
        backend, dtype = problem.objective.data.backend, problem.objective.data.dtype
        params, standard = self.params_, None
        if self._shifted is not None:
            params = self._shifted.params
            standard = self._shifted.to(backend, self.backend_.to_host).standard
        start = Params(*(backend.asarray(self.backend_.to_host(a), dtype) for a in params))
        start = restandardized(start, standard, problem.standard, xp=backend.xp)
        return start if self.fit_intercept else Params(start.W, backend.xp.zeros_like(start.b))

    def _minimized(
        self, objective: Objective, solver: Any, start: Params | None = None, **settings: Any
    ) -> tuple[Result, KeyboardInterrupt | None]:
        """Return what `minimize` finds, and the Ctrl-C to raise again once it is kept."""
        with matmul_precision(self.precision):
            try:
                return minimize(objective, solver, start, **settings), None
            except Interrupted as interrupt:
                return interrupt.result, interrupt

    def _keep(
        self,
        problem: Problem,
        solver: Any,
        result: Result,
        certificate: Certificate | None = None,
        before: Mapping[str, np.ndarray[Any, Any]] | None = None,
        sgd_state: Any = None,
    ) -> None:
        """Take over a result; ``sgd_state`` is what `partial_fit` goes on from."""
        objective = problem.objective
        if certificate is None:
            value = float(objective.data.backend.to_host(objective.value(result.params))[0])
        else:
            value = float(certificate.objective[0])
        history = _of_one_model(result.history)
        if before is not None:
            history["seconds"] = history["seconds"] + before["seconds"][-1]
            history = {key: np.concatenate([before[key], history[key]]) for key in history}
        params, shifted = problem.unstandardized(result.params), None
        if problem.shifted and problem.standard is not None:
            shifted = _Shifted(problem.held(result.params), problem.standard)
        # Last what computes nothing more: Ctrl-C finds the old model, or all of the new one.
        self._set_params(objective.data.backend, params, shifted)
        self.alpha_, self._weight_unit = problem.alpha, problem.weight_unit
        kind = type(solver)
        self.solver_ = next((name for name in SOLVERS if SOLVERS[name] is kind), kind.__name__)
        self.history_, self.n_iter_, self.objective_ = history, len(history["seconds"]), value
        self.classes_, self._source, self._sgd_state = problem.classes, problem.source, sgd_state
        self.n_features_in_ = problem.features.n_features
        self.feature_names_in_, self.certificate_ = problem.features.names, certificate
        for name in ("feature_names_in_", "certificate_"):
            if getattr(self, name) is None:
                delattr(self, name)

    def _set_params(
        self, backend: Backend, params: Params, shifted: _Shifted | None = None
    ) -> None:
        coef, intercept = linear_coefficients(params)
        coef, intercept = coef[0, :, :], intercept[0, :]
        self.backend_, self.params_, self._shifted = backend, params, shifted
        self.coef_, self.intercept_ = coef, intercept

    def _predicted(self, X: Any, method: str, function: Callable[..., Array]) -> Array:
        """Return what a function of blocks gives for all rows, in the library of X."""
        check_is_fitted(self)
        backend, own = self.backend_, backend_of(X)
        if own.traced(X) and own.xp is backend.xp:
            own = backend  # wherever it will be computed
        moved = own.name != backend.name
        problem = own.refuses(X) if moved and not own.traced(X) else None
        if problem is not None:
            msg = f"X {problem}"
            raise TypeError(msg)
        if moved and (own.name != self._source or own.traced(X)):
            msg = (
                f"{type(self).__name__}.{method}() and fit must use the same namespace and device: "
                f"X is on {own.name}, the model on {backend.name}; "
                f"clf.to({own.name!r}) gives a copy of the model there"
            )
            raise ValueError(msg)
        with backend.undisturbed(gradients=True):
            X, _ = check_features(self, X, reset=False)
            params, standard = self._shifted or (self.params_, None)
            rows = _rows(X, own, backend)
            wide = (params.b if standard is None else standard.centre).dtype
            _check_conversion(rows, wide, backend)
            data = data_of(rows, None, None, params.W.dtype, backend=backend)
            parts = replace(data, standard=standard).map(
                function, (backend.xp,), params, scores=len(self.classes_)
            )
            if moved:
                return own.asarray(np.concatenate([backend.to_host(part) for part in parts]))
            return joined(list(parts), backend=backend)
