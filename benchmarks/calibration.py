"""Time and memory of a calibration set, beside the reference flow's way.

    python benchmarks/calibration.py --variant tiny.en --arch hailo8 --rows 1024 SPEECH...

after `make all` for that variant and architecture; SPEECH is whatever DATASET can be, and is gone over again and again
until there are enough rows. The reference does 64 rows, half of them before ours and half after, and is scaled. Fails
if a row takes more than a tenth of the reference's time, or the recording process more than 1.5 GB.

Reference (as in Hailo's public flow): recordings cut every so many seconds, wherever that is; the encoder; then the
decoder's graph once for each token from the start token 50258 on, with the logits of all slots joined, lower scores for
the latest tokens, until the end of text or until the slots are full. Sessions as onnxruntime opens them by default,
everything kept in memory. For .en models 50258 is the wrong token, and their texts run on until the slots are full.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnxruntime
from figures import Figure, tell
from reference_flow import PENALTY, RECENT, START
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.mel import window_mel
from whisper_toolchain.calibration import CALIBRATION
from whisper_toolchain.calibration.record import FloatModel, record
from whisper_toolchain.checkpoints import load
from whisper_toolchain.datasets import Utterance, open_dataset
from whisper_toolchain.float_model import host_arrays, load_tokenizer
from whisper_toolchain.graph_contract import DECODER, ENCODER, LOGITS
from whisper_toolchain.shape_plan import VARIANTS, ShapePlan
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

WORKSPACE = Workspace(Path(__file__).resolve().parent.parent)
REFERENCE_ROWS = 64
MOST_OF_REFERENCE = 0.1
MOST_MEGABYTES = 1500


def reference_seconds(plan: ShapePlan, pieces: Iterator[np.ndarray], rows: int) -> float:
    """Seconds that the reference takes for so many pieces of sound, with reading them, without loading graphs."""
    export = WORKSPACE.export(plan)
    encoder, decoder = (
        onnxruntime.InferenceSession(str(export / name), providers=["CPUExecutionProvider"])
        for name in (ENCODER, DECODER)
    )
    embedding = TokenEmbedding(*host_arrays(load(WORKSPACE.checkpoint(plan.variant) / CHECKPOINT)))
    tokenizer = load_tokenizer(WORKSPACE.whisper, plan.dims)
    kept = []
    began = time.perf_counter()
    for samples in islice(pieces, rows):
        mel = window_mel(samples, plan.seconds)
        features = encoder.run(["features"], {"mel": mel[None, :, None]})[0]
        tokens = [START]
        while True:
            embedded = embedding.embed(tokens, range(len(tokens)), plan.sequence)
            feeds = {"features": features, "token_embeddings": embedded.transpose(1, 2, 0)[..., None]}
            logits = np.concatenate(decoder.run(list(LOGITS), feeds), axis=2)[0, len(tokens) - 1]
            logits[tokens[1:][-RECENT:]] /= PENALTY
            token = int(logits.argmax())
            if token == tokenizer.eot or len(tokens) == plan.sequence:
                break
            tokens.append(token)
        kept.append((mel, features, embedded))
    return time.perf_counter() - began


def reference_pieces(utterances: list[Utterance], seconds: int) -> Iterator[np.ndarray]:
    """Recordings cut every so many seconds, over and over."""
    size = seconds * SAMPLE_RATE
    for utterance in cycle(utterances):
        samples = load_audio(utterance.path)
        for first in range(0, len(samples), size):
            yield samples[first : first + size]


def ours(plan: ShapePlan, utterances: list[Utterance], rows: int) -> tuple[int, float, float]:
    """Record a set; return rows, seconds for each, and the peak of this process' memory in MB."""
    export, checkpoint = WORKSPACE.export(plan), load(WORKSPACE.checkpoint(plan.variant) / CHECKPOINT)
    with (
        tempfile.TemporaryDirectory() as folder,
        OnnxRuntimeBackend(export / ENCODER, export / DECODER, threads=1) as backend,
    ):
        model = FloatModel.of(plan, backend, checkpoint, load_tokenizer(WORKSPACE.whisper, plan.dims))
        del checkpoint
        began = time.perf_counter()
        count = len(record(utterances, rows, rows, CALIBRATION, Path(folder), model).windows)
        seconds = (time.perf_counter() - began) / count
    return count, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> int:
    """Measure both and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("speech", nargs="+")
    options = parser.parse_args()
    plan = ShapePlan.make(options.variant, options.arch)
    utterances = [utterance for spec in options.speech for utterance in open_dataset(spec).utterances()]
    again = [
        Utterance(f"{utterance.id}-{turn}", utterance.path, None, utterance.speaker)
        for turn in range(options.rows // len(utterances) + 1)
        for utterance in utterances
    ]
    pieces, half = reference_pieces(utterances, plan.seconds), REFERENCE_ROWS // 2

    before = reference_seconds(plan, pieces, half)
    with get_context("spawn").Pool(1) as pool:  # a process of its own, for its memory
        count, seconds, megabytes = pool.apply(ours, (plan, again, options.rows))
    after = reference_seconds(plan, pieces, half)
    reference = (before + after) / (2 * half)
    print(
        f"{plan.shape_name}: reference {1000 * reference:.0f} ms a row ({1000 * before / half:.0f} before ours, "
        f"{1000 * after / half:.0f} after), {count * reference / 60:.1f} min for {count}"
    )
    print(f"ours: {1000 * seconds:.1f} ms a row, {count * seconds:.0f} s for {count}: {seconds / reference:.3f} of it")
    print(f"peak memory of ours: {megabytes:.0f} MB")
    return tell(
        Figure(
            f"calibration of {plan.variant}, a row",
            1000 * seconds,
            "ms",
            "reference flow",
            1000 * reference,
            most_ratio=MOST_OF_REFERENCE,
        ),
        Figure(f"peak memory of calibration of {plan.variant}", megabytes, "MB", most=MOST_MEGABYTES),
    )


if __name__ == "__main__":
    sys.exit(main())
