"""xplinear beside its peers: objective, accuracy and memory against time of whole fits.

Every fit starts anew with a budget of iterations (epochs where stochastic) that grows by half
from fit to fit, so a time to a target is too large by at most that. Not timed: importing, a short
fit before the first, JAX's compilation (for xplinear anew for each budget, by one more fit), the
choice of the hand-written loops' learning rate, and the judging. Memory is the peak of the
process during a fit beyond what it held just before: X, labels, libraries and what they keep
after a first fit are left out.

Each contender runs in a process of its own; contenders alternate, and the first round finds the
budgets. Medians of the rounds go to ``results/peers_<problem>.csv``, one file per problem with
the machine beside it. Then ``python -m benchmarks.report`` draws and tabulates.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import typer

from benchmarks.contenders import CONTENDERS
from benchmarks.problems import PROBLEMS
from benchmarks.report import peers_table, write
from benchmarks.worker import GROWTH, Measurement, work

QUICK_PROBLEMS, QUICK_CAP = "digits", 0.5
START_SECONDS = 180.0  # importing, making the problem, compiling, choosing a learning rate


def measurements(*job: Any, cap: float, again: Sequence[int]) -> Iterator[Measurement | str]:
    """Yield what a worker sends; stop it when one fit takes far longer than the cap."""
    context = multiprocessing.get_context("spawn")  # a fork would share the parent's memory
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender, *job, cap, list(again)))
    process.start()
    sender.close()
    try:
        while receiver.poll(START_SECONDS + 2 * cap):
            yield receiver.recv()
    except EOFError:
        pass
    finally:
        process.terminate()
        process.join()


def rounds(problem: str, contenders: list[str], repeats: int, cap: float) -> list[dict[str, Any]]:
    """Return one row per contender and budget."""
    fits: dict[str, dict[int, list[Measurement]]] = {name: {} for name in contenders}
    for repeat in range(repeats):
        for name in contenders if repeat == 0 else [name for name in contenders if fits[name]]:
            print(f"{problem}, round {repeat + 1} of {repeats}: {name}", flush=True)
            for answer in measurements(problem, name, cap=cap, again=list(fits[name])):
                if isinstance(answer, str):
                    print(f"{name} left out: {answer}")
                else:
                    fits[name].setdefault(answer.budget, []).append(answer)
            if not fits[name]:
                print(f"{name}: nothing measured on {problem}")
    return [
        {"problem": problem, "contender": name}
        | dict(zip(Measurement._fields, map(median, zip(*repeated, strict=True)), strict=True))
        | {"repeats": len(repeated)}
        for name, by_budget in fits.items()
        for repeated in by_budget.values()
    ]


def chosen(names: str, among: dict[str, Any]) -> list[str]:
    """Return the names in a list with commas, all for none."""
    selected = names.split(",") if names else list(among)
    if unknown := set(selected) - set(among):
        msg = f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(among)}"
        raise typer.BadParameter(msg)
    return selected


def main(
    *,
    problems: str = "",
    contenders: str = "",
    repeats: int = 3,
    cap: float = 30.0,
    quick: bool = False,
) -> None:
    """Measure; lists are separated by commas, --cap SECONDS bounds a fit, --quick all of it."""
    repeats, cap = (1, QUICK_CAP) if quick else (repeats, cap)
    names = chosen(contenders, CONTENDERS)
    for problem in chosen(problems or (QUICK_PROBLEMS if quick else ""), PROBLEMS):
        if rows := rounds(problem, names, repeats, cap):
            path = write(f"peers_{problem}", rows, quick=quick, cap=cap, growth=GROWTH)
            print(f"\n{peers_table(rows)}\n\nwrote {path}\n")


if __name__ == "__main__":
    typer.run(main)
