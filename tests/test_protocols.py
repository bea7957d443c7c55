"""Sweeps as people's scripts do them: beside GridSearchCV, pipelines and cross_val_predict."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    LeaveOneGroupOut,
    LeavePGroupsOut,
    PredefinedSplit,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xplinear as xl
from xplinear.backends import backend_of

pytestmark = pytest.mark.usefixtures("ends_of_grids_and_rounding")

rng = np.random.default_rng(0)
N = 150
X = rng.standard_normal((N, 5)) * [1.0, 3.0, 0.1, 1.0, 2.0] + [0.0, 5.0, 1.0, -1.0, 0.0]
Y = np.argmax((X[:, :3] - X[:, :3].mean(0)) / X[:, :3].std(0) + rng.gumbel(size=(N, 3)), axis=1)
BINARY = (Y == 1).astype(int)
GROUPS = np.arange(N) // 3 % 5
WEIGHTS = rng.uniform(0.5, 2.0, N)
NAMES = np.asarray(["cat", "dog", "frog"])
CS = [0.01, 0.1, 1.0, 10.0]
FOLDS = list(StratifiedKFold(3).split(X, Y))
EXACT = {"tol": 1e-9, "max_iter": 3000}
SPLITTERS = {
    "predefined": PredefinedSplit(np.where(np.arange(N) < 40, -1, np.arange(N) % 3)),
    "one split": [(np.arange(100), np.arange(100, N))],
    "groups": GroupKFold(3),
    "stratified groups": StratifiedGroupKFold(3),
    "leave a group out": LeaveOneGroupOut(),
    "leave two groups out": LeavePGroupsOut(2),
    "time": TimeSeriesSplit(3),
    "shuffles": ShuffleSplit(3, test_size=0.3, random_state=0),
    "repeated": RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=0),
}


def host(x):
    return backend_of(x).fetch(x)


def logistic(**settings):
    return LogisticRegression(tol=1e-11, max_iter=10_000, **settings)


@pytest.mark.parametrize("kind", SPLITTERS)
def test_splitters_and_cs_as_in_grid_search(kind):
    """Folds differ in their rows, and so in the α of one C."""
    cv, groups = SPLITTERS[kind], GROUPS if "group" in kind else None
    search = GridSearchCV(logistic(), {"C": CS}, cv=cv, scoring="neg_log_loss")
    search.fit(X, Y, groups=groups)
    clf = xl.LinearClassifierCV(Cs=CS, cv=cv, scoring="neg_log_loss", **EXACT)
    clf.fit(X, Y, groups=groups)
    folds = clf.cv_scores_.shape[1]
    expected = [search.cv_results_[f"split{f}_test_score"] for f in range(folds)]
    np.testing.assert_allclose(clf.cv_scores_, np.transpose(expected), atol=1e-6)
    assert search.best_params_["C"] == clf.C_
    assert clf.Cs_.tolist() == CS
    np.testing.assert_allclose(clf.alphas_ * N * CS, 1.0)
    assert clf.alpha_ == pytest.approx(1.0 / (clf.C_ * N))
    np.testing.assert_allclose(clf.coef_, search.best_estimator_.coef_, atol=1e-5)


@pytest.mark.parametrize("class_weight", [None, {"frog": 3.0}, "balanced"])
def test_cs_are_those_of_weighted_fits(backend, class_weight):
    """In every fold, and in the fit to all rows: `LinearClassifier(C=...)`."""
    settings = {"class_weight": class_weight, "solver": "lbfgs", **EXACT}
    clf = xl.LinearClassifierCV(Cs=[0.1, 2.0], cv=FOLDS, scoring="log_loss", **settings)
    clf.fit(backend.asarray(X), NAMES[Y], 7.0 * WEIGHTS)
    for a, C in enumerate([0.1, 2.0]):
        single = xl.LinearClassifier(C=C, **settings)
        for f, (train, test) in enumerate(FOLDS):
            single.fit(X[train], NAMES[Y][train], 7.0 * WEIGHTS[train])
            P = single.predict_proba(X[test])
            expected = -log_loss(Y[test], P, sample_weight=WEIGHTS[test])
            assert clf.cv_scores_[a, f] == pytest.approx(expected, abs=1e-7)
        single.fit(X, NAMES[Y], 7.0 * WEIGHTS)
        assert clf.alphas_[a] == pytest.approx(single.alpha_, rel=1e-12)
        np.testing.assert_allclose(host(clf.coefs_paths_)[a], single.coef_, atol=1e-6)
    assert (clf.best_estimator_.C, clf.best_estimator_.alpha) == (clf.C_, None)


def test_cs_in_stacks_are_cs_in_a_path(numpy_backend):
    """What follows other strengths knows each fold's own α."""
    fits = [
        xl.LinearClassifierCV(
            Cs=np.logspace(-3, 2, 8),
            cv=TimeSeriesSplit(3),
            scoring="log_loss",
            solver="lbfgs",
            backend=replace(numpy_backend.backend, free_columns=free),
            **EXACT,
        ).fit(X, Y)
        for free in (1, 40, 1000)
    ]
    for other in fits[1:]:
        np.testing.assert_allclose(other.cv_scores_, fits[0].cv_scores_, atol=1e-7)
        np.testing.assert_allclose(other.coefs_paths_, fits[0].coefs_paths_, atol=1e-6)


def test_how_many_cs():
    clf = xl.LinearClassifierCV(Cs=5, cv=3).fit(X, Y)
    np.testing.assert_allclose(clf.Cs_, np.logspace(-4, 4, 5))
    careful = xl.LinearClassifierCV(Cs=5, cv=3, one_standard_error=True).fit(X, Y)
    assert careful.C_ <= clf.C_
    again = xl.LinearClassifierCV(alphas=[0.1], cv=3).fit(X, Y)
    assert not hasattr(again, "C_")


def test_what_is_said_of_cs(capsys):
    clf = xl.LinearClassifierCV(
        Cs=[1e-5, 1e-4, 1e-3], cv=3, scoring="log_loss", standardize=True, verbose=1
    )
    warnings.simplefilter("always")
    with pytest.warns(UserWarning, match=r"that of the largest C, 0\.001: .* give larger Cs too"):
        clf.fit(X, Y)
    assert "C 0.001  score -1." in capsys.readouterr().out


class TestStandardize:
    """On each fold's own training rows, as a pipeline does it."""

    @pytest.mark.parametrize("labels", [Y, BINARY], ids=["three", "two"])
    def test_as_a_pipeline_in_grid_search(self, labels):
        pipeline = make_pipeline(StandardScaler(), logistic())
        grid = {"logisticregression__C": CS}
        search = GridSearchCV(pipeline, grid, cv=TimeSeriesSplit(3), scoring="neg_log_loss")
        search.fit(X, labels)
        clf = xl.LinearClassifierCV(
            Cs=CS, cv=TimeSeriesSplit(3), scoring="neg_log_loss", standardize=True, **EXACT
        ).fit(X, labels)
        expected = [search.cv_results_[f"split{f}_test_score"] for f in range(3)]
        np.testing.assert_allclose(clf.cv_scores_, np.transpose(expected), atol=1e-8)
        best = search.best_estimator_
        np.testing.assert_allclose(clf.predict_proba(X), best.predict_proba(X), atol=1e-7)

    @pytest.mark.parametrize("solver", ["lbfgs", "newton", "gd"])
    def test_the_stack_is_the_single_fits(self, backend, solver):
        """With weights, those of classes left out, and a feature that is constant in a fold."""
        rows, classes = X.copy(), {"frog": 3.0}
        rows[:100, 0] = 2.0
        folds = [(np.arange(100), np.arange(100, N)), *FOLDS]
        settings = {"class_weight": classes, "solver": solver, "standardize": True}
        settings |= EXACT if solver != "gd" else {"tol": 1e-7, "max_iter": 5000}
        clf = xl.LinearClassifierCV([0.1, 0.03], cv=folds, scoring="log_loss", **settings)
        clf.fit(backend.asarray(rows), NAMES[Y], WEIGHTS)
        for a, alpha in enumerate([0.1, 0.03]):
            single = xl.LinearClassifier(alpha=alpha, **settings)
            for f, (train, test) in enumerate(folds):
                single.fit(rows[train], NAMES[Y][train], WEIGHTS[train])
                P = single.predict_proba(rows[test])
                expected = -log_loss(Y[test], P, sample_weight=WEIGHTS[test])
                assert clf.cv_scores_[a, f] == pytest.approx(expected, abs=2e-7)
            single.fit(rows, NAMES[Y], WEIGHTS)
            np.testing.assert_allclose(host(clf.coefs_paths_)[a], single.coef_, atol=1e-5)

    @pytest.mark.parametrize(
        ("loss", "penalty", "solver"),
        [
            ("softmax", "l1", "proximal_lbfgs"),
            ("softmax", "elastic_net", "gd"),
            ("multiclass_hinge", "l2", "interior_point"),
            ("multiclass_hinge", "l2", "smoothing"),
            ("softmax", "l2", "sgd"),
        ],
    )
    def test_every_solver(self, loss, penalty, solver):
        """Those that cannot solve such models together solve them one after the other."""
        settings = {"loss": loss, "penalty": penalty, "solver": solver, "standardize": True}
        tol = 1e-4 if solver == "smoothing" else 1e-7
        settings |= {"random_state": 0, "max_iter": 50} if solver == "sgd" else {"tol": tol}
        close = {"sgd": 0.05, "smoothing": 0.01}.get(solver, 1e-4)  # rounding ends these early
        seen: list[np.ndarray] = []

        def scoring(y, Z):
            seen.append(Z)
            return 0.0

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clf = xl.LinearClassifierCV([0.05, 0.02], cv=FOLDS, scoring=scoring, **settings)
            clf.fit(X, Y)
            found = np.sort([np.abs(Z).sum() for Z in seen])
            single, own = xl.LinearClassifier(**settings), []
            for alpha in (0.05, 0.02):
                for train, test in FOLDS:
                    single.set_params(alpha=alpha).fit(X[train], Y[train])
                    own.append(np.abs(single.decision_function(X[test])).sum())
        np.testing.assert_allclose(found, np.sort(own), rtol=close)

    def test_features_far_from_0(self, library, dtype):
        """Blocks are centred in a copy; what differs from fold to fold is in the products."""
        rows = (X / X.std(0) + np.asarray([1e3, 0.0, 2e2, -5e3, 1.0])).astype(dtype)
        settings = {"scoring": "log_loss", "standardize": True, "tol": 1e-5}
        clf = xl.LinearClassifierCV([0.1, 0.02], cv=TimeSeriesSplit(2), **settings)
        clf.fit(library.asarray(rows, dtype), Y)
        for f, (train, test) in enumerate(TimeSeriesSplit(2).split(X)):
            scaler = StandardScaler().fit(rows[train].astype(np.float64))
            own = [scaler.transform(rows[part].astype(np.float64)) for part in (train, test)]
            single = xl.LinearClassifier(alpha=0.02, solver="lbfgs", **EXACT).fit(own[0], Y[train])
            expected = -log_loss(Y[test], single.predict_proba(own[1]))
            close = 1e-3 if dtype == "float32" else 1e-5
            assert clf.cv_scores_[1, f] == pytest.approx(expected, abs=close)

    def test_scorers_get_the_pipeline_of_their_fold(self):
        seen = []

        def scorer(estimator, rows, labels):
            seen.append(estimator.decision_function(rows))
            return 0.0

        settings = {"standardize": True, "solver": "lbfgs", **EXACT}
        xl.LinearClassifierCV([0.1], cv=TimeSeriesSplit(3), scoring=scorer, **settings).fit(X, Y)
        single = xl.LinearClassifier(alpha=0.1, **settings)
        for found, (train, test) in zip(seen, TimeSeriesSplit(3).split(X), strict=True):
            expected = single.fit(X[train], Y[train]).decision_function(X[test])
            np.testing.assert_allclose(found, expected, atol=1e-6)


class TestHeldOutScores:
    @pytest.mark.parametrize("labels", [Y, BINARY], ids=["three", "two"])
    @pytest.mark.parametrize("standardize", [False, True])
    def test_as_cross_val_predict(self, backend, labels, standardize):
        settings = {"standardize": standardize, "solver": "lbfgs", **EXACT}
        clf = xl.LinearClassifierCV(Cs=[0.1, 1.0], cv=FOLDS, held_out_scores=True, **settings)
        clf.fit(backend.asarray(X), labels)
        single = xl.LinearClassifier(C=clf.C_, **settings)
        expected = cross_val_predict(single, X, labels, cv=FOLDS, method="decision_function")
        assert clf.held_out_scores_.shape == expected.shape
        np.testing.assert_allclose(host(clf.held_out_scores_), expected, atol=1e-5)

    def test_rows_that_no_fold_holds_out(self, library):
        """And those of no weight: NaN."""
        weights = np.where(np.arange(N) == 140, 0.0, 1.0)
        settings = {"cv": TimeSeriesSplit(3), "held_out_scores": True, "solver": "lbfgs", **EXACT}
        clf = xl.LinearClassifierCV([0.1], refit=False, **settings)
        found = host(clf.fit(library.asarray(X), Y, weights).held_out_scores_)
        last = list(TimeSeriesSplit(3).split(X))[-1]
        single = xl.LinearClassifier(alpha=0.1, solver="lbfgs", **EXACT)
        single.fit(X[last[0]], Y[last[0]])
        out = np.isnan(found).all(axis=1)
        assert np.flatnonzero(out).tolist() == [*range(39), 140]
        test = last[1][last[1] != 140]
        np.testing.assert_allclose(found[test], single.decision_function(X[test]), atol=1e-6)
        assert not np.isnan(found[~out]).any()

    def test_learning_rates_and_the_strength_chosen(self):
        settings = {"cv": FOLDS, "solver": "sgd", "max_iter": 5, "random_state": 0}
        clf = xl.LinearClassifierCV(
            [0.1, 0.001], learning_rates=[1e-3, 1e-1], held_out_scores=True, **settings
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clf.fit(X, Y)
        right = [(clf.held_out_scores_[test].argmax(1) == Y[test]).mean() for _, test in FOLDS]
        np.testing.assert_allclose(clf.cv_scores_[clf.best_index_], right)

    def test_twice_is_refused(self):
        clf = xl.LinearClassifierCV([0.1], cv=SPLITTERS["repeated"], held_out_scores=True)
        with pytest.raises(ValueError, match="row 0 is held out 2 times; use folds that do not"):
            clf.fit(X, Y)


BAD = {
    "both": ({"alphas": [0.1], "Cs": [1.0]}, "alphas and Cs are two ways to say which strengths"),
    "no Cs": ({"Cs": []}, "Cs must be a sequence of positive, finite numbers, such as [1.0]"),
    "C 0": ({"Cs": [0.0, 1.0]}, "Cs must be a sequence of positive, finite numbers"),
    "C inf": ({"Cs": [np.inf]}, "Cs must be a sequence of positive, finite numbers"),
    "one C": ({"Cs": 1}, "an integer of at least 2 or None, got 1"),
    "many Cs": ({"Cs": 2000}, "Cs=2000 is how many strengths to fit in every fold"),
    "flag": ({"held_out_scores": "yes"}, "held_out_scores must be True or False, got 'yes'"),
    "one split": (
        {"cv": SPLITTERS["one split"], "one_standard_error": True},
        "one_standard_error needs at least two folds",
    ),
    "groups": ({"cv": GroupKFold(3)}, "The 'groups' parameter should not be None"),
    "top": ({"scoring": "top_5_accuracy"}, "scoring='top_5_accuracy' is 1 for every model of 3"),
    "top 0": ({"scoring": "top_0_accuracy"}, "unknown scoring 'top_0_accuracy'; choose from"),
    "rank": (
        {"scoring": "roc_auc", "cv": [FOLDS[0], (FOLDS[0][0], np.flatnonzero(Y == 1)[:9])]},
        "cv: fold 1 holds out rows of one class only, which scoring='roc_auc' cannot rank",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    settings, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        xl.LinearClassifierCV(**settings).fit(X, Y)


class TestSparseRows:
    """The same sweep as of the same rows written out."""

    rows = np.where(rng.random((N, 8)) < 0.3, rng.uniform(0.1, 3.0, (N, 8)), 0.0)
    labels = np.argmax(rows[:, :3] + rng.gumbel(size=(N, 3)), axis=1)

    @pytest.mark.parametrize("standardize", [False, True])
    @pytest.mark.parametrize(
        ("scoring", "solver"),
        [("log_loss", "lbfgs"), ("roc_auc", "auto"), ("top_2_accuracy", "newton")],
    )
    def test_as_dense_rows(self, standardize, scoring, solver):
        settings = {"scoring": scoring, "solver": solver, "standardize": standardize, **EXACT}
        settings |= {"Cs": CS, "cv": TimeSeriesSplit(3), "held_out_scores": True}
        dense = xl.LinearClassifierCV(**settings).fit(self.rows, self.labels, WEIGHTS)
        clf = xl.LinearClassifierCV(**settings)
        clf.fit(scipy.sparse.csr_array(self.rows), self.labels, WEIGHTS)
        np.testing.assert_allclose(clf.cv_scores_, dense.cv_scores_, atol=1e-8)
        np.testing.assert_allclose(clf.coef_, dense.coef_, atol=1e-6)
        np.testing.assert_allclose(clf.held_out_scores_, dense.held_out_scores_, atol=1e-6)
        assert clf.C_ == dense.C_

    def test_callables(self):
        settings = {"Cs": CS, "cv": FOLDS, "standardize": True, "solver": "lbfgs", **EXACT}
        for scoring in (lambda y, Z: float((Z.argmax(1) == y).mean()), "neg_log_loss"):
            scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
            dense = xl.LinearClassifierCV(scoring=scorer, **settings).fit(self.rows, self.labels)
            clf = xl.LinearClassifierCV(scoring=scorer, **settings)
            clf.fit(scipy.sparse.csr_array(self.rows), self.labels)
            np.testing.assert_allclose(clf.cv_scores_, dense.cv_scores_, atol=1e-8)
