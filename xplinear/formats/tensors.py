"""Numbers and text in one file, with a checksum: what model files and checkpoints are.

The only file that imports safetensors.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialized

from xplinear.formats.writing import written
from xplinear.namespace import HostArray

__all__ = ["Format", "checksum", "format_of", "read_tensors", "write_tensors"]


class Format(NamedTuple):
    """What a file holds, in which version, and what to do where it cannot be read."""

    name: str
    version: str
    what: str
    remedy: str


def write_tensors(
    kind: Format,
    path: str | os.PathLike[str],
    content: Mapping[str, Any],
    tensors: Mapping[str, HostArray],
    *,
    durable: bool = False,
) -> None:
    """Write what JSON can hold and arrays, replacing the file only when complete.

    A ``durable`` file is on the disk when this returns, whatever becomes of the machine.
    """
    own = {key: np.asarray(a, a.dtype.newbyteorder("="), order="C") for key, a in tensors.items()}
    text = json.dumps(content)
    metadata = {
        "format": kind.name,
        "version": kind.version,
        "content": text,
        "checksum": checksum(text, own),
    }
    # safetensors would give a file that it writes itself a mode of its own.
    with written(path, durable=durable) as (file,):
        file.write_bytes(serialized(own, metadata))


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the name of the format that a file says it has, "" where it says none."""
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format", "")
    except (SafetensorError, OSError):
        return ""


def read_tensors(
    kind: Format, path: str | os.PathLike[str]
) -> tuple[dict[str, Any], dict[str, HostArray]]:
    """Return what `write_tensors` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or of another format or version.
    """
    name = repr(os.fspath(path))
    if not Path(path).is_file():
        msg = f"no {kind.what} {name}"
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        msg = f"{name} is damaged or no safetensors file ({error}); {kind.remedy}"
        raise ValueError(msg) from error
    found = metadata.get("format", "")
    if found != kind.name:
        msg = f"{name} was not written by xplinear: it holds other tensors"
        if found.startswith("xplinear"):
            msg = f"{name} is no {kind.what}, but an {found} file; name another one"
        raise ValueError(msg)
    version, text = metadata.get("version"), metadata.get("content", "")
    if version != kind.version:
        msg = (
            f"{name} has format version {version}, this xplinear reads {kind.version}; "
            "upgrade xplinear"
        )
        raise ValueError(msg)
    if metadata.get("checksum") != checksum(text, tensors):
        what = "does not hold what was written"
        if "checksum" not in metadata:
            what = "has no checksum (development versions wrote none: train once more)"
        msg = f"{name} is damaged: it {what}; {kind.remedy}"
        raise ValueError(msg)
    return json.loads(text), tensors


def checksum(content: str, tensors: Mapping[str, HostArray]) -> str:
    """Return the CRC-32 of all that a file holds."""
    found = zlib.crc32(content.encode())
    for key, a in sorted(tensors.items()):
        about = f"{key} {a.dtype.str} {a.shape}"
        found = zlib.crc32(a.data, zlib.crc32(about.encode(), found))
    return f"{found:08x}"
