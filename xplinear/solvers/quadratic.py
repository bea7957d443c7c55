"""Quadratic models of the data loss plus a penalty with a prox, minimized for m models at once.

Weights are ``(m, c, q + 1)`` here: of each class q weights and, last, the intercept.
"""

from __future__ import annotations

from typing import NamedTuple

from xplinear.namespace import Array, Namespace
from xplinear.objective import weighted_penalty
from xplinear.penalties import Penalty
from xplinear.solvers.hessian import augmented, params_of_augmented

__all__ = [
    "Quadratic",
    "Trial",
    "flat",
    "improve",
    "inner",
    "of_weights",
    "promise",
    "prox",
    "start",
]

_STEPS = 5  # compiled together
_OVERSTEP = 1.25  # in units of 1 / eigenvalue; full momentum is stable up to 4/3


class Quadratic(NamedTuple):
    """gᵀv + αΩ(W + v) + ½ vᵀBv of the move v; g and α are those of F, times a step size.

    B is ``exact (m, d, d)``, d = c(q + 1); or, where that is None, scale·B₀ + Uᵀ diag(sign) U with
    ``U (m, 2 memory, d)``, B₀ being ``gram (q, q)`` in each column of weights, or where that is
    empty ``diagonal``. ``diagonal`` is about that of B₀ or B, everywhere positive.
    """

    start: Array
    gradient: Array
    alpha: Array
    diagonal: Array
    exact: Array = None
    gram: Array = None
    scale: Array = None
    U: Array = None
    sign: Array = None


class Trial(NamedTuple):
    """State of FISTA: iterate and extrapolated point, each with its B(· − start).

    The step is 1 / ``eigenvalue``, the largest of D⁻¹B met, D the diagonal.
    """

    x: Array
    Bx: Array
    y: Array
    By: Array
    eigenvalue: Array


def inner(a: Array, b: Array, *, xp: Namespace) -> Array:
    """Return the inner products ``(m,)``."""
    return xp.sum(a * b, axis=(1, 2))


def flat(a: Array, *, xp: Namespace) -> Array:
    """Return the vectors ``(m, d)``."""
    return xp.reshape(a, (a.shape[0], a.shape[1] * a.shape[2]))


def of_weights(matrix: Array, diagonal: Array, move: Array, *, xp: Namespace) -> Array:
    """Return the product with a symmetric matrix in each column of weights, and a diagonal.

    The diagonal is the intercept's, and everyone's where the matrix is empty.
    """
    product = diagonal * move
    q, (m, c, _) = matrix.shape[0], move.shape
    if matrix.shape[1] == 0:
        return product
    W = xp.reshape(xp.reshape(move[:, :, :q], (m * c, q)) @ matrix, (m, c, q))
    return xp.concat([W, product[:, :, q:]], axis=2)


def prox(penalty: Penalty, point: Array, step: Array, *, xp: Namespace) -> Array:
    """Return the prox of the penalty in the weights, with a step for every entry."""
    W, b = params_of_augmented(point, xp=xp)
    return augmented(penalty.prox(W, params_of_augmented(step, xp=xp).W, xp=xp), b, xp=xp)


def start(model: Quadratic, eigenvalue: Array, *, xp: Namespace) -> Trial:
    """Return the trial that has not moved."""
    nothing = xp.zeros_like(model.start)
    return Trial(model.start, nothing, model.start, nothing, eigenvalue)


def improve(penalty: Penalty, most: int, xp: Namespace, model: Quadratic, trial: Trial) -> Trial:
    """Make some steps of greedy FISTA; where B is exact, also two towards the face's bottom.

    ``most`` weights of a model move in these.
    """
    for full in (False, True):
        for _ in range(_STEPS):
            trial = _fista(penalty, model, trial, xp=xp)
        if model.exact is not None:
            trial = _newton(penalty, most, model, trial, full, xp=xp)
    return trial


def promise(penalty: Penalty, xp: Namespace, model: Quadratic, trial: Trial) -> tuple[Array, Array]:
    """Return by how much ``(m,)`` the trial decreases the model, and about what is left.

    Near the minimum the difference of its values is nothing but rounding: then it is ½ vᵀBv, of
    which no more than what the penalty gains is missing.
    """
    move = trial.x - model.start
    bent = 0.5 * inner(move, trial.Bx, xp=xp)
    slope = inner(model.gradient, move, xp=xp)
    before, after = (_penalty(penalty, a, model.alpha, xp=xp) for a in (model.start, trial.x))
    fall = before - after - xp.astype(slope + bent, before.dtype)
    fall = fall - 8.0 * float(xp.finfo(bent.dtype).eps) * (before + after)
    gained = xp.maximum(bent, xp.astype(fall, bent.dtype))
    D = trial.eigenvalue[:, None, None] * model.diagonal
    step = model.alpha[:, None, None] / D
    left = prox(penalty, trial.x - (model.gradient + trial.Bx) / D, step, xp=xp) - trial.x
    return xp.maximum(gained, xp.zeros_like(gained)), 0.5 * inner(left, D * left, xp=xp)


def _penalty(penalty: Penalty, point: Array, alpha: Array, *, xp: Namespace) -> Array:
    return weighted_penalty(penalty, xp, params_of_augmented(point, xp=xp).W, alpha)


def _product(model: Quadratic, move: Array, *, xp: Namespace) -> Array:
    vector = flat(move, xp=xp)[:, :, None]
    if model.exact is not None:
        return xp.reshape(model.exact @ vector, move.shape)
    product = model.scale[:, None, None] * of_weights(model.gram, model.diagonal, move, xp=xp)
    along = xp.matrix_transpose(model.sign * (model.U @ vector))
    return product + xp.reshape(along @ model.U, move.shape)


def _fista(penalty: Penalty, model: Quadratic, trial: Trial, *, xp: Namespace) -> Trial:
    """Make a step of greedy FISTA: full momentum, dropped where it points uphill."""
    D = model.diagonal
    x, Bx, y, By, eigenvalue = trial
    step = _OVERSTEP / (eigenvalue[:, None, None] * D)
    T = y - step * (model.gradient + By)
    T = prox(penalty, T, step * model.alpha[:, None, None], xp=xp)
    moved, BT = T - y, _product(model, T - model.start, xp=xp)
    length, bent = inner(moved, D * moved, xp=xp), inner(moved, BT - By, xp=xp)
    # The step fits the model's curvature, or the eigenvalue is raised to what was met.
    fits = bent <= eigenvalue * length
    met = bent / xp.where(length > 0.0, length, 1.0)
    downhill = inner(moved, D * (T - x), xp=xp) >= 0.0
    beta, keep = xp.astype(downhill, T.dtype)[:, None, None], fits[:, None, None]
    return Trial(
        x=xp.where(keep, T, x),
        Bx=xp.where(keep, BT, Bx),
        y=xp.where(keep, T + beta * (T - x), y),
        By=xp.where(keep, BT + beta * (BT - Bx), By),
        eigenvalue=xp.where(fits, eigenvalue, 1.1 * met),
    )


def _newton(
    penalty: Penalty, most: int, model: Quadratic, trial: Trial, full: bool, *, xp: Namespace
) -> Trial:
    """Go to the bottom of the face on which a proximal step lands, if the model is lower there.

    On a face, weights that are zero stay zero and the others keep their signs; the penalty is
    taken as linear there plus what its gradient bends from W to 2W, which for L1, L2 and their
    mixtures is exact. Where signs would change, these weights become zero; or the step ends
    where the first does. A step that is not ``full`` moves a weight about as far as 0 is away
    where the model is flat: there the bottom of the face is at infinity. Only points that
    decrease the model are taken, so that the penalty may be of any kind.
    """
    D, alpha = model.diagonal, model.alpha[:, None, None]
    step = 1.0 / (trial.eigenvalue[:, None, None] * D)

    def landed(point: Array, product: Array) -> Array:
        slope = model.gradient + product
        return prox(penalty, point - step * slope, step * alpha, xp=xp)

    T = landed(trial.x, trial.Bx)
    W, b = params_of_augmented(T, xp=xp)
    once, twice = (penalty.grad(factor * W, xp=xp) for factor in (1.0, 2.0))
    bend = xp.where(W == 0.0, 0.0, (twice - once) / xp.where(W == 0.0, 1.0, W))
    pull = alpha * augmented(once, xp.zeros_like(b), xp=xp)
    bend = xp.where(bend > 0.0, bend, 0.0)
    if not full:
        bend = bend + xp.where(W == 0.0, 0.0, once / xp.where(W == 0.0, 1.0, W))
    bend = alpha * augmented(bend, xp.zeros_like(b), xp=xp)
    # The intercept has no penalty, and no face.
    weight = augmented(xp.ones_like(W), xp.zeros_like(b), xp=xp) > 0.0
    BT = _product(model, T - model.start, xp=xp)
    free, slope = (T != 0.0) | ~weight, model.gradient + BT + pull
    move = _solved(model, min(most, T.shape[1] * T.shape[2]), free, slope, bend, xp=xp)
    N = T + move
    crossed = weight & (N * T < 0.0)
    share = xp.where(crossed, T / xp.where(crossed, T - N, 1.0), 1.0)
    first = T + xp.min(share, axis=(1, 2), keepdims=True) * move
    points = [N, xp.where(crossed, 0.0, N), first]
    if not getattr(penalty, "separable", False):
        # A penalty of one's own may say only in its prox where weights must not be.
        points = [landed(a, _product(model, a - model.start, xp=xp)) for a in points]
    return _best(penalty, model, trial, [*points, T], xp=xp)


def _solved(
    model: Quadratic, most: int, free: Array, slope: Array, bend: Array, *, xp: Namespace
) -> Array:
    """Return −(B + diag(bend))⁻¹ slope on the free entries, 0 elsewhere.

    If more are free than ``most``, those of the largest slopes move.
    """
    mask, unit = flat(free, xp=xp), flat(xp.sqrt(model.diagonal), xp=xp)
    right, extra = -flat(slope, xp=xp) / unit, flat(bend / model.diagonal, xp=xp)
    matrix, place = model.exact, None
    if most < mask.shape[1]:
        size = xp.abs(right)
        rank = xp.where(mask, 1.0 + size / (1.0 + size), 0.0)
        order = xp.argsort(rank, axis=1, descending=True)
        place, order = xp.argsort(order, axis=1), order[:, :most]
        mask, unit, right, extra = (
            xp.take_along_axis(a, order, axis=1) for a in (mask, unit, right, extra)
        )
        matrix = xp.take_along_axis(matrix, order[:, :, None], axis=1)
        matrix = xp.take_along_axis(matrix, order[:, None, :], axis=2)
    scaled = matrix / (unit[:, :, None] * unit[:, None, :])
    scaled = xp.where(mask[:, :, None] & mask[:, None, :], scaled, 0.0)
    # So little that it matters only where the Hessian is singular.
    ridge = float(xp.finfo(slope.dtype).eps) ** (2.0 / 3.0)
    extra = xp.where(mask, extra + ridge, 1.0)
    one = xp.cumulative_sum(xp.ones_like(unit[0, :]))
    scaled = scaled + xp.where(one[:, None] == one, extra[:, :, None], 0.0)
    move = xp.linalg.solve(scaled, xp.where(mask, right, 0.0)[:, :, None])[:, :, 0]
    move = xp.where(mask & xp.isfinite(move), move / unit, 0.0)
    if place is not None:
        move = xp.concat([move, xp.zeros_like(move[:, :1])], axis=1)
        move = xp.take_along_axis(move, xp.where(place < most, place, most), axis=1)
    return xp.reshape(move, slope.shape)


def _best(
    penalty: Penalty, model: Quadratic, trial: Trial, points: list[Array], *, xp: Namespace
) -> Trial:
    """Return the trial, or the point at which the model is lowest; the first in doubt."""
    points = [*points, trial.x]
    m, c, width = trial.x.shape
    moves = xp.stack([xp.reshape(a - model.start, (m, c * width)) for a in points], axis=1)
    products = moves @ model.exact
    every = xp.reshape(xp.stack(points, axis=1), (m * len(points), c, width))
    alphas = xp.reshape(xp.stack([model.alpha] * len(points), axis=1), (m * len(points),))
    penalties = xp.reshape(_penalty(penalty, every, alphas, xp=xp), (m, len(points)))
    smooth = xp.sum(moves * (0.5 * products + flat(model.gradient, xp=xp)[:, None, :]), axis=2)
    values = penalties + xp.astype(smooth, penalties.dtype)
    noise = 8.0 * float(xp.finfo(moves.dtype).eps) * penalties[:, -1]
    x, Bx, best = trial.x, trial.Bx, values[:, -1] + noise
    found = xp.zeros_like(best, dtype=xp.bool)
    for i, point in enumerate(points[:-1]):
        better = values[:, i] < best
        best, found = xp.where(better, values[:, i], best), found | better
        keep = better[:, None, None]
        x = xp.where(keep, point, x)
        Bx = xp.where(keep, xp.reshape(products[:, i, :], x.shape), Bx)
    anew = found[:, None, None]
    return trial._replace(x=x, Bx=Bx, y=xp.where(anew, x, trial.y), By=xp.where(anew, Bx, trial.By))
