"""Choosing a backend: names, priority, and errors that help."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import xplinear as xl
from xplinear.backends import BACKENDS, backend_of, chosen_backend


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
