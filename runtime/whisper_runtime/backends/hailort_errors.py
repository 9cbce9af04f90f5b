"""HailoRT's failures as errors of ours: what is wrong, and what to do."""

import importlib
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
    one_line,
)
from whisper_runtime.hailort_status import (
    DEVICE_IN_USE,
    DRIVER_NOT_INSTALLED,
    DRIVER_TIMEOUT,
    DRIVER_VERSION,
    HEF_CORRUPTED,
    HEF_NOT_FOR_DEVICE,
    HEF_NOT_SUPPORTED,
    INVALID_HEF,
    OUT_OF_PHYSICAL_DEVICES,
    SERVICE_UNREACHABLE,
    TIMEOUT,
    status_of,
)
from whisper_runtime.hef import Hef
from whisper_runtime.manifest import Manifest
from whisper_runtime.versions import hailort_for_dfc, hailort_major_for_arch, is_known_to_run_on, parse_version


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
        text = one_line(error).rstrip(".")
        look = "" if "hailort.log" in text else "look into hailort.log, or "  # HailoRT's own texts often say so
        number = f" status {status}" if status is not None else ""
        return BackendError(f"{doing}: HailoRT{number}: {text}: {look}run 'whisper-runtime doctor'")

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
        if status == HEF_CORRUPTED:
            return HefError(f"{hef.path}: HailoRT finds it corrupt (status 91): copy or build the bundle again")
        fits = device is not None and is_known_to_run_on(hef.architecture, device)
        needed = hailort_major_for_arch(hef.architecture)
        if fits and parse_version(self._version)[0] != needed:
            return HefError(
                f"{hef.path}: compiled for {hef.architecture}, which HailoRT {self._version} cannot run (status "
                f"{status}), though the device here is {device}: install HailoRT {needed}.x with its driver"
            )
        if not fits and (status == HEF_NOT_FOR_DEVICE or (status == INVALID_HEF and device is not None)):
            return self._wrong_architecture(hef, device)
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


def _unfit(error: Exception) -> NotInstalledError:
    return NotInstalledError(
        f"HailoRT's Python package cannot be loaded: {one_line(error)}: its Python wheel, the HailoRT library and "
        "this Python must be of one version; install them again from the same release"
    )
