"""The names users may rely on: a change of this list is a change of the API, and deliberate.

A name that goes or changes its meaning needs a line in CHANGELOG.md.
"""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest

import xplinear

PUBLIC = {
    "xplinear": """
        BackendError Certificate LinearClassifier LinearClassifierCV Objective Params
        available_backends check_gradient get_backend load losses minimize numerical_gradient
        parity penalties solvers use_backend
    """,
    "xplinear.backends": """
        BACKENDS PRECISIONS Backend BackendError BackendStatus available_backends backend_of
        chosen_backend get_backend host_reads matmul_precision use_backend
    """,
    "xplinear.certificate": "Certificate certify",
    "xplinear.data": "ArrayData Block Data Standard StreamedData data_of",
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
        GD LBFGS SGD SOLVERS InteriorPoint Newton ProximalLBFGS Smoothing Solver State
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
