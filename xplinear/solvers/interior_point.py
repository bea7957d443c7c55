"""Interior point: kinked losses of few weights to a certified optimum, for m models at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from xplinear.arguments import integer, number, settle
from xplinear.data import Block
from xplinear.data.protocol import compiled
from xplinear.data.rows import centred_scores
from xplinear.losses import Loss
from xplinear.losses.true_class import of_true_class
from xplinear.namespace import Array, Namespace, accumulator
from xplinear.objective import Objective, Params, class_scores, columns
from xplinear.penalties import L2Penalty, Penalty
from xplinear.solvers.barrier import Point, Problem, Rows, iterated, made_ready, problem_of
from xplinear.solvers.hessian import augmented, check_room, params_of_augmented
from xplinear.solvers.metric import safe_divisor
from xplinear.solvers.protocol import check_suits, max_iter_iterations, select, take_models
from xplinear.solvers.report import Report, first_report
from xplinear.solvers.stopping import relative_gap

__all__ = ["InteriorPoint", "InteriorPointState"]

_FAR = 1e30  # no score is as large
_ROUNDING = 16.0  # times eps and the magnitudes of what was summed: charged to the bound
_LESS = 0.9  # of what it was: more is no progress
_PATIENCE = 8  # iterations without
_FLOPS = 5e9  # of an iteration and a model: a quarter of a second
_OTHER = 1e4  # that as much time goes by per score, in what is not matrices
_BYTES = 2**30


class InteriorPointState(NamedTuple):
    """State of `InteriorPoint`; ``params`` are the best so far, ``residual`` their relative gap."""

    params: Params
    report: Report
    value: Array  # F at params
    zero: Array  # F at W = 0, b = 0
    product: Array  # the least mean of the products that are 0 at the optimum
    idle: Array  # iterations without progress
    point: Point
    rows: Rows


@dataclass(frozen=True)
class InteriorPoint:
    """Primal-dual interior point, for kinked losses with the L2 penalty, to a proven gap.

    A loss that is a maximum over a polytope, ℓ(z) = max a·v, makes a quadratic program of F.
    Its slacks are eliminated row by row, and a step of Mehrotra's method solves

    $(αI + Σ_i s_i x_i x_iᵀ ⊗ M_i) ΔW = −(αW + Σ_i s_i x_i g_iᵀ) + …$,

    c (p + 1) equations, M_i (c × c) the curvature that the barriers give the loss of row i. The
    a are a dual point, and so

    $F ≥ Σ_i s_i a_i·c_i − ‖G‖² / (2α),  G = Σ_i s_i x_i g_iᵀ,  Σ_i s_i g_i = 0$

    (weights s of sum 1; the last with a free intercept), c the constants in v and g the gradient
    of a·v in the scores. 10 to 25 iterations do, whatever the data and their units, but each
    costs n c² p² + c³ p³ operations, and all rows are held in float64: see `pays`.

    Parameters
    ----------
    max_iter : int, default 100
    tol : float, default 1e-4
        Stop a model when F minus its lower bound is at most ``tol`` times F, or below the
        rounding of F at the start.

    Raises
    ------
    ValueError
        If a parameter is out of its range, the loss offers no ``polytope``, or the penalty is
        not L2. With α = 0 nothing is proven, and no model converges.

    References
    ----------
    Mehrotra, On the implementation of a primal-dual interior point method, SIAM Journal on
    Optimization 1992; Ferris and Munson, Interior-point methods for massive support vector
    machines, SIAM Journal on Optimization 2002.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import xplinear as xl
    >>> X, y = load_iris(return_X_y=True)
    >>> solver = xl.solvers.InteriorPoint()
    >>> clf = xl.LinearClassifier(loss="multiclass_hinge", solver=solver, alpha=1.0)
    >>> round(clf.fit(X, y).objective_, 3)
    0.752
    """

    max_iter: int = 100
    tol: float = 1e-4

    state_type = InteriorPointState
    common_rows = True
    iterations = max_iter_iterations
    needs_alpha = True

    def __post_init__(self) -> None:
        settle(self, max_iter=integer(1), tol=number("[0, inf)"))

    def refuses(self, loss: Loss, penalty: Penalty) -> str | None:
        """Refuse all but a maximum over a polytope, with L2."""
        if penalty != L2Penalty():
            return f"solver 'interior_point' needs penalty='l2', got {penalty!r}; use 'sgd'"
        if getattr(loss, "polytope", None) is not None:
            return None
        return (
            "solver 'interior_point' needs a loss that is a maximum over a polytope, such as "
            f"'multiclass_hinge', 'crammer_singer' or 'absolute_error', got {loss!r}; use 'lbfgs' "
            "where the loss is smooth, else 'sgd'"
        )

    def pays(self, objective: Objective, models: int = 1) -> bool:
        """Return whether it fits in memory and takes seconds at most, for all models.

        Rows on other machines would have to move.

        Examples
        --------
        >>> import numpy as np
        >>> from xplinear.backends import get_backend
        >>> from xplinear.data import ArrayData
        >>> from xplinear.losses import CrammerSingerLoss
        >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
        >>> F = Objective(CrammerSingerLoss(), L2Penalty(), np.asarray([0.1]), data, k=3)
        >>> InteriorPoint().pays(F)
        True
        """
        loss: Any = objective.loss
        if self.refuses(loss, objective.penalty) is not None or objective.data.distant:
            return False
        n, k, d = objective.data.n, objective.k, objective.data.p + 1
        c = columns(loss, k)
        blocks, size = (1, c) if loss.polytope.pairwise else (c, 1)
        step = blocks * (n * size * (size + 1) * d**2 + 3.0 * (size * d) ** 3) + _OTHER * n * k
        entries = n * d + models * (n * (20 * k + size * (size + d)) + 4 * blocks * (size * d) ** 2)
        return models * step <= _FLOPS and 8 * entries <= _BYTES

    def init(self, objective: Objective, params: Params) -> InteriorPointState:
        """Evaluate the start, and make the rows ready."""
        check_suits(self, objective)
        data, backend = objective.data, objective.data.backend
        static = objective.loss, objective.fit_intercept, objective.k, objective.xp
        with backend.double_precision():
            wide = accumulator(objective.alpha, xp=objective.xp)
            pairwise: bool = cast("Any", objective.loss).polytope.pairwise
            blocks = 1 if pairwise else columns(objective.loss, objective.k)
            check_room(objective, "interior_point", wide, blocks=blocks)
            # Rows are few where this solver pays.
            start = compiled(data, _start, *static)
            return start(data.sample(data.n), params, objective.loss_at_zero(), objective.alpha)

    def step(self, objective: Objective, state: InteriorPointState) -> InteriorPointState:
        """Make a predictor and a corrector, and prove a bound at the new point."""
        backend = objective.data.backend
        static = objective.loss, objective.fit_intercept, objective.xp
        hessian = 2.0 * objective.data.n * objective.data.p**2
        with backend.double_precision(), backend.products(hessian):
            return backend.compile(_advance, *static)(state, objective.alpha, self.tol)

    def take(
        self, state: InteriorPointState, models: Array, *, xp: Namespace
    ) -> InteriorPointState:
        """Return the state of a stack of these models only; the rows stay."""
        theta, *others = state.point
        rows = state.rows
        shared = rows.y.ndim == 1 or rows.y.shape[1] == 1
        return take_models(
            *(state, models),
            xp=xp,
            point=Point(
                xp.take(theta, models, axis=0),
                *(None if a is None else xp.take(a, models, axis=1) for a in others),
            ),
            rows=rows._replace(
                y=rows.y if shared else xp.take(rows.y, models, axis=1),
                weights=xp.take(rows.weights, models, axis=1),
                share=xp.take(rows.share, models, axis=0),
                given=xp.take(rows.given, models, axis=0),
            ),
        )


def _start(
    loss: Any,
    free: bool,
    k: int,
    xp: Namespace,
    block: Block,
    params: Params,
    zero: Array,
    alpha: Array,
) -> InteriorPointState:
    rows = made_ready(free, k, block, params.b, xp=xp)
    problem = problem_of(loss.polytope, free, rows, alpha, xp=xp)
    value, mean = _value(loss, problem, params, xp=xp)
    point = problem.start(xp=xp)
    none, zero = xp.zeros_like(value), xp.astype(zero, value.dtype)
    report = first_report(mean, xp.ones_like(value), xp=xp)
    return InteriorPointState(
        params=params,
        report=report._replace(
            converged=value <= 0.0,
            residual=value / safe_divisor(value, xp=xp),
            lower_bound=none,  # no loss is negative
        ),
        value=value,
        zero=zero,
        product=problem.mean_product(point, xp=xp),
        idle=none,
        point=point,
        rows=rows,
    )


def _advance(
    loss: Any, free: bool, xp: Namespace, state: InteriorPointState, alpha: Array, tol: float
) -> InteriorPointState:
    report, running = state.report, ~state.report.converged
    problem = problem_of(loss.polytope, free, state.rows, alpha, xp=xp)
    point, step = iterated(problem, state.point, running, xp=xp)
    params = _params(problem, point.theta, state.params, xp=xp)
    value, mean = _value(loss, problem, params, xp=xp)
    better = (value < state.value) & running
    best = xp.where(better, value, state.value)
    bound = _bound(problem, point, xp=xp)
    higher = (bound > report.lower_bound) & running
    bound = xp.minimum(xp.where(higher, bound, report.lower_bound), best)
    residual = relative_gap(state.zero, best, bound, xp=xp)
    product = problem.mean_product(point, xp=xp)
    eps = float(xp.finfo(best.dtype).eps)
    # Products may shrink for a while before the gap does; below rounding that means nothing.
    progress = (product < _LESS * state.product) & (product > eps * best)
    progress = progress | (residual < _LESS * report.residual)
    idle = xp.where(progress, 0.0, state.idle + 1.0)
    reached = (residual <= tol) | (best - bound <= eps * state.zero)
    stalled = (idle >= _PATIENCE) & ~reached & running
    return state._replace(
        params=select(better, params, state.params, xp=xp),
        report=report._replace(
            loss=xp.where(better, mean, report.loss),
            step_size=xp.where(running, step, report.step_size),
            converged=report.converged | reached | stalled,
            residual=residual,
            stalled=report.stalled | stalled,
            lower_bound=bound,
        ),
        value=best,
        product=xp.where(product < state.product, product, state.product),
        idle=idle,
        point=point,
    )


def _params(problem: Problem, theta: Array, like: Params, *, xp: Namespace) -> Params:
    """Return the parameters at a point, in the dtype of others."""
    rows = problem.rows
    W, b = params_of_augmented(theta, xp=xp)
    b = b + rows.given
    if problem.free and problem.polytope.pairwise:
        b = b + _aside(problem, theta, xp=xp)
    W = xp.astype(W, like.W.dtype)
    # Of the rounded weights: far from 0, their rounding is a constant in the scores.
    b = b - centred_scores(rows.centre[:, None], xp.astype(W, b.dtype), xp=xp)
    return Params(W, xp.astype(b, like.b.dtype))


def _aside(problem: Problem, theta: Array, *, xp: Namespace) -> Array:
    """Return intercepts ``(m, c)`` that keep classes without rows below every margin."""
    polytope, _, rows, kinks, _ = problem
    Z = rows.scores(theta, xp=xp)
    counted = kinks.true & (rows.weights > 0)[:, :, None]
    least = xp.min(xp.where(counted, Z, _FAR), axis=(0, 2))[:, None]
    b = xp.where(rows.share > 0, 0.0, least - 2.0 * abs(polytope.others.offset))
    return b if rows.given.shape[1] > 1 else b[:, 1:] - b[:, :1]


def _value(loss: Loss, problem: Problem, params: Params, *, xp: Namespace) -> tuple[Array, Array]:
    """Return F and the mean loss ``(m,)`` of parameters, whatever their dtype, in float64."""
    rows = problem.rows
    W, b = (xp.astype(a, rows.X.dtype) for a in params)
    b = b + centred_scores(rows.centre[:, None], W, xp=xp)
    Z = rows.scores(augmented(W, b, xp=xp), xp=xp)
    if not problem.free:  # the last column of X is 0
        Z = Z + class_scores(b, xp=xp)
    value, _ = loss.value_and_grad(Z, rows.y, xp=xp)
    mean = xp.sum(rows.weights * value, axis=0)
    return mean + 0.5 * problem.alpha * xp.sum(W * W, axis=(0, 2)), mean


def _bound(problem: Problem, point: Point, *, xp: Namespace) -> Array:
    """Return the lower bound ``(m,)`` that a proves."""
    polytope, free, rows, kinks, alpha = problem
    A = xp.where(point.lower < kinks.width, point.lower, kinks.width)
    A = kinks.lower + xp.where(kinks.live & (A > 0), A, 0.0)
    if polytope.simplex:
        A = A / safe_divisor(xp.sum(A, axis=-1, keepdims=True), xp=xp)
    if free:
        A = (_circulating if polytope.pairwise else _level)(problem, A, xp=xp)
    costs = A * kinks.offset
    if not free:  # the intercept is a constant in the scores
        Z = class_scores(rows.given, xp=xp)
        costs = costs + A * polytope.differences(Z + xp.zeros_like(A), kinks.true, xp=xp)
    cost, size = (xp.sum(rows.weights * xp.sum(a, axis=-1), axis=0) for a in (costs, xp.abs(costs)))
    G = problem.gradient(A, xp=xp)[:, :, :-1]
    quadratic = xp.sum(G * G, axis=(1, 2)) / (2.0 * safe_divisor(alpha, xp=xp))
    # t times as large, it proves t·cost − t²·quadratic: take the best t in [0, 1].
    t = 0.5 * cost / safe_divisor(quadratic, xp=xp)
    t = xp.where((quadratic > 0) & (t < 1.0), t, 1.0)
    t = xp.where(cost > 0, t, 0.0)
    length = xp.sqrt(xp.sum(rows.X * rows.X, axis=1))[:, None]
    length = xp.sum(rows.weights * length * xp.sum(xp.abs(A), axis=-1), axis=0)
    longest = xp.sqrt(xp.max(xp.sum(point.theta * point.theta, axis=2), axis=1))
    rounding = _ROUNDING * float(xp.finfo(A.dtype).eps) * (size + quadratic + length * longest)
    bound = t * (cost - t * quadratic - rounding)
    return xp.where((alpha > 0) & xp.isfinite(bound), bound, 0.0)


def _circulating(problem: Problem, A: Array, *, xp: Namespace) -> Array:
    """Return a mixed with a point alike in each class, such that Σ_i s_i g_i = 0.

    What is left to balance is what rounding and shortened steps left.
    """
    polytope, _, rows, kinks, _ = problem
    G = rows.weights[:, :, None] * polytope.gradient(A, kinks.true, xp=xp)
    r = xp.sum(G, axis=0)  # (m, k): what a class receives too much
    there = xp.astype(rows.share > 0, r.dtype)
    flow = (r[:, :, None] - r[:, None, :]) / xp.sum(there, axis=1)[:, None, None]
    flow = xp.where(flow > 0, flow, 0.0) * there[:, :, None] * there[:, None, :]
    flow = flow / safe_divisor(rows.share, xp=xp)[:, :, None]
    own = of_true_class(xp.permute_dims(flow, (1, 0, 2)), rows.y, xp=xp)
    A = xp.where(kinks.true, 0.0, A) + own
    return A / (1.0 + xp.max(xp.sum(flow, axis=2), axis=1)[:, None])


def _level(problem: Problem, A: Array, *, xp: Namespace) -> Array:
    """Return a, where positive or where negative shrunk such that Σ_i s_i a_i = 0."""
    weighted = problem.rows.weights[:, :, None] * A
    up = xp.sum(xp.where(A > 0, weighted, 0.0), axis=0)
    down = xp.sum(xp.where(A < 0, -weighted, 0.0), axis=0)
    less = xp.minimum(up, down)
    return A * xp.where(A > 0, less / safe_divisor(up, xp=xp), less / safe_divisor(down, xp=xp))
