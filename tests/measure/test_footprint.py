import re
from itertools import pairwise

import pytest
import torch
from torch import nn

from qfair_check.errors import OptionError
from qfair_check.measure.chunks import CHUNK
from qfair_check.measure.footprint import LEAST_VECTORS, MOST_VECTORS, plan
from qfair_check.measure.group_loss import Point

MIB = 2**20


def point_of(net):
    return Point(net.eval(), [name for name, _ in net.named_parameters()])


WIDE = point_of(nn.Sequential(nn.Flatten(), nn.Linear(1024, 256), nn.Tanh(), nn.Linear(256, 3)))
DEEP = point_of(
    nn.Sequential(
        *(nn.Sequential(nn.Conv2d(1, 64, 3), nn.SiLU(), nn.Conv2d(64, 1, 3)) for _ in range(4)),
        nn.Flatten(),
        nn.Linear(256, 3),
    )
)
IMAGES = torch.zeros(CHUNK, 1, 32, 32)
POINTS = pytest.mark.parametrize("point", [WIDE, DEEP], ids=["wide", "deep"])


def refusal(point, memory):
    with pytest.raises(OptionError) as raised:
        plan([point], IMAGES, memory, 0)
    return str(raised.value)


def asked_for(told):
    """Return the bytes that a refusal asks for, and how exactly it says so."""
    number, letter = re.search(r"takes ([\d,]+) ([KM])iB", told).groups()
    unit = {"K": 2**10, "M": MIB}[letter]
    return int(number.replace(",", "")) * unit, unit


def from_least(point):
    """Return plans from the least memory on, a fifth more each time."""
    least, _ = asked_for(refusal(point, 1))
    return [plan([point], IMAGES, int(least * 1.2**step), 0) for step in range(30)]


@POINTS
def test_less_memory_holds_no_more(point):
    plans = from_least(point)
    assert plans[-1].chunk == CHUNK
    for less, more in pairwise(plans):
        assert less.chunk <= more.chunk
        assert less.vectors <= more.vectors
        assert less.kept <= more.kept or less.chunk < more.chunk


def test_the_chunk_is_halved_until_it_fits():
    assert {made.chunk for made in from_least(DEEP)} == {1, 2, 4, 8, 16, 32, 64}


def test_vectors_take_a_quarter_of_the_memory_or_are_few():
    plans = from_least(WIDE)
    assert plans[0].vectors == LEAST_VECTORS
    assert plans[-1].vectors == MOST_VECTORS


@POINTS
def test_what_is_asked_for_is_enough(point):
    told = refusal(point, 3 * MIB // 2)
    message = (
        r"measuring curvature of this model takes [\d,]+ [KM]iB for one sample, and "
        r"--qfair-curvature-memory allows 1,536 KiB: allow more"
    )
    assert re.fullmatch(message, told)
    asked, unit = asked_for(told)
    assert plan([point], IMAGES, asked, 0).chunk >= 1
    assert refusal(point, asked - unit).partition(", and ")[0] == told.partition(", and ")[0]


@POINTS
def test_other_precisions_take_only_from_what_is_kept(point):
    plans = [plan([point], IMAGES, 256 * MIB, extra) for extra in (0, 2, 8, 10**6)]
    assert len({(made.chunk, made.vectors) for made in plans}) == 1
    kept = [made.kept for made in plans]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1] == 0


def test_the_parts_add_up_to_the_memory():
    """A linear layer of 1024 inputs saves its inputs and little more: one vector is 1 MiB and a chunk is 1/4 MiB."""
    made = plan([WIDE], IMAGES, 64 * MIB, 0)
    vectors = made.vectors + 12
    assert (made.chunk, made.vectors) == (CHUNK, 15)
    assert 20 < made.kept < (64 - vectors * 1.005) / 0.25 - 1


def test_of_several_points_the_most_demanding_counts():
    both = plan([WIDE, DEEP], IMAGES, 64 * MIB, 0)
    for alone in (plan([WIDE], IMAGES, 64 * MIB, 0), plan([DEEP], IMAGES, 64 * MIB, 0)):
        assert both.chunk <= alone.chunk
        assert both.vectors <= alone.vectors
    assert both == plan([DEEP, WIDE], IMAGES, 64 * MIB, 0)


@pytest.mark.parametrize("wrap", [lambda x: (x,), lambda x: {"input": x}], ids=["tuple", "dict"])
def test_samples_may_have_parts(wrap):
    assert plan([WIDE], wrap(IMAGES), 64 * MIB, 0) == plan([WIDE], IMAGES, 64 * MIB, 0)


def test_nothing_is_changed():
    net = nn.Sequential(nn.Flatten(), nn.Linear(1024, 3)).eval()
    batch = torch.rand(CHUNK, 1, 32, 32)
    before = batch.clone(), net[1].weight.clone()
    with torch.random.fork_rng():
        plan([point_of(net)], batch, 64 * MIB, 0)
    assert torch.equal(batch, before[0])
    assert torch.equal(net[1].weight, before[1])
    assert net[1].weight.grad is None
