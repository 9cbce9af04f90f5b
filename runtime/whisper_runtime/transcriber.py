"""From a recording to text: windows, mel, encoder, decoder."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisper_runtime.audio import SAMPLE_RATE, check_samples, load_audio
from whisper_runtime.backends import Backend, Features, open_backend
from whisper_runtime.bundle import Bundle
from whisper_runtime.closing import Closing
from whisper_runtime.decoding import GreedyDecoder
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import TokenizerError, WhisperError
from whisper_runtime.mel import window_mel
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.windows import Window, cut_windows


@dataclass(frozen=True)
class Segment:
    """The text of one window.

    Attributes:
        start, end: seconds from the recording's start.
        text: what was said.
        tokens: the text's tokens.
        avg_logprob: mean natural log probability of the tokens.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    avg_logprob: float


class Transcriber(Closing):
    """Transcribes recordings with any backend that keeps the two-graph contract.

    One recording at a time: a backend that encodes ahead has buffers for no more. A context manager, which closes
    the backend.

    Args:
        backend: runs the encoder and the decoder graph; the transcriber's from now on.
        embedding: the host's embeddings.
        tokenizer: the model's tokenizer.
        seconds: window of the encoder graph.
        sequence: slots of the decoder graph.
    """

    def __init__(
        self,
        backend: Backend,
        embedding: TokenEmbedding,
        tokenizer: Tokenizer,
        seconds: int,
        sequence: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.seconds = seconds
        self._backend = backend
        self._decoder = GreedyDecoder(backend, embedding, tokenizer, sequence)

    @classmethod
    def from_bundle(cls, folder: str | Path, backend: str | None = None, share_device: bool = False) -> "Transcriber":
        """Verify a bundle and open it.

        Args:
            folder: the bundle's folder.
            backend: "hailort" or "onnxruntime"; None for the one that the bundle is for.
            share_device: let other programs use the accelerator at the same time.

        Raises:
            BundleError: the bundle is damaged or not one.
            HefError: a compiled graph is damaged or does not fit the bundle or the device.
            BackendError: it cannot run here.
        """
        bundle = Bundle.open(folder)
        embedding, tokenizer = bundle.embedding(), bundle.tokenizer()
        # Last, so that nothing can fail while the device is held.
        opened = open_backend(bundle, backend, share_device)
        return cls(opened, embedding, tokenizer, bundle.manifest.seconds, bundle.manifest.sequence)

    def close(self) -> None:
        """Give the device back. No more can be transcribed."""
        self._backend.close()

    def prompt(self, language: str | None = None) -> tuple[int, ...]:
        """The sot sequence for a language code (default English) without timestamps.

        Raises:
            TokenizerError: the model does not know the language.
        """
        if language is None:
            return self.tokenizer.sot_sequence()
        if not self.tokenizer.multilingual and language != "en":
            raise TokenizerError(f"language '{language}': an .en model knows only English")
        if self.tokenizer.multilingual and language not in self.tokenizer.languages:
            raise TokenizerError(f"unknown language '{language}': use a code such as en, de or fr")
        return self.tokenizer.sot_sequence(language)

    def transcribe(self, audio: str | os.PathLike[str] | np.ndarray, language: str | None = None) -> Iterator[Segment]:
        """Yield the text window by window, as it is decoded.

        Where the backend can, the next window is encoded while one is decoded. What was said before a window that
        fails is yielded first.

        Args:
            audio: a file, or mono samples at 16 kHz (float in +-1, or int16).
            language: code such as "en"; None for English.

        Raises:
            AudioError: the recording cannot be used.
            TokenizerError: the model does not know the language.
            BackendError: the device fails.
        """
        prompt = self.prompt(language)
        samples = check_samples(audio, "audio") if isinstance(audio, np.ndarray) else load_audio(audio)
        ahead: deque[tuple[Window, Features]] = deque()
        failure = None
        for window in cut_windows(samples, self.seconds):
            mel = window_mel(window.samples, self.seconds)
            try:
                ahead.append((window, self._backend.encode(np.ascontiguousarray(mel.T[None]))))
            except WhisperError as error:
                failure = error
                break
            if len(ahead) > self._backend.lookahead:
                yield self._decode(*ahead.popleft(), prompt)
        while ahead:
            yield self._decode(*ahead.popleft(), prompt)
        if failure is not None:
            raise failure

    def _decode(self, window: Window, features: Features, prompt: tuple[int, ...]) -> Segment:
        decoded = self._decoder.decode(features, prompt)
        return Segment(
            start=window.start / SAMPLE_RATE,
            end=(window.start + len(window.samples)) / SAMPLE_RATE,
            text=self.tokenizer.decode(decoded.tokens).strip(),
            tokens=decoded.tokens,
            avg_logprob=decoded.avg_logprob,
        )

    def text(self, audio: str | os.PathLike[str] | np.ndarray, language: str | None = None) -> str:
        """Return the whole text of a recording, windows joined by spaces. Raises as `transcribe`."""
        return " ".join(filter(None, (segment.text for segment in self.transcribe(audio, language))))
