"""Sparse rows of the format of SVMlight and LIBSVM, made dense."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.datasets import load_svmlight_file

from xplinear.datasets.labels import EXACT
from xplinear.datasets.reader import DAMAGED, DENSE_BYTES, File, Parts, Request, no_target

__all__ = ["read_svmlight"]


def read_svmlight(file: File, request: Request) -> Parts:
    """Read rows of a label and index:value pairs."""
    no_target(str(file), request.target)
    read: Any = load_svmlight_file
    try:
        with file.open() as lines:
            X, y = read(lines, zero_based=True)
    except (*DAMAGED, OverflowError) as error:
        msg = (
            f"{str(file)!r} cannot be read as svmlight, whose lines are a label and index:value "
            f"pairs: {error}"
        )
        raise ValueError(msg) from error
    X, index_base = _counted(file, X, request)
    n, p = X.shape
    if X.dtype.itemsize * n * p > DENSE_BYTES:
        msg = (
            f"{str(file)!r} is sparse and too large to be made dense: {n} × {p} values take "
            f"{X.dtype.itemsize * n * p / 2**30:.1f} GiB, {X.nnz} are not zero; select features"
        )
        raise ValueError(msg)
    if np.abs(y).max(initial=0.0) >= EXACT:
        msg = (
            f"{str(file)!r} has labels of 2**53 or more, which this format rounds, such as "
            f"{y[np.abs(y).argmax()]:.0f}; use .csv or .parquet"
        )
        raise ValueError(msg)
    whole = y.size and (y == np.floor(y)).all()
    return Parts(X.toarray(), y.astype(np.int64) if whole else y, index_base=index_base)


def _counted(file: File, X: Any, request: Request) -> tuple[Any, int]:
    """Return rows of the features a model expects, and the number of the first one."""
    p, base = request.n_features, request.index_base
    lowest, end = int(X.indices.min(initial=1)), X.shape[1]
    if base is None:
        base = int(lowest > 0)
        if p is not None and lowest > 0 and end <= p:
            message = (
                f"{str(file)!r} has neither a feature 0 nor a feature {p}: its features are taken "
                "as counted from 1"
            )
            warnings.warn(message, UserWarning, stacklevel=2)
    elif lowest < base:
        msg = (
            f"{str(file)!r} counts features from 0, the file the model was trained on from 1: "
            "count from 1"
        )
        raise ValueError(msg)
    if p is not None and end > p + base:
        msg = (
            f"{str(file)!r} has a feature {end - 1}, the model has {p} features, counted from "
            f"{base}"
        )
        raise ValueError(msg)
    X = X[:, base:]
    if p is not None:
        X.resize((X.shape[0], p))
    return X, base
