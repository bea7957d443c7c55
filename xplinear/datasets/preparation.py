"""From the columns of a table to a matrix of numbers, kept with the model as JSON.

Numbers stay as they are, each category of a text becomes a column of zeros and ones, and
missing values become what was learned in training if that was asked for. Codes with leading
zeros in a text file, such as the zip code 01234, are texts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from xplinear.backends.sparse import HostRows, canonical, sparse_pays
from xplinear.datasets.dataset import Columns, Dataset
from xplinear.datasets.reader import DENSE_BYTES
from xplinear.datasets.tables import is_number
from xplinear.namespace import HostArray

__all__ = ["Column", "Preparation"]

_MANY, _FEW = 1000, 20  # categories: more are told; fewer are not, however few rows each has
_FEW_ROWS = 5  # of a category
_NUMBER = re.compile(
    r"""["'(+-]?[$€£¥]?[+-]?\d[\d.,'\s]*(e[+-]?\d+)?[%$€£¥]?["')]?""", re.IGNORECASE
)
_DATE = re.compile(r"(\d{4}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.]\d{2,4})([T ].*)?")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name : str
    categories : sequence of str or None
        The texts it may hold, sorted; None for numbers.
    fill : float, str or None
        What stands in for a missing value; None where there must be none.
    """

    name: str
    categories: Sequence[str] | None = None
    fill: float | str | None = None

    @property
    def feature_names(self) -> list[str]:
        """What the columns of `matrix` are called."""
        if self.categories is None:
            return [self.name]
        return [f"{self.name}={category}" for category in self.categories]

    def entries(self, values: HostArray, dataset: Dataset) -> tuple[HostArray, HostArray]:
        """Return the one value of each row that need not be 0, and which feature's it is.

        Those are numbers as they are, or a 1 in the feature of the row's category. Of a text,
        ``values`` index its texts in the data set; what is missing is NaN.
        """
        missing, first = np.isnan(values), np.zeros(len(values), dtype=np.int64)
        if self.categories is None:
            return values if self.fill is None else np.where(missing, self.fill, values), first
        texts = dataset.texts.get(self.name, ())
        index = {category: code for code, category in enumerate(self.categories)}
        unseen = [text for text in texts if text not in index]
        if unseen:
            msg = (
                f"{dataset.name}: column {self.name!r} has {unseen[0]!r}, which the model was not "
                f"trained on; it knows {', '.join(self.categories[:20])}"
            )
            raise ValueError(msg)
        known = np.asarray([index[text] for text in texts] or [0], dtype=np.int64)
        codes = known[np.where(missing, 0, values).astype(np.intp)]
        codes = codes if self.fill is None else np.where(missing, index[str(self.fill)], codes)
        return np.ones(len(codes)), codes


@dataclass(frozen=True)
class Preparation:
    """What is done to a table before a classifier sees it.

    Parameters
    ----------
    columns : tuple of Column
    target : str or None
        The column of the labels.
    index_base : int or None
        The number of the first feature in an ``.svm``; there are no columns then.

    Examples
    --------
    >>> X = np.asarray([[1.5, 0.0], [2.5, 1.0]])
    >>> names, texts = ("size", "colour"), {"colour": ("red", "blue")}
    >>> rows = Dataset(X, None, None, None, "rows", None, names, None, texts)
    >>> preparation = Preparation.learned(rows)
    >>> preparation.feature_names
    ['size', 'colour=blue', 'colour=red']
    >>> preparation.apply(rows).X
    array([[1.5, 0. , 1. ],
           [2.5, 1. , 0. ]])
    """

    columns: tuple[Column, ...]
    target: str | None
    index_base: int | None = None

    @classmethod
    def learned(cls, dataset: Dataset, *, impute: bool = False) -> Preparation:
        """Return the preparation of a table.

        Categories are those of all rows. With ``impute``, the median of the numbers and the
        most frequent text of the training rows stand in for missing values, then and later.

        Raises
        ------
        ValueError
            If a column has nothing but missing values, or too many categories.
        """
        columns: list[Column] = []
        for name, values in zip(dataset.names or (), dataset.X.T, strict=dataset.names is not None):
            texts = dataset.texts.get(name)
            there = values[~np.isnan(values)] if impute or texts is not None else values
            if impute and not there.size:
                msg = f"{dataset.name}: column {name!r} has no values to learn from; drop it"
                raise ValueError(msg)
            if texts is None:
                columns.append(Column(name, None, float(np.median(there)) if impute else None))
            else:
                _warn_of_no_categories(dataset, name, texts)
                most = texts[int(np.bincount(there.astype(np.intp)).argmax())] if impute else None
                columns.append(Column(name, tuple(sorted(texts)), most))
        prepared = cls(tuple(columns), dataset.target, dataset.index_base)
        size = 8 * len(prepared.feature_names) * dataset.X.shape[0]
        if min(size, 12 * dataset.X.size) > DENSE_BYTES:  # one entry of 12 bytes for each cell
            worst = max(columns, key=lambda column: len(column.categories or ()))
            msg = (
                f"{dataset.name}: column {worst.name!r} has {len(worst.categories or ()):,} "
                f"categories; as columns they would take {size / 2**30:.1f} GiB: drop or group them"
            )
            raise ValueError(msg)
        return prepared

    @property
    def expected(self) -> Columns | None:
        """What `xplinear.datasets.load` is to look for in a table; None where it was none."""
        if not self.columns:
            return None
        return Columns({column.name: column.categories for column in self.columns}, self.target)

    @property
    def imputes(self) -> bool:
        """Whether missing values are filled."""
        return any(column.fill is not None for column in self.columns)

    @property
    def has_text(self) -> bool:
        """Whether a column holds categories."""
        return any(column.categories is not None for column in self.columns)

    @property
    def feature_names(self) -> list[str]:
        """The names of the features the classifier sees."""
        return [name for column in self.columns for name in column.feature_names]

    def apply(self, dataset: Dataset) -> Dataset:
        """Return the data set with features for a classifier.

        Raises
        ------
        ValueError
            If a category was not there in training.
        """
        X_test = None if dataset.X_test is None else self._matrix(dataset.X_test, dataset)
        X = self._matrix(dataset.X, dataset)
        return dataset._replace(X=X, X_test=X_test, names=None, texts={})

    def _matrix(self, X: HostArray, dataset: Dataset) -> HostRows:
        """Return the features; of many categories as a sparse matrix."""
        if not (self.has_text or self.imputes):
            return X
        both = zip(self.columns, X.T, strict=True)
        found = [column.entries(values, dataset) for column, values in both]
        values, features = (np.stack(part, axis=1) for part in zip(*found, strict=True))
        *starts, p = np.cumsum([0, *(len(column.feature_names) for column in self.columns)])
        ends = np.arange(0, values.size + 1, len(self.columns))
        parts = values.reshape(-1), (features + starts).reshape(-1), ends
        rows = sparse.csr_array(parts, shape=(len(X), p))
        few = sparse_pays(values.size, (len(X), int(p)), values.dtype)
        return canonical(rows) if few else rows.toarray()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Preparation:
        """Return the preparation that ``dataclasses.asdict`` made a record of."""
        columns = tuple(Column(**column) for column in record["columns"])
        return cls(columns, record["target"], record.get("index_base"))


def _warn_of_no_categories(dataset: Dataset, column: str, texts: Sequence[str]) -> None:
    """Say so where the texts of a column are likely to be no categories."""
    n, count = dataset.X.shape[0], len(texts)
    strays = [text for text in texts if not is_number(text)]
    about = f"{dataset.name}: column {column!r} is taken as text"
    message = ""
    for pattern, what, remedy in (
        (_DATE, "dates", "make numbers of them, such as days since a date, or drop the column"),
        (_NUMBER, "numbers", "write them plainly, as 1000 or 0.12"),
    ):
        alike = [text for text in strays if pattern.fullmatch(text)]
        if 2 * len(alike) > count:
            message = (
                f"{about} of {count:,} categories, but they look like {what}, such as "
                f"{alike[0]!r}; {remedy}"
            )
    if not message and strays and 2 * len(strays) < count:
        message = (
            f"{about}, since {len(strays)} of its {count:,} different values are no numbers, such "
            f"as {strays[0]!r}; correct them, or leave them empty and train with --impute"
        )
    if not message and (count > _MANY or (count > _FEW and n < _FEW_ROWS * count)):
        message = (
            f"{about} of {count:,} categories in {n:,} rows, such as {texts[0]!r}, each of which "
            "becomes a column: what so few rows teach is of no use for others; drop the column, "
            "or group its texts"
        )
    if message:
        warnings.warn(message, UserWarning, stacklevel=3)
