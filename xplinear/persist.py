"""The public names of model files."""

from __future__ import annotations

from xplinear.estimator.attributes import save
from xplinear.estimator.loading import load
from xplinear.formats.model_file import content_of

__all__ = ["content_of", "load", "save"]
