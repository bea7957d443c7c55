"""What MkDocs does besides: formulas become MathML and the gallery is drawn, as the site is built.

Pictures of ``benchmarks/results`` are among its files.

So the site needs no script and loads nothing from elsewhere. Formulas stand between dollars, in
TeX or in the Unicode of docstrings, which `help()` shows as they are: ``$½‖W‖²$``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from html import unescape
from itertools import groupby
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PICTURES = {
    "gallery": ROOT / "examples" / "output" / "gallery",
    "results": ROOT / "benchmarks" / "results",
}
ARITHMATEX = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
WORD = re.compile(
    r"(?<![\\{a-zA-Z])(argmin|batch|diag|exp|log|max|min|prox|sign|soft|step|sup|var)(?![a-zA-Z])"
)
SIGNS = {
    "Σ": r"\sum ",
    "½": r"\tfrac{1}{2}",
    "‖": r"\|",
    "√": r"\surd ",
    "∂": r"\partial ",
    "−": "-",
    "·": r"\cdot ",
    "⊗": r"\otimes ",
    "⊙": r"\odot ",
    "←": r"\leftarrow ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "∇": r"\nabla ",
    "…": r"\dots ",
}


def tex(formula: str) -> str:
    """Return a formula that may be written in Unicode as TeX."""
    formula = re.sub(r"_([a-zA-Z]{2,})", r"_{\1}", formula)
    formula = WORD.sub(lambda word: rf"\operatorname{{{word[0]}}}", formula)
    parts: list[str] = []
    for kind, run in groupby(formula, raised):
        signs = "".join(run)
        if kind in ("^", "_"):
            parts.append(f"{kind}{{{unicodedata.normalize('NFKC', signs).replace('−', '-')}}}")
        else:
            parts += [SIGNS.get(sign, sign) for sign in signs]
    return "".join(parts)


def raised(sign: str) -> str:
    """Return "^" of a superscript, "_" of a subscript, else nothing."""
    kind = unicodedata.decomposition(sign).partition(" ")[0]
    return {"<super>": "^", "<sub>": "_"}.get(kind, "")


def on_page_content(html: str, **_: Any) -> str:
    """Make MathML of the formulas of a page."""

    def mathml(found: re.Match[str]) -> str:
        display = "inline" if found[1] == "span" else "block"
        return convert(tex(unescape(found[2])), display=display)

    return ARITHMATEX.sub(mathml, html)


def on_startup(**_: Any) -> None:
    """Draw the gallery; ``mkdocs serve`` draws it once."""
    subprocess.run([sys.executable, "examples/08_gallery.py"], cwd=ROOT, check=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put pictures where pages look for them."""
    for place, folder in PICTURES.items():
        for path in sorted(folder.glob("*.png")):
            files.append(File.generated(config, f"{place}/{path.name}", abs_src_path=str(path)))
    return files
