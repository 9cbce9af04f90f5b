"""Decoder calls of a stream with drafts, against decoding each partial text from nothing.

Clips are joined to continuous speech and streamed in blocks of a tenth of a second, with a partial text each hop, on
the exported float graphs' fixed slots. Once as it is: every partial text is the draft of the next one. Once with no
guess ever checked. All partial and committed texts must be the same.

    .venv/bin/python benchmarks/stream_calls.py --variant tiny.en --arch hailo8 [--seconds 180] SPEECH...

after `make export`. Fails if the texts differ or the share of calls is above 0.25 at a hop of one second.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from figures import Figure, tell
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.streaming import StreamTranscriber, StreamUpdate
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain.checkpoints import load
from whisper_toolchain.datasets import open_dataset
from whisper_toolchain.float_model import host_arrays, load_tokenizer, open_float_backend
from whisper_toolchain.shape_plan import VARIANTS, ShapePlan
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

WORKSPACE = Workspace(Path(__file__).resolve().parent.parent)
HOPS = (1.0, 2.0)
LIMIT = 0.25
BLOCK = SAMPLE_RATE // 10


class Undrafted(SlotDecoder):
    """Checks no guess."""

    def room(self, prompt: int, text: int) -> int:
        """No guess is checked."""
        return 0


def joined(folders: list[Path], seconds: float) -> np.ndarray:
    """Recordings one after the other, to so many seconds."""

    def pieces() -> Iterator[np.ndarray]:
        total = 0.0
        for folder in folders:
            for utterance in open_dataset(folder).utterances():
                samples = load_audio(utterance.path)
                yield samples
                total += len(samples) / SAMPLE_RATE
                if total >= seconds:
                    return

    return np.concatenate(list(pieces()))[: round(seconds * SAMPLE_RATE)]


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description="Decoder calls of a stream with and without drafts.")
    parser.add_argument("speech", nargs="+", type=Path, help="folders or files of speech")
    parser.add_argument("--variant", required=True, choices=VARIANTS)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--seconds", type=float, default=180.0)
    options = parser.parse_args()
    plan = ShapePlan.make(options.variant, options.arch)
    samples = joined(options.speech, options.seconds)
    embedding = TokenEmbedding(*host_arrays(load(WORKSPACE.checkpoint(plan.variant) / CHECKPOINT)))
    tokenizer = load_tokenizer(WORKSPACE.whisper, plan.dims)
    figures = []
    print(f"{plan.shape_name}: {len(samples) / SAMPLE_RATE:.0f} s of continuous speech")
    with open_float_backend(WORKSPACE.export(plan)) as backend:

        def stream(decoder: type[SlotDecoder], hop: float) -> list[StreamUpdate]:
            parts = decoder(backend, embedding, plan.sequence)
            streamed = StreamTranscriber(
                Transcriber.from_parts(backend, parts, tokenizer, plan.seconds), language="en", hop=hop
            )
            updates = [u for at in range(0, len(samples), BLOCK) for u in streamed.push(samples[at : at + BLOCK])]
            return [*updates, *streamed.finish()]

        for hop in HOPS:
            drafted, plain = stream(SlotDecoder, hop), stream(Undrafted, hop)
            same = [(u.committed, u.partial) for u in drafted] == [(u.committed, u.partial) for u in plain]
            calls, greedy = (sum(update.calls for update in updates) for updates in (drafted, plain))
            latency = statistics.median(update.latency for update in drafted)
            slow = statistics.median(update.latency for update in plain)
            print(
                f"  hop {hop:g} s: {calls} calls with drafts, {greedy} without: {calls / greedy:.3f}; median latency "
                f"{latency:.2f} s against {slow:.2f} s; texts {'the same' if same else 'DIFFER'}"
            )
            if not same:
                raise SystemExit("a draft has changed a text")
            minutes = len(samples) / SAMPLE_RATE / 60
            limit = LIMIT if hop == 1.0 else None
            figures += [
                Figure(
                    f"decoder calls of a stream, hop {hop:g} s",
                    calls / minutes,
                    "/min of speech",
                    "without drafts",
                    greedy / minutes,
                    most_ratio=limit,
                ),
                Figure(f"latency of a stream, hop {hop:g} s", latency, "s", "without drafts", slow),
            ]
    return tell(*figures)


if __name__ == "__main__":
    sys.exit(main())
