"""The names users may rely on: a change of this list is a change of the API, and deliberate.

A name that goes or changes its meaning needs a line in CHANGELOG.md.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest

import xplinear

PUBLIC = {
    "xplinear": """
        BackendError Certificate LinearClassifier LinearClassifierCV Objective Params
        available_backends check_gradient get_backend load losses minimize numerical_gradient
        parity penalties scan solvers use_backend
    """,
    "xplinear.backends": """
        BACKENDS PRECISIONS Backend BackendError BackendStatus available_backends backend_of
        chosen_backend get_backend host_reads matmul_precision use_backend
    """,
    "xplinear.certificate": "Certificate certify",
    "xplinear.data": "ArrayData Block Data SparseData Standard StreamedData data_of",
    "xplinear.datasets": "Columns Dataset FORMATS NAMES holdout load",
    "xplinear.gradients": "GradientCheck check_gradient numerical_gradient",
    "xplinear.losses": """
        LOSSES AbsoluteErrorLoss CrammerSingerLoss Loss MulticlassHingeLoss SoftmaxLoss
        SquaredErrorLoss SquaredHingeLoss
    """,
    "xplinear.losses.softmax": "SoftmaxLoss softmax",
    "xplinear.minimize": "Interrupted Progress Result minimize time_left",
    "xplinear.model_selection": "LinearClassifierCV",
    "xplinear.namespace": "Array Namespace accumulator array_namespace device is_array",
    "xplinear.objective": """
        Objective Params class_scores columns loss_and_grads scores weighted_penalty
    """,
    "xplinear.parity": "TOLERANCES WEIGHT_TOLERANCES Comparison compare random_objective",
    "xplinear.penalties": "PENALTIES ElasticNetPenalty L1Penalty L2Penalty NoPenalty Penalty",
    "xplinear.persist": "content_of load save",
    "xplinear.plot": """
        ClassTemplatesDisplay CoefficientPathDisplay GradientCheckDisplay LossCurveDisplay
        ThroughputDisplay ValidationCurveDisplay
    """,
    "xplinear.solvers": """
        GD LBFGS SGD SOLVERS InteriorPoint Newton NewtonCG ProximalLBFGS Smoothing Solver State
    """,
    "xplinear.solvers.protocol": "Solver State select take_models",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_names_are_those_listed(module: str) -> None:
    found = import_module(module)
    names = PUBLIC[module].split()
    assert sorted(found.__all__) == sorted(names)
    assert [name for name in names if not hasattr(found, name)] == []


def test_every_file_says_what_is_public() -> None:
    package = Path(xplinear.__file__).parent
    silent = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "\n__all__ = [" not in path.read_text(encoding="utf-8")
    ]
    assert silent == []


@pytest.mark.parametrize("name", ["py.typed", "backends/cupy.cu"])
def test_what_is_no_python_is_installed_too(name: str) -> None:
    assert files("xplinear").joinpath(name).is_file()


def test_every_module_is_there_without_an_import_of_its_own() -> None:
    script = """
import sys, xplinear
modules = sys.argv[1:]
print(*(name for name in modules if name not in dir(xplinear)))
print(*(name for name in modules if f"xplinear.{name}" not in sys.modules))
print(*(name for name in modules if not hasattr(xplinear, name)))
print(hasattr(xplinear, "nonsense"))
sys.modules["matplotlib.pyplot"] = None  # not installed
del sys.modules["xplinear.plot"], xplinear.plot
help(xplinear)
print(hasattr(xplinear, "plot"))
xplinear.plot
"""
    names = [module.name for module in pkgutil.iter_modules(xplinear.__path__)]
    names.remove("__main__")
    run = subprocess.run(
        [sys.executable, "-c", script, *names], capture_output=True, text=True, check=False
    )
    hidden, on_demand, lacking, nonsense, *_, plot = run.stdout.splitlines()
    assert (hidden, lacking, nonsense, plot) == ("", "", "False", "False")
    assert {"bench", "cli", "datasets", "plot"} <= set(on_demand.split())
    assert "AttributeError: pictures need matplotlib: pip install 'xplinear[plot]'" in run.stderr
