"""Sweeps of many labels: beside scikit-learn's, and beside a sweep of each label alone."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier

import xplinear as xl
from xplinear.backends import backend_of
from xplinear.estimator import problem

pytestmark = pytest.mark.usefixtures("ends_of_grids_and_rounding")

rng = np.random.default_rng(0)
N, P, L = 120, 4, 5
X = rng.standard_normal((N, P)) * [1.0, 2.0, 0.5, 1.0] + [0.0, 3.0, 0.0, 1.0]
Y = ((X - X.mean(0)) @ rng.standard_normal((P, L)) + rng.logistic(size=(N, L)) > 0.7).astype(int)
WEIGHTS = rng.uniform(0.5, 2.0, N)
MISSING = np.where(rng.random((N, L)) < 0.2, np.nan, Y)
CS = [0.01, 0.1, 1.0, 10.0]
FOLDS = list(KFold(3).split(X))
EXACT = {"tol": 1e-9, "max_iter": 3000, "solver": "lbfgs"}


def host(x):
    return backend_of(x).fetch(x)


@pytest.mark.parametrize(
    "scoring", ["roc_auc", "average_precision", "f1_micro", "f1_macro", "f1_weighted"]
)
@pytest.mark.parametrize("cv", [None, GroupKFold(3)], ids=["5 folds", "groups"])
def test_as_grid_search_of_one_vs_rest(scoring, cv):
    groups = None if cv is None else np.arange(N) // 4
    labels = scipy.sparse.csr_array(Y) if cv is None else Y
    single = OneVsRestClassifier(LogisticRegression(tol=1e-11, max_iter=10_000))
    search = GridSearchCV(single, {"estimator__C": CS}, cv=cv, scoring=scoring)
    search.fit(X, Y, groups=groups)
    clf = xl.LinearClassifierCV(Cs=CS, cv=cv, scoring=scoring, **EXACT)
    clf.fit(X, labels, groups=groups)
    folds = clf.cv_scores_.shape[1]
    expected = [search.cv_results_[f"split{f}_test_score"] for f in range(folds)]
    np.testing.assert_allclose(clf.cv_scores_, np.transpose(expected), atol=1e-9)
    assert search.best_params_["estimator__C"] == clf.C_
    np.testing.assert_allclose(clf.predict_proba(X), search.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(clf.predict(X), search.predict(X))


CASES = {
    "plain": {"scoring": "macro_f1"},
    "standardized": {"standardize": True},
    "standardized, each model": {"standardize": True, "y": MISSING, "solver": "newton"},
    "weights": {"sample_weight": WEIGHTS, "scoring": "roc_auc"},
    "weights of each": {"sample_weight": np.outer(WEIGHTS, rng.uniform(0.5, 2.0, L))},
    "ranks": {"scoring": "average_precision", "y": MISSING, "sample_weight": WEIGHTS},
    "missing labels": {"y": MISSING, "standardize": True, "scoring": "macro_f1"},
    "balanced": {"class_weight": "balanced", "y": MISSING, "scoring": "roc_auc"},
    "squared hinge": {"loss": "squared_hinge", "scoring": "accuracy"},
    "l1": {"penalty": "l1", "solver": "proximal_lbfgs", "standardize": True},
}


@pytest.mark.parametrize("case", CASES)
def test_each_label_is_its_own_sweep(case):
    """Rows in which a label is missing are no rows of its own sweep."""
    settings = {"scoring": "log_loss", **EXACT, **CASES[case]}
    labels, weights = settings.pop("y", Y), settings.pop("sample_weight", None)
    cs = CS if case != "l1" else [0.3, 3.0]
    clf = xl.LinearClassifierCV(Cs=cs, cv=FOLDS, alpha_per_label=True, **settings)
    clf.fit(X, labels, weights)
    assert clf.cv_scores_.shape == (len(cs), 3, L)
    if settings["scoring"] == "macro_f1":  # of one label alone it is of two classes
        settings["scoring"] = f1_of_positives
    for j in range(L):
        there = np.flatnonzero(~np.isnan(labels[:, j].astype(float)))
        folds = [tuple(np.flatnonzero(np.isin(there, part)) for part in fold) for fold in FOLDS]
        own = weights if weights is None or weights.ndim == 1 else weights[:, j]
        single = xl.LinearClassifierCV(Cs=cs, cv=folds, **settings)
        single.fit(X[there], labels[there, j].astype(int), None if own is None else own[there])
        np.testing.assert_allclose(clf.cv_scores_[:, :, j], single.cv_scores_, atol=1e-7)
        assert clf.C_[j] == single.C_
        assert clf.alpha_[j] == pytest.approx(single.alpha_, rel=1e-12)
        np.testing.assert_allclose(clf.coef_[j], single.coef_[0], atol=2e-5)


def f1_of_positives(y, z, sample_weight=None):
    s = np.ones(len(y)) if sample_weight is None else sample_weight
    both, whole = s @ (y * (z > 0)), s @ y + s @ (z > 0)
    return 2.0 * both / whole if whole else 0.0


def test_on_every_backend(backend):
    settings = {"Cs": [0.1, 1.0], "cv": FOLDS[:2], "scoring": "roc_auc", "held_out_scores": True}
    settings |= {"alpha_per_label": True, **EXACT}
    few = MISSING[:, :2]
    expected = xl.LinearClassifierCV(**settings).fit(X, few, WEIGHTS)
    clf = xl.LinearClassifierCV(**settings)
    clf.fit(backend.asarray(X), backend.asarray(few), backend.asarray(WEIGHTS))
    np.testing.assert_allclose(clf.cv_scores_, expected.cv_scores_, atol=1e-9)
    np.testing.assert_array_equal(clf.C_, expected.C_)
    for name in ("coef_", "held_out_scores_"):
        array = getattr(clf, name)
        assert backend_of(array).name == backend.backend.name
        np.testing.assert_allclose(host(array), getattr(expected, name), atol=1e-6)


@pytest.mark.parametrize("missing", [False, True])
def test_held_out_scores(missing):
    settings = {"standardize": True, **EXACT}
    clf = xl.LinearClassifierCV(
        Cs=CS, cv=FOLDS, alpha_per_label=True, held_out_scores=True, scoring="log_loss", **settings
    ).fit(X, MISSING if missing else Y)
    single = xl.LinearClassifier(C=clf.C_.tolist(), **settings)
    found = np.full((N, L), np.nan)
    for train, test in FOLDS:
        single.fit(X[train], (MISSING if missing else Y)[train])
        found[test] = single.decision_function(X[test])
    np.testing.assert_allclose(clf.held_out_scores_, found, atol=1e-6)
    if not missing:
        same = cross_val_predict(single, X, Y, cv=FOLDS, method="decision_function")
        np.testing.assert_allclose(clf.held_out_scores_, same, atol=1e-6)


@pytest.mark.parametrize("y", [Y, MISSING], ids=["all", "missing"])
@pytest.mark.parametrize("scoring", ["micro_f1", "average_precision"])
def test_labels_in_parts(monkeypatch, y, scoring):
    """As many at a time as memory holds: the choice is of all."""
    settings = {"Cs": CS, "cv": FOLDS, "scoring": scoring, "held_out_scores": True, **EXACT}
    whole = xl.LinearClassifierCV(**settings).fit(X, y)
    monkeypatch.setattr(problem, "WIDE", 2)
    parts = xl.LinearClassifierCV(**settings).fit(X, y)
    np.testing.assert_allclose(parts.cv_scores_, whole.cv_scores_, atol=1e-9)
    np.testing.assert_allclose(parts.held_out_scores_, whole.held_out_scores_, atol=1e-6)
    np.testing.assert_allclose(parts.coef_, whole.coef_, atol=1e-6)
    assert parts.C_ == whole.C_


def test_little_memory_takes_fewer_lanes_at_once(numpy_backend):
    little = replace(numpy_backend.backend, free_memory=lambda: 2 * 32 * 8 * P * 7)
    settings = {"Cs": CS, "cv": FOLDS, "scoring": "roc_auc", **EXACT}
    whole = xl.LinearClassifierCV(**settings).fit(X, Y)
    parts = xl.LinearClassifierCV(**settings, backend=little).fit(X, Y)
    np.testing.assert_allclose(parts.cv_scores_, whole.cv_scores_, atol=1e-9)


def test_labels_that_a_fold_tells_nothing_of():
    """They are left out of its mean; where no fold tells anything, the choice is that of all."""
    y = Y.astype(float)
    y[:, 0] = 0.0
    y[5, 0] = 1.0  # in one fold only
    y[:, 1] = 1.0  # never 0
    y[:40, 2] = np.nan  # not known in the first fold's rows
    with pytest.warns(UserWarning, match="no negative row of label 1"):
        clf = xl.LinearClassifierCV(
            Cs=CS, cv=FOLDS, scoring="roc_auc", alpha_per_label=True, refit=False, **EXACT
        ).fit(X, y)
    scores = clf.cv_scores_
    assert np.isnan(scores[:, 1:, 0]).all()
    assert np.isnan(scores[:, :, 1]).all()
    assert np.isnan(scores[:, 0, 2]).all()
    assert np.isnan(scores).sum() == len(CS) * (2 + 3 + 1)
    assert not np.isnan(scores[:, 0, 0]).any()
    with pytest.warns(UserWarning, match="no negative row of label 1"):
        all_ = xl.LinearClassifierCV(Cs=CS, cv=FOLDS, scoring="roc_auc", **EXACT).fit(X, y)
    np.testing.assert_allclose(all_.cv_scores_, np.nanmean(scores, axis=2), atol=1e-9)
    assert clf.C_[1] == all_.C_


def test_strengths_chosen_for_the_data():
    clf = xl.LinearClassifierCV(6, cv=3, scoring="log_loss").fit(X, Y)
    single = xl.LinearClassifierCV(6, cv=3, scoring="log_loss").fit(X, Y[:, 0])
    np.testing.assert_allclose(clf.alphas_, single.alphas_)
    assert clf.alpha_.shape == (L,)
    assert clf.best_estimator_.alpha == clf.alphas_[clf.best_index_]
    assert len(xl.LinearClassifierCV(cv=3).fit(X, Y).alphas_) == 20
    careful = xl.LinearClassifierCV(6, cv=3, scoring="log_loss", one_standard_error=True)
    mean = clf.cv_scores_.mean(1)
    error = clf.cv_scores_[mean.argmax()].std(ddof=1) / 3**0.5
    assert careful.fit(X, Y).best_index_ == np.argmax(mean >= mean.max() - error)


def test_a_label_that_never_varies_makes_no_grid_longer():
    own, with_constant = (
        xl.LinearClassifierCV(4, penalty="l1", cv=2, max_iter=5) for _ in range(2)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own.fit(X, Y), with_constant.fit(X, np.concatenate([0 * Y[:, :1], Y], axis=1))
    np.testing.assert_allclose(with_constant.alphas_[-1], own.alphas_[-1], rtol=0.5)


@pytest.mark.parametrize("settings", [{}, {"multi_class": "one_vs_rest"}])
def test_the_end_of_the_grid_is_told(settings):
    y = TestOneVsRest.labels if settings else Y
    search = xl.LinearClassifierCV(Cs=[1e-8, 1e-7, 1e-6], scoring="log_loss", cv=2, **settings)
    with pytest.warns(UserWarning, match="the largest C, 1e-06: better ones .* give larger Cs too"):
        search.fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xl.LinearClassifierCV(Cs=[1e-7, 1e-6], scoring="log_loss", cv=2, **settings).fit(X, y)


def test_f1_where_no_label_is_held_out():
    Y_none = Y.copy()
    Y_none[:20] = 0
    folds = [(np.arange(20, N), np.arange(20))]
    search = xl.LinearClassifierCV([0.1], scoring="weighted_f1", cv=folds).fit(X, Y_none)
    predicted = xl.LinearClassifier(alpha=0.1).fit(X[20:], Y[20:]).predict(X[:20])
    expected = f1_score(Y_none[:20], predicted, average="weighted", zero_division=0)
    assert search.cv_scores_.tolist() == [[expected]]


def test_told_and_stopped(capsys):
    seen = []
    xl.LinearClassifierCV(Cs=[0.1, 1.0], cv=FOLDS, verbose=1).fit(X, Y, callbacks=[seen.append])
    assert "C 1  score 0." in capsys.readouterr().out
    assert seen[-1].models == 2 * 3 * L
    clf = xl.LinearClassifierCV(Cs=CS, cv=FOLDS, solver="lbfgs")
    clf.fit(X, Y, callbacks=[lambda news: news.done >= 2 * 3 * L])
    assert 1 <= len(clf.Cs_) < 4
    assert clf.cv_scores_.shape == (len(clf.Cs_), 3)


BAD = {
    "name": ({"scoring": "top_2_accuracy"}, "scoring of many models must be one of accuracy, "),
    "callable": ({"scoring": lambda y, Z: 0.0}, "scoring of many models must be one of accuracy"),
    "micro": (
        {"scoring": "f1_micro", "alpha_per_label": True},
        "scoring='f1_micro' is of all labels together; with alpha_per_label use macro_f1",
    ),
    "probabilities": (
        {"scoring": "log_loss", "loss": "squared_hinge"},
        "scoring='log_loss' needs probabilities",
    ),
    "rates": (
        {"learning_rates": [0.1], "solver": "sgd"},
        "learning_rates are for one model of all",
    ),
    "fold": ({"cv": [(np.arange(N), [])]}, "cv: fold 0 has no rows of positive weight to score"),
    "twice": ({"cv": [FOLDS[0], FOLDS[0]], "held_out_scores": True}, "is held out 2 times"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    settings, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        xl.LinearClassifierCV(**settings).fit(X, Y)


def test_bad_labels():
    with pytest.raises(ValueError, match="alpha_per_label needs many labels"):
        xl.LinearClassifierCV(alpha_per_label=True).fit(X, Y[:, 0])
    lone = Y.astype(float)
    lone[40:, 3] = np.nan
    with pytest.raises(ValueError, match=r"cv: fold 0: label 3: .* is zero everywhere"):
        xl.LinearClassifierCV(cv=FOLDS).fit(X, lone)


class TestOneVsRest:
    """Classes, each against the rest: scored by the classes that they give."""

    labels = np.asarray(["cat", "dog", "frog", "gnu"])[
        np.argmax((X - X.mean(0)) @ rng.standard_normal((P, 4)) + rng.gumbel(size=(N, 4)), axis=1)
    ]

    @pytest.mark.parametrize(
        "scoring",
        [
            "accuracy",
            "neg_log_loss",
            "top_k_accuracy",
            "f1_macro",
            "roc_auc_ovr",
            "average_precision",
        ],
    )
    def test_as_grid_search_of_scikit_learn(self, scoring):
        single = OneVsRestClassifier(LogisticRegression(tol=1e-11, max_iter=10_000))
        search = GridSearchCV(single, {"estimator__C": CS}, cv=3, scoring=scoring)
        search.fit(X, self.labels)
        clf = xl.LinearClassifierCV(
            Cs=CS, cv=3, scoring=scoring, multi_class="one_vs_rest", held_out_scores=True, **EXACT
        ).fit(X, self.labels)
        expected = [search.cv_results_[f"split{f}_test_score"] for f in range(3)]
        np.testing.assert_allclose(clf.cv_scores_, np.transpose(expected), atol=1e-7)
        assert search.best_params_["estimator__C"] == clf.C_
        np.testing.assert_allclose(clf.predict_proba(X), search.predict_proba(X), atol=1e-6)
        same = cross_val_predict(
            search.best_estimator_, X, self.labels, cv=3, method="decision_function"
        )
        np.testing.assert_allclose(clf.held_out_scores_, same, atol=1e-5)

    @pytest.mark.parametrize("loss", ["softmax", "squared_error"])
    def test_the_stack_is_the_single_fits(self, loss):
        """With weights of rows and classes, standardized in each fold."""
        settings = {"class_weight": "balanced", "standardize": True, "loss": loss, **EXACT}
        settings |= {"multi_class": "one_vs_rest"}
        folds = [(np.arange(60), np.arange(60, N)), *FOLDS]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clf = xl.LinearClassifierCV(Cs=[0.1, 1.0], cv=folds, scoring="roc_auc", **settings)
            clf.fit(X, self.labels, WEIGHTS)
            for a, C in enumerate([0.1, 1.0]):
                single = xl.LinearClassifier(C=C, **settings)
                for f, (train, test) in enumerate(folds):
                    single.fit(X[train], self.labels[train], WEIGHTS[train])
                    probable = hasattr(single, "predict_proba")
                    Z = (single.predict_proba if probable else single.decision_function)(X[test])
                    hits = self.labels[test][:, None] == single.classes_
                    expected = roc_auc_score(hits, Z, sample_weight=WEIGHTS[test])
                    assert clf.cv_scores_[a, f] == pytest.approx(expected, abs=1e-9)

    def test_a_class_that_training_lacks_is_never_predicted(self, library):
        test = np.arange(0, N, 2)
        train = np.setdiff1d(np.arange(N), test)[: N // 2]
        labels = np.where(np.arange(N) % 20 == 0, "zebra", self.labels)
        found = []
        for tol in (1e-3, 1e-8):
            settings = {"multi_class": "one_vs_rest", "scoring": "log_loss", "tol": tol}
            clf = xl.LinearClassifierCV(
                [0.1], cv=[(train, test)], refit=False, solver="lbfgs", max_iter=3000, **settings
            )
            found.append(clf.fit(library.asarray(X), labels).cv_scores_[0, 0])
        single = xl.LinearClassifier(alpha=0.1, multi_class="one_vs_rest", **EXACT)
        P_ = np.c_[single.fit(X[train], labels[train]).predict_proba(X[test]), np.zeros(len(test))]
        assert found[1] == pytest.approx(-log_loss(labels[test], P_), abs=1e-5)
        assert found[0] == pytest.approx(found[1], abs=1e-2)

    def test_a_strength_for_each_class(self, monkeypatch):
        """Also where the classes are solved in parts."""
        settings = {"Cs": CS, "cv": FOLDS, "alpha_per_label": True, "scoring": "roc_auc", **EXACT}
        monkeypatch.setattr(problem, "WIDE", 3)
        clf = xl.LinearClassifierCV(multi_class="one_vs_rest", **settings).fit(X, self.labels)
        indicator = (self.labels[:, None] == clf.classes_).astype(int)
        same = xl.LinearClassifierCV(**settings).fit(X, indicator)
        np.testing.assert_allclose(clf.cv_scores_, same.cv_scores_, atol=1e-9)
        np.testing.assert_array_equal(clf.C_, same.C_)
        np.testing.assert_allclose(clf.coef_, same.coef_, atol=1e-7)

    def test_whole_folds_are_solved_together(self, numpy_backend):
        settings = {"Cs": CS, "cv": FOLDS, "multi_class": "one_vs_rest", **EXACT}
        whole = xl.LinearClassifierCV(**settings).fit(X, self.labels)
        little = replace(numpy_backend.backend, free_memory=lambda: 2 * 32 * 8 * P * 7)
        parts = xl.LinearClassifierCV(**settings, backend=little).fit(X, self.labels)
        np.testing.assert_array_equal(parts.cv_scores_, whole.cv_scores_)
        joint = xl.LinearClassifierCV(**settings).fit(X, self.labels == "cat")
        assert joint.best_estimator_.multi_class == "one_vs_rest"
        assert joint.coef_.shape == (1, P)


def test_pictures():
    plot = pytest.importorskip("xplinear.plot", reason="matplotlib is an extra")
    settings = {"Cs": CS, "cv": FOLDS, "scoring": "roc_auc"}
    for per_label in (False, True):
        clf = xl.LinearClassifierCV(alpha_per_label=per_label, **settings).fit(X, Y)
        drawn = plot.ValidationCurveDisplay.from_estimator(clf)
        assert drawn.ax_.get_ylabel() == "roc auc of 3 folds"
        scores = clf.cv_scores_.mean(axis=2) if per_label else clf.cv_scores_
        mean = drawn.ax_.lines[0 if per_label else 1]  # the one strength chosen is drawn first
        np.testing.assert_allclose(mean.get_ydata(), scores.mean(axis=1))
        assert drawn.chosen == (None if per_label else clf.alphas_[clf.best_index_])
        with pytest.raises(ValueError, match="only the strength chosen is fitted"):
            plot.CoefficientPathDisplay.from_estimator(clf)


@pytest.mark.parametrize("standardize", [False, True])
def test_sparse_rows(standardize):
    rows = np.where(np.random.default_rng(0).random((N, P)) < 0.4, X, 0.0)
    settings = {"Cs": CS, "cv": FOLDS, "scoring": "roc_auc", "standardize": standardize, **EXACT}
    settings |= {"alpha_per_label": True, "held_out_scores": True}
    dense = xl.LinearClassifierCV(**settings).fit(rows, MISSING)
    clf = xl.LinearClassifierCV(**settings).fit(scipy.sparse.csr_array(rows), MISSING)
    np.testing.assert_allclose(clf.cv_scores_, dense.cv_scores_, atol=1e-9)
    np.testing.assert_allclose(clf.coef_, dense.coef_, atol=1e-6)
    np.testing.assert_allclose(clf.held_out_scores_, dense.held_out_scores_, atol=1e-6)
