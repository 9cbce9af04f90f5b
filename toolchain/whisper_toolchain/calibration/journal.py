"""What of a calibration set is done: a line for each piece, so that an interrupted run can go on where it was."""

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whisper_runtime.json_lines import append_line, read_lines


@dataclass(frozen=True)
class CutWindow:
    """A window of a recording, and how it sounds.

    Attributes:
        recording: id of the utterance.
        speaker: who speaks; None where nobody says.
        start: its first sample in the recording, at 16 kHz.
        samples: how many it has.
        peak: its loudest sample, full scale being 1.
        clipped: how many samples are at full scale.
    """

    recording: str
    speaker: str | None
    start: int
    samples: int
    peak: float
    clipped: int


@dataclass
class Done:
    """What a journal says.

    Attributes:
        recordings: ids of those that are cut, in their order.
        windows: theirs; the index is the row.
        encoded: rows whose features are there.
        texts: row -> tokens, where the decoder's arrays have that row.
    """

    recordings: list[str] = field(default_factory=list)
    windows: list[CutWindow] = field(default_factory=list)
    encoded: set[int] = field(default_factory=set)
    texts: dict[int, list[int]] = field(default_factory=dict)


class Journal:
    """A file of JSON lines, each with its checksum. A line is written after what it speaks of is on disk.

    Attributes:
        done: what the file says, and what was added.
        damaged_line: number of the first line that is not as it was written, None if there was none. It was taken off
            the file with all that followed it, which counts as not done.

    Args:
        path: the file; what is there is read.

    Raises:
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.done = Done()
        self.damaged_line: int | None = None
        self._path = path
        place = 0
        for number, line in enumerate(read_lines(path), 1):
            entry = _entry(line)
            if entry is None:
                self.damaged_line = number
                os.truncate(path, place)
                break
            self._take(entry)
            place += len(line) + 1

    def add_recordings(self, cut: Sequence[tuple[str, Sequence[CutWindow]]]) -> None:
        """Recordings, by their ids, are cut, and their rows are on disk."""
        if cut:
            self._add({"cut": [[recording, [asdict(window) for window in windows]] for recording, windows in cut]})

    def add_encoded(self, rows: Sequence[int]) -> None:
        """Rows of the features are on disk."""
        if rows:
            self._add({"encoded": sorted(rows)})

    def add_texts(self, texts: dict[int, list[int]]) -> None:
        """Rows of the decoder's arrays are on disk."""
        self._add({"texts": [[row, tokens] for row, tokens in sorted(texts.items())]})

    def _add(self, entry: dict[str, Any]) -> None:
        append_line(self._path, {"entry": entry, "crc32": _checksum(entry)})
        self._take(entry)

    def _take(self, entry: dict[str, Any]) -> None:
        for recording, windows in entry.get("cut", ()):
            self.done.recordings.append(recording)
            self.done.windows += [CutWindow(**window) for window in windows]
        self.done.encoded.update(entry.get("encoded", ()))
        self.done.texts.update(dict(entry.get("texts", ())))


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if it is not as it was written."""
    try:
        read = json.loads(line)
        entry: dict[str, Any] = read["entry"]
        return entry if read["crc32"] == _checksum(entry) else None
    except (ValueError, KeyError, TypeError):
        return None


def _checksum(entry: Any) -> int:
    return zlib.crc32(json.dumps(entry, sort_keys=True).encode())
