"""The interior point reaches the optimum of kinked losses, and proves how near it is."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.optimize import LinearConstraint
from scipy.optimize import minimize as scipy_minimize
from sklearn.datasets import load_digits, make_classification
from sklearn.svm import LinearSVC, LinearSVR

from xplinear import LinearClassifier
from xplinear.backends.base import AcceleratedLoss
from xplinear.duality import value_and_lower_bound
from xplinear.losses import (
    LOSSES,
    AbsoluteErrorLoss,
    CrammerSingerLoss,
    MulticlassHingeLoss,
    SoftmaxLoss,
    SquaredHingeLoss,
)
from xplinear.losses.polytope import Polytope, Side
from xplinear.minimize import minimize
from xplinear.objective import Params
from xplinear.penalties import ElasticNetPenalty, L1Penalty, L2Penalty, NoPenalty
from xplinear.solvers import SOLVERS, InteriorPoint

rng = np.random.default_rng(0)
N, P = 40, 3
X = rng.standard_normal((N, P)) + 1.0
CODES = {
    k: np.argmax(X @ rng.standard_normal((P, k)) + rng.gumbel(size=(N, k)), axis=1)
    for k in (2, 3, 4)
}
KINKED = [MulticlassHingeLoss(), CrammerSingerLoss(margin=2.0), AbsoluteErrorLoss()]


def pieces(loss, y, k):
    """Yield (slack, class plus, class minus or None, sign, constant) of ξ ≥ sign·z + constant."""
    for i, label in enumerate(y):
        for j in range(k):
            if isinstance(loss, AbsoluteErrorLoss):
                target = float(j == label)
                yield i, i * k + j, j, None, 1.0, -target
                yield i, i * k + j, j, None, -1.0, target
            elif j != label:
                slack = i if isinstance(loss, CrammerSingerLoss) else i * k + j
                yield i, slack, j, label, 1.0, loss.margin


def optimum(loss, y, k, alpha, s=None, X=X, b=None):
    """Return the minimum by SciPy, from the quadratic program written plainly.

    ``b`` are intercepts that are given; None where they are free.
    """
    n, p = X.shape
    if k == 2 and loss.shift_invariant:  # of one column w; here there are two, −w/2 and w/2
        alpha = 2.0 * alpha
    s = np.ones(n) if s is None else s
    slacks = n if isinstance(loss, CrammerSingerLoss) else n * k
    size = (p + 1) * k
    rows, least = [], []
    for i, slack, plus, minus, sign, constant in pieces(loss, y, k):
        row = np.zeros(size + slacks)
        weights = row[:size].reshape(p + 1, k)
        for j, side in ((plus, sign), (minus, -sign)):
            if j is not None:
                weights[:p, j] -= side * X[i]
                weights[p, j] -= side
        row[size + slack] = 1.0
        rows.append(row)
        least.append(constant)
    cost = np.concatenate([np.zeros(size), np.repeat(s, slacks // n) / s.sum()])
    quadratic = np.zeros(size + slacks)
    quadratic[: p * k] = alpha
    given = [(None, None)] * k if b is None else [(a, a) for a in b]
    start = np.concatenate([np.zeros(p * k), np.zeros(k) if b is None else b, np.full(slacks, 9.0)])
    found = scipy_minimize(
        lambda v: (cost @ v + 0.5 * v @ (quadratic * v), cost + quadratic * v),
        start,
        jac=True,
        bounds=[(None, None)] * (p * k) + given + [(0.0, None)] * slacks,
        constraints=LinearConstraint(np.asarray(rows), lb=np.asarray(least)),
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-13},
    )
    assert found.status in (0, 8)  # or rounding hides any further decrease
    return found.fun


def values(case, objective, result):
    return case.to_numpy(objective.value(result.params))


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_it_reaches_the_optimum_of_every_model(library, loss, k, fit_intercept):
    if library.backend.name.startswith("jax") and k != 3:
        return  # compiling takes seconds
    s = np.stack([np.ones(N), np.arange(N) % 3 / 2.0], axis=1)
    alphas, y = (0.3, 0.01), CODES[k]
    objective = library.objective(
        loss, L2Penalty(), X, y, s, alpha=alphas, k=k, fit_intercept=fit_intercept
    )
    b = None if fit_intercept else np.zeros(k)
    expected = [optimum(loss, y, k, alpha, s[:, j], b=b) for j, alpha in enumerate(alphas)]
    result = minimize(objective, InteriorPoint(tol=1e-7))
    assert result.reasons == ("converged", "converged")
    value = values(library, objective, result)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # SciPy's optimum is feasible up to its own rounding.
    assert (value >= np.multiply(expected, 1.0 - 1e-8)).all()
    assert (result.lower_bound <= np.multiply(expected, 1.0 + 1e-8)).all()
    np.testing.assert_allclose(result.residual, 1.0 - result.lower_bound / value, atol=1e-12)
    assert (result.residual <= 1e-7).all()


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_a_given_intercept_stays(numpy_backend, loss):
    b = np.asarray([0.5, -1.0, 0.25])
    objective = numpy_backend.objective(
        loss, L2Penalty(), X, CODES[3], alpha=(0.05,), fit_intercept=False
    )
    start = objective.zeros()._replace(b=b[None, :])
    result = minimize(objective, InteriorPoint(tol=1e-7), start)
    np.testing.assert_array_equal(result.params.b, b[None, :])
    expected = optimum(loss, CODES[3], 3, 0.05, b=b)
    np.testing.assert_allclose(objective.value(result.params), expected, rtol=1e-6)
    assert result.lower_bound[0] <= expected * (1.0 + 1e-8)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_the_bound_is_never_above_the_minimum_nor_the_value_below(numpy_backend, loss):
    alphas = (0.3, 0.01)
    objective = numpy_backend.objective(loss, L2Penalty(), X, CODES[3], alpha=alphas)
    best = np.asarray([optimum(loss, CODES[3], 3, alpha) for alpha in alphas])
    solver = InteriorPoint(tol=0.0)
    state = solver.init(objective, objective.zeros())
    for _ in range(40):
        before, state = state, solver.step(objective, state)
        assert (state.report.lower_bound >= before.report.lower_bound).all()
        assert (state.value <= before.value).all()
        assert (state.report.lower_bound <= best * (1.0 + 1e-8)).all()
        np.testing.assert_allclose(state.value, objective.value(state.params), rtol=1e-13)
        assert (state.value >= best * (1.0 - 1e-8)).all()


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_rounding_is_told_from_convergence(numpy_backend, dtype, loss):
    objective = numpy_backend.objective(
        loss, L2Penalty(), X, CODES[3], alpha=(0.1, 0.01), dtype=dtype
    )
    result = minimize(objective, InteriorPoint(tol=0.0))
    assert result.reasons == ("rounding", "rounding")
    assert (result.residual > 0.0).all()
    assert (result.residual < (1e-10 if dtype == "float64" else 3e-6)).all()
    assert result.n_iter < 40


DIGITS, LABELS = load_digits(return_X_y=True)


@pytest.mark.parametrize("alpha", [1e-4, 1.0 / len(LABELS)])
@pytest.mark.parametrize("loss", LOSSES)
def test_digits_as_they_are(numpy_backend, loss, alpha):
    if LOSSES[loss].smooth:
        return
    objective = numpy_backend.objective(
        LOSSES[loss](), L2Penalty(), DIGITS, LABELS, alpha=(alpha,), k=10
    )
    assert InteriorPoint().pays(objective)
    start = time.process_time()
    result = minimize(objective, InteriorPoint())
    assert time.process_time() - start < 20.0  # of all threads, on a busy machine
    assert result.reasons == ("converged",)
    assert result.n_iter <= 25
    assert objective.value(result.params)[0] <= (1.0 + 1e-4) * result.lower_bound[0]


@pytest.mark.parametrize("scale", [1.0, 16.0])  # of one, C = 1 is separable
def test_crammer_and_singer_of_scikit_learn(numpy_backend, scale):
    rows = DIGITS / scale
    svc = LinearSVC(
        multi_class="crammer_singer", C=1.0, fit_intercept=False, tol=1e-6, max_iter=10**6
    ).fit(rows, LABELS)
    objective = numpy_backend.objective(
        CrammerSingerLoss(), L2Penalty(), rows, LABELS, alpha=(1 / len(LABELS),), k=10,
        fit_intercept=False,
    )  # fmt: skip
    reference = objective.value(Params(svc.coef_.T[:, None, :], np.zeros((1, 10))))[0]
    result = minimize(objective, InteriorPoint(tol=1e-6))
    value = objective.value(result.params)[0]
    assert value <= reference * (1.0 + 1e-6)
    assert result.lower_bound[0] <= reference
    np.testing.assert_allclose(value, reference, rtol=1e-4)


def test_the_absolute_error_of_scikit_learn(numpy_backend):
    alpha = 0.01
    objective = numpy_backend.objective(
        AbsoluteErrorLoss(), L2Penalty(), X, CODES[3], alpha=(alpha,), fit_intercept=False
    )
    result = minimize(objective, InteriorPoint(tol=1e-8))
    W = np.stack(
        [
            LinearSVR(
                epsilon=0.0, C=1 / (alpha * N), fit_intercept=False, tol=1e-10, max_iter=10**6
            ).fit(X, CODES[3] == j).coef_
            for j in range(3)
        ],
        axis=1,
    )  # fmt: skip
    reference = objective.value(Params(W[:, None, :], np.zeros((1, 3))))
    np.testing.assert_allclose(objective.value(result.params), reference, rtol=1e-6)
    np.testing.assert_allclose(result.params.W[:, 0, :], W, atol=1e-5)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_units_and_offsets_do_not_matter(numpy_backend, dtype, loss):
    """Features of 10⁻⁶ to 10⁶, and so offset that their variation is a thousandth."""
    rows, y = make_classification(
        300, 12, n_informative=8, n_redundant=0, n_classes=3, random_state=0
    )
    wild = rows * 10.0 ** np.linspace(-6, 6, 12)
    far = rows + (1e3 if dtype == "float64" else 30.0) * rng.choice([-1.0, 1.0], 12)
    for data, alpha in ((wild, 1e-3), (far, 1e-3), (1e3 * far, 1e-5)):
        objective = numpy_backend.objective(loss, L2Penalty(), data, y, alpha=(alpha,), dtype=dtype)
        result = minimize(objective, InteriorPoint())
        assert result.reasons == ("converged",)
        assert result.n_iter <= 30
        # In float64, of the same numbers: what is said holds for the parameters as they are.
        exact = numpy_backend.objective(
            loss, L2Penalty(), data.astype(dtype).astype(float), y,
            alpha=np.asarray([alpha], dtype).astype(float),
        )  # fmt: skip
        value = exact.value(Params(*(a.astype(float) for a in result.state.params)))[0]
        assert value <= (1.0 + 1.1e-4) * result.lower_bound[0]
        # Nowhere nearby is it lower than the bound allows.
        for _ in range(20):
            step = np.exp(rng.uniform(-9, -3)) * rng.standard_normal(12) / data.std(axis=0)
            W = result.params.W.astype(float)
            move = step[:, None, None] * rng.standard_normal(W.shape)
            moved = Params(W + move, result.params.b - data.mean(axis=0) @ move[:, 0, :])
            assert exact.value(moved)[0] >= result.lower_bound[0]


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_the_centre_of_the_features_does_not_matter(numpy_backend, loss):
    near = numpy_backend.objective(loss, L2Penalty(), X, CODES[3], alpha=(0.01,))
    far = numpy_backend.objective(loss, L2Penalty(), X + 1e4, CODES[3], alpha=(0.01,))
    first, second = (minimize(F, InteriorPoint(tol=1e-6)) for F in (near, far))
    np.testing.assert_allclose(second.lower_bound, first.lower_bound, rtol=2e-6)
    np.testing.assert_allclose(second.params.W, first.params.W, atol=3e-3)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_rows_without_weight_do_not_count(library, loss):
    """Whatever they hold, and however many there are: the fit is that of the others."""
    s = np.asarray([1.0, 0.0, 2.5, 0.5] * (N // 4))
    kept = s > 0
    wild = np.where(kept[:, None], X, 1e9 * X)
    y = CODES[3]
    some = library.objective(loss, L2Penalty(), wild, y, s[:, None], alpha=(0.02,))
    fewer = library.objective(loss, L2Penalty(), X[kept], y[kept], s[kept, None], alpha=(0.02,))
    first, second = (minimize(F, InteriorPoint(tol=1e-6)) for F in (some, fewer))
    np.testing.assert_allclose(first.lower_bound, second.lower_bound, rtol=1e-9)
    W = [library.to_numpy(result.params.W) for result in (first, second)]
    np.testing.assert_allclose(*W, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_a_stack_equals_single_fits_whatever_leaves_it_first(library, loss):
    s = np.random.default_rng(1).integers(0, 3, size=(N, 4)).astype(float)
    alphas, solver = (0.1, 3.0, 0.3, 1e-4), InteriorPoint(tol=1e-6)
    y = CODES[3]
    objective = library.objective(loss, L2Penalty(), X, y, s, alpha=alphas)
    result = minimize(objective, solver)
    assert result.reasons == ("converged",) * 4
    value = values(library, objective, result)
    models = range(4) if library.backend.name == "numpy" else (3,)
    for j in models:
        single = library.objective(loss, L2Penalty(), X, y, s[:, [j]], alpha=alphas[j : j + 1])
        alone = minimize(single, solver)
        np.testing.assert_allclose(values(library, single, alone), value[j], rtol=1e-6)
        W = library.to_numpy(result.params.W)[:, [j]]
        np.testing.assert_allclose(library.to_numpy(alone.params.W), W, atol=1e-2)
    if library.backend.name == "numpy":
        whole = minimize(objective, solver, release=False)
        np.testing.assert_allclose(values(library, objective, whole), value, rtol=1e-6)


def test_folds_share_their_weights(numpy_backend):
    s = np.stack([np.arange(N) % 2 > 0, np.arange(N) % 2 < 1], axis=1).astype(float)
    stack = {"alpha": (0.1, 0.1, 1.0), "s": s, "models": [0, 1, 1]}
    objective = numpy_backend.objective(
        MulticlassHingeLoss(), L2Penalty(), X, CODES[3].astype(np.int32), **stack
    )
    result = minimize(objective, InteriorPoint(tol=1e-6))
    expected = [
        optimum(MulticlassHingeLoss(), CODES[3], 3, alpha, s[:, fold])
        for alpha, fold in zip(stack["alpha"], stack["models"], strict=True)
    ]
    np.testing.assert_allclose(objective.value(result.params), expected, rtol=2e-6)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_classes_without_rows(numpy_backend, loss, fit_intercept):
    """A class has no row at all, or none with weight in some model."""
    three, four = (
        numpy_backend.objective(
            loss, L2Penalty(), X, CODES[3], np.stack([np.ones(N), CODES[3] != 1], 1).astype(float),
            alpha=(0.05, 0.05), k=k, fit_intercept=fit_intercept,
        )
        for k in (3, 4)
    )  # fmt: skip
    first, second = (minimize(F, InteriorPoint(tol=1e-6)) for F in (three, four))
    assert first.reasons == second.reasons == ("converged", "converged")
    assert np.isfinite(second.params.b).all()
    if fit_intercept and loss.shift_invariant:
        # Its intercept goes out of the way.
        np.testing.assert_allclose(second.lower_bound, first.lower_bound, rtol=2e-6)
    else:
        expected = optimum(loss, CODES[3], 4, 0.05, b=None if fit_intercept else np.zeros(4))
        np.testing.assert_allclose(four.value(second.params)[0], expected, rtol=2e-6)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("k", [2, 3])
def test_a_single_class(numpy_backend, loss, k):
    objective = numpy_backend.objective(loss, L2Penalty(), X, np.full(N, 1), alpha=(0.05,), k=k)
    result = minimize(objective, InteriorPoint())
    assert objective.value(result.params)[0] < 1e-6
    np.testing.assert_allclose(result.params.W, 0.0, atol=1e-6)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("k", [2, 5])
def test_a_single_class_without_intercept(numpy_backend, loss, k):
    """No row has another class, and every class has a price all the same."""
    y = np.full(N, 1)
    objective = numpy_backend.objective(
        loss, L2Penalty(), X, y, alpha=(0.05,), k=k, fit_intercept=False
    )
    result = minimize(objective, InteriorPoint(tol=1e-6))
    assert result.reasons == ("converged",)
    expected = optimum(loss, y, k, 0.05, b=np.zeros(k))
    np.testing.assert_allclose(objective.value(result.params), expected, rtol=2e-6)


def test_features_that_are_copies_and_more_features_than_rows(numpy_backend):
    """The optimum lies in the span of the rows; far below it there is nothing to gain."""
    rows, y = rng.standard_normal((20, 60)), np.arange(20) % 4
    rows = np.concatenate([rows, rows], axis=1)
    for loss in KINKED:
        objective = numpy_backend.objective(loss, L2Penalty(), rows, y, alpha=(1e-4, 1.0), k=4)
        result = minimize(objective, InteriorPoint())
        assert result.reasons == ("converged", "converged")
        W = result.params.W[:, :, 0]
        np.testing.assert_allclose(W[:60], W[60:], atol=1e-8)


def test_a_class_of_one_row_and_a_constant_feature(library, dtype):
    rows = np.concatenate([X, np.ones((N, 1))], axis=1)
    y = np.where(np.arange(N) == 7, 2, CODES[3] % 2)
    s = (np.arange(N) % 5 > 0).astype(float)
    loss = MulticlassHingeLoss()
    objective = library.objective(loss, L2Penalty(), rows, y, s[:, None], alpha=(0.1,), dtype=dtype)
    result = minimize(objective, InteriorPoint(tol=1e-5))
    assert result.reasons == ("converged",)
    assert result.params.W.dtype == getattr(library.xp, dtype)
    expected = optimum(loss, y, 3, 0.1, s, X=rows)
    np.testing.assert_allclose(values(library, objective, result), expected, rtol=2e-5)


def test_one_iteration_on_every_backend(backend, numpy_backend):
    for loss in KINKED:
        states = []
        for case in (backend, numpy_backend):
            objective = case.objective(loss, L2Penalty(), X, CODES[3], alpha=(0.1, 1.0))
            solver = InteriorPoint()
            state = solver.init(objective, objective.zeros())
            for _ in range(3):
                state = solver.step(objective, state)
            states.append(
                [case.to_numpy(a) for a in (state.value, state.report.lower_bound, state.params.W)]
            )
        for a, b in zip(*states, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_start_that_is_given_is_never_made_worse(numpy_backend):
    objective = numpy_backend.objective(CrammerSingerLoss(), L2Penalty(), X, CODES[3], alpha=(0.1,))
    best = minimize(objective, InteriorPoint(tol=1e-9))
    again = minimize(objective, InteriorPoint(max_iter=1), best.params)
    np.testing.assert_allclose(again.params.W, best.params.W)


@dataclass(frozen=True)
class OneVsRest:
    """A loss of one's own: Σ_j max(0, 1 ∓ z_j), the hinge of each class against the rest."""

    smooth = False
    shift_invariant = False
    probabilistic = False

    def curvature(self, k):
        del k

    def lipschitz(self, k):
        return k**0.5

    def value_and_grad(self, Z, y, *, xp=None):
        del xp
        sign = np.where(y.reshape(*y.shape, 1, 1)[..., :, :] == np.arange(Z.shape[-1]), 1.0, -1.0)
        gap = 1.0 - sign * Z
        return np.sum(np.maximum(gap, 0.0), axis=-1), np.where(gap > 0, -sign, 0.0)

    @property
    def polytope(self):
        return Polytope(Side(-1.0, 0.0, -1.0), Side(0.0, 1.0, 1.0))


def test_a_loss_of_ones_own(numpy_backend):
    alpha = 0.05
    objective = numpy_backend.objective(
        OneVsRest(), L2Penalty(), X, CODES[3], alpha=(alpha,), fit_intercept=False
    )
    result = minimize(objective, InteriorPoint(tol=1e-8))
    svc = LinearSVC(
        loss="hinge", C=1 / (alpha * N), fit_intercept=False, tol=1e-10, max_iter=10**6
    ).fit(X, CODES[3])
    np.testing.assert_allclose(result.params.W[:, 0, :], svc.coef_.T, atol=1e-5)


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_the_polytope_is_that_of_the_loss(backend, loss):
    """The maximum over its corners is the loss, for scores and labels at random."""
    polytope, Z = loss.polytope, 2.0 * rng.standard_normal((30, 3))
    y = rng.integers(0, 3, 30)
    true = backend.asarray(y[:, None] == np.arange(3))
    scores = backend.asarray(Z)
    sides = polytope.sides(true, scores, xp=backend.xp)
    V = backend.to_numpy(polytope.differences(scores, true, xp=backend.xp) + sides.offset)
    lower, upper = (backend.to_numpy(a) for a in (sides.lower, sides.upper))
    value = V.max(axis=1) if polytope.simplex else np.maximum(lower * V, upper * V).sum(axis=1)
    expected = backend.to_numpy(loss.value_and_grad(scores, backend.asarray(y))[0])
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    # What is linear in the scores, and its transpose.
    A = rng.standard_normal((30, 3))
    D = backend.to_numpy(polytope.differences(scores, true, xp=backend.xp))
    G = backend.to_numpy(polytope.gradient(backend.asarray(A), true, xp=backend.xp))
    np.testing.assert_allclose((A * D).sum(axis=1), (G * Z).sum(axis=1), rtol=1e-9)


@pytest.mark.parametrize(
    ("loss", "penalty", "message"),
    [
        (SoftmaxLoss(), L2Penalty(), "such as 'multiclass_hinge', 'crammer_singer' or 'absolute"),
        (SquaredHingeLoss(), L2Penalty(), "use 'lbfgs' where the loss is smooth"),
        (MulticlassHingeLoss(), L1Penalty(), "needs penalty='l2', got L1Penalty"),
        (MulticlassHingeLoss(), ElasticNetPenalty(), "needs penalty='l2'"),
        (MulticlassHingeLoss(), NoPenalty(), "needs penalty='l2'"),
    ],
)
def test_it_says_what_it_cannot_do(numpy_backend, loss, penalty, message):
    objective = numpy_backend.objective(loss, penalty, X, CODES[3])
    assert not InteriorPoint().pays(objective)
    with pytest.raises(ValueError, match=message):
        minimize(objective, InteriorPoint())


def test_it_names_the_loss_and_not_its_kernel():
    with pytest.raises(ValueError, match=r"got SoftmaxLoss\(\); use"):
        LinearClassifier(solver=InteriorPoint()).fit(X, CODES[3])


@pytest.mark.parametrize("loss", KINKED, ids=lambda loss: type(loss).__name__)
def test_an_estimator_with_it(loss):
    clf = LinearClassifier(loss, alpha=0.05, solver=InteriorPoint(tol=1e-6)).fit(X, CODES[3])
    np.testing.assert_allclose(clf.objective_, optimum(loss, CODES[3], 3, 0.05), rtol=2e-6)


def test_without_alpha_nothing_is_proven(numpy_backend):
    objective = numpy_backend.objective(
        AbsoluteErrorLoss(), L2Penalty(), X, CODES[3], alpha=(0.0, 0.1)
    )
    result = minimize(objective, InteriorPoint())
    assert result.lower_bound[0] == 0.0
    assert result.residual[0] == 1.0
    assert result.reasons[1] == "converged"


def test_what_is_not_finite_stops_it(numpy_backend):
    objective = numpy_backend.objective(
        MulticlassHingeLoss(), L2Penalty(), X * 1e200, CODES[3], alpha=(0.1,)
    )
    with np.errstate(over="ignore"):
        result = minimize(objective, InteriorPoint())
    assert result.reasons == ("rounding",)
    assert result.residual[0] == 1.0
    assert np.isfinite(result.params.W).all()


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="max_iter must be an integer of at least 1, got 0"):
        InteriorPoint(max_iter=0)
    assert SOLVERS["interior_point"] is InteriorPoint


def test_where_it_pays(numpy_backend):
    def pays(n, p, k, m=1, loss=None):
        data = np.broadcast_to(0.0, (n, p))
        return InteriorPoint().pays(
            numpy_backend.objective(
                loss or CrammerSingerLoss(), L2Penalty(), data, np.broadcast_to(0, n), k=k
            ),
            m,
        )

    assert pays(1797, 64, 10)
    assert pays(150, 4, 3, m=120)
    assert not pays(1797, 64, 10, m=20)
    assert not pays(20_000, 784, 10)
    assert not pays(1797, 64, 10, m=1000)
    assert pays(20_000, 100, 2)
    wide = AbsoluteErrorLoss(), MulticlassHingeLoss()  # classes apart, and together
    assert [pays(2000, 300, 10, loss=loss) for loss in wide] == [True, False]
    objective = numpy_backend.objective(MulticlassHingeLoss(), L2Penalty(), X, CODES[3])
    kernel = AcceleratedLoss(objective.loss, lambda loss, *a, **b: loss.value_and_grad(*a, **b))
    assert InteriorPoint().pays(replace(objective, loss=kernel))


def test_its_optimum_is_certified(numpy_backend):
    """The certificate of the loss's own gradient is weaker, and never contradicts."""
    objective = numpy_backend.objective(AbsoluteErrorLoss(), L2Penalty(), X, CODES[3])
    result = minimize(objective, InteriorPoint(tol=1e-8))
    value, bound = value_and_lower_bound(objective, result.params)
    assert bound[0] <= result.lower_bound[0] + 1e-12
    np.testing.assert_allclose(value, result.lower_bound, rtol=1e-7)
