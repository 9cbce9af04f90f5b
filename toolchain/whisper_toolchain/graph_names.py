"""Names for every node and weight of an exported graph, in terms of the model's own layers.

torch's exporter names a node after the module that it was traced in and numbers the rest, as in
`/encoder/blocks.0/Add_1`. Recipes speak of layers (`encoder.blocks.0.attn.residual`), and nothing may be found
by a number that the next release of the exporter changes. So each node gets the name `<layer>/<operator>`:

    encoder.conv1, encoder.blocks.0.attn.query, ...   the layers of the checkpoint, under their own names
    <attention>.scores, <attention>.softmax, <attention>.context    the products inside an attention
    <attention>.mask                                  the addition of the causal mask
    <block>.{attn,cross_attn,mlp}.residual            the addition after each part of a block
    encoder.conv1.gelu, encoder.conv2.gelu            the activations of the front end
    encoder.positional, decoder.embedded              the positional addition; the decoder's input reshaped
    decoder.vocabulary.0 ... 3                        the parts of the vocabulary projection

A weight is named `<layer>.weight` or `<layer>.bias`, like the checkpoint's tensor that it holds (transposed for
MatMul), another constant `<layer>.constant`. Tensors between nodes take the name of the node that makes them;
graph inputs and outputs keep theirs.
"""

import re
from collections import Counter, defaultdict

import onnx

from whisper_toolchain.errors import ExportError

_ATTENTION = re.compile(r"\.(attn|cross_attn)$")
_BLOCK = re.compile(r"^(encoder|decoder)\.blocks\.\d+$")


def layer_of(node_name: str) -> str:
    """Return the layer that a renamed node belongs to: `a.b/MatMul` -> `a.b`."""
    return node_name.rsplit("/", 1)[0]


def rename_graph(model: onnx.ModelProto) -> None:
    """Rename nodes, weights and inner tensors in place.

    Raises:
        ExportError: a node does not carry the name of the module it came from, or a block does not have the
            additions that a Whisper block has.
    """
    graph = model.graph
    layers = [_layer(node) for node in graph.node]
    _name_front_end(graph, layers)
    _name_residuals(graph, layers)
    _name_attention(graph, layers)
    _name_vocabulary(graph, layers)

    counts: Counter[str] = Counter()
    tensors: dict[str, str] = {}
    kept = {value.name for value in [*graph.input, *graph.output]}
    for node, layer in zip(graph.node, layers, strict=True):
        name = f"{layer}/{node.op_type}"
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
        for index, output in enumerate(node.output):
            if output not in kept:
                tensors[output] = node.name if index == 0 else f"{node.name}:{index}"
    tensors.update(_weight_names(graph, layers))
    for node in graph.node:
        node.input[:] = [tensors.get(name, name) for name in node.input]
        node.output[:] = [tensors.get(name, name) for name in node.output]
    for initializer in graph.initializer:
        initializer.name = tensors.get(initializer.name, initializer.name)
    del graph.value_info[:]


def _layer(node: onnx.NodeProto) -> str:
    """`/encoder/blocks.0/attn/query/MatMul` -> `encoder.blocks.0.attn.query`."""
    parts = node.name.split("/")
    if len(parts) < 2 or parts[0]:
        raise ExportError(f"the exporter named a node '{node.name}': expected the path of its module")
    path: list[str] = []
    for part in parts[1:-1]:
        # A module in a list is traced as `blocks.0`; one in a Sequential as `mlp/mlp.0`.
        if path and part.startswith(path[-1] + "."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)


def _name_front_end(graph: onnx.GraphProto, layers: list[str]) -> None:
    convolution = ""
    for index, (node, layer) in enumerate(zip(graph.node, layers, strict=True)):
        if node.op_type == "Conv":
            convolution = layer
        elif layer == "encoder" and node.op_type in ("Squeeze", "Transpose"):
            convolution = ""
        elif layer == "encoder" and convolution:
            layers[index] = f"{convolution}.gelu"
        elif layer == "encoder" and node.op_type == "Add":
            layers[index] = "encoder.positional"
        elif not layer:
            layers[index] = "decoder.embedded"


def _name_residuals(graph: onnx.GraphProto, layers: list[str]) -> None:
    additions: dict[str, list[int]] = defaultdict(list)
    for index, (node, layer) in enumerate(zip(graph.node, layers, strict=True)):
        if node.op_type == "Add" and _BLOCK.match(layer):
            additions[layer].append(index)
    for block, indices in additions.items():
        parts = ["attn", "mlp"] if block.startswith("encoder.") else ["attn", "cross_attn", "mlp"]
        if len(indices) != len(parts):
            raise ExportError(f"{block} has {len(indices)} residual additions, a Whisper block has {len(parts)}")
        for index, part in zip(indices, parts, strict=True):
            layers[index] = f"{block}.{part}.residual"


def _name_attention(graph: onnx.GraphProto, layers: list[str]) -> None:
    products: Counter[str] = Counter()
    for index, (node, layer) in enumerate(zip(graph.node, layers, strict=True)):
        if not _ATTENTION.search(layer):
            continue
        if node.op_type == "MatMul":
            layers[index] = f"{layer}.{('scores', 'context')[products[layer]]}"
            products[layer] += 1
        elif node.op_type == "Softmax":
            layers[index] = f"{layer}.softmax"
        elif node.op_type == "Add":
            layers[index] = f"{layer}.mask"


def _name_vocabulary(graph: onnx.GraphProto, layers: list[str]) -> None:
    part = 0
    for index, (node, layer) in enumerate(zip(graph.node, layers, strict=True)):
        if layer == "decoder" and node.op_type == "MatMul":
            layers[index] = f"decoder.vocabulary.{part}"
            part += 1


def _weight_names(graph: onnx.GraphProto, layers: list[str]) -> dict[str, str]:
    ranks = {initializer.name: len(initializer.dims) for initializer in graph.initializer}
    names: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for node, layer in zip(graph.node, layers, strict=True):
        for name in node.input:
            if name in ranks and name not in names:
                wanted = f"{layer}.{_kind(node.op_type, ranks[name])}"
                taken[wanted] += 1
                names[name] = wanted if taken[wanted] == 1 else f"{wanted}_{taken[wanted]}"
    return names


def _kind(op_type: str, rank: int) -> str:
    if (rank >= 2 and op_type in ("MatMul", "Conv")) or (rank == 1 and op_type == "Mul"):
        return "weight"
    if rank == 1 and op_type in ("Add", "Conv"):
        return "bias"
    return "constant"
