"""Pictures; the only file that imports matplotlib.

Like scikit-learn's displays: ``XDisplay.from_estimator(clf)`` draws, ``display.plot(ax=ax)`` draws
once more, ``display.ax_`` and ``display.figure_`` are what to change or save. Colours are distinct
for colour-blind readers; line styles, markers and brightness keep them apart in grey.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise, product
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xplinear.backends import backend_of
from xplinear.estimator.classifier import LinearClassifier
from xplinear.model_selection.cross_validation import LinearClassifierCV
from xplinear.model_selection.scoring import OTHER_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from xplinear.bench import Measurement
    from xplinear.checks.gradients import GradientCheck

try:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    _MESSAGE = "pictures need matplotlib: pip install 'xplinear[plot]'"
    raise ImportError(_MESSAGE) from error

__all__ = [
    "ClassTemplatesDisplay",
    "CoefficientPathDisplay",
    "GradientCheckDisplay",
    "LossCurveDisplay",
    "ThroughputDisplay",
    "ValidationCurveDisplay",
]

HostArray = np.ndarray[Any, np.dtype[Any]]

_BLUE, _VERMILION, _GREEN = "#0072B2", "#D55E00", "#009E73"
_COLOURS = (_BLUE, _VERMILION, _GREEN, "#CC79A7", "#E69F00")  # of Okabe and Ito
_MARKERS = "osD^vPX"  # more than colours: the pairs repeat late
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_GREY = "#D0D0D0"
_SIZE = (6.4, 4.0)  # inches
_DECADES = 1.0  # a loss that spans more than this is drawn on a logarithmic axis
_ALPHA = "α (strength of the penalty)"
_ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "frameon": False}
_OVER_LEGEND = 24.0  # points
_BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
_SMALLEST_ERROR = 1e-18  # where an error of 0 is drawn on a logarithmic axis


def _axes(ax: Axes | None, size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    """Return where to draw, a new figure by default."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    figure = ax.get_figure(root=True)
    assert figure is not None
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def _check_fitted(clf: Any, *kinds: type) -> None:
    if not isinstance(clf, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        msg = f"clf must be a fitted {names}, got {type(clf).__name__}"
        raise TypeError(msg)
    check_is_fitted(clf)


def _fitted(clf: Any) -> LinearClassifier:
    """Return the classifier itself, or the one that cross-validation chose."""
    _check_fitted(clf, LinearClassifier, LinearClassifierCV)
    if isinstance(clf, LinearClassifier):
        return clf
    if not hasattr(clf, "best_estimator_"):
        msg = (
            "clf was fitted with refit=False, which keeps no classifier: set refit=True, fit again"
        )
        raise ValueError(msg)
    return clf.best_estimator_


def _check_names(name: str, names: Sequence[str], count: int, what: str) -> None:
    if len(names) != count:
        msg = f"{name} must have a name for each of {count} {what}, got {len(names)}"
        raise ValueError(msg)


def _problem_of(clf: LinearClassifier | LinearClassifierCV, data: str) -> str:
    """Return what was minimized, on what and how, as a title."""
    one = isinstance(clf, LinearClassifier) and hasattr(clf, "alpha_")  # not a path of many
    alpha = f"{clf.alpha_:.3g}" if one else "α"
    loss, penalty = (
        part if isinstance(part, str) else type(part).__name__
        for part in (clf.loss, "none" if clf.penalty is None else clf.penalty)
    )
    problem = f"{loss}, no penalty" if penalty == "none" else f"{loss} + {alpha} · {penalty}"
    # Weights that were given have no solver, and early files do not say.
    solver = getattr(clf, "solver_", "")
    return f"{data}{': ' * bool(data)}{problem}{', ' * bool(solver)}{solver}"


def _set_title(ax: Axes, title: str, pad: float | None = None) -> None:
    """Write a title, which may have _ or $, ``pad`` points over the axes."""
    if not title:
        return
    inches = ax.bbox.width / ax.figure.dpi
    text = textwrap.fill(title, max(16, int(13 * inches)))
    ax.set_title(text, fontsize="medium", parse_math=False, pad=pad)


def _host(x: Any) -> HostArray:
    """Return an array of any library as one of NumPy."""
    return backend_of(x).to_host(x)


@dataclass
class LossCurveDisplay:
    """The objective and the loss, and the validation accuracy where there is one, per iteration.

    What a fit minimizes is the objective, loss + penalty: the loss alone may rise.

    Parameters
    ----------
    history : mapping
        ``clf.history_``. Without a ``penalty``, or where it is 0, the loss is the objective.
    title : str, optional
    unit : str, default "iteration"
        What the numbers of the history count.

    Attributes
    ----------
    ax_ : matplotlib Axes
        That of the loss.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> display = LossCurveDisplay({"loss": np.asarray([2.3, 0.6, 0.4])}).plot()
    >>> display.ax_.get_ylabel()
    'training loss (mean per row)'
    """

    history: Mapping[str, HostArray]
    title: str = ""
    unit: str = "iteration"
    ax_: Axes = field(init=False, repr=False)
    figure_: Figure = field(init=False, repr=False)

    @classmethod
    def from_estimator(
        cls,
        clf: LinearClassifier | LinearClassifierCV,
        *,
        data: str = "",
        ax: Axes | None = None,
    ) -> Self:
        """Draw the history of a fitted classifier; the title names the ``data``."""
        best = _fitted(clf)
        history = getattr(best, "history_", None)
        if history is None:
            msg = "clf has no history_ to draw: its weights were given, not fitted"
            raise ValueError(msg)
        unit = "epoch" if getattr(best, "solver_", "") == "sgd" else "iteration"
        return cls(history, _problem_of(best, data), unit).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw, in ``ax`` or in a new figure.

        Raises
        ------
        ValueError
            If the history has no iterations.
        """
        loss = np.asarray(self.history["loss"])
        penalty = np.asarray(self.history.get("penalty", 0.0))
        score = np.asarray(self.history.get("validation_score", ()))
        if not loss.size:
            msg = "history has no iterations to draw"
            raise ValueError(msg)
        self.figure_, self.ax_ = _, ax = _axes(ax)
        iteration = np.arange(1, loss.size + 1)
        few = loss.size <= 30
        penalized = bool((penalty != 0.0).any())
        objective = loss + penalty
        name = "objective: loss + penalty" if penalized else "training loss"
        style: dict[str, Any] = {"marker": "o" if few else "", "ms": 4, "label": name}
        lines = ax.plot(iteration, objective, color=_BLUE, **style)
        if penalized:
            style |= {"marker": "^" if few else "", "label": "loss", "linestyle": ":"}
            lines += ax.plot(iteration, loss, color=_GREEN, **style)
        what = "objective" if penalized else "loss"
        ax.set(xlabel=self.unit, ylabel=f"training {what} (mean per row)")
        ax.set_xlim(0.5, loss.size + max(0.5, 0.03 * loss.size))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        drawn = np.concatenate([objective, loss])
        drawn = drawn[np.isfinite(drawn)]
        if drawn.size and drawn.min() > 0 and np.log10(drawn.max() / drawn.min()) > _DECADES:
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
        if np.isfinite(score).any():
            right = ax.twinx()
            lines += right.plot(
                iteration,
                score,
                color=_VERMILION,
                linestyle="--",
                marker="s" if few else "",
                mfc="none",  # what it covers stays visible
                label="validation accuracy",
            )
            right.set_ylabel("validation accuracy", color=_VERMILION)
            right.spines["top"].set_visible(False)
            ax.yaxis.label.set_color(_BLUE)
        if len(lines) > 1:
            ax.legend(handles=lines, ncols=3, **_ABOVE)
        _set_title(ax, self.title, None if len(lines) == 1 else _OVER_LEGEND)
        return self


@dataclass
class ValidationCurveDisplay:
    """The mean held-out score along α, with its standard error, and the strength chosen.

    Parameters
    ----------
    alphas : sequence of a floats
        ``clf.alphas_``.
    cv_scores : array of shape (a, folds), or (a, rates, folds)
        ``clf.cv_scores_``; of several learning rates, the best of each strength is drawn.
    chosen : float, optional
        ``clf.alpha_``.
    scoring : str
        The name of the score.
    title : str, optional

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.asarray([[0.7, 0.8], [0.8, 0.9]])
    >>> ValidationCurveDisplay([1.0, 0.1], scores, 0.1).plot().ax_.get_ylabel()
    'accuracy of 2 folds'
    """

    alphas: Sequence[float] | HostArray
    cv_scores: HostArray
    chosen: float | None = None
    scoring: str = "accuracy"
    title: str = ""
    ax_: Axes = field(init=False, repr=False)
    figure_: Figure = field(init=False, repr=False)

    @classmethod
    def from_estimator(
        cls, clf: LinearClassifierCV, *, data: str = "", ax: Axes | None = None
    ) -> Self:
        """Draw the scores of a fitted `LinearClassifierCV`; the title names the ``data``."""
        _check_fitted(clf, LinearClassifierCV)
        scoring = clf.scoring if isinstance(clf.scoring, str) else "score"
        title = _problem_of(clf, data)
        return cls(clf.alphas_, clf.cv_scores_, clf.alpha_, scoring, title).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw, in ``ax`` or in a new figure."""
        scores = np.asarray(self.cv_scores)
        if scores.ndim == 3:
            best = np.nan_to_num(scores.mean(axis=2), nan=-np.inf).argmax(axis=1)
            scores = scores[np.arange(len(best)), best]
        folds = scores.shape[1]
        self.figure_, self.ax_ = _, ax = _axes(ax)
        error = scores.std(axis=1, ddof=1) / folds**0.5 if folds > 1 else None
        chosen = _along_alpha(ax, self.alphas, self.chosen)
        mean = ax.errorbar(
            self.alphas,
            scores.mean(axis=1),
            error,
            color=_BLUE,
            marker="o",
            ms=4,
            capsize=3,
            label="mean" if error is None else "mean ± standard error",
        )
        logarithm = OTHER_NAMES.get(self.scoring, self.scoring) == "log_loss"
        name = "negative log loss" if logarithm else self.scoring.replace("_", " ")
        ax.set_ylabel(f"{name} of {folds} folds")
        ax.legend(handles=[mean, *chosen], ncols=2, **_ABOVE)
        _set_title(ax, self.title, _OVER_LEGEND)
        return self


def _along_alpha(
    ax: Axes, alphas: Sequence[float] | HostArray, chosen: float | None
) -> list[Line2D]:
    """Make α the horizontal axis; return the line at the strength chosen, where one was."""
    low, high = np.min(alphas), np.max(alphas)
    span = high / low
    room = max(span**0.04, 2 / span**0.5)  # a factor of 4 in all: ticks that can be told apart
    ax.set(xscale="log", xlim=(low / room, high * room), xlabel=_ALPHA)
    ax.grid(alpha=0.3)
    if chosen is None:
        return []
    style: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1, "zorder": 1}
    return [ax.axvline(chosen, label=f"chosen: α = {chosen:.3g}", **style)]


@dataclass
class CoefficientPathDisplay:
    """The coefficients of one class along α: the largest by name, the others in grey.

    The largest are those at the strength chosen, or at any strength where none was; what is zero
    there stays grey.

    Parameters
    ----------
    alphas : sequence of a floats
        ``clf.alphas_``.
    coefs : array of shape (a, p)
        ``clf.coefs_paths_[:, j, :]``.
    chosen : float, optional
        ``clf.alpha_``.
    feature_names : sequence of p strings, optional
        Numbers by default.
    label : str
        The class.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> coefs = np.asarray([[0.1, 0.0], [0.3, 0.8]])
    >>> display = CoefficientPathDisplay([1.0, 0.1], coefs, feature_names=["age", "height"]).plot()
    >>> [line.get_label() for line in display.ax_.lines]
    ['height', 'age']
    """

    alphas: Sequence[float] | HostArray
    coefs: HostArray
    chosen: float | None = None
    feature_names: Sequence[str] | None = None
    label: str = ""
    ax_: Axes = field(init=False, repr=False)
    figure_: Figure = field(init=False, repr=False)

    @classmethod
    def from_estimator(
        cls,
        clf: LinearClassifierCV,
        *,
        label: Any = None,
        feature_names: Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the paths of a fitted `LinearClassifierCV`.

        Parameters
        ----------
        clf : LinearClassifierCV
            Fitted with ``refit=True``.
        label : optional
            One of ``clf.classes_``; the first by default, the second of two.
        feature_names : sequence of p strings, optional
            ``clf.feature_names_in_`` by default, where there is one.
        ax : matplotlib Axes, optional

        Raises
        ------
        ValueError
            If the classifier does not know the label.
        """
        _check_fitted(clf, LinearClassifierCV)
        best = _fitted(clf)
        classes, coefs = best.classes_.tolist(), _host(clf.coefs_paths_)
        classes = classes[1:] if len(classes) == 2 else classes
        label = classes[0] if label is None else label
        if label not in classes:
            msg = f"label must be one of {', '.join(map(str, classes))}, got {label!r}"
            raise ValueError(msg)
        if feature_names is None:
            feature_names = getattr(best, "feature_names_in_", None)
        path = coefs[:, classes.index(label), :]
        return cls(clf.alphas_, path, clf.alpha_, feature_names, str(label)).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw, in ``ax`` or in a new figure.

        Raises
        ------
        ValueError
            If there are not as many names as features.
        """
        coefs = np.asarray(self.coefs)
        p = coefs.shape[1]
        names = self.feature_names
        names = [f"feature {j}" for j in range(p)] if names is None else list(map(str, names))
        _check_names("feature_names", names, p, "features")
        at = slice(None) if self.chosen is None else np.equal(self.alphas, self.chosen)
        size = np.abs(coefs[at]).max(axis=0)
        largest = np.argsort(-size, kind="stable")[: min(len(_COLOURS), np.count_nonzero(size))]
        self.figure_, self.ax_ = _, ax = _axes(ax, (7.4, 4.0))
        lines = _along_alpha(ax, self.alphas, self.chosen)
        marker = "o" if len(coefs) == 1 else ""  # no line goes through one point
        others = np.delete(coefs, largest, axis=1)
        ax.plot(self.alphas, others, color=_GREY, linewidth=0.8, marker=marker, zorder=1)
        for j, colour, line in zip(largest, _COLOURS, _LINES, strict=False):
            style: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": 2}
            lines += ax.plot(self.alphas, coefs[:, j], marker=marker, label=names[j], **style)
        ax.set_ylabel("coefficient (score per unit of the feature)")
        title = textwrap.fill(f"class {self.label}", 48) if self.label else ""
        ax.set_title(title, parse_math=False)
        legend = ax.legend(lines, " " * len(lines), **_BESIDE)
        for text, line in zip(legend.get_texts(), lines, strict=True):  # names may have _ or $
            text.set(text=textwrap.fill(str(line.get_label()), 28), parse_math=False)
        return self


@dataclass
class ClassTemplatesDisplay:
    """The weights of each class as an image: bright speaks for the class, dark against it.

    A class's score is the inner product of image and template. All templates share one scale.

    Parameters
    ----------
    coef : array of shape (k, p)
        ``clf.coef_``.
    image_shape : tuple
        (height, width), or (height, width, 3) for colours; p is their product.
    display_labels : sequence of k strings
        What to write over each template.
    title : str, optional

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplinear as xl
    >>> clf = xl.LinearClassifier(alpha=1.0).fit(*load_digits(return_X_y=True))
    >>> display = ClassTemplatesDisplay.from_estimator(clf, (8, 8))
    >>> [text.get_text() for text in display.ax_.texts][:3]
    ['0', '1', '2']
    """

    coef: HostArray
    image_shape: tuple[int, ...]
    display_labels: Sequence[str]
    title: str = ""
    ax_: Axes = field(init=False, repr=False)
    figure_: Figure = field(init=False, repr=False)

    @classmethod
    def from_estimator(
        cls,
        clf: LinearClassifier | LinearClassifierCV,
        image_shape: tuple[int, ...],
        *,
        display_labels: Sequence[str] | None = None,
        data: str = "",
        ax: Axes | None = None,
    ) -> Self:
        """Draw the templates of a fitted classifier; of two classes, the one of the second.

        Parameters
        ----------
        clf : LinearClassifier or LinearClassifierCV
        image_shape : tuple
        display_labels : sequence of strings, optional
            ``clf.classes_`` by default.
        data : str, optional
            Its name, for the title.
        ax : matplotlib Axes, optional
        """
        best = _fitted(clf)
        coef = _host(best.coef_)
        classes = best.classes_
        names = [str(name) for name in (classes if display_labels is None else display_labels)]
        names = names[-len(coef) :] if len(names) == len(classes) else names
        return cls(coef, image_shape, names, _problem_of(best, data)).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw, in ``ax`` or in a new figure.

        Raises
        ------
        ValueError
            If the templates are no images of this shape.
        """
        coef, (k, p) = np.asarray(self.coef), np.shape(self.coef)
        image = tuple(np.atleast_1d(self.image_shape).tolist())
        if math.prod(image) != p or len(image) < 2 or image[2:] not in ((), (3,)):
            msg = (
                f"image_shape={self.image_shape} does not have the {p} pixels of a template: "
                "give (height, width), or (height, width, 3)"
            )
            raise ValueError(msg)
        _check_names("display_labels", self.display_labels, k, "templates")
        height, width, *channels = image
        columns = min(k, math.ceil((2 * k * height / width) ** 0.5))  # a wall wider than high
        rows, gap = math.ceil(k / columns), max(1, width // 14)
        pixels = columns * (width + gap) - gap
        inches = min(max(5.0, min(columns, 10.0)), 7.0 * pixels / (rows * height))
        if ax is not None:
            inches = ax.bbox.width / ax.figure.dpi
        per_inch = pixels / inches
        letters = max(2, int(14 * width / per_inch))  # what fits over a template
        names = [
            textwrap.fill(str(name), letters, max_lines=3, placeholder="…")
            for name in self.display_labels
        ]
        lines = 1 + max(name.count("\n") for name in names)
        title = math.ceil((0.06 + 0.15 * lines) * per_inch)
        down, across = height + title, width + gap
        over = 0.3 if self.title else 0.0
        size = (max(4.0, 0.4 + inches), 0.9 + over + rows * down / per_inch)
        self.figure_, self.ax_ = figure, ax = _axes(ax, size)
        limit = float(np.max(np.abs(coef), initial=0.0, where=np.isfinite(coef))) or 1.0
        wall = np.full((rows * down, pixels, *channels), np.nan)
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": "small"}
        for j, (template, name) in enumerate(zip(coef, names, strict=True)):
            top, left = (j // columns) * down + title, (j % columns) * across
            wall[top : top + height, left : left + width] = template.reshape(image)
            x, y = left + (width - 1) / 2, top - 0.5 - 0.04 * per_inch
            ax.text(x, y, name, parse_math=False, **style)
        ax.axis("off")
        _set_title(ax, self.title)
        unit = "score per unit of brightness"
        if channels:
            ax.imshow(np.nan_to_num(0.5 + 0.5 * wall / limit, nan=1.0))
            style |= {"va": "top", "transform": ax.transAxes}
            scale = f"weights of red, green, blue ({unit}):\ngrey is 0, full is {limit:.2g}"
            ax.text(0.5, -0.02, f"{scale}, none is −{limit:.2g}", **style)
            return self
        picture = ax.imshow(wall, cmap="cividis", vmin=-limit, vmax=limit)
        bar = figure.colorbar(
            picture, ax=ax, location="bottom", shrink=0.9, aspect=40, ticks=MaxNLocator(7)
        )
        bar.set_label(f"weight ({unit})")
        return self


@dataclass
class GradientCheckDisplay:
    """The largest relative error of every gradient check, beside what passes.

    Parameters
    ----------
    checks : mapping of str to GradientCheck
        What `xplinear.check_gradient` returned, by the name to show.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> import xplinear as xl
    >>> loss, Z, y = xl.losses.SoftmaxLoss(), np.asarray([[3.2, 5.1, -1.7]]), np.asarray([0])
    >>> display = GradientCheckDisplay({"softmax": xl.check_gradient(loss, Z, y)}).plot()
    >>> display.ax_.get_xlabel()
    'largest relative error of the gradient'
    """

    checks: Mapping[str, GradientCheck]
    ax_: Axes = field(init=False, repr=False)
    figure_: Figure = field(init=False, repr=False)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw, in ``ax`` or in a new figure.

        Raises
        ------
        TypeError, ValueError
            If the checks are no mapping, or there are none.
        """
        if not isinstance(self.checks, Mapping):
            kind = type(self.checks).__name__
            msg = f"checks must be a mapping of names to what check_gradient returned, got {kind}"
            raise TypeError(msg)
        if not self.checks:
            msg = "there are no checks to draw"
            raise ValueError(msg)
        checks = list(self.checks.values())
        width = max(6.4, 4.0 + 0.085 * max(len(name) for name in self.checks))
        self.figure_, self.ax_ = _, ax = _axes(ax, (width, 1.4 + 0.28 * len(checks)))
        exact = np.asarray([check.max_relative_error for check in checks])
        errors = np.maximum(np.nan_to_num(exact, nan=1.0, posinf=1.0), _SMALLEST_ERROR)
        passed = np.asarray([check.passed for check in checks])
        place = np.arange(len(checks))
        for wanted, colour, marker, name in (
            (True, _BLUE, "o", "passed"),
            (False, _VERMILION, "X", "failed"),
        ):
            chosen = passed == wanted
            if chosen.any():
                ax.plot(errors[chosen], place[chosen], marker, color=colour, label=name)
        ax.vlines(
            [check.tolerance for check in checks],
            place - 0.5,
            place + 0.5,
            color="black",
            linewidth=1,
            label="tolerance",
        )
        ax.set(xscale="log", xlabel="largest relative error of the gradient")
        for error, x, y in zip(exact, errors, place, strict=True):
            if error != x:  # drawn where it is not
                ax.annotate(f"{error:g}", (x, y), (6, 0), textcoords="offset points", va="center")
        ax.set_yticks(place, list(self.checks), parse_math=False)
        ax.set_ylim(len(checks) - 0.4, -0.6)
        ax.grid(alpha=0.3)
        ax.legend(ncols=3, **_ABOVE)
        _set_title(ax, "gradients against numerical differences", _OVER_LEGEND)
        return self


@dataclass
class ThroughputDisplay:
    """Examples × models per second against the number of models, a line per backend.

    One panel per size of the problem and of the batch; lines that rise show what a model gains
    from a stack.

    Parameters
    ----------
    measurements : sequence of Measurement
        What `xplinear.bench.measure` yields; cells that were skipped are not drawn.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from xplinear.bench import Ceilings, Cell, Measurement
    >>> cell = Cell(batch=64, p=784, k=10, m=1)
    >>> rows = [Measurement("numpy", "cpu", cell, Ceilings(1e10, 1e11), 640, 9, 1e-4)]
    >>> ThroughputDisplay(rows).plot().axes_[0, 0].get_title()
    'batch 64, p = 784, k = 10'
    """

    measurements: Sequence[Measurement]
    axes_: HostArray = field(init=False, repr=False)
    figure_: Figure = field(init=False, repr=False)

    def plot(self) -> Self:
        """Draw in a new figure: there are several panels.

        Raises
        ------
        ValueError
            If nothing was measured.
        """
        drawn = [row for row in self.measurements if not row.reason]
        if not drawn:
            msg = "nothing was measured that could be drawn"
            raise ValueError(msg)
        shapes = sorted({row.cell[1:3] for row in drawn})
        batches = sorted({row.cell.batch for row in drawn}, key=lambda batch: batch or np.inf)
        backends = list(dict.fromkeys(row.backend for row in drawn))
        models = sorted({row.cell.m for row in drawn})
        ticks = [m for before, m in pairwise([0, *models]) if m >= 1.5 * before]  # room for each
        self.figure_, self.axes_ = figure, axes = plt.subplots(
            len(shapes),
            len(batches),
            figsize=(3.2 * len(batches) + 1.6, 2.8 * len(shapes)),
            sharex=True,
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for ax, (shape, batch) in zip(axes.flat, product(shapes, batches), strict=True):
            for name, colour, marker, line in zip(
                backends, cycle(_COLOURS), cycle(_MARKERS), cycle(_LINES)
            ):
                points = sorted(
                    (row.cell.m, row.cell.m * row.examples_per_second)
                    for row in drawn
                    if (row.backend, row.cell[:3]) == (name, (batch, *shape))
                )
                xy = tuple(zip(*points, strict=True)) or ((), ())
                ax.plot(*xy, color=colour, marker=marker, linestyle=line, ms=5, label=name)
            rows = "full batch" if batch is None else f"batch {batch:,}"
            ax.set(xscale="log", yscale="log")
            ax.set_title(f"{rows}, p = {shape[0]:,}, k = {shape[1]:,}", fontsize="medium")
            ax.set_xticks(ticks, [f"{m}" for m in ticks])
            ax.xaxis.minorticks_off()
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.3)
        figure.suptitle("SGD and full batches, softmax with L2 penalty, float32", fontsize="medium")
        figure.supxlabel("models in the stack", fontsize="medium")
        figure.supylabel("examples × models per second", fontsize="medium")
        handles = axes.flat[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right center", frameon=False, handlelength=3)
        return self
