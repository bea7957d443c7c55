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

from xplinear.backends import PRECISIONS, Backend, backend_of
from xplinear.namespace import Array, accumulator, is_array
from xplinear.tables import matrix_of, series_of, table_of

__all__ = [
    "Features",
    "check_features",
    "check_labels",
    "check_lengths",
    "check_precision",
    "check_weights",
    "computation_dtype",
    "encode_labels",
    "host_weights",
    "weights_and_unit",
]

HostArray = np.ndarray[Any, np.dtype[Any]]
_CHECK_BYTES = 2**26
_MISSING_LABELS = "Input y contains NaN or infinity; every row needs a label: drop the others"


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
    table = table_of(X)
    if table is None:
        checked: Any = validate_data(probe, cast(Any, X), reset=reset, dtype="numeric")
    else:
        # Names first: a wrong column is a better answer than what is wrong inside of it.
        validate_data(probe, cast(Any, X), reset=reset, skip_check_array=True)
        checked = check_array(matrix_of(table), estimator=estimator, input_name="X")
    X = checked
    return X, Features(X.shape[1], getattr(probe, "feature_names_in_", None))


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
        rows, near = max(1, _CHECK_BYTES // p), backend.near(X)
        own = backend_of(near)
        finite = own.xp.stack(
            [own.xp.all(own.xp.isfinite(near[i : min(i + rows, n), :])) for i in range(0, n, rows)]
        )
        if not own.to_host(finite).all():
            msg = f"Input X contains NaN or infinity; {name} needs finite numbers: impute or drop"
            raise ValueError(msg)
    return X


def check_lengths(X: Any, y: Any) -> int:
    """Return n, the number of rows of X; raise ValueError if y has another."""
    n, labels = int(_num_samples(X)), int(_num_samples(y))
    if n != labels:
        msg = (
            f"Found input variables with inconsistent numbers of samples: [{n}, {labels}]: "
            "X needs one row, and y one label, per sample"
        )
        raise ValueError(msg)
    return n


def check_labels(estimator: Any, y: Any) -> HostArray:
    """Return y as labels ``(n,)`` on the host, of any type that can be sorted."""
    if y is None:
        msg = (
            f"{type(estimator).__name__} requires y to be passed, but the target y is None: "
            "pass one label per row of X"
        )
        raise ValueError(msg)
    labels = _host_labels(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. "
            "Please change the shape of y to (n_samples,), for example using ravel().",
            DataConversionWarning,
            stacklevel=3,
        )
        labels = labels[:, 0]
    if labels.ndim != 1:
        msg = f"y should be a 1d array of labels, got an array of shape {labels.shape} instead."
        raise ValueError(msg)
    missing = labels.dtype.kind == "f" and not np.isfinite(labels).all()
    if missing or (labels.dtype.kind == "O" and any(label != label for label in labels)):  # noqa: PLR0124 - only NaN differs from itself
        raise ValueError(_MISSING_LABELS)
    kinds = set(map(type, labels.tolist())) if labels.dtype.kind in "OS" else set[type]()
    if bytes in kinds:
        msg = "y holds labels of type bytes; make them strings: [label.decode() for label in y]"
        raise ValueError(msg)
    if kinds and all(issubclass(kind, (int, float, np.number, np.bool_)) for kind in kinds):
        labels = np.asarray(labels.tolist())  # numbers in a column of objects
    try:
        check_classification_targets(labels)
    except TypeError as error:
        msg = f"y mixes labels that cannot be sorted ({error}); use one type for all"
        raise ValueError(msg) from error
    return labels


def _host_labels(y: Any) -> HostArray:
    if is_array(y):
        return backend_of(y).to_host(y)
    series = series_of(y)
    if series is None:
        return np.asarray(y)
    if series.null_count() > 0:
        raise ValueError(_MISSING_LABELS)
    return series.to_numpy()


def encode_labels(y: HostArray, classes: HostArray | None = None) -> tuple[HostArray, HostArray]:
    """Return the sorted classes and the code 0 … k−1 of each label.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or a label is not among the ``classes`` given.
    """
    if classes is None:
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            only = classes.tolist()[0]
            msg = f"y has one class only, {only!r}; a classifier needs at least two classes"
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


def _of_largest_1(weights: HostArray) -> tuple[HostArray, float]:
    """Return weights over the largest, and its log2; weights of 0 as they are."""
    largest = float(weights.max())
    return (weights / largest, float(np.log2(largest))) if largest > 0.0 else (weights, 0.0)


def host_weights(sample_weight: Any, n: int) -> HostArray:
    """Return the weights ``(n,)`` as they are given, in float64."""
    if is_array(sample_weight):
        sample_weight = backend_of(sample_weight).to_host(sample_weight)
    weights = np.asarray(sample_weight, dtype=np.float64)
    weights = np.full(n, weights) if weights.ndim == 0 else weights
    problem = None
    if weights.ndim != 1:
        problem = f"Sample weights must be 1D array or scalar, got shape {weights.shape}"
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
        if class_weight != "balanced":
            msg = f"class_weight must be a dict, 'balanced' or None, got {class_weight!r}"
            raise ValueError(msg)
        counts = np.bincount(codes, weights=weights, minlength=len(classes))
        return counts.sum() / (len(classes) * np.where(counts > 0, counts, 1.0))
    known = classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        msg = f"class_weight names {unknown}, which are not in y; its classes are {known[:10]}"
        raise ValueError(msg)
    factors = np.asarray([class_weight.get(label, 1.0) for label in known], dtype=np.float64)
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        msg = f"class_weight must hold finite weights of at least 0, got {dict(class_weight)}"
        raise ValueError(msg)
    return factors


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
        name = str(dtype).rpartition(".")[2]
        if name not in ("float32", "float64"):
            msg = f"dtype must be 'float32', 'float64' or None, got {dtype!r}"
            raise ValueError(msg)
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
    if precision not in PRECISIONS:
        msg = f"precision must be 'float32' or 'tf32', got {precision!r}"
        raise ValueError(msg)
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
