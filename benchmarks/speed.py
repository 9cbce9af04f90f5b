"""Speed of one checkpoint in every form, beside openai-whisper, faster-whisper and the reference flow, in one run.

    openai-whisper       torch, float32, 30 s of context
    faster-whisper       CTranslate2, int8, one beam, 30 s of context
    faster-whisper/bare  the same without timestamps, as the forms below
    float/host           encoder of the export (float32), decoder for the host's CPU (int8)
    bundle/host          encoder of the emulated bundle (int8), decoder for the host's CPU
    reference            the reference flow on the float graphs: greedy, all logits of all slots at each step
    float/slots          the same graphs, decoded by the runtime from nothing
    float/slots+beams    ... following five texts at once where one is in doubt
    float/slots+draft    ... from what the host decoder drafts, whose time counts too
    reference/stream     the reference flow on windows that grow by a second
    float/stream         the runtime on the same windows: each partial text is the draft of the next

All at temperature 0, in English, on 2 threads. Each is a process of its own (speed_engine.py) and loaded before the
clock starts. They take turns clip by clip, one works at a time. Counted is the time from samples to text.

    python -m venv build/benchmarks/venv
    build/benchmarks/venv/bin/python -m pip install --only-binary=:all: -r benchmarks/requirements.txt
    .venv/bin/python benchmarks/speed.py --variant tiny.en --arch hailo8 [SPEECH...]

after `make all` for that variant and architecture; SPEECH is whatever DATASET can be. The first two lines make the
interpreter for faster-whisper (Python 3.11 or 3.12), which has no place among the project's own packages.

Fails if a form with the host decoder takes more than half of faster-whisper's time, or slots with a draft more than a
third of the reference's decoding time: over all clips, or in the median of the clips. Fails, too, if a draft or the
stream changes a text.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import Figure, tell
from speed_engine import ROOT, THREADS
from whisper_runtime.audio import AudioFile
from whisper_toolchain.datasets import Utterance, open_dataset
from whisper_toolchain.float_model import tokenizer_file
from whisper_toolchain.shape_plan import VARIANTS, ShapePlan
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.word_errors import count_word_errors
from whisper_toolchain.workspace import Workspace

WORKSPACE = Workspace(ROOT)
BENCHMARKS = ROOT / "build" / "benchmarks"

FASTER_WHISPER, REFERENCE, REFERENCE_STREAM = "faster-whisper", "reference", "reference/stream"
ENGINES = (
    "openai-whisper",
    FASTER_WHISPER,
    "faster-whisper/bare",
    "float/host",
    "bundle/host",
    REFERENCE,
    "float/slots",
    "float/slots+beams",
    "float/slots+draft",
    REFERENCE_STREAM,
    "float/stream",
)
# Engine, what it is compared with, which of the times, and how much of the other's it may take at most.
PROMISES = (
    ("float/host", FASTER_WHISPER, "work", 1 / 2),
    ("bundle/host", FASTER_WHISPER, "work", 1 / 2),
    ("float/slots+draft", REFERENCE, "decoding", 1 / 3),
    ("float/stream", REFERENCE_STREAM, "decoding", 1 / 3),
)

# Forms that have to say the same: a draft changes no token, and a stream commits what the whole recording gives.
SAME_TEXT = (("float/slots+draft", "float/slots"), ("float/stream", "float/slots"))

# Idle threads of the engine before may spin for a moment, those of OpenMP for 0.2 s.
SETTLE_SECONDS = 0.3


@dataclass(frozen=True)
class Clip:
    """A recording.

    Attributes:
        path: the file.
        text: what is said in it.
        seconds: its length.
    """

    path: Path
    text: str
    seconds: float


class Worker:
    """An engine in a process of its own."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        python = options.faster_whisper_python if name.startswith(FASTER_WHISPER) else sys.executable
        threads = {f"{library}_NUM_THREADS": str(THREADS) for library in ("OMP", "MKL", "OPENBLAS")}
        self._process = subprocess.Popen(
            [str(python), str(ROOT / "benchmarks" / "speed_engine.py"), name, options.variant, options.arch],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "HF_HUB_OFFLINE": "1"},
        )
        self._answer()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def transcribe(self, clip: Clip) -> dict[str, Any]:
        """Text and times; see speed_engine.py."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"clip": str(clip.path)}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the engine ended with status {self._process.wait()}; see above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def choose_clips(folders: Sequence[Path], limit: int) -> list[Clip]:
    """Clips with a transcript, spread over all of them if there are more than the limit."""
    found = [u for folder in folders for u in open_dataset(folder).utterances() if u.text]
    count = min(limit, len(found))
    return [_clip(found[index * len(found) // count]) for index in range(count)]


def _clip(utterance: Utterance) -> Clip:
    with AudioFile(utterance.path) as file:
        if file.duration is None:
            raise SystemExit(f"{utterance.path}: the file does not say how long it is")
        return Clip(utterance.path, utterance.text or "", file.duration)


def write_ct2(plan: ShapePlan, python: Path) -> None:
    """Write the checkpoint as faster-whisper loads it."""
    checkpoint = WORKSPACE.checkpoint(plan.variant) / CHECKPOINT
    ranks = tokenizer_file(WORKSPACE.whisper, plan.dims)
    arguments = [checkpoint, ranks, BENCHMARKS / f"ct2-{plan.variant}"]
    script = ROOT / "benchmarks" / "speed_ct2.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    subprocess.run([str(part) for part in (python, script, *arguments)], env=environment, check=True)


def measure(workers: Sequence[Worker], clips: Sequence[Clip]) -> dict[str, list[dict[str, Any]]]:
    """Every engine's answers, clip by clip."""
    answers: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in workers}
    for worker in workers:
        worker.transcribe(clips[0])  # the first time is slower
    for number, clip in enumerate(clips):
        first = number % len(workers)  # nobody always comes after the same
        for worker in (*workers[first:], *workers[:first]):
            time.sleep(SETTLE_SECONDS)
            answers[worker.name].append(worker.transcribe(clip))
        print(f"{number + 1} of {len(clips)} clips", file=sys.stderr, flush=True)
    return answers


class Report:
    """What was measured, in figures."""

    def __init__(self, clips: Sequence[Clip], answers: dict[str, list[dict[str, Any]]]) -> None:
        self._clips = clips
        self._answers = answers

    def per_second(self, name: str, time: str) -> float:
        """Seconds of work or of decoding, or decoder calls, for each second of speech."""
        return sum(self._of(name, time)) / sum(clip.seconds for clip in self._clips)

    def ratios(self, name: str, other: str, time: str) -> tuple[float, float]:
        """Part of another engine's time, over all clips and in the median of the clips; NaN if it was not measured."""
        if not {name, other} <= self._answers.keys():
            return float("nan"), float("nan")
        mine, theirs = self._of(name, time), self._of(other, time)
        return sum(mine) / sum(theirs), statistics.median(m / t for m, t in zip(mine, theirs, strict=True))

    def print(self) -> None:
        """Print a line for each engine."""
        print(
            f"{'':<20}{'work/s':>8}{'of faster-whisper':>20}{'decoding/s':>12}{'calls/s':>9}{'of the reference':>19}"
            f"{'WER':>9}{'peak':>8}"
        )
        for name in self._answers:
            reference = REFERENCE_STREAM if name.endswith("/stream") else REFERENCE
            decoding, calls = self.per_second(name, "decoding"), self.per_second(name, "calls")
            decoder = f"{decoding:>12.4f}{calls:>9.2f}{_pair(*self.ratios(name, reference, 'decoding')):>19}"
            against = _pair(*self.ratios(name, FASTER_WHISPER, "work"))
            print(
                f"{name:<20}{self.per_second(name, 'work'):>8.4f}{against:>20}"
                f"{decoder if decoding else '':<40}{self.word_error_rate(name):>7.2f} %"
                f"{self.peak(name):>5.0f} MB"
            )

    def word_error_rate(self, name: str) -> float:
        """Percent, over all clips."""
        return _differing([clip.text for clip in self._clips], self.texts(name))

    def difference(self, name: str, other: str) -> float:
        """Percent of another engine's words that this one has differently; NaN if one of them was not measured."""
        return _differing(self.texts(other), self.texts(name))

    def peak(self, name: str) -> float:
        """Megabytes that an engine's process had at most."""
        return max(self._of(name, "peak"))

    def texts(self, name: str) -> list[str]:
        """What an engine said, clip by clip."""
        return [answer["text"] for answer in self._answers.get(name, [])]

    def _of(self, name: str, key: str) -> list[float]:
        return [answer[key] for answer in self._answers[name]]


def _differing(texts: Sequence[str], others: Sequence[str]) -> float:
    return count_word_errors(texts, others, WORKSPACE.whisper).percent if others and texts else float("nan")


def _pair(total: float, median: float) -> str:
    return f"{total:.3f} ({median:.3f})" if total == total else ""


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description="Speed of one variant in every form, beside others.")
    parser.add_argument("speech", nargs="*", type=Path, help="folders or files of speech; default: the registry sample")
    parser.add_argument("--variant", required=True, choices=VARIANTS)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--limit", type=int, default=30, help="clips at most, spread over all (30)")
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"of {','.join(ENGINES)}")
    parser.add_argument(
        "--faster-whisper-python",
        type=Path,
        default=BENCHMARKS / "venv" / "bin" / "python",
        help="interpreter that has benchmarks/requirements.txt",
    )
    options = parser.parse_args()
    plan = ShapePlan.make(options.variant, options.arch)
    names = options.engines.split(",")
    if any(name.startswith(FASTER_WHISPER) for name in names):
        if not options.faster_whisper_python.exists():
            parser.error(f"no {options.faster_whisper_python}: make it with the two commands at the top of {__file__}")
        write_ct2(plan, options.faster_whisper_python)
    clips = choose_clips(options.speech or [ROOT / "audio" / "registry-sample"], options.limit)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, options)) for name in names]
        answers = measure(workers, clips)
    seconds = sum(clip.seconds for clip in clips)
    print(f"{plan.bundle_name}, {len(clips)} clips, {seconds:.0f} s of speech, {THREADS} threads")
    print("seconds of work for each second of speech; parts over all clips (and in the median of the clips)")
    report = Report(clips, answers)
    report.print()
    long = [index for index, clip in enumerate(clips) if clip.seconds > plan.seconds]
    if long:
        print(f"the {len(long)} of them that are longer than the encoder's window of {plan.seconds} s:")
        Report([clips[i] for i in long], {name: [found[i] for i in long] for name, found in answers.items()}).print()
    difference = report.difference(FASTER_WHISPER, "openai-whisper")
    print(f"words that faster-whisper has otherwise than openai-whisper: {difference:.2f} %")
    for name, other in SAME_TEXT:
        if {name, other} <= answers.keys() and report.texts(name) != report.texts(other):
            raise SystemExit(f"{name} says something else than {other}")
    for name, other, *_ in PROMISES:
        if not {name, other} <= answers.keys():
            print(f"not measured: {name} against {other}")
    return tell(*figures(report, list(answers)))


def figures(report: Report, names: Sequence[str]) -> Iterator[Figure]:
    """The figures of what was measured. Promises are on the sums of the times, and on the median of the clips."""
    for name, other, time_of, most in PROMISES:
        if {name, other} <= set(names):
            mine, theirs = (report.per_second(each, time_of) for each in (name, other))
            yield Figure(f"{name}: {time_of} for a second of speech", mine, "s", other, theirs, most_ratio=most)
            median = report.ratios(name, other, time_of)[1]
            yield Figure(f"{name}: {time_of}, median of the clips' ratios", median, "", other, 1.0, most_ratio=most)
    for name in names:
        if name == "openai-whisper" or name.startswith((FASTER_WHISPER, REFERENCE)):
            continue
        for other in ("openai-whisper", FASTER_WHISPER):
            if other in names:
                mine, theirs = (report.per_second(each, "work") for each in (name, other))
                yield Figure(f"{name}: real-time factor", mine, "s/s", other, theirs)
        reference = REFERENCE_STREAM if name.endswith("/stream") else REFERENCE
        for what, calls in (("decoder calls", "calls"), ("encoder calls", "encodings")):
            beside = (reference, 60 * report.per_second(reference, calls)) if reference in names else (None, None)
            yield Figure(f"{name}: {what}", 60 * report.per_second(name, calls), "/min of speech", *beside)
        yield Figure(f"{name}: peak memory", report.peak(name), "MB")


if __name__ == "__main__":
    sys.exit(main())
