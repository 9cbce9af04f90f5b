"""Which of the model's own layers each layer of the vendor's parsed network is.

The vendor's compiler numbers its layers as it meets them (`conv12`, `matmul3`, `ew_add5`), and merges some: the query,
key and value of a self-attention read the same tensor and become one `conv`. It keeps the ONNX names that a layer came
from, and the export names every node after its layer, so that is where the mapping comes from. Where those names are
missing, it is told by the order of appearance: in the reference's numbering (FACTS section 2) an encoder has two
convolutions and then four for each block, a decoder eight for each block and the parts of the vocabulary.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from whisper_toolchain.compilers.quantised_graph import find_layers
from whisper_toolchain.errors import RecipeError
from whisper_toolchain.graph_names import layer_of

CONVOLUTION, PRODUCT, ADDITION = "conv", "matmul", "ew_add"
KINDS = (CONVOLUTION, PRODUCT, ADDITION)


@dataclass(frozen=True)
class VendorLayer:
    """One layer of the parsed network.

    Attributes:
        name: such as "whisper_tiny_encoder/conv12".
        kind: the vendor's type: "conv", "matmul", "ew_add", "softmax", ...
        original_names: names of the ONNX nodes that it came from; may be empty.
    """

    name: str
    kind: str
    original_names: tuple[str, ...]

    @property
    def short_name(self) -> str:
        """The name without the network's, as model scripts use it: "conv12"."""
        return self.name.rsplit("/", 1)[-1]


def map_layers(vendor: Sequence[VendorLayer], model: onnx.ModelProto, where: str) -> Mapping[str, tuple[str, ...]]:
    """Return the model's layers that each convolution, product and addition of the parsed network stands for.

    Args:
        vendor: the parsed network's layers in its order.
        model: the exported graph.
        where: the network's name, for messages.

    Returns:
        Vendor layer name -> names of our layers.

    Raises:
        RecipeError: the parsed network is not the exported graph, or does not say what it is.
    """
    expected = expected_layers(model)
    layers = [layer for layer in vendor if layer.kind in KINDS]
    if any(layer.original_names for layer in layers):
        return _by_name(layers, expected, {node.name for node in model.graph.node}, where)
    return _by_order(layers, expected, model, where)


def expected_layers(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Our layers that become convolutions, products of activations and additions, each in the graph's order."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for layer in find_layers(model):
        found[PRODUCT if layer.weight is None else CONVOLUTION].append(layer.name)
    found[ADDITION] += additions(model)
    return found


def additions(model: onnx.ModelProto) -> dict[str, str]:
    """The additions of activations that are layers: name -> tensor of the sum, in the graph's order."""
    return {
        layer_of(node.name): node.output[0]
        for node in model.graph.node
        if node.op_type == "Add" and layer_of(node.name).endswith((".residual", ".mask", ".positional"))
    }


def _by_name(
    layers: Sequence[VendorLayer], expected: Mapping[str, Sequence[str]], nodes: set[str], where: str
) -> dict[str, tuple[str, ...]]:
    mapping = {}
    for layer in layers:
        known = set(expected[layer.kind])
        # A name that is no node of ours is a tensor or a step of the vendor's own; it says nothing.
        names = [layer_of(name) for name in layer.original_names if name in nodes]
        ours = tuple(name for name in dict.fromkeys(names) if name in known)
        if ours:
            mapping[layer.name] = ours
        elif layer.kind != ADDITION:  # the vendor adds layers of its own, such as for a normalisation
            raise RecipeError(
                f"{where}: the parsed network's {layer.short_name} came from {list(layer.original_names)}, which is "
                f"no {layer.kind} of the exported graph: export again, or report the compiler's version"
            )
    for kind in (CONVOLUTION, PRODUCT):
        missing = sorted(set(expected[kind]) - {name for names in mapping.values() for name in names})
        if missing:
            raise RecipeError(f"{where}: the parsed network has no layer for {', '.join(missing)}")
    return mapping


def _by_order(
    layers: Sequence[VendorLayer], expected: Mapping[str, Sequence[str]], model: onnx.ModelProto, where: str
) -> dict[str, tuple[str, ...]]:
    mapping: dict[str, tuple[str, ...]] = {}
    for kind in KINDS:
        names = [layer.name for layer in layers if layer.kind == kind]
        groups = _merged(expected[kind], model) if kind == CONVOLUTION else [(name,) for name in expected[kind]]
        if len(names) != len(groups):
            raise RecipeError(
                f"{where}: the parsed network does not say which ONNX nodes its layers came from, and has "
                f"{len(names)} layers of type {kind} where the reference's numbering has {len(groups)}: their order "
                "would be a guess"
            )
        mapping.update(zip(names, groups, strict=True))
    return mapping


def _merged(names: Sequence[str], model: onnx.ModelProto) -> list[tuple[str, ...]]:
    """Layers with a weight that read the same inner tensor become one.

    Not those that read a graph input, and not those whose result is an output, such as the parts of the vocabulary.
    """
    inputs = {value.name for value in model.graph.input}
    outputs = {value.name for value in model.graph.output}
    layers = {layer.name: layer for layer in find_layers(model) if layer.weight is not None}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        source = layers[name].activations[0]
        alone = source in inputs or layers[name].result in outputs
        groups[name if alone else source].append(name)
    return [tuple(group) for group in groups.values()]
