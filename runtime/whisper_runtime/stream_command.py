"""`whisper-runtime stream`: prints what is said while it is said."""

import json
import logging
import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TextIO

from whisper_runtime.errors import AudioError
from whisper_runtime.live_audio import LiveSound, read_pcm, record
from whisper_runtime.progress import clock
from whisper_runtime.segment import Segment
from whisper_runtime.streaming import StreamTranscriber, StreamUpdate

_log = logging.getLogger(__name__)


def stream(sound: Iterator[LiveSound], transcriber: StreamTranscriber, show: Callable[[StreamUpdate], None]) -> None:
    """Transcribe a stream to its end, or to Ctrl-C, which ends it as well: what was said until then is shown.

    Args:
        sound: what comes in.
        transcriber: takes them.
        show: is called with each update.

    Raises:
        AudioError: the sound cannot be read. What came before is shown first.
        BackendError: the device fails.
    """
    report = Report()

    def take(found: Iterator[StreamUpdate]) -> None:
        for update in found:
            report.count(update)
            show(update)

    failure: Exception | None = None
    try:
        for heard in sound:
            take(transcriber.push(heard.samples, heard.arrived))
    except KeyboardInterrupt:
        pass  # the usual way to end a microphone's stream
    except Exception as error:
        failure = error
    take(transcriber.finish())
    _log.info("%s", report)
    if failure is not None:
        raise failure


class Report:
    """Sums up a stream: `0:34 of sound, 38 updates, latency 0.21 s (95 %: 0.48 s), 214 decoder calls`."""

    def __init__(self) -> None:
        self._updates = self._calls = 0
        self._heard = 0.0
        self._latencies: deque[float] = deque(maxlen=3600)  # of the last hour or so: a stream may run for days

    def count(self, update: StreamUpdate) -> None:
        """Add an update."""
        self._updates += 1
        self._calls += update.calls
        self._heard = update.heard
        self._latencies.append(update.latency)

    def __str__(self) -> str:
        if not self._latencies:
            return "no sound"
        latencies = sorted(self._latencies)
        late = latencies[int(0.95 * (len(latencies) - 1))]
        return (
            f"{clock(self._heard)} of sound, {self._updates} updates, latency {statistics.median(latencies):.2f} s "
            f"(95 %: {late:.2f} s), {self._calls} decoder calls"
        )


class Lines:
    """Shows committed text as lines, and on a terminal the partial text in a line that is drawn over.

    Args:
        output: where to.
    """

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._is_terminal = output.isatty()

    def __call__(self, update: StreamUpdate) -> None:
        """Show what is new."""
        if self._is_terminal:
            self._output.write("\r\x1b[K")  # to the line's beginning, and clear it
        for segment in update.committed:
            self._output.write(f"[{segment.start:7.2f} - {segment.end:7.2f}] {_one_line(segment.text)}\n")
        if self._is_terminal and update.partial:
            # The end of it, in one line: a line that wraps could not be drawn over.
            self._output.write(f"... {_one_line(update.partial)[-70:]}")
        self._output.flush()


class JsonLines:
    """Shows each update as a line of JSON: committed segments, partial text, and how long it took.

    Args:
        output: where to.
    """

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def __call__(self, update: StreamUpdate) -> None:
        """Show what is new."""
        line = {
            "committed": [_as_json(segment) for segment in update.committed],
            "partial": update.partial,
            "heard": round(update.heard, 3),
            "latency": round(update.latency, 3),
            "calls": update.calls,
        }
        self._output.write(json.dumps(line) + "\n")
        self._output.flush()


def open_sound(source: str | None) -> Iterator[LiveSound]:
    """The stream's sound: of raw PCM on stdin for `-`, else of the microphone of that name. Raises AudioError."""
    if source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise AudioError("standard input: is closed or a terminal: pipe raw PCM into it")
        # Raw: the thread that waits for more would hold the lock of a buffer that Python wants to close at its end.
        return read_pcm(open(sys.stdin.fileno(), "rb", buffering=0, closefd=False), "standard input")
    return record(source)


def _as_json(segment: Segment) -> dict[str, object]:
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "avg_logprob": round(segment.avg_logprob, 4),
        "no_speech_prob": round(segment.no_speech_prob, 4),
    }


def _one_line(text: str) -> str:
    """Text without what could steer a terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
