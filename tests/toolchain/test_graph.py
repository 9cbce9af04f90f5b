"""The exported graphs of a toy Whisper: the contract, the names, and that they are the model."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from whisper_runtime.mel import window_mel
from whisper_toolchain.errors import ExportError
from whisper_toolchain.export import SNR_TOLERANCE_DB, check_export, export_graphs
from whisper_toolchain.graph_names import layer_of, rename_graph
from whisper_toolchain.graph_simplify import simplify
from whisper_toolchain.model import build_model
from whisper_toolchain.ort_session import open_session
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 50, 32, 2, 2, 103, 16, 32, 2, 3)
PLAN = ShapePlan("toy", "hailo8", 1, 12, DIMS)
TOKENS = [5, 17, 99, 102, 0, 41]


def speech(seconds=1):
    time = np.arange(int(seconds * 16000)) / 16000
    return (0.3 * np.sin(2 * np.pi * 300 * time * (1 + time))).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(toy_checkpoint):
    return toy_checkpoint(DIMS, 3)


@pytest.fixture(scope="module")
def model(patched_whisper, checkpoint):
    return build_model(patched_whisper, checkpoint, PLAN.feature_frames)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export_graphs(model, PLAN, folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return onnx.load(folder / "encoder.onnx")


@pytest.fixture(scope="module")
def decoder(folder):
    return onnx.load(folder / "decoder.onnx")


@pytest.fixture(scope="module")
def both(encoder, decoder):
    return [encoder, decoder]


def values(tensors):
    kinds = {tensor.type.tensor_type.elem_type for tensor in tensors}
    assert kinds == {onnx.TensorProto.FLOAT}
    return {t.name: tuple(d.dim_value for d in t.type.tensor_type.shape.dim) for t in tensors}


def test_the_contract_of_the_encoder(encoder):
    assert values(encoder.graph.input) == {"mel": (1, 80, 1, 100)}
    assert values(encoder.graph.output) == {"features": (1, 50, 32)}


def test_the_contract_of_the_decoder(decoder):
    assert list(values(decoder.graph.input).items()) == [
        ("features", (1, 50, 32)),
        ("token_embeddings", (1, 32, 12, 1)),
    ]
    assert list(values(decoder.graph.output).items()) == [
        ("logits_0", (1, 12, 25)),
        ("logits_1", (1, 12, 25)),
        ("logits_2", (1, 12, 25)),
        ("logits_3", (1, 12, 28)),
    ]


def test_opset_and_operators(both):
    for model in both:
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
        operators = {node.op_type for node in model.graph.node}
        assert not operators & {"Constant", "Shape", "Cast", "Gemm", "Identity", "Gather", "Concat", "If", "Loop"}
        assert "MatMul" in operators
        onnx.checker.check_model(model, full_check=True)


def test_nothing_of_this_machine_is_in_the_files(folder):
    for name in ("encoder.onnx", "decoder.onnx"):
        content = (folder / name).read_bytes()
        for word in (b"/work", b"/tmp", b"site-packages", b".py"):
            assert word not in content


def test_constants_are_finite(both):
    for model in both:
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            assert np.isfinite(array).all(), tensor.name


def test_names_are_unique(both):
    for model in both:
        nodes = [node.name for node in model.graph.node]
        assert len(set(nodes)) == len(nodes)
        tensors = [t.name for t in [*model.graph.input, *model.graph.initializer]]
        tensors += [name for node in model.graph.node for name in node.output]
        assert len(set(tensors)) == len(tensors)


def test_node_names_are_layer_and_operator(both):
    for model in both:
        for node in model.graph.node:
            layer, operator = node.name.rsplit("/", 1)
            assert layer == layer_of(node.name)
            assert operator.split("_")[0] == node.op_type
            assert layer.split(".")[0] in ("encoder", "decoder")
            assert "/" not in layer


def attention(name):
    return {f"{name}.{part}" for part in ("query", "key", "value", "scores", "softmax", "context", "out")}


def test_every_layer_of_the_model_has_its_nodes(encoder, decoder):
    wanted = {"encoder.conv1", "encoder.conv2", "encoder.conv1.gelu", "encoder.conv2.gelu", "encoder.positional"}
    wanted |= {"encoder.ln_post"}
    for block in range(DIMS.n_audio_layer):
        name = f"encoder.blocks.{block}"
        wanted |= attention(f"{name}.attn") | {f"{name}.attn.residual", f"{name}.mlp.residual"}
        wanted |= {f"{name}.{part}" for part in ("attn_ln", "mlp_ln", "mlp.0", "mlp.1", "mlp.2")}
    assert wanted <= {layer_of(node.name) for node in encoder.graph.node}

    wanted = {"decoder.embedded", "decoder.ln"} | {f"decoder.vocabulary.{part}" for part in range(4)}
    for block in range(DIMS.n_text_layer):
        name = f"decoder.blocks.{block}"
        for kind in ("attn", "cross_attn"):
            wanted |= attention(f"{name}.{kind}") | {f"{name}.{kind}.residual", f"{name}.{kind}_ln"}
        wanted |= {f"{name}.{part}" for part in ("mlp_ln", "mlp.0", "mlp.1", "mlp.2", "mlp.residual")}
    assert wanted <= {layer_of(node.name) for node in decoder.graph.node}


def test_every_product_is_a_layer_that_a_recipe_can_name(both):
    for model in both:
        products = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Conv")]
        layers = [layer_of(name) for name in products]
        assert len(set(layers)) == len(layers)


def test_every_weight_is_in_a_graph_under_its_own_name(both, checkpoint):
    tensors = {t.name: numpy_helper.to_array(t) for model in both for t in model.graph.initializer}
    for name, array in checkpoint.state.items():
        if name == "decoder.positional_embedding":  # the host adds it
            assert not any(t.shape == array.shape and np.array_equal(t, array) for t in tensors.values())
        elif name == "encoder.positional_embedding":
            assert np.array_equal(tensors["encoder.positional.constant"].reshape(array.shape), array)
        elif name == "decoder.token_embedding.weight":
            parts = [tensors[f"decoder.vocabulary.{part}.weight"].T for part in range(4)]
            assert np.array_equal(np.concatenate(parts), array)
        elif ".conv" in name and name.endswith("weight"):
            assert np.array_equal(tensors[name], array[:, :, None, :])
        elif array.ndim == 2:
            assert np.array_equal(tensors[name], array.T)
        else:
            assert np.array_equal(tensors[name], array)


def test_exported_twice_the_bytes_are_the_same(patched_whisper, checkpoint, folder, tmp_path):
    export_graphs(build_model(patched_whisper, checkpoint, PLAN.feature_frames), PLAN, tmp_path)
    for name in ("encoder.onnx", "decoder.onnx"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.onnx", "encoder.onnx"]


def test_simplified_once_nothing_is_left_to_do(encoder):
    again = onnx.ModelProto()
    again.CopyFrom(encoder)
    simplify(again)
    assert [node.name for node in again.graph.node] == [node.name for node in encoder.graph.node]


def test_the_check_passes_and_gives_its_figures(model, folder):
    check = check_export(model, PLAN, folder, speech(), TOKENS)
    assert check.argmax_equal
    assert min(check.feature_snr_db, check.logit_snr_db) >= SNR_TOLERANCE_DB
    assert 0 < check.feature_error < 1e-3
    assert check.as_dict()["snr_tolerance_db"] == SNR_TOLERANCE_DB


def disturb(folder, tmp_path, graph, tensor, change):
    for name in ("encoder.onnx", "decoder.onnx"):
        model = onnx.load(folder / name)
        for initializer in model.graph.initializer:
            if name == graph and initializer.name == tensor:
                array = numpy_helper.to_array(initializer).copy()
                change(array)
                initializer.CopyFrom(numpy_helper.from_array(array, tensor))
                break
        else:
            assert name != graph
        onnx.save(model, tmp_path / name)


def halve(array):
    array[...] /= 2


def swap(array):
    array[..., [0, 1]] = array[..., [1, 0]]


def spoil(array):
    array.reshape(-1)[0] = np.nan


@pytest.mark.parametrize(
    ("graph", "tensor", "change"),
    [
        ("encoder.onnx", "encoder.blocks.1.mlp.2.weight", halve),
        ("encoder.onnx", "encoder.blocks.0.attn.query.weight", swap),
        ("encoder.onnx", "encoder.conv2.bias", spoil),
        ("decoder.onnx", "decoder.vocabulary.2.weight", swap),
        ("decoder.onnx", "decoder.blocks.2.cross_attn.value.weight", swap),
        ("decoder.onnx", "decoder.ln.weight", spoil),
    ],
)
def test_a_disturbed_weight_is_refused(model, folder, tmp_path, graph, tensor, change):
    disturb(folder, tmp_path, graph, tensor, change)
    with pytest.raises(ExportError) as caught:
        check_export(model, PLAN, tmp_path, speech(), TOKENS)
    message = str(caught.value)
    assert message.startswith("the exported graphs differ from the torch model")
    assert "\n" not in message


def test_the_decoder_is_causal(folder):
    """What stands in later slots changes nothing, also with a finite mask."""
    random = np.random.default_rng(0)
    session = open_session(folder / "decoder.onnx")
    features = random.standard_normal((1, 50, 32)).astype(np.float32)
    embedded = random.standard_normal((1, 32, 12, 1)).astype(np.float32)
    names = [f"logits_{part}" for part in range(4)]
    before = session.run(names, {"features": features, "token_embeddings": embedded})
    embedded[:, :, 5:] = random.standard_normal((1, 32, 7, 1))
    after = session.run(names, {"features": features, "token_embeddings": embedded})
    for one, other in zip(before, after, strict=True):
        assert np.abs(one[:, :5] - other[:, :5]).max() < 1e-5
        assert np.abs(one[:, 5:] - other[:, 5:]).max() > 1e-2


def test_a_mask_that_the_scores_outweigh_is_found(patched_whisper, toy_checkpoint, tmp_path):
    model = build_model(patched_whisper, toy_checkpoint(DIMS, 3), PLAN.feature_frames)
    export_graphs(model, PLAN, tmp_path)
    check_export(model, PLAN, tmp_path, speech(), TOKENS)
    model.decoder.mask.clamp_(min=-1.0)
    export_graphs(model, PLAN, tmp_path)
    with pytest.raises(ExportError, match="its attention scores outweigh the causal mask"):
        check_export(model, PLAN, tmp_path, speech(), TOKENS)


@pytest.mark.parametrize(("seconds", "sequence"), [(1, 8), (2, 16)])
def test_other_windows_and_sequences(patched_whisper, toy_checkpoint, tmp_path, seconds, sequence):
    dims = Dimensions(80, 100, 16, 2, 1, 41, 16, 16, 2, 1)
    plan = ShapePlan("toy", "hailo8", seconds, sequence, dims)
    model = build_model(patched_whisper, toy_checkpoint(dims, 3), plan.feature_frames)
    export_graphs(model, plan, tmp_path)
    assert check_export(model, plan, tmp_path, speech(seconds / 2), [1, 2, 3]).argmax_equal
    features = open_session(tmp_path / "encoder.onnx").run(
        ["features"], {"mel": window_mel(speech(seconds), seconds)[None, :, None, :]}
    )[0]
    assert features.shape == (1, 50 * seconds, 16)


def test_a_model_of_another_window_is_refused(model, tmp_path):
    other = ShapePlan("toy", "hailo8", 1, 12, Dimensions(80, 50, 32, 2, 2, 107, 16, 32, 2, 3))
    with pytest.raises(ExportError) as caught:
        export_graphs(model, other, tmp_path)
    assert "the contract says" in str(caught.value)
    assert "\n" not in str(caught.value)


def node(operator, name):
    return onnx.helper.make_node(operator, ["a", "b"], [f"{name}.out"], name)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Add", "Add_7")], "the exporter named a node 'Add_7'"),
        ([node("Add", "/decoder/blocks.0/Add")], "decoder.blocks.0 has 1 residual additions, a Whisper block has 3"),
        ([node("Add", "/encoder/blocks.1/Add")], "encoder.blocks.1 has 1 residual additions, a Whisper block has 2"),
    ],
)
def test_graphs_of_another_make_are_refused(nodes, reason):
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    with pytest.raises(ExportError) as caught:
        rename_graph(model)
    assert reason in str(caught.value)
