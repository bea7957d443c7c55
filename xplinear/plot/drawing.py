"""Where pictures are drawn, and what they have in common; the only file that imports matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xplinear.backends import backend_of
from xplinear.estimator.classifier import LinearClassifier, problem_of
from xplinear.model_selection.cross_validation import LinearClassifierCV
from xplinear.namespace import HostArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

__all__ = [
    "BLUE",
    "COLOURS",
    "GREEN",
    "LINES",
    "VERMILION",
    "Axes",
    "Figure",
    "Line2D",
    "axes_of",
    "check_fitted",
    "check_names",
    "fitted",
    "host",
    "pyplot",
    "set_title",
    "ticks",
    "title_of",
]

BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"

COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00")  # of Okabe and Ito
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

_SIZE = (6.4, 4.0)  # inches
_OVER_LEGEND = 24.0  # points


def pyplot() -> Any:
    """Return matplotlib's functions, or say how to install them."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        msg = "pictures need matplotlib: pip install 'xplinear[plot]'"
        raise ImportError(msg) from error
    return plt


def ticks(most: int, **options: Any) -> MaxNLocator:
    """Return where at most so many ticks are."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, **options)


def axes_of(ax: Axes | None, size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    """Return where to draw, a new figure by default."""
    if ax is None:
        return axes_of(pyplot().subplots(figsize=size, layout="constrained")[1])
    figure = ax.get_figure(root=True)
    assert figure is not None
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def check_fitted(clf: Any, *kinds: type) -> None:
    """Raise where it is nothing of the kind, or not fitted."""
    if not isinstance(clf, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        msg = f"clf must be a fitted {names}, got {type(clf).__name__}"
        raise TypeError(msg)
    check_is_fitted(clf)


def fitted(clf: Any) -> LinearClassifier:
    """Return the classifier itself, or the one that cross-validation chose."""
    check_fitted(clf, LinearClassifier, LinearClassifierCV)
    if isinstance(clf, LinearClassifier):
        return clf
    if not hasattr(clf, "best_estimator_"):
        msg = (
            "clf was fitted with refit=False, which keeps no classifier: set refit=True, fit again"
        )
        raise ValueError(msg)
    return clf.best_estimator_


def check_names(name: str, names: Sequence[str], count: int, what: str) -> None:
    """Raise where there are more or fewer names than things."""
    if len(names) != count:
        msg = f"{name} must have a name for each of {count} {what}, got {len(names)}"
        raise ValueError(msg)


def title_of(clf: LinearClassifier | LinearClassifierCV, data: str) -> str:
    """Return what was minimized, on what and how, as a title."""
    one = isinstance(clf, LinearClassifier) and hasattr(clf, "alpha_")  # not a path of many
    alphas = np.unique(clf.alpha_) if one else []
    problem = problem_of(clf, f"{alphas[0]:.3g}" if len(alphas) == 1 else "α")
    # Weights that were given have no solver, and early files do not say.
    solver = getattr(clf, "solver_", "")
    return f"{data}{': ' * bool(data)}{problem}{', ' * bool(solver)}{solver}"


def set_title(ax: Axes, title: str, lines: Sequence[Any] = (), *, ncols: int = 3) -> None:
    """Write a title, which may have _ or $, and beneath it the legend of some lines."""
    if lines:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
        ax.legend(handles=lines, ncols=ncols, frameon=False, **place)
    if title:
        inches = ax.bbox.width / ax.figure.dpi
        text = textwrap.fill(title, max(16, int(13 * inches)))
        pad = _OVER_LEGEND if lines else None
        ax.set_title(text, fontsize="medium", parse_math=False, pad=pad)


def host(x: Any) -> HostArray:
    """Return an array of any library as one of NumPy."""
    return backend_of(x).to_host(x)
