"""Smoothing reaches the optimum of kinked losses, and proves how near it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import LinearConstraint
from scipy.optimize import minimize as scipy_minimize
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

import xplinear as xl
from xplinear.losses import (
    CrammerSingerLoss,
    MulticlassHingeLoss,
    SoftmaxLoss,
)
from xplinear.minimize import minimize
from xplinear.objective import Params
from xplinear.penalties import ElasticNetPenalty, L1Penalty, L2Penalty, NoPenalty
from xplinear.solvers import Smoothing
from xplinear.solvers.bundle import collect, no_points

rng = np.random.default_rng(0)
N, P, K = 60, 3, 3
X = rng.standard_normal((N, P)) + 1.0
Y = np.argmax(X @ rng.standard_normal((P, K)) + rng.gumbel(size=(N, K)), axis=1).astype(np.int32)
LOSSES = [MulticlassHingeLoss(), CrammerSingerLoss(margin=2.0)]
ALPHAS = (0.3, 0.01)


def optimum(loss, alpha, s=None, X=X, y=Y, k=K, *, fit_intercept=True):
    """Return the minimum by SciPy, from the quadratic program written plainly.

    Minimize α/2 ‖W‖² + mean of Σ ξ subject to ξ ≥ margin + z_j − z_y and ξ ≥ 0, with one slack
    ξ per row (Crammer and Singer) or per row and class (Weston and Watkins).
    """
    n, p = X.shape
    s = np.ones(n) if s is None else s
    worst = isinstance(loss, CrammerSingerLoss)
    slacks = n if worst else n * k
    size = (p + 1) * k
    cost = np.concatenate([np.zeros(size), np.repeat(s, slacks // n) / s.sum()])
    rows = []
    for i in range(n):
        for j in range(k):
            if j == y[i]:
                continue
            row = np.zeros(size + slacks)
            weights = row[:size].reshape(p + 1, k)
            weights[:p, y[i]], weights[:p, j] = X[i], -X[i]
            weights[p, y[i]], weights[p, j] = float(fit_intercept), -float(fit_intercept)
            row[size + (i if worst else i * k + j)] = 1.0
            rows.append(row)
    quadratic = np.zeros(size + slacks)
    quadratic[: p * k] = alpha
    bounds = [(None, None)] * size + [(0.0, None)] * slacks
    start = np.concatenate([np.zeros(size), np.full(slacks, loss.margin)])
    found = scipy_minimize(
        lambda v: (cost @ v + 0.5 * v @ (quadratic * v), cost + quadratic * v),
        start,
        jac=True,
        bounds=bounds,
        constraints=LinearConstraint(np.asarray(rows), lb=loss.margin),
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-13},
    )
    assert found.success
    return found.fun


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_it_reaches_the_optimum_of_every_model(library, loss, fit_intercept):
    s = np.stack([np.ones(N), np.arange(N) % 3 > 0], axis=1).astype(float)
    objective = library.objective(
        loss, L2Penalty(), X, Y, s, alpha=ALPHAS, fit_intercept=fit_intercept
    )
    result = minimize(objective, Smoothing(tol=1e-4))
    assert result.reasons == ("converged", "converged")
    value = library.to_numpy(objective.value(result.params))
    expected = [
        optimum(loss, alpha, s[:, j], fit_intercept=fit_intercept) for j, alpha in enumerate(ALPHAS)
    ]
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert (value >= np.multiply(expected, 1.0 - 1e-7)).all()
    assert (result.lower_bound <= np.multiply(expected, 1.0 + 1e-7)).all()
    assert (result.lower_bound >= 0.9998 * value).all()
    np.testing.assert_allclose(result.residual, 1.0 - result.lower_bound / value, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_two_classes_are_the_binary_hinge(library, dtype, loss):
    y = (Y > 0).astype(np.int32)
    alpha = 0.05
    objective = library.objective(
        loss, L2Penalty(), X, y, alpha=(alpha,), k=2, fit_intercept=False, dtype=dtype
    )
    result = minimize(objective, Smoothing(tol=1e-4))
    # Scores are ∓z/2: the margin of z is that of the loss.
    svc = LinearSVC(loss="hinge", C=1.0, fit_intercept=False, tol=1e-10, max_iter=10**6)
    svc.set_params(C=1.0 / (alpha * N * loss.margin**2) * loss.margin).fit(X, y)
    w = svc.coef_[0] * loss.margin
    expected = np.maximum(0.0, loss.margin - (2 * y - 1) * (X @ w)).mean() + alpha / 2 * (w @ w)
    value = library.to_numpy(objective.value(result.params))[0]
    np.testing.assert_allclose(value, expected, rtol=1.5e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_bound_is_never_above_the_minimum(numpy_backend, loss):
    objective = numpy_backend.objective(loss, L2Penalty(), X, Y, alpha=ALPHAS)
    best = [optimum(loss, alpha) for alpha in ALPHAS]
    solver = Smoothing(tol=1e-6)
    state = solver.init(objective, objective.zeros())
    before = state.report.lower_bound
    for _ in range(200):
        state = solver.step(objective, state)
        assert (state.report.lower_bound >= before).all()
        assert (state.report.lower_bound <= np.multiply(best, 1.0 + 1e-7)).all()
        before = state.report.lower_bound


def test_crammer_and_singer_of_scikit_learn(numpy_backend):
    digits, y = load_digits(return_X_y=True)
    digits, y = digits[:400] / 16.0, y[:400].astype(np.int32)
    C = 0.1
    svc = LinearSVC(
        multi_class="crammer_singer", C=C, fit_intercept=False, tol=1e-8, max_iter=10**5
    ).fit(digits, y)
    objective = numpy_backend.objective(
        CrammerSingerLoss(),
        L2Penalty(),
        digits,
        y,
        alpha=(1.0 / (C * 400),),
        k=10,
        fit_intercept=False,
    )
    result = minimize(objective, Smoothing(tol=1e-4))
    reference = objective.value(xl.Params(svc.coef_.T[:, None, :], np.zeros((1, 10))))[0]
    assert result.reasons == ("converged",)
    np.testing.assert_allclose(objective.value(result.params), reference, rtol=1e-4)


def test_a_stack_equals_single_fits_whatever_leaves_it_first(library):
    s = np.random.default_rng(1).integers(0, 3, size=(N, 3)).astype(float)
    alphas, solver = (0.1, 3.0, 0.3), Smoothing(tol=1e-4)
    loss = MulticlassHingeLoss()
    result = minimize(library.objective(loss, L2Penalty(), X, Y, s, alpha=alphas), solver)
    assert result.reasons == ("converged",) * 3
    W = library.to_numpy(result.params.W)
    for j, alpha in enumerate(alphas):
        single = library.objective(loss, L2Penalty(), X, Y, s[:, [j]], alpha=(alpha,))
        alone = minimize(single, solver)
        F = result.history["loss"][-1, j] + result.history["penalty"][-1, j]
        np.testing.assert_allclose(library.to_numpy(single.value(alone.params)), F, rtol=2e-4)
        np.testing.assert_allclose(W[:, [j]], library.to_numpy(alone.params.W), atol=0.1)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_the_smoothed_losses_promise(backend, loss):
    """The gradient by differences, the distance to the loss, and the dual value."""
    Z, y = 2.0 * rng.standard_normal((20, 2, 4)), rng.integers(0, 4, 20).astype(np.int32)
    width = np.asarray([0.1, 2.0])
    codes, widths = backend.asarray(y), backend.asarray(width)

    def smoothed(Z):
        return [backend.to_numpy(a) for a in loss.smoothed(backend.asarray(Z), codes, widths)]

    value, smooth, G = smoothed(Z)
    expected = backend.to_numpy(loss.value_and_grad(backend.asarray(Z), codes)[0])
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    most = 1.5 if isinstance(loss, MulticlassHingeLoss) else np.log(4)
    assert (smooth <= value + 1e-12).all()
    assert (smooth >= value - most * width - 1e-12).all()
    step = rng.standard_normal(Z.shape)
    slope = (smoothed(Z + 1e-6 * step)[1] - smoothed(Z - 1e-6 * step)[1]) / 2e-6
    np.testing.assert_allclose(slope, (G * step).sum(axis=-1), atol=1e-6)
    # Fenchel–Young: the gradient lies in the domain of the conjugate.
    conjugate = backend.to_numpy(loss.conjugate(backend.asarray(G), codes))
    assert ((G * Z).sum(axis=-1) - conjugate <= value + 1e-12).all()


def test_hard_data(library, dtype):
    """A constant feature, a class of one row, weights of 0, fewer rows than a block."""
    rows = np.concatenate([X, np.ones((N, 1))], axis=1)
    y = np.where(np.arange(N) == 7, 2, Y % 2).astype(np.int32)
    s = (np.arange(N) % 5 > 0).astype(float)[:, None]
    objective = library.objective(
        MulticlassHingeLoss(), L2Penalty(), rows, y, s, alpha=(0.1,), dtype=dtype
    )
    result = minimize(objective, Smoothing(tol=1e-3))
    assert result.reasons == ("converged",)
    assert result.params.W.dtype == getattr(library.xp, dtype)
    expected = optimum(MulticlassHingeLoss(), 0.1, s[:, 0], X=rows, y=y)
    np.testing.assert_allclose(
        library.to_numpy(objective.value(result.params))[0], expected, rtol=1e-3
    )


def test_the_curvature_of_each_class_saves_passes(numpy_backend, monkeypatch):
    digits, y = load_digits(return_X_y=True)
    objective = numpy_backend.objective(
        MulticlassHingeLoss(), L2Penalty(), digits[:600] / 16.0, y[:600], alpha=(1e-3,), k=10
    )
    solver = Smoothing(max_iter=200, tol=0.0)
    bent = minimize(objective, solver).residual[0]
    monkeypatch.setattr("xplinear.solvers.smoothing._BENDS", ())
    assert bent < 0.7 * minimize(objective, solver).residual[0]


def test_rounding_is_told_from_convergence(numpy_backend):
    objective = numpy_backend.objective(MulticlassHingeLoss(), L2Penalty(), X, Y, alpha=(0.1,))
    result = minimize(objective, Smoothing(tol=0.0, max_iter=3000))
    assert result.reasons == ("rounding",)
    assert 0.0 < result.residual[0] < 1e-7


def test_more_classes_than_appear(numpy_backend):
    """No row has the fourth class: only a bound that leaves it alone is proven."""
    objective = numpy_backend.objective(MulticlassHingeLoss(), L2Penalty(), X, Y, k=4)
    result = minimize(objective, Smoothing(tol=1e-3))
    three = numpy_backend.objective(MulticlassHingeLoss(), L2Penalty(), X, Y)
    expected = three.value(minimize(three, Smoothing(tol=1e-4)).params)
    np.testing.assert_allclose(objective.value(result.params), expected, rtol=2e-3)


@pytest.mark.parametrize(
    ("loss", "penalty", "message"),
    [
        (SoftmaxLoss(), L2Penalty(), "needs the loss 'multiclass_hinge' or 'crammer_singer'"),
        (MulticlassHingeLoss(), L1Penalty(), "needs penalty='l2', got L1Penalty"),
        (MulticlassHingeLoss(), ElasticNetPenalty(), "needs penalty='l2'"),
        (MulticlassHingeLoss(), NoPenalty(), "needs penalty='l2'"),
    ],
)
def test_it_says_what_it_cannot_do(numpy_backend, loss, penalty, message):
    objective = numpy_backend.objective(loss, penalty, X, Y)
    with pytest.raises(ValueError, match=message):
        minimize(objective, Smoothing())


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="max_iter must be an integer of at least 1, got 0"):
        Smoothing(max_iter=0)
    clf = xl.LinearClassifier(loss="multiclass_hinge", solver="smoothing", alpha=0.0)
    with pytest.raises(ValueError, match="alpha must be more than 0 for solver='smoothing', got 0"):
        clf.fit(X, Y)


def test_the_estimator_takes_it_by_name():
    clf = xl.LinearClassifier(loss="multiclass_hinge", solver="smoothing", alpha=0.1, tol=1e-4)
    assert clf.fit(X, Y).objective_ <= (1.0 + 1e-4) * optimum(MulticlassHingeLoss(), 0.1)


def test_the_bundle_holds_the_last_dual_points(backend):
    """More than it has room for; what will be written next is the point 0, whatever is there."""
    objective = backend.objective(MulticlassHingeLoss(), L2Penalty(), X, Y, alpha=(0.1, 0.2))
    params, host = objective.zeros(), backend.to_numpy
    bundle = no_points(objective, params, objective.loss_at_zero())
    places, rng = bundle.age.shape[1], np.random.default_rng(0)
    (p, m, c), known = params.W.shape, []
    for _ in range(places + 20):
        dW, db, dual = (rng.standard_normal(shape) for shape in ((p, m, c), (m, c), m))
        grads = Params(backend.asarray(dW), backend.asarray(db))
        centre = backend.asarray(np.zeros((p, 1)))
        bundle = collect(objective, bundle, grads, backend.asarray(dual), centre)
        known.append((np.moveaxis(dW, 0, 2).reshape(m, c * p), db, dual))
    points, ages = bundle.points(xp=backend.xp), host(bundle.age)
    order = np.argsort(ages, axis=1)
    for name, mixture, found, expected in zip(
        points._fields, bundle.mixture, points, zip(*known, strict=True), strict=True
    ):
        wanted = np.stack([np.zeros_like(expected[0]), *expected[1 - places :]], axis=1)
        for j in range(m):
            every = host(found)[j]
            np.testing.assert_array_equal(every[0], host(mixture)[j], err_msg=name)
            np.testing.assert_array_equal(every[1:][order[j]], wanted[j], err_msg=name)
