"""A sweep that goes on from any file it ever wrote ends with the bits it would have had."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedKFold

import xplinear as xl
from xplinear.estimator import journal, solve

_SPEC = importlib.util.spec_from_file_location("kill", Path(__file__).with_name("kill.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
kill = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(kill)

rng = np.random.default_rng(3)
X = rng.standard_normal((150, 6))
Y = np.argmax(X[:, :3] + 0.7 * rng.gumbel(size=(150, 3)), axis=1)
LABELS = (X[:, :4] + rng.standard_normal((150, 4)) > 0.3).astype(int)
GRID = [1.0, 0.1, 0.03, 0.01]
FOLDS = list(StratifiedKFold(3).split(X, Y))
pytestmark = pytest.mark.usefixtures("ends_of_grids_and_rounding")


def by_margin(y: Any, Z: Any) -> float:
    return float(np.mean(Z[np.arange(len(y)), y] - Z.mean(axis=1)))


SWEEPS: Mapping[str, tuple[Mapping[str, Any], Any]] = {
    "lbfgs": ({"solver": "lbfgs", "tol": 1e-6, "held_out_scores": True}, Y),
    "auto": ({"alphas": None, "scoring": "log_loss"}, Y),
    "newton_cg": ({"solver": "newton_cg", "Cs": [0.1, 1.0, 10.0], "alphas": None}, Y),
    "l1": ({"penalty": "l1", "alphas": [0.1, 0.03, 0.01], "standardize": True}, Y),
    "gd": ({"solver": "gd", "tol": 1e-3, "scoring": by_margin}, Y),
    "rates": ({"solver": "sgd", "max_iter": 8, "learning_rates": [0.01, 0.1], "alphas": 2}, Y),
    "hinge": ({"loss": "multiclass_hinge", "solver": "smoothing", "tol": 1e-2, "alphas": 2}, Y),
    "interior": ({"loss": "multiclass_hinge", "solver": "interior_point", "alphas": 3}, Y),
    "roc_auc": ({"scoring": "roc_auc", "refit": False, "solver": "lbfgs"}, Y),
    "labels": ({"alphas": 3, "alpha_per_label": True, "held_out_scores": True}, LABELS),
    "f1": ({"scoring": "macro_f1", "solver": "lbfgs"}, LABELS),
    "rest": ({"multi_class": "one_vs_rest", "held_out_scores": True}, Y),
    "scaled": ({"standardize": True, "solver": "newton"}, LABELS),
}


class Files:
    """Every content that a file of that name has had."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.contents = path, list[bytes]()
        replaced = Path.replace

        def watched(own: Path, target: Any) -> Path:
            new = replaced(own, target)
            if Path(target).name == path.name:
                self.contents.append(path.read_bytes())
            return new

        monkeypatch.setattr(Path, "replace", watched)
        monkeypatch.setattr(os, "fsync", lambda file: None)  # the disk is no part of it
        monkeypatch.setattr(journal, "_REST", 0.0)

    def some(self, count: int) -> list[bytes]:
        """Return some of the contents, the first and the last among them."""
        places = np.unique(np.linspace(0, len(self.contents) - 1, count).astype(int))
        return [self.contents[i] for i in places]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(tmp_path / "run.ckpt", monkeypatch)


def check(files: Files, fit: Callable[[Any], Any], few: int = 6) -> None:
    """Fit without a file, with one, and from contents of it."""
    expected = kill.found(fit(None))
    checkpoint = xl.Checkpoint(files.path, every=0.0)
    assert kill.found(fit(checkpoint)) == expected
    assert not files.path.exists()
    contents = files.some(few)
    assert len(contents) == few
    for content in contents:
        files.path.write_bytes(content)
        assert kill.found(fit(checkpoint)) == expected
        assert not files.path.exists()


@pytest.mark.parametrize("name", SWEEPS)
def test_every_kind_of_sweep(files: Files, name: str) -> None:
    settings, y = SWEEPS[name]
    settings = {"alphas": GRID, "cv": FOLDS, "random_state": 0} | dict(settings)
    check(files, lambda at: xl.LinearClassifierCV(**settings, checkpoint=at).fit(X, y))
