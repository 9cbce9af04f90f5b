"""Windows hold every sample exactly once and are cut where it is quiet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime.windows import Window, cut_windows

RATE = 16000


def noise(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 25 * RATE),
    seconds=st.integers(1, 10),
    seed=st.integers(0, 9),
    silences=st.lists(st.tuples(st.integers(0, 25 * RATE), st.integers(0, 2 * RATE)), max_size=5),
)
def test_windows_partition_the_recording(count, seconds, seed, silences):
    samples = noise(count, seed)
    for start, length in silences:
        samples[start : start + length] = 0.0
    windows = list(cut_windows(samples, seconds))
    end = 0
    for window in windows:
        assert window.start == end
        assert 0 < len(window.samples) <= seconds * RATE
        end += len(window.samples)
    assert end == count
    for window in windows[:-1]:
        assert 0.5 * seconds * RATE <= len(window.samples) <= 0.96 * seconds * RATE
    joined = np.concatenate([window.samples for window in windows]) if windows else samples[:0]
    assert np.array_equal(joined, samples)


@pytest.mark.parametrize("count", [1, RATE, 10 * RATE])
def test_what_fits_is_left_whole(count):
    samples = noise(count)
    (window,) = cut_windows(samples, 10)
    assert window.start == 0
    assert np.array_equal(window.samples, samples)


def test_one_sample_too_many_makes_two_windows():
    assert len(list(cut_windows(noise(10 * RATE + 1), 10))) == 2


def test_the_cut_is_in_the_middle_of_the_quiet_place():
    samples = noise(15 * RATE)
    samples[int(7.0 * RATE) : int(7.2 * RATE)] = 0.0
    first, second = cut_windows(samples, 10)
    assert second.start == len(first.samples) == int(7.1 * RATE)


def test_quiet_is_measured_and_not_only_silence_counts():
    samples = noise(15 * RATE)
    samples[int(6.0 * RATE) : int(6.2 * RATE)] *= 0.1
    samples[int(8.0 * RATE) : int(8.2 * RATE)] *= 0.3
    first, _ = cut_windows(samples, 10)
    assert abs(len(first.samples) - 6.1 * RATE) < 0.02 * RATE


@pytest.mark.parametrize("where", [2.0, 9.75])
def test_quiet_places_too_early_or_too_late_are_not_used(where):
    samples = noise(15 * RATE)
    samples[int(where * RATE) : int((where + 0.2) * RATE)] = 0.0
    first, *_ = cut_windows(samples, 10)
    assert 5 * RATE <= len(first.samples) <= 9.6 * RATE


def test_silence_is_cut_into_as_few_windows_as_possible():
    assert len(list(cut_windows(np.zeros(28 * RATE, np.float32), 10))) == 3


def test_silence_after_loud_speech_is_found():
    samples = noise(15 * RATE)
    samples[8 * RATE :] = 1e-4 * noise(7 * RATE, seed=1)
    samples[int(8.5 * RATE) : int(8.8 * RATE)] = 0.0
    first, _ = cut_windows(samples, 10)
    assert 8.6 * RATE <= len(first.samples) <= 8.7 * RATE


def test_no_samples_make_no_windows():
    assert list(cut_windows(np.zeros(0, np.float32), 10)) == []


def test_samples_are_views():
    samples = noise(15 * RATE)
    assert all(np.shares_memory(window.samples, samples) for window in cut_windows(samples, 10))


def test_windows_cannot_be_changed_by_accident():
    window = Window(0, noise(5))
    with pytest.raises(AttributeError):
        window.start = 1


def test_a_window_of_no_length_is_refused():
    with pytest.raises(ValueError, match="at least 1 second"):
        list(cut_windows(noise(RATE), 0))
