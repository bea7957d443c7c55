"""When a model is done: its residual is small, or rounding hides any further decrease."""

from __future__ import annotations

from typing import Any

from xplinear.namespace import Array, Namespace

__all__ = ["SUFFICIENT", "rounding_of", "stopping"]

SUFFICIENT = 1e-4  # share of the predicted decrease that is enough (Armijo)
_PATIENCE = 10  # steps in a row that decrease F by no more than rounding


def rounding_of(state: Any, *, xp: Namespace) -> Array:
    """Return by what F ``(m,)`` may seem to rise from rounding alone."""
    return 10.0 * float(xp.finfo(state.point.dtype).eps) * xp.abs(state.value)


def stopping(
    state: Any, accept: Array, value: Array, residual: Array, tol: float, *, xp: Namespace
) -> dict[str, Array]:
    """Return the fields of the next state that say whether its models are done.

    ``accept (m,)`` tells which models moved, to F of ``value`` and ``residual``.
    """
    moving = accept & (value < state.value - 0.1 * rounding_of(state, xp=xp))
    idle = xp.where(moving | state.converged, 0.0, state.idle + 1.0)
    reached = residual <= tol
    stalled = state.stalled | (~reached & ~state.converged & (idle >= _PATIENCE))
    return {
        "residual": residual,
        "idle": idle,
        "stalled": stalled,
        "converged": state.converged | reached | stalled,
    }
