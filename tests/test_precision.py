import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.errors import OptionError
from qfair_check.precision import AS_IS, FP32, Precision, check_unmixed, parse_precisions

NAMES = ["fp32", "fp16", "bf16", "int8", "int7", "int6", "int5", "int4", "int3", "int2", "asis"]


@pytest.mark.parametrize(
    ("given_", "name"),
    [(4, "int4"), ("4", "int4"), (" INT4 ", "int4"), (16, "fp16"), ("bf16", "bf16"), (32, "fp32"), ("AsIs", "asis")],
)
def test_every_spelling(given_, name):
    assert Precision.parse(given_).name == name


@pytest.mark.parametrize(
    "given_", [1, 0, -4, 9, 12, 64, "four", "", "int9", "int1", "4.0", 4.0, True, None, "fp8", "int 4", [4]]
)
def test_anything_else_is_refused_with_what_is_known(given_):
    with pytest.raises(OptionError, match="is not a bit width: known are 2 to 8"):
        Precision.parse(given_)


@pytest.mark.parametrize("given_", [None, 4.0, object()])
def test_what_is_no_list_is_refused(given_):
    with pytest.raises(OptionError, match="is not a bit width"):
        parse_precisions(given_)


@pytest.mark.parametrize("given_", ["", " ", [], ()])
def test_nothing_is_refused(given_):
    with pytest.raises(OptionError, match="no bit width given"):
        parse_precisions(given_)


def test_bits_and_kind():
    assert [Precision(name).bits for name in NAMES] == [32, 16, 16, 8, 7, 6, 5, 4, 3, 2, 32]
    assert [name for name in NAMES if Precision(name).is_integer] == NAMES[3:-1]


@given(st.lists(st.sampled_from(NAMES), min_size=1), st.randoms())
def test_order_and_repetition_do_not_matter(names, random):
    shuffled = names + names
    random.shuffle(shuffled)
    expected = tuple(Precision(name) for name in NAMES if name in names and name != FP32.name)
    assert parse_precisions(shuffled) == parse_precisions(",".join(names)) == expected


def test_asis_is_never_mixed():
    check_unmixed([AS_IS])
    check_unmixed(parse_precisions("8,4"))
    with pytest.raises(OptionError) as raised:
        check_unmixed(parse_precisions("asis,8,4"))
    assert str(raised.value) == (
        "bits name asis and int8, int4: asis audits the weights as they are, and is never mixed; make two audits"
    )
