import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from qfair_check.errors import InputError, UntrustedPickleError
from qfair_check.inputs.model import load_model
from qfair_check.quantize.model import quantize_model

SIZES = {"vocab_size": 40, "max_position_embeddings": 16, "num_labels": 3}
TOKENS = {"input_ids": torch.arange(24).reshape(2, 12), "attention_mask": torch.ones(2, 12, dtype=torch.int64)}
IMAGES = {"pixel_values": torch.linspace(0, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)}

FACTORIES = """
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

def vit():
    return ViTForImageClassification(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, image_size=16, patch_size=8, num_labels=3))

def wide():
    return ViTForImageClassification(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, image_size=16, patch_size=8, num_labels=3))

def bert():
    return BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=3,
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
"""


def bert(**changes: object) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(**{**SIZES, **sizes, **changes})).eval()


def distilbert(**changes: object) -> nn.Module:
    sizes = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}
    return DistilBertForSequenceClassification(DistilBertConfig(**{**SIZES, **sizes, **changes})).eval()


def vit(**changes: object) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    size = {"image_size": 16, "patch_size": 8, "num_labels": 3}
    return ViTForImageClassification(ViTConfig(**{**sizes, **size, **changes})).eval()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Block the network, and draw the weights of every test from one seed."""

    def blocked(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, blocked)
    monkeypatch.setattr(socket, "create_connection", blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        yield


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the name of a module of factories, forgotten afterwards."""
    (tmp_path / "qfair_pretrained_nets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place] + [str(tmp_path)])
    yield "qfair_pretrained_nets"
    sys.modules.pop("qfair_pretrained_nets", None)


def logits(module: Callable[..., object], inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return module(**inputs).logits


def message(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "net")


def configure(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("build", "inputs"), [(bert, TOKENS), (distilbert, TOKENS), (vit, IMAGES)], ids=["bert", "distilbert", "vit"]
)
@pytest.mark.parametrize("shard", ["50GB", "5KB"])
def test_what_save_pretrained_writes(tmp_path: Path, build: Callable[[], nn.Module], inputs: dict, shard: str) -> None:
    module = build()
    module.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "5KB")
    model = load_model(tmp_path)
    assert torch.equal(logits(model.forward, inputs), logits(module, inputs))
    assert (model.architecture, model.source) == (f"transformers:{type(module).__name__}", str(tmp_path))
    assert (model.classes, model.preprocessing, model.notices) == ((), None, ())
    assert not model.module.training


@pytest.mark.parametrize("shard", ["50GB", "5KB"])
def test_a_file_in_the_folder_is_the_folder(tmp_path: Path, shard: str) -> None:
    module = distilbert()
    module.save_pretrained(tmp_path, max_shard_size=shard)
    name = "model.safetensors" if shard == "50GB" else "model.safetensors.index.json"
    model = load_model(tmp_path / name)
    assert torch.equal(logits(model.forward, TOKENS), logits(module, TOKENS))
    assert model.source == str(tmp_path / name)


class Reviews(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[index % 2] for name, values in TOKENS.items()} | {"labels": torch.tensor(index % 3)}


def test_a_checkpoint_of_the_trainer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = distilbert(id2label={0: "bad", 1: "fair", 2: "good"})
    arguments = TrainingArguments(
        str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        save_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    before = torch.clone(module.classifier.weight)
    Trainer(module, arguments, train_dataset=Reviews()).train()
    assert not torch.equal(module.classifier.weight, before)
    folder = tmp_path / "out" / "checkpoint-1"
    assert (folder / "optimizer.pt").exists()
    capfd.readouterr()
    model = load_model(folder)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(logits(model.forward, TOKENS), logits(module.eval(), TOKENS))
    assert model.classes == ("bad", "fair", "good")
    assert message(tmp_path / "out").endswith("; checkpoint-1 in it is such a folder")


@pytest.mark.parametrize("indexed", [False, True])
def test_the_older_layout_of_pickled_weights(tmp_path: Path, indexed: bool) -> None:
    module = bert()
    module.config.architectures = ["BertForSequenceClassification"]
    module.config.save_pretrained(tmp_path)
    state = module.state_dict()
    if indexed:
        names = [f"pytorch_model-0000{part}-of-00002.bin" for part in (1, 2)]
        weight_map = {name: names[index % 2] for index, name in enumerate(state)}
        for shard in names:
            torch.save({name: state[name] for name in state if weight_map[name] == shard}, tmp_path / shard)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    assert torch.equal(logits(load_model(tmp_path).forward, TOKENS), logits(module, TOKENS))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return open, (str(tmp_path / "marker"), "w")

    bert().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UntrustedPickleError, match=r"pytorch_model\.bin is not a plain state dict"):
        load_model(tmp_path)
    assert not (tmp_path / "marker").exists()


def test_old_names_of_norms(tmp_path: Path, factories: str) -> None:
    module = bert()
    module.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in state.items()
    }
    assert old.keys() != state.keys()
    save_file(old, tmp_path / "model.safetensors")
    for arch in (None, f"{factories}:bert"):
        assert torch.equal(logits(load_model(tmp_path, arch=arch).forward, TOKENS), logits(module, TOKENS))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    module = transformers.GPT2LMHeadModel(config).eval()
    module.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_model(tmp_path)
    assert model.module.lm_head.weight is model.module.transformer.wte.weight
    assert torch.equal(logits(model.forward, TOKENS), logits(module, TOKENS))


def test_what_is_quantized_of_gpt2() -> None:
    """Its linear layers are a class of transformers, which holds the weight transposed."""
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
    module = transformers.GPT2ForSequenceClassification(config).eval()
    quantized = quantize_model(module, 4, "absmax/per-channel")
    assert [layer.name for layer in quantized.layers] == [
        "transformer.wte.weight",
        "transformer.wpe.weight",
        *(f"transformer.h.0.{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
        "score.weight",
    ]
    assert [len(layer.scale) for layer in quantized.layers] == [40, 16, 48, 16, 64, 16, 2]
    assert not torch.equal(logits(quantized.module, TOKENS), logits(module, TOKENS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_width_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    module = distilbert().to(dtype)
    module.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert {value.dtype for value in model.module.parameters()} == {torch.float32}
    assert torch.equal(model.module.classifier.weight, module.classifier.weight.float())


def test_a_factory_goes_before_the_configuration(tmp_path: Path, factories: str) -> None:
    """Also where the file has names of its own, as that of a vision transformer has."""
    module = vit(id2label={0: "a", 1: "b", 2: "c"})
    module.save_pretrained(tmp_path / "net")
    model = load_model(tmp_path / "net", arch=f"{factories}:vit")
    assert torch.equal(logits(model.forward, IMAGES), logits(module, IMAGES))
    assert (model.architecture, model.classes) == (f"{factories}:vit", ("a", "b", "c"))
    (tmp_path / "net" / "config.json").unlink()
    model = load_model(tmp_path / "net", arch=f"{factories}:vit")
    assert torch.equal(logits(model.forward, IMAGES), logits(module, IMAGES))
    assert message(tmp_path / "net", arch=f"{factories}:wide").startswith(
        f"net does not fit the architecture {factories}:wide: 22 of another shape: "
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"0": "a", "1": "b", "2": "c"}, ("a", "b", "c")),
        ({"2": "c", "0": "a", "1": "b"}, ("a", "b", "c")),
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, ()),
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "good"}, ("LABEL_0", "LABEL_1", "good")),
        ({}, ()),
        (None, ()),
    ],
)
def test_class_names(tmp_path: Path, factories: str, names: object, expected: tuple[str, ...]) -> None:
    bert().save_pretrained(tmp_path)
    configure(tmp_path, id2label=names)
    model = load_model(tmp_path, arch=f"{factories}:bert")
    assert (model.classes, model.notices) == (expected, ())


@pytest.mark.parametrize("names", [{"0": "a", "1": "a", "2": "b"}, {"1": "a", "2": "b"}, ["a", "b"], "ab", 3])
def test_class_names_that_make_no_sense_are_left_out_and_told(tmp_path: Path, factories: str, names: object) -> None:
    bert().save_pretrained(tmp_path)
    configure(tmp_path, id2label=names)
    model = load_model(tmp_path, arch=f"{factories}:bert")
    assert model.classes == ()
    assert model.notices == (
        f"id2label in {tmp_path / 'config.json'} does not name the classes 0, 1, 2, ... once each, and is left out",
    )


def test_a_second_layout_in_the_folder_is_told(tmp_path: Path) -> None:
    module = bert()
    module.save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    model = load_model(tmp_path)
    assert torch.equal(logits(model.forward, TOKENS), logits(module, TOKENS))
    assert model.notices == (
        f"{tmp_path} also holds pytorch_model.bin, which is left out: model.safetensors is audited",
    )


def test_the_preparation_of_images_is_told_not_to_be_read(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.preprocessing is None
    assert model.notices == (
        f"{tmp_path / 'preprocessor_config.json'} is not read: say how images are prepared by --qfair-image-size, "
        "--qfair-mean and --qfair-std",
    )


def test_weights_that_do_not_fit_the_configuration(tmp_path: Path) -> None:
    module = distilbert()
    module.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["pre_classifier.bias"]
    save_file(
        state | {"classifier.weight": torch.zeros(4, 16), "extra": torch.zeros(1)}, tmp_path / "model.safetensors"
    )
    shapes = " (4, 16), not (3, 16)" if int(transformers.__version__.partition(".")[0]) > 4 else ""
    assert message(tmp_path) == (
        "net does not fit the architecture transformers:DistilBertForSequenceClassification: 1 missing: "
        f"pre_classifier.bias; 1 unexpected: extra; 1 of another shape: classifier.weight{shapes}; name the one it was "
        "trained with"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"architectures": None}, "the configuration of net names no class under architectures: pass --qfair-arch"),
        ({"architectures": []}, "the configuration of net names no class under architectures: pass --qfair-arch"),
        ({"architectures": "Bert"}, "the configuration of net names several classes under architectures: pass"),
        ({"architectures": ["MyNet"]}, "net names the architecture MyNet, which is no model of transformers "),
        ({"architectures": ["pipeline"]}, "net names the architecture pipeline, which is no model of transformers "),
        ({"architectures": ["Trainer"]}, "net names the architecture Trainer, which is no model of transformers "),
        ({"architectures": ["PreTrainedModel"]}, "net names the architecture PreTrainedModel, which is no model of "),
        ({"architectures": ["os.system"]}, "net names the architecture os.system, which is no model of transformers "),
        ({"n_heads": "many"}, "transformers cannot "),
        ({"n_heads": 5}, "transformers cannot "),
        ({"quantization_config": {"load_in_8bit": True}}, "the weights of net are quantized already: give the model"),
    ],
)
def test_a_configuration_that_makes_no_sense(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    distilbert().save_pretrained(tmp_path)
    configure(tmp_path, **changes)
    assert message(tmp_path).startswith(expected)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '"text"', "[" * 100_000], ids=lambda text: text[:4])
def test_a_damaged_configuration(tmp_path: Path, factories: str, content: str) -> None:
    bert().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(content)
    for arch in (None, f"{factories}:bert"):
        assert "net/config.json" in message(tmp_path, arch=arch)


def test_without_a_configuration(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert message(tmp_path).startswith("net holds weights alone and does not name its architecture: pass --qfair-arch")


def test_code_in_the_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = distilbert()
    module.save_pretrained(tmp_path)
    marker = tmp_path / "marker"
    (tmp_path / "modeling.py").write_text(f"open({str(marker)!r}, 'w')\nclass Net: pass\nclass Config: pass\n")
    auto_map = {"AutoConfig": "modeling.Config", "AutoModelForSequenceClassification": "modeling.Net"}
    configure(tmp_path, auto_map=auto_map, trust_remote_code=True, attn_implementation="someone/kernels")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(logits(load_model(tmp_path).forward, TOKENS), logits(module, TOKENS))
    configure(tmp_path, architectures=["Net"])
    assert message(tmp_path).endswith("code in the folder is not run")
    assert not marker.exists()


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    expected = (
        "net is a folder without weights: give a model file, or a folder as save_pretrained writes it, with one of "
        "model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json"
    )
    assert message(tmp_path) == expected
    shutil.copytree(tmp_path, tmp_path / "adapter")
    save_file({"lora.weight": torch.zeros(1)}, tmp_path / "adapter" / "adapter_model.safetensors")
    assert message(tmp_path / "adapter") == expected


def test_a_configuration_beside_a_file_of_another_name_says_nothing(tmp_path: Path, factories: str) -> None:
    module = bert()
    module.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text("{damaged")
    model = load_model(tmp_path / "mine.safetensors", arch=f"{factories}:bert")
    assert torch.equal(logits(model.forward, TOKENS), logits(module, TOKENS))


def test_loading_leaves_the_settings_of_transformers_and_the_random_state(tmp_path: Path) -> None:
    from huggingface_hub import constants
    from transformers.utils import logging

    distilbert().save_pretrained(tmp_path)
    before = torch.random.get_rng_state(), logging.get_verbosity(), constants.HF_HUB_OFFLINE
    shows = logging.is_progress_bar_enabled()
    load_model(tmp_path)
    after = torch.random.get_rng_state(), logging.get_verbosity(), constants.HF_HUB_OFFLINE
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert logging.is_progress_bar_enabled() == shows


def test_transformers_is_imported_for_such_a_folder_alone_and_may_be_missing(tmp_path: Path) -> None:
    distilbert().save_pretrained(tmp_path / "net")
    code = (
        "import sys\n"
        "from qfair_check.errors import InputError\n"
        "from qfair_check.inputs.model import load_model\n"
        "load_model('demo')\n"
        "assert 'transformers' not in sys.modules\n"
        "sys.modules['transformers'] = None\n"
        "try:\n"
        "    load_model('net')\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert ran.stdout == (
        "net is a DistilBertForSequenceClassification of Hugging Face, and transformers cannot be imported (import of "
        "transformers halted; None in sys.modules): install it, or pass --qfair-arch with package.module:factory\n"
    )
