"""Runs the worker in the vendor's interpreter, listens to it, and never leaves it behind."""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_toolchain.compilers.dfc_log import LineSplitter, LogLine

WORKER = Path(__file__).with_name("dfc_worker.py")

_LISTEN_SECONDS = 1.0
_DRAIN_SECONDS = 10.0  # what the worker's own children may still say after its end
_TERMINATE_SECONDS = 5.0


class WorkerFailure(Exception):
    """A step failed. `kind` is the vendor's exception, `text` what it said."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


@dataclass(frozen=True)
class Finished:
    """What a step returned, how long it took, and the peak memory of its largest process."""

    result: Mapping[str, Any]
    seconds: float
    peak_memory_bytes: int


def run_worker(
    interpreter: str,
    job: Mapping[str, Any],
    folder: Path,
    log: Path,
    *,
    on_line: Callable[[LogLine], None],
    on_step: Callable[[str], None],
    on_wait: Callable[[], None],
) -> Finished:
    """Run one job of the worker and wait for its end.

    The worker has a process group of its own, so that Ctrl-C reaches this process alone. Whatever ends the wait, the
    group is ended too; and if this process is killed, the worker's watcher sees its standard input close.

    Args:
        interpreter: the vendor's Python.
        job: what the worker's action needs.
        folder: the worker's working directory; the vendor leaves logs of its own there.
        log: the vendor's output goes here, anew for each run.
        on_line: takes every line of the output, progress bars too.
        on_step: takes the worker's own words.
        on_wait: called about every second.

    Raises:
        WorkerFailure: the step failed, or the worker was killed.
    """
    started = time.monotonic()
    reader, writer = os.pipe()
    job_file = folder / "job.json"
    job_file.write_text(json.dumps({**job, "messages": writer}), encoding="utf-8")
    try:
        process = subprocess.Popen(
            [interpreter, str(WORKER), str(job_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            start_new_session=True,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    except OSError as error:
        os.close(reader)
        raise WorkerFailure("OSError", f"{interpreter} does not run: {error.strerror or error}") from error
    finally:
        os.close(writer)
    try:
        last = _listen(process, reader, log, on_line, on_step, on_wait)
        status = process.wait()
    finally:
        os.close(reader)
        stop_worker(process)
    if last.get("event") == "failure":
        raise WorkerFailure(str(last["kind"]), " ".join(str(last["text"]).split()))
    if last.get("event") != "done":
        raise WorkerFailure("Killed", how_it_ended(status))
    return Finished(last["result"], time.monotonic() - started, int(last["peak_memory_bytes"]))


def _listen(
    process: "subprocess.Popen[bytes]",
    reader: int,
    log: Path,
    on_line: Callable[[LogLine], None],
    on_step: Callable[[str], None],
    on_wait: Callable[[], None],
) -> dict[str, Any]:
    """Pass on what the worker and the vendor say until both pipes are closed; return the worker's last message."""
    assert process.stdout is not None and process.stdin is not None  # noqa: S101, PT018 - for the type checker
    output, splitter, messages = process.stdout.fileno(), LineSplitter(), b""
    last: dict[str, Any] = {}
    give_up: float | None = None
    with log.open("wb", buffering=0) as file, selectors.DefaultSelector() as selector:

        def pass_on(line: LogLine) -> None:
            if not line.overwritten:
                file.write(line.text.encode() + b"\n")
            on_line(line)

        selector.register(output, selectors.EVENT_READ)
        selector.register(reader, selectors.EVENT_READ)
        while selector.get_map() and (give_up is None or time.monotonic() < give_up):
            for key, _ in selector.select(_LISTEN_SECONDS):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fd)
                elif key.fd == output:
                    for line in splitter.feed(chunk):
                        pass_on(line)
                else:
                    *complete, messages = (messages + chunk).split(b"\n")
                    for text in complete:
                        last = json.loads(text)
                        if last["event"] == "step":
                            on_step(last["text"])
            on_wait()
            if give_up is None and process.poll() is not None:
                process.stdin.close()  # ends what the vendor started and left running
                give_up = time.monotonic() + _DRAIN_SECONDS
        for line in splitter.finish():
            pass_on(line)
    return last


def stop_worker(process: "subprocess.Popen[bytes]") -> None:
    """End the worker's process group, politely first, and close its pipes."""
    assert process.stdin is not None  # noqa: S101 - for the type checker
    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        pass  # killed below
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdin.close()  # the worker's watcher kills what is left of the group
        if process.stdout is not None:
            process.stdout.close()


def how_it_ended(status: int) -> str:
    """In words, the end of a worker that left none."""
    if status == -signal.SIGKILL:
        return "the process was killed by signal 9; if it was not you, the system ran out of memory"
    if status < 0:
        return f"the process was killed by signal {-status}"
    return f"the process ended with status {status} and did not say why"
