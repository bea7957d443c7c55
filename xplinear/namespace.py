"""The array API standard as the maths sees it: which namespace, which accumulator.

The only file that imports ``array_api_compat``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import array_api_compat
import numpy as np

__all__ = ["Array", "Namespace", "accumulator", "array_namespace", "device", "is_array"]

# The standard defines no static types for arrays or namespaces.
Array: TypeAlias = Any
Namespace: TypeAlias = Any
HostArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]

device = array_api_compat.device
is_array = array_api_compat.is_array_api_obj


def array_namespace(*arrays: Array, xp: Namespace = None) -> Namespace:
    """Return ``xp`` if given, else the array API namespace of the arrays.

    Parameters
    ----------
    *arrays : Array
        Arrays of one library; Python scalars are ignored.
    xp : Namespace, optional
        Returned as it is: inner code passes it on and nothing is inferred twice.

    Raises
    ------
    TypeError
        If the arrays belong to no array API library, or to more than one.

    Examples
    --------
    >>> import numpy as np
    >>> array_namespace(np.ones(3)).__name__
    'array_api_compat.numpy'
    """
    return array_api_compat.array_namespace(*arrays) if xp is None else xp


def accumulator(x: Array, *, xp: Namespace) -> Any:
    """Return the dtype for sums that decide something: float64 where the device has it.

    Examples
    --------
    >>> import numpy as np
    >>> accumulator(np.ones(3, dtype=np.float32), xp=array_namespace(np.ones(3)))
    dtype('float64')
    """
    return widest(device(x), xp=xp)


def widest(device: Any, *, xp: Namespace) -> Any:
    """Return float64 where a device has it, else float32.

    Examples
    --------
    >>> widest("cpu", xp=array_namespace(np.ones(3)))
    dtype('float64')
    """
    floats = xp.__array_namespace_info__().dtypes(device=device, kind="real floating")
    return floats.get("float64", xp.float32)


def name_of(dtype: Any) -> str:
    """Return the name of a dtype, the same in every library and byte order.

    Examples
    --------
    >>> name_of(np.dtype(">f4"))
    'float32'
    """
    try:
        return np.dtype(dtype).name
    except (TypeError, ValueError):  # of a library that NumPy does not know
        return str(dtype).rpartition(".")[2]
