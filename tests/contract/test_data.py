"""What every source of rows and every kind of rows gives: what plain loops over NumPy arrays give.

`Plain` and `PlainRows` are that reference, and a source of a user's own: they offer the protocols,
and hold the features of each model, standardized, as an array of three axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import xplinear as xl
from xplinear.backends import BackendError, get_backend
from xplinear.backends.sparse import ScipyRows
from xplinear.data import ArrayData, Block, SparseData, Standard, StreamedData
from xplinear.data.blocks import joined, padded, shuffled
from xplinear.data.protocol import Batch
from xplinear.data.rows import DenseRows, FarStandard, SparseRows
from xplinear.estimator.predictions import block_scores
from xplinear.losses import SoftmaxLoss
from xplinear.penalties import L2Penalty
from xplinear.solvers.metric import feature_moments

N, P, K, M = 330, 4, 3, 3
PADDING = 20
rng = np.random.default_rng(0)
X = rng.integers(0, 9, (N, P)).astype(float)  # exact in bytes and in half precision
Y = np.argmax(X[:, :K] + 2 * rng.gumbel(size=(N, K)), axis=1).astype(np.int32)
S = rng.integers(0, 4, (N, 2)).astype(float)
FOLDS = [0, 1, 1]
OWN = rng.uniform(0.5, 2.0, (2, P, M))  # centre and scale, one per model
ALPHA = [0.1, 0.03, 0.01]


NUMPY = get_backend("numpy")


# --8<-- [start:plain]
class PlainRows:
    """Features ``(r, 1 or m, p)``."""

    def __init__(self, X: Any, mean: Any) -> None:
        self.X, self.mean, self.shape = X, mean, mean.shape

    def product(self, V):
        return self.mean @ V

    def transposed_product(self, U):
        return self.mean.T @ U

    def scores(self, W, b, *, xp=None):
        return np.stack([self._of(j) @ W[:, j] for j in range(W.shape[1])], axis=1) + b

    def gradient(self, G, *, xp=None):
        dW = [self._of(j).T @ G[:, j] for j in range(G.shape[1])]
        return np.stack(dW, axis=1), G.sum(axis=0)

    def squares(self, h, *, xp=None):
        each = [(self._of(j), h[:, j]) for j in range(h.shape[1])]
        return tuple(np.stack([(x**e).T @ own for x, own in each], axis=1) for e in (1, 2))

    def moments(self, s, shift, unit, *, xp=None):
        s = np.ones((len(self.X), 1)) if s is None else s
        z = np.where((s.max(axis=1) > 0)[:, None, None], (self.X - shift) * unit, 0.0)
        return tuple(np.sum(s[:, :, None] * a, axis=0).T for a in (z, z * z))

    def lengths(self, *, xp=None):
        return np.linalg.norm(self.X, axis=2)

    def ones(self, *, xp=None):
        return np.ones((len(self.X), 1))

    def take(self, index, *, xp=None):
        return PlainRows(self.X[index], self.mean[index])

    def astype(self, dtype, *, xp=None):
        return PlainRows(self.X.astype(dtype), self.mean.astype(dtype))

    def dense(self):
        (own,) = np.moveaxis(self.X, 1, 0)
        return own

    def common(self, *, xp=None):
        return self.mean

    def columns(self, index, *, xp=None):
        return self.dense()[:, index]

    def near(self, s, *, xp=None):
        s = np.ones(len(self.X)) if s is None else s.mean(axis=1)
        X = np.where(s[:, None] > 0, self.mean, 0.0)
        point = s @ X / s.sum()
        X = np.where(s[:, None] > 0, X - point, 0.0)
        return point, PlainRows(X[:, None, :], X)

    def reach(self, *, xp=None):
        return np.abs(self.mean).max(axis=0)

    def squared(self, *, xp=None):
        return PlainRows(self.X**2, self.mean**2)

    def gram(self, s, *, xp=None):
        return self.mean.T @ (self.mean if s is None else s * self.mean)

    def _of(self, j):
        return self.X[:, j % self.X.shape[1]]


@dataclass(frozen=True)
class Plain:
    """Rows whose passes go over all of them at once."""

    X: Any
    y: Any
    s: Any = None
    standard: Any = None
    backend: Any = NUMPY
    dtype: Any = np.float64
    sparse: bool = False

    @property
    def n(self):
        return len(self.X)

    @property
    def entries(self):
        return self.X.size

    @property
    def held(self):
        return len(self.X)

    @property
    def p(self):
        return self.X.shape[1]

    @property
    def weight_sum(self):
        return np.asarray([float(self.n)]) if self.s is None else self.s.sum(axis=0)

    def check_classes(self, k, m):
        assert self.y.max() < k
        assert self.y.ndim == 1 or self.y.shape[1] == m

    def as_held(self, weights):
        return np.asarray(weights)

    def with_weights(self, weights, models=None):
        return replace(self, s=weights if models is None else weights[:, models])

    def with_labels(self, labels, targets=None, positives=None):
        if positives is not None:
            return replace(self, y=(labels[:, None] == positives).astype(int))
        return replace(self, y=labels if targets is None else labels[:, targets])

    def with_standard(self, standard):
        return replace(self, standard=standard)

    def narrowed(self):
        return self

    def ordered(self):
        return self, None

    def take(self, models):
        s, standard, labels = self.s, self.standard, self.y
        labels = labels if labels.ndim == 1 else labels[:, models]
        s = s if s is None or s.shape[1] == 1 else s[:, models]
        if standard is not None and standard[0].ndim == 2:
            standard = tuple(a[:, models] for a in standard)
        return replace(self, s=s, standard=standard, y=labels)

    def _some(self, at):
        X, s = self.X[at], None if self.s is None else self.s[at]
        features, mean = X[:, None, :], X
        if self.standard is not None:
            centre, scale = (a.reshape(self.p, -1).T for a in self.standard)
            features = (features - centre) * scale
            mean = (X - centre.mean(axis=0)) * scale.mean(axis=0)
        return PlainRows(features, mean), self.y[at], s

    def map(self, function, static, *args, scores, each=()):
        yield function(*static, Block(*self._some(slice(None))), *each, *args)

    def reduce(self, function, static, *args, scores=0, kernel=None, each=()):
        return next(self.map(function, static, *args, scores=scores, each=each))

    def sample(self, rows):
        return Block(*self._some(slice(None, None, -(-self.n // rows))))

    def epoch(
        self, update, rule, carry, constants=None, *, batch_size, shuffle, schedule, fold=None
    ):
        order = shuffled(self.n, *shuffle)
        for i, factor in enumerate(schedule):
            at = order[i * batch_size : (i + 1) * batch_size]
            batch = Batch(*self._some(at), len(at))
            carry = update(rule, np, carry, batch, factor, constants)
        return carry


# --8<-- [end:plain]


def array(backend, own, stored="float64"):
    return ArrayData(
        backend.asarray(X, stored), backend.asarray(Y), dtype=own.xp.float64, backend=own
    )


def padded_array(backend, own):
    rows, labels = (padded(a, PADDING, backend=own) for a in (X, Y))
    return ArrayData(rows, labels, backend=own, padding=PADDING)


def stream(backend, own, there=X, **settings):
    return StreamedData(there, backend.asarray(Y), backend=own, **settings)


def padded_stream(backend, own):
    return StreamedData(X, padded(Y, PADDING, backend=own), backend=own, padding=PADDING)


def memory_map(backend, own, path):
    np.save(path / "X.npy", X)
    return stream(backend, own, np.load(path / "X.npy", mmap_mode="r"))


@dataclass(frozen=True)
class Slices:
    """Rows in chunks of 7, of which only runs can be had."""

    rows: Any
    chunk = 7

    @property
    def shape(self):
        return self.rows.shape

    @property
    def dtype(self):
        return self.rows.dtype

    def read(self, start, stop, into):
        assert 0 <= start < stop <= len(self.rows)
        into[...] = self.rows[start:stop]


def slices(backend, own, dtype=">f8"):
    return stream(backend, own, Slices(X.astype(dtype)), dtype=own.xp.float64)


def padded_slices(backend, own):
    return StreamedData(Slices(X), padded(Y, PADDING, backend=own), backend=own, padding=PADDING)


def some_rows(backend, own):
    order = rng.permutation(2 * N)[:N]
    there = np.full((2 * N, P), 1e30)
    there[order] = X
    return stream(backend, own, there, rows=order)


def sparse(backend, own, X=X, **settings):
    return SparseData(own.sparse(csr_array(X)), backend.asarray(Y), backend=own, **settings)


def full_sparse(backend, own):
    """All values are stored: far features are centred where they are."""
    columns, starts = np.tile(np.arange(P), N), np.arange(0, N * P + 1, P)
    return sparse(backend, own, csr_array((X.ravel(), columns, starts), shape=X.shape))


def sparse_stream(backend, own):
    """As the last, but the blocks go to the device in each pass."""
    there = full_sparse(backend, own)
    host = ScipyRows(csr_array(backend.to_numpy(there.X.to_dense())))
    return replace(there, X=host, cut=None)


SOURCES = {
    "array": array,
    "float32": lambda backend, own: array(backend, own, "float32"),
    "float16": lambda backend, own: array(backend, own, "float16"),
    "uint8": lambda backend, own: array(backend, own, "uint8"),
    "padded": padded_array,
    "stream": stream,
    "stream of bytes": lambda backend, own: stream(
        backend, own, X.astype(np.uint8), dtype=own.xp.float64
    ),
    "padded stream": padded_stream,
    "memory map": memory_map,
    "slices": slices,
    "slices of bytes": lambda backend, own: slices(backend, own, np.uint8),
    "padded slices": padded_slices,
    "some rows": some_rows,
    "sparse": sparse,
    "full sparse": full_sparse,
    "sparse stream": sparse_stream,
    "sparse bytes": lambda backend, own: sparse(
        backend, own, X.astype(np.uint8), dtype=own.xp.float64
    ),
}


PADDED = "padded", "padded stream", "padded slices"


@pytest.fixture(params=SOURCES)
def source(request, backend, tmp_path):
    """Rows in small blocks, in one of many ways."""
    name = request.param
    if backend.backend.compiles and name not in {"array", "uint8", *PADDED}:
        pytest.skip("compiled for what these have said already")
    if name == "float16" and not hasattr(backend.xp, name):
        pytest.skip("the library has no float16")
    added = PADDING if name in PADDED else 0
    own = replace(backend.with_blocks_of(1).backend, padding=lambda X, n: added)
    arguments = (tmp_path,) if name == "memory map" else ()
    try:
        return SOURCES[name](backend, own, *arguments)
    except BackendError:
        pytest.skip("the library has no products of sparse matrices")


SHARED, EACH = OWN[:, :, 0], OWN
LABELS, TARGETS, POSITIVES = np.stack([Y, 2 - Y], axis=1), [1, 0, 1], [2, 0, 1]
# Weights, the column that serves each model, the standard, and whose labels models have.
KINDS = [
    (None, None, None, None, "common"),
    (S[:, :1], None, Standard, SHARED, "common"),
    (S, FOLDS, Standard, EACH, "own"),
    (S, FOLDS, FarStandard, SHARED, "one against the rest"),
    (None, None, FarStandard, EACH, "own"),
    (None, None, None, None, "one against the rest"),
]


def kinds(backend, source):
    """Yield a source with weights and a standard, and the same in plain NumPy."""
    # Where each is compiled for seconds, the one that has everything must do.
    for s, folds, kind, both, whose in KINDS[2:4] if source.backend.compiles else KINDS:
        data, plain = source, Plain(X, Y)
        if whose == "one against the rest":
            data = source.with_labels(source.y, positives=backend.asarray(POSITIVES))
            plain = plain.with_labels(Y, positives=POSITIVES)
        elif whose == "own":
            added = padded(LABELS, source.held - N, backend=source.backend)
            data = source.with_labels(added, backend.asarray(TARGETS))
            plain = plain.with_labels(LABELS, TARGETS)
        plain = plain.with_weights(s, folds).with_standard(both)
        standard = None if kind is None else kind(*map(backend.asarray, both))
        weights = None if s is None else source.as_held(s)
        models = None if folds is None else backend.asarray(folds)
        yield data.with_weights(weights, models).with_standard(standard), plain


def objectives(backend, data, plain):
    return tuple(
        xl.Objective(SoftmaxLoss(), L2Penalty(), asarray(ALPHA), rows, k=K)
        for asarray, rows in ((backend.asarray, data), (np.asarray, plain))
    )


def assert_same(backend, found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(backend.to_numpy(a), b, rtol=1e-9, atol=1e-9)


def points(backend, F):
    """Return the same parameters twice, on the backend and on NumPy."""
    params = backend.params(F)
    return params, xl.Params(*map(backend.to_numpy, params))


def test_full_passes(backend, source):
    assert (source.n, source.p) == (N, P)
    for data, plain in kinds(backend, source):
        F, G = objectives(backend, data, plain)
        params, there = points(backend, F)
        assert_same(backend, [data.weight_sum], [plain.weight_sum])
        value, grads = F.value_and_grad(params)
        expected, slopes = G.value_and_grad(there)
        assert_same(backend, [value, *grads], [expected, *slopes])
        assert_same(backend, feature_moments(F)[:3], feature_moments(G)[:3])
        left = [2, 0]
        few = xl.Params(params.W[:, :2, :], params.b[:2, :])
        there = xl.Params(there.W[:, :2], there.b[:2])
        found, expected = F.take(backend.asarray(left)), G.take(np.asarray(left))
        assert_same(backend, [found.value(few)], [expected.value(there)])


def test_what_is_computed_of_each_row(backend, source):
    for data, plain in kinds(backend, source):
        F, _ = objectives(backend, data, plain)
        params, there = points(backend, F)
        parts = list(data.map(block_scores, (F.xp,), params, scores=M * K))
        assert len(parts) > 1
        Z = next(plain.map(block_scores, (np,), there, scores=M * K))
        assert_same(backend, [F.xp.concat(parts)], [Z])


def test_a_block_is_given_its_part_of_what_there_is_of_all_rows(backend, source):
    own = rng.standard_normal((N, M, 1))
    for data, plain in kinds(backend, source):
        found = data.reduce(_products, (backend.xp,), 2.0, each=(source.as_held(own),), scores=M)
        assert_same(backend, found, plain.reduce(_products, (np,), 2.0, each=(own,)))
        parts = data.map(_sums, (backend.xp,), 2.0, each=(source.as_held(own),), scores=M)
        assert_same(backend, [joined(list(parts), backend=source.backend)], [3.0 * own])


def _sums(xp, block, G, factor):
    return G + factor * G


def _products(xp, block, G, factor):
    return block.rows.gradient(factor * G, xp=xp)


def test_samples_are_rows_with_their_labels(backend, source):
    for data, plain in kinds(backend, source):
        expected = plain.sample(N).rows.common()
        for rows in (40, N):
            block = data.sample(rows)
            found = backend.to_numpy(block.rows.common(xp=backend.xp))
            labels = backend.to_numpy(block.y)
            counts = backend.to_numpy(block.weights(xp=backend.xp)).max(axis=1) > 0
            assert counts.sum() > 0.7 * rows
            near = np.abs(found[counts, None] - expected).max(axis=2) < 1e-9
            same = labels[counts][:, None] == plain.y
            same = same if same.ndim == 2 else same.all(axis=2)
            assert (near & same).any(axis=1).all()


def test_mini_batches(backend, source):
    settings = {"batch_size": 64, "shuffle": (3, 1), "schedule": [1.0, 2.0, 1.0, 1.0, 1.0, 3.0]}
    for data, plain in kinds(backend, source):
        zero = np.zeros((P, M, 1))
        found = data.epoch(_decayed, 0.7, backend.asarray(zero), **settings)
        assert_same(backend, [found], [plain.epoch(_decayed, 0.7, zero, **settings)])


def _decayed(rule, xp, carry, batch, factor, constants):
    """Fold the mean of the features, for each model, over the mini-batches."""
    assert constants is None
    s = batch.rows.ones(xp=xp) if batch.s is None else batch.s
    dW, _ = batch.rows.gradient(s[:, :, None] + xp.zeros_like(carry)[:1, :, :], xp=xp)
    return rule * carry + factor * dW / batch.count


def test_other_labels(backend, source):
    F, G = objectives(backend, source, Plain(X, Y))
    params, there = points(backend, F)
    other = replace(F, data=source.with_labels(2 - source.y))
    assert_same(backend, [other.value(params)], [replace(G, data=Plain(X, 2 - Y)).value(there)])
    with pytest.raises(ValueError, match="k must be the number of classes"):
        replace(F, data=source.with_labels(source.y + 1))


def test_a_source_of_ones_own_is_trained_on():
    """All that a solver asks for is in the protocol."""
    weights = (S[:, :1], None)
    expected = stream(NUMPY, NUMPY)
    own = Plain(X, Y).with_weights(*weights).with_standard(SHARED)
    ours = expected.with_weights(*weights).with_standard(Standard(*SHARED))
    for solver in (
        xl.solvers.LBFGS(tol=1e-8),
        xl.solvers.GD(max_iter=5),
        xl.solvers.SGD(max_iter=2),
        xl.solvers.Newton(tol=1e-8),
        xl.solvers.NewtonCG(tol=1e-8),
    ):
        found, there = (
            xl.minimize(
                xl.Objective(SoftmaxLoss(), L2Penalty(), np.asarray([0.1]), rows, k=K), solver
            )
            for rows in (own, ours)
        )
        np.testing.assert_allclose(found.params.W, there.params.W, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "solver", [xl.solvers.LBFGS(tol=1e-9), xl.solvers.NewtonCG(tol=1e-9), xl.solvers.GD(100, 1e-7)]
)
def test_models_that_standardize_each_for_itself(library, solver):
    """In a stack, as folds do on rows of their own: each is what it would be alone."""
    there = library.asarray(EACH)
    F = library.objective(SoftmaxLoss(), L2Penalty(), X, Y, alpha=[0.1] * M)
    found = xl.minimize(replace(F, data=F.data.with_standard(Standard(*there))), solver).params
    for j in range(M):
        features = (X - EACH[0][:, j]) * EACH[1][:, j]
        alone = library.objective(SoftmaxLoss(), L2Penalty(), features, Y)
        expected = xl.minimize(alone, solver).params
        np.testing.assert_allclose(
            library.to_numpy(found.W)[:, j], library.to_numpy(expected.W)[:, 0], atol=1e-6
        )
    with pytest.raises(ValueError, match="have no rows in common"):
        F.data.with_standard(Standard(*there)).sample(N).rows.dense()


@pytest.mark.parametrize(
    ("weights", "standard"),
    [
        (None, None),
        (S[:, :1], SHARED),
        (S[:, FOLDS], SHARED[:, :, None]),
        (S[:, :1], EACH),
        (S[:, FOLDS], EACH),
    ],
)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_products_of_rows(backend, weights, standard, kind):
    plain = Plain(X, Y, standard=standard)
    expected = plain.sample(N).rows
    standard = None if standard is None else Standard(*map(backend.asarray, standard))
    rows, xp = rows_of(backend, X, standard, kind), backend.xp
    assert rows.shape == expected.shape == (N, P)
    W, b, G = (rng.standard_normal(shape) for shape in ((P, M, K), (M, K), (N, M, K)))
    shift, unit = rng.standard_normal(P), rng.uniform(0.5, 2.0, P)
    index = np.asarray([5, 1, 7])
    for name, arguments in {
        "scores": (W, b),
        "gradient": (G,),
        "squares": (G,),
        "moments": (weights, shift, unit),
        "lengths": (),
        "ones": (),
        "common": (),
    }.items():
        given = (None if a is None else backend.asarray(a) for a in arguments)
        a = getattr(rows, name)(*given, xp=xp)
        b_ = getattr(expected, name)(*arguments, xp=np)
        assert_same(backend, *(c if isinstance(c, tuple) else (c,) for c in (a, b_)))
    few, taken = rows.take(backend.asarray(index), xp=xp), expected.take(index)
    assert_same(backend, [few.common(xp=xp)], [taken.common()])
    narrow = few.astype(xp.float32, xp=xp).common(xp=xp)
    assert narrow.dtype == xp.float32
    np.testing.assert_allclose(backend.to_numpy(narrow), taken.common(), rtol=1e-5, atol=1e-5)


def rows_of(backend, X, standard, kind):
    if kind == "dense":
        return DenseRows(backend.asarray(X), standard)
    try:
        return SparseRows(backend.backend.sparse(csr_array(X)), standard)
    except BackendError:
        pytest.skip("the library has no products of sparse matrices")


@pytest.mark.parametrize("standard", [None, SHARED, EACH])
@pytest.mark.parametrize("weights", [None, S])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_rows_seen_from_a_point_near_them(backend, kind, weights, standard):
    """Column 1 is constant, column 2 far from 0 and stored everywhere, column 3 empty."""
    xp, fetch = backend.xp, backend.to_numpy
    there = X * [1.0, 0.0, 1.0, 0.0] + [0.0, 7.3, 1e6, 0.0]
    common = Plain(there, Y, standard=standard).sample(N).rows.common()
    if standard is not None:
        standard = Standard(*map(backend.asarray, standard))
    s = None if weights is None else backend.asarray(weights)
    point, rows = rows_of(backend, there, standard, kind).near(s, xp=xp)
    counted = np.full((N, 1), True) if s is None else weights.max(axis=1, keepdims=True) > 0
    found = fetch(rows.dense())
    np.testing.assert_allclose(found, counted * (common - fetch(point)), rtol=1e-9, atol=1e-9)
    assert not found[:, [1, 3]].any()  # of equal values nothing is left, not a last bit
    assert np.abs(found[:, 2]).max() < 1e-4 * np.abs(there[:, 2]).max()
    largest, reach = np.abs(found).max(axis=0), fetch(rows.reach(xp=xp))
    assert (reach >= largest * (1 - 1e-12)).all()
    assert (reach <= N * largest * (1 + 1e-12)).all()
    assert_same(backend, [rows.squared(xp=xp).dense()], [found**2])
    own = backend.asarray(S[:, :1])
    expected = [found.T @ found, found.T @ (S[:, :1] * found)]
    assert_same(backend, [rows.gram(None, xp=xp), rows.gram(own, xp=xp)], expected)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_some_features(backend, kind):
    standard = Standard(*map(backend.asarray, SHARED))
    columns = rows_of(backend, X, standard, kind).columns(backend.asarray([2, 0, 2]), xp=backend.xp)
    assert_same(backend, [columns], [((X - SHARED[0]) * SHARED[1])[:, [2, 0, 2]]])


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_what_stands_in_rows_of_no_weight_does_not_matter(backend, kind):
    poisoned = np.where(S[:, :1] > 0, X, np.inf)
    shift, unit = np.ones(P), np.ones(P)
    for standard in (None, SHARED):
        there = None if standard is None else Standard(*map(backend.asarray, standard))
        found, expected = (
            rows_of(backend, a, there, kind).moments(
                *map(backend.asarray, (S[:, :1], shift, unit)), xp=backend.xp
            )
            for a in (poisoned, X)
        )
        assert_same(backend, found, map(backend.to_numpy, expected))
