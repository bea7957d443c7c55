"""The fold by CUDA graphs, on the CPU: repeated instead of recorded, and on fake CUDA tensors."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

from xplinear import LinearClassifier
from xplinear.backends import get_backend
from xplinear.backends.epoch import Epoch, Shared, Update
from xplinear.data import ArrayData
from xplinear.data.rows import Standard
from xplinear.losses import LOSSES
from xplinear.objective import Objective
from xplinear.penalties import PENALTIES, L2Penalty
from xplinear.solvers import SGD

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

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


def of_three(**changes: Any) -> Objective:
    """Return an objective of three weighted models on a backend with these changes."""
    backend = replace(get_backend("torch"), **changes)
    return objective(backend, LOSSES["softmax"](), L2Penalty(), "float32", weights=True)


def states(
    fold: Callable[..., Any], solver: SGD, *args: Any, kernels: Any = (), **settings: Any
) -> list[Any]:
    """Return the states of three epochs folded that way."""
    backend = replace(get_backend("torch"), fold=fold, kernels=dict(kernels))
    F = objective(backend, *args, **settings)
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
    graph = states(partial(ours._fold_by, capture, {}), *args, weights=weights)
    # Of many mini-batches, of one and of the incomplete one; the first epoch never averages.
    assert captures == (5 if average else 3)
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


class Recorder(TorchDispatchMode):
    """What a CUDA graph is: operations on tensors at fixed addresses, without the Python code."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # While it records, a graph computes nothing that lasts.
        written = args[0] if func._schema.returns else None
        result = written if func._schema.is_mutable else func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, there in self.calls:
            result = func(*args, **kwargs)
            if not (func.is_view or func._schema.is_mutable):
                for new, old in zip(*map(listed, (result, there)), strict=True):
                    if new.data_ptr() != old.data_ptr():
                        old.copy_(new)


def listed(result: Any) -> list[Any]:
    return result if isinstance(result, list) else [result]


class Graphs:
    """Captures by `Recorder`, and counts them."""

    def __init__(self) -> None:
        self.captured, self.kept = 0, {}

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        with Recorder() as recorder:
            function()
        return recorder.replay

    @property
    def fold(self) -> Callable[..., Any]:
        return partial(ours._fold_by, self, self.kept)


def beside_the_plain() -> tuple[Graphs, SGD, Objective, Objective]:
    """Return a solver and the same objective twice, its epochs recorded and not."""
    graphs = Graphs()
    F, G = (of_three(fold=fold) for fold in (graphs.fold, get_backend("torch").fold))
    return graphs, SGD(max_iter=3, batch_size=SIZE), F, G


def same(a: Any, b: Any) -> None:
    for before, after in zip(ours._tensors(a), ours._tensors(b), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [3, 50, 400])  # 110 mini-batches, few, one
def test_recorded_addresses_give_what_the_plain_fold_gives(loss, size, by_kernel):
    graphs, solver = Graphs(), SGD(max_iter=3, batch_size=size)
    args = solver, LOSSES[loss](), L2Penalty(), "float32"
    kernels = ours._kernels(partial(ours._sgd, graphs.fold)) if by_kernel else ()
    graph = states(graphs.fold, *args, weights=True, kernels=kernels)
    same(states(get_backend("torch").fold, *args, weights=True), graph)


def test_a_later_epoch_is_not_captured_anew():
    graphs, solver = Graphs(), SGD(max_iter=4, batch_size=SIZE)
    F = of_three(fold=graphs.fold)
    state, captured = solver.init(F, F.zeros()), []
    for _ in range(4):
        state = solver.step(F, state)
        captured.append(graphs.captured)
    assert captured == [2, 3, 3, 3]
    assert len(graphs.kept) == 1


@pytest.mark.parametrize("moved", ["X", "y", "s", "models"])
def test_rows_that_have_moved_are_recorded_anew(moved):
    """In new memory, with other values: a stale recording would go on with the old ones."""
    _, solver, F, G = beside_the_plain()
    graph = plain = solver.init(F, F.zeros())
    for _ in range(2):
        graph, plain = solver.step(F, graph), solver.step(G, plain)
    other = torch.flip(getattr(F.data, moved), (0,))
    F, G = (replace(H, data=replace(H.data, **{moved: other})) for H in (F, G))
    for _ in range(2):
        graph, plain = solver.step(F, graph), solver.step(G, plain)
    same(plain, graph)


def test_rows_that_change_where_they_are_need_no_recording():
    graphs, solver, F, G = beside_the_plain()
    graph = plain = solver.init(F, F.zeros())
    for _ in range(3):
        graph, plain = solver.step(F, graph), solver.step(G, plain)
        captured = graphs.captured
        for H in (F, G):
            H.data.X.copy_(255 - H.data.X)
    assert graphs.captured == captured == 3
    same(plain, graph)


def test_a_tensor_given_other_memory_is_recorded_anew():
    graphs, solver, F, G = beside_the_plain()
    graph = plain = solver.init(F, F.zeros())
    for _ in range(2):
        graph, plain = solver.step(F, graph), solver.step(G, plain)
    F.data.X.set_(255 - F.data.X)
    G.data.X.copy_(255 - G.data.X)
    same(solver.step(G, plain), solver.step(F, graph))
    assert graphs.captured > 3


def test_recordings_end_with_the_fit_and_are_few():
    kept: dict[Any, Any] = {}
    # Neither a CUDA graph nor this one holds the tensors it reads.
    F = of_three(fold=partial(ours._fold_by, lambda step: int, kept))
    for size in range(4, 4 + 2 * ours._MOST_KEPT):
        solver = SGD(max_iter=3, batch_size=size)
        solver.step(F, solver.init(F, F.zeros()))
    assert len(kept) == ours._MOST_KEPT
    del F
    assert not kept


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_recordings_end_with_the_fit_of_an_estimator():
    """Though nothing collects: a graph has memory of its own, and that of a GPU is scarce."""
    kept: dict[Any, Any] = {}
    fold = partial(ours._fold_by, lambda step: int, kept)
    backend = replace(get_backend("torch"), fold=fold)
    rng, collects = np.random.default_rng(0), gc.isenabled()
    gc.disable()
    try:
        clf = LinearClassifier(solver="sgd", max_iter=2, random_state=0, backend=backend)
        clf.fit(rng.standard_normal((N, P)), rng.integers(0, K, N))
        assert not kept
    finally:
        if collects:
            gc.enable()


def test_a_recording_is_of_one_precision():
    graphs, solver = Graphs(), SGD(max_iter=3, batch_size=SIZE)
    F = of_three(fold=graphs.fold)
    state = solver.init(F, F.zeros())
    for tf32 in (False, True):
        with ours._products(tf32):
            solver.step(F, state)
    assert len(graphs.kept) == 2


@pytest.mark.parametrize("own", [False, True])
def test_standardized_rows_give_what_the_plain_fold_gives(own):
    graphs, solver = Graphs(), SGD(max_iter=3, batch_size=SIZE, learning_rate=0.01)
    kernels = ours._kernels(partial(ours._sgd, graphs.fold))
    rng = np.random.default_rng(3)
    centre, scale = (torch.asarray(rng.uniform(0.5, 2.0, (P, 3))) for _ in range(2))
    standard = Standard(*(a.float() if own else a.float()[:, 0] for a in (100.0 * centre, scale)))
    ends = []
    for changes in ({}, {"kernels": kernels, "fold": graphs.fold}):
        F = of_three(**changes)
        F = replace(F, data=replace(F.data, standard=standard))
        state = solver.init(F, F.zeros())
        for _ in range(3):
            state = solver.step(F, state)
        ends.append(state.params)
    torch.testing.assert_close(*(end.W for end in ends), rtol=1e-4, atol=1e-4)


def test_launches_of_a_mini_batch_are_few():
    """Each takes a GPU about 1.7 µs, whatever it does."""
    launches, strides = [], set()

    def capture(function):
        with Recorder() as recorder:
            function()
        names = [(c[0].is_view, c[0].overloadpacket._qualified_op_name) for c in recorder.calls]
        for func, args, _, _ in recorder.calls:
            if "_foreach" in str(func):  # in one launch only where they lie alike
                lists = zip(*(a for a in args if isinstance(a, list | tuple)), strict=True)
                strides.update(len({a.stride() for a in group}) for group in lists)
        launches.append(sum(not view and name != "aten::_unsafe_view" for view, name in names))
        return recorder.replay

    backend, counts = get_backend("torch"), []
    fold = partial(ours._fold_by, capture, {})
    for kernels in ({}, ours._kernels(partial(ours._sgd, fold))):
        own = replace(backend, fold=fold, kernels=kernels)
        F = objective(own, LOSSES["softmax"](), L2Penalty(), "float32", weights=False)
        solver = SGD(max_iter=3, batch_size=SIZE)
        solver.step(F, solver.init(F, F.zeros()))
        counts.append(launches[0] / ours._TOGETHER)
        launches.clear()
    assert counts[0] < 42
    assert counts[1] < 31
    assert strides == {1}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_objective_can_be_recorded(loss, penalty):
    """Weighted models, standardized rows, and all that the update's rule says."""
    graphs = Graphs()
    kernels = ours._kernels(partial(ours._sgd, graphs.fold))
    solver = SGD(max_iter=3, batch_size=100, nesterov=True, average=True, learning_rate=0.01)
    centre, scale = torch.linspace(90.0, 150.0, P), torch.linspace(0.005, 0.02, P)
    ends = []
    for changes in ({}, {"kernels": kernels}):
        backend = replace(get_backend("torch"), **changes)
        F = objective(backend, LOSSES[loss](), PENALTIES[penalty](), "float32", weights=True)
        F = replace(F, data=replace(F.data, standard=Standard(centre, scale)))
        state = solver.init(F, F.zeros())
        for _ in range(3):
            state = solver.step(F, state)
        ends.append((state.params, state.walk, state.report.loss))
    same(*ends)
    assert graphs.captured >= 2


class Failing(Recorder):
    """What `torch.cuda.graph` is where something cannot be captured."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        msg = "CUDA error: operation failed due to a previous error during capture"
        raise RuntimeError(msg)


def test_what_cannot_be_captured_is_done_as_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Failing)
    args = SGD(max_iter=3, batch_size=SIZE), LOSSES["softmax"](), L2Penalty(), "float32"
    fold = partial(ours._fold_by, partial(ours._captured, None), {})
    for kernels in ((), ours._kernels(partial(ours._sgd, fold))):
        found = states(fold, *args, weights=True, kernels=kernels)
        same(states(get_backend("torch").fold, *args, weights=True), found)
    assert gc.isenabled()


class Stream:
    """Of no GPU; says what waited for what."""

    def __init__(self) -> None:
        self.waited: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)


@pytest.fixture
def streams(monkeypatch):
    """The stream of the caller, and that of captures, of fakes in the place of CUDA's."""
    outer, own = Stream(), Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: outer)
    monkeypatch.setattr(ours, "_stream", lambda *_: own)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(ours, "_captured", lambda _, function: function)
    return outer, own


def test_results_are_not_overwritten_while_the_caller_reads_them(streams, monkeypatch):
    """The memory they are in would else be that of the next fold once they are dropped."""
    outer, own = streams
    noted: list[Any] = []
    folded: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *args: noted.append(args))

    def fold(epoch: Epoch) -> Any:
        folded.append(ours._fold_on(torch.device("cpu"), epoch))
        return folded[-1]

    solver, F = SGD(max_iter=3, batch_size=SIZE), of_three(fold=fold)
    solver.step(F, solver.init(F, F.zeros()))
    assert (own.waited, outer.waited) == ([outer], [own])
    assert {stream for _, stream in noted} == {outer}
    assert {id(a) for a in ours._tensors(folded[0])} == {id(a) for a, _ in noted}


def test_a_penalty_that_may_change_is_not_recorded(streams):
    class Doubled:
        smooth = True
        __hash__ = None
        factor = 1.0

        def value(self, W, *, xp=None):
            return self.factor * L2Penalty().value(W, xp=xp)

        def grad(self, W, *, xp=None):
            return self.factor * W

        def prox(self, W, step, *, xp=None):
            return L2Penalty().prox(W, self.factor * step, xp=xp)

    fold, penalty = partial(ours._fold_on, torch.device("cpu")), Doubled()
    solver, ends = SGD(max_iter=3, batch_size=SIZE), []
    for kernels in ({}, ours._kernels(partial(ours._sgd, fold))):
        backend = replace(get_backend("torch"), fold=fold, kernels=kernels)
        F = objective(backend, LOSSES["softmax"](), penalty, "float32", weights=False)
        start = solver.init(F, F.zeros())
        before = ours._copied(start.walk)
        ends.append(solver.step(F, start).params)
        same(before, start.walk)
    same(*ends)
    assert not streams[0].waited


def test_memory_is_not_released_while_another_thread_captures(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(torch.cuda, "empty_cache", released.set)
    thread = threading.Thread(target=ours._release_memory, args=(torch.device("cpu"),))
    with ours._one_capture:
        thread.start()
        assert not released.wait(0.05)
    thread.join()
    assert released.is_set()


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
    epoch = Epoch(minibatch, update, Shared(), carry, (X, X, None), rows, schedule, 4)
    fold, before = Graphs().fold, rows.clone()
    (total, nothing), constant, number = fold(epoch)
    assert torch.equal(zero, torch.zeros(2))
    assert torch.equal(rows, before)
    assert (nothing, number) == (None, 7)
    assert torch.equal(constant, one)
    expected = torch.sum(X) + torch.sum(X[rows[-4:]])
    assert torch.equal(total, expected + zero)
    fold(epoch._replace(carry=(Pair(one, None), one, 7)))  # nor is what an earlier epoch gave
    assert torch.equal(total, expected + zero)


def on_meta(part: Any) -> Any:
    """Return nested tuples of tensors on torch's device without memory: all but a GPU."""
    if isinstance(part, tuple):
        parts = [on_meta(a) for a in part]
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
    return part.to("meta") if isinstance(part, torch.Tensor) else part


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("by_kernel", [False, True])  # of rows that all models centre alike
def test_a_captured_step_touches_no_host_memory(loss, penalty, by_kernel):
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

    solver = SGD(batch_size=SIZE, nesterov=by_kernel)
    backend, fold = get_backend("torch"), partial(ours._fold_by, capture, {})
    F = objective(backend, LOSSES[loss](), PENALTIES[penalty](), "float32", weights=not by_kernel)
    state = on_meta(solver.init(F, F.zeros()))
    moved = replace(
        backend,
        fold=fold,
        kernels=ours._kernels(partial(ours._sgd, fold)) if by_kernel else {},
        device=torch.device("meta"),
        move=lambda x: on_meta(backend.move(x)),
    )
    X, y, s, models = on_meta((F.data.X, F.data.y, F.data.s, F.data.models))
    data = ArrayData(X, y, s, F.data.dtype, models, backend=moved)
    solver.step(replace(F, alpha=on_meta(F.alpha), data=data), state)
    assert captures == 2  # of many mini-batches, and of one


def test_devices_have_the_name_their_arrays_give():
    assert get_backend("torch:cpu:0").name == get_backend("torch:cpu").name == "torch"
    meta = get_backend("torch:meta")
    assert meta.name == ours.follow(torch.empty(1, device="meta")).name == "torch:meta"


def test_the_reference_folds_in_python():
    backend = replace(get_backend("torch"), fold=partial(ours._fold_on, torch.device("cuda:0")))
    assert backend.reference().fold is backend.plain_fold
