import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from qfair_check import audit, quantize_model
from qfair_check.cli import main
from qfair_check.curvature_record import GroupCurvature
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.measure.group_loss import GroupLoss, Point
from qfair_check.measure.second_order import Move, Parts, account, move, parts

SIZE = 90
RNG = np.random.default_rng(3)
X = RNG.normal(size=(SIZE, 5)).astype(np.float32)
Y = RNG.integers(3, size=SIZE)
GROUP = np.array(["a", "b"])[(RNG.random(SIZE) < 0.3).astype(int)]


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3)).eval()


def loss_of(net, members):
    """Return the mean loss as a function of all parameters, in float64."""
    double = copy.deepcopy(net).double()
    x, y = torch.from_numpy(X[members]).double(), torch.from_numpy(Y[members])
    return lambda values: cross_entropy(functional_call(double, values, (x,)), y)


def densely(net, quantized, members):
    """Return first and second order by tensor, and the measured change, from the whole Hessian in float64."""
    loss = loss_of(net, members)
    before = {name: value.detach().double() for name, value in net.named_parameters()}
    after = {name: value.detach().double() for name, value in quantized.named_parameters()}
    change = {name: after[name] - before[name] for name in before}
    gradient, hessian = torch.func.grad(loss)(before), torch.func.jacrev(torch.func.grad(loss))(before)
    first, second = {}, {}
    for name, d in change.items():
        first[name] = float((gradient[name] * d).sum())
        product = sum(torch.tensordot(hessian[name][other], moved, moved.ndim) for other, moved in change.items())
        second[name] = float((product * d).sum()) / 2
    return first, second, float(loss(after) - loss(before)), change


@pytest.mark.parametrize("bits", ["fp16", 8, 4, 2])
def test_the_account_is_that_of_the_dense_hessian(bits):
    net = mlp()
    made = audit(net, (X, Y, GROUP), bits, curvature=CurvatureOptions())
    result = made.at(bits)
    quantized = quantize_model(net, bits).module
    moved = ("0.weight", "3.weight", "0.bias", "3.bias") if bits == "fp16" else ("0.weight", "3.weight")
    assert result.moved == moved
    for name, curvature, before in zip(made.groups, result.curvature, made.fp32.curvature, strict=True):
        first, second, measured, change = densely(net, quantized, name == GROUP)
        assert {name for name, d in change.items() if d.any()} == set(moved)
        told = curvature.account
        assert told.first_order == pytest.approx([first[name] for name in moved], rel=1e-4, abs=1e-8)
        assert told.second_order == pytest.approx([second[name] for name in moved], rel=1e-4, abs=1e-8)
        assert told.measured == pytest.approx(measured, rel=1e-3, abs=1e-6)
        assert told.measured == curvature.loss - before.loss
        assert told.predicted == pytest.approx(sum(told.by_tensor), rel=1e-12, abs=1e-15)
        assert told.by_tensor == pytest.approx([first[name] + second[name] for name in moved], rel=1e-3, abs=1e-8)
        distance = float(torch.sqrt(sum((d**2).sum() for d in change.values())))
        bound = before.gradient_norm * distance + before.lambda_max * distance**2 / 2
        assert told.bound == pytest.approx(bound, rel=1e-4)
        assert told.predicted <= told.bound


def test_nothing_is_accounted_for_at_fp32():
    made = audit(mlp(), (X, Y, GROUP), [8], curvature=CurvatureOptions())
    assert [group.account for group in made.fp32.curvature] == [None, None]
    assert made.fp32.moved == ()


def parts_along(scale):
    """Return the parts of a move that is scaled, and by how much they miss the change of the loss, in float64."""
    net, members = mlp().double(), GROUP == "a"
    whole = move(net, quantize_model(mlp(), 3).module.double(), ("3.weight", "0.weight"))
    scaled = Move({name: change * scale for name, change in whole.changes.items()})
    point = Point(net, [name for name, _ in net.named_parameters()])
    batch = torch.from_numpy(X[members]).double(), torch.from_numpy(Y[members])
    group = GroupLoss(point, lambda: [(0, *batch)], int(members.sum()))
    found = parts(point, group, scaled, is_trained=True)
    loss = loss_of(mlp(), members)
    values = {name: value.detach() for name, value in net.named_parameters()}
    after = values | {name: values[name] + change for name, change in scaled.changes.items()}
    predicted = sum(found.first_order) + sum(found.second_order)
    return scaled, found, predicted - float(loss(after) - loss(values))


def test_what_is_left_is_of_third_order():
    errors = [parts_along(scale)[2] for scale in (0.2, 0.1, 0.05)]
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(8, rel=0.2)


def test_quantized_weights_come_first_in_their_order_and_parts_follow():
    scaled, found, _ = parts_along(1.0)
    assert scaled.names == ("3.weight", "0.weight")
    assert len(found.first_order) == len(found.second_order) == 2
    norms = [float(change.norm()) for change in scaled.changes.values()]
    assert found.distance == pytest.approx(np.hypot(*norms))


@pytest.mark.parametrize(
    ("is_trained", "changes", "bound"),
    [
        (True, {}, 3 * 0.5 + 4 * 0.25 / 2),
        (True, {"lambda_max": -4.0}, 3 * 0.5),
        (True, {"converged": False}, None),
        (True, {"lambda_max": None, "converged": False}, None),
        (False, {}, None),
    ],
)
def test_the_bound_needs_a_converged_eigenvalue_of_all_that_is_moved(make_curvature, is_trained, changes, bound):
    found = Parts((0.1,), (0.2,), distance=0.5, gradient_norm=3.0, is_trained=is_trained)
    before = make_curvature(50, loss=0.5, **changes)
    told = account(found, before, make_curvature(50, loss=0.75))
    assert (told.measured, told.bound) == (0.25, bound)
    assert told.predicted == pytest.approx(0.3)


def test_without_a_loss_there_is_no_account(make_curvature):
    found = Parts((0.1,), (0.2,), 0.5, 3.0, True)
    assert account(found, make_curvature(50), GroupCurvature(50)) is None
    assert account(found, GroupCurvature(50), make_curvature(50)) is None


def test_weights_that_are_quantized_but_not_trained_are_accounted_for_without_a_bound():
    net, plain = mlp(), mlp()
    for name in ("0.weight", "0.bias"):
        net.get_parameter(name).requires_grad_(False)
    options = {"bits": "fp16,4", "curvature": CurvatureOptions()}
    made, whole = audit(net, (X, Y, GROUP), **options), audit(plain, (X, Y, GROUP), **options)
    for bits in ("fp16", 4):
        assert made.at(bits).moved == whole.at(bits).moved
        for told, expected in zip(made.at(bits).curvature, whole.at(bits).curvature, strict=True):
            assert told.account.by_tensor == pytest.approx(expected.account.by_tensor, rel=1e-4, abs=1e-8)
            assert told.account.bound is None
            assert told.gradient_norm < expected.gradient_norm
    assert made.settings.curvature.parameters == whole.settings.curvature.parameters - 42


class Spoiled(nn.Module):
    """Half of the features goes through `left`, half through `right`, whose one huge weight is never in use.

    At four bits the huge weight makes the grid of `right` so coarse that all others become zero.
    """

    def __init__(self, size=1.5, outlier=30.0):
        super().__init__()
        self.stem, self.left, self.right = nn.Linear(7, 7), nn.Linear(3, 3), nn.Linear(4, 3)
        with torch.no_grad():
            for value in self.parameters():
                value.zero_()
            self.stem.weight.copy_(torch.eye(7))
            self.left.weight.copy_(size * torch.eye(3) + 0.1 * torch.ones(3, 3))
            self.right.weight[:, :3] = size * torch.eye(3) + 0.1 * torch.ones(3, 3)
            self.right.weight[0, 3] = outlier

    def forward(self, x):
        x = self.stem(x)
        return self.left(x[:, :3]) + self.right(x[:, 3:])


def of_two_groups():
    """Return samples whose class is in the first three features for the majority, and in the next for the minority."""
    rng = np.random.default_rng(0)
    classes = rng.integers(3, size=200)
    group = np.array(["majority", "minority"])[(np.arange(200) % 5 == 0).astype(int)]
    x = np.zeros((200, 7), np.float32)
    x[np.arange(200), classes + 3 * (group == "minority")] = 1
    x[:, :6] += 0.1 * rng.normal(size=(200, 6))
    return x, classes, group


@pytest.fixture
def explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")

    def explain(net, bits):
        made = audit(net, of_two_groups(), bits, curvature=CurvatureOptions())
        made.save(tmp_path / "audit.json")
        assert main(["explain", str(tmp_path / "audit.json"), "--bits", str(bits)]) == 0
        return made.at(bits), capsys.readouterr().out

    return explain


def test_a_spoiled_layer_that_hurts_one_group_is_named(explained):
    result, text = explained(Spoiled(), 4)
    majority, minority = (group.account for group in result.curvature)
    spoiled = result.moved.index("right.weight")
    assert max(range(3), key=minority.by_tensor.__getitem__) == spoiled
    assert minority.by_tensor[spoiled] > 0.2
    assert minority.by_tensor[spoiled] > 10 * abs(majority.by_tensor[spoiled])
    assert minority.measured > 0.3
    assert abs(majority.measured) < 0.05
    headline = next(line for line in text.splitlines() if line.startswith("int4:"))
    assert headline.startswith("int4: layer right costs group minority most: +0.")
    assert "--layer-bits right=8" in text
    assert "the expansion does not hold" not in text


def test_the_cure_that_it_names_helps(explained):
    from qfair_check.quantize.allocation import Allocation

    cured = audit(Spoiled(), of_two_groups(), 4, curvature=CurvatureOptions(), allocation=Allocation.of("right=8"))
    assert max(group.account.measured for group in cured.at(4).curvature) < 0.1
    assert max(group.account.measured for group in explained(Spoiled(), 8)[0].curvature) < 0.1


def test_where_the_expansion_breaks_down_the_gap_is_told(explained):
    result, text = explained(Spoiled(size=9.0, outlier=90.0), 2)
    told = result.curvature[1].account
    assert abs(told.predicted) < 0.05
    assert told.measured > 1
    warning = next(line for line in text.splitlines() if line.startswith("warning"))
    assert f"minority (predicted {told.predicted:+.2f}, measured {told.measured:+.2f})" in warning
    assert "the expansion does not hold here for" in warning
