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
LABELS = (X[:, :3] + rng.standard_normal((150, 3)) > 0.3).astype(int)
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


def check(files: Files, fit: Callable[[Any], Any], few: int = 4) -> None:
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


@pytest.mark.parametrize(
    ("fits", "free_columns"),
    [
        (lambda F: F.m <= 3, 1000),
        (lambda F: F.m <= 1 or F.alpha.min() > 0.02, 1),
    ],
)
@pytest.mark.filterwarnings("ignore:out of memory")
def test_stacks_that_memory_did_not_hold(
    files: Files,
    numpy_backend: Any,
    monkeypatch: pytest.MonkeyPatch,
    fits: Callable[[Any], bool],
    free_columns: int,
) -> None:
    """They are not tried again: those that follow would be others."""
    own = replace(numpy_backend.backend, free_columns=free_columns)
    minimize, tried = solve.minimize, list[int]()

    def limited(objective: Any, *args: Any, **settings: Any) -> Any:
        if not fits(objective):
            tried.append(objective.m)
            raise MemoryError
        return minimize(objective, *args, **settings)

    monkeypatch.setattr(solve, "minimize", limited)
    settings = {"alphas": GRID, "cv": FOLDS, "tol": 1e-2, "backend": own, "solver": "lbfgs"}
    check(files, lambda at: xl.LinearClassifierCV(**settings, checkpoint=at).fit(X, Y), 3)
    monkeypatch.setattr(solve, "minimize", minimize)  # there is more memory by now
    count, content = len(tried), files.contents[-1]
    expected = kill.found(xl.LinearClassifierCV(**settings).fit(X, Y))
    files.path.write_bytes(content)
    found = kill.found(xl.LinearClassifierCV(**settings, checkpoint=files.path).fit(X, Y))
    assert len(tried) == count
    assert found["alphas_"] == expected["alphas_"]


@pytest.mark.parametrize("y", [LABELS, Y], ids=["labels", "one_vs_rest"])
@pytest.mark.parametrize("estimator", [xl.LinearClassifier, xl.LinearClassifierCV])
def test_memory_is_another_when_it_goes_on(
    files: Files, numpy_backend: Any, estimator: Any, y: Any
) -> None:
    """Then stacks would have other widths, and sums other bits."""

    def fit(checkpoint: Any, free_memory: Callable[[], int]) -> Any:
        own = replace(numpy_backend.backend, free_memory=free_memory)
        settings: dict[str, Any] = {"solver": "lbfgs", "tol": 1e-6, "backend": own}
        if y is Y:
            settings["multi_class"] = "one_vs_rest"
        if estimator is xl.LinearClassifierCV:
            settings |= {"cv": 2, "alphas": [1.0, 0.1], "alpha_per_label": True}
        return estimator(**settings, checkpoint=checkpoint).fit(X[:80], y[:80])

    checkpoint = xl.Checkpoint(files.path, every=0.0)
    expected = kill.found(fit(checkpoint, lambda: 1))
    for content in files.some(3):
        files.path.write_bytes(content)
        assert kill.found(fit(checkpoint, lambda: 2**40)) == expected


def test_on_torch(files: Files) -> None:
    torch = pytest.importorskip("torch")
    settings = {"alphas": [0.1, 0.01], "cv": 2, "solver": "lbfgs"}
    rows = torch.asarray(X[:80])
    check(files, lambda at: xl.LinearClassifierCV(**settings, checkpoint=at).fit(rows, Y[:80]), 3)


def interrupted(count: int) -> Callable[[Any], None]:
    """Return a callback that presses Ctrl-C when it is told so many news."""
    news: list[Any] = []

    def press(progress: Any) -> None:
        news.append(progress)
        if len(news) == count:
            raise KeyboardInterrupt

    return press


@pytest.mark.parametrize("count", [2, 20, 35])
def test_ctrl_c_keeps_what_is_done(files: Files, count: int) -> None:
    """Choices among the strengths that are done are made as ever; the file knows of the others."""
    settings: dict[str, Any] = {"alphas": GRID, "cv": FOLDS, "solver": "lbfgs", "tol": 1e-6}
    expected = kill.found(xl.LinearClassifierCV(**settings).fit(X, Y))
    clf = xl.LinearClassifierCV(**settings, checkpoint=files.path)
    with pytest.raises(KeyboardInterrupt) as got:
        clf.fit(X, Y, callbacks=[interrupted(count)])
    assert hasattr(clf, "alpha_") == (count > 2)
    if count == 2:
        assert str(got.value).startswith("interrupted before a strength was done in all folds; ")
        assert str(got.value).endswith("run.ckpt', and the same fit goes on from there")
    assert kill.found(clf.fit(X, Y)) == expected
    assert not files.path.exists()


@pytest.mark.parametrize("estimator", [xl.LinearClassifier, xl.LinearClassifierCV])
def test_ctrl_c_keeps_the_labels_that_are_done(
    files: Files, numpy_backend: Any, estimator: Any
) -> None:
    own = replace(numpy_backend.backend, free_memory=lambda: 1)  # one label at a time
    settings: dict[str, Any] = {"solver": "lbfgs", "tol": 1e-6, "backend": own}
    if estimator is xl.LinearClassifierCV:
        settings |= {"alphas": [0.1, 0.01], "cv": 2}
    expected = kill.found(estimator(**settings).fit(X, LABELS))
    sizes, told = list[int](), list[Any]()
    clf = estimator(**settings, checkpoint=files.path)
    for count in (8, 9):
        with pytest.raises(KeyboardInterrupt):
            clf.fit(X, LABELS, callbacks=[interrupted(count)])
        sizes.append(files.path.stat().st_size)
        assert not hasattr(clf, "coef_")
    assert sizes[0] < sizes[1]
    assert kill.found(clf.fit(X, LABELS, callbacks=[told.append])) == expected
    whole: list[Any] = []
    estimator(**settings).fit(X, LABELS, callbacks=[whole.append])
    assert len(whole) == 8 + 9 + len(told)


def test_what_is_done_is_not_told_or_scored_again(files: Files, capsys: Any) -> None:
    scored: list[Any] = []

    def by_chance(y: Any, Z: Any) -> float:  # a score that no other call would give
        scored.append(y)
        return float(rng.random())

    settings: dict[str, Any] = {
        "alphas": GRID, "cv": FOLDS, "solver": "lbfgs", "scoring": by_chance, "verbose": 1,
    }  # fmt: skip
    checkpoint = xl.Checkpoint(files.path, every=0.0, keep=True)
    news: list[Any] = []
    clf = xl.LinearClassifierCV(**settings, checkpoint=checkpoint)
    first = clf.fit(X, Y, callbacks=[news.append]).cv_scores_
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), len(scored)) == (4, 12)
    half = files.contents[len(files.contents) // 2]
    files.path.write_bytes(half)
    again: list[Any] = []
    clf.fit(X, Y, callbacks=[again.append])
    assert 0 < len(again) < len(news)
    assert 12 < len(scored) < 24
    scores = clf.cv_scores_  # the others are new chances
    known = 4 - len(capsys.readouterr().out.splitlines())
    assert 0 < known < 4
    assert (scores[:known] == first[:known]).all()
    assert (scores[known:] != first[known:]).all()
    assert [one.done for one in again] == [one.done for one in news[-len(again) :]]
    assert again[0].seconds > 0.8 * news[len(news) - len(again) - 1].seconds
    files.path.write_bytes(files.contents[-1])
    count = len(scored)
    assert kill.found(clf.fit(X, Y)) == kill.found(clf.fit(X, Y))
    assert (len(scored), capsys.readouterr().out) == (count, "")
