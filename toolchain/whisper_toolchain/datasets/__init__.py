"""Speech for calibration and evaluation: one small reader a file, one place that picks among them."""

from pathlib import Path

from whisper_toolchain.datasets.base import Dataset, Utterance, digest, select
from whisper_toolchain.datasets.fetch import get_speech
from whisper_toolchain.datasets.folder import AudioFolder
from whisper_toolchain.datasets.jsonl import JsonLines
from whisper_toolchain.datasets.librispeech import LibriSpeech
from whisper_toolchain.datasets.registry_sample import RegistrySample
from whisper_toolchain.errors import DatasetError

__all__ = [
    "READERS",
    "AudioFolder",
    "Dataset",
    "JsonLines",
    "LibriSpeech",
    "RegistrySample",
    "Utterance",
    "digest",
    "get_speech",
    "open_dataset",
    "select",
]

# A new reader is one class with `fits` and `utterances`, and one entry here; the first that fits is used.
READERS: tuple[type[Dataset], ...] = (JsonLines, RegistrySample, LibriSpeech, AudioFolder)


def open_dataset(spec: str | Path, *, keep_missing: bool = False) -> Dataset:
    """The reader that fits the file or folder `spec`. Raises DatasetError where none does.

    With `keep_missing`, a recording that is listed and not there is an utterance like the others.
    """
    path = Path(spec).expanduser()
    if not path.exists():
        raise DatasetError(f"there is no dataset at {path}; give a folder of recordings or a .jsonl file")
    for reader in READERS:
        if reader.fits(path):
            opened = reader(path)
            opened.keep_missing = keep_missing
            return opened
    raise DatasetError(f"{path} is neither a .jsonl file nor a folder of recordings")
