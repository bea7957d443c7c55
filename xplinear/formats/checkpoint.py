"""A file that a fit is gone on from: trees of arrays, numbers and text. Reading runs no code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_args, get_type_hints

import numpy as np

from xplinear.arguments import FLAG, PATH, Check, instance, number, settle
from xplinear.backends import Backend
from xplinear.formats.tensors import Format, format_of, read_tensors, write_tensors
from xplinear.minimize import Loop, Observed
from xplinear.namespace import Array, HostArray, is_array, name_of
from xplinear.objective import Params
from xplinear.solvers.protocol import declared
from xplinear.solvers.report import Report

__all__ = [
    "CHECKPOINT",
    "Bare",
    "Checkpoint",
    "Packed",
    "Summary",
    "is_checkpoint",
    "kinds_of",
    "packed",
    "read",
    "unpacked",
    "write",
]

_FORMAT = Format(
    "xplinear-checkpoint", "1", "checkpoint", "delete it, or name another file as checkpoint"
)
_WORDS = type(None), bool, int, float, str
_HELD = "biuf"  # kinds of dtypes that the file holds


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit is kept while it is under way, and how often.

    Parameters
    ----------
    path : path-like
        The file. A fit with the same settings and data goes on from it.
    every : float, default 60.0
        Seconds from one writing to the next; more where writing would take more than a
        twenty-fifth of the time.
    keep : bool, default False
        Whether the file stays once the fit is complete: the same fit then has its result at once.
        Where Ctrl-C, a callback or an error ended it, it stays in any case.

    Notes
    -----
    A fit goes on from a file of the same settings, ``max_iter`` and ``tol`` included, the same
    data, to the last number, and the same version of xplinear; else it is refused before work
    begins, and the file stays. Its last bits are what they would have been where the libraries, the
    machine and its number of threads are the same too.

    A file is of one fit at a time: several at once, as in a search with ``n_jobs``, need one each.

    The file holds the weights of every run that is done, and the state of the solver: five times
    the weights for ``sgd``, 26 times for ``lbfgs``, and where it measures Hessians their inverses,
    $(c + 1)(p + 1)²$ numbers of each model.

    Examples
    --------
    >>> Checkpoint("run.ckpt", every=300)
    Checkpoint(path='run.ckpt', every=300.0, keep=False)
    """

    path: str | os.PathLike[str]
    every: float = 60.0
    keep: bool = False

    def __post_init__(self) -> None:
        settle(self, path=PATH, every=number("[0, inf)"), keep=FLAG)


CHECKPOINT = instance(Checkpoint, "a Checkpoint") | Check(
    PATH.wants, lambda value: Checkpoint(PATH.read(value))
)


class Summary(NamedTuple):
    """What the file of a checkpoint says of its fit.

    Attributes
    ----------
    done : int
        Runs of `xplinear.minimize` that are: of a sweep one for each stack of strengths.
    iteration : int
        How far the next one came.
    seconds : float
        What all that took.
    told : mapping of str to str
        The settings, and what is known of the data.
    libraries : mapping of str to str
        The versions.
    """

    done: int
    iteration: int
    seconds: float
    told: Mapping[str, str]
    libraries: Mapping[str, str]

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Summary:
        """Return that of a file; raise ValueError where it is none, or damaged."""
        content, _ = read(os.fspath(path))
        runs = [entry for entry in content["entries"] if "iteration" in entry]
        under_way = [entry["iteration"] for entry in runs if not entry["end"]]
        seconds = sum(entry["seconds"] for entry in runs)
        libraries = {**content["libraries"], "xplinear": content["xplinear"]}
        done = len(runs) - len(under_way)
        return cls(done, sum(under_way), seconds, content["told"], libraries)

    def __str__(self) -> str:
        """Return a line for people."""
        done = f"{self.done} run{'s' * (self.done != 1)} done, " if self.done else ""
        of = " of the next" if self.done else ""
        return f"{done}iteration {self.iteration}{of}, {self.seconds:.2f} s"


class Bare(NamedTuple):
    """What is left of a solver's state that nothing goes on from."""

    params: Params
    report: Report


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Return whether a file says that it is a checkpoint."""
    return format_of(path) == _FORMAT.name


def kinds_of(solver: Any) -> dict[str, type[Any]]:
    """Return the named tuples that a checkpoint of a solver's run may hold, by their names.

    Those of its state are the ones that the fields of its ``state_type`` are declared to be.
    """
    found: dict[str, type[Any]] = {}
    waiting: list[Any] = [Loop, Observed, Params, Report, Bare, declared(solver, "state_type")]
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)  # of a union
        if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
            name = f"{kind.__module__}.{kind.__qualname__}"
            if name not in found:
                found[name] = kind
                with suppress(NameError):  # of a class in a function, say: it tells nothing
                    waiting += get_type_hints(kind).values()
    return found


class Packed(NamedTuple):
    """A value as what JSON can hold, and arrays on the host, contiguous."""

    tree: Any
    arrays: Sequence[HostArray]


def packed(value: Any, kinds: Mapping[str, type[Any]], backend: Backend) -> Packed:
    """Return a tree of named and other tuples, lists, dicts, numbers, text and arrays for a file.

    Arrays keep their order in memory: sums of them round as they did.

    Raises
    ------
    TypeError
        If it holds something else, or named tuples of other kinds than these.
    """
    names: dict[type[Any], str] = {kind: name for name, kind in kinds.items()}
    names |= {list: "list", tuple: "tuple"}
    arrays = _Arrays(backend)

    def tree(part: Any) -> Any:
        if isinstance(part, np.generic) or is_array(part):
            return arrays.node(part)
        if isinstance(part, _WORDS):
            return part
        kind = cast("type[Any]", type(part))
        if kind is dict:
            return {"is": "dict", "of": [[tree(key), tree(a)] for key, a in part.items()]}
        if kind not in names:
            msg = f"a {kind.__name__}"
            raise TypeError(msg)
        if kind is list and part and all(type(one) is Observed for one in part):
            columns = (np.stack(column) for column in zip(*part, strict=True))
            return {"is": "rows", "of": [tree(column) for column in columns]}
        return {"is": names[kind], "of": [tree(one) for one in part]}

    return Packed(tree(value), arrays.found)


class _Arrays:
    """The arrays of a tree, each once, on the host."""

    def __init__(self, backend: Backend) -> None:
        self.found: list[HostArray] = []
        self._backend = backend
        self._places: dict[int, tuple[int, Any]] = {}

    def node(self, x: Any) -> dict[str, Any]:
        """Take in an array, and return what stands for it in the tree."""
        there = isinstance(x, np.ndarray | np.generic)
        host = np.asarray(x) if there else self._backend.to_host(x)
        own: Any = getattr(x, "strides", None)  # CuPy's copies on the host have others
        strides = own if isinstance(own, tuple) else host.strides
        axes = sorted(range(host.ndim), key=lambda axis: -abs(strides[axis]))
        if id(x) not in self._places:
            host = np.asarray(host.transpose(axes), order="C")
            host = host.astype(np.float32) if host.dtype.name == "bfloat16" else host
            if host.dtype.kind not in _HELD or host.dtype.itemsize > 8:
                msg = f"an array of {host.dtype}"
                raise TypeError(msg)
            # With x itself: while it lives, no other has its id.
            self._places[id(x)] = len(self.found), x
            self.found.append(host)
        kind = "array" if not there else "number" if isinstance(x, np.generic) else "host"
        at = self._places[id(x)][0]
        return {"is": kind, "at": at, "axes": axes, "dtype": name_of(x.dtype)}


def unpacked(part: Packed, kinds: Mapping[str, type[Any]], backend: Backend) -> Any:
    """Return what `packed` was given: arrays on the backend, or on the host, as they were."""
    xp = backend.xp

    def loaded(node: Mapping[str, Any]) -> Array:
        host, back = part.arrays[node["at"]], np.argsort(node["axes"]).tolist()
        if node["is"] == "number":
            return host[()]
        host = host.copy()  # what was read may be read only, and anywhere in memory
        if node["is"] == "host":
            return host.transpose(back)
        x = backend.asarray(host)
        dtype = node["dtype"]
        x = x if name_of(x.dtype) == dtype else xp.astype(x, getattr(xp, dtype))
        return xp.permute_dims(x, tuple(back)) if back else x

    def value(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        node = cast("dict[str, Any]", node)
        kind, of = node["is"], node.get("of", ())
        if kind in ("array", "host", "number"):
            return loaded(node)
        if kind == "dict":
            return {value(key): value(a) for key, a in of}
        parts = [value(one) for one in of]
        if kind == "rows":
            return list(_rows(parts))
        if kind in ("list", "tuple"):
            return parts if kind == "list" else tuple(parts)
        return kinds[kind](*parts)

    return value(part.tree)


def _rows(columns: Sequence[HostArray]) -> Iterator[Observed]:
    """Yield what was observed of each iteration: the numbers of all models, and the seconds."""
    *numbers, seconds = columns
    for row in zip(*numbers, seconds.tolist(), strict=True):
        yield Observed._make(row)


def write(path: str, content: Mapping[str, Any], parts: Sequence[Packed]) -> None:
    """Write a checkpoint, replacing the file only when it is complete and on the disk.

    Raises
    ------
    OSError
        If it cannot be written; what was there stays.
    """
    tensors = {f"{i}.{j}": a for i, part in enumerate(parts) for j, a in enumerate(part.arrays)}
    trees = [part.tree for part in parts]
    write_tensors(_FORMAT, path, {**content, "parts": trees}, tensors, durable=True)


def read(path: str) -> tuple[dict[str, Any], list[Packed]]:
    """Return what `write` wrote.

    Raises
    ------
    ValueError
        If it is damaged, no checkpoint, or of another version.
    """
    content, tensors = read_tensors(_FORMAT, path)
    parts: list[Packed] = []
    for i, tree in enumerate(content.pop("parts")):
        count = sum(key.startswith(f"{i}.") for key in tensors)
        parts.append(Packed(tree, [tensors[f"{i}.{j}"] for j in range(count)]))
    return content, parts
