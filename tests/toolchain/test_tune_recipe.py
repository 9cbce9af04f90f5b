"""Tuning a recipe: the search on a toy Whisper, the search by words on made-up rates, patterns that name layers."""

import dataclasses
import json
import math
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_toolchain.errors import RecipeError
from whisper_toolchain.recipe import GRAPHS, load_recipe, matches
from whisper_toolchain.stages.bundle import bundle
from whisper_toolchain.stages.compile import compile_graphs
from whisper_toolchain.stages.evaluate import Wanted, evaluate_rungs
from whisper_toolchain.stages.tune_recipe import Target, search_by_words, tune_recipe
from whisper_toolchain.tuning.graph_tuner import GraphTuner, as_patterns
from whisper_toolchain.tuning.word_errors import Speech

from tests.toy_job import EIGHT, prepared_toy

CLIPS = ("1272-135031-0013", "librivox-0890")  # where 8 bits throughout make more errors than float


@pytest.fixture(scope="module")
def toy(patched_whisper, toy_checkpoint, tmp_path_factory):
    return prepared_toy(patched_whisper, toy_checkpoint, tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def tuners(toy):
    # Ranges hold all that is measured, so that nothing is clipped and 16 bits are what they can be.
    wide = {}
    for graph, each in toy.prepared.items():
        histograms = {
            name: dataclasses.replace(values, low=2 * values.low, high=2 * values.high, counts=0 * values.counts)
            for name, values in each.histograms.items()
        }
        wide[graph] = dataclasses.replace(each, histograms=histograms)
    return {graph: GraphTuner(wide[graph], EIGHT, toy.holdout, "hailo8") for graph in GRAPHS}


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_target_is_met_and_no_layer_of_the_last_can_be_left_out(tuners, graph):
    tuner = tuners[graph]
    none, everything = tuner.decibels(()), tuner.decibels(tuner.candidates)
    assert everything > none + 20
    assert tuner.smallest(none) == frozenset()
    for target in (none + 1, none + 6, (none + everything) / 2):
        wide = tuner.smallest(target)
        assert 0 < len(wide) < len(tuner.candidates)
        assert tuner.decibels(wide) >= target
        assert wide == frozenset(tuner.order()[: len(wide)])
        fewer = tuner.without_needless(wide, target)
        assert fewer <= wide
        assert tuner.decibels(fewer) >= target
        # What is left for good is measured with its recipe, which names the layers by patterns.
        assert tuner.wide_in(tuner.recipe(fewer)) == fewer


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_costliest_layer_first(tuners, graph):
    tuner = tuners[graph]
    order = tuner.order()
    assert sorted(order) == sorted(tuner.candidates)
    half = len(order) // 2
    assert tuner.decibels(order[:half]) > tuner.decibels(order[-half:]) + 3


def test_what_cannot_be_reached_is_said_with_what_can(tuners):
    with pytest.raises(
        RecipeError, match=r"^encoder: 500 dB cannot be reached: with 16 bits .* it is \d+\.\d dB, with 8"
    ):
        tuners["encoder"].smallest(500)


def test_hailo10h_keeps_its_attention_at_8_bits_and_patterns_for_the_vendor_stay(toy):
    recipe = dataclasses.replace(EIGHT, sixteen_bit=("encoder.blocks.*.residual", "encoder.conv1"))
    tuner = GraphTuner(toy.prepared["encoder"], recipe, toy.holdout, "hailo10h")
    assert not [layer for layer in tuner.candidates if layer.endswith((".scores", ".context"))]
    assert tuner.wide_in(recipe) == {"encoder.conv1"}
    assert tuner.recipe(["encoder.conv2"]).sixteen_bit == ("encoder.blocks.*.residual", "encoder.conv2")


LAYERS = [
    *("encoder.conv1", "encoder.conv2"),
    *(f"encoder.blocks.{block}.{part}" for block in range(3) for part in ("attn.query", "attn.out", "mlp.0", "mlp.2")),
    *(f"decoder.blocks.{block}.{part}" for block in range(3) for part in ("attn.out", "cross_attn.out", "mlp.0")),
    *(f"decoder.vocabulary.{part}" for part in range(4)),
]


@given(st.sets(st.sampled_from(LAYERS)))
def test_patterns_name_these_layers_and_no_other(wide):
    patterns = as_patterns(wide, LAYERS)
    assert {layer for layer in LAYERS if matches(layer, patterns)} == wide
    assert len(set(patterns)) == len(patterns) <= len(wide)


def test_a_pattern_for_all_blocks():
    wide = [*(f"encoder.blocks.{block}.mlp.2" for block in range(3)), "encoder.conv2", "encoder.blocks.1.attn.out"]
    patterns = as_patterns(wide, LAYERS)
    assert patterns == ("encoder.conv2", "encoder.blocks.*.mlp.2", "encoder.blocks.1.attn.out")


# By words


class MadeUpTuner:
    """Every layer with 16 bits gives a dB more than 8."""

    candidates = tuple(map(str, range(20)))

    def order(self):
        return list(self.candidates)

    def decibels(self, wide):
        return 8.5 + len(wide)

    def smallest(self, target):
        return frozenset(self.candidates[: max(0, math.ceil(target - 8.5))])


class MadeUpWords:
    """So many layers a graph needs alone, so many both need together."""

    def __init__(self, encoder, decoder, both):
        self.needed = {"encoder": encoder, "decoder": decoder}
        self.both = both
        self.asked = 0

    def points(self, wide):
        self.asked += 1
        enough = all(len(layers) >= self.needed[graph] for graph, layers in wide.items())
        if len(wide) == 2:
            enough = enough and sum(map(len, wide.values())) >= self.both
        return 0.5 if enough else 3.0


@given(st.integers(0, 19), st.integers(0, 19), st.integers(0, 38))
def test_words_are_met_with_as_few_layers_as_whole_decibels_allow(encoder, decoder, both):
    words = MadeUpWords(encoder, decoder, both)
    ratios, wide = search_by_words(words, dict.fromkeys(GRAPHS, MadeUpTuner()), 1.0, [].append)
    assert words.points(wide) <= 1.0
    assert wide == {graph: MadeUpTuner().smallest(ratio) for graph, ratio in ratios.items()}
    if both <= encoder + decoder:
        assert (len(wide["encoder"]), len(wide["decoder"])) == (encoder, decoder)
    assert words.asked < 50


def test_words_that_no_set_meets():
    words = MadeUpWords(0, 0, 99)
    with pytest.raises(RecipeError, match=r"^1 points cannot be reached: .* it is \+3\.00 points$"):
        search_by_words(words, dict.fromkeys(GRAPHS, MadeUpTuner()), 1.0, [].append)


@pytest.mark.parametrize("values", [(None, None), (20.0, 1.0), (math.nan, None), (None, math.inf)])
def test_a_target_is_one_finite_number(values):
    with pytest.raises(RecipeError, match=r"^give one target: "):
        Target(*values)


@pytest.mark.parametrize("values", [(-5.0, None), (None, -1.0)])
def test_a_target_is_not_negative(values):
    with pytest.raises(RecipeError, match=r"^a target of -\d: it must be 0 or more$"):
        Target(*values)


# Real weights and speech


@pytest.fixture(scope="module")
def own_build(new_workspace, workspace, tiny_en_bundle, tiny_en_plan):
    """A workspace with tiny.en's weights, graphs and calibration set, where another recipe may be compiled."""
    own = new_workspace()
    for folder in (workspace.checkpoint(tiny_en_plan.variant), workspace.export(tiny_en_plan).parent):
        shutil.copytree(folder, own.root / folder.relative_to(workspace.root), dirs_exist_ok=True)
    return own


def test_what_was_found_by_words_is_what_its_bundle_measures(
    own_build, tiny_en_bundle, tiny_en_plan, recording, tmp_path
):
    """8 bits are enough here: what is searched for by words is tested above, and takes minutes on real graphs."""
    entries = [{"audio": str(found.path), "text": found.text} for found in map(recording, CLIPS)]
    entries.append({"audio": "gone.wav", "text": "nothing"})
    listed = tmp_path / "speech.jsonl"
    listed.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    lines = []
    path = tune_recipe(
        own_build, tiny_en_plan, Target(points=1000.0), Speech(listed), None, tmp_path / "own.toml", report=lines.append
    )
    recipe = load_recipe("tiny.en", "hailo8", path)
    assert recipe.encoder.sixteen_bit == ("encoder.blocks.*.residual",)
    assert recipe.decoder.sixteen_bit == ("decoder.blocks.*.residual", "decoder.blocks.*.attn.mask")
    assert not recipe.encoder.emulator.sixteen_bit + recipe.decoder.emulator.sixteen_bit
    assert len([line for line in lines if "gone.wav" in line]) == 1
    comment = comment_of(path)
    assert comment[1].startswith("EMULATED: ")
    assert comment[1].endswith("2 recordings of jsonl-speech (1 more could not be read).")
    here, started, none = comment[3:]
    assert none.removeprefix("all in 8 bits") == here.removeprefix("here")
    figures = r"encoder {} of 34 layers in 16 bits, \d+\.\d dB; decoder {} of 60 layers .*; WER \d+\.\d\d % \(float "
    assert re.match("here: " + figures.format(0, 0), here)
    assert re.match("recipe 'tiny.en': " + figures.format(12, 23), started)
    # The decibels of the recipe that the bundle was compiled with are what was measured when it was.
    ratios = tiny_en_bundle.compiled.results["snr_db"]
    assert re.findall(r"(\d+\.\d) dB", started) == [f"{ratios[name]:.1f}" for name in ("features", "logits")]
    assert lines[-1] == f"tune-recipe: wrote {path}; use it with RECIPE={path}"

    compile_graphs(own_build, tiny_en_plan, "emulator", None, path, report=[].append)
    bundle(own_build, tiny_en_plan, report=[].append)
    result = evaluate_rungs(own_build, tiny_en_plan, Wanted(listed, rungs="float,emulated"), report=[].append)
    found = {rung["name"]: rung["score"]["wer"] for rung in result["rungs"]}
    expected = re.search(r"WER ([\d.]+) % \(float ([\d.]+) %\)$", here).groups()
    assert (f"{found['emulated']:.2f}", f"{found['float']:.2f}") == expected


def test_real_layers_found_by_noise_make_less_of_it_in_a_bundle(own_build, tiny_en_plan, monkeypatch):
    """The costliest of 94 layers are tried, since all take minutes."""
    monkeypatch.setattr(
        "whisper_toolchain.tuning.graph_tuner.can_be_wide", lambda name, arch: name.endswith(".context")
    )
    path = tune_recipe(own_build, tiny_en_plan, Target(snr_db=17.0), Speech(), None, None, report=[].append)
    assert path == own_build.root / "build" / tiny_en_plan.bundle_name / "tuned-recipe.toml"
    here, _, none = ([float(found) for found in re.findall(r"([\d.]+) dB", line)] for line in comment_of(path)[3:])
    assert min(none) < 17.0 <= min(here)
    wide = [int(found) for found in re.findall(r"(\d+) of (?:4|8) layers", comment_of(path)[3])]
    assert 0 < sum(wide) < 12
    compiled = compile_graphs(own_build, tiny_en_plan, "emulator", None, path, report=[].append)
    assert here == [round(compiled.results["snr_db"][name], 1) for name in ("features", "logits")]


def comment_of(path):
    return [line.removeprefix("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
