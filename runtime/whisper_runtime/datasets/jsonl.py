"""Recordings listed in a file of JSON lines, as many speech projects keep them."""

import json
from pathlib import Path, PurePath
from typing import Any

from whisper_runtime.datasets.base import Dataset, Utterance
from whisper_runtime.errors import DatasetError

AUDIO_KEYS = ("audio", "audio_filepath", "audio_path", "path")  # the second is NeMo's


class JsonLines(Dataset):
    """Reads `{"audio": ..., "text": ..., "speaker": ..., "id": ...}` a line; only the audio is required.

    Audio paths are relative to the file, or absolute. Without an id, the path as written is the id (of an
    absolute path its last part, so that the digest does not depend on the folder).
    """

    notice = "Recordings that your own list names, under whatever licence you have them."

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.name = f"jsonl-{path.stem}"

    @classmethod
    def fits(cls, path: Path) -> bool:
        """True for a file named .jsonl, or .json with NeMo's lines in it."""
        return path.is_file() and path.suffix.lower() in (".jsonl", ".json")

    def utterances(self) -> list[Utterance]:
        """One utterance a line, sorted by id; blank lines are skipped.

        Raises DatasetError with the line's number: not JSON, no audio, no such file, an id used twice.
        """
        try:
            lines = self.path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"cannot read {self.path}: {error}") from error
        found: dict[str, tuple[int, Utterance]] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{self.path}, line {number}"
            utterance = self._utterance(line, where)
            if utterance.id in found:
                first = found[utterance.id][0]
                raise DatasetError(f'{where}: {utterance.id!r} is on line {first} too; give each an "id"')
            found[utterance.id] = (number, utterance)
        if not found:
            raise DatasetError(f"{self.path} lists no recordings")
        return [found[key][1] for key in sorted(found)]

    def _utterance(self, line: str, where: str) -> Utterance:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{where}: not JSON ({error})") from error
        if not isinstance(entry, dict):
            raise DatasetError(f"{where}: not a JSON object")
        written = next((entry[key] for key in AUDIO_KEYS if key in entry), None)
        if not isinstance(written, str) or not written:
            raise DatasetError(f'{where}: "audio" must name a file')
        if entry.get("offset"):
            # Reading on from the start would pair the text with the wrong speech.
            raise DatasetError(f'{where}: "offset" is not supported; cut the recording first')
        path = self.path.parent / written
        try:
            there = path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there and not self.keep_missing:
            raise DatasetError(f"{where}: there is no file {written!r}")
        default = path.name if PurePath(written).is_absolute() else PurePath(written).as_posix()
        identity = _label(entry, "id", where)
        return Utterance(
            default if identity is None else identity,
            path,
            _text(entry, where),
            _label(entry, "speaker", where),
        )


def _text(entry: dict[str, Any], where: str) -> str | None:
    text = entry.get("text")
    if text is not None and not isinstance(text, str):
        raise DatasetError(f'{where}: "text" must be a string')
    return text


def _label(entry: dict[str, Any], key: str, where: str) -> str | None:
    """An id or speaker; numbers are common there and taken as they are written."""
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DatasetError(f'{where}: "{key}" must be a string that is not empty, or a whole number')
    return str(value)
