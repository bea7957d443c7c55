"""An epoch of mini-batches, as every backend is given it to fold."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

from xplinear.namespace import Array, Namespace

__all__ = ["Epoch", "Shared", "Update", "fold_in_python", "fold_sparse", "labels_of"]


class Update(NamedTuple):
    """What a mini-batch changes: ``function(rule, xp, carry, batch, factor, constants)``.

    All of it is hashable: a backend may compile it once and keep it.
    """

    function: Callable[..., Any]
    rule: Hashable  # the settings; a kernel reads those of SGD by name
    xp: Namespace
    dtype: Any  # of the computation


class Shared(NamedTuple):
    """Arrays that every batch of an epoch needs."""

    constants: Any = None
    models: Array | None = None  # which column of the weights is whose
    targets: Array | None = None  # and which of the labels
    standard: Any = None
    positives: Array | None = None  # or the class that is 1 for each model, all others 0


class Epoch(NamedTuple):
    """Rows as they are stored, the batches to make of them, and what each does to a carry."""

    minibatch: Callable[..., Any]  # minibatch(update, shared, carry, rows, factor) -> carry
    update: Update
    shared: Shared
    carry: Any
    rows: tuple[Array, Array, Array | None]  # X, y and s
    order: Array
    schedule: Sequence[float]  # a factor for each batch
    size: int  # of a batch; the last may have fewer rows

    @property
    def step(self) -> Callable[[Any, tuple[Array | None, ...], Any], Any]:
        """What gives the carry after one more batch: ``step(carry, rows, factor)``."""
        return partial(self.minibatch, self.update, self.shared)


def labels_of(y: Array, targets: Array | None, positives: Array | None, *, xp: Namespace) -> Array:
    """Return the labels of each model: its column of y, or whether they are its own class."""
    if positives is not None:
        return xp.astype(xp.reshape(y, (-1, 1)) == positives, xp.int8)
    return y if targets is None else xp.take(y, targets, axis=1)


def fold_in_python(epoch: Epoch) -> Any:
    """Return the carry after all batches, one after the other."""
    take, step = epoch.update.xp.take, epoch.step
    carry, n = epoch.carry, epoch.order.shape[0]
    for start, factor in zip(range(0, n, epoch.size), epoch.schedule, strict=True):
        index = epoch.order[start : min(start + epoch.size, n)]
        rows = tuple(None if a is None else take(a, index, axis=0) for a in epoch.rows)
        carry = step(carry, rows, factor)
    return carry


def fold_sparse(epoch: Epoch) -> Any:
    """Return the carry after all batches, of sparse rows in the order of the epoch already."""
    X, *others = epoch.rows
    carry, step, n = epoch.carry, epoch.step, X.shape[0]
    for start, factor in zip(range(0, n, epoch.size), epoch.schedule, strict=True):
        batch = slice(start, min(start + epoch.size, n))
        rows = X.rows(batch), *(None if a is None else a[batch, ...] for a in others)
        carry = step(carry, rows, factor)
    return carry
