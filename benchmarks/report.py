"""What a benchmark leaves behind: a table on the screen, a CSV file, and where it ran as JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"


def report(name: str, rows: Sequence[Mapping[str, Any]], *, quick: bool, **settings: Any) -> Path:
    """Print the rows and write them to ``results/<name>.csv``, the rest to ``.json`` beside it.

    A quick run writes to ``results/quick/``: it must not pass for a measurement.
    """
    folder = RESULTS / "quick" if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _short(value) for key, value in row.items()} for row in rows)
    about = json.dumps({"machine": machine(), **settings}, indent=2, ensure_ascii=False)
    path.with_suffix(".json").write_text(about + "\n", encoding="utf-8")

    table = Table(*rows[0], title=name)
    for row in rows:
        table.add_row(*(str(_short(value)) for value in row.values()))
    console = Console()
    console.print(table)
    console.print(f"wrote {path}")
    return path


def _short(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value
