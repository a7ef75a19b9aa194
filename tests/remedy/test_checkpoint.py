import pytest
import torch
from torch import nn

from qfair_check.errors import InputError
from qfair_check.quantize.allocation import Allocation
from qfair_check.remedy.attach import attach_lsq, freeze_lsq
from qfair_check.remedy.checkpoint import (
    EpochRecord,
    Progressed,
    frozen_model,
    frozen_state,
    load_checkpoint,
    save_checkpoint,
)
from qfair_check.remedy.epoch import EpochLoss, trainee_of
from qfair_check.remedy.evaluate import Made
from qfair_check.remedy.recipe import Recipe
from qfair_check.remedy.selection import Candidate, GroupCounts, contenders
from qfair_check.remedy.training import kept_states

HASHES = {"recipe": "r", "data": "d", "model": "m"}
RECIPE = Recipe.of("mpqat", 3, allocation=Allocation())


def made():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    trainee = trainee_of(attach_lsq(module, 3, "mse/asymmetric", allocation=Allocation()), RECIPE)
    counts = GroupCounts((3, 2), (4, 4))
    candidate = Candidate(1, "running", counts)
    record = EpochRecord(1, EpochLoss(0.1 + 0.2, 1 / 3), (candidate,), counts, 0.25)
    frozen = freeze_lsq(trainee.module)
    return module, trainee, frozen, Progressed((record,), {candidate: frozen_state(frozen)}, "stopped")


def test_what_is_saved_is_what_is_loaded(tmp_path):
    module, trainee, frozen, progressed = made()
    path = tmp_path / "run.pt"
    save_checkpoint(path, HASHES, trainee, progressed)
    fresh = made()[1]
    loaded = load_checkpoint(path, HASHES, fresh)
    assert (loaded.records, loaded.stopped, list(loaded.kept)) == (progressed.records, "stopped", list(progressed.kept))
    assert all(
        torch.equal(value, trainee.module.state_dict()[name]) for name, value in fresh.module.state_dict().items()
    )
    again = frozen_model(module, next(iter(loaded.kept.values())))
    x = torch.randn(5, 3)
    assert torch.equal(again.module(x), frozen.module(x))
    for name, learned in again.grids.items():
        assert (learned.bits, learned.grid) == (3, "asymmetric")
        assert torch.equal(learned.tensor.dequantize(), frozen.grids[name].tensor.dequantize())


def test_models_that_differ_in_a_bias_share_the_rest(tmp_path):
    module, trainee, frozen, _ = made()
    counts = [GroupCounts(correct, (100, 100)) for correct in ((95, 75), (93, 76), (90, 77))]
    candidates = [
        Candidate(1, "running", held, adjusted=share) for held, share in zip(counts, (0, 0.5, 1), strict=True)
    ]
    moved = [
        Made(candidate, frozen, {"2.bias": torch.full((2,), candidate.adjusted)} if candidate.adjusted else {})
        for candidate in candidates
    ]
    kept = kept_states(moved, {}, candidates)
    assert set(kept) == set(contenders(candidates))
    assert len(kept) > 1
    path = tmp_path / "run.pt"
    save_checkpoint(path, HASHES, trainee, Progressed((), kept))
    loaded = load_checkpoint(path, HASHES, made()[1]).kept
    for candidate in loaded:
        again = frozen_model(module, loaded[candidate]).module
        wanted = torch.full((2,), candidate.adjusted) if candidate.adjusted else frozen.module[2].bias
        assert torch.equal(again[2].bias, wanted)
        assert torch.equal(again[0].weight, frozen.module[0].weight)
    storages = {state["state"]["0.weight"].data_ptr() for state in loaded.values()}
    assert len(storages) == 1


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    _, trainee, _, progressed = made()
    path = tmp_path / "run.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="is no checkpoint of a training run, or damaged: delete it, or name another"):
        load_checkpoint(path, HASHES, trainee)
    save_checkpoint(path, HASHES, trainee, progressed)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match="is no checkpoint"):
        load_checkpoint(path, HASHES, trainee)
    save_checkpoint(path, HASHES, trainee, progressed)
    content = path.read_bytes()
    weights = trainee.module.state_dict()["0.parametrizations.weight.original"].numpy().tobytes()
    where = content.index(weights) + 1
    path.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    with pytest.raises(InputError, match="or damaged"):
        load_checkpoint(path, HASHES, trainee)
    torch.save({"format": 2}, path)
    with pytest.raises(InputError, match="or damaged"):
        load_checkpoint(path, HASHES, trainee)
    torch.save({"format": 99}, path)
    with pytest.raises(InputError, match="format 99, not 2"):
        load_checkpoint(path, HASHES, trainee)


def test_every_hash_that_differs_is_named(tmp_path):
    _, trainee, _, progressed = made()
    path = tmp_path / "run.pt"
    save_checkpoint(path, HASHES, trainee, progressed)
    with pytest.raises(InputError, match="a run with another recipe and other training data: give"):
        load_checkpoint(path, HASHES | {"recipe": "x", "data": "y"}, trainee)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    _, trainee, _, progressed = made()
    path = tmp_path / "run.pt"
    save_checkpoint(path, HASHES, trainee, progressed)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device; the one of the epoch before is kept"):
        save_checkpoint(path, HASHES, trainee, progressed)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
