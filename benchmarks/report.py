"""What a benchmark leaves behind: a table on the screen, a CSV file, and where it ran as JSON.

``python -m benchmarks.report`` draws what `benchmarks.run` measured to ``results/peers.png`` and
prints it as tables: seconds of the fastest fit within each target, accuracy of the longest fit,
seconds of the fastest whose accuracy is less by ``SLACK`` at most, and the most extra memory.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.problems import TARGETS

RESULTS = Path(__file__).parent / "results"
SLACK = 0.002  # of accuracy
# Colour (of Okabe and Ito) and marker, for grey, by library; dashes tell its solvers apart.
COLOURS = {
    "xplinear": ("#000000", "o"),
    "sklearn": ("#d55e00", "s"),
    "sklearnex": ("#e69f00", "D"),
    "torch": ("#009e73", "^"),
    "jax": ("#56b4e9", "v"),
}
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
FLOOR = 1e-7  # of what is drawn: float32 does not go much lower
TEXTS = ("problem", "contender")

Row = dict[str, Any]


def write(name: str, rows: Sequence[Mapping[str, Any]], *, quick: bool, **settings: Any) -> Path:
    """Write the rows to ``results/<name>.csv``, the rest to ``.json`` beside it.

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
    return path


def report(name: str, rows: Sequence[Mapping[str, Any]], *, quick: bool, **settings: Any) -> Path:
    """Print the rows and `write` them."""
    path = write(name, rows, quick=quick, **settings)
    table = Table(*rows[0], title=name)
    for row in rows:
        table.add_row(*(str(_short(value)) for value in row.values()))
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    console.print(f"wrote {path}")
    return path


def _short(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value


def _fastest(rows: Iterable[Row]) -> str:
    seconds = [row["seconds"] for row in rows]
    return f"{min(seconds):.3g}" if seconds else "–"


def peers_table(rows: Sequence[Row]) -> str:
    """Return one problem's Markdown table, one line per contender."""
    head = [*(f"s to {target:g}" for target in TARGETS), "accuracy", "s to it", "extra MB"]
    lines = [f"| contender | {' | '.join(head)} |", "| --- |" + " --- |" * len(head)]
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = [row for row in rows if row["contender"] == name]
        accuracy = own[-1]["test_accuracy"]
        cells = [
            name,
            *(_fastest(row for row in own if row["suboptimality"] <= target) for target in TARGETS),
            f"{accuracy:.4f}",
            _fastest(row for row in own if row["test_accuracy"] >= accuracy - SLACK),
            f"{max(row['extra_mb'] for row in own):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_peers(problems: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw suboptimality against time, a panel per problem, a line per contender."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    names = dict.fromkeys(
        row["contender"]
        for rows in problems.values()
        for row in rows
        if not math.isnan(row["suboptimality"])
    )
    columns = min(len(problems), 3)
    lines = -(-len(problems) // columns)
    figure = Figure(figsize=(4 * columns + 2, 3.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, (problem, rows) in zip(panels, problems.items(), strict=False):
        for name in names:
            library = name.partition("-")[0]
            siblings = [other for other in names if other.partition("-")[0] == library]
            colour, marker = COLOURS[library]
            points = [
                (row["seconds"], max(row["suboptimality"], FLOOR))
                for row in rows
                if row["contender"] == name
            ]
            axes.loglog(
                *(zip(*points, strict=True) if points else ([], [])),
                color=colour,
                marker=marker,
                markersize=4,
                linestyle=DASHES[siblings.index(name)],
                linewidth=2,
                label=name,
            )
        axes.set(title=problem, xlabel="time of the fit [s]", ylim=(FLOOR / 2, 2))
        axes.set_yticks(TARGETS)
        axes.xaxis.set_minor_formatter(NullFormatter())  # decades are enough
        axes.grid(alpha=0.3)
    for axes in panels[len(problems) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel("(F − F*) / (F(0) − F*)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=150)


def main(*, quick: bool = False) -> None:
    """Draw and tabulate the peers; --quick those of the quick run."""
    folder = RESULTS / "quick" if quick else RESULTS
    problems: dict[str, list[Row]] = {}
    for path in sorted(folder.glob("peers_*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {key: value if key in TEXTS else float(value) for key, value in row.items()}
                for row in csv.DictReader(file)
            ]
        problem = rows[0]["problem"]
        problems[problem] = rows
        print(f"\n### {problem}\n\n{peers_table(rows)}")
    if not problems:
        msg = f"no peers_*.csv in {folder}: python -m benchmarks.run writes them"
        raise typer.BadParameter(msg)
    draw_peers(problems, folder / "peers.png")
    print(f"\nwrote {folder / 'peers.png'}")


if __name__ == "__main__":
    typer.run(main)
