"""Rows to predict that are read some at a time: as if they were read at once."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import dump_svmlight_file
from typer.testing import CliRunner

import xplinear as xl
from xplinear import cli
from xplinear.datasets import Columns, load, reader
from xplinear.datasets.loading import FORMATS, PARTS, load_parts

CLASSES = np.asarray(["no", "yes"])
TABLE = Columns({"a": None, "b": ("x", "y")}, "c")
BY_PLACE = Columns({"0": None, "1": None}, "2")
TIMES = [0, 86_400_000_000, 90_000_000_000]  # µs: two whole days, and one that is not


def read(path, **expected):
    """Return what is read of a file at once, and in parts: data or an error, and warnings."""
    found = []
    for reading in (lambda: [load(path, **expected)], lambda: list(load_parts(path, **expected))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                got = reading()
            except ValueError as error:
                got = re.sub(r" \(first in row [\d,]+\)|, line \d+:", "", str(error))
        found.append((got, [str(one.message) for one in caught]))
    return found


def rows_in(parts):
    """Return the cells, texts as such, and the labels of parts."""
    rows = []
    for part in parts:
        X = part.X if isinstance(part.X, np.ndarray) else part.X.toarray()
        columns = [
            [None if np.isnan(x) else part.texts[name][int(x)] for x in values]
            if name in part.texts
            else values.tolist()
            for name, values in zip(part.names or range(X.shape[1]), X.T, strict=True)
        ]
        labels = [None] * len(X) if part.y is None else part.y.tolist()
        rows += [[repr(cell) for cell in row] for row in zip(*columns, labels, strict=True)]
    return rows


@pytest.fixture(params=[1, 50, 2**25])
def part_bytes(request, monkeypatch):
    monkeypatch.setattr(reader, "_PART_BYTES", request.param)


TEXTS = {
    "plain": "a,b,c\n1,x,yes\n2,y,no\n3,x,yes\n",
    "other columns, in another order": "c,d,b,a\nyes,7,x,1\nno,8,y,2\n",
    "no labels": "a,b\n1,x\n2,y\n",
    "some labels": "a,b,c\n1,x,\n2,y,no\n3,x,NA\n",
    "unknown labels": "a,b,c\n1,x,maybe\n2,y,no\n",
    "blank lines": "a,b,c\n\n1,x,yes\n\n\n2,y,no\n\n",
    "lines of Windows": "a,b,c\r\n1,x,yes\r\n2,y,no\r\n",
    "cells of two lines": 'a,b,c\n1,x,"y\nes"\n2,"y",no\n3,x,yes',
    "truths": "a,b,c\nTrue,x,yes\nfalse,y,no\nTRUE,x,yes\n",
    "truths after numbers": "a,b,c\n1,x,yes\n2,x,yes\nTrue,y,no\n",
    "truths and nothing": "a,b,c\n,x,yes\n,x,yes\nTrue,y,no\n",
    "a word late": "a,b,c\n1,x,yes\n2,y,no\n3,x,no\nfour,x,yes\n",
    "missing late": "a,b,c\n1,x,yes\n2,y,no\nnan,x,no\n",
    "empty late": "a,b,c\n1,x,yes\n2,y,no\n,x,no\n",
    "no category": "a,b,c\n1,x,yes\n2,y,no\n3,,no\n",
    "infinity": "a,b,c\n1,x,yes\n2,y,no\n3,x,no\n-inf,x,no\n",
    "a cell less": "a,b,c\n1,x,yes\n2,y,no\n3,x\n",
    "a cell more": "a,b,c\n1,x,yes\n2,y,no\n3,x,no,9\n",
    "a cell more in all": "a,b,c\n1,x,yes,9\n2,y,no,9\n",
    "no rows": "a,b,c\n",
    "nothing": "",
    "one column": "a\n1\n",
    "no text": "a,b,c\n1,x,yes\n2,y,no\n3,\xff\xfe,no\n",
}


@pytest.mark.usefixtures("part_bytes")
class TestText:
    @pytest.mark.parametrize("missing", [False, True])
    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
    @pytest.mark.parametrize("ending", [".csv", ".tsv.gz"])
    def test_as_at_once(self, text, ending, missing, tmp_path):
        content = text.replace(",", "\t" if "tsv" in ending else ",").encode("latin-1")
        path = tmp_path / f"rows{ending}"
        path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
        whole, parts = read(path, n_features=2, columns=TABLE, classes=CLASSES, missing=missing)
        assert parts[1] == whole[1]
        if isinstance(whole[0], str):
            assert parts[0] == whole[0]
        else:
            assert rows_in(parts[0]) == rows_in(whole[0])

    @pytest.mark.parametrize("text", ["1,2,yes\n3,4,no\n", "p,q,r\n1,2,yes\n3,4,no\n5,6,no\n"])
    def test_columns_by_place(self, text, tmp_path):
        path = tmp_path / "rows.csv"
        path.write_text(text)
        whole, parts = read(path, n_features=2, columns=BY_PLACE, classes=CLASSES)
        assert (rows_in(parts[0]), parts[1]) == (rows_in(whole[0]), whole[1])


TABLES = {
    "plain": {"a": [1.5, 2.0, 3.0], "b": ["x", "y", "x"], "c": ["yes", None, "no"]},
    "integers": {"a": [1, 2, 3], "b": ["x", "y", "x"]},
    "truths": {"a": [True, False, True], "b": ["x", "y", "x"]},
    "nulls": {"a": [1, None, 3], "b": ["x", None, "x"]},
    "nan": {"a": [1.0, 2.0, float("nan")], "b": ["x", "y", "x"]},
    "texts for numbers": {"a": ["1", "2", "3"], "b": ["x", "y", "x"]},
    "days": {"a": [1, 2, 3], "b": pa.array([0, TIMES[1], 0], pa.timestamp("us"))},
    "times": {"a": [1, 2, 3], "b": pa.array(TIMES, pa.timestamp("us"))},
    "labels of time": {
        "a": [1, 2, 3],
        "b": ["x", "y", "x"],
        "c": pa.array(TIMES, pa.timestamp("us")),
    },
    "categories": {"a": [1, 2, 3], "b": pa.array(["x", "y", "x"]).dictionary_encode()},
    "no rows": {"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())},
    "no columns": {},
}


@pytest.mark.usefixtures("part_bytes")
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
def test_parquet_as_at_once(columns, missing, tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=2)
    whole, parts = read(path, n_features=2, columns=TABLE, classes=CLASSES, missing=missing)
    assert parts[1] == whole[1]
    if isinstance(whole[0], str):
        assert parts[0] == whole[0]
    else:
        assert rows_in(parts[0]) == rows_in(whole[0])


@pytest.mark.usefixtures("part_bytes")
@pytest.mark.parametrize("rows", [np.arange(12.0).reshape(6, 2), np.ones((4, 2, 3), np.uint8)])
@pytest.mark.parametrize("labels", [None, "right", "short"])
def test_npy_as_at_once(rows, labels, tmp_path):
    np.save(tmp_path / "X.npy", rows)
    if labels is not None:
        np.save(tmp_path / "y.npy", np.resize(CLASSES, len(rows) - (labels == "short")))
    whole, parts = read(tmp_path / "X.npy", n_features=rows[0].size, classes=CLASSES)
    if labels == "short":
        assert parts == whole
    else:
        assert rows_in(parts[0]) == rows_in(whole[0])


@pytest.mark.usefixtures("part_bytes")
@pytest.mark.parametrize("index_base", [None, 0, 1])
@pytest.mark.parametrize(
    "text",
    [
        "1 0:1 2:3\n0 1:2\n1\n",
        "1 1:1 3:3\n0 2:2\n",
        "# a comment\n1 1:1 2:3 # another\n\n0 2:2\n",
        "1 1:1\n0 2:2\n1 9:1\n",
        "1 1:1\n0 2:2\n1 1:x\n",
        "1 1:1\n0 2:2\n1 1:nan\n",
        "1.5 1:1\n0 2:2\n",
        "",
    ],
)
def test_svm_as_at_once(text, index_base, tmp_path):
    path = tmp_path / "rows.svm"
    path.write_text(text)
    expected = {"n_features": 3, "classes": np.asarray([0, 1]), "index_base": index_base}
    whole, parts = read(path, **expected)
    assert parts[1] == whole[1]
    if isinstance(whole[0], str):
        assert parts[0] == whole[0]
    else:
        assert rows_in(parts[0]) == rows_in(whole[0])


@pytest.fixture(params=[".h5", ".zarr"])
def store(request, tmp_path):
    """Write arrays to a file, and return its path."""

    def write(**arrays):
        path = tmp_path / f"rows{request.param}"
        if request.param == ".h5":
            with pytest.importorskip("h5py").File(path, "w") as file:
                for name, x in arrays.items():
                    texts = {"data": x.astype(object)} if x.dtype.kind == "U" else {"data": x}
                    chunks = (min(2, len(x)), *x.shape[1:])
                    file.create_dataset(name, **texts, **({"chunks": chunks} if x.size else {}))
        else:
            group = pytest.importorskip("zarr").open_group(path, mode="w")
            for name, x in arrays.items():
                numbers = (x == "yes").astype(int) if x.dtype.kind == "U" else x
                group.create_array(name, data=numbers)
        return path

    return write


@pytest.mark.usefixtures("part_bytes")
class TestStores:
    @pytest.mark.parametrize("labelled", [False, True])
    @pytest.mark.parametrize("shape", [(7, 3), (5, 2, 2)])
    def test_as_at_once(self, store, shape, labelled):
        X = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        labels = {"y": np.resize(CLASSES, len(X))} if labelled else {}
        path = store(X=X, **labels)
        classes = np.asarray([0, 1]) if path.suffix == ".zarr" else CLASSES
        whole, parts = read(path, n_features=X[0].size, classes=classes)
        assert rows_in(parts[0]) == rows_in(whole[0])
        (found,) = whole[0]
        assert np.array_equal(found.X, X.reshape(len(X), -1))
        assert (found.y is not None) == labelled

    def test_arrays_by_name(self, store):
        path = store(rows=np.eye(4), kind=np.asarray([0, 1, 0, 1]), X=np.zeros((4, 1)))
        found = load(f"{path}::rows", target="kind")
        assert np.array_equal(found.X, np.eye(4))
        assert found.y.tolist() == [0, 1, 0, 1]
        parts = list(load_parts(f"{path}::rows", n_features=4))
        assert np.array_equal(np.concatenate([part.X for part in parts]), np.eye(4))

    def test_refused(self, store, tmp_path):
        path = store(rows=np.eye(4), y=np.arange(3))
        with pytest.raises(ValueError, match=r"has no array X; it has rows, y: .*::NAME names"):
            load(path)
        whole, parts = read(f"{path}::rows", n_features=4)
        assert parts == whole
        assert "4 rows, so y must have shape (4,), not (3,)" in whole[0]
        (tmp_path / "bad.h5").write_bytes(b"nothing")
        with pytest.raises(ValueError, match=r"bad.h5' cannot be read as .h5"):
            load(tmp_path / "bad.h5")
        (tmp_path / "rows.csv").write_text("1,2\n")
        with pytest.raises(ValueError, match=r"names an array, but \.csv has none by name"):
            load(f"{tmp_path / 'rows.csv'}::X")


def test_what_cannot_be_read_in_parts_is_one(tmp_path):
    X = np.eye(3)
    np.savez(tmp_path / "rows.npz", X=X)
    (part,) = load_parts(tmp_path / "rows.npz", n_features=3)
    assert np.array_equal(part.X, X)
    assert {ending for ending, read in FORMATS.items() if read not in PARTS} == {".npz"}


class TestLines:
    """Errors far into a file say where."""

    @pytest.fixture(autouse=True)
    def some_at_a_time(self, monkeypatch):
        monkeypatch.setattr(reader, "_PART_BYTES", 1000)

    @pytest.mark.parametrize(
        ("cell", "message"),
        [
            ("word", "line 2002: column 'a' has 'word'"),
            ("", "line 2002: column 'a' has a missing value"),
            ("nan", r"missing values: a; .* \(first in row 2,001\)"),
            ("inf", r"infinity in column a; .* \(first in row 2,001\)"),
            ("1,2", "line 2002: 3 columns where the first line has 2"),
        ],
    )
    def test_csv(self, cell, message, tmp_path):
        path = tmp_path / "rows.csv"
        path.write_text("a,c\n" + "1,yes\n" * 2000 + f"{cell},no\n" + "1,yes\n" * 100)
        expected = {"n_features": 1, "columns": Columns({"a": None}, "c"), "classes": CLASSES}
        with pytest.raises(ValueError, match=message):
            list(load_parts(path, **expected))

    def test_svm(self, tmp_path):
        path = tmp_path / "rows.svm"
        path.write_text("1 1:1\n" * 2000 + "1 1:x\n" + "1 1:1\n" * 100)
        with pytest.raises(ValueError, match="line 2001: cannot be read as svmlight"):
            list(load_parts(path, n_features=1, index_base=1))

    def test_parquet(self, tmp_path):
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.table({"a": [1.0] * 2000 + [None] + [1.0] * 10}), path)
        expected = {"n_features": 1, "columns": Columns({"a": None}, "c")}
        with pytest.raises(ValueError, match=r"missing values: a; .* \(first in row 2,001\)"):
            list(load_parts(path, **expected))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with a model, and its rows in files of every format that is read in parts."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 4)).round(3)
    clf = xl.LinearClassifier().fit(X, CLASSES[(X[:, 0] > 0).astype(int)])
    clf.save(folder / "m.safetensors")
    labels = clf.predict(X)
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", labels)
    np.savetxt(folder / "X.csv", X, delimiter=",", fmt="%.3f")
    named = {str(j): X[:, j] for j in range(4)} | {"c": labels}
    pq.write_table(pa.table(named), folder / "X.parquet")
    dump_svmlight_file(X, (labels == "yes").astype(int), str(folder / "X.svm"))
    return folder, X, clf


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


class TestPredict:
    @pytest.fixture(autouse=True)
    def some_at_a_time(self, monkeypatch):
        monkeypatch.setattr(reader, "_PART_BYTES", 1000)

    @pytest.mark.parametrize("name", ["X.npy", "X.csv", "X.parquet"])
    @pytest.mark.parametrize("ending", [".csv", ".tsv.gz", ".parquet", "-"])
    def test_written_as_predicted(self, rows, name, ending, tmp_path):
        folder, X, clf = rows
        out = ending if ending == "-" else tmp_path / f"out{ending}"
        result = run("predict", folder / "m.safetensors", folder / name, "--proba", "--out", out)
        if ending == ".parquet":
            table = pq.read_table(out)
            header, columns = table.column_names, [column.to_pylist() for column in table]
        else:
            text = result.stdout if ending == "-" else out.read_bytes()
            text = gzip.decompress(text).decode() if "gz" in ending else text
            text = text.decode() if isinstance(text, bytes) else text
            header, *lines = (
                line.split("\t" if "tsv" in ending else ",") for line in text.splitlines()
            )
            columns = list(zip(*lines, strict=True))
        assert header == ["label", "no", "yes"]
        assert list(columns[0]) == clf.predict(X).tolist()
        probabilities = np.asarray(columns[1:], dtype=float).T
        np.testing.assert_allclose(probabilities, clf.predict_proba(X), rtol=1e-12)

    def test_json_and_accuracy(self, rows):
        folder, X, clf = rows
        for name in ("X.npy", "X.parquet"):
            record = json.loads(
                run("predict", folder / "m.safetensors", folder / name, "--json").stdout
            )
            assert record["rows"] == record["labelled"] == 300
            assert record["accuracy"] == 1.0
            assert record["labels"] == clf.predict(X).tolist()

    @pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
    @pytest.mark.parametrize("before", [None, b"before"])
    def test_nothing_is_left_of_a_run_that_fails(self, rows, ending, before, tmp_path):
        folder, _, _ = rows
        path, out = tmp_path / "rows.csv", tmp_path / f"out{ending}"
        path.write_text((folder / "X.csv").read_text() + "1,2,3,four\n")
        if before is not None:
            out.write_bytes(before)
        result = run("predict", folder / "m.safetensors", path, "--out", out, code=2)
        assert "line 301: column '3' has 'four'" in result.stderr
        left = {one.name: one.read_bytes() for one in tmp_path.iterdir() if one != path}
        assert left == ({} if before is None else {out.name: before})

    def test_other_labels_are_told_at_the_end(self, rows, tmp_path):
        folder, X, _ = rows
        np.save(tmp_path / "X.npy", X)
        np.save(tmp_path / "y.npy", np.resize(["yes", "perhaps", "no"], len(X)))
        model, out = folder / "m.safetensors", tmp_path / "out.csv"
        result = run("predict", model, tmp_path / "X.npy", "--out", out)
        assert result.stderr.count("warning: ") == 1
        assert "100 rows have labels the model does not know, such as 'perhaps'" in result.stderr
        out.unlink()
        np.save(tmp_path / "y.npy", np.resize(["perhaps", "maybe"], len(X)))
        result = run("predict", model, tmp_path / "X.npy", "--out", out, code=2)
        assert "no label of X.npy is one of the model's" in result.stderr
        assert not out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_memory_is_bounded(ending, tmp_path):
    """Ten times the rows take no more memory, where parts are small."""
    X = np.random.default_rng(0).standard_normal((400_000, 10)).astype(np.float32)
    X = X.round(2)
    xl.LinearClassifier().fit(X[:100], X[:100, 0] > 0).save(tmp_path / "m.safetensors")
    peaks = []
    for n in (40_000, len(X)):
        path = tmp_path / f"{n}{ending}"
        table = pa.table({str(j): x[:n] for j, x in enumerate(X.T)})
        if ending == ".parquet":
            pq.write_table(table, path, row_group_size=20_000)
        else:
            import pyarrow.csv

            pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(include_header=False))
        script = f"""
import resource
from xplinear.datasets import reader
reader._PART_BYTES = 2**20
from xplinear import cli
cli.app(["predict", {str(tmp_path / "m.safetensors")!r}, {str(path)!r}, "--out",
         {str(tmp_path / "out.parquet")!r}], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        peaks.append(int(run.stdout.split()[-1]))
        assert pq.read_metadata(tmp_path / "out.parquet").num_rows == n
    assert peaks[1] - peaks[0] < 24 * 2**10  # KiB; all rows are 32 MB in float64
