"""The Gram matrix of the features: what the data loss's Hessian is like before any step.

At the centre of the features, it is about c·XᵀX/n in each column of W, c the loss's curvature
bound (Böhning), X centred.
"""

from __future__ import annotations

from typing import NamedTuple

from xplinear.data import Block
from xplinear.data.protocol import compiled, row_width
from xplinear.data.rows import Rows
from xplinear.losses.true_class import diagonal
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, columns
from xplinear.solvers.metric import (
    Moments,
    feature_moments,
    loss_curvature,
    penalty_curvature,
)
from xplinear.solvers.protocol import take_models

__all__ = [
    "LARGEST_GRAM",
    "Bounds",
    "Preconditioner",
    "bounds",
    "gram_pays",
    "preconditioner",
    "sampled_centre",
]

_ROWS = 8192  # that a Gram matrix is made of, unless they hold more than so many numbers
_ENTRIES = 2**26
_FEW_ROWS = 1024  # they do for variances and a largest eigenvalue
_POWER_ITERATIONS = 5
LARGEST_GRAM = 4096  # features; an eigendecomposition of more takes minutes
_DAMPING = 0.3  # of the mean eigenvalue; 0.03 to 1 need about as many steps, 0 up to twice as many
_WILD = 100.0  # mean variance over median variance from which features are scaled
_SAVED_PASSES = 100  # by the Gram matrix, in most cases
_DECOMPOSITION = 25  # p³ times this: the operations of an eigendecomposition


def gram_pays(objective: Objective) -> bool:
    """Return whether the Gram matrix costs less than the passes it saves, and p ≤ 4096."""
    n, p, entries = objective.data.n, objective.data.p, objective.data.entries
    scores = objective.m * columns(objective.loss, objective.k)
    cost = p * (2 * row_width(objective.data) * min(n, _ROWS) + _DECOMPOSITION * p * p)
    return p <= LARGEST_GRAM and cost <= _SAVED_PASSES * 4 * entries * scores


def _sampled_rows(objective: Objective, gram: bool) -> Block:
    """Return the rows the Gram matrix is made of, or fewer where there will be none."""
    rows = min(_ROWS if gram else _FEW_ROWS, _ENTRIES // row_width(objective.data))
    return objective.data.sample(max(64, rows))


def sampled_centre(objective: Objective) -> Array:
    """Return the mean ``(p,)`` of a sample of the rows, 0 where the intercept is given."""
    centred = compiled(objective.data, _centred_rows, objective.fit_intercept, objective.xp)
    return centred(_sampled_rows(objective, gram=False))[0]


class _Centred(NamedTuple):
    """Rows x as they are seen from a point near them, ``gap (p,)`` from where they are centred.

    Weights ``s (r, 1)`` have a mean of 1, ``mean (p,)`` is that of the rows.
    """

    rows: Rows
    s: Array | None
    mean: Array
    gap: Array

    def times(self, v: Array, *, xp: Namespace) -> Array:
        """Return the product ``(p,)`` of the mean of x xᵀ, x from the centre, with a vector."""
        u = self.rows.product(v[:, None]) + xp.sum(self.gap * v)
        u = u if self.s is None else self.s * u
        total = self.rows.transposed_product(u)[:, 0] + self.gap * xp.sum(u)
        return total / self.rows.shape[0]

    def outer(self, G: Array) -> Array:
        """Return the mean ``(p, p)`` of x xᵀ, of that from the point."""
        both = self.mean[:, None] * self.gap
        return G + both + both.T + self.gap[:, None] * self.gap

    def second(self, square: Array) -> Array:
        """Return its diagonal ``(p,)``."""
        return square + 2.0 * self.mean * self.gap + self.gap * self.gap


def _centred_rows(fit_intercept: bool, xp: Namespace, block: Block) -> tuple[Array, _Centred]:
    """Return the centre ``(p,)``, and the rows from there.

    Their weights are the mean of the models', scaled to a mean of 1.
    """
    s, r = block.s, block.rows.shape[0]
    if s is not None:
        s = xp.mean(s, axis=1, keepdims=True)
        total = xp.mean(s)
        s = s / xp.where(total > 0.0, total, 1.0)
    point, rows = block.rows.near(s, xp=xp)
    ones = block.rows.ones(xp=xp) if s is None else s
    mean = rows.transposed_product(ones)[:, 0] / r
    if fit_intercept:
        return point + mean, _Centred(rows, s, mean, -mean)
    return xp.zeros_like(mean), _Centred(rows, s, mean, point)


def _scaled_rows(
    fit_intercept: bool, curvature: float, xp: Namespace, block: Block, ridge: Array
) -> tuple[Array, _Centred, Array, Array]:
    """Return the centre, the centred rows, the variances, and d; all but the rows ``(p,)``.

    d is 1, unless features are of very different units: there d is 1 / variance, but no larger
    than the penalty allows, which holds the weights of features of less variance.
    """
    centre, rows = _centred_rows(fit_intercept, xp, block)
    ones = block.rows.ones(xp=xp) if rows.s is None else rows.s
    square = rows.rows.squared(xp=xp).transposed_product(ones)[:, 0] / rows.rows.shape[0]
    variance = rows.second(square)
    typical = xp.mean(variance)
    typical = xp.where(typical > 0.0, typical, 1.0)
    wild = typical > _WILD * xp.sort(variance)[(variance.shape[0] - 1) // 2]
    tiny = float(xp.finfo(variance.dtype).smallest_normal) ** 0.5
    least = xp.maximum(xp.min(ridge) / curvature, tiny * typical)
    square = xp.where(wild, 1.0 / xp.maximum(variance, least), 1.0)
    return centre, rows, variance, square


def _gram_matrix(rows: _Centred, square: Array, *, xp: Namespace) -> Array:
    """Return the mean ``(p, p)`` of x xᵀ, of features times √d."""
    unit = xp.sqrt(square)
    matrix = rows.outer(rows.rows.gram(rows.s, xp=xp) / rows.rows.shape[0])
    return unit[:, None] * matrix * unit


def _damping(spectrum: Array, *, xp: Namespace) -> Array:
    """Return what to add to the eigenvalues, given these or the diagonal."""
    mean = _DAMPING * xp.mean(spectrum)
    return xp.where(mean > 0.0, mean, 1.0)  # all features constant


class Preconditioner(NamedTuple):
    """An approximate inverse Hessian: T diag(inner) Tᵀ in the features.

    ``centre (p, 1)``, ``basis`` T ``(p, r)``, ``spectrum (r,)`` of the data's Hessian in it,
    ``inner (m, r)``, intercept's ``bias``. r is p; where the Gram matrix costs more than it
    saves, the basis is empty, and ``spectrum (p,)`` and ``inner (m, p)`` are of the features,
    the diagonal of the inverse Hessian. ``bound`` is the spectrum without damping: no curvature of
    the data exceeds it, along the basis ``(r,)`` or else along each feature alone ``(p,)``.
    ``ridge (m,)`` is the penalty's curvature.
    ``blocks (m or 1, c, p + 1, p + 1)``, the intercept last, take the place of all that; ``even``
    is 1 where vectors sum to 0 over the classes, which a block for each alone does not keep, or 0.
    """

    centre: Array
    basis: Array
    spectrum: Array
    bound: Array
    ridge: Array
    inner: Array
    bias: float
    blocks: Array | None = None
    even: float = 0.0

    def strengthened(self, objective: Objective) -> Preconditioner:
        """Return the preconditioner of models that differ in their penalties' curvatures."""
        ridge = penalty_curvature(objective)
        inner = objective.data.backend.compile(_inner, objective.xp)
        return self._replace(ridge=ridge, inner=inner(self.basis, self.spectrum, ridge))

    def times(self, vector: Array, c: int, *, xp: Namespace) -> Array:
        """Return its product with a vector ``(m, c p + c)``."""
        m, d = vector.shape
        if self.blocks is not None:
            W = xp.reshape(vector[:, : d - c], (m, c, d // c - 1, 1))
            both = xp.concat([W, vector[:, d - c :, None, None]], axis=2)
            both = _products(self.blocks, both, xp=xp)[..., 0]
            both = both - self.even * xp.mean(both, axis=1, keepdims=True)
            return xp.concat([xp.reshape(both[..., :-1], (m, d - c)), both[..., -1]], axis=1)
        if self.basis.shape[1]:
            W = xp.reshape(vector[:, : d - c], (m * c, d // c - 1)) @ self.basis
            W = xp.reshape(W, (m, c, self.inner.shape[1])) * self.inner[:, None, :]
            W = xp.reshape(W, (m * c, self.inner.shape[1])) @ self.basis.T
        else:
            W = xp.reshape(vector[:, : d - c], (m, c, d // c - 1)) * self.inner[:, None, :]
        return xp.concat([xp.reshape(W, (m, d - c)), self.bias * vector[:, d - c :]], axis=1)

    def square(self, vector: Array, c: int, *, xp: Namespace) -> Array:
        """Return the product ``(m,)`` of a vector with what `times` makes of it, for half of it."""
        if self.blocks is not None:
            return xp.vecdot(vector, self.times(vector, c, xp=xp))
        m, d = vector.shape
        W, b = xp.reshape(vector[:, : d - c], (m * c, d // c - 1)), vector[:, d - c :]
        W = xp.reshape(W @ self.basis if self.basis.shape[1] else W, (m, c, self.inner.shape[1]))
        return xp.vecdot(xp.sum(W * W, axis=1), self.inner) + xp.vecdot(b, self.bias * b)

    def take(self, models: Array, *, xp: Namespace) -> Preconditioner:
        """Return the preconditioner of a stack of these models only."""
        shared = self.blocks is None or self.blocks.shape[0] == 1
        own = {"ridge": self.ridge, "inner": self.inner}
        own |= {} if shared else {"blocks": self.blocks}
        return self._replace(**{name: take_models(a, models, xp=xp) for name, a in own.items()})


def _products(blocks: Array, vectors: Array, *, xp: Namespace) -> Array:
    """Return blocks ``(m or 1, c, d, d)`` times vectors ``(m, c, d, 1)``: what is shared, once."""
    if blocks.shape[0] == vectors.shape[0]:
        return blocks @ vectors
    together = blocks[0, ...] @ xp.permute_dims(vectors[..., 0], (1, 2, 0))
    return xp.permute_dims(together, (2, 0, 1))[..., None]


def preconditioner(objective: Objective, gram: bool) -> Preconditioner:
    """Return the preconditioner, with or without a Gram matrix, from a sample of the rows."""
    curvature = loss_curvature(objective.loss, objective.k)
    static = gram, curvature, objective.fit_intercept, objective.xp
    decompose = compiled(objective.data, _decompose, *static)
    ridge = penalty_curvature(objective)
    rows = _sampled_rows(objective, gram)
    with objective.data.backend.products(objective.data.p**3 if gram else 0.0):
        centre, basis, spectrum, bound, inner = decompose(rows, ridge)
    return Preconditioner(centre, basis, spectrum, bound, ridge, inner, 1.0 / curvature)


def _inner(xp: Namespace, basis: Array, spectrum: Array, ridge: Array) -> Array:
    units = xp.sum(basis * basis, axis=0) if basis.shape[1] else 1.0
    return 1.0 / (spectrum + ridge[:, None] * units)


def _decompose(
    gram: bool, curvature: float, fit_intercept: bool, xp: Namespace, block: Block, ridge: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Return centre, basis, spectrum, bound and inner of the preconditioner."""
    mean, X, variance, square = _scaled_rows(fit_intercept, curvature, xp, block, ridge)
    if not gram:
        largest = _largest_eigenvalue(X, variance, square, xp=xp)
        basis, damped, bound = (
            mean[:, None][:, :0],
            curvature * largest / square,
            curvature * variance,
        )
        return mean[:, None], basis, damped, bound, _inner(xp, basis, damped, ridge)
    matrix = _gram_matrix(X, square, xp=xp)
    eigenvalues, Q = xp.linalg.eigh(matrix)
    rounding = 10.0 * float(xp.finfo(mean.dtype).eps) * xp.max(eigenvalues)
    bound = xp.maximum(eigenvalues, xp.zeros_like(eigenvalues))
    damped = curvature * (bound + _damping(eigenvalues, xp=xp))
    basis, bound = xp.sqrt(square)[:, None] * Q, curvature * (bound + rounding)
    return mean[:, None], basis, damped, bound, _inner(xp, basis, damped, ridge)


def _largest_eigenvalue(rows: _Centred, variance: Array, square: Array, *, xp: Namespace) -> Array:
    """Return the largest eigenvalue of XᵀX/n, from below, by power iteration; X times √d."""
    unit = xp.sqrt(square)
    v, norm = xp.sqrt(variance) * unit, xp.ones_like(variance[0])
    for _ in range(_POWER_ITERATIONS):
        v = unit * rows.times(unit * v / norm, xp=xp)
        norm = xp.sqrt(xp.sum(v * v))
        norm = xp.where(norm > 0.0, norm, 1.0)
    return norm


class Bounds(NamedTuple):
    """Bounds of the data loss's curvature, and what is made of them before any step.

    ``centre (p, 1)`` of the features; ``bound (1, c, p + 1)`` of each weight; ``gram`` and
    ``inverse (p, p)`` of each column of weights, damped, or ``(p, 0)`` where they cost more than
    they save, and ``diagonal (1, c, p + 1)``, damped. A row times ``gram`` is the product over the
    diagonal; a row over the diagonal times ``inverse`` is that with the inverse.
    """

    centre: Array
    bound: Array
    gram: Array
    inverse: Array
    diagonal: Array


def bounds(objective: Objective, *, gram: bool) -> Bounds:
    """Return the bounds, from a sample of the rows with a Gram matrix, from all without."""
    xp, compile_ = objective.xp, objective.data.backend.compile
    curvature, c = loss_curvature(objective.loss, objective.k), columns(objective.loss, objective.k)
    static = curvature, c, objective.fit_intercept, xp
    if gram:
        return compiled(objective.data, _gram, *static)(
            _sampled_rows(objective, gram=True), objective.alpha
        )
    like = objective.zeros().W[:, 0, 0]
    return compile_(_variances, *static)(feature_moments(objective), like)


def _everywhere(features: Array, intercept: float, c: int, *, xp: Namespace) -> Array:
    row = xp.concat([features, xp.full_like(features[:1], intercept)])
    return xp.stack([row] * c, axis=0)[None, :, :]


def _gram(
    curvature: float, c: int, fit_intercept: bool, xp: Namespace, block: Block, alpha: Array
) -> Bounds:
    mean, X, _, square = _scaled_rows(fit_intercept, curvature, xp, block, alpha)
    matrix = _gram_matrix(X, square, xp=xp)
    damped = _damping(xp.linalg.diagonal(matrix), xp=xp)
    matrix = matrix + diagonal(damped * xp.ones_like(square), xp=xp)
    units = xp.sqrt(square[:, None] * square)
    gram, inverse = curvature * matrix / units, xp.linalg.inv(matrix) * units / curvature
    own = xp.linalg.diagonal(gram)
    bound = _everywhere(own, curvature, c, xp=xp)
    return Bounds(mean[:, None], bound, gram / own, own[:, None] * inverse, bound)


def _variances(
    curvature: float, c: int, fit_intercept: bool, xp: Namespace, moments: Moments, like: Array
) -> Bounds:
    mean, variance = moments.mean, moments.deviation / moments.weight
    if not fit_intercept:
        mean, variance = xp.zeros_like(mean), variance + mean * mean
    variance = xp.astype(xp.max(variance, axis=1), like.dtype)
    bound, damped = (
        _everywhere(curvature * a, curvature, c, xp=xp)
        for a in (xp.where(variance > 0.0, variance, 1.0), variance + _damping(variance, xp=xp))
    )
    none = like[:, None][:, :0]
    centre = xp.astype(xp.mean(mean, axis=1, keepdims=True), like.dtype)
    return Bounds(centre, bound, none, none, damped)
