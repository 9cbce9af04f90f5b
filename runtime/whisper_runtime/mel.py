"""Whisper's log-mel spectrogram in plain NumPy: the same numbers as openai-whisper's `whisper/audio.py`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from whisper_runtime.audio import SAMPLE_RATE

N_FFT = 400
"""Samples per frame (25 ms)."""

HOP_LENGTH = 160
"""Samples from one frame to the next (10 ms)."""

N_MELS = 80
"""Mel bands of the tiny, base, small and medium models."""


def window_mel(samples: NDArray[np.float32], seconds: int) -> NDArray[np.float32]:
    """The mel of one model window, zero-padded at its end as Whisper's pad_or_trim does.

    The dynamic range is normalised by the peak of this window alone, so a window's mel does not depend on
    the rest of the recording.

    Args:
        samples: (n,) float32, 16 kHz, n at most `seconds` * 16000.
        seconds: length of the window.

    Returns:
        (80, 100 * seconds) float32.

    Raises:
        ValueError: the samples do not fit in the window.
    """
    size = seconds * SAMPLE_RATE
    if len(samples) > size:
        raise ValueError(f"{len(samples)} samples do not fit in a window of {seconds} s ({size} samples)")
    padded = np.zeros(size, np.float32)
    padded[: len(samples)] = samples
    return log_mel_spectrogram(padded)


def log_mel_spectrogram(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-mel spectrogram: Hann-windowed power spectrum every 10 ms, mel bands, log10, 80 dB of range.

    Frames are centred (half a frame of reflected samples on both sides) and the last one is dropped, as in
    openai-whisper. Reflection needs more than half a frame: fewer than 201 samples are zero-padded to 201,
    so the result always has at least one frame.

    Args:
        samples: (n,) float32, 16 kHz.

    Returns:
        (80, max(1, n // 160)) float32.
    """
    half = N_FFT // 2
    if len(samples) <= half:
        samples = np.pad(samples, (0, half + 1 - len(samples)))
    padded = np.pad(samples.astype(np.float32, copy=False), half, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH]
    frames = frames[: len(samples) // HOP_LENGTH]
    # Most windows end in padding, and what is all zeros needs no transform.
    sounds = padded[::-1] != 0.0
    sounding = -(-(len(padded) - int(sounds.argmax())) // HOP_LENGTH) if sounds.any() else 0
    spectrum = np.fft.rfft(frames[:sounding] * _hann_window(), axis=1).T
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, order="C", copy=False)
    mel = np.zeros((N_MELS, len(frames)), np.float32)
    for band, (first, weights) in zip(mel, _bands(), strict=True):
        np.einsum("i,ij->j", weights, power[first : first + len(weights)], out=band[:sounding])
    log_mel = np.log10(np.maximum(mel, np.float32(1e-10)))
    log_mel = np.maximum(log_mel, log_mel.max() - np.float32(8.0))
    scaled: NDArray[np.float32] = (log_mel + np.float32(4.0)) / np.float32(4.0)
    return scaled


@lru_cache
def mel_filterbank(n_mels: int = N_MELS) -> NDArray[np.float32]:
    """Triangular mel filters from 0 to 8000 Hz, each of the same area.

    The scale and the normalisation are those of Malcolm Slaney's Auditory Toolbox (Interval Research
    technical report 1998-010), which are the defaults of `librosa.filters.mel`: mel are linear up to 1 kHz
    (15 mel) and logarithmic above it (27 mel for each factor of 6.4); each triangle has area 1 over Hz.

    Returns:
        (n_mels, 201) float32, read-only and cached.
    """
    mels = np.linspace(0.0, _hz_to_mel(SAMPLE_RATE / 2), n_mels + 2)
    corners = np.where(mels < 15.0, mels * (200.0 / 3.0), 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))
    low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.fft.rfftfreq(N_FFT, 1.0 / SAMPLE_RATE)
    rising = (bins - low) / (centre - low)
    falling = (high - bins) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: NDArray[np.float32] = (triangles * 2.0 / (high - low)).astype(np.float32)
    filters.setflags(write=False)
    return filters


@lru_cache
def _bands() -> tuple[tuple[int, NDArray[np.float32]], ...]:
    """Each filter's first frequency and its weights from there on, without the zeros around them.

    A matrix product takes longer, all the more where its threads meet others, and its last bits depend on the number of
    cores.
    """
    return tuple((int(np.flatnonzero(row)[0]), row[np.flatnonzero(row)]) for row in mel_filterbank())


def _hz_to_mel(hz: float) -> float:
    return float(15.0 + 27.0 * np.log(hz / 1000.0) / np.log(6.4)) if hz >= 1000.0 else hz * 3.0 / 200.0


@lru_cache
def _hann_window() -> NDArray[np.float32]:
    """The periodic Hann window (the first 400 of 401 points of the symmetric one)."""
    return np.hanning(N_FFT + 1)[:-1].astype(np.float32)
