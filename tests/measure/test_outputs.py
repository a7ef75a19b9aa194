from collections import OrderedDict, namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torchvision.models.googlenet import GoogLeNetOutputs
from transformers.modeling_outputs import SequenceClassifierOutput

from qfair_check.errors import MeasureError
from qfair_check.measure.outputs import logits_of

LOGITS = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])
Pair = namedtuple("Pair", ["scores", "features"])


@pytest.mark.parametrize(
    "answer",
    [
        LOGITS,
        (LOGITS, "features"),
        [LOGITS],
        Pair(LOGITS, None),
        {"logits": LOGITS},
        {"loss": torch.tensor(1.0), "logits": LOGITS},
        (OrderedDict(logits=LOGITS), None),
        SequenceClassifierOutput(loss=torch.tensor(1.0), logits=LOGITS),
        GoogLeNetOutputs(LOGITS, None, None),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_logits_are_found_in_every_common_answer(answer):
    assert logits_of(answer, 2) is LOGITS


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_logit_is_that_of_the_second_class(shape):
    z = torch.tensor([-1.0, 0.0, 2.0]).reshape(shape)
    assert logits_of(z, 3).tolist() == [[0, -1], [0, 0], [0, 2]]
    assert logits_of((z, None), 3).tolist() == [[0, -1], [0, 0], [0, 2]]


@given(
    st.lists(st.tuples(st.floats(-30, 30, width=32), st.integers(0, 1)), min_size=1, max_size=20),
)
def test_loss_and_probability_are_those_of_the_sigmoid(pairs):
    z = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64)
    y = torch.tensor([pair[1] for pair in pairs])
    pair = logits_of(z, len(z))
    torch.testing.assert_close(pair.softmax(1)[:, 1], z.sigmoid())
    torch.testing.assert_close(cross_entropy(pair, y), binary_cross_entropy_with_logits(z, y.double()))
    assert torch.equal(pair.argmax(1), (z > 0).long())


@pytest.mark.parametrize("answer", [(), {}, None, {"scores": LOGITS}, ("text", LOGITS), Pair(None, LOGITS)])
def test_an_answer_without_logits(answer):
    with pytest.raises(MeasureError, match="not a tensor of logits, a tuple that starts with one"):
        logits_of(answer, 2)


@pytest.mark.parametrize("shape", [(), (3,), (1, 2), (2, 0), (2, 3, 1), (0, 3)])
def test_an_answer_of_another_shape(shape):
    with pytest.raises(MeasureError, match=r"its output has shape \(.*\), not \(2, number of classes\)"):
        logits_of(torch.zeros(shape), 2)


def test_complex_numbers_are_no_logits():
    with pytest.raises(MeasureError, match="complex numbers"):
        logits_of(LOGITS.to(torch.complex64), 2)
