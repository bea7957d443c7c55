"""A fitted classifier as a value, and what becomes of it: a file, a model of scikit-learn, ONNX."""

from __future__ import annotations

__all__ = []
