"""Blocks on our own threads: the same numbers whatever their number, and a BLAS left as it was."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from sklearn.datasets import load_digits
from threadpoolctl import ThreadpoolController, threadpool_limits

import xplinear as xl
from xplinear.backends import threads
from xplinear.backends.epoch import Epoch, Shared, Update
from xplinear.backends.threads import blas
from xplinear.data import data_of
from xplinear.losses import SoftmaxLoss
from xplinear.penalties import L2Penalty

X, y = load_digits(return_X_y=True)
X = X / 16.0
each, products = blas.each, blas.products
BLAS = ThreadpoolController().select(user_api="blas").lib_controllers
needs_blas = pytest.mark.skipif(not BLAS, reason="the number of its threads cannot be set")


def blas_threads():
    return {library.get_num_threads() for library in BLAS}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Let others help from the first item on."""
    monkeypatch.setattr(threads, "_ALONE", 0.0)


@pytest.fixture
def three_threads():
    with threadpool_limits(3, user_api="blas"):
        yield


class TestEach:
    @pytest.mark.parametrize("number", [1, 2, 5])
    def test_results_come_in_order(self, number):
        with threadpool_limits(number, user_api="blas"):
            assert list(each(lambda i: i * i, iter(range(100)))) == [i * i for i in range(100)]

    @needs_blas
    def test_others_help(self, three_threads):
        both = threading.Barrier(2, timeout=60)
        names = set()

        def meet(i):
            if i in {1, 2}:  # the first is computed alone
                both.wait()
            names.add(threading.current_thread().name)

        list(each(meet, iter(range(9))))
        assert len(names) > 1

    @needs_blas
    def test_it_goes_on_where_others_do_not_begin(self, three_threads, monkeypatch):
        with ThreadPoolExecutor(1) as busy:
            held = threading.Event()
            busy.submit(held.wait, 60)
            monkeypatch.setattr(threads, "_helpers", lambda number: busy)
            done = list(each(lambda i: threading.current_thread().name, iter(range(50))))
            held.set()
        assert set(done) == {threading.current_thread().name}

    def test_few_items_are_read_ahead(self, three_threads):
        read = count()
        results = each(lambda i: i, (next(read) for _ in range(1000)))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert next(read) <= 3 + 3 + threads._AHEAD
        results.close()

    def test_an_error_comes_in_its_turn(self, three_threads):
        results = each(lambda i: 1 // (5 - i), iter(range(9)))
        assert [next(results) for _ in range(5)] == [0, 0, 0, 0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert (blas.small, blas.large) == (set(), set())

    def test_the_context_comes_along(self, three_threads):
        with np.errstate(divide="ignore"):  # else a warning, and so an error
            list(each(lambda _: np.ones(3) / np.zeros(3), iter(range(30))))


@needs_blas
class TestBlas:
    def test_small_products_in_one_thread_large_ones_in_all(self, three_threads):
        with products(1e6):
            assert blas_threads() == {1}
            with products(1e12):
                assert blas_threads() == {3}
            assert blas_threads() == {1}
            with products(0.0):
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == {3}

    def test_it_is_left_as_it_was(self, three_threads):
        clf = xl.LinearClassifier()
        for end in (None, RuntimeError, KeyboardInterrupt):

            def stop(progress, end=end):
                assert blas_threads() == {3}  # a callback's own products are not our business
                if end is not None:
                    raise end

            with suppress(RuntimeError, KeyboardInterrupt):
                clf.fit(X, y, callbacks=[stop])
            assert blas_threads() == {3}
        clf.fit(X, y).predict_proba(X)
        assert blas_threads() == {3}

    def test_who_comes_last_puts_it_back(self, three_threads):
        first, second = products(0.0), products(0.0)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_threads() == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == {3}

    def test_fits_in_threads(self, three_threads):
        def fit(seed):
            return xl.LinearClassifier(solver="sgd", max_iter=2, random_state=seed).fit(X, y).coef_

        alone = [fit(seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as several:
            together = list(several.map(fit, range(4)))
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b)
        assert blas_threads() == {3}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
    def test_a_forked_child_computes_too(self, three_threads):
        list(each(abs, iter(range(99))))  # there are helpers, which a child does not inherit
        with products(0.0), multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply_async(_in_child).get(timeout=60) == ([3] * len(BLAS), 4950)


def _in_child():
    before = [library.get_num_threads() for library in BLAS]
    return before, sum(each(abs, iter(range(100))))


class TestTorch:
    """Settings are those of a thread: nobody else sees them change."""

    @pytest.fixture(autouse=True)
    def torch(self):
        torch = pytest.importorskip("torch")
        from xplinear.backends import torch as ours

        if not ours._of_a_thread():
            pytest.skip("the number of torch's threads cannot be set")
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        yield torch
        torch.set_num_threads(before)

    @pytest.fixture
    def small(self):
        return replace(xl.get_backend("torch"), block_bytes=2**17)

    def test_small_products_in_one_thread_large_ones_in_all(self, torch, small):
        def numbers():
            """Return what torch and MKL would use here."""
            lines = torch.__config__.parallel_info().splitlines()
            said = ("at::get_num_threads", "mkl_get_max_threads")
            return {int(line.rpartition(":")[2]) for line in lines if any(s in line for s in said)}

        with small.products(1e6), ThreadPoolExecutor(1) as other:
            assert numbers() == {1}
            assert other.submit(numbers).result() == {3}
            with small.products(1e12):
                assert numbers() == {3}
            assert numbers() == {1}
        assert numbers() == {3}

    def test_others_help(self, torch, small):
        both = threading.Barrier(2, timeout=60)

        def meet(i):
            if i in {1, 2}:  # the first is computed alone
                both.wait()
            return i, torch.is_grad_enabled(), torch.get_num_threads(), threading.current_thread()

        with torch.no_grad():
            numbers, gradients, threads_, who = zip(*small.each(meet, iter(range(9))), strict=True)
        assert numbers == tuple(range(9))
        assert (set(gradients), set(threads_)) == ({False}, {1})
        assert len(set(who)) > 1

    @pytest.mark.parametrize("context", ["gradients", "vmap"])
    def test_what_others_follow_is_computed_where_they_do(self, torch, small, context):
        clf = xl.LinearClassifier(backend=small).fit(X, y)
        expected = clf.decision_function(X)
        A = torch.from_numpy(X)
        if context == "vmap":
            with torch.no_grad():
                Z = torch.func.vmap(clf.decision_function)(torch.stack([A, A]))
            for part in Z:
                np.testing.assert_allclose(part, expected, rtol=1e-10, atol=1e-12)
        else:
            clf.decision_function(A.requires_grad_()).sum().backward()
            rows = clf.coef_.sum(0).expand(len(X), -1)
            np.testing.assert_allclose(A.grad, rows, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("settings", [{}, {"solver": "sgd", "max_iter": 2}], ids=str)
    def test_fits_do_not_depend_on_the_number_of_threads(self, torch, small, settings):
        found = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            clf = xl.LinearClassifier(backend=small, random_state=0, **settings).fit(X, y)
            found.append(clf.coef_)
            assert torch.get_num_threads() == number
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])

    def test_one_thread_is_one_thread(self, torch, small, monkeypatch):
        torch.set_num_threads(1)
        monkeypatch.setattr(threads, "_helpers", None)  # an error, if asked
        xl.LinearClassifier(backend=small).fit(X, y)

    def test_it_is_left_as_it_was(self, torch, small):
        for end in (None, RuntimeError, KeyboardInterrupt):

            def stop(progress, end=end):
                assert torch.get_num_threads() == 3
                if end is not None:
                    raise end

            with suppress(RuntimeError, KeyboardInterrupt):
                xl.LinearClassifier(backend=small).fit(X, y, callbacks=[stop])
            assert torch.get_num_threads() == 3

    def test_fits_in_threads(self, torch, small):
        def fit(seed):
            settings = {"solver": "sgd", "max_iter": 2, "random_state": seed}
            clf = xl.LinearClassifier(backend=small, **settings).fit(X, y)
            return clf.coef_, torch.get_num_threads()

        alone = [fit(seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as several:
            together = list(several.map(fit, range(4)))
        for (one, _), (other, number) in zip(alone, together, strict=True):
            assert torch.equal(one, other)
            assert number == 3

    @pytest.mark.parametrize(("size", "number"), [(1, 1), (1000, 3)])
    def test_mini_batches(self, torch, small, size, number):
        seen = []

        def minibatch(update, shared, carry, batch, factor):
            seen.append(torch.get_num_threads())
            return carry

        W, rows = torch.zeros(1000, 1000), torch.arange(2000)
        update, schedule = Update(minibatch, None, small.xp, W.dtype), [1.0] * (2000 // size)
        small.fold(
            Epoch(minibatch, update, Shared(), (W,), (rows, rows, None), rows, schedule, size)
        )
        assert set(seen) == {number}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sums_do_not_depend_on_the_number_of_threads(numpy_backend, dtype):
    case = numpy_backend.with_blocks_of(2**16)
    objective = case.objective(SoftmaxLoss(), L2Penalty(), X, y, k=10, dtype=dtype)
    params = case.params(objective)
    found = []
    for number in (1, 2, 7):
        with threadpool_limits(number, user_api="blas"):
            value, grads = objective.value_and_grad(params)
            found.append((value, *grads))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "settings", [{}, {"solver": "sgd", "max_iter": 3}, {"penalty": "l1"}], ids=str
)
def test_fits_do_not_depend_on_the_number_of_threads(settings, monkeypatch):
    backend = xl.get_backend("numpy")
    small = replace(backend, block_bytes=2**17)
    found = []
    for number in (1, 2, 7):
        with threadpool_limits(number, user_api="blas"):
            clf = xl.LinearClassifier(backend=small, random_state=0, **settings).fit(X, y)
            found.append(np.append(clf.coef_, clf.decision_function(X)))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_rows_are_converted_by_those_who_compute_with_them(numpy_backend, three_threads):
    """X stored in float16, standardized: the same sums as of X converted at once."""
    half = X.astype(np.float16)
    case = numpy_backend.with_blocks_of(2**15)
    few = case.objective(SoftmaxLoss(), L2Penalty(), half, y, k=10, stored="float16")
    whole = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), half.astype(float), y, k=10)
    params = case.params(few)
    np.testing.assert_allclose(few.value(params), whole.value(params), rtol=1e-12)


@needs_blas
def test_an_error_between_blocks_leaves_the_blas_as_it_was(three_threads):
    """Though the traceback, which a shell keeps, holds all that was under way."""

    class Partial:
        def __add__(self, other):
            raise ZeroDivisionError

    data = data_of(X, y, backend=replace(xl.get_backend("numpy"), block_bytes=1))
    with pytest.raises(ZeroDivisionError) as kept:
        data.reduce(lambda block: (Partial(),), (), scores=1)
    assert blas_threads() == {3}, kept
