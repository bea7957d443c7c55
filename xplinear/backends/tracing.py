"""Arrays that record what is done to them, instead of doing it.

Elementwise operations, reductions and views are recorded; anything else, such as a matrix product,
is called on real arrays at the point where it is needed.
"""

# ruff: noqa: A002, ARG002 - the functions have the standard's arguments
from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, cast
from weakref import WeakValueDictionary

import numpy as np

from xplinear.namespace import Array, HostArray, Namespace

__all__ = [
    "DTYPES",
    "ELEMENTWISE",
    "LARGE",
    "Axes",
    "Call",
    "Described",
    "Library",
    "Place",
    "Slot",
    "Step",
    "Trace",
    "Traced",
    "UntraceableError",
    "address_of",
    "array_of",
    "described",
    "filled",
    "kind_of",
    "leaves",
    "number_of",
    "same_axes",
]

# In the order in which the kernel numbers them.
DTYPES = (
    "float32",
    "float64",
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
)
ELEMENTWISE = (
    *("add", "subtract", "multiply", "divide", "pow", "negative", "abs", "sign", "sqrt", "exp"),
    *("log", "log1p", "log2", "expm1", "floor", "maximum", "minimum", "where", "isfinite"),
    *("isnan", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "logical_not", "bitwise_invert"),
)
_FLOATING = {"pow", "sqrt", "exp", "log", "log1p", "log2", "expm1"}
_TRUTHS = {*("isfinite", "isnan", "equal", "not_equal", "less", "less_equal", "greater")} | {
    *("greater_equal", "logical_not")
}
_SUM, _MAX, _MIN = 1, 2, 3  # reductions; 0 is none
_LONG = 4096  # entries per sum, of which there are few, from which on blocks share them
_SHARES = 256
_SMALL_PRODUCT = 2**18  # multiplications up to which a product is no call of its own
LARGE = 12  # operations, from which on a value that is used again later is kept


class UntraceableError(TypeError):
    """What cannot be recorded: a value was asked for, or an operation nobody knows."""


class Library(NamedTuple):
    """What recording needs of an array library.

    ``view(shape, dtype, memory, strides)`` makes an array of a pointer, as ``alloc(bytes)`` gives
    them, whose address is ``address(memory)``; ``memory(array)`` is an array's own.
    ``launch(program, blocks, barriers, registers)`` prepares a launch, a function of addresses.
    ``synchronize()`` waits for what was uploaded and computed.
    """

    xp: Namespace
    array: type
    device: Any
    alloc: Callable[[int], Any]
    address: Callable[[Any], int]
    memory: Callable[[Array], Any]
    view: Callable[[tuple[int, ...], Any, Any, tuple[int, ...]], Array]
    launch: Callable[[HostArray, int, int, int], Callable[[Sequence[int]], None]]
    synchronize: Callable[[], None]


class Place(NamedTuple):
    """Where a value is: a slot of the plan, the offset there, and strides, in bytes."""

    slot: Slot
    offset: int
    strides: tuple[int, ...]


class Slot:
    """Memory of a plan: an array, an allocation, or a number, known while it is recorded."""

    __slots__ = ("index", "value")

    def __init__(self, index: int, value: Any) -> None:
        self.index, self.value = index, value


# An axis of an operand: the axis of the result it follows (None is none), step and offset.
Axes = tuple[tuple[int | None, int, int], ...]


class Step(Protocol):
    """What a plan repeats."""

    def run(self, memory: list[Any], addresses: list[int]) -> None:
        """Compute what it does, from the memory of the slots and their addresses."""
        ...

    def used(self) -> set[int]:
        """Return the slots that must be there, or are filled."""
        ...


class Traced:
    """An array that records what is done to it."""

    __slots__ = (
        *("__weakref__", "detail", "dtype", "inputs", "kind", "number", "place", "shape", "size_"),
        *("trace", "weak"),
    )
    __array_priority__ = 1000
    __array_ufunc__ = None

    def __init__(
        self,
        trace: Trace,
        kind: str,
        shape: tuple[int, ...],
        dtype: Any,
        inputs: tuple[Traced, ...] = (),
        detail: Any = None,
        place: Place | None = None,
        weak: bool = False,
    ) -> None:
        self.trace, self.kind, self.shape, self.dtype = trace, kind, shape, np.dtype(dtype)
        self.inputs, self.detail, self.place, self.weak = inputs, detail, place, weak
        self.number = trace.count = trace.count + 1
        small = (a.size_ for a in inputs if a.place is None and a.size_ <= LARGE)
        self.size_ = 1 + (sum(small) if kind in ("map", "view") else 0)

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: math.prod(self.shape))
    device = property(lambda self: self.trace.library.device)
    T = property(lambda self: self.trace.xp.permute_dims(self, tuple(range(self.ndim))[::-1]))
    mT = property(  # noqa: N815 - the standard's name
        lambda self: self.trace.xp.matrix_transpose(self)
    )

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return self.trace.xp

    def __len__(self) -> int:
        return self.shape[0]

    def _refuse(self, *args: Any) -> Any:
        msg = "the value of a traced array"
        raise UntraceableError(msg)

    __bool__ = __float__ = __int__ = __index__ = __iter__ = __array__ = __setitem__ = _refuse

    def __getitem__(self, key: Any) -> Traced:
        return self.trace.item(self, key)

    def __matmul__(self, other: Any) -> Any:
        return self.trace.xp.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return self.trace.xp.matmul(other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self.trace.call(operator.floordiv, self, other)

    def __mod__(self, other: Any) -> Any:
        return self.trace.call(operator.mod, self, other)

    def __neg__(self) -> Traced:
        return self.trace.map("negative", self)

    def __pos__(self) -> Traced:
        return self

    def __abs__(self) -> Traced:
        return self.trace.map("abs", self)

    def __invert__(self) -> Traced:
        truth = self.dtype == np.bool_
        return self.trace.map("logical_not" if truth else "bitwise_invert", self)

    __hash__ = object.__hash__


def _operator(name: str, *, swapped: bool = False) -> Callable[[Traced, Any], Traced]:
    def apply(a: Traced, b: Any) -> Traced:
        return a.trace.map(name, b, a) if swapped else a.trace.map(name, a, b)

    return apply


_SYMBOLS = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "pow"}
_SYMBOLS |= {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}
_COMPARISONS = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal"}
_COMPARISONS |= {"gt": "greater", "ge": "greater_equal"}
for _symbol, _name in _SYMBOLS.items():
    setattr(Traced, f"__{_symbol}__", _operator(_name))
    setattr(Traced, f"__r{_symbol}__", _operator(_name, swapped=True))
for _symbol, _name in _COMPARISONS.items():
    setattr(Traced, f"__{_symbol}__", _operator(_name))


class Trace:
    """A function being recorded."""

    def __init__(self, library: Library, write: Callable[[Trace, Sequence[Traced]], Step]) -> None:
        self.library, self.count, self._write = library, 0, write
        self.steps: list[Step] = []
        self.slots = 0
        self.constants: list[tuple[int, Any]] = []
        self.known: WeakValueDictionary[Any, Traced] = WeakValueDictionary()
        self.xp = _Namespace(self, library.xp)

    def slot(self, value: Any) -> Slot:
        """Return a new slot."""
        self.slots += 1
        return Slot(self.slots - 1, value)

    def leaf(self, array: Array, slot: Slot | None = None) -> Traced:
        """Return an array that is there."""
        if slot is None:
            slot = self.slot(array)
            self.constants.append((slot.index, array))
        place = Place(slot, 0, tuple(array.strides))
        return Traced(self, "leaf", tuple(array.shape), array.dtype, place=place)

    def scalar(self, slot: Slot) -> Traced:
        """Return a number that a later call may change."""
        return Traced(self, "scalar", (), np.float64, detail=slot, weak=True)

    def new(
        self,
        kind: str,
        shape: Sequence[int],
        dtype: Any,
        inputs: tuple[Traced, ...],
        detail: Hashable,
        weak: bool = False,
    ) -> Traced:
        """Return a node, the same for the same operation on the same inputs."""
        dtype = np.dtype(dtype)
        key = kind, tuple(shape), dtype, tuple(a.number for a in inputs), detail, weak
        found = self.known.get(key)
        if found is None:
            found = Traced(self, kind, tuple(shape), dtype, inputs, detail, weak=weak)
            self.known[key] = found
        return found

    def constant(self, value: Any) -> Traced:
        """Return what is known already: a number, or an array that is no argument."""
        if isinstance(value, Traced):
            return value
        if isinstance(value, self.library.array):
            return self.leaf(value)
        if type(value) not in (bool, int, float):
            msg = f"a constant {type(value)}"
            raise UntraceableError(msg)
        dtype = {bool: np.bool_, int: np.int64, float: np.float64}[type(value)]
        key = bits_of(value) if type(value) is float else int(value)
        return self.new("number", (), dtype, (), key, weak=type(value) is not bool)

    def joint(self, *operands: Traced) -> np.dtype[Any]:
        """Return the dtype of a result; Python numbers are weak."""
        strong = [a.dtype for a in operands if not a.weak]
        weak = [0.0 if a.dtype.kind == "f" else 0 for a in operands if a.weak]
        if not strong:
            return np.result_type(*(a.dtype for a in operands))
        return np.result_type(*strong, *weak)

    def cast(self, a: Traced, dtype: Any) -> Traced:
        """Return the values in another dtype."""
        dtype = np.dtype(dtype)
        if dtype.name not in DTYPES or a.dtype.name not in DTYPES:
            msg = f"the dtype {dtype}"
            raise UntraceableError(msg)
        if a.dtype == dtype and not a.weak:
            return a
        if a.kind == "number":
            value = a.dtype.type(number_of(a))
            value = value.astype(dtype)
            bits = bits_of(float(value)) if dtype.kind == "f" else int(value)
            return self.new("number", (), dtype, (), bits)
        return self.new("map", a.shape, dtype, (a,), "cast")

    def copied(self, a: Traced) -> Traced:
        """Return the values in memory that nobody else has."""
        return Traced(self, "map", a.shape, a.dtype, (self.cast(a, a.dtype),), "cast")

    def map(self, name: str, *operands: Any) -> Any:
        """Return an elementwise operation."""
        nodes = [self.constant(a) for a in operands]
        first = nodes[0] if name == "where" else None
        values = nodes[1:] if first is not None else nodes
        dtype = self.joint(*values)
        strange = any(a.dtype.name not in DTYPES for a in nodes)
        if name == "pow" and nodes[1].kind == "number" and not strange:
            base = nodes[0] if nodes[0].weak else self.cast(nodes[0], dtype)
            match number_of(nodes[1]):
                case 2:
                    return self.map("multiply", base, base)
                case 0.5:
                    return self.map("sqrt", base)
                case _:
                    pass
        if strange or (name in _FLOATING and dtype.kind != "f"):
            return self.call(getattr(self.library.xp, name), *operands)
        if name == "divide" and dtype.kind != "f":
            dtype = np.dtype(np.float64)
        if name in ("isfinite", "isnan") and dtype.kind != "f":
            dtype = np.dtype(np.float64)
        if name in ("subtract", "negative") and dtype == np.bool_:
            msg = "arithmetic of truth values"
            raise UntraceableError(msg)
        if dtype == np.bool_:
            name = {"add": "bitwise_or", "multiply": "bitwise_and"}.get(name, name)
        inputs = tuple(self.cast(a, dtype) for a in values)
        if first is not None:
            inputs = self.cast(first, np.bool_), *inputs
        shape = np.broadcast_shapes(*(a.shape for a in inputs))
        weak = all(a.weak for a in nodes) and name not in _TRUTHS
        return self.new("map", shape, np.bool_ if name in _TRUTHS else dtype, inputs, name, weak)

    def call(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
        """Run what is no arithmetic, on real arrays."""
        nodes = [a for a in leaves((args, tuple(named.values()))) if isinstance(a, Traced)]
        if not nodes:
            return function(*args, **named)
        self.store(nodes)
        real = partial(filled, change=lambda a: self.real(a) if isinstance(a, Traced) else a)
        keys = tuple(named)
        found = function(*real(args), **dict(zip(keys, real(tuple(named.values())), strict=True)))
        arrays = [a for a in leaves(found) if isinstance(a, self.library.array)]
        slots = [self.slot(a) for a in arrays]
        recipe = partial(filled, change=lambda a: described(a) if isinstance(a, Traced) else a)
        step = recipe(args), keys, recipe(tuple(named.values()))
        indices, kinds = [slot.index for slot in slots], [kind_of(a) for a in arrays]
        self.steps.append(Call(self.library, function, step, indices, kinds))
        results = iter([self.leaf(a, s) for a, s in zip(arrays, slots, strict=True)])
        return filled(
            found, change=lambda a: next(results) if isinstance(a, self.library.array) else a
        )

    def real(self, a: Traced) -> Array:
        """Return the array of a node that is stored."""
        assert a.place is not None
        return array_of(self.library, described(a), a.place.slot.value)

    def view(self, a: Traced, shape: Sequence[int], axes: Axes) -> Traced:
        """Return the same values under other indices."""
        shape = tuple(shape)
        if a.shape == shape and axes == same_axes(a.shape):
            return a
        if a.place is not None:
            slot, offset, strides = a.place
            steps = [0] * len(shape)
            for stride, (axis, step, start) in zip(strides, axes, strict=True):
                offset += stride * start
                if axis is not None:
                    steps[axis] += stride * step
            place = Place(slot, offset, tuple(steps))
            return Traced(self, "leaf", shape, a.dtype, place=place)
        return self.new("view", shape, a.dtype, (a,), axes, a.weak)

    def broadcast_to(self, a: Traced, shape: Sequence[int]) -> Traced:
        """Return the values repeated along axes of length 1 and new ones."""
        lead = len(shape) - a.ndim
        axes = tuple((None, 0, 0) if n == 1 else (lead + i, 1, 0) for i, n in enumerate(a.shape))
        return self.view(a, shape, axes)

    def item(self, a: Traced, key: Any) -> Any:
        """Return ``a[key]``."""
        keys: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, (Traced, self.library.array, np.ndarray, list)) for part in keys):
            return self.call(operator.getitem, a, key)
        taken = builtins.sum(part is not None and part is not Ellipsis for part in keys)
        rest = [slice(None)] * (a.ndim - taken)
        at = next((i for i, part in enumerate(keys) if part is Ellipsis), None)
        keys = (*keys, *rest) if at is None else (*keys[:at], *rest, *keys[at + 1 :])
        shape: list[int] = []
        axes: list[tuple[int | None, int, int]] = []
        for part in keys:
            if part is None:
                shape.append(1)
            elif isinstance(part, slice):
                start, stop, step = part.indices(a.shape[len(axes)])
                axes.append((len(shape), step, start))
                shape.append(len(range(start, stop, step)))
            else:
                index, size = operator.index(part), a.shape[len(axes)]
                if not -size <= index < size:
                    msg = f"index {index} of an axis of {size}"
                    raise IndexError(msg)
                axes.append((None, 0, index % size))
        return self.view(a, shape, tuple(axes))

    def created(self, shape: Any, value: Any, dtype: Any) -> Traced:
        """Return a number everywhere."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        node = self.constant(value)
        return self.broadcast_to(self.cast(node, node.dtype if dtype is None else dtype), shape)

    def reduced(self, a: Traced, how: int, axis: Any, keepdims: bool, dtype: Any) -> Traced:
        """Return sums, or the largest or smallest values, along axes."""
        axes = range(a.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        gone = tuple(sorted(i % a.ndim for i in axes))
        kept = [n for i, n in enumerate(a.shape) if i not in gone]
        length = math.prod(a.shape[i] for i in gone)
        if not length and how != _SUM:
            msg = "the extremum of nothing"
            raise UntraceableError(msg)
        if length >= _LONG and length >= 64 * max(1, math.prod(kept)):
            wide = np.float64 if a.dtype.kind == "f" else np.int64
            shares = min(_SHARES, length // (_LONG // 8))
            part = self.new("reduce", (*kept, shares), wide, (a,), (how, gone, shares))
            result = self.new("reduce", kept, dtype, (part,), (how, (len(kept),), 1))
        else:
            result = self.new("reduce", kept, dtype, (a,), (how, gone, 1))
        if not keepdims:
            return result
        full = [1 if i in gone else n for i, n in enumerate(a.shape)]
        return self.xp.reshape(result, full)

    def gathered(self, a: Traced, index: Traced, axis: int) -> Traced:
        """Return what of a stands at these indices, which are of the shape of the result."""
        if a.dtype.name not in DTYPES or not a.shape[axis]:
            msg = "what is taken from"
            raise UntraceableError(msg)
        index = self.cast(index, np.int64)
        return self.new("gather", index.shape, a.dtype, (a, index), axis, a.weak)

    def store(self, wanted: Sequence[Traced]) -> None:
        """Compute values: as one launch, whose stages wait for each other."""
        wanted = [a for a in dict.fromkeys(wanted) if a.place is None]
        if wanted:
            self.steps.append(self._write(self, wanted))


class _Functions:
    """A namespace while a function is traced: what is not here is a call, or no function."""

    def __init__(self, trace: Trace, real: Any) -> None:
        self._trace, self._real = trace, real

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if callable(real) and not isinstance(real, type):
            return partial(self._trace.call, real)
        return real


class _Algebra(_Functions):
    """The part ``linalg`` of the namespace."""

    def matrix_transpose(self, a: Traced) -> Traced:
        return self._trace.xp.matrix_transpose(a)

    def diagonal(self, a: Traced, *, offset: int = 0) -> Traced:
        if offset or a.shape[-1] != a.shape[-2]:
            return self._trace.call(self._trace.library.xp.linalg.diagonal, a, offset=offset)
        axes = same_axes(a.shape[:-1])
        return self._trace.view(a, a.shape[:-1], (*axes, axes[-1]))


class _Namespace(_Functions):
    """The array API's functions, recorded; elementwise ones are so by their names."""

    def __init__(self, trace: Trace, real: Any) -> None:
        super().__init__(trace, real)
        self.linalg = _Algebra(trace, real.linalg)
        for name in ELEMENTWISE:
            setattr(self, name, partial(trace.map, name))

    def permute_dims(self, a: Traced, axes: Sequence[int]) -> Traced:
        places = [axes.index(i) if i in axes else axes.index(i - a.ndim) for i in range(a.ndim)]
        shape = [a.shape[axis] for axis in axes]
        return self._trace.view(a, shape, tuple((place, 1, 0) for place in places))

    def matrix_transpose(self, a: Traced) -> Traced:
        axes = list(range(a.ndim))
        axes[-2:] = axes[-2:][::-1]
        return self.permute_dims(a, axes)

    def expand_dims(self, a: Traced, *, axis: int = 0) -> Traced:
        axis = axis % (a.ndim + 1)
        return a[(*[slice(None)] * axis, None)]

    def squeeze(self, a: Traced, axis: int | tuple[int, ...]) -> Traced:
        gone = {i % a.ndim for i in ((axis,) if isinstance(axis, int) else axis)}
        return a[tuple(0 if i in gone else slice(None) for i in range(a.ndim))]

    def reshape(self, a: Any, shape: Sequence[int], *, copy: bool | None = None) -> Traced:
        a = self._trace.constant(a)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if -1 in shape:
            known = math.prod(n for n in shape if n != -1)
            shape = tuple(a.size // max(known, 1) if n == -1 else n for n in shape)
        if math.prod(shape) != a.size:
            msg = f"cannot reshape {a.shape} to {shape}"
            raise ValueError(msg)
        # Axes of length 1 come and go for nothing.
        kept = [i for i, n in enumerate(a.shape) if n != 1]
        places = [i for i, n in enumerate(shape) if n != 1]
        if [a.shape[i] for i in kept] == [shape[i] for i in places]:
            follows = dict(zip(kept, places, strict=True))
            axes = ((follows[i], 1, 0) if i in follows else (None, 0, 0) for i in range(a.ndim))
            return self._trace.view(a, shape, tuple(axes))
        if a.place is not None and a.size:
            strides = _reshaped(a.shape, a.place.strides, shape)
            if strides is not None:
                place = a.place._replace(strides=strides)
                return Traced(self._trace, "leaf", shape, a.dtype, place=place)
        return self._trace.new("reshape", shape, a.dtype, (a,), None)

    def zeros(self, shape: Any, *, dtype: Any = np.float64, device: Any = None) -> Traced:
        return self._trace.created(shape, 0, dtype)

    def ones(self, shape: Any, *, dtype: Any = np.float64, device: Any = None) -> Traced:
        return self._trace.created(shape, 1, dtype)

    def full(self, shape: Any, value: Any, *, dtype: Any = None, device: Any = None) -> Traced:
        return self._trace.created(shape, value, dtype)

    def zeros_like(self, a: Any, *, dtype: Any = None, device: Any = None) -> Traced:
        return self._trace.created(a.shape, 0, a.dtype if dtype is None else dtype)

    def ones_like(self, a: Any, *, dtype: Any = None, device: Any = None) -> Traced:
        return self._trace.created(a.shape, 1, a.dtype if dtype is None else dtype)

    def full_like(self, a: Any, value: Any, *, dtype: Any = None, device: Any = None) -> Traced:
        return self._trace.created(a.shape, value, a.dtype if dtype is None else dtype)

    def arange(self, stop: Any, *args: Any, dtype: Any = None, device: Any = None) -> Any:
        if args or not isinstance(stop, int):
            return self._trace.call(self._trace.library.xp.arange, stop, *args, dtype=dtype)
        index = self._trace.new("index", (stop,), np.int64, (), None)
        return index if dtype is None else self._trace.cast(index, dtype)

    def eye(
        self, n: int, m: int | None = None, *, k: int = 0, dtype: Any = None, device: Any = None
    ) -> Traced:
        rows, columns = self.arange(n), self.arange(n if m is None else m)
        truth = rows[:, None] + k == columns[None, :]
        return self._trace.cast(truth, np.float64 if dtype is None else dtype)

    def triu(self, a: Traced, *, k: int = 0) -> Traced:
        n, m = a.shape[-2:]
        above = self.arange(n)[:, None] + k <= self.arange(m)[None, :]
        return self._trace.map("where", above, a, self._trace.created((), 0, a.dtype))

    def astype(self, a: Any, dtype: Any, *, copy: bool = True, device: Any = None) -> Any:
        a = self._trace.constant(a)
        if a.dtype.name not in DTYPES or np.dtype(dtype).name not in DTYPES:
            return self._trace.call(self._trace.library.xp.astype, a, dtype, copy=copy)
        if copy and a.place is not None and a.dtype == dtype:
            return self._trace.copied(a)
        return self._trace.cast(a, dtype)

    def clip(self, a: Any, min: Any = None, max: Any = None) -> Any:
        a = self._trace.constant(a)
        for name, bound in (("maximum", min), ("minimum", max)):
            a = a if bound is None else self._trace.cast(self._trace.map(name, a, bound), a.dtype)
        return a

    def concat(self, arrays: Sequence[Any], *, axis: int | None = 0) -> Traced:
        parts = [self._trace.constant(a) for a in arrays]
        if axis is None:
            return self.concat([self.reshape(a, (-1,)) for a in parts])
        dtype, along = self._trace.joint(*parts), axis % parts[0].ndim
        inputs = tuple(self._trace.cast(a, dtype) for a in parts)
        shape = list(parts[0].shape)
        shape[along] = builtins.sum(a.shape[along] for a in parts)
        return self._trace.new("join", shape, dtype, inputs, along)

    def stack(self, arrays: Sequence[Any], *, axis: int = 0) -> Traced:
        parts = [self._trace.constant(a) for a in arrays]
        axis %= parts[0].ndim + 1
        return self.concat([self.expand_dims(a, axis=axis) for a in parts], axis=axis)

    def tile(self, a: Traced, repetitions: Sequence[int]) -> Traced:
        for axis, n in enumerate(repetitions):
            a = a if n == 1 else self.concat([a] * n, axis=axis)
        return a

    def sum(self, a: Any, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
        a = self._trace.constant(a)
        if a.dtype.name not in DTYPES:
            return self._trace.call(
                self._trace.library.xp.sum, a, axis=axis, dtype=dtype, keepdims=keepdims
            )
        own = np.dtype(dtype) if dtype is not None else np.sum(np.empty(0, a.dtype)).dtype
        if own.name not in DTYPES:
            return self._trace.call(
                self._trace.library.xp.sum, a, axis=axis, dtype=dtype, keepdims=keepdims
            )
        return self._trace.reduced(self._trace.cast(a, own), _SUM, axis, keepdims, own)

    def mean(self, a: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
        a = self._trace.constant(a)
        total = self.sum(a, axis=axis, dtype=self._trace.joint(a), keepdims=keepdims)
        return total / (a.size / max(total.size, 1))

    def max(self, a: Any, *, axis: Any = None, keepdims: bool = False) -> Traced:
        return self._trace.reduced(a, _MAX, axis, keepdims, a.dtype)

    def min(self, a: Any, *, axis: Any = None, keepdims: bool = False) -> Traced:
        return self._trace.reduced(a, _MIN, axis, keepdims, a.dtype)

    def any(self, a: Any, *, axis: Any = None, keepdims: bool = False) -> Traced:
        return self._trace.reduced(self._trace.cast(a, np.bool_), _MAX, axis, keepdims, np.bool_)

    def all(self, a: Any, *, axis: Any = None, keepdims: bool = False) -> Traced:
        return self._trace.reduced(self._trace.cast(a, np.bool_), _MIN, axis, keepdims, np.bool_)

    def vecdot(self, a: Any, b: Any, *, axis: int = -1) -> Traced:
        return self.sum(self._trace.map("multiply", a, b), axis=axis, dtype=self._trace.joint(a, b))

    def matmul(self, a: Any, b: Any) -> Any:
        a, b = self._trace.constant(a), self._trace.constant(b)
        cost = a.size * (b.shape[-1] if b.ndim > 1 else 1)
        cost = max(cost, b.size * (a.shape[-2] if a.ndim > 1 else 1))
        fits = a.ndim > 1 and b.ndim and a.shape[-1] == b.shape[-min(b.ndim, 2)]
        if not fits or cost > _SMALL_PRODUCT or {a.dtype.kind, b.dtype.kind} != {"f"}:
            return self._trace.call(operator.matmul, a, b)
        if b.ndim > 1:
            a, b = a[..., :, None, :], self.matrix_transpose(b)[..., None, :, :]
        return self.vecdot(a, b)

    def argmax(self, a: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
        return self._first_of("max", a, axis, keepdims)

    def argmin(self, a: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
        return self._first_of("min", a, axis, keepdims)

    def _first_of(self, extremum: str, a: Any, axis: int | None, keepdims: bool) -> Any:
        a = self._trace.constant(a)
        if axis is None:
            real = getattr(self._trace.library.xp, "arg" + extremum)
            return self._trace.call(real, a, keepdims=keepdims)
        axis %= a.ndim
        first = (a == getattr(self, extremum)(a, axis=axis, keepdims=True)) | self.isnan(a)
        index = self.arange(a.shape[axis])[(slice(None), *[None] * (a.ndim - 1 - axis))]
        chosen = self._trace.map("where", first, index, a.shape[axis])
        return self.min(chosen, axis=axis, keepdims=keepdims)

    def cumulative_sum(self, a: Any, *, axis: int | None = None) -> Any:
        a = self._trace.constant(a)
        if a.ndim != 1 or a.shape[0] > 1024 or axis not in (None, 0, -1):
            return self._trace.call(self._trace.library.xp.cumulative_sum, a, axis=axis)
        index = self.arange(a.shape[0])
        below = self._trace.map("where", index[None, :] <= index[:, None], a[None, :], 0)
        return self.sum(self._trace.cast(below, a.dtype), axis=1)

    def take(self, a: Any, index: Any, *, axis: int | None = None) -> Any:
        a, index = self._trace.constant(a), self._trace.constant(index)
        if axis is None or index.ndim != 1 or index.dtype.kind not in "iu":
            return self._trace.call(self._trace.library.xp.take, a, index, axis=axis)
        along = axis % a.ndim
        shape = (*a.shape[:along], *index.shape, *a.shape[along + 1 :])
        index = index[(slice(None), *[None] * (a.ndim - 1 - along))]
        return self._trace.gathered(a, self._trace.broadcast_to(index, shape), along)

    def take_along_axis(self, a: Any, index: Any, *, axis: int = -1) -> Any:
        a, index = self._trace.constant(a), self._trace.constant(index)
        axis %= a.ndim
        shape = list(np.broadcast_shapes(a.shape[:axis], index.shape[:axis]))
        shape += index.shape[axis : axis + 1]
        shape += np.broadcast_shapes(a.shape[axis + 1 :], index.shape[axis + 1 :])
        there = [*shape[:axis], a.shape[axis], *shape[axis + 1 :]]
        return self._trace.gathered(
            self._trace.broadcast_to(a, there), self._trace.broadcast_to(index, shape), axis
        )

    def logical_and(self, a: Any, b: Any) -> Traced:
        truths = (self._trace.cast(self._trace.constant(x), np.bool_) for x in (a, b))
        return self._trace.map("bitwise_and", *truths)

    def logical_or(self, a: Any, b: Any) -> Traced:
        truths = (self._trace.cast(self._trace.constant(x), np.bool_) for x in (a, b))
        return self._trace.map("bitwise_or", *truths)

    def logical_not(self, a: Any) -> Traced:
        return self._trace.map("logical_not", self._trace.cast(self._trace.constant(a), np.bool_))

    def square(self, a: Any) -> Traced:
        return self._trace.map("multiply", a, a)


def same_axes(shape: Sequence[int]) -> Axes:
    """Return the axes of an operand of the same shape."""
    return tuple((axis, 1, 0) for axis in range(len(shape)))


def _reshaped(
    shape: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Return the strides of the same memory under another shape, if it has any."""
    have = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    result: list[int] = []
    at = 0
    for n in wanted:
        if n == 1:
            result.append(0)
            continue
        if at >= len(have):
            return None
        size, stride = have[at]
        while size < n:  # several axes make one
            at += 1
            if at >= len(have) or have[at][1] * have[at][0] != stride:
                return None
            size, stride = size * have[at][0], have[at][1]
        if size % n:
            return None
        result.append(stride * (size // n))
        have[at] = size // n, stride
        at += size == n
    return tuple(result)


def bits_of(value: float) -> int:
    """Return the bits of a float64 as an integer."""
    return int(np.float64(value).view(np.int64))


def number_of(node: Traced) -> float | int:
    """Return the value of a constant."""
    return float(np.int64(node.detail).view(np.float64)) if node.dtype.kind == "f" else node.detail


class Described(NamedTuple):
    """An array of a plan: where it is, and whether it is all of an array that is there."""

    slot: int
    offset: int
    shape: tuple[int, ...]
    dtype: Any
    strides: tuple[int, ...]


def described(a: Traced) -> Described:
    """Return where a stored value is."""
    assert a.place is not None
    return Described(a.place.slot.index, a.place.offset, a.shape, a.dtype, a.place.strides)


def array_of(library: Library, described: Described, value: Any) -> Array:
    """Return an array in what a slot holds."""
    _, offset, shape, dtype, strides = described
    if not isinstance(value, library.array):
        return library.view(shape, dtype, value + offset if offset else value, strides)
    if value.shape == shape and value.strides == strides and not offset:
        return value
    return library.view(shape, dtype, library.memory(value) + offset, strides)


def kind_of(array: Array) -> Hashable:
    """Return what programs depend on."""
    return array.shape, array.strides, array.dtype


def address_of(library: Library, value: Any) -> int:
    """Return the address of what a slot holds; of a number, its bits."""
    if isinstance(value, float):
        return bits_of(value)
    memory = library.memory(value) if isinstance(value, library.array) else value
    return library.address(memory)


class Call(NamedTuple):
    """A call of the library, or of a kernel."""

    library: Library
    function: Callable[..., Any]
    recipe: tuple[Any, tuple[str, ...], Any]
    results: list[int]
    kinds: list[Hashable]

    def run(self, memory: list[Any], addresses: list[int]) -> None:
        """Call it on what the slots hold."""
        args, keys, named = self.recipe

        def change(a: Any) -> Any:
            return array_of(self.library, a, memory[a.slot]) if type(a) is Described else a

        values = filled(named, change)
        found = self.function(*filled(args, change), **dict(zip(keys, values, strict=True)))
        arrays = [a for a in leaves(found) if isinstance(a, self.library.array)]
        if [kind_of(a) for a in arrays] != self.kinds:
            msg = "shapes that depend on values"
            raise UntraceableError(msg)
        for slot, array in zip(self.results, arrays, strict=True):
            memory[slot] = array
            addresses[slot] = address_of(self.library, array)

    def used(self) -> set[int]:
        """Return the slots of arguments and results."""
        args, _, named = self.recipe
        found = (a for a in leaves((args, named)) if type(a) is Described)
        return {a.slot for a in found} | set(self.results)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield what nested tuples hold."""
    if isinstance(tree, (tuple, list)) and type(tree) is not Described:
        for part in cast("Sequence[Any]", tree):
            yield from leaves(part)
    else:
        yield tree


def filled(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples with every leaf changed."""
    if type(tree) is Described or not isinstance(tree, (tuple, list)):
        return change(tree)
    parts = [filled(part, change) for part in cast("Sequence[Any]", tree)]
    if isinstance(tree, list):
        return parts
    kind = cast("Any", type(tree))
    return kind(*parts) if hasattr(kind, "_fields") else tuple(parts)
