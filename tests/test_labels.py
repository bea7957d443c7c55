"""A stack whose models have labels of their own is as many single fits."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from xplinear import LinearClassifier
from xplinear.arguments import ArgumentError
from xplinear.backends import get_backend
from xplinear.data import ArrayData, StreamedData
from xplinear.duality import value_and_lower_bound
from xplinear.gradients import check_gradient
from xplinear.losses import LOSSES
from xplinear.minimize import minimize
from xplinear.model_selection.scoring import SCORINGS, class_counts
from xplinear.objective import Objective, Params
from xplinear.penalties import PENALTIES
from xplinear.solvers import (
    GD,
    LBFGS,
    SGD,
    InteriorPoint,
    Newton,
    NewtonCG,
    ProximalLBFGS,
    Smoothing,
)

N, P = 300, 4  # two of the smallest blocks
rng = np.random.default_rng(0)
X = rng.standard_normal((N, P)) + 0.5
S = rng.integers(0, 3, (N, 4)).astype(float)
# Three labels of each row, by the number of classes.
CODES = {
    k: np.argmax(np.einsum("np,plk->nlk", X, rng.standard_normal((P, 3, k))), axis=2)
    for k in (2, 3)
}
TARGETS, ALPHAS = [0, 2, 1, 2], (0.1, 0.03, 3.0, 1e-3)
NUMPY = get_backend("numpy")


def stack(
    case: Any, loss: str, penalty: str, k: int, *, streamed: bool = False, mapped: bool = True
) -> Objective:
    """Return four models on three labels, two of them on the same, each with its weights."""
    y = CODES[k] if mapped else CODES[k][:, TARGETS]
    targets = TARGETS if mapped else None
    what = LOSSES[loss](), PENALTIES[penalty](), X, y, S
    F = case.objective(*what, alpha=ALPHAS, k=k, targets=targets)
    if not streamed:
        return F
    held = F.data.y, F.data.s, F.data.dtype
    rows = StreamedData(X, *held, backend=case.backend, targets=F.data.targets)
    return replace(F, data=rows)


def single(loss: str, penalty: str, k: int, model: int) -> Objective:
    """Return one model of the stack, alone, with labels ``(n,)``."""
    y, s = CODES[k][:, TARGETS[model]], S[:, model : model + 1]
    alpha = np.asarray(ALPHAS[model : model + 1])
    data = ArrayData(X, y, s, backend=NUMPY)
    return Objective(LOSSES[loss](), PENALTIES[penalty](), alpha, data, k)


def point(case: Any, F: Objective) -> tuple[Params, list[Params]]:
    """Return parameters of a stack, and those of each model alone."""
    params = case.params(F)
    W, b = (case.to_numpy(a) for a in params)
    return params, [Params(W[:, [j]], b[[j]]) for j in range(F.m)]


def assert_same(case: Any, together: Any, alone: list[Any], axis: int = 0) -> None:
    expected = np.concatenate([np.asarray(a) for a in alone], axis=axis)
    atol = 1e-12 * np.abs(expected).max()
    np.testing.assert_allclose(case.to_numpy(together), expected, rtol=1e-12, atol=atol)


def compare_a_pass(case: Any, loss: str, k: int, **how: bool) -> None:
    case = case.with_blocks_of(1)
    F = stack(case, loss, "l2", k, **how)
    params, alone = point(case, F)
    singles = [single(loss, "l2", k, j) for j in range(F.m)]
    value, (dW, db) = F.value_and_grad(params)
    own = [one.value_and_grad(at) for one, at in zip(singles, alone, strict=True)]
    assert_same(case, value, [a[0] for a in own])
    assert_same(case, dW, [a[1].W for a in own], axis=1)
    assert_same(case, db, [a[1].b for a in own])
    for function in (value_and_lower_bound, class_counts):
        own = [function(one, at) for one, at in zip(singles, alone, strict=True)]
        for i, part in enumerate(function(F, params)):
            assert_same(case, part, [a[i] for a in own])
    fewer = F.take(case.asarray([2, 3, 1])).take(case.asarray([1, 2]))
    some = Params(params.W[:, 2:, :], params.b[2:, :])
    expected = [singles[j].value(alone[i]) for i, j in ((2, 3), (3, 1))]
    assert_same(case, fewer.value(some), expected)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_pass_is_that_of_each_model(numpy_backend, loss, k, mapped):
    compare_a_pass(numpy_backend, loss, k, mapped=mapped)


def test_a_pass_on_every_backend(backend):
    compare_a_pass(backend, "softmax", 3, streamed=True)


def test_a_pass_of_two_classes_on_every_library(library):
    compare_a_pass(library, "multiclass_hinge", 2)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_scores_are_those_of_each_model(numpy_backend, scoring):
    F = stack(numpy_backend, "softmax", "l2", 3)
    params, alone = point(numpy_backend, F)
    score = SCORINGS[scoring]
    own = [score(single("softmax", "l2", 3, j), at) for j, at in enumerate(alone)]
    assert_same(numpy_backend, score(F, params), own)


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_the_gradient_is_that_of_differences(numpy_backend, loss):
    F = stack(numpy_backend, loss, "l2", 3)
    assert check_gradient(F, numpy_backend.params(F)).passed


# To the optimum, and to what smoothing proves.
SOLVERS_TO_THE_OPTIMUM = [
    (GD(tol=1e-6), "squared_error", "l2", 2),
    (LBFGS(tol=1e-10), "softmax", "l2", 3),
    (Newton(tol=1e-10), "squared_hinge", "l2", 3),
    (NewtonCG(tol=1e-8), "softmax", "l2", 3),
    (NewtonCG(tol=1e-8), "squared_hinge", "l2", 2),
    (ProximalLBFGS(tol=1e-8), "softmax", "l1", 3),
    (InteriorPoint(tol=1e-9), "multiclass_hinge", "l2", 3),
    (InteriorPoint(tol=1e-9), "crammer_singer", "l2", 2),
    (InteriorPoint(tol=1e-9), "absolute_error", "l2", 3),
    (Smoothing(tol=1e-4), "multiclass_hinge", "l2", 3),
]


@cache
def optima(solver: Any, loss: str, penalty: str, k: int) -> np.ndarray[Any, Any]:
    singles = [single(loss, penalty, k, j) for j in range(len(ALPHAS))]
    return np.concatenate([F.value(minimize(F, solver).params) for F in singles])


def find_the_optimum(case: Any, solver: Any, *problem: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # The module: its function has the same name. Models leave small stacks too.
        patch.setattr(sys.modules["xplinear.minimize"], "_QUICK", 0.0)
        F = stack(case, *problem)
        result = minimize(F, solver)
    assert result.reasons == ("converged",) * F.m
    assert result.state.report.loss.shape[0] < F.m  # some have left
    found = case.to_numpy(F.value(result.params))
    rtol = solver.tol if isinstance(solver, Smoothing) else 1e-8
    np.testing.assert_allclose(found, optima(solver, *problem), rtol=rtol)


@pytest.mark.parametrize(("solver", "loss", "penalty", "k"), SOLVERS_TO_THE_OPTIMUM)
def test_every_solver_finds_the_optimum_of_each_model(numpy_backend, solver, loss, penalty, k):
    find_the_optimum(numpy_backend, solver, loss, penalty, k)


def test_every_library_finds_it(library):
    """By the solver whose state holds the labels."""
    find_the_optimum(library, InteriorPoint(tol=1e-9), "multiclass_hinge", "l2", 3)


@pytest.mark.parametrize(("loss", "k", "streamed"), [("softmax", 3, True), ("softmax", 2, False)])
def test_sgd_makes_the_steps_of_each_model(backend, loss, k, streamed):
    solver = SGD(max_iter=3, batch_size=32)
    alone = [minimize(single(loss, "l2", k, j), solver).params for j in range(len(ALPHAS))]
    found = minimize(stack(backend, loss, "l2", k, streamed=streamed), solver).params
    for a, own, axis in zip(found, zip(*alone, strict=True), (1, 0), strict=True):
        expected = np.concatenate(own, axis=axis)
        np.testing.assert_allclose(backend.to_numpy(a), expected, atol=1e-10)


def test_two_class_models_of_one_stack_are_one_against_the_rest(numpy_backend):
    """As estimators fit them one by one."""
    classes = CODES[3][:, 0]
    y = (classes[:, None] == np.arange(3)).astype(np.int32)
    what = LOSSES["softmax"](), PENALTIES["l2"](), X, y
    F = numpy_backend.objective(*what, alpha=[0.1] * 3, k=2)
    W = minimize(F, LBFGS(tol=1e-10)).params.W
    for j in range(3):
        clf = LinearClassifier(solver="lbfgs", alpha=0.1, tol=1e-10).fit(X, y[:, j])
        np.testing.assert_allclose(W[:, j, 0], np.ravel(clf.coef_), atol=1e-8)


def test_a_column_is_for_all_models(backend):
    what = LOSSES["softmax"](), PENALTIES["l2"](), X
    y = CODES[3][:, :1]
    flat, column = (backend.objective(*what, codes, alpha=ALPHAS) for codes in (y[:, 0], y))
    params = backend.params(flat)
    bounds = (value_and_lower_bound(F, params) for F in (flat, column))
    for a, b in zip(*bounds, strict=True):
        np.testing.assert_allclose(backend.to_numpy(a), backend.to_numpy(b), rtol=1e-12)
    assert column.data.take(backend.asarray([0, 2])) is column.data


@pytest.mark.parametrize("targets", [None, [0, 1, 2]])
def test_labels_are_for_as_many_models_as_there_are(backend, targets):
    what = LOSSES["softmax"](), PENALTIES["l2"](), X, CODES[3]
    message = "y must have one column for all models, or one for each of the 2, got 3"
    with pytest.raises(ValueError, match=message):
        backend.objective(*what, alpha=[0.1, 0.1], targets=targets)


def test_the_column_of_wrong_codes_is_named(backend):
    what = LOSSES["softmax"](), PENALTIES["l2"](), X
    y = CODES[3] - [0, 1, 0]
    with pytest.raises(ValueError, match=r"y must hold class codes from 0 .* -1 to 1 in column 1"):
        backend.objective(*what, y, alpha=[0.1] * 3)
    y = CODES[3] + [0, 0, 2]
    with pytest.raises(ValueError, match="for class codes y up to 4 in column 2, got 3"):
        backend.objective(*what, y, alpha=[0.1] * 3)


@pytest.mark.parametrize("targets", [[0, 2, -1], [3, 0, 1], [[0, 1, 2]], [0.0, 1.0, 2.0], [1]])
def test_columns_that_there_are_not(backend, targets):
    what = LOSSES["softmax"](), PENALTIES["l2"](), X
    shape = "got 1" if targets == [1] else None
    for chosen, name in (("targets", "y"), ("models", "s")):
        with pytest.raises(ArgumentError, match=shape or f"{chosen} must "):
            backend.objective(
                *what, CODES[3], np.ones((N, 3)), alpha=[0.1] * 3, **{chosen: targets}
            )
        y, s = CODES[3][:, : 2 + (name == "s")], np.ones((N, 2 + (name == "y")))
        with pytest.raises(ArgumentError, match=f"{name} must have one column .* 3, got 2"):
            backend.objective(*what, y, s, alpha=[0.1] * 3)
    with pytest.raises(ArgumentError, match="targets must choose a column of y for each model"):
        backend.objective(*what, CODES[3][:, 0], alpha=[0.1] * 3, targets=[0, 0, 0])


def test_streamed_labels_are_those_of_the_rows(backend):
    y = backend.asarray(CODES[3])
    for wrong in (y[:20, :], backend.asarray(CODES[3], "float64")):
        with pytest.raises(ArgumentError, match="y must "):
            StreamedData(X, wrong, backend=backend.backend)
    with pytest.raises(ArgumentError, match="s must have the shape"):
        StreamedData(X, y, backend.asarray(np.ones((20, 1))), backend=backend.backend)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("loss", ["softmax", "squared_error"])
def test_one_against_the_rest_is_made_of_classes(backend, loss, k):
    """The labels of each model are never there together; a class may have no rows."""
    case, classes, alpha = backend.with_blocks_of(1), CODES[3][:, 0], [0.1, 0.03, 0.1, 1.0]
    positives = [2, 0, 2, 7]
    y = (classes[:, None] == positives).astype(np.int32)
    what, how = (LOSSES[loss](), PENALTIES["l2"](), X), {"alpha": alpha, "k": k}
    expected = case.objective(*what, y, **how)
    F = case.objective(*what, classes, positives=positives, **how)
    params = case.params(F)
    for function in (Objective.value, value_and_lower_bound, class_counts):
        for a, b in zip(function(F, params), function(expected, params), strict=True):
            np.testing.assert_allclose(case.to_numpy(a), case.to_numpy(b), rtol=1e-12)
    assert F.take(case.asarray([3, 1])).data.positives.shape == (2,)


@pytest.mark.parametrize(
    ("positives", "message"),
    [
        ([0, 1], r"for each of the 3 models, \(3,\), .* got \(2,\)"),
        ([0, 1, -1], "positives must be class codes from 0 on; they begin at -1"),
        ([0.0, 1.0, 2.0], "positives must be"),
        ([[0, 1, 2]], "positives must be"),
    ],
)
def test_classes_of_models_that_cannot_be(backend, positives, message):
    what, y = (LOSSES["softmax"](), PENALTIES["l2"](), X), CODES[3][:, 0]
    with pytest.raises(ArgumentError, match=message):
        backend.objective(*what, y, alpha=[0.1] * 3, k=2, positives=positives)
    for more in ({"y": CODES[3]}, {"y": CODES[3], "targets": [0, 1, 2]}):
        with pytest.raises(ArgumentError, match=r"with y of shape \(n,\) and no targets"):
            backend.objective(*what, **more, alpha=[0.1] * 3, k=2, positives=[0, 1, 2])
    with pytest.raises(ArgumentError, match="y must hold class codes from 0 on"):
        backend.objective(*what, y - 1, alpha=[0.1] * 3, k=2, positives=[0, 1, 2])


# No row is 1, all are, one is; a line separates them; noise; and what is between.
LINE = X @ [1.0, -2.0, 0.5, 1.0]
HARD = np.stack(
    [
        np.zeros(N),
        np.ones(N),
        np.arange(N) == 17,
        LINE > 1.0,
        rng.random(N) < 0.5,
        LINE + rng.logistic(size=N) > 2.0,
    ],
    axis=1,
).astype(np.int8)


def of_hard_labels(case: Any) -> Objective:
    what = case.backend.accelerated(LOSSES["softmax"]()), PENALTIES["l2"](), X, HARD
    return case.objective(*what, alpha=[1e-2] * 6, k=2)


@pytest.mark.parametrize("solver", [LBFGS(tol=1e-9), Newton(tol=1e-9)])
def test_labels_of_every_difficulty(numpy_backend, solver):
    """Each as it would be alone; without two classes F goes to 0, and the intercept far."""
    F = of_hard_labels(numpy_backend)
    result = minimize(F, solver)
    assert set(result.reasons[:2]) <= {"converged", "rounding"}
    assert set(result.reasons[2:]) == {"converged"}
    W, b = result.params
    for j in range(2, 6):
        data = ArrayData(X, HARD[:, j], backend=NUMPY)
        one = Objective(LOSSES["softmax"](), PENALTIES["l2"](), np.asarray([1e-2]), data, 2)
        alone = minimize(one, solver).params
        np.testing.assert_allclose(W[:, j], alone.W[:, 0], atol=1e-8)
        np.testing.assert_allclose(b[j], alone.b[0], atol=1e-7)
    value, bound = value_and_lower_bound(F, result.params)
    assert (value - bound <= 1e-13 + 1e-9 * value).all()
    assert (bound[:2] == 0.0).all()
    np.testing.assert_allclose(W[:, :2], 0.0, atol=1e-6)
    assert b[0, 0] < -15.0
    assert b[1, 0] > 15.0


@pytest.mark.parametrize("solver", [LBFGS(max_iter=8, tol=1e-4), Newton(max_iter=4, tol=1e-4)])
def test_a_label_that_is_not_through_says_so(numpy_backend, solver):
    F = of_hard_labels(numpy_backend)
    result = minimize(F, solver)
    gap = np.subtract(*value_and_lower_bound(F, result.params))
    done = np.asarray(result.reasons) == "converged"
    assert {*result.reasons} == {"converged", "max_iter"}
    assert (gap[done] <= 1e-3 * np.log(2)).all()
    assert not done[:2].any()
    assert (result.residual[~done] > solver.tol).all()
