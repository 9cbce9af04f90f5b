"""The public classes Device and Control, and what they return.

Sources: bindings/platform/hailo_platform/pyhailort/pyhailort.py, bindings/src/device_api.cpp,
libhailort/src/device_common/device.cpp, control.cpp, control_soc.cpp.
"""

import gc
import struct
from enum import Enum, IntEnum
from typing import Any

from hailo_platform._fake import chip as chips
from hailo_platform._fake import config, faults
from hailo_platform._fake.exceptions import ExceptionWrapper, HailoRTException, HailoRTInvalidOperationException
from hailo_platform.pyhailort import _pyhailort
from hailo_platform.pyhailort._pyhailort import DvmTypes, PowerMeasurementTypes, TemperatureInfo


class DeviceArchitectureTypes(IntEnum):
    """Architectures of devices."""

    HAILO8_A0 = 0
    HAILO8 = 1
    HAILO8L = 2
    HAILO15H = 3
    HAILO15L = 4
    HAILO15M = 5
    HAILO10H = 6

    def __str__(self) -> str:
        return self.name


class HailoFirmwareMode(Enum):
    """Kind of a firmware build."""

    DEVELOP = "develop"
    RELEASE = "release"


class HailoFirmwareType(Enum):
    """Which processor a firmware is for."""

    CORE = "core"
    APP = "app"


class HailoFirmwareVersion:
    """Version of the firmware, printed as in "4.23.0 (release,app)"."""

    def __init__(self, buffer: bytes, is_release: bool, extended_context_switch_buffer: bool, fw_type: Any) -> None:
        self.major, self.minor, self.revision = struct.unpack("<III", buffer)
        self.mode = HailoFirmwareMode.RELEASE if is_release else HailoFirmwareMode.DEVELOP
        self.extended_context_switch_buffer = extended_context_switch_buffer
        self.fw_type = fw_type

    def __str__(self) -> str:
        extended = ",extended context switch buffer" if self.extended_context_switch_buffer else ""
        return f"{self.major}.{self.minor}.{self.revision} ({self.mode.value},{self.fw_type.value}{extended})"


class BoardInformation:
    """What identify() returns."""

    def __init__(self, architecture: str, firmware: str) -> None:
        name = {"HAILO8": "Hailo-8", "HAILO8L": "Hailo-8L", "HAILO10H": "Hailo-10H"}[architecture]
        self.protocol_version = 2
        self.firmware_version = HailoFirmwareVersion(
            struct.pack("<III", *config.numbers(firmware)), True, architecture == "HAILO8", HailoFirmwareType.APP
        )
        self.logger_version = 0
        self.board_name = name
        self.is_release = True
        self.device_architecture = DeviceArchitectureTypes[architecture]
        self.serial_number = "FAKE0000000001"
        self.part_number = "FAKE"
        self.product_name = f"FAKE {name}"


class NativeDevice:
    """The native half of a device."""

    def __init__(self, device_id: str) -> None:
        _pyhailort.require(isinstance(device_id, str), "device_id", device_id)
        faults.reach("Device.create")
        chips.check_openable(device_id)
        self._open = True

    def is_valid(self) -> bool:
        """Whether it was not released."""
        return self._open

    def release(self) -> None:
        """Close it."""
        self._open = False

    def identify(self) -> BoardInformation:
        """The firmware's answer."""
        faults.reach("Control.identify")
        return BoardInformation(chips.architecture(), config.device().get("firmware", config.VERSION))

    def get_chip_temperature(self) -> TemperatureInfo:
        """The firmware's answer."""
        faults.reach("Control.get_chip_temperature")
        return TemperatureInfo(*chips.chip_temperatures(), 1)

    def power_measurement(self, dvm: DvmTypes, measurement_type: PowerMeasurementTypes) -> float:
        """The firmware's answer to a single measurement. Only power of the default place, which all boards know."""
        _pyhailort.require(isinstance(dvm, DvmTypes), "power_measurement", dvm)
        _pyhailort.require(isinstance(measurement_type, PowerMeasurementTypes), "power_measurement", measurement_type)
        faults.reach("Control.power_measurement")
        if (dvm, measurement_type) != (DvmTypes.AUTO, PowerMeasurementTypes.POWER):
            raise AssertionError("the fake measures power with DvmTypes.AUTO only")
        return chips.power()


class Control:
    """Controls of a device; unusable once the Device object is gone, as after `Device().control`."""

    def __init__(self, device: NativeDevice) -> None:
        self.__device = device
        self._identify_info = self.identify()

    @property
    def _device(self) -> NativeDevice:
        if not self.__device.is_valid():
            raise HailoRTInvalidOperationException("the device was released, or its Device object is gone")
        return self.__device

    def identify(self) -> BoardInformation:
        """Architecture, firmware and names of the board."""
        with ExceptionWrapper():
            return self._device.identify()

    def power_measurement(
        self,
        dvm: DvmTypes = DvmTypes.AUTO,
        measurement_type: PowerMeasurementTypes = PowerMeasurementTypes.AUTO,
    ) -> float:
        """A single measurement; power in watts."""
        with ExceptionWrapper():
            return self._device.power_measurement(dvm, measurement_type)

    def get_chip_temperature(self) -> TemperatureInfo:
        """Temperatures in degrees Celsius."""
        with ExceptionWrapper():
            return self._device.get_chip_temperature()


class Device:
    """A device to control; opening it works while a VDevice has it. Its exceptions are not wrapped."""

    @classmethod
    def scan(cls) -> list[str]:
        """Ids of all devices."""
        faults.reach("Device.scan")
        return chips.scan()

    def __init__(self, device_id: str | None = None) -> None:
        gc.collect()
        self._device: NativeDevice | None = None
        if device_id is None:
            found = Device.scan()
            if len(found) == 0:
                raise HailoRTException("no HailoRT device found in the system")
            device_id = found[0]
        self._device_id = device_id
        self._device = NativeDevice(device_id)
        self._control_object = Control(self._device)

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *args: object) -> bool:
        self.release()
        return False

    def __del__(self) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"Device({self._device_id!r})"

    def release(self) -> None:
        """Close the device."""
        if self._device is not None:
            self._device.release()
            self._device = None

    @property
    def device_id(self) -> str:
        """Id of the device."""
        return self._device_id

    @property
    def control(self) -> Control:
        """Controls of the device."""
        return self._control_object
