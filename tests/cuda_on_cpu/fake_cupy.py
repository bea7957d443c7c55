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
from threading import Lock
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, Self

import array_api_compat
import array_api_compat.numpy
import numpy as np
import pytest
import scipy.sparse

FOLDER = Path(tempfile.gettempdir()) / f"xplinear-cuda-on-cpu-{getpass.getuser()}"
EMULATION = Path(__file__).with_name("emulation.cpp")


class MemoryPointer:
    """An address, and what holds the memory there."""

    def __init__(self, ptr: int, owner: Any) -> None:
        self.ptr, self.owner = ptr, owner

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.ptr + offset, self.owner)


def alloc(nbytes: int) -> MemoryPointer:
    memory = np.full(nbytes, 77, np.uint8)
    return MemoryPointer(memory.ctypes.data, memory)


class Counts:
    """What CuPy would launch and compile; at least, as a function counts as one kernel.

    Arrays from creation functions are plain until they meet others, and do not count.
    """

    def __init__(self) -> None:
        self.launches = 0
        self.kernels: set[Any] = set()

    def add(self, *kernel: Any) -> None:
        """Count a launch, and its kernel unless a library has it."""
        self.launches += 1
        if kernel:
            self.kernels.add(kernel)


counts = Counts()
_alone = Lock()  # the emulation has one device
_VIEWS = {"reshape", "transpose", "broadcast_to", "expand_dims", "squeeze", "moveaxis", "diagonal"}
_VIEWS |= {"swapaxes", "matrix_transpose", "shape", "ndim", "size", "result_type", "can_cast"}
_VIEWS |= {"may_share_memory", "shares_memory", "broadcast_arrays", "permute_dims", "copyto"}
_LIBRARIES = {"matmul", "vecdot", "solve", "eigh", "inv", "cholesky", "argsort", "sort"}


def _kind(x: Any) -> Any:
    """Return what of an operand CuPy's kernels are compiled for."""
    if not isinstance(x, np.ndarray):
        return type(x).__name__
    return str(x.dtype), 1 if x.flags.c_contiguous or x.flags.f_contiguous else x.ndim


def _plain(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(map(_plain, x)) if type(x) in (tuple, list) else x
    return x.view(np.ndarray) if isinstance(x, np.ndarray) else x


def _wrapped(x: Any) -> Any:
    if isinstance(x, tuple):
        parts = map(_wrapped, x)
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return _device(x) if isinstance(x, (np.ndarray, np.generic)) else x


class _AnyArray(type):
    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, np.ndarray)


class ndarray(np.ndarray, metaclass=_AnyArray):  # noqa: N801 - the name CuPy gives it
    """A NumPy array that has CuPy's pointer, and cannot be read by accident."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
        libraries = ufunc.__name__ in _LIBRARIES
        axes = str(named.get("axis"))
        kernel = () if libraries else (ufunc.__name__, method, axes, *map(_kind, inputs))
        counts.add(*kernel)
        named = {key: _plain(value) for key, value in named.items()}
        return _wrapped(getattr(ufunc, method)(*map(_plain, inputs), **named))

    def __array_function__(self, function: Any, types: Any, args: Any, named: Any) -> Any:
        name = function.__name__
        if name not in _VIEWS:
            counts.add(*() if name in _LIBRARIES else (name, *map(_kind, args)))
        named = {key: _plain(value) for key, value in named.items()}
        return _wrapped(function(*map(_plain, args), **named))

    def astype(self, dtype: Any, *args: Any, copy: bool = True, **named: Any) -> Any:
        """Count a cast."""
        if copy or np.dtype(dtype) != self.dtype:
            counts.add("astype", str(dtype), _kind(self))
        return super().astype(dtype, *args, copy=copy, **named)

    def __new__(
        cls, shape: Any, dtype: Any, memptr: MemoryPointer, strides: tuple[int, ...]
    ) -> Self:
        """Return an array at a pointer."""
        interface = {"data": (memptr.ptr, False), "shape": shape, "strides": strides}
        interface |= {"typestr": np.dtype(dtype).str, "version": 3}
        owner = SimpleNamespace(__array_interface__=interface, owner=memptr.owner)
        return np.asarray(owner).view(cls)

    @property
    def data(self) -> Any:
        return MemoryPointer(self.ctypes.data, self)

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
        self,
        code: str,
        name: str,
        options: tuple[str, ...],
        *,
        enable_cooperative_groups: bool = False,
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
        self._options = options
        self._name = name
        self._cooperative = enable_cooperative_groups
        self.kernel = Function(self, name)
        self.max_dynamic_shared_size_bytes = 48 * 1024
        self.launches = 0

    def compile(self) -> None:
        """Return at once: it is compiled."""
        counts.kernels.add((self._name, self._options))

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        self.kernel(grid, block, args, shared_mem, enable_cooperative_groups=self._cooperative)

    def run(
        self, grid: Any, block: Any, args: tuple[Any, ...], shared_mem: int, *, together: bool
    ) -> None:
        counts.add(self._name, self._options)
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        if together:
            blocks = Device().attributes["MultiProcessorCount"] * occupancy(
                self._name, block[0], shared_mem
            )
            assert grid[0] <= blocks, "the blocks do not fit at once"
        values = []
        for i, a in enumerate(args):
            if isinstance(a, np.ndarray) and type(a) is not ndarray:
                assert a.size == 1, "an array of the host"
                values.append((ctypes.c_char * a.itemsize).from_buffer_copy(a.tobytes()))
            elif isinstance(a, np.ndarray):
                X = i == 0 and self._name in {"sgd", "gather", "one_read"}
                assert a.flags.c_contiguous or X, "strides the kernel is not told of"
                values.append(ctypes.c_void_p(a.ctypes.data))
            else:
                assert isinstance(a, np.generic), f"{a!r} has no dtype"
                values.append((ctypes.c_char * a.itemsize).from_buffer_copy(a.tobytes()))
        sizes = (ctypes.c_size_t * len(values))(*(ctypes.sizeof(v) for v in values))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        shape = (ctypes.c_uint * 3)(grid[0], *(*block, 1)[:2])
        with _alone:
            status = self._launch(
                shape, ctypes.c_size_t(shared_mem), pointers, sizes, ctypes.c_size_t(len(values))
            )
        assert status == 0, "arguments of the wrong types, or memory that is not the kernel's"


class Function:
    """A kernel on the one device."""

    def __init__(self, kernel: RawKernel, ptr: str) -> None:
        self._kernel, self.ptr = kernel, ptr

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        shared_mem: int = 0,
        *,
        enable_cooperative_groups: bool = False,
    ) -> None:
        self._kernel.run(grid, block, args, shared_mem, together=enable_cooperative_groups)


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


def occupancy(kernel: str, threads: int, shared: int) -> int:
    if kernel == "fused":
        return 1  # each thread of a block costs the emulation more than its work does
    return min(2048 // threads, 228 * 1024 // (shared + 1024))


def _gemm(dtype: str) -> Any:
    real = np.dtype(dtype)

    def matrix(pointer: int, rows: int, columns: int, leading: int) -> np.ndarray[Any, Any]:
        buffer = (ctypes.c_char * (leading * columns * real.itemsize)).from_address(pointer)
        return np.frombuffer(buffer, real).reshape(columns, leading)[:, :rows].T

    def gemm(handle: int, a: int, b: int, m: int, n: int, k: int, *pointers: int) -> None:
        counts.add()
        alpha, A, lda, B, ldb, beta, C, ldc = pointers
        left = matrix(A, k, m, lda).T if a else matrix(A, m, k, lda)
        right = matrix(B, n, k, ldb).T if b else matrix(B, k, n, ldb)
        assert [matrix(number, 1, 1, 1)[0, 0] for number in (alpha, beta)] == [1.0, 0.0]
        matrix(C, m, n, ldc)[...] = left @ right

    return gemm


class _Sparse:
    """A matrix of `cupyx.scipy.sparse`: on the device, and never seen by SciPy or NumPy."""

    __array_ufunc__ = None

    def __init__(self, parts: tuple[Any, ...], shape: tuple[int, int]) -> None:
        assert all(type(a) is ndarray for part in parts for a in _each(part)), "arrays of the host"
        assert parts[0].dtype.char in "?fd", "CuPy has no such matrices"
        self.parts, self.shape, self.device = parts, shape, Device()
        self.dtype, self.has_canonical_format = parts[0].dtype, False

    def get(self) -> Any:
        """Return the matrix on the host."""
        own = getattr(scipy.sparse, type(self).__name__)
        return own(tuple(map(_plain, self.parts)), shape=self.shape, copy=True)

    def _refuse(self, *args: object) -> Any:
        msg = "implicit conversion of a sparse matrix to the host"
        raise TypeError(msg)

    __array__ = __len__ = __iter__ = _refuse


def _each(part: Any) -> tuple[Any, ...]:
    return part if isinstance(part, tuple) else (part,)


class csr_matrix(_Sparse):  # noqa: N801 - the name CuPy gives it
    """Compressed rows; indices of 64 bits are cut, as CuPy 13 does."""

    __module__ = "cupyx.scipy.sparse"

    def __init__(self, parts: tuple[Any, ...], shape: tuple[int, int]) -> None:
        super().__init__((parts[0], *(a.astype(np.int32, copy=False) for a in parts[1:])), shape)

    def __matmul__(self, D: Any) -> ndarray:
        assert self.has_canonical_format, "the host read a value"
        assert type(D) is ndarray, "an array of the host"
        counts.add()
        return np.asfortranarray(self.get() @ _plain(D)).view(ndarray)


class csc_matrix(_Sparse):  # noqa: N801 - the name CuPy gives it
    """Compressed columns."""

    __module__ = "cupyx.scipy.sparse"


class coo_matrix(_Sparse):  # noqa: N801 - the name CuPy gives it
    """Values and their places."""

    __module__ = "cupyx.scipy.sparse"


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
    driver = _module(
        "cupy.cuda.driver",
        occupancyMaxActiveBlocksPerMultiprocessor=occupancy,
        CUDADriverError=type("CUDADriverError", (RuntimeError,), {}),
    )
    cuda = _module(
        "cupy.cuda",
        Device=Device,
        device=SimpleNamespace(get_cublas_handle=lambda: 0),
        alloc=alloc,
        get_current_stream=lambda: SimpleNamespace(ptr=0, synchronize=lambda: None),
        driver=driver,
        cublas=cublas,
        runtime=runtime,
    )
    cupy = _module(
        "cupy",
        __version__="0",
        ndarray=ndarray,
        counts=counts,
        cuda=cuda,
        RawKernel=RawKernel,
        float32=np.float32,
        array=lambda x, order: np.array(x, order=order).view(ndarray),
        asarray=_device,
        asnumpy=np.array,
        arange=lambda n, dtype: np.arange(n, dtype=dtype).view(ndarray),
        asfortranarray=lambda x: np.asfortranarray(x).view(ndarray),
        ascontiguousarray=lambda x, dtype=None: np.ascontiguousarray(x, dtype).view(ndarray),
        empty=lambda shape, dtype: np.full(shape, 77, dtype).view(ndarray),
        empty_like=lambda x: np.full(x.shape, 77, x.dtype).view(ndarray),
        zeros=lambda shape, dtype: np.zeros(shape, dtype).view(ndarray),
        zeros_like=np.zeros_like,
        get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0),
    )
    matrices = (csr_matrix, csc_matrix, coo_matrix)
    sparse = _module("cupyx.scipy.sparse", **{kind.__name__: kind for kind in matrices})
    cupyx = _module("cupyx", scipy=_module("cupyx.scipy", sparse=sparse))
    modules = {
        "cupy": cupy,
        "cupy._core": _module("cupy._core", _routines_linalg=linalg),
        "cupy._core._routines_linalg": linalg,
        "cupy.cuda": cuda,
        "cupy.cuda.driver": driver,
        "cupy.cuda.cublas": cublas,
        "cupyx": cupyx,
        "cupyx.scipy": cupyx.scipy,
        "cupyx.scipy.sparse": cupyx.scipy.sparse,
        "array_api_compat.cupy": array_api_compat.numpy,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        patch.setattr(array_api_compat, "cupy", array_api_compat.numpy, raising=False)
        yield
