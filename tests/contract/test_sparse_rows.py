"""Sparse rows give what the same rows give as an array: the same steps to the same optimum."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array, random_array

import xplinear as xl
from xplinear.backends import BackendError, get_backend
from xplinear.backends.sparse import ScipyRows
from xplinear.checks.certificate import certify
from xplinear.data import ArrayData, SparseData, Standard
from xplinear.data.rows import FarStandard
from xplinear.duality import value_and_lower_bound
from xplinear.losses import LOSSES, SoftmaxLoss
from xplinear.model_selection.alphas import automatic_alphas
from xplinear.penalties import PENALTIES, L2Penalty
from xplinear.solvers import SGD, SOLVERS, InteriorPoint, Newton
from xplinear.solvers.automatic import automatic_solver
from xplinear.solvers.metric import feature_moments
from xplinear.solvers.protocol import declared

N, P, K, M = 150, 12, 3, 3
rng = np.random.default_rng(5)
X = random_array((N, P), density=0.3, rng=rng, data_sampler=rng.standard_normal).toarray()
X[:, 3] = rng.uniform(0.5, 1.5, N)  # stored everywhere
X[:, 4] = 0.0
Y = np.argmax(X[:, :K] + 0.3 * rng.gumbel(size=(N, K)), axis=1).astype(np.int32)
S = rng.integers(0, 4, (N, 2)).astype(float)
STANDARD = X.mean(axis=0), 1.0 / np.where(X.std(axis=0) > 0, X.std(axis=0), np.inf)
# After some more steps a difference of the last bit decides on which side of a kink a row is.
STEPS = {"smoothing": 15}


def pair(backend, objective):
    """Return an objective of an array, and that of the same rows as a sparse matrix."""
    data = objective.data
    try:
        rows = backend.backend.sparse(csr_array(backend.to_numpy(data.X)))
    except BackendError:
        pytest.skip("the library has no products of sparse matrices")
    sparse = SparseData(
        *(rows, data.y, data.s, data.dtype, data.models), backend=data.backend, targets=data.targets
    )
    return objective, replace(objective, data=sparse.with_standard(data.standard))


def assert_same(backend, found, expected, tolerance=1e-10):
    for pair in zip(found, expected, strict=True):
        a, b = map(backend.to_numpy, pair)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, np.abs(b).max()))


EXACT = [
    (solver, loss, penalty)
    for solver, loss, penalty in product(SOLVERS, LOSSES, PENALTIES)
    if declared(SOLVERS[solver], "exact")
    and declared(SOLVERS[solver](), "refuses")(LOSSES[loss](), PENALTIES[penalty]()) is None
]
# Weights, the column that serves each model, and whether there is an intercept.
KINDS: dict[str, Any] = {
    "plain": {},
    "weights of each model": {"s": S, "models": [0, 1, 1]},
    "no intercept": {"fit_intercept": False, "s": S[:, :1]},
}


@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("solver", "loss", "penalty"), EXACT)
def test_same_steps(numpy_backend, solver, loss, penalty, kind, standardized):
    backend, own = numpy_backend, SOLVERS[solver](tol=1e-6, max_iter=STEPS.get(solver, 200))
    F = backend.objective(
        LOSSES[loss](), PENALTIES[penalty](), X, Y, alpha=[0.3, 0.1, 0.03], k=K, **KINDS[kind]
    )
    if standardized:
        F = replace(F, data=F.data.with_standard(Standard(*map(backend.asarray, STANDARD))))
    F, G = pair(backend, F)
    expected, found = xl.minimize(F, own), xl.minimize(G, own)
    assert found.reasons == expected.reasons
    for name in expected.history.keys() - {"seconds"}:
        assert len(found.history[name]) == len(expected.history[name])
    if penalty == "none" and F.loss.shift_invariant:  # what is alike in all classes is nobody's
        found, expected = (
            replace(
                r, params=xl.Params(r.params.W - r.params.W.mean(axis=2, keepdims=True), r.params.b)
            )
            for r in (found, expected)
        )
    assert_same(backend, found.params, expected.params)
    assert_same(
        backend, value_and_lower_bound(G, found.params), value_and_lower_bound(F, found.params)
    )


@pytest.mark.parametrize("loss", ["softmax", "multiclass_hinge"])
def test_sgd_makes_the_same_updates(backend, loss):
    F = backend.objective(
        LOSSES[loss](), L2Penalty(), X, Y, alpha=[0.3, 0.1, 0.03], k=K, s=S, models=[0, 1, 1]
    )
    both = Standard(*map(backend.asarray, STANDARD))
    F, G = pair(backend, replace(F, data=F.data.with_standard(both)))
    solver = SGD(max_iter=3, batch_size=40, average=True)
    expected, found = xl.minimize(F, solver), xl.minimize(G, solver)
    assert_same(backend, found.params, expected.params)
    assert SGD().iterations_on(F) == -(-2000 // -(-N // 64))
    assert SGD().iterations_on(G) == 2000  # batches of 1024: one holds all rows


@st.composite
def matrices(draw):
    """Rows, columns and values with empty ones, duplicates and zeros that are stored."""
    n, p = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    entries = st.tuples(
        st.integers(0, n - 1), st.integers(0, p - 1), st.sampled_from([0.0, 1.0, -2.5, 1e4, 3e-5])
    )
    found = draw(st.lists(entries, max_size=40))
    i, j, values = (np.asarray([one[axis] for one in found]) for axis in range(3))
    return coo_array((values.astype(float), (i.astype(int), j.astype(int))), shape=(n, p))


@settings(max_examples=60, deadline=None)
@given(matrices(), st.integers(0, 2**16), st.booleans())
def test_any_matrix_gives_what_it_gives_dense(matrix, seed, weighted):
    rng, (n, p) = np.random.default_rng(seed), matrix.shape
    backend, y = get_backend("numpy"), rng.integers(0, 2, n).astype(np.int32)
    s = rng.integers(0, 3, (n, 2)).astype(float) if weighted else None
    if s is not None:
        s[0] = 1.0
    dense = ArrayData(matrix.toarray(), y, s, backend=backend)
    sparse = SparseData(backend.sparse(matrix), y, s, backend=backend)
    assert sparse.X.nnz <= matrix.nnz
    standard = rng.uniform(-1.0, 1.0, p), rng.uniform(0.5, 2.0, p)
    for kind in (None, Standard, FarStandard):
        own = None if kind is None else kind(*standard)
        F, G = (
            xl.Objective(
                SoftmaxLoss(), L2Penalty(), np.asarray([0.1, 0.2]), data.with_standard(own), k=2
            )
            for data in (dense, sparse)
        )
        W, b = F.zeros()
        params = xl.Params(rng.standard_normal(W.shape), rng.standard_normal(b.shape))
        for a, c in zip(F.value_and_grad(params)[1], G.value_and_grad(params)[1], strict=True):
            np.testing.assert_allclose(c, a, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(a).max()))
        np.testing.assert_allclose(G.value(params), F.value(params), rtol=1e-12)
        a, c = feature_moments(F), feature_moments(G)
        scale = 1.0 + np.abs(a.deviation).max() + np.abs(matrix).max()
        np.testing.assert_allclose(c.mean, a.mean, rtol=1e-9, atol=1e-12 * scale)
        np.testing.assert_allclose(c.deviation, a.deviation, rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("kind", [None, Standard, FarStandard])
@pytest.mark.parametrize(
    ("loss", "penalty"), [("softmax", "l2"), ("softmax", "l1"), ("crammer_singer", "l2")]
)
def test_nothing_is_written_out(monkeypatch, loss, penalty, kind):
    """Of 30,000 features no solver makes rows × p numbers, nor p × p, nor does a certificate."""
    n, p, k = 300, 30_000, 3
    real = ScipyRows.to_dense, ScipyRows.columns

    def guarded(i):
        def write(self, *index):
            q = len(index[0]) if index else p
            assert self.shape[0] * q <= 2 * n * 1000
            return real[i](self, *index)

        return write

    monkeypatch.setattr(ScipyRows, "to_dense", guarded(0))
    monkeypatch.setattr(ScipyRows, "columns", guarded(1))
    matrix = random_array((n, p), density=1e-3, rng=np.random.default_rng(0))
    y = np.argmax(matrix[:, :k].toarray() + rng.gumbel(size=(n, k)), axis=1).astype(np.int32)
    backend = get_backend("numpy")
    data = SparseData(backend.sparse(matrix), y, backend=backend)
    own = None if kind is None else kind(np.full(p, 1e-3), np.full(p, 50.0))
    F = xl.Objective(
        LOSSES[loss](), PENALTIES[penalty](), np.asarray([0.01]), data.with_standard(own), k=k
    )
    assert automatic_solver(F) not in {"newton", "interior_point"}
    tracemalloc.start()
    for solver in SOLVERS.values():
        ready = solver(max_iter=12)
        refused = declared(ready, "refuses")(F.loss, F.penalty)
        if refused is None and not isinstance(ready, (Newton, InteriorPoint)):
            result = xl.minimize(F, ready)
            assert np.isfinite(F.value(result.params)).all()
            if declared(ready, "exact"):
                certify(F, result, ready)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 250 * 3 * p


def test_what_is_too_large_is_not_written_out():
    backend, size = get_backend("numpy"), 2**14
    rows = SparseData(backend.sparse(csr_array((size, size))), np.zeros(size, int), backend=backend)
    F = xl.Objective(LOSSES["crammer_singer"](), L2Penalty(), np.asarray([0.1]), rows, k=2)
    with pytest.raises(ValueError, match="16384 sparse rows of 16384 features would have to be"):
        xl.minimize(F, InteriorPoint())


@pytest.mark.parametrize("each", [False, True])
def test_features_far_from_0_are_centred_where_they_are_stored(backend, each):
    """A year beside rare words, in float32: products of years would cancel."""
    rng = np.random.default_rng(0)
    there = X.copy()
    there[:, 3] = 20_000 + rng.integers(-2, 3, N)
    centre = np.where(np.arange(P) == 3, 20_000.0, 0.01)
    scale = np.where(np.arange(P) == 3, 0.7, 1.3)
    if each:
        centre, scale = (a[:, None] * [1.0, 1.00001] for a in (centre, scale))
    F = backend.objective(
        SoftmaxLoss(), L2Penalty(), there, Y, alpha=[0.1, 0.1], dtype="float32", stored="float64"
    )
    params = backend.params(F)
    own = FarStandard(*map(backend.asarray, (centre, scale)))
    F, G = pair(backend, replace(F, data=F.data.with_standard(own)))
    W, b = (backend.to_numpy(a).astype(float) for a in params)
    features = (there[:, :, None] - centre.reshape(P, -1)) * scale.reshape(P, -1)
    Z = np.einsum("npj,pjc->njc", features + np.zeros((1, 1, 2)), W) + b
    block = G.data.sample(N)
    np.testing.assert_allclose(
        backend.to_numpy(block.rows.scores(*params, xp=G.xp)), Z, atol=2e-5 * np.abs(Z).max()
    )
    assert_same(backend, G.value_and_grad(params)[1], F.value_and_grad(params)[1], 1e-5)
    stored = G.data.with_standard(None).sample(N).rows.dense()
    np.testing.assert_array_equal(backend.to_numpy(stored), there.astype(np.float32))


def test_strengths_to_try_are_those_of_the_rows_dense(numpy_backend):
    for penalty in (PENALTIES["l1"](), L2Penalty()):
        F, G = pair(
            numpy_backend, numpy_backend.objective(SoftmaxLoss(), penalty, X, Y, s=S[:, :1])
        )
        np.testing.assert_allclose(automatic_alphas(G, 5), automatic_alphas(F, 5), rtol=1e-10)


def test_what_is_constant_does_not_vary_by_rounding(backend):
    there = X.copy()
    there[:, 3] = 7.3  # stored everywhere: sums of weights must cancel exactly
    weights = np.random.default_rng(1).uniform(0.1, 1.0, (N, 1))
    _, G = pair(
        backend,
        backend.objective(SoftmaxLoss(), L2Penalty(), there, Y, weights, alpha=[0.1, 0.1]),
    )
    deviation = backend.to_numpy(feature_moments(G).deviation)
    assert (deviation[[3, 4]] == 0.0).all()
    assert (deviation[[0, 1, 2, 5]] > 0.0).all()
