"""The proximal gradient step in the metric of the features."""

from __future__ import annotations

from typing import NamedTuple

from xplinear.data.rows import centred_scores, spread
from xplinear.namespace import Array, Namespace
from xplinear.objective import Params
from xplinear.penalties import Penalty
from xplinear.solvers.metric import Metric

__all__ = ["Move", "proximal_step"]


class Move(NamedTuple):
    """A step to a trial point: its squared length in the metric, and the slope along it."""

    trial: Params
    length: Array
    slope: Array
    step_size: Array


def proximal_step(
    penalty: Penalty,
    xp: Namespace,
    params: Params,
    grads: Params,
    metric: Metric,
    step_size: Array,
    alpha: Array,
) -> Move:
    """Return W ← prox(W − η d (∂L/∂W − μ ∂L/∂b)), b' ← b' − η ∂L/∂b for every model."""
    (W, b), (gW, gb) = params, grads
    gW = gW - spread(metric.centre, gb, xp=xp)
    scale, eta = metric.scale[:, :, None], step_size[:, None]
    moved = penalty.prox(W - eta * scale * gW, eta * scale * alpha[:, None], xp=xp)
    dW, db = moved - W, -eta * gb
    length = xp.sum(dW * dW / xp.where(scale > 0, scale, 1.0), axis=(0, 2))
    return Move(
        trial=Params(moved, b + db - centred_scores(metric.centre, dW, xp=xp)),
        length=length + xp.sum(db * db, axis=1),
        slope=xp.sum(gW * dW, axis=(0, 2)) + xp.sum(gb * db, axis=1),
        step_size=step_size,
    )
