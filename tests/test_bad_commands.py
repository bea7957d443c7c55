"""Bad values for every parameter of every command, by its type and name: each ends in its error.

A parameter that is not in the table fails `test_every_parameter_is_tried`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.main import get_command
from typer.testing import CliRunner

from xplinear import LinearClassifier, cli
from xplinear.datasets import FORMATS

COMMANDS = get_command(cli.app).commands
NO_INTEGERS = ("x", "", "1.5", "1e3", "nan", "0x10")
NO_NUMBERS = ("x", "", "0x10", "1e")
NO_NAMES = ("nonsense", "", "None", "ü,")
NO_MODELS = ("absent.safetensors", "absent/m", ".", "noise.safetensors", "empty", "other", "ok.npz")
NO_DATA = (
    *("digit", "", "absent.csv", "absent/a.csv", "noise", "sub", "noise.csv.zip", "~", "http://a/b.csv"),
    *(f"{kind}{ending}" for kind in ("noise", "empty") for ending in FORMATS),
    *("header.csv", "ragged.csv", "single.csv", "utf16.csv", "sub.csv"),
)  # fmt: skip
NO_PLACES = ("absent/m.safetensors", "sub", "m.pkl", "m", "m.", "", "m.safetensors.gz", ".")
NO_PICTURES = ("absent/m.png", "sub", "m.pkl", "m", "m.safetensors", "")
FLAG = ("maybe", "2", "")

# What is wrong for each parameter, and what must be given beside it for it to count.
BAD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "accelerate": (FLAG, ()),
    "alpha": ((*NO_NUMBERS, "-1", "nan", "inf", "-inf"), ()),
    "alphas": ((*NO_NUMBERS, "1;2", "-1,1", "0,1", "nan,1", "inf,1", "1,,2", "0", "-3"), ()),
    "as_json": (FLAG, ()),
    "alpha_per_label": (FLAG, ()),
    "backend": (("nonsense", "None", "numpy:7", "torch:tpu", "numpy,torch"), ()),
    "backends": ((*NO_NAMES, "numpy,matlab", "numpy;torch", "numpy:7"), ()),
    "batch_size": ((*NO_INTEGERS, "0", "-1"), ("--solver=sgd",)),
    "C": ((*NO_NUMBERS, "0", "-1", "nan"), ()),
    "Cs": ((*NO_NUMBERS, "1;2", "-1,1", "0,1", "nan,1", "inf,1", "1,,2", "0", "-3"), ()),
    "cv": ((*NO_INTEGERS, "0", "1", "-5"), ()),
    "data": (NO_DATA, ()),
    "dtype": ((*NO_NAMES, "float16", "int64", "float"), ()),
    "dtypes": ((*NO_NAMES, "float16", "float32;float64"), ()),
    "early_stopping": (FLAG, ()),
    "format_": ((*NO_NAMES, "xls", "csv.zip", "*"), ()),
    "impute": (FLAG, ()),
    "l1_ratio": ((*NO_NUMBERS, "-0.1", "1.1", "nan", "inf"), ("--penalty=elastic_net",)),
    "learning_rate": ((*NO_NUMBERS, "-1", "0", "nan", "inf", "Auto"), ("--solver=sgd",)),
    "learning_rates": ((*NO_NUMBERS, "-1,1", "0", "nan", "auto"), ("--solver=sgd",)),
    "loss": ((*NO_NAMES, "hinge", "log_loss"), ()),
    "losses": ((*NO_NAMES, "softmax,hinge", "softmax softmax"), ()),
    "max_iter": ((*NO_INTEGERS, "0", "-1"), ()),
    "model": (NO_MODELS, ()),
    "multi_class": ((*NO_NAMES, "ovr", "multinomial"), ()),
    "one_se": (FLAG, ()),
    "checkpoint": (("absent/run.ckpt", "sub", "", "."), ()),
    "out": (NO_PLACES, ()),
    "penalties": ((*NO_NAMES, "l1,l3"), ()),
    "penalty": ((*NO_NAMES, "l3", "L2"), ()),
    "plot": (NO_PICTURES, ()),
    "precision": ((*NO_NAMES, "float64", "TF32"), ()),
    "proba": (FLAG, ()),
    "scoring": ((*NO_NAMES, "auc", "f1"), ()),
    "seconds": ((*NO_NUMBERS, "0", "-1", "nan", "inf"), ()),
    "seed": ((*NO_INTEGERS, "-1", "1e9"), ()),
    "solver": ((*NO_NAMES, "adam", "LBFGS"), ()),
    "standardize": (FLAG, ()),
    "target": (("nonsense", "", "9", "a,b", "A"), ()),
    "test_fraction": ((*NO_NUMBERS, "1", "2", "-0.1", "nan", "inf", "1e-9", "0.999"), ()),
    "tol": ((*NO_NUMBERS, "-1", "nan", "inf"), ()),
    "warm": (FLAG, ()),
}
# Bad in one command alone.
ALSO = {("train", "seed"): ("4294967296",), ("train", "data"): ("one.csv", "same.csv")}


def tried():
    for name, command in COMMANDS.items():
        for parameter in command.params:
            values, beside = BAD.get(parameter.name, ((), ()))
            for value in (*values, *ALSO.get((name, parameter.name), ())):
                yield name, parameter, value, beside


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    rng = np.random.default_rng(0)
    rows, kinds = rng.normal(size=(40, 2)), np.arange(40) % 2
    np.savez(folder / "ok.npz", X=rows, y=kinds)
    np.savetxt(
        folder / "ok.csv", np.column_stack([rows, kinds]), "%g", ",", header="a,b,kind", comments=""
    )
    LinearClassifier().fit(rows, kinds).save(folder / "ok.safetensors")
    save_file({"a": rows}, folder / "other")
    (folder / "sub.csv").mkdir()
    (folder / "sub").mkdir()
    for ending in ("", *FORMATS, ".safetensors", ".csv.zip"):
        (folder / f"noise{ending}").write_bytes(b"\x93\xff\x00 nonsense \xfe\n" * 9)
        (folder / f"empty{ending}").write_bytes(b"")
    (folder / "one.csv").write_text("a,b,kind\n1,2,0\n")
    (folder / "single.csv").write_text("a\n1\n2\n")
    (folder / "header.csv").write_text("a,b,kind\n")
    (folder / "ragged.csv").write_text("a,b,kind\n1,2,0\n1,2\n")
    (folder / "same.csv").write_text("a,a,kind\n1,2,0\n1,2,1\n")
    (folder / "utf16.csv").write_text("a,b,kind\n1,2,0\n", encoding="utf-16")
    return folder


def arguments_of(command: str, parameter: Any, value: str, beside: tuple[str, ...]) -> list[str]:
    """Return a command that is right but for one value."""
    good = {"data": "ok.csv" if parameter.name == "target" else "ok.npz", "model": "ok.safetensors"}
    given = [
        value if one.name == parameter.name else good[one.name]
        for one in COMMANDS[command].params
        if one.param_type_name == "argument"
    ]
    option = [f"{parameter.opts[-1]}={value}"] if parameter.param_type_name == "option" else []
    quick = {"train": ["--max-iter=3"], "sweep": ["--max-iter=3"], "bench": ["--seconds=1"]}
    rest = [one for one in quick.get(command, []) if one.partition("=")[0] != parameter.opts[-1]]
    return [command, *given, *rest, *beside, *option]


def says(message: str, parameter: Any, value: str) -> bool:
    """Whether the message names the parameter, or the file that an argument named."""
    if parameter.param_type_name == "option":
        return parameter.opts[-1] in message or parameter.opts[-1].strip("-") in message
    return value.rpartition("/")[2] in message


def test_each_is_refused_by_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    table: Counter[str] = Counter()
    wrong: list[str] = []
    for command, parameter, value, beside in tried():
        if value == "" and parameter.name in {"data", "model"}:
            continue  # an argument that is empty is not named by its value
        arguments = arguments_of(command, parameter, value, beside)
        result = CliRunner().invoke(cli.app, arguments)
        raw = result.exception is not None and not isinstance(result.exception, SystemExit)
        outcome = "raw" if raw else "accepted" if result.exit_code != 2 else "unnamed"
        if outcome == "unnamed" and says(result.stderr, parameter, value):
            outcome = "named"
        else:
            said = f"{result.exception or ''} {result.stderr[:300]}"
            wrong.append(f"{outcome}: {' '.join(arguments)!r}: {said}")
        table[f"{command}: {outcome}"] += 1
    assert not wrong, "\n".join([str(dict(table)), *wrong])
    assert table.total() > 500
    assert sorted(folder.iterdir()) == before  # nothing was written


def test_every_parameter_is_tried():
    known = {parameter.name for command in COMMANDS.values() for parameter in command.params}
    assert known == set(BAD)


def test_what_is_missing_and_what_is_too_much():
    for name, command in COMMANDS.items():
        needed = [one for one in command.params if one.param_type_name == "argument"]
        if needed:
            assert "Missing argument" in CliRunner().invoke(cli.app, [name]).stderr
        given = ["x"] * (len(needed) + 1)
        result = CliRunner().invoke(cli.app, [name, *given])
        assert result.exit_code == 2
        assert "unexpected extra argument" in result.stderr
        result = CliRunner().invoke(cli.app, [name, "--speed=9"])
        assert result.exit_code == 2
        assert "No such option: --speed" in result.stderr
    assert "No such command 'fit'" in CliRunner().invoke(cli.app, ["fit"]).stderr
