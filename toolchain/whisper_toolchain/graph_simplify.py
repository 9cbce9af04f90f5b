"""Removes from an exported graph what a fixed shape makes superfluous.

The exporter leaves traces of dynamic shapes (Shape, Slice, Concat feeding a Reshape), constants that are
computed anew at every run, and casts from float to float. An accelerator's parser has no use for them.
"""

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from whisper_toolchain.errors import ExportError


def simplify(model: onnx.ModelProto) -> None:
    """Fold constants and drop casts that change nothing, in place. Nodes keep their order and names.

    Raises:
        ExportError: a Shape node is left, so some shape is not fixed.
    """
    # Each pass fixes the shapes that the next one can infer.
    while _fold(model):
        pass
    if any(node.op_type == "Shape" for node in model.graph.node):
        raise ExportError("the exported graph still computes a shape: its inputs are not fixed")


def _fold(model: onnx.ModelProto) -> bool:
    """One pass; returns whether it removed a node."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, list[int]] = {}
    types: dict[str, int] = {}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = [dim.dim_value for dim in tensor.shape.dim]

    graph = model.graph
    constants = {initializer.name: initializer for initializer in graph.initializer}
    replaced: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        node.input[:] = [replaced.get(name, name) for name in node.input]
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(node)
        elif node.op_type == "Shape" and node.input[0] in shapes:
            constants[node.output[0]] = numpy_helper.from_array(np.array(shapes[node.input[0]], np.int64))
        elif node.op_type == "Cast" and types.get(node.input[0]) == types[node.output[0]]:
            if node.output[0] in outputs and kept[-1].output[0] == node.input[0]:
                kept[-1].output[0] = node.output[0]
            elif node.output[0] in outputs:
                kept.append(node)
            else:
                replaced[node.output[0]] = node.input[0]
        elif node.input and all(name in constants for name in node.input):
            constants.update(_evaluate(node, constants))
        else:
            kept.append(node)

    used = {name for node in kept for name in node.input}
    removed = len(graph.node) - len(kept)
    del graph.node[:]
    graph.node.extend(kept)
    del graph.initializer[:]
    for name, tensor in constants.items():
        if name in used:
            tensor.name = name
            graph.initializer.append(tensor)
    del graph.value_info[:]
    return removed > 0


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: onnx.TensorProto = attribute.t
            return tensor
    raise ExportError(f"constant {node.name} has no tensor value")


def _evaluate(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> dict[str, onnx.TensorProto]:
    feeds = {name: numpy_helper.to_array(constants[name]) for name in node.input}
    results = ReferenceEvaluator(node).run(None, feeds)
    return {name: numpy_helper.from_array(np.asarray(value)) for name, value in zip(node.output, results, strict=True)}
