"""Names of numeric precisions: ``fp32``, ``fp16``, ``bf16``, ``int2`` to ``int8``, and ``asis``."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from qfair_check.errors import OptionError

_FLOATS = {"fp32": 32, "fp16": 16, "bf16": 16}
_INTEGERS = {f"int{bits}": bits for bits in range(2, 9)}
_AS_IS = {"asis": 32}
_BY_NAME = _FLOATS | _INTEGERS | _AS_IS
_BY_BITS = {"32": "fp32", "16": "fp16"} | {str(bits): name for name, bits in _INTEGERS.items()}


@dataclass(frozen=True, slots=True)
class Precision:
    """One numeric precision of the weights.

    Parameters
    ----------
    name : str
        ``fp32``, ``fp16``, ``bf16``, ``int2`` to ``int8``, or ``asis``: that of each weight of the model as it is.

    Examples
    --------
    >>> Precision.parse(4), Precision.parse("int4").bits, Precision.parse("fp16").is_integer
    (Precision(name='int4'), 4, False)
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in _BY_NAME:
            raise OptionError(_unknown(self.name))

    def __str__(self) -> str:
        return self.name

    @property
    def bits(self) -> int:
        """Bits per weight; 32 at ``asis``, the most that a weight has there: each layer has bits of its own."""
        return _BY_NAME[self.name]

    @property
    def is_integer(self) -> bool:
        """Whether the weights lie on an integer grid."""
        return self.name in _INTEGERS

    @classmethod
    def parse(cls, text: "str | int | Precision") -> "Precision":
        """Read ``4``, ``"4"``, ``"int4"``, ``"fp16"``, ``"bf16"`` or ``"asis"``.

        Raises
        ------
        OptionError
            If the text names no known precision.
        """
        if isinstance(text, Precision):
            return text
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise OptionError(_unknown(text))
        name = str(text).strip().lower()
        return cls(_BY_BITS.get(name, name))


FP32 = Precision("fp32")
AS_IS = Precision("asis")


def parse_precisions(
    given: "str | int | Precision | Iterable[str | int | Precision]",
) -> tuple[Precision, ...]:
    """Read a list of precisions, without duplicates, widest first, ``asis`` last, and without ``fp32``.

    ``fp32`` is the baseline: it is always audited, so naming it changes nothing.

    Raises
    ------
    OptionError
        If an entry names no known precision, or nothing is given.

    Examples
    --------
    >>> [str(p) for p in parse_precisions("2, int8,fp16,8")]
    ['fp16', 'int8', 'int2']
    """
    if isinstance(given, str):
        parts: list[str | int | Precision] = list(given.split(","))
    elif isinstance(given, int | Precision):
        parts = [given]
    elif isinstance(given, Iterable):
        parts = list(given)
    else:
        raise OptionError(_unknown(given))
    if not parts or all(isinstance(part, str) and not part.strip() for part in parts):
        raise OptionError(f"no bit width given; {_KNOWN}")
    found = {Precision.parse(part) for part in parts}
    order = list(_BY_NAME)
    return tuple(sorted(found - {FP32}, key=lambda p: (p == AS_IS, -p.bits, order.index(p.name))))


def check_unmixed(precisions: Collection[Precision]) -> None:
    """Refuse ``asis`` among others: a model that lies on its own grid has no other precision.

    Raises
    ------
    OptionError
        If it stands among others.
    """
    if AS_IS in precisions and len(precisions) > 1:
        others = ", ".join(precision.name for precision in precisions if precision != AS_IS)
        raise OptionError(
            f"bits name asis and {others}: asis audits the weights as they are, and is never mixed; make two audits"
        )


_KNOWN = "known are 2 to 8 (integers), 16 or fp16, bf16, 32 or fp32, and asis"


def _unknown(text: object) -> str:
    return f"{text!r} is not a bit width: {_KNOWN}"
