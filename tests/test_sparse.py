"""Sparse matrices go in and out as dense ones of the same numbers do; damaged ones are refused."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import dump_svmlight_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from typer.testing import CliRunner

import xplinear as xl
from xplinear import cli, datasets
from xplinear.backends import BackendError, get_backend
from xplinear.backends.sparse import ScipyRows, canonical
from xplinear.estimator.standardize import column_bounds
from xplinear.estimator.tables import matrix_of, table_of

FORMATS = "csr", "csc", "coo", "bsr", "dia", "lil", "dok"
DTYPES = "float64", "float32", "bool", "int8", "uint16", "int64", "longdouble"

pytestmark = pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")

rng = np.random.default_rng(0)
X = np.where(rng.random((120, 12)) < 0.3, rng.standard_normal((120, 12)).round(2), 0.0)
Y = np.argmax(X[:, :3] + 0.3 * rng.gumbel(size=(120, 3)), axis=1)
WIDE = np.where(rng.random((120, 40)) < 0.08, rng.integers(1, 9, (120, 40)) / 4, 0.0)
WIDE[:, :3] += (Y[:, None] == np.arange(3)) * 1.0
NAMES = np.asarray(["cat", "dog", "frog"])[Y]
WEIGHTS = rng.uniform(0.0, 2.0, 120)
WEIGHTS[::7] = 0.0


def csr(**parts: Any) -> Any:
    """Return X as CSR with other arrays in it than it would be made with."""
    rows = sparse.csr_array(X)
    vars(rows).update(parts)
    return rows


def unsorted(rows: Any) -> Any:
    """Return a matrix in CSR with its entries shuffled, some in two parts, and zeros among them."""
    coo = sparse.coo_array(rows)
    order = np.random.default_rng(1).permutation(3 * coo.nnz)
    row, column = (np.tile(a, 3) for a in coo.coords)
    values = np.concatenate([coo.data - 1.0, np.ones(coo.nnz), np.zeros(coo.nnz)])
    by_row = order[np.argsort(row[order], kind="stable")]
    starts = np.searchsorted(row[by_row], np.arange(rows.shape[0] + 1))
    return sparse.csr_array((values[by_row], column[by_row], starts), shape=rows.shape)


class TestForm:
    @given(
        st.sampled_from(FORMATS),
        st.sampled_from(DTYPES),
        st.booleans(),
        st.integers(0, 2**32 - 1),
        st.integers(1, 6),
        st.integers(1, 6),
    )
    def test_is_one_whatever_comes(self, kind, dtype, matrix, seed, n, p):
        rng = np.random.default_rng(seed)
        dense = np.round(np.where(rng.random((n, p)) < 0.5, 5.0 * rng.random((n, p)), 0.0))
        given_ = (sparse.csr_matrix if matrix else sparse.csr_array)(dense.astype(dtype))
        rows = canonical(given_.asformat(kind))
        np.testing.assert_array_equal(rows.toarray(), dense.astype(dtype))
        assert rows.has_canonical_format
        assert (rows.indices.dtype, rows.indptr.dtype) == (np.int32, np.int32)

    def test_duplicates_zeros_and_order_are_mended_in_a_copy(self):
        given_ = unsorted(X)
        parts = [a.copy() for a in (given_.data, given_.indices, given_.indptr)]
        for a in (given_.data, given_.indices, given_.indptr):
            a.flags.writeable = False
        rows = canonical(given_)
        np.testing.assert_allclose(rows.toarray(), X, rtol=0, atol=1e-15)
        assert rows.has_canonical_format
        for before, after in zip(parts, (given_.data, given_.indices, given_.indptr), strict=True):
            np.testing.assert_array_equal(before, after)

    def test_canonical_rows_are_shared(self):
        given_ = sparse.csr_array(X)
        assert np.shares_memory(canonical(given_).data, given_.data)

    @pytest.mark.parametrize("dtype", ["float16", ">f8", ">f4", ">i2"])
    def test_values_that_scipy_cannot_compute_with(self, dtype):
        values = sparse.csr_array(X).data.astype(dtype)
        rows = canonical(csr(data=values))
        assert rows.dtype.isnative
        np.testing.assert_array_equal(rows.data, values.astype(rows.dtype))

    def test_long_indices_become_short(self):
        own = sparse.csr_array(X)
        long = csr(indices=own.indices.astype(np.int64), indptr=own.indptr.astype(np.int64))
        assert canonical(long).indices.dtype == np.int32
        wide = sparse.csr_array(([1.0], [2**33], [0, 1]), shape=(1, 2**33 + 1))
        assert canonical(wide).indices.tolist() == [2**33]

    @pytest.mark.parametrize("dtype", [*DTYPES[:-1], "uint64"])
    @pytest.mark.parametrize("rows", [None, np.asarray([1, 4, 7])])
    def test_bounds_of_columns_count_zeros(self, dtype, rows):
        dense = np.where(X < 0, 0.0, 50.0 * X) if dtype.startswith("u") else 50.0 * X
        dense[:, 3] = 7.0
        dense = dense.astype(dtype)
        if dtype in ("int64", "uint64"):
            dense[:, 5] = 2**60 + np.arange(120)
        numpy = get_backend("numpy")
        own = ScipyRows(canonical(sparse.csr_array(dense)))
        found = column_bounds(own, rows, backend=numpy)
        np.testing.assert_array_equal(found, column_bounds(dense, rows, backend=numpy))


def _parts(kind: str) -> Any:
    return sparse.csr_array(X).asformat(kind)


def _changed(kind: str, **parts: Any) -> Any:
    rows = _parts(kind)
    for name, change in parts.items():
        setattr(rows, name, change(getattr(rows, name)))
    return rows


def _lil(row: list[int], values: list[Any]) -> Any:
    rows = _parts("lil")
    rows.rows[0], rows.data[0] = row, values
    return rows


LONG = np.int64
DAMAGED: dict[str, tuple[Any, str]] = {
    "column too large": (lambda: _changed("csr", indices=lambda a: a + 12), "must be < 12"),
    "column negative": (lambda: _changed("csr", indices=lambda a: a - 12), "must be >= 0"),
    "column beyond int32": (
        lambda: _changed("csr", indices=lambda a: a.astype(LONG) + 2**33),
        "must be < 12",
    ),
    "columns no integers": (lambda: _changed("csr", indices=lambda a: a + 0.5), "float64 instead"),
    "starts fall": (
        lambda: _changed("csr", indptr=lambda a: np.concatenate([a[:5], a[4:5] - 3, a[6:]])),
        "non-decreasing",
    ),
    "starts too late": (lambda: _changed("csr", indptr=lambda a: a + 1), "start with 0"),
    "starts too few": (lambda: _changed("csr", indptr=lambda a: a[:-1]), "size 120 should be 121"),
    "ends too late": (lambda: _changed("csr", indptr=lambda a: a * 2), "Last value"),
    "values too few": (lambda: _changed("csr", data=lambda a: a[:-1]), "same size"),
    "values in two axes": (lambda: _changed("csr", data=lambda a: a[:, None]), "1-D"),
    "a row too large": (lambda: _changed("csc", indices=lambda a: a + 120), "must be < 120"),
    "a shape too large": (lambda: _changed("csr", _shape=lambda a: (500, 12)), "should be 501"),
    "a block too far": (lambda: _changed("bsr", indices=lambda a: a + 12), "must be < 12"),
    "a coordinate too large": (
        lambda: _changed("coo", coords=lambda a: (a[0] + 120, a[1])),
        "exceeds matrix dimension 120",
    ),
    "a coordinate negative": (
        lambda: _changed("coo", coords=lambda a: (a[0], a[1] - 12)),
        "negative axis 1 index",
    ),
    "coordinates too few": (
        lambda: _changed("coo", coords=lambda a: (a[0], a[1][:-1])),
        "same length",
    ),
    "too many offsets": (lambda: _changed("dia", data=lambda a: a[:1]), "number of diagonals"),
    "list too far": (lambda: _lil([0, 12], [1.0, 2.0]), "must be < 12"),
    "list negative": (lambda: _lil([-1], [1.0]), "must be >= 0"),
    "lists of two lengths": (lambda: _lil([0, 1], [1.0]), "more columns than values"),
    "list of texts": (lambda: _lil([0], ["a"]), "must be real number"),
}


class TestBadInput:
    @pytest.mark.parametrize("what", DAMAGED)
    def test_damaged_matrices_are_refused(self, what):
        make, message = DAMAGED[what]
        clf = xl.LinearClassifier().fit(X, Y)
        for call in (lambda: xl.LinearClassifier().fit(make(), Y), lambda: clf.predict(make())):
            with pytest.raises(ValueError, match=rf"(?s)^X is a .* belong together: .*{message}"):
                call()

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (csr(data=sparse.csr_array(X).data * 1j), "Complex data not supported: X is complex"),
            (csr(data=sparse.csr_array(X).data.astype(object)), "X is of dtype object"),
            (csr(data=sparse.csr_array(X).data.astype(str)), "X is of dtype <U"),
            (csr(data=np.full(sparse.csr_array(X).nnz, np.nan)), "X contains NaN"),
            (csr(data=np.full(sparse.csr_array(X).nnz, -np.inf)), "X contains infinity"),
            (sparse.coo_array(X[0]), r"X must have two axes.* X\.reshape\(1, -1\)"),
            (sparse.csr_array((0, 12)), r"0 sample\(s\)"),
            (sparse.csr_array((120, 0)), r"0 feature\(s\)"),
            (sparse.csr_array(X[:7]), "inconsistent numbers of samples"),
            ([sparse.csr_array(X[i : i + 1]) for i in range(120)], r"scipy\.sparse\.vstack"),
            (np.asarray(sparse.csr_array(X)), "X"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_what_is_wrong_is_said(self, rows, message):
        with pytest.raises((TypeError, ValueError), match=message):
            xl.LinearClassifier().fit(rows, Y)

    def test_longer_floats_that_float64_cannot_hold(self):
        values = sparse.csr_array(X).data.astype(np.longdouble)
        values[3] = np.longdouble(10) ** 400
        if not np.isfinite(values[3]):
            pytest.skip("longdouble is float64 here")
        with pytest.raises(ValueError, match=r"X holds values that float64 cannot hold"):
            xl.LinearClassifier().fit(csr(data=values), Y)

    def test_other_features_than_those_fitted(self):
        clf = xl.LinearClassifier().fit(sparse.csr_array(X), Y)
        with pytest.raises(
            ValueError, match="X has 11 features, but LinearClassifier is expecting"
        ):
            clf.predict(sparse.csr_array(X[:, :11]))

    def test_values_beyond_a_model_in_float32(self):
        clf = xl.LinearClassifier().fit(sparse.csr_array(X.astype(np.float32)), Y)
        with pytest.raises(
            ValueError, match=r"float32 cannot hold.*column 0 goes from 0 to 1e\+60"
        ):
            clf.predict(sparse.csr_array(np.eye(3, 12) * 1e60))

    @pytest.mark.parametrize("name", ["jax", "array_api_strict"])
    def test_backends_without_sparse_products(self, name):
        pytest.importorskip(name)
        rows = sparse.csr_array(X)
        with pytest.raises(BackendError, match=r"X is sparse.*numpy"):
            xl.LinearClassifier(backend=name).fit(rows, Y)
        clf = xl.LinearClassifier(backend=name).fit(X, Y)
        with pytest.raises(BackendError, match=r"X is sparse.*numpy"):
            clf.predict(rows)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"standardize": True},
        {"loss": "squared_hinge", "penalty": "elastic_net", "alpha": 0.01},
        {"loss": "multiclass_hinge", "class_weight": "balanced"},
        {"fit_intercept": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("labels", [NAMES, Y == 1], ids=["three", "two"])
class TestFit:
    def test_is_that_of_dense_rows(self, settings, labels):
        settings = {"tol": 1e-9, "max_iter": 5000, **settings}
        dense = xl.LinearClassifier(**settings).fit(X, labels, WEIGHTS)
        for rows in (sparse.csr_array(X), unsorted(X)):
            clf = xl.LinearClassifier(**settings).fit(rows, labels, WEIGHTS)
            assert clf.objective_ == pytest.approx(dense.objective_, rel=1e-9)
            np.testing.assert_allclose(clf.coef_, dense.coef_, atol=1e-4)
            # Either model takes either rows.
            for one in (clf, dense):
                np.testing.assert_allclose(
                    one.decision_function(rows), one.decision_function(X), rtol=1e-9, atol=1e-12
                )
                np.testing.assert_array_equal(one.predict(rows), one.predict(X))
                assert one.score(rows, labels, WEIGHTS) == one.score(X, labels, WEIGHTS)


@pytest.mark.parametrize("standardize", [False, True])
def test_labels_and_one_against_the_rest(standardize):
    several = np.column_stack([Y == 0, Y != 1, X[:, 4] > 0]).astype(int)
    for labels, settings in ((several, {}), (NAMES, {"multi_class": "one_vs_rest"})):
        dense, clf = (
            xl.LinearClassifier(standardize=standardize, tol=1e-8, **settings).fit(x, labels)
            for x in (X, sparse.csr_array(X))
        )
        np.testing.assert_allclose(clf.coef_, dense.coef_, atol=1e-6)
        found = clf.predict_proba(sparse.csr_array(X))
        np.testing.assert_allclose(found, dense.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8", "bool"])
def test_every_format_and_dtype(kind, dtype):
    dense = (2.0 * X).astype(dtype)
    rows = sparse.csr_array(dense).asformat(kind)
    clf, same = (xl.LinearClassifier(alpha=0.01).fit(x, Y) for x in (rows, dense))
    np.testing.assert_allclose(clf.coef_, same.coef_, rtol=1e-4, atol=1e-5)
    assert clf.coef_.dtype == same.coef_.dtype
    np.testing.assert_array_equal(clf.predict(rows), same.predict(dense))
    np.testing.assert_allclose(clf.predict_proba(rows), same.predict_proba(dense), atol=1e-5)


def test_rows_that_cannot_be_written_to():
    rows = sparse.csr_array(X)
    for a in (rows.data, rows.indices, rows.indptr):
        a.flags.writeable = False
    clf = xl.LinearClassifier(standardize=True).fit(rows, Y)
    assert clf.score(rows, Y) == xl.LinearClassifier(standardize=True).fit(X, Y).score(X, Y)


def told(call: Any) -> tuple[Any, list[str]]:
    """Return what a call gives, and its warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        given_ = call()
    # How near the floor of rounding a fit ends is a matter of rounding.
    return given_, sorted(str(one.message) for one in found if "floor" not in str(one.message))


YEAR = 20000.0 + np.arange(120) % 3 - 1.0
FAR = {
    "a year": YEAR,
    "a year that is missing once": np.where(np.arange(120) == 5, 0.0, YEAR),
    "a large constant": np.full(120, 1e30),
    "tiny": np.where(np.arange(120) % 4 == 0, 1e-30 * (1.0 + np.arange(120) % 5), 0.0),
    "huge": np.where(np.arange(120) % 4 == 0, 1e30 * (1.0 + np.arange(120) % 5), 0.0),
    "a small year": 20.0 + 1e-3 * (np.arange(120) % 3),
}


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("what", FAR)
def test_features_far_from_0(what, dtype, standardize):
    dense = np.column_stack([X, FAR[what]]).astype(dtype)
    labels = np.where(FAR[what] > np.median(FAR[what]), (Y + (rng.random(120) < 0.2)) % 3, Y)
    settings = {"alpha": 1e-3, "tol": 1e-8, "standardize": standardize}
    same, expected = told(lambda: xl.LinearClassifier(**settings).fit(dense, labels))
    clf, found = told(lambda: xl.LinearClassifier(**settings).fit(sparse.csr_array(dense), labels))
    assert found == expected
    assert clf.objective_ == pytest.approx(same.objective_, rel=1e-6)
    new = dense[::-1].copy()
    new[0, -1] = 0.0
    limits = {"rtol": 1e-4, "atol": 1e-3 if dtype == "float32" else 1e-5}
    scores = same.decision_function(new[1:])
    np.testing.assert_allclose(clf.decision_function(sparse.csr_array(new))[1:], scores, **limits)
    own = clf.decision_function(new), clf.decision_function(sparse.csr_array(new))
    np.testing.assert_allclose(*own, rtol=1e-5, atol=1e-5 * np.abs(own[0]).max())


def test_a_feature_far_from_0_that_is_missing_once_is_centred_too():
    """The mean lies 170 deviations from 0: products in float32 would cancel."""
    rng = np.random.default_rng(0)
    year = 20000.0 + rng.integers(-1, 2, 30_000)
    year[7] = 0.0
    thin = np.where(rng.random((30_000, 12)) < 0.3, rng.standard_normal((30_000, 12)), 0.0)
    dense = np.column_stack([thin, year]).astype(np.float32)
    labels = np.argmax(thin[:, :3] + 0.5 * rng.gumbel(size=(30_000, 3)), axis=1)
    same, clf = (
        xl.LinearClassifier(
            standardize=True, dtype="float32", solver="lbfgs", tol=1e-6, alpha=1e-4
        ).fit(x, labels)
        for x in (dense, sparse.csr_array(dense))
    )
    np.testing.assert_allclose(clf.coef_[:, -1], same.coef_[:, -1], rtol=5e-3)


class TestInTurn:
    def test_partial_fit(self):
        dense, clf = (
            xl.LinearClassifier(alpha=1e-3, batch_size=16, random_state=0) for _ in range(2)
        )
        for part in np.array_split(np.arange(120), 3):
            dense.partial_fit(X[part], Y[part], classes=[0, 1, 2])
            clf.partial_fit(sparse.csr_array(X[part]), Y[part], classes=[0, 1, 2])
        np.testing.assert_allclose(clf.coef_, dense.coef_, rtol=1e-6, atol=1e-9)

    def test_warm_start(self):
        clf = xl.LinearClassifier(warm_start=True, tol=1e-8, alpha=1e-3)
        first = clf.fit(X, Y).n_iter_
        assert clf.fit(sparse.csr_array(X), Y).n_iter_ < first

    def test_early_stopping(self):
        settings = {"early_stopping": True, "random_state": 0, "solver": "sgd", "batch_size": 16}
        dense = xl.LinearClassifier(**settings).fit(X, Y)
        clf = xl.LinearClassifier(**settings).fit(sparse.csr_array(X), Y)
        np.testing.assert_allclose(clf.coef_, dense.coef_, rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(
            clf.history_["validation_score"], dense.history_["validation_score"]
        )


@pytest.mark.parametrize("standardize", [False, True])
def test_nothing_is_made_dense(standardize, monkeypatch):
    rows = sparse.random_array((120, 5000), density=0.01, format="csr", rng=0)
    settings: dict[str, Any] = {"standardize": standardize, "solver": "lbfgs", "max_iter": 20}

    def refused(*_: Any, **__: Any) -> None:
        msg = "made dense"
        raise AssertionError(msg)

    for kind in (sparse.csr_array, sparse.csc_array, sparse.coo_array):
        for name in ("toarray", "todense"):
            monkeypatch.setattr(kind, name, refused)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf = xl.LinearClassifier(**settings).fit(rows, Y, WEIGHTS)
        search = xl.LinearClassifierCV([0.1, 0.01], cv=2, **settings).fit(rows, Y)
    for fitted in (clf, search):
        assert fitted.predict_proba(rows).shape == (120, 3)
        assert fitted.score(rows, Y) > 0.5
    if not standardize:
        xl.LinearClassifier().partial_fit(rows, Y, classes=[0, 1, 2]).predict(rows)


class TestInsideScikitLearn:
    def test_a_pipeline_of_texts(self):
        words = np.asarray(["meow", "bark", "croak", "the", "a"])
        texts = [" ".join([words[y], *words[rng.integers(3, 5, 4)]]) for y in Y]
        pipeline = make_pipeline(TfidfVectorizer(token_pattern=r"\w+"), xl.LinearClassifier())
        pipeline.fit(texts, NAMES)
        assert pipeline.score(texts, NAMES) == 1.0
        np.testing.assert_allclose(pipeline.predict_proba(texts).sum(axis=1), 1.0)

    def test_a_pipeline_of_categories(self):
        table = np.column_stack([NAMES, np.where(Y > 1, "wet", "dry")])
        pipeline = make_pipeline(OneHotEncoder(), xl.LinearClassifier()).fit(table, NAMES)
        assert pipeline.score(table, NAMES) == 1.0

    @pytest.mark.parametrize("kind", ["csr", "coo"])
    def test_folds(self, kind):
        rows = sparse.csr_array(X).asformat(kind)
        dense, clf = (
            xl.LinearClassifierCV([0.1, 0.01, 0.001], cv=3).fit(x, NAMES, WEIGHTS)
            for x in (X, rows)
        )
        np.testing.assert_allclose(clf.cv_scores_, dense.cv_scores_)
        assert clf.alpha_ == dense.alpha_
        np.testing.assert_allclose(clf.coef_, dense.coef_, atol=1e-4)
        assert clf.score(rows, NAMES) == dense.score(X, NAMES)

    def test_folds_scored_by_a_function_of_rows(self):
        def accuracy(estimator, rows, y):
            return float(np.mean(estimator.predict(rows) == y))

        dense = xl.LinearClassifierCV([0.1, 0.01], cv=2, scoring=accuracy).fit(X, NAMES)
        for kind in ("csr", "coo", "bsr", "dia"):  # of the last two SciPy takes no rows
            rows = sparse.csr_array(X).asformat(kind)
            clf = xl.LinearClassifierCV([0.1, 0.01], cv=2, scoring=accuracy).fit(rows, NAMES)
            np.testing.assert_allclose(clf.cv_scores_, dense.cv_scores_)

    @pytest.mark.parametrize(
        "meta",
        [
            GridSearchCV(xl.LinearClassifier(), {"alpha": [0.1, 0.001]}, cv=2),
            CalibratedClassifierCV(xl.LinearClassifier("squared_hinge"), cv=2),
        ],
        ids=lambda meta: type(meta).__name__,
    )
    def test_meta_estimators(self, meta):
        rows = sparse.csr_array(X)
        found, same = clone(meta).fit(rows, NAMES), clone(meta).fit(X, NAMES)
        np.testing.assert_allclose(found.predict_proba(rows), same.predict_proba(X), atol=1e-4)


class TestTables:
    """pandas's sparse columns."""

    def test_stay_sparse_if_all_are(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame.sparse.from_spmatrix(
            sparse.csr_array(X), columns=list("abcdefghijkl")
        )
        matrix = matrix_of(table_of(frame))
        assert sparse.issparse(matrix)
        np.testing.assert_array_equal(matrix.toarray(), X)
        clf = xl.LinearClassifier().fit(frame, NAMES)
        assert clf.feature_names_in_.tolist() == list("abcdefghijkl")
        np.testing.assert_allclose(clf.coef_, xl.LinearClassifier().fit(X, NAMES).coef_, atol=1e-5)
        np.testing.assert_array_equal(clf.predict(frame), clf.predict(frame.sparse.to_dense()))

    def test_beside_others_stay_sparse_where_it_is_much_smaller(self):
        pandas = pytest.importorskip("pandas")
        towns = pandas.Series([f"t{i % 40}" for i in range(120)])
        frame = pandas.DataFrame({"age": np.arange(120.0), "town": towns})
        wide = pandas.get_dummies(frame, sparse=True)
        matrix = matrix_of(table_of(wide))
        assert sparse.issparse(matrix)
        np.testing.assert_array_equal(matrix.toarray(), pandas.get_dummies(frame, dtype=float))
        few = pandas.get_dummies(frame.assign(town=towns.str[:2].eq("t1").astype(str)), sparse=True)
        assert isinstance(matrix_of(table_of(few)), np.ndarray)

    def test_what_is_wrong_is_said(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(
            {"a": pandas.arrays.SparseArray([0.0, np.nan, 1.0], fill_value=0.0)}
        )
        with pytest.raises(ValueError, match="column has missing values: a"):
            matrix_of(table_of(frame))
        frame = pandas.DataFrame(
            {"a": pandas.arrays.SparseArray([1.0, np.nan, 1.0])}
        )  # NaN by default
        with pytest.raises(ValueError, match="column has missing values: a"):
            matrix_of(table_of(frame))

    def test_of_another_value_than_0_that_is_not_stored(self):
        pandas = pytest.importorskip("pandas")
        x = np.asarray([7.0, 7.0, 1.0, 7.0])
        frame = pandas.DataFrame({"a": pandas.arrays.SparseArray(x, fill_value=7.0)})
        np.testing.assert_array_equal(matrix_of(table_of(frame)), x[:, None])


@pytest.mark.parametrize("standardize", [False, True])
def test_a_model_of_sparse_rows_goes_out(standardize, tmp_path):
    clf = xl.LinearClassifier(standardize=standardize).fit(sparse.csr_array(X), NAMES)
    clf.save(tmp_path / "m.safetensors")
    for other in (xl.load(tmp_path / "m.safetensors"), clf.to_sklearn()):
        np.testing.assert_array_equal(other.predict(sparse.csr_array(X)), clf.predict(X))
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    clf.to_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    label, _ = session.run(None, {"X": X.astype(np.float32)})
    np.testing.assert_array_equal(label, clf.predict(sparse.csr_array(X)))


def test_a_model_comes_from_scikit_learn_and_takes_sparse_rows():
    clf = xl.LinearClassifier().fit(sparse.csr_array(X), NAMES)
    back = xl.LinearClassifier.from_sklearn(clf.to_sklearn())
    np.testing.assert_allclose(
        back.decision_function(sparse.csr_array(X)), clf.decision_function(X), atol=1e-10
    )


def run(*arguments: Any, expect: int = 0) -> Any:
    """Return what `--json` prints, or the error."""
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"])
    assert result.exit_code == expect, result.output
    return result.stderr if expect else json.loads(result.stdout)


class TestFiles:
    @pytest.fixture(params=["a.svm", "a.npz", "y in a.npz"])
    def file(self, request, tmp_path):
        path = tmp_path / request.param.rpartition(" ")[2]
        rows = sparse.csr_array(WIDE)
        if path.suffix == ".svm":
            dump_svmlight_file(rows, Y, str(path), zero_based=False)
        elif request.param == "a.npz":
            sparse.save_npz(path, rows)
            np.save(tmp_path / "y.npy", Y)
        else:
            parts = {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}
            np.savez(path, **parts, format=b"csr", shape=rows.shape, y=Y)
        return path

    def test_stay_sparse(self, file):
        data = datasets.load(file)
        assert sparse.issparse(data.X)
        np.testing.assert_array_equal(data.X.toarray(), WIDE)
        np.testing.assert_array_equal(data.y, Y)
        split = datasets.holdout(data)
        assert sparse.issparse(split.X_test)
        assert split.X.shape[0] + split.X_test.shape[0] == 120

    def test_train_sweep_and_predict(self, file, tmp_path):
        model = tmp_path / "m.safetensors"
        for standardize in ("--standardize", "--no-standardize"):
            record = run("train", file, standardize, "--test-fraction=0", "--out", model)
            clf = xl.LinearClassifier(standardize=standardize[2] == "s", random_state=0).fit(
                WIDE, Y
            )
            assert record["density"] == np.count_nonzero(WIDE) / WIDE.size
            assert record["objective"] == pytest.approx(clf.objective_)
            assert run("predict", model, file)["labels"] == clf.predict(WIDE).tolist()
        assert run("sweep", file, "--alphas=0.1,0.01", "--cv=2")["test_accuracy"] > 0.5

    def test_dense_ones_become_dense(self, tmp_path):
        dump_svmlight_file(np.ones((4, 3)), [0, 1, 0, 1], str(tmp_path / "a.svm"))
        assert isinstance(datasets.load(tmp_path / "a.svm").X, np.ndarray)
        sparse.save_npz(tmp_path / "a.npz", sparse.csr_array(np.ones((4, 3))))
        np.save(tmp_path / "y.npy", [0, 1, 0, 1])
        assert isinstance(datasets.load(tmp_path / "a.npz").X, np.ndarray)

    def test_labels_may_be_missing_for_predictions_only(self, tmp_path):
        path, model = tmp_path / "a.npz", tmp_path / "m.safetensors"
        sparse.save_npz(path, sparse.csr_array(WIDE).tocoo())
        message = run("train", path, expect=2)
        assert "no file" in message
        assert "y.npy" in message
        assert "with the labels of a.npz; target can name another" in message
        xl.LinearClassifier().fit(WIDE, Y).save(model)
        assert len(run("predict", model, path)["labels"]) == 120

    def test_what_is_wrong_is_said(self, tmp_path):
        path, rows = tmp_path / "a.npz", sparse.csr_array(WIDE)
        parts = {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}
        about = {"format": b"csr", "shape": rows.shape, "y": Y}
        np.savez(path, **(parts | {"indices": rows.indices + 40}), **about)
        assert "cannot be read as a sparse .npz: it is a csr_" in run("train", path, expect=2)
        np.savez(path, **parts, **(about | {"format": b"mine"}))
        assert "cannot be read as a sparse .npz" in run("train", path, expect=2)
        del parts["indptr"]
        np.savez(path, **parts, **about)
        assert "cannot be read as a sparse .npz" in run("train", path, expect=2)
        for value, what in ((np.nan, "missing values (NaN)"), (np.inf, "infinity")):
            X_ = WIDE.copy()
            X_[7, 5] = value
            sparse.save_npz(path, sparse.csr_array(X_))
            np.save(tmp_path / "y.npy", Y)
            assert f"a.npz: {what} in column 5; drop" in run("train", path, expect=2)

    def test_many_categories_are_sparse(self, tmp_path):
        towns, sizes = [f"t{i % 40}" for i in range(120)], np.arange(120) % 7 + 0.5
        table = [
            f"{town},{size},{name}" for town, size, name in zip(towns, sizes, NAMES, strict=True)
        ]
        path, model = tmp_path / "a.csv", tmp_path / "m.safetensors"
        path.write_text("\n".join(["town,size,kind", *table]))
        record = run("train", path, "--test-fraction=0", "--out", model)
        assert (record["p"], record["density"]) == (41, 2 / 41)
        onehot = OneHotEncoder(sparse_output=False).fit_transform(np.asarray(towns)[:, None])
        dense = np.column_stack([onehot, sizes])
        clf = xl.LinearClassifier(standardize=True, random_state=0).fit(dense, NAMES)
        assert record["objective"] == pytest.approx(clf.objective_)
        assert run("predict", model, path)["labels"] == clf.predict(dense).tolist()


def test_checks_see_what_is_wrong_of_sparse_rows_alone(monkeypatch):
    right = ScipyRows.transposed_times
    monkeypatch.setattr(ScipyRows, "transposed_times", lambda X, G: (1.0 + 1e-3) * right(X, G))
    (comparison,) = xl.parity.compare(["numpy"], ["float64"], ["softmax"], ["l2"])
    assert not comparison.passed
    result = CliRunner().invoke(cli.app, ["check-gradient", "--backends=numpy", "--json"])
    assert result.exit_code == 1
    assert not any(one["passed"] for one in json.loads(result.stdout))
