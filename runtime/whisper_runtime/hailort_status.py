"""HailoRT's statuses, which one an exception of its Python package (hailo_platform) stands for, and its drivers.

HailoRT has classes for a few failures and one with the status in its text for all others; some calls raise the bare
status. So everything is told by the number. The numbers are the same from HailoRT 4.20 to 5.2; 4.20 has none above
90 and says 26 where later ones say 91, 92 or 93.

Needs no package: `whisper_runtime.doctor` imports it where some are missing.
"""

import re

from whisper_runtime.errors import one_line
from whisper_runtime.versions import parse_version

DRIVERS = ("hailo_pci", "hailo1x_pci")  # kernel modules: of HailoRT 4, of HailoRT 5

TIMEOUT = 4
INVALID_HEF = 26
DRIVER_NOT_INSTALLED = 64
DEVICE_IN_USE = 73
OUT_OF_PHYSICAL_DEVICES = 74
DRIVER_VERSION = (76, 85, 86)  # another version, or an answer that only another version gives
DRIVER_TIMEOUT = 87
SERVICE_UNREACHABLE = (62, 77, 78, 89)  # closed, call failed, other version, refused
HEF_CORRUPTED = 91
HEF_NOT_SUPPORTED = 92
HEF_NOT_FOR_DEVICE = 93

_IN_TEXT = re.compile(r"error: (\d+)")
# These say nothing but prose.
_OF_CLASS = {
    "HailoRTInvalidArgumentException": 2,
    "HailoRTTimeout": TIMEOUT,
    "HailoRTInvalidOperationException": 6,
    "HailoRTFirmwareControlFailedException": 18,
    "HailoRTInvalidHEFException": INVALID_HEF,
    "HailoRTDriverOperationFailedException": 36,
    "HailoRTUnsupportedOpcodeException": 48,
    "HailoRTNotFoundException": 61,
    "HailoCommunicationClosedException": 62,
    "HailoRTStreamAborted": 63,
    "HailoRTHEFNotCompatibleWithDevice": HEF_NOT_FOR_DEVICE,
}


def status_of(error: BaseException) -> int | None:
    """Return HailoRT's status of an exception, or None if it carries none."""
    text = one_line(error)
    if text.isdecimal():
        return int(text)
    if match := _IN_TEXT.search(text):
        return int(match.group(1))
    return _OF_CLASS.get(type(error).__name__)


def driver_of(hailort: str) -> str:
    """Return the name of the kernel module that a HailoRT version, such as "4.23.0", talks to.

    Raises:
        ValueError: not a version.
    """
    return DRIVERS[0] if parse_version(hailort)[0] == 4 else DRIVERS[1]
