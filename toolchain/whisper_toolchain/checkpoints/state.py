"""What a state dict is here: openai-whisper's tensor names, numpy arrays."""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
State: TypeAlias = dict[str, Array]


def tensor_digest(state: Mapping[str, Array]) -> str:
    """Digest of the weights themselves, whichever container and precision they are stored in.

    sha256, in hex, over the names in sorted order, for each: name, 0x00, shape joined by "x", 0x00, the
    values as little-endian float16 in C order. Weights that were trained in float32 are rounded for it.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name}\0{'x'.join(map(str, tensor.shape))}\0".encode())
        with np.errstate(over="ignore"):
            digest.update(np.ascontiguousarray(tensor, dtype="<f2").data)
    return digest.hexdigest()


def stored_digest(state: Mapping[str, Array]) -> str:
    """sha256 over names, shapes, dtypes and bytes as stored: sees a flipped bit that float16 rounds away."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name}\0{'x'.join(map(str, tensor.shape))}\0{tensor.dtype.name}\0".encode())
        digest.update(np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
