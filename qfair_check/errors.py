"""The errors this package raises: each message says what was found, where, and the cure."""

from typing import Any


class QFairError(Exception):
    """Base of every error a caller of this package may want to catch.

    Its text names what files hold: control characters in it are escaped, so that no file writes to a terminal.
    """

    def __str__(self) -> str:
        return "".join(
            character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
            for character in super().__str__()
        )


class OptionError(QFairError):
    """An option, argument, marker or limit makes no sense."""


class InputError(QFairError):
    """A model, data or audit file cannot be read, or does not fit the others."""


class UntrustedPickleError(InputError):
    """A file would run code on loading, and the caller has not said that it is trusted."""


class MeasureError(QFairError):
    """The model failed, or answered with something that is not a batch of logits."""


class FairnessError(AssertionError):
    """A fairness limit is broken, or cannot be judged.

    Where limits were judged one by one, `verdicts` holds what each said, and `audit` is what they judged.
    """

    verdicts: tuple[Any, ...] = ()
    audit: Any = None
