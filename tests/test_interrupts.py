"""Ctrl-C reaches the caller, after what there is has been kept whole; files stay as they were."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from typer.testing import CliRunner

import xplinear as xl
from xplinear import cli
from xplinear.losses import SoftmaxLoss
from xplinear.minimize import Interrupted, Loop, _observed, _released, minimize
from xplinear.penalties import L2Penalty
from xplinear.solvers import GD, LBFGS, SGD

rng = np.random.default_rng(1)
X = rng.standard_normal((150, 5))
Y = np.argmax(X[:, :3] + 0.5 * rng.gumbel(size=(150, 3)), axis=1)
NAMES = np.asarray(["cat", "dog", "frog"])
DIGITS, TARGET = load_digits(return_X_y=True)
ALPHAS = [1.0, 0.1, 0.03, 0.01]


def press_ctrl_c(at):
    """Return a callback that raises in one iteration."""

    def callback(progress):
        if progress.iteration == at:
            raise KeyboardInterrupt

    return callback


class TestMinimize:
    @pytest.fixture
    def objective(self, backend):
        return backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=(0.01, 0.1))

    def test_the_best_so_far_comes_with_the_exception(self, backend, objective):
        with pytest.raises(Interrupted, match="interrupted after 3 iterations; the best so") as got:
            minimize(objective, GD(), callbacks=[press_ctrl_c(3)])
        result = got.value.result
        assert isinstance(got.value, KeyboardInterrupt)
        assert (result.reason, result.reasons) == ("interrupted", ("interrupted",) * 2)
        assert result.n_iter == 3
        best = (result.history["loss"] + result.history["penalty"]).min(axis=0)
        found = backend.to_numpy(objective.value(result.params))
        np.testing.assert_allclose(found, best, rtol=1e-12)

    def test_before_the_first_iteration_there_is_nothing(self, objective):
        class Pressed(GD):
            def step(self, objective, state):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as got:
            minimize(objective, Pressed())
        assert type(got.value) is KeyboardInterrupt

    def test_half_an_iteration_does_not_count(self, numpy_backend):
        """Wherever it comes in the loop, results are those of whole iterations."""
        alphas = (1e-4, 3.0, 0.3, 1e-3, 1.0)
        objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=alphas)
        whole = [minimize(objective, LBFGS(i, tol=1e-6)) for i in range(1, 13)]
        widths = {len(result.state.report.step_size) for result in whole}
        assert len(widths) > 1  # models have left
        found = []
        for line in range(1, 600, 3):
            with pytest.raises(KeyboardInterrupt) as got, _ctrl_c_at(line):
                minimize(objective, LBFGS(12, tol=1e-6))
            if isinstance(got.value, Interrupted):
                found.append(got.value.result)
        assert len(found) > 50
        assert {result.n_iter for result in found} >= set(range(1, 11))
        for result in found:
            expected = whole[result.n_iter - 1]
            assert result.reason == "interrupted"
            for name in ("loss", "penalty", "step_size"):
                np.testing.assert_array_equal(result.history[name], expected.history[name])
            assert len(result.history["seconds"]) == result.n_iter
            last = expected.history["loss"][-1] + expected.history["penalty"][-1]
            np.testing.assert_allclose(objective.value(result.params), last, rtol=1e-12)
            assert len(result.state.report.step_size) in widths

    def test_survives_pickling(self, numpy_backend):
        """As between processes."""
        objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y)
        with pytest.raises(Interrupted) as got:
            minimize(objective, GD(), callbacks=[press_ctrl_c(1)])
        again = pickle.loads(pickle.dumps(got.value))
        assert str(again) == "interrupted after 1 iteration; the best so far is kept"
        np.testing.assert_array_equal(again.result.params.W, got.value.result.params.W)


@contextmanager
def _ctrl_c_at(line):
    """Raise at a line of the loop, counted over all iterations."""
    functions = (minimize.__wrapped__, Loop.after, Loop.last.fget, Loop.observing, Loop.reason)
    functions = (*functions, _observed, _released)
    code, count = {function.__code__ for function in functions}, 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code not in code:
            return None
        count += event == "line"
        if count == line:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class TestClassifier:
    @pytest.mark.parametrize("solver", ["lbfgs", "gd", "sgd"])
    def test_goes_on_with_the_best_so_far(self, backend, solver):
        rows = backend.asarray(X)
        clf = xl.LinearClassifier(solver=solver, tol=1e-12, random_state=0)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(rows, NAMES[Y], callbacks=[press_ctrl_c(3)])
        assert clf.n_iter_ == 3
        assert {len(column) for column in clf.history_.values()} == {3}
        assert np.mean(np.asarray(clf.predict(rows)) == NAMES[Y]) > 0.6
        assert clf.coef_.shape == (3, 5)
        assert clf.objective_ == pytest.approx(
            (clf.history_["loss"] + clf.history_["penalty"]).min(),
            rel=0.2 if solver == "sgd" else 1e-5,
        )
        if solver == "lbfgs":
            assert clf.certificate_.reasons == ("interrupted",)
        clf.set_params(warm_start=True, tol=1e-3).fit(rows, NAMES[Y])
        assert clf.score(rows, NAMES[Y]) > 0.7

    def test_too_early_to_keep_anything(self):
        clf = xl.LinearClassifier().fit(X, NAMES[Y])
        before = dict(vars(clf))

        class Pressed(LBFGS):
            def step(self, objective, state):
                raise KeyboardInterrupt

        clf.solver = Pressed()
        with pytest.raises(KeyboardInterrupt):
            clf.fit(X[:, :2], Y)
        clf.solver = "auto"
        assert vars(clf) == before

    def test_in_the_certificate(self, monkeypatch):
        def pressed(*_):
            raise KeyboardInterrupt

        expected = xl.LinearClassifier().fit(X, Y)
        monkeypatch.setattr("xplinear.estimator.solve.certify", pressed)
        clf = xl.LinearClassifier()
        with pytest.raises(KeyboardInterrupt):
            clf.fit(X, Y)
        np.testing.assert_array_equal(clf.coef_, expected.coef_)
        assert clf.objective_ == pytest.approx(expected.objective_)
        assert not hasattr(clf, "certificate_")

    def test_early_stopping(self):
        clf = xl.LinearClassifier(solver="sgd", early_stopping=True, random_state=0, max_iter=20)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(X, Y, callbacks=[press_ctrl_c(4)])
        assert len(clf.history_["validation_score"]) == 4

    def test_partial_fit_is_whole_or_not_made(self, monkeypatch):
        clf = xl.LinearClassifier(random_state=0).partial_fit(X[:70], Y[:70], classes=[0, 1, 2])
        before, step = dict(vars(clf)), SGD.step

        def pressed(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(SGD, "step", pressed)
        with pytest.raises(KeyboardInterrupt):
            clf.partial_fit(X[70:], Y[70:])
        assert vars(clf) == before
        monkeypatch.setattr(SGD, "step", step)
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "reason", pressed)
            with pytest.raises(KeyboardInterrupt):
                clf.partial_fit(X[70:], Y[70:])
        expected = xl.LinearClassifier(random_state=0).partial_fit(X[:70], Y[:70], [0, 1, 2])
        expected.partial_fit(X[70:], Y[70:])
        np.testing.assert_array_equal(clf.coef_, expected.coef_)
        np.testing.assert_array_equal(clf.partial_fit(X, Y).coef_, expected.partial_fit(X, Y).coef_)

    @pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
    def test_other_exceptions_change_nothing(self, error):
        clf = xl.LinearClassifier().fit(X, NAMES[Y])
        before = dict(vars(clf))

        def fails(progress):
            if progress.iteration == 2:
                raise error

        with pytest.raises(error):
            clf.fit(X[:, :2], Y, callbacks=[fails])
        assert vars(clf) == before

    def test_ends_cross_validation(self):
        calls = []

        class Watched(LBFGS):
            def step(self, objective, state):
                calls.append(1)
                if len(calls) == 15:
                    raise KeyboardInterrupt
                return super().step(objective, state)

        clf = xl.LinearClassifier(solver=Watched(tol=1e-10))
        with pytest.raises(KeyboardInterrupt):
            cross_val_score(clf, DIGITS, TARGET, cv=5)
        assert len(calls) == 15


class TestSweep:
    def test_keeps_the_choice_among_the_strengths_done(self):
        def pressed(news):
            if news.alpha < 0.05 and news.iteration == 2:
                raise KeyboardInterrupt

        clf = xl.LinearClassifierCV(ALPHAS, cv=3, solver="lbfgs")
        with pytest.raises(KeyboardInterrupt, match="interrupted after 2 iterations"):
            clf.fit(X, NAMES[Y], callbacks=[pressed])
        whole = xl.LinearClassifierCV(ALPHAS, cv=3, solver="lbfgs").fit(X, NAMES[Y])
        assert clf.alphas_.tolist() == [1.0, 0.1]
        np.testing.assert_array_equal(clf.cv_scores_, whole.cv_scores_[:2])
        # The strength that is chosen is fitted once more at the end, by itself.
        np.testing.assert_allclose(clf.coefs_paths_, whole.coefs_paths_[:2], rtol=1e-12)
        assert clf.alpha_ in (1.0, 0.1)
        assert clf.certificate_.reasons == ("converged",)
        assert clf.score(X, NAMES[Y]) > 0.6

    def test_of_one_stack_the_strengths_that_converged(self, numpy_backend):
        wide = replace(numpy_backend.backend, free_columns=1000)
        settings = {"cv": 3, "solver": "lbfgs", "backend": wide, "tol": 1e-6}
        alphas = [100.0, 10.0, 1e-3, 1e-4]
        whole, seen = xl.LinearClassifierCV(alphas, **settings), []
        whole.fit(X, Y, callbacks=[seen.append])
        clf = xl.LinearClassifierCV(alphas, **settings)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(X, Y, callbacks=[press_ctrl_c(seen[-1].iteration - 1)])
        done = len(clf.alphas_)
        assert 0 < done < 4
        assert clf.alphas_.tolist() == alphas[:done]
        np.testing.assert_array_equal(clf.coefs_paths_, whole.coefs_paths_[:done])

    @pytest.mark.parametrize("known", [False, True])
    def test_before_a_strength_is_done_nothing_changes(self, known):
        clf = xl.LinearClassifierCV(ALPHAS, cv=3, solver="lbfgs")
        if known:
            clf.fit(X, Y)
        before = dict(vars(clf))
        with pytest.raises(KeyboardInterrupt, match="nothing new is kept"):
            clf.fit(X[:, :2], NAMES[Y], callbacks=[press_ctrl_c(2)])
        assert vars(clf) == before

    def test_in_the_scoring(self):
        calls = []

        def scoring(y, Z):
            calls.append(1)
            if len(calls) == 8:
                raise KeyboardInterrupt
            return 0.5

        clf = xl.LinearClassifierCV(ALPHAS, cv=3, solver="lbfgs", scoring=scoring)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(X, Y)
        assert clf.cv_scores_.shape == (2, 3)

    def test_few_lanes_at_once(self, numpy_backend):
        """A strength of which some folds are done is not done."""
        little = replace(numpy_backend.backend, free_memory=lambda: 2 * 32 * 8 * 5 * 3 * 2)
        clf, seen = xl.LinearClassifierCV(ALPHAS, cv=3, solver="lbfgs", backend=little), []

        def pressed(news):
            seen.append(news)
            second = news.alpha < 0.05 and any(a.alpha == 0.01 for a in seen)
            if second and news.alpha > 0.02:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            clf.fit(X, Y, callbacks=[pressed])
        assert clf.alphas_.tolist() == [1.0, 0.1]

    def test_a_callback_that_stops_too_early_is_an_error(self, numpy_backend):
        little = replace(numpy_backend.backend, free_memory=lambda: 2 * 32 * 8 * 5 * 3 * 2)
        clf = xl.LinearClassifierCV(ALPHAS, cv=3, solver="lbfgs", backend=little)
        with pytest.raises(ValueError, match="stopped before any strength was done in all folds"):
            clf.fit(X, Y, callbacks=[lambda news: True])


class TestCommandLine:
    @pytest.mark.parametrize("command", ["train", "sweep"])
    @pytest.mark.parametrize("as_json", [False, True])
    def test_saves_nothing(self, command, as_json, monkeypatch, tmp_path):
        for name in ("m.safetensors", "m.png"):
            (tmp_path / name).write_text("before")
        reads = iter(range(1, 1000))

        def to_host(array):
            if next(reads) == 20:
                signal.raise_signal(signal.SIGINT)
            return np.asarray(array)

        monkeypatch.setattr("xplinear.backends.numpy._BACKEND", _with_host(to_host))
        # A process started in the background inherits that Ctrl-C is ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        names = ["--out", str(tmp_path / "m.safetensors"), "--plot", str(tmp_path / "m.png")]
        try:
            options = [command, "digits", *names, *["--json"] * as_json]
            result = CliRunner().invoke(cli.app, options)
        finally:
            signal.signal(signal.SIGINT, before)
        assert result.exit_code == 130, result.output
        assert result.stdout == ""
        assert result.stderr == "interrupted: nothing is saved\n"
        assert {path.read_text() for path in tmp_path.iterdir()} == {"before"}
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize("late", ["savefig", "save"])
    def test_while_files_are_written(self, late, monkeypatch, tmp_path):
        def pressed(*_, **__):
            raise KeyboardInterrupt

        if late == "save":
            monkeypatch.setattr(cli.fitting, "save", pressed)
        else:
            monkeypatch.setattr("matplotlib.figure.Figure.savefig", pressed)
        options = ["--out", str(tmp_path / "m.safetensors"), "--plot", str(tmp_path / "m.png")]
        result = CliRunner().invoke(cli.app, ["train", "digits", *options])
        assert result.exit_code == 130
        assert not list(tmp_path.iterdir())

    def test_labels(self, monkeypatch, tmp_path):
        model, labels = tmp_path / "m.safetensors", tmp_path / "labels.csv"
        assert CliRunner().invoke(cli.app, ["train", "digits", "--out", str(model)]).exit_code == 0
        command = ["predict", str(model), "digits", "--out", str(labels)]
        assert CliRunner().invoke(cli.app, command).exit_code == 0
        before = labels.read_text()
        assert before.startswith("label\n")

        def pressed(file, **_):
            file.write("half")
            raise KeyboardInterrupt

        monkeypatch.setattr(cli.predict.csv, "writer", pressed)
        assert CliRunner().invoke(cli.app, command).exit_code == 130
        assert labels.read_text() == before
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.skipif(os.name == "nt", reason="signals are not those of Unix")
    @pytest.mark.parametrize(
        "arguments",
        [
            ("train", "--solver=gd", "--tol=1e-14", "--max-iter=1000000"),
            ("train", "--solver=sgd", "--max-iter=1000000"),
            ("sweep", "--alphas=1,0.1,1e-9", "--solver=gd", "--tol=1e-14", "--max-iter=1000000"),
        ],
    )
    def test_a_signal_to_a_process(self, arguments, tmp_path):
        """On the digits, in the midst of whatever it does then."""
        command, *options = arguments
        model = tmp_path / "m.safetensors"
        process = subprocess.Popen(
            [sys.executable, "-c", _SHOWS_THAT_IT_RUNS, command, "digits", *options,
             "--out", str(model), "--plot", str(tmp_path / "m.png")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert process.stderr is not None
        assert "iteration" in process.stderr.readline()  # it trains
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert output == ""
        assert errors.splitlines()[-1] == "interrupted: nothing is saved"
        assert "Traceback" not in errors
        assert not list(tmp_path.iterdir())


_SHOWS_THAT_IT_RUNS = """
import signal
from xplinear import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # the background ignores it
cli.terminal._LINE_SECONDS = 0.0
cli.main()
"""


def _with_host(fetch):
    from xplinear.backends.numpy import _BACKEND

    return replace(_BACKEND, fetch=fetch)


def test_ctrl_c_while_looking_ahead_keeps_the_fit(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(xl.solvers.Newton, "ahead", interrupted)
    clf = xl.LinearClassifier()
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert clf.score(X, Y) > 0.7
    assert not hasattr(clf, "certificate_")


@pytest.fixture
def no_collection():
    """Let nothing go that is in a cycle."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "clf",
    [
        xl.LinearClassifier(),
        xl.LinearClassifier(solver="sgd"),
        xl.LinearClassifierCV(ALPHAS, solver="lbfgs"),
        xl.LinearClassifierCV(ALPHAS, solver="gd"),
    ],
    ids=str,
)
def test_nothing_is_held_once_the_exception_is_gone(clf):
    """Rows of a GPU's memory, or of a cluster's, say."""
    callback = press_ctrl_c(2)
    held = weakref.ref(callback)
    with suppress(KeyboardInterrupt):
        clf.fit(X, Y, callbacks=[callback])
    assert held() is callback
    del callback
    assert held() is None
