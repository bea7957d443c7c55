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
@pytest.mark.parametrize(
    "arguments",
    [("sgd", "lbfgs", "sweep", "--moments=1", "--rest=2"), ("sgd", "--moments=0", "--steps=3")],
    ids=["moments", "steps"],
)
def test_killed_runs_end_with_the_same_bits(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, str(SCRIPT), *arguments]
    ran = subprocess.run(
        command, check=False, env=os.environ | ONE_THREAD, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    kinds = [one for one in arguments if not one.startswith("-")]
    assert ran.stdout.count("the same bits") == len(kinds), ran.stdout
