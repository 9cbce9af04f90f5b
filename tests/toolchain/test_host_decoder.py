"""The graphs of the decoder for the CPU: that they are the model, and what is written and said about them."""

import json
from operator import itemgetter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from whisper_runtime.audio import load_audio
from whisper_runtime.backends.onnxruntime import open_session as runtime_session
from whisper_runtime.bundle import Bundle
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.host_decoder import CROSS_ATTENTION, HOST_DECODER, HostDecoder
from whisper_runtime.tokenizer import Tokenizer
from whisper_toolchain import host_decoder as writer
from whisper_toolchain.bundle_writer import make_manifest
from whisper_toolchain.errors import ExportError
from whisper_toolchain.export import export_graphs
from whisper_toolchain.float_model import host_arrays, load_tokenizer
from whisper_toolchain.host_decoder import check_host_decoder, quantise_columns, write_host_decoder
from whisper_toolchain.model import build_model
from whisper_toolchain.ort_session import open_session as toolchain_session
from whisper_toolchain.shape_plan import Dimensions, ShapePlan
from whisper_toolchain.signal_to_noise import signal_to_noise

DIMS = Dimensions(80, 50, 32, 2, 2, 103, 448, 32, 2, 3)
PLAN = ShapePlan("toy", "hailo8", 1, 12, DIMS)
TOKENS = [5, 17, 99, 102, 0, 41]
GRAPHS = (CROSS_ATTENTION, HOST_DECODER)

# Both sides compute in float32 and differ only in the order of sums.
FLOAT_DB = 80


def sound(seconds=1):
    return np.random.default_rng(0).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(toy_checkpoint):
    return toy_checkpoint(DIMS, 3)


@pytest.fixture(scope="module")
def model(patched_whisper, checkpoint):
    return build_model(patched_whisper, checkpoint, PLAN.feature_frames)


@pytest.fixture(scope="module")
def folder(checkpoint, model, tmp_path_factory):
    """The exported graphs and the int8 ones of the host decoder."""
    folder = tmp_path_factory.mktemp("int8")
    export_graphs(model, PLAN, folder)
    write_host_decoder(checkpoint, PLAN, folder)
    return folder


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(1).standard_normal((1, PLAN.feature_frames, DIMS.n_text_state)).astype(np.float32)


@pytest.fixture(scope="module")
def tiny_en(tiny_en_checkpoint, tiny_en_bundle, tiny_en_plan, patched_tree, patched_whisper, recording):
    """Writes the graphs of the real tiny.en into a folder and checks them on real speech."""
    utterance = recording("1272-128104-0008")
    samples = load_audio(utterance.path)[: 16000 * tiny_en_plan.seconds]
    tokenizer = load_tokenizer(patched_tree, tiny_en_plan.dims)
    tokens = [*tokenizer.sot_sequence(), *tokenizer.encode(f" {utterance.text}")]
    model = build_model(patched_whisper, tiny_en_checkpoint, tiny_en_plan.feature_frames)

    def call(folder, int8=True):
        (folder / "encoder.onnx").symlink_to(tiny_en_bundle.exported.folder / "encoder.onnx")
        write_host_decoder(tiny_en_checkpoint, tiny_en_plan, folder, int8=int8)
        return check_host_decoder(model, tiny_en_checkpoint, tiny_en_plan, folder, samples, tokens)

    return call


class AsTheyAre:
    """A backend whose features are numbers already."""

    def read_features(self, features):
        return features


def decoder_of(folder, checkpoint):
    return HostDecoder(AsTheyAre(), TokenEmbedding(*host_arrays(checkpoint)), folder, threads=1)


def torch_logits(model, tokens, features):
    return model.decoder(torch.tensor([tokens]), torch.from_numpy(features)).numpy()[0]


def tokens_of(length):
    return np.random.default_rng(length).integers(0, DIMS.n_vocab, length).tolist()


# The model


def test_float_graphs_are_the_model_at_every_length(checkpoint, model, features, tmp_path):
    write_host_decoder(checkpoint, PLAN, tmp_path, int8=False)
    decoder = decoder_of(tmp_path, checkpoint)
    for length in (1, 2, 3, 4, 5, 8, 12, 13, 31, 32, 33, 64, 100, 224, 447, 448):
        tokens = tokens_of(length)
        decoder.begin(features)
        logits = decoder.logits(tokens[:1], tokens[1:], range(length))
        assert signal_to_noise(torch_logits(model, tokens, features), logits) > FLOAT_DB


def test_float_graphs_say_where_the_chosen_heads_look(checkpoint, model, features, tmp_path):
    heads = [(0, 1), (1, 0), (1, 1)]
    write_host_decoder(checkpoint, PLAN, tmp_path, heads, int8=False)
    decoder = decoder_of(tmp_path, checkpoint)
    scores = []
    hooks = [
        block.cross_attn.register_forward_hook(lambda _, inputs, outputs: scores.append(outputs[1].numpy()[0]))
        for block in model.decoder.blocks
    ]
    logits = torch_logits(model, TOKENS, features)
    for hook in hooks:
        hook.remove()
    decoder.begin(features)
    found, probabilities = decoder.align(TOKENS[:2], TOKENS[2:])
    wanted = np.stack([scores[block][head] for block, head in heads])[:, 1:]
    assert signal_to_noise(wanted, found) > FLOAT_DB
    likely = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert probabilities == pytest.approx(likely[range(1, 5), TOKENS[2:]], rel=1e-3)


def test_of_an_unknown_model_all_heads_of_the_upper_half_say_it(checkpoint, features, tmp_path):
    half = DIMS.n_text_layer // 2
    upper = [(block, head) for block in range(half, DIMS.n_text_layer) for head in range(DIMS.n_text_head)]
    found = []
    for name, heads in (("unknown", None), ("known", upper)):
        (tmp_path / name).mkdir()
        write_host_decoder(checkpoint, PLAN, tmp_path / name, heads)
        decoder = decoder_of(tmp_path / name, checkpoint)
        decoder.begin(features)
        found.append(decoder.align(TOKENS[:2], TOKENS[2:])[0])
    assert np.array_equal(*found)


def test_float_graphs_depend_on_every_frame(checkpoint, model, features, tmp_path):
    write_host_decoder(checkpoint, PLAN, tmp_path, int8=False)
    decoder = decoder_of(tmp_path, checkpoint)
    decoder.begin(features)
    before = decoder.logits(TOKENS, [], [5])
    for frame in range(PLAN.feature_frames):
        changed = features.copy()
        changed[0, frame] += 1
        decoder.begin(changed)
        assert (decoder.logits(TOKENS, [], [5]) != before).any()


def test_int8_graphs_are_near_the_model_at_every_length(folder, checkpoint, model, features):
    decoder = decoder_of(folder, checkpoint)
    for length in (1, 3, 32, 224, 448):
        tokens = tokens_of(length)
        decoder.begin(features)
        logits = decoder.logits(tokens[:1], tokens[1:], range(length))
        assert signal_to_noise(torch_logits(model, tokens, features), logits) > 25


def test_tiny_en_in_float_is_the_model(tiny_en, tmp_path):
    check = tiny_en(tmp_path, int8=False)
    assert check.logit_snr_db > FLOAT_DB
    assert check.argmax_equal == 1.0


# The check right after the export


def test_the_check_passes_on_what_was_written(folder, checkpoint, model):
    check = check_host_decoder(model, checkpoint, PLAN, folder, sound(), TOKENS)
    assert check.logit_snr_db >= writer.SNR_TOLERANCE_DB
    assert 0 <= check.argmax_equal <= 1
    assert check.as_dict()["snr_tolerance_db"] == writer.SNR_TOLERANCE_DB


def test_the_check_takes_a_text_longer_than_the_sequence(folder, checkpoint, model):
    check_host_decoder(model, checkpoint, PLAN, folder, sound(), TOKENS * 100)


def turned(weight, bias):
    return weight.T.copy(), bias


def without_bias(weight, bias):
    return weight, 0 * bias


def without_scale(weight, bias):
    return 8 * weight, 8 * bias  # takes back the division by the root of 64


@pytest.mark.parametrize(
    ("layer", "fault"),
    [
        (".attn.query", turned),
        (".attn.value", turned),
        (".cross_attn.key", turned),
        (".cross_attn.out", turned),
        (".attn.query", without_bias),
        (".cross_attn.value", without_bias),
        (".attn.query", without_scale),
        (".cross_attn.query", without_scale),
    ],
)
def test_the_check_fails_on_faults_of_the_writer(tiny_en, tmp_path, monkeypatch, layer, fault):
    projection = writer._Graph.projection

    def faulty(graph, name):
        return fault(*projection(graph, name)) if name.endswith(layer) else projection(graph, name)

    monkeypatch.setattr(writer._Graph, "projection", faulty)
    with pytest.raises(ExportError, match="host decoder differs from the torch model"):
        tiny_en(tmp_path)


def test_the_check_fails_on_other_weights(tmp_path, folder, toy_checkpoint, checkpoint, model):
    (tmp_path / "encoder.onnx").symlink_to(folder / "encoder.onnx")
    write_host_decoder(toy_checkpoint(DIMS, 4), PLAN, tmp_path)
    with pytest.raises(ExportError, match=r"SNR of the logits -?\d+ dB \(at least 18 wanted\)"):
        check_host_decoder(model, checkpoint, PLAN, tmp_path, sound(), TOKENS)


# int8


@given(arrays.arrays(np.float32, (5, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_codes_are_within_half_a_step_of_the_weight(weight):
    codes, scale = quantise_columns(weight)
    assert (codes.dtype, scale.dtype) == (np.int8, np.float32)
    assert (np.abs(codes.astype(int)) <= 127).all()
    assert (scale > 0).all()
    assert (np.abs(codes * scale.astype(np.float64) - weight) <= 0.501 * scale).all()


def test_each_column_has_a_scale_of_its_own():
    weight = np.array([[1, 100, 0], [-0.5, 50, 0]], np.float32)
    codes, scale = quantise_columns(weight)
    assert codes.tolist() == [[127, 127, 0], [-64, 64, 0]]
    assert scale == pytest.approx([1 / 127, 100 / 127, 1])


def test_onnxruntime_joins_every_product_into_one_node(folder, tmp_path):
    """Else a step would take several times as long."""
    for name, products in ((CROSS_ATTENTION, 2 * DIMS.n_text_layer), (HOST_DECODER, 6 * DIMS.n_text_layer + 1)):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / name)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
        operators = [node.op_type for node in onnx.load(tmp_path / name).graph.node]
        assert not {"MatMulInteger", "Cast", "Mul"} & set(operators)
        assert operators.count("DynamicQuantizeMatMul") + operators.count("MatMulIntegerToFloat") == products


def test_the_largest_codes_do_not_overflow(toy_checkpoint, tmp_path):
    """An x86 without VNNI adds two products in 16 bits, which 255 * 127 * 2 does not fit into."""
    checkpoint = toy_checkpoint(DIMS, 3)
    name = "decoder.blocks.0.cross_attn.key.weight"
    checkpoint.state[name] = np.ones_like(checkpoint.state[name])
    write_host_decoder(checkpoint, PLAN, tmp_path)
    features = np.ones((1, PLAN.feature_frames, DIMS.n_text_state), np.float32)
    path = tmp_path / CROSS_ATTENTION
    for session in (runtime_session(path, 1, "the test"), toolchain_session(path)):
        [keys] = session.run(["cross_key_0"], {"features": features})
        assert keys == pytest.approx(DIMS.n_text_state, rel=1e-3)


# What is written


def test_the_same_checkpoint_gives_the_same_bytes(folder, checkpoint, tmp_path):
    write_host_decoder(checkpoint, PLAN, tmp_path)
    for name in GRAPHS:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_graphs_are_plain_onnx_and_hold_nothing_of_this_machine(folder):
    for name in GRAPHS:
        model = onnx.load(folder / name)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
        onnx.checker.check_model(model, full_check=True)
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        content = (folder / name).read_bytes()
        for word in (b"/work", b"/tmp", b"site-packages", b".py"):
            assert word not in content


def graph_io(path):
    """Inputs and outputs of a graph in the manifest's words."""

    def described(values):
        return [
            {
                "name": value.name,
                "shape": [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim],
                "dtype": onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            }
            for value in values
        ]

    graph = onnx.load(path).graph
    return {
        kind: sorted(described(values), key=itemgetter("name"))
        for kind, values in (("inputs", graph.input), ("outputs", graph.output))
    }


def sorted_io(described):
    return {kind: sorted(values, key=itemgetter("name")) for kind, values in described.items()}


def test_the_bundle_has_both_graphs_and_describes_them(tiny_en_bundle):
    manifest = Bundle.open(tiny_en_bundle.folder).manifest
    described = manifest.data["io"]["host_decoder"]
    for name, part in ((CROSS_ATTENTION, "cross_attention"), (HOST_DECODER, "decoder")):
        assert name in manifest.files
        file = tiny_en_bundle.folder / name
        assert file.read_bytes() == (tiny_en_bundle.exported.folder / name).read_bytes()
        assert sorted_io(described[part]) == graph_io(file)


@pytest.mark.parametrize("emulated", [True, False])
@pytest.mark.parametrize(("variant", "seconds", "frames"), [("tiny.en", 10, 500), ("base.en", 11, "frames")])
def test_compiled_bundles_describe_them_too(tmp_path, whisper_assets, emulated, variant, seconds, frames):
    """The host's windows are longer than those of an encoder of five seconds, which is all of base that fits."""
    plan = ShapePlan.make(variant, "hailo8")
    tokenizer = Tokenizer.from_file(whisper_assets / "gpt2.tiktoken", plan.dims.n_vocab)
    manifest = make_manifest(tmp_path, plan, tokenizer, "x", {}, {}, emulated=emulated, semver="0.1.0")
    described = manifest["io"]["host_decoder"]
    assert set(described) == {"cross_attention", "decoder", "window_seconds"}
    assert described["window_seconds"] == seconds
    (features,) = described["cross_attention"]["inputs"]
    assert features["shape"] == [1, frames, plan.state]


def test_the_figures_of_the_check_are_in_the_manifest(tiny_en_bundle):
    check = Bundle.open(tiny_en_bundle.folder).manifest.data["build"]["export_check"]["host_decoder"]
    assert check["snr_tolerance_db"] == writer.SNR_TOLERANCE_DB
    assert check["logit_snr_db"] > 22
    assert check["argmax_equal"] > 0.9
    assert (
        check
        == json.loads((tiny_en_bundle.exported.folder / "stage.json").read_text())["results"]["check"]["host_decoder"]
    )
