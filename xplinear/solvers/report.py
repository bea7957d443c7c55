"""What every solver tells of its models after a step."""

from __future__ import annotations

from typing import NamedTuple

from xplinear.namespace import Array, Namespace

__all__ = ["Report", "first_report"]


class Report(NamedTuple):
    """What `xplinear.minimize` reads of any solver's state, besides its parameters; all ``(m,)``.

    Attributes
    ----------
    loss : Array
        Mean data loss, at ``params`` or, for SGD, over the epoch that led there.
    step_size : Array
        Step size of the next iteration.
    converged : Array of bool
        The model is done and no longer moves.
    diverged : Array of bool
        The last iteration was undone and the step size reduced.
    residual : Array
        $√(e / 10 (F(0) − F))$, e an estimate of F − F*; NaN where the solver measures none, the
        relative gap where it has a lower bound.
    stalled : Array of bool
        Converged, though not to ``tol``: rounding hides any further decrease.
    lower_bound : Array
        A proven lower bound of F; −inf where the solver has none.
    """

    loss: Array
    step_size: Array
    converged: Array
    diverged: Array
    residual: Array
    stalled: Array
    lower_bound: Array


def first_report(loss: Array, step_size: Array, *, xp: Namespace) -> Report:
    """Return the report of models that have not moved, residual 1.

    Examples
    --------
    >>> import numpy as np
    >>> report = first_report(np.asarray([0.7]), np.asarray([0.1]), xp=np)
    >>> report.converged, report.lower_bound
    (array([False]), array([-inf]))
    """
    no = xp.zeros_like(loss, dtype=xp.bool)
    nothing = xp.full_like(loss, -xp.inf)
    return Report(loss, step_size, no, no, xp.ones_like(step_size), no, nothing)
