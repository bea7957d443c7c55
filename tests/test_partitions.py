"""Rows on the workers of a cluster give what they give in this process, whatever happens there."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

import xplinear as xl
from xplinear.backends import get_backend
from xplinear.data import ArrayData, SparseData
from xplinear.data.dask import DaskData, Partitions, added
from xplinear.losses import SoftmaxLoss
from xplinear.penalties import L2Penalty
from xplinear.solvers.automatic import automatic_solver, cheap_optimum

NUMPY = get_backend("numpy")
SIZES, P, K = (40, 0, 70, 1, 55, 90, 64), 5, 3
N, ENDS = sum(SIZES), np.cumsum(SIZES)
rng = np.random.default_rng(0)
X = rng.standard_normal((N, P)) + np.asarray([0.0, 0.0, 0.0, 0.0, 3.0])
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
    "newton_cg": xl.solvers.NewtonCG(tol=1e-4),
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
    if name in ("lbfgs", "newton"):
        F = array((0.1, 0.01, 1e-3), standard=standard, **weights)
        expected = xl.minimize(F, SOLVERS[name])
        np.testing.assert_allclose(there.params.W, expected.params.W, atol=1e-8)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_sums_do_not_depend_on_who_has_what(workers):
    count, numbers = len(workers), np.random.default_rng(0).standard_normal(len(workers))
    nodes = {(0, i): (number,) for i, number in enumerate(numbers)}
    own = [
        added({key: one for key, one in nodes.items() if workers[key[1]] == worker}, count)
        for worker in range(4)
    ]
    expected = added(nodes, count)
    assert list(expected) == [((count - 1).bit_length(), 0)]
    assert added({key: one for part in own for key, one in part.items()}, count) == expected
    ((total,),) = expected.values()
    np.testing.assert_allclose(total, numbers.sum(), atol=1e-12)


class Kills:
    """A callback: SIGKILL to a worker after some iterations, while the next ones run."""

    def __init__(self, client, at):
        self.client, self.at = client, at
        self.pids = list(client.run(os.getpid).values())

    def __call__(self, progress):
        if progress.iteration == self.at:
            threading.Timer(0.005, os.kill, (self.pids[0], signal.SIGKILL)).start()


@pytest.mark.parametrize("kind", [np.array], ids=["dense"], indirect=True)
@pytest.mark.parametrize("name", ["lbfgs", "sgd"])
def test_a_worker_killed_in_the_middle_changes_no_bit(partitions, here, name):
    kills = Kills(partitions.client, at=2)
    found = xl.minimize(objective(partitions), SOLVERS[name], callbacks=[kills])
    expected = xl.minimize(objective(here), SOLVERS[name])
    np.testing.assert_array_equal(found.params.W, expected.params.W)
    assert kills.pids != list(partitions.client.run(os.getpid).values())


ROUNDS = {  # of an iteration, beside those before the first
    "lbfgs": (xl.solvers.LBFGS(max_iter=5, tol=0.0, gram=False), 1, 2),
    "sgd": (xl.solvers.SGD(max_iter=5), 1, 2),
    "newton": (xl.solvers.Newton(max_iter=5, tol=0.0), 1, 2),
}


def test_rounds_of_tasks(here):
    for solver, each, first in ROUNDS.values():
        before = here.rounds
        result = xl.minimize(objective(here), solver)
        assert here.rounds - before <= each * result.n_iter + first


def test_rows_do_not_move_and_labels_go_once(partitions):
    data = objective(partitions, s=S, models=np.asarray([0])).data
    other = data.with_weights(S[:, :1])
    assert other.take(np.asarray([0])).rows is data.rows
    assert other.labels is data.labels
    assert data.take(np.asarray([0])).weighing is data.weighing
    assert other.weighing is not data.weighing
    F, params = objective(partitions), xl.Params(np.zeros((P, 1, K)), np.zeros((1, K)))
    F.value(params)
    sent = partitions.sent
    F.value(params)
    assert partitions.sent - sent < 2 * 4096  # for each of two workers
    copies = sum(len(at) for at in partitions.client.who_has(partitions.chunks).values())
    assert copies == len(partitions.chunks)


def test_some_partitions(partitions):
    shapes = partitions.each(np.shape, [(chunk,) for chunk in partitions.chunks[1:3]])
    assert shapes == [(70, P), (1, P)]


@dataclass(frozen=True)
class Failing(SoftmaxLoss):
    """Fails, kills its worker or takes long, where it meets the partition of one row."""

    how: str = "fails"

    def value_and_grad(self, Z, y, *, xp=None):
        if len(y) == 1 and self.how == "fails":
            msg = "one row is too few"
            raise ArithmeticError(msg)
        if len(y) == 1 and self.how == "dies":
            os._exit(1)
        if self.how == "waits":
            time.sleep(0.3)
        return super().value_and_grad(Z, y, xp=xp)


@pytest.mark.parametrize("kind", [np.array], ids=["dense"], indirect=True)
def test_an_error_on_a_worker_names_the_partition(partitions):
    F = objective(partitions, Failing("fails"))
    with pytest.raises(ArithmeticError, match="one row is too few") as caught:
        F.value(F.zeros())
    assert "in partition 3 of X" in caught.value.__notes__[0]


@pytest.mark.parametrize("kind", [np.array], ids=["dense"], indirect=True)
def test_workers_that_die_again_and_again(partitions, monkeypatch):
    F = objective(partitions, Failing("dies"))
    monkeypatch.setattr(partitions.client.cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(RuntimeError, match=r"make its chunks smaller, as X\.rechunk"):
        F.value(F.zeros())


@pytest.mark.parametrize("kind", [np.array], ids=["dense"], indirect=True)
@pytest.mark.parametrize("when", ["they run", "they are sent"])
def test_ctrl_c_calls_the_tasks_off(partitions, monkeypatch, when):
    F, client = objective(partitions, Failing("waits")), partitions.client
    before, submit, sent = set(client.cluster.scheduler.tasks), client.submit, []

    def interrupted(function, *args, **settings):
        if sent:
            raise KeyboardInterrupt
        sent.append(submit(function, *args, **settings))
        return sent.pop() if function.__name__ != "_some" else sent[0]

    if when == "they run":
        threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()
    else:
        monkeypatch.setattr(client, "submit", interrupted)
        groups = [[i] for i in range(len(partitions.chunks))]  # even if all lie on one worker
        monkeypatch.setattr(partitions, "_groups", lambda: groups)
    with pytest.raises(KeyboardInterrupt) as caught:
        F.value(F.zeros())
    monkeypatch.undo()
    assert all(future.cancelled() for future in sent)
    end = time.monotonic() + 60.0
    while any(str(key).startswith("_some") for key in set(client.cluster.scheduler.tasks) - before):
        assert time.monotonic() < end, (caught, sent)  # which hold frames and tasks
        time.sleep(0.05)
    assert np.isfinite(objective(partitions).value(F.zeros())).all()


@pytest.mark.parametrize("kind", [np.array], ids=["dense"], indirect=True)
def test_what_cannot_be_pickled(partitions):
    loss = SoftmaxLoss()
    object.__setattr__(loss, "lock", threading.Lock())
    F = objective(partitions, loss)
    with pytest.raises(TypeError, match=r"goes to the workers, and part of it cannot be pickled"):
        F.value(F.zeros())


def test_a_closed_client(dask_client):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(dask_client.cluster, set_as_default=False) as client:
        rows = Partitions(client.map(made, [0, 2], kind=np.array, pure=False), client)
        data = DaskData(rows, Y[:110], backend=NUMPY)
        F = xl.Objective(SoftmaxLoss(), L2Penalty(), np.ones(1), data, k=K)
    with pytest.raises(RuntimeError, match="the Dask client that holds X is closed"):
        F.value(F.zeros())


def test_what_stands_in_rows_that_do_not_count(kind):
    counted = np.flatnonzero(np.arange(N) % 7)
    poisoned = np.where(np.arange(N)[:, None] % 7 == 0, 1e300 * (X > 0), X)
    rows = Partitions([kind(part) for part in np.split(poisoned, ENDS[:-1])])
    s = np.zeros((N, 1))
    s[counted] = 1.0
    W = rng.standard_normal((P, 1, K))
    loss, params = xl.losses.SquaredHingeLoss(), xl.Params(W, np.zeros((1, K)))
    found = objective(rows.counted(counted), loss, s=s).value_and_grad(params)
    there = ArrayData(X[counted], Y[counted], backend=NUMPY)
    F = xl.Objective(loss, L2Penalty(), np.asarray([1e-3]), there, k=K)
    expected = F.value_and_grad(params)
    np.testing.assert_allclose(found[0], expected[0])
    np.testing.assert_allclose(found[1].W, expected[1].W)
    calm = Partitions([kind(part) for part in np.split(X, ENDS[:-1])])
    assert calm.counted(counted) is calm


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_partitions_on_a_gpu_take_its_kernels(emulated, monkeypatch, solver):
    """And answer in NumPy: by a backend that NumPy's arrays stand in for those of."""
    gpu, used = emulated.select(""), []

    def counting(key, kernel):
        def call(*args, **settings):
            used.append(key[1])
            return kernel(*args, **settings)

        return call

    kernels = {key: counting(key, kernel) for key, kernel in gpu.kernels.items()}
    chunks = np.split(X, ENDS[:-1])
    expected = xl.minimize(objective(Partitions(chunks)), SOLVERS[solver])
    own = replace(gpu, kernels=kernels)
    monkeypatch.setattr("xplinear.data.dask.backend_of", lambda chunk: own)
    there = Partitions([own.asarray(chunk) for chunk in chunks])
    F = objective(there, NUMPY.accelerated(SoftmaxLoss()))
    found = xl.minimize(F, SOLVERS[solver])
    np.testing.assert_allclose(found.params.W, expected.params.W, atol=1e-8)
    assert {"lbfgs": "loss_and_grad", "sgd": "sgd"}[solver] in used


def test_the_backend_is_that_of_the_partitions(here):
    strict = replace(NUMPY, name="torch")
    with pytest.raises(ValueError, match="backend must be 'numpy', or be left out"):
        DaskData(here, Y, backend=strict)


def test_an_asynchronous_client(dask_client, partitions, monkeypatch):
    monkeypatch.setattr(type(dask_client), "asynchronous", True)
    with pytest.raises(RuntimeError, match="the Dask client is asynchronous"):
        objective(partitions).value(xl.Params(np.zeros((P, 1, K)), np.zeros((1, K))))


def test_sparse_partitions_can_be_moved_and_spilled(kind):
    rows = Partitions([kind(part) for part in np.split(X, ENDS[:-1])])
    far = xl.data.rows.FarStandard(X.mean(axis=0), 1.0 / X.std(axis=0))
    F, params = objective(rows, standard=far), xl.Params(np.ones((P, 1, K)), np.zeros((1, K)))
    value, grads = F.value_and_grad(params)
    F.data.rows.parts[:] = [pickle.loads(pickle.dumps(part)) for part in F.data.rows.parts]
    again, slopes = F.value_and_grad(params)
    np.testing.assert_array_equal(value, again)
    np.testing.assert_array_equal(grads.W, slopes.W)


class Huge(DaskData):
    entries = 10**12


def test_auto_leaves_to_all_machines_what_they_can_do_at_once(here, monkeypatch):
    """Passes, not epochs; no scores that would travel in each, and no rows that would move."""
    F, own = objective(here), array()
    assert cheap_optimum(replace(F, data=Huge(here, Y, backend=NUMPY)))
    hinge = xl.losses.MulticlassHingeLoss()
    found = [automatic_solver(replace(G, loss=hinge)) for G in (F, own)]
    assert found == ["smoothing", "interior_point"]
    monkeypatch.setattr("xplinear.solvers.newton_cg.LARGEST_GRAM", P - 1)
    there = SparseData(NUMPY.sparse(csr_array(X)), Y, backend=NUMPY)
    assert SOLVERS["newton_cg"].pays(replace(own, data=there))
    assert not SOLVERS["newton_cg"].pays(F)
