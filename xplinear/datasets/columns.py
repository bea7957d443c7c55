"""Which columns of a table are features, and which is that of the labels."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from xplinear.datasets.dataset import Columns
from xplinear.datasets.reader import File, Request
from xplinear.namespace import HostArray

__all__ = [
    "SEPARATORS",
    "as_trained",
    "columns_with",
    "feature_columns",
    "no_missing",
    "target_column",
]

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def as_trained(
    file: File, names: Sequence[str], columns: Columns | None, *, header: bool = True
) -> Sequence[str]:
    """Return the columns' names; those of the model where it is their order that counts."""
    p, count = 0 if columns is None else len(columns.texts), len(names)
    if columns is None or (header and not (columns.by_place and count in {p, p + 1})):
        return names
    if header and set(columns.texts) <= set(names):  # the other one is that of the labels
        return [name if name in columns.texts else columns.target or name for name in names]
    if header:
        message = (
            f"{str(file)!r}: the columns are taken in their order, {', '.join(names[:5])}"
            f"{', …' * (count > 5)}: the file the model was trained on has no names"
        )
        warnings.warn(message, UserWarning, stacklevel=2)
    return list(columns.texts) if count == p else [str(j) for j in range(count)]


def target_column(file: File, names: Sequence[str], request: Request) -> int | None:
    """Return the index of the labels' column, or None where there are only features."""
    target, columns = request.target, request.columns
    if target is None and columns is not None and columns.target is not None:
        return names.index(columns.target) if columns.target in names else None
    if target is None and len(names) == request.n_features:
        return None
    if "" in names:
        msg = (
            f"{str(file)!r}: column {names.index('') + 1} has no name; name it, or leave it out "
            "if it is a row index (pandas: index=False)"
        )
        raise ValueError(msg)
    if len(names) < 2:
        between = f", separated by {SEPARATORS[file.separator]}" * (file.ending != ".parquet")
        msg = (
            f"{str(file)!r} has one column, {names[0]!r}: features and labels are expected{between}"
        )
        raise ValueError(msg)
    if target is None:
        return len(names) - 1
    if names.count(target) != 1:
        count = names.count(target)
        found = f"{count} columns" if count else "no column"
        msg = f"target: {str(file)!r} has {found} {target!r}: {_listed(names)}"
        raise ValueError(msg)
    return names.index(target)


def feature_columns(
    file: File, names: Sequence[str], label: int | None, request: Request
) -> Sequence[int]:
    """Return the indices of the features' columns, in the order a model expects if one does."""
    wanted = names if request.columns is None else request.columns.texts
    counts, places = Counter(names), {name: j for j, name in enumerate(names)}
    twice = [name for name in wanted if counts[name] > 1]
    if twice and (request.mixed or request.columns is not None):
        msg = f"{str(file)!r} has {counts[twice[0]]} columns {twice[0]!r}; rename one of them"
        raise ValueError(msg)
    if request.columns is None:
        return [j for j in range(len(names)) if j != label]
    absent = [name for name in wanted if name not in places]
    if absent:
        nameless = ", its first line names none" * all(name.isdigit() for name in names)
        msg = (
            f"{str(file)!r} lacks {'a column' if len(absent) == 1 else 'columns'} the model was "
            f"trained on: {', '.join(absent[:20])}; {_listed(names)}{nameless}"
        )
        raise ValueError(msg)
    return [places[name] for name in wanted]


def _listed(names: Sequence[str], most: int = 20) -> str:
    """Return the names, the middle of a long list left out."""
    some = names if len(names) <= most else [*names[: most - 1], "…", names[-1]]
    return f"its columns are {', '.join(some)}"


def columns_with(test: Callable[[HostArray], HostArray], X: HostArray) -> Iterator[bool]:
    """Yield for each column whether a value passes the test; integers are neither NaN nor ∞."""
    return (X.dtype.kind == "f" and bool(test(x).any()) for x in X.T)


def no_missing(file: File, names: Sequence[str], missing: Iterable[bool], remedy: str) -> None:
    """Raise if columns have missing values."""
    columns = [name for name, one in zip(names, missing, strict=True) if one]
    if columns:
        plural = "column has" if len(columns) == 1 else "columns have"
        msg = f"{str(file)!r}: {plural} missing values: {', '.join(columns[:20])}; {remedy}"
        raise ValueError(msg)
