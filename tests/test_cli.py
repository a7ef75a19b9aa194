import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import qfair_check
from qfair_check.cli import main
from qfair_check.record import Audit

COMMAND = [sys.executable, "-m", "qfair_check"]
CURVED = ["audit", "demo", "--out", "a.json", "--curvature"]


@pytest.fixture
def saved(tmp_path, monkeypatch, make_audit):
    monkeypatch.chdir(tmp_path)
    make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int8={"A": 45, "B": 36}, int4={"A": 44, "B": 30}).save(
        "audit.json"
    )
    return tmp_path / "audit.json"


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"qfair_check {qfair_check.__version__}\n"


@pytest.mark.parametrize("command", ["audit", "gate", "compare", "layers", "explain", "report", "demo"])
def test_help_names_every_option_with_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"usage: qfair {command}" in text
    assert "--qfair-" not in text.replace("--qfair-json", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["nothing"], "invalid choice: 'nothing'"),
        (["gate"], "the following arguments are required: AUDIT"),
        (["gate", ""], "the value is empty"),
        (["gate", "audit.json", "--max-group", "1"], "unrecognized arguments: --max-group 1"),
        (["gate", "audit.json", "--insufficient", "never"], "invalid choice: 'never'"),
        (["compare"], "the following arguments are required: AUDIT"),
        (["compare", "audit.json", ""], "the value is empty"),
        (["compare", "audit.json", "--max-fvo", "1"], "unrecognized arguments: --max-fvo 1"),
        (["layers"], "the following arguments are required: AUDIT"),
        (["layers", "audit.json", "b.json"], "unrecognized arguments: b.json"),
        (["explain"], "the following arguments are required: AUDIT"),
        (["explain", "audit.json", "b.json"], "unrecognized arguments: b.json"),
        (["report", "--out", "a.html"], "the following arguments are required: AUDIT"),
        (["report", "audit.json", "--out", ""], "the value is empty"),
        (["report", "audit.json", "--format", "pdf"], "invalid choice: 'pdf'"),
        (["report", "audit.json", "--bits", "4"], "unrecognized arguments: --bits 4"),
        (["audit", "demo"], "the following arguments are required: --out"),
        (["audit", "", "--out", "a.json"], "the value is empty"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_a_usage_error(arguments, told, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 4
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gate", "gone.json"], "there is no audit file gone.json"),
        (["gate", "audit.json", "--bits", "2"], "the audit holds no int2: it holds fp32, int8, int4;"),
        (["gate", "audit.json", "--bits", "32"], "there is nothing to judge: fp32 is the baseline"),
        (["gate", "audit.json", "--max-fvo", "nan"], "max_fvo is 'nan': a limit is a number from 0 to 1"),
        (["gate", "audit.json", "--max-fvo", "int2=0.1"], "max_fvo sets a limit for int2, which is not audited"),
        (["layers", "gone.json"], "there is no audit file gone.json"),
        (["layers", "audit.json", "--bits", "2"], "the audit holds no int2: it holds fp32, int8, int4;"),
        (["layers", "audit.json", "--bits", "32"], "there is nothing to show: fp32 is the baseline"),
        (["explain", "gone.json"], "there is no audit file gone.json"),
        (["explain", "audit.json"], "audit.json holds no curvature: audit the model again with qfair audit ... --curv"),
        (["explain", "audit.json", "--bits", "2"], "the audit holds no int2: it holds fp32, int8, int4;"),
        (["explain", "audit.json", "--bits", "32"], "there is nothing to show: fp32 is the baseline"),
        (["report", "gone.json", "--out", "a.html"], "there is no audit file gone.json"),
        (["report", "audit.json"], "a report in HTML needs --out FILE; --format markdown without --out is printed"),
        (["report", "audit.json", "./audit.json", "--out", "a.html"], "./audit.json is given twice: name each audit"),
        (["report", "audit.json", "--out", "./audit.json"], "--out ./audit.json is one of the audits: name another"),
        (["report", "audit.json", "--out", "gone/a.html"], "--out gone/a.html: there is no folder"),
        (["report", "audit.json", "--out", "."], "--out . is a folder: name a file in it"),
        (["report", "audit.json", "--out", "a.html", "--max-fvo", "2"], "max_fvo is '2': a limit is a number from 0"),
        (["report", "audit.json", "--out", "a.html", "--max-fvo", "int2=0.1"], "max_fvo sets a limit for int2, which"),
        (["compare", "audit.json", "gone.json"], "there is no audit file gone.json"),
        (["compare", "audit.json", "./audit.json"], "./audit.json is given twice: name each audit once"),
        (["compare", "audit.json", "--bits", "2"], "no audit holds int2: audit a model again with --bits int2"),
        (["compare", "audit.json", "--bits", "32"], "there is nothing to compare in audit.json: it holds fp32, int8,"),
        (["compare", "audit.json", "--bits", "x"], "'x' is not a bit width"),
        (["compare", "audit.json", "--min-group-size", "0"], "min_group_size is '0': it is a whole number of at least"),
        (["audit", "gone.pt", "--data", "demo", "--out", "a.json"], "there is no model file gone.pt"),
        (["audit", "gone.pt", "--out", "a.json"], "no grouped data is given: pass --data FILE"),
        (["audit", "demo", "--out", "gone/a.json"], "--out gone/a.json: there is no folder"),
        (["audit", "demo", "--out", "."], "--out . is a folder: name a file in it"),
        (["audit", "demo", "--out", "a.json", "--bits", "9"], "'9' is not a bit width"),
        (
            ["audit", "demo", "--out", "a.json", "--bin", "age=1"],
            "the bins of 'age' have the edges 1: give at least two",
        ),
        (["audit", "demo", "--out", "a.json", "--bin", "age=1,2"], "--bin is for the columns of a manifest"),
        (["audit", "demo", "--out", "a.json", "--transforms", "x"], "--transforms is for image files"),
        (["audit", "demo", "--out", "a.json", "--label", "y"], "--label is for the columns of a manifest"),
        *(
            ([*CURVED, f"--curvature-samples={given}"], f"curvature_samples is {given!r}: it is a whole number of at")
            for given in ("0", "abc", "-3", "1.5")
        ),
        *(
            (
                [*CURVED, f"--curvature-memory={given}"],
                f"curvature_memory is {given!r}: give a size with its unit, such",
            )
            for given in ("2", "2QB", "-1GB", "GB", "0GB", "nanGB", "infGB")
        ),
        ([*CURVED, "--curvature-memory=1KB"], "measuring curvature of this model takes "),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(saved, arguments, told, capsys):
    assert main(arguments) == 4
    captured = capsys.readouterr()
    assert captured.err.startswith(f"qfair: error: {told}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(path.name for path in saved.parent.iterdir()) == sorted(
        [saved.name, *(path.name for path in saved.parent.glob("*.npy"))]
    )


def test_compare_of_a_link_to_itself(saved, capsys):
    (saved.parent / "round.json").symlink_to("round.json")
    assert main(["compare", "audit.json", "round.json"]) == 4
    assert capsys.readouterr().err.startswith("qfair: error: cannot read the audit round.json: ")


def test_gate_prints_the_table_and_every_verdict(saved, capsys):
    assert main(["gate", "audit.json"]) == 1
    text = capsys.readouterr().out
    assert re.search(r"^gate +- +pass +FAIL$", text, re.MULTILINE)
    assert [line.split()[0] for line in text.splitlines() if re.match(r"(PASS|FAIL|INSUFFICIENT)  ", line)] == [
        *["PASS"] * 3,
        *["FAIL"] * 3,
    ]
    assert "FAIL  accuracy drop of B at int4 is 0.150, above the limit 0.050\n  worst  B  n=40 " in text


def test_gate_passes_when_every_limit_holds(saved, capsys):
    assert main(["gate", "audit.json", "--bits", "8"]) == 0
    loose = ["--max-group-drop", "0.15", "--max-fvo-increase", "0.13", "--max-accuracy-drop", "0.08"]
    assert main(["gate", "audit.json", *loose]) == 0


@pytest.mark.parametrize(("mode", "code"), [("fail", 1), ("warn", 0), ("pass", 0)])
def test_gate_on_what_cannot_be_judged(saved, mode, code, capsys):
    assert main(["gate", "audit.json", "--bits", "8", "--min-group-size", "60", "--insufficient", mode]) == code
    told = capsys.readouterr().out
    assert "INSUFFICIENT  FVO increase at int8 cannot be judged against the limit 0.05" in told
    assert "--min-group-size" in told
    assert "--qfair-" not in told


@pytest.fixture
def other(saved, make_audit):
    counts = {"A": 45, "B": 36}
    (saved.parent / "runs").mkdir()
    make_audit({"A": 50, "B": 40}, fp32=counts, int4={"A": 44, "B": 31}).save("runs/audit.json")
    return "runs/audit.json"


def test_compare_marks_the_front(saved, other, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["compare", "audit.json", other]) == 0
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines() if "audit.json  " in line]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("audit.json", "fp32", "-"),
        ("audit.json", "int8", "yes"),
        ("audit.json", "int4", "no"),
        ("runs/audit.json", "int4", "no"),
    ]
    assert captured.err == ""
    assert main(["compare", "audit.json", other, "--bits", "4"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " int4 " in line]
    assert [row[-1] for row in rows] == ["no", "yes"]
    assert main(["compare", "audit.json", "--min-group-size", "41"]) == 0
    assert "note    int8, int4 cannot be judged: group B has 40 samples" in capsys.readouterr().out


def test_compare_needs_the_same_samples(saved, make_audit, capsys):
    counts = {"A": 45, "B": 36}
    make_audit({"A": 50, "B": 41}, fp32=counts, int8=counts).save("other.json")
    assert main(["compare", "audit.json", "other.json"]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "qfair: error: audit.json and other.json cannot be compared: group B has 40 samples in audit.json and 41 in "
        "other.json; audit both models on the same data with the same groups\n"
    )


@pytest.mark.parametrize("command", ["compare", "layers", "explain"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "bad.json is not an audit that qfair_check wrote, or is damaged: "),
        ("[1, 2]", "bad.json is not an audit that qfair_check wrote, or is damaged: "),
        ('{"schema_version": 2}', "bad.json has schema version 2, and this qfair_check reads 3: audit the model again"),
        ('{"schema_version": 3}', "bad.json is not an audit that qfair_check wrote, or is damaged: "),
    ],
)
def test_a_file_that_is_no_audit(saved, command, content, told, capsys):
    (saved.parent / "bad.json").write_text(content)
    assert main([command, "bad.json"]) == 4
    captured = capsys.readouterr()
    assert captured.err.startswith(f"qfair: error: {told}")
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_a_hostile_file_name_stays_printable(saved, make_audit, capsys):
    counts = {"A": 45, "B": 36}
    name = "\x1b[31m\u202e<script>\udcff名.json"
    make_audit({"A": 50, "B": 40}, fp32=counts, int8=counts).save(name)
    assert main(["compare", "audit.json", name]) == 0
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b[31m\\u202e<script>\\udcff名.json" in text


def test_layers_shows_each_precision_or_those_named(saved, capsys):
    assert main(["layers", "audit.json"]) == 0
    both = capsys.readouterr().out
    assert re.findall(r"^int\d$", both, re.MULTILINE) == ["int8", "int4"]
    assert both.count("fc     10x100     4  absmax  0.1       25.0%     0.0%      15         3.5\n") == 2
    assert both.count("total  1,000                           25.0%     0.0%                 3.5\n") == 2
    assert main(["layers", "audit.json", "--bits", "int4"]) == 0
    assert re.findall(r"^int\d$", capsys.readouterr().out, re.MULTILINE) == ["int4"]


def test_audit_measures_saves_and_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.array([[1.0, 0.0]] * 40 + [[0.1, 1.0]] * 40, np.float32)
    np.savez("data.npz", x=x, y=[0] * 40 + [1] * 40, group=["A"] * 40 + ["B"] * 40)
    (tmp_path / "qfair_cli_net.py").write_text(
        "import torch\n"
        "def make():\n"
        "    net = torch.nn.Linear(2, 2, bias=False)\n"
        "    net.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.3]])\n"
        "    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import qfair_cli_net

    qfair_check.save_model(qfair_cli_net.make(), "net.safetensors", arch="qfair_cli_net:make", classes=["no", "yes"])
    options = ["--data", "data.npz", "--bits", "8,2", "--scheme", "mse", "--seed", "3", "--out", "a.json"]
    assert main(["audit", "net.safetensors", *options]) == 0
    text = capsys.readouterr().out
    assert text.endswith("audit written to a.json; judge it with: qfair gate a.json\n")
    assert "group     n  fp32   int8" in text
    audit = Audit.load("a.json")
    assert audit.run.command == ("qfair", "audit", "net.safetensors", *options)
    assert (audit.settings.scheme, audit.settings.seed) == ("mse/symmetric/per-tensor", 3)
    assert audit.data.classes == ("no", "yes")


def test_fp32_alone_can_be_audited(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "demo", "--bits", "32", "--out", "a.json"]) == 0
    assert [result.precision for result in Audit.load("a.json").precisions] == ["fp32"]
    assert main(["gate", "a.json"]) == 4


def test_a_reader_that_leaves_does_not_turn_a_failed_gate_into_a_passed_one(saved):
    line = f"set -o pipefail; {sys.executable} -m qfair_check gate audit.json --max-fvo 0 | true"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=saved.parent, check=False)
    assert ran.returncode == 1
    assert ran.stderr == ""


def test_a_terminal_that_knows_ascii_alone_is_written_to(saved):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ran = subprocess.run([*COMMAND, "gate", "audit.json"], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 1
    assert "accuracy 0.900 ? 0.750" in ran.stdout


def test_colour_is_for_terminals(saved, capsys):
    main(["gate", "audit.json"])
    assert "\x1b[" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("during", "curvature"), [("run.one_pass", []), ("backward_pass.measure_group", ["--curvature"])]
)
def test_an_interrupt_leaves_no_file(during, curvature, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.ones((640, 1, 8, 8), np.float32), y=np.zeros(640, np.int64))
    (tmp_path / "temporary").mkdir()
    options = ["audit", "demo", "--data", "data.npz", "--bits", "8,4,2", "--out", "a.json", *curvature]
    heed = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # also in a background job
    code = f"{heed}import sys\nimport time\nfrom qfair_check.cli import main\n" + (
        "from qfair_check.measure import backward_pass, run\n"
        f"passing = {during}\n"
        "def started(*given, **named):\n    open('started', 'w').close()\n    time.sleep(100)\n"
        "    return passing(*given, **named)\n"
        f"{during} = started\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 2
    assert errors.endswith("qfair: interrupted; nothing was written\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "started", "temporary"]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_audit_with_curvature_and_then_explain(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    assert main([*CURVED, "--bits", "4", "--curvature-samples", "30"]) == 0
    text = capsys.readouterr().out
    assert "(λmax) of the loss, on a subsample of at most 30 samples of each group; * marks the largest λmax" in text
    audit = Audit.load("a.json")
    assert [group.samples for group in audit.at(4).curvature] == [30] * 10
    assert main(["explain", "a.json"]) == 0
    text = capsys.readouterr().out
    worst = max(range(10), key=lambda index: audit.at(4).curvature[index].account.measured)
    account = audit.at(4).curvature[worst].account
    layer = audit.at(4).moved[max(range(3), key=account.by_tensor.__getitem__)].removesuffix(".weight")
    assert (
        f"\nint4: layer {layer} costs group {audit.groups[worst]} most: +{max(account.by_tensor):.3f} of a predicted "
        in text
    )
    assert main(["explain", "a.json", "--bits", "2"]) == 4


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"\x1b[31mred\u202e": 1, "two\nlines": 2}, "net.pt")
    assert main(["audit", "net.pt", "--arch=resnet18", "--data=demo", "--out=audit.json"]) == 4
    told = capsys.readouterr().err
    assert "its keys are \\x1b[31mred\\u202e, two" in told
    assert "\x1b" not in told
