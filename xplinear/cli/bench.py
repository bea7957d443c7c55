"""``xplinear bench``."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from xplinear.backends.machine import machine
from xplinear.bench import CELLS, Measurement, measure, usable_backends
from xplinear.cli.fitting import save_picture
from xplinear.cli.options import BACKEND_NAMES, Json, backends_of, check_file, check_picture, option
from xplinear.cli.terminal import Table, conclude, show, status
from xplinear.formats.writing import written

__all__ = ["bench"]


def bench(
    backends: Annotated[
        str | None,
        option(
            help="Such as numpy,torch:cuda; by default all of numpy, cupy, torch, "
            "torch:cuda, jax that work here.",
            words=BACKEND_NAMES,
        ),
    ] = None,
    seconds: Annotated[float, option(help="How long it may take.")] = 150.0,
    plot: Annotated[Path | None, option(help="Draw the throughput: FILE.png.")] = None,
    out: Annotated[
        Path | None, option(help="Write FILE.csv, and FILE.json: machine and versions.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the throughput of SGD and of full batches on every backend, for stacks of models."""
    check_picture(plot)
    check_file("--out", out, ".csv")
    if not 0.0 < seconds < float("inf"):
        msg = f"--seconds must be a positive number, got {seconds}"
        raise ValueError(msg)
    end = time.perf_counter() + seconds
    usable = usable_backends()
    chosen = usable if backends is None else backends_of(backends)
    rows: list[Measurement] = []
    try:
        with status("measuring what the devices can do") as line:
            for row in measure(chosen, end - time.perf_counter()):
                rows.append(row)
                done = f"{len(rows)} of {len(CELLS) * len(chosen)} done"
                line.update(f"{done}, last {row.backend}: {row.cell}")
    except KeyboardInterrupt:
        if rows and not as_json:
            show(None, _view(rows))
        raise
    if not rows:
        raise SystemExit(1)

    record = {"machine": machine(), "measurements": [row.record() for row in rows]}
    about = out and out.with_suffix(".json")
    with written(out, about, plot) as (table_file, about_file, picture):
        if out is not None:
            _save(record, table_file, about_file)
        if plot is not None:
            from xplinear.plot import ThroughputDisplay

            save_picture(ThroughputDisplay(rows).plot().figure_, picture)
    files = [f"wrote {out} and {about}"] * bool(out) + [f"wrote {plot}"] * bool(plot)
    view, passed = [*_view(rows), *files], [not row.failed for row in rows]
    conclude(record, view, passed, "cells without an error", as_json=as_json)


def _view(rows: Sequence[Measurement]) -> list[Table | str]:
    left_out = (
        f"not measured: {row.backend}, {row.cell}: {row.reason}" for row in rows if row.reason
    )
    return [_ceilings_table(rows), _throughput_table(rows), *left_out]


def _ceilings_table(rows: Sequence[Measurement]) -> Table:
    table = Table("backend", "device", "copy GB/s", "product GFLOP/s", title="ceilings")
    for row in {row.backend: row for row in rows}.values():
        copy, product = row.ceilings
        table.add_row(row.backend, row.device, f"{copy / 1e9:,.1f}", f"{product / 1e9:,.0f}")
    return table


def _throughput_table(rows: Sequence[Measurement]) -> Table:
    """Return a table by batch, shape and number of models, the backends beneath each other."""
    table = Table(
        *("batch", "p", "k", "models", "backend", "n", "steps/s", "examples/s"),
        *("examples × models/s", "GB/s", "of copy", "GFLOP/s", "of product"),
        caption="bytes and operations as the algorithm needs them at least; shares of the ceilings",
    )
    measured = [row for row in rows if not row.reason]
    ordered = sorted(measured, key=lambda row: (row.cell.batch or np.inf, *row.cell[1:]))
    for _, group in groupby(ordered, lambda row: row.cell[:3]):
        for row in group:
            batch, p, k, m = row.cell
            table.add_row(
                *(f"{batch or 'full'}", f"{p:,}", f"{k:,}", f"{m}", row.backend),
                f"{row.n:,}",
                f"{1.0 / row.seconds:,.4g}",
                f"{row.examples_per_second:,.0f}",
                f"{m * row.examples_per_second:,.0f}",
                f"{row.bytes_per_second / 1e9:,.3g}",
                f"{row.bytes_share:.1%}",
                f"{row.flops_per_second / 1e9:,.4g}",
                f"{row.flops_share:.1%}",
            )
        table.add_section()
    return table


def _save(record: Mapping[str, Any], out: Path, machine_out: Path) -> None:
    rows = record["measurements"]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    about = json.dumps(record["machine"], indent=2, ensure_ascii=False)
    machine_out.write_text(about + "\n", encoding="utf-8")
