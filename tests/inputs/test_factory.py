import sys

import numpy as np
import pytest
import torch

import qfair_check
from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.paths import is_factory

CODE = """
import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
import qfair_check

X = np.random.default_rng(5).normal(size=(80, 3)).astype(np.float32)
Y = [index % 2 for index in range(80)]
SEX = ["f" if index % 3 else "m" for index in range(80)]

class People(Dataset):
    def __len__(self):
        return 80
    def __getitem__(self, index):
        return X[index], Y[index], SEX[index]

class Flow(IterableDataset):
    def __iter__(self):
        return (People()[index] for index in range(80))

def arrays():
    return X, Y, SEX

def named_arrays():
    return {"x": X, "y": Y, "group": SEX}

def mapping():
    return {"train": People()}

def loader():
    return torch.utils.data.DataLoader(People(), batch_size=8)

def grouped():
    return qfair_check.grouped_data(X, Y, SEX)

def listed():
    return [People()[index] for index in range(80)]

def number():
    return 3

def broken():
    raise OSError("disk on fire")

def leaves():
    raise SystemExit(3)

def refused():
    raise qfair_check.InputError("the archive is not mounted")

def generator():
    yield from listed()

def split():
    return torch.utils.data.random_split(People(), [40, 40])[0]

constant = 5
"""


@pytest.fixture(autouse=True)
def people(tmp_path, monkeypatch):
    (tmp_path / "people_data.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "people_data", raising=False)
    return tmp_path


def network():
    from torch import nn

    return nn.Linear(3, 2)


def message(path, error=InputError, **options):
    with pytest.raises(error) as caught:
        qfair_check.load_data(path, **options)
    return str(caught.value)


def test_what_a_factory_may_give():
    net = network()
    found = {
        name: qfair_check.audit(net, qfair_check.load_data(f"people_data:{name}"), 8).measured_json()
        for name in ("People", "Flow", "arrays", "named_arrays", "grouped", "listed")
    }
    assert len(set(found.values())) == 1


def test_a_factory_has_a_key_that_tells_its_options():
    first = qfair_check.load_data("people_data:People")
    assert first.key == qfair_check.load_data("people_data:People").key
    assert first.key != qfair_check.load_data("people_data:People", classes=("no", "yes")).key
    assert first.key != qfair_check.load_data("people_data:Flow").key
    assert first.source == "people_data:People"


def test_factories_that_cannot_be_used():
    assert message("people_data:number") == (
        "people_data:number gives a int, not a torch Dataset: give one of samples (x, y), (x, y, group), or mappings "
        "with a label"
    )
    assert message("people_data:generator") == (
        "people_data:generator gives a generator, which can be read only once: give an IterableDataset, whose __iter__ "
        "starts anew"
    )
    assert message("people_data:loader") == (
        "people_data:loader gives a DataLoader, whose samples come in batches: give the data set that it loads"
    )
    assert message("people_data:mapping").startswith("people_data:mapping gives a dict, not a torch Dataset: ")
    assert message("people_data:broken") == "people_data:broken failed: OSError: disk on fire"
    assert message("people_data:leaves") == "people_data:leaves failed: SystemExit: 3"
    assert message("people_data:refused") == "the archive is not mounted"
    assert message("people_data:constant") == "people_data:constant is a int, not a function that gives a data set"
    assert message("people_data:gone").startswith("people_data has no 'gone'")
    assert message("no_such_module:make").startswith("cannot import 'no_such_module'")


@pytest.mark.parametrize(
    ("option", "value"),
    [("split", "test"), ("features", ["a"]), ("image_size", (4, 4)), ("mean", [0.5]), ("std", [0.5])],
)
def test_options_of_files_are_refused(option, value):
    told = message("people_data:People", OptionError, **{option: value})
    assert told.startswith(f"--qfair-{option.replace('_', '-')} is for files, and people_data:People is a function")


@pytest.mark.parametrize(
    ("name", "option", "value", "gives"),
    [
        ("arrays", "label", "y", "arrays, which have no keys"),
        ("arrays", "group_by", "sex", "arrays, which have no keys"),
        ("grouped", "label", "y", "grouped data, which says this itself"),
        ("grouped", "group_by", "sex", "grouped data, which says this itself"),
        ("grouped", "classes", ["no", "yes"], "grouped data, which says this itself"),
    ],
)
def test_options_that_would_count_for_nothing_are_refused(name, option, value, gives):
    assert message(f"people_data:{name}", OptionError, **{option: value}) == (
        f"--qfair-{option.replace('_', '-')} makes no sense here: people_data:{name} gives {gives}; leave it out"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a:b", True), ("a.b.c:d.e", True), ("C:/a.csv", False), ("a.csv", False), ("a b:c", False), (":b", False)],
)
def test_the_name_of_a_function_is_told_from_a_path(text, expected):
    assert is_factory(text) is expected


def test_a_file_can_still_be_named_with_a_folder(people):
    np.savez(people / "a.npz", x=np.ones((2, 3), np.float32), y=[0, 1])
    assert qfair_check.load_data(people / "a.npz").size == 2


def test_a_random_split_is_the_same_each_time_and_draws_nothing_from_the_caller():
    before = torch.random.get_rng_state()
    first, second = (qfair_check.load_data("people_data:split").inputs.indices for _ in range(2))
    assert first == second != list(range(40))
    assert torch.equal(torch.random.get_rng_state(), before)
