"""Audits of earlier runs, found by a key of everything that they depend on."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qfair_check.errors import QFairError
from qfair_check.record import Audit

_AUDIT, _SEAL, _UNFINISHED = "audit.json", "seal", ".unfinished-"
_MOST_ENTRIES, _MOST_BYTES = 32, 256 * 2**20
_ABANDONED = 3600.0


@dataclass(frozen=True, slots=True)
class AuditCache:
    """A folder with an entry for each key: an audit, its outcomes, and a seal that tells damage.

    An entry comes to be by the renaming of a folder, so that a reader sees all of it or nothing, whoever writes or is
    killed meanwhile. Of 32 entries or 256 MiB, the least recently used go first.

    Parameters
    ----------
    folder : Path
    """

    folder: Path

    def load(self, key: str) -> Audit | None:
        """Return an audit; None if there is none, or a damaged one, which is taken away."""
        entry = self.folder / key
        if not entry.exists():
            return None
        with suppress(QFairError, OSError, ValueError):
            if (entry / _SEAL).read_text() == _sealed(entry / _AUDIT):
                audit = Audit.load(entry / _AUDIT)
                if audit.outcomes:
                    os.utime(entry)
                    return audit
        shutil.rmtree(entry, ignore_errors=True)
        return None

    def store(self, key: str, audit: Audit) -> bool:
        """Keep an audit; False if it cannot be written, as on a full disk, which is no reason to fail."""
        made: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=self.folder, prefix=_UNFINISHED))
            audit.save(made / _AUDIT)
            (made / _SEAL).write_text(_sealed(made / _AUDIT))
            made.rename(self.folder / key)
        except (QFairError, OSError):
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            return (self.folder / key).exists()
        self._shrink()
        return True

    def _shrink(self) -> None:
        """Remove the least recently used entries, and what a run that was killed left."""
        with suppress(OSError):
            for left in self.folder.glob(f"{_UNFINISHED}*"):
                if time.time() - left.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(left, ignore_errors=True)
            total = 0
            for index, (_, size, entry) in enumerate(sorted(self._entries(), reverse=True)):
                total += size
                if index and (index >= _MOST_ENTRIES or total > _MOST_BYTES):
                    shutil.rmtree(entry, ignore_errors=True)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        for entry in self.folder.iterdir():
            if not entry.name.startswith("."):
                with suppress(OSError):
                    yield entry.stat().st_mtime, sum(file.stat().st_size for file in entry.iterdir()), entry


def _sealed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
