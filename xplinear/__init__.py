"""Linear classifiers on any array library.

Minimizes, for m ≥ 1 models at once,

    F_j(W_j, b_j) = (1 / Σ_i s_ij) Σ_i s_ij ℓ(x_i W_j + b_j, y_ij) + α_j Ω(W_j)

and the package is that formula, read from the ground up; every room knows those before it.

===============  ===============================================================
namespace        the array API standard: which library an array is of
arguments        what an argument may be, and what is said of one that is not
losses           ℓ: scores and labels in, value and gradient out
penalties        Ω: value, gradient, prox
backends         which array library, which device; how its rows move and its code compiles
data             where rows x_i, dense or sparse, labels y and weights s come from; products with X
objective        F over blocks of rows
duality          a proven lower bound of F
solvers          gd, lbfgs, newton_cg …: a configuration, a state, a step; which one suits
minimize         the only loop: stopping, history, callbacks, interrupts, going on
checks           gradients, certificates, parity: what makes a result believable
datasets         data sets by name, files of rows, tables with texts made ready
formats          a fitted model as a value: its file, scikit-learn, ONNX
estimator        settings, what they pose as a problem, of one label or many: LinearClassifier
model_selection  strengths, folds and labels through one X: LinearClassifierCV
bench            how fast each backend is, beside what its device can do
plot, cli        pictures, and the command line, a file for each command
===============  ===============================================================

``certificate``, ``gradients``, ``parity`` and ``persist`` are names of what stands in rooms.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from xplinear import losses, parity, penalties, solvers
from xplinear.backends import BackendError, available_backends, get_backend, use_backend
from xplinear.certificate import Certificate
from xplinear.data.scanned import scan
from xplinear.estimator import LinearClassifier
from xplinear.formats.checkpoint import Checkpoint
from xplinear.gradients import check_gradient, numerical_gradient
from xplinear.minimize import minimize
from xplinear.model_selection import LinearClassifierCV
from xplinear.objective import Objective, Params
from xplinear.persist import load
from xplinear.version import VERSION

if TYPE_CHECKING:
    from types import ModuleType

    from xplinear import bench as bench
    from xplinear import cli as cli
    from xplinear import datasets as datasets
    from xplinear import plot as plot
else:
    _ON_DEMAND = ("bench", "cli", "datasets", "plot")

    def __getattr__(name: str) -> ModuleType:
        """Import the modules that `import xplinear` has no time for."""
        if name not in _ON_DEMAND:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        try:
            return import_module(f"{__name__}.{name}")
        except ImportError as error:
            # help() and completion skip an attribute that is not there, nothing else.
            raise AttributeError(str(error), name=name) from error

    def __dir__() -> list[str]:
        return sorted({*globals(), *_ON_DEMAND})


__version__ = VERSION

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until a program asks

__all__ = [
    "BackendError",
    "Certificate",
    "Checkpoint",
    "LinearClassifier",
    "LinearClassifierCV",
    "Objective",
    "Params",
    "available_backends",
    "check_gradient",
    "get_backend",
    "load",
    "losses",
    "minimize",
    "numerical_gradient",
    "parity",
    "penalties",
    "scan",
    "solvers",
    "use_backend",
]
