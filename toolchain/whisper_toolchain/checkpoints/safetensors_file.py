"""Safetensors files as numpy arrays, bfloat16 included."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from whisper_toolchain.checkpoints.plain_text import is_plain_name, shown
from whisper_toolchain.checkpoints.precision import from_bfloat16
from whisper_toolchain.checkpoints.state import State
from whisper_toolchain.errors import CheckpointError

_DTYPES = {"F16": "<f2", "F32": "<f4", "BF16": "<u2"}


def read_safetensors(path: Path) -> State:
    """All tensors of a file: float16 and float32 as stored, bfloat16 as float32.

    Raises:
        CheckpointError: truncated or damaged, or a tensor that is not floating point.
    """
    try:
        entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: truncated or damaged safetensors file ({shown(error)}), get it again"
        ) from error
    state: State = {}
    for name, entry in entries:
        if not is_plain_name(name):
            raise CheckpointError(f"{path}: a tensor is called {shown(name)!r}: damaged, get it again")
        if entry["dtype"] not in _DTYPES:
            raise CheckpointError(f"{path}: {name} is {entry['dtype']}, needs float16 or float32 weights")
        values = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        state[name] = from_bfloat16(values) if entry["dtype"] == "BF16" else values
    return state


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a file's header. Raises CheckpointError."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: truncated or damaged safetensors file ({shown(error)}), get it again"
        ) from error
