"""JAX by hand: an epoch is one jit-compiled scan over mini-batches; schedule as in torch_loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contenders.learning_rate import best_rate
from benchmarks.problems import Fit, Problem, Solution

BATCH, MOMENTUM = 64, 0.9


def prepare(problem: Problem) -> Fit:
    import jax
    import jax.numpy as jnp

    (n, p), k, alpha = problem.X.shape, problem.k, problem.alpha
    steps = n // BATCH  # an incomplete batch would need a program of its own

    def loss(params: Any, X: Any, y: Any) -> Any:
        W, b = params
        log_p = jax.nn.log_softmax(X @ W + b)
        return -jnp.mean(log_p[jnp.arange(BATCH), y]) + 0.5 * alpha * jnp.sum(W * W)

    @jax.jit
    def epoch(carry: Any, order: Any, rates: Any, X: Any, y: Any) -> Any:
        def step(carry: Any, now: Any) -> tuple[Any, None]:
            params, velocity = carry
            batch, rate = now
            grads = jax.grad(loss)(params, X[batch], y[batch])
            velocity = jax.tree.map(lambda v, g: MOMENTUM * v - rate * g, velocity, grads)
            return (jax.tree.map(jnp.add, params, velocity), velocity), None

        return jax.lax.scan(step, carry, (order, rates))[0]

    def train(rate: float, epochs: int) -> Solution:
        X, y = jnp.asarray(problem.X), jnp.asarray(problem.y, dtype=jnp.int32)
        rng, zeros = np.random.default_rng(0), (jnp.zeros((p, k)), jnp.zeros(k))
        rates = rate * np.linspace(1, 0, epochs * steps, endpoint=False, dtype=np.float32)
        carry = (zeros, zeros)
        for now in rates.reshape(epochs, steps):
            order = rng.permutation(n)[: steps * BATCH].reshape(steps, BATCH)
            carry = epoch(carry, jnp.asarray(order, dtype=jnp.int32), jnp.asarray(now), X, y)
        W, b = carry[0]
        return np.asarray(W).T, np.asarray(b)

    rate = best_rate(problem, train)
    return lambda budget: train(rate, budget)
