"""Data sets by name and from files, as NumPy arrays.

A new file format is one file with its reader plus one line in ``FORMATS``; a new name is one
function plus one line in ``NAMES``.
"""

from __future__ import annotations

from xplinear.datasets.dataset import Columns, Dataset, holdout
from xplinear.datasets.loading import FORMATS, NAMES, load

__all__ = ["FORMATS", "NAMES", "Columns", "Dataset", "holdout", "load"]
