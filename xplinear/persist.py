"""The public name of `xplinear.formats.model_file`."""

from __future__ import annotations

from xplinear.formats.model_file import content_of, load, save

__all__ = ["content_of", "load", "save"]
