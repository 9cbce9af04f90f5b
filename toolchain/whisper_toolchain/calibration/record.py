"""Records a calibration set: recordings are cut into windows, and the windows encoded and decoded in batches.

One thread cuts and computes mels, which is mostly Python; one a core encodes and decodes, each on a thread of its own,
so that no pools of threads fight for the cores. All of them write rows as they are made, at places that the drawing
order fixes, and nothing in a row depends on the rows beside it or on the number of threads. So an interrupted run goes
on where it stopped and ends in the same bytes, on any number of cores. What is lost is what was not yet noted in the
journal: the batches that were being decoded, and some windows that were cut or encoded.

Memory grows with the cores and not with the set: the weights, and for each core the features of a batch (_BATCH_BYTES)
with its logits.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from whisper_runtime.audio import SAMPLE_RATE, AudioFile
from whisper_runtime.backends import Backend
from whisper_runtime.decoding import GreedyDecoder
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.mel import window_mel
from whisper_runtime.slot_decoder import SlotDecoder, fill_slots
from whisper_runtime.token_rules import TokenRules
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.windows import cut_windows

from whisper_toolchain.calibration import CalibrationFiles
from whisper_toolchain.calibration.array_file import ArrayFile
from whisper_toolchain.calibration.batched_decoder import BatchedDecoder
from whisper_toolchain.calibration.journal import CutWindow, Done, Journal
from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.datasets import Utterance
from whisper_toolchain.float_model import HOST_TENSORS
from whisper_toolchain.shape_plan import ShapePlan

_MOST_BATCH = 64
_BATCH_BYTES = 33e6  # of features
_ENCODED_AT_ONCE = 4  # windows, so that a worker is not long without asking what is next

_RECORDINGS = 32  # that are cut between two entries in the journal
_ENCODED_TO_NOTE = 32  # windows that are encoded between two entries
_MOST_WORKERS = 8
_FULL_SCALE = 0.999


@dataclass(frozen=True)
class FloatModel:
    """What decodes the windows.

    Attributes:
        plan: the shapes.
        backend: runs the exported float graphs, with one thread for each call: its calls come from many threads.
        batched: decodes many windows at once.
        embedding: the checkpoint's embeddings.
        tokenizer: the model's tokenizer.
    """

    plan: ShapePlan
    backend: Backend
    batched: BatchedDecoder
    embedding: TokenEmbedding
    tokenizer: Tokenizer

    @classmethod
    def of(
        cls, plan: ShapePlan, backend: Backend, checkpoint: Checkpoint, tokenizer: Tokenizer, language: str = "en"
    ) -> "FloatModel":
        """The model of a checkpoint, of which only the embeddings are kept, as they are stored.

        `language` is the code of what is spoken. Raises TokenizerError if the model does not know it.
        """
        batched = BatchedDecoder(checkpoint, plan.sequence, tokenizer, tokenizer.sot_sequence(language))
        weight, positional = (checkpoint.state[f"decoder.{name}"] for name in HOST_TENSORS)
        return cls(plan, backend, batched, TokenEmbedding(weight, positional), tokenizer)


def record(
    utterances: Sequence[Utterance],
    encoder_rows: int,
    decoder_rows: int,
    files: CalibrationFiles,
    folder: Path,
    model: FloatModel,
) -> Done:
    """Write one set of arrays, or go on with it.

    Args:
        utterances: recordings, in the order in which they are used until there are enough rows.
        encoder_rows: rows of `mel` at most.
        decoder_rows: rows of the others at most; no more than of `mel`.
        files: names of the files.
        folder: where to write them; may hold what an interrupted run left.
        model: the float model.

    Returns:
        What was recorded.

    Raises:
        AudioError: a recording cannot be read.
        BackendError: a graph fails.
        OSError: the files cannot be written.
    """
    threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    # Cutting is Python, and the decoding's threads need Python between any two operations: 5 ms would be a long wait.
    sys.setswitchinterval(1e-4)
    try:
        with ExitStack() as stack:
            journal_path = folder / f"{files.rows}.journal"
            journal = Journal(journal_path)
            if journal.damaged_line is not None:
                _say(f"calibrate: {journal_path}: line {journal.damaged_line} is damaged; what follows is made again")
            arrays = stack.enter_context(_Arrays(folder, files, encoder_rows, decoder_rows, model.plan))
            decoding = stack.enter_context(_Decoding(model, arrays, journal, files.mel))
            _cut(utterances, encoder_rows, arrays, journal, model.plan.seconds, decoding)
            decoding.finish()
            done = journal.done
            arrays.finish(len(done.windows), min(len(done.windows), decoder_rows))
            _write_rows(folder / files.rows, done, model.tokenizer)
        journal_path.unlink(missing_ok=True)
        return done
    finally:
        torch.set_num_threads(threads)
        sys.setswitchinterval(interval)


def batch_size(plan: ShapePlan) -> int:
    """How many windows are decoded at once: what fits in a bound on their features, which bounds the memory."""
    return int(min(_MOST_BATCH, max(1, _BATCH_BYTES // (4 * plan.feature_frames * plan.state))))


def workers() -> int:
    """How many threads encode and decode: one for each core that this process may use, up to a bound."""
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


class _Arrays(ExitStack):
    """The four arrays of a set."""

    def __init__(
        self, folder: Path, files: CalibrationFiles, encoder_rows: int, decoder_rows: int, plan: ShapePlan
    ) -> None:
        super().__init__()

        def opened(name: str, rows: int, shape: tuple[int, ...], dtype: type = np.float32) -> ArrayFile:
            return self.enter_context(ArrayFile(folder / name, rows, shape, dtype))

        self.mel = opened(files.mel, encoder_rows, (1, plan.mel_frames, plan.dims.n_mels))
        self.features = opened(files.features, decoder_rows, (1, plan.feature_frames, plan.state))
        self.token_embeddings = opened(files.token_embeddings, decoder_rows, (plan.sequence, 1, plan.state))
        self.lengths = opened(files.lengths, decoder_rows, (), np.int32)

    @property
    def of_decoder(self) -> tuple[ArrayFile, ...]:
        return (self.features, self.token_embeddings, self.lengths)

    def finish(self, encoder_rows: int, decoder_rows: int) -> None:
        self.mel.finish(encoder_rows)
        for array in self.of_decoder:
            array.finish(decoder_rows)


def _cut(
    utterances: Sequence[Utterance],
    rows: int,
    arrays: _Arrays,
    journal: Journal,
    seconds: int,
    decoding: "_Decoding",
) -> None:
    """Cut recordings into windows as the runtime does, write the mels, and hand the windows to the decoding."""
    known = set(journal.done.recordings)
    cut: list[tuple[str, list[CutWindow]]] = []
    count = len(journal.done.windows)
    for row, known_window in enumerate(journal.done.windows):
        decoding.add(row, known_window)

    def note() -> None:
        arrays.mel.sync()
        journal.add_recordings(cut)
        cut.clear()

    for utterance in utterances:
        if count >= rows:
            break
        if utterance.id in known:
            continue
        windows: list[CutWindow] = []
        cut.append((utterance.id, windows))
        with AudioFile(utterance.path) as file:
            for window in cut_windows(file.blocks(), seconds):
                if count >= rows:
                    break
                arrays.mel.write(count, np.ascontiguousarray(window_mel(window.samples, seconds).T[None]))
                loud = np.abs(window.samples)
                peak, clipped = float(loud.max()), int((loud >= _FULL_SCALE).sum())
                found = CutWindow(utterance.id, utterance.speaker, window.start, len(window.samples), peak, clipped)
                windows.append(found)
                decoding.add(count, found)
                count += 1
        if len(cut) == _RECORDINGS:
            note()
    note()


class _Decoding:
    """Encodes and decodes rows on all cores, and notes in the journal which are done.

    Rows are encoded a few at a time as they come. Many that are encoded are decoded together: first those with the
    longest sounds, so that the texts of a batch end together.
    """

    def __init__(self, model: FloatModel, arrays: _Arrays, journal: Journal, what: str) -> None:
        self._model = model
        self._arrays = arrays
        self._journal = journal
        self._prompt = model.batched.prompt
        self._size = batch_size(model.plan)
        self._workers = workers()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="calibrate")
        self._seconds: dict[int, float] = {}
        self._to_encode: deque[int] = deque()
        self._encoded: list[int] = []
        self._unnoted: list[int] = []  # of those that are encoded
        self._encoding: dict[Future[None], list[int]] = {}
        self._batches: deque[list[int]] = deque()
        self._decoding: set[Future[dict[int, list[int]]]] = set()
        self._progress = _Progress(what)

    def __enter__(self) -> "_Decoding":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._progress.close()

    def add(self, row: int, window: CutWindow) -> None:
        """Take a window whose mel is written, if it is to be decoded and has not been. Raises what went wrong."""
        if row < self._arrays.features.rows and row not in self._journal.done.texts:
            self._seconds[row] = window.samples / SAMPLE_RATE
            if row in self._journal.done.encoded:
                self._encoded.append(row)
            else:
                self._to_encode.append(row)
            self._go_on()

    def finish(self) -> None:
        """Decode what is left; all windows are in the journal. Raises what went wrong in any batch."""
        self._progress.start(min(len(self._journal.done.windows), self._arrays.features.rows))
        self._go_on(all_known=True)
        while self._encoding or self._decoding:
            running: set[Future[Any]] = {*self._encoding, *self._decoding}
            wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            self._go_on(all_known=True)
            self._progress.show(len(self._journal.done.texts))

    def _go_on(self, all_known: bool = False) -> None:
        """Take what is ready and keep the workers busy; `all_known`: no more rows will come."""
        for encoded in [future for future in self._encoding if future.done()]:
            encoded.result()
            rows = self._encoding.pop(encoded)
            self._encoded += rows
            self._unnoted += rows
        if len(self._unnoted) >= _ENCODED_TO_NOTE:
            self._arrays.features.sync()
            self._journal.add_encoded(self._unnoted)
            self._unnoted.clear()
        self._note({future for future in self._decoding if future.done()})
        last = all_known and not self._to_encode and not self._encoding
        group = self._size * self._workers
        while len(self._encoded) >= group:
            rows = self._longest_first(self._encoded[:group])
            self._batches += [rows[first : first + self._size] for first in range(0, group, self._size)]
            del self._encoded[:group]
        if last and self._encoded:
            # The same work for each worker, so that all come to an end together.
            rows = self._longest_first(self._encoded)
            self._batches += [rows[first :: self._workers] for first in range(min(len(rows), self._workers))]
            self._encoded.clear()
        # One more than there are workers, so that none waits for this thread.
        while len(self._encoding) + len(self._decoding) <= self._workers:
            if self._batches:
                self._decoding.add(self._pool.submit(self._decode, self._batches.popleft()))
            elif self._to_encode:
                rows = [self._to_encode.popleft() for _ in range(min(_ENCODED_AT_ONCE, len(self._to_encode)))]
                self._encoding[self._pool.submit(self._encode, rows)] = rows
            else:
                break

    def _longest_first(self, rows: Sequence[int]) -> list[int]:
        return sorted(rows, key=lambda row: -self._seconds[row])

    def _note(self, finished: set[Future[dict[int, list[int]]]]) -> None:
        if not finished:
            return
        self._decoding -= finished
        texts = {row: tokens for future in finished for row, tokens in future.result().items()}
        for array in self._arrays.of_decoder:
            array.sync()
        self._journal.add_texts(texts)

    def _encode(self, rows: Sequence[int]) -> None:
        for row in rows:
            self._arrays.features.write(row, self._model.backend.encode(self._arrays.mel.read(row)))

    def _decode(self, rows: Sequence[int]) -> dict[int, list[int]]:
        """Decode windows that are encoded, and write their rows."""
        model, arrays = self._model, self._arrays
        seconds = [self._seconds[row] for row in rows]
        texts = {}
        # The features are not kept here, so that the decoding can give up those of texts that have ended.
        decoded = model.batched.decode(self._features(rows), seconds)
        for row, length, text in zip(rows, seconds, decoded, strict=True):
            tokens = text.tokens if text.sure else self._decode_exactly(arrays.features.read(row), length, text.tokens)
            ids, positions = fill_slots(self._prompt, tokens, model.plan.sequence)
            arrays.token_embeddings.write(row, model.embedding.embed(ids, positions, model.plan.sequence))
            arrays.lengths.write(row, np.array(len(ids), np.int32))
            texts[row] = list(tokens)
        return texts

    def _features(self, rows: Sequence[int]) -> np.ndarray:
        """Those of some rows, (rows, frames, d)."""
        plan = self._model.plan
        features = np.empty((len(rows), plan.feature_frames, plan.state), np.float32)
        for place, row in enumerate(rows):
            features[place] = self._arrays.features.read(row)[0]
        return features

    def _decode_exactly(self, features: np.ndarray, seconds: float, draft: Sequence[int]) -> tuple[int, ...]:
        """The text by the runtime's own decoder."""
        slots = SlotDecoder(self._model.backend, self._model.embedding, self._model.plan.sequence)
        slots.begin(features)
        tokenizer = self._model.tokenizer
        decoder = GreedyDecoder(slots, tokenizer)
        return decoder.decode(self._prompt, TokenRules(tokenizer), seconds, draft).tokens


class _Progress:
    """A bar on a terminal, with rate and time left; elsewhere a line at every fifth."""

    def __init__(self, what: str) -> None:
        self._what = f"calibrate: {what}"
        self._bar = tqdm(desc=self._what, unit="window", file=sys.stderr, disable=not sys.stderr.isatty())
        self._total = 0
        self._fifth = 0

    def start(self, total: int) -> None:
        self._bar.reset(total)
        self._total = total

    def show(self, done: int) -> None:
        self._bar.update(done - self._bar.n)
        fifth = done * 5 // max(1, self._total)
        if self._bar.disable and fifth > self._fifth:
            _say(f"{self._what}: {done} of {self._total} windows")
        self._fifth = fifth

    def close(self) -> None:
        self._bar.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def _write_rows(path: Path, done: Done, tokenizer: Tokenizer) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row, window in enumerate(done.windows):
            entry = {"row": row, **asdict(window)}
            if row in done.texts:
                entry |= {"tokens": done.texts[row], "text": tokenizer.decode(done.texts[row]).strip()}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
