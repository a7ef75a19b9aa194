import copy
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qfair_check
from qfair_check.errors import InputError, MeasureError, UntrustedPickleError
from qfair_check.inputs.model import as_model, load_model, state_sha256
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import quantize_model, quantized_share

SAMPLES = 130


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
        self.other = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)
        self.fc = nn.Linear(8, 9)
        self.fc.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.layer(self.gru(self.lstm(self.words(ids))[0])[0])
        x = self.cross(x, x, x)[0] + self.other(x, x[..., :4], x[..., 4:])[0]
        return self.fc(x.mean(1))


class Own(nn.Module):
    """A weight and a buffer that the outermost module itself holds."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.register_buffer("shift", torch.arange(3.0))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale + self.shift


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 4, 2, groups=2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 7 * 7, 3),
    )


MODELS = {
    "convolutions": (convolutions, lambda: torch.randn(SAMPLES, 1, 8, 8)),
    "text": (Text, lambda: torch.randint(0, 9, (SAMPLES, 5))),
    "own": (Own, lambda: torch.randn(SAMPLES, 4)),
}
KINDS = ("scripted", "traced")


def made(name: str) -> tuple[nn.Module, Tensor]:
    build, batch = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return build().eval(), batch()


def compiled(module: nn.Module, given: Tensor, kind: str) -> torch.jit.ScriptModule:
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated
        return torch.jit.script(module) if kind == "scripted" else torch.jit.trace(module, given, check_trace=False)


def saved(path: Path, script: Any) -> Path:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(script, path)
    return path


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_model(tmp_path, name, kind):
    module, given = made(name)
    loaded = load_model(saved(tmp_path / "net.pt", compiled(module, given, kind)), trust_pickle=True)
    assert loaded.sha256 == state_sha256(module.state_dict())
    assert [(n, axis) for n, _, axis in quantizable_weights(loaded.module)] == [
        (n, axis) for n, _, axis in quantizable_weights(module)
    ]
    assert quantized_share(loaded.module) == quantized_share(module)
    wanted = {n: value.requires_grad for n, value in module.named_parameters()}
    assert {n: value.requires_grad for n, value in loaded.module.named_parameters()} == wanted
    with torch.inference_mode():
        before = loaded.module(given)
        for precision in ("fp32", "int8", "int4", "int2"):
            found, expected = (
                quantize_model(net, precision, "absmax/per-channel").module(given) for net in (loaded.module, module)
            )
            assert torch.allclose(found, expected, atol=1e-5)
            assert torch.equal(found.argmax(1), expected.argmax(1))
        assert not torch.allclose(found, before, atol=1e-2)
        assert torch.equal(loaded.module(given), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_weights_of_its_own(tmp_path, kind):
    module, given = made("own")
    loaded = load_model(saved(tmp_path / "net.pt", compiled(module, given, kind)), trust_pickle=True).module
    expected = loaded(given)
    duplicate = copy.deepcopy(copy.deepcopy(loaded)).float()
    with torch.no_grad():
        for value in (*duplicate.parameters(), *duplicate.buffers()):
            value.zero_()
    assert duplicate(given).abs().max() == 0
    assert torch.equal(loaded(given), expected)
    assert all(isinstance(value, nn.Parameter) and value.is_leaf for value in duplicate.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_other_float_types_and_gradients(tmp_path, kind):
    module, given = made("own")
    script = compiled(module.double(), given.double(), kind)
    loaded = load_model(saved(tmp_path / "net.pt", script), trust_pickle=True).module
    single = copy.deepcopy(loaded).float()
    assert torch.allclose(single(given), module.float()(given), atol=1e-6)
    single(given).square().sum().backward()
    module(given).square().sum().backward()
    assert torch.allclose(dict(single.named_parameters())["fc.weight"].grad, module.fc.weight.grad, rtol=1e-4)


def test_a_tied_weight_stays_tied(tmp_path):
    module, given = made("text")
    loaded = load_model(saved(tmp_path / "net.pt", compiled(module, given, "scripted")), trust_pickle=True).module
    parameters = dict(copy.deepcopy(loaded).named_parameters(remove_duplicate=False))
    assert parameters["fc.weight"] is parameters["words.weight"]


def test_a_script_saved_in_training_mode_is_audited_in_eval_mode(tmp_path):
    module, given = made("convolutions")
    script = compiled(copy.deepcopy(module).train(), given, "scripted")
    loaded = load_model(saved(tmp_path / "net.pt", script), trust_pickle=True).module
    with torch.inference_mode():
        assert torch.allclose(loaded(given), module(given), atol=1e-6)
        assert torch.allclose(
            quantize_model(loaded, 8).module(given), quantize_model(module, 8).module(given), atol=1e-5
        )


def test_it_is_refused_unless_trusted(tmp_path):
    module, given = made("own")
    path = saved(tmp_path / "net.pt", compiled(module, given, "scripted"))
    with pytest.raises(
        UntrustedPickleError, match=r"save_model.*or, if you made the file yourself, pass --qfair-trust"
    ):
        load_model(path)


@pytest.mark.parametrize("prepare", [torch.jit.freeze, torch.jit.optimize_for_inference])
def test_a_frozen_script_has_no_weights(tmp_path, prepare):
    script = compiled(nn.Sequential(nn.Linear(2, 2)).eval(), torch.ones(1, 2), "scripted")
    with warnings.catch_warnings(action="ignore"):
        frozen = prepare(script)
    path = saved(tmp_path / "net.pt", frozen)
    with pytest.raises(InputError) as error:
        load_model(path, trust_pickle=True)
    assert str(error.value) == (
        f"{path} is TorchScript without parameters: torch.jit.freeze and torch.jit.optimize_for_inference make weights "
        "constants; save the scripted model before"
    )


def test_a_damaged_script(tmp_path):
    module, given = made("own")
    path = saved(tmp_path / "net.pt", compiled(module, given, "scripted"))
    with zipfile.ZipFile(path) as held:
        members = {name: held.read(name) for name in held.namelist()}
    with zipfile.ZipFile(path, "w") as written:
        for name, content in members.items():
            written.writestr(name, content.replace(b"def forward", b"dif forward"))
    with pytest.raises(InputError, match=r"net\.pt as TorchScript \(truncated or damaged\?\): RuntimeError"):
        load_model(path, trust_pickle=True)


def test_a_script_object_is_a_model_and_stays_as_it_is():
    module, given = made("text")
    script = compiled(module, given, "scripted")
    model = as_model(script)
    assert model.sha256 == state_sha256(module.state_dict())
    with torch.no_grad():
        for value in model.module.parameters():
            value.zero_()
        assert torch.allclose(script(given), module(given), atol=1e-5)


def test_a_trace_that_fixes_its_batch_says_so(tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x.reshape(int(x.shape[0]), 2, 2).reshape(8, 4))

    path = saved(tmp_path / "net.pt", compiled(Fixed().eval(), torch.ones(8, 4), "traced"))
    loaded = load_model(path, trust_pickle=True)
    with pytest.raises(MeasureError) as error:
        qfair_check.audit(loaded, (np.ones((64, 4), np.float32), [0, 1] * 32), bits=8)
    assert str(error.value) == (
        "the model at fp32 failed on sample 0 to sample 63, as a batch of shape (64, 4) (torch.float32): TorchScript "
        "failed: RuntimeError: shape '[8, 2, 2]' is invalid for input of size 256"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_audit_is_that_of_the_model(tmp_path, kind):
    module, given = made("convolutions")
    loaded = load_model(saved(tmp_path / "net.pt", compiled(module, given, kind)), trust_pickle=True)
    data = (given.numpy(), np.arange(SAMPLES) % 3)
    found, expected = (qfair_check.audit(net, data, bits="8,2") for net in (loaded, module))
    assert found.model == expected.model
    assert found.outcomes_sha256 == expected.outcomes_sha256
