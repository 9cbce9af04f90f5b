"""Runs all benchmarks one after the other and writes down what they said: `make bench`.

    python benchmarks/bench.py [--speech FOLDER]
    python benchmarks/bench.py --table RESULTS.json [--all]

Writes `benchmarks/results/<date>-<machine>.json`, with the machine, how busy it was, the versions, the commit, and
every figure as a number (figures.py), and beside it a table made from that. The second form prints the table again: of
what is promised, as it is in the README, or of all figures. A benchmark that cannot run is in all of them, with the
reason. The exit status is 1 if a promise is broken or one could not run.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from figures import Figure, take
from whisper_runtime.machine import machine
from whisper_toolchain.compilers.dfc_checks import total_memory
from whisper_toolchain.stage import installed_versions

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
RESULTS = BENCHMARKS / "results"
TIMEOUT = 15 * 60
PACKAGES = ("numpy", "onnxruntime", "torch", "soundfile", "tiktoken")
MODEL = ("--variant", "tiny.en", "--arch", "hailo8")
BASE = ("--variant", "base", "--arch", "hailo8")
BUNDLE = ROOT / "artifacts" / "whisper-tiny.en-10s-seq32-hailo8" / "latest"


def commands(speech: str) -> dict[str, list[str]]:
    """What is run: name -> script and arguments."""
    return {
        "mel": ["mel.py"],
        "host cost of a decoder step": ["decoder_step.py"],
        "export": ["export_cost.py", *MODEL],
        "calibration": ["calibration.py", *MODEL, "--rows", "1024", speech],
        "calibration, base": ["calibration.py", *BASE, "--rows", "512", speech],
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
        (output, figures), status = take(done.stdout.splitlines()), done.returncode
        errors = done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        output, figures, status, errors = [], [], 2, [f"took more than {TIMEOUT // 60} minutes"]
    # A benchmark that ran tells figures last; one that could not says why on stderr.
    state = "could not run" if not figures or status not in (0, 1) else "broken" if status else "kept"
    result: dict[str, Any] = {
        "state": state,
        "seconds": round(time.monotonic() - began, 1),
        "figures": [figure.as_dict() for figure in figures],
        "output": output,
    }
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


def as_table(record: dict[str, Any], all_figures: bool) -> str:
    """The results for a reader, in Markdown: those that are promised, or all."""
    where = record["machine"]
    lines = [
        f"{record['date']}, commit {record['commit']}, {where['cores']} cores of {where['processor']}, "
        f"{where['memory_gb']} GB, Python {where['python']}; load before it began: {record['load']:.1f}.",
        "",
        "| | ours | beside | ratio | promise |",
        "|---|---|---|---|---|",
    ]
    for name, result in record["results"].items():
        if "reason" in result:
            lines.append(f"| {name} | could not run: {result['reason']} | | | |")
        for values in result["figures"]:
            figure = Figure(**{key: value for key, value in values.items() if key not in ("ratio", "kept")})
            if all_figures or figure.kept is not None:
                lines.append(_row(figure))
    return "\n".join(lines) + "\n"


def _row(figure: Figure) -> str:
    beside, ratio = "", ""
    if figure.other is not None and figure.ratio is not None:
        ratio = f"{figure.ratio:.3g}"
        beside = f"{figure.beside} {_amount(figure.other, figure.unit)}" if figure.unit else str(figure.beside)
    ours = _amount(figure.ours, figure.unit) if figure.unit or not ratio else ""
    limits = [f"{figure.most_ratio:.3g}"] if figure.most_ratio is not None else []
    limits += [_amount(figure.most, figure.unit)] if figure.most is not None else []
    promise = ", ".join(limits)
    if figure.kept is False:
        promise = f"**{promise}, broken**"
    return f"| {figure.what} | {ours} | {beside} | {ratio} | {promise} |"


def _amount(value: float, unit: str) -> str:
    """A value in three digits."""
    digits = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip() if not unit.startswith("/") else f"{digits}{unit}"


def _short(word: str) -> str:
    path = Path(word)
    return str(path.relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else word


def main() -> int:
    """Run everything; return the exit status."""
    parser = argparse.ArgumentParser(description="Run all benchmarks and write down the results.")
    parser.add_argument("--speech", default=str(ROOT / "audio" / "registry-sample"), help="what DATASET can be")
    parser.add_argument("--table", type=Path, metavar="JSON", help="only print the table of an earlier run")
    parser.add_argument("--all", action="store_true", help="in the table, figures without a promise, too")
    options = parser.parse_args()
    if options.table:
        print(as_table(json.loads(options.table.read_text(encoding="utf-8")), options.all), end="")
        return 0
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "machine": described_machine(),
        "load": os.getloadavg()[0],
        "results": {name: run(name, command) for name, command in commands(options.speech).items()},
    }
    RESULTS.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", f"{record['date']} {record['machine']['processor']}".lower()).strip("-")
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(as_table(record, all_figures=True), encoding="utf-8")
    print(as_table(record, all_figures=False))
    return int(any(result["state"] != "kept" for result in record["results"].values()))


if __name__ == "__main__":
    sys.exit(main())
