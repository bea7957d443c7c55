"""Every picture of xplinear.plot, and scikit-learn's own of the confusion matrix."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import ConfusionMatrixDisplay

import xplinear as xl
from xplinear import bench, plot
from xplinear.datasets import holdout, load
from xplinear.parity import random_objective

FASHION = "T-shirt trousers pullover dress coat sandal shirt sneaker bag boot"
HERE = Path(__file__).parent


def save(display: Any, name: str) -> None:
    path = HERE / "output" / "gallery" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    display.figure_.savefig(path, dpi=110, bbox_inches="tight")
    print(f"wrote {path}")


try:
    data, names = load("fashion-mnist"), FASHION.split()
except OSError as error:
    print(f"{error}\nDigits instead.")
    data, names = holdout(load("digits")), list("0123456789")
largest = np.float32(np.max(data.X))
X, y, X_test = data.X[:10_000] / largest, data.y[:10_000], data.X_test / largest

clf = xl.LinearClassifier(solver="sgd", early_stopping=True, random_state=0).fit(X, y)
save(plot.LossCurveDisplay.from_estimator(clf, data=data.name), "loss_curve")
templates = plot.ClassTemplatesDisplay.from_estimator
clf = xl.LinearClassifier(alpha=0.01, random_state=0).fit(X, y)
save(templates(clf, data.image_shape, display_labels=names, data=data.name), "class_templates")
style = {"display_labels": names, "cmap": "cividis", "xticks_rotation": 45, "text_kw": {"size": 7}}
display = ConfusionMatrixDisplay.from_estimator(clf, X_test, data.y_test, **style)
display.im_.colorbar.set_label("test images")
save(display, "confusion_matrix")

cancer = load_breast_cancer()
X = (cancer.data - np.mean(cancer.data, axis=0)) / np.std(cancer.data, axis=0)
y, features = cancer.target_names[cancer.target], cancer.feature_names
search = xl.LinearClassifierCV(penalty="l1", one_standard_error=True).fit(X, y)
save(plot.ValidationCurveDisplay.from_estimator(search, data="breast cancer"), "validation_curve")
save(plot.CoefficientPathDisplay.from_estimator(search, feature_names=features), "coefficient_path")

numpy, checks = xl.get_backend("numpy"), {}
for loss in xl.losses.LOSSES:
    problem = random_objective(numpy, np.float64, loss, "l2")
    checks[loss] = xl.check_gradient(*problem, coordinates=50)
save(plot.GradientCheckDisplay(checks).plot(), "gradient_check")

with (HERE.parent / "benchmarks/results/bench.csv").open() as file:
    rows = [bench.Measurement.from_record(row) for row in csv.DictReader(file)]
save(plot.ThroughputDisplay(rows).plot(), "throughput")
