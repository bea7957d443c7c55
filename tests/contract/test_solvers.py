"""What every solver keeps: it does what it declares, and refuses the rest in a sentence."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.optimize import LinearConstraint
from scipy.optimize import minimize as scipy_minimize
from sklearn.exceptions import ConvergenceWarning
from typer.testing import CliRunner

import xplinear as xl
from xplinear.arguments import configured
from xplinear.cli import app
from xplinear.losses import LOSSES, MulticlassHingeLoss, SoftmaxLoss
from xplinear.minimize import minimize
from xplinear.penalties import PENALTIES, L1Penalty, L2Penalty, has_strength
from xplinear.solvers import GD, LBFGS, SOLVERS
from xplinear.solvers.automatic import automatic_solver
from xplinear.solvers.protocol import declared

rng = np.random.default_rng(0)
N, P, K = 24, 2, 3
X = rng.standard_normal((N, P)) + 0.5
Y = np.argmax(X @ rng.standard_normal((P, K)) + rng.gumbel(size=(N, K)), axis=1).astype(np.int32)
ALPHAS = (0.1, 0.02)
EVERY = [
    pytest.param(name, loss(), penalty(), id=f"{name}-{a}-{b}")
    for name in SOLVERS
    for a, loss in LOSSES.items()
    for b, penalty in PENALTIES.items()
]


def refusal(solver: Any, loss: Any, penalty: Any) -> str | None:
    return declared(solver, "refuses")(loss, penalty)


ACCEPTED = [case for case in EVERY if refusal(SOLVERS[case.values[0]](), *case.values[1:]) is None]
# One case of each solver: the most kinked one.
KINKED = [case for case in ACCEPTED if has_strength(case.values[2])]
KINKED.sort(key=lambda case: [part.smooth for part in case.values[1:]])
KINKED = list({case.values[0]: case for case in reversed(KINKED)}.values())


@pytest.mark.parametrize(("name", "loss", "penalty"), EVERY)
def test_it_does_what_it_does_not_refuse(
    numpy_backend: Any, name: str, loss: Any, penalty: Any
) -> None:
    objective = numpy_backend.objective(loss, penalty, X, Y)
    solver: Any = SOLVERS[name](max_iter=2)
    sentence = refusal(solver, loss, penalty)
    if sentence is None:
        result = minimize(objective, solver)
        assert np.isfinite(objective.value(result.params)).all()
        return
    assert name in sentence
    assert repr(loss) in sentence or repr(penalty) in sentence
    assert "; use '" in sentence
    for start in (solver.init, lambda F, _: minimize(F, solver)):
        with pytest.raises(ValueError, match="needs") as error:
            start(objective, objective.zeros())
        assert str(error.value) == sentence


def pieces(loss: Any, y: int) -> list[list[tuple[np.ndarray[Any, Any], float]]]:
    """Return a kinked loss of one row as a sum of maxima of a·z + c."""
    e, others = np.eye(K), [j for j in range(K) if j != y]
    zero = (np.zeros(K), 0.0)
    if loss == LOSSES["absolute_error"]():
        return [[(e[j], -e[y][j]), (-e[j], e[y][j])] for j in range(K)]
    hinges = [(e[j] - e[y], loss.margin) for j in others]
    return [[zero, *hinges]] if loss == LOSSES["crammer_singer"]() else [[zero, h] for h in hinges]


def optimum(loss: Any, penalty: Any, alpha: float) -> float:
    """Return the minimum of F by SciPy: of smooth functions only, by the usual reformulations.

    W is the difference of two nonnegative parts, so that L1 is linear in them; each maximum of
    a kinked loss is a variable above all it is the maximum of.
    """
    one = np.ones((1, 1, 1))
    # Ω(w) = r |w| + ridge w² / 2, in every penalty there is.
    at_1, at_2 = (float(penalty.value(w * one)[0]) for w in (1.0, 2.0))
    ridge = at_2 - 2.0 * at_1
    r = at_1 - 0.5 * ridge
    size = P * K
    maxima = [] if loss.smooth else [(i, m) for i in range(N) for m in pieces(loss, Y[i])]

    def parts(v: Any) -> Any:
        return (v[:size] - v[size : 2 * size]).reshape(P, K), v[2 * size : 2 * size + K]

    def value_and_slope(v: Any) -> Any:
        W, b = parts(v)
        dW, db = alpha * ridge * W, np.zeros(K)
        value = 0.5 * alpha * ridge * (W**2).sum() + alpha * r * v[: 2 * size].sum()
        value += v[2 * size + K :].sum() / N
        if loss.smooth:
            losses, G = loss.value_and_grad(X @ W + b, Y)
            value, dW, db = value + losses.mean(), dW + X.T @ G / N, db + G.sum(axis=0) / N
        flat = dW.ravel()
        slope = np.concatenate([flat + alpha * r, alpha * r - flat, db, np.ones(len(maxima)) / N])
        return value, slope

    free = [(None, None)]
    bounds = [(0.0, None)] * 2 * size + free * (K + len(maxima))
    start = np.concatenate([np.zeros(2 * size + K), np.full(len(maxima), 2.0)])
    if loss.smooth:
        options: dict[str, Any] = {"method": "L-BFGS-B", "options": {"ftol": 1e-15, "gtol": 1e-9}}
    else:
        rows, least = [], []
        for t, (i, of) in enumerate(maxima):
            for a, c in of:
                W = np.outer(X[i], a).ravel()
                slack = np.zeros(len(maxima))
                slack[t] = 1.0
                rows.append(np.concatenate([-W, W, -a, slack]))
                least.append(c)
        constraint = LinearConstraint(np.asarray(rows), lb=least)
        options = {"method": "SLSQP", "constraints": constraint, "options": {"ftol": 1e-12}}
        options["options"]["maxiter"] = 500
    return scipy_minimize(value_and_slope, start, jac=True, bounds=bounds, **options).fun


@pytest.fixture(scope="module")
def optima() -> dict[Any, list[float]]:
    return {}


@pytest.mark.parametrize(("name", "loss", "penalty"), ACCEPTED)
def test_it_reaches_the_optimum_or_says_that_it_does_not(
    numpy_backend: Any, name: str, loss: Any, penalty: Any, optima: dict[Any, list[float]]
) -> None:
    if (loss, penalty) not in optima:
        optima[loss, penalty] = [optimum(loss, penalty, alpha) for alpha in ALPHAS]
    expected = np.asarray(optima[loss, penalty])
    objective = numpy_backend.objective(loss, penalty, X, Y, alpha=ALPHAS)
    exact, zero = declared(SOLVERS[name], "exact"), objective.loss_at_zero()
    solver: Any = SOLVERS[name](**{"tol": 1e-4} if exact else {"max_iter": 500})
    value = objective.value(minimize(objective, solver).params)
    assert (value <= expected + (1e-3 * (zero - expected) if exact else 0.05 * zero)).all()
    assert (value >= expected - 1e-6 * zero).all()


@pytest.mark.parametrize(("name", "loss", "penalty"), KINKED)
def test_models_that_leave_do_not_change_the_others(
    numpy_backend: Any, name: str, loss: Any, penalty: Any
) -> None:
    objective = numpy_backend.objective(loss, penalty, X, Y, alpha=(0.1, 0.02, 0.3))
    solver, stay = configured(SOLVERS[name], {"max_iter": 20}), numpy_backend.asarray([2, 0])
    few = numpy_backend.objective(loss, penalty, X, Y, alpha=(0.3, 0.1))
    whole = solver.init(objective, objective.zeros())
    for _ in range(3):
        whole = solver.step(objective, whole)
    part = solver.take(whole, stay, xp=numpy_backend.xp)
    for _ in range(3):
        whole, part = solver.step(objective, whole), solver.step(few, part)
    W, kept = np.asarray(whole.params.W)[:, [2, 0]], np.asarray(part.params.W)
    assert np.abs(W).max() > 0.0
    np.testing.assert_allclose(kept, W, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "loss", "penalty"),
    [case for case in KINKED if declared(SOLVERS[case.values[0]], "follow")],
)
def test_it_follows_where_it_says_so(
    numpy_backend: Any, name: str, loss: Any, penalty: Any
) -> None:
    solver: Any = SOLVERS[name](tol=1e-6)
    before = numpy_backend.objective(loss, penalty, X, Y, alpha=(0.1,))
    after = numpy_backend.objective(loss, penalty, X, Y, alpha=(0.02,))
    found = minimize(before, solver)
    state = solver.follow(after, found.params, found.state, before.alpha)
    np.testing.assert_allclose(state.params.W, found.params.W, rtol=1e-12)
    result = minimize(after, solver, state=state)
    value = np.asarray(after.value(result.params))
    np.testing.assert_allclose(value, optimum(loss, penalty, 0.02), rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_it_takes_the_settings_that_it_understands(name: str) -> None:
    settings = {
        "max_iter": 7,
        "tol": 0.01,
        "patience": 3,
        "batch_size": 8,
        "learning_rate": 0.5,
        "momentum": 0.25,
        "seed": 9,
    }
    solver = configured(SOLVERS[name], settings)
    assert (solver.iterations(N), solver.tol) == (7, 0.01)
    own = {"gd": {"step_size": 0.5}, "sgd": settings}.get(name, {})
    for setting, value in own.items():
        assert getattr(solver, setting) == value
    assert configured(SOLVERS[name], dict.fromkeys(settings)) == SOLVERS[name]()


@pytest.mark.parametrize("penalized", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_automatic_choice_suits(
    numpy_backend: Any, loss: str, penalty: str, penalized: bool
) -> None:
    objective = numpy_backend.objective(LOSSES[loss](), PENALTIES[penalty](), X, Y)
    name = automatic_solver(objective, penalized=penalized)
    kind = SOLVERS[name]
    assert refusal(kind(), objective.loss, objective.penalty) is None
    assert penalized or not declared(kind, "needs_alpha")
    # To the optimum wherever some solver goes there.
    able = [
        other
        for other, kind in SOLVERS.items()
        if declared(kind, "exact") and refusal(kind(), objective.loss, objective.penalty) is None
        if penalized or not declared(kind, "needs_alpha")
    ]
    assert declared(kind, "exact") == bool(able)


def test_many_models_are_not_solved_by_what_solves_them_all_at_once(numpy_backend: Any) -> None:
    data = np.broadcast_to(0.0, (1797, 64)), np.broadcast_to(0, 1797)
    hinge = numpy_backend.objective(MulticlassHingeLoss(), L2Penalty(), *data, k=10)
    assert automatic_solver(hinge) == "interior_point"
    assert automatic_solver(hinge, 1, 20) == "smoothing"
    few = numpy_backend.objective(SoftmaxLoss(), L2Penalty(), *(a[:300] for a in data), k=2)
    assert automatic_solver(few) == automatic_solver(few, 1, 1000) == "newton"
    assert automatic_solver(few, 1000) == "lbfgs"


@dataclass(frozen=True)
class Mine:
    """A solver that declares nothing."""

    max_iter: int = 100
    tol: float = 1e-4

    made: ClassVar[list[Mine]] = []

    def __post_init__(self) -> None:
        self.made.append(self)

    @property
    def _descent(self) -> GD:
        return GD(self.max_iter, self.tol)

    def iterations(self, n: int) -> int:
        return self._descent.iterations(n)

    def init(self, objective: Any, params: Any) -> Any:
        return self._descent.init(objective, params)

    def step(self, objective: Any, state: Any) -> Any:
        return self._descent.step(objective, state)

    def take(self, state: Any, models: Any, *, xp: Any) -> Any:
        return self._descent.take(state, models, xp=xp)


@dataclass(frozen=True)
class MyLoss:
    """The squared error, with no more than a loss must have."""

    smooth = True
    shift_invariant = False
    probabilistic = False

    def curvature(self, k: int) -> float:
        del k
        return 1.0

    def lipschitz(self, k: int) -> None:
        del k

    def value_and_grad(self, Z: Any, y: Any, *, xp: Any = None) -> Any:
        xp = np if xp is None else xp
        y = y[(..., *(None,) * (Z.ndim - y.ndim))]  # (n,) serves (n, k) and (n, m, k)
        G = Z - xp.astype(y == xp.arange(Z.shape[-1]), Z.dtype)
        return 0.5 * xp.sum(G * G, axis=-1), G


@dataclass(frozen=True)
class MyPenalty:
    """Twice L1, with no more than a penalty must have."""

    smooth = False

    def value(self, W: Any, *, xp: Any = None) -> Any:
        return 2.0 * L1Penalty().value(W, xp=xp)

    def grad(self, W: Any, *, xp: Any = None) -> Any:
        return 2.0 * L1Penalty().grad(W, xp=xp)

    def prox(self, W: Any, step: Any, *, xp: Any = None) -> Any:
        return L1Penalty().prox(W, 2.0 * step, xp=xp)


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, "mine", Mine)
    monkeypatch.setitem(LOSSES, "mine", MyLoss)
    monkeypatch.setitem(PENALTIES, "mine", MyPenalty)
    monkeypatch.setattr(Mine, "made", [])


@pytest.mark.usefixtures("mine")
class TestRegisteredBySomeone:
    """What a user adds to a registry works by name, in the estimators and on the command line."""

    SETTINGS: ClassVar[dict[str, Any]] = {"max_iter": 77, "tol": 1e-6}

    def test_a_solver(self) -> None:
        clf = xl.LinearClassifier(solver="mine", alpha=0.1, **self.SETTINGS).fit(X, Y)
        assert Mine.made[-1] == Mine(77, 1e-6)
        assert clf.solver_ == "mine"
        expected = optimum(SoftmaxLoss(), L2Penalty(), 0.1)
        np.testing.assert_allclose(clf.objective_, expected, rtol=1e-6)

    def test_a_solver_by_its_own_settings(self) -> None:
        xl.LinearClassifier(solver="mine", alpha=0.1).fit(X, Y)
        assert Mine.made[-1] == Mine()

    def test_a_solver_of_many_models(self) -> None:
        cv = xl.LinearClassifierCV([0.1, 0.02], solver="mine", cv=2, **self.SETTINGS).fit(X, Y)
        assert Mine.made[-1] == Mine(77, 1e-6)
        assert cv.best_estimator_.solver_ == "mine"

    def test_a_loss_and_a_penalty(self) -> None:
        twin = xl.LinearClassifier("squared_error", penalty="l1", alpha=0.02, tol=1e-6).fit(X, Y)
        for solver in ("auto", "gd"):
            clf = xl.LinearClassifier("mine", penalty="mine", alpha=0.01, solver=solver, tol=1e-6)
            np.testing.assert_allclose(clf.fit(X, Y).objective_, twin.objective_, rtol=1e-5)
        cv = xl.LinearClassifierCV(4, loss="mine", penalty="mine", cv=2).fit(X, Y)
        assert not np.any(cv.coefs_paths_[0])

    @pytest.mark.parametrize("options", [["--solver=mine"], ["--loss=mine", "--penalty=mine"]])
    @pytest.mark.parametrize("command", ["train", "sweep"])
    def test_the_command_line(self, command: str, options: list[str], tmp_path: Path) -> None:
        np.savez(tmp_path / "data.npz", X=X, y=Y)
        given = [command, str(tmp_path / "data.npz"), "--max-iter=77", "--tol=1e-3", *options]
        result = CliRunner().invoke(app, given)
        assert result.exit_code == 0, result.output
        assert Mine.made[-1:] == ([Mine(77, 1e-3)] if "--solver=mine" in options else [])


class Picky(Mine):
    """A solver that says what it cannot do, and does not look again when it begins."""

    def refuses(self, loss: Any, penalty: Any) -> str | None:
        del penalty
        return None if loss.probabilistic else f"I want probabilities, not {loss!r}"


def test_minimize_says_what_a_solver_refuses(numpy_backend: Any) -> None:
    objective = numpy_backend.objective(MulticlassHingeLoss(), L2Penalty(), X, Y)
    with pytest.raises(ValueError, match="I want probabilities, not MulticlassHingeLoss"):
        minimize(objective, Picky())
    assert minimize(replace(objective, loss=SoftmaxLoss()), Picky()).converged.all()


def test_an_object_needs_no_more_than_the_protocol() -> None:
    clf = xl.LinearClassifier(solver=Mine(300, 1e-6), alpha=0.1).fit(X, Y)
    assert clf.solver_ == "Mine"
    assert clf.certificate_.relative_gap[0] < 1e-6  # it is taken to go to the optimum
    np.testing.assert_allclose(clf.objective_, optimum(SoftmaxLoss(), L2Penalty(), 0.1), rtol=1e-6)
    with pytest.raises(ValueError, match="partial_fit needs solver='sgd'"):
        clf.partial_fit(X, Y, classes=[0, 1, 2])


@pytest.mark.parametrize("name", SOLVERS)
def test_on_few_rows_float64_is_for_those_that_go_to_the_optimum(name: str) -> None:
    smooth = refusal(SOLVERS[name](), SoftmaxLoss(), L2Penalty()) is None
    loss = "softmax" if smooth else "multiclass_hinge"
    exact, seen = declared(SOLVERS[name], "exact"), []
    for solver in (name, SOLVERS[name](max_iter=3)):
        clf = xl.LinearClassifier(loss, solver=solver, max_iter=3, alpha=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # after 3 iterations
            clf.fit(
                X.astype(np.float32), Y, callbacks=[lambda now: seen.append(now.params.W.dtype)]
            )
        assert clf.coef_.dtype == np.float32
        assert hasattr(clf, "certificate_") == exact
    assert set(seen) == {np.dtype(np.float64 if exact else np.float32)}


def test_a_penalty_by_name_takes_the_ratio() -> None:
    l1, twin, other = (
        xl.LinearClassifier(alpha=0.05, tol=1e-8, **penalty).fit(X, Y).objective_
        for penalty in (
            {"penalty": "l1"},
            {"penalty": "elastic_net", "l1_ratio": 1.0},
            {"penalty": "elastic_net"},
        )
    )
    np.testing.assert_allclose(twin, l1, rtol=1e-9)
    assert other < 0.99 * l1


def test_one_gram_matrix_is_worth_it_for_many(numpy_backend: Any) -> None:
    data = np.broadcast_to(0.0, (50, 400)), np.broadcast_to(0, 50)
    one, many = (
        numpy_backend.objective(SoftmaxLoss(), L2Penalty(), *data, alpha=np.ones(m))
        for m in (1, 100)
    )
    assert [LBFGS().planned(F).gram for F in (one, many)] == [False, True]
    assert LBFGS(gram=False).planned(many) == LBFGS(gram=False)


@dataclass(frozen=True)
class Planning(Mine):
    """A solver that plans for a sweep."""

    def planned(self, objective: Any) -> Planning:
        assert objective.m == 2 * 3  # strengths × folds, and all rows
        return replace(self, max_iter=55)


def test_a_sweep_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(Mine, "iterations", lambda self, _: steps.append(self.max_iter) or 20)
    xl.LinearClassifierCV([0.1, 0.02], solver=Planning(), cv=2).fit(X, Y)
    assert set(steps) == {55}


def test_where_lbfgs_is_slow_newton_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xplinear.solvers.lbfgs._TRIED", 3)
    wide = rng.standard_normal((300, 72))
    y = np.argmax(wide[:, :3] + 1.0 * rng.standard_normal((300, 3)), axis=1)
    clf = xl.LinearClassifier(alpha=1e-3, tol=1e-8).fit(wide, y)
    assert clf.solver_ == "newton"
    assert clf.history_["loss"].shape == (clf.n_iter_,)
    short = xl.LinearClassifier(alpha=1e-3, tol=0.1, max_iter=3)
    assert short.fit(wide, y).solver_ == "lbfgs"
    named = xl.LinearClassifier(alpha=1e-3, solver="lbfgs", tol=1e-8).fit(wide, y)
    assert named.solver_ == "lbfgs"
    np.testing.assert_allclose(clf.objective_, named.objective_, rtol=1e-9)
