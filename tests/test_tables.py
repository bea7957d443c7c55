"""Tables of pandas, polars and pyarrow give what the same matrix gives; what is wrong is named."""

from __future__ import annotations

import re
from decimal import Decimal

import numpy as np
import pytest

import xplinear as xl
from xplinear.estimator.tables import matrix_of, table_of

rng = np.random.default_rng(0)
COLUMNS = {
    "width": rng.standard_normal(90),
    "count": rng.integers(0, 9, 90),
    "new": rng.integers(0, 2, 90).astype(bool),
}
X = np.column_stack(list(COLUMNS.values())).astype(float)
Y = np.where(X[:, 0] > 0.5, "large", np.where(X[:, 1] > 4, "many", "few"))


@pytest.fixture(params=["pandas", "polars", "pyarrow"])
def library(request):
    return pytest.importorskip(request.param)


@pytest.fixture
def table(library):
    """Return a function that makes a table of columns."""
    return library.table if library.__name__ == "pyarrow" else library.DataFrame


@pytest.fixture
def series(library):
    """Return a function that makes a column of values."""
    if library.__name__ == "pyarrow":
        return lambda values: library.chunked_array([library.array(values)])
    return library.Series


def classifier():
    return xl.LinearClassifier(alpha=0.01, random_state=0)


def test_a_table_is_its_matrix(table, series):
    clf, same = classifier().fit(table(COLUMNS), series(Y.tolist())), classifier().fit(X, Y)
    np.testing.assert_allclose(clf.coef_, same.coef_)
    assert clf.feature_names_in_.tolist() == list(COLUMNS)
    assert clf.classes_.tolist() == ["few", "large", "many"]
    np.testing.assert_array_equal(clf.predict(table(COLUMNS)), same.predict(X))
    np.testing.assert_allclose(clf.predict_proba(table(COLUMNS)), same.predict_proba(X))
    weights = np.arange(1.0, 91.0)
    expected = same.score(X, Y, weights)
    score = clf.score(table(COLUMNS), series(Y.tolist()), series(weights.tolist()))
    assert score == pytest.approx(expected)


def test_partial_fit_and_cross_validation(table, series):
    clf = classifier().partial_fit(table(COLUMNS), series(Y.tolist()), np.unique(Y))
    same = classifier().partial_fit(X, Y, np.unique(Y))
    np.testing.assert_allclose(clf.coef_, same.coef_)
    clf = xl.LinearClassifierCV([0.1, 0.01], cv=3).fit(table(COLUMNS), series(Y.tolist()))
    assert clf.feature_names_in_.tolist() == list(COLUMNS)
    assert clf.cv_scores_.shape == (2, 3)


def test_names_survive_a_file(table, tmp_path):
    classifier().fit(table(COLUMNS), Y).save(tmp_path / "m.safetensors")
    clf = xl.load(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="must be in the same order"):
        clf.predict(table(dict(reversed(COLUMNS.items()))))


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64", "bool"])
def test_columns_keep_their_dtype(table, dtype):
    clf = classifier().fit(table({"a": X[:, 1].astype(dtype), "b": X[:, 2].astype(dtype)}), Y)
    same = classifier().fit(X[:, 1:].astype(dtype), Y)
    assert clf.coef_.dtype == same.coef_.dtype
    np.testing.assert_allclose(clf.coef_, same.coef_)


@pytest.mark.parametrize("method", ["fit", "predict", "partial_fit"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"new": None, "old": COLUMNS["new"]}, "The feature names should match"),
        ({"new": None}, "Feature names seen at fit time, yet now missing:\n- new"),
        ({"width": [None, *COLUMNS["width"][1:]]}, "column has missing values: width; impute"),
        (
            {"width": [None] * 90, "count": [None, *COLUMNS["count"][1:].tolist()]},
            "missing values: width, count; impute",
        ),
        ({"width": [*COLUMNS["width"][1:], np.nan]}, "missing values: width; impute or drop"),
        ({"width": [*COLUMNS["width"][1:], np.inf]}, "Input X contains infinity"),
        ({"width": ["wide"] * 90}, "column 'width' is of type String, features must be numbers"),
    ],
    ids=["other", "fewer", "null", "two with nulls", "nan", "infinity", "text"],
)
def test_what_is_wrong_is_named(table, library, method, change, message):
    columns = {name: x for name, x in (COLUMNS | change).items() if x is not None}
    if library.__name__ == "pandas" and change.get("width") == [None] * 90:
        columns["width"] = np.full(90, np.nan)  # of None alone pandas makes objects
    if library.__name__ == "polars" and change.get("width") == [None] * 90:
        columns["width"] = library.Series([None] * 90, dtype=library.Float64)
    if library.__name__ == "pyarrow" and change.get("width") == [None] * 90:
        columns["width"] = library.array([None] * 90, library.float64())
    clf = classifier().fit(table(COLUMNS), Y)
    before = clf.coef_.copy()
    if method == "fit" and "eature names" in message:
        pytest.skip("a fit learns new names")
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(clf, method)(table(columns), *([Y] if method != "predict" else []))
    np.testing.assert_array_equal(clf.coef_, before)


def test_missing_labels(table, series):
    with pytest.raises(ValueError, match=r"Input y contains NaN.*every row needs a label"):
        classifier().fit(table(COLUMNS), series([None, *Y[1:].tolist()]))


def test_categories_as_labels(table, library):
    match library.__name__:
        case "pandas":
            y = library.Series(Y, dtype="category")
        case "polars":
            y = library.Series(Y, dtype=library.Categorical)
        case _:
            y = library.array(Y).dictionary_encode()
    clf = classifier().fit(table(COLUMNS), y)
    assert clf.classes_.tolist() == ["few", "large", "many"]


def test_numbers_as_labels(table, series):
    clf = classifier().fit(table(COLUMNS), series([1, 2, 3] * 30))
    assert clf.predict(table(COLUMNS)).dtype == np.int64


def test_lazy_tables_are_computed_by_whom_they_belong_to():
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"X is a lazy table, LazyFrame; compute it first"):
        classifier().fit(polars.LazyFrame(COLUMNS), Y)


@pytest.mark.parametrize(
    "kind", ["floats", "integers", "truth", "decimals", "sparse", "sparse integers"]
)
def test_numbers_that_pandas_holds_otherwise(kind):
    pandas = pytest.importorskip("pandas", reason="the columns are pandas's own kinds")
    values = {"floats": COLUMNS["width"], "sparse": COLUMNS["width"], "truth": COLUMNS["new"]}
    x = values.get(kind, COLUMNS["count"])
    column = {
        "decimals": lambda: pandas.Series([Decimal(int(one)) for one in x], dtype=object),
        "sparse": lambda: pandas.arrays.SparseArray(x),
        "sparse integers": lambda: pandas.arrays.SparseArray(x),
    }.get(kind, lambda: pandas.Series(x.tolist(), dtype=object))()
    clf = classifier().fit(pandas.DataFrame({"a": X[:, 0], "b": column}), Y)
    same = classifier().fit(np.column_stack([X[:, 0], x]), Y)
    np.testing.assert_allclose(clf.coef_, same.coef_)


@pytest.mark.parametrize(
    "values", [[*range(89), "x"], [1j] * 90, [[1, 2]] * 90, [10**400] * 90], ids=repr
)
def test_objects_that_are_no_numbers(values):
    pandas = pytest.importorskip("pandas", reason="the columns are pandas's own kinds")
    table = pandas.DataFrame({"a": X[:, 0], "b": pandas.Series(values, dtype=object)})
    with pytest.raises(ValueError, match=r"column 'b' is of type .*, features must be numbers"):
        classifier().fit(table, Y)
    complexes = pandas.DataFrame({"a": X[:, 0], "b": X[:, 0] + 1j})
    with pytest.raises(ValueError, match=r"column 'b' is of type .*, features must be numbers"):
        classifier().fit(complexes, Y)


def test_pandas_special_columns():
    pandas = pytest.importorskip("pandas")
    nullable = pandas.DataFrame(COLUMNS).astype({"width": "Float64", "count": "Int32"})
    np.testing.assert_allclose(classifier().fit(nullable, Y).coef_, classifier().fit(X, Y).coef_)
    with pytest.raises(ValueError, match="missing values: width"):  # which pandas takes for texts
        classifier().fit(pandas.DataFrame(COLUMNS | {"width": [None] * len(Y)}), Y)
    nullable.loc[3, "count"] = pandas.NA
    with pytest.raises(ValueError, match="missing values: count"):
        classifier().fit(nullable, Y)
    unnamed = classifier().fit(pandas.DataFrame(X), Y)
    assert not hasattr(unnamed, "feature_names_in_")
    assert unnamed.coef_.shape == (3, 3)


def test_integers_of_128_bits() -> None:
    polars = pytest.importorskip("polars")
    x = [1, 2**70, 3]
    table = table_of(polars.DataFrame({"x": polars.Series(x, dtype=polars.Int128)}))
    assert table is not None
    np.testing.assert_array_equal(matrix_of(table)[:, 0], np.asarray(x, dtype=float))
