"""X stored in float16 or bfloat16: half the memory, the results of the same numbers in float32."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import xplinear as xl
from xplinear.backends.halves import half_bounds
from xplinear.data import ArrayData
from xplinear.estimator.standardize import column_bounds

HALVES = "float16", "bfloat16"


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)  # integers up to 16: exact in eight bits of mantissa
    return X.astype(np.float32)[:300], y[:300]


@pytest.fixture(params=HALVES)
def stored(request, backend):
    """Return a function that stores rows on the backend in half precision."""
    name = request.param
    if backend.backend.name.startswith("array_api_strict"):
        pytest.skip("array-api-strict has neither")
    if hasattr(backend.xp, name):
        return lambda X: backend.asarray(X, name)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return lambda X: backend.asarray(X.astype(getattr(ml_dtypes, name)))


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_a_fit_is_that_of_the_same_numbers(backend, stored, digits, solver, monkeypatch):
    seen = set()
    checked = ArrayData.__post_init__

    def watched(data):
        checked(data)
        seen.add((str(data.X.dtype).rpartition(".")[2], str(data.dtype).rpartition("float")[2]))

    X, y = digits
    clf = xl.LinearClassifier(solver=solver, alpha=0.1, max_iter=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        full = clf.fit(backend.asarray(X), y)
        coef, Z = (
            backend.to_numpy(full.coef_),
            backend.to_numpy(full.decision_function(backend.asarray(X))),
        )
        half = stored(X)
        monkeypatch.setattr(ArrayData, "__post_init__", watched)
        clf.fit(half, y)
    np.testing.assert_allclose(backend.to_numpy(clf.coef_), coef, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        backend.to_numpy(clf.decision_function(half)), Z, rtol=1e-4, atol=1e-4
    )
    assert clf.coef_.dtype == backend.xp.float32
    assert clf.score(half, y) > 0.9
    (name,) = {name for name, _ in seen}
    assert name in HALVES, "no copy in float32"


def test_the_other_methods(backend, stored, digits):
    X, y = digits
    half = stored(X)
    clf = xl.LinearClassifier(early_stopping=True, max_iter=3, random_state=0).fit(half, y)
    assert backend.to_numpy(clf.predict_proba(half)).shape == (300, 10)
    clf.partial_fit(half, y)
    assert backend.to_numpy(clf.predict(half)).shape == (300,)
    grid = xl.LinearClassifierCV([10.0, 1.0], cv=3, tol=1e-2).fit(half, y)
    full = xl.LinearClassifierCV([10.0, 1.0], cv=3, tol=1e-2).fit(backend.asarray(X), y)
    np.testing.assert_allclose(grid.cv_scores_, full.cv_scores_)


def test_bad_rows_are_refused(backend, stored, digits):
    X, y = digits
    half = stored(np.where(X > 15, np.inf, X))
    with pytest.raises(ValueError, match="infinity"):
        xl.LinearClassifier().fit(half, y)
    clf = xl.LinearClassifier(max_iter=1, solver="sgd").fit(stored(X), y)
    with pytest.raises(ValueError, match="X has 5 features, but LinearClassifier is expecting 64"):
        clf.predict(stored(X[:, :5]))


def test_bfloat16_of_the_host_moves_to_every_backend(backend, digits):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    X, y = digits
    half = X.astype(ml_dtypes.bfloat16)[::-1]
    half.flags.writeable = False
    clf = xl.LinearClassifier(solver="sgd", max_iter=2, random_state=0, backend=backend.backend)
    if backend.backend.name.startswith("array_api_strict"):
        with pytest.raises(TypeError, match="no arrays of dtype bfloat16; convert them to float32"):
            clf.fit(half, y)
        return
    there = backend.backend.asarray(half)
    assert "bfloat16" in str(there.dtype)
    np.testing.assert_array_equal(backend.to_numpy(there).astype(np.float32), X[::-1])
    Z = clf.fit(half, y[::-1]).decision_function(half)
    assert (type(Z), Z.dtype) == (np.ndarray, np.float32)
    assert clf.score(half, y[::-1]) > 0.8


ALL = np.arange(2**16, dtype=np.uint16).view(np.float16)  # every number there is
LAYOUTS = {
    "one axis": lambda X: X.reshape(-1),
    "rows": lambda X: X,
    "columns": np.asfortranarray,
    "apart": lambda X: X[::3, 1::2],
    "backwards": lambda X: X[::-1],
    "read-only": lambda X: np.frombuffer(X.tobytes(), np.float16).reshape(X.shape),
    "none": lambda X: X[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("finite", [True, False])
def test_numpy_widens_every_number_to_itself(layout, dtype, finite):
    numbers = np.where(np.isfinite(ALL), ALL, 1).astype(np.float16) if finite else ALL
    X = LAYOUTS[layout](np.tile(numbers, 5).reshape(-1, 64))
    wide, own = xl.get_backend("numpy").astype(X, dtype), X.astype(dtype)
    assert (wide.dtype, wide.strides) == (own.dtype, own.strides)
    np.testing.assert_array_equal(wide, own)
    np.testing.assert_array_equal(np.signbit(wide), np.signbit(own))


def test_numpy_widens_with_no_kernel_as_well(monkeypatch):
    backend = xl.get_backend("numpy")
    assert backend.widened(ALL, np.float32) is not None
    assert backend.reference().widened(ALL, np.float32) is None
    np.testing.assert_array_equal(backend.reference().astype(ALL, np.float32), ALL)
    for X, dtype in ((ALL.astype(">f2"), "f4"), (ALL, "f2"), (ALL.view(np.int16), "f4")):
        assert backend.widened(X, np.dtype(dtype)) is None
        np.testing.assert_array_equal(backend.astype(X, np.dtype(dtype)), X.astype(dtype))


def test_the_least_numbers_are_not_taken_for_0():
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot be told to")
    try:
        wide = xl.get_backend("numpy").astype(ALL, np.float32)
        least = ALL.astype(np.float32)
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(wide, least)
    assert least[1] > 0.0


def test_bounds_of_columns_of_halves():
    finite = np.where(np.isfinite(ALL), ALL, 0).astype(np.float16)
    X = np.random.default_rng(0).permutation(finite).reshape(-1, 128)
    for part in (X, X[:1], X[::-2, ::3], X[:40] * np.float16(0)):
        low, high = column_bounds(part, backend=xl.get_backend("numpy"))
        np.testing.assert_array_equal(low, part.astype(np.float64).min(axis=0))
        np.testing.assert_array_equal(high, part.astype(np.float64).max(axis=0))
    for wrong in (np.nan, -np.nan, np.inf, -np.inf):
        assert not np.isfinite(half_bounds(np.asarray([[1.0], [wrong], [2.0]], np.float16))).all()
