"""The loop: history, stopping, callbacks; interrupts are in test_interrupts.py."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from xplinear.backends import host_reads
from xplinear.losses import SoftmaxLoss
from xplinear.minimize import Progress, minimize, time_left
from xplinear.penalties import L2Penalty
from xplinear.solvers import GD, LBFGS, SGD

rng = np.random.default_rng(1)
X = rng.standard_normal((120, 5))
Y = np.argmax(X[:, :3] + 0.5 * rng.gumbel(size=(120, 3)), axis=1).astype(np.int32)


@pytest.fixture
def objective(backend):
    return backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=(0.01, 0.1))


def test_history_has_a_row_per_iteration_and_a_column_per_model(objective):
    result = minimize(objective, SGD(max_iter=4, batch_size=32))
    assert result.n_iter == 4
    for name in ("loss", "penalty", "validation_score", "step_size"):
        assert result.history[name].shape == (4, 2)
    assert result.history["seconds"].shape == (4,)
    assert np.all(np.diff(result.history["seconds"]) > 0)
    assert np.isnan(result.history["validation_score"]).all()


def test_the_device_is_read_once_per_iteration(objective):
    before = host_reads.count
    result = minimize(objective, GD(max_iter=7))
    assert host_reads.count - before == result.n_iter


def test_gd_history_ends_at_the_objective(backend, objective):
    result = minimize(objective, GD(max_iter=20))
    last = result.history["loss"][-1] + result.history["penalty"][-1]
    np.testing.assert_allclose(backend.to_numpy(objective.value(result.params)), last, rtol=1e-12)


def test_a_callback_sees_progress_and_can_stop(objective):
    seen = []

    def stop_after_three(progress):
        seen.append(progress)
        return progress.iteration == 3

    result = minimize(objective, GD(), callbacks=[stop_after_three])
    assert result.reason == "callback"
    assert [p.iteration for p in seen] == [1, 2, 3]
    assert seen[0].loss.shape == (2,)
    assert seen[0].iterations == 1000


def test_every_callback_is_called_although_one_stops(objective):
    calls = []
    minimize(objective, GD(), callbacks=[lambda p: True, calls.append])
    assert len(calls) == 1


def test_early_stopping_keeps_each_models_best(backend, objective):
    scores = iter([[0.5, 0.1], [0.9, 0.2], [0.6, 0.8], [0.5, 0.5], [0.4, 0.4], [0.3, 0.3]])
    seen = []

    def score(params):
        seen.append(backend.to_numpy(params.W).copy())
        return backend.asarray(np.asarray(next(scores)))

    result = minimize(objective, GD(tol=0.0), validation_score=score, patience=3)
    assert result.reason == "early_stopping"
    assert result.n_iter == 6
    W = backend.to_numpy(result.params.W)
    np.testing.assert_array_equal(W[:, 0], seen[1][:, 0])
    np.testing.assert_array_equal(W[:, 1], seen[2][:, 1])


ALPHAS = (1e-4, 3.0, 0.3, 1e-3, 1.0)


@pytest.mark.parametrize("solver", [GD(tol=1e-5), LBFGS(tol=1e-11), SGD(max_iter=3)])
def test_a_stack_equals_single_fits_whatever_leaves_it_first(backend, solver):
    folds = (np.random.default_rng(2).uniform(size=(120, 2)) < 0.8).astype(float)
    use = [0, 1, 1, 0, 1]
    stack = backend.objective(
        SoftmaxLoss(), L2Penalty(), X, Y, folds, alpha=ALPHAS, models=use, dtype="float64"
    )
    result = minimize(stack, solver)
    assert result.params.W.shape == (5, 5, 3)
    W = backend.to_numpy(result.params.W)
    for j, (alpha, fold) in enumerate(zip(ALPHAS, use, strict=True)):
        single = backend.objective(
            SoftmaxLoss(), L2Penalty(), X, Y, folds[:, [fold]], alpha=(alpha,), dtype="float64"
        )
        alone = minimize(single, solver)
        np.testing.assert_allclose(W[:, [j]], backend.to_numpy(alone.params.W), atol=1e-8)
        assert result.reasons[j] == alone.reasons[0]
        last = alone.history["loss"][-1, 0]
        np.testing.assert_allclose(result.history["loss"][-1, j], last, rtol=1e-9)


def test_models_that_converged_cost_no_more_passes(numpy_backend):
    objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=ALPHAS)
    widths = []

    class Watched(LBFGS):
        def step(self, objective, state):
            widths.append(objective.m)
            return super().step(objective, state)

    result = minimize(objective, Watched(tol=1e-6))
    assert result.reasons == ("converged",) * 5
    assert (result.residual <= 1e-6).all()
    assert widths[0] == 5
    assert widths[-1] < 5
    assert widths == sorted(widths, reverse=True)


def test_rounding_is_a_reason_of_its_own(numpy_backend):
    objective = numpy_backend.objective(
        SoftmaxLoss(), L2Penalty(), X, Y, alpha=(0.01, 0.1), dtype="float32"
    )
    result = minimize(objective, LBFGS(tol=1e-12))
    assert result.reasons == ("rounding", "rounding")
    assert minimize(objective, LBFGS(max_iter=2)).reasons == ("max_iter", "max_iter")


def test_intercepts_that_may_be_shifted_sum_to_zero(backend):
    start = backend.params(objective := backend.objective(SoftmaxLoss(), L2Penalty(), X + 3.0, Y))
    result = minimize(objective, LBFGS(tol=1e-9), start)
    b = backend.to_numpy(result.params.b)
    np.testing.assert_allclose(b.sum(axis=1), 0.0, atol=1e-12)
    assert np.abs(b).max() > 0.1


def test_time_left():
    assert time_left(30.0, 1, 4) == "0:01:30"
    assert time_left(30.0, 4, 4) == "0:00:00"
    assert time_left(1.0, 1, 100_000) == "1 day, 3:46:39"
    assert time_left(30.0, 0, 4) == "unknown"


def test_progress_as_a_line():
    two, nan = np.asarray([0.5, 1.0]), np.full(2, np.nan)
    line = str(Progress(2, 6, two, 0.1 * two, nan, two, 1.5, None))
    assert line == "iteration 2/6  loss 0.75  penalty 0.075  1.50 s, time left up to 0:00:03"
    assert "  validation 0.7500  " in str(Progress(2, 6, two, two, two, two, 1.5, None))


def test_log_of_beginning_and_end(objective, caplog):
    caplog.set_level(logging.INFO, "xplinear")
    result = minimize(objective, GD())
    begin, end = caplog.messages
    backend = objective.data.backend
    assert {record.name for record in caplog.records} == {"xplinear"}
    assert re.match(r"minimize .*SoftmaxLoss\(\).* \+ alpha L2Penalty\(\): ", begin)
    assert "n=120, p=5, k=3, 2 models; GD(max_iter=1000, " in begin
    assert begin.endswith(f"; on {backend.name}, device {backend.device}")
    assert re.fullmatch(rf"converged after {result.n_iter} iterations, \d+\.\d\d s", end)


def test_log_of_every_iteration(numpy_backend, caplog):
    objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y)
    caplog.set_level(logging.DEBUG, "xplinear")
    seen = []
    minimize(objective, GD(max_iter=3), callbacks=[seen.append])
    lines = [record.message for record in caplog.records if record.levelname == "DEBUG"]
    assert lines == [str(progress) for progress in seen]
    assert caplog.messages[-1].startswith("max_iter after 3 iterations")


def test_silent_unless_asked():
    # In a process of its own: pytest handles the log of this one.
    script = "import xplinear; xplinear.LinearClassifier().fit([[0.0], [1.0]], [0, 1])"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )
    assert run.stdout == run.stderr == ""
