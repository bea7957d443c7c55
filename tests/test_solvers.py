"""Solvers reach what they promise, on every backend and for a stack as for one model."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import xplinear as xl
from xplinear.losses import (
    LOSSES,
    MulticlassHingeLoss,
    SoftmaxLoss,
    SquaredErrorLoss,
    SquaredHingeLoss,
)
from xplinear.minimize import minimize
from xplinear.objective import Params
from xplinear.penalties import PENALTIES, ElasticNetPenalty, L1Penalty, L2Penalty, NoPenalty
from xplinear.solvers import GD, LBFGS, SGD, SOLVERS, sgd
from xplinear.solvers.metric import feature_metric, feature_moments, penalty_curvature
from xplinear.solvers.sgd import SCHEDULES

rng = np.random.default_rng(0)
N, P, K = 200, 6, 3
X = rng.standard_normal((N, P))
Y = np.argmax(X[:, :K] + 0.5 * rng.gumbel(size=(N, K)), axis=1).astype(np.int32)
ALPHAS = (0.01, 0.1, 1.0)


def reference_optimum(alpha: float, X: np.ndarray = X, penalty: float = 0.5) -> float:
    """Return the softmax + L2 minimum found by SciPy from the formula written plainly."""

    def objective(w: np.ndarray) -> float:
        W, b = w[: X.shape[1] * K].reshape(-1, K), w[-K:]
        Z = X @ W + b
        Z = Z - Z.max(axis=1, keepdims=True)
        loss = np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(len(Z)), Y]
        return loss.mean() + alpha * penalty * (W**2).sum()

    return scipy_minimize(objective, np.zeros((X.shape[1] + 1) * K), tol=1e-10).fun


@pytest.mark.parametrize("step_size", ["backtracking", "curvature", 0.5])
def test_gd_reaches_the_optimum_of_every_model_in_the_stack(library, step_size):
    objective = library.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=ALPHAS)
    result = minimize(objective, GD(tol=1e-6, max_iter=3000, step_size=step_size))
    assert result.reason == "converged"
    expected = [reference_optimum(alpha) for alpha in ALPHAS]
    np.testing.assert_allclose(
        library.to_numpy(objective.value(result.params)), expected, rtol=1e-7
    )


def test_gd_with_backtracking_never_raises_the_objective(backend):
    objective = backend.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=(0.05,))
    history = minimize(objective, GD(max_iter=60)).history
    values = (history["loss"] + history["penalty"])[:, 0]
    assert np.all(np.diff(values) <= 1e-12)


def test_gd_needs_a_smooth_loss_for_a_curvature_step(numpy_backend):
    objective = numpy_backend.objective(MulticlassHingeLoss(), L2Penalty(), X, Y)
    with pytest.raises(ValueError, match="step_size='curvature' needs a smooth loss"):
        minimize(objective, GD(step_size="curvature"))


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_lbfgs_reaches_scikit_learns_optimum(backend, gram, fit_intercept):
    objective = backend.objective(
        SoftmaxLoss(), L2Penalty(), X + 1.0, Y, alpha=ALPHAS, fit_intercept=fit_intercept
    )
    result = minimize(objective, LBFGS(tol=1e-11, gram=gram))
    assert result.reason == "converged"
    W, b = (backend.to_numpy(a) for a in result.params)
    for j, alpha in enumerate(ALPHAS):
        reference = LogisticRegression(
            C=1.0 / (alpha * N), solver="newton-cg", tol=1e-12, fit_intercept=fit_intercept
        ).fit(X + 1.0, Y)
        np.testing.assert_allclose(W[:, j].T, reference.coef_, atol=1e-6)
        difference = b[j] - reference.intercept_
        np.testing.assert_allclose(difference, difference.mean(), atol=1e-6)


@pytest.mark.parametrize("loss", [SoftmaxLoss(), SquaredHingeLoss(), SquaredErrorLoss()])
@pytest.mark.parametrize("penalty", [L2Penalty(), NoPenalty()])
def test_the_gradient_vanishes_where_lbfgs_stops(backend, loss, penalty):
    objective = backend.objective(loss, penalty, X, Y, alpha=ALPHAS)
    first, last = (
        objective.value_and_grad(params)[1]
        for params in (objective.zeros(), minimize(objective, LBFGS(tol=1e-8)).params)
    )
    scale = np.abs(backend.to_numpy(first.W)).max()
    assert np.abs(backend.to_numpy(last.W)).max() <= 1e-7 * scale
    assert np.abs(backend.to_numpy(last.b)).max() <= 1e-7 * scale


def test_an_lbfgs_stack_equals_single_fits(library):
    s = rng.integers(0, 3, size=(N, 3)).astype(float)
    solver = LBFGS(tol=1e-11)
    stacked = library.objective(SoftmaxLoss(), L2Penalty(), X, Y, s, alpha=ALPHAS)
    W, b = (library.to_numpy(a) for a in minimize(stacked, solver).params)
    for j, alpha in enumerate(ALPHAS):
        single = library.objective(
            SoftmaxLoss(), L2Penalty(), X, Y, s[:, j : j + 1], alpha=(alpha,)
        )
        alone = minimize(single, solver).params
        np.testing.assert_allclose(W[:, j], library.to_numpy(alone.W)[:, 0], atol=1e-8)
        np.testing.assert_allclose(b[j], library.to_numpy(alone.b)[0], atol=1e-8)


@pytest.mark.parametrize("gram", [True, False])
def test_lbfgs_never_raises_the_objective(backend, gram):
    objective = backend.objective(SquaredHingeLoss(), L2Penalty(), X, Y, alpha=(1e-4,))
    history = minimize(objective, LBFGS(tol=1e-9, gram=gram)).history
    assert np.all(np.diff((history["loss"] + history["penalty"])[:, 0]) <= 1e-12)


def test_lbfgs_on_columns_of_very_different_scales(backend):
    scales = np.logspace(-3, 3, P)
    objective = backend.objective(SoftmaxLoss(), NoPenalty(), X * scales, Y, alpha=(0.0,))
    result = minimize(objective, LBFGS(tol=1e-7))
    assert result.n_iter < 60
    value = backend.to_numpy(objective.value(result.params))[0]
    np.testing.assert_allclose(value, reference_optimum(0.0), rtol=1e-8)


def test_lbfgs_where_features_outnumber_rows(numpy_backend):
    wide = np.random.default_rng(0).standard_normal((20, 300))
    objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), wide, Y[:20], alpha=(0.01,))
    state = LBFGS().init(objective, objective.zeros())
    assert state.preconditioner.basis.shape == (300, 0)
    assert minimize(objective, LBFGS(tol=1e-8)).reason == "converged"


def test_lbfgs_stalls_honestly_where_rounding_hides_the_rest(backend):
    objective = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=(0.01,), dtype="float32")
    result = minimize(objective, LBFGS(tol=1e-12))
    assert result.n_iter < 200
    assert backend.to_numpy(result.state.report.stalled).all()
    assert backend.to_numpy(result.state.report.residual)[0] < 1e-4


@pytest.mark.parametrize(
    ("loss", "penalty", "message"),
    [
        (MulticlassHingeLoss(), L2Penalty(), "needs a smooth loss, got MulticlassHingeLoss"),
        (SoftmaxLoss(), L1Penalty(), "needs a smooth penalty, got L1Penalty"),
    ],
)
def test_lbfgs_refuses_kinks(numpy_backend, loss, penalty, message):
    with pytest.raises(ValueError, match=message):
        minimize(numpy_backend.objective(loss, penalty, X, Y), LBFGS())


@pytest.mark.parametrize("solver", [GD(max_iter=400), SGD(max_iter=300, batch_size=32)])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_comes_close_to_its_minimum(numpy_backend, loss, solver):
    objective = numpy_backend.objective(LOSSES[loss](), L2Penalty(), X, Y, alpha=(0.01,))
    found = objective.value(minimize(objective, solver).params)[0]
    best = objective.value(minimize(objective, GD(max_iter=5000, tol=1e-8)).params)[0]
    start = objective.value(objective.zeros())[0]
    # The slope of a kinked loss does not vanish at the minimum: more noise is left.
    share = 0.05 if objective.loss.smooth else 0.1
    assert found - best <= share * (start - best) + 1e-3 * best


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_every_variant_of_sgd_comes_close(numpy_backend, schedule, nesterov, average):
    objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=ALPHAS)
    solver = SGD(max_iter=300, batch_size=32, schedule=schedule, nesterov=nesterov, average=average)
    found = objective.value(minimize(objective, solver).params)
    expected = np.asarray([reference_optimum(alpha) for alpha in ALPHAS])
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_averaging_beats_the_last_iterate_of_a_constant_step(numpy_backend):
    objective = numpy_backend.objective(SoftmaxLoss(), NoPenalty(), X, Y, alpha=(0.0,))
    solver = SGD(max_iter=40, batch_size=8, schedule="constant", learning_rate=0.05, tol=0.0)
    last, mean = (
        objective.value(minimize(objective, replace(solver, average=average)).params)[0]
        for average in (False, True)
    )
    assert mean < last


def test_sgd_is_the_update_of_the_book(numpy_backend):
    """One epoch against the formulas written out, the incomplete last batch included."""
    objective = numpy_backend.objective(SquaredErrorLoss(), L2Penalty(), X, Y, alpha=(0.1,))
    solver = SGD(
        max_iter=1, batch_size=64, learning_rate=0.1, schedule="constant", momentum=0.5, seed=3
    )
    got = minimize(objective, solver).params
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([3, 0]))).permutation(N)
    W, b, VW, Vb = np.zeros((P, K)), np.zeros(K), np.zeros((P, K)), np.zeros(K)
    for start in range(0, N, 64):
        rows = order[start : start + 64]
        G = (X[rows] @ W + b - np.eye(K)[Y[rows]]) / len(rows)
        VW, Vb = 0.5 * VW - 0.1 * X[rows].T @ G, 0.5 * Vb - 0.1 * G.sum(axis=0)
        W, b = (W + VW) / (1 + 0.1 * 0.1 / 0.5), b + Vb
    np.testing.assert_allclose(got.W[:, 0], W, rtol=1e-12)
    np.testing.assert_allclose(got.b[0], b, rtol=1e-12, atol=1e-15)


def test_every_row_is_visited_once_in_an_epoch(backend):
    """With squared error, no momentum and a vanishing step, the epoch is the sum of all rows."""
    tiny = 1e-9
    objective = backend.objective(SquaredErrorLoss(), NoPenalty(), X, Y, alpha=(0.0,))
    solver = SGD(max_iter=1, batch_size=50, learning_rate=tiny, schedule="constant", momentum=0.0)
    W = backend.to_numpy(minimize(objective, solver).params.W)[:, 0]
    np.testing.assert_allclose(W / tiny, X.T @ np.eye(K)[Y] / 50, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 64, N, 10 * N])
def test_any_batch_size(backend, batch_size):
    objective = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y)
    start = backend.to_numpy(objective.value(objective.zeros()))
    found = backend.to_numpy(
        objective.value(minimize(objective, SGD(max_iter=5, batch_size=batch_size)).params)
    )
    assert np.all(found < start)


@pytest.mark.parametrize("solver", [GD(max_iter=300), SGD(max_iter=30, batch_size=32)])
def test_l1_gives_exact_zeros(backend, solver):
    objective = backend.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=(0.02, 10.0))
    W = backend.to_numpy(minimize(objective, solver).params.W)
    assert 0 < np.count_nonzero(W[:, 0]) < W[:, 0].size
    assert np.count_nonzero(W[:, 1]) == 0


@pytest.mark.parametrize("solver", [GD(max_iter=50), SGD(max_iter=6, batch_size=32)])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_stack_equals_single_fits(backend, solver, penalty):
    s = rng.integers(0, 3, size=(N, 3)).astype(float)
    stacked = backend.objective(
        SoftmaxLoss(), PENALTIES[penalty](), X, Y, s, alpha=ALPHAS, dtype="float64"
    )
    together = minimize(stacked, solver).params
    for j, alpha in enumerate(ALPHAS):
        single = backend.objective(
            SoftmaxLoss(), PENALTIES[penalty](), X, Y, s[:, j : j + 1], alpha=(alpha,)
        )
        alone = minimize(single, solver).params
        W, b = (backend.to_numpy(a) for a in together)
        np.testing.assert_allclose(W[:, j], backend.to_numpy(alone.W)[:, 0], atol=1e-10)
        np.testing.assert_allclose(b[j], backend.to_numpy(alone.b)[0], atol=1e-10)


def test_a_stack_of_learning_rates_and_alphas_equals_single_fits(backend):
    rates, alphas = (a.ravel() for a in np.meshgrid((0.3, 0.1, 0.03, 0.01, 0.003), (1e-3, 0.1)))
    solver = SGD(max_iter=5, batch_size=32)
    stacked = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=alphas)
    together = minimize(stacked, replace(solver, learning_rate=tuple(rates.tolist())))
    np.testing.assert_allclose(together.history["step_size"][0], rates)
    W, b = (backend.to_numpy(a) for a in together.params)
    for j, (rate, alpha) in enumerate(zip(rates.tolist(), alphas, strict=True)):
        single = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=(alpha,))
        alone = minimize(single, replace(solver, learning_rate=rate)).params
        np.testing.assert_allclose(W[:, j], backend.to_numpy(alone.W)[:, 0], atol=1e-10)
        np.testing.assert_allclose(b[j], backend.to_numpy(alone.b)[0], atol=1e-10)


def test_sgd_models_that_leave_the_stack_leave_the_others_alone(backend, monkeypatch):
    """Shared rows: the metric has one centre, but a scale for each alpha."""
    # The module: its function has the same name. They leave small stacks too.
    monkeypatch.setattr(sys.modules["xplinear.minimize"], "_QUICK", 0.0)
    alphas = (1e-3, 3.0, 10.0, 0.1)
    solver = SGD(max_iter=40, schedule="constant", batch_size=50, tol=1e-3, patience=2)
    stacked = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=alphas)
    together = minimize(stacked, solver)
    assert together.state.report.loss.shape[0] < len(alphas)  # some have left
    W = backend.to_numpy(together.params.W)
    for j, alpha in enumerate(alphas):
        single = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=(alpha,))
        alone = backend.to_numpy(minimize(single, solver).params.W)[:, 0]
        np.testing.assert_allclose(W[:, j], alone, atol=1e-10)


def test_a_diverging_learning_rate_does_not_disturb_its_stack(numpy_backend):
    objective = numpy_backend.objective(SquaredErrorLoss(), L2Penalty(), X, Y, alpha=(0.1, 0.1))
    with pytest.warns(RuntimeWarning, match="diverged for 1 of 2"):
        mixed = minimize(objective, SGD(max_iter=5, learning_rate=(0.02, 1e4))).params
    calm = minimize(objective, SGD(max_iter=5, learning_rate=0.02)).params
    np.testing.assert_array_equal(calm.W[:, 0], mixed.W[:, 0])


def test_learning_rates_are_counted(numpy_backend):
    objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=ALPHAS)
    with pytest.raises(ValueError, match="learning_rate has 2 numbers for a stack of 3 models"):
        minimize(objective, SGD(learning_rate=(0.1, 0.2)))


@pytest.mark.parametrize(
    ("n", "p", "k", "epochs"),
    [
        (80, 20, 4, 1000),  # 2,000 updates
        (1000, 20, 4, 125),
        (60_000, 784, 10, 10),
        (80, 20_000, 4, 489),  # as many as cost 2e10 operations
        (80, 2_000_000, 4, 100),  # 200 updates in any case
        (20_000, 20_000, 1000, 10),
    ],
)
def test_sgd_makes_epochs_by_updates_and_by_what_they_cost(numpy_backend, n, p, k, epochs):
    F = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=[0.1, 1.0])
    shape = {"n": n, "p": p, "entries": n * p, "sparse": False}
    data = SimpleNamespace(**shape, batches=lambda size: -(-n // size))
    objective = SimpleNamespace(data=data, loss=F.loss, k=k)
    assert SGD().iterations_on(objective) == epochs <= SGD().iterations(n)
    assert SGD(max_iter=7).iterations_on(objective) == 7


def test_sgd_on_few_rows_of_many_features_ends_in_time_and_in_place(numpy_backend, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 3000)), rng.integers(0, 3, 50)
    F = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, y, alpha=[1e-2])
    monkeypatch.setattr(sgd, "_OPERATIONS", 1e9)
    told = []
    result = minimize(F, SGD(), callbacks=[lambda progress: told.append(progress.iterations)])
    assert (result.n_iter, result.reason) == (556, "finished")
    assert set(told) == {556}
    optimum = F.value(minimize(F, LBFGS(tol=1e-8)).params)
    assert F.value(result.params) - optimum < 3e-3 * np.log(3)


def test_sgd_finishes(numpy_backend):
    """The last percent: steps long enough for correlated features, and a quiet end."""
    digits, labels = load_digits(return_X_y=True)
    objective = numpy_backend.objective(
        SoftmaxLoss(), L2Penalty(), digits / 16, labels, alpha=(1e-4,), k=10
    )
    found, least = (
        objective.value(minimize(objective, solver).params)[0] for solver in (SGD(), LBFGS())
    )
    assert found <= 1.007 * least


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (NoPenalty(), 0.0),
        (L1Penalty(), 0.0),
        (L2Penalty(), 1.0),
        (ElasticNetPenalty(0.3), 0.7),
    ],
)
def test_the_metric_knows_the_curvature_of_the_penalty(backend, penalty, expected):
    objective = backend.objective(SoftmaxLoss(), penalty, X, Y, alpha=ALPHAS)
    curvature = backend.to_numpy(penalty_curvature(objective))
    np.testing.assert_allclose(curvature, expected * np.asarray(ALPHAS), atol=1e-15)
    ridge = backend.asarray(np.asarray([0.0, 2.0, 5.0]), "float64")
    scale = feature_metric(objective, feature_moments(objective), ridge).scale
    variance = X.var(axis=0)[:, None] + np.asarray([0.0, 2.0, 5.0])
    np.testing.assert_allclose(backend.to_numpy(scale), 1 / variance, rtol=1e-12)


def test_a_converged_model_stays_while_others_move(numpy_backend):
    objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=(10.0, 1e-4))
    solver = GD(tol=1e-3)
    state, seen = solver.init(objective, objective.zeros()), None
    for _ in range(200):
        state = solver.step(objective, state)
        if state.report.converged[0] and seen is None:
            seen = state.params.W[:, 0].copy()
            assert not state.report.converged[1]
    np.testing.assert_array_equal(state.params.W[:, 0], seen)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 255.0, 1e6])
def test_the_auto_learning_rate_does_not_care_about_scale(backend, scale):
    """Without penalty the scores are the same whatever the unit of X."""
    results = []
    for factor in (1.0, scale):
        objective = backend.objective(
            SoftmaxLoss(), NoPenalty(), X * factor + 3.0 * factor, Y, alpha=(0.0,)
        )
        results.append(backend.to_numpy(minimize(objective, SGD(max_iter=5)).params.W) * factor)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", [GD(max_iter=300), SGD(max_iter=30)])
def test_columns_on_scales_from_1e_6_to_1e6(backend, dtype, solver):
    scales = np.logspace(-6, 6, P)
    objective = backend.objective(
        SoftmaxLoss(), NoPenalty(), X * scales, Y, alpha=(0.0,), dtype=dtype
    )
    found = backend.to_numpy(objective.value(minimize(objective, solver).params))[0]
    assert found <= 1.05 * reference_optimum(0.0)


def test_sgd_of_a_stack_of_weights_of_zero_and_one_is_cross_validation(numpy_backend):
    folds = np.arange(N) % 2
    s = np.stack([folds, 1 - folds], axis=1).astype(float)
    objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, s, alpha=(0.1, 0.1))
    result = minimize(objective, GD(tol=1e-8)).params
    for j in range(2):
        rows = s[:, j] > 0
        alone = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X[rows], Y[rows])
        expected = minimize(alone, GD(tol=1e-8)).params.W[:, 0]
        np.testing.assert_allclose(result.W[:, j], expected, atol=1e-6)


@pytest.mark.parametrize(
    "solver",
    [SGD(max_iter=40, learning_rate=1e3, batch_size=32), GD(max_iter=60, step_size=1e4)],
)
def test_a_diverging_run_is_noticed_reduced_and_continued(backend, solver):
    objective = backend.objective(SquaredErrorLoss(), L2Penalty(), X, Y)
    start = backend.to_numpy(objective.value(objective.zeros()))
    with pytest.warns(RuntimeWarning, match="diverged for 1 of 1 models; undone, step size now"):
        result = minimize(objective, solver)
    assert np.all(backend.to_numpy(objective.value(result.params)) < start)


def test_a_diverging_model_does_not_disturb_its_stack(numpy_backend):
    weights = np.ones((N, 2))
    objective = numpy_backend.objective(
        SquaredErrorLoss(), L2Penalty(), X, Y, weights, alpha=(0.1, 0.1)
    )
    solver = SGD(max_iter=5, learning_rate=0.02)
    state = solver.init(objective, objective.zeros())
    wild = state._replace(report=state.report._replace(step_size=np.asarray([0.02, 1e4])))
    calm = minimize(objective, solver, state=state).params
    with pytest.warns(RuntimeWarning, match="diverged for 1 of 2"):
        mixed = minimize(objective, solver, state=wild).params
    np.testing.assert_array_equal(calm.W[:, 0], mixed.W[:, 0])


def test_state_is_a_value_that_replays(backend):
    objective = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y)
    solver = SGD(max_iter=4, batch_size=32)
    state = solver.step(objective, solver.init(objective, objective.zeros()))
    first, again = (solver.step(objective, state).params for _ in range(2))
    np.testing.assert_array_equal(backend.to_numpy(first.W), backend.to_numpy(again.W))


def test_sgd_stops_a_schedule_without_end_when_nothing_improves(numpy_backend):
    objective = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), X, Y)
    solver = SGD(max_iter=500, schedule="constant", learning_rate=0.05, tol=1e-3, patience=3)
    result = minimize(objective, solver)
    assert result.reason == "finished"
    assert result.n_iter < 200


def test_no_intercept_keeps_b_at_zero(backend):
    for solver in (GD(max_iter=20), SGD(max_iter=3)):
        objective = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y, fit_intercept=False)
        assert not backend.to_numpy(minimize(objective, solver).params.b).any()


@pytest.mark.parametrize(
    ("solver", "settings", "message"),
    [
        (
            "sgd",
            {"learning_rate": -1.0},
            "learning_rate must be 'auto', a finite number of more than 0 or a",
        ),
        ("sgd", {"learning_rate": "fast"}, "learning_rate must be"),
        ("sgd", {"learning_rate": (0.1, 0.0)}, r"learning_rate must be .* got \(0.1, 0.0\)"),
        ("sgd", {"learning_rate": ()}, "learning_rate must be"),
        ("sgd", {"learning_rate": [0.1, "x"]}, "learning_rate must be"),
        ("sgd", {"schedule": "cubic"}, "schedule must be one of constant, inverse_scaling"),
        ("sgd", {"momentum": 1.0}, r"momentum must be a number in \[0, 1\)"),
        ("sgd", {"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ("lbfgs", {"memory": 0}, "memory must be an integer of at least 1"),
        ("lbfgs", {"max_iter": 0}, "max_iter must be an integer of at least 1"),
        ("lbfgs", {"gram": "yes"}, "gram must be 'auto', True or False"),
        ("gd", {"step_size": 0.0}, "step_size must be 'backtracking', 'curvature' or a finite"),
    ],
)
def test_bad_settings_are_named(solver, settings, message):
    with pytest.raises(ValueError, match=message):
        SOLVERS[solver](**settings)


def test_params_of_a_stack_select_by_model(numpy_backend):
    from xplinear.solvers.protocol import select

    a = Params(np.ones((2, 2, 3)), np.ones((2, 3)))
    b = Params(np.zeros((2, 2, 3)), np.zeros((2, 3)))
    W, intercepts = select(np.asarray([True, False]), a, b, xp=numpy_backend.xp)
    assert W[:, 0].all()
    assert not W[:, 1].any()
    assert intercepts[0].all()
    assert not intercepts[1].any()


@pytest.mark.parametrize(
    ("name", "loss"), [("newton", "softmax"), ("interior_point", "multiclass_hinge")]
)
def test_matrices_that_memory_does_not_hold_are_refused(name, loss):
    X, y = np.zeros((3, 100_000)), [0, 1, 2]
    X[:, 0] = y
    with pytest.raises(MemoryError, match=rf"'{name}' makes a matrix of 300,003 × 300,003 numbers"):
        xl.LinearClassifier(loss, solver=name).fit(X, y)
