"""Classifiers out of files."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from xplinear.arguments import PATH
from xplinear.backends import Backend, get_backend
from xplinear.estimator.attributes import keep
from xplinear.estimator.classifier import LinearClassifier
from xplinear.formats.fitted import Fitted
from xplinear.formats.model_file import read

__all__ = ["load"]


def load(path: str | os.PathLike[str], backend: str | Backend = "numpy") -> LinearClassifier:
    """Read a classifier that `save` wrote.

    A model that the command line trained on a table names its features as they were prepared, such
    as ``colour=red``; it refuses a table that is not: ``xplinear predict`` prepares it.

    Parameters
    ----------
    path : path-like
    backend : str or Backend, default "numpy"
        Where the classifier is to live.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, was not written by xplinear, or by a newer version.
    """
    PATH("path", path)
    clf = read(path, _classifier)
    target = get_backend(backend)
    return clf if target.name == "numpy" else clf.to(target)


def _classifier(
    fitted: Fitted, settings: dict[str, Any], content: dict[str, Any]
) -> LinearClassifier:
    if content["preparation"] is not None:  # of the command line: others need no time
        from xplinear.datasets.preparation import Preparation

        # A table that was not prepared has other columns, and is refused.
        preparation = Preparation.from_record(content["preparation"])
        expected = preparation.expected
        if expected is not None and not expected.by_place:
            names = np.asarray(preparation.feature_names, dtype=object)
            fitted = replace(fitted, feature_names=names)
    clf = LinearClassifier.from_params(fitted.params, fitted.classes, **settings)
    keep(clf, fitted)
    return clf
