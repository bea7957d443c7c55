"""Proximal L-BFGS finds the minimum of a kinked penalty, and its exact zeros."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from scipy.special import logsumexp, softmax
from sklearn.datasets import make_classification
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
from xplinear.solvers import GD, LBFGS, ProximalLBFGS, proximal_lbfgs
from xplinear.solvers.gram import bounds
from xplinear.solvers.quadratic import fista, promise

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
    free = penalty == NoPenalty()  # then what all classes have in common is left open
    for j, alpha in enumerate(ALPHAS):
        single = backend.objective(SoftmaxLoss(), penalty, X, Y, s[:, [j]], alpha=(alpha,))
        alone = minimize(single, solver).params
        difference = W[:, j] - backend.to_numpy(alone.W)[:, 0]
        difference = difference - free * difference.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(difference, 0.0, atol=1e-7)
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


def test_few_weights_need_few_iterations(library):
    objective = library.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=ALPHAS)
    result = minimize(objective, ProximalLBFGS(tol=1e-7))
    assert result.reason == "converged"
    assert result.n_iter <= 10


@pytest.mark.parametrize(("rows", "features", "gram"), [(20, 300, 0), (5000, 171, 171)])
def test_a_gram_matrix_is_made_where_it_pays(numpy_backend, rows, features, gram):
    draw = np.random.default_rng(0)
    wide, y = draw.standard_normal((rows, features)), draw.integers(0, K, rows)
    objective = numpy_backend.objective(SoftmaxLoss(), L1Penalty(), wide, y, alpha=(0.01,))
    solver = ProximalLBFGS(tol=1e-7)
    metric = solver.init(objective, objective.zeros()).metric
    assert metric.gram.shape == (features, gram)
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


def split_variables(objective, l1_ratio, hinge):
    """Return the minimum of F of one model, by L-BFGS-B in positive and negative parts of W."""
    X, y, free = objective.data.X, objective.data.y, objective.fit_intercept
    s = np.ones(len(y)) if objective.data.s is None else objective.data.s[:, 0]
    s, k, alpha = s / s.sum(), objective.k, objective.alpha[0]
    c, true = 1 if k == 2 else k, np.eye(k)[y]
    mean = s @ X if free else 0.0 * X[0]
    unit = np.sqrt(s @ (X - mean) ** 2)
    rows, size = (X - mean) / unit, 2 * X.shape[1] * c
    lasso, ridge = l1_ratio * alpha / unit[:, None], (1.0 - l1_ratio) * alpha / unit[:, None] ** 2

    def function(v):
        plus, minus = v[:size].reshape(2, -1, c)
        u = rows @ (plus - minus) + (v[size:] if free else 0.0)
        Z = np.concatenate([-u / 2, u / 2], axis=1) if c == 1 else u
        if hinge:
            over = np.maximum(Z - (Z * true).sum(axis=1, keepdims=True) + 1.0, 0.0) * (1.0 - true)
            value, G = (over**2).sum(axis=1), 2.0 * over
            G = G - true * G.sum(axis=1, keepdims=True)
        else:
            value = logsumexp(Z, axis=1) - (Z * true).sum(axis=1)
            G = softmax(Z, axis=1) - true
        G = s[:, None] * (0.5 * (G[:, 1:] - G[:, :1]) if c == 1 else G)
        dW = rows.T @ G + ridge * (plus - minus)
        F = s @ value + (lasso * (plus + minus) + 0.5 * ridge * (plus - minus) ** 2).sum()
        slopes = (dW + lasso).ravel(), (lasso - dW).ravel(), G.sum(axis=0) if free else ()
        return F, np.concatenate(slopes)

    bounds = [(0.0, None)] * size + [(None, None)] * (c if free else 0)
    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-10}
    found = scipy_minimize(
        function, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return found.fun


@pytest.mark.parametrize("seed", range(40))
def test_it_is_at_the_optimum_whatever_the_units(numpy_backend, seed):
    draw = np.random.default_rng(seed)
    n, p, k = draw.integers(30, 600), draw.integers(1, 13), draw.integers(2, 5)
    scores = draw.standard_normal((n, p))
    y = scores @ draw.standard_normal((p, k)) + 10 ** draw.uniform(-2, 1) * draw.gumbel(size=(n, k))
    y = y.argmax(axis=1).astype(np.int32)
    offset = draw.standard_normal(p) * 10 ** draw.uniform(0, 3, p) * (draw.random() < 0.5)
    units = 10 ** draw.uniform(-6, 6, p)
    s = draw.integers(0, 4, (n, 1)).astype(float) if draw.random() < 0.5 else None
    hinge, l1_ratio = seed % 2 == 1, 0.5 if seed % 4 > 1 else 1.0
    objective = numpy_backend.objective(
        SquaredHingeLoss() if hinge else SoftmaxLoss(),
        L1Penalty() if l1_ratio == 1.0 else ElasticNetPenalty(l1_ratio),
        *((scores + offset) * units, y, s),
        alpha=(10 ** draw.uniform(-6, -1),),
        k=int(k),
        fit_intercept=bool(draw.random() < 0.8),
    )
    result = minimize(objective, ProximalLBFGS())
    (found,), (zero,) = objective.value(result.params), objective.value(objective.zeros())
    assert result.reasons == ("converged",)
    assert result.n_iter < 100
    optimum = split_variables(objective, l1_ratio, hinge)
    assert found - optimum <= 1e-6 * (zero - optimum) + 1e-12 * zero


@pytest.mark.parametrize("loss", [SoftmaxLoss(), SquaredHingeLoss(), SquaredErrorLoss()])
@pytest.mark.parametrize(("factor", "alpha"), [(0.0, 0.01), (1e-30, 0.01), (1.0, 100.0)])
def test_where_there_is_nothing_to_learn_the_intercept_is_the_best(
    numpy_backend, loss, factor, alpha
):
    objective = numpy_backend.objective(loss, L1Penalty(), factor * X, Y, alpha=(alpha,))
    result = minimize(objective, ProximalLBFGS())
    assert result.reasons == ("converged",)
    assert not result.params.W.any()
    without = numpy_backend.objective(loss, NoPenalty(), 0.0 * X, Y)
    best = without.value(minimize(without, LBFGS(tol=1e-9)).params)
    np.testing.assert_allclose(objective.value(result.params), best, rtol=1e-9)


@pytest.mark.parametrize("tol", [1e-4, 1e-8])
def test_a_path_needs_no_more_iterations_than_cold_starts(numpy_backend, tol):
    wide, y = make_classification(2000, 50, n_informative=10, n_classes=3, random_state=0)
    solver, cold, warm, state, before = ProximalLBFGS(tol=tol), [], [], None, None
    for alpha in np.logspace(-1, -5, 8):
        objective = numpy_backend.objective(
            SoftmaxLoss(), L1Penalty(), wide, y.astype(np.int32), alpha=(alpha,)
        )
        cold.append(minimize(objective, solver).n_iter)
        if state is not None:
            state = solver.follow(objective, state.params, state, before)
        result = minimize(objective, solver, state=state, release=False)
        warm.append(result.n_iter)
        state, before = result.state, objective.alpha
        assert result.reason == "converged"
    assert sum(warm) < sum(cold)


def test_a_start_at_the_minimum_stops_at_once(library):
    objective = library.objective(SoftmaxLoss(), L1Penalty(), X, Y, alpha=ALPHAS)
    found = minimize(objective, ProximalLBFGS()).params
    assert minimize(objective, ProximalLBFGS(), found).n_iter == 1


@dataclass(frozen=True)
class GroupLasso:
    """√Σ_l W_jl² summed over the features: a feature is there for all classes, or for none."""

    smooth = False

    def value(self, W, *, xp=None):
        return np.sqrt((W * W).sum(axis=-1)).sum(axis=0)

    def grad(self, W, *, xp=None):
        length = np.sqrt((W * W).sum(axis=-1, keepdims=True))
        return W / np.where(length > 0, length, 1.0)

    def prox(self, W, step, *, xp=None):
        length = np.sqrt((W * W).sum(axis=-1, keepdims=True))
        step = np.broadcast_to(step, W.shape).mean(axis=-1, keepdims=True)
        return W * np.maximum(1.0 - step / np.where(length > 0, length, 1.0), 0.0)


@pytest.mark.parametrize("features", [P, 60])
def test_a_penalty_of_ones_own(numpy_backend, features):
    draw = np.random.default_rng(1)
    wide = np.concatenate([X, draw.standard_normal((N, features - P))], axis=1)
    objective = numpy_backend.objective(SoftmaxLoss(), GroupLasso(), wide, Y, alpha=(0.02, 0.1))
    ours, theirs = (
        objective.value(minimize(objective, solver).params)
        for solver in (ProximalLBFGS(tol=1e-6), GD(tol=1e-9, max_iter=20_000))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


@dataclass(frozen=True)
class NonNegative:
    """No weight below 0; only the prox says so."""

    smooth = False

    def value(self, W, *, xp=None):
        return 0.0 * W.sum(axis=(0, -1))

    def grad(self, W, *, xp=None):
        return 0.0 * W

    def prox(self, W, step, *, xp=None):
        return np.maximum(W, 0.0)


def test_a_constraint_that_only_the_prox_knows(numpy_backend):
    objective = numpy_backend.objective(SquaredErrorLoss(), NonNegative(), X, Y)
    ours, theirs = (
        minimize(objective, solver).params
        for solver in (ProximalLBFGS(tol=1e-6), GD(tol=1e-9, max_iter=20_000))
    )
    assert ours.W.min() == 0.0
    np.testing.assert_allclose(objective.value(ours), objective.value(theirs), rtol=1e-8)


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
    with pytest.raises(ValueError, match=f"{setting} must be an integer of at least 1, got 0"):
        ProximalLBFGS(**{setting: 0})


def test_the_classifier_passes_its_settings_on():
    clf = xl.LinearClassifier(penalty="l1", solver="proximal_lbfgs", alpha=0.03, tol=1e-9)
    clf.fit(X, Y)
    few = xl.LinearClassifier(penalty="l1", solver="proximal_lbfgs", alpha=0.03, tol=1e-2)
    assert few.fit(X, Y).n_iter_ < clf.n_iter_
    assert 0 < (clf.coef_ == 0).sum() < clf.coef_.size


@pytest.mark.parametrize(("rows", "gram"), [(N, 0), (5000, 60)])
def test_the_model_is_what_bfgs_learns_from_its_last_pairs(backend, rows, gram):
    """Against the textbook's updates one after the other, beyond the ring's end."""
    memory, m, features, xp, write = 3, 2, 60, backend.xp, backend.backend.write
    draw = np.random.default_rng(0)
    wide, labels = draw.standard_normal((rows, features)), draw.integers(0, K, rows)
    objective = backend.objective(SoftmaxLoss(), L1Penalty(), wide, labels, alpha=(0.1,) * m)
    metric, shape = bounds(objective, gram=gram > 0), (m, K, features + 1)
    ones = xp.ones_like(objective.alpha)
    state = proximal_lbfgs._started(objective, objective.zeros(), ones, metric)
    state = state._replace(pairs=proximal_lbfgs._no_pairs(memory + 1, xp, state.point))
    root = draw.standard_normal((shape[1] * shape[2],) * 2)
    told = [[], []]
    for i in range(6):
        s = draw.standard_normal(shape)
        y = (s.reshape(m, -1) @ root @ root.T).reshape(shape)
        y[0] *= -1.0 if i == 2 else 1.0  # it bends downwards: nothing to learn
        for j in range(m):
            if i != 2 or j:
                told[j].append((s[j].ravel(), y[j].ravel()))
        learnt, newest = proximal_lbfgs._learnt(
            state, backend.asarray(s), backend.asarray(y), xp=xp
        )
        ring = state.pairs.rows
        for place, row in newest:
            ring = write(ring, place, row)
        state = state._replace(**{**learnt, "pairs": learnt["pairs"]._replace(rows=ring)})
    assert metric.gram.shape == (features, gram)
    D, G, ring, scale = (
        backend.to_numpy(a) for a in (metric.diagonal, metric.gram, state.pairs.rows, state.scale)
    )
    first = np.diag(D.ravel())
    if gram:
        block = np.eye(features + 1)
        block[:-1, :-1] = G
        first = np.kron(np.eye(K), block) * D.ravel()
    middle = backend.to_numpy(proximal_lbfgs._middle(state.pairs, state.scale, xp=xp))
    for j in range(m):
        B = scale[j] * first
        for s, y in told[j][-memory:]:
            Bs = B @ s
            B = B + np.outer(y, y) / (s @ y) - np.outer(Bs, Bs) / (s @ Bs)
        found = scale[j] * first + ring[j].T @ middle[j] @ ring[j]
        np.testing.assert_allclose(found, B, rtol=0, atol=1e-10 * np.abs(B).max())


def test_a_step_that_was_interrupted_can_be_made_again(library):
    """What it had written of the pairs is where there was none."""
    wide = np.random.default_rng(0).standard_normal((N, 300))
    objective = library.objective(SoftmaxLoss(), ElasticNetPenalty(0.5), wide, Y, alpha=(0.01,))
    solver = ProximalLBFGS(memory=2)
    state = solver.init(objective, objective.zeros())
    for _ in range(5):
        before, state = state, solver.step(objective, state)
    again = solver.step(objective, before)
    np.testing.assert_array_equal(library.to_numpy(again.point), library.to_numpy(state.point))
    assert library.to_numpy(again.pairs.age).min() == 0.0


def test_inner_steps_end_where_nothing_is_left(numpy_backend):
    draw = np.random.default_rng(0)
    wide = draw.standard_normal((N, 30)) @ draw.standard_normal((30, 60))
    objective = numpy_backend.objective(SoftmaxLoss(), ElasticNetPenalty(0.5), wide, Y)
    penalty, xp, metric = objective.penalty, objective.xp, bounds(objective, gram=True)
    ones = xp.ones_like(objective.alpha)
    state = proximal_lbfgs._started(objective, objective.zeros(), ones, metric)
    state = state._replace(pairs=proximal_lbfgs._no_pairs(3, xp, state.point))
    model, trial = proximal_lbfgs._learnt_model(xp, state, objective.alpha, None)
    model = model._replace(gram=metric.gram, rows=state.pairs.rows)
    trial = numpy_backend.backend.repeat(fista, penalty, xp)(100, trial, model)
    assert trial.solved.all()
    gained, left = promise(penalty, xp, model, trial)
    assert 0.0 < left <= 0.01 * gained
    np.testing.assert_array_equal(fista(penalty, xp, trial, model).points, trial.points)


def test_it_is_repeated_as_often_as_it_changes_something(backend):
    xp = backend.xp
    repeated = backend.backend.repeat(_counted, xp)
    for times, limit, count in ((3, [9, 9], [3, 3]), (9, [2, 4], [2, 4]), (0, [2, 4], [0, 0])):
        most = backend.asarray(np.asarray(limit, dtype=np.float64))
        found = repeated(times, _Count(xp.zeros_like(most), most < 0.0), most)
        np.testing.assert_array_equal(backend.to_numpy(found.count), count)


class _Count(NamedTuple):
    count: Any
    solved: Any


def _counted(xp, now, most):
    count = xp.where(now.solved, now.count, now.count + 1.0)
    return _Count(count, count >= most)
