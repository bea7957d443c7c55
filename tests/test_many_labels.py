"""Many two-class models in one classifier: labels of any number, and one class against the rest."""

from __future__ import annotations

import json
import math
import pickle
import tracemalloc
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.svm import LinearSVC
from sklearn.utils import estimator_checks

import xplinear as xl
from xplinear.estimator import problem, solve, targets
from xplinear.losses import LOSSES

N, P, L = 240, 5, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((N, P)) * [1.0, 3.0, 0.3, 1.0, 1.0] + [0.0, 1.0, 0.0, 0.0, 2.0]
PULL = X @ rng.standard_normal((P, L)) + rng.logistic(size=(N, L))
LEVELS = np.asarray([0.0, 1.2, -0.6, 0.5])
Y = ((PULL - PULL.mean(axis=0)) / PULL.std(axis=0) > LEVELS).astype(int)
CLASSES = np.asarray(["ant", "bee", "cat", "dog"])[np.argmax(PULL / PULL.std(axis=0), axis=1)]
MISSING = rng.random((N, L)) < 0.2
HOLES = np.where(MISSING, np.nan, Y)
WEIGHTS = rng.uniform(0.5, 2.0, (N, L))
CONVERGED: dict[str, Any] = {"tol": 1e-10, "random_state": 0}


@pytest.fixture
def small_parts(monkeypatch):
    """Let two columns be what a product of matrices gains by."""
    monkeypatch.setattr(problem, "WIDE", 2)


def assert_models_are(clf, singles, rows=X, atol=1e-8):
    """Each model is that of a single fit, and so is what is known of it."""
    probabilistic = hasattr(clf, "predict_proba")
    scores = clf.decision_function(rows)
    for j, one in enumerate(singles):
        np.testing.assert_allclose(clf.coef_[j], one.coef_[0], atol=atol)
        np.testing.assert_allclose(clf.intercept_[j], one.intercept_[0], atol=atol)
        np.testing.assert_allclose(scores[:, j], one.decision_function(rows), atol=10 * atol)
        np.testing.assert_allclose(clf.objective_[j], one.objective_, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(clf.alpha_[j], one.alpha_, rtol=1e-12)
        if probabilistic and clf.multilabel_:
            own = one.predict_proba(rows)[:, 1]
            np.testing.assert_allclose(clf.predict_proba(rows)[:, j], own, atol=atol)


def test_many_labels_are_what_scikit_learn_fits_one_by_one():
    clf = xl.LinearClassifier(**CONVERGED).fit(X, Y)
    reference = OneVsRestClassifier(LogisticRegression(tol=1e-10, max_iter=1000)).fit(X, Y)
    assert clf.multilabel_
    assert reference.multilabel_
    assert clf.coef_.shape == (L, P)
    assert clf.intercept_.shape == (L,)
    np.testing.assert_array_equal(clf.classes_, reference.classes_)
    np.testing.assert_array_equal(clf.predict(X), reference.predict(X))
    assert clf.predict(X).dtype.kind == "i"
    for name, atol in (("predict_proba", 1e-6), ("decision_function", 1e-4)):
        found, expected = getattr(clf, name)(X), getattr(reference, name)(X)
        np.testing.assert_allclose(found, expected, atol=atol)
    np.testing.assert_allclose(np.exp(clf.predict_log_proba(X)), clf.predict_proba(X), rtol=1e-12)
    assert clf.score(X, Y) == reference.score(X, Y)
    weights = WEIGHTS[:, 0]
    expected = accuracy_score(Y, clf.predict(X), sample_weight=weights)
    np.testing.assert_allclose(clf.score(X, scipy.sparse.csr_array(Y), weights), expected)


SMOOTH = "softmax", "squared_hinge", "squared_error"


@pytest.mark.parametrize(
    ("loss", "penalty"),
    [(loss, "l2") for loss in LOSSES]
    + [(loss, penalty) for loss in SMOOTH for penalty in ("l1", "elastic_net")],
)
def test_each_label_is_its_own_fit(loss, penalty):
    settings = {"loss": loss, "penalty": penalty, **CONVERGED}
    strengths = [0.1, 0.02, 0.05, 0.01]
    clf = xl.LinearClassifier(alpha=strengths, **settings).fit(X, Y)
    singles = [
        xl.LinearClassifier(alpha=a, **settings).fit(X, y)
        for a, y in zip(strengths, Y.T, strict=True)
    ]
    assert {one.solver_ for one in singles} == {clf.solver_}
    assert clf.solver_ != "sgd"
    assert_models_are(clf, singles)
    assert clf.n_iter_.shape == clf.objective_.shape == (L,)
    assert clf.history_["loss"].shape == (clf.n_iter_.max(), L)
    assert clf.certificate_.reasons == ("converged",) * L
    last = clf.history_["loss"][-1] + clf.history_["penalty"][-1]
    np.testing.assert_allclose(last, clf.objective_, rtol=1e-8)


SOLVERS = [
    ("lbfgs", "softmax", 1e-8),
    ("newton", "squared_hinge", 1e-8),
    ("gd", "squared_error", 1e-3),
    ("smoothing", "multiclass_hinge", 2e-2),
    ("interior_point", "crammer_singer", 1e-6),
    ("proximal_lbfgs", "softmax", 1e-6),
]


@pytest.mark.parametrize(("solver", "loss", "atol"), SOLVERS)
@pytest.mark.parametrize("standardize", [False, True])
def test_each_label_is_its_own_fit_by_every_solver(solver, loss, atol, standardize):
    kinked = solver == "proximal_lbfgs"
    settings = {"loss": loss, "solver": solver, "penalty": "l1" if kinked else "l2", "C": 0.1}
    settings |= {"tol": 1e-4 if solver in ("gd", "smoothing") else 1e-9, "max_iter": 3000}
    settings |= {"standardize": standardize}
    clf = xl.LinearClassifier(**settings).fit(X, Y)
    singles = [xl.LinearClassifier(**settings).fit(X, y) for y in Y.T]
    if solver == "newton":
        np.testing.assert_array_equal(clf.n_iter_, [one.n_iter_ for one in singles])
    for j, one in enumerate(singles):
        np.testing.assert_allclose(clf.coef_[j], one.coef_[0], atol=atol)
        np.testing.assert_allclose(clf.objective_[j], one.objective_, rtol=atol)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_makes_the_steps_of_each_label(momentum):
    settings = {"solver": "sgd", "max_iter": 3, "random_state": 0, "momentum": momentum}
    clf = xl.LinearClassifier(**settings).fit(X, Y)
    assert_models_are(clf, [xl.LinearClassifier(**settings).fit(X, y) for y in Y.T])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"standardize": True},
        {"standardize": True, "solver": "lbfgs"},
        {"class_weight": "balanced"},
        {"class_weight": {0: 0.5, 1: 3.0}, "C": [0.1, 1.0, 0.01, 10.0]},
        {"penalty": "l1", "alpha": 0.01},
        {"loss": "multiclass_hinge", "alpha": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_missing_labels_weigh_nothing_for_their_model(settings, weighted, small_parts):
    """Also where models are solved two at a time."""
    weights = WEIGHTS if weighted else None
    clf = xl.LinearClassifier(**CONVERGED, **settings).fit(X, HOLES, weights)
    singles = []
    for j in range(L):
        known = ~MISSING[:, j]
        own = {key: a[j] if isinstance(a, list) else a for key, a in settings.items()}
        s = weights[known, j] if weighted else None
        singles.append(xl.LinearClassifier(**CONVERGED, **own).fit(X[known], Y[known, j], s))
    assert_models_are(clf, singles)


def test_rows_that_no_label_has_are_left_out():
    holes = HOLES.copy()
    holes[:20] = np.nan
    rows = X.copy()
    rows[:20] = 1e12
    few = xl.LinearClassifier(standardize=True, **CONVERGED).fit(X[20:], holes[20:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = xl.LinearClassifier(standardize=True, **CONVERGED).fit(rows, holes)
    np.testing.assert_allclose(clf.coef_, few.coef_, atol=1e-10)


def kinds_of_labels() -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "bool": Y.astype(bool),
        "int8": Y.astype(np.int8),
        "floats": Y.astype(float),
        "objects": Y.astype(object),
        "lists": Y.tolist(),
        "list of arrays": list(Y),
        "strided": np.repeat(Y, 2, axis=1)[:, ::2],
        "csr_array": scipy.sparse.csr_array(Y),
        "csc_matrix": scipy.sparse.csc_matrix(Y),
        "coo_array": scipy.sparse.coo_array(Y),
        "booleans, sparse": scipy.sparse.csr_array(Y.astype(bool)),
        "explicit zeros": scipy.sparse.csr_array(
            (Y.ravel(), np.tile(np.arange(L), N), np.arange(0, N * L + 1, L)), shape=(N, L)
        ),
    }
    if find_spec("pandas"):
        import pandas as pd

        kinds["table"] = pd.DataFrame(Y)
    if find_spec("torch"):
        import torch

        kinds["torch"] = torch.asarray(Y)
        kinds["bfloat16"] = torch.asarray(Y).to(torch.bfloat16)
    return kinds


@cache
def fitted() -> xl.LinearClassifier:
    return xl.LinearClassifier(**CONVERGED).fit(X, Y)


@pytest.mark.parametrize("kind", kinds_of_labels())
def test_labels_come_in_many_forms(kind):
    y = kinds_of_labels()[kind]
    before = getattr(y, "dtype", None)
    clf = xl.LinearClassifier(**CONVERGED).fit(X, y)
    np.testing.assert_array_equal(clf.coef_, fitted().coef_)
    np.testing.assert_array_equal(clf.classes_, np.arange(L))
    assert clf.score(X, y) == fitted().score(X, Y)
    if scipy.sparse.issparse(y):
        assert y.dtype == before
        assert y.nnz == (N * L if kind == "explicit zeros" else Y.sum())  # as it was


def forms_of_holes() -> dict[str, Any]:
    stored = scipy.sparse.csr_array(np.where(MISSING, 7.0, Y))
    stored.data[stored.data == 7.0] = np.nan
    objects = HOLES.astype(object)
    objects[MISSING] = None
    forms = {
        "masked": np.ma.masked_array(Y, MISSING),
        "sparse": stored,
        "objects": objects,
        "float32": HOLES.astype(np.float32),
    }
    if find_spec("pandas"):
        import pandas as pd

        forms["nullable"] = pd.DataFrame(HOLES).astype("Int8")
    if find_spec("polars"):
        import polars as pl

        columns = [[None if a is None else bool(a) for a in column] for column in objects.T]
        forms["polars"] = pl.DataFrame({str(j): a for j, a in enumerate(columns)})
    return forms


@pytest.mark.parametrize("form", forms_of_holes())
def test_missing_labels_come_in_many_forms(form):
    expected = xl.LinearClassifier(**CONVERGED).fit(X, HOLES)
    clf = xl.LinearClassifier(**CONVERGED).fit(X, forms_of_holes()[form])
    np.testing.assert_array_equal(clf.coef_, expected.coef_)


def test_columns_of_a_table_name_the_labels(tmp_path):
    pandas = pytest.importorskip("pandas")
    names = ["rain", "wind", "sun", "fog"]
    clf = xl.LinearClassifier(**CONVERGED).fit(X, pandas.DataFrame(Y, columns=names))
    assert clf.classes_.tolist() == names
    np.testing.assert_array_equal(clf.predict(X), fitted().predict(X))
    clf.save(tmp_path / "model")
    assert xl.load(tmp_path / "model").classes_.tolist() == names
    holes = pandas.DataFrame(HOLES, columns=names)
    holes["sun"] = np.nan
    with pytest.raises(ValueError, match="y has no value, only missing ones, of label sun: leave"):
        xl.LinearClassifier().fit(X, holes)


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge", "multiclass_hinge", "squared_error"])
def test_a_label_without_positives_is_trained_and_named(loss):
    y = Y.copy()
    y[:, 1], y[:, 3] = 0, 1
    with pytest.warns(UserWarning, match="label") as caught:
        clf = xl.LinearClassifier(loss, C=1.0, tol=1e-6).fit(X, y)
    messages = [str(one.message) for one in caught]
    assert len(messages) == 2
    assert "y has no positive row of label 1, of 4: its model predicts 0" in messages[0]
    assert "y has no negative row of label 3, of 4: its model predicts 1" in messages[1]
    np.testing.assert_array_equal(clf.predict(X)[:, 1], 0)
    np.testing.assert_array_equal(clf.predict(X)[:, 3], 1)
    np.testing.assert_allclose(clf.coef_[[1, 3]], 0.0, atol=1e-3)
    single = xl.LinearClassifier(loss, C=1.0, tol=1e-6).fit(X, y[:, 0])
    np.testing.assert_allclose(clf.coef_[0], single.coef_[0], atol=1e-4)


def test_smoothing_takes_a_label_without_positives():
    """Whose gradient is so small that its square is 0."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((2000, 20)) + 1
    pull = rows @ generator.standard_normal((20, 6)) + generator.logistic(size=(2000, 6))
    y = (pull > 3).astype(int)
    y[:, 2:4] = 0, 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        clf = xl.LinearClassifier("multiclass_hinge", solver="smoothing").fit(rows, y)
    assert clf.predict(rows)[:, 2:4].mean(axis=0).tolist() == [0.0, 1.0]


def test_far_features_are_standardized_for_each_label(small_parts):
    rows, settings = X + np.asarray([0.0, 0.0, 0.0, 0.0, 1e4]), {"standardize": True, **CONVERGED}
    clf = xl.LinearClassifier(**settings).fit(rows, HOLES)
    singles = [
        xl.LinearClassifier(**settings).fit(rows[~missing], y[~missing])
        for missing, y in zip(MISSING.T, Y.T, strict=True)
    ]
    found = clf.predict_proba(rows)
    for j, one in enumerate(singles):
        np.testing.assert_allclose(found[:, j], one.predict_proba(rows)[:, 1], atol=1e-8)


class TestParts:
    """As many models at a time as memory holds."""

    @pytest.mark.parametrize("settings", [{}, {"standardize": True}, {"early_stopping": True}])
    def test_they_are_those_of_one_stack(self, settings, monkeypatch):
        settings = {"max_iter": 5, **settings} if "early_stopping" in settings else settings
        whole = xl.LinearClassifier(**CONVERGED, **settings).fit(X, Y, WEIGHTS[:, 0])
        monkeypatch.setattr(problem, "WIDE", 3)
        clf = xl.LinearClassifier(**CONVERGED, **settings).fit(X, Y, WEIGHTS[:, 0])
        np.testing.assert_allclose(clf.coef_, whole.coef_, atol=1e-10)
        np.testing.assert_allclose(clf.predict_proba(X), whole.predict_proba(X), atol=1e-10)
        for name in ("n_iter_", "alpha_"):
            np.testing.assert_array_equal(getattr(clf, name), getattr(whole, name))
        assert set(clf.history_) == set(whole.history_)
        for name in ("loss", "validation_score"):
            np.testing.assert_allclose(clf.history_[name], whole.history_[name], atol=1e-10)
        assert np.all(np.diff(clf.history_["seconds"]) >= 0.0)
        if not settings:
            assert clf.certificate_.reasons == whole.certificate_.reasons
            np.testing.assert_allclose(clf.certificate_.objective, clf.objective_)

    def test_one_warning_counts_them_all(self, small_parts):
        with pytest.warns(ConvergenceWarning, match="4 of 4 models stopped after max_iter=2") as w:
            xl.LinearClassifier(solver="lbfgs", max_iter=2, tol=1e-8).fit(X, Y)
        assert len(w) == 1

    def test_it_starts_from_the_last_fit(self, small_parts):
        clf = xl.LinearClassifier(solver="lbfgs", warm_start=True, **CONVERGED).fit(X, Y)
        first = clf.coef_
        clf.fit(X, Y)
        assert clf.n_iter_.max() <= 2
        np.testing.assert_allclose(clf.coef_, first, atol=1e-8)
        with pytest.raises(ValueError, match="warm_start needs the features and classes"):
            clf.fit(X, Y[:, :3])
        with pytest.raises(ValueError, match="warm_start needs the features and classes"):
            clf.fit(X, Y[:, 0])

    def test_ctrl_c_between_them_keeps_what_was_fitted_before(self, small_parts):
        clf = xl.LinearClassifier(solver="lbfgs").fit(X, Y)
        before = clf.coef_

        def press(progress):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt, match="interrupted before every label had its turn"):
            clf.fit(X[::2], Y[::2], callbacks=[press])
        assert clf.coef_ is before

    def test_they_take_the_memory_of_a_part(self, monkeypatch):
        """Labels are sparse: a number for each, of every row, would take 16 MB."""
        monkeypatch.setattr(problem, "WIDE", 64)
        monkeypatch.setattr(targets, "_CHUNK_BYTES", 2**20)
        n, labels = 4000, 500
        generator = np.random.default_rng(0)
        rows = generator.standard_normal((n, 4))
        where = np.repeat(np.arange(n), 20), generator.integers(0, labels, 20 * n)
        many = scipy.sparse.coo_array((np.ones(20 * n, dtype=bool), where), shape=(n, labels))
        clf = xl.LinearClassifier("squared_error", alpha=0.1, class_weight="balanced")
        # What the first use of several threads takes is not of these labels.
        assert list(xl.get_backend("numpy").each(int, iter("12"), at_once=True)) == [1, 2]
        tracemalloc.start()
        clf.fit(rows, many)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert clf.coef_.shape == (labels, 4)
        assert peak < 12e6, peak
        own = clone(clf).fit(rows, many.tocsc()[:, [400]].toarray()[:, 0])
        np.testing.assert_allclose(clf.coef_[400], own.coef_[0], atol=1e-3)

    def test_a_stack_that_memory_does_not_hold_is_halved(self, monkeypatch):
        whole = xl.LinearClassifier(solver="lbfgs", **CONVERGED).fit(X, Y)
        usual, sizes = solve.minimize, []

        def minimize(objective, *args, **settings):
            sizes.append(objective.m)
            if objective.m > 1:
                raise MemoryError
            return usual(objective, *args, **settings)

        monkeypatch.setattr(solve, "minimize", minimize)
        with pytest.warns(RuntimeWarning, match="out of memory with a stack of [42] models"):
            clf = xl.LinearClassifier(solver="lbfgs", **CONVERGED).fit(X, Y)
        assert sizes == [4, 2, 1, 1, 1, 1]
        np.testing.assert_allclose(clf.coef_, whole.coef_, atol=1e-8)


class TestOneAgainstTheRest:
    @pytest.mark.parametrize("weights", [None, WEIGHTS[:, 0]])
    def test_it_is_what_scikit_learn_fits_class_by_class(self, weights):
        clf = xl.LinearClassifier(multi_class="one_vs_rest", **CONVERGED)
        clf.fit(X, CLASSES, weights)
        own = np.stack(
            [
                LogisticRegression(tol=1e-10, max_iter=1000)
                .fit(X, name == CLASSES, weights)
                .predict_proba(X)[:, 1]
                for name in np.unique(CLASSES)
            ],
            axis=1,
        )
        normalized = own / own.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(clf.predict_proba(X), normalized, atol=1e-6)
        logarithms = clf.predict_log_proba(X)
        np.testing.assert_allclose(np.exp(logarithms), clf.predict_proba(X), rtol=1e-12)
        assert not clf.multilabel_
        assert clf.coef_.shape == (4, P)
        assert clf.classes_.tolist() == ["ant", "bee", "cat", "dog"]
        np.testing.assert_array_equal(clf.predict(X), clf.classes_[own.argmax(axis=1)])
        assert clf.score(X, CLASSES) == np.mean(clf.predict(X) == CLASSES)

    @pytest.mark.parametrize("settings", [{}, {"standardize": True}, {"class_weight": "balanced"}])
    def test_each_class_is_its_own_fit(self, settings, small_parts):
        names = np.unique(CLASSES)
        clf = xl.LinearClassifier(multi_class="one_vs_rest", **CONVERGED, **settings)
        clf.fit(X, CLASSES)
        weighted, own = "class_weight" in settings, dict(settings)
        counts = np.asarray([(name == CLASSES).mean() for name in names])
        singles = []
        for name, share in zip(names, counts, strict=True):
            if weighted:  # as LinearSVC weighs the class of a model
                own["class_weight"] = {0: 1.0, 1: 1.0 / (len(names) * share)}
            one = xl.LinearClassifier(**CONVERGED, **own).fit(X, (name == CLASSES).astype(int))
            singles.append(one)
        assert_models_are(clf, singles)

    @pytest.mark.parametrize("class_weight", [None, "balanced", {"ant": 3.0, "dog": 0.5}])
    def test_it_weighs_classes_as_linear_svc_does(self, class_weight):
        shared = {"C": 0.1, "fit_intercept": False, "class_weight": class_weight}
        reference = LinearSVC(dual=False, tol=1e-12, max_iter=10_000, **shared).fit(X, CLASSES)
        clf = xl.LinearClassifier("squared_hinge", multi_class="one_vs_rest", tol=1e-10, **shared)
        np.testing.assert_allclose(clf.fit(X, CLASSES).coef_, reference.coef_, atol=1e-6)

    def test_two_classes_are_one_model(self):
        y = CLASSES == "ant"
        clf = xl.LinearClassifier(multi_class="one_vs_rest", **CONVERGED).fit(X, y)
        joint = xl.LinearClassifier(**CONVERGED).fit(X, y)
        np.testing.assert_array_equal(clf.coef_, joint.coef_)
        assert clf.predict_proba(X).shape == (N, 2)

    def test_probabilities_of_rows_that_no_class_wants_add_up(self):
        clf = xl.LinearClassifier(multi_class="one_vs_rest", **CONVERGED).fit(X, CLASSES)
        far = clf.predict_proba(1e4 * X)
        np.testing.assert_allclose(far.sum(axis=1), 1.0)

    def test_it_goes_on_with_rows_to_come(self):
        clf = xl.LinearClassifier(multi_class="one_vs_rest", random_state=0)
        for part in np.array_split(np.arange(N), 3):
            clf.partial_fit(X[part], CLASSES[part], classes=np.unique(CLASSES))
        assert clf.coef_.shape == (4, P)
        assert clf.score(X, CLASSES) > 0.5


class TestRowsInTurn:
    def test_each_label_learns_as_alone(self):
        parts = np.array_split(np.arange(N), 3)
        clf = xl.LinearClassifier(random_state=0)
        singles = [xl.LinearClassifier(random_state=0) for _ in range(L)]
        for part in parts:
            clf.partial_fit(X[part], Y[part], sample_weight=WEIGHTS[part, 0])
            for j, one in enumerate(singles):
                weights = WEIGHTS[part, 0]
                one.partial_fit(X[part], Y[part, j], classes=[0, 1], sample_weight=weights)
        assert_models_are(clf, singles)
        np.testing.assert_array_equal(clf.n_iter_, [3] * L)

    def test_each_has_weights_of_its_own(self):
        clf = xl.LinearClassifier(random_state=0)
        one = xl.LinearClassifier(random_state=0)
        for scale, part in zip([1.0, 50.0], np.array_split(np.arange(N), 2), strict=True):
            clf.partial_fit(X[part], Y[part], sample_weight=scale * WEIGHTS[part])
            weights = scale * WEIGHTS[part, 2]
            one.partial_fit(X[part], Y[part, 2], classes=[0, 1], sample_weight=weights)
        np.testing.assert_allclose(clf.coef_[2], one.coef_[0], atol=1e-8)

    def test_the_labels_stay_the_same(self):
        clf = xl.LinearClassifier().partial_fit(X, Y, classes=["a", "b", "c", "d"])
        assert clf.classes_.tolist() == ["a", "b", "c", "d"]
        with pytest.raises(ValueError, match="y has 3 columns, but there are 4 labels"):
            clf.partial_fit(X, Y[:, :3])
        with pytest.raises(ValueError, match="y should have 4 columns of 0 and 1"):
            clf.partial_fit(X, Y[:, 0])
        with pytest.raises(ValueError, match="y has 4 columns, but there are 3 labels"):
            xl.LinearClassifier().partial_fit(X, Y, classes=[0, 1, 2])
        with pytest.raises(ValueError, match="the model was fitted to one label per row"):
            xl.LinearClassifier().fit(X, CLASSES).partial_fit(X, Y)


def test_it_stops_early_for_each_label():
    clf = xl.LinearClassifier(early_stopping=True, random_state=0, n_iter_no_change=2).fit(X, Y)
    assert clf.history_["validation_score"].shape == (len(clf.history_["seconds"]), L)
    assert clf.score(X, Y) > 0.2
    holes = HOLES.copy()
    holes[:, 2] = np.nan
    holes[:2, 2] = 0.0, 1.0
    with pytest.raises(ValueError, match="early_stopping cannot hold out rows: label 2 is known"):
        clf.fit(X, holes)


def test_callbacks_see_every_label(capsys):
    seen = []
    xl.LinearClassifier(solver="lbfgs", verbose=1).fit(
        X, Y, callbacks=[lambda progress: seen.append(progress.loss.shape)]
    )
    assert set(seen) == {(L,)}
    assert "iteration 1/1000" in capsys.readouterr().out
    stopped = xl.LinearClassifier(solver="lbfgs").fit(X, Y, callbacks=[lambda _: True])
    assert stopped.certificate_.reasons == ("callback",) * L


def test_a_certificate_of_many_models_is_one_line():
    many = np.concatenate([Y] * 4, axis=1)
    clf = xl.LinearClassifier(solver="lbfgs", tol=1e-3).fit(X, many)
    text = str(clf.certificate_)
    assert text.startswith("16 models: 16 converged; 16 within ")
    worst = int(np.argmax(clf.certificate_.relative_gap))
    assert f"of the optimum, proven (model {worst} the farthest)" in text
    assert len(str(fitted().certificate_).splitlines()) == L
    free = xl.LinearClassifier(alpha=0.0, max_iter=1)
    with pytest.warns(ConvergenceWarning, match="16 of 16 models stopped after max_iter=1"):
        text = str(free.fit(X, many).certificate_)
    assert "16 ended by max_iter; no bound of the optimum is known of 16" in text


class TestFiles:
    MODELS = (
        ("labels", {}, Y),
        ("own standards", {"standardize": True, "alpha": [0.1, 0.2, 0.3, 0.4]}, HOLES),
        ("two columns", {"loss": "squared_error"}, Y),
        ("classes", {"multi_class": "one_vs_rest"}, CLASSES),
    )

    @pytest.mark.parametrize(("name", "settings", "y"), MODELS, ids=[one[0] for one in MODELS])
    def test_they_hold_every_model(self, name, settings, y, tmp_path):
        rows = X + np.asarray([0.0, 0.0, 0.0, 0.0, 1e4])  # which is centred
        clf = xl.LinearClassifier(**settings).fit(rows, y)
        clf.save(tmp_path / "model")
        loaded = xl.load(tmp_path / "model")
        for copy in (loaded, pickle.loads(pickle.dumps(clf)), clf.to("numpy")):
            scores = copy.decision_function(rows)
            np.testing.assert_array_equal(scores, clf.decision_function(rows))
            np.testing.assert_array_equal(copy.predict(rows), clf.predict(rows))
            np.testing.assert_array_equal(copy.alpha_, clf.alpha_)
            np.testing.assert_array_equal(copy.n_iter_, clf.n_iter_)
            np.testing.assert_array_equal(copy.objective_, clf.objective_)
            np.testing.assert_array_equal(copy.history_["loss"], clf.history_["loss"])
            assert copy.multilabel_ is clf.multilabel_ is (name != "classes")
        assert loaded.certificate_.reasons == clf.certificate_.reasons

    @pytest.mark.parametrize(("name", "settings", "y"), MODELS, ids=[one[0] for one in MODELS])
    def test_other_programs_can_run_them(self, name, settings, y, tmp_path):
        reference = pytest.importorskip("onnx.reference")
        clf = xl.LinearClassifier(**settings).fit(X, y)
        clf.to_onnx(tmp_path / "model.onnx")
        found = reference.ReferenceEvaluator(str(tmp_path / "model.onnx")).run(
            None, {"X": X.astype(np.float32)}
        )
        scores = clf.predict_proba(X) if hasattr(clf, "predict_proba") else clf.decision_function(X)
        np.testing.assert_allclose(found[1], scores, atol=2e-6)
        np.testing.assert_array_equal(found[0], clf.predict(X))

    def test_models_are_made_of_weights(self):
        params = xl.Params(fitted().coef_.T[:, :, None], fitted().intercept_[:, None])
        clf = xl.LinearClassifier.from_params(params, ["a", "b", "c", "d"])
        np.testing.assert_array_equal(clf.predict_proba(X), fitted().predict_proba(X))
        assert clf.multilabel_
        settings = {"multi_class": "one_vs_rest"}
        clf = xl.LinearClassifier.from_params(params, ["a", "b", "c", "d"], **settings)
        assert clf.predict(X).tolist()[0] in "abcd"
        assert not clf.multilabel_
        with pytest.raises(ValueError, match=r"W of shape \(p, 3, 1\) .* for 2 classes"):
            xl.LinearClassifier.from_params(params, ["a", "b", "c"])


def test_every_library_fits_many_labels(library):
    """Which come in the library of X."""
    settings = {"solver": "newton", "alpha": 0.1, **CONVERGED}
    expected = xl.LinearClassifier(**settings).fit(X, HOLES)
    rows = library.asarray(X)
    clf = xl.LinearClassifier(**settings).fit(rows, library.asarray(HOLES))
    assert_predictions_are(clf, expected, library)
    assert clf.score(rows, library.asarray(Y)) == expected.score(X, Y)


def test_every_library_tells_one_from_the_rest(library):
    weights = fitted().coef_.T[:, :, None], fitted().intercept_[:, None]
    settings = {"multi_class": "one_vs_rest"}
    expected, clf = (
        xl.LinearClassifier.from_params(xl.Params(*own), [3, 5, 7, 9], **settings)
        for own in (weights, map(library.asarray, weights))
    )
    assert_predictions_are(clf, expected, library)


def assert_predictions_are(clf, expected, library):
    rows = library.asarray(X)
    for name in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        found = getattr(clf, name)(rows)
        assert type(found) is type(rows)
        reference = getattr(expected, name)(X)
        np.testing.assert_allclose(library.to_numpy(found), reference, atol=1e-7)


def test_sparse_rows_have_many_labels():
    rows = np.where(rng.random(X.shape) < 0.5, X, 0.0)
    for y in (HOLES, CLASSES):
        settings = {"multi_class": "one_vs_rest", "standardize": True, **CONVERGED}
        dense = xl.LinearClassifier(**settings).fit(rows, y)
        clf = xl.LinearClassifier(**settings).fit(scipy.sparse.csr_array(rows), y)
        np.testing.assert_allclose(clf.coef_, dense.coef_, atol=1e-9)
        np.testing.assert_array_equal(
            clf.predict(scipy.sparse.csr_array(rows)), dense.predict(rows)
        )


CHECKS = [
    "check_classifier_multioutput",
    "check_classifiers_multilabel_representation_invariance",
    "check_classifiers_multilabel_output_format_predict",
    "check_classifiers_multilabel_output_format_predict_proba",
    "check_classifiers_multilabel_output_format_decision_function",
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_scikit_learn_finds_its_conventions(check, loss):
    clf = xl.LinearClassifier(loss, random_state=0)
    assert clf.__sklearn_tags__().classifier_tags.multi_label
    getattr(estimator_checks, check)("LinearClassifier", clf)


def test_it_works_inside_scikit_learn():
    clf = xl.LinearClassifier(**CONVERGED)
    for meta in (MultiOutputClassifier(clf), OneVsRestClassifier(clf)):
        np.testing.assert_array_equal(meta.fit(X, Y).predict(X), fitted().predict(X))
    assert ClassifierChain(clf).fit(X, Y).predict(X).shape == (N, L)
    assert cross_val_predict(clf, X, Y, cv=3).shape == (N, L)
    for scoring in ("accuracy", "f1_macro", "roc_auc", "average_precision", "neg_hamming_loss"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                scores = cross_val_score(clf, X, Y, cv=3, scoring=scoring)
            except ValueError:  # of a scikit-learn that does not know it
                continue
        assert np.isfinite(scores).all()
    search = GridSearchCV(clf, {"C": [0.1, 1.0]}, cv=3).fit(X, Y)
    assert search.best_estimator_.multilabel_


BAD = {
    "lists of labels": ([[0, 2], [1], []] * (N // 3), "MultiLabelBinarizer makes one of lists"),
    "sets": ([{"a"}, {"b", "a"}] * (N // 2), "MultiLabelBinarizer makes one of lists"),
    "pairs of words": ([["a", "b"], ["b", "c"]] * (N // 2), "MultiLabelBinarizer"),
    "probabilities": (np.where(Y > 0, 0.7, 0.0), r"got 0.7 in column \d: y >= 0.5 makes labels"),
    "several targets": (np.stack([Y[:, 0], 2 * Y[:, 1]], axis=1), "MultiOutputClassifier"),
    "signs": (2 * Y - 1, r"got -1 in column \d: y > 0 makes such labels"),
    "infinity": (np.where(Y > 0, np.inf, 0.0), "got inf in column"),
    "no columns": (Y[:, :0], r"this one has no columns: its shape is \(240, 0\)"),
    "no rows": (Y[:0], "inconsistent numbers of samples|Found array|no "),
    "too few rows": (Y[:-1], r"inconsistent numbers of samples: \[240, 239\]"),
    "three axes": (Y[:, :, None], "y should be a 1d array"),
    "words": (Y.astype(str), "got values of dtype <U"),
    "words as objects": (Y.astype(str).astype(object), "got objects of type str"),
    "complex": (Y * 1j, "got values of dtype complex128"),
    "all missing": (np.full((N, L), np.nan), "only missing ones, of label 0, 1, 2, 3: leave"),
    "one sparse column": (scipy.sparse.csr_array(Y[:, :1]), r"y.toarray\(\).ravel\(\) makes"),
    "sparse counts": (scipy.sparse.csr_array(3 * Y), "got 3: for several targets"),
    "counted twice": (
        scipy.sparse.coo_array((np.ones(2), ([0, 0], [1, 1])), shape=(N, 2)),
        "got 2.0: for several",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_labels_are_named(case):
    y, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        xl.LinearClassifier().fit(X, y)


def test_broken_sparse_labels_are_refused():
    """Before any loop in C writes where they say."""
    y, pairs = scipy.sparse.csr_array(Y), scipy.sparse.coo_array(Y)
    y.indices = y.indices + L
    pairs.coords = tuple(a + 10 * N for a in pairs.coords)
    for labels, message in ((y, "indices must be <"), (pairs, "exceeds matrix dimension")):
        with pytest.raises(ValueError, match=f"y is a .* do not belong together: .*{message}"):
            xl.LinearClassifier().fit(X, labels)


def test_one_column_is_a_vector():
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        clf = xl.LinearClassifier(**CONVERGED).fit(X, Y[:, :1])
    assert not clf.multilabel_
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        xl.LinearClassifier(**CONVERGED).fit(X, Y[:, :1].tolist())


@pytest.mark.parametrize(
    ("settings", "y", "weights", "message"),
    [
        ({"alpha": [0.1, 0.2]}, Y, None, "alpha has 2 numbers for 4 labels; give one, or one for"),
        ({"C": [0.1] * 3}, Y, None, "C has 3 numbers for 4 labels"),
        ({"alpha": [0.1, 0.2]}, CLASSES, None, r"at least 0, got \(0.1, 0.2\) for one model"),
        (
            {"alpha": [0.1, -0.2]},
            Y,
            None,
            "alpha must be .*, got .*: one for each label|alpha must",
        ),
        ({"alpha": [0.1] * 3 + [0.0], "solver": "newton"}, Y, None, None),
        ({"alpha": [0.1] * 3 + [0.0], "solver": "interior_point"}, Y, None, "alpha must be more"),
        ({"class_weight": {2: 1.0}}, Y, None, r"class_weight names \[2\], .* classes are \[0, 1\]"),
        ({}, Y, WEIGHTS[:, :3], r"sample_weight.shape == \(240, 3\), expected \(240, 4\)"),
        ({}, CLASSES, WEIGHTS, "sample_weight must be 1d"),
        ({}, Y, -WEIGHTS, "sample_weight contains negative values"),
        ({}, Y, WEIGHTS * [1, 1, 0, 1], "label 2: sample_weight .* is zero everywhere"),
        ({}, Y, np.zeros(N), "is zero everywhere"),
        ({"multi_class": "ovr"}, Y, None, "multi_class must be 'joint' or 'one_vs_rest'"),
    ],
)
def test_what_does_not_suit_the_labels_is_named(settings, y, weights, message):
    clf = xl.LinearClassifier(**settings)
    if message is None:
        assert math.isfinite(clf.fit(X, y, weights).objective_.max())
        return
    with pytest.raises(ValueError, match=message):
        clf.fit(X, y, weights)


def test_what_is_scored_must_be_whole():
    with pytest.raises(ValueError, match="y has missing values, and score needs every label"):
        fitted().score(X, HOLES)
    for y in (Y[:, :2], Y[:, 0]):
        with pytest.raises(ValueError, match="y should be a matrix of 0 and 1 with 4 columns"):
            fitted().score(X, y)


def test_columns_of_a_table_in_another_order_are_refused():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(Y, columns=["rain", "wind", "sun", "fog"])
    other, message = table[["rain", "sun", "wind", "fog"]], r"the column 'sun' where .* 'wind' is"
    clf = xl.LinearClassifier().fit(X, table)
    assert clf.score(X, table) == clf.score(X, Y)
    in_turn = xl.LinearClassifier().partial_fit(X, table).partial_fit(X, Y)
    for wrong in (
        lambda: clf.score(X, other),
        lambda: in_turn.partial_fit(X, other),
        lambda: xl.LinearClassifier().partial_fit(X, other, classes=list(table.columns)),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(ValueError, match="y: Expected unique column names, got: - 'rain' 2 times"):
        xl.LinearClassifier().fit(X, table.rename(columns={"wind": "rain"}))


def test_what_is_scored_weighs_something():
    with pytest.raises(ValueError, match=r"sample_weight .* is zero everywhere"):
        fitted().score(X, Y, np.zeros(N))


def test_the_command_line_predicts_many_labels(tmp_path):
    from typer.testing import CliRunner

    from xplinear import cli

    pandas = pytest.importorskip("pandas")
    names = ["rain", "wind", "sun", "fog"]
    clf = xl.LinearClassifier(alpha=[0.1, 0.2, 0.3, 0.4])
    clf.fit(X, pandas.DataFrame(Y, columns=names)).save(tmp_path / "model")
    pandas.DataFrame(X).to_csv(tmp_path / "rows.csv", index=False)
    model, rows, out = (str(tmp_path / name) for name in ("model", "rows.csv", "out.csv"))
    for command in (["info", model], ["predict", model, rows, "--proba", "--out", out]):
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.output
        if command[0] == "info":
            assert "softmax + 0.1 … 0.4 · l2" in result.output
            assert "rain, wind, sun, fog" in result.output
    table = pandas.read_csv(out)
    assert table.columns.tolist() == [*names, *(f"probability of {name}" for name in names)]
    np.testing.assert_array_equal(table[names], clf.predict(X))
    np.testing.assert_allclose(table.iloc[:, 4:], clf.predict_proba(X), rtol=1e-12)


@pytest.mark.parametrize(
    ("y", "multi_class", "said"),
    [
        (CLASSES, "one_vs_rest", "l2, each class against the rest"),
        (CLASSES, "joint", "l2"),
        (CLASSES[0] == CLASSES, "one_vs_rest", "l2"),
        (Y, "one_vs_rest", "l2"),
    ],
)
def test_the_command_line_says_what_a_model_tells_apart(y, multi_class, said, tmp_path):
    from typer.testing import CliRunner

    from xplinear import cli

    xl.LinearClassifier(multi_class=multi_class).fit(X, y).save(tmp_path / "model")
    run = CliRunner().invoke(cli.app, ["info", str(tmp_path / "model")])
    (problem,) = [line for line in run.output.splitlines() if " problem " in line]
    assert problem.rstrip("│ ").endswith(said), run.output
    run = CliRunner().invoke(cli.app, ["info", str(tmp_path / "model"), "--json"])
    assert json.loads(run.output)["multilabel"] is (y is Y)
