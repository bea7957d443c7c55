"""Pictures; the only file that imports matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from xplinear.bench import Measurement

try:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    _MESSAGE = "pictures need matplotlib: pip install 'xplinear[plot]'"
    raise ImportError(_MESSAGE) from error

__all__ = ["learning_curve", "throughput", "validation_curve"]

# Distinct for colour-blind readers; the line styles keep them apart in grey.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
_COLOURS = (_BLUE, _VERMILION, "#009E73", "#CC79A7", "#000000")  # of Okabe and Ito
_MARKERS = "osD^v"
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


def throughput(
    measurements: Sequence[Measurement], path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draw examples × models per second against the number of models, a line per backend.

    One panel per size of the problem and of the batch; lines that rise show what a model gains
    from a stack.

    Parameters
    ----------
    measurements : sequence of Measurement
        What `xplinear.bench.measure` yields; cells that were skipped are not drawn.
    path : path-like, optional
        Write the picture there, in the format of the suffix.

    Raises
    ------
    ValueError
        If nothing was measured.

    Examples
    --------
    >>> from xplinear.bench import Ceilings, Cell, Measurement
    >>> cell = Cell(batch=64, p=784, k=10, m=1)
    >>> figure = throughput([Measurement("numpy", "cpu", cell, Ceilings(1e10, 1e11), 640, 9, 1e-4)])
    >>> figure.axes[0].get_title()
    'batch 64, p = 784, k = 10'
    """
    drawn = [row for row in measurements if not row.reason]
    if not drawn:
        msg = "nothing was measured that could be drawn"
        raise ValueError(msg)
    shapes = sorted({row.cell[1:3] for row in drawn})
    batches = sorted({row.cell.batch for row in drawn}, key=lambda batch: batch or np.inf)
    backends = list(dict.fromkeys(row.backend for row in drawn))
    size = (3.2 * len(batches) + 1.6, 2.8 * len(shapes))
    figure, axes = plt.subplots(
        len(shapes),
        len(batches),
        figsize=size,
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for ax, (shape, batch) in zip(axes.flat, product(shapes, batches), strict=True):
        for name, colour, marker in zip(backends, cycle(_COLOURS), cycle(_MARKERS)):
            points = sorted(
                (row.cell.m, row.cell.m * row.examples_per_second)
                for row in drawn
                if (row.backend, row.cell[:3]) == (name, (batch, *shape))
            )
            xy = tuple(zip(*points, strict=True)) or ((), ())
            ax.plot(*xy, color=colour, marker=marker, ms=4, label=name)
        rows = "full batch" if batch is None else f"batch {batch:,}"
        models = sorted({row.cell.m for row in drawn})
        ax.set(xscale="log", yscale="log", title=f"{rows}, p = {shape[0]}, k = {shape[1]}")
        ax.set_xticks(models, [f"{m}" for m in models])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    figure.supxlabel("models in the stack")
    figure.supylabel("examples × models per second")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside right center")
    if path is not None:
        figure.savefig(path, dpi=150)
        plt.close(figure)
    return figure


def _write(ax: Axes, path: str | os.PathLike[str] | None, created: Figure | None) -> None:
    """Write the picture, if a path is given; close the figure, if it was made for it."""
    if path is None:
        return
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=150)
    if created is not None:
        plt.close(created)
