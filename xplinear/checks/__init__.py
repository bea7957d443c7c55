"""What makes a result believable: gradients checked, optima certified, backends compared."""

from __future__ import annotations

__all__ = []
