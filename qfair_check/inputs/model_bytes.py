"""The bytes of a model file, which depend on its content alone."""

import json

_LENGTH = 8


def with_sorted_metadata(content: bytes) -> bytes:
    """Return a safetensors file with its metadata in the order of their names.

    safetensors writes them in the order of a hash map, which is another in every process, so that one model would have
    many files. Its layout is that of https://github.com/huggingface/safetensors: 8 bytes of length, little-endian, a
    JSON header of this length, padded with spaces, and the tensors, whose offsets count from there.

    Parameters
    ----------
    content : bytes
        What `safetensors.torch.save` gives.

    Examples
    --------
    >>> import torch
    >>> from safetensors.torch import load, save
    >>> one = with_sorted_metadata(save({"w": torch.ones(2)}, {"b": "2", "a": "1"}))
    >>> other = with_sorted_metadata(save({"w": torch.ones(2)}, {"a": "1", "b": "2"}))
    >>> one == other, load(one)["w"].tolist()
    (True, [1.0, 1.0])
    """
    end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    header = json.loads(content[_LENGTH:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text + content[end:]
