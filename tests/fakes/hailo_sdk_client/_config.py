"""The configuration of the fakes: the JSON file that FAKE_HAILO names, read at every call."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hailo_sdk_client._exceptions import AccelerasUnknownError

OWN_KEYS = ("dfc", "dfc_log", "dfc_original_names", "dfc_demote_outputs", "dfc_reverse_outputs")
KEYS = (*OWN_KEYS, "faults", "output", "device", "hailort")  # the others are of the fake of hailo_platform
METHODS = (
    "__init__",
    "translate_onnx_model",
    "save_har",
    "load_har",
    "load_model_script",
    "optimize_full_precision",
    "optimize",
    "compile",
    "infer",
)
FAULT_KEYS = ("raise", "sleep", "at")

calls: Counter[str] = Counter()  # of this process


def load() -> dict[str, Any]:
    """Return the configuration, empty without FAKE_HAILO. Raises RuntimeError for a key that no fake knows."""
    path = os.environ.get("FAKE_HAILO")
    config = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    unknown = sorted(set(config) - set(KEYS))
    own_faults = {name: value for name, value in config.get("faults", {}).items() if name.startswith("ClientRunner")}
    unknown += sorted(set(own_faults) - {f"ClientRunner.{method}" for method in METHODS})
    unknown += sorted(f"{name}: {key}" for name, value in own_faults.items() for key in set(value) - set(FAULT_KEYS))
    if unknown:
        raise RuntimeError(f"FAKE_HAILO: unknown keys {', '.join(unknown)}")
    return config


def version() -> str:
    """The version that the fake compiler claims to be."""
    return load().get("dfc", "3.33.0")


def fault(method: str) -> None:
    """Sleep and raise as configured for ClientRunner.`method`; called once by each method, in the middle of its work.

    Raises AccelerasUnknownError where the configuration says so.
    """
    name = f"ClientRunner.{method}"
    calls[name] += 1
    settings = load().get("faults", {}).get(name)
    if settings is None or calls[name] != settings.get("at", calls[name]):
        return
    time.sleep(settings.get("sleep", 0.0))
    if "raise" in settings:
        raise AccelerasUnknownError(settings["raise"])
