"""LinearClassifier: scikit-learn's conventions around `minimize`."""

from __future__ import annotations

from xplinear.estimator.classifier import LinearClassifier

__all__ = ["LinearClassifier"]
