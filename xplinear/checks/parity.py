"""The same data on every backend: losses, gradients and SGD steps compared with NumPy float64."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from xplinear.arguments import NONE, TEXT, instance, one_of, sequence
from xplinear.backends import Backend, BackendError, available_backends, get_backend
from xplinear.data import ArrayData, Data, SparseData
from xplinear.losses import LOSSES
from xplinear.minimize import minimize
from xplinear.namespace import HostArray
from xplinear.objective import Objective, Params
from xplinear.penalties import PENALTIES
from xplinear.solvers import SGD

__all__ = [
    "TOLERANCES",
    "WEIGHT_TOLERANCES",
    "Comparison",
    "compare",
    "random_objective",
    "takes_sparse_rows",
]

TOLERANCES = {"float64": 1e-12, "float32": 1e-5}
WEIGHT_TOLERANCES = {"float64": 1e-10, "float32": 1e-4}

_SGD = SGD(max_iter=10, batch_size=64)  # 100 steps
# A score that rounding puts on the other side of a kink changes the gradient of its row by 1:
# steps so short that this stays within the tolerance, from weights whose scores are no ties.
_KINKED_SGD = replace(_SGD, learning_rate=3e-4, schedule="constant", patience=11)


class Comparison(NamedTuple):
    """Largest differences from NumPy float64, relative to the largest value there."""

    backend: str
    dtype: str
    loss: str
    penalty: str
    loss_error: float
    gradient_error: float
    weights_error: float

    @property
    def passed(self) -> bool:
        """Whether every difference is within its tolerance."""
        errors = self.loss_error, self.gradient_error  # either may be NaN
        within = all(error <= TOLERANCES[self.dtype] for error in errors)
        return within and self.weights_error <= WEIGHT_TOLERANCES[self.dtype]


def compare(
    backends: Sequence[str | Backend] | None = None,
    dtypes: Sequence[str] = ("float64", "float32"),
    losses: Sequence[str] | None = None,
    penalties: Sequence[str] | None = None,
) -> list[Comparison]:
    """Compare backends with NumPy in float64.

    Parameters
    ----------
    backends : sequence of str, optional
        All that can be used here by default.
    dtypes : sequence of str
        ``"float64"``, ``"float32"``.
    losses, penalties : sequence of str, optional
        All by default.

    Returns
    -------
    list of Comparison
        For each combination the relative differences of the objective, of its gradient, and
        of the weights after 100 SGD steps on identical batches. Objective and gradient are also
        those of sparse rows, where the backend takes them; NumPy's are of the same rows, dense.

    Examples
    --------
    >>> all(row.passed for row in compare(["numpy"], losses=["softmax"]))
    True
    """
    backend = TEXT | instance(Backend, "a Backend")
    backends = (sequence(backend, "a sequence of backends") | NONE)("backends", backends)
    dtypes = sequence(one_of(*TOLERANCES), "a sequence of 'float64', 'float32'")("dtypes", dtypes)
    of_losses = sequence(one_of(*LOSSES), f"a sequence of {', '.join(LOSSES)}")
    losses = (of_losses | NONE)("losses", losses)
    of_penalties = sequence(one_of(*PENALTIES), f"a sequence of {', '.join(PENALTIES)}")
    penalties = (of_penalties | NONE)("penalties", penalties)
    if backends is None:
        backends = [status.name for status in available_backends() if status.available]
    rows: list[Comparison] = []
    for loss in losses or LOSSES:
        for penalty in penalties or PENALTIES:
            numpy = get_backend("numpy").reference()
            reference = _measure(numpy, "float64", loss, penalty, sparse=False)
            for backend in map(get_backend, backends):
                for dtype in dtypes:
                    sparse = takes_sparse_rows(backend)
                    measured = _measure(backend, dtype, loss, penalty, sparse=sparse)
                    errors = (_difference(a, b) for a, b in zip(measured, reference, strict=True))
                    rows.append(Comparison(backend.name, dtype, loss, penalty, *errors))
    return rows


def random_objective(
    backend: Backend,
    dtype: Any,
    loss: str,
    penalty: str,
    *,
    shape: tuple[int, int, int] = (640, 20, 5),
    alphas: Sequence[float] = (1e-3, 1e-1),
    labels: int = 1,
    seed: int = 7,
    density: float = 1.0,
    sparse: bool = False,
) -> tuple[Objective, Params]:
    """Return the objective of a few models, and a point, that backends are compared on.

    The models share their labels, or with as many ``labels`` as models each has its own.
    The shape is that of rows, features and classes, of which there must be at least as many
    features. A ``density`` below 1 makes others than so many values 0; these rows may be sparse.
    """
    (n, p, k), m = shape, len(alphas)
    random = np.random.Generator(np.random.PCG64(seed))
    # Values that float32 holds exactly: the same problem in either precision.
    X = random.standard_normal((n, p)).astype(np.float32)
    y = np.argmax(X[:, :k] + random.gumbel(size=(n, k)), axis=1).astype(np.int32)
    y = y if labels == 1 else np.stack([(y + j) % k for j in range(labels)], axis=1)
    s = random.integers(0, 4, size=(n, 1)).astype(np.float32)
    W = random.standard_normal((p, m, k)).astype(np.float32)
    b = random.standard_normal((m, k)).astype(np.float32)
    alpha = np.asarray(alphas, dtype=np.float32)
    X = np.where(random.random(X.shape) < density, X, np.float32(0.0))
    s, W, b, alpha = (backend.asarray(a, dtype) for a in (s, W, b, alpha))
    if sparse:
        rows = backend.sparse(csr_array(X))
        data: Data = SparseData(rows, backend.asarray(y), s, dtype, backend=backend)
    else:
        rows = backend.asarray(X, dtype)
        data = ArrayData(rows, backend.asarray(y), s, backend=backend)
    accelerated = backend.accelerated(LOSSES[loss]())
    return Objective(accelerated, PENALTIES[penalty](), alpha, data, k), Params(W, b)


def takes_sparse_rows(backend: Backend) -> bool:
    """Return whether a backend has products of sparse matrices.

    Examples
    --------
    >>> takes_sparse_rows(get_backend("numpy"))
    True
    """
    try:
        backend.sparse(csr_array((1, 1), dtype=np.float32))
    except BackendError:
        return False
    return True


def _measure(
    backend: Backend, dtype: str, loss: str, penalty: str, *, sparse: bool
) -> tuple[list[HostArray], ...]:
    """Return three objectives, their gradients, and the weights after 100 SGD steps of the first.

    The rows of the third hold many zeros.
    """
    with backend.double_precision() if dtype == "float64" else nullcontext():
        what = backend, getattr(backend.xp, dtype), loss, penalty
        objective, params = random_objective(*what)
        own, _ = random_objective(*what, labels=2)
        thin, _ = random_objective(*what, density=0.3, sparse=sparse)
        all_ = (F.value_and_grad(params) for F in (objective, own, thin))
        values, grads = zip(*all_, strict=True)
        smooth = objective.loss.smooth
        start, solver = (objective.zeros(), _SGD) if smooth else (params, _KINKED_SGD)
        trained = minimize(objective, solver, start).params
        return tuple(
            [backend.to_host(a).astype(np.float64) for a in arrays]
            for arrays in (values, [a for grad in grads for a in grad], trained)
        )


def _difference(measured: list[HostArray], reference: list[HostArray]) -> float:
    scale = max(float(np.abs(a).max()) for a in reference)
    return max(float(np.abs(a - b).max()) / scale for a, b in zip(measured, reference, strict=True))
