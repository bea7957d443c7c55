"""JAX: the same pure functions, compiled; an epoch is one loop of ``lax``.

Everything is compiled for the shapes of its arguments, and kept. So that this ends, rows are held
in arrays of few lengths: see `Backend.padding`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import warnings
from collections.abc import Callable, Generator, Hashable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from xplinear.backends.base import (
    GPU_COLUMNS,
    Backend,
    BackendError,
    free_host_memory,
    gpu_block_bytes,
    is_memory_error,
    native,
    written,
)
from xplinear.backends.epoch import Epoch, Shared, Update
from xplinear.backends.precision import in_precision
from xplinear.namespace import HostArray

__all__ = ["describe", "follow", "select"]

_SCANNED = 16  # batches between two looks at how many are left, for which a GPU has to wait
_FEWEST_ROWS = 16
_LITTLE = 2**16  # entries of X, from which on twice as many would cost more than a call does
_AT_HAND = 2**22  # bytes that reach the host in less time than a compilation takes


def _products(tf32: bool) -> AbstractContextManager[None]:
    """Multiply in TF32, or not: JAX does on recent GPUs unless told otherwise."""
    return jax.default_matmul_precision("tensorfloat32" if tf32 else "highest")


@cache
def _jit(function: Callable[..., Any], *static: Hashable) -> Callable[..., Any]:
    # jax.jit keeps what it compiled for each precision apart.
    return in_precision(_products, jax.jit(partial(function, *static)))


@cache
def _repeat(function: Callable[..., Any], *static: Hashable) -> Callable[..., Any]:
    """Return what `Backend.repeat` does, as one loop."""

    def repeated(times: Any, carry: Any, *rest: Any) -> Any:
        def goes_on(now: Any) -> Any:
            return (now[0] < times) & ~jnp.all(now[1].solved)

        def once(now: Any) -> Any:
            return now[0] + 1, function(*static, now[1], *rest)

        return jax.lax.while_loop(goes_on, once, (0, carry))[1]

    return in_precision(_products, jax.jit(repeated))


def _batch_update(
    minibatch: Callable[..., Any],
    update: Update,
    shared: Shared,
    carry: Any,
    rows: tuple[jax.Array | None, ...],
    index: jax.Array,
    factor: jax.Array,
    count: tuple[int, ...] = (),
) -> Any:
    batch = tuple(None if a is None else jnp.take(a, index, axis=0) for a in rows)
    return minibatch(update, shared, carry, (*batch, *count), factor)


def _loop(
    minibatch: Callable[..., Any],
    update: Update,
    shared: Shared,
    carry: Any,
    rows: tuple[jax.Array | None, ...],
    batches: jax.Array,
    factors: jax.Array,
    whole: Any,
) -> Any:
    """Fold over the first ``whole`` of the batches ``(b, size)``."""

    def step(i: Any, carry: Any) -> Any:
        return _batch_update(minibatch, update, shared, carry, rows, batches[i], factors[i])

    def steps(i: Any, carry: Any) -> Any:
        return jax.lax.fori_loop(0, _SCANNED, lambda j, carry: step(i * _SCANNED + j, carry), carry)

    carry = jax.lax.fori_loop(0, whole // _SCANNED, steps, carry)
    return jax.lax.fori_loop(whole // _SCANNED * _SCANNED, whole, step, carry)


def _fold(epoch: Epoch) -> Any:
    """Fold as `fold_in_python` does: a loop over the whole batches, then the incomplete one.

    What is compiled is for as many batches as the rows that are held could make up. The
    incomplete batch is as long as the others, and says at its end how many of its rows count.
    """
    carry, rows, n = epoch.carry, epoch.rows, epoch.order.shape[0]
    held = rows[1].shape[0]
    size = min(epoch.size, held)
    whole, rest = divmod(n, size)
    # From the host, straight to the device of the rest.
    batches = np.zeros((-(-held // size), size), dtype=np.int32 if held < 2**31 else np.int64)
    batches.reshape(-1)[:n] = np.asarray(epoch.order)
    factors = np.zeros(len(batches), dtype=jax.tree.leaves(carry)[0].dtype)
    factors[: len(epoch.schedule)] = epoch.schedule
    if whole:
        loop = _jit(_loop, epoch.minibatch, epoch.update)
        carry = loop(epoch.shared, carry, rows, batches, factors, whole)
    if rest:
        last = _jit(_batch_update, epoch.minibatch, epoch.update)
        carry = last(epoch.shared, carry, rows, batches[whole], factors[whole], (rest,))
    return carry


def _padding(X: Any, n: int) -> int:
    """Return how many rows to add to n: up to a power of 2, of many at most an eighth.

    Examples
    --------
    >>> X = np.zeros((3, 100))
    >>> [n + _padding(X, n) for n in (3, 100, 600, 1000, 100_000)]
    [16, 128, 640, 1024, 106496]
    """
    if isinstance(X, Tracer):  # compiled for its shape anyway
        return 0
    power = max(_FEWEST_ROWS, 1 << (n - 1).bit_length())
    step = max(4, power // 16) if power * X.shape[1] > _LITTLE else power
    return -n % step


def _free_memory(device: Any) -> int:
    """Return what JAX's allocator may still take; it holds most of a GPU from the start."""
    statistics = device.memory_stats()
    if not statistics:
        return free_host_memory()
    return statistics["bytes_limit"] - statistics["bytes_in_use"]


def _block_bytes(device: Any) -> int:
    statistics = device.memory_stats()
    return gpu_block_bytes(statistics["bytes_limit"]) if statistics else 16 * 2**20


def _out_of_memory(error: BaseException) -> bool:
    exhausted = str(error).startswith("RESOURCE_EXHAUSTED")
    return is_memory_error(error) or (exhausted and isinstance(error, jax.errors.JaxRuntimeError))


def _narrowed(x: HostArray) -> HostArray:
    """Return integers that JAX would cut to 32 bits as floats, which are only rounded."""
    if x.dtype.kind not in "iu" or not x.size:
        return x
    bounds = np.iinfo(jax.dtypes.canonicalize_dtype(x.dtype))
    if bounds.bits == 8 * x.itemsize:
        return x
    fits = bounds.min <= x.min() and x.max() <= bounds.max
    return x if fits else x.astype(np.float32)


def _is_sparse(x: Any) -> bool:
    return type(x).__module__.startswith("jax.experimental.sparse")  # not to import it


def _refuses(x: Any) -> str | None:
    if _is_sparse(x):
        return (
            f"is a sparse matrix of JAX, {type(x).__name__}, whose products are not as exact as "
            "dense ones; give one of SciPy, with backend='numpy', or a small one as todense()"
        )
    if _traced(x):
        return "is traced by jax.jit, grad or vmap: it has no values; fit outside of them"
    return "was deleted, or donated to a function; keep a copy" if x.is_deleted() else None


def _traced(x: jax.Array) -> bool:
    return isinstance(x, Tracer)


@contextmanager
def _settings(gradients: bool) -> Generator[None]:
    # A fit of known rows within a function that is traced is no part of it.
    outside = nullcontext() if gradients else jax.ensure_compile_time_eval()
    with (
        outside,
        jax.debug_nans(False),  # NaN is what is not known: a score without validation, say
        jax.debug_infs(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.transfer_guard("allow"),
    ):
        yield


def _processor() -> str:
    """Return what tells processors apart: code for one may be wrong for another."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        found = re.search(r"^(flags|Features)\s*:.*", text, re.MULTILINE)
        if found is not None:
            return hashlib.sha256(found[0].encode()).hexdigest()[:12]
    return platform.machine()


def _private(folder: Path) -> bool:
    """Make a folder; return whether nobody else may write there: what JAX reads, it runs."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    own = os.name != "posix" or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
    return own and os.access(folder, os.W_OK | os.X_OK)


def _keep_compiled() -> None:
    """Keep what is compiled for other processes, unless somebody has decided where, or against it.

    A fit compiles about a hundred functions, none of which takes the second that JAX asks for.
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    with suppress(OSError, RuntimeError):  # nowhere to write, or no home
        root = Path(os.environ.get("XDG_CACHE_HOME", ""))
        root = root if root.is_absolute() else Path.home() / ".cache"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = root / "xplinear" / "jax" / _processor()
        if all(map(_private, (*folder.parents[1::-1], folder))):
            config.update("jax_compilation_cache_dir", str(folder))
            # Another process may be writing, or the disk be full: it is compiled then.
            warnings.filterwarnings("ignore", "Error (read|writ)ing persistent compilation cache")
            least = "jax_persistent_cache_min_compile_time_secs"
            if least.upper() not in os.environ and getattr(config, least) == 1.0:
                config.update(least, 0.0)


_keep_compiled()


def _on(device: Any) -> Backend:
    def move(x: Any) -> jax.Array:
        if isinstance(x, Tracer):
            return x  # it will be where what it is computed with is
        return jax.device_put(x if isinstance(x, jax.Array) else _narrowed(native(x)), device)

    def near(x: Any) -> Any:
        held = isinstance(x, Tracer) or (
            device.platform != "cpu" and x.size * x.dtype.itemsize > _AT_HAND
        )
        return x if held else np.asarray(x)

    def synchronize() -> None:
        """Wait for all results: a new transfer would overtake what is being computed."""
        arrays = jax.live_arrays(device.platform)
        jax.block_until_ready([a for a in arrays if device in a.devices()])

    return Backend(
        name="jax" if device == jax.devices()[0] else f"jax:{device.platform}:{device.id}",
        xp=jnp,
        device=device,
        move=move,
        fetch=np.asarray,
        is_sparse=_is_sparse,
        refuses=_refuses,
        traced=_traced,
        settings=_settings,
        block_bytes=_block_bytes(device),
        free_columns=1 if device.platform == "cpu" else GPU_COLUMNS,
        free_memory=partial(_free_memory, device),
        own_memory=bool(device.memory_stats()),
        out_of_memory=_out_of_memory,
        synchronize=synchronize,
        compiles=True,
        warm=lambda: cast("Any", jax.config).jax_compilation_cache_dir,
        padding=_padding,
        near=near,
        compile=_jit,
        loop=_repeat,
        write=_jit(written),
        fold=_fold,
        double_precision=partial(jax.enable_x64, True),
        tensor_cores=device.platform in ("cuda", "gpu"),
    )


def select(device: str) -> Backend:
    """Return the backend on JAX's default device, or on ``cpu``, ``cuda``, ``cuda:1`` ..."""
    platform, _, number = device.partition(":")
    try:
        devices = {a.id: a for a in jax.devices(platform or None)}
        return _on(devices[int(number or min(devices))])
    except (RuntimeError, KeyError, ValueError) as error:
        msg = f"JAX {jax.__version__} has no device {device!r} here ({error})"
        raise BackendError(msg) from error


def follow(x: Any) -> Backend:
    """Return the backend on the device of ``x``, on the first of several."""
    if _is_sparse(x) or _traced(x) or x.is_deleted():
        return select("")
    return _on(min(x.devices(), key=lambda device: device.id))


def describe() -> tuple[str, list[str]]:
    """Return version and devices."""
    return jax.__version__, [f"{device.platform}:{device.id}" for device in jax.devices()]
