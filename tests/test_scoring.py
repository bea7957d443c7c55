"""Scorings are scikit-learn's: of random scores with ties, weights, classes that are missing."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    get_scorer,
    roc_auc_score,
    top_k_accuracy_score,
)
from sklearn.model_selection import StratifiedKFold, cross_val_score

import xplinear as xl
from xplinear.losses.softmax import softmax as softmax_of
from xplinear.model_selection import ranking
from xplinear.model_selection.scoring import HeldOut, RankScoring, scoring_named, sums_of

MEASURES = {
    "roc_auc": (ranking.roc_auc, roc_auc_score),
    "average_precision": (ranking.average_precision, average_precision_score),
}
rng = np.random.default_rng(0)
X = rng.standard_normal((120, 4))
Y = np.argmax(X[:, :3] + 0.5 * rng.gumbel(size=(120, 3)), axis=1)
FOLDS = list(StratifiedKFold(3).split(X, Y))
EXACT = {"tol": 1e-9, "max_iter": 3000}


def ranked(seed, n, m, *, weights):
    """Return scores with ties, labels of both kinds in every column, and weights, some 0."""
    random = np.random.default_rng(seed)
    Z = np.round(random.standard_normal((n, m)), 1)
    hits = random.random((n, m)) < 0.3
    hits[:2] = [[True], [False]]
    s = random.uniform(0.1, 3.0, (n, weights)) if weights else None
    if weights:
        s[2:] *= random.random((n - 2, weights)) < 0.7
    return Z, hits, s


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("weights", [0, 1, 3])
def test_rankings_of_columns(backend, measure, weights):
    ours, theirs = MEASURES[measure]
    Z, hits, s = ranked(0, 100, 3, weights=weights)
    Z = Z.astype(np.float32)  # sums are in float64
    own = [a if a is None else backend.asarray(a) for a in (Z, hits, s)]
    found = backend.to_numpy(ranking.by_columns(ours, *own, xp=backend.xp))
    for j in range(3):
        weight = None if s is None else s[:, j % weights]
        expected = theirs(hits[:, j], Z[:, j], sample_weight=weight)
        assert found[j] == pytest.approx(expected, abs=1e-12)


@given(st.data(), st.integers(2, 12))
def test_rankings_of_any_scores(data, n):
    """Few rows, of few different scores, infinite ones among them."""
    values = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 5e-324, 1.0, 1.0 + 2**-52, np.inf])
    Z = np.asarray(data.draw(st.lists(values, min_size=n, max_size=n)))
    hits = np.asarray(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    s = np.asarray(data.draw(st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=n, max_size=n)))
    there = s > 0
    finite = np.nan_to_num(Z, posinf=1e9, neginf=-1e9)  # which scikit-learn wants
    for ours, theirs in MEASURES.values():
        (found,) = ours(Z[:, None], hits[:, None], s[:, None], xp=np)
        if not hits[there].any() or (ours is ranking.roc_auc and hits[there].all()):
            assert np.isnan(found)
        else:
            assert found == pytest.approx(theirs(hits, finite, sample_weight=s), abs=1e-12)


def test_few_columns_at_a_time(numpy_backend, monkeypatch):
    Z, hits, s = ranked(0, 50, 7, weights=7)
    whole = ranking.by_columns(ranking.roc_auc, Z, hits, s, xp=np)
    monkeypatch.setattr(ranking, "_ENTRIES", 100)
    parts = ranking.by_columns(ranking.roc_auc, Z, hits, s, xp=np)
    np.testing.assert_array_equal(parts, whole)
    one = ranking.by_columns(ranking.roc_auc, Z, hits, s[:, :1], xp=np)
    np.testing.assert_array_equal(one[:1], whole[:1])


def rounded_model(backend, k, weights):
    """Return an objective and parameters whose scores tie: X and W are small integers."""
    random = np.random.default_rng(k)
    rows = random.integers(-1, 2, (60, 3)).astype(float)
    y = random.integers(0, k, 60)
    s = random.uniform(0.0, 2.0, (60, 1)) * (random.random((60, 1)) < 0.8) if weights else None
    loss, penalty = xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty()
    F = backend.objective(loss, penalty, rows, y, s, alpha=[0.1] * 2, k=k)
    c = 1 if k == 2 else k
    W = random.integers(-1, 2, (3, 2, c)).astype(float)
    params = xl.Params(backend.asarray(W), backend.asarray(np.zeros((2, c))))
    Z = np.einsum("np,pmc->nmc", rows, W)
    Z = np.concatenate([-Z / 2, Z / 2], axis=2) if k == 2 else Z
    return F, params, Z, y, np.ones(60) if s is None else s[:, 0]


@pytest.mark.parametrize(("k", "weights"), [(2, False), (3, True), (7, True)])
def test_sums_with_ties(backend, k, weights):
    """Of equal scores the last class counts first in top_k_accuracy_score."""
    F, params, Z, y, s = rounded_model(backend.with_blocks_of(2000), k, weights)
    for top in range(1, k):
        found = backend.to_numpy(sums_of(f"top_{top}_accuracy")(F, params))
        for j in range(2):
            scores = Z[:, j] if k > 2 else Z[:, j, 1] - Z[:, j, 0]
            if k == 2:  # where scikit-learn takes 0.5 for the threshold of scores within [0, 1]
                expected = np.average((Z[:, j, 1] >= Z[:, j, 0]) == y, weights=s)
            else:
                labels = np.arange(k)
                expected = top_k_accuracy_score(y, scores, k=top, labels=labels, sample_weight=s)
            assert found[j] == pytest.approx(expected, abs=1e-12)
    for name, average in (
        ("f1_weighted", "weighted"),
        ("f1_macro", "macro"),
        ("f1_micro", "micro"),
    ):
        found = backend.to_numpy(sums_of(scoring_named(name, k))(F, params))
        for j in range(2):
            expected = f1_score(y, Z[:, j].argmax(1), average=average, sample_weight=s)
            assert found[j] == pytest.approx(expected, abs=1e-12)


def softmax(Z):
    P = np.exp(Z - Z.max(1, keepdims=True))
    return P / P.sum(1, keepdims=True)


@pytest.mark.parametrize(("k", "weights"), [(2, True), (4, False), (4, True)])
def test_rankings_with_ties(backend, k, weights):
    F, params, Z, y, s = rounded_model(backend.with_blocks_of(2000), k, weights)
    s = np.where(s > 0, s, 0.1)
    rows = np.asarray([*range(5, 60), 7, 7])  # one is named three times, none is in order
    rows = np.random.default_rng(0).permutation(rows)
    held_out = HeldOut([rows], lambda index: index, y, s if weights else None)
    part = s[rows] if weights else None
    for name, average in (("roc_auc", "macro"), ("roc_auc_ovr_weighted", "weighted")):
        found = RankScoring(name, held_out).scores(F, params, [0, 0])
        for j in range(2):
            P = Z[rows, j, 1] - Z[rows, j, 0]
            if k > 2:  # ties are what this library's exponential makes of them
                P = backend.to_numpy(softmax_of(backend.asarray(Z[rows, j]), xp=backend.xp))
            settings = {"average": average, "multi_class": "ovr", "sample_weight": part}
            expected = roc_auc_score(y[rows], P, **settings)
            assert found[j] == pytest.approx(expected, abs=1e-12)
    found = RankScoring("average_precision", held_out).scores(F, params, [0, 0])
    for j in range(2):
        scores = Z[rows, j, 1] - Z[rows, j, 0] if k == 2 else Z[rows, j]
        expected = average_precision_score(y[rows], scores, sample_weight=part)
        assert found[j] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "scoring",
    [
        "roc_auc",
        "roc_auc_ovr",
        "roc_auc_ovr_weighted",
        "average_precision",
        "top_k_accuracy",
        "f1_weighted",
        "f1_micro",
    ],
)
@pytest.mark.parametrize("labels", [Y, Y == 1], ids=["three", "two"])
def test_names_are_those_of_scikit_learn(numpy_backend, scoring, labels):
    """Of a whole sweep: which scores, which rows, which C."""
    if scoring == "top_k_accuracy" and len(np.unique(labels)) == 2:
        pytest.skip("it is 1 for every model")
    theirs = "roc_auc_ovr" if scoring == "roc_auc" and len(np.unique(labels)) > 2 else scoring
    clf = xl.LinearClassifierCV(Cs=[0.3], cv=FOLDS, scoring=scoring, refit=False, **EXACT)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*stopped at the float64 floor")
        clf.fit(X, labels)
    single = LogisticRegression(C=0.3, tol=1e-11, max_iter=10_000)
    expected = cross_val_score(single, X, labels, cv=FOLDS, scoring=get_scorer(theirs))
    np.testing.assert_allclose(clf.cv_scores_[0], expected, atol=1e-9)


@pytest.mark.parametrize(
    "scoring", ["roc_auc", "roc_auc_ovr_weighted", "average_precision", "top_2_accuracy"]
)
class TestMissingClasses:
    def test_in_the_rows_held_out(self, numpy_backend, scoring):
        """They are left out of the mean; scikit-learn refuses, or counts an average precision 0."""
        test = np.flatnonzero(Y != 2)[:30]
        train = np.setdiff1d(np.arange(120), test)
        clf = xl.LinearClassifierCV([0.1], cv=[(train, test)], scoring=scoring, **EXACT)
        found = clf.fit(X, Y).cv_scores_[0, 0]
        single = xl.LinearClassifier(alpha=0.1, solver="lbfgs", **EXACT).fit(X[train], Y[train])
        Z, P = single.decision_function(X[test]), single.predict_proba(X[test])
        hits = Y[test][:, None] == np.arange(2)
        if scoring == "top_2_accuracy":
            expected = top_k_accuracy_score(Y[test], Z, k=2, labels=[0, 1, 2])
        elif scoring == "average_precision":
            expected = average_precision_score(hits, Z[:, :2])
        else:
            average = "weighted" if scoring.endswith("weighted") else "macro"
            expected = roc_auc_score(hits, P[:, :2], average=average)
        assert found == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
    def test_in_the_rows_trained_on(self, numpy_backend, scoring, loss):
        """All rows rank alike for them, whatever ``tol``: an area of a half."""
        labels = np.where(np.arange(120) % 40 == 0, 3, Y)
        test = np.arange(0, 120, 2)
        train = np.setdiff1d(np.arange(120), test)
        found = []
        for tol in (1e-3, 1e-8):
            settings = {"scoring": scoring, "loss": loss, "tol": tol, "max_iter": 3000}
            clf = xl.LinearClassifierCV([0.1], cv=[(train, test)], refit=False, **settings)
            found.append(clf.fit(X, labels).cv_scores_[0, 0])
        single = xl.LinearClassifier(alpha=0.1, loss=loss, solver="lbfgs", **EXACT)
        Z = single.fit(X[train], labels[train]).decision_function(X[test])
        Z = np.c_[Z, np.full(60, -1e9)]
        hits = labels[test][:, None] == np.arange(4)
        if scoring == "top_2_accuracy":
            expected = top_k_accuracy_score(labels[test], Z, k=2)
        elif scoring == "average_precision":
            expected = average_precision_score(hits, Z)
        else:
            average = "weighted" if scoring.endswith("weighted") else "macro"
            expected = roc_auc_score(hits, softmax(Z) if loss == "softmax" else Z, average=average)
        assert found[1] == pytest.approx(expected, abs=1e-7)
        assert found[0] == pytest.approx(expected, abs=0.02)


def test_streamed_rows_are_ranked_too(numpy_backend):
    """Of each block only the scores of rows held out are kept."""
    small = replace(numpy_backend.backend, block_bytes=500)
    settings = {"cv": FOLDS, "scoring": "roc_auc", "solver": "lbfgs"}
    whole = xl.LinearClassifierCV([0.1, 0.01], **settings).fit(X, Y)
    parts = xl.LinearClassifierCV([0.1, 0.01], backend=small, **settings).fit(X, Y)
    np.testing.assert_allclose(parts.cv_scores_, whole.cv_scores_, atol=1e-3)
