"""Transcribes sound while it comes in.

The windows are those of a file, and so is the text that is committed: it is final, and the same as if the recording
had been transcribed as a whole. While a window grows, what is in it so far is decoded again and again, as partial
text that may still change. The partial text before is the draft of the next one, so that only what is new has to be
decoded token by token. Partial text is decoded greedily; several texts are followed, if at all, once a window is
complete.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from whisper_runtime.audio import SAMPLE_RATE, check_samples
from whisper_runtime.segment import Segment
from whisper_runtime.segmenting import segments_of
from whisper_runtime.spoken_language import LanguageGuess
from whisper_runtime.transcriber import Transcriber
from whisper_runtime.window_reader import Prompt, Reading
from whisper_runtime.windows import Window, WindowCutter

HOP_SECONDS = 1.0


@dataclass(frozen=True)
class StreamUpdate:
    """What is new.

    Attributes:
        committed: segments that are final, in order; each is given once.
        partial: text of what came in after them; the next update replaces it.
        heard: seconds of sound that came in so far.
        latency: seconds from when the sound of this update began to come in until its text was there: what it waited
            while older sound was decoded counts.
        calls: decoder calls that it took.
    """

    committed: tuple[Segment, ...]
    partial: str
    heard: float
    latency: float
    calls: int


class StreamTranscriber:
    """Transcribes one stream of sound.

    Args:
        transcriber: has the model; for this stream alone, as long as it lasts.
        language: code such as "en"; None to detect it (.en models: English), as in a recording.
        task: "transcribe", or "translate" into English.
        timestamps: decode by Whisper's rules for timestamps.
        initial_prompt: names and terms that may come up, as in a recording.
        hop: seconds of new sound after which there is a new partial text.

    Raises:
        TokenizerError: the model does not know the language or the task, or the initial prompt is too long.
        ValueError: the hop is shorter than a sample or endless.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        *,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = False,
        initial_prompt: str | None = None,
        hop: float = HOP_SECONDS,
    ) -> None:
        if not 1 / SAMPLE_RATE <= hop < math.inf:
            raise ValueError(f"a hop of {hop} s: it must be more than 0, and finite")
        self._transcriber = transcriber
        self._options = (task, timestamps, initial_prompt)
        transcriber.prompt(language, *self._options)  # before any sound
        self._spoken = transcriber.spoken_language(language)
        self._cutter = WindowCutter(transcriber.seconds)
        self._complete: deque[Window] = deque()  # not read yet: an interrupted read loses nothing
        self._hop = round(hop * SAMPLE_RATE)
        self._heard = 0
        self._decoded_at = 0
        self._draft: tuple[int, ...] = ()
        self._partial = ""
        self._glanced: list[tuple[Window, list[Reading]]] = []  # what the partial text was read in

    def push(self, samples: np.ndarray, arrived: float | None = None) -> Iterator[StreamUpdate]:
        """Take the next samples and yield what is new: the text of windows that are complete, then partial text.

        If more than a hop has come in at once, because decoding does not keep up, there is one partial text for all
        of it. What is committed does not depend on that.

        Args:
            samples: (n,) at 16 kHz, of any length: float in +-1, or int16. They are taken in as the result is read.
            arrived: when the first of them came in, by time.perf_counter(); None for now.

        Raises:
            AudioError: NaN, infinity, or not mono samples.
            BackendError: the device fails.
        """
        if not np.size(samples):
            return
        checked = check_samples(samples, "stream")
        if arrived is None:
            arrived = time.perf_counter()
        self._heard += len(checked)
        self._complete.extend(self._cutter.push(checked))
        yield from self._commit(arrived)
        if self._heard - self._decoded_at >= self._hop:
            self._decoded_at = self._heard - self._heard % self._hop
            yield self._guess(arrived)

    def finish(self) -> Iterator[StreamUpdate]:
        """Yield the text of what is left at the end of the stream. Raises BackendError."""
        arrived = time.perf_counter()
        self._complete.extend(self._cutter.finish())
        yield from self._commit(arrived)

    def _commit(self, arrived: float) -> Iterator[StreamUpdate]:
        while self._complete:
            window = self._complete[0]
            calls = self._transcriber.text_decoder.calls
            reader = self._transcriber.reader
            features = reader.encode(window)
            prompt = self._prompt(self._spoken.settle(features))
            readings = reader.read(window, features, prompt, self._draft)
            segments = tuple(segments_of(readings, self._transcriber.tokenizer))
            # What was read behind the cut is the guess for the next window.
            self._draft = self._draft[len(_tokens(readings)) :]
            self._partial, self._glanced = "", []
            self._complete.popleft()
            yield self._update(segments, arrived, calls)

    def _guess(self, arrived: float) -> StreamUpdate:
        calls = self._transcriber.text_decoder.calls
        if self._cutter.has_sound:
            draft, glanced = self._draft, list[tuple[Window, list[Reading]]]()
            for window in self._cutter.pending:
                found = self._glance(window, draft)
                glanced.append((window, found))
                draft = draft[len(_tokens(found)) :]
            self._glanced = glanced
            readings = [reading for _, found in glanced for reading in found]
            self._draft = _tokens(readings)
            self._partial = " ".join(segment.text for segment in segments_of(readings, self._transcriber.tokenizer))
        return self._update((), arrived, calls)

    def _glance(self, window: Window, draft: Sequence[int]) -> list[Reading]:
        """What is in a pending window; what was read at the last glance if it has not grown since."""
        for known, readings in self._glanced:
            if (known.start, known.seconds) == (window.start, window.seconds):
                return readings
        reader = self._transcriber.reader
        features = reader.encode(window)
        return reader.glance(window, features, self._prompt(self._spoken.guess(features)), draft)

    def _prompt(self, language: LanguageGuess) -> Prompt:
        return self._transcriber.prompt(language.code, *self._options)

    def _update(self, committed: tuple[Segment, ...], arrived: float, calls: int) -> StreamUpdate:
        return StreamUpdate(
            committed,
            self._partial,
            self._heard / SAMPLE_RATE,
            time.perf_counter() - arrived,
            self._transcriber.text_decoder.calls - calls,
        )


def _tokens(readings: Sequence[Reading]) -> tuple[int, ...]:
    return tuple(token for reading in readings for token in reading.decoded.tokens)
