"""What a fitted classifier becomes: a model file, a classifier of scikit-learn, an ONNX graph."""

from __future__ import annotations

__all__ = []
