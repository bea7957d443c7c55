"""Sparse X in the libraries of devices: torch's tensors, CuPy's matrices, and who refuses them."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import random_array

from xplinear import LinearClassifier, Objective, minimize
from xplinear.backends import BackendError, get_backend, host_reads
from xplinear.backends.sparse import ScipyRows
from xplinear.checks.parity import random_objective
from xplinear.data import ArrayData, SparseData, data_of
from xplinear.losses import SoftmaxLoss
from xplinear.penalties import L2Penalty
from xplinear.solvers import LBFGS, SGD

rng = np.random.default_rng(0)
X = random_array((200, 12), density=0.3, rng=rng, data_sampler=rng.standard_normal).tocsr()
X.data = np.round(4.0 * np.abs(X.data)) + 1.0  # exact in every dtype
Y = (X @ rng.standard_normal(12) > 0.0).astype(np.int32)


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def expected() -> LinearClassifier:
    """The model of the same rows as an array of NumPy."""
    return LinearClassifier(dtype="float64").fit(X.toarray(), Y)


def tensors(torch: Any) -> dict[str, Any]:
    """Return X as sparse tensors of many kinds."""
    dense = torch.from_numpy(X.toarray())
    with warnings.catch_warnings(action="ignore"):  # what torch says of them to whoever makes them
        csr, coo = dense.to_sparse_csr(), dense.to_sparse_coo()
        twice = (
            torch.cat([coo.indices()] * 2, 1),
            torch.cat([coo.values() * 0.25, coo.values() * 0.75]),
        )
        parts = csr.crow_indices().int(), csr.col_indices().int(), csr.values()
        found = {
            "csr": csr,
            "csc": dense.to_sparse_csc(),
            "coo": coo,
            "coo with duplicates": torch.sparse_coo_tensor(*twice, coo.shape),
            "int32 indices": torch.sparse_csr_tensor(*parts, size=csr.shape),
            "gradients": torch.sparse_csr_tensor(*parts, size=csr.shape, requires_grad=True),
        }
        for dtype in ("float16", "bfloat16", "int8", "uint16", "int64"):
            found[dtype] = csr.to(getattr(torch, dtype))
        with torch.inference_mode():
            found["inference"] = dense.to_sparse_csr()
    return found


def fitted(
    clf: LinearClassifier, rows: Any, y: Any, expected: LinearClassifier
) -> LinearClassifier:
    clf = clf.set_params(dtype="float64").fit(rows, y)
    coef = clf.backend_.to_host(clf.coef_)
    np.testing.assert_allclose(coef, expected.coef_, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(clf.n_iter_, expected.n_iter_)
    return clf


def test_tensors_of_every_layout(torch: Any, expected: LinearClassifier) -> None:
    """Quietly, and predictions are where X is."""
    P = expected.predict_proba(X.toarray())
    for name, rows in tensors(torch).items():
        clf = fitted(LinearClassifier(), rows, torch.from_numpy(Y), expected)
        assert clf.backend_.name == "torch", name
        found = clf.predict_proba(rows)
        assert isinstance(found, torch.Tensor), name
        np.testing.assert_allclose(found, P, atol=1e-10)
        assert isinstance(clf.predict(rows), torch.Tensor)


def test_torch_says_nothing_to_who_uses_no_sparse_tensors() -> None:
    pytest.importorskip("torch")
    import subprocess

    script = """
import numpy as np, scipy.sparse
from xplinear import LinearClassifier
X = scipy.sparse.eye_array(6).tocsr()
LinearClassifier(backend="torch").fit(X, [0, 1] * 3).predict(X)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=120)


def test_as_in_other_contexts_of_torch(torch: Any, expected: LinearClassifier) -> None:
    rows, y = tensors(torch)["csr"], torch.from_numpy(Y)
    with torch.inference_mode():
        fitted(LinearClassifier(), rows, y, expected).predict(rows)
    with torch.autocast("cpu"):
        fitted(LinearClassifier(), rows, y, expected).predict(rows)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        fitted(LinearClassifier(), rows, y, expected).predict(rows)
    finally:
        torch.set_default_dtype(before)


def test_from_one_library_to_another(torch: Any, expected: LinearClassifier) -> None:
    rows, scores = tensors(torch)["csr"], expected.decision_function(X)
    clf = fitted(LinearClassifier(backend="torch"), X, Y, expected)
    assert isinstance(clf.decision_function(X), np.ndarray)
    clf = fitted(LinearClassifier(backend="numpy"), rows, torch.from_numpy(Y), expected)
    assert isinstance(clf.decision_function(rows), torch.Tensor)
    moved = expected.to("torch")
    for there in (rows, X):
        found = moved.decision_function(there)
        np.testing.assert_allclose(np.asarray(found), scores, atol=1e-10)
    with pytest.raises(ValueError, match=r"clf.to\('torch'\)"):
        expected.predict(rows)


def test_partial_fit(torch: Any) -> None:
    rows = tensors(torch)["csr"]
    one, other = (LinearClassifier(dtype="float64", random_state=0) for _ in range(2))
    for _ in range(2):
        one.partial_fit(rows, torch.from_numpy(Y), classes=[0, 1])
        other.partial_fit(X, Y, classes=[0, 1])
    np.testing.assert_allclose(one.coef_, other.coef_, rtol=1e-10)


def test_tensors_that_are_wrong(torch: Any) -> None:
    csr, nan = tensors(torch)["csr"], float("nan")
    starts, columns, values = csr.crow_indices(), csr.col_indices(), csr.values()
    ends = starts.clone()
    ends[3] = 10**9

    def made(starts: Any, columns: Any, values: Any) -> Any:
        return torch.sparse_csr_tensor(
            starts, columns, values, size=csr.shape, check_invariants=False
        )

    with warnings.catch_warnings(action="ignore"):
        wrong = [
            (made(starts, columns + 1, values), ValueError, "indices must be < 12"),
            (made(starts, columns - 1, values), ValueError, "indices must be >= 0"),
            (made(ends, columns, values), ValueError, "non-decreasing"),
            (made(starts, columns, nan * values), ValueError, "X contains NaN"),
            (csr.to(torch.complex64), ValueError, "X is complex"),
            (csr.to_dense().to_sparse_bsr((4, 4)), TypeError, "layout torch.sparse_bsr"),
            (torch.stack([csr.to_dense()] * 2).to_sparse_csr(), TypeError, r"\(2, 200, 12\)"),
            (csr.to_dense().to_sparse_coo()[0], TypeError, r"shape \(12,\)"),
            (csr.to("meta"), TypeError, "no values"),
        ]
        fewer = csr.to_dense()[:, :5].to_sparse_csr()
    for rows, error, words in wrong:
        with pytest.raises(error, match=words):
            LinearClassifier().fit(rows, Y)
    with pytest.raises(ValueError, match="X has 5 features"):
        LinearClassifier().fit(csr, Y).predict(fewer)


def test_jax_refuses() -> None:
    pytest.importorskip("jax")
    from jax.experimental import sparse

    rows = X.toarray()
    for there in (sparse.BCOO.fromdense(rows), sparse.BCSR.fromdense(rows)):
        for clf in (LinearClassifier(), LinearClassifier(backend="numpy")):
            with pytest.raises(TypeError, match=r"X is a sparse matrix of JAX, BC.*todense"):
                clf.fit(there, Y)
        with pytest.raises(TypeError, match=r"X is a sparse matrix of JAX, BC.*todense"):
            LinearClassifier().fit(rows, Y).predict(there)


@pytest.mark.parametrize("backend", ["jax", "array_api_strict"])
def test_backends_without_products_refuse(backend: str, expected: LinearClassifier) -> None:
    pytest.importorskip(backend)
    with pytest.raises(BackendError, match=r"X is sparse.*use backend='numpy'.*X.toarray\(\)"):
        LinearClassifier(backend=backend).fit(X, Y)
    with pytest.raises(BackendError, match=r"X is sparse.*use backend='numpy'"):
        expected.to(backend).predict(X)


class TestCuPy:
    """Its own code, run by the emulation, whose arrays refuse to be read by the host unasked."""

    @pytest.fixture
    def backend(self, emulated: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setitem(sys.modules, "xplinear.backends.cupy", emulated)
        return emulated.select("")

    def matrices(self, emulated: Any, backend: Any) -> list[Any]:
        sparse, make, csc, coo = emulated.cupyx.scipy.sparse, backend.asarray, X.tocsc(), X.tocoo()
        places = tuple(map(make, coo.coords))
        return [
            sparse.csr_matrix(tuple(map(make, (X.data, X.indices, X.indptr))), shape=X.shape),
            sparse.csc_matrix(tuple(map(make, (csc.data, csc.indices, csc.indptr))), shape=X.shape),
            sparse.coo_matrix((make(coo.data), places), shape=X.shape),
        ]

    def test_matrices_of_every_format(
        self, emulated: Any, backend: Any, expected: LinearClassifier
    ) -> None:
        P = expected.predict_proba(X)
        for rows in self.matrices(emulated, backend):
            clf = fitted(LinearClassifier(), rows, Y, expected)
            assert clf.backend_.name == "cupy"
            found = clf.predict_proba(rows)
            assert type(found) is emulated.cupy.ndarray.__mro__[0]
            np.testing.assert_allclose(backend.fetch(found), P, atol=1e-10)

    def test_matrices_of_scipy(self, backend: Any, expected: LinearClassifier) -> None:
        clf = fitted(LinearClassifier(backend=backend), X, Y, expected)
        np.testing.assert_allclose(clf.predict_proba(X), expected.predict_proba(X), atol=1e-10)

    def test_parity(self, backend: Any) -> None:
        found, expected = (
            random_objective(one, one.xp.float64, "softmax", "l2", density=0.3, sparse=True)
            for one in (backend, get_backend("numpy"))
        )
        (value, grad), (own, slope) = (F.value_and_grad(params) for F, params in (found, expected))
        for a, b in zip((value, *grad), (own, *slope), strict=True):
            np.testing.assert_allclose(backend.fetch(a), b, rtol=1e-12, atol=1e-12)


def kinds(request: pytest.FixtureRequest, name: str) -> Any:
    return (
        request.getfixturevalue("emulated").select("") if name == "emulated" else get_backend(name)
    )


@pytest.mark.parametrize("name", ["numpy", "torch", "emulated"])
@pytest.mark.parametrize("solver", [LBFGS(2, tol=0.0), SGD(2, batch_size=32)])
def test_reads_by_the_host(request: pytest.FixtureRequest, name: str, solver: Any) -> None:
    """One for each iteration or epoch, and as many to begin with as dense rows need."""
    if name == "torch":
        pytest.importorskip("torch")
    backend, reads = kinds(request, name), []
    for rows in (SparseData, ArrayData):
        there = backend.sparse(X) if rows is SparseData else backend.asarray(X.toarray())
        for more in (0, 2):
            own = replace(solver, max_iter=solver.max_iter + more)
            data = rows(there, backend.asarray(Y), backend=backend)
            F = Objective(
                SoftmaxLoss(), L2Penalty(), backend.asarray(np.asarray([0.01])), data, k=2
            )
            before = host_reads.count
            minimize(F, own)
            reads.append(host_reads.count - before)
    assert reads[1] - reads[0] == reads[3] - reads[2] == 2
    assert reads[0] == reads[2]


@pytest.mark.parametrize("name", ["torch", "emulated"])
def test_rows_larger_than_the_device_stay_on_the_host(
    request: pytest.FixtureRequest, name: str, expected: LinearClassifier
) -> None:
    """Their blocks go there, pass by pass, to the same optimum."""
    if name == "torch":
        pytest.importorskip("torch")
    small = replace(kinds(request, name), free_memory=lambda: 10_000, block_bytes=1000)
    data = data_of(X, Y, backend=small)
    assert isinstance(data, SparseData)
    assert isinstance(data.X, ScipyRows)
    blocks = [rows for rows, _ in data.stored(0, 50)]
    assert len(blocks) == 4
    assert next(iter(data.stored(0, 50)))[0] is not blocks[0]  # it was not kept
    assert all(type(rows) is type(kinds(request, name).sparse(X)) for rows in blocks)
    clf = fitted(LinearClassifier(backend=small), X, Y, expected)
    np.testing.assert_allclose(clf.predict_proba(X), expected.predict_proba(X), atol=1e-10)
    sgd = {"solver": "sgd", "max_iter": 4, "batch_size": 32, "random_state": 0, "dtype": "float64"}
    own, there = (LinearClassifier(backend=a, **sgd).fit(X, Y) for a in (small, "numpy"))
    np.testing.assert_allclose(small.fetch(own.coef_), there.coef_, rtol=1e-9, atol=1e-12)


def test_sparse_labels_of_torch_and_weights_that_are_sparse(torch: Any) -> None:
    many = np.stack([Y, 1 - Y, rng.integers(0, 2, len(Y))], axis=1)
    expected = LinearClassifier(dtype="float64").fit(X, many)
    with warnings.catch_warnings(action="ignore"):
        labels = torch.from_numpy(many).to_sparse_csr(), torch.from_numpy(many).to_sparse_coo()
    rows = tensors(torch)["csr"]
    for there in labels:
        clf = fitted(LinearClassifier(), rows, there, expected)
        assert clf.score(rows, there) == expected.score(X, many)
    for weights in (labels[0], X[:, :1]):
        with pytest.raises(TypeError, match="sample_weight is a sparse matrix"):
            LinearClassifier().fit(X, Y, sample_weight=weights)
