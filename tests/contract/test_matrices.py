"""Sparse matrices of every library: their products are those of SciPy, and of dense arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array

from xplinear.backends import BackendError, get_backend

rng = np.random.default_rng(0)


def names() -> Iterator[Any]:
    yield "numpy"
    for name in ("torch", "cupy", "torch:cuda"):
        with suppress(BackendError):
            marks = [pytest.mark.cuda] * (name != "torch")
            yield pytest.param(get_backend(name).name, marks=marks)
    yield "emulated"


@pytest.fixture(scope="module", params=list(names()))
def case(request: pytest.FixtureRequest, numpy_backend: Any) -> Any:
    """Every backend with sparse matrices."""
    if request.param == "emulated":
        backend = request.getfixturevalue("emulated").select("")
    else:
        backend = get_backend(request.param)
    return replace(numpy_backend, backend=backend)


@st.composite
def matrices(draw: Any) -> csr_array:
    """Draw matrices with empty rows and columns, zeros that are stored, or without an entry."""
    n, p = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    places = st.tuples(st.integers(0, n - 1), st.integers(0, p - 1), st.integers(-3, 3))
    rows, columns, values = zip(*draw(st.lists(places, max_size=20)) or [(0, 0, 0)], strict=True)
    return coo_array((np.asarray(values, float), (rows, columns)), shape=(n, p)).tocsr()


def assert_is(case: Any, X: Any, expected: Any) -> None:
    """Compare all that a matrix says of itself with a dense array."""
    n, p = expected.shape
    assert X.shape == (n, p)
    D, G = rng.standard_normal((p, 3)), rng.standard_normal((n, 2))
    for _ in range(2):  # what is kept from the first product
        for laid_out in (case.asarray(D), X.laid_out(case.asarray(D))):
            np.testing.assert_allclose(case.to_numpy(X.times(laid_out)), expected @ D, atol=1e-13)
        found = case.to_numpy(X.transposed_times(case.asarray(G)))
        np.testing.assert_allclose(found, expected.T @ G, atol=1e-13)
    np.testing.assert_array_equal(case.to_numpy(X.to_dense()), expected)
    owners, indices, values = map(case.to_numpy, (X.owners, X.indices, X.values))
    np.testing.assert_array_equal(expected[owners, indices], values)
    assert X.nnz == len(values) == case.to_numpy(X.starts)[-1]


@given(X=matrices(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_products_and_parts(case: Any, X: csr_array, data: Any) -> None:
    there, dense = case.backend.sparse(X), X.toarray()
    n, p = X.shape
    assert_is(case, there, dense)
    squared = there.with_values(there.values**2)
    assert_is(case, squared, dense**2)
    narrow = there.astype(case.xp.float32)
    assert narrow.dtype == case.xp.float32
    np.testing.assert_array_equal(case.to_numpy(narrow.to_dense()), dense)
    some = np.asarray(data.draw(st.lists(st.integers(0, n - 1), max_size=9)), np.int64)
    for rows in (some, slice(1, n - 1), slice(n, 1), slice(0, n, 2)):
        part = there.rows(rows)
        assert_is(case, part, dense[rows])
        assert_is(case, part.rows(slice(1, 3)), dense[rows][1:3])
        assert_is(case, squared.rows(rows), dense[rows] ** 2)
    assert_is(case, there.rows(case.asarray(some)), dense[some])
    columns = np.asarray(data.draw(st.lists(st.integers(0, p - 1), max_size=5)), np.int64)
    found = case.to_numpy(there.columns(case.asarray(columns)))
    np.testing.assert_array_equal(found, dense[:, columns])


@pytest.mark.parametrize("stored", ["float32", "int8", "uint16", "int64", "bool"])
def test_values_of_other_types(case: Any, stored: str) -> None:
    dense = (np.arange(12).reshape(4, 3) % 3).astype(stored)
    for index in (np.int32, np.int64):
        X = csr_array(dense)
        X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
        there = case.backend.sparse(X).astype(case.xp.float64)
        assert "int32" in str(there.indices.dtype)
        assert_is(case, there, dense.astype(float))


def test_what_is_given_stays_as_it_was(case: Any) -> None:
    X = csr_array(([1.0, 2.0, 3.0], [1, 0, 1], [0, 3]), shape=(1, 2))
    X.data.flags.writeable = False
    assert_is(case, case.backend.sparse(X), np.asarray([[2.0, 4.0]]))
    np.testing.assert_array_equal(X.indices, [1, 0, 1])


@pytest.mark.parametrize("backend", ["jax", "array_api_strict"])
def test_other_backends_refuse(backend: str) -> None:
    pytest.importorskip(backend)
    with pytest.raises(BackendError, match="use backend='numpy', 'torch' or 'cupy'"):
        get_backend(backend).sparse(csr_array(np.eye(2)))
