"""Runs one network of the vendor's compiler, in the vendor's interpreter, on arrays of ours: the vendor's emulation."""

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from whisper_runtime.closing import Closing
from whisper_runtime.errors import BackendError

from whisper_toolchain.compilers.dfc_process import WORKER, how_it_ended, stop_worker

CONTEXTS = ("SDK_NATIVE", "SDK_FP_OPTIMIZED", "SDK_QUANTIZED")
"""The network as it was parsed; with what does not change its precision; quantised."""

OPENING_SECONDS = 1800.0
"""For loading the vendor's packages and a HAR."""
CALL_SECONDS = 600.0
"""For one inference."""

_POLL_SECONDS = 1.0
_LAST_WORDS_SECONDS = 10.0


class ServedNetwork(Closing):
    """A network that a worker process has loaded. The process ends with `close`, and when this one does.

    Args:
        interpreter: the vendor's Python.
        har: the network.
        context: one of `CONTEXTS`.
        log: the vendor's output goes here, anew.

    Raises:
        BackendError: the process does not start, says why it cannot, or is not ready in time.
    """

    def __init__(self, interpreter: str, har: Path, context: str, log: Path) -> None:
        self._name = f"dfc: {har.name} as {context}"
        self._log = log
        self._scratch = tempfile.TemporaryDirectory(prefix="whisper-dfc-")
        self._calls = 0
        self._lines: dict[int, bytes] = {}
        self._ended = ""
        folder = Path(self._scratch.name)
        asked, self._requests = os.pipe()
        self._answers, answering = os.pipe()
        self._messages, telling = os.pipe()
        job = {"action": "serve", "har": str(har.absolute()), "context": context}
        descriptors = {"requests": asked, "answers": answering, "messages": telling}
        (folder / "job.json").write_text(json.dumps({**job, **descriptors}), encoding="utf-8")
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [interpreter, str(WORKER), str(folder / "job.json")],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=tuple(descriptors.values()),
                    start_new_session=True,
                    cwd=folder,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
        except OSError as error:
            self._close_files()
            what = error.filename or interpreter
            raise BackendError(f"{self._name}: {what}: {error.strerror or error}") from error
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        try:
            self._wait_for(self._messages, OPENING_SECONDS)
        except BaseException:
            self.close()
            raise

    def infer(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the network on one row.

        Args:
            arrays: its inputs, each (1, H, W, C) float32; told apart by their shapes.

        Returns:
            Its outputs, float32, in the vendor's order.

        Raises:
            BackendError: the network refuses them, the process has ended, or does not answer in time.
        """
        if self._ended:
            raise BackendError(f"{self._name}: has ended before: {self._ended}")
        self._calls += 1
        folder = Path(self._scratch.name)
        inputs = [folder / f"in.{number}.npy" for number in range(len(arrays))]
        for path, array in zip(inputs, arrays, strict=True):
            np.save(path, np.ascontiguousarray(array, np.float32), allow_pickle=False)
        request = {"inputs": [str(path) for path in inputs], "output": str(folder / f"out.{self._calls}")}
        try:
            os.write(self._requests, json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise self._failure() from None
        paths = [Path(path) for path in self._wait_for(self._answers, CALL_SECONDS)["outputs"]]
        try:
            return [np.load(path, allow_pickle=False) for path in paths]
        finally:
            for path in (*inputs, *paths):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """End the process and remove what it exchanged with this one."""
        self._ended = self._ended or "it was closed"
        if self._requests < 0:
            return
        stop_worker(self._process)
        self._close_files()

    def _close_files(self) -> None:
        for descriptor in (self._requests, self._answers, self._messages):
            os.close(descriptor)
        self._requests = -1
        self._scratch.cleanup()

    def _wait_for(self, descriptor: int, seconds: float) -> dict[str, Any]:
        """The next JSON line on a pipe. Raises BackendError if there is none in time, or no more at all."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while True:
                line, found, rest = self._lines.get(descriptor, b"").partition(b"\n")
                if found:
                    self._lines[descriptor] = rest
                    message: dict[str, Any] = json.loads(line)
                    if message.get("event") == "failure":
                        self._ended = _last_words(message)
                        raise BackendError(f"{self._name}: {self._ended}; log: {self._log}")
                    return message
                if selector.select(_POLL_SECONDS):
                    chunk = os.read(descriptor, 1 << 16)
                    if not chunk:
                        raise self._failure()
                    self._lines[descriptor] = line + chunk
                elif time.monotonic() > end:
                    stop_worker(self._process)
                    self._ended = f"no answer within {seconds:g} s"
                    raise BackendError(f"{self._name}: {self._ended}; log: {self._log}")

    def _failure(self) -> BackendError:
        """Why the process has ended, in its own words if it left some."""
        rest, end = self._lines.pop(self._messages, b""), time.monotonic() + _LAST_WORDS_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._messages, selectors.EVENT_READ)
            while time.monotonic() < end:
                if selector.select(_POLL_SECONDS):
                    chunk = os.read(self._messages, 1 << 16)
                    if not chunk:
                        break
                    rest += chunk
        stop_worker(self._process)
        for message in map(json.loads, rest.splitlines()):
            if message["event"] == "failure":
                self._ended = _last_words(message)
        self._ended = self._ended or how_it_ended(self._process.wait())
        return BackendError(f"{self._name}: {self._ended}; log: {self._log}")


def _last_words(message: Mapping[str, Any]) -> str:
    text = f"{message['kind']}: {' '.join(str(message['text']).split())}"
    return text if len(text) <= 300 else f"{text[:297]}..."
