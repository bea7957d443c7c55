"""What a solver is, and what every solver's state shows."""

from __future__ import annotations

from typing import Any, Protocol, cast

from xplinear.arguments import offering
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params
from xplinear.solvers.report import Report

__all__ = ["Solver", "State", "select", "take_models"]


class State(Protocol):
    """What `minimize` reads of any solver's state.

    Attributes
    ----------
    params : Params
        The solution so far.
    report : xplinear.solvers.report.Report
        How far it is.
    """

    @property
    def params(self) -> Params: ...
    @property
    def report(self) -> Report: ...


class Solver(Protocol):
    """What a solver must offer; a frozen dataclass is the natural form.

    It may also offer ``ahead(objective, state) -> Params``, a step further than ``state.params``:
    the optimum is bounded from there; and ``state_type``, so that a state of another solver is
    refused.
    """

    def iterations(self, n: int) -> int:
        """Return the largest number of steps worth making on n rows."""
        ...

    def init(self, objective: Objective, params: Params) -> State:
        """Return the state before the first step from ``params``."""
        ...

    def step(self, objective: Objective, state: Any) -> State:
        """Return the state after one iteration; for SGD an iteration is an epoch."""
        ...

    def take(self, state: Any, models: Array, *, xp: Namespace) -> State:
        """Return the state of a stack of these models only: ``models`` holds their indices."""
        ...


_WANTED = "an object with the methods of xplinear.solvers.Solver"
SOLVER = offering(Solver, _WANTED, without="take")  # which a single model does not need
SOLVER_OF_STACKS = offering(Solver, _WANTED)
STATE = offering(State, "a state of this solver")


def select(which: Array, a: Params, b: Params, *, xp: Namespace) -> Params:
    """Return, model by model, ``a`` where ``which (m,)`` is True and ``b`` elsewhere."""
    mask = which[:, None]
    return Params(xp.where(mask, a.W, b.W), xp.where(mask, a.b, b.b))


def take_models(part: Any, models: Array, *, xp: Namespace) -> Any:
    """Return these models' part: of `Params`, of arrays with the models first, of tuples of such.

    Tuples keep their type. None and integers belong to all models and stay.
    """
    if isinstance(part, Params):
        # As in `Objective.zeros`: each column of weights stays contiguous in memory.
        W = xp.take(xp.permute_dims(part.W, (1, 2, 0)), models, axis=0)
        return Params(xp.permute_dims(W, (2, 0, 1)), xp.take(part.b, models, axis=0))
    if isinstance(part, tuple):
        own = [take_models(a, models, xp=xp) for a in cast("tuple[Any, ...]", part)]
        return tuple(own) if type(part) is tuple else type(part)(*own)
    return part if part is None or isinstance(part, int) else xp.take(part, models, axis=0)
