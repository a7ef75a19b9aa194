import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.errors import InputError
from qfair_check.inputs.bit_packing import pack_bits, packed_size, unpack_bits


@st.composite
def codes_of(draw):
    bits, signed = draw(st.integers(1, 8)), draw(st.booleans())
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = draw(st.lists(st.integers(low, high), max_size=40))
    return bits, signed, torch.tensor(values, dtype=torch.int8 if signed else torch.uint8)


@given(codes_of())
def test_the_stream_is_that_of_one_large_number(given_codes):
    """The definition: the sum of code_i mod 2^b times 2^(i b), in little-endian bytes."""
    bits, _, codes = given_codes
    number = sum((code % 2**bits) << (index * bits) for index, code in enumerate(codes.tolist()))
    assert bytes(pack_bits(codes, bits).tolist()) == number.to_bytes(packed_size(len(codes), bits), "little")


@given(codes_of(), st.booleans())
def test_codes_come_back(given_codes, as_matrix):
    bits, signed, codes = given_codes
    shape = (1, len(codes), 1) if as_matrix else (len(codes),)
    before = codes.clone()
    back = unpack_bits(pack_bits(codes.reshape(shape), bits), bits, shape, signed=signed)
    assert back.dtype == codes.dtype
    assert torch.equal(back, codes.reshape(shape))
    assert torch.equal(codes, before)


@pytest.mark.parametrize("transposed", [False, True])
def test_order_is_that_of_the_shape(transposed):
    codes = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    codes = codes.T if transposed else codes
    assert torch.equal(unpack_bits(pack_bits(codes, 3), 3, tuple(codes.shape), signed=False), codes)


@pytest.mark.parametrize("shape", [(8,), (11,), (10**9, 10**9), ()])
def test_a_length_that_does_not_fit_is_refused_before_anything_is_made(shape):
    packed = pack_bits(torch.zeros(9, dtype=torch.int8), 3)
    with pytest.raises(InputError, match=r"codes of 3 bits are a row of .* bytes .* shape of \(4,\)"):
        unpack_bits(packed, 3, shape, signed=True)


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        (
            torch.tensor([0, 2], dtype=torch.int8),
            "a code takes more than 2 bits, which hold -2 to 1: pack at more bits",
        ),
        (torch.tensor([-3], dtype=torch.int8), "a code takes more than 2 bits"),
        (torch.tensor([4], dtype=torch.uint8), "a code takes more than 2 bits, which hold 0 to 3"),
        (torch.tensor([1.0]), r"codes are of torch\.float32: give int8, or uint8"),
    ],
)
def test_what_does_not_fit_is_not_packed(codes, told):
    with pytest.raises(InputError, match=told):
        pack_bits(codes, 2)


def test_bits_behind_the_last_code_and_other_types_are_refused():
    with pytest.raises(InputError, match="there are bits behind the last of 2 codes"):
        unpack_bits(torch.tensor([255], dtype=torch.uint8), 3, (2,), signed=False)
    with pytest.raises(InputError, match=r"a shape of \(1,\) and torch.int8"):
        unpack_bits(torch.tensor([0], dtype=torch.int8), 3, (2,), signed=False)


@pytest.mark.parametrize("bits", [-1, 0, 9])
def test_codes_have_one_to_eight_bits(bits):
    codes = torch.zeros(3, dtype=torch.uint8)
    for attempt in (lambda: pack_bits(codes, bits), lambda: unpack_bits(codes, bits, (3,), signed=True)):
        with pytest.raises(InputError, match=f"codes have 1 to 8 bits, not {bits}"):
            attempt()
