"""Solvers: a frozen configuration, a NamedTuple state, ``init`` and ``step``.

The state's fields beyond those of `State` are the solver's own. Nothing here waits for the
device, but for the size of a working set (`proximal_lbfgs` on many features): what a solver
decides, it decides per model on the device; `minimize` reads it.
A new solver is one file plus one line in ``SOLVERS``.
"""

from __future__ import annotations

from xplinear.solvers.gd import GD
from xplinear.solvers.interior_point import InteriorPoint
from xplinear.solvers.lbfgs import LBFGS
from xplinear.solvers.newton import Newton
from xplinear.solvers.newton_cg import NewtonCG
from xplinear.solvers.protocol import Solver, State
from xplinear.solvers.proximal_lbfgs import ProximalLBFGS
from xplinear.solvers.sgd import SGD
from xplinear.solvers.smoothing import Smoothing

__all__ = [
    "GD",
    "LBFGS",
    "SGD",
    "SOLVERS",
    "InteriorPoint",
    "Newton",
    "NewtonCG",
    "ProximalLBFGS",
    "Smoothing",
    "Solver",
    "State",
]

SOLVERS: dict[str, type[Solver]] = {
    "gd": GD,
    "interior_point": InteriorPoint,
    "lbfgs": LBFGS,
    "newton": Newton,
    "newton_cg": NewtonCG,
    "proximal_lbfgs": ProximalLBFGS,
    "sgd": SGD,
    "smoothing": Smoothing,
}
