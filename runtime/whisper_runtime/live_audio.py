"""Sound that comes in while we work: raw PCM from a pipe, or a microphone.

A thread takes the sound in, so that none is lost while a window is decoded; whoever reads gets all that has come in
since the last time.
"""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.errors import AudioError, one_line

_BLOCK_SECONDS = 0.1
# A source that is far ahead of the decoder, such as a file in a pipe, waits; a microphone cannot, and is given up.
_QUEUE_BLOCKS = 600
_END = None


class LiveSound(NamedTuple):
    """Sound that came in.

    Attributes:
        samples: (n,) at 16 kHz: int16 from a pipe, float32 from a microphone.
        arrived: when the first of them came in, by time.perf_counter().
    """

    samples: np.ndarray
    arrived: float


def read_pcm(pipe: BinaryIO, name: str) -> Iterator[LiveSound]:
    """Yield raw PCM, 16-bit little-endian mono at 16 kHz, as they come in.

    Args:
        pipe: where they come from, unbuffered.
        name: what to call it in messages.

    Raises:
        AudioError: the pipe cannot be read, holds no sample at all, or ends in the middle of one.
    """
    blocks: queue.Queue[Any] = queue.Queue(_QUEUE_BLOCKS)

    def take_in() -> None:
        try:
            while data := pipe.read(2 * round(_BLOCK_SECONDS * SAMPLE_RATE)):
                blocks.put((data, time.perf_counter()))
            blocks.put(_END)
        except (OSError, ValueError) as error:
            blocks.put(error)

    threading.Thread(target=take_in, name="pcm", daemon=True).start()
    rest, empty = b"", True
    for group in _available(blocks, name):
        data = rest + b"".join(block for block, _ in group)
        whole = len(data) // 2 * 2
        rest = data[whole:]
        if whole:
            empty = False
            yield LiveSound(np.frombuffer(data[:whole], "<i2"), group[0][1])
    if rest:
        raise AudioError(f"{name}: ends in the middle of a sample: it must be 16-bit little-endian mono PCM at 16 kHz")
    if empty:
        raise AudioError(f"{name}: holds no samples, there is nothing to transcribe")


def record(device: str | None = None) -> Iterator[LiveSound]:
    """Yield what a microphone hears as it comes in, until the generator is closed.

    Args:
        device: part of a microphone's name, or its number; None for the system's default.

    Raises:
        AudioError: the package sounddevice or its library PortAudio is missing, there is no such microphone, or the
            decoder is a minute behind.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio itself is missing
        raise AudioError(
            f"the microphone needs the package sounddevice ({one_line(error)}): pip install sounddevice, and on "
            "Debian apt install libportaudio2; or pipe raw PCM in: arecord -t raw -f S16_LE -r 16000 -c 1 | "
            "whisper-runtime stream -"
        ) from error
    blocks: queue.Queue[Any] = queue.Queue()

    def take_in(data: Any, frames: int, times: Any, status: Any) -> None:
        # PortAudio's thread can neither wait nor raise: the stream ends, and the reader raises once it is there.
        if blocks.qsize() >= _QUEUE_BLOCKS:
            raise sounddevice.CallbackStop
        blocks.put((data[:, 0].copy(), time.perf_counter()))

    number: str | int | None = int(device) if device is not None and device.isdecimal() else device
    try:
        rate = SAMPLE_RATE
        try:
            sounddevice.check_input_settings(device=number, channels=1, samplerate=rate, dtype="float32")
        except sounddevice.PortAudioError:
            rate = round(sounddevice.query_devices(number, "input")["default_samplerate"])
        stream = sounddevice.InputStream(
            device=number,
            channels=1,
            samplerate=rate,
            dtype="float32",
            blocksize=round(_BLOCK_SECONDS * rate),
            callback=take_in,
            finished_callback=lambda: blocks.put(_END),
        )
        with stream:
            yield from _at_model_rate(_available(blocks, "microphone"), rate)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise AudioError(f"microphone: {one_line(error)}") from error
    raise AudioError(
        "microphone: decoding is a minute behind, so sound was lost: use a smaller model or --decoder auto"
    )


def _at_model_rate(groups: Iterator[list[tuple[np.ndarray, float]]], rate: int) -> Iterator[LiveSound]:
    if rate == SAMPLE_RATE:
        for group in groups:
            yield LiveSound(np.concatenate([block for block, _ in group]), group[0][1])
        return
    import soxr

    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for group in groups:
        yield LiveSound(resampler.resample_chunk(np.concatenate([block for block, _ in group])), group[0][1])


def _available(blocks: queue.Queue[Any], name: str) -> Iterator[list[Any]]:
    """Yield all that has come in since the last time, and wait if that is nothing; AudioError if reading failed."""
    while True:
        group = [blocks.get()]
        while not blocks.empty():
            group.append(blocks.get())
        ended = next((i for i, block in enumerate(group) if block is _END or isinstance(block, Exception)), None)
        if ended is None:
            yield group
            continue
        if ended:
            yield group[:ended]
        if isinstance(group[ended], Exception):
            raise AudioError(f"{name}: cannot be read: {one_line(group[ended])}") from group[ended]
        return
