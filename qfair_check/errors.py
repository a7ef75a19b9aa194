"""The errors this package raises: each message says what was found, where, and the cure."""


class QFairError(Exception):
    """Base of every error a caller of this package may want to catch."""


class OptionError(QFairError):
    """An option, argument, marker or limit makes no sense."""


class InputError(QFairError):
    """A model, data or audit file cannot be read, or does not fit the others."""


class UntrustedPickleError(InputError):
    """A file would run code on loading, and the caller has not said that it is trusted."""


class MeasureError(QFairError):
    """The model failed, or answered with something that is not a batch of logits."""


class FairnessError(AssertionError):
    """A fairness limit is broken, or cannot be judged."""
