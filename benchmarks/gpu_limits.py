"""How near the library comes to what a GPU can do, at the sizes one buys a GPU for.

Five parts, each with its own results, written as soon as it is done:

``full-batch``     one loss and gradient on 1,000,000 rows of float32 and of bytes, with the
                   backend's own kernels and without: p = 1024, k = 1000 as a share of the measured
                   product of matrices, p = 784, k = 2, 10 and 16 as a share of one read of X at
                   the speed of the measured copy
``sgd-step``       SGD's step at several shapes: whole epochs, and on CuPy what the device is busy
                   with from the epoch's first kernel to its last
``stack``          SGD, batch 64, p = 784, k = 10: a step of 16 and of 45 models beside one of one
``sweep``          as large as ImageNet's features, 1,281,167 × 1024, k = 1000: one strength to
                   tol 1e-4, then 45 strengths; scikit-learn's LogisticRegression with array API
                   dispatch on the same device, on a twentieth of the rows, and xplinear on these
``streaming``      a pass and an epoch of SGD over 1,000,000 × 1024 rows of host memory (4.1 GB), in
                   bytes per second, as a share of what copies of pinned memory alone reach
``fashion-mnist``  seconds from host arrays until the objective is what scikit-learn's lbfgs has
                   after 200 iterations, C = 1; scikit-learn on the CPU and on the same device

The rows of ``sweep`` are Gaussian classes, made on the device: a centre plus the sum of two of
8,192 drawn rows of noise. While they are put together they take their memory twice.

``--scale 0.001`` shows on any machine that the script works. What it measures then, or on a
backend that is no GPU, goes to ``results/quick/``.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from statistics import median
from typing import Any

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn's dispatch asks for it at import

import numpy as np
import typer
from sklearn import config_context
from sklearn.linear_model import LogisticRegression

import xplinear as xl
from benchmarks.problems import PROBLEMS, Host
from benchmarks.report import report
from benchmarks.run import chosen
from benchmarks.sweep import on_all_rows
from xplinear.backends import Backend
from xplinear.bench import (
    Cell,
    epoch,
    evaluation,
    measure_ceilings,
    median_seconds,
    random_problem,
    usable_backends,
    wait,
)
from xplinear.data import ArrayData, StreamedData
from xplinear.minimize import Progress
from xplinear.model_selection.alphas import automatic_alphas
from xplinear.model_selection.scoring import SCORINGS
from xplinear.namespace import Array

Rows = list[dict[str, Any]]

FULL, STACK, IMAGENET = 1_000_000, 60_000, 1_281_167  # rows
REPEATS, SECONDS = 5, 5.0
STEPS = [  # p, k, batch, models
    *((784, 10, batch, m) for batch, m in ((64, 1), (1024, 1), (64, 16), (64, 45))),
    *((p, k, 64, 1) for p, k in ((64, 10), (384, 51), (1024, 10), (1024, 1000))),
    (1024, 1000, 1024, 1),
    (384, 51, 256, 20),
]
SPREAD, NOISE, CHUNK = 0.18, 8192, 65_536  # of the classes; rows drawn, rows made at a time
TOL, ALPHA, STRENGTHS, PART = 1e-4, 1e-4, 45, 20
ITERATIONS = 200


def full_batch(backend: Backend, scale: float, cap: float) -> Rows:
    del cap
    rows: Rows = []
    ceilings = measure_ceilings(backend)
    for p, k in ((1024, 1000), (784, 2), (784, 10), (784, 16)):
        n, cell = scaled(FULL, scale), Cell(None, p, k, 1)
        F = random_problem(backend, n, p, k, 1)
        for stored, accelerated in product(("float32", "uint8"), (False, True)):
            own = as_stored(F, stored, accelerated)
            seconds, repeats = median_seconds(backend, evaluation(own), SECONDS)
            flops, X_bytes = cell.flops(n) / seconds, own.data.X.itemsize * n * p
            row = {"backend": backend.name, "n": n, "p": p, "k": k, "stored": stored}
            row |= {"accelerated": accelerated, "seconds": seconds, "repeats": repeats}
            row |= {"flops_per_second": flops}
            row |= {"share_of_product": flops / ceilings.flops_per_second}
            row |= {"X_bytes_per_second": X_bytes / seconds}
            row |= {"share_of_one_read": X_bytes / seconds / ceilings.bytes_per_second}
            row |= {"product_flops_per_second": ceilings.flops_per_second}
            rows.append(row | {"copy_bytes_per_second": ceilings.bytes_per_second})
    return rows


def as_stored(F: xl.Objective, stored: str, accelerated: bool) -> xl.Objective:
    """Return the same problem with X as float32 or as bytes, with or without kernels."""
    backend, X, xp = F.data.backend.accelerating(accelerated), F.data.X, F.xp
    X = X if stored == "float32" else xp.astype(64.0 * xp.abs(X) / xp.max(xp.abs(X)), xp.uint8)
    data = ArrayData(X, F.data.y, dtype=F.data.dtype, backend=backend)
    return replace(F, loss=backend.accelerated(xl.losses.SoftmaxLoss()), data=data)


def step(backend: Backend, scale: float, cap: float) -> Rows:
    del cap
    rows: Rows = []
    for p, k, batch, m in STEPS:
        n = scaled(STACK, scale)
        F = random_problem(backend, n, p, k, m)
        busy: list[float] = []
        data = F.data
        if backend.name.startswith("cupy"):
            of_epochs = {key: f for key, f in backend.kernels.items() if key[1] == "sgd"}
            kernels = backend.kernels | {key: timed(f, busy) for key, f in of_epochs.items()}
            data = replace(data, backend=replace(backend, kernels=kernels))
        run, seconds = epoch(replace(F, data=data), batch), list[float]()
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            wait(backend, *run())
            seconds.append(time.perf_counter() - start)
        steps = -(-n // batch)
        row = {"backend": backend.name, "p": p, "k": k, "batch": batch, "models": m}
        row |= {"us_per_step": 1e6 * median(seconds[1:]) / steps, "first_epoch_s": seconds[0]}
        rows.append(row | {"device_us_per_step": 1e6 * median(busy[1:] or [np.nan]) / steps})
    return rows


def timed(kernel: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return a kernel of CuPy whose time on the device is added to a list."""
    import cupy

    def run(*args: Any, **settings: Any) -> Any:
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        result = kernel(*args, **settings)
        end.record()
        end.synchronize()
        seconds.append(1e-3 * cupy.cuda.get_elapsed_time(start, end))
        return result

    return run


def stack(backend: Backend, scale: float, cap: float) -> Rows:
    del cap
    n, batch = scaled(STACK, scale), 64
    epochs = {m: epoch(random_problem(backend, n, 784, 10, m), batch) for m in (1, 16, 45)}
    micro: dict[int, list[float]] = {m: [] for m in epochs}
    for _ in range(1 + REPEATS):
        for m, run in epochs.items():
            start = time.perf_counter()
            wait(backend, *run())
            micro[m].append(1e6 * (time.perf_counter() - start) / -(-n // batch))
    rows: Rows = []
    for m, (_, *measured) in micro.items():
        us, single = median(measured), median(micro[1][1:])
        row = {"backend": backend.name, "n": n, "models": m, "us_per_step": us}
        rows.append(row | {"per_model_of_single": us / m / single, "of_single": us / single})
    return rows


def streaming(backend: Backend, scale: float, cap: float) -> Rows:
    del cap
    n, p, k = scaled(FULL, scale), 1024, 10
    X = np.random.default_rng(0).random((n, p), dtype=np.float32)
    F = random_problem(backend, 16, p, k, 1)
    y = backend.asarray(np.arange(n, dtype=np.int32) % k)
    F = replace(F, data=StreamedData(X, y, backend=backend))
    copied = pinned_bytes_per_second(backend, min(n, backend.block_bytes // X[0].nbytes), p)
    rows: Rows = []
    for name, run in {"pass": evaluation(F), "epoch": epoch(F, 1024)}.items():
        seconds, repeats = median_seconds(backend, run, SECONDS)
        row = {"backend": backend.name, "run": name, "n": n, "p": p, "seconds": seconds}
        row |= {"repeats": repeats, "bytes_per_second": X.nbytes / seconds}
        row |= {"pinned_bytes_per_second": copied}
        rows.append(row | {"share_of_pinned": X.nbytes / seconds / copied})
    return rows


def pinned_bytes_per_second(backend: Backend, rows: int, p: int) -> float:
    """Return how fast a backend copies pinned memory to its device; NaN where it pins none."""
    copier = getattr(backend.upload, "keywords", {}).get("copier")
    if copier is None:
        return np.nan
    dtype = np.dtype(np.float32)
    copies = copier((rows, p), dtype)

    def copy() -> float:
        start = time.perf_counter()
        for i in range(10):
            copies.copy(i % 2, rows, copies.mark())
        copies.finish()
        return time.perf_counter() - start

    return 10 * rows * p * dtype.itemsize / min(copy() for _ in range(3))


def sweep(backend: Backend, scale: float, cap: float) -> Rows:
    n, k = scaled(IMAGENET, scale), scaled(1000, scale, least=10)
    F = clusters(backend, n, 1024, k)
    part = slice(0, n // PART if scale == 1.0 else n)
    data = ArrayData(F.data.X[part, :], F.data.y[part], backend=backend)
    few = xl.Objective(F.loss, F.penalty, F.alpha, data, k)
    rows = [one_strength(F), many_strengths(F, cap), one_strength(few)]
    try:
        rows.append(scikit_learn(few, max_iter=1000))
    except Exception as error:  # noqa: BLE001 - JAX has no dispatch; the rest is measured
        print(f"scikit-learn on {backend.name} left out: {error}")
    return rows


def clusters(backend: Backend, n: int, p: int, k: int) -> xl.Objective:
    """Return classes of equal size, each Gaussian about a Gaussian centre, made on the device."""
    xp, rng = backend.xp, np.random.default_rng(0)
    centres = backend.asarray(SPREAD * rng.standard_normal((k, p), dtype=np.float32))
    noise = backend.asarray(rng.standard_normal((NOISE, p), dtype=np.float32) / np.float32(2**0.5))
    y = backend.asarray((rng.permutation(n) % k).astype(np.int32))
    chunks: list[Array] = []
    for start in range(0, n, CHUNK):
        labels = y[start : start + CHUNK]
        pairs = rng.integers(NOISE, size=(2, labels.shape[0]), dtype=np.int32)
        a, b = (xp.take(noise, backend.asarray(index), axis=0) for index in pairs)
        chunks.append(xp.take(centres, labels, axis=0) + a + b)
    data = ArrayData(xp.concat(chunks, axis=0), y, backend=backend)
    loss, alpha = backend.accelerated(xl.losses.SoftmaxLoss()), np.asarray([ALPHA], np.float32)
    return xl.Objective(loss, xl.penalties.L2Penalty(), backend.asarray(alpha), data, k)


def one_strength(F: xl.Objective) -> dict[str, Any]:
    xl.minimize(F, xl.solvers.LBFGS(max_iter=2))  # compiles
    start = time.perf_counter()
    result = xl.minimize(F, xl.solvers.LBFGS(tol=TOL))
    wait(F.data.backend, *result.params)
    row = described(F, "xplinear", 1, time.perf_counter() - start, result.n_iter)
    return row | judged(F, result.params) | {"converged": int(result.converged.sum())}


def many_strengths(F: xl.Objective, cap: float) -> dict[str, Any]:
    """Solve 45 strengths, or those that end within ``cap`` seconds."""
    start, iterations, fits, converged = time.perf_counter(), 0, 0, 0

    def late(_: range, progress: Progress) -> bool:
        nonlocal iterations
        iterations += 1
        del progress
        return time.perf_counter() - start > cap

    for solved in on_all_rows(F, automatic_alphas(F, STRENGTHS), TOL, late):
        if solved.result.reason == "callback":
            print(f"after {cap:g} s, {fits} of {STRENGTHS} strengths were done; --cap gives more")
            break
        fits += len(solved.at)
        converged += int(solved.result.converged.sum())
    row = described(F, "xplinear", fits, time.perf_counter() - start, iterations)
    return row | {"objective": np.nan, "train_accuracy": np.nan, "converged": converged}


def scikit_learn(F: xl.Objective, max_iter: int, tol: float = TOL) -> dict[str, Any]:
    """Fit scikit-learn's lbfgs to the arrays where they are."""
    data = F.data
    clf = LogisticRegression(C=1 / (ALPHA * data.n), tol=tol, max_iter=max_iter)
    with config_context(array_api_dispatch=True):
        start = time.perf_counter()
        clf.fit(data.X, data.y)
        params = params_of(data.backend, clf.coef_, clf.intercept_)
        wait(data.backend, *params)
        seconds = time.perf_counter() - start
    iterations = int(clf.n_iter_[0])
    row = described(F, "scikit-learn lbfgs", 1, seconds, iterations) | judged(F, params)
    return row | {"converged": int(iterations < max_iter)}


def params_of(backend: Backend, coef: Any, intercept: Any) -> xl.Params:
    """Return scikit-learn's coefficients ``(k, p)`` as those of a stack of one model."""
    xp = backend.xp
    coef, intercept = (backend.asarray(a, xp.float32) for a in (coef, intercept))
    return xl.Params(xp.permute_dims(coef, (1, 0))[:, None, :], intercept[None, :])


def described(
    F: xl.Objective, name: str, fits: int, seconds: float, iterations: int
) -> dict[str, Any]:
    row = {"program": name, "backend": F.data.backend.name, "n": F.data.n, "p": F.data.p}
    return row | {"k": F.k, "fits": fits, "seconds": seconds, "iterations": iterations}


def judged(F: xl.Objective, params: xl.Params) -> dict[str, float]:
    to_host = F.data.backend.to_host
    accuracy = SCORINGS["accuracy"](F, params)
    return {
        "objective": float(to_host(F.value(params))[0]),
        "train_accuracy": float(to_host(accuracy)[0]),
    }


def fashion_mnist(backend: Backend, scale: float, cap: float) -> Rows:
    del cap
    problem = PROBLEMS["fashion-mnist"]()
    n = scaled(len(problem.y), scale)
    X, y, alpha = problem.X[:n], problem.y[:n].astype(np.int32), np.asarray([1 / n], np.float32)

    def objective(where: Backend) -> xl.Objective:
        data = ArrayData(where.asarray(X), where.asarray(y), backend=where)
        loss, penalty = where.accelerated(xl.losses.SoftmaxLoss()), xl.penalties.L2Penalty()
        return xl.Objective(loss, penalty, where.asarray(alpha), data, problem.k)

    rows: Rows = []
    for where in dict.fromkeys((xl.get_backend("numpy"), backend)):
        try:
            seconds, value, iterations = scikit_learn_from_host(where, X, y)
        except Exception as error:  # noqa: BLE001 - JAX has no dispatch
            print(f"scikit-learn on {where.name} left out: {error}")
            continue
        value = float(backend.to_host(objective(backend).value(params_of(backend, *value)))[0])
        rows.append(reached("scikit-learn lbfgs", where, n, seconds, iterations, value))
    target = rows[0]["objective"]

    def there(progress: Progress) -> bool:
        return bool(progress.loss[0] + progress.penalty[0] <= target)

    xl.minimize(objective(backend), xl.solvers.LBFGS(max_iter=2))  # compiles
    seconds_: list[float] = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = xl.minimize(objective(backend), xl.solvers.LBFGS(tol=1e-7), callbacks=[there])
        wait(backend, *result.params)
        seconds_.append(time.perf_counter() - start)
    value = float((result.history["loss"] + result.history["penalty"])[-1, 0])
    rows.append(reached("xplinear", backend, n, median(seconds_), result.n_iter, value))
    for row in rows:
        row["times_xplinear"] = row["seconds"] / rows[-1]["seconds"]
    return rows


def scikit_learn_from_host(
    backend: Backend, X: Host, y: Host
) -> tuple[float, tuple[Any, Any], int]:
    """Return seconds, coefficients and iterations of scikit-learn's lbfgs, C = 1."""
    clf = LogisticRegression(max_iter=ITERATIONS, tol=1e-12)
    with config_context(array_api_dispatch=True):
        start = time.perf_counter()
        clf.fit(backend.asarray(X), backend.asarray(y))
        coefficients = backend.to_host(clf.coef_), backend.to_host(clf.intercept_)
        return time.perf_counter() - start, coefficients, int(clf.n_iter_[0])


def reached(
    name: str, backend: Backend, n: int, seconds: float, iterations: int, objective: float
) -> dict[str, Any]:
    row = {"program": name, "backend": backend.name, "n": n, "seconds": seconds}
    return row | {"iterations": iterations, "objective": objective}


def scaled(size: int, scale: float, least: int = 640) -> int:
    return max(least, round(size * scale))


PARTS: dict[str, Callable[[Backend, float, float], Rows]] = {
    "full-batch": full_batch,
    "sgd-step": step,
    "stack": stack,
    "streaming": streaming,
    "sweep": sweep,
    "fashion-mnist": fashion_mnist,
}


def main(
    *, backend: str = "", only: str = "", scale: float = 1.0, cap: float = 240.0, notes: str = ""
) -> None:
    """Measure; --only takes parts with commas between, --cap SECONDS bounds the 45 strengths."""
    warnings.simplefilter("ignore")  # some fits are stopped on purpose
    device = xl.get_backend(backend) if backend else first_gpu()
    on_gpu = "cuda" in str(device.device).lower()
    for name in chosen(only, PARTS):
        print(f"{name} on {device.name}", flush=True)
        rows = PARTS[name](device, scale, cap)
        file = f"gpu_{name.replace('-', '_')}"
        quick = scale != 1.0 or not on_gpu
        report(file, rows, quick=quick, device=str(device.device), scale=scale, notes=notes)


def first_gpu() -> Backend:
    """Return the first backend on a GPU, NumPy where there is none."""
    backends = usable_backends()
    gpus: Iterator[Backend] = (b for b in backends if "cuda" in str(b.device).lower())
    return next(gpus, backends[0])


if __name__ == "__main__":
    typer.run(main)
