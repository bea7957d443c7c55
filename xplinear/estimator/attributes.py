"""A fitted classifier as a value, and as the attributes that scikit-learn's conventions name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xplinear.backends import Backend
from xplinear.checks.certificate import Certificate
from xplinear.formats.fitted import Fitted, linear_coefficients
from xplinear.formats.model_file import write
from xplinear.namespace import Array
from xplinear.objective import Params

__all__ = ["FittedAttributes", "fitted_of", "keep", "save"]

HostArray = np.ndarray[Any, np.dtype[Any]]

_ATTRIBUTES = {one.name: f"{one.name}_" for one in fields(Fitted)} | {
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


def save(
    clf: Any, path: str | os.PathLike[str], preparation: Mapping[str, Any] | None = None
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
    write(fitted_of(clf).to("numpy"), clf.get_params(deep=False), path, preparation)
