"""Throughput on every backend, beside what the device itself can do: ``xplinear bench``.

A step is one update of mini-batch SGD with momentum, or one evaluation of the loss and its
gradient on all rows (batch "full"); softmax with L2, float32, random rows. What a step of r rows
of p features for m models of k classes needs *at least* is counted from the algorithm:

=====  ==============================================================================
flops  4 r p m k: two products, scores X W and gradient Xᵀ G, a multiply and an add each
bytes  4 r (p + 1): rows and labels read once, and the weights, 4 (p + 1) m k bytes a time:
       SGD reads and writes iterate and velocity (4 times), an evaluation reads the iterate
       and writes the gradient (twice). Scores and all temporaries count nothing.
=====  ==============================================================================

The shares compare these rates with two ceilings, measured in the same run by the same library:
a copy of a large array (read and written), and a product of large square float32 matrices. A
share can exceed 1: of the copy where the rows stay in a cache, or where the library copies on
one core but multiplies on all; of either where other programs slowed the ceiling down.

The time of a step is that of an epoch divided by its steps: shuffling, gathering the rows and
the bookkeeping of an epoch are in it; an epoch of few steps makes them look dearer.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from statistics import median
from typing import Any, NamedTuple, Self

import numpy as np

from xplinear.backends import Backend, BackendError, get_backend
from xplinear.backends.epoch import Epoch, Shared, Update
from xplinear.data import ArrayData
from xplinear.losses import SoftmaxLoss
from xplinear.namespace import Array
from xplinear.objective import Objective
from xplinear.penalties import L2Penalty
from xplinear.solvers import SGD

__all__ = [
    "CELLS",
    "Ceilings",
    "Cell",
    "Measurement",
    "epoch",
    "evaluation",
    "measure",
    "measure_ceilings",
    "median_seconds",
    "random_problem",
    "usable_backends",
    "wait",
]

BACKENDS = ("numpy", "cupy", "torch", "torch:cuda", "jax")
BATCHES = (64, 1024, None)
SHAPES = ((784, 10), (1024, 1000))
MODELS = (1, 16, 45)

_BYTES = 4  # of float32, and of a label
_COPIED, _SCANNED = 2**28, 8  # bytes: more than the caches; and how often in one scan
_LARGEST_PRODUCT, _SMALLEST_PRODUCT = 8192, 1024
_PRODUCT_SECONDS = 0.03
_CEILING_SECONDS = 0.5
_DRAWN = 8192  # rows that are drawn; more rows repeat them
_MOST_ROWS, _FEWEST_ROWS, _MOST_STEPS = 1_000_000, 256, 4096
_REPEATS = 9
_EPOCHS_PER_SHARE = 6
_ENOUGH = 100  # a cell gets one part of the time in so many, at most
_CAUTION = 1.5  # times what a cell is expected to take must be left
# A guess of the seconds of a step, to choose the rows: calls, and times what is counted.
_CALL_SECONDS, _MOVES, _PRODUCTS = 3e-4, 5, 3
_WEIGHT_ARRAYS, _SCORE_ARRAYS = 16, 4  # that an epoch holds at a time
_SHARE_OF_MEMORY = 8  # the rows get one part in so many


class Cell(NamedTuple):
    """What to measure: ``batch`` rows a step (None: all rows), features, classes, models."""

    batch: int | None
    p: int
    k: int
    m: int

    def __str__(self) -> str:
        rows = "full batch" if self.batch is None else f"batch {self.batch}"
        return f"{rows}, p = {self.p}, k = {self.k}, {self.m} models"

    def flops(self, rows: int) -> int:
        """Return the floating-point operations of a step over so many rows."""
        return 4 * rows * self.p * self.m * self.k

    def bytes(self, rows: int) -> int:
        """Return the bytes that a step over so many rows must at least move."""
        weights = (self.p + 1) * self.m * self.k
        return _BYTES * (rows * (self.p + 1) + (2 if self.batch is None else 4) * weights)

    def memory(self, rows: int) -> int:
        """Return the bytes that measuring with so many rows of data holds, about."""
        per_model = _WEIGHT_ARRAYS * (self.p + 1) + _SCORE_ARRAYS * (self.batch or 0)
        return _BYTES * (rows * (self.p + 1) + per_model * self.m * self.k)


# The lightest first: where time is short, what it is too short for is left out in the end.
CELLS: tuple[Cell, ...] = tuple(
    sorted(
        (Cell(batch, p, k, m) for batch in BATCHES for p, k in SHAPES for m in MODELS),
        key=lambda cell: cell.flops(max(cell.batch or 0, _FEWEST_ROWS)),
    )
)


class Ceilings(NamedTuple):
    """Bytes per second, read and written, of a copy; operations per second of a product."""

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class Measurement:
    """One cell on one backend.

    Parameters
    ----------
    backend, device : str
    cell : Cell
    ceilings : Ceilings
    n : int
        Rows of the data.
    repeats : int
        Of which ``seconds`` is the median.
    seconds : float
        Of one step; NaN where nothing was measured.
    reason : str
        Why nothing was measured.

    Examples
    --------
    >>> cell = Cell(batch=64, p=784, k=10, m=1)
    >>> measured = Measurement("numpy", "cpu", cell, Ceilings(1e10, 1e11), 640, 9, 1e-4)
    >>> measured.examples_per_second, round(measured.flops_share, 3)
    (640000.0, 0.201)
    """

    backend: str
    device: str
    cell: Cell
    ceilings: Ceilings
    n: int = 0
    repeats: int = 0
    seconds: float = math.nan
    reason: str = ""

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.cell.batch or self.n

    @property
    def failed(self) -> bool:
        """Whether it was tried, and ended in an error."""
        return self.reason.startswith("failed")

    @property
    def examples_per_second(self) -> float:
        """Rows per second, each for all models."""
        return self.rows / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """Bytes counted, per second."""
        return self.cell.bytes(self.rows) / self.seconds

    @property
    def flops_per_second(self) -> float:
        """Operations counted, per second."""
        return self.cell.flops(self.rows) / self.seconds

    @property
    def bytes_share(self) -> float:
        """Share of the copy's rate."""
        return self.bytes_per_second / self.ceilings.bytes_per_second

    @property
    def flops_share(self) -> float:
        """Share of the product's rate."""
        return self.flops_per_second / self.ceilings.flops_per_second

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the measurement of a `record`, or of a row of the CSV file it was written to."""
        batch = None if record["batch"] == "full" else int(record["batch"])
        cell = Cell(batch, *(int(record[name]) for name in ("p", "k", "models")))
        copy, product = record["copy_bytes_per_second"], record["product_flops_per_second"]
        return cls(
            record["backend"],
            record["device"],
            cell,
            Ceilings(float(copy), float(product)),
            int(record["n"]),
            int(record["repeats"]),
            float(record["seconds_per_step"]),
            record["reason"],
        )

    def record(self) -> dict[str, Any]:
        """Return all of it as columns of a table."""
        batch, p, k, m = self.cell
        numbers = {
            "seconds_per_step": self.seconds,
            "steps_per_second": 1.0 / self.seconds,
            "examples_per_second": self.examples_per_second,
            "examples_models_per_second": m * self.examples_per_second,
            "bytes_per_second": self.bytes_per_second,
            "flops_per_second": self.flops_per_second,
            "copy_bytes_per_second": self.ceilings.bytes_per_second,
            "product_flops_per_second": self.ceilings.flops_per_second,
            "share_of_copy": self.bytes_share,
            "share_of_product": self.flops_share,
        }
        about = {"backend": self.backend, "device": self.device, "batch": batch or "full"}
        about |= {"p": p, "k": k, "models": m, "n": self.n, "repeats": self.repeats}
        rounded = {name: float(f"{x:.5g}") for name, x in numbers.items()}
        return about | rounded | {"reason": self.reason}


def usable_backends() -> list[Backend]:
    """Return those of numpy, cupy, torch, torch:cuda and jax that work here.

    Examples
    --------
    >>> usable_backends()[0].name
    'numpy'
    """
    # JAX would take three quarters of a GPU at once, and leave too little for the others.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    found: list[Backend] = []
    for name in BACKENDS:
        with suppress(BackendError):
            found.append(get_backend(name))
    return found


def measure(
    backends: Sequence[Backend], seconds: float = 150.0, cells: Sequence[Cell] = CELLS
) -> Iterator[Measurement]:
    """Yield one measurement per cell and backend; all backends on a cell, then the next cell.

    Parameters
    ----------
    backends : sequence of Backend
    seconds : float
        For all together, ceilings and JAX's compiler included. A cell gets an equal part of what
        is left, at most a hundredth of all; where that is little it is measured on fewer rows and
        steps. What needs more time or memory than there is left is not measured, and says so;
        how much it needs, earlier cells of the same backend tell.
    cells : sequence of Cell

    Examples
    --------
    >>> from xplinear.backends import get_backend
    >>> (measured,) = measure([get_backend("numpy")], 10.0, [Cell(64, 784, 10, m=1)])
    >>> measured.examples_per_second > 64
    True
    """
    end = time.perf_counter() + seconds
    ceilings = {backend.name: measure_ceilings(backend) for backend in backends}
    paces = dict.fromkeys(ceilings, _Pace(0.0, 1.0))
    left = len(cells) * len(backends)
    for cell in cells:
        for backend in backends:
            start, name = time.perf_counter(), backend.name
            remaining = max(0.0, end - start)
            share = min(remaining / left, seconds / _ENOUGH)
            left -= 1
            measured = _measured(backend, cell, ceilings[name], share, remaining, paces[name])
            if not measured.reason:
                paces[name] = _pace(measured, time.perf_counter() - start)
            yield measured


class _Pace(NamedTuple):
    """Seconds to make ready: rows, start, compiler; and the time of a step over its guess."""

    ready: float
    factor: float


def _pace(measured: Measurement, seconds: float) -> _Pace:
    """Return the pace of a cell that took so many seconds."""
    cell, rows = measured.cell, measured.rows
    runs = (measured.repeats + 1) * measured.seconds * (measured.n // rows)
    guess = _guess(cell, measured.ceilings, rows)
    return _Pace(max(0.0, seconds - runs), measured.seconds / guess)


def measure_ceilings(backend: Backend) -> Ceilings:
    """Return how fast this library copies a large array, and multiplies two, on its device.

    Examples
    --------
    >>> from xplinear.backends import get_backend
    >>> measure_ceilings(get_backend("numpy")).flops_per_second > 1e6
    True
    """
    size, product = _SMALLEST_PRODUCT, backend.compile(_product)
    while True:
        square = _random_rows(backend, size, size)
        multiply = partial(product, square, square)
        if size >= _LARGEST_PRODUCT or _fastest(backend, multiply, 0.0) > _PRODUCT_SECONDS:
            break
        size *= 2
    seconds = _fastest(backend, multiply)
    rows = min(_COPIED, backend.free_memory() // _SHARE_OF_MEMORY) // (_BYTES * size)
    copy, times = _copier(backend, _random_rows(backend, rows, size))
    copied = times * 2 * _BYTES * rows * size
    return Ceilings(copied / _fastest(backend, copy), 2 * size**3 / seconds)


def _product(x: Array, y: Array) -> Array:
    return x @ y


def _copier(backend: Backend, x: Array) -> tuple[Callable[[], Array], int]:
    """Return what reads and writes ``x``, and how many times it does.

    Always into memory that is in use: taking new memory would cost a CPU more than the copy.
    """
    target = backend.xp.zeros_like(x)

    def write() -> Array:
        target[...] = x
        return target

    try:
        write()
    except TypeError:  # arrays of JAX cannot be written, but a scan uses its memory again
        order = backend.asarray(np.arange(_SCANNED, dtype=np.int32))
        update = Update(_product, None, backend.xp, x.dtype)
        rows, factors = (order, order, None), [1.0] * _SCANNED
        epoch = Epoch(_negated, update, Shared(), x, rows, order, factors, 1)
        return lambda: backend.fold(epoch), _SCANNED
    return write, 1


def _negated(update: Update, _shared: Shared, x: Array, _rows: Any, _factor: Any) -> Array:
    return update.xp.negative(x)


def _fastest(backend: Backend, run: Callable[[], Array], limit: float = _CEILING_SECONDS) -> float:
    """Return the seconds of the fastest run."""
    return min(_seconds(backend, lambda: (run(),), limit, least=3, most=50))


def _seconds(
    backend: Backend, run: Callable[[], tuple[Array, ...]], limit: float, *, least: int, most: int
) -> list[float]:
    """Return the seconds of each run but the first, as many as begin within the limit."""
    wait(backend, *run())
    end, measured = time.perf_counter() + limit, list[float]()
    while len(measured) < least or (time.perf_counter() < end and len(measured) < most):
        start = time.perf_counter()
        wait(backend, *run())
        measured.append(time.perf_counter() - start)
    return measured


def wait(backend: Backend, *arrays: Array) -> None:
    """Wait until the arrays are computed.

    A number of each is read: not every library waits for more than its own queue of copies.
    """
    for array in arrays:
        backend.to_host(array[(0,) * array.ndim])
    backend.synchronize()


@lru_cache(maxsize=4)
def _drawn(rows: int, p: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((rows, p), dtype=np.float32)


def _random_rows(backend: Backend, n: int, p: int) -> Array:
    """Return ``(n, p)`` on the device; drawing all of them on the host would take too long."""
    drawn = backend.asarray(_drawn(min(n, _DRAWN), p))
    return drawn if n <= _DRAWN else backend.xp.tile(drawn, (-(-n // _DRAWN), 1))[:n, :]


def random_problem(backend: Backend, n: int, p: int, k: int, m: int) -> Objective:
    """Return softmax with L2 for m strengths on random rows, float32.

    Examples
    --------
    >>> from xplinear.backends import get_backend
    >>> random_problem(get_backend("numpy"), n=8, p=4, k=3, m=2).zeros().W.shape
    (4, 2, 3)
    """
    y = np.random.default_rng(1).integers(0, k, n).astype(np.int32)
    alpha = np.logspace(-6, -2, m).astype(np.float32)
    data = ArrayData(_random_rows(backend, n, p), backend.asarray(y), backend=backend)
    loss = backend.accelerated(SoftmaxLoss())
    return Objective(loss, L2Penalty(), backend.asarray(alpha), data, k)


def _measured(
    backend: Backend, cell: Cell, ceilings: Ceilings, share: float, remaining: float, pace: _Pace
) -> Measurement:
    """Measure a cell in about ``share`` seconds, or say why not."""
    nothing = Measurement(backend.name, str(backend.device), cell, ceilings)
    free = backend.free_memory()
    n = _rows(cell, ceilings, share / _EPOCHS_PER_SHARE, free // _SHARE_OF_MEMORY)
    steps = 1 if cell.batch is None else n // cell.batch
    needed, run = cell.memory(n), steps * pace.factor * _guess(cell, ceilings, n // steps)
    slow = pace.ready + 2 * run  # a warm-up too
    if needed > free:
        reason = f"needs about {needed / 1e9:.2g} GB of memory, {free / 1e9:.2g} are free"
        return replace(nothing, reason=reason)
    if _CAUTION * slow > remaining:
        reason = f"needs about {slow:.2g} s, {remaining:.2g} are left; give more --seconds"
        return replace(nothing, reason=reason)

    try:
        F = random_problem(backend, n, cell.p, cell.k, cell.m)
        run = evaluation(F) if cell.batch is None else epoch(F, cell.batch)
        seconds, repeats = median_seconds(backend, run, share)
    except Exception as error:  # noqa: BLE001 - one broken cell must not lose all others
        what = str(error).strip().partition("\n")[0]
        return replace(nothing, reason=f"failed: {type(error).__name__}: {what}")
    return replace(nothing, n=n, repeats=repeats, seconds=seconds / steps)


def _guess(cell: Cell, ceilings: Ceilings, rows: int) -> float:
    """Return about how many seconds a step over so many rows takes."""
    moved = _MOVES * cell.bytes(rows) / ceilings.bytes_per_second
    return _CALL_SECONDS + moved + _PRODUCTS * cell.flops(rows) / ceilings.flops_per_second


def _rows(cell: Cell, ceilings: Ceilings, seconds: float, most_bytes: int) -> int:
    """Return how many rows a run of about so many seconds may have: whole batches."""
    most = min(_MOST_ROWS, most_bytes // (_BYTES * (cell.p + 1)))
    size = cell.batch or _FEWEST_ROWS
    step = _guess(cell, ceilings, size)
    if cell.batch is None:  # calls and weights take their time once
        once = _guess(cell, ceilings, 0)
        step, seconds = step - once, seconds - once
    else:
        most = min(most, size * _MOST_STEPS)
    rows = max(_FEWEST_ROWS, min(size * seconds / step, most))
    return size * max(1, int(rows / size))


def epoch(F: Objective, batch_size: int) -> Callable[[], tuple[Array, ...]]:
    """Return an epoch of SGD to be timed, which goes on where the last one ended.

    Examples
    --------
    >>> F = random_problem(get_backend("numpy"), n=128, p=4, k=3, m=2)
    >>> loss, W = epoch(F, batch_size=64)()
    >>> loss.shape, W.shape
    ((2,), (4, 2, 3))
    """
    solver = SGD(schedule="constant", batch_size=batch_size, learning_rate=1e-3)
    # The objective at the start does not matter: a few rows give it sooner.
    backend = F.data.backend
    sample = F.data.sample(16)
    few = replace(F, data=ArrayData(sample.X, sample.y, sample.s, backend=backend))
    with backend.products(0.0):
        state = solver.init(few, F.zeros())

    def run() -> tuple[Array, ...]:
        nonlocal state
        state = solver.step(F, state)
        return state.report.loss, state.walk.current.W

    return run


def evaluation(F: Objective) -> Callable[[], tuple[Array, ...]]:
    """Return an evaluation of loss and gradient on all rows, to be timed.

    Examples
    --------
    >>> F = random_problem(get_backend("numpy"), n=128, p=4, k=3, m=2)
    >>> loss, gradient = evaluation(F)()
    >>> loss.round(4).tolist()
    [1.0986, 1.0986]
    """
    params = F.zeros()

    def run() -> tuple[Array, ...]:
        loss, grads = F.data_loss_and_grad(params)
        return loss, grads.W

    return run


def median_seconds(
    backend: Backend, run: Callable[[], tuple[Array, ...]], seconds: float
) -> tuple[float, int]:
    """Return the median of the seconds of one run, and of how many repeats.

    Parameters
    ----------
    backend : Backend
    run : callable
        Gives arrays to wait for. The first run, in which memory is touched and JAX compiles,
        is not counted.
    seconds : float
        For the repeats, about; one run is measured in any case.

    Examples
    --------
    >>> backend = get_backend("numpy")
    >>> median, repeats = median_seconds(backend, lambda: (backend.xp.ones((9,)),), 0.01)
    >>> median > 0.0
    True
    """
    measured = _seconds(backend, run, seconds, least=1, most=_REPEATS)
    return median(measured), len(measured)
