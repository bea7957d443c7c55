"""Scores of predictions, larger is better: of m models in one pass on the device, or by a callable.

`sweep` scores the held-out rows of folds with them. A class that the training rows of a fold lack
has the lowest score there is, whatever the model: what softmax makes of it depends on ``tol``. Its
probability is 0, which a log loss takes for the dtype's eps; all rows rank alike for it.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.utils import _safe_indexing  # pyright: ignore[reportPrivateUsage] - no other takes rows of any table

from xplinear.backends import backend_of
from xplinear.data import Block, Data
from xplinear.data.remote import is_remote
from xplinear.estimator.classifier import LinearClassifier
from xplinear.estimator.predictions import accuracy, block_scores
from xplinear.losses import Loss, SoftmaxLoss
from xplinear.losses.softmax import softmax
from xplinear.losses.true_class import true_class
from xplinear.model_selection.ranking import average_precision, by_columns, roc_auc
from xplinear.namespace import Array, HostArray, Namespace, accumulator, device, is_array
from xplinear.objective import Objective, Params
from xplinear.solvers.protocol import take_models

__all__ = [
    "OTHER_NAMES",
    "RANKINGS",
    "SCORINGS",
    "AgainstRest",
    "HeldOut",
    "HostScoring",
    "OfRows",
    "RankScoring",
    "class_counts",
    "decisions",
    "scoring_named",
    "sums_of",
    "without_classes",
]

_TOP = re.compile(r"top_([1-9]\d*)_accuracy")


class AgainstRest(NamedTuple):
    """`Params` of models that tell each of k classes from the rest: ``(p, m, k)``, ``(m, k)``.

    Their scores are taken for logarithms of what probabilities are proportional to.
    """

    W: Array
    b: Array


def without_classes(params: Params, known: Array, *, xp: Namespace) -> Params:
    """Return models whose classes that are not ``known (m, k)`` have the lowest score there is."""
    W, b = params
    if b.shape[1] != known.shape[1]:  # two classes, and training needs both
        return params
    # Finite, also in float32: a weight of 0 times infinity is NaN.
    lowest = -0.25 * float(xp.finfo(xp.float32).max)
    return Params(W, xp.where(known, b, lowest))


def _class_scores(xp: Namespace, block: Block, params: Params | AgainstRest) -> Array:
    Z = block_scores(xp, block, Params(*params))
    if isinstance(params, AgainstRest):
        return xp.where(Z < 0.0, Z, 0.0) - xp.log1p(xp.exp(-xp.abs(Z)))
    return Z


def _block_counts(k: int, xp: Namespace, block: Block, params: Params) -> tuple[Array, ...]:
    Z = _class_scores(xp, block, params)
    classes = xp.arange(k, dtype=xp.int32, device=device(Z))
    predicted = xp.astype(xp.astype(xp.argmax(Z, axis=-1), xp.int32)[..., None] == classes, Z.dtype)
    true = xp.astype(true_class(Z, block.y, xp=xp), Z.dtype)
    weight = xp.ones_like(Z[..., :1]) if block.s is None else block.s[..., None]
    wide = accumulator(Z, xp=xp)
    counted = true * weight, predicted * weight, true * predicted * weight
    return tuple(xp.sum(a, axis=0, dtype=wide) for a in counted)


def class_counts(objective: Objective, params: Params) -> tuple[Array, ...]:
    """Return weights ``(m, k)`` of the rows that are of a class, predicted as it, and both."""
    static, held = (objective.k, objective.xp), 2 * objective.m * objective.k
    return objective.data.reduce(_block_counts, static, params, scores=held)


def _mean_share(part: Array, whole: Array, *, xp: Namespace) -> Array:
    """Return the mean of ``part / whole``, each ``(m, k)``, over the classes that are there."""
    there = whole > 0
    among = xp.astype(there, whole.dtype)
    return xp.sum(part / xp.where(there, whole, 1.0) * among, axis=1) / xp.sum(among, axis=1)


def _block_log_loss(loss: Loss, xp: Namespace, block: Block, params: Params) -> tuple[Array]:
    _, y, s = block
    value, _ = loss.value_and_grad(_class_scores(xp, block, params), y, xp=xp)
    value = xp.clip(value, 0.0, -math.log(xp.finfo(value.dtype).eps))
    value = value if s is None else value * s
    return (xp.sum(value, axis=0, dtype=accumulator(value, xp=xp)),)


def _log_loss(objective: Objective, params: Params) -> Array:
    """Return minus the mean log loss ``(m,)``; as in scikit-learn no probability is below eps."""
    data = objective.data
    static = data.backend.accelerated(SoftmaxLoss()), objective.xp
    held = objective.m * objective.k
    (total,) = data.reduce(_block_log_loss, static, params, scores=held)
    return -total / data.weight_sum


def _balanced_accuracy(objective: Objective, params: Params) -> Array:
    true, _, both = class_counts(objective, params)
    return _mean_share(both, true, xp=objective.xp)


def _macro_f1(objective: Objective, params: Params) -> Array:
    true, predicted, both = class_counts(objective, params)
    return _mean_share(2.0 * both, true + predicted, xp=objective.xp)


def _weighted_f1(objective: Objective, params: Params) -> Array:
    true, predicted, both = class_counts(objective, params)
    xp, whole = objective.xp, true + predicted
    own = 2.0 * both / xp.where(whole > 0, whole, 1.0)
    return xp.sum(true * own, axis=1) / xp.sum(true, axis=1)


def _block_top(top: int, xp: Namespace, block: Block, params: Params) -> tuple[Array]:
    Z = _class_scores(xp, block, params)
    true = true_class(Z, block.y, xp=xp)
    own = xp.sum(xp.where(true, Z, 0.0), axis=-1, keepdims=True)
    classes = xp.arange(Z.shape[-1], dtype=xp.int32, device=device(Z))
    code = xp.sum(xp.where(true, classes, 0), axis=-1, keepdims=True)
    # Of equal scores the last class comes first, as in scikit-learn.
    before = (own < Z) | ((own == Z) & (classes > code))
    hit = xp.astype(xp.sum(xp.astype(before, xp.int32), axis=-1) < top, Z.dtype)
    hit = hit if block.s is None else hit * block.s
    return (xp.sum(hit, axis=0, dtype=accumulator(Z, xp=xp)),)


def _top_accuracy(top: int, objective: Objective, params: Params) -> Array:
    """Return the weighted share ``(m,)`` of the rows whose class is among the ``top`` largest."""
    data = objective.data
    held = objective.m * objective.k
    (hits,) = data.reduce(_block_top, (top, objective.xp), params, scores=held)
    return hits / data.weight_sum


# Of sums over rows, and of rows that are sorted; and top_5_accuracy, with any number.
SCORINGS: dict[str, Callable[[Objective, Params], Array]] = {
    "accuracy": accuracy,
    "log_loss": _log_loss,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
}
RANKINGS: dict[str, Callable[..., Array]] = {
    "roc_auc": roc_auc,
    "roc_auc_ovr_weighted": roc_auc,
    "average_precision": average_precision,
}
OTHER_NAMES = {  # scikit-learn's
    "neg_log_loss": "log_loss",
    "f1_macro": "macro_f1",
    "f1_micro": "accuracy",  # which it is, where a row has one label
    "f1_weighted": "weighted_f1",
    "roc_auc_ovr": "roc_auc",
    "top_k_accuracy": "top_2_accuracy",
}


def scoring_named(scoring: str, k: int) -> str:
    """Return the one name of a scoring; raise ValueError where it is none for k classes."""
    name = OTHER_NAMES.get(scoring, scoring)
    top = _TOP.fullmatch(name)
    if top is None and name not in (*SCORINGS, *RANKINGS):
        names = ", ".join([*SCORINGS, *RANKINGS, "top_5_accuracy", *OTHER_NAMES])
        msg = f"unknown scoring {scoring!r}; choose from {names}, or pass a callable"
        raise ValueError(msg)
    if top is not None and int(top[1]) >= k:
        msg = (
            f"scoring={scoring!r} is 1 for every model of {k} classes, and chooses none; name "
            "fewer, such as top_1_accuracy"
        )
        raise ValueError(msg)
    return name


def sums_of(name: str) -> Callable[[Objective, Params], Array]:
    """Return what computes a scoring of sums over rows."""
    top = _TOP.fullmatch(name)
    return SCORINGS[name] if top is None else partial(_top_accuracy, int(top[1]))


def decisions(
    data: Data, params: Params, places: Sequence[HostArray], models: Sequence[int]
) -> list[Array]:
    """Return class scores ``(r, g, k)`` of so many models in turn, of rows of their own."""
    backend, xp = data.backend, data.backend.xp
    wanted = [np.unique(index) for index in places]
    ends = np.cumsum(models).tolist()
    held = ends[-1] * max(2, params.b.shape[1])
    parts: list[list[Array]] = [[] for _ in places]
    first = 0
    for Z in data.map(_class_scores, (xp,), params, scores=held):
        last = first + Z.shape[0]
        for group, index in enumerate(wanted):
            low, high = np.searchsorted(index, [first, last])
            if high > low:
                here = backend.asarray(index[low:high] - first)
                own = Z[:, ends[group] - models[group] : ends[group], :]
                parts[group].append(xp.take(own, here, axis=0))
        first = last
    found = [xp.concat(part, axis=0) for part in parts]
    return [
        xp.take(Z, backend.asarray(np.searchsorted(own, index)), axis=0)
        for Z, own, index in zip(found, wanted, places, strict=True)
    ]


class HeldOut(NamedTuple):
    """The rows that each fold holds out, and what is known of them on the host."""

    tests: Sequence[HostArray]
    places: Callable[[HostArray], HostArray]  # of rows of X among those that there are scores of
    codes: HostArray  # (n,), of all rows of X
    weights: HostArray | None

    def decisions(self, data: Data, params: Params, folds: Sequence[int]) -> list[Array]:
        """Return class scores ``(r, k)`` of each model, of the rows that its fold holds out."""
        places = [self.places(self.tests[fold]) for fold in folds]
        return [Z[:, 0, :] for Z in decisions(data, params, places, [1] * len(folds))]


class OfRows(Protocol):
    """A scoring that must see the rows that each model's fold holds out."""

    def scores(self, part: Objective, params: Params, folds: Sequence[int]) -> HostArray:
        """Return the score ``(m,)`` of each model."""
        ...


@dataclass(frozen=True)
class RankScoring:
    """A scoring of `RANKINGS`: rows are sorted on the device.

    Of two classes it is that of the second; of more, the mean over the classes that rows held out
    are of, each against the others: equally, or by their rows.
    """

    name: str
    held_out: HeldOut

    def __post_init__(self) -> None:
        for fold, rows in enumerate(self.held_out.tests):
            if len(set(self.held_out.codes[rows].tolist())) < 2:
                msg = (
                    f"cv: fold {fold} holds out rows of one class only, which "
                    f"scoring={self.name!r} cannot rank against others; use stratified folds, or "
                    "another scoring"
                )
                raise ValueError(msg)

    def scores(self, part: Objective, params: Params, folds: Sequence[int]) -> HostArray:
        """Return the score ``(m,)`` of each model on the rows that its fold holds out."""
        backend, xp = part.data.backend, part.xp
        tests, codes, weights, found = self.held_out.tests, self.held_out.codes, None, []
        all_Z = self.held_out.decisions(part.data, params, folds)
        for Z, fold in zip(all_Z, folds, strict=True):
            y = backend.asarray(codes[tests[fold]])[:, None]
            if self.held_out.weights is not None:
                own = self.held_out.weights[tests[fold]][:, None]
                weights = backend.asarray(own / own.max(), accumulator(Z, xp=xp))
            found.append(self._score(part.loss, Z, y, weights, xp=xp))
        return backend.to_host(xp.stack(found))

    def _score(self, loss: Loss, Z: Array, y: Array, s: Array | None, *, xp: Namespace) -> Array:
        k = Z.shape[1]
        hits = y == xp.arange(k, dtype=y.dtype, device=device(y))
        if k == 2:
            Z, hits = Z[:, 1:] - Z[:, :1], hits[:, 1:]
        elif loss.probabilistic and RANKINGS[self.name] is roc_auc:
            Z = softmax(Z, xp=xp)
        values = by_columns(RANKINGS[self.name], Z, hits, s, xp=xp)
        share = xp.astype(xp.isfinite(values), values.dtype)
        if self.name.endswith("weighted"):
            weight = xp.astype(hits, values.dtype)
            share = share * xp.sum(weight if s is None else weight * s, axis=0)
        return xp.sum(xp.where(share > 0, values * share, 0.0)) / xp.sum(share)


def _arguments(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C tell none
        return {}


@dataclass(frozen=True)
class HostScoring:
    """A callable that scores each model on the host, and what it is to be given.

    Parameters
    ----------
    function : callable
        ``function(y, Z)`` of labels and decision function, or ``function(estimator, X, y)``, as
        `sklearn.metrics.make_scorer` makes it.
    X : array or table
        As the user passed it.
    y : ndarray of shape (n,)
        The labels.
    held_out : HeldOut
        Its weights are given as ``sample_weight`` to a function that takes it.
    classifier : callable
        Makes a `LinearClassifier` on NumPy of the parameters of one model, its α and its fold.
    """

    function: Callable[..., Any]
    X: Any
    y: HostArray
    held_out: HeldOut
    classifier: Callable[[Params, float, int], LinearClassifier]

    def __post_init__(self) -> None:
        module: str = getattr(self.function, "__module__", None) or ""
        if "y_pred" in _arguments(self.function) and module.startswith("sklearn.metrics"):
            msg = (
                f"scoring={self.function!r} is of predictions, and a scoring is given scores; make "
                "it a scorer: sklearn.metrics.make_scorer"
            )
            raise TypeError(msg)
        if self._positional not in (2, 3):
            msg = (
                f"scoring={self.function!r} must be callable as scoring(y, Z), or as "
                f"scoring(estimator, X, y); it needs {self._positional} arguments"
            )
            raise TypeError(msg)
        if self._positional == 3 and is_remote(self.X):
            msg = (
                f"scoring={self.function!r} is given rows of X, which are not in memory; use a "
                "scoring by name, or scoring(y, Z) of scores"
            )
            raise TypeError(msg)

    @property
    def _positional(self) -> int:
        """How many arguments the function needs; it may not tell."""
        arguments = _arguments(self.function)
        positional = [
            name
            for name, one in arguments.items()
            if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
            and one.default is one.empty
            and name != "sample_weight"
        ]
        if positional[:1] == ["estimator"]:
            return 3
        open_ended = any(one.kind is one.VAR_POSITIONAL for one in arguments.values())
        return 2 if open_ended or not arguments else len(positional)

    @property
    def _weighs(self) -> bool:
        metric = getattr(self.function, "_score_func", None)  # of make_scorer, which takes all
        return self.held_out.weights is not None and any(
            name == "sample_weight" or one.kind is one.VAR_KEYWORD
            for name, one in _arguments(metric or self.function).items()
        )

    def scores(self, part: Objective, params: Params, folds: Sequence[int]) -> HostArray:
        """Return the score ``(m,)`` of each model on the rows that its fold holds out."""
        alphas: list[float] = part.data.backend.to_host(part.alpha).tolist()
        if self._positional == 3:
            given = self._estimators(part, params, folds, alphas)
        else:
            given = self._decisions(part.data, params, folds)
        found: list[float] = []
        for arguments, fold, alpha in zip(given, folds, alphas, strict=True):
            index, weights = self.held_out.tests[fold], self.held_out.weights
            own = {} if weights is None or not self._weighs else {"sample_weight": weights[index]}
            found.append(_number(self.function(*arguments, **own), alpha))
        return np.asarray(found)

    def _decisions(
        self, data: Data, params: Params, folds: Sequence[int]
    ) -> Iterator[tuple[Any, ...]]:
        for fold, Z in zip(folds, self.held_out.decisions(data, params, folds), strict=True):
            z = data.backend.to_host(Z)
            yield self.y[self.held_out.tests[fold]], z[:, 1] - z[:, 0] if z.shape[1] == 2 else z

    def _estimators(
        self, part: Objective, params: Params, folds: Sequence[int], alphas: Sequence[float]
    ) -> Iterator[tuple[Any, ...]]:
        for model, (fold, alpha) in enumerate(zip(folds, alphas, strict=True)):
            index = self.held_out.tests[fold]
            here = part.data.backend.asarray(np.asarray([model]))
            one = take_models(params, here, xp=part.xp)
            yield self.classifier(one, alpha, fold), _rows_of(self.X, index), self.y[index]


def _rows_of(X: Any, index: HostArray) -> Any:
    """Return rows of X, on the host."""
    if not is_array(X):
        return _safe_indexing(X, index)
    backend = backend_of(X)
    return backend.to_host(backend.xp.take(backend.asarray(X), backend.asarray(index), axis=0))


def _number(value: Any, alpha: float) -> float:
    with suppress(TypeError, ValueError):
        if not isinstance(value, (str, bytes)):
            return float(value)
    msg = f"scoring must return a number, got {value!r} at alpha={alpha:g}"
    raise TypeError(msg)
