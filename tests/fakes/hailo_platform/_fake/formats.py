"""Conversion between a user's buffer and the numbers on the chip.

Sources: libhailort/include/hailo/quantization.hpp, libhailort/src/transform/transform.cpp (which conversions exist).
"""

import numpy as np

from hailo_platform._fake.hef import StreamInfo
from hailo_platform._fake.statuses import check

AUTO, UINT8, UINT16, FLOAT32 = 0, 1, 2, 3
DTYPES = {UINT8: np.uint8, UINT16: np.uint16, FLOAT32: np.float32}


def native_type(stream: StreamInfo) -> int:
    """Format type of the stream on the chip; also what an infer model starts with. infer_model_internal.hpp."""
    return {1: UINT8, 2: UINT16}[stream.bytes_per_value]


def expand(stream: StreamInfo, format_type: int) -> int:
    """AUTO becomes the chip's own type. hailort_defaults.cpp."""
    return native_type(stream) if format_type == AUTO else format_type


def frame_size(stream: StreamInfo, format_type: int) -> int:
    """Bytes of one frame in the user's format. hailort_common.hpp."""
    return stream.values * np.dtype(DTYPES[expand(stream, format_type)]).itemsize


def check_convertible(stream: StreamInfo, format_type: int) -> None:
    """16 bits on one side and 8 on the other convert only if the receiving side has the 16. transform.cpp."""
    chip, user = native_type(stream), expand(stream, format_type)
    refused = (UINT16, UINT8) if stream.is_input else (UINT8, UINT16)
    check((user, chip) != refused, "INVALID_ARGUMENT")


def to_chip(stream: StreamInfo, format_type: int, raw: np.ndarray) -> np.ndarray:
    """Bytes of a user's buffer -> the chip's numbers (height, width, features). The bytes are taken as they are."""
    target = DTYPES[native_type(stream)]
    values = raw.view(DTYPES[expand(stream, format_type)]).reshape(stream.shape)
    if values.dtype != np.float32:
        return values.astype(target)
    if (stream.zero_point, stream.scale) != (0.0, 1.0):
        # Clipped to the range that was calibrated, not to that of the type.
        values = np.clip(values, np.float32(stream.limits[0]), np.float32(stream.limits[1]))
        values = values / np.float32(stream.scale) + np.float32(stream.zero_point)
    # A number that the type cannot hold wraps, and NaN becomes some number.
    return np.nan_to_num(np.rint(values)).astype(np.int64).astype(target)


def from_chip(stream: StreamInfo, format_type: int, numbers: np.ndarray) -> np.ndarray:
    """The chip's numbers -> values in the user's format."""
    user = expand(stream, format_type)
    if user != FLOAT32:
        return numbers.astype(DTYPES[user])
    values = numbers.astype(np.float32)
    if (stream.zero_point, stream.scale) == (0.0, 1.0):
        return values
    return (values - np.float32(stream.zero_point)) * np.float32(stream.scale)


def dequantise(stream: StreamInfo, numbers: np.ndarray) -> np.ndarray:
    """What the chip computes with: float32 of the same shape."""
    return (numbers.astype(np.float32) - np.float32(stream.zero_point)) * np.float32(stream.scale)


def quantise(stream: StreamInfo, values: np.ndarray) -> np.ndarray:
    """What the chip sends: rounded, and saturated at the ends of the type."""
    target = DTYPES[native_type(stream)]
    numbers = values / np.float32(stream.scale)
    numbers += np.float32(stream.zero_point)
    np.rint(numbers, out=numbers)
    np.clip(numbers, 0, np.iinfo(target).max, out=numbers)
    with np.errstate(invalid="ignore"):  # NaN becomes some number
        return numbers.astype(target)
