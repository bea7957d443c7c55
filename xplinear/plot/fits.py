"""How a fit went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from xplinear.estimator.classifier import LinearClassifier
from xplinear.model_selection.cross_validation import LinearClassifierCV
from xplinear.namespace import HostArray
from xplinear.plot import drawing

__all__ = ["LossCurveDisplay"]

_DECADES = 1.0  # a loss that spans more than this is drawn on a logarithmic axis


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
    ax_: drawing.Axes = field(init=False, repr=False)
    figure_: drawing.Figure = field(init=False, repr=False)

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
        unit = "epoch" if getattr(best, "solver_", "") == "sgd" else "iteration"
        return cls(history, drawing.problem_of(best, data), unit).plot(ax)

    def plot(self, ax: drawing.Axes | None = None) -> Self:
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
            lines += right.plot(
                iteration,
                score,
                color=drawing.VERMILION,
                linestyle="--",
                marker="s" if few else "",
                mfc="none",  # what it covers stays visible
                label="validation accuracy",
            )
            right.set_ylabel("validation accuracy", color=drawing.VERMILION)
            right.spines["top"].set_visible(False)
            ax.yaxis.label.set_color(drawing.BLUE)
        if len(lines) > 1:
            ax.legend(handles=lines, ncols=3, **drawing.ABOVE)
        drawing.set_title(ax, self.title, None if len(lines) == 1 else drawing.OVER_LEGEND)
        return self
