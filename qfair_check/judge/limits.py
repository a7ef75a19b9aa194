"""The limits that a user sets, as the exact decimals that were typed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation

from qfair_check.errors import OptionError
from qfair_check.judge.checks import CHECKS, GATE_CHECKS, Check
from qfair_check.precision import Precision

_MOST_CONFIDENT = Decimal("0.999999")
_MOST_DECIMALS = 1000  # every float has fewer, and 1e-99999999 would take hours as a fraction


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit for every precision, for some, or both.

    Parameters
    ----------
    everywhere : Decimal or None
        Binds at each precision that `at` does not name.
    at : tuple of (str, Decimal)
        Limits by precision.

    Examples
    --------
    >>> limit = Limit.parse("0.1,int4=0.15", CHECKS["fvo"])
    >>> limit.bound("int8"), limit.bound("int4")
    (Decimal('0.1'), Decimal('0.15'))
    >>> Limit.parse("nan", CHECKS["fvo"])
    Traceback (most recent call last):
        ...
    qfair_check.errors.OptionError: max_fvo is 'nan': a limit is a number from 0 to 1
    """

    everywhere: Decimal | None
    at: tuple[tuple[str, Decimal], ...] = ()

    def bound(self, precision: str) -> Decimal | None:
        """Return the limit at a precision; None where none binds."""
        return dict(self.at).get(precision, self.everywhere)

    @classmethod
    def parse(cls, given: object, check: Check) -> "Limit":
        """Read ``0.1``, ``"0.1"`` or ``"0.1,int4=0.15"``.

        Raises
        ------
        OptionError
            If it is no finite number in the range of the check, or a precision is unknown or named twice.
        """
        everywhere: Decimal | None = None
        at: dict[str, Decimal] = {}
        for part in str(given).split(","):
            precision, equals, number = part.rpartition("=")
            value = _number(number, given, check)
            if not equals:
                if everywhere is not None:
                    raise OptionError(f"{check.keyword} is {given!r}: it sets the limit for all precisions twice")
                everywhere = value
                continue
            name = Precision.parse(precision).name
            if name in at:
                raise OptionError(f"{check.keyword} is {given!r}: it sets the limit for {name} twice")
            at[name] = value
        return cls(everywhere, tuple(at.items()))

    def __str__(self) -> str:
        parts = [] if self.everywhere is None else [str(self.everywhere)]
        return ", ".join(parts + [f"{name}={value}" for name, value in self.at])


Limits = Mapping[str, Limit]


def gate_limits(given: Mapping[str, object]) -> dict[str, Limit]:
    """Return the limits of the built-in gate by check name: those given by keyword (None: not given), and defaults.

    A limit given for some precisions only leaves the default in force at the others.

    Raises
    ------
    OptionError
        If a limit makes no sense.

    Examples
    --------
    >>> {name: str(limit) for name, limit in gate_limits({"max_fvo": "0.3"}).items()}
    {'fvo': '0.3', 'fvo-increase': '0.05', 'group-drop': '0.05', 'accuracy-drop': '0.02'}
    """
    limits = {}
    for check in GATE_CHECKS:
        default = None if check.default is None else Decimal(check.default)
        value = given.get(check.keyword)
        limit = Limit(None) if value is None else Limit.parse(value, check)
        if limit.everywhere is None:
            limit = replace(limit, everywhere=default)
        if limit != Limit(None):
            limits[check.name] = limit
    return limits


def parse_confidence(given: object) -> Decimal | None:
    """Read ``0.95``; None stays None.

    Raises
    ------
    OptionError
        If it is no number from 0.5 to less than 1.

    Examples
    --------
    >>> parse_confidence("0.95")
    Decimal('0.95')
    """
    if given is None:
        return None
    try:
        value = Decimal(str(given).strip())
    except InvalidOperation:
        value = Decimal("nan")
    if not (value.is_finite() and Decimal("0.5") <= value <= _MOST_CONFIDENT):
        raise OptionError(f"confidence is {given!r}: it is a number from 0.5 to {_MOST_CONFIDENT}, such as 0.95")
    return value


def check_limits_bind(limits: Limits, precisions: Iterable[str]) -> None:
    """Refuse limits for precisions that are not audited: they would never bind.

    Raises
    ------
    OptionError
        Naming the limit and the audited precisions.
    """
    audited = list(precisions)
    for name, limit in limits.items():
        for precision, _ in limit.at:
            if precision not in audited:
                raise OptionError(
                    f"{CHECKS[name].keyword} sets a limit for {precision}, which is not audited: "
                    f"audited are {', '.join(audited) or 'none'}"
                )


def _number(text: str, given: object, check: Check) -> Decimal:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        value = Decimal("nan")
    if not (value.is_finite() and check.lowest <= value <= check.highest):
        raise OptionError(f"{check.keyword} is {given!r}: a limit is a number from {check.lowest} to {check.highest:,}")
    if abs(int(value.as_tuple().exponent)) > _MOST_DECIMALS:
        raise OptionError(f"{check.keyword} is {given!r}: a limit has at most {_MOST_DECIMALS:,} decimals")
    return value
