"""Rows in files: what is fitted to them, and predicted of them, is that of the rows in an array."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import make_scorer

import xplinear as xl
from xplinear.backends import get_backend
from xplinear.backends.transfer import read_rows, upload_ahead
from xplinear.data import ArrayData, StreamedData, sliced, streamed
from xplinear.data.blocks import Nearby, shuffled
from xplinear.data.sliced import SlicedRows, sliced_rows
from xplinear.data.sources import remote_rows

N, P, K = 900, 6, 3
rng = np.random.default_rng(0)
X = rng.standard_normal((N, P)) * [1.0, 2.0, 0.5, 1.0, 3.0, 1.0]
Y = np.argmax(X[:, :K] + rng.gumbel(size=(N, K)), axis=1)
LABELS = (X[:, :4] + rng.standard_normal((N, 4)) > 0).astype(int)
WEIGHTS = rng.integers(0, 3, N).astype(float)
EXACT: dict[str, Any] = {"tol": 1e-11, "random_state": 0}


@pytest.fixture(autouse=True)
def in_files(monkeypatch, request):
    """Take rows from files even if they are few, and read few at a time."""
    if "small" not in request.node.name:
        monkeypatch.setattr(sliced, "KEPT_BYTES", 0)
        monkeypatch.setattr(sliced, "_MAPPED_BYTES", 0)
        monkeypatch.setattr(sliced, "_RUN_BYTES", 2**12)
        monkeypatch.setattr(streamed, "_RUN_BYTES", 2**12)


def memory_map(path, rows):
    np.save(path / "X.npy", rows)
    return np.load(path / "X.npy", mmap_mode="r")


def columns_first(path, rows):
    return memory_map(path, np.asfortranarray(rows))


def hdf5(path, rows, **settings):
    with h5py.File(path / "X.h5", "w") as file:
        file.create_dataset("X", data=rows, **settings)
    return h5py.File(path / "X.h5")["X"]


def zarr_array(path, rows, **settings):
    return zarr.create_array(path / "X.zarr", data=rows, **settings)


def tensors(path, rows, framework="np"):
    safetensors.numpy.save_file({"X": np.ascontiguousarray(rows)}, path / "X.safetensors")
    return safe_open(path / "X.safetensors", framework).get_slice("X")


def shards(path, rows):
    """One of each, one of them empty, one an array."""
    a, b, c, d = np.split(rows, [100, 101, 500])
    return [memory_map(path, a), hdf5(path, b), np.empty((0, P)), c, zarr_array(path, d)]


FORMATS = {
    "memory map": memory_map,
    "memory map of columns": columns_first,
    "HDF5": hdf5,
    "HDF5 in chunks": lambda path, rows: hdf5(path, rows, chunks=(70, P), compression="gzip"),
    "HDF5 in narrow chunks": lambda path, rows: hdf5(path, rows, chunks=(128, 4)),
    "Zarr": lambda path, rows: zarr_array(path, rows, chunks=(64, P)),
    "Zarr in shards": lambda path, rows: zarr_array(path, rows, chunks=(50, 2), shards=(100, 6)),
    "safetensors": tensors,
    "shards": shards,
}


@pytest.fixture(params=FORMATS)
def file(request, tmp_path):
    return FORMATS[request.param](tmp_path, X)


def fitted(rows: Any, y: Any = Y, s: Any = None, **settings: Any) -> Any:
    kind = (
        xl.LinearClassifierCV if "alphas" in settings or "Cs" in settings else xl.LinearClassifier
    )
    return kind(**EXACT | settings).fit(rows, y, s)


def assert_same_model(a: Any, b: Any, atol: float = 1e-10) -> None:
    for name in ("coef_", "intercept_"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=atol)


def test_every_format(file):
    assert isinstance(remote_rows(file), SlicedRows)
    found, there = fitted(file, solver="lbfgs"), fitted(X, solver="lbfgs")
    assert_same_model(found, there)
    assert found.n_iter_ == there.n_iter_
    for method in ("predict", "decision_function", "predict_proba", "predict_log_proba"):
        np.testing.assert_array_equal(getattr(found, method)(file), getattr(found, method)(X))
    assert found.score(file, Y, WEIGHTS) == found.score(X, Y, WEIGHTS)


@pytest.mark.parametrize(
    ("settings", "y", "s"),
    [
        ({"solver": "lbfgs"}, Y, WEIGHTS),
        ({"solver": "lbfgs", "standardize": True}, Y, WEIGHTS),
        ({"solver": "lbfgs", "standardize": True, "class_weight": {0: 3.0}}, Y, None),
        ({"solver": "newton"}, Y, WEIGHTS),
        ({"solver": "newton_cg"}, Y, WEIGHTS),
        ({"solver": "proximal_lbfgs", "penalty": "l1", "alpha": 0.01}, Y, WEIGHTS),
        ({"solver": "interior_point", "loss": "multiclass_hinge"}, Y, WEIGHTS),
        ({"solver": "gd", "max_iter": 30}, Y, WEIGHTS),
        ({"solver": "sgd", "max_iter": 3}, Y, None),
        ({"solver": "sgd", "max_iter": 3, "early_stopping": True}, Y, None),
        ({"solver": "lbfgs", "early_stopping": True}, Y, WEIGHTS),
        ({"solver": "lbfgs"}, LABELS, None),
        (
            {"solver": "lbfgs", "standardize": True},
            LABELS,
            rng.integers(0, 3, (N, 4)).astype(float),
        ),
        ({"multi_class": "one_vs_rest", "class_weight": "balanced"}, Y, WEIGHTS),
        ({"alphas": [0.1, 0.01]}, Y, None),
        ({"alphas": [0.1, 0.01], "standardize": True, "scoring": "log_loss"}, Y, WEIGHTS),
        ({"Cs": 3, "scoring": "roc_auc", "held_out_scores": True}, Y, WEIGHTS),
        ({"alphas": 3, "standardize": True, "held_out_scores": True}, LABELS, WEIGHTS),
        ({"alphas": [0.1], "scoring": lambda y, Z: np.mean(y == Z.argmax(axis=1))}, Y, WEIGHTS),
        ({"alphas": [0.1, 0.01], "alpha_per_label": True}, LABELS, None),
    ],
)
@pytest.mark.filterwarnings("ignore:the best mean score", "ignore:.*max_iter", "ignore:.*floor")
def test_every_kind_of_fit(tmp_path, settings, y, s):
    file = hdf5(tmp_path, X, chunks=(70, P))
    found, there = (fitted(rows, y, s, **settings) for rows in (file, X))
    assert_same_model(found, there)
    for name in ("alpha_", "cv_scores_", "held_out_scores_"):
        if hasattr(there, name):
            a, b = getattr(found, name), getattr(there, name)
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.predict(file), there.predict(X))


def test_going_on(tmp_path):
    file = hdf5(tmp_path, X)
    found, there = (
        xl.LinearClassifier(solver="lbfgs", warm_start=True, **EXACT).fit(rows, Y).fit(rows, 2 - Y)
        for rows in (file, X)
    )
    assert_same_model(found, there)
    found, there = (
        xl.LinearClassifier(random_state=0).partial_fit(rows, Y, [0, 1, 2]).partial_fit(rows, Y)
        for rows in (file, X)
    )
    assert_same_model(found, there)


def test_every_backend(library, tmp_path):
    options: dict[str, Any] = {"solver": "lbfgs", "dtype": "float64"}
    options["backend"] = library.backend.name
    file = zarr_array(tmp_path, X.astype(np.float32), chunks=(64, P))
    with library.backend.double_precision():
        found = fitted(file, Y, WEIGHTS + 1.0, **options)
        there = fitted(X.astype(np.float32), Y, WEIGHTS + 1.0, **options)
        assert found.backend_.name == there.backend_.name == library.backend.name
        assert_same_model(*(clf.to("numpy") for clf in (found, there)))
        np.testing.assert_array_equal(found.predict(file), there.predict(X.astype(np.float32)))


@pytest.mark.parametrize("padding", [0, 30])
def test_a_device_of_own_memory_that_holds_the_rows_is_given_them_once(library, padding):
    own = replace(library.backend, own_memory=True, padding=lambda X, n: padding)
    source = Runs(X, chunk=64)
    rows, codes, s = remote_rows(source), Y.astype(np.int32), WEIGHTS[:, None] + 1.0
    counted = np.flatnonzero(WEIGHTS)
    with own.double_precision():
        data = rows.data(codes, s, own.xp.float64, backend=own, counted=counted)
        stream = rows.data(codes, s, own.xp.float64, backend=replace(own, own_memory=False))
        assert isinstance(data, ArrayData)
        assert isinstance(stream, StreamedData)
        assert (data.n, data.padding) == (N, padding)
        expected = np.where(WEIGHTS[:, None] > 0, X, X[counted[0]])
        np.testing.assert_array_equal(library.to_numpy(data.X)[:N], expected)
        for name in ("y", "s"):
            a, b = (library.to_numpy(getattr(one, name)) for one in (data, stream))
            np.testing.assert_array_equal(a, b)
        few = replace(own, free_memory=lambda: 3 * X.nbytes - 1)
        assert isinstance(rows.data(codes, backend=few), StreamedData)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_what_stands_in_rows_of_no_weight_does_not_matter(tmp_path, solver):
    poisoned = np.where(WEIGHTS[:, None] > 0, X, 1.7e308)  # finite: two of them are not
    for standardize in (False, True):
        found, expected = (
            fitted(hdf5(tmp_path, rows), Y, WEIGHTS, solver=solver, standardize=standardize)
            for rows in (poisoned, X)
        )
        assert_same_model(found, expected)
    sweep = {"alphas": [0.1], "standardize": True}
    assert_same_model(*(fitted(hdf5(tmp_path, a), Y, WEIGHTS, **sweep) for a in (poisoned, X)))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", ">f8", "float16", "float32"])
def test_dtypes(tmp_path, dtype):
    rows = (4 * X).round().clip(0, 9).astype(dtype)
    for file in (hdf5(tmp_path, rows), memory_map(tmp_path, rows)):
        found, there = (fitted(a, solver="lbfgs") for a in (file, rows))
        assert found.coef_.dtype == there.coef_.dtype
        assert_same_model(found, there, 1e-6 if there.coef_.dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("framework", ["np", "pt"])
def test_bfloat16(tmp_path, framework):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    if framework == "pt":
        pytest.importorskip("torch")
    rows = X.astype(ml_dtypes.bfloat16)
    file = tensors(tmp_path, rows, framework)
    found, there = (fitted(a, solver="lbfgs") for a in (file, rows))
    assert_same_model(found, there, 1e-6)
    mixed = [file, hdf5(tmp_path, X.astype(np.float16))]
    assert remote_rows(mixed).dtype == np.float32


def test_small_sources_are_arrays(tmp_path):
    for name, make in FORMATS.items():
        rows = sliced_rows(make(tmp_path / name if name.startswith("Zarr") else tmp_path, X))
        if name.startswith("memory map"):
            assert rows is None
        else:
            np.testing.assert_array_equal(rows, X)


class Runs:
    """Rows of which only runs can be had, in order; it counts them."""

    def __init__(self, rows: Any, chunk: int = 1) -> None:
        self.rows, self.chunks, self.shape, self.dtype = rows, (chunk, P), rows.shape, rows.dtype
        self.read: list[tuple[int, int]] = []
        self.lock = threading.Lock()

    def __getitem__(self, rows: Any) -> Any:
        assert isinstance(rows, slice)
        assert rows.step is None
        with self.lock:
            self.read.append((rows.start, rows.stop))
        return self.rows[rows]


def rows_read(source: Runs) -> int:
    return sum(stop - start for start, stop in source.read)


def test_passes_over_a_file():
    """One to look, one for each evaluation, and no more than one for the samples."""
    source = Runs(X, chunk=70)
    small = replace(get_backend("numpy"), block_bytes=2**12)
    clf = fitted(source, solver="lbfgs", tol=1e-3, backend=small)
    assert rows_read(source) <= N * (clf.n_iter_ * 1.3 + 5)
    assert all(start % 70 == 0 for start, _ in source.read)
    source.read.clear()
    clf.predict(source)
    assert rows_read(source) == N


def test_a_sample_is_read_once_and_kept():
    source = Runs(X, chunk=10)
    numpy = get_backend("numpy")
    stored, codes = sliced_rows(source), Y.astype(np.int32)
    data = stored.data(codes, backend=numpy)
    array = StreamedData(X, codes, backend=numpy)
    for rows in (50, 50, 400, N):
        np.testing.assert_array_equal(data.sample(rows).X, array.sample(rows).X)
    assert rows_read(source) <= 3 * N
    weights = WEIGHTS[:, None]
    for _ in range(3):
        a, b = (d.with_weights(weights).sample(70) for d in (data, array))
        np.testing.assert_array_equal(a.X, b.X)
        np.testing.assert_array_equal(a.s, b.s)
    assert rows_read(source) <= 4 * N
    assert len(data.samples) <= 2


def test_rows_that_lie_apart_are_read_by_runs():
    source = Runs(X, chunk=10)
    rows = np.asarray([899, 5, 3, 3, 14, 700, 701, 702, 0])
    found = read_rows(sliced_rows(source).slices, rows, np.empty((9, P)))
    np.testing.assert_array_equal(found, X[rows])
    assert sorted(source.read) == [(0, 15), (700, 703), (899, 900)]


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("batch", [16, 50])
def test_epochs_shuffle_blocks_and_then_rows(monkeypatch, chunk, batch):
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", 2**9)
    monkeypatch.setattr(streamed, "_WINDOW_BYTES", 2**13)
    source = Runs(X, chunk)
    data = sliced_rows(source).data(Y.astype(np.int32), backend=get_backend("numpy"))
    nearby = data.nearby(batch)
    assert nearby.window % batch == 0
    assert nearby.window % nearby.block == 0
    order = shuffled(N, 3, 0, nearby)
    np.testing.assert_array_equal(np.sort(order), np.arange(N))
    assert not np.array_equal(order, shuffled(N, 3, 1, nearby))
    for start in range(0, N, nearby.window):
        window = np.sort(order[start : start + nearby.window])
        assert (np.diff(window) > 1).sum() <= nearby.window // nearby.block
    drawn = list(data.drawn(order, batch))
    assert all(len(at) % batch == 0 for _, at in drawn[:-1])
    rows = np.concatenate([part[0][at] for part, at in drawn])
    labels = np.concatenate([part[1][at] for part, at in drawn])
    np.testing.assert_array_equal(rows, X[order])
    np.testing.assert_array_equal(labels, Y[order])
    assert rows_read(source) == N


def test_rows_that_are_shuffled_together_are_read_once():
    source = Runs(X, chunk=200)
    numpy = get_backend("numpy")
    data = sliced_rows(source).data(Y.astype(np.int32), backend=replace(numpy, block_bytes=2**10))
    assert data.nearby(16) is None
    drawn = list(data.drawn(shuffled(N, 0, 0), 16))
    assert rows_read(source) == N
    assert len(drawn) == 1


def test_windows_of_large_chunks_are_bounded(monkeypatch):
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", 2**9)
    monkeypatch.setattr(streamed, "_WINDOW_BYTES", 2**10)
    monkeypatch.setattr(streamed, "_MOST_BYTES", 2**13)
    data = sliced_rows(Runs(X, chunk=64)).data(Y.astype(np.int32), backend=get_backend("numpy"))
    assert data.nearby(16) == (64, 128, 1)  # two chunks of 3 KB are in 8 KB, eight are not


def test_it_is_said_that_mini_batches_are_other_ones(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="xplinear")
    fitted(Runs(X), solver="sgd", max_iter=2)
    assert "mini-batches are not" not in caplog.text  # one window holds them all
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", 2**9)
    monkeypatch.setattr(streamed, "_WINDOW_BYTES", 2**13)
    fitted(Runs(X), solver="sgd", max_iter=2)
    assert caplog.text.count("mini-batches are not those of an array: blocks of 64 rows") == 1


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_the_chunks_all_rows_pass_in_order(data):
    """In full passes, also from the middle on, and in epochs; a pass of files is read once."""

    def drawn(least: int, most: int) -> int:
        return data.draw(st.integers(least, most))

    n, chunk, padding, batch = drawn(1, 150), drawn(1, 40), drawn(0, 8), drawn(1, 20)
    source = Runs(X[:n], chunk)
    with pytest.MonkeyPatch.context() as patch:
        for name, most in (("_RUN_BYTES", 3000), ("_BLOCK_BYTES", 900), ("_WINDOW_BYTES", 3000)):
            patch.setattr(streamed, name, drawn(1, most))
        numpy = replace(get_backend("numpy"), padding=lambda X, n: padding)
        rows = sliced_rows(source).data(np.arange(n, dtype=np.int32), backend=numpy)
        start, size = drawn(0, n - 1), drawn(1, 60)
        parts = list(rows.stored(start, size))
        assert [at.start for _, at in parts] == [start, *(at.stop for _, at in parts[:-1])]
        assert all(at.stop - at.start <= size for _, at in parts)
        index = np.arange(start, n + padding)
        found = np.concatenate([part for part, _ in parts])
        np.testing.assert_array_equal(found, X[np.where(index < n, index, 0)])
        rows.budget.bytes = size * rows.row_bytes(1)
        mapped = np.concatenate(list(rows.map(lambda block: block.rows.dense(), (), scores=1)))
        np.testing.assert_array_equal(mapped, X[:n])
        source.read.clear()
        nearby = rows.nearby(batch)
        order = shuffled(n, 0, 0, nearby)
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
        epoch = [(part[0][at], part[1][at]) for part, at in rows.drawn(order, batch)]
    assert all(len(some) % batch == 0 for some, _ in epoch[:-1])
    np.testing.assert_array_equal(np.concatenate([some for some, _ in epoch]), X[order])
    np.testing.assert_array_equal(np.concatenate([codes for _, codes in epoch]), order)
    # Blocks that are not whole chunks share one with the block before and the one after.
    shared = 0 if nearby is None or nearby.block % chunk == 0 else -(-n // nearby.block) * 2 * chunk
    assert rows_read(source) <= n + shared + (chunk + 1 if padding else 0)


class Pinned:
    """Two buffers on the host and two on a device that is NumPy, used in turn."""

    def __init__(self, shape: Any, dtype: Any) -> None:
        self.host, self.device = (np.full((2, *shape), 0, dtype) for _ in range(2))

    def mark(self) -> None: ...
    def await_copy(self, slot: int) -> None: ...
    def finish(self) -> None: ...

    def pinned(self, slot: int) -> Any:
        return self.host[slot]

    def copy(self, slot: int, rows: int, free: None) -> Any:
        self.device[slot][:rows] = self.host[slot][:rows]
        return self.device[slot][:rows]


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_through_the_buffers_of_a_gpu(monkeypatch, solver):
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", 2**9)
    monkeypatch.setattr(streamed, "_WINDOW_BYTES", 2**13)
    plain = get_backend("numpy")
    gpu = replace(
        plain,
        upload=partial(upload_ahead, copier=Pinned),
        each=lambda function, items, at_once=False: map(function, items),
        block_bytes=2**11,
    )
    options: dict[str, Any] = {"solver": solver, "max_iter": 20}
    warnings = pytest.warns(ConvergenceWarning) if solver == "lbfgs" else nullcontext()
    with warnings:
        found, there = (
            fitted(Runs(X, 64), Y, WEIGHTS, backend=backend, **options) for backend in (gpu, plain)
        )
    assert_same_model(found, there, 1e-12)


def test_what_is_left_of_the_blocks_comes_last():
    order = shuffled(103, 0, 0, Nearby(10, 20))
    assert set(order[100:]) <= set(range(100, 103)) | set(range(100))
    assert {100, 101, 102} <= set(order[80:])


def test_epochs_are_the_same_on_every_backend(library, monkeypatch):
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", 2**9)
    monkeypatch.setattr(streamed, "_WINDOW_BYTES", 2**13)
    settings: dict[str, Any] = {"solver": "sgd", "max_iter": 3, "dtype": "float64"}
    with library.backend.double_precision():
        found = fitted(Runs(X), backend=library.backend.name, **settings).to("numpy")
        again = fitted(Runs(X), backend=library.backend.name, **settings).to("numpy")
    np.testing.assert_array_equal(found.coef_, again.coef_)
    assert_same_model(found, fitted(Runs(X), backend="numpy", **settings))
    assert abs(found.score(X, Y) - fitted(X, **settings).score(X, Y)) < 0.05


class Broken(Runs):
    """Rows whose disk fails, or that become others, after so many reads."""

    left = 1000

    def __getitem__(self, rows: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            return self.fail(rows)
        return super().__getitem__(rows)

    def fail(self, rows: Any) -> Any:
        raise OSError("the disk is on fire")


class Cut(Broken):
    """Rows that become fewer."""

    def fail(self, rows: Any) -> Any:
        self.shape = (N - 500, P)
        return self.rows[:400][rows]


class Grown(Broken):
    """Rows that become more."""

    def fail(self, rows: Any) -> Any:
        self.shape = (N + 1, P)
        return self.rows[rows]


class Other(Broken):
    """Rows that become others, all but one."""

    def fail(self, rows: Any) -> Any:
        return np.where(np.arange(N)[rows, None] == 0, self.rows[rows], self.rows[rows] + 1e-9)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd", "newton"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_other_rows_than_in_the_first_pass_are_told(monkeypatch, solver, weights):
    monkeypatch.setattr(sliced, "SAMPLED", 30)  # no other ones are compared
    source = Other(X)
    source.left = 20
    with pytest.raises(ValueError, match=r"X has changed while it was read: row (30|60) is "):
        fitted(source, Y, weights, solver=solver)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
@pytest.mark.parametrize("left", [0, 7, 20])
def test_a_read_that_fails_changes_nothing(solver, left):
    source = Broken(X)
    clf = xl.LinearClassifier(solver=solver, random_state=0).fit(X[:50], Y[:50])
    kept = clf.coef_
    source.left = left
    with pytest.raises(OSError, match="on fire") as caught:
        clf.fit(source, Y)
    assert any("of X were read" in note for note in caught.value.__notes__)
    np.testing.assert_array_equal(clf.coef_, kept)
    assert clf.fit(Runs(X), Y).score(X, Y) > 0.6


@pytest.mark.parametrize("kind", [Cut, Grown])
@pytest.mark.parametrize("left", [3, 12])
def test_a_file_that_changes_is_told(kind, left):
    source = kind(X)
    source.left = left
    with pytest.raises(ValueError, match=r"X has changed while it was read: .*\(900, 6\)"):
        fitted(source, solver="lbfgs")


def test_readers_end_with_an_error(library):
    before = {thread.ident for thread in threading.enumerate()}
    for solver in ("lbfgs", "sgd"):
        source = Broken(X)
        source.left = 12
        with pytest.raises(OSError, match="on fire"):
            fitted(source, solver=solver, backend=library.backend.name)
    after = [t for t in threading.enumerate() if t.ident not in before]
    assert all(t.name.startswith("xplinear") or "Dummy" in t.name for t in after), after


def groups(path):
    with h5py.File(path / "g.h5", "w") as file:
        file["train/X"] = X
    group = zarr.open_group(path / "g.zarr", mode="w")
    group.create_array("rows", data=X)
    safetensors.numpy.save_file({"weights": X}, path / "g.safetensors")
    file = h5py.File(path / "g.h5")
    return {
        "train": file,
        "X": file["train"],
        "rows": group,
        "weights": safe_open(path / "g.safetensors", "np"),
    }


def test_a_group_says_what_it_holds(tmp_path):
    for name, group in groups(tmp_path).items():
        with pytest.raises(TypeError, match=rf"no array; it holds '{name}': pass one of these"):
            fitted(group)
        with pytest.raises(TypeError, match=rf"no array; it holds '{name}'"):
            fitted([group])
        with pytest.raises(TypeError, match=rf"no array; it holds '{name}'"):
            fitted(X).predict(group)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X[:, 0], r"X must have two axes, samples and features; it has shape \(900,\)"),
        (X[:, :, None], r"X must have two axes.* \(900, 6, 1\)"),
        (X[:0], r"X is empty: 0 sample\(s\) and 6 feature\(s\)"),
        (X[:, :0], r"X is empty: 900 sample\(s\) and 0 feature\(s\)"),
        (X.astype(complex), "X is of dtype complex128, but features must be numbers"),
        (X.astype("S"), "X is of dtype .S.*, but features must be numbers"),
        (X.astype(np.longdouble), "X is of dtype float128, but .* at most 64 bits"),
        (X[:800], r"inconsistent numbers of samples: \[800, 900\]"),
    ],
)
def test_what_is_no_matrix_of_numbers(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        fitted(hdf5(tmp_path, rows))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_not_finite_is_named(tmp_path, bad, dtype):
    there = fitted(X.astype(dtype))
    rows = X.astype(dtype)
    rows[731, 4] = bad
    for kind in (hdf5, memory_map):
        file = kind(tmp_path, rows)
        for fails in (fitted, there.predict):
            with pytest.raises(ValueError, match=rf"{bad} in row 731, column 4; impute it"):
                fails(file)


def test_small_files_name_what_is_not_finite_too(tmp_path):
    rows = X.copy()
    rows[731, 4] = np.nan
    with pytest.raises(ValueError, match="nan in row 731, column 4"):
        fitted(hdf5(tmp_path, rows))


def test_other_columns_than_those_of_the_fit(tmp_path):
    clf = fitted(X)
    with pytest.raises(ValueError, match="X has 4 features, but LinearClassifier is expecting 6"):
        clf.predict(hdf5(tmp_path, X[:, :4]))


def test_a_closed_file(tmp_path):
    file = hdf5(tmp_path, X)
    file.file.close()
    with pytest.raises(ValueError, match=r"X cannot be read: .*is its file open"):
        fitted(file)


def test_lists_that_are_no_shards(tmp_path):
    file = hdf5(tmp_path, X)
    with pytest.raises(ValueError, match=r"the same columns: X\[0\] has 6, X\[1\] 5"):
        fitted([file, X[:, :5]])
    with pytest.raises(TypeError, match=r"X\[1\] is list; all of a list of shards"):
        fitted([file, X.tolist()])
    with pytest.raises(ValueError, match=r"X\[1\] must have two axes"):
        fitted([file, X[0]])
    with pytest.raises(ValueError, match="Found array with dim 3"):
        fitted([X, X])  # as ever: it may be an array of three axes
    assert_same_model(fitted(X.tolist()), fitted(X))


def test_rows_of_which_too_many_must_be_read_together(tmp_path, monkeypatch):
    monkeypatch.setattr(sliced, "_MOST_BYTES", 2**12)
    with pytest.raises(ValueError, match=r"chunks of \(900, 2\): to read a row"):
        fitted(zarr_array(tmp_path, X, chunks=(N, 2)))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
@pytest.mark.parametrize("y", [Y, np.asarray(["no", "yes"])[Y % 2]])
def test_scorers_are_given_scores(tmp_path, method, y):
    """What they ask a classifier for is that of the rows, which are not read again."""

    def mean(y: Any, found: Any, sample_weight: Any) -> float:
        hits = found == y if method == "predict" else found[:, 0] if found.ndim > 1 else found
        return float(np.average(hits, weights=sample_weight))

    scorer = make_scorer(mean, response_method=method)
    settings: dict[str, Any] = {"alphas": [0.1, 0.01], "scoring": scorer, "standardize": True}
    found, there = (fitted(rows, y, WEIGHTS, **settings) for rows in (hdf5(tmp_path, X), X))
    np.testing.assert_allclose(found.cv_scores_, there.cv_scores_, rtol=1e-9)


def test_other_scorers_want_rows(tmp_path):
    with pytest.raises(TypeError, match=r"rows of X, which are not in memory; use a scoring by na"):
        fitted(hdf5(tmp_path, X), alphas=[0.1], scoring=lambda estimator, X, y: 0.0)


def test_labels_and_weights_in_files(tmp_path):
    rows = hdf5(tmp_path, X)
    y, s = zarr_array(tmp_path, Y), tensors(tmp_path, WEIGHTS)
    found = fitted(rows, y, s, solver="lbfgs")
    assert_same_model(found, fitted(X, Y, WEIGHTS, solver="lbfgs"))
    assert found.score(rows, y, s) == found.score(X, Y, WEIGHTS)
