"""Fitted classifiers as ONNX files; the only file that imports onnx."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils.validation import check_is_fitted

import xplinear
from xplinear.backends import backend_of
from xplinear.estimator import is_probabilistic

if TYPE_CHECKING:
    from xplinear.estimator import LinearClassifier

try:
    from onnx import TensorProto, checker, helper, numpy_helper, save_model
except ImportError as error:
    _MESSAGE = "ONNX files need onnx: pip install 'xplinear[onnx]'"
    raise ImportError(_MESSAGE) from error

__all__ = ["to_onnx"]

# Of 2021: every operator used here is older, and programs read what is older than they are.
_OPSET, _IR_VERSION = 15, 8


def to_onnx(clf: LinearClassifier, path: str | os.PathLike[str]) -> None:
    """Write a fitted classifier to an ONNX file; see `LinearClassifier.to_onnx`.

    The graph is Gemm → ArgMax → Gather for the labels, and Softmax for the probabilities.
    """
    check_is_fitted(clf)
    classes = backend_of(clf.classes_).to_host(clf.classes_)
    if classes.dtype.kind in "iu":
        classes = classes.astype(np.int64)
    elif classes.dtype.kind in "UO":
        classes = classes.astype(object)
    if classes.dtype.kind == "O" and not all(isinstance(label, str) for label in classes):
        msg = "labels must be numbers or strings to be written to ONNX; fit with such labels"
        raise TypeError(msg)
    W, b = (clf.backend_.to_host(a).astype(np.float32) for a in clf.params_)
    W, b = W[:, 0, :], b[0]
    if b.shape[0] == 1:  # two classes: scores (−z/2, z/2)
        W, b = np.concatenate([-0.5 * W, 0.5 * W], axis=1), np.concatenate([-0.5 * b, 0.5 * b])

    values, last = "scores", []
    if _has_probabilities(clf):
        values = "probabilities"
        last = [helper.make_node("Softmax", ["scores"], [values], axis=1)]
    labels = numpy_helper.from_array(np.ascontiguousarray(classes), "classes")
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["X", "W", "b"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["code"], axis=1, keepdims=0),
            helper.make_node("Gather", ["classes", "code"], ["label"]),
            *last,
        ],
        "LinearClassifier",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", W.shape[0]])],
        [
            helper.make_tensor_value_info("label", labels.data_type, ["n"]),
            helper.make_tensor_value_info(values, TensorProto.FLOAT, ["n", len(classes)]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in (("W", W), ("b", b))]
        + [labels],
    )
    model = helper.make_model(
        graph,
        producer_name="xplinear",
        producer_version=xplinear.__version__,
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    checker.check_model(model)
    save_model(model, os.fspath(path))


def _has_probabilities(clf: LinearClassifier) -> bool:
    try:
        return is_probabilistic(clf)
    except AttributeError:
        return False
