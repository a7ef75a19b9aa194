"""Which versions a benchmark ran with."""

import platform
from importlib.metadata import version


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
