"""``xplinear backends``."""

from __future__ import annotations

import time
from typing import Annotated, Any, NamedTuple

import numpy as np

from xplinear.backends import Backend, available_backends, get_backend
from xplinear.cli.options import Json, option
from xplinear.cli.terminal import Table, show
from xplinear.estimator import LinearClassifier

__all__ = ["backends"]

Warm = Annotated[
    bool, option("--warm", help="Compile ahead what first fits need, where that can be kept.")
]


class _Warmed(NamedTuple):
    """A backend, where its compiled code is kept, and whether it was compiled ahead."""

    backend: str
    folder: str
    seconds: float
    ahead: bool

    def __str__(self) -> str:
        if self.ahead:
            return f"{self.backend}: compiled in {self.seconds:.1f} s, kept in {self.folder}"
        return f"{self.backend}: compiles for the shapes of each fit, kept in {self.folder}"


def backends(warm: Warm = False, as_json: Json = False) -> None:
    """List the array libraries: what works here, and why the others do not."""
    found, auto = available_backends(), get_backend("auto").name
    table = Table("backend", "version", "devices")
    for status in found:
        if status.available:
            table.add_row(status.name, status.version, ", ".join(status.devices))
        else:
            table.add_row(status.name, "–", f"not available: {status.reason}", style="dim")
    record: dict[str, Any] = {"auto": auto, "backends": [status._asdict() for status in found]}
    said = [table, f"auto is {auto}"]
    if warm:
        kept = [_warmed(get_backend(status.name)) for status in found if status.available]
        warmed = [one for one in kept if one is not None]
        record["warmed"] = [one._asdict() for one in warmed]
        said += map(str, warmed or ["nothing is compiled here"])
    show(record, said, as_json=as_json)


def _warmed(backend: Backend) -> _Warmed | None:
    """Compile ahead on a backend; None where nothing is compiled."""
    start = time.perf_counter()
    folder = backend.warm()
    if folder is None:
        return None
    if not backend.compiles:
        _fit_little(backend)
    seconds = time.perf_counter() - start
    return _Warmed(backend.name, folder, seconds, ahead=not backend.compiles)


def _fit_little(backend: Backend) -> None:
    """Meet what the library itself compiles when it is first used."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 4)), rng.integers(0, 3, 60)
    fits: tuple[dict[str, Any], ...] = (
        *({"solver": "lbfgs"}, {"solver": "newton"}, {"solver": "sgd"}),
        {"penalty": "l1"},
    )
    for dtype in (np.float32, np.float64):
        for settings in fits:
            clf = LinearClassifier(**settings, tol=0.1, random_state=0, backend=backend)
            clf.fit(X.astype(dtype), y).predict_proba(X.astype(dtype))
