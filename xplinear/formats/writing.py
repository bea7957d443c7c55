"""Files that take their name once they are complete, with the mode that ``open`` gives."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["check_writable", "written"]


def check_writable(
    path: str | os.PathLike[str], endings: Sequence[str] = (), *, bare: bool = False
) -> None:
    """Raise if no file of that name can be written: before the work is done, not after it.

    Parameters
    ----------
    path : path-like
    endings : sequence of str
        What the name of a file may end in, in lower case.
    bare : bool, default False
        Whether a name without an ending will do too.

    Raises
    ------
    OSError
        If its directory does not exist or takes no files, or the path is a directory.
    ValueError
        If the ending is of another format.
    """
    path = Path(path)
    folder = path.resolve().parent
    if path.is_dir():
        msg = f"{str(path)!r} is a directory; name a file"
        raise IsADirectoryError(msg)
    if not folder.is_dir():
        missing = folder if path.is_symlink() else path.parent
        msg = f"no directory {str(missing)!r} for {path.name!r}; make it first"
        raise FileNotFoundError(msg)
    if _is_special(path):
        return
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        msg = f"{str(path)!r} cannot be written: permission denied; name a file elsewhere"
        raise PermissionError(msg)
    suits = path.name.lower().endswith(tuple(endings)) or (bare and not path.suffix)
    if endings and not suits:
        msg = f"{path.name!r} must end in {' or '.join(endings)}: the ending tells the format"
        raise ValueError(msg)


@contextmanager
def written(*paths: str | os.PathLike[str] | None, durable: bool = False) -> Generator[list[Any]]:
    """Give files to write, which take the names asked for together, once all are complete.

    A file keeps the mode it had; a new one has the mode that ``open`` gives. Links are followed.
    A pipe or a device is written as it is. ``durable`` files are on the disk at the end.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written(Path(folder, "a.txt")) as (path,):
    ...         _ = path.write_text("complete")
    ...     Path(folder, "a.txt").read_text()
    'complete'
    """
    asked = [None if path is None else Path(path) for path in paths]
    final = {path: path.resolve() for path in asked if path and not _is_special(path)}
    own = f"{secrets.token_hex(4)}.unfinished"
    unfinished = {
        path: end.with_name(f".{end.stem}.{own}{end.suffix}") for path, end in final.items()
    }
    try:
        for start in unfinished.values():
            start.touch()
        yield [path and unfinished.get(path, path) for path in asked]
        for path, complete in unfinished.items():
            if final[path].exists():
                complete.chmod(final[path].stat().st_mode)
            if durable:
                _sync(complete, os.O_RDWR)
            complete.replace(final[path])
            if durable and os.name == "posix":
                _sync(final[path].parent, os.O_RDONLY)
    except OSError as error:
        names = ", ".join(repr(str(path)) for path in asked if path)
        msg = f"{names} cannot be written: {error.strerror}"
        if error.errno is None:  # it has a message of ours, of a file in our place
            msg = str(error)
            for path, start in unfinished.items():
                msg = msg.replace(str(start), str(path))
        raise type(error)(msg) from error
    finally:
        for start in unfinished.values():
            start.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    """Wait until the disk has a file, or what a directory lists."""
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _is_special(path: Path) -> bool:
    """Whether it is a pipe or a device."""
    return path.exists() and not path.is_file() and not path.is_dir()
