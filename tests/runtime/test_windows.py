"""Windows hold all sound once, in order, whatever the blocks; silence is left out, and cuts are where it is quiet."""

import collections
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from whisper_runtime import windows
from whisper_runtime.audio import SAMPLE_RATE as RATE
from whisper_runtime.errors import AudioError
from whisper_runtime.windows import (
    FRAME,
    STEP,
    Window,
    WindowCutter,
    cut_prices,
    cut_windows,
    frame_levels,
    loud_seconds,
    pauses,
    quiet_frames,
    split_in_two,
)

LOUD = -20.0  # dB of full scale, as speech is
KEPT = round(windows._KEPT_SECONDS * RATE)
LONGEST_BLOCKS = 30 * RATE


def noise(count, level=LOUD, seed=0):
    return (10 ** (level / 20) * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def silence(count):
    return np.zeros(count, np.float32)


def seconds(*parts):
    """Pieces of (seconds, level in dB or None for silence), joined."""
    pieces = [
        silence(round(length * RATE)) if level is None else noise(round(length * RATE), level, seed)
        for seed, (length, level) in enumerate(parts)
    ]
    return np.concatenate(pieces)


def speech(length, level=LOUD, seed=0):
    """Noise with the rhythm of syllables: 0.16 s loud, 0.09 s 14 dB softer."""
    samples = noise(round(length * RATE), level, seed)
    samples[np.arange(len(samples)) % (RATE // 4) > 0.16 * RATE] *= np.float32(0.2)
    return samples


def cut(samples, window=10, block=RATE):
    blocks = (samples[start : start + block] for start in range(0, len(samples), block))
    return list(cut_windows(blocks, window))


def spans(found):
    return [(window.start, window.start + len(window.samples)) for window in found]


def check_windows(found, samples, window):
    """Returns what is in no window, as (start, end), having checked all that holds for any windows."""
    gaps, end = [], 0
    for item in found:
        assert item.start >= end
        assert 0 < len(item.samples) <= window * RATE
        assert item.samples.dtype == np.float32
        assert item.seconds == len(item.samples) / RATE
        gaps.append((end, item.start))
        end = item.start + len(item.samples)
        assert np.array_equal(item.samples, samples[item.start : end])
    gaps.append((end, len(samples)))
    return [(start, end) for start, end in gaps if start < end]


# Any recording

pieces = st.lists(
    st.tuples(
        st.integers(0, 4 * RATE) | st.sampled_from([1, FRAME - 1, FRAME, STEP, RATE]),
        st.sampled_from([None, None, -80.0, -60.0, -45.0, LOUD, LOUD, -3.0]),
    ),
    max_size=12,
)
offsets = st.sampled_from([0.0, 0.0, 0.25])


def recording(parts, offset):
    drawn = [silence(n) if level is None else noise(n, level, seed) for seed, (n, level) in enumerate(parts)]
    return np.concatenate([silence(0), *drawn]) + np.float32(offset)


@settings(max_examples=60, deadline=None)
@given(parts=pieces, offset=offsets, window=st.integers(1, 10), cuts=st.lists(st.integers(0, 48 * RATE), max_size=30))
def test_the_blocks_make_no_difference(parts, offset, window, cuts):
    samples = recording(parts, offset)
    whole = list(cut_windows([samples], window))
    edges = sorted({0, len(samples), *(cut for cut in cuts if cut < len(samples))})
    parted = list(cut_windows((samples[a:b] for a, b in itertools.pairwise(edges)), window))
    assert spans(parted) == spans(whole)
    for one, other in zip(parted, whole, strict=True):
        assert np.array_equal(one.samples, other.samples)


@pytest.mark.parametrize("block", [1, 7, FRAME - 1, FRAME, FRAME + 1, STEP])
def test_blocks_may_be_tiny_or_empty(block):
    samples = seconds((0.7, LOUD), (0.4, None), (0.8, LOUD), (0.333, None))
    blocks = [samples[start : start + block] for start in range(0, len(samples), block)]
    with_empty = [part for item in blocks for part in (silence(0), item)]
    assert spans(cut_windows(with_empty, 1)) == spans(cut_windows([samples], 1))


@settings(max_examples=60, deadline=None)
@given(parts=pieces, offset=offsets, window=st.integers(1, 10))
def test_only_silence_is_left_out(parts, offset, window):
    samples = recording(parts, offset)
    gaps = check_windows(cut(samples, window), samples, window)
    loudest = 10 * np.log10(
        max((np.var(samples[i : i + FRAME]) for i in range(0, len(samples), FRAME)), default=0) + 1e-12
    )
    for start, end in gaps:
        # What is left of a frame at the end of the recording is too short to be judged.
        frames = samples[start : start + (end - start) // FRAME * FRAME].astype(np.float64).reshape(-1, FRAME)
        levels = 10 * np.log10(frames.var(axis=1) + 1e-12)
        assert (levels < max(windows._SILENCE_DB, loudest - windows._RANGE_DB) + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(count=st.integers(FRAME, 25 * RATE), window=st.integers(1, 10), level=st.floats(-60, 0), seed=st.integers(0, 9))
def test_no_sample_of_steady_sound_is_lost(count, window, level, seed):
    samples = noise(count, level, seed)
    found = cut(samples, window)
    assert check_windows(found, samples, window) == []
    for item in found[:-1]:
        assert 0.25 * window <= item.seconds


@pytest.mark.parametrize("count", [0, 1, FRAME - 1])
def test_less_than_a_frame_is_no_window(count):
    assert cut(noise(count)) == []


@pytest.mark.parametrize("count", [FRAME, FRAME + 1, STEP - 1, STEP, STEP + 1, RATE, 10 * RATE - 1, 10 * RATE])
def test_what_fits_is_left_whole(count):
    samples = noise(count)
    (window,) = cut(samples)
    assert window.start == 0
    assert np.array_equal(window.samples, samples)


def test_one_sample_too_many_makes_two_windows():
    assert len(cut(noise(10 * RATE + 1))) == 2


def test_a_short_pause_does_not_part_what_fits():
    samples = seconds((3, LOUD), (0.8 * windows._END_SECONDS, None), (3, LOUD))
    assert spans(cut(samples)) == [(0, len(samples))]


# Silence


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(0, 70 * RATE),
    offset=st.sampled_from([0.0, 0.1, -0.7]),
    block=st.sampled_from([STEP // 3, RATE // 2, 70 * RATE]),
    window=st.integers(1, 10),
)
@example(count=70 * RATE, offset=0.0, block=1000, window=10)
def test_silence_of_any_length_is_no_window(count, offset, block, window):
    samples = silence(count) + np.float32(offset)
    cutter = WindowCutter(window)
    for start in range(0, count, block):
        assert list(cutter.push(samples[start : start + block])) == []
        assert not cutter.has_sound
        assert sum(len(window.samples) for window in cutter.pending) <= KEPT + STEP
    assert list(cutter.finish()) == []


def test_dither_is_silence():
    samples = noise(15 * RATE, level=-90)
    assert cut(samples) == []
    assert cut(np.round(samples * 2**15).astype(np.float32) / 2**15) == []


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_silence_around_sound_is_left_out_but_for_a_little(offset):
    before, after = 70 * RATE + 37, 70 * RATE
    samples = np.concatenate([silence(before), noise(3 * RATE), silence(after)]) + np.float32(offset)
    (window,) = cut(samples)
    end = window.start + len(window.samples)
    assert before - KEPT - STEP <= window.start <= before - KEPT
    assert before + 3 * RATE <= end <= before + 3 * RATE + KEPT + STEP


def test_silence_before_sound_is_kept_as_far_as_there_is_any():
    samples = seconds((0.15, None), (2, LOUD))
    assert spans(cut(samples)) == [(0, len(samples))]


@pytest.mark.parametrize("length", [1.0, 5.0, 12.0])
def test_silence_at_the_end_does_not_make_a_window_of_its_own(length):
    samples = seconds((9.2, LOUD), (length, None))
    (window,) = cut(samples)
    assert window.start == 0
    assert window.seconds >= 9.2


def test_sound_right_at_the_end_is_kept():
    samples = seconds((20, None), (0.05, LOUD))
    (window,) = cut(samples)
    assert window.start + len(window.samples) == len(samples)
    assert window.seconds >= 0.05 + windows._KEPT_SECONDS


def test_quiet_speech_after_loud_speech_is_kept():
    samples = seconds((4, -10), (4, -10 - windows._RANGE_DB + 3), (4, -10))
    assert check_windows(cut(samples), samples, 10) == []


@pytest.mark.parametrize("pause", [0.3, 0.7])
def test_a_quiet_recording_is_kept_whole(pause):
    samples = seconds((6, -60), (pause, -72), (6, -60), (pause, -72), (2, -60))
    found = cut(samples)
    assert check_windows(found, samples, 10) == []
    assert len(found) == 2


def test_a_click_does_not_make_the_quiet_recording_after_it_silence():
    samples = seconds((1, -60), (0.01, -3), (25, -60))
    assert check_windows(cut(samples), samples, 10) == []


# Where windows end


@pytest.mark.parametrize("level", [None, LOUD - 20])
def test_a_long_pause_ends_a_window(level):
    samples = seconds((3, LOUD), (1.5 * windows._END_SECONDS, level), (3, LOUD))
    first, second = cut(samples)
    middle_of_pause = (3 * RATE, 3 * RATE + 1.5 * windows._END_SECONDS * RATE)
    assert middle_of_pause[0] < len(first.samples) < middle_of_pause[1]
    assert middle_of_pause[0] < second.start < middle_of_pause[1]
    if level is not None:  # that is no silence
        assert second.start == len(first.samples)


def test_a_window_that_ends_in_a_pause_is_there_as_soon_as_the_pause_is_long_enough():
    cutter = WindowCutter(10)
    assert list(cutter.push(seconds((3, LOUD), (0.9 * windows._END_SECONDS, None)))) == []
    (window,) = cutter.push(silence(round(0.1 * windows._END_SECONDS * RATE) + STEP))
    assert len(window.samples) == 3 * RATE + KEPT
    assert not cutter.has_sound


def inside(place, *found):
    return any(start <= place <= start + length for start, length in found)


pause_lengths = st.floats(windows._PAUSE_SECONDS + 0.05, 0.9 * windows._END_SECONDS)
pause_levels = st.sampled_from([-120, LOUD - 30])


@settings(max_examples=40, deadline=None)
@given(window=st.integers(4, 10), length=pause_lengths, where=st.floats(0, 1), level=pause_levels)
def test_what_is_too_much_for_one_window_is_cut_in_the_middle_of_a_pause(window, length, where, level):
    total = 1.5 * window
    start = (0.55 + 0.4 * where) * window - length / 2  # so that two windows are enough
    samples = np.concatenate([speech(start), noise(round(length * RATE), level), speech(total - start - length)])
    first, _ = cut(samples, window)
    # A soft end of a syllable may belong to the pause.
    assert abs(first.seconds - (start + length / 2)) <= 0.06


@pytest.mark.parametrize("level", [LOUD - 30, LOUD - 40])
def test_a_rooms_noise_before_digital_silence_is_no_window(level):
    """Models hear thanks in a moment of noise."""
    samples = np.concatenate((speech(5), noise(round(0.5 * RATE), level), silence(5 * RATE)))
    assert len(cut(samples)) == 1


def test_a_short_pause_in_otherwise_even_sound_is_found():
    samples = seconds((4, LOUD), (windows._PAUSE_SECONDS + 0.05, LOUD - 30), (9, LOUD))
    assert inside(cut(samples)[0].seconds, (4, windows._PAUSE_SECONDS + 0.05))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 2.0), pause_lengths), min_size=8, max_size=16), pause_levels)
def test_speech_is_never_cut_between_its_pauses(phrases, level):
    """Pauses of one recording: beside digital silence, a pause with a room's noise does not count as one."""
    parts, places, end = [], [], 0.0
    for seed, (sound, pause) in enumerate(phrases):
        parts += [speech(sound, seed=seed), noise(round(pause * RATE), level)]
        places.append((end + sound - 0.1, pause + 0.2))
        end += sound + pause
    samples = np.concatenate(parts)
    found = cut(samples)
    for item in found[1:]:
        assert inside(item.start / RATE, *places)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 2.0), pause_lengths, pause_levels), min_size=8, max_size=16))
@example([(1, 1, -50), (2, 1, -50), (2, 1.5, -50), (1.5, 1, -50), (1.5, 0.5, -50), *[(1.5, 0.5, -120)] * 3])
def test_with_pauses_of_any_levels_no_cut_is_in_the_loud_part_of_a_syllable(phrases):
    parts = [
        (speech(sound, seed=seed), noise(round(pause * RATE), level))
        for seed, (sound, pause, level) in enumerate(phrases)
    ]
    samples = np.concatenate([part for pair in parts for part in pair])
    levels = frame_levels(samples)
    for item in cut(samples)[1:]:
        assert levels[item.start // FRAME] < LOUD - 8


def test_the_longer_pause_is_taken():
    samples = seconds((6, LOUD), (0.6, None), (1, LOUD), (0.3, None), (6, LOUD))
    assert inside(cut(samples)[0].seconds, (6, 0.6))


def test_of_equal_pauses_that_of_more_even_windows_is_taken():
    samples = seconds((4.5, LOUD), (0.5, None), (2, LOUD), (0.5, None), (5, LOUD), (0.5, None), (1, LOUD))
    assert inside(cut(samples)[0].seconds, (7, 0.5))


def test_a_long_pause_that_makes_a_third_window_is_not_taken():
    """Two windows of 8 s are read better than one of 3, one of 9 and one of 4."""
    samples = seconds((3, LOUD), (0.6, None), (4.2, LOUD), (0.3, None), (4, LOUD), (0.3, None), (3.6, LOUD))
    first, second = cut(samples)
    assert inside(first.seconds, (7.8, 0.3))
    assert first.seconds + second.seconds == len(samples) / RATE


@pytest.mark.parametrize("level", [LOUD - 20, LOUD - 8])
def test_without_a_pause_the_cut_is_at_the_quietest_place(level):
    samples = seconds((6, LOUD), (0.2, level), (1.8, LOUD), (0.2, LOUD - 4), (7, LOUD))
    assert abs(len(cut(samples)[0].samples) / RATE - 6.1) <= 0.1


@pytest.mark.parametrize("where", [1.0, 14.0])
def test_a_pause_that_saves_no_cut_is_not_used(where):
    samples = seconds((where, LOUD), (0.2, None), (14.8 - where, LOUD))
    first, _ = cut(samples)
    assert 4.8 <= first.seconds <= 10.0


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 40), size=st.integers(2, 10), ended=st.booleans(), seed=st.integers(0, 99))
def test_no_other_cut_is_cheaper(count, size, ended, seed):
    """Against all of them, tried one by one."""
    random = np.random.default_rng(seed)
    frames = size * 100
    levels = random.uniform(-60, -20, frames + 1 + count)
    places, prices = cut_prices(levels, frames)
    margin = frames // windows._PLACES

    def window(length):
        full = windows._FULL_PRICE if length / frames > windows._FULL else 0.0
        return windows._EMPTY_PRICE * (1 - length / frames) ** 2 + full if length <= frames else np.inf

    total = len(levels) + 1
    ways = []
    for place, price in zip(places.tolist(), prices, strict=True):
        if margin <= place <= min(len(levels) - margin, frames) and total - place <= frames:
            ways.append((window(place) + price + (window(total - place) if ended else 0.0), place))
    cost, place = min(ways)
    assert cost < np.inf
    assert windows.best_cut(levels, frames, ended) == place  # two windows are enough


# The end of the blocks


def failing(*blocks):
    yield from blocks
    raise AudioError("the file is damaged here")


@pytest.mark.parametrize("length", [0.0, 0.004, 3.0, 14.567])
def test_what_came_before_an_error_is_not_lost(length):
    samples = seconds((length, LOUD))
    found, error = [], None
    try:
        for window in cut_windows(failing(*np.array_split(samples, 7)), 10):
            found.append(window)
    except AudioError as caught:
        error = caught
    assert "damaged here" in str(error)
    assert spans(found) == spans(cut(samples))


def test_an_error_of_the_program_is_not_held_back():
    def broken():
        yield noise(RATE)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(cut_windows(broken(), 10))


def test_windows_come_as_soon_as_they_are_complete():
    taken = 0

    def blocks():
        nonlocal taken
        while True:  # without end
            taken += 1
            yield noise(RATE, seed=taken)

    first, second = itertools.islice(cut_windows(blocks(), 10), 2)
    assert second.start == len(first.samples)
    assert taken <= 2 * 10 + windows._AHEAD * 10 + 2


# The cutter


def test_pending_is_what_came_in_since_the_last_window():
    samples = noise(12 * RATE)
    cutter = WindowCutter(4)
    end = 0
    for start in range(0, len(samples), 1234):
        for window in cutter.push(samples[start : start + 1234]):
            end = window.start + len(window.samples)
        pending = cutter.pending
        assert pending[0].start == end
        assert all(0 < len(window.samples) <= 4 * RATE for window in pending)
        assert np.array_equal(np.concatenate([window.samples for window in pending]), samples[end : start + 1234])
        assert cutter.has_sound == (start + 1234 >= FRAME)
    *_, last = cutter.finish()
    assert last.start + len(last.samples) == len(samples)
    assert [len(window.samples) for window in cutter.pending] == [0]
    assert not cutter.has_sound


def test_windows_do_not_change_when_more_comes_in():
    cutter = WindowCutter(1)
    block = noise(STEP)
    pending = []
    for seed in range(30):
        block[:] = noise(STEP, seed=seed)  # a caller may use its buffer again
        pending += cutter.push(block)
        pending += cutter.pending
        if seed == 0:
            first = cutter.pending[0].samples.copy()
    assert np.array_equal(pending[0].samples, first)
    samples = np.concatenate([noise(STEP, seed=seed) for seed in range(30)])
    for window in pending:
        assert np.array_equal(window.samples, samples[window.start :][: len(window.samples)])


@pytest.mark.parametrize("kind", ["sound", "silence", "speech"])
def test_memory_does_not_grow_with_the_recording(kind):
    parts = {
        "sound": [(20, LOUD)],
        "silence": [(20, None)],
        "speech": [(2.3, LOUD), (0.4, LOUD - 30), (1.9, LOUD), (1.3, LOUD - 30), (4.1, LOUD), (10, None)],
    }[kind]
    samples = seconds(*parts)
    most_samples = (1 + windows._AHEAD) * 10 * RATE * samples.itemsize

    def peak(rounds):
        tracemalloc.start()
        try:
            cutter = WindowCutter(10)
            for _ in range(rounds):
                for start in range(0, len(samples), 800):
                    collections.deque(cutter.push(samples[start : start + 800]), maxlen=0)
                    held = sum(len(window.samples) for window in cutter.pending)
                    assert held <= (1 + windows._AHEAD) * 10 * RATE + STEP
            return tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    held, most = peak(9)
    # All that is pending, while it is put together the same again, and a window that is handed out.
    assert held <= 1.2 * most_samples
    assert most <= 3.5 * most_samples
    assert most <= 1.05 * peak(2)[1]


def test_windows_cannot_be_changed_by_accident():
    window = Window(0, noise(5))
    with pytest.raises(AttributeError):
        window.start = 1


@pytest.mark.parametrize("length", [0, -1])
def test_a_window_of_no_length_is_refused(length):
    with pytest.raises(ValueError, match="at least 1 second"):
        WindowCutter(length)
    with pytest.raises(ValueError, match="at least 1 second"):
        list(cut_windows([noise(RATE)], length))


# Its parts


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60))
def test_pauses_are_the_runs_of_quiet_frames(quiet):
    middles, lengths = pauses(np.array(quiet, bool))
    runs, place = [], 0
    for value, group in itertools.groupby(quiet):
        count = len(list(group))
        if value:
            runs.append((place, count))
        place += count
    assert lengths.tolist() == [count for _, count in runs]
    for middle, (start, count) in zip(middles, runs, strict=True):
        assert abs(middle - (start + count / 2)) <= 0.5


@settings(deadline=None)
@given(st.lists(st.floats(-120, 0), max_size=200))
def test_the_loudest_frames_are_never_quiet(levels):
    levels = np.array(levels)
    quiet = quiet_frames(levels)
    assert quiet.shape == levels.shape
    if len(levels):
        assert not quiet[levels.argmax()]
        assert not quiet.any() or levels[quiet].max() < levels[~quiet].min()


# In two parts


def test_a_window_is_split_in_the_middle_of_its_longest_pause():
    window = Window(500, seconds((2, LOUD), (0.2, None), (2, LOUD), (0.4, None), (1, LOUD)))
    first, second = split_in_two(window)
    assert first.seconds == pytest.approx(4.4, abs=0.02)
    assert second.start == 500 + len(first.samples)
    assert loud_seconds(window) == pytest.approx(5, abs=0.05)


def test_without_a_pause_it_is_split_where_it_is_softest():
    window = Window(0, seconds((2, LOUD), (0.3, LOUD - 8), (2, LOUD)))
    assert split_in_two(window)[0].seconds == pytest.approx(2.15, abs=0.1)


def test_where_all_is_alike_it_is_split_in_the_middle():
    samples = np.sin(np.arange(5 * RATE) * np.float32(0.1))
    assert split_in_two(Window(0, samples))[0].seconds == pytest.approx(2.5, abs=0.3)


def test_no_part_is_a_word_at_the_edge():
    first, _ = split_in_two(Window(0, seconds((0.2, LOUD), (0.5, None), (3, LOUD), (0.2, None), (2, LOUD))))
    assert first.seconds == pytest.approx(3.8, abs=0.05)


@pytest.mark.parametrize(
    "parts",
    [[(0.01, LOUD)], [(1.3, LOUD), (0.3, None), (1.3, LOUD)], [(2, None), (2.9, LOUD), (2, None)]],
    ids=["a frame", "short", "short in silence"],
)
def test_a_window_with_little_sound_is_not_split(parts):
    assert split_in_two(Window(0, seconds(*parts))) is None


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(st.tuples(st.floats(0.0, 12.0), st.none() | st.floats(-70, -10)), min_size=1, max_size=4),
    start=st.integers(0, 10**9),
)
@example(parts=[(24.4, -50.0), (3.03, LOUD), (1.5, -50.0)], start=0)
def test_two_parts_are_the_whole_and_neither_is_tiny(parts, start):
    samples = seconds(*parts)
    assert 0 <= loud_seconds(Window(start, samples)) <= len(samples) / RATE
    if found := split_in_two(Window(start, samples)):
        first, second = found
        assert (first.start, second.start) == (start, start + len(first.samples))
        assert np.array_equal(np.concatenate((first.samples, second.samples)), samples)
        assert min(first.seconds, second.seconds) >= 0.5
