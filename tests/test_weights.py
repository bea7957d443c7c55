"""Only the ratios of weights count, and rows of weight 0 do not, whatever they hold."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import ShuffleSplit

import xplinear as xl
from xplinear.backends import backend_of
from xplinear.data import ArrayData, StreamedData
from xplinear.data import streamed as streamed_module
from xplinear.estimator.labels import weights_of
from xplinear.losses import SoftmaxLoss
from xplinear.namespace import is_array
from xplinear.penalties import L2Penalty
from xplinear.solvers.metric import feature_metric, feature_moments, mean_loss, small_sample

rng = np.random.default_rng(0)
X = rng.standard_normal((200, 4))
Y = np.argmax(X[:, :3] + 0.5 * rng.standard_normal((200, 3)), axis=1)
WEIGHTS = rng.integers(1, 9, 200) / 3.0
FITS = {
    "lbfgs": {},
    "gd": {"solver": "gd"},
    "sgd": {"solver": "sgd", "max_iter": 5},
    "a plain step": {"solver": "sgd", "max_iter": 5, "learning_rate": 0.05},
    "early stopping": {"early_stopping": True, "max_iter": 5},
    "l1": {"penalty": "l1", "alpha": 0.01},
    "hinge": {"loss": "multiclass_hinge", "alpha": 0.1},
    "squared hinge": {"loss": "squared_hinge"},
    "class weights": {"class_weight": {0: 0.5, 1: 2.0}},
    "balanced": {"class_weight": "balanced"},
}


def host(x):
    return backend_of(x).fetch(x) if is_array(x) else np.asarray(x)


def fitted(rows, labels, weights=None, **settings):
    clf = xl.LinearClassifier(**{"random_state": 0, "alpha": 1e-3} | settings)
    return clf.fit(rows, labels, weights)


def same(a, b, **tolerance):
    for name in ("W", "b"):
        ours, theirs = (host(getattr(clf.params_, name)) for clf in (a, b))
        np.testing.assert_allclose(ours, theirs, **tolerance)


class TestRatios:
    @pytest.mark.parametrize("factor", [1e-300, 1e-46, 2.0**-40, 1e36, 1e300])
    def test_a_factor_gives_the_very_model(self, library, dtype, factor):
        rows = library.asarray(X, dtype)
        clf, other = (fitted(rows, Y, c * WEIGHTS) for c in (1.0, factor))
        tolerance = {"rtol": 0} if dtype == "float32" else {"rtol": 1e-9, "atol": 1e-12}
        same(other, clf, **tolerance)
        assert other.objective_ == pytest.approx(clf.objective_, rel=1e-9)

    @pytest.mark.parametrize("name", FITS)
    def test_by_every_solver(self, name):
        rows = X.astype(np.float32)
        clf, *others = (fitted(rows, Y, c * WEIGHTS, **FITS[name]) for c in (1.0, 1e-46, 1e36))
        for other in others:
            same(other, clf, rtol=0)

    def test_equal_weights_are_none(self, backend):
        rows = backend.asarray(X)
        plain = fitted(rows, Y, solver="gd", tol=0.5)
        for weights in (np.full(200, 0.1), 1e300, np.ones(200)):
            same(fitted(rows, Y, weights, solver="gd", tol=0.5), plain, rtol=0)

    def test_what_cannot_be_told_from_0_is_0(self):
        weights = np.where(np.arange(200) < 100, 1.0, 1e-60)
        rows = X.astype(np.float32)
        same(fitted(rows, Y, weights), fitted(rows[:100], Y[:100]), rtol=0)

    def test_products_with_class_weights_stay_numbers(self):
        weights, _ = weights_of(np.full(200, 1e300), {0: 1e300, 1: 2e300}, Y, np.arange(3))
        np.testing.assert_allclose(np.unique(weights[Y < 2]), [0.5, 1.0])
        same(
            fitted(X, Y, 1e300 * WEIGHTS, class_weight={0: 1e308, 1: 1e308, 2: 2e307}),
            fitted(X, Y, WEIGHTS, class_weight={0: 1.0, 1: 1.0, 2: 0.2}),
            rtol=1e-6,
        )

    @pytest.mark.parametrize("factor", [1e-310, 1e-46, 1e36, 1e307])
    def test_scores(self, factor):
        clf = fitted(X, Y)
        expected = np.average(clf.predict(X) == Y, weights=WEIGHTS)
        assert clf.score(X, Y, factor * WEIGHTS) == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("factor", [1e-46, 1e36])
    def test_cross_validation(self, factor):
        rows = X.astype(np.float32)
        clf, other = (
            xl.LinearClassifierCV([0.1, 0.01], cv=3).fit(rows, Y, c * WEIGHTS)
            for c in (1.0, factor)
        )
        np.testing.assert_allclose(clf.cv_scores_, other.cv_scores_, rtol=1e-12)
        same(clf.best_estimator_, other.best_estimator_, rtol=0)

    @pytest.mark.parametrize("factor", [1e-46, 1e-20, 1e36])
    def test_calls_of_partial_fit_share_a_scale(self, library, factor):
        # Rows of far smaller weight hardly move the mean of all rows.
        def last(first, second):
            clf = xl.LinearClassifier(random_state=0)
            for part, weight in ((slice(0, 100), first), (slice(100, 200), second)):
                rows = library.asarray(X[part] + (part.start > 0), "float32")
                weights = weight * WEIGHTS[part]
                clf.partial_fit(rows, Y[part], classes=[0, 1, 2], sample_weight=weights)
            return clf

        clf, other = last(1.0, 2.0), last(factor, 2.0 * factor)
        same(clf, other, rtol=1e-5, atol=1e-6)
        mean = X[100:] + 1 if factor > 1 else X[:100]
        weights = WEIGHTS[100:] if factor > 1 else WEIGHTS[:100]
        state = last(1.0, factor)._sgd_state
        expected = np.average(mean, axis=0, weights=weights)
        np.testing.assert_allclose(host(state.moments.mean)[:, 0], expected, atol=1e-5)


class TestRowsOfWeight0:
    """A fit with rows of weight 0 is the fit without them."""

    ROWS = np.arange(4000) % 100 == 37  # not one of them is on a grid of every second row

    def rows(self, beyond):
        inner = np.random.default_rng(1)
        rows = inner.standard_normal((4000, 4))
        labels = np.argmax(rows[:, :3] + 0.5 * inner.standard_normal((4000, 3)), axis=1)
        rows[~self.ROWS] = beyond + inner.standard_normal(((~self.ROWS).sum(), 4))
        return rows.astype(np.float32), labels

    @pytest.mark.parametrize("standardize", [False, True])
    @pytest.mark.parametrize("beyond", [40.0, 1e30])
    @pytest.mark.parametrize("name", FITS)
    def test_by_every_solver(self, name, beyond, standardize):
        rows, labels = self.rows(beyond)
        settings = FITS[name] | {"standardize": standardize}
        clf = fitted(rows, labels, self.ROWS.astype(float), **settings)
        same(clf, fitted(rows[self.ROWS], labels[self.ROWS], **settings), rtol=0)

    @pytest.mark.parametrize("name", ["lbfgs", "sgd"])
    def test_on_every_backend(self, backend, name):
        rows, labels = self.rows(1e30)
        weights = self.ROWS * rng.uniform(0.5, 2.0, 4000)
        settings = FITS[name] | {"max_iter": 3, "tol": 0.5}
        clf = fitted(backend.asarray(rows), labels, weights, **settings)
        few = backend.asarray(rows[self.ROWS])
        same(clf, fitted(few, labels[self.ROWS], weights[self.ROWS], **settings), rtol=1e-6)

    def test_a_class_without_weight(self):
        rows, labels = self.rows(0.0)
        rows[labels == 2] = 1e30
        weights = {0: 1.0, 1: 1.0, 2: 0.0}
        clf = fitted(rows, labels, class_weight=weights)
        other = fitted(np.where(labels[:, None] == 2, 1, rows), labels, class_weight=weights)
        same(clf, other, rtol=0)
        assert set(clf.predict(rows[labels < 2])) <= {0, 1}

    def test_scaler_sees_rows_of_class_weight_0(self):
        clf = fitted(X, Y, standardize=True, class_weight={2: 0.0}, alpha=0.1)
        scaled = (X - X.mean(axis=0)) / X.std(axis=0)
        other = fitted(scaled, Y, class_weight={2: 0.0}, alpha=0.1)
        np.testing.assert_allclose(
            clf.decision_function(X), other.decision_function(scaled), atol=1e-6
        )

    def test_partial_fit(self, library):
        rows, labels = self.rows(1e30)
        settings = {"random_state": 0, "alpha": 1e-3}
        clf, other = xl.LinearClassifier(**settings), xl.LinearClassifier(**settings)
        few = library.asarray(rows[self.ROWS])
        for _ in range(2):
            clf.partial_fit(library.asarray(rows), labels, [0, 1, 2], self.ROWS.astype(float))
            other.partial_fit(few, labels[self.ROWS], [0, 1, 2])
        same(clf, other, rtol=0)

    def test_streamed(self, library, monkeypatch):
        rows, labels = self.rows(1e30)
        small = replace(library.backend, free_memory=lambda: 600)
        made = []
        original = streamed_module.StreamedData.__post_init__
        monkeypatch.setattr(
            StreamedData, "__post_init__", lambda self: (made.append(1), original(self))
        )
        for settings in ({}, {"solver": "sgd", "max_iter": 5}):
            clf, other = (
                fitted(rows, labels, self.ROWS.astype(float), backend=b, tol=1e-2, **settings)
                for b in (library.backend, small)
            )
            same(other, clf, rtol=1e-5, atol=1e-6)
        assert made

    @pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
    def test_cross_validation(self, solver):
        rows, labels = self.rows(1e30)
        splitter = ShuffleSplit(3, random_state=0)
        few = np.flatnonzero(self.ROWS)
        folds = [(few[a], few[b]) for a, b in splitter.split(few)]
        everything = [(np.r_[a, 0, 1], np.r_[2, 3, b]) for a, b in folds]
        settings = {"alphas": [0.1, 0.01], "solver": solver, "random_state": 0}
        for scoring in ("log_loss", lambda y, Z: float((Z.argmax(axis=1) == y).mean())):
            clf = xl.LinearClassifierCV(cv=everything, scoring=scoring, **settings)
            clf.fit(rows, labels, self.ROWS.astype(float))
            other = xl.LinearClassifierCV(
                cv=list(splitter.split(few)), scoring=scoring, **settings
            ).fit(rows[few], labels[few])
            np.testing.assert_array_equal(clf.cv_scores_, other.cv_scores_)
            same(clf.best_estimator_, other.best_estimator_, rtol=0)

    def test_cross_validation_scores_a_class_of_weight_0(self):
        clf = xl.LinearClassifierCV([0.1], cv=3, class_weight={2: 0.0}).fit(X, Y)
        assert 0.2 < clf.cv_scores_.mean() < 0.8

    def test_early_stopping_judges_by_rows_that_count(self):
        rows, labels = self.rows(0.0)
        labels[~self.ROWS] = (labels[~self.ROWS] + 1) % 3  # these would say the opposite
        clf = fitted(rows, labels, self.ROWS.astype(float), early_stopping=True)
        assert np.nanmax(clf.history_["validation_score"]) > 0.6
        assert clf.score(rows[self.ROWS], labels[self.ROWS]) > 0.6


class TestSamples:
    def data(self, backend, s, n=5000, models=None):
        inner = np.random.default_rng(2)
        rows = inner.standard_normal((n, 2)) + np.asarray([3.0, 0.0])
        return ArrayData(
            backend.asarray(rows),
            backend.asarray(np.arange(n, dtype=np.int32) % 2),
            backend.asarray(s),
            models=None if models is None else backend.asarray(models),
            backend=backend.backend,
        )

    def test_hold_rows_of_weight_for_every_model(self, backend):
        s = np.zeros((5000, 3))
        s[::2, 0], s[1::1000, 1], s[4999, 2] = 1.0, 1.0, 1.0
        block = self.data(backend, s).sample(64)
        X, weights = block.X, host(block.s)
        assert host(X).shape == (64, 2)
        assert (weights.sum(axis=1) > 0).all()
        assert (weights.sum(axis=0) > 0).all()
        assert len(np.unique(host(X)[:, 0])) > 20

    def test_of_one_model_are_the_rows_that_count(self, backend):
        s = np.zeros((5000, 1))
        s[3::97] = 1.0
        data = self.data(backend, s)
        block = data.sample(40)
        counted = host(data.X)[3::97]
        assert set(host(block.X)[:, 0]) <= set(counted[:, 0])
        assert len(set(host(block.X)[:, 0])) == 40
        np.testing.assert_allclose(host(block.s), host(block.s)[0, 0])

    def test_a_row_that_outweighs_all_is_there(self, backend):
        s = np.full((5000, 1), 1e-12)
        s[1234] = 1.0
        data = self.data(backend, s)
        block = data.sample(10)
        X, weights = block.X, block.s
        mean = (host(X) * host(weights)).sum(axis=0) / host(weights).sum()
        np.testing.assert_allclose(mean, host(data.X)[1234], rtol=1e-6)

    def test_are_weighted_as_all_rows_are(self, backend):
        s = np.random.default_rng(3).lognormal(0.0, 2.0, (5000, 2))
        s[:2500, 1] = 0.0
        data = self.data(backend, s)
        block = data.sample(2000)
        X, weights = host(block.X), host(block.s)
        for model in range(2):
            mean, exact = (
                np.average(a, axis=0, weights=w[:, model])
                for a, w in ((X, weights), (host(data.X), s))
            )
            np.testing.assert_allclose(mean, exact, atol=0.15)
        np.testing.assert_allclose(weights.mean(axis=0), s.mean(axis=0), rtol=0.2)

    def test_follow_the_models(self, backend):
        s = np.ones((5000, 2))
        s[:4990, 1] = 0.0
        block = self.data(backend, s, models=np.asarray([1, 0, 1], np.int32)).sample(64)
        assert host(block.s).shape == (64, 3)
        assert (host(block.s).sum(axis=0) > 0).all()

    @pytest.mark.parametrize("n", [300, 5000])
    def test_moments_and_first_steps_do_not_see_the_others(self, backend, n):
        keep = np.arange(n) % 50 == 7
        data = self.data(backend, keep[:, None].astype(float), n)
        rows = np.where(keep[:, None], host(data.X), 1e30)
        poisoned = replace(
            data,
            X=backend.asarray(rows, "float32"),
            s=backend.asarray(keep[:, None].astype(float), "float32"),
            dtype=backend.xp.float32,
        )
        few = ArrayData(
            backend.asarray(rows[keep], "float32"),
            backend.asarray(np.arange(n, dtype=np.int32)[keep] % 2),
            backend=backend.backend,
        )
        alpha = backend.asarray([0.1], "float32")
        F, G = (xl.Objective(SoftmaxLoss(), L2Penalty(), alpha, d, k=2) for d in (poisoned, few))
        moments, expected = feature_moments(F), feature_moments(G)
        for a, b in zip(moments[:3], expected[:3], strict=True):
            np.testing.assert_allclose(host(a), host(b), rtol=1e-5, atol=1e-6)
        assert float(host(moments.evenness)[0]) == pytest.approx(keep.mean(), rel=1e-5)
        metric, other = feature_metric(F, moments), feature_metric(G, expected)
        for a, b in zip(metric, other, strict=True):
            np.testing.assert_allclose(host(a), host(b), rtol=1e-2)  # from samples
        params = G.zeros()
        found, wanted = (mean_loss(a.loss, a.xp, small_sample(a), params) for a in (F, G))
        np.testing.assert_allclose(host(found), host(wanted), rtol=1e-6)


def test_sgd_of_few_rows_that_count_does_not_run_away():
    """A mini-batch of a fold that trains on one row in a hundred holds hardly one."""
    inner = np.random.default_rng(4)
    rows = inner.standard_normal((4000, 5))
    labels = (rows.sum(axis=1) + inner.standard_normal(4000) > 0).astype(int)
    split = ShuffleSplit(2, train_size=0.01, test_size=0.5, random_state=0)
    settings = {"alphas": [1e-2], "cv": split, "scoring": "log_loss", "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgd = xl.LinearClassifierCV(solver="sgd", **settings).fit(rows, labels)
    exact = xl.LinearClassifierCV(solver="lbfgs", **settings).fit(rows, labels)
    np.testing.assert_allclose(sgd.cv_scores_, exact.cv_scores_, atol=0.05)


def test_sgd_of_very_different_weights_comes_near_the_optimum():
    inner = np.random.default_rng(5)
    rows = inner.standard_normal((5000, 5))
    labels = (rows.sum(axis=1) + inner.standard_normal(5000) > 0).astype(int)
    weights = inner.lognormal(0.0, 2.0, 5000)
    sgd, exact = (fitted(rows, labels, weights, solver=s) for s in ("sgd", "lbfgs"))
    assert sgd.objective_ < 1.03 * exact.objective_


def test_a_callable_sees_the_rows_that_count():
    weights = np.where(np.arange(len(Y)) % 5 == 0, 1e-320, 1.0)  # which no product can bear
    seen = []

    def scoring(y, Z):
        assert len(y) == len(Z)
        seen.append(len(y))
        return float(np.mean(np.argmax(Z, axis=1) == y))

    xl.LinearClassifierCV([0.1], cv=2, scoring=scoring, refit=False).fit(X, Y, weights)
    assert sum(seen) == np.sum(weights == 1.0)
