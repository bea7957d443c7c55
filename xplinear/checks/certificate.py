"""What is known of a fit: how far from the optimum it can be at most, and why it stopped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from xplinear.arguments import NONE, instance
from xplinear.backends.base import undisturbed
from xplinear.duality import value_and_lower_bound
from xplinear.minimize import Result, place_of
from xplinear.namespace import Array, HostArray, Namespace
from xplinear.objective import Objective
from xplinear.solvers.protocol import SOLVER, Solver, declared

__all__ = ["Certificate", "certify"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """How near each model is to its optimum, proven; arrays are float64 of shape ``(m,)``.

    Parameters
    ----------
    objective : ndarray
        F at the solution.
    lower_bound : ndarray
        What F cannot go below, whatever the parameters; −∞ where nothing is proven: the loss or
        the penalty has no conjugate, or α is 0.
    residual : ndarray
        What the solver compared with ``tol``: $√(e / 10 (F(0) − F))$, e its estimate of F − F*; NaN
        where it measures none.
    reasons : tuple of m strings
        Why each model stopped: ``"converged"``, ``"rounding"`` (no further decrease in this
        dtype), ``"max_iter"``, ``"early_stopping"``, ``"callback"``, ``"interrupted"``.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplinear as xl
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = xl.LinearClassifier(solver="lbfgs", alpha=0.01, tol=1e-6).fit(X, y)
    >>> bool(clf.certificate_.relative_gap[0] < 1e-6), clf.certificate_.reasons
    (True, ('converged',))
    """

    objective: HostArray
    lower_bound: HostArray
    residual: HostArray
    reasons: tuple[str, ...]

    @property
    def gap(self) -> HostArray:
        """``objective − lower_bound``: at most so much could F still decrease; ∞ if unknown."""
        return self.objective - self.lower_bound

    @property
    def relative_gap(self) -> HostArray:
        """The gap over ``|objective|``."""
        return self.gap / np.maximum(np.abs(self.objective), np.finfo(np.float64).tiny)

    def __str__(self) -> str:
        """Return why each model ended, and how far F is from its minimum, over F.

        A line per model or, of many, one for all.
        """
        if len(self.reasons) <= _FEW:
            return "\n".join(map(_describe, self.relative_gap, self.residual, self.reasons))
        ends = Counter(_REASONS.get(reason, reason) for reason in self.reasons)
        parts = [", ".join(f"{count} {why}" for why, count in ends.most_common())]
        gap = self.relative_gap
        known = np.isfinite(gap)
        if known.any():
            worst = int(np.argmax(np.where(known, gap, -np.inf)))
            parts.append(
                f"{int(known.sum())} within {gap[worst]:.1e} of the optimum, proven (model "
                f"{worst} the farthest)"
            )
        if not known.all():
            parts.append(f"no bound of the optimum is known of {int((~known).sum())}")
        return f"{len(self.reasons)} models: " + "; ".join(parts)


_FEW = 10  # models that have a line each
_REASONS = {
    "rounding": "ended by rounding",
    "max_iter": "ended by max_iter",
    "early_stopping": "stopped early",
    "callback": "stopped by a callback",
}


def _describe(gap: float, residual: float, reason: str) -> str:
    why = _REASONS.get(reason, reason)
    if np.isfinite(gap):
        return f"{why}: within {gap:.1e} of the optimum, proven"
    measured = f", residual {residual:.1e}" if np.isfinite(residual) else ""
    return f"{why}: no bound of the optimum is known{measured}"


@undisturbed(place_of)
@np.errstate(over="ignore")  # at α of 1e-300 nothing is proven
def certify(objective: Objective, result: Result, solver: Solver | None = None) -> Certificate:
    """Return the certificate of what `minimize` found.

    The lower bound is the better of the solver's own and that of
    `xplinear.duality.value_and_lower_bound`, which makes one pass over the data in float64, two
    with an intercept. Where the ``solver`` is given and can look ahead, the bound is taken a step
    further on, where it is tighter.

    Examples
    --------
    >>> import numpy as np
    >>> from xplinear import losses, penalties, solvers
    >>> from xplinear.backends import get_backend
    >>> from xplinear.data import ArrayData
    >>> from xplinear.minimize import minimize
    >>> data = ArrayData(np.eye(3), np.arange(3), backend=get_backend("numpy"))
    >>> F = Objective(losses.SoftmaxLoss(), penalties.L2Penalty(), np.asarray([0.1]), data, k=3)
    >>> certificate = certify(F, minimize(F, solvers.LBFGS(tol=1e-8)))
    >>> certificate.objective.round(4), bool(certificate.gap[0] < 1e-12)
    (array([0.5939]), True)
    """
    instance(Result, "a Result of minimize")("result", result)
    (SOLVER | NONE)("solver", solver)
    backend = objective.data.backend
    look = declared(solver, "ahead")
    whole = result.state.params.b.shape[0] == objective.m  # no model has left the stack
    with backend.products(0.0):
        ahead = look(objective, result.state) if look is not None and whole else None
    with backend.double_precision(), backend.products(0.0):
        bounds = value_and_lower_bound(objective, result.params, ahead)
        both = backend.to_host(backend.compile(_stacked, objective.xp)(*bounds))
    value, bound = both.astype(np.float64)
    # The solver's bound is a number of the dtype of the fit: rounding may put it above F.
    bound = np.maximum(bound, np.minimum(result.lower_bound, value))
    # A solver with a bound of its own measures the gap, no gradient.
    residual = np.where(np.isfinite(result.lower_bound), np.nan, result.residual)
    return Certificate(value, bound, residual, result.reasons)


def _stacked(xp: Namespace, *parts: Array) -> Array:
    return xp.stack(parts)
