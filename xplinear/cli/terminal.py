"""How a record is shown, and how long work goes on; the only file that imports rich."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import rich.progress
from rich.console import Console
from rich.status import Status
from rich.table import Table

from xplinear.cli.options import echo
from xplinear.minimize import Progress
from xplinear.model_selection.sweep import SweepProgress

__all__ = ["Table", "conclude", "progress_bar", "show", "status"]

_PIPE_WIDTH = 160  # of tables that no terminal limits
_LINE_SECONDS = 5.0  # between lines of progress where stderr is no terminal


def show(
    record: Any, view: Iterable[Table | Mapping[str, str] | str], *, as_json: bool = False
) -> None:
    """Print a record as JSON, or what a view of it makes for people.

    A view gives tables, what is to stand in two columns, and sentences.
    """
    if as_json:
        echo(json.dumps(_plain(record), indent=2, ensure_ascii=False, allow_nan=False))
        return
    # Without markup: brackets belong to names of files and extras.
    console = Console(width=None if Console().is_terminal else _PIPE_WIDTH, markup=False)
    for part in view:
        if isinstance(part, Mapping):
            table = Table(show_header=False)
            for row in part.items():
                table.add_row(*row)
            console.print(table)
        else:
            console.print(part)


def conclude(
    record: Any, view: Iterable[Table | str], passed: Sequence[bool], what: str, *, as_json: bool
) -> None:
    """Show a record, and how many passed; exit with 1 if not all."""
    show(record, [*view, f"{sum(passed)} of {len(passed)} {what}"], as_json=as_json)
    if not all(passed):
        raise SystemExit(1)


def _plain(value: Any) -> Any:
    """Return a record of what JSON has; what it has no number for, such as NaN, becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, type(None))) else str(value)


def status(message: str) -> Status:
    """Return a line on stderr, where that is a terminal, that tells what is going on."""
    return Console(stderr=True).status(message)


@contextmanager
def progress_bar() -> Generator[Callable[[Progress | SweepProgress], None]]:
    """Give a callback that shows the progress of a fit: a bar, or in a pipe a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _progress_lines()
        return
    bar = rich.progress.Progress(
        rich.progress.TextColumn("training"),
        rich.progress.BarColumn(None),  # what the words leave
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[news]}"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("left"),
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=4,
    )
    with bar:
        task = bar.add_task("training", total=None, news="")

        def show(progress: Progress | SweepProgress) -> None:
            if isinstance(progress, SweepProgress):
                done, total = progress.done, progress.models
                news = f"models, alpha {progress.alpha:.2e}, loss {progress.loss:.4f}"
            else:
                done, total = progress.iteration, progress.iterations
                news = f"loss {progress.loss[0]:.4f}"
            bar.update(task, completed=done, total=total, news=news)

        yield show


def _progress_lines() -> Callable[[Progress | SweepProgress], None]:
    last = time.perf_counter()

    def show(progress: Progress | SweepProgress) -> None:
        nonlocal last
        if time.perf_counter() - last >= _LINE_SECONDS:
            last = time.perf_counter()
            echo(progress, err=True)

    return show
