"""Rows on the workers of a cluster give what they give in this process, whatever happens there."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.sparse import csr_array

import xplinear as xl
from xplinear.backends import get_backend
from xplinear.data import ArrayData
from xplinear.data.dask import DaskData, Partitions
from xplinear.losses import SoftmaxLoss
from xplinear.penalties import L2Penalty

NUMPY = get_backend("numpy")
SIZES, P, K = (40, 0, 70, 1, 55, 90, 64), 5, 3
N, ENDS = sum(SIZES), np.cumsum(SIZES)
rng = np.random.default_rng(0)
X = rng.standard_normal((N, P)) + [0.0, 0.0, 0.0, 0.0, 3.0]
Y = np.argmax(X[:, :K] + rng.gumbel(size=(N, K)), axis=1).astype(np.int8)
S = rng.integers(0, 4, (N, 2)).astype(float)


def made(i, kind):
    """On a worker, again if it must be."""
    time.sleep(0.01)
    return kind(np.split(X, ENDS[:-1])[i])


@pytest.fixture(params=[np.array, csr_array], ids=["dense", "sparse"])
def kind(request):
    return request.param


@pytest.fixture
def partitions(dask_client, kind):
    chunks = dask_client.map(made, range(len(SIZES)), kind=kind, pure=False)
    return Partitions(chunks, dask_client)


@pytest.fixture
def here(kind):
    return Partitions([made(i, kind) for i in range(len(SIZES))])


def objective(rows, loss=None, alpha=(1e-3,), **settings):
    data = DaskData(rows, Y, backend=NUMPY, **settings)
    return xl.Objective(loss or SoftmaxLoss(), L2Penalty(), np.asarray(alpha), data, k=K)


def array(alpha=(1e-3,), **settings):
    data = ArrayData(X, Y, backend=NUMPY, **settings)
    return xl.Objective(SoftmaxLoss(), L2Penalty(), np.asarray(alpha), data, k=K)


SOLVERS = {
    "lbfgs": xl.solvers.LBFGS(tol=1e-9),
    "newton": xl.solvers.Newton(tol=1e-9),
    "newton_cg": xl.solvers.NewtonCG(tol=1e-9),
    "sgd": xl.solvers.SGD(max_iter=4, batch_size=16),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_cluster_gives_the_bits_of_one_process(partitions, here, name):
    weights = {"s": S, "models": np.asarray([0, 1, 1])}
    standard = xl.data.Standard(X.mean(axis=0), 1.0 / X.std(axis=0))
    there, own = (
        xl.minimize(
            objective(rows, alpha=(0.1, 0.01, 1e-3), standard=standard, **weights), SOLVERS[name]
        )
        for rows in (partitions, here)
    )
    np.testing.assert_array_equal(there.params.W, own.params.W)
    assert there.n_iter == own.n_iter
    if name != "sgd":
        F = array((0.1, 0.01, 1e-3), standard=standard, **weights)
        expected = xl.minimize(F, SOLVERS[name])
        np.testing.assert_allclose(there.params.W, expected.params.W, atol=1e-8)
