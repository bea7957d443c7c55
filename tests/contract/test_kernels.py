"""Law 4: what a backend computes by its own kernels is what the reference computes.

CuPy comes a second time where there is a C++ compiler: its own code, with NumPy in the place of
CuPy and its CUDA kernels run by ``cuda_on_cpu/emulation.cpp``. What only a GPU shows, its memory
model and its speed, that does not show.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import xplinear.backends
import xplinear.backends.numpy as numpy_module
from xplinear import LinearClassifier
from xplinear.backends import BackendError, get_backend
from xplinear.data.rows import FarStandard, Standard
from xplinear.losses import LOSSES, SoftmaxLoss
from xplinear.namespace import device
from xplinear.objective import Params
from xplinear.penalties import PENALTIES, L2Penalty
from xplinear.solvers import SGD

SOURCE = Path(xplinear.backends.__file__).with_name("cupy.cu")
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="session")
def recorded() -> Any:
    """The backend ``torch`` with the kernels it has on CUDA, repeated instead of recorded."""
    from xplinear.backends import torch

    fold = partial(torch._fold_by, lambda step: step, {})
    return replace(get_backend("torch"), kernels=torch._kernels(partial(torch._sgd, fold)))


def cases() -> Iterator[Any]:
    yield "numpy"
    for name in ("cupy", "torch:cuda"):
        with suppress(BackendError):
            yield pytest.param(get_backend(name).name, marks=pytest.mark.cuda)
    yield pytest.param("emulated", marks=needs_compiler)
    yield pytest.param("recorded", marks=needs_torch)


@pytest.fixture(params=list(cases()))
def case(request: pytest.FixtureRequest, numpy_backend: Any) -> Any:
    """Every backend that has kernels."""
    if request.param == "emulated":
        backend = request.getfixturevalue("emulated").select("")
    elif request.param == "recorded":
        backend = request.getfixturevalue("recorded")
    else:
        backend = get_backend(request.param)
    return replace(numpy_backend, backend=backend)


def kernel_of(case: Any, loss: str, operation: str) -> Any:
    kernel = case.backend.kernels.get((LOSSES[loss], operation))
    if kernel is None:
        pytest.skip(f"{case.backend.name} leaves {operation} of {loss} to the reference")
    return kernel


@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_grad(case: Any, loss: str, dtype: str) -> None:
    kernel = kernel_of(case, loss, "value_and_grad")
    rng = np.random.default_rng(0)
    rtol = 1e-12 if dtype == "float64" else 1e-5
    reference = LOSSES[loss]()
    for n, m, k in ((1, 1, 2), (40, 1, 10), (40, 3, 4), (5, 2, 300), (2, 1, 1500), (1, 1, 100_000)):
        for scale in (1e-3, 1.0, 1e4):
            Z = case.asarray(scale * rng.standard_normal((n, m, k)), dtype)
            for integer in ("int32", "int64"):
                y = case.asarray(rng.integers(0, k, 2 * n), integer)[::2]  # as of a sample of rows
                before = case.to_numpy(Z).copy()
                ours = kernel(reference, Z, y, xp=case.xp)
                np.testing.assert_array_equal(case.to_numpy(Z), before)
                for a, b in zip(ours, reference.value_and_grad(Z, y), strict=True):
                    assert (a.shape, a.dtype) == (b.shape, b.dtype)
                    assert device(a) == device(b)
                    np.testing.assert_allclose(
                        case.to_numpy(a), case.to_numpy(b), rtol=rtol, atol=rtol * max(1.0, scale)
                    )


@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_grad_of_labels_per_model(case: Any, loss: str) -> None:
    kernel = kernel_of(case, loss, "value_and_grad")
    rng = np.random.default_rng(0)
    for n, m, k in ((40, 3, 4), (5, 2, 300), (2, 2, 1500)):
        Z, codes = case.asarray(rng.standard_normal((n, m, k))), rng.integers(0, k, (n, m))
        for y in (codes, codes[:, :1]):
            ours = kernel(LOSSES[loss](), Z, case.asarray(y), xp=case.xp)
            for j in range(m):
                alone = LOSSES[loss]().value_and_grad(
                    Z[:, j, :], case.asarray(y[:, j % y.shape[1]])
                )
                for a, b in zip(ours, alone, strict=True):
                    one = case.to_numpy(a)[:, j, ...]
                    np.testing.assert_allclose(one, case.to_numpy(b), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value")  # of NumPy, at the NaN
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_grad_of_nan_ties_and_kinks(case: Any, loss: str) -> None:
    kernel = kernel_of(case, loss, "value_and_grad")
    Z = np.zeros((4, 1, 3))
    Z[1, 0, :] = 1.0, 2.0, 2.0
    Z[2, 0, 1] = np.nan
    Z[3, 0, :] = 1.0, 0.0, 0.0  # at the margin of class 0
    Z, y = case.asarray(Z), case.asarray(np.asarray([0, 1, 0, 0]))
    reference = LOSSES[loss]()
    expected = reference.value_and_grad(Z, y)
    for a, b in zip(kernel(reference, Z, y, xp=case.xp), expected, strict=True):
        np.testing.assert_allclose(case.to_numpy(a), case.to_numpy(b), rtol=1e-14)


def after_epochs(
    case: Any,
    solver: SGD,
    *,
    loss: str = "softmax",
    penalty: str = "l2",
    strided: bool = False,
    standard: Standard | None = None,
    **problem: Any,
) -> list[Any]:
    """Return what two epochs end with, by the kernel and by the reference."""
    result = []
    for backend in (case.backend, case.backend.reference()):
        one = replace(case, backend=backend)
        F = one.objective(backend.accelerated(LOSSES[loss]()), PENALTIES[penalty](), **problem)
        if strided:
            X = one.asarray(problem["X"].repeat(2, 0).repeat(3, 1), problem["dtype"])
            F = replace(F, data=replace(F.data, X=X[::2, ::3]))
        if standard:
            own = type(standard)(*map(one.asarray, standard))
            F = replace(F, data=F.data.with_standard(own))
        state = solver.init(F, one.params(F))
        for _ in range(2):
            state = solver.step(F, state)
        ends = state.params, *state.walk
        result.append([state.report.loss, *(array for end in ends for array in end)])
    return result


def rows(n: int = 37, p: int = 5, k: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n, p)) + 3.0 * rng.standard_normal(p)
    return {"X": X, "y": rng.integers(0, k, n).astype(np.int32), "k": k, "alpha": (0.01, 0.1)}


SMALL = SGD(max_iter=2, batch_size=16)
PRODUCTS = replace(SMALL, batch_size=150)
weights = np.random.default_rng(2).uniform(0.5, 2.0, (37, 3)).round(1)
labels = np.random.default_rng(3).integers(0, 3, (37, 3))
centre, scale = np.random.default_rng(4).uniform(0.0, 2.0, (2, 5, 2)).round(1)
one_against_the_rest = {"y": np.arange(37) % 5, "positives": [3, 0]}
many_labels = {"y": np.tile(labels, (5, 1))[:170], "targets": [2, 0]}
SGD_CASES: dict[str, tuple[SGD, dict[str, Any]]] = {
    "plain": (SMALL, rows()),
    "two classes": (SMALL, rows(k=2)),
    "many features": (SMALL, rows(p=200)),
    "more rows than a tile": (replace(SMALL, batch_size=100), rows(n=150)),
    "a batch of all rows": (replace(SMALL, batch_size=64), rows()),
    "one row at a time": (replace(SMALL, batch_size=1), rows(n=9)),
    "more models than run at once": (SMALL, rows(p=200) | {"alpha": np.geomspace(1e-3, 1, 7)}),
    "nesterov, averaged": (replace(SMALL, nesterov=True, average=True), rows()),
    "no momentum": (replace(SMALL, momentum=0.0), rows()),
    "a given rate": (replace(SMALL, learning_rate=0.01), rows()),
    "no intercept": (SMALL, rows() | {"fit_intercept": False}),
    "common weights": (SMALL, rows() | {"s": weights[:, :1]}),
    "weights per model": (SMALL, rows() | {"s": weights[:, :2]}),
    "weights per fold": (SMALL, rows() | {"s": weights, "models": [2, 0]}),
    "labels per model": (SMALL, rows() | {"y": labels[:, :2]}),
    "labels per target": (SMALL, rows() | {"y": labels, "targets": [2, 0]}),
    "one against the rest": (SMALL, rows() | one_against_the_rest),
    "one of the rest, in one column": (SMALL, rows(k=2) | one_against_the_rest),
    "a column of labels": (SMALL, rows() | {"y": labels[:, :1]}),
    "strided": (SMALL, rows() | {"strided": True}),
    "columns first": (SMALL, rows() | {"X": np.asfortranarray(rows()["X"])}),
    "bytes": (SMALL, rows() | {"X": np.arange(185).reshape(37, 5) % 7, "stored": "uint8"}),
    "half precision": (SMALL, rows() | {"stored": "float16"}),
    "standardized": (SMALL, rows() | {"standard": Standard(centre[:, 0], scale[:, 0])}),
    "standardized per model": (SMALL, rows() | {"standard": Standard(centre, scale)}),
    "products": (PRODUCTS, rows(n=170)),
    "products, standardized": (
        PRODUCTS,
        rows(n=170) | {"standard": Standard(centre[:, 0], scale[:, 0])},
    ),
    "products, two classes": (PRODUCTS, rows(n=170, k=2)),
    "products, many classes": (PRODUCTS, rows(n=170, k=40)),
    "products, labels per target": (PRODUCTS, rows(n=170) | many_labels),
    "products, one against the rest": (
        PRODUCTS,
        rows(n=170, k=2) | {"y": np.arange(170) % 5, "positives": [3, 0]},
    ),
    "products, averaged": (replace(PRODUCTS, average=True), rows(n=170)),
}


def compare(case: Any, pair: list[Any], tolerance: float) -> None:
    for ours, reference in zip(*pair, strict=True):
        assert (ours.shape, ours.dtype) == (reference.shape, reference.dtype)
        expected = case.to_numpy(reference)
        atol = tolerance * np.max(np.abs(expected), initial=1.0)
        np.testing.assert_allclose(case.to_numpy(ours), expected, rtol=tolerance, atol=atol)


# Ways in which CuPy folds an epoch, whatever it thinks of their cost.
WAYS: dict[str, dict[str, Any]] = {
    "alone": {"_clusters": lambda: (1,), "_PRODUCTS_CYCLES": math.inf},
    "clusters": {"_clusters": lambda: (4,), "_PRODUCTS_CYCLES": math.inf},
    "global memory": {"_clusters": tuple, "_CHUNKS": (1,), "_PRODUCTS_CYCLES": math.inf},
    "products": {"_PRODUCTS_CYCLES": -math.inf},
}


@pytest.fixture
def fold_by(
    request: pytest.FixtureRequest, case: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Let CuPy fold all epochs in one of the ways."""

    def fold(way: str) -> None:
        if case.backend.name != "cupy":
            return
        emulated = request.node.callspec.params.get("case", "emulated") == "emulated"
        module = (
            request.getfixturevalue("emulated")
            if emulated
            else importlib.import_module("xplinear.backends.cupy")
        )
        if way == "clusters" and 4 not in module._clusters():
            pytest.skip("this GPU has no clusters")
        for name, value in WAYS[way].items():
            monkeypatch.setattr(module, name, value)

    return fold


def way_of(name: str) -> str:
    return "products" if name.startswith("products") else "alone"


@pytest.mark.parametrize("name", SGD_CASES)
def test_sgd(case: Any, fold_by: Callable[[str], None], name: str, dtype: str) -> None:
    kernel_of(case, "softmax", "sgd")
    fold_by(way_of(name))
    solver, problem = SGD_CASES[name]
    pair = after_epochs(case, solver, dtype=dtype, **problem)
    compare(case, pair, 1e-10 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize("way", ["clusters", "global memory"])
@pytest.mark.parametrize(
    "name",
    [
        *("two classes", "many features", "more rows than a tile", "one row at a time", "strided"),
        *("more models than run at once", "nesterov, averaged", "weights per fold"),
        *("labels per target", "one against the rest", "bytes", "standardized per model"),
    ],
)
def test_sgd_by_blocks_that_share_a_model(
    case: Any, fold_by: Callable[[str], None], name: str, way: str
) -> None:
    kernel_of(case, "softmax", "sgd")
    if case.backend.name != "cupy":
        pytest.skip("has no blocks")
    fold_by(way)
    solver, problem = SGD_CASES[name]
    compare(case, after_epochs(case, solver, dtype="float64", **problem), 1e-10)


@pytest.mark.parametrize("way", ["clusters", "products"])
def test_sgd_of_rows_that_only_their_standard_brings_near(
    case: Any, fold_by: Callable[[str], None], way: str
) -> None:
    kernel_of(case, "softmax", "sgd")
    fold_by(way)
    problem = rows(n=170) | {"dtype": "float32", "stored": "float64"}
    far = 1e9 * np.arange(1.0, 6.0)
    problem["X"] = problem["X"] + far
    pair = after_epochs(
        case, replace(SMALL, batch_size=100), standard=FarStandard(far, scale[:, 0]), **problem
    )
    compare(case, pair, 1e-3)


@pytest.mark.parametrize("batch_size", [16, 150])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("loss", LOSSES)
def test_sgd_of_every_objective(
    case: Any, fold_by: Callable[[str], None], loss: str, penalty: str, batch_size: int
) -> None:
    kernel_of(case, loss, "sgd")
    fold_by("alone" if batch_size == 16 else "products")
    solver = replace(SMALL, batch_size=batch_size)
    compare(case, after_epochs(case, solver, loss=loss, penalty=penalty, **rows(n=160)), 1e-9)


@pytest.mark.parametrize("batch_size", [16, 150])
@pytest.mark.parametrize("loss", LOSSES)
def test_sgd_of_labels_per_model(
    case: Any, fold_by: Callable[[str], None], loss: str, batch_size: int
) -> None:
    kernel_of(case, loss, "sgd")
    fold_by("alone" if batch_size == 16 else "products")
    solver, problem = replace(SMALL, batch_size=batch_size), rows(n=170) | many_labels
    compare(case, after_epochs(case, solver, loss=loss, **problem), 1e-9)


def standard(p: int = 5, m: int = 0, *, kind: type = Standard, dtype: str = "float32") -> Any:
    centre, scale = np.random.default_rng(4).uniform(0.5, 2.0, (2, p, m or 1)).astype(dtype)
    return kind(*(a if m else a[:, 0] for a in (centre, scale)))


def after_a_pass(case: Any, loss: str, **problem: Any) -> list[Any]:
    """Return what a full pass sums up, by the kernels and by the reference."""
    problem = {"dtype": "float32"} | problem
    given, strided = problem.pop("standard", None), problem.pop("strided", None)
    result = []
    for backend in (case.backend, case.backend.reference()):
        one = replace(case, backend=backend)
        F = one.objective(backend.accelerated(LOSSES[loss]()), L2Penalty(), **problem)
        if given is not None:
            F = replace(F, data=F.data.with_standard(type(given)(*map(backend.asarray, given))))
        if strided:
            X = one.asarray(problem["X"].repeat(2, 0).repeat(strided, 1), problem["dtype"])
            X = X[::2, ::3] if strided == 3 else X[::2, : F.data.p]
            F = replace(F, data=replace(F.data, X=X))
        value, grads = F.data_loss_and_grad(one.params(F))
        result.append([value, *grads])
    return result


def small(n: int, p: int, k: int, other: float = 1.0) -> dict[str, Any]:
    """Return rows of 0 and 1, and here and there another value."""
    rng = np.random.default_rng(1)
    X = rng.integers(0, 2, (n, p)).astype(type(other))
    X[::7, ::97] = other
    return {"X": X, "y": rng.integers(0, k, n).astype(np.int32), "k": k}


TWO = {"alpha": (0.01, 0.1)}
# Problems of which the kernel of one read makes everything, of six columns,
ONE_READ: dict[str, dict[str, Any]] = {
    "plain": rows(),
    "one row": rows(n=1),
    "more rows": rows(n=400),
    "more tiles than blocks": rows(n=250, p=133),
    "one feature": rows(p=1),
    "common weights": rows() | {"s": weights[:, :1]},
    "weights per fold": rows() | {"s": weights, "models": [2, 0]},
    "labels per model": rows() | {"y": labels[:, :2]},
    "labels per target": rows() | {"y": labels, "targets": [2, 0], "s": weights[:, :2]},
    "one against the rest": rows() | one_against_the_rest,
    "standardized": rows() | {"standard": standard()},
    "standardized per model": rows() | {"standard": standard(m=2), "s": weights[:, :2]},
    "far from 0": rows() | {"standard": standard(kind=FarStandard)},
    "a standard in float64": rows() | {"standard": standard(dtype="float64")},
    "strided rows": rows() | {"strided": 1},
    # and of other numbers of columns.
    "bytes": small(40, 607, 10, 200) | {"stored": "uint8"},
    "signed bytes": small(40, 100, 2, -100) | {"stored": "int8", "alpha": (0.1,)},
    "half precision": small(40, 30, 2, -0.1) | {"stored": "float16"} | TWO,
    "two bytes": small(40, 31, 3, -500) | {"stored": "int16"},
    "truth values": small(40, 20, 16) | {"stored": "bool"},
    "double precision": small(40, 132, 2) | {"dtype": "float64", "alpha": np.ones(5)},
    "many features": small(20, 1100, 2, 200) | {"stored": "uint8"} | TWO,
}
IN_PRODUCTS: dict[str, dict[str, Any]] = {
    "strided columns": rows() | {"strided": 3},
    "many classes": rows(n=150, k=40) | {"s": np.tile(weights, (5, 1))[:150, :1]},
    "two classes of many models": rows(k=2) | {"alpha": np.ones(17)},
    "one against the rest": rows(k=2)
    | {"alpha": np.ones(17), "y": np.arange(37) % 20, "positives": np.arange(17)},
    "standardized": rows(k=40) | {"standard": standard(m=2), "s": weights, "models": [2, 0]},
    "bytes": small(40, 20, 30, 200) | {"stored": "uint8"},
    "far more features": small(3, 3000, 3),
    "double precision": rows(k=40) | {"dtype": "float64"},
}


@pytest.fixture
def few_blocks(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small GPU in the emulation: a block has many tiles."""
    monkeypatch.setitem(emulated.cupy.cuda.Device.attributes, "MultiProcessorCount", 1)
    emulated._tiles.cache_clear()
    yield
    emulated._tiles.cache_clear()


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("name", [*ONE_READ, *(f"products, {name}" for name in IN_PRODUCTS)])
def test_loss_and_grad(case: Any, name: str) -> None:
    kernel_of(case, "softmax", "loss_and_grad")
    problem = ONE_READ.get(name) or IN_PRODUCTS[name.removeprefix("products, ")]
    tolerance = 1e-12 if problem.get("dtype") == "float64" else 1e-5
    compare(case, after_a_pass(case, "softmax", **problem), tolerance)


@pytest.mark.parametrize("name", ["plain", "labels per target", "products, many classes"])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_grad_of_every_loss(case: Any, loss: str, name: str) -> None:
    kernel_of(case, loss, "loss_and_grad")
    problem = ONE_READ.get(name) or IN_PRODUCTS[name.removeprefix("products, ")]
    compare(case, after_a_pass(case, loss, **problem), 1e-5)


class TestNumPy:
    """Rows are gathered by a thread; only models that each centre their own are left to `_fold`."""

    @pytest.fixture
    def case(self, numpy_backend: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(numpy_module, "_PIECE_BYTES", 1000)  # of which an epoch takes several
        return numpy_backend

    def epoch(
        self, case: Any, name: str, standard: Standard | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Compare an epoch by the kernel with one by the reference."""
        solver, problem = SGD_CASES[name]
        problem = {"dtype": "float64"} | problem
        problem.pop("strided", None)
        standard = problem.pop("standard", standard)
        F = case.objective(SoftmaxLoss(), L2Penalty(), **problem)
        F = replace(F, data=F.data.with_standard(standard))
        plain = replace(F, data=replace(F.data, backend=case.backend.reference()))
        state = solver.init(F, case.params(F))
        expected = [*solver.step(plain, state).walk.current]
        before = [a.copy() for walk in state.walk for a in walk]
        monkeypatch.delattr(numpy_module, "_fold")
        if max(a.size for a in (state.metric.centre, *(standard or ()))) > F.data.p:
            with pytest.raises(NameError, match="_fold"):
                solver.step(F, state)
        else:
            compare(case, [[*solver.step(F, state).walk.current], expected], 1e-10)
        for a, b in zip(before, (a for walk in state.walk for a in walk), strict=True):
            np.testing.assert_array_equal(a, b)  # the state goes on to be as it was

    @pytest.mark.parametrize("name", SGD_CASES)
    def test_epochs_of_every_kind(
        self, case: Any, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        self.epoch(case, name, None, monkeypatch)

    @pytest.mark.parametrize("name", ["bytes", "products, two classes", "no intercept"])
    @pytest.mark.parametrize("kind", ["of all models", "of each model", "far"])
    def test_standardized_rows(
        self, case: Any, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
    ) -> None:
        rng = np.random.default_rng(4)
        own = Standard(3.0 * rng.standard_normal((5, 2)), rng.uniform(0.5, 2.0, (5, 2)))
        own.scale[1] = 0.0  # of a constant feature
        all_models = [a[:, 0] for a in own]
        standards = {"of all models": Standard(*all_models), "far": FarStandard(*all_models)}
        self.epoch(case, name, standards.get(kind, own), monkeypatch)

    def test_softmax_finds_its_namespace(self, case: Any) -> None:
        Z, y = np.random.default_rng(0).standard_normal((4, 2, 3)), np.arange(4) % 3
        softmax = SoftmaxLoss()
        found = case.backend.accelerated(softmax).value_and_grad(Z, y)
        for a, b in zip(found, softmax.value_and_grad(Z, y), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)

    @pytest.mark.parametrize("slowest", [*itertools.permutations(range(3))])
    def test_weights_of_any_layout(self, case: Any, slowest: tuple[int, int, int]) -> None:
        """A matrix of all models' weights must not be a copy: it would never move."""
        F = case.objective(SoftmaxLoss(), L2Penalty(), dtype="float64", **rows())
        plain = replace(F, data=replace(F.data, backend=case.backend.reference()))
        W, b = case.params(F)
        W = np.ascontiguousarray(W.transpose(slowest)).transpose(np.argsort(slowest))
        ends = [[*SMALL.step(of, SMALL.init(F, Params(W, b))).walk.current] for of in (F, plain)]
        compare(case, ends, 1e-10)

    def test_rows_that_only_their_standard_brings_near(self, case: Any) -> None:
        """In float64: float32 tells none of them apart, and cannot hold the others' units."""
        rng, far = np.random.default_rng(5), np.asarray([1e9, 1e60])
        z = rng.standard_normal((70, 2))
        s = FarStandard(far, np.asarray([1.0, 1e-50]))
        y = (z[:, 0] > z[:, 1]).astype(np.int32)
        solver, found = replace(SMALL, batch_size=16), []
        for X, standard in ((z / s.scale + far, s), (z, None)):
            F = case.objective(
                SoftmaxLoss(), L2Penalty(), X, y, k=2, dtype="float32", stored="float64"
            )
            F = replace(F, data=F.data.with_standard(standard))
            found.append([*solver.step(F, solver.init(F, F.zeros())).walk.current])
        compare(case, found, 1e-4)


@needs_compiler
class TestEmulated:
    """That the emulation shows what it is there to show."""

    @pytest.fixture
    def case(self, emulated: Any, numpy_backend: Any) -> Any:
        return replace(numpy_backend, backend=emulated.select(""))

    @pytest.mark.parametrize("name", SGD_CASES)
    def test_the_intended_kernels_run_and_nothing_is_read(
        self, case: Any, emulated: Any, fold_by: Callable[[str], None], name: str
    ) -> None:
        fold_by(way_of(name))
        solver, problem = SGD_CASES[name]
        problem = {key: part for key, part in problem.items() if key != "strided"}
        standard = problem.pop("standard", None)
        one = case.asarray([1.0])
        with pytest.raises(AssertionError, match="the host read a value"):
            float(case.xp.sum(one) + one[0])
        F = case.objective(case.backend.accelerated(SoftmaxLoss()), L2Penalty(), **problem)
        if standard:
            own = type(standard)(*map(case.asarray, standard))
            F = replace(F, data=F.data.with_standard(own))
        state = solver.init(F, F.zeros())
        with pytest.MonkeyPatch.context() as patch:
            patch.delattr(emulated, "fold_in_python")
            patch.delattr(
                emulated, "_in_one_kernel" if way_of(name) == "products" else "_by_products"
            )
            solver.step(F, state)

    @pytest.mark.parametrize("name", ONE_READ)
    def test_one_kernel_reads_the_rows(self, case: Any, emulated: Any, name: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.delattr(emulated, "_loss_launcher")
            patch.setattr(type(case.backend), "reference", lambda backend: backend)
            after_a_pass(case, "softmax", **ONE_READ[name])

    def test_weights_of_another_dtype_are_left_to_the_reference(self, case: Any) -> None:
        result = []
        for backend in (case.backend, case.backend.reference()):
            F = case.objective(SoftmaxLoss(), L2Penalty(), **rows(), dtype="float32")
            data = replace(F.data, s=case.asarray(weights[:, :1]), backend=backend)
            value, grads = replace(F, data=data).data_loss_and_grad(case.params(F))
            result.append([value, *grads])
        compare(case, result, 1e-6)  # losses are float32, and traced on one side

    def test_a_large_gpu_reads_more_features_once(self, case: Any, emulated: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            limits = emulated.cupy.cuda.Device.attributes
            patch.setitem(limits, "MaxSharedMemoryPerBlockOptin", 227 * 1024)
            patch.delattr(emulated, "_row_sum")
            emulated._tiles.cache_clear()
            try:
                for p, stored in ((783, "uint8"), (784, "float32"), (1024, "float32")):
                    problem = small(33, p, 10) | {"alpha": (0.1,), "stored": stored}
                    compare(case, after_a_pass(case, "softmax", **problem), 1e-5)
            finally:
                emulated._tiles.cache_clear()

    @pytest.mark.parametrize(
        "change",
        [
            {"penalty": "custom"},
            {"stored": "float16"},
            rows(k=1000) | {"s": weights, "models": [2, 0], "batch_size": 64},
        ],
        ids=[
            "a penalty of one's own",
            "a type the kernels do not know",
            "many classes, weights per fold",
        ],
    )
    def test_the_rest_is_left_to_the_reference(
        self, case: Any, emulated: Any, change: dict[str, Any]
    ) -> None:
        class OwnPenalty(L2Penalty):
            pass

        problem = rows() | {"dtype": "float32"} | change
        penalty = OwnPenalty() if problem.pop("penalty", None) else L2Penalty()
        solver = replace(SMALL, batch_size=problem.pop("batch_size", 16))
        F = case.objective(case.backend.accelerated(SoftmaxLoss()), penalty, **problem)
        calls = []
        with pytest.MonkeyPatch.context() as patch:
            patch.delitem(emulated._TYPES, "float16")
            fold = emulated.fold_in_python
            patch.setattr(
                emulated, "fold_in_python", lambda *a, **k: calls.append(1) or fold(*a, **k)
            )
            solver.step(F, solver.init(F, F.zeros()))
        assert calls == [1]

    @pytest.mark.parametrize(
        ("capability", "problem", "size", "expected"),
        [
            ("90", rows(p=784, k=10), 64, (8, 8, 100)),
            ("90", rows(p=64, k=10), 64, (8, 8, 12)),
            ("90", rows(p=1500, k=10), 37, (8, 8, 188)),
            ("90", rows(p=3000, k=10), 37, (47, 0, 64)),  # more than a cluster holds
            ("80", rows(p=784, k=10), 64, (13, 0, 64)),
            ("80", rows(p=64, k=10), 64, (1, 1, 68)),
        ],
    )
    def test_who_shares_a_model(
        self,
        case: Any,
        emulated: Any,
        monkeypatch: pytest.MonkeyPatch,
        capability: str,
        problem: dict[str, Any],
        size: int,
        expected: tuple[int, int, int],
    ) -> None:
        """Blocks of a group, of a cluster if they are one, and features of each, on 132 of them."""
        plans = []
        plan = emulated._plan

        def spy(*args: Any) -> Any:
            plans.append(plan(*args))
            return plans[-1]

        monkeypatch.setattr(emulated.cupy.cuda.Device, "compute_capability", capability)
        monkeypatch.setattr(emulated, "_limits", lambda device: (132, 227 * 1024))
        monkeypatch.setattr(emulated, "_plan", spy)
        monkeypatch.setattr(emulated, "_in_one_kernel", lambda rows, plan, carry, *rest: carry)
        F = case.objective(SoftmaxLoss(), L2Penalty(), **problem, dtype="float32")
        solver = replace(SMALL, batch_size=size, learning_rate=0.1)
        solver.step(F, solver.init(F, F.zeros()))
        (best,) = plans
        assert (best.members, best.cluster, best.width) == expected
        assert best.members * best.width > problem["X"].shape[1]

    @pytest.mark.parametrize("way", ["clusters", "global memory"])
    def test_an_epoch_that_does_not_fit_is_folded_otherwise(
        self,
        case: Any,
        emulated: Any,
        fold_by: Callable[[str], None],
        monkeypatch: pytest.MonkeyPatch,
        way: str,
    ) -> None:
        """A driver may refuse it; blocks that wait for others, which do not run, wait for ever."""
        fold_by(way)
        monkeypatch.setattr(emulated, "_PRODUCTS_CYCLES", 1e9)
        run, driver = emulated.cupy.RawKernel.run, emulated.driver
        names = []

        def refuse(kernel: Any, *args: Any, together: bool) -> None:
            names.append(kernel._name)
            if kernel._name == "sgd":
                raise driver.CUDADriverError
            run(kernel, *args, together=together)

        monkeypatch.setattr(emulated.cupy.RawKernel, "run", refuse)
        if way == "global memory":
            monkeypatch.setattr(
                driver, "occupancyMaxActiveBlocksPerMultiprocessor", lambda *args: 0
            )
        compare(case, after_epochs(case, SMALL, dtype="float64", **rows()), 1e-10)
        assert ("sgd" in names) == (way == "clusters")
        assert "update" in names

    def test_the_table_is_what_the_source_holds(self, case: Any, emulated: Any) -> None:
        structs = re.findall(r"struct (\w+) : Row", SOURCE.read_text(encoding="utf-8"))
        assert sorted(structs) == sorted(loss.__name__ for loss in emulated._LOSSES)
        assert {loss for loss, _ in case.backend.kernels} == set(emulated._LOSSES)

    @pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
    @pytest.mark.parametrize("own", ["subclass", "namesake"])
    def test_a_loss_of_ones_own_trains_by_the_reference(
        self, case: Any, monkeypatch: pytest.MonkeyPatch, own: str, solver: str
    ) -> None:
        """Registered or not, and whatever it is called: no kernel was written for it."""

        class Halved(SoftmaxLoss):
            def value_and_grad(self, Z: Any, y: Any, *, xp: Any = None) -> Any:
                value, G = SoftmaxLoss.value_and_grad(self, Z, y, xp=xp)
                return 0.5 * value, 0.5 * G

        if own == "namesake":
            Halved.__name__ = SoftmaxLoss.__name__
        monkeypatch.setitem(LOSSES, "halved", Halved)
        X, y = load_digits(return_X_y=True)
        settings = {"loss": "halved", "solver": solver, "max_iter": 3, "tol": 0.1}
        ours, numpy, softmax = (
            LinearClassifier(**settings | changes, random_state=0, backend=backend)
            .fit(X[:200], y[:200])
            .objective_
            for changes, backend in (
                ({}, case.backend),
                ({}, get_backend("numpy")),
                ({"loss": "softmax"}, get_backend("numpy")),
            )
        )
        np.testing.assert_allclose(ours, numpy, rtol=1e-8)
        assert abs(softmax - numpy) > 0.1 * numpy

    @pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
    def test_a_fit_is_that_of_numpy(self, case: Any, solver: str) -> None:
        X, y = load_digits(return_X_y=True)
        X, y = X[:300].astype(np.float32), y[:300].astype(str)
        ours, reference = (
            LinearClassifier(solver=solver, max_iter=5, random_state=0, tol=1e-1, backend=backend)
            .fit(X, y)
            .decision_function(X)
            for backend in (case.backend, get_backend("numpy"))
        )
        np.testing.assert_allclose(ours, reference, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(find_spec("cupy_backends") is None, reason="needs CuPy's compiler")
@pytest.mark.parametrize(
    "sizes", [(), ("-DPASS", "-DCOLUMNS=10", "-DGROUPS=1")], ids=["", "a pass"]
)
@pytest.mark.parametrize(
    ("loss", "dtype", "stored", "architecture"),
    [
        *((loss, "float", "float", "sm_90") for loss in LOSSES),
        *(("softmax", "float", "float", architecture) for architecture in ("sm_80", "sm_100")),
        ("softmax", "double", "unsigned char", "sm_90"),
        ("softmax", "float", "bfloat16", "sm_90"),
        ("softmax", "float", "float16", "sm_75"),
    ],
)
def test_the_kernels_compile(
    loss: str, dtype: str, stored: str, architecture: str, sizes: tuple[str, ...]
) -> None:
    from cupy_backends.cuda.libs import nvrtc

    source = SOURCE.read_text() + SOURCE.with_name("cupy_pass.cu").read_text()
    program = nvrtc.createProgram(source, "cupy.cu", (), ())
    types = {"DTYPE": dtype, "STORED": stored, "STANDARD": dtype, "LOSS": LOSSES[loss].__name__}
    types |= {"MEMBERS": "8" if int(architecture[3:]) >= 90 else "0", "CHUNKS": "4"}
    options = (f"--gpu-architecture={architecture}", "-std=c++17", *sizes)
    try:
        nvrtc.compileProgram(program, (*options, *(f"-D{a}={b}" for a, b in types.items())))
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    assert not nvrtc.getProgramLog(program).strip("\0")
    assert nvrtc.getCUBIN(program)
