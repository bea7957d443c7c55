"""What a solver is, and what every solver's state shows."""

from __future__ import annotations

from typing import Any, Protocol

from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params

__all__ = ["Solver", "State", "select"]


class State(Protocol):
    """What `minimize` reads of any solver's state; all but ``params`` have shape ``(m,)``.

    Attributes
    ----------
    params : Params
        The solution so far.
    loss : Array
        Mean data loss, at ``params`` or, for SGD, over the epoch that led there.
    step_size : Array
        Step size of the next iteration.
    converged : Array of bool
        The model is done and no longer moves.
    diverged : Array of bool
        The last iteration was undone and the step size reduced.
    """

    @property
    def params(self) -> Params: ...
    @property
    def loss(self) -> Array: ...
    @property
    def step_size(self) -> Array: ...
    @property
    def converged(self) -> Array: ...
    @property
    def diverged(self) -> Array: ...


class Solver(Protocol):
    """What a solver must offer; a frozen dataclass is the natural form."""

    def iterations(self, n: int) -> int:
        """Return the largest number of steps worth making on n rows."""
        ...

    def init(self, objective: Objective, params: Params) -> State:
        """Return the state before the first step from ``params``."""
        ...

    def step(self, objective: Objective, state: Any) -> State:
        """Return the state after one iteration; for SGD an iteration is an epoch."""
        ...


def select(which: Array, a: Params, b: Params, *, xp: Namespace) -> Params:
    """Return, model by model, ``a`` where ``which (m,)`` is True and ``b`` elsewhere."""
    mask = which[:, None]
    return Params(xp.where(mask, a.W, b.W), xp.where(mask, a.b, b.b))
