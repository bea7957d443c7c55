"""The strength of the penalty by cross-validation: many strengths and folds through one X."""

from __future__ import annotations

from xplinear.model_selection.cross_validation import LinearClassifierCV

__all__ = ["LinearClassifierCV"]
