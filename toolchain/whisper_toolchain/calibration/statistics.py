"""What a calibration set covers, so that a bad one is seen before hours of compiling."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from whisper_runtime.audio import SAMPLE_RATE

from whisper_toolchain.calibration import CalibrationFiles
from whisper_toolchain.calibration.journal import Done

PERCENTILES = (99.9, 99.99, 99.995, 100.0)
"""Shares of a tensor's values, in percent, that a range keeps; 99.995 is the recipes' own."""

_BINS = 80
_SAMPLED_ROWS = 64  # for histograms and percentiles; extremes are taken of all rows
_FEW_SPEAKERS = 10
_QUIET_PEAK = 0.01  # of full scale: -40 dB
_CLIPPED_SAMPLES = 10  # at full scale in one window
_SHARE = 0.01  # of the windows that are quiet or clipped, before it is worth a warning
_RARE_ROWS = 8  # a slot that is filled more seldom has no statistics to speak of


@dataclass(frozen=True)
class TensorStatistics:
    """Values of one array.

    Attributes:
        name: the array's file.
        rows: how many it has.
        least, greatest: its extremes, over all rows.
        mean, deviation: over the sampled rows, as all that follows.
        counts: how many values are in each of equal parts of the range from `least` to `greatest`.
        ranges: for each of PERCENTILES, the range that keeps so many values, symmetric in its share of both ends.
    """

    name: str
    rows: int
    least: float
    greatest: float
    mean: float
    deviation: float
    counts: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class SetStatistics:
    """What a set covers.

    Attributes:
        tensors: of mel, features and token embeddings.
        seconds: length of each window.
        speakers: windows of each speaker; None is those of whom nobody says.
        filled: for each slot, in how many rows of the decoder it is filled.
        decoder_rows: how many those are.
        warnings: what is wrong with it, a line each.
    """

    tensors: tuple[TensorStatistics, ...]
    seconds: tuple[float, ...]
    speakers: dict[str | None, int]
    filled: tuple[int, ...]
    decoder_rows: int
    warnings: tuple[str, ...]


def measure_set(folder: Path, files: CalibrationFiles, done: Done, sequence: int) -> SetStatistics:
    """Measure a set that is recorded.

    Args:
        folder: holds the arrays.
        files: their names.
        done: what they were recorded from.
        sequence: slots of the decoder.
    """
    arrays = [np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in files.arrays]
    lengths = np.asarray(arrays[-1])
    filled = tuple(int((lengths > slot).sum()) for slot in range(sequence))
    speakers = dict(Counter(window.speaker for window in done.windows))
    warnings = [
        *_speaker_warnings(speakers),
        *_sound_warnings(done),
        *_duplicate_warnings(arrays[0]),
        *_text_warnings(done, filled, len(lengths)),
    ]
    return SetStatistics(
        tuple(_tensor(name, array) for name, array in zip(files.arrays[:-1], arrays[:-1], strict=True)),
        tuple(window.samples / SAMPLE_RATE for window in done.windows),
        speakers,
        filled,
        len(lengths),
        tuple(warnings),
    )


def _tensor(name: str, array: np.ndarray) -> TensorStatistics:
    extremes = [(float(row.min()), float(row.max())) for row in array]  # a row is read from the disk once
    least, greatest = min(low for low, _ in extremes), max(high for _, high in extremes)
    rows = np.unique(np.linspace(0, len(array) - 1, min(len(array), _SAMPLED_ROWS)).round().astype(int))
    values = np.concatenate([array[row].ravel() for row in rows])
    # Slots without a token are zeros that no range has to hold.
    values = values[values != 0.0] if (values != 0.0).any() else values
    counts, _ = np.histogram(values, _BINS, (least, greatest) if least < greatest else (least, least + 1.0))
    outside = np.array([(100.0 - kept) / 2 for kept in PERCENTILES])
    bounds = np.percentile(values, np.concatenate((outside, 100.0 - outside)))
    ranges = tuple(zip(bounds[: len(outside)].tolist(), bounds[len(outside) :].tolist(), strict=True))
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return TensorStatistics(name, len(array), least, greatest, mean, deviation, tuple(counts.tolist()), ranges)


def _speaker_warnings(speakers: dict[str | None, int]) -> list[str]:
    known = len(speakers) - (None in speakers)
    if not known:
        return ["nobody says who speaks, so it is not known whether the speakers are many"]
    return [f"only {known} speakers: ten and more are better"] if known < _FEW_SPEAKERS else []


def _sound_warnings(done: Done) -> list[str]:
    heard = {window.recording for window in done.windows}
    silent = [recording for recording in done.recordings if recording not in heard]
    warnings = [f"{len(silent)} recordings are silent and give no window: {_some(silent)}"] if silent else []
    quiet = [window.recording for window in done.windows if window.peak < _QUIET_PEAK]
    clipped = [window.recording for window in done.windows if window.clipped >= _CLIPPED_SAMPLES]
    for found, what in ((quiet, "are very quiet (below -40 dB of full scale)"), (clipped, "are clipped")):
        if len(found) > _SHARE * len(done.windows):
            warnings.append(f"{len(found)} of {len(done.windows)} windows {what}: {_some(found)}")
    return warnings


def _duplicate_warnings(mels: np.ndarray) -> list[str]:
    digests = Counter(hashlib.sha256(mel.tobytes()).digest() for mel in mels)
    again = sum(count - 1 for count in digests.values())
    return [f"{again} of {len(mels)} windows are there before, sample by sample"] if again else []


def _text_warnings(done: Done, filled: Sequence[int], rows: int) -> list[str]:
    warnings = []
    empty = sum(not tokens for tokens in done.texts.values())
    if empty > _SHARE * rows:
        warnings.append(f"the model reads nothing in {empty} of {rows} windows")
    rare = [slot for slot, count in enumerate(filled) if count < min(_RARE_ROWS, rows)]
    if rare:
        warnings.append(
            f"slots {rare[0] + 1} to {len(filled)} are filled in fewer than {_RARE_ROWS} rows: there are too few long "
            "or fast recordings"
        )
    return warnings


def _some(recordings: Sequence[str]) -> str:
    names = sorted(set(recordings))
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
