"""Saving and loading: safetensors for the numbers, JSON for the rest. Loading runs no code."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialized
from sklearn.utils.validation import check_is_fitted

import xplinear
from xplinear.arguments import DTYPE, NONE, PATH, plain
from xplinear.backends import get_backend
from xplinear.checks.certificate import Certificate
from xplinear.data import Standard
from xplinear.estimator.classifier import LinearClassifier, host_parameters, shift_features
from xplinear.formats.writing import check_writable, written
from xplinear.losses import LOSSES
from xplinear.objective import Params
from xplinear.penalties import PENALTIES
from xplinear.solvers import SOLVERS

if TYPE_CHECKING:
    from xplinear.backends import Backend

__all__ = ["content_of", "load", "save"]

ENDING = ".safetensors"
_FORMAT = "xplinear"
_VERSION = "1"
_CERTIFIED = "objective", "lower_bound", "residual"
_OBJECTS = {cls.__name__: cls for cls in (*LOSSES.values(), *PENALTIES.values(), *SOLVERS.values())}


def _describe(name: str, value: Any) -> Any:
    """Return a parameter as JSON can hold it."""
    if type(value).__name__ in _OBJECTS and is_dataclass(value):
        return {"type": type(value).__name__, "fields": asdict(value)}  # pyright: ignore[reportArgumentType]
    if name == "dtype":
        return (DTYPE | NONE)(name, value)
    value = plain(value)
    if name == "random_state" and not isinstance(value, int):
        return None
    if name == "backend":
        return None
    if isinstance(value, dict):
        return {"type": "dict", "items": [[plain(k), plain(v)] for k, v in value.items()]}
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    msg = (
        f"{name}={value!r} is not one of xplinear's own objects, and a file that runs no code "
        "cannot hold it; use pickle, or set the parameter by name"
    )
    raise TypeError(msg)


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        if value["type"] == "dict":
            return dict(value["items"])
        return _OBJECTS[value["type"]](**value["fields"])
    return value


def save(
    clf: LinearClassifier,
    path: str | os.PathLike[str],
    preparation: Mapping[str, Any] | None = None,
) -> None:
    """Write a fitted classifier to one safetensors file, replacing it only when complete.

    Parameters
    ----------
    clf : LinearClassifier
    path : path-like
        Ends in ``.safetensors``, or in nothing.
    preparation : mapping, optional
        How the rows were made from a table, as JSON can hold it; `content_of` gives it back.

    Raises
    ------
    TypeError
        If a parameter or the labels cannot be written without code (an own loss, say).
    OSError
        If the file cannot be written.
    ValueError
        If the name ends as those of another format do.

    Examples
    --------
    >>> import tempfile, os, numpy as np, xplinear as xl
    >>> clf = xl.LinearClassifier().fit(np.asarray([[0.0], [1.0]]), ["no", "yes"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clf.save(os.path.join(folder, "model.safetensors"))
    ...     xl.load(os.path.join(folder, "model.safetensors")).predict([[2.0]])
    array(['yes'], dtype='<U3')
    """
    from xplinear.backends.machine import libraries  # with subprocess and joblib

    check_is_fitted(clf)
    check_writable(path, [ENDING], bare=True)
    classes = clf.classes_
    numeric = classes.dtype.kind in "biuf"
    if not numeric and not all(isinstance(label, str) for label in classes.tolist()):
        msg = f"labels of type {classes.dtype} cannot be saved; use numbers or strings, or pickle"
        raise TypeError(msg)
    W, b = (clf.backend_.to_host(a) for a in clf.params_)
    # Weights that were given, not fitted, have no history.
    history: dict[str, Any] = getattr(clf, "history_", {})
    tensors = {"W": W, "b": b} | {f"history.{key}": a for key, a in history.items()}
    near, standard = host_parameters(clf)
    if standard is not None:
        parts = (*near._asdict().items(), *standard._asdict().items())
        tensors |= {f"near.{key}": a for key, a in parts}
    if numeric:
        tensors["classes"] = classes
    names = getattr(clf, "feature_names_in_", None)
    certificate = getattr(clf, "certificate_", None)
    if certificate is not None:
        tensors |= {f"certificate.{key}": getattr(certificate, key) for key in _CERTIFIED}
    content = {
        "params": {key: _describe(key, a) for key, a in clf.get_params(deep=False).items()},
        "classes": None if numeric else classes.tolist(),
        "object_labels": classes.dtype.kind == "O",
        "alpha": getattr(clf, "alpha_", None),
        "solver": getattr(clf, "solver_", None),
        "objective": getattr(clf, "objective_", None),
        "reasons": None if certificate is None else certificate.reasons,
        "feature_names": None if names is None else names.tolist(),
        "preparation": preparation,
        "libraries": libraries() | {"xplinear": xplinear.__version__},
    }
    tensors = {
        key: np.ascontiguousarray(a, a.dtype.newbyteorder("=")) for key, a in tensors.items()
    }
    text = json.dumps(content)
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "content": text,
        "checksum": _checksum(text, tensors),
    }
    # safetensors would give a file that it writes itself a mode of its own.
    with written(path) as (file,):
        file.write_bytes(serialized(tensors, metadata))


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
    content, tensors = _read(path)
    try:
        labels = content["classes"]
        classes = (
            tensors["classes"]
            if labels is None
            else np.asarray(labels, dtype=object if content["object_labels"] else None)
        )
        settings = {key: _restore(a) for key, a in content["params"].items()}
        params = Params(tensors["W"], tensors["b"])
        clf = LinearClassifier.from_params(params, classes, **settings)
        alpha = content.get("alpha", settings["alpha"])  # early files: the parameter alone
        if alpha is not None:
            clf.alpha_ = float(alpha)

        if "near.W" in tensors:
            near, standard = (
                kind(*(tensors[f"near.{key}"] for key in kind._fields))
                for kind in (Params, Standard)
            )
            shift_features(clf, cast(Params, near), cast(Standard, standard))
        if content.get("solver") is not None:  # early files do not say
            clf.solver_ = content["solver"]
        if content["objective"] is not None:
            clf.objective_ = content["objective"]
            clf.history_ = {
                key.removeprefix("history."): a
                for key, a in tensors.items()
                if key.startswith("history.")
            }
            clf.n_iter_ = len(clf.history_["seconds"])
        if content["reasons"] is not None:
            certified = {key: tensors[f"certificate.{key}"] for key in _CERTIFIED}
            clf.certificate_ = Certificate(**certified, reasons=tuple(content["reasons"]))
        names = content["feature_names"]
        if content["preparation"] is not None:
            from xplinear.datasets.preparation import (
                Preparation,  # of the command line: others need no time
            )

            # A table that was not prepared has other columns, and is refused.
            preparation = Preparation.from_record(content["preparation"])
            expected = preparation.expected
            nameless = expected is None or expected.by_place
            names = names if nameless else preparation.feature_names
        if names is not None:
            clf.feature_names_in_ = np.asarray(names, dtype=object)
    except (KeyError, TypeError, AttributeError) as error:
        msg = (
            f"{os.fspath(path)!r} was written by xplinear {content['libraries']['xplinear']} and "
            f"does not suit this one, {xplinear.__version__} ({error!r}); upgrade xplinear"
        )
        raise ValueError(msg) from error
    target = get_backend(backend)
    return clf if target.name == "numpy" else clf.to(target)


def content_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a model file holds besides numbers: ``preparation``, ``libraries`` and more."""
    return _read(path)[0]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    if not Path(path).is_file():
        msg = f"no model file {os.fspath(path)!r}"
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        msg = f"{os.fspath(path)!r} is damaged or no safetensors file ({error}); save it again"
        raise ValueError(msg) from error
    if metadata.get("format") != _FORMAT:
        msg = f"{os.fspath(path)!r} was not written by xplinear: it holds other tensors"
        raise ValueError(msg)
    version, text = metadata.get("version"), metadata.get("content", "")
    if version != _VERSION:
        msg = (
            f"{os.fspath(path)!r} has format version {version}, this xplinear reads {_VERSION}; "
            "upgrade xplinear"
        )
        raise ValueError(msg)
    if metadata.get("checksum") != _checksum(text, tensors):
        what = "does not hold what was written"
        if "checksum" not in metadata:
            what = "has no checksum (development versions wrote none: train once more)"
        msg = f"{os.fspath(path)!r} is damaged: it {what}; save it again"
        raise ValueError(msg)
    return json.loads(text), tensors


def _checksum(content: str, tensors: Mapping[str, Any]) -> str:
    """Return the CRC-32 of all that a file holds."""
    checksum = zlib.crc32(content.encode())
    for key, a in sorted(tensors.items()):
        about = f"{key} {a.dtype.str} {a.shape}"
        checksum = zlib.crc32(a, zlib.crc32(about.encode(), checksum))
    return f"{checksum:08x}"
