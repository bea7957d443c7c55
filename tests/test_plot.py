"""Pictures: what is drawn, where, and what is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.svm import SVC

import xplinear as xl
from xplinear.backends import BACKENDS
from xplinear.bench import Ceilings, Cell, Measurement
from xplinear.gradients import GradientCheck
from xplinear.plot import (
    ClassTemplatesDisplay,
    CoefficientPathDisplay,
    GradientCheckDisplay,
    LossCurveDisplay,
    ThroughputDisplay,
    ValidationCurveDisplay,
)

rng = np.random.default_rng(0)
X = rng.standard_normal((90, 6))
Y = np.asarray(["bad", "fair", "good"])[np.argmax(X[:, :3], axis=1)]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clf():
    return xl.LinearClassifier(alpha=0.1).fit(X, Y)


@pytest.fixture(scope="module")
def search():
    return xl.LinearClassifierCV([1.0, 0.1, 0.01], cv=3, penalty="l1").fit(X, Y)


def test_drawn_in_given_axes_or_in_a_figure_of_their_own(clf, search):
    check = xl.check_gradient(lambda w: np.sum(w**2), X, grad=2.0 * X)
    for display in (
        LossCurveDisplay.from_estimator(clf),
        ValidationCurveDisplay.from_estimator(search),
        CoefficientPathDisplay.from_estimator(search),
        ClassTemplatesDisplay.from_estimator(clf, (2, 3)),
        GradientCheckDisplay({"square": check}).plot(),
    ):
        own = display.figure_
        assert own is display.ax_.figure
        figure, axes = plt.subplots(1, 2)
        assert display.plot(ax=axes[1]) is display
        assert display.ax_ is axes[1]
        assert display.figure_ is figure is not own


def test_what_cross_validation_chose_is_drawn_too(search):
    objective = LossCurveDisplay.from_estimator(search).ax_.lines[0].get_ydata()
    np.testing.assert_array_equal(objective, search.history_["loss"] + search.history_["penalty"])
    assert len(ClassTemplatesDisplay.from_estimator(search, (2, 3)).ax_.texts) == 3


def templates(clf):
    return ClassTemplatesDisplay.from_estimator(clf, (2, 3))


OF_A_CLASSIFIER = LossCurveDisplay.from_estimator, templates
OF_A_SEARCH = ValidationCurveDisplay.from_estimator, CoefficientPathDisplay.from_estimator


class TestRefused:
    def test_unfitted(self):
        for draw in (*OF_A_CLASSIFIER, *OF_A_SEARCH):
            with pytest.raises(NotFittedError):
                draw(xl.LinearClassifierCV())
        with pytest.raises(NotFittedError):
            LossCurveDisplay.from_estimator(xl.LinearClassifier())

    @pytest.mark.parametrize("draw", OF_A_SEARCH)
    def test_one_classifier_has_no_path(self, draw, clf):
        with pytest.raises(TypeError, match=r"LinearClassifierCV, got LinearClassifier$"):
            draw(clf)

    @pytest.mark.parametrize("draw", [*OF_A_CLASSIFIER, *OF_A_SEARCH])
    def test_of_another_library(self, draw):
        with pytest.raises(TypeError, match=r"clf must be a fitted LinearC.*, got SVC"):
            draw(SVC().fit(X, Y))

    def test_without_a_refit(self):
        clf = xl.LinearClassifierCV([1.0, 0.1], cv=2, refit=False).fit(X, Y)
        for draw in (*OF_A_CLASSIFIER, CoefficientPathDisplay.from_estimator):
            with pytest.raises(ValueError, match="set refit=True"):
                draw(clf)
        assert ValidationCurveDisplay.from_estimator(clf).chosen == clf.alpha_

    def test_no_history(self, clf):
        given = xl.LinearClassifier.from_params(clf.params_, clf.classes_)
        with pytest.raises(ValueError, match="clf has no history_"):
            LossCurveDisplay.from_estimator(given)

    def test_names_of_something_else(self, clf, search):
        with pytest.raises(ValueError, match=r"display_labels .* each of 3 templates, got 2"):
            ClassTemplatesDisplay.from_estimator(clf, (2, 3), display_labels="ab")
        with pytest.raises(ValueError, match=r"display_labels .* each of 3 templates, got 4"):
            ClassTemplatesDisplay.from_estimator(clf, (2, 3), display_labels="abcd")
        with pytest.raises(ValueError, match=r"feature_names .* each of 6 features, got 5"):
            CoefficientPathDisplay.from_estimator(search, feature_names="abcde")


LONG = "a name that is longer than what any picture would have room for in a single line"


@pytest.mark.parametrize(
    "display",
    [
        LossCurveDisplay({"loss": np.ones(1), "validation_score": np.ones(1)}),
        LossCurveDisplay({"loss": np.ones(9), "penalty": np.full(9, np.nan)}, LONG * 3),
        ValidationCurveDisplay([1.0, 0.1], np.eye(2), 0.1, title=LONG * 3),
        ClassTemplatesDisplay(np.full((3, 6), np.nan), (3, 2), [LONG] * 3, LONG * 3),
        ValidationCurveDisplay([0.01], np.asarray([[0.5, 0.6]]), 0.01, "balanced_accuracy"),
        CoefficientPathDisplay([0.01], np.ones((1, 3)), 0.01, [LONG] * 3, LONG),
        ClassTemplatesDisplay(np.ones((1, 6)), (1, 6), [LONG]),
        ClassTemplatesDisplay(np.ones((26, 6)), (3, 2), [LONG] * 26),
        ClassTemplatesDisplay(np.ones((10, 64)), (64, 1), list("0123456789")),
        ClassTemplatesDisplay(np.ones((10, 12)), (2, 2, 3), [LONG] * 10),
        GradientCheckDisplay(
            {
                LONG: GradientCheck(np.nan, "W", (3, 0, 1), 0.25, 0.25, 30, 2, 6e-6),
                "a $^$": xl.check_gradient(lambda w: np.sum(w**2), X, grad=2.0 * X),
            }
        ),
    ],
    ids=lambda display: type(display).__name__,
)
@pytest.mark.filterwarnings("error")
def test_nothing_is_clipped(display):
    figure = display.plot().figure_
    figure.draw_without_rendering()
    (left, bottom), (right, top) = figure.get_tightbbox().get_points()
    width, height = figure.get_size_inches()
    assert -0.02 < left < right < width + 0.02
    assert -0.02 < bottom < top < height + 0.02


def test_arrays_of_every_library(backend):
    clf = xl.LinearClassifierCV([1.0, 0.1], cv=2).fit(backend.asarray(X), Y)
    path = CoefficientPathDisplay.from_estimator(clf, label="good").coefs
    np.testing.assert_array_equal(path, backend.to_numpy(clf.coefs_paths_)[:, 2, :])
    coef = ClassTemplatesDisplay.from_estimator(clf, (3, 2)).coef
    np.testing.assert_array_equal(coef, backend.to_numpy(clf.coef_))


class TestLossCurve:
    def test_loss_and_validation_accuracy(self):
        history = {
            "loss": np.asarray([2.0, 0.9, 0.1]),
            "validation_score": np.asarray([0.5, 0.8, 0.9]),
        }
        ax = LossCurveDisplay(history).plot().ax_
        right = next(other for other in ax.figure.axes if other is not ax)
        assert ax.lines[0].get_xydata().tolist() == [[1, 2.0], [2, 0.9], [3, 0.1]]
        assert right.lines[0].get_ydata().tolist() == [0.5, 0.8, 0.9]
        assert ax.lines[0].get_linestyle() != right.lines[0].get_linestyle()
        assert ax.get_yscale() == "log"

    def test_the_objective_falls_where_the_loss_rises(self):
        history = {"loss": np.asarray([1.0, 1.1, 1.2]), "penalty": np.asarray([0.9, 0.5, 0.3])}
        ax = LossCurveDisplay(history).plot().ax_
        objective, loss = ax.lines
        np.testing.assert_allclose(objective.get_ydata(), [1.9, 1.6, 1.5])
        assert loss.get_ydata().tolist() == [1.0, 1.1, 1.2]
        assert objective.get_linestyle() != loss.get_linestyle()
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == ["objective: loss + penalty", "loss"]

    def test_title_and_unit_of_a_fit(self, clf, search):
        fits = {
            "softmax + 0.1 · l2, newton": clf,
            "d.csv: softmax, no penalty, sgd": xl.LinearClassifier(penalty=None, solver="sgd"),
            "SoftmaxLoss + 0.5 · L1Penalty, proximal_lbfgs": xl.LinearClassifier(
                xl.losses.SoftmaxLoss(), penalty=xl.penalties.L1Penalty(), alpha=0.5
            ),
        }
        for title, fit in fits.items():
            data, epochs = title.split(": ")[0] * (":" in title), title.endswith("sgd")
            ax = LossCurveDisplay.from_estimator(fit.fit(X, Y), data=data).ax_
            assert (ax.get_title(), ax.get_xlabel()) == (title, "epoch" if epochs else "iteration")
        ax = ValidationCurveDisplay.from_estimator(search, data="d.csv").ax_
        assert ax.get_title() == "d.csv: softmax + α · l1, proximal_lbfgs"

    def test_without_validation(self):
        history = {"loss": np.asarray([0.0, -1.0]), "validation_score": np.full(2, np.nan)}
        display = LossCurveDisplay(history).plot()
        assert display.figure_.axes == [display.ax_]
        assert display.ax_.get_yscale() == "linear"

    def test_whole_iterations(self):
        for n in (1, 2, 40):
            ax = LossCurveDisplay({"loss": np.linspace(2.0, 1.0, n)}).plot().ax_
            low, high = ax.get_xlim()
            assert low < 1 <= n < high
            ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
            assert ticks
            assert all(tick == round(tick) for tick in ticks)

    def test_nothing_to_draw(self):
        with pytest.raises(ValueError, match="no iterations"):
            LossCurveDisplay({"loss": np.zeros(0)}).plot()


class TestValidationCurve:
    def test_means_errors_and_the_chosen(self):
        scores = np.asarray([[0.5, 0.7], [0.8, 0.8]])
        ax = ValidationCurveDisplay([1.0, 0.1], scores, 0.1, scoring="log_loss").plot().ax_
        chosen, mean = ax.lines[:2]
        assert mean.get_xydata().tolist() == [[1.0, 0.6], [0.1, 0.8]]
        bars = ax.collections[0].get_segments()
        np.testing.assert_allclose(bars[0][:, 1], [0.5, 0.7])
        assert ax.get_xscale() == "log"
        assert chosen.get_xdata() == [0.1, 0.1]
        assert chosen.get_zorder() < ax.collections[0].get_zorder()  # the error bar stays visible
        assert ax.get_ylabel() == "negative log loss of 2 folds"

    def test_one_fold(self):
        ax = ValidationCurveDisplay([1.0, 0.1], np.asarray([[0.5], [0.6]])).plot().ax_
        assert ax.lines[0].get_ydata().tolist() == [0.5, 0.6]
        assert not ax.collections

    def test_best_learning_rate_of_each_strength(self):
        scores = np.asarray([[[0.1, 0.3], [0.5, 0.7]], [[0.8, 0.8], [0.2, 0.2]]])
        ax = ValidationCurveDisplay([1.0, 0.1], scores).plot().ax_
        assert ax.lines[0].get_ydata().tolist() == [0.6, 0.8]
        scores[0, 0] = np.nan
        ax = ValidationCurveDisplay([1.0, 0.1], scores).plot().ax_
        assert ax.lines[0].get_ydata().tolist() == [0.6, 0.8]

    def test_of_an_estimator(self, search):
        display = ValidationCurveDisplay.from_estimator(search)
        assert (display.chosen, display.scoring) == (search.alpha_, "accuracy")
        scoring = xl.LinearClassifierCV([1.0], cv=2, scoring=lambda y, Z: 0.5).fit(X, Y)
        assert ValidationCurveDisplay.from_estimator(scoring).scoring == "score"


class TestCoefficientPath:
    def test_the_largest_are_named(self):
        coefs = np.asarray([[0.1, 0.0, 0.0], [-9.0, 1.0, 0.5]])
        ax = CoefficientPathDisplay([1.0, 0.1], coefs, label="good").plot().ax_
        assert [line.get_label() for line in ax.lines] == ["feature 0", "feature 1", "feature 2"]
        assert ax.lines[0].get_xydata().tolist() == [[1.0, 0.1], [0.1, -9.0]]
        assert ax.get_title() == "class good"

    def test_the_others_are_grey(self):
        coefs = np.asarray([np.zeros(8), np.arange(8.0)])
        ax = CoefficientPathDisplay([1.0, 0.1], coefs, 0.1, list("abcdefgh")).plot().ax_
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == ["chosen: α = 0.1", "h", "g", "f", "e", "d"]
        assert len(ax.lines) == 9
        styles = [(line.get_color(), line._dash_pattern) for line in ax.lines[-5:]]
        assert len({str(dash) for _, dash in styles}) == len({c for c, _ in styles}) == 5

    def test_zeros_are_not_named(self):
        coefs = np.asarray([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        ax = CoefficientPathDisplay([1.0, 0.1], coefs, 0.1).plot().ax_
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == ["chosen: α = 0.1", "feature 1"]

    def test_any_name_is_written_as_it_is(self):
        names = ["_private", "$ per $^"]
        display = CoefficientPathDisplay([1.0, 0.1], np.ones((2, 2)), None, names, "$^$").plot()
        display.figure_.draw_without_rendering()
        assert [t.get_text() for t in display.ax_.get_legend().get_texts()] == names

    def test_one_strength(self):
        ax = CoefficientPathDisplay([0.1], np.ones((1, 7)), 0.1).plot().ax_
        assert {line.get_marker() for line in ax.lines if line.get_linestyle() != "--"} >= {"o"}
        low, high = ax.get_xlim()
        assert (low, high) == pytest.approx((0.05, 0.2))

    def test_of_an_estimator(self, search):
        display = CoefficientPathDisplay.from_estimator(search, label="fair")
        np.testing.assert_array_equal(display.coefs, search.coefs_paths_[:, 1, :])
        assert CoefficientPathDisplay.from_estimator(search).label == "bad"
        with pytest.raises(ValueError, match="label must be one of bad, fair, good, got 'best'"):
            CoefficientPathDisplay.from_estimator(search, label="best")

    def test_of_two_classes(self):
        two = xl.LinearClassifierCV([1.0, 0.1], cv=2).fit(X, Y == "good")
        display = CoefficientPathDisplay.from_estimator(two)
        np.testing.assert_array_equal(display.coefs, two.coefs_paths_[:, 0, :])
        assert display.label == "True"

    def test_feature_names_of_a_table(self):
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame(X, columns=list("uvwxyz"))
        names = xl.LinearClassifierCV([1.0, 0.1], cv=2).fit(table, Y)
        assert list(CoefficientPathDisplay.from_estimator(names).feature_names) == list("uvwxyz")


class TestClassTemplates:
    def test_every_template_at_its_place(self):
        coef = np.arange(24.0).reshape(6, 4)
        display = ClassTemplatesDisplay(coef, (2, 2), list("abcdef")).plot()
        (image,) = display.ax_.images
        wall = np.asarray(image.get_array())
        assert wall.shape == (6, 11)  # two rows of title and template; four templates, three gaps
        assert wall[1:3, :2].tolist() == [[0, 1], [2, 3]]
        assert wall[1:3, 3:5].tolist() == [[4, 5], [6, 7]]
        assert wall[4:6, :2].tolist() == [[16, 17], [18, 19]]
        assert image.get_clim() == (-23, 23)
        assert [text.get_text() for text in display.ax_.texts] == list("abcdef")

    def test_colours(self):
        coef = np.zeros((1, 12))
        coef[0, :3] = [2.0, -2.0, 0.0]
        ax = ClassTemplatesDisplay(coef, (2, 2, 3), ["a"]).plot().ax_
        (image,) = ax.images
        assert "full is 2, none is −2" in ax.texts[-1].get_text()
        assert image.get_array()[1, 0].tolist() == [1.0, 0.0, 0.5]
        assert image.get_array()[2, 1].tolist() == [0.5, 0.5, 0.5]

    def test_labels(self, clf):
        display = ClassTemplatesDisplay.from_estimator(clf, (2, 3), display_labels=list("abc"))
        assert display.display_labels == ["a", "b", "c"]
        two = xl.LinearClassifier().fit(X, Y == "good")
        assert ClassTemplatesDisplay.from_estimator(two, (2, 3)).display_labels == ["True"]

    def test_shape_of_something_else(self, clf):
        for shape in ((2, 2), (6,), 6, (1, 2, 3, 1)):
            message = f"image_shape={re.escape(str(shape))} does not have the 6 pixels"
            with pytest.raises(ValueError, match=message):
                ClassTemplatesDisplay.from_estimator(clf, shape)

    @pytest.mark.parametrize("shape", [(8, 8), (28, 28), (5, 40), (60, 10), (32, 32, 3)])
    def test_names_do_not_overlap(self, shape):
        display = ClassTemplatesDisplay(np.ones((20, math.prod(shape))), shape, [LONG] * 20).plot()
        display.figure_.draw_without_rendering()
        boxes = [text.get_window_extent() for text in display.ax_.texts[:20]]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


class TestGradientCheck:
    GOOD = GradientCheck(2e-9, "W", (3, 0, 1), 0.25, 0.25, 30, 2, 6e-6)

    def test_passed_and_failed(self):
        wrong = replace(self.GOOD, max_relative_error=0.3)
        broken = replace(self.GOOD, max_relative_error=np.nan)
        exact = replace(self.GOOD, max_relative_error=0.0)
        checks = {"good": self.GOOD, "wrong": wrong, "broken": broken, "exact": exact}
        ax = GradientCheckDisplay(checks).plot().ax_
        passed, failed = ax.lines
        assert passed.get_xydata().tolist() == [[2e-9, 0], [1e-18, 3]]
        assert failed.get_xydata().tolist() == [[0.3, 1], [1.0, 2]]
        assert [text.get_text() for text in ax.texts] == ["nan", "0"]
        assert passed.get_marker() != failed.get_marker()
        assert [label.get_text() for label in ax.get_yticklabels()] == list(checks)
        bars = ax.collections[0].get_segments()
        assert [bar[0, 0] for bar in bars] == [6e-6] * 4

    def test_nothing_to_draw(self):
        with pytest.raises(ValueError, match="no checks"):
            GradientCheckDisplay({}).plot()
        with pytest.raises(TypeError, match=r"checks must be a mapping of .*, got GradientCheck"):
            GradientCheckDisplay(self.GOOD).plot()


class TestThroughput:
    @staticmethod
    def measured(batch=64, m=1, **other):
        other = {"backend": "numpy", "device": "cpu", "n": 640, "seconds": 1e-3} | other
        cell = Cell(batch, 784, 10, m)
        return Measurement(cell=cell, ceilings=Ceilings(1e10, 1e11), repeats=9, **other)

    def test_a_panel_per_problem_a_line_per_backend(self):
        rows = [self.measured(batch, m) for batch in (64, None) for m in (45, 1)]
        rows += [self.measured(64, 45, backend="torch", reason="needs 9 GB")]
        display = ThroughputDisplay(rows).plot()
        assert [ax.get_title() for ax in display.axes_.flat] == [
            "batch 64, p = 784, k = 10", "full batch, p = 784, k = 10",
        ]  # fmt: skip
        (line,) = display.axes_[0, 0].lines
        assert line.get_label() == "numpy"
        assert line.get_xydata().tolist() == [[1, 64_000], [45, 45 * 64_000]]

    def test_every_backend_looks_different(self):
        names = [*BACKENDS, "torch:cuda", "another"]
        display = ThroughputDisplay([self.measured(backend=name) for name in names]).plot()
        lines = display.axes_[0, 0].lines
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(names)

    def test_a_scale_of_less_than_a_decade_can_be_read(self):
        rows = [self.measured(m=m, seconds=2e-3 * m**0.5) for m in (1, 16)]
        display = ThroughputDisplay(rows).plot()
        display.figure_.draw_without_rendering()
        ax = display.axes_[0, 0]
        low, high = ax.get_ylim()
        labels = ax.get_yticklabels() + ax.get_yticklabels(minor=True)
        read = {t.get_position()[1] for t in labels if t.get_text()}
        assert sum(low <= y <= high for y in read) > 1

    def test_nothing_to_draw(self):
        with pytest.raises(ValueError, match="nothing was measured"):
            ThroughputDisplay([self.measured(reason="needs 9 GB")]).plot()
