"""Pictures; the only file that imports matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

try:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    _MESSAGE = "pictures need matplotlib: pip install 'xplinear[plot]'"
    raise ImportError(_MESSAGE) from error

__all__ = ["learning_curve"]

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
    if path is not None:
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.savefig(path, dpi=150)
        if created is not None:
            plt.close(created)
    return ax
