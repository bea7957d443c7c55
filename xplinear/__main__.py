"""The command line as ``python -m xplinear``."""

from xplinear.cli import main

__all__ = ["main"]

main()
