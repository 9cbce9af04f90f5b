"""Errors of this room; like all of the project's, one line that says what is wrong, where, and what to do."""

from whisper_runtime.errors import WhisperError


class AppError(WhisperError):
    """The app cannot be changed, or was changed by somebody else."""


class UnknownLayoutError(AppError):
    """The app is not one that we know: a file or a symbol that we would change is missing or different."""


class ValidationError(AppError):
    """The app does not transcribe as it should."""
