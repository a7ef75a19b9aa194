"""The command ``qfair``: parse and call."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from qfair_check import __version__
from qfair_check.errors import QFairError
from qfair_check.option_table import (
    BASELINE_OPTIONS,
    DATA_OPTIONS,
    JUDGE_OPTIONS,
    MEASURE_OPTIONS,
    MIN_GROUP_SIZE,
    MODEL_OPTIONS,
    REMEDIATE_OPTIONS,
    Option,
    as_command_line,
    not_empty,
)
from qfair_check.options import Lookup, data_options, judge_options, measure_options, model_options
from qfair_check.termination import ended_as_interrupted

EXIT_INTERRUPTED, EXIT_USAGE = 2, 4

_AUDIT_EXAMPLES = """examples:
  qfair audit demo --bits 8,4,2 --out audit.json
  qfair audit model.safetensors --arch resnet18 --data faces.csv --label race --split test --bits 8,4 --out audit.json

exit codes: 0 the audit is written, 2 interrupted, 4 something cannot be read or measured; nothing is written then
"""
_GATE_EXAMPLES = """examples:
  qfair gate audit.json
  qfair gate audit.json --max-fvo 0.3 --max-group-drop 0.05,int2=0.2

exit codes: 0 every limit holds, 1 a limit is broken or cannot be judged, 2 interrupted, 4 the audit cannot be
read or an option makes no sense
"""
_COMPARE_EXAMPLES = """examples:
  qfair compare absmax.json mse.json
  qfair compare audit.json --bits 8,4 --min-group-size 50

exit codes: 0 the table is printed, 2 interrupted, 4 an audit cannot be read, the audits are of other samples, or
an option makes no sense
"""
_LAYERS_EXAMPLES = """examples:
  qfair layers audit.json
  qfair layers audit.json --bits 4

exit codes: 0 the tables are printed, 2 interrupted, 4 the audit cannot be read or an option makes no sense
"""
_EXPLAIN_EXAMPLES = """examples:
  qfair explain audit.json
  qfair explain audit.json --bits 4

exit codes: 0 the tables are printed, 2 interrupted, 4 the audit cannot be read, it holds no curvature, or an option
makes no sense
"""
_REPORT_EXAMPLES = """examples:
  qfair report audit.json --out audit.html
  qfair report before.json after.json --max-fvo 0.3 --out both.html
  qfair report audit.json --format markdown >> summary.md

exit codes: 0 the report is written, whatever it says, 2 interrupted, 4 an audit cannot be read, the report cannot
be written, or an option makes no sense
"""

_REMEDIATE_EXAMPLES = """examples:
  qfair remediate demo --bits 2 --out fair.safetensors
  qfair remediate model.safetensors --arch resnet18 --data faces.csv --label race --split test \\
    --train faces.csv --train-split train --bits 4 --max-fvo 0.3 --out fair_int4.safetensors

exit codes: 0 the new model passes every limit and is better than rounding without training, 1 it is not,
2 interrupted (--resume goes on), 4 something cannot be read or measured, or an option makes no sense
"""
_EXPORT_EXAMPLES = """examples:
  qfair export fair.safetensors --out fair.packed.safetensors

exit codes: 0 the model is written, 2 interrupted, 4 it cannot be read or written, or no weight of it lies on a grid
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 a limit broken, 2 interrupted, 4 a usage error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser().parse_args(given)
    try:
        with ended_as_interrupted():
            return int(parsed.run(parsed, given))
    except QFairError as error:
        print(f"qfair: error: {_printable(as_command_line(str(error)))}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("qfair: interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED


def _printable(message: str) -> str:
    """Return the message with what a terminal could take for a command escaped, such as in the name of a file."""
    from qfair_check.judge.text import printable

    return "\n".join(map(printable, message.split("\n")))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qfair",
        allow_abbrev=False,
        description="Fairness regression tests for quantized models. Start with: qfair demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="In CI, the same gate is: pytest --qfair-model FILE --qfair-data FILE --bits 8,4",
    )
    parser.add_argument("--version", action="version", version=f"qfair_check {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    audit = _command(commands, "audit", "measure a model on grouped data and save the audit", _AUDIT_EXAMPLES)
    audit.add_argument(
        "model",
        type=not_empty,
        metavar="MODEL",
        help="a .safetensors, .pt, .pth, .pt2, .ckpt or .bin file, a Hugging Face folder, or demo",
    )
    _add(audit, MODEL_OPTIONS + DATA_OPTIONS + MEASURE_OPTIONS)
    audit.add_argument("--out", type=not_empty, metavar="FILE", required=True, help="where to write the audit (JSON)")
    audit.set_defaults(run=_audit)

    gate = _command(commands, "gate", "judge a saved audit, without the model and without torch", _GATE_EXAMPLES)
    gate.add_argument("audit", type=not_empty, metavar="AUDIT", help="a file that qfair audit or --qfair-json wrote")
    gate.add_argument(
        "--bits", type=not_empty, metavar="BITS", help="precisions to judge, such as 8,4 (default: all that it holds)"
    )
    _add(gate, JUDGE_OPTIONS + BASELINE_OPTIONS)
    gate.set_defaults(run=_gate)

    compare = _command(
        commands, "compare", "show which precisions of saved audits are on the Pareto front", _COMPARE_EXAMPLES
    )
    compare.add_argument(
        "audits", type=not_empty, nargs="+", metavar="AUDIT", help="files that qfair audit or --qfair-json wrote"
    )
    compare.add_argument(
        "--bits", type=not_empty, metavar="BITS", help="precisions to compare, such as 8,4 (default: all)"
    )
    _add(compare, [MIN_GROUP_SIZE])
    compare.set_defaults(run=_compare)

    layers = _command(commands, "layers", "show what quantization did to each layer of an audit", _LAYERS_EXAMPLES)
    layers.add_argument("audit", type=not_empty, metavar="AUDIT", help="a file that qfair audit or --qfair-json wrote")
    layers.add_argument("--bits", type=not_empty, metavar="BITS", help="precisions to show, such as 8,4 (default: all)")
    layers.set_defaults(run=_layers)

    explain = _command(commands, "explain", "show which layers hurt which group, and by how much", _EXPLAIN_EXAMPLES)
    explain.add_argument("audit", type=not_empty, metavar="AUDIT", help="a file written with curvature measured")
    explain.add_argument(
        "--bits", type=not_empty, metavar="BITS", help="precisions to explain, such as 8,4 (default: all)"
    )
    explain.set_defaults(run=_explain)

    report = _command(commands, "report", "write a report on saved audits that a person reads", _REPORT_EXAMPLES)
    report.add_argument(
        "audits", type=not_empty, nargs="+", metavar="AUDIT", help="files that qfair audit or --qfair-json wrote"
    )
    report.add_argument("--out", type=not_empty, metavar="FILE", help="where to write the report")
    report.add_argument(
        "--format", choices=("html", "markdown"), default="html", help="one HTML page, or markdown (default: html)"
    )
    _add(report, JUDGE_OPTIONS)
    report.set_defaults(run=_report)

    remediate = _command(
        commands, "remediate", "train a fairer quantized model, and audit what came of it", _REMEDIATE_EXAMPLES
    )
    remediate.add_argument(
        "model", type=not_empty, metavar="MODEL", help="the model that the gate refused: a file as for audit, or demo"
    )
    _add(remediate, MODEL_OPTIONS + DATA_OPTIONS + REMEDIATE_OPTIONS + JUDGE_OPTIONS)
    remediate.add_argument(
        "--out", type=not_empty, metavar="FILE", required=True, help="where the model goes (.safetensors)"
    )
    remediate.set_defaults(run=_remediate)

    export = _command(
        commands, "export", "write a quantized model with its integers packed at their bits", _EXPORT_EXAMPLES
    )
    export.add_argument("model", type=not_empty, metavar="MODEL", help="a file that qfair remediate wrote")
    export.add_argument(
        "--out", type=not_empty, metavar="FILE", required=True, help="where the packed model goes (.safetensors)"
    )
    export.set_defaults(run=_export)

    demo = _command(commands, "demo", "run the gate on an embedded model, and explain what it says", None)
    demo.add_argument(
        "--out", metavar="FOLDER", default="qfair-demo", help="where audit.json goes (default: qfair-demo)"
    )
    demo.set_defaults(run=_demo)
    return parser


def _command(commands: "argparse._SubParsersAction[_Parser]", name: str, summary: str, epilog: str | None) -> _Parser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add(parser: argparse.ArgumentParser, options: Sequence[Option]) -> None:
    for option in options:
        if option.is_flag:
            parser.add_argument(f"--{option.name}", help=option.help, action="store_const", const="yes")
        elif option.bare:
            parser.add_argument(
                f"--{option.name}", help=option.help, nargs="?", const=option.bare, choices=option.choices
            )
        else:
            parser.add_argument(
                f"--{option.name}",
                help=option.help,
                type=not_empty,
                metavar=option.metavar,
                choices=option.choices or None,
            )


def _lookup(parsed: argparse.Namespace) -> Lookup:
    return lambda key: getattr(parsed, key, None)


def _audit(parsed: argparse.Namespace, given: Sequence[str]) -> int:
    from qfair_check.commands import audit_command

    get = _lookup(parsed)
    return audit_command(
        model_options(get), data_options(get), measure_options(get), parsed.out, command=("qfair", *given)
    )


def _gate(parsed: argparse.Namespace, given: Sequence[str]) -> int:
    from qfair_check.baseline_options import baseline_options
    from qfair_check.commands import gate_command

    get = _lookup(parsed)
    return gate_command(parsed.audit, parsed.bits, judge_options(get), baseline_options(get))


def _compare(parsed: argparse.Namespace, given: Sequence[str]) -> int:
    from qfair_check.commands import compare_command

    return compare_command(parsed.audits, parsed.bits, judge_options(_lookup(parsed)).min_group_size)


def _layers(parsed: argparse.Namespace, given: Sequence[str]) -> int:
    from qfair_check.commands import layers_command

    return layers_command(parsed.audit, parsed.bits)


def _explain(parsed: argparse.Namespace, given: Sequence[str]) -> int:
    from qfair_check.commands import explain_command

    return explain_command(parsed.audit, parsed.bits)


def _report(parsed: argparse.Namespace, given: Sequence[str]) -> int:
    from qfair_check.commands import report_command

    judging = judge_options(_lookup(parsed))
    again = [
        argument
        for option in JUDGE_OPTIONS
        if (value := getattr(parsed, option.key))
        for argument in (f"--{option.name}", value)
    ]
    return report_command(parsed.audits, parsed.out, parsed.format, judging, judge_arguments=again)


def _remediate(parsed: argparse.Namespace, given: Sequence[str]) -> int:
    from qfair_check.remediate_command import remediate_from

    return remediate_from(_lookup(parsed), parsed.out)


def _export(parsed: argparse.Namespace, given: Sequence[str]) -> int:
    from qfair_check.commands import export_command

    return export_command(parsed.model, parsed.out)


def _demo(parsed: argparse.Namespace, given: Sequence[str]) -> int:
    from qfair_check.commands import demo_command

    return demo_command(parsed.out)
