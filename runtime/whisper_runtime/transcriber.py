"""From a recording to text."""

import os
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from whisper_runtime.audio import SAMPLE_RATE, AudioFile, check_samples
from whisper_runtime.backends import Backend, Features, open_backend
from whisper_runtime.bundle import Bundle
from whisper_runtime.closing import Closing
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import BackendError, TokenizerError, WhisperError
from whisper_runtime.host_decoder import HostDecoder
from whisper_runtime.segment import Segment, TranscriptionInfo
from whisper_runtime.segmenting import segments_of
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.spoken_language import SpokenLanguage
from whisper_runtime.stitching import for_host_decoder
from whisper_runtime.text_decoder import TextDecoder
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.window_reader import Prompt, WindowReader
from whisper_runtime.windows import Window, cut_windows
from whisper_runtime.word_times import WordTimer

DECODERS = ("device", "host", "auto")
ENGLISH = "en"


class Transcriber(Closing):
    """Transcribes recordings with a bundle. A context manager, which gives the device back.

    One recording at a time: a backend that encodes ahead has buffers for no more.

    Args:
        bundle: the bundle's folder.
        backend: "hailort" or "onnxruntime"; None for the one that the bundle is for.
        decoder: "device" for the bundle's decoder on the device, "host" for the one on this machine's CPU, "auto" for
            the one that is faster here.
        share_device: let other programs use the accelerator at the same time.
        threads: threads of the CPU for each graph that runs on it; None for one per core.
        drafted: "auto" chooses for a stream, whose drafts save most of the device's calls.
        beam_size: texts that are followed at once, 1 to decode greedily. By the host's decoder always; None for 3
            (tiny) or 5 (base). By the device's where a text is in doubt, since each costs it calls; None for 1.

    Attributes:
        tokenizer: the model's tokenizer.
        seconds: the longest window. The host's decoder may have longer ones than the encoder; see `stitching`.
        reader: reads single windows.
        text_decoder: predicts the next token; counts its calls.

    Raises:
        BundleError: the bundle is damaged or not one.
        HefError: a compiled graph is damaged or does not fit the bundle or the device.
        BackendError: it cannot run here.
        ValueError: the beam size is less than 1.
    """

    # What the decoder for words' times is made of, where the device decodes a bundle; with the CPU's threads.
    _bundle: tuple[Bundle, TokenEmbedding, int | None] | None = None

    def __init__(
        self,
        bundle: str | Path,
        *,
        backend: str | None = None,
        decoder: str = "device",
        share_device: bool = False,
        threads: int | None = None,
        drafted: bool = False,
        beam_size: int | None = None,
    ) -> None:
        if decoder not in DECODERS:
            raise BackendError(f"unknown decoder '{decoder}': choose one of {', '.join(DECODERS)}")
        opened = Bundle.open(bundle, remember=True)
        manifest = opened.manifest
        embedding, tokenizer = opened.embedding(), opened.tokenizer()
        # Last, so that nothing can fail while the device is held.
        device = open_backend(opened, backend, share_device, with_decoder=decoder != "host", threads=threads)
        try:
            text_decoder: TextDecoder
            seconds = manifest.seconds
            if decoder == "device":
                text_decoder = SlotDecoder(device, embedding, manifest.sequence, beam_size)
            elif decoder == "host":
                device, seconds = for_host_decoder(device, opened.folder, seconds)
                text_decoder = HostDecoder(device, embedding, opened.folder, threads, beam_size)
            else:
                from whisper_runtime.choose_decoder import choose_decoder  # seldom wanted, and start-up counts

                device, text_decoder, seconds = choose_decoder(device, embedding, opened, threads, drafted, beam_size)
            self._set(device, text_decoder, tokenizer, seconds)
            self._bundle = opened, embedding, threads
        except BaseException:
            device.close()
            raise

    @classmethod
    def from_parts(
        cls, backend: Backend, text_decoder: TextDecoder, tokenizer: Tokenizer, seconds: int
    ) -> "Transcriber":
        """Transcribe with graphs that are in no bundle. The backend is the transcriber's from now on.

        Args:
            backend: runs the encoder.
            text_decoder: predicts the next token.
            tokenizer: the model's tokenizer.
            seconds: the longest window that the backend encodes.
        """
        transcriber = cls.__new__(cls)
        transcriber._set(backend, text_decoder, tokenizer, seconds)
        return transcriber

    def _set(self, backend: Backend, text_decoder: TextDecoder, tokenizer: Tokenizer, seconds: int) -> None:
        self._backend = backend
        self.text_decoder = text_decoder
        self.tokenizer = tokenizer
        self.seconds = seconds
        self.reader = WindowReader(backend, text_decoder, tokenizer, seconds)

    @cached_property
    def _word_timer(self) -> WordTimer:
        """Made when it is first asked for, since the device's decoder does without the CPU's. Raises BackendError."""
        reader, host = self.reader, self.text_decoder
        if not isinstance(host, HostDecoder):
            if self._bundle is None:
                raise BackendError("words have no times without the decoder for the CPU, which comes with a bundle")
            bundle, embedding, threads = self._bundle
            backend, seconds = for_host_decoder(self._backend, bundle.folder, self.seconds)
            host = HostDecoder(backend, embedding, bundle.folder, threads)
            reader = WindowReader(backend, host, self.tokenizer, seconds)
        return WordTimer(reader.encode, host, self.tokenizer)

    def close(self) -> None:
        """Give the device back. No more can be transcribed."""
        self._backend.close()

    def prompt(
        self,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = False,
        initial_prompt: str | None = None,
    ) -> Prompt:
        """How to ask for a text.

        Args:
            language: code such as "en"; None for English.
            task: "transcribe", or "translate" into English.
            timestamps: whether the text is to hold timestamps.
            initial_prompt: what the model is told before; see `transcribe`.

        Raises:
            TokenizerError: the model does not know the language or the task, or the initial prompt is too long.
        """
        if not self.tokenizer.multilingual and language not in (None, ENGLISH):
            raise TokenizerError(f"language '{language}': an .en model knows only English")
        if language is not None and language not in self.tokenizer.languages:
            raise TokenizerError(f"unknown language '{language}': use a code such as en, de or fr")
        tokens = self.tokenizer.sot_sequence(language or ENGLISH, task, timestamps)
        told = self._told(initial_prompt or "", len(tokens))
        return Prompt((*told, *tokens), TokenRules(self.tokenizer, timestamps), len(told))

    def _told(self, text: str, others: int) -> tuple[int, ...]:
        """The tokens of an initial prompt, as openai-whisper writes them, before so many others."""
        if not text.strip():
            return ()
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise TokenizerError("the initial prompt is no text: some of its bytes are not UTF-8")
        told = (self.tokenizer.sot_prev, *self.tokenizer.encode(" " + text.strip()))
        room = self.text_decoder.prompt_limit - others
        if len(told) > room:
            other = " or decode on the CPU (--decoder host)" if self.text_decoder.name == "device" else ""
            raise TokenizerError(
                f"the initial prompt is {len(told) - 1} tokens long, and there is room for {max(0, room - 1)}: make it "
                f"shorter{other}"
            )
        return told

    def spoken_language(self, language: str | None = None) -> SpokenLanguage:
        """The language of one recording: the one that is given, the only one of an .en model, or to be detected."""
        known = language or (None if self.tokenizer.multilingual else ENGLISH)
        return SpokenLanguage(self.reader.detect_language, known)

    def transcribe(
        self,
        audio: str | os.PathLike[str] | np.ndarray,
        *,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = False,
        initial_prompt: str | None = None,
        word_timestamps: bool = False,
    ) -> tuple[Iterator[Segment], TranscriptionInfo]:
        """Transcribe a recording of any length, in bounded memory.

        Where the backend can, the next window is encoded while one is decoded. What was said before a window that
        fails, or before the place where a file is damaged, is yielded first.

        Args:
            audio: a file, or mono samples at 16 kHz (float in +-1, or int16).
            language: code such as "en"; None to detect it (.en models: English): the first window that leaves little
                doubt settles it, each window before has its own.
            task: "transcribe", or "translate" into English.
            timestamps: decode by Whisper's rules for timestamps: a segment for each phrase.
            initial_prompt: names and terms that may come up, such as "Esszimmer, Loggia." The model is told so before
                each window, and spells them that way. Each window is read without that as well, and the likelier
                text is taken; where nothing is heard without it, there is none.
            word_timestamps: find when each word is said, and let segments begin and end with their words. The decoder
                on this machine's CPU does it, also where the device's decodes: it reads each text once more.

        Returns:
            The segments, made as they are asked for, and what is known of the recording before.

        Raises:
            AudioError: the recording cannot be used.
            TokenizerError: the model does not know the language or the task, or the initial prompt is too long.
            BackendError: the device fails, or words are asked for and the decoder on the CPU cannot be had.
        """
        self.prompt(language, task, timestamps, initial_prompt)  # before anything is read
        timer = self._word_timer if word_timestamps else None
        if isinstance(audio, np.ndarray):
            samples = check_samples(audio, "audio")
            duration: float | None = len(samples) / SAMPLE_RATE
            blocks: Iterator[np.ndarray] = iter([samples])
        else:
            file = AudioFile(audio)
            duration = file.duration
            blocks = _closing(file)
        windows = cut_windows(blocks, self.seconds)
        encoded: deque[tuple[Window, Features]] = deque()
        info = TranscriptionInfo(language or ENGLISH, 1.0, task, duration)
        spoken = self.spoken_language(language)
        if not spoken.is_settled:
            info.language_probability = 0.0
            first = next(windows, None)
            if first is not None:
                features = self.reader.encode(first)
                encoded.append((first, features))
                guess = spoken.settle(features)
                info.language, info.language_probability = guess.code, guess.probability
        return self._segments(windows, encoded, spoken, info, timestamps, initial_prompt, timer), info

    def text(
        self,
        audio: str | os.PathLike[str] | np.ndarray,
        *,
        language: str | None = None,
        initial_prompt: str | None = None,
    ) -> str:
        """Return the whole text of a recording, segments joined by spaces. Arguments and errors as of `transcribe`."""
        segments, _ = self.transcribe(audio, language=language, initial_prompt=initial_prompt)
        return " ".join(segment.text for segment in segments)

    def _segments(
        self,
        windows: Iterator[Window],
        ahead: deque[tuple[Window, Features]],
        spoken: SpokenLanguage,
        info: TranscriptionInfo,
        timestamps: bool,
        initial_prompt: str | None,
        timer: WordTimer | None,
    ) -> Iterator[Segment]:
        """Read windows, those that are encoded already and then the others."""

        def read(window: Window, features: Features) -> Iterator[Segment]:
            guess = spoken.settle(features)
            if spoken.is_settled:
                info.language, info.language_probability = guess.code, guess.probability
            prompt = self.prompt(guess.code, info.task, timestamps, initial_prompt)
            readings = self.reader.read(window, features, prompt)
            if timer is None:
                yield from segments_of(readings, self.tokenizer)
                return
            written = ENGLISH if info.task == "translate" else guess.code
            plain = self.tokenizer.sot_sequence(guess.code, info.task)
            for reading in readings:
                segments = list(segments_of([reading], self.tokenizer))
                yield from timer.timed(reading.window, segments, written, plain)

        failure = None
        while True:
            if len(ahead) > self.reader.lookahead:
                yield from read(*ahead.popleft())
            try:
                window = next(windows, None)
                if window is None:
                    break
                ahead.append((window, self.reader.encode(window)))
            except WhisperError as error:
                failure = error
                break
        while ahead:
            yield from read(*ahead.popleft())
        if failure is not None:
            raise failure


def _closing(file: AudioFile) -> Iterator[np.ndarray]:
    with file:
        yield from file.blocks()
