"""Asks HailoRT's Python package what it finds, in a process of its own: `python -m whisper_runtime.device_probe`.

A call into a driver that hangs cannot be interrupted from Python, and a broken native library can end the process.
So `whisper_runtime.doctor` starts this one, waits for a limited time, and reads what was printed until then: lines
of JSON behind a mark. Everything else on the output is the vendor's.
"""

import importlib
import json
from collections.abc import Iterator
from typing import Any

from whisper_runtime.errors import one_line
from whisper_runtime.hailort_status import status_of

VENDOR_PACKAGE = "hailo_platform"
MARK = "whisper-runtime-probe:"


def findings() -> Iterator[dict[str, Any]]:
    """Yield what is found, each time as a dict with some of these keys.

    Keys: `step`, what is tried next ("import", "scan", "identify", "claim", "done"); `hailort`, its version;
    `device` with `id`, `architecture`, `firmware`, `celsius` (None if it cannot be read) and `celsius_error`;
    `free`, True once the device could be taken for a moment.

    Raises:
        Exception: whatever the vendor's package raises at the step last named.
    """
    yield {"step": "import"}
    vendor = importlib.import_module(VENDOR_PACKAGE)
    yield {"hailort": str(vendor.__version__), "step": "scan"}
    ids = [str(device_id) for device_id in vendor.Device.scan()]
    for device_id in ids:
        yield {"step": "identify"}
        # The control object is only valid as long as its device is.
        with vendor.Device(device_id) as device:
            board = device.control.identify()
            celsius, celsius_error = _temperature(device.control)
        yield {
            "device": {
                "id": device_id,
                "architecture": board.device_architecture.name.lower(),
                "firmware": str(board.firmware_version),
                "celsius": celsius,
                "celsius_error": celsius_error,
            }
        }
    if ids:
        # Identifying works beside another process; only a VDevice shows whether the device is taken.
        yield {"step": "claim"}
        with vendor.VDevice():
            yield {"free": True}
    yield {"step": "done"}


def describe(error: Exception) -> dict[str, Any]:
    """Return an error as `kind` (its class), `text` (one line) and `status`, libhailort's number or None.

    `missing` is True if it says that there is no such package.
    """
    return {
        "kind": type(error).__name__,
        "text": one_line(error),
        "status": status_of(error),
        "missing": isinstance(error, ModuleNotFoundError) and error.name == VENDOR_PACKAGE,
    }


def _temperature(control: Any) -> tuple[float | None, str]:
    try:
        return float(control.get_chip_temperature().ts0_temperature), ""
    except Exception as error:  # not every firmware answers this, and the device works without
        return None, one_line(error)


def main() -> None:
    """Print the findings, and the error that ended them if there was one."""
    try:
        for finding in findings():
            _tell(finding)
    except Exception as error:  # the vendor's exceptions have no common base
        _tell({"error": describe(error)})


def _tell(finding: dict[str, Any]) -> None:
    # A line of its own, even where the vendor's output ended without one.
    print(f"\n{MARK}{json.dumps(finding)}", flush=True)  # noqa: T201 - the output is what this process is for


if __name__ == "__main__":
    main()
