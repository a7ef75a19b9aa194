"""Whether two models of one run are the same: weights, structure, settings and code."""

import io
import pickle
import secrets
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from qfair_check.inputs.model import state_sha256

_tokens: "weakref.WeakKeyDictionary[Callable[..., Any], str]" = weakref.WeakKeyDictionary()


def fingerprint(forward: Callable[..., Any]) -> bytes:
    """Return bytes that are equal only for models which compute the same.

    They are a pickle in which a hash stands for each tensor: so classes and functions count by their name,
    and attributes by value, in every process alike. What cannot be pickled, such as a lambda, is equal to
    itself alone.
    """
    parts = [*forward.parameters(), *forward.buffers()] if isinstance(forward, nn.Module) else []
    buffer = io.BytesIO()
    try:
        _WithoutTensors(buffer, frozenset(map(id, parts))).dump(forward)
    except Exception:  # pickling runs the model's own code, which may raise anything
        return _token(forward).encode()
    return buffer.getvalue() + (state_sha256(forward.state_dict()).encode() if isinstance(forward, nn.Module) else b"")


def _token(forward: Callable[..., Any]) -> str:
    fresh = secrets.token_hex(16)
    try:
        return _tokens.setdefault(forward, fresh)
    except TypeError:  # neither hashable nor weakly referable: equal to nothing, so measured each time
        return fresh


class _WithoutTensors(pickle.Pickler):
    def __init__(self, file: io.BytesIO, in_state: frozenset[int]) -> None:
        super().__init__(file)
        self._in_state = in_state

    def persistent_id(self, value: Any) -> str | None:
        if not isinstance(value, Tensor):
            return None
        return "state" if id(value) in self._in_state else state_sha256({"": value})
