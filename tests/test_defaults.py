"""The strength of the penalty: C as scikit-learn has it, and grids that suit the data."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.datasets import (
    load_breast_cancer,
    load_digits,
    load_iris,
    load_wine,
    make_classification,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import xplinear as xl
from xplinear.formats import tensors as files

WINE, KINDS = load_wine(return_X_y=True)
WINE = StandardScaler().fit_transform(WINE)
WEIGHTS = np.random.default_rng(0).integers(0, 3, len(KINDS)) * 0.7
LABELS = {"three classes": KINDS, "two classes": (KINDS == 1).astype(int)}
EXACT = {"tol": 1e-9, "max_iter": 5000}
IRIS = load_iris(return_X_y=True)


def same_coefficients(ours, theirs, rtol=1e-5):
    scale = rtol * np.abs(theirs.coef_).max()
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=scale)


class TestTheProblemOfScikitLearn:
    @pytest.mark.parametrize("y", LABELS.values(), ids=LABELS)
    @pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
    @pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1.0, 1: 5.0}])
    @pytest.mark.parametrize("settings", [{}, {"C": 0.02}, {"C": 30}], ids=str)
    def test_logistic_regression(self, y, weights, class_weight, settings):
        settings = settings | {"class_weight": class_weight}
        theirs = LogisticRegression(solver="newton-cg", tol=1e-10, max_iter=10_000, **settings)
        ours = xl.LinearClassifier(**settings, **EXACT).fit(WINE, y, weights)
        same_coefficients(ours, theirs.fit(WINE, y, weights))

    def test_no_penalty(self):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(300, 4)), rng.integers(0, 3, 300)
        ours = xl.LinearClassifier(C=np.inf, **EXACT).fit(X, y)
        same_coefficients(ours, LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(X, y))
        assert ours.alpha_ == 0.0

    @pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # LinearSVC's
    def test_linear_svc(self, loss):
        y, settings = LABELS["two classes"], {"C": 0.05, "fit_intercept": False}
        theirs = LinearSVC(loss=loss, tol=1e-9, max_iter=10**5, random_state=0, **settings)
        ours = xl.LinearClassifier(
            "multiclass_hinge" if loss == "hinge" else loss, tol=1e-6, max_iter=5000, **settings
        )
        same_coefficients(ours.fit(WINE, y, WEIGHTS), theirs.fit(WINE, y, WEIGHTS), rtol=1e-3)

    def test_standardized(self):
        X, y = load_wine(return_X_y=True)
        theirs = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10, max_iter=1000))
        ours = xl.LinearClassifier(standardize=True, **EXACT).fit(X, y)
        expected = theirs.fit(X, y).predict_proba(X)
        np.testing.assert_allclose(ours.predict_proba(X), expected, atol=1e-6)

    def test_weights_and_c_are_two_words_for_one_thing(self, backend):
        rows = backend.asarray(WINE, "float64")
        clf = xl.LinearClassifier(C=7.0, **EXACT).fit(rows, KINDS)
        weighted = xl.LinearClassifier(C=1.0, **EXACT).fit(rows, KINDS, np.full(len(KINDS), 7.0))
        assert weighted.alpha_ == pytest.approx(clf.alpha_, rel=1e-15)
        np.testing.assert_allclose(
            backend.to_numpy(weighted.coef_), backend.to_numpy(clf.coef_), atol=1e-6
        )

    def test_a_grid_over_c_is_that_of_scikit_learn(self):
        grid, settings = {"C": [1e-3, 0.03, 1.0]}, {"cv": 4, "scoring": "neg_log_loss"}
        ours = GridSearchCV(xl.LinearClassifier(**EXACT), grid, **settings).fit(WINE, KINDS)
        theirs = LogisticRegression(tol=1e-9, max_iter=5000)
        theirs = GridSearchCV(theirs, grid, **settings).fit(WINE, KINDS)
        for results in ("mean_test_score", "split0_test_score", "split3_test_score"):
            expected = theirs.cv_results_[results]
            np.testing.assert_allclose(ours.cv_results_[results], expected, rtol=1e-5)
        assert ours.best_params_ == theirs.best_params_

    @pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits", "wide"])
    def test_log_loss_of_the_default(self, name):
        X, y = {
            "iris": lambda: IRIS,
            "wine": lambda: (WINE, KINDS),
            "breast_cancer": lambda: load_breast_cancer(return_X_y=True),
            "digits": lambda: load_digits(return_X_y=True),
            "wide": lambda: make_classification(
                1000, 500, n_informative=20, flip_y=0.1, random_state=0
            ),
        }[name]()
        if name == "breast_cancer":
            X = StandardScaler().fit_transform(X)
        rows = train_test_split(X, y, test_size=0.3, random_state=0)
        X, X_test, y, y_test = rows
        # At its default tol it stops early on digits: 7 % above its minimum, test loss 4 % lower.
        theirs = LogisticRegression(solver="newton-cg", tol=1e-8, max_iter=1000).fit(X, y)
        theirs = theirs.predict_proba(X_test)
        ours = xl.LinearClassifier(tol=1e-8, max_iter=5000).fit(X, y).predict_proba(X_test)
        assert log_loss(y_test, ours) == pytest.approx(log_loss(y_test, theirs), rel=1e-3)


class TestTheStrength:
    @pytest.mark.filterwarnings("ignore:stopped after max_iter")
    def test_what_counts(self):
        X, y, n = WINE, KINDS, len(KINDS)

        def alpha(weights=None, **settings):
            return xl.LinearClassifier(solver="gd", tol=1.0, **settings).fit(X, y, weights).alpha_

        assert alpha() == 1 / n
        assert alpha(C=0.5) == 2 / n
        assert alpha(WEIGHTS) == pytest.approx(1 / WEIGHTS.sum())
        assert alpha(class_weight="balanced") == pytest.approx(1 / n)
        assert alpha(class_weight={1: 3.0}) == pytest.approx(1 / (n + 2 * (y == 1).sum()))
        held_out = 18  # a tenth, rounded up
        assert alpha(early_stopping=True, max_iter=1, random_state=0) == 1 / (n - held_out)
        assert alpha(WEIGHTS, alpha=0.25) == alpha(alpha=np.float32(0.25)) == 0.25
        assert alpha(alpha=0, early_stopping=True, max_iter=1) == 0.0

    @pytest.mark.parametrize("scale", [1e-12, 1e12, 1e36])
    def test_weights_of_any_size(self, scale):
        clf = xl.LinearClassifier(solver="gd", tol=1.0)
        clf.fit(WINE, KINDS, np.full(len(KINDS), scale))
        assert clf.alpha_ == pytest.approx(1 / scale / len(KINDS), rel=1e-12, abs=0.0)

    def test_arrays_of_one_number(self, backend):
        for name in ("alpha", "C"):
            value = backend.asarray(np.asarray(0.5), "float32")
            clf = xl.LinearClassifier(**{name: value}).fit(WINE, KINDS)
            assert clf.alpha_ == (0.5 if name == "alpha" else 2 / len(KINDS))

    def test_beyond_the_dtype(self):
        rows = WINE.astype("float32")
        for settings in ({"alpha": 1e39}, {"C": 1e-42}):
            with pytest.raises(ValueError, match=r"alpha = \S+ is beyond float32; where it is not"):
                xl.LinearClassifier(**settings, dtype="float32").fit(rows, KINDS)

    def test_both(self):
        clf = xl.LinearClassifier(alpha=0.1, C=2.0)
        with pytest.raises(ValueError, match=r"alpha=0\.1 and C=2\.0 are two ways"):
            clf.fit(WINE, KINDS)
        with pytest.raises(ValueError, match=r"alpha=0\.1 and C=2\.0 are two ways"):
            clf.partial_fit(WINE, KINDS, classes=range(3))
        assert clone(clf).get_params() == clf.get_params()
        clf.set_params(alpha=None).fit(WINE, KINDS)

    @pytest.mark.parametrize(
        "C", [0, -1.0, np.nan, -np.inf, True, np.True_, "1", "auto", [1.0], np.ones(1), 1j, object]
    )
    def test_bad_c(self, C):
        with pytest.raises(ValueError, match="C must be a number of more than 0"):
            xl.LinearClassifier(C=C).fit(WINE, KINDS)

    @pytest.mark.parametrize("alpha", [np.inf, True, np.ones(2), "1e-3", np.complex128(1)])
    def test_bad_alpha(self, alpha):
        with pytest.raises(ValueError, match="alpha must be a finite number of at least 0"):
            xl.LinearClassifier(alpha=alpha).fit(WINE, KINDS)

    def test_smoothing_needs_a_penalty(self):
        clf = xl.LinearClassifier("multiclass_hinge", solver="smoothing", C=np.inf)
        with pytest.raises(ValueError, match="C must be finite for solver='smoothing', got inf"):
            clf.fit(WINE, KINDS)
        clf.set_params(solver="auto", max_iter=2).fit(WINE, KINDS)
        assert not hasattr(clf, "certificate_")  # of SGD, as with alpha=0

    def test_it_goes_where_the_model_goes(self, tmp_path):
        clf = xl.LinearClassifier(C=0.5).fit(WINE, KINDS)
        path = tmp_path / "m.safetensors"
        clf.save(path)
        for copy in (clf.to("numpy"), xl.load(path)):
            assert (copy.alpha_, copy.alpha, copy.C) == (clf.alpha_, None, 0.5)
        xl.LinearClassifier(C=np.inf, max_iter=3, solver="sgd").fit(WINE, KINDS).save(path)
        assert (xl.load(path).C, xl.load(path).alpha_) == (np.inf, 0.0)

    def test_files_of_before(self, tmp_path):
        path = tmp_path / "m.safetensors"
        xl.LinearClassifier(alpha=1e-4).fit(WINE, KINDS).save(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        content = json.loads(metadata["content"])
        del content["params"]["C"], content["alpha"]
        text = json.dumps(content)
        checksum = files.checksum(text, tensors)
        save_file(tensors, path, metadata | {"content": text, "checksum": checksum})
        clf = xl.load(path)
        assert (clf.alpha, clf.C, clf.alpha_) == (1e-4, None, 1e-4)


class TestPartialFit:
    def test_begins_with_a_small_strength(self):
        clf = xl.LinearClassifier(random_state=0).partial_fit(WINE, KINDS, classes=range(3))
        given = xl.LinearClassifier(alpha=1e-4, random_state=0)
        given.partial_fit(WINE, KINDS, classes=range(3))
        assert clf.alpha_ == 1e-4
        np.testing.assert_array_equal(clf.coef_, given.coef_)

    def test_goes_on_at_the_strength_of_the_fit(self):
        clf = xl.LinearClassifier(random_state=0).fit(WINE, KINDS)
        assert clf.partial_fit(WINE[:20], KINDS[:20]).alpha_ == 1 / len(KINDS)
        assert clf.set_params(alpha=0.5).partial_fit(WINE[:20], KINDS[:20]).alpha_ == 0.5

    def test_c_needs_all_rows(self):
        clf = xl.LinearClassifier(C=2.0)
        for step in (lambda: clf, lambda: clf.fit(WINE, KINDS)):
            step()
            with pytest.raises(ValueError, match=r"partial_fit cannot use C=2\.0.*all rows"):
                clf.partial_fit(WINE, KINDS, classes=range(3))
        clf.set_params(C=None).partial_fit(WINE, KINDS)
        assert clf.alpha_ == 1 / (2 * len(KINDS))


def columns_of(case):
    """Return iris with columns of other scales beside it."""
    X, y = IRIS
    rng = np.random.default_rng(0)
    return {
        "as it is": lambda: X,
        "a huge one": lambda: np.c_[X, rng.lognormal(10, 1, 150)],
        "times": lambda: np.c_[X, 1.7e9 + 1e7 * rng.random(150)],
        "many huge ones": lambda: np.c_[X, 1e4 * rng.normal(size=(150, 12))],
        "tiny ones": lambda: np.c_[X, 1e-12 * rng.normal(size=(150, 12))],
        "a constant one": lambda: np.c_[X, np.full(150, 1e8 + 0.1)],
        "far from zero": lambda: X + 1e6,
        "in small units": lambda: X * [1.0, 1.0, 1.0, 1e-3],
        "very small": lambda: 1e-120 * X,
        "very large": lambda: 1e100 * X,
    }[case](), y


def grid_of(X, y, penalty=None, count=20, weights=None):
    data = xl.data.ArrayData(X, y, weights, backend=xl.backends.get_backend("numpy"))
    penalty = penalty or xl.penalties.L2Penalty()
    F = xl.Objective(xl.losses.SoftmaxLoss(), penalty, np.ones(1), data, int(y.max()) + 1)
    from xplinear.model_selection.alphas import automatic_alphas

    return automatic_alphas(F, count)


class TestAutomaticGrid:
    @pytest.mark.parametrize("case", ["a huge one", "times", "many huge ones", "in small units"])
    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    @pytest.mark.filterwarnings("error:the best mean score")
    def test_the_largest_column_does_not_hide_the_others(self, case):
        X, y = columns_of(case)
        clf = xl.LinearClassifierCV(cv=5).fit(X, y)
        assert clf.cv_scores_.mean(axis=1).max() > 0.85
        assert clf.alpha_ < 1.0

    @pytest.mark.parametrize("case", ["as it is", "tiny ones", "a constant one", "far from zero"])
    def test_columns_that_tell_nothing_cost_nothing(self, case):
        plain = grid_of(*columns_of("as it is"))
        np.testing.assert_allclose(grid_of(*columns_of(case)), plain, rtol=1e-3)

    @pytest.mark.parametrize("penalty", [xl.penalties.L1Penalty(), xl.penalties.L2Penalty()])
    def test_labels_in_a_column(self, penalty):
        X, y = columns_of("as it is")
        np.testing.assert_allclose(grid_of(X, y[:, None], penalty), grid_of(X, y, penalty))

    @pytest.mark.parametrize("penalty", [xl.penalties.L1Penalty(), xl.penalties.L2Penalty()])
    def test_units(self, penalty):
        power = 1 if isinstance(penalty, xl.penalties.L1Penalty) else 2
        for case in ("as it is", "a huge one"):
            X, y = columns_of(case)
            for unit in (1e-6, 1e6):
                expected = unit**power * grid_of(X, y, penalty)
                np.testing.assert_allclose(grid_of(unit * X, y, penalty), expected, rtol=1e-4)

    @pytest.mark.parametrize(("case", "unit"), [("very small", 1e-120), ("very large", 1e100)])
    def test_squares_out_of_range(self, case, unit):
        expected = np.log(grid_of(*columns_of("as it is"))) + 2 * np.log(unit)
        np.testing.assert_allclose(np.log(grid_of(*columns_of(case))), expected, rtol=1e-6)

    def test_weights_count(self):
        X, y = columns_of("a huge one")
        s = np.random.default_rng(0).integers(0, 3, 150).astype(float)
        repeated = np.repeat(np.arange(150), s.astype(int))
        expected = grid_of(X[repeated], y[repeated])
        np.testing.assert_allclose(grid_of(X, y, weights=s[:, None]), expected, rtol=1e-6)

    def test_nothing_tells_classes_apart(self):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(40, 3)) * [1.0, 1.0, 1e4], np.arange(40) % 2
        alphas = grid_of(X, y)
        assert 1e-7 < alphas[-1] < 1e-2
        assert alphas[0] > 1e6

    @pytest.mark.parametrize("penalty", ["l1", "l2"])
    def test_backends(self, backend, penalty):
        X, y = columns_of("a huge one")
        kind = xl.penalties.PENALTIES[penalty]()
        F = backend.objective(xl.losses.SoftmaxLoss(), kind, X, y, alpha=[1.0], k=3)
        from xplinear.model_selection.alphas import automatic_alphas

        np.testing.assert_allclose(automatic_alphas(F), grid_of(X, y, kind), rtol=1e-4)


RISING = r"the best mean score is that of the weakest alpha, .*give weaker alphas too"
FALLING = r"the best mean score is that of the strongest alpha, .*give stronger alphas too"


class TestTheEndOfAGrid:
    def test_a_given_grid_says_so(self):
        settings = {"cv": 3, "scoring": "log_loss"}
        with pytest.warns(UserWarning, match=RISING):
            clf = xl.LinearClassifierCV([10.0, 1.0, 0.3], **settings).fit(*IRIS)
        assert clf.alpha_ == 0.3
        with pytest.warns(UserWarning, match=FALLING):
            clf = xl.LinearClassifierCV([1e-5, 1e-6, 1e-7], **settings).fit(WINE, KINDS)
        assert clf.alpha_ == 1e-5

    @pytest.mark.filterwarnings("error:the best mean score")
    def test_a_grid_without_an_inside_and_plateaus_say_nothing(self):
        xl.LinearClassifierCV([10.0, 0.3], cv=3, scoring="log_loss").fit(*IRIS)
        X = np.r_[IRIS[0][:50], IRIS[0][50:] + 10.0]
        clf = xl.LinearClassifierCV([1e-3, 1e-4, 1e-5], cv=3).fit(X, IRIS[1] > 0)
        assert (clf.cv_scores_ == 1.0).all()

    @pytest.mark.filterwarnings("error:the best mean score")
    def test_nothing_is_said_of_a_grid_cut_short(self):
        alphas = [10.0, 1.0, 0.3, 0.1]
        clf = xl.LinearClassifierCV(alphas, cv=3, scoring="log_loss")
        clf.fit(*IRIS, callbacks=[lambda news: news.alpha <= 0.3])
        assert len(clf.alphas_) < 4

    @pytest.mark.filterwarnings("error:the best mean score")
    def test_a_warning_made_an_error_leaves_the_fit(self):
        clf = xl.LinearClassifierCV([10.0, 1.0, 0.3], cv=3, scoring="log_loss")
        with pytest.raises(UserWarning, match=RISING):
            clf.fit(*IRIS)
        assert clf.predict(IRIS[0]).shape == (150,)

    @pytest.mark.parametrize("rates", [None, [1e-2, 1e-3]])
    def test_an_automatic_grid_goes_on(self, rates):
        """The scores of a made-up scoring rise until the 22nd strength, and fall from there."""
        steps = []

        def scoring(y, Z):
            steps.append(len(steps) // (2 if rates is None else 4))
            return -abs(steps[-1] - 21.0)

        solver = "lbfgs" if rates is None else xl.solvers.SGD(max_iter=1)
        seen = []
        clf = xl.LinearClassifierCV(
            cv=2, scoring=scoring, learning_rates=rates, solver=solver, random_state=0
        ).fit(WINE, KINDS, callbacks=[seen.append])
        assert len(clf.alphas_) == 24
        assert clf.alpha_ == clf.alphas_[21]
        np.testing.assert_allclose(np.diff(np.log(clf.alphas_), 2), 0.0, atol=1e-9)
        assert clf.coefs_paths_.shape == (24, 3, 13)
        assert seen[-1].alpha == clf.alphas_[-1]
        assert seen[-1].models == 24 * 3 * (1 if rates is None else 2)
        assert clf.best_estimator_.alpha == clf.best_estimator_.alpha_ == clf.alpha_

    def test_and_stops_somewhere(self):
        steps = iter(range(1000))
        clf = xl.LinearClassifierCV(cv=2, scoring=lambda y, Z: float(next(steps)))
        with pytest.warns(UserWarning, match=RISING):
            clf.fit(WINE, KINDS)
        assert len(clf.alphas_) == 28
        clf = xl.LinearClassifierCV(6, cv=2, scoring=lambda y, Z: float(next(steps)))
        with pytest.warns(UserWarning, match=RISING):
            clf.fit(WINE, KINDS)
        assert len(clf.alphas_) == 6  # as many as were asked for

    def test_raw_wine(self):
        """Its best strength lies inside, where scikit-learn finds as good a score."""
        X, y = load_wine(return_X_y=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", ConvergenceWarning)
            clf = xl.LinearClassifierCV(cv=5).fit(X, y)
        assert 0 < clf.best_index_ < len(clf.alphas_) - 1
        assert clf.cv_scores_.mean(axis=1).max() > 0.95
