"""Whether two models of one run are the same: weights, structure, settings and code."""

import io
import pickle
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from qfair_check.inputs.identity import token
from qfair_check.inputs.model import state_sha256


def fingerprint(forward: Callable[..., Any]) -> bytes:
    """Return bytes that are equal only for models which compute the same, as long as no class is changed in a run.

    They are a pickle in which a hash stands for each tensor: so classes and functions count by their name,
    and attributes by value, in every process alike. What cannot be pickled, such as a lambda, is equal to
    itself alone.
    """
    buffer = io.BytesIO()
    try:
        _HashedTensors(buffer).dump(forward)
    except Exception:  # pickling runs the model's own code, which may raise anything
        return token(forward).encode()
    return buffer.getvalue() + (state_sha256(forward.state_dict()).encode() if isinstance(forward, nn.Module) else b"")


class _HashedTensors(pickle.Pickler):
    def persistent_id(self, value: Any) -> str | None:
        return state_sha256({"": value}) if isinstance(value, Tensor) else None
