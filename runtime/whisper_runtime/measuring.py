"""Measures a way of transcribing on recordings: texts, times, calls. What they are worth is judged elsewhere.

Each recording's result is put on disk before the next one is begun, so that an evaluation which is interrupted goes on
where it stopped.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.errors import AudioError, WhisperError
from whisper_runtime.json_lines import append_line, read_lines
from whisper_runtime.sensors import NOTHING_READ
from whisper_runtime.timed_engine import Engine
from whisper_runtime.verified_files import sha256_file


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
        watts, celsius: the device's readings while it was transcribed; none for a short recording, or where the engine
            has no sensors.
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
    watts: tuple[float, ...] = ()
    celsius: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Measured":
        """Of what `as_dict` made. Raises TypeError or KeyError if it is something else."""
        data = {"watts": (), "celsius": (), **data}  # journals of before have neither
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
                **{name: tuple(map(float, values[name])) for name in ("watts", "celsius")},
            }
        )


class Journal:
    """What was measured already, by the digest of the recording's file.

    Args:
        path: the file; made if it is not there.

    Raises:
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Measured] = {}
        for line in read_lines(path):
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
        append_line(self._path, measured.as_dict())
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
            # The reader has the better words for what is not there.
            audio = sha256_file(clip.path) if clip.path.is_file() else ""
            known = journal.get(audio)
            if known is not None:
                yield replace(known, id=clip.id)
                continue
            began = time.perf_counter()
            samples = load_audio(clip.path)
            reading = time.perf_counter() - began
        except (AudioError, OSError) as error:
            yield Measured(clip.id, "", 0.0, error=str(error), unreadable=True)
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
        readings = opened.sensors.since(began) if opened.sensors is not None else NOTHING_READ
        measured = Measured(
            *(clip.id, audio, duration, text.strip(), seconds, spent, opened.calls - calls),
            watts=readings.watts,
            celsius=readings.celsius,
        )
        journal.add(measured)
        yield measured
