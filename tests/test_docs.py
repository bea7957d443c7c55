"""The Python code of the documentation runs: the blocks of a page in order, in one namespace.

What a block prints is compared with a ``text`` block that follows it at once, decimals up to one
unit in their last place. A block that names CuPy runs on NumPy where there is no GPU. Files of
the repository that a page shows are ``{ .py .file }`` blocks, and not run.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from typer.testing import CliRunner

from xplinear import bench, cli
from xplinear.backends import BackendError, get_backend
from xplinear.datasets import load

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
DECIMAL = re.compile(r"\d+\.(\d+)")


def agree(expected: str, got: str) -> bool:
    """Whether two texts are the same, apart from white space and the last place of decimals."""
    words = [DECIMAL.sub("#", text).split() for text in (expected, got)]
    pairs = zip(DECIMAL.finditer(expected), DECIMAL.finditer(got), strict=False)
    return words[0] == words[1] and all(
        abs(float(a[0]) - float(b[0])) < 1.5 * 10.0 ** -len(a[1]) for a, b in pairs
    )


def works(backend: str) -> bool:
    try:
        get_backend(backend)
    except BackendError:
        return False
    return True


def run(page: Path, namespace: dict[str, object]) -> None:
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        code, expected = block.groups()
        code = code if works("cupy") else code.replace('"cupy"', '"numpy"')
        for library in ("jax", "torch"):
            if re.search(rf"import {library}\b", code) and find_spec(library) is None:
                pytest.skip(f"needs {library}")
        lines = "\n" * text[: block.start(1)].count("\n")  # errors name the line of the page
        printed = StringIO()
        # One thread: the matrices are small, and pytest-xdist already uses every core.
        with redirect_stdout(printed), threadpool_limits(1):
            exec(compile(lines + code, str(page), "exec"), namespace)
        if expected is not None:
            got = printed.getvalue()
            assert agree(expected, got), f"{page.name} says\n{expected}but its code prints\n{got}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, {})


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digits = load("digits")
    rows = train_test_split(digits.X, digits.y, random_state=0)
    run(ROOT / "README.md", dict(zip(("X", "X_test", "y", "y_test"), rows, strict=True)))


COMMAND = re.compile(
    r"^## (\S+)\n+```bash\n(.*?)\n```\n(.*?)^```json\n(.*?)^```", re.MULTILINE | re.DOTALL
)
ROW = re.compile(r"^\| `(\S+)` \|([^|]*)\|([^|]*)\|", re.MULTILINE)
TIMES = {"s", "1/s", "B/s"}


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a record holds, by keys such as ``machine.cpu`` and ``backends[].name``."""
    if isinstance(value, dict) and not key.endswith("libraries"):
        for name, one in value.items():
            yield from leaves(one, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for one in value:
            yield from leaves(one, f"{key}[]" * bool(key))
    else:
        yield key, value


def type_of(value: Any) -> str:
    kind = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object"}
    if isinstance(value, list):
        return f"list of {type_of(value[0])}".replace("list of list", "list of lists", 1)
    return "null" if value is None else kind[type(value)]


def is_of(value: Any, kinds: str) -> bool:
    """Whether a value is of one of the types, as the page names them."""
    allowed = re.split(r", | or ", re.sub(r"(string|number|integer)s", r"\1", kinds))
    if isinstance(value, list) and (not value or "list" in allowed):
        return "list" in kinds
    return type_of(value) in allowed


def test_json_of_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says of each command is what it prints: keys, types, and the example."""
    monkeypatch.chdir(tmp_path)
    few = [bench.Cell(64, 784, 10, 1)]
    monkeypatch.setattr(cli.bench, "measure", lambda backends, _: bench.measure(backends, 0.1, few))
    page = ROOT / "docs" / "json.md"
    run(page, {})
    documented: dict[str, dict[str, tuple[str, str]]] = {}
    for name, command, text, example in COMMAND.findall(page.read_text(encoding="utf-8")):
        rows = {key: (kinds.strip(), unit.strip()) for key, kinds, unit in ROW.findall(text)}
        if name == "sweep":
            without = {"iterations", "examples_per_second"}
            rows |= {key: row for key, row in documented["train"].items() if key not in without}
        documented[name] = rows
        result = CliRunner().invoke(cli.app, shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
        printed = json.loads(result.stdout)
        for record in (json.loads(example), printed):
            assert {key for key, _ in leaves(record)} == set(rows), name
            wrong = [(key, a) for key, a in leaves(record) if not is_of(a, rows[key][0])]
            assert wrong == [], name
        if name not in ("train", "sweep", "predict", "info"):  # the others tell of the machine
            continue
        for (key, shown), (_, value) in zip(
            leaves(json.loads(example)), leaves(printed), strict=True
        ):
            kinds, unit = rows[key]
            if "number" in kinds and unit not in TIMES:
                numbers = (np.asarray(a, dtype=float) for a in (value, shown))
                np.testing.assert_allclose(*numbers, rtol=1e-3, err_msg=key)
            elif kinds != "object" and unit not in TIMES:
                assert value == shown, key
    commands = cli.app.registered_commands
    assert set(documented) == {one.name or one.callback.__name__ for one in commands}


def test_formulas_of_docstrings_are_tex_on_the_site() -> None:
    pytest.importorskip("latex2mathml")
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert hooks.tex("½‖W‖² + s_ij XᵀX⁻¹") == r"\tfrac{1}{2}\|W\|^{2} + s_{ij} X^{T}X^{-1}"
    html = hooks.on_page_content('<p><span class="arithmatex">\\(a_j &gt; max 0\\)</span></p>')
    assert "<msub><mi>a</mi><mi>j</mi></msub><mo>&#x0003E;</mo><mo>max</mo>" in html
