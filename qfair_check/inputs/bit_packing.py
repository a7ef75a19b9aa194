"""Integer codes of a few bits each, with no bit between them left unused."""

import math

import numpy as np
import torch
from torch import Tensor

from qfair_check.errors import InputError

_BYTE = 8


def packed_size(count: int, bits: int) -> int:
    """Return the bytes that so many codes take: ceil(count bits / 8).

    Examples
    --------
    >>> packed_size(5, 3)
    2
    """
    return -(-count * bits // _BYTE)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Return codes as a stream of bits, little-endian: bit j of code i is bit i b + j of the stream.

    Bit k of the stream is bit k mod 8, counted from the least, of byte k // 8. Negative codes are in two's complement
    of b bits; what is left of the last byte is 0.

    Parameters
    ----------
    codes : int8 or uint8 tensor
        Each of which fits in so many bits: -2^(b-1) to 2^(b-1) - 1, or 0 to 2^b - 1 if unsigned.
    bits : int
        b, 1 to 8.

    Returns
    -------
    uint8 tensor, shape (ceil(codes b / 8),)

    Raises
    ------
    InputError
        If codes are of another type, one takes more bits, or bits are no such number.

    Examples
    --------
    >>> pack_bits(torch.tensor([1, -1, 0, -2, 1], dtype=torch.int8), 2).tolist()
    [141, 1]
    """
    _check_width(bits)
    if codes.dtype not in (torch.int8, torch.uint8):
        raise InputError(f"codes are of {codes.dtype}: give int8, or uint8")
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if codes.dtype == torch.int8 else (0, 2**bits - 1)
    if codes.numel() and not lowest <= int(codes.min()) <= int(codes.max()) <= highest:
        raise InputError(f"a code takes more than {bits} bits, which hold {lowest} to {highest}: pack at more bits")
    plain = codes.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8)
    single = np.unpackbits(plain[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(single.reshape(-1), bitorder="little"))


def unpack_bits(packed: Tensor, bits: int, shape: tuple[int, ...], *, signed: bool) -> Tensor:
    """Return the codes of a stream of bits; the inverse of `pack_bits`.

    Parameters
    ----------
    packed : uint8 tensor, shape (bytes,)
    bits : int
        1 to 8.
    shape : tuple of int
        Of the codes.
    signed : bool
        Whether codes are in two's complement.

    Raises
    ------
    InputError
        If the stream is not of the length that the shape needs, a bit behind its last code is set, or bits are no such
        number.

    Examples
    --------
    >>> unpack_bits(torch.tensor([141, 1], dtype=torch.uint8), 2, (5,), signed=True).tolist()
    [1, -1, 0, -2, 1]
    """
    _check_width(bits)
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or tuple(packed.shape) != (packed_size(count, bits),):
        raise InputError(
            f"{count} codes of {bits} bits are a row of {packed_size(count, bits)} bytes of uint8, and there is a "
            f"shape of {tuple(packed.shape)} and {packed.dtype}"
        )
    single = np.unpackbits(packed.numpy(), bitorder="little")
    if single[count * bits :].any():
        raise InputError(f"there are bits behind the last of {count} codes")
    codes = np.packbits(single[: count * bits].reshape(count, bits), axis=1, bitorder="little")[:, 0]
    rest = _BYTE - bits
    whole = (codes << rest).view(np.int8) >> rest if signed else codes
    return torch.from_numpy(whole.copy()).reshape(shape)


def _check_width(bits: int) -> None:
    if not 1 <= bits <= _BYTE:
        raise InputError(f"codes have 1 to {_BYTE} bits, not {bits}")
