"""Weights as class templates: a class's score is the inner product of image and template."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import xplinear as xl
from xplinear.datasets import holdout, load

FASHION = "T-shirt trousers pullover dress coat sandal shirt sneaker bag boot"

try:
    data, names = load("fashion-mnist"), FASHION.split()
except OSError as error:
    print(f"{error}\nDigits instead.")
    data, names = holdout(load("digits")), "0123456789"
largest = np.float32(np.max(data.X))
X, X_test = data.X / largest, data.X_test / largest

# Bright pixels speak for the class, dark ones against it; mid-grey is a weight of 0. A strong
# penalty leaves what many images share, a weak one fits what tells few images apart.
figure = Figure(figsize=(12, 4.8), layout="constrained")
alphas = (1e-4, 1e-2, 1.0)
for row, alpha in zip(figure.subfigures(len(alphas), 1), alphas, strict=True):
    clf = xl.LinearClassifier(alpha=alpha, random_state=0).fit(X, data.y)
    title = f"α = {alpha:g}: test accuracy {clf.score(X_test, data.y_test):.4f}"
    print(title)
    row.suptitle(title)
    for axes, template, name in zip(row.subplots(1, 10), clf.coef_, names, strict=True):
        limit = np.max(np.abs(template))
        axes.imshow(template.reshape(data.image_shape), cmap="gray", vmin=-limit, vmax=limit)
        axes.set_title(name, fontsize=9)
        axes.axis("off")

path = Path(__file__).parent / "output" / "class_templates.png"
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=110)
print(f"wrote {path}")
