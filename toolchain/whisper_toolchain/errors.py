"""Errors of the toolchain: one line that says what is wrong, where, and what to do."""

from whisper_runtime.errors import DatasetError, EvaluationError, WhisperError

__all__ = [
    "CheckpointError",
    "CompileError",
    "DatasetError",
    "DownloadError",
    "EvaluationError",
    "ExportError",
    "RecipeError",
    "ShapePlanError",
    "StageError",
    "ToolchainError",
]


class ToolchainError(WhisperError):
    """Base of every error that the toolchain raises on purpose."""


class DownloadError(ToolchainError):
    """A file cannot be fetched, or what came is not what its digest promises."""


class CheckpointError(ToolchainError):
    """A checkpoint cannot be read, is unsafe to read, or does not have the variant's tensors."""


class ShapePlanError(ToolchainError):
    """Variant, architecture, window and sequence do not go together."""


class ExportError(ToolchainError):
    """The exported graphs differ from the model, or the model cannot be exported."""


class RecipeError(ToolchainError):
    """A quantisation recipe is malformed or names layers that do not exist."""


class CompileError(ToolchainError):
    """No compiler is available, or the one chosen failed."""


class StageError(ToolchainError):
    """A stage lacks the output of the stage before it, or cannot write its own."""
