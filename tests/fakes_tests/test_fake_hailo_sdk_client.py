"""The fake Dataflow Compiler: what it accepts, what it refuses, and that its HEFs run, on toy graphs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from whisper_runtime.errors import HefError
from whisper_runtime.hef import check_outputs, read_hef

FULL_SCRIPT = """
# every command of the reference flow's scripts
model_optimization_flavor(optimization_level=2, compression_level=0)
model_optimization_config(calibration, batch_size=4, calibset_size=8)
post_quantization_optimization(finetune, policy=enabled, dataset_size=8, epochs=2, learning_rate=0.00001, batch_size=4)
pre_quantization_optimization(ew_add_fusing, policy=disabled)
pre_quantization_optimization(matmul_correction, layers={matmul*}, correction_type=zp_comp_block)
pre_quantization_optimization(matmul_equalization, layers={matmul*}, matmul_bias=enabled)
pre_quantization_optimization(layer_norm_decomposition, bit_decomposition_mode=uniform_precision, equalization=disabled)
model_optimization_config(checker_cfg, policy=enabled)
quantization_param({ew_add*}, precision_mode=a16_w16)
quantization_param(ew_add1, precision_mode=a8_w8)
quantization_param([conv1, toy_v1/conv5], precision_mode=a16_w16)
performance_param(optimize_for_batch=1)
performance_param(compiler_optimization_level=max)
resources_param(max_utilization=0.80)
"""
QUICK_SCRIPT = "model_optimization_config(checker_cfg, policy=enabled)\n"


class Graph:
    """Builds a toy graph; nodes are named as the exporter names them."""

    def __init__(self):
        self.nodes, self.constants, self.rng = [], [], np.random.default_rng(0)

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def random(self, name, *shape):
        return self.constant(name, self.rng.normal(size=shape) / np.sqrt(shape[0]))

    def node(self, op, name, *inputs, output=None, **attributes):
        self.nodes.append(helper.make_node(op, list(inputs), [output or name], name=name, **attributes))
        return output or name

    def axes(self, name, *values):
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def linear(self, layer, source, rows, columns, bias=True, output=None):
        result = self.node("MatMul", f"{layer}/MatMul", source, self.random(f"{layer}.w", rows, columns), output=output)
        return self.node("Add", f"{layer}/Add", self.random(f"{layer}.b", columns), result) if bias else result

    def normalise(self, layer, source, width):
        mean = self.node("ReduceMean", f"{layer}/ReduceMean", source, axes=[-1])
        centred = self.node("Sub", f"{layer}/Sub", source, mean)
        square = self.node("Pow", f"{layer}/Pow", centred, self.constant(f"{layer}.two", 2))
        variance = self.node("ReduceMean", f"{layer}/ReduceMean_2", square, axes=[-1])
        shifted = self.node("Add", f"{layer}/Add", variance, self.constant(f"{layer}.eps", 1e-5))
        root = self.node("Sqrt", f"{layer}/Sqrt", shifted)
        scaled = self.node("Div", f"{layer}/Div", centred, root)
        scaled = self.node("Mul", f"{layer}/Mul", scaled, self.constant(f"{layer}.weight", np.ones(width)))
        return self.node("Add", f"{layer}/Add_2", scaled, self.constant(f"{layer}.bias", np.zeros(width)))

    def gelu(self, layer, source):
        erf = self.node("Div", f"{layer}/Div", source, self.constant(f"{layer}.sqrt2", np.sqrt(2)))
        erf = self.node("Erf", f"{layer}/Erf", erf)
        erf = self.node("Add", f"{layer}/Add", erf, self.constant(f"{layer}.one", 1))
        product = self.node("Mul", f"{layer}/Mul", source, erf)
        return self.node("Mul", f"{layer}/Mul_2", product, self.constant(f"{layer}.half", 0.5))

    def attention(self, layer, query, key, value):
        turned = self.node("Transpose", f"{layer}/Transpose", key, perm=[0, 2, 1])
        scale = self.constant(f"{layer}.scale", 0.5)
        turned = self.node("Mul", f"{layer}/Mul", turned, scale)
        scores = self.node("MatMul", f"{layer}.scores/MatMul", query, turned)
        scores = self.node("Add", f"{layer}.mask/Add", scores, self.constant(f"{layer}.mask", np.zeros((6, 6))))
        weights = self.node("Softmax", f"{layer}.softmax/Softmax", scores, axis=-1)
        return self.node("MatMul", f"{layer}.context/MatMul", weights, value)

    def model(self, inputs, outputs, opset=13):
        def values(shapes):
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

        graph = helper.make_graph(self.nodes, "toy", values(inputs), values(outputs), self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def decoder(inputs=None):
    """A block of self-attention and cross-attention: two inputs, two outputs, one layer of each kind."""
    g = Graph()
    x = g.node("Squeeze", "embedded/Squeeze", "tokens", g.axes("embedded.axes", 3))
    x = g.node("Transpose", "embedded/Transpose", x, perm=[0, 2, 1])
    x = g.node("Add", "positional/Add", x, g.random("positional.rows", 6, 8))
    n = g.normalise("attn_ln", x, 8)
    q, k, v = (
        g.linear("attn.query", n, 8, 8),
        g.linear("attn.key", n, 8, 8, bias=False),
        g.linear("attn.value", n, 8, 8),
    )
    a = g.linear("attn.out", g.attention("attn", q, k, v), 8, 8)
    x = g.node("Add", "attn.residual/Add", x, a)
    k = g.linear("cross_attn.key", "features", 8, 8, bias=False)
    v = g.linear("cross_attn.value", "features", 8, 8)
    a = g.attention("cross_attn", g.normalise("cross_attn_ln", x, 8), k, v)
    m = g.gelu("mlp.1", g.linear("mlp.0", a, 8, 16))
    x = g.node("Add", "mlp.residual/Add", x, g.linear("mlp.2", m, 16, 8))
    n = g.normalise("ln", x, 8)
    for part, columns in enumerate((5, 7)):
        g.linear(f"vocabulary.{part}", n, 8, columns, bias=False, output=f"logits_{part}")
    inputs = inputs or {"features": [1, 6, 8], "tokens": [1, 8, 6, 1]}
    return g.model(inputs, {"logits_0": [1, 6, 5], "logits_1": [1, 6, 7]})


def encoder(opset=13):
    """One convolution on rank 4: one input, one output."""
    g = Graph()
    weight = g.random("conv.weight", 4, 3, 1, 3)
    x = g.node("Conv", "conv/Conv", "mel", weight, g.random("conv.bias", 4), kernel_shape=[1, 3], pads=[0, 1, 0, 1])
    g.node("Relu", "conv/Relu", x, output="features")
    return g.model({"mel": [1, 3, 1, 10]}, {"features": [1, 4, 1, 10]}, opset)


@pytest.fixture
def fake(fake_vendor_path, tmp_path, monkeypatch):
    """The imported fake, in a folder of its own.

    Attributes: `sdk` the package; `configure` writes its configuration; `runner(model, script)` translates and loads.
    """
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "fake.json"
    config.write_text("{}")
    monkeypatch.setenv("FAKE_HAILO", str(config))
    import hailo_sdk_client

    def configure(**keys):
        config.write_text(json.dumps(keys))

    def translated(model=None, script=None, arch="hailo8"):
        onnx.save(model or decoder(), "toy.onnx")
        runner = hailo_sdk_client.ClientRunner(hw_arch=arch)
        runner.translate_onnx_model("toy.onnx", "toy.v1")
        if script is not None:
            runner.load_model_script(script)
        return runner

    return SimpleNamespace(sdk=hailo_sdk_client, configure=configure, runner=translated, config=config)


def rows(count=8, **changes):
    """The first rows of one calibration set for `decoder`, or changed ones."""
    rng = np.random.default_rng(1)
    data = {
        "toy_v1/input_layer1": rng.normal(size=(8, 1, 6, 8)).astype(np.float32)[:count],
        "toy_v1/input_layer2": rng.normal(size=(8, 6, 1, 8)).astype(np.float32)[:count],
    }
    return {**data, **changes}


def raises(name, text=""):
    """Expect an exception by the name of its type: a driver cannot import the vendor's."""

    class Expect:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            assert kind is not None, f"no {name}"
            assert kind.__name__ == name, error
            assert text in str(error)
            assert name in ("TypeError", "KeyError", "FileNotFoundError") or not issubclass(kind, ValueError)
            return True

    return Expect()


# Translation


def test_layers_are_numbered_as_the_reference_scripts_expect(fake):
    layers = fake.runner().get_hn()["layers"]
    kinds = [name.removeprefix("toy_v1/") for name in layers]
    assert kinds == [
        "input_layer1", "input_layer2", "ew_add1", "layer_normalization1", "conv1", "matmul1", "ew_add2", "softmax1",
        "matmul2", "conv2", "ew_add3", "conv3", "conv4", "layer_normalization2", "matmul3", "ew_add4", "softmax2",
        "matmul4", "conv5", "conv6", "ew_add5", "layer_normalization3", "conv7", "conv8", "output_layer1",
        "output_layer2",
    ]  # fmt: skip
    names = {kind: layers[f"toy_v1/{kind}"]["original_names"] for kind in kinds}
    assert names["conv1"] == [  # query, key and value read one inner tensor
        "attn.query/MatMul", "attn.query/Add", "attn.key/MatMul", "attn.value/MatMul", "attn.value/Add",
    ]  # fmt: skip
    assert names["conv3"] == ["cross_attn.key/MatMul"]  # and those of a cross-attention an input of the network
    assert names["conv4"] == ["cross_attn.value/MatMul", "cross_attn.value/Add"]
    assert names["conv5"][:3] == ["mlp.0/MatMul", "mlp.0/Add", "mlp.1/Div"]
    assert names["conv5"][-1] == "mlp.1/Mul_2"
    assert len(names["layer_normalization3"]) == 9
    assert names["ew_add2"] == ["attn.mask/Add"]
    assert names["conv8"] == ["vocabulary.1/MatMul"]
    assert names["input_layer2"] == ["tokens"]
    assert names["output_layer2"] == ["vocabulary.1/MatMul"]


def test_layers_give_types_shapes_and_neighbours(fake):
    layers = fake.runner().get_hn()["layers"]
    assert layers["toy_v1/input_layer2"]["input_shapes"] == [[-1, 6, 1, 8]]  # ONNX [1, 8, 6, 1]
    conv = layers["toy_v1/conv1"]
    assert (conv["type"], conv["input"]) == ("conv", ["toy_v1/layer_normalization1"])
    assert conv["output_shapes"] == [[-1, 1, 6, 24]]
    assert conv["output"] == ["toy_v1/matmul1", "toy_v1/matmul2"]
    assert layers["toy_v1/output_layer1"]["input"] == ["toy_v1/conv7"]


def test_dots_become_underscores_in_layers_but_not_in_the_model_name(fake):
    runner = fake.runner()
    assert runner.model_name == "toy.v1"
    assert all(name.startswith("toy_v1/") for name in runner.get_hn()["layers"])
    assert runner.hw_arch == "hailo8"


def test_original_names_can_be_absent(fake):
    fake.configure(dfc_original_names=False)
    layers = fake.runner().get_hn()["layers"]
    assert all(layer["original_names"] == [] for layer in layers.values())


def test_a_graph_is_cut_at_start_and_end_nodes_in_their_order(fake):
    onnx.save(decoder(), "toy.onnx")
    runner = fake.sdk.ClientRunner(hw_arch="hailo8")
    runner.translate_onnx_model(
        "toy.onnx",
        "toy",
        start_node_names=["positional/Add", "features"],
        end_node_names=["vocabulary.1/MatMul"],
        net_input_shapes={"features": [1, 6, 8]},
    )
    layers = runner.get_hn()["layers"]
    assert layers["toy/input_layer1"]["input_shapes"] == [[-1, 1, 6, 8]]
    assert layers["toy/input_layer2"]["original_names"] == ["features"]
    assert "toy/output_layer2" not in layers


INNER = ["attn.query/Add", "attn.key/MatMul", "attn.value/Add", "attn.scores/MatMul", "attn.residual/Add"]


def test_inner_end_nodes_are_outputs_of_layers_of_their_own(fake):
    onnx.save(decoder(), "toy.onnx")
    runner = fake.sdk.ClientRunner(hw_arch="hailo8")
    ends = ["vocabulary.0/MatMul", "vocabulary.1/MatMul", *INNER]
    runner.translate_onnx_model("toy.onnx", "toy.v1", end_node_names=ends)
    layers = runner.get_hn()["layers"]
    outputs = [layer for layer in layers.values() if layer["type"] == "output_layer"]
    assert [layer["original_names"] for layer in outputs] == [[name] for name in ends]
    makers = [layer["input"][0] for layer in outputs]
    assert len(set(makers)) == len(ends)  # query, key and value, which are one layer else, among them
    runner.optimize(rows())
    for turned in (False, True):
        fake.configure(dfc_reverse_outputs=turned)
        shapes = [value.shape[1:] for value in infer(fake, runner, "SDK_NATIVE")][:: -1 if turned else 1]
        assert [list(shape) for shape in shapes] == [layer["output_shapes"][0][1:] for layer in outputs]


def test_an_end_node_before_a_fused_activation_is_refused(fake):
    onnx.save(decoder(), "toy.onnx")
    runner = fake.sdk.ClientRunner(hw_arch="hailo8")
    with raises("ParsingWithRecommendationException", "Div"):
        runner.translate_onnx_model("toy.onnx", "toy", end_node_names=["vocabulary.0/MatMul", "mlp.0/Add"])


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"end_node_names": ["logits_0"]}, "MisspellNodeError", "logits_0"),  # a tensor, not a node
        ({"start_node_names": ["nowhere"]}, "MisspellNodeError", "nowhere"),
        ({"start_node_names": ["features"]}, "UnsupportedModelError", "tokens"),
        ({"end_node_names": ["attn.out/Add"]}, "UnsupportedModelError", "features"),
        ({"net_input_shapes": {"mel": [1, 6, 8]}}, "UnsupportedModelError", "mel"),
        ({"net_input_shapes": {"features": [1, 7, 8]}}, "UnsupportedModelError", "features"),
        ({"model": Path("toy.onnx")}, "TypeError", "str"),
        ({"model": "missing.onnx"}, "FileNotFoundError", "missing.onnx"),
    ],
)
def test_translation_refuses_what_it_cannot_find(fake, keywords, error, text):
    onnx.save(decoder(), "toy.onnx")
    runner = fake.sdk.ClientRunner(hw_arch="hailo8")
    with raises(error, text):
        runner.translate_onnx_model(**{"model": "toy.onnx", "net_name": "toy", **keywords})
    assert runner.state.name == "UNINITIALIZED"


def test_translation_refuses_dynamic_shapes_batches_opsets_and_operators(fake):
    with raises("UnsupportedModelError", "features"):
        fake.runner(decoder({"features": [1, "frames", 8], "tokens": [1, 8, 6, 1]}))
    with raises("UnsupportedModelError", "batch"):
        fake.runner(decoder({"features": [2, 6, 8], "tokens": [1, 8, 6, 1]}))
    with raises("UnsupportedModelError", "opset"):
        fake.runner(encoder(opset=9))
    g = Graph()
    g.node("Sin", "wave/Sin", "x", output="y")
    with raises("ParsingWithRecommendationException", "UnsupportedOperationError in op wave/Sin"):
        fake.runner(g.model({"x": [1, 4]}, {"y": [1, 4]}))


# Architectures and states


@pytest.mark.parametrize(
    ("version", "arch", "fits"),
    [
        ("3.33.0", "hailo8", True), ("3.33.0", "hailo8l", True), ("3.31.0", "hailo8r", True),
        ("3.33.0", "hailo10h", False), ("5.1.0", "hailo10h", True), ("5.1.0", "hailo8", False),
        ("5.1.0", "hailo9", False), ("3.33.0", None, False),
    ],
)  # fmt: skip
def test_an_architecture_needs_its_version(fake, version, arch, fits):
    fake.configure(dfc=version)
    assert fake.sdk.__version__ == version
    if fits:
        assert fake.sdk.ClientRunner(hw_arch=arch).hw_arch == arch
    else:
        with raises("UnsupportedHwArchException", version):
            fake.sdk.ClientRunner(hw_arch=arch)


def test_states_have_an_order(fake):
    context = fake.sdk.InferenceContext
    runner = fake.sdk.ClientRunner(hw_arch="hailo8")
    early = [
        lambda: runner.optimize(rows()),
        runner.optimize_full_precision,
        runner.compile,
        lambda: runner.load_model_script(QUICK_SCRIPT),
        lambda: runner.save_har("toy.har"),
        lambda: runner.infer_context(context.SDK_NATIVE),
        runner.get_hn,
    ]
    for call in early:
        with raises("InvalidStateException", "uninitialized"):
            call()
    runner = fake.runner()
    with raises("BackendRuntimeException", "Did you forget to quantize?"):
        runner.compile()
    for kind in (context.SDK_FP_OPTIMIZED, context.SDK_QUANTIZED, context.SDK_HAILO_HW):
        with raises("InvalidStateException", "hailo_model"):
            runner.infer_context(kind)
    runner.optimize_full_precision(calib_data=rows())
    runner.infer_context(context.SDK_FP_OPTIMIZED)
    with raises("InvalidStateException", "fp_optimized_model"):
        runner.infer_context(context.SDK_QUANTIZED)
    runner.optimize(rows())
    for call in (lambda: runner.load_model_script(QUICK_SCRIPT), lambda: runner.optimize(rows())):
        with raises("InvalidStateException", "quantized_model"):
            call()
    assert runner.state.value == "quantized_model"
    runner.compile()
    assert runner.state.value == "compiled_model"
    with raises("BackendRuntimeException", "no Hailo device"):
        runner.infer_context(context.SDK_HAILO_HW)


# Model scripts


def test_the_commands_of_the_reference_scripts_are_known(fake):
    runner = fake.runner(script=FULL_SCRIPT)
    runner.optimize(rows())
    Path("toy.alls").write_text(FULL_SCRIPT)
    assert fake.runner(script="toy.alls").state.value == "hailo_model"
    assert fake.runner(script=Path("toy.alls")).state.value == "hailo_model"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("normalisation_param(conv1)", "AllocatorScriptParserException"),
        ("model_optimization_config(calibration, calib_size=8)", "AllocatorScriptParserException"),
        ("model_optimization_config(checker, policy=enabled)", "AllocatorScriptParserException"),
        ("model_optimization_config(checker_cfg, policy=on)", "AllocatorScriptParserException"),
        ("model_optimization_config(calibration, calibset_size=many)", "AllocatorScriptParserException"),
        ("resources_param(max_utilization=80)", "AllocatorScriptParserException"),
        ("post_quantization_optimization(finetune, learning_rate=1e-05)", "AllocatorScriptParserException"),
        ("quantization_param(conv99, precision_mode=a16_w16)", "AllocatorScriptParserException"),
        ("quantization_param({norm*}, precision_mode=a16_w16)", "AllocatorScriptParserException"),
        ("quantization_param([conv1, conv99], precision_mode=a16_w16)", "AllocatorScriptParserException"),
        ("quantization_param(conv1, precision_mode=a32_w32)", "AllocatorScriptParserException"),
        ("quantization_param(conv1, conv2, precision_mode=a16_w16)", "AllocatorScriptParserException"),
        ("quantization_param(conv1)", "AllocatorScriptParserException"),
        ("pre_quantization_optimization(matmul_correction, layers={fc*})", "AllocatorScriptParserException"),
        ("quantization_param(conv*, precision_mode=a16_w16)", "BackendScriptParserException"),
        ("quantization_param(conv1, precision_mode=a16_w16", "BackendScriptParserException"),
        ("quantization_param({conv1, precision_mode=a16_w16)", "BackendScriptParserException"),
        ("performance_param(optimize_for_batch=1)  # fast", "BackendScriptParserException"),
        ("performance_param(optimize_for_batch=1,)", "BackendScriptParserException"),
        ("performance_param\n", "BackendScriptParserException"),
    ],
)
def test_a_script_that_does_not_fit_is_refused(fake, line, error):
    with raises(error, line.strip()):
        fake.runner(script=f"# a comment\n{line}")


def test_the_last_line_about_a_layer_wins(fake):
    def output_bytes(*lines):
        runner = fake.runner(script="\n".join(("# precision", *lines)) + "\n")
        runner.optimize(rows())
        Path("toy.hef").write_bytes(runner.compile())
        return [stream.bytes_per_value for stream in read_hef(Path("toy.hef")).outputs]

    wide, narrow = (f"quantization_param({{}}, precision_mode={mode})" for mode in ("a16_w16", "a8_w8"))
    assert output_bytes() == [1, 1]
    assert output_bytes(wide.format("{output_layer*}")) == [2, 2]
    assert output_bytes(wide.format("conv8")) == [1, 2]
    assert output_bytes(wide.format("{output_layer*}"), narrow.format("output_layer1")) == [1, 2]
    assert output_bytes(narrow.format("output_layer1"), wide.format("{output_layer*}")) == [2, 2]


# Calibration data


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (lambda: {"toy_v1/input_layer1": rows()["toy_v1/input_layer1"]}, "KeyError", "toy_v1/input_layer2"),
        (lambda: rows(features=np.zeros(1)), "KeyError", "features"),
        (lambda: {name.split("/")[1]: value for name, value in rows().items()}, "KeyError", "toy_v1/input_layer1"),
        (lambda: rows()["toy_v1/input_layer1"], "TypeError", "2 inputs"),
        (lambda: lambda: rows(), "TypeError", "function"),
        (lambda: rows(**{"toy_v1/input_layer1": [[0.0]]}), "TypeError", "list"),
        (lambda: rows(**{"toy_v1/input_layer2": np.zeros((8, 8, 6, 1), np.float32)}), "BadInputsShape", "(6, 1, 8)"),
        (lambda: rows(**{"toy_v1/input_layer1": np.zeros((8, 6, 8), np.float32)}), "BadInputsShape", "(6, 8)"),
        (lambda: rows(**{"toy_v1/input_layer1": np.zeros((8, 1, 6, 8))}), "AccelerasValueError", "float64"),
        (lambda: rows(**{"toy_v1/input_layer1": np.zeros((7, 1, 6, 8), np.float32)}), "AccelerasValueError", "7"),
        (lambda: rows(count=0), "AccelerasValueError", "no entries"),
        (lambda: {name: value * np.float32(np.inf) for name, value in rows().items()}, "AccelerasValueError", "finite"),
    ],
)  # fmt: skip
def test_calibration_data_has_to_fit_the_input_layers(fake, data, error, text):
    runner = fake.runner()
    with raises(error, text):
        runner.optimize(data())
    assert runner.state.value == "hailo_model"


@pytest.mark.parametrize(
    "line",
    [
        "model_optimization_config(calibration, calibset_size=9)",
        "post_quantization_optimization(finetune, policy=enabled, dataset_size=9)",
    ],
)
def test_sizes_beyond_the_calibration_rows_fail_after_the_statistics(fake, capfd, line):
    runner = fake.runner(script=line)
    with raises("AccelerasValueError", "larger"):
        runner.optimize(rows())
    assert "Statistics Collector is done" in capfd.readouterr().out


def test_one_input_takes_an_array_as_the_reference_flow_gives_it(fake):
    runner = fake.runner(encoder())
    mels = np.random.default_rng(2).normal(size=(4, 1, 10, 3)).astype(np.float32)
    runner.optimize(mels, work_dir="work")
    with runner.infer_context(fake.sdk.InferenceContext.SDK_NATIVE) as context:
        features = runner.infer(context, mels)
    session = onnxruntime.InferenceSession("toy.onnx")
    (expected,) = session.run(None, {"mel": mels[:1].transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(features[:1], expected.transpose(0, 2, 3, 1), atol=1e-5)
    assert features.shape == (4, 1, 10, 4)


# Inference


def infer(fake, runner, kind):
    with runner.infer_context(fake.sdk.InferenceContext[kind]) as context:
        return runner.infer(context, rows(3))


def snr(signal, noisy):
    return 10 * np.log10(np.sum(signal**2) / np.sum((signal - noisy) ** 2))


def test_sixteen_bits_are_nearer_to_float_than_eight(fake):
    ratios = []
    for script in (QUICK_SCRIPT, "quantization_param({*}, precision_mode=a16_w16)\n"):
        runner = fake.runner(script=script)
        runner.optimize(rows())
        native, quantised = infer(fake, runner, "SDK_NATIVE"), infer(fake, runner, "SDK_QUANTIZED")
        assert [value.shape for value in native] == [(3, 1, 6, 5), (3, 1, 6, 7)]
        assert all(value.dtype == np.float32 for value in quantised)
        ratios.append(snr(native[0], quantised[0]))
    assert 10 < ratios[0] < 50
    assert ratios[1] > ratios[0] + 20


def test_compression_puts_the_largest_layers_into_four_bits(fake, capfd):
    ratios = []
    for level in (0, 2):
        runner = fake.runner(script=f"model_optimization_flavor(compression_level={level})")
        runner.optimize(rows())
        ratios.append(snr(infer(fake, runner, "SDK_NATIVE")[0], infer(fake, runner, "SDK_QUANTIZED")[0]))
    assert "Assigning 4bit weights to layer toy_v1/conv1" in capfd.readouterr().out
    assert ratios[1] < ratios[0]


def test_inference_needs_its_own_open_context_and_fitting_data(fake):
    runner, other = fake.runner(), fake.runner()
    native = fake.sdk.InferenceContext.SDK_NATIVE
    closed = runner.infer_context(native)
    with raises("BackendRuntimeException", "with-block"):
        runner.infer(closed, rows())
    with other.infer_context(native) as foreign, raises("BackendRuntimeException", "this runner"):
        runner.infer(foreign, rows())
    with runner.infer_context(native) as context, raises("KeyError"):
        runner.infer(context, {})
    with raises("TypeError"):
        runner.infer_context("SDK_NATIVE")


# HAR


def test_a_har_keeps_everything_at_every_state(fake):
    runner = fake.runner(script=FULL_SCRIPT)
    runner.save_har("translated.har")
    loaded = fake.sdk.ClientRunner(har="translated.har")
    assert (loaded.hw_arch, loaded.model_name, loaded.state) == ("hailo8", "toy.v1", runner.state)
    assert loaded.get_hn() == runner.get_hn()
    loaded.optimize(rows())
    expected = infer(fake, loaded, "SDK_QUANTIZED")
    loaded.save_har(Path("quantised.har"))

    again = fake.sdk.ClientRunner(hw_arch="hailo8")
    again.load_har(Path("quantised.har"))
    np.testing.assert_array_equal(infer(fake, again, "SDK_QUANTIZED")[1], expected[1])
    streams = []
    for runner in (loaded, again):
        Path("toy.hef").write_bytes(runner.compile())
        streams.append(read_hef(Path("toy.hef")).outputs)
    assert streams[0] == streams[1]
    again.save_har("compiled.har")
    assert fake.sdk.ClientRunner(har="compiled.har").state.value == "compiled_model"


def test_a_har_that_is_damaged_or_for_another_architecture_is_refused(fake):
    fake.runner().save_har("toy.har")
    whole = Path("toy.har").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 11000):
        Path("part.har").write_bytes(whole[:size])
        with raises("HailoArchiveException", "part.har"):
            fake.sdk.ClientRunner(har="part.har")
    with raises("FileNotFoundError", "missing.har"):
        fake.sdk.ClientRunner(har="missing.har")
    with raises("UnsupportedHwArchException", "hailo8"):
        fake.sdk.ClientRunner(har="toy.har", hw_arch="hailo8l")


# Compilation


@pytest.mark.parametrize(("version", "arch", "header"), [("3.33.0", "hailo8l", 2), ("5.1.0", "hailo10h", 3)])
def test_a_hef_tells_its_streams_and_holds_the_rounded_graph(fake, version, arch, header):
    import hef_file

    fake.configure(dfc=version)
    runner = fake.runner(script="quantization_param({output_layer*}, precision_mode=a16_w16)\n", arch=arch)
    runner.optimize(rows())
    quantised = infer(fake, runner, "SDK_QUANTIZED")
    content = runner.compile()
    Path("toy.hef").write_bytes(content)
    hef = read_hef(Path("toy.hef"))
    check_outputs(hef)
    assert (hef.header_version, hef.architecture, hef.sdk_version) == (header, arch, version)
    assert hef.network_groups == ("toy_v1",)
    assert [(stream.name, stream.shape, stream.bytes_per_value, stream.original_names) for stream in hef.inputs] == [
        ("toy_v1/input_layer1", (1, 6, 8), 1, ("features",)),
        ("toy_v1/input_layer2", (6, 1, 8), 1, ("tokens",)),
    ]
    assert [(stream.name, stream.shape, stream.bytes_per_value, stream.original_names) for stream in hef.outputs] == [
        ("toy_v1/conv7", (1, 6, 5), 2, ("vocabulary.0/MatMul",)),
        ("toy_v1/conv8", (1, 6, 7), 2, ("vocabulary.1/MatMul",)),
    ]

    # The device's way: the graph of the HEF, fed and read through the streams' encodings, is SDK_QUANTIZED.
    model, tensors = hef_file.read_graph_payload(hef_file.read_payload(content))
    feed = {}
    for stream, values in zip(hef.inputs, rows(3).values(), strict=True):
        stored = np.clip(np.rint(values[0] / stream.scale) + stream.zero_point, 0, 255)
        feed[tensors[stream.name]] = ((stored - stream.zero_point) * stream.scale).astype(np.float32)
    feed["tokens"] = feed["tokens"].transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(model)
    for stream, expected in zip(hef.outputs, quantised, strict=True):
        (logits,) = session.run([tensors[stream.name]], feed)
        np.testing.assert_allclose(logits[None], expected[:1], atol=stream.scale)
    assert snr(session.run(["logits_0"], feed)[0], infer(fake, runner, "SDK_NATIVE")[0][0]) < 60  # rounded, not float


@pytest.mark.parametrize("layer", ["softmax1", "{matmul*}"])
def test_sixteen_bits_in_an_attention_crash_the_allocator_of_the_10h_only(fake, capfd, layer):
    for version, arch in (("3.33.0", "hailo8"), ("5.1.0", "hailo10h")):
        fake.configure(dfc=version)
        runner = fake.runner(script=f"quantization_param({layer}, precision_mode=a16_w16)\n", arch=arch)
        runner.optimize(rows())
        if arch == "hailo8":
            assert runner.compile().startswith(b"\x01HEF")
        else:
            with raises("BackendAllocatorException", "allocator failed"):
                runner.compile()
    assert "[error] Mapping Failed" in capfd.readouterr().out


def test_the_demotion_bug_gives_a_dead_output(fake):
    runner = fake.runner(script="quantization_param({output_layer*}, precision_mode=a16_w16)\n")
    runner.optimize(rows())
    fake.configure(dfc_demote_outputs=True)
    Path("toy.hef").write_bytes(runner.compile())
    hef = read_hef(Path("toy.hef"))
    assert hef.outputs[0].bytes_per_value == 1
    assert hef.outputs[0].zero_point > 255
    with pytest.raises(HefError, match="conv7"):
        check_outputs(hef)


# Output, faults and interruptions


def test_the_log_goes_to_stdout_beside_junk_that_bypasses_python(fake, capfd):
    fake.configure(dfc_log=["Reducing optimization level to 0 because of a test"])
    runner = fake.runner(script=FULL_SCRIPT)
    runner.optimize(rows())
    runner.compile()
    out = capfd.readouterr().out
    for part in (
        "[info] Reducing optimization level to 0 because of a test\n",
        "\ttoy_v1/output_layer2 SNR:\t",
        "Single context flow failed",
        "Found valid partition to 9 contexts",
        "\rCalibration: 100%",
        "Epoch 2/2\n",
    ):
        assert part in out


def test_without_the_checker_there_is_no_snr(fake, capfd):
    fake.runner().optimize(rows())
    assert "SNR" not in capfd.readouterr().out


def test_junk_reaches_the_descriptor_even_if_stdout_is_redirected(fake):
    program = """
import contextlib, io, numpy as np
with contextlib.redirect_stdout(io.StringIO()):
    from hailo_sdk_client import ClientRunner
    runner = ClientRunner(har="toy.har")
    runner.optimize(np.zeros((4, 1, 10, 3), np.float32))
"""
    fake.runner(encoder()).save_har("toy.har")
    result = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Calibration: 100%" in result.stdout
    assert "[info]" not in result.stdout
    assert "cuDNN" in result.stderr


def test_faults_raise_at_the_call_asked_for(fake):
    runner = fake.runner(encoder())
    fake.configure(faults={"ClientRunner.save_har": {"raise": "out of luck", "at": 2}})
    runner.save_har("first.har")
    with raises("AccelerasUnknownError", "out of luck"):
        runner.save_har("second.har")
    runner.save_har("third.har")
    with raises("HailoArchiveException"):
        fake.sdk.ClientRunner(har="second.har")  # half a file
    assert fake.sdk.ClientRunner(har="third.har").model_name == "toy.v1"


@pytest.mark.parametrize(
    "method",
    ["__init__", "translate_onnx_model", "load_model_script", "optimize_full_precision", "optimize", "compile"],
)
def test_every_stage_can_fail(fake, method):
    fake.configure(faults={f"ClientRunner.{method}": {"raise": "no reason", "sleep": 0.01}})
    with raises("AccelerasUnknownError", "no reason"):
        runner = fake.runner(script=QUICK_SCRIPT)
        runner.optimize_full_precision()
        runner.optimize(rows())
        runner.compile()


@pytest.mark.parametrize(
    "config",
    [
        {"dfc_verison": "5.1.0"},
        {"faults": {"ClientRunner.optimise": {"raise": "x"}}},
        {"faults": {"ClientRunner.optimize": {"stall": True}}},
    ],
)
def test_an_unknown_configuration_key_is_an_error(fake, config):
    fake.configure(**config)
    with raises("RuntimeError", "unknown keys"):
        fake.sdk.ClientRunner(hw_arch="hailo8")


def test_keys_of_the_other_fake_are_left_alone(fake):
    fake.configure(faults={"VDevice.create": {"status": 74}}, device={"architecture": "HAILO8L"}, output="nan")
    assert fake.sdk.ClientRunner(hw_arch="hailo8").state.value == "uninitialized"


def environment():
    tests = Path(__file__).resolve().parent.parent
    return {**os.environ, "PYTHONPATH": str(tests / "fakes")}


@pytest.mark.parametrize("finetune", [True, False])
def test_ctrl_c_cuts_the_fine_tuning_and_goes_on_as_the_real_one_does(fake, finetune):
    """Public log: a driver that lets SIGINT reach the compiler ends with a badly trained model, not with a stop."""
    script = "post_quantization_optimization(finetune, policy=enabled, dataset_size=4)\n" if finetune else QUICK_SCRIPT
    fake.runner(encoder(), script=script).save_har("toy.har")
    fake.configure(faults={"ClientRunner.optimize": {"sleep": 60}})
    program = """
import numpy as np
from hailo_sdk_client import ClientRunner
runner = ClientRunner(har="toy.har")
runner.optimize(np.zeros((4, 1, 10, 3), np.float32))
runner.save_har("quantised.har")
"""
    with subprocess.Popen([sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE) as process:
        mark = b"for finetune" if finetune else b"Fine Tune skipped"
        assert process.stdout is not None
        while mark not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert (b"Training cut by the user" in rest) == finetune
    assert (process.returncode == 0) == finetune
    assert Path("quantised.har").exists() == finetune
