"""Rows in files of which runs can be read: memory maps, HDF5, Zarr, safetensors, lists of these.

None of their libraries is imported: what they give is known by what it offers.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NoReturn

import numpy as np

from xplinear.backends.base import Backend, fetched
from xplinear.backends.transfer import Slices, read_ahead, sequence_of
from xplinear.data.mapped import in_file
from xplinear.data.protocol import Data
from xplinear.data.remote import (
    KEPT_BYTES,
    SAMPLED,
    SAMPLED_BYTES,
    Survey,
    finite,
    finite_bounds,
    surveyed,
)
from xplinear.data.streamed import Spaced, streamed
from xplinear.namespace import Array, HostArray, is_array, name_of

__all__ = ["SlicedRows", "sliced_rows"]

_MAPPED_BYTES = 2**30  # of a memory map that is used as an array
_RUN_BYTES = 2**24  # read at a time
_MOST_BYTES = 2**30  # of rows that can only be read together
# What the names of safetensors mean.
_SAFETENSORS = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{
        f"{c}{bits}": f"{name}{bits}"
        for c, name in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    },
}


@dataclass(frozen=True, eq=False)
class Sliced:
    """Rows of something that gives runs of its rows: ``source[start:stop]``."""

    source: Any
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunk: int

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write some rows to an array."""
        try:
            found, shape = fetched(self.source[start:stop]), _shape_of(self.source)
        except Exception as error:
            error.add_note(f"while rows {start} to {stop} of X were read")
            raise
        if found.shape != into.shape or shape != self.shape:
            _refuse_changed(f"it had the shape {self.shape}, and now has {shape}")
        into[...] = found


@dataclass(frozen=True, eq=False)
class Shards:
    """Rows of one source after another."""

    parts: Sequence[Slices]
    shape: tuple[int, int] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunk: int = field(init=False)
    starts: HostArray = field(init=False)

    def __post_init__(self) -> None:
        counts = [part.shape[0] for part in self.parts]
        found = {
            "shape": (sum(counts), self.parts[0].shape[1]),
            "dtype": _promoted([part.dtype for part in self.parts]),
            "chunk": max(part.chunk for part in self.parts),
            "starts": np.asarray([0, *accumulate(counts)]),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write some rows to an array."""
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        for i in range(int(first), int(last) + 1):
            part, here = self.parts[i], int(self.starts[i])
            low, high = max(start, here), min(stop, here + part.shape[0])
            if low < high:
                part.read(low - here, high - here, into[low - start : high - start])


@dataclass(frozen=True, eq=False)
class Unchanged:
    """Rows of which those that are in memory are compared with them whenever they are read."""

    rows: Slices
    spaced: Spaced
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunk: int
    sequence: int

    def read(self, start: int, stop: int, into: HostArray) -> None:
        """Write some rows to an array.

        Raises
        ------
        ValueError
            If a row that is in memory is another one by now.
        """
        self.rows.read(start, stop, into)
        step, first = self.spaced.step, -(-start // self.spaced.step)
        now, wide = into[-start % step :: step], f"u{math.gcd(into[0].nbytes, 8)}"  # bits, quickly
        before = self.spaced.rows[first : first + len(now)]
        same = now.view(wide) == before.view(wide)
        if not same.all():
            row = (first + int(np.argmin(same.all(axis=1)))) * step
            _refuse_changed(f"row {row} is another one than when it was read first")


@dataclass(frozen=True, eq=False)
class SlicedRows:
    """Rows of any `Slices`, as an estimator takes them: see `xplinear.data.remote.RemoteRows`."""

    slices: Slices
    names: HostArray | None = None
    spaced: list[Spaced] = field(default_factory=list[Spaced], init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        return self.slices.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.slices.dtype

    def targets(self, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Return y and weights: arrays of all rows."""
        return _whole(y), _whole(sample_weight)

    def survey(self, counted: HostArray | None = None) -> Survey:
        """Look at every number once, and keep a few rows."""
        (n, p), kept = self.shape, list[HostArray]()
        step = -(-n // max(1, min(SAMPLED, SAMPLED_BYTES // (p * self.dtype.itemsize))))

        def seen() -> Generator[HostArray]:
            first = 0
            with closing(self._runs()) as runs:
                for X in runs:
                    kept.append(X[-first % step :: step].copy())
                    first += len(X)
                    yield X

        with closing(seen()) as blocks:
            survey = surveyed(blocks, counted)
        self.spaced[:] = [Spaced(step, np.concatenate(kept))]
        return survey

    def blocks(self) -> Generator[HostArray]:
        """Yield all rows in order, some at a time, finite."""
        return finite(self._runs())

    def data(
        self,
        y: Array,
        s: Array | None = None,
        dtype: Any = None,
        *,
        backend: Backend,
        classes: int | None = None,
        counted: HostArray | None = None,
    ) -> Data:
        """Return the rows as a stream; as an array on a device of own memory that holds them."""
        slices, spaced = self.slices, next(iter(self.spaced), None)
        if spaced is not None:
            kind = self.shape, self.dtype, slices.chunk, sequence_of(slices)
            slices = Unchanged(slices, spaced, *kind)
        how: dict[str, Any] = {"backend": backend, "classes": classes}
        stream = streamed(slices, y, s, dtype, counted, spaced=spaced, **how)
        # A third: while they are joined there are two of them.
        fits = math.prod(self.shape) * self.dtype.itemsize <= backend.free_memory() // 3
        return stream.on_device() if backend.own_memory and fits else stream

    def array(self) -> HostArray:
        """Return all rows."""
        X = np.empty(self.shape, self.dtype.newbyteorder("="))
        step = self._rows_at_a_time()
        for start in range(0, len(X), step):
            self.slices.read(start, min(start + step, len(X)), X[start : start + step])
        return X

    def _runs(self) -> Generator[HostArray]:
        n, step = self.shape[0], self._rows_at_a_time()
        return read_ahead(self.slices, [range(i, min(i + step, n)) for i in range(0, n, step)])

    def _rows_at_a_time(self) -> int:
        rows = max(1, _RUN_BYTES // (self.shape[1] * self.dtype.itemsize))
        return -(-rows // self.slices.chunk) * self.slices.chunk


def sliced_rows(X: Any) -> SlicedRows | HostArray | None:
    """Return the rows of files of which runs can be read; None of anything else.

    Small ones are read: they are an array.

    Raises
    ------
    TypeError, ValueError
        If it is a group of such, or no matrix of numbers.
    """
    slices = _shards(X) if isinstance(X, (list, tuple)) else _slices(X, _MAPPED_BYTES)
    if slices is None:
        return None
    rows, (n, p) = SlicedRows(slices), slices.shape
    if n * p * slices.dtype.itemsize > KEPT_BYTES:
        return rows
    X = rows.array()
    finite_bounds(X, 0)
    return X


def _is_sliced(X: Any) -> bool:
    """Whether it has a shape, a dtype and slices, and is neither an array nor a table."""
    if is_array(X) or hasattr(type(X), "to_numpy") or hasattr(type(X), "todense"):
        return False
    slices = all(_offers(X, name) for name in ("__getitem__", "shape", "dtype"))
    return slices or (_offers(X, "get_shape") and _offers(X, "get_dtype"))  # of safetensors


def _offers(X: Any, name: str) -> bool:
    return hasattr(type(X), name) or hasattr(X, name)  # first without computing it


def _slices(X: Any, mapped: int = 0) -> Slices | None:
    """Return the slices of one source; of a memory map if it has more than so many bytes."""
    if isinstance(X, np.memmap):
        return _checked(X) if X.nbytes > mapped else None
    if _is_sliced(X):
        return _checked(X)
    _refuse_group(X)
    return None


def _shards(parts: Sequence[Any]) -> Slices | None:
    """Return the slices of a list of sources and arrays; None of one without a source."""
    if not parts or not (_is_matrix(parts[0]) or _is_sliced(parts[0])):  # most lists are of rows
        if parts:
            _refuse_group(parts[0])
        return None
    if all(_is_matrix(part) and not isinstance(part, np.memmap) for part in parts):
        return None
    found: list[Slices] = []
    for i, part in enumerate(parts):
        own = _checked(part, f"X[{i}]") if isinstance(part, np.ndarray) else _slices(part)
        if own is None:
            msg = (
                f"X[{i}] is {type(part).__name__}; all of a list of shards must be arrays or files"
            )
            raise TypeError(msg)
        found.append(own)
    widths = [part.shape[1] for part in found]
    if len(set(widths)) > 1:
        other = next(i for i, p in enumerate(widths) if p != widths[0])
        msg = f"shards must have the same columns: X[0] has {widths[0]}, X[{other}] {widths[other]}"
        raise ValueError(msg)
    return Shards(found)


def _is_matrix(X: Any) -> bool:
    return isinstance(X, np.ndarray) and X.ndim == 2


def _shape_of(X: Any) -> tuple[int, ...]:
    return tuple(X.get_shape() if hasattr(X, "get_shape") else X.shape)


def _dtype_of(X: Any) -> np.dtype[Any] | None:
    """Return NumPy's dtype; None where it has none."""
    found: Any = X.dtype if hasattr(X, "dtype") else _SAFETENSORS.get(X.get_dtype())
    if found == "bfloat16":
        try:
            import ml_dtypes

            found = ml_dtypes.bfloat16
        except ImportError as error:
            msg = "X is of dtype bfloat16, which NumPy has from ml_dtypes: pip install ml_dtypes"
            raise TypeError(msg) from error
    try:
        return None if found is None else np.dtype(found)
    except TypeError:
        return None


def _promoted(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """Return the dtype that holds all of these."""
    if len(set(dtypes)) > 1:  # bfloat16 goes with few
        dtypes = [np.dtype(np.float32) if name_of(d) == "bfloat16" else d for d in dtypes]
    return np.result_type(*dtypes)


def _checked(X: Any, name: str = "X") -> Slices:
    """Return a matrix of numbers as slices."""
    try:
        shape, dtype = _shape_of(X), _dtype_of(X)
    except (ValueError, RuntimeError, OSError) as error:
        msg = f"{name} cannot be read: {error}; is its file open?"
        raise ValueError(msg) from error
    if len(shape) != 2:
        msg = f"{name} must have two axes, samples and features; it has shape {shape}"
        raise ValueError(msg)
    n, p = shape
    if p == 0 or (n == 0 and name == "X"):
        msg = (
            f"{name} is empty: {n} sample(s) and {p} feature(s) (shape={shape}) while 1 is required"
        )
        raise ValueError(msg)
    plain = dtype is not None and dtype.kind in "biuf" and dtype.itemsize <= 8
    if dtype is None or not (plain or name_of(dtype) == "bfloat16"):
        own = X.get_dtype() if dtype is None and hasattr(X, "get_dtype") else X.dtype
        msg = f"{name} is of dtype {own}, but features must be numbers of at most 64 bits"
        raise ValueError(msg)
    chunks: Any = getattr(X, "chunks", None)
    chunk = int(chunks[0]) if isinstance(chunks, tuple) and len(chunks) == 2 else 1
    band = min(chunk, n) * p * dtype.itemsize
    if band > _MOST_BYTES:
        msg = (
            f"{name} is stored in chunks of {chunks}: to read a row, {band / 2**30:.1f} GiB must "
            "be; store it in chunks of few rows and all columns"
        )
        raise ValueError(msg)
    rows = Sliced(X, (int(n), int(p)), dtype, max(1, min(chunk, int(n))))
    return (in_file(X) if isinstance(X, np.memmap) else None) or rows


def _refuse_changed(what: str) -> NoReturn:
    msg = f"X has changed while it was read: {what}; fit again, to a file that nobody writes to"
    raise ValueError(msg)


def _refuse_group(X: Any) -> None:
    """Raise TypeError if it is a file or a group of arrays, as of HDF5, Zarr or safetensors."""
    root = type(X).__module__.partition(".")[0]
    if root not in ("h5py", "zarr", "safetensors", "builtins") or not hasattr(X, "keys"):
        return
    if isinstance(X, dict):
        return
    names = list(X.keys())
    held = ", ".join(map(repr, names[:10])) + ", …" * (len(names) > 10)
    msg = f"X is a {type(X).__name__}, no array; it holds {held or 'nothing'}: pass one of these"
    raise TypeError(msg)


def _whole(values: Any) -> Any:
    """Return labels or weights of a file as an array, anything else as it is."""
    if _is_sliced(values) and len(_shape_of(values)) in (1, 2):
        return fetched(values[: _shape_of(values)[0]])
    return values
