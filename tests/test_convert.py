"""To and from scikit-learn: the same predictions, and the same optimum of the same problem."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.svm import LinearSVC

import xplinear as xl
from xplinear import LinearClassifier
from xplinear.losses import LOSSES

X, CODES = make_classification(
    300, 8, n_informative=5, n_classes=3, random_state=0, n_clusters_per_class=1
)
NAMES = np.asarray(["cat", "dog", "frog"])
LABELS = {
    "three": CODES,
    "three names": NAMES[CODES],
    "two": CODES % 2,
    "two names": NAMES[CODES % 2],
}
MODELS = [
    LogisticRegression(),
    LogisticRegression(fit_intercept=False, C=0.1),
    SGDClassifier(loss="log_loss", random_state=0),
    SGDClassifier(loss="hinge", random_state=0, average=True),
    SGDClassifier(loss="squared_hinge", random_state=0, fit_intercept=False),
    LinearSVC(random_state=0),
    LinearSVC(loss="hinge", random_state=0, fit_intercept=False, C=0.01),
    LinearSVC(multi_class="crammer_singer", random_state=0, C=0.01),
    OneVsRestClassifier(LogisticRegression()),
    OneVsRestClassifier(LinearSVC(random_state=0)),
    OneVsRestClassifier(SGDClassifier(loss="log_loss", random_state=0)),
]
Y = np.stack([CODES == 1, X[:, 0] > 0.5, X[:, 1] + X[:, 2] > 0.0, CODES != 1], axis=1).astype(int)
MANY = [
    OneVsRestClassifier(LogisticRegression(C=0.3)),
    OneVsRestClassifier(LinearSVC(random_state=0)),
    OneVsRestClassifier(SGDClassifier(loss="log_loss", random_state=0)),
    MultiOutputClassifier(LogisticRegression(class_weight="balanced")),
    MultiOutputClassifier(LinearSVC(random_state=0, loss="hinge")),
]


@pytest.fixture(params=list(LABELS))
def y(request):
    return LABELS[request.param]


def agree(a, b):
    np.testing.assert_array_equal(a.predict(X), b.predict(X))
    np.testing.assert_allclose(
        a.decision_function(X), b.decision_function(X), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_array_equal(a.classes_, b.classes_)
    if hasattr(a, "coef_") and hasattr(b, "coef_"):  # which OneVsRestClassifier has not
        assert a.coef_.shape == b.coef_.shape


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_from_sklearn_predicts_the_same(model, y, tmp_path):
    model.fit(X, y)
    clf = LinearClassifier.from_sklearn(model)
    agree(clf, model)
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(clf.predict_proba(X), model.predict_proba(X), atol=1e-12)
    else:
        assert not hasattr(clf, "predict_proba")
    clf.save(tmp_path / "m.safetensors")
    agree(xl.load(tmp_path / "m.safetensors"), model)


def scores_of(model):
    """Return decision function and probabilities ``(n, L)``, of scikit-learn's lists too."""
    if not isinstance(model, MultiOutputClassifier):
        proba = model.predict_proba(X) if hasattr(model, "predict_proba") else None
        return model.decision_function(X), proba
    scores = np.stack([one.decision_function(X) for one in model.estimators_], axis=1)
    if not hasattr(model, "predict_proba"):
        return scores, None
    return scores, np.stack([both[:, 1] for both in model.predict_proba(X)], axis=1)


def agree_on_labels(a, b):
    np.testing.assert_array_equal(a.predict(X), b.predict(X))
    for found, expected in zip(scores_of(a), scores_of(b), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", MANY, ids=str)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_many_labels_from_sklearn_and_back(model):
    model.fit(X, Y)
    clf = LinearClassifier.from_sklearn(model)
    assert clf.multilabel_
    assert clf.multi_class == "joint"
    agree_on_labels(clf, model)
    back = clf.to_sklearn()
    agree_on_labels(back, model)
    agree_on_labels(LinearClassifier.from_sklearn(back), model)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.filterwarnings("ignore:the objective")  # few epochs
def test_many_labels_and_one_against_the_rest_to_sklearn(loss):
    settings = {"solver": "sgd", "random_state": 0, "max_iter": 3}
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcdefgh"))
    labels = LinearClassifier(loss, **settings).fit(table, Y)
    model = labels.to_sklearn()
    np.testing.assert_array_equal(model.predict(table), labels.predict(table))
    assert model.feature_names_in_.tolist() == list("abcdefgh")
    names = LABELS["three names"]
    rest = LinearClassifier(loss, multi_class="one_vs_rest", **settings).fit(X, names)
    model = rest.to_sklearn()
    agree(model, rest)
    if loss == "softmax":
        np.testing.assert_allclose(model.predict_proba(X), rest.predict_proba(X), atol=1e-12)
        agree_on_labels(labels.fit(X, Y).to_sklearn(), labels)


def test_names_sparse_weights_and_settings_come_along():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcdefgh"))
    model = SGDClassifier(penalty="l1", alpha=0.01, random_state=0).fit(table, CODES).sparsify()
    clf = LinearClassifier.from_sklearn(model)
    assert clf.feature_names_in_.tolist() == list("abcdefgh")
    assert (clf.loss, clf.penalty, clf.alpha, clf.random_state) == (
        "multiclass_hinge",
        "l1",
        0.01,
        0,
    )
    np.testing.assert_array_equal(clf.predict(table), model.predict(table))
    assert clf.to_sklearn().feature_names_in_.tolist() == list("abcdefgh")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.filterwarnings("ignore:the objective is")  # few epochs
def test_to_sklearn_predicts_the_same(loss, y, backend):
    clf = LinearClassifier(loss, solver="sgd", random_state=0, max_iter=3)
    clf.fit(backend.asarray(X), y)
    model, here = clf.to_sklearn(), clf.to("numpy")
    agree(model, here)
    if loss == "softmax":
        np.testing.assert_allclose(model.predict_proba(X), here.predict_proba(X), atol=1e-12)
        assert isinstance(model, LogisticRegression)
    back = LinearClassifier.from_sklearn(model) if loss in ("softmax", "squared_hinge") else here
    agree(back, here)


def same_optimum(model, y, n_samples=None, weights=None, rtol=1e-4, tol=1e-9):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y, sample_weight=weights)
    clf = LinearClassifier.from_sklearn_settings(model, n_samples, tol=tol, max_iter=10_000)
    clf.fit(X, y, weights)
    np.testing.assert_allclose(clf.coef_, model.coef_, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(clf.intercept_, model.intercept_, rtol=rtol, atol=rtol)
    return clf


class TestSettings:
    def test_logistic_regression(self, y):
        same_optimum(LogisticRegression(C=0.3, tol=1e-8, max_iter=10_000), y, 300)

    def test_weights(self, y):
        weights = np.random.default_rng(0).uniform(0.5, 2.0, 300)
        model = LogisticRegression(C=2.0, tol=1e-8, max_iter=10_000, fit_intercept=False)
        same_optimum(model, y, weights.sum(), weights)
        same_optimum(LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=9999), y, 300)

    @pytest.mark.parametrize("ratio", [1.0, 0.4])
    def test_l1(self, y, ratio):
        from sklearn import __version__

        new = tuple(map(int, __version__.split(".")[:2])) >= (1, 8)
        kind = {} if new else {"penalty": "elasticnet"}
        model = LogisticRegression(
            l1_ratio=ratio, C=0.2, solver="saga", tol=1e-7, max_iter=100_000, random_state=0, **kind
        )
        clf = same_optimum(model, y, 300, rtol=1e-3)
        assert clf.penalty == ("l1" if ratio == 1.0 else "elastic_net")

    def test_no_penalty(self):
        clf = LinearClassifier.from_sklearn_settings(LogisticRegression(C=np.inf), 300)
        assert clf.penalty == "none"

    def test_linear_svc(self, y):
        for loss in ("squared_hinge", "hinge"):
            model = LinearSVC(
                loss=loss, C=0.01, fit_intercept=False, tol=1e-9, max_iter=10**6, random_state=0
            )
            same_optimum(model, y, 300, rtol=1e-3, tol=1e-9 if loss == "squared_hinge" else 1e-6)

    def test_one_against_the_rest(self):
        model = OneVsRestClassifier(LogisticRegression(C=0.3, tol=1e-8, max_iter=10_000))
        model.fit(X, CODES)
        clf = LinearClassifier.from_sklearn_settings(model, tol=1e-9).fit(X, CODES)
        assert (clf.multi_class, clf.C) == ("one_vs_rest", 0.3)
        expected = np.concatenate([one.coef_ for one in model.estimators_])
        np.testing.assert_allclose(clf.coef_, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(clf.predict_proba(X), model.predict_proba(X), atol=1e-4)

    def test_a_classifier_for_each_output(self):
        model = MultiOutputClassifier(
            LogisticRegression(C=2.0, class_weight="balanced", tol=1e-8, max_iter=10_000)
        )
        model.fit(X, Y)
        clf = LinearClassifier.from_sklearn_settings(model, tol=1e-9).fit(X, Y)
        assert clf.class_weight == "balanced"
        expected = np.concatenate([one.coef_ for one in model.estimators_])
        np.testing.assert_allclose(clf.coef_, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(clf.predict_proba(X), scores_of(model)[1], atol=1e-4)

    def test_sgd_needs_no_number_of_rows(self):
        model = SGDClassifier(loss="log_loss", alpha=0.1, penalty="elasticnet", l1_ratio=0.3)
        clf = LinearClassifier.from_sklearn_settings(model, solver="sgd")
        settings = clf.loss, clf.penalty, clf.alpha, clf.l1_ratio, clf.solver
        assert settings == ("softmax", "elastic_net", 0.1, 0.3, "sgd")

    @pytest.mark.parametrize("model", [LogisticRegression, LinearSVC])
    def test_c_needs_no_number_of_rows(self, model):
        clf = LinearClassifier.from_sklearn_settings(model(C=10))
        assert (clf.C, clf.alpha) == (10, None)
        clf = LinearClassifier.from_sklearn_settings(model(C=10), 500)
        assert (clf.C, clf.alpha) == (None, 1 / 5000)
        for settings in ({"alpha": 0.1}, {"C": 3.0}):  # instead of the model's
            for n_samples in (None, 500):
                clf = LinearClassifier.from_sklearn_settings(model(), n_samples, **settings)
                assert {"alpha": clf.alpha, "C": clf.C} == {"alpha": None, "C": None} | settings
        fitted = model(C=10).fit(X, CODES)
        assert LinearClassifier.from_sklearn(fitted).C == 10

    def test_the_same_optimum_without_the_number_of_rows(self, y):
        weights = np.random.default_rng(0).uniform(0.5, 2.0, 300)
        settings = {"class_weight": "balanced", "tol": 1e-8, "max_iter": 10_000}
        same_optimum(LogisticRegression(C=0.3, **settings), y, None, weights)

    @pytest.mark.parametrize("n_samples", [0, -1])
    def test_number_of_rows(self, n_samples):
        with pytest.raises(ValueError, match="n_samples must be the number of rows"):
            LinearClassifier.from_sklearn_settings(LogisticRegression(), n_samples)


def test_what_cannot_be_converted():
    with pytest.raises(TypeError, match="got LogisticRegressionCV"):
        LinearClassifier.from_sklearn_settings(LogisticRegressionCV(), 100)
    with pytest.raises(TypeError, match=r"only LogisticRegression, .* got Ridge"):
        LinearClassifier.from_sklearn(Ridge())
    with pytest.raises(TypeError, match=r"OneVsRestClassifier and .* of these, .* got Ridge"):
        LinearClassifier.from_sklearn_settings(MultiOutputClassifier(Ridge()))
    weighed = OneVsRestClassifier(LogisticRegression(class_weight="balanced"))
    with pytest.raises(ValueError, match="class_weight of a OneVsRestClassifier's estimator"):
        LinearClassifier.from_sklearn_settings(weighed)
    with pytest.warns(UserWarning, match="is present in all training examples"):
        constant = OneVsRestClassifier(LogisticRegression()).fit(X, np.eye(3, dtype=int)[CODES] * 0)
    with pytest.raises(ValueError, match="label 0 of the OneVsRestClassifier was constant"):
        LinearClassifier.from_sklearn(constant)
    several = MultiOutputClassifier(LogisticRegression()).fit(X, np.stack([CODES, CODES], axis=1))
    with pytest.raises(ValueError, match="two or more columns of 0 and 1"):
        LinearClassifier.from_sklearn(several)
    with pytest.raises(ValueError, match="loss='modified_huber' has no counterpart"):
        LinearClassifier.from_sklearn(SGDClassifier(loss="modified_huber"))
    with pytest.raises(Exception, match="not fitted"):
        LinearClassifier.from_sklearn(LogisticRegression())
    with pytest.raises(Exception, match="not fitted"):
        LinearClassifier().to_sklearn()

    class OwnLoss(xl.losses.SoftmaxLoss):
        pass

    with pytest.raises(ValueError, match=r"has no counterpart in scikit-learn"):
        LinearClassifier(OwnLoss()).fit(X, CODES).to_sklearn()
