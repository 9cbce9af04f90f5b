"""What every reader of speech gives: utterances in an order that is the same on every machine."""

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisper_runtime.errors import DatasetError
from whisper_runtime.verified_files import sha256_file


@dataclass(frozen=True)
class Utterance:
    """One recording. `text` and `speaker` are None where nobody says; `id` does not depend on the folder."""

    id: str
    path: Path
    text: str | None
    speaker: str | None


class Dataset(ABC):
    """A reader of one kind of folder or file; `datasets.READERS` lists them.

    `name` goes into manifests; `notice` says whose speech it is and under which licence.
    """

    name: str
    notice: str
    keep_missing = False
    """Whether a recording that is listed and not there is given all the same, for a reader that counts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @abstractmethod
    def fits(cls, path: Path) -> bool:
        """True when `path` looks like what this reader reads."""

    @abstractmethod
    def utterances(self) -> list[Utterance]:
        """All utterances, sorted by id. Raises DatasetError where something is missing or malformed."""


def digest(utterances: Iterable[Utterance]) -> str:
    """Sha256 over id, audio bytes and text: the same speech has it wherever it lies.

    Raises DatasetError for a recording that cannot be read.
    """
    total = hashlib.sha256()
    for utterance in sorted(utterances, key=lambda item: item.id):
        try:
            audio = sha256_file(utterance.path)
        except OSError as error:
            raise DatasetError(f"cannot read {utterance.path}: {error.strerror or error}") from error
        # JSON, because it keeps the fields apart whatever they hold, and None apart from "".
        total.update(json.dumps([utterance.id, audio, utterance.text]).encode() + b"\n")
    return total.hexdigest()


def select(utterances: Sequence[Utterance], count: int, seed: int) -> list[Utterance]:
    """`count` utterances drawn with `seed`, sorted by id; all of them where there are no more than that.

    The draw depends on the ids alone, not on the order handed in. Raises DatasetError for a negative count.
    """
    if count < 0:
        raise DatasetError(f"cannot select {count} utterances")
    ordered = sorted(utterances, key=lambda item: item.id)
    if count >= len(ordered):
        return ordered
    chosen = random.Random(seed).sample(ordered, count)  # noqa: S311  # repeatable is what is wanted
    return sorted(chosen, key=lambda item: item.id)
