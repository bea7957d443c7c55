"""Every backend gives NumPy's losses, gradients and SGD steps, in either precision."""

from __future__ import annotations

import pytest

import xplinear as xl
from xplinear.losses import LOSSES
from xplinear.parity import Comparison


@pytest.mark.parametrize("loss", LOSSES)
def test_parity(backend, dtype, loss):
    rows = xl.parity.compare([backend.backend], [dtype], [loss])
    assert [row.penalty for row in rows] == list(xl.penalties.PENALTIES)
    failed = [row for row in rows if not row.passed]
    assert not failed


def test_the_reference_path_is_compared_too(backend):
    rows = xl.parity.compare([backend.backend.reference()], ["float64"], ["softmax"], ["l2"])
    assert rows[0].passed


@pytest.mark.parametrize(
    ("dtype", "errors", "passed"),
    [
        ("float64", (1e-13, 1e-13, 1e-11), True),
        ("float64", (1e-11, 0.0, 0.0), False),
        ("float64", (0.0, 1e-11, 0.0), False),
        ("float64", (0.0, 0.0, 1e-9), False),
        ("float32", (1e-6, 1e-6, 1e-5), True),
        ("float32", (0.0, 0.0, 1e-3), False),
        ("float32", (float("nan"), 0.0, 0.0), False),
    ],
)
def test_a_comparison_passes_within_the_published_tolerances(dtype, errors, passed):
    assert Comparison("numpy", dtype, "softmax", "l2", *errors).passed is passed
