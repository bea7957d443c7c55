"""What is predicted of rows, block by block, in the library and on the device they are of."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xplinear.backends import Backend, backend_of
from xplinear.backends.sparse import ScipyRows, is_scipy
from xplinear.data import Block, data_of
from xplinear.data.blocks import joined
from xplinear.data.partitions import is_collection
from xplinear.data.remote import is_remote
from xplinear.data.sources import remote_rows
from xplinear.estimator.collected import lazily
from xplinear.estimator.labels import labels_on
from xplinear.estimator.standardize import column_bounds, with_full_columns
from xplinear.estimator.validation import check_features, check_width
from xplinear.formats.fitted import Kind, stack_of
from xplinear.losses.softmax import softmax
from xplinear.namespace import Array, HostArray, Namespace, name_of
from xplinear.objective import Objective, Params, class_scores

__all__ = ["accuracy", "block_scores", "labels_of", "predicted", "rows_on"]


def block_scores(xp: Namespace, block: Block, params: Params) -> Array:
    """Return class scores ``(r, m, k)`` of a block, for `Data.map`."""
    return class_scores(block.rows.scores(*params, xp=xp), xp=xp)


def _block_predicted(method: str, kind: Kind, xp: Namespace, block: Block, params: Params) -> Array:
    """Return what a method of a classifier gives for a block: of labels the codes."""
    Z = block_scores(xp, block, params)
    if kind != "classes":
        return _of_stack(method, kind, xp, Z)
    Z = Z[:, 0, :]
    if method == "predict":
        return xp.argmax(Z, axis=1)
    if method == "predict_proba":
        return softmax(Z, xp=xp)
    if method == "predict_log_proba":
        return _log_softmax(xp, Z)
    return Z[:, 1] - Z[:, 0] if Z.shape[1] == 2 else Z


def _of_stack(method: str, kind: Kind, xp: Namespace, Z: Array) -> Array:
    """Return it by the scores ``(r, m, 2)`` of two-class models, one for each label or class."""
    if method == "predict" and kind == "labels":
        return xp.argmax(Z, axis=2)
    if method in ("predict", "decision_function"):
        own = Z[:, :, 1] - Z[:, :, 0]
        return own if method == "decision_function" else xp.argmax(own, axis=1)
    if kind == "labels":
        return (softmax(Z, xp=xp) if method == "predict_proba" else _log_softmax(xp, Z))[:, :, 1]
    # Each class against the rest, then normalized; in logarithms, as all may be 0.
    log = _log_softmax(xp, _log_softmax(xp, Z)[:, :, 1])
    return xp.exp(log) if method == "predict_proba" else log


def _log_softmax(xp: Namespace, Z: Array) -> Array:
    Z = Z - xp.max(Z, axis=-1, keepdims=True)
    return Z - xp.log(xp.sum(xp.exp(Z), axis=-1, keepdims=True))


def _block_correct(xp: Namespace, block: Block, params: Params) -> tuple[Array]:
    Z = block_scores(xp, block, params)
    y = xp.reshape(block.y, (Z.shape[0], -1))
    correct = xp.astype(xp.argmax(Z, axis=-1) == y, Z.dtype)
    correct = correct if block.s is None else correct * block.s
    return (xp.sum(correct, axis=0),)


def accuracy(objective: Objective, params: Params) -> Array:
    """Return the weighted share ``(m,)`` of the rows whose class has the largest score."""
    static, held = (objective.xp,), objective.m * objective.k
    (correct,) = objective.data.reduce(_block_correct, static, params, scores=held)
    return correct / objective.data.weight_sum


def rows_on(backend: Backend, X: Array, own: Backend) -> Array:
    """Return X on the backend, or on the host where it comes from another library or is sparse.

    Sparse matrices are canonical; rows that are not in memory stay where they are.
    """
    if is_scipy(X):
        return ScipyRows(X)
    if is_remote(X):
        return X
    return backend.asarray(X) if own.xp is backend.xp and own.name != "numpy" else own.fetch(X)


def _check_conversion(X: Array, dtype: Any, backend: Backend) -> None:
    """Raise ValueError if rows in float64 are beyond a model in float32."""
    most = float(backend.xp.finfo(dtype).max)
    wide = most < np.finfo(np.float64).max and name_of(X.dtype) == "float64"
    if wide and not backend.traced(X):
        low, high = column_bounds(X, backend=backend)
        beyond = np.maximum(-low, high) > most
        if beyond.any():
            column = np.flatnonzero(beyond)[0]
            msg = (
                f"X holds values that float32 cannot hold, in which the model computes: column "
                f"{column} goes from {low[column]:g} to {high[column]:g}"
            )
            raise ValueError(msg)


def predicted(clf: Any, X: Any, method: str) -> Array:
    """Return what a method of a fitted classifier gives, in the library of X; codes for labels."""
    check_is_fitted(clf)
    if type(X) is np.ndarray:
        return _predicted(clf, X, method)
    if is_collection(X):
        return lazily(clf, X, method)
    X = remote_rows(X, clf)
    if is_remote(X):
        if X.names is not None:
            check_features(clf, X, reset=False)
        with closing(X.blocks()) as blocks:
            parts = [_predicted(clf, block, method, checked=True) for block in blocks]
        return np.concatenate(parts)
    return _predicted(clf, X, method)


def _predicted(clf: Any, X: Any, method: str, *, checked: bool = False) -> Array:
    """Return it of rows in memory, which may have been checked already."""
    kept, backend, own = vars(clf), clf.backend_, backend_of(X)
    if own.traced(X) and own.xp is backend.xp:
        own = backend  # wherever it will be computed
    moved = own.name != backend.name
    problem = own.refuses(X) if moved and not own.traced(X) else None
    if problem is not None:
        msg = f"X {problem}"
        raise TypeError(msg)
    if moved and (own.name != kept.get("_source", "numpy") or own.traced(X)):
        msg = (
            f"{type(clf).__name__}.{method}() and fit must use the same namespace and device: "
            f"X is on {own.name}, the model on {backend.name}; "
            f"clf.to({own.name!r}) gives a copy of the model there"
        )
        raise ValueError(msg)
    with backend.usual_settings(gradients=True):
        if checked:
            check_width(clf, X)
        else:
            X, _ = check_features(clf, X, reset=False)
        params, standard = kept.get("_shifted") or (clf.params_, None)
        rows = rows_on(backend, X, own)
        wide = (params.b if standard is None else standard.centre).dtype
        _check_conversion(rows, wide, backend)
        if standard is not None:
            bits = backend.xp.finfo(params.W.dtype).bits
            rows = with_full_columns(rows, standard, bits, backend=backend)
        data = data_of(rows, None, None, params.W.dtype, backend=backend)
        kind = kept.get("_kind", "classes")
        parts = data.with_standard(standard).map(
            _block_predicted,
            (method, kind, backend.xp),
            params,
            scores=math.prod(stack_of(kind, clf.classes_)),
        )
        if moved:
            return own.asarray(np.concatenate([backend.to_host(part) for part in parts]))
        return joined(list(parts), backend=backend)


def labels_of(codes: Array, classes: HostArray) -> Array:
    """Return the labels of class codes, in their library where it holds every one exactly.

    What is to be computed of a collection of Dask are labels already.
    """
    if is_collection(codes):
        return codes
    backend = backend_of(codes)
    if backend.name == "numpy":
        return classes[codes]
    labels, near = labels_on(backend, classes), backend.near(codes)
    if labels is not None:
        if isinstance(near, np.ndarray):
            return backend.asarray(classes[near])
        return backend.xp.take(labels, codes, axis=0)
    if backend.traced(codes):
        msg = (
            f"predict cannot be traced: classes_ are {classes.dtype}, which "
            f"{backend.name} does not hold; trace decision_function"
        )
        raise TypeError(msg)
    return classes[backend.to_host(codes)]
