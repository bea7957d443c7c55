"""Rows and labels of a data set, and how some of them are held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, cast

import numpy as np
from sklearn.model_selection import train_test_split

from xplinear.backends.sparse import HostRows
from xplinear.namespace import HostArray

__all__ = ["Columns", "Dataset", "holdout"]


class Dataset(NamedTuple):
    """Rows and labels of a data set; what it does not have is None.

    Parameters
    ----------
    X : ndarray, or csr_array of SciPy, of shape (n, p)
        Features, in the dtype they are stored in.
    y : ndarray of shape (n,) or None
        Labels; None only where `load` was told the number of features.
    X_test, y_test : as X and y, or None
        The data set's own test part.
    name : str
    image_shape : tuple of int or None
        What a row looks like as an image.
    names : tuple of str or None
        Names of the features, of a table.
    target : str or None
        Name of the labels' column, of a table.
    texts : mapping from str to sequence of str
        Columns of text that `load` was told to accept: X holds the index of each cell's text.
    index_base : int or None
        Number of the first feature, 0 or 1, of an ``.svm``.
    """

    X: HostRows
    y: HostArray | None
    X_test: HostRows | None = None
    y_test: HostArray | None = None
    name: str = ""
    image_shape: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None
    target: str | None = None
    texts: Mapping[str, Sequence[str]] = MappingProxyType({})
    index_base: int | None = None


class Columns(NamedTuple):
    """What a model expects of a table: features with their texts, and the labels' column.

    A feature that is a number has None for texts.
    """

    texts: Mapping[str, Sequence[str] | None]
    target: str | None

    @property
    def by_place(self) -> bool:
        """Whether columns have no names, but numbers that are their places."""
        names = [*self.texts, *([] if self.target is None else [self.target])]
        return set(names) == {str(j) for j in range(len(names))}


def holdout(dataset: Dataset, fraction: float = 0.25, seed: int = 0) -> Dataset:
    """Hold out a random, stratified part of the rows as the test part.

    Parameters
    ----------
    dataset : Dataset
        Returned as it is if it has a test part already.
    fraction : float, default 0.25
        Share of the rows to hold out.
    seed : int, default 0

    Raises
    ------
    ValueError
        If the fraction is not in (0, 1), or leaves a class out of one of the parts.

    Examples
    --------
    >>> from xplinear.datasets import load
    >>> digits = holdout(load("digits"))
    >>> digits.X.shape, digits.X_test.shape
    ((1347, 64), (450, 64))
    """
    if dataset.X_test is not None:
        return dataset
    if not 0.0 < fraction < 1.0:
        msg = f"fraction must lie between 0 and 1, got {fraction!r}"
        raise ValueError(msg)
    n, y = dataset.X.shape[0], cast(HostArray, dataset.y)
    rows = f"{fraction} of the {n} rows of {dataset.name} with every class in both parts"
    labels, counts = np.unique(y, return_counts=True)
    rare = labels[counts < 2].tolist()
    if rare:
        some = ", ".join(map(repr, rare[:5])) + ", …" * (len(rare) > 5)
        doubtful = dataset.target is not None and 2 * len(rare) > len(labels)
        column = f"; is column {dataset.target!r} that of the labels?" * doubtful
        msg = (
            f"cannot hold out {rows}: {len(rare)} of the {len(labels)} classes have one row, "
            f"{some}; drop them, or train on all rows (--test-fraction 0){column}"
        )
        raise ValueError(msg)
    try:
        X, X_test, y, y_test = train_test_split(
            dataset.X, y, test_size=fraction, stratify=y, random_state=seed
        )
    except ValueError as error:
        msg = (
            f"cannot hold out {rows}, {len(labels)} in all: choose another fraction, or train on "
            "all rows (--test-fraction 0)"
        )
        raise ValueError(msg) from error
    return dataset._replace(X=X, y=y, X_test=X_test, y_test=y_test)
