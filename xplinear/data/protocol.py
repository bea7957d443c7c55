"""What a solver may ask of a data source.

A source applies pure functions to its rows. They are module-level functions whose leading,
static arguments are hashable, so that a backend may compile them once and keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from xplinear.backends.base import Backend
from xplinear.backends.epoch import Epoch
from xplinear.data.rows import Rows, Standard
from xplinear.namespace import Array, Namespace

__all__ = [
    "Batch",
    "Block",
    "Data",
    "Followed",
    "Kernel",
    "Order",
    "Standard",
    "compiled",
    "row_width",
]

# Called with a `Block` as it is stored, a `Shared`, and the arguments of the function whose place
# it takes; None leaves the block to that.
Kernel: TypeAlias = Callable[..., tuple[Array, ...] | None]


class Block(NamedTuple):
    """Some rows: their products, and y and s, which may be one per model.

    ``y (r,)`` or ``(r, 1 or m)``, ``s (r, 1 or m)`` or None.
    """

    rows: Rows
    y: Array
    s: Array | None

    @property
    def X(self) -> Array:  # noqa: N802 - as in the formula
        """The rows ``(r, p)`` themselves, in the computation's dtype: a copy if standardized."""
        return self.rows.dense()

    def weights(self, *, xp: Namespace) -> Array:
        """Return the weights; 1 where there are none."""
        return self.rows.ones(xp=xp) if self.s is None else self.s


class Batch(NamedTuple):
    """A mini-batch: as `Block`, and how many of its rows there are; the others weigh nothing."""

    rows: Rows
    y: Array
    s: Array | None
    count: Any


class Order(NamedTuple):
    """An order of the features: which comes where, and the place of each, both ``(p,)``."""

    first: Array
    place: Array


class Followed(NamedTuple):
    """The seed and the number of an epoch that the next one follows, for `Data.epoch`.

    Its order can be drawn meanwhile.
    """

    seed: int
    epoch: int


class Data(Protocol):
    """A source of n rows with p features, y class codes 0 … k−1 and weights s.

    Both may have a column for each model.
    """

    @property
    def backend(self) -> Backend: ...

    @property
    def dtype(self) -> Any:
        """The dtype of the computation; X may be stored in another."""
        ...

    @property
    def n(self) -> int: ...

    @property
    def held(self) -> int:
        """n, and the rows that are added so that few numbers of rows are compiled for."""
        ...

    @property
    def p(self) -> int: ...

    @property
    def sparse(self) -> bool:
        """Whether the rows are sparse: functions of them are not compiled, see `compiled`."""
        ...

    @property
    def entries(self) -> int:
        """The numbers of X that a product with it reads: n p, or those that are stored."""
        ...

    @property
    def distant(self) -> bool:
        """Whether rows lie in partitions, on other machines: each pass waits for them.

        Arrays by row travel there in each pass, mini-batches are made in one place after another.
        """
        ...

    @property
    def y(self) -> Array: ...  # of the rows held

    @property
    def weight_sum(self) -> Array:
        """Σ_i s_ij, shape ``(1,)`` or ``(m,)``."""
        ...

    def check_classes(self, k: int, m: int) -> None:
        """Raise ValueError if y holds other class codes than 0 … k − 1, or is not for m models."""
        ...

    def as_held(self, weights: Any) -> Array:
        """Return weights ``(n, …)`` as `with_weights` takes them: of the rows held."""
        ...

    def with_weights(self, weights: Array | None, models: Array | None = None) -> Data:
        """Return the same rows with other weights ``(held, 1)`` or ``(held, m)``.

        Or ``(held, f)``, and ``models (m,)`` the column that serves each model.
        """
        ...

    def with_labels(
        self, labels: Array, targets: Array | None = None, positives: Array | None = None
    ) -> Data:
        """Return the same rows with other labels ``(held,)`` or ``(held, m)``.

        Or ``(held, L)``, and ``targets (m,)`` the column that serves each model. With
        ``positives (m,)`` labels ``(held,)`` are 1 for a model where they are that class, else 0.
        """
        ...

    def with_standard(self, standard: Standard | None) -> Data:
        """Return the same rows, standardized in this way instead of that they had."""
        ...

    def narrowed(self) -> Data:
        """Return the same rows in float32, for what need not be exact; or self, if that is no less.

        Both are kept.
        """
        ...

    def ordered(self) -> tuple[Data, Order | None]:
        """Return the same rows with features in an order that makes products of many columns fast.

        None: there is no better one. They are kept.
        """
        ...

    def take(self, models: Array) -> Data:
        """Return the same rows for a stack of these models only."""
        ...

    def map(
        self,
        function: Callable[..., Array],
        static: Sequence[Hashable],
        *args: Any,
        scores: int,
        each: Sequence[Array] = (),
    ) -> Iterator[Array]:
        """Yield ``function(*static, block, *each, *args)`` of each block, in order.

        ``each`` has arrays of all rows held: the function is given those of its block.
        """
        ...

    def reduce(
        self,
        function: Callable[..., tuple[Array, ...]],
        static: Sequence[Hashable],
        *args: Any,
        scores: int = 0,
        kernel: Kernel | None = None,
        each: Sequence[Array] = (),
    ) -> tuple[Array, ...]:
        """Return the sums over all blocks of ``function(*static, block, *each, *args)``.

        ``scores`` is the number of scores per row the function makes, to bound its memory;
        ``kernel``, given only where there is one, may take the function's place. ``each`` is as in
        `map`.
        """
        ...

    def batches(self, batch_size: int) -> int:
        """Return how many mini-batches an epoch has: n / batch_size, or more of fewer rows."""
        ...

    def epoch(
        self,
        update: Callable[..., Any],
        rule: Hashable,
        carry: Any,
        constants: Any = None,
        *,
        batch_size: int,
        shuffle: tuple[int, int],
        schedule: Sequence[float],
        fold: Callable[[Epoch], Any] | None = None,
    ) -> Any:
        """Fold ``update(rule, xp, carry, batch, factor, constants)`` over an epoch of mini-batches.

        ``shuffle`` (a seed and the epoch's number, `Followed` where another comes after it)
        decides the order, the same on every backend; ``schedule`` gives the factor of each
        batch; ``fold`` takes the place of `Backend.fold`, and may be called for one part of the
        rows after another.
        """
        ...

    def sample(self, rows: int) -> Block:
        """Return at most ``rows`` rows, evenly spaced; or, if weighted, in their weights.

        Of more rows than that none of weight 0 is taken, and weights are corrected for the choice.
        """
        ...


def compiled(data: Data, function: Callable[..., Any], *static: Any) -> Callable[..., Any]:
    """Return a function of rows of these data with its static arguments bound.

    One of sparse rows is not traced: no tracer knows their products.
    """
    backend = data.backend.reference() if data.sparse else data.backend
    return backend.compile(function, *static)


def row_width(data: Data) -> int:
    """Return how many numbers a row has that a product reads: p, or about those stored."""
    return -(-data.entries // data.n)
