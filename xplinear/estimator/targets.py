"""What each model of a fit tells apart: y as codes and weights of every model, on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from scipy import sparse

from xplinear.arguments import naming, warn
from xplinear.backends import backend_of
from xplinear.backends.sparse import canonical, is_scipy
from xplinear.data.partitions import computed
from xplinear.estimator.labels import (
    Coded,
    check_labels,
    check_two_classes,
    encode_labels,
    factors_of,
    host_weights,
    is_missing,
    weights_of,
)
from xplinear.estimator.tables import table_of
from xplinear.estimator.validation import on_host
from xplinear.formats.fitted import Kind, stack_of
from xplinear.namespace import HostArray, is_array, name_of

__all__ = [
    "Indicator",
    "Targets",
    "check_targets",
    "has_columns",
    "indicator",
    "indicators_together",
    "targets_of",
    "whole_indicator",
]

_BINARY = np.asarray([0, 1])
_NUMBERS = bool, int, float, np.number, np.bool_
_NAMED = 10  # labels that a message names
_CHUNK_BYTES = 2**23  # of labels and weights that are looked at at a time


class Indicator(NamedTuple):
    """Y ``(n, L)`` of 0 and 1 on the host, dense or CSC, and which entries are missing, if any."""

    codes: Any
    missing: Any
    names: HostArray

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape


class Targets(NamedTuple):
    """What the models of a fit tell apart, and what each row weighs in each of them.

    ``kind`` is "classes": one model of all classes; "labels": for each column of Y a model of 0
    and 1; "one_vs_rest": for each class a model of the others and it.
    """

    kind: Kind
    classes: HostArray  # of the labels, what names them
    codes: Any  # (n,); of labels (n, L), int8, dense or CSC
    missing: Any  # (n, L), or None
    sample_weight: HostArray | None  # (n,); of labels or one_vs_rest also one for each, (n, m)
    class_weight: Mapping[Any, float] | str | None

    @property
    def models(self) -> int:
        """How many there are."""
        return stack_of(self.kind, self.classes)[0]

    @property
    def k(self) -> int:
        """How many classes each tells apart."""
        return stack_of(self.kind, self.classes)[1]

    @property
    def labels(self) -> Any:
        """What y says: labels ``(n,)``, or Y of 0 and 1 ``(n, L)``, dense or CSC."""
        return self.codes if self.kind == "labels" else self.classes[self.codes]

    @property
    def positives(self) -> HostArray | None:
        """The class that is 1 for each model, of one against the rest."""
        one_vs_rest = self.kind == "one_vs_rest"
        return np.arange(len(self.classes), dtype=np.int32) if one_vs_rest else None

    @property
    def own_rows(self) -> bool:
        """Whether rows weigh otherwise in each model, class weights left out."""
        return self.missing is not None or _many(self.sample_weight)

    @property
    def own_weights(self) -> bool:
        """Whether the weights of the models differ."""
        return self.own_rows or (self.kind != "classes" and self.class_weight is not None)

    def codes_of(self, models: slice) -> HostArray:
        """Return the codes ``(n,)`` of all models, or ``(n, m)`` of some."""
        if self.kind == "classes":
            return self.codes
        if self.positives is not None:
            return (self.codes[:, None] == self.positives[models]).astype(np.int8)
        return _dense(self.codes, models)

    def weights_of(
        self, models: slice, *, classed: bool = True
    ) -> tuple[HostArray | None, float | HostArray]:
        """Return weights ``(n,)`` of all models, or ``(n, m)`` of some; None if all are 1.

        As `labels.weights_of`, of each model; class weights are left out unless ``classed``.
        """
        given, class_weight = self.sample_weight, self.class_weight if classed else None
        if self.kind == "classes":
            return weights_of(given, class_weight, self.codes, self.classes)
        if not (self.own_rows or class_weight is not None):
            return weights_of(given, None, self.codes, self.classes)
        codes, places = self.codes_of(models), range(*models.indices(self.models))
        missing = None if self.missing is None else _dense(self.missing, models)
        factors = None
        if class_weight is not None and self.kind == "one_vs_rest":
            rows = None if _many(given) else given
            factors = factors_of(class_weight, self.codes, self.classes, rows)
        weights, units = np.empty(codes.shape), np.empty(len(places))
        for column, j in enumerate(places):
            rows = given[:, j] if given is not None and given.ndim > 1 else given
            if missing is not None:
                there = np.where(missing[:, column], 0.0, 1.0)
                rows = there if rows is None else rows * there
            # As LinearSVC and SGDClassifier have it: the weight of a class is that of its rows in
            # the model of this class; the rest weighs 1 there.
            known: Any = class_weight if factors is None else {0: 1.0, 1: float(factors[j])}
            with naming(f"label {j}"):
                found, units[column] = weights_of(rows, known, codes[:, column], _BINARY)
            weights[:, column] = 1.0 if found is None else found
        return weights, units

    def largest_weights(self) -> HostArray:
        """Return the largest weight ``(n,)`` of each row in any model, class weights left out."""
        largest = np.zeros(self.codes.shape[0])
        for models in self.chunks(9):
            weights, _ = self.weights_of(models, classed=False)
            largest = np.maximum(largest, cast(HostArray, weights).max(axis=1))
        return largest

    def chunks(self, bytes_each: int) -> list[slice]:
        """Return the models a few at a time, which take so many bytes a row each."""
        width = max(1, _CHUNK_BYTES // (bytes_each * self.codes.shape[0]))
        return [slice(j, min(j + width, self.models)) for j in range(0, self.models, width)]

    def check_counts(self) -> None:
        """Raise ValueError, or warn, where there is nothing to tell apart among rows that count."""
        if self.kind == "classes":
            weights, _ = self.weights_of(slice(0, 1))
            if weights is not None:
                check_two_classes(weights, self.codes, self.classes)
            return
        constant: tuple[list[Any], list[Any]] = [], []  # labels that are always 0, and 1
        for models in self.chunks(10):
            codes, (weights, _) = self.codes_of(models), self.weights_of(models)
            weights = np.ones(1) if weights is None else weights
            counts = weights.reshape(len(weights), -1) > 0
            for code in (0, 1):
                varies = ((codes != code) & counts).any(axis=0)
                constant[code].extend(self.classes[models][~varies].tolist())
        for code, what in enumerate(("positive", "negative")):
            if constant[code]:
                warn(
                    f"y has no {what} row of label {_listed(constant[code])}, of {self.models}: "
                    f"its model predicts {code} wherever it can; leave such columns out"
                )


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:_NAMED])) + ", …" * (len(names) > _NAMED)


def _many(weights: HostArray | None) -> bool:
    return weights is not None and weights.ndim > 1


def _dense(columns: Any, models: slice) -> HostArray:
    some = columns[:, models]
    return some if isinstance(some, np.ndarray) else some.toarray()


def check_targets(estimator: Any, y: Any) -> HostArray | Coded | Indicator:
    """Return labels ``(n,)``, or Y of 0 and 1 ``(n, L)``, on the host.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(y, (Coded, Indicator)):
        return y
    return _checked(indicator(y)) if has_columns(y) else check_labels(estimator, y)


def has_columns(y: Any) -> bool:
    """Return whether y is neither a vector nor, as scikit-learn takes it for one, one column."""
    if _is_sparse(y) and len(y.shape) == 2:
        return True
    if isinstance(y, (list, tuple)):
        rows = cast("list[Any]", y)
        first: Any = rows[0] if rows else None
        if isinstance(first, (set, frozenset, dict)):
            return True
        listed = isinstance(first, (list, tuple)) or len(getattr(first, "shape", ())) > 0
        return listed and not all(len(row) == 1 for row in rows if hasattr(row, "__len__"))
    if is_array(y) and backend_of(y).refuses(y) is not None:
        return False  # `check_labels` tells why; some have no shape
    shape = getattr(y, "shape", ())
    return len(shape) == 2 and shape[1] != 1


def _is_sparse(y: Any) -> bool:
    return is_scipy(y) or backend_of(y).is_sparse(y)


_ONE_COLUMN = "y should be a 1d array of labels"
_NEEDS = f"{_ONE_COLUMN}, or a matrix (n, L) of 0 and 1 for L labels"
_SETS = "sklearn.preprocessing.MultiLabelBinarizer makes one of lists of labels"
_SEVERAL = (
    "for several targets fit one classifier to each: sklearn.multioutput.MultiOutputClassifier"
)


def indicator(y: Any) -> Indicator:
    """Return Y of 0 and 1, or of a part of its rows; raise ValueError if it is of others."""
    names = None
    y = computed(y)
    y = on_host("y", y) if _is_sparse(y) else y
    if _is_sparse(y) and y.shape[1] == 1:
        msg = f"{_ONE_COLUMN}; of one sparse column y.toarray().ravel() makes such an array"
        raise ValueError(msg)
    if _is_sparse(y):
        codes, missing = _of_sparse(y)
    else:
        with naming("y"):
            table = table_of(y)
        if table is None:
            columns = _matrix(y)
        else:
            columns = np.stack([column.to_numpy() for column in table.iter_columns()], axis=1)
            texts = all(isinstance(name, str) for name in table.columns)
            names = np.asarray(table.columns) if texts else None
        codes, missing = _codes(columns)
    return Indicator(codes, missing, np.arange(codes.shape[1]) if names is None else names)


def indicators_together(parts: Sequence[Indicator]) -> Indicator:
    """Return Y of all parts, one after the other."""

    def joined(several: Sequence[Any]) -> Any:
        if isinstance(several[0], np.ndarray):
            return np.concatenate(several)
        return sparse.vstack(several, format="csc")

    codes, missing, names = zip(*parts, strict=True)
    if any(one is not None for one in missing):
        none = [abs(part) > 1 for part in codes]
        missing = [b if a is None else a for a, b in zip(missing, none, strict=True)]
        return _checked(Indicator(joined(codes), joined(missing), names[0]))
    return _checked(Indicator(joined(codes), None, names[0]))


def _checked(whole: Indicator) -> Indicator:
    n, labels = whole.shape
    if labels < 1:
        msg = f"{_NEEDS}; this one has no columns: its shape is {(n, labels)}"
        raise ValueError(msg)
    lost = _all_missing(whole.missing)
    if lost.size:
        listed = _listed(whole.names[lost].tolist())
        msg = f"y has no value, only missing ones, of label {listed}: leave such columns out"
        raise ValueError(msg)
    return whole


def _all_missing(missing: Any) -> np.ndarray[Any, np.dtype[np.intp]]:
    if missing is None:
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(np.ravel(missing.sum(axis=0)) == missing.shape[0])


def _matrix(y: Any) -> HostArray:
    masked = np.ma.getmaskarray(y) if isinstance(y, np.ma.MaskedArray) else None
    try:
        columns = np.asarray(on_host("y", y))
    except ValueError as error:  # lists of several lengths
        msg = f"{_NEEDS}, got lists of several lengths; {_SETS}"
        raise ValueError(msg) from error
    if name_of(columns.dtype) == "bfloat16":
        columns = columns.astype(np.float32)
    if columns.ndim != 2:
        msg = f"{_NEEDS}; {_SETS}" if columns.ndim < 2 else f"{_NEEDS}; got {columns.ndim} axes"
        raise ValueError(msg)
    return columns if masked is None else np.where(masked, np.nan, columns)


def _of_sparse(y: Any) -> tuple[Any, Any]:
    codes = canonical(y, "y").tocsc(copy=True)
    codes.data, missing = _codes(codes.data)
    if missing is None:
        return codes, None
    absent = codes.copy()
    absent.data = missing
    return codes, absent


def _codes(y: HostArray) -> tuple[HostArray, HostArray | None]:
    """Return labels as int8, and which are missing, if any; raise ValueError if one is neither."""
    if y.dtype.kind == "O":
        y = _numbers_in(y)
    if y.dtype.kind not in "biuf":
        msg = f"{_NEEDS}; got values of dtype {y.dtype}; {_SETS}; {_SEVERAL}"
        raise ValueError(msg)
    missing = np.isnan(y) if y.dtype.kind == "f" else None
    missing = None if missing is None or not missing.any() else missing
    y = y if missing is None else np.where(missing, 0, y)
    codes = y.astype(bool)
    wrong = codes != y
    if wrong.any():
        value = y[wrong][0].item()
        where = f" in column {np.argwhere(wrong)[0][1]}" if y.ndim > 1 else ""
        advice = "y >= 0.5 makes labels of probabilities" if 0.0 < value < 1.0 else _SEVERAL
        advice = "y > 0 makes such labels of -1 and 1" if value == -1 else advice
        msg = f"{_NEEDS} (NaN where it is missing); got {value!r}{where}: {advice}"
        raise ValueError(msg)
    return codes.astype(np.int8), missing


def _numbers_in(y: HostArray) -> HostArray:
    """Return objects as floats, NaN where one is missing; texts are none, even of digits."""
    values = [np.nan if is_missing(one) else one for one in y.ravel().tolist()]
    odd = {type(one).__name__ for one in values if not isinstance(one, _NUMBERS)}
    if odd:
        msg = f"{_NEEDS}; got objects of type {', '.join(sorted(odd))}; {_SETS}; {_SEVERAL}"
        raise ValueError(msg)
    return np.asarray(values, dtype=np.float64).reshape(y.shape)


def targets_of(
    labels: HostArray | Coded | Indicator,
    sample_weight: Any,
    class_weight: Mapping[Any, float] | str | None,
    *,
    one_vs_rest: bool,
    classes: HostArray | None = None,
    kind: Kind | None = None,
) -> Targets:
    """Return the targets of checked labels; ``classes`` and ``kind`` are those fitted before.

    Raises
    ------
    ValueError
        If there are too few classes, others than before, or weights that suit them not.
    """
    if isinstance(labels, Indicator):
        codes, missing, names = labels
        if kind not in (None, "labels"):
            msg = f"{_ONE_COLUMN}; the model was fitted to one label per row"
            raise ValueError(msg)
        if classes is not None and len(classes) != len(names):
            msg = (
                f"y has {len(names)} columns, but there are {len(classes)} labels, "
                f"{classes[:_NAMED].tolist()}: y needs a column for each, in this order"
            )
            raise ValueError(msg)
        if classes is not None:
            _check_names(names, classes)
        kind, classes = "labels", names if classes is None else classes
    else:
        if kind == "labels":
            msg = (
                f"y should have {len(cast(HostArray, classes))} columns of 0 and 1, as the y that "
                "the model was fitted to; got one label per row"
            )
            raise ValueError(msg)
        (classes, codes), missing = encode_labels(labels, classes), None
        if kind is None:
            kind = "one_vs_rest" if one_vs_rest and len(classes) > 2 else "classes"
    weights = None
    if sample_weight is not None:
        weights = host_weights(sample_weight, codes.shape[0], stack_of(kind, classes)[0])
    return Targets(kind, classes, codes, missing, weights, class_weight)


def whole_indicator(labels: HostArray | Coded | Indicator, classes: HostArray) -> HostArray:
    """Return Y of 0 and 1 ``(n, L)``, of which nothing may be missing, for labels that are known.

    Raises
    ------
    ValueError
        If it is of other labels, or something is missing.
    """
    if not isinstance(labels, Indicator) or labels.shape[1] != len(classes):
        msg = f"y should be a matrix of 0 and 1 with {len(classes)} columns, as in fit"
        raise ValueError(msg)
    if labels.missing is not None:
        msg = "y has missing values, and score needs every label; score rows that have them all"
        raise ValueError(msg)
    _check_names(labels.names, classes)
    return _dense(labels.codes, slice(None))


def _check_names(names: HostArray, classes: HostArray) -> None:
    """Raise ValueError if the columns of a table are named otherwise than the labels."""
    if names.dtype.kind != "U" or classes.dtype.kind not in "UO":
        return
    other = [(name, label) for name, label in zip(names, classes, strict=True) if name != label]
    if other:
        name, label = other[0]
        msg = (
            f"y has the column {str(name)!r} where the label {str(label)!r} is expected: its "
            f"columns must be {_listed(classes.tolist())}, in this order: y[list(clf.classes_)]"
        )
        raise ValueError(msg)
