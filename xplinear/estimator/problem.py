"""A fit made ready: tables, arrays and settings become an objective, all checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state

from xplinear.arguments import shown
from xplinear.backends import Backend, backend_of, chosen_backend
from xplinear.backends.sparse import is_sparse
from xplinear.checks.certificate import Certificate
from xplinear.data import Data, Standard, data_of
from xplinear.data.blocks import padded
from xplinear.data.remote import Survey, is_remote
from xplinear.estimator.memory import STATE_VECTORS, WIDE
from xplinear.estimator.predictions import rows_on
from xplinear.estimator.settings import STRENGTHS, Settings
from xplinear.estimator.standardize import (
    apart,
    column_bounds,
    composed,
    moments_in,
    nearby,
    restandardized,
    standard_of,
    with_full_columns,
)
from xplinear.estimator.targets import Targets, check_targets, targets_of
from xplinear.estimator.validation import (
    check_features,
    check_lengths,
    check_precision,
    computation_dtype,
)
from xplinear.formats.fitted import Fitted, Near
from xplinear.minimize import Result
from xplinear.namespace import Array, HostArray, Namespace, accumulator, name_of
from xplinear.objective import Objective, Params, columns
from xplinear.solvers import SOLVERS, Solver
from xplinear.solvers.automatic import cheap_passes
from xplinear.solvers.metric import feature_moments
from xplinear.solvers.protocol import declared

__all__ = ["Problem", "Sample", "drawn_seed", "history_of_one", "place_of", "prepare"]


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
    targets: Targets
    dtype: Any
    result_dtype: Any
    # Of the ``models`` at hand: codes ``(n,)``, of labels ``(n, m)``, and likewise weights.
    models: slice
    codes: HostArray
    weights: HostArray | None
    # Class weights are about the loss: neither a score nor a scaler before the classifier sees
    # them.
    unclassed: HostArray | None
    weight_unit: float | HostArray

    @property
    def classes(self) -> HostArray:
        """The classes, or the names of the labels."""
        return self.targets.classes

    def of(self, models: slice) -> Sample:
        """Return the same rows for other models."""
        targets = self.targets
        weights, unit = targets.weights_of(models)
        bare = targets.weights_of(models, classed=False)[0] if targets.class_weight else weights
        codes = targets.codes if targets.kind == "one_vs_rest" else targets.codes_of(models)
        return self._replace(
            models=models, codes=codes, weights=weights, unclassed=bare, weight_unit=unit
        )

    def ratios(self, index: HostArray | None, weights: HostArray | None) -> HostArray | None:
        """Return the weights of some rows, of which only the ratios count; equal ones need none."""
        own = None if weights is None else weights if index is None else weights[index]
        return None if own is None or own.min() == own.max() else own / own.max(axis=0)

    def weighed(self, index: HostArray | None, weights: HostArray | None) -> HostArray | None:
        """Return the weights ``(n, 1 or m)`` of some rows."""
        own = self.ratios(index, weights)
        return None if own is None else own.reshape(len(own), -1)

    def part(
        self, index: HostArray | None, weights: HostArray | None, like: Data | None = None
    ) -> Data:
        """Return some rows; X is that of data ``like`` them, if there are such.

        Of rows that are not in memory the others are there too, and weigh nothing.
        """
        X, s, backend = self.X, self.weighed(index, weights), self.backend
        against, remote = self.targets.positives, is_remote(X)
        codes = self.codes if index is None or remote else self.codes[index]
        if remote and index is not None:
            own = np.ones((len(index), 1)) if s is None else s
            s = np.zeros((len(codes), own.shape[1]))
            s[index] = own
        if like is None and remote:
            k = self.targets.k if against is None else len(self.classes)
            data = X.data(codes, s, self.dtype, backend=backend, classes=k, counted=index)
        elif like is None:
            k = self.targets.k if against is None else len(self.classes)
            data = data_of(self.X, codes, s, self.dtype, index, backend=backend, classes=k)
        else:
            y = (
                like.y
                if against is not None
                else padded(codes, like.held - like.n, backend=backend)
            )
            data = like.with_labels(y).with_weights(None if s is None else like.as_held(s))
        if against is None:
            return data
        return data.with_labels(data.y, positives=backend.asarray(against[self.models]))


@dataclass(frozen=True, eq=False)
class Problem:
    """A fit made ready: everything checked, nothing of the estimator changed yet.

    The objective has only the ``rows`` of the sample that count, all if None; where they are not in
    memory it has all, and ``survey`` is what was found in them. ``shifted`` says that
    scores must be computed in the standard's features; ``reach`` is what they were before they were
    standardized, where that was asked for.
    """

    objective: Objective
    sample: Sample
    rows: HostArray | None
    held_out: Data | None
    standard: Standard | None
    shifted: bool
    seed: int
    alpha: float | HostArray
    reach: Standard | None = None
    survey: Survey | None = None
    others: Callable[[slice], Problem] | None = None

    def of(self, models: slice) -> Problem:
        """Return the problem of other models of the same fit."""
        return cast(Any, self.others)(models)

    def fitted(
        self,
        solver: Solver,
        result: Result,
        certificate: Certificate | None = None,
        before: Fitted | None = None,
        sgd_state: Any = None,
        n_iter: HostArray | None = None,
    ) -> Fitted:
        """Return the model of a result; ``before`` is what it went on from.

        ``n_iter`` tells the iterations of each model, where there are many.
        """
        value = certificate and certificate.objective
        if value is None:
            value = self.sample.backend.to_host(self.objective.value(result.params))
        one = self.sample.targets.kind == "classes"
        history = history_of_one(result.history) if one else result.history
        past = before and before.history
        if past:
            history = history | {"seconds": history["seconds"] + past["seconds"][-1]}
            history = {key: np.concatenate([past[key], history[key]]) for key in history}
        made = len(history["seconds"]) if one or n_iter is None else n_iter
        kind = type(solver)
        return self.model(result.params)._replace(
            alpha=self.alpha,
            solver=next((name for name in SOLVERS if SOLVERS[name] is kind), kind.__name__),
            n_iter=made,
            objective=float(value[0]) if one else value.astype(np.float64),
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
        kind = sample.targets.kind
        return Fitted(own, sample.classes, sample.backend, near, kind, sample.names)

    def start_from(self, model: Fitted) -> Params:
        """Return the parameters of a model as the solver sees them.

        Raises
        ------
        ValueError
            If it has other features or classes.
        """
        start = self.objective.zeros()
        shape, targets = tuple(model.params.W.shape), self.sample.targets
        own = model.kind, list(model.classes)
        models = *tuple(start.W.shape)[:1], targets.models, *tuple(start.W.shape)[2:]
        old, new = ([] if a is None else list(a) for a in (model.feature_names, self.sample.names))
        renamed = bool(old and new) and old != new
        if shape != models or own != (targets.kind, list(targets.classes)) or renamed:
            named = f" {', '.join(map(str, old[:10]))}" if renamed else ""
            msg = (
                f"warm_start needs the features and classes of the last fit: {shape[0]} "
                f"features{named}, classes {model.classes[:10].tolist()}; set warm_start=False"
            )
            raise ValueError(msg)
        data, xp = self.objective.data, self.objective.xp
        model = model.to(data.backend)
        params, standard = model.near or (model.params, None)
        start = Params(*(data.backend.asarray(a, data.dtype) for a in params))
        at = self.sample.models
        start = Params(start.W[:, at, :], start.b[at, :])
        if standard is not None and standard.centre.ndim > 1:
            standard = standard._make(a[:, at] for a in standard)
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

    @property
    def present(self) -> HostArray | slice:
        """The rows of the sample that the objective has."""
        return slice(None) if self.rows is None or self.survey else self.rows

    def places(self, index: HostArray) -> HostArray:
        """Return where the given rows of X are among those that count, without the others."""
        if self.rows is None:
            return index
        index = index[np.isin(index, self.rows)]
        return index if self.survey else np.searchsorted(self.rows, index)


def drawn_seed(random_state: Any) -> int:
    """Return a number drawn from a state, or where it is None from that of NumPy."""
    return int(check_random_state(random_state).randint(2**31 - 1))


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
    partial: bool,
    before: Fitted | None,
) -> Sample:
    backend = chosen_backend(settings.backend)
    labels, own = check_targets(owner, y), backend_of(X)
    X, names = check_features(owner, X, reset=before is None)
    check_lengths(X, labels)
    backend = (backend or own).accelerating(settings.accelerate)
    targets = targets_of(
        labels,
        sample_weight,
        settings.class_weight,
        one_vs_rest=settings.multi_class == "one_vs_rest",
        classes=classes,
        kind=before and before.kind,
    )
    if not partial:
        targets.check_counts()
    rows, k = rows_on(backend, X, own), targets.k
    dtype = held = computation_dtype(rows, settings.dtype, backend)
    check_precision(settings.precision, dtype, backend)
    exact = declared(settings.solver_or_class, "exact") and not (partial or settings.stochastic)
    as_found = settings.dtype is None and settings.precision == "float32"
    entries = rows.nnz if is_sparse(rows) else rows.shape[0] * rows.shape[1]
    if as_found and exact and cheap_passes(entries, k):
        # On few rows float64 costs little, and the rounding of float32 as many iterations.
        dtype = accumulator(backend.xp.empty((0,), **backend.kind(dtype)), xp=backend.xp)
    rows = with_full_columns(rows, None, backend.xp.finfo(dtype).bits, backend=backend)
    none = slice(0, 0), targets.codes, None, None, 0.0
    sample = Sample(rows, names, own.name, backend, targets, dtype, held, *none)
    width = targets.models if partial else _models_at_once(settings, sample)
    return sample.of(slice(0, width))


def _models_at_once(settings: Settings, sample: Sample) -> int:
    """Return how many models a stack is made of, where there are many: what memory holds.

    And no more than a product of matrices gains by, so that those that are done leave early; one,
    where each has features standardized for itself that a solver wants in common.
    """
    targets, backend, (n, p) = sample.targets, sample.backend, sample.X.shape
    apart = settings.standardize and targets.own_rows
    if apart and (settings.solver == "auto" or declared(settings.solver_or_class, "common_rows")):
        return 1
    c, size = columns(settings.loss, targets.k), backend.xp.finfo(sample.dtype).bits // 8
    model = STATE_VECTORS * c * p * size + n * (1 + size * targets.own_weights)
    room = backend.free_memory() // 2 // model
    most = max(WIDE, backend.free_columns) // c
    return max(1, min(targets.models, room, most))


def _reachable(
    settings: Settings, sample: Sample, bounds: tuple[HostArray, HostArray], *, centre: bool
) -> Standard | None:
    """Return what brings the features within reach of the arithmetic; None where they are.

    ``bounds`` are the least and the largest value of each.

    Raises
    ------
    ValueError
        If the device has no dtype for the values of X.
    """
    X, backend = sample.X, sample.backend
    xp, wide, stored = backend.xp, sample.result_dtype, name_of(X.dtype)
    low, high = bounds
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
) -> HostArray:
    """Return rows to hold out: of every class its share, where each row is of one."""
    codes = sample.targets.codes
    rows = np.arange(codes.shape[0]) if counted is None else counted
    size, state = settings.validation_fraction, seed % 2**32
    classes = None if sample.targets.kind == "labels" else codes[rows]
    try:
        parts = train_test_split(rows, test_size=size, stratify=classes, random_state=state)
    except ValueError as error:
        msg = (
            f"early_stopping cannot hold out validation_fraction={size} of {len(rows)} rows "
            f"({error}): both parts need rows of every class; set another validation_fraction, "
            "or early_stopping=False"
        )
        raise ValueError(msg) from error
    return np.asarray(parts[1])


def _train_and_held_out(sample: Sample, out: HostArray) -> tuple[HostArray, HostArray | None]:
    """Return the weights to train with and those of the rows held out.

    The former are 0 where a row is held out, instead of a copy of all the others.
    """
    held = sample.weights
    train = np.ones(len(sample.codes)) if held is None else held.copy()
    train[out, ...] = 0.0
    for weights in (train, None if held is None else held[out, ...]):
        if weights is None or weights.any(axis=0).all():
            continue
        first = sample.models.start + int(np.flatnonzero(~np.atleast_1d(weights.any(axis=0)))[0])
        msg = (
            f"early_stopping cannot hold out rows: label {sample.classes[first]} is known in too "
            "few of them, and both parts need one that counts; set early_stopping=False"
        )
        raise ValueError(msg)
    return train, held


def _strength(
    settings: Settings, sample: Sample, total: Any, before: Fitted | None, *, partial: bool
) -> float | HostArray:
    """Return α of each model, given or from C and the sum of its weights."""
    targets = sample.targets

    def own(name: str, value: Any) -> Any:
        if not np.ndim(value):
            return value
        if targets.kind == "classes":
            msg = f"{name} must be {STRENGTHS[name]}, got {shown(value)} for one model"
            raise ValueError(msg)
        if len(value) != targets.models:
            msg = (
                f"{name} has {len(value)} numbers for {targets.models} labels; give one, or one "
                "for each label"
            )
            raise ValueError(msg)
        return np.asarray(value)[sample.models]

    alpha: Any = own("alpha", settings.alpha)
    if alpha is None and not partial:
        with np.errstate(all="ignore"):  # C = inf
            C = 1.0 if settings.C is None else own("C", settings.C)
            alpha = 1.0 / (C * np.float64(total))
    elif alpha is None:
        if settings.C is not None:
            msg = (
                f"partial_fit cannot use C={settings.C!r}: alpha = 1 / (C n) needs the number of "
                "all rows to come; give alpha instead (after fit, set_params(C=None) goes on at "
                "alpha_)"
            )
            raise ValueError(msg)
        alpha = _FIRST_ALPHA if before is None or before.alpha is None else before.alpha
    if targets.kind == "classes":
        return float(alpha)
    return np.broadcast_to(alpha, (len(range(*sample.models.indices(targets.models))),))


def _unstandardized(xp: Namespace, params: Params, standard: Standard) -> Params:
    return restandardized(params, standard, None, xp=xp)


class _Shared(NamedTuple):
    """What all models of a fit have in common, however many are posed at a time."""

    counted: HostArray | None  # rows
    scaled: HostArray | None  # rows whose features are measured
    standard: Standard | None  # what brings the features within reach
    out: HostArray | None  # rows held out
    seed: int
    survey: Survey | None


def _posed(
    settings: Settings,
    shared: _Shared,
    sample: Sample,
    before: Fitted | None,
    *,
    partial: bool,
    like: Problem | None = None,
) -> Problem:
    """Return the problem of the models of a sample; rows are those of one ``like`` it, if any."""
    counted, scaled, standard, out, seed, survey = shared
    backend, dtype = sample.backend, sample.dtype
    train, held_out = sample.weights, None
    if out is not None:
        train, held = _train_and_held_out(sample, out)
        held_out = sample.part(out, held, like and like.held_out)
    with np.errstate(over="ignore"):
        unit = np.exp2(sample.weight_unit)
        total = len(sample.codes) if train is None else train.sum(axis=0) * unit
    alpha = _strength(settings, sample, total, before, partial=partial)
    _check_alpha(float(np.max(alpha)), backend.xp.finfo(dtype))
    data = sample.part(counted, train, like and like.objective.data)
    objective = Objective(
        backend.accelerated(settings.loss),
        settings.penalty,
        backend.asarray(np.atleast_1d(np.asarray(alpha, dtype=np.float64)), dtype),
        data.with_standard(standard),
        sample.targets.k,
        settings.fit_intercept,
    )
    shifted = standard is not None
    if settings.standardize and like is not None and not sample.targets.own_rows:
        standard, measured = like.standard, like.objective.measured
        data = data.with_standard(standard)
        measured = measured and (data, measured[1])
        objective = replace(objective, data=data, measured=measured)
    elif settings.standardize:
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
    reach = shared.standard
    return Problem(
        objective, sample, counted, held_out, standard, shifted, seed, alpha, reach, survey
    )


def prepare(
    settings: Settings,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    owner: Any,
    partial: bool = False,
    classes: HostArray | None = None,
    before: Fitted | None = None,
    scored: bool = False,
) -> Problem:
    """Check everything, and return the problem to solve.

    Parameters
    ----------
    settings : Settings
    X, y, sample_weight : arrays
        As `LinearClassifier.fit` takes them, after `rows_and_targets`.
    owner : estimator
        Whose name errors give; it is not changed.
    partial : bool, default False
        For `partial_fit`, whose rows are a part of all.
    classes : ndarray, optional
        Those there will ever be, given by `partial_fit`.
    before : Fitted, optional
        What `partial_fit` goes on from.
    scored : bool, default False
        Whether rows are scored too: then those of class weight 0 are not left out, as those of
        weight 0 are.
    """
    seed = settings.random_state
    sample = _sample(settings, X, y, sample_weight, owner, classes, partial=partial, before=before)
    seed = seed if isinstance(seed, int) else drawn_seed(seed)
    backend, dtype, targets = sample.backend, sample.dtype, sample.targets
    largest = targets.largest_weights() if targets.own_rows else sample.unclassed
    visible = _counted_rows(largest, dtype, backend)
    one = targets.kind == "classes" and not scored
    counted = _counted_rows(sample.weights, dtype, backend) if one else visible
    scaled = visible if settings.standardize else counted
    survey = sample.X.survey(scaled) if is_remote(sample.X) else None
    if before is not None and before.near is not None:  # it goes on in the same coordinates
        standard = before.near.to(backend, before.backend).standard
        bits = backend.xp.finfo(dtype).bits
        rows = with_full_columns(sample.X, standard, bits, backend=backend)
        sample = sample._replace(X=rows)
    else:
        centre = settings.fit_intercept and not partial
        if survey is None:
            bounds = column_bounds(sample.X, scaled, backend=backend)
        else:
            bounds = apart(survey.low, survey.high)
        standard = _reachable(settings, sample, bounds, centre=centre)
    out = None
    if settings.early_stopping and not partial:
        out = _held_out(settings, sample, counted, seed)
    shared = _Shared(counted, scaled, standard, out, seed, survey)
    first = _posed(settings, shared, sample, before, partial=partial)

    def others(models: slice) -> Problem:
        return _posed(settings, shared, sample.of(models), before, partial=partial, like=first)

    return replace(first, others=others)
