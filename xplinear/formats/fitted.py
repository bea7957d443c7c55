"""A fitted classifier as one value, and as the attributes that scikit-learn's conventions name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from sklearn.utils.validation import check_is_fitted

from xplinear.backends import Backend, get_backend
from xplinear.checks.certificate import Certificate
from xplinear.data import Standard
from xplinear.namespace import Array, HostArray, array_namespace
from xplinear.objective import Params

__all__ = ["Fitted", "FittedAttributes", "Near", "fitted_of", "keep", "linear_coefficients"]

_Part = TypeVar("_Part", Params, Standard)


class Near(NamedTuple):
    """Parameters for features that are centred and scaled first: those of X would cancel."""

    params: Params
    standard: Standard

    def to(self, target: Backend, source: Backend) -> Near:
        """Return the same on another backend."""
        return Near(_moved(self.params, target, source), _moved(self.standard, target, source))


class Fitted(NamedTuple):
    """One model, and what is known of its fit; of weights that were given, that is nothing.

    Parameters
    ----------
    params : Params
        ``W (p, 1, c)`` and ``b (1, c)``, for X itself.
    classes : ndarray of shape (k,)
        On the host.
    backend : Backend
        Where the parameters live.
    near : Near, optional
        What predictions are made with in place of ``params``, which are the same, rounded.
    feature_names, alpha, solver, objective, history, certificate
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
    feature_names: HostArray | None = None
    alpha: float | None = None
    solver: str | None = None
    objective: float | None = None
    history: Mapping[str, HostArray] | None = None
    certificate: Certificate | None = None
    source: str = "numpy"
    weight_unit: float = 0.0
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
    alpha_: float
    solver_: str
    n_iter_: int
    objective_: float
    history_: dict[str, HostArray]
    certificate_: Certificate
    n_features_in_: int
    feature_names_in_: HostArray
    _shifted: Near | None = None


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
    found |= {"coef_": coef[0, :, :], "intercept_": intercept[0, :]}
    found["n_features_in_"] = fitted.params.W.shape[0]
    found["n_iter_"] = None if fitted.history is None else len(fitted.history["seconds"])
    there = {name: value for name, value in vars(estimator).items() if name not in found}
    # At once: Ctrl-C finds the old model, or all of the new one.
    estimator.__dict__ = there | {name: a for name, a in found.items() if a is not None}
