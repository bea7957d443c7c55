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

    A solver of ``SOLVERS`` is made by name with those of ``max_iter``, ``tol``, ``patience``,
    ``batch_size``, ``learning_rate``, ``momentum`` and ``seed`` that it has fields for, or by its
    ``configured(settings)``, a class method, which is given them all, None where not given.

    What more a solver can do, or cannot, it declares. All that is optional:

    ==================================  ========================================================
    ``refuses(loss, penalty)``          Why it cannot do these, and what can; None where it can.
    ``exact = False``                   It does not go to the optimum: no certificate is made.
    ``unit = "iteration"``              What its steps are counted as.
    ``state_type``                      Of its states: those of another solver are refused.
                                        Checkpoints hold named tuples that it, and the fields of
                                        these, are declared to be.
    ``needs_alpha = True``              It wants a penalty: by name, it is refused α = 0.
    ``pays(objective, models)``         Whether "auto" may choose it for so many models at once.
    ``relay(objective)``                For "auto": itself, with a shorter run, and the solver
                                        that goes on where that was slow; or None.
    ``planned(objective)``              Itself, as it should be for the many models of a sweep.
    ``follow(objective, params,         The state of models that differ from earlier ones in α
    previous, before)``                 only: their last state and their α.
    ``curved(objective, state,          The state that `follow` gave, of models of one α, told of
    iterations)``                       the curvature there, if it saves half of so many.
    ``renewed(objective, state,         The state before a step, given how many were made and each
    iteration, residuals)``             model's residual: what the host knows, a step does not.
    ``common_rows = True``              It cannot solve models together that standardize the
                                        features each for itself.
    ``ahead(objective, state)``         Parameters a step further on than ``state.params``: the
                                        optimum is bounded from there.
    ``copy(state, xp=)``                A state in memory of its own, where ``step`` writes into
                                        the state it is given: `minimize` goes on from that.
    ``with_rates(rates)``               Itself, with a learning rate for each model.
    ``in_turn()``                       Itself, for one epoch of rows that come in turn; its
                                        ``init`` then takes the state before as well, and what
                                        a weight of then counts now.
    ``iterations_on(objective)``        The number of steps to make, where it depends on more
                                        than the number of rows.
    ==================================  ========================================================
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


_DEFAULTS: dict[str, Any] = {
    "refuses": lambda loss, penalty: None,
    "exact": True,
    "unit": "iteration",
    "needs_alpha": False,
    "common_rows": False,
    "pays": lambda objective, models: True,
} | dict.fromkeys(
    (
        "ahead",
        "copy",
        "curved",
        "follow",
        "in_turn",
        "iterations_on",
        "planned",
        "relay",
        "renewed",
        "state_type",
        "with_rates",
    )
)


def declared(solver: Any, name: str) -> Any:
    """Return what a solver, or a class of them, declares of itself: see `Solver`."""
    return getattr(solver, name, _DEFAULTS[name])


def check_suits(solver: Solver, objective: Objective) -> None:
    """Raise ValueError where a solver refuses the loss or the penalty."""
    refusal = declared(solver, "refuses")(objective.loss, objective.penalty)
    if refusal is not None:
        raise ValueError(refusal)


def max_iter_iterations(self: Any, n: int) -> int:
    """Return ``max_iter``: the ``iterations`` of a solver that makes as many on any rows."""
    del n
    return self.max_iter


_WANTED = "an object with the methods of xplinear.solvers.Solver"
SOLVER = offering(Solver, _WANTED, without="take")  # which a single model does not need
SOLVER_OF_STACKS = offering(Solver, _WANTED)
STATE = offering(State, "a state of this solver")


def select(which: Array, a: Params, b: Params, *, xp: Namespace) -> Params:
    """Return, model by model, ``a`` where ``which (m,)`` is True and ``b`` elsewhere."""
    mask = which[:, None]
    return Params(xp.where(mask, a.W, b.W), xp.where(mask, a.b, b.b))


def take_models(part: Any, models: Array, *, xp: Namespace, **own: Any) -> Any:
    """Return these models' part: of `Params`, of arrays with the models first, of tuples of such.

    Tuples keep their type. None and integers belong to all models and stay. ``own`` are fields
    of a named tuple as they will be: of another form, or of all models.
    """
    if own:
        return take_models(part._replace(**dict.fromkeys(own)), models, xp=xp)._replace(**own)
    if isinstance(part, Params):
        # As in `Objective.zeros`: each column of weights stays contiguous in memory.
        W = xp.take(xp.permute_dims(part.W, (1, 2, 0)), models, axis=0)
        return Params(xp.permute_dims(W, (2, 0, 1)), xp.take(part.b, models, axis=0))
    if isinstance(part, tuple):
        each = [take_models(a, models, xp=xp) for a in cast("tuple[Any, ...]", part)]
        return tuple(each) if type(part) is tuple else type(part)(*each)
    return part if part is None or isinstance(part, int) else xp.take(part, models, axis=0)
