"""Speech for calibration and evaluation: the runtime's readers, and what can be fetched."""

from pathlib import Path

from whisper_runtime import datasets
from whisper_runtime.datasets import AudioFolder, Dataset, JsonLines, LibriSpeech, Utterance, digest, select

from whisper_toolchain.datasets.fetch import get_speech
from whisper_toolchain.datasets.registry_sample import RegistrySample

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

READERS: tuple[type[Dataset], ...] = (RegistrySample, *datasets.READERS)


def open_dataset(spec: str | Path, *, keep_missing: bool = False) -> Dataset:
    """As the runtime's `open_dataset`, which knows no registry sample. Raises DatasetError where no reader fits."""
    return datasets.open_dataset(spec, keep_missing=keep_missing, readers=READERS)
