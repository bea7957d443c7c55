"""LinearClassifierCV: a stack is the single fits, scores are scikit-learn's, choices are right."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    check_scoring,
    f1_score,
    get_scorer,
    log_loss,
    make_scorer,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedKFold

import xplinear as xl
from xplinear.backends import backend_of
from xplinear.model_selection.alphas import automatic_alphas
from xplinear.model_selection.sweep import stack_width
from xplinear.solvers.curvature import mean_inverse_hessians
from xplinear.solvers.gram import preconditioner

rng = np.random.default_rng(0)
X = rng.standard_normal((150, 5))
Y = np.argmax(X[:, :3] + 0.5 * rng.gumbel(size=(150, 3)), axis=1)
BINARY = (Y == 1).astype(int)
NAMES = np.asarray(["cat", "dog", "frog"])
ALPHAS = [1.0, 0.1, 0.03, 0.01]
FOLDS = list(StratifiedKFold(3).split(X, Y))
WEIGHTS = rng.uniform(0.5, 2.0, 150)
FOLDS_OF_5000 = list(KFold(2).split(np.zeros(5000)))
EXACT = {"tol": 1e-8, "max_iter": 3000}  # below it rounding may speak up


def host(x):
    return backend_of(x).fetch(x)


def test_the_stack_is_the_single_fits(backend):
    """Every strength and fold, by its score; the refits by their coefficients."""
    rows = backend.asarray(X)
    for labels in (Y, BINARY):
        clf = xl.LinearClassifierCV(ALPHAS, cv=FOLDS, scoring="log_loss", **EXACT)
        clf.fit(rows, labels, WEIGHTS)
        assert clf.cv_scores_.shape == (4, 3)
        for a, alpha in enumerate(ALPHAS):
            single = xl.LinearClassifier(solver="lbfgs", alpha=alpha, **EXACT)
            for f, (train, test) in enumerate(FOLDS):
                single.fit(X[train], labels[train], WEIGHTS[train])
                P = single.predict_proba(X[test])
                expected = -log_loss(labels[test], P, sample_weight=WEIGHTS[test])
                assert clf.cv_scores_[a, f] == pytest.approx(expected, abs=1e-7)
            single.fit(X, labels, WEIGHTS)
            np.testing.assert_allclose(host(clf.coefs_paths_)[a], single.coef_, atol=1e-6)
            got, expected = host(clf.intercepts_paths_)[a], single.intercept_
            np.testing.assert_allclose(got - got.mean(), expected - expected.mean(), atol=1e-6)


@pytest.mark.parametrize("free_columns", [1, 40, 1000])
def test_a_path_and_a_stack_give_the_same(numpy_backend, free_columns):
    """One strength after the other, some at once, all at once."""
    alphas = np.logspace(0, -2, 7)  # weights are within tol · |first gradient| / α of the optimum
    own = replace(numpy_backend.backend, free_columns=free_columns)
    settings = {"alphas": alphas, "cv": FOLDS, "scoring": "log_loss", **EXACT}
    path = xl.LinearClassifierCV(**settings).fit(X, Y)
    other = xl.LinearClassifierCV(**settings, backend=own).fit(X, Y)
    np.testing.assert_allclose(other.cv_scores_, path.cv_scores_, atol=1e-7)
    np.testing.assert_allclose(other.coefs_paths_, path.coefs_paths_, atol=1e-6)


@pytest.mark.parametrize(("loss", "penalty"), [("softmax", "l2"), ("softmax", "l1")])
def test_the_model_chosen_does_not_depend_on_the_stacks(numpy_backend, loss, penalty):
    """At the tol of every day, where two models that converged differ: it is the single fit."""
    settings = {"loss": loss, "penalty": penalty}
    fits = [
        xl.LinearClassifierCV(
            [0.1, 0.03, 0.01, 0.003],
            cv=FOLDS,
            scoring="log_loss",
            backend=replace(numpy_backend.backend, free_columns=free_columns),
            **settings,
        ).fit(X, Y)
        for free_columns in (1, 512)
    ]
    single = xl.LinearClassifier(alpha=fits[0].alpha_, solver=fits[0].solver_, **settings)
    single.fit(X, Y)
    assert fits[0].best_index_ in (1, 2)  # not the strongest, which begins at zero
    rounding = {"rtol": 1e-9, "atol": 1e-12}
    for clf in fits:
        assert clf.alpha_ == fits[0].alpha_
        np.testing.assert_allclose(clf.coef_, single.coef_, **rounding)
        np.testing.assert_allclose(clf.predict_proba(X), single.predict_proba(X), **rounding)
        np.testing.assert_array_equal(clf.coefs_paths_[clf.best_index_], clf.coef_)
        assert clf.n_iter_ == single.n_iter_
        assert clf.certificate_.relative_gap[0] < 1e-3


@pytest.mark.parametrize(("loss", "penalty"), [("softmax", "l2"), ("softmax", "l1")])
def test_the_strongest_does_not_depend_on_the_stacks_either(numpy_backend, loss, penalty):
    """It began at zero too, but beside the folds, in whose metric, or columns, it was solved."""
    settings = {"loss": loss, "penalty": penalty, "backend": numpy_backend.backend}
    path = xl.LinearClassifierCV([0.003, 1e-4], cv=FOLDS, scoring="log_loss", **settings)
    clf = path.fit(X, Y)
    assert clf.best_index_ == 0
    single = xl.LinearClassifier(alpha=0.003, solver=clf.solver_, **settings).fit(X, Y)
    np.testing.assert_array_equal(clf.coef_, single.coef_)
    assert clf.n_iter_ == single.n_iter_


def test_little_memory_takes_fewer_folds_at_once(numpy_backend):
    little = replace(numpy_backend.backend, free_memory=lambda: 2 * 32 * 8 * 5 * 3 * 2)
    settings = {"alphas": ALPHAS, "cv": FOLDS, "scoring": "log_loss", **EXACT}
    objective = numpy_backend.objective(xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty(), X, Y)
    objective = replace(objective, data=replace(objective.data, backend=little))
    assert stack_width(objective, 4, follows=True) == (2, 1)
    expected = xl.LinearClassifierCV(**settings).fit(X, Y)
    clf = xl.LinearClassifierCV(**settings, backend=little).fit(X, Y)
    np.testing.assert_allclose(clf.cv_scores_, expected.cv_scores_, atol=1e-7)
    np.testing.assert_allclose(clf.coefs_paths_, expected.coefs_paths_, atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "penalty"),
    [
        (xl.solvers.LBFGS(), xl.penalties.L2Penalty()),
        (xl.solvers.LBFGS(gram=False), xl.penalties.L2Penalty()),
        (xl.solvers.ProximalLBFGS(), xl.penalties.L1Penalty()),
    ],
)
def test_following_saves_passes(numpy_backend, solver, penalty):
    """What `stack_width` rests on: a strength that follows others needs fewer iterations."""
    digits, target = load_digits(return_X_y=True)
    objective = numpy_backend.objective(
        xl.losses.SoftmaxLoss(), penalty, digits / 16, target, alpha=[1e-3], k=10
    )
    cold = xl.minimize(objective, solver)
    far, before = (replace(objective, alpha=np.asarray([1.5**i * 1e-3])) for i in (2, 1))
    near, first = xl.minimize(before, solver), xl.minimize(far, solver).params
    start = xl.Params(*(2 * a - b for a, b in zip(near.params, first, strict=True)))
    state = solver.follow(objective, start, near.state, before.alpha)
    warm = xl.minimize(objective, solver, state=state)
    assert warm.n_iter < 0.8 * cold.n_iter
    assert warm.converged.all()
    assert warm.residual[0] <= 1e-4
    assert objective.value(warm.params) <= objective.value(cold.params) * (1 + 1e-4)


@pytest.mark.parametrize("loss", [xl.losses.SoftmaxLoss(), xl.losses.SquaredHingeLoss()])
def test_curvature_saves_passes(numpy_backend, loss):
    """Along a path the Hessian is measured anew where iterations are many."""
    digits, target = load_digits(return_X_y=True)
    weights = np.random.default_rng(0).integers(0, 3, (len(digits), 2)).astype(float)
    before = numpy_backend.objective(
        loss, xl.penalties.L2Penalty(), digits / 16, target, alpha=[1e-3] * 2, k=10
    )
    before = replace(before, data=before.data.with_weights(weights))
    objective = replace(before, alpha=before.alpha / 4)
    solver = xl.solvers.LBFGS()
    near = xl.minimize(before, solver, release=False)
    state = solver.follow(objective, near.params, near.state, before.alpha)
    assert solver.curved(objective, state, 10) is state  # so few are not worth it
    plain = xl.minimize(objective, solver, state=state)
    curved = xl.minimize(objective, solver, state=solver.curved(objective, state, 40))
    assert curved.n_iter < 0.5 * plain.n_iter
    assert set(curved.reasons) == {"converged"}
    assert (objective.value(curved.params) <= objective.value(plain.params) * (1 + 1e-6)).all()


def test_curvature_is_that_of_the_mean_model(backend):
    """Beside the formula for softmax, p (1 − p) of the weighted rows, damped."""
    n, m, k, p = 150, 2, 3, 5
    weights = np.stack([WEIGHTS, (WEIGHTS > 1.0) * 1.0], axis=1)
    objective = backend.objective(
        xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty(), X, Y, alpha=[0.3] * m, k=k
    )
    objective = replace(objective, data=objective.data.with_weights(backend.asarray(weights)))
    params = backend.params(objective)
    pre = preconditioner(objective, gram=False)
    found = backend.to_numpy(mean_inverse_hessians(objective, params, pre))
    assert found.shape == (1, k, p + 1, p + 1)
    W, b = map(backend.to_numpy, params)
    P = scipy.special.softmax(np.einsum("np,pmk->nmk", X, W) + b, axis=2)
    h = (P * (1.0 - P) * (weights / weights.sum(axis=0))[:, :, None]).mean(axis=1)
    rows = np.concatenate([X - backend.to_numpy(pre.centre)[:, 0], np.ones((n, 1))], axis=1)
    for j in range(k):
        H = rows.T @ (h[:, j : j + 1] * rows)
        own = np.diag(H)
        damped = np.append(0.3 + 0.1 * own[:-1].mean() * np.ones(p), 1e-3 * own[-1])
        for model in found[:, j]:
            np.testing.assert_allclose(model, np.linalg.inv(H + np.diag(damped)), rtol=1e-9)


@pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8])
def test_a_path_needs_no_more_iterations_than_cold_starts(tol):
    """Whatever is carried from strength to strength must help, or go."""
    rows, labels = make_classification(5000, 100, n_informative=20, n_classes=5, random_state=0)
    alphas = 1 / (np.logspace(-3, 2, 8) * 4000)
    path: dict[float, int] = {}
    clf = xl.LinearClassifierCV(alphas, cv=FOLDS_OF_5000, solver="lbfgs", tol=tol, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the grid ends at its best
        clf.fit(rows, labels, callbacks=[lambda news: path.update({news.alpha: news.iteration})])
    train = FOLDS_OF_5000[0][0]
    single = xl.LinearClassifier(solver="lbfgs", tol=tol)
    cold = [single.set_params(alpha=a).fit(rows[train], labels[train]).n_iter_ for a in clf.alphas_]
    assert list(path) == clf.alphas_.tolist()
    assert sum(path.values()) < sum(cold)
    assert max(path.values()) <= max(cold) + 2


SKLEARN = {
    "accuracy": lambda y, Z, s: accuracy_score(y, Z.argmax(1), sample_weight=s),
    "balanced_accuracy": lambda y, Z, s: balanced_accuracy_score(y, Z.argmax(1), sample_weight=s),
    "macro_f1": lambda y, Z, s: f1_score(y, Z.argmax(1), sample_weight=s, average="macro"),
    "neg_log_loss": lambda y, Z, s: (
        -log_loss(y, np.exp(Z) / np.exp(Z).sum(1, keepdims=True), sample_weight=s)
    ),
}


@pytest.mark.parametrize("scoring", SKLEARN)
def test_scores_are_those_of_scikit_learn(backend, scoring):
    rows, blocks = backend.asarray(X), backend.with_blocks_of(2000).backend
    for weights in (None, WEIGHTS):
        settings = {"alphas": [0.1, 0.01], "cv": FOLDS, "backend": blocks}
        clf = xl.LinearClassifierCV(scoring=scoring, **settings).fit(rows, NAMES[Y], weights)
        for f, (train, test) in enumerate(FOLDS):
            part = None if weights is None else weights[train]
            single = xl.LinearClassifier(solver="lbfgs", alpha=0.1).fit(X[train], Y[train], part)
            part = None if weights is None else weights[test]
            expected = SKLEARN[scoring](Y[test], single.decision_function(X[test]), part)
            assert clf.cv_scores_[0, f] == pytest.approx(expected, abs=1e-3)


def test_a_class_that_no_row_of_a_fold_has():
    """It is left out of the means, as scikit-learn does."""
    test = np.nonzero(Y != 2)[0][:40]
    train = np.setdiff1d(np.arange(150), test)
    single = xl.LinearClassifier(solver="lbfgs", alpha=0.1).fit(X[train], Y[train])
    predicted = single.predict(X[test])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "balanced_accuracy": balanced_accuracy_score(Y[test], predicted),
            "f1_macro": f1_score(Y[test], predicted, average="macro"),
        }
    for scoring, value in expected.items():
        clf = xl.LinearClassifierCV([0.1], cv=[(train, test)], scoring=scoring).fit(X, Y)
        assert clf.cv_scores_[0, 0] == pytest.approx(value)


def test_a_callable_scores_on_the_host(backend):
    seen = []

    def auc(y, Z):
        seen.append((y.tolist(), Z.shape))
        return roc_auc_score(y, Z)

    clf = xl.LinearClassifierCV(ALPHAS, cv=FOLDS, scoring=auc)
    clf.fit(backend.asarray(X), NAMES[BINARY])
    assert seen[0] == (NAMES[BINARY][FOLDS[0][1]].tolist(), (50,))
    train, test = FOLDS[1]
    single = xl.LinearClassifier(solver="lbfgs", alpha=0.1).fit(X[train], BINARY[train])
    expected = roc_auc_score(BINARY[test], single.decision_function(X[test]))
    assert clf.cv_scores_[1, 1] == pytest.approx(expected, abs=0.005)
    clf = xl.LinearClassifierCV(ALPHAS, cv=FOLDS, scoring=lambda y, Z: -float(Z.shape[1])).fit(X, Y)
    assert (clf.cv_scores_ == -3.0).all()
    assert clf.alpha_ == 1.0  # of equally good ones the strongest


def test_digits_as_grid_search_does_it():
    digits, target = load_digits(return_X_y=True)
    digits, target = digits[:900] / 16, target[:900]
    Cs = np.asarray([1e-2, 1e-1, 1.0, 10.0])
    # All folds have the same number of rows, and so 1 / (C n) is one number.
    folds = list(StratifiedKFold(5).split(digits, target))
    assert {len(train) for train, _ in folds} == {720}
    search = GridSearchCV(LogisticRegression(max_iter=500), {"C": Cs}, cv=folds).fit(digits, target)
    clf = xl.LinearClassifierCV(1 / (Cs * 720), cv=folds).fit(digits, target)
    expected = [search.cv_results_[f"split{f}_test_score"] for f in range(5)]
    np.testing.assert_allclose(clf.cv_scores_, np.transpose(expected), atol=0.006)
    assert 1 / (clf.alpha_ * 720) == pytest.approx(search.best_params_["C"])
    assert np.mean(clf.predict(digits) == search.predict(digits)) > 0.99


def test_behaves_as_the_classifier_chosen(backend, tmp_path):
    rows = backend.asarray(X)
    clf = xl.LinearClassifierCV([0.01, 0.1, 1.0]).fit(rows, NAMES[Y])
    assert clf.alphas_.tolist() == [1.0, 0.1, 0.01]
    assert clf.cv_scores_.shape == (3, 5)
    assert clf.alpha_ == clf.best_estimator_.alpha == clf.alphas_[clf.best_index_]
    assert clf.best_index_ == clf.cv_scores_.mean(axis=1).argmax()
    single = xl.LinearClassifier(solver="lbfgs", alpha=clf.alpha_).fit(X, NAMES[Y])
    np.testing.assert_allclose(host(clf.coef_), single.coef_, atol=1e-3)
    np.testing.assert_allclose(host(clf.coefs_paths_)[clf.best_index_], host(clf.coef_))
    np.testing.assert_allclose(host(clf.intercepts_paths_)[clf.best_index_], host(clf.intercept_))
    assert clf.objective_ == pytest.approx(single.objective_, rel=1e-5)
    np.testing.assert_array_equal(clf.predict(rows), single.predict(X))
    for method in ("predict_proba", "predict_log_proba", "decision_function"):
        got = host(getattr(clf, method)(rows))
        np.testing.assert_allclose(got, getattr(single, method)(X), atol=1e-2)
    assert clf.score(rows, NAMES[Y]) == single.score(X, NAMES[Y])
    np.testing.assert_array_equal(clf.classes_, NAMES)
    assert clf.n_features_in_ == 5
    assert clf.to("numpy").backend_.name == "numpy"
    clf.save(tmp_path / "m.safetensors")
    again = xl.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict(X), single.predict(X))
    assert again.alpha == clf.alpha_
    np.testing.assert_array_equal(clf.to_sklearn().predict(X), single.predict(X))
    assert not hasattr(xl.LinearClassifierCV(loss="multiclass_hinge"), "predict_proba")


def test_to_onnx(tmp_path):
    pytest.importorskip("onnx", reason="an extra of its own")
    onnxruntime = pytest.importorskip("onnxruntime", reason="only tests run ONNX files")
    clf = xl.LinearClassifierCV([0.1, 0.01], cv=3).fit(X, NAMES[Y])
    clf.to_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (labels,) = session.run(["label"], {"X": X.astype(np.float32)})
    np.testing.assert_array_equal(labels, clf.predict(X))


@pytest.mark.parametrize("method", ["to_sklearn", "to_onnx"])
def test_nothing_to_hand_on_without_refit(method, tmp_path):
    clf = xl.LinearClassifierCV([0.1, 0.01], cv=3, refit=False).fit(X, Y)
    with pytest.raises(AttributeError, match="refit=False kept no classifier"):
        getattr(clf, method)(*[tmp_path / "m.onnx"] * (method == "to_onnx"))


def test_results_live_where_the_data_is(backend, dtype):
    rows = backend.asarray(X, dtype)
    clf = xl.LinearClassifierCV(ALPHAS).fit(rows, backend.asarray(Y))
    for array in (clf.coef_, clf.coefs_paths_, clf.intercepts_paths_):
        assert array.dtype == getattr(backend.xp, dtype)
        assert array.device == backend.backend.device


def test_one_standard_error(numpy_backend):
    plain = xl.LinearClassifierCV(12).fit(X, Y)
    careful = clone(plain).set_params(one_standard_error=True).fit(X, Y)
    np.testing.assert_array_equal(careful.cv_scores_, plain.cv_scores_)
    mean = plain.cv_scores_.mean(axis=1)
    error = plain.cv_scores_[mean.argmax()].std(ddof=1) / 5**0.5
    good = plain.alphas_[mean >= mean.max() - error]
    assert careful.alpha_ == good.max()
    assert careful.alpha_ > plain.alpha_
    with pytest.raises(ValueError, match="one_standard_error needs at least two folds"):
        xl.LinearClassifierCV(3, cv=FOLDS[:1], one_standard_error=True).fit(X, Y)


def test_weights_of_zero_take_rows_out():
    """Of a fold's training and of its score."""
    outliers = np.concatenate([X, 3.0 * rng.standard_normal((30, 5))])
    labels = np.concatenate([Y, rng.integers(0, 3, 30)])
    weights = np.r_[np.ones(150), np.zeros(30)]
    folds = [(np.r_[a, 150:165], np.r_[b, 165:180]) for a, b in FOLDS]
    settings = {"alphas": ALPHAS, "scoring": "log_loss", **EXACT}
    clf = xl.LinearClassifierCV(cv=folds, **settings).fit(outliers, labels, weights)
    expected = xl.LinearClassifierCV(cv=FOLDS, **settings).fit(X, Y)
    np.testing.assert_allclose(clf.cv_scores_, expected.cv_scores_, atol=1e-6)


def test_class_weights_are_those_of_the_fold_and_no_part_of_the_score():
    train, test = FOLDS[0]
    settings = {"class_weight": "balanced", **EXACT}
    clf = xl.LinearClassifierCV([0.1], cv=FOLDS[:1], scoring="log_loss", **settings).fit(X, BINARY)
    single = xl.LinearClassifier(solver="lbfgs", alpha=0.1, **settings)
    single.fit(X[train], BINARY[train])
    expected = -log_loss(BINARY[test], single.predict_proba(X[test]))
    assert clf.cv_scores_[0, 0] == pytest.approx(expected, abs=1e-7)


def test_splitters_and_groups():
    groups = np.arange(150) // 10
    clf = xl.LinearClassifierCV([0.1], cv=GroupKFold(3), **EXACT).fit(X, Y, groups=groups)
    for f, (train, test) in enumerate(GroupKFold(3).split(X, Y, groups)):
        single = xl.LinearClassifier(solver="lbfgs", alpha=0.1, **EXACT).fit(X[train], Y[train])
        assert clf.cv_scores_[0, f] == pytest.approx(single.score(X[test], Y[test]))


class TestAutomaticAlphas:
    @pytest.mark.parametrize("penalty", ["l1", "elastic_net"])
    @pytest.mark.parametrize("loss", ["softmax", "squared_hinge", "squared_error"])
    @pytest.mark.parametrize("labels", [Y, BINARY], ids=["three", "two"])
    def test_l1_starts_where_the_first_weight_appears(self, penalty, loss, labels):
        settings = {"loss": loss, "penalty": penalty, "l1_ratio": 0.5}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            top = xl.LinearClassifierCV(3, **settings).fit(X, labels).alphas_[0]
        gd = xl.solvers.GD(max_iter=5000, tol=1e-8)
        nothing = xl.LinearClassifier(**settings, solver=gd, alpha=1.01 * top).fit(X, labels)
        something = xl.LinearClassifier(**settings, solver=gd, alpha=0.97 * top).fit(X, labels)
        assert not nothing.coef_.any()
        assert something.coef_.any()

    def test_grids(self, backend):
        def grid(penalty, count, scale=1.0, **settings):
            parts = backend.objective(xl.losses.SoftmaxLoss(), penalty, scale * X, Y, **settings)
            return automatic_alphas(parts, count)

        l1, l2 = xl.penalties.L1Penalty(), xl.penalties.L2Penalty()
        for penalty, decades in ((l1, 4), (l2, 7)):
            alphas = grid(penalty, 5)
            assert alphas[0] / alphas[-1] == pytest.approx(10**decades)
            np.testing.assert_allclose(np.diff(np.log(alphas)), -decades * np.log(10) / 4)
        assert grid(l2, 5)[0] == pytest.approx(0.5 * X.var(axis=0).sum())
        np.testing.assert_allclose(grid(l2, 3, scale=10.0), 100.0 * grid(l2, 3))
        np.testing.assert_allclose(grid(l1, 3, scale=10.0), 10.0 * grid(l1, 3), rtol=1e-6)
        share = grid(xl.penalties.ElasticNetPenalty(0.25), 3)
        np.testing.assert_allclose(share, grid(l1, 3) / 0.25)
        assert grid(l1, 1, fit_intercept=False).shape == (1,)

    def test_their_number(self):
        assert len(xl.LinearClassifierCV(cv=2).fit(X, Y).alphas_) == 20
        assert len(xl.LinearClassifierCV(3, cv=2).fit(X, Y).alphas_) == 3


def test_learning_rates_share_the_batches():
    settings = {"cv": FOLDS, "solver": "sgd", "max_iter": 10, "random_state": 0}
    settings["scoring"] = "log_loss"
    rates = [0.1, 0.001]
    clf = xl.LinearClassifierCV([0.1, 0.01], learning_rates=rates, **settings).fit(X, Y)
    assert clf.cv_scores_.shape == (2, 2, 3)
    for r, rate in enumerate(rates):
        alone = xl.LinearClassifierCV([0.1, 0.01], learning_rate=rate, **settings).fit(X, Y)
        np.testing.assert_allclose(clf.cv_scores_[:, r], alone.cv_scores_, atol=1e-9)
    a, r = clf.best_index_
    assert clf.cv_scores_.mean(axis=2).argmax() == 2 * a + r
    assert (clf.alpha_, clf.learning_rate_) == (clf.alphas_[a], rates[r])
    assert clf.best_estimator_.learning_rate == rates[r]
    single = xl.LinearClassifier(
        alpha=clf.alpha_, learning_rate=rates[r], solver="sgd", max_iter=10, random_state=0
    ).fit(X, Y)
    np.testing.assert_allclose(clf.coef_, single.coef_, atol=1e-9)
    np.testing.assert_allclose(clf.coefs_paths_[a], single.coef_, atol=1e-9)


@pytest.mark.parametrize("loss", ["multiclass_hinge", "squared_error"])
@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_kind_of_loss_and_penalty(loss, penalty):
    clf = xl.LinearClassifierCV(3, cv=FOLDS, loss=loss, penalty=penalty, random_state=0).fit(X, Y)
    assert clf.cv_scores_.max() > 0.7
    assert clf.coefs_paths_.shape == (3, 3, 5)


def test_without_refit():
    clf = xl.LinearClassifierCV(ALPHAS, refit=True).fit(X, Y)
    clf.set_params(refit=False).fit(X, Y)
    assert clf.alpha_ in ALPHAS
    assert not hasattr(clf, "coef_")
    with pytest.raises(AttributeError, match="refit=False kept no classifier"):
        clf.predict(X)
    with pytest.raises(NotFittedError):
        xl.LinearClassifierCV().predict(X)


def test_progress_and_stopping(capsys):
    seen = []
    xl.LinearClassifierCV(ALPHAS, cv=FOLDS, verbose=1).fit(X, Y, callbacks=[seen.append])
    assert [news.done for news in seen] == sorted(news.done for news in seen)
    assert {news.models for news in seen} == {16}
    assert [float(f"{a:.3g}") for a in dict.fromkeys(news.alpha for news in seen)] == ALPHAS
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(
        r"alpha 1  score 0\.\d{4}  4/16 models  \d\.\d\d s, time left 0:00:\d\d", lines[0]
    )
    assert all(0.0 < news.loss < 2.0 for news in seen)
    assert re.match(r"0/16 models  alpha 1\.00e\+00  iteration 1  loss \d", str(seen[0]))
    assert str(seen[0]).endswith("time left unknown")
    clf = xl.LinearClassifierCV(ALPHAS, cv=FOLDS)
    clf.fit(X, Y, callbacks=[lambda news: news.alpha <= 0.1])
    assert clf.alphas_.tolist() == [1.0, 0.1]
    assert clf.cv_scores_.shape == (2, 3)
    assert clf.coefs_paths_.shape == (2, 3, 5)


def test_one_warning_for_all_models():
    with pytest.warns(ConvergenceWarning, match="16 of 16 models stopped at max_iter") as caught:
        xl.LinearClassifierCV(ALPHAS, cv=FOLDS, max_iter=1).fit(X, Y)
    assert len(caught) == 1
    with pytest.warns(ConvergenceWarning, match="of 16 models stopped at the float32 floor"):
        xl.LinearClassifierCV(ALPHAS, cv=FOLDS, tol=0.0, dtype="float32").fit(X, Y)


BAD = {
    "no alphas": ({"alphas": []}, "alphas must be a sequence of positive, finite numbers"),
    "alpha 0": ({"alphas": [0.1, 0.0]}, "alphas must be a sequence of positive"),
    "alpha NaN": ({"alphas": [0.1, np.nan]}, "alphas must be a sequence of positive"),
    "words": ({"alphas": "strong"}, "alphas must be a sequence of positive"),
    "no number of alphas": (
        {"alphas": 0},
        "such as [1.0], an integer of at least 2 or None, got 0",
    ),
    "one alpha": ({"alphas": 1}, "such as [1.0], an integer of at least 2 or None, got 1"),
    "a number as alpha": (
        {"alphas": 1.0},
        "alphas must be a sequence of positive, finite numbers, such as",
    ),
    "truth as alpha": (
        {"alphas": True},
        "alphas must be a sequence of positive, finite numbers, such as",
    ),
    "scoring": ({"scoring": "auc"}, "unknown scoring 'auc'; choose from accuracy, log_loss, "),
    "scoring of scores": (
        {"scoring": "neg_log_loss", "loss": "squared_hinge"},
        "scoring='neg_log_loss' needs probabilities; 'squared_hinge' gives none",
    ),
    "rates": ({"learning_rates": [0.1]}, "learning_rates are for solver='sgd', got solver='auto'"),
    "rate 0": (
        {"learning_rates": [0.0], "solver": "sgd"},
        "learning_rates must be a sequence of positive",
    ),
    "penalty": ({"penalty": "none"}, "penalty='none' has no strength to choose"),
    "cv": ({"cv": 1000}, "number of splits n_splits=1000 greater than the number of samples"),
    "few of each": ({"cv": 70}, "n_splits=70 cannot be greater than the number of members in each"),
    "no folds": ({"cv": []}, "cv=[] gives no folds; give a number of them, or pairs of rows"),
    "no pairs": ({"cv": [1, 2]}, "cv, if it is no splitter, must give pairs of training and test"),
    "rows": ({"cv": [([0, 1, 2], [150])]}, "cv: fold 0 names rows that X, of 150 rows, does not"),
    "one class": (
        {"cv": [FOLDS[0], (np.nonzero(Y == 1)[0], [0])]},
        "cv: fold 1 trains on one class only, 1, and a classifier needs two",
    ),
    "fold": ({"cv": [(np.arange(150), [])]}, "fold 0 has no rows of positive weight"),
    "loss": ({"loss": "hinge"}, "loss must be one of softmax, multiclass_hinge"),
    "tol": ({"tol": -1.0}, "tol must be a finite number"),
    "NaN": (
        {"alphas": [0.1], "scoring": lambda y, Z: float("nan")},
        "scoring gave NaN or infinity at alpha=0.1, fold 0; it must give finite numbers",
    ),
    "rates that diverge": (
        {"alphas": [0.1], "learning_rates": [1e300, 1e250], "solver": "sgd", "max_iter": 2},
        "every learning rate diverged at every strength; give smaller learning_rates",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of divergence
def test_bad_input(case):
    settings, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        xl.LinearClassifierCV(**settings).fit(X, Y)


BAD_TYPES = {
    "a number": (1.0, "scoring must be a name, a callable or None, got 1.0"),
    "a metric": (accuracy_score, "make it a scorer: sklearn.metrics.make_scorer"),
    "one argument": (lambda y: 1.0, "must be callable as scoring(y, Z), or as scoring(estimator,"),
    "None": (lambda y, Z: None, "scoring must return a number, got None at alpha=1"),
    "words": (lambda y, Z: "0.5", "scoring must return a number, got '0.5' at alpha=1"),
    "vector": (lambda y, Z: [0.5, 1.0], "scoring must return a number, got [0.5, 1.0]"),
}


@pytest.mark.parametrize("case", BAD_TYPES)
def test_scorings_that_are_none(case):
    scoring, message = BAD_TYPES[case]
    with pytest.raises(TypeError, match=re.escape(message)):
        xl.LinearClassifierCV(ALPHAS, cv=FOLDS, scoring=scoring).fit(X, Y)


def test_constant_features_give_no_grid():
    constant = np.ones((20, 2))
    with pytest.raises(ValueError, match="every feature is constant; give alphas as numbers"):
        xl.LinearClassifierCV(cv=2).fit(constant, np.arange(20) % 2)


class TestFolds:
    """A class with few rows, splitters that look, rows named more than once."""

    def test_a_class_smaller_than_the_folds_warns_as_in_scikit_learn(self):
        labels = NAMES[np.where(np.arange(150) < 3, 2, BINARY)]
        with pytest.warns(UserWarning, match="The least populated class in y has only 3 members"):
            clf = xl.LinearClassifierCV(ALPHAS, cv=5).fit(X, labels)
        assert np.isfinite(clf.cv_scores_).all()

    @pytest.mark.parametrize("scoring", SKLEARN)
    def test_a_class_that_training_lacks_has_the_lowest_score(self, backend, scoring):
        """As a model of the classes that it has; scores are scikit-learn's for a column −∞."""
        (lone,) = np.nonzero(Y == 2)[0][:1]
        rows = np.r_[np.nonzero(Y != 2)[0][:90], lone]
        part, labels = X[rows], Y[rows]
        train, test = np.arange(60), np.arange(60, 91)
        clf = xl.LinearClassifierCV([0.1], cv=[(train, test)], scoring=scoring, **EXACT)
        clf.fit(backend.asarray(part, "float64"), NAMES[labels])
        # Two columns that sum to 0 cost half of what one column of their difference does.
        single = xl.LinearClassifier(solver="lbfgs", alpha=0.05, **EXACT)
        z = single.fit(part[train], labels[train]).decision_function(part[test])
        Z = np.stack([-z / 2, z / 2, np.full(31, -1e9)], axis=1)
        if scoring == "neg_log_loss":
            P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
            expected = -log_loss(labels[test], P, labels=[0, 1, 2])
        else:
            expected = SKLEARN[scoring](labels[test], Z, None)
        assert clf.cv_scores_[0, 0] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("alpha", [1.0, 1e-4])
    def test_log_loss_without_a_class_does_not_depend_on_tol(self, alpha):
        labels = np.where(np.arange(150) == 0, 2, BINARY)
        folds = [(np.arange(50, 150), np.arange(50)), (np.arange(100), np.arange(100, 150))]
        found = []
        for tol in (1e-3, 1e-5, 1e-8):
            settings = {"cv": folds, "scoring": "log_loss", "max_iter": 3000, "tol": tol}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                clf = xl.LinearClassifierCV([1.0, alpha / 2], **settings).fit(X, labels)
            found.append(clf.cv_scores_[-1, 0])
        lost = np.log(np.finfo(np.float64).eps) / 50
        assert lost - 1.0 < found[-1] < lost
        np.testing.assert_allclose(found, found[-1], rtol=0.02)

    def test_splitters_see_x_and_the_labels_as_they_are_passed(self, backend):
        seen = []

        class ByTheFirstColumn(StratifiedKFold):
            def split(self, X, y, groups=None):
                seen.append((X, y, groups))
                first = host(X)[:, 0]
                for low, high in ((-np.inf, 0.0), (0.0, np.inf)):
                    test = (low <= first) & (first < high)
                    yield np.nonzero(~test)[0], np.nonzero(test)[0]

        rows, groups = backend.asarray(X), np.arange(150)
        clf = xl.LinearClassifierCV([0.1, 0.01], cv=ByTheFirstColumn(), **EXACT)
        clf.fit(rows, NAMES[Y], groups=backend.asarray(groups))
        assert seen[0][0] is rows
        np.testing.assert_array_equal(seen[0][1], NAMES[Y])
        np.testing.assert_array_equal(seen[0][2], groups)
        test = X[:, 0] < 0
        single = xl.LinearClassifier(solver="lbfgs", alpha=0.1, **EXACT).fit(X[~test], Y[~test])
        assert clf.cv_scores_[0, 0] == pytest.approx(single.score(X[test], Y[test]), abs=1e-6)

    def test_rows_count_as_often_as_they_are_named(self):
        """In training and in the score, as `sklearn` indexes them."""
        random = np.random.default_rng(5)
        folds = [(random.integers(0, 100, 120), random.integers(100, 150, 60)) for _ in range(2)]
        seen = []

        def scoring(y, Z):
            seen.append(len(y))
            return accuracy_score(y, Z.argmax(axis=1))

        settings = {"alphas": [0.1], "cv": folds, **EXACT}
        clf = xl.LinearClassifierCV(**settings, scoring="log_loss").fit(X, Y, WEIGHTS)
        other = xl.LinearClassifierCV(**settings, scoring=scoring).fit(X, Y)
        assert seen == [60, 60]
        for f, (train, test) in enumerate(folds):
            single = xl.LinearClassifier(solver="lbfgs", alpha=0.1, **EXACT)
            single.fit(X[train], Y[train], WEIGHTS[train])
            P = single.predict_proba(X[test])
            expected = -log_loss(Y[test], P, sample_weight=WEIGHTS[test])
            assert clf.cv_scores_[0, f] == pytest.approx(expected, abs=1e-7)
            single.fit(X[train], Y[train])
            assert other.cv_scores_[0, f] == single.score(X[test], Y[test])

    def test_masks_are_rows(self):
        masks = [(np.isin(np.arange(150), a), np.isin(np.arange(150), b)) for a, b in FOLDS]
        clf = xl.LinearClassifierCV(ALPHAS, cv=masks).fit(X, Y)
        expected = xl.LinearClassifierCV(ALPHAS, cv=FOLDS).fit(X, Y)
        np.testing.assert_array_equal(clf.cv_scores_, expected.cv_scores_)


class TestCallables:
    def test_weights_are_passed_to_those_that_take_them(self, backend):
        weights = np.where(np.arange(150) % 7 == 0, 0.0, WEIGHTS)
        seen = []

        def scoring(y, Z, sample_weight=None):
            seen.append((len(y), sample_weight))
            return accuracy_score(y, Z.argmax(axis=1), sample_weight=sample_weight)

        clf = xl.LinearClassifierCV(ALPHAS, cv=FOLDS, scoring=scoring, **EXACT)
        clf.fit(backend.asarray(X, "float64"), Y, backend.asarray(weights, "float64"))
        expected = xl.LinearClassifierCV(ALPHAS, cv=FOLDS, **EXACT).fit(X, Y, weights)
        np.testing.assert_allclose(clf.cv_scores_, expected.cv_scores_, atol=1e-9)
        test = FOLDS[0][1]
        counted = test[weights[test] > 0]
        assert seen[0][0] == len(counted)
        np.testing.assert_allclose(seen[0][1], weights[counted])
        seen.clear()
        clf.fit(X, Y)
        assert seen[0] == (50, None)

    @pytest.mark.parametrize("standardize", [False, True])
    def test_scorers_of_scikit_learn(self, backend, standardize):
        settings = {"cv": FOLDS, "standardize": standardize, **EXACT}
        rows = backend.asarray(X + 3.0, "float64")
        for scorer, same in (
            (make_scorer(balanced_accuracy_score), "balanced_accuracy"),
            (get_scorer("neg_log_loss"), "log_loss"),
            (lambda estimator, X, y: estimator.score(X, y), None),
            (check_scoring(xl.LinearClassifier(), None), "accuracy"),
        ):
            clf = xl.LinearClassifierCV(ALPHAS, scoring=scorer, **settings).fit(rows, NAMES[Y])
            expected = xl.LinearClassifierCV(ALPHAS, scoring=same, **settings).fit(rows, NAMES[Y])
            np.testing.assert_allclose(clf.cv_scores_, expected.cv_scores_, atol=1e-6)

    def test_a_scorer_gets_the_model_and_the_rows_of_the_fold(self):
        frame = pytest.importorskip("pandas").DataFrame(X, columns=list("abcde"))
        seen = []

        def scorer(estimator, X, y, sample_weight):
            seen.append((estimator, X, y, sample_weight))
            return estimator.score(X, y, sample_weight)

        clf = xl.LinearClassifierCV([0.1], cv=FOLDS, scoring=scorer, **EXACT)
        clf.fit(frame, NAMES[Y], WEIGHTS)
        estimator, rows, labels, weights = seen[1]
        train, test = FOLDS[1]
        assert rows.equals(frame.iloc[test])
        np.testing.assert_array_equal(labels, NAMES[Y][test])
        np.testing.assert_array_equal(weights, WEIGHTS[test])
        single = xl.LinearClassifier(solver="lbfgs", alpha=0.1, **EXACT)
        single.fit(X[train], Y[train], WEIGHTS[train])
        np.testing.assert_allclose(estimator.coef_, single.coef_, atol=1e-5)
        assert (estimator.alpha, estimator.feature_names_in_.tolist()) == (0.1, list("abcde"))

    def test_none_is_accuracy(self):
        clf = xl.LinearClassifierCV(ALPHAS, cv=FOLDS, scoring=None).fit(X, Y)
        expected = xl.LinearClassifierCV(ALPHAS, cv=FOLDS).fit(X, Y)
        np.testing.assert_array_equal(clf.cv_scores_, expected.cv_scores_)


@pytest.mark.filterwarnings("ignore:iteration 1 diverged", "ignore:iteration 2 diverged")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_learning_rate_that_diverged_loses(dtype):
    """It was cut to another; the scores there are not its own."""
    rates = [1e300, 1e-4]
    settings = {"cv": FOLDS, "solver": "sgd", "max_iter": 3, "random_state": 0, "dtype": dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        clf = xl.LinearClassifierCV([0.1, 0.01], learning_rates=rates, **settings).fit(X, Y)
    assert clf.learning_rate_ == 1e-4
    assert np.isnan(clf.cv_scores_[:, 0]).all()
    alone = xl.LinearClassifierCV([0.1, 0.01], learning_rates=[1e-4], **settings).fit(X, Y)
    np.testing.assert_array_equal(clf.cv_scores_[:, 1:], alone.cv_scores_)
    assert clf.alpha_ == alone.alpha_


def test_rounding_is_said_of_what_was_measured():
    settings = {"cv": FOLDS, "dtype": "float32", "tol": 1e-7, "max_iter": 3000}
    with pytest.warns(ConvergenceWarning, match=r"float32 floor: relative residual up to \de-\d\d"):
        xl.LinearClassifierCV(ALPHAS, **{**settings, "tol": 0.0}).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match=r"float32 floor: relative gap up to \de-\d\d"):
        xl.LinearClassifierCV(ALPHAS, loss="multiclass_hinge", solver="smoothing", **settings).fit(
            X, Y
        )


def test_a_failure_leaves_what_was_fitted():
    clf = xl.LinearClassifierCV(ALPHAS, cv=FOLDS).fit(X, Y)
    before = dict(vars(clf))

    def fails(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        clf.fit(X[:, :2], BINARY, callbacks=[fails])
    clf.scoring = fails
    with pytest.raises(ZeroDivisionError):
        clf.fit(X[:, :2], BINARY)
    clf.scoring = "accuracy"
    assert vars(clf) == before


def test_a_scorer_whose_metric_takes_no_weights():
    def hits(y, predicted):
        return float(np.mean(y == predicted))

    clf = xl.LinearClassifierCV(ALPHAS, cv=FOLDS, scoring=make_scorer(hits))
    plain = xl.LinearClassifierCV(ALPHAS, cv=FOLDS, scoring=make_scorer(hits)).fit(X, Y)
    same = clf.fit(X, Y, np.ones(len(X)))
    np.testing.assert_array_equal(same.cv_scores_, plain.cv_scores_)
