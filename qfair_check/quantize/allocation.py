"""Which layers have other bits than the audited precision: data, not code."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from qfair_check.errors import OptionError
from qfair_check.precision import AS_IS, FP32, Precision

NO_NAMES: Mapping[str, str] = {}
_MOST_NEAR = 5


@dataclass(frozen=True, slots=True)
class Allocation:
    """Bits by layer, at the integer precisions; fp16 and bf16 are one precision for the whole model.

    A pattern is matched against the name of a layer, such as ``layer1.0.conv1``, and of its weight, such as
    ``layer1.0.conv1.weight``; ``*`` stands for any text, dots included.

    Parameters
    ----------
    layer_bits : tuple of (str, Precision)
        Pattern and precision; of several that match, the last counts. fp32 leaves a layer out, as `exclude` does.
    exclude : tuple of str
        Patterns of layers that stay fp32, whatever else matches.
    first_last : Precision or None
        For the first and the last layer in the order of execution, unless `layer_bits` names them.

    Raises
    ------
    OptionError
        If `first_last` is fp32.

    Examples
    --------
    >>> mixed = Allocation.of(layer_bits="conv*=8,conv2=4", exclude="embed")
    >>> plan = mixed.plan(["embed.weight", "conv1.weight", "conv2.weight", "fc.weight"], Precision("int2"))
    >>> {name: str(precision) for name, precision in plan.items()}
    {'conv1.weight': 'int8', 'conv2.weight': 'int4', 'fc.weight': 'int2'}
    """

    layer_bits: tuple[tuple[str, Precision], ...] = ()
    exclude: tuple[str, ...] = ()
    first_last: Precision | None = None

    def __post_init__(self) -> None:
        if self.first_last == FP32:
            raise OptionError("first_last is fp32, which quantizes nothing: name these two layers in --qfair-exclude")
        if AS_IS in (self.first_last, *(precision for _, precision in self.layer_bits)):
            raise OptionError("asis is of the whole model, and no bits of some layers: give 2 to 8, 16 or 32")

    def __str__(self) -> str:
        words = [f"{pattern}={precision}" for pattern, precision in self.layer_bits]
        words += [f"first-last={self.first_last}"] if self.first_last else []
        return ", ".join(words + [f"exclude {pattern}" for pattern in self.exclude])

    @classmethod
    def of(
        cls,
        layer_bits: str | Mapping[str, str | int | Precision] = "",
        exclude: str | Iterable[str] = (),
        first_last: str | int | Precision | None = None,
    ) -> "Allocation":
        """Read ``"conv1=8,fc=8"`` or a mapping, ``"embed*,head"`` or a list, and a precision.

        Raises
        ------
        OptionError
            If one of them makes no sense.
        """
        pairs = _pairs(layer_bits) if isinstance(layer_bits, str) else list(layer_bits.items())
        patterns = exclude.split(",") if isinstance(exclude, str) and exclude else exclude
        stripped = tuple(pattern.strip() for pattern in patterns)
        if not all(stripped):
            raise OptionError(f"exclude is {exclude!r}: give names of layers, or patterns such as embed*")
        return cls(
            tuple((pattern, Precision.parse(bits)) for pattern, bits in pairs),
            stripped,
            None if first_last is None else Precision.parse(first_last),
        )

    def included(self, names: Iterable[str]) -> list[str]:
        """Return the weights that are quantized.

        Parameters
        ----------
        names : iterable of str
            Of all weights that can be.
        """
        return [name for name in names if not self._leaves_out(name)]

    def _leaves_out(self, name: str) -> bool:
        bits = [wanted for pattern, wanted in self.layer_bits if _matches(pattern, name)]
        return bits[-1:] == [FP32] or any(_matches(pattern, name) for pattern in self.exclude)

    def check(self, names: Sequence[str], tied: Mapping[str, str] = NO_NAMES) -> None:
        """Refuse a pattern that matches no weight.

        Parameters
        ----------
        names : sequence of str
            Of all weights that can be quantized.
        tied : mapping of str to str
            From other names of a tied weight to the one in `names`.

        Raises
        ------
        OptionError
            Naming the pattern, and layers with names like it.
        """
        given = [("layer-bits", pattern) for pattern, _ in self.layer_bits]
        for option, pattern in given + [("exclude", pattern) for pattern in self.exclude]:
            if not any(_matches(pattern, name) for name in names):
                if first := next((first for name, first in tied.items() if _matches(pattern, name)), None):
                    raise OptionError(
                        f"--qfair-{option} names {pattern!r}, which has no weight of its own but is tied: "
                        f"name {layer_of(first)}"
                    )
                raise OptionError(
                    f"--qfair-{option} names {pattern!r}, and no layer has this name: {_near(pattern, names)}"
                )

    def plan(
        self,
        names: Sequence[str],
        precision: Precision,
        ends: tuple[str, str] | None = None,
        tied: Mapping[str, str] = NO_NAMES,
    ) -> dict[str, Precision]:
        """Return the precision of each weight that is quantized.

        Parameters
        ----------
        names : sequence of str
            Of all weights that can be quantized.
        precision : Precision
            That of the audit.
        ends : (str, str), optional
            The weights that are used first and last; needed for `first_last`.
        tied : mapping of str to str
            From other names of a tied weight to the one in `names`.

        Raises
        ------
        OptionError
            If a pattern matches no weight, if nothing is left to quantize to an integer precision, or if the ends are
            needed and not known.
        """
        self.check(names, tied)
        planned = dict.fromkeys(self.included(names), precision)
        if not precision.is_integer:
            return planned
        if not planned:
            raise OptionError(f"every layer is left out, and nothing is quantized to {precision}: exclude fewer layers")
        if self.first_last is not None:
            if ends is None:
                raise OptionError("first_last needs the order of execution: give an example batch too")
            outer = {layer_of(name) for name in ends}
            planned |= {name: self.first_last for name in planned if layer_of(name) in outer}
        for pattern, wanted in self.layer_bits:
            planned |= {name: wanted for name in planned if _matches(pattern, name)}
        return planned


def layer_of(weight: str) -> str:
    """Return the name of the layer that a weight belongs to.

    Examples
    --------
    >>> layer_of("layer1.0.conv1.weight")
    'layer1.0.conv1'
    """
    return weight.rpartition(".")[0]


def _matches(pattern: str, weight: str) -> bool:
    return fnmatchcase(layer_of(weight), pattern) or fnmatchcase(weight, pattern)


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split(",") if text.strip() else ():
        pattern, equals, bits = (word.strip() for word in part.rpartition("="))
        if not (pattern and equals and bits):
            raise OptionError(f"layer_bits is {text!r}: give layers and bits, such as conv1=8,fc=8")
        pairs.append((pattern, bits))
    return pairs


def _near(pattern: str, names: Sequence[str]) -> str:
    layers = list(dict.fromkeys(map(layer_of, names)))
    inside = [layer for layer in layers if layer.startswith(f"{pattern}.")]
    if inside:
        return f"to match the {len(inside)} layers inside it, write {pattern}.*"
    near = get_close_matches(pattern, layers, n=_MOST_NEAR)
    shown = near or layers[:_MOST_NEAR]
    more = "" if near or len(layers) <= _MOST_NEAR else f" and {len(layers) - _MOST_NEAR} more"
    return f"{'close are' if near else 'there are'} {', '.join(shown)}{more}"
