"""Transcripts as txt, srt, vtt, tsv and json, laid out as openai-whisper's own writers do.

Each piece of text is written, and handed to the system, as it comes. So a long recording is never held in memory,
and what was heard before a process was killed is there to read.

The text is whatever a model made of whatever was said; nothing in it can break a format. In every format:

- a run of control characters, line ends, tabs and byte order marks becomes one space, white space around the text is
  taken off, and half a surrogate pair becomes U+FFFD; a text of which nothing is left is left out;
- srt and vtt have `->` for `-->`, which only they cannot hold; vtt has `&amp;` and `&lt;` for `&` and `<`;
- tsv knows no quotes: a `"` is a character like others;
- times are whole milliseconds, rounded once. No piece of text begins before the one before it ends, each is at least
  1 ms long, and a time that is no number is that of the piece before.
"""

import contextlib
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from whisper_runtime.closing import Closing
from whisper_runtime.errors import WhisperError
from whisper_runtime.segment import Segment, TranscriptionInfo, Word

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")
_HALF_PAIRS = re.compile("[\ud800-\udfff]")
_ARROWS = re.compile("-{2,}>")  # with more hyphens too: a plain replacement leaves `-->` of `--->`


class OutputError(WhisperError):
    """A transcript cannot be written: no room, no permission, no such folder."""


@dataclass(frozen=True)
class Cue:
    """A piece of text, made safe to write.

    Attributes:
        number: counts from 0.
        start, end: milliseconds; start < end, and start is not before the end of the cue before.
        text: one line, not empty.
    """

    number: int
    start: int
    end: int
    text: str


class Format(ABC):
    """Makes the text of one transcript, piece by piece: `head`, then `add` for each segment, then `tail`.

    Args:
        info: of the recording.
    """

    def __init__(self, info: TranscriptionInfo) -> None:
        self._info = info
        self._count = 0
        self._end = 0

    def head(self) -> str:
        """What comes before the first segment."""
        return ""

    def add(self, segment: Segment) -> str:
        """A segment in this format; nothing if it holds no text."""
        text = _HALF_PAIRS.sub("\ufffd", _CONTROLS.sub(" ", segment.text)).strip()
        if not text:
            return ""
        start = max(self._end, _milliseconds(segment.start, self._end))
        end = max(start + 1, _milliseconds(segment.end, start))
        cue = Cue(self._count, start, end, text)
        self._count, self._end = self._count + 1, end
        return self._format(cue, segment)

    def tail(self) -> str:
        """What comes after the last segment."""
        return ""

    @abstractmethod
    def _format(self, cue: Cue, segment: Segment) -> str: ...


class Lines(Format):
    """For a person who looks on: `[   0.00 -    4.66] text`, times in seconds."""

    def _format(self, cue: Cue, segment: Segment) -> str:
        return f"[{cue.start / 1000:7.2f} - {cue.end / 1000:7.2f}] {cue.text}\n"


class Txt(Format):
    """The text alone, one segment a line."""

    def _format(self, cue: Cue, segment: Segment) -> str:
        return f"{cue.text}\n"


class Srt(Format):
    """SubRip subtitles. The format has no way to write `<b>` or `{\\an8}` as text: players may take it for a style."""

    def _format(self, cue: Cue, segment: Segment) -> str:
        text = _ARROWS.sub("->", cue.text)
        return f"{cue.number + 1}\n{_srt_time(cue.start)} --> {_srt_time(cue.end)}\n{text}\n\n"


class Vtt(Format):
    """WebVTT subtitles."""

    def head(self) -> str:
        """The format's name."""
        return "WEBVTT\n\n"

    def _format(self, cue: Cue, segment: Segment) -> str:
        text = _ARROWS.sub("->", cue.text).replace("&", "&amp;").replace("<", "&lt;")
        return f"{_vtt_time(cue.start)} --> {_vtt_time(cue.end)}\n{text}\n\n"


class Tsv(Format):
    """A table: start and end in milliseconds, text; separated by tabs, never quoted."""

    def head(self) -> str:
        """The names of the columns."""
        return "start\tend\ttext\n"

    def _format(self, cue: Cue, segment: Segment) -> str:
        return f"{cue.start}\t{cue.end}\t{cue.text}\n"


class Json(Format):
    """One object of segments, the whole text and the language; times in seconds. A number that is none is null.

    Segments have their words if they were asked for.

    The whole text comes last and is all that has to be remembered: 60 kB an hour.
    """

    def __init__(self, info: TranscriptionInfo) -> None:
        super().__init__(info)
        self._texts: list[str] = []

    def head(self) -> str:
        """The beginning of the segments."""
        return '{"segments": ['

    def tail(self) -> str:
        """The end of the segments, the whole text, and the language, which is certain only now."""
        text, language = json.dumps(" ".join(self._texts)), json.dumps(self._info.language)
        return f'\n], "text": {text}, "language": {language}}}\n'

    def _format(self, cue: Cue, segment: Segment) -> str:
        self._texts.append(cue.text)
        entry: dict[str, object] = {
            "id": cue.number,
            "start": cue.start / 1000,
            "end": cue.end / 1000,
            "text": cue.text,
            "tokens": [int(token) for token in segment.tokens],
            "avg_logprob": _number(segment.avg_logprob),
            "no_speech_prob": _number(segment.no_speech_prob),
        }
        if segment.words is not None:
            entry["words"] = [_word(word, cue) for word in segment.words]
        return f"{',' if cue.number else ''}\n{json.dumps(entry)}"


FORMATS: dict[str, type[Format]] = {"txt": Txt, "srt": Srt, "vtt": Vtt, "tsv": Tsv, "json": Json}
"""The formats by name, which is also the ending of their files."""


class Result(Closing):
    """Writes a transcript to a stream as it comes. Closing it does not close the stream.

    Args:
        stream: where to.
        layout: makes the text; of no other transcript.

    Raises:
        OSError: by all methods but `close`: the stream takes no more.
    """

    def __init__(self, stream: TextIO, layout: Format) -> None:
        self._stream = stream
        self._layout = layout
        self._put(layout.head())

    def write(self, segment: Segment) -> None:
        """Add a segment."""
        self._put(self._layout.add(segment))

    def finish(self) -> None:
        """Say that no more segments come."""
        self._put(self._layout.tail())

    def close(self) -> None:
        """Let go of it, finished or not."""

    def _put(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()


class ResultFile(Result):
    """Writes a transcript to `<path>.partial`, which takes the place of `path` when it is finished.

    So `path` is at any time a whole transcript or not there. What was never finished stays in
    `<path>.partial` if there is text in it.

    Args:
        path: the file, in a folder that is there.
        layout: makes the text.

    Raises:
        OutputError: by all methods but `close`: it cannot be written. It names the file.
    """

    def __init__(self, path: Path, layout: Format) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._holds_text = False
        self._finished = False
        with _naming(self._partial):
            stream = self._partial.open("w", encoding="utf-8", newline="\n")
        try:
            super().__init__(stream, layout)
        except OutputError:
            self.close()
            raise

    @property
    def kept(self) -> Path | None:
        """Where the text is that was written and not finished; None if there is none."""
        return self._partial if self._holds_text and not self._finished else None

    def write(self, segment: Segment) -> None:
        """Add a segment."""
        held, text = self._holds_text, self._layout.add(segment)
        self._holds_text |= bool(text)  # first: Ctrl-C right after the writing must not lose it
        try:
            self._put(text)
        except OutputError:
            self._holds_text = held
            raise

    def finish(self) -> None:
        """Put the whole transcript in its place, safe from a power cut."""
        super().finish()
        with _naming(self._path):
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._partial.replace(self._path)
            self._finished = True
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def close(self) -> None:
        """Let go of it. Unfinished, it is kept for the text that it holds, or removed if there is none."""
        # What could not be written was an error before; closing tries it once more.
        with contextlib.suppress(OSError):
            self._stream.close()
        if not self._finished and not self._holds_text:
            with contextlib.suppress(OSError):  # nothing to lose by leaving it
                self._partial.unlink(missing_ok=True)

    def _put(self, text: str) -> None:
        with _naming(self._partial):
            super()._put(text)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{str(path)!r}: cannot be written: {error.strerror or error}") from error


def _milliseconds(seconds: float, otherwise: int) -> int:
    scaled = float(seconds) * 1000
    return round(scaled) if math.isfinite(scaled) else otherwise


def _word(word: Word, cue: Cue) -> dict[str, object]:
    """A word in openai-whisper's JSON; its times are within those of its segment."""
    start, end = (
        min(max(_milliseconds(time, cue.start), cue.start), cue.end) / 1000 for time in (word.start, word.end)
    )
    return {"word": word.word, "start": start, "end": max(start, end), "probability": _number(word.probability)}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _srt_time(milliseconds: int) -> str:
    hours, rest = divmod(milliseconds, 3_600_000)
    return f"{hours:02d}:{rest // 60_000:02d}:{rest // 1000 % 60:02d},{rest % 1000:03d}"


def _vtt_time(milliseconds: int) -> str:
    """As srt, but for the point, and without hours in the first hour."""
    text = _srt_time(milliseconds).replace(",", ".")
    return text if milliseconds >= 3_600_000 else text[3:]
