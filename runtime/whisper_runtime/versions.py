"""Which versions of the vendor's tools fit together. The one table; runtime and toolchain both read it.

The Dataflow Compiler (DFC) makes HEFs on a host, HailoRT runs them on a device.
"""

import re

# HailoRT release that each DFC release came out with.
_HAILORT_OF_DFC_3 = {(3, 30): "4.20", (3, 31): "4.21", (3, 32): "4.22", (3, 33): "4.23"}
# DFC 5 and HailoRT 5 are released together under the same number. HailoRT 5 refuses a HEF that asks for strict
# versions unless major and minor agree.
_FIRST_JOINT_MAJOR = 5

# Oldest DFC of the major version that compiles for an architecture.
_OLDEST_DFC = {
    "hailo8": (3, 31),
    "hailo8l": (3, 31),
    "hailo8r": (3, 31),
    "hailo10h": (5, 0),
    "hailo15h": (5, 0),
}
_HAILORT_MAJOR_OF_DFC_MAJOR = {3: 4, 5: 5}

# Architectures of HEFs that a device runs, its own first. The smaller chip's HEFs run on the larger one, never the
# other way round. HailoRT reads one number for Hailo-10H and Hailo-15H.
_HEFS_OF_DEVICE = {
    "hailo8": ("hailo8", "hailo8r", "hailo8l"),
    "hailo8l": ("hailo8l",),
    "hailo10h": ("hailo10h", "hailo15h"),
    "hailo15h": ("hailo15h", "hailo10h"),
}

_VERSION = re.compile(r"\s*v?(\d+)\.(\d+)(?:\.(\d+))?(?![\d])")


def parse_version(text: str) -> tuple[int, int, int]:
    """Return (major, minor, revision) of a version such as "4.20.0", "v3.33" or "5.1.0+local".

    A missing revision is 0; what follows the numbers is ignored.

    Raises:
        ValueError: the text does not start with at least `major.minor`.
    """
    match = _VERSION.match(text)
    if match is None:
        raise ValueError(f"'{text}' is not a version such as 4.20.0")
    major, minor, revision = match.groups(default="0")
    return int(major), int(minor), int(revision)


def hailort_for_dfc(dfc: str) -> str | None:
    """Return the HailoRT release (major.minor) that a DFC version was made for, or None where that is not known.

    Raises:
        ValueError: `dfc` is not a version.
    """
    major, minor, _ = parse_version(dfc)
    if major == _FIRST_JOINT_MAJOR:
        return f"{major}.{minor}"
    return _HAILORT_OF_DFC_3.get((major, minor))


def dfc_fits_arch(dfc: str, arch: str) -> bool:
    """Whether a DFC version compiles for an architecture: 3.31 and later 3.x for Hailo-8, 5.x for Hailo-10H.

    Raises:
        ValueError: `dfc` is not a version, or `arch` is unknown.
    """
    major, minor, _ = parse_version(dfc)
    oldest = _oldest_dfc(arch)
    return major == oldest[0] and (major, minor) >= oldest


def dfc_for_arch(arch: str) -> str:
    """Return which DFC versions compile for an architecture, for messages: "3.x, from 3.31 on" or "5.x".

    Raises:
        ValueError: `arch` is unknown.
    """
    major, minor = _oldest_dfc(arch)
    return f"{major}.x, from {major}.{minor} on" if minor else f"{major}.x"


def hailort_major_for_arch(arch: str) -> int:
    """Return the major version of HailoRT that drives an architecture: 4 for Hailo-8, 5 for Hailo-10H.

    Raises:
        ValueError: `arch` is unknown.
    """
    return _HAILORT_MAJOR_OF_DFC_MAJOR[_oldest_dfc(arch)[0]]


def hef_runs_on(hef: str, device: str) -> bool:
    """Whether a HEF compiled for one architecture runs on a device of another, such as "hailo8l" on "hailo8".

    Raises:
        ValueError: `device` is unknown.
    """
    if device not in _HEFS_OF_DEVICE:
        raise ValueError(f"unknown device '{device}': known are {', '.join(_HEFS_OF_DEVICE)}")
    return hef in _HEFS_OF_DEVICE[device]


def is_known_to_run_on(hef: str, device: str) -> bool:
    """As `hef_runs_on`, but False for a device that our compilers know nothing of."""
    return device in _HEFS_OF_DEVICE and hef_runs_on(hef, device)


def _oldest_dfc(arch: str) -> tuple[int, int]:
    if arch not in _OLDEST_DFC:
        raise ValueError(f"unknown architecture '{arch}': choose one of {', '.join(_OLDEST_DFC)}")
    return _OLDEST_DFC[arch]
