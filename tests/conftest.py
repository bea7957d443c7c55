"""One fixture for every array library: the same test on all backends that are installed.

``backend`` is a `BackendCase`, ``dtype`` the name of a dtype. NumPy comes twice, the second
time with read-only arrays; array-api-strict lives on a device that is not the CPU, so that a
forgotten ``device=`` or a silent transfer to the host fails without a GPU.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xplinear.backends
from xplinear.backends import Backend, BackendError, get_backend
from xplinear.data import ArrayData
from xplinear.losses import Loss
from xplinear.objective import Objective, Params
from xplinear.penalties import Penalty

_MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps() -> Iterator[None]:
    """Let JAX forget what it compiled before Linux ends a process of more than 65,530 maps.

    A function takes six; most are for shapes that one test has.
    """
    yield
    if "jax" in sys.modules and _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > 30_000:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def ends_of_grids_and_rounding() -> Iterator[None]:
    """Let short grids fitted to the last digit say what they must."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the best mean score")
        warnings.filterwarnings("ignore", ".*stopped at the float64 floor")
        yield


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Any]:
    """A client of two workers of one thread, which start again when they die."""
    distributed = pytest.importorskip("distributed")
    own = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(**own) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def dask_client(_cluster: Any) -> Any:
    """Two workers, whatever became of them in tests before; nobody's default client."""
    try:
        _cluster.wait_for_workers(2, timeout=20)
    except TimeoutError:  # killed while it started, and whoever watched over it has given up
        _cluster.cluster.scale(len(_cluster.cluster.workers) + 1)
        _cluster.wait_for_workers(2, timeout=60)
    return _cluster


@dataclass(frozen=True)
class BackendCase:
    """A backend, and how a test makes and reads its arrays."""

    backend: Backend
    read_only: bool = False

    @property
    def xp(self) -> Any:
        return self.backend.xp

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """Return a fresh array of anything NumPy reads, in the dtype of that name if given."""
        array = self.backend.asarray(
            np.array(x), None if dtype is None else getattr(self.xp, dtype)
        )
        if self.read_only:
            array.flags.writeable = False
        return array

    def to_numpy(self, x: Any) -> np.ndarray[Any, Any]:
        return self.backend.fetch(x)

    def with_blocks_of(self, block_bytes: int) -> BackendCase:
        """Return the case with small blocks: many of them for few rows."""
        return replace(self, backend=replace(self.backend, block_bytes=block_bytes))

    def objective(
        self,
        loss: Loss,
        penalty: Penalty,
        X: Any,
        y: Any,
        s: Any = None,
        *,
        alpha: Any = (0.1,),
        k: int = 3,
        dtype: str = "float64",
        stored: str | None = None,
        models: Any = None,
        targets: Any = None,
        positives: Any = None,
        fit_intercept: bool = True,
    ) -> Objective:
        """Return an objective of host arrays; X is kept in ``stored`` if given, else in dtype."""
        data = ArrayData(
            self.asarray(X, stored or dtype),
            self.asarray(y),
            None if s is None else self.asarray(s, dtype),
            getattr(self.xp, dtype),
            None if models is None else self.asarray(models),
            backend=self.backend,
            targets=None if targets is None else self.asarray(targets),
            positives=None if positives is None else self.asarray(positives),
        )
        return Objective(
            loss, penalty, self.asarray(alpha, dtype), data, k=k, fit_intercept=fit_intercept
        )

    def params(self, objective: Objective, seed: int = 0) -> Params:
        """Return random parameters in the objective's dtype."""
        rng = np.random.default_rng(seed)
        W, b = objective.zeros()
        return Params(
            *(self.backend.asarray(0.5 * rng.standard_normal(a.shape), a.dtype) for a in (W, b))
        )


def _works(name: str) -> bool:
    if find_spec(name.partition(":")[0]) is None:
        return False
    try:
        get_backend(name)
    except BackendError:
        return False
    return True


def _libraries() -> Iterator[Any]:
    yield pytest.param(("numpy", False), id="numpy")
    if find_spec("torch") is not None:
        yield pytest.param(("torch", False), id="torch")
    if find_spec("jax") is not None:
        yield pytest.param(("jax:cpu", False), id="jax")
    for name in ("cupy", "torch:cuda", "jax:cuda"):
        if _works(name):
            yield pytest.param((name, False), id=name, marks=pytest.mark.cuda)


def _cases() -> Iterator[Any]:
    yield from _libraries()
    yield pytest.param(("numpy", True), id="numpy-read-only")
    if find_spec("array_api_strict") is not None:
        yield pytest.param(("array_api_strict:device1", False), id="array_api_strict")


def _module_at(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated() -> Any:
    """The module ``xplinear.backends.cupy``, run on a CPU; needs a C++ compiler."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    with _module_at(Path(__file__).parent / "cuda_on_cpu" / "fake_cupy.py").installed():
        return _module_at(Path(xplinear.backends.__file__).with_name("cupy.py"))


@pytest.fixture(scope="session", params=list(_libraries()))
def library(request: pytest.FixtureRequest) -> BackendCase:
    """Every library that computes in its own way, for long runs.

    array-api-strict computes as NumPy does, many times slower: a few steps say what it can say.
    """
    return BackendCase(get_backend(request.param[0]))


@pytest.fixture(scope="session", params=list(_cases()))
def backend(request: pytest.FixtureRequest) -> BackendCase:
    """Every installed backend in turn."""
    name, read_only = request.param
    return BackendCase(get_backend(name), read_only)


@pytest.fixture(scope="session")
def numpy_backend() -> BackendCase:
    """NumPy alone, for what does not depend on the array library."""
    return BackendCase(get_backend("numpy"))


@pytest.fixture(scope="session", params=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Each dtype the library computes in."""
    return request.param


def pytest_configure() -> None:
    """Set the libraries to their strictest, or to what the tests need, before any array exists."""
    if find_spec("array_api_strict") is not None:
        import array_api_strict

        array_api_strict.set_array_api_strict_flags(
            api_version="2024.12",
            boolean_indexing=False,
            data_dependent_shapes=False,
            enabled_extensions=("linalg",),  # eigh, which every backend has
        )
    if find_spec("jax") is not None:
        import jax

        jax.config.update("jax_enable_compilation_cache", False)  # each run stands for itself
        jax.config.update("jax_enable_x64", True)  # float64 is tested on every backend
    if find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)  # small arrays, and pytest-xdist already uses every core
