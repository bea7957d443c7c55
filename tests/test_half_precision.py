"""X stored in float16 or bfloat16: half the memory, the results of the same numbers in float32."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import xplinear as xl
from xplinear.data import ArrayData

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
