"""Predictions block by block, and written to files and to what takes slices."""

from __future__ import annotations

import errno

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import xplinear as xl
from xplinear.cli import app
from xplinear.data import batches
from xplinear.estimator import outputs

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")

rng = np.random.default_rng(0)
N, P = 500, 5
X = rng.standard_normal((N, P))
Y = np.asarray(["a", "bb", "ccc"])[(X[:, :3] + rng.gumbel(size=(N, 3))).argmax(axis=1)]
METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(outputs, "_BLOCK_BYTES", 64 * P * 8)


@pytest.fixture(scope="module")
def clf():
    return xl.LinearClassifier().fit(X, Y)


def parts():
    return (X[i : i + 70] for i in range(0, N, 70))


SOURCES = {
    "array": lambda _: X,
    "once": lambda _: parts(),
    "again": lambda _: parts,
    "with labels": lambda _: [(X[:300], Y[:300]), (X[300:], Y[300:])],
    "table": lambda _: pd.DataFrame(X),
    "list": lambda _: X.tolist(),
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    return lambda: SOURCES[request.param](tmp_path)


def alike(found, expected):
    if expected.dtype.kind == "U":
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
class TestWhatIsPredicted:
    def test_in_blocks(self, clf, source, method):
        blocks = list(clf.predict_blocks(source(), method))
        alike(np.concatenate(blocks), getattr(clf, method)(X))

    def test_at_once(self, clf, source, method):
        alike(getattr(clf, method)(source()), getattr(clf, method)(X))

    def test_npy(self, clf, source, method, tmp_path):
        out, expected = tmp_path / "out.npy", getattr(clf, method)(X)
        assert getattr(clf, method)(source(), out=out) == out
        found = np.load(out, mmap_mode="r")
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        alike(found, expected)

    def test_parquet(self, clf, source, method, tmp_path):
        out, expected = tmp_path / "out.parquet", getattr(clf, method)(X)
        getattr(clf, method)(source(), out=str(out))
        table = pq.read_table(out)
        assert table.column_names == (["label"] if method == "predict" else ["a", "bb", "ccc"])
        columns = [column.to_numpy() for column in table.columns]
        alike(columns[0].astype(str) if method == "predict" else np.stack(columns, 1), expected)

    def test_arrays(self, clf, source, method, tmp_path):
        expected = getattr(clf, method)(X)
        like = {"dtype": expected.dtype, "shape": expected.shape}
        with h5py.File(tmp_path / "out.h5", "w") as file:
            text = {"dtype": h5py.string_dtype(), "shape": expected.shape}
            dataset = file.create_dataset("x", **(text if method == "predict" else like))
            outs = [np.empty(**like), np.lib.format.open_memmap(tmp_path / "m.npy", "w+", **like)]
            if method != "predict":  # Zarr warns of texts of one length
                outs.append(zarr.create_array(tmp_path / "out.zarr", **like))
            for out in [*outs, dataset]:
                assert getattr(clf, method)(source(), out=out) is out
                is_text = out is dataset and method == "predict"
                alike(out.asstr()[:] if is_text else out[:], expected)


def test_many_labels_and_two_classes(tmp_path):
    labels = np.stack([X[:, 0] > 0, X[:, 1] > 0], axis=1).astype(int)
    clf = xl.LinearClassifier().fit(X, labels)
    clf.predict(X, out=tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["0", "1"]
    assert np.array_equal(np.stack([c.to_numpy() for c in table.columns], 1), clf.predict(X))
    clf = xl.LinearClassifier().fit(X, labels[:, 0])
    clf.decision_function(X, out=tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "b.parquet").column_names == ["score"]


def test_search_too(tmp_path):
    search = xl.LinearClassifierCV(alphas=[0.01, 0.1], cv=2).fit(X, Y)
    search.predict_proba(X, out=tmp_path / "a.npy")
    alike(np.load(tmp_path / "a.npy"), search.predict_proba(X))
    alike(np.concatenate(list(search.predict_blocks(parts()))), search.predict(X))


def test_out_that_takes_the_place_of_rows_to_come(clf):
    memory = np.zeros((N + 100, P))
    memory[:N] = X
    with pytest.raises(ValueError, match="out and X share memory"):
        clf.predict_proba(memory[:N], out=memory[100:, :3])
    np.testing.assert_array_equal(memory[:N], X)


def test_blocks_are_few_rows(clf):
    assert max(map(len, clf.predict_blocks(X))) == 64
    assert sum(1 for _ in clf.predict_blocks(parts())) == -(-N // 70)


def test_on_every_backend(backend, tmp_path):
    rows = backend.asarray(X)
    clf = xl.LinearClassifier().fit(rows, Y)
    blocks = list(clf.predict_blocks(rows, "predict_proba"))
    assert {type(block) for block in blocks} == {type(rows)}
    clf.predict_proba(rows, out=tmp_path / "a.npy")
    expected = backend.to_numpy(clf.predict_proba(rows))
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, rtol=1e-6)


class TestRefused:
    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("out.txt", r"must end in .npy or .parquet"),
            (np.empty(N - 1, "U3"), r"out has the shape \(499,\)"),
            (np.empty(N + 1, "U3"), r"out has"),
            (np.empty((N, 1), "U3"), r"out has the shape \(500, 1\)"),
            (np.empty(N, "U2"), "out is of dtype <U2, which does not hold results of dtype <U3"),
            (np.empty(N), "out is of dtype float64, which does not hold results of dtype <U3"),
            (5, "out must be a path ending in .npy or .parquet, or offer shape"),
            ([0] * N, "out must be a path"),
        ],
    )
    @pytest.mark.parametrize("rows", [lambda: X, parts], ids=["array", "once"])
    def test_out(self, clf, out, message, rows):
        with pytest.raises((ValueError, TypeError), match=message):
            clf.predict(rows(), out=out)

    def test_numbers_that_do_not_fit(self):
        clf = xl.LinearClassifier().fit(X, np.where(X[:, 0] > 0, 300, 1))
        with pytest.raises(ValueError, match="int8, which does not hold results of dtype int64"):
            clf.predict(X, out=np.empty(N, np.int8))
        assert np.array_equal(clf.predict(X, out=np.empty(N, np.int16)), clf.predict(X))
        with pytest.raises(ValueError, match="int64, which does not hold"):
            clf.predict_proba(X, out=np.empty((N, 2), np.int64))

    def test_method(self, clf):
        with pytest.raises(ValueError, match="method must be one of"):
            clf.predict_blocks(X, "fit")
        with pytest.raises(AttributeError, match="predict_proba"):
            xl.LinearClassifier("squared_hinge").fit(X, Y).predict_blocks(X, "predict_proba")

    @pytest.mark.parametrize("ending", [".npy", ".parquet"])
    @pytest.mark.parametrize("before", [None, b"before"])
    def test_nothing_is_left_of_what_failed(self, clf, ending, before, tmp_path, monkeypatch):
        out = tmp_path / f"out{ending}"
        if before is not None:
            out.write_bytes(before)

        def bad():
            yield X
            yield np.full((3, P), np.nan)

        with pytest.raises(ValueError, match="NaN or infinity: nan in row 500, column 0"):
            clf.predict(bad(), out=out)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(outputs, "_write_npy", full)
        monkeypatch.setattr(outputs, "write_parquet", full)
        with pytest.raises(OSError, match=f"out{ending}' cannot be written: No space left"):
            clf.predict(X, out=out)
        left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert left == ({} if before is None else {out.name: before})

    def test_no_rows(self, clf):
        with pytest.raises(ValueError, match="X gives no rows"):
            clf.predict(iter([]))
        assert batches.batches_of([]) is None


def test_a_zarr_folder_that_is_one_array(clf, tmp_path):
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(100, P))
    clf.save(tmp_path / "m.safetensors")
    command = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "X.zarr")]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "o.parquet")])
    assert result.exit_code == 0, result.output
    labels = pq.read_table(tmp_path / "o.parquet").column(0).to_pylist()
    assert labels == clf.predict(X).tolist()
    result = CliRunner().invoke(app, ["train", str(tmp_path / "X.zarr")])
    assert "is one array; rows and labels are arrays of a group" in result.output
