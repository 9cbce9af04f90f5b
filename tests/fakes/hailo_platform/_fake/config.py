"""The configuration file of the fake; the keys are in the package's docstring."""

import json
import os
from pathlib import Path
from typing import Any

KEYS = {"hailort", "native_version", "device", "service", "latency", "output", "faults"}
DEVICE_KEYS = {"architecture", "count", "id", "driver", "firmware", "queue_size", "watts", "celsius"}
FAULT_KEYS = {"status", "raise", "stall", "sleep", "at"}
OUTPUTS = (None, "garbage", "nan")
ARCHITECTURES = ("HAILO8", "HAILO8L", "HAILO10H")

# Where a fault can be set: calls of the public classes, and AsyncInferJob.completion, at which the device reports a
# frame as failed. A status there reaches only the callback: HailoRT's wait() does not look at it. At the end of a
# model's context nothing can fail, but it may take long.
POINTS = {
    "HEF.create",
    "Device.scan",
    "Device.create",
    "Control.identify",
    "Control.get_chip_temperature",
    "Control.power_measurement",
    "VDevice.create",
    "VDevice.release",
    "VDevice.get_physical_devices_ids",
    "VDevice.create_infer_model",
    "InferModel.configure",
    "ConfiguredInferModel.activate",
    "ConfiguredInferModel.create_bindings",
    "ConfiguredInferModel.wait_for_async_ready",
    "ConfiguredInferModel.run_async",
    "ConfiguredInferModel.get_async_queue_size",
    "ConfiguredInferModel.set_scheduler_timeout",
    "ConfiguredInferModel.set_scheduler_threshold",
    "ConfiguredInferModel.set_scheduler_priority",
    "ConfiguredInferModel.shutdown",
    "ConfiguredInferModel.__exit__",
    "Bindings.set_buffer",
    "AsyncInferJob.wait",
    "AsyncInferJob.completion",
}
STALLING = {"ConfiguredInferModel.run_async", "AsyncInferJob.wait"}
FOREIGN_POINTS = "ClientRunner."
FOREIGN_KEYS = "dfc"


def load() -> dict[str, Any]:
    """Return the configuration, checked; empty without FAKE_HAILO."""
    path = os.environ.get("FAKE_HAILO")
    if path is None:
        return {}
    settings = json.loads(Path(path).read_text())
    unknown = [key for key in settings if key not in KEYS and not key.startswith(FOREIGN_KEYS)]
    unknown += [f"device.{key}" for key in settings.get("device", {}) if key not in DEVICE_KEYS]
    for point, fault in settings.get("faults", {}).items():
        if point.startswith(FOREIGN_POINTS):
            continue
        if point not in POINTS:
            unknown.append(f"faults.{point}")
        unknown += [f"faults.{point}.{key}" for key in fault if key not in FAULT_KEYS]
        if "stall" in fault and point not in STALLING:
            unknown.append(f"faults.{point}.stall")
        if fault.keys() & {"status", "raise"} and point == "ConfiguredInferModel.__exit__":
            unknown.append(f"faults.{point} that fails")
    if settings.get("output") not in OUTPUTS:
        unknown.append(f"output={settings['output']}")
    if settings.get("device", {}).get("architecture", "HAILO8") not in ARCHITECTURES:
        unknown.append(f"device.architecture={settings['device']['architecture']}")
    if unknown:
        raise AssertionError(f"{path}: the fake of hailo_platform does not know {', '.join(unknown)}")
    return settings


def device() -> dict[str, Any]:
    """The key `device`."""
    return load().get("device", {})


def native_version() -> str | None:
    """Version of the native library; None if it is not installed."""
    return load().get("native_version", VERSION)


def numbers(version: str) -> tuple[int, ...]:
    """A version in order of size."""
    return tuple(int(part) for part in version.split("."))


VERSION: str = load().get("hailort", "4.23.0")
RELEASE = numbers(VERSION)
