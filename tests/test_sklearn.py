"""Inside scikit-learn: its contract, its array API checks, its meta-estimators and conventions."""

from __future__ import annotations

import io
import pickle

import joblib
import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import xplinear as xl
from xplinear.backends import BackendError, backend_of, get_backend

rng = np.random.default_rng(0)
X = rng.standard_normal((120, 4)) * [1.0, 10.0, 0.1, 1.0] + [0.0, 5.0, 0.0, 1.0]
Y = np.argmax(
    (X[:, :3] - [0.0, 5.0, 0.0]) / [1.0, 10.0, 0.1] + rng.gumbel(size=(120, 3)) / 9, axis=1
)
NAMES = np.asarray(["cat", "dog", "frog"])[Y]
BINARY = (Y == 1).astype(int)
WEIGHTS = rng.uniform(0.0, 2.0, 120)
BOTH = [xl.LinearClassifier(alpha=0.01), xl.LinearClassifierCV([0.1, 0.01], cv=2)]
both = pytest.mark.parametrize("clf", BOTH, ids=lambda clf: type(clf).__name__)
stochastic = xl.LinearClassifier("multiclass_hinge", solver="sgd", max_iter=100)

# Mini-batches of repeated rows are not mini-batches of weighted rows.
DIFFERS = {
    f"check_sample_weight_equivalence_on_{kind}_data": "mini-batches differ"
    for kind in ("dense", "sparse")
}


@parametrize_with_checks(
    [
        xl.LinearClassifier(random_state=0),
        xl.LinearClassifier(standardize=True),
        xl.LinearClassifierCV(2, cv=2),
        stochastic,
    ],
    expected_failed_checks=lambda clf: DIFFERS if clf.solver == "sgd" else {},
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_contract(estimator, check):
    if check.keywords.get("array_namespace") == "cupy":
        pytest.skip("below, where there is a GPU")
    check(estimator)


def places():
    """Yield namespace and device of every library that works here and scikit-learn knows."""
    for place, name in {
        ("numpy", None): "numpy",
        ("array_api_strict", "device1"): "array_api_strict",
        ("torch", "cpu"): "torch",
        ("cupy", None): "cupy",
        ("torch", "cuda"): "torch:cuda",
    }.items():
        try:
            get_backend(name)
        except BackendError:
            continue
        gpu = "cupy" in place or "cuda" in place
        yield pytest.param(*place, id=name, marks=[pytest.mark.cuda] if gpu else [])


@pytest.fixture
def masks_allowed():
    """Let array-api-strict index by masks, as scikit-learn does."""
    strict = pytest.importorskip("array_api_strict")
    with strict.ArrayAPIStrictFlags(boolean_indexing=True):
        yield


everywhere = pytest.mark.parametrize(("library", "device"), list(places()))
newest_checks = pytest.mark.skipif(
    not hasattr(estimator_checks, "check_array_api_same_namespace"),
    reason="scikit-learn's array API checks are called otherwise before 1.9",
)


@newest_checks
@everywhere
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(
    "clf", [BOTH[0], xl.LinearClassifier(standardize=True)], ids=["", "scaled"]
)
def test_array_api_values(clf, library, device, weights):
    estimator_checks.check_array_api_input_and_values(
        "LinearClassifier", clf, library, device, check_sample_weight=weights
    )


@newest_checks
@both
def test_another_library_is_refused_by_name(clf):
    pytest.importorskip("array_api_strict")
    estimator_checks.check_array_api_same_namespace("LinearClassifier", clf, "array_api_strict")


@newest_checks
@everywhere
@both
# scikit-learn's scaler divides 0 by 0 in passing, and indexes by masks.
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")
def test_a_pipeline_stays_on_the_device(clf, library, device, masks_allowed):
    xp, device = estimator_checks._array_api_for_tests(library, device)
    rows, labels = (xp.asarray(a, device=device) for a in (X, Y))
    expected = make_pipeline(StandardScaler(), clone(clf)).fit(X, Y)
    with config_context(array_api_dispatch=True):
        pipeline = make_pipeline(StandardScaler(), clone(clf)).fit(rows, labels)
        found = pipeline.predict(rows), pipeline.predict_proba(rows), pipeline[-1].coef_
        score = pipeline.score(rows, labels)
    for array, reference in zip(
        found, (expected.predict(X), expected.predict_proba(X), expected[-1].coef_), strict=True
    ):
        assert type(array) is type(rows)
        assert array.device == rows.device
        np.testing.assert_allclose(backend_of(array).fetch(array), reference, atol=1e-6)
    assert score == expected.score(X, Y)
    assert pipeline[-1].to("numpy").backend_.name == "numpy"


@both
def test_meta_estimators(clf):
    """Each fits, predicts, and finds the same classes as the classifier alone."""
    alone = make_pipeline(StandardScaler(), clone(clf)).fit(X, NAMES)
    assert alone.score(X, NAMES) > 0.9
    inner = make_pipeline(StandardScaler(), clone(clf))
    for meta in (
        CalibratedClassifierCV(inner, cv=2),
        OneVsRestClassifier(inner),
        VotingClassifier([("one", inner), ("two", clone(inner))], voting="soft"),
        GridSearchCV(inner, {f"{inner.steps[-1][0]}__fit_intercept": [True, False]}, cv=2),
    ):
        fitted = meta.fit(X, NAMES)
        assert fitted.score(X, NAMES) > 0.9, meta
        np.testing.assert_allclose(fitted.predict_proba(X).sum(axis=1), 1.0)
        np.testing.assert_array_equal(fitted.classes_, ["cat", "dog", "frog"])
    result = cross_validate(inner, X, NAMES, cv=2, scoring=["accuracy", "neg_log_loss"])
    assert result["test_accuracy"].min() > 0.8
    assert result["test_neg_log_loss"].max() < 0.0


def test_a_grid_over_objects_and_in_parallel():
    grid = {"loss": ["softmax", xl.losses.SquaredHingeLoss()], "alpha": [0.1, 0.001]}
    search = GridSearchCV(xl.LinearClassifier(standardize=True), grid, cv=2, n_jobs=2)
    assert search.fit(X, BINARY).best_score_ > 0.9
    assert cross_val_score(search.best_estimator_, X, BINARY, cv=2, scoring="roc_auc").min() > 0.9


@both
def test_metadata_routing(clf):
    """Weights reach the classifier where it asks for them, and nowhere else."""
    name = type(clf).__name__.lower()
    with config_context(enable_metadata_routing=True):
        asks = clone(clf).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        weighted = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), asks)
        weighted.fit(X, Y, sample_weight=WEIGHTS)
        plain = make_pipeline(StandardScaler(), clone(clf)).fit(X, Y)
        scores = cross_validate(weighted, X, Y, cv=2, params={"sample_weight": WEIGHTS})
        search = GridSearchCV(asks, {"tol": [1e-4]}, cv=2).fit(X, Y, sample_weight=WEIGHTS)
    expected = clone(clf).fit(StandardScaler().fit_transform(X), Y, WEIGHTS)
    np.testing.assert_allclose(weighted[name].coef_, expected.coef_)
    assert np.abs(weighted[name].coef_ - plain[name].coef_).max() > 1e-3
    np.testing.assert_allclose(search.best_estimator_.coef_, clone(clf).fit(X, Y, WEIGHTS).coef_)
    assert scores["test_score"].min() > 0.8


@both
def test_copies(clf, tmp_path):
    fitted = clone(clf).fit(X, NAMES)
    joblib.dump(fitted, tmp_path / "model.joblib")
    stream = io.BytesIO(pickle.dumps(fitted))
    for copy in (pickle.load(stream), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(copy.predict_proba(X), fitted.predict_proba(X))
        assert copy.get_params() == fitted.get_params()
    fresh = clone(fitted)
    assert not hasattr(fresh, "classes_")
    assert fresh.get_params() == clf.get_params()
    assert fresh.set_params(tol=0.5).tol == 0.5


@both
def test_names_of_features(clf):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    fitted = clone(clf).fit(frame, NAMES)
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame[["d", "c", "b", "a"]])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        fitted.predict(X)
    pipeline = make_pipeline(StandardScaler(), clone(clf)).set_output(transform="pandas")
    pipeline.fit(frame, NAMES)
    assert pipeline[-1].feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert pipeline.predict(frame).shape == (120,)
    assert not hasattr(fitted.fit(X, NAMES), "feature_names_in_")


@both
def test_tags_and_pictures(clf):
    tags = get_tags(clf)
    assert is_classifier(clf)
    assert tags.estimator_type == "classifier"
    assert tags.target_tags.required
    assert tags.classifier_tags.multi_class
    assert tags.input_tags.sparse
    assert not tags.input_tags.allow_nan
    # The scores of the CV are on the host, and scikit-learn's check wants all on the device.
    assert tags.array_api_support == isinstance(clf, xl.LinearClassifier)
    page = make_pipeline(StandardScaler(), clf)._repr_html_()
    assert "StandardScaler" in page
    assert type(clf).__name__ in page
    assert "fitted" in clone(clf).fit(X, Y)._repr_html_()
