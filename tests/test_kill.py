"""kill −9 at any moment, also of what went on: see ``kill.py``, which does it more often."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill.py")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_killed_runs_end_with_the_same_bits() -> None:
    command = [sys.executable, str(SCRIPT), "--moments=2", "--steps=4"]
    ran = subprocess.run(
        command,
        check=False,
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("the same bits") == 8, ran.stdout
