"""Scores of predictions, larger is better: of m models in one pass on the device, or by a callable.

`sweep` scores the held-out rows of folds with them. A class that the training rows of a fold lack
has the lowest score there is, whatever the model: what softmax makes of it depends on ``tol``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing  # pyright: ignore[reportPrivateUsage] - no other takes rows of any table

from xplinear.backends import backend_of
from xplinear.data import Block, Data
from xplinear.estimator.classifier import LinearClassifier
from xplinear.estimator.predictions import accuracy, block_scores
from xplinear.losses import Loss, SoftmaxLoss
from xplinear.losses.true_class import true_class
from xplinear.namespace import Array, HostArray, Namespace, accumulator, device, is_array
from xplinear.objective import Objective, Params
from xplinear.solvers.protocol import take_models

__all__ = ["OTHER_NAMES", "SCORINGS", "HostScoring", "class_counts", "without_classes"]


def without_classes(params: Params, known: Array, *, xp: Namespace) -> Params:
    """Return models whose classes that are not ``known (m, k)`` have the lowest score there is."""
    W, b = params
    if b.shape[1] != known.shape[1]:  # two classes, and training needs both
        return params
    # Finite, also in float32: a weight of 0 times infinity is NaN.
    lowest = -0.25 * float(xp.finfo(xp.float32).max)
    return Params(W, xp.where(known, b, lowest))


def _block_counts(k: int, xp: Namespace, block: Block, params: Params) -> tuple[Array, ...]:
    Z = block_scores(xp, block, params)
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
    value, _ = loss.value_and_grad(block_scores(xp, block, params), y, xp=xp)
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


SCORINGS: dict[str, Callable[[Objective, Params], Array]] = {
    "accuracy": accuracy,
    "log_loss": _log_loss,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
}
OTHER_NAMES = {"neg_log_loss": "log_loss", "f1_macro": "macro_f1"}  # scikit-learn's


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
    weights : ndarray of shape (n,), optional
        Given as ``sample_weight`` to a function that takes it.
    places : callable
        Gives where rows of X are among those that count, of which there are scores.
    classifier : callable
        Makes a `LinearClassifier` on NumPy of the parameters of one model and its α.
    """

    function: Callable[..., Any]
    X: Any
    y: HostArray
    weights: HostArray | None
    places: Callable[[HostArray], HostArray]
    classifier: Callable[[Params, float], LinearClassifier]

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
        return self.weights is not None and any(
            name == "sample_weight" or one.kind is one.VAR_KEYWORD
            for name, one in _arguments(metric or self.function).items()
        )

    def scores(
        self, data: Data, params: Params, rows: Sequence[HostArray], alphas: Sequence[float]
    ) -> HostArray:
        """Return the score ``(m,)`` of each model on rows of its own."""
        if self._positional == 3:
            given = self._estimators(data, params, rows, alphas)
        else:
            given = self._decisions(data, params, rows)
        found: list[float] = []
        for arguments, index, alpha in zip(given, rows, alphas, strict=True):
            weights = {"sample_weight": self.weights[index]} if self._weighs else {}  # type: ignore[index]
            found.append(_number(self.function(*arguments, **weights), alpha))
        return np.asarray(found)

    def _decisions(
        self, data: Data, params: Params, rows: Sequence[HostArray]
    ) -> Iterator[tuple[Any, ...]]:
        xp, held = data.backend.xp, len(rows) * max(2, params.b.shape[1])
        parts = data.map(block_scores, (xp,), params, scores=held)
        Z = np.concatenate([data.backend.to_host(part) for part in parts])
        for model, index in enumerate(rows):
            z = Z[self.places(index), model, :]
            yield self.y[index], z[:, 1] - z[:, 0] if z.shape[1] == 2 else z

    def _estimators(
        self, data: Data, params: Params, rows: Sequence[HostArray], alphas: Sequence[float]
    ) -> Iterator[tuple[Any, ...]]:
        xp, asarray = data.backend.xp, data.backend.asarray
        for model, (index, alpha) in enumerate(zip(rows, alphas, strict=True)):
            one = take_models(params, asarray(np.asarray([model])), xp=xp)
            yield self.classifier(one, alpha), _rows_of(self.X, index), self.y[index]


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
