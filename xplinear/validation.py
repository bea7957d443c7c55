"""Bad input stops here, with an error that names it; the maths below trusts its arrays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _num_samples,  # pyright: ignore[reportPrivateUsage,reportUnknownVariableType]
    check_array,
    validate_data,
)

from xplinear.arguments import (
    DTYPE,
    NONE,
    naming,
    number,
    one_of,
    shown,
)
from xplinear.backends import PRECISIONS, Backend, backend_of
from xplinear.namespace import Array, accumulator, is_array
from xplinear.tables import matrix_of, series_of, table_of

__all__ = [
    "Features",
    "check_classes",
    "check_features",
    "check_groups",
    "check_labels",
    "check_lengths",
    "check_precision",
    "check_two_classes",
    "check_weights",
    "computation_dtype",
    "encode_labels",
    "host_weights",
    "weights_and_unit",
]

HostArray = np.ndarray[Any, np.dtype[Any]]
_CHECK_BYTES = 2**26
_MISSING_LABELS = (
    "Input {} contains NaN or infinity, or labels are missing (None, NA); every row needs a label: "
    "drop the others"
)


class Features(NamedTuple):
    """What a fit remembers of the columns of X."""

    n_features: int
    names: HostArray | None


def _is_bfloat16(X: Array) -> bool:
    """Return whether X is bfloat16: in NumPy a dtype of ml_dtypes that NumPy cannot classify."""
    return "bfloat16" in str(X.dtype)


def check_features(estimator: Any, X: Any, *, reset: bool) -> tuple[Array, Features]:
    """Return X as a finite numeric array ``(n, p)`` where it lives, and what its columns are.

    Raises
    ------
    ValueError, TypeError
        If X is not two-dimensional, sparse, empty, not numeric, not finite, or, unless
        ``reset``, has other columns than the estimator was fitted with.
    """
    # The estimator keeps what it knows until a fit succeeds: checks are made on a copy.
    probe = type(estimator)()
    if not reset:
        vars(probe).update(
            {key: value for key, value in vars(estimator).items() if key.endswith("_in_")}
        )
    if is_array(X) and (not isinstance(X, np.ndarray) or _is_bfloat16(X)):
        X = _check_device_array(estimator, X, reset=reset)
        return X, Features(X.shape[1], None)
    _refuse_masked("X", X)
    with naming("X"):
        table = table_of(X)
        if table is None:
            checked: Any = validate_data(probe, cast(Any, X), reset=reset, dtype="numeric")
        else:
            # Names first: a wrong column is a better answer than what is wrong inside of it.
            validate_data(probe, cast(Any, X), reset=reset, skip_check_array=True)
            checked = check_array(matrix_of(table), estimator=estimator, input_name="X")
    X = checked
    if X.dtype.kind not in "biuf":
        msg = f"X is of dtype {X.dtype}, but features must be numbers: X.astype(float) converts"
        raise ValueError(msg)
    return X, Features(X.shape[1], getattr(probe, "feature_names_in_", None))


def _refuse_masked(name: str, values: Any) -> None:
    """Raise ValueError if some values of a masked array of NumPy are missing."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        msg = f"{name} has masked values; fill them, {name}.filled(...), or leave these rows out"
        raise ValueError(msg)


def _check_device_array(estimator: Any, X: Array, *, reset: bool) -> Array:
    name, backend = type(estimator).__name__, backend_of(X)
    xp = backend.xp
    if X.ndim != 2:
        msg = f"X must have two axes, samples and features; it has shape {tuple(X.shape)}"
        raise ValueError(msg)
    n, p = X.shape
    if n == 0 or p == 0:
        msg = f"X is empty: {n} sample(s) and {p} feature(s) (shape={(n, p)}) while 1 is required"
        raise ValueError(msg)
    if not _is_bfloat16(X) and xp.isdtype(X.dtype, "complex floating"):
        msg = "Complex data not supported: X is complex; pass its real part"
        raise ValueError(msg)
    if not reset and p != estimator.n_features_in_:
        msg = f"X has {p} features, but {name} is expecting {estimator.n_features_in_} features"
        raise ValueError(msg)
    if _is_bfloat16(X) or xp.isdtype(X.dtype, "real floating"):
        rows = max(1, _CHECK_BYTES // p)
        finite = xp.stack(
            [xp.all(xp.isfinite(X[i : min(i + rows, n), :])) for i in range(0, n, rows)]
        )
        if not backend.to_host(finite).all():
            msg = f"Input X contains NaN or infinity; {name} needs finite numbers: impute or drop"
            raise ValueError(msg)
    return X


def check_lengths(X: Any, y: Any) -> int:
    """Return n, the number of rows of X; raise ValueError if y has another."""
    with naming("X"):
        n = int(_num_samples(X))
    labels = int(_num_samples(y))
    if n != labels:
        msg = (
            f"Found input variables with inconsistent numbers of samples: [{n}, {labels}]: "
            "X needs one row, and y one label, per sample"
        )
        raise ValueError(msg)
    return n


def check_classes(classes: Any) -> HostArray:
    """Return the classes ``(k,)`` of a model that is made, not fitted, on the host."""
    _refuse_masked("classes", classes)
    with naming("classes"):
        labels = _host_labels(classes, "classes")
        distinct = labels.ndim == 1 and len(set(labels.tolist())) == len(labels) >= 2
        if not distinct or any(label is None or label != label for label in labels.tolist()):  # noqa: PLR0124 - only NaN differs from itself
            msg = f"classes must be two or more different labels, got {shown(classes)}"
            raise ValueError(msg)
    return labels


def check_groups(groups: Any, n: int) -> HostArray:
    """Return groups ``(n,)`` on the host."""
    _refuse_masked("groups", groups)
    with naming("groups"):
        groups = backend_of(groups).to_host(groups) if is_array(groups) else np.asarray(groups)
    if groups.shape != (n,):
        msg = f"groups must have one entry per row of X, shape ({n},), got shape {groups.shape}"
        raise ValueError(msg)
    return groups


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
    _refuse_masked(name, y)
    with naming(name):
        labels = _host_labels(y, name)
    if labels.dtype.kind == "V":
        msg = f"{name} has records of dtype {labels.dtype}; give one number or text per row"
        raise ValueError(msg)
    if labels.ndim == 2 and labels.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. "
            "Please change the shape of y to (n_samples,), for example using ravel().",
            DataConversionWarning,
            stacklevel=3,
        )
        labels = labels[:, 0]
    if labels.ndim != 1:
        msg = f"{name} should be a 1d array of labels, got an array of shape {labels.shape}"
        raise ValueError(msg)
    missing = labels.dtype.kind == "f" and not np.isfinite(labels).all()
    if missing or (labels.dtype.kind == "O" and any(map(_is_missing, labels))):
        raise ValueError(_MISSING_LABELS.format(name))
    kinds = set(map(type, labels.tolist())) if labels.dtype.kind in "OS" else set[type]()
    if bytes in kinds:
        strings = f"[label.decode() for label in {name}]"
        msg = f"{name} holds labels of type bytes; make them strings: {strings}"
        raise ValueError(msg)
    if kinds and all(issubclass(kind, (int, float, np.number, np.bool_)) for kind in kinds):
        labels = np.asarray(labels.tolist())  # numbers in a column of objects
    try:
        with naming(name):
            check_classification_targets(labels)
    except TypeError as error:
        msg = f"{name} mixes labels that cannot be sorted ({error}); use one type for all"
        raise ValueError(msg) from error
    return labels


def _is_missing(label: Any) -> bool:
    """Whether it is None, NaN, or pandas's NA, which cannot even be compared."""
    return label is None or type(label).__name__ == "NAType" or bool(label != label)  # noqa: PLR0124 - only NaN differs from itself


def _host_labels(y: Any, name: str) -> HostArray:
    if is_array(y):
        return backend_of(y).to_host(y)
    series = series_of(y)
    if series is None:
        labels = np.asarray(y)
        if labels.dtype.kind in "US" and labels.ndim == 1 and not isinstance(y, np.ndarray):
            kinds = {type(label).__name__ for label in y if not isinstance(label, (str, bytes))}
            if kinds:  # NumPy would make texts of numbers
                msg = f"{name} mixes text with labels of type {', '.join(kinds)}; use one type"
                raise ValueError(msg)
        return labels
    if series.null_count() > 0:
        raise ValueError(_MISSING_LABELS.format(name))
    return series.to_numpy()


def encode_labels(
    y: HostArray, classes: HostArray | None = None, *, name: str = "y"
) -> tuple[HostArray, HostArray]:
    """Return the sorted classes and the code 0 … k−1 of each label.

    ``name`` is that of the argument, for messages.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or a label is not among the ``classes`` given.
    """
    if classes is None:
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            only = ", ".join(map(repr, classes.tolist())) or "none at all"
            msg = f"{name} has one class only, {only}; a classifier needs at least two classes"
            raise ValueError(msg)
        return classes, codes.astype(np.int32)
    codes = np.clip(np.searchsorted(classes, y), 0, len(classes) - 1)
    unseen = classes[codes] != y
    if unseen.any():
        msg = (
            f"y contains labels that are not in classes: {np.unique(y[unseen])[:5].tolist()}; "
            "name every class in the first call of partial_fit"
        )
        raise ValueError(msg)
    return classes, codes.astype(np.int32)


def check_weights(
    sample_weight: Any,
    class_weight: Mapping[Any, float] | str | None,
    codes: HostArray,
    classes: HostArray,
) -> HostArray | None:
    """Return weights ``(n,)`` in float64, class weights multiplied in; None if all are 1.

    The largest is 1: only ratios count, and weights of any size then fit any dtype.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, all are zero, or a class is unknown.
    """
    return weights_and_unit(sample_weight, class_weight, codes, classes)[0]


def weights_and_unit(
    sample_weight: Any,
    class_weight: Mapping[Any, float] | str | None,
    codes: HostArray,
    classes: HostArray,
) -> tuple[HostArray | None, float]:
    """Return what `check_weights` does, and log2 of the factor to the weights as given."""
    weights, unit = None, 0.0
    if sample_weight is not None:
        weights, unit = _of_largest_1(host_weights(sample_weight, len(codes)))
    if class_weight is not None:
        factors, of_classes = _of_largest_1(_class_factors(class_weight, codes, classes, weights))
        weights = factors[codes] if weights is None else weights * factors[codes]
        weights, of_both = _of_largest_1(weights)
        unit += of_classes + of_both
    if weights is not None and not weights.any():
        msg = "sample_weight (times class_weight) is zero everywhere; at least one row must count"
        raise ValueError(msg)
    return weights, unit


def check_two_classes(weights: HostArray | None, codes: HostArray, classes: HostArray) -> None:
    """Raise ValueError if all rows of positive weight are of one class."""
    if weights is None:
        return
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


def host_weights(sample_weight: Any, n: int) -> HostArray:
    """Return the weights ``(n,)`` as they are given, in float64."""
    _refuse_masked("sample_weight", sample_weight)
    with naming("sample_weight"):
        if is_array(sample_weight):
            sample_weight = backend_of(sample_weight).to_host(sample_weight)
        weights = np.asarray(sample_weight)
        if weights.dtype.kind in "cmMSU":
            msg = f"sample_weight is of dtype {weights.dtype}; weights must be real numbers"
            raise ValueError(msg)
        weights = weights.astype(np.float64)
    weights = np.full(n, weights) if weights.ndim == 0 else weights
    problem = None
    if weights.ndim != 1:
        problem = f"sample_weight must be 1d, one weight per row, got shape {weights.shape}"
    elif weights.shape != (n,):
        problem = f"sample_weight.shape == {weights.shape}, expected {(n,)}: one weight per row"
    elif not np.isfinite(weights).all():
        problem = "Input sample_weight contains NaN or infinity; give finite weights"
    elif (weights < 0).any():
        problem = "sample_weight contains negative values; use 0 to leave a row out"
    if problem:
        raise ValueError(problem)
    return weights


def _class_factors(
    class_weight: Mapping[Any, float] | str,
    codes: HostArray,
    classes: HostArray,
    weights: HostArray | None,
) -> HostArray:
    if isinstance(class_weight, str):
        counts = np.bincount(codes, weights=weights, minlength=len(classes))
        return counts.sum() / (len(classes) * np.where(counts > 0, counts, 1.0))
    known = classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        msg = f"class_weight names {unknown}, which are not in y; its classes are {known[:10]}"
        raise ValueError(msg)
    weight = number("[0, inf)")
    return np.asarray([weight("each class_weight", class_weight.get(a, 1.0)) for a in known])


def computation_dtype(X: Array, dtype: str | None, backend: Backend) -> Any:
    """Return the dtype to compute in: that of X if float32 or float64, else what holds X exactly.

    float16, bfloat16 and integers up to 16 bits compute in float32, wider integers in float64
    where the device has it.

    Raises
    ------
    ValueError
        If ``dtype`` is asked for and unknown, or missing on the device.
    """
    xp = backend.xp
    widest = accumulator(xp.empty((0,), **backend.kind(xp.float32)), xp=xp)
    if dtype is not None:
        name = (DTYPE | NONE)("dtype", dtype)
        if name == "float64" and widest != xp.float64:
            msg = f"dtype='float64' is not available on {backend.name}" + (
                ": call jax.config.update('jax_enable_x64', True) first" * ("jax" in backend.name)
            )
            raise ValueError(msg)
        return getattr(xp, name)
    if _is_bfloat16(X) or xp.isdtype(X.dtype, "bool"):
        return xp.float32
    if xp.isdtype(X.dtype, "integral"):
        return xp.float32 if xp.iinfo(X.dtype).bits <= 16 else widest
    return xp.float32 if xp.finfo(X.dtype).bits <= 32 else widest


def check_precision(precision: str, dtype: Any, backend: Backend) -> None:
    """Raise ValueError if ``precision`` is unknown, or no choice for this dtype and backend."""
    one_of(*PRECISIONS)("precision", precision)
    if precision == "float32":
        return
    if backend.xp.finfo(dtype).bits != 32:
        msg = (
            "precision='tf32' multiplies float32, but the computation is in float64; set "
            "dtype='float32' or precision='float32'"
        )
        raise ValueError(msg)
    if not backend.tensor_cores:
        msg = (
            f"precision='tf32' needs the tensor cores of a GPU, and backend {backend.name!r} has "
            "none; set precision='float32', or a backend such as 'cupy', 'torch:cuda', 'jax:cuda'"
        )
        raise ValueError(msg)
