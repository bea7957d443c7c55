"""A fit that was cut short goes on from its file, and ends with the bits it would have had."""

from __future__ import annotations

import errno
import os
import pickle
import resource
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import make_scorer

import xplinear as xl
from xplinear.arguments import ArgumentError
from xplinear.estimator import journal, solve
from xplinear.formats import checkpoint
from xplinear.formats.checkpoint import Packed, packed, unpacked
from xplinear.minimize import minimize
from xplinear.objective import Params
from xplinear.solvers import LBFGS, lbfgs

rng = np.random.default_rng(0)
X = rng.standard_normal((300, 6)) * np.logspace(-0.5, 0.5, 6)
Y = np.argmax(X[:, :3] / X[:, :3].std(axis=0) + rng.gumbel(size=(300, 3)), axis=1)
TAGS = np.stack([Y == 0, X[:, 3] > 0, X[:, 4] + 9 * rng.standard_normal(300) > 0], axis=1) * 1


SLOW: dict[str, Any] = {"solver": "lbfgs", "tol": 1e-8, "C": 100.0}


class CutError(Exception):
    """What a test cuts a fit short with."""


def after(n: int, error: type[BaseException] = CutError) -> Any:
    """Return a callback that ends a fit in its n-th call."""
    calls: list[Any] = []

    def end(progress: Any) -> None:
        calls.append(progress)
        if len(calls) == n:
            raise error

    return end


def calls_of(clf: Any, X: Any, y: Any, **more: Any) -> int:
    """Fit, and return how often a callback was called."""
    calls: list[Any] = []
    clf.fit(X, y, callbacks=[calls.append], **more)
    return len(calls)


def cut(clf: Any, n: int, X: Any = X, y: Any = Y, **more: Any) -> Path:
    """Cut a fit short, and return its file."""
    with pytest.raises(CutError):
        clf.fit(X, y, callbacks=[after(n)], **more)
    told = clf.checkpoint
    return Path(getattr(told, "path", told))


def host(clf: Any, a: Any) -> Any:
    return clf.backend_.to_host(a)


def assert_same(clf: Any, expected: Any) -> None:
    """Compare two fitted classifiers bit by bit; but not the clock."""
    for own, a in vars(expected).items():
        if not own.endswith("_") or own in ("backend_", "best_estimator_"):
            continue
        b = getattr(clf, own)
        if own == "history_":
            assert a.keys() == b.keys()
            for name in a.keys() - {"seconds"}:
                np.testing.assert_array_equal(b[name], a[name])
        elif own == "certificate_":
            for name, value in vars(a).items():
                np.testing.assert_array_equal(getattr(b, name), value)
        elif own == "params_":
            for mine, its in zip(b, a, strict=True):
                np.testing.assert_array_equal(host(clf, mine), host(clf, its))
        elif own in ("coef_", "intercept_"):
            np.testing.assert_array_equal(host(clf, b), host(clf, a))
        else:
            np.testing.assert_array_equal(b, a)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.ckpt"


# What a file holds.

NUMBERS = st.sampled_from(
    [np.dtype(kind) for kind in ("?", "i1", "u2", "<i4", "i8", "u8", "f2", "<f4", ">f4", "f8")]
)
LAYOUTS = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4).flatmap(
    lambda shape: st.tuples(arrays.arrays(NUMBERS, shape), st.permutations(range(len(shape))))
)


@given(LAYOUTS)
def test_an_array_comes_back_in_its_order(tmp_path_factory: Any, layout: Any) -> None:
    a, axes = layout
    a = np.transpose(np.array(a), axes)
    file = str(tmp_path_factory.getbasetemp() / "array.ckpt")
    numpy = xl.get_backend("numpy")
    checkpoint.write(file, {}, [packed([a], {}, numpy)])
    _, (part,) = checkpoint.read(file)
    (b,) = unpacked(part, {}, numpy)
    assert b.dtype == a.dtype.newbyteorder("=")
    assert b.shape == a.shape
    assert b.tobytes() == a.astype(b.dtype).tobytes()  # NaN and −0.0 too
    if a.size > 1 and 1 not in a.shape:
        assert np.argsort(b.strides).tolist() == np.argsort(a.strides).tolist()


class Own(NamedTuple):
    params: Params
    more: Any


def test_a_tree_comes_back(path: Path, library: Any) -> None:
    W = library.xp.permute_dims(library.asarray(np.arange(24.0).reshape(2, 3, 4)), (2, 0, 1))
    b = library.asarray([[-0.0, np.nan]], "float32")
    tree = Own(
        Params(W, b),
        {
            "both": (W, [W, None, True, -7, 0.1, np.inf, "text"]),
            "host": np.arange(3),
            "number": np.float64(0.1),
            "flags": library.asarray([True, False]),
            "whole": library.asarray([3, -4], "int32"),
        },
    )
    kinds = {"own": Own, "params": Params}
    checkpoint.write(
        str(path), {"text": "ü"}, [packed(tree, kinds, library.backend), Packed(None, [])]
    )
    content, (part, empty) = checkpoint.read(str(path))
    assert (content, empty) == ({"text": "ü"}, Packed(None, []))
    assert len(part.arrays) == 6  # W once
    found = unpacked(part, kinds, library.backend)
    assert isinstance(found, Own)
    assert isinstance(found.params, Params)
    for one in (found.params.W, found.more["both"][0], found.more["both"][1][0]):
        np.testing.assert_array_equal(library.to_numpy(one), library.to_numpy(W))
        assert library.to_numpy(one).strides == library.to_numpy(W).strides
        assert one.dtype == W.dtype
    assert library.to_numpy(found.params.b).tobytes() == library.to_numpy(b).tobytes()
    assert found.more["both"][1][1:] == [None, True, -7, 0.1, np.inf, "text"]
    assert type(found.more["host"]) is np.ndarray
    assert type(found.more["number"]) is np.float64
    for name in ("flags", "whole"):
        assert found.more[name].dtype == tree.more[name].dtype
        assert type(found.more[name]) is type(W)


@pytest.mark.parametrize(
    ("value", "what"), [(Own(None, None), "a Own"), ({1}, "a set"), (np.zeros(1, "c16"), "complex")]
)
def test_what_no_file_holds(value: Any, what: str) -> None:
    with pytest.raises(TypeError, match=what):
        packed([value], {}, xl.get_backend("numpy"))


def test_half_precision_stays_what_it_is(path: Path) -> None:
    torch = pytest.importorskip("torch")
    a, there = torch.asarray([0.5, -3.0], dtype=torch.bfloat16), xl.get_backend("torch")
    found = unpacked(packed(a, {}, there), {}, there)
    assert found.dtype == torch.bfloat16
    assert found.tolist() == a.tolist()


# Fits.

FITS = {
    "lbfgs": ({"solver": "lbfgs", "tol": 1e-8, "C": 100.0}, Y),
    "newton": ({"solver": "newton", "tol": 1e-9}, Y),
    "newton_cg": ({"solver": "newton_cg", "tol": 1e-7}, Y),
    "l1": ({"penalty": "l1", "alpha": 1e-3, "tol": 1e-7}, Y),
    "hinge": ({"loss": "multiclass_hinge", "alpha": 1e-2, "solver": "smoothing", "tol": 1e-2}, Y),
    "interior_point": ({"loss": "multiclass_hinge", "alpha": 1e-2, "solver": "interior_point"}, Y),
    "gd": ({"solver": "gd", "alpha": 0.1, "tol": 1e-3, "max_iter": 200}, Y),
    "sgd": ({"solver": "sgd", "random_state": 3}, Y),
    "average": (
        {"solver": xl.solvers.SGD(8, 0.5, average=True, schedule="constant")},
        Y,
    ),
    "early_stopping": ({"early_stopping": True, "random_state": 0, "n_iter_no_change": 3}, Y),
    "standardize": ({"standardize": True, "class_weight": "balanced"}, Y),
    "labels": ({"solver": "lbfgs", "tol": 1e-7}, TAGS),
    "one_vs_rest": ({"multi_class": "one_vs_rest", "alpha": 1e-3}, Y),
    "float32": ({"dtype": "float32", "tol": 1e-3}, Y),
}


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_fit_goes_on_to_the_same_bits(path: Path, name: str, share: float) -> None:
    settings, y = FITS[name]
    whole = xl.LinearClassifier(**settings)
    n = calls_of(whole, X, y)
    assert n > 2
    at = 1 + round(share * (n - 1))
    clf = xl.LinearClassifier(**settings, checkpoint=path)
    assert cut(clf, at, y=y).exists()
    assert not hasattr(clf, "coef_")
    assert calls_of(clf, X, y) == n - at
    assert_same(clf, whole)
    assert not path.exists()


@pytest.mark.parametrize("name", ["lbfgs", "sgd"])
def test_on_every_library(path: Path, library: Any, name: str) -> None:
    settings, y = FITS[name]
    rows = library.asarray(X, "float32")
    whole = xl.LinearClassifier(**settings, dtype="float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xplinear.estimator.solve.warn", lambda *_: None)  # of the float32 floor
        n = calls_of(whole, rows, y)
        clf = xl.LinearClassifier(**settings, dtype="float32", checkpoint=path)
        cut(clf, n // 2, rows, y)
        assert calls_of(clf, rows, y) == n - n // 2
    assert_same(clf, whole)


@pytest.mark.parametrize("solver", ["newton_cg", "lbfgs", "sgd"])
def test_sparse_rows(path: Path, solver: str) -> None:
    rows = csr_array(np.where(rng.random((200, 40)) < 0.1, 1.0, 0.0))
    y = rng.integers(0, 3, 200)
    settings = {"solver": solver, "random_state": 0, "tol": 1e-7}
    settings |= {"max_iter": 20} if solver == "sgd" else {}
    whole = xl.LinearClassifier(**settings)
    n = calls_of(whole, rows, y)
    clf = xl.LinearClassifier(**settings, checkpoint=path)
    cut(clf, n // 2, rows, y)
    assert_same(clf.fit(rows, y), whole)
    other = rows.copy()
    other.data[5] += 1e-6
    cut(clf, n // 2, rows, y)
    with pytest.raises(ValueError, match="X holds other values"):
        clf.fit(other, y)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_rows_of_a_file(path: Path, tmp_path: Path, solver: str) -> None:
    h5py = pytest.importorskip("h5py")
    file = tmp_path / "rows.h5"

    def rows(change: float = 0.0) -> Any:
        with h5py.File(file, "a") as there:
            there.require_dataset("X", X.shape, "f8")[...] = X
            there["X"][-1, -1] += change
        return h5py.File(file)["X"]

    settings = SLOW | {"solver": solver, "random_state": 0}
    whole = xl.LinearClassifier(**settings)
    n = calls_of(whole, rows(), Y)
    clf = xl.LinearClassifier(**settings, checkpoint=path)
    cut(clf, n // 2, rows())
    with pytest.raises(ValueError, match="X holds other values"):
        clf.fit(rows(1e-9), Y)
    assert calls_of(clf, rows(), Y) == n - n // 2
    assert_same(clf, whole)


def test_a_warm_start(path: Path) -> None:
    first = xl.LinearClassifier(**SLOW, max_iter=3, warm_start=True)
    with pytest.warns(ConvergenceWarning):
        first.fit(X, Y)
    whole = pickle.loads(pickle.dumps(first)).set_params(max_iter=None)
    n = calls_of(whole, X, Y)
    clf = pickle.loads(pickle.dumps(first)).set_params(max_iter=None, checkpoint=path)
    cut(clf, n // 2)
    clf = clone(clf)  # what it started from is of the past
    assert calls_of(clf, X, Y) == n - n // 2
    assert_same(clf, whole)


def test_the_relay_of_two_solvers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lbfgs, "_TRIED", 6)
    monkeypatch.setattr(solve, "automatic_solver", lambda *_, **__: "lbfgs")
    settings = {"tol": 1e-9, "C": 1e3}
    whole = xl.LinearClassifier(**settings)
    n = calls_of(whole, X, Y)
    assert whole.solver_ == "newton"
    for at in (3, 6, 7, n):
        clf = xl.LinearClassifier(**settings, checkpoint=path)
        cut(clf, at)
        assert calls_of(clf, X, Y) == n - at
        assert_same(clf, whole)


def test_labels_that_memory_holds_one_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xplinear.estimator.problem._models_at_once", lambda *_: 1)
    rows = np.concatenate([X, rng.standard_normal((300, 200))], axis=1)
    settings = {"tol": 1e-7, "alpha": 0.1, "solver": "lbfgs"}
    whole = xl.LinearClassifier(**settings)
    n, sizes = calls_of(whole, rows, TAGS), []
    for at in (2, n // 2, n - 1):
        clf = xl.LinearClassifier(**settings, checkpoint=path)
        sizes.append(cut(clf, at, rows, TAGS).stat().st_size)
        assert calls_of(clf, rows, TAGS) == n - at
        assert_same(clf, whole)
    assert max(sizes) < 1.5 * min(sizes)  # what is done keeps no state


def test_what_is_drawn_is_drawn_once(path: Path) -> None:
    for state in (None, np.random.RandomState(4)):
        np.random.seed(4)  # noqa: NPY002 - what random_state=None draws from
        whole = xl.LinearClassifier(solver="sgd", random_state=state).fit(X, Y)
        np.random.seed(4)  # noqa: NPY002
        again = state and np.random.RandomState(4)
        clf = xl.LinearClassifier(solver="sgd", random_state=again, checkpoint=path)
        cut(clf, 4)
        assert_same(clf.fit(X, Y), whole)
    draws = [np.random.RandomState(4) for _ in range(3)]
    for state, end in zip(draws, (None, 4, None), strict=True):
        clf = xl.LinearClassifier(solver="sgd", random_state=state, checkpoint=path)
        cut(clf, end) if end else clf.fit(X, Y)
    assert len({state.randint(1000) for state in draws}) == 1  # what follows is drawn as ever


def test_memory_that_did_not_hold_a_stack(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [1]

    def small(objective: Any, *args: Any, **settings: Any) -> Any:
        if objective.m > held[0]:
            raise MemoryError
        return minimize(objective, *args, **settings)

    monkeypatch.setattr(solve, "minimize", small)
    told = pytest.warns(RuntimeWarning, match="out of memory with a stack of 3 models")
    clf = xl.LinearClassifier(tol=1e-7, checkpoint=path)
    with told:
        whole = xl.LinearClassifier(tol=1e-7).fit(X, TAGS)
    with told:
        cut(clf, 12, y=TAGS)
    held[0] = 99
    with told:  # as it was, so are its results
        clf.fit(X, TAGS)
    assert_same(clf, whole)


@pytest.mark.usefixtures("ends_of_grids_and_rounding")
def test_a_sweep(path: Path) -> None:
    settings = {"alphas": [1.0, 0.1, 0.01], "cv": 3, "tol": 1e-6}
    whole = xl.LinearClassifierCV(**settings)
    n = calls_of(whole, X, Y)
    for at in (1, n // 2, n - 1):
        clf = xl.LinearClassifierCV(**settings, checkpoint=path)
        cut(clf, at)
        assert calls_of(clf, X, Y) == n - at
        assert_same(clf, whole)
        assert clf.best_estimator_.checkpoint is None


# When it is written, and when it goes.


def test_ctrl_c_writes(path: Path) -> None:
    whole = xl.LinearClassifier(**SLOW).fit(X, Y)
    clf = xl.LinearClassifier(**SLOW, checkpoint=path)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y, callbacks=[after(5, KeyboardInterrupt)])
    assert clf.n_iter_ == 5  # the best so far is kept too
    assert calls_of(clf, X, Y) == whole.n_iter_ - 5
    assert_same(clf, whole)


def test_a_callback_that_stops_a_fit_can_be_gone_on_from(path: Path) -> None:
    whole = xl.LinearClassifier(**SLOW).fit(X, Y)
    clf = xl.LinearClassifier(**SLOW, checkpoint=path)
    clf.fit(X, Y, callbacks=[lambda progress: progress.iteration == 4])
    assert clf.n_iter_ == 4
    assert_same(clf.fit(X, Y), whole)
    assert not path.exists()


def test_a_file_that_is_kept_has_the_result_at_once(path: Path) -> None:
    kept = xl.Checkpoint(path, keep=True)
    for clf in (
        xl.LinearClassifier(**SLOW, checkpoint=kept),
        xl.LinearClassifierCV(alphas=[0.1, 0.01], cv=2, held_out_scores=True, checkpoint=kept),
    ):
        whole = clone(clf).fit(X, Y)
        before = path.read_bytes()
        assert calls_of(clf, X, Y) == 0
        assert_same(clf, whole)
        assert path.read_bytes() == before
        path.unlink()


def test_a_warm_start_from_what_is_kept_is_another_fit(path: Path) -> None:
    kept = xl.Checkpoint(path, keep=True)
    settings = {"solver": "sgd", "random_state": 0, "warm_start": True}
    clf = xl.LinearClassifier(**settings, checkpoint=kept).fit(X, Y)
    with pytest.raises(ValueError, match=r"the model to start from was None, and is \(6, 1, 3\)"):
        clf.fit(X, Y)
    assert calls_of(clone(clf), X, Y) == 0
    path.unlink()
    cut(clf, 3)  # and what goes on is not one that it is
    assert calls_of(clone(clf), X, Y) == clf.n_iter_ - 3
    with pytest.raises(
        ValueError, match=r"the model to start from was \(6, 1, 3\) .*, and is None"
    ):
        clone(clf).fit(X, Y)


def test_the_file_is_there_from_the_start(path: Path) -> None:
    sizes = []
    clf = xl.LinearClassifier(checkpoint=path)
    clf.fit(X, Y, callbacks=[lambda progress: sizes.append(path.stat().st_size)])
    assert sizes[0] > 0
    assert len(set(sizes)) == 1  # the first minute is not over


class Clock:
    """A clock that goes on by what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, writing: float = 0.0) -> None:
        self.now, self.written = 0.0, list[float]()
        monkeypatch.setattr(journal.time, "monotonic", lambda: self.now)

        def write(path: Path, content: Any, parts: Any) -> None:
            checkpoint.write(str(path), content, parts)
            self.now += writing if self.written else 0.0
            self.written.append(self.now)

        monkeypatch.setattr(journal, "write", write)

    def tick(self, progress: Any) -> None:
        self.now += 1.0


def test_it_is_written_every_so_often(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clf = xl.LinearClassifier(solver="sgd", max_iter=30, checkpoint=xl.Checkpoint(path, every=7))
    clf.fit(X, Y, callbacks=[clock.tick])
    assert clock.written == [0.0, 7.0, 14.0, 21.0, 28.0, 30.0]


def test_writing_takes_a_small_part_of_the_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, writing=10.0)
    clf = xl.LinearClassifier(solver="sgd", max_iter=900, checkpoint=xl.Checkpoint(path, every=0))
    clf.fit(X[:60], Y[:60], callbacks=[clock.tick])
    assert clock.now == 900 + 10 * (len(clock.written) - 1)
    assert 3 <= len(clock.written) <= 1 + 900 / 240 + 1


@pytest.mark.usefixtures("ends_of_grids_and_rounding")
def test_a_stack_of_a_sweep_is_written_at_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    clf = xl.LinearClassifierCV(alphas=[1.0, 0.5, 0.1, 0.05], cv=2, checkpoint=path)
    clf.fit(X, Y)
    assert len(clock.written) == 1 + 4 + 1  # first, strengths, the one chosen


def test_what_a_killed_process_left_goes(path: Path) -> None:
    left = path.with_name(".run.0123abcd.unfinished.ckpt")
    others = [path.with_name(f".{stem}.0123abcd.unfinished.ckpt") for stem in ("ran", "run.1")]
    for file in (left, *others):
        file.write_bytes(b"half")
    xl.LinearClassifier(checkpoint=path).fit(X, Y)
    assert not left.exists()
    assert all(other.exists() for other in others)


def test_the_file_stays_where_it_is(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(journal, "_REST", 0)
    there = tmp_path / "there"
    there.mkdir()
    (there / path.name).write_text("of somebody else")
    clf = xl.LinearClassifier(solver="sgd", checkpoint=xl.Checkpoint(path.name, every=0))
    for end in (CutError, None):
        with suppress(CutError):
            clf.fit(X, Y, callbacks=[lambda _: os.chdir(there), after(5, end) if end else print])
        assert (there / path.name).read_text() == "of somebody else"
        assert path.exists() == (end is not None)
        os.chdir(tmp_path)


def test_a_link_stays_and_its_file_goes(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.ckpt"
    link.symlink_to(path)
    cut(xl.LinearClassifier(checkpoint=link), 2)
    assert path.exists()
    xl.LinearClassifier(checkpoint=link).fit(X, Y)
    assert link.is_symlink()
    assert not path.exists()


def test_a_file_that_another_fit_writes_is_left_to_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_REST", 0)
    settings = {"solver": "sgd", "random_state": 0}
    first, second = (
        xl.LinearClassifier(max_iter=n, checkpoint=xl.Checkpoint(path, every=0), **settings)
        for n in (8, 20)
    )

    def other(progress: Any) -> None:
        if progress.iteration == 3:
            path.unlink()
            cut(second, 6)

    with pytest.warns(RuntimeWarning, match="another fit meanwhile, and is left to it") as told:
        first.fit(X, Y, callbacks=[other])
    assert len(told) == 1
    assert_same(first, xl.LinearClassifier(max_iter=8, **settings).fit(X, Y))
    assert calls_of(second, X, Y) == 20 - 6

    def begun(self: Any, _: Any) -> None:  # between the look and the first writing
        path.write_text("of another")

    monkeypatch.setattr(journal.Journal, "_read", begun)
    with pytest.raises(ValueError, match="another fit began there just now; name another"):
        first.fit(X, Y)
    assert path.read_text() == "of another"


# What goes wrong.


def no_room(*args: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_no_fit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"solver": "sgd", "random_state": 0, "max_iter": 9}
    whole = xl.LinearClassifier(**settings).fit(X, Y)
    kept = xl.Checkpoint(path, every=0, keep=True)
    clf = xl.LinearClassifier(**settings, checkpoint=kept)
    files = []

    def full(progress: Any) -> None:
        if progress.iteration == 3:
            files.append(path.read_bytes())
            monkeypatch.setattr("xplinear.formats.writing.os.fsync", no_room)

    monkeypatch.setattr(journal, "_REST", 0)
    with pytest.warns(RuntimeWarning, match=r"not written \(.*No space left on device\)") as told:
        clf.fit(X, Y, callbacks=[full])
    assert_same(clf, whole)
    assert len(told) == 1
    assert path.read_bytes() == files[0]
    assert list(path.parent.iterdir()) == [path]
    monkeypatch.undo()
    assert calls_of(clf, X, Y) == whole.n_iter_ - 3  # the last good file
    assert_same(clf, whole)


def test_a_file_that_may_not_grow(path: Path) -> None:
    whole = xl.LinearClassifier().fit(X, Y)
    clf = xl.LinearClassifier(checkpoint=path)
    most, least = resource.getrlimit(resource.RLIMIT_FSIZE), []

    def limit(progress: Any) -> None:
        least.append(path.stat().st_size)
        resource.setrlimit(resource.RLIMIT_FSIZE, (least[0], most[1]))

    try:
        with pytest.warns(RuntimeWarning, match=r"not written \(.*File too large\)"):
            clf.fit(X, Y, callbacks=[limit])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert_same(clf, whole)


def test_where_no_file_can_be_there_is_no_fit(tmp_path: Path, monkeypatch: Any) -> None:
    for path, error, what in (
        (tmp_path, IsADirectoryError, "is a directory; name a file"),
        (tmp_path / "no" / "run.ckpt", FileNotFoundError, "no directory .*make it first"),
    ):
        with pytest.raises(error, match=what):
            xl.LinearClassifier(checkpoint=path).fit(X, Y, callbacks=[after(1)])
    monkeypatch.setattr("xplinear.formats.writing.os.fsync", no_room)
    with pytest.raises(OSError, match="No space left on device"):
        xl.LinearClassifier(checkpoint=tmp_path / "run.ckpt").fit(X, Y, callbacks=[after(1)])
    assert not list(tmp_path.iterdir())


def test_a_fit_that_never_began_leaves_no_file(path: Path) -> None:
    for wrong in ({"loss": "multiclass_hinge", "solver": "lbfgs"}, {"tol": -1}, {"dtype": 3}):
        with pytest.raises(ValueError, match=r"lbfgs|tol|dtype"):
            xl.LinearClassifier(**wrong, checkpoint=path).fit(X, Y)
        assert not path.exists()


@pytest.fixture
def unfinished(path: Path) -> xl.LinearClassifier:
    clf = xl.LinearClassifier(**SLOW, checkpoint=path)
    cut(clf, 5, sample_weight=np.ones(300))
    return clf


def changed(a: Any, at: Any, value: Any) -> Any:
    a = a.copy()
    a[at] = value
    return a


@pytest.mark.parametrize(
    ("fit", "what"),
    [
        ({"X": changed(X, (299, 5), np.nextafter(X[299, 5], 9.0))}, "X holds other values"),
        ({"X": X[:, :5]}, r"X was \(300, 6\) float64.*, and is \(300, 5\) float64"),
        ({"X": X.astype("float32")}, "X was .* float64.*, and is .* float32"),
        ({"y": changed(Y, 7, (Y[7] + 1) % 3)}, "y holds other values"),
        (
            {"y": np.asarray(["a", "b", "c"])[Y]},
            r"the classes of y was \[0, 1, 2\], and is \['a', 'b', 'c'\]",
        ),
        ({"sample_weight": changed(np.ones(300), 9, 2.0)}, "sample_weight holds other values"),
        ({"sample_weight": None}, "sample_weight was .*, and is None"),
    ],
)
def test_other_data(unfinished: Any, path: Path, fit: Any, what: str) -> None:
    before = path.read_bytes()
    data = {"X": X, "y": Y, "sample_weight": np.ones(300)} | fit
    remedy = "fit as then, name another file, or delete this one"
    another = r"checkpoint='.*run\.ckpt' is of another fit"
    with pytest.raises(ValueError, match=f"{another}: {what}.*{remedy}"):
        unfinished.fit(**data, callbacks=[after(1)])
    assert path.read_bytes() == before


class Steep:
    """A loss that shows nothing of itself."""

    smooth = shift_invariant = probabilistic = True

    def __init__(self, by: float) -> None:
        self.by = by

    def __getattr__(self, name: str) -> Any:
        return getattr(xl.losses.SoftmaxLoss(), name)

    value_and_grad = xl.losses.SoftmaxLoss.value_and_grad
    curvature = xl.losses.SoftmaxLoss.curvature
    lipschitz = xl.losses.SoftmaxLoss.lipschitz


@pytest.mark.parametrize(
    ("own", "other", "what"),
    [
        ({}, {"tol": 1e-6}, "tol was 1e-08, and is 1e-06"),
        ({}, {"max_iter": 500}, "max_iter was None, and is 500"),
        ({"class_weight": {0: 1.0}}, {"class_weight": {0: 2.0}}, "class_weight was"),
        (
            {"loss": xl.losses.SquaredHingeLoss(2.0)},
            {"loss": xl.losses.SquaredHingeLoss(1.0)},
            r"loss was SquaredHingeLoss\(margin=2.0\), and is SquaredHingeLoss\(margin=1.0\)",
        ),
        ({"loss": Steep(1.0)}, {"loss": Steep(2.0)}, "loss was .*'by': 1.0.*, and is .*'by': 2.0"),
        ({"loss": Steep(np.ones(2))}, {"loss": Steep(np.ones(2) + 1e-15)}, "loss holds other"),
        ({}, {"backend": "array_api_strict"}, "backend was numpy, and is array_api_strict"),
        ({}, {"accelerate": False}, "accelerate was True, and is False"),
        ({}, {"dtype": "float32"}, "dtype was None, and is 'float32'"),
    ],
)
def test_other_settings(path: Path, own: Any, other: Any, what: str) -> None:
    if "backend" in other:
        pytest.importorskip("array_api_strict")
    clf = xl.LinearClassifier(**{**SLOW, "checkpoint": path, **own})
    before = cut(clf, 2).read_bytes()
    with pytest.raises(ValueError, match=f"is of another fit: {what}"):
        clf.set_params(**other).fit(X, Y, callbacks=[after(1)])
    assert path.read_bytes() == before


def test_a_loss_that_shows_its_place_in_memory(path: Path) -> None:
    losses = [Steep(1.0) for _ in range(2)]
    clfs = [xl.LinearClassifier(loss=loss, **SLOW, checkpoint=path) for loss in losses]
    cut(clfs[0], 5)
    whole = xl.LinearClassifier(loss=losses[0], **SLOW).fit(X, Y)
    assert calls_of(clfs[1], X, Y) == whole.n_iter_ - 5
    assert_same(clfs[1], whole)


def test_functions_are_told_apart(path: Path) -> None:
    def score(sign: Any) -> Any:
        return lambda y, Z: float(sign * np.mean(Z.argmax(axis=1) == y))

    def best(y: Any, Z: Any, *, sign: float = 1.0) -> float:
        return score(sign)(y, Z)

    def sweep(scoring: Any) -> Any:
        return xl.LinearClassifierCV([0.1], cv=2, scoring=scoring, checkpoint=path)

    for own, other in (
        (score(1), score(-1)),
        (score(np.ones(1)), score(np.ones(1) + 1e-15)),
        (best, partial(best, sign=-1)),
        (partial(best, sign=2), partial(best, sign=-1)),
        (lambda y, Z: 1.0, lambda y, Z: 2.0),
        (make_scorer(lambda y, z: 1.0), make_scorer(lambda y, z: 2.0)),
    ):
        path.unlink(missing_ok=True)
        cut(sweep(own), 2)
        with pytest.raises(ValueError, match="is of another fit: scoring"):
            sweep(other).fit(X, Y)
    path.unlink()
    cut(sweep(score(2)), 2)
    sweep(score(2)).fit(X, Y)
    assert not path.exists()


def test_another_estimator_and_other_folds(path: Path) -> None:
    cut(xl.LinearClassifier(checkpoint=path), 2)
    with pytest.raises(ValueError, match="was LinearClassifier, and is LinearClassifierCV"):
        xl.LinearClassifierCV(checkpoint=path).fit(X, Y)
    path.unlink()
    sweep = xl.LinearClassifierCV(
        [0.1], cv=[(np.arange(200), np.arange(200, 300))], checkpoint=path
    )
    cut(sweep, 2)
    sweep.cv = [(np.arange(199), np.arange(200, 300))]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"the folds of cv was .*200.*, and is .*199"):
        sweep.fit(X, Y)
    with pytest.raises(ValueError, match=r"y was \(300,\) .*, and is \(300, 3\)"):
        sweep.fit(X, TAGS)
    assert path.read_bytes() == before


def test_what_decides_nothing_may_change(unfinished: Any, capsys: Any) -> None:
    whole = xl.LinearClassifier(**SLOW).fit(X, Y, np.ones(300))
    rows = np.asfortranarray(X)
    unfinished.set_params(verbose=1, checkpoint=xl.Checkpoint(unfinished.checkpoint, every=9))
    unfinished.fit(rows, Y.tolist(), np.ones(300))
    assert capsys.readouterr().out.startswith("iteration 6/")
    np.testing.assert_allclose(unfinished.coef_, whole.coef_, rtol=1e-6)


def test_a_file_that_is_damaged(unfinished: Any, path: Path) -> None:
    good = path.read_bytes()
    remedy = "delete it, or name another file as checkpoint"
    places = np.random.default_rng(0).integers(0, len(good), 40)
    bad = [good[:n] for n in (0, 7, 100, len(good) // 2, len(good) - 1)]
    bad += [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in places]
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"run\.ckpt' (is|has|was|is no)"):
            unfinished.fit(X, Y, np.ones(300), callbacks=[after(1)])
        assert path.read_bytes() == content
    path.write_bytes(good[:-1])
    with pytest.raises(ValueError, match=rf"run\.ckpt' is damaged.*{remedy}"):
        unfinished.fit(X, Y, np.ones(300))


def test_a_file_of_something_else(path: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    xl.LinearClassifier().fit(X, Y).save(model)
    path.write_text("text")
    for file, what in ((model, "is no checkpoint, but"), (path, "damaged or no safetensors file")):
        with pytest.raises(ValueError, match=what):
            xl.LinearClassifier(checkpoint=file).fit(X, Y)
    cut(xl.LinearClassifier(checkpoint=tmp_path / "run.safetensors"), 2)
    with pytest.raises(ValueError, match="is no model file, but"):
        xl.load(tmp_path / "run.safetensors")


def test_other_versions(unfinished: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit() -> Any:
        return unfinished.fit(X, Y, np.ones(300))

    with monkeypatch.context() as patch:
        patch.setattr(journal, "VERSION", "99.0")
        with pytest.raises(
            ValueError, match=r"begun by xplinear .*, and this is 99\.0: go on with"
        ):
            fit()
    content, parts = checkpoint.read(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_FORMAT", checkpoint._FORMAT._replace(version="2"))
        checkpoint.write(str(path), content, parts)
    with pytest.raises(ValueError, match="has format version 2, this xplinear reads 1"):
        fit()
    content["libraries"]["numpy"] = "1.0"
    checkpoint.write(str(path), content, parts)
    with pytest.warns(UserWarning, match=r"was begun with numpy 1\.0: .* other bits"):
        fit()


def test_what_went_on_otherwise_is_found_anew(unfinished: Any, path: Path) -> None:
    content, parts = checkpoint.read(str(path))
    content["entries"][0]["subject"] += " of another machine"
    checkpoint.write(str(path), content, parts)
    whole = xl.LinearClassifier(**SLOW).fit(X, Y, np.ones(300))
    with pytest.warns(UserWarning, match="went on otherwise.* is found anew"):
        unfinished.fit(X, Y, np.ones(300))
    assert_same(unfinished, whole)


# Solvers of a user's own.


class Position(NamedTuple):
    params: Params
    report: Any
    inner: Any


class Walker(LBFGS):
    """A solver whose state is not known."""

    state_type = Position

    def init(self, objective: Any, params: Any) -> Any:
        inner = super().init(objective, params)
        return Position(inner.params, inner.report, inner)

    def step(self, objective: Any, state: Any) -> Any:
        inner = super().step(objective, state.inner)
        return Position(inner.params, inner.report, inner)

    def copy(self, state: Any, *, xp: Any) -> Any:
        return state._replace(inner=super().copy(state.inner, xp=xp))

    def renewed(self, objective: Any, state: Any, *_: Any) -> Any:
        return state

    ahead = None


class Place(NamedTuple):
    params: Params
    report: Any
    inner: lbfgs.LBFGSState


class KnownWalker(Walker):
    state_type = Place

    def init(self, objective: Any, params: Any) -> Any:
        return Place(*super().init(objective, params))

    def step(self, objective: Any, state: Any) -> Any:
        return Place(*super().step(objective, state))


def test_states_of_other_solvers(path: Path) -> None:
    whole = xl.LinearClassifier(solver=Walker(tol=1e-6)).fit(X, Y)
    clf = xl.LinearClassifier(solver=Walker(tol=1e-6), checkpoint=xl.Checkpoint(path, every=0))
    with pytest.warns(
        RuntimeWarning, match="cannot hold this solver's state.* a LBFGSState.*goes on"
    ):
        clf.fit(X, Y)
    assert_same(clf, whole)
    clf = xl.LinearClassifier(solver=KnownWalker(tol=1e-6), checkpoint=path)
    cut(clf, 5)
    assert calls_of(clf, X, Y) == whole.n_iter_ - 5
    clf.solver_ = whole.solver_
    assert_same(clf, whole)


@pytest.mark.parametrize("fields", [("params", "report", "inner", "more"), ("params", "report")])
def test_a_solver_whose_state_was_changed(path: Path, monkeypatch: Any, fields: Any) -> None:
    cut(xl.LinearClassifier(solver=KnownWalker(tol=1e-6), checkpoint=path), 5)
    before = path.read_bytes()
    changed = NamedTuple("Place", [(name, Any) for name in fields])
    for kind in (changed, Position):  # of other fields, of another name
        monkeypatch.setattr(KnownWalker, "state_type", kind)
        clf = xl.LinearClassifier(solver=KnownWalker(tol=1e-6), checkpoint=path)
        with pytest.raises(ValueError, match=r"a state that is not of this solver.*fit as then"):
            clf.fit(X, Y)
        assert path.read_bytes() == before


# The parameter.


def test_the_parameter() -> None:
    with pytest.raises(
        ArgumentError, match="checkpoint must be a Checkpoint, the path of a file or None"
    ):
        xl.LinearClassifier(checkpoint=3).fit(X, Y)
    for wrong in ({"every": -1}, {"keep": 2}, {"path": b"x"}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            xl.Checkpoint(**{"path": "run.ckpt", **wrong})
    assert xl.Checkpoint(Path("run.ckpt")).path == "run.ckpt"
    clf = xl.LinearClassifier(checkpoint=xl.Checkpoint("run.ckpt"))
    assert clone(clf).checkpoint == clf.checkpoint
    assert pickle.loads(pickle.dumps(clf)).checkpoint == clf.checkpoint


def test_a_model_file_names_no_checkpoint(path: Path, tmp_path: Path) -> None:
    clf = xl.LinearClassifier(checkpoint=xl.Checkpoint(path)).fit(X, Y)
    clf.save(tmp_path / "model.safetensors")
    assert xl.load(tmp_path / "model.safetensors").checkpoint is None


def test_rows_that_come_in_turn_need_none(path: Path) -> None:
    xl.LinearClassifier(solver="sgd", checkpoint=path).partial_fit(X, Y, classes=[0, 1, 2])
    assert not path.exists()
