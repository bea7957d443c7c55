"""NumPy: the CPU, and the host every other backend moves data to and from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, TypeAlias, cast

import array_api_compat.numpy as xp
import numpy as np

from xplinear.backends.base import Backend, BackendError, fetched, write_in_place
from xplinear.backends.epoch import Epoch, Shared, labels_of
from xplinear.backends.halves import widened
from xplinear.backends.sparse import ScipyRows, canonical
from xplinear.backends.threads import blas
from xplinear.backends.transfer import read_rows
from xplinear.losses import LOSSES, Loss, SoftmaxLoss, SquaredHingeLoss
from xplinear.losses.exponential import least_exponent
from xplinear.namespace import HostArray, Namespace

__all__ = ["describe", "follow", "select"]

_PIECE_BYTES = 4 * 2**20
_FEATURES = 2**17  # numbers of weights that are worth another thread
_FAR = 8.0  # standard deviations


def _fold(epoch: Epoch) -> Any:
    """Fold as `fold_in_python` does, while a thread gathers the rows of the next batches."""
    carry, step = epoch.carry, epoch.step
    with closing(_batches(epoch, _numbers(carry))) as batches:
        for rows, factor in batches:
            carry = step(carry, rows, factor)
    return carry


def _sgd(value_and_grad: Callable[..., Any], loss: Loss, epoch: Epoch) -> Any:
    """Fold SGD's update as `_fold` does, in few arrays; rows are centred where they are gathered.

    Weights and intercepts lie in one array ``(m, c, p + 1)``. ``value_and_grad(loss, Z, y)`` is
    that in the scores of the columns.
    """
    del loss  # that of the rule has its kernel
    rule: Any = epoch.update.rule
    steps, models, targets, standard, positives = epoch.shared
    (W, b), velocity, total, seen = epoch.carry
    p, m, c = W.shape
    if any(a.size > p for a in (steps.centre, *(standard or ()))):  # each model has its own
        return _fold(epoch)
    at, moving, summed = _packed(W, b), _packed(*velocity), _packed(*total)
    step, gradient = _packed(steps.weights[:, :, :1], steps.intercept[:, :1]), np.empty_like(at)
    columns, into = (a.reshape(m * c, p + 1)[:, :p] for a in (at, gradient))
    weights, shrink = at[:, :, :p].transpose(2, 0, 1), steps.penalty[:, :, :1]
    with closing(_batches(epoch, W.size, _centred(steps.centre, standard))) as batches:
        for (X, labels, s), factor in batches:
            n, y = len(X), labels_of(labels, targets, positives, xp=xp)
            Z = (X @ columns.T).reshape(n, m, c) + at[:, :, p]
            value, G = value_and_grad(rule.loss, Z, y)
            if s is not None:
                own = s if models is None else s.take(models, axis=1)
                value, G = value * own, G * own[:, :, None]
            seen = seen + value.sum(axis=0)
            np.matmul(G.reshape(n, m * c).T, X, out=into)
            gradient[:, :, p] = G.sum(axis=0)
            gradient *= factor / n * step
            moving *= rule.momentum
            moving -= gradient
            at += rule.momentum * moving - gradient if rule.nesterov else moving
            weights[...] = rule.penalty.prox(weights, factor * shrink, xp=xp)
            if rule.average:
                summed += at
    params, all_three = type(velocity), (at, moving, summed)
    return *(params(a[:, :, :p].transpose(2, 0, 1), a[:, :, p]) for a in all_three), seen


def _centred(centre: HostArray, standard: Any) -> Callable[[HostArray, HostArray], None]:
    """Return what writes rows as they are stored to others, standardized and at SGD's centre."""
    first, scale, rest = centre[:, 0], None, None
    if standard is not None:
        near, scale = (a.reshape(len(a)) for a in standard)
        if np.abs(near * scale).max() > _FAR:
            first, rest = near, first  # one number for both would be rounded too much
        else:
            first = near + first / np.where(scale != 0.0, scale, 1.0)

    def centred(X: HostArray, into: HostArray) -> None:
        # In the dtype of the standard: another may not hold what is not yet brought near.
        X = _BACKEND.astype(X, into.dtype) if X.dtype == np.float16 else X
        fits = np.result_type(X, first) == into.dtype
        found = np.subtract(X, first, out=into if fits else None)
        if scale is not None:
            found *= scale
        if not fits:
            np.copyto(into, found, "same_kind")
        if rest is not None:
            into -= rest

    return centred


def _packed(W: HostArray, b: HostArray) -> HostArray:
    """Return weights ``(p, m, c)`` and intercepts ``(m, c)`` in one array ``(m, c, p + 1)``.

    Whatever their layout, those of all models and classes are a matrix without a copy.
    """
    both = np.empty((len(W) + 1, *b.shape), W.dtype)
    return np.concatenate((W, b[None]), out=both).transpose(1, 2, 0)


def _batches(
    epoch: Epoch, weights: int, prepare: Callable[[HostArray, HostArray], Any] | None = None
) -> Generator[tuple[tuple[Any, ...], float]]:
    """Yield the rows and the factor of each batch; a thread gathers those of the next meanwhile.

    Scattered reads wait for memory, not for the processor; `take` releases the interpreter lock.
    ``prepare`` writes rows of X as they are stored to others, in the dtype of the computation.
    """
    size, n, X = epoch.size, len(epoch.order), epoch.rows[0]
    order = epoch.order.astype(np.intp)  # once, not in every `take`
    y, s = (None if a is None else a.take(order, axis=0) for a in epoch.rows[1:])
    dtype = np.dtype(epoch.update.dtype) if prepare else X.dtype
    batches = min(_PIECE_BYTES // (size * X.shape[1] * dtype.itemsize), -(-n // size))
    shape = per_piece, _ = size * max(1, batches), X.shape[1]
    # Two pieces in turn, in the same memory: fresh memory would cost a page fault per 4 KiB.
    pieces = [np.empty(shape, dtype) for _ in range(1 + (n > per_piece))]
    stored = None if X.dtype == dtype else np.empty(shape, X.dtype)

    def gather(start: int) -> HostArray:
        index = order[start : start + per_piece]
        piece = pieces[start // per_piece % 2][: len(index)]
        rows = read_rows(X, index, piece if stored is None else stored)
        if prepare:
            prepare(rows, piece)
        return piece

    factors = iter(epoch.schedule)
    with ThreadPoolExecutor(1) as thread, blas.products(2.0 * size * weights):
        piece = gather(0)
        for start in range(0, n, per_piece):
            coming = thread.submit(gather, start + per_piece) if start + per_piece < n else None
            for i in range(start, min(start + per_piece, n), size):
                rows = piece[i - start : i - start + size]
                own = (None if a is None else a[i : i + size] for a in (y, s))
                yield (rows, *own), next(factors)
            piece = coming.result() if coming else piece


def _numbers(part: Any) -> int:
    """Return how many the largest array in nested tuples holds: of a carry, its weights."""
    if isinstance(part, tuple):
        return max(map(_numbers, cast("tuple[Any, ...]", part)), default=0)
    return np.size(part)


def _softmax(
    loss: SoftmaxLoss, Z: HostArray, y: HostArray, *, xp: Namespace
) -> tuple[HostArray, HostArray]:
    """Softmax loss and gradient in one buffer, classes first: reductions then run over rows."""
    del loss, xp
    n, m, k = Z.shape
    G = Z.reshape(n * m, k).T.copy()
    y = y.reshape(-1) if y.size == n * m else np.repeat(y, m)
    true = np.multiply(y, n * m, dtype=np.intp) + np.arange(n * m)
    G -= np.maximum.reduce(G, axis=0)
    flat = G.reshape(-1)
    value = flat.take(true)
    least = np.empty_like(value)
    least.fill(least_exponent(G.dtype, xp=_BACKEND.xp))  # a maximum with one number would be slower
    np.maximum(G, least, out=G)
    np.exp(G, out=G)
    total = np.add.reduce(G, axis=0)
    value = np.log(total) - value
    G /= total
    flat[true] -= 1.0
    return value.reshape(n, m), G.T.reshape(n, m, k)


# Of differences z ``(n, m, 1)``, whose sign is changed in class 1: losses and slopes, in place.
_OfDifferences: TypeAlias = Callable[[Any, HostArray], tuple[HostArray, HostArray]]


def _logistic(loss: SoftmaxLoss, Z: HostArray) -> tuple[HostArray, HostArray]:
    """Return log(1 + eᶻ) and eᶻ / (1 + eᶻ): one exponential for each score."""
    del loss
    least = least_exponent(Z.dtype, xp=_BACKEND.xp)
    slope = np.clip(Z, least, -least)
    np.exp(slope, out=slope)
    value = 1.0 + slope
    slope /= value
    np.log(value, out=value)
    return np.maximum(value, Z, out=value), slope  # z where it is above the largest exponent


def _squared_violation(loss: SquaredHingeLoss, Z: HostArray) -> tuple[HostArray, HostArray]:
    """Return max(0, z + Δ)² and its slope."""
    Z += loss.margin
    np.maximum(Z, 0.0, out=Z)
    return Z * Z, np.multiply(Z, 2.0, out=Z)


_OF_DIFFERENCES: dict[type[Loss], _OfDifferences] = {
    SoftmaxLoss: _logistic,
    SquaredHingeLoss: _squared_violation,
}


def _of_columns(
    of_differences: _OfDifferences | None, loss: Loss, Z: HostArray, y: HostArray
) -> tuple[HostArray, HostArray]:
    """Return losses ``(n, m)`` and the gradient in the scores of the columns ``Z (n, m, c)``.

    It may take the memory of these scores.
    """
    if Z.shape[2] > 1:
        return loss.value_and_grad(Z, y, xp=xp)
    if of_differences is None:
        value, G = loss.value_and_grad(np.concatenate((-0.5 * Z, 0.5 * Z), axis=2), y, xp=xp)
        return value, 0.5 * (G[:, :, 1:] - G[:, :, :1])
    sign = (1.0 - 2.0 * y.astype(Z.dtype)).reshape(len(y), -1, 1)
    Z *= sign
    value, slope = of_differences(loss, Z)
    slope *= sign
    return value[:, :, 0], slope


def _two_classes(
    of_differences: _OfDifferences, loss: Loss, block: Any, shared: Shared, params: Any
) -> tuple[HostArray, ...] | None:
    """Return summed losses ``(m,)`` of a block, and their gradient, where two have one column."""
    W, b = params
    if b.shape[1] > 1:
        return None
    rows = block.rows._replace(X=_BACKEND.astype(block.rows.X, W.dtype)).astype(W.dtype, xp=xp)
    y = labels_of(block.y, shared.targets, shared.positives, xp=xp)
    value, G = _of_columns(of_differences, loss, rows.scores(W, b, xp=xp), y)
    if block.s is not None:
        s = block.s if shared.models is None else block.s.take(shared.models, axis=1)
        value *= s
        G *= s[:, :, None]
    return value.sum(axis=0, dtype=np.float64), *rows.gradient(G, xp=xp)


def _newton_cg(
    loss: Loss,
    fit_intercept: bool,
    search: Any,
    metric: Any,
    product: tuple[HostArray, HostArray],
    weight: HostArray,
    ridge: HostArray,
) -> Any:
    """Return a search of `NewtonCG` a product further on, as its ``advanced`` does.

    In place, in the memory of search and product: some features at a time, on all threads.
    """
    del loss
    parameters, (p, m, c) = type(search.way), search.way.W.shape
    pairs = (search.found, search.left, search.way, product, metric.centre, metric.inverse)
    F, L, V, Q, centre, inverse = (np.ascontiguousarray(W).reshape(p, m * c) for W, _ in pairs)
    size = max(1, _FEATURES // (m * c))
    parts = [slice(i, i + size) for i in range(0, p, size)]

    def of_columns(a: HostArray) -> HostArray:
        return np.repeat(np.broadcast_to(a, (m,)).astype(V.dtype), c)

    def summed(function: Callable[[slice], HostArray]) -> HostArray:
        total = sum(blas.each(function, iter(parts), at_once=True))
        return np.reshape(total, (-1, m, c))

    def dots(a: HostArray, b: HostArray) -> HostArray:
        return np.einsum("ij,ij->j", a, b)

    own, curb = of_columns(weight), of_columns(ridge)

    def bend(part: slice) -> HostArray:
        Q[part] /= own
        Q[part] += curb * V[part]
        return dots(V[part], Q[part])

    b = product[1] / own.reshape(m, c) if fit_intercept else np.zeros_like(product[1])
    curvature = summed(bend)[0].sum(axis=1) + (search.way.b * b).sum(axis=1)
    curved = curvature > 0.0
    length = np.where(curved, search.bent / np.where(curved, curvature, 1.0), 1.0)
    length = np.where(search.solved, 0.0, length).astype(V.dtype)
    along, found, left = of_columns(length), length[:, None] * search.way.b, length[:, None] * b
    found, left = search.found.b + found, search.left.b - left
    of_centre = left.reshape(m * c)

    def move(part: slice) -> HostArray:
        own = Q[part]
        F[part] += along * V[part]
        own *= along
        L[part] -= own
        np.multiply(centre[part], of_centre, out=own)
        np.subtract(L[part], own, out=own)
        own *= inverse[part]
        return np.stack([dots(L[part], own), dots(centre[part], own)])

    rest, shift = summed(move)
    step = metric.inverse.b * left - shift
    rest = rest.sum(axis=1) + (left * step).sum(axis=1)
    solved = search.solved | ~curved | ~(rest > search.enough)
    share = np.where(search.bent > 0.0, search.bent, 1.0)
    share = np.where(solved, 0.0, rest / share).astype(V.dtype)
    further = of_columns(share)

    def turn(part: slice) -> HostArray:
        V[part] *= further
        V[part] += Q[part]
        return further

    summed(turn)
    W = (a.reshape(p, m, c) for a in (F, L, V))
    found, left, way = map(parameters, W, (found, left, step + share[:, None] * search.way.b))
    return type(search)(found, left, way, rest, search.enough, solved)


_BACKEND = Backend(
    name="numpy",
    xp=xp,
    device="cpu",
    move=fetched,
    fetch=np.asarray,
    block_bytes=2 * 2**20,  # a block and its scores stay in the second-level cache
    fold=_fold,
    write=write_in_place,
    over=lambda x: bool(x.all()),
    each=blas.each,
    products=blas.products,
    widened=widened,
    sparse=lambda X: ScipyRows(canonical(X)),
    kernels={
        (SoftmaxLoss, "value_and_grad"): _softmax,
        **{
            (loss, "loss_and_grad"): partial(_two_classes, of_differences)
            for loss, of_differences in _OF_DIFFERENCES.items()
        },
        **{
            (loss, "sgd"): partial(_sgd, partial(_of_columns, _OF_DIFFERENCES.get(loss)))
            for loss in LOSSES.values()
        },
        **{(loss, "newton_cg"): _newton_cg for loss in LOSSES.values()},
    },
)


def select(device: str) -> Backend:
    """Return the backend; it has one device."""
    if device not in ("", "cpu"):
        msg = f"NumPy has no device {device!r}; use 'numpy'"
        raise BackendError(msg)
    return _BACKEND


def follow(_: Any) -> Backend:
    """Return the backend of a NumPy array."""
    return _BACKEND


def describe() -> tuple[str, list[str]]:
    """Return version and devices."""
    return np.__version__, ["cpu"]
