"""openai-whisper's own .pt files: what torch.save makes of {"dims", "model_state_dict"}.

A .pt is a zip with a pickle in it, and a pickle can run code. It is read with torch's weights-only
unpickler, which knows nothing but tensors and plain containers.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whisper_toolchain.checkpoints.plain_text import is_plain_name, shown
from whisper_toolchain.checkpoints.state import Array, State
from whisper_toolchain.checkpoints.validation import require_dimensions
from whisper_toolchain.errors import CheckpointError
from whisper_toolchain.shape_plan import Dimensions

MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"


def read(path: Path, dims: Dimensions) -> State:
    """Read a .pt of openai-whisper, or one with nothing but its state dict, in the precision as stored.

    bfloat16 becomes float32.

    Raises:
        CheckpointError: code in the pickle, truncated or damaged, of other dimensions, or no state dict.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint's dictionary")
    tensors = content
    if "model_state_dict" in content:
        tensors = content["model_state_dict"]
        if "dims" in content:
            require_dimensions(_dimensions(content["dims"], dims, path), dims, path)
    if not isinstance(tensors, Mapping) or not tensors:
        raise CheckpointError(f"{path}: holds no state dict")
    size = path.stat().st_size
    return {_name(name, path): _as_array(name, tensor, size, path) for name, tensor in tensors.items()}


def _load(path: Path) -> Any:
    import torch  # seconds of import time, which only this container needs

    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch asks for bug reports about damaged bytes
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if re.search(r"Unsupported (global|class|operand)|unrecognized|not an allowed|blocklisted", text):
            name = re.search(r"GLOBAL (\S+)", text)
            code = f" ({shown(name[1])})" if name else ""
            raise CheckpointError(
                f"{path}: its pickle asks for code to be run{code}: refused, nothing of it was run; "
                "save a plain state dict instead"
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # the unpickler raises whatever the bytes provoke
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    lines = str(error).strip().splitlines()
    reason = shown(lines[0]) if lines else type(error).__name__
    return CheckpointError(f"{path}: not a readable torch checkpoint ({reason}): truncated or damaged, get it again")


def _check_archive(path: Path) -> None:
    """Refuse what torch would unpack to more than the file's size, and what is not its zip format."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
        if start.startswith(PICKLE_MAGIC):
            raise CheckpointError(
                f"{path}: a bare pickle, which can run code when it is read: refused; load it where you "
                "trust it and write its state dict with a current torch.save"
            )
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises struct.error, UnicodeDecodeError and more on damaged ones
        raise _damaged(path, error) from error
    if not any(member.filename.endswith("/data.pkl") for member in members):
        raise CheckpointError(f"{path}: a zip file, but not one that torch.save made")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path}: a compressed zip file, which torch.save does not make: refused")
    if sum(member.file_size for member in members) > size:
        raise CheckpointError(f"{path}: a zip file that says it holds more than it can: refused")


def _dimensions(value: Any, dims: Dimensions, path: Path) -> dict[str, int]:
    fields = dims.as_dict()
    if not isinstance(value, Mapping) or any(type(value.get(field)) is not int for field in fields):
        raise CheckpointError(f"{path}: its dims are not openai-whisper's ten numbers")
    return {field: value[field] for field in fields}


def _name(name: Any, path: Path) -> str:
    if not is_plain_name(name):
        raise CheckpointError(f"{path}: the state dict has a key {shown(repr(name))}, not a tensor's name")
    return str(name)


def _as_array(name: str, tensor: Any, file_size: int, path: Path) -> Array:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(f"{path}: {name} is not a plain tensor")
    if tensor.dtype not in (torch.float16, torch.float32, torch.bfloat16):
        raise CheckpointError(f"{path}: {name} is {tensor.dtype}, needs float16 or float32 weights")
    # Strides and sizes come from the pickle: a few bytes could claim to be terabytes.
    if max(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()) > file_size:
        raise CheckpointError(f"{path}: {name} says it is larger than the whole file: damaged, get it again")
    tensor = tensor.detach()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
    return array
