"""Quadratic models of the data loss plus a penalty with a prox, minimized for m models at once.

Weights are ``(m, c, q + 1)`` here: of each class q weights and, last, the intercept.
"""

from __future__ import annotations

from typing import NamedTuple

from xplinear.losses.true_class import diagonal
from xplinear.namespace import Array, Namespace, device
from xplinear.objective import weighted_penalty
from xplinear.penalties import Penalty
from xplinear.solvers.hessian import augmented, params_of_augmented

__all__ = [
    "Quadratic",
    "Trial",
    "fista",
    "flat",
    "inner",
    "of_weights",
    "promise",
    "quadratic",
    "shrunk",
    "start",
    "towards_bottom",
]

_STEPS = 5  # of FISTA, before it is looked at what they gained
_LEFT = 1e-3  # of what was gained: so little is not worth more steps
_OVERSTEP = 1.25  # in units of 1 / eigenvalue; full momentum is stable up to 4/3


class Quadratic(NamedTuple):
    """gᵀv + αΩ(W + v) + ½ vᵀBv of the move v; g and α are those of F, times a step size.

    ``diagonal`` D is about that of B, everywhere positive. What is computed with is over it:
    ``gradient`` D⁻¹g, ``shrinkage`` D⁻¹α, and D⁻¹B, which is ``exact (m, d, d)``, d = c(q + 1); or,
    where that is None, B₀ + D⁻¹Rᵀ middle R with ``rows`` R ``(m, r, d)``, B₀ being ``gram (q, q)``
    in each column of weights, from the right, and the identity elsewhere; see `of_weights`.
    """

    start: Array
    gradient: Array
    alpha: Array
    diagonal: Array
    shrinkage: Array
    weight: Array  # (q + 1,), all but the intercept
    momentum: Array  # (2, 1, 1, 1), of the extrapolated point, not of the iterate
    exact: Array = None
    gram: Array = None
    rows: Array = None
    middle: Array = None  # (m, r, r)


class Trial(NamedTuple):
    """State of FISTA: extrapolated point and iterate, each with its D⁻¹B(· − start).

    The step is 1 / ``eigenvalue``, the largest of D⁻¹B met.
    """

    points: Array  # (m, 2, 2, c, q + 1)
    eigenvalue: Array
    full: Array  # whether the next step towards the bottom of a face goes all the way
    solved: Array  # little is left to gain: it stays as it is

    @property
    def x(self) -> Array:
        """The iterate."""
        return self.points[:, 1, 0, :, :]


def inner(a: Array, b: Array, *, xp: Namespace) -> Array:
    """Return the inner products ``(m,)``."""
    return xp.sum(a * b, axis=(1, 2))


def flat(a: Array, *, xp: Namespace) -> Array:
    """Return the vectors ``(m, d)``."""
    return xp.reshape(a, (a.shape[0], a.shape[1] * a.shape[2]))


def of_weights(matrix: Array, move: Array, *, xp: Namespace) -> Array:
    """Return the product of each column of weights with a matrix ``(q, q)``.

    The intercept's stays as it is, and all where the matrix is empty.
    """
    q, (m, c, _) = matrix.shape[0], move.shape
    if matrix.shape[1] == 0:
        return move
    W = xp.reshape(xp.reshape(move[:, :, :q], (m * c, q)) @ matrix, (m, c, q))
    return xp.concat([W, move[:, :, q:]], axis=2)


def shrunk(penalty: Penalty, point: Array, step: Array, *, xp: Namespace) -> Array:
    """Return the prox of the penalty in weights ``(m, c, q)``, with a step for every one."""
    W, step = (xp.permute_dims(a, (2, 0, 1)) for a in (point, step))
    return xp.permute_dims(penalty.prox(W, step, xp=xp), (1, 2, 0))


def quadratic(
    start: Array, gradient: Array, alpha: Array, diagonal: Array, *, xp: Namespace, **B: Array
) -> Quadratic:
    """Return the model of g, α, D, and of D⁻¹B in its parts."""
    width = start.shape[2]
    index = xp.arange(width, dtype=xp.int32, device=device(start))
    return Quadratic(
        start=start,
        gradient=gradient / diagonal,
        alpha=alpha,
        diagonal=diagonal,
        shrinkage=alpha[:, None, None] / diagonal,
        weight=index < width - 1,
        momentum=xp.astype(xp.reshape(index[:2] < 1, (2, 1, 1, 1)), start.dtype),
        **B,
    )


def start(model: Quadratic, eigenvalue: Array, *, xp: Namespace) -> Trial:
    """Return the trial that has not moved."""
    both = xp.stack([model.start, xp.zeros_like(model.start)], axis=1)
    no = eigenvalue < 0.0
    return Trial(xp.stack([both, both], axis=1), eigenvalue, full=no, solved=no)


def promise(penalty: Penalty, xp: Namespace, model: Quadratic, trial: Trial) -> tuple[Array, Array]:
    """Return by how much ``(m,)`` the trial decreases the model, and about what is left.

    Near the minimum the difference of its values is nothing but rounding: then it is ½ vᵀBv, of
    which no more than what the penalty gains is missing.
    """
    x, D = trial.x, model.diagonal
    bent, move = trial.points[:, 1, 1, :, :], D * (x - model.start)
    half = 0.5 * inner(move, bent, xp=xp)
    before, after = (_penalty(penalty, a, model.alpha, xp=xp) for a in (model.start, x))
    fall = before - after - xp.astype(inner(move, model.gradient, xp=xp) + half, before.dtype)
    fall = fall - 8.0 * float(xp.finfo(half.dtype).eps) * (before + after)
    gained = xp.maximum(half, xp.astype(fall, half.dtype))
    left = _landed(penalty, model, x, bent, 1.0 / trial.eigenvalue, xp=xp) - x
    left = 0.5 * trial.eigenvalue * inner(left, D * left, xp=xp)
    return xp.maximum(gained, xp.zeros_like(gained)), left


def _penalty(penalty: Penalty, point: Array, alpha: Array, *, xp: Namespace) -> Array:
    return weighted_penalty(penalty, xp, params_of_augmented(point, xp=xp).W, alpha)


def _product(model: Quadratic, move: Array, *, xp: Namespace) -> Array:
    """Return D⁻¹B times the move."""
    vector = flat(move, xp=xp)[:, :, None]
    if model.exact is not None:
        return xp.reshape(model.exact @ vector, move.shape)
    along = model.middle @ (model.rows @ vector)
    along = xp.reshape(xp.matrix_transpose(along) @ model.rows, move.shape)
    return of_weights(model.gram, move, xp=xp) + along / model.diagonal


def _landed(
    penalty: Penalty, model: Quadratic, point: Array, bent: Array, length: Array, *, xp: Namespace
) -> Array:
    """Return where a proximal step of this ``length (m,)``, over D, leads."""
    length = length[:, None, None]
    point = point - length * (model.gradient + bent)
    step = length * model.shrinkage
    if getattr(penalty, "separable", False):
        return xp.where(model.weight, shrunk(penalty, point, step, xp=xp), point)
    W = shrunk(penalty, point[:, :, :-1], step[:, :, :-1], xp=xp)
    return xp.concat([W, point[:, :, -1:]], axis=2)


def fista(penalty: Penalty, xp: Namespace, trial: Trial, model: Quadratic) -> Trial:
    """Make some steps of greedy FISTA; until there is next to nothing to gain by more."""
    length = trial.eigenvalue
    for _ in range(_STEPS):
        trial, length = _fista(penalty, model, trial, xp=xp)
    x, bent = trial.points[:, 1, 0, :, :], trial.points[:, 1, 1, :, :]
    gained = inner(model.diagonal * (x - model.start), bent, xp=xp)
    solved = trial.solved | (trial.eigenvalue * length <= _LEFT * gained)
    return trial._replace(solved=solved)


def _fista(
    penalty: Penalty, model: Quadratic, trial: Trial, *, xp: Namespace
) -> tuple[Trial, Array]:
    """Return the trial after a step, and its squared length ``(m,)`` over D.

    Greedy FISTA has full momentum, dropped where it points uphill.
    """
    points, eigenvalue, _, solved = trial
    m, _, _, c, width = points.shape
    y, By = points[:, 0, 0, :, :], points[:, 0, 1, :, :]
    T = _landed(penalty, model, y, By, _OVERSTEP / eigenvalue, xp=xp)
    landed = xp.stack([T, _product(model, T - model.start, xp=xp)], axis=1)[:, None, :, :, :]
    away = landed - points
    # Of what was moved, over D: with itself, with what B makes of it, and with T − x.
    moved = xp.reshape(model.diagonal * away[:, 0, 0, :, :], (m, c * width, 1))
    products = (xp.reshape(away, (m, 4, c * width)) @ moved)[:, :, 0]
    length, bent, downhill = products[:, 0], products[:, 1], products[:, 2] >= 0.0
    # The step fits the model's curvature, or the eigenvalue is raised to what was met.
    met = bent / xp.where(length > 0.0, length, 1.0)
    fits = met <= eigenvalue
    keep = (fits & ~solved)[:, None, None, None, None]
    beta = xp.where(downhill[:, None, None, None, None], model.momentum, 0.0)
    trial = trial._replace(
        points=xp.where(keep, landed + beta * away[:, 1:, :, :, :], points),
        eigenvalue=xp.where(fits | solved, eigenvalue, 1.1 * met),
    )
    return trial, length


def towards_bottom(
    penalty: Penalty, most: int, xp: Namespace, trial: Trial, model: Quadratic
) -> Trial:
    """Make some steps of FISTA and one towards the bottom of the face where they led, if lower.

    The face is that on which a proximal step lands: weights that are zero stay zero and the
    others keep their signs; ``most`` weights of a model move. The penalty is taken as linear there
    plus what its gradient bends from W to 2W, which for L1, L2 and their mixtures is exact. Where
    signs would change, these weights become zero; or the step ends where the first does. A step
    that is not ``full``, as every other is, moves a weight about as far as 0 is away where the
    model is flat: there the bottom of the face is at infinity. Only points that decrease the model
    are taken, so that the penalty may be of any kind.
    """
    for _ in range(_STEPS):
        trial, _ = _fista(penalty, model, trial, xp=xp)
    x, bent = trial.points[:, 1, 0, :, :], trial.points[:, 1, 1, :, :]
    T = _landed(penalty, model, x, bent, 1.0 / trial.eigenvalue, xp=xp)
    once, twice = (_slope(penalty, factor * T, xp=xp) for factor in (1.0, 2.0))
    free = model.weight & (T != 0.0)
    size = xp.where(free, T, 1.0)
    bend = (twice - once) / size
    bend = xp.where(bend > 0.0, bend, 0.0)
    bend = bend + xp.where(trial.full[:, None, None], 0.0, once / size)
    bend = xp.where(free, model.shrinkage * bend, 0.0)
    slope = model.gradient + _product(model, T - model.start, xp=xp)
    slope = slope + xp.where(model.weight, model.shrinkage * once, 0.0)
    # The intercept has no penalty, and no face.
    move = _solved(model, most, free | ~model.weight, slope, bend, xp=xp)
    N = T + move
    crossed = model.weight & (N * T < 0.0)
    share = xp.where(crossed, T / xp.where(crossed, T - N, 1.0), 1.0)
    first = T + xp.min(share, axis=(1, 2), keepdims=True) * move
    points = [N, xp.where(crossed, 0.0, N), first]
    if not getattr(penalty, "separable", False):
        # A penalty of one's own may say only in its prox where weights must not be.
        length = 1.0 / trial.eigenvalue
        points = [
            _landed(penalty, model, a, _product(model, a - model.start, xp=xp), length, xp=xp)
            for a in points
        ]
    return _best(penalty, model, trial, [*points, T], xp=xp)


def _slope(penalty: Penalty, point: Array, *, xp: Namespace) -> Array:
    """Return the gradient of the penalty; the intercept's is no number that counts."""
    if getattr(penalty, "separable", False):
        W = penalty.grad(xp.permute_dims(point, (2, 0, 1)), xp=xp)
        return xp.permute_dims(W, (1, 2, 0))
    W, b = params_of_augmented(point, xp=xp)
    return augmented(penalty.grad(W, xp=xp), xp.zeros_like(b), xp=xp)


def _solved(
    model: Quadratic, most: int, free: Array, slope: Array, bend: Array, *, xp: Namespace
) -> Array:
    """Return −(D⁻¹B + diag(bend))⁻¹ slope on the free entries, 0 elsewhere.

    If more are free than ``most``, those of the largest slopes move.
    """
    mask, unit = flat(free, xp=xp), flat(xp.sqrt(model.diagonal), xp=xp)
    right, extra = -flat(slope, xp=xp) * unit, flat(bend, xp=xp)
    matrix, place = model.exact, None
    if most < mask.shape[1]:
        size = xp.abs(right)
        rank = xp.where(mask, 1.0 + size / (1.0 + size), 0.0)
        order = xp.argsort(-rank, axis=1)
        place, order = xp.argsort(order, axis=1), order[:, :most]
        mask, unit, right, extra = (
            xp.take_along_axis(a, order, axis=1) for a in (mask, unit, right, extra)
        )
        matrix = xp.take_along_axis(matrix, order[:, :, None], axis=1)
        matrix = xp.take_along_axis(matrix, order[:, None, :], axis=2)
    # D^½ (D⁻¹B) D^−½ is symmetric.
    rows, columns = (xp.where(mask, a, 0.0) for a in (unit, 1.0 / unit))
    scaled = matrix * rows[:, :, None] * columns[:, None, :]
    # So little that it matters only where the Hessian is singular.
    ridge = float(xp.finfo(slope.dtype).eps) ** (2.0 / 3.0)
    scaled = scaled + diagonal(xp.where(mask, extra + ridge, 1.0), xp=xp)
    move = xp.linalg.solve(scaled, xp.where(mask, right, 0.0)[:, :, None])[:, :, 0]
    move = xp.where(mask & xp.isfinite(move), move / unit, 0.0)
    if place is not None:
        move = xp.concat([move, xp.zeros_like(move[:, :1])], axis=1)
        move = xp.take_along_axis(move, xp.where(place < most, place, most), axis=1)
    return xp.reshape(move, slope.shape)


def _best(
    penalty: Penalty, model: Quadratic, trial: Trial, points: list[Array], *, xp: Namespace
) -> Trial:
    """Return the trial, or the point at which the model is lowest; these in doubt."""
    points = [trial.x, *points]
    (m, c, width), tried = trial.x.shape, len(points)
    every = xp.stack(points, axis=1)
    moves = xp.reshape(every - model.start[:, None, :, :], (m, tried, c * width))
    products = moves @ xp.matrix_transpose(model.exact)
    alphas = xp.reshape(xp.stack([model.alpha] * tried, axis=1), (m * tried,))
    penalties = _penalty(penalty, xp.reshape(every, (m * tried, c, width)), alphas, xp=xp)
    penalties = xp.reshape(penalties, (m, tried))
    steep = 0.5 * products + flat(model.gradient, xp=xp)[:, None, :]
    smooth = xp.sum(flat(model.diagonal, xp=xp)[:, None, :] * moves * steep, axis=2)
    values = penalties + xp.astype(smooth, penalties.dtype)
    index = xp.arange(tried, dtype=xp.int32, device=device(values))
    noise = 8.0 * float(xp.finfo(moves.dtype).eps) * penalties[:, :1]
    values = values + xp.where(index == 0, noise, 0.0)
    lowest = xp.argmax(xp.where(xp.isfinite(values), -values, -xp.inf), axis=1)[:, None]
    both = xp.stack([every, xp.reshape(products, every.shape)], axis=2)
    chosen = xp.astype(index, lowest.dtype) == lowest
    best = xp.where(chosen[:, :, None, None, None], both, 0.0)
    best = xp.sum(best, axis=1, keepdims=True)
    points = xp.where(lowest[:, :, None, None, None] > 0, best, trial.points)
    return trial._replace(points=points, full=~trial.full)
