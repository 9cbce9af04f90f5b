"""JSON that somebody else wrote."""

import json
from pathlib import Path
from typing import Any

from whisper_toolchain.checkpoints.plain_text import shown
from whisper_toolchain.errors import CheckpointError

MAX_BYTES = 1 << 24  # an index of shards takes some 100 kB


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises CheckpointError, also for nesting that would exhaust the stack."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not valid JSON ({shown(error)})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: not a JSON object")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(text) > MAX_BYTES:
        raise CheckpointError(f"{path}: larger than {MAX_BYTES} bytes, not a model's configuration")
    return parse_object(text, str(path))
