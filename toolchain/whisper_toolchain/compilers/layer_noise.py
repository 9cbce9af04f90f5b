"""How much noise each quantised layer adds, and how much there is by then: where accuracy is lost.

Two ratios for every layer's result, against the float graph on the same speech:

    own_snr_db   the layer alone is quantised, what it reads is float: the noise that it adds itself
    snr_db       the whole graph is quantised: with the noise of all that came before

A damaged layer shows in the first one by itself; the second one stays low from there on.

This is the emulator's. Hailo's compiler can only tell the second one (`compilers.dfc_layer_noise`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from whisper_toolchain.compilers.inner_tensors import with_outputs
from whisper_toolchain.compilers.prepared_graph import PreparedGraph
from whisper_toolchain.compilers.quantised_graph import QuantisedLayer
from whisper_toolchain.compilers.ranges import Feeds
from whisper_toolchain.compilers.rows import Rows
from whisper_toolchain.ort_session import open_session
from whisper_toolchain.recipe import GraphRecipe
from whisper_toolchain.signal_to_noise import SignalToNoise

_OWN = ".own"


@dataclass(frozen=True)
class LayerNoise:
    """The noise of one layer's result.

    Attributes:
        graph: "encoder" or "decoder".
        layer: its name.
        bits: what it is quantised to.
        own_snr_db: of what it adds itself, in dB; None if it adds nothing, or if that cannot be told.
        snr_db: of all noise up to here, in dB; None if there is none, or no figure.
    """

    graph: str
    layer: str
    bits: int
    own_snr_db: float | None
    snr_db: float | None

    def as_dict(self) -> dict[str, Any]:
        """As plain values, with the line that gives the layer 16 bits in a recipe."""
        return {
            "graph": self.graph,
            "layer": self.layer,
            "bits": self.bits,
            "own_snr_db": self.own_snr_db,
            "snr_db": self.snr_db,
            "recipe_line": f'[{self.graph}] sixteen_bit = [..., "{self.layer}"]',
        }


def layer_noise(
    prepared: PreparedGraph, quantised: onnx.ModelProto, recipe: GraphRecipe, rows: Rows
) -> list[LayerNoise]:
    """Run both graphs over rows of real speech and compare every layer's result, the noisiest layer first.

    Of the decoder, only filled slots count; keys and values of the speech have no slots and count whole.

    Args:
        prepared: the float graph.
        quantised: what `prepared.quantise(recipe)` returned.
        recipe: decides on the bits.
        rows: speech that was not used for calibration.
    """
    layers = prepared.layers
    results = [layer.result for layer in layers]
    inputs = {value.name for value in prepared.model.graph.input}
    read = [name for layer in layers for name in layer.activations if name not in inputs]
    wanted = list(dict.fromkeys([*results, *read]))
    float_session = open_session(with_outputs(prepared.model, wanted).SerializeToString())
    whole_session = open_session(with_outputs(quantised, results).SerializeToString())
    alone, needed = _each_alone(quantised, layers)
    alone_session = open_session(alone.SerializeToString())
    own, whole = [SignalToNoise() for _ in layers], [SignalToNoise() for _ in layers]
    feeds_of_rows: Iterable[Feeds] = getattr(rows, prepared.name)()
    for feeds, length in zip(feeds_of_rows, rows.lengths, strict=True):
        floats: Mapping[str, np.ndarray] = dict(zip(wanted, float_session.run(wanted, feeds), strict=True)) | feeds
        alone_results = alone_session.run(
            [f"{name}{_OWN}" for name in results], {name: floats[name] for name in needed}
        )
        whole_results = whole_session.run(results, feeds)
        for index, layer in enumerate(layers):
            used = _used(layer, prepared.name, int(length))
            reference = floats[layer.result][used]
            own[index].add(reference, alone_results[index][used])
            whole[index].add(reference, whole_results[index][used])
    found = [
        LayerNoise(
            prepared.name,
            layer.name,
            recipe.emulated_bits(layer.name),
            finite(own[index].decibels),
            finite(whole[index].decibels),
        )
        for index, layer in enumerate(layers)
    ]
    return noisiest(found)


def noisiest(found: Iterable[LayerNoise], by: str = "own_snr_db") -> list[LayerNoise]:
    """The layers by one of their ratios, the noisiest first; those without a figure last."""

    def ratio(noise: LayerNoise) -> float:
        figure: float | None = getattr(noise, by)
        return math.inf if figure is None else figure

    return sorted(found, key=ratio)


def has_slots(layer: str, graph: str) -> bool:
    """Whether the last axis but one of a layer's result, in the exported graph, is the decoder's slots."""
    return graph == "decoder" and not layer.endswith((".cross_attn.key", ".cross_attn.value"))


def _used(layer: QuantisedLayer, graph: str, length: int) -> tuple[Any, ...]:
    """The part of a layer's result that counts: the filled slots, where it has slots."""
    return (..., slice(length), slice(None)) if has_slots(layer.name, graph) else (...,)


def finite(decibels: float) -> float | None:
    """A ratio, or None if it is infinite or NaN, for which JSON has no number."""
    return decibels if math.isfinite(decibels) else None


def _each_alone(quantised: onnx.ModelProto, layers: Sequence[QuantisedLayer]) -> tuple[onnx.ModelProto, list[str]]:
    """The layers of a quantised graph cut apart: each reads floats that are fed, and writes `<result>.own`.

    Returns:
        The graph and the names of what it must be fed.
    """
    maker = {name: node for node in quantised.graph.node for name in node.output}
    taken: dict[str, onnx.NodeProto] = {}
    for layer in layers:
        wanted = [layer.result]
        while wanted:
            node = maker.get(wanted.pop())
            if node is None or node.name in taken:
                continue
            copy = taken[node.name] = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.output[:] = [f"{name}{_OWN}" if name == layer.result else name for name in node.output]
            wanted += [name for name in node.input if name not in layer.activations]
    order = [taken[node.name] for node in quantised.graph.node if node.name in taken]
    read = {name for node in order for name in node.input}
    made = {name for node in order for name in node.output}
    constants = [tensor for tensor in quantised.graph.initializer if tensor.name in read]
    needed = sorted(read - made - {tensor.name for tensor in constants})
    graph = onnx.helper.make_graph(
        order,
        "layers",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in needed],
        [onnx.helper.make_empty_tensor_value_info(f"{layer.result}{_OWN}") for layer in layers],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=quantised.opset_import, ir_version=quantised.ir_version)
    return model, needed
