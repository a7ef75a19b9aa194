"""What each command of ``qfair`` does."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qfair_check.baseline_options import BaselineOptions, Settled, settle_baseline, write_due
from qfair_check.console import columns, say
from qfair_check.errors import InputError, OptionError
from qfair_check.files import replace_file
from qfair_check.inputs.options import DataOptions, ModelOptions
from qfair_check.judge.limits import check_limits_bind, gate_limits
from qfair_check.judge.pareto import candidates_of, standings
from qfair_check.judge.regression import REGRESSION, judge_regression
from qfair_check.judge.text import describe, printable
from qfair_check.judge.verdicts import Outcome, Verdict, judge_audit
from qfair_check.option_table import as_command_line
from qfair_check.options import JudgeOptions, MeasureOptions
from qfair_check.overwriting import refuse_overwriting
from qfair_check.precision import Precision, parse_precisions
from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.compare import render_comparison, short_names
from qfair_check.report.explain import render_explanation
from qfair_check.report.layers import render_layers
from qfair_check.report.reported import Reported
from qfair_check.report.terminal import render


def audit_command(
    model: ModelOptions | None,
    data: DataOptions | None,
    measuring: MeasureOptions,
    out: str,
    *,
    command: Sequence[str],
) -> int:
    """Measure and save."""
    if model is None or data is None:
        raise OptionError("no grouped data is given: pass --data FILE")
    target = out_target(out)
    reference = measuring.reference.path if measuring.reference else None
    refuse_overwriting({"--out": out}, {"the model": model.path, "the data": data.path, "the reference": reference})

    from qfair_check.inputs.data import read_data
    from qfair_check.inputs.model import read_model
    from qfair_check.measure.reference import read_reference_file
    from qfair_check.measure.run import audit, check_precisions
    from qfair_check.progress import progress_bar

    subject = read_model(model)
    check_precisions(subject, measuring.precisions)
    origin = read_reference_file(measuring.reference, subject) if measuring.reference else None
    samples = read_data(data, model_classes=subject.classes, model_preprocessing=subject.preprocessing)
    with progress_bar() as progress:
        made = audit(
            subject,
            samples,
            measuring.precisions or "fp32",
            scheme=measuring.scheme,
            allocation=measuring.allocation,
            device=measuring.device,
            batch_size=measuring.batch_size,
            workers=measuring.workers,
            seed=measuring.seed,
            curvature=measuring.curvature,
            bad_sample=measuring.bad_sample,
            reference=origin,
            command=command,
            progress=progress,
        )
    made.save(target)
    say(_table(made, ()))
    say(f"audit written to {target}; judge it with: qfair gate {shlex.quote(out)}")
    return 0


def gate_command(path: str, bits: str | None, judging: JudgeOptions, against: BaselineOptions | None = None) -> int:
    """Judge a saved audit, by limits and against a baseline."""
    refuse_overwriting({"--baseline": str(against.path) if against else None}, {"the audit": path})
    audit = Audit.load(path)
    held = tuple(Precision(result.precision) for result in audit.quantized)
    precisions = parse_precisions(bits) if bits else held
    names = [audit.at(precision).precision for precision in precisions]
    if not names:
        raise OptionError("there is nothing to judge: fp32 is the baseline, and no other precision is named")
    check_limits_bind(judging.limits, names)
    told = judge_audit(audit, judging.limits, min_group_size=judging.min_group_size, confidence=judging.confidence)
    verdicts = [verdict for verdict in told if verdict.precision in names]
    settled = Settled(None)
    if against:
        check_limits_bind({REGRESSION: against.limit}, names)
        settled = settle_baseline(against, audit, names)
        write_due(against, settled)
        least = judging.min_group_size
        verdicts += [
            judge_regression(audit, settled.baseline, bound, name, min_group_size=least)
            for name in names
            if (bound := against.limit.bound(name)) is not None
        ]
    say(_table(audit, verdicts))
    for verdict in verdicts:
        say(f"{verdict.outcome.upper()}  {as_command_line(describe(verdict, audit))}")
    for line in settled.told:
        say(printable(line))
    refused = {Outcome.FAIL} | ({Outcome.INSUFFICIENT} if judging.insufficient == "fail" else set())
    return 1 if any(verdict.outcome in refused for verdict in verdicts) else 0


def layers_command(path: str, bits: str | None) -> int:
    """Show what quantization did to each layer."""
    audit = Audit.load(path)
    say(render_layers(audit, _quantized(audit, bits), width=columns()))
    return 0


def explain_command(path: str, bits: str | None) -> int:
    """Show which layers hurt which group."""
    audit = Audit.load(path)
    results = _quantized(audit, bits)
    if audit.settings.curvature is None:
        raise OptionError(f"{path} holds no curvature: audit the model again with qfair audit ... --curvature")
    say(render_explanation(audit, results, width=columns()))
    return 0


def _quantized(audit: Audit, bits: str | None) -> list[PrecisionResult]:
    results = [audit.at(precision) for precision in parse_precisions(bits)] if bits else list(audit.quantized)
    if not results:
        raise OptionError("there is nothing to show: fp32 is the baseline, and no other precision is named")
    return results


def compare_command(paths: Sequence[str], bits: str | None, min_group_size: int) -> int:
    """Show audits side by side, and which of their precisions are on the Pareto front."""
    audits = _audits(paths)
    names = [printable(name) for name in short_names(paths)]
    candidates = candidates_of(audits, names, bits=bits, min_group_size=min_group_size)
    say(render_comparison(audits, names, standings(candidates), width=columns()))
    return 0


def report_command(
    paths: Sequence[str], out: str | None, form: str, judging: JudgeOptions, *, judge_arguments: Sequence[str]
) -> int:
    """Write the report on saved audits, or print its markdown.

    `judge_arguments` are the judge options as given; the report tells how to judge again with them.
    """
    if out is None and form == "html":
        raise OptionError("a report in HTML needs --out FILE; --format markdown without --out is printed")
    target = None if out is None else _report_target(out, paths)
    audits = _audits(paths)
    check_limits_bind(judging.limits, {result.precision for audit in audits for result in audit.quantized})
    reported = [
        Reported(
            printable(name),
            audit,
            judge_audit(audit, judging.limits, min_group_size=judging.min_group_size, confidence=judging.confidence),
            judging.insufficient,
            judging.min_group_size,
            _argument(path),
        )
        for name, path, audit in zip(short_names(paths), paths, audits, strict=True)
    ]
    if form == "markdown":
        from qfair_check.report.markdown import render_markdown

        text = render_markdown(reported)
    else:
        from qfair_check.report.page.page import render_page

        text = render_page(reported, rerun=[("qfair", "gate", one.path, *judge_arguments) for one in reported])
    if target is None:
        say(text.rstrip("\n"))
        return 0
    try:
        replace_file(target, text.encode())
    except OSError as error:
        raise InputError(f"cannot write the report {printable(str(out))}: {error.strerror or error}") from error
    say(f"report written to {printable(str(out))}")
    return 0


def _argument(path: str) -> str:
    """Return the path so that no command takes it for an option."""
    return f"./{path}" if path.startswith("-") else path


def _report_target(out: str, paths: Sequence[str]) -> Path:
    """Return where the report goes, before anything long is done."""
    target = out_target(out)
    if os.path.realpath(out) in map(os.path.realpath, paths):
        raise OptionError(f"--out {out} is one of the audits: name another file")
    return target


def out_target(out: str) -> Path:
    """Return where a file goes.

    Raises
    ------
    OptionError
        If no file can be there.
    """
    target = Path(out)
    folder = target.absolute().parent
    if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises where a folder is closed to the user
        raise OptionError(f"--out {out}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"--out {out}: cannot write into {folder}, name another folder")
    if os.path.isdir(target):  # noqa: PTH112
        raise OptionError(f"--out {out} is a folder: name a file in it")
    if os.path.exists(target) and not os.path.isfile(target):  # noqa: PTH110, PTH113
        raise OptionError(f"--out {out} is a device or a pipe: name a file")
    return target


def _audits(paths: Sequence[str]) -> list[Audit]:
    for index, path in enumerate(paths):
        if os.path.realpath(path) in map(os.path.realpath, paths[:index]):
            raise OptionError(f"{path} is given twice: name each audit once")
    return [Audit.load(path) for path in paths]


def export_command(path: str, out: str) -> int:
    """Write a quantized model with its codes packed, and say how large it was and is."""
    target = out_target(out)

    from qfair_check.inputs.quantized_file import model_file_size
    from qfair_check.quantize.export import export_quantized

    for notice in export_quantized(path, target):
        say(f"note: {printable(as_command_line(notice))}")
    for each in (path, out):
        say(f"{printable(each)}: {model_file_size(each)}")
    return 0


def demo_command(out: str) -> int:
    """Run the gate on the embedded model in a folder of its own, and say what came of it."""
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    target = folder / "audit.json"
    command, shown = ["pytest", "--qfair-model", "demo", "--bits", "8,4,2", "--qfair-json"], Path(out) / "audit.json"
    say(f"$ {shlex.join([*command, str(shown)])}\n")
    with tempfile.TemporaryDirectory(prefix="qfair-demo-") as root:
        Path(root, "pytest.ini").write_text("[pytest]\n")
        ran = subprocess.run(
            [sys.executable, "-m", *command, str(target), "--rootdir", root, "-p", "no:cacheprovider"],
            cwd=root,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            check=False,
        )
    return _explain(ran.returncode, target, str(shown))


def _explain(code: int, target: Path, shown: str) -> int:
    """Say what the run of the demo means; 0 if int8 passed, a narrower precision failed, and the audit is there."""
    if code not in (0, 1) or not target.exists():
        say(f"\nThe demo did not run to its end: pytest left with exit code {code}.")
        return 1
    audit = Audit.load(target)
    verdicts = judge_audit(audit, gate_limits({}))
    failed = sorted({verdict.precision for verdict in verdicts if verdict.outcome is not Outcome.PASS})
    passed = [result.precision for result in audit.quantized if result.precision not in failed]
    if code != 1 or "int8" not in passed or not failed:
        say(f"\nThe demo did not behave as told: int8 should pass and a narrower precision fail, not {failed}.")
        return 1
    say(_meaning(audit, passed, failed))
    say(f"The audit is in {shown}. Judge it again, say with a looser limit:")
    say(f"  qfair gate {shlex.quote(shown)} --max-group-drop 0.05,int4=0.2")
    say(
        "Your own model: pytest --qfair-model model.safetensors --qfair-arch resnet18 --qfair-data faces.csv --bits 8,4"
    )
    return 0


def _meaning(audit: Audit, passed: Sequence[str], failed: Sequence[str]) -> str:
    before = audit.fp32
    lines = ["", "What this means"]
    lines.append(f"  {', '.join(passed)} can ship: no group lost more than the limits allow.")
    for name in reversed(failed):
        result = audit.at(name)
        drops = [group.accuracy_drop or 0.0 for group in result.groups]
        worst = drops.index(max(drops))
        overall, group = result.overall, result.groups[worst]
        lines.append(
            f"  {name} must not: overall accuracy goes from {before.overall.accuracy:.3f} to {overall.accuracy:.3f}, "
            f"but that of group {audit.groups[worst]} from {before.groups[worst].accuracy:.3f} to {group.accuracy:.3f}."
        )
    lines.append("  pytest failed on purpose (exit code 1): in CI this stops the release.")
    return "\n".join(lines) + "\n"


def _table(audit: Audit, verdicts: Sequence[Verdict]) -> str:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return as_command_line(render(audit, verdicts, width=columns(), colour=colour))
