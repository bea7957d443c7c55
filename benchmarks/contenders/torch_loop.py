"""PyTorch's mini-batch loop: momentum, a rate that falls linearly to 0 over the budget."""

from __future__ import annotations

from benchmarks.contenders.learning_rate import best_rate
from benchmarks.problems import Fit, Problem, Solution

BATCH, MOMENTUM = 64, 0.9


def prepare(problem: Problem) -> Fit:
    import torch

    X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)

    def train(rate: float, epochs: int) -> Solution:
        torch.manual_seed(0)
        model = torch.nn.Linear(X.shape[1], problem.k)
        groups = [
            {"params": [model.weight], "weight_decay": problem.alpha},
            {"params": [model.bias]},
        ]
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM)
        steps = epochs * -(-len(X) // BATCH)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        for _ in range(epochs):
            for batch in torch.randperm(len(X)).split(BATCH):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(X[batch]), y[batch]).backward()
                optimizer.step()
                decay.step()
        return model.weight.detach().numpy(), model.bias.detach().numpy()

    rate = best_rate(problem, train)
    return lambda budget: train(rate, budget)
