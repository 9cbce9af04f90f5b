"""Segments: their text, their times, and when there is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_runtime import window_reader
from whisper_runtime.audio import SAMPLE_RATE as RATE
from whisper_runtime.decoding import Decoded
from whisper_runtime.segmenting import segments_of
from whisper_runtime.token_rules import SECONDS_PER_TIMESTAMP
from whisper_runtime.window_reader import LOOKS, Reading
from whisper_runtime.windows import Window

from tests.scripted_texts import VOCABULARY

LIKELY, SPEECH = -0.2, 0.01
SHIFTS = [look.shift for look in LOOKS]


def reading(tokens, start=0.0, seconds=10.0, shift=0.0, avg_logprob=LIKELY, no_speech_prob=SPEECH):
    window = Window(round(start * RATE), np.zeros(round(seconds * RATE), np.float32))
    return Reading(window, Decoded(tuple(tokens), avg_logprob, no_speech_prob), shift)


@pytest.fixture
def say(tokenizer):
    """Tokens of texts and of times in seconds."""

    def call(*parts):
        tokens = []
        for part in parts:
            if isinstance(part, str):
                tokens += tokenizer.encode(part)
            else:
                tokens.append(tokenizer.timestamp_begin + round(part / SECONDS_PER_TIMESTAMP))
        return tokens

    return call


# Without timestamps


@pytest.mark.parametrize("shift", SHIFTS)
def test_without_timestamps_there_is_one_segment_as_long_as_the_window(tokenizer, say, shift):
    tokens = say(" It is what it is. ")
    (segment,) = segments_of([reading(tokens, 62.5, 7.25, shift, -0.4, 0.125)], tokenizer)
    assert segment.text == "It is what it is."
    assert segment.tokens == tuple(tokens)
    assert (segment.start, segment.end) == pytest.approx((62.5, 69.75))
    assert (segment.avg_logprob, segment.no_speech_prob) == (-0.4, 0.125)


@pytest.mark.parametrize("text", ["", " ", "  \n", ".", " ...", " - ", " \u266a"])
def test_no_text_is_no_segment(tokenizer, say, text):
    assert list(segments_of([reading(say(text))], tokenizer)) == []
    assert list(segments_of([reading(say(0.0, text, 1.0))], tokenizer)) == []


@pytest.mark.parametrize("text", ["5.", "\u00e9", "\u56db", "\u0928\u093e"])
def test_a_word_of_any_script_is_a_segment(tokenizer, say, text):
    (segment,) = segments_of([reading(say(text))], tokenizer)
    assert segment.text == text


# With timestamps


def test_with_timestamps_there_is_a_segment_for_each_phrase(tokenizer, say):
    tokens = say(0.5, " One,", 2.0, 2.0, " two.", 4.5, 5.0, " Three!", 9.0)
    one, two, three = segments_of([reading(tokens, start=100)], tokenizer)
    assert [segment.text for segment in (one, two, three)] == ["One,", "two.", "Three!"]
    times = [time for segment in (one, two, three) for time in (segment.start, segment.end)]
    assert times == pytest.approx([100.5, 102.0, 102.0, 104.5, 105.0, 109.0])
    assert two.tokens == tuple(say(" two."))
    assert {segment.avg_logprob for segment in (one, two, three)} == {LIKELY}


def test_a_phrase_without_an_end_lasts_until_the_window_ends(tokenizer, say):
    tokens = say(0.0, " One,", 2.0, 2.0, " two")
    _, two = segments_of([reading(tokens, start=3, seconds=5)], tokenizer)
    assert (two.start, two.end) == pytest.approx((5, 8))


def test_a_phrase_without_a_beginning_starts_where_the_one_before_ends(tokenizer, say):
    one, two = segments_of([reading(say(" One", 1.0, " two", 3.0))], tokenizer)
    assert (one.start, one.end, two.start, two.end) == pytest.approx((0, 1, 1, 3))


def test_an_empty_phrase_is_left_out(tokenizer, say):
    tokens = say(0.0, " One", 1.0, 1.0, 2.0, 2.0, " two", 3.0, 3.0, " ", 4.0)
    assert [segment.text for segment in segments_of([reading(tokens)], tokenizer)] == ["One", "two"]


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_shift_is_subtracted(tokenizer, say, shift):
    tokens = say(1.0, " One,", 2.0, 3.0, " two.", 4.0)
    one, two = segments_of([reading(tokens, start=50, shift=shift)], tokenizer)
    times = np.array([one.start, one.end, two.start, two.end])
    assert times == pytest.approx(np.array([51, 52, 53, 54]) - shift)


def test_what_the_shift_moves_out_of_the_window_is_brought_back(tokenizer, say):
    tokens = say(0.0, " One,", 2.0, 2.0, " two.", 5.0 + SHIFTS[-1])
    one, two = segments_of([reading(tokens, start=50, seconds=5, shift=SHIFTS[-1])], tokenizer)
    assert one.start == 50
    assert two.end == pytest.approx(55)


@settings(deadline=None)
@given(data=st.data(), start=st.integers(0, 10**9), length=st.integers(1, 10 * RATE), shift=st.sampled_from(SHIFTS))
def test_times_never_go_back_and_never_leave_the_window(tokenizer, data, start, length, shift):
    word = st.sampled_from(
        [*range(5900, 5910), tokenizer.encode(" ")[0], tokenizer.sot, tokenizer.language_token("en")]
    )
    time = st.integers(tokenizer.timestamp_begin, VOCABULARY - 1)
    early = st.integers(tokenizer.timestamp_begin, tokenizer.timestamp_begin + 600)
    tokens = data.draw(st.lists(word | time | early, max_size=24))
    window = Window(start, np.zeros(length, np.float32))
    segments = list(segments_of([Reading(window, Decoded(tuple(tokens), LIKELY, SPEECH), shift)], tokenizer))
    first, last = start / RATE, start / RATE + window.seconds
    latest = first
    for segment in segments:
        assert latest <= segment.start <= segment.end <= last
        latest = segment.end
    texts = [segment.text for segment in segments]
    assert all(text == text.strip() != "" for text in texts)
    assert "".join("".join(texts).split()) == "".join(tokenizer.decode(tokens).split())


# Where nobody speaks


@pytest.mark.parametrize(
    ("no_speech", "likely", "kept"),
    [
        (window_reader._NO_SPEECH_PROB + 0.01, window_reader._NO_SPEECH_LOGPROB - 0.01, False),
        (window_reader._NO_SPEECH_PROB + 0.01, window_reader._NO_SPEECH_LOGPROB + 0.01, True),
        (window_reader._NO_SPEECH_PROB - 0.01, window_reader._NO_SPEECH_LOGPROB - 0.01, True),
        (0.99, -3.0, False),
        (0.99, -0.1, True),
        (0.0, -0.1, True),
    ],
)
def test_there_is_no_segment_where_nobody_speaks_and_the_text_is_unlikely(tokenizer, say, no_speech, likely, kept):
    for tokens in (say(" Thank you."), say(0.0, " Thank", 1.0, 1.0, " you.", 2.0)):
        found = list(segments_of([reading(tokens, avg_logprob=likely, no_speech_prob=no_speech)], tokenizer))
        assert bool(found) == kept


@pytest.mark.parametrize(("no_speech", "likely"), [(0.12, -2.56), (0.19, -2.45), (0.23, -2.19), (0.59, -2.44)])
def test_what_a_model_reads_into_the_noise_of_a_room_is_no_text(tokenizer, say, no_speech, likely):
    """What tiny gave for pauses with noise 25 to 35 dB below the speech; for speech it gave -1.01 at worst."""
    found = segments_of(
        [reading(say(" I'm going to be the first"), no_speech_prob=no_speech, avg_logprob=likely)], tokenizer
    )
    assert list(found) == []
