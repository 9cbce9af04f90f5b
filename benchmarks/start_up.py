"""Time and memory from the start of a process until it can transcribe, beside the example app's imports alone.

    python benchmarks/start_up.py BUNDLE [--decoder host]

    runtime          imports the runtime and opens a bundle: verified, tokenizer and graphs loaded
    runtime, first   the same, as it is once after a bundle was copied: every file of it is hashed
    imports alone    imports what Hailo's Speech Recognition example app imports, and does nothing with it

Each is a fresh process of this interpreter, and the three take turns. Time runs from before the process is started;
the processor's time is that of all its threads. The peak is what the process had in memory at most (VmHWM), pages of
files that are mapped included. The runtime then transcribes a window of noise for its peak at work.

It fails if the runtime takes longer than 0.7 s or more than 300 MB: what we promise for tiny on two idle cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import Figure, tell

MOST_SECONDS = 0.7
MOST_MEGABYTES = 300.0

# In the order of the app: its pipeline, audio_utils and record_utils.
APP_IMPORTS = (
    "import numpy",
    "from hailo_platform import HEF, VDevice, HailoSchedulingAlgorithm, FormatType",
    "from transformers import AutoTokenizer",
    "import torch, torch.nn.functional",
    "import sounddevice",
    "import scipy.io.wavfile",
)

# Each process reports in lines that say what, and end with a number.
_REPORT = """
import sys, time
def report(what):
    with open("/proc/self/status") as status:
        (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    print(f"{what} {time.process_time()} {peak}", flush=True)
"""

_RUNTIME = f"""{_REPORT}
from whisper_runtime.transcriber import Transcriber
with Transcriber(sys.argv[1], decoder=sys.argv[2]) as transcriber:
    report("ready")
    import numpy as np
    noise = np.random.default_rng(0).normal(0, 0.1, 16000 * transcriber.seconds)
    transcriber.text(noise.astype(np.float32))
    report("worked")
"""

_IMPORTS = f"""{_REPORT}
for statement in sys.argv[1:]:
    try:
        exec(statement)
    except ImportError:
        print("missing:", statement)
report("ready")
"""


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        seconds: from before it was started until it was ready.
        processor: seconds of processor time until then.
        ready: megabytes in memory at most until then.
        worked: the same until it had transcribed a window; `ready` for a process that does not.
        missing: statements whose package is not installed here.
    """

    seconds: float
    processor: float
    ready: float
    worked: float
    missing: tuple[str, ...]


def start(program: str, arguments: Sequence[str], cache: str) -> Run:
    """Run a program in a process of its own, with a user's cache folder of its own.

    Raises:
        SystemExit: it failed.
    """
    reports: dict[str, tuple[float, float, float]] = {}
    missing = []
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": cache},
    ) as process:
        for line in process.stdout or ():
            now = time.perf_counter()
            what, rest = line.split(maxsplit=1)
            if what == "missing:":
                missing.append(rest.strip())
            else:
                processor, peak = map(float, rest.split())
                reports[what] = (now - began, processor, peak * 1024 / 1e6)
    if process.returncode != 0:
        raise SystemExit(f"a process failed with status {process.returncode}")
    seconds, processor, ready = reports["ready"]
    return Run(seconds, processor, ready, reports.get("worked", reports["ready"])[2], tuple(missing))


def median(runs: Sequence[Run], what: str) -> float:
    """The median of one attribute."""
    return statistics.median(getattr(run, what) for run in runs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description="Time and memory from start to ready.")
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--decoder", choices=("device", "host", "auto"), default="device")
    parser.add_argument("--runs", type=int, default=9, metavar="N", help="of each kind (default: 9)")
    options = parser.parse_args(arguments)
    runtime = [str(options.bundle), options.decoder]
    runs: dict[str, list[Run]] = {"runtime": [], "runtime, first": [], "imports alone": []}
    with tempfile.TemporaryDirectory() as folder:
        lasting = f"{folder}/lasting"
        for turn in range(options.runs + 1):
            results = (
                start(_RUNTIME, runtime, lasting),
                start(_RUNTIME, runtime, f"{folder}/{turn}"),
                start(_IMPORTS, APP_IMPORTS, lasting),
            )
            if turn > 0:  # the first brings the files into memory, and the bundle into the memory of verified files
                for kind, result in zip(runs.values(), results, strict=True):
                    kind.append(result)
    print(f"{options.bundle.resolve().name}, decoder {options.decoder}, medians of {options.runs} processes each")
    print(f"{'':<16} {'start to ready':>15} {'processor':>11} {'peak: ready':>13} {'at work':>11}")
    for name, kind in runs.items():
        at_work = f"{median(kind, 'worked'):>8.0f} MB" if name != "imports alone" else f"{'-':>11}"
        print(
            f"{name:<16} {median(kind, 'seconds'):>13.3f} s {median(kind, 'processor'):>9.3f} s"
            f" {median(kind, 'ready'):>10.0f} MB {at_work}"
        )
    ours, theirs = runs["runtime"], runs["imports alone"]
    shares = (median(ours, what) / median(theirs, what) for what in ("seconds", "processor", "ready"))
    print("share of imports {:>15.2f} {:>11.2f} {:>13.2f}".format(*shares))
    for statement in theirs[0].missing:
        print(f"not installed here, so the app's figures are without it: {statement}")
    imports = "the app's imports alone"
    which = f"decoder {options.decoder}"
    return tell(
        Figure(
            f"start to ready, {which}",
            median(ours, "seconds"),
            "s",
            imports,
            median(theirs, "seconds"),
            most=MOST_SECONDS,
        ),
        Figure(f"memory when ready, {which}", median(ours, "ready"), "MB", imports, median(theirs, "ready")),
        Figure(f"memory at work, {which}", median(ours, "worked"), "MB", most=MOST_MEGABYTES),
    )


if __name__ == "__main__":
    sys.exit(main())
