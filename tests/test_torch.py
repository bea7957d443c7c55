"""The fold by CUDA graphs, on the CPU: repeated instead of recorded, and on fake CUDA tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

from xplinear.backends import get_backend
from xplinear.backends.epoch import Epoch, Shared, Update
from xplinear.data import ArrayData
from xplinear.losses import LOSSES
from xplinear.objective import Objective
from xplinear.penalties import PENALTIES, L2Penalty
from xplinear.solvers import SGD

torch = pytest.importorskip("torch")

from xplinear.backends import torch as ours  # noqa: E402 - it imports torch

N, P, K, SIZE = 330, 5, 3, 4  # the last batch is incomplete


def objective(backend: Any, loss: Any, penalty: Any, dtype: str, *, weights: bool) -> Objective:
    rng = np.random.default_rng(0)
    s = backend.asarray(rng.uniform(0.5, 1.5, (N, 2)), getattr(torch, dtype)) if weights else None
    data = ArrayData(
        backend.asarray(rng.integers(0, 256, (N, P)).astype(np.uint8)),
        backend.asarray(rng.integers(0, K, N).astype(np.int32)),
        s,
        getattr(torch, dtype),
        None if s is None else backend.asarray(np.asarray([1, 0, 1])),
        backend=backend,
    )
    alpha = torch.asarray([1e-3, 1e-2, 0.1], dtype=getattr(torch, dtype))
    return Objective(loss, penalty, alpha, data, k=K)


def states(fold: Callable[..., Any], solver: SGD, *args: Any, **settings: Any) -> list[Any]:
    """Return the states of three epochs folded that way."""
    F = objective(replace(get_backend("torch"), fold=fold), *args, **settings)
    found = [solver.init(F, F.zeros())]
    for _ in range(3):
        found.append(solver.step(F, found[-1]))
    return found


@pytest.mark.parametrize("penalty", PENALTIES.values())
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_a_repeated_step_gives_what_the_plain_fold_gives(penalty, dtype, weights, average):
    captures = 0

    def capture(step):
        nonlocal captures
        captures += 1
        return step

    solver = SGD(max_iter=3, batch_size=SIZE, average=average, nesterov=weights)
    args = solver, LOSSES["softmax"](), penalty(), dtype
    plain = states(get_backend("torch").fold, *args, weights=weights)
    graph = states(partial(ours._fold_by, capture), *args, weights=weights)
    assert captures == 3
    rtol = 1e-12 if dtype == "float64" else 1e-5
    for a, b in zip(plain, graph, strict=True):
        for before, after in zip(ours._tensors(a), ours._tensors(b), strict=True):
            assert before.dtype == after.dtype
            assert before.stride() == after.stride()
            torch.testing.assert_close(after, before, rtol=rtol, atol=rtol, equal_nan=True)


@pytest.mark.cuda
def test_a_captured_step_gives_what_the_plain_fold_gives(dtype):
    backend = get_backend("torch:cuda")
    loss, solver = LOSSES["softmax"](), SGD(max_iter=3, batch_size=SIZE)
    F = objective(backend, loss, L2Penalty(), dtype, weights=True)
    F = replace(F, alpha=backend.move(F.alpha))
    G = replace(F, data=replace(F.data, backend=backend.reference()))
    plain = graph = solver.init(F, F.zeros())
    rtol = 1e-12 if dtype == "float64" else 1e-5
    for _ in range(3):
        graph, plain = solver.step(F, graph), solver.step(G, plain)
        for a, b in zip(ours._tensors(graph), ours._tensors(plain), strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, equal_nan=True)


def test_few_batches_are_not_captured():
    def refuse(step):
        raise AssertionError

    solver = SGD(max_iter=3, batch_size=N // 50)
    args = solver, LOSSES["softmax"](), L2Penalty(), "float32"
    plain = states(get_backend("torch").fold, *args, weights=False)[-1]
    graph = states(partial(ours._fold_by, refuse), *args, weights=False)[-1]
    assert torch.equal(plain.params.W, graph.params.W)


class Pair(NamedTuple):
    a: Any
    b: Any


def test_the_carry_of_the_caller_is_not_written():
    zero, one = torch.zeros(2), torch.ones(2)
    carry = (Pair(zero, None), one, 7)
    rows = torch.randperm(400)

    def minibatch(update, shared, carry, batch, factor):
        (total, nothing), constant, number = carry
        return Pair(total + factor * torch.sum(batch[0]), nothing), constant, number

    X, schedule = torch.arange(400.0), [1.0] * 99 + [2.0]
    update = Update(torch.sum, "not looked at", get_backend("torch").xp, X.dtype)
    (total, nothing), constant, number = ours._fold_by(
        lambda step: step,
        Epoch(minibatch, update, Shared(), carry, (X, X, None), rows, schedule, 4),
    )
    assert torch.equal(zero, torch.zeros(2))
    assert (nothing, number) == (None, 7)
    assert torch.equal(constant, one)
    expected = torch.sum(X) + torch.sum(X[rows[-4:]])
    assert torch.equal(total, expected + zero)


def on_meta(part: Any) -> Any:
    """Return nested tuples of tensors on torch's device without memory: all but a GPU."""
    if isinstance(part, tuple):
        parts = [on_meta(a) for a in part]
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
    return part.to("meta") if isinstance(part, torch.Tensor) else part


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_captured_step_touches_no_host_memory(loss, penalty):
    """A copy from the host, or a value the host reads, cannot be captured."""
    from torch.overrides import TorchFunctionMode

    class Guard(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            assert func.__name__ not in {"as_tensor", "asarray", "from_numpy", "item", "tensor"}
            result = func(*args, **(kwargs or {}))
            assert all(a.device.type == "meta" for a in ours._tensors((*args, result))), func
            return result

    captures = 0

    def capture(step):
        nonlocal captures
        captures += 1
        with Guard():
            step()
            for copy in (partial(torch.asarray, 1.0), partial(torch.ones, 1)):
                with pytest.raises(AssertionError):
                    copy()
        return lambda: None

    solver = SGD(batch_size=SIZE)
    backend = get_backend("torch")
    F = objective(backend, LOSSES[loss](), PENALTIES[penalty](), "float32", weights=True)
    state = on_meta(solver.init(F, F.zeros()))
    moved = replace(
        backend,
        fold=partial(ours._fold_by, capture),
        device=torch.device("meta"),
        move=lambda x: on_meta(backend.move(x)),
    )
    X, y, s, models = on_meta((F.data.X, F.data.y, F.data.s, F.data.models))
    data = ArrayData(X, y, s, F.data.dtype, models, backend=moved)
    solver.step(replace(F, alpha=on_meta(F.alpha), data=data), state)
    assert captures == 1


def test_devices_have_the_name_their_arrays_give():
    assert get_backend("torch:cpu:0").name == get_backend("torch:cpu").name == "torch"
    meta = get_backend("torch:meta")
    assert meta.name == ours.follow(torch.empty(1, device="meta")).name == "torch:meta"


def test_the_reference_folds_in_python():
    backend = replace(get_backend("torch"), fold=partial(ours._fold_on, torch.device("cuda:0")))
    assert backend.reference().fold is backend.plain_fold
