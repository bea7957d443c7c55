"""Choosing a backend: names, priority, and errors that help."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris

import xplinear as xl
from xplinear.backends import BACKENDS, backend_of, chosen_backend
from xplinear.solvers import SGD


def test_names_select_and_come_back(backend):
    again = xl.get_backend(backend.backend.name)
    assert again.name == backend.backend.name
    assert again.device == backend.backend.device


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
def test_jax_stays_on_the_device_of_that_number():
    script = """
import numpy as np, xplinear as xl
from xplinear.backends import backend_of
first, second = (xl.get_backend(f"jax:cpu:{number}") for number in (0, 1))
assert (first.name, second.name) == ("jax", "jax:cpu:1")
X, y = np.random.default_rng(0).standard_normal((100, 3)), np.arange(100) % 3
clf = xl.LinearClassifier(solver="sgd", backend=second, max_iter=2).fit(X, y)
assert backend_of(clf.predict(second.asarray(X))).name == backend_of(clf.coef_).name
assert clf.coef_.devices() == {second.device}
second.synchronize()
"""
    two = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", script], check=True, env=two, timeout=300)


def test_an_array_knows_its_backend(backend):
    assert backend_of(backend.asarray([1.0])).name == backend.backend.name


def test_moving_in_and_out(backend, dtype):
    x = np.arange(6.0).reshape(2, 3)
    there = backend.backend.asarray(x, getattr(backend.xp, dtype))
    assert there.dtype == getattr(backend.xp, dtype)
    assert there.device == backend.backend.device
    np.testing.assert_array_equal(backend.backend.to_host(there), x)


def test_awkward_memory_moves_in(backend):
    x = np.asfortranarray(np.arange(24.0).reshape(4, 6))
    x.flags.writeable = False
    for view in (x, x[::-1], x[:, ::-2], x[1::2, ::3]):
        np.testing.assert_array_equal(backend.to_numpy(backend.backend.asarray(view)), view)


def test_a_backend_pickles_by_name(backend):
    assert pickle.loads(pickle.dumps(backend.backend)).name == backend.backend.name


def test_synchronize_waits(backend):
    x = backend.asarray(np.ones((50, 50)))
    for _ in range(20):
        x = x @ x / 50.0
    backend.backend.synchronize()
    assert not hasattr(x, "is_ready") or x.is_ready()


@pytest.mark.parametrize("m", [1, 3])
def test_a_ring_is_written_and_keeps_its_other_rows(backend, dtype, m):
    rng = np.random.default_rng(m)
    asarray, kind = backend.backend.asarray, getattr(backend.xp, dtype)
    expected = rng.standard_normal((m, 4, 5)).astype(dtype)
    ring = asarray(expected.copy(), kind)
    for slots in ([3, 0, 1], [0, 0, 2], [2, 3, 2]):
        before, old, slot = ring, expected.copy(), np.asarray(slots[:m])
        rows = rng.standard_normal((m, 5)).astype(dtype)
        ring = backend.backend.write(ring, asarray(slot), asarray(rows, kind))
        for j in range(m):
            expected[j, slot[j]] = rows[j]
        np.testing.assert_array_equal(backend.to_numpy(ring), expected)
        others = np.arange(4) != slot[:, None]
        np.testing.assert_array_equal(backend.to_numpy(before)[others], old[others])
        if backend.backend.name in ("numpy", "torch"):
            assert ring is before


def test_auto_is_a_gpu_or_numpy():
    assert xl.get_backend("auto").name.partition(":")[0] in ("numpy", "cupy")


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="unknown backend 'numppy'; choose from auto, numpy, cupy"):
        xl.get_backend("numppy")


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_a_missing_library_says_what_to_install():
    with pytest.raises(xl.BackendError, match=r"'cupy' cannot be used.*xplinear\[cuda13\]"):
        xl.get_backend("cupy")


@pytest.mark.parametrize(
    "name", ["numpy:gpu", "array_api_strict:nowhere", "torch:cuda:97", "jax:cuda:97"]
)
def test_a_missing_device_says_so(name):
    library = name.partition(":")[0]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    with pytest.raises(xl.BackendError, match=f"backend '{name}' cannot be used: .*device"):
        xl.get_backend(name)


def test_priority_is_argument_then_use_backend_then_environment(monkeypatch):
    assert chosen_backend(None) is None
    monkeypatch.setenv("XPLINEAR_BACKEND", "array_api_strict:device1")
    assert chosen_backend(None).name == "array_api_strict:device1"
    with xl.use_backend("array_api_strict:device2"):
        assert chosen_backend(None).name == "array_api_strict:device2"
        assert chosen_backend("numpy").name == "numpy"
    assert chosen_backend(None).name == "array_api_strict:device1"


def test_use_backend_without_with_lasts():
    chosen = xl.use_backend("array_api_strict")
    try:
        assert chosen_backend(None).name == "array_api_strict"
    finally:
        chosen.__exit__()
    assert chosen_backend(None) is None


def test_choices_without_with_are_not_kept():
    names = "array_api_strict:device1", "array_api_strict:device2"
    with xl.use_backend("numpy"):
        known = weakref.WeakSet(map(xl.use_backend, names * 20))
        assert chosen_backend(None).name == names[1]
        gc.collect()
        assert len(known) <= 2
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(chosen_backend, None).result().name == names[1]
            with xl.use_backend(names[0]):
                assert thread.submit(chosen_backend, None).result().name == names[0]
            assert thread.submit(chosen_backend, None).result().name == names[1]
    assert chosen_backend(None) is None
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(chosen_backend, None).result() is None


@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy", "joblib"])
def test_the_reference_stays_one(backend, how, tmp_path):
    def again(x):
        if how == "pickle":
            return pickle.loads(pickle.dumps(x))
        if how == "joblib":
            joblib.dump(x, tmp_path / "x")
            return joblib.load(tmp_path / "x")
        return getattr(copy, how)(x)

    one = backend.backend
    assert again(one).kernels.keys() == one.kernels.keys()
    assert not again(one.reference()).kernels
    assert again(one.reference()).fold.__class__ is one.reference().fold.__class__
    X, y = backend.asarray(np.eye(4)), [0, 1, 2, 0]
    for accelerate in (True, False):
        clf = xl.LinearClassifier(max_iter=1, solver="sgd", accelerate=accelerate).fit(X, y)
        found = [again(clf), clf.to("numpy"), again(clf.to("numpy"))]
        assert [bool(each.backend_.kernels) for each in found[1:]] == [accelerate] * 2
        assert bool(found[0].backend_.kernels) == (accelerate and bool(one.kernels))


def test_the_environment_is_that_of_the_process_that_fits_or_moves(monkeypatch, tmp_path):
    X, y = np.eye(4), [0, 1, 2, 0]
    monkeypatch.setenv("XPLINEAR_ACCELERATE", "0")
    clf = xl.LinearClassifier().fit(X, y)
    clf.save(tmp_path / "clf.safetensors")
    assert not clf.backend_.kernels
    assert not xl.load(tmp_path / "clf.safetensors").backend_.kernels
    monkeypatch.delenv("XPLINEAR_ACCELERATE")
    assert not pickle.loads(pickle.dumps(clf)).backend_.kernels  # what it was computed by
    assert xl.load(tmp_path / "clf.safetensors").backend_.kernels
    assert clf.fit(X, y).backend_.kernels


class TestWithoutFloat64:
    """A device such as Apple's: what goes there in float64 is refused, not rounded."""

    @pytest.fixture
    def device(self):
        strict = pytest.importorskip("array_api_strict")
        names = [repr(device) for device in strict.__array_namespace_info__().devices()]
        if not any("no_float64" in name for name in names):
            pytest.skip("this array-api-strict has no such device")
        return xl.get_backend("array_api_strict:no_float64")

    @pytest.fixture
    def rows(self):
        X, y = load_iris(return_X_y=True)
        return X, y, np.random.default_rng(0).uniform(0.5, 2.0, len(X))

    def test_it_refuses(self, device):
        with pytest.raises(ValueError, match="does not support dtype"):
            device.move(np.ones(2))
        with pytest.raises(ValueError, match="float64"):
            xl.LinearClassifier(backend=device, dtype="float64").fit(np.eye(2), [0, 1])

    @pytest.mark.parametrize("there", ["array_api_strict:device1", "numpy", "torch"])
    def test_float64_becomes_float32_where_it_is(self, device, there):
        pytest.importorskip(there.partition(":")[0])
        x = xl.get_backend(there).asarray([1.0, 2.5])
        assert "float64" in str(x.dtype) or there == "torch"
        assert device.asarray(x).dtype == device.xp.float32
        assert device.asarray(x, device.xp.int32).dtype == device.xp.int32
        assert device.fetch(device.asarray(x, device.xp.float32)).tolist() == [1.0, 2.5]

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize(
        "settings",
        [
            {"solver": "lbfgs"},
            {"solver": "lbfgs", "standardize": True},
            {"solver": "sgd", "max_iter": 5},
            {"solver": SGD(max_iter=5, learning_rate=0.01), "warm_start": True},
            {"penalty": "l1", "alpha": 0.01, "class_weight": "balanced"},
            {"loss": "multiclass_hinge", "alpha": 0.1},
        ],
        ids=lambda settings: " ".join(map(str, settings.values())),
    )
    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_fits(self, device, rows, settings, streamed):
        X, y, s = rows
        own = replace(device, free_memory=lambda: 1, block_bytes=2**11) if streamed else device
        found, expected = (
            xl.LinearClassifier(random_state=0, tol=1e-3, backend=backend, **settings).fit(x, y, s)
            for backend, x in ((own, X), (xl.get_backend("numpy"), X.astype(np.float32)))
        )
        assert found.coef_.dtype == device.xp.float32
        np.testing.assert_allclose(
            found.decision_function(X), expected.decision_function(X), atol=0.1
        )
        np.testing.assert_allclose(found.objective_, expected.objective_, rtol=1e-2)
        assert found.score(X, y) == pytest.approx(expected.score(X, y), abs=0.02)
        whole = (X * 10).astype(int)
        assert found.predict(whole).shape == y.shape
        if hasattr(found, "certificate_"):
            assert found.certificate_.relative_gap[0] < 0.1

    @pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
    def test_cross_validation(self, device, rows, solver):
        X, y, s = rows
        found, expected = (
            xl.LinearClassifierCV(
                [1.0, 0.1], cv=3, solver=solver, random_state=0, standardize=True, backend=backend
            ).fit(X, y, sample_weight=s)
            for backend in (device, xl.get_backend("numpy"))
        )
        np.testing.assert_allclose(found.cv_scores_, expected.cv_scores_, atol=0.02)

    def test_partial_fit_and_integers(self, device, rows):
        X, y, s = rows
        clf = xl.LinearClassifier(backend=device)
        clf.partial_fit(X, y, [0, 1, 2], sample_weight=s).partial_fit(X, y)
        assert clf.score(X, y) > 0.5
        assert clf.to("numpy").to(device).score(X, y) == clf.score(X, y)


def test_available_backends_say_why_one_is_not():
    rows = {row.name: row for row in xl.available_backends()}
    assert list(rows) == list(BACKENDS)
    assert rows["numpy"].available
    assert rows["numpy"].version == np.__version__
    for row in rows.values():
        assert row.available != bool(row.reason)


def test_backends_say_how_much_is_free(backend):
    """What `xplinear.model_selection.sweep.stack_width` asks."""
    assert 2**20 < backend.backend.free_memory() < 2**50
    assert backend.backend.free_columns >= 1


class Halving(NamedTuple):
    """Numbers that are halved until they are small, each a model's."""

    x: Any
    solved: Any


def halved(least: float, xp: Any, now: Halving, shift: Any) -> Halving:
    x = xp.where(now.solved, now.x, 0.5 * now.x + shift)
    return Halving(x, now.solved | (x < least))


@pytest.mark.parametrize("accelerate", [True, False])
def test_what_is_repeated_is_what_a_loop_does(backend, dtype, accelerate):
    """Of as many times as are asked for, none included; what the caller has stays as it is."""
    own, calls = backend.backend.accelerating(accelerate), 0

    def counted(*args: Any) -> Halving:
        nonlocal calls
        calls += 1
        return halved(*args)

    repeated = own.repeat(counted, 0.75, backend.xp)
    shift = backend.asarray(0.25, dtype)
    for start in ([8.0, 1.0, 100.0], [1.0, 1.0, 1.0]):  # all solved at once, at last
        first = Halving(backend.asarray(start, dtype), backend.asarray([False] * 3))
        expected = Halving(np.asarray(start, dtype), np.zeros(3, bool))
        for times in range(12):
            made, before = repeated(times, first, shift), calls
            for name in Halving._fields:
                found = getattr(made, name)
                assert found.dtype == getattr(first, name).dtype
                np.testing.assert_array_equal(backend.to_numpy(found), getattr(expected, name))
            expected = halved(0.75, np, expected, np.asarray(0.25, dtype))
        np.testing.assert_array_equal(backend.to_numpy(first.x), start)
    if own.compiles:
        repeated(20, first, shift)
        assert calls == before  # for all times at once
