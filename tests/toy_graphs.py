"""Toy graphs of the accelerator's contract, with random weights."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def toy_graphs(width, sequence, parts, seed=0):
    """Two small graphs of the contract; every output depends on every input, row by row."""
    values = np.random.default_rng(seed)

    def weight(name, *shape):
        return numpy_helper.from_array(values.normal(0, 0.3, shape).astype(np.float32), name)

    def tensor(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    encoder = helper.make_graph(
        [
            helper.make_node("Transpose", ["mel"], ["t"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["t", "shape"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["p"]),
            helper.make_node("Tanh", ["p"], ["features"]),
        ],
        "encoder",
        [tensor("mel", [1, 80, 1, 100])],
        [tensor("features", [1, 50, width])],
        [numpy_helper.from_array(np.array([1, 50, 160]), "shape"), weight("w", 160, width)],
    )
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Squeeze", ["token_embeddings", "last"], ["s"]),
        helper.make_node("Transpose", ["s"], ["x"], perm=[0, 2, 1]),
        helper.make_node("Add", ["x", "mean"], ["h"]),
    ]
    nodes += [helper.make_node("MatMul", ["h", f"v{i}"], [f"logits_{i}"]) for i in range(len(parts))]
    decoder = helper.make_graph(
        nodes,
        "decoder",
        [tensor("features", [1, 50, width]), tensor("token_embeddings", [1, width, sequence, 1])],
        [tensor(f"logits_{i}", [1, sequence, size]) for i, size in enumerate(parts)],
        [numpy_helper.from_array(np.array([3]), "last"), *(weight(f"v{i}", width, n) for i, n in enumerate(parts))],
    )
    opset = [helper.make_opsetid("", 13)]
    return tuple(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString() for graph in (encoder, decoder)
    )
