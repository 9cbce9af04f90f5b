"""When each word of a text is said: by where in the window the decoder looks while it reads the text.

As in openai-whisper's timing.py: the scores of a few heads of cross-attention, which follow the sound, are made
comparable and smoothed, and the way through them that goes on from token to token and never back (dynamic time
warping) says when each token begins.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.backends import Features
from whisper_runtime.decoding import says_words
from whisper_runtime.errors import BackendError
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.segment import Segment, Word
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.windows import FRAME, Window, frame_levels, quiet_frames

_FRAMES_PER_SECOND = 50
_LEVELS = SAMPLE_RATE // FRAME // _FRAMES_PER_SECOND  # levels of 10 ms in a frame of the encoder's
_SMOOTHED = 7  # frames of the median filter, as in openai-whisper

# A word has no pause in it: before a stop the mouth is closed for a tenth of a second.
_PAUSE = 25  # of 10 ms

_MOST_BYTES = 4  # of a character in UTF-8, and so tokens

# Languages that are written without spaces: each sign that is complete is a word. As in openai-whisper.
_WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")


class WordTimer:
    """Finds the words of segments and when they are said.

    Args:
        encode: encodes a window for the decoder.
        decoder: the one on this machine's CPU; nobody else may use it meanwhile.
        tokenizer: the model's tokenizer.

    Raises:
        BackendError: the bundle is from before there were times for words.
    """

    def __init__(self, encode: Callable[[Window], Features], decoder: HostDecoder, tokenizer: Tokenizer) -> None:
        if not decoder.aligns:
            raise BackendError(
                "the bundle was built before its decoder for the CPU could say when words are spoken: build it again"
            )
        self._encode = encode
        self._decoder = decoder
        self._tokenizer = tokenizer

    def timed(
        self, window: Window, segments: Sequence[Segment], language: str, prompt: Sequence[int]
    ) -> Iterator[Segment]:
        """Yield the segments of one window with their words; they begin and end as their words do.

        Args:
            window: its sound.
            segments: what was read in it, in order.
            language: code of what the text is written in.
            prompt: the sot sequence of a text without timestamps.

        Raises:
            BackendError: a graph fails.
        """
        if not segments:
            return
        self._decoder.begin(self._encode(window))
        text = [token for segment in segments for token in segment.tokens]
        scores, probabilities = self._decoder.align(prompt, text)
        loud = ~quiet_frames(frame_levels(window.samples))
        frames = max(1, round(window.seconds * _FRAMES_PER_SECOND))
        begins = np.minimum(token_frames(scores[:, :, :frames]) * _LEVELS, len(loud))
        first = window.start / SAMPLE_RATE
        at = 0
        for segment in segments:
            words = []
            for tokens in split_words(self._tokenizer, segment.tokens, language not in _WITHOUT_SPACES):
                after = at + len(tokens)
                start, end = (first + place * FRAME / SAMPLE_RATE for place in _sounding(loud, *begins[[at, after]]))
                likely = float(probabilities[at:after].mean())
                words.append(Word(start, end, self._tokenizer.decode(tokens), likely))
                at = after
            yield replace(segment, start=words[0].start, end=words[-1].end, words=tuple(words))


def _sounding(loud: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """Where a word is heard: without the pauses at its ends, and of what is left on both sides of a pause the longer.

    Args:
        loud: of each 10 ms, whether it is loud.
        start, end: the first of them, and the one after the last.
    """
    heard = start + np.flatnonzero(loud[start:end])
    if not len(heard):
        return int(start), int(end)
    pieces = np.split(heard, np.flatnonzero(np.diff(heard) > _PAUSE) + 1)
    longest = max(pieces, key=len)
    return int(longest[0]), int(longest[-1]) + 1


def token_frames(scores: np.ndarray) -> np.ndarray:
    """The frame at which each token begins, (tokens,) int, never falling.

    Args:
        scores: (heads, tokens, frames) float, at least one of each, before softmax.
    """
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    # Some frames draw looks whatever is read. What counts is how much more this token looks at one than others do.
    spread = shares.std(axis=1, keepdims=True)
    shares = (shares - shares.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    around = _SMOOTHED // 2
    padded = np.pad(shares, ((0, 0), (0, 0), (around, around)), mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, _SMOOTHED, axis=-1), axis=-1)
    return cheapest_way(-smooth.mean(axis=0))


def cheapest_way(costs: np.ndarray) -> np.ndarray:
    """Dynamic time warping: at which column the cheapest way through all rows comes into each row, (rows,) int.

    The way goes from the first row to the end of the last one, a row down, a column on, or both at a time. It begins at
    any column.

    Args:
        costs: (rows, columns) float, at least one of each.
    """
    rows, columns = costs.shape
    places = np.arange(columns)
    entered = np.zeros((rows, columns), np.int64)  # where the cheapest way to each cell came into its row
    totals = np.zeros((rows + 1, columns + 1))  # what that way costs; row 0 is before the first, column 0 as well
    totals[1:, 0] = np.inf
    for row in range(rows):
        entry = np.minimum(totals[row, :-1], totals[row, 1:])  # from before, or from above
        summed = np.cumsum(costs[row])
        saved = entry - (summed - costs[row])  # the row's sum, less what is left out by coming in there
        least = np.minimum.accumulate(saved)
        entered[row] = np.maximum.accumulate(np.where(saved <= least, places, 0))
        totals[row + 1, 1:] = least + summed
    begins = np.zeros(rows, np.int64)
    column = columns - 1
    for row in range(rows - 1, -1, -1):
        begins[row] = column = entered[row, column]
        if totals[row, column] <= totals[row, column + 1] and column:
            column -= 1
    return begins


def split_words(tokenizer: Tokenizer, tokens: Sequence[int], spaced: bool = True) -> Iterator[list[int]]:
    """Yield the tokens of each word: what stands between spaces, or each complete sign of a text without spaces.

    Signs without a letter or digit go with the word before, the first ones with the word after.
    """
    words: list[list[int]] = []
    sign: list[int] = []
    for number, token in enumerate(tokens, start=1):
        sign.append(token)
        text = tokenizer.decode(sign)
        if "\ufffd" in text and len(sign) < _MOST_BYTES and number < len(tokens):
            continue  # a character of several tokens
        begins = text.startswith(" ") if spaced else says_words(text)
        if begins or not words:
            words.append(sign)
        else:
            words[-1] += sign
        sign = []
    merged: list[list[int]] = []
    for word in words:
        if merged and not (says_words(tokenizer.decode(word)) and says_words(tokenizer.decode(merged[-1]))):
            merged[-1] += word
        else:
            merged.append(word)
    yield from merged
