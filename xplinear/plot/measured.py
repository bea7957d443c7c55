"""What was measured: errors of gradients, and how fast each backend is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise, product
from typing import TYPE_CHECKING, Self

import numpy as np

from xplinear.plot import drawing

if TYPE_CHECKING:
    from xplinear.bench import Measurement
    from xplinear.checks.gradients import GradientCheck

__all__ = ["GradientCheckDisplay", "ThroughputDisplay"]

_MARKERS = "osD^vPX"  # more than colours: the pairs repeat late

_SMALLEST_ERROR = 1e-18  # where an error of 0 is drawn on a logarithmic axis


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

    def plot(self, ax: drawing.Axes | None = None) -> Self:
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
        self.figure_, self.ax_ = _, ax = drawing.axes_of(ax, (width, 1.4 + 0.28 * len(checks)))
        exact = np.asarray([check.max_relative_error for check in checks])
        errors = np.maximum(np.nan_to_num(exact, nan=1.0, posinf=1.0), _SMALLEST_ERROR)
        passed = np.asarray([check.passed for check in checks])
        place = np.arange(len(checks))
        for chosen, colour, marker, name in (
            (passed, drawing.BLUE, "o", "passed"),
            (~passed, drawing.VERMILION, "X", "failed"),
        ):
            if chosen.any():
                ax.plot(errors[chosen], place[chosen], marker, color=colour, label=name)
        limits = [check.tolerance for check in checks]
        ax.vlines(limits, place - 0.5, place + 0.5, color="black", linewidth=1, label="tolerance")
        ax.set(xscale="log", xlabel="largest relative error of the gradient")
        for error, x, y in zip(exact, errors, place, strict=True):
            if error != x:  # drawn where it is not
                ax.annotate(f"{error:g}", (x, y), (6, 0), textcoords="offset points", va="center")
        ax.set_yticks(place, list(self.checks), parse_math=False)
        ax.set_ylim(len(checks) - 0.4, -0.6)
        ax.grid(alpha=0.3)
        lines, _ = ax.get_legend_handles_labels()
        drawing.set_title(ax, "gradients against numerical differences", lines)
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
        self.figure_, self.axes_ = figure, axes = drawing.pyplot().subplots(
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
                backends, cycle(drawing.COLOURS), cycle(_MARKERS), cycle(drawing.LINES)
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
