"""One precision for a whole state dict, so that equal weights are equal whatever container they came in."""

import numpy as np

from whisper_toolchain.checkpoints.state import Array, State


def from_bfloat16(bits: Array) -> Array:
    """float32 values of an array of uint16 that holds bfloat16: the upper half of a float32."""
    widened: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return widened


def uniform(state: State) -> State:
    """Make all tensors float16 if that loses nothing, else all float32; contiguous, writable, sorted by name.

    Containers differ: GGML keeps biases in float32, Hugging Face the whole of a checkpoint that was trained
    in float16. All four official checkpoints come out as float16.
    """
    dtype = np.float16 if all(_is_float16(tensor) for tensor in state.values()) else np.float32
    return {name: _as(state[name], dtype) for name in sorted(state)}


def _is_float16(tensor: Array) -> bool:
    if tensor.dtype == np.float16:
        return True
    with np.errstate(over="ignore"):
        return bool(np.array_equal(tensor.astype(np.float16).astype(np.float32), tensor))


def _as(tensor: Array, dtype: type[np.floating]) -> Array:
    converted = np.ascontiguousarray(tensor, dtype=dtype).reshape(tensor.shape)
    return converted if converted.flags.writeable else converted.copy()
