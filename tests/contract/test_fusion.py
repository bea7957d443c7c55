"""Law 4 for what CuPy's ``compile`` makes of a function: few launches, the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from xplinear import LinearClassifier
from xplinear.backends import fusion
from xplinear.backends.base import written
from xplinear.backends.tracing import Traced
from xplinear.losses import LOSSES
from xplinear.minimize import minimize
from xplinear.penalties import PENALTIES
from xplinear.solvers import SOLVERS
from xplinear.solvers.protocol import declared

SOURCE = Path(fusion.__file__).with_suffix(".cu")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def both(emulated: Any) -> Callable[..., Any]:
    """Run a function of ``xp`` and arrays traced, twice, and plainly."""
    backend = emulated.select("")

    def run(function: Callable[..., Any], *arrays: Any, static: tuple[Any, ...] = ()) -> Any:
        moved = [backend.asarray(a) if isinstance(a, np.ndarray) else a for a in arrays]
        compiled = backend.compile(function, *static, backend.xp)
        first, again = compiled(*moved), compiled(*moved)
        assert function not in fusion.fallbacks, fusion.fallbacks
        return first, again, function(*static, backend.xp, *moved)

    return run


def assert_same(found: Any, expected: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    found, expected = (np.asarray(a).view(np.ndarray) for a in (found, expected))
    np.testing.assert_allclose(found, expected, rtol, atol)


# Operations on the values so far, by number; what does not fit the shapes is left out.
UNARY = (
    "negative",
    "abs",
    "sign",
    "floor",
    "isfinite",
    "T",
    "flip",
    "first",
    "alone",
    "eye",
    "like",
)
BINARY = ("add", "subtract", "multiply", "maximum", "minimum", "less", "equal", "where", "concat")
REDUCED = (
    "sum",
    "max",
    "min",
    "any",
    "all",
    "mean",
    "flat",
    "halves",
    "float64",
    "float32",
    "int32",
)


class Step(NamedTuple):
    name: str
    first: int
    second: int


def _applied(  # noqa: C901, PLR0911, PLR0912 - a table
    xp: Any, step: Step, a: Any, b: Any, original: Any
) -> Any:
    name, axis = step.name, step.second % max(a.ndim, 1)
    axes = (None if a.ndim == 0 else axis) if step.first % 3 else None
    truth = a.dtype == xp.bool
    if name in ("negative", "subtract", "sign", "abs", "floor") and truth:
        return ~a
    match name:
        case "T":
            return xp.permute_dims(a, tuple(range(a.ndim))[::-1])
        case "flip":
            return a[..., ::-1] if a.ndim else a
        case "first":
            return a[1:, ...] if a.ndim and a.shape[0] > 1 else a
        case "alone":
            return a[..., 0] if a.ndim else a[None]
        case "eye":
            return xp.eye(a.shape[-1], dtype=a.dtype) + a[..., None, :] if a.ndim in (1, 2) else a
        case "like":
            return xp.ones_like(a) + xp.arange(3, dtype=xp.int32)[(slice(None), *[None] * a.ndim)]
        case "where":
            return xp.where(original > 0, a, b)
        case "concat":
            fits = a.ndim == b.ndim > 0 and a.shape[1:] == b.shape[1:]
            return xp.concat([a, b]) if fits else a
        case "flat":
            return xp.reshape(a, (-1,))
        case "halves":
            return xp.reshape(a, (2, -1)) if a.size and a.size % 2 == 0 else a
        case "float64" | "float32" | "int32":
            return xp.astype(a, getattr(xp, name))
        case "sum" | "max" | "min" | "any" | "all" | "mean":
            keepdims = bool(step.first % 2)
            if name != "sum" and not a.size:
                return a
            if name == "mean" and a.dtype not in (xp.float32, xp.float64):
                return a
            return getattr(xp, name)(a, axis=axes, keepdims=keepdims)
        case "add" | "multiply" if a.dtype == original.dtype == xp.bool:
            return a | original
        case "multiply":
            return a * original
        case "negative" | "abs" | "sign" | "floor" | "isfinite":
            return getattr(xp, name)(a)
        case _:
            if a.dtype == b.dtype == xp.bool and name == "subtract":
                return a ^ b
            return getattr(xp, name)(a, b)


def expression(steps: tuple[Step, ...], xp: Any, *arrays: Any) -> Any:
    values = list(arrays)
    for step in steps:
        a, b = values[step.first % len(values)], values[step.second % len(values)]
        original = arrays[step.second % len(arrays)]
        try:
            np.broadcast_shapes(a.shape, b.shape, original.shape)
        except ValueError:
            b = original = a
        value = _applied(xp, step, a, b, original)
        if value.size < 5000 and value.ndim < 6:
            values.append(value)
    return tuple(values)


STEPS = st.lists(
    st.builds(
        Step, st.sampled_from(UNARY + BINARY + REDUCED), st.integers(0, 30), st.integers(0, 30)
    ),
    min_size=1,
    max_size=9,
)
DTYPES = st.sampled_from(["float64", "float32", "int32", "int64", "bool", "uint8", "int8"])
ROWS = st.sampled_from([3, 3, 3, 1, 0])
LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "repeated": lambda a: np.broadcast_to(a[..., :1], a.shape),
}


@settings(max_examples=80, deadline=None)
@given(
    steps=STEPS,
    dtypes=st.tuples(DTYPES, DTYPES, DTYPES),
    rows=ROWS,
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_random_expressions(both, steps, dtypes, rows, layout):
    """Of halves and small integers, so that sums are exact in any order."""
    shapes = (2, rows, 4), (rows, 1), (4,)
    arrays = [
        LAYOUTS[layout](
            (
                np.random.default_rng(i).integers(-2, 3, shape) / (2 if dtype[0] == "f" else 1)
            ).astype(dtype)
        )
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    ]
    with np.errstate(all="ignore"):
        first, again, expected = both(expression, *arrays, static=(tuple(steps),))
    for one in (first, again):
        for a, b in zip(one, expected, strict=True):
            # The mean is divided in its own precision: here in that of the sum.
            assert_same(a, b, rtol=1e-6 if "float32" in str(b.dtype) else 1e-14)


SPECIAL = np.asarray([0.0, -0.0, 1.0, -1.0, 0.5, 3.7, -2.2, 1e-30, 1e30, np.inf, -np.inf, np.nan])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_operation_on_special_values(both, dtype):
    unary = "sqrt", "exp", "log", "log1p", "log2", "expm1", "floor", "abs", "sign", "negative"
    unary += "isfinite", "isnan", "square"
    binary = "add", "subtract", "multiply", "divide", "pow", "maximum", "minimum", "equal"
    binary += "not_equal", "less", "less_equal", "greater", "greater_equal"

    def function(xp: Any, a: Any, tol: float) -> Any:
        columns = [getattr(xp, name)(a) for name in unary]
        tables = [getattr(xp, name)(a[:, None], a[None, :]) for name in binary]
        ends = [getattr(xp, name)(t, axis=1) for t in tables[:7] for name in ("max", "min")]
        more = a**2, a**0.5, 2.0**a, xp.clip(a, -1.0, tol), a <= tol, tol * a, a * 1e-3 + tol
        return *columns, *tables, *ends, *more, xp.any(a > 1e20), xp.all(xp.isfinite(a))

    first, again, expected = both(function, SPECIAL.astype(dtype), 0.3)
    for one in (first, again):
        for a, b in zip(one, expected, strict=True):
            assert_same(a, b, rtol=1e-15 if dtype == "float64" else 3e-7)
            if a.dtype == dtype:
                own = (np.nan_to_num(np.asarray(x).view(np.ndarray)) for x in (a, b))
                np.testing.assert_array_equal(*map(np.signbit, own))


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_long_sums_are_shared_by_blocks(both, dtype):
    def function(xp: Any, a: Any) -> Any:
        return xp.sum(a), xp.max(a, axis=0), xp.sum(a * a, axis=0), xp.min(a, axis=(0, 1))

    a = (10.0 * RNG.standard_normal((9001, 3))).astype(dtype)
    for one in (both(function, a)[0], both(function, np.asfortranarray(a))[1]):
        exact = a.astype(np.float64)
        expected = exact.sum(), a.max(axis=0), (exact**2).sum(axis=0), a.min()
        for found, right in zip(one, expected, strict=True):
            assert found.dtype == a.dtype
            np.testing.assert_allclose(
                np.asarray(found).view(np.ndarray),
                right,
                1e-6 if dtype == "float32" else 1e-12,
                1e-7,
            )


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_looked_up_and_multiplied(both, order):
    """Of values in memory, and of values that are computed first."""
    a, b = (np.asarray(RNG.standard_normal(s), order=order) for s in ((3, 4, 5), (3, 5, 2)))
    index = np.asarray([3, 0, 3, -1])

    def function(xp: Any, a: Any, b: Any, index: Any) -> Any:
        computed, order = xp.exp(a), xp.argsort(a, axis=2)
        least, most = xp.argmax(-a, axis=1), xp.argmin(-a, axis=1, keepdims=True)
        looked = xp.take(a, index, axis=1), xp.take(computed, index + 0, axis=2)[:, 1:, ::2]
        along = xp.take_along_axis(a, order, axis=2), xp.take_along_axis(a * a, order[:1, :, :2])
        few = xp.take_along_axis(b[:, :, 0], least, axis=1)
        holes = xp.where(a > 0.5, xp.nan, xp.floor(2.0 * a))  # and ties
        firsts = (
            most,
            *(getattr(xp, f)(holes, axis=i) for f in ("argmin", "argmax") for i in (0, 2)),
        )
        products = a @ b, (2.0 * a) @ b[0, ...], a[0, ...] @ b[0, :, 0], xp.vecdot(a, a)
        return (
            *looked,
            *along,
            few,
            *firsts,
            *products,
            xp.cumulative_sum(a[0, 0, :]),
            a @ xp.sqrt(b * b),
        )

    first, again, expected = both(function, a, b, index)
    for one in (first, again):
        for x, y in zip(one, expected, strict=True):
            assert_same(x, y, rtol=1e-13, atol=1e-14)


def test_numbers_may_change_and_shapes_make_another_plan(emulated):
    backend = emulated.select("")
    traced = []

    def function(xp: Any, a: Any, tol: float) -> Any:
        traced.append(1)
        return xp.sum(a * tol, axis=0), a

    compiled = backend.compile(function, backend.xp)
    for rows, tol in ((3, 1.0), (3, 2.0), (4, 2.0), (3, 0.5)):
        a = backend.asarray(np.ones((rows, 2)))
        found, same = compiled(a, tol)
        assert_same(found, np.asarray([rows * tol] * 2))
        assert same is a
    assert len(traced) == 2


def test_what_cannot_be_traced_is_left_to_the_library(emulated):
    backend = emulated.select("")

    def asks(xp: Any, a: Any) -> Any:
        return (
            a + 1.0
            if a.shape[0] > 2 and a.sum() is not None and not isinstance(a, Traced)
            else a[a > 0]
        )

    def half(xp: Any, a: Any) -> Any:
        return xp.astype(a, np.float16) + xp.astype(a, np.float16)

    a = backend.asarray(np.arange(3.0))
    for function, expected in ((asks, [1.0, 2.0, 3.0]), (half, [0.0, 2.0, 4.0])):
        for _ in range(2):
            found = backend.compile(function, backend.xp)(a)
            np.testing.assert_array_equal(np.asarray(found).view(np.ndarray), expected)
    assert fusion.fallbacks.pop(asks)


def test_sums_of_nothing(both):
    def function(xp: Any, a: Any) -> Any:
        return xp.sum(a), xp.sum(a, axis=0), xp.sum(a * a, axis=1, keepdims=True), a + 1.0

    for shape in (0, 3), (3, 0):
        for one in both(function, np.ones(shape))[:2]:
            for found, right in zip(one, function(np, np.ones(shape)), strict=True):
                assert_same(found, np.asarray(right))


def test_results_have_memory_of_their_own(emulated):
    """They may be written to; and what two of them, or two calls, have in common is made twice."""
    backend = emulated.select("")

    def function(xp: Any, a: Any) -> Any:
        b = xp.asarray([0.0, 0.0])  # made of no argument
        return xp.zeros(2), xp.zeros(2), a + 1.0, 1.0 + a, a + 1.0, xp.astype(a, a.dtype), b, b

    compiled, a = backend.compile(function, backend.xp), backend.asarray(np.zeros(2))
    for _ in range(3):
        results = compiled(a)
        for number, result in enumerate(results):
            result[...] = 10.0 + number
        for number, result in enumerate((*results, a)):
            expected = 10.0 + number if number < len(results) else 0.0
            np.testing.assert_array_equal(np.asarray(result).view(np.ndarray), expected)
    assert function not in fusion.fallbacks


def test_shapes_that_depend_on_values(emulated):
    """The first call records one shape: others are left to the library."""
    backend = emulated.select("")

    def positive(xp: Any, a: Any) -> Any:
        return a[a > 0.0], xp.sum(2.0 * a[a > 0.0])

    for a in np.asarray([[1.0, -2.0, 3.0], [1.0, 2.0, 3.0], [-1.0, -2.0, 3.0], [1.0, -2.0, 1.0]]):
        found, total = backend.compile(positive, backend.xp)(backend.asarray(a))
        assert_same(found, a[a > 0.0])
        assert_same(total, 2.0 * np.sum(a[a > 0.0], keepdims=True)[0, ...])
    assert fusion.fallbacks.pop(positive)


def test_numbers_of_python_stay_what_they_are(emulated):
    """Weak numbers would become strong, and results of float32 then float64."""
    backend, a = emulated.select(""), np.ones(2, np.float32)

    def numbers(xp: Any, a: Any, tol: float) -> Any:
        return a * tol, tol, tol / 2

    for _ in range(2):
        _, *found = backend.compile(numbers, backend.xp)(backend.asarray(a), 0.5)
        assert found == [0.5, 0.25]
        assert {type(number) for number in found} == {float}
    assert fusion.fallbacks.pop(numbers)


def test_what_static_arguments_may_be(both):
    """Equal ones of other types give other dtypes; those without a hash are no reason to stop."""

    def times(factor: Any, xp: Any, a: Any) -> Any:
        return (a * factor,)

    def second(numbers: list[float], xp: Any, a: Any) -> Any:
        return (a * numbers[1],)

    ones = np.ones(2, np.int32)
    for factor, dtype in (1, np.int32), (1.0, np.float64), (True, np.int32):
        for (found,) in both(times, ones, static=(factor,)):
            assert_same(found, ones.astype(dtype))
    for (found,) in both(second, ones, static=([1.0, 0.5],)):
        assert_same(found, 0.5 * ones)


def test_whole_numbers(both):
    """They come round where their dtype ends; functions of them are the library's."""

    def function(xp: Any, a: Any) -> Any:
        powers = a**2, a**3, a**2.0, (a * 0) ** 0.5
        return a + a, a * a, -a, abs(a), *powers, a / 3, xp.exp(a), xp.sqrt(a * 0), a + 1.5

    for dtype in (np.int8, np.int32, np.uint8):
        edges = np.iinfo(dtype)
        ends = np.asarray([edges.min, edges.max, 3, 5], dtype)
        with np.errstate(all="ignore"):
            first, again, expected = both(function, ends)
        for one in (first, again):
            for a, b in zip(one, expected, strict=True):
                assert_same(a, b, rtol=1e-15)


def three_stages(xp: Any, a: Any) -> Any:
    """Return columns less their means, in units of their largest entries."""
    a = a - xp.mean(a, axis=0)
    return a / xp.max(xp.abs(a), axis=0)


def test_a_launch_that_fails_holds_up_no_other(emulated, monkeypatch):
    """Blocks count those that came before: of a launch that failed, nobody has come."""
    backend, a = emulated.select(""), RNG.standard_normal((300, 4))
    compiled, run = backend.compile(three_stages, backend.xp), emulated.cupy.RawKernel.run
    expected = three_stages(np, a)
    launches = []

    def failing(self: Any, *args: Any, together: bool) -> None:
        launches.append(together)
        if len(launches) == 1:
            raise emulated.driver.CUDADriverError
        run(self, *args, together=together)

    assert_same(compiled(backend.asarray(a)), expected, 1e-12, 1e-15)
    monkeypatch.setattr(emulated.cupy.RawKernel, "run", failing)
    with pytest.raises(emulated.driver.CUDADriverError):
        compiled(backend.asarray(a))
    for _ in range(2):
        assert_same(compiled(backend.asarray(a)), expected, 1e-12, 1e-15)
    backend.compile(lambda xp, a: a + 1.0, backend.xp)(backend.asarray(a))
    assert launches == [True] * 3 + [False]  # one stage waits for nobody


def test_memory_that_runs_out_once_does_not_end_the_recording(emulated):
    backend, errors = emulated.select(""), [MemoryError]

    def function(xp: Any, a: Any) -> Any:
        if isinstance(a, Traced) and errors:
            raise errors.pop()
        traced.append(isinstance(a, Traced))
        return a + 1.0

    traced: list[bool] = []
    for _ in range(3):
        found = backend.compile(function, backend.xp)(backend.asarray(np.ones(2)))
        assert_same(found, np.full(2, 2.0))
    assert traced == [False, True]
    assert function not in fusion.fallbacks


def test_a_plan_run_by_several_threads(emulated):
    backend = emulated.select("")
    compiled = backend.compile(three_stages, backend.xp)
    arrays = [RNG.standard_normal((300, 4)) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for a, found in zip(arrays, pool.map(compiled, map(backend.asarray, arrays)), strict=True):
            assert_same(found, three_stages(np, a), 1e-12, 1e-15)


def refuses(solver: str, loss: str, penalty: str) -> bool:
    refuse = declared(SOLVERS[solver](), "refuses")
    return refuse(LOSSES[loss](), PENALTIES[penalty]()) is not None


def problems() -> Iterator[tuple[str, str, str]]:
    """Every solver, loss and penalty; and the one pair whose face is searched."""
    seen = set[str]()
    for solver, loss, penalty in product(SOLVERS, LOSSES, PENALTIES):
        case = {solver, loss, penalty}
        prox = solver == "proximal_lbfgs" and (loss, penalty) == ("softmax", "l1")
        if (prox or not case <= seen) and not refuses(solver, loss, penalty):
            seen |= case
            yield solver, loss, penalty


X, Y = load_digits(return_X_y=True)


def minimized(case: Any, backend: Any, solver: Any, loss: str, penalty: str, **more: Any) -> Any:
    rows = {"X": X[:60, 2:8] / 4.0, "y": Y[:60] % 3, "alpha": (0.01, 0.1)} | more
    loss = backend.accelerated(LOSSES[loss]())
    return minimize(
        replace(case, backend=backend).objective(loss, PENALTIES[penalty](), **rows), solver
    )


@pytest.mark.parametrize(("solver", "loss", "penalty"), list(problems()))
def test_a_traced_fit_is_the_plain_one(emulated, numpy_backend, solver, loss, penalty):
    backend, parts = emulated.select(""), (SOLVERS[solver](max_iter=2), loss, penalty)
    fusion.fallbacks.clear()
    found = minimized(numpy_backend, backend, *parts)
    assert not fusion.fallbacks  # none of the package's own functions
    plain = replace(backend, compile=backend.plain_compile)
    expected = minimized(numpy_backend, plain, *parts)
    for a, b in zip(found.params, expected.params, strict=True):
        free = penalty == "none"  # rounding moves all classes alike
        own = (x - free * np.mean(x, axis=-1, keepdims=True) for x in (a, b))
        assert_same(*own, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], 1e-10)


def test_a_traced_fit_in_float32(emulated, numpy_backend):
    backend, solver = emulated.select(""), SOLVERS["lbfgs"](max_iter=3)
    plain = replace(backend, compile=backend.plain_compile)
    found, expected = (
        minimized(numpy_backend, one, solver, "softmax", "l2", dtype="float32")
        for one in (backend, plain)
    )
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_ring_is_written_by_a_kernel(emulated, dtype):
    backend, rng = emulated.select(""), np.random.default_rng(0)
    ring = rng.standard_normal((3, 4, 300)).astype(dtype)
    rows, slot = rng.standard_normal((300, 3)).astype(dtype).T, np.asarray([2, 0, 3], np.int32)
    there = backend.asarray(ring)
    found = backend.write(there, backend.asarray(slot), backend.asarray(rows))
    assert np.shares_memory(found, there)
    np.testing.assert_array_equal(backend.to_host(found), written(ring, slot, rows))


def test_the_reference_is_the_plain_library(emulated):
    backend = emulated.select("")
    assert backend.reference().compile is backend.plain_compile
    assert backend.compile is not backend.plain_compile


@pytest.mark.parametrize(
    ("solver", "loss", "penalty", "most"),
    [
        ("gd", "softmax", "l2", 10),
        ("lbfgs", "softmax", "l2", 13),
        ("newton", "softmax", "l2", 15),
        ("proximal_lbfgs", "softmax", "l1", 40),
        ("sgd", "softmax", "l2", 10),
        ("smoothing", "multiclass_hinge", "l2", 30),
    ],
)
def test_launches_per_iteration(emulated, numpy_backend, solver, loss, penalty, most):
    backend, counts = emulated.select(""), emulated.cupy.counts
    launches = []
    for n in (4, 8):
        counts.launches = 0
        tol = {} if solver in ("sgd", "gd") else {"tol": 0.0}
        minimized(numpy_backend, backend, SOLVERS[solver](max_iter=n, **tol), loss, penalty)
        launches.append(counts.launches)
    assert (launches[1] - launches[0]) / 4 <= most


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "lbfgs"},
        {"solver": "newton"},
        {"penalty": "l1"},
        {"solver": "sgd"},
        {"loss": "multiclass_hinge", "solver": "smoothing"},
        {"loss": "multiclass_hinge", "solver": "interior_point"},
        {"solver": "sgd", "standardize": True},
    ],
)
def test_kernels_that_a_first_fit_compiles(emulated, settings):
    """The interpreter, the loss, the ring, SGD's own, and little else; predictions too."""
    counts = emulated.cupy.counts
    counts.kernels.clear()
    backend = emulated.select("")
    clf = LinearClassifier(**settings, max_iter=2, tol=0.1, random_state=0, backend=backend)
    clf.fit(X[:200, 2:8], Y[:200] % 3)
    assert len(counts.kernels) <= 5
    before = len(counts.kernels)
    clf.predict(X[:20, 2:8])
    if "loss" not in settings:
        clf.predict_proba(X[:20, 2:8])
    assert len(counts.kernels) == before


@pytest.mark.skipif(find_spec("cupy_backends") is None, reason="needs CuPy's compiler")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90", "sm_100"])
def test_the_kernel_compiles(emulated, architecture):
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(SOURCE.read_text(), "fusion.cu", (), ())
    options = f"--gpu-architecture={architecture}", *emulated.INTERPRETER_OPTIONS
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    assert nvrtc.getCUBIN(program)
