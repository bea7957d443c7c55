"""Scores of predictions, larger is better, computed on the device for m models in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from xplinear.data import Block
from xplinear.estimator import accuracy
from xplinear.losses import SoftmaxLoss
from xplinear.namespace import Array, Namespace, accumulator, device
from xplinear.objective import Objective, Params, class_scores, scores

__all__ = ["OTHER_NAMES", "SCORINGS", "class_counts"]


def _block_counts(k: int, xp: Namespace, block: Block, params: Params) -> tuple[Array, ...]:
    Z = class_scores(scores(block.X, params, xp=xp), xp=xp)
    classes = xp.arange(k, dtype=xp.int32, device=device(Z))
    predicted = xp.astype(xp.astype(xp.argmax(Z, axis=-1), xp.int32)[..., None] == classes, Z.dtype)
    true = xp.astype(block.y[:, None] == classes, Z.dtype)[:, None, :]
    weight = xp.ones_like(Z[..., :1]) if block.s is None else block.s[..., None]
    wide = accumulator(Z, xp=xp)
    counted = true * weight, predicted * weight, true * predicted * weight
    return tuple(xp.sum(a, axis=0, dtype=wide) for a in counted)


def class_counts(objective: Objective, params: Params) -> tuple[Array, ...]:
    """Return weights ``(m, k)`` of the rows that are of a class, predicted as it, and both."""
    static, held = (objective.k, objective.xp), 2 * objective.m * objective.k
    return objective.data.reduce(_block_counts, static, params, scores=held)


def _mean_of(values: Array, among: Array, *, xp: Namespace) -> Array:
    """Return the mean over the classes in ``among (m, k)``."""
    among = xp.astype(among, values.dtype)
    return xp.sum(values * among, axis=1) / xp.sum(among, axis=1)


def _log_loss(objective: Objective, params: Params) -> Array:
    softmax = objective.data.backend.accelerated(SoftmaxLoss())
    return -replace(objective, loss=softmax).data_loss(params)


def _balanced_accuracy(objective: Objective, params: Params) -> Array:
    xp = objective.xp
    true, _, both = class_counts(objective, params)
    there = true > 0
    return _mean_of(both / xp.where(there, true, 1.0), there, xp=xp)


def _macro_f1(objective: Objective, params: Params) -> Array:
    xp = objective.xp
    true, predicted, both = class_counts(objective, params)
    either = true + predicted
    there = either > 0
    return _mean_of(2.0 * both / xp.where(there, either, 1.0), there, xp=xp)


SCORINGS: dict[str, Callable[[Objective, Params], Array]] = {
    "accuracy": accuracy,
    "log_loss": _log_loss,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
}
OTHER_NAMES = {"neg_log_loss": "log_loss", "f1_macro": "macro_f1"}  # scikit-learn's
