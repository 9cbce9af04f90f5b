"""Records a set with a toy model, as a process of its own that may be killed or short of memory.

    python toy_calibration.py interrupted FOLDER COUNT SEED   killed so many times, then to its end
    python toy_calibration.py whole FOLDER
    python toy_calibration.py one_core FOLDER                 the same on one core
    python toy_calibration.py bounded FOLDER ROWS BYTES       few rows, then so many with so little further memory

FOLDER holds checkpoint.safetensors, both graphs, the tokenizer's ranks and `speech`. Each prints a JSON text.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import whisper_toolchain.calibration.record as recording
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.tokenizer import Tokenizer
from whisper_toolchain.calibration import CALIBRATION
from whisper_toolchain.checkpoints import load
from whisper_toolchain.datasets import Utterance
from whisper_toolchain.graph_contract import DECODER, ENCODER
from whisper_toolchain.shape_plan import ShapePlan

SECONDS, SEQUENCE, ROWS = 1, 12, 140


def record(folder: Path, output: Path, rows: int, decoder_rows: int) -> int:
    """Record, going over the speech again and again; return the number of rows."""
    output.mkdir(exist_ok=True)
    checkpoint = load(folder / "checkpoint.safetensors")
    plan = ShapePlan("toy", "hailo8", SECONDS, SEQUENCE, checkpoint.dims)
    tokenizer = Tokenizer.from_file(folder / "ranks.tiktoken", plan.dims.n_vocab)
    files = sorted((folder / "speech").iterdir())
    utterances = [Utterance(f"{turn}-{path.stem}", path, None, None) for turn in range(rows) for path in files]
    with OnnxRuntimeBackend(folder / ENCODER, folder / DECODER, threads=1) as backend:
        model = recording.FloatModel.of(plan, backend, checkpoint, tokenizer)
        return len(recording.record(utterances, rows, decoder_rows, CALIBRATION, output, model).windows)


def interrupted(folder: Path, count: int, seed: int) -> dict[str, object]:
    """Kill the recording at random points, the journal now and then a line longer; then let it come to its end."""
    chance = random.Random(seed)
    output, journal = folder / "interrupted", folder / "interrupted" / f"{CALIBRATION.rows}.journal"
    # How long it takes here, on a machine of any speed: all kills together must not let it come to its end.
    began = time.perf_counter()
    child = os.fork()
    if not child:
        record(folder, folder / "timed", ROWS, ROWS - 20)
        os._exit(0)
    os.waitpid(child, 0)
    whole = time.perf_counter() - began
    lines = []
    for turn in range(count + 1):
        known = size(journal)
        child = os.fork()
        if not child:
            record(folder, output, ROWS, ROWS - 20)
            os._exit(0)
        if turn < count:
            while turn % 3 and size(journal) == known:
                time.sleep(0.001)
            time.sleep(whole * chance.uniform(0, 0.005 if turn % 3 else 0.05))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if turn < count and not os.WIFSIGNALED(status):
            break
        lines.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
    return {"kills": turn, "lines": lines, "status": status}


def size(path: Path) -> int:
    """Bytes of a file; 0 if it is not there."""
    return path.stat().st_size if path.exists() else 0


def bounded(folder: Path, rows: int, further: int) -> dict[str, object]:
    """Record few rows, then many, with a limit on the memory that the process may have.

    Of the many, a fifth are the decoder's too: those take most of the time, and the least of the memory.
    """
    record(folder, folder / "few", 100, 100)
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + further, held + further))
    count = record(folder, folder / "many", rows, rows // 5)
    return {"rows": count, "bytes": sum(size(folder / "many" / name) for name in CALIBRATION.arrays)}


def main() -> None:
    """Do what the arguments say."""
    what, folder, *numbers = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    # Small pieces, so that there is much to be interrupted.
    recording._RECORDINGS, recording._MOST_BATCH, recording._ENCODED_TO_NOTE = 2, 4, 4
    if what == "interrupted":
        result = interrupted(folder, *numbers)
    elif what == "bounded":
        result = bounded(folder, *numbers)
    else:
        if what == "one_core":
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        result = {"rows": record(folder, folder / what, ROWS, ROWS - 20)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
