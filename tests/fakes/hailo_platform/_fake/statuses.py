"""The native library's status codes by name, and the exception that carries one."""

from hailo_platform._fake import config

# libhailort/include/hailo/hailort.h. 91 to 93 are known since 4.21, 94 and later since 5.
NAMES = [
    "SUCCESS",
    "UNINITIALIZED",
    "INVALID_ARGUMENT",
    "OUT_OF_HOST_MEMORY",
    "TIMEOUT",
    "INSUFFICIENT_BUFFER",
    "INVALID_OPERATION",
    "NOT_IMPLEMENTED",
    "INTERNAL_FAILURE",
    "DATA_ALIGNMENT_FAILURE",
    "CHUNK_TOO_LARGE",
    "INVALID_LOGGER_LEVEL",
    "CLOSE_FAILURE",
    "OPEN_FILE_FAILURE",
    "FILE_OPERATION_FAILURE",
    "UNSUPPORTED_CONTROL_PROTOCOL_VERSION",
    "UNSUPPORTED_FW_VERSION",
    "INVALID_CONTROL_RESPONSE",
    "FW_CONTROL_FAILURE",
    "ETH_FAILURE",
    "ETH_INTERFACE_NOT_FOUND",
    "ETH_RECV_FAILURE",
    "ETH_SEND_FAILURE",
    "INVALID_FIRMWARE",
    "INVALID_CONTEXT_COUNT",
    "INVALID_FRAME",
    "INVALID_HEF",
    "PCIE_NOT_SUPPORTED_ON_PLATFORM",
    "INTERRUPTED_BY_SIGNAL",
    "START_VDMA_CHANNEL_FAIL",
    "SYNC_VDMA_BUFFER_FAIL",
    "STOP_VDMA_CHANNEL_FAIL",
    "CLOSE_VDMA_CHANNEL_FAIL",
    "ATR_TABLES_CONF_VALIDATION_FAIL",
    "EVENT_CREATE_FAIL",
    "READ_EVENT_FAIL",
    "DRIVER_OPERATION_FAILED",
    "INVALID_FIRMWARE_MAGIC",
    "INVALID_FIRMWARE_CODE_SIZE",
    "INVALID_KEY_CERTIFICATE_SIZE",
    "INVALID_CONTENT_CERTIFICATE_SIZE",
    "MISMATCHING_FIRMWARE_BUFFER_SIZES",
    "INVALID_FIRMWARE_CPU_ID",
    "CONTROL_RESPONSE_MD5_MISMATCH",
    "GET_CONTROL_RESPONSE_FAIL",
    "GET_D2H_EVENT_MESSAGE_FAIL",
    "MUTEX_INIT_FAIL",
    "OUT_OF_DESCRIPTORS",
    "UNSUPPORTED_OPCODE",
    "USER_MODE_RATE_LIMITER_NOT_SUPPORTED",
    "RATE_LIMIT_MAXIMUM_BANDWIDTH_EXCEEDED",
    "ANSI_TO_UTF16_CONVERSION_FAILED",
    "UTF16_TO_ANSI_CONVERSION_FAILED",
    "UNEXPECTED_INTERFACE_INFO_FAILURE",
    "UNEXPECTED_ARP_TABLE_FAILURE",
    "MAC_ADDRESS_NOT_FOUND",
    "NO_IPV4_INTERFACES_FOUND",
    "SHUTDOWN_EVENT_SIGNALED",
    "THREAD_ALREADY_ACTIVATED",
    "THREAD_NOT_ACTIVATED",
    "THREAD_NOT_JOINABLE",
    "NOT_FOUND",
    "COMMUNICATION_CLOSED",
    "STREAM_ABORT",
    "DRIVER_NOT_INSTALLED",
    "NOT_AVAILABLE",
    "TRAFFIC_CONTROL_FAILURE",
    "INVALID_SECOND_STAGE",
    "INVALID_PIPELINE",
    "NETWORK_GROUP_NOT_ACTIVATED",
    "VSTREAM_PIPELINE_NOT_ACTIVATED",
    "OUT_OF_FW_MEMORY",
    "STREAM_NOT_ACTIVATED",
    "DEVICE_IN_USE",
    "OUT_OF_PHYSICAL_DEVICES",
    "INVALID_DEVICE_ARCHITECTURE",
    "INVALID_DRIVER_VERSION",
    "RPC_FAILED",
    "INVALID_SERVICE_VERSION",
    "NOT_SUPPORTED",
    "NMS_BURST_INVALID_DATA",
    "OUT_OF_HOST_CMA_MEMORY",
    "QUEUE_IS_FULL",
    "DMA_MAPPING_ALREADY_EXISTS",
    "CANT_MEET_BUFFER_REQUIREMENTS",
    "DRIVER_INVALID_RESPONSE",
    "DRIVER_INVALID_IOCTL",
    "DRIVER_TIMEOUT",
    "DRIVER_INTERRUPTED",
    "CONNECTION_REFUSED",
    "DRIVER_WAIT_CANCELED",
    "HEF_FILE_CORRUPTED",
    "HEF_NOT_SUPPORTED",
    "HEF_NOT_COMPATIBLE_WITH_DEVICE",
    "INVALID_HEF_USE",
    "OPERATION_ABORTED",
    "DEVICE_NOT_CONNECTED",
    "DEVICE_TEMPORARILY_UNAVAILABLE",
]
CODES = {name: code for code, name in enumerate(NAMES)}


class HailoRTException(Exception):
    """The native half's base of exceptions; the public one only since 5.0. bindings/src/pyhailort.cpp."""


class HailoRTStatusException(HailoRTException if config.RELEASE >= (5, 0) else Exception):
    """A native call failed; its text is the status as a number.

    Most public calls turn it into an exception of their own; Device.scan, Device() and the stream infos of HEF do not.
    Before 5.0 it is then no HailoRTException.
    """


def failure(status: int | str) -> HailoRTStatusException:
    """The exception for a status, given by number or name."""
    return HailoRTStatusException(str(CODES[status] if isinstance(status, str) else status))


def check(condition: bool, status: str) -> None:
    """Raise the status unless the condition holds."""
    if not condition:
        raise failure(status)


def message(status: int) -> str:
    """Name of a status; empty for a number that this version does not know."""
    known = 97 if config.RELEASE >= (5, 0) else 93 if config.RELEASE >= (4, 21) else 90
    return f"HAILO_{NAMES[status]}" if 0 <= status <= known else ""
