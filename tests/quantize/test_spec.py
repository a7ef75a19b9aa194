import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.errors import OptionError
from qfair_check.quantize.spec import GRANULARITIES, GRIDS, RULES, Scheme, integer_range

schemes = st.builds(Scheme, st.sampled_from(["absmax", "mse", "aciq"]), st.sampled_from(GRIDS)) | st.builds(
    Scheme,
    st.just("percentile"),
    st.sampled_from(GRIDS),
    st.sampled_from(GRANULARITIES),
    st.floats(0, 100, exclude_min=True),
)


def test_the_default_is_the_plainest_scheme():
    assert Scheme() == Scheme("absmax", "symmetric", "per-tensor")
    assert str(Scheme()) == "absmax/symmetric/per-tensor"


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("absmax", Scheme()),
        ("mse/asymmetric", Scheme("mse", "asymmetric")),
        ("absmax/per-channel", Scheme(granularity="per-channel")),
        ("per-channel", Scheme(granularity="per-channel")),
        ("percentile", Scheme("percentile", percentile=99.9)),
        ("percentile=99.5/full", Scheme("percentile", "full", percentile=99.5)),
        (" Full / ACIQ ", Scheme("aciq", "full")),
    ],
)
def test_words_in_any_order(text, scheme):
    assert Scheme.parse(text) == scheme
    assert Scheme.parse(scheme) is scheme


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Scheme("percentile"), "percentile=99.9/symmetric/per-tensor"),
        (Scheme("percentile", "full", percentile=99.0), "percentile=99/full/per-tensor"),
        (Scheme("percentile", percentile=99.9999999), "percentile=99.9999999/symmetric/per-tensor"),
        (Scheme("mse", "asymmetric", "per-channel"), "mse/asymmetric/per-channel"),
    ],
)
def test_canonical_text(scheme, text):
    assert str(scheme) == text


@given(schemes)
def test_text_goes_round(scheme):
    assert Scheme.parse(str(scheme)) == scheme


def test_every_word_is_known_to_the_parser():
    for words in itertools.product(RULES, GRIDS, GRANULARITIES):
        scheme = Scheme.parse("/".join(words))
        assert (scheme.rule, scheme.grid, scheme.granularity) == words


def test_an_unknown_word_gets_the_known_ones():
    with pytest.raises(OptionError) as error:
        Scheme.parse("absmx/per-channel")
    assert str(error.value) == (
        "'absmx' is not a word of a quantization scheme: did you mean absmax? Known are absmax, mse, aciq, "
        "percentile, symmetric, full, asymmetric, per-tensor, per-channel, joined by slashes"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a word"),
        ("absmax/", "'' is not a word"),
        ("mse/absmax", "names 2 rules: mse and absmax"),
        ("full/asymmetric", "names 2 grids: full and asymmetric"),
        ("per-channel/per-channel", "names 2 granularities: per-channel and per-channel"),
        ("mse=3", "only percentile takes a number"),
        ("percentile=high", "'high' is not a number"),
        ("percentile=nan", "'nan' is not a number"),
        ("percentile=0", "is 0.0: it is above 0 and at most 100"),
        ("percentile=100.5", "is 100.5: it is above 0 and at most 100"),
        ("percentile=inf", "is inf: it is above 0 and at most 100"),
    ],
)
def test_text_that_makes_no_sense(text, message):
    with pytest.raises(OptionError) as error:
        Scheme.parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "arguments", [{"rule": "max"}, {"grid": "symetric"}, {"granularity": "channel"}, {"percentile": 99.0}]
)
def test_a_scheme_is_checked_however_it_is_made(arguments):
    with pytest.raises(OptionError):
        Scheme(**arguments)


@pytest.mark.parametrize("bits", range(2, 9))
def test_integer_ranges_hold_all_levels(bits):
    counts = {grid: integer_range(bits, grid)[1] - integer_range(bits, grid)[0] + 1 for grid in GRIDS}
    assert counts == {"symmetric": 2**bits - 1, "full": 2**bits, "asymmetric": 2**bits}
    assert integer_range(bits, "asymmetric")[0] == 0
    assert sum(integer_range(bits, "symmetric")) == 0
    assert sum(integer_range(bits, "full")) == -1


@pytest.mark.parametrize("bits", [1, 0, -4, 9, 16])
def test_no_grid_of_other_widths(bits):
    with pytest.raises(OptionError, match="it is 2 to 8"):
        integer_range(bits, "symmetric")


def test_reading_a_scheme_does_not_import_torch():
    code = "import sys, qfair_check.quantize.spec; assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
