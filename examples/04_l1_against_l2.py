"""L1 against L2: accuracy and zero weights along α, all strengths trained in one stacked fit."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import xplinear as xl
from xplinear.data import ArrayData
from xplinear.datasets import holdout, load
from xplinear.losses import SoftmaxLoss
from xplinear.namespace import Array
from xplinear.objective import scores
from xplinear.penalties import L1Penalty, L2Penalty

digits = holdout(load("digits"), fraction=0.5)
varies = np.ptp(digits.X, axis=0) > 0  # a constant pixel has weight 0 under any penalty
X, X_valid = digits.X[:, varies] / 16.0, digits.X_test[:, varies] / 16.0
y, y_valid = digits.y, digits.y_test
backend, k = xl.get_backend("numpy"), 10
alphas = np.logspace(-5, 0, 11)


def accuracy(X: Array, y: Array, params: xl.Params) -> Array:
    """Return the accuracy of each of the m models."""
    return np.mean(np.argmax(scores(X, params, xp=backend.xp), axis=2) == y[:, None], axis=0)


figure = Figure(figsize=(9, 4), layout="constrained")
left, right = figure.subplots(1, 2, sharex=True)
lines = (("L2", L2Penalty(), "#0072b2", "-"), ("L1", L1Penalty(), "#d55e00", "--"))
for name, penalty, colour, dash in lines:
    F = xl.Objective(SoftmaxLoss(), penalty, alphas, ArrayData(X, y, backend=backend), k)
    params = xl.minimize(F, xl.solvers.GD(max_iter=300)).params
    train, valid = accuracy(X, y, params), accuracy(X_valid, y_valid, params)
    zeros = np.mean(params.W == 0.0, axis=(0, 2))
    best = np.argmax(valid)
    print(
        f"{name}: best validation accuracy {valid[best]:.4f} at α = {alphas[best]:.2g}, "
        f"train accuracy there {train[best]:.4f}, {zeros[best]:.0%} of the weights are zero"
    )
    style = {"color": colour, "linestyle": dash, "linewidth": 2}
    left.semilogx(alphas, train, **style | {"linewidth": 1}, label=f"{name}, training")
    left.semilogx(alphas, valid, **style, marker="o", markersize=4, label=f"{name}, validation")
    right.semilogx(alphas, 100 * zeros, **style, marker="o", markersize=4, label=name)

left.set(xlabel="α (strength of the penalty)", ylabel="accuracy", title="Accuracy on digits")
right.set(xlabel="α (strength of the penalty)", title="Sparsity")
right.set_ylabel("weights that are exactly zero [%]")
for axes in (left, right):
    axes.grid(alpha=0.3)
    axes.legend()
path = Path(__file__).parent / "output" / "l1_against_l2.png"
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=120)
print(f"wrote {path}")
