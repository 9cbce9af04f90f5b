"""HailoRT's failures as errors of ours: what is wrong, and what to do.

HailoRT has classes for a few failures and one with the status in its text for all others; some calls raise the bare
status. So everything is told by the number. The numbers are the same from HailoRT 4.20 to 5.2; 4.20 has none above
90 and says 26 where later ones say 91, 92 or 93.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from whisper_runtime.errors import (
    BackendError,
    DeviceInUseError,
    DeviceTimeoutError,
    DriverError,
    HefError,
    NoDeviceError,
    NotInstalledError,
    WhisperError,
    WrongArchitectureError,
)
from whisper_runtime.hef import Hef
from whisper_runtime.manifest import Manifest
from whisper_runtime.versions import hailort_for_dfc, hef_runs_on

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

_STATUS_IN_TEXT = re.compile(r"error: (\d+)")
# These say nothing but prose.
_STATUS_OF_CLASS = {
    "HailoRTInvalidArgumentException": 2,
    "HailoRTTimeout": TIMEOUT,
    "HailoRTInvalidOperationException": 6,
    "HailoRTInvalidHEFException": INVALID_HEF,
    "HailoRTDriverOperationFailedException": 36,
    "HailoRTNotFoundException": 61,
    "HailoCommunicationClosedException": 62,
    "HailoRTStreamAborted": 63,
    "HailoRTHEFNotCompatibleWithDevice": HEF_NOT_FOR_DEVICE,
}


def import_hailort() -> Any:
    """Import the vendor's package.

    Raises:
        NotInstalledError: it is not there, or its parts do not fit together.
    """
    try:
        return importlib.import_module("hailo_platform")
    except ModuleNotFoundError as error:
        if error.name != "hailo_platform":
            raise _unfit(error) from error
        raise NotInstalledError(
            "HailoRT's Python package (hailo_platform) is not installed here: install the HailoRT wheel of the "
            "vendor's developer zone into this environment, or make this one with --system-site-packages"
        ) from error
    except Exception as error:  # ImportError by version mismatch, and an exception of its own by a missing library
        raise _unfit(error) from error


def status_of(error: BaseException) -> int | None:
    """Return HailoRT's status of an exception, or None if it carries none."""
    text = one_line(error)
    if text.isdecimal():
        return int(text)
    if match := _STATUS_IN_TEXT.search(text):
        return int(match.group(1))
    return _STATUS_OF_CLASS.get(type(error).__name__)


def one_line(error: BaseException) -> str:
    """Return an exception's text on one line, cut at 300 characters, or its class if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class HailoErrors:
    """Translates what HailoRT raises while a bundle is opened or run.

    Args:
        hailo_platform: the vendor's package.
        manifest: of the bundle, for its name and architecture.
        share_device: whether the device is asked for as a shared one.
    """

    def __init__(self, hailo_platform: Any, manifest: Manifest, share_device: bool) -> None:
        self._hailo_platform = hailo_platform
        self._version = str(hailo_platform.__version__)
        self._manifest = manifest
        self._share_device = share_device

    @contextmanager
    def during(
        self, doing: str, hef: Hef | None = None, device: Callable[[], str | None] = lambda: None
    ) -> Iterator[None]:
        """Raise our error for whatever the calls inside raise.

        Args:
            doing: what was tried, such as "running the encoder"; starts the message.
            hef: the file that HailoRT is reading or loading, if it is.
            device: gives the architecture of the device that it is loaded on, None if unknown. Asked after a
                failure only.

        Raises:
            HefError: HailoRT refuses the HEF.
            BackendError: every other failure, as the subclass that fits.
        """
        try:
            yield
        except WhisperError:
            raise
        except Exception as error:  # HailoRT 4 raises classes without a common base
            raise self._translate(error, doing, hef, device) from error

    def _translate(
        self, error: Exception, doing: str, hef: Hef | None, device: Callable[[], str | None]
    ) -> WhisperError:
        status = status_of(error)
        if hef is not None and status in (INVALID_HEF, HEF_CORRUPTED, HEF_NOT_SUPPORTED, HEF_NOT_FOR_DEVICE):
            return self._hef_error(hef, status, device())
        if status in (TIMEOUT, DRIVER_TIMEOUT):
            return DeviceTimeoutError(
                f"{doing}: the Hailo device did not answer in time (HailoRT status {status}): open the bundle again; "
                "if it happens again, reboot and look into hailort.log and 'sudo dmesg | grep hailo'"
            )
        if status == DRIVER_NOT_INSTALLED:
            return DriverError(
                f"{doing}: the Hailo driver is not loaded (HailoRT status 64): install the driver package of HailoRT "
                f"{self._version} and reboot; 'lsmod | grep hailo' must then list it"
            )
        if status in DRIVER_VERSION:
            return DriverError(
                f"{doing}: the Hailo driver does not fit HailoRT {self._version} (status {status}): install the "
                "driver package of the same version and reboot; 'sudo dmesg | grep hailo' shows the driver's"
            )
        if status == DEVICE_IN_USE or (status == OUT_OF_PHYSICAL_DEVICES and self._devices()):
            return self._in_use(doing, status)
        if status == OUT_OF_PHYSICAL_DEVICES:
            return NoDeviceError(
                f"{doing}: no Hailo device found (HailoRT status 74): check that 'lspci | grep Hailo' and "
                "'ls /dev/hailo*' list it; with the first only, the driver is not loaded"
            )
        if self._share_device and status in SERVICE_UNREACHABLE:
            return BackendError(
                f"{doing}: HailoRT's service does not answer (status {status}), and sharing the device needs it: "
                "'sudo systemctl enable --now hailort.service', or run without --share-device"
            )
        text = f"HailoRT status {status}: {one_line(error)}" if status is not None else f"HailoRT: {one_line(error)}"
        return BackendError(f"{doing}: {text}: look into hailort.log, or run 'whisper-runtime doctor'")

    def _in_use(self, doing: str, status: int) -> DeviceInUseError:
        advice = (
            "the other program must share it too"
            if self._share_device
            else "close that program, or let both share the device (--share-device)"
        )
        return DeviceInUseError(
            f"{doing}: another process holds the Hailo device (HailoRT status {status}): {advice}; "
            "'sudo fuser -v /dev/hailo0' shows which it is"
        )

    def _hef_error(self, hef: Hef, status: int, device: str | None) -> WhisperError:
        if status == HEF_NOT_FOR_DEVICE or (status == INVALID_HEF and device and not _runs(hef.architecture, device)):
            return self._wrong_architecture(hef, device)
        if status == HEF_CORRUPTED:
            return HefError(f"{hef.path}: HailoRT finds it corrupt (status 91): copy or build the bundle again")
        made_by = f"DFC {hef.sdk_version}" if hef.sdk_version else "an unknown DFC"
        try:
            fitting = hailort_for_dfc(hef.sdk_version)
        except ValueError:  # the file does not name its compiler
            fitting = None
        advice = (
            f"use HailoRT {fitting}, which goes with it"
            if fitting and not self._version.startswith(f"{fitting}.")
            else "build the bundle with the DFC that goes with this HailoRT"
        )
        return HefError(
            f"{hef.path}: HailoRT {self._version} does not accept it (status {status}); it was compiled by {made_by} "
            f"for {hef.architecture}: {advice}"
        )

    def _wrong_architecture(self, hef: Hef, device: str | None) -> WrongArchitectureError:
        message = f"{hef.path}: compiled for {hef.architecture}, but the device here is "
        if device is None:
            return WrongArchitectureError(
                f"{message}another: 'hailortcli fw-control identify' names it; use a bundle made for that"
            )
        name = f"{self._manifest.name.removesuffix(self._manifest.arch)}{device}"
        return WrongArchitectureError(f"{message}{device}: use the bundle {name}")

    def _devices(self) -> list[str]:
        try:
            return list(self._hailo_platform.Device.scan())
        except Exception:  # only refines a failure that is reported anyway
            return []


def _runs(architecture: str, device: str) -> bool:
    try:
        return hef_runs_on(architecture, device)
    except ValueError:  # a device that our compilers know nothing of
        return False


def _unfit(error: Exception) -> NotInstalledError:
    return NotInstalledError(
        f"HailoRT's Python package cannot be loaded: {one_line(error)}: its Python wheel, the HailoRT library and "
        "this Python must be of one version; install them again from the same release"
    )
