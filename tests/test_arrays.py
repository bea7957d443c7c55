"""Arrays of any library, dtype and byte order; labels of any type; settings of any library."""

from __future__ import annotations

import asyncio
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest

import xplinear as xl
from xplinear.backends import backend_of, chosen_backend, get_backend
from xplinear.estimator.labels import labels_on
from xplinear.estimator.validation import computation_dtype

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 3))
Y = np.argmax(X @ rng.standard_normal((3, 3)) + 0.3 * rng.standard_normal((60, 3)), axis=1)
CODES = xl.LinearClassifier().fit(X, Y).predict(X)
METHODS = ["decision_function", "predict_proba", "predict_log_proba"]
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
needs_jax = pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jax():
    return pytest.importorskip("jax")


def host(x):
    return backend_of(x).fetch(x)


LABELS = {
    "int64": np.asarray([-(2**40), 2**53 + 1, 2**62 + 1]),
    "int8": np.asarray([-100, 0, 100], np.int8),
    "uint16": np.asarray([0, 1, 2**16 - 1], np.uint16),
    "uint32": np.asarray([0, 1, 2**32 - 1], np.uint32),
    "uint64": np.asarray([0, 2**63 + 11, 2**64 - 1], np.uint64),
    "big-endian": np.asarray([3, 5, 2**40], ">i8"),
    "float64": np.asarray([0.0, 2.0**40 + 1.0, 2.0**53]),
    "float16": np.asarray([0, 1, 2], np.float16),
    "longdouble": np.asarray([0, 1, 2**52 + 1], np.longdouble),
    "strings": np.asarray(["a", "b", "ü"]),
    "big-endian strings": np.asarray(["a", "b", "ü"], ">U1"),
    "strings of any length": np.asarray(["a", "b", "long"], np.dtypes.StringDType()),
    "dates": np.asarray(["1969-01-01", "2020-01-01", "2021-01-01"], "datetime64[D]"),
    "objects": np.asarray([0, 2**63, 2**64 - 1], object),
}


class TestLabels:
    @pytest.mark.parametrize("name", LABELS)
    def test_each_comes_back_with_its_value(self, backend, name):
        labels = LABELS[name]
        rows = backend.asarray(X)
        clf = xl.LinearClassifier().fit(rows, labels[Y])
        assert type(clf.classes_) is np.ndarray
        assert clf.classes_.tolist() == labels.tolist()
        for model in (clf, clf.to(backend.backend), pickle.loads(pickle.dumps(clf))):
            predicted = model.predict(rows)
            assert host(predicted).tolist() == labels[CODES].tolist()
            assert type(predicted) in (type(rows), np.ndarray)
            assert model.score(rows, labels[Y]) == np.mean(CODES == Y)

    @needs_jax
    @pytest.mark.parametrize("name", LABELS)
    def test_without_float64(self, jax, name):
        labels = LABELS[name]
        with jax.enable_x64(False):
            rows = jax.numpy.asarray(X, np.float32)
            clf = xl.LinearClassifier(random_state=0).partial_fit(rows, labels[Y], labels)
            codes = host(clf.decision_function(rows)).argmax(axis=1)
            assert host(clf.predict(rows)).tolist() == labels[codes].tolist()
            small = xl.LinearClassifier(random_state=0).partial_fit(rows, Y, [0, 1, 2])
            assert isinstance(small.predict(rows), jax.Array)

    def test_predictions_are_in_the_library_of_the_rows(self, backend):
        rows = backend.asarray(X)
        for y in (Y, Y.astype(np.float32), Y > 0):
            clf = xl.LinearClassifier().partial_fit(rows, y, np.unique(y))
            predicted = clf.predict(rows)
            assert type(predicted) is type(rows)
            assert predicted.device == rows.device

    def test_classes_are_on_the_host_after_everything(self, backend, tmp_path):
        rows, y = backend.asarray(X), backend.asarray(Y)
        clf = xl.LinearClassifier().fit(rows, y)
        clf.save(tmp_path / "model")
        for model in (
            clf,
            clf.to("numpy"),
            clf.to(backend.backend),
            xl.load(tmp_path / "model"),
            xl.LinearClassifier.from_params(clf.params_, backend.asarray([0, 1, 2])),
            xl.LinearClassifier(max_iter=1).partial_fit(rows, y, backend.asarray([0, 1, 2])),
            xl.LinearClassifierCV([1.0, 0.1, 0.01], cv=2, backend="numpy").fit(rows, y),
        ):
            assert type(model.classes_) is np.ndarray
            np.testing.assert_array_equal(model.classes_, [0, 1, 2])

    def test_other_classes_in_a_later_call_are_refused(self, backend):
        rows, y = backend.asarray(X), backend.asarray(Y)
        clf = xl.LinearClassifier().partial_fit(rows, y, backend.asarray([2, 1, 0]))
        clf.partial_fit(rows, y, [0, 1, 2])
        with pytest.raises(ValueError, match=r"classes=\[0, 1\] differ from those of the first"):
            clf.partial_fit(rows, y, backend.asarray([0, 1]))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (
                [2**70, 0],
                "no dtype holds together, such as 1180591620717411303424",
            ),
            (
                [-1, 2**63 + 11],
                "no dtype holds together, such as 9223372036854775819",
            ),
            (
                [2**53 + 1, 1.0],
                "no dtype holds together, such as 9007199254740993",
            ),
            ([Decimal(1), Decimal(2)], "y holds labels of type Decimal; make them strings"),
            ([Fraction(1), Fraction(2)], "y holds labels of type Fraction; make them strings"),
            (list(Enum("Colour", "RED BLUE")), "y holds labels of type Colour; make them strings"),
            ([b"a", b"b"], "y holds labels of type bytes; make them strings"),
            ([1, "a"], "y mixes labels of type int, str; make them strings"),
            ([1j, 2.0], "y has dtype complex128"),
        ],
    )
    def test_what_no_array_holds_is_refused(self, labels, message):
        with pytest.raises(ValueError, match=message):
            xl.LinearClassifier().fit(X, [labels[int(i > 0)] for i in Y])

    def test_large_integers_in_a_list(self):
        labels = [2**63 + 11, 2**64 - 1]
        y = [labels[int(i > 0)] for i in Y]
        assert xl.LinearClassifier().fit(X, y).classes_.tolist() == labels

    def test_close_numbers_of_other_dtypes(self):
        close = np.asarray([2**53, 2**53 + 1])
        y, unsigned = close[(Y > 0) * 1], close.astype(np.uint64)[(Y > 0) * 1]
        clf = xl.LinearClassifier().partial_fit(X, y, classes=close).partial_fit(X, unsigned)
        right = np.asarray(clf.predict(X)) == y
        assert clf.score(X, unsigned) == right.mean()
        first = np.asarray(clf.predict(X)) == close[0]
        assert clf.score(X, np.full(60, 2.0**53)) == first.mean() < 1.0
        clf = xl.LinearClassifier().fit(X, (Y > 0) * 2.0**53)
        with pytest.raises(ValueError, match=r"not in classes: \[9007199254740993\]"):
            clf.partial_fit(X, np.full(60, 2**53 + 1))

    def test_missing_dates_are_missing(self):
        with pytest.raises(ValueError, match="labels are missing"):
            xl.LinearClassifier().fit(X, np.asarray(["2020-01-01", "NaT"], "M8[D]")[(Y > 0) * 1])

    def test_texts_keep_their_ends(self):
        labels = ["a", "a\0", "a "]
        clf = xl.LinearClassifier().fit(X, [labels[i] for i in Y])
        assert clf.classes_.tolist() == sorted(labels)
        expected = xl.LinearClassifier().fit(X, [sorted(labels).index(labels[i]) for i in Y])
        np.testing.assert_array_equal(clf.coef_, expected.coef_)

    def test_labels_on_a_backend(self, backend):
        there = labels_on(backend.backend, np.asarray([3, 5], np.uint16))
        assert type(there) is type(backend.asarray([3]))
        assert host(there).tolist() == [3, 5]
        assert labels_on(backend.backend, np.asarray(["no"])) is None


class TestClassWeights:
    def test_labels_are_told_by_value(self, backend):
        plain = xl.LinearClassifier(class_weight={0: 1.0, 1: 20.0, 2: 3.0}).fit(X, Y)
        keys = [[np.int64(0), np.uint8(1), np.float32(2)], [0.0, True, 2]]
        if backend.backend.name == "torch":
            keys.append([backend.asarray(i) for i in range(3)])
        for zero, one, two in keys:
            weights = {zero: backend.asarray(1.0), one: np.float32(20.0), two: 3}
            found = xl.LinearClassifier(class_weight=weights).fit(X, Y)
            np.testing.assert_array_equal(found.coef_, plain.coef_)

    def test_strings_of_numpy(self):
        y = np.asarray(["a", "b", "c"])[Y]
        plain = xl.LinearClassifier(class_weight={"b": 20.0}).fit(X, y)
        found = xl.LinearClassifier(class_weight={np.str_("b"): 20.0}).fit(X, y)
        np.testing.assert_array_equal(found.coef_, plain.coef_)

    @needs_torch
    def test_others_are_refused(self, torch):
        with pytest.raises(ValueError, match=r"class_weight names \[7\], which are not in y"):
            xl.LinearClassifier(class_weight={torch.tensor(7): 2.0}).fit(X, Y)
        with pytest.raises(ValueError, match="class_weight names a class twice"):
            xl.LinearClassifier(class_weight={torch.tensor(1): 2.0, 1: 3.0}).fit(X, Y)
        with pytest.raises(ValueError, match="class_weight: can only convert an array of size 1"):
            xl.LinearClassifier(class_weight={torch.tensor([0, 1]): 2.0}).fit(X, Y)

    def test_texts_are_no_weights(self):
        for dtype in (object, str):
            with pytest.raises(ValueError, match=r"sample_weight is of .*; weights must be real"):
                xl.LinearClassifier().fit(X, Y, np.full(60, "1", dtype))


class TestRows:
    @pytest.mark.parametrize("kind", [">f8", ">f4", ">i4", ">u2", "longdouble"])
    def test_any_byte_order(self, backend, kind):
        rows = (10.0 * (X + 4.0)).round().astype(kind)
        native = rows.astype(rows.dtype.newbyteorder("=") if kind != "longdouble" else np.float64)
        weights = np.arange(60.0)
        settings = {"backend": backend.backend, "solver": "newton"}
        plain = xl.LinearClassifier(**settings).fit(native, Y, weights)
        found = xl.LinearClassifier(**settings).fit(rows, Y.astype(">i8"), weights.astype(">f8"))
        assert found.coef_.dtype == plain.coef_.dtype
        np.testing.assert_array_equal(host(found.coef_), host(plain.coef_))
        np.testing.assert_array_equal(found.predict_proba(rows), plain.predict_proba(native))

    @needs_torch
    @pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
    @pytest.mark.parametrize("solver", ["newton", "sgd"])
    def test_unsigned_tensors(self, torch, kind, solver):
        rows = (10.0 * (X + 4.0)).round().astype(kind)
        clf = xl.LinearClassifier(solver=solver, random_state=0, max_iter=20)
        expected = clf.fit(rows, Y).predict_proba(rows)
        tensor = torch.from_numpy(rows)
        found = clf.fit(tensor, Y).predict_proba(tensor)
        np.testing.assert_allclose(host(found), expected, rtol=1e-4)

    @needs_torch
    def test_the_largest_integers_of_a_tensor(self, torch):
        there = get_backend("torch").asarray(np.asarray([1, 2**64 - 2**11], np.uint64))
        assert there.tolist() == [1.0, 2.0**64 - 2.0**11]

    @needs_jax
    def test_integers_beyond_32_bits_on_jax(self, jax):
        rows = (X * 2.0**40).astype(np.int64)
        expected = xl.LinearClassifier("squared_hinge", alpha=1.0).fit(rows, Y).predict(rows)
        with jax.enable_x64(False):
            clf = xl.LinearClassifier("squared_hinge", alpha=1.0, backend="jax").fit(rows, Y)
            assert np.mean(clf.predict(rows) == expected) > 0.95

    @pytest.mark.parametrize("kind", ["int64", "uint64"])
    def test_integers_that_float64_makes_one(self, backend, kind):
        rows = (2**62 + (X * 100).astype(np.int64)).astype(kind)
        with pytest.raises(ValueError, match="not tell apart: column 0 goes from"):
            xl.LinearClassifier(backend=backend.backend).fit(rows, Y)

    def test_beyond_float64(self):
        if np.finfo(np.longdouble).maxexp <= 1024:
            pytest.skip("longdouble is float64 here")
        clf = xl.LinearClassifier().fit(X, Y)
        wide = X.astype(np.longdouble)
        wide[7, 1] = np.longdouble("1e4000")
        for use in (
            clf.predict,
            lambda rows: clf.fit(rows, Y),
            lambda rows: clf.partial_fit(rows, Y),
        ):
            with pytest.raises(ValueError, match=r"float64 cannot hold: column 1 .* to 1e\+4000"):
                use(wide)

    @needs_jax
    @pytest.mark.parametrize("use", ["fit", "partial_fit", "predict"])
    def test_beyond_float32_names_the_column(self, jax, torch, use):
        rows = X.copy()
        rows[3, 2] = 1e200
        with jax.enable_x64(False):
            for plain, wide in ((X, rows), (torch.from_numpy(X), torch.from_numpy(rows))):
                clf = xl.LinearClassifier(backend="jax").fit(plain, Y)
                given = (wide,) if use == "predict" else (wide, Y)
                with pytest.raises(ValueError, match=r"float32 cannot hold.*: column 2 goes from"):
                    getattr(clf, use)(*given)

    @pytest.mark.parametrize(
        "name", ["bool", "int8", "int16", "int32", "int64", "uint8", "float32", "float64"]
    )
    def test_the_dtype_of_the_computation(self, backend, name):
        narrow = name in ("bool", "int8", "int16", "uint8", "float32")
        expected = backend.xp.float32 if narrow else backend.xp.float64
        for rows in (np.zeros((2, 2), name), backend.asarray(np.zeros((2, 2), name))):
            assert computation_dtype(rows, None, backend.backend) == expected


@needs_torch
class TestTensors:
    def kinds(self, torch):
        X32 = torch.from_numpy(X)
        yield X32.bfloat16()
        yield X32.half()
        yield X32.clone().requires_grad_()
        yield torch.nn.Parameter(X32.clone())
        yield torch._neg_view(-X32)
        yield torch.complex(X32, -X32).conj().imag
        yield torch.stack([X32, X32])[0].T.contiguous().T
        yield X32.expand(60, 3)

    def test_go_to_every_backend(self, torch, backend):
        strict = backend.backend.name.startswith("array_api_strict")
        for rows in self.kinds(torch):
            if strict and rows.dtype == torch.float16:
                continue  # it has none
            clf = xl.LinearClassifier(backend=backend.backend).fit(rows, Y)
            assert backend_of(clf.coef_).name == backend.backend.name
            found = clf.predict_proba(rows)
            assert isinstance(found, torch.Tensor)
            values = rows.detach().resolve_neg().to(torch.float64).numpy()
            expected = xl.LinearClassifier().fit(values, Y).predict_proba(values)
            np.testing.assert_allclose(host(found), expected, atol=2e-2)
            assert clf.score(rows, Y) > 0.8

    def test_of_a_class_of_ones_own(self, torch):
        kind = type("Own", (torch.Tensor,), {})
        rows, y, weights = (
            torch.as_tensor(a).as_subclass(kind) for a in (X, Y, np.arange(60.0) + 1.0)
        )
        clf = xl.LinearClassifier().fit(rows, y, weights)
        assert clf.backend_.name == "torch"
        expected = xl.LinearClassifier().fit(X, Y, np.arange(60.0) + 1.0)
        np.testing.assert_allclose(host(clf.coef_), expected.coef_, rtol=1e-6)
        assert clf.score(rows, y) == expected.score(X, Y)

    def test_what_is_no_tensor_is_no_x(self, torch):
        with pytest.raises(ValueError, match="X: Expected 2D array"):
            xl.LinearClassifier().fit(torch.nn.Linear(2, 2), Y)
        with pytest.raises(ValueError, match="X gives batches, which bring their own: leave it"):
            xl.LinearClassifier().fit(torch.utils.data.DataLoader(X), Y)

    def test_of_a_device_without_values_cannot_be_predicted(self, torch):
        clf = xl.LinearClassifier().fit(torch.from_numpy(X), Y)
        with pytest.raises(TypeError, match="X is on the device 'meta'"):
            clf.predict(torch.from_numpy(X).to("meta"))

    def test_in_lists_and_as_labels_and_weights(self, torch):
        expected = xl.LinearClassifier().fit(X, Y, np.arange(60.0)).coef_
        rows = list(torch.from_numpy(X).requires_grad_())
        y = list(torch.from_numpy(Y).double().requires_grad_())
        weights = list(torch.arange(60.0, requires_grad=True))
        found = xl.LinearClassifier().fit(rows, y, weights).coef_
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    @pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning")
    @pytest.mark.filterwarnings("ignore:.*quantiz.*")
    @pytest.mark.parametrize("place", ["X", "y", "sample_weight"])
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            ("x.to('meta')", "is on the device 'meta'"),
            ("x.to(torch.float8_e4m3fn)", "has dtype float8_e4m3fn; convert"),
            ("torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8)", "is quantized"),
            ("torch.nested.nested_tensor([x[:1], x[1:]])", "is a nested tensor"),
            ("x.to(torch.complex64)", "is complex"),
        ],
    )
    def test_without_values_are_refused(self, torch, make, message, place):
        given = {"X": torch.from_numpy(X), "y": torch.from_numpy(Y), "sample_weight": None}
        x = torch.ones(60) if place == "sample_weight" else given[place]
        given[place] = eval(make, {"torch": torch, "x": x})
        with pytest.raises((TypeError, ValueError), match=f"{place} {message}"):
            xl.LinearClassifier().fit(**given)

    @pytest.mark.parametrize("place", ["y", "sample_weight"])
    def test_sparse_vectors_are_refused(self, torch, place):
        given = {"y": torch.from_numpy(Y), "sample_weight": torch.ones(60)}
        given[place] = given[place].to_sparse()
        with pytest.raises((TypeError, ValueError), match=f"{place} is a sparse tensor"):
            xl.LinearClassifier().fit(torch.from_numpy(X), **given)


@needs_jax
class TestJaxArrays:
    def test_go_to_every_backend(self, jax, backend):
        for kind in ("bfloat16", "int8"):
            rows = jax.numpy.asarray(10.0 * X, kind)
            if kind == "bfloat16" and backend.backend.name.startswith("array_api_strict"):
                continue
            clf = xl.LinearClassifier(backend=backend.backend).fit(rows, Y)
            assert isinstance(clf.predict(rows), jax.Array)
            assert clf.score(rows, jax.numpy.asarray(Y)) > 0.8

    def test_without_values_are_refused(self, jax):
        gone = jax.numpy.asarray(X) + 0.0
        gone.delete()
        for place in ("X", "y", "sample_weight"):
            given = {"X": X, "y": Y, "sample_weight": None} | {place: gone}
            with pytest.raises(TypeError, match=f"{place} was deleted, or donated"):
                xl.LinearClassifier().fit(**given)
        for dtype in ("int4", "float8_e4m3fn"):
            with pytest.raises(TypeError, match=f"X has dtype {dtype}; convert it to one of bool"):
                xl.LinearClassifier().fit(jax.numpy.asarray(X, dtype), Y)
            with pytest.raises(TypeError, match=f"X has dtype {dtype}; convert it to one of bool"):
                xl.LinearClassifier().fit(np.asarray(X).astype(jax.numpy.dtype(dtype)), Y)

    def test_a_fit_has_no_place_in_a_traced_function(self, jax):
        def fit(x, y):
            return xl.LinearClassifier().fit(x, y).coef_

        rows, y = jax.numpy.asarray(X), jax.numpy.asarray(Y)
        with pytest.raises(TypeError, match=r"X is traced by jax.jit"):
            jax.jit(lambda x: fit(x, Y))(rows)
        with pytest.raises(TypeError, match=r"y is traced by jax.jit"):
            jax.jit(lambda y: fit(X, y))(y)
        # Of what is known there it is no part.
        found = jax.jit(lambda: fit(rows, Y))()
        np.testing.assert_allclose(found, fit(rows, Y), rtol=1e-6)


def test_rows_of_another_library_than_the_fit_are_refused(backend):
    if backend.backend.name == "numpy":
        pytest.skip("NumPy is the other library")
    clf = xl.LinearClassifier(backend="numpy").fit(backend.asarray(X), Y)
    assert type(clf.predict(backend.asarray(X))) is type(backend.asarray(X))
    clf.predict(X)
    moved = clf.to(backend.backend)
    moved.predict(X)
    alone = xl.LinearClassifier().fit(backend.asarray(X), Y)
    with pytest.raises(ValueError, match=r"predict\(\) and fit must use the same namespace"):
        alone.predict(X)


def differences(function, x, step=1e-5):
    """Return the Jacobian of a function of host arrays by central differences."""
    columns = []
    for index in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[index] = step
        columns.append((function(x + e) - function(x - e)) / (2.0 * step))
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *x.shape)


@pytest.mark.parametrize("shift", [0.0, 20000.0])  # far from 0, predictions centre the features
@pytest.mark.parametrize("method", METHODS)
class TestAFunctionOfTheRows:
    def expected(self, method, shift):
        clf = xl.LinearClassifier().fit(X + shift, Y)
        function = getattr(clf, method)
        few = X[:2] + shift
        return function, few, differences(function, few)

    @needs_jax
    def test_on_jax(self, jax, method, shift):
        function, few, jacobian = self.expected(method, shift)
        clf = xl.LinearClassifier().fit(jax.numpy.asarray(X + shift), Y)
        there, rows = getattr(clf, method), jax.numpy.asarray(few)
        np.testing.assert_allclose(jax.jit(there)(rows), function(few), rtol=1e-6)
        np.testing.assert_allclose(jax.jacobian(there)(rows), jacobian, atol=1e-6)
        gradient = jax.jit(jax.grad(lambda x: there(x)[:, 1].sum()))(rows)
        np.testing.assert_allclose(gradient, jacobian[:, 1].sum(axis=0), atol=1e-6)
        each = jax.vmap(lambda x: there(x[None, :])[0])(rows)
        np.testing.assert_allclose(each, function(few), rtol=1e-6)
        with pytest.raises(ValueError, match=r"shape \(3,\): one sample is X\[None, :\]"):
            jax.vmap(there)(rows)

    @needs_torch
    def test_on_torch(self, torch, method, shift):
        function, few, jacobian = self.expected(method, shift)
        clf = xl.LinearClassifier().fit(torch.from_numpy(X + shift), Y)
        there, rows = getattr(clf, method), torch.from_numpy(few)
        leaf = rows.clone().requires_grad_()
        there(leaf)[:, 1].sum().backward()
        np.testing.assert_allclose(leaf.grad, jacobian[:, 1].sum(axis=0), atol=1e-6)
        np.testing.assert_allclose(torch.func.jacrev(there)(rows), jacobian, atol=1e-6)
        stacked = torch.func.vmap(there)(torch.stack([rows, rows]))
        np.testing.assert_allclose(stacked[1], function(few), rtol=1e-6)
        with torch.no_grad():
            assert not there(leaf).requires_grad
        with pytest.raises(ValueError, match=r"shape \(3,\): one sample is X\[None, :\]"):
            torch.func.vmap(there)(rows)


@needs_jax
def test_predictions_under_jit(jax):
    rows = jax.numpy.asarray(X)
    clf = xl.LinearClassifier().fit(rows, 10 * Y)
    np.testing.assert_array_equal(jax.jit(clf.predict)(rows), clf.predict(rows))
    named = xl.LinearClassifier().fit(rows, np.asarray(["a", "b", "c"])[Y])
    with pytest.raises(TypeError, match="predict cannot be traced: classes_ are <U1"):
        jax.jit(named.predict)(rows)
    with pytest.raises(TypeError, match="score cannot be traced"):
        jax.jit(lambda rows: clf.score(rows, 10 * Y))(rows)


@contextmanager
def changed(get, change, value):
    before = get()
    change(value)
    try:
        yield
    finally:
        change(before)


def torch_settings():
    import torch

    yield "autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    yield "no_grad", torch.no_grad
    yield "inference_mode", torch.inference_mode
    yield "meta", lambda: torch.device("meta")
    yield (
        "default dtype",
        lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    )
    yield (
        "deterministic",
        lambda: changed(
            torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
        ),
    )


@contextmanager
def strictest_jax():
    import jax

    with (
        jax.debug_nans(True),
        jax.debug_infs(True),
        jax.transfer_guard("disallow"),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.default_matmul_precision("bfloat16"),
    ):
        yield


FITS = {
    "newton": xl.LinearClassifier(),
    "sgd": xl.LinearClassifier(solver="sgd", max_iter=2, random_state=0),
    "l1": xl.LinearClassifier(penalty="l1", dtype="float32"),
    "cv": xl.LinearClassifierCV([1.0, 0.1, 0.01], cv=2, dtype="float32"),
}


def settings():
    found = [("numpy", "errstate", lambda: np.errstate(all="raise"), FITS)]
    if find_spec("torch") is not None:
        found += [("torch", setting, context, FITS) for setting, context in torch_settings()]
    if find_spec("jax") is not None:  # which takes its time to compile
        found.append(("jax", "strictest", strictest_jax, ["newton", "sgd"]))
    for name, setting, context, fits in found:
        for fit in fits:
            yield pytest.param(name, context, FITS[fit], id=f"{name}-{setting}-{fit}")


@pytest.mark.parametrize(("name", "context", "clf"), list(settings()))
def test_settings_of_a_library_change_nothing(name, context, clf):
    backend = get_backend(name)
    rows = backend.asarray(X, backend.xp.float32)

    def results(context):
        with context():
            clf.fit(rows, Y)
        params = host(clf.coef_)
        with context():
            found = [clf.decision_function(rows), clf.predict_proba(rows), clf.predict(rows)]
        return [params, *map(host, found)]

    for found, expected in zip(results(context), results(warnings.catch_warnings), strict=True):
        np.testing.assert_array_equal(found, expected)


@needs_torch
class TestGradientsStayOutside:
    def test_of_a_fit(self, torch):
        rows = torch.from_numpy(X).requires_grad_()
        for clf in (
            xl.LinearClassifier().fit(rows, Y),
            xl.LinearClassifier(solver="sgd", max_iter=2).fit(rows, Y),
            xl.LinearClassifier().partial_fit(rows, Y, [0, 1, 2]),
        ):
            assert not any(a.requires_grad for a in (*clf.params_, clf.coef_, clf.intercept_))

    def test_after_a_fit_in_inference_mode(self, torch):
        with torch.inference_mode():
            clf = xl.LinearClassifier().fit(torch.from_numpy(X), Y)
        leaf = torch.from_numpy(X).requires_grad_()
        clf.decision_function(leaf).sum().backward()
        assert leaf.grad is not None

    def test_an_objective_inside_autocast(self, torch, backend):
        if backend.backend.name != "torch":
            pytest.skip("autocast is torch's")
        F = backend.objective(
            xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty(), X, Y, dtype="float32"
        )
        params = backend.params(F)
        expected = F.value_and_grad(params)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, grad = F.value_and_grad(params)
            result = xl.minimize(F, xl.solvers.LBFGS(tol=1e-6))
        assert torch.equal(value, expected[0])
        assert torch.equal(grad.W, expected[1].W)
        assert torch.equal(result.params.W, xl.minimize(F, xl.solvers.LBFGS(tol=1e-6)).params.W)


class TestUseBackend:
    NAMES = "array_api_strict:device1", "array_api_strict:device2"

    @pytest.fixture(autouse=True)
    def strict(self):
        pytest.importorskip("array_api_strict")

    def chosen(self):
        found = chosen_backend(None)
        return found and found.name

    def test_threads_that_choose_nothing_follow_the_main_thread(self):
        one, two = self.NAMES

        def own():
            with xl.use_backend(two):
                return self.chosen()

        with ThreadPoolExecutor(2) as threads:
            assert threads.submit(self.chosen).result() is None
            with xl.use_backend(one):
                assert threads.submit(self.chosen).result() == one
                assert threads.submit(own).result() == two
                assert self.chosen() == one
                with xl.use_backend(two):
                    assert threads.submit(self.chosen).result() == two
                assert threads.submit(self.chosen).result() == one
            assert threads.submit(self.chosen).result() is None

    def test_joblib_threads(self):
        from joblib import Parallel, delayed

        with xl.use_backend(self.NAMES[0]):
            found = Parallel(2, backend="threading")(delayed(self.chosen)() for _ in range(4))
        assert found == [self.NAMES[0]] * 4

    def test_tasks_keep_their_own(self):
        async def task(name):
            with xl.use_backend(name):
                await asyncio.sleep(0)
                return self.chosen()

        async def both():
            return await asyncio.gather(*map(task, self.NAMES))

        assert asyncio.run(both()) == list(self.NAMES)
        assert self.chosen() is None

    def test_none_takes_it_back(self, monkeypatch):
        first = xl.use_backend(self.NAMES[0])
        second = xl.use_backend(None)
        try:
            assert self.chosen() is None
            monkeypatch.setenv("XPLINEAR_BACKEND", self.NAMES[1])
            assert self.chosen() == self.NAMES[1]
        finally:
            second.__exit__()
            first.__exit__()
            first.__exit__()

    def test_one_choice_for_several_blocks(self):
        one, two = self.NAMES
        choice = xl.use_backend(one)
        with choice, choice:
            assert self.chosen() == one
        assert self.chosen() is None
        with xl.use_backend(two):
            with choice:
                assert self.chosen() == one
            assert self.chosen() == two
        assert self.chosen() is None

    def test_the_variable_is_named(self, monkeypatch):
        monkeypatch.setenv("XPLINEAR_BACKEND", "torhc")
        with pytest.raises(ValueError, match="XPLINEAR_BACKEND: unknown backend 'torhc'"):
            self.chosen()
        monkeypatch.setenv("XPLINEAR_BACKEND", "numpy:7")
        with pytest.raises(xl.BackendError, match="XPLINEAR_BACKEND: backend 'numpy:7' cannot be"):
            self.chosen()

    def test_an_error_ends_the_block(self):
        with pytest.raises(ZeroDivisionError), xl.use_backend(self.NAMES[0]):
            raise ZeroDivisionError
        assert self.chosen() is None
        with pytest.raises(ValueError, match="unknown backend 'numppy'"):
            xl.use_backend("numppy")
        assert self.chosen() is None
