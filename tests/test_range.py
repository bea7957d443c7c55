"""Features far from zero, very large and very small: a fit finds what it finds in usual units."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xplinear as xl
from xplinear.backends import backend_of, get_backend
from xplinear.estimator.standardize import column_bounds, nearby
from xplinear.namespace import is_array

rng = np.random.default_rng(0)
SPREAD = rng.standard_normal((500, 3))
LABELS = np.argmax(SPREAD + 0.3 * rng.standard_normal((500, 3)), axis=1)
IRIS, SPECIES = load_iris(return_X_y=True)
FITS = {
    "lbfgs": {},
    "gd": {"solver": "gd", "tol": 1e-3},
    "sgd": {"solver": "sgd"},
    "l1": {"penalty": "l1", "alpha": 0.01},
    "hinge": {"loss": "multiclass_hinge", "alpha": 0.1},
    "squared error": {"loss": "squared_error"},
    "early stopping": {"early_stopping": True},
}
FAR = [  # centre, spread, dtype
    (20000.0, 1.0, "float32"),
    (1e6, 1.0, "float32"),
    (-1.7e9, 1e3, "float32"),
    (1e9, 1.0, "float64"),
    (1e15, 8.0, "float64"),
    (1e30, 1e26, "float32"),
    (1e-20, 1e-23, "float64"),
]


def host(x):
    return backend_of(x).fetch(x) if is_array(x) else np.asarray(x)


def fitted(rows, labels, **settings):
    return xl.LinearClassifier(**{"random_state": 0, "alpha": 1e-3} | settings).fit(rows, labels)


def rescaled(rows, labels, **settings):
    """Return a fit that says it was made of rescaled features."""
    with pytest.warns(UserWarning, match=r"multiplied by a power of 2.*standardize=True"):
        return fitted(rows, labels, **settings)


def far(centre, spread, dtype):
    """Return rows whose first column lies far from zero, and the same rows brought near."""
    rows = SPREAD.copy()
    rows[:, 0] = centre + spread * rows[:, 0]
    rows = rows.astype(dtype)
    near = rows.astype(np.float64)
    near[:, 0] = (near[:, 0] - np.float64(np.dtype(dtype).type(centre))) / spread
    return rows, near


class TestOutOfRange:
    @pytest.mark.parametrize(
        ("power", "dtype"),
        [
            *((-664, "float64"), (530, "float64"), (1015, "float64"), (-980, "float64")),
            *((-100, "float32"), (63, "float32"), (120, "float32"), (-105, "float32")),
        ],
    )
    @pytest.mark.parametrize("name", FITS)
    def test_a_power_of_2_changes_nothing(self, name, power, dtype):
        rows = SPREAD.astype(dtype)
        clf = rescaled(np.ldexp(rows, power), LABELS, **FITS[name])
        plain = fitted(rows, LABELS, **FITS[name])
        expected = plain.decision_function(rows)
        np.testing.assert_array_equal(clf.decision_function(np.ldexp(rows, power)), expected)
        assert clf.objective_ == plain.objective_
        if abs(power) < 900:
            np.testing.assert_allclose(
                np.ldexp(clf.coef_.astype(float), power), plain.coef_, rtol=1e-6
            )
        np.testing.assert_allclose(clf.intercept_, plain.intercept_, rtol=1e-6)

    @pytest.mark.parametrize(
        ("factor", "dtype"),
        [
            *((1e-200, "float64"), (1e160, "float64"), (1e-30, "float32"), (1e19, "float32")),
            *((1e30, "float32"), (1e-35, "float32"), (4e37, "float32"), (1e-300, "float64")),
        ],
    )
    def test_iris(self, library, factor, dtype):
        rows = library.asarray((IRIS * factor).astype(dtype))
        clf = rescaled(rows, SPECIES, alpha=1e-4)
        assert clf.score(rows, SPECIES) >= 0.97
        assert clf.certificate_.reasons == ("converged",)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scaled = fitted(rows, SPECIES, standardize=True, alpha=0.01)
        same = fitted(IRIS, SPECIES, standardize=True, alpha=0.01)
        np.testing.assert_allclose(
            host(scaled.predict_proba(rows)), same.predict_proba(IRIS), atol=2e-3
        )

    def test_one_column_beside_good_ones(self, library, dtype):
        size = {"float32": 1e30, "float64": 1e200}[dtype]
        for factor in (size, 1 / size):
            rows = SPREAD.copy()
            rows[:, 1] *= factor
            clf = rescaled(library.asarray(rows, dtype), LABELS)
            assert clf.score(library.asarray(rows, dtype), LABELS) > 0.85
            # The others are as they were.
            other = fitted(library.asarray(SPREAD, dtype), LABELS)
            np.testing.assert_allclose(
                host(clf.coef_)[:, [0, 2]], host(other.coef_)[:, [0, 2]], rtol=0.05
            )

    def test_columns_of_every_size(self):
        rows = np.ldexp(SPREAD, [-900, 0, 900])
        clf = rescaled(rows, LABELS)
        np.testing.assert_array_equal(
            clf.decision_function(rows), fitted(SPREAD, LABELS).decision_function(SPREAD)
        )

    @pytest.mark.parametrize("fit_intercept", [True, False])
    @pytest.mark.parametrize("constant", [0.0, 3.0, 1e30, 1e-30])
    def test_constant_features(self, library, dtype, constant, fit_intercept):
        # Without an intercept a constant feature is one.
        rows = np.full((150, 3), constant)
        rows = library.asarray(rows, dtype)
        labels = np.r_[np.zeros(100, int), np.ones(50, int)]
        with warnings.catch_warnings():
            warnings.simplefilter("error" if fit_intercept and constant > 1e3 else "ignore")
            clf = fitted(rows, labels, fit_intercept=fit_intercept, alpha=1e-3)
        assert (host(clf.predict(rows)) == 0).all()
        if constant and (fit_intercept or dtype == "float32"):
            share = host(clf.predict_proba(rows))[0, 0]
            assert share == pytest.approx(2 / 3, abs=0.02)

    def test_cross_validation(self, library):
        rows = library.asarray(np.ldexp(SPREAD, -100), "float32")
        usual = library.asarray(SPREAD, "float32")
        with pytest.warns(UserWarning, match=r"power of 2"):
            clf = xl.LinearClassifierCV([0.1, 0.01], cv=3, scoring="log_loss").fit(rows, LABELS)
        plain = xl.LinearClassifierCV([0.1, 0.01], cv=3, scoring="log_loss").fit(usual, LABELS)
        np.testing.assert_array_equal(host(clf.cv_scores_), host(plain.cv_scores_))
        np.testing.assert_array_equal(host(clf.predict(rows)), host(plain.predict(usual)))
        np.testing.assert_allclose(
            np.ldexp(host(clf.coefs_paths_), -100), host(plain.coefs_paths_), rtol=1e-5
        )
        automatic, other = (
            xl.LinearClassifierCV(3, cv=3).fit(a, LABELS).alphas_ for a in (usual, usual)
        )
        np.testing.assert_allclose(automatic, other)

    def test_partial_fit(self, library):
        tiny, usual = (library.asarray(np.ldexp(SPREAD, e), "float32") for e in (-100, 0))
        clf, plain = (xl.LinearClassifier(random_state=0) for _ in range(2))
        with pytest.warns(UserWarning, match=r"power of 2"):
            clf.partial_fit(tiny, LABELS, classes=[0, 1, 2])
        clf.partial_fit(tiny, LABELS)  # the same units, without another word
        for _ in range(2):
            plain.partial_fit(usual, LABELS, classes=[0, 1, 2])
        np.testing.assert_array_equal(
            host(clf.decision_function(tiny)), host(plain.decision_function(usual))
        )

    def test_warm_start(self):
        rows = np.ldexp(SPREAD, -700)
        clf = rescaled(rows, LABELS, warm_start=True, solver="gd", tol=1e-4)
        first = clf.objective_
        with pytest.warns(UserWarning, match=r"power of 2"):
            clf.fit(rows, LABELS)
        assert clf.history_["loss"][0] == pytest.approx(first, rel=0.2)

    @pytest.mark.parametrize("exponent", [-14, -6, 0, 6, 12, 14])
    def test_ordinary_features_stay_as_they_are(self, exponent, dtype):
        rows = (SPREAD[:, :2] * 10.0**exponent).astype(dtype)
        assert nearby(*column_bounds(rows, backend=get_backend("numpy")), 32, centre=True) is None

    @pytest.mark.parametrize("value", [1e200, 1e-200])
    def test_float32_asked_for(self, value):
        rows = SPREAD * value
        clf = rescaled(rows, LABELS, dtype="float32")
        assert clf.coef_.dtype == np.float32
        plain = fitted(SPREAD, LABELS)
        np.testing.assert_allclose(clf.predict_proba(rows), plain.predict_proba(SPREAD), atol=0.05)

    def test_rows_beyond_the_model_at_prediction(self):
        clf = fitted(SPREAD.astype(np.float32), LABELS)
        with pytest.raises(
            ValueError, match=r"float32 cannot hold.*column 1 goes from 0 to 1e\+40"
        ):
            clf.predict(np.asarray([[0.0, 0.0, 0.0], [0.0, 1e40, 0.0]]))


class TestFarFromZero:
    @pytest.mark.parametrize("standardize", [False, True])
    @pytest.mark.parametrize(("centre", "spread", "dtype"), FAR)
    def test_predictions_do_not_cancel(self, library, centre, spread, dtype, standardize):
        rows, near = far(centre, spread, dtype)
        if not standardize and abs(np.log10(spread)) > 4:
            near[:, 0] *= np.ldexp(1.0, 0)
        settings = {"standardize": standardize, "tol": 1e-4}
        with warnings.catch_warnings():
            # The first column in other units is another problem, unless it is standardized.
            warnings.simplefilter("ignore")
            clf = fitted(library.asarray(rows), LABELS, **settings)
            if not standardize:
                unit = host(clf._shifted.standard.scale)[0]
                near[:, 0] *= spread * unit
            expected = fitted(near, LABELS, **settings)
        found = host(clf.predict_proba(library.asarray(rows)))
        np.testing.assert_allclose(found, expected.predict_proba(near), atol=2e-3)

    @pytest.mark.parametrize("name", FITS)
    def test_by_every_solver(self, name):
        rows, near = far(20000.0, 1.0, "float32")
        near -= [0.5 * rows[:, 0].min() + 0.5 * rows[:, 0].max() - 20000.0, 0, 0]
        clf, other = (fitted(a, LABELS, **FITS[name]) for a in (rows, near.astype(np.float32)))
        np.testing.assert_allclose(
            clf.decision_function(rows),
            other.decision_function(near.astype(np.float32)),
            atol=1e-5,
        )

    @pytest.mark.parametrize(("centre", "spread", "dtype"), FAR)
    def test_standardized_as_a_scaler_does(self, centre, spread, dtype):
        rows, _ = far(centre, spread, dtype)
        settings = {"alpha": 0.01, "tol": 1e-9, "dtype": "float64"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rounding may end either run
            clf = fitted(rows, LABELS, standardize=True, **settings)
            wide = rows.astype(np.float64)
            wide -= wide[0]  # exact; beside 1e15 ± 8 the scaler sees no more than rounding
            pipe = make_pipeline(StandardScaler(), xl.LinearClassifier(**settings))
            pipe.fit(wide, LABELS)
        np.testing.assert_allclose(
            clf.decision_function(rows), pipe.decision_function(wide), atol=1e-6
        )

    def test_coefficients_are_for_x_itself(self):
        rows, near = far(1e4, 1.0, "float64")
        clf, other = (fitted(a, LABELS, tol=1e-9) for a in (rows, near))
        np.testing.assert_allclose(clf.coef_, other.coef_, atol=1e-6)
        scores = rows @ clf.coef_.T + clf.intercept_
        np.testing.assert_allclose(scores, clf.decision_function(rows), atol=1e-8)

    def test_copies_predict_the_same(self, library, tmp_path):
        rows, _ = far(1e6, 1.0, "float32")
        clf = fitted(library.asarray(rows), LABELS)
        expected = host(clf.predict_proba(library.asarray(rows)))
        clf.save(tmp_path / "model.safetensors")
        loaded = xl.load(tmp_path / "model.safetensors")
        for copy in (loaded, clf.to("numpy"), loaded.to("numpy"), clf.to_sklearn()):
            np.testing.assert_allclose(copy.predict_proba(rows), expected, atol=1e-5)
        loaded.partial_fit(rows, LABELS)  # goes on in the same coordinates
        assert loaded.score(rows, LABELS) > 0.8

    @pytest.mark.parametrize("standardize", [False, True])
    @pytest.mark.parametrize("case", [*FAR[:3], (1e4, 1.0, "float64"), (1e30, 1e26, "float32")])
    def test_onnx(self, case, standardize, tmp_path):
        pytest.importorskip("onnx")
        onnxruntime = pytest.importorskip("onnxruntime")
        rows, _ = far(*case)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clf = fitted(rows, LABELS, standardize=standardize)
        clf.to_onnx(tmp_path / "m.onnx")
        session = onnxruntime.InferenceSession(
            tmp_path / "m.onnx", providers=["CPUExecutionProvider"]
        )
        label, probabilities = session.run(None, {"X": rows.astype(np.float32)})
        stored = rows.astype(np.float32).astype(rows.dtype)
        np.testing.assert_allclose(probabilities, clf.predict_proba(stored), atol=1e-5)
        np.testing.assert_array_equal(label, clf.predict(stored))

    def test_onnx_takes_float32(self, tmp_path):
        pytest.importorskip("onnx")
        for power in (-664, 530):
            clf = rescaled(np.ldexp(SPREAD, power), LABELS)
            with pytest.raises(ValueError, match="ONNX files take X in float32"):
                clf.to_onnx(tmp_path / "m.onnx")

    def test_onnx_of_rescaled_features(self, tmp_path):
        pytest.importorskip("onnx")
        onnxruntime = pytest.importorskip("onnxruntime")
        for power in (-100, 100):
            rows = np.ldexp(SPREAD.astype(np.float32), power)
            clf = rescaled(rows, LABELS)
            clf.to_onnx(tmp_path / "m.onnx")
            session = onnxruntime.InferenceSession(
                tmp_path / "m.onnx", providers=["CPUExecutionProvider"]
            )
            _, probabilities = session.run(None, {"X": rows})
            np.testing.assert_allclose(probabilities, clf.predict_proba(rows), atol=1e-5)

    def test_without_an_intercept_nothing_is_centred(self):
        rows, _ = far(20000.0, 1.0, "float64")
        assert fitted(rows, LABELS, fit_intercept=False, solver="gd", tol=0.1)._shifted is None

    def test_warm_start_goes_on_from_the_same_point(self):
        rows, _ = far(1e6, 1.0, "float32")
        clf = fitted(rows, LABELS, warm_start=True, solver="gd", tol=1e-3)
        before = clf.history_["loss"]
        after = clf.fit(rows, LABELS).history_["loss"]
        assert before[0] > 1.5 * before[-1]
        assert after[0] == pytest.approx(before[-1], rel=1e-3)

    def test_two_values_one_step_apart(self):
        low = np.float32(1.7e9)
        column = np.where(LABELS == 0, low, np.nextafter(low, np.float32(np.inf)))
        rows = np.c_[column, SPREAD[:, 1:]].astype(np.float32)
        clf = fitted(rows, LABELS == 0, standardize=True)
        assert clf.score(rows, LABELS == 0) == 1.0

    def test_rounding_of_a_constant_is_no_feature(self):
        noise = np.where(rng.random(500) < 0.5, 0.3, 0.1 + 0.2)
        clf = fitted(np.c_[SPREAD, noise], LABELS, standardize=True)
        assert not clf.coef_[:, 3].any()


class TestBounds:
    @pytest.mark.parametrize("stored", ["float64", "float32", "int16", "uint8", "bool"])
    @pytest.mark.parametrize("shape", [(1, 3), (63, 1), (65, 3), (1000, 5), (300, 70)])
    def test_are_those_of_the_columns(self, backend, stored, shape):
        X = (100 * np.random.default_rng(1).random(shape)).astype(stored)
        rows = np.flatnonzero(np.random.default_rng(2).random(len(X)) < 0.5)
        for index in (None, rows) if rows.size else (None,):
            low, high = column_bounds(backend.asarray(X), index, backend=backend.backend)
            seen = X if index is None else X[index]
            np.testing.assert_array_equal(low, seen.min(axis=0))
            np.testing.assert_array_equal(high, seen.max(axis=0))
        strided = np.asfortranarray(np.repeat(X, 2, axis=1))[:, ::2]
        np.testing.assert_array_equal(
            column_bounds(strided, backend=get_backend("numpy"))[1], X.max(axis=0)
        )

    def test_by_blocks(self, backend):
        X = np.random.default_rng(1).standard_normal((5000, 3))
        low, high = column_bounds(backend.asarray(X), backend=backend.with_blocks_of(999).backend)
        np.testing.assert_array_equal([low, high], [X.min(axis=0), X.max(axis=0)])

    def test_what_is_centred_and_scaled(self):
        low = np.asarray([0.0, 20000.0, 1e30, -8e-30, 5.0, 7e20])
        high = np.asarray([9.0, 20001.0, 3e30, 8e-30, 5.0, 7e20])
        found = nearby(low, high, 32, centre=True)
        np.testing.assert_array_equal(found.centre, [0, 20000.5, 0, 0, 0, 7e20])
        np.testing.assert_array_equal(found.power[[0, 1, 4, 5]], 0)
        spread = np.ldexp((high - low) / 2, found.power)
        assert (spread[2:4] >= 2.0).all()
        assert (spread[2:4] < 4.0).all()
        assert nearby(low[[0, 4]], high[[0, 4]], 32, centre=True) is None


def test_what_a_device_cannot_hold_is_refused():
    """JAX has no float64 unless asked: rows do not become infinite, or all alike, in silence."""
    pytest.importorskip("jax")
    code = """
import numpy as np, xplinear as xl
X = np.random.default_rng(0).standard_normal((90, 2))
for rows in (1e200 * X, 1e-200 * X, 1e12 + X):
    try:
        xl.LinearClassifier(backend="jax:cpu").fit(rows, np.arange(90) % 2)
        print("fitted")
    except ValueError as error:
        print(error)
clf = xl.LinearClassifier(backend="jax:cpu").fit(20000 + X, X[:, 0] > 0)
print(clf.score(20000 + X, X[:, 0] > 0))
"""
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    *refused, score = run.stdout.strip().split("\n")
    assert len(refused) == 3
    for line in refused:
        assert "float32 cannot hold" in line
        assert "jax_enable_x64" in line
    assert float(score) > 0.95


def test_onnx_of_features_that_float32_cannot_tell_apart(tmp_path):
    pytest.importorskip("onnx")
    rows = np.random.default_rng(0).standard_normal((90, 3))
    clf = xl.LinearClassifier().fit(rows + 1e9, rows.argmax(axis=1))
    with pytest.warns(UserWarning, match="takes X in float32, which moves the scores"):
        clf.to_onnx(tmp_path / "m.onnx")
