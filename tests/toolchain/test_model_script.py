"""Recipes on a parsed network: which vendor layers are ours, and the model scripts that come out.

The parsed networks come from the strict fake of the vendor's compiler, which numbers layers as the reference's scripts
presuppose. The graphs are toys with the real number of blocks, exported the real way.
"""

import dataclasses
import itertools

import numpy as np
import onnx
import pytest
from whisper_toolchain.checkpoints import Checkpoint
from whisper_toolchain.checkpoints.validation import expected_shapes
from whisper_toolchain.compilers.model_script import render_model_script, sixteen_bit_layers
from whisper_toolchain.compilers.vendor_layers import VendorLayer, map_layers
from whisper_toolchain.errors import RecipeError
from whisper_toolchain.export import export_graphs
from whisper_toolchain.model import build_model
from whisper_toolchain.recipe import load_recipe
from whisper_toolchain.shape_plan import ARCHITECTURES, VARIANTS, Dimensions, ShapePlan

# FACTS section 2: the numbers K of `quantization_param(convK, precision_mode=a16_w16)`.
FACTS = {
    ("tiny", "encoder"): {4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18},
    ("tiny", "decoder"): {*range(12, 33, 2), 25, 31},
    ("base", "encoder"): {4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20, 21, 22, 24, 25, 26},
    ("base", "decoder"): set(range(12, 49, 2)),
}
BLOCKS = {"tiny": 4, "base": 6}
ROWS = 4000


@pytest.fixture(scope="module")
def exports(patched_whisper, tmp_path_factory):
    """Toy graphs with as many blocks as tiny and base, by name."""
    random = np.random.default_rng(5)
    folders = {}
    for name, blocks in BLOCKS.items():
        dims = Dimensions(80, 50, 16, 2, blocks, 103, 16, 16, 2, blocks)
        state = {key: random.standard_normal(shape).astype(np.float32) for key, shape in expected_shapes(dims).items()}
        folders[name] = tmp_path_factory.mktemp(name)
        plan = ShapePlan("toy", "hailo8", 1, 12, dims)
        model = build_model(patched_whisper, Checkpoint("toy", dims, state, {"kind": "random"}), 50)
        export_graphs(model, plan, folders[name])
    return folders


@pytest.fixture
def parse(exports, fake_vendor_path, monkeypatch, tmp_path):
    """Translates a toy graph with the fake compiler; returns the graph and the parsed network's layers."""
    monkeypatch.chdir(tmp_path)  # the vendor's package leaves a log file where it runs

    def call(size, graph, arch="hailo8"):
        from hailo_sdk_client import ClientRunner

        path = exports[size] / f"{graph}.onnx"
        model = onnx.load(path)
        makers = {output: node.name for node in model.graph.node for output in node.output}
        runner = ClientRunner(hw_arch="hailo8")
        runner.translate_onnx_model(
            str(path),
            f"toy_{graph}",
            start_node_names=[value.name for value in model.graph.input],
            end_node_names=[makers[value.name] for value in model.graph.output],
            net_input_shapes={
                value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input
            },
        )
        layers = runner.get_hn()["layers"]
        return model, [
            VendorLayer(name, layer["type"], tuple(layer["original_names"])) for name, layer in layers.items()
        ]

    return call


def nameless(vendor):
    return [dataclasses.replace(layer, original_names=()) for layer in vendor]


def rendered(parsed, variant, graph, arch="hailo8", rows=ROWS):
    model, vendor = parsed
    recipe = getattr(load_recipe(variant, arch), graph)
    return render_model_script(recipe, graph, vendor, map_layers(vendor, model, graph), rows, arch)


@pytest.mark.parametrize("named", [True, False], ids=["by-name", "by-order"])
@pytest.mark.parametrize(("variant", "graph"), list(itertools.product(VARIANTS, ("encoder", "decoder"))))
def test_sixteen_bit_layers_are_those_of_the_facts(parse, variant, graph, named):
    """Under the reference's numbering, on every architecture; .en models have the lists of their siblings."""
    size = variant.removesuffix(".en")
    model, vendor = parse(size, graph)
    vendor = vendor if named else nameless(vendor)
    additions = [layer.short_name for layer in vendor if layer.kind == "ew_add"]
    for arch in ARCHITECTURES:
        wide = sixteen_bit_layers(rendered((model, vendor), variant, graph, arch).text)
        convolutions = {int(name.removeprefix("conv")) for name in wide if name.startswith("conv")}
        assert convolutions == FACTS[size, graph]
        # all additions, but for the encoder's first, the positional one
        expected = additions[1:] if graph == "encoder" else additions
        assert [name for name in wide if name.startswith("ew_add")] == expected
        outputs = graph == "decoder" and size == "tiny"
        assert ("{output_layer*}" in wide) == outputs
        assert len(wide) == len(convolutions) + len(expected) + outputs


def test_names_and_order_agree(parse):
    for size, graph in itertools.product(BLOCKS, ("encoder", "decoder")):
        model, vendor = parse(size, graph)
        assert map_layers(nameless(vendor), model, graph) == map_layers(vendor, model, graph)


def test_what_the_numbers_mean(parse):
    model, vendor = parse("tiny", "decoder")
    layers = {name.split("/")[1]: names for name, names in map_layers(vendor, model, "decoder").items()}
    block = "decoder.blocks.3"
    assert layers["conv25"] == (f"{block}.attn.query", f"{block}.attn.key", f"{block}.attn.value")
    assert layers["conv30"] == (f"{block}.cross_attn.out",)
    assert layers["conv31"] == (f"{block}.mlp.0",)
    assert layers["conv32"] == (f"{block}.mlp.2",)
    assert [layers[f"conv{number}"] for number in range(33, 37)] == [(f"decoder.vocabulary.{i}",) for i in range(4)]
    assert layers["ew_add1"] == ("decoder.blocks.0.attn.mask",)


def test_the_script_of_tiny(parse):
    script = rendered(parse("tiny", "encoder"), "tiny", "encoder")
    lines = script.text.splitlines()
    commands = [line for line in lines if not line.startswith(("#", "quantization_param"))]
    assert commands == [
        "model_optimization_flavor(optimization_level=2, compression_level=0)",
        "model_optimization_config(calibration, batch_size=8, calibset_size=1024)",
        "post_quantization_optimization(finetune, policy=enabled, dataset_size=3340, epochs=6, "
        "learning_rate=0.00001, batch_size=8)",
        "pre_quantization_optimization(ew_add_fusing, policy=disabled)",
        "pre_quantization_optimization(matmul_correction, layers={matmul*}, correction_type=zp_comp_block)",
        "pre_quantization_optimization(matmul_equalization, layers={matmul*}, matmul_bias=enabled)",
        "model_optimization_config(checker_cfg, policy=enabled)",
        "performance_param(optimize_for_batch=1)",
    ]
    assert script.calibration_rows == 3340
    assert script.warnings == ()
    at = lines.index("quantization_param(conv4, precision_mode=a16_w16)")
    assert lines[at - 1] == "# encoder.blocks.0.attn.out"


def test_what_differs_by_variant_and_architecture(parse):
    decomposition = "layer_norm_decomposition, bit_decomposition_mode=uniform_precision, equalization=disabled"
    tiny = parse("tiny", "decoder")
    eight, ten = (rendered(tiny, "tiny", "decoder", arch).text for arch in ("hailo8", "hailo10h"))
    assert eight.endswith("resources_param(max_utilization=0.8)\n")
    assert ten.endswith("resources_param(max_utilization=0.7)\n")
    assert decomposition in ten
    assert decomposition not in eight
    assert decomposition in rendered(tiny, "tiny.en", "decoder").text
    thorough = rendered(parse("tiny", "encoder"), "tiny.en", "encoder").text
    assert "performance_param(compiler_optimization_level=max, optimize_for_batch=1)" in thorough


@pytest.mark.parametrize(("rows", "batch"), [(32, 8), (3, 3)])
def test_sizes_fit_the_calibration_set(parse, rows, batch):
    """The vendor's compiler fails hours later where they do not."""
    script = rendered(parse("tiny", "encoder"), "tiny", "encoder", rows=rows)
    assert f"calibration, batch_size={batch}, calibset_size={rows})" in script.text
    assert f"dataset_size={rows}," in script.text
    assert script.calibration_rows == rows
    (warning,) = script.warnings
    assert f"the calibration set has {rows}" in warning
    assert "SAMPLES=3340" in warning


def test_no_rows_are_refused(parse):
    with pytest.raises(RecipeError, match="no rows"):
        rendered(parse("tiny", "encoder"), "tiny", "encoder", rows=0)


def test_a_pattern_without_a_layer_is_refused_by_name(parse):
    model, vendor = parse("tiny", "decoder")
    recipe = dataclasses.replace(load_recipe("base", "hailo8").decoder, sixteen_bit=("decoder.blocks.[45].mlp.2", "x"))
    with pytest.raises(RecipeError) as caught:
        render_model_script(recipe, "decoder", vendor, map_layers(vendor, model, "decoder"), ROWS, "hailo8")
    expected = "decoder: 'decoder.blocks.[45].mlp.2', 'x': names no layer of the parsed network: correct"
    assert str(caught.value).startswith(expected)


def test_attention_in_sixteen_bits_is_refused_on_hailo10h(parse):
    model, vendor = parse("tiny", "encoder")
    recipe = dataclasses.replace(load_recipe("tiny", "hailo10h").encoder, sixteen_bit=("encoder.blocks.0.attn.scores",))
    layers = map_layers(vendor, model, "encoder")
    assert "matmul1" in sixteen_bit_layers(render_model_script(recipe, "encoder", vendor, layers, ROWS, "hailo8").text)
    with pytest.raises(RecipeError, match="hailo10h fail"):
        render_model_script(recipe, "encoder", vendor, layers, ROWS, "hailo10h")


def test_a_merged_layer_takes_the_others_along_and_says_so(parse):
    model, vendor = parse("tiny", "encoder")
    recipe = dataclasses.replace(load_recipe("tiny", "hailo8").encoder, sixteen_bit=("encoder.blocks.1.attn.key",))
    script = render_model_script(recipe, "encoder", vendor, map_layers(vendor, model, "encoder"), ROWS, "hailo8")
    assert sixteen_bit_layers(script.text) == ["conv7"]
    (warning,) = script.warnings
    assert "encoder.blocks.1.attn.query, encoder.blocks.1.attn.value: gets 16 bits too" in warning


def test_a_network_to_look_into_is_not_fine_tuned_and_only_its_own_outputs_have_sixteen_bits(parse):
    model, vendor = parse("tiny", "decoder")
    recipe = load_recipe("tiny", "hailo8").decoder
    assert recipe.sixteen_bit_outputs
    own = ("decoder.vocabulary.1/MatMul", "logits_1")
    layers = map_layers(vendor, model, "decoder")
    script = render_model_script(recipe, "decoder", vendor, layers, ROWS, "hailo8", own)
    assert "post_quantization_optimization(finetune, policy=disabled)\n" in script.text
    assert "model_optimization_config(checker_cfg, policy=disabled)\n" in script.text
    assert script.calibration_rows == recipe.calibration.rows
    assert [name for name in sixteen_bit_layers(script.text) if "output" in name] == ["output_layer2"]
    assert script.warnings == ()
    few = render_model_script(recipe, "decoder", vendor, layers, 100, "hailo8", ("nowhere",))
    assert few.calibration_rows == 100
    assert [name for name in sixteen_bit_layers(few.text) if "output" in name] == []
    assert [warning.split(":")[1][:30] for warning in few.warnings] == [
        " the recipe calibrates on 128 ",
        " the parsed network does not s",
    ]


def test_another_numbering_without_names_is_not_guessed(parse):
    model, vendor = parse("tiny", "encoder")
    for missing in ("conv", "matmul", "ew_add"):
        fewer = nameless(vendor)
        fewer.remove(next(layer for layer in fewer if layer.kind == missing))
        with pytest.raises(RecipeError, match=f"layers of type {missing} where the reference's numbering has"):
            map_layers(fewer, model, "encoder")


def test_a_network_of_another_graph_is_refused(parse):
    model, vendor = parse("tiny", "encoder")
    strange = [dataclasses.replace(vendor[1], kind="conv", original_names=("/model/Conv_7",)), *vendor]
    with pytest.raises(RecipeError, match=r"came from \['/model/Conv_7'\]"):
        map_layers(strange, model, "encoder")
    fewer = [layer for layer in vendor if layer.short_name != "conv5"]
    with pytest.raises(RecipeError, match=r"no layer for encoder\.blocks\.0\.mlp\.0"):
        map_layers(fewer, model, "encoder")
