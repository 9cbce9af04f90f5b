"""The mel is the one that Whisper was trained with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.mel import HOP_LENGTH, N_FFT, N_MELS, log_mel_spectrogram, mel_filterbank, window_mel

RATE = 16000


def speech_like(count, seed=0):
    """Voiced sound with a gliding pitch, pauses and a noise floor."""
    rng = np.random.default_rng(seed)
    time = np.arange(count) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.7 * time)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.clip(np.sin(2 * np.pi * 1.5 * time), 0, 1)
    return (0.1 * voice + 0.001 * rng.standard_normal(count)).astype(np.float32)


def test_constants_are_those_of_whisper(stock_whisper):
    assert (N_FFT, HOP_LENGTH) == (stock_whisper.audio.N_FFT, stock_whisper.audio.HOP_LENGTH)
    assert N_MELS == 80


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filterbank_equals_stock(stock_whisper, n_mels):
    expected = stock_whisper.audio.mel_filters("cpu", n_mels).numpy()
    filters = mel_filterbank(n_mels)
    assert filters.dtype == np.float32
    assert filters.shape == expected.shape == (n_mels, 201)
    assert np.abs(filters - expected).max() < 1e-7


def test_filterbank_is_computed_once_and_protected():
    assert mel_filterbank() is mel_filterbank()
    with pytest.raises(ValueError, match="read-only"):
        mel_filterbank()[0, 0] = 1.0


@pytest.mark.parametrize(
    "samples",
    [
        speech_like(10 * RATE),
        speech_like(5 * RATE, seed=1),
        speech_like(12345),
        speech_like(201),
        (0.1 * np.random.default_rng(0).standard_normal(3 * RATE)).astype(np.float32),
        np.zeros(RATE, np.float32),
        np.ones(RATE, np.float32),
        np.eye(1, RATE, 8000, dtype=np.float32)[0],
    ],
    ids=["speech-10s", "speech-5s", "odd-length", "shortest", "noise", "silence", "constant", "click"],
)
def test_log_mel_equals_stock(stock_whisper, samples):
    expected = stock_whisper.audio.log_mel_spectrogram(samples).numpy()
    mel = log_mel_spectrogram(samples)
    assert mel.dtype == np.float32
    assert mel.shape == expected.shape
    assert np.abs(mel - expected).max() < 1e-4


@pytest.mark.parametrize("seconds", [5, 10])
@pytest.mark.parametrize("filled", [0.1, 0.5, 1.0])
def test_window_mel_equals_stock_pad_or_trim(stock_whisper, seconds, filled):
    samples = speech_like(int(filled * seconds * RATE))
    padded = stock_whisper.audio.pad_or_trim(samples, seconds * RATE)
    expected = stock_whisper.audio.log_mel_spectrogram(padded).numpy()
    mel = window_mel(samples, seconds)
    assert mel.shape == (80, 100 * seconds)
    assert mel.flags.c_contiguous
    assert np.abs(mel - expected).max() < 1e-4


def test_window_mel_refuses_what_does_not_fit():
    window_mel(np.zeros(5 * RATE, np.float32), 5)
    with pytest.raises(ValueError, match="do not fit"):
        window_mel(np.zeros(5 * RATE + 1, np.float32), 5)


def test_the_input_is_left_alone():
    samples = speech_like(RATE)
    copy = samples.copy()
    log_mel_spectrogram(samples)
    window_mel(samples, 2)
    assert np.array_equal(samples, copy)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 3 * RATE), gain=st.floats(0, 1000))
def test_shape_and_range_hold_for_every_length_and_loudness(count, gain):
    mel = log_mel_spectrogram(np.float32(gain) * speech_like(count))
    assert mel.shape == (80, max(1, count // 160))
    assert mel.dtype == np.float32
    assert np.isfinite(mel).all()
    assert mel.max() - mel.min() <= 2.0 + 1e-5  # 80 dB, a quarter for each 10 dB
