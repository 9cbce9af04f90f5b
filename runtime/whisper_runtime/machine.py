"""What this machine is."""

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What this machine is: enough to judge its times by."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for path, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        with suppress(OSError, UnicodeDecodeError):
            for line in Path(path).read_text(encoding="utf-8").strip("\0").splitlines():
                if line.startswith(key):
                    return line.partition(":")[2].strip() if key else line
    return "unknown"
