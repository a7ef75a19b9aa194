import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import qfair_check
from qfair_check import Audit, GroupedData, Model, load_data, load_model
from qfair_check.judge.limits import gate_limits
from qfair_check.judge.remedy import remedy_command
from qfair_check.judge.verdicts import judge_audit

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODULES = ("make_fixtures", "shapes_net", "loans_net")
WEIGHTS = ("shapes.safetensors", "shapes.pt", "loans.safetensors")


@pytest.fixture(scope="module", autouse=True)
def script() -> Iterator[ModuleType]:
    """Give the script as a module, with its folder on the path, forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FIXTURES), *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)
        yield importlib.import_module("make_fixtures")
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def made(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "new"
    script.main([str(folder)])
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def shapes(folder: Path = FIXTURES) -> Model:
    return load_model(folder / "shapes.safetensors")


def loans(folder: Path = FIXTURES) -> Model:
    return load_model(folder / "loans.safetensors")


def loan_table(model: Model, *group_by: str) -> GroupedData:
    return load_data(FIXTURES / "loans.csv", features=["income", "debt", "age"], group_by=group_by, model=model)


def predicted(model: Model, data: GroupedData) -> list[int]:
    batch = torch.stack([data.inputs[index] for index in range(len(data.labels))])
    with torch.inference_mode():
        return model.forward(batch).argmax(1).tolist()


def accuracies(audit: Audit) -> dict[str, list[float | None]]:
    return {found.precision: [group.accuracy for group in found.groups] for found in audit.precisions}


def test_the_script_makes_every_data_file_and_no_other(made: Path) -> None:
    written_by_hand = {"README.md", *(f"{name}.py" for name in MODULES)}
    kept = [name for name in files(FIXTURES) if name not in written_by_hand and "__pycache__" not in name]
    assert files(made) == kept


@pytest.mark.parametrize("name", ["shapes.csv", "loans.csv"])
def test_tables_are_made_again(made: Path, name: str) -> None:
    assert (made / name).read_bytes() == (FIXTURES / name).read_bytes()


def test_arrays_are_made_again(made: Path) -> None:
    with np.load(made / "shapes.npz") as new, np.load(FIXTURES / "shapes.npz") as kept:
        assert new.files == kept.files == ["x", "y", "group"]
        for name in kept.files:
            assert new[name].dtype == kept[name].dtype
            np.testing.assert_array_equal(new[name], kept[name])


def test_images_are_made_again(made: Path) -> None:
    paths = sorted((FIXTURES / "shapes").iterdir())
    assert len(paths) == 60
    for path in paths:
        with Image.open(path) as kept, Image.open(made / "shapes" / path.name) as new:
            assert (kept.format, kept.mode, kept.size) == (new.format, new.mode, new.size) == ("PNG", "RGB", (16, 16))
            assert kept.tobytes() == new.tobytes()


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_made_again(made: Path, name: str) -> None:
    new, kept = weights(made / name), weights(FIXTURES / name)
    assert new.keys() == kept.keys()
    for key, value in kept.items():
        torch.testing.assert_close(new[key], value, rtol=1e-4, atol=1e-4)


def test_new_and_kept_models_predict_the_same(made: Path) -> None:
    images = load_data(FIXTURES / "shapes.npz", model=shapes())
    assert predicted(shapes(made), images) == predicted(shapes(), images)
    table = loan_table(loans())
    assert predicted(loans(made), table) == predicted(loans(), table)


def test_the_script_leaves_the_random_state_as_it_is(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = script.train
    monkeypatch.setattr(script, "train", lambda *given, **options: train(*given, **options | {"epochs": 1}))
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    script.main([str(tmp_path)])
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_the_folder_stays_small() -> None:
    sizes = [path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(sizes) < 150_000


def test_images_and_arrays_hold_the_same_samples() -> None:
    model = shapes()
    images, arrays = (load_data(FIXTURES / name, model=model) for name in ("shapes.csv", "shapes.npz"))
    assert images.labels.tolist() == arrays.labels.tolist()
    assert images.groups.tolist() == arrays.groups.tolist()
    assert images.group_names == arrays.group_names == ("bright", "dim")
    assert images.classes == arrays.classes == ("circle", "square", "triangle")
    assert all(torch.equal(images.inputs[index], arrays.inputs[index]) for index in range(60))
    assert predicted(model, images) == predicted(model, arrays)


def test_every_way_to_give_the_shapes_gives_the_same_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURES)
    described = load_model("shapes.safetensors")
    plain = load_model("shapes.pt", arch="shapes_net:shapes_cnn")
    prepared = described.preprocessing
    by_hand = {"classes": described.classes, "mean": prepared.mean, "std": prepared.std}
    ways = [
        qfair_check.audit("shapes.safetensors", "shapes.npz", "8,3"),
        qfair_check.audit("shapes.safetensors", "shapes.csv", "8,3", workers=0),
        qfair_check.audit(described, load_data("shapes.csv", model=described), "8,3", workers=0),
        qfair_check.audit(plain, load_data("shapes.npz", **by_hand), "8,3"),
        qfair_check.audit(plain, load_data("shapes.csv", **by_hand), "8,3", workers=0),
    ]
    assert {audit.model.sha256 for audit in ways} == {described.sha256}
    assert {audit.groups for audit in ways} == {("bright", "dim")}
    assert [accuracies(audit) for audit in ways[1:]] == [accuracies(ways[0])] * 4


def test_the_shapes_are_harder_to_tell_in_dim_light() -> None:
    audit = qfair_check.audit(shapes(), load_data(FIXTURES / "shapes.npz", model=shapes()), "2")
    bright, dim = audit.at("fp32").groups
    assert bright.samples == dim.samples == 30
    assert bright.accuracy > dim.accuracy > 0.7
    assert audit.at("int2").overall.accuracy < audit.at("fp32").overall.accuracy


def test_a_split_of_the_shapes() -> None:
    parts = {split: load_data(FIXTURES / "shapes.csv", split=split, model=shapes()) for split in ("test", "validation")}
    assert {split: np.bincount(data.groups).tolist() for split, data in parts.items()} == {
        "test": [24, 24],
        "validation": [6, 6],
    }
    assert all(np.bincount(data.labels).min() == np.bincount(data.labels).max() for data in parts.values())


def test_the_loans_by_region() -> None:
    model = loans()
    audit = qfair_check.audit(model, loan_table(model, "region"), "8,4")
    north, south = audit.at("fp32").groups
    assert (audit.groups, north.samples, south.samples) == (("north", "south"), 120, 120)
    assert north.accuracy > south.accuracy > 0.8
    assert [found.precision for found in audit.precisions] == ["fp32", "int8", "int4"]


def test_the_loans_by_sex_and_region() -> None:
    model = loans()
    audit = qfair_check.audit(model, loan_table(model, "sex", "region"), "8")
    assert audit.groups == ("f × north", "f × south", "m × north", "m × south")
    assert [group.samples for group in audit.at("fp32").groups] == [60] * 4


def test_the_loans_hold_both_decisions_in_every_group() -> None:
    data = loan_table(loans(), "sex", "region")
    assert data.classes == ("defaulted", "repaid")
    counts = np.array([np.bincount(data.labels[data.groups == group], minlength=2) for group in range(4)])
    assert counts.min() >= 10


def test_the_command_that_may_mend_the_loans_names_the_features_that_were_named() -> None:
    audit = qfair_check.audit(FIXTURES / "loans.safetensors", loan_table(loans(), "region"), "2")
    verdicts = judge_audit(audit, gate_limits({"max_fvo": "0"}))
    told = [remedy_command(verdict, audit) for verdict in verdicts if verdict.check == "fvo"]
    assert " --features income,debt,age " in str(told[0])
