"""Linear classifiers on any array library.

Minimizes, for m ≥ 1 models at once,

    F_j(W_j, b_j) = (1 / Σ_i s_ij) Σ_i s_ij ℓ(x_i W_j + b_j, y_i) + α_j Ω(W_j)

and the package is that formula, read from the inside out:

=================  =============================================================
losses             ℓ: scores and labels in, value and gradient out
penalties          Ω: value, gradient, prox
objective          F over blocks of rows
gradients          numerical gradients and the gradient check
duality            conjugates of both, and a proven lower bound of F
solvers            gd, lbfgs, interior_point …: a configuration, a state, a step
minimize           the only loop: stopping, history, callbacks, interrupts
certificate        how far from the optimum a fit can be at most, and why it stopped
standardize        standardized features, folded into the weights
data               where rows come from, device or host: blocks and shuffled mini-batches
backends           which array library, which device
estimator          LinearClassifier, scikit-learn's conventions
scoring, sweep     scores on the device; strengths and folds through one X
model_selection    LinearClassifierCV
parity             the same fit on every backend, compared
bench, machine     how fast each backend is, beside what its device can do
tables             tables of pandas, polars and pyarrow as X and y
convert,           to and from scikit-learn, to ONNX
onnx_export
persist, plot,     files, pictures, data sets by name, tables with text, the command line
datasets,
preparation, cli
=================  =============================================================
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from xplinear import losses, parity, penalties, solvers
from xplinear.backends import BackendError, available_backends, get_backend, use_backend
from xplinear.certificate import Certificate
from xplinear.estimator import LinearClassifier
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
    "solvers",
    "use_backend",
]
