"""How a fit went, and what strengths of the penalty give."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from xplinear.estimator.classifier import LinearClassifier
from xplinear.model_selection.cross_validation import LinearClassifierCV
from xplinear.model_selection.scoring import OTHER_NAMES
from xplinear.namespace import HostArray
from xplinear.plot import drawing
from xplinear.solvers import SOLVERS
from xplinear.solvers.protocol import declared

__all__ = ["CoefficientPathDisplay", "LossCurveDisplay", "ValidationCurveDisplay"]

_DECADES = 1.0  # a loss that spans more than this is drawn on a logarithmic axis

_GREY = "#D0D0D0"

_ALPHA = "α (strength of the penalty)"

_BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}


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

    @classmethod
    def from_estimator(
        cls,
        clf: LinearClassifier | LinearClassifierCV,
        *,
        data: str = "",
        ax: drawing.Axes | None = None,
    ) -> Self:
        """Draw the history of a fitted classifier; the title names the ``data``."""
        best = drawing.fitted(clf)
        history = getattr(best, "history_", None)
        if history is None:
            msg = "clf has no history_ to draw: its weights were given, not fitted"
            raise ValueError(msg)
        unit = declared(SOLVERS.get(getattr(best, "solver_", "")), "unit")
        return cls(history, drawing.title_of(best, data), unit).plot(ax)

    def plot(self, ax: drawing.Axes | None = None) -> Self:
        """Draw, in ``ax`` or in a new figure.

        Raises
        ------
        ValueError
            If the history has no iterations.
        """
        loss, penalty, score = (
            np.asarray(self.history.get(name, default))
            for name, default in (("loss", ()), ("penalty", 0.0), ("validation_score", ()))
        )
        if loss.ndim > 1:  # of many labels the means
            loss, penalty, score = (
                a.mean(axis=1) if a.ndim > 1 else a for a in (loss, penalty, score)
            )
        if not loss.size:
            msg = "history has no iterations to draw"
            raise ValueError(msg)
        self.figure_, self.ax_ = _, ax = drawing.axes_of(ax)
        iteration = np.arange(1, loss.size + 1)
        few = loss.size <= 30
        penalized = bool((penalty != 0.0).any())
        objective = loss + penalty
        name = "objective: loss + penalty" if penalized else "training loss"
        style: dict[str, Any] = {"marker": "o" if few else "", "ms": 4, "label": name}
        lines = ax.plot(iteration, objective, color=drawing.BLUE, **style)
        if penalized:
            style |= {"marker": "^" if few else "", "label": "loss", "linestyle": ":"}
            lines += ax.plot(iteration, loss, color=drawing.GREEN, **style)
        what = "objective" if penalized else "loss"
        ax.set(xlabel=self.unit, ylabel=f"training {what} (mean per row)")
        ax.set_xlim(0.5, loss.size + max(0.5, 0.03 * loss.size))
        ax.xaxis.set_major_locator(drawing.ticks(10, integer=True, min_n_ticks=1))
        drawn = np.concatenate([objective, loss])
        drawn = drawn[np.isfinite(drawn)]
        if drawn.size and drawn.min() > 0 and np.log10(drawn.max() / drawn.min()) > _DECADES:
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
        if np.isfinite(score).any():
            right = ax.twinx()
            what = "validation accuracy"
            # Not filled: what a marker covers stays visible.
            style = {"marker": "s" if few else "", "mfc": "none", "label": what, "linestyle": "--"}
            lines += right.plot(iteration, score, color=drawing.VERMILION, **style)
            right.set_ylabel(what, color=drawing.VERMILION)
            right.spines["top"].set_visible(False)
            ax.yaxis.label.set_color(drawing.BLUE)
        drawing.set_title(ax, self.title, lines if len(lines) > 1 else ())
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

    @classmethod
    def from_estimator(
        cls, clf: LinearClassifierCV, *, data: str = "", ax: drawing.Axes | None = None
    ) -> Self:
        """Draw the scores of a fitted `LinearClassifierCV`; the title names the ``data``."""
        drawing.check_fitted(clf, LinearClassifierCV)
        scoring = clf.scoring if isinstance(clf.scoring, str) else "score"
        title = drawing.title_of(clf, data)
        scores: Any = clf.cv_scores_
        chosen: Any = clf.alpha_
        if np.ndim(chosen):  # of many labels
            scores = np.nanmean(scores, axis=2) if scores.ndim > 2 else scores
            chosen = None if clf.alpha_per_label else float(clf.alphas_[clf.best_index_])
        return cls(clf.alphas_, scores, chosen, scoring, title).plot(ax)

    def plot(self, ax: drawing.Axes | None = None) -> Self:
        """Draw, in ``ax`` or in a new figure."""
        scores = np.asarray(self.cv_scores)
        if scores.ndim == 3:
            best = np.nan_to_num(scores.mean(axis=2), nan=-np.inf).argmax(axis=1)
            scores = scores[np.arange(len(best)), best]
        folds = scores.shape[1]
        self.figure_, self.ax_ = _, ax = drawing.axes_of(ax)
        error = scores.std(axis=1, ddof=1) / folds**0.5 if folds > 1 else None
        chosen = _along_alpha(ax, self.alphas, self.chosen)
        label = "mean" if error is None else "mean ± standard error"
        style: dict[str, Any] = {"color": drawing.BLUE, "marker": "o", "ms": 4, "capsize": 3}
        mean = ax.errorbar(self.alphas, scores.mean(axis=1), error, label=label, **style)
        logarithm = OTHER_NAMES.get(self.scoring, self.scoring) == "log_loss"
        name = "negative log loss" if logarithm else self.scoring.replace("_", " ")
        ax.set_ylabel(f"{name} of {folds} folds")
        drawing.set_title(ax, self.title, [mean, *chosen], ncols=2)
        return self


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

    @classmethod
    def from_estimator(
        cls,
        clf: LinearClassifierCV,
        *,
        label: Any = None,
        feature_names: Sequence[str] | None = None,
        ax: drawing.Axes | None = None,
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
        drawing.check_fitted(clf, LinearClassifierCV)
        best = drawing.fitted(clf)
        if not hasattr(clf, "coefs_paths_"):
            msg = "of many labels, or classes against the rest, only the strength chosen is fitted"
            raise ValueError(msg)
        classes, coefs = best.classes_.tolist(), drawing.host(clf.coefs_paths_)
        classes = classes[1:] if len(classes) == 2 else classes
        label = classes[0] if label is None else label
        if label not in classes:
            msg = f"label must be one of {', '.join(map(str, classes))}, got {label!r}"
            raise ValueError(msg)
        if feature_names is None:
            feature_names = getattr(best, "feature_names_in_", None)
        path = coefs[:, classes.index(label), :]
        return cls(clf.alphas_, path, float(clf.alpha_), feature_names, str(label)).plot(ax)

    def plot(self, ax: drawing.Axes | None = None) -> Self:
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
        drawing.check_names("feature_names", names, p, "features")
        at = slice(None) if self.chosen is None else np.equal(self.alphas, self.chosen)
        size = np.abs(coefs[at]).max(axis=0)
        most = min(len(drawing.COLOURS), np.count_nonzero(size))
        largest = np.argsort(-size, kind="stable")[:most]
        self.figure_, self.ax_ = _, ax = drawing.axes_of(ax, (7.4, 4.0))
        lines = _along_alpha(ax, self.alphas, self.chosen)
        marker = "o" if len(coefs) == 1 else ""  # no line goes through one point
        others = np.delete(coefs, largest, axis=1)
        ax.plot(self.alphas, others, color=_GREY, linewidth=0.8, marker=marker, zorder=1)
        for j, colour, line in zip(largest, drawing.COLOURS, drawing.LINES, strict=False):
            style: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": 2}
            lines += ax.plot(self.alphas, coefs[:, j], marker=marker, label=names[j], **style)
        ax.set_ylabel("coefficient (score per unit of the feature)")
        title = textwrap.fill(f"class {self.label}", 48) if self.label else ""
        ax.set_title(title, parse_math=False)
        legend = ax.legend(lines, " " * len(lines), **_BESIDE)
        for text, line in zip(legend.get_texts(), lines, strict=True):  # names may have _ or $
            text.set(text=textwrap.fill(str(line.get_label()), 28), parse_math=False)
        return self


def _along_alpha(
    ax: drawing.Axes, alphas: Sequence[float] | HostArray, chosen: float | None
) -> list[drawing.Line2D]:
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
