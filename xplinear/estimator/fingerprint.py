"""What a fit is told, in words that differ where its results may: settings, functions, data."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any, cast

import numpy as np

from xplinear.arguments import nameless
from xplinear.backends import backend_of
from xplinear.backends.base import native
from xplinear.backends.sparse import is_scipy, is_sparse
from xplinear.data.remote import checksum
from xplinear.estimator.problem import Problem
from xplinear.namespace import Array, HostArray, is_array, name_of

__all__ = ["digest", "in_words", "told", "told_of_data"]

_UNTOLD = "verbose", "checkpoint", "backend", "cv"  # decide nothing, or are told otherwise
_DIGEST_BYTES = 2**24


def told(owner: Any, *settings: Any, **more: Any) -> dict[str, str]:
    """Return what an estimator is told by its settings, dataclasses, and by ``more``, in words."""
    said = {one.name: getattr(own, one.name) for own in settings for one in fields(own)} | more
    shown = {name: in_words(value) for name, value in said.items() if name not in _UNTOLD}
    return {"the estimator": type(owner).__name__, **shown}


def told_of_data(problem: Problem) -> dict[str, str]:
    """Return what a fit is told by its data, and by where it computes."""
    sample = problem.sample
    X, targets = sample.X, sample.targets
    found = problem.survey
    return {
        "X": digest(X) if found is None else f"{_kind_of(X)} crc {found.digest:x}",
        "y": digest(targets.codes),
        "the classes of y": str(targets.classes.tolist()),
        "what is missing of y": digest(targets.missing),
        "sample_weight": digest(targets.sample_weight),
        "backend": sample.backend.name,
        "the dtype of the computation": name_of(sample.dtype),
    }


def in_words(value: Any, around: tuple[int, ...] = ()) -> str:
    """Return what an object shows, and what it holds: all that may decide what it computes.

    A function is told by its code, its defaults and what it closes over; not by what it reads
    elsewhere, nor by lists, dicts and sets, which it may have written to.

    Examples
    --------
    >>> in_words({"b": np.float64(0.5), "a": [1, np.zeros(2)]})
    "{'a': [1, (2,) float64 crc ecbb4b55], 'b': 0.5}"
    >>> in_words(lambda x: x + 1) == in_words(lambda x: x + 2)
    False
    """
    if id(value) in around:
        return "…"
    words = partial(in_words, around=(*around, id(value)))
    value = value.item() if isinstance(value, np.generic) else value
    if is_array(value):
        host: HostArray = backend_of(value).to_host(value)
        return digest(host) if host.ndim and host.dtype.kind in "biufc" else words(host.tolist())
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _of_many(cast("Any", value), words)
    parts = _code_of(value)
    if parts:
        name = getattr(value, "__qualname__", type(value).__name__)
        return f"{name} crc {zlib.crc32(words(parts).encode()):x}"
    if is_dataclass(value) and not isinstance(value, type):
        own = (f"{one.name}={words(getattr(value, one.name))}" for one in fields(value))
        return f"{type(value).__qualname__}({', '.join(own)})"
    held = None if isinstance(value, type) else getattr(value, "__dict__", None)
    return f"{nameless(value)} {words(held)}" if held else nameless(value)


def _of_many(value: Any, words: Callable[[Any], str]) -> str:
    """Return the parts of a collection in words, in an order that their values decide."""
    if isinstance(value, Mapping):
        own = cast("Mapping[Any, Any]", value)
        return f"{{{', '.join(sorted(f'{words(key)}: {words(a)}' for key, a in own.items()))}}}"
    parts = [words(one) for one in value]
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(parts))}}}"
    return f"[{', '.join(parts)}]" if isinstance(value, list) else f"({', '.join(parts)})"


def _code_of(value: Any) -> list[Any]:
    """Return what decides what a function gives; of anything else, nothing."""
    if isinstance(value, CodeType):
        return [value.co_code.hex(), value.co_names, value.co_consts]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        cells = [a for a in cells if not isinstance(a, list | dict | set)]
        return [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        own = cast("partial[Any]", value)
        return [own.func, own.args, own.keywords]
    return []


def digest(x: Any) -> str:
    """Return shape, dtype and checksum of all numbers of an array of any library, sparse or not.

    Examples
    --------
    >>> digest(np.asarray([1.0, 2.0]))
    '(2,) float64 crc 7ba3895f'
    """
    if x is None:
        return "None"
    parts: Sequence[Any] = (x,)
    if is_scipy(x):
        parts = x.data, x.indices, x.indptr
    elif is_sparse(x):
        parts = x.values, x.indices, x.starts
    found = 0
    for block in (block for part in parts for block in _blocks(part)):
        found = checksum(np.asarray(block), found)
    return f"{'sparse ' * (len(parts) > 1)}{_kind_of(x)} crc {found:x}"


def _kind_of(x: Any) -> str:
    return f"{tuple(x.shape)} {name_of(x.dtype)}"


def _blocks(x: Array) -> Iterator[Any]:
    """Yield rows of an array on the host, some at a time."""
    backend, n = backend_of(x), x.shape[0]
    # Where code is compiled for every slice, all at once.
    few = n if backend.compiles else _DIGEST_BYTES // (8 * math.prod(x.shape[1:]) or 1)
    few = max(1, few)
    for start in range(0, n, few):
        yield native(x if few >= n else x[start : start + few, ...])
