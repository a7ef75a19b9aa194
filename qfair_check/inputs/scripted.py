"""A TorchScript file as a module that can be copied and whose weights are parameters."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qfair_check.errors import InputError, MeasureError


class ScriptedModule(nn.Module):
    """A scripted or traced module under the names of its own parts.

    Tensors of a loaded or copied script do not count as parameters, and copies are not even leaves of autograd.
    Here they are both; a value written into one changes what the script computes.
    """

    _script: torch.jit.ScriptModule

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        _make_parameters(script)
        self.__dict__["_script"] = script
        self._list_parts()

    @classmethod
    def copy_of(cls, script: torch.jit.ScriptModule) -> "ScriptedModule":
        """Leave a script of the caller as it is, with its own tensors."""
        with torch.no_grad():
            duplicate = copy.deepcopy(script)
        for own, other in zip(script.parameters(), duplicate.parameters(), strict=True):
            other.requires_grad_(own.requires_grad)
        return cls(duplicate)

    def _list_parts(self) -> None:
        script = self._script
        self._modules = dict(script.named_children())
        own = {name: value for name, value in script.named_parameters() if "." not in name}
        self._parameters = dict[str, nn.Parameter | None](own)
        self._buffers = {name: value for name, value in script.named_buffers() if "." not in name}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the script returns.

        Raises
        ------
        MeasureError
            If it fails, with its reason alone: torch adds the source code of the script.
        """
        try:
            return self._script(*args, **kwargs)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            if len(lines) < 2 or "TorchScript" not in str(error):
                raise
            raise MeasureError(f"TorchScript failed: {lines[-1]}") from error

    def train(self, mode: bool = True) -> "ScriptedModule":
        """Set the mode of the script."""
        self.training = mode
        self._script.train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ScriptedModule":
        self._script._apply(fn)  # type: ignore[no-untyped-call]
        self._list_parts()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "ScriptedModule":
        return self.copy_of(self._script)


def load_scripted(path: Path) -> nn.Module:
    """Load a file of torch.jit.save, which runs its code.

    Raises
    ------
    InputError
        If torch cannot load it, or its weights were made constants.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            script = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # trusted code in the file may raise anything
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
        raise InputError(f"cannot read {path} as TorchScript (truncated or damaged?): {reason}") from error
    if not any(True for _ in script.parameters()):
        raise InputError(
            f"{path} is TorchScript without parameters: torch.jit.freeze and torch.jit.optimize_for_inference make "
            "weights constants; save the scripted model before"
        )
    return ScriptedModule(script).eval()


def _make_parameters(script: torch.jit.ScriptModule) -> None:
    """Mark tensors as parameters; new ones in their place would leave behind lists of them, such as an LSTM has."""
    for value in script.parameters():
        value._is_param = True
