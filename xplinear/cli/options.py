"""What can be given to the commands, and what bad input ends in; the only file that imports typer.

The settings of the estimators are options under the same names, with the same defaults.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import typer
from typer.core import TyperGroup

from xplinear.backends import BACKENDS, Backend, BackendError, available_backends, get_backend
from xplinear.datasets import FORMATS, NAMES
from xplinear.formats.writing import check_writable
from xplinear.losses import LOSSES
from xplinear.model_selection.scoring import SCORINGS
from xplinear.penalties import PENALTIES
from xplinear.solvers import SOLVERS
from xplinear.version import VERSION

__all__ = [
    "BACKEND_NAMES",
    "TABLES",
    "Backends",
    "Context",
    "Data",
    "Format",
    "Given",
    "Json",
    "Losses",
    "Model",
    "Target",
    "application",
    "backends_of",
    "check_file",
    "check_picture",
    "echo",
    "ending_of",
    "fits",
    "names_of",
    "numbers_of",
    "option",
]

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_PICTURES = (".png", ".svg", ".pdf", ".eps", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
_INTERRUPTED = 128 + 2  # as a shell reports SIGINT
_IN_PYTHON = re.compile(
    r"(, or| or|,) (None\b|pass a callable|an object with the methods of [\w.]+)"
)
_BAD_INPUT = (ValueError, OSError, ImportError, MemoryError, BackendError)


def echo(message: object, *, err: bool = False) -> None:
    """Print a line as it is, on stdout or stderr."""
    typer.echo(message, err=err)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    echo(f"warning: {message}", err=True)


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
                typer.echo(f"error: {self._with_options(str(error), ctx)}", err=True)
                raise typer.Exit(2) from error
            except KeyboardInterrupt as interrupt:
                typer.echo("interrupted: nothing is saved", err=True)
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
    str | None,
    option(help="Column (or array, or file) of the labels; the last column by default."),
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

# Of the estimators, under their names and with their defaults.
_SETTINGS: dict[str, Any] = {
    "scoring": Annotated[str, option(help=f"{', '.join(SCORINGS)}.", words=SCORINGS)],
    "loss": Annotated[str, option(help=f"{', '.join(LOSSES)}.", words=LOSSES)],
    "penalty": Annotated[str, option(help=f"{', '.join(PENALTIES)}.", words=PENALTIES)],
    "alpha": Annotated[float | None, option(help="Strength λ of the penalty: 1 / (C n).")],
    "C": Annotated[
        float | None,
        option("--C", help="Strength as scikit-learn has it; 1 where --alpha is not given."),
    ],
    "l1_ratio": Annotated[float, option(help="Share of L1 in elastic_net.")],
    "solver": Annotated[str, option(help=f"auto, {', '.join(SOLVERS)}.", words=["auto", *SOLVERS])],
    "batch_size": Annotated[int, option(help="Rows of a mini-batch.")],
    "max_iter": Annotated[
        int | None, option(help="Iterations, epochs of sgd; the solver's own by default.")
    ],
    "tol": Annotated[float, option(help="Tolerance of the stopping test.")],
    "early_stopping": Annotated[
        bool, option("--early-stopping", help="Stop on a held-out tenth of the rows.")
    ],
    "backend": Annotated[
        str | None, option(help="numpy, cupy, torch:cuda:0, auto …", words=BACKEND_NAMES)
    ],
    "dtype": Annotated[
        str | None,
        option(help="float32 or float64; that of the data.", words=["float32", "float64"]),
    ],
    "precision": Annotated[
        Literal["float32", "tf32"],
        option(help="Of matrix products in training: tf32 is faster on GPUs, and rougher."),
    ],
    "accelerate": Annotated[
        bool, option("--accelerate/--no-accelerate", help="Use the backend's own kernels.")
    ],
}


class Given(NamedTuple):
    """What `train` and `sweep` are given beside the settings of their estimators."""

    data: Data
    format_: Format = None
    standardize: Annotated[
        bool | None,
        option(
            "--standardize/--no-standardize",
            help="Train on features of mean 0 and variance 1; by default for tables only.",
            show_default=False,
        ),
    ] = None
    seed: Annotated[int, option(min=0, max=2**32 - 1, help="Of the split and the shuffles.")] = 0
    target: Target = None
    impute: Annotated[
        bool, option("--impute", help="Fill missing values: median, or the most frequent text.")
    ] = False
    test_fraction: Annotated[
        float, option(help="Rows held out where DATA has no test part; 0 for none.")
    ] = 0.25
    out: Annotated[Path | None, option(help="Save the model: FILE.safetensors.")] = None
    as_json: Json = False


def fits(
    estimator: type, *, but: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function of the context, what is `Given`, own options, and settings.

    The settings of the estimator are options under their names, with their defaults.
    """
    defaults = inspect.signature(estimator).parameters
    settings = [
        _parameter(name, kind, defaults[name].default)
        for name, kind in _SETTINGS.items()
        if name in defaults and name not in but
    ]
    data, *given = (
        _parameter(name, kind, Given._field_defaults.get(name, inspect.Parameter.empty))
        for name, kind in get_type_hints(Given, include_extras=True).items()
    )

    def decorated(fit: Callable[..., None]) -> Callable[..., None]:
        ctx, _, *own, _ = inspect.signature(fit, eval_str=True).parameters.values()
        own = [_parameter(one.name, one.annotation, one.default) for one in own]

        @wraps(fit)
        def command(ctx: Context, **options: Any) -> None:
            given = Given(**{name: options.pop(name) for name in Given._fields})
            fit(ctx, given, **options)

        vars(command)["__signature__"] = inspect.Signature([ctx, data, *settings, *own, *given])
        return command

    return decorated


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def names_of(option: str, names: str | None, known: Sequence[str]) -> list[str]:
    """Return the names of a comma-separated option, all known ones where it is not given."""
    chosen = list(known) if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            msg = f"{option}: unknown {name!r}; choose from {', '.join(known)}"
            raise ValueError(msg)
    return chosen


def numbers_of(option: str, text: str | None) -> list[float] | None:
    """Return the numbers of a comma-separated option."""
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        msg = f"{option}: numbers with commas between are needed, got {text!r}"
        raise ValueError(msg) from error


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
