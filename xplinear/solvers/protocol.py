"""What a solver is, and what every solver's state shows."""

from __future__ import annotations

from typing import Any, Protocol, cast

from xplinear.arguments import offering
from xplinear.namespace import Array, Namespace
from xplinear.objective import Objective, Params

__all__ = ["Solver", "State", "select", "take_models"]


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
    residual : Array
        $√(e / 10 (F(0) − F))$, e an estimate of F − F*; NaN where the solver measures none, the
        relative gap where it has a lower bound.
    stalled : Array of bool
        Converged, though not to ``tol``: rounding hides any further decrease.
    lower_bound : Array
        A proven lower bound of F; −inf where the solver has none.
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
    @property
    def residual(self) -> Array: ...
    @property
    def stalled(self) -> Array: ...
    @property
    def lower_bound(self) -> Array: ...


class Solver(Protocol):
    """What a solver must offer; a frozen dataclass is the natural form.

    It may also offer ``ahead(objective, state) -> Params``, a step further than ``state.params``:
    the optimum is bounded from there.
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

    None and integers belong to all models and stay.
    """
    if isinstance(part, Params):
        # As in `Objective.zeros`: each column of weights stays contiguous in memory.
        W = xp.take(xp.permute_dims(part.W, (1, 2, 0)), models, axis=0)
        return Params(xp.permute_dims(W, (2, 0, 1)), xp.take(part.b, models, axis=0))
    if isinstance(part, tuple):
        return tuple(take_models(a, models, xp=xp) for a in cast("tuple[Any, ...]", part))
    return part if part is None or isinstance(part, int) else xp.take(part, models, axis=0)
