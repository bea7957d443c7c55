"""Numerical gradients, and the check of analytic ones against them.

Slow, approximate and easy to trust; the analytic gradient is fast, exact and easy to get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from xplinear.arguments import (
    CALLABLE,
    NONE,
    check_array,
    check_finite,
    integer,
    number,
    one_of,
    satisfying,
    scores_namespace,
)
from xplinear.backends import Backend, backend_of
from xplinear.data import Block
from xplinear.losses import Loss
from xplinear.namespace import Array, HostArray, Namespace, accumulator, array_namespace, device
from xplinear.objective import Objective, Params, loss_and_grads

__all__ = ["GradientCheck", "check_gradient", "numerical_gradient"]

_LEVELS = 4  # step sizes tried in a check


# What a backend compiles takes xp first.
def _moved(xp: Namespace, w: Array, index: int, step: float) -> Array:
    """Return w with the coordinate of this flat index moved by step · max(1, |w_i|)."""
    order = xp.arange(math.prod(w.shape), dtype=xp.int32, device=device(w))
    size = xp.abs(w)
    moved = w + step * xp.where(size > 1.0, size, 1.0)
    return xp.where(xp.reshape(order == index, w.shape), moved, w)


def _slope(xp: Namespace, after: Any, before: Any, high: Array, low: Array) -> Array:
    """Return the summed rise from before to after over the step from low to high."""
    # Differences first: values that the coordinate does not touch cancel exactly.
    rise, run = after - before, xp.sum(high - low)
    return xp.sum(_wide(rise, run, xp=xp)) / _wide(run, run, xp=xp)


def _wide(x: Any, like: Array, *, xp: Namespace) -> Array:
    """Return x, an array or a Python number, in the widest dtype where ``like`` lives."""
    return xp.asarray(x, dtype=accumulator(like, xp=xp), device=device(like))


def _central(xp: Namespace, f: Callable[[Array], Any], w: Array, index: int, step: float) -> Array:
    high, low = _moved(xp, w, index, step), _moved(xp, w, index, -step)
    return _slope(xp, f(high), f(low), high, low)


def _five_point(
    xp: Namespace, f: Callable[[Array], Any], w: Array, index: int, step: float
) -> Array:
    near, far = _central(xp, f, w, index, step), _central(xp, f, w, index, 2.0 * step)
    return (4.0 * near - far) / 3.0


# Of a loss: all that is needed here.
_WITH_GRADIENT = satisfying(
    lambda subject: (
        not isinstance(subject, type) and callable(getattr(subject, "value_and_grad", 0))
    ),
    "an Objective, a loss (an object with value_and_grad) where y is given, or a callable",
)
_METHODS = {"central": (_central, 1 / 3), "five_point": (_five_point, 1 / 5)}


def numerical_gradient(
    f: Callable[[Array], Any],
    w: Array,
    *,
    method: Literal["central", "five_point"] = "central",
    step: float | None = None,
    xp: Namespace = None,
) -> Array:
    """Return the gradient of f at w by differences, in the shape and dtype of w.

    ``"central"``: $(f(w + h) − f(w − h)) / 2h$, error O(h²). ``"five_point"``:
    $(8 [f(w + h) − f(w − h)] − [f(w + 2h) − f(w − 2h)]) / 12h$, error O(h⁴). One coordinate is
    moved at a time: 2 or 4 calls of f for each.

    Parameters
    ----------
    f : callable
        ``f(w)`` returns a scalar, or an array whose sum is differentiated: values ``(m,)`` of
        models that do not depend on one another give all their gradients at once.
    w : Array
        Real floating, any shape.
    method : {"central", "five_point"}, default "central"
    step : float, optional
        h is ``step`` · max(1, |w_i|); ε^(1/3) by default, ε^(1/5) for five points, ε the
        machine precision of w's dtype.
    xp : Namespace, optional
        Inferred from w if left out.

    Raises
    ------
    ValueError
        If w is not real floating, the method is unknown or the step is not positive.

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2006, §8.1.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.asarray([1.0, 2.0])
    >>> numerical_gradient(lambda w: np.sum(w**3), w).round(6)
    array([ 3., 12.])
    """
    CALLABLE("f", f)
    check_array("w", w)
    step = (number("(0, inf)") | NONE)("step", step)
    xp = array_namespace(w, xp=xp)
    difference, exponent = _METHODS[one_of(*_METHODS)("method", method)]
    h = float(xp.finfo(w.dtype).eps) ** exponent if step is None else step
    slopes = [difference(xp, f, w, i, h) for i in range(math.prod(w.shape))]
    return xp.reshape(xp.astype(xp.stack(slopes), w.dtype), w.shape) if slopes else w


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradient` found.

    Parameters
    ----------
    max_relative_error : float
        The largest |a − n| / max(|a|, |n|, floor), a analytic, n numerical.
    array, index : str, tuple of int
        Where it is: the array's name and the index in it.
    analytic, numerical : float
        The two values there; at a kink the numerical value is the slope nearest to a.
    coordinates : int
        How many coordinates were checked.
    kinks : int
        At how many of them the slopes on the two sides do not meet.
    tolerance : float
        The largest relative error that passes.

    Examples
    --------
    >>> print(GradientCheck(2e-9, "W", (3, 0, 1), 0.25, 0.25, 30, 2, 6e-6))
    passed: largest relative error 2e-09 (tolerance 6e-06) at W[3, 0, 1], analytic 0.25, \
numerical 0.25; 30 coordinates, 2 at a kink
    """

    max_relative_error: float
    array: str
    index: tuple[int, ...]
    analytic: float
    numerical: float
    coordinates: int
    kinks: int
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the largest relative error is within the tolerance; NaN is not."""
        return self.max_relative_error <= self.tolerance

    def __str__(self) -> str:
        place = f"{self.array}[{', '.join(map(str, self.index))}]"
        return (
            f"{'passed' if self.passed else 'FAILED'}: largest relative error "
            f"{self.max_relative_error:.2g} (tolerance {self.tolerance:.2g}) at {place}, "
            f"analytic {self.analytic:.10g}, numerical {self.numerical:.10g}; "
            f"{self.coordinates} coordinates, {self.kinks} at a kink"
        )


def check_gradient(
    subject: Objective | Loss | Callable[[Array], Any],
    point: Params | Array,
    y: Array | None = None,
    *,
    grad: Callable[[Array], Array] | Array | None = None,
    coordinates: int = 200,
    seed: int = 0,
    tolerance: float | None = None,
    xp: Namespace = None,
) -> GradientCheck:
    """Compare an analytic gradient with differences and report the largest error and its place.

    Slopes to the left and to the right are taken with four step sizes, from ε^(1/5) down by
    factors of ε^(1/12); the two neighbours that agree best are extrapolated to h = 0. Where
    none agree, because the two sides do not come closer as the step shrinks, there is a kink:
    the analytic value must lie between the sides, as a subgradient does. The values of a loss
    and of an objective are computed in float64 where the device has it, whatever the dtype of
    the gradient; a plain function is called in the dtype of ``point``, and one with many kinks
    needs float64 to be resolved.

    Parameters
    ----------
    subject : Objective, Loss or callable
        A callable returns a scalar, or an array whose sum is differentiated.
    point : Params or Array
        Parameters of the objective (W, and b if the intercept is fitted, of all m models),
        scores ``(..., k)`` of the loss, or the argument of the callable.
    y : Array of shape (...), optional
        Class codes; for a loss only.
    grad : callable or Array, optional
        Analytic gradient of a callable, or its value at ``point``.
    coordinates : int, default 200
        At most this many of each array, drawn at random.
    seed : int, default 0
        Of that draw.
    tolerance : float, optional
        Largest relative error that passes; by default ε^(1/3) of the gradient's dtype,
        6e-6 in float64 and 5e-3 in float32.
    xp : Namespace, optional
        Inferred if left out.

    Returns
    -------
    GradientCheck
        The relative error is |a − n| / max(|a|, |n|, floor) with floor ε^(1/4) times
        the largest value or slope seen, ε of the dtype the values were computed in: a smaller
        slope is rounding noise.

    Raises
    ------
    TypeError
        If a loss comes without y or a callable without grad.
    ValueError
        If ``point`` is not real floating or the gradient has another shape.

    References
    ----------
    Ridders, Accurate computation of F'(x) and F'(x)F''(x), 1982 (extrapolated differences).

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear.losses import SoftmaxLoss
    >>> check_gradient(SoftmaxLoss(), np.asarray([[3.2, 5.1, -1.7]]), np.asarray([0])).passed
    True
    >>> w = np.asarray([1.0, 2.0])
    >>> check_gradient(lambda w: np.sum(w**2), w, grad=lambda w: 2.02 * w).passed
    False
    """
    coordinates, seed = integer(1)("coordinates", coordinates), integer(0)("seed", seed)
    tolerance = (number("[0, inf)") | NONE)("tolerance", tolerance)
    names, points, grads, value = _subject(subject, point, y, grad, xp)
    xp = array_namespace(*points, xp=xp)
    for name, w, g in zip(names, points, grads, strict=True):
        if tuple(g.shape) != tuple(w.shape):
            of = "subject" if grad is None else "grad"
            msg = f"{of}: the gradient in {name} has shape {tuple(g.shape)}, not {tuple(w.shape)}"
            raise ValueError(msg)
    default = float(xp.finfo(grads[0].dtype).eps) ** (1 / 3)
    places = _places([math.prod(w.shape) for w in points], coordinates, seed)
    backend = backend_of(points[0])
    with backend.double_precision():
        if grad is None:
            points = tuple(xp.astype(w, accumulator(w, xp=xp)) for w in points)
        eps = float(xp.finfo(points[0].dtype).eps)
        table, size = _slopes(backend, value, points, places, eps)
    host_grads = [np.reshape(backend.to_host(g), -1) for g in grads]
    a = np.asarray([host_grads[i][index] for i, index in places], dtype=np.float64)
    n, relative, kink = _compared(a, table, size, eps)
    worst = int(np.argmax(relative))
    i, index = places[worst]
    return GradientCheck(
        max_relative_error=float(relative[worst]),
        array=names[i],
        index=tuple(map(int, np.unravel_index(index, tuple(points[i].shape)))),
        analytic=float(a[worst]),
        numerical=float(n[worst]),
        coordinates=len(places),
        kinks=int(np.sum(kink)),
        tolerance=default if tolerance is None else tolerance,
    )


def _places(sizes: Sequence[int], coordinates: int, seed: int) -> list[tuple[int, int]]:
    """Return which array and which flat index in it, for every coordinate to check."""
    rng = np.random.default_rng(seed)
    return [
        (i, int(index))
        for i, size in enumerate(sizes)
        for index in np.sort(rng.choice(size, min(size, coordinates), replace=False))
    ]


def _subject(
    subject: Any, point: Any, y: Array | None, grad: Any, xp: Namespace
) -> tuple[tuple[str, ...], tuple[Array, ...], tuple[Array, ...], Callable[..., Any]]:
    """Return names of arrays, these, the gradient in each, and the value as their function."""
    if isinstance(subject, Objective):
        subject.check_params(point, "point")
        check_finite("point: W", point.W)
        _, (dW, db) = subject.value_and_grad(point)
        value = partial(_objective_value, subject)
        if subject.fit_intercept:
            return ("W", "b"), (point.W, point.b), (dW, db), value
        return ("W",), (point.W,), (dW,), partial(value, b=point.b)
    if y is not None:
        _WITH_GRADIENT("subject", subject)
        check_array("point", point)
        _, G = subject.value_and_grad(point, y, xp=scores_namespace(point, y, xp=None))
        return ("Z",), (point,), (G,), lambda Z: subject.value_and_grad(Z, y, xp=xp)[0]
    CALLABLE("subject", subject)
    if grad is None:
        msg = "a loss is checked at scores and y, a function with its gradient: grad=..."
        raise TypeError(msg)
    check_array("point", point)
    gradient = grad(point) if callable(grad) else grad
    check_array("grad" if gradient is grad else "what grad returns", gradient)
    return ("w",), (point,), (gradient,), subject


def _block_value(
    loss: Loss, xp: Namespace, dtype: Any, block: Block, params: Params
) -> tuple[Array]:
    rows, y, s = block
    s = None if s is None else xp.astype(s, dtype)
    value, _ = loss_and_grads(loss, rows.astype(dtype, xp=xp), y, s, params, xp=xp)
    return (xp.sum(value, axis=0),)


def _objective_value(objective: Objective, W: Array, b: Array) -> Array:
    """Return F ``(m,)`` computed in the dtype of W, which may be wider than the data's."""
    xp, data = objective.xp, objective.data
    params = Params(W, xp.astype(b, W.dtype, copy=False))
    static = (objective.loss, xp, W.dtype)
    # Twice the scores: they may be twice as wide as the data's dtype says.
    (total,) = data.reduce(_block_value, static, params, scores=2 * objective.m * objective.k)
    return total / data.weight_sum + objective.penalty_value(params)


def _at(value: Callable[..., Any], points: Sequence[Array], i: int, x: Array) -> Any:
    return value(*points[:i], x, *points[i + 1 :])


def _slopes(
    backend: Backend,
    value: Callable[..., Any],
    points: Sequence[Array],
    places: Sequence[tuple[int, int]],
    eps: float,
) -> tuple[HostArray, float]:
    """Return slopes (coordinates, 2 sides, step sizes), and the largest value at the points."""
    xp, base = backend.xp, value(*points)
    moved, slope = backend.compile(_moved, xp), backend.compile(_slope, xp)

    def sides(i: int, index: int) -> Array:
        f, w = partial(_at, value, points, i), points[i]
        left: list[Array] = []
        right: list[Array] = []
        for level in range(_LEVELS):
            step = eps**0.2 * _shrink(eps) ** level
            low, high = moved(w, index, -step), moved(w, index, step)
            left.append(slope(base, f(low), w, low))
            right.append(slope(f(high), base, high, w))
        return xp.stack([xp.stack(left), xp.stack(right)])

    table = backend.to_host(xp.stack([sides(*place) for place in places])).astype(np.float64)
    size = np.max(np.abs(backend.to_host(_wide(base, points[0], xp=xp))))
    return table, float(size)


def _shrink(eps: float) -> float:
    """Return the ratio of a step size to the one before it."""
    return eps ** (1 / 12)


def _compared(
    a: HostArray, table: HostArray, size: float, eps: float
) -> tuple[HostArray, HostArray, HostArray]:
    """Return numerical slopes, the relative errors of analytic ones, and where kinks are."""
    n, error, gap, low, high = _extrapolated(table, _shrink(eps))
    floor = eps**0.25 * max(size, float(np.max(np.abs(a))), float(np.max(np.abs(n))))
    scale = np.maximum(np.maximum(np.abs(a), np.abs(n)), floor + np.finfo(np.float64).tiny)
    kink = (error > 0.5 * eps ** (1 / 3) * scale) & (error > gap / 3)
    n = np.where(kink, np.clip(a, low, high), n)
    return n, np.abs(a - n) / scale, kink


def _extrapolated(table: HostArray, shrink: float) -> tuple[HostArray, ...]:
    """Return, per coordinate, the slope, its error, the gap between the sides, and their range.

    ``table`` is (coordinates, 2 sides, levels). Where f is smooth the mean of the two sides
    is constant up to O(h²) and their gap is proportional to h; the error is what is not so.
    """
    left, right = table[:, 0], table[:, 1]
    middle, gap = 0.5 * (left + right), right - left
    slope = (middle[:, 1:] - shrink**2 * middle[:, :-1]) / (1.0 - shrink**2)
    error = np.abs(np.diff(middle)) + np.abs(gap[:, 1:] - shrink * gap[:, :-1])
    best = np.argmin(error, axis=1)[:, None]
    slope, error, gap = (
        np.take_along_axis(a, best, axis=1)[:, 0] for a in (slope, error, np.abs(gap[:, 1:]))
    )
    nearest = table[:, :, -2:]  # one level alone might be rounding noise
    return slope, error, gap, np.min(nearest, axis=(1, 2)), np.max(nearest, axis=(1, 2))
