"""Labels and weights of rows, checked, on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets

from xplinear.arguments import naming, number, shown, warn
from xplinear.backends import Backend
from xplinear.backends.sparse import is_scipy
from xplinear.estimator.tables import series_of
from xplinear.estimator.validation import on_host, refuse_masked
from xplinear.namespace import Array, HostArray, is_array, name_of

__all__ = [
    "Coded",
    "check_classes",
    "check_labels",
    "check_two_classes",
    "coded",
    "coded_together",
    "encode_labels",
    "factors_of",
    "host_weights",
    "in_dtype",
    "is_missing",
    "labels_on",
    "weights_of",
]

_MISSING_LABELS = (
    "Input {} contains NaN or infinity, or labels are missing (None, NA); every row needs a label: "
    "drop the others"
)


class Coded(NamedTuple):
    """Labels: the different ones there are, and the place among them of each row's ``(n,)``."""

    values: HostArray
    codes: HostArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape


def coded(y: Any) -> Coded:
    """Return labels, of a part of all rows, in little memory.

    Examples
    --------
    >>> coded(["no", "yes", "no"])
    Coded(values=array(['no', 'yes'], dtype='<U3'), codes=array([0, 1, 0], dtype=uint8))
    """
    labels = check_labels(None, y) if len(y) else np.empty(0)
    values, codes = np.unique(labels, return_inverse=True)
    return Coded(values, codes.astype(np.min_scalar_type(len(values))))


def coded_together(parts: Sequence[Coded]) -> Coded:
    """Return the labels of all parts, one after the other.

    Examples
    --------
    >>> coded_together([coded(["b", "a"]), coded(["c", "b"])]).codes
    array([1, 0, 2, 1], dtype=uint8)
    """
    there = [part for part in parts if part.codes.size]
    values = [part.values for part in there]
    alike = len({one.dtype.kind for one in values}) == 1
    every = np.concatenate(values if alike else [one.astype(object) for one in values])
    every = every if alike else check_labels(None, every.tolist())
    found, places = np.unique(every, return_inverse=True)
    places = places.astype(np.min_scalar_type(len(found)))
    ends = np.cumsum([len(one) for one in values])[:-1]
    own = zip(np.split(places, ends), there, strict=True)
    return Coded(found, np.concatenate([place[part.codes] for place, part in own]))


def check_classes(classes: Any) -> HostArray:
    """Return the classes ``(k,)`` of a model that is made, not fitted, on the host."""
    refuse_masked("classes", classes)
    with naming("classes"):
        labels = _host_labels(classes, "classes")
        if not (labels.ndim == 1 and len(set(labels.tolist())) == len(labels) >= 2):
            msg = f"classes must be two or more different labels, got {shown(classes)}"
            raise ValueError(msg)
        return _plain_labels(labels, "classes")


def check_labels(estimator: Any, y: Any, *, name: str = "y") -> HostArray:
    """Return y as labels ``(n,)`` on the host, of any type that can be sorted.

    ``name`` is that of the argument, for messages.
    """
    if y is None:
        msg = (
            f"{type(estimator).__name__} requires {name} to be passed, but the target {name} is "
            "None: pass one label per row of X"
        )
        raise ValueError(msg)
    refuse_masked(name, y)
    with naming(name):
        labels = _host_labels(y, name)
    if labels.dtype.kind == "V":
        msg = f"{name} has records of dtype {labels.dtype}; give one number or text per row"
        raise ValueError(msg)
    if labels.ndim == 2 and labels.shape[1] == 1:
        warn(
            "A column-vector y was passed when a 1d array was expected. "
            "Please change the shape of y to (n_samples,), for example using ravel().",
            DataConversionWarning,
        )
        labels = labels[:, 0]
    if labels.ndim != 1:
        msg = f"{name} should be a 1d array of labels, got an array of shape {labels.shape}"
        if isinstance(y, str):
            msg = f"{name} is {y!r}; the name of a column is for rows that xplinear.scan reads"
        raise ValueError(msg)
    labels = _plain_labels(labels, name)
    if labels.dtype.kind == "f":  # which may be no labels, but a target of a regression
        with naming(name):
            check_classification_targets(labels)
    return labels


def is_missing(label: Any) -> bool:
    """Return whether it is None, NaN, or pandas's NA, which cannot even be compared."""
    return label is None or type(label).__name__ == "NAType" or bool(label != label)  # noqa: PLR0124 - only NaN differs from itself


def _plain_labels(labels: HostArray, name: str) -> HostArray:
    """Return labels in a plain dtype with the values they have; raise ValueError if none is."""
    labels = labels.astype(labels.dtype.newbyteorder("="), copy=False)
    kind = labels.dtype.kind
    missing = kind in "fmM" and not np.isfinite(labels).all()  # which NaT is not
    if missing or (kind == "O" and any(map(is_missing, labels))):
        raise ValueError(_MISSING_LABELS.format(name))
    if kind == "c" or (kind == "V" and labels.dtype.names is None):
        msg = f"{name} has dtype {labels.dtype} (Complex data not supported); use numbers or texts"
        raise ValueError(msg)
    types = set(map(type, labels.tolist())) if kind in "OS" else set[type]()
    if bytes in types:
        strings = f"[label.decode() for label in {name}]"
        msg = f"{name} holds labels of type bytes; make them strings: {strings}"
        raise ValueError(msg)
    numbers = all(issubclass(one, (int, float, np.number, np.bool_)) for one in types)
    if not numbers and types - {str, np.str_}:
        names = ", ".join(sorted(one.__name__ for one in types))
        holds = "mixes" if len(types) > 1 else "holds"
        strings = f"[str(label) for label in {name}]"
        msg = f"{name} {holds} labels of type {names}; make them strings: {strings}"
        raise ValueError(msg)
    longer = kind == "f" and labels.itemsize > 8
    return _numbers(labels.tolist(), name) if longer or (types and numbers) else labels


def _host_labels(y: Any, name: str) -> HostArray:
    series = None if is_array(y) else series_of(y)
    if series is None:
        y = on_host(name, y)
        labels = np.asarray(y)
        if isinstance(y, (list, tuple)) and labels.ndim == 1:
            labels = _as_given(cast(list[Any], y), labels, name)
    elif series.null_count() > 0:
        raise ValueError(_MISSING_LABELS.format(name))
    else:
        labels = series.to_numpy()
    if labels.dtype.kind == "T":  # NumPy's strings of any length, which scikit-learn does not know
        return np.asarray(labels.tolist())
    return labels.astype(np.float32) if name_of(labels.dtype) == "bfloat16" else labels


def _as_given(y: Sequence[Any], labels: HostArray, name: str) -> HostArray:
    """Return labels of a list in a dtype that changes none; NumPy makes strings of all kinds."""
    if labels.dtype.kind == "U" and labels.tolist() != list(y):  # numbers, or a text ends in NUL
        return np.fromiter(y, object, len(y))
    return _numbers(y, name) if labels.dtype.kind == "f" else labels


def _numbers(y: Sequence[Any], name: str) -> HostArray:
    """Return numbers as NumPy has them; raise ValueError where one of them would be another."""
    labels = np.asarray(y)
    if labels.dtype.kind in "fO" and all(isinstance(a, (int, np.integer)) for a in y):
        with suppress(OverflowError):
            labels = np.asarray(y, np.uint64)
    if labels.dtype.kind == "f":
        labels = labels.astype(np.float64)
    changed = [a for a, b in zip(y, labels.tolist(), strict=True) if a != b and a == a]  # noqa: PLR0124 - only NaN differs from itself
    if changed or labels.dtype.kind == "O":
        label = changed[0] if changed else max(y, key=abs)
        msg = (
            f"{name} holds labels that no dtype holds together, such as {label}; make them "
            f"strings: [str(label) for label in {name}]"
        )
        raise ValueError(msg)
    return labels


def encode_labels(
    y: HostArray | Coded, classes: HostArray | None = None, *, name: str = "y"
) -> tuple[HostArray, HostArray]:
    """Return the classes, sorted unless they are given, and the code 0 … k−1 of each label.

    ``name`` is that of the argument, for messages.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or a label is not among the ``classes`` given.
    """
    if isinstance(y, Coded):
        classes, codes = encode_labels(y.values, classes, name=name)
        return classes, codes[y.codes]
    if classes is None:
        with naming(name):
            check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            only = ", ".join(map(repr, classes.tolist())) or "none at all"
            msg = f"{name} has one class only, {only}; a classifier needs at least two classes"
            raise ValueError(msg)
        return classes, codes.astype(np.int32)
    order = np.argsort(classes)
    near, same = in_dtype(y, classes.dtype)
    codes = order[np.clip(np.searchsorted(classes, near, sorter=order), 0, len(classes) - 1)]
    unseen = (classes[codes] != near) | ~same
    if unseen.any():
        msg = (
            f"y contains labels that are not in classes: {np.unique(y[unseen])[:5].tolist()}; "
            "name every class in the first call of partial_fit"
        )
        raise ValueError(msg)
    return classes, codes.astype(np.int32)


def in_dtype(labels: HostArray, dtype: Any) -> tuple[HostArray, HostArray]:
    """Return numbers in another dtype, and where they are the same: NumPy compares rounded ones.

    Examples
    --------
    >>> in_dtype(np.asarray([1, 2**53 + 1]), np.dtype(float))[1]
    array([ True, False])
    """
    if dtype == labels.dtype or labels.dtype.kind not in "biuf" or dtype.kind not in "biuf":
        return labels, np.ones(labels.shape, dtype=bool)
    with np.errstate(invalid="ignore", over="ignore"):
        moved = labels.astype(dtype)
        return moved, (moved == labels) & (moved.astype(labels.dtype) == labels)


def labels_on(backend: Backend, classes: HostArray) -> Array | None:
    """Return the classes on a backend, None where it cannot hold every one exactly.

    Examples
    --------
    >>> from xplinear.backends import get_backend
    >>> labels_on(get_backend("numpy"), np.asarray([3, 5]))
    array([3, 5])
    >>> labels_on(get_backend("numpy"), np.asarray(["no", "yes"]))
    """
    if classes.dtype.kind not in "biuf":
        return None
    try:
        there = backend.asarray(classes)
    except TypeError:  # array-api-strict has no float16
        return None
    moved = classes.astype(name_of(there.dtype))
    whole = moved.dtype.kind in "iu" or classes.dtype.kind not in "iu"
    return there if whole and (moved == classes).all() else None


def weights_of(
    sample_weight: Any,
    class_weight: Mapping[Any, float] | str | None,
    codes: HostArray,
    classes: HostArray,
) -> tuple[HostArray | None, float]:
    """Return weights ``(n,)`` in float64, class weights multiplied in; None if all are 1.

    The largest is 1: only ratios count, and weights of any size then fit any dtype. Beside them
    log2 of the factor to the weights as given.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, all are zero, or a class is unknown.
    """
    weights, unit = None, 0.0
    if sample_weight is not None:
        weights, unit = _of_largest_1(host_weights(sample_weight, codes.shape[0]))
    if class_weight is not None:
        factors, of_classes = _of_largest_1(factors_of(class_weight, codes, classes, weights))
        weights = factors[codes] if weights is None else weights * factors[codes]
        weights, of_both = _of_largest_1(weights)
        unit += of_classes + of_both
    if weights is not None and not weights.any():
        msg = "sample_weight (times class_weight) is zero everywhere; at least one row must count"
        raise ValueError(msg)
    return weights, unit


def check_two_classes(weights: HostArray, codes: HostArray, classes: HostArray) -> None:
    """Raise ValueError if all rows of positive weight are of one class."""
    there = classes[np.unique(codes[weights > 0])].tolist()
    if len(there) < 2:
        msg = (
            f"y has one class only, {there[0]!r}, among the rows of positive weight (sample_weight "
            "times class_weight); a classifier needs at least two classes"
        )
        raise ValueError(msg)


def _of_largest_1(weights: HostArray) -> tuple[HostArray, float]:
    """Return weights over the largest, and its log2; weights of 0 as they are."""
    largest = float(weights.max())
    return (weights / largest, float(np.log2(largest))) if largest > 0.0 else (weights, 0.0)


def host_weights(sample_weight: Any, n: int, models: int = 1) -> HostArray:
    """Return the weights as they are given, ``(n,)`` or for many models ``(n, m)``, in float64."""
    refuse_masked("sample_weight", sample_weight)
    with naming("sample_weight"):
        given = on_host("sample_weight", sample_weight)
        if is_scipy(given):
            msg = "sample_weight is a sparse matrix; give its rows as an array: toarray()"
            raise TypeError(msg)
        weights = np.asarray(given)
        texts = weights.dtype.kind == "O" and any(isinstance(a, (str, bytes)) for a in weights.flat)
        if weights.dtype.kind in "cmMSU" or texts:
            kind = "text" if texts else f"dtype {weights.dtype}"
            msg = f"sample_weight is of {kind}; weights must be real numbers"
            raise ValueError(msg)
        weights = weights.astype(np.float64)
    weights = np.full(n, weights) if weights.ndim == 0 else weights
    problem = None
    own = weights.ndim == 2 and models > 1
    if own and weights.shape != (n, models):
        each = f"{(n, models)}: one weight per row and label, or per row, {(n,)}"
        problem = f"sample_weight.shape == {weights.shape}, expected {each}"
    elif weights.ndim != 1 and not own:
        problem = f"sample_weight must be 1d, one weight per row, got shape {weights.shape}"
    elif not own and weights.shape != (n,):
        problem = f"sample_weight.shape == {weights.shape}, expected {(n,)}: one weight per row"
    elif not np.isfinite(weights).all():
        problem = "Input sample_weight contains NaN or infinity; give finite weights"
    elif (weights < 0).any():
        problem = "sample_weight contains negative values; use 0 to leave a row out"
    if problem:
        raise ValueError(problem)
    return weights


def factors_of(
    class_weight: Mapping[Any, float] | str,
    codes: HostArray,
    classes: HostArray,
    weights: HostArray | None,
) -> HostArray:
    """Return what each class's rows weigh more, ``(k,)``."""
    if isinstance(class_weight, str):
        counts = np.bincount(codes, weights=weights, minlength=len(classes))
        return counts.sum() / (len(classes) * np.where(counts > 0, counts, 1.0))
    known = classes.tolist()
    # By value: a label may come from any library, and its hash says nothing.
    with naming("class_weight"):
        given = [_plain(label) for label in class_weight]
    in_y = set(known)
    unknown = [label for label in given if label not in in_y]
    if len(set(given)) < len(given):
        msg = f"class_weight names a class twice: {given}"
        raise ValueError(msg)
    if unknown:
        msg = f"class_weight names {unknown}, which are not in y; its classes are {known[:10]}"
        raise ValueError(msg)
    weight, factor_of = number("[0, inf)"), dict(zip(given, class_weight.values(), strict=True))
    return np.asarray([weight("each class_weight", factor_of.get(a, 1.0)) for a in known])


def _plain(label: Any) -> Any:
    """Return the Python value of a label in an array or of a dtype of NumPy."""
    label = on_host("class_weight", label)
    return label.item() if isinstance(label, (np.ndarray, np.generic)) else label
