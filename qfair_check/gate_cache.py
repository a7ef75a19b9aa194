"""The gate's audit comes from an earlier run where nothing that it depends on has changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qfair_check.audit_cache import AuditCache
from qfair_check.audit_key import audit_key
from qfair_check.judge.text import printable
from qfair_check.options import data_options, measure_options, model_options
from qfair_check.plugin_options import lookup
from qfair_check.record import Audit

_FOLDER = "qfair"
_FIXTURES = frozenset({"qfair_model", "qfair_data", "qfair_audit", "qfair_precision"})


def through_cache(session: pytest.Session, measure: Callable[[], Audit]) -> Audit:
    """Return an audit of the model and data that options name: of an earlier run, or measured and kept for later ones.

    It is measured, and not kept, where that it would be the same cannot be told (`audit_key`), where a test of this run
    needs the model itself, with ``--qfair-no-cache``, and without pytest's own cache or where that cannot be written.
    """
    config = session.config
    cache, key = _cache(session), _key(config)
    if cache is None or key is None:
        return measure()
    found = cache.load(key)
    if found is not None:
        reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        if reporter and config.get_verbosity() >= 0:
            reporter.write_line(
                f"qfair: measured on {printable(found.run.created)} and unchanged since; --qfair-no-cache measures anew"
            )
        return found
    made = measure()
    if _key(config) == key:  # nothing changed while it was measured
        cache.store(key, made)
    return made


def _cache(session: pytest.Session) -> AuditCache | None:
    own: Any = getattr(session.config, "cache", None)
    if own is None or lookup(session.config)("no_cache"):
        return None
    if any(_FIXTURES & set(getattr(item, "fixturenames", ())) for item in session.items):
        return None
    try:
        return AuditCache(Path(own.mkdir(_FOLDER)))
    except OSError:  # nothing can be written there, and a gate needs no cache
        return None


def _key(config: pytest.Config) -> str | None:
    get = lookup(config)
    model, data = model_options(get), data_options(get)
    if model is None or data is None:
        return None
    return audit_key(model, data, measure_options(get), by_content=bool(get("cache_content")))
