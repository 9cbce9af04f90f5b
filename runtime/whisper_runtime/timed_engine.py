"""A way of transcribing that says what time its encoder and its decoder take."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from whisper_runtime.backends import Backend, Features
from whisper_runtime.closing import Closing
from whisper_runtime.sensors import Sensors
from whisper_runtime.text_decoder import BranchingDecoder, SearchableDecoder, TextDecoder
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber
from whisper_runtime.window_reader import WindowReader


class Engine(Protocol):
    """One way of transcribing.

    Attributes:
        stages: seconds spent so far, by stage.
        calls: runs of the decoder's graph so far.
        sensors: of the device that it runs on; None on this CPU.
    """

    stages: dict[str, float]
    sensors: Sensors | None

    @property
    def calls(self) -> int:
        """Runs of the decoder's graph so far."""
        ...

    def text(self, samples: np.ndarray) -> str:
        """Transcribe mono samples at 16 kHz. Raises WhisperError."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class TimedEngine(Closing):
    """A transcriber made of parts, whose encoder and decoder are timed. Closes the backend.

    Args:
        backend: runs the encoder.
        decoder: predicts the next token.
        tokenizer: the model's tokenizer.
        seconds: the longest window that the backend encodes.
        language: code such as "en"; None to detect it in each recording.
        reader: makes the reader of single windows from the timed parts; None for the runtime's own.
    """

    def __init__(
        self,
        backend: Backend,
        decoder: SearchableDecoder,
        tokenizer: Tokenizer,
        seconds: int,
        language: str | None,
        reader: Callable[[Backend, TextDecoder], WindowReader] | None = None,
    ) -> None:
        self.stages = {"encoder": 0.0, "decoder": 0.0}
        self._decoder = decoder
        self._language = language
        timed_backend, timed_decoder = _TimedBackend(backend, self.stages), _timed_decoder(decoder, self.stages)
        self._transcriber = Transcriber.from_parts(timed_backend, timed_decoder, tokenizer, seconds)
        if reader is not None:
            self._transcriber.reader = reader(timed_backend, timed_decoder)
        self.sensors = backend.sensors()  # last: from here on there is something to close

    @property
    def calls(self) -> int:
        """Runs of the decoder's graph so far."""
        return self._decoder.calls

    def text(self, samples: np.ndarray) -> str:
        """Transcribe mono samples at 16 kHz. Raises WhisperError."""
        return self._transcriber.text(samples, language=self._language)

    def close(self) -> None:
        """Give the device back."""
        if self.sensors is not None:
            self.sensors.close()
        self._transcriber.close()


class _TimedBackend(Closing):
    """A backend whose `encode` is timed. Decoders have the backend itself."""

    def __init__(self, backend: Backend, stages: dict[str, float]) -> None:
        self._backend = backend
        self._stages = stages
        self.lookahead = backend.lookahead

    def encode(self, mel: np.ndarray) -> Features:
        with _timed(self._stages, "encoder"):
            return self._backend.encode(mel)

    def decode(self, features: Features, token_embeddings: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        return self._backend.decode(features, token_embeddings, rows)

    def read_features(self, features: Features) -> np.ndarray:
        return self._backend.read_features(features)

    def sensors(self) -> Sensors | None:
        return self._backend.sensors()

    def close(self) -> None:
        self._backend.close()


class _TimedDecoder:
    """A text decoder that is timed."""

    def __init__(self, decoder: SearchableDecoder, stages: dict[str, float]) -> None:
        self._decoder = decoder
        self._stages = stages
        self.name = decoder.name
        self.calls = 0
        self.prompt_limit = decoder.prompt_limit
        self.beam_size = decoder.beam_size
        self.doubtful_logprob = decoder.doubtful_logprob

    def begin(self, features: Features) -> None:
        with _timed(self._stages, "decoder"):
            self._decoder.begin(features)

    def also(self, features: Features) -> None:
        with _timed(self._stages, "decoder"):
            self._decoder.also(features)

    def room(self, prompt: int, text: int) -> int:
        return self._decoder.room(prompt, text)

    def logits(self, prompt: Sequence[int], text: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        with _timed(self._stages, "decoder"):
            logits = self._decoder.logits(prompt, text, rows)
        self.calls = self._decoder.calls
        return logits


class _TimedBranchingDecoder(_TimedDecoder):
    """A decoder of several texts that is timed."""

    def __init__(self, decoder: BranchingDecoder, stages: dict[str, float]) -> None:
        super().__init__(decoder, stages)
        self._branching = decoder

    def branches(self, prompt: Sequence[int], texts: Sequence[tuple[int, ...]]) -> np.ndarray:
        with _timed(self._stages, "decoder"):
            logits = self._branching.branches(prompt, texts)
        self.calls = self._decoder.calls
        return logits


def _timed_decoder(decoder: SearchableDecoder, stages: dict[str, float]) -> SearchableDecoder:
    if isinstance(decoder, BranchingDecoder):
        return _TimedBranchingDecoder(decoder, stages)
    return _TimedDecoder(decoder, stages)


@contextmanager
def _timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        stages[stage] += time.perf_counter() - began
