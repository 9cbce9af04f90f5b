"""An npy file that is written row by row, in any order, and can be gone on with after an interruption."""

import os
from pathlib import Path

import numpy as np
from whisper_runtime.closing import Closing


class ArrayFile(Closing):
    """Rows of an npy file. Memory does not grow with their number; several threads may write at once.

    Args:
        path: the file; what is there is gone on with.
        rows: how many rows it may get.
        shape: shape of a row.
        dtype: numpy dtype.
    """

    def __init__(self, path: Path, rows: int, shape: tuple[int, ...], dtype: type) -> None:
        self.rows = rows
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._row_bytes = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        # The header has room for rows of any number, so its length does not depend on it.
        self._start = self._write_header()

    def write(self, row: int, values: np.ndarray) -> None:
        """Write one row. Raises ValueError if its place, shape or type is not the array's, OSError if it cannot."""
        if not 0 <= row < self.rows or values.shape != self._shape or values.dtype != self._dtype:
            raise ValueError(f"row {row}: {values.dtype} {values.shape} does not fit {(self.rows, *self._shape)}")
        data, place = memoryview(np.ascontiguousarray(values).tobytes()), self._start + row * self._row_bytes
        while data:
            written = os.pwrite(self._file.fileno(), data, place)
            data, place = data[written:], place + written

    def read(self, row: int) -> np.ndarray:
        """A row that was written."""
        data = os.pread(self._file.fileno(), self._row_bytes, self._start + row * self._row_bytes)
        return np.frombuffer(data, self._dtype).reshape(self._shape)

    def sync(self) -> None:
        """Bring to disk what was written."""
        os.fsync(self._file.fileno())

    def finish(self, rows: int) -> None:
        """Cut to so many rows, all of which have been written."""
        self.rows = rows
        self._write_header()
        self._file.truncate(self._start + rows * self._row_bytes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_header(self) -> int:
        self._file.seek(0)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)  # type: ignore[no-untyped-call]
        return self._file.tell()
