import copy
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export, save
from torch.utils import _pytree as pytree

import qfair_check
from qfair_check.errors import InputError, MeasureError
from qfair_check.inputs.checkpoint import read_checkpoint
from qfair_check.inputs.model import as_model, load_model, state_sha256
from qfair_check.inputs.trusted_program import load_trusted_program
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import quantize_model, quantized_share

SAMPLES = 130
SIZES = {"fixed 1": 1, "fixed 8": 8, "any": (1, None), "2 to 32": (2, 32), "up to 64": (1, 64)}


class Text(nn.Module):
    """An LSTM classifier that takes a mask by name and returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        states = self.lstm(self.words(ids))[0] * mask[..., None]
        return {"logits": self.fc(states.mean(1)), "states": (states, None)}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(self.layer(x))[0].mean(1))


class Tied(nn.Module):
    """Two inputs, a tied weight, buffers that are saved and that are not, a constant, and a tuple as output."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 5)
        self.table = nn.Embedding(5, 8)
        self.fc.weight = self.table.weight
        self.register_buffer("shift", torch.arange(5.0), persistent=False)
        self.register_buffer("scale", torch.tensor(2.0))
        self.constant = torch.ones(8)

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x * self.constant + self.table(index)) * self.scale + self.shift, x


class Regions(nn.Module):
    """Parts without gradients, under autocast, and by torch.cond; tensors made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x)
        with torch.autocast("cpu", torch.bfloat16):
            x = self.first(x)
        x = x.to(torch.float32) + torch.arange(8) + torch.zeros(x.shape[0], 8)
        x = torch.cond(x.shape[1] > 2, lambda x: x + 1, lambda x: x - 1, (x,))
        return self.fc(x)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 4, 2),
        nn.GroupNorm(2, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4, 5),
    )


def vision_transformer() -> nn.Module:
    net = torchvision.models.VisionTransformer(8, 4, 2, 2, 16, 32, num_classes=4)
    nn.init.normal_(net.heads.head.weight)
    return net


def images(count: int = SAMPLES) -> Tensor:
    return torch.randn(count, 3, 8, 8)


def words(count: int = SAMPLES) -> dict[str, Tensor]:
    return {"ids": torch.randint(0, 20, (count, 7)), "mask": torch.rand(count, 7)}


def pairs(count: int = SAMPLES) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 8), torch.randint(0, 5, (count,))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any]]] = {
    "convolutions": (convolutions, images),
    "vision transformer": (vision_transformer, images),
    "text": (Text, words),
    "attention": (Attention, lambda count=SAMPLES: torch.randn(count, 5, 8)),
    "tied": (Tied, pairs),
    "regions": (Regions, lambda count=SAMPLES: torch.randn(count, 8)),
}


def call(module: nn.Module, given: Any) -> Any:
    if isinstance(given, dict):
        return module(**given)
    return module(*given) if isinstance(given, tuple) else module(given)


def made(name: str) -> tuple[nn.Module, Any]:
    build, batch = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build().eval(), batch()


@pytest.fixture(autouse=True)
def anew():
    """Let torch forget what it compiled: an older one exports the same code eight times in a process."""
    torch._dynamo.reset()


def write(program: ExportedProgram, path: Path) -> None:
    """Write a program where this torch writes the layout that is read."""
    pytest.importorskip("torch.export.pt2_archive", reason="torch 2.7 and older write .pt2 files of an older layout")
    save(program, path)


def saved(path: Path, module: nn.Module, given: Any, size: int | tuple[int, int | None], **options: Any) -> Path:
    """Export for a batch of one size, or of a range of sizes."""
    count = size if isinstance(size, int) else max(4, size[0])
    part = pytree.tree_map(lambda value: value[:count].clone(), given)
    args = () if isinstance(part, dict) else part if isinstance(part, tuple) else (part,)
    kwargs = part if isinstance(part, dict) else None
    if not isinstance(size, int):
        batch = Dim("batch", min=size[0], max=size[1])
        options["dynamic_shapes"] = pytree.tree_map(lambda _: {0: batch}, kwargs or args)
    with warnings.catch_warnings(action="ignore"):  # of torch, about its own attributes of an LSTM
        write(export(module, args, kwargs, **options), path)
    return path


@cache
def archive(name: str, size: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return saved(Path(folder) / "net.pt2", *made(name), SIZES[size]).read_bytes()


def exported(folder: Path, name: str, size: str) -> Path:
    path = folder / "net.pt2"
    path.write_bytes(archive(name, size))
    return path


def logits(answer: Any) -> Tensor:
    answer = answer["logits"] if isinstance(answer, dict) else answer
    return answer[0] if isinstance(answer, tuple) else answer


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", ["fixed 8", "2 to 32"])
def test_it_computes_what_the_model_does_at_fp32_and_quantized(tmp_path, name, size):
    module, given = made(name)
    loaded = load_model(exported(tmp_path, name, size))
    for precision in ("fp32", "int8", "int4", "int2"):
        with torch.inference_mode():
            expected = call(quantize_model(module, precision, "absmax/per-channel").module, given)
            found = call(quantize_model(loaded.module, precision, "absmax/per-channel").module, given)
        assert type(found) is type(expected)
        leaves, wanted = pytree.tree_leaves(found), pytree.tree_leaves(expected)
        for leaf, value in zip(leaves, wanted, strict=True):
            assert (leaf is None and value is None) or torch.allclose(leaf, value, atol=1e-5)
        assert len(logits(found)) == SAMPLES > 100
        assert torch.equal(logits(found).argmax(1), logits(expected).argmax(1))


@pytest.mark.parametrize("name", MODELS)
def test_its_state_dict_and_its_weights_are_those_of_the_model(tmp_path, name):
    module, _ = made(name)
    loaded = load_model(exported(tmp_path, name, "2 to 32"))
    assert loaded.sha256 == state_sha256(module.state_dict())
    assert [n for n, _ in loaded.module.named_parameters()] == [n for n, _ in module.named_parameters()]
    assert [(n, axis) for n, _, axis in quantizable_weights(loaded.module)] == [
        (n, axis) for n, _, axis in quantizable_weights(module)
    ]
    assert quantized_share(loaded.module) == quantized_share(module)
    assert (loaded.architecture, loaded.classes, loaded.preprocessing) == (None, (), None)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 64])
def test_a_batch_is_split_and_filled_up(tmp_path, size, rows):
    module, given = made("convolutions")
    loaded = load_model(exported(tmp_path, "convolutions", size)).module
    with torch.inference_mode():
        assert torch.allclose(loaded(given[:rows]), module(given[:rows]), atol=1e-6)


def test_parts_are_no_larger_than_the_program_takes(tmp_path):
    class Sizes(nn.Module):
        def forward(self, x):
            return x * 0 + x.shape[0]

    for size, expected in ((8, [8] * 20), ((2, 8), [8] * 16 + [4] * 4), ((3, 9), [9] * 18 + [3] * 2)):
        loaded = load_model(saved(tmp_path / "net.pt2", Sizes(), torch.randn(20, 2), size)).module
        assert loaded(torch.randn(20, 2))[:, 0].tolist() == expected


def test_it_stays_as_exported_and_can_be_copied(tmp_path):
    _, given = made("convolutions")
    loaded = load_model(exported(tmp_path, "convolutions", "fixed 8")).module
    with torch.inference_mode():
        expected = loaded(given)
        assert torch.equal(loaded.train()(given), expected)
        assert torch.equal(loaded.eval()(given), expected)
        duplicate = copy.deepcopy(loaded)
        for parameter in duplicate.parameters():
            parameter.zero_()
        assert not torch.equal(duplicate(given), expected)
        assert torch.equal(loaded(given), expected)
    assert not any(part.training for part in loaded.modules())


def test_gradients_are_those_of_the_model(tmp_path):
    module, given = made("attention")
    loaded = load_model(exported(tmp_path, "attention", "2 to 32")).module
    module(given).square().mean().backward()
    loaded(given).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in loaded.named_parameters()}
    for name, parameter in module.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-6), name


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((torch.ones(4, 7),), "the program takes ids, mask, and the data gives 1 by position"),
        ((torch.ones(4, 7),) * 3, "the program takes ids, mask, and the data gives 3 by position"),
        ({"ids": torch.ones(4, 7), "x": torch.ones(4)}, "the program takes ids, mask, and the data gives ids, x"),
        ((torch.ones(4, 7), [1.0]), "the program takes tensors, and the data gives a list"),
        (
            {"ids": torch.ones(4, 9, dtype=torch.int64), "mask": torch.ones(4, 9)},
            "ids, input 1 of the program, has shape (4, 9), and the program takes (rows, 7): export it with "
            "dynamic_shapes for sizes that vary, or give such samples",
        ),
    ],
)  # fmt: skip
def test_inputs_that_are_not_those_of_the_program(tmp_path, given, told):
    loaded = load_model(exported(tmp_path, "text", "2 to 32")).module
    with pytest.raises(MeasureError) as error:
        call(loaded, given)
    assert str(error.value) == told


def test_inputs_by_position_or_by_name(tmp_path):
    _, given = made("tied")
    loaded = load_model(exported(tmp_path, "tied", "2 to 32")).module
    by_name = loaded(index=given[1], x=given[0])
    assert torch.equal(by_name[0], loaded(*given)[0])


def test_a_size_that_varies_has_its_range_and_is_one_in_all_inputs(tmp_path):
    class Mean(nn.Module):
        def forward(self, ids, mask):
            return torch.stack([(ids * mask).mean(1), mask.sum(1)], 1)

    batch, length = Dim("batch"), Dim("length", min=3, max=9)
    shapes = {"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}}
    given = {"ids": torch.ones(4, 7), "mask": torch.ones(4, 7)}
    write(export(Mean(), (), given, dynamic_shapes=shapes), tmp_path / "net.pt2")
    loaded = load_model(tmp_path / "net.pt2").module
    assert loaded(ids=torch.ones(2, 9), mask=torch.ones(2, 9)).tolist() == [[1, 9]] * 2
    for ids, mask in ((10, 10), (2, 2), (7, 6)):
        with pytest.raises(MeasureError, match=r"the program takes \(rows, 3 to 9\)"):
            loaded(ids=torch.ones(2, ids), mask=torch.ones(2, mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_program_of_another_float_type_computes_in_float32(tmp_path, dtype):
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(x.to(self.fc.weight.dtype) + torch.ones(8, dtype=self.fc.weight.dtype))

    module = Cast().to(dtype).eval()
    loaded = load_model(saved(tmp_path / "net.pt2", module, torch.randn(8, 8), 8)).module
    x = torch.randn(9, 8)
    with torch.inference_mode():
        found = quantize_model(loaded, "int8").module(x)
        assert torch.allclose(found, quantize_model(module, "int8").module(x), atol=1e-6)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("module", "active"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "batch_norm"),
        (nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1)), "dropout"),
        (nn.Sequential(nn.LSTM(3, 4, num_layers=2, dropout=0.1)), "lstm"),
    ],
)
def test_training_mode_is_refused(tmp_path, module, active):
    path = saved(tmp_path / "net.pt2", module.train(), torch.randn(4, 3), 4)
    with pytest.raises(InputError) as error:
        load_model(path)
    assert str(error.value) == f"{path} was exported in training mode ({active} is active): export model.eval()"


def test_statistics_of_the_batch_and_inactive_dropout_are_no_training_mode(tmp_path):
    module = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Dropout(0.5), nn.Linear(3, 2)).eval()
    x = torch.randn(4, 3)
    loaded = load_model(saved(tmp_path / "net.pt2", module, x, 4)).module
    assert torch.equal(loaded(x), module(x))


def test_a_pt_file_that_holds_a_program(tmp_path):
    path = exported(tmp_path, "convolutions", "fixed 8").rename(tmp_path / "net.pt")
    assert read_checkpoint(path).module is not None


@pytest.mark.parametrize("name", MODELS)
def test_torch_itself_loads_the_same_if_the_file_is_trusted(tmp_path, name):
    module, given = made(name)
    path = exported(tmp_path, name, "2 to 32")
    loaded = load_trusted_program(path)
    assert state_sha256(loaded.state_dict()) == state_sha256(module.state_dict())
    assert [(n, axis) for n, _, axis in quantizable_weights(loaded)] == [
        (n, axis) for n, _, axis in quantizable_weights(module)
    ]
    with torch.inference_mode():
        found, expected = call(quantize_model(loaded, 4).module, given), call(quantize_model(module, 4).module, given)
    assert torch.allclose(logits(found), logits(expected), atol=1e-5)


def test_a_program_object_is_a_model():
    module, given = made("convolutions")
    program = export(module, (given[:8],))
    model = as_model(program)
    before = {name: value.clone() for name, value in program.state_dict.items()}
    assert model.sha256 == state_sha256(module.state_dict())
    with torch.no_grad():
        assert torch.allclose(model.forward(given), module(given), atol=1e-6)
        for parameter in model.module.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], value) for name, value in program.state_dict.items())


def test_the_module_of_a_program_is_no_model():
    module, given = made("convolutions")
    with pytest.raises(InputError, match=r"give the program itself \(torch\.export\.ExportedProgram\)$"):
        as_model(export(module, (given[:8],)).module())


def test_a_layer_may_have_any_name(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.graph, self.signature = nn.Linear(3, 4), nn.ModuleDict({"a-b": nn.Linear(4, 2)})

        def forward(self, x):
            return self.signature["a-b"](self.graph(x))

    module = Named().eval()
    loaded = load_model(saved(tmp_path / "net.pt2", module, torch.randn(8, 3), 8))
    assert loaded.sha256 == state_sha256(module.state_dict())


def test_a_buffer_that_the_program_changes_is_changed(tmp_path):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls.add_(1)
            return x + self.calls

    loaded = load_model(saved(tmp_path / "net.pt2", Counter(), torch.zeros(4, 2), 4)).module
    assert [float(loaded(torch.zeros(4, 2))[0, 0]) for _ in range(3)] == [1, 2, 3]
    assert float(loaded.calls) == 3


def test_a_mapping_with_a_default_as_output(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            answer = defaultdict(list)
            answer["logits"] = x * 2
            return answer

    loaded = load_model(saved(tmp_path / "net.pt2", Net(), torch.ones(4, 2), 4)).module
    assert loaded(torch.ones(6, 2))["logits"].tolist() == [[2, 2]] * 6


def test_operators_of_torchvision(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            boxes = torch.arange(4)[:, None] * torch.tensor([1, 0, 0, 0, 0]) + torch.tensor([0, 0, 0, 4, 4])
            return torchvision.ops.roi_align(x, boxes.float(), 1).flatten(1)

    x = torch.randn(4, 3, 8, 8)
    loaded = load_model(saved(tmp_path / "net.pt2", Net(), x, 4)).module
    assert torch.equal(loaded(x), Net()(x))


@pytest.mark.filterwarnings("ignore:.*_register_pytree_node:FutureWarning")  # torch 2.6, of itself
def test_an_object_as_output_has_its_attributes(tmp_path):
    @dataclass
    class Answer:
        logits: Tensor
        states: Tensor

    torch.export.register_dataclass(Answer, serialized_type_name="test_exported.Answer")

    class Net(nn.Module):
        def forward(self, x):
            return Answer(logits=x * 2, states=x)

    loaded = load_model(saved(tmp_path / "net.pt2", Net(), torch.zeros(4, 2), 4)).module
    assert loaded(torch.ones(6, 2)).logits.tolist() == [[2, 2]] * 6


def test_inputs_that_are_none(tmp_path):
    class Net(nn.Module):
        def forward(self, x, mask, y):
            return x + y if mask is None else x

    write(export(Net(), (torch.ones(4, 2), None, torch.ones(4, 2))), tmp_path / "net.pt2")
    for load in (lambda path: load_model(path).module, load_trusted_program):
        loaded = load(tmp_path / "net.pt2")
        assert loaded(torch.ones(5, 2), torch.ones(5, 2)).tolist() == [[2, 2]] * 5


def test_nested_inputs_are_refused(tmp_path):
    class Net(nn.Module):
        def forward(self, given):
            return given["x"]

    write(export(Net(), ({"x": torch.ones(4, 2)},)), tmp_path / "net.pt2")
    for load in (load_model, load_trusted_program):
        with pytest.raises(InputError, match=r"net\.pt2 takes inputs that are nested in lists or mappings: export a"):
            load(tmp_path / "net.pt2")


@pytest.mark.parametrize("size", ["fixed 1", "fixed 8", "any"])
def test_an_audit_is_that_of_the_model(tmp_path, size):
    module, given = made("convolutions")
    path = exported(tmp_path, "convolutions", size)
    data = (given.numpy(), np.arange(SAMPLES) % 5)
    found, expected = (qfair_check.audit(model, data, bits="16,8,2") for model in (path, module))
    assert found.model == expected.model
    assert found.outcomes_sha256 == expected.outcomes_sha256
    for mine, theirs in zip(found.precisions, expected.precisions, strict=True):
        assert (mine.fvo, mine.overall.correct, mine.weights) == (theirs.fvo, theirs.overall.correct, theirs.weights)
        assert mine.overall.loss == pytest.approx(theirs.overall.loss, rel=1e-5)


def test_data_of_another_shape_reads_well(tmp_path):
    path = saved(tmp_path / "net.pt2", nn.Linear(3, 2).eval(), torch.randn(8, 3), 8)
    with pytest.raises(MeasureError) as error:
        qfair_check.audit(path, (np.ones((4, 5), np.float32), [0, 1, 0, 1]), bits=8)
    assert str(error.value) == (
        "the model at fp32 failed on sample 0 to sample 3, as a batch of shape (64, 5) (torch.float32): input, "
        "input 1 of the program, has shape (64, 5), and the program takes (rows, 3): export it with dynamic_shapes for "
        "sizes that vary, or give such samples"
    )


def test_the_gate_takes_a_program(pytester):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, x = nn.Linear(3, 2).eval(), torch.randn(300, 3)
    saved(pytester.path / "net.pt2", module, x, 8)
    labels = module(x).argmax(1).numpy()
    np.savez(pytester.path / "data.npz", x=x.numpy(), y=labels)
    result = pytester.runpytest("--qfair-model=net.pt2", "--qfair-data=data.npz", "--bits=8")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*net.pt2, 8 parameters, 75.0% of them quantized*"])
