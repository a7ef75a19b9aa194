import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

MODEL = ("--qfair-model=tiny.safetensors",)
DATA = ("--qfair-data=tiny.npz",)
BOTH = MODEL + DATA
METADATA = {"qfair_check": "1", "architecture": "network:make", "classes": "[]", "preprocessing": "null"}
X = np.ones((4, 2), np.float32)


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("marker",)


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def weights(value: float, name: str = "weight") -> Callable[[Path], None]:
    state = {name: torch.tensor([[1.0, 0.0], [0.0, value]])}
    return lambda folder: save_file(state, folder / "tiny.safetensors", METADATA)


def arrays(**held: object) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / "tiny.npz", **held)


def table(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "rows.csv").write_text(text)


def images(content: bytes | None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        Image.new("RGB", (2, 1)).save(folder / "good.png")
        if content is not None:
            (folder / "bad.png").write_bytes(content)
        (folder / "rows.csv").write_text("path,label\ngood.png,0\nbad.png,1\n")

    return write


def parquet(**columns: object) -> Callable[[Path], None]:
    return lambda folder: pq.write_table(pa.table(columns), folder / "rows.parquet")


def folder(*names: str) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        for name in names:
            (place / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 1)).save(place / "images" / name)

    return write


def nothing(folder: Path) -> None:
    assert folder.is_dir()


def evil(folder: Path) -> None:
    (folder / "evil.pt").write_bytes(pickle.dumps(Evil()))


def whole(folder: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), folder / "whole.pt")


def network(body: str) -> Callable[[Path], None]:
    start = "from torch import nn\nclass make(nn.Linear):\n    def __init__(self): super().__init__(2, 2, bias=False)\n"
    return lambda folder: (folder / "network.py").write_text(start + body)


ON_ROWS = (*MODEL, "--qfair-data=rows.csv")
ON_PARQUET = (*MODEL, "--qfair-data=rows.parquet", "--qfair-features=a,b")
ON_FOLDER = (*MODEL, "--qfair-data=images")
CASES = {
    "no model file": (nothing, ("--qfair-model=gone.pt", *DATA), "there is no model file gone.pt: give a model file *"),
    "model is a folder": (nothing, ("--qfair-model=.", *DATA), ". is a folder without weights: give a model file*"),
    "cut model": (cut("tiny.safetensors"), BOTH, "cannot read tiny.safetensors as safetensors (truncated *"),
    "evil": (
        evil,
        ("--qfair-model=evil.pt", *DATA),
        "evil.pt is not a plain*save_model*--qfair-trust-pickle",
    ),
    "pickled module": (whole, ("--qfair-model=whole.pt", *DATA), "whole.pt is not a plain state dict: *"),
    "wrong architecture": (
        nothing,
        (*BOTH, "--qfair-arch=resnet18"),
        "tiny.safetensors does not fit *resnet18: 102 missing: conv1.weight, *; 1 unexpected: weight; *",
    ),
    "unknown architecture": (
        nothing,
        (*BOTH, "--qfair-arch=resnet19"),
        "there is no torchvision classification model 'resnet19'; close: *",
    ),
    "NaN weights": (weights(float("nan")), BOTH, "*holds NaN or infinite values, in weight (1): *"),
    "infinite weights": (
        weights(float("inf")),
        BOTH,
        "*holds NaN or infinite values, in weight (1): *",
    ),
    "no data": (nothing, MODEL, "no grouped data is given: pass --qfair-data FILE*"),
    "no model": (nothing, DATA, "no model is given: pass --qfair-model FILE*"),
    "no data file": (nothing, (*MODEL, "--qfair-data=gone.csv"), "there is no data file gone.csv: *"),
    "unknown kind of data": (
        nothing,
        (*MODEL, "--qfair-data=network.py"),
        "network.py is of a kind that cannot *",
    ),
    "cut data": (cut("tiny.npz"), BOTH, "cannot read tiny.npz as .npz (truncated or damaged?): *"),
    "no labels": (arrays(x=X), BOTH, "tiny.npz has no array y: it holds x; save x, y and optionally group"),
    "objects": (arrays(x=X, y=np.array([0, 1, 1, None])), BOTH, "tiny.npz was saved with pickle*"),
    "no samples": (arrays(x=X[:0], y=[]), BOTH, "x of tiny.npz has no samples"),
    "labels out of range": (
        arrays(x=X, y=[0, 1, 2, 0]),
        BOTH,
        "y of tiny.npz holds 2, not among the class indices 0 to 1 (no, yes), for 1 sample: sample 2; *",
    ),
    "labels beyond the outputs": (
        arrays(x=X, y=[0, 1, 2, 0]),
        (*BOTH, "--qfair-classes=a,b,c"),
        "sample 2 has class 'c' (index 2), and the model has 2 outputs; labels out of range: 1",
    ),
    "unknown label names": (table("a,b,label\n1,2,maybe\n"), ON_ROWS, "column label of rows.csv holds maybe, *"),
    "missing column": (
        table("a,b,race\n1,2,x\n"),
        ON_ROWS,
        "rows.csv has no column label: name *--qfair-label; its columns are a, b, race",
    ),
    "missing group column": (
        table("a,b,label\n1,2,no\n"),
        (*ON_ROWS, "--qfair-group-by=race"),
        "rows.csv has no column race: name *--qfair-group-by; its columns are a, b, label",
    ),
    "missing group": (
        table("a,b,label,group\n1,2,no,x\n1,2,no,\n"),
        ON_ROWS,
        "column group of rows.csv is empty for 1 sample: row 3; *",
    ),
    "no such split": (
        table("a,b,label,split\n1,2,no,train\n"),
        (*ON_ROWS, "--qfair-split=test"),
        "*test*train*",
    ),
    "missing image": (
        images(None),
        ON_ROWS,
        "column path of *names 1 image that cannot be found: row 3 *",
    ),
    "corrupt image": (images(b"no image"), ON_ROWS, "the image of row 3 (bad.png) cannot be decoded: *"),
    "a Parquet file with a wrong column type": (
        parquet(a=[1.0], b=[2.0], label=["no"], group=[0.5]),
        ON_PARQUET,
        "column group of rows.parquet is of type double, which names no class or group: *",
    ),
    "a Parquet file with a missing feature": (
        parquet(a=[1.0, None], b=[2.0, 3.0], label=["no", "yes"]),
        ON_PARQUET,
        "column a of rows.parquet holds a value that is not finite (*) in row 2: *",
    ),
    "no Parquet file": (
        lambda place: (place / "rows.parquet").write_bytes(b"x" * 100),
        ON_PARQUET,
        "cannot read rows.parquet as Parquet (truncated or damaged?): *",
    ),
    "bins that leave values out": (
        table("a,b,label,age\n1,2,no,30\n1,2,yes,70\n"),
        (*ON_ROWS, "--qfair-features=a,b", "--qfair-group-by=age", "--qfair-bin=age=0,65"),
        "column age of rows.csv holds 70, in no bin of age=0,65, for 1 sample: row 3; widen the bins, *",
    ),
    "unknown transforms": (
        folder("no/a.png"),
        (*ON_FOLDER, "--qfair-transforms=ResNet18_Weights.V1"),
        "torchvision has no weights 'ResNet18_Weights.V1'; close: *",
    ),
    "a folder of neither classes nor faces": (folder("a.png"), ON_FOLDER, "images is a folder with neither *"),
    "a model that fails": (
        network("    def forward(self, x): raise ValueError('odd')"),
        BOTH,
        "*failed on sample 0 to sample 63, as a batch of shape (64, 2) (torch.float32): ValueError: odd",
    ),
    "logits of the wrong shape": (
        network("    def forward(self, x): return x[0]"),
        BOTH,
        "the model at fp32 failed on *: its output has shape (2,), not (64, number of classes)",
    ),
    "no tensor": (network("    def forward(self, x): return (None, x)"), BOTH, "*returned a NoneType in a tuple, not*"),
    "probabilities of two classes as one": (
        network("    def forward(self, x): return x[:, 0].sigmoid()"),
        BOTH,
        "the model's one output lies between 0 and 1 on all 80 samples, as a probability does: return the logit, *",
    ),
    "limit above one": (
        nothing,
        (*BOTH, "--qfair-max-fvo=1.2"),
        "max_fvo is '1.2': a limit is a number *",
    ),
    "limit nan": (nothing, (*BOTH, "--qfair-max-fvo=nan"), "max_fvo is 'nan': a limit is a number from 0 to 1"),
    "limit below zero": (nothing, (*BOTH, "--qfair-min-accuracy=-0.1"), "min_accuracy is '-0.1': *"),
    "limit nowhere": (
        nothing,
        (*BOTH, "--qfair-max-fvo=int4=0.1", "--bits=8"),
        "max_fvo sets a limit for int4, which is not audited: audited are int8",
    ),
    "scheme": (
        nothing,
        (*BOTH, "--qfair-scheme=absmin"),
        "'absmin' is not a word *: did you mean absmax? *",
    ),
    "device": (
        nothing,
        (*BOTH, "--qfair-device=abacus"),
        "device 'abacus' cannot be used here: *; cpu always can",
    ),
    "batch size": (
        nothing,
        (*BOTH, "--qfair-batch-size=0"),
        "batch_size is '0': *at least 1",
    ),
    "workers": (
        nothing,
        (*BOTH, "--qfair-workers=some"),
        "workers is 'some': *at least 0",
    ),
    "image size": (nothing, (*BOTH, "--qfair-image-size=big"), "image_size is 'big': *"),
    "mean": (nothing, (*BOTH, "--qfair-mean=a,b"), "mean is 'a,b': give numbers such as 0.5,0.5,0.5"),
}


@pytest.mark.parametrize(("prepare", "arguments", "told"), CASES.values(), ids=CASES)
def test_what_cannot_be_read_or_measured_is_one_clear_usage_error(pytester, tiny, prepare, arguments, told):
    prepare(tiny)
    before = {path: path.stat().st_mtime_ns for path in tiny.iterdir()}
    bits = () if any(argument.startswith("--bits") for argument in arguments) else ("--bits=8",)
    result = pytester.runpytest(*arguments, *bits, "--qfair-json=out.json", "-p", "no:cacheprovider")
    assert result.ret == 4
    assert [line for line in result.errlines if line] == [line for line in result.errlines if line][:1]
    result.stderr.fnmatch_lines([f"ERROR: {told.replace('[', '[[]')}"])
    assert "Traceback" not in result.stdout.str()
    after = {path: path.stat().st_mtime_ns for path in tiny.iterdir() if path.name != "__pycache__"}
    assert after == before


@pytest.mark.parametrize("kind", ["two runs", "xdist"])
def test_a_bad_model_ends_the_run_alike_however_it_is_run(pytester, tiny, kind):
    cut("tiny.safetensors")(tiny)
    for _ in range(2):
        result = pytester.runpytest(*BOTH, *(["-n2"] if kind == "xdist" else []))
        assert result.ret == 4
        result.stderr.fnmatch_lines(["ERROR: cannot read tiny.safetensors as safetensors (truncated or damaged?): *"])


@pytest.mark.parametrize(
    ("groups", "reason", "cure"),
    [
        (["A"] * 40, "a gap needs two groups, and there is only one to judge", "data with two groups at least; *"),
        (["A"] * 35 + ["B"] * 5, "group B has 5 samples, and judging needs 30", "more samples of such groups, *"),
    ],
)
def test_what_can_be_measured_but_not_judged_fails_the_gate(pytester, tiny, groups, reason, cure):
    arrays(x=np.tile(X, (10, 1)), y=[0] * 40, group=groups)(tiny)
    result = pytester.runpytest(*BOTH, "--bits=8")
    assert result.ret == 1
    headline = "FVO increase at int8 cannot be judged against the limit 0.05"
    result.stdout.fnmatch_lines([headline, f"  because  {reason}", f"  cure     {cure}"])


def test_an_empty_group_is_not_forgotten(pytester, tiny):
    arrays(x=np.tile(X, (10, 1)), y=[0] * 40)(tiny)
    result = pytester.runpytest(*BOTH, "--bits=8")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["  because  group yes: no samples", "yes       0  no samples*"])


def test_nan_logits_never_make_a_gap_smaller(pytester, tiny):
    network("    def forward(self, x): return super().forward(x).masked_fill(x[:, :1] < 0, float('nan'))")(tiny)
    result = pytester.runpytest(*BOTH, "--bits=8")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "FVO increase at int8 cannot be judged against the limit 0.05",
            "  because  group B: 10 of 40 samples have NaN or infinite logits",
            "  because  a gap needs two groups, and there is only one to judge",
            "  cure     find out why the model gives such logits, and to whom",
        ]
    )


def test_hostile_group_names_are_shown_harmlessly(pytester, tiny):
    names = [
        "\x1b[2J\x1b]0;owned\x07",
        "<script>alert(1)</script>",
        "qfair::fvo[int8]",
        "名前" * 40,
        "\u202eevil",
        "a\nb",
    ]
    x = np.tile(X[:1], (60 * len(names), 1))
    arrays(x=x, y=[0] * len(x), group=np.repeat(names, 60))(tiny)
    result = pytester.runpytest(*BOTH, "--bits=8", "--junitxml=junit.xml", "-v")
    assert result.ret == 0
    text = result.stdout.str()
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    result.stdout.fnmatch_lines(["*\\x1b[[]2J*60*", "<script>*60*", "a\\nb *60*", "名前*…*60*"])
    own = [line for line in text.splitlines() if not line.startswith("metadata:")]
    assert max(map(len, own)) <= 200


SLOW = """
import time
from torch import nn

class make(nn.Linear):
    def __init__(self): super().__init__(2, 2, bias=False)
    def forward(self, x):
        open("started", "w").close()
        time.sleep(0.2)
        return super().forward(x)
"""


def heed_interrupts() -> None:
    """Undo what a shell does to a process in the background, which a child would inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups")
@pytest.mark.parametrize("arguments", [(), ("-n2",), ("--qfair-workers=2",)])
def test_an_interrupt_leaves_no_file_and_no_process(tiny, tmp_path_factory, arguments):
    (tiny / "network.py").write_text(SLOW)
    arrays(x=np.ones((6400, 2), np.float32), y=[0] * 6400)(tiny)
    command = [sys.executable, "-m", "pytest", *BOTH, "--qfair-json=out.json", "-p", "no:cacheprovider"]
    temporary = tmp_path_factory.mktemp("t")  # a short path, since sockets of loading processes lie in it
    environment = os.environ | {"TMPDIR": str(temporary)}
    running = subprocess.Popen(
        [*command, *arguments],
        start_new_session=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 60
    while not (tiny / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 2, output
    assert not list(tiny.glob("*out.json*"))
    assert not list(temporary.glob("qfair-*"))
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)
