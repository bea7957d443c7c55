"""To and from scikit-learn's linear classifiers: the same predictions, or the same problem."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.preprocessing import LabelBinarizer
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted

from xplinear.arguments import NONE, number
from xplinear.backends import backend_of
from xplinear.formats.fitted import Fitted
from xplinear.losses import LOSSES
from xplinear.namespace import HostArray, array_namespace, is_array
from xplinear.objective import Params

__all__ = ["SklearnClassifier", "from_sklearn", "settings_of", "to_sklearn"]

SklearnClassifier: TypeAlias = (
    LogisticRegression | SGDClassifier | LinearSVC | OneVsRestClassifier | MultiOutputClassifier
)


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
    if isinstance(model, (OneVsRestClassifier, MultiOutputClassifier)):
        return _of_estimators(model, settings)
    coef: Any = model.coef_
    coef = coef if is_array(coef) else coef.toarray()  # after sparsify()
    xp, classes = array_namespace(coef), model.classes_
    b = xp.zeros_like(coef[:, 0]) + model.intercept_  # a number without an intercept
    params = Params(xp.permute_dims(coef, (1, 0))[:, None, :], b[None, :])
    if settings.get("multi_class") == "one_vs_rest" and b.shape[0] > 1:
        params = Params(xp.permute_dims(params.W, (0, 2, 1)), b[:, None])
    classes = backend_of(classes).to_host(classes) if is_array(classes) else classes
    return params, classes, settings, getattr(model, "feature_names_in_", None)


def _of_estimators(
    model: OneVsRestClassifier | MultiOutputClassifier, settings: dict[str, Any]
) -> tuple[Params, HostArray, dict[str, Any], HostArray | None]:
    """Return what `from_sklearn` does, of a model that holds one for each label or class."""
    own: list[Any] = list(model.estimators_)
    several = isinstance(model, MultiOutputClassifier)
    odd = next((i for i, one in enumerate(own) if not hasattr(one, "coef_")), None)
    if odd is not None:
        msg = (
            f"label {odd} of the {type(model).__name__} was constant: it has no weights; leave "
            "such columns out of y"
        )
        raise ValueError(msg)
    if several and (len(own) < 2 or any(list(one.classes_) != [0, 1] for one in own)):
        msg = (
            "MultiOutputClassifier can be converted where y had two or more columns of 0 and 1; "
            "convert each of its estimators_ instead"
        )
        raise ValueError(msg)
    parts = [from_sklearn(one)[0] for one in own]
    W, b = ([part[i] for part in parts] for i in (0, 1))
    xp = array_namespace(W[0])
    labels = several or model.multilabel_
    if labels:
        settings.pop("multi_class", None)
    else:  # of one label per row they are other ones here
        settings["class_weight"] = None
    classes = np.arange(len(own)) if several else np.asarray(model.classes_)
    names = getattr(model, "feature_names_in_", None)
    return Params(xp.concat(W, axis=1), xp.concat(b, axis=0)), classes, settings, names


def settings_of(model: SklearnClassifier, n_samples: float | None = None) -> dict[str, Any]:
    """Return the parameters of `LinearClassifier` that pose the same problem.

    Parameters
    ----------
    model : LogisticRegression, SGDClassifier or LinearSVC
        Or one of these in a OneVsRestClassifier or MultiOutputClassifier; fitted or not.
    n_samples : float, optional
        Number of rows it is to be fitted to, or the sum of their weights: gives α = 1 / (C n) in
        place of C. `SGDClassifier` has an α of its own.

    Raises
    ------
    TypeError
        If the model is of another class.
    ValueError
        If its loss has no counterpart, ``n_samples`` is not positive, or a OneVsRestClassifier has
        class weights.

    Examples
    --------
    >>> settings = settings_of(LogisticRegression(C=10.0))
    >>> settings["loss"], settings["penalty"], settings["C"]
    ('softmax', 'l2', 10.0)
    >>> settings_of(LogisticRegression(C=10.0), n_samples=500)["alpha"]
    0.0002
    """
    settings = _settings(model)
    if isinstance(model, OneVsRestClassifier) and settings.get("class_weight") is not None:
        msg = (
            "class_weight of a OneVsRestClassifier's estimator weighs a class and the rest, here "
            "each class in its own model; set class_weight=None, and give it to LinearClassifier"
        )
        raise ValueError(msg)
    n_samples = _N_SAMPLES("n_samples", n_samples)
    if n_samples is not None and "C" in settings:
        settings["alpha"] = 1.0 / (settings.pop("C") * n_samples)
    return settings


def _settings(model: SklearnClassifier) -> dict[str, Any]:
    """Return all parameters, with C where the model has one."""
    if isinstance(model, OneVsRestClassifier):
        return {**_settings(model.estimator), "multi_class": "one_vs_rest"}
    if isinstance(model, MultiOutputClassifier):
        settings = _settings(model.estimator)
        settings.pop("multi_class", None)  # two classes
        return settings
    settings: dict[str, Any] = {
        name: getattr(model, name)
        for name in ("fit_intercept", "class_weight", "random_state", "warm_start")
        if hasattr(model, name)
    }
    known = not isinstance(model, LogisticRegressionCV)
    if known and isinstance(model, LogisticRegression):
        apart = getattr(model, "multi_class", None) == "ovr" or model.solver == "liblinear"
        how = {"multi_class": "one_vs_rest"} if apart else {}
        return {"loss": "softmax", **settings, **_logistic_penalty(model), **how}
    if isinstance(model, LinearSVC):
        hinge = "multiclass_hinge" if model.loss == "hinge" else "squared_hinge"
        joint = model.multi_class == "crammer_singer"
        loss = "crammer_singer" if joint else hinge
        penalty = "l2" if joint else model.penalty
        how = {} if joint else {"multi_class": "one_vs_rest"}
        return {"loss": loss, "penalty": penalty, "C": model.C, **settings, **how}
    if not isinstance(model, SGDClassifier):
        msg = (
            "model: only LogisticRegression, SGDClassifier and LinearSVC of scikit-learn, and "
            "OneVsRestClassifier and MultiOutputClassifier of these, can be converted, got "
            f"{type(model).__name__}"
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
        "multi_class": "one_vs_rest",
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

    ``coef (m, k or 1, p)`` and ``intercept (m, k or 1)``; see `LinearClassifier.to_sklearn`.
    """
    names = {kind: name for name, kind in LOSSES.items()}
    name = loss if isinstance(loss, str) else names.get(type(loss))
    if name not in _COUNTERPARTS:
        msg = f"loss={loss!r} has no counterpart in scikit-learn; keep the LinearClassifier"
        raise ValueError(msg)
    kind, settings = _COUNTERPARTS[name]

    def with_weights(model: Any, classes: HostArray, coef: HostArray, intercept: HostArray) -> Any:
        model.coef_, model.intercept_ = np.array(coef, order="C"), np.array(intercept)
        model.classes_ = classes
        return seen(model)

    def seen(model: Any) -> Any:
        model.n_features_in_ = coef.shape[2]
        if fitted.feature_names is not None:
            model.feature_names_in_ = fitted.feature_names
        return model

    plain = kind(fit_intercept=fit_intercept, **settings)
    if fitted.kind == "classes":
        return with_weights(plain, fitted.classes, coef[0], intercept[0])
    if fitted.kind == "one_vs_rest" and kind is not LogisticRegression:
        return with_weights(plain, fitted.classes, coef[:, 0], intercept[:, 0])
    model, binary = OneVsRestClassifier(plain), np.asarray([0, 1])
    model.estimators_ = [
        with_weights(clone(plain), binary, one, b) for one, b in zip(coef, intercept, strict=True)
    ]
    each = len(fitted.classes)
    known = np.eye(each, dtype=int) if fitted.kind == "labels" else np.arange(each)
    model.label_binarizer_ = LabelBinarizer().fit(known)
    model.classes_ = model.label_binarizer_.classes_ = fitted.classes
    return seen(model)
