"""``xplinear check-gradient``."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any

import numpy as np

from xplinear.backends import Backend
from xplinear.checks.gradients import GradientCheck, check_gradient
from xplinear.checks.parity import random_objective, takes_sparse_rows
from xplinear.cli.options import Backends, Json, Losses, backends_of, names_of, option
from xplinear.cli.terminal import Table, conclude, status
from xplinear.losses import LOSSES
from xplinear.objective import Params
from xplinear.penalties import PENALTIES

__all__ = ["check_gradients"]


def check_gradients(
    backends: Backends = None,
    losses: Losses = None,
    penalties: Annotated[
        str | None, option(help=f"Of {', '.join(PENALTIES)}; all by default.", words=PENALTIES)
    ] = None,
    seed: Annotated[int, option(min=0, help="Of the random data.")] = 0,
    as_json: Json = False,
) -> None:
    """Check the gradient of every objective against differences, in float64.

    Of dense rows, and of sparse ones where the backend takes them: the worse one is shown.
    """
    chosen = product(
        backends_of(backends),
        names_of("--losses", losses, list(LOSSES)),
        names_of("--penalties", penalties, list(PENALTIES)),
    )
    table = Table(
        "backend", "loss", "penalty", "largest relative error", "where", "kinks", "result"
    )
    record: list[dict[str, Any]] = []
    with status("checking gradients"):
        for backend, loss, penalty in chosen:
            kinds = [False, True] if takes_sparse_rows(backend) else [False]
            checks = [_checked(backend, loss, penalty, seed, sparse=sparse) for sparse in kinds]
            check = max(checks, key=lambda one: (not one.passed, one.max_relative_error))
            found = ("max_relative_error", "coordinates", "kinks", "passed")
            about = {"backend": backend.name, "loss": loss, "penalty": penalty}
            record.append(about | {name: getattr(check, name) for name in found})
            table.add_row(
                *about.values(),
                f"{check.max_relative_error:.1e}",
                f"{check.array}{list(check.index)}",
                f"{check.kinks} of {check.coordinates}",
                "passed" if check.passed else "WRONG",
                style=None if check.passed else "red",
            )
    passed = [one["passed"] for one in record]
    conclude(record, [table], passed, "gradients agree with differences", as_json=as_json)


def _checked(
    backend: Backend, loss: str, penalty: str, seed: int, *, sparse: bool
) -> GradientCheck:
    with backend.double_precision():
        objective, (W, b) = random_objective(
            *(backend, backend.xp.float64, loss, penalty),
            shape=(20, 4, 3),
            alphas=[0.1],
            seed=seed,
            density=0.5 if sparse else 1.0,
            sparse=sparse,
        )
        first = backend.asarray(np.arange(4.0)[:, None, None] == 0.0)
        point = Params(backend.xp.where(first, 0.0, W), b)  # where L1 has kinks
        return check_gradient(objective, point)
