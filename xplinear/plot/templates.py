"""What the weights of each class look like."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from xplinear.estimator.classifier import LinearClassifier
from xplinear.model_selection.cross_validation import LinearClassifierCV
from xplinear.namespace import HostArray
from xplinear.plot import drawing

__all__ = ["ClassTemplatesDisplay"]


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

    @classmethod
    def from_estimator(
        cls,
        clf: LinearClassifier | LinearClassifierCV,
        image_shape: tuple[int, ...],
        *,
        display_labels: Sequence[str] | None = None,
        data: str = "",
        ax: drawing.Axes | None = None,
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
        best = drawing.fitted(clf)
        coef = drawing.host(best.coef_)
        classes = best.classes_
        names = [str(name) for name in (classes if display_labels is None else display_labels)]
        names = names[-len(coef) :] if len(names) == len(classes) else names
        return cls(coef, image_shape, names, drawing.title_of(best, data)).plot(ax)

    def plot(self, ax: drawing.Axes | None = None) -> Self:
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
        drawing.check_names("display_labels", self.display_labels, k, "templates")
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
        self.figure_, self.ax_ = figure, ax = drawing.axes_of(ax, size)
        limit = float(np.max(np.abs(coef), initial=0.0, where=np.isfinite(coef))) or 1.0
        wall = np.full((rows * down, pixels, *channels), np.nan)
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": "small"}
        for j, (template, name) in enumerate(zip(coef, names, strict=True)):
            top, left = (j // columns) * down + title, (j % columns) * across
            wall[top : top + height, left : left + width] = template.reshape(image)
            x, y = left + (width - 1) / 2, top - 0.5 - 0.04 * per_inch
            ax.text(x, y, name, parse_math=False, **style)
        ax.axis("off")
        drawing.set_title(ax, self.title)
        unit = "score per unit of brightness"
        if channels:
            ax.imshow(np.nan_to_num(0.5 + 0.5 * wall / limit, nan=1.0))
            style |= {"va": "top", "transform": ax.transAxes}
            scale = f"weights of red, green, blue ({unit}):\ngrey is 0, full is {limit:.2g}"
            ax.text(0.5, -0.02, f"{scale}, none is −{limit:.2g}", **style)
            return self
        picture = ax.imshow(wall, cmap="cividis", vmin=-limit, vmax=limit)
        bar = figure.colorbar(
            picture, ax=ax, location="bottom", shrink=0.9, aspect=40, ticks=drawing.ticks(7)
        )
        bar.set_label(f"weight ({unit})")
        return self
