"""Measures a way of transcribing on recordings: texts, times, calls, memory. What they are worth is judged elsewhere.

Each recording's result is put on disk before the next one is begun, so that an evaluation which is interrupted goes on
where it stopped.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.backends import Backend, Features
from whisper_runtime.closing import Closing
from whisper_runtime.errors import AudioError, WhisperError
from whisper_runtime.text_decoder import TextDecoder
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber
from whisper_runtime.window_reader import WindowReader


@dataclass(frozen=True)
class Clip:
    """A recording to measure on. `text` is what is said in it, None where nobody wrote that down."""

    id: str
    path: Path
    text: str | None


@dataclass(frozen=True)
class Measured:
    """What one recording gave.

    Attributes:
        id: of the recording.
        audio: sha256 of its file; "" if the file cannot be read.
        duration: seconds of sound.
        text: the transcript.
        seconds: what reading the file and transcribing it took.
        stages: seconds of that in "encoder" and "decoder", where that is known. A device encodes beside other work:
            what had to be waited for is part of "decoder" there.
        calls: runs of the decoder's graph.
        error: one line if there is no transcript, otherwise "". `unreadable` if that is the recording's own fault.
    """

    id: str
    audio: str
    duration: float
    text: str = ""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    calls: int = 0
    error: str = ""
    unreadable: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Measured":
        """Of what `as_dict` made. Raises TypeError or KeyError if it is something else."""
        values = {each.name: data[each.name] for each in fields(cls)}
        if not all(isinstance(values[name], str) for name in ("id", "audio", "text", "error")):
            raise TypeError("a text is no text")
        return cls(
            **{
                **values,
                **{name: float(values[name]) for name in ("duration", "seconds")},
                "stages": {str(name): float(value) for name, value in dict(values["stages"]).items()},
                "calls": int(values["calls"]),
                "unreadable": bool(values["unreadable"]),
            }
        )


class Engine(Protocol):
    """One way of transcribing.

    Attributes:
        stages: seconds spent so far, by stage.
        calls: runs of the decoder's graph so far.
    """

    stages: dict[str, float]

    @property
    def calls(self) -> int:
        """Runs of the decoder's graph so far."""
        ...

    def text(self, samples: np.ndarray) -> str:
        """Transcribe mono samples at 16 kHz. Raises WhisperError."""
        ...


class TimedEngine(Closing):
    """A transcriber made of parts, whose encoder and decoder are timed. Closes the backend.

    Args:
        backend: runs the encoder.
        decoder: predicts the next token.
        tokenizer: the model's tokenizer.
        seconds: the encoder's window.
        language: code such as "en"; None to detect it in each recording.
        reader: makes the reader of single windows from the timed parts; None for the runtime's own.
    """

    def __init__(
        self,
        backend: Backend,
        decoder: TextDecoder,
        tokenizer: Tokenizer,
        seconds: int,
        language: str | None,
        reader: Callable[[Backend, TextDecoder], WindowReader] | None = None,
    ) -> None:
        self.stages = {"encoder": 0.0, "decoder": 0.0}
        self._decoder = decoder
        self._language = language
        timed_backend, timed_decoder = _TimedBackend(backend, self.stages), _TimedDecoder(decoder, self.stages)
        self._transcriber = Transcriber.from_parts(timed_backend, timed_decoder, tokenizer, seconds)
        if reader is not None:
            self._transcriber.reader = reader(timed_backend, timed_decoder)

    @property
    def calls(self) -> int:
        """Runs of the decoder's graph so far."""
        return self._decoder.calls

    def text(self, samples: np.ndarray) -> str:
        """Transcribe mono samples at 16 kHz. Raises WhisperError."""
        return self._transcriber.text(samples, language=self._language)

    def close(self) -> None:
        """Give the device back."""
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

    def close(self) -> None:
        self._backend.close()


class _TimedDecoder:
    """A text decoder that is timed."""

    def __init__(self, decoder: TextDecoder, stages: dict[str, float]) -> None:
        self._decoder = decoder
        self._stages = stages
        self.name = decoder.name
        self.calls = 0

    def begin(self, features: Features) -> None:
        with _timed(self._stages, "decoder"):
            self._decoder.begin(features)

    def room(self, prompt: int, text: int) -> int:
        return self._decoder.room(prompt, text)

    def logits(self, prompt: Sequence[int], text: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        with _timed(self._stages, "decoder"):
            logits = self._decoder.logits(prompt, text, rows)
        self.calls = self._decoder.calls
        return logits


@contextmanager
def _timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        stages[stage] += time.perf_counter() - began


class Journal:
    """What was measured already, by the digest of the recording's file: one line of JSON each, flushed as it comes.

    A last line that was cut off when the process was killed is dropped, and that recording measured again.

    Args:
        path: the file; made if it is not there.

    Raises:
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Measured] = {}
        if path.exists():
            text = path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if len(whole) < len(text):
                os.truncate(path, len(whole))
            for line in whole.splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a damaged line costs its recording another run
                    measured = Measured.from_dict(json.loads(line))
                    self._known[measured.audio] = measured

    def __len__(self) -> int:
        return len(self._known)

    def get(self, audio: str) -> Measured | None:
        """What a recording with this digest gave before."""
        return self._known.get(audio)

    def add(self, measured: Measured) -> None:
        """Keep a result. Raises OSError."""
        with self._path.open("ab") as file:
            file.write(json.dumps(measured.as_dict(), sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._known[measured.audio] = measured


def measure(engine: Callable[[], Engine], clips: Iterable[Clip], journal: Journal) -> Iterator[Measured]:
    """Transcribe recordings, but those that the journal has, and yield what each gave, in their order.

    A recording that cannot be read or transcribed yields a `Measured` with its `error`; that is not kept in the
    journal, so the next run tries again.

    Args:
        engine: opens what transcribes; called once, and only if there is something to do.
        clips: what to measure on.
        journal: results of earlier runs of the same engine.

    Raises:
        WhisperError: the engine cannot be opened.
        OSError: the journal cannot be written.
    """
    opened: Engine | None = None
    for clip in clips:
        try:
            began = time.perf_counter()
            samples = load_audio(clip.path)
            reading = time.perf_counter() - began
            audio = file_digest(clip.path)
        except (AudioError, OSError) as error:
            yield Measured(clip.id, "", 0.0, error=str(error), unreadable=True)
            continue
        known = journal.get(audio)
        if known is not None:
            yield replace(known, id=clip.id)
            continue
        if opened is None:
            opened = engine()
        duration = len(samples) / SAMPLE_RATE
        stages, calls, began = dict(opened.stages), opened.calls, time.perf_counter()
        try:
            text = opened.text(samples)
        except WhisperError as error:
            yield Measured(clip.id, audio, duration, error=str(error))
            continue
        seconds = reading + time.perf_counter() - began
        spent = {name: opened.stages[name] - before for name, before in stages.items()}
        measured = Measured(clip.id, audio, duration, text.strip(), seconds, spent, opened.calls - calls)
        journal.add(measured)
        yield measured


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class PeakMemory:
    """The most memory that this process has had resident since this object was made.

    Linux keeps that mark and resets it on request (man 5 proc, clear_refs). Where it cannot be reset, there is no
    figure, and not one that includes what was before.
    """

    def __init__(self) -> None:
        self._reset = True
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            self._reset = False

    @property
    def megabytes(self) -> float | None:
        """In units of 10**6 bytes; None where it cannot be told."""
        if not self._reset:
            return None
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
        return None


def machine() -> dict[str, Any]:
    """What this machine is: enough to judge its times by."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for path, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        with suppress(OSError, UnicodeDecodeError):
            for line in Path(path).read_text(encoding="utf-8").strip("\0").splitlines():
                if line.startswith(key):
                    return line.partition(":")[2].strip() if key else line
    return "unknown"
