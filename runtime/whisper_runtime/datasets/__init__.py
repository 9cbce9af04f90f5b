"""Speech to measure on: one small reader a file, one place that picks among them. Needs the standard library only."""

from collections.abc import Sequence
from pathlib import Path

from whisper_runtime.datasets.base import Dataset, Utterance, digest, select
from whisper_runtime.datasets.folder import AudioFolder
from whisper_runtime.datasets.jsonl import JsonLines
from whisper_runtime.datasets.librispeech import LibriSpeech
from whisper_runtime.errors import DatasetError

__all__ = [
    "READERS",
    "AudioFolder",
    "Dataset",
    "JsonLines",
    "LibriSpeech",
    "Utterance",
    "digest",
    "open_dataset",
    "select",
]

# A new reader is one class with `fits` and `utterances`, and one entry here; the first that fits is used.
READERS: tuple[type[Dataset], ...] = (JsonLines, LibriSpeech, AudioFolder)


def open_dataset(
    spec: str | Path, *, keep_missing: bool = False, readers: Sequence[type[Dataset]] = READERS
) -> Dataset:
    """The first of `readers` that fits the file or folder `spec`. Raises DatasetError where none does.

    With `keep_missing`, a recording that is listed and not there is an utterance like the others.
    """
    path = Path(spec).expanduser()
    if not path.exists():
        raise DatasetError(f"there is no dataset at {path}; give a folder of recordings or a .jsonl file")
    for reader in readers:
        if reader.fits(path):
            opened = reader(path)
            opened.keep_missing = keep_missing
            return opened
    raise DatasetError(f"{path} is neither a .jsonl file nor a folder of recordings")
