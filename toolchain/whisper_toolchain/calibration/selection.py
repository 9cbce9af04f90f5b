"""Which recordings are calibrated on, in which order, and which are put aside to measure with."""

import random
from collections.abc import Sequence

from whisper_runtime.audio import AudioFile

from whisper_toolchain.datasets import Utterance
from whisper_toolchain.errors import DatasetError

HOLDOUT_WINDOWS = 8
HOLDOUT_SHARE = 4  # one recording in four at most

_LENGTHS = 3  # short, medium and long recordings, a third of the dataset each


def split_holdout(utterances: Sequence[Utterance], seed: int) -> tuple[list[Utterance], list[Utterance]]:
    """Put recordings aside for measuring, seeded; return (calibration, holdout), each in drawing order.

    Recordings with a transcript are put aside first, so that one of them can be shown with its error rate.

    Raises:
        DatasetError: there are fewer than two recordings.
    """
    if len(utterances) < 2:
        raise DatasetError("calibration needs at least two recordings: one to calibrate on, one to measure")
    shuffled = sorted(utterances, key=lambda utterance: utterance.id)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - repeatable is what is wanted
    count = max(1, min(HOLDOUT_WINDOWS, len(shuffled) // HOLDOUT_SHARE))
    holdout = sorted(shuffled, key=lambda utterance: utterance.text is None)[:count]
    held = {utterance.id for utterance in holdout}
    return [utterance for utterance in shuffled if utterance.id not in held], holdout


def mix(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Reorder recordings so that any number from the front is a fair mix of speakers and lengths.

    Speakers take turns, and with each speaker short, medium and long recordings do. A compiler takes its statistics
    from the first rows of a set, so those must do for the whole. Recordings without a speaker count as one speaker's.

    Args:
        utterances: in drawing order, which decides between equals.

    Raises:
        AudioError: a recording cannot be opened.
    """
    durations = {utterance.id: _duration(utterance) for utterance in utterances}
    by_length = sorted(utterances, key=lambda utterance: durations[utterance.id])
    length_of = {utterance.id: place * _LENGTHS // len(by_length) for place, utterance in enumerate(by_length)}
    speakers: dict[str | None, list[list[Utterance]]] = {}
    for utterance in utterances:
        groups = speakers.setdefault(utterance.speaker, [[] for _ in range(_LENGTHS)])
        groups[length_of[utterance.id]].append(utterance)
    return _take_turns([_take_turns(groups) for groups in speakers.values()])


def _take_turns(groups: Sequence[Sequence[Utterance]]) -> list[Utterance]:
    """The first of each group, the second of each that has one, and so on."""
    rounds = max((len(group) for group in groups), default=0)
    return [group[turn] for turn in range(rounds) for group in groups if turn < len(group)]


def _duration(utterance: Utterance) -> float:
    """Seconds; 0 where the file does not say."""
    with AudioFile(utterance.path) as file:
        return file.duration or 0.0
