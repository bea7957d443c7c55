"""``precision``: what it sets in each library, and what it does, tensor cores emulated on a CPU."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import xplinear as xl
from xplinear.backends import get_backend, matmul_precision
from xplinear.backends.precision import in_precision

SOLVERS = "sgd", "lbfgs", "gd"


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X.astype(np.float32)[:600], y[:600]


def rounded(x):
    """Return float32 rounded to TF32's 10 bits of mantissa, to nearest, ties to even."""
    import torch

    bits = x.contiguous().view(torch.int32)
    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return bits.view(torch.float32)


@pytest.fixture
def emulated():
    """A backend whose float32 products have rounded inputs in TF32, and a list of their number."""
    torch = pytest.importorskip("torch")
    from torch.overrides import TorchFunctionMode

    products = [0]

    class Emulated(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if "matmul" in func.__name__ and args[0].dtype == torch.float32:
                products[0] += 1
                args = tuple(map(rounded, args))
            return func(*args, **(kwargs or {}))

    def context(tf32):
        return Emulated() if tf32 else nullcontext()

    plain = get_backend("torch")
    compile_ = partial(in_precision, context)
    backend = replace(plain, fold=compile_(plain.fold), compile=compile_, tensor_cores=True)
    return backend, products


def test_rounding_keeps_ten_bits():
    torch = pytest.importorskip("torch")
    x = torch.asarray([1.0, 1.0 + 2**-10, 1.0 + 2**-11, 1.0 + 3 * 2**-11, -3.14159265])
    assert rounded(x).tolist() == [1.0, 1.0 + 2**-10, 1.0, 1.0 + 2**-9, -3.140625]


@pytest.mark.parametrize("solver", SOLVERS)
def test_products_are_rounded_while_training_only(solver, emulated, digits):
    backend, products = emulated
    settings = {"solver": solver, "alpha": 0.01, "max_iter": 5, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        exact = xl.LinearClassifier(**settings, backend=backend).fit(*digits)
        assert products == [0]
        clf = xl.LinearClassifier(**settings, backend=backend, precision="tf32").fit(*digits)
    assert products[0] > 0
    after = products[0]
    Z = clf.decision_function(digits[0])
    assert products[0] == after
    difference = np.abs(Z - exact.decision_function(digits[0])).max()
    assert 1e-5 < difference < 0.1
    # The objective is that of the weights found, in full precision.
    loss, _ = xl.losses.SoftmaxLoss().value_and_grad(Z.astype(np.float64), digits[1])
    value = np.mean(loss) + 0.005 * np.sum(backend.to_host(clf.coef_).astype(np.float64) ** 2)
    np.testing.assert_allclose(clf.objective_, value, rtol=1e-5)


def test_the_floor_is_told(emulated, digits):
    clf = xl.LinearClassifier(
        solver="lbfgs", alpha=0.01, tol=1e-7, backend=emulated[0], precision="tf32"
    )
    with pytest.warns(ConvergenceWarning, match="the tf32 floor: .*; use precision='float32' or"):
        clf.fit(*digits)
    assert clf.certificate_.relative_gap[0] < 1e-2


def test_partial_fit_and_cross_validation(emulated, digits):
    backend, products = emulated
    X, y = digits
    xl.LinearClassifier(precision="tf32", backend=backend).partial_fit(X, y, classes=np.unique(y))
    before = products[0]
    assert before > 0
    grid = xl.LinearClassifierCV([1.0, 0.1], cv=3, tol=1e-2, precision="tf32", backend=backend).fit(
        X, y
    )
    assert products[0] > before
    exact = xl.LinearClassifierCV([1.0, 0.1], cv=3, backend=backend).fit(X, y)
    np.testing.assert_allclose(grid.cv_scores_, exact.cv_scores_, atol=0.02)


def test_where_there_is_no_choice(backend, digits):
    if backend.backend.tensor_cores:
        pytest.skip("it has tensor cores")
    clf = xl.LinearClassifier(precision="tf32", backend=backend.backend)
    with pytest.raises(ValueError, match=r"precision='tf32' needs the tensor cores .* set prec"):
        clf.fit(*digits)
    with pytest.raises(ValueError, match=r"precision='tf32' needs the tensor cores .* set prec"):
        xl.LinearClassifierCV(precision="tf32", backend=backend.backend).fit(*digits)


def test_float64_and_unknown_names(emulated, digits):
    clf = xl.LinearClassifier(precision="tf32", dtype="float64", backend=emulated[0])
    with pytest.raises(
        ValueError, match=r"precision='tf32' multiplies float32, .* dtype='float32'"
    ):
        clf.fit(*digits)
    with pytest.raises(ValueError, match="precision must be 'float32' or 'tf32', got 'half'"):
        xl.LinearClassifier(precision="half").fit(*digits)


def test_jax_compiles_for_each_precision():
    jax = pytest.importorskip("jax")
    seen = []

    def function(x):
        seen.append(jax.config.jax_default_matmul_precision)
        return x @ x

    compiled = get_backend("jax:cpu").compile(function)
    x = jax.numpy.ones((2, 2))
    for name in ("float32", "tf32", "float32", "tf32"):
        with matmul_precision(name):
            compiled(x)
    compiled(x)
    assert seen == ["highest", "tensorfloat32"]


@pytest.mark.parametrize("users", ["none", "ieee", "tf32"])
def test_the_setting_of_torch_comes_back(users):
    torch = pytest.importorskip("torch")
    from xplinear.backends.torch import _products

    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has allow_tf32 alone")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = users
        for name, value in (("float32", "ieee"), ("tf32", "tf32")):
            with matmul_precision(name):
                read = in_precision(_products, lambda: matmul.fp32_precision)
                assert read() == value
                assert matmul.fp32_precision == users
        with pytest.raises(ZeroDivisionError):
            in_precision(_products, lambda: 1 / 0)()
        assert matmul.fp32_precision == users
    finally:
        matmul.fp32_precision = before


def test_the_older_setting_of_torch_comes_back(monkeypatch):
    pytest.importorskip("torch")
    from types import SimpleNamespace

    from xplinear.backends import torch as ours

    matmul = SimpleNamespace(allow_tf32=True)
    cuda = SimpleNamespace(matmul=matmul)
    monkeypatch.setattr(ours.torch, "backends", SimpleNamespace(cuda=cuda))
    with ours._products(False):
        assert not matmul.allow_tf32
    assert matmul.allow_tf32


@pytest.mark.cuda
def test_the_setting_of_cupy_comes_back():
    linalg = pytest.importorskip("cupy._core._routines_linalg", reason="the setting is CuPy's")

    def setting():
        return linalg.get_compute_type(np.float32)

    before, compile_ = setting(), get_backend("cupy").compile
    assert compile_(setting)() == linalg.COMPUTE_TYPE_DEFAULT
    with matmul_precision("tf32"):
        assert compile_(setting)() == linalg.COMPUTE_TYPE_TF32
    assert setting() == before
