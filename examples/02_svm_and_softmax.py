"""The SVM loss against the softmax loss: what each of them does, computed row by row."""

import numpy as np
from rich import print as show
from rich.table import Table
from sklearn.datasets import make_blobs

import xplinear as xl
from xplinear.gradients import numerical_gradient
from xplinear.losses import MulticlassHingeLoss, SoftmaxLoss
from xplinear.namespace import Array


class MeanHinge(MulticlassHingeLoss):
    def value_and_grad(self, Z: Array, y: Array, *, xp: object = None) -> tuple[Array, Array]:
        return tuple(a / Z.shape[-1] for a in super().value_and_grad(Z, y, xp=xp))


def all_classes_hinge(Z: Array, y: Array) -> Array:
    return np.maximum(0.0, Z - Z[np.arange(len(y)), y][:, None] + SVM.margin).sum(axis=1)


def both(Z: Array, y: Array) -> Array:
    return np.stack([loss.value_and_grad(Z, y)[0] for loss in (SVM, SOFTMAX)])


SVM, SOFTMAX = MulticlassHingeLoss(margin=1.0), SoftmaxLoss()
table = Table("", "SVM", "softmax", title="What the two losses do")

car, moved = both(np.asarray([[1.3, 4.9, 2.0], [1.4, 4.9, 1.9]]), np.asarray([1, 1])).T
assert list(moved == car) == [True, False]
table.add_row("scores move by 0.1, margin met: change", *map("{:.4f}".format, moved - car))

k, rng = 10, np.random.default_rng(0)
Z, y = 5.0 * rng.standard_normal((200, k)), rng.integers(0, k, 200)
low, *_, high = np.sort(both(Z, y)).T
assert low[0] == 0.0 < low[1]
table.add_row("range over random scores", *map("{:.1g} to {:.3g}".format, low, high))
fresh = both(np.zeros((1, k)), np.zeros(1, dtype=int))[:, 0]
assert np.allclose(fresh, [k - 1, np.log(k)])
table.add_row(f"all scores equal, k = {k}", *map("{:.4f}".format, fresh))

value, grad = SVM.value_and_grad(Z, y)
growth = all_classes_hinge(Z, y) - value
turn = np.max(np.abs(numerical_gradient(lambda Z: all_classes_hinge(Z, y), Z) - grad))
assert np.allclose([*growth, turn], [SVM.margin] * len(y) + [0.0], atol=1e-6)
table.add_row("true class counted too: growth", f"{growth.mean():.4f}", "–")
table.add_row("    change of its gradient", f"{turn:.4f}", "–")

X, y = make_blobs(200, centers=4, cluster_std=0.5, random_state=0)
total = xl.LinearClassifier(SVM, alpha=0.1, learning_rate=0.01, random_state=0)
mean = xl.LinearClassifier(MeanHinge(), alpha=0.1 / 4, learning_rate=0.04, random_state=0)
turn = np.max(np.abs(total.fit(X, y).coef_ - mean.fit(X, y).coef_))
assert turn < 1e-6
table.add_row("mean over classes, λ / k: change of W", f"{turn:.4f}", "–")
Z = xl.LinearClassifier(SVM, alpha=0.0, random_state=0).fit(X, y).decision_function(X)
losses = np.mean([both(c * Z, y) for c in (1, 2, 3)], axis=2).T
assert list(losses.any(axis=1)) == [False, True]
table.add_row("loss of W, 2W, 3W", *(", ".join(map("{:.1g}".format, row)) for row in losses))
show(table)
