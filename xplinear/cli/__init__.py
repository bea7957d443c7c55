"""The command line: ``xplinear train digits`` and the rest, a file for each command."""

from __future__ import annotations

from xplinear.cli import backends, bench, check_gradient, info, parity, predict, sweep, train
from xplinear.cli.options import application

__all__ = ["app", "main"]

app = application()
for _command in (
    train.train,
    sweep.sweep,
    predict.predict,
    info.info,
    backends.backends,
    parity.parity,
    bench.bench,
):
    app.command()(_command)
app.command("check-gradient")(check_gradient.check_gradients)


def main() -> None:
    """Run the command line."""
    app()
