"""Pure functions as few launches: the small arithmetic of a library, traced and interpreted.

A function given to `fused` runs once with arrays that record what is done to them. Elementwise
operations and reductions become programs that one kernel of the library interprets, so that
nothing is compiled for a function. From then on only the launches, and the calls between them, are
repeated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, cast

from xplinear.backends.programs import Launch, written
from xplinear.backends.tracing import (
    Described,
    Library,
    Step,
    Trace,
    Traced,
    UntraceableError,
    address_of,
    array_of,
    described,
    filled,
    kind_of,
    leaves,
)

__all__ = ["fallbacks", "fused", "opaque"]

_PLANS = 4096  # kept; the oldest go
fallbacks: dict[Callable[..., Any], str] = {}  # functions that could not be traced


class _Plan(NamedTuple):
    """What a function comes to, for arguments of the same kind."""

    library: Library
    size: int
    steps: list[Step]
    ends: list[set[int]]  # the slots that are not needed any more after each step
    constants: list[tuple[int, Any]]
    used: list[int]  # arguments whose address is asked for
    result: Any

    def run(self, arguments: Sequence[Any]) -> Any:
        library, more = self.library, self.size - len(arguments)
        memory = [*arguments, *[None] * more]
        addresses = [0] * self.size
        for slot, value in self.constants:
            memory[slot] = value
        for slot in self.used:
            addresses[slot] = address_of(library, memory[slot])
        for step, ended in zip(self.steps, self.ends, strict=True):
            step.run(memory, addresses)
            for slot in ended:
                memory[slot] = None

        def change(a: Any) -> Any:
            return array_of(library, a, memory[a.slot]) if type(a) is Described else a

        return filled(self.result, change)


def opaque(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel that may be called within functions that are traced."""

    def call(*args: Any, **named: Any) -> Any:
        trace = next((a.trace for a in leaves(args) if isinstance(a, Traced)), None)
        if trace is None:
            return kernel(*args, **named)
        named = {
            key: trace.library.xp if value is trace.xp else value for key, value in named.items()
        }
        return trace.call(kernel, *args, **named)

    return call


class _Plans:
    """The plans of a library; the oldest go."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.kept: OrderedDict[Hashable, _Plan | None] = OrderedDict()

    def run(self, function: Callable[..., Any], static: tuple[Any, ...], args: Any) -> Any:
        arguments: list[Any] = []
        try:
            # Equal arguments of other types, 1 and 1.0, make other results.
            kinds = tuple(map(type, static))
            key = function, static, kinds, _signature(args, arguments, self.library.array)
            plan = self.kept.get(key, self)
        except TypeError:  # untraceable, or static arguments without a hash
            return function(*static, *args)
        why = ""
        try:
            if plan is self:
                return self._recorded(key, function, static, args, len(arguments))
            if plan is not None:
                return cast("_Plan", plan).run(arguments)
        except Exception as error:
            if plan is not self and not isinstance(error, UntraceableError):
                raise
            if not isinstance(error, MemoryError):  # which may not come again
                why = f"{type(error).__name__}: {error}"  # no traceback: it holds arrays
        result = function(*static, *args)  # the library itself will say what was wrong
        if why:
            self.kept[key] = None
            fallbacks[function] = why
        return result

    def _recorded(
        self,
        key: Hashable,
        function: Callable[..., Any],
        static: tuple[Any, ...],
        args: Any,
        count: int,
    ) -> Any:
        plan, result = _record(self.library, function, static, args, count)
        self.library.synchronize()  # the next to run it may be on another stream
        if len(self.kept) >= _PLANS:
            self.kept.popitem(last=False)
        self.kept[key] = plan
        return result


def _signature(tree: Any, arguments: list[Any], array: type) -> Hashable:
    """Return what a plan depends on, and collect the arrays and numbers."""
    kind = type(tree)
    if isinstance(tree, array):
        arguments.append(tree)
        return kind_of(tree)
    if kind is float:
        arguments.append(tree)
        return float
    if isinstance(tree, tuple):
        parts = cast("tuple[Any, ...]", tree)
        return kind, *[_signature(part, arguments, array) for part in parts]
    if tree is None or kind in (bool, int, str):
        return kind, tree
    msg = f"an argument {kind}"
    raise UntraceableError(msg)


def _record(
    library: Library, function: Callable[..., Any], static: tuple[Any, ...], args: Any, count: int
) -> tuple[_Plan, Any]:
    trace = Trace(library, written)

    def lifted(a: Any) -> Any:
        if isinstance(a, library.array):
            return trace.leaf(a, trace.slot(a))
        return trace.scalar(trace.slot(a)) if type(a) is float else a

    traced = filled(args, lifted)
    own = tuple(trace.xp if a is library.xp else a for a in static)
    found = function(*own, *traced)
    found = _apart(trace, found, count)
    trace.store([a for a in leaves(found) if isinstance(a, Traced)])
    result = filled(found, lambda a: trace.real(a) if isinstance(a, Traced) else a)
    recipe = filled(found, lambda a: described(a) if isinstance(a, Traced) else a)
    last: dict[int, int] = {}
    for i, step in enumerate(trace.steps):
        last |= dict.fromkeys(step.used(), i)
    lasting = {a.slot for a in leaves(recipe) if type(a) is Described}
    ends: list[set[int]] = [set() for _ in trace.steps]
    for slot, i in last.items():
        if slot not in lasting:
            ends[i].add(slot)
    launched = {s for step in trace.steps if isinstance(step, Launch) for s, _ in step.uses}
    given = {*range(count), *(slot for slot, _ in trace.constants)}
    used = sorted(launched & given)
    plan = _Plan(library, trace.slots, trace.steps, ends, trace.constants, used, recipe)
    return plan, result


def _apart(trace: Trace, found: Any, count: int) -> Any:
    """Return results, each but the arguments in memory of its own: `Backend.write` may follow."""
    taken: set[Any] = set()

    def own(a: Any) -> Any:
        if isinstance(a, trace.library.array):  # made of no argument, once for all calls
            return trace.copied(trace.leaf(a))
        if not isinstance(a, Traced):
            return a
        if a.weak:
            msg = "a number of Python's as a result"
            raise UntraceableError(msg)
        memory = a if a.place is None else a.place.slot.index
        if memory in taken:
            return trace.copied(a)
        if a.place is None or a.place.slot.index >= count:
            taken.add(memory)
        return a

    return filled(found, own)


def fused(library: Library) -> Callable[..., Callable[..., Any]]:
    """Return ``compile``: of a function and its static arguments, the function as few launches."""
    plans = _Plans(library)

    def compile_(function: Callable[..., Any], *static: Hashable) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            return plans.run(function, static, args)

        return call

    return compile_
