import pytest
import torch

from qfair_check.remedy.blocks import blocks


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_are_views_of_the_same_rows_and_small_for_each_thread(monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    one, other = torch.arange(14 * 2**16).view(7, 2**17), torch.zeros(7, 2**17, dtype=torch.long)
    sizes = []
    for part, target in blocks(one, other):
        sizes.append(part.numel())
        target.copy_(part)
    assert torch.equal(one, other)
    assert max(sizes) == threads * 2**17


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 2**18)])
def test_every_value_is_in_one_part(shape):
    values = torch.ones(shape)
    for (part,) in blocks(values):
        part.add_(1)
    assert torch.equal(values, torch.full(shape, 2.0))
