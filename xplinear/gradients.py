"""The public name of `xplinear.checks.gradients`."""

from __future__ import annotations

from xplinear.checks.gradients import GradientCheck, check_gradient, numerical_gradient

__all__ = ["GradientCheck", "check_gradient", "numerical_gradient"]
