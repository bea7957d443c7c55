"""CuPy on NumPy: enough of it to run the backend's own code on a CPU.

Kernels are compiled by the C++ compiler and run by ``emulation.cpp``. Arguments must have the
types the kernel takes, byte for byte, and arrays must be contiguous where a kernel cannot know
their strides; a copy to the host outside of `asnumpy` is not possible by accident, because the
fake's arrays refuse what would synchronize a GPU.
"""

from __future__ import annotations

import ctypes
import getpass
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, Self

import array_api_compat
import array_api_compat.numpy
import numpy as np
import pytest

FOLDER = Path(tempfile.gettempdir()) / f"xplinear-cuda-on-cpu-{getpass.getuser()}"
EMULATION = Path(__file__).with_name("emulation.cpp")


class ndarray(np.ndarray):  # noqa: N801 - the name CuPy gives it
    """A NumPy array that has CuPy's pointer, and cannot be read by accident."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def _refuse(self, *args: object) -> Any:
        msg = "the host read a value"
        raise AssertionError(msg)

    def __getitem__(self, key: Any) -> Any:
        return _device(super().__getitem__(key))  # no scalar, which the host could read

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        return _device(array)

    __bool__ = __float__ = __int__ = __index__ = item = tolist = _refuse


def _device(x: Any, dtype: Any = None) -> ndarray:
    return np.asarray(x, dtype).view(ndarray)


class RawKernel:
    """A kernel in the emulation."""

    def __init__(
        self, code: str, name: str, options: tuple[str, ...], *, enable_cooperative_groups: bool
    ) -> None:
        source = EMULATION.read_text() + code + str(options)
        library = FOLDER / f"{hashlib.sha256(source.encode()).hexdigest()}.so"
        if not library.exists():
            FOLDER.mkdir(exist_ok=True)
            # Other processes may build the same: each in a folder of its own.
            with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
                kernels, built = Path(folder, "kernels.cu"), Path(folder, "kernels.so")
                kernels.write_text(code)
                command = ["g++", "-O1", "-shared", "-fPIC", "-w", f'-DSOURCE="{kernels}"']
                command += [*options, str(EMULATION), "-o", str(built)]
                subprocess.run(command, check=True)
                built.rename(library)
        self._launch = getattr(ctypes.CDLL(str(library)), f"launch_{name}")
        self._name = name
        self._cooperative = enable_cooperative_groups
        self.kernel = SimpleNamespace(ptr=0)
        self.max_dynamic_shared_size_bytes = 48 * 1024
        self.launches = 0

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        if self._cooperative:
            blocks = Device().attributes["MultiProcessorCount"] * occupancy(0, block[0], shared_mem)
            assert grid[0] <= blocks, "the blocks do not fit at once"
        values = []
        for i, a in enumerate(args):
            if isinstance(a, np.ndarray):
                assert isinstance(a, ndarray), "an array of the host"
                X = i == 0 and self._name in {"sgd", "gather"}
                assert a.flags.c_contiguous or X, "strides the kernel is not told of"
                values.append(ctypes.c_void_p(a.ctypes.data))
            else:
                assert isinstance(a, np.generic), f"{a!r} has no dtype"
                values.append((ctypes.c_char * a.itemsize).from_buffer_copy(a.tobytes()))
        sizes = (ctypes.c_size_t * len(values))(*(ctypes.sizeof(v) for v in values))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        shape = (ctypes.c_uint * 3)(grid[0], *(*block, 1)[:2])
        status = self._launch(
            shape, ctypes.c_size_t(shared_mem), pointers, sizes, ctypes.c_size_t(len(values))
        )
        assert status == 0, "arguments of the wrong types, or memory that is not the kernel's"


class Device(str):
    """The one device; NumPy's creation functions know it as "cpu"."""

    __slots__ = ()

    def __new__(cls, index: int = 0) -> Self:
        return super().__new__(cls, "cpu")

    id = 0
    mem_info = (2**30, 2**31)
    compute_capability = "90"
    attributes: ClassVar = {"MultiProcessorCount": 8, "MaxSharedMemoryPerBlockOptin": 227 * 1024}

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def occupancy(pointer: int, threads: int, shared: int) -> int:
    return min(2048 // threads, 228 * 1024 // (shared + 1024))


def _gemm(dtype: str) -> Any:
    real = np.dtype(dtype)

    def matrix(pointer: int, rows: int, columns: int, leading: int) -> np.ndarray[Any, Any]:
        buffer = (ctypes.c_char * (leading * columns * real.itemsize)).from_address(pointer)
        return np.frombuffer(buffer, real).reshape(columns, leading)[:, :rows].T

    def gemm(handle: int, a: int, b: int, m: int, n: int, k: int, *pointers: int) -> None:
        alpha, A, lda, B, ldb, beta, C, ldc = pointers
        left = matrix(A, k, m, lda).T if a else matrix(A, m, k, lda)
        right = matrix(B, n, k, ldb).T if b else matrix(B, k, n, ldb)
        assert [matrix(number, 1, 1, 1)[0, 0] for number in (alpha, beta)] == [1.0, 0.0]
        matrix(C, m, n, ldc)[...] = left @ right

    return gemm


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


@contextmanager
def installed() -> Iterator[None]:
    """Put the fake where ``import cupy`` finds it."""

    class CUDARuntimeError(RuntimeError):
        pass

    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda i: {"name": b"CPU"},
        CUDARuntimeError=CUDARuntimeError,
    )
    gemms = {"sgemm": _gemm("float32"), "dgemm": _gemm("float64")}
    modes = {"getMathMode": lambda handle: 0, "setMathMode": lambda handle, mode: None}
    cublas = _module("cupy.cuda.cublas", **gemms, **modes, CUBLAS_OP_N=0, CUBLAS_OP_T=1)
    linalg = _module(
        "cupy._core._routines_linalg",
        get_compute_type=lambda dtype: 0,
        set_compute_type=lambda dtype, kind: None,
        COMPUTE_TYPE_DEFAULT=0,
        COMPUTE_TYPE_TF32=1,
    )
    driver = _module("cupy.cuda.driver", occupancyMaxActiveBlocksPerMultiprocessor=occupancy)
    cuda = _module(
        "cupy.cuda",
        Device=Device,
        device=SimpleNamespace(get_cublas_handle=lambda: 0),
        driver=driver,
        cublas=cublas,
        runtime=runtime,
    )
    cupy = _module(
        "cupy",
        __version__="0",
        ndarray=ndarray,
        cuda=cuda,
        RawKernel=RawKernel,
        float32=np.float32,
        array=lambda x, order: np.array(x, order=order).view(ndarray),
        asarray=_device,
        asnumpy=np.array,
        ascontiguousarray=lambda x, dtype=None: np.ascontiguousarray(x, dtype).view(ndarray),
        empty=lambda shape, dtype: np.full(shape, 77, dtype).view(ndarray),
        empty_like=lambda x: np.full(x.shape, 77, x.dtype).view(ndarray),
        zeros=lambda shape, dtype: np.zeros(shape, dtype).view(ndarray),
        zeros_like=np.zeros_like,
        get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0),
    )
    modules = {
        "cupy": cupy,
        "cupy._core": _module("cupy._core", _routines_linalg=linalg),
        "cupy._core._routines_linalg": linalg,
        "cupy.cuda": cuda,
        "cupy.cuda.driver": driver,
        "cupy.cuda.cublas": cublas,
        "cupyx": _module("cupyx"),
        "array_api_compat.cupy": array_api_compat.numpy,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        patch.setattr(array_api_compat, "cupy", array_api_compat.numpy, raising=False)
        yield
