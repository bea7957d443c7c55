"""The Python code of the documentation runs: the blocks of a page in order, in one namespace.

What a block prints is compared with a ``text`` block that follows it at once, decimals up to one
unit in their last place. A block that names CuPy runs on NumPy where there is no GPU. Files of
the repository that a page shows are ``{ .py .file }`` blocks, and not run.
"""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

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
