"""Saving and loading: safetensors for the numbers, JSON for the rest. Loading runs no code."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

import numpy as np

from xplinear.arguments import DTYPE, NONE, plain
from xplinear.backends import get_backend
from xplinear.checks.certificate import Certificate
from xplinear.data.rows import FarStandard
from xplinear.formats.fitted import Fitted, Near
from xplinear.formats.tensors import Format, read_tensors, write_tensors
from xplinear.formats.writing import check_writable
from xplinear.losses import LOSSES
from xplinear.objective import Params
from xplinear.penalties import PENALTIES
from xplinear.solvers import SOLVERS
from xplinear.version import VERSION

__all__ = ["content_of", "read", "write"]

ENDING = ".safetensors"
_FORMAT = Format("xplinear", "1", "model file", "save it again")
_T = TypeVar("_T")
_CERTIFIED = "objective", "lower_bound", "residual"


def _objects() -> dict[str, type[Any]]:
    """Return the classes that a file may name: what is registered, by now."""
    kinds = *LOSSES.values(), *PENALTIES.values(), *SOLVERS.values()
    return {kind.__name__: kind for kind in kinds}


def _describe(name: str, value: Any) -> Any:
    """Return a parameter as JSON can hold it."""
    kind = type(value)
    if _objects().get(kind.__name__) is kind and is_dataclass(kind):
        return {"type": kind.__name__, "fields": asdict(value)}
    if name == "dtype":
        return (DTYPE | NONE)(name, value)
    value = plain(value)
    if name in ("backend", "checkpoint") or (name == "random_state" and not isinstance(value, int)):
        return None
    if isinstance(value, dict):
        return {"type": "dict", "items": [[plain(k), plain(v)] for k, v in value.items()]}
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if name in ("alpha", "C"):  # one for each label
        return [float(plain(one)) for one in value]
    msg = (
        f"{name}={value!r} is not one of xplinear's own objects, and a file that runs no code "
        "cannot hold it; use pickle, or set the parameter by name"
    )
    raise TypeError(msg)


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        if value["type"] == "dict":
            return dict(value["items"])
        return _objects()[value["type"]](**value["fields"])
    return value


def write(
    fitted: Fitted,
    settings: Mapping[str, Any],
    path: str | os.PathLike[str],
    preparation: Mapping[str, Any] | None = None,
) -> None:
    """Write a fitted classifier on the host, and its parameters; see `xplinear.persist.save`."""
    from xplinear.backends.machine import libraries  # with subprocess and joblib

    check_writable(path, [ENDING], bare=True)
    classes, certificate = fitted.classes, fitted.certificate
    numeric = classes.dtype.kind in "biuf"
    if not numeric and not all(isinstance(label, str) for label in classes.tolist()):
        msg = f"labels of type {classes.dtype} cannot be saved; use numbers or strings, or pickle"
        raise TypeError(msg)
    tensors: dict[str, Any] = fitted.params._asdict()
    tensors |= {f"history.{key}": a for key, a in (fitted.history or {}).items()}
    for part in fitted.near or ():
        tensors |= {f"near.{key}": a for key, a in part._asdict().items()}
    if numeric:
        tensors["classes"] = classes
    if certificate is not None:
        tensors |= {f"certificate.{key}": getattr(certificate, key) for key in _CERTIFIED}
    content = {
        "params": {key: _describe(key, a) for key, a in settings.items()},
        "classes": None if numeric else classes.tolist(),
        "object_labels": classes.dtype.kind == "O",
        "kind": fitted.kind,
        "alpha": _listed(fitted.alpha),
        "solver": fitted.solver,
        "n_iter": _listed(fitted.n_iter),
        "objective": _listed(fitted.objective),
        "reasons": None if certificate is None else certificate.reasons,
        "feature_names": None if fitted.feature_names is None else fitted.feature_names.tolist(),
        "preparation": preparation,
        "libraries": libraries() | {"xplinear": VERSION},
    }
    write_tensors(_FORMAT, path, content, tensors)


def _listed(numbers: Any) -> Any:
    return numbers.tolist() if isinstance(numbers, np.ndarray) else numbers


def _number(listed: Any, kind: type[Any]) -> Any:
    """Return a number of one model as Python has it, those of many as an array."""
    if listed is None:
        return None
    return np.asarray(listed, kind) if isinstance(listed, list) else kind(listed)


def read(
    path: str | os.PathLike[str], make: Callable[[Fitted, dict[str, Any], dict[str, Any]], _T]
) -> _T:
    """Return what a function makes of a model in a file, its parameters, and what else is there.

    Raises
    ------
    ValueError
        If ``make`` cannot: the file is of another version.
    """
    content, tensors = read_tensors(_FORMAT, path)
    try:
        settings = {key: _restore(a) for key, a in content["params"].items()}
        return make(_fitted(content, tensors), settings, content)
    except (KeyError, TypeError, AttributeError) as error:
        msg = (
            f"{os.fspath(path)!r} was written by xplinear {content['libraries']['xplinear']} and "
            f"does not suit this one, {VERSION} ({error!r}); upgrade xplinear"
        )
        raise ValueError(msg) from error


def _fitted(content: Mapping[str, Any], tensors: Mapping[str, Any]) -> Fitted:
    labels, names, reasons = (content[key] for key in ("classes", "feature_names", "reasons"))
    kind = object if content["object_labels"] else None
    alpha = content.get("alpha", content["params"]["alpha"])  # early files: the parameter alone
    parts: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for key, a in tensors.items():
        part, _, name = key.rpartition(".")
        parts[part][name] = a
    own, far = parts[""], parts["near"]
    near = certificate = None
    if far:
        near = Near(Params(far["W"], far["b"]), FarStandard(far["centre"], far["scale"]))
    if reasons is not None:
        certificate = Certificate(**parts["certificate"], reasons=tuple(reasons))
    history = None if content["objective"] is None else parts["history"]
    made = None if history is None else len(history["seconds"])
    return Fitted(
        params=Params(own["W"], own["b"]),
        classes=own["classes"] if labels is None else np.asarray(labels, dtype=kind),
        backend=get_backend("numpy"),
        near=near,
        feature_names=None if names is None else np.asarray(names, dtype=object),
        kind=content.get("kind", "classes"),
        alpha=_number(alpha, float),
        solver=content.get("solver"),  # early files do not say
        n_iter=_number(content.get("n_iter", made), int),
        objective=_number(content["objective"], float),
        history=history,
        certificate=certificate,
    )


def content_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a model file holds besides numbers: ``preparation``, ``libraries`` and more."""
    return read_tensors(_FORMAT, path)[0]
