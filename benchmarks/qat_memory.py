"""The most memory that torch holds in a step of training."""

import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

_STEP = "the step that is measured"


def peak_bytes(make: Callable[[], Callable[[], object]]) -> int:
    """Return the largest sum of what torch has allocated, and not freed, while the second step of what is made runs.

    The sum starts before `make`, so that model, optimizer and all other state count.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step = make()
        step()
        with record_function(_STEP):
            step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    (started,) = (event["ts"] for event in events if event["name"] == _STEP and event["ph"] == "X")
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    held = accumulate(change for _, change in changes)
    return max(total for (moment, _), total in zip(changes, held, strict=True) if moment >= started)
