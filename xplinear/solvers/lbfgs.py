"""Limited-memory BFGS in the metric of the Gram matrix, for m models at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from xplinear.arguments import FLAG, integer, number, one_of, settle
from xplinear.data.rows import centred_scores
from xplinear.losses import Loss
from xplinear.namespace import Array, Namespace, device
from xplinear.objective import Objective, Params, weighted_penalty
from xplinear.penalties import Penalty
from xplinear.solvers.balance import Smooth, evened, smooth
from xplinear.solvers.curvature import curvature_pays, mean_inverse_hessians
from xplinear.solvers.gram import Preconditioner, gram_pays, preconditioner
from xplinear.solvers.metric import penalty_curvature, safe_divisor, sample_loss, uncentred
from xplinear.solvers.newton import Newton
from xplinear.solvers.protocol import check_suits, max_iter_iterations, take_models
from xplinear.solvers.report import Report, first_report
from xplinear.solvers.stopping import backtracked, decreases, moved, relative_excess

__all__ = ["LBFGS", "LBFGSState", "Proposal"]

_UNTOLD = 0.03  # the metric alone is at times 1000 times too steep
_LONG = 1e-5  # of the weights: steps that are followed by more
_TRIED = 200  # iterations before a Newton step is worth what it costs
_AFFORDABLE_STEP = 5e9  # operations of one: some tenths of a second
_FACTOR = 4.0  # from one length of the first step to the next


class Proposal(NamedTuple):
    """Trial points, as vectors ``(m, c p + c)`` and as parameters, and the slope on the way."""

    point: Array
    params: Params
    slope: Array


class LBFGSState(NamedTuple):
    """State of `LBFGS`; vectors ``(m, c p + c)`` hold W and the intercept at the centre."""

    params: Params
    report: Report
    point: Array
    gradient: Array
    value: Array
    zero: Array  # F at W = 0, b = 0
    idle: Array  # steps in a row without a decrease above rounding
    steps: Array  # (m, memory, c p + c), newest last; 0 where a pair is empty
    changes: Array
    scale: Array
    preconditioner: Preconditioner


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS for smooth losses and penalties, preconditioned by the features' Gram matrix.

    H approximates the inverse Hessian from the last ``memory`` steps, starting from
    $γ (c·(XᵀX/n + δI) + αI)⁻¹$, c the loss's curvature bound (Böhning), X centred. One
    eigendecomposition, of a sample of the rows, serves every α of a stack. Each iteration is
    one pass over the data for all models: a model whose trial point does not decrease F enough
    shortens its step. The first step is the best of a few lengths on a sample of the rows.

    Parameters
    ----------
    max_iter : int, default 1000
    tol : float, default 1e-4
        Stop a model when $√(½ gᵀHg / 10 (F(0) − F))$ is at most ``tol``: ½ gᵀHg estimates what F
        exceeds its minimum by. It depends neither on the units of the features nor on the start.
    memory : int, default 10
        Pairs of steps and gradient changes kept.
    gram : "auto" or bool, default "auto"
        Whether to use the Gram matrix; "auto" where p ≤ 4096 and its eigendecomposition costs
        less than the passes it saves.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or loss or penalty are kinked.

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4; Böhning, Multinomial
    logistic regression algorithm, AISM 1992.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import xplinear as xl
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = xl.LinearClassifier(solver="lbfgs", alpha=0.01, tol=1e-6).fit(X, y)
    >>> round(clf.objective_, 4)
    0.0537
    """

    max_iter: int = 1000
    tol: float = 1e-4
    memory: int = 10
    gram: Literal["auto"] | bool = "auto"

    state_type = LBFGSState
    iterations = max_iter_iterations

    def __post_init__(self) -> None:
        gram = one_of("auto") | FLAG
        settle(self, max_iter=integer(1), tol=number("[0, inf)"), memory=integer(1), gram=gram)

    def refuses(self, loss: Loss, penalty: Penalty) -> str | None:
        """Refuse what is kinked."""
        kinds = (loss, "loss", "'smoothing' or 'sgd'"), (penalty, "penalty", "'proximal_lbfgs'")
        for part, kind, remedy in kinds:
            if not part.smooth:
                return f"solver 'lbfgs' needs a smooth {kind}, got {part!r}; use {remedy}"
        return None

    def planned(self, objective: Objective) -> LBFGS:
        """Let one Gram matrix serve all models."""
        return replace(self, gram=gram_pays(objective)) if self.gram == "auto" else self

    def relay(self, objective: Objective) -> tuple[LBFGS, Newton] | None:
        """Where this is slow, its metric does not suit the data: exact Hessians do."""
        rest = self.max_iter - _TRIED
        if rest < 1 or not Newton().pays(objective, most=_AFFORDABLE_STEP):
            return None
        return replace(self, max_iter=_TRIED), Newton(rest, self.tol)

    def init(self, objective: Objective, params: Params) -> LBFGSState:
        """Evaluate the start and decompose the Gram matrix."""
        check_suits(self, objective)
        params = evened(objective, params)
        return self.start(objective, params, objective.data_loss_and_grad(params))

    def start(
        self, objective: Objective, params: Params, found: tuple[Array, Params]
    ) -> LBFGSState:
        """Return the first state from the mean loss and its gradients at ``params``."""
        xp = objective.xp
        gram = gram_pays(objective) if self.gram == "auto" else self.gram
        pre = preconditioner(objective, gram=gram)
        point = _point(params, pre.centre, xp=xp)
        value, gradient = _evaluate(
            smooth(objective), xp, point, found, pre.centre, objective.alpha
        )
        nothing = xp.zeros_like(gradient[:, 0])
        empty = xp.stack([xp.zeros_like(point)] * self.memory, axis=1)
        state = LBFGSState(
            params=params,
            report=first_report(found[0], xp.ones_like(nothing), xp=xp),
            point=point,
            gradient=gradient,
            value=value,
            zero=objective.loss_at_zero(),
            idle=nothing,
            steps=empty,
            changes=empty,
            scale=xp.ones_like(nothing),
            preconditioner=pre,
        )
        state = state._replace(scale=_first_scale(objective, state))
        measured = objective.data.backend.compile(_measured, xp)(state, self.tol)
        return measured._replace(preconditioner=pre)

    def step(self, objective: Objective, state: LBFGSState) -> LBFGSState:
        """Try one step for every model; keep it where F decreases enough."""
        proposal = self.propose(objective, state)
        found = objective.data_loss_and_grad(proposal.params)
        return self.judge(objective, state, proposal, found)

    def propose(self, objective: Objective, state: LBFGSState) -> Proposal:
        """Return the points to evaluate next."""
        propose = objective.data.backend.compile(_propose, objective.fit_intercept, objective.xp)
        return propose(state)

    def judge(
        self,
        objective: Objective,
        state: LBFGSState,
        proposal: Proposal,
        found: tuple[Array, Params],
    ) -> LBFGSState:
        """Return the next state from the mean loss and its gradients at the proposal."""
        judge = objective.data.backend.compile(_judge, smooth(objective), objective.xp)
        judged = judge(state, objective.alpha, proposal, found, self.tol)
        # What went through JAX's compiler is another array: keep the one there is.
        return judged._replace(preconditioner=state.preconditioner)

    def take(self, state: LBFGSState, models: Array, *, xp: Namespace) -> LBFGSState:
        """Return the state of a stack of these models only."""
        own = state.preconditioner.take(models, xp=xp)
        return take_models(state, models, xp=xp, preconditioner=own)

    def ahead(self, objective: Objective, state: LBFGSState) -> Params:
        """Return where the next full step leads."""
        return self.propose(objective, _free(state, xp=objective.xp)).params

    def bend(self, objective: Objective, state: LBFGSState, blocks: Array) -> LBFGSState:
        """Return the state preconditioned by inverse Hessians ``(m, c, p + 1, p + 1)``."""
        even = 1.0 if smooth(objective).even else 0.0
        pre = state.preconditioner._replace(blocks=blocks, even=even)
        scale = objective.data.backend.compile(_rescaled, objective.xp)
        return state._replace(preconditioner=pre, scale=scale(state, pre))

    def curved(self, objective: Objective, state: LBFGSState, iterations: int) -> LBFGSState:
        """Return the state preconditioned by the Hessian of the mean model.

        Where that costs more than half of so many ``iterations``, it stays as it is.
        """
        if not curvature_pays(objective, iterations):
            return state
        blocks = mean_inverse_hessians(objective, state.params, state.preconditioner)
        return self.bend(objective, state, blocks)

    def follow(
        self, objective: Objective, params: Params, previous: LBFGSState, before: Array
    ) -> LBFGSState:
        """Return the first state of models that differ from earlier ones in α only.

        Parameters
        ----------
        objective : Objective
        params : Params
            Where to start; best extrapolated from the models before.
        previous : LBFGSState
            Their last state: its preconditioner stays, and so do the curvature pairs of all but
            tiny steps, corrected for α.
        before : Array of shape (m,)
            Their α.
        """
        xp, compile_ = objective.xp, objective.data.backend.compile
        params = evened(objective, params)
        found = objective.data_loss_and_grad(params)
        follow = compile_(_follow, smooth(objective), xp)
        state = follow(previous, params, found, before, objective.alpha)
        ridge = penalty_curvature(objective)
        pre = previous.preconditioner.strengthened(ridge, params.b.shape[1], xp=xp)
        state = state._replace(preconditioner=pre)
        return compile_(_measured, xp)(state, self.tol)._replace(preconditioner=pre)


def _vector(params: Params, *, xp: Namespace) -> Array:
    """Return W and b as one vector per model ``(m, c p + c)``, W in its order in memory."""
    W, b = params
    p, m, c = W.shape
    return xp.concat([xp.reshape(xp.permute_dims(W, (1, 2, 0)), (m, c * p)), b], axis=1)


def _params_of(vector: Array, c: int, *, xp: Namespace) -> Params:
    """Return the W and b that `_vector` makes one vector of."""
    m, d = vector.shape
    W = xp.reshape(vector[:, : d - c], (m, c, d // c - 1))
    return Params(xp.permute_dims(W, (2, 0, 1)), vector[:, d - c :])


def _dot(a: Array, b: Array, *, xp: Namespace) -> Array:
    """Return the inner products ``(m,)``."""
    return xp.sum(a * b, axis=1)


def _point(params: Params, centre: Array, *, xp: Namespace) -> Array:
    """Return W and the intercept at the centre as a vector ``(m, c p + c)``."""
    W, b = params
    return _vector(Params(W, b + centred_scores(centre, W, xp=xp)), xp=xp)


def _follow(
    shape: Smooth,
    xp: Namespace,
    previous: LBFGSState,
    params: Params,
    found: tuple[Array, Params],
    before: Array,
    alpha: Array,
) -> LBFGSState:
    """Return the state of `LBFGS.follow`, all but its preconditioner."""
    centre, c = previous.preconditioner.centre, params.b.shape[1]
    point = _point(params, centre, xp=xp)
    value, gradient = _evaluate(shape, xp, point, found, centre, alpha)

    (m, memory, d), steps = previous.steps.shape, previous.steps
    bent = shape.penalty.grad(_params_of(xp.reshape(steps, (m * memory, d)), c, xp=xp).W, xp=xp)
    bent = _vector(Params(bent, xp.zeros_like(bent[0, :, :])), xp=xp)
    changes = previous.changes + (alpha - before)[:, None, None] * xp.reshape(bent, steps.shape)
    curvature, length = (xp.sum(steps * a, axis=2) for a in (changes, steps))
    # The tiny steps at the end of a fit say nothing of the long way to the next strength.
    short = _LONG**2 * _dot(point, point, xp=xp)
    keep = ((curvature > 1e-12 * length) & (length > short[:, None]))[:, :, None]
    return previous._replace(
        params=params,
        report=first_report(found[0], xp.ones_like(previous.report.step_size), xp=xp),
        point=point,
        gradient=gradient,
        value=value,
        idle=xp.zeros_like(previous.idle),
        steps=xp.where(keep, steps, 0.0),
        changes=xp.where(keep, changes, 0.0),
    )


def _first_scale(objective: Objective, state: LBFGSState) -> Array:
    """Return the factor of H ``(m,)`` whose first step decreases F most on a sample.

    At zero the Hessian of k classes can be k times flatter than the curvature bound.
    """
    xp, compile_ = objective.xp, objective.data.backend.compile
    scale = xp.ones_like(state.scale)
    if objective.k < _FACTOR:
        return scale
    best, factor = xp.full_like(state.value, xp.inf), 1.0
    while factor <= objective.k:
        tried = state._replace(scale=factor * xp.ones_like(scale))
        _, params, _ = compile_(_propose, objective.fit_intercept, xp)(tried)
        value = sample_loss(objective, params) + objective.penalty_value(params)
        better = value < best
        scale, best = xp.where(better, factor, scale), xp.where(better, value, best)
        factor *= _FACTOR
    return scale


def _evaluate(
    shape: Smooth,
    xp: Namespace,
    point: Array,
    found: tuple[Array, Params],
    centre: Array,
    alpha: Array,
) -> tuple[Array, Array]:
    """Return F ``(m,)`` and its gradient ``(m, c p + c)`` at the centre."""
    loss, grads = found
    W = _params_of(point, grads.b.shape[1], xp=xp).W
    gradient = _vector(shape.gradient(W, grads, centre, alpha, xp=xp), xp=xp)
    return loss + weighted_penalty(shape.penalty, xp, W, alpha), gradient


def _rescaled(xp: Namespace, state: LBFGSState, pre: Preconditioner) -> Array:
    """Return the factor of H ``(m,)`` that suits the newest pair."""
    step, change = state.steps[:, -1, :], state.changes[:, -1, :]
    bent = _dot(change, pre.times(change, state.params.b.shape[1], xp=xp), xp=xp)
    scale = _dot(step, change, xp=xp) / xp.where(bent > 0.0, bent, 1.0)
    return xp.where((bent > 0.0) & (scale > 0.0), scale, 1.0)


def _free(state: LBFGSState, *, xp: Namespace) -> LBFGSState:
    """Return the state of models that all make a full step."""
    report = state.report
    step_size = xp.ones_like(report.step_size)
    return state._replace(report=report._replace(converged=report.diverged, step_size=step_size))


def _measured(xp: Namespace, state: LBFGSState, tol: float) -> LBFGSState:
    """Return a first state with its residual: a start may already be good."""
    residual = _residual(state, _propose(False, xp, _free(state, xp=xp)).slope, xp=xp)
    converged = residual <= _bar(tol, state, xp=xp)
    return state._replace(report=state.report._replace(residual=residual, converged=converged))


def _bar(tol: float, state: LBFGSState, *, xp: Namespace) -> Array:
    """Return what the residual must reach: less, where no step has told of the curvature yet."""
    told = xp.any(state.steps != 0.0, axis=(1, 2))
    return tol * xp.where(told, 1.0, xp.full_like(state.report.step_size, _UNTOLD))


def _residual(state: LBFGSState, slope: Array, *, xp: Namespace) -> Array:
    """Return the residual from the slope of F on the way to the next full step.

    The damping of the metric drowns directions of little variance. Without it, the metric bounds
    the curvature, and so from below what is left to gain along the basis, or by one weight alone.
    """
    (m, c), pre = state.params.b.shape, state.preconditioner
    W = xp.reshape(state.gradient[:, :-c], (m, c, -1))
    if pre.basis.shape[1]:
        units = xp.sum(pre.basis * pre.basis, axis=0)
        turned = xp.reshape(W, (m * c, -1)) @ pre.basis
        bound = safe_divisor(pre.bound + pre.ridge[:, None] * units, xp=xp)
        gain = xp.sum(xp.reshape(turned * turned, (m, c, -1)) / bound[:, None, :], axis=(1, 2))
    else:
        bound = safe_divisor(pre.bound + pre.ridge[:, None], xp=xp)
        gain = xp.max(W * W / bound[:, None, :], axis=(1, 2))
    return relative_excess(state.zero, state.value, 0.5 * xp.maximum(-slope, gain), xp=xp)


def _direction(state: LBFGSState, *, xp: Namespace) -> Array:
    """Return Hg ``(m, c p + c)``, the two loops over the pairs as solutions of triangular systems.

    With R the upper triangle of the products s_i·y_j, pairs scaled such that s_i·y_i = 1, the
    shares of the first loop are a = R⁻¹Sg, those of the second R⁻ᵀ(a − YH₀(g − Yᵀa)).
    """
    S, Y, c = state.steps, state.changes, state.params.b.shape[1]
    products = S @ xp.matrix_transpose(Y)
    square = xp.linalg.diagonal(products)
    unit = (1.0 / xp.sqrt(safe_divisor(square, xp=xp)))[:, :, None]
    R = xp.triu(unit * products * xp.matrix_transpose(unit), k=1)
    R = R + xp.eye(S.shape[1], dtype=S.dtype, device=device(S))
    first = xp.linalg.solve(R, unit * (S @ state.gradient[:, :, None]))
    left = state.gradient - (xp.matrix_transpose(unit * first) @ Y)[:, 0, :]
    left = state.preconditioner.times(left, c, xp=xp) * state.scale[:, None]
    second = first - unit * (Y @ left[:, :, None])
    second = unit * xp.linalg.solve(xp.matrix_transpose(R), second)
    return left + (xp.matrix_transpose(second) @ S)[:, 0, :]


def _propose(fit_intercept: bool, xp: Namespace, state: LBFGSState) -> Proposal:
    """Return the trial points of one step."""
    direction, c = _direction(state, xp=xp), state.params.b.shape[1]
    length = state.report.step_size * xp.astype(~state.report.converged, direction.dtype)
    trial = state.point - length[:, None] * direction
    centre = state.preconditioner.centre
    params = uncentred(fit_intercept, centre, _params_of(trial, c, xp=xp), xp=xp)
    return Proposal(trial, params, -length * _dot(direction, state.gradient, xp=xp))


def _judge(
    shape: Smooth,
    xp: Namespace,
    state: LBFGSState,
    alpha: Array,
    proposal: Proposal,
    found: tuple[Array, Params],
    tol: float,
) -> LBFGSState:
    """Keep the trial points that are good enough, and learn the curvature on the way there."""
    trial, params, slope = proposal
    report, pre = state.report, state.preconditioner
    value, gradient = _evaluate(shape, xp, trial, found, pre.centre, alpha)
    accept = decreases(state, value, slope, xp=xp) & ~report.converged

    step, change = trial - state.point, gradient - state.gradient
    curvature = _dot(step, change, xp=xp)
    # What a rejected step met is left out: far from the valley it misleads.
    useful = accept & (curvature > 1e-12 * _dot(step, step, xp=xp))
    curvature = xp.where(useful, curvature, 1.0)
    bent = _dot(change, pre.times(change, params.b.shape[1], xp=xp), xp=xp)
    scale = xp.where(useful, curvature / xp.where(useful, bent, 1.0), state.scale)

    def remembered(past: Array, newest: Array) -> Array:
        shifted = xp.concat([past[:, 1:, :], newest[:, None, :]], axis=1)
        return xp.where(useful[:, None, None], shifted, past)

    shorter = backtracked(state.value, value, slope, xp=xp)
    keep = accept[:, None]
    # Of the point before: the direction from here is not known yet.
    residual = _residual(state, slope / safe_divisor(report.step_size, xp=xp), xp=xp)
    residual = xp.where(report.converged, report.residual, residual)
    step_size = xp.where(accept, 1.0, shorter * report.step_size)
    bar = _bar(tol, state, xp=xp)
    state = moved(state, accept, params, found[0], value, step_size, residual, bar, xp=xp)
    return state._replace(
        point=xp.where(keep, trial, state.point),
        gradient=xp.where(keep, gradient, state.gradient),
        steps=remembered(state.steps, step),
        changes=remembered(state.changes, change),
        scale=scale,
    )
