"""Makes a call fail, hang or be late as the configuration says."""

import ctypes
import json
import threading
import time
from typing import Any

from hailo_platform._fake import config
from hailo_platform._fake.statuses import failure

# bindings/src/infer_model_api.cpp and .hpp, utils.hpp: these let other threads of Python run, and so does the end of a
# configured model, for which its context stands here. All other calls keep hold of the interpreter.
LETTING_GO = {
    "ConfiguredInferModel.wait_for_async_ready",
    "ConfiguredInferModel.run_async",
    "ConfiguredInferModel.__exit__",
    "AsyncInferJob.wait",
    "AsyncInferJob.completion",
}
_native = ctypes.PyDLL(None)  # calls without letting go of the interpreter

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
    _sleep(fault.get("sleep", 0), point in LETTING_GO)
    if "raise" in fault:
        raise RuntimeError(fault["raise"])
    if "status" in fault:
        raise failure(fault["status"])
    return fault


def _sleep(seconds: float, letting_go: bool) -> None:
    if letting_go:
        time.sleep(seconds)
    else:
        _native.usleep(int(seconds * 1e6))


def stalls(point: str) -> bool:
    """Whether every call at this point stalls; counts no call."""
    fault = config.load().get("faults", {}).get(point, {})
    return fault.get("stall", False) and "at" not in fault
