"""Where a graph is looked into, layer by layer, and which output of a parsed network is which layer's result."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from whisper_toolchain.compilers.layer_noise import has_slots
from whisper_toolchain.compilers.quantised_graph import find_layers
from whisper_toolchain.compilers.vendor_layers import additions
from whisper_toolchain.graph_names import layer_of

# Of a float result in two programs, which differ in the last bits. Results of two layers can come near: each sum of
# the residual stream is the one before and a little more.
_LEAST_LIKENESS = 0.99
_ACTIVATIONS = (".gelu", ".mlp.1")


@dataclass(frozen=True)
class Probe:
    """One layer of a graph, and where its result can be read.

    Attributes:
        layer: its name, as recipes have it.
        tensor: its result in the exported graph. Of a layer with an activation: what comes out behind that, for
            Hailo's compiler makes one layer of the two.
        node: the node that makes the tensor.
        slots: whether the tensor's last axis but one is the decoder's slots.
    """

    layer: str
    tensor: str
    node: str
    slots: bool


@dataclass(frozen=True)
class Place:
    """Where a layer's result is among the outputs of a parsed network.

    Attributes:
        output: its number.
        slots: how a row of the output is cut into three axes, the middle one the slots; None if it has none.
    """

    output: int
    slots: tuple[int, int, int] | None


def find_probes(model: onnx.ModelProto, graph: str) -> list[Probe]:
    """Every layer that a recipe can name for Hailo's compiler: products, convolutions, and additions.

    Args:
        model: an exported graph.
        graph: "encoder" or "decoder".
    """
    maker = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[str]] = defaultdict(list)  # tensor -> names of the layers that read it
    last: dict[str, str] = {}  # layer -> what its last node makes
    for node in model.graph.node:
        last[layer_of(node.name)] = node.output[0]
        for name in node.input:
            readers[name].append(layer_of(node.name))
    results = {layer.name: layer.result for layer in find_layers(model)} | additions(model)
    probes = []
    for layer, result in results.items():
        following = set(readers[result])
        if len(following) == 1 and (activation := following.pop()).endswith(_ACTIVATIONS):
            result = last[activation]
        probes.append(Probe(layer, result, maker[result].name, has_slots(layer, graph)))
    return probes


def tell_apart(
    probes: Sequence[Probe], references: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray]
) -> dict[str, Place]:
    """Find layers' results among the outputs of a network, by what they hold: the vendor documents no order.

    Nor does it say how a result of several heads is laid out. So an output may be the reference with its axes in any
    other order, axes of size 1 aside.

    Args:
        probes: the layers.
        references: tensor name -> its float values (1, ...) in the exported graph.
        outputs: the network's float outputs (1, ...) for the same input, in its order.

    Returns:
        Layer name -> its place. A layer that no output is like is not in it; each output is one layer's at most.
    """
    flat = [_direction(output) for output in outputs]
    found: list[tuple[float, Probe, int, tuple[int, int, int] | None]] = []
    for probe in probes:
        reference = references[probe.tensor]
        numbers = [number for number, output in enumerate(outputs) if output.size == reference.size]
        for order in _orders(reference):
            arranged = _direction(reference.transpose(order))
            slots = _cut(reference.shape, order) if probe.slots else None
            found += [(float(flat[number] @ arranged), probe, number, slots) for number in numbers]
    places: dict[str, Place] = {}
    taken: set[int] = set()
    for likeness, probe, number, slots in sorted(found, key=lambda entry: -entry[0]):
        if likeness >= _LEAST_LIKENESS and probe.layer not in places and number not in taken:
            places[probe.layer] = Place(number, slots)
            taken.add(number)
    return places


def _orders(reference: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Every order of the axes that makes a difference to the values' order, those of size 1 first."""
    single = tuple(axis for axis, size in enumerate(reference.shape) if size == 1)
    for order in itertools.permutations(axis for axis, size in enumerate(reference.shape) if size > 1):
        yield (*single, *order)


def _cut(shape: Sequence[int], order: Sequence[int]) -> tuple[int, int, int]:
    """Sizes before, of, and behind the last axis but one, once the axes are in an order."""
    sizes, at = [shape[axis] for axis in order], order.index(len(shape) - 2)
    return int(np.prod(sizes[:at])), sizes[at], int(np.prod(sizes[at + 1 :]))


def _direction(values: np.ndarray) -> np.ndarray:
    """The values (n,) without their mean, of length 1: the product of two such is their correlation.

    Zeros if all are equal or one is not finite, which is like nothing.
    """
    flat = values.astype(np.float64).ravel()
    flat -= flat.mean()
    length = float(np.sqrt(np.square(flat).sum()))
    return flat / length if 0.0 < length < np.inf else np.zeros_like(flat)
