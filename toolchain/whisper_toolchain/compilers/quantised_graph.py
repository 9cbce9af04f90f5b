"""Rewrites a float graph into one that computes its layers in integers, as an accelerator does.

Every layer (Conv, MatMul, Gemm with the addition of its bias) gets its activations, its weights and its result
as integers. At 8 bits, QuantizeLinear and DequantizeLinear stand around it, which ONNX Runtime runs as integer
kernels. It has none for 16 bits, and its optimiser turns 16-bit pairs into something wrong (the weights to
8 bits, the bias to an int32 that overflows), so there the same grid is written as plain arithmetic, and the
weights as the float32 values that their integers stand for.

Activations are asymmetric with one scale for the tensor; weights are symmetric with a scale for each output
channel; biases and everything between the layers (softmax, normalisation, residual additions) stay in float.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from whisper_toolchain.compilers.ranges import Histogram
from whisper_toolchain.errors import CompileError
from whisper_toolchain.graph_names import layer_of
from whisper_toolchain.recipe import GraphRecipe

LAYER_OPERATORS = ("MatMul", "Conv", "Gemm")

# Per-channel QuantizeLinear of ONNX Runtime's own domain, the same at every opset.
_DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class QuantisedLayer:
    """One layer to quantise.

    Attributes:
        name: the layer's name, for the recipe.
        node: index of its operator in the graph.
        activations: names of its activation inputs.
        weight: name of its weight, or None for a product of two activations.
        result: name of its result, bias included.
    """

    name: str
    node: int
    activations: tuple[str, ...]
    weight: str | None
    result: str


def find_layers(model: onnx.ModelProto) -> list[QuantisedLayer]:
    """List the layers of a renamed graph in its order."""
    graph = model.graph
    constants = {initializer.name for initializer in graph.initializer}
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    layers = []
    for index, node in enumerate(graph.node):
        if node.op_type not in LAYER_OPERATORS:
            continue
        operands = list(node.input[:2])
        weight = next((name for name in operands if name in constants), None)
        result = node.output[0]
        following = consumers[result]
        if len(following) == 1 and following[0].op_type == "Add" and weight is not None:
            addition = following[0]
            if layer_of(addition.name) == layer_of(node.name):
                result = addition.output[0]
        layers.append(
            QuantisedLayer(
                layer_of(node.name),
                index,
                tuple(name for name in operands if name != weight),
                weight,
                result,
            )
        )
    return layers


def tensors_to_measure(layers: list[QuantisedLayer]) -> list[str]:
    """Names of the tensors whose ranges `quantise` needs, in the graph's order, each once."""
    names = [name for layer in layers for name in (*layer.activations, layer.result)]
    return list(dict.fromkeys(names))


def quantise(
    model: onnx.ModelProto,
    layers: list[QuantisedLayer],
    histograms: dict[str, Histogram],
    recipe: GraphRecipe,
) -> onnx.ModelProto:
    """Return the quantised graph; inputs and outputs keep their names, shapes and float type.

    Args:
        model: the float graph, renamed.
        layers: what `find_layers` returned for it.
        histograms: the values of each tensor of `tensors_to_measure`.
        recipe: decides for each layer between 8 and 16 bits, and whether its product is corrected.

    Raises:
        CompileError: a range or a weight is not finite.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    weights = {initializer.name: initializer for initializer in graph.initializer}
    inserted: dict[int, list[onnx.NodeProto]] = defaultdict(list)  # before which node
    after: dict[str, list[onnx.NodeProto]] = defaultdict(list)  # after which tensor is made
    on_grid: dict[tuple[str, int], str] = {}
    result_of: dict[str, str] = {}
    constants: dict[str, onnx.TensorProto] = {}
    # 65536 steps are fine enough for the whole range; clipping would only do harm.
    percentile = {8: recipe.emulator.clip_percentile, 16: 100.0}
    outputs = {value.name for value in graph.output}
    gone: set[str] = set()

    def limits(name: str, bits: int) -> tuple[float, float]:
        return histograms[name].range(percentile[bits])

    def grid(name: str, bits: int, source: str, target: str) -> list[onnx.NodeProto]:
        tensors, nodes = _activation(f"{name}.{bits}bit", limits(name, bits), bits, source, target)
        constants.update({tensor.name: tensor for tensor in tensors})
        return nodes

    for layer in layers:
        bits = recipe.emulated_bits(layer.name)
        result_bits = 16 if layer.result in outputs and recipe.sixteen_bit_outputs else bits
        node = graph.node[layer.node]
        for position, name in enumerate(node.input[:2]):
            if name == layer.weight:
                initializer = weights[name]
                axis = 0 if node.op_type == "Conv" else len(initializer.dims) - 1
                tensors, dequantise = _weight(initializer, axis, bits)
                constants.update({tensor.name: tensor for tensor in tensors})
                inserted[layer.node].extend(dequantise)
                gone.add(name)
                node.input[position] = f"{name}.dequantised"
            else:
                if (name, bits) not in on_grid:
                    target = f"{name}.{bits}bit"
                    inserted[layer.node].extend(grid(name, bits, name, target))
                    on_grid[name, bits] = target
                node.input[position] = on_grid[name, bits]
        # The result goes through a grid too. Every reader sees the grid's values, so the float tensor gets
        # another name and the grid takes over the old one.
        result_of[layer.result] = f"{layer.result}.float"
        result = f"{layer.result}.float"
        if bits == 8 and recipe.matmul_correction and layer.name.endswith(".context"):
            first, second = layer.activations
            step, zero_point = activation_scale(*limits(first, bits), bits, first)
            error = histograms[first].mean_rounding_error(float(step), -zero_point, (1 << bits) - 1 - zero_point)
            tensors, correction = _correction(layer, error, on_grid[second, bits], result)
            constants.update({tensor.name: tensor for tensor in tensors})
            after[layer.result] = correction
            result = correction[-1].output[0]
        after[layer.result] = [
            *after[layer.result],
            *grid(layer.result, result_bits, result, layer.result),
        ]

    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        nodes.extend(inserted[index])
        made = [name for name in node.output if name in result_of]
        node.output[:] = [result_of.get(name, name) for name in node.output]
        nodes.append(node)
        for name in made:
            nodes.extend(after[name])
    kept = [initializer for initializer in graph.initializer if initializer.name not in gone]
    rebuilt = helper.make_graph(nodes, graph.name, graph.input, graph.output, [*kept, *constants.values()])
    result = helper.make_model(
        rebuilt,
        opset_imports=[*quantised.opset_import, helper.make_opsetid(_DOMAIN, 1)],
        ir_version=quantised.ir_version,
        producer_name=quantised.producer_name,
    )
    return result


def activation_scale(low: float, high: float, bits: int, name: str) -> tuple[np.float32, int]:
    """Return the step and the zero point of a range, widened to include zero.

    A value v is represented by round(v / step) + zero point, from 0 to 2**bits - 1.

    Raises:
        CompileError: the range is not finite.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if not np.isfinite([low, high]).all():
        raise CompileError(f"{name}: values from {low} to {high} cannot be quantised: the model overflows")
    levels = (1 << bits) - 1
    step = np.float32((high - low) / levels if high > low else 1.0)
    return step, int(np.clip(round(-low / float(step)), 0, levels))


def _activation(
    prefix: str, limits: tuple[float, float], bits: int, source: str, target: str
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """The constants and nodes that put `source` on a grid, as `target`."""
    step, zero_point = activation_scale(*limits, bits, source)
    if bits == 8:
        arrays: dict[str, np.ndarray] = {"scale": np.array(step), "zero_point": np.array(zero_point, np.uint8)}
        names = [f"{prefix}.{key}" for key in arrays]
        nodes = [
            helper.make_node("QuantizeLinear", [source, *names], [f"{target}.q"], f"{target}/Quantize", domain=_DOMAIN),
            helper.make_node(
                "DequantizeLinear", [f"{target}.q", *names], [target], f"{target}/Dequantize", domain=_DOMAIN
            ),
        ]
    else:
        lowest, highest = np.float32(-zero_point), np.float32((1 << bits) - 1 - zero_point)
        arrays = {"scale": np.array(step), "lowest": np.array(lowest), "highest": np.array(highest)}
        steps = [f"{target}.steps", f"{target}.rounded", f"{target}.clipped"]
        nodes = [
            helper.make_node("Div", [source, f"{prefix}.scale"], steps[:1], f"{target}/Div"),
            helper.make_node("Round", steps[:1], steps[1:2], f"{target}/Round"),
            helper.make_node("Clip", [steps[1], f"{prefix}.lowest", f"{prefix}.highest"], steps[2:], f"{target}/Clip"),
            helper.make_node("Mul", [steps[2], f"{prefix}.scale"], [target], f"{target}/Mul"),
        ]
    return [numpy_helper.from_array(array, f"{prefix}.{key}") for key, array in arrays.items()], nodes


def quantise_weight(weight: np.ndarray, axis: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantise symmetrically with a scale for each index of `axis`.

    Returns:
        int8 or int16 array of the weight's shape, and float32 scales (weight.shape[axis],).
    """
    largest = (1 << (bits - 1)) - 1
    others = tuple(index for index in range(weight.ndim) if index != axis)
    peak = np.abs(weight).max(axis=others)
    # A scale below the smallest normal number would itself be rounded coarsely.
    scale = np.where(peak > 0, np.maximum(peak / largest, np.finfo(np.float32).tiny), 1.0).astype(np.float32)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    integers = np.clip(np.rint(weight / scale.reshape(shape)), -largest, largest)
    return integers.astype(np.int8 if bits == 8 else np.int16), scale


def _correction(
    layer: QuantisedLayer, error: float, second: str, result: str
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Add to a product A @ B what the mean rounding error of A's values costs: error * (sum of B's rows)."""
    names = [f"{layer.name}.correction.{part}" for part in ("axes", "error", "sum", "product", "result")]
    tensors = [
        numpy_helper.from_array(np.array([-2], np.int64), names[0]),
        numpy_helper.from_array(np.array(error, np.float32), names[1]),
    ]
    nodes = [
        helper.make_node("ReduceSum", [second, names[0]], [names[2]], names[2], keepdims=1),
        helper.make_node("Mul", [names[2], names[1]], [names[3]], names[3]),
        helper.make_node("Add", [result, names[3]], [names[4]], names[4]),
    ]
    return tensors, nodes


def _weight(initializer: TensorProto, axis: int, bits: int) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """The constants and nodes that make `<weight>.dequantised`: a weight on the grid of its integers."""
    name = initializer.name
    values = numpy_helper.to_array(initializer)
    if not np.isfinite(values).all():
        raise CompileError(f"{name}: holds NaN or infinite values: the checkpoint is damaged")
    integers, scale = quantise_weight(values, axis, bits)
    target = f"{name}.dequantised"
    if bits == 8:
        arrays = {"integers": integers, "scale": scale, "zero_point": np.zeros(scale.shape, np.int8)}
        nodes = [
            helper.make_node(
                "DequantizeLinear",
                [f"{name}.{key}" for key in arrays],
                [target],
                f"{name}/Dequantize",
                domain=_DOMAIN,
                axis=axis,
            )
        ]
    else:
        # The integers would take half the space, but ONNX Runtime would make just these values of them whenever it
        # loads the graph: for tiny, half of the processor time of loading and 140 MB at its peak.
        shape = [-1 if index == axis else 1 for index in range(integers.ndim)]
        arrays = {"dequantised": integers.astype(np.float32) * scale.reshape(shape)}
        nodes = []
    return [numpy_helper.from_array(array, f"{name}.{key}") for key, array in arrays.items()], nodes
