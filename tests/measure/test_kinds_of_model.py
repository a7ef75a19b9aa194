import numpy as np
import pytest
import torch
import torchvision
import transformers
from fairlearn.metrics import MetricFrame, count
from sklearn.metrics import accuracy_score, log_loss, recall_score, zero_one_loss
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import Dataset

import qfair_check
from qfair_check.errors import MeasureError

SIZE = 150
RANDOM = np.random.default_rng(7)
IDS = torch.from_numpy(RANDOM.integers(1, 40, (SIZE, 9)))
LENGTHS = torch.from_numpy(RANDOM.integers(1, 10, SIZE))
IMAGES = torch.from_numpy(RANDOM.normal(size=(SIZE, 3, 32, 32)).astype(np.float32))
TABLE = torch.from_numpy(RANDOM.normal(size=(SIZE, 6)).astype(np.float32))
GROUPS = np.array(["a", "b", "c"])[RANDOM.integers(0, 3, SIZE)]


class LstmClassifier(nn.Module):
    """Takes texts of several lengths: a length of zero is no text, and torch refuses it."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(40, 8), nn.LSTM(8, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(packed)[1][0].movedim(0, 1).flatten(1))


class OneLogit(nn.Sequential):
    def forward(self, x):
        return super().forward(x).squeeze(1)


class WithFeatures(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x), x


def bert():
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=40, num_labels=3, **small))


def mlp(outputs):
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, outputs))


def vit():
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)


def group_norm():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )  # fmt: skip


KINDS = {
    "text by position": (LstmClassifier, lambda: (IDS, LENGTHS), 3),
    "text by name": (bert, lambda: {"input_ids": IDS, "attention_mask": (IDS > 3).long()}, 3),
    "one logit": (lambda: OneLogit(*mlp(1)), lambda: TABLE, 2),
    "one logit in a column": (lambda: mlp(1), lambda: TABLE, 2),
    "a tuple": (lambda: WithFeatures(mlp(3)), lambda: TABLE, 3),
    "vision transformer": (vit, lambda: IMAGES, 3),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=3), lambda: IMAGES, 3),
    "norms and convolutions": (group_norm, lambda: IMAGES, 3),
}


class Samples(Dataset):
    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        x = self.inputs
        if isinstance(x, dict):
            sample = {name: part[index] for name, part in x.items()}
        else:
            sample = tuple(part[index] for part in x) if isinstance(x, tuple) else x[index]
        return sample, int(self.labels[index]), str(GROUPS[index])


def plainly(module, inputs):
    """Return class probabilities as a user of the model computes them: one batch of everything."""
    with torch.inference_mode():
        answer = (
            module(**inputs) if isinstance(inputs, dict) else module(*inputs if isinstance(inputs, tuple) else [inputs])
        )
    logits = getattr(answer, "logits", answer[0] if isinstance(answer, tuple) else answer).double()
    if logits.ndim == 1 or logits.shape[1] == 1:
        positive = logits.reshape(-1).sigmoid()
        return torch.stack([1 - positive, positive], 1).numpy()
    return logits.softmax(1).numpy()


def framed(metrics, truth, predicted):
    return MetricFrame(metrics=metrics, y_true=truth, y_pred=predicted, sensitive_features=GROUPS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_measured_as_fairlearn_measures_it(kind):
    build, make_inputs, classes = KINDS[kind]
    torch.manual_seed(3)
    module, inputs = build().eval(), make_inputs()
    labels = RANDOM.integers(0, classes, SIZE)
    found = qfair_check.audit(module, Samples(inputs, labels), [8, 3])
    plain = plainly(module, inputs).argmax(1)
    for bits in (32, 8, 3):
        copied = qfair_check.quantize_model(module, bits).module if bits < 32 else module
        probabilities = plainly(copied, inputs)
        predicted = probabilities.argmax(1)
        frame = framed({"accuracy": accuracy_score, "count": count}, labels, predicted)
        accuracy, before = frame.by_group["accuracy"], framed(accuracy_score, labels, plain)
        flips = framed(zero_one_loss, plain, predicted)
        result = found.at(bits)
        assert found.groups == tuple(accuracy.index)
        assert [group.samples for group in result.groups] == frame.by_group["count"].tolist()
        assert [group.accuracy for group in result.groups] == accuracy.tolist()
        assert [group.accuracy_drop for group in result.groups] == pytest.approx((before.by_group - accuracy).tolist())
        assert [group.flip_rate for group in result.groups] == pytest.approx(flips.by_group.tolist())
        assert result.fvo == pytest.approx(frame.difference()["accuracy"], abs=1e-12)
        assert result.fvo_increase == pytest.approx(frame.difference()["accuracy"] - before.difference(), abs=1e-12)
        assert min(group.accuracy for group in result.groups) == frame.group_min()["accuracy"]
        for index, recall in enumerate(result.recalls):
            by_class = framed(recall_score, labels == index, predicted == index)
            rates = [right / samples for right, samples in zip(recall.correct, recall.samples, strict=True)]
            assert rates == pytest.approx(by_class.by_group.tolist())
            assert recall.gap == pytest.approx(by_class.difference())
        assert result.overall.accuracy == pytest.approx(frame.overall["accuracy"])
        assert result.overall.loss == pytest.approx(log_loss(labels, probabilities, labels=range(classes)), rel=1e-4)
    assert found.model.quantized_parameters == sum(layer.elements for layer in found.at(8).weights.layers)


@pytest.mark.parametrize("kind", ["text by position", "text by name"])
def test_half_precision_of_several_inputs(kind):
    build, make_inputs, classes = KINDS[kind]
    torch.manual_seed(3)
    labels = RANDOM.integers(0, classes, SIZE)
    found = qfair_check.audit(build().eval(), Samples(make_inputs(), labels), 16)
    assert 0 < found.at(16).overall.l2_distance < 0.05


def test_probabilities_in_place_of_logits_are_told():
    labels = RANDOM.integers(0, 3, SIZE)
    found = qfair_check.audit(nn.Sequential(*mlp(3), nn.Softmax(1)), (TABLE, labels), 8)
    assert [notice for notice in found.inputs.notices if "outputs are probabilities" in notice]
    found = qfair_check.audit(nn.Sequential(*mlp(3), nn.LogSoftmax(1)), (TABLE, labels), 8)
    assert not found.inputs.notices
    with pytest.raises(MeasureError, match="one output lies between 0 and 1 on all 150 samples"):
        qfair_check.audit(nn.Sequential(*mlp(1), nn.Sigmoid()), (TABLE, labels % 2), 8)
    few = qfair_check.audit(nn.Sequential(*mlp(1), nn.Sigmoid()), (TABLE[:20], labels[:20] % 2), 8)
    assert [notice for notice in few.inputs.notices if "return the logit" in notice]


def test_a_long_run_of_zeros_hides_no_probability():
    many = np.linspace(-2000, 1, 9000, dtype=np.float32)
    with pytest.raises(MeasureError, match="one output lies between 0 and 1 on all 9000 samples"):
        qfair_check.audit(lambda x: x.sigmoid(), (many[:, None], (many > 0).astype(int)), 32)


def test_a_constant_single_logit_is_no_probability():
    net = mlp(1)
    nn.init.zeros_(net[3].weight)
    nn.init.zeros_(net[3].bias)
    assert qfair_check.audit(net, (TABLE, [0, 1] * (SIZE // 2)), 8).at(8).overall.accuracy == 0.5
