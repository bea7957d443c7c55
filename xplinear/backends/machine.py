"""What a measurement ran on, and with what."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import joblib
from threadpoolctl import threadpool_info

from xplinear.version import VERSION

__all__ = ["Machine", "libraries", "machine"]

LIBRARIES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-learn-intelex",
    "array-api-compat",
    "torch",
    "jax",
    "jaxlib",
    "cupy",
    "cupy-cuda12x",
    "cupy-cuda13x",
)
_GPU = ("name", "driver_version", "memory.total")  # as nvidia-smi calls them

Machine: TypeAlias = dict[str, Any]


def machine() -> Machine:
    """Return processor, cores, memory, load, GPUs if any, system, library versions and date.

    The load is the mean number of programs that ran or waited in the last 1, 5 and 15 minutes,
    the measurement itself included: more than the cores means that others took part of them.

    Examples
    --------
    >>> "numpy" in machine()["libraries"]
    True
    """
    found: Machine = {
        "cpu": _cpu_model(),
        "cores": joblib.cpu_count(),
        "memory_gib": _memory_gib(),
        "load": _load(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "xplinear": VERSION,
        "libraries": libraries(),
        "blas": ", ".join(
            f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads"
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }
    gpus = _gpus()
    return {**found, "gpus": gpus} if gpus else found


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    model = re.search(r"^model name\s*: (.*)$", text, flags=re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def _memory_gib() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError):  # Windows has no sysconf
        return float("nan")


def _load() -> list[float]:
    try:
        return [round(load, 1) for load in os.getloadavg()]
    except (AttributeError, OSError):  # Windows has none
        return []


def _gpus() -> list[dict[str, str]]:
    """Return name, driver and memory of each NVIDIA GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603 - no input of a user
    except (OSError, subprocess.SubprocessError):  # installed, but no driver
        return []
    rows = (line.split(", ") for line in done.stdout.splitlines())
    return [dict(zip(("name", "driver", "memory"), row, strict=True)) for row in rows]


def libraries() -> dict[str, str]:
    """Return the version of each library that is installed."""
    found: dict[str, str] = {}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found
