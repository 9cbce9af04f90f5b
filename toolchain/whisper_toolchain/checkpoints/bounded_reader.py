"""Reading binary formats without trusting a single length that stands in them."""

import contextlib
import io
import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisper_toolchain.checkpoints.plain_text import is_plain_name
from whisper_toolchain.errors import CheckpointError

MAX_RANK = 4  # no tensor of Whisper's has more than 3 dimensions


class BoundedReader:
    """Sequential reads of little-endian values; each is checked against what is left of the file first.

    Every method raises CheckpointError, naming file and offset, where the file is too short.
    """

    def __init__(self, file: io.BufferedReader, path: Path):
        self._file = file
        self._path = path
        self._size = os.fstat(file.fileno()).st_size
        self.offset = 0

    @property
    def remaining(self) -> int:
        """Bytes from here to the end of the file."""
        return self._size - self.offset

    def error(self, what: str) -> CheckpointError:
        """The error that says what is wrong at the current offset."""
        return CheckpointError(f"{self._path}: {what} (at byte {self.offset})")

    def _require(self, count: int, what: str) -> None:
        if count > self.remaining:
            raise self.error(
                f"{what} takes {count} bytes, but only {self.remaining} are left: "
                "the file is truncated or damaged, get it again"
            )

    def _fill(self, buffer: bytearray, what: str) -> bytearray:
        if self._file.readinto(memoryview(buffer)) != len(buffer):  # the file shrank while it was read
            raise self.error(f"{what} ends too early: the file is truncated, get it again")
        self.offset += len(buffer)
        return buffer

    def bytes(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        self._require(count, what)
        return bytes(self._fill(bytearray(count), what))

    def name(self, count: int, what: str) -> str:
        """The next `count` bytes as a tensor's name."""
        name = self.bytes(count, what).decode("ascii", errors="replace")
        if not is_plain_name(name):
            raise self.error(f"{what} is not plain text: the file is damaged, get it again")
        return name

    def skip(self, count: int, what: str) -> None:
        """Pass over `count` bytes."""
        self._require(count, what)
        self._file.seek(count, os.SEEK_CUR)
        self.offset += count

    def integers(self, format_: str, what: str) -> tuple[int, ...]:
        """The next little-endian integers, in `struct`'s notation."""
        layout = struct.Struct("<" + format_)
        return tuple(layout.unpack(self.bytes(layout.size, what)))

    def integer(self, format_: str, what: str) -> int:
        """The next little-endian integer, in `struct`'s notation."""
        return self.integers(format_, what)[0]

    def array(self, shape: Sequence[int], dtype: str, what: str) -> np.ndarray[Any, Any]:
        """The next array in C order, writable, with `dtype` in numpy's notation, such as "<f2"."""
        if any(size < 0 for size in shape):
            raise self.error(f"{what} has a negative size {tuple(shape)}: the file is damaged, get it again")
        kind = np.dtype(dtype)
        count = math.prod(shape) * kind.itemsize
        self._require(count, what)
        return np.frombuffer(self._fill(bytearray(count), what), kind).reshape(tuple(shape))


@contextlib.contextmanager
def open_bounded(path: Path) -> Iterator[BoundedReader]:
    """Open a file for bounded reads. Raises CheckpointError where it cannot be opened or read."""
    try:
        with path.open("rb") as file:
            yield BoundedReader(file, path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
