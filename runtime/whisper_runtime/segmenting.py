"""Makes segments of what was read in windows."""

from collections.abc import Iterable, Iterator, Sequence

from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.decoding import says_words
from whisper_runtime.segment import Segment
from whisper_runtime.token_rules import SECONDS_PER_TIMESTAMP
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.window_reader import Reading, hears_nothing


def segments_of(readings: Iterable[Reading], tokenizer: Tokenizer) -> Iterator[Segment]:
    """Yield the segments of each reading: one, or one for each pair of timestamps; none without a word.

    Times are seconds from the recording's start; in a reading they never go back and never leave its window.
    """
    for reading in readings:
        yield from _segments(reading, tokenizer)


def _segments(reading: Reading, tokenizer: Tokenizer) -> Iterator[Segment]:
    decoded, window = reading.decoded, reading.window
    if hears_nothing(decoded):
        return
    start = window.start / SAMPLE_RATE
    latest, last = start, start + window.seconds
    for begin, end, tokens in _phrases(decoded.tokens, tokenizer.timestamp_begin, window.seconds + reading.shift):
        text = tokenizer.decode(tokens).strip()
        first = min(max(latest, start + begin - reading.shift), last)
        latest = min(max(first, start + end - reading.shift), last)
        if says_words(text):
            yield Segment(first, latest, text, tokens, decoded.avg_logprob, decoded.no_speech_prob)


def _phrases(
    tokens: Sequence[int], timestamp_begin: int, seconds: float
) -> Iterator[tuple[float, float, tuple[int, ...]]]:
    """Split tokens at their timestamps; yields begin, end (seconds in the window) and text tokens of each phrase."""
    begin, text = 0.0, list[int]()
    for token in tokens:
        if token < timestamp_begin:
            text.append(token)
            continue
        time = (token - timestamp_begin) * SECONDS_PER_TIMESTAMP
        if text:
            yield begin, time, tuple(text)
            text = []
        begin = time
    if text:
        yield begin, seconds, tuple(text)
