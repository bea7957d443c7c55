"""What was recorded, as programs that one kernel interprets: a launch of several stages."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xplinear.backends.tracing import (
    DTYPES,
    ELEMENTWISE,
    LARGE,
    Axes,
    Library,
    Place,
    Slot,
    Trace,
    Traced,
    UntraceableError,
    address_of,
    number_of,
    same_axes,
)
from xplinear.namespace import HostArray

__all__ = ["OPERATIONS", "ROOM", "THREADS", "Launch", "written"]

OPERATIONS = {
    name: i
    for i, name in enumerate((*ELEMENTWISE, "cast", "load", "store", "number", "index", "gather"))
}
ROOM = 240  # addresses and numbers a launch takes
THREADS = 128  # of a block
_REGISTERS = 32


class _Target(NamedTuple):
    """What a stage stores: the values of ``source``, or what they reduce to, for ``node``."""

    node: Traced
    source: Traced
    place: Place


class _Writer:
    """One launch: which stage computes what, and the program."""

    def __init__(self, trace: Trace, wanted: Sequence[Traced]) -> None:
        self._trace = trace
        self._there: dict[Traced, int] = {}  # the stage from which on a value can be computed
        self._stored: dict[Traced, tuple[int, Place]] = {}  # from which on it is in memory
        self._stages: list[list[_Target]] = []
        self._allocated: list[tuple[int, int]] = []
        self._table: dict[Any, int] = {}
        self._words: list[int] = []
        self._registers = 1
        for node in _below(wanted):
            stages = [self._there[a] for a in node.inputs] if node.place is None else []
            stage = max(stages, default=0)
            if node.kind == "gather" and node.place is None:
                self._keep(node.inputs[0])  # whose values are looked up in memory
                since, _ = self._stored.get(node.inputs[0], (0, None))
                stage = max(since, stages[1])
            if node.place is not None or node.kind not in ("reduce", "reshape", "join"):
                self._there[node] = stage
                continue
            self._there[node] = stage + 1
            place = self._allocate(node, stage + 1, _c_order(node.shape))
            if node.kind != "join":
                strides = place.strides if node.kind == "reduce" else None
                (a,) = node.inputs
                if strides is None:
                    place = place._replace(strides=_c_strides(a.shape, a.dtype.itemsize))
                self._add(stage, _Target(node, a, place))
                continue
            slot, start, strides = place
            for a, own in zip(node.inputs, stages, strict=True):
                self._add(own, _Target(node, a, Place(slot, start, strides)))
                start += a.shape[node.detail] * strides[node.detail]
        for node in wanted:
            self._keep(node)
        for stage in reversed(range(len(self._stages))):
            for target in self._stages[stage]:
                self._keep_large(target.source, stage)

    def _add(self, stage: int, target: _Target) -> None:
        while len(self._stages) <= stage:
            self._stages.append([])
        if target.source.size or (target.node.kind == "reduce" and target.node.size):
            self._stages[stage].append(target)

    def _allocate(self, node: Traced, stage: int, order: Sequence[int]) -> Place:
        library, itemsize = self._trace.library, node.dtype.itemsize
        nbytes = max(1, node.size) * itemsize
        slot = self._trace.slot(library.alloc(nbytes))
        self._allocated.append((slot.index, nbytes))
        lengths = [node.shape[axis] for axis in order]
        strides = [0] * node.ndim
        for axis, stride in zip(order, _c_strides(lengths, itemsize), strict=True):
            strides[axis] = stride
        place = Place(slot, 0, tuple(strides))
        self._stored[node] = stage, place
        return place

    def _keep(self, node: Traced) -> None:
        if node not in self._stored and node.place is None:
            stage = self._there[node]
            place = self._allocate(node, stage + 1, _order(node))
            self._add(stage, _Target(node, node, place))

    def _keep_large(self, source: Traced, stage: int) -> None:
        """Keep what took many operations in an earlier stage already."""
        stack, seen = [source], set[Traced]()
        while stack:
            node = stack.pop()
            if node in seen or self.place(node, stage) is not None:
                continue
            seen.add(node)
            if node.kind == "map" and node.size_ > LARGE and self._there[node] < stage:
                self._keep(node)
                if self.place(node, stage) is not None:
                    continue
            stack += node.inputs

    def place(self, node: Traced, stage: int) -> Place | None:
        if node.place is not None:
            return node.place
        since, place = self._stored.get(node, (sys.maxsize, None))
        return place if since <= stage else None

    def launch(self) -> Launch:
        """Make the launch, and run it."""
        library, stages = self._trace.library, [stage for stage in self._stages if stage]
        start: Callable[[Sequence[int]], None] = _nothing
        if stages:
            program, most = self._program()
            if len(self._table) > ROOM:
                msg = f"{len(self._table)} arrays in one launch"
                raise UntraceableError(msg)
            start = library.launch(program, most, len(stages) - 1, self._registers)
        slots = list(self._table)
        uses = [(slot.index, offset) for slot, offset in slots]
        launch = Launch(library, start, self._allocated, uses)
        start([address_of(library, slot.value) + offset for slot, offset in slots])
        for node, (_, place) in self._stored.items():
            node.place, node.inputs = place, ()
        return launch

    # The program, in words of 64 bits, as ``fusion.cu`` reads it.

    def _program(self) -> tuple[HostArray, int]:
        """Return the program and how many blocks can work at once."""
        heads: list[int] = []
        segments: list[_Segment] = []
        for stage, targets in enumerate(self._stages):
            if not targets:
                continue
            groups: dict[Any, list[_Target]] = {}
            for target in targets:
                key: Any = target.node
                if key.kind != "reduce":
                    shape = target.source.shape
                    key = shape, _by_stride(shape, target.place.strides)
                groups.setdefault(key, []).append(target)
            first, blocks = len(segments), 0
            for group in groups.values():
                for segment in self._segments(group, stage):
                    segment.head[_FIRST] = blocks
                    blocks += segment.head[_BLOCKS]
                    segments.append(segment)
            heads += [first, len(segments), blocks]
        code = 1 + len(heads) + _HEAD * len(segments)
        for segment in segments:
            segment.head[_CODE] = code
            code += len(segment.code)
        words = [len(heads) // 3, *heads]
        words += [word for segment in segments for word in segment.head]
        words += [word for segment in segments for word in segment.code]
        self._registers = max(segment.registers for segment in segments)
        return np.asarray(words, np.int64), max(heads[2::3])

    def _segments(self, targets: list[_Target], stage: int) -> Iterator[_Segment]:
        try:
            yield _Segment(self, targets, stage)
        except _TooManyRegistersError:
            if len(targets) == 1:
                raise
            half = len(targets) // 2
            yield from self._segments(targets[:half], stage)
            yield from self._segments(targets[half:], stage)

    def entry(self, slot: Slot, offset: int) -> int:
        """Return where in the table of a launch an address is."""
        return self._table.setdefault((slot, offset), len(self._table))


class _TooManyRegistersError(UntraceableError):
    pass


# The head of a segment; the lengths of its axes follow.
_FIRST, _BLOCKS, _CODE = 0, 1, 2
_HEAD, _MOST_AXES = 25, 8


class _Segment:
    """Programs over the same indices: of elements to store, or of what is reduced."""

    def __init__(self, writer: _Writer, targets: list[_Target], stage: int) -> None:
        self._writer, self._stage = writer, stage
        self._done: dict[Any, int] = {}
        self._lines: list[tuple[int, int, list[int], tuple[int, ...] | None]] = []
        node, source, place = targets[0]
        axes = [axis for axis, n in enumerate(source.shape) if n != 1]
        how = shares = chunk = team = near = kept_count = 0
        gone: tuple[int, ...] = ()
        if node.kind == "reduce":
            how, gone, shares = node.detail
            order = _order(source)
            within = sorted((axis for axis in axes if axis in gone), key=order.index)
            self._axes = [axis for axis in axes if axis not in gone] + within
            fastest = [axis for axis in order if source.shape[axis] != 1][-1:]
            near = int(not fastest or fastest[0] in gone)
        else:
            order = _by_stride(source.shape, place.strides)
            self._axes = [axis for axis in order if axis in axes]
        kept = sum(axis not in gone for axis in self._axes)
        result = 0
        if how:
            result = self._value(source)
            entry, code = writer.entry(place.slot, place.offset), DTYPES.index(node.dtype.name)
        else:
            entry = code = 0
            for target in targets:
                self._store(target)
        lengths = [source.shape[axis] for axis in self._axes]
        lengths, kept, vectors = _merged(lengths, kept, [line[3] for line in self._lines])
        if len(lengths) > _MOST_AXES:
            msg = f"{len(lengths)} axes"
            raise UntraceableError(msg)
        count, length = math.prod(lengths[:kept]), math.prod(lengths[kept:])
        if how:
            chunk = -(-length // shares)
            team = 1
            while team < min(THREADS, chunk // 4):
                team *= 2
            count *= shares
        else:
            team = 1
        blocks = -(-count * team // THREADS)
        result = self._allocated(vectors, result)
        kept_count = count
        self.head = [0, blocks, 0, len(self._lines), len(lengths), kept, how, kept_count, length]
        self.head += [shares, chunk, team, near, result, entry, code, _computed(source.dtype)]
        self.head += [*lengths, *[1] * (_MOST_AXES - len(lengths))]

    def _place(self, node: Traced) -> Place | None:
        return self._writer.place(node, self._stage)

    def _emit(self, operation: int, words: list[int], vector: tuple[int, ...] | None = None) -> int:
        """Add an instruction; its result has the number that is returned."""
        self._lines.append((len(self._lines), operation, words, vector))
        return len(self._lines) - 1

    def _vector(self, axes: Axes, strides: Sequence[int], offset: int) -> tuple[int, ...]:
        """Return offset and strides along the axes of the segment."""
        steps = dict.fromkeys(self._axes, 0)
        for (axis, step, start), stride in zip(axes, strides, strict=True):
            offset += stride * start
            if axis in steps:
                steps[axis] += stride * step
        return offset, *steps.values()

    def _store(self, target: _Target) -> None:
        number, (slot, offset, strides) = self._value(target.source), target.place
        vector = self._vector(same_axes(target.source.shape), strides, 0)
        words = [DTYPES.index(target.node.dtype.name), number, self._writer.entry(slot, offset), 0]
        self._emit(OPERATIONS["store"], words, vector)

    def _value(self, node: Traced) -> int:
        """Return the number of the instruction whose result is a value."""
        done, start = self._done, (node, same_axes(node.shape))
        stack = [start]
        while stack:
            key = node, axes = stack[-1]
            if key in done:
                stack.pop()
                continue
            leaf = self._leaf(node, axes)
            if leaf is not None:
                done[key] = leaf
                continue
            gathers = node.kind == "gather"
            inputs = [(a, _followed(node, a, axes)) for a in node.inputs[gathers:]]
            missing = [a for a in inputs if a not in done]
            stack += sorted(missing, key=lambda one: one[0].size_)  # long ones first: few registers
            if missing:
                continue
            numbers = [done[a] for a in inputs]
            if node.kind == "view":
                done[key] = numbers[0]
            elif gathers:
                done[key] = self._gathered(node, axes, numbers[0])
            else:
                done[key] = self._operation(node, numbers)
        return done[start]

    def _leaf(self, node: Traced, axes: Axes) -> int | None:
        """Return the number of the instruction that gives a value which is not computed."""
        place = self._place(node)
        if place is not None:
            entry = self._writer.entry(place.slot, place.offset)
            words = [0, DTYPES.index(node.dtype.name), entry, 0]
            vector = self._vector(axes, place.strides, 0)
            return self._emit(OPERATIONS["load"], words, vector)
        if node.kind == "index":
            return self._emit(OPERATIONS["index"], [0] * 4, self._vector(axes, (1,), 0))
        if node.kind == "scalar":
            words = [0, 0, self._writer.entry(node.detail, 0) + 1, 0]
            return self._emit(OPERATIONS["number"], words)
        if node.kind == "number":
            bits = node.detail
            if node.dtype == np.float32:
                bits = int(np.float32(number_of(node)).view(np.int32))
            return self._emit(OPERATIONS["number"], [0, bits, 0, 0])
        return None

    def _gathered(self, node: Traced, axes: Axes, index: int) -> int:
        a, axis = node.inputs[0], node.detail
        place = self._place(a)
        assert place is not None
        vector = self._vector((*axes[:axis], (None, 0, 0), *axes[axis + 1 :]), place.strides, 0)
        words = [0, index, self._writer.entry(place.slot, place.offset), 0]
        operation = OPERATIONS["gather"] | DTYPES.index(node.dtype.name) << 16
        return self._emit(operation, words, (*vector, a.shape[axis], place.strides[axis]))

    def _operation(self, node: Traced, numbers: list[int]) -> int:
        name, computed = node.detail, _computed(node.inputs[-1].dtype)
        if name == "cast":
            words = [0, numbers[0], DTYPES.index(node.dtype.name), 0]
        else:
            words = [0, *numbers, *[0] * (3 - len(numbers))]
        number = self._emit(OPERATIONS[name] | computed << 8, words)
        narrow = node.dtype.kind in "iu" and node.dtype.itemsize < 8
        if narrow and name not in ("cast", "where", "maximum", "minimum"):
            words = [0, number, DTYPES.index(node.dtype.name), 0]
            number = self._emit(OPERATIONS["cast"] | computed << 8, words)
        return number

    def _allocated(self, vectors: list[tuple[int, ...] | None], result: int) -> int:
        """Give the results registers, and write the code; return the register of the last."""
        last = {number: number for number, *_ in self._lines}
        for number, operation, words, _ in self._lines:
            for operand in _operands(operation):
                last[words[operand]] = number
        last[result] = len(self._lines)
        free, registers = list(range(_REGISTERS))[::-1], dict[int, int]()
        code: list[int] = []
        at = 5 * len(self._lines)
        places: list[int] = []
        self.registers = 0
        for number, operation, given, _ in self._lines:
            words, operands = list(given), _operands(operation)
            used = {words[operand] for operand in operands}
            for operand in operands:
                words[operand] = registers[words[operand]]
            free += [registers[one] for one in used if last[one] == number]
            if operation != OPERATIONS["store"]:
                if not free:
                    msg = "registers"
                    raise _TooManyRegistersError(msg)
                registers[number] = words[0] = free.pop()
                self.registers = max(self.registers, words[0] + 1)
                if last[number] == number:
                    free.append(words[0])
            vector = vectors[number]
            if vector is not None:
                words[3], places = at, [*places, *vector]
                at += len(vector)
            code += [operation, *words]
        self.code = [*code, *places]
        return registers.get(result, 0)


def _operands(operation: int) -> tuple[int, ...]:
    """Return which words of an instruction are results of others."""
    name = operation & 255
    if name in (OPERATIONS["load"], OPERATIONS["number"], OPERATIONS["index"]):
        return ()
    if name in (OPERATIONS["cast"], OPERATIONS["store"], OPERATIONS["gather"]):
        return (1,)
    return (1, 2, 3)[: _ARITY[name]]


_UNARY = ("negative", "abs", "sign", "sqrt", "exp", "log", "log1p", "log2", "expm1", "floor")
_UNARY += ("isfinite", "isnan", "logical_not", "bitwise_invert")
_ARITY = {OPERATIONS[name]: 2 for name in ELEMENTWISE}
_ARITY |= {OPERATIONS[name]: 1 for name in _UNARY} | {OPERATIONS["where"]: 3}


def _computed(dtype: Any) -> int:
    """Return in what the kernel computes with a dtype: float, double or 64-bit integers."""
    return {"float32": 0, "float64": 1}.get(np.dtype(dtype).name, 2)


def _followed(node: Traced, a: Traced, axes: Axes) -> Axes:
    """Return which axes the axes of an input follow, given those of the node."""
    if node.kind == "view":
        composed: list[tuple[int | None, int, int]] = []
        for axis, step, start in node.detail:
            if axis is None:
                composed.append((None, 0, start))
            else:
                outer, outer_step, outer_start = axes[axis]
                composed.append((outer, step * outer_step, start + step * outer_start))
        return tuple(composed)
    lead = len(node.shape) - len(a.shape)
    return tuple((None, 0, 0) if n == 1 else axes[lead + i] for i, n in enumerate(a.shape))


def _merged(
    lengths: list[int], kept: int, vectors: list[tuple[int, ...] | None]
) -> tuple[list[int], int, list[tuple[int, ...] | None]]:
    """Join neighbouring axes along which all arrays are read as along one."""
    axis = 0
    steps = [None if v is None else list(v) for v in vectors]
    while axis + 1 < len(lengths):
        inner = lengths[axis + 1]
        fits = all(v is None or v[1 + axis] == v[2 + axis] * inner for v in steps)
        if fits and axis + 1 != kept:
            lengths = [*lengths[:axis], lengths[axis] * inner, *lengths[axis + 2 :]]
            for v in steps:
                if v is not None:
                    del v[1 + axis]
            kept -= axis + 1 < kept
        else:
            axis += 1
    return lengths, kept, [None if v is None else tuple(v) for v in steps]


def _below(nodes: Sequence[Traced]) -> list[Traced]:
    """Return all that these are made of, inputs first."""
    stack, seen = list(nodes), set[Traced]()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += node.inputs
    return sorted(seen, key=lambda node: node.number)


def _c_order(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(len(shape)))


def _c_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    strides = [itemsize]
    for n in shape[:0:-1]:
        strides.append(strides[-1] * n)
    return tuple(strides[: len(shape)][::-1])


def _by_stride(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Return the axes in the order in which they lie in memory, the slowest first."""
    wide = [stride if n != 1 else 0 for n, stride in zip(shape, strides, strict=True)]
    if 0 in (stride for n, stride in zip(shape, strides, strict=True) if n != 1):
        return _c_order(shape)  # what is broadcast has no order
    return tuple(sorted(range(len(shape)), key=lambda axis: -abs(wide[axis])))


def _order(node: Traced) -> tuple[int, ...]:
    """Return the order in memory that suits a value: that of what it is made of."""
    following = _c_order(node.shape)  # of the axes of `node`, those of what is looked at
    axes: list[int | None] = list(following)
    while node.place is None:
        if node.kind == "view":
            details: Axes = node.detail
            (inner,) = node.inputs
            places = [axes[axis] if axis is not None else None for axis, *_ in details]
        elif node.kind == "map":
            inner = next((a for a in node.inputs if a.shape == node.shape), node)
            places = axes
        else:
            inner, places = node, axes
        if inner is node:
            return following
        node, axes = inner, places
    found = [axes[axis] for axis in _by_stride(node.shape, node.place.strides)]
    known = [axis for axis in found if axis is not None]
    return (*(axis for axis in following if axis not in known), *dict.fromkeys(known))


class Launch(NamedTuple):
    """A launch, with the memory that it is given."""

    library: Library
    start: Callable[[Sequence[int]], None]
    allocated: list[tuple[int, int]]
    uses: list[tuple[int, int]]

    def run(self, memory: list[Any], addresses: list[int]) -> None:
        """Allocate what is written, and launch."""
        for slot, nbytes in self.allocated:
            memory[slot] = allocation = self.library.alloc(nbytes)
            addresses[slot] = self.library.address(allocation)
        self.start([addresses[slot] + offset for slot, offset in self.uses])

    def used(self) -> set[int]:
        """Return the slots that are read or written."""
        return {slot for slot, _ in self.uses} | {slot for slot, _ in self.allocated}


def _nothing(addresses: Sequence[int]) -> None:
    """Launch nothing, where all arrays are empty."""


def written(trace: Trace, wanted: Sequence[Traced]) -> Launch:
    """Compute values in one launch, and return it."""
    return _Writer(trace, wanted).launch()
