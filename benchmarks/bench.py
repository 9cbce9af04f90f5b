"""Runs all benchmarks one after the other and writes down what they said: `make bench`.

    python benchmarks/bench.py [--speech FOLDER]

Writes `benchmarks/results/<date>-<machine>.json`, with the machine, the versions and the commit, and a table beside it.
A benchmark that cannot run is in both, with the reason. The exit status is 1 if a promise is broken or one could not
run.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from whisper_runtime.machine import machine
from whisper_toolchain.compilers.dfc_checks import total_memory
from whisper_toolchain.stage import installed_versions

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
RESULTS = BENCHMARKS / "results"
TIMEOUT = 15 * 60
PACKAGES = ("numpy", "onnxruntime", "torch", "soundfile", "tiktoken")
MODEL = ("--variant", "tiny.en", "--arch", "hailo8")
BUNDLE = ROOT / "artifacts" / "whisper-tiny.en-10s-seq32-hailo8" / "latest"


def commands(speech: str) -> dict[str, list[str]]:
    """What is run: name -> script and arguments."""
    return {
        "mel": ["mel.py"],
        "host cost of a decoder step": ["decoder_step.py"],
        "export": ["export_cost.py", *MODEL],
        "calibration": ["calibration.py", *MODEL, "--rows", "256", speech],
        "start-up, decoder on the host": ["start_up.py", str(BUNDLE), "--decoder", "host", "--runs", "5"],
        "start-up, decoder of the bundle": ["start_up.py", str(BUNDLE), "--decoder", "device", "--runs", "5"],
        "calls of a stream": ["stream_calls.py", *MODEL, "--seconds", "30", speech],
        "speed beside others": ["speed.py", *MODEL, "--limit", "8", speech],
    }


def run(name: str, command: list[str]) -> dict[str, Any]:
    """Run one benchmark; return what it said and whether its promises hold."""
    print(f"bench: {name}", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / command[0]), *command[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        output, status, errors = done.stdout.splitlines(), done.returncode, done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        output, status, errors = [], 2, [f"took more than {TIMEOUT // 60} minutes"]
    # A benchmark that ran has printed figures; one that could not says why on stderr.
    state = "kept" if status == 0 else "broken" if status == 1 and output else "could not run"
    result: dict[str, Any] = {"state": state, "seconds": round(time.monotonic() - began, 1), "output": output}
    if state == "could not run":
        result["reason"] = errors[-1] if errors else f"exit status {status}"
    return {"command": " ".join(["benchmarks/" + command[0], *(_short(word) for word in command[1:])]), **result}


def described_machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        **machine(),
        "memory_gb": round(total_memory() / 1e9, 1),
        "versions": installed_versions(*PACKAGES),
    }


def as_table(record: dict[str, Any]) -> str:
    """The results for a reader, in Markdown."""
    where = record["machine"]
    lines = [
        f"{record['date']}, commit {record['commit']}, {where['cores']} cores of {where['processor']}, "
        f"{where['memory_gb']} GB, Python {where['python']}.",
        "",
        "| benchmark | promises | took |",
        "|---|---|---|",
    ]
    for name, result in record["results"].items():
        state = f"could not run: {result['reason']}" if "reason" in result else result["state"]
        lines.append(f"| {name} | {state} | {result['seconds']:.0f} s |")
    for name, result in record["results"].items():
        lines += ["", f"**{name}**, `{result['command']}`", "", "```", *result["output"], "```"]
    return "\n".join(lines) + "\n"


def _short(word: str) -> str:
    path = Path(word)
    return str(path.relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else word


def main() -> int:
    """Run everything; return the exit status."""
    parser = argparse.ArgumentParser(description="Run all benchmarks and write down the results.")
    parser.add_argument("--speech", default=str(ROOT / "audio" / "registry-sample"), help="what DATASET can be")
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "machine": described_machine(),
        "results": {name: run(name, command) for name, command in commands(options.speech).items()},
    }
    RESULTS.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", f"{record['date']} {record['machine']['processor']}".lower()).strip("-")
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    table = as_table(record)
    (RESULTS / f"{name}.md").write_text(table, encoding="utf-8")
    print(table)
    return int(any(result["state"] != "kept" for result in record["results"].values()))


if __name__ == "__main__":
    sys.exit(main())
