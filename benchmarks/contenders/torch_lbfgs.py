"""torch.optim.LBFGS with its strong Wolfe line search, on all rows at once."""

from __future__ import annotations

from benchmarks.problems import Fit, Problem, Solution


def prepare(problem: Problem) -> Fit:
    import torch

    X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)

    def fit(budget: int) -> Solution:
        W = torch.zeros(problem.k, X.shape[1], requires_grad=True)
        b = torch.zeros(problem.k, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [W, b],
            max_iter=budget,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(X @ W.T + b, y)
            loss = loss + 0.5 * problem.alpha * torch.sum(W * W)
            loss.backward()
            return loss

        optimizer.step(closure)
        return W.detach().numpy(), b.detach().numpy()

    return fit
