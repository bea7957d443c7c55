"""The objective: the formula of the whole library.

F_j(W_j, b_j) = (1 / Σ_i s_ij) Σ_i s_ij ℓ(x_i W_j + b_j, y_i) + α_j Ω(W_j),  j = 1 … m.

Shapes: ``X (n, p)``, ``y (n,)``, ``s (n, 1)`` or ``(n, m)``, ``W (p, m, c)``, ``b (m, c)``,
scores ``Z (n, m, k)``, values ``(m,)``. c = k columns of weights, except that two classes
under a loss of score differences need one: its scores are (−z/2, z/2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from xplinear.arguments import (
    FLAG,
    ArgumentError,
    check_array,
    check_finite,
    instance,
    integer,
    offering,
    settle,
    shown,
)
from xplinear.data import Block, Data
from xplinear.data.rows import DenseRows, Rows
from xplinear.losses import LOSS, Loss
from xplinear.namespace import Array, Namespace, accumulator, array_namespace, device
from xplinear.penalties import PENALTY, Penalty

__all__ = [
    "Objective",
    "Params",
    "class_scores",
    "columns",
    "loss_and_grads",
    "scores",
    "weighted_penalty",
]


class Params(NamedTuple):
    """Weights ``W (p, m, c)`` and intercepts ``b (m, c)`` of m models."""

    W: Array
    b: Array


def columns(loss: Loss, k: int) -> int:
    """Return c, the columns of weights that k classes need under this loss.

    Examples
    --------
    >>> from xplinear.losses import SoftmaxLoss, SquaredErrorLoss
    >>> columns(SoftmaxLoss(), 2), columns(SoftmaxLoss(), 3), columns(SquaredErrorLoss(), 2)
    (1, 3, 2)
    """
    return 1 if k == 2 and loss.shift_invariant else k


def class_scores(Z: Array, *, xp: Namespace) -> Array:
    """Return scores of the classes ``(n, m, k)`` from scores of the columns ``(n, m, c)``."""
    return xp.concat([-0.5 * Z, 0.5 * Z], axis=-1) if Z.shape[-1] == 1 else Z


def column_gradient(G: Array, c: int) -> Array:
    """Return the gradient in the scores of c columns ``(..., c)`` from that in the classes'."""
    return 0.5 * (G[..., 1:] - G[..., :1]) if c == 1 else G


def scores(X: Array, params: Params, *, xp: Namespace) -> Array:
    """Return column scores ``(n, m, c)``: one matrix product for all models."""
    return DenseRows(X).scores(*params, xp=xp)


def loss_and_grads(
    loss: Loss, rows: Rows, y: Array, s: Array | None, params: Params, *, xp: Namespace
) -> tuple[Array, Params]:
    """Return weighted losses ``(n, m)`` of some rows and the gradients of their sum."""
    Z = rows.scores(*params, xp=xp)
    value, G = loss.value_and_grad(class_scores(Z, xp=xp), y, xp=xp)
    G = column_gradient(G, Z.shape[-1])
    if s is not None:
        value, G = value * s, G * s[..., None]
    return value, Params(*rows.gradient(G, xp=xp))


def _block_loss(loss: Loss, xp: Namespace, block: Block, params: Params) -> tuple[Array]:
    rows, y, s = block
    value, _ = loss.value_and_grad(class_scores(rows.scores(*params, xp=xp), xp=xp), y, xp=xp)
    value = value if s is None else value * s
    return (xp.sum(value, axis=0, dtype=accumulator(value, xp=xp)),)


def _block_loss_and_grad(
    loss: Loss, xp: Namespace, block: Block, params: Params
) -> tuple[Array, Array, Array]:
    value, (dW, db) = loss_and_grads(loss, *block, params, xp=xp)
    return xp.sum(value, axis=0, dtype=accumulator(value, xp=xp)), dW, db


def _means(
    fit_intercept: bool, xp: Namespace, total: Array, dW: Array, db: Array, weight: Array
) -> tuple[Array, Params]:
    own = xp.astype(weight, dW.dtype)[:, None]
    return total / weight, Params(dW / own, db / own if fit_intercept else xp.zeros_like(db))


def _mean(xp: Namespace, total: Array, weight: Array) -> Array:
    del xp
    return total / weight


def _value(penalty: Penalty, xp: Namespace, loss: Array, W: Array, alpha: Array) -> Array:
    return loss + weighted_penalty(penalty, xp, W, alpha)


def _loss_at_zero(loss: Loss, k: int, dtype: Any, xp: Namespace, alpha: Array) -> Array:
    Z = xp.zeros((k, 1, k), dtype=dtype, device=device(alpha))
    value, _ = loss.value_and_grad(Z, xp.arange(k, dtype=xp.int32, device=device(Z)), xp=xp)
    wide = accumulator(Z, xp=xp)
    return xp.zeros_like(alpha, dtype=wide) + xp.mean(xp.astype(value, wide))


def _centred(xp: Namespace, b: Array) -> Array:
    return b - xp.mean(b, axis=1, keepdims=True)


def weighted_penalty(penalty: Penalty, xp: Namespace, W: Array, alpha: Array) -> Array:
    """Return α Ω(W) ``(m,)``, accumulated in float64 where there is one."""
    value = penalty.value(W, xp=xp)
    return xp.astype(alpha, value.dtype) * value


_DATA = offering(Data, "a source of rows, such as xplinear.data.ArrayData")


@dataclass(frozen=True, eq=False)
class Objective:
    """Weighted mean loss plus α times penalty, for m models that share one pass over X.

    Parameters
    ----------
    loss : Loss
    penalty : Penalty
    alpha : Array of shape (m,)
        λ of each model, in the dtype of the computation.
    data : Data
        Where the rows come from.
    k : int
        Number of classes, at least 2.
    fit_intercept : bool, default True
        False keeps b at its start value.
    measured : tuple of (Data, Moments), optional
        What is known of the features of these data, so that it is not measured again.

    Raises
    ------
    ValueError, TypeError
        If a part is not what it must be, or k is less than the number of classes in the data.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> from xplinear.losses import SoftmaxLoss
    >>> from xplinear.penalties import L2Penalty
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> F = Objective(SoftmaxLoss(), L2Penalty(), np.asarray([0.1]), data, k=3)
    >>> F.value(F.zeros()).round(4)
    array([1.0986])
    """

    loss: Loss
    penalty: Penalty
    alpha: Array
    data: Data
    k: int
    fit_intercept: bool = True
    measured: tuple[Data, Any] | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        settle(self, loss=LOSS, penalty=PENALTY, data=_DATA, k=integer(2), fit_intercept=FLAG)
        check_array("alpha", self.alpha)
        if len(self.alpha.shape) != 1 or self.alpha.shape[0] < 1:
            msg = f"alpha must have the shape (m,), one per model, got {tuple(self.alpha.shape)}"
            raise ArgumentError(msg)
        check_finite("alpha", self.alpha, least=0.0)
        self._check_library("alpha", self.alpha)
        self.data.check_classes(self.k, self.m)

    @property
    def xp(self) -> Namespace:
        """The array API namespace of the data."""
        return self.data.backend.xp

    @property
    def m(self) -> int:
        """The number of models."""
        return self.alpha.shape[0]

    def zeros(self) -> Params:
        """Return the parameters every fit starts from: all zero."""
        xp, kind = self.xp, self.data.backend.kind(self.data.dtype)
        b = xp.zeros((self.m, columns(self.loss, self.k)), **kind)
        # Each column of weights is contiguous in memory: matrix products with few columns and
        # operations along the features run up to twice as fast that way.
        return Params(xp.permute_dims(xp.zeros((*b.shape, self.data.p), **kind), (2, 0, 1)), b)

    def loss_at_zero(self) -> Array:
        """Return the mean loss ``(m,)`` of scores that are all 0, every class counted alike.

        Of most losses it is the same for every class, and so F(0), without a pass over the data.
        """
        static = self.loss, self.k, self.data.dtype, self.xp
        return self.data.backend.compile(_loss_at_zero, *static)(self.alpha)

    def take(self, models: Array) -> Objective:
        """Return the objective of a stack of these models only: ``models`` holds their indices."""
        alpha = self.xp.take(self.alpha, models)
        return replace(self, alpha=alpha, data=self.data.take(models))

    def canonical(self, params: Params) -> Params:
        """Return the same models, their intercepts summing to 0 where only differences count."""
        W, b = params
        if b.shape[1] == 1 or not (self.fit_intercept and self.loss.shift_invariant):
            return params
        return Params(W, self.data.backend.compile(_centred, self.xp)(b))

    def check_params(self, params: Params, name: str = "params") -> None:
        """Raise ArgumentError unless parameters have the shapes of this problem's."""
        b = self.m, columns(self.loss, self.k)
        shapes = (self.data.p, *b), b
        found = isinstance(params, Params) and tuple(getattr(a, "shape", None) for a in params)
        if found != shapes:
            got = f"W {found[0]}, b {found[1]}" if isinstance(found, tuple) else shown(params)
            msg = f"{name} must be Params of W {shapes[0]}, (p, m, c), and b {shapes[1]}, got {got}"
            raise ArgumentError(msg)
        self._check_library(f"{name}: W", params.W)
        self._check_library(f"{name}: b", params.b)

    def _check_library(self, name: str, a: Array) -> None:
        if array_namespace(a) is not self.xp:
            backend = self.data.backend.name
            msg = f"{name} must be an array of the library of the data, {backend}, got {shown(a)}"
            raise ArgumentError(msg)

    def _sums(
        self, function: Callable[..., tuple[Array, ...]], params: Params, operation: str = ""
    ) -> Any:
        """Return what a function of a block and the parameters sums up to over all blocks."""
        self.check_params(params)
        static, scores = (self.loss, self.xp), self.m * self.k
        kernel = self.data.backend.kernel(self.loss, operation)
        if kernel is None:
            return self.data.reduce(function, static, params, scores=scores)
        return self.data.reduce(function, static, params, scores=scores, kernel=kernel)

    def data_loss(self, params: Params) -> Array:
        """Return the weighted mean loss ``(m,)``, accumulated in float64 where there is one."""
        (total,) = self._sums(_block_loss, params)
        return self.data.backend.compile(_mean, self.xp)(total, self.data.weight_sum)

    def data_loss_and_grad(self, params: Params) -> tuple[Array, Params]:
        """Return the weighted mean loss ``(m,)`` and its gradient in W and b."""
        sums = self._sums(_block_loss_and_grad, params, "loss_and_grad")
        means = self.data.backend.compile(_means, self.fit_intercept, self.xp)
        return means(*sums, self.data.weight_sum)

    def penalty_value(self, params: Params) -> Array:
        """Return α Ω(W) ``(m,)``."""
        value = self.data.backend.compile(weighted_penalty, self.penalty, self.xp)
        return value(params.W, self.alpha)

    def value(self, params: Params) -> Array:
        """Return F ``(m,)``."""
        value = self.data.backend.compile(_value, self.penalty, self.xp)
        return value(self.data_loss(params), params.W, self.alpha)

    def value_and_grad(self, params: Params) -> tuple[Array, Params]:
        """Return F ``(m,)`` and its gradient (a subgradient where F is kinked)."""
        value, (dW, db) = self.data_loss_and_grad(params)
        dW = dW + self.alpha[:, None] * self.penalty.grad(params.W, xp=self.xp)
        return value + self.penalty_value(params), Params(dW, db)


OBJECTIVE = instance(Objective, "an xplinear.Objective")
