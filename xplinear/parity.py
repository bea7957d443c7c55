"""The public name of `xplinear.checks.parity`."""

from __future__ import annotations

from xplinear.checks.parity import (
    TOLERANCES,
    WEIGHT_TOLERANCES,
    Comparison,
    compare,
    random_objective,
)

__all__ = ["TOLERANCES", "WEIGHT_TOLERANCES", "Comparison", "compare", "random_objective"]
