"""The recordings of an evaluation, and what is said of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from whisper_runtime.datasets import Dataset, digest, select
from whisper_runtime.errors import EvaluationError
from whisper_runtime.measuring import Clip, Measured


def choose_clips(speech: Dataset, limit: int | None, seed: int) -> tuple[list[Clip], dict[str, Any]]:
    """The recordings to measure on, and their entry in the result.

    Args:
        speech: opened with `keep_missing`, so that what is listed and not there is counted.
        limit: recordings at most; None for all.
        seed: of the draw.

    Raises:
        DatasetError: the speech cannot be listed.
        EvaluationError: no recording has a transcript.
    """
    utterances = speech.utterances()
    with_text = [utterance for utterance in utterances if utterance.text]
    chosen = with_text if limit is None else select(with_text, limit, seed)
    if not chosen:
        raise EvaluationError(
            f"{speech.name}: no recording has a transcript to compare with; in a folder it is .txt beside each"
        )
    return [Clip(utterance.id, utterance.path, utterance.text) for utterance in chosen], {
        "name": speech.name,
        "digest": digest(utterance for utterance in chosen if utterance.path.is_file()),
        "seed": seed,
        "limit": limit,
        "without_text": len(utterances) - len(with_text),
    }


def read_by(found: Mapping[str, Measured], clips: Iterable[Clip]) -> dict[str, Any]:
    """What is said of the recordings once a rung has read them: how many, how long, and which cannot be read."""
    good = [each for each in found.values() if not each.unreadable]
    return {
        "clips": len(good),
        "seconds": sum(each.duration for each in good),
        "unreadable": [
            {"id": clip.id, "reason": without_folder(found[clip.id].error, clip.path)}
            for clip in clips
            if found[clip.id].unreadable
        ],
    }


def without_folder(message: str, path: Path) -> str:
    """An error's message that names a file by its name alone: results are shown to others, folders are private."""
    return message.replace(repr(str(path)), repr(path.name))
