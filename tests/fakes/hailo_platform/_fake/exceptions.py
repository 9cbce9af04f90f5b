"""The public exceptions, and which status becomes which. bindings/platform/hailo_platform/pyhailort/pyhailort.py."""

from typing import Any

from hailo_platform._fake import config, statuses

if config.RELEASE >= (5, 0):
    HailoRTException = statuses.HailoRTException
else:

    class HailoRTException(Exception):
        """Base of the public exceptions; before 5.0 the native half's exceptions are not among them."""


class InvalidProtocolVersionException(HailoRTException):
    """15."""


class HailoRTFirmwareControlFailedException(HailoRTException):
    """18."""


class HailoRTEthException(HailoRTException):
    """19."""


class HailoRTInvalidFrameException(HailoRTException):
    """25."""


class HailoRTInvalidHEFException(HailoRTException):
    """26."""


class HailoRTDriverOperationFailedException(HailoRTException):
    """36."""


class HailoRTUnsupportedOpcodeException(HailoRTException):
    """48."""


class HailoRTTimeout(HailoRTException):
    """4."""


class HailoRTInvalidArgumentException(HailoRTException):
    """2."""


class HailoRTInvalidOperationException(HailoRTException):
    """6."""


class HailoRTNotFoundException(HailoRTException):
    """61."""


class HailoCommunicationClosedException(HailoRTException):
    """62."""


class HailoRTStreamAborted(HailoRTException):
    """63."""


class HailoRTStreamAbortedByUser(HailoRTException):
    """Raised by nothing that is faked."""


class HailoRTNetworkGroupNotActivatedException(HailoRTException):
    """69."""


class HailoStatusInvalidValueException(Exception):
    """The native half returned a number that is no status of this version."""


HailoRTPCIeDriverException = HailoRTDriverOperationFailedException

# The class of an exception; its text names no number. Any other status is a HailoRTException with the number.
TYPED = {
    2: HailoRTInvalidArgumentException,
    4: HailoRTTimeout,
    6: HailoRTInvalidOperationException,
    15: InvalidProtocolVersionException,
    18: HailoRTFirmwareControlFailedException,
    19: HailoRTEthException,
    25: HailoRTInvalidFrameException,
    26: HailoRTInvalidHEFException,
    36: HailoRTDriverOperationFailedException,
    48: HailoRTUnsupportedOpcodeException,
    61: HailoRTNotFoundException,
    62: HailoCommunicationClosedException,
    63: HailoRTStreamAborted,
    69: HailoRTNetworkGroupNotActivatedException,
}
if config.RELEASE >= (4, 21):

    class HailoRTHEFNotCompatibleWithDevice(HailoRTException):
        """93."""

    TYPED[93] = HailoRTHEFNotCompatibleWithDevice
if config.RELEASE < (5, 0):

    class UdpRecvError(HailoRTException):
        """21."""

    TYPED[21] = UdpRecvError


class ExceptionWrapper:
    """Turns a status into the public exception."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        if kind is statuses.HailoRTStatusException:
            raise self.create_exception_from_status(int(error.args[0])) from error

    @staticmethod
    def create_exception_from_status(error_code: int) -> Exception:
        """The public exception of a status."""
        name = get_status_message(error_code)
        if error_code in TYPED:
            # The real texts say the same in other words, and like these no number.
            return TYPED[error_code](f"{name.removeprefix('HAILO_').replace('_', ' ').lower()}. See hailort.log")
        return HailoRTException(f"libhailort failed with error: {error_code} ({name})")


def get_status_message(status_code: int) -> str:
    """Name of a status, such as HAILO_TIMEOUT."""
    name = statuses.message(status_code)
    if name == "":
        raise HailoStatusInvalidValueException(f"Value {status_code} is not a valid status")
    return name


__all__ = ["ExceptionWrapper", "get_status_message"]
__all__ += [name for name, kind in globals().items() if isinstance(kind, type) and issubclass(kind, Exception)]
