"""The public classes. Names, signatures and which exception leaves each call are those of
bindings/platform/hailo_platform/pyhailort/pyhailort.py; the exceptions, HEF and Device are in `_fake` and named here.
"""

import gc
import operator
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from hailo_platform._fake import chip as chips
from hailo_platform._fake import faults, formats
from hailo_platform._fake import hef as hefs
from hailo_platform._fake.exceptions import *  # noqa: F403 - some exist in some versions only
from hailo_platform._fake.exceptions import ExceptionWrapper, HailoRTException
from hailo_platform._fake.infer import HIGHEST_PRIORITY, Core, Job
from hailo_platform._fake.public_device import BoardInformation as BoardInformation
from hailo_platform._fake.public_device import Control as Control
from hailo_platform._fake.public_device import Device
from hailo_platform._fake.public_device import DeviceArchitectureTypes as DeviceArchitectureTypes
from hailo_platform._fake.public_device import HailoFirmwareVersion as HailoFirmwareVersion
from hailo_platform._fake.public_hef import HEF
from hailo_platform._fake.statuses import check, failure
from hailo_platform.pyhailort import _pyhailort
from hailo_platform.pyhailort._pyhailort import DvmTypes as DvmTypes
from hailo_platform.pyhailort._pyhailort import FormatOrder, FormatType, HailoFormat, QuantInfo
from hailo_platform.pyhailort._pyhailort import PowerMeasurementTypes as PowerMeasurementTypes


class HailoSchedulingAlgorithm:
    """Its members are those of the native enumeration."""

    NONE = _pyhailort.SchedulingAlgorithm.NONE
    ROUND_ROBIN = _pyhailort.SchedulingAlgorithm.ROUND_ROBIN


class HailoStreamDirection:
    """Its members are those of the native enumeration."""

    H2D = _pyhailort.StreamDirection.H2D
    D2H = _pyhailort.StreamDirection.D2H


class AsyncInferCompletionInfo:
    """What the callback gets: the only place where the failure of a frame shows."""

    def __init__(self, exception: Exception | None) -> None:
        self._exception = exception

    @property
    def exception(self) -> Exception | None:
        """None, or why the job failed."""
        return self._exception


class InferModel:
    """A model to be configured: its streams and their formats."""

    class InferStream:
        """A stream; all objects of one stream share its format."""

        def __init__(self, stream: hefs.StreamInfo, kinds: dict[str, int]) -> None:
            self._stream = stream
            self._kinds = kinds

        @property
        def name(self) -> str:
            """Name of the stream."""
            return self._stream.name

        @property
        def shape(self) -> list[int]:
            """Height, width, features: no batch. Does not depend on the format type."""
            return list(self._stream.shape)

        @property
        def format(self) -> HailoFormat:
            """Format of the user's buffer; at first the chip's own type."""
            return HailoFormat(FormatType(self._kinds[self.name]))

        def set_format_type(self, type: FormatType) -> None:
            """Counts when the model is configured; later calls have no effect."""
            _pyhailort.require(isinstance(type, FormatType), "set_format_type", type)
            self._kinds[self.name] = type.value

        def set_format_order(self, order: FormatOrder) -> None:
            """Only the order that the stream has anyway."""
            _pyhailort.require(isinstance(order, FormatOrder), "set_format_order", order)
            if order not in (FormatOrder.AUTO, FormatOrder.NHWC):
                raise AssertionError(f"the fake has no conversion to {order}")

        @property
        def quant_infos(self) -> list[QuantInfo]:
            """Scale and zero point."""
            return [_pyhailort.quant_info(self._stream)]

        @property
        def is_nms(self) -> bool:
            """No stream of the fake is."""
            return False

    def __init__(self, chip: chips.Chip, hef: hefs.Hef, name: str, hef_source: str | bytes) -> None:
        self._chip = chip
        self._native_hef = hef
        self._group = hef.group(name)
        self._named = name != ""
        self._kinds = {stream.name: formats.native_type(stream) for stream in self._group.inputs + self._group.outputs}
        self._batch = 0
        self._hef_source = hef_source
        self._hef: HEF | None = None

    @property
    def hef(self) -> HEF:
        """The HEF, read once more."""
        if self._hef is None:
            self._hef = HEF(self._hef_source)
        return self._hef

    def set_batch_size(self, batch_size: int) -> None:
        """Frames of a burst; 0 leaves it to HailoRT."""
        self._batch = _pyhailort.unsigned(batch_size, 16)

    def configure(self) -> "ConfiguredInferModel":
        """Load the model onto the device. Here, and not before, the architecture is checked."""
        with ExceptionWrapper():
            faults.reach("InferModel.configure")
            chips.check_alive(self._chip, "InferModel.configure")
            check(self._named or len(self._native_hef.groups) == 1, "INVALID_ARGUMENT")
            core = Core(self._chip, self._native_hef, self._group, self._kinds, self._batch)
            return ConfiguredInferModel(NativeConfiguredModel(core), self)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs."""
        return [stream.name for stream in self._group.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return [stream.name for stream in self._group.outputs]

    @property
    def inputs(self) -> list["InferModel.InferStream"]:
        """All inputs."""
        return [self.InferStream(stream, self._kinds) for stream in self._group.inputs]

    @property
    def outputs(self) -> list["InferModel.InferStream"]:
        """All outputs."""
        return [self.InferStream(stream, self._kinds) for stream in self._group.outputs]

    def input(self, name: str = "") -> "InferModel.InferStream":
        """An input. Unknown: not found; no name with several inputs: invalid operation, whatever the docs say."""
        with ExceptionWrapper():
            return self.InferStream(find_stream(self._group.inputs, name), self._kinds)

    def output(self, name: str = "") -> "InferModel.InferStream":
        """An output, with the same exceptions."""
        with ExceptionWrapper():
            return self.InferStream(find_stream(self._group.outputs, name), self._kinds)


def find_stream(streams: Sequence[hefs.StreamInfo], name: str) -> hefs.StreamInfo:
    """A stream by name, or the only one for an empty name. infer_model.cpp, infer_model_api.cpp."""
    _pyhailort.require(isinstance(name, str), "stream name", name)
    if name == "":
        check(len(streams) == 1, "INVALID_OPERATION")
        return streams[0]
    for stream in streams:
        if stream.name == name:
            return stream
    raise failure("NOT_FOUND")


class NativeConfiguredModel:
    """Owns a configured model: when the last reference goes, the model is shut down."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def __del__(self) -> None:
        self.core.destroy()


class ConfiguredInferModel:
    """A model on the device. After its context nothing works: an AttributeError, as there."""

    class Bindings:
        """The buffers of one frame."""

        class InferStream:
            """The buffer of one stream."""

            def __init__(self, name: str, views: dict[str, np.ndarray]) -> None:
                self._name = name
                self._views = views
                self._buffer: np.ndarray | None = None

            def set_buffer(self, buffer: np.ndarray) -> None:
                """Take a C-contiguous, writable array. Its dtype and shape never matter; its size does when run."""
                with ExceptionWrapper():
                    if not buffer.flags.c_contiguous:
                        raise HailoRTException("the buffer must be C_CONTIGUOUS")
                    faults.reach("Bindings.set_buffer")
                    _pyhailort.require(isinstance(buffer, np.ndarray), "set_buffer", buffer)
                    if not buffer.flags.writeable:
                        raise ValueError("array is not writeable")  # mutable_data() of the binding library
                    self._views[self._name] = buffer.reshape(-1).view(np.uint8)
                self._buffer = buffer

            def get_buffer(self, tf_format: bool | None = False) -> np.ndarray | None:
                """The array itself; None before one was set."""
                return self._buffer

        def __init__(self, group: hefs.NetworkGroup) -> None:
            self._group = group
            self._inputs: dict[str, Any] = {}
            self._outputs: dict[str, Any] = {}
            self._views: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})

        def input(self, name: str = "") -> "ConfiguredInferModel.Bindings.InferStream":
            """Buffer of an input."""
            return self._stream(self._inputs, self._group.inputs, self._views[0], name)

        def output(self, name: str = "") -> "ConfiguredInferModel.Bindings.InferStream":
            """Buffer of an output."""
            return self._stream(self._outputs, self._group.outputs, self._views[1], name)

        def _stream(self, known: dict[str, Any], streams: Sequence[hefs.StreamInfo], views: dict, name: str) -> Any:
            with ExceptionWrapper():
                name = find_stream(streams, name).name
            if name not in known:
                known[name] = self.InferStream(name, views)
            return known[name]

        def get(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
            """The buffers as they are set now: a launch keeps these."""
            return dict(self._views[0]), dict(self._views[1])

    def __init__(self, native: NativeConfiguredModel, infer_model: InferModel) -> None:
        self._configured_infer_model: NativeConfiguredModel | None = native
        self._infer_model = infer_model
        self._buffer_guards: deque = deque()

    def __enter__(self) -> "ConfiguredInferModel":
        return self

    def __exit__(self, *args: object) -> None:
        faults.reach("ConfiguredInferModel.__exit__")
        self._configured_infer_model = None

    def activate(self) -> None:
        """Needed without a scheduler, and refused with one."""
        with ExceptionWrapper():
            self._core("activate").activate()

    def deactivate(self) -> None:
        """The opposite."""
        with ExceptionWrapper():
            self._core("deactivate", fault=False).deactivate()

    def create_bindings(
        self,
        input_buffers: Mapping[str, np.ndarray] | None = None,
        output_buffers: Mapping[str, np.ndarray] | None = None,
    ) -> "ConfiguredInferModel.Bindings":
        """Buffers for one frame, by stream name."""
        with ExceptionWrapper():
            core = self._core("create_bindings")
        bindings = self.Bindings(core.group)
        for name, buffer in (input_buffers or {}).items():
            bindings.input(name).set_buffer(buffer)
        for name, buffer in (output_buffers or {}).items():
            bindings.output(name).set_buffer(buffer)
        return bindings

    def wait_for_async_ready(self, timeout_ms: float = 1000, frames_count: int = 1) -> None:
        """Wait until `frames_count` frames can be launched."""
        with ExceptionWrapper():
            core, seconds = self._core("wait_for_async_ready"), timedelta(milliseconds=timeout_ms).total_seconds()
            core.wait_ready(seconds, _pyhailort.unsigned(frames_count, 32))

    def run(self, bindings: Sequence["ConfiguredInferModel.Bindings"], timeout: float) -> None:
        """Launch and wait. As with wait(), the failure of a frame does not show."""
        with ExceptionWrapper():
            self.run_async(bindings).wait(timeout)

    def run_async(
        self, bindings: Sequence["ConfiguredInferModel.Bindings"], callback: Callable[..., None] | None = None
    ) -> "AsyncInferJob":
        """Launch; `callback` is called from another thread with the keyword argument `completion_info`."""
        guards = []
        for binding in bindings:
            guards += [binding.input(name).get_buffer() for name in self._infer_model.input_names]
            guards += [binding.output(name).get_buffer(None) for name in self._infer_model.output_names]
        self._buffer_guards.append(guards)

        def completed(status: int) -> None:
            error = ExceptionWrapper.create_exception_from_status(status) if status else None
            if callback:
                callback(completion_info=AsyncInferCompletionInfo(error))
            self._buffer_guards.popleft()

        with ExceptionWrapper():
            core = self._core("run_async", fault=False)
            return AsyncInferJob(core.run_async([binding.get() for binding in bindings], completed))

    def set_scheduler_timeout(self, timeout_ms: float) -> None:
        """Of the scheduler, which there must be."""
        with ExceptionWrapper():
            timedelta(milliseconds=timeout_ms)
            self._core("set_scheduler_timeout").check_scheduled()

    def set_scheduler_threshold(self, threshold: int) -> None:
        """Of the scheduler, which there must be."""
        with ExceptionWrapper():
            _pyhailort.unsigned(threshold, 32)
            self._core("set_scheduler_threshold").check_scheduled()

    def set_scheduler_priority(self, priority: int) -> None:
        """Of the scheduler, which there must be; 0 to 31."""
        with ExceptionWrapper():
            number = _pyhailort.unsigned(priority, 8)
            self._core("set_scheduler_priority").check_scheduled()
            check(number <= HIGHEST_PRIORITY, "INVALID_ARGUMENT")

    def get_async_queue_size(self) -> int:
        """How many frames can be under way."""
        with ExceptionWrapper():
            return self._core("get_async_queue_size").queue_size

    def shutdown(self) -> None:
        """End the model: frames under way are aborted, and later launches fail with 63."""
        with ExceptionWrapper():
            self._core("shutdown").shut_down()

    def _core(self, method: str, fault: bool = True) -> Core:
        core = operator.attrgetter("core")(self._configured_infer_model)
        if fault:
            faults.reach(f"ConfiguredInferModel.{method}")
        core.check_usable(method)
        return core


class AsyncInferJob:
    """A launch."""

    MILLISECOND = 1 / 1000

    def __init__(self, job: Job) -> None:
        self._job = job

    def wait(self, timeout_ms: float) -> None:
        """Wait for the end: HailoRTTimeout if it does not come. Whether the job succeeded, only the callback knows."""
        with ExceptionWrapper():
            self._job.wait(timedelta(milliseconds=timeout_ms).total_seconds())


class VDevice:
    """A virtual device: the only way to run models."""

    def __init__(self, params: _pyhailort.VDeviceParams | None = None, *, device_ids: Sequence[str] | None = None):
        gc.collect()
        self._vdevice: chips.Chip | None = None
        self._creation_pid = os.getpid()
        self._params = VDevice.create_params() if params is None else params
        with ExceptionWrapper():
            _pyhailort.require(isinstance(self._params, _pyhailort.VDeviceParams), "params", self._params)
            self._vdevice = _open(self._params, list(device_ids or []))

    def __enter__(self) -> "VDevice":
        return self

    def __exit__(self, *args: object) -> bool:
        self.release()
        return False

    def __del__(self) -> None:
        if self._vdevice is not None:
            try:
                self._vdevice.release()
            except AssertionError:  # an object that is collected can tell nobody
                return

    @staticmethod
    def create_params() -> _pyhailort.VDeviceParams:
        """Default parameters: no scheduler before 5.0."""
        return _pyhailort.VDeviceParams.default()

    def release(self) -> None:
        """Give the device back."""
        if self._vdevice is not None:
            faults.reach("VDevice.release")
            chip, self._vdevice = self._vdevice, None
            chip.release()

    def get_physical_devices(self) -> list[Device]:
        """The devices in it."""
        return [Device(device_id) for device_id in self.get_physical_devices_ids()]

    def get_physical_devices_ids(self) -> list[str]:
        """Ids of the devices in it."""
        with ExceptionWrapper():
            ids = operator.attrgetter("device_ids")(self._vdevice)
            faults.reach("VDevice.get_physical_devices_ids")
            return list(ids)

    def create_infer_model(self, hef_source: str | bytes, name: str = "") -> InferModel:
        """A model from a file's path or a HEF's bytes; `name`: its network group."""
        if os.getpid() != self._creation_pid:
            raise HailoRTException("an InferModel can be created only from the process VDevice was created in")
        with ExceptionWrapper():
            chip = self._vdevice
            operator.attrgetter("device_ids")(chip)  # AttributeError of None after release
            faults.reach("VDevice.create_infer_model")
            _pyhailort.require(isinstance(name, str), "create_infer_model", name)
            if type(hef_source) is bytes:
                hef = hefs.read_buffer(hef_source)
            else:
                _pyhailort.require(isinstance(hef_source, str), "create_infer_model_from_file()", hef_source)
                hef = hefs.read_file(hef_source)
            return InferModel(chip, hef, name, hef_source)


def _open(params: _pyhailort.VDeviceParams, device_ids: list[str]) -> chips.Chip:
    # bindings/src/vdevice_api.hpp: with the argument device_ids the parameters are not looked at any more.
    if device_ids:
        check(not params.device_ids, "INVALID_OPERATION")
        scheduled = _pyhailort.default_scheduling() == HailoSchedulingAlgorithm.ROUND_ROBIN
        return chips.open_chip(scheduled, chips.UNIQUE, False, len(device_ids), device_ids)
    return chips.open_chip(
        params.scheduling_algorithm != HailoSchedulingAlgorithm.NONE,
        params.group_id,
        params.multi_process_service,
        params.device_count,
        params.device_ids or None,
    )
