"""Makes the two operands of an attention's scores easy to quantise, without changing the attention.

A tensor has one scale, so its largest channel sets the step for all. Two things that cost nothing in float help:

- Keys have large constant parts. Subtracting one vector from all keys shifts every score of a query by the same
  amount, which the softmax takes out again. So the mean of each key channel is subtracted, as a bias of the key layer
  (J. Zhang et al., "SageAttention", ICLR 2025, section 4.2, smooths keys by the same argument).
- In query @ key^T each channel of the query meets the same channel of the key: multiplying one by a factor and
  dividing the other by it changes nothing. The factor that gives both the same largest value goes into the weights of
  the two layers (M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
  equation 11).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from whisper_toolchain.compilers.inner_tensors import with_outputs
from whisper_toolchain.compilers.ranges import Feeds
from whisper_toolchain.errors import RecipeError
from whisper_toolchain.ort_session import open_session


def equalise(model: onnx.ModelProto, scores: Iterable[str], rows: Callable[[], Iterable[Feeds]]) -> None:
    """Centre the keys of attentions and balance their channels with the queries', in place.

    Args:
        model: a float graph, renamed.
        scores: names of the `<attention>.scores` layers to equalise.
        rows: gives the inputs of each run; called once.

    Raises:
        RecipeError: a layer is not the product of a query and a key.
    """
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    attentions = [name.removesuffix(".scores") for name in scores]
    if not attentions:
        return
    for attention in attentions:
        if not {f"{attention}.query.bias", f"{attention}.key.weight"} <= weights.keys():
            raise RecipeError(f"matmul_equalization: {attention}.scores is not the product of a query and a key")
        _add_key_bias(model, attention)
    watched = [f"{attention}.{part}/Add" for attention in attentions for part in ("query", "key")]
    statistics = _channel_statistics(model, watched, rows)
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    for attention in attentions:
        query, key = (statistics[f"{attention}.{part}/Add"] for part in ("query", "key"))
        query_peak = np.maximum(query.high, -query.low)
        key_peak = np.maximum(key.high - key.mean, key.mean - key.low)
        usable = (query_peak > 0) & (key_peak > 0)
        factor = np.where(usable, np.sqrt(key_peak / np.where(usable, query_peak, 1.0)), 1.0)
        _scale(weights[f"{attention}.query.weight"], factor)
        _scale(weights[f"{attention}.query.bias"], factor)
        _scale(weights[f"{attention}.key.weight"], 1.0 / factor)
        bias = (-key.mean / factor).astype(np.float32)
        weights[f"{attention}.key.bias"].CopyFrom(numpy_helper.from_array(bias, f"{attention}.key.bias"))


def _add_key_bias(model: onnx.ModelProto, attention: str) -> None:
    """Give a key layer, which has none in Whisper, a bias of zeros."""
    graph = model.graph
    product, result, bias = f"{attention}.key/MatMul", f"{attention}.key/Add", f"{attention}.key.bias"
    width = next(list(tensor.dims)[-1] for tensor in graph.initializer if tensor.name == f"{attention}.key.weight")
    nodes = []
    for node in graph.node:
        node.input[:] = [result if name == product else name for name in node.input]
        nodes.append(node)
        if node.name == product:
            nodes.append(onnx.helper.make_node("Add", [product, bias], [result], result))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.zeros(width, np.float32), bias))


def _scale(weight: onnx.TensorProto, factor: np.ndarray) -> None:
    """Multiply a weight or bias by a factor for each channel, which is its last axis."""
    weight.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(weight) * factor).astype(np.float32), weight.name))


@dataclass
class _Channels:
    """Smallest, largest and mean value of each channel, (channels,) float64."""

    low: np.ndarray
    high: np.ndarray
    total: np.ndarray
    count: int

    @property
    def mean(self) -> np.ndarray:
        mean: np.ndarray = self.total / self.count
        return mean


def _channel_statistics(
    model: onnx.ModelProto, tensors: list[str], rows: Callable[[], Iterable[Feeds]]
) -> dict[str, _Channels]:
    """Statistics of each channel (the last axis) of inner tensors over all rows."""
    session = open_session(with_outputs(model, tensors).SerializeToString())
    statistics: dict[str, _Channels] = {}
    for feeds in rows():
        for name, values in zip(tensors, session.run(tensors, feeds), strict=True):
            flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
            if name not in statistics:
                statistics[name] = _Channels(flat.min(0), flat.max(0), np.zeros(flat.shape[1]), 0)
            seen = statistics[name]
            seen.low, seen.high = np.minimum(seen.low, flat.min(0)), np.maximum(seen.high, flat.max(0))
            seen.total, seen.count = seen.total + flat.sum(0), seen.count + len(flat)
    return statistics
