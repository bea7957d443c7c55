"""Sources of rows: streamed from the host they give what they give on the device."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import xplinear as xl
from xplinear.backends import transfer
from xplinear.backends.epoch import fold_in_python
from xplinear.backends.transfer import read_ahead, read_rows, upload_ahead
from xplinear.data import ArrayData, StreamedData, blocks, data_of
from xplinear.data.blocks import Orders, shuffled
from xplinear.data.protocol import Followed
from xplinear.estimator.predictions import block_scores
from xplinear.estimator.problem import prepare
from xplinear.estimator.settings import Settings, given
from xplinear.minimize import minimize
from xplinear.model_selection.scoring import class_counts
from xplinear.solvers import SGD

N, P, K = 700, 4, 3
rng = np.random.default_rng(0)
X = rng.standard_normal((N, P))
Y = np.argmax(X[:, :K] + 0.5 * rng.gumbel(size=(N, K)), axis=1).astype(np.int32)
S = rng.integers(1, 4, (N, 2)).astype(float)
FOLDS = [0, 1, 1]
ALPHAS = [0.1, 0.01, 0.001]


def both(backend: Any, rows: Any, dtype: str = "float64", s: Any = S) -> tuple[Any, Any]:
    """Return the objective of three models with X on the device, and with X on the host."""
    small = backend.with_blocks_of(1)
    there = small.objective(
        xl.losses.SoftmaxLoss(),
        xl.penalties.L2Penalty(),
        rows,
        Y,
        s,
        alpha=ALPHAS,
        models=None if s is None else FOLDS,
        dtype=dtype,
        stored=np.asarray(rows).dtype.name,
    )
    data = there.data
    streamed = StreamedData(rows, data.y, data.s, data.dtype, data.models, backend=small.backend)
    return there, replace(there, data=streamed)


def layouts(tmp_path: Any) -> dict[str, Any]:
    """Return X in host memory, and in files, in many ways."""
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "F.npy", np.asfortranarray(X))
    frozen = X.copy()
    frozen.flags.writeable = False
    return {
        "array": X,
        "read-only": frozen,
        "strided": np.repeat(X, 2, axis=0)[::2],
        "backwards": X[::-1, ::-1],
        "memory map": np.load(tmp_path / "X.npy", mmap_mode="r"),
        "memory map of columns": np.load(tmp_path / "F.npy", mmap_mode="r"),
        "other byte order": X.astype(X.dtype.newbyteorder()),
        "bytes": (40 * X).astype(np.int8),
    }


def parts_of(block: Any) -> tuple[Any, ...]:
    return block.X, block.y, block.s


def assert_same(backend: Any, a: Any, b: Any, rtol: float = 1e-12) -> None:
    a, b = backend.to_numpy(a), backend.to_numpy(b)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_full_passes_are_those_of_arrays(backend, tmp_path):
    for rows in layouts(tmp_path).values():
        there, streamed = both(backend, np.asarray(rows).astype(rows.dtype.newbyteorder("=")))
        streamed = replace(streamed, data=replace(streamed.data, X=rows))
        assert (streamed.data.n, streamed.data.p) == (N, P)
        assert streamed.data.rows_per_block(9) == there.data.rows_per_block(9) == 256
        params = backend.params(there)
        pairs = [
            (there.data.weight_sum, streamed.data.weight_sum),
            (there.value(params), streamed.value(params)),
            *zip(*(F.value_and_grad(params)[1] for F in (there, streamed)), strict=True),
            *zip(*(class_counts(F, params) for F in (there, streamed)), strict=True),
            *zip(*(parts_of(F.data.sample(100)) for F in (there, streamed)), strict=True),
            *zip(
                *(F.data.map(block_scores, (F.xp,), params, scores=9) for F in (there, streamed)),
                strict=True,
            ),
        ]
        assert len(pairs) == 13
        for a, b in pairs:
            assert a.dtype == b.dtype
            assert_same(backend, a, b)


def test_models_that_leave_the_stack(backend):
    there, streamed = both(backend, X)
    kept = backend.asarray([0, 2])
    params = backend.params(there.take(kept))
    assert_same(backend, streamed.take(kept).value(params), there.take(kept).value(params))
    there, streamed = both(backend, X, s=None)
    assert streamed.data.take(kept) is streamed.data


def test_the_dtype_is_that_of_the_rows_on_the_device(backend):
    data = StreamedData(X.astype("float32"), backend.asarray(Y), backend=backend.backend)
    assert data.dtype == backend.xp.float32


@pytest.mark.parametrize("cls", [ArrayData, StreamedData])
def test_rows_and_labels_belong_together(numpy_backend, cls):
    own = numpy_backend.backend
    for n in (N - 1, N + 1):
        with pytest.raises(ValueError, match=r"one class code per row of X, shape \(700,\)"):
            cls(X, np.resize(Y, n), backend=own)
        with pytest.raises(ValueError, match=r"s must have the shape \(700, 1\)"):
            cls(X, Y, np.ones((n, 1)), backend=own)
    with pytest.raises(ValueError, match="y must be"):
        cls(X, Y.astype(float), backend=own)
    with pytest.raises(TypeError, match="X must be"):
        cls(None, Y, backend=own)
    with pytest.raises(TypeError, match="backend must be a Backend"):
        cls(X, Y, backend=None)
    with pytest.raises(ValueError, match="dtype must be"):
        cls(X.astype(int), Y, backend=own)


@pytest.mark.parametrize("batch_size", [64, 1000])
def test_mini_batches_are_those_of_arrays(backend, batch_size):
    """Several batches to a piece, several pieces to an epoch, the incomplete batch last."""
    solver = xl.solvers.SGD(max_iter=2, batch_size=batch_size)
    there, streamed = both(backend, X)
    bytes_of_three = 3 * batch_size * X[:1].nbytes + 1
    own = replace(streamed.data.backend, block_bytes=bytes_of_three)
    streamed = replace(streamed, data=replace(streamed.data, backend=own))
    expected, found = (xl.minimize(F, solver).params for F in (there, streamed))
    for a, b in zip(found, expected, strict=True):
        assert_same(backend, a, b, 1e-10)


def test_pieces_that_are_read_ahead_stay_small(numpy_backend):
    large = replace(numpy_backend.backend, block_bytes=2**30)
    sizes = [source(X, Y, backend=large).block_bytes for source in (ArrayData, StreamedData)]
    assert sizes == [2**30, 2**28]


def test_a_fold_of_ones_own_sees_every_row_in_order(backend):
    _, streamed = both(backend, np.arange(N * P, dtype=float).reshape(N, P))
    own = replace(streamed.data.backend, block_bytes=128 * P * 8)
    seen = []

    def fold(epoch):
        rows_, labels, weights = (backend.to_numpy(a) for a in epoch.rows)
        index, schedule = backend.to_numpy(epoch.order), epoch.schedule
        assert (index == np.arange(len(rows_))).all()
        assert len(schedule) == -(-len(index) // epoch.size)
        seen.append((rows_[:, 0] / P, labels, weights, schedule))
        return fold_in_python(epoch)

    def update(rule, xp, carry, block, factor, constants):
        assert (rule, constants) == ("rule", "constants")
        return carry + factor * xp.sum(block.rows.dense()[:, 0])

    arguments = {"batch_size": 64, "shuffle": (3, 1), "schedule": [1.0] * 10 + [2.0]}
    zero = backend.asarray(0.0)
    data = replace(streamed.data, backend=own)
    total = data.epoch(update, "rule", zero, "constants", **arguments, fold=fold)
    order = shuffled(N, 3, 1)
    rows, labels, weights, schedule = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    assert [len(part) for part, *_ in seen] == [128] * 5 + [60]
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(labels, Y[order])
    np.testing.assert_array_equal(weights, S[order])
    np.testing.assert_array_equal(schedule, arguments["schedule"])
    there = ArrayData(backend.asarray(data.X), data.y, data.s, backend=own)
    seen.clear()
    again = there.epoch(update, "rule", zero, "constants", **arguments, fold=fold_in_python)
    assert_same(backend, total, again)


class TestOrders:
    @pytest.fixture
    def drawn(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
        """Which epochs' orders were drawn, and whether here or by another thread."""
        found: list[tuple[int, bool]] = []

        def recorded(n: int, seed: int, epoch: int) -> Any:
            found.append((epoch, threading.current_thread() is threading.main_thread()))
            return shuffled(n, seed, epoch)

        monkeypatch.setattr(blocks, "shuffled", recorded)
        monkeypatch.setattr(blocks, "_FEW_TO_DRAW", 1)
        return found

    @pytest.mark.parametrize("streamed", [False, True])
    def test_that_of_the_next_epoch_is_drawn_meanwhile(
        self, numpy_backend, drawn, monkeypatch, streamed
    ):
        F, solver, before = (
            both(numpy_backend, X)[streamed],
            SGD(max_iter=3),
            threading.active_count(),
        )
        params = minimize(F, solver).params
        assert drawn == [(0, True), (1, False), (2, False)]  # and none that nobody needs
        assert threading.active_count() == before
        monkeypatch.setattr(blocks, "_FEW_TO_DRAW", N + 1)
        for a, b in zip(params, minimize(F, solver).params, strict=True):
            np.testing.assert_array_equal(a, b)
        assert drawn[3:] == [(0, True), (1, True), (2, True)]

    def test_an_interrupt_leaves_nothing_behind(self, numpy_backend, drawn):
        F, before = both(numpy_backend, X)[0], threading.active_count()

        def fold(epoch):
            raise KeyboardInterrupt

        arguments = {"batch_size": 64, "schedule": [1.0] * 11, "fold": fold}
        with pytest.raises(KeyboardInterrupt):
            F.data.epoch(None, "rule", None, shuffle=Followed(0, 0), **arguments)
        assert threading.active_count() == before
        assert drawn == [(0, True), (1, False)]

    def test_it_is_that_of_these_rows_and_this_epoch(self, drawn):
        orders = Orders()
        for n, shuffle in ((5, Followed(0, 0)), (5, Followed(0, 1)), (6, Followed(0, 2))):
            with pickle.loads(pickle.dumps(orders)).order(n, shuffle) as one:
                np.testing.assert_array_equal(one, shuffled(n, *shuffle))
            with orders.order(n, shuffle) as order:
                np.testing.assert_array_equal(order, one)
        with orders.order(6, (1, 3)) as order:
            np.testing.assert_array_equal(order, shuffled(6, 1, 3))

    def test_partial_fit_draws_nothing_ahead(self, drawn):
        clf = xl.LinearClassifier(alpha=1e-3)
        for _ in range(2):
            clf.partial_fit(X, Y, classes=np.unique(Y))
        assert drawn == [(0, True), (1, True)]


@pytest.fixture
def little(backend: Any) -> Any:
    """A device that X does not fit."""
    if backend.backend.name == "numpy":
        pytest.skip("NumPy is at home")
    return replace(backend.backend, free_memory=lambda: 2 * X.nbytes - 1, block_bytes=1)


def test_rows_are_streamed_where_they_do_not_fit(little):
    y = little.asarray(Y)
    assert isinstance(data_of(X, y, backend=little), StreamedData)
    assert type(data_of(X[1:], y[1:], backend=little)) is ArrayData
    assert type(data_of(little.asarray(X), y, backend=little)) is ArrayData
    clf = xl.LinearClassifier(backend=little)
    assert isinstance(prepare(given(Settings, clf), X, Y, owner=clf).objective.data, StreamedData)
    assert type(prepare(given(Settings, clf), X[:9], Y[:9], owner=clf).objective.data) is ArrayData


def test_a_classifier_larger_than_the_device(little):
    """Fitted and asked as one that fits, to the optimum and by mini-batches."""
    big, small = (replace(little, free_memory=lambda b=b: b) for b in (2**40, 0))
    names = np.asarray(["cat", "dog", "frog"])
    for settings in (
        {"solver": "lbfgs", "alpha": 0.01},
        {"solver": "sgd", "max_iter": 3, "early_stopping": True, "random_state": 0},
    ):
        expected, found = (
            xl.LinearClassifier(**settings, backend=own).fit(X, names[Y], S[:, 0])
            for own in (big, small)
        )
        np.testing.assert_allclose(
            little.fetch(found.coef_), little.fetch(expected.coef_), rtol=1e-8
        )
        assert found.objective_ == pytest.approx(expected.objective_)
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            ours, theirs = (getattr(clf, method)(X) for clf in (found, expected))
            assert type(ours) is type(theirs) is np.ndarray
            if method == "predict":
                np.testing.assert_array_equal(ours, theirs)
            else:
                np.testing.assert_allclose(ours, theirs, rtol=1e-7)
        assert found.score(X, names[Y]) == expected.score(X, names[Y]) > 0.7


def test_cross_validation_larger_than_the_device(little):
    settings = {"alphas": [0.1, 0.01], "cv": 2, "tol": 1e-6}
    for scoring in ("log_loss", lambda y, Z: float(np.mean(y == Z.argmax(axis=1)))):
        expected, found = (
            xl.LinearClassifierCV(**settings, scoring=scoring, backend=own).fit(X, Y)
            for own in (replace(little, free_memory=lambda: 2**40), little)
        )
        np.testing.assert_allclose(found.cv_scores_, expected.cv_scores_, rtol=1e-8)
        assert found.alpha_ == expected.alpha_


def test_smoothing_larger_than_the_device(little):
    """It samples rows, and measures curvatures, besides full passes."""
    if little.name == "jax":
        pytest.skip("it compiles for half a minute")
    settings = {"loss": "multiclass_hinge", "solver": "smoothing", "tol": 1e-3}
    clf = xl.LinearClassifier(**settings, alpha=0.01, backend=little).fit(X, Y)
    assert clf.certificate_.relative_gap[0] < 1e-3


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("solver", ["sgd", "gd"])
def test_a_memory_map_is_not_loaded_by_numpy(tmp_path, order, solver):
    n, p = 200_000, 50
    big = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "f4", (n, p), order == "F")
    big[:] = rng.standard_normal((n, p))
    big.flush()
    labels = rng.integers(0, 3, n)
    rows = np.load(tmp_path / "X.npy", mmap_mode="r")
    clf = xl.LinearClassifier(solver=solver, max_iter=2, backend="numpy", tol=0.9)
    tracemalloc.start()
    clf.fit(rows, labels).predict(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * rows.nbytes


def test_the_next_piece_is_read_while_one_is_in_use():
    rows, reading = np.arange(12.0).reshape(6, 2), threading.Event()

    class Watched(np.ndarray):
        def __getitem__(self, key):
            if isinstance(key, slice) and key.start == 4:
                reading.set()
            return super().__getitem__(key)

    pieces = [range(2), range(2, 4), range(4, 6)]
    ahead = read_ahead(rows.view(Watched), pieces)
    np.testing.assert_array_equal(next(ahead), rows[:2])
    assert not reading.is_set()
    np.testing.assert_array_equal(next(ahead), rows[2:4])
    assert reading.wait(10.0)
    ahead.close()


def test_an_error_of_the_reader_is_not_lost():
    with pytest.raises(IndexError):
        list(read_ahead(np.asfortranarray(np.eye(3)), [np.asarray([7])]))


def test_reading_copies_no_more_than_it_is_asked_for():
    columns = np.zeros((50, 20_000)).T
    buffer = np.empty((5, 50))
    tracemalloc.start()
    read_rows(columns, np.asarray([3, 1]), buffer)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e5


@dataclass
class Slow:
    """A `Copier` whose streams are threads: what is enqueued happens late, and in order."""

    shape: tuple[int, ...]
    dtype: Any
    careful: bool = True

    def __post_init__(self) -> None:
        self.compute, self.stream = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.hosts, self.buffers = (
            [np.zeros(self.shape, self.dtype) for _ in range(2)] for _ in range(2)
        )
        self.copied = [threading.Event() for _ in range(2)]
        for event in self.copied:
            event.set()

    def mark(self) -> threading.Event:
        event = threading.Event()
        self.compute.submit(event.set)
        return event

    def pinned(self, slot: int) -> Any:
        if self.careful:
            self.copied[slot].wait()
        return self.hosts[slot]

    def copy(self, slot: int, rows: int, free: threading.Event) -> Any:
        there, host, done = self.buffers[slot][:rows], self.hosts[slot][:rows], threading.Event()
        self.copied[slot] = done

        def late() -> None:
            if self.careful:
                free.wait()
            time.sleep(0.002)
            there[:] = host
            done.set()

        self.stream.submit(late)
        return there

    def await_copy(self, slot: int) -> None:
        self.compute.submit(self.copied[slot].wait)

    def finish(self) -> None:
        self.stream.submit(int).result()

    def use(self, rows: Any) -> Any:
        """Read some rows, late."""

        def late() -> Any:
            time.sleep(0.01)
            return rows.copy()

        return self.compute.submit(late)


@pytest.mark.parametrize("careful", [True, False])
def test_no_buffer_is_overwritten_before_it_has_been_read(careful):
    copiers: list[Slow] = []

    def copier(shape, dtype):
        copiers.append(Slow(shape, dtype, careful))
        return copiers[0]

    order = shuffled(N, 0, 0)
    pieces = [*(range(i, i + 30) for i in range(0, 300, 30)), *np.split(order[:330], 11)]
    used = [copiers[0].use(rows) for rows in upload_ahead(X, pieces, copier=copier)]
    found = np.concatenate([future.result() for future in used])
    same = (found == X[np.concatenate(pieces)]).all()
    assert same == careful  # without waiting, the test sees it


def test_a_pass_that_ends_early_leaves_nothing_being_copied():
    copiers: list[Slow] = []

    def copier(shape, dtype):
        copiers.append(Slow(shape, dtype))
        return copiers[0]

    uploaded = upload_ahead(X, [range(300), range(300, 600), range(600, 700)], copier=copier)
    next(uploaded)
    uploaded.close()
    assert all(event.is_set() for event in copiers[0].copied)


@pytest.fixture
def two_readers(monkeypatch):
    """Two threads that read three rows at a time."""
    monkeypatch.setattr(transfer, "_PART_BYTES", 3 * X[0].nbytes)
    monkeypatch.setattr(transfer, "_cores", lambda: 2)
    transfer._readers.cache_clear()
    yield
    transfer._readers.cache_clear()


def uploaded(rows: Any, pieces: Any) -> Any:
    """Return pieces of a host array as a device got them."""
    return np.concatenate([a.copy() for a in upload_ahead(rows, pieces, copier=Waiting)])


class Waiting(Slow):
    """Every copy has come when it is given."""

    def copy(self, slot: int, rows: int, free: threading.Event) -> Any:
        there = super().copy(slot, rows, free)
        self.copied[slot].wait()
        return there


@pytest.mark.parametrize("layout", ["C", "F", "big-endian", "reversed", "map"])
def test_several_threads_read_what_one_reads(layout, two_readers, tmp_path):
    np.save(tmp_path / "X.npy", X)
    rows = {
        "C": X,
        "F": np.asfortranarray(X),
        "big-endian": X.astype(">f8"),
        "reversed": X[::-1],
        "map": np.load(tmp_path / "X.npy", mmap_mode="r"),
    }[layout]
    order = shuffled(N, 0, 0)
    pieces = [range(30), range(30, 61), range(100, 60, -2), order[:31], order[:0], order[31:33]]
    np.testing.assert_array_equal(uploaded(rows, pieces), rows[np.concatenate(pieces)])


def test_two_threads_read_at_the_same_time(two_readers):
    together = threading.Barrier(2, timeout=10.0)

    class Met(np.ndarray):
        def __getitem__(self, key):
            together.wait()
            time.sleep(0.05)  # whoever does not wait for both finds nothing
            return super().__getitem__(key)

    assert (uploaded(X.view(Met), [range(6), range(6, 12)]) == X[:12]).all()


def test_an_error_of_one_of_the_readers_is_not_lost(two_readers):
    with pytest.raises(IndexError):
        uploaded(np.asfortranarray(X), [np.asarray([0] * 9 + [N])])


def test_after_an_error_nobody_writes_any_more(two_readers, monkeypatch):
    slow, done = threading.Event(), []

    def read(X, rows, buffer):
        if rows.start == 0:
            slow.wait(10.0)
            msg = "of the first part"
            raise OSError(msg)
        slow.set()
        time.sleep(0.1)
        done.append(rows.start)

    monkeypatch.setattr(transfer, "read_rows", read)
    with pytest.raises(OSError, match="first part"):
        uploaded(X, [range(6)])
    assert done == [3]


def _uploaded_in_child():
    return uploaded(X, [range(N)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_forked_child_reads_too(two_readers):
    uploaded(X, [range(N)])  # there are readers, which a child does not inherit
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(_uploaded_in_child).get(timeout=60), X)


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["cupy", "torch:cuda", "jax:cuda"])
def test_streams_of_a_gpu_give_what_arrays_give(name):
    """Copies and products at the same time, over and over in the same buffers."""
    try:
        gpu = replace(xl.get_backend(name), block_bytes=2**23)
    except xl.BackendError as error:
        pytest.skip(str(error))
    big = rng.standard_normal((60_000, 200)).astype("float32")
    labels, weights = gpu.asarray(rng.integers(0, 10, 60_000)), rng.random((60_000, 16))
    s = gpu.asarray(weights.astype("float32"))
    alpha = gpu.asarray(np.full(16, 1e-3, "float32"))
    loss, penalty = xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty()
    there, streamed = (
        xl.Objective(loss, penalty, alpha, data, k=10)
        for data in (
            ArrayData(gpu.asarray(big), labels, s, backend=gpu),
            StreamedData(big, labels, s, backend=gpu),
        )
    )
    params = xl.minimize(there, xl.solvers.SGD(max_iter=1, batch_size=512)).params
    for _ in range(5):
        expected, found = (F.value_and_grad(params)[1].W for F in (there, streamed))
        np.testing.assert_allclose(gpu.fetch(found), gpu.fetch(expected), rtol=1e-4, atol=1e-7)
    found = xl.minimize(streamed, xl.solvers.SGD(max_iter=1, batch_size=512)).params
    np.testing.assert_allclose(gpu.fetch(found.W), gpu.fetch(params.W), rtol=1e-3, atol=1e-5)


def test_rows_taken_of_a_sample_copy_no_others() -> None:
    """NumPy copies all of the rows that lie apart to take some: once is enough, for all labels."""
    X = np.arange(60.0).reshape(20, 3)
    data = ArrayData(X, np.zeros(20, dtype=np.int32), backend=xl.get_backend("numpy"))
    few, every = data.sample(10).rows.dense(), data.sample(20).rows.dense()
    np.testing.assert_array_equal(few, X[::2])
    assert few.flags.c_contiguous
    assert np.shares_memory(every, X)
