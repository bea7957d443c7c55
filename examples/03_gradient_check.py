"""Numerical against analytic gradients: trust the slow one, train with the fast one."""

import numpy as np

import xplinear as xl
from xplinear.data import ArrayData
from xplinear.gradients import check_gradient, numerical_gradient
from xplinear.losses import LOSSES, MulticlassHingeLoss, SoftmaxLoss
from xplinear.namespace import Array
from xplinear.penalties import L2Penalty

rng = np.random.default_rng(0)
n, p, m, k = 40, 6, 2, 4
X, y = rng.standard_normal((n, p)), rng.integers(0, k, n)
Z = rng.standard_normal((n, k))

# The numerical gradient (F(w + h) − F(w − h)) / 2h: with h → 0 its error falls as h², until
# F(w + h) and F(w − h) have too few digits that differ.
loss = SoftmaxLoss()
_, analytic = loss.value_and_grad(Z, y)


def mean_loss(Z: Array) -> Array:
    return loss.value_and_grad(Z, y)[0]


errors = {}
for h in (1e-1, 1e-3, 1e-5, 1e-7, 1e-9):
    numerical = numerical_gradient(mean_loss, Z, step=h)
    errors[h] = np.max(np.abs(numerical - analytic))
    print(f"h = {h:.0e}: numerical and analytic gradient differ by {errors[h]:.1e}")
assert min(errors, key=errors.get) == 1e-5

# The check: every loss, and the whole objective of two models at once.
for name, loss_type in LOSSES.items():
    report = check_gradient(loss_type(), Z, y)
    print(f"{name}: {report}")
    assert report.passed
data = ArrayData(X, y, backend=xl.get_backend("numpy"))
F = xl.Objective(SoftmaxLoss(), L2Penalty(), np.asarray([1e-3, 1.0]), data, k)
params = xl.Params(rng.standard_normal((p, m, k)), rng.standard_normal((m, k)))
report = check_gradient(F, params)
print(f"objective: {report}")
assert report.passed

# A wrong gradient, P instead of P − e_y, is caught.
wrong = analytic + (y[:, None] == np.arange(k))
report = check_gradient(mean_loss, Z, grad=wrong)
print(f"a wrong gradient: {report}")
assert not report.passed

# At a kink the slopes to the left and to the right differ: the hinge's are 0 and 1 where a
# margin is just met. Any value between is a subgradient, and the check knows it.
kink, y = np.asarray([[0.0, 1.0]]), np.asarray([1])
report = check_gradient(MulticlassHingeLoss(), kink, y)
middle = numerical_gradient(lambda Z: MulticlassHingeLoss().value_and_grad(Z, y)[0], kink)
print(f"a kink: {report}; the central difference says {middle[0]}")
assert report.passed
assert report.kinks == 2
