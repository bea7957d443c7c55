"""``--checkpoint``: a command that was cut short goes on, and says from where."""

from __future__ import annotations

import json
import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import xplinear as xl
from xplinear import cli

TRAIN = "train", "digits", "--solver=lbfgs", "--tol=1e-6", "--alpha=1e-4"
SWEEP = "sweep", "digits", "--solver=lbfgs", "--alphas=1,0.1,0.01", "--cv=2"


def run(*arguments: Any, expect: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == expect, result.output
    return result


@pytest.fixture
def pressed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let Ctrl-C come at so manieth news of a command."""

    def at(count: int) -> None:
        @contextmanager
        def progress_bar() -> Any:
            news: list[Any] = []

            def show(progress: Any) -> None:
                news.append(progress)
                if len(news) == count:
                    raise KeyboardInterrupt

            yield show

        monkeypatch.setattr(cli.fitting, "progress_bar", progress_bar)

    return at


@pytest.mark.parametrize("command", [TRAIN, SWEEP], ids=["train", "sweep"])
def test_ctrl_c_says_how_to_go_on(
    command: Any, pressed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run(*command, "--out=whole.safetensors")
    more = "--checkpoint=a run.ckpt", "--out=m.safetensors"
    pressed(20)
    result = run(*command, *more, expect=130)
    said = "interrupted: what is done is in a run.ckpt; to go on from there: "
    assert result.stderr.startswith(said)
    again = shlex.split(result.stderr.removeprefix(said))
    assert again[:3] == ["xplinear", *command[:2]]
    assert len(again) == 1 + len(command) + len(more)
    assert set(more) < set(again)
    pressed(10)
    assert "found a run.ckpt, to go on from: " in run(*again[1:], expect=130).stderr
    pressed(0)
    result = run(*again[1:])
    iteration = "iteration 30, " if command is TRAIN else " run"
    assert iteration in result.stderr.partition("found a run.ckpt, to go on from: ")[2]
    assert {path.name for path in tmp_path.iterdir()} == {"whole.safetensors", "m.safetensors"}
    whole, model = xl.load("whole.safetensors"), xl.load("m.safetensors")
    np.testing.assert_array_equal(model.coef_, whole.coef_)
    assert model.n_iter_ == whole.n_iter_


def test_what_is_not_written_is_not_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    file, model = tmp_path / "run.ckpt", tmp_path / "m.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(cli.fitting, "save", pressed)
        run(*TRAIN, "--checkpoint", file, "--out", model, expect=130)
    assert [path.name for path in tmp_path.iterdir()] == ["run.ckpt"]
    monkeypatch.setattr("xplinear.estimator.solve.minimize", pressed)  # it is not called again
    run(*TRAIN, "--checkpoint", file, "--out", model)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_the_file_says_what_it_is(pressed: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.ckpt"
    pressed(25)
    run(*TRAIN, "--checkpoint", file, expect=130)
    table = run("info", file).stdout
    assert "LinearClassifier" in table
    assert "iteration 25" in table
    record = json.loads(run("info", file, "--json").stdout)
    assert (record["done"], record["iteration"]) == (0, 25)
    assert record["seconds"] > 0.0
    assert "SoftmaxLoss" in record["told"]["loss"]
    assert record["libraries"]["xplinear"] == xl.__version__
    file.write_bytes(file.read_bytes()[:-9])
    assert "damaged" in run("info", file, expect=2).stderr


def test_errors(pressed: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.ckpt"
    pressed(5)
    run(*TRAIN, "--checkpoint", file, expect=130)
    content = file.read_bytes()
    pressed(0)
    for other, what in (
        ((*TRAIN, "--seed=1"), "random_state was 0, and is 1"),
        ((*TRAIN[:-1], "--alpha=1e-3"), "is of another fit: alpha was 0.0001, and is 0.001"),
        (SWEEP, "is of another fit"),
        ((*TRAIN, "--test-fraction=0.3"), "is of another fit: X was (1347, 64) float64"),
    ):
        stderr = run(*other, "--checkpoint", file, expect=2).stderr
        assert what in stderr.splitlines()[-1]
        assert file.read_bytes() == content
    missing = tmp_path / "missing" / "run.ckpt"
    assert "--checkpoint: no directory" in run(*TRAIN, "--checkpoint", missing, expect=2).stderr
