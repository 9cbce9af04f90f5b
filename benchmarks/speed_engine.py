"""One engine of speed.py, as a process of its own: clips come in on stdin, texts and times go out on stdout.

    python benchmarks/speed_engine.py NAME VARIANT ARCH

One JSON text a line: `{"clip": path}` in, `{"text", "work", "decoding", "calls", "encodings", "peak"}` out: seconds of
all the work from samples to text, seconds of decoding in them, decoder and encoder calls, and MB of memory at most so
far. A first line says that the engine is loaded. Reading the clip's file is not counted.

Nothing is imported here that not every engine needs: one runs in an interpreter without this project's packages, and
peaks of memory are to be the engine's own.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

THREADS = 2
ROOT = Path(__file__).resolve().parent.parent


class Engine(Protocol):
    """What is measured."""

    @property
    def decoding(self) -> float:
        """Seconds of decoding since it was made, everything but mel and encoder; 0 if it cannot tell."""
        ...

    @property
    def calls(self) -> int:
        """Decoder calls since it was made; 0 if it cannot tell."""
        ...

    @property
    def encodings(self) -> int:
        """Encoder calls since it was made; 0 if it cannot tell."""
        ...

    def load(self, clip: str) -> Any:
        """Samples of a clip, mono at 16 kHz."""
        ...

    def text(self, samples: Any) -> str:
        """Transcribe; the work that is timed."""
        ...


def open_engine(name: str, variant: str, arch: str) -> Engine:
    """Load the engine of a name."""
    if name.startswith("faster-whisper"):
        from speed_rivals import FasterWhisper

        return FasterWhisper(ROOT / "build" / "benchmarks" / f"ct2-{variant}", timestamps=name == "faster-whisper")
    if name == "openai-whisper":
        from speed_rivals import OpenaiWhisper

        return OpenaiWhisper(variant)
    from speed_runtime import open_runtime

    return open_runtime(name, variant, arch)


def serve(engine: Engine, requests: Any, answers: Any) -> None:
    """Answer until there are no more requests."""
    _send(answers, {"ready": True})
    for line in requests:
        samples = engine.load(json.loads(line)["clip"])
        decoding, calls, encodings = engine.decoding, engine.calls, engine.encodings
        started = time.perf_counter()
        text = engine.text(samples)
        work = time.perf_counter() - started
        answer = {
            "text": text,
            "work": work,
            "decoding": engine.decoding - decoding,
            "calls": engine.calls - calls,
            "encodings": engine.encodings - encodings,
            "peak": peak_memory(),
        }
        _send(answers, answer)


def peak_memory() -> float:
    """MB that this process has held at most.

    Not `ru_maxrss`: a process inherits that from the one that started it.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000


def _send(answers: Any, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def main() -> None:
    """Load and serve."""
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(open_engine(*sys.argv[1:]), sys.stdin, answers)


if __name__ == "__main__":
    main()
