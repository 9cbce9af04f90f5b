"""Time of a window's log-mel spectrogram, beside openai-whisper's in torch, and how far the two are apart.

    python benchmarks/mel.py

Fails if ours takes longer, or a value differs by more than 1e-4.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from figures import Figure, tell
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.mel import window_mel
from whisper_toolchain import third_party

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10
TURNS = 100
MOST_OF_REFERENCE = 1.0
MOST_DIFFERENCE = 1e-4


def main() -> int:
    """Measure both, interleaved, and print; return the exit status."""
    whisper = third_party.import_whisper(ROOT / "third_party" / "whisper")
    torch.set_num_threads(2)
    samples = (0.1 * np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE)).astype(np.float32)
    ours, reference = [], []
    for _ in range(TURNS + 1):
        began = time.perf_counter()
        mine = window_mel(samples, SECONDS)
        middle = time.perf_counter()
        theirs = whisper.audio.log_mel_spectrogram(samples).numpy()
        end = time.perf_counter()
        ours.append(middle - began)
        reference.append(end - middle)
    # The first turn makes the filters.
    median, other = statistics.median(ours[1:]), statistics.median(reference[1:])
    difference = float(np.abs(mine - theirs).max())
    print(f"log-mel of {SECONDS} s, medians of {TURNS} interleaved turns; the largest difference is {difference:.1e}")
    print(f"ours {1000 * median:.2f} ms, openai-whisper {1000 * other:.2f} ms: {median / other:.2f}")
    return tell(
        Figure(
            f"mel of {SECONDS} s", 1000 * median, "ms", "openai-whisper", 1000 * other, most_ratio=MOST_OF_REFERENCE
        ),
        Figure("largest difference of a mel value", difference, "", most=MOST_DIFFERENCE),
    )


if __name__ == "__main__":
    sys.exit(main())
