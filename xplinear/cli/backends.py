"""``xplinear backends``."""

from __future__ import annotations

from xplinear.backends import available_backends, get_backend
from xplinear.cli.options import Json
from xplinear.cli.terminal import Table, show

__all__ = ["backends"]


def backends(as_json: Json = False) -> None:
    """List the array libraries: what works here, and why the others do not."""
    found, auto = available_backends(), get_backend("auto").name
    table = Table("backend", "version", "devices")
    for status in found:
        if status.available:
            table.add_row(status.name, status.version, ", ".join(status.devices))
        else:
            table.add_row(status.name, "–", f"not available: {status.reason}", style="dim")
    record = {"auto": auto, "backends": [status._asdict() for status in found]}
    show(record, [table, f"auto is {auto}"], as_json=as_json)
