"""Batches that come again in every pass: what the same rows in an array give."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array

import xplinear as xl
from xplinear.data import batches as rooms
from xplinear.data.batches import Batches, batches_of

rng = np.random.default_rng(0)
N, P = 300, 6
X = rng.standard_normal((N, P))
X[:, 0] = 3.0 + 2.0 * X[:, 0]
Y = (X[:, :3] + rng.gumbel(size=(N, 3))).argmax(axis=1)
WEIGHTS = rng.uniform(0.5, 2.0, N)
WEIGHTS[::9] = 0.0
CUTS = [0, 7, 7, 100, 101, 260, N]  # one of them is empty


def cut(*columns):
    """Return batches of several sizes."""
    return [tuple(a[i:j, ...] for a in columns) for i, j in pairwise(CUTS)]


class Again:
    """What a loader is: it can be gone through again, and counts how often it was."""

    def __init__(self, batches):
        self.batches, self.passes, self.open = batches, 0, 0

    def __iter__(self):
        self.passes += 1
        self.open += 1
        try:
            yield from self.batches
        finally:
            self.open -= 1


@pytest.fixture(params=["kept", "streamed"])
def kept(request, monkeypatch):
    """Whether rows are kept after the first pass."""
    if request.param == "streamed":
        monkeypatch.setattr(rooms, "KEPT_BYTES", 0)
    return request.param == "kept"


@pytest.fixture
def _streamed(monkeypatch):
    monkeypatch.setattr(rooms, "KEPT_BYTES", 0)
    monkeypatch.setattr(rooms, "SAMPLED", 16)


def same(a, b, tol=1e-9):
    to_host = a.backend_.to_host
    for one, other in zip(a.params_, b.params_, strict=True):
        np.testing.assert_allclose(to_host(one), to_host(other), rtol=tol, atol=tol)


FITS = {
    "lbfgs": {"solver": "lbfgs", "tol": 1e-10},
    "newton": {"solver": "newton", "tol": 1e-10},
    "standardized": {"solver": "lbfgs", "tol": 1e-10, "standardize": True},
    "l1": {"penalty": "l1", "alpha": 0.01, "tol": 1e-10},
    "hinge": {"loss": "multiclass_hinge", "tol": 1e-8, "alpha": 0.1},
    "one against the rest": {"multi_class": "one_vs_rest", "tol": 1e-10},
    "class weights": {"class_weight": "balanced", "solver": "lbfgs", "tol": 1e-10},
}


@pytest.mark.usefixtures("kept")
class TestFit:
    @pytest.mark.parametrize("settings", FITS.values(), ids=FITS)
    @pytest.mark.parametrize("weighted", [False, True])
    def test_as_of_an_array(self, settings, weighted):
        weights = (WEIGHTS,) if weighted else ()
        clf = xl.LinearClassifier(**settings).fit(Again(cut(X, Y, *weights)))
        same(
            clf,
            xl.LinearClassifier(**settings).fit(X, Y, *weights),
            tol=1e-6 if "loss" in settings else 1e-9,
        )

    def test_on_every_backend(self, backend):
        settings = {"solver": "lbfgs", "tol": 1e-9, "backend": backend.backend}
        batches = cut(backend.asarray(X), backend.asarray(Y), backend.asarray(WEIGHTS))
        clf = xl.LinearClassifier(**settings).fit(lambda: iter(batches))
        assert clf.backend_.name == backend.backend.name
        same(clf, xl.LinearClassifier(**settings).fit(X, Y, WEIGHTS), tol=1e-7)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", "bool", ">f4"])
    def test_dtypes(self, dtype):
        rows = (10 * np.abs(X)).astype(dtype)
        clf = xl.LinearClassifier(solver="lbfgs", tol=1e-9).fit(cut(rows, Y))
        reference = xl.LinearClassifier(solver="lbfgs", tol=1e-9).fit(rows, Y)
        assert clf.coef_.dtype == reference.coef_.dtype
        same(clf, reference, tol=1e-5)

    def test_dtypes_that_differ(self):
        parts = [(X[:100].astype(np.float32), Y[:100]), (X[100:], Y[100:])]
        rows = np.concatenate([parts[0][0].astype(float), X[100:]])
        same(xl.LinearClassifier(tol=1e-9).fit(parts), xl.LinearClassifier(tol=1e-9).fit(rows, Y))

    def test_many_labels(self):
        labels = np.stack([Y == 0, Y == 1], axis=1).astype(float)
        labels[::11, 1] = np.nan
        clf = xl.LinearClassifier(tol=1e-9).fit(cut(X, labels))
        same(clf, xl.LinearClassifier(tol=1e-9).fit(X, labels))

    def test_texts_as_labels(self):
        names = np.asarray(["a", "bcd", "ef"])[Y]
        lists = [(rows, labels.tolist()) for rows, labels in cut(X, names)]
        clf = xl.LinearClassifier().fit(lists)
        assert clf.classes_.tolist() == ["a", "bcd", "ef"]
        assert np.array_equal(clf.predict(X), xl.LinearClassifier().fit(X, names).predict(X))

    def test_a_huge_row_that_does_not_count(self):
        rows = X.copy()
        rows[9] = 1e300
        assert WEIGHTS[9] == 0.0
        settings = {"solver": "lbfgs", "tol": 1e-9, "standardize": True}
        clf = xl.LinearClassifier(**settings).fit(cut(rows, Y, WEIGHTS))
        same(clf, xl.LinearClassifier(**settings).fit(rows, Y, WEIGHTS))

    def test_cross_validation(self):
        settings = {"cv": 3, "alphas": [1e-3, 1e-1], "solver": "lbfgs", "tol": 1e-9}
        search = xl.LinearClassifierCV(**settings).fit(Again(cut(X, Y, WEIGHTS)))
        reference = xl.LinearClassifierCV(**settings).fit(X, Y, WEIGHTS)
        np.testing.assert_allclose(search.cv_scores_, reference.cv_scores_, atol=1e-12)
        same(search.best_estimator_, reference.best_estimator_)
        assert search.score(cut(X, Y, WEIGHTS)) == reference.score(X, Y, WEIGHTS)

    def test_warm_start_and_partial_fit(self):
        warm = xl.LinearClassifier(warm_start=True, solver="lbfgs", tol=1e-9).fit(cut(X, Y))
        assert warm.fit(cut(X, Y)).n_iter_ <= 2
        one, other = (
            xl.LinearClassifier(random_state=0, solver="sgd", batch_size=32) for _ in range(2)
        )
        one.partial_fit(cut(X, Y), classes=[0, 1, 2])
        other.partial_fit(X, Y, classes=[0, 1, 2])
        assert one.score(X, Y) > 0.6
        same(one, other, tol=0.1)

    def test_score(self):
        clf = xl.LinearClassifier().fit(X, Y, WEIGHTS)
        assert clf.score(Again(cut(X, Y))) == clf.score(X, Y)
        assert clf.score(Again(cut(X, Y, WEIGHTS))) == pytest.approx(clf.score(X, Y, WEIGHTS))

    def test_no_random_numbers_are_drawn_twice(self):
        """SGD is the same in each run, and stops early alike."""
        for settings in ({}, {"early_stopping": True}):
            runs = [
                xl.LinearClassifier(solver="sgd", random_state=0, **settings).fit(cut(X, Y))
                for _ in range(2)
            ]
            same(*runs, tol=0.0)
            assert runs[0].score(X, Y) > xl.LinearClassifier().fit(X, Y).score(X, Y) - 0.05


@pytest.mark.usefixtures("_streamed")
class TestPasses:
    def test_sgd_shuffles_windows(self, monkeypatch):
        """Every row once in an epoch, rows of a window in another order, windows as they come."""
        from xplinear.data import streamed

        monkeypatch.setattr(streamed, "_WINDOW_BYTES", 32 * P * 8)
        own = xl.get_backend("numpy")
        rows = np.arange(N * P, dtype=float).reshape(N, P)
        data = Batches(cut(rows, Y)).data(Y, backend=own, classes=3)
        order = data.orders.order
        with order(N, (0, 0), data.nearby(16)) as drawn:
            parts = list(data.drawn(drawn, 16))
        seen = np.concatenate([np.asarray(X)[at] for (X, _, _), at in parts])[:, 0] / P
        assert sorted(seen) == list(range(N))
        for i in range(0, N, 32):
            window = seen[i : i + 32]
            assert sorted(window) == list(range(i, min(i + 32, N)))
            assert len(window) < 3 or list(window) != sorted(window)

    def test_few_passes(self):
        """One to learn what there is, one an iteration, and the certificate's."""
        loader = Again(cut(X, Y))
        clf = xl.LinearClassifier(solver="lbfgs", tol=1e-6).fit(loader)
        evaluations = clf.n_iter_ + 4
        assert loader.passes <= 1 + 2 * evaluations
        assert loader.open == 0

    def test_a_kept_one_is_gone_through_once(self, monkeypatch):
        monkeypatch.setattr(rooms, "KEPT_BYTES", 2**28)
        loader = Again(cut(X, Y))
        xl.LinearClassifier().fit(loader)
        assert loader.passes == 1

    def test_predictions_take_one_pass(self):
        clf, loader = xl.LinearClassifier().fit(X, Y), Again(cut(X, Y))
        assert np.array_equal(clf.predict(loader), clf.predict(X))
        assert loader.passes == 1

    def test_runs_of_rows(self):
        found = Batches(cut(X, Y))
        for pieces in (
            [range(N)],
            [range(i, min(i + 13, N)) for i in range(0, N, 13)],
            [range(150, 160), range(270, 299)],
            [range(0, N, 7)],
            [np.asarray([5, 5, 99, 100, 0, 0])],
            [range(280, N), np.asarray([0, 0])],
        ):
            got = list(found.passed(pieces))
            for piece, rows in zip(pieces, got, strict=True):
                assert np.array_equal(rows, X[np.asarray(piece)])

    def test_memory_that_is_used_again(self):
        """An iterator may overwrite what it gave."""

        class Reused:
            def __iter__(self):
                rows, labels = np.empty((50, P)), np.empty(50, int)
                for i in range(0, N, 50):
                    rows[:], labels[:] = X[i : i + 50], Y[i : i + 50]
                    yield rows, labels

        same(
            xl.LinearClassifier(solver="lbfgs", tol=1e-9).fit(Reused()),
            xl.LinearClassifier(solver="lbfgs", tol=1e-9).fit(X, Y),
        )

    def test_out_of_memory(self, monkeypatch):
        """The pass goes on from where memory ran out: rows before it are skipped."""
        from xplinear.data import blocks

        labelled, failed = blocks._labelled, []

        def scarce(source, rows, at):
            if at.start > 100 and not failed:
                failed.append(at)
                raise MemoryError
            return labelled(source, rows, at)

        monkeypatch.setattr(blocks, "_labelled", scarce)
        monkeypatch.setattr(blocks, "_FEW_ROWS", 8)
        settings = {"solver": "lbfgs", "tol": 1e-9}
        small = replace(xl.get_backend("numpy"), block_bytes=1024)
        with pytest.warns(RuntimeWarning, match="out of memory"):
            clf = xl.LinearClassifier(backend=small, **settings).fit(Again(cut(X, Y)))
        assert failed
        same(clf, xl.LinearClassifier(**settings).fit(X, Y))

    def test_readers_end(self):
        """However a pass ends: complete, left, or by an error of the batches or of the solver."""
        before = threading.active_count()

        def bad():
            yield from cut(X, Y)[:3]
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            xl.LinearClassifier().fit(bad)
        loader = Again(cut(X, Y))

        def stop(progress):
            raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            xl.LinearClassifier(solver="lbfgs").fit(loader, callbacks=[stop])
        some = xl.LinearClassifier().fit(X, Y).predict_blocks(loader)
        next(some)
        del some
        assert loader.open == 0
        assert threading.active_count() == before


def later(change):
    """Return batches of which later passes are changed."""
    passes = []

    def begin():
        passes.append(1)
        return iter(cut(X, Y, WEIGHTS) if len(passes) == 1 else change(cut(X, Y, WEIGHTS)))

    return begin


def with_(batches, number, **parts):
    new = dict(zip("Xys", batches[number], strict=True)) | parts
    return [*batches[:number], tuple(new.values()), *batches[number + 1 :]]


def moved(batches):
    rows = batches[3][0].copy()
    rows[0, 0] = np.nextafter(rows[0, 0], 9.0)
    return with_(batches, 3, X=rows)


@pytest.mark.usefixtures("_streamed")
class TestOtherPasses:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (moved, "batch 3 has other rows than in the first pass.*shuffle=False"),
            (lambda b: with_(b, 2, y=b[2][1][::-1]), "batch 2 has other labels than"),
            (lambda b: with_(b, 2, s=b[2][2] + 1), "batch 2 has other weights than"),
            (lambda b: b[::-1], "batch 0 has other numbers of rows and rows and labels and weigh"),
            (lambda b: b[:-1], "gave 6 batches in its first pass, and now 5"),
            (lambda b: [], "in its first pass, and now 0.*a function must make a new iterator"),
            (lambda b: [*b, b[0]], "batch 6 is one more than in the first pass"),
            (lambda b: with_(b, 0, X=b[0][0].astype(np.float32)), "batch 0 has other rows"),
        ],
    )
    @pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
    def test_refused(self, change, message, solver):
        with pytest.raises(ValueError, match=message):
            xl.LinearClassifier(solver=solver, random_state=0).fit(later(change))

    def test_one_iterator_for_all_passes(self):
        iterator = iter(cut(X, Y))
        with pytest.raises(ValueError, match="a function must make a new iterator in each call"):
            xl.LinearClassifier().fit(lambda: iterator)


class TestRefused:
    @pytest.mark.parametrize(
        "once",
        [
            lambda: (batch for batch in cut(X, Y)),
            lambda: iter(cut(X, Y)),
            lambda: map(tuple, cut(X, Y)),
            lambda: zip([X], [Y], strict=True),
        ],
    )
    @pytest.mark.parametrize("y", [None, Y])
    def test_what_comes_once(self, once, y):
        with pytest.raises(TypeError, match=r"once, .* give a function that makes it.*partial_fit"):
            xl.LinearClassifier().fit(once(), y)

    @pytest.mark.parametrize(
        ("batches", "message"),
        [
            ([{"x": X, "y": Y}], r"batch 0 is a dict of 'x', 'y'.*\(batch\['x'\], batch\['y'\]\)"),
            ([X], "X gives batches without labels"),
            ([(X,)], "X gives batches without labels"),
            ([(X, Y), (X,)], "batch 1 has no labels, unlike the first one"),
            ([(X, Y), (X, Y, WEIGHTS)], "batch 1 has weights, unlike the first one"),
            ([(X, Y, WEIGHTS, Y)], "batch 0 has 4 parts; a batch is"),
            ([(X, Y[1:])], r"batch 0 has 300 rows and labels of shape \(299,\)"),
            ([(X, Y, WEIGHTS[:5])], r"has 300 rows and weights of shape \(5,\)"),
            ([(X, Y), (X[:, 1:], Y)], "batch 1 has 5 features, the first one has 6"),
            ([(X[0], Y[0])], r"X of shape \(6,\).*DataLoader\(rows, batch_size=1024\)"),
            ([(X[:, :, None], Y)], r"of shape \(300, 6, 1\).*flatten each row"),
            ([(X.astype(str), Y)], "features must be numbers"),
            ([(X + 1j, Y)], "features must be numbers"),
            ([(csr_array(X), Y)], "batch 0 has a sparse X.*vstack"),
            ([(X, None)], "without labels"),
            ([(X, Y), (X, Y.astype(str))], "labels are numbers in some batches"),
            ([5], r"batch 0 has X of shape \(\)"),
            ([], "X gives no rows"),
            ([(X[:0], Y[:0])], "X gives no rows"),
        ],
    )
    def test_what_is_no_batch(self, batches, message):
        with pytest.raises(ValueError, match=message):
            xl.LinearClassifier().fit(Again(batches))

    def test_the_row_that_is_not_finite(self):
        rows = X.copy()
        rows[150, 4] = np.nan
        message = "NaN or infinity: nan in row 150, column 4"
        for fit in (xl.LinearClassifier().fit, xl.LinearClassifier().fit(X, Y).predict):
            with pytest.raises(ValueError, match=message):
                fit(cut(rows, Y))

    def test_labels_and_weights_beside_batches(self):
        with pytest.raises(ValueError, match="y is given, but X gives batches"):
            xl.LinearClassifier().fit(cut(X, Y), Y)
        with pytest.raises(ValueError, match="sample_weight is given, but X gives batches"):
            xl.LinearClassifier().fit(cut(X, Y), sample_weight=WEIGHTS)

    def test_a_function_of_something_else(self):
        with pytest.raises(TypeError, match="must return an iterator of batches; it returned int"):
            xl.LinearClassifier().fit(lambda: 5)

    def test_one_label(self):
        with pytest.raises(ValueError, match="class"):
            xl.LinearClassifier().fit(cut(X, np.zeros(N)))

    def test_no_labels_of_an_array(self):
        with pytest.raises(ValueError, match="requires y to be passed"):
            xl.LinearClassifier().fit(X)

    @pytest.mark.parametrize(
        "matrix",
        [
            X.tolist(),
            X,
            deque(X.tolist()),
            csr_array(X),
            [X[0], X[1]],
            "X",
            {"a": 1},
            b"",
            [],
            (),
            None,
        ],
    )
    def test_what_is_a_matrix_or_nothing(self, matrix):
        assert batches_of(matrix) is None

    def test_other_features_in_predict(self):
        clf = xl.LinearClassifier().fit(X, Y)
        with pytest.raises(ValueError, match="5 features, but LinearClassifier is expecting 6"):
            clf.predict(cut(X[:, 1:], Y))


class TestTorch:
    def test_a_data_loader(self, monkeypatch):
        torch = pytest.importorskip("torch")
        from torch.utils.data import DataLoader, TensorDataset

        rows = TensorDataset(*map(torch.from_numpy, (X, Y)))
        reference = xl.LinearClassifier(solver="lbfgs", tol=1e-9).fit(X, Y)
        loader = DataLoader(rows, batch_size=64)
        same(xl.LinearClassifier(solver="lbfgs", tol=1e-9).fit(loader), reference)
        shuffled = DataLoader(rows, batch_size=64, shuffle=True)
        same(xl.LinearClassifier(solver="lbfgs", tol=1e-9).fit(shuffled), reference)  # kept
        monkeypatch.setattr(rooms, "KEPT_BYTES", 0)
        same(xl.LinearClassifier(solver="lbfgs", tol=1e-9).fit(loader), reference)
        with pytest.raises(ValueError, match="shuffle=False"):
            xl.LinearClassifier().fit(shuffled)
        assert np.array_equal(reference.predict(loader), reference.predict(X))
        alone = DataLoader(TensorDataset(rows.tensors[0]), batch_size=64, drop_last=True)
        assert len(reference.predict(alone)) == N // 64 * 64
        bfloat16 = [(torch.from_numpy(X).to(torch.bfloat16), torch.from_numpy(Y))]
        assert xl.LinearClassifier().fit(bfloat16).score(X, Y) > 0.6

    def test_worker_processes_end(self):
        """In a process of its own, as JAX warns of forks."""
        pytest.importorskip("torch")
        run = subprocess.run(
            [sys.executable, "-c", WORKERS], capture_output=True, text=True, check=True
        )
        assert run.stdout.splitlines() == ["(300, 6)", "[]", "[]", "stopped", "[]"]


WORKERS = """
import multiprocessing
import torch
import xplinear as xl
from torch.utils.data import DataLoader, TensorDataset
from xplinear.data import batches

batches.KEPT_BYTES = 0
rows = TensorDataset(torch.randn(300, 6), torch.arange(300) % 3)
loader = DataLoader(rows, batch_size=64, num_workers=1)
found = batches.Batches(loader)
print(found.shape)
print(multiprocessing.active_children())
passed = found.passed([range(10), range(10, 300)])
next(passed)
passed.close()
print(multiprocessing.active_children())

def stop(progress):
    raise RuntimeError("stopped")

try:
    xl.LinearClassifier(solver="lbfgs").fit(loader, callbacks=[stop])
except RuntimeError as error:
    print(error)
    print(multiprocessing.active_children())
"""
