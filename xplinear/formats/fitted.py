"""A fitted classifier as one value: what predictions are made with, and what files hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from xplinear.backends import Backend, get_backend
from xplinear.checks.certificate import Certificate
from xplinear.data import Standard
from xplinear.namespace import Array, array_namespace
from xplinear.objective import Params

__all__ = ["Fitted", "Near", "linear_coefficients"]

_Part = TypeVar("_Part", Params, Standard)
HostArray = np.ndarray[Any, np.dtype[Any]]


class Near(NamedTuple):
    """Parameters for features that are centred and scaled first: those of X would cancel."""

    params: Params
    standard: Standard

    def to(self, target: Backend, source: Backend) -> Near:
        """Return the same on another backend."""
        return Near(_moved(self.params, target, source), _moved(self.standard, target, source))


@dataclass(frozen=True, eq=False)
class Fitted:
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
        return replace(
            self,
            params=_moved(self.params, target, self.backend),
            backend=target,
            near=self.near and self.near.to(target, self.backend),
            source="numpy",
            sgd_state=None,
        )


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
