"""Batch gradient descent: every step sees all n samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from xplinear.arguments import integer, number, one_of, settle
from xplinear.losses import Loss
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params, weighted_penalty
from xplinear.penalties import Penalty
from xplinear.solvers.metric import Metric, feature_metric, loss_curvature, plain_metric
from xplinear.solvers.protocol import check_suits, max_iter_iterations, select, take_models
from xplinear.solvers.proximal import Move, proximal_step
from xplinear.solvers.report import Report, first_report
from xplinear.solvers.stopping import relative_excess

__all__ = ["GD", "GDState"]


class GDState(NamedTuple):
    """State of `GD`; ``params`` is ``current``, or the best iterate where the loss is kinked."""

    params: Params
    report: Report
    current: Params
    current_loss: Array
    grads: Params
    metric: Metric
    zero: Array  # F at W = 0, b = 0
    limit: Array  # a loss above this is divergence
    t: int


@dataclass(frozen=True)
class GD:
    """Batch gradient descent, proximal in the penalty.

    $W ← prox_{ηαΩ}(W − η ∇L(W, b)), b ← b − η ∂L/∂b$, with η per model and, unless η is fixed,
    in the metric of the features (`xplinear.solvers.metric`). One step is one pass over the
    data, also when its trial point is rejected.

    Parameters
    ----------
    max_iter : int, default 1000
    tol : float, default 1e-4
        Stop a model when $√(‖step‖² / 20 η (F(0) − F))$ is at most ``tol``, the step η long and
        measured in the metric of the features.
    step_size : "backtracking", "curvature" or float, default "backtracking"
        ``"backtracking"`` halves η when the loss is above its quadratic upper model and lets
        it grow by a fifth otherwise; ``"curvature"`` is 1 / (curvature bound × largest
        eigenvalue) of a smooth loss; a number is plain gradient descent in the raw features.
        Kinked losses take η linearly to zero and keep the best iterate; without a gradient
        that vanishes there is no stopping test.

    Raises
    ------
    ValueError
        If ``step_size`` is neither of these, or "curvature" with a kinked loss.

    References
    ----------
    Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009, §3 (ISTA);
    Zamani and Glineur, Exact convergence rate of the last iterate in subgradient methods, 2023
    (the linear decay).

    Examples
    --------
    >>> import numpy as np
    >>> import xplinear as xl
    >>> X, y = np.asarray([[0.0], [1.0], [2.0], [3.0]]), np.asarray([0, 0, 1, 1])
    >>> clf = xl.LinearClassifier(solver=xl.solvers.GD(tol=1e-6), alpha=0.1).fit(X, y)
    >>> clf.coef_.round(3)
    array([[1.508]])
    """

    max_iter: int = 1000
    tol: float = 1e-4
    step_size: Literal["backtracking", "curvature"] | float = "backtracking"

    state_type = GDState
    iterations = max_iter_iterations
    exact = False

    def __post_init__(self) -> None:
        step_size = one_of("backtracking", "curvature") | number("(0, inf)")
        settle(self, max_iter=integer(1), tol=number("[0, inf)"), step_size=step_size)

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> Self:
        """Return the solver for these settings; a ``learning_rate`` is its step size."""
        named = {"max_iter": "max_iter", "tol": "tol", "learning_rate": "step_size"}
        given = {own: settings.get(name) for name, own in named.items()}
        return cls(**{own: value for own, value in given.items() if value is not None})

    def refuses(self, loss: Loss, penalty: Penalty) -> str | None:
        """Refuse a kinked loss where the step is to come from its curvature."""
        del penalty
        if loss.smooth or self.step_size != "curvature":
            return None
        return "step_size='curvature' needs a smooth loss; use 'backtracking'"

    def init(self, objective: Objective, params: Params) -> GDState:
        """Evaluate the start and choose the first step size."""
        check_suits(self, objective)
        value, grads = objective.data_loss_and_grad(params)
        given = self.step_size if isinstance(self.step_size, (int, float)) else None
        metric = feature_metric(objective) if given is None else plain_metric(objective)
        start = objective.data.backend.compile(_start, objective.xp)
        zero, curvature = objective.loss_at_zero(), loss_curvature(objective.loss, objective.k)
        report, limit = start(value, zero, params.b, metric.eigenvalue, curvature, given)
        return GDState(
            params=params,
            report=report,
            current=params,
            current_loss=value,
            grads=grads,
            metric=metric,
            zero=zero,
            limit=limit,
            t=0,
        )

    def step(self, objective: Objective, state: GDState) -> GDState:
        """Try one gradient step for every model; keep it where it is accepted."""
        smooth, compile_ = objective.loss.smooth, objective.data.backend.compile
        decay = 1.0 if smooth else 1.0 - state.t / self.max_iter
        move = compile_(_move, objective.penalty, objective.xp)(
            *(state.current, state.grads, state.metric),
            *(decay, state.report.step_size, objective.alpha),
        )
        loss, grads = objective.data_loss_and_grad(move.trial)
        searches = smooth and self.step_size == "backtracking"
        judge = compile_(_judge, searches, objective.penalty, smooth, objective.xp)
        judged = judge(state, objective.alpha, move, loss, grads, self.tol)
        return judged._replace(t=state.t + 1)

    def take(self, state: GDState, models: Array, *, xp: Namespace) -> GDState:
        """Return the state of a stack of these models only."""
        return take_models(state, models, xp=xp, metric=state.metric.take(models, xp=xp))


def _start(
    xp: Namespace,
    value: Array,
    zero: Array,
    b: Array,
    eigenvalue: Array,
    curvature: float,
    given: float | None,
) -> tuple[Report, Array]:
    """Return the first report, and what is too large for the loss ``(m,)``."""
    ones = xp.ones_like(b[:, 0])
    step_size = ones / (curvature * eigenvalue) if given is None else given * ones
    return first_report(value, step_size, xp=xp), 10.0 * xp.maximum(zero, value)


def _move(
    penalty: Penalty,
    xp: Namespace,
    params: Params,
    grads: Params,
    metric: Metric,
    decay: float,
    step_size: Array,
    alpha: Array,
) -> Move:
    return proximal_step(penalty, xp, params, grads, metric, decay * step_size, alpha)


def _judge(
    searches: bool,
    penalty: Penalty,
    smooth: bool,
    xp: Namespace,
    state: GDState,
    alpha: Array,
    move: Move,
    loss: Array,
    grads: Params,
    tol: float,
) -> GDState:
    """Keep the trial points that are good enough, and choose the next step sizes."""
    report, converged = state.report, state.report.converged
    before = state.current_loss + weighted_penalty(penalty, xp, state.current.W, alpha)
    residual = relative_excess(state.zero, before, 0.5 * move.length / move.step_size, xp=xp)
    if smooth:
        converged = converged | (residual <= tol)
    accept = loss <= state.limit
    if searches:
        rise = move.slope + move.length / (2.0 * move.step_size)
        slack = 10.0 * float(xp.finfo(move.length.dtype).eps) * xp.abs(state.current_loss)
        accept = accept & (loss <= state.current_loss + rise + slack)
    longer, shorter = (1.2, 0.5) if searches else (1.0, 0.1)
    step_size = xp.where(accept, longer * report.step_size, shorter * report.step_size)
    diverged = xp.zeros_like(accept) if searches else ~accept & ~converged
    accept = accept & ~report.converged
    better = accept
    if not smooth:
        now = loss + weighted_penalty(penalty, xp, move.trial.W, alpha)
        best = report.loss + weighted_penalty(penalty, xp, state.params.W, alpha)
        better = accept & (now < best)
    return state._replace(
        params=select(better, move.trial, state.params, xp=xp),
        report=report._replace(
            loss=xp.where(better, loss, report.loss),
            step_size=step_size,
            converged=converged,
            diverged=diverged,
            residual=residual,
        ),
        current=select(accept, move.trial, state.current, xp=xp),
        current_loss=xp.where(accept, loss, state.current_loss),
        grads=select(accept, grads, state.grads, xp=xp),
    )
