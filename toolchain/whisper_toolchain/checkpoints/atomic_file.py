"""A checkpoint's file is written as a whole or not at all."""

from collections.abc import Iterable
from pathlib import Path

from whisper_runtime import atomic_file

from whisper_toolchain.errors import CheckpointError


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` as `atomic_file` does.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    try:
        atomic_file.write_atomically(path, chunks)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
