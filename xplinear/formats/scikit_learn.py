"""To and from scikit-learn's linear classifiers: the same predictions, or the same problem."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted

from xplinear.arguments import NONE, number
from xplinear.backends import backend_of
from xplinear.formats.fitted import Fitted
from xplinear.losses import LOSSES
from xplinear.namespace import HostArray, array_namespace, is_array
from xplinear.objective import Params

__all__ = ["SklearnClassifier", "from_sklearn", "settings_of", "to_sklearn"]

SklearnClassifier: TypeAlias = LogisticRegression | SGDClassifier | LinearSVC


_ROWS = "the number of rows, or the sum of their weights, because alpha = 1 / (C n)"
_N_SAMPLES = replace(number("(0, inf)"), wants=(_ROWS,)) | NONE
_SGD_LOSSES = {"log_loss": "softmax", "hinge": "multiclass_hinge", "squared_hinge": "squared_hinge"}
_PENALTIES = {"l1": "l1", "l2": "l2", "elasticnet": "elastic_net", None: "none"}
_COUNTERPARTS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "softmax": (LogisticRegression, {}),
    "multiclass_hinge": (LinearSVC, {"loss": "hinge"}),
    "crammer_singer": (LinearSVC, {"multi_class": "crammer_singer"}),
    "squared_hinge": (LinearSVC, {"loss": "squared_hinge"}),
    "squared_error": (SGDClassifier, {"loss": "squared_error"}),
    "absolute_error": (SGDClassifier, {"loss": "epsilon_insensitive", "epsilon": 0.0}),
}


def from_sklearn(model: Any) -> tuple[Params, HostArray, dict[str, Any], HostArray | None]:
    """Return parameters, classes, settings and feature names of a fitted model of scikit-learn.

    See `LinearClassifier.from_sklearn`.
    """
    settings = _settings(model)
    check_is_fitted(model)
    coef: Any = model.coef_
    coef = coef if is_array(coef) else coef.toarray()  # after sparsify()
    xp, classes = array_namespace(coef), model.classes_
    if settings["loss"] == "softmax" and _one_against_the_rest(model):
        settings["loss"] = "squared_hinge"
    b = xp.zeros_like(coef[:, 0]) + model.intercept_  # a number without an intercept
    params = Params(xp.permute_dims(coef, (1, 0))[:, None, :], b[None, :])
    classes = backend_of(classes).to_host(classes) if is_array(classes) else classes
    return params, classes, settings, getattr(model, "feature_names_in_", None)


def _one_against_the_rest(model: Any) -> bool:
    """Return whether probabilities of three or more classes are those of k separate problems."""
    if len(model.classes_) == 2:
        return False
    if isinstance(model, SGDClassifier):
        return True
    return getattr(model, "multi_class", None) == "ovr" or model.solver == "liblinear"


def settings_of(model: SklearnClassifier, n_samples: float | None = None) -> dict[str, Any]:
    """Return the parameters of `LinearClassifier` that pose the same problem.

    Parameters
    ----------
    model : LogisticRegression, SGDClassifier or LinearSVC
        Fitted or not.
    n_samples : float, optional
        Number of rows it is to be fitted to, or the sum of their weights: gives α = 1 / (C n) in
        place of C. `SGDClassifier` has an α of its own.

    Raises
    ------
    TypeError
        If the model is of another class.
    ValueError
        If its loss has no counterpart, or ``n_samples`` is not positive.

    Examples
    --------
    >>> settings = settings_of(LogisticRegression(C=10.0))
    >>> settings["loss"], settings["penalty"], settings["C"]
    ('softmax', 'l2', 10.0)
    >>> settings_of(LogisticRegression(C=10.0), n_samples=500)["alpha"]
    0.0002
    """
    settings = _settings(model)
    n_samples = _N_SAMPLES("n_samples", n_samples)
    if n_samples is not None and "C" in settings:
        settings["alpha"] = 1.0 / (settings.pop("C") * n_samples)
    return settings


def _settings(model: SklearnClassifier) -> dict[str, Any]:
    """Return all parameters, with C where the model has one."""
    settings: dict[str, Any] = {
        name: getattr(model, name)
        for name in ("fit_intercept", "class_weight", "random_state", "warm_start")
        if hasattr(model, name)
    }
    known = not isinstance(model, LogisticRegressionCV)
    if known and isinstance(model, LogisticRegression):
        return {"loss": "softmax", **settings, **_logistic_penalty(model)}
    if isinstance(model, LinearSVC):
        hinge = "multiclass_hinge" if model.loss == "hinge" else "squared_hinge"
        joint = model.multi_class == "crammer_singer"
        loss = "crammer_singer" if joint else hinge
        penalty = "l2" if joint else model.penalty
        return {"loss": loss, "penalty": penalty, "C": model.C, **settings}
    if not isinstance(model, SGDClassifier):
        msg = (
            "model: only LogisticRegression, SGDClassifier and LinearSVC of scikit-learn can be "
            f"converted, got {type(model).__name__}"
        )
        raise TypeError(msg)
    if model.loss not in _SGD_LOSSES:
        msg = (
            f"SGDClassifier's loss={model.loss!r} has no counterpart here; those of "
            f"{', '.join(_SGD_LOSSES)} have"
        )
        raise ValueError(msg)
    names = ("alpha", "l1_ratio", "early_stopping", "validation_fraction", "n_iter_no_change")
    return {
        "loss": _SGD_LOSSES[model.loss],
        "penalty": _PENALTIES[model.penalty],
        **{name: getattr(model, name) for name in names},
        **settings,
    }


def _logistic_penalty(model: LogisticRegression) -> dict[str, Any]:
    """Return penalty and C; scikit-learn 1.8 began to read the kind off ``l1_ratio`` and ``C``."""
    penalty, ratio = model.penalty, float(model.l1_ratio or 0.0)
    if penalty is None or math.isinf(model.C):
        return {"penalty": "none"}
    if penalty in ("l1", "l2"):
        return {"penalty": penalty, "C": model.C}
    if ratio in (0.0, 1.0):
        return {"penalty": "l1" if ratio else "l2", "C": model.C}
    return {"penalty": "elastic_net", "l1_ratio": ratio, "C": model.C}


def to_sklearn(
    fitted: Fitted, coef: HostArray, intercept: HostArray, loss: Any, *, fit_intercept: bool
) -> SklearnClassifier:
    """Return a fitted classifier of scikit-learn with these weights, on the host.

    See `LinearClassifier.to_sklearn`.
    """
    names = {kind: name for name, kind in LOSSES.items()}
    name = loss if isinstance(loss, str) else names.get(type(loss))
    if name not in _COUNTERPARTS:
        msg = f"loss={loss!r} has no counterpart in scikit-learn; keep the LinearClassifier"
        raise ValueError(msg)
    kind, settings = _COUNTERPARTS[name]
    model = kind(fit_intercept=fit_intercept, **settings)
    model.coef_, model.intercept_ = np.array(coef, order="C"), np.array(intercept)
    model.classes_, model.n_features_in_ = fitted.classes, coef.shape[1]
    if fitted.feature_names is not None:
        model.feature_names_in_ = fitted.feature_names
    return model
