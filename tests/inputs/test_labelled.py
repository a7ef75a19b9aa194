import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import qfair_check
from qfair_check.errors import InputError
from qfair_check.inputs.data import as_samples
from qfair_check.inputs.labelled import labelled
from qfair_check.measure.chunks import chunks

SIZE = 150
X = np.random.default_rng(5).normal(size=(SIZE, 3)).astype(np.float32)
Y = [int(row.sum() > 0) for row in X]
SEX = ["f" if index % 3 else "m" for index in range(SIZE)]
AGE = [("old", "young")[int(row[0] > 0)] for row in X]


class Made(Dataset):
    def __init__(self, function, size=SIZE):
        self.function, self.size = function, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.function(index)


class Flow(IterableDataset):
    def __init__(self, function, size=SIZE):
        self.function, self.size = function, size

    def __iter__(self):
        return (self.function(index) for index in range(self.size))


class Promised(Flow):
    """Says how many samples it has."""

    def __init__(self, function, size=SIZE, promised=SIZE):
        super().__init__(function, size)
        self.promised = promised

    def __len__(self):
        return self.promised


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def triple(index):
    return torch.from_numpy(X[index]), Y[index], SEX[index]


def measured(data, **options):
    return qfair_check.audit(net(), data, [8, 2], **options).measured_json()


def finished(function, size=SIZE, batch_size=64, **options):
    data = labelled(Made(function, size), "python", "key", **options)
    roster = data.roster()
    list(chunks(data, roster, batch_size=batch_size, workers=0, seed=0))
    return roster.finish()[0]


def message(data, **options):
    with pytest.raises(InputError) as caught:
        measured(data, **options)
    return str(caught.value)


EXPECTED = measured((X, Y, SEX))


@pytest.mark.parametrize("kind", [Made, Flow, Promised])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_one_pass_gives_the_audit_that_arrays_give(kind, batch_size):
    assert measured(kind(triple), batch_size=batch_size) == EXPECTED


def test_workers_read_what_this_process_reads():
    assert measured(Made(triple), workers=2) == EXPECTED
    assert measured(Flow(triple), workers=2) == EXPECTED  # in this process, since each worker would read all of it


@pytest.mark.parametrize(
    "sample",
    [
        lambda index: {"x": X[index], "y": Y[index], "group": SEX[index]},
        lambda index: {"x": X[index], "label": torch.tensor(Y[index]), "group": np.str_(SEX[index])},
        lambda index: {"input": X[index], "labels": float(Y[index]), "group": SEX[index]},
        lambda index: (X[index], bool(Y[index]), SEX[index]),
        lambda index: [X[index], np.int64(Y[index]), f" {SEX[index]} "],
        lambda index: (X[index], torch.tensor([float(Y[index])]), SEX[index]),
    ],
)
def test_every_form_of_a_sample(sample):
    class ByName(nn.Sequential):
        def forward(self, *given, **named):
            return super().forward(*given, *named.values())

    found = qfair_check.audit(ByName(*net()), Made(sample), [8, 2])
    expected = qfair_check.audit(net(), (X, Y, SEX), [8, 2])
    assert found.precisions == expected.precisions
    assert found.groups == ("f", "m")


def test_keys_of_mappings_are_chosen_and_crossed_as_columns_are(tmp_path):
    with (tmp_path / "people.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "b", "c", "paid", "sex", "age"])
        rows.writerows([*map(repr, map(float, x)), y, sex, age] for x, y, sex, age in zip(X, Y, SEX, AGE, strict=True))
    by_file = qfair_check.load_data(tmp_path / "people.csv", label="paid", group_by=("sex", "age"))
    data = labelled(
        Made(lambda index: {"x": X[index], "paid": Y[index], "sex": SEX[index], "age": AGE[index]}),
        "python",
        "key",
        label="paid",
        group_by=("sex", "age"),
    )
    assert measured(data) == measured(by_file)


def test_without_a_group_the_class_is_the_group():
    assert measured(TensorDataset(torch.from_numpy(X), torch.tensor(Y))) == measured((X, Y))


def test_a_class_that_the_model_has_and_no_sample_is_an_empty_group():
    found = qfair_check.audit(net(), Made(lambda index: (X[index], 0)), 8)
    assert found.groups == ("0", "1")
    assert [group.samples for group in found.at(8).groups] == [SIZE, 0]


def test_numbers_as_groups_are_in_the_order_of_numbers():
    found = finished(lambda index: (X[index], Y[index], 11 - index % 12))
    assert found.group_names == tuple(map(str, range(12)))
    assert found.groups.tolist() == [11 - index % 12 for index in range(SIZE)]


def test_names_of_classes_from_the_user_the_model_or_the_data_set():
    names = ["no", "yes"]
    by_name = finished(lambda index: (X[index], names[Y[index]]), classes=("no", "yes"))
    assert (by_name.labels.tolist(), by_name.classes, by_name.class_order) == (Y, ("no", "yes"), "given")
    by_model = finished(lambda index: (X[index], names[Y[index]]), model_classes=("yes", "no"))
    assert (by_model.labels.tolist(), by_model.class_order) == ([1 - y for y in Y], "model")
    data = Made(lambda index: (X[index], Y[index]))
    data.classes = names
    found = qfair_check.audit(net(), data, 8)
    assert (found.groups, found.data.classes) == (("no", "yes"), ("no", "yes"))


@pytest.mark.parametrize("kind", [Made, Flow])
@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (lambda index: X[index], "sample 0 cannot be used: it is a ndarray, not (input, label), (input, label, group)"),
        (lambda index: (X[index],), "sample 0 cannot be used: it is a tuple of 1, not (input, label)"),
        (lambda index: {"x": X[index]}, "sample 0 cannot be used: it has no label: its keys are x; name the right one"),
        (lambda index: {"label": 1, "group": 2}, "sample 0 cannot be used: it holds no input beside label and groups"),
        (
            lambda index: (X[index], np.eye(2)[0]),
            "sample 0 cannot be used: its label has shape (2,): give one index or name (of one-hot: argmax)",
        ),
        (lambda index: (X[index], 0.5), "sample 0 cannot be used: its label is 0.5: give a whole number or a name"),
        (
            lambda index: (X[index], None if index == 70 else 1, "f"),
            "sample 70 cannot be used: its label is missing",
        ),
        (
            lambda index: (X[index], 1, float("nan") if index == 3 else "f"),
            "sample 3 cannot be used: its group is missing",
        ),
        (lambda index: (X[index], 1, " "), "sample 0 cannot be used: its group is missing"),
        (
            lambda index: (Image.new("RGB", (4, 4)), 1),
            "sample 0 cannot be used: its input is a PIL image: let the data set make it a tensor, such as by a",
        ),
        (
            lambda index: {"text": "good film", "ids": X[index], "label": 1},
            "sample 0 cannot be used: its text is a str, and no tensor can be made of it",
        ),
        (lambda index: ((X[index], None), 1), "sample 0 cannot be used: its input 1 is a NoneType, and no tensor can"),
        (lambda index: ((), 1), "sample 0 cannot be used: it holds no input"),
        (lambda index: ({}, 1), "sample 0 cannot be used: it holds no input"),
        (lambda index: (X[index], 7), "sample 0 has class index 7, and the model has 2 outputs"),
        (
            lambda index: (X[index], 2 if index == 100 else 1),
            "sample 100 has class index 2, and the model has 2 outputs",
        ),
        (lambda index: (X[index], "yes"), "python gives names as labels (yes) and is read in one pass: pass --qfair-"),
        (
            lambda index: (X[index], 1, "f") if index != 99 else (X[index], 1),
            "sample 99 has a group, or none, unlike the samples before: give each one",
        ),
        (
            lambda index: (X[index][: 2 + (index != 80)], 1),
            "sample 80 cannot be used: its shape is (2,) (torch.float32), and that of the samples before is (3,)",
        ),
        (
            lambda index: ({"ids": X[index]} if index != 3 else {"idx": X[index]}, 1),
            "sample 3 cannot be used: its shape is idx (3,) (torch.float32), and that of the samples before is ids",
        ),
        (lambda index: 1 / (index - 9) and (X[index], 1), "sample 9 cannot be used: ZeroDivisionError: "),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(kind, sample, told):
    assert message(kind(sample)).startswith(told)


def test_labels_that_are_names_here_and_indices_there():
    data = labelled(Made(lambda index: (X[index], "1" if index < 70 else "no")), "python", "key", classes=("no", "yes"))
    assert "sample 0" in message(data)
    data = labelled(Made(lambda index: (X[index], 1 if index < 70 else 3)), "python", "key", classes=("0", "1"))
    assert "sample 70" in message(data)


@pytest.mark.parametrize(("size", "gave"), [(149, "149"), (151, "more"), (0, "0")])
def test_an_iterable_that_ends_early_or_late_is_told(size, gave):
    flow = Promised(lambda index: triple(index % SIZE), size)
    assert message(flow) == (
        f"python says that it has 150 samples, and gave {gave}: an iterable data set gives as many as its __len__ "
        "says, or has none"
    )


def test_an_iterable_without_end_is_left_where_it_says_that_it_ends():
    asked = []
    told = message(Promised(lambda index: asked.append(index) or triple(index % SIZE), 10**12))
    assert told.startswith("python says that it has 150 samples, and gave more: ")
    assert len(asked) == SIZE + 1


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("kind", [Made, Flow])
def test_a_data_set_may_fill_one_buffer_for_every_sample(kind, batch_size):
    buffer, sample = torch.empty(3), {"group": "", "y": torch.empty((), dtype=torch.int64)}

    def filled(index):
        sample["group"] = SEX[index]
        sample["y"].fill_(Y[index])
        return sample | {"x": buffer.copy_(torch.from_numpy(X[index]))}

    assert measured(kind(filled), batch_size=batch_size) == EXPECTED


def test_a_data_set_without_a_length_is_iterated_or_refused():
    class Rows(Dataset):
        def __getitem__(self, index):
            return triple(index)

    class Iterated(Rows):
        def __iter__(self):
            return map(triple, range(SIZE))

    class Unknown(Rows):
        def __len__(self):
            raise NotImplementedError

    assert measured(Iterated()) == EXPECTED
    assert message(Rows()) == "python gives a Rows without a length: give it a __len__, or make it iterable"
    assert message(Unknown()) == "python gives a Unknown without a length: give it a __len__, or make it iterable"


def test_a_length_that_fails_or_makes_no_sense():
    assert message(Made(triple, -1)) == "the length of python cannot be told: ValueError: __len__() should return >= 0"

    class Closed(Made):
        def __len__(self):
            raise OSError("disk on fire")

    assert message(Closed(triple)) == "the length of python cannot be told: OSError: disk on fire"


def test_truth_values_are_indices_as_labels_and_names_as_groups():
    held = [(X[index], bool(Y[index]), X[index, 0] > 0) for index in range(SIZE)]
    assert measured(Made(held.__getitem__)) == measured((X, np.array(Y, bool), X[:, 0] > 0))
    assert finished(held.__getitem__).group_names == ("False", "True")


def test_no_samples_at_all():
    assert message(Flow(triple, 0)) == "python holds no samples"
    assert message(Made(triple, 0)) == "python holds no samples"


def test_an_iterable_that_breaks_when_it_starts():
    class Broken(IterableDataset):
        def __iter__(self):
            raise OSError("disk on fire")

    assert message(Broken()) == "sample 0 cannot be used: OSError: disk on fire"


def test_tuples_have_no_keys_to_choose():
    told = message(labelled(Made(triple), "python", "key", group_by=("sex",)))
    assert told.startswith("sample 0 cannot be used: it is a tuple, and --qfair-label and --qfair-group-by name keys")
    told = message(labelled(Made(lambda i: {"x": X[i], "y": 1}), "python", "key", group_by=("sex",)))
    assert told.endswith("it has no sex: its keys are x, y; name the right one with --qfair-group-by")


def test_samples_are_read_once_and_in_order():
    asked = []
    measured(Made(lambda index: asked.append(index) or triple(index)))
    assert asked == list(range(SIZE))


def test_one_data_set_is_one_key_and_two_are_two():
    data = Made(triple)
    assert as_samples(data).key == as_samples(data).key
    assert as_samples(data).key != as_samples(Made(triple)).key
