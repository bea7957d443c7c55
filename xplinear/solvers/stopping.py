"""When a model is done: little is left to gain, or rounding hides any further decrease."""

from __future__ import annotations

from typing import Any

from xplinear.namespace import Array, Namespace
from xplinear.objective import Params
from xplinear.solvers.protocol import select

__all__ = ["backtracked", "decreases", "moved", "relative_excess", "relative_gap"]

_SUFFICIENT = 1e-4  # share of the predicted decrease that is enough (Armijo)
_EASE = 10.0  # tol = 1e-4 then asks for 1e-7, where 1e-3 is promised: estimates can be low
_PATIENCE = 10  # steps in a row that decrease F by no more than rounding


def _rounding_of(state: Any, *, xp: Namespace) -> Array:
    """Return by what F ``(m,)`` may seem to rise from rounding alone."""
    return 10.0 * float(xp.finfo(state.point.dtype).eps) * xp.abs(state.value)


def decreases(state: Any, value: Array, slope: Array, *, xp: Namespace) -> Array:
    """Return whether F falls enough ``(m,)`` from the state to a trial of this value.

    ``slope`` is what it would change by if it were linear.
    """
    enough = state.value + _SUFFICIENT * xp.astype(slope, value.dtype)
    return value <= enough + _rounding_of(state, xp=xp)


def backtracked(before: Array, value: Array, slope: Array, *, xp: Namespace) -> Array:
    """Return by which factor ``(m,)`` to shorten a step that did not decrease F enough.

    The parabola through value and slope before and the value here has its bottom there.
    """
    dtype, slope = slope.dtype, xp.astype(slope, value.dtype)
    rise = value - before - slope
    bottom = -0.5 * slope / xp.where(rise > 0.0, rise, 1.0)
    factor = xp.where((rise > 0.0) & xp.isfinite(rise), xp.clip(bottom, 0.1, 0.5), 0.1)
    return xp.astype(factor, dtype)


def relative_excess(zero: Array, value: Array, excess: Array, *, xp: Namespace) -> Array:
    """Return √(excess / 10 (F(0) − F)) ``(m,)``, 0 where there is nothing to gain.

    ``excess`` estimates F − F* from the gradient in a metric, so that it does not depend on the
    units of the features, and ``zero`` is F(0), so that it does not depend on the start. An
    estimate by past steps has been seen to be 300 times too low.
    """
    eps, learnt = float(xp.finfo(excess.dtype).eps), zero - value
    dtype, excess = excess.dtype, xp.astype(excess, zero.dtype)
    lost = (excess <= eps * xp.abs(zero)) & (xp.abs(learnt) <= eps**0.5 * xp.abs(zero))
    known = (learnt > 0.0) & (excess >= 0.0)
    relative = xp.sqrt(xp.where(known, excess / xp.where(known, _EASE * learnt, 1.0), xp.inf))
    return xp.astype(xp.where(lost | (excess == 0.0), 0.0, relative), dtype)


def relative_gap(zero: Array, value: Array, bound: Array, *, xp: Namespace) -> Array:
    """Return (F − bound) / F ``(m,)``, or a tenth of it over F(0) − F where that is larger.

    So ``tol`` = 1e-4 proves F within 1e-3 of what there is to gain. 0 where that is nothing.
    """
    gap, learnt, small = value - bound, zero - value, float(xp.finfo(value.dtype).eps) ** 0.5
    nothing = (gap <= small * zero) & (learnt <= 100.0 * small * zero)
    relative = gap / xp.where(value > 0.0, value, 1.0)
    gained = 0.1 * gap / xp.where(learnt > 0.0, learnt, 1.0)
    gained = xp.where(learnt > 0.0, gained, xp.full_like(gap, xp.inf))
    gained = xp.where(gap > 0.0, gained, xp.zeros_like(gap))
    return xp.where(nothing, 0.0, xp.maximum(relative, gained))


def moved(
    state: Any,
    accept: Array,
    params: Params | None,
    loss: Array,
    value: Array,
    step_size: Array,
    residual: Array,
    tol: float | Array,
    *,
    xp: Namespace,
) -> Any:
    """Return the state with what models reached that ``accept (m,)``, and whether they are done.

    That is F of ``value``, of which ``loss`` is the data's; ``residual`` is of the state before.
    Without ``params``, those of the state are as they were.
    """
    report = state.report
    moving = accept & (value < state.value - 0.1 * _rounding_of(state, xp=xp))
    idle = xp.where(moving | report.converged, 0.0, state.idle + 1.0)
    reached = residual <= tol
    stalled = report.stalled | (~reached & ~report.converged & (idle >= _PATIENCE))
    return state._replace(
        params=select(accept, params, state.params, xp=xp) if params else state.params,
        report=report._replace(
            loss=xp.where(accept, loss, report.loss),
            step_size=step_size,
            converged=report.converged | reached | stalled,
            residual=residual,
            stalled=stalled,
        ),
        value=xp.where(accept, value, state.value),
        idle=idle,
    )
