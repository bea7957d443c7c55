"""Every parameter of the classifiers once: its name, its default, and what it may be."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np

from xplinear.arguments import (
    DTYPE,
    FLAG,
    NONE,
    TEXT,
    Check,
    configured,
    instance,
    integer,
    named,
    number,
    one_of,
    sequence,
    settle,
)
from xplinear.backends import PRECISIONS, Backend
from xplinear.formats.checkpoint import CHECKPOINT, Checkpoint
from xplinear.losses import LOSS, LOSSES, Loss
from xplinear.penalties import PENALTIES, PENALTY, Penalty
from xplinear.solvers import SOLVERS, Solver
from xplinear.solvers.protocol import SOLVER, declared

__all__ = [
    "STRENGTHS",
    "Settings",
    "SharedParameters",
    "check_fields",
    "checked",
    "given",
    "parameter",
]

# ruff: noqa: RUF009 - `parameter` makes fields, as `dataclasses.field` does
# Annotations are evaluated here: those of the fields become those of the classifiers' `__init__`.

_S = TypeVar("_S")


def parameter(default: Any, check: Check) -> Any:
    """Return a field of a dataclass whose value `check_fields` checks."""
    return field(default=default, metadata={"check": check})


STRENGTHS = {"alpha": number("[0, inf)"), "C": number("(0, inf]")}  # of one model


def _for_each(one: Check) -> Check:
    """Return the check for a number, or of many labels one for each."""
    return replace(one | sequence(one, "one for each label"), wants=one.wants)


@cache
def _checks(kind: Any) -> dict[str, Check]:
    return {one.name: one.metadata["check"] for one in fields(kind)}


def check_fields(config: Any) -> None:
    """Check the parameters of a frozen dataclass while it is made; it keeps the plain values."""
    settle(config, **_checks(type(config)))


def checked(estimator: Any, name: str) -> Any:
    """Return one parameter of an estimator, checked."""
    return _checks(Settings)[name](name, getattr(estimator, name))


def given(kind: type[_S], estimator: Any) -> _S:
    """Return the parameters of an estimator that a dataclass has too, checked."""
    own = vars(estimator)
    return kind(**{name: own[name] for name in _checks(kind) if name in own})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a fit is told, checked: plain Python values, losses and penalties as objects.

    The parameters are those of `LinearClassifier`; the defaults are here, and nowhere else. A
    solver given by name stays one, as these settings are for it.

    Examples
    --------
    >>> Settings(loss="squared_hinge", alpha=np.float32(0.5)).alpha
    0.5
    >>> Settings(momentum=1)
    Traceback (most recent call last):
    xplinear.arguments.ArgumentError: momentum must be a number in [0, 1), got 1
    """

    loss: Loss = parameter("softmax", named(LOSSES, LOSS))
    penalty: Penalty = parameter("l2", named(PENALTIES, PENALTY) | NONE)
    alpha: float | Sequence[float] | None = parameter(None, _for_each(STRENGTHS["alpha"]) | NONE)
    C: float | Sequence[float] | None = parameter(None, _for_each(STRENGTHS["C"]) | NONE)
    multi_class: Literal["joint", "one_vs_rest"] = parameter(
        "joint", one_of("joint", "one_vs_rest")
    )
    l1_ratio: float = parameter(0.15, number("[0, 1]"))
    fit_intercept: bool = parameter(True, FLAG)
    standardize: bool = parameter(False, FLAG)
    solver: str | Solver = parameter("auto", one_of("auto") | named(SOLVERS, SOLVER))
    batch_size: int | None = parameter(None, integer(1) | NONE)
    learning_rate: Literal["auto"] | float = parameter("auto", one_of("auto") | number("(0, inf)"))
    momentum: float = parameter(0.9, number("[0, 1)"))
    max_iter: int | None = parameter(None, integer(1) | NONE)
    tol: float = parameter(1e-4, number("[0, inf)"))
    early_stopping: bool = parameter(False, FLAG)
    validation_fraction: float = parameter(0.1, number("(0, 1)"))
    n_iter_no_change: int = parameter(5, integer(1))
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = parameter(
        None, instance(Mapping, "a dict") | one_of("balanced") | NONE
    )
    warm_start: bool = parameter(False, FLAG)
    random_state: int | np.random.RandomState | None = parameter(
        None, integer(0) | instance(np.random.RandomState, "a RandomState") | NONE
    )
    backend: str | Backend | None = parameter(None, TEXT | instance(Backend, "a Backend") | NONE)
    dtype: str | None = parameter(None, DTYPE | NONE)
    precision: Literal["float32", "tf32"] = parameter("float32", one_of(*PRECISIONS))
    accelerate: bool = parameter(True, FLAG)
    checkpoint: Checkpoint | None = parameter(None, CHECKPOINT | NONE)
    verbose: int = parameter(0, integer(0) | FLAG)

    def __post_init__(self) -> None:
        solver, penalty = self.solver, self.penalty
        check_fields(self)
        if isinstance(solver, str):
            object.__setattr__(self, "solver", solver)
        penalty = "none" if penalty is None else penalty
        if isinstance(penalty, str):
            named_one = configured(PENALTIES[penalty], {"l1_ratio": self.l1_ratio})
            object.__setattr__(self, "penalty", named_one)
        if self.alpha is not None and self.C is not None:
            msg = (
                f"alpha={self.alpha!r} and C={self.C!r} are two ways to say how strong the penalty "
                "is, alpha = 1 / (C n): give only one of them"
            )
            raise ValueError(msg)
        by_name = isinstance(self.solver, str)
        if self.unpenalized and by_name and declared(self.solver_or_class, "needs_alpha"):
            name, value = ("C", "inf") if self.alpha is None else ("alpha", "0")
            least = "finite" if self.alpha is None else "more than 0"
            msg = (
                f"{name} must be {least} for solver={self.solver!r}, got {value}; use solver='sgd'"
            )
            raise ValueError(msg)

    @property
    def solver_or_class(self) -> Any:
        """The solver, or its class where it is told by name; None for "auto"."""
        return SOLVERS.get(self.solver) if isinstance(self.solver, str) else self.solver

    @property
    def unpenalized(self) -> bool:
        """Whether α is 0, of any model, whatever the data."""
        if self.alpha is not None:
            return 0.0 in np.atleast_1d(self.alpha)
        return self.C is not None and bool(np.isinf(self.C).any())

    @property
    def stochastic(self) -> bool:
        """Whether something asks for SGD."""
        return self.early_stopping or self.learning_rate != "auto"


@dataclass(kw_only=True, eq=False, repr=False)
class SharedParameters:
    """The parameters that both classifiers take, as they may be given."""

    loss: str | Loss = Settings.loss
    penalty: str | Penalty | None = Settings.penalty
    l1_ratio: float = Settings.l1_ratio
    fit_intercept: bool = Settings.fit_intercept
    standardize: bool = Settings.standardize
    solver: str | Solver = Settings.solver
    batch_size: int | None = Settings.batch_size
    learning_rate: Literal["auto"] | float = Settings.learning_rate
    momentum: float = Settings.momentum
    max_iter: int | None = Settings.max_iter
    tol: float = Settings.tol
    class_weight: Mapping[Any, float] | str | None = Settings.class_weight
    multi_class: Literal["joint", "one_vs_rest"] = Settings.multi_class
    random_state: int | np.random.RandomState | None = Settings.random_state
    backend: str | Backend | None = Settings.backend
    dtype: str | None = Settings.dtype
    precision: Literal["float32", "tf32"] = Settings.precision
    accelerate: bool = Settings.accelerate
    checkpoint: str | os.PathLike[str] | Checkpoint | None = Settings.checkpoint
    verbose: int = Settings.verbose
