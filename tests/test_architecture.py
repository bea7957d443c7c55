"""The laws of the design, kept over the syntax tree; where a tree cannot tell, at run time.

1. One word, one file: a foreign library is imported in one file, and only when it is used.
2. The maths is pure array API.
3. One counted door to the host.
4. No twins: an accelerated kernel gives what the reference gives.
5. Explicit registries.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import xplinear
from xplinear.backends import BACKENDS, available_backends, get_backend, host_reads
from xplinear.data import SparseData
from xplinear.losses import LOSSES, MulticlassHingeLoss, SoftmaxLoss
from xplinear.minimize import minimize
from xplinear.penalties import PENALTIES, ElasticNetPenalty, L2Penalty
from xplinear.solvers import SOLVERS
from xplinear.solvers.protocol import declared

PACKAGE = Path(xplinear.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MATHS = [
    path
    for path in FILES
    if path.parent.name in {"losses", "penalties", "solvers"}
    or path.name in {"objective.py", "duality.py", "ranking.py", "rows.py"}
]


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of every module imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Yield every call with the last word of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield node, function.attr
            elif isinstance(function, ast.Name):
                yield node, function.id


class TestLaw1:
    OPTIONAL = (
        "array_api_strict",
        "cupy",
        "dask",
        "distributed",
        "h5py",
        "jax",
        "matplotlib",
        "onnx",
        "pandas",
        "polars",
        "pyarrow",
        "torch",
        "zarr",
    )
    FOREIGN = (*OPTIONAL, "array_api_compat", "narwhals", "rich", "safetensors", "typer")

    @pytest.mark.parametrize("library", FOREIGN)
    def test_one_file_imports_it(self, library: str) -> None:
        # A backend's file may name the namespace array-api-compat wraps its library in.
        own = "array_api_compat" if library == "array_api_compat" else rf"{library}(\..*)?"
        users = [
            name_of(path)
            for path in FILES
            if any(re.fullmatch(own, module) for module in imports(parsed(path)))
        ]
        assert len(users) <= 1, users

    @pytest.mark.parametrize(
        ("part", "may_import"),
        [
            ("arguments.py", {"namespace"}),
            ("losses", {"arguments", "losses", "namespace"}),
            ("penalties", {"arguments", "namespace", "penalties"}),
            ("objective.py", {"arguments", "data", "losses", "namespace", "penalties"}),
            ("duality.py", {"data", "losses", "namespace", "objective"}),
            (
                "solvers",
                {"arguments", "data", "duality", "losses", "namespace", "objective", "penalties"}
                | {"solvers"},
            ),
            ("minimize.py", {"arguments", "backends", "namespace", "objective", "solvers"}),
        ],
    )
    def test_imports_point_one_way(self, part: str, may_import: set[str]) -> None:
        for path in FILES:
            if name_of(path).partition("/")[0] == part:
                ours = [m.split(".") for m in imports(parsed(path)) if m.startswith("xplinear")]
                assert {module[1] for module in ours} <= may_import, path

    def test_files_know_no_estimator(self) -> None:
        above = ("xplinear.estimator", "xplinear.model_selection")
        for path in FILES:
            if path.parent.name == "formats":
                assert [m for m in imports(parsed(path)) if m.startswith(above)] == [], path

    @pytest.mark.parametrize("path", FILES, ids=name_of)
    def test_no_name_is_taken_that_is_private(self, path: Path) -> None:
        private = [
            alias.name
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xplinear")
            for alias in node.names
            if alias.name.startswith("_")
        ]
        assert private == []

    def test_import_is_quick_and_needs_no_optional_library(self) -> None:
        script = f"""
import sys, time
import array_api_compat, numpy, rich, safetensors, scipy, sklearn, typer
import safetensors.numpy, sklearn.model_selection, sklearn.utils.validation
before = set(sys.modules)  # scikit-learn imports pandas where it is installed
start = time.perf_counter()
import xplinear
seconds = time.perf_counter() - start
print(seconds, *[name for name in {self.OPTIONAL} if name in set(sys.modules) - before])
"""
        seconds = []
        for _ in range(3):
            command = [sys.executable, "-c", script]
            run = subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent
            )
            first, *loaded = run.stdout.split()
            assert loaded == []
            seconds.append(float(first))
            if seconds[-1] < 0.5:
                return
        pytest.fail(f"import xplinear took {min(seconds):.2f} s")

    def test_import_leaves_what_a_measurement_needs(self) -> None:
        """Of our own files none that is loaded imports these; scikit-learn may."""
        script = (
            "import sys, xplinear; print(*(m for m in sys.modules if m.startswith('xplinear')))"
        )
        run = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=PACKAGE.parent,
        )
        for module in run.stdout.split():
            path = Path(PACKAGE.parent, *module.split(".")).with_suffix(".py")
            path = path if path.exists() else path.with_suffix("") / "__init__.py"
            assert not {"joblib", "subprocess"} & set(imports(parsed(path))), path


# The house, from the ground up: each room knows those before it.
FLOORS = (
    *("version", "namespace", "arguments", "losses", "penalties", "backends", "data"),
    *("objective", "duality", "solvers", "minimize", "checks", "datasets", "formats"),
    *("estimator", "model_selection", "bench", "plot", "cli"),
)
PUBLIC_NAMES = {"certificate", "gradients", "parity", "persist"}  # of files in rooms


def arrows() -> dict[str, set[str]]:
    """Return the modules that each module imports, anywhere in its file; "" is the root."""

    def module(path: Path) -> str:
        return (
            name_of(path).removesuffix(".py").replace("/", ".").removesuffix("__init__").strip(".")
        )

    known = {module(path): path for path in FILES}

    def target(name: str) -> str:
        name = name.removeprefix("xplinear").strip(".")
        return name if name in known else target(name.rpartition(".")[0])

    found: dict[str, set[str]] = {}
    for own, path in known.items():
        names = [
            f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        ]
        ours = [name for name in names if name.startswith("xplinear")]
        found[own] = {target(name) for name in ours} - {own}
    return found


class TestFloors:
    def test_every_file_of_the_root_has_a_place(self) -> None:
        rooms = {module.partition(".")[0] for module in arrows()} - {"", "__main__"}
        assert rooms == {*FLOORS, *PUBLIC_NAMES}

    def test_every_import_points_down(self) -> None:
        up = [
            f"{own} imports {other or 'xplinear'}"
            for own, others in arrows().items()
            if own.partition(".")[0] in FLOORS
            for other in others
            if other.partition(".")[0] not in FLOORS[: FLOORS.index(own.partition(".")[0]) + 1]
        ]
        assert up == []

    def test_there_is_no_circle(self) -> None:
        left = arrows()
        while ends := {
            own
            for own, others in left.items()
            if not others & left.keys() or not any(own in others for others in left.values())
        }:
            left = {own: others for own, others in left.items() if own not in ends}
        assert sorted(left) == []

    @pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
    def test_public_names_are_no_more_than_names(self, name: str) -> None:
        kinds = {type(node) for node in parsed(PACKAGE / f"{name}.py").body}
        assert kinds == {ast.Expr, ast.ImportFrom, ast.Assign}


CREATION = {"arange", "asarray", "empty", "eye", "full", "linspace", "ones", "zeros"}
HOST_TYPES = {"Params", "bool", "dict", "float", "int", "str", "tuple"}


def probes(node: ast.AST) -> bool:
    """Whether a type or a capability is asked for."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    if node.func.id == "isinstance":
        types = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
        return not types <= HOST_TYPES
    return node.func.id == "hasattr"


def creates_anywhere(node: ast.AST) -> bool:
    """Whether an array is created without saying its dtype and device."""
    if not (isinstance(node, ast.Call) and re.match(r"(\w+\.)*xp\.\w+$", ast.unparse(node.func))):
        return False
    said = {keyword.arg for keyword in node.keywords}  # None is **keywords
    return node.func.attr in CREATION and not ({"dtype", "device"} <= said or None in said)


def writes_in_place(node: ast.AST) -> bool:
    """Whether something other than a name is assigned to."""
    if isinstance(node, ast.Call):
        return any(keyword.arg == "out" for keyword in node.keywords)
    return isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load)


def indexes_by_mask(node: ast.AST) -> bool:
    """Whether a comparison stands in brackets; other masks array-api-strict refuses."""
    return isinstance(node, ast.Subscript) and any(
        isinstance(part, ast.Compare | ast.Invert) for part in ast.walk(node.slice)
    )


def takes_xp_after_arrays(node: ast.AST) -> bool:
    """Whether a public function takes xp by position, other than as a leading static argument."""
    if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
        return False
    positional = (*node.args.posonlyargs, *node.args.args)
    names = [arg.arg for arg in positional]
    before = positional[: names.index("xp")] if "xp" in names else ()
    return any(
        arg.annotation is None or ast.unparse(arg.annotation) in {"Array", "Block", "Params"}
        for arg in before
    )


def computes_with_numpy(node: ast.AST) -> bool:
    """Whether NumPy does more than draw random numbers on the host."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "np"
        and node.attr != "random"
    )


RULES = (
    probes,
    creates_anywhere,
    writes_in_place,
    indexes_by_mask,
    takes_xp_after_arrays,
    computes_with_numpy,
)


def impurities(tree: ast.Module) -> list[str]:
    """Return what law 2 forbids in a file of the maths."""
    return [
        f"{rule.__name__}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        for rule in RULES
        if rule(node)
    ]


class TestLaw2:
    @pytest.mark.parametrize("path", MATHS, ids=name_of)
    def test_maths_is_pure(self, path: Path) -> None:
        assert impurities(parsed(path)) == []

    @pytest.mark.parametrize("path", MATHS, ids=name_of)
    def test_maths_knows_no_library(self, path: Path) -> None:
        foreign = {m.partition(".")[0] for m in imports(parsed(path))} - sys.stdlib_module_names
        # NumPy is the host's source of random numbers, there and nowhere else.
        allowed = {"xplinear", "numpy"} if path.name == "metric.py" else {"xplinear"}
        assert foreign <= allowed

    @pytest.mark.parametrize("path", MATHS, ids=name_of)
    def test_only_functions_of_the_standard(self, path: Path) -> None:
        # The extension linalg is there on every backend.
        strict = pytest.importorskip("array_api_strict", reason="it lists the standard")
        standard = set(dir(strict)) - {"fft"} | {"linalg"}
        used = {
            node.attr
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Attribute) and re.search(r"\bxp$", ast.unparse(node.value))
        }
        assert used <= standard

    @pytest.mark.parametrize(
        "code",
        [
            "hasattr(x, 'shape')",
            "isinstance(x, xp.ndarray)",
            "xp.exp(x, out=x)",
            "xp.zeros((3,), dtype=x.dtype)",
            "self.xp.arange(3, device=x.device)",
            "x[0] = 1.0",
            "x[0], y = 1.0, 2.0",
            "x[0] += 1.0",
            "self.count += 1",
            "x[x > 0]",
            "x[~mask]",
            "np.asarray(x)",
            "def f(x: Array, xp: Namespace): ...",
        ],
    )
    def test_the_test_finds(self, code: str) -> None:
        assert impurities(ast.parse(code))

    @pytest.mark.parametrize(
        "code",
        [
            "isinstance(step, (int, float))",
            "xp.zeros((3,), dtype=x.dtype, device=device(x))",
            "xp.zeros((3,), **backend.kind(dtype))",
            "xp.zeros_like(x)",
            "x = x[:, None]",
            "total: float = 0.0",
            "share *= 0.5",
            "def f(x: Array, *, xp: Namespace): ...",
            "def f(loss: Loss, xp: Namespace, x: Array): ...",
            "np.random.Generator(np.random.PCG64(0))",
        ],
    )
    def test_the_test_allows(self, code: str) -> None:
        assert not impurities(ast.parse(code))


# Conversions of values that never were on a device.
CONVERSIONS = {
    r"float\(xp\.finfo\(.*\)\.(eps|max|smallest_normal)\)": "a property of a dtype",
    r"float\((objective\.)?fit_intercept\)": "a bool of the configuration",
    r"int\(average\)": "a bool of the configuration",
}

# Shapes are the host's: how many weights to look at is read once per step, where most are zero.
SIZES = {
    "objective.data.backend.to_host(summary)",
    "objective.data.backend.to_host(summary).tolist()",
}


def host_access(tree: ast.Module) -> Iterator[str]:
    """Yield what law 3 forbids outside of minimize: values read by the host."""
    for call, name in calls(tree):
        text = ast.unparse(call)
        builtin = isinstance(call.func, ast.Name) and name in {"bool", "complex", "float", "int"}
        method = isinstance(call.func, ast.Attribute) and name in {
            "fetch",
            "item",
            "to_host",
            "tolist",
        }
        if method or (builtin and not any(re.fullmatch(p, text) for p in CONVERSIONS)):
            yield text


_ELASTIC_NET = ElasticNetPenalty()


def solvable() -> Iterator[tuple[str, Any, Any]]:
    """Yield solver, loss and penalty it can do, kinked where it can."""
    for name, kind in SOLVERS.items():
        for loss in (SoftmaxLoss(), MulticlassHingeLoss()):
            refuses = declared(kind(), "refuses")
            able = [p for p in (_ELASTIC_NET, L2Penalty()) if refuses(loss, p) is None]
            yield from ((name, loss, penalty) for penalty in able[:1])


SOLVABLE = list(solvable())


def problem(backend: Any, loss: Any, penalty: Any = _ELASTIC_NET, dtype: str = "float32") -> Any:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    return backend.objective(loss, penalty, X, y, alpha=[1e-3, 0.1], dtype=dtype)


class TestLaw3:
    @pytest.mark.parametrize("path", MATHS, ids=name_of)
    def test_maths_never_reads_a_value(self, path: Path) -> None:
        allowed = SIZES if path.name == "working_set.py" else set[str]()
        assert set(host_access(parsed(path))) <= allowed

    @pytest.mark.parametrize(
        "code", ["float(x)", "bool(xp.any(x))", "x.item()", "backend.to_host(x)", "x.tolist()"]
    )
    def test_the_test_finds(self, code: str) -> None:
        assert list(host_access(ast.parse(code)))

    def test_the_loop_has_one_door(self) -> None:
        tree = parsed(PACKAGE / "minimize.py")
        doors = [call for call, name in calls(tree) if name in {"to_host", "fetch", "item"}]
        loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
        inside = [door for door in doors if any(door in ast.walk(loop) for loop in loops)]
        assert len(inside) == 1
        # And one before it, where a run goes on from what may be of another problem.
        begun = next(f for f in ast.walk(tree) if getattr(f, "name", "") == "_going_on")
        assert len(doors) == 2
        assert set(doors) - set(inside) <= set(ast.walk(begun))

    def test_going_on_reads_once_more(self, numpy_backend: Any) -> None:
        objective, solver = problem(numpy_backend, SoftmaxLoss(), L2Penalty()), SOLVERS["lbfgs"]
        loop = minimize(objective, solver(max_iter=2)).loop
        before = host_reads.count
        result = minimize(objective, solver(max_iter=4), loop=loop)
        assert result.n_iter == 4
        assert host_reads.count - before == 1 + 2

    @pytest.mark.parametrize(("solver", "loss", "penalty"), SOLVABLE)
    def test_minimize_reads_once_per_iteration(
        self, solver: str, loss: Any, penalty: Any, backend: Any
    ) -> None:
        objective = problem(backend, loss, penalty)
        before = host_reads.count
        result = minimize(objective, SOLVERS[solver](max_iter=3))
        assert 0 < host_reads.count - before <= result.n_iter

    @pytest.mark.parametrize(("solver", "loss", "penalty"), SOLVABLE)
    def test_a_step_reads_nothing(
        self, solver: str, loss: Any, penalty: Any, library: str, numpy_backend: Any
    ) -> None:
        backend, guard = replace(numpy_backend, backend=get_backend(library)), GUARDS[library]
        one = backend.asarray([1.0, 2.0])
        with pytest.raises(AssertionError, match="the host read a value"), guard():
            float(one[0] + one[1])
        objective = problem(backend, loss, penalty)
        self._steps(objective, SOLVERS[solver](max_iter=3), guard)

    @pytest.mark.parametrize(("solver", "loss", "penalty"), SOLVABLE)
    def test_nor_does_one_of_sparse_rows_of_torch(
        self, solver: str, loss: Any, penalty: Any, numpy_backend: Any
    ) -> None:
        pytest.importorskip("torch")
        backend = get_backend("torch")
        objective = problem(replace(numpy_backend, backend=backend), loss, penalty)
        X = csr_array(backend.to_host(objective.data.X))
        rows = SparseData(backend.sparse(X), objective.data.y, backend=backend)
        self._steps(replace(objective, data=rows), SOLVERS[solver](max_iter=3), torch_guard)

    def _steps(self, objective: Any, config: Any, guard: Any) -> None:
        state = config.init(objective, objective.zeros())
        with guard():
            for _ in range(3):
                state = config.step(objective, state)
        assert np.isfinite(objective.data.backend.to_host(state.report.loss)).all()


@contextmanager
def torch_guard() -> Iterator[None]:
    """Fail where torch copies a value to the host, or waits for the number of nonzeros."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Guard(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            del types
            name = func.overloadpacket._qualified_op_name
            assert name not in {"aten::_local_scalar_dense", "aten::nonzero"}, (
                f"the host read a value: {name}"
            )
            return func(*args, **(kwargs or {}))

    with Guard():
        yield


def refuse(*args: object) -> None:
    del args
    msg = "the host read a value"
    raise AssertionError(msg)


@contextmanager
def strict_guard() -> Iterator[None]:
    """Fail where an array of array-api-strict is converted to a Python or NumPy value."""
    import array_api_strict

    with pytest.MonkeyPatch.context() as patch:
        for method in ("__array__", "__bool__", "__float__", "__index__", "__int__"):
            patch.setattr(type(array_api_strict.asarray(0.0)), method, refuse)
        yield


@contextmanager
def cupy_guard() -> Iterator[None]:
    """Fail where CuPy copies a value to the host, or waits for the number of nonzeros."""
    import cupy

    with pytest.MonkeyPatch.context() as patch:
        # All that reads goes through it: see the test below.
        patch.setattr(cupy.ndarray, "get", refuse)
        yield


READS = float, int, bool, complex, str, "item", "tolist", "tobytes", "get"


@pytest.mark.parametrize("read", READS, ids=str)
def test_cupy_reads_by_get(read: Any) -> None:
    """On memory of the host: there need be no GPU."""
    cupy = pytest.importorskip("cupy")
    number = np.zeros(1)
    memory = cupy.cuda.UnownedMemory(number.ctypes.data, number.nbytes, number, 0)
    x = cupy.ndarray((1,), np.float64, cupy.cuda.MemoryPointer(memory, 0))
    with pytest.raises(AssertionError, match="the host read a value"), cupy_guard():
        getattr(x, read)() if isinstance(read, str) else read(x)


GUARDS = {
    "torch": torch_guard,
    "array_api_strict:device1": strict_guard,
    "cupy": cupy_guard,
}


def guarded() -> Iterator[Any]:
    for name in GUARDS:
        if name.partition(":")[0] in {b.name for b in available_backends() if b.available}:
            yield pytest.param(name, marks=[pytest.mark.cuda] if name == "cupy" else [])


@pytest.fixture(params=list(guarded()))
def library(request: pytest.FixtureRequest) -> str:
    return request.param


# What is written out of a sparse matrix, and why it is small.
WRITTEN_OUT = {
    "data/rows.py": "features are few, or rows are",
    "backends/sparse.py": "what `data/rows.py` asks for",
    "datasets/arrays.py": "where it takes less memory",
    "datasets/preparation.py": "where it takes less memory",
    "estimator/targets.py": "labels of some models at a time",
    "formats/scikit_learn.py": "weights",
    "model_selection/folds.py": "labels, for a splitter of somebody else",
}


def asks_for(names: set[str]) -> set[str]:
    """Return the files that call one of these functions or methods."""
    return {name_of(path) for path in FILES for _, name in calls(parsed(path)) if name in names}


class TestSparseRows:
    def test_few_files_write_them_out(self) -> None:
        assert asks_for({"to_dense", "toarray", "todense"}) == set(WRITTEN_OUT)

    def test_one_file_knows_those_of_scipy(self) -> None:
        known = {"issparse", "isspmatrix", "isspmatrix_csr", "check_format", "sum_duplicates"}
        assert asks_for(known) == {"backends/sparse.py"}


class TestLaw4:
    def test_kernels_can_be_switched_off(self, backend: Any) -> None:
        reference = backend.backend.reference()
        assert not reference.kernels
        for kind in LOSSES.values():
            loss = kind()
            accelerated = backend.backend.accelerated(loss)
            has_kernel = (kind, "value_and_grad") in backend.backend.kernels
            assert (accelerated is not loss) == has_kernel
            assert reference.accelerated(loss) is loss
            for name in ("smooth", "shift_invariant", "probabilistic"):
                assert getattr(accelerated, name) == getattr(loss, name)
            for k in (2, 5):
                assert accelerated.curvature(k) == loss.curvature(k)
                assert accelerated.lipschitz(k) == loss.lipschitz(k)

    def test_products_of_a_block_are_those_of_its_rows(self) -> None:
        users = [
            name_of(path)
            for path in FILES
            if "block.X" in {ast.unparse(node) for node in ast.walk(parsed(path))}
        ]
        assert users == []


@pytest.mark.parametrize(
    ("folder", "registry", "method"),
    [
        ("losses", LOSSES, "value_and_grad"),
        ("penalties", PENALTIES, "prox"),
        ("solvers", SOLVERS, "step"),
    ],
)
def test_law_5_every_class_is_registered(
    folder: str, registry: dict[str, type], method: str
) -> None:
    defined = {
        f"xplinear.{folder}.{path.stem}.{node.name}"
        for path in FILES
        if path.parent.name == folder and path.stem not in {"__init__", "protocol"}
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(part, ast.FunctionDef) and part.name == method for part in node.body)
    }
    registered = [f"{kind.__module__}.{kind.__qualname__}" for kind in registry.values()]
    assert sorted(registered) == sorted(defined)
    files = [kind.__module__ for kind in registry.values()]
    assert len(set(files)) == len(files), "one class, one file"


REGISTERED = {kind.__name__ for kind in (*LOSSES.values(), *PENALTIES.values(), *SOLVERS.values())}


def asked_types(tree: ast.Module) -> set[str]:
    """Return the registered classes that a file asks objects to be of."""
    return {
        part.id
        for call, name in calls(tree)
        if name in {"isinstance", "issubclass"}
        for part in ast.walk(call.args[1])
        if isinstance(part, ast.Name)
    } & REGISTERED


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_law_5_nobody_asks_for_a_type(path: Path) -> None:
    # What a loss, penalty or solver can do it declares: one of the user's own is asked the same.
    assert asked_types(parsed(path)) == set()


def test_law_5_finds_who_asks_for_a_type() -> None:
    code = "isinstance(solver, (LBFGS, SGD)) and issubclass(kind, L2Penalty) and isinstance(x, int)"
    assert asked_types(ast.parse(code)) == {"LBFGS", "SGD", "L2Penalty"}


def test_law_5_every_backend_is_registered() -> None:
    functions = {
        path.stem: {node.name for node in parsed(path).body if isinstance(node, ast.FunctionDef)}
        for path in FILES
        if path.parent.name == "backends" and path.stem != "__init__"
    }
    # The other files of the room are parts that backends share.
    assert {name for name, own in functions.items() if "select" in own} == set(BACKENDS)
    for name in BACKENDS:
        assert {"select", "follow", "describe"} <= functions[name]
