"""Quantisation of the fake: real rounding of real weights, so that signal-to-noise ratios mean something."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from hailo_sdk_client._parser import Network, Port
from hailo_sdk_client._script import Script

# Share of the weights in 4 bits for one step of compression_level. Public tutorial: level 4 is 80 %.
COMPRESSION_STEP = 0.2
INTEGERS = {4: np.int8, 8: np.int8, 16: np.int16}


@dataclass(frozen=True)
class Encoding:
    """How a stream stores a real number: (stored - zero_point) * scale. Streams are unsigned (FACTS section 3)."""

    bits: int
    zero_point: float
    scale: float

    def round(self, values: np.ndarray) -> np.ndarray:
        """What is left of float32 `values` after the stream."""
        stored = np.clip(np.rint(values / self.scale) + self.zero_point, 0, 2**self.bits - 1)
        return ((stored - self.zero_point) * self.scale).astype(np.float32)


def encoding(low: float, high: float, bits: int) -> Encoding:
    """The encoding of a range; zero is always in it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / (2**bits - 1))) or 1.0
    return Encoding(bits, float(round(-low / scale)), scale)


@dataclass(frozen=True)
class Rounded:
    """A kernel as integers: values = integers * scale."""

    integers: np.ndarray
    scale: np.ndarray

    def values(self) -> np.ndarray:
        """Float32 values."""
        return self.integers * self.scale


def round_kernel(weight: np.ndarray, axis: int, bits: int) -> Rounded:
    """Round symmetrically with one scale per output channel; `scale` keeps the rank of the weight."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    limit = 2 ** (bits - 1) - 1
    scale = np.maximum(np.maximum(weight.max(others, keepdims=True), -weight.min(others, keepdims=True)), 1e-12) / limit
    integers = weight / scale
    np.rint(integers, out=integers)
    return Rounded(integers.astype(INTEGERS[bits]), scale.astype(np.float32))


def four_bit_layers(network: Network, weights: Mapping[str, np.ndarray], script: Script) -> dict[str, int]:
    """Layers that compression_level puts into 4 bits, with their number of weights: the largest ones first."""
    sizes: dict[str, int] = {}
    for kernel in network.kernels:
        sizes[kernel.layer] = sizes.get(kernel.layer, 0) + weights[kernel.tensor].size
    left = COMPRESSION_STEP * script.option("model_optimization_flavor", "compression_level", 0) * sum(sizes.values())
    chosen = {}
    for layer, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if left > 0 and layer not in script.precision:
            chosen[layer] = size
            left -= size
    return chosen


def stream_bits(port: Port, script: Script) -> int:
    """Bits of a stream: those of its own layer, else those of the layer that makes it."""
    return script.bits(port.layer if port.layer in script.precision else port.stream)[0]


def assemble(network: Network, weights: Mapping[str, np.ndarray]) -> bytes:
    """The network as an ONNX model with `weights` as its kernels."""
    model = onnx.ModelProto()
    model.CopyFrom(network.graph)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.data_type = onnx.TensorProto.FLOAT
            tensor.raw_data = np.ascontiguousarray(weights[tensor.name], np.float32).tobytes()
    return model.SerializeToString()


class Executor:
    """Runs a network row by row on data as the vendor's package takes it."""

    def __init__(self, network: Network, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.network = network
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def rows(self, data: Mapping[str, np.ndarray], count: int) -> Iterator[list[np.ndarray]]:
        """For each of the first `count` rows of the NHWC `data`: the outputs as float32 (H, W, C)."""
        for row in range(count):
            feed = {port.tensor: to_onnx(data[port.layer][row], port) for port in self.network.inputs}
            results = self.session.run([port.tensor for port in self.network.outputs], feed)
            yield [from_onnx(value, port) for value, port in zip(results, self.network.outputs, strict=True)]


def to_onnx(values: np.ndarray, port: Port) -> np.ndarray:
    """(H, W, C) as the tensor of the graph."""
    values = np.asarray(values, np.float32)
    return (values.transpose(2, 0, 1) if len(port.onnx_shape) == 4 else values).reshape(port.onnx_shape)


def from_onnx(values: np.ndarray, port: Port) -> np.ndarray:
    """The tensor of the graph as (H, W, C)."""
    height, width, channels = port.shape
    if len(port.onnx_shape) == 4:
        return values.reshape(channels, height, width).transpose(1, 2, 0)
    return values.reshape(port.shape)
