"""Newton's method with the exact Hessian, for problems of few weights, m models at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from xplinear.arguments import integer, number, settle
from xplinear.data.rows import centred_scores
from xplinear.losses import Loss
from xplinear.losses.true_class import diagonal
from xplinear.namespace import Array, Namespace, device
from xplinear.objective import Objective, Params, columns, weighted_penalty
from xplinear.penalties import Penalty
from xplinear.solvers.balance import Smooth, evened, smooth
from xplinear.solvers.gram import sampled_centre
from xplinear.solvers.hessian import (
    Evaluated,
    augmented,
    check_room,
    loss_grad_and_hessian,
    params_of_augmented,
    refusal_without_hessian,
)
from xplinear.solvers.metric import penalty_curvature, safe_divisor, uncentred
from xplinear.solvers.protocol import check_suits, max_iter_iterations, take_models
from xplinear.solvers.report import Report, first_report
from xplinear.solvers.stopping import backtracked, decreases, moved, relative_excess

__all__ = ["Newton", "NewtonState"]

_NOISE = 8.0  # times eps and the mean: the rounding of what is centred
_RIDGE = 100.0  # times eps: of the Hessian with a diagonal of ones
_STEPS_AHEAD = 2  # evaluated, and one more that is not
_CHEAP_STEP = 3e7  # operations; a step takes a millisecond in any case


class NewtonState(NamedTuple):
    """State of `Newton`; vectors ``(m, c, p + 1)`` hold W and the intercept at the centre."""

    params: Params
    report: Report
    point: Array
    direction: Array  # H⁻¹ times the gradient
    decrement: Array  # the gradient times that: twice what the step promises
    value: Array
    zero: Array  # F at W = 0, b = 0
    idle: Array  # steps in a row without a decrease above rounding
    centre: Array


@dataclass(frozen=True)
class Newton:
    """Newton's method for smooth losses and penalties, where there are few weights.

    $W ← W − η H⁻¹ ∇F$ with the exact Hessian of all c (p + 1) weights of a model, which is made in
    the same pass as the gradient; a trial point that does not decrease F enough shortens η. It
    does not depend on the units of the features.

    Parameters
    ----------
    max_iter : int, default 1000
    tol : float, default 1e-4
        Stop a model when $√(½ gᵀH⁻¹g / 10 (F(0) − F))$ is at most ``tol``: half the squared Newton
        decrement is what F still exceeds its minimum by, up to terms of third order.

    Raises
    ------
    ValueError
        If a parameter is out of its range, loss or penalty are kinked, or the loss has no
        ``hessian``.

    References
    ----------
    Boyd and Vandenberghe, Convex Optimization, 2004, §9.5.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import xplinear as xl
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = xl.LinearClassifier(solver="newton", alpha=0.01).fit(X, y)
    >>> round(clf.objective_, 4), clf.n_iter_
    (0.2243, 6)
    """

    max_iter: int = 1000
    tol: float = 1e-4

    state_type = NewtonState
    common_rows = True
    iterations = max_iter_iterations

    def __post_init__(self) -> None:
        settle(self, max_iter=integer(1), tol=number("[0, inf)"))

    def refuses(self, loss: Loss, penalty: Penalty) -> str | None:
        """Refuse what is kinked, and losses without a Hessian."""
        return refusal_without_hessian("newton", loss, penalty)

    def pays(self, objective: Objective, models: int = 1, most: float = _CHEAP_STEP) -> bool:
        """Return whether a step costs at most so many operations, for so many models at once.

        Examples
        --------
        >>> import numpy as np
        >>> from xplinear import losses, penalties
        >>> from xplinear.backends import get_backend
        >>> from xplinear.data import ArrayData
        >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
        >>> loss, penalty = losses.SoftmaxLoss(), penalties.L2Penalty()
        >>> Newton().pays(Objective(loss, penalty, np.ones(1), data, k=3))
        True
        """
        loss, data = objective.loss, objective.data
        d = columns(loss, objective.k) * (data.p + 1)
        flops = models * d * d * (2 * data.n + d)
        return self.refuses(loss, objective.penalty) is None and flops <= most

    def init(self, objective: Objective, params: Params) -> NewtonState:
        """Evaluate the start and make its Hessian."""
        check_suits(self, objective)
        check_room(objective, "newton", objective.data.dtype)
        params, centre = evened(objective, params), sampled_centre(objective)
        start = objective.data.backend.compile(_start, smooth(objective), objective.xp)
        return start(
            *(params, objective.loss_at_zero(), loss_grad_and_hessian(objective, params, centre)),
            *(objective.alpha, penalty_curvature(objective), centre, self.tol),
        )

    def step(self, objective: Objective, state: NewtonState) -> NewtonState:
        """Try one step for every model; keep it where F decreases enough."""
        xp, compile_ = objective.xp, objective.data.backend.compile
        trial, params = compile_(_propose, objective.fit_intercept, xp)(state)
        found = loss_grad_and_hessian(objective, params, state.centre)
        judge = compile_(_judge, smooth(objective), xp)
        curvature = penalty_curvature(objective)
        return judge(state, trial, params, found, objective.alpha, curvature, self.tol)

    def follow(
        self, objective: Objective, params: Params, previous: NewtonState, before: Array
    ) -> NewtonState:
        """Return the first state of models that differ from earlier ones in α only."""
        del previous, before
        return self.init(objective, params)

    def ahead(self, objective: Objective, state: NewtonState) -> Params:
        """Return where three more full steps lead: there the bound of the optimum is tight."""
        for _ in range(_STEPS_AHEAD):
            free = state.report._replace(converged=state.report.diverged)
            state = self.step(objective, state._replace(report=free))
        full = objective.data.backend.compile(_full, objective.fit_intercept, objective.xp)
        return full(state.point, state.direction, state.centre)

    def take(self, state: NewtonState, models: Array, *, xp: Namespace) -> NewtonState:
        """Return the state of a stack of these models only."""
        return take_models(state, models, xp=xp, centre=state.centre)


def _hessian(shape: Smooth, H: Array, curvature: Array, c: int, *, xp: Namespace) -> Array:
    """Return the Hessian ``(m, d, d)`` of the whole objective, regular in what changes no loss."""
    (m, d, _), size = H.shape, H.shape[1] // c
    last = xp.astype(xp.arange(size, dtype=xp.int32, device=device(H)) == size - 1, H.dtype)
    H = H + diagonal(xp.tile((1.0 - last) * curvature[:, None], (1, c)), xp=xp)
    if shape.shift_invariant and c > 1:
        # What grows alike in all classes changes no loss: a curvature there makes H regular.
        own = xp.reshape(xp.linalg.diagonal(H), (m, c, size))
        alike = safe_divisor(xp.mean(own, axis=1), xp=xp) * (1.0 if shape.even else last) / c
        alike = diagonal(alike, xp=xp)[:, None, :, None, :]
        H = xp.reshape(xp.reshape(H, (m, c, size, c, size)) + alike, (m, d, d))
    return H


def _solved(
    shape: Smooth,
    xp: Namespace,
    point: Array,
    found: Evaluated,
    alpha: Array,
    curvature: Array,
    centre: Array,
) -> tuple[Array, Array]:
    """Return H⁻¹g ``(m, c, p + 1)`` and gᵀH⁻¹g ``(m,)`` of the whole objective."""
    m, c, size = point.shape
    d = c * size
    W = params_of_augmented(point, xp=xp).W
    g = augmented(*shape.gradient(W, found.grads, centre[:, None], alpha, xp=xp), xp=xp)
    H = _hessian(shape, found.hessian, curvature, c, xp=xp)
    own = xp.linalg.diagonal(H)
    # A feature that is constant up to rounding varies by nothing else: it has no direction.
    eps = float(xp.finfo(H.dtype).eps)
    noise = xp.concat([(_NOISE * eps * centre) ** 2, xp.zeros_like(centre[:1])])
    classes = xp.reshape(own, (m, c, size))
    moves = xp.reshape(classes > noise * xp.max(classes[:, :, -1:], axis=1, keepdims=True), (m, d))
    scale = xp.where(moves, 1.0 / xp.sqrt(xp.where(moves, own, 1.0)), 0.0)
    ridge = xp.where(moves, _RIDGE * eps, xp.ones_like(own))
    H = H * scale[:, :, None] * scale[:, None, :] + diagonal(ridge, xp=xp)
    right = scale * xp.reshape(g, (m, d))
    solved = xp.linalg.solve(H, right[:, :, None])[:, :, 0]
    decrement = xp.sum(right * solved, axis=1)
    usable = xp.isfinite(decrement) & (decrement >= 0)
    # Where the Hessian is too near to singular, its diagonal must do.
    solved = xp.where(usable[:, None], solved, right)
    decrement = xp.where(usable, decrement, xp.sum(right * right, axis=1))
    return xp.reshape(scale * solved, (m, c, size)), decrement


def _params(fit_intercept: bool, xp: Namespace, point: Array, centre: Array) -> Params:
    return uncentred(fit_intercept, centre[:, None], params_of_augmented(point, xp=xp), xp=xp)


def _start(
    shape: Smooth,
    xp: Namespace,
    params: Params,
    zero: Array,
    found: Evaluated,
    alpha: Array,
    curvature: Array,
    centre: Array,
    tol: float,
) -> NewtonState:
    (W, b), loss = params, found.loss
    point = augmented(W, b + centred_scores(centre[:, None], W, xp=xp), xp=xp)
    direction, decrement = _solved(shape, xp, point, found, alpha, curvature, centre)
    value = loss + weighted_penalty(shape.penalty, xp, W, alpha)
    residual = relative_excess(zero, value, 0.5 * decrement, xp=xp)
    report = first_report(loss, xp.ones_like(decrement), xp=xp)
    return NewtonState(
        params=params,
        report=report._replace(converged=residual <= tol, residual=residual),
        point=point,
        direction=direction,
        decrement=decrement,
        value=value,
        zero=zero,
        idle=xp.zeros_like(loss),
        centre=centre,
    )


def _full(
    fit_intercept: bool, xp: Namespace, point: Array, direction: Array, centre: Array
) -> Params:
    return _params(fit_intercept, xp, point - direction, centre)


def _propose(fit_intercept: bool, xp: Namespace, state: NewtonState) -> tuple[Array, Params]:
    length = state.report.step_size * xp.astype(~state.report.converged, state.point.dtype)
    trial = state.point - length[:, None, None] * state.direction
    return trial, _params(fit_intercept, xp, trial, state.centre)


def _judge(
    shape: Smooth,
    xp: Namespace,
    state: NewtonState,
    trial: Array,
    params: Params,
    found: Evaluated,
    alpha: Array,
    curvature: Array,
    tol: float,
) -> NewtonState:
    """Keep the trial points that are good enough, and solve for the next direction."""
    converged, step_size = state.report.converged, state.report.step_size
    value = found.loss + weighted_penalty(shape.penalty, xp, params.W, alpha)
    slope = -step_size * state.decrement
    accept = decreases(state, value, slope, xp=xp) & ~converged
    direction, decrement = _solved(shape, xp, trial, found, alpha, curvature, state.centre)
    keep = accept[:, None, None]
    decrement = xp.where(accept, decrement, state.decrement)
    shorter = backtracked(state.value, value, slope, xp=xp)
    kept = xp.where(accept, value, state.value)
    residual = relative_excess(state.zero, kept, 0.5 * decrement, xp=xp)
    step_size = xp.where(accept | converged, 1.0, shorter * step_size)
    state = moved(state, accept, params, found.loss, value, step_size, residual, tol, xp=xp)
    return state._replace(
        point=xp.where(keep, trial, state.point),
        direction=xp.where(keep, direction, state.direction),
        decrement=decrement,
    )
