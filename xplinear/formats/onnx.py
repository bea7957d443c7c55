"""Fitted classifiers as ONNX files; the only file that imports onnx."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplinear.arguments import warn
from xplinear.data import Standard
from xplinear.formats.fitted import Fitted, Kind
from xplinear.formats.writing import check_writable, written
from xplinear.namespace import HostArray
from xplinear.version import VERSION

try:
    from onnx import GraphProto, NodeProto, TensorProto, checker, helper, numpy_helper, save_model
except ImportError as error:
    _MESSAGE = "ONNX files need onnx: pip install 'xplinear[onnx]'"
    raise ImportError(_MESSAGE) from error

__all__ = ["to_onnx"]

# Of 2021: every operator used here is older, and programs read what is older than they are.
_OPSET, _IR_VERSION = 15, 8
_SEEN = 0.01  # of a score: what rounding may move it by without a word
_LARGEST = float(np.finfo(np.float32).max)


def to_onnx(fitted: Fitted, path: str | os.PathLike[str], *, probabilistic: bool) -> None:
    """Write a fitted classifier, on the host, to an ONNX file; see `LinearClassifier.to_onnx`.

    The graph is Gemm → ArgMax → Gather for the labels, and Softmax for the probabilities; of many
    labels Greater and Sigmoid. Before it come Sub and Mul where features must be brought near
    first, as in the classifier itself.
    """
    check_writable(path, [".onnx"], bare=True)
    kind = fitted.kind
    classes = None if kind == "labels" else _labels(fitted.classes)
    params, standard = fitted.near or (fitted.params, None)
    W, b = (a.astype(np.float64) for a in params)
    if standard is not None and standard.centre.ndim > 1:  # each model's own
        W = standard.scale[:, :, None] * W
        b, standard = b - np.sum(standard.centre[:, :, None] * W, axis=0), None
    if kind == "classes":
        W, b = W[:, 0, :], b[0]
    else:  # scores of each label or class against the rest
        W, b = (a[..., 1] - a[..., 0] if a.shape[-1] == 2 else a[..., 0] for a in (W, b))
    first: list[NodeProto] = []
    tensors: dict[str, HostArray] = {}
    if standard is not None:
        if params.W.dtype == np.float64:
            _warn_of_coarse_features(standard, W)
        first, tensors, W, b = _brought_near(standard, W, b)
    exact, W, b = W, np.clip(W, -_LARGEST, _LARGEST).astype(np.float32), b.astype(np.float32)
    if np.abs(W).max() == np.float32(_LARGEST) or (exact.any() and not W.any()):
        msg = (
            "ONNX files take X in float32, which some features or their weights are beyond: scale X"
        )
        raise ValueError(msg)
    if kind == "classes" and b.shape[0] == 1:  # two classes: scores (−z/2, z/2)
        W, b = np.concatenate([-0.5 * W, 0.5 * W], axis=1), np.concatenate([-0.5 * b, 0.5 * b])
    graph = _graph({**tensors, "W": W, "b": b}, classes, first, _values_of(kind, probabilistic))
    model = helper.make_model(
        graph,
        producer_name="xplinear",
        producer_version=VERSION,
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    checker.check_model(model)
    with written(path) as (file,):
        save_model(model, file, format="protobuf")


def _labels(classes: HostArray) -> HostArray:
    """Return labels in a dtype of ONNX."""
    if classes.dtype.kind in "iu":  # which few programs read as anything but int64
        fits = classes.max() <= np.iinfo(np.int64).max
        return classes.astype(np.int64 if fits else np.uint64)
    if classes.dtype.kind in "bf":
        return classes
    if not all(isinstance(label, str) for label in classes):
        msg = "labels must be numbers or strings to be written to ONNX; fit with such labels"
        raise TypeError(msg)
    return classes.astype(object)


def _values_of(kind: Kind, probabilistic: bool) -> list[NodeProto]:
    """Return the nodes that make probabilities of scores, if a model has such."""
    if not probabilistic:
        return []
    if kind == "labels":
        return [helper.make_node("Sigmoid", ["scores"], ["probabilities"])]
    if kind == "classes":
        return [helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1)]
    # Each class against the rest, then normalized; in logarithms, as all may be 0.
    return [
        helper.make_node("Neg", ["scores"], ["against"]),
        helper.make_node("Softplus", ["against"], ["surprise"]),
        helper.make_node("Neg", ["surprise"], ["log"]),
        helper.make_node("Softmax", ["log"], ["probabilities"], axis=1),
    ]


def _graph(
    tensors: dict[str, HostArray],
    classes: HostArray | None,
    first: Sequence[NodeProto],
    last: Sequence[NodeProto],
) -> GraphProto:
    """Return what is computed of X: ``first`` the features, if they are not X, then the rest.

    Without ``classes`` there are many labels.
    """
    values, columns = "probabilities" if last else "scores", tensors["b"].shape[0]
    nodes = [*first, helper.make_node("Gemm", ["features" if first else "X", "W", "b"], ["scores"])]
    constants = dict(tensors)
    if classes is None:
        constants["zero"] = np.zeros(1, np.float32)
        nodes += [
            helper.make_node("Greater", ["scores", "zero"], ["positive"]),
            helper.make_node("Cast", ["positive"], ["label"], to=TensorProto.INT64),
        ]
        label: Any = TensorProto.INT64, ["n", columns]
    else:
        constants["classes"] = classes
        nodes += [
            helper.make_node("ArgMax", ["scores"], ["code"], axis=1, keepdims=0),
            helper.make_node("Gather", ["classes", "code"], ["label"]),
        ]
        label = helper.np_dtype_to_tensor_dtype(classes.dtype), ["n"]
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", tensors["W"].shape[0]])]
    outputs = [
        helper.make_tensor_value_info("label", *label),
        helper.make_tensor_value_info(values, TensorProto.FLOAT, ["n", columns]),
    ]
    arrays = [
        numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()
    ]
    return helper.make_graph([*nodes, *last], "LinearClassifier", inputs, outputs, arrays)


def _warn_of_coarse_features(standard: Standard, W: HostArray) -> None:
    """Say so where rounding X to float32 moves the scores."""
    centre, scale = (a.astype(np.float64) for a in standard)
    moved = np.finfo(np.float32).eps * np.abs(centre * scale) * np.abs(W).max(axis=1)
    if moved.sum() > _SEEN:
        warn(
            f"an ONNX file takes X in float32, which moves the scores of this model by up to "
            f"{moved.sum():.2g}: column {moved.argmax()} lies too far from 0 for its spread. "
            "Subtract a constant from it before training and prediction"
        )


def _brought_near(
    standard: Standard, W: HostArray, b: HostArray
) -> tuple[list[NodeProto], dict[str, HostArray], HostArray, HostArray]:
    """Return the nodes that make ``features`` of X, their constants, and the weights of features.

    The centre is rounded to float32, and of the scale only a power of 2 is applied to X: the
    intercept and the weights make up for the rest.
    """
    exact, own = (a.astype(np.float64) for a in standard)
    centre = np.clip(exact, -_LARGEST, _LARGEST).astype(np.float32)
    b = b + ((centre - exact) * own) @ W
    scale = np.ldexp(1.0, np.clip(np.frexp(own)[1] - 1, -120, 120))
    W = (own / scale)[:, None] * W
    nodes = [
        helper.make_node("Sub", ["X", "centre"], ["near"]),
        helper.make_node("Mul", ["near", "scale"], ["features"]),
    ]
    return nodes, {"centre": centre, "scale": scale.astype(np.float32)}, W, b
