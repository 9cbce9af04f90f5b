"""The native half as the package sees it: enumerations, plain records and exceptions. bindings/src/pyhailort.cpp."""

import enum
from dataclasses import dataclass
from typing import Any

from hailo_platform._fake import config
from hailo_platform._fake.hef import StreamInfo
from hailo_platform._fake.statuses import HailoRTException, HailoRTStatusException
from hailo_platform._fake.statuses import message as get_status_message

__version__ = config.VERSION
__all__ = ["HailoRTException", "HailoRTStatusException", "get_status_message"]


class NativeEnum(enum.Enum):
    """An enumeration of the binding: equal to its number, printed by name, and no number itself."""

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NativeEnum):
            return type(other) is type(self) and other.value == self.value
        return self.value == other

    def __hash__(self) -> int:
        return hash(self.value)

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class FormatType(NativeEnum):
    """Type of the values in a user's buffer."""

    AUTO = 0
    UINT8 = 1
    UINT16 = 2
    FLOAT32 = 3


class FormatOrder(NativeEnum):
    """Order of the dimensions; the fake's streams are all NHWC."""

    AUTO = 0
    NHWC = 1
    NHCW = 2
    NHW = 5
    NC = 6
    NCHW = 11


class FormatFlags(NativeEnum):
    """Flags of a format."""

    NONE = 0
    TRANSPOSED = 2


class SchedulingAlgorithm(NativeEnum):
    """Who decides which model runs."""

    NONE = 0
    ROUND_ROBIN = 1


class StreamDirection(NativeEnum):
    """To the device or from it."""

    H2D = 0
    D2H = 1


class DvmTypes(NativeEnum):
    """Where on a board power is measured. Most places exist on evaluation boards of Hailo-8 only."""

    VDD_CORE = 0
    OVERCURRENT_PROTECTION = 9
    AUTO = 0x7FFFFFFF


class PowerMeasurementTypes(NativeEnum):
    """What is measured there: millivolts, watts, milliamperes."""

    SHUNT_VOLTAGE = 0
    BUS_VOLTAGE = 1
    POWER = 2
    CURRENT = 3
    AUTO = 0x7FFFFFFF


@dataclass
class HailoFormat:
    """Type, order and flags of a stream's values. A copy: writing to it changes nothing."""

    type: FormatType
    order: FormatOrder = FormatOrder.NHWC
    flags: FormatFlags = FormatFlags.NONE


@dataclass
class QuantInfo:
    """value = (number - qp_zp) * qp_scale."""

    qp_zp: float = 0.0
    qp_scale: float = 0.0
    limvals_min: float = 0.0
    limvals_max: float = 0.0


@dataclass(frozen=True)
class VStreamInfo:
    """What a HEF says of a stream."""

    name: str
    network_name: str
    direction: StreamDirection
    format: HailoFormat
    quant_info: QuantInfo
    shape: tuple[int, ...]

    def __repr__(self) -> str:
        return f'VStreamInfo("{self.name}")'


@dataclass(frozen=True)
class TemperatureInfo:
    """Degrees Celsius of the two sensors, and a running count."""

    ts0_temperature: float
    ts1_temperature: float
    sample_count: int


class VDeviceParams:
    """Parameters of a VDevice; a value of the wrong type raises TypeError when it is set."""

    def __init__(self) -> None:
        self._device_ids: list[str] | None = None
        self._device_count = 1
        self._scheduling = SchedulingAlgorithm.ROUND_ROBIN
        self._group_id = "UNIQUE"
        self._service = False

    @classmethod
    def default(cls) -> "VDeviceParams":
        """The library's defaults, but no scheduler before 5.0."""
        params = cls()
        params._scheduling = default_scheduling()
        return params

    @property
    def device_ids(self) -> list[str]:
        """Ids to open; empty for any."""
        return list(self._device_ids or [])

    @device_ids.setter
    def device_ids(self, value: list[str]) -> None:
        require(isinstance(value, list) and all(isinstance(item, str) for item in value), "device_ids", value)
        self._device_ids, self._device_count = list(value), len(value)

    @property
    def device_count(self) -> int:
        """How many devices to open."""
        return self._device_count

    @device_count.setter
    def device_count(self, value: int) -> None:
        self._device_count = unsigned(value, 32)

    @property
    def scheduling_algorithm(self) -> int:
        """A number when it is read, SchedulingAlgorithm when it is set."""
        return self._scheduling.value

    @scheduling_algorithm.setter
    def scheduling_algorithm(self, value: SchedulingAlgorithm) -> None:
        require(isinstance(value, SchedulingAlgorithm), "scheduling_algorithm", value)
        self._scheduling = value

    @property
    def group_id(self) -> str:
        """VDevices of one process with the same group share a device, unless it is UNIQUE."""
        return self._group_id

    @group_id.setter
    def group_id(self, value: str) -> None:
        require(isinstance(value, str), "group_id", value)
        self._group_id = value

    @property
    def multi_process_service(self) -> bool:
        """Work through the vendor's service."""
        return self._service

    @multi_process_service.setter
    def multi_process_service(self, value: bool) -> None:
        require(isinstance(value, bool), "multi_process_service", value)
        self._service = value


def default_scheduling() -> SchedulingAlgorithm:
    """bindings/src/pyhailort.cpp and vdevice_api.hpp: the bindings of 4.x turn the scheduler off."""
    return SchedulingAlgorithm.ROUND_ROBIN if config.RELEASE >= (5, 0) else SchedulingAlgorithm.NONE


def require(condition: bool, what: str, value: Any) -> None:
    """TypeError, as the binding raises for an argument of a type that it cannot convert."""
    if not condition:
        raise TypeError(f"{what}: incompatible function arguments. Invoked with: {value!r}")


def unsigned(value: Any, bits: int) -> int:
    """An argument of an unsigned type."""
    require(not isinstance(value, float) and hasattr(value, "__index__"), f"uint{bits}", value)
    number = value.__index__()
    require(0 <= number < 2**bits, f"uint{bits}", value)
    return number


def stream_info(stream: StreamInfo) -> VStreamInfo:
    """The record of a stream in a HEF."""
    return VStreamInfo(
        name=stream.name,
        network_name=f"{stream.network_group}/{stream.network_group}",
        direction=StreamDirection.H2D if stream.is_input else StreamDirection.D2H,
        format=HailoFormat(FormatType(stream.bytes_per_value)),
        quant_info=quant_info(stream),
        shape=stream.shape,
    )


def quant_info(stream: StreamInfo) -> QuantInfo:
    """Scale and zero point of a stream."""
    return QuantInfo(stream.zero_point, stream.scale, *stream.limits)
