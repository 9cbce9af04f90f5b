"""The emulator's arithmetic, on numbers, on a toy Whisper, and the real tiny.en bundle's figure."""

import dataclasses
import shutil

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from whisper_runtime.backends.onnxruntime import OnnxRuntimeBackend
from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import BackendError
from whisper_toolchain.calibration import CALIBRATION
from whisper_toolchain.compilers.emulator import Emulator
from whisper_toolchain.compilers.quantised_graph import (
    activation_scale,
    find_layers,
    quantise,
    quantise_weight,
    tensors_to_measure,
)
from whisper_toolchain.compilers.ranges import BINS, Histogram, collect_histograms
from whisper_toolchain.compilers.rows import Rows
from whisper_toolchain.errors import CompileError, RecipeError
from whisper_toolchain.export import export_graphs
from whisper_toolchain.model import build_model
from whisper_toolchain.ort_session import open_session
from whisper_toolchain.recipe import Recipe
from whisper_toolchain.signal_to_noise import SignalToNoise, signal_to_noise
from whisper_toolchain.stage import run_stage

from tests.toy_job import DIMS, EIGHT, PLAN, SIXTEEN, graph_recipe, toy_export, toy_job

NAMES = {"encoder": ["features"], "decoder": [f"logits_{part}" for part in range(4)]}

FLOATS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


# Numbers


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=FLOATS),
    st.sampled_from([8, 16]),
    st.data(),
)
def test_weights_are_at_most_half_a_step_off(weight, bits, data):
    axis = data.draw(st.integers(0, weight.ndim - 1))
    integers, scale = quantise_weight(weight, axis, bits)
    assert integers.dtype == (np.int8 if bits == 8 else np.int16)
    assert integers.shape == weight.shape
    assert scale.dtype == np.float32
    assert scale.shape == (weight.shape[axis],)
    assert np.abs(integers.astype(int)).max() <= (1 << (bits - 1)) - 1  # symmetric: the lowest value is not used
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    steps = scale.astype(np.float64).reshape(shape)
    # float32 itself knows only some 250 places between two of 32767 steps
    assert (np.abs(integers * steps - weight) <= (0.5001 if bits == 8 else 0.505) * steps).all()
    assert (integers[weight == 0] == 0).all()


@settings(deadline=None)
@given(hnp.arrays(np.float32, (4, 6), elements=st.floats(-10, 10, width=32)))
def test_each_channel_has_a_scale_of_its_own(weight):
    weight[0] *= 1000
    integers, scale = quantise_weight(weight, 0, 8)
    for channel in range(4):
        alone, step = quantise_weight(weight[channel : channel + 1], 0, 8)
        assert np.array_equal(alone[0], integers[channel])
        assert step[0] == scale[channel]


def test_sixteen_bits_are_better_than_eight():
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    errors = {}
    for bits in (8, 16):
        integers, scale = quantise_weight(weight, 0, bits)
        errors[bits] = signal_to_noise(weight, integers * scale[:, None])
    assert errors[16] - errors[8] > 45
    assert errors[8] > 35


@settings(deadline=None)
@given(FLOATS, FLOATS, st.sampled_from([8, 16]))
def test_activation_grid_holds_zero_and_the_range(one, other, bits):
    low, high = min(one, other), max(one, other)
    step, zero_point = activation_scale(low, high, bits, "x")
    levels = (1 << bits) - 1
    assert step > 0
    assert np.isfinite(step)
    assert 0 <= zero_point <= levels
    for value in (low, high, 0.0, (low + high) / 2):
        integer = np.clip(np.rint(value / float(step)) + zero_point, 0, levels)
        # at the ends of the grid the zero point's own rounding may cost another half step
        assert abs((integer - zero_point) * float(step) - value) <= 1.001 * float(step)
    assert (zero_point - zero_point) * step == 0.0


@pytest.mark.parametrize(
    ("low", "high", "zero_point"), [(0.0, 0.0, 0), (0.0, 2.55, 0), (-2.55, 0.0, 255), (1.0, 2.55, 0), (-1.0, 1.55, 100)]
)
def test_activation_zero_points(low, high, zero_point):
    step, found = activation_scale(low, high, 8, "x")
    assert found == zero_point
    assert step == pytest.approx(0.01 if high > low else 1.0)


@pytest.mark.parametrize(
    "limits", [(float("nan"), 1.0), (0.0, float("inf")), (float("-inf"), 0.0), (0.0, float("nan"))]
)
def test_a_range_that_is_not_finite_is_refused(limits):
    with pytest.raises(CompileError) as caught:
        activation_scale(*limits, 8, "encoder.x/MatMul")
    assert str(caught.value).startswith("encoder.x/MatMul: ")
    assert "\n" not in str(caught.value)


def histogram(arrays):
    result = Histogram()
    for values in arrays:
        result.widen(values)
    for values in arrays:
        result.count(values)
    return result


def test_histogram_against_numpy():
    random = np.random.default_rng(1)
    arrays = [random.normal(0.5, 2.0, (50, 40)).astype(np.float32) for _ in range(5)]
    everything = np.concatenate(arrays).reshape(-1)
    found = histogram(arrays)
    assert (found.low, found.high) == (everything.min(), everything.max())
    assert found.counts.sum() == everything.size
    assert found.total == pytest.approx(everything.astype(np.float64).sum())
    assert found.range(100.0) == pytest.approx((everything.min(), everything.max()))
    width = (found.high - found.low) / BINS
    for percentile in (99.9, 99.0, 90.0):
        low, high = found.range(percentile)
        outside = (1 - percentile / 100) * everything.size
        assert (everything < low - width).sum() <= outside <= (everything < low + 2 * width).sum()
        assert (everything > high + width).sum() <= outside <= (everything > high - 2 * width).sum()


@settings(deadline=None)
@example([np.array([1.1754944e-38], np.float32)])
@given(st.lists(hnp.arrays(np.float32, st.integers(1, 30), elements=FLOATS), min_size=1, max_size=4))
def test_histogram_ranges_are_ordered_and_hold_zero(arrays):
    found = histogram(arrays)
    wide = found.range(100.0)
    assert wide == pytest.approx((found.low, found.high))
    previous = wide
    for percentile in (99.0, 90.0, 60.0):
        low, high = found.range(percentile)
        assert previous[0] <= low <= 0.0 <= high <= previous[1]
        previous = low, high


@pytest.mark.parametrize("values", [np.zeros(5), np.zeros((2, 3))])
def test_histogram_of_nothing_but_zeros(values):
    found = histogram([values.astype(np.float32)])
    assert found.range(99.0) == (0.0, 0.0)
    assert found.mean_rounding_error(1.0, 0, 255) == 0.0


@pytest.mark.parametrize(("step", "lowest", "highest"), [(0.05, -100, 155), (0.5, -2, 10), (0.01, -127, 128)])
def test_mean_rounding_error_against_numpy(step, lowest, highest):
    values = np.random.default_rng(2).gamma(1.0, 0.5, 200_000).astype(np.float32)
    found = histogram([values]).mean_rounding_error(step, lowest, highest)
    rounded = step * np.clip(np.rint(values / step), lowest, highest)
    width = float(values.max()) / BINS
    assert found == pytest.approx((values.astype(np.float64) - rounded).mean(), abs=width / 2)


def test_rounding_of_small_positive_values_loses_their_sum():
    """What the correction is for: a softmax's many small weights."""
    values = np.concatenate([np.full(990, 0.001), np.full(10, 1.0)]).astype(np.float32)
    assert histogram([values]).mean_rounding_error(1 / 255, 0, 255) == pytest.approx(0.00099, abs=1e-5)


def test_signal_to_noise_adds_up():
    random = np.random.default_rng(3)
    signal = random.standard_normal((4, 100)).astype(np.float32)
    noise = 0.1 * random.standard_normal((4, 100)).astype(np.float32)
    ratio = SignalToNoise()
    for row, other in zip(signal, signal + noise, strict=True):
        ratio.add(row, other)
    assert ratio.decibels == pytest.approx(signal_to_noise(signal, signal + noise))
    assert ratio.decibels == pytest.approx(20, abs=1.0)
    assert signal_to_noise(signal, signal) == float("inf")
    assert np.isnan(SignalToNoise().decibels)


# A toy Whisper


def encoder_rows(count=8, seed=0):
    random = np.random.default_rng(seed)
    return [{"mel": random.uniform(-1, 1.5, (1, 80, 1, 100)).astype(np.float32)} for _ in range(count)]


def decoder_rows(count=8, seed=0):
    random = np.random.default_rng(seed)
    return [
        {
            "features": random.standard_normal((1, 50, 32)).astype(np.float32),
            "token_embeddings": random.standard_normal((1, 32, 12, 1)).astype(np.float32),
        }
        for _ in range(count)
    ]


ROWS = {"encoder": encoder_rows, "decoder": decoder_rows}


@pytest.fixture(scope="module")
def export(patched_whisper, toy_checkpoint, tmp_path_factory):
    return toy_export(patched_whisper, toy_checkpoint, tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def graphs(export):
    """Of each graph: the float model, its layers and their histograms."""
    result = {}
    for graph, rows in ROWS.items():
        model = onnx.load(export / f"{graph}.onnx")
        layers = find_layers(model)
        result[graph] = model, layers, collect_histograms(model, tensors_to_measure(layers), rows)
    return result


def snr(graphs, graph, recipe):
    model, layers, histograms = graphs[graph]
    quantised = open_session(quantise(model, layers, histograms, recipe).SerializeToString())
    reference = open_session(model.SerializeToString())
    ratio = SignalToNoise()
    for feeds in ROWS[graph]():
        for one, other in zip(reference.run(NAMES[graph], feeds), quantised.run(NAMES[graph], feeds), strict=True):
            ratio.add(one, other)
    return ratio.decibels


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_find_layers(graphs, graph):
    model, layers, histograms = graphs[graph]
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Conv")]
    assert [model.graph.node[layer.node].name for layer in layers] == [node.name for node in products]
    made = {name: node for node in model.graph.node for name in node.output}
    for layer in layers:
        if layer.name.endswith((".scores", ".context")):
            assert layer.weight is None
            assert len(layer.activations) == 2
        else:
            assert layer.weight == f"{layer.name}.weight"
            assert len(layer.activations) == 1
        has_bias = layer.weight is not None and not layer.name.endswith(".key") and "vocabulary" not in layer.name
        assert made[layer.result].op_type == ("Conv" if "conv" in layer.name else "Add" if has_bias else "MatMul")
    assert set(histograms) == set(tensors_to_measure(layers))
    assert len(tensors_to_measure(layers)) == len(set(tensors_to_measure(layers)))


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
@pytest.mark.parametrize("recipe", [EIGHT, SIXTEEN, graph_recipe(8, 99.9, wide=("*.mlp.*",), matmul_correction=True)])
def test_inputs_and_outputs_stay(graphs, graph, recipe):
    model, layers, histograms = graphs[graph]
    before = model.SerializeToString(deterministic=True)
    quantised = quantise(model, layers, histograms, recipe)
    assert model.SerializeToString(deterministic=True) == before
    assert list(quantised.graph.input) == list(model.graph.input)
    assert list(quantised.graph.output) == list(model.graph.output)
    for tensor in quantised.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor)).all(), tensor.name
    names = [name for node in quantised.graph.node for name in node.output]
    names += [tensor.name for tensor in quantised.graph.initializer]
    assert len(set(names)) == len(names)
    again = quantise(model, layers, histograms, recipe)
    assert quantised.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_weights_are_on_the_grid_of_their_integers(graphs, graph):
    """At 8 bits as integers, at 16 as the values that the integers stand for, to the last bit."""
    model, layers, histograms = graphs[graph]
    before = constants(model)
    eight, sixteen = (constants(quantise(model, layers, histograms, recipe)) for recipe in (EIGHT, SIXTEEN))
    weights = [layer for layer in layers if layer.weight]
    assert len(weights) > 10
    for layer in weights:
        name = layer.weight
        assert not {name, f"{name}.dequantised"} & eight.keys()
        assert not {name, f"{name}.integers"} & sixteen.keys()
        axis = 0 if model.graph.node[layer.node].op_type == "Conv" else before[name].ndim - 1
        integers, scale = quantise_weight(before[name], axis, 8)
        assert eight[f"{name}.integers"].dtype == np.int8
        assert np.array_equal(eight[f"{name}.integers"], integers)
        integers, scale = quantise_weight(before[name], axis, 16)
        values = np.moveaxis(np.moveaxis(integers, axis, -1).astype(np.float32) * scale, -1, axis)
        assert sixteen[f"{name}.dequantised"].dtype == np.float32
        assert np.array_equal(sixteen[f"{name}.dequantised"], values)


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_sixteen_bits_are_nearly_float_and_eight_are_worse(graphs, graph):
    eight, sixteen = snr(graphs, graph, EIGHT), snr(graphs, graph, SIXTEEN)
    assert sixteen > 60
    assert 8 < eight < sixteen - 20


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_some_wide_layers_are_between(graphs, graph):
    wide = dataclasses.replace(EIGHT, sixteen_bit=("*.mlp.*", "*.out", "*.query", "*.vocabulary.*"))
    assert snr(graphs, graph, EIGHT) < snr(graphs, graph, wide) < snr(graphs, graph, SIXTEEN)


def one_product(weights):
    """A @ B of two inputs, A being `weights`-like: many small values in a row that sums to one."""
    info = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("MatMul", ["a", "b"], ["y"], "x.context/MatMul")]
    inputs = [info("a", 1, weights.shape), info("b", 1, (weights.shape[1], 4))]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [info("y", 1, (weights.shape[0], 4))])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


def test_the_correction_gives_back_what_rounding_to_zero_costs():
    random = np.random.default_rng(4)
    weights = random.uniform(0.5, 1.5, (20, 1000)) * 0.0012
    weights[:, 0] = 1 - weights[:, 1:].sum(1)
    weights[0, 0] = 1.0  # the range of a softmax
    feeds = {
        "a": weights.astype(np.float32),
        "b": (3 + random.standard_normal((1000, 4))).astype(np.float32),
    }
    model = one_product(weights)
    layers = find_layers(model)
    histograms = collect_histograms(model, tensors_to_measure(layers), lambda: [feeds])
    reference = open_session(model.SerializeToString()).run(["y"], feeds)[0]
    ratios = {}
    for corrected in (False, True):
        quantised = quantise(model, layers, histograms, graph_recipe(1, matmul_correction=corrected))
        ratios[corrected] = signal_to_noise(reference, open_session(quantised.SerializeToString()).run(["y"], feeds)[0])
    assert ratios[True] > ratios[False] + 10


def test_rows_are_read_one_by_one(export):
    """Two passes over a generator, and never two rows at once."""
    taken = []
    alive = 0

    class Row(dict):
        def __init__(self, *arguments):
            nonlocal alive
            super().__init__(*arguments)
            alive += 1

        def __del__(self):
            nonlocal alive
            alive -= 1

    def rows():
        taken.append(0)
        for feeds in encoder_rows(5):
            taken[-1] += 1
            yield Row(feeds)
            assert alive <= 2  # this one, and the one that the consumer's loop variable still holds

    model = onnx.load(export / "encoder.onnx")
    lazily = collect_histograms(model, ["mel", "features"], rows)
    assert taken == [5, 5]
    at_once = collect_histograms(model, ["mel", "features"], lambda: encoder_rows(5))
    for name, found in lazily.items():
        assert np.array_equal(found.counts, at_once[name].counts)
        assert (found.low, found.high) == (at_once[name].low, at_once[name].high)
    assert [value.name for value in model.graph.output] == ["features"]


@pytest.fixture
def job(export, tmp_path):
    return toy_job(export, tmp_path)


def test_rows_are_in_the_graphs_layout(job):
    rows = Rows(job.calibration, CALIBRATION)
    assert len(rows) == 8
    (first, *rest) = rows.encoder(3)
    assert len(rest) == 2
    mels = np.load(job.calibration / CALIBRATION.mel)
    assert np.array_equal(first["mel"][0, :, 0, :], mels[0, 0].T)
    (feeds,) = rows.decoder(1)
    embeddings = np.load(job.calibration / CALIBRATION.token_embeddings)
    assert feeds["features"].shape == (1, 50, 32)
    assert np.array_equal(feeds["token_embeddings"][0, :, :, 0], embeddings[0, :, 0].T)


GRAPHS = ("encoder.emulated.onnx", "decoder.emulated.onnx")
WEIGHTS = ("encoder.emulated.weights", "decoder.emulated.weights")


def test_compile_writes_two_emulated_graphs_and_measures_them(job):
    lines = []
    compiled = Emulator().compile(dataclasses.replace(job, report=lines.append))
    assert {path.name for path in job.output.iterdir()} == {*GRAPHS, *WEIGHTS}
    assert ((compiled.encoder, compiled.decoder), compiled.extra_files) == (GRAPHS, WEIGHTS)
    assert compiled.snr_db["logits"] > 30
    assert compiled.snr_db["features"] > 8
    noise = compiled.measurements["layer_noise"]
    assert noise["clips"] == 3
    assert {(each["graph"], each["bits"]) for each in noise["layers"]} == {("encoder", 8), ("decoder", 16)}
    assert lines[0].startswith("emulator: encoder.onnx: ")
    assert "0 of them in 16 bits" in lines[0]
    first = {path.name: path.read_bytes() for path in job.output.iterdir()}
    Emulator().compile(job)
    assert {path.name: path.read_bytes() for path in job.output.iterdir()} == first
    assert Emulator().version.startswith("onnxruntime ")
    assert Emulator().emulated


def test_the_weights_are_beside_the_graph(job, patched_whisper, toy_checkpoint, tmp_path):
    # Of four parts of a vocabulary of 135, three hold 33 tokens: at 8 bits, 33 times 32 bytes, then a gap.
    plan = dataclasses.replace(PLAN, dims=dataclasses.replace(DIMS, n_vocab=135))
    export = tmp_path / "export"
    export.mkdir()
    export_graphs(build_model(patched_whisper, toy_checkpoint(plan.dims, 11), 50), plan, export)
    job = dataclasses.replace(job, plan=plan, export=export, recipe=Recipe("toy", EIGHT, EIGHT))
    Emulator().compile(job)
    for graph, weights in zip(GRAPHS, WEIGHTS, strict=True):
        model = onnx.load(job.output / graph, load_external_data=False)
        end = 0
        for tensor in model.graph.initializer:
            if not uses_external_data(tensor):
                assert len(tensor.raw_data) < 1024
                continue
            place = ExternalDataInfo(tensor)
            assert place.location == weights
            assert place.offset % 64 == 0  # ONNX Runtime computes with the mapped file: no vector across two lines
            assert end <= place.offset < end + 64
            assert place.length >= 1024
            end = place.offset + place.length
        assert (job.output / weights).stat().st_size == end > 10_000
        assert (job.output / graph).stat().st_size < (job.export / f"{graph.split('.')[0]}.onnx").stat().st_size


def test_whoever_reads_the_graph_can_read_its_weights(job):
    Emulator().compile(job)
    other = job.output / "other"
    other.write_bytes(b"")
    assert {path.stat().st_mode for path in job.output.iterdir()} == {other.stat().st_mode}


def test_graphs_run_from_wherever_they_are_copied_with_their_weights(job, tmp_path, monkeypatch):
    Emulator().compile(job)
    feeds = encoder_rows(1)[0]
    expected = open_session(job.output / GRAPHS[0]).run(["features"], feeds)[0]
    moved = tmp_path / "elsewhere"
    shutil.copytree(job.output, moved)
    shutil.rmtree(job.output)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(open_session(moved / GRAPHS[0]).run(["features"], feeds)[0], expected)
    with OnnxRuntimeBackend(moved / GRAPHS[0], moved / GRAPHS[1]) as backend:
        features = backend.encode(np.ascontiguousarray(feeds["mel"][:, :, 0].transpose(0, 2, 1)))
        assert backend.decode(features, np.zeros((12, 1, 32), np.float32), [0]).shape == (1, 103)


@pytest.mark.parametrize("size", [None, 0, 5000])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_graph_without_all_its_weights_is_refused_in_one_line(job, name, size):
    Emulator().compile(job)
    path = job.output / name
    if size is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BackendError) as caught:
        OnnxRuntimeBackend(job.output / GRAPHS[0], job.output / GRAPHS[1])
    assert str(caught.value).startswith(f"{path.with_suffix('.onnx')}: onnxruntime cannot load it: ")
    assert "\n" not in str(caught.value)


def test_a_failure_after_the_encoder_leaves_nothing(job, tmp_path):
    recipe = Recipe("toy", EIGHT, graph_recipe(wide=("nothing",)))
    written = []

    def make(folder):
        try:
            Emulator().compile(dataclasses.replace(job, recipe=recipe, output=folder))
        finally:
            written.extend(path.name for path in folder.iterdir())

    folder = tmp_path / "stages" / "compiled"
    with pytest.raises(RecipeError):
        run_stage("compile", folder, {}, make, [].append)
    assert sorted(written) == [GRAPHS[0], WEIGHTS[0]]
    assert list(folder.parent.iterdir()) == []


def test_a_recipe_that_names_no_layer_is_refused(job):
    recipe = Recipe("toy", EIGHT, graph_recipe(wide=("decoder.blocks.7.*",)))
    with pytest.raises(RecipeError) as caught:
        Emulator().compile(dataclasses.replace(job, recipe=recipe))
    assert (
        str(caught.value)
        == "decoder.onnx: 'decoder.blocks.7.*': names no layer of the graph: correct sixteen_bit in the recipe"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("name", ["encoder.blocks.0.mlp.0.weight", "encoder.conv1.bias"])
def test_weights_that_overflow_are_refused(job, tmp_path, name, value):
    spoiled = tmp_path / "export"
    spoiled.mkdir()
    model = onnx.load(job.export / "encoder.onnx")
    for initializer in model.graph.initializer:
        if initializer.name == name:
            array = numpy_helper.to_array(initializer).copy()
            array[...] = value
            initializer.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, spoiled / "encoder.onnx")
    (spoiled / "decoder.onnx").write_bytes((job.export / "decoder.onnx").read_bytes())
    with pytest.raises(CompileError) as caught:
        Emulator().compile(dataclasses.replace(job, export=spoiled))
    assert "\n" not in str(caught.value)
    assert list(job.output.iterdir()) == []


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 20.0), st.floats(50.1, 100.0))
def test_any_percentile_gives_a_graph_that_runs(graphs, gain, percentile):
    model, layers, histograms = graphs["encoder"]
    quantised = quantise(model, layers, histograms, graph_recipe(8, percentile))
    feeds = {"mel": gain * encoder_rows(1)[0]["mel"]}  # beyond the range: clipped, never wrapped
    features = open_session(quantised.SerializeToString()).run(["features"], feeds)[0]
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 100


# The real thing


def test_tiny_en_features_reach_15_db(tiny_en_bundle):
    ratios = tiny_en_bundle.compiled.results["snr_db"]
    assert ratios["features"] >= 15.0
    assert ratios["logits"] >= 15.0


def test_the_bundle_holds_the_weights(tiny_en_bundle):
    assert tiny_en_bundle.compiled.results["extra_files"] == list(WEIGHTS)
    files = Bundle.open(tiny_en_bundle.folder).manifest.files
    for name in (*GRAPHS, *WEIGHTS):
        assert files[name].sha256 == tiny_en_bundle.compiled.files[name]["sha256"]
    assert all(files[weights].size > 50 * files[graph].size for graph, weights in zip(GRAPHS, WEIGHTS, strict=True))


def test_the_log_says_what_it_is(tiny_en_bundle):
    log = (tiny_en_bundle.compiled.folder / "compile.log").read_text()
    assert "emulator: SNR of the features against float on the holdout" in log
    assert tiny_en_bundle.compiled.results["emulated"] is True
