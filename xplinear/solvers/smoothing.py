"""Smoothing with continuation: kinked losses to a certified optimum, for m models at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from xplinear.arguments import integer, number, settle
from xplinear.data import Block
from xplinear.losses.true_class import true_class
from xplinear.namespace import Array, Namespace, accumulator, device
from xplinear.objective import Objective, Params, class_scores, columns, scores
from xplinear.penalties import L2Penalty
from xplinear.solvers.balance import evened
from xplinear.solvers.lbfgs import LBFGS, LBFGSState
from xplinear.solvers.metric import safe_divisor, spread
from xplinear.solvers.protocol import select, take_models
from xplinear.solvers.stopping import relative_gap

__all__ = ["Smoothing", "SmoothingState"]

_MEMORY = 40  # pairs of L-BFGS; 20 need a few passes more
_INTERCEPT = 3.0  # its curvature does not grow as the weights' does: 1 leaves large residuals
_BENDS = (60, 120, 240, 480, 960)  # iterations after which the curvature is measured anew
_SAMPLE_ROWS = 32768
_SAMPLE_ENTRIES = 2**26
_ROWS = 1024  # of most curvature, of each class; twice as many help no more
_BAND = 0.6  # of the first width: kinks that near count
_DAMPING = 0.1  # of the mean curvature of a feature
_BLOCK_ENTRIES = 2**27
_WORTH = 200  # passes: as much work may measuring it be
_SHRINK = 0.3  # of the width, from stage to stage
_BIAS = 0.3  # share of the gap up to which rounding the kinks may cost
_LAST_BIAS = 0.02  # share of the gap asked for below which it need not shrink
_LEAST_WIDTH = 10.0  # times eps
_STAGE = 500  # iterations after which the width shrinks in any case
_IDLE = 5  # steps without a decrease after which it does
_PATIENCE = 10  # such steps at the last width before rounding is blamed
_BUNDLE = 80  # dual points kept
_EVERY = 20  # iterations from bound to bound
_NEWTON = 15  # each divides the distance to the best mixture by about 5
_PRICE = 3.0  # of a residual: well above what it can gain, or it would stay
_CENTRING = 0.1  # of the products x·z, from one such step to the next
_ROUNDING = 16.0  # times eps and F: taken off every bound
_ANY = 1e30  # above any value of F: the next one is accepted


class Bundle(NamedTuple):
    """Dual points: gradients ``(m, t, c p)``, residuals ``(m, t, c)``, values ``(m, t)``.

    The first is the best mixture so far; the start is the point 0.
    """

    gradients: Array
    residuals: Array
    values: Array


class Classes(NamedTuple):
    """Share of the weight ``(m, k)`` and centre ``(m, k, p)`` of each class, from that of X."""

    share: Array
    centre: Array


class SmoothingState(NamedTuple):
    """State of `Smoothing`; ``params`` are the best so far, ``residual`` is the relative gap."""

    params: Params
    loss: Array
    step_size: Array
    converged: Array
    diverged: Array
    residual: Array
    stalled: Array
    lower_bound: Array
    value: Array  # F at params
    zero: Array  # F at W = 0, b = 0
    width: Array
    fresh: Array  # the width has changed: the next pass is at the same point
    age: Array  # iterations at this width
    inner: LBFGSState
    bundle: Bundle
    classes: Classes
    t: int


@dataclass(frozen=True)
class Smoothing:
    """Smoothing with continuation, for kinked losses with the L2 penalty, to a proven gap.

    L-BFGS minimizes F with its kinks rounded over a width that shrinks as the gap closes; from
    iteration 60 on it is preconditioned by the Hessian of each class, of the rows near its
    kinks, where p (p + 1024) ≤ 200 n: as much work as it saves. Each pass gives
    a dual point A, the gradients of the rounded losses, and so the bound

    $F ≥ −(1/S) Σ_i s_i ℓ*_i(a_i) − ‖G‖² / (2α),  G = (1/S) Σ_i s_i x_i a_iᵀ,  Σ_i s_i a_i = 0$

    (the last with a free intercept). Alone it is poor; the best mixture of the last 80 points,
    a small quadratic program, is within a fraction of a percent. The points themselves are not
    stored: G, the residual Σ_i s_i a_i and the value are linear in them. With α = 0 nothing is
    proven.

    Parameters
    ----------
    max_iter : int, default 1000
    tol : float, default 1e-3
        Stop a model when F minus its lower bound is at most ``tol`` times F, and ten times
        ``tol`` times what has been gained, F(0) − F.

    Raises
    ------
    ValueError
        If a parameter is out of its range, the loss is not a multiclass hinge, or the penalty
        not L2.

    References
    ----------
    Nesterov, Smooth minimization of non-smooth functions, Mathematical Programming 2005;
    Teo, Vishwanathan, Smola and Le, Bundle methods for regularized risk minimization, JMLR 2010.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import xplinear as xl
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = xl.LinearClassifier(loss="multiclass_hinge", solver="smoothing", alpha=1.0)
    >>> round(clf.fit(X, y).objective_, 3)
    0.752
    """

    max_iter: int = 1000
    tol: float = 1e-3

    def __post_init__(self) -> None:
        settle(self, max_iter=integer(1), tol=number("[0, inf)"))

    def iterations(self, n: int) -> int:
        """Return ``max_iter``."""
        del n
        return self.max_iter

    def init(self, objective: Objective, params: Params) -> SmoothingState:
        """Evaluate the start, and decompose the Gram matrix as `LBFGS` does."""
        if objective.penalty != L2Penalty():
            msg = f"solver 'smoothing' needs penalty='l2', got {objective.penalty!r}; use 'sgd'"
            raise ValueError(msg)
        if getattr(objective.loss, "smoothed", None) is None:
            msg = (
                "solver 'smoothing' needs the loss 'multiclass_hinge' or 'crammer_singer', got "
                f"{objective.loss!r}; use 'lbfgs' where the loss is smooth, else 'sgd'"
            )
            raise ValueError(msg)
        xp, params = objective.xp, evened(objective, params)
        width = xp.full_like(objective.alpha, _first_width(objective.loss))
        loss, smooth, _, grads = _evaluate(objective, params, width)
        inner = self._descent.start(objective, params, smooth, grads)
        value = loss + objective.penalty_value(params)
        p, m, c = params.W.shape
        kind = objective.data.backend.kind(objective.data.dtype)
        wide = objective.data.backend.kind(value.dtype)
        flags = xp.zeros_like(inner.converged)
        return SmoothingState(
            params=params,
            loss=loss,
            step_size=inner.step_size,
            converged=value <= 0.0,
            diverged=flags,
            residual=xp.ones_like(value),
            stalled=flags,
            lower_bound=xp.zeros_like(value),  # no loss is negative
            value=value,
            zero=objective.loss_at_zero(),
            width=width,
            fresh=flags,
            age=xp.zeros_like(width),
            inner=inner,
            bundle=Bundle(
                xp.zeros((m, _BUNDLE, c * p), **kind),
                xp.zeros((m, _BUNDLE, c), **wide),
                xp.zeros((m, _BUNDLE), **wide),
            ),
            classes=_classes(objective, inner.preconditioner.centre),
            t=0,
        )

    def step(self, objective: Objective, state: SmoothingState) -> SmoothingState:
        """Make one step of L-BFGS; every tenth time, prove a bound."""
        xp, compile_ = objective.xp, objective.data.backend.compile
        if state.t in _BENDS and _bending_pays(objective):
            blocks = _inverse_hessians(objective, state)
            state = state._replace(inner=self._descent.bend(objective, state.inner, blocks))
        proposal = self._descent.propose(objective, _steered(state.inner))
        loss, smooth, dual, grads = _evaluate(objective, proposal.params, state.width)
        inner = self._descent.judge(objective, state.inner, proposal, smooth, grads)
        value = loss + objective.penalty_value(proposal.params)
        centre, t = inner.preconditioner.centre, state.t + 1
        bundle = compile_(_collect, xp)(state.bundle, grads, dual, centre)
        bound = state.lower_bound
        if t % _EVERY == 0:
            intercept = inner.point[:, -proposal.params.b.shape[1] :]  # at the centre
            bundle, bound = _prove(objective, bundle, state.classes, intercept, state.value, bound)
        least = _LEAST_WIDTH * float(xp.finfo(objective.data.dtype).eps)
        advance = compile_(_advance, least, xp)
        light = cast("Any", state)._replace(
            inner=None, bundle=None, classes=None, lower_bound=bound, t=None
        )
        light = advance(
            *(light, proposal.params, loss, value, loss - smooth),
            *(inner.idle, inner.step_size, self.tol),
        )
        inner = inner._replace(
            step_size=light.step_size,
            value=xp.where(light.fresh, _ANY, inner.value),
            converged=light.converged,
            stalled=light.stalled,
        )
        return light._replace(inner=inner, bundle=bundle, classes=state.classes, t=t)

    def take(self, state: SmoothingState, models: Array, *, xp: Namespace) -> SmoothingState:
        """Return the state of a stack of these models only."""
        inner = self._descent.take(state.inner, models, xp=xp)
        light = cast("Any", state)._replace(inner=None)
        kept = SmoothingState(*take_models(light, models, xp=xp))
        return kept._replace(
            inner=inner, bundle=Bundle(*kept.bundle), classes=Classes(*kept.classes)
        )

    @property
    def _descent(self) -> LBFGS:
        return LBFGS(self.max_iter, 0.0, _MEMORY)


def _advance(
    least: float,
    xp: Namespace,
    state: Any,
    params: Params,
    loss: Array,
    value: Array,
    bias: Array,
    idle: Array,
    step_size: Array,
    tol: float,
) -> Any:
    """Return the state, less its large parts, after the pass at ``params``."""
    better = (value < state.value) & ~state.converged
    best = xp.where(better, value, state.value)
    gap = best - state.lower_bound
    # At the last width: rounding the kinks costs nothing that counts, or nothing that is seen.
    last = (bias <= _LAST_BIAS * tol * best) | (state.width <= least)
    done = (bias > _BIAS * gap) | (idle >= _IDLE) | (state.age > _STAGE)
    done = done & ~state.fresh & ~last
    residual = relative_gap(state.zero, best, state.lower_bound, xp=xp)
    reached = residual <= tol
    stalled = last & (idle >= _PATIENCE) & ~reached & ~state.converged
    stalled = state.stalled | stalled
    again = xp.where(state.fresh, 1.0, step_size)
    return state._replace(
        params=select(better, params, state.params, xp=xp),
        loss=xp.where(better, loss, state.loss),
        step_size=xp.where(done, 0.0, again),
        converged=state.converged | reached | stalled,
        residual=residual,
        stalled=stalled,
        value=best,
        width=xp.where(done, _SHRINK * state.width, state.width),
        fresh=done,
        age=xp.where(done, 0.0, state.age + 1.0),
    )


def _steered(inner: LBFGSState) -> LBFGSState:
    """Return the state with an intercept that does not follow the scale of the weights."""
    pre = inner.preconditioner
    bias = (_INTERCEPT * pre.bias / inner.scale)[:, None]
    return inner._replace(preconditioner=pre._replace(bias=bias))


def _evaluate(
    objective: Objective, params: Params, width: Array
) -> tuple[Array, Array, Array, Params]:
    """Return loss, smoothed loss and dual value ``(m,)``, and the smoothed loss's gradient."""
    data, xp = objective.data, objective.xp
    loss, smooth, dual, dW, db = data.reduce(
        _block_sums, (objective.loss, xp), params, width, scores=objective.m * objective.k
    )
    total = data.weight_sum
    db = db / total[:, None]
    dual = dual / total
    if not objective.fit_intercept:  # b is given: a constant in the scores
        dual = dual + xp.sum(db * xp.astype(params.b, db.dtype), axis=1)
        db = xp.zeros_like(db)
    dW = dW / xp.astype(total, dW.dtype)[:, None]
    return loss / total, smooth / total, dual, Params(dW, xp.astype(db, dW.dtype))


def _block_sums(
    loss: Any, xp: Namespace, block: Block, params: Params, width: Array
) -> tuple[Array, ...]:
    X, y, s = block
    Z = scores(X, params, xp=xp)
    p, m, c = params.W.shape
    value, smooth, A = loss.smoothed(class_scores(Z, xp=xp), y, width, xp=xp)
    dual = -loss.conjugate(A, y, xp=xp)
    if c == 1:
        A = 0.5 * (A[..., 1:] - A[..., :1])
    if s is not None:
        value, smooth, dual, A = value * s, smooth * s, dual * s, A * s[..., None]
    # As in the gradient: the product in this order leaves each column contiguous.
    dW = xp.reshape((xp.reshape(A, (X.shape[0], m * c)).T @ X).T, (p, m, c))
    wide = accumulator(value, xp=xp)
    value, smooth, dual = (xp.sum(a, axis=0, dtype=wide) for a in (value, smooth, dual))
    return value, smooth, dual, dW, xp.sum(A, axis=0, dtype=wide)


def _bending_pays(objective: Objective) -> bool:
    n, p = objective.data.n, objective.data.p
    entries = objective.m * columns(objective.loss, objective.k) * (p + 1) ** 2
    return entries <= _BLOCK_ENTRIES and p * (p + min(n, _ROWS)) <= _WORTH * n


def _inverse_hessians(objective: Objective, state: SmoothingState) -> Array:
    """Return the inverse of each class's block of the Hessian ``(m, c, p + 1, p + 1)``.

    The rows near a kink of a class, a few percent of all, lie elsewhere than the others and
    spread less: in the Gram matrix of all rows, L-BFGS takes many times as many steps.
    """
    data, xp, loss = objective.data, objective.xp, objective.loss
    block = data.sample(max(64, min(_SAMPLE_ROWS, _SAMPLE_ENTRIES // data.p)))
    band = xp.maximum(state.width, xp.full_like(state.width, _BAND * _first_width(loss)))
    weights = data.backend.compile(_curvatures, loss, xp)(block, state.params, band)
    pre, free = state.inner.preconditioner, float(objective.fit_intercept)
    invert = data.backend.compile(_inverse_hessian, free, xp)
    m, c, _ = weights.shape
    inverses = [
        invert(block.X, weights[j, i, :], pre.centre[:, 0], pre.basis, objective.alpha[j])
        for j in range(m)
        for i in range(c)
    ]
    p = data.p + 1
    return xp.reshape(xp.stack(inverses), (m, c, p, p))


def _curvatures(loss: Any, xp: Namespace, block: Block, params: Params, band: Array) -> Array:
    """Return each row's share in the curvature of each column ``(m, c, n)``: near kinks only."""
    X, y, s = block
    Z = class_scores(scores(X, params, xp=xp), xp=xp)
    true = true_class(Z, y, xp=xp)
    # Rounded on both sides of the kink: what is about to cross it counts too.
    Z = xp.where(true, Z - 0.5 * band[:, None], Z)
    A = loss.smoothed(Z, y, band, xp=xp)[2]
    h = xp.where(true, 0.0, A * (1.0 - A)) / band[:, None]
    h = xp.where(true, xp.sum(h, axis=-1, keepdims=True), h)
    total = xp.full_like(band, X.shape[0])
    if s is not None:
        h, total = h * s[..., None], xp.sum(s, axis=0)
    h = h / safe_divisor(total, xp=xp)[:, None]
    return xp.permute_dims(h if params.b.shape[1] > 1 else h[..., 1:], (1, 2, 0))


def _inverse_hessian(
    free: float, xp: Namespace, X: Array, weight: Array, centre: Array, basis: Array, alpha: Array
) -> Array:
    rows = xp.argsort(weight, descending=True)[: min(_ROWS, X.shape[0])]
    h = xp.take(weight, rows)
    h = h * (xp.sum(weight) / safe_divisor(xp.sum(h), xp=xp))
    X = xp.take(X, rows, axis=0) - centre
    X = xp.concat([X, xp.full_like(X[:, :1], free)], axis=1) * xp.sqrt(h)[:, None]
    H = X.T @ X
    # Squared units in which features compare.
    scale = xp.sum(basis * basis, axis=1) if basis.shape[1] else xp.ones_like(centre)
    one = xp.eye(H.shape[0], dtype=H.dtype, device=device(H))
    diagonal = xp.sum(one * H, axis=0)
    typical = _DAMPING * safe_divisor(xp.mean(diagonal[:-1] * scale), xp=xp)
    ridge = 1e-3 * safe_divisor(diagonal[-1:], xp=xp)
    return xp.linalg.inv(H + one * xp.concat([alpha + typical / scale, ridge]))


def _first_width(loss: Any) -> float:
    return getattr(loss, "margin", 0.0) or 1.0


def _classes(objective: Objective, centre: Array) -> Classes:
    data, xp, k = objective.data, objective.xp, objective.k
    like = xp.zeros_like(objective.alpha)
    share, total = data.reduce(_block_classes, (k, xp), like, scores=objective.m * k)
    share = xp.astype(share / data.weight_sum[:, None], total.dtype)
    total = total / xp.astype(data.weight_sum, total.dtype)[:, None, None]
    return Classes(share, total - share[:, :, None] * centre[:, 0])


def _block_classes(k: int, xp: Namespace, block: Block, like: Array) -> tuple[Array, Array]:
    X, y, s = block
    s = xp.ones_like(X[:, :1]) if s is None else s
    m = like.shape[0]
    true = true_class(xp.zeros((1, 1, k), dtype=X.dtype, device=device(X)), y, xp=xp)
    members = (s + like)[:, :, None] * xp.astype(true, X.dtype)  # (n, m, k)
    total = xp.reshape(members, (X.shape[0], m * k)).T @ X
    wide = accumulator(X, xp=xp)
    return xp.sum(members, axis=0, dtype=wide), xp.reshape(total, (m, k, X.shape[1]))


def _collect(xp: Namespace, bundle: Bundle, grads: Params, dual: Array, centre: Array) -> Bundle:
    """Let a new dual point take the place of the oldest."""
    p, m, c = grads.W.shape
    dW = xp.permute_dims(grads.W - spread(centre, grads.b, xp=xp), (1, 2, 0))
    new = (xp.reshape(dW, (m, c * p)), xp.astype(grads.b, dual.dtype), dual)
    return Bundle(
        *(
            xp.concat([old[:, :1, ...], old[:, 2:, ...], point[:, None, ...]], axis=1)
            for old, point in zip(bundle, new, strict=True)
        )
    )


def _prove(
    objective: Objective,
    bundle: Bundle,
    classes: Classes,
    intercept: Array,
    value: Array,
    bound: Array,
) -> tuple[Bundle, Array]:
    """Put the best mixture of the dual points first; return the best bound so far."""
    xp, compile_ = objective.xp, objective.data.backend.compile
    program, point = compile_(_program, xp)(bundle, classes, intercept, value, objective.alpha)
    newton = compile_(_newton, xp)
    for _ in range(_NEWTON):
        point = newton(program, point)
    prove = compile_(_bound, xp)
    return prove(bundle, point.x, classes, value, objective.alpha, bound)


class Program(NamedTuple):
    """Minimize ½ xᵀQx − qᵀx over x ≥ 0 with Ax = (1, 0, …, 0): Q ``(m, d, d)``, A ``(m, r, d)``."""

    Q: Array
    q: Array
    A: Array


class Point(NamedTuple):
    """x ``(m, d)`` and the multipliers of x ≥ 0 and of the equations ``(m, r)``."""

    x: Array
    z: Array
    u: Array


def _program(
    xp: Namespace,
    bundle: Bundle,
    classes: Classes,
    intercept: Array,
    value: Array,
    alpha: Array,
) -> tuple[Program, Point]:
    """Return the search for the best mixture, and where it starts.

    x holds the shares of the points, then what their residuals exceed 0 by, up and down, at
    a price: there is always a solution inside.
    """
    gradients, residuals, values = bundle
    wide, (_, t, c) = values.dtype, residuals.shape
    G = xp.astype(gradients, wide)
    K = G @ xp.matrix_transpose(G) / safe_divisor(xp.astype(alpha, wide), xp=xp)[:, None, None]
    none = xp.concat([0.0 * residuals, 0.0 * residuals], axis=2)
    corner = xp.matrix_transpose(none) @ none
    Q = xp.concat(
        [
            xp.concat([K, none], axis=2),
            xp.concat([xp.matrix_transpose(none), corner], axis=2),
        ],
        axis=1,
    )
    least = xp.min(xp.where(classes.share > 0, classes.share, 1.0), axis=1)
    price = _PRICE * (value / least + xp.max(xp.abs(intercept), axis=1))
    counted = xp.concat([xp.ones_like(values), none[:, 0, :]], axis=1)
    q = xp.concat([values, none[:, 0, :] - price[:, None]], axis=1)
    unit = 0.0 * residuals[:, :1, :] + xp.eye(c, dtype=wide, device=device(values))
    rows = xp.concat([xp.matrix_transpose(residuals), unit, -unit], axis=2)
    A = xp.concat([counted[:, None, :], rows], axis=1)
    excess = xp.max(xp.abs(residuals), axis=(1, 2)) + float(xp.finfo(wide).eps)
    x = xp.where(counted > 0, 1.0 / t, excess[:, None])
    z = xp.zeros_like(x) + xp.max(xp.abs(_times(Q, x) - q), axis=1, keepdims=True)
    return Program(Q, q, A), Point(x, z, xp.zeros_like(A[:, :, 0]))


def _times(M: Array, v: Array) -> Array:
    return (M @ v[:, :, None])[:, :, 0]


def _newton(xp: Namespace, program: Program, point: Point) -> Point:
    """Make one step of the primal-dual interior-point method."""
    Q, q, A = program
    x, z, u = point
    At, r = xp.matrix_transpose(A), A.shape[1]
    tiny = float(xp.finfo(x.dtype).eps)
    # Nothing is gained by coming nearer to the boundary than rounding allows.
    target = _CENTRING * xp.mean(x * z, axis=1, keepdims=True) + tiny * xp.max(
        xp.abs(q), axis=1, keepdims=True
    )
    one = xp.astype(xp.arange(r, dtype=xp.int32, device=device(x)) == 0, x.dtype)
    slope = q + _times(At, u) - _times(Q, x)
    right = xp.concat([target / x + slope, one - _times(A, x)], axis=1)
    diagonal = xp.eye(x.shape[1], dtype=x.dtype, device=device(x)) * (z / x)[:, None, :]
    ridge = xp.eye(r, dtype=x.dtype, device=device(x))
    corner = 0.0 * A[:, :, :r] - tiny * ridge
    M = xp.concat(
        [
            xp.concat([Q + diagonal, At], axis=2),
            xp.concat([A, corner], axis=2),
        ],
        axis=1,
    )
    move = xp.linalg.solve(M, right[:, :, None])[:, :, 0]
    dx, du = move[:, : x.shape[1]], -move[:, x.shape[1] :]
    dz = (target - z * dx) / x - z

    def room(v: Array, dv: Array) -> Array:
        return xp.min(xp.where(dv < 0, -0.99 * v / xp.where(dv < 0, dv, -1.0), 1.0), axis=1)

    step = xp.minimum(room(x, dx), room(z, dz))[:, None]
    return Point(x + step * dx, z + step * dz, u + step * du)


def _bound(
    xp: Namespace,
    bundle: Bundle,
    x: Array,
    classes: Classes,
    best: Array,
    alpha: Array,
    bound: Array,
) -> tuple[Bundle, Array]:
    """Return the bundle with the mixture of shares x first, and the larger of the bounds.

    What is left of the residual is taken away by a point with rows that are alike in each class;
    both together, times 1 − θ, are a dual point again.
    """
    share, wide = x[:, : bundle.values.shape[1]], x.dtype
    share = xp.where(share > 0, share, 0.0)
    total = xp.sum(share, axis=1, keepdims=True)
    first = xp.arange(share.shape[1], dtype=xp.int32, device=device(share)) == 0
    solved = xp.isfinite(total) & (total > 0)
    share = xp.where(solved, share / safe_divisor(total, xp=xp), xp.astype(first, wide))
    mixed = Bundle(
        *((share[:, None, :] @ xp.astype(old, wide))[:, 0, :] for old in bundle[:2]),
        values=xp.sum(share * bundle.values, axis=1),
    )
    bundle = Bundle(
        *(
            xp.concat([xp.astype(new[:, None, ...], old.dtype), old[:, 1:, ...]], axis=1)
            for new, old in zip(mixed, bundle, strict=True)
        )
    )
    r = mixed.residuals
    r = xp.concat([-r, r], axis=1) if r.shape[1] == 1 else r
    share, centre = (xp.astype(a, wide) for a in classes)
    present = share > 0
    # From class to class, what makes up for r: its rows receive −r.
    flow = (r[:, :, None] - r[:, None, :]) / xp.sum(xp.astype(present, wide), axis=1)[:, None, None]
    flow = xp.where((flow > 0) & present[:, :, None] & present[:, None, :], flow, 0.0)
    given = xp.sum(flow, axis=2)
    theta = xp.max(given / safe_divisor(share, xp=xp), axis=1)
    centre = centre / safe_divisor(share, xp=xp)[:, :, None]
    G = xp.matrix_transpose(flow) @ centre - given[:, :, None] * centre
    G = G[:, 1:, :] if mixed.residuals.shape[1] == 1 else G
    G = (1.0 - theta)[:, None] * (mixed.gradients + xp.reshape(G, mixed.gradients.shape))
    alpha = xp.astype(alpha, wide)
    value = (1.0 - theta) * mixed.values - 0.5 * xp.sum(G * G, axis=1) / safe_divisor(alpha, xp=xp)
    # The sums over the rows were made in the dtype of the data.
    value = value - _ROUNDING * float(xp.finfo(bundle.gradients.dtype).eps) * best
    astray = xp.any(~present & (r != 0), axis=1)
    proven = (theta <= 1) & (alpha > 0) & ~astray & (value > bound)
    return bundle, xp.minimum(xp.where(proven, value, bound), best)
