"""LinearClassifier as its users meet it: scikit-learn's contract, awkward input, bad input."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import xplinear as xl
from xplinear.losses import LOSSES
from xplinear.penalties import PENALTIES

rng = np.random.default_rng(0)
X = rng.standard_normal((150, 5))
Y = np.argmax(X[:, :3] + 0.1 * rng.gumbel(size=(150, 3)), axis=1)
BINARY = (Y == 1).astype(int)
NAMES = np.asarray(["cat", "dog", "frog"])
FEW_EPOCHS = pytest.param(xl.solvers.SGD(max_iter=50), id="sgd")  # by default 667 on few rows


def test_the_optimum_is_that_of_logistic_regression(backend):
    """C = 1 / (α n), for two classes as for three, coefficients and probabilities."""
    for labels in (Y, BINARY):
        clf = xl.LinearClassifier(solver=xl.solvers.GD(tol=1e-8, max_iter=5000), alpha=0.01)
        clf.fit(backend.asarray(X), labels)
        reference = LogisticRegression(C=1 / (0.01 * len(X)), tol=1e-10, max_iter=5000)
        reference.fit(X, labels)
        coef, intercept = backend.to_numpy(clf.coef_), backend.to_numpy(clf.intercept_)
        np.testing.assert_allclose(coef, reference.coef_, atol=1e-6)
        # Only differences of multinomial intercepts are determined.
        centred = (a - a.mean() if len(a) > 1 else a for a in (intercept, reference.intercept_))
        np.testing.assert_allclose(*centred, atol=1e-6)
        np.testing.assert_allclose(
            backend.to_numpy(clf.predict_proba(backend.asarray(X))),
            reference.predict_proba(X),
            atol=1e-6,
        )


def test_results_live_where_the_data_is(backend, dtype):
    rows = backend.asarray(X, dtype)
    clf = xl.LinearClassifier(random_state=0).fit(rows, backend.asarray(Y))
    for array in (clf.coef_, clf.intercept_, clf.decision_function(rows), clf.predict_proba(rows)):
        assert array.dtype == getattr(backend.xp, dtype)
        assert array.device == backend.backend.device
    assert clf.predict(rows).device == backend.backend.device
    assert clf.backend_.name == backend.backend.name
    assert type(clf.classes_) is np.ndarray
    np.testing.assert_array_equal(clf.classes_, [0, 1, 2])
    assert clf.score(rows, backend.asarray(Y)) > 0.8


def test_one_word_switches_the_backend(backend):
    """NumPy in, the computation elsewhere, NumPy out."""
    here = xl.LinearClassifier(random_state=0, backend="numpy").fit(X, NAMES[Y])
    there = xl.LinearClassifier(random_state=0, backend=backend.backend.name).fit(X, NAMES[Y])
    np.testing.assert_array_equal(here.predict(X), there.predict(X))
    np.testing.assert_allclose(here.predict_proba(X), there.predict_proba(X), atol=1e-12)
    assert isinstance(there.predict_proba(X), np.ndarray)
    with xl.use_backend(backend.backend.name):
        assert xl.LinearClassifier().fit(X, Y).backend_.name == backend.backend.name


def test_a_fitted_copy_moves(backend):
    clf = xl.LinearClassifier(random_state=0).fit(backend.asarray(X), NAMES[Y])
    served = clf.to("numpy")
    np.testing.assert_array_equal(served.predict(X), clf.predict(backend.asarray(X)))
    assert served.objective_ == clf.objective_
    assert clf.backend_.name == backend.backend.name
    assert served.to(backend.backend).backend_.name == backend.backend.name


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_loss_and_penalty_by_name(loss, penalty):
    for labels, k in ((Y, 3), (BINARY, 2)):
        clf = xl.LinearClassifier(loss, penalty=penalty, random_state=0).fit(X, labels)
        assert clf.coef_.shape == ((3, 5) if k == 3 else (1, 5))
        assert clf.intercept_.shape == ((3,) if k == 3 else (1,))
        assert clf.decision_function(X).shape == ((150, 3) if k == 3 else (150,))
        assert clf.objective_ > 0
        predicted = clf.decision_function(X)
        predicted = predicted.argmax(axis=1) if k == 3 else (predicted > 0).astype(int)
        np.testing.assert_array_equal(clf.predict(X), predicted)


def test_probabilities_only_where_the_loss_estimates_them():
    clf = xl.LinearClassifier("multiclass_hinge", random_state=0).fit(X, Y)
    assert not hasattr(clf, "predict_proba")
    with pytest.raises(AttributeError) as error:
        clf.predict_proba(X)
    assert "predict_proba needs loss='softmax'" in str(error.value.__cause__)
    clf = xl.LinearClassifier(random_state=0).fit(X, Y)
    np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1.0)
    np.testing.assert_allclose(np.exp(clf.predict_log_proba(X)), clf.predict_proba(X))


# A loss, a penalty and a solver of one's own, by passing an object.


@dataclass(frozen=True)
class CubicHinge:
    smooth = True
    shift_invariant = True
    probabilistic = False

    def curvature(self, k):
        return None

    def lipschitz(self, k):
        return None

    def value_and_grad(self, Z, y, *, xp=None):
        value, grad = xl.losses.MulticlassHingeLoss().value_and_grad(Z, y, xp=xp)
        return value**3, 3.0 * value[..., None] ** 2 * grad


@dataclass(frozen=True)
class NonNegative:
    smooth = False

    def value(self, W, *, xp=None):
        return xl.penalties.NoPenalty().value(W, xp=xp)

    def grad(self, W, *, xp=None):
        return xp.zeros_like(W)

    def prox(self, W, step, *, xp=None):
        return xp.where(W > 0, W, 0.0)


@dataclass(frozen=True)
class HalfSteps:
    inner: xl.solvers.GD = field(default_factory=xl.solvers.GD)

    def iterations(self, n):
        return 30

    def init(self, objective, params):
        state = self.inner.init(objective, params)
        report = state.report
        return state._replace(report=report._replace(step_size=0.5 * report.step_size))

    def step(self, objective, state):
        return self.inner.step(objective, state)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_own_loss_penalty_and_solver(backend):
    rows = backend.asarray(X)
    for settings in ({"loss": CubicHinge()}, {"solver": HalfSteps()}, {"penalty": NonNegative()}):
        clf = xl.LinearClassifier(**settings, max_iter=50, random_state=0).fit(rows, Y)
        assert clf.score(rows, Y) > 0.8
    assert (backend.to_numpy(clf.coef_) >= 0).all()


# Awkward but valid.


@pytest.mark.parametrize("solver", ["gd", "sgd"])
def test_more_classes_than_a_batch_can_hold(solver):
    X = rng.standard_normal((3000, 20)).astype(np.float32)
    y = np.arange(3000) % 1000
    clf = xl.LinearClassifier(solver=solver, max_iter=3, random_state=0, tol=1e6).fit(X, y)
    assert clf.coef_.shape == (1000, 20)
    assert clf.objective_ < np.log(1000)


@pytest.mark.parametrize("solver", ["gd", FEW_EPOCHS])
def test_fewer_rows_than_a_batch(backend, solver):
    clf = xl.LinearClassifier(solver=solver, random_state=0)
    rows = backend.asarray([[0.0, 1.0], [1.0, 0.0], [2.0, 0.5]])
    assert clf.fit(rows, ["a", "b", "b"]).score(rows, ["a", "b", "b"]) == 1.0


@pytest.mark.parametrize("solver", ["gd", FEW_EPOCHS])
@pytest.mark.parametrize("constant", [0.0, 1.0, 1e6])
def test_a_constant_column_changes_nothing(library, dtype, solver, constant):
    wide = np.c_[X, np.full(len(X), constant)]
    clf = xl.LinearClassifier(solver=solver, random_state=0)
    plain = library.to_numpy(clf.fit(library.asarray(X, dtype), Y).coef_)
    coef = library.to_numpy(clf.fit(library.asarray(wide, dtype), Y).coef_)
    assert not coef[:, 5].any()
    tolerance = 1e-9 if dtype == "float64" else 0.05
    np.testing.assert_allclose(coef[:, :5], plain, atol=tolerance)


@pytest.mark.parametrize("solver", ["gd", FEW_EPOCHS])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_columns_from_1e_6_to_1e6(library, solver):
    scaled = X * np.logspace(-6, 6, 5)
    clf = xl.LinearClassifier(solver=solver, penalty="none", random_state=0)
    plain = clf.fit(library.asarray(X), Y).score(library.asarray(X), Y)
    assert abs(clf.fit(library.asarray(scaled), Y).score(library.asarray(scaled), Y) - plain) < 0.02


@pytest.mark.parametrize("solver", ["gd", FEW_EPOCHS])
def test_rows_of_weight_zero_do_not_count(library, solver):
    outliers = np.concatenate([X, 1e3 * rng.standard_normal((50, 5))])
    labels = np.concatenate([Y, rng.integers(0, 3, 50)])
    weights = np.r_[np.ones(150), np.zeros(50)]
    clf = xl.LinearClassifier(solver=solver, random_state=0)
    clf.fit(library.asarray(outliers), labels, library.asarray(weights))
    alone = xl.LinearClassifier(solver="gd", random_state=0).fit(X, Y)
    coef = library.to_numpy(clf.coef_)
    if solver == "gd":
        np.testing.assert_allclose(coef, alone.coef_, atol=1e-6)
    assert clf.score(library.asarray(X), Y) >= alone.score(X, Y) - 0.02


def test_weights_equal_repeated_rows():
    weights = rng.integers(0, 4, 150)
    clf = xl.LinearClassifier(solver="gd")
    weighted = clf.fit(X, Y, weights).coef_
    repeated = clf.fit(np.repeat(X, weights, axis=0), np.repeat(Y, weights)).coef_
    np.testing.assert_allclose(weighted, repeated, atol=1e-6)


def test_any_memory_layout():
    expected = xl.LinearClassifier(random_state=0).fit(X, Y).coef_
    padded = np.zeros((300, 10))
    padded[::2, ::2] = X
    read_only = X.copy()
    read_only.flags.writeable = False
    for layout in (np.asfortranarray(X), padded[::2, ::2], X[::-1][::-1], read_only, X.tolist()):
        got = xl.LinearClassifier(random_state=0).fit(layout, Y).coef_
        np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("stored", ["uint8", "int16", "int64", "float16", "bool"])
def test_stored_dtypes_are_converted_block_by_block(stored):
    small = np.round(10 * np.abs(X)).astype(stored)
    clf = xl.LinearClassifier(random_state=0).fit(small, Y)
    wide = stored == "int64"
    assert clf.coef_.dtype == (np.float64 if wide else np.float32)
    expected = xl.LinearClassifier(random_state=0).fit(small.astype(clf.coef_.dtype), Y)
    np.testing.assert_allclose(clf.coef_, expected.coef_, rtol=1e-6)
    np.testing.assert_array_equal(clf.predict(small), expected.predict(small.astype(float)))


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_bfloat16_rows_stay_as_they_are():
    import torch

    rows = torch.asarray(X, dtype=torch.bfloat16)
    clf = xl.LinearClassifier(random_state=0).fit(rows, Y)
    assert clf.coef_.dtype == torch.float32
    assert clf.score(rows, Y) > 0.8


@pytest.mark.parametrize(
    "labels",
    [
        NAMES[Y],
        NAMES[Y].astype(object),
        np.asarray([-7, 0, 12])[Y],
        np.asarray([0.5, 1.5, 2.5])[Y] * 2,
        NAMES[Y].tolist(),
    ],
)
def test_labels_of_any_type(backend, labels):
    rows = backend.asarray(X)
    clf = xl.LinearClassifier(random_state=0).fit(rows, labels)
    predicted = clf.predict(rows)
    if not isinstance(predicted, np.ndarray):
        predicted = backend.to_numpy(predicted)
    assert set(np.unique(predicted)) <= set(np.unique(labels))
    assert clf.score(rows, labels) == np.mean(predicted == np.asarray(labels))


@pytest.mark.parametrize("labels", [[0, 1, 2], [0.0, 1.0, 2.0], [np.int64(7), 8, 9.0]])
def test_numbers_in_an_array_of_objects(labels):
    objects = np.asarray(labels, dtype=object)[Y]
    clf = xl.LinearClassifier(random_state=0).fit(X, objects)
    assert clf.classes_.tolist() == labels
    assert clf.classes_.dtype == np.asarray(labels).dtype
    assert clf.score(X, objects) == np.mean(clf.predict(X) == objects)


def test_boolean_labels():
    clf = xl.LinearClassifier().fit(X, BINARY.astype(bool))
    assert clf.predict(X).dtype == bool


def test_class_weights():
    plain = xl.LinearClassifier(solver="gd").fit(X, BINARY)
    balanced = xl.LinearClassifier(solver="gd", class_weight="balanced").fit(X, BINARY)
    counts = np.bincount(BINARY)
    by_hand = {c: len(X) / (2 * counts[c]) for c in (0, 1)}
    explicit = xl.LinearClassifier(solver="gd", class_weight=by_hand).fit(X, BINARY)
    np.testing.assert_allclose(balanced.coef_, explicit.coef_)
    assert balanced.predict(X).sum() > plain.predict(X).sum()


# Training options.


def test_early_stopping_keeps_the_best_and_holds_out_a_part(backend):
    digits, target = load_digits(return_X_y=True)
    clf = xl.LinearClassifier(early_stopping=True, max_iter=60, n_iter_no_change=3, random_state=0)
    clf.fit(backend.asarray(digits[:600]), target[:600])
    scores = clf.history_["validation_score"]
    assert not np.isnan(scores).any()
    assert clf.n_iter_ < 60
    assert scores.max() > 0.85


def test_warm_start_goes_on():
    clf = xl.LinearClassifier(solver="gd", max_iter=30, warm_start=True, tol=1e-9)
    with pytest.warns(ConvergenceWarning):
        first = clf.fit(X, Y).objective_
    with pytest.warns(ConvergenceWarning):
        assert clf.fit(X, Y).objective_ < first
    with pytest.raises(ValueError, match="warm_start needs the features and classes of the last"):
        clf.fit(X[:, :3], Y)
    assert clf.n_features_in_ == 5


def test_warm_start_knows_the_features_by_their_names():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcde"))
    clf = xl.LinearClassifier(warm_start=True).fit(table, Y)
    with pytest.raises(ValueError, match="the features and classes of the last fit: 5 features a"):
        clf.fit(table[list("bacde")], Y)
    clf.fit(table, Y).fit(X, Y).fit(table, Y)


def test_partial_fit_learns_a_stream(backend):
    clf = xl.LinearClassifier(random_state=0)
    for start in range(0, 150, 30):
        rows = slice(start, start + 30)
        clf.partial_fit(backend.asarray(X[rows]), NAMES[Y[rows]], classes=NAMES)
    for _ in range(20):
        clf.partial_fit(backend.asarray(X), NAMES[Y])
    assert clf.score(backend.asarray(X), NAMES[Y]) > 0.85
    assert clf.n_iter_ == len(clf.history_["loss"]) == 25
    assert np.all(np.diff(clf.history_["seconds"]) > 0)


def test_partial_fit_of_single_rows_of_every_scale():
    # Without a penalty, which small columns would feel more: their weights are large.
    clf = xl.LinearClassifier(penalty="none", random_state=0)
    for i in range(150):
        clf.partial_fit(X[i : i + 1] * np.logspace(-3, 3, 5), Y[i : i + 1], classes=[0, 1, 2])
    assert clf.score(X * np.logspace(-3, 3, 5), Y) > 0.7


def test_a_fixed_seed_repeats_and_seeds_differ():
    fits = [
        xl.LinearClassifier(solver="sgd", random_state=seed).fit(X, Y).coef_ for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert np.abs(fits[0] - fits[2]).max() > 0
    state = np.random.RandomState(0)
    assert xl.LinearClassifier(solver="sgd", random_state=state).fit(X, Y).coef_.shape == (3, 5)


@pytest.mark.parametrize("dtype_given", ["float32", "float64"])
def test_an_explicit_dtype(backend, dtype_given):
    clf = xl.LinearClassifier(dtype=dtype_given).fit(backend.asarray(X, "float32"), Y)
    assert clf.coef_.dtype == getattr(backend.xp, dtype_given)


def test_accelerate_can_be_switched_off(monkeypatch):
    fits = [xl.LinearClassifier(random_state=0, accelerate=a).fit(X, Y) for a in (True, False)]
    np.testing.assert_allclose(fits[0].coef_, fits[1].coef_, rtol=1e-9)
    monkeypatch.setenv("XPLINEAR_ACCELERATE", "0")
    off = xl.LinearClassifier(random_state=0).fit(X, Y)
    np.testing.assert_array_equal(off.coef_, fits[1].coef_)


def test_verbose_prints_a_line_per_iteration(capsys):
    xl.LinearClassifier(solver="sgd", max_iter=2, verbose=1, random_state=0).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["iteration 1/2", "iteration 2/2"]
    assert lines[-1].endswith(" s, time left up to 0:00:00")


@pytest.mark.parametrize(
    ("library", "table"), [("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "table")]
)
def test_history_as_a_table(library, table):
    library = pytest.importorskip(library)
    clf = xl.LinearClassifier(solver="sgd", max_iter=3, early_stopping=True).fit(X, Y)
    clf.partial_fit(X, Y).partial_fit(X, Y)
    for history in (clf.history_, xl.LinearClassifier().fit(X, Y).history_):
        rows = getattr(library, table)(history)
        columns = ["loss", "penalty", "validation_score", "step_size", "seconds"]
        assert rows.shape == (len(history["loss"]), 5)
        assert [np.asarray(rows[name]).tolist() for name in columns[:2]] == [
            history[name].tolist() for name in columns[:2]
        ]
        assert set(columns) == set(history)


def test_callbacks_see_progress():
    seen = []
    xl.LinearClassifier(solver="sgd", max_iter=3, random_state=0).fit(X, Y, callbacks=[seen.append])
    assert [progress.iteration for progress in seen] == [1, 2, 3]


def test_clone_pickle_and_repr():
    clf = xl.LinearClassifier(xl.losses.MulticlassHingeLoss(2.0), alpha=0.1, random_state=0)
    assert clone(clf).get_params()["loss"] == xl.losses.MulticlassHingeLoss(2.0)
    again = pickle.loads(pickle.dumps(clf.fit(X, Y)))
    np.testing.assert_array_equal(again.predict(X), clf.predict(X))
    assert "alpha=0.1" in repr(clf)


def test_digits_on_a_held_out_quarter():
    digits, target = load_digits(return_X_y=True)
    parts = train_test_split(digits, target, stratify=target, test_size=0.25, random_state=0)
    train, test, train_target, test_target = parts
    clf = xl.LinearClassifier(random_state=0).fit(train, train_target)
    assert clf.score(test, test_target) >= 0.95


# Bad input: each has an error of its own, and nothing fitted is lost.

BAD_DATA = {
    "NaN in X": (np.where(np.arange(5) == 2, np.nan, X), Y, None, "Input X contains NaN"),
    "infinity in X": (np.where(np.arange(5) == 2, np.inf, X), Y, None, "Input X contains infinity"),
    "NaN in y": (X, np.where(Y == 0, np.nan, Y), None, "Input y contains NaN"),
    "NaN in weights": (X, Y, np.full(150, np.nan), "sample_weight contains NaN"),
    "n mismatch": (X, Y[:-1], None, r"inconsistent numbers of samples: \[150, 149\]"),
    "weights mismatch": (X, Y, np.ones(3), r"sample_weight.shape == \(3,\), expected \(150,\)"),
    "2-d weights": (X, Y, np.ones((150, 2)), "sample_weight must be 1d"),
    "one class": (X, np.zeros(150, int), None, r"y has one class only, 0; a"),
    "one name": (X, ["red"] * 150, None, r"y has one class only, 'red'; a"),
    "bytes": (X, np.asarray([b"a", b"b", b"c"])[Y], None, r"bytes; make them strings: \[label.dec"),
    "bytes as objects": (
        X,
        np.asarray([b"a", b"b", b"c"], object)[Y],
        None,
        "labels of type bytes",
    ),
    "negative weights": (X, Y, -np.ones(150), "negative values; use 0 to leave a row out"),
    "zero weights": (X, Y, np.zeros(150), "zero everywhere; at least one row must count"),
    "empty X": (X[:0], Y[:0], None, "0 sample|empty|one class|minimum of 1"),
    "no features": (X[:, :0], Y, None, r"0 feature\(s\)"),
    "1-d X": (X[:, 0], Y, None, "Expected 2D array"),
    "object array": (np.full((150, 5), object()), Y, None, "float.. argument must be|must be a"),
    "words in X": (np.full((150, 5), "red"), Y, None, "could not convert string|numeric"),
    "no y": (X, None, None, "requires y to be passed"),
    "2-d y": (X, np.c_[Y, Y], None, "y should be a 1d array"),
    "continuous y": (X, X[:, 0], None, "Unknown label type: continuous"),
    "mixed y": (X, np.asarray(["a", 1, 2.0] * 50, dtype=object), None, "cannot be sorted|mix"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_named_and_nothing_is_lost(case):
    rows, labels, weights, message = BAD_DATA[case]
    clf = xl.LinearClassifier(random_state=0).fit(X, Y)
    before = clf.predict_proba(X)
    with pytest.raises((ValueError, TypeError), match=message):
        clf.fit(rows, labels, weights)
    np.testing.assert_array_equal(clf.predict_proba(X), before)
    assert clf.n_features_in_ == 5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.where(np.arange(5) == 2, np.nan, X), "X contains NaN"),
        (X[:0], "0 sample"),
        (X[:, 0], "Expected 2D array|X must have two axes"),
    ],
)
def test_bad_device_arrays_are_named(backend, rows, message):
    with pytest.raises(ValueError, match=message):
        xl.LinearClassifier().fit(backend.asarray(rows), Y[: len(rows)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge"}, r"loss must be one of softmax, multiclass_hinge.* got 'hinge'"),
        ({"penalty": "l3"}, r"penalty must be one of none, l2, l1, elastic_net, .* got 'l3'"),
        (
            {"solver": "adam"},
            r"solver must be 'auto', one of gd, interior_point, lbfgs, newton, .* got 'adam'",
        ),
        ({"backend": "numppy"}, "unknown backend 'numppy'"),
        ({"alpha": -1.0}, "alpha must be a finite number of at least 0 or None, got -1.0"),
        ({"alpha": np.nan}, "alpha must be a finite number"),
        ({"alpha": "big"}, "alpha must be a finite number of at least 0 or None, got 'big'"),
        ({"tol": -1}, "tol must be"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1 or None, got 0"),
        ({"max_iter": 0}, "max_iter must be"),
        (
            {"penalty": "elastic_net", "l1_ratio": 2},
            r"l1_ratio must be a number in \[0, 1\], got 2",
        ),
        ({"dtype": "float16"}, "dtype must be 'float32', 'float64' or None, got 'float16'"),
        ({"class_weight": "even"}, "class_weight must be a dict, 'balanced' or None"),
        ({"class_weight": {9: 1.0}}, r"class_weight names \[9\], which are not in y"),
        (
            {"class_weight": {0: -1.0}},
            "each class_weight must be a finite number of at least 0, got -1",
        ),
        (
            {"early_stopping": True, "validation_fraction": 1.0},
            r"validation_fraction must be a number in \(0, 1\)",
        ),
        (
            {"solver": "sgd", "learning_rate": 0.0},
            "learning_rate must be 'auto' or a finite number of more than 0",
        ),
    ],
)
def test_bad_parameters_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        xl.LinearClassifier(**settings).fit(X, Y)


def test_partial_fit_goes_on_with_classes_in_any_order():
    start = xl.Params(np.zeros((5, 1, 1)), np.zeros((1, 1)))
    y = NAMES[BINARY]
    one, two = (
        xl.LinearClassifier.from_params(start, classes, random_state=0)
        for classes in (["dog", "cat"], ["cat", "dog"])
    )
    one.partial_fit(X, y).partial_fit(X, y, classes=["cat", "dog"])
    two.partial_fit(X, y).partial_fit(X, y)
    assert one.classes_.tolist() == ["dog", "cat"]
    np.testing.assert_allclose(one.coef_, -two.coef_, rtol=1e-12)
    assert one.score(X, y) == two.score(X, y) > 0.8


def test_partial_fit_errors():
    clf = xl.LinearClassifier(random_state=0)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        clf.partial_fit(X, Y)
    clf.partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"labels that are not in classes: \[7\]"):
        clf.partial_fit(X, np.where(Y == 0, 7, Y))
    with pytest.raises(ValueError, match="differ from those of the first call"):
        clf.partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match="X has 3 features, but LinearClassifier is expecting 5"):
        clf.partial_fit(X[:, :3], Y)
    with pytest.raises(ValueError, match="'balanced' needs all rows at once"):
        xl.LinearClassifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="partial_fit needs solver='sgd'"):
        xl.LinearClassifier(solver="gd").partial_fit(X, Y, classes=[0, 1, 2])


def test_predicting_with_the_wrong_columns(backend):
    clf = xl.LinearClassifier().fit(backend.asarray(X), Y)
    with pytest.raises(ValueError, match="X has 3 features, but LinearClassifier is expecting 5"):
        clf.predict(backend.asarray(X[:, :3]))


def test_predicting_from_another_backend_names_the_remedy(backend):
    if backend.backend.name == "numpy":
        pytest.skip("NumPy is at home")
    clf = xl.LinearClassifier().fit(backend.asarray(X), Y)
    with pytest.raises(ValueError, match=r"X is on numpy, the model on .*; clf.to\('numpy'\)"):
        clf.predict(X)
    here = xl.LinearClassifier().fit(X, Y)
    with pytest.raises(ValueError, match=r"the model on numpy; clf.to\('"):
        here.predict(backend.asarray(X))


def test_predicting_before_fitting():
    for method in ("predict", "decision_function", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(xl.LinearClassifier(), method)(X)


def test_an_unconverged_gd_warns():
    with pytest.warns(ConvergenceWarning, match="stopped after max_iter=2 iterations before tol"):
        xl.LinearClassifier(solver="gd", max_iter=2).fit(X, Y)


def test_lbfgs_warns_when_only_rounding_stopped_it():
    X, y = load_digits(return_X_y=True)
    clf = xl.LinearClassifier(solver="lbfgs", tol=1e-12, dtype="float32")
    with pytest.warns(ConvergenceWarning, match=r"float32 floor: .* use dtype='float64'"):
        clf.fit(X, y)
    assert clf.score(X, y) > 0.99
