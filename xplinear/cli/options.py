"""What commands can be given, and what bad input ends in; the only file that imports typer."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from xplinear.backends import BACKENDS, Backend, BackendError, available_backends, get_backend
from xplinear.datasets import FORMATS, NAMES
from xplinear.formats.writing import check_writable
from xplinear.losses import LOSSES
from xplinear.version import VERSION

__all__ = [
    "BACKEND_NAMES",
    "Backends",
    "Context",
    "Data",
    "Format",
    "Json",
    "Kept",
    "Losses",
    "Model",
    "Target",
    "application",
    "backends_of",
    "check_file",
    "check_picture",
    "echo",
    "ending_of",
    "names_of",
    "option",
]

_PICTURES = (".png", ".svg", ".pdf", ".eps", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
_INTERRUPTED = 128 + 2  # as a shell reports SIGINT
_IN_PYTHON = re.compile(
    r"(, or| or|,) (None\b|pass a callable|an object with the methods of [\w.]+)"
)
echo = typer.echo
_BAD_INPUT = (ValueError, OSError, ImportError, MemoryError, BackendError)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    echo(f"warning: {message}", err=True)


class Kept(KeyboardInterrupt):
    """Ctrl-C that leaves something behind, and says what."""


class _Commands(TyperGroup):
    """The commands; bad input ends in one line on stderr and exit code 2, Ctrl-C in 130."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            for category in (UserWarning, RuntimeWarning):
                warnings.simplefilter("always", category)
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # of ``| head``, no bad input
                raise
            except _BAD_INPUT as error:
                echo(f"error: {self._with_options(str(error), ctx)}", err=True)
                raise typer.Exit(2) from error
            except KeyboardInterrupt as interrupt:
                kept = str(interrupt) if isinstance(interrupt, Kept) else "nothing is saved"
                echo(f"interrupted: {kept}", err=True)
                raise typer.Exit(_INTERRUPTED) from interrupt

    def _with_options(self, message: str, ctx: Any) -> str:
        """Return the message with arguments named as the options that give them."""
        message = re.sub(r"^ending\b", "--format", message)
        for option in self.commands[ctx.invoked_subcommand].params:
            # A word such as loss is an argument only where a value or a rule follows.
            follows = "" if "_" in str(option.name) else "(?==|`? must )"
            pattern = rf"^{option.name}(?=: )|(?<![-\w'\"]){option.name}\b{follows}"
            message = re.sub(pattern, option.opts[0], message)
            message = re.sub(rf"^(unknown )?{option.name} '", rf"{option.opts[0]}: \g<0>", message)
        return _IN_PYTHON.sub("", message) if message.startswith("--") else message


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"xplinear {VERSION}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show it and exit."),
    ] = False,
) -> None:
    del version


def application() -> typer.Typer:
    """Return the program, without its commands."""
    app = typer.Typer(
        cls=_Commands,
        help="Linear classifiers on any array library.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    return app


def option(*names: str, help: str, words: Iterable[str] = (), **limits: Any) -> Any:  # noqa: A002
    """Return an option; ``words`` complete what is typed, after the last comma."""

    def complete(incomplete: str) -> list[str]:
        done, comma, last = incomplete.rpartition(",")
        return [done + comma + word for word in words if word.startswith(last)]

    completion = complete if words else None
    return typer.Option(*names, help=help, autocompletion=completion, **limits)


def _data(incomplete: str) -> list[str]:
    """Complete the name of a data set, or of a file that can be read."""
    folder, slash, _ = incomplete.rpartition("/")
    names = list(NAMES)
    with suppress(OSError):
        names += [
            folder + slash + path.name + "/" * path.is_dir()
            for path in sorted(Path(folder + slash or ".").iterdir())
            if path.is_dir() or path.name.lower().endswith(tuple(FORMATS))
        ]
    return [name for name in names if name.startswith(incomplete)]


BACKEND_NAMES = ("auto", *BACKENDS, "torch:cuda", "jax:cuda")

Context = typer.Context
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help=f"{', '.join(NAMES)}, or a file: {', '.join(FORMATS)}; - for standard input.",
        show_default=False,
        autocompletion=_data,
    ),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A file that train --out wrote.")]
Format = Annotated[
    str | None,
    option(
        "--format",
        help="Of DATA, such as csv, whatever its name ends in; that of standard input is csv.",
        words=[ending[1:] for ending in FORMATS],
    ),
]
Target = Annotated[
    str | None, option(help="Column (or array, or file) of the labels; the last column by default.")
]
Json = Annotated[bool, option("--json", help="Print JSON, for other programs.")]
Backends = Annotated[
    str | None,
    option(
        help="Such as numpy,torch,jax, with commas between; all that work here by default.",
        words=BACKEND_NAMES,
    ),
]
Losses = Annotated[
    str | None, option(help=f"Of {', '.join(LOSSES)}; all by default.", words=LOSSES)
]


def names_of(option: str, names: str | None, known: Sequence[str]) -> list[str]:
    """Return the names of a comma-separated option, all known ones where it is not given."""
    chosen = list(known) if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            msg = f"{option}: unknown {name!r}; choose from {', '.join(known)}"
            raise ValueError(msg)
    return chosen


def backends_of(names: str | None) -> list[Backend]:
    """Return the backends of a comma-separated option, all that work where it is not given."""
    if names is None:
        return [get_backend(status.name) for status in available_backends() if status.available]
    try:
        return [get_backend(name.strip()) for name in names.split(",")]
    except (ValueError, BackendError) as error:
        msg = f"--backends: {error}"
        raise ValueError(msg) from error


def ending_of(format_: str | None) -> str | None:
    """Return the ending that is asked for, of those that are known."""
    if format_ is None:
        return None
    ending = f".{format_.lower().removeprefix('.')}"
    if ending not in FORMATS:
        known = ", ".join(one[1:] for one in FORMATS)
        msg = f"--format: unknown {format_!r}; choose from {known}"
        raise ValueError(msg)
    return ending


def check_file(option: str, path: Path | None, *endings: str) -> None:
    """Fail before the work is done, not after it."""
    if path is not None:
        try:
            check_writable(path, endings)
        except (OSError, ValueError) as error:
            msg = f"{option}: {error}"
            raise ValueError(msg) from error


def check_picture(path: Path | None) -> None:
    """Fail where no picture can be drawn or written."""
    check_file("--plot", path, *_PICTURES)
    if path is not None:
        import_module("xplinear.plot")  # an error where matplotlib is not installed
