"""From scores to SGD: the lecture in numbers, each one computed here and checked."""

import math

import numpy as np

import xplinear as xl
from xplinear.data import ArrayData
from xplinear.datasets import load
from xplinear.losses import MulticlassHingeLoss, SoftmaxLoss
from xplinear.losses.softmax import softmax
from xplinear.penalties import L1Penalty, L2Penalty

# Loss: how far are the scores from the truth? Images of a cat, a car and a frog, one per row;
# scores of the classes cat, car and frog, one per column.
Z = np.asarray([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
y = np.asarray([0, 1, 2])
svm, _ = MulticlassHingeLoss().value_and_grad(Z, y)
print("SVM loss of each image:", svm.round(4), "mean:", svm.mean().round(4))
assert np.allclose(svm, [2.9, 0.0, 12.9])
assert math.isclose(svm.mean(), 15.8 / 3)

cross_entropy, _ = SoftmaxLoss().value_and_grad(Z, y)
P = softmax(Z)
print("cat: P =", P[0].round(4), "softmax loss:", cross_entropy[0].round(4))
assert P[0, 0].round(4) == 0.1300
assert cross_entropy[0].round(4) == 2.0404

# Penalty: which of two models with equal scores? W has shape (features, models, columns).
x, W = np.ones(4), np.asarray([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]])
l2, l1 = L2Penalty().value(W[:, :, None]), L1Penalty().value(W[:, :, None])
print("scores of w1 and w2:", x @ W, "L2 penalty:", l2, "L1 penalty:", l1)
assert np.array_equal(x @ W, [1.0, 1.0])
assert l2[0] == 0.5  # L2 prefers w2, which spreads the weight ...
assert l2[1] == 0.125
assert l1[0] == l1[1] == 1.0  # ... and L1 finds them equal

# A fresh model scores 0 everywhere. Its loss is a sanity check before any training.
digits = load("digits")
data, k = ArrayData(digits.X, digits.y, backend=xl.get_backend("numpy")), 10
for loss, expected in ((SoftmaxLoss(), math.log(k)), (MulticlassHingeLoss(), k - 1)):
    F = xl.Objective(loss, L2Penalty(), np.asarray([1e-4]), data, k)
    (fresh,) = F.value(F.zeros())
    print(f"{type(loss).__name__} of a fresh model: {fresh:.4f}, expected {expected:.4f}")
    assert math.isclose(fresh, expected)

# Training: ten passes over the data make 10 updates, or 10 · ⌈n / 64⌉ of them.
F, passes = xl.Objective(SoftmaxLoss(), L2Penalty(), np.asarray([1e-4]), data, k), 10
batch = xl.minimize(F, xl.solvers.GD(max_iter=passes))
stochastic = xl.minimize(F, xl.solvers.SGD(max_iter=passes, batch_size=64))
updates = passes * math.ceil(data.n / 64)
(gd,), (sgd,) = F.value(batch.params), F.value(stochastic.params)
print(f"{passes} passes over digits: GD, {passes} updates, F = {gd:.4f}")
print(f"{passes} passes over digits: SGD, {updates} updates, F = {sgd:.4f}")
assert sgd < gd / 2
