"""Newton's method by conjugate gradients: few products, in float32 where that will do."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression

import xplinear as xl
from xplinear.backends import numpy as numpy_module
from xplinear.data import SparseData
from xplinear.data.rows import FarStandard, Standard
from xplinear.losses import LOSSES, SoftmaxLoss
from xplinear.minimize import minimize
from xplinear.model_selection.sweep import stack_width
from xplinear.penalties import L2Penalty
from xplinear.solvers import Newton, NewtonCG, newton_cg
from xplinear.solvers.automatic import automatic_solver, cheap_optimum

rng = np.random.default_rng(0)
N, P, K = 300, 30, 3
DENSE = rng.standard_normal((N, P)) * (rng.random((N, P)) < 0.2)
Y = np.argmax(DENSE[:, :K] + 0.5 * rng.gumbel(size=(N, K)), axis=1).astype(np.int32)
S = rng.integers(0, 3, (N, 2)).astype(float)
ALPHAS = (0.1, 1e-3, 1e-5)


def sparse(backend: Any, X: Any = DENSE, y: Any = Y, **settings: Any) -> SparseData:
    return SparseData(backend.sparse(scipy.sparse.csr_array(X)), y, backend=backend, **settings)


def objective(data: Any, loss: Any = None, alpha: Any = ALPHAS) -> xl.Objective:
    strengths = np.asarray(alpha, data.dtype)
    return xl.Objective(loss or SoftmaxLoss(), L2Penalty(), strengths, data, K)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Count passes by what they compute, and in which dtype."""
    passes: Counter[tuple[str, str]] = Counter()
    reduce = SparseData.reduce

    def counting(self: Any, function: Any, *args: Any, **settings: Any) -> Any:
        passes[function.__name__, str(np.dtype(self.dtype))] += 1
        return reduce(self, function, *args, **settings)

    monkeypatch.setattr(SparseData, "reduce", counting)
    return passes


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge", "squared_error"])
@pytest.mark.parametrize("weighted", [False, True])
def test_float32_on_the_way_leads_to_the_optimum_of_float64(
    numpy_backend: Any, loss: str, weighted: bool, monkeypatch: Any, counted: Any
) -> None:
    data = sparse(numpy_backend.backend)
    if weighted:
        data = data.with_weights(S, np.asarray([0, 1, 1]))
    F = objective(data, LOSSES[loss]())
    expected = F.value(minimize(F, Newton(tol=1e-9)).params)
    monkeypatch.setattr(newton_cg, "_LARGE", 0.0)
    counted.clear()
    result = minimize(F, NewtonCG(tol=1e-9))
    assert result.params.W.dtype == np.float64
    np.testing.assert_allclose(F.value(result.params), expected, rtol=1e-10)
    assert counted["_curved", "float32"] > 0 == counted["_curved", "float64"]
    assert counted["_of_scores", "float64"] > 0 == counted["_of_scores", "float32"]


def test_who_starts_at_the_optimum_ends_there(numpy_backend: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(newton_cg, "_LARGE", 0.0)
    F, solver = objective(sparse(numpy_backend.backend)), NewtonCG(tol=1e-6)
    first = minimize(F, solver)
    again = minimize(F, solver, first.params)
    followed = minimize(F, solver, state=solver.follow(F, first.params, first.state, F.alpha))
    for result in (again, followed):
        assert result.reasons == ("converged",) * F.m
        assert result.n_iter <= 3


def test_what_float32_does_not_hold_stays_as_it_is(numpy_backend: Any) -> None:
    for tiny in (1e-30, 1e30):
        data = sparse(numpy_backend.backend, tiny * DENSE)
        assert data.narrowed() is data
    narrow = sparse(numpy_backend.backend).narrowed()
    assert narrow.dtype == np.float32
    assert narrow.narrowed() is narrow
    same = sparse(numpy_backend.backend, DENSE.astype(np.float32))
    assert same.narrowed() is same


def test_scikit_learn_finds_the_same(numpy_backend: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(newton_cg, "_LARGE", 0.0)
    X, C = scipy.sparse.csr_matrix(DENSE), 3.0
    twin = LogisticRegression(C=C, solver="newton-cg", tol=1e-10).fit(X, Y)
    solver = NewtonCG(tol=1e-9)
    clf = xl.LinearClassifier(
        solver=solver, alpha=1.0 / (C * N), backend=numpy_backend.backend
    ).fit(X, Y)
    np.testing.assert_allclose(clf.coef_, twin.coef_, atol=1e-6)
    np.testing.assert_allclose(clf.predict_proba(X), twin.predict_proba(X), atol=1e-6)


def test_where_features_lie_costs_nothing(numpy_backend: Any, counted: Any) -> None:
    """The metric is centred for each column of weights."""
    made = []
    for far in (0.0, 3.0):
        counted.clear()
        # The same optimum, as intercepts are free.
        F = objective(sparse(numpy_backend.backend, DENSE + far), alpha=[1e-3])
        value = F.value(minimize(F, NewtonCG(tol=1e-6)).params)[0]
        made.append((counted["_curved", "float64"], value))
    (few, expected), (more, found) = made
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert more <= 1.2 * few


def test_a_direction_that_was_not_found_proves_no_convergence(
    numpy_backend: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(newton_cg, "_PRODUCTS", 1)
    scales = np.logspace(0, 2, P)
    mixed = DENSE @ np.linalg.qr(rng.standard_normal((P, P)))[0] * scales
    F = objective(sparse(numpy_backend.backend, mixed), alpha=[1e-6])
    expected = F.value(minimize(F, Newton(tol=1e-9)).params)
    result = minimize(F, NewtonCG(tol=1e-3))
    assert result.converged.all()
    assert F.value(result.params) - expected < 1e-5 * F.loss_at_zero()
    monkeypatch.setattr(newton_cg, "_MOST_PRODUCTS", 1)
    easy = NewtonCG(tol=1e9)
    state = easy.init(F, F.zeros())
    for _ in range(2):
        assert state.report.residual[0] < easy.tol
        assert not state.report.converged[0]
        state = easy.step(F, state)


def test_a_path_keeps_how_hard_a_step_is(numpy_backend: Any) -> None:
    F = objective(sparse(numpy_backend.backend), alpha=[1e-4])
    solver = NewtonCG(tol=1e-8)
    first = minimize(F, solver)
    weaker = replace(F, alpha=F.alpha / 2.0)
    state = solver.follow(weaker, first.params, first.state, F.alpha)
    assert state.steps == first.state.steps
    followed = minimize(weaker, solver, state=state)
    expected = weaker.value(minimize(weaker, Newton(tol=1e-9)).params)
    np.testing.assert_allclose(weaker.value(followed.params), expected, rtol=1e-9)
    assert followed.n_iter < first.n_iter


def test_sparse_rows_of_many_features_are_solved_by_it(numpy_backend: Any) -> None:
    X, y = scipy.sparse.random(2000, 5000, 0.003, format="csr", random_state=0), np.arange(2000) % 3
    many = objective(sparse(numpy_backend.backend, X, y), alpha=[0.1])
    few = objective(sparse(numpy_backend.backend, X[:, :4000], y), alpha=[0.1])
    assert automatic_solver(many) == "newton_cg"
    assert automatic_solver(few) == "lbfgs"
    large = replace(many, data=replace(many.data, X=_Counting(many.data.X, 10**9)))
    assert cheap_optimum(many)
    assert not cheap_optimum(large)
    assert xl.LinearClassifier(alpha=0.1).fit(X, y).solver_ == "newton_cg"


class _Counting:
    """A sparse matrix that says it stores more than it does."""

    def __init__(self, X: Any, nnz: int) -> None:
        self._X, self.nnz = X, nnz

    def __getattr__(self, name: str) -> Any:
        return getattr(self._X, name)


def test_stacks_of_sparse_rows_are_bounded_by_their_weights(numpy_backend: Any) -> None:
    F = objective(sparse(numpy_backend.backend), alpha=[0.1])
    for models in (1, 4):
        backend = replace(numpy_backend.backend, block_bytes=models * 8 * P * K)
        little = replace(F, data=replace(F.data, backend=backend))
        assert stack_width(little, 6, follows=True) == (models, 1)


@pytest.mark.parametrize("standardize", [False, True])
def test_features_in_another_order_are_the_same_rows(numpy_backend: Any, standardize: bool) -> None:
    X = scipy.sparse.csr_array(DENSE)
    data = SparseData(numpy_backend.backend.sparse(X), Y, backend=numpy_backend.backend)
    if standardize:
        data = data.with_standard(Standard(rng.standard_normal(P), 1.0 + rng.random(P)))
    ordered, order = data.ordered()
    assert order is not None
    np.testing.assert_array_equal(order.place[order.first], np.arange(P))
    entries = np.count_nonzero(DENSE[:, order.first], axis=0)
    assert (np.diff(entries) <= 0).all()
    for rows in (ordered, ordered.narrowed()):
        expected, found = data.sample(N).rows.dense(), rows.sample(N).rows.dense()
        np.testing.assert_allclose(found, expected[:, order.first], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(X.toarray(), DENSE)  # nothing of a user's is sorted
    far = data.with_standard(FarStandard(np.ones(P), np.ones(P)))
    assert far.ordered() == (far, None)


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge", "squared_error"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_search_in_place_and_in_order_finds_the_same_direction(
    numpy_backend: Any, loss: str, fit_intercept: bool, dtype: str, monkeypatch: Any
) -> None:
    """The kernel beside the reference, a few features at a time."""
    monkeypatch.setattr(numpy_module, "_FEATURES", 40)
    weights = S.astype(dtype), np.asarray([0, 1, 1])
    data = sparse(numpy_backend.backend, DENSE.astype(dtype)).with_weights(*weights)
    F = replace(objective(data, LOSSES[loss]()), fit_intercept=fit_intercept)
    plain = replace(F, data=replace(data, backend=data.backend.reference()))
    expected = NewtonCG().init(plain, plain.zeros())
    for large in (np.inf, 0.0):
        monkeypatch.setattr(newton_cg, "_LARGE", large)
        found = NewtonCG().init(F, F.zeros())
        rtol = 1e-9 if large and dtype == "float64" else 1e-3
        for a, b in zip(found.direction, expected.direction, strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())
        np.testing.assert_allclose(found.decrement, expected.decrement, rtol=rtol)


@pytest.mark.parametrize("accelerate", [True, False])
def test_models_that_are_solved_leave_a_search(
    numpy_backend: Any, accelerate: bool, monkeypatch: Any
) -> None:
    monkeypatch.setattr(newton_cg, "_PRODUCTS", 100)
    widths, curved = [], newton_cg._curved

    def counting(loss: Any, xp: Any, block: Any, A: Any, way: Any) -> Any:
        widths.append(way.b.shape[0])
        return curved(loss, xp, block, A, way)

    monkeypatch.setattr(newton_cg, "_curved", counting)
    backend = numpy_backend.backend.accelerating(accelerate)
    alphas = np.asarray([1e-6, 100.0, 0.1, 30.0, 1e-3, 10.0, 50.0])
    scales = np.logspace(-1.5, 0.5, P)
    mixed = DENSE @ np.linalg.qr(rng.standard_normal((P, P)))[0] * scales
    one_vs_rest = {"targets": None, "positives": np.arange(7) % K}
    weights, columns = rng.random((N, 7)), np.arange(7)[::-1].copy()
    for labels in ({}, one_vs_rest):
        widths.clear()
        data = sparse(backend, mixed, **labels).with_weights(weights, columns)
        F = replace(objective(data, alpha=alphas), k=2 if labels else K)
        together = NewtonCG().init(F, F.zeros())
        assert widths[0] == 7
        assert min(widths) == widths[-1] <= 3
        for j in range(7):
            one = F.take(np.asarray([j]))
            alone = NewtonCG().init(one, one.zeros())
            for a, b in zip(together.direction, alone.direction, strict=True):
                own = np.moveaxis(a, -2, 0)[j : j + 1]
                expected = np.moveaxis(b, -2, 0)
                atol = 1e-6 * np.abs(expected).max()
                np.testing.assert_allclose(own, expected, rtol=1e-6, atol=atol)
            np.testing.assert_allclose(together.decrement[j], alone.decrement[0], rtol=1e-8)


def test_rows_are_seen_alike_when_models_leave(numpy_backend: Any, monkeypatch: Any) -> None:
    """The metric is of features in an order, which must not change."""
    data = sparse(numpy_backend.backend)
    monkeypatch.setattr(newton_cg, "_LARGE", float(data.entries * len(ALPHAS) * K))
    F, solver = objective(data), NewtonCG(tol=1e-9)
    state = solver.init(F, F.zeros())
    for _ in range(2):  # the third step measures no metric
        state = solver.step(F, state)
    kept = np.asarray([2])
    step = solver.step(F.take(kept), solver.take(state, kept, xp=np))
    assert (state.eyes, step.eyes) == (2, 2)
    expected = solver.take(solver.step(F, state), kept, xp=np)
    np.testing.assert_allclose(step.direction.W, expected.direction.W, rtol=1e-3, atol=1e-4)
