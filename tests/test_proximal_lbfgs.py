"""Proximal L-BFGS finds the minimum of a kinked penalty, and its exact zeros."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, LogisticRegression

import xplinear as xl
from xplinear.losses import MulticlassHingeLoss, SoftmaxLoss, SquaredErrorLoss, SquaredHingeLoss
from xplinear.minimize import minimize
from xplinear.penalties import (
    PENALTIES,
    ElasticNetPenalty,
    L1Penalty,
    L2Penalty,
    NoPenalty,
)
from xplinear.solvers import LBFGS, ProximalLBFGS

rng = np.random.default_rng(0)
N, P, K = 200, 6, 3
X = rng.standard_normal((N, P)) + 1.0
Y = np.argmax(X[:, :K] + 0.5 * rng.gumbel(size=(N, K)), axis=1).astype(np.int32)
ALPHAS = (0.003, 0.03, 0.3)


def violation(objective, params, backend):
    """Return how far 0 is from the subdifferential of F, at most, for L1 and elastic net."""
    r = getattr(objective.penalty, "l1_ratio", 1.0)
    dW, db = (backend.to_numpy(a) for a in objective.data_loss_and_grad(params)[1])
    W, alpha = backend.to_numpy(params.W), backend.to_numpy(objective.alpha)[:, None]
    dW = dW + alpha * (1.0 - r) * W
    kink = np.where(
        W == 0, np.maximum(np.abs(dW) - alpha * r, 0), np.abs(dW + alpha * r * np.sign(W))
    )
    return max(kink.max(), np.abs(db).max())


@cache
def scikit_learns(alpha, l1_ratio, fit_intercept):
    """Return the objective and the weights that scikit-learn ends at."""
    model = LogisticRegression(
        C=1.0 / (alpha * N),
        l1_ratio=l1_ratio,
        solver="saga",
        tol=1e-8,
        max_iter=20_000,
        fit_intercept=fit_intercept,
    ).fit(X, Y)
    W = model.coef_
    Z = X @ W.T + model.intercept_
    loss = np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(N), Y]
    penalty = l1_ratio * np.abs(W).sum() + (1.0 - l1_ratio) * 0.5 * (W**2).sum()
    return loss.mean() + alpha * penalty, W


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_it_reaches_scikit_learns_optimum(library, l1_ratio, fit_intercept):
    alphas, penalty = ALPHAS[:2], ElasticNetPenalty(l1_ratio)
    objective = library.objective(
        SoftmaxLoss(), penalty, X, Y, alpha=alphas, fit_intercept=fit_intercept
    )
    result = minimize(objective, ProximalLBFGS(tol=1e-7))
    assert result.reason == "converged"
    found = library.to_numpy(objective.value(result.params))
    for j, alpha in enumerate(alphas):
        theirs, W = scikit_learns(alpha, l1_ratio, fit_intercept)
        assert theirs * (1.0 - 1e-6) <= found[j] <= theirs * (1.0 + 1e-10)
        if l1_ratio < 1.0:  # the minimum is unique
            np.testing.assert_allclose(library.to_numpy(result.params.W)[:, j].T, W, atol=1e-4)


def test_squared_error_is_scikit_learns_elastic_net(backend):
    objective = backend.objective(SquaredErrorLoss(), ElasticNetPenalty(0.7), X, Y, alpha=(0.05,))
    W = backend.to_numpy(minimize(objective, ProximalLBFGS(tol=1e-10)).params.W)[:, 0]
    for j in range(K):
        reference = ElasticNet(alpha=0.05, l1_ratio=0.7, tol=1e-12).fit(X, j == Y)
        np.testing.assert_allclose(W[:, j], reference.coef_, atol=1e-8)
        np.testing.assert_array_equal(W[:, j] == 0, reference.coef_ == 0)


@pytest.mark.parametrize(
    ("loss", "penalty", "weighted"),
    [
        (SoftmaxLoss(), L1Penalty(), True),
        (SquaredHingeLoss(), ElasticNetPenalty(0.5), False),
    ],
)
def test_zero_is_a_subgradient_where_it_stops(library, loss, penalty, weighted):
    s = rng.integers(0, 3, size=(N, 3)).astype(float) if weighted else None
    objective = library.objective(loss, penalty, X, Y, s, alpha=ALPHAS)
    result = minimize(objective, ProximalLBFGS(tol=1e-8))
    assert result.reasons == ("converged",) * 3
    assert (result.residual <= 1e-8).all()
    start = violation(objective, objective.zeros(), library)
    assert violation(objective, result.params, library) <= 1e-7 * start


def test_two_classes_need_one_column_of_weights(backend):
    rows = Y < 2
    objective = backend.objective(SoftmaxLoss(), L1Penalty(), X[rows], Y[rows], alpha=(0.02,), k=2)
    result = minimize(objective, ProximalLBFGS(tol=1e-8))
    assert result.params.W.shape == (P, 1, 1)
    assert violation(objective, result.params, backend) <= 1e-8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_gives_exact_zeros(numpy_backend, dtype):
    objective = numpy_backend.objective(
        SoftmaxLoss(), L1Penalty(), X, Y, alpha=(1e-6, 0.03, 10.0), dtype=dtype
    )
    W = minimize(objective, ProximalLBFGS()).params.W
    zeros = (W == 0).mean(axis=(0, 2))
    assert zeros[0] < zeros[1] < zeros[2] == 1.0


@pytest.mark.parametrize("penalty", [L2Penalty(), NoPenalty()])
def test_smooth_penalties_give_what_lbfgs_gives(numpy_backend, penalty):
    objective = numpy_backend.objective(SoftmaxLoss(), penalty, X, Y, alpha=ALPHAS)
    ours, theirs = (
        objective.value(minimize(objective, solver).params)
        for solver in (ProximalLBFGS(tol=1e-8), LBFGS(tol=1e-8))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def assert_a_stack_equals_single_fits(backend, penalty):
    s = rng.integers(0, 3, size=(N, 3)).astype(float)
    solver = ProximalLBFGS(tol=1e-9)
    stacked = backend.objective(SoftmaxLoss(), penalty, X, Y, s, alpha=ALPHAS)
    W, b = (backend.to_numpy(a) for a in minimize(stacked, solver).params)
    for j, alpha in enumerate(ALPHAS):
        single = backend.objective(SoftmaxLoss(), penalty, X, Y, s[:, [j]], alpha=(alpha,))
        alone = minimize(single, solver).params
        np.testing.assert_allclose(W[:, j], backend.to_numpy(alone.W)[:, 0], atol=1e-7)
        np.testing.assert_allclose(b[j], backend.to_numpy(alone.b)[0], atol=1e-7)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_stack_equals_single_fits_under_every_penalty(numpy_backend, penalty):
    assert_a_stack_equals_single_fits(numpy_backend, PENALTIES[penalty]())


def test_a_stack_equals_single_fits_on_every_backend(library):
    assert_a_stack_equals_single_fits(library, L1Penalty())


def test_a_state_of_some_models_goes_on_as_before(backend):
    objective = backend.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=ALPHAS)
    solver, chosen = ProximalLBFGS(), backend.asarray([2, 0])
    state = solver.init(objective, objective.zeros())
    for _ in range(3):
        state = solver.step(objective, state)
    some = solver.take(state, chosen, xp=backend.xp)
    W = backend.to_numpy(solver.step(objective, state).params.W)
    kept = backend.to_numpy(solver.step(objective.take(chosen), some).params.W)
    np.testing.assert_allclose(kept, W[:, [2, 0]], rtol=1e-9, atol=1e-12)


def test_the_objective_never_rises(numpy_backend):
    objective = numpy_backend.objective(SquaredHingeLoss(), L1Penalty(), X, Y, alpha=(1e-4,))
    history = minimize(objective, ProximalLBFGS(tol=1e-8)).history
    assert np.all(np.diff((history["loss"] + history["penalty"])[:, 0]) <= 1e-12)


@pytest.mark.parametrize("rows", [20, N])
def test_where_features_outnumber_rows_no_gram_matrix_is_made(numpy_backend, rows):
    wide = np.random.default_rng(0).standard_normal((rows, 300 if rows == 20 else P))
    objective = numpy_backend.objective(SoftmaxLoss(), L1Penalty(), wide, Y[:rows], alpha=(0.01,))
    solver = ProximalLBFGS(tol=1e-7)
    hessian = solver.init(objective, objective.zeros()).metric.hessian
    assert hessian.matrix.shape == ((300, 0) if rows == 20 else (P, P))
    result = minimize(objective, solver)
    assert result.reason == "converged"
    assert violation(objective, result.params, numpy_backend) <= 1e-6


def test_columns_of_very_different_scales_and_constant_ones(library):
    scales = np.logspace(-3, 3, P)
    scaled = np.concatenate([X * scales, np.full((N, 2), [0.0, 7.0])], axis=1)
    objective = library.objective(SoftmaxLoss(), L1Penalty(), scaled, Y, alpha=(0.01,))
    result = minimize(objective, ProximalLBFGS(tol=1e-7))
    assert result.reason == "converged"
    assert result.n_iter < 100
    assert not library.to_numpy(result.params.W)[-2:].any()


def test_no_intercept_keeps_b_at_zero(backend):
    objective = backend.objective(SoftmaxLoss(), L1Penalty(), X, Y, fit_intercept=False)
    assert not backend.to_numpy(minimize(objective, ProximalLBFGS()).params.b).any()


def test_a_start_at_the_minimum_stays_there(library):
    objective = library.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=ALPHAS)
    found = minimize(objective, ProximalLBFGS(tol=1e-9)).params
    again = minimize(objective, ProximalLBFGS(tol=1e-6), found)
    assert again.n_iter <= 2
    np.testing.assert_allclose(
        library.to_numpy(again.params.W), library.to_numpy(found.W), atol=1e-6
    )


def test_it_stalls_honestly_where_rounding_hides_the_rest(library):
    objective = library.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=(0.01,), dtype="float32")
    result = minimize(objective, ProximalLBFGS(tol=1e-12))
    assert result.reasons == ("rounding",)
    assert result.n_iter < 200
    assert result.residual[0] < 1e-4


def test_it_needs_a_smooth_loss(numpy_backend):
    objective = numpy_backend.objective(MulticlassHingeLoss(), L1Penalty(), X, Y)
    with pytest.raises(ValueError, match="needs a smooth loss, got MulticlassHingeLoss"):
        minimize(objective, ProximalLBFGS())


@pytest.mark.parametrize("setting", ["max_iter", "memory"])
def test_bad_settings_are_named(setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got 0"):
        ProximalLBFGS(**{setting: 0})


def test_the_classifier_passes_its_settings_on():
    clf = xl.LinearClassifier(penalty="l1", solver="proximal_lbfgs", alpha=0.03, tol=1e-9)
    clf.fit(X, Y)
    few = xl.LinearClassifier(penalty="l1", solver="proximal_lbfgs", alpha=0.03, tol=1e-2)
    assert few.fit(X, Y).n_iter_ < clf.n_iter_
    assert 0 < (clf.coef_ == 0).sum() < clf.coef_.size
