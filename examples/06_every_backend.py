"""One fit on every array library installed: only the word that names the backend changes."""

import time

import numpy as np
from rich import print as show
from rich.table import Table

import xplinear as xl
from xplinear.datasets import holdout, load

data = holdout(load("digits"))
X, X_test = data.X.astype(np.float32), data.X_test.astype(np.float32)


def seconds_to_fit(clf: xl.LinearClassifier) -> float:
    start = time.perf_counter()
    clf.fit(X, data.y)
    return time.perf_counter() - start


table = Table("backend", "objective", "accuracy", "max |ΔW|", "first fit", "second fit")
reference = None
for status in xl.available_backends():
    if not status.available:
        print(f"{status.name} left out: {status.reason}")
        continue
    settings = {"alpha": 1e-4, "solver": "sgd", "max_iter": 15, "random_state": 0}
    clf = xl.LinearClassifier(**settings, backend=status.name)
    first, second = seconds_to_fit(clf), seconds_to_fit(clf)  # JAX compiles in the first
    coef = clf.to("numpy").coef_
    reference = coef if reference is None else reference
    difference = np.max(np.abs(coef - reference))
    assert difference <= 1e-4 * np.max(np.abs(reference))
    table.add_row(
        status.name,
        f"{clf.objective_:.6f}",
        f"{clf.score(X_test, data.y_test):.4f}",
        f"{difference:.0e}",
        f"{first:.2f} s",
        f"{second:.2f} s",
    )
show(table)
