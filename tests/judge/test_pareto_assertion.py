import warnings

import pytest

import qfair_check
from qfair_check.errors import FairnessError, InputError, OptionError
from qfair_check.judge.assertions import InsufficientDataWarning

SAMPLES = {"zero": 100, "eight": 100}
FP32 = {"zero": 100, "eight": 60}


@pytest.fixture
def absmax(make_audit):
    return make_audit(SAMPLES, fp32=FP32, int8=FP32, int4={"zero": 90, "eight": 40})


@pytest.fixture
def mse(make_audit):
    return make_audit(SAMPLES, fp32=FP32, int8=FP32, int4={"zero": 90, "eight": 50})


def refused(*audits, **options):
    with pytest.raises(FairnessError) as caught:
        qfair_check.assert_on_pareto_front(*audits, **options)
    return str(caught.value)


def test_who_is_better_and_by_how_much(absmax, mse):
    assert refused(absmax, mse, bits=4) == (
        "int4 of the audit is not on the Pareto front: overall accuracy 0.650, FVO 0.500\n"
        "  worst   eight  n=100   accuracy 0.400  [0.309, 0.498]\n"
        "  better  int8 of the audit: overall accuracy 0.800 (+0.150), FVO 0.400 (-0.100)\n"
        "  worst   eight  n=100   accuracy 0.600  [0.502, 0.691]\n"
        "  better  int8 of others[0]: overall accuracy 0.800 (+0.150), FVO 0.400 (-0.100)\n"
        "  worst   eight  n=100   accuracy 0.600  [0.502, 0.691]"
    )


def test_alone_the_audit_has_no_name(absmax):
    assert refused(absmax) == (
        "int4 is not on the Pareto front: overall accuracy 0.650, FVO 0.500\n"
        "  worst   eight  n=100   accuracy 0.400  [0.309, 0.498]\n"
        "  better  int8: overall accuracy 0.800 (+0.150), FVO 0.400 (-0.100)\n"
        "  worst   eight  n=100   accuracy 0.600  [0.502, 0.691]"
    )


def test_equal_ones_are_all_on_the_front(absmax, mse):
    qfair_check.assert_on_pareto_front(absmax, mse, bits=8)
    qfair_check.assert_on_pareto_front(absmax, absmax, bits="int8")


def test_a_trade_is_on_the_front(make_audit):
    audit = make_audit(SAMPLES, fp32=FP32, int8=FP32, int4={"zero": 70, "eight": 70})
    qfair_check.assert_on_pareto_front(audit)


def test_only_the_named_precisions_of_the_first_are_judged(absmax, mse):
    qfair_check.assert_on_pareto_front(mse, absmax, bits=8)
    assert refused(mse, absmax).startswith("int4 of the audit is not on the Pareto front")


def test_digits_enough_to_see_the_difference(make_audit):
    samples = {"A": 10000, "B": 10000}
    low = make_audit(samples, fp32={"A": 9000, "B": 8000}, int8={"A": 9000, "B": 7999})
    high = make_audit(samples, fp32={"A": 9000, "B": 8000}, int8={"A": 9000, "B": 8000})
    told = refused(low, high)
    assert "overall accuracy 0.84995, FVO 0.10010\n" in told
    assert "overall accuracy 0.85000 (+0.00005), FVO 0.10000 (-0.00010)\n" in told


def test_what_cannot_be_judged(make_audit):
    correct = FP32 | {"nine": 8}
    audit = make_audit(SAMPLES | {"nine": 10}, fp32=correct, int4=correct)
    told = (
        "whether int4 is on the Pareto front cannot be judged\n"
        "  because  group nine has 10 samples, and judging needs 30\n"
        "  cure     more samples of such groups, or a lower --qfair-min-group-size; "
        "--qfair-insufficient=warn goes on all the same"
    )
    assert refused(audit) == told
    with pytest.warns(InsufficientDataWarning) as caught:
        qfair_check.assert_on_pareto_front(audit, insufficient="warn")
    assert [str(warning.message) for warning in caught] == [told]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qfair_check.assert_on_pareto_front(audit, insufficient="pass")
        qfair_check.assert_on_pareto_front(audit, min_group_size=10)
    with pytest.raises(OptionError, match="insufficient is 'ignore'"):
        qfair_check.assert_on_pareto_front(audit, insufficient="ignore")


def test_another_that_cannot_be_judged_is_named(make_audit, absmax):
    unknown = make_audit(SAMPLES, fp32=FP32, int2={"zero": 99, "eight": None})
    assert refused(absmax, unknown, bits=8) == (
        "whether int8 of the audit is on the Pareto front cannot be judged\n"
        "  because  int2 of others[0] could be better, and cannot be judged: "
        "group eight: 1 of them has NaN or infinite logits\n"
        "  cure     find out why the model gives such logits, and to whom"
    )
    assert refused(absmax, unknown, bits=4, insufficient="pass").startswith("int4 of the audit is not on the")


def test_what_is_beaten_at_its_best_says_what_is_not_known(make_audit):
    samples = {"A": 100, "B": 100, "C": 50}
    good = {"A": 90, "B": 90, "C": 45}
    audit = make_audit(samples, fp32=good, int8=good, int4={"A": 5, "B": 90, "C": None})
    assert refused(audit, bits=4) == (
        "int4 is not on the Pareto front: overall accuracy at most 0.580, FVO at least 0.850\n"
        "  worst   C  n=50   accuracy undefined\n"
        "  better  int8: overall accuracy 0.900 (+0.320), FVO 0.000 (-0.850)\n"
        "  worst   A  n=100   accuracy 0.900  [0.826, 0.945]\n"
        "  not judged  group C: 1 of them has NaN or infinite logits"
    )


def test_a_traceback_ends_where_the_assertion_is_called(pytester, absmax, mse):
    for name, audit in (("one", absmax), ("other", mse)):
        audit.save(f"{name}.json")
    pytester.makepyfile(
        """
        import qfair_check

        def test_it():
            one, other = (qfair_check.Audit.load(f"{name}.json") for name in ("one", "other"))
            qfair_check.assert_on_pareto_front(one, other)
        """
    )
    result = pytester.runpytest("-q")
    result.assert_outcomes(failed=1)
    assert "assertion.py" not in result.stdout.str()
    assert "assertions.py" not in result.stdout.str()


def test_many_that_are_better_are_counted(make_audit, absmax, mse):
    told = refused(absmax, *[mse] * 12, bits=4)
    assert told.count("  better  ") == 11
    assert told.endswith("\n  better  3 more")


def test_hostile_names_stay_printable(make_audit):
    samples = {"\x1b[31mred": 100, "\u202e" + "名" * 200: 100}
    first, second = samples
    audit = make_audit(samples, fp32={first: 90, second: 80}, int8={first: 90, second: 80}, int4={first: 90, second: 8})
    told = refused(audit).splitlines()
    assert all(line.isprintable() for line in told)
    assert max(map(len, told)) < 100


def test_usage_errors(absmax, make_audit):
    with pytest.raises(OptionError, match="the audit holds no int2"):
        qfair_check.assert_on_pareto_front(absmax, bits=2)
    with pytest.raises(OptionError, match="there is nothing to judge"):
        qfair_check.assert_on_pareto_front(absmax, bits=32)
    with pytest.raises(OptionError, match=r"there is nothing to compare in others\[0\]: it holds fp32, and"):
        qfair_check.assert_on_pareto_front(absmax, make_audit(SAMPLES, fp32=FP32))
    other = make_audit({"zero": 100}, fp32={"zero": 9}, int8={"zero": 9})
    with pytest.raises(InputError, match=r"the audit and others\[0\] cannot be compared: group eight is in the audit"):
        qfair_check.assert_on_pareto_front(absmax, other)
