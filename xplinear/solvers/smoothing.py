"""Smoothing with continuation: kinked losses to a certified optimum, for m models at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from xplinear.arguments import integer, number, settle
from xplinear.losses import Loss
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params, weighted_penalty
from xplinear.penalties import L2Penalty, Penalty
from xplinear.solvers.balance import evened
from xplinear.solvers.bundle import Bundle, Classes, class_means, collect, no_points, prove
from xplinear.solvers.kinks import bending_pays, first_width, kinked_inverse_hessians, rounded_loss
from xplinear.solvers.lbfgs import LBFGS, LBFGSState
from xplinear.solvers.protocol import check_suits, max_iter_iterations, select, take_models
from xplinear.solvers.report import Report, first_report
from xplinear.solvers.stopping import relative_gap

__all__ = ["Smoothing", "SmoothingState"]

_MEMORY = 40  # pairs of L-BFGS; 20 need a few passes more
_INTERCEPT = 3.0  # its curvature does not grow as the weights' does: 1 leaves large residuals
_BENDS = (60, 120, 240, 480, 960)  # iterations after which the curvature is measured anew
_SHRINK = 0.3  # of the width, from stage to stage
_BIAS = 0.3  # share of the gap up to which rounding the kinks may cost
_LAST_BIAS = 0.02  # share of the gap asked for below which it need not shrink
_LEAST_WIDTH = 10.0  # times eps
_STAGE = 500  # iterations after which the width shrinks in any case
_IDLE = 5  # steps without a decrease after which it does
_PATIENCE = 10  # such steps at the last width before rounding is blamed
_EVERY = 20  # iterations from bound to bound
_ANY = 1e30  # above any value of F: the next one is accepted


class SmoothingState(NamedTuple):
    """State of `Smoothing`; ``params`` are the best so far, ``residual`` is the relative gap."""

    params: Params
    report: Report
    value: Array  # F at params
    zero: Array  # F at W = 0, b = 0
    width: Array
    fresh: Array  # the width has changed: the next pass is at the same point
    age: Array  # iterations at this width
    inner: LBFGSState
    bundle: Bundle
    classes: Classes
    t: int


@dataclass(frozen=True)
class Smoothing:
    """Smoothing with continuation, for kinked losses with the L2 penalty, to a proven gap.

    L-BFGS minimizes F with its kinks rounded over a width that shrinks as the gap closes; from
    iteration 60 on it is preconditioned by the Hessian of each class, of the rows near its
    kinks, where p (p + 1024) ≤ 200 n: as much work as it saves. Each pass gives
    a dual point A, the gradients of the rounded losses, and so the bound

    $F ≥ −(1/S) Σ_i s_i ℓ*_i(a_i) − ‖G‖² / (2α),  G = (1/S) Σ_i s_i x_i a_iᵀ,  Σ_i s_i a_i = 0$

    (the last with a free intercept). Alone it is poor; the best mixture of the last 80 points,
    a small quadratic program, is within a fraction of a percent. The points themselves are not
    stored: G, the residual Σ_i s_i a_i and the value are linear in them. With α = 0 nothing is
    proven.

    Parameters
    ----------
    max_iter : int, default 1000
    tol : float, default 1e-3
        Stop a model when F minus its lower bound is at most ``tol`` times F, and ten times
        ``tol`` times what has been gained, F(0) − F.

    Raises
    ------
    ValueError
        If a parameter is out of its range, the loss is not a multiclass hinge, or the penalty
        not L2.

    References
    ----------
    Nesterov, Smooth minimization of non-smooth functions, Mathematical Programming 2005;
    Teo, Vishwanathan, Smola and Le, Bundle methods for regularized risk minimization, JMLR 2010.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import xplinear as xl
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = xl.LinearClassifier(loss="multiclass_hinge", solver="smoothing", alpha=1.0)
    >>> round(clf.fit(X, y).objective_, 3)
    0.752
    """

    max_iter: int = 1000
    tol: float = 1e-3

    state_type = SmoothingState
    iterations = max_iter_iterations
    needs_alpha = True

    def __post_init__(self) -> None:
        settle(self, max_iter=integer(1), tol=number("[0, inf)"))

    def refuses(self, loss: Loss, penalty: Penalty) -> str | None:
        """Refuse all but a multiclass hinge with L2."""
        if penalty != L2Penalty():
            return f"solver 'smoothing' needs penalty='l2', got {penalty!r}; use 'sgd'"
        if getattr(loss, "smoothed", None) is not None:
            return None
        return (
            "solver 'smoothing' needs the loss 'multiclass_hinge' or 'crammer_singer', got "
            f"{loss!r}; use 'lbfgs' where the loss is smooth, else 'sgd'"
        )

    def init(self, objective: Objective, params: Params) -> SmoothingState:
        """Evaluate the start, and decompose the Gram matrix as `LBFGS` does."""
        check_suits(self, objective)
        xp, params = objective.xp, evened(objective, params)
        width = xp.full_like(objective.alpha, first_width(objective.loss))
        loss, smooth, _, grads = rounded_loss(objective, params, width)
        inner = self._descent.start(objective, params, (smooth, grads))
        start = objective.data.backend.compile(_start, objective.penalty, xp)
        value, report = start(params.W, loss, inner.report.step_size, objective.alpha)
        return SmoothingState(
            params=params,
            report=report,
            value=value,
            zero=objective.loss_at_zero(),
            width=width,
            fresh=report.stalled,
            age=xp.zeros_like(width),
            inner=inner,
            bundle=no_points(objective, params, value),
            classes=class_means(objective, inner.preconditioner.centre),
            t=0,
        )

    def step(self, objective: Objective, state: SmoothingState) -> SmoothingState:
        """Make one step of L-BFGS; every tenth time, prove a bound."""
        xp, compile_ = objective.xp, objective.data.backend.compile
        if state.t in _BENDS and bending_pays(objective):
            blocks = kinked_inverse_hessians(objective, state.inner, state.params, state.width)
            state = state._replace(inner=self._descent.bend(objective, state.inner, blocks))
        pre = state.inner.preconditioner
        bias = compile_(_steered, xp)(state.inner.scale, pre.bias)
        steered = state.inner._replace(preconditioner=pre._replace(bias=bias))
        proposal = self._descent.propose(objective, steered)
        loss, smooth, dual, grads = rounded_loss(objective, proposal.params, state.width)
        inner = self._descent.judge(objective, state.inner, proposal, (smooth, grads))
        centre, t = inner.preconditioner.centre, state.t + 1
        bundle = collect(objective, state.bundle, grads, dual, centre)
        bound = state.report.lower_bound
        if t % _EVERY == 0:
            intercept = inner.point[:, -proposal.params.b.shape[1] :]  # at the centre
            bundle, bound = prove(objective, bundle, state.classes, intercept, state.value, bound)
        least = _LEAST_WIDTH * float(xp.finfo(objective.data.dtype).eps)
        advance = compile_(_advance, objective.penalty, least, xp)
        light = cast("Any", state)._replace(
            report=state.report._replace(lower_bound=bound),
            inner=None,
            bundle=None,
            classes=None,
            t=None,
        )
        told = inner.idle, inner.report.step_size, inner.value
        light, value = advance(
            *(light, objective.alpha, proposal.params, loss, smooth), *told, self.tol
        )
        outer = light.report
        inner = inner._replace(
            report=inner.report._replace(
                step_size=outer.step_size, converged=outer.converged, stalled=outer.stalled
            ),
            value=value,
        )
        return light._replace(inner=inner, bundle=bundle, classes=state.classes, t=t)

    def take(self, state: SmoothingState, models: Array, *, xp: Namespace) -> SmoothingState:
        """Return the state of a stack of these models only."""
        inner = self._descent.take(state.inner, models, xp=xp)
        return take_models(state, models, xp=xp, inner=inner)

    def copy(self, state: SmoothingState, *, xp: Namespace) -> SmoothingState:
        """Return the state with rings of its own."""
        last = state.bundle.last
        last = last._replace(gradient=xp.astype(last.gradient, last.gradient.dtype, copy=True))
        inner = self._descent.copy(state.inner, xp=xp)
        return state._replace(inner=inner, bundle=state.bundle._replace(last=last))

    @property
    def _descent(self) -> LBFGS:
        return LBFGS(self.max_iter, 0.0, _MEMORY)


def _start(
    penalty: Penalty, xp: Namespace, W: Array, loss: Array, step_size: Array, alpha: Array
) -> tuple[Array, Report]:
    """Return F ``(m,)``, and what is to be told of it."""
    value = loss + weighted_penalty(penalty, xp, W, alpha)
    return value, first_report(loss, step_size, xp=xp)._replace(
        converged=value <= 0.0,
        residual=xp.ones_like(value),
        lower_bound=xp.zeros_like(value),  # no loss is negative
    )


def _advance(
    penalty: Penalty,
    least: float,
    xp: Namespace,
    state: Any,
    alpha: Array,
    params: Params,
    loss: Array,
    smooth: Array,
    idle: Array,
    step_size: Array,
    rounded: Array,
    tol: float,
) -> tuple[Any, Array]:
    """Return the state, less its large parts, after the pass at ``params``.

    And F as L-BFGS sees it: of ``rounded`` kinks, but where the width has changed.
    """
    value, bias = loss + weighted_penalty(penalty, xp, params.W, alpha), loss - smooth
    report, running = state.report, ~state.report.converged
    better = (value < state.value) & running
    best = xp.where(better, value, state.value)
    # At the last width: rounding the kinks costs nothing that counts, or nothing that is seen.
    last = (bias <= _LAST_BIAS * tol * best) | (state.width <= least)
    done = (bias > _BIAS * (best - report.lower_bound)) | (idle >= _IDLE) | (state.age > _STAGE)
    done = done & ~state.fresh & ~last
    residual = relative_gap(state.zero, best, report.lower_bound, xp=xp)
    reached = residual <= tol
    stalled = report.stalled | (last & (idle >= _PATIENCE) & ~reached & running)
    state = state._replace(
        params=select(better, params, state.params, xp=xp),
        report=report._replace(
            loss=xp.where(better, loss, report.loss),
            step_size=xp.where(done, 0.0, xp.where(state.fresh, 1.0, step_size)),
            converged=report.converged | reached | stalled,
            residual=residual,
            stalled=stalled,
        ),
        value=best,
        width=xp.where(done, _SHRINK * state.width, state.width),
        fresh=done,
        age=xp.where(done, 0.0, state.age + 1.0),
    )
    return state, xp.where(done, _ANY, rounded)


def _steered(xp: Namespace, scale: Array, bias: float) -> Array:
    """Return that of an intercept which does not follow the scale of the weights."""
    del xp
    return (_INTERCEPT * bias / scale)[:, None]
