"""Weights as class templates: a class's score is the inner product of image and template."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import xplinear as xl
from xplinear.datasets import holdout, load
from xplinear.plot import ClassTemplatesDisplay

FASHION = "T-shirt trousers pullover dress coat sandal shirt sneaker bag boot"

try:
    data, names = load("fashion-mnist"), FASHION.split()
except OSError as error:
    print(f"{error}\nDigits instead.")
    data, names = holdout(load("digits")), "0123456789"
largest = np.float32(np.max(data.X))
X, X_test = data.X / largest, data.X_test / largest

# Bright pixels speak for the class, dark ones against it. A strong penalty leaves what many images
# share, a weak one fits what tells few images apart.
figure = Figure(figsize=(6.4, 10), layout="constrained")
alphas = (1e-4, 1e-2, 1.0)
for ax, alpha in zip(figure.subplots(len(alphas), 1), alphas, strict=True):
    clf = xl.LinearClassifier(alpha=alpha, random_state=0).fit(X, data.y)
    title = f"α = {alpha:g}: test accuracy {clf.score(X_test, data.y_test):.4f}"
    print(title)
    ax.set_title(title)
    ClassTemplatesDisplay.from_estimator(clf, data.image_shape, display_labels=names, ax=ax)

path = Path(__file__).parent / "output" / "class_templates.png"
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=110)
print(f"wrote {path}")
