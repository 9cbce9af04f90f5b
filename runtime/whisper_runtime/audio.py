"""Recordings in, 16 kHz mono samples out.

libsndfile decodes, soxr resamples. What is added here is distrust: libsndfile silently clips a WAV file
that is shorter than its header says, stops at an estimated length in MP3 files that do not state theirs,
and is content with half an Ogg file. Half a recording is half a transcript and nobody notices, so each of
these is either an error or read to its true end.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whisper_runtime.closing import Closing
from whisper_runtime.errors import AudioError

SAMPLE_RATE = 16000
"""Samples per second that Whisper was trained with."""

# Values (frames times channels) decoded at once: 1 MiB of float32.
_BLOCK_VALUES = 1 << 18

# Sample rates (Hz) taken seriously: a damaged header that says 1 Hz would blow a small file up to gigabytes.
_RATES = range(1000, 768_001)

# Float files may exceed +-1, some even hold unscaled 32-bit integers. What is larger is no sound, and the
# comparison with this bound catches infinity and NaN as well.
_LOUDEST = 2.0**32

# libsndfile announces 2**63 - 1 frames where the container does not state a length.
_UNKNOWN_FRAMES = 1 << 62

# WAV data sizes left by encoders that could not go back to fill in the true one: 0 and 2**32 - 1 by ffmpeg
# and many others, the rest by SoX and arecord; 2**64 - 1 is the same in the 64-bit header of RF64.
_UNKNOWN_BYTES = frozenset({0, 0x7FFFF000, 0x7FFFFF00, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})

_INTEGER_SCALES = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}


class AudioFile(Closing):
    """A WAV, FLAC, Ogg or MP3 file of any sample rate and channel count, read from front to back.

    Attributes:
        duration: seconds, as far as the file says; None if it does not.

    Raises:
        AudioError: the file is missing, unreadable, empty or not audio. The message is one line and names the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        self._name = name = repr(str(path))
        self.duration: float | None = None
        with _errors(name):
            _check_kind(path, name)
            # Unbuffered, so that libsndfile, which shares the descriptor, finds it where we left it.
            self._file = path.open("rb", buffering=0)
        try:
            with _errors(name):
                self._sound, self._promised = _open_sound(self._file, name)
        except BaseException:
            self._file.close()
            raise
        if self._promised:
            self.duration = self._promised / self._sound.samplerate

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the samples, once, in blocks of a bounded size; some may be empty.

        Yields:
            (n,) float32, C-contiguous, 16 kHz, the mean of all channels, full scale 1.0 (float files keep values
            beyond that).

        Raises:
            AudioError: the file is damaged, truncated, without samples, or holds NaN or infinity. What came before
                the damage has been yielded.
        """
        empty = True
        with _errors(self._name):
            for block in _resampled(_mono_blocks(self._sound, self._promised, self._name), self._sound.samplerate):
                empty = empty and block.size == 0
                yield block
        if empty:
            raise AudioError(f"{self._name}: holds no samples, there is nothing to transcribe")

    def close(self) -> None:
        """Close the file."""
        self._sound.close()
        self._file.close()


def load_audio(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a whole file, as `AudioFile` does.

    Returns:
        (n,) float32, C-contiguous, 16 kHz, n at least 1.

    Raises:
        AudioError: see `AudioFile` and its `blocks`.
    """
    with AudioFile(path) as file:
        # A growing bytearray is moved rather than copied, so the peak stays close to the result's size.
        collected = bytearray()
        for block in file.blocks():
            collected += block.tobytes()
    return np.frombuffer(collected, dtype=np.float32)


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    """Turn what goes wrong with a file inside into an AudioError that names it."""
    import soundfile

    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = " ".join(str(error.error_string).split()).rstrip(".")
        raise AudioError(f"{name}: not audio, damaged or truncated (libsndfile: {reason})") from error
    except FileNotFoundError as error:
        raise AudioError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise AudioError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def check_samples(samples: ArrayLike, name: str) -> NDArray[np.float32]:
    """Validate samples that a caller hands in, which are 16 kHz mono already.

    Args:
        samples: (n,) of float16, float32 or float64 (full scale 1.0), or of int16 or int32 (full scale
            2**15 or 2**31, divided out here).
        name: what to call the samples in error messages.

    Returns:
        (n,) float32, C-contiguous; the very same array if it is that already.

    Raises:
        AudioError: not one-dimensional, no samples, NaN or infinity, or another dtype.
    """
    try:
        array = np.asarray(samples)
    except (TypeError, ValueError) as error:  # a ragged list
        raise AudioError(f"{name}: is not an array of samples") from error
    if array.ndim != 1:
        raise AudioError(f"{name}: needs one dimension (mono samples), got the shape {array.shape}")
    if array.size == 0:
        raise AudioError(f"{name}: holds no samples, there is nothing to transcribe")
    scale = _INTEGER_SCALES.get(array.dtype.newbyteorder("="))
    if scale is not None:
        return np.ascontiguousarray(array / scale, dtype=np.float32)
    if array.dtype.kind != "f":
        raise AudioError(f"{name}: samples must be float32, float64, int16 or int32, got {array.dtype}")
    _check_values(array, name)
    return np.ascontiguousarray(array, dtype=np.float32)


def _check_kind(path: Path, name: str) -> None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{name}: is a directory, name one audio file")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{name}: is not a regular file")
    if status.st_size == 0:
        raise AudioError(f"{name}: is empty (0 bytes)")


def _check_values(values: NDArray[Any], name: str) -> None:
    with np.errstate(invalid="ignore"):
        peak = np.abs(values).max()
    if not peak <= _LOUDEST:
        raise AudioError(f"{name}: holds NaN, infinity or absurdly large values")


def _open_sound(file: io.FileIO, name: str) -> tuple[Any, int]:
    """Open a file for libsndfile; return it with the number of frames it promises, 0 if it promises none."""
    import soundfile

    class ForwardFile(soundfile.SoundFile):  # type: ignore[misc,unused-ignore]
        """Only ever read from front to back.

        After each block soundfile seeks to where it already is. That makes the MP3 decoder forget its bit
        reservoir (wrong sound after every block) and fails at the end of a FLAC file of unknown length.
        """

        def seekable(self) -> bool:
            return False

    source = _repaired(file, name)
    mp3_states_length = _mp3_states_length(file)
    file.seek(0)
    sound = ForwardFile(source, closefd=False)
    promised = sound.frames if sound.frames < _UNKNOWN_FRAMES else 0
    if sound.format == "MP3" and not mp3_states_length:
        sound.close()
        file.seek(0)
        sound = ForwardFile(_EndlessFile(file.fileno(), closefd=False))
        promised = 0
    if sound.samplerate not in _RATES:
        sound.close()
        raise AudioError(f"{name}: the header claims {sound.samplerate} samples a second")
    return sound, promised


def _mono_blocks(sound: Any, promised: int, name: str) -> Iterator[NDArray[np.float32]]:
    """Decode to the end; AudioError if that comes before the promised number of frames."""
    block_frames = max(1, _BLOCK_VALUES // sound.channels)
    frames = 0
    while True:
        block = sound.read(block_frames, dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        _check_values(block, name)
        frames += len(block)
        yield block.mean(axis=1)
    if frames < promised:
        raise AudioError(f"{name}: truncated, the header promises {promised} frames, only {frames} are there")


def _resampled(blocks: Iterator[NDArray[np.float32]], rate: int) -> Iterator[NDArray[np.float32]]:
    """Bring mono blocks of any rate to SAMPLE_RATE."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


# What libsndfile does not look at: does the file hold as much as it says?


class _PatchedFile(io.FileIO):
    """A file in which four bytes read differently from what is on the disk."""

    def __init__(self, descriptor: int, at: int, patch: bytes) -> None:
        super().__init__(descriptor, closefd=False)
        self._at = at
        self._patch = patch

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = super().readinto(buffer) or 0
        first, last = max(start, self._at), min(start + count, self._at + len(self._patch))
        if first < last:
            buffer[first - start : last - start] = self._patch[first - self._at : last - self._at]
        return count


class _EndlessFile(io.FileIO):
    """A file that claims a thousand times its size.

    libsndfile estimates the length of an MP3 file without a length tag from its size and its first bit rate,
    and does not decode beyond that: with a variable bit rate most of the recording would be lost.
    """

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and offset == 0:
            return super().seek(1000 * os.fstat(self.fileno()).st_size)
        return super().seek(offset, whence)


def _repaired(file: io.FileIO, name: str) -> int | io.FileIO:
    """What to hand to libsndfile for this file; AudioError if it is shorter than its container says."""
    size = os.fstat(file.fileno()).st_size
    magic = file.read(4)
    if magic in (b"RIFF", b"RIFX", b"RF64"):
        return _repaired_wav(file, magic, size, name)
    if magic == b"OggS" and _ends_inside_ogg_page(file, size):
        raise AudioError(f"{name}: truncated, it ends in the middle of an Ogg page")
    return file.fileno()


def _repaired_wav(file: io.FileIO, magic: bytes, size: int, name: str) -> int | io.FileIO:
    """Compare the data chunk with the file; make libsndfile see the data after a data size of 0."""
    order: Literal["big", "little"] = "big" if magic == b"RIFX" else "little"
    at, long_size, data_at, claimed = 12, 0, None, 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(8)
        if not all(0x20 <= byte < 0x7F for byte in header[:4]):
            break
        length = int.from_bytes(header[4:], order)
        if header[:4] == b"ds64":
            long_size = int.from_bytes(file.read(16)[8:], "little")
        elif header[:4] == b"data" and data_at is None:
            is_long = magic == b"RF64" and length == 0xFFFFFFFF
            data_at, claimed = at + 8, long_size if is_long else length
            length = claimed
        at += 8 + length + length % 2
    if data_at is None:
        return file.fileno()
    if claimed not in _UNKNOWN_BYTES and data_at + claimed > size:
        raise AudioError(
            f"{name}: truncated, the header promises {claimed} bytes of sound, only {size - data_at} follow"
        )
    # Chunks that follow one another exactly to the end of the file were properly closed: there is no sound.
    if claimed == 0 and at < size:
        return _PatchedFile(file.fileno(), data_at - 4, b"\xff\xff\xff\xff")
    return file.fileno()


def _ends_inside_ogg_page(file: io.FileIO, size: int) -> bool:
    """Whether the last Ogg page promises more bytes than the file has (RFC 3533, section 6)."""
    longest_page = 27 + 255 + 255 * 255
    start = max(0, size - longest_page)
    file.seek(start)
    tail = file.read(longest_page)
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return False
    segments = tail[page + 26] if page + 26 < len(tail) else 255
    lengths = tail[page + 27 : page + 27 + segments]
    return len(lengths) < segments or start + page + 27 + segments + sum(lengths) > size


def _mp3_states_length(file: io.FileIO) -> bool:
    """Whether an MP3 file's first frame, after an ID3v2 tag, is a Xing/Info tag that counts the frames."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if len(head) == 10 and head[:3] == b"ID3":
        # Four bytes of seven bits each (id3.org, ID3v2.4 structure, section 3.1)
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(2048)
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    # The tag's four bytes of flags come next; the lowest bit says that the number of frames follows.
    return 0 <= tag < len(frame) - 7 and frame[tag + 7] & 1 == 1
