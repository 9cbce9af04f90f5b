"""Strict fake of HailoRT's Python package: the part that the project uses, with the failures of the real one.

Modules are those of the real package (`hailo_platform`, `hailo_platform.pyhailort.pyhailort`, and
`hailo_platform.pyhailort._pyhailort` for its native half); `hailo_platform._fake` holds what the native half does.
Beside each behaviour stands the file of the public source it was read from, relative to `hailort/` there, of
v4.20.0, v4.23.0 and v5.2.0; `bindings` stands for `libhailort/bindings/python`. Where HailoRT's behaviour would be
undefined (a data race, a use after release), the fake raises an AssertionError that names the misuse.

Configuration: the JSON file named by the environment variable FAKE_HAILO, read at each call. Its keys:

| key | meaning |
|---|---|
| `hailort` | version of the package, default "4.23.0"; read once, at import |
| `native_version` | version of the native library, default that of the package; null: not installed |
| `device` | `architecture` (HAILO8, HAILO8L, HAILO10H; default HAILO8), `count` (default 1), |
| | `id` (of the first one, default 0000:01:00.0), |
| | `driver` (version, default that of the package; null: no driver), `firmware` (version), |
| | `queue_size` (jobs in flight for each frame of the batch, default 4), |
| | `watts` (what its power sensor shows; absent: the board has none), `celsius` (of its warmer sensor, default 45.5) |
| `service` | true: the vendor's multi-process service runs |
| `latency` | seconds that the device takes for a frame, besides the graph itself; default 0 |
| `output` | "garbage": random values; "nan": NaN in float outputs, zeros in integer ones |
| `faults` | {point: fault}, see `_fake/config.py` for the points |

A fault: `status` (the native call fails with it), `raise` (text of a RuntimeError), `stall` (true: the job never
completes), `sleep` (seconds before the call goes on; no other thread of Python runs meanwhile where the native half
keeps hold of the interpreter, see `_fake/faults.py`), `at` (only the n-th call counted from when this fault was
configured, by each process; absent: every call). Keys that start with `dfc`, and faults at `ClientRunner.*`, belong
to the other fake. Any other key is an error.
"""

from hailo_platform._fake import config as _config

if _config.native_version() is None:
    raise ImportError(
        f"libhailort.so.{_config.VERSION}: cannot open shared object file: No such file or directory",
        name="hailo_platform.pyhailort._pyhailort",
    )
if _config.native_version() != _config.VERSION:  # bindings/src/pyhailort.cpp, on loading the module
    raise ImportError(
        f"libhailort version ({_config.native_version()}) does not match pyhailort version ({_config.VERSION})"
    )

from hailo_platform.pyhailort.pyhailort import (
    HEF,
    AsyncInferJob,
    Device,
    DvmTypes,
    FormatOrder,
    FormatType,
    HailoCommunicationClosedException,
    HailoRTException,
    HailoRTStreamAbortedByUser,
    HailoSchedulingAlgorithm,
    HailoStreamDirection,
    PowerMeasurementTypes,
    VDevice,
)

__version__ = _config.VERSION
__all__ = [
    "HEF",
    "AsyncInferJob",
    "Device",
    "DvmTypes",
    "FormatOrder",
    "FormatType",
    "HailoCommunicationClosedException",
    "HailoRTException",
    "HailoRTStreamAbortedByUser",
    "HailoSchedulingAlgorithm",
    "HailoStreamDirection",
    "PowerMeasurementTypes",
    "VDevice",
]
