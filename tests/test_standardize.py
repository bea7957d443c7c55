"""standardize=True: StandardScaler before the classifier, without another X."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xplinear as xl
from xplinear.backends import backend_of
from xplinear.data import StreamedData
from xplinear.data.rows import FarStandard
from xplinear.estimator.problem import prepare
from xplinear.estimator.settings import Settings, given
from xplinear.estimator.standardize import restandardized, standard_of
from xplinear.namespace import is_array
from xplinear.solvers.metric import feature_moments

rng = np.random.default_rng(0)
SCALES = np.asarray([1.0, 100.0, 1e-3, 5.0, 0.0])
X = rng.standard_normal((150, 5)) * SCALES + [3.0, -50.0, 0.2, 0.0, 0.1]  # the last is constant
Y = np.argmax((X / np.where(SCALES, SCALES, 1))[:, :3] - [3.0, -0.5, 200.0], axis=1)
BINARY = (Y == 1).astype(int)
WEIGHTS = np.r_[np.zeros(10), rng.uniform(0.5, 2.0, 140)]
FITS = {
    "gd": {"solver": "gd", "tol": 1e-3},
    "lbfgs": {"solver": "lbfgs", "tol": 1e-6},
    "squared_error": {"loss": "squared_error", "solver": "lbfgs", "tol": 1e-6},
    "proximal_lbfgs": {"penalty": "l1", "solver": "proximal_lbfgs", "tol": 1e-6},
    "smoothing": {"loss": "multiclass_hinge", "solver": "smoothing", "alpha": 0.1, "tol": 1e-3},
    "sgd": {"penalty": "elastic_net", "solver": "sgd", "max_iter": 4},
    "early stopping": {"early_stopping": True, "max_iter": 5},
    "class weights": {"class_weight": "balanced"},
    "no intercept": {"fit_intercept": False},
}


def host(x):
    return backend_of(x).fetch(x) if is_array(x) else np.asarray(x)


def piped(X, y, weights=None, **settings):
    """Return the reference, on NumPy, with the same weights for both of its steps."""
    scaler = StandardScaler(with_mean=settings.get("fit_intercept", True))
    pipeline = make_pipeline(scaler, xl.LinearClassifier(**settings))
    parts = {f"{name}__sample_weight": weights for name, _ in pipeline.steps}
    return pipeline.fit(X, y, **parts)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weighted"])
def test_equals_a_scaler_before_the_classifier(numpy_backend, name, weights):
    equals_a_scaler(numpy_backend, name, weights)


@pytest.mark.parametrize("name", ["lbfgs", "sgd"])
def test_equals_a_scaler_on_every_backend(backend, name):
    equals_a_scaler(backend, name, WEIGHTS)


def equals_a_scaler(backend, name, weights):
    settings = {"alpha": 0.01, "random_state": 0} | FITS[name]
    for labels in (Y, BINARY) if name == "lbfgs" else (Y,):
        rows = backend.asarray(X)
        clf = xl.LinearClassifier(standardize=True, **settings).fit(rows, labels, weights)
        expected = piped(X, labels, weights, **settings)
        atol = 0.02 if name == "smoothing" else 1e-5  # there F is flat in the intercept
        np.testing.assert_allclose(
            host(clf.decision_function(rows)), expected.decision_function(X), atol=atol
        )
        assert clf.objective_ == pytest.approx(expected[-1].objective_, rel=1e-6)
        certificate, other = (getattr(a, "certificate_", None) for a in (clf, expected[-1]))
        assert (certificate is None) == (other is None)
        if certificate:
            np.testing.assert_allclose(certificate.gap, other.gap, atol=1e-6)
        if clf.fit_intercept:
            assert not host(clf.coef_)[:, 4].any()
            weights_of_scaled = expected[-1].coef_ / expected[0].scale_
            np.testing.assert_allclose(host(clf.coef_), weights_of_scaled, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_rows_stay_as_they_are_stored(backend, stored):
    coarse = np.round(20 * X / np.where(SCALES, np.abs(X).max(axis=0), 1)).astype(stored)
    rows = backend.asarray(coarse)
    clf = xl.LinearClassifier(standardize=True, alpha=0.01, dtype="float64").fit(rows, Y)
    assert rows.dtype == getattr(backend.xp, stored, rows.dtype)
    expected = piped(coarse.astype(float), Y, alpha=0.01).decision_function(coarse.astype(float))
    np.testing.assert_allclose(host(clf.decision_function(rows)), expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore:a linear function separates")
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_feature_gets_weight_0(backend, dtype, constant):
    wide = np.c_[X[:, :4], np.full(len(X), constant)]
    for penalty in ("l2", "none"):
        clf = xl.LinearClassifier(standardize=True, penalty=penalty, tol=1e-3, alpha=0.01)
        coef = host(clf.fit(backend.asarray(wide, dtype), Y).coef_)
        assert np.isfinite(coef).all()
        assert not coef[:, 4].any()


def test_streamed_rows_are_standardized_too(backend):
    small = backend.with_blocks_of(1)
    F = small.objective(
        xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty(), np.tile(X, (5, 1)), np.tile(Y, 5)
    )
    F = replace(F, data=replace(F.data, standard=standard_of(F)))
    here = np.tile(X, (5, 1))
    streamed = StreamedData(
        here, F.data.y, backend=small.backend, standard=F.data.standard, dtype=F.data.dtype
    )
    params = backend.params(F)
    solver = xl.solvers.SGD(max_iter=1)
    for a, b in (
        (F.value(params), replace(F, data=streamed).value(params)),
        *zip(
            *(
                solver.step(G, solver.init(G, params)).params
                for G in (F, replace(F, data=streamed))
            ),
            strict=True,
        ),
    ):
        np.testing.assert_allclose(host(a), host(b), rtol=1e-9, atol=1e-12)
    block = host(F.data.sample(len(here)).X)
    np.testing.assert_allclose(block[:, :4], StandardScaler().fit_transform(here)[:, :4])
    assert not block[:, 4].any()


def test_units_there_and_back(backend):
    F = backend.objective(xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty(), X, Y)
    standard, params = standard_of(F), backend.params(F)
    back = restandardized(restandardized(params, standard, None, xp=F.xp), None, standard, xp=F.xp)
    np.testing.assert_allclose(host(back.W)[:4], host(params.W)[:4])
    np.testing.assert_allclose(host(back.b), host(params.b))
    # Weights of a constant feature are part of the intercept.
    moved = restandardized(params, None, standard, xp=F.xp)
    scaled = replace(F, data=replace(F.data, standard=standard))
    np.testing.assert_allclose(host(scaled.data_loss(moved)), host(F.data_loss(params)))


def test_warm_start_goes_on_from_the_same_point():
    clf = xl.LinearClassifier(solver="gd", standardize=True, alpha=0.01, tol=1e-4, warm_start=True)
    before = clf.fit(X, Y).history_["loss"]
    after = clf.fit(X, Y).history_["loss"]
    assert before[0] > 2.0 * before[-1]
    assert after[0] == pytest.approx(before[-1], rel=1e-3)


def test_partial_fit_names_the_remedy():
    clf = xl.LinearClassifier(standardize=True)
    assert not hasattr(clf, "partial_fit")
    with pytest.raises(AttributeError) as error:
        clf.partial_fit(X, Y, classes=[0, 1, 2])
    assert "partial_fit needs standardize=False" in str(error.value.__cause__)


def test_saved_moved_and_predicted_without_the_statistics(backend, tmp_path):
    clf = xl.LinearClassifier(standardize=True, alpha=0.01).fit(backend.asarray(X), Y)
    clf.save(tmp_path / "m.safetensors")
    again = xl.load(tmp_path / "m.safetensors")
    assert again.standardize
    for copy in (again, clf.to("numpy")):
        np.testing.assert_array_equal(copy.predict(X), host(clf.predict(backend.asarray(X))))
    scores = X @ host(clf.coef_).T + host(clf.intercept_)
    np.testing.assert_allclose(scores, again.decision_function(X))


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_cross_validation_standardizes_by_the_rows_trained_on(library, penalty):
    """Those of each fold for its scores, and all rows for the fit to them."""
    settings = {"penalty": penalty, "cv": 3, "scoring": "log_loss", "tol": 1e-6}
    rows = library.asarray(X)
    clf = xl.LinearClassifierCV([0.1, 0.01], standardize=True, **settings)
    clf.fit(rows, Y, WEIGHTS)
    scaler = StandardScaler().fit(X, sample_weight=WEIGHTS)
    scaled = xl.LinearClassifierCV([0.1, 0.01], **settings)
    scaled.fit(scaler.transform(X), Y, WEIGHTS)
    for f, (train, test) in enumerate(StratifiedKFold(3).split(X, Y)):
        own = StandardScaler().fit(X[train], sample_weight=WEIGHTS[train]).transform(X)
        fold = xl.LinearClassifierCV([0.1, 0.01], **settings | {"cv": [(train, test)]})
        expected = fold.fit(own, Y, WEIGHTS).cv_scores_[:, 0]
        np.testing.assert_allclose(clf.cv_scores_[:, f], expected, atol=1e-5)
    assert clf.alpha_ == scaled.alpha_
    np.testing.assert_allclose(
        host(clf.coefs_paths_), scaled.coefs_paths_ / scaler.scale_, rtol=1e-2, atol=1e-5
    )
    np.testing.assert_allclose(
        host(clf.decision_function(rows)),
        scaled.decision_function(scaler.transform(X)),
        atol=1e-4,
    )
    np.testing.assert_allclose(host(clf.intercepts_paths_)[clf.best_index_], host(clf.intercept_))
    automatic = xl.LinearClassifierCV(3, standardize=True, **settings).fit(rows, Y)
    expected = xl.LinearClassifierCV(3, **settings).fit(StandardScaler().fit_transform(X), Y)
    np.testing.assert_allclose(host(automatic.alphas_), expected.alphas_, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e-19, 1e19, 1e25, 1e34])
def test_features_whose_squares_leave_float32(backend, size):
    normal = rng.standard_normal((300, 3)).astype(np.float32)
    labels, power = np.argmax(normal, axis=1), np.float32(2.0 ** np.round(np.log2(size)))
    scales = np.asarray([power, 1.0, 1.0 / power], np.float32)
    clf, same = (
        xl.LinearClassifier(alpha=0.01, solver="lbfgs", standardize=True).fit(rows, labels)
        for rows in (backend.asarray(normal * scales), backend.asarray(normal))
    )
    np.testing.assert_allclose(host(clf.coef_) * scales, host(same.coef_), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(host(clf.intercept_), host(same.intercept_), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"fit_intercept": False}])
def test_what_the_standard_took_is_not_measured_again(backend, settings):
    clf = xl.LinearClassifier(standardize=True, backend=backend.backend, **settings)
    F = prepare(given(Settings, clf), X, Y, owner=clf).objective
    anew = feature_moments(replace(F, measured=None))
    assert feature_moments(F) is F.measured[1]
    for known, measured in zip(feature_moments(F), anew, strict=True):
        np.testing.assert_allclose(host(known), host(measured), rtol=1e-5, atol=1e-3)
    other = replace(F, data=F.data.with_standard(None))
    assert np.max(np.abs(host(feature_moments(other).mean))) > 10.0  # of other data


@pytest.mark.parametrize("name", ["early stopping", "class weights"])
def test_other_rows_or_weights_are_measured(name):
    clf = xl.LinearClassifier(standardize=True, **FITS[name])
    assert prepare(given(Settings, clf), X, Y, owner=clf).objective.measured is None


FAR = np.asarray([7.0, 9.0, 127.0, 129.0])  # in deviations


@pytest.mark.parametrize("distance", FAR)
def test_blocks_are_copied_only_where_products_would_cancel(backend, dtype, distance):
    inner = np.random.default_rng(1)
    rows = inner.standard_normal((500, 3))
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0) + [0.0, -distance, 0.0]
    F = backend.objective(
        xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty(), rows, Y[:1].repeat(500), dtype=dtype
    )
    standard = standard_of(F)
    assert isinstance(standard, FarStandard) == (
        distance > {"float32": 8.0, "float64": 128.0}[dtype]
    )
    scaled = replace(F, data=F.data.with_standard(standard))
    assert (scaled.data.sample(500).rows.standard is None) == isinstance(standard, FarStandard)


def test_no_block_is_copied_to_be_standardized(numpy_backend):
    """Not in a full pass, not in one that maps; counted in bytes."""
    big = rng.standard_normal((4000, 400)).astype(np.float32)
    F = numpy_backend.with_blocks_of(2**30).objective(
        xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty(), big, np.arange(4000) % 3, dtype="float32"
    )
    near = F.data.with_standard(standard_of(F))
    far = near.with_standard(FarStandard(*near.standard))
    params, peaks = numpy_backend.params(F), []
    for data in (F.data, near, far):
        G = replace(F, data=data)
        tracemalloc.start()
        G.value_and_grad(params)
        peaks.append(tracemalloc.get_traced_memory()[1] / big.nbytes)
        tracemalloc.stop()
    assert max(peaks[:2]) < 0.1
    assert peaks[2] > 1.0  # the test sees it
