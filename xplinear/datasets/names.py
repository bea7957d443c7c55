"""The data sets that have a name, and directories of MNIST's format."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from sklearn.datasets import fetch_openml, load_digits

from xplinear.datasets.reader import DAMAGED, Parts
from xplinear.namespace import HostArray

__all__ = ["NAMES", "read_idx_directory"]

_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist


def digits() -> Parts:
    X, y = cast(tuple[HostArray, HostArray], load_digits(return_X_y=True))
    return Parts(X, y)


def fashion_mnist() -> Parts:
    if _FASHION_MNIST.is_dir():
        return read_idx_directory(_FASHION_MNIST)
    try:
        # The default parser of fetch_openml needs pandas.
        X, y = fetch_openml(
            "Fashion-MNIST",
            version=1,
            return_X_y=True,
            as_frame=False,
            parser="liac-arff",
            n_retries=1,
        )
    except OSError as error:
        msg = (
            f"Fashion-MNIST is not installed and cannot be downloaded from OpenML ({error}): "
            "install the Debian package dataset-fashion-mnist, or give the directory of its "
            "four IDX files instead of the name"
        )
        raise OSError(msg) from error
    X, y = X.astype(np.uint8).reshape(-1, 28, 28), y.astype(np.int64)
    return Parts(X[:60000], y[:60000], X[60000:], y[60000:])


def read_idx_directory(path: Path) -> Parts:
    """Read the four files of MNIST and its kin."""

    def read(pattern: str) -> HostArray:
        files = sorted(path.glob(pattern))
        if not files:
            msg = f"no file {pattern} in {str(path)!r}: the four IDX files of MNIST are expected"
            raise FileNotFoundError(msg)
        return _read_idx(files[0])

    X, y, X_test, y_test = (
        read(f"{part}-{kind}?ubyte*")
        for part in ("train", "t10k")
        for kind in ("images?idx3", "labels?idx1")
    )
    return Parts(X, y, X_test, y_test)


def _read_idx(path: Path) -> HostArray:
    """Read an IDX file of bytes: two zeros, type 8, number of axes, their lengths, the data."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if content[:3] != b"\0\0\x08":
            msg = "it does not begin as an IDX file of bytes does"
            raise ValueError(msg)
        axes = content[3]
        shape = np.frombuffer(content, ">u4", count=axes, offset=4).tolist()
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except DAMAGED as error:
        msg = f"{str(path)!r} is damaged: {error}"
        raise ValueError(msg) from error


NAMES: dict[str, Callable[[], Parts]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
}
