from collections import UserDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from qfair_check.inputs.sample import (
    SampleError,
    called,
    described,
    kind,
    mapped,
    parts,
    plain_sample,
    size,
    stacked,
)

IDS, MASK = torch.tensor([1, 2, 3]), torch.tensor([1.0, 0.0, 1.0])


def test_a_mapping_becomes_a_dict_and_a_tuple_stays_one():
    found = plain_sample(UserDict(ids=[1, 2, 3], mask=np.array([1.0, 0.0, 1.0])))
    assert isinstance(found, dict)
    assert kind(found) == (("ids", (3,), torch.int64), ("mask", (3,), torch.float32))
    assert kind(plain_sample((IDS, MASK.double()))) == (("0", (3,), torch.int64), ("1", (3,), torch.float32))
    assert kind(plain_sample([1, 2, 3])) == (("", (3,), torch.int64),)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"ids": "text"}, "its ids is a str, and no tensor can be made of it"),
        ((IDS, None), "its input 1 is a NoneType, and no tensor can be made of it"),
        ({"ids": torch.eye(2).to_sparse()}, "its ids is a tensor of layout torch.sparse_coo, which is not dense"),
        ({"ids": IDS, "face": Image.new("L", (2, 2))}, "its face is a PIL image: let the data set make it a tensor"),
        ((), "it holds no input"),
    ],
)
def test_what_is_no_dense_tensor_is_refused(wrong, told):
    with pytest.raises(SampleError) as caught:
        plain_sample(wrong)
    assert str(caught.value).startswith(told)


def test_a_sample_holds_no_memory_of_the_data_set_and_no_gradient():
    array = np.ones(3, np.float32)
    mask = MASK.clone().requires_grad_()
    found = plain_sample((array, mask))
    array[0] = 5
    mask.data.fill_(5)
    assert torch.equal(found[1], MASK)
    assert found[0].tolist() == [1, 1, 1]
    assert not found[1].requires_grad


def test_a_model_is_called_with_a_tensor_arguments_or_keywords():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    query, key = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    expected = attention(query, key, key)[0]
    assert torch.equal(called(attention, (query, key, key))[0], expected)
    assert torch.equal(called(attention, {"query": query, "key": key, "value": key})[0], expected)
    assert torch.equal(called(nn.Identity(), query), query)


@pytest.mark.parametrize("sample", [IDS, (IDS, MASK), {"ids": IDS, "mask": MASK}])
def test_samples_stack_to_a_batch_and_come_apart_again(sample):
    batch = stacked([sample, mapped(lambda part: part + 1, sample), sample])
    assert size(batch) == 3
    first = mapped(lambda part: part[0], batch)
    assert kind(first) == kind(sample)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(parts(first), parts(sample), strict=True))
    assert type(batch) is type(sample)


def test_kinds_are_said_by_name():
    assert described(kind((IDS, MASK))) == "0 (3,) (torch.int64), 1 (3,) (torch.float32)"
