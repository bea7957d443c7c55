"""Bad input stops here, with an error that names it; the maths below trusts its arrays."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from sklearn.utils.validation import check_array, validate_data

from xplinear.arguments import naming, shown
from xplinear.backends import Backend, backend_of
from xplinear.backends.sparse import HostRows, canonical, is_scipy
from xplinear.data.remote import RemoteRows, is_remote
from xplinear.estimator.tables import matrix_of, table_of
from xplinear.namespace import Array, HostArray, accumulator, is_array, name_of

__all__ = [
    "check_features",
    "check_lengths",
    "check_precision",
    "check_width",
    "computation_dtype",
    "on_host",
    "refuse_masked",
    "sparse_on_host",
]

_CHECK_BYTES = 2**26
# Dtypes of rows: those that float32 holds, and wider ones.
_NARROW = ("bool", "int8", "int16", "uint8", "uint16", "float16", "bfloat16", "float32")
_WIDE = ("int32", "int64", "uint32", "uint64", "float64")
_PLAIN = np.dtype(np.float32).str, np.dtype(np.float64).str  # in the order of this machine


def _check_values(name: str, x: Array) -> Backend:
    """Return the backend of an array; raise TypeError if its values cannot be had."""
    backend = backend_of(x)
    problem = backend.refuses(x)
    if problem is None and backend.name != "numpy" and name_of(x.dtype) not in (*_NARROW, *_WIDE):
        if "complex" in name_of(x.dtype):
            msg = f"Complex data not supported: {name} is complex; pass its real part"
            raise ValueError(msg)
        problem = f"has dtype {name_of(x.dtype)}; convert it to one of {', '.join(_NARROW + _WIDE)}"
    if problem is not None:
        msg = f"{name} {problem}"
        raise TypeError(msg)
    return backend


def on_host(name: str, values: Any) -> Any:
    """Return arrays of any library, also in a list, on the host; anything else as it is."""
    if is_array(values) or backend_of(values).is_sparse(values):
        return _check_values(name, values).to_host(values)
    if isinstance(values, (list, tuple)) and values:
        first: Any = values[0]
        if is_array(first) and not isinstance(first, (np.ndarray, np.generic)):
            return [on_host(name, value) for value in cast(list[Any], values)]
    return values


def check_features(estimator: Any, X: Any, *, reset: bool) -> tuple[Array, HostArray | None]:
    """Return X as a finite numeric array ``(n, p)`` where it lives, and its columns' names, if any.

    A sparse matrix of any library comes to the host, as `canonical` makes it. Rows that are not in
    memory stay as they are: their numbers are checked when they are surveyed.

    Raises
    ------
    ValueError, TypeError
        If X is not two-dimensional, empty, not numeric, not finite, or, unless ``reset``, has
        other columns than the estimator was fitted with.
    """
    if is_remote(X):
        return X, _check_names(estimator, X, reset=reset)
    X = X if type(X) is np.ndarray else sparse_on_host(X)
    unnamed = reset or not hasattr(estimator, "feature_names_in_")
    if unnamed and _is_plain(X) and (reset or X.shape[1] == estimator.n_features_in_):
        return X, None
    # The estimator keeps what it knows until a fit succeeds: checks are made on a copy.
    probe = type(estimator)()
    if not reset:
        vars(probe).update(
            {key: value for key, value in vars(estimator).items() if key.endswith("_in_")}
        )
    if is_array(X) and (not isinstance(X, np.ndarray) or name_of(X.dtype) == "bfloat16"):
        return _check_device_array(estimator, X, reset=reset), None
    refuse_masked("X", X)
    if isinstance(X, (list, tuple)) and X and is_scipy(X[0]):
        msg = "X is a list of sparse matrices; make one of them: scipy.sparse.vstack(X)"
        raise TypeError(msg)
    if isinstance(X, np.ndarray) and X.dtype.kind == "V":
        msg = f"X has dtype {X.dtype}; convert it to one of {', '.join(_NARROW + _WIDE)}"
        raise TypeError(msg)
    with naming("X"):
        checked = _check_host_rows(estimator, probe, X, reset=reset)
    if checked.dtype.kind not in "biuf":
        msg = (
            f"X is of dtype {checked.dtype}, but features must be numbers: X.astype(float) converts"
        )
        raise ValueError(msg)
    longer = checked.dtype.kind == "f" and checked.dtype.itemsize > 8
    return _doubles(checked) if longer else checked, getattr(probe, "feature_names_in_", None)


def _check_names(estimator: Any, X: RemoteRows, *, reset: bool) -> HostArray | None:
    """Return the names of the features, if any, those the estimator was fitted with."""
    names = X.names
    if reset:
        return names
    check_width(estimator, X)
    known = getattr(estimator, "feature_names_in_", None)
    if names is not None and known is not None and list(names) != list(known):
        msg = (
            f"X has the columns {shown(list(names))}, and {type(estimator).__name__} was fitted "
            f"with {shown(list(known))}: select these, in their order"
        )
        raise ValueError(msg)
    return names


def check_width(estimator: Any, X: Any) -> None:
    """Raise ValueError unless X has as many columns as the estimator was fitted with."""
    p, known = X.shape[1], estimator.n_features_in_
    if p != known:
        name = type(estimator).__name__
        msg = f"X has {p} features, but {name} is expecting {known} features as input"
        raise ValueError(msg)


def sparse_on_host(X: Any) -> Any:
    """Return a sparse matrix of any library as a canonical one of SciPy, anything else as it is."""
    own = backend_of(X)
    if own.is_sparse(X):
        with naming("X"):
            X = on_host("X", X)
    return canonical(X) if is_scipy(X) else X


def _is_plain(X: Any) -> bool:
    """Whether it is a matrix in which scikit-learn, in the time of a prediction, finds no fault."""
    if is_scipy(X):
        values = X.data
    elif type(X) is np.ndarray and X.ndim == 2 and X.dtype.str in _PLAIN:
        values = X
    else:
        return False
    with np.errstate(all="ignore"):
        return 0 not in X.shape and bool(np.isfinite(values.sum()))


def _check_host_rows(estimator: Any, probe: Any, X: Any, *, reset: bool) -> HostRows:
    X = X if is_scipy(X) or is_array(X) else on_host("X", X)
    table = None if is_scipy(X) else table_of(X)
    if table is None:
        return validate_data(probe, X, reset=reset, dtype="numeric", accept_sparse="csr")
    # Names first: a wrong column is a better answer than what is wrong inside of it.
    validate_data(probe, cast(Any, X), reset=reset, skip_check_array=True)
    checked: Any = check_array
    return checked(matrix_of(table), estimator=estimator, input_name="X", accept_sparse="csr")


def refuse_masked(name: str, values: Any) -> None:
    """Raise ValueError if some values of a masked array of NumPy are missing."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        msg = f"{name} has masked values; fill them, {name}.filled(...), or leave these rows out"
        raise ValueError(msg)


def _doubles(X: HostArray) -> HostArray:
    """Return rows of longer floats in float64, in which no backend computes further."""
    with np.errstate(over="ignore"):
        rounded = X.astype(np.float64)
    beyond = np.flatnonzero(~np.isfinite(rounded).all(axis=0))
    if beyond.size:
        column = X[:, beyond[0]]
        msg = (
            f"X holds values that float64 cannot hold: column {beyond[0]} goes from "
            f"{column.min()!s} to {column.max()!s}; scale it"
        )
        raise ValueError(msg)
    return rounded


def _check_device_array(estimator: Any, X: Array, *, reset: bool) -> Array:
    name, backend = type(estimator).__name__, backend_of(X)
    if reset or not backend.traced(X):
        _check_values("X", X)
    xp = backend.xp
    if X.ndim != 2:
        msg = (
            f"X must have two axes, samples and features; it has shape {tuple(X.shape)}"
            + ": one sample is X[None, :]" * (X.ndim == 1)
        )
        raise ValueError(msg)
    n, p = X.shape
    if n == 0 or p == 0:
        msg = f"X is empty: {n} sample(s) and {p} feature(s) (shape={(n, p)}) while 1 is required"
        raise ValueError(msg)
    if not reset:
        check_width(estimator, X)
    if name_of(X.dtype) == "bfloat16" or xp.isdtype(X.dtype, "real floating"):
        rows, near = max(1, _CHECK_BYTES // p), backend.near(X)
        own = backend_of(near)
        finite = own.xp.stack(
            [own.xp.all(own.xp.isfinite(near[i : min(i + rows, n), :])) for i in range(0, n, rows)]
        )
        if not own.traced(finite) and not own.to_host(finite).all():
            msg = f"Input X contains NaN or infinity; {name} needs finite numbers: impute or drop"
            raise ValueError(msg)
    return X


def check_lengths(X: Array, y: Array) -> None:
    """Raise ValueError unless there is one label for each row, or prediction of it."""
    n, labels = X.shape[0], y.shape[0]
    if n != labels:
        msg = (
            f"Found input variables with inconsistent numbers of samples: [{n}, {labels}]: "
            "X needs one row, and y one label, per sample"
        )
        raise ValueError(msg)


def computation_dtype(X: Array, dtype: str | None, backend: Backend) -> Any:
    """Return the dtype to compute in: that of X if float32 or float64, else what holds X exactly.

    float16, bfloat16 and integers up to 16 bits compute in float32, wider integers in float64
    where the device has it.

    Raises
    ------
    ValueError
        If ``dtype`` is asked for, and missing on the device.
    """
    xp = backend.xp
    widest = accumulator(xp.empty((0,), **backend.kind(xp.float32)), xp=xp)
    if dtype is not None:
        if dtype == "float64" and widest != xp.float64:
            msg = f"dtype='float64' is not available on {backend.name}" + (
                ": call jax.config.update('jax_enable_x64', True) first" * ("jax" in backend.name)
            )
            raise ValueError(msg)
        return getattr(xp, dtype)
    return xp.float32 if name_of(X.dtype) in _NARROW else widest


def check_precision(precision: str, dtype: Any, backend: Backend) -> None:
    """Raise ValueError if ``precision`` is no choice for this dtype and backend."""
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
