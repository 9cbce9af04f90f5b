"""Word error rate of the float graphs and of a bundle on the same recordings, with the same decoder."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from whisper_runtime.audio import SAMPLE_RATE, load_audio

from whisper_toolchain.datasets import Utterance
from whisper_toolchain.word_errors import WordErrors, count_word_errors


@dataclass(frozen=True)
class Evaluation:
    """What one way of transcribing gave on a set of recordings.

    Attributes:
        errors: word errors over all recordings.
        texts: the transcripts, in the recordings' order.
        real_time_factor: seconds of work per second of speech.
    """

    errors: WordErrors
    texts: tuple[str, ...]
    real_time_factor: float


def evaluate(
    transcribe: Callable[[Path], str], recordings: Sequence[Utterance], whisper: Path, name: str
) -> Evaluation:
    """Transcribe recordings that have a text and count the errors.

    Args:
        transcribe: gives the text of a file.
        recordings: all with `text`.
        whisper: the unpacked openai-whisper, for its normaliser.
        name: shown beside the progress.

    Raises:
        AudioError: a recording cannot be read.
    """
    texts, seconds = [], 0.0
    started = time.perf_counter()
    for recording in tqdm(recordings, desc=name, file=sys.stderr, disable=not sys.stderr.isatty()):
        texts.append(transcribe(recording.path))
    elapsed = time.perf_counter() - started
    for recording in recordings:
        seconds += len(load_audio(recording.path)) / SAMPLE_RATE
    errors = count_word_errors([recording.text or "" for recording in recordings], texts, whisper)
    return Evaluation(errors, tuple(texts), elapsed / seconds if seconds else float("nan"))
