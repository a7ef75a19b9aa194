"""Archives that would fill the memory when they are unpacked."""

import zipfile
from pathlib import Path

from qfair_check.errors import InputError

_MOST_BYTES, _MOST_TIMES = 2**30, 100


def refuse_bomb(path: Path, cure: str) -> None:
    """Refuse a zip archive that unpacks to more than 1 GiB and to more than 100 times its size.

    What is no zip archive, or a damaged one, is left to its reader.

    Parameters
    ----------
    path : Path
    cure : str
        How the same content may be saved.

    Raises
    ------
    InputError
        With both sizes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except Exception:  # a damaged directory of a zip file raises BadZipFile, UnicodeDecodeError and more
        return
    packed = path.stat().st_size
    if unpacked > _MOST_BYTES and unpacked > _MOST_TIMES * packed:
        raise InputError(
            f"{path} has {packed:,} bytes and unpacks to {unpacked:,}, as an archive does that is made to fill the "
            f"memory: {cure}"
        )
