"""Newton's method by conjugate gradients, for many features, m models at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

from xplinear.arguments import integer, number, settle
from xplinear.data import Block, Data
from xplinear.data.blocks import joined
from xplinear.data.protocol import Order
from xplinear.losses import Loss
from xplinear.namespace import Array, Namespace, accumulator, device
from xplinear.objective import (
    Objective,
    Params,
    class_scores,
    column_gradient,
    columns,
    weighted_penalty,
)
from xplinear.penalties import Penalty
from xplinear.solvers.balance import Smooth, evened, smooth
from xplinear.solvers.gram import LARGEST_GRAM
from xplinear.solvers.hessian import curvatures, hessian_product, refusal_without_hessian
from xplinear.solvers.metric import penalty_curvature, safe_divisor
from xplinear.solvers.protocol import check_suits, max_iter_iterations, select, take_models
from xplinear.solvers.report import Report, first_report
from xplinear.solvers.stopping import backtracked, decreases, moved, relative_excess

__all__ = ["NewtonCG", "NewtonCGState"]

_LEFT = 0.25  # of the gradient, when a direction is good enough
_PRODUCTS = 5  # with the Hessian, that every iteration may make more of than the one before
_MOST_PRODUCTS = 200
_LARGE = 1e7  # stored entries times scores, from which a pass takes some milliseconds
_WIDE = 8  # columns, from which the order of the features matters
_NOISE = 8.0  # times eps: what rounding leaves of a variance


class Metric(NamedTuple):
    """The inverse diagonal of the Hessian, in features centred for each column of weights.

    ``centre`` holds these centres, as weights; what it holds as intercepts is not used.
    """

    centre: Params
    inverse: Params


class NewtonCGState(NamedTuple):
    """State of `NewtonCG`."""

    params: Params
    report: Report
    direction: Params  # about H⁻¹ times the gradient
    decrement: Array  # the gradient times that: twice what the step promises
    value: Array
    zero: Array  # F at W = 0, b = 0
    idle: Array  # steps in a row without a decrease above rounding
    metric: Metric
    steps: int
    eyes: int  # how `_sight` sees the rows: the metric is of these

    @property
    def point(self) -> Array:
        """What `moved` knows the dtype by."""
        return self.params.W


class Search(NamedTuple):
    """Conjugate gradients on their way to H⁻¹g, for all models; `Metric` preconditions them."""

    found: Params
    left: Params  # g − H found
    way: Params
    bent: Array  # (m,), of what is left in the metric
    enough: Array  # of that
    solved: Array


@dataclass(frozen=True)
class NewtonCG:
    """Newton's method whose steps conjugate gradients find, from products with the Hessian.

    $W ← W − η d$ with d about $H⁻¹∇F$: it costs a few products of the loss's Hessian with a vector,
    each one pass over the rows, and no matrix of p × p. They are preconditioned by the diagonal of
    the Hessian of each column, in features centred for it. A trial point that does not decrease F
    enough shortens η.

    Parameters
    ----------
    max_iter : int, default 1000
    tol : float, default 1e-4
        Stop a model when $√(½ gᵀd / 10 (F(0) − F))$ is at most ``tol``: half the squared Newton
        decrement is what F still exceeds its minimum by, up to terms of third order.

    Raises
    ------
    ValueError
        If a parameter is out of its range, loss or penalty are kinked, or the loss has no
        ``hessian``.

    References
    ----------
    Lin, Weng and Keerthi, Trust region Newton method for large-scale logistic regression, JMLR
    2008; Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.1.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplinear as xl
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = xl.LinearClassifier(solver="newton_cg", alpha=0.01, tol=1e-6).fit(X, y)
    >>> round(clf.objective_, 4)
    0.0537
    """

    max_iter: int = 1000
    tol: float = 1e-4

    state_type = NewtonCGState
    iterations = max_iter_iterations

    def __post_init__(self) -> None:
        settle(self, max_iter=integer(1), tol=number("[0, inf)"))

    def refuses(self, loss: Loss, penalty: Penalty) -> str | None:
        """Refuse what is kinked, and losses without a Hessian."""
        return refusal_without_hessian("newton_cg", loss, penalty)

    def pays(self, objective: Objective, models: int = 1) -> bool:
        """Return whether rows are sparse, of too many features for the Gram matrix of L-BFGS.

        Scores of rows on other machines would travel there for each of its products.
        """
        del models
        data = objective.data
        return data.sparse and data.p > LARGEST_GRAM and not data.distant

    def init(self, objective: Objective, params: Params) -> NewtonCGState:
        """Evaluate the start and find the first direction."""
        check_suits(self, objective)
        return self._started(objective, params, 0)

    def _started(self, objective: Objective, params: Params, steps: int) -> NewtonCGState:
        """Return the state before a step, where so many made before tell how hard it is."""
        params, xp, zero = evened(objective, params), objective.xp, objective.loss_at_zero()
        compile_, eyes = objective.data.backend.compile, _eyes(objective)
        sight = _sight(objective, eyes)
        seen = sight.seen(params, xp=xp)
        Z, loss, grads = _evaluated(objective, sight.exact, seen)
        start = compile_(_start, smooth(objective), xp)
        value, gradient, report = start(seen, loss, grads, objective.alpha)
        bent = _bent(objective, sight.rough, Z)
        metric = _measured(objective, sight.rough, bent)
        free = ~report.converged
        found = _direction(objective, sight, bent, gradient, metric, free, _most(steps))
        way, decrement, known, _ = found
        residual = compile_(_residual, xp)(zero, value, decrement)
        reached = known & (residual <= self.tol)
        return NewtonCGState(
            params=params,
            report=report._replace(converged=reached, residual=residual),
            direction=way,
            decrement=decrement,
            value=value,
            zero=zero,
            idle=xp.zeros_like(loss),
            metric=metric,
            steps=steps + 1,
            eyes=eyes,
        )

    def step(self, objective: Objective, state: NewtonCGState) -> NewtonCGState:
        """Try one step for every model; where F decreases enough, find the next direction."""
        xp, compile_, alpha = objective.xp, objective.data.backend.compile, objective.alpha
        steps, metric, eyes = state.steps, state.metric, state.eyes
        state = state._replace(metric=None, steps=0, eyes=0)
        sight, trial = _sight(objective, eyes), compile_(_trial, xp)(state)
        seen = sight.seen(trial, xp=xp)
        Z, loss, grads = _evaluated(objective, sight.exact, seen)
        judge = compile_(_judge, smooth(objective), xp)
        accept, value, gradient = judge(state, seen, loss, grads, alpha)
        del seen, grads  # of many features, their memory counts
        bent = _bent(objective, sight.rough, Z)
        fresh = steps & (steps - 1) == 0  # at first it changes most
        if fresh:
            metric = _measured(objective, sight.rough, bent)
        most = _most(steps)
        found = _direction(objective, sight, bent, gradient, metric, accept, most)
        way, decrement, known, left = found
        ends = compile_(_ends, xp)(state, accept, value, decrement, known, self.tol)
        if not (fresh or objective.data.backend.over(~ends)):
            # An old metric hides what has begun to bend since.
            metric = _measured(objective, sight.rough, bent)
            known = known & compile_(_suffices, xp)(metric, gradient, left)
        found = way, decrement, known
        state = compile_(_after, xp)(state, accept, trial, loss, value, found, self.tol)
        return state._replace(metric=metric, steps=steps + 1, eyes=eyes)

    def follow(
        self, objective: Objective, params: Params, previous: NewtonCGState, before: Array
    ) -> NewtonCGState:
        """Return the first state of models that differ from earlier ones in α only."""
        del before
        return self._started(objective, params, previous.steps - 1)

    def ahead(self, objective: Objective, state: NewtonCGState) -> Params:
        """Return where the next full step leads."""
        return objective.data.backend.compile(_ahead, objective.xp)(state)

    def take(self, state: NewtonCGState, models: Array, *, xp: Namespace) -> NewtonCGState:
        """Return the state of a stack of these models only."""
        return take_models(state, models, xp=xp)


def _scores(xp: Namespace, block: Block, params: Params) -> Array:
    return block.rows.scores(*params, xp=xp)


def _weighted(a: Array, s: Array | None) -> Array:
    """Return what rows give ``(r, m)`` or ``(r, m, c)``, times their weights."""
    return a if s is None else a * (s if len(a.shape) == 2 else s[..., None])


def _of_scores(loss: Loss, xp: Namespace, block: Block, Z: Array) -> tuple[Array, Array, Array]:
    """Return the summed loss of scores ``(r, m, c)``, and its gradient in W and b."""
    value, G = loss.value_and_grad(class_scores(Z, xp=xp), block.y, xp=xp)
    value, G = (_weighted(a, block.s) for a in (value, column_gradient(G, Z.shape[-1])))
    return xp.sum(value, axis=0, dtype=accumulator(value, xp=xp)), *block.rows.gradient(G, xp=xp)


def _curvatures(loss: Loss, xp: Namespace, block: Block, Z: Array) -> Array:
    """Return the loss's curvature in each column of scores ``(r, m, c)``."""
    return _weighted(curvatures(loss, Z, block.y, xp=xp), block.s)


def _curved(loss: Loss, xp: Namespace, block: Block, A: Array, way: Params) -> tuple[Array, Array]:
    """Return the product of the loss's Hessian with parameters; A is as in `_bent`."""
    V = block.rows.scores(*way, xp=xp)
    if V.shape[-1] == 1:
        return block.rows.gradient(A * V, xp=xp)
    G = hessian_product(loss, A, block.y, V, xp=xp)
    return block.rows.gradient(_weighted(G, block.s), xp=xp)


def _diagonal(loss: Loss, xp: Namespace, block: Block, A: Array) -> tuple[Array, Array, Array]:
    """Return Σ h, Σ h x and Σ h x² of the curvatures h of each column of scores."""
    h = A if A.shape[-1] == 1 else _curvatures(loss, xp, block, A)
    return xp.sum(h, axis=0), *block.rows.squares(h, xp=xp)


def _large(objective: Objective) -> bool:
    """Return whether rounded rows would save time."""
    return objective.data.entries * objective.m * objective.k >= _LARGE


def _most(steps: int) -> int:
    """Return how many products a direction may cost, after so many steps."""
    return min(_PRODUCTS * (steps + 1), _MOST_PRODUCTS)


class Sight(NamedTuple):
    """The rows as products are fastest; ``rough`` ones for what need not be exact.

    The features of both are in an ``order``, if they are not as they were.
    """

    exact: Data
    rough: Data
    order: Order | None

    def seen(self, params: Params, *, xp: Namespace) -> Params:
        """Return parameters for these rows."""
        return _placed(self.order and self.order.first, params, xp=xp)

    def unseen(self, params: Params, *, xp: Namespace) -> Params:
        """Return such parameters for the features as they were."""
        return _placed(self.order and self.order.place, params, xp=xp)


def _eyes(objective: Objective) -> int:
    """Return whether to see the rows as they are (0), rounded (1), or in order too (2)."""
    if not _large(objective):
        return 0
    return 2 if objective.m * columns(objective.loss, objective.k) >= _WIDE else 1


def _sight(objective: Objective, eyes: int) -> Sight:
    data, order = objective.data.ordered() if eyes > 1 else (objective.data, None)
    return Sight(data, data.narrowed() if eyes else data, order)


def _placed(at: Array | None, params: Params, *, xp: Namespace) -> Params:
    """Return parameters of features in another order."""
    return params if at is None else Params(xp.take(params.W, at, axis=0), params.b)


def _evaluated(objective: Objective, data: Data, params: Params) -> tuple[Array, Array, Params]:
    """Return the scores of all rows held, the mean loss, and its gradient in W and b."""
    xp, width = objective.xp, _width(objective)
    parts = list(data.map(_scores, (xp,), params, scores=width))
    Z = data.as_held(joined(parts, backend=data.backend))
    sums = data.reduce(_of_scores, (objective.loss, xp), each=(Z,), scores=width)
    means = data.backend.compile(_means, objective.fit_intercept, xp)
    return Z, *means(*sums, data.weight_sum)


def _width(objective: Objective) -> int:
    return objective.m * objective.k


def _means(
    fit_intercept: bool, xp: Namespace, total: Array, dW: Array, db: Array, weight: Array
) -> tuple[Array, Params]:
    own = xp.astype(weight, dW.dtype)[:, None]
    return total / weight, Params(dW / own, db / own if fit_intercept else xp.zeros_like(db))


def _bent(objective: Objective, data: Data, Z: Array) -> Array:
    """Return what the Hessian is made of: the scores; of a single column, its curvatures."""
    xp = objective.xp
    Z = xp.astype(Z, data.dtype, copy=False)
    if Z.shape[-1] > 1:
        return Z
    static = objective.loss, xp
    parts = list(data.map(_curvatures, static, each=(Z,), scores=_width(objective)))
    return data.as_held(joined(parts, backend=data.backend))


def _measured(objective: Objective, data: Data, A: Array) -> Metric:
    """Return the metric there."""
    xp = objective.xp
    sums = data.reduce(_diagonal, (objective.loss, xp), each=(A,), scores=_width(objective))
    metric = data.backend.compile(_metric, objective.fit_intercept, xp)
    ridge = xp.astype(penalty_curvature(objective), data.dtype, copy=False)
    return metric(*sums, objective.data.weight_sum, ridge)


def _direction(
    objective: Objective,
    sight: Sight,
    A: Array,
    gradient: Params,
    metric: Metric,
    free: Array,
    most: int,
) -> tuple[Params, Array, Array, Params]:
    """Return H⁻¹g and gᵀH⁻¹g of the models that are ``free``, by at most so many products.

    Where these do not suffice, which is told next, both are too small; the way leads downhill. Last
    is what is left of the gradient.
    """
    data, xp, backend = sight.rough, objective.xp, objective.data.backend
    compile_, static = backend.compile, (objective.loss, xp)
    ridge = xp.astype(penalty_curvature(objective), data.dtype, copy=False)
    start = Params(*(xp.astype(a, data.dtype) for a in gradient))  # kernels write into a search
    search = compile_(_first, xp)(start, metric, free)
    kernel = backend.kernel(objective.loss, "newton_cg")
    advance = kernel and partial(kernel, objective.fit_intercept)
    advance = advance or compile_(_advanced, objective.fit_intercept, xp)
    known, left = (A, metric, objective.data.weight_sum, ridge), []
    at = xp.arange(objective.m, dtype=xp.int32, device=device(free))
    for _ in range(most):
        if backend.over(search.solved):
            break
        m = at.shape[0]
        staying = _halved(backend.over, search.solved, xp=xp)
        if staying < m:
            order = xp.argsort(xp.astype(search.solved, xp.int32))
            gone, kept = order[staying:], order[:staying]
            part = at, search.found, search.solved, search.left
            left.append(_of_models(gone, part, m, xp=xp))
            at, search, known = _of_models(kept, (at, search, known), m, xp=xp)
            data = data.take(kept)
        A, metric, weight, ridge = known
        width = at.shape[0] * objective.k
        product = data.reduce(_curved, static, search.way, each=(A,), scores=width)
        search = advance(search, metric, product, weight, ridge)
    left.append((at, search.found, search.solved, search.left))
    found, solved, rest = _together(left, xp=xp)
    found = Params(*(xp.astype(a, objective.data.dtype, copy=False) for a in found))
    found = evened(objective, found)
    return sight.unseen(found, xp=xp), compile_(_product, xp)(gradient, found), solved, rest


def _halved(over: Callable[[Array], bool], solved: Array, *, xp: Namespace) -> int:
    """Return how many of the models a search goes on for: all, or half as often as will do.

    Fewer are known to be enough only where to ask costs nothing.
    """
    staying, searching = solved.shape[0], xp.sum(xp.astype(~solved, xp.int32))
    while staying > 1 and over(searching <= staying // 2):
        staying //= 2
    return staying


def _of_models(models: Array, part: Any, m: int, *, xp: Namespace) -> Any:
    """Return these models' part of arrays ``(·, m, ·)`` or ``(m, ·)``, and of tuples of such."""
    if isinstance(part, tuple):
        each = [_of_models(models, a, m, xp=xp) for a in cast("tuple[Any, ...]", part)]
        return tuple(each) if type(part) is tuple else type(part)(*each)
    axis = 1 if part.ndim == 3 else 0
    return part if part.shape[axis] < m else xp.take(part, models, axis=axis)


def _together(
    parts: list[tuple[Array, Params, Array, Params]], *, xp: Namespace
) -> tuple[Params, Array, Params]:
    """Return what was found, whether it was, and what was left, of all models of a search."""
    if len(parts) == 1:
        return parts[0][1:]
    at, found, solved, left = zip(*parts, strict=True)
    both = (zip(*each, strict=True) for each in (found, left))
    found, left = (Params(xp.concat(W, axis=1), xp.concat(b)) for W, b in both)
    order = xp.argsort(xp.concat(at))
    return _of_models(order, (found, xp.concat(solved), left), order.shape[0], xp=xp)


def _product(xp: Namespace, a: Params, b: Params) -> Array:
    """Return the inner products ``(m,)``."""
    return xp.sum(a.W * b.W, axis=(0, 2)) + xp.sum(a.b * b.b, axis=1)


def _moved_along(params: Params, way: Params, length: Array) -> Params:
    """Return the parameters, each model so far on its way."""
    return Params(*(a + length[:, None] * b for a, b in zip(params, way, strict=True)))


def _metric(
    fit_intercept: bool,
    xp: Namespace,
    total: Array,
    first: Array,
    second: Array,
    weight: Array,
    ridge: Array,
) -> Metric:
    own = xp.astype(weight, total.dtype)[:, None]
    known = total > 0.0
    centre = first / xp.where(known, total, 1.0)
    bias = xp.where(known, own / xp.where(known, total, 1.0), 1.0)
    if not fit_intercept:
        centre, bias = xp.zeros_like(centre), xp.zeros_like(bias)
    # What is left of a feature that is constant is rounding.
    least = _NOISE * float(xp.finfo(second.dtype).eps) * second
    varies = xp.maximum(second - centre * first, least)
    inverse = 1.0 / safe_divisor(varies / own + ridge[:, None], xp=xp)
    return Metric(Params(centre, bias), Params(inverse, bias))


def _preconditioned(metric: Metric, a: Params, *, xp: Namespace) -> Params:
    W = metric.inverse.W * (a.W - metric.centre.W * a.b)
    return Params(W, metric.inverse.b * a.b - xp.sum(metric.centre.W * W, axis=0))


def _first(xp: Namespace, gradient: Params, metric: Metric, free: Array) -> Search:
    way = _preconditioned(metric, gradient, xp=xp)
    bent = _product(xp, gradient, way)
    found = Params(*(xp.zeros_like(a) for a in way))
    enough = _LEFT * _LEFT * bent
    return Search(found, gradient, way, bent, enough, solved=~(free & (bent > 0.0)))


def _advanced(
    fit_intercept: bool,
    xp: Namespace,
    search: Search,
    metric: Metric,
    product: tuple[Array, Array],
    weight: Array,
    ridge: Array,
) -> Search:
    """Return the search a product with the Hessian further on; of models that are solved, as is."""
    found, left, way, bent, enough, solved = search
    own = xp.astype(weight, bent.dtype)[:, None]
    W, b = (a / own for a in product)
    bending = Params(W + ridge[:, None] * way.W, b if fit_intercept else xp.zeros_like(b))
    curvature = _product(xp, way, bending)
    curved = curvature > 0.0
    # Where nothing bends, the metric tells how far to go.
    length = xp.where(curved, bent / xp.where(curved, curvature, 1.0), 1.0)
    length = xp.where(solved, 0.0, length)
    found, left = _moved_along(found, way, length), _moved_along(left, bending, -length)
    step = _preconditioned(metric, left, xp=xp)
    rest = _product(xp, left, step)
    solved = solved | ~curved | ~(rest > enough)
    share = xp.where(solved, 0.0, rest / xp.where(bent > 0.0, bent, 1.0))
    return Search(found, left, _moved_along(step, way, share), rest, enough, solved)


def _value_and_gradient(
    shape: Smooth, xp: Namespace, params: Params, loss: Array, grads: Params, alpha: Array
) -> tuple[Array, Params]:
    value = loss + weighted_penalty(shape.penalty, xp, params.W, alpha)
    slope = alpha[:, None] * shape.penalty.grad(params.W, xp=xp)
    return value, Params(grads.W + slope, grads.b)


def _start(
    shape: Smooth, xp: Namespace, params: Params, loss: Array, grads: Params, alpha: Array
) -> tuple[Array, Params, Report]:
    value, gradient = _value_and_gradient(shape, xp, params, loss, grads, alpha)
    return value, gradient, first_report(loss, xp.ones_like(alpha), xp=xp)


def _residual(xp: Namespace, zero: Array, value: Array, decrement: Array) -> Array:
    return relative_excess(zero, value, 0.5 * decrement, xp=xp)


def _ends(
    xp: Namespace,
    state: NewtonCGState,
    accept: Array,
    value: Array,
    decrement: Array,
    known: Array,
    tol: float,
) -> Array:
    """Return which models have arrived, as far as the direction tells ``(m,)``."""
    return accept & known & (_residual(xp, state.zero, value, decrement) <= tol)


def _suffices(xp: Namespace, metric: Metric, gradient: Params, left: Params) -> Array:
    """Return whether conjugate gradients went far enough as this metric sees it ``(m,)``."""
    gradient = Params(*(xp.astype(a, left.W.dtype, copy=False) for a in gradient))
    whole, rest = (_product(xp, a, _preconditioned(metric, a, xp=xp)) for a in (gradient, left))
    return rest <= _LEFT * whole


def _trial(xp: Namespace, state: NewtonCGState) -> Params:
    length = state.report.step_size * xp.astype(~state.report.converged, state.decrement.dtype)
    return _moved_along(state.params, state.direction, -length)


def _ahead(xp: Namespace, state: NewtonCGState) -> Params:
    return _moved_along(state.params, state.direction, -xp.ones_like(state.decrement))


def _judge(
    shape: Smooth,
    xp: Namespace,
    state: NewtonCGState,
    trial: Params,
    loss: Array,
    grads: Params,
    alpha: Array,
) -> tuple[Array, Array, Params]:
    """Return whether the trial points are good enough, F, and its gradient."""
    value, gradient = _value_and_gradient(shape, xp, trial, loss, grads, alpha)
    slope = -state.report.step_size * state.decrement
    return decreases(state, value, slope, xp=xp) & ~state.report.converged, value, gradient


def _after(
    xp: Namespace,
    state: NewtonCGState,
    accept: Array,
    trial: Params,
    loss: Array,
    value: Array,
    found: tuple[Params, Array, Array],
    tol: float,
) -> NewtonCGState:
    """Return the state with what was accepted, and where to go from there."""
    converged, step_size = state.report.converged, state.report.step_size
    slope = -step_size * state.decrement
    shorter = backtracked(state.value, value, slope, xp=xp)
    way, decrement, known = found
    decrement = xp.where(accept, decrement, state.decrement)
    kept = xp.where(accept, value, state.value)
    residual = _residual(xp, state.zero, kept, decrement)
    step_size = xp.where(accept | converged, 1.0, shorter * step_size)
    bar = xp.where(accept & known, tol, -xp.ones_like(residual))
    state = moved(state, accept, trial, loss, value, step_size, residual, bar, xp=xp)
    direction = select(accept, way, state.direction, xp=xp)
    return state._replace(direction=direction, decrement=decrement)
