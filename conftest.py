"""Settings of the whole test run, the doctests of the package included."""

from __future__ import annotations

import os
from importlib.util import find_spec

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures are written, never shown
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn's array API tests ask for it

if "PYTEST_XDIST_WORKER" in os.environ:  # every core has a worker already
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# SciPy and OpenBLAS read their settings when they are imported.
from xplinear.backends import BACKENDS

# A backend's file imports its library: doctests can only be collected where it is installed.
collect_ignore = [
    f"xplinear/backends/{name}.py"
    for name, backend in BACKENDS.items()
    if find_spec(backend.roots[0]) is None
]
