"""Bad values for every parameter of every public callable end in an error that names the parameter.

`CALLS` lists the callables with valid arguments, and for every parameter of their signatures what
must be refused. A parameter that the table lacks fails `test_no_parameter_is_forgotten`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge

import xplinear as xl
from xplinear.backends import get_backend, matmul_precision, use_backend
from xplinear.backends.base import AcceleratedLoss
from xplinear.certificate import certify
from xplinear.data import ArrayData
from xplinear.data.arrow import write_parquet
from xplinear.losses import LOSSES, SoftmaxLoss
from xplinear.minimize import minimize
from xplinear.model_selection.alphas import automatic_alphas
from xplinear.objective import Objective, Params
from xplinear.penalties import PENALTIES, L2Penalty
from xplinear.solvers import LBFGS, SGD, SOLVERS, Smoothing

rng = np.random.default_rng(0)
N, P = 12, 2
X = rng.standard_normal((N, P))
Y = np.arange(N) % 2
Y3 = np.arange(N) % 3
NOTHING: Any = None
MASKED = np.ma.masked_array(Y, Y == 1)


class Nothing:
    """What no argument may be."""


class Incomplete:
    """Half a loss, half a penalty, half a solver."""

    smooth = True

    def value_and_grad(self, Z: Any, y: Any, *, xp: Any = None) -> None: ...
    def value(self, W: Any, *, xp: Any = None) -> None: ...
    def init(self, objective: Any, params: Any) -> None: ...


def function(*args: Any) -> None:
    """Stand for anything callable."""


# What cannot be written to.
OUT = [
    *("x", "x.csv", "", "/nowhere/x.npy", b"x.npy", 3, 2.5, True, [0] * N, {}, Nothing(), function),
    *(np.empty(N - 1), np.empty((N, 9)), np.empty(N, "M8[s]"), np.float64(1.0), 1j, Nothing),
]

# What is no number at all, and no number that means one.
NUMBER: list[Any] = [
    *("x", "1.0", "", b"1", [], [0.5], (1,), {}, Nothing(), Nothing, function),
    *(1j, math.nan, -math.inf, True, np.True_),
    *(np.asarray([1.0, 2.0]), np.asarray("x"), np.asarray(1j), np.asarray(True)),
    *(np.datetime64("2020-01-01"), np.timedelta64(1, "s")),
]
COUNT = [*NUMBER, 0, -1, 1.5, 1e3, math.inf, 10**30, np.float64(2.0), np.asarray(2.5)]
SEED = [*NUMBER, -1, 1.5, math.inf, 10**30, np.float64(2.0)]
AT_LEAST_0 = [*NUMBER, -1, -1e-300, np.float64(-1.0), math.inf, 10**400]
MORE_THAN_0 = [*AT_LEAST_0, 0, 0.0, -0.0]
FLAG = ["no", "yes", "x", "", b"", 0, 1, 2, 0.0, [], {}, math.nan, Nothing(), function, Y, Y > 0]
NAME: list[Any] = [
    *("x", "", " ", b"l2", 3, 2.5, math.nan, True, [], ["l2"], {}, ("l2",), Nothing, Nothing()),
    *(Y, 1j, np.str_("x")),
]
OBJECT = [*NAME, Incomplete(), Incomplete, function, SoftmaxLoss, L2Penalty, SGD]
NONE = [None]
CALLBACKS = [None, function, [None], [3], "x", 3, {}, Nothing(), [function, None], ["f"]]
PATH: list[Any] = [None, 3, 1.5, [], {}, Nothing(), Y]
BACKEND = [*NAME, function, np, "numpyy", "torch-cpu", "numpy:", "numpy:1"]
WRONG_X: list[Any] = [
    *(None, 3, "x", b"x", [], [[]], {}, Nothing(), Nothing, function, iter([])),
    *(X[:, 0], X[:, :, None], X[:0], X[:, :0], X * 1j, X.astype(str), X.tolist()[0]),
    *(np.where(X > 0, X, math.nan), np.where(X > 0, X, math.inf), np.where(X > 0, X, -math.inf)),
    *(X.astype("datetime64[s]"), X.astype("timedelta64[s]"), X.astype(bytes)),
    *(np.where(X > 0, X, NOTHING), np.where(X > 0, "a", X.astype(object)), [["a", "b"]] * N),
    *(np.zeros(N, dtype=[("a", float), ("b", int)]), scipy.sparse.csr_array(X * 1j), {"a": [1, 2]}),
    *([[1.0, 2.0], [3.0]] * (N // 2), np.ma.masked_array(X, X > 0), [[None, 1.0]] * N),
    *([[10**400, 1]] * N, [[{}, []]] * N, X.astype(object) * 1j),
]
WRONG_Y: list[Any] = [
    *(None, 3, "x", [], {}, Nothing(), Nothing, function, np.stack([Y, 2 * Y], axis=1), X[:, 0]),
    *(Y[:-1], np.append(Y, 1), Y + 0.5, np.where(Y > 0, 1.0, math.nan)),
    *(np.where(Y > 0, 1.0, math.inf), np.where(Y > 0, 1, NOTHING), np.where(Y > 0, "a", NOTHING)),
    *(Y * 1j, MASKED, [1, "a"] * (N // 2), [b"a", b"b"] * (N // 2), [[1], [2, 3]] * (N // 2)),
    *([[], {}] * (N // 2), [Nothing(), Nothing()] * (N // 2), scipy.sparse.csr_array(Y[:, None])),
    *(np.zeros(N, dtype=[("a", float), ("b", int)]), [math.nan, 1] * (N // 2)),
]
ONE_CLASS = [np.zeros(N), ["a"] * N, [True] * N]
WEIGHT: list[Any] = [
    *("x", b"x", [], {}, Nothing(), Nothing, function, ["1"] * N, [b"1"] * N, [None] * N, 1j),
    *(np.ones(N - 1), np.ones(N + 1), np.ones((N, 1)), np.ones((N, 2)), np.ones(N) * 1j),
    *(-np.ones(N), np.full(N, math.nan), np.full(N, math.inf), np.zeros(N), 0.0, -1.0),
    *(math.nan, np.ma.masked_array(np.ones(N), Y == 1), Y.astype("timedelta64[s]")),
    *(Y.astype("datetime64[s]"), [1.0, "a"] * (N // 2), [[1.0], [1.0, 2.0]] * (N // 2)),
    *([Nothing()] * N, scipy.sparse.csr_array(np.ones((N, 1)))),
]
CLASS_WEIGHT: list[Any] = [
    *("x", "", 3, 1.5, True, [], [0, 1, 2], (0, 1), Y, Nothing(), Nothing, function, {"a": 1.0}),
    *({0: "a"}, {0: None}, {0: -1.0}, {0: math.nan}, {0: math.inf}, {0: [1.0]}, {0: 1j}, {7: 1}),
    *({0: 0.0, 1: 0.0}, {0: 0.0}, {0: {}}, {0: True}, {0: np.ones(2)}),
]

MULTI_CLASS = [*NAME, *NONE, "ovr", "multinomial"]
SHARED: dict[str, list[Any]] = {
    "loss": [*OBJECT, *NONE, L2Penalty(), SGD()],
    "penalty": [*OBJECT, SoftmaxLoss(), SGD()],
    "l1_ratio": [*AT_LEAST_0, *NONE, 2, 1.0001],
    "fit_intercept": [*FLAG, *NONE],
    "standardize": [*FLAG, *NONE],
    "solver": [*OBJECT, *NONE, SoftmaxLoss(), L2Penalty()],
    "batch_size": COUNT,
    "learning_rate": [*MORE_THAN_0, *NONE],
    "momentum": [*AT_LEAST_0, *NONE, 1, 1.0, 2],
    "max_iter": COUNT,
    "tol": [*AT_LEAST_0, *NONE],
    "class_weight": CLASS_WEIGHT,
    "random_state": [*SEED, np.random.default_rng(0), np.random.RandomState],
    "backend": BACKEND,
    "dtype": [*NAME, int, float, complex, "float16", "int32", np.int64, np.dtype("int8"), "f"],
    "precision": [*NAME, *NONE, "half", "float64", np.float32],
    "accelerate": [*FLAG, *NONE],
    "checkpoint": [
        *(value for value in PATH if value is not None),
        "",
        b"x",
        "\0",
        True,
        xl.Checkpoint,
    ],
    "verbose": ["x", "", b"", -1, 1.5, math.nan, [], {}, None, Nothing(), 1j, np.ones(2)],
}
CLASSIFIER = SHARED | {
    "multi_class": MULTI_CLASS,
    "alpha": AT_LEAST_0,
    "C": [value for value in MORE_THAN_0 if not (isinstance(value, float) and value == math.inf)],
    "early_stopping": [*FLAG, *NONE],
    "validation_fraction": [*MORE_THAN_0, *NONE, 1, 1.0, 3, 1.5],
    "n_iter_no_change": [*COUNT, *NONE],
    "warm_start": [*FLAG, *NONE],
}
SEQUENCE: list[Any] = [
    *("x", b"x", [], (), {}, Nothing(), Nothing, function, [0.0], [-1.0], [math.nan], [math.inf]),
    *(["a"], ["1.0"], [True], [None], [[1.0]], [1j], np.zeros(0), np.ones((2, 2)), 1.5, math.nan),
    *(np.asarray(["a"]), np.asarray([1j]), np.asarray([True]), [1.0, "a"], [1.0, [2.0]], True),
    *([10**400], np.asarray([None]), [np.ones(2)]),
]
STRENGTHS = [*SEQUENCE, 0, 1, -3, 10**30, np.int64(1), np.asarray(1), np.float64(3.0)]
CROSS_VALIDATED = SHARED | {
    "alphas": STRENGTHS,
    "Cs": STRENGTHS,
    "multi_class": MULTI_CLASS,
    "cv": [
        *("x", 0, 1, -1, 2.5, math.nan, True, [], {}, (), Nothing(), Nothing, function, 10**6),
        *([1], [None], ["ab"], [(1,)], [(1, 2, 3)], [([0], [])], [([], [0])], np.zeros((2, 2, 3))),
        *([([0, 1], [N])], [([0, 1], [-N - 1])], [([0, 2, 4], [1, 3])], [(X, X)], [("a", "b")]),
        *([([0.5, 1.5], [1.0])], [([0, 1], None)], b"x", 1j),
    ],
    "scoring": [*NAME, "roc_auc_ovo", lambda y, Z: None, lambda y, Z: "a", lambda y, Z: [1.0], Y],
    "one_standard_error": [*FLAG, *NONE],
    "learning_rates": [*SEQUENCE, 3, 0],
    "refit": [*FLAG, *NONE],
    "held_out_scores": [*FLAG, *NONE],
    "alpha_per_label": [*FLAG, *NONE, True],
}

BACKEND_NUMPY = get_backend("numpy")
DATA = ArrayData(X, Y3, backend=BACKEND_NUMPY)
F = Objective(SoftmaxLoss(), L2Penalty(), np.asarray([0.1]), DATA, k=3)
BEST = minimize(F, LBFGS())
Z = rng.standard_normal((N, 3))
FITTED = xl.LinearClassifier(max_iter=1000).fit(X, Y)
CHOSEN = xl.LinearClassifierCV([0.1, 1.0], cv=2).fit(X, Y)
W_OF_2, B_OF_2 = FITTED.params_

TRUTH = Z > 0
SCORES: list[Any] = [
    *(None, 3, "x", [], Z.tolist(), {}, Nothing(), function, Y, TRUTH, Z * 1j, Z.astype(str)),
    *(Z.astype(object), np.float64(1.0), np.asarray(1.0)),
]
COLUMN = Y3[:, None]
WRONG_CODES = [Y3 - 1, Y3 + 1, np.full(N, 2**40)]  # of the right type and shape
CODES: list[Any] = [
    *(None, 3, "x", [], Y3.tolist(), {}, Nothing(), function, Y3 * 1.0, Y3 * 1j, *WRONG_CODES),
    *(Y3[:-1], COLUMN, np.stack([Y3, Y3]), Y3.astype(str), Y3.astype(object), Y3 > 0, Z),
]
CLASSES = [*COUNT, *NONE]
WEIGHTS: list[Any] = [
    *(None, 3, "x", [], Z.tolist(), {}, Nothing(), function, Y, Z > 0, Z * 1j, Z.astype(str)),
    *(Z.astype(object), np.ones(3), np.asarray(1.0)),
]
POINT: list[Any] = [
    *("x", 3, [], {}, Nothing(), function, X, (1, 2), BEST.params.W, Params(X, Y)),
    *(Params(W_OF_2, B_OF_2), Params(None, None), Params(BEST.params.W, None)),
    *(Params(BEST.params.W, BEST.params.b[0]), Params(BEST.params.W[:1], BEST.params.b)),
    *(Params(BEST.params.W.tolist(), BEST.params.b.tolist()), Params(BEST.params.W * 1j, Z)),
    Params(np.full_like(BEST.params.W, math.nan), BEST.params.b),
]
# Without those of a binary model, and of NaN, of which a value is NaN.
OTHER_POINTS = [*POINT[:10], *POINT[11:-1]]
NO_OBJECTIVE: list[Any] = [None, 3, "x", [], {}, Nothing(), function, Objective, X, SoftmaxLoss()]
ALPHA: list[Any] = [
    *(None, 3, 0.1, "x", [], [0.1], {}, Nothing(), function, np.asarray(0.1), np.zeros(0)),
    *(np.ones((1, 1)), np.asarray([1]), np.asarray([1j]), np.asarray(["x"]), np.asarray([True])),
    *(np.asarray([-1.0]), np.asarray([math.nan]), np.asarray([math.inf]), np.asarray([None])),
]


class Call(NamedTuple):
    """A callable, valid arguments by name, and what each of its parameters must refuse."""

    area: str
    name: str
    signature: Callable[..., Any]
    run: Callable[..., Any]
    valid: Mapping[str, Any]
    bad: Mapping[str, Sequence[Any]]


def called(
    area: str, function: Callable[..., Any], valid: Mapping[str, Any], **bad: Sequence[Any]
) -> Call:
    return Call(area, function.__qualname__, function, function, valid, bad)


def fitted(kind: type[Any], bad: Mapping[str, Sequence[Any]], **valid: Any) -> Call:
    """Return the constructor of an estimator, which looks at its parameters in `fit`."""

    def run(**arguments: Any) -> None:
        kind(**arguments).fit(X, Y)

    return Call("estimators", kind.__name__, kind, run, valid, bad)


def partially(**arguments: Any) -> None:
    xl.LinearClassifier(random_state=0).partial_fit(**arguments)


def in_blocks(clf: Any, **arguments: Any) -> None:
    list(clf.predict_blocks(**arguments))


ROWS = {"X": X, "y": Y}
WRONG_COLUMNS = [X[:, :1], np.ones((N, 3))]


def losses() -> Iterator[Call]:
    for kind in LOSSES.values():
        names = inspect.signature(kind).parameters
        yield called("losses", kind, {}, **{name: [*MORE_THAN_0, *NONE] for name in names})
        loss = kind()
        for name in ("value_and_grad", "hessian"):
            if hasattr(loss, name):
                about: dict[str, list[Any]] = {"Z": SCORES, "y": CODES, "xp": []}
                yield called("losses", getattr(loss, name), {"Z": Z, "y": Y3}, **about)


def penalties() -> Iterator[Call]:
    for kind in PENALTIES.values():
        names = inspect.signature(kind).parameters
        yield called("penalties", kind, {}, **dict.fromkeys(names, CLASSIFIER["l1_ratio"]))
        penalty = kind()
        for name in ("value", "grad"):
            yield called("penalties", getattr(penalty, name), {"W": Z}, W=WEIGHTS, xp=[])
        step = [None, "x", [], Nothing(), -1.0, math.nan, 1j, {}, function, True]
        yield called("penalties", penalty.prox, {"W": Z, "step": 0.1}, W=WEIGHTS, step=step, xp=[])


SOLVER: dict[str, list[Any]] = {
    "max_iter": [*COUNT, *NONE],
    "tol": [*AT_LEAST_0, *NONE],
    "memory": [*COUNT, *NONE],
    "gram": [*FLAG, *NONE],
    "step_size": [*MORE_THAN_0, *NONE],
    "patience": [*COUNT, *NONE],
    "batch_size": COUNT,
    "learning_rate": [*MORE_THAN_0, *NONE],
    "schedule": [*NAME, *NONE, "step"],
    "momentum": CLASSIFIER["momentum"],
    "nesterov": [*FLAG, *NONE],
    "average": [*FLAG, *NONE],
    "seed": [*SEED, *NONE],
}


def solvers() -> Iterator[Call]:
    for kind in SOLVERS.values():
        bad = {name: SOLVER[name] for name in inspect.signature(kind).parameters if name in SOLVER}
        if kind is SGD:
            vectors = [0.5], [1], [1.0, 2.0]  # one rate for each model
            rates = [value for value in MORE_THAN_0 if np.atleast_1d(value).tolist() not in vectors]
            bad |= {"max_iter": COUNT, "learning_rate": [*rates, *NONE, (), (0.1, -1.0), ["x"]]}
        yield called("solvers", kind, {}, **bad)


def files(path: Path) -> Iterator[Call]:
    text, folder, other = path / "text", path / "folder", path / "other"
    text.write_text("no model")
    folder.mkdir()
    other.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    model = path / "model"
    FITTED.save(model)
    no_model = [*PATH, text, folder, other, path / "missing", "", "\0"]
    yield called("files", xl.load, {"path": model}, path=no_model, backend=[*BACKEND, *NONE])
    yield called(
        *("files", xl.Checkpoint, {"path": path / "run.ckpt"}),
        path=[*PATH, b"x", "", "\0"],
        every=[*AT_LEAST_0, *NONE],
        keep=[*FLAG, *NONE],
    )
    table = str(path / "table")
    write_parquet(table, [{"x": Y}])
    no_source = [3, 2.5, True, None, [], {}, Nothing(), function, b"x", X, "", "\0", text, folder]
    columns = [3, True, "x", "", [], [3], [None], {}, X, Nothing(), function, ["z"], ["x", "z"]]
    yield called("files", xl.scan, {"source": table}, source=no_source, columns=columns)
    for method in (FITTED.save, FITTED.to_onnx, CHOSEN.save, CHOSEN.to_onnx):
        yield called("files", method, {}, path=PATH)


def estimators() -> Iterator[Call]:
    yield fitted(xl.LinearClassifier, CLASSIFIER)
    yield fitted(xl.LinearClassifierCV, CROSS_VALIDATED, alphas=[0.1, 1.0], cv=2)
    y, weight = [*WRONG_Y, *ONE_CLASS], [*WEIGHT, 1.0 * Y]
    fit: dict[str, list[Any]] = {"X": WRONG_X, "y": y, "sample_weight": weight}
    for model in (xl.LinearClassifier(), xl.LinearClassifierCV([0.1, 1.0], cv=2)):
        bad = fit | {"callbacks": CALLBACKS}
        if isinstance(model, xl.LinearClassifierCV):
            bad["groups"] = [Y[:-1], [1], "x", 3, X, Nothing(), {}, MASKED, function]
        yield called("data", model.fit, ROWS, **bad)
    no_classes: list[Any] = [
        *(None, 3, "x", [], [1], [0, 0], {}, Nothing(), [0, None], [0.0, math.nan], [0, "a"], X),
        *([[0, 1]], MASKED, 1j),
    ]
    wrong_classes = [*no_classes, [0.5, 1.5], [2, 3], [0, 1j]]
    about = {"X": WRONG_X, "y": [*WRONG_Y, [0, 7] * (N // 2), ["a", "b"] * (N // 2)]}
    yield Call(
        *("data", "LinearClassifier.partial_fit", xl.LinearClassifier().partial_fit, partially),
        ROWS | {"classes": [0, 1]},
        about | {"classes": wrong_classes, "sample_weight": WEIGHT},
    )
    for clf in (FITTED, CHOSEN):
        rows = [*WRONG_X, *WRONG_COLUMNS]
        for name in ("predict", "decision_function", "predict_proba", "predict_log_proba"):
            yield called("data", getattr(clf, name), {"X": X}, X=rows, out=OUT)
        blocks = clf.predict_blocks
        yield Call(
            *("data", blocks.__qualname__, blocks, partial(in_blocks, clf), {"X": X}),
            {"X": rows, "method": [*NAME, "fit", "score", "transform", None]},
        )
        y = [*WRONG_Y, ["a", "b"] * (N // 2)]
        yield called("data", clf.score, ROWS, X=rows, y=y, sample_weight=WEIGHT)
        yield called("data", clf.to, {}, backend=[*BACKEND, *NONE])
        yield called("data", clf.to_sklearn, {})
    yield called(
        *("data", xl.LinearClassifier.from_params),
        {"params": FITTED.params_, "classes": [0, 1]},
        params=[
            *OTHER_POINTS,
            *NONE,
            Params(W_OF_2[:, 0], B_OF_2),
            Params(W_OF_2 * math.nan, B_OF_2),
        ],
        classes=[*no_classes, [0, 1, 2]],
        settings=[],
    )
    models = [None, 3, "x", [], Nothing(), LogisticRegression, Ridge(), LogisticRegression()]
    good = LogisticRegression().fit(X, Y)
    yield called("data", xl.LinearClassifier.from_sklearn, {"model": good}, model=models)
    yield called(
        *("data", xl.LinearClassifier.from_sklearn_settings, {"model": good}),
        model=models[:-1],
        n_samples=MORE_THAN_0,
        settings=[],
    )


def optimization() -> Iterator[Call]:
    data: list[Any] = [None, 3, "x", [], {}, X, Nothing(), ArrayData, (X, Y)]
    yield called(
        *("optimization", Objective),
        {"loss": F.loss, "penalty": F.penalty, "alpha": F.alpha, "data": DATA, "k": 3},
        loss=[*SHARED["loss"], "softmax"],
        penalty=[*SHARED["penalty"], *NONE, "l2"],
        alpha=ALPHA,
        data=data,
        k=[*CLASSES, 1, 2],
        fit_intercept=[*FLAG, *NONE],
        measured=[],
    )
    for method in (F.value, F.value_and_grad, F.data_loss, F.data_loss_and_grad):
        yield called("optimization", method, {"params": F.zeros()}, params=[*POINT[:-1], *NONE])
    yield called(
        *("optimization", ArrayData, {"X": X, "y": Y3, "backend": BACKEND_NUMPY}),
        X=[*(x for x in SCORES if x is not TRUTH), Z[:, 0], Z[:, :, None], Z[:0], Z[:, :0]],
        # Codes are checked with k, and one column of them is for all models.
        y=[y for y in CODES if y is not None and not any(y is ok for ok in (*WRONG_CODES, COLUMN))],
        s=[*("x", 3, [], np.ones(N), np.ones((N - 1, 1)), np.ones((N, 0)), Y3[:, None], Nothing())],
        dtype=["float32", "x", 3, np.int32, bool],
        models=[],
        targets=[],
        positives=[],
        backend=[*NAME, *NONE],
        standard=[],
        classes=COUNT,
        budget=[],
        orders=[],
        padding=[*SEED, *NONE, N],
    )
    yield called(
        *("optimization", minimize, {"objective": F, "solver": LBFGS(max_iter=3)}),
        objective=NO_OBJECTIVE,
        solver=[*SHARED["solver"], "lbfgs", "auto"],
        params=POINT,
        state=["x", 3, [], {}, Nothing(), BEST.params],
        loop=["x", 3, [], {}, Nothing(), BEST.state],
        validation_score=["x", 3, [], Nothing(), True],
        patience=[*COUNT, *NONE],
        min_improvement=[*AT_LEAST_0, *NONE],
        release=[*FLAG, *NONE],
        callbacks=CALLBACKS,
        keep=[3, "x", [], {}, [function]],
    )
    yield called(
        *("optimization", certify, {"objective": F, "result": BEST}),
        objective=NO_OBJECTIVE,
        result=[None, 3, "x", [], Nothing(), BEST.params, F],
        solver=["x", 3, "lbfgs", SGD, Nothing(), SoftmaxLoss()],
    )
    yield called(
        *("optimization", automatic_alphas, {"objective": F}),
        objective=NO_OBJECTIVE,
        count=[*COUNT, *NONE],
    )


def others() -> Iterator[Call]:
    w = np.asarray([1.0, 2.0])
    no_array: list[Any] = [None, 3, 1.5, "x", [], [1.0], {}, Nothing(), Y, Y > 0, w * 1j]
    yield called(
        *("gradients", xl.numerical_gradient, {"f": np.sum, "w": w}),
        f=[None, 3, "x", [], w, Nothing(), {}],
        w=no_array,
        method=[*NAME, *NONE, "forward"],
        step=MORE_THAN_0,
        xp=[],
    )
    about = {
        "coordinates": [*COUNT, *NONE],
        "seed": [*SEED, *NONE],
        "tolerance": AT_LEAST_0,
        "xp": [],
    }
    no_subject = [None, 3, "x", [], w, Nothing(), {}]
    grad: list[Any] = [None, 3, "x", [], Nothing(), w[:1], Y[:2], w * 1j, lambda w: None, {}]
    yield called(
        *("gradients", xl.check_gradient, {"subject": np.sum, "point": w, "grad": np.ones(2)}),
        subject=no_subject,
        point=no_array,
        y=[],
        grad=grad,
        **about,
    )
    of_a_loss = {"subject": SoftmaxLoss(), "point": Z, "y": Y3}
    points = no_array[:8]
    for valid in (of_a_loss, {"subject": F, "point": BEST.params}):
        own = points if valid is of_a_loss else [*POINT, *NONE]
        labels = CODES[1:] if valid is of_a_loss else []
        subjects = [*no_subject, SoftmaxLoss, "softmax"][: 9 if valid is of_a_loss else 7]
        yield called(
            *("gradients", xl.check_gradient, valid),
            subject=subjects,
            point=own,
            y=labels,
            grad=[],
            **about,
        )
    yield called("backends", get_backend, {}, name=[*BACKEND, *NONE])
    yield called("backends", use_backend, {}, name=BACKEND)

    def precisely(name: Any) -> None:
        with matmul_precision(name):
            pass

    yield called("backends", precisely, {}, name=SHARED["precision"])
    names: list[Any] = [3, "x", ["x"], [3], [None], [], Nothing(), {}]
    yield called(
        *("parity", xl.parity.compare),
        {"backends": ["numpy"], "losses": ["softmax"], "penalties": ["l2"]},
        backends=names,
        dtypes=[*names, None, ["float16"]],
        losses=names,
        penalties=names,
    )


CALLS = [*estimators(), *losses(), *penalties(), *solvers(), *optimization(), *others()]

# What a message may say for the parameter.
SAID = {"name": "backend|precision", "path": "path|file", "backends": "backend"}


def verdict(call: Call, parameter: str, value: Any) -> str:
    """Return "named", or how the value was treated instead."""
    words = rf"\b({parameter}|{SAID.get(parameter, parameter)})\b"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call.run(**{**call.valid, parameter: value})
    except (ValueError, TypeError, xl.BackendError, OSError) as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        assert traceback is not None
        place = traceback.tb_frame.f_code.co_filename
        if not re.search(r"/xplinear/|/sklearn/utils/validation", place):
            return f"raw: {type(error).__name__}: {error}"
        if isinstance(error, NotFittedError) or (
            isinstance(value, Path) and str(value) in str(error)
        ):
            return "named"
        if not re.search(words, str(error)):
            return f"does not name it: {type(error).__name__}: {error}"
        return "named"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"raw: {type(error).__name__}: {error}"
    return "accepted"


def refuse_all(call: Call) -> tuple[int, list[str]]:
    """Return how many values were tried, and what was wrong with the answers."""
    tried = [(name, value) for name, values in call.bad.items() for value in values]
    verdicts = [(name, value, verdict(call, name, value)) for name, value in tried]
    wrong = [
        f"{call.name}({name}={value!r:.60}) {found}"
        for name, value, found in verdicts
        if found != "named"
    ]
    return len(tried), wrong


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_bad_values_are_refused_by_name(call: Call) -> None:
    tried, wrong = refuse_all(call)
    assert not wrong, f"{len(wrong)} of {tried} bad values:\n" + "\n".join(wrong)


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    for call in files(tmp_path):
        test_bad_values_are_refused_by_name(call)


def test_a_refused_fit_changes_nothing() -> None:
    clf = xl.LinearClassifier().fit(X, Y)
    before = {name: value for name, value in vars(clf).items() if name.endswith("_")}
    with pytest.raises(ValueError, match="tol must be"):
        clf.set_params(tol="x").fit(X, Y)
    assert all(vars(clf)[name] is value for name, value in before.items())


# Public, and looked at elsewhere or by nobody: what fits ask of losses, objectives and solvers,
# and what takes no argument.
NOT_HERE = {
    *("available_backends", "BackendError", "Certificate", "Params", "Loss", "Penalty", "Solver"),
    *("State", "LinearClassifierCV.to_sklearn", "Objective.canonical", "Objective.check_params"),
    *("Objective.loss_at_zero", "Objective.penalty_value", "Objective.take", "Objective.zeros"),
}


def public() -> Iterator[str]:
    """Yield the name of every public callable, and of every method of the main classes."""
    for module in (xl, xl.losses, xl.penalties, xl.solvers):
        yield from (name for name in module.__all__ if callable(getattr(module, name)))
    for kind in (xl.LinearClassifier, xl.LinearClassifierCV, Objective):
        for name in vars(kind):
            of_scikit_learn = name.endswith("_request")
            if callable(getattr(kind, name)) and not (name.startswith("_") or of_scikit_learn):
                yield f"{kind.__name__}.{name}"


def test_nothing_public_is_forgotten(tmp_path: Path) -> None:
    covered = {call.name for call in (*CALLS, *files(tmp_path))}
    forgotten = set(public()) - covered - NOT_HERE
    assert not forgotten, "give these bad values in CALLS"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_no_parameter_is_forgotten(call: Call) -> None:
    if call.name == "precisely":
        return
    parameters = set(inspect.signature(call.signature).parameters) - {"self"}
    assert set(call.bad) == parameters


# What is meant by a value is taken, whatever its type.


def zero_dimensional() -> Iterator[Any]:
    yield pytest.param(np.float32, np.int16, id="numpy scalar")
    yield pytest.param(np.asarray, np.asarray, id="numpy")
    for library in ("torch", "jax", "array_api_strict"):
        if importlib.util.find_spec(library) is not None:
            asarray = get_backend(library).xp.asarray
            yield pytest.param(asarray, asarray, id=library)


@pytest.mark.parametrize(("real", "whole"), list(zero_dimensional()))
def test_numbers_may_come_from_any_library(real: Any, whole: Any, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {
        "alpha": 0.25,
        "tol": 0.125,
        "momentum": 0.5,
        "l1_ratio": 0.5,
        "learning_rate": 0.25,
    }
    counts: dict[str, Any] = {
        "batch_size": 5,
        "max_iter": 3,
        "random_state": 7,
        "n_iter_no_change": 2,
    }
    settings: dict[str, Any] = {"solver": "sgd", "penalty": "elastic_net", "early_stopping": True}
    plain = xl.LinearClassifier(**settings, **numbers, **counts).fit(X, Y)
    given: dict[str, Any] = {name: real(value) for name, value in numbers.items()}
    given |= {name: whole(value) for name, value in counts.items()}
    clf = xl.LinearClassifier(**settings, **given, validation_fraction=real(0.25)).fit(X, Y)
    same = xl.LinearClassifier(**settings, **numbers, **counts, validation_fraction=0.25).fit(X, Y)
    assert plain.alpha_ == clf.alpha_ == 0.25
    np.testing.assert_array_equal(clf.coef_, same.coef_)
    clf.save(tmp_path / "model")
    assert xl.load(tmp_path / "model").get_params()["momentum"] == 0.5


def dtypes() -> Iterator[Any]:
    yield from (np.float32, np.dtype("float32"))
    for library in ("torch", "jax.numpy", "array_api_strict"):
        try:
            yield importlib.import_module(library).float32
        except ImportError:
            continue


@pytest.mark.parametrize("dtype", list(dtypes()), ids=str)
def test_dtypes_of_any_library_name_a_dtype(dtype: Any, tmp_path: Path) -> None:
    clf = xl.LinearClassifier(dtype=dtype).fit(X, Y)
    assert clf.coef_.dtype == np.float32
    clf.save(tmp_path / "model")
    assert xl.load(tmp_path / "model").get_params()["dtype"] == "float32"


def test_truth_values_of_numpy_are_flags() -> None:
    flags: dict[str, Any] = {"fit_intercept": np.False_, "standardize": np.True_}
    clf = xl.LinearClassifier(**flags).fit(X, Y)
    assert not np.any(clf.intercept_)


# Arrays of two libraries.


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_scores_and_labels_are_of_one_library(loss: str, library: str) -> None:
    pytest.importorskip(library)
    other = get_backend(library)
    for one, two in ((other.asarray(Z), Y3), (Z, other.asarray(Y3))):
        with pytest.raises(TypeError, match="y must be an array of the same library as Z"):
            LOSSES[loss]().value_and_grad(one, two)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_labels_out_of_range_are_refused_on_the_host(loss: str, library: str) -> None:
    if library != "numpy":
        pytest.importorskip(library)
    asarray = get_backend(library).asarray
    for codes in (Y3 - 1, Y3 + 1):
        with pytest.raises(ValueError, match="y must hold class codes from 0 to 2"):
            LOSSES[loss]().value_and_grad(asarray(Z), asarray(codes))


def test_a_traced_loss_is_not_looked_into() -> None:
    jax = pytest.importorskip("jax")
    value, _ = jax.jit(SoftmaxLoss().value_and_grad)(jax.numpy.asarray(Z), jax.numpy.asarray(Y3))
    np.testing.assert_allclose(value, SoftmaxLoss().value_and_grad(Z, Y3)[0])


def test_an_objective_counts_its_classes(backend: Any) -> None:
    with pytest.raises(ValueError, match=r"k must be the number of classes, at least 3 .* got 2"):
        backend.objective(SoftmaxLoss(), L2Penalty(), X, Y3, k=2)
    with pytest.raises(ValueError, match="y must hold class codes from 0 on"):
        backend.objective(SoftmaxLoss(), L2Penalty(), X, Y3 - 1)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax:cpu"])
def test_an_objective_looks_at_its_weights_on_the_host(library: str) -> None:
    pytest.importorskip(library.partition(":")[0])
    backend = get_backend(library)

    def objective(*weights: float) -> Objective:
        s = backend.asarray(np.repeat([[1.0, 1.0], [*weights]], N // 2, axis=0))
        data = ArrayData(backend.asarray(X), backend.asarray(Y3), s, backend=backend)
        return Objective(F.loss, F.penalty, backend.asarray(np.ones(2)), data, k=3)

    objective(0.0, 0.0)
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="s must hold finite numbers of at least 0"):
            objective(1.0, weight)


def test_every_model_needs_a_row(numpy_backend: Any) -> None:
    with pytest.raises(ValueError, match="s must give every model a row of positive weight"):
        numpy_backend.objective(F.loss, F.penalty, X, Y3, np.eye(1, 2).repeat(N, 0))


def test_an_objective_and_its_parameters_are_of_one_library(backend: Any) -> None:
    other = get_backend("numpy" if backend.backend.name != "numpy" else "array_api_strict")
    G = backend.objective(SoftmaxLoss(), L2Penalty(), X, Y3)
    with pytest.raises(ValueError, match="alpha must be an array of the library of the data"):
        replace(G, alpha=other.asarray(np.asarray([0.1])))
    start = Params(*(other.asarray(backend.to_numpy(a)) for a in G.zeros()))
    for use in (G.value, G.value_and_grad, partial(minimize, G, LBFGS())):
        with pytest.raises(ValueError, match="params: W must be an array of the library of the"):
            use(start)


@pytest.mark.parametrize("score", [1.0, None, [0.5], np.ones(2), np.ones(())])
def test_a_validation_score_is_one_per_model(score: Any) -> None:
    with pytest.raises(ValueError, match="validation_score"):
        minimize(F, LBFGS(max_iter=3), validation_score=lambda _: score)


def test_integers_need_a_dtype_to_compute_in() -> None:
    with pytest.raises(ValueError, match=r"dtype must be a real floating one .* got int64"):
        ArrayData(X.astype(np.int64), Y3, backend=BACKEND_NUMPY)
    ArrayData(X.astype(np.int64), Y3, dtype=np.float32, backend=BACKEND_NUMPY)


def test_a_score_needs_a_fit() -> None:
    with pytest.raises(NotFittedError):
        xl.LinearClassifier().score(X, Y)


def test_the_model_and_further_rows_are_in_one_place() -> None:
    pytest.importorskip("torch")
    torch = get_backend("torch")
    clf = xl.LinearClassifier(random_state=0)
    clf.partial_fit(torch.asarray(X), torch.asarray(Y), classes=[0, 1])
    with pytest.raises(ValueError, match=r"on torch.*, but these rows are on numpy.*clf\.to\("):
        clf.partial_fit(X, Y)
    clf.to("numpy").partial_fit(X, Y)


# What only several arguments together make wrong.


def test_weights_leave_two_classes() -> None:
    cases: list[tuple[dict[str, Any], Any]]
    cases = [({}, 1.0 * Y), ({"class_weight": {0: 0.0}}, None)]
    for settings, weight in cases:
        for kind in (xl.LinearClassifier, xl.LinearClassifierCV):
            with pytest.raises(ValueError, match="y has one class only, 1, among the rows of pos"):
                kind(**settings).fit(X, Y, weight)


def test_a_part_held_out_has_every_class() -> None:
    clf = xl.LinearClassifier(early_stopping=True, validation_fraction=0.001)
    with pytest.raises(ValueError, match=r"cannot hold out validation_fraction=0\.001 of 12 rows"):
        clf.fit(X, Y)


def test_messages_show_plain_values() -> None:
    clf = xl.LinearClassifier(warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match=r"classes \[0, 1\]; set warm_start=False"):
        clf.fit(X, Y + 1)
    with pytest.raises(
        ValueError, match="max_iter must be an integer of at least 1 or None, got 0"
    ):
        clf.set_params(max_iter=np.int64(0)).fit(X, Y)
    with pytest.raises(ValueError, match=r"classes=\[0, 2\] differ from .* \[0, 1\]"):
        clf.set_params(max_iter=5).partial_fit(X, Y, classes=np.asarray([0, 2]))


def test_a_kernel_goes_by_the_name_of_its_loss() -> None:
    kernel = AcceleratedLoss(SoftmaxLoss(), lambda loss, *a, **b: loss.value_and_grad(*a, **b))
    with pytest.raises(ValueError, match=r"needs the loss .*, got SoftmaxLoss\(\)"):
        minimize(replace(F, loss=kernel), Smoothing())


def test_columns_of_one_name_are_refused() -> None:
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"X: Expected unique column names(.|\s)*'a' 2 times"):
        xl.LinearClassifier().fit(pd.DataFrame(X, columns=["a", "a"]), Y)
