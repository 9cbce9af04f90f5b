"""Translation of an ONNX model into the vendor's network description (HN).

How layers are named and numbered is documented only: the rules below reproduce the numbers of the reference flow's
model scripts (FACTS section 2): an encoder has 2 convolutions and 4 a block, a decoder 8 a block and 4 of vocabulary.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from hailo_sdk_client._exceptions import (
    MisspellNodeError,
    ParsingWithRecommendationException,
    UnsupportedModelError,
)

OPSETS = (8, *range(11, 21))  # documented only; FACTS section 9: exports come with opset 13, 17 or 20
PASSIVE = ("Squeeze", "Unsqueeze", "Transpose", "Reshape", "Identity", "Flatten")  # shape only: no layer of their own
SMALL = 4096  # values; larger constants are of no use to shape inference


@dataclass(frozen=True)
class Port:
    """An input or output of the network.

    Attributes:
        layer: "<net>/input_layer1" or "<net>/output_layer1".
        stream: name of the stream in a HEF; an output's is the name of the layer that makes it.
        tensor: name of the tensor in the ONNX graph.
        onnx_shape: its shape there, batch 1 included.
        original_names: what `original_names` of a HEF holds.
    """

    layer: str
    stream: str
    tensor: str
    onnx_shape: tuple[int, ...]
    original_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels on the device."""
        return nhwc(self.onnx_shape)[1:]


@dataclass(frozen=True)
class Kernel:
    """A constant that is quantised: the layer it belongs to, its name and the axis of the output channels."""

    layer: str
    tensor: str
    axis: int


@dataclass(frozen=True)
class Network:
    """A translated model.

    Attributes:
        name: the net name as given.
        hn: the vendor's network description.
        graph: the ONNX model between start and end nodes, without the values of the kernels.
        kernels: what is quantised.
        inputs, outputs: in the order of the layers' numbers.
    """

    name: str
    hn: dict[str, Any]
    graph: onnx.ModelProto
    kernels: tuple[Kernel, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def metadata(self) -> dict[str, Any]:
        """What `from_metadata` needs besides hn and graph, as plain JSON values."""
        ports = {key: [asdict(port) for port in getattr(self, key)] for key in ("inputs", "outputs")}
        return {"name": self.name, "kernels": [asdict(kernel) for kernel in self.kernels], **ports}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], hn: dict[str, Any], graph: onnx.ModelProto) -> "Network":
        """Undo `metadata`."""
        kernels = tuple(Kernel(**kernel) for kernel in metadata["kernels"])
        inputs, outputs = (
            tuple(Port(**{key: tuple(v) if isinstance(v, list) else v for key, v in port.items()}) for port in ports)
            for ports in (metadata["inputs"], metadata["outputs"])
        )
        return cls(metadata["name"], hn, graph, kernels, inputs, outputs)


def nhwc(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """The vendor's 4-D shape of an ONNX shape: rank 4 is NCHW, lower ranks fill up with 1 from the left (FACTS)."""
    if len(shape) == 4:
        return shape[0], shape[2], shape[3], shape[1]
    if not 2 <= len(shape) <= 4:
        raise UnsupportedModelError(f"expected a tensor of 2 to 4 dimensions but found {len(shape)}")
    padded = (shape[0], *[1] * (4 - len(shape)), *shape[1:])
    return padded[0], padded[1], padded[2], padded[3]


def node_name(node: onnx.NodeProto) -> str:
    """The node's name; nameless nodes go by their first output."""
    return node.name or node.output[0]


def translate(
    model: onnx.ModelProto,
    net_name: str,
    start_node_names: Sequence[str] | None,
    end_node_names: Sequence[str] | None,
    net_input_shapes: Mapping[str, Sequence[int]] | None,
    original_names: bool,
) -> tuple[Network, dict[str, np.ndarray]]:
    """Return the network and the values of its kernels by tensor name.

    Raises UnsupportedModelError, MisspellNodeError or ParsingWithRecommendationException.
    """
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if versions not in [[version] for version in OPSETS]:
        raise UnsupportedModelError(f"ONNX opset {versions} is not supported; supported are {OPSETS}")
    constants_to_initializers(model.graph)
    starts = start_tensors(model.graph, start_node_names)
    ends = end_tensors(model.graph, end_node_names)
    shapes = tensor_shapes(model, net_input_shapes or {})
    for tensor in starts:
        if tensor not in shapes or 0 in shapes[tensor]:
            raise UnsupportedModelError(f"input {tensor!r} has a dynamic shape {shapes.get(tensor)}; fix it")
        if shapes[tensor][0] != 1:
            raise UnsupportedModelError(f"input {tensor!r} has a batch of {shapes[tensor][0]}; only 1 is supported")
    cut(model.graph, starts, ends, shapes)
    layers = Layers(model.graph, net_name.replace(".", "_"), starts, ends, shapes)
    kernels = {kernel.tensor for kernel in layers.kernels}
    weights = {}
    for tensor in model.graph.initializer:
        if tensor.name in kernels:
            weights[tensor.name] = numpy_helper.to_array(tensor).astype(np.float32)
            for field in ("raw_data", "float_data"):
                tensor.ClearField(field)
    hn = layers.hn(net_name, original_names)
    network = Network(net_name, hn, model, tuple(layers.kernels), tuple(layers.inputs), tuple(layers.outputs))
    return network, weights


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initialisers, so that there is one kind of constant."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = onnx.helper.get_attribute_value(node.attribute[0])
        if node.attribute[0].name != "value":
            value = numpy_helper.from_array(np.asarray(value))
        value.name = node.output[0]
        graph.initializer.append(value)
        graph.node.remove(node)


def start_tensors(graph: onnx.GraphProto, names: Sequence[str] | None) -> list[str]:
    """Tensors that enter the network. A start node is a graph input or a node (reference flow: both in one call)."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in constants]
    nodes = {node_name(node): node for node in graph.node}
    tensors = []
    for name in inputs if names is None else names:
        if name in inputs:
            tensors.append(name)
        elif name in nodes:
            tensors.append(next(tensor for tensor in nodes[name].input if tensor not in constants))
        else:
            # Public tracebacks have this text for end nodes.
            raise MisspellNodeError(f"Unable to find start node name: {name!r}")
    return tensors


def end_tensors(graph: onnx.GraphProto, names: Sequence[str] | None) -> dict[str, str]:
    """Tensors that leave the network, with the name of the node that makes them.

    Public notes: end nodes go by the node's name; the name of its output tensor is a MisspellNodeError.
    """
    makers = {tensor: node for node in graph.node for tensor in node.output}
    if names is None:
        return {value.name: node_name(makers[value.name]) for value in graph.output}
    nodes = {node_name(node): node for node in graph.node}
    for name in names:
        if name not in nodes:
            raise MisspellNodeError(f"Unable to find end node name: {name!r}")
    return {nodes[name].output[0]: name for name in names}


def tensor_shapes(model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors, by ONNX shape inference; a dimension of unknown size is 0."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    values = {value.name: value for value in graph.input}
    for name, shape in input_shapes.items():
        if name not in values:
            raise UnsupportedModelError(f"net_input_shapes names {name!r}, which is no input of the model")
        dims = values[name].type.tensor_type.shape.dim
        if len(dims) != len(shape) or any(d.dim_value not in (0, s) for d, s in zip(dims, shape, strict=True)):
            raise UnsupportedModelError(f"net_input_shapes gives {name!r} {list(shape)}, the model has another shape")
        for dim, size in zip(dims, shape, strict=True):
            dim.Clear()
            dim.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(light).graph
    every = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in every}


def cut(
    graph: onnx.GraphProto, starts: Sequence[str], ends: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Keep what lies between `starts` and `ends`. Raises UnsupportedModelError if an end needs another input."""
    constants = {tensor.name for tensor in graph.initializer}
    wanted = set(ends)
    kept = []
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted.update(tensor for tensor in node.input if tensor and tensor not in starts)
    made = {tensor for node in kept for tensor in node.output}
    missing = sorted(wanted - made - constants)
    if missing:
        raise UnsupportedModelError(f"the end nodes need {', '.join(missing)}, which no start node gives")
    unused = sorted(set(starts) - {tensor for node in kept for tensor in node.input})
    if unused:
        raise UnsupportedModelError(f"no end node needs {', '.join(unused)}")
    nodes = kept[::-1]
    initializers = [tensor for tensor in graph.initializer if tensor.name in wanted]
    for field in ("node", "initializer", "value_info", "input", "output"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    for values, names in ((graph.input, starts), (graph.output, ends)):
        for name in names:
            values.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name]))


class Layers:
    """The layers of a graph, in the order of its nodes."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        scope: str,
        starts: Sequence[str],
        ends: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.scope, self.ends, self.shapes, self.starts = scope, ends, shapes, starts
        self.constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.order = {node_name(node): index for index, node in enumerate(graph.node)}
        self.users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for tensor in dict.fromkeys(node.input):
                self.users[tensor].append(node)
        self.layers: dict[str, dict[str, Any]] = {}
        self.maker: dict[str, str] = {}  # tensor -> the layer that makes it
        self.counts: dict[str, int] = defaultdict(int)
        self.taken: set[str] = set()
        self.kernels: list[Kernel] = []
        self.errors: list[str] = []
        self.inputs = [self.input_port(tensor) for tensor in starts]
        for node in graph.node:
            if node_name(node) not in self.taken:
                self.translate(node)
        if self.errors:
            # The form of the message is from public tracebacks.
            errors = "\n ".join(self.errors)
            raise ParsingWithRecommendationException(f"Parsing failed. The errors found in the graph are:\n {errors}")
        self.outputs = [self.output_port(tensor, name) for tensor, name in ends.items()]

    def hn(self, net_name: str, original_names: bool) -> dict[str, Any]:
        """The network description; public sources read its "name" and "layers"."""
        for name, layer in self.layers.items():
            layer["output"] = [user for user, other in self.layers.items() if name in other["input"]]
            if not original_names:
                layer["original_names"] = []
        order = [port.stream for port in self.outputs]
        return {"name": net_name, "net_params": {"net_scopes": [self.scope], "output_layers_order": order},
                "layers": self.layers}  # fmt: skip

    def translate(self, node: onnx.NodeProto) -> None:
        """Add the layer that starts at `node`, if it is one."""
        op = node.op_type
        data = [tensor for tensor in node.input if tensor and tensor not in self.constants]
        if not data:
            self.errors.append(f"UnsupportedOperationError in op {node_name(node)}: {op} of constants alone")
            self.maker.update(dict.fromkeys(node.output, ""))
        elif op in PASSIVE or (op == "Mul" and len(data) == 1):  # the scale of an attention is folded into a neighbour
            self.maker[node.output[0]] = self.maker[data[0]]
        elif op in ("Conv", "MatMul") and len(data) == 1 and data[0] == node.input[0]:
            self.convolution(node)
        elif op == "MatMul" and len(data) == 2:
            self.add("matmul", [node], data)
        elif op == "Softmax":
            self.add("softmax", [node], data)
        elif op == "Add":
            self.add("ew_add", [node], data)
        elif op == "LayerNormalization":
            self.add("layer_normalization", [node], data)
        elif op == "ReduceMean" and (chain := self.normalisation(node)):
            self.add("layer_normalization", chain, data)
        else:
            self.errors.append(f"UnsupportedOperationError in op {node_name(node)}: {op} operation is unsupported")
            self.maker.update(dict.fromkeys(node.output, self.maker[data[0]]))

    def convolution(self, node: onnx.NodeProto) -> None:
        """A convolution, or a product with a constant: the vendor's conv of 1 x 1.

        Products of one inner tensor with several constants (query, key and value of a self-attention) are one layer;
        products of a network input (key and value of a cross-attention) and those that leave the network are not.
        """
        source = node.input[0]
        members = [node]
        if source not in self.starts and node.op_type == "MatMul" and not self.leaves(node):
            members = [
                user
                for user in self.users[source]
                if user.op_type == "MatMul" and user.input[1] in self.constants and not self.leaves(user)
            ]
        nodes, results = [], []
        for member in members:
            chain = list(self.with_bias_and_activation(member))
            nodes += chain
            results.append(chain[-1].output[0])
        self.add("conv", sorted(nodes, key=lambda part: self.order[node_name(part)]), [source], results)
        layer = next(reversed(self.layers))
        for member in members:
            axis = 0 if member.op_type == "Conv" else len(self.constants[member.input[1]]) - 1
            self.kernels.append(Kernel(layer, member.input[1], axis))

    def leaves(self, node: onnx.NodeProto) -> bool:
        """Whether what becomes of a product, with its bias and activation, leaves the network."""
        *_, last = self.with_bias_and_activation(node)
        return last.output[0] in self.ends

    def with_bias_and_activation(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The node, then a bias and an activation that are fused into it."""
        yield node
        weight = self.constants[node.input[1]]
        channels = weight[0] if node.op_type == "Conv" else weight[-1]
        tensor = node.output[0]
        bias = self.only_user(tensor, "Add")
        if bias is not None and self.constant_shapes(bias) == [(channels,)]:
            yield bias
            tensor = bias.output[0]
        for activation in ("Relu", "Gelu"):
            user = self.only_user(tensor, activation)
            if user is not None:
                yield user
                return
        yield from self.gelu(tensor)

    def gelu(self, tensor: str) -> list[onnx.NodeProto]:
        """x * (erf(x / c) + 1) * c as exported below opset 20; empty if `tensor` is not followed by one."""
        users = {user.op_type: user for user in self.users[tensor]}
        if len(self.users[tensor]) != 2 or set(users) != {"Div", "Mul"} or tensor in self.ends:
            return []
        chain = [users["Div"]]
        for op in ("Erf", "Add", "Mul", "Mul"):
            user = self.only_user(chain[-1].output[0], op)
            if user is None:
                return []
            chain.append(user)
        return chain if chain[3] is users["Mul"] else []

    def normalisation(self, mean: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes of a layer normalisation as exported below opset 17; empty if `mean` does not begin one."""
        minus = self.only_user(mean.output[0], "Sub")
        if minus is None or minus.input[0] != mean.input[0]:
            return []
        centred = minus.output[0]
        users = {user.op_type: user for user in self.users[centred]}
        if len(self.users[centred]) != 2 or set(users) != {"Pow", "Div"}:
            return []
        chain = [mean, minus, users["Pow"]]
        for op in ("ReduceMean", "Add", "Sqrt", "Div"):
            user = self.only_user(chain[-1].output[0], op)
            if user is None:
                return []
            chain.append(user)
        if chain[-1] is not users["Div"]:
            return []
        for op in ("Mul", "Add"):
            user = self.only_user(chain[-1].output[0], op)
            if user is None or [len(shape) for shape in self.constant_shapes(user)] != [1]:
                break
            chain.append(user)
        return chain

    def only_user(self, tensor: str, op: str) -> onnx.NodeProto | None:
        """The node that reads `tensor`, if it is the only one, an `op`, and the tensor does not leave the network."""
        users = self.users[tensor]
        return users[0] if len(users) == 1 and users[0].op_type == op and tensor not in self.ends else None

    def constant_shapes(self, node: onnx.NodeProto) -> list[tuple[int, ...]]:
        """Shapes of the constants that a node reads."""
        return [self.constants[tensor] for tensor in node.input if tensor in self.constants]

    def add(
        self, kind: str, nodes: Sequence[onnx.NodeProto], data: Sequence[str], results: Sequence[str] | None = None
    ) -> None:
        """Append a layer made of `nodes` that reads `data` and makes `results` (by default the last node's output)."""
        results = [nodes[-1].output[0]] if results is None else results
        self.counts[kind] += 1
        name = f"{self.scope}/{kind}{self.counts[kind]}"
        outputs = [nhwc(self.shapes[tensor]) for tensor in results]
        channels = sum(shape[3] for shape in outputs)
        self.layers[name] = {
            "type": kind,
            "input": [self.maker[tensor] for tensor in data],
            "output": [],
            "input_shapes": [[-1, *nhwc(self.shapes[tensor])[1:]] for tensor in data],
            "output_shapes": [[-1, *outputs[0][1:3], channels]],
            "original_names": [node_name(node) for node in nodes],
        }
        self.taken.update(node_name(node) for node in nodes)
        self.maker.update(dict.fromkeys(results, name))

    def input_port(self, tensor: str) -> Port:
        """Append an input layer."""
        self.counts["input_layer"] += 1
        name = f"{self.scope}/input_layer{self.counts['input_layer']}"
        shape = [-1, *nhwc(self.shapes[tensor])[1:]]
        self.layers[name] = {
            "type": "input_layer",
            "input": [],
            "output": [],
            "input_shapes": [shape],
            "output_shapes": [shape],
            "original_names": [tensor],
        }
        self.maker[tensor] = name
        return Port(name, name, tensor, self.shapes[tensor], (tensor,))

    def output_port(self, tensor: str, end_node: str) -> Port:
        """Append an output layer. Raises UnsupportedModelError if its stream would have no name of its own."""
        maker = self.maker[tensor]
        readers = [name for name, layer in self.layers.items() if maker in layer["input"]]
        if self.layers[maker]["type"] == "input_layer" or any("/output_layer" in name for name in readers):
            raise UnsupportedModelError(f"end node {end_node!r} has no layer of its own: {maker} is another stream")
        self.counts["output_layer"] += 1
        name = f"{self.scope}/output_layer{self.counts['output_layer']}"
        shape = [-1, *nhwc(self.shapes[tensor])[1:]]
        self.layers[name] = {
            "type": "output_layer",
            "input": [maker],
            "output": [],
            "input_shapes": [shape],
            "output_shapes": [shape],
            "original_names": [end_node],
        }
        return Port(name, maker, tensor, self.shapes[tensor], (end_node,))
