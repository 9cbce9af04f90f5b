"""An hour of sound in one file: does memory stay flat, and is the text as good as that of its parts?

Clips are joined, again and again until the hour is full, and written as FLAC: in the order of the corpus, where a
speaker's clips are neighbours, or with --mixed SEED in another one, where another speaker goes on at every join. The
runtime transcribes it with a bundle's encoder and the host decoder, in a process of its own whose memory is read every
window. One by one the clips are counted as often as they are in the hour.

    .venv/bin/python benchmarks/long_audio.py BUNDLE [--minutes 60] SPEECH...

Fails if its own memory grows by more than 10 MB after the first twenty minutes of sound, or if the word error rate is
more than half a point away from that of the clips one by one. Pages of mapped files are counted apart: rows of the
token embedding that were looked up, which the system takes back when it needs them.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain.datasets import open_dataset
from whisper_toolchain.word_errors import count_word_errors
from whisper_toolchain.workspace import Workspace

WORKSPACE = Workspace(Path(__file__).resolve().parent.parent)
# By then there were windows of all kinds: each takes its memory for the first time, a second look and parts as well.
SETTLED_SECONDS = 1200.0
MOST_GROWTH_MB = 10.0
MOST_POINTS = 0.5
PAGE = resource.getpagesize()


def resident_mb() -> tuple[float, float]:
    """This process's own memory now, and what it has looked at of mapped files, such as the token embedding."""
    _, resident, of_files, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return (int(resident) - int(of_files)) * PAGE / 1e6, int(of_files) * PAGE / 1e6


def work(bundle: str, recording: str) -> None:
    """Transcribe in this process; print JSON."""
    started = time.perf_counter()
    texts, memory = [], []
    with Transcriber(bundle, decoder="host") as transcriber:
        segments, info = transcriber.transcribe(recording, language="en")
        for segment in segments:
            texts.append(segment.text)
            memory.append((segment.end, *resident_mb()))
    result = {
        "text": " ".join(texts),
        "memory": memory,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "seconds": time.perf_counter() - started,
        "duration": info.duration,
    }
    print(json.dumps(result))


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description="Memory and accuracy on an hour of joined clips.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("speech", nargs="+", type=Path, help="folders or files of speech with transcripts")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--mixed", type=int, metavar="SEED", help="join the clips in a random order")
    options = parser.parse_args()
    clips = [u for folder in options.speech for u in open_dataset(folder).utterances() if u.text]
    if options.mixed is not None:
        random.Random(options.mixed).shuffle(clips)
    with Transcriber(options.bundle, decoder="host") as transcriber:
        alone = [transcriber.text(clip.path, language="en") for clip in clips]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.flac")
        references: list[str] = []
        frames = 0
        with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
            while frames < options.minutes * 60 * SAMPLE_RATE:
                clip = clips[len(references) % len(clips)]
                samples = load_audio(clip.path)
                file.write(np.clip(samples, -1, 1))
                frames += len(samples)
                references.append(clip.text or "")
        command = [sys.executable, __file__, "--work", str(options.bundle), str(path)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    parts = count_word_errors(references, list(islice(cycle(alone), len(references))), WORKSPACE.whisper).percent
    whole = count_word_errors([" ".join(references)], [found["text"]], WORKSPACE.whisper).percent
    early = [point for point in found["memory"] if point[0] <= SETTLED_SECONDS]
    settled, settled_files = (max(point[i] for point in early) for i in (1, 2))
    growth = max(point[1] for point in found["memory"]) - settled
    files = max(point[2] for point in found["memory"])
    print(
        f"{found['duration'] / 60:.1f} minutes in {found['seconds']:.0f} s ({found['seconds'] / found['duration']:.3f})"
    )
    print(f"own memory: {settled:.0f} MB after {SETTLED_SECONDS:.0f} s of sound, {growth:+.1f} MB after the rest")
    print(f"mapped files: {settled_files:.0f} MB, {files:.0f} MB in the end; peak of both {found['peak']:.0f} MB")
    print(f"word error rate: {whole:.2f} % as a whole, {parts:.2f} % clip by clip ({len(clips)} clips)")
    return int(growth > MOST_GROWTH_MB or abs(whole - parts) > MOST_POINTS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
        sys.exit(0)
    sys.exit(main())
