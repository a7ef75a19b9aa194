import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qfair_check
from qfair_check.curvature_record import CurvatureSettings, GroupCurvature
from qfair_check.errors import FairnessError, OptionError
from qfair_check.judge.assertions import InsufficientDataWarning
from qfair_check.judge.checks import CHECKS
from qfair_check.judge.text import describe
from qfair_check.judge.verdicts import Outcome, Verdict, judge_one
from qfair_check.record import Audit

PASS, FAIL, INSUFFICIENT = Outcome.PASS, Outcome.FAIL, Outcome.INSUFFICIENT
SAMPLES = {"White": 1452, "Black": 648, "Others": 234}
ASSERTIONS = {"lambda_max": "assert_lambda_max_ratio", "gradient_norm": "assert_gradient_norm_ratio"}
NAMES = {"lambda_max": "lambda-max", "gradient_norm": "gradient-norm"}
METRICS = list(ASSERTIONS)


def verdict(audit: Audit, check: str, limit: object, **options: int) -> Verdict:
    return judge_one(audit, CHECKS[check], Decimal(str(limit)), "int4", **options)


@pytest.fixture
def build(make_audit: Callable[..., Audit], make_curvature: Callable[..., GroupCurvature]) -> Callable[..., Audit]:
    def build(
        fp32: Mapping[str, object], int4: Mapping[str, object], samples: Mapping[str, int] = SAMPLES, drawn: int = 10**6
    ) -> Audit:
        """Return an audit whose groups have this lambda_max and gradient norm, or these fields of `GroupCurvature`."""

        def curvature(given: Mapping[str, object]) -> dict[str, GroupCurvature]:
            return {
                name: make_curvature(
                    min(samples[name], drawn),
                    **(fields if isinstance(fields, dict) else {"lambda_max": fields, "gradient_norm": fields}),
                )
                for name, fields in given.items()
            }

        right = {name: count // 2 for name, count in samples.items()}
        return make_audit(samples, curvature={"fp32": curvature(fp32), "int4": curvature(int4)}, fp32=right, int4=right)

    return build


@pytest.fixture
def faces(build: Callable[..., Audit]) -> Audit:
    return build({"White": 4.0, "Black": 5.0, "Others": 6.0}, {"White": 4.0, "Black": 6.0, "Others": 12.4})


@pytest.mark.parametrize("metric", METRICS)
def test_values_by_hand(faces, metric):
    found = verdict(faces, NAMES[metric], 2)
    assert (found.measured, found.baseline) == (Fraction(12.4) / 4, Fraction(3, 2))
    assert (found.lowest, found.highest, found.outcome) == (0, 2, FAIL)
    found = verdict(faces, f"{NAMES[metric]}-to-fp32", 3)
    assert (found.measured, found.baseline) == (Fraction(12.4) / 6, None)
    assert (found.lowest, found.highest, found.outcome) == (2, None, PASS)


@pytest.mark.parametrize("check", ["lambda-max", "gradient-norm", "lambda-max-to-fp32", "gradient-norm-to-fp32"])
def test_a_tie_passes_and_the_next_decimal_fails(build, check):
    audit = build({"White": 4.0, "Black": 4.0, "Others": 4.0}, {"White": 4.0, "Black": 4.5, "Others": 5.0})
    assert verdict(audit, check, "1.25").outcome is PASS
    assert verdict(audit, check, Decimal("1.25") - Decimal("1e-25")).outcome is FAIL


@given(values=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=5), left_out=st.integers(0, 4))
def test_a_group_that_is_left_out_never_makes_a_failure_of_a_pass(make_audit, make_curvature, values, left_out):
    samples = dict.fromkeys("ABCDE"[: len(values)], 100)
    groups = {name: make_curvature(100, lambda_max=value) for name, value in zip(samples, values, strict=True)}
    index = left_out % len(values)
    without = groups | {"ABCDE"[index]: replace(groups["ABCDE"[index]], converged=False)}
    whole, part = (
        verdict(
            make_audit(samples, curvature={"fp32": known, "int4": known}, fp32=samples, int4=samples), "lambda-max", 2
        )
        for known in (groups, without)
    )
    assert whole.measured == Fraction(max(values)) / Fraction(min(values))
    assert part.outcome in ({FAIL, INSUFFICIENT} if whole.outcome is FAIL else {INSUFFICIENT})
    assert part.measured is None or part.measured <= whole.measured


def test_without_curvature_there_is_a_cure(make_audit):
    audit = make_audit({"A": 100, "B": 100}, fp32={"A": 90, "B": 80}, int4={"A": 90, "B": 50})
    assert describe(verdict(audit, "lambda-max", 2), audit) == (
        "λmax ratio between groups at int4 cannot be judged against the limit 2\n"
        "  because  the audit holds no lambda_max, since it was made without curvature\n"
        "  cure     audit the model again with --qfair-curvature"
    )
    assert describe(verdict(audit, "gradient-norm-to-fp32", 2), audit) == (
        "worst group's gradient norm ratio to fp32 at int4 cannot be judged against the limit 2\n"
        "  because  the audit holds no gradient_norm, since it was made without curvature\n"
        "  cure     audit the model again with --qfair-curvature"
    )


UNCONVERGED = "λmax has not converged, with a residual of 0.123 after 100 Hessian-vector products of lanczos"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"converged": False, "residual": 0.1234, "hvps": 100}, f": {UNCONVERGED}"),
        (
            {"converged": False, "residual": None, "hvps": 3},
            ": λmax has not converged, with no residual after 3 Hessian-vector products of lanczos",
        ),
        ({"lambda_max": None, "undefined": {"lambda_max": "no samples"}}, ": no samples"),
        ({"lambda_max": None}, ": the audit holds no lambda_max"),
        ({"lambda_max": float("nan")}, ": λmax is nan"),
        ({"lambda_max": float("inf")}, ": λmax is inf"),
    ],
)
@pytest.mark.parametrize("check", ["lambda-max", "lambda-max-to-fp32"])
def test_a_group_that_cannot_be_judged_says_why(build, fields, reason, check):
    fine = {"White": 4.0, "Black": 5.0, "Others": 6.0}
    audit = build(fine, fine | {"Black": fields})
    found = verdict(audit, check, 100)
    assert (found.outcome, found.reasons) == (INSUFFICIENT, (f"group Black{reason}",))
    audit = build(fine, {"White": 4.0, "Black": fields, "Others": 600.0})
    assert verdict(audit, check, 50).outcome is FAIL
    if check == "lambda-max-to-fp32":
        found = verdict(build(fine | {"Black": fields}, fine), check, 100)
        assert (found.outcome, found.reasons) == (INSUFFICIENT, (f"group Black at fp32{reason}",))


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0"), (-0.25, "-0.25")])
def test_a_denominator_of_zero_or_less_is_insufficient(build, value, shown):
    fine = {"White": 4.0, "Black": 5.0, "Others": 6.0}
    found = verdict(build(fine, fine | {"Black": value}), "lambda-max", 100)
    assert found.outcome is INSUFFICIENT
    assert found.reasons == (f"group Black: λmax is {shown}, and a ratio needs one above 0",)
    found = verdict(build(fine | {"Black": value}, fine), "lambda-max-to-fp32", 100)
    assert found.outcome is INSUFFICIENT
    assert found.reasons == (f"group Black at fp32: λmax is {shown}, and a ratio needs one above 0",)
    assert verdict(build(fine, fine | {"Black": value}), "lambda-max-to-fp32", 1).outcome is PASS


def test_an_eigenvalue_that_is_zero_within_its_error_divides_nothing(build):
    fine, flat = {"White": 4.0, "Black": 5.0, "Others": 6.0}, {"lambda_max": 3e-9, "residual": 0.6}
    told = "λmax is 3e-09 with a residual of 0.6, which is too near 0 to divide by"
    found = verdict(build(fine, fine | {"Black": flat}), "lambda-max", 2)
    assert (found.outcome, found.reasons) == (INSUFFICIENT, (f"group Black: {told}",))
    found = verdict(build(fine | {"Black": flat}, fine), "lambda-max-to-fp32", 2)
    assert (found.outcome, found.reasons) == (INSUFFICIENT, (f"group Black at fp32: {told}",))
    assert verdict(build(fine, fine | {"Black": flat}), "lambda-max-to-fp32", 2).outcome is PASS


def test_convergence_is_of_lambda_max_alone(build):
    fine = {"White": 4.0, "Black": 5.0, "Others": 6.0}
    audit = build(fine, fine | {"Black": {"gradient_norm": 5.0, "converged": False}})
    assert verdict(audit, "gradient-norm", 2).outcome is PASS


def test_a_subsample_too_small_is_insufficient(build):
    fine = {"White": 4.0, "Black": 5.0, "Others": 6.0}
    audit = build(fine, fine, drawn=20)
    found = verdict(audit, "lambda-max", 2, min_group_size=25)
    assert found.outcome is INSUFFICIENT
    assert describe(found, audit) == (
        "λmax ratio between groups at int4 cannot be judged against the limit 2\n"
        "  because  group White was measured on 20 of its 1452 samples, and judging needs 25\n"
        "  because  group Black was measured on 20 of its 648 samples, and judging needs 25\n"
        "  because  group Others was measured on 20 of its 234 samples, and judging needs 25\n"
        "  because  there is no group to judge\n"
        "  cure     a larger --qfair-curvature-samples, or a lower --qfair-min-group-size; "
        "--qfair-insufficient=warn goes on all the same"
    )
    assert verdict(audit, "lambda-max", 2, min_group_size=20).outcome is PASS


def test_a_small_group_is_insufficient_with_its_size(build):
    groups = {"A": 4.0, "B": 5.0, "C": 6.0}
    found = verdict(build(groups, groups, {"A": 100, "B": 100, "C": 12}), "gradient-norm", 2)
    assert found.reasons == ("group C has 12 samples, and judging needs 30",)


def test_a_group_too_small_is_not_cured_by_a_larger_subsample(build):
    samples = {"White": 100, "Black": 20}
    found = verdict(build(dict.fromkeys(samples, 1.0), dict.fromkeys(samples, 1.0), samples, 10), "lambda-max", 2)
    assert found.reasons[:2] == (
        "group White was measured on 10 of its 100 samples, and judging needs 30",
        "group Black has 20 samples, and judging needs 30",
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_ratio_beyond_the_largest_float_fails_and_is_told(build, metric):
    samples = {"White": 100, "Black": 100}
    audit = build({"White": 1.0, "Black": 1e-300}, {"White": 1e-300, "Black": 1e300}, samples)
    for check in (NAMES[metric], f"{NAMES[metric]}-to-fp32"):
        found = verdict(audit, check, 10**6)
        assert (found.outcome, float(found.measured)) == (FAIL, sys.float_info.max)
        assert "is 1.8e+308 times" in describe(found, audit)


def test_one_group_has_no_ratio_to_another(build):
    audit = build({"A": 4.0}, {"A": 6.0}, {"A": 100})
    found = verdict(audit, "lambda-max", 2)
    assert (found.outcome, found.reasons) == (
        INSUFFICIENT,
        ("a ratio needs two groups, and there is only one to judge",),
    )
    assert verdict(audit, "lambda-max-to-fp32", 2).outcome is PASS


def test_text_between_groups(faces):
    assert describe(verdict(faces, "lambda-max", "2.0"), faces) == (
        "λmax at int4 is 3.1 times as large for Others (12.4) as for White (4), above the limit 2.0 (fp32: 1.5)\n"
        "  largest   Others  n=234    λmax 6 → 12.4  residual 0.01 → 0.01  gradient norm 6 → 12.4\n"
        "  smallest  White   n=1452   λmax 4 → 4  residual 0.01 → 0.01  gradient norm 4 → 4"
    )


def test_names_are_fit_for_a_terminal(build):
    audit = build({"{x}": 4.0, "\x1b[31m": 4.0}, {"{x}": 4.0, "\x1b[31m": 8.0}, {"{x}": 100, "\x1b[31m": 100})
    assert describe(verdict(audit, "lambda-max", 1), audit).splitlines()[0] == (
        "λmax at int4 is 2 times as large for \\x1b[31m (8) as for {x} (4), above the limit 1 (fp32: 1)"
    )


def test_text_to_fp32(faces):
    assert describe(verdict(faces, "gradient-norm-to-fp32", "1.5"), faces) == (
        "gradient norm of Others at int4 (12.4) is 2.07 times that at fp32 (6), above the limit 1.5\n"
        "  worst  Others  n=234   λmax 6 → 12.4  residual 0.01 → 0.01  gradient norm 6 → 12.4"
    )


def test_text_says_that_it_is_of_a_subsample(build):
    audit = build({"White": 4.0, "Others": 6.0}, {"White": 4.0, "Others": 12.4}, {"White": 1452, "Others": 234}, 300)
    assert describe(verdict(audit, "gradient-norm", "2"), audit) == (
        "gradient norm at int4 is 3.1 times as large for Others (12.4) as for White (4), above the limit 2 "
        "(fp32: 1.5), on a subsample\n"
        "  largest   Others  n=234                        "
        "λmax 6 → 12.4  residual 0.01 → 0.01  gradient norm 6 → 12.4\n"
        "  smallest  White   n=300, a subsample of 1452   λmax 4 → 4  residual 0.01 → 0.01  gradient norm 4 → 4"
    )


def test_text_of_what_others_say_is_of_a_subsample_too(build):
    fine = {"White": 4.0, "Black": 5.0, "Others": 6.0}
    audit = build(fine, fine | {"Black": {"converged": False, "residual": 0.123, "hvps": 100}}, drawn=200)
    assert describe(verdict(audit, "lambda-max", 2), audit) == (
        "λmax ratio between groups at int4 cannot be judged against the limit 2\n"
        f"  because  group Black: {UNCONVERGED}\n"
        "  among the other groups it is 1.5, on a subsample\n"
        "  cure     leave this limit out; --qfair-insufficient=warn goes on all the same"
    )


def test_the_cure_for_pyhessian_is_lanczos(build):
    fine = {"White": 4.0, "Black": 5.0, "Others": 6.0}
    audit = build(fine, fine | {"Black": {"converged": False}})
    settings = replace(audit.settings, curvature=CurvatureSettings(None, "pyhessian", 0.05, 1100, 64))
    audit = replace(audit, settings=settings)
    assert describe(verdict(audit, "lambda-max", 2), audit).splitlines()[-1] == (
        "  cure     audit the model again with --qfair-hessian=lanczos, which gives a value for more groups"
    )


@pytest.mark.parametrize(
    ("large", "limit", "shown"),
    [
        (2.0004, "2", "2.0004 times as large for B (2) as for A (1), above the limit 2"),
        (1.99996, "2.000", "1.99996 times as large for B (2) as for A (1), within the limit 2.000"),
        (2.0004, "2.0003", "2.0004 times as large for B (2) as for A (1), above the limit 2.0003"),
        (2.0, "2", "2 times as large for B (2) as for A (1), within the limit 2"),
        (1e9, "1e6", "1e+09 times as large for B (1e+09) as for A (1), above the limit 1000000"),
    ],
)
def test_digits_enough_to_tell_a_ratio_from_its_limit(build, large, limit, shown):
    audit = build({"A": 1.0, "B": 1.0}, {"A": 1.0, "B": large}, {"A": 100, "B": 100})
    assert describe(verdict(audit, "lambda-max", limit), audit).splitlines()[0] == (
        f"λmax at int4 is {shown} (fp32: 1)"
    )


@pytest.mark.parametrize("metric", METRICS)
def test_assertions_hold_at_the_limit_and_raise_beyond(build, metric):
    audit = build({"A": 4.0, "B": 4.0}, {"A": 4.0, "B": 10.0}, {"A": 100, "B": 100})
    check = getattr(qfair_check, ASSERTIONS[metric])
    check(audit, 2.5, bits=4)
    check(audit, 2.5, between="groups")
    check(audit, "2.5", between="precisions")
    with pytest.raises(FairnessError, match=r"2\.5 times as large for B \(10\) as for A \(4\), above the limit 2\.4"):
        check(audit, 2.4)
    with pytest.raises(FairnessError, match=r"of B at int4 \(10\) is 2\.5 times that at fp32 \(4\), above the limit"):
        check(audit, 2.4, between="precisions")


def test_a_traceback_ends_where_the_assertion_is_called(pytester, build):
    build({"A": 4.0, "B": 4.0}, {"A": 4.0, "B": 10.0}, {"A": 100, "B": 100}).save("audit.json")
    tests = [f"def test_{name}(): qfair_check.{name}(AUDIT, 2.4)" for name in ASSERTIONS.values()]
    pytester.makepyfile("\n".join(["import qfair_check", "AUDIT = qfair_check.Audit.load('audit.json')", *tests]))
    result = pytester.runpytest("-q")
    result.assert_outcomes(failed=len(ASSERTIONS))
    assert "assertions.py" not in result.stdout.str()


@pytest.mark.parametrize("metric", METRICS)
def test_assertions_that_make_no_sense(faces, metric):
    check = getattr(qfair_check, ASSERTIONS[metric])
    with pytest.raises(OptionError) as caught:
        check(faces, 2, between="layers")
    assert str(caught.value) == "between is 'layers': it is groups or precisions"
    with pytest.raises(OptionError, match="a limit is a number from 1 to 1,000,000"):
        check(faces, 0.5)
    with pytest.raises(OptionError, match="the audit holds no int2"):
        check(faces, 2, bits=2)


def test_what_cannot_be_judged_fails_warns_or_passes(make_audit):
    audit = make_audit({"A": 100, "B": 100}, fp32={"A": 90, "B": 80}, int4={"A": 90, "B": 50})
    with pytest.raises(FairnessError, match="--qfair-curvature"):
        qfair_check.assert_lambda_max_ratio(audit, 2)
    with pytest.warns(InsufficientDataWarning, match="--qfair-curvature"):
        qfair_check.assert_lambda_max_ratio(audit, 2, insufficient="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qfair_check.assert_gradient_norm_ratio(audit, 2, insufficient="pass")
