import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from qfair_check.measure.fast import AS_IT_IS, speed_up
from qfair_check.measure.group_loss import GroupLoss, Point

N = 9
DRAW = torch.Generator().manual_seed(1)
X = torch.randn(N, 2, 3, 3, generator=DRAW)
Y = torch.randint(3, (N,), generator=DRAW)


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = build()
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.normal_(layer.running_mean)
                nn.init.uniform_(layer.running_var, 0.2, 3)
                if layer.affine:
                    nn.init.normal_(layer.weight)
                    nn.init.normal_(layer.bias)
    return net.eval()


class Two(nn.Module):
    """Two convolutions, each with its BatchNorm or without, and `tie` makes tensors of them one."""

    def __init__(self, tie=lambda net: None, *, second="conv-norm"):
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.b, self.norm_b = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.head = nn.Linear(18, 3)
        self.second = second
        tie(self)

    def forward(self, x):
        x = self.norm_a(self.a(x)).tanh()
        if "conv" in self.second:
            x = self.b(x)
        if "norm" in self.second:
            x = self.norm_b(x)
        return self.head(x.flatten(1))


def tie_convolutions(net):
    net.b.weight = net.a.weight


def tie_convolutions_to_the_second(net):
    net.a.weight = net.b.weight


def tie_norms(net):
    net.norm_b.weight = net.norm_a.weight


def tie_bias_and_gain(net):
    net.norm_a.weight = net.a.bias


def give_second_names(net):
    net.also_a, net.also_norm = net.a, net.norm_a


def convolution(norm=None, **changes):
    settings = {"in_channels": 2, "out_channels": 4, "kernel_size": 2} | changes
    return nn.Sequential(nn.Conv2d(**settings), norm or nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))


KINDS = {
    "bias": (convolution, 1),
    "no bias": (lambda: convolution(bias=False), 1),
    "grouped": (lambda: convolution(groups=2), 1),
    "not affine": (lambda: convolution(nn.BatchNorm2d(4, affine=False)), 1),
    "neither": (lambda: convolution(nn.BatchNorm2d(4, affine=False), bias=False), 1),
    "group norm": (lambda: convolution(nn.GroupNorm(2, 4)), 0),
    "two": (Two, 2),
    "tied, both folded": (lambda: Two(tie_convolutions), 2),
    "tied, the first folded": (lambda: Two(tie_convolutions, second="conv"), 1),
    "tied to the second, the first folded": (lambda: Two(tie_convolutions_to_the_second, second="conv"), 1),
    "tied gains, the first folded": (lambda: Two(tie_norms, second="norm"), 1),
    "tied bias and gain": (lambda: Two(tie_bias_and_gain), 2),
    "second names": (lambda: Two(give_second_names), 2),
    "not used": (lambda: Two(second=""), 1),
}


def assert_exact(net, dense, faster, x=X):
    """The loss, its gradient and Hessian products are those of the net as it was, in float64."""
    net, x = copy.deepcopy(net).double(), x.double()
    point = Point(net, [name for name, _ in net.named_parameters()], faster)
    loss = GroupLoss(point, lambda: [(0, x[:5], Y[:5]), (5, x[5:], Y[5:])], N)
    value, gradient, hessian = dense(net, x, Y)
    products = torch.stack([loss.product(column) for column in torch.eye(point.dimension, dtype=torch.float64)])
    assert loss.loss == pytest.approx(float(value), rel=1e-12)
    torch.testing.assert_close(loss.gradient, gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(products, hessian, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("build", "folds"), KINDS.values(), ids=KINDS)
def test_derivatives_are_those_of_the_weights_before_folding(dense, build, folds):
    net = seeded(build)
    faster = speed_up(net, X)
    assert len(faster.folds) == folds
    assert_exact(net, dense, faster)


@pytest.mark.parametrize(("build", "folds"), KINDS.values(), ids=KINDS)
def test_derivatives_without_folding(dense, build, folds):
    assert_exact(seeded(build), dense, AS_IT_IS)


class Mixed(nn.Module):
    """Convolutions over one, two and three dimensions, and a transposed one."""

    def __init__(self):
        super().__init__()
        self.one, self.norm_one = nn.Conv1d(2, 2, 2), nn.BatchNorm1d(2)
        self.two, self.norm_two = nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2)
        self.three, self.norm_three = nn.Conv3d(2, 2, (1, 2, 2)), nn.BatchNorm3d(2)
        self.back, self.norm_back = nn.ConvTranspose2d(2, 2, 2), nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        one = self.norm_one(self.one(x.flatten(2))).mean(2)
        two = self.norm_two(self.two(x)).tanh().mean((2, 3))
        three = self.norm_three(self.three(x.unsqueeze(2))).sigmoid().mean((2, 3, 4))
        back = self.norm_back(self.back(x)).relu().mean((2, 3))
        return self.head(one * two + three * back)


def test_convolutions_of_all_dimensions(dense):
    net = seeded(Mixed)
    faster = speed_up(net, X)
    assert [name for name, _ in faster.folds] == ["one", "two", "three"]
    assert_exact(net, dense, faster)


def test_nothing_is_folded_where_some_parameter_does_not_count(dense):
    net = seeded(Two)
    faster = speed_up(net, X)
    net = net.double()
    names = [name for name, _ in net.named_parameters() if name != "norm_a.weight"]
    loss = GroupLoss(Point(net, names, faster), lambda: [(0, X.double(), Y)], N)
    _, gradient, hessian = dense(net, X.double(), Y, names)
    vector = torch.randn(len(gradient), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss.gradient, gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss.product(vector), hessian @ vector, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_folded_point_keeps_the_type_of_the_numbers(dtype):
    net = seeded(Two)
    faster = speed_up(net, X)
    net = net.to(dtype)
    loss = GroupLoss(Point(net, [name for name, _ in net.named_parameters()], faster), lambda: [(0, X, Y)], N)
    assert loss.gradient.dtype == loss.product(loss.gradient).dtype == dtype


def test_a_product_gives_no_warning_in_a_new_process():
    script = """if True:
        import warnings
        import torch
        from torch import nn
        from qfair_check.measure.fast import SpeedUp
        from qfair_check.measure.group_loss import GroupLoss, Point

        warnings.simplefilter("error")
        net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Flatten()).eval()
        point = Point(net, [name for name, _ in net.named_parameters()], SpeedUp((("0", "1"),)))
        loss = GroupLoss(point, lambda: [(0, torch.ones(1, 2, 1, 1), torch.tensor([0]))], 1)
        print(loss.product(loss.gradient).shape)
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("torch.Size([10])\n", "")
