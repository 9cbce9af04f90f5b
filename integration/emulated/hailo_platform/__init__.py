"""EMULATED `hailo_platform`: runs the graphs of an emulated bundle with ONNX Runtime, for `make validate-app`.

This is not HailoRT and opens no HEF. It offers what the Speech Recognition app uses and nothing more, and is as strict
about it as HailoRT is: names, sizes and layout of buffers, formats, and the order of calls. It is put on PYTHONPATH
for one run and is never installed.
"""

import functools
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from whisper_runtime.backends.onnxruntime import open_session, run_session

BANNER = "EMULATED hailo_platform: ONNX Runtime on this CPU, no Hailo device and no HailoRT"
SUFFIX = ".emulated.onnx"

sys.stderr.write(BANNER + "\n")


class HailoRTException(Exception):
    """What HailoRT would raise."""


class FormatType(Enum):
    """Number formats of a buffer. A device's own is an integer one, so the app has to ask for floats."""

    AUTO = 0
    UINT8 = 1
    UINT16 = 2
    FLOAT32 = 3


class HailoSchedulingAlgorithm(Enum):
    """Whether a device is shared by several models."""

    NONE = 0
    ROUND_ROBIN = 1


class _Stream:
    """An input or output as the device has it: `shape` without a batch, height, width, channels."""

    def __init__(self, name: str, onnx_name: str, onnx_shape: Sequence[int]) -> None:
        self.name = name
        self.onnx_name = onnx_name
        self._onnx_shape = tuple(onnx_shape)
        # NCHW on the host's side of the compiler, NHWC on the device's.
        batch_free = self._onnx_shape[1:]
        channels_last = len(batch_free) == 3
        self.shape = (*batch_free[1:], batch_free[0]) if channels_last else (1, *batch_free)
        self.format_type = FormatType.AUTO

    def to_onnx(self, buffer: np.ndarray) -> np.ndarray:
        values = buffer.reshape(-1).view(np.float32).reshape(self.shape)
        if len(self._onnx_shape) == 4:
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values).reshape(self._onnx_shape)


class _Graph:
    """One emulated graph, named the way the vendor's compiler names a network."""

    def __init__(self, path: str) -> None:
        if not path.endswith(SUFFIX):
            raise HailoRTException(f"{path}: the emulation opens only graphs of the emulator (*{SUFFIX})")
        self.session = open_session(Path(path), None, "the emulated hailo_platform")
        self.group = Path(path).name.removesuffix(SUFFIX)
        # As the reference has them: features, then embeddings; logits in the vocabulary's order.
        inputs = sorted(self.session.get_inputs(), key=lambda value: value.name)
        outputs = sorted(self.session.get_outputs(), key=lambda value: value.name)
        self.inputs = [("input_layer", value.name, value.shape) for value in inputs]
        self.outputs = [("conv", value.name, value.shape) for value in outputs]

    def streams(self, which: list[tuple[str, str, list[int]]]) -> list[_Stream]:
        return [
            _Stream(f"{self.group}/{layer}{number}", name, shape)
            for number, (layer, name, shape) in enumerate(which, start=1)
        ]


@functools.cache
def _open(path: str) -> _Graph:
    return _Graph(path)


def _graph(path: object) -> _Graph:
    if not isinstance(path, str):
        raise TypeError(f"incompatible arguments: expected a str, got {type(path).__name__}")
    return _open(path)


def _find(streams: Sequence[_Stream], name: str) -> _Stream:
    if name == "":
        if len(streams) != 1:
            raise HailoRTException(f"a name is needed: there are {[stream.name for stream in streams]}")
        return streams[0]
    for stream in streams:
        if stream.name == name:
            return stream
    raise HailoRTException(f"stream {name} not found: there are {[stream.name for stream in streams]}")


class HEF:
    """What a model's file says of itself."""

    def __init__(self, hef_source: str) -> None:
        self._graph = _graph(hef_source)

    def get_network_group_names(self) -> list[str]:
        """The name of the one network group."""
        return [self._graph.group]

    def get_input_vstream_infos(self) -> list[_Stream]:
        """The inputs."""
        return self._graph.streams(self._graph.inputs)

    def get_output_vstream_infos(self) -> list[_Stream]:
        """The outputs."""
        return self._graph.streams(self._graph.outputs)

    def get_sorted_output_names(self) -> list[str]:
        """Names of the outputs, in the compiler's order."""
        return [stream.name for stream in self.get_output_vstream_infos()]


class VDeviceParams:
    """How a device is opened."""

    def __init__(self) -> None:
        self.scheduling_algorithm = HailoSchedulingAlgorithm.NONE
        self.multi_process_service = False
        self.group_id = "UNIQUE"


class VDevice:
    """A device. One at a time, as there is one."""

    _in_use = False

    def __init__(self, params: VDeviceParams | None = None) -> None:
        if params is not None and not isinstance(params, VDeviceParams):
            raise TypeError("params: expected what VDevice.create_params returns")
        self._params = params or VDeviceParams()
        if VDevice._in_use:
            raise HailoRTException("the device is in use")
        if self._params.multi_process_service:
            raise HailoRTException("the multi-process service is not emulated")
        VDevice._in_use = self._open = True
        self.configured = 0

    @staticmethod
    def create_params() -> VDeviceParams:
        """Parameters as they are unless one says otherwise: no scheduler."""
        return VDeviceParams()

    def __enter__(self) -> "VDevice":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the device back."""
        if self._open:
            VDevice._in_use = self._open = False

    def create_infer_model(self, hef_source: str) -> "InferModel":
        """A model from its file's path."""
        if not self._open:
            raise HailoRTException("the device was released")
        return InferModel(self, _graph(hef_source))

    def take(self) -> None:
        """Without a scheduler, a device has room for one model."""
        if self.configured and self._params.scheduling_algorithm is HailoSchedulingAlgorithm.NONE:
            raise HailoRTException("two models on one device need a scheduler (ROUND_ROBIN)")
        self.configured += 1


class _ModelStream:
    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self.name = stream.name
        self.shape = stream.shape

    def set_format_type(self, format_type: FormatType) -> None:
        if not isinstance(format_type, FormatType):
            raise TypeError(f"format_type: expected a FormatType, got {format_type!r}")
        self._stream.format_type = format_type


class InferModel:
    """A model that is not on the device yet."""

    def __init__(self, device: VDevice, graph: _Graph) -> None:
        self._device = device
        self.graph = graph
        self.inputs = graph.streams(graph.inputs)
        self.outputs = graph.streams(graph.outputs)

    def input(self, name: str = "") -> _ModelStream:
        """An input; without a name, the only one."""
        return _ModelStream(_find(self.inputs, name))

    def output(self, name: str = "") -> _ModelStream:
        """An output; without a name, the only one."""
        return _ModelStream(_find(self.outputs, name))

    def configure(self) -> "ConfiguredInferModel":
        """Put the model onto the device."""
        for stream in (*self.inputs, *self.outputs):
            if stream.format_type is not FormatType.FLOAT32:
                raise HailoRTException(f"{stream.name}: the device has integers, and the emulation only floats")
        self._device.take()
        return ConfiguredInferModel(self)


class _Binding:
    def __init__(self, stream: _Stream) -> None:
        self.stream = stream
        self._buffer: np.ndarray | None = None

    def set_buffer(self, buffer: np.ndarray) -> None:
        if not buffer.flags.c_contiguous:
            raise HailoRTException(f"{self.stream.name}: the buffer must be C_CONTIGUOUS")
        if not buffer.flags.writeable:
            raise ValueError("array is not writeable")
        self._buffer = buffer

    def get_buffer(self) -> np.ndarray | None:
        return self._buffer

    def checked(self) -> np.ndarray:
        """The buffer; only its size counts, and only once it is used."""
        needed = 4 * int(np.prod(self.stream.shape))
        if self._buffer is None or self._buffer.nbytes != needed:
            found = None if self._buffer is None else self._buffer.nbytes
            raise HailoRTException(f"{self.stream.name}: the buffer has {found} bytes, not {needed}")
        return self._buffer


class Bindings:
    """The buffers of one inference."""

    def __init__(self, model: InferModel) -> None:
        self.inputs = {stream.name: _Binding(stream) for stream in model.inputs}
        self.outputs = {stream.name: _Binding(stream) for stream in model.outputs}
        self._model = model

    def input(self, name: str = "") -> _Binding:
        """Buffer of an input."""
        return self.inputs[_find(self._model.inputs, name).name]

    def output(self, name: str = "") -> _Binding:
        """Buffer of an output."""
        return self.outputs[_find(self._model.outputs, name).name]


class AsyncInferJob:
    """An inference that has ended already."""

    def wait(self, timeout_ms: float) -> None:
        """Return at once."""
        if not timeout_ms > 0:
            raise HailoRTException(f"timeout of {timeout_ms} ms")


class ConfiguredInferModel:
    """A model on the device, until its context ends."""

    def __init__(self, model: InferModel) -> None:
        self._model: Any = model

    def __enter__(self) -> "ConfiguredInferModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._model = None

    def create_bindings(self) -> Bindings:
        """Buffers for one inference."""
        return Bindings(self._alive())

    def wait_for_async_ready(self, timeout_ms: float = 1000, frames_count: int = 1) -> None:
        """Return at once."""
        self._alive()

    def run(self, bindings: Sequence[Bindings], timeout: float) -> None:
        """Run the model."""
        self.run_async(bindings).wait(timeout)

    def run_async(self, bindings: Sequence[Bindings]) -> AsyncInferJob:
        """Run the model; it is done on return."""
        graph = self._alive().graph
        for item in bindings:
            feeds = {entry.stream.onnx_name: entry.stream.to_onnx(entry.checked()) for entry in item.inputs.values()}
            targets = [entry.checked() for entry in item.outputs.values()]
            names = [entry.stream.onnx_name for entry in item.outputs.values()]
            for target, values in zip(targets, run_session(graph.session, names, feeds), strict=True):
                target.reshape(-1).view(np.float32)[:] = values.reshape(-1)
        return AsyncInferJob()

    def _alive(self) -> InferModel:
        if self._model is None:
            raise AttributeError("the model's context has ended")
        model: InferModel = self._model
        return model
