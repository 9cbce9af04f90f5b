"""Noise by layer with Hailo's compiler, on a toy Whisper through the strict fake: figures, steps, and the page."""

import dataclasses
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from whisper_runtime.canonical_json import canonical_digest
from whisper_runtime.errors import BundleError
from whisper_toolchain import cli
from whisper_toolchain.calibration import CALIBRATION, HOLDOUT
from whisper_toolchain.compilers import dfc, dfc_worker
from whisper_toolchain.compilers.dfc import DataflowCompiler
from whisper_toolchain.compilers.dfc_checks import Requirements
from whisper_toolchain.compilers.dfc_layer_noise import dfc_layer_noise
from whisper_toolchain.compilers.layer_noise import LayerNoise
from whisper_toolchain.compilers.prepared_graph import FILES
from whisper_toolchain.compilers.probes import Place, Probe, find_probes, tell_apart
from whisper_toolchain.compilers.quantised_graph import find_layers
from whisper_toolchain.errors import CompileError
from whisper_toolchain.evaluation.noise_file import noise_file, noise_to_show
from whisper_toolchain.evaluation.report import render_report
from whisper_toolchain.graph_names import layer_of
from whisper_toolchain.recipe import GRAPHS, Recipe
from whisper_toolchain.recipe_file import recipe_toml
from whisper_toolchain.signal_to_noise import signal_to_noise
from whisper_toolchain.stage import Stage, run_stage
from whisper_toolchain.stages import layer_noise as stage
from whisper_toolchain.stages.calibrate import array_digests
from whisper_toolchain.workspace import Workspace

from tests.toolchain.evaluation_results import toy_result
from tests.toy_job import EIGHT, PLAN, SIXTEEN, graph_recipe, toy_export, toy_job

ANY_MACHINE = Requirements(0, 0, 0)


@pytest.fixture(scope="module")
def exported(patched_whisper, toy_checkpoint, tmp_path_factory):
    return toy_export(patched_whisper, toy_checkpoint, tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def graphs(exported):
    return {graph: onnx.load(exported / FILES[graph]) for graph in GRAPHS}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Configures the fake compiler."""
    path = tmp_path / "fake.json"
    monkeypatch.setenv("FAKE_HAILO", str(path))

    def configure(**settings):
        path.write_text(json.dumps(settings))

    configure()
    return configure


def new_job(exported, folder, **changes):
    """A toy's job, and the lines that it reports. What is measured on is within the range of what calibrated."""
    folder.mkdir()
    lines = []
    job = dataclasses.replace(toy_job(exported, folder), report=lines.append, **changes)
    for calibrated, held in zip(CALIBRATION.arrays, HOLDOUT.arrays, strict=True):
        np.save(job.calibration / held, np.load(job.calibration / calibrated)[:5])
    return job, lines


def measured(python, job):
    return dfc_layer_noise(DataflowCompiler(python, ANY_MACHINE), job)


@pytest.fixture(scope="module")
def done(exported, dfc_python, tmp_path_factory):
    """One undisturbed measurement, the encoder at 8 bits and the decoder's outputs at 16."""
    decoder = dataclasses.replace(EIGHT, sixteen_bit_outputs=True)
    recipe = Recipe("toy", EIGHT, decoder)
    job, lines = new_job(exported, tmp_path_factory.mktemp("done") / "job", recipe=recipe)
    return SimpleNamespace(job=job, lines=lines, noise=measured(dfc_python, job))


# Where the graphs are looked into


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_layer_that_a_recipe_can_name_is_looked_into_once(graphs, graph):
    probes = find_probes(graphs[graph], graph)
    names = [probe.layer for probe in probes]
    assert len(set(names)) == len(names) == len({probe.tensor for probe in probes})
    assert {layer.name for layer in find_layers(graphs[graph])} <= set(names)
    assert {f"{graph}.blocks.1.attn.residual", f"{graph}.blocks.0.mlp.residual"} <= set(names)
    without = {probe.layer for probe in probes if not probe.slots}
    if graph == "encoder":
        assert without == set(names)
    else:
        assert without == {f"decoder.blocks.{i}.cross_attn.{part}" for i in range(2) for part in ("key", "value")}


def test_of_a_layer_with_an_activation_what_comes_out_behind_it(graphs):
    nodes = {probe.layer: probe.node for probe in find_probes(graphs["encoder"], "encoder")}
    assert layer_of(nodes["encoder.conv1"]) == "encoder.conv1.gelu"
    assert layer_of(nodes["encoder.blocks.0.mlp.0"]) == "encoder.blocks.0.mlp.1"
    assert layer_of(nodes["encoder.blocks.0.mlp.2"]) == "encoder.blocks.0.mlp.2"


def test_outputs_are_told_apart_in_any_order_and_layout():
    random = np.random.default_rng(3)
    references = {
        "scores": random.standard_normal((1, 2, 6, 7)),
        "wide": random.standard_normal((1, 6, 14)),
        "other": random.standard_normal((1, 6, 14)),
        "gone": random.standard_normal((1, 6, 14)),
    }
    scores, wide, other = references["scores"][0], references["wide"], references["other"]
    outputs = [
        random.standard_normal((1, 1, 6, 14)),  # no layer's
        3 * other.reshape(1, 1, 6, 14),  # scaled, as by a factor that the parser moved
        scores.transpose(1, 0, 2).reshape(1, 1, 6, 14),  # heads side by side in the channels
        wide.transpose(0, 2, 1)[:, None] + 1e-4,
    ]
    probes = [Probe(name, name, name, name != "wide") for name in references]
    expected = {"scores": Place(2, (1, 6, 14)), "other": Place(1, (1, 6, 14)), "wide": Place(3, None)}
    assert tell_apart(probes, references, outputs) == expected
    turned = tell_apart(probes, references, outputs[::-1])
    assert {name: place.output for name, place in turned.items()} == {"scores": 1, "other": 2, "wide": 0}
    (place,) = tell_apart(probes[:1], references, [references["scores"].transpose(0, 1, 3, 2)]).values()
    assert place.slots == (14, 6, 1)


def test_an_output_is_one_layers_at_most_and_what_is_not_finite_is_none():
    values = np.random.default_rng(3).standard_normal((1, 4, 5))
    probes = [Probe(name, name, name, False) for name in ("a", "b")]
    references = {"a": values + 0.01, "b": values}
    assert len(tell_apart(probes, references, [values])) == 1
    assert tell_apart(probes, references, [np.full((1, 4, 5), np.nan), np.ones((1, 4, 5))]) == {}


# What is measured

INFER = """
import sys
import numpy as np
from hailo_sdk_client import ClientRunner, InferenceContext
har, target, *files = sys.argv[1:]
runner = ClientRunner(har=har)
data = {}
for name, layer in runner.get_hn()["layers"].items():
    if layer["type"] == "input_layer":
        (data[name],) = [a for a in map(np.load, files) if list(a.shape[1:]) == layer["input_shapes"][0][1:]]
found = {}
for kind in ("SDK_NATIVE", "SDK_QUANTIZED"):
    with runner.infer_context(InferenceContext[kind]) as context:
        for layer, values in zip([l for l in runner.get_hn()["layers"].values() if l["type"] == "output_layer"],
                                 runner.infer(context, data)):
            found[kind + ":" + layer["original_names"][0]] = values
np.savez(target, **found)
"""


def expected_ratios(python, job, graph, folder):
    """The ratios by layer, from all rows at once, by the fake's own names of its outputs and its layout (H, W, C)."""
    names = [HOLDOUT.mel] if graph == "encoder" else [HOLDOUT.features, HOLDOUT.token_embeddings]
    files = [str(job.calibration / name) for name in names]
    har, target = str(job.work / f"{graph}.optimised.har"), str(folder / f"{graph}.npz")
    subprocess.run([python, "-c", INFER, har, target, *files], check=True, cwd=folder, capture_output=True)
    found, lengths = np.load(target), np.load(job.calibration / HOLDOUT.lengths)
    ratios = {}
    for key in found.files:
        if not key.startswith("SDK_NATIVE:"):
            continue
        node = key.removeprefix("SDK_NATIVE:")
        layer = re.sub(r"\.gelu$", "", layer_of(node)).replace("mlp.1", "mlp.0")
        native, quantised = found[key], found[f"SDK_QUANTIZED:{node}"]
        if graph == "decoder" and not layer.endswith(("cross_attn.key", "cross_attn.value")):
            in_height = layer.endswith((".scores", ".mask", ".context"))
            rows = [(row, slice(n)) if in_height else (row, 0, slice(n)) for row, n in enumerate(lengths)]
            native, quantised = (np.concatenate([a[r].ravel() for r in rows]) for a in (native, quantised))
        ratios[layer] = signal_to_noise(native, quantised)
    return ratios


@pytest.mark.parametrize("graph", GRAPHS)
def test_figures_are_those_of_an_independent_computation(done, dfc_python, graph, tmp_path):
    found = {each["layer"]: each["snr_db"] for each in done.noise["layers"] if each["graph"] == graph}
    expected = expected_ratios(dfc_python, done.job, graph, tmp_path)
    assert expected.keys() - found.keys() == ({"encoder.ln_post"} if graph == "encoder" else set())
    assert {name: expected[name] for name in found} == pytest.approx(found, abs=1e-3)
    assert len(set(found.values())) == len(found)


def test_the_list_has_the_form_of_the_emulators_and_the_noisiest_first(done):
    noise = done.noise
    assert (noise["compiler"], noise["clips"]) == ("dfc", 5)
    ratios = [each["snr_db"] for each in noise["layers"]]
    assert ratios == sorted(ratios)
    for each in noise["layers"]:
        assert each == LayerNoise(each["graph"], each["layer"], 8, None, each["snr_db"]).as_dict()
    json.dumps(noise, allow_nan=False)


def test_the_script_is_the_recipes_but_for_the_fine_tuning_and_further_outputs(done):
    script = (done.job.work / "decoder.alls").read_text()
    assert "post_quantization_optimization(finetune, policy=disabled)\n" in script
    assert "dataset_size" not in script
    assert "{output_layer*}" not in script
    assert re.findall(r"quantization_param\((\w+),", script) == [f"output_layer{number}" for number in range(1, 5)]
    for log in done.job.work.glob("*.optimise.log"):
        assert "Fine Tune skipped" in log.read_text()


def test_a_layer_at_four_bits_stands_first(exported, dfc_python, tmp_path, monkeypatch):
    bad = "encoder.blocks.1.mlp.2"
    render = dfc.render_model_script

    def spoilt(recipe, graph, vendor, layers, *others):
        script = render(recipe, graph, vendor, layers, *others)
        lines = [f"quantization_param({name}, precision_mode=a8_w4)\n" for name in layers if bad in layers[name]]
        return dataclasses.replace(script, text=script.text + "".join(lines))

    monkeypatch.setattr(dfc, "render_model_script", spoilt)
    job, _ = new_job(exported, tmp_path / "job")
    first, second, *_ = measured(dfc_python, job)["layers"]
    assert first["layer"] == bad
    assert first["snr_db"] < min(25, second["snr_db"] - 1)
    assert first["recipe_line"] == f'[encoder] sixteen_bit = [..., "{bad}"]'


def test_the_one_layer_without_sixteen_bits_stands_first(exported, graphs, dfc_python, tmp_path):
    bad = "decoder.vocabulary.2"
    wide = tuple(probe.layer for probe in find_probes(graphs["decoder"], "decoder") if probe.layer != bad)
    recipe = Recipe("toy", SIXTEEN, graph_recipe(wide=wide))
    job, _ = new_job(exported, tmp_path / "job", recipe=recipe)
    first, second, *_ = measured(dfc_python, job)["layers"]
    assert (first["layer"], first["bits"], second["bits"]) == (bad, 8, 16)
    assert second["snr_db"] > first["snr_db"] + 1


@pytest.mark.parametrize("settings", [{"dfc_reverse_outputs": True}, {"dfc_original_names": False}], ids=str)
def test_neither_the_outputs_order_nor_names_are_needed(exported, dfc_python, tmp_path, fake, done, settings):
    fake(**settings)
    # Without names nobody can tell which outputs are the graph's own.
    names = settings.get("dfc_original_names", True)
    recipe = done.job.recipe if names else Recipe("toy", EIGHT, EIGHT)
    job, lines = new_job(exported, tmp_path / "job", recipe=recipe)
    found, expected = (
        {each["layer"]: each["snr_db"] for each in n["layers"]} for n in (measured(dfc_python, job), done.noise)
    )
    if not names:
        found, expected = ({k: v for k, v in n.items() if "vocabulary" not in k} for n in (found, expected))
    assert found == pytest.approx(expected)
    assert not [line for line in lines if "no figure" in line]


def test_outputs_that_cannot_be_told_from_others_stay_at_their_layers_bits_and_it_is_said(
    exported, dfc_python, tmp_path, fake
):
    fake(dfc_original_names=False, faults={"ClientRunner.optimize": {"raise": "enough"}})
    recipe = Recipe("toy", EIGHT, dataclasses.replace(EIGHT, sixteen_bit_outputs=True))
    job, lines = new_job(exported, tmp_path / "job", recipe=recipe)
    with pytest.raises(CompileError, match="enough"):
        measured(dfc_python, job)
    assert any("does not say which outputs are the graph's own" in line for line in lines)


def test_a_layer_that_is_not_among_the_outputs_is_listed_without_a_figure(exported, dfc_python, tmp_path, monkeypatch):
    lost = "encoder.blocks.0.attn.query"
    from whisper_toolchain.compilers import dfc_layer_noise as module

    def without(probes, references, outputs):
        references = {name: -1 / values if lost in name else values for name, values in references.items()}
        return tell_apart(probes, references, outputs)

    monkeypatch.setattr(module, "tell_apart", without)
    job, lines = new_job(exported, tmp_path / "job")
    noise = measured(dfc_python, job)
    *others, last = noise["layers"]
    assert (last["layer"], last["snr_db"]) == (lost, None)
    assert all(each["snr_db"] is not None for each in others)
    assert f"dfc: encoder: {lost}: no figure, for no output of the parsed network is like its result" in lines
    assert "no figure" in render_report(toy_result(layer_noise=noise), {}).decode()
    assert stage._table(noise)[-1] == f"layer-noise: no figure for {lost}"

    monkeypatch.setattr(module, "tell_apart", lambda *_: {})
    with pytest.raises(CompileError, match="none of the 24 outputs of the parsed network is like a layer's result"):
        measured(dfc_python, job)


def test_rows_are_bounded_and_run_a_few_at_a_time(exported, dfc_python, tmp_path, monkeypatch, done):
    from whisper_toolchain.compilers import dfc_layer_noise as module

    monkeypatch.setattr(module, "MOST_WINDOWS", 2)
    job, lines = new_job(exported, tmp_path / "job")
    assert measured(dfc_python, job)["clips"] == 2
    assert any("on 2 held-out windows, in float and quantised" in line for line in lines)
    assert (done.job.work / "encoder.measure_layers.log").read_text().count(
        "Inference: 100%"
    ) == 4  # 4 rows and 1, twice


def test_squares_of_the_slots_that_count():
    random = np.random.default_rng(1)
    native = random.standard_normal((2, 3, 4, 5)).astype(np.float32)
    other = native + random.standard_normal(native.shape).astype(np.float32)
    signal, noise = dfc_worker.squares(native, other, [3, 4, 5], [1, 4])
    one, two = (np.concatenate([a[0, :, :1].ravel(), a[1].ravel()]).astype(np.float64) for a in (native, other))
    assert (signal, noise) == pytest.approx((np.square(one).sum(), np.square(one - two).sum()))
    with pytest.raises(ValueError, match="shape"):
        dfc_worker.squares(native, other[:1], None, None)


# Steps

STEPS = [f"{graph}: {action}" for graph in GRAPHS for action in ("translate", "look")]
STEPS += [f"{graph}: {action}" for graph in GRAPHS for action in ("optimise", "measure_layers")]


def ran(lines):
    return [step for line in lines for step in STEPS if line.startswith(f"dfc: {step} (log: ")]


def reused(lines):
    return [step for line in lines for step in STEPS if line.startswith(f"dfc: {step}: done before")]


def test_steps_that_are_done_are_not_done_again(done, exported, dfc_python, tmp_path, fake):
    assert ran(done.lines) == STEPS
    job, lines = new_job(exported, tmp_path / "job", recipe=done.job.recipe)
    shutil.copytree(done.job.work, job.work)
    fake(faults={"ClientRunner.__init__": {"raise": "must not be started"}})
    assert measured(dfc_python, job) == done.noise
    assert (ran(lines), reused(lines)) == ([], STEPS)
    assert not (job.work / "partial").exists()


@pytest.mark.parametrize("where", ["encoder: optimise", "decoder: look", "decoder: measure_layers"])
def test_an_interrupted_measurement_goes_on(done, exported, dfc_python, tmp_path, where):
    job, lines = new_job(exported, tmp_path / "job", recipe=done.job.recipe)

    def interrupt(line):
        lines.append(line)
        if line.startswith(f"dfc: {where} (log: "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(dfc_python, dataclasses.replace(job, report=interrupt))
    before = [step for step in ran(lines) if step != where]
    lines.clear()
    assert measured(dfc_python, job) == done.noise
    assert reused(lines) == before
    assert ran(lines) == [step for step in STEPS if step not in before]


def test_a_parser_that_refuses_gives_one_line_and_touches_nothing_of_a_compilation(
    exported, dfc_python, tmp_path, fake
):
    job, _ = new_job(exported, tmp_path / "job")
    DataflowCompiler(dfc_python, ANY_MACHINE).compile(job)
    before = {path: path.read_bytes() for path in job.work.iterdir() if path.is_file()}
    fake(faults={"ClientRunner.translate_onnx_model": {"raise": "end node has\nsuccessors"}})
    with pytest.raises(CompileError) as error:
        measured(dfc_python, dataclasses.replace(job, work=job.work / "layers"))
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(
        "dfc: encoder: no figures by layer: the compiler did not parse the graph with inner layers as further end "
        "nodes, which it may not allow; the compilation itself is not touched; dfc: encoder: translate failed: "
        "AccelerasUnknownError: end node has successors; log: "
    )
    assert {path: path.read_bytes() for path in job.work.iterdir() if path.is_file()} == before


# The stage, and what an evaluation shows


@pytest.fixture
def place(exported, tmp_path, monkeypatch):
    """A workspace with the stages before, a recipe of its own, and any machine good enough."""
    monkeypatch.setattr(dfc, "Requirements", lambda: ANY_MACHINE)
    job, lines = new_job(exported, tmp_path / "job")
    workspace = Workspace(tmp_path)
    for name, folder, source in (
        ("export", workspace.export(PLAN), job.export),
        ("calibrate", workspace.calibration(PLAN), job.calibration),
    ):

        def make(target, source=source):
            shutil.copytree(source, target, dirs_exist_ok=True)
            return {}

        run_stage(name, folder, {}, make, lines.append)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(recipe_toml(Recipe("mine", EIGHT, EIGHT), []))
    return SimpleNamespace(workspace=workspace, recipe=recipe, path=noise_file(workspace, PLAN))


def a_bundle(place, emulated=False, noise=None, **changes):
    """As `Bundle.open` gives it, made from what the list was made from, but for the changes."""
    made_from = json.loads(place.path.read_bytes())["made_from"] if place.path.exists() else {}
    data = {
        "recipe": {"name": "mine", "digest": made_from.get("recipe")},
        "calibration": {"digest": made_from.get("calibration")},
        "compiler": made_from.get("compiler"),
        "build": {"compilation": {} if noise is None else {"layer_noise": noise}},
        **changes,
    }
    return SimpleNamespace(manifest=SimpleNamespace(data=data, emulated=emulated, name="whisper-toy", version="0.1+0"))


def shown(place, bundle):
    lines = []
    exported = Stage.read(place.workspace.export(PLAN), "export")
    return noise_to_show(place.workspace, PLAN, exported, bundle, lines.append), lines


def test_the_stage_prints_the_noisiest_and_the_page_shows_what_fits_the_bundle(place, dfc_python):
    lines = []
    noise = stage.layer_noise(place.workspace, PLAN, "auto", dfc_python, place.recipe, report=lines.append)
    first = noise["layers"][0]
    table = lines[lines.index(next(line for line in lines if line.startswith("layer-noise: signal"))) :]
    assert table[0].endswith("5 windows that did not calibrate, with all noise up to there, before fine-tuning")
    assert table[1] == f"{first['snr_db']:>7.1f} dB   8 bits  {first['recipe_line']}"
    assert len(table) == 17
    assert table[-1] == f"layer-noise: and {len(noise['layers']) - 15} more"
    # It is the same list in the file, with what it was made from.
    data = json.loads(place.path.read_bytes())
    calibrated = Stage.read(place.workspace.calibration(PLAN), "calibrate")
    assert data.pop("made_from") == {
        "export": {name: Stage.read(place.workspace.export(PLAN), "export").digests()[name] for name in FILES.values()},
        "calibration": canonical_digest(array_digests(calibrated)),
        "recipe": canonical_digest(json.loads(json.dumps(Recipe("mine", EIGHT, EIGHT).as_dict()))),
        "compiler": {"name": "dfc", "version": "hailo_sdk_client 3.33.0"},
    }
    assert data == noise
    assert shown(place, a_bundle(place)) == (noise, [])
    page = render_report(toy_result(layer_noise=noise), {}).decode()
    assert "with all noise up to each layer, before fine-tuning, on 5 windows" in page
    assert f"{first['snr_db']:.1f} dB" in page
    assert "with the noise before it" not in page
    assert "sixteen_bit = [..., &#34;" + first["layer"] in page
    # What is stale is not shown, and it is said of what it is.
    for changes, what in (
        ({"recipe": {"name": "mine", "digest": "x"}}, "recipe"),
        ({"calibration": {"digest": "x"}, "compiler": {"name": "dfc", "version": "y"}}, "calibration, compiler"),
    ):
        found, (said,) = shown(place, a_bundle(place, **changes))
        assert found is None
        assert said == (
            f"evaluate: {place.path} is not shown, for it is of another {what} than the bundle: "
            "run `whisper-toolchain layer-noise` again"
        )
    run_stage("export", place.workspace.export(PLAN), {"new": 1}, other_graphs, lines.append)
    found, (said,) = shown(place, a_bundle(place))
    assert found is None
    assert "is of another export than the bundle" in said
    # An emulated bundle has its own.
    own = {"clips": 1, "layers": []}
    assert shown(place, a_bundle(place, emulated=True, noise=own)) == (own, [])
    assert shown(place, a_bundle(place, emulated=True)) == (None, [])


def other_graphs(folder):
    for name in FILES.values():
        (folder / name).write_bytes(b"another graph")
    return {}


@pytest.mark.parametrize("text", ["{", "[]", '{"made_from": {}}', '{"made_from": {}, "clips": 1, "layers": [{}]}'])
def test_a_list_that_cannot_be_read_is_not_shown_and_it_is_said(place, text):
    bundle = a_bundle(place)
    assert shown(place, bundle) == (None, [])
    place.path.parent.mkdir(parents=True)
    place.path.write_text(text)
    found, (said,) = shown(place, bundle)
    assert found is None
    assert f"{place.path} is not shown, for it cannot be read" in said


def test_the_emulators_list_is_in_its_bundle(place, monkeypatch):
    layers = [LayerNoise("encoder", f"layer{i}", 8, 10.0 + i, 9.0).as_dict() for i in range(20)]
    bundle = a_bundle(place, emulated=True, noise={"clips": 3, "layers": layers})
    monkeypatch.setattr(stage.Bundle, "open", lambda folder: bundle)
    lines = []
    stage.layer_noise(place.workspace, PLAN, "emulator", None, None, report=lines.append)
    assert lines[1] == "layer-noise: EMULATED, of whisper-toy 0.1+0, recipe 'mine'"
    assert lines[2].endswith("on 3 windows that did not calibrate, of what the layer adds itself")
    assert lines[3] == f"   10.0 dB   8 bits  {layers[0]['recipe_line']}"
    assert lines[-1] == "layer-noise: and 5 more"
    monkeypatch.setattr(stage.Bundle, "open", lambda folder: a_bundle(place))
    with pytest.raises(CompileError, match="was not made by the emulator, so it has no list"):
        stage.layer_noise(place.workspace, PLAN, "emulator", None, None, report=lines.append)


def test_with_neither_the_command_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DFC_PYTHON", raising=False)
    arguments = ["layer-noise", "--variant", "tiny", "--arch", "hailo8", "--root", str(tmp_path)]
    assert cli.main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("whisper-toolchain: layer-noise: neither Hailo's compiler (set DFC_PYTHON) nor a bundle of")
    with pytest.raises(BundleError):
        stage.Bundle.open(tmp_path)
