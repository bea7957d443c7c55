"""Where a benchmark ran, and with what: the machine, and the commit of this repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

from xplinear.backends.machine import Machine
from xplinear.backends.machine import machine as described


def machine() -> Machine:
    """Return processor, cores, memory, GPUs, system, library versions, date and git commit."""
    return described() | {"commit": _commit()}


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
