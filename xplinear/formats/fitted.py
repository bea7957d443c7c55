"""A fitted classifier as one value, and as the attributes that scikit-learn's conventions name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xplinear.backends import Backend, get_backend
from xplinear.checks.certificate import Certificate
from xplinear.data import Standard
from xplinear.data.rows import FarStandard
from xplinear.namespace import Array, HostArray, array_namespace
from xplinear.objective import Params

__all__ = [
    "Fitted",
    "FittedAttributes",
    "Kind",
    "Near",
    "fitted_of",
    "joined",
    "keep",
    "linear_coefficients",
    "stack_of",
]

# One model of all classes; or of 0 and 1 each, a model for every label, or for every class.
Kind: TypeAlias = Literal["classes", "labels", "one_vs_rest"]
_Part = TypeVar("_Part", Params, Standard)


def stack_of(kind: Kind, classes: HostArray) -> tuple[int, int]:
    """Return how many models there are, and how many classes each tells apart.

    Examples
    --------
    >>> stack_of("classes", np.arange(3)), stack_of("one_vs_rest", np.arange(3))
    ((1, 3), (3, 2))
    """
    return (1, len(classes)) if kind == "classes" else (len(classes), 2)


class Near(NamedTuple):
    """Parameters for features that are centred and scaled first: those of X would cancel."""

    params: Params
    standard: Standard

    def to(self, target: Backend, source: Backend) -> Near:
        """Return the same on another backend."""
        return Near(_moved(self.params, target, source), _moved(self.standard, target, source))


class Fitted(NamedTuple):
    """One model, or many of two classes, and what is known of the fit; of given weights nothing.

    Parameters
    ----------
    params : Params
        ``W (p, m, c)`` and ``b (m, c)``, for X itself.
    classes : ndarray of shape (k,)
        On the host; of labels, what names them.
    backend : Backend
        Where the parameters live.
    near : Near, optional
        What predictions are made with in place of ``params``, which are the same, rounded.
    kind : str
        What the models tell apart.
    feature_names, alpha, solver, n_iter, objective, history, certificate
        As `LinearClassifier` has them.
    source : str
        The backend of the rows of the fit: predictions take such rows too.
    weight_unit : float
        log2 of the weight as given that counts 1.
    sgd_state : SGDState, optional
        What `partial_fit` goes on from.
    """

    params: Params
    classes: HostArray
    backend: Backend
    near: Near | None = None
    kind: Kind = "classes"
    feature_names: HostArray | None = None
    alpha: float | HostArray | None = None
    solver: str | None = None
    n_iter: int | HostArray | None = None
    objective: float | HostArray | None = None
    history: Mapping[str, HostArray] | None = None
    certificate: Certificate | None = None
    source: str = "numpy"
    weight_unit: float | HostArray = 0.0
    sgd_state: Any = None

    def to(self, backend: Backend | str) -> Fitted:
        """Return the model on another backend, where it begins anew with `partial_fit`."""
        target = get_backend(backend)
        return self._replace(
            params=_moved(self.params, target, self.backend),
            backend=target,
            near=self.near and self.near.to(target, self.backend),
            source="numpy",
            sgd_state=None,
        )


_ATTRIBUTES = {name: f"{name}_" for name in Fitted._fields} | {
    "feature_names": "feature_names_in_",
    "near": "_shifted",
    "kind": "_kind",
    "source": "_source",
    "weight_unit": "_weight_unit",
    "sgd_state": "_sgd_state",
}


class FittedAttributes:
    """What a fitted classifier has, some of it only where it was fitted."""

    params_: Params
    coef_: Array
    intercept_: Array
    classes_: HostArray
    backend_: Backend
    multilabel_: bool
    alpha_: float | HostArray
    solver_: str
    n_iter_: int | HostArray
    objective_: float | HostArray
    history_: dict[str, HostArray]
    certificate_: Certificate
    n_features_in_: int
    feature_names_in_: HostArray
    _shifted: Near | None = None
    _kind: Kind = "classes"


def _moved(part: _Part, target: Backend, source: Backend) -> _Part:
    return type(part)(*(target.asarray(source.to_host(a)) for a in part))


def linear_coefficients(params: Params) -> tuple[Array, Array]:
    """Return ``coef (m, k, p)`` and ``intercept (m, k)`` as scikit-learn has them.

    For two classes k is 1: the difference between the second and the first.
    """
    W, b = params
    if W.shape[2] == 2:
        W, b = W[:, :, 1:] - W[:, :, :1], b[:, 1:] - b[:, :1]
    return array_namespace(W).permute_dims(W, (1, 2, 0)), b


def fitted_of(estimator: Any) -> Fitted:
    """Return what an estimator keeps of its fit; raise NotFittedError where there was none."""
    check_is_fitted(estimator)
    there = vars(estimator)
    return Fitted(**{name: there[own] for name, own in _ATTRIBUTES.items() if own in there})


def keep(estimator: Any, fitted: Fitted) -> None:
    """Give an estimator the attributes of a fit, and take those of the last one away."""
    coef, intercept = linear_coefficients(fitted.params)
    found = {own: getattr(fitted, name) for name, own in _ATTRIBUTES.items()}
    one = fitted.kind == "classes"
    found["coef_"] = coef[0, :, :] if one else coef[:, 0, :]
    found["intercept_"] = intercept[0, :] if one else intercept[:, 0]
    found["n_features_in_"] = fitted.params.W.shape[0]
    found["multilabel_"] = fitted.kind == "labels"
    there = {name: value for name, value in vars(estimator).items() if name not in found}
    # At once: Ctrl-C finds the old model, or all of the new one.
    estimator.__dict__ = there | {name: a for name, a in found.items() if a is not None}


def joined(parts: Sequence[Fitted]) -> Fitted:
    """Return all models of a stack whose parts were fitted one after the other."""
    first, certificates = parts[0], [part.certificate for part in parts]
    if len(parts) == 1:
        return first

    def each(name: str, of: Sequence[Any] = parts) -> HostArray:
        return np.concatenate([getattr(part, name) for part in of])

    near, certificate = first.near, None
    if near is not None:
        others = [part.near for part in parts if part.near]
        standard = _standards([other.standard for other in others])
        near = Near(_beside([other.params for other in others]), standard)
    if certificates[0] is not None:
        bounds = (each(name, certificates) for name in ("objective", "lower_bound", "residual"))
        reasons = [reason for one in certificates if one for reason in one.reasons]
        certificate = Certificate(*bounds, reasons=tuple(reasons))
    own_units = np.ndim(first.weight_unit) > 0
    return first._replace(
        params=_beside([part.params for part in parts]),
        near=near,
        alpha=each("alpha"),
        n_iter=each("n_iter"),
        objective=each("objective"),
        history=_in_turn([part.history for part in parts if part.history]),
        certificate=certificate,
        weight_unit=each("weight_unit") if own_units else first.weight_unit,
    )


def _beside(parts: Sequence[Params]) -> Params:
    """Return the parameters of some models as those of all."""
    xp = array_namespace(parts[0].b)
    return Params(*(xp.concat(a, axis=a[0].ndim - 2) for a in zip(*parts, strict=True)))


def _standards(parts: Sequence[Standard]) -> Standard:
    """Return the standard that models share, or those of each ``(p, m)``."""
    first = parts[0]
    if all(part is first for part in parts):
        return first
    xp = array_namespace(first.centre)
    columns = (
        [a[:, None] if a.ndim == 1 else a for a in part] for part in zip(*parts, strict=True)
    )
    return FarStandard(*(xp.concat(part, axis=1) for part in columns))


def _in_turn(parts: Sequence[Mapping[str, HostArray]]) -> dict[str, HostArray]:
    """Return one history of all models: those that ended earlier stay as they ended."""
    n = max(len(part["seconds"]) for part in parts)
    long = [
        {
            name: np.concatenate([a, np.repeat(a[-1:], n - len(a), axis=0)])
            for name, a in own.items()
        }
        for own in parts
    ]
    history = {name: np.concatenate([own[name] for own in long], axis=-1) for name in long[0]}
    return history | {"seconds": np.sum([own["seconds"] for own in long], axis=0)}
