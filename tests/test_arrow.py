"""Rows of Arrow: what is read of Parquet, pyarrow and Hugging Face are the rows of an array."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import cross_val_score

import xplinear as xl
from xplinear.data import scanned
from xplinear.data.arrow import write_parquet
from xplinear.data.blocks import Nearby, shuffled
from xplinear.data.scanned import by_name

N, P = 211, 5
NAMES = [f"x{j}" for j in range(P)]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, P))
Y = np.asarray(["no", "so", "yes"])[
    (X @ RNG.standard_normal((P, 3)) + RNG.standard_normal((N, 3))).argmax(axis=1)
]
S = RNG.uniform(0.0, 2.0, N) * (RNG.uniform(size=N) > 0.1)


def lists(rows: Any, kind: Any = None) -> Any:
    """Return rows as lists of one length."""
    values = pa.array(np.ravel(rows), kind)
    return pa.FixedSizeListArray.from_arrays(values, rows.shape[1])


def beside(**columns: Any) -> Any:
    """Return a table of columns, labels and weights."""
    return pa.table({**columns, "label": Y, "weight": S})


def numbers() -> Any:
    return beside(**dict(zip(NAMES, X.T, strict=True)))


def written(path: Path, table: Any, row_group_size: int = 37) -> str:
    pyarrow.parquet.write_table(table, path, row_group_size=row_group_size)
    return str(path)


def folder(path: Path, table: Any) -> str:
    for i, start in enumerate(range(0, N, 80)):
        written(path / f"part-{i}.parquet", table[start : start + 80])
    return str(path)


def hugging_face(table: Any) -> Any:
    return pytest.importorskip("datasets").Dataset(table)


def rearranged(table: Any) -> Any:
    order = np.random.default_rng(1).permutation(N)
    return hugging_face(table.take(order)).select(np.argsort(order))


SOURCES: dict[str, Callable[[Path], Any]] = {
    "file": lambda path: written(path / "a.parquet", numbers()),
    "path": lambda path: Path(written(path / "a.parquet", numbers(), row_group_size=10**6)),
    "lists": lambda path: written(path / "a.parquet", beside(e=lists(X))),
    "lists of any length": lambda path: written(path / "a.parquet", beside(e=X.tolist())),
    "folder": lambda path: folder(path, numbers()),
    "scan": lambda path: xl.scan(folder(path, numbers())),
    "paths": lambda path: xl.scan(sorted(Path(folder(path, beside(e=lists(X)))).iterdir())),
    "parquet file": lambda path: pyarrow.parquet.ParquetFile(written(path / "a", numbers())),
    "dataset": lambda path: pyarrow.dataset.dataset(folder(path, numbers())),
    "feather": lambda path: (
        pyarrow.feather.write_feather(beside(e=lists(X)), str(path / "a")),
        pyarrow.dataset.dataset(path / "a", format="feather"),
    )[1],
    "dataset in memory": lambda path: pyarrow.dataset.dataset(beside(e=lists(X))),
    "table": lambda path: beside(e=lists(X)),
    "table in pieces": lambda path: pa.concat_tables(
        [beside(e=lists(X))[:100], beside(e=lists(X))[100:]]
    ),
    "hugging face": lambda path: hugging_face(beside(e=lists(X))),
    "hugging face, columns": lambda path: hugging_face(numbers()).with_format("numpy"),
    "hugging face, selected": lambda path: rearranged(beside(e=lists(X))).with_format("arrow"),
}


@pytest.fixture(params=["in memory", "streamed"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Few rows become an array; here also few stay where they are."""
    if request.param == "streamed":
        monkeypatch.setattr(scanned, "KEPT_BYTES", 0)
    return request.param


def tight(**more: Any) -> xl.LinearClassifier:
    return xl.LinearClassifier(C=2.0, tol=1e-12, dtype="float64", solver="lbfgs", **more)


@pytest.fixture(scope="module")
def expected() -> xl.LinearClassifier:
    return tight().fit(X, Y, S)


@pytest.mark.parametrize("source", SOURCES)
class TestSources:
    def test_the_optimum_is_that_of_the_array(
        self, source: str, size: str, tmp_path: Path, expected: xl.LinearClassifier
    ) -> None:
        rows = SOURCES[source](tmp_path)
        clf = tight().fit(rows, "label", "weight")
        np.testing.assert_allclose(clf.coef_, expected.coef_, rtol=0, atol=1e-10)
        np.testing.assert_allclose(clf.intercept_, expected.intercept_, rtol=0, atol=1e-10)
        assert clf.n_features_in_ == P
        np.testing.assert_array_equal(clf.predict(rows), expected.predict(X))
        np.testing.assert_allclose(
            clf.predict_proba(rows), expected.predict_proba(X), rtol=0, atol=1e-10
        )
        assert clf.score(rows, "label", "weight") == pytest.approx(expected.score(X, Y, S))

    def test_y_and_weights_may_be_arrays(
        self, source: str, size: str, tmp_path: Path, expected: xl.LinearClassifier
    ) -> None:
        rows = SOURCES[source](tmp_path)
        whole = rows if isinstance(rows, scanned.Scanned) else scanned.scan(rows)
        features = [name for name in whole.columns if name not in ("label", "weight")]
        clf = tight().fit(xl.scan(rows, columns=features), Y, S)
        np.testing.assert_allclose(clf.coef_, expected.coef_, rtol=0, atol=1e-10)


def test_all_backends_read_the_same(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: xl.LinearClassifier
) -> None:
    monkeypatch.setattr(scanned, "KEPT_BYTES", 0)
    rows = written(tmp_path / "a.parquet", beside(e=lists(X)))
    clf = tight(backend=backend.backend).fit(rows, "label", "weight")
    np.testing.assert_allclose(backend.to_numpy(clf.coef_), expected.coef_, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(clf.predict(rows), expected.predict(X))


def test_strengths_and_folds(size: str, tmp_path: Path) -> None:
    rows = written(tmp_path / "a.parquet", numbers())
    how: dict[str, Any] = {"alphas": [0.1, 0.03, 0.01], "cv": 3, "tol": 1e-10, "dtype": "float64"}
    ours = xl.LinearClassifierCV(**how).fit(rows, "label", "weight")
    theirs = xl.LinearClassifierCV(**how).fit(X, Y, S)
    np.testing.assert_allclose(ours.cv_scores_, theirs.cv_scores_, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.decision_function(rows), theirs.decision_function(X), atol=1e-7)
    np.testing.assert_array_equal(ours.predict(rows), theirs.predict(X))
    assert ours.score(rows, "label", "weight") == pytest.approx(theirs.score(X, Y, S))


def test_many_labels_are_a_column_of_lists(size: str, tmp_path: Path) -> None:
    many = np.stack([Y == "no", X[:, 0] > 0], axis=1)
    table = pa.table({"e": lists(X), "labels": lists(many)})
    clf = tight().fit(written(tmp_path / "a.parquet", table), "labels")
    np.testing.assert_allclose(clf.coef_, tight().fit(X, many).coef_, rtol=0, atol=1e-10)


def test_partial_fit_goes_on(size: str, tmp_path: Path) -> None:
    rows = written(tmp_path / "a.parquet", numbers())
    clf = xl.LinearClassifier(random_state=0)
    for _ in range(5):
        clf.partial_fit(rows, "label", classes=["no", "so", "yes"])
    assert clf.score(rows, "label") > 0.7


class TestColumns:
    def test_features_have_their_names(self, size: str, tmp_path: Path) -> None:
        clf = tight().fit(written(tmp_path / "a.parquet", numbers()), "label", "weight")
        assert clf.feature_names_in_.tolist() == NAMES
        named = tight().fit(written(tmp_path / "b.parquet", beside(e=lists(X))), "label", "weight")
        assert not hasattr(named, "feature_names_in_")

    def test_a_model_takes_its_features_by_name(
        self, size: str, tmp_path: Path, expected: xl.LinearClassifier
    ) -> None:
        clf = tight().fit(written(tmp_path / "a.parquet", numbers()), "label", "weight")
        other = numbers().select([*reversed(NAMES), "label"]).append_column("more", pa.array(Y))
        np.testing.assert_array_equal(
            clf.predict(written(tmp_path / "b.parquet", other)), expected.predict(X)
        )
        blocks = clf.predict_blocks(tmp_path / "b.parquet")
        np.testing.assert_array_equal(np.concatenate(list(blocks)), expected.predict(X))
        fewer = written(tmp_path / "c.parquet", numbers().drop_columns(["x3"]))
        with pytest.raises(ValueError, match=r"X: '.*c.parquet' has no column 'x3'"):
            clf.predict(fewer)

    def test_lists_are_found_by_their_length(self, size: str, tmp_path: Path) -> None:
        clf = tight().fit(lists(X), Y)
        table = beside(id=np.arange(N), e=lists(X), f=lists(X[:, :2]))
        np.testing.assert_array_equal(
            clf.predict(written(tmp_path / "a.parquet", table)), clf.predict(X)
        )
        clf.decision_function(tmp_path / "a.parquet", out=tmp_path / "a.npy")
        np.testing.assert_allclose(np.load(tmp_path / "a.npy"), clf.decision_function(X), rtol=1e-9)
        table = table.append_column("g", lists(2.0 * X))
        with pytest.raises(ValueError, match=r"columns=\['e'\]"):
            clf.predict(written(tmp_path / "b.parquet", table.drop_columns(["label"])))

    def test_columns_that_are_chosen_stay(self, size: str, tmp_path: Path) -> None:
        rows = written(tmp_path / "a.parquet", numbers())
        clf = tight().fit(xl.scan(rows, columns=["x1", "x0"]), "label")
        assert clf.feature_names_in_.tolist() == ["x1", "x0"]
        np.testing.assert_allclose(
            clf.coef_, tight().fit(X[:, [1, 0]], Y).coef_, rtol=0, atol=1e-10
        )
        with pytest.raises(ValueError, match="order"):
            clf.predict(xl.scan(rows, columns=["x0", "x1"]))

    def test_the_row_index_of_pandas_is_no_feature(self, size: str, tmp_path: Path) -> None:
        frame = numbers().to_pandas().set_index("x0")
        frame.to_parquet(tmp_path / "a.parquet")
        assert xl.scan(tmp_path / "a.parquet").columns == (*NAMES[1:], "label", "weight")

    def test_dtypes_are_those_of_a_table(self, size: str, tmp_path: Path) -> None:
        columns = {
            "bool": X[:, 0] > 0,
            "int8": (9 * X[:, 1]).astype(np.int8),
            "half": X[:, 2].astype(np.float16),
            "decimal": pa.array(np.round(X[:, 3], 2)).cast(pa.decimal128(9, 2)),
        }
        table = pa.table(columns)
        path = written(tmp_path / "a.parquet", table.append_column("y", pa.array(Y)))
        clf = xl.LinearClassifier(tol=1e-9).fit(path, "y")
        theirs = xl.LinearClassifier(tol=1e-9).fit(table, Y)
        np.testing.assert_allclose(clf.coef_, theirs.coef_, rtol=0, atol=1e-9)
        assert clf.coef_.dtype == theirs.coef_.dtype

    def test_names_with_dots(self, size: str, tmp_path: Path) -> None:
        table = pa.table({"a.b": X[:, 0], "a": X[:, 1], "label": Y})
        clf = tight().fit(written(tmp_path / "a.parquet", table), "label")
        np.testing.assert_allclose(clf.coef_, tight().fit(X[:, :2], Y).coef_, rtol=0, atol=1e-10)

    @pytest.mark.parametrize(
        "labels",
        [
            Y,
            (Y == "no"),
            np.arange(N, dtype=np.uint8) % 3,
            pa.array(Y).dictionary_encode(),
            pa.array(Y, pa.large_string()),
            pa.array(np.arange(N) % 3).dictionary_encode(),
            pa.array(["a\0" if label == "no" else "a" for label in Y]),
            pa.array(np.where(Y == "no", 10, 20).astype("datetime64[D]")),
        ],
        ids=lambda labels: str(getattr(labels, "type", getattr(labels, "dtype", ""))),
    )
    def test_labels_of_every_type(self, labels: Any, size: str, tmp_path: Path) -> None:
        rows = written(tmp_path / "a.parquet", pa.table({"x": lists(X), "y": labels}))
        clf = tight().fit(rows, "y")
        known = labels.to_pylist() if isinstance(labels, pa.Array) else labels.tolist()
        assert clf.classes_.tolist() == sorted(set(known))
        codes = [sorted(set(known)).index(label) for label in known]
        assert clf.score(rows, "y") == tight().fit(X, codes).score(X, codes)

    def test_a_column_of_hugging_face(self, size: str, expected: xl.LinearClassifier) -> None:
        rows = hugging_face(beside(e=lists(X)))
        clf = tight().fit(rows["e"], rows["label"], rows["weight"])
        np.testing.assert_allclose(clf.coef_, expected.coef_, rtol=0, atol=1e-10)
        clf = tight().fit(X, rows["label"], rows["weight"])
        np.testing.assert_array_equal(clf.coef_, expected.coef_)

    def test_columns_of_the_paths(self, size: str, tmp_path: Path) -> None:
        for year in (2019, 2020):
            for label in ("no", "yes"):
                part = tmp_path / f"year={year}" / f"label={label}"
                part.mkdir(parents=True)
                at = (label == Y) & (np.arange(N) % 2 == year % 2)
                written(part / "a.parquet", pa.table({"x0": X[at, 0]}))
        clf = tight().fit(tmp_path, "label")
        order = [
            np.flatnonzero((label == Y) & (np.arange(N) % 2 == year % 2))
            for year in (2019, 2020)
            for label in ("no", "yes")
        ]
        at = np.concatenate(order)
        years = np.repeat([2019, 2019, 2020, 2020], [len(one) for one in order])
        theirs = tight().fit(np.stack([X[at, 0], years], axis=1), Y[at])
        assert clf.feature_names_in_.tolist() == ["x0", "year"]
        np.testing.assert_allclose(clf.coef_, theirs.coef_, rtol=0, atol=1e-9)


KINDS = ["bool", "int8", "uint32", "float16", "float32", "float64"]


@st.composite
def columns_of_lists(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], Any]:
    """Draw rows, and a column of Arrow that holds them."""
    kind = draw(st.sampled_from(KINDS))
    n, p = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    rows = rng.integers(0, 2 if kind == "bool" else 100, (before + n + after, p)).astype(kind)
    form = draw(st.sampled_from(["fixed", "list", "large_list", "list_view", "tensor"]))
    if form == "fixed":
        column = lists(rows)
    elif form == "tensor" and kind != "bool":
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(rows)
    else:
        maker = {"tensor": pa.list_}.get(form) or getattr(pa, f"{form}{'_' * (form == 'list')}")
        column = pa.array(list(rows), maker(lists(rows).type.value_type))
    cut = draw(st.integers(0, n))
    column = column.slice(before, n)
    return rows[before : before + n], pa.chunked_array([column[:cut], column[cut:]])


class TestReading:
    @given(columns_of_lists())
    @settings(max_examples=60, deadline=None)
    def test_lists_of_every_form(self, drawn: tuple[Any, Any]) -> None:
        rows, column = drawn
        found = by_name(column, y=[0])[0]
        assert found.dtype == rows.dtype
        np.testing.assert_array_equal(found, rows)
        slices = xl.scan(pa.table({"e": column}))
        into = np.empty(rows.shape, rows.dtype)
        slices.read(0, len(rows), into)
        np.testing.assert_array_equal(into, rows)

    def test_lists_in_one_piece_are_not_copied(self) -> None:
        column = lists(X)
        assert np.shares_memory(by_name(column, y=Y)[0], column.flatten().to_numpy())

    @given(
        sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
        runs=st.lists(st.tuples(st.integers(0, 54), st.integers(0, 54)), max_size=12),
        by_lists=st.booleans(),
    )
    @settings(max_examples=40, deadline=None)
    def test_runs_in_any_order(
        self, sizes: list[int], runs: list[tuple[int, int]], by_lists: bool
    ) -> None:
        n = sum(sizes)
        rows = X[:n]
        table = pa.table({"e": lists(rows)} if by_lists else dict(zip(NAMES, rows.T, strict=True)))
        sink = pa.BufferOutputStream()
        with pyarrow.parquet.ParquetWriter(sink, table.schema) as writer:
            for end, count in zip(np.cumsum(sizes), sizes, strict=True):
                writer.write_table(table[end - count : end])
        slices = xl.scan(pyarrow.parquet.ParquetFile(pa.BufferReader(sink.getvalue())))
        for ends in runs:
            start, stop = sorted(min(end, n) for end in ends)
            if start < stop:
                into = np.empty((stop - start, P))
                slices.read(start, stop, into)
                np.testing.assert_array_equal(into, rows[start:stop])

    def test_several_readers(self, tmp_path: Path) -> None:
        slices = xl.scan(written(tmp_path / "a.parquet", pa.table({"e": lists(X)})))

        def read(start: int) -> bool:
            stop = min(start + 13, N)
            into = np.empty((stop - start, P))
            slices.read(start, stop, into)
            return np.array_equal(into, X[start:stop])

        starts = [*range(0, N, 13), *np.random.default_rng(0).integers(0, N, 100).tolist()]
        with ThreadPoolExecutor(4) as readers:
            assert all(readers.map(read, starts))


def counted(slices: scanned.Scanned) -> tuple[scanned.Scanned, list[int]]:
    """Return a source that counts the rows that are decoded."""
    rows: list[int] = []

    def counting(batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def counts(*of: Any) -> Iterator[Any]:
            for batch in batches(*of):
                rows.append(len(batch))
                yield batch

        return counts

    parts = tuple(part._replace(batches=counting(part.batches)) for part in slices.source.parts)
    return replace(slices, source=slices.source._replace(parts=parts)), rows


@pytest.fixture(params=[16, 40, 10**6])
def groups(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, list[int]]:
    """8,192 rows of 16 numbers in small, middling or one row group; memory is meant for few."""
    monkeypatch.setattr(scanned, "KEPT_BYTES", 0)
    monkeypatch.setattr(scanned, "_BATCH_BYTES", 2**10)
    monkeypatch.setattr(scanned, "_CHUNK_BYTES", 2**12)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8192, 16))
    table = pa.table({"e": lists(rows), "label": (rows[:, 0] > 0)})
    path = written(tmp_path / "a.parquet", table, row_group_size=request.param)
    return counted(xl.scan(path, columns=["e"]))


class TestPasses:
    def test_a_pass_decodes_every_row_once(self, groups: tuple[Any, list[int]]) -> None:
        slices, decoded = groups
        size, n = 96, slices.shape[0]
        with ThreadPoolExecutor(2) as readers:
            into = [np.empty((min(i + size, n) - i, 16)) for i in range(0, n, size)]
            starts = range(0, n, size)
            list(readers.map(lambda i, a: slices.read(i, i + len(a), a), starts, into))
        assert sum(decoded) <= 1.1 * n

    def test_shuffled_epochs_decode_few_rows_again(
        self, groups: tuple[Any, list[int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from xplinear.data import streamed

        slices, decoded = groups
        for name, value in {"_BLOCK_BYTES": 2**12, "_WINDOW_BYTES": 2**15}.items():
            monkeypatch.setattr(streamed, name, value)
        y = np.zeros(slices.shape[0], np.int32)
        rows = streamed.StreamedData(slices, y, backend=xl.get_backend("numpy"))
        nearby = rows.nearby(32)
        assert nearby is not None
        decoded.clear()
        order = shuffled(rows.n, 0, 0, nearby)
        seen = [np.array(part[0])[np.asarray(at)] for part, at in rows.drawn(order, 32)]
        into = np.empty(slices.shape)
        once = sum(decoded)
        slices.read(0, rows.n, into)
        np.testing.assert_array_equal(np.concatenate(seen), into[order])
        assert once <= 6 * rows.n

    @given(
        n=st.integers(1, 300),
        block=st.integers(1, 9),
        blocks=st.integers(1, 9),
        run=st.integers(1, 30),
    )
    @settings(max_examples=60, deadline=None)
    def test_an_order_has_every_row(self, n: int, block: int, blocks: int, run: int) -> None:
        order = shuffled(n, 0, 0, Nearby(block, block * blocks, run))
        np.testing.assert_array_equal(np.sort(order), np.arange(n))

    def test_sgd_of_one_large_row_group_sorted_by_class(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from xplinear.data import streamed

        monkeypatch.setattr(scanned, "KEPT_BYTES", 0)
        monkeypatch.setattr(scanned, "_CHUNK_BYTES", 2**12)
        for name, value in {"_BLOCK_BYTES": 2**12, "_WINDOW_BYTES": 2**14}.items():
            monkeypatch.setattr(streamed, name, value)
        rows = np.repeat(X, 40, axis=0) + np.random.default_rng(0).standard_normal((40 * N, P))
        labels = np.repeat(Y, 40)
        order = np.argsort(labels, kind="stable")
        table = pa.table({"e": lists(rows[order]), "label": labels[order]})
        path = written(tmp_path / "a.parquet", table, row_group_size=10**6)
        how: dict[str, Any] = {"solver": "sgd", "random_state": 0, "max_iter": 10, "alpha": 1e-3}
        ours = xl.LinearClassifier(**how).fit(path, "label")
        again = xl.LinearClassifier(**how).fit(path, "label")
        np.testing.assert_array_equal(ours.coef_, again.coef_)
        best = xl.LinearClassifier(alpha=1e-3, solver="lbfgs").fit(rows, labels)
        assert ours.objective_ < 1.02 * best.objective_


class TestFaults:
    def refused(
        self, X: Any, match: str, y: Any = "label", kind: type[Exception] = ValueError
    ) -> None:
        with pytest.raises(kind, match=match):
            tight().fit(X, y)

    @pytest.mark.parametrize(
        ("columns", "match"),
        [
            ({"x": [1.0, None, 2.0]}, r"X contains NaN: column 'x' of '.*', row 1, is missing"),
            ({"x": [[1.0], None, [2.0]]}, r"column 'x' of '.*', row 1, is missing"),
            ({"x": [None, [1.0], [2.0]]}, r"column 'x' of '.*', row 0, is missing"),
            ({"x": [[1.0], [2.0], [None]]}, r"column 'x' of '.*', row 2, element 0, is missing"),
            ({"x": [[1.0], [2.0, 3.0], [4.0]]}, r"row 1, is a list of 2 numbers, the first .* 1"),
            ({"x": ["a", "b", "c"]}, r"column 'x' of '.*' is of type string; .*columns=\[\.\.\.\]"),
            ({"x": [{"a": 1}] * 3}, "is of type struct"),
            ({"x": [[[1.0]]] * 3}, "is of type list<"),
            ({"x": [[1.0]] * 3, "z": [1, 2, 3]}, r"'x' of '.*' holds lists, beside 'z'"),
            ({}, "no columns left for the features"),
        ],
    )
    def test_columns_that_are_no_features(
        self, columns: dict[str, Any], match: str, size: str, tmp_path: Path
    ) -> None:
        table = pa.table({**columns, "label": [0, 1, 0]})
        self.refused(written(tmp_path / "a.parquet", table, row_group_size=1), match)

    def test_rows_are_told_by_their_file(self, size: str, tmp_path: Path) -> None:
        folder(tmp_path, beside(x=pa.array([None if i == 171 else i for i in range(N)])))
        self.refused(tmp_path, r"column 'x' of '.*part-2.parquet', row 11, is missing")

    def test_nan_is_told_by_its_row(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scanned, "KEPT_BYTES", 0)
        bad = np.where(np.arange(N)[:, None] == [[77, -1, -1, -1, -1]], np.nan, X)
        self.refused(written(tmp_path / "a.parquet", beside(e=lists(bad))), "weight", "no")
        table = pa.table({"e": lists(bad), "label": Y})
        self.refused(written(tmp_path / "b.parquet", table), "row 77, column 0")

    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            (pa.array([0, None, 1]), r"y contains NaN: column 'label' of '.*', row 1, is missing"),
            (pa.array(["a", None, "b"]), r"column 'label' of '.*', row 1, is missing"),
            (pa.array([b"a", b"c", b"b"]), r"y: column 'label' of '.*' is of type binary"),
            (pa.array([1, 1, 1]), "one class only"),
        ],
    )
    def test_labels(self, labels: Any, match: str, size: str, tmp_path: Path) -> None:
        self.refused(
            written(tmp_path / "a.parquet", pa.table({"x": [1.0, 2.0, 3.0], "label": labels})),
            match,
        )

    def test_y(self, size: str, tmp_path: Path) -> None:
        rows = written(tmp_path / "a.parquet", numbers())
        self.refused(rows, r"y: '.*' has no column 'z'; it has \['x0'", "z")
        self.refused(xl.scan(rows, columns=NAMES), "inconsistent numbers of samples", Y[:-1])
        self.refused(rows, "y must be the labels of all rows, or the name of a column", None)
        with pytest.raises(ValueError, match=r"sample_weight: '.*' has no column 'z'"):
            tight().fit(rows, "label", "z")
        with pytest.raises(ValueError, match="sample_weight is of dtype <U3"):
            tight().fit(xl.scan(rows, columns=NAMES), Y, "label")

    def test_paths(self, size: str, tmp_path: Path) -> None:
        self.refused(
            "nothing.parquet", "no file or folder 'nothing.parquet'", kind=FileNotFoundError
        )
        self.refused(tmp_path, "holds no Parquet files")
        (tmp_path / "a.csv").write_text("a,b\n1,2\n")
        self.refused(tmp_path / "a.csv", "cannot be read as Parquet .*datasets.load")
        empty = written(tmp_path / "e.parquet", numbers()[:0])
        self.refused(empty, "e.parquet' has no rows")

    def test_files_that_differ(self, size: str, tmp_path: Path) -> None:
        written(tmp_path / "a.parquet", numbers())
        other = tmp_path / "b.parquet"
        written(other, numbers().drop_columns(["x1"]))
        self.refused(tmp_path, r"b.parquet' has no column 'x1', which the first file has")
        written(other, numbers().set_column(0, "x0", pa.array(np.arange(N))))
        self.refused(tmp_path, r"column 'x0' of '.*b.parquet' is of type int64, that of .* double")
        written(other, numbers().append_column("more", pa.array(S)))
        self.refused(tmp_path, r"b.parquet' has a column 'more', '.*a.parquet' has none")
        clf = tight().fit(xl.scan(tmp_path, columns=NAMES), "label")
        twice = tight().fit(np.concatenate([X, X]), np.concatenate([Y, Y]))
        np.testing.assert_allclose(clf.coef_, twice.coef_, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("how", ["rewritten", "removed", "damaged"])
    def test_a_file_that_changes(
        self, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scanned, "KEPT_BYTES", 0)
        path = Path(written(tmp_path / "a.parquet", numbers()))

        def change(progress: Any) -> None:
            if how == "rewritten":
                written(path, numbers().take(np.arange(N)[::-1]))
            elif how == "removed":
                path.unlink(missing_ok=True)
            else:
                seen, content = path.stat(), path.read_bytes()
                path.write_bytes(content[:4] + bytes(len(content) - 2000) + content[-1996:])
                os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))

        said = "cannot be read" if how == "damaged" else "changed while it was read"
        clf, threads = tight(), threading.active_count()
        with pytest.raises((OSError, ValueError), match=rf"a.parquet' {said}"):
            clf.fit(path, "label", callbacks=[change])
        assert not hasattr(clf, "coef_")
        assert threading.active_count() <= threads + 1

    def test_pyarrow(self, size: str, tmp_path: Path) -> None:
        rows = pyarrow.dataset.dataset(folder(tmp_path, numbers()))
        self.refused(
            rows.filter(pyarrow.dataset.field("x0") > 0), "filtered or projected; write it"
        )
        self.refused(rows.scanner(), "Scanner: it gives its rows once", kind=TypeError)
        reader = rows.scanner().to_reader()
        self.refused(reader, "RecordBatchReader: it gives its rows once", kind=TypeError)
        self.refused(pl.LazyFrame({"x": X[:, 0]}), r"\.collect\(\)", Y, TypeError)

    def test_hugging_face(self, size: str) -> None:
        rows, datasets = hugging_face(numbers()), pytest.importorskip("datasets")
        both = datasets.DatasetDict({"train": rows, "test": rows})
        self.refused(both, r"DatasetDict \('train', 'test'\): pass one", kind=TypeError)
        self.refused(rows.to_iterable_dataset(), "without streaming", kind=TypeError)
        changing = rows.with_transform(lambda batch: batch)
        self.refused(changing, "with a transform", kind=TypeError)

    def test_scan(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match=r"source must be the path .* got 5"):
            xl.scan(5)
        rows = written(tmp_path / "a.parquet", numbers())
        for columns in ("x0", [], [5]):
            with pytest.raises(ValueError, match="columns must be a sequence of names"):
                xl.scan(rows, columns=columns)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="has no column 'z'"):
            xl.scan(rows, columns=["x0", "z"])


class TestWriting:
    def blocks(self, count: int, rows: int = 3) -> Iterator[dict[str, Any]]:
        for i in range(count):
            yield {
                "label": np.asarray(["no", "yes", "so"] * rows)[:rows],
                "score": np.full((rows, 2), i, np.float32),
                "id": np.arange(rows, dtype=">i4"),
            }

    def test_blocks_are_written_one_after_another(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        assert write_parquet(path, self.blocks(4)) == 12
        table = pyarrow.parquet.read_table(path)
        assert table["label"].to_pylist() == ["no", "yes", "so"] * 4
        assert table["score"].to_pylist()[-1] == [3.0, 3.0]
        assert table["id"].to_pylist() == [0, 1, 2] * 4
        assert str(table.schema.field("score").type) == "fixed_size_list<element: float>[2]"

    def test_memory_is_bounded(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        before = pa.total_allocated_bytes()
        most = 0

        def watched() -> Iterator[dict[str, Any]]:
            nonlocal most
            for block in self.blocks(30, 100_000):
                most = max(most, pa.total_allocated_bytes() - before)
                yield block

        write_parquet(path, watched())
        assert most < 2**27
        assert 2 <= pyarrow.parquet.ParquetFile(path).num_row_groups < 10

    def test_faults(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        with pytest.raises(ValueError, match="no blocks to write"):
            write_parquet(path, [])
        with pytest.raises(ValueError, match="int64"):
            write_parquet(path, [{"a": np.arange(2)}, {"a": np.asarray(["x"])}])
        with pytest.raises(KeyError, match="a"):
            write_parquet(path, [{"a": np.arange(2)}, {"b": np.arange(2)}])
        with pytest.raises(OSError, match="space"):
            write_parquet("/dev/full", [{"a": np.arange(2)}])


def test_labels_of_a_table_in_memory_are_named_too() -> None:
    expected = tight().fit(X, Y, S)
    found = tight().fit(numbers(), "label", "weight")
    np.testing.assert_array_equal(found.coef_, expected.coef_)
    assert found.feature_names_in_.tolist() == NAMES
    assert found.score(numbers(), "label", "weight") == expected.score(X, Y, S)


@pytest.mark.parametrize("rows", [X, pl.DataFrame(X)])
def test_labels_of_other_rows_have_no_name(rows: Any) -> None:
    with pytest.raises(ValueError, match="y is 'label'; the name of a column is for rows that"):
        tight().fit(rows, "label")


def test_what_is_asked_for_of_a_scan_that_it_cannot_be(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", numbers())
    rows = xl.scan(path, columns=NAMES)
    with pytest.raises(ValueError, match=r"column 'x1' of .* is named twice"):
        xl.scan(path, columns=["x1", "x0", "x1"])
    with pytest.raises(TypeError, match=r"scan all files at once: scan\(\[a, b\]\)"):
        tight().fit([rows, rows], Y)
    with pytest.raises(TypeError, match="not in memory, and was to become an array"):
        cross_val_score(tight(), rows, Y)
    assert len(repr(rows)) < 300


def test_blocks_and_files_of_predictions_take_the_features_by_name(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    columns = {"kind": y, **dict(zip("abc", X.T, strict=True))}
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)
    clf = xl.LinearClassifier().fit(str(path), "kind")
    expected = clf.predict(str(path))
    clf.predict(str(path), out=tmp_path / "labels.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected)
    np.testing.assert_array_equal(np.concatenate(list(clf.predict_blocks(str(path)))), expected)
