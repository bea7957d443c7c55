"""Pictures.

Like scikit-learn's displays: ``XDisplay.from_estimator(clf)`` draws, ``display.plot(ax=ax)`` draws
once more, ``display.ax_`` and ``display.figure_`` are what to change or save. Colours are distinct
for colour-blind readers; line styles, markers and brightness keep them apart in grey.
"""

from __future__ import annotations

from xplinear.plot.curves import (
    CoefficientPathDisplay,
    LossCurveDisplay,
    ValidationCurveDisplay,
)
from xplinear.plot.drawing import pyplot
from xplinear.plot.measured import GradientCheckDisplay, ThroughputDisplay
from xplinear.plot.templates import ClassTemplatesDisplay

__all__ = [
    "ClassTemplatesDisplay",
    "CoefficientPathDisplay",
    "GradientCheckDisplay",
    "LossCurveDisplay",
    "ThroughputDisplay",
    "ValidationCurveDisplay",
]

pyplot()  # an error now, not at the first picture
