"""Where a benchmark ran, and with what."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import joblib
import numpy as np  # noqa: F401 - loads the BLAS that threadpoolctl reports
from threadpoolctl import threadpool_info

import xplinear

LIBRARIES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-learn-intelex",
    "array-api-compat",
    "torch",
    "jax",
    "cupy",
)

Machine = dict[str, str | int | float | dict[str, str]]


def machine() -> Machine:
    """Return processor, cores, memory, system, library versions, date and git commit."""
    return {
        "cpu": _cpu_model(),
        "cores": joblib.cpu_count(),
        "memory_gib": _memory_gib(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "xplinear": xplinear.__version__,
        "libraries": _versions(),
        "blas": ", ".join(
            f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads"
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": _commit(),
    }


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


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
