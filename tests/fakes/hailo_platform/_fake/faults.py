"""Makes a call fail, hang or be late as the configuration says."""

import json
import threading
import time
from typing import Any

from hailo_platform._fake import config
from hailo_platform._fake.statuses import failure

_lock = threading.Lock()
_calls: dict[str, tuple[str, int]] = {}  # point -> the fault as configured and the calls it has seen


def reach(point: str) -> dict[str, Any]:
    """Pass a point: sleep, raise, or fail with a status, as configured. Returns the fault, empty if there is none."""
    assert point in config.POINTS, point
    fault = config.load().get("faults", {}).get(point)
    if fault is None:
        return {}
    with _lock:
        text = json.dumps(fault, sort_keys=True)
        seen_as, count = _calls.get(point, (text, 0))
        count = count + 1 if seen_as == text else 1
        _calls[point] = text, count
    if fault.get("at", count) != count:
        return {}
    time.sleep(fault.get("sleep", 0))
    if "raise" in fault:
        raise RuntimeError(fault["raise"])
    if "status" in fault:
        raise failure(fault["status"])
    return fault


def stalls(point: str) -> bool:
    """Whether every call at this point stalls; counts no call."""
    fault = config.load().get("faults", {}).get(point, {})
    return fault.get("stall", False) and "at" not in fault
