"""A fit made ready: tables, arrays and settings become an objective, all checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state

from xplinear.backends import Backend, backend_of, chosen_backend
from xplinear.backends.sparse import is_scipy
from xplinear.checks.certificate import Certificate
from xplinear.data import Data, Standard, data_of
from xplinear.estimator.labels import check_labels, check_two_classes, encode_labels, weights_of
from xplinear.estimator.predictions import rows_on
from xplinear.estimator.settings import Settings
from xplinear.estimator.standardize import (
    column_bounds,
    composed,
    moments_in,
    nearby,
    restandardized,
    standard_of,
    with_full_columns,
)
from xplinear.estimator.validation import (
    check_features,
    check_lengths,
    check_precision,
    computation_dtype,
)
from xplinear.formats.fitted import Fitted, Near
from xplinear.minimize import Result
from xplinear.namespace import Array, HostArray, Namespace, accumulator, name_of
from xplinear.objective import Objective, Params
from xplinear.solvers import SOLVERS, Solver
from xplinear.solvers.automatic import cheap_passes
from xplinear.solvers.metric import feature_moments
from xplinear.solvers.protocol import declared

__all__ = ["Problem", "Sample", "history_of_one", "place_of", "prepare"]


_FIRST_ALPHA = 1e-4  # of partial_fit, which cannot know how many rows will come


def place_of(estimator: Any, X: Any = None, *_: Any, **__: Any) -> Backend:
    """Return where `fit` and `partial_fit` compute."""
    return chosen_backend(estimator.backend) or backend_of(X)


def history_of_one(history: Mapping[str, HostArray]) -> dict[str, HostArray]:
    """Return the history of a result of one model, without the axis of the models."""
    return {key: a[:, 0] if a.ndim == 2 else a for key, a in history.items()}


class Sample(NamedTuple):
    """Rows, labels and weights, checked, and what they are computed in."""

    X: Array  # on the backend, or on the host
    names: HostArray | None  # of the features
    source: str  # the backend of X as given
    backend: Backend
    classes: HostArray
    codes: HostArray
    weights: HostArray | None
    # Class weights are about the loss: neither a score nor a scaler before the classifier sees
    # them.
    unclassed: HostArray | None
    weight_unit: float
    dtype: Any
    result_dtype: Any

    def ratios(self, index: HostArray | None, weights: HostArray | None) -> HostArray | None:
        """Return the weights of some rows, of which only the ratios count; equal ones need none."""
        own = None if weights is None else weights if index is None else weights[index]
        return None if own is None or own.min() == own.max() else own / own.max()

    def part(self, index: HostArray | None, weights: HostArray | None) -> Data:
        """Return some rows."""
        own = self.ratios(index, weights)
        return data_of(
            self.X,
            self.codes if index is None else self.codes[index],
            None if own is None else own[:, None],
            self.dtype,
            index,
            backend=self.backend,
            classes=len(self.classes),
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """A fit made ready: everything checked, nothing of the estimator changed yet.

    The objective has only the ``rows`` of the sample that count, all if None. ``shifted`` says that
    scores must be computed in the standard's features.
    """

    objective: Objective
    sample: Sample
    rows: HostArray | None
    held_out: Data | None
    standard: Standard | None
    shifted: bool
    seed: int
    alpha: float

    def fitted(
        self,
        solver: Solver,
        result: Result,
        certificate: Certificate | None = None,
        before: Mapping[str, HostArray] | None = None,
        sgd_state: Any = None,
    ) -> Fitted:
        """Return the model of a result; ``before`` is the history of what it went on from."""
        value = certificate and certificate.objective
        if value is None:
            value = self.sample.backend.to_host(self.objective.value(result.params))
        history = history_of_one(result.history)
        if before is not None:
            history["seconds"] = history["seconds"] + before["seconds"][-1]
            history = {key: np.concatenate([before[key], history[key]]) for key in history}
        kind = type(solver)
        return self.model(result.params)._replace(
            alpha=self.alpha,
            solver=next((name for name in SOLVERS if SOLVERS[name] is kind), kind.__name__),
            objective=float(value[0]),
            history=history,
            certificate=certificate,
            source=self.sample.source,
            weight_unit=self.sample.weight_unit,
            sgd_state=sgd_state,
        )

    def model(self, params: Params) -> Fitted:
        """Return the model of what the solver found, without more that is known of it."""
        near = Near(self.held(params), self.standard) if self.shifted and self.standard else None
        own, sample = self.unstandardized(params), self.sample
        return Fitted(own, sample.classes, sample.backend, near, sample.names)

    def start_from(self, model: Fitted) -> Params:
        """Return the parameters of a model as the solver sees them.

        Raises
        ------
        ValueError
            If it has other features or classes.
        """
        start = self.objective.zeros()
        shape = tuple(model.params.W.shape)
        if shape != tuple(start.W.shape) or list(model.classes) != list(self.sample.classes):
            msg = (
                f"warm_start needs the features and classes of the last fit: {shape[0]} "
                f"features, classes {model.classes[:10].tolist()}; set warm_start=False"
            )
            raise ValueError(msg)
        data, xp = self.objective.data, self.objective.xp
        model = model.to(data.backend)
        params, standard = model.near or (model.params, None)
        start = Params(*(data.backend.asarray(a, data.dtype) for a in params))
        start = restandardized(start, standard, self.standard, xp=xp)
        return start if self.objective.fit_intercept else Params(start.W, xp.zeros_like(start.b))

    def unstandardized(self, params: Params) -> Params:
        """Return what the solver found, as parameters for X itself, in the dtype of results."""
        held, xp = self.held(params), self.objective.xp
        if self.standard is None:
            return held
        return self.sample.backend.compile(_unstandardized, xp)(held, self.standard)

    def held(self, params: Params) -> Params:
        """Return the parameters in the dtype of results."""
        xp, dtype = self.objective.xp, self.sample.result_dtype
        return Params(*(xp.astype(a, dtype, copy=False) for a in params))

    def rounded(self, result: Result) -> Result:
        """Return the result at the parameters that the dtype of results can hold."""
        xp, wide = self.objective.xp, self.objective.data.dtype
        params = (xp.astype(a, wide, copy=False) for a in self.held(result.params))
        return replace(result, params=Params(*params))

    def places(self, index: HostArray) -> HostArray:
        """Return where the given rows of X are among those that count, without the others."""
        if self.rows is None:
            return index
        return np.searchsorted(self.rows, index[np.isin(index, self.rows)])


def _counted_rows(weights: HostArray | None, dtype: Any, backend: Backend) -> HostArray | None:
    """Return the rows whose weight, of at most 1, is not 0 in this dtype; None if all are."""
    if weights is None:
        return None
    counts = weights >= float(backend.xp.finfo(dtype).smallest_normal)
    return None if counts.all() else np.flatnonzero(counts)


def _same(a: HostArray | None, b: HostArray | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _check_alpha(alpha: float, info: Any) -> None:
    """Raise ValueError if a strength is beyond the dtype of the computation."""
    if alpha > float(info.max):
        msg = (
            f"alpha = {alpha:g} is beyond float{info.bits}; where it is not given, it is "
            "1 / (C n), n the sum of the weights: scale them, or give alpha"
        )
        raise ValueError(msg)


def _check_reach(low: HostArray, high: HostArray, info: Any, backend: Backend) -> None:
    """Raise ValueError if a dtype cannot hold some columns of X, or not what varies in them."""
    largest = np.maximum(np.abs(low), np.abs(high))
    lost = (largest > float(info.max)) | ((largest > 0) & (largest < float(info.smallest_normal)))
    lost = lost | ((high > low) & (0.5 * high - 0.5 * low < float(info.eps) * largest))
    if lost.any():
        column = np.flatnonzero(lost)[0]
        msg = (
            f"X holds values that float{info.bits} cannot hold, or not tell apart: column {column} "
            f"goes from {low[column]:g} to {high[column]:g}; scale and centre it"
            + ", or compute in float64: jax.config.update('jax_enable_x64', True)"
            * (backend.name.startswith("jax") and info.bits == 32)
        )
        raise ValueError(msg)


def _sample(
    settings: Settings,
    X: Any,
    y: Any,
    sample_weight: Any,
    owner: Any,
    classes: HostArray | None,
    *,
    reset: bool,
) -> Sample:
    partial, backend = classes is not None, chosen_backend(settings.backend)
    labels, own = check_labels(owner, y), backend_of(X)
    X, names = check_features(owner, X, reset=reset)
    check_lengths(X, labels)
    backend = (backend or own).accelerating(settings.accelerate)
    classes, codes = encode_labels(labels, classes)
    weights, unit = weights_of(sample_weight, settings.class_weight, codes, classes)
    if weights is not None and not partial:
        check_two_classes(weights, codes, classes)
    rows, k = rows_on(backend, X, own), len(classes)
    dtype = held = computation_dtype(rows, settings.dtype, backend)
    check_precision(settings.precision, dtype, backend)
    exact = declared(settings.solver_or_class, "exact") and not (partial or settings.stochastic)
    as_found = settings.dtype is None and settings.precision == "float32"
    entries = rows.nnz if is_scipy(rows) else rows.shape[0] * rows.shape[1]
    if as_found and exact and cheap_passes(entries, k):
        # On few rows float64 costs little, and the rounding of float32 as many iterations.
        dtype = accumulator(backend.xp.empty((0,), **backend.kind(dtype)), xp=backend.xp)
    bare, _ = weights_of(sample_weight, None, codes, classes)
    rows = with_full_columns(rows, None, backend.xp.finfo(dtype).bits, backend=backend)
    return Sample(rows, names, own.name, backend, classes, codes, weights, bare, unit, dtype, held)


def _reachable(
    settings: Settings, sample: Sample, rows: HostArray | None, *, centre: bool
) -> Standard | None:
    """Return what brings the features within reach of the arithmetic; None where they are.

    Raises
    ------
    ValueError
        If the device has no dtype for the values of X.
    """
    X, backend = sample.X, sample.backend
    xp, wide, stored = backend.xp, sample.result_dtype, name_of(X.dtype)
    low, high = column_bounds(X, rows, backend=backend)
    bits = xp.finfo(wide).bits
    if stored.endswith("float64"):
        wide = accumulator(xp.empty((0,), **backend.kind(wide)), xp=xp)
    found = nearby(low, high, bits, xp.finfo(wide).bits, centre=centre)
    if found is None:
        return None
    if "float" not in stored or (stored.endswith("float64") and xp.finfo(wide).bits < 64):
        _check_reach(low, high, xp.finfo(wide), backend)
    if not settings.standardize:
        found.warn(low, high, bits)
    return found.standard(wide, backend=backend)


def _held_out(
    settings: Settings, sample: Sample, counted: HostArray | None, seed: int
) -> tuple[Data, HostArray]:
    """Return rows to hold out, of every class its share, and the weights to train with.

    Those are 0 where a row is held out, instead of a copy of all the others.
    """
    rows = np.arange(len(sample.codes)) if counted is None else counted
    size, state, codes = settings.validation_fraction, seed % 2**32, sample.codes[rows]
    try:
        parts = train_test_split(rows, test_size=size, stratify=codes, random_state=state)
    except ValueError as error:
        msg = (
            f"early_stopping cannot hold out validation_fraction={size} of {len(rows)} rows "
            f"({error}): both parts need rows of every class; set another validation_fraction, "
            "or early_stopping=False"
        )
        raise ValueError(msg) from error
    index = np.asarray(parts[1])
    weights = np.ones(len(sample.codes)) if sample.weights is None else sample.weights.copy()
    weights[index] = 0.0
    return sample.part(index, sample.weights), weights


def _strength(settings: Settings, total: float, before: Fitted | None, *, partial: bool) -> float:
    """Return α, given or from C and the sum of the weights."""
    if settings.alpha is not None:
        return settings.alpha
    if not partial:
        with np.errstate(all="ignore"):  # C = inf
            C = 1.0 if settings.C is None else settings.C
            return float(1.0 / (C * np.float64(total)))
    if settings.C is not None:
        msg = (
            f"partial_fit cannot use C={settings.C!r}: alpha = 1 / (C n) needs the number of all "
            "rows to come; give alpha instead (after fit, set_params(C=None) goes on at alpha_)"
        )
        raise ValueError(msg)
    return _FIRST_ALPHA if before is None or before.alpha is None else before.alpha


def _unstandardized(xp: Namespace, params: Params, standard: Standard) -> Params:
    return restandardized(params, standard, None, xp=xp)


def prepare(
    settings: Settings,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    owner: Any,
    classes: HostArray | None = None,
    before: Fitted | None = None,
    scored: bool = False,
) -> Problem:
    """Check everything, and return the problem to solve.

    Parameters
    ----------
    settings : Settings
    X, y, sample_weight : arrays
        As `LinearClassifier.fit` takes them.
    owner : estimator
        Whose name errors give; it is not changed.
    classes : ndarray, optional
        Given by `partial_fit`, whose rows are a part of all.
    before : Fitted, optional
        What `partial_fit` goes on from.
    scored : bool, default False
        Whether rows are scored too: then those of class weight 0 are not left out, as those of
        weight 0 are.
    """
    partial, seed = classes is not None, settings.random_state
    sample = _sample(settings, X, y, sample_weight, owner, classes, reset=before is None)
    if not isinstance(seed, int):
        seed = int(check_random_state(seed).randint(2**31 - 1))
    backend, dtype = sample.backend, sample.dtype
    visible = _counted_rows(sample.unclassed, dtype, backend)
    counted = visible if scored else _counted_rows(sample.weights, dtype, backend)
    scaled = visible if settings.standardize else counted
    if before is not None and before.near is not None:  # it goes on in the same coordinates
        standard = before.near.to(backend, before.backend).standard
        bits = backend.xp.finfo(dtype).bits
        rows = with_full_columns(sample.X, standard, bits, backend=backend)
        sample = sample._replace(X=rows)
    else:
        centre = settings.fit_intercept and not partial
        standard = _reachable(settings, sample, scaled, centre=centre)
    shifted, held_out, train = standard is not None, None, sample.weights
    if settings.early_stopping and not partial:
        held_out, train = _held_out(settings, sample, counted, seed)
    with np.errstate(over="ignore"):
        unit = np.exp2(sample.weight_unit)
        total = len(sample.codes) if train is None else float(train.sum() * unit)
    alpha = _strength(settings, total, before, partial=partial)
    _check_alpha(alpha, backend.xp.finfo(dtype))
    data = sample.part(counted, train)
    objective = Objective(
        backend.accelerated(settings.loss),
        settings.penalty,
        backend.asarray(np.asarray([alpha], dtype=np.float64), dtype),
        data.with_standard(standard),
        len(sample.classes),
        settings.fit_intercept,
    )
    if settings.standardize:
        weighed = sample.ratios(scaled, sample.unclassed), sample.ratios(counted, train)
        same = _same(scaled, counted) and _same(*weighed)
        seen = data if same else sample.part(scaled, sample.unclassed)
        seen = replace(objective, data=seen.with_standard(standard))
        moments = feature_moments(seen)
        own = standard_of(seen, moments)
        standard = composed(standard, own)
        data = data.with_standard(standard)
        within = data.backend.compile(moments_in, data.backend.xp)
        measured = (data, within(own, moments)) if same else None
        objective = replace(objective, data=data, measured=measured)
    held_out = held_out and held_out.with_standard(standard)
    return Problem(objective, sample, counted, held_out, standard, shifted, seed, alpha)
