"""Calibration sets: what the two graphs are fed in use, recorded from the float model on real speech.

    encoder_mel.npy                 (N, 1, 100*s, 80)   log-mel windows
    decoder_features.npy            (N, 1, 50*s, d)     the encoder's output for the same windows
    decoder_token_embeddings.npy    (N, seq, 1, d)      the model's own greedy transcripts, embedded
    decoder_lengths.npy             (N,)                filled slots of each row

all float32 in the device's layout, and the same four as `holdout_*.npy` from recordings that are in no
calibration row, for measuring what quantisation costs. Rows are written as they are made.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from tqdm import tqdm
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.backends import Backend
from whisper_runtime.decoding import GreedyDecoder
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.mel import window_mel
from whisper_runtime.slot_decoder import SlotDecoder, fill_slots
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.windows import cut_windows

from whisper_toolchain.datasets import Utterance
from whisper_toolchain.errors import DatasetError
from whisper_toolchain.shape_plan import ShapePlan

HOLDOUT_WINDOWS = 8
HOLDOUT_SHARE = 4  # one recording in four at most


@dataclass(frozen=True)
class CalibrationFiles:
    """Names of the four arrays of one set."""

    mel: str
    features: str
    token_embeddings: str
    lengths: str


CALIBRATION = CalibrationFiles(
    "encoder_mel.npy", "decoder_features.npy", "decoder_token_embeddings.npy", "decoder_lengths.npy"
)
HOLDOUT = CalibrationFiles(
    "holdout_mel.npy",
    "holdout_features.npy",
    "holdout_token_embeddings.npy",
    "holdout_lengths.npy",
)


@dataclass(frozen=True)
class PlannedWindow:
    """One window to record: a piece of an utterance, in samples at 16 kHz."""

    utterance: Utterance
    start: int
    length: int


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


def plan_windows(utterances: Sequence[Utterance], seconds: int, limit: int) -> list[PlannedWindow]:
    """Cut recordings as the runtime does until there are `limit` windows. Raises AudioError."""
    planned: list[PlannedWindow] = []
    for utterance in utterances:
        if len(planned) >= limit:
            break
        for window in cut_windows([load_audio(utterance.path)], seconds):
            planned.append(PlannedWindow(utterance, window.start, len(window.samples)))
    return planned[:limit]


class ArrayWriter:
    """Writes an npy file row by row, so that memory does not grow with the number of rows.

    Args:
        path: the file to write.
        shape: shape of the whole array; the first axis counts the rows.
        dtype: numpy dtype of the rows.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self._file = path.open("wb")
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._rows = 0
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)  # type: ignore[no-untyped-call]

    def append(self, row: np.ndarray) -> None:
        """Write the next row. Raises ValueError if its shape or type is not the array's."""
        if row.shape != self._shape[1:] or row.dtype != self._dtype or self._rows == self._shape[0]:
            raise ValueError(f"row {self._rows}: {row.dtype} {row.shape} does not fit {self._shape}")
        self._file.write(np.ascontiguousarray(row).tobytes())
        self._rows += 1

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None and self._rows != self._shape[0]:
            raise ValueError(f"{self._file.name}: {self._rows} rows written, {self._shape[0]} announced")


def record(
    windows: Sequence[PlannedWindow],
    files: CalibrationFiles,
    folder: Path,
    plan: ShapePlan,
    backend: Backend,
    embedding: TokenEmbedding,
    tokenizer: Tokenizer,
) -> None:
    """Run the float model over windows and write one set of arrays.

    Args:
        windows: what to record, in the order of the rows; windows of one recording follow each other.
        files: names of the arrays.
        folder: where to write them.
        plan: the shapes.
        backend: runs the exported float graphs.
        embedding: the checkpoint's embeddings.
        tokenizer: gives the prompt.

    Raises:
        AudioError: a recording cannot be read.
        BackendError: a graph fails.
    """
    count, state = len(windows), plan.state
    slots = SlotDecoder(backend, embedding, plan.sequence)
    decoder = GreedyDecoder(slots, tokenizer)
    prompt, rules = tokenizer.sot_sequence(), TokenRules(tokenizer)
    samples: np.ndarray = np.zeros(0, np.float32)
    loaded = ""
    with (
        ArrayWriter(folder / files.mel, (count, 1, plan.mel_frames, plan.dims.n_mels), np.float32) as mels,
        ArrayWriter(folder / files.features, (count, 1, plan.feature_frames, state), np.float32) as features,
        ArrayWriter(folder / files.token_embeddings, (count, plan.sequence, 1, state), np.float32) as embedded,
        ArrayWriter(folder / files.lengths, (count,), np.int32) as lengths,
    ):
        for window in progress(windows, f"calibrate: {files.mel}"):
            if window.utterance.id != loaded:
                samples, loaded = load_audio(window.utterance.path), window.utterance.id
            mel = window_mel(samples[window.start : window.start + window.length], plan.seconds).T[None]
            encoded = backend.encode(np.ascontiguousarray(mel))
            slots.begin(encoded)
            tokens = decoder.decode(prompt, rules, window.length / SAMPLE_RATE).tokens
            ids, positions = fill_slots(prompt, tokens, plan.sequence)
            mels.append(mel)
            features.append(encoded)
            embedded.append(embedding.embed(ids, positions, plan.sequence))
            lengths.append(np.array(len(ids), np.int32))


def progress(items: Sequence[PlannedWindow], what: str) -> Iterator[PlannedWindow]:
    """Yield the items with a bar on a terminal, and with a plain line at every fifth of them elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, unit="window", file=sys.stderr)
        return
    said = 0
    for done, item in enumerate(items, start=1):
        yield item
        if done * 5 // len(items) > said:
            said = done * 5 // len(items)
            print(f"{what}: {done} of {len(items)} windows", file=sys.stderr, flush=True)  # noqa: T201 - progress
