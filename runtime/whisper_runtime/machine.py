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
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


# On these it hangs how ONNX Runtime adds up, in int8 above all, and so now and then a word.
_INSTRUCTIONS = {
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
}


def _instructions() -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return sorted(_INSTRUCTIONS & set(line.partition(":")[2].split()))
    return []


def _processor() -> str:
    for path, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        with suppress(OSError, UnicodeDecodeError):
            for line in Path(path).read_text(encoding="utf-8").strip("\0").splitlines():
                if line.startswith(key):
                    return line.partition(":")[2].strip() if key else line
    return "unknown"
