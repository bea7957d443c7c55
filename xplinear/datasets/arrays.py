"""Arrays of NumPy: ``.npz`` and ``.npy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xplinear.datasets.reader import DAMAGED, File, Parts, Request
from xplinear.namespace import HostArray

__all__ = ["read_npy", "read_npz"]


def read_npz(file: File, request: Request) -> Parts:
    """Read arrays X and y, and a test part if there is one."""
    target, n_features = request[:2]
    label = target or "y"
    names = ("X", label, "X_test", f"{label}_test")
    try:
        with np.load(file.path, allow_pickle=False) as archive:
            there = list(archive)
            arrays = {name: archive[name] for name in names if name in there}
    except (*DAMAGED, TypeError, AttributeError) as error:
        # A file that is no archive gives an array, which is no context manager.
        msg = f"{str(file)!r} cannot be read as .npz: {_reason(error)}"
        raise ValueError(msg) from error
    needed = {"X"}
    if n_features is None:
        needed |= {label} | ({f"{label}_test"} if "X_test" in arrays else set())
    if needed - set(arrays):
        asked = "target: " * (target is not None)
        msg = (
            f"{asked}{str(file)!r} has no array {', '.join(sorted(needed - set(arrays)))}; "
            f"it has {', '.join(there) or 'none'}"
        )
        raise ValueError(msg)
    found: Any = [arrays.get(name) for name in names]
    return Parts(*found)


def read_npy(file: File, request: Request) -> Parts:
    """Read X, and the labels from the file beside it."""
    target, n_features = request[:2]
    labels = file.path.with_name("y.npy") if target is None else Path(target)
    if not labels.is_file() and n_features is not None and target is None:
        return Parts(_load_npy(file.path), None)
    if not labels.is_file():
        name = Path(file.name)  # the path is another where it was piped
        there = str(name.with_name("y.npy") if target is None else target)
        msg = f"no file {there!r} with the labels of {name.name}; target can name another"
        raise FileNotFoundError(msg)
    return Parts(_load_npy(file.path), _load_npy(labels))


def _load_npy(path: Path) -> HostArray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except DAMAGED as error:
        msg = f"{str(path)!r} cannot be read as .npy: {_reason(error)}"
        raise ValueError(msg) from error


def _reason(error: Exception) -> str:
    """Return why NumPy reads no array; it says to allow pickles, which may run code."""
    if "pickle" in str(error):
        return (
            "it holds no array, or Python objects, which are not read as they may run code; save "
            "numbers or texts, such as y.astype(str)"
        )
    return str(error)
