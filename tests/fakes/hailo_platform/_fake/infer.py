"""A configured model: launching, completing and aborting frames.

Sources: libhailort/src/net_flow/pipeline/infer_model.cpp, async_infer_runner.cpp, multi_io_elements.cpp,
src/core_op/core_op.cpp, src/vdevice/vdevice_core_op.cpp, bindings/src/infer_model_api.cpp.
"""

import os
import queue
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hailo_platform._fake import config, faults, formats
from hailo_platform._fake.chip import Chip, check_alive
from hailo_platform._fake.graph import Graph
from hailo_platform._fake.hef import Hef, NetworkGroup, check_runs_on
from hailo_platform._fake.statuses import CODES, HailoRTStatusException, check, failure

SHUTDOWN_LIMIT = 10.0  # seconds for the frame at work
HIGHEST_PRIORITY = 31

Buffers = Mapping[str, np.ndarray]  # stream name -> its bytes, uint8 of one dimension


class Job:
    """One launch of one or more frames."""

    def __init__(self, frames: int, callback: Callable[[int], None] | None) -> None:
        self._left = frames
        self._lock = threading.Lock()
        self.status = 0
        self.callback = callback
        self.finished = threading.Event()
        self.called_back = threading.Event()
        self.misuse: AssertionError | None = None
        self.stalled = False

    def frame_done(self, status: int) -> bool:
        """Note the end of a frame; True if it was the last one."""
        with self._lock:
            self._left -= 1
            self.status = status or self.status
            return self._left == 0

    def wait(self, seconds: float) -> None:
        """Wait for the end of the job, then as long for its callback. A status of the job itself is not looked at."""
        if faults.reach("AsyncInferJob.wait").get("stall"):
            self.stalled = True
        if self.stalled:
            time.sleep(seconds)
        for event in (self.finished, self.called_back):
            if self.stalled or not event.wait(seconds):
                raise failure("TIMEOUT")
        if self.misuse is not None:
            raise self.misuse


@dataclass
class Frame:
    """The buffers of one frame under way. They are held, so that they live as long as the device writes."""

    job: Job
    inputs: Buffers
    outputs: Buffers
    checksums: dict[str, int] = field(default_factory=dict)
    stalled: bool = False

    def __post_init__(self) -> None:
        self.checksums = {name: zlib.crc32(buffer) for name, buffer in self.inputs.items()}

    def changed_input(self) -> str | None:
        """Name of an input whose bytes are not those that were launched."""
        for name, buffer in self.inputs.items():
            if zlib.crc32(buffer) != self.checksums[name]:
                return name
        return None


class Core:
    """The state behind ConfiguredInferModel."""

    def __init__(self, chip: Chip, hef: Hef, group: NetworkGroup, kinds: Mapping[str, int], batch: int) -> None:
        check_runs_on(hef, config.device().get("architecture", "HAILO8"))
        self.queue_size = config.device().get("queue_size", 4) * max(batch, 1)
        for stream in group.inputs + group.outputs:
            formats.check_convertible(stream, kinds[stream.name])
        self.chip = chip
        self.group = group
        self.kinds = dict(kinds)
        self.sizes = {
            stream.name: formats.frame_size(stream, kinds[stream.name]) for stream in group.inputs + group.outputs
        }
        self._graph = Graph(hef, group)
        self._changed = threading.Condition()
        self._under_way: list[Frame] = []
        self._pipeline_status = 0
        self._callbacks: queue.Queue = queue.Queue()
        self._caller: threading.Thread | None = None
        self._misuse: AssertionError | None = None
        chip.cores.append(self)

    @property
    def is_shut_down(self) -> bool:
        """Whether new frames are refused for good."""
        return self._pipeline_status != 0

    def check_usable(self, what: str) -> None:
        """Raise for a released device, another process, or a misuse that a finished frame showed."""
        check_alive(self.chip, f"ConfiguredInferModel.{what}")
        if self._misuse is not None:
            raise self._misuse

    def activate(self) -> None:
        """Allowed without a scheduler only, and for one model at a time."""
        check(not self.chip.scheduled, "INVALID_OPERATION")
        check(self.chip.activated is None, "INVALID_OPERATION")
        self.chip.activated = self

    def deactivate(self) -> None:
        """Never fails, whatever was activated."""
        if self.chip.activated is self:
            self.chip.activated = None

    def check_scheduled(self) -> None:
        """The settings of the scheduler need one."""
        check(self.chip.scheduled, "INVALID_OPERATION")

    def wait_ready(self, seconds: float, frames: int) -> None:
        """Wait until `frames` more can be launched. A model that was shut down counts as ready."""
        with self._changed:
            fits = self._changed.wait_for(lambda: len(self._under_way) + frames <= self.queue_size, seconds)
        check(fits, "TIMEOUT")

    def run_async(self, bindings: Sequence[tuple[Buffers, Buffers]], callback: Callable[[int], None]) -> Job:
        """Launch a frame for each pair of input and output buffers.

        A launch that fails shuts the model down; frames that were launched before it are aborted.
        """
        for _, outputs in bindings:  # the binding makes its own outputs first, and that failure does no harm
            check(all(stream.name in outputs for stream in self.group.outputs), "INVALID_OPERATION")
        job = Job(len(bindings), callback)
        with self._changed:
            if self._caller is None:
                self._caller = threading.Thread(target=self._call_back, name="fake-hailo-callbacks", daemon=True)
                self._caller.start()
        try:
            stall = faults.reach("ConfiguredInferModel.run_async").get("stall", False)
            for inputs, outputs in bindings:
                self._launch(Frame(job, inputs, outputs, stalled=stall or faults.stalls("AsyncInferJob.wait")))
        except HailoRTStatusException:
            self.shut_down()
            raise
        return job

    def _launch(self, frame: Frame) -> None:
        for stream in self.group.inputs:
            check(stream.name in frame.inputs, "NOT_FOUND")
            check(frame.inputs[stream.name].size == self.sizes[stream.name], "INVALID_OPERATION")
        for stream in self.group.outputs:
            check(frame.outputs[stream.name].size == self.sizes[stream.name], "INVALID_OPERATION")
        with self._changed:
            if self._pipeline_status:
                raise failure(self._pipeline_status)
            check(len(self._under_way) < self.queue_size, "QUEUE_IS_FULL")
            for core in self.chip.cores:
                for other in core._under_way:
                    _refuse_shared_memory(frame, other)
            _refuse_shared_memory(frame, None)
            self._under_way.append(frame)
        self.chip.worker.submit(self, frame)

    def execute(self, frame: Frame) -> None:
        """Run a frame, in the device's thread; outputs are written only now."""
        outputs: dict[str, np.ndarray] = {}
        status = self._pipeline_status
        try:
            if not status and not self.chip.scheduled and self.chip.activated is not self:
                status = CODES["STREAM_NOT_ACTIVATED"]  # nobody is told but the callback
            if not status:
                outputs = self._compute(frame)
                faults.reach("AsyncInferJob.completion")
        except HailoRTStatusException as error:
            status = int(error.args[0])
        except Exception as error:  # the thread goes on; whoever waits for the job is told
            self._misuse = frame.job.misuse = (
                error if isinstance(error, AssertionError) else AssertionError(f"the fake device failed: {error!r}")
            )
        self._complete(frame, self._pipeline_status or status, outputs)

    def _compute(self, frame: Frame) -> dict[str, np.ndarray]:
        numbers = {
            stream.name: formats.to_chip(stream, self.kinds[stream.name], frame.inputs[stream.name])
            for stream in self.group.inputs
        }
        time.sleep(config.load().get("latency", 0))
        results = self._graph.run(numbers)
        changed = frame.changed_input()
        if changed is not None:
            raise AssertionError(f"the input buffer of {changed} was written while the device was reading it")
        outputs = {
            stream.name: formats.from_chip(stream, self.kinds[stream.name], results[stream.name])
            for stream in self.group.outputs
        }
        self._graph.spoil(outputs, self.kinds)
        return outputs

    def _complete(self, frame: Frame, status: int, outputs: Mapping[str, np.ndarray]) -> None:
        # The binding copies its own buffers out in any case; those of a failed frame are zeros.
        for name, buffer in frame.outputs.items():
            buffer[:] = outputs[name].reshape(-1).view(np.uint8) if not status and name in outputs else 0
        with self._changed:
            self._under_way.remove(frame)
            self._changed.notify_all()
        if frame.job.frame_done(status):
            frame.job.finished.set()
            self._callbacks.put(frame.job)

    def _call_back(self) -> None:
        while (job := self._callbacks.get()) is not None:
            callback, job.callback = job.callback, None  # a job that is kept must not keep the model
            try:
                callback(job.status)
            except Exception as error:
                self._misuse = job.misuse = AssertionError(
                    f"the callback of run_async raised {type(error).__name__}: {error}. HailoRT would end the process."
                )
                job.misuse.__cause__ = error
            job.called_back.set()

    def abort(self, status: str) -> None:
        """Refuse new frames and end those under way with the status."""
        self._pipeline_status = self._pipeline_status or CODES[status]
        for frame in self.chip.worker.withdraw(self):
            self._complete(frame, CODES[status], {})
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, SHUTDOWN_LIMIT)

    def shut_down(self) -> None:
        """End the model; it stays unusable. Waits for the frame at work."""
        self.abort("STREAM_ABORT")
        self.deactivate()
        if self in self.chip.cores:
            self.chip.cores.remove(self)

    def destroy(self) -> None:
        """What the end of the last reference does: shut down, and let the callbacks end."""
        if os.getpid() != self.chip.pid:
            return
        self.shut_down()
        self._callbacks.put(None)
        if self._caller is not None and self._caller is not threading.current_thread():
            self._caller.join(SHUTDOWN_LIMIT)


def _refuse_shared_memory(frame: Frame, other: Frame | None) -> None:
    """No output of a frame may lie in memory that this or another frame under way uses."""
    for name, buffer in frame.outputs.items():
        mine = [(key, value) for key, value in (*frame.inputs.items(), *frame.outputs.items()) if key != name]
        used = mine if other is None else [*other.inputs.items(), *other.outputs.items()]
        for key, value in used:
            if np.may_share_memory(buffer, value):
                raise AssertionError(f"run_async: the output buffer of {name} is in use by {key} of a job in flight")
    for name, buffer in frame.inputs.items():
        for key, value in other.outputs.items() if other is not None else ():
            if np.may_share_memory(buffer, value):
                raise AssertionError(
                    f"run_async: the input buffer of {name} is still being written as {key} of a job in flight"
                )
