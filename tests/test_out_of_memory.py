"""Where memory runs out, less is done at a time, with the same results and a warning."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

import xplinear as xl
from xplinear.backends.transfer import read_ahead
from xplinear.data import ArrayData, StreamedData
from xplinear.estimator import solve

N, P = 700, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((N, P))
Y = np.argmax(X[:, :3] + 0.5 * rng.gumbel(size=(N, 3)), axis=1).astype(np.int32)
HALVED = pytest.warns(RuntimeWarning, match="out of memory")


@pytest.fixture(params=[ArrayData, StreamedData])
def data(request: pytest.FixtureRequest, backend: Any) -> Any:
    """X on the device, and on the host."""
    rows = X if request.param is StreamedData else backend.asarray(X)
    return request.param(rows, backend.asarray(Y), backend=backend.backend)


def fits(limit: int, xp: Any, block: Any) -> Any:
    """Return some rows, where the memory holds so many."""
    if block.X.shape[0] > limit:
        raise MemoryError
    return block.X + xp.zeros_like(block.X)


def total(limit: int, xp: Any, block: Any) -> Any:
    return (xp.sum(fits(limit, xp, block), axis=0),)


def test_blocks_are_halved_and_the_pass_goes_on(backend, data):
    with pytest.warns(RuntimeWarning, match=r"blocks of 700 rows.* with 87 rows") as seen:
        parts = list(data.map(fits, (100, backend.xp), scores=1))
    assert len(seen) == 1
    assert [part.shape[0] for part in parts] == [87] * 8 + [4]
    np.testing.assert_array_equal(np.concatenate([backend.to_numpy(a) for a in parts]), X)


def test_what_was_learnt_of_the_memory_is_kept(backend, data):
    with HALVED:
        data.reduce(total, (100, backend.xp))
    kept = replace(data, s=backend.asarray(np.ones((N, 2))))  # as for another stack
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (again,) = kept.reduce(total, (100, backend.xp))
        (less,) = kept.reduce(total, (10, backend.xp))  # and halved further without a word
    for found in (again, less):
        np.testing.assert_allclose(backend.to_numpy(found), X.sum(axis=0), rtol=1e-12)
    assert kept.rows_per_block(0) == data.rows_per_block(0) <= 10
    assert data.rows_per_block(100) < data.rows_per_block(0)


def test_the_error_comes_through_where_one_row_does_not_fit(backend, data):
    with pytest.raises(MemoryError):
        data.reduce(total, (0, backend.xp))
    assert data.rows_per_block(0) == N  # it is not the blocks that take the memory


def test_other_errors_come_through(backend, data):
    def wrong(block):
        msg = "not about memory"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="not about memory"):
        data.reduce(wrong, ())


def test_what_fits_is_not_done_again(numpy_backend):
    done = []

    def sizes(block):
        if len(done) == 2 and block.X.shape[0] > 60:  # another program takes memory meanwhile
            raise MemoryError
        done.append(block.X[:, 0])
        return block.X

    own = numpy_backend.with_blocks_of(1).backend
    data = ArrayData(X, Y, backend=own)
    with HALVED:
        list(data.map(sizes, (), scores=1))
    assert [len(part) for part in done] == [256, 256, 32, *[32] * 4, 28]
    np.testing.assert_array_equal(np.concatenate(done), X[:, 0])


def test_memory_may_run_out_while_rows_are_sent(backend):
    released = []

    def upload(rows, pieces):
        if len(pieces[0]) > 100:
            raise MemoryError
        return read_ahead(rows, pieces)

    own = replace(backend.backend, upload=upload, release_memory=lambda: released.append(1))
    data = StreamedData(X, backend.asarray(Y), backend=own)
    with HALVED:
        (found,) = data.reduce(total, (N, backend.xp))
    np.testing.assert_allclose(backend.to_numpy(found), X.sum(axis=0), rtol=1e-12)
    assert len(released) == 3


def test_a_fit_is_the_same(numpy_backend):
    def compile_(function, *static):
        def call(block, *args):
            if function.__name__.startswith("_block") and len(block.X) > 100:
                raise MemoryError
            return function(*static, block, *args)

        return call

    own = replace(numpy_backend.backend, compile=compile_)
    settings = {"solver": "lbfgs", "alpha": 0.01, "tol": 1e-8}
    with HALVED as seen:
        found = xl.LinearClassifier(**settings, backend=own).fit(X, Y)
    assert len(seen) == 1
    expected = xl.LinearClassifier(**settings).fit(X, Y)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-6)


def test_every_backend_knows_its_own_error(backend):
    more_than_there_is = 10**15

    def allocate():
        kind = backend.backend.kind(backend.xp.float64)
        return backend.to_numpy(backend.xp.ones((more_than_there_is,), **kind)[:1])

    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has its own
        allocate()
    assert backend.backend.out_of_memory(caught.value)
    for error in (ValueError("no"), RuntimeError("no"), KeyError("no")):
        assert not backend.backend.out_of_memory(error)
    assert backend.backend.release_memory() is None


def test_torch_knows_the_error_of_cuda():
    torch = pytest.importorskip("torch")
    error = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert xl.get_backend("torch").out_of_memory(error)


FOLDS = list(StratifiedKFold(3).split(X[:150], Y[:150]))
SETTINGS = {
    "alphas": [1.0, 0.1, 0.03, 0.01],
    "cv": FOLDS,
    "scoring": "log_loss",
    "tol": 1e-8,
    "max_iter": 3000,
}


def limit_models(monkeypatch: Any, fits: Any) -> list[int]:
    """Let memory run out for stacks that do not fit; return the sizes of those that did."""
    minimize, sizes = solve.minimize, []

    def limited(objective, *args, **settings):
        if not fits(objective):
            raise MemoryError
        if "release" in settings:  # a stack of a sweep, not the fit of the model chosen
            sizes.append(objective.m)
        return minimize(objective, *args, **settings)

    monkeypatch.setattr(solve, "minimize", limited)
    return sizes


@pytest.mark.parametrize(
    ("fits", "free_columns", "expected"),
    [
        # All four strengths of three folds and the refit at once, then fewer strengths ...
        (lambda F: F.m <= 8, 1000, [8, 8]),
        (lambda F: F.m <= 5, 1000, [4] * 4),
        # ... and fewer folds.
        (lambda F: F.m <= 3, 1000, [2] * 8),
        (lambda F: F.m <= 1, 1, [1] * 16),
        # Memory runs out on the way: what was solved stays.
        (lambda F: F.m <= 2 or F.alpha.min() > 0.05, 1, [4, 4, *[2] * 4]),
        (lambda F: F.m <= 1 or F.alpha.min() > 0.02, 1, [4, 4, 4, *[1] * 4]),
    ],
)
def test_stacks_are_halved(numpy_backend, monkeypatch, fits, free_columns, expected):
    own = replace(numpy_backend.backend, free_columns=free_columns)
    exact = xl.LinearClassifierCV(**SETTINGS).fit(X[:150], Y[:150])
    sizes = limit_models(monkeypatch, fits)
    with pytest.warns(RuntimeWarning, match="out of memory with a stack of"):
        clf = xl.LinearClassifierCV(**SETTINGS, backend=own).fit(X[:150], Y[:150])
    assert sizes == expected
    np.testing.assert_allclose(clf.cv_scores_, exact.cv_scores_, atol=1e-7)
    np.testing.assert_allclose(clf.coefs_paths_, exact.coefs_paths_, atol=1e-6)


def test_stacks_of_learning_rates_are_halved(monkeypatch):
    settings = {
        "alphas": [0.1, 0.01],
        "cv": FOLDS,
        "solver": "sgd",
        "learning_rates": [0.01, 0.1],
        "max_iter": 20,
        "random_state": 0,
    }
    exact = xl.LinearClassifierCV(**settings).fit(X[:150], Y[:150])
    sizes = limit_models(monkeypatch, lambda F: F.m <= 3)
    with HALVED:
        clf = xl.LinearClassifierCV(**settings).fit(X[:150], Y[:150])
    assert set(sizes) == {2}
    np.testing.assert_allclose(clf.cv_scores_, exact.cv_scores_, atol=1e-12)


def test_the_error_comes_through_where_one_model_does_not_fit(monkeypatch):
    limit_models(monkeypatch, lambda F: False)
    clf = xl.LinearClassifierCV(**SETTINGS)
    with pytest.raises(MemoryError), pytest.warns(RuntimeWarning, match="out of memory"):
        clf.fit(X[:150], Y[:150])
