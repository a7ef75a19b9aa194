import os
import re
import shlex
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import qfair_check.files
from qfair_check.cli import main

COUNTS = {"A": 45, "B": 36}
LESS = {"A": 44, "B": 30}
SAMPLES = {"A": 50, "B": 40}


@pytest.fixture
def saved(tmp_path, monkeypatch, make_audit):
    monkeypatch.chdir(tmp_path)
    make_audit(SAMPLES, fp32=COUNTS, int8=COUNTS, int4=LESS).save("audit.json")
    return tmp_path / "audit.json"


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".npy")


def test_a_report_is_written_whatever_it_says(saved, capsys):
    assert main(["report", "audit.json", "--out", "audit.html"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("report written to audit.html\n", "")
    html = (saved.parent / "audit.html").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>\n")
    assert html.rstrip().endswith("</html>")
    assert "<strong>FAIL</strong>" in html
    assert names(saved.parent) == ["audit.html", "audit.json"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "FAIL"),
        (["--max-group-drop", "0.15", "--max-fvo-increase", "0.13", "--max-accuracy-drop", "0.08"], "PASS"),
        (["--min-group-size", "60", "--max-accuracy-drop", "1"], "INSUFFICIENT"),
    ],
)
def test_limits_are_those_of_the_gate(saved, options, word, capsys):
    assert main(["report", "audit.json", "--out", "audit.html", *options]) == 0
    html = (saved.parent / "audit.html").read_text(encoding="utf-8")
    assert re.findall("<strong>([A-Z ]+)</strong>", html) == [word]
    judge = shlex.split(re.search("<dt>judge</dt><dd><code>(.+?)</code></dd>", html)[1])
    assert sorted(judge) == sorted(["qfair", "gate", "audit.json", *options])
    assert main(judge[1:]) == (0 if word == "PASS" else 1)


def test_the_front_is_judged_with_the_group_size_of_the_gate(saved):
    def front(*options):
        assert main(["report", "audit.json", "--out", "audit.html", *options]) == 0
        html = (saved.parent / "audit.html").read_text(encoding="utf-8")
        table = html[html.index('<h2 id="front">') :].partition("</table>")[0]
        return re.findall("<td>(yes|no|unsure)</td>", table)

    assert front() == ["yes", "no"]
    assert front("--min-group-size", "60") == ["unsure", "unsure"]


def test_a_report_replaces_an_older_one(saved):
    (saved.parent / "audit.html").write_text("old")
    assert main(["report", "audit.json", "--out", "audit.html"]) == 0
    assert "old" not in (saved.parent / "audit.html").read_text(encoding="utf-8")[:20]


def test_several_audits_have_names_that_tell_them_apart(saved, make_audit):
    (saved.parent / "runs").mkdir()
    make_audit({"A": 50, "C": 40}, fp32={"A": 45, "C": 36}, int4={"A": 45, "C": 36}).save("runs/audit.json")
    assert main(["report", "audit.json", "runs/audit.json", "--out", "both.html", "--max-fvo", "int8=1"]) == 0
    html = (saved.parent / "both.html").read_text(encoding="utf-8")
    assert re.findall('<h2 id="audit-.-audit">Audit <bdi>([^<]+)</bdi></h2>', html) == ["audit.json", "runs/audit.json"]


@pytest.mark.parametrize("path", ["runs/a b; touch x.json", "--insufficient=pass"])
def test_commands_name_the_audit_so_that_they_can_be_typed(saved, path, make_audit):
    (saved.parent / "runs").mkdir()
    make_audit(SAMPLES, fp32=COUNTS, int4=LESS).save(path)
    assert main(["report", "--out", "audit.html", "--", path]) == 0
    html = (saved.parent / "audit.html").read_text(encoding="utf-8")
    told = re.findall("<code>(qfair (?:gate|layers) .+?)</code>", html)
    assert [main(shlex.split(unescape(command))[1:]) for command in told] == [0, 1]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_nothing_is_half_written(saved, step, monkeypatch, capsys):
    (saved.parent / "audit.html").write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else qfair_check.files.Path, step, fail)
    assert main(["report", "audit.json", "--out", "audit.html"]) == 4
    assert capsys.readouterr().err == "qfair: error: cannot write the report audit.html: No space left on device\n"
    assert (saved.parent / "audit.html").read_text() == "old"
    assert names(saved.parent) == ["audit.html", "audit.json"]


def test_an_audit_is_not_overwritten_through_a_link(saved, capsys):
    (saved.parent / "link.html").symlink_to("audit.json")
    assert main(["report", "audit.json", "--out", "link.html"]) == 4
    assert "--out link.html is one of the audits" in capsys.readouterr().err
    assert saved.read_text().startswith("{")


def test_a_device_or_a_pipe_is_not_replaced(saved, capsys):
    os.mkfifo("pipe")
    assert main(["report", "audit.json", "--out", "pipe"]) == 4
    assert capsys.readouterr().err == "qfair: error: --out pipe is a device or a pipe: name a file\n"
    assert names(saved.parent) == ["audit.json", "pipe"]


def test_a_name_that_is_too_long_is_an_error_in_one_line(saved, capsys):
    assert main(["report", "audit.json", "--out", "x" * 300]) == 4
    assert capsys.readouterr().err == f"qfair: error: cannot write the report {'x' * 300}: File name too long\n"


def test_what_an_audit_holds_gives_the_terminal_no_commands(saved, capsys):
    evil = saved.read_text(encoding="utf-8").replace('"precision": "int4"', '"precision": "\\u001b]0;x\\u0007\\u202e"')
    (saved.parent / "bad.json").write_text(evil, encoding="utf-8")
    assert main(["report", "bad.json", "--out", "audit.html"]) == 4
    told = capsys.readouterr().err
    assert not set("\x1b\x07\u202e") & set(told)
    assert told.startswith("qfair: error: bad.json contradicts itself")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "bad.json is not an audit that qfair_check wrote, or is damaged: "),
        ('{"schema_version": 2}', "bad.json has schema version 2, and this qfair_check reads 3: audit the model again"),
    ],
)
def test_a_file_that_is_no_audit(saved, content, told, capsys):
    (saved.parent / "bad.json").write_text(content)
    assert main(["report", "audit.json", "bad.json", "--out", "both.html"]) == 4
    captured = capsys.readouterr()
    assert captured.err.startswith(f"qfair: error: {told}")
    assert captured.out == ""
    assert names(saved.parent) == ["audit.json", "bad.json"]


def test_an_audit_that_is_not_there_is_told_with_options_that_exist(saved, capsys):
    assert main(["report", "no.json", "--out", "audit.html"]) == 4
    told = "there is no audit file no.json: qfair audit --out and --qfair-json write one"
    assert capsys.readouterr().err == f"qfair: error: {told}\n"


def test_hostile_file_names_are_text(saved, make_audit, capsys):
    name = "\x1b[31m\u202e<script>\udcff名.json"
    make_audit(SAMPLES, fp32=COUNTS, int8=COUNTS).save(name)
    assert main(["report", "audit.json", name, "--out", "<b>.html"]) == 0
    assert capsys.readouterr().out == "report written to <b>.html\n"
    html = (saved.parent / "<b>.html").read_text(encoding="utf-8")
    assert html.count("<script>") == 1
    assert "\\x1b[31m\\u202e&lt;script&gt;\\udcff名.json" in html


def test_markdown_is_printed_or_written(saved, capsys):
    pytest.importorskip("qfair_check.report.markdown")
    assert main(["report", "audit.json", "--format", "markdown"]) == 0
    captured = capsys.readouterr()
    assert "FAIL" in captured.out
    assert captured.err == ""
    assert main(["report", "audit.json", "--format", "markdown", "--out", "audit.md"]) == 0
    assert capsys.readouterr().out == "report written to audit.md\n"
    assert (saved.parent / "audit.md").read_text(encoding="utf-8").rstrip("\n") == captured.out.rstrip("\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_a_redirection_is_an_error_in_one_line(saved):
    command = [sys.executable, "-m", "qfair_check", "report", "audit.json", "--format", "markdown"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (4, "qfair: error: cannot print: No space left on device\n")


def test_a_report_needs_no_torch(saved):
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from qfair_check.cli import main\n"
        "sys.exit(main(['report', 'audit.json', '--out', 'audit.html']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "report written to audit.html\n"


def test_other_commands_load_neither_plotting_nor_templates():
    code = "import sys, qfair_check.commands\nsys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
