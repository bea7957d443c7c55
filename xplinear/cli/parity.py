"""``xplinear parity``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated

import numpy as np

from xplinear.checks.parity import TOLERANCES, WEIGHT_TOLERANCES, Comparison, compare
from xplinear.cli.options import Backends, Json, Losses, backends_of, names_of, option
from xplinear.cli.terminal import Table, conclude, status
from xplinear.losses import LOSSES

__all__ = ["parity"]


def parity(
    backends: Backends = None,
    dtypes: Annotated[
        str | None, option(help=f"Of {', '.join(TOLERANCES)}.", words=TOLERANCES)
    ] = None,
    losses: Losses = None,
    as_json: Json = False,
) -> None:
    """Compare losses, gradients and SGD steps of all backends with NumPy float64."""
    with status("comparing with NumPy float64"):
        rows = compare(
            backends_of(backends),
            names_of("--dtypes", dtypes, list(TOLERANCES)),
            names_of("--losses", losses, list(LOSSES)),
        )
    record = [{**row._asdict(), "passed": row.passed} for row in rows]
    limits = "; ".join(
        f"{name} {limit:g}, weights {WEIGHT_TOLERANCES[name]:g}"
        for name, limit in TOLERANCES.items()
    )
    passed, what = [row.passed for row in rows], f"comparisons within tolerance ({limits})"
    conclude(record, [_table(rows)], passed, what, as_json=as_json)


def _table(rows: Sequence[Comparison]) -> Table:
    """Return a table of the largest errors over all penalties, sorted by backend."""
    names = list(dict.fromkeys(row.backend for row in rows))

    def key(row: Comparison) -> tuple[int, int, int]:
        order = names.index(row.backend), list(TOLERANCES).index(row.dtype)
        return *order, list(LOSSES).index(row.loss)

    table = Table(
        "backend",
        "dtype",
        "loss",
        *("loss error", "gradient error", "weights error"),
        "result",
        caption="relative differences, the largest over all penalties; weights after 100 SGD steps",
    )
    for _, group in groupby(sorted(rows, key=key), key):
        same = list(group)
        one = same[0]
        # Not max(): it would lose a NaN.
        errors = np.max([[r.loss_error, r.gradient_error, r.weights_error] for r in same], axis=0)
        broken = [row.penalty for row in same if not row.passed]
        result = f"BROKEN: {', '.join(broken)}" if broken else "passed"
        cells = (one.backend, one.dtype, one.loss, *(f"{error:.1e}" for error in errors), result)
        table.add_row(*cells, style="red" if broken else None)
    return table
