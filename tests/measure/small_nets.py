"""Nets of a few parameters, and samples for them."""

import torch
from torch import nn


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


N = 37
X = drawn(N, 4)
Y = torch.randint(3, (N,), generator=torch.Generator().manual_seed(2))


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = build()
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean)
                nn.init.uniform_(layer.running_var, 0.2, 3)
    return net.double().eval()


def mlp(act=nn.GELU, classes=3):
    return nn.Sequential(nn.Linear(4, 5), act(), nn.Linear(5, classes))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(self.first(x).tanh()))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.aside, self.net, self.scalar = nn.Linear(2, 2), mlp(), nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.net(x)
