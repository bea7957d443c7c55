"""Pictures; the only file that imports matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

try:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    _MESSAGE = "pictures need matplotlib: pip install 'xplinear[plot]'"
    raise ImportError(_MESSAGE) from error

__all__ = ["learning_curve", "validation_curve"]

# Distinct for colour-blind readers; the line styles keep them apart in grey.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
_DECADES = 1.0  # a loss that spans more than this is drawn on a logarithmic axis


def learning_curve(
    history: Mapping[str, np.ndarray[Any, Any]],
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss, and the validation accuracy where there is one, per iteration.

    Parameters
    ----------
    history : mapping
        ``clf.history_``.
    path : path-like, optional
        Write the picture there, in the format of the suffix.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        That of the loss.

    Raises
    ------
    ValueError
        If the history has no iterations.

    Examples
    --------
    >>> import numpy as np
    >>> ax = learning_curve({"loss": np.asarray([2.3, 0.6, 0.4])})
    >>> ax.get_ylabel()
    'training loss'
    """
    loss = np.asarray(history["loss"])
    score = np.asarray(history.get("validation_score", ()))
    if not loss.size:
        msg = "history has no iterations to draw"
        raise ValueError(msg)
    created = None
    if ax is None:
        created, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    iteration = np.arange(1, loss.size + 1)
    marker = "o" if loss.size <= 30 else ""
    lines = ax.plot(iteration, loss, color=_BLUE, marker=marker, ms=4, label="training loss")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="iteration (epoch of SGD)", ylabel="training loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if loss.min() > 0 and np.log10(loss.max() / loss.min()) > _DECADES:
        ax.set_yscale("log")
    ax.grid(alpha=0.3)
    if np.isfinite(score).any():
        right = ax.twinx()
        lines += right.plot(
            iteration,
            score,
            color=_VERMILION,
            linestyle="--",
            marker="s" if marker else "",
            ms=4,
            label="validation accuracy",
        )
        right.set_ylabel("validation accuracy", color=_VERMILION)
        right.spines["top"].set_visible(False)
        ax.yaxis.label.set_color(_BLUE)
        ax.legend(handles=lines, loc="center right", frameon=False)
    _write(ax, path, created)
    return ax


def validation_curve(
    alphas: Sequence[float] | np.ndarray[Any, Any],
    cv_scores: np.ndarray[Any, Any],
    chosen: float | None = None,
    *,
    scoring: str = "accuracy",
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean held-out score along α, with its standard error, and the strength chosen.

    Parameters
    ----------
    alphas : sequence of a floats
        ``clf.alphas_``.
    cv_scores : array of shape (a, folds)
        ``clf.cv_scores_``.
    chosen : float, optional
        ``clf.alpha_``.
    scoring : str
        The name of the score.
    path : path-like, optional
        Write the picture there, in the format of the suffix.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Examples
    --------
    >>> import numpy as np
    >>> ax = validation_curve([1.0, 0.1], np.asarray([[0.7, 0.8], [0.8, 0.9]]), 0.1)
    >>> ax.get_ylabel()
    'accuracy of 2 folds'
    """
    cv_scores = np.asarray(cv_scores)
    folds = cv_scores.shape[1]
    created = None
    if ax is None:
        created, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    mean = cv_scores.mean(axis=1)
    error = cv_scores.std(axis=1, ddof=1) / folds**0.5 if folds > 1 else None
    ax.errorbar(
        alphas,
        mean,
        error,
        color=_BLUE,
        marker="o",
        ms=4,
        capsize=2,
        elinewidth=1,
        label="mean" if error is None else "mean ± standard error",
    )
    if chosen is not None:
        ax.axvline(chosen, color=_VERMILION, linestyle="--", label=f"chosen: α = {chosen:.2g}")
    ax.set(xscale="log", xlabel="α (strength of the penalty)", ylabel=f"{scoring} of {folds} folds")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    _write(ax, path, created)
    return ax


def _write(ax: Axes, path: str | os.PathLike[str] | None, created: Figure | None) -> None:
    """Write the picture, if a path is given; close the figure, if it was made for it."""
    if path is None:
        return
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=150)
    if created is not None:
        plt.close(created)
