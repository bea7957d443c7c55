"""Rows that are added so that JAX compiles for few shapes: they change nothing but the time."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xplinear as xl
from xplinear.backends import get_backend
from xplinear.data import StreamedData, data_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
RNG = np.random.default_rng(0)
P, K = 5, 3
X = RNG.normal(size=(300, P)) + 3.0
Y = ((X - 3.0) @ RNG.normal(size=(P, K)) + RNG.normal(size=(300, K))).argmax(axis=1)
S = RNG.uniform(0.0, 2.0, size=300)

FITS = {
    "lbfgs": {"solver": "lbfgs"},
    "newton": {"solver": "newton", "standardize": True},
    "gd": {"solver": "gd", "max_iter": 50},
    "sgd": {"solver": "sgd", "max_iter": 5},
    "early stopping": {"early_stopping": True, "max_iter": 5},
    "proximal_lbfgs": {"penalty": "l1", "alpha": 0.02},
    "smoothing": {"loss": "multiclass_hinge", "solver": "smoothing", "max_iter": 30},
    "interior_point": {"loss": "crammer_singer", "solver": "interior_point"},
}


def classifier(**settings: Any) -> xl.LinearClassifier:
    return xl.LinearClassifier(**{"random_state": 0, **settings})


def padding_backend(name: str = "numpy", **changes: Any) -> Any:
    """A backend that adds rows to all arrays, whether or not it compiles."""
    return replace(get_backend(name), padding=lambda X, n: 7 + n % 3, **changes)


def assert_same_fit(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    for name in ("coef_", "intercept_", "objective_"):
        np.testing.assert_allclose(
            np.asarray(getattr(found, name)), getattr(expected, name), rtol, 1e-6, err_msg=name
        )
    assert found.n_iter_ == expected.n_iter_
    np.testing.assert_allclose(found.history_["loss"], expected.history_["loss"], rtol)


@pytest.mark.parametrize("weights", [None, S[:120]], ids=["plain", "weighted"])
@pytest.mark.parametrize("streamed", [False, True], ids=["held", "streamed"])
@pytest.mark.parametrize("fit", FITS)
def test_rows_that_are_added_change_nothing(fit, streamed, weights):
    """Blocks of few rows, so that the last one is not the first; rows of weight 0 left out."""
    name = "array_api_strict" if streamed else "numpy"  # a stream leaves the host
    changes = {"free_memory": lambda: 1} if streamed else {}
    own = padding_backend(name, block_bytes=1, **changes)
    rows, labels = np.tile(X[:120], (3, 1)), np.tile(Y[:120], 3)
    weights = None if weights is None else np.tile(np.where(weights < 0.2, 0.0, weights), 3)
    settings = FITS[fit]
    found = classifier(**settings, backend=own).fit(rows, labels, weights)
    expected = classifier(**settings).fit(rows, labels, weights)
    assert_same_fit(found, expected)
    np.testing.assert_allclose(
        found.decision_function(rows[:50]), expected.decision_function(rows[:50]), 1e-5, 1e-6
    )


@pytest.mark.parametrize("weights", [None, S], ids=["plain", "weighted"])
@pytest.mark.parametrize("streamed", [False, True], ids=["held", "streamed"])
def test_samples_and_sums_are_those_of_the_rows_there_are(streamed, weights):
    plain = get_backend("numpy")
    name = "array_api_strict" if streamed else "numpy"
    own = padding_backend(name, **({"free_memory": lambda: 1} if streamed else {}))
    weights = None if weights is None else weights[:, None]
    found, expected = (data_of(X, Y, weights, None, backend=b) for b in (own, plain))
    assert isinstance(found, StreamedData) == streamed
    assert found.n == expected.n == 300
    fetch = own.fetch
    np.testing.assert_allclose(fetch(found.weight_sum), expected.weight_sum)
    for rows in (40, 1000):
        block, right = found.sample(rows), expected.sample(rows)
        count = fetch(block.s)[:, 0] > 0
        np.testing.assert_array_equal(fetch(block.X)[count], right.X)
        np.testing.assert_array_equal(fetch(block.y)[count], right.y)
        share = fetch(block.s)[count, 0] / fetch(block.s).sum()
        other = np.ones(len(right.X)) if right.s is None else right.s[:, 0]
        np.testing.assert_allclose(share, other / other.sum())


def test_stacks_shrink_through_few_sizes(monkeypatch):
    """Where each is compiled; models that are done fill them up, and stay as they are."""
    monkeypatch.setattr(import_module("xplinear.minimize"), "_QUICK", 0.0)
    sizes: list[int] = []
    take = xl.solvers.LBFGS.take

    def noted(self: Any, state: Any, models: Any, **kw: Any) -> Any:
        sizes.append(len(models))
        return take(self, state, models, **kw)

    monkeypatch.setattr(xl.solvers.LBFGS, "take", noted)
    alphas = np.logspace(0, -5, 11)
    loss, penalty = xl.losses.SoftmaxLoss(), xl.penalties.L2Penalty()
    results = []
    for backend in (replace(get_backend("numpy"), compiles=True), get_backend("numpy")):
        data = data_of(X, Y, backend=backend)
        F = xl.Objective(loss, penalty, alphas, data, k=K)
        results.append(xl.minimize(F, xl.solvers.LBFGS(tol=1e-6)))
        if backend.compiles:
            assert sizes
            assert set(sizes) <= {1, 2, 4}
    found, expected = results
    assert found.converged.all()
    np.testing.assert_allclose(found.params.W, expected.params.W, 1e-4, 1e-5)


# What follows counts.


@pytest.fixture(scope="module")
def compiled() -> Iterator[Callable[[], int]]:
    """How often JAX compiled since it was asked last."""
    jax = pytest.importorskip("jax")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)  # only shapes matter here
    events: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event)
    )

    def count() -> int:
        number = events.count("/jax/core/compile/backend_compile_duration")
        events.clear()
        return number

    yield count
    jax.config.update("jax_disable_most_optimizations", before)


def of_jax(a: Any) -> Any:
    return get_backend("jax:cpu").asarray(a)


@pytest.mark.parametrize("fit", [fit for fit in FITS if fit not in ("gd", "sgd")])
def test_a_row_less_and_other_settings_compile_nothing(fit, compiled):
    pytest.importorskip("jax")
    settings = {"alpha": 0.01, "tol": 1e-4, "max_iter": 20, **FITS[fit]}
    fitted = classifier(**settings, backend="jax:cpu").fit(X[:100], Y[:100])
    compiled()
    fitted = classifier(**settings, backend="jax:cpu").fit(X[:99], Y[:99])
    assert_same_fit(fitted, classifier(**settings).fit(X[:99], Y[:99]), 1e-4)
    classifier(**settings).fit(of_jax(X[:98]), of_jax(Y[:98]))
    assert compiled() == 0
    settings |= {"alpha": 0.011, "tol": 2e-4, "random_state": 1, "max_iter": 21}
    classifier(**settings, backend="jax:cpu").fit(X[:98], Y[:98])
    assert compiled() <= 1  # of a size that had not been met


@pytest.mark.parametrize(
    ("move", "weighted"), [(np.asarray, False), (of_jax, True)], ids=["numpy", "jax, weighted"]
)
def test_partial_fit_compiles_for_few_numbers_of_rows(move, weighted, compiled):
    pytest.importorskip("jax")
    # Whole batches, an incomplete one, both, one row, which needs no weights: 16 rows always.
    classes, sizes = np.arange(K), [16, 5, 12, 1, *np.random.default_rng(1).integers(1, 17, 15)]
    clf, plain = classifier(backend="jax:cpu", batch_size=8), classifier(batch_size=8)
    for i, n in enumerate(sizes):
        rows, labels = move(X[:n]), move(Y[:n])
        weights = move(S[:n]) if weighted else None
        if i == 4:  # batches of all kinds have been seen
            compiled()
        clf.partial_fit(rows, labels, classes, sample_weight=weights)
        plain.partial_fit(X[:n], Y[:n], classes, sample_weight=S[:n] if weighted else None)
    assert compiled() == 0
    np.testing.assert_allclose(np.asarray(clf.coef_), plain.coef_, 1e-8, 1e-10)


@pytest.mark.parametrize("move", [np.asarray, of_jax], ids=["numpy", "jax"])
def test_predictions_compile_for_few_numbers_of_rows(move, compiled):
    pytest.importorskip("jax")
    clf = classifier().fit(X, Y).to("jax:cpu")
    plain = clf.to("numpy")
    if move is of_jax:
        clf = classifier(backend="jax:cpu").from_params(clf.params_, clf.classes_)
    names = "predict", "decision_function", "predict_proba"
    for n in (16, 32, 64, 128, 256, 300):
        for name in names:
            getattr(clf, name)(move(X[:n]))
    compiled()
    for n in (1, 17, 33, 99, 200, 290):
        rows = move(X[:n])
        for name in names:
            found = getattr(clf, name)(rows)
            assert type(found) is type(rows)
            np.testing.assert_allclose(np.asarray(found), getattr(plain, name)(X[:n]), 1e-12)
        clf.score(rows, move(Y[:n]))
    assert compiled() == 0


def test_a_sweep_of_a_row_less_compiles_nothing(compiled):
    pytest.importorskip("jax")
    sweep = xl.LinearClassifierCV([0.1, 0.01, 0.001], cv=3, solver="lbfgs", backend="jax:cpu")
    sweep.fit(X[:100], Y[:100])
    compiled()
    sweep.fit(X[:99], Y[:99])
    assert compiled() == 0
    plain = xl.LinearClassifierCV([0.1, 0.01, 0.001], cv=3, solver="lbfgs").fit(X[:99], Y[:99])
    np.testing.assert_allclose(sweep.cv_scores_, plain.cv_scores_)


@pytest.mark.parametrize("chosen", [None, "elsewhere"], ids=["ours", "the user's"])
def test_what_jax_compiles_is_kept_for_other_processes(tmp_path, chosen):
    pytest.importorskip("jax")
    script = """
import xplinear as xl
backend = xl.get_backend("jax:cpu")
backend.compile(abs)(backend.asarray([1.0, -2.0]))
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    if chosen is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / chosen)
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert bool(kept) == (chosen is None)  # theirs keeps what took a second
    assert all(path.is_relative_to(tmp_path / "cache/xplinear/jax") for path in kept)


def test_what_cannot_be_read_is_compiled_without_a_word(tmp_path):
    """A file that another process is writing, say."""
    pytest.importorskip("jax")
    script = """
import xplinear as xl
backend = xl.get_backend("jax:cpu")
assert (backend.compile(abs)(backend.asarray([1.0, -2.0])) == backend.asarray([1.0, 2.0])).all()
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, env=environment)
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert kept
        for path in kept:
            path.write_bytes(path.read_bytes()[:100])


class Config:
    """What JAX is asked for."""

    jax_compilation_cache_dir = None
    jax_enable_compilation_cache = True
    jax_persistent_cache_min_compile_time_secs = 1.0

    def update(self, name: str, value: Any) -> None:
        setattr(self, name, value)


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Callable[..., Config]:
    """JAX's configuration after the backend's import, of what it was before."""
    pytest.importorskip("jax")
    module = import_module("xplinear.backends.jax")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def keep(**before: Any) -> Config:
        config = Config()
        for name, value in before.items():
            config.update(name, value)
        monkeypatch.setattr(module, "jax", SimpleNamespace(config=config))
        with warnings.catch_warnings():
            module._keep_compiled()
        return config

    return keep


def test_compiled_code_is_kept_where_nobody_else_writes(tmp_path, kept):
    config = kept()
    folder = Path(config.jax_compilation_cache_dir)
    assert folder.parent == tmp_path / "cache/xplinear/jax"
    assert config.jax_persistent_cache_min_compile_time_secs == 0.0
    for path in (folder, *folder.parents[:3]):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (folder, folder.parents[1]):
        path.chmod(0o777)
        assert kept().jax_compilation_cache_dir is None
        path.chmod(0o700)
    assert kept().jax_compilation_cache_dir == str(folder)


def test_what_the_user_has_decided_about_compiled_code_stays(tmp_path, kept):
    name, least = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    config = kept(**{name: "/theirs"})
    assert (getattr(config, name), getattr(config, least)) == ("/theirs", 1.0)
    assert getattr(kept(jax_enable_compilation_cache=False), name) is None
    assert not list(tmp_path.iterdir())
    assert getattr(kept(**{least: 5.0}), least) == 5.0


def test_compiled_code_is_not_kept_where_that_is_impossible(tmp_path, kept, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/xplinear").write_text("a file", encoding="utf-8")
    assert kept().jax_compilation_cache_dir is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored
    home = kept().jax_compilation_cache_dir
    assert Path(home).is_relative_to(tmp_path / "home/.cache/xplinear")

    def homeless() -> Path:
        msg = "Could not determine home directory."
        raise RuntimeError(msg)

    monkeypatch.setattr(Path, "home", homeless)
    assert kept().jax_compilation_cache_dir is None
