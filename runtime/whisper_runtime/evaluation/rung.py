"""Measures one rung: its engine on all recordings, and what became of it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisper_runtime.canonical_json import canonical_digest
from whisper_runtime.errors import EvaluationError, WhisperError
from whisper_runtime.measuring import Clip, Journal, Measured, measure
from whisper_runtime.peak_memory import PeakMemory
from whisper_runtime.timed_engine import Engine
from whisper_runtime.verified_files import sha256_file

MEASURED, MISSING, FAILED = "measured", "missing", "failed"


class MissingRung(Exception):
    """A rung that cannot be measured here; the text says why."""


@dataclass(frozen=True)
class RungRun:
    """What became of a rung.

    Attributes:
        status: MEASURED, MISSING or FAILED.
        reason: why it is not MEASURED.
        clips: what each recording gave, by id.
        drafted: whether its slots were drafted.
        memory: most megabytes (10**6 bytes) that the process had meanwhile; None if it cannot be told, or nothing was
            left to do.
        sensors: why there is no power or temperature, in one line; "" if there is nothing to say.
    """

    status: str
    reason: str = ""
    clips: dict[str, Measured] = field(default_factory=dict)
    drafted: bool = False
    memory: float | None = None
    sensors: str = ""


def _is_known(clip: Clip, journal: Journal) -> bool:
    with suppress(OSError):  # what cannot be read is reported when its turn comes
        return clip.path.is_file() and journal.get(sha256_file(clip.path)) is not None
    return False


def open_journal(folder: Path, made_from: dict[str, Any]) -> Journal:
    """The journal of what was measured with just these inputs before.

    Args:
        folder: of all journals.
        made_from: everything that the texts depend on, as plain JSON values.

    Raises:
        EvaluationError: it cannot be read or written.
    """
    try:
        return Journal(folder / f"{canonical_digest(made_from)[:24]}.jsonl")
    except OSError as error:
        raise EvaluationError(f"{folder}: results cannot be kept there: {error.strerror or error}") from error


def measure_rung(
    name: str,
    open_engine: Callable[[], Engine],
    clips: Sequence[Clip],
    journal: Journal,
    *,
    drafted: bool = False,
    report: Callable[[str], None],
    progress: Callable[[float], None] = lambda seconds: None,
) -> RungRun:
    """Measure a rung.

    Args:
        name: for messages.
        open_engine: opens it; raises MissingRung or a WhisperError.
        clips: the recordings.
        journal: what was measured with the same before.
        drafted: whether its slots are drafted.
        report: takes one line.
        progress: takes the seconds of sound that are done, after each recording.

    Raises:
        OSError: the journal cannot be written.
    """
    memory, found, seconds = PeakMemory(), dict[str, Measured](), 0.0
    known = sum(_is_known(clip, journal) for clip in clips) if len(journal) else 0
    opened: list[Engine] = []

    def engine() -> Engine:
        opened.append(open_engine())
        return opened[0]

    report(f"evaluate: {name}: {len(clips)} clips" + (f", {known} known from before" if known else ""))
    sensors = ""
    try:
        for measured in measure(engine, clips, journal):
            found[measured.id] = measured
            seconds += measured.duration
            progress(seconds)
        if opened and opened[0].sensors is not None:
            sensors = opened[0].sensors.reason
    except MissingRung as error:
        return RungRun(MISSING, str(error))
    except WhisperError as error:
        return RungRun(FAILED, str(error))
    finally:
        for each in opened:
            each.close()
    if all(measured.error for measured in found.values()):
        reasons = [measured.error for measured in found.values() if not measured.unreadable]
        return RungRun(FAILED, reasons[0] if reasons else "no recording can be read", found)
    return RungRun(MEASURED, "", found, drafted, memory.megabytes if opened else None, sensors)
