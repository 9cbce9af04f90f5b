"""Errors that a user can act on.

Every message is one line that says what is wrong, where, and what to do. Library code raises these and
never exits; the command lines turn them into one line on stderr and a non-zero status.
"""


class WhisperError(Exception):
    """Base of every error that this project raises on purpose."""


class AudioError(WhisperError):
    """A recording cannot be read, or holds something that is not speech-like audio (empty, NaN, ...)."""


class TokenizerError(WhisperError):
    """The vocabulary file is missing, damaged, or not the one that the model was trained with."""


class BundleError(WhisperError):
    """A bundle is incomplete, changed since it was written, or of a schema that this version cannot read."""


class DatasetError(WhisperError):
    """Speech to measure on is missing or unusable."""


class EvaluationError(WhisperError):
    """An evaluation that cannot be made, or whose results cannot be kept or read."""


class BackendError(WhisperError):
    """The accelerator or its emulation cannot be used, or was handed something of the wrong shape or type."""


class HefError(WhisperError):
    """A HEF is damaged, truncated, no HEF at all, or compiled for something else."""


class NotInstalledError(BackendError):
    """HailoRT's Python package is missing, or its parts do not fit together."""


class DriverError(BackendError):
    """The device's kernel driver is missing or has another version than HailoRT."""


class NoDeviceError(BackendError):
    """There is no accelerator, or none that is free."""


class DeviceInUseError(BackendError):
    """Another process holds the accelerator."""


class WrongArchitectureError(BackendError):
    """The bundle was compiled for another accelerator than the one that is here."""


class DeviceTimeoutError(BackendError):
    """The accelerator did not answer in time."""


def one_line(error: BaseException) -> str:
    """Return an exception's text on one line, cut at 300 characters, or its class if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
