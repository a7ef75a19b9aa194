"""A token for an object whose content cannot be told: the same as long as it is the same object."""

import secrets
import weakref

_tokens: "weakref.WeakKeyDictionary[object, str]" = weakref.WeakKeyDictionary()


def token(subject: object) -> str:
    """Return a random text that this object alone has in this process; a new one each time if none can be kept.

    Examples
    --------
    >>> first, second = type("Data", (), {})(), type("Data", (), {})()
    >>> token(first) == token(first), token(first) == token(second)
    (True, False)
    """
    fresh = secrets.token_hex(32)
    try:
        return _tokens.setdefault(subject, fresh)
    except TypeError:  # neither hashable nor weakly referable: equal to nothing
        return fresh
