"""What an argument may be: one vocabulary of checks, one form of message, for all that is public.

A `Check` is called with the name of an argument and its value. It returns the value as plain
Python has it, whichever library a number came from, or raises `ArgumentError`, which names the
argument, says what it must be, and shows what it is.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from xplinear.namespace import Array, Namespace, array_namespace, device, is_array, name_of

__all__ = [
    "CALLABLE",
    "CALLABLES",
    "DTYPE",
    "FLAG",
    "NONE",
    "PATH",
    "TEXT",
    "ArgumentError",
    "Check",
    "check_array",
    "check_codes",
    "check_dtype",
    "check_finite",
    "check_rows",
    "check_same_library",
    "check_weights",
    "instance",
    "integer",
    "named",
    "naming",
    "number",
    "offering",
    "one_of",
    "plain",
    "satisfying",
    "scores_namespace",
    "sequence",
    "settle",
    "shown",
    "warn",
    "weights_namespace",
]

_LARGEST = 2**63 - 1  # that every array library can count to
_HOST_LIBRARIES = "jax", "jaxlib", "numpy", "torch"
_LONGEST = 100  # characters of a value in a message


class ArgumentError(ValueError, TypeError):
    """An argument that is not what it must be, by its value or its type."""


class _Unfit(Exception):  # noqa: N818 - never leaves this file
    """Why a value does not pass; empty where the value shows it."""


@dataclass(frozen=True)
class Check:
    """What an argument must be, in words, and the function that reads it.

    Examples
    --------
    >>> epochs = integer(1) | NONE
    >>> epochs("max_iter", np.int64(5))
    5
    >>> epochs("max_iter", 1.5)
    Traceback (most recent call last):
    xplinear.arguments.ArgumentError: max_iter must be an integer of at least 1 or None, got 1.5
    """

    wants: tuple[str, ...]
    read: Callable[[Any], Any]

    def __str__(self) -> str:
        *others, last = self.wants
        return f"{', '.join(others)} or {last}" if others else last

    def __call__(self, name: str, value: Any) -> Any:
        """Return the plain value, or raise ArgumentError."""
        try:
            return self.read(value)
        except _Unfit as unfit:
            why = f": {unfit}" if str(unfit) else ""
            msg = f"{name} must be {self}, got {shown(value)}{why}"
            raise ArgumentError(msg) from None

    def __or__(self, other: Check) -> Check:
        """Return the check that lets pass what either of the two does."""

        def read(value: Any) -> Any:
            try:
                return self.read(value)
            except _Unfit as unfit:
                why = str(unfit)  # the error itself would keep all frames, and their arrays
            try:
                return other.read(value)
            except _Unfit as unfit:
                raise _Unfit(why or str(unfit)) from None

        return Check(self.wants + other.wants, read)


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, and without the names of libraries.

    Examples
    --------
    >>> shown(np.int64(0)), shown(np.zeros((2, 3))), shown(dict)
    ('0', 'an array of shape (2, 3) and dtype float64', 'the class dict')
    """
    with suppress(_Unfit):
        return repr(_scalar(value))
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if _is_array(value):
        return f"an array of shape {tuple(value.shape)} and dtype {value.dtype}"
    text = re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def nameless(value: Any) -> str:
    """Return what an object shows, without its place in memory: that is another in every run."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def plain(value: Any) -> Any:
    """Return a number or truth value of any library as Python has it, anything else as it is.

    Examples
    --------
    >>> plain(np.float64(0.5)), plain("auto")
    (0.5, 'auto')
    """
    try:
        return _scalar(value)
    except _Unfit:
        return value


def _is_array(value: Any) -> bool:
    """Whether a value is an array: not the type of one, and no scalar of NumPy."""
    return is_array(value) and not isinstance(value, (type, np.generic))


def _scalar(value: Any) -> bool | int | float:
    """Return a number or truth value of any library as Python has it."""
    if isinstance(value, (bool, int, float)) and not isinstance(value, np.generic):
        return value
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not _is_array(value) or tuple(value.shape) != ():
        raise _Unfit
    xp = array_namespace(value)
    kinds = {"bool": bool, "integral": int, "real floating": float}
    with suppress(TypeError):  # a dtype that NumPy cannot classify, or an array being traced
        for kind, plain in kinds.items():
            if xp.isdtype(value.dtype, kind):
                return plain(value)
    raise _Unfit


@cache
def number(interval: str) -> Check:
    """Return the check for a real number in an interval, written as in a textbook.

    Examples
    --------
    >>> number("[0, 1)")("momentum", np.float32(0.5))
    0.5
    >>> number("(0, inf)")("step", 0)
    Traceback (most recent call last):
    xplinear.arguments.ArgumentError: step must be a finite number of more than 0, got 0
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    from_low, to_high = interval[0] == "[", interval[-1] == "]"
    wants = f"a number in {interval}"
    if high == math.inf:
        finite = "" if to_high else "finite "
        wants = f"a {finite}number of {'at least' if from_low else 'more than'} {low:g}"

    def read(value: Any) -> float:
        x = _scalar(value)
        above = x >= low if from_low else x > low
        below = x <= high if to_high else x < high
        if isinstance(x, bool) or not (above and below):
            raise _Unfit
        try:
            return float(x)
        except OverflowError:
            raise _Unfit from None

    return Check((wants,), read)


@cache
def integer(least: int) -> Check:
    """Return the check for an integer of at least ``least`` that fits 64 bits."""

    def read(value: Any) -> int:
        scalar = _scalar(value)
        if isinstance(scalar, (bool, float)) or scalar < least:
            raise _Unfit
        if scalar > _LARGEST:
            msg = "it must be less than 2**63"
            raise _Unfit(msg)
        return scalar

    return Check((f"an integer of at least {least}",), read)


@cache
def one_of(*names: str) -> Check:
    """Return the check for one of some names."""
    wants = map(repr, names) if len(names) < 3 else [f"one of {', '.join(names)}"]
    return satisfying(lambda value: isinstance(value, str) and value in names, *wants)


def satisfying(condition: Callable[[Any], bool], *wants: str) -> Check:
    """Return the check for a value of which a condition is true."""

    def read(value: Any) -> Any:
        if not condition(value):
            raise _Unfit
        return value

    return Check(wants, read)


def instance(kind: type[Any], wants: str) -> Check:
    """Return the check for an object of a class."""
    return satisfying(lambda value: isinstance(value, kind), wants)


def offering(protocol: type[Any], wants: str, *, without: str = "") -> Check:
    """Return the check for an object that has all that a protocol lists, but for one member."""
    members = {name: a for name, a in vars(protocol).items() if not name.startswith("_")}
    members.pop(without, None)

    def offers(value: Any, name: str) -> bool:
        if inspect.isfunction(members[name]):
            return callable(getattr(value, name, None))
        return hasattr(type(value), name) or hasattr(value, name)  # first without computing it

    def read(value: Any) -> Any:
        if isinstance(value, type):
            msg = f"pass an object of it, such as {value.__name__}()"
            raise _Unfit(msg)
        missing = [name for name in members if not offers(value, name)]
        if missing:
            raise _Unfit("" if len(missing) == len(members) else f"it lacks {', '.join(missing)}")
        return value

    return Check((wants,), read)


def named(registry: Mapping[str, type[Any]], own: Check) -> Check:
    """Return the check for a name in a registry, or an object; the plain value is an object."""

    def read(value: Any) -> Any:
        if isinstance(value, str):
            if value not in registry:
                raise _Unfit
            return registry[value]()
        return own.read(value)

    return Check((f"one of {', '.join(registry)}", *own.wants), read)


def sequence(check: Check, wants: str, *, least: int = 1) -> Check:
    """Return the check for a sequence, or a vector of any library; its plain value is a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        if not _is_array(value) and hasattr(value, "__array__") and hasattr(value, "__len__"):
            value = np.asarray(value)  # a column of a table
        vector = _is_array(value) and len(value.shape) == 1
        listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        if not (vector or listed) or len(value) < least:
            raise _Unfit
        return tuple(check.read(part) for part in value)

    return Check((wants,), read)


def _flag(value: Any) -> bool:
    scalar = _scalar(value)
    if not isinstance(scalar, bool):
        raise _Unfit
    return scalar


def _path(value: Any) -> str:
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise _Unfit
    return path


def _dtype(value: Any) -> str:
    text = value if isinstance(value, str) else getattr(value, "__name__", str(value))
    name = text.rpartition(".")[2]
    if name not in ("float32", "float64"):
        raise _Unfit
    return name


NONE = satisfying(lambda value: value is None, "None")
FLAG = Check(("True", "False"), _flag)
TEXT = satisfying(lambda value: isinstance(value, str) and bool(value.strip()), "a name")
PATH = Check(("the path of a file",), _path)
CALLABLE = satisfying(callable, "callable")
CALLABLES = sequence(CALLABLE, "a sequence of callables, such as [f]", least=0)
DTYPE = Check(("'float32'", "'float64'"), _dtype)


@cache
def _fields(kind: type[Any]) -> frozenset[str]:
    """Return the names that the arguments of a class have."""
    return frozenset(inspect.signature(kind).parameters)


def configured(kind: type[Any], settings: Mapping[str, Any]) -> Any:
    """Return an object of a class, made with those of some settings that it has fields for.

    None stands for the field's own default. A class whose fields have other names offers a
    ``configured(settings)`` of its own.
    """
    own = getattr(kind, "configured", None)
    if own is not None:
        return own(settings)
    fields = _fields(kind)
    given = {name: a for name, a in settings.items() if a is not None and name in fields}
    return kind(**given)


def settle(config: Any, **checks: Check) -> None:
    """Check the fields of a frozen dataclass while it is made; it keeps the plain values."""
    for name, check in checks.items():
        object.__setattr__(config, name, check(name, getattr(config, name)))


def warn(message: str, kind: type[Warning] = UserWarning) -> None:
    """Warn at the line that called this package, however deep in it this is."""
    frame, level = inspect.currentframe(), 1
    while frame and re.match(r"xplinear\b", frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, kind, stacklevel=level)


@contextmanager
def naming(argument: str) -> Generator[None]:
    """Let the errors of a library below name the argument they are about.

    Examples
    --------
    >>> with naming("sample_weight"):
    ...     np.asarray("x", dtype=float)
    Traceback (most recent call last):
    ValueError: sample_weight: could not convert string to float: 'x'
    """
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        text = str(error)
        text = text if re.search(rf"\b{argument}\b", text) else f"{argument}: {text}"
        raise kind(text) from error


_REAL = "bool", "integral", "real floating"


def check_array(
    name: str, x: Any, *, ndim: int = 0, kind: str | tuple[str, ...] = "real floating"
) -> Namespace:
    """Return the namespace of an array of at least ``ndim`` axes and a kind of dtype."""
    of_kind = kind if isinstance(kind, str) else "real"
    axes = f" of at least {ndim} axes" * (ndim > 0)
    article = "an" if of_kind == "integral" else "a"
    wants = f"{article} {of_kind} array{axes} of NumPy, CuPy, torch or JAX"
    if not _is_array(x):
        msg = f"{name} must be {wants}, got {shown(x)}"
        raise ArgumentError(msg)
    xp = array_namespace(x)
    if not _is_of(x.dtype, kind, xp) or len(x.shape) < ndim:
        msg = f"{name} must be {wants}, got one of shape {tuple(x.shape)} and dtype {x.dtype}"
        raise ArgumentError(msg)
    return xp


def check_rows(X: Any, y: Any, s: Any, n: int | None = None) -> None:
    """Raise ArgumentError unless rows, class codes and weights, if any, belong together.

    ``n`` is the number of rows where X holds only some of them.
    """
    check_array("X", X, kind=_REAL)
    if len(X.shape) != 2 or 0 in X.shape:
        msg = f"X must have the shape (n, p), neither 0; its shape is {tuple(X.shape)}"
        raise ArgumentError(msg)
    n = X.shape[0] if n is None else n
    check_same_library("y", y, "X", X)
    check_array("y", y, kind="integral")
    if len(y.shape) not in (1, 2) or y.shape[0] != n or 0 in y.shape:
        msg = (
            f"y must have one class code per row of X, shape ({n},), or one per row and model, "
            f"({n}, m), got {tuple(y.shape)}"
        )
        raise ArgumentError(msg)
    if s is not None:
        check_same_library("s", s, "X", X)
        check_array("s", s, ndim=2)
        if s.shape[0] != n or s.shape[1] < 1:
            msg = f"s must have the shape ({n}, 1) or ({n}, m), got {tuple(s.shape)}"
            raise ArgumentError(msg)


def check_weights(s: Array) -> None:
    """Raise ArgumentError if weights ``(n, m)`` on the host are negative, or all 0 for a model."""
    check_finite("s", s, least=0.0)
    if _is_on_host(s):
        xp = array_namespace(s)
        if not xp.all(xp.any(s > 0, axis=0)):
            msg = "s must give every model a row of positive weight; it has a column of zeros"
            raise ArgumentError(msg)


def check_dtype(name: str, dtype: Any, *, xp: Namespace) -> None:
    """Raise ArgumentError unless computations can be made in a dtype."""
    if not _is_of(dtype, "real floating", xp):
        msg = f"{name} must be a real floating one of the library of X, or that of X, got {dtype}"
        raise ArgumentError(msg)


def _is_of(dtype: Any, kind: str | tuple[str, ...], xp: Namespace) -> bool:
    with suppress(TypeError):  # a dtype that is not of the standard
        if xp.isdtype(dtype, kind):
            return True
    return name_of(dtype) == "bfloat16" and "real floating" in kind


def _is_on_host(x: Array) -> bool:
    """Whether the values of an array can be read without waiting for a device."""
    library = type(x).__module__.partition(".")[0]
    return library in _HOST_LIBRARIES and "cpu" in str(device(x)).lower()


def check_codes(y: Any, k: int) -> None:
    """Raise ArgumentError if an array on the host holds other numbers than 0 … k − 1.

    Arrays on other devices are not looked at: the host would have to wait for them.
    """
    if not _is_on_host(y) or 0 in y.shape:
        return
    xp = array_namespace(y)
    try:
        low, high = int(xp.min(y)), int(xp.max(y))
    except (TypeError, RuntimeError):  # it is being traced: there are no values yet
        return
    if low < 0 or high >= k:
        msg = (
            f"y must hold class codes from 0 to {k - 1}, one for each of the {k} classes; it "
            f"goes from {low} to {high}: np.unique(labels, return_inverse=True) makes codes"
        )
        raise ArgumentError(msg)


def check_finite(name: str, x: Array, *, least: float = -math.inf) -> None:
    """Raise ArgumentError if an array on the host is not finite, or below ``least``."""
    if not _is_on_host(x):
        return
    xp = array_namespace(x)
    try:
        fine = bool(xp.all(xp.isfinite(x) & (x >= least)))
    except (TypeError, RuntimeError):  # it is being traced: there are no values yet
        return
    if not fine:
        bound = f" of at least {least:g}" * (least > -math.inf)
        msg = f"{name} must hold finite numbers{bound} only, got {shown(x)} with others"
        raise ArgumentError(msg)


def scores_namespace(Z: Any, y: Any, *, xp: Namespace) -> Namespace:
    """Return ``xp``, or where it is None that of scores ``(..., k)``, checked with y ``(...)``.

    Who passes the namespace on has checked the arrays.
    """
    if xp is not None:
        return xp
    xp = check_array("Z", Z, ndim=1)
    check_same_library("y", y, "Z", Z)
    check_array("y", y, kind="integral")
    lead = tuple(Z.shape[:-1])
    own = tuple(y.shape)
    shared = len(lead) == 2 and own == (lead[0], 1)  # by all models
    if own != lead[: len(own)] and not shared:
        msg = (
            f"y must have one class code for each row of scores Z of shape {tuple(Z.shape)}; its "
            f"shape is {tuple(y.shape)}, and must be {lead} or a part of it from the left"
        )
        raise ArgumentError(msg)
    check_codes(y, Z.shape[-1])
    return xp


def check_same_library(name: str, x: Any, other: str, like: Array) -> None:
    """Raise ArgumentError if x is not an array of the same library as another one."""
    if not _is_array(x):
        msg = f"{name} must be an array of the same library as {other}, got {shown(x)}"
        raise ArgumentError(msg)
    if array_namespace(x) is not array_namespace(like):
        own, its = (type(a).__module__.partition(".")[0] for a in (x, like))
        msg = (
            f"{name} must be an array of the same library as {other}: {name} is of {own}, {other} "
            f"of {its}; convert one of them"
        )
        raise ArgumentError(msg)


def weights_namespace(W: Any, step: Any = 0.0, *, xp: Namespace, name: str = "W") -> Namespace:
    """Return ``xp``, or where it is None that of weights, checked with the step of a prox."""
    if xp is not None:
        return xp
    xp = check_array(name, W, ndim=2)
    if _is_array(step):
        check_same_library("step", step, name, W)
        check_array("step", step)
    else:
        number("[0, inf]")("step", step)
    return xp
