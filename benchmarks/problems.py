"""The problems on which solvers are compared, and the float64 judge of what they return.

Every problem is softmax regression with L2 on float32 rows, the intercept not penalized:

    F(W, b) = mean loss + ½ alpha ‖W‖²,   scikit-learn's C = 1 / (alpha n),

and every solution is judged by its relative suboptimality (F − F*) / (F(0) − F*).
``python -m benchmarks.problems`` computes the minima F* in ``results/minima.json`` anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.optimize
import typer
from scipy.special import logsumexp, softmax

from xplinear.datasets import Dataset, holdout, load

MINIMA = Path(__file__).parent / "results" / "minima.json"
TARGETS = (1e-2, 1e-4, 1e-6)  # relative suboptimality
CHUNK_VALUES = 1_000_000  # of rows and scores that the judge converts to float64 at a time

Host: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Solution: TypeAlias = tuple[Host, Host]  # coef (k, p), intercept (k,)
Fit: TypeAlias = Callable[[int], Solution]  # given a budget: iterations, or epochs where stochastic


class Problem(NamedTuple):
    """Rows ``X (n, p)`` in float32, labels 0 … k−1, a held-out part, and alpha."""

    X: Host
    y: Host
    X_test: Host
    y_test: Host
    alpha: float

    @property
    def k(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1


def _from_dataset(data: Dataset, scale: float = 1.0) -> Problem:
    """Return a data set with scikit-learn's default C = 1."""
    X, X_test = (np.divide(A, scale, dtype=np.float32) for A in (data.X, data.X_test))
    y, y_test = (a.astype(np.int64) for a in (data.y, data.y_test))
    return Problem(X, y, X_test, y_test, 1 / len(y))


def _split(X: Host, y: Host, n: int, alpha: float) -> Problem:
    """Return the first n rows for training, the others for testing."""
    return Problem(X[:n], y[:n], X[n:], y[n:], alpha)


def _digits() -> Problem:
    return _from_dataset(holdout(load("digits")))


def _fashion_mnist() -> Problem:
    return _from_dataset(load("fashion-mnist"), 255)


def _power_law(n: int = 20_000, n_test: int = 5_000, p: int = 200, k: int = 10) -> Problem:
    """Draw features of scales 1/j^1.5, mixed by a rotation, and labels from a softmax model."""
    rng = np.random.default_rng(0)
    scales = np.arange(1, p + 1) ** -1.5
    axes = np.linalg.qr(rng.standard_normal((p, p)))[0] * scales / np.sqrt(np.mean(scales**2))
    X = rng.standard_normal((n + n_test, p), dtype=np.float32) @ axes.T.astype(np.float32)
    truth = rng.standard_normal((p, k), dtype=np.float32)
    y = np.argmax(X @ truth + rng.gumbel(size=(n + n_test, k)), axis=1)
    return _split(X, y, n, alpha=1e-5)


def _clusters(n: int, n_test: int, p: int, k: int, spread: float, alpha: float) -> Problem:
    """Draw classes of equal size, each Gaussian of variance 1 about a Gaussian centre."""
    rng = np.random.default_rng(0)
    centres = spread * rng.standard_normal((k, p), dtype=np.float32)
    y = np.concatenate([rng.permutation(size) % k for size in (n, n_test)])
    X = rng.standard_normal((n + n_test, p), dtype=np.float32)
    X += centres[y]
    return _split(X, y, n, alpha)


def _wide() -> Problem:
    return _clusters(n=2_000, n_test=1_000, p=10_000, k=10, spread=0.05, alpha=1e-3)


def _many_classes() -> Problem:
    return _clusters(n=20_000, n_test=5_000, p=128, k=1_000, spread=0.5, alpha=1e-4)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "power-law": _power_law,
    "wide": _wide,
    "many-classes": _many_classes,
}


def objective(problem: Problem, coef: Host, intercept: Host) -> float:
    """Return F in float64 of ``coef (k, p)`` and ``intercept (k,)``."""
    W, b = coef.T.astype(np.float64), intercept.astype(np.float64)
    loss = 0.0
    for rows in _chunks(problem):
        y, Z = problem.y[rows], problem.X[rows].astype(np.float64) @ W + b
        loss += float(np.sum(logsumexp(Z, axis=1) - Z[np.arange(len(y)), y]))
    return loss / len(problem.y) + 0.5 * problem.alpha * float(np.sum(W * W))


def suboptimality(problem: Problem, value: float, minimum: float) -> float:
    """Return (F − F*) / (F(0) − F*); without scores the loss is log k."""
    return (value - minimum) / (np.log(problem.k) - minimum)


def accuracy(problem: Problem, coef: Host, intercept: Host) -> float:
    """Return the share of the held-out rows that are classified rightly."""
    Z = problem.X_test @ coef.T.astype(np.float32) + intercept.astype(np.float32)
    return float(np.mean(np.argmax(Z, axis=1) == problem.y_test))


def minima() -> dict[str, float]:
    """Return the stored F* by problem."""
    stored = json.loads(MINIMA.read_text(encoding="utf-8"))
    return {name: entry["minimum"] for name, entry in stored.items()}


def minimize(problem: Problem) -> Solution:
    """Minimize F in float64, slowly and surely: L-BFGS in coordinates that even out the Hessian.

    The optimal weights lie in the span V of the centred rows, along which the Hessian is about
    s/k + alpha, s the eigenvalues of their covariance.
    """
    n, k = len(problem.y), problem.k
    X = problem.X.astype(np.float64)
    mean = np.mean(X, axis=0)
    X -= mean
    V = np.linalg.eigh(X.T @ X)[1] if n >= X.shape[1] else np.linalg.qr(X.T)[0]
    if n < X.shape[1]:
        V = V @ np.linalg.eigh((V.T @ X.T) @ (X @ V))[1]
    X = X @ V
    scale = 1 / np.sqrt(np.mean(X * X, axis=0) / k + problem.alpha)
    X *= scale

    def value_and_grad(u: Host) -> tuple[float, Host]:
        U, b = u[:-k].reshape(-1, k), u[-k:]
        W = scale[:, None] * U
        Z = X @ U
        Z += b
        right = Z[np.arange(n), problem.y]
        value = np.mean(logsumexp(Z, axis=1) - right) + 0.5 * problem.alpha * np.sum(W * W)
        G = softmax(Z, axis=1)
        G[np.arange(n), problem.y] -= 1
        grad = X.T @ G / n + problem.alpha * scale[:, None] * W
        return float(value), np.concatenate([grad.ravel(), np.mean(G, axis=0)])

    options = {"maxiter": 10_000, "maxfun": 10_000, "maxcor": 30, "ftol": 0.0, "gtol": 1e-10}
    start = np.zeros((X.shape[1] + 1) * k)
    found = scipy.optimize.minimize(
        value_and_grad, start, jac=True, method="L-BFGS-B", options=options
    ).x
    W = V @ (scale[:, None] * found[:-k].reshape(-1, k))
    return W.T, found[-k:] - mean @ W


def possible_excess(problem: Problem, coef: Host, intercept: Host) -> float:
    """Return ‖∂F/∂W‖² / 2 alpha, by which F can exceed F* at most where ∂F/∂b is 0."""
    W, b = coef.T, intercept
    grad = problem.alpha * W
    for rows in _chunks(problem):
        X = problem.X[rows].astype(np.float64)
        G = softmax(X @ W + b, axis=1)
        G[np.arange(len(G)), problem.y[rows]] -= 1
        grad += X.T @ G / len(problem.y)
    return float(np.sum(grad * grad)) / (2 * problem.alpha)


def _chunks(problem: Problem) -> Iterator[slice]:
    n, p = problem.X.shape
    size = max(1, CHUNK_VALUES // (p + problem.k))
    return (slice(start, start + size) for start in range(0, n, size))


def main(names: list[str]) -> None:
    """Compute the minima of the named problems anew, or of all: ``all``."""
    stored = json.loads(MINIMA.read_text(encoding="utf-8")) if MINIMA.is_file() else {}
    for name in PROBLEMS if names == ["all"] else names:
        problem = PROBLEMS[name]()
        solution = minimize(problem)
        stored[name] = {
            "minimum": objective(problem, *solution),
            "possible_excess": possible_excess(problem, *solution),
            "test_accuracy": accuracy(problem, *solution),
        }
        print(name, stored[name])
        MINIMA.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
