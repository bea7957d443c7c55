"""How rows are read: in order whoever reads them, ahead of the computation, few at a time."""

from __future__ import annotations

import os
import threading
import time
import weakref
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xplinear as xl
from xplinear.backends import transfer
from xplinear.backends.transfer import read_ahead, read_rows
from xplinear.data import StreamedData, sliced
from xplinear.data.mapped import Mapped, in_file
from xplinear.data.sliced import SlicedRows

N, P, K = 640, 5, 3
rng = np.random.default_rng(0)
X = rng.standard_normal((N, P))
Y = np.argmax(X[:, :K] + rng.gumbel(size=(N, K)), axis=1).astype(np.int32)


@dataclass
class File:
    """Rows that say which of them were read; the first ones come late."""

    rows: Any = field(default_factory=lambda: X)
    chunk: int = 1
    late: float = 0.0
    runs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def shape(self) -> Any:
        return self.rows.shape

    @property
    def dtype(self) -> Any:
        return self.rows.dtype

    def read(self, start: int, stop: int, into: Any) -> None:
        self.runs.append((start, stop))
        time.sleep(self.late if start == 0 else 0.0)
        into[...] = self.rows[start:stop]


PIECES = [range(i, i + 20) for i in range(0, N, 20)]


class TestRows:
    def test_a_run_backwards_may_end_with_the_first_row(self):
        for rows in (range(3, -1, -1), range(4, -1, -2), range(3, 0, -1)):
            found = read_rows(X, rows, np.empty((5, P)))
            np.testing.assert_array_equal(found, X[list(rows)])

    @pytest.mark.parametrize("dtype", ["f8", "f2", ">f4", "i1"])
    def test_of_columns_they_are_gathered_along_the_memory(self, dtype):
        asked: list[Any] = []

        class Watched(np.ndarray):
            def __getitem__(self, key: Any) -> Any:
                asked.append(key)
                return super().__getitem__(key)

        whole = (100 * X).astype(dtype)
        rows = rng.integers(0, N, 99)
        into = np.empty((120, P), np.dtype(dtype).newbyteorder("="))
        found = read_rows(np.asfortranarray(whole).view(Watched), rows, into)
        np.testing.assert_array_equal(found, whole[rows])
        assert [(key == np.sort(rows)).all() for key in asked] == [True]


class TestAhead:
    @pytest.mark.parametrize("cores", [1, 2, 5])
    @pytest.mark.parametrize("pieces", [1, 4])
    def test_pieces_come_in_order_whoever_reads_them(self, monkeypatch, cores, pieces):
        monkeypatch.setattr(transfer, "_cores", lambda: cores)
        monkeypatch.setattr(transfer, "_AHEAD_BYTES", pieces * 20 * P * 8)
        file = File(late=0.05)
        found = np.concatenate(list(read_ahead(file, PIECES)))
        np.testing.assert_array_equal(found, X)
        assert sorted(file.runs) == [(rows.start, rows.stop) for rows in PIECES]

    def test_two_threads_read_a_file(self):
        together = threading.Barrier(2, timeout=10.0)

        class Met(File):
            def read(self, start: int, stop: int, into: Any) -> None:
                together.wait()
                super().read(start, stop, into)

        np.testing.assert_array_equal(np.concatenate(list(read_ahead(Met(), PIECES))), X)

    def test_no_more_is_read_ahead_than_memory_is_meant_for(self, monkeypatch):
        made: list[weakref.ref[Any]] = []

        class Watched:  # in this file alone: other threads go on
            def __getattr__(self, name: str) -> Any:
                return getattr(np, name)

            def empty(self, *arguments: Any) -> Any:
                array = np.empty(*arguments)
                made.append(weakref.ref(array))
                return array

        for most, alive in ((10**9, 5), (2 * 20 * P * 8, 4), (0, 3)):
            monkeypatch.setattr(transfer, "_cores", lambda: 2)
            monkeypatch.setattr(transfer, "_AHEAD_BYTES", most)
            monkeypatch.setattr(transfer, "np", Watched())
            seen = 0
            for _ in read_ahead(File(), PIECES):
                seen = max(seen, sum(one() is not None for one in made))
            monkeypatch.undo()
            assert seen <= alive, "what is ahead, what is in use, and what was before"

    def test_an_error_comes_in_its_turn_and_ends_the_reading(self):
        class Broken(File):
            def read(self, start: int, stop: int, into: Any) -> None:
                super().read(start, stop, into)
                if start == 40:
                    msg = "of the third"
                    raise OSError(msg)

        file, found = Broken(), []
        with pytest.raises(OSError, match="of the third"):
            found.extend(read_ahead(file, PIECES))
        np.testing.assert_array_equal(np.concatenate(found), X[:40])
        before = len(file.runs)
        assert before < 8
        time.sleep(0.02)
        assert len(file.runs) == before

    def test_a_pass_that_ends_early_reads_no_further(self, monkeypatch):
        ended, before = threading.Event(), threading.active_count()

        class Slow(File):
            def read(self, start: int, stop: int, into: Any) -> None:
                super().read(start, stop, into)
                if start:
                    ended.wait(10.0)

        monkeypatch.setattr(transfer, "_cores", lambda: 2)
        file = Slow()
        ahead = read_ahead(file, PIECES)
        next(ahead)
        threading.Timer(0.2, ended.set).start()
        ahead.close()
        ended.wait(10.0)
        assert (60, 80) not in file.runs, "two threads had begun no more than two others"
        while threading.active_count() > before:  # the timer
            time.sleep(0.01)


def test_sums_do_not_depend_on_the_readers(backend, monkeypatch):
    if backend.backend.name.startswith("array_api_strict"):
        pytest.skip("sums in another order, of arrays too")
    own, found = backend.with_blocks_of(4096).backend, []
    params = None
    for cores, most in ((1, 0), (2, 2**28), (8, 2**28)):
        monkeypatch.setattr(transfer, "_cores", partial(int, cores))
        monkeypatch.setattr(transfer, "_AHEAD_BYTES", most)
        data = StreamedData(File(chunk=7), own.asarray(Y), backend=own)
        alpha = backend.asarray([0.1], "float64")
        F = xl.Objective(xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty(), alpha, data, K)
        params = params or backend.params(F)
        value, grads = F.value_and_grad(params)
        found.append([backend.to_numpy(a) for a in (value, *grads)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture
def saved(tmp_path):
    np.save(tmp_path / "X.npy", X)
    return tmp_path / "X.npy"


def all_of(rows: Any) -> Any:
    into = np.empty(rows.shape, rows.dtype)
    rows.read(0, len(into), into)
    return into


class TestMemoryMaps:
    @pytest.mark.parametrize("dtype", ["f2", "f4", "i1", "?"])
    def test_they_are_read_from_their_file(self, tmp_path, dtype):
        whole = (2 * X).astype(dtype)
        np.save(tmp_path / "X.npy", whole)
        rows = np.load(tmp_path / "X.npy", mmap_mode="r")
        for part, own in ((rows, whole), (rows[7:], whole[7:]), (rows[50:60][3:], whole[53:60])):
            found = in_file(part)
            assert isinstance(found, Mapped)
            np.testing.assert_array_equal(all_of(found), own)
            one = np.empty((2, P), dtype)
            found.read(3, 5, one)
            np.testing.assert_array_equal(one, own[3:5])

    @pytest.mark.parametrize("offset", [0, 24, 4096, 100_000])
    def test_wherever_they_begin(self, tmp_path, offset):
        (tmp_path / "X").write_bytes(bytes(offset) + X.tobytes())
        rows = np.memmap(tmp_path / "X", "f8", "r", offset, (N, P))
        np.testing.assert_array_equal(all_of(in_file(rows)), X)
        np.testing.assert_array_equal(all_of(in_file(rows[600:])), X[600:])

    def test_what_is_written_to_them_is_seen(self, saved):
        rows = np.load(saved, mmap_mode="r+")
        rows[N // 3] = 7.0
        np.testing.assert_array_equal(all_of(in_file(rows)), rows)

    def test_others_are_read_as_they_are_mapped(self, tmp_path, saved):
        private = np.load(saved, mmap_mode="c")
        private[1] = 7.0  # is not in the file
        np.save(tmp_path / "F.npy", np.asfortranarray(X))
        np.save(tmp_path / "B.npy", X.astype(">f8"))
        columns, other = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "FB")
        there = np.load(saved, mmap_mode="r")
        for rows in (private, columns, other, there[:, 1:], there[::2], there[::-1]):
            assert in_file(rows) is None
            np.testing.assert_array_equal(all_of(sliced._slices(rows)), np.array(rows))

    @pytest.mark.skipif(os.name == "nt", reason="Windows keeps a file that is mapped")
    def test_a_file_that_is_another_by_now_is_not_read(self, saved):
        rows = np.load(saved, mmap_mode="r")
        saved.unlink()
        assert in_file(rows) is None
        np.save(saved, X[: N // 2])
        assert in_file(rows) is None
        saved.unlink()
        np.save(saved, 2 * X)
        assert in_file(rows) is None
        np.testing.assert_array_equal(all_of(sliced._slices(rows)), X)

    def test_a_file_that_became_shorter_is_told(self, saved):
        rows = in_file(np.load(saved, mmap_mode="r"))
        with saved.open("r+b") as file:
            file.truncate(rows.offset + 600 * P * 8 + 3)
        with pytest.raises(ValueError, match=r"X has changed .* ends before row 600 of 640"):
            all_of(rows)

    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
    def test_no_page_is_mapped(self, tmp_path, monkeypatch):
        n, p = 200_000, 64
        big = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "f2", (n, p))
        big[:] = (np.arange(n) % 3)[:, None] + np.arange(p)
        del big
        rows = np.load(tmp_path / "X.npy", mmap_mode="r")
        monkeypatch.setattr(sliced, "_MAPPED_BYTES", 0)
        monkeypatch.setattr(sliced, "KEPT_BYTES", 0)
        xl.LinearClassifier(solver="lbfgs", tol=0.1).fit(rows, np.arange(n) % 3)
        maps = Path("/proc/self/smaps").read_text(encoding="utf-8").split(str(tmp_path))[1:]
        resident = sum(int(part.split("Rss:")[1].split()[0]) for part in maps)
        assert resident < 2000, "KiB of 25,000"


class TestSamples:
    """Rows to sample are kept when all are looked at: no second pass for a few of each chunk."""

    @pytest.fixture
    def surveyed(self, monkeypatch):
        monkeypatch.setattr(sliced, "SAMPLED", 200)
        file = File()
        rows = SlicedRows(file)
        rows.survey()
        file.runs.clear()
        return rows, file

    def test_they_are_evenly_spaced_in_runs_of_any_length(self, monkeypatch):
        for run in (1, 3, 10, 64, 2000):
            monkeypatch.setattr(sliced, "_RUN_BYTES", run * P * 8)
            monkeypatch.setattr(sliced, "SAMPLED", 100)
            rows = SlicedRows(File())
            rows.survey()
            ((step, kept),) = rows.spaced
            assert step == 7
            np.testing.assert_array_equal(kept, X[::7])

    @pytest.mark.parametrize("asked", [200, 64, 10])
    def test_nothing_is_read(self, backend, surveyed, asked):
        rows, file = surveyed
        data = rows.data(Y, backend=backend.backend, classes=K)
        block = data.sample(asked)
        n = block.y.shape[0]
        s = np.ones(n) if block.s is None else backend.to_numpy(block.s)[:, 0]
        found, y = (backend.to_numpy(a)[s > 0] for a in (block.rows.dense(), block.y))
        step = {200: 4, 64: 12, 10: 64}[asked]
        np.testing.assert_array_equal(found, X[::step])
        np.testing.assert_array_equal(y, Y[::step])
        assert file.runs == []

    def test_nor_where_rows_are_weighted_alike(self, backend, surveyed):
        rows, file = surveyed
        s = np.where(np.arange(N) % 3 == 0, 0.0, 1.0 + Y)[:, None]
        data = rows.data(Y, s, backend=backend.backend, classes=K, counted=np.flatnonzero(s))
        file.runs.clear()
        block = data.sample(100)
        assert file.runs == []
        found, own = backend.to_numpy(block.rows.dense()), backend.to_numpy(block.s)[:, 0]
        where = np.asarray([np.flatnonzero((row == X).all(axis=1))[0] for row in found])
        assert (where % 4 == 0).all()
        assert (where % 3 != 0).all()
        assert (np.diff(where) >= 0).all()
        read = backend.to_numpy(replace(data, spaced=None).sample(100).s)[:, 0]
        np.testing.assert_allclose(own.mean(), read.mean(), rtol=0.1)

    def test_others_are_read(self, backend, surveyed):
        rows, file = surveyed
        s = np.zeros((N, 1))
        s[[13, 57]] = 1.0  # none of these is kept
        block = rows.data(Y, s, backend=backend.backend, classes=K).sample(100)
        assert file.runs != []
        found = {tuple(row) for row in backend.to_numpy(block.rows.dense()).tolist()}
        assert found == {tuple(row) for row in X[[13, 57]].tolist()}
        file.runs.clear()
        more = rows.data(Y, backend=backend.backend, classes=K).sample(500)
        there = backend.to_numpy(more.rows.dense())[: N // 2]
        np.testing.assert_array_equal(there, X[::2])
        assert file.runs != []

    def test_they_take_little_memory(self, monkeypatch):
        monkeypatch.setattr(sliced, "SAMPLED_BYTES", 10 * P * 8)
        rows = SlicedRows(File())
        rows.survey()
        assert len(rows.spaced[0].rows) == 10


def test_a_fit_reads_rows_once_before_and_in_every_evaluation(monkeypatch):
    """One survey, two passes for the certificate, and what the solver evaluates."""
    monkeypatch.setattr(sliced, "KEPT_BYTES", 0)
    file, evaluated = File((8 * X).astype(np.float16)), []
    reduce = StreamedData.reduce

    def counted(data: Any, function: Any, *arguments: Any, **settings: Any) -> Any:
        evaluated.append(function.__name__)
        return reduce(data, function, *arguments, **settings)

    monkeypatch.setattr(StreamedData, "reduce", counted)
    monkeypatch.setattr(sliced, "_slices", lambda X, mapped=0: X if isinstance(X, File) else None)
    clf = xl.LinearClassifier(solver="lbfgs", tol=1e-3, alpha=1e-3, dtype="float32").fit(file, Y)
    assert clf.n_iter_ <= evaluated.count("_block_loss_and_grad") <= clf.n_iter_ + 3
    assert len(evaluated) == evaluated.count("_block_loss_and_grad") + 2
    assert sum(stop - start for start, stop in file.runs) == N * (1 + len(evaluated))
