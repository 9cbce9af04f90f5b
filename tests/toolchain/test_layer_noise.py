"""Noise by layer on a toy Whisper: every layer, the right bits, and a damaged layer named by itself."""

import dataclasses
import shutil

import numpy as np
import pytest
from onnx import numpy_helper
from whisper_toolchain.calibration import HOLDOUT
from whisper_toolchain.compilers.layer_noise import layer_noise
from whisper_toolchain.compilers.rows import Rows
from whisper_toolchain.recipe import GRAPHS

from tests.toy_job import EIGHT, prepared_toy


@pytest.fixture(scope="module")
def toy(patched_whisper, toy_checkpoint, tmp_path_factory):
    return prepared_toy(patched_whisper, toy_checkpoint, tmp_path_factory.mktemp)


def by_layer(noise):
    return {each.layer: each for each in noise}


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_layer_is_there_once_the_noisiest_first(toy, graph):
    one = toy.prepared[graph]
    noise = layer_noise(one, one.quantise(EIGHT), EIGHT, toy.holdout)
    assert sorted(each.layer for each in noise) == sorted(layer.name for layer in one.layers)
    own = [each.own_snr_db for each in noise]
    assert own == sorted(own)
    assert {each.bits for each in noise} == {8}
    assert min(own) > 10
    # A layer that reads the graph's input has no noise but its own.
    first = by_layer(noise)[one.layers[0].name]
    assert first.own_snr_db == pytest.approx(first.snr_db)
    assert sum(each.snr_db < each.own_snr_db - 0.1 for each in noise) > len(noise) / 2


@pytest.mark.parametrize("graph", GRAPHS)
def test_sixteen_bits_for_one_layer_change_its_own_noise_and_no_other(toy, graph):
    one = toy.prepared[graph]
    name = one.layers[-2].name
    wide = dataclasses.replace(EIGHT, sixteen_bit=(name,))
    before = by_layer(layer_noise(one, one.quantise(EIGHT), EIGHT, toy.holdout))
    after = by_layer(layer_noise(one, one.quantise(wide), wide, toy.holdout))
    assert after[name].bits == 16
    # What lies beyond the calibration rows is clipped, with 16 bits too.
    assert after[name].own_snr_db > before[name].own_snr_db + 3
    for layer in before.keys() - {name}:
        assert after[layer].own_snr_db == pytest.approx(before[layer].own_snr_db)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_layer_at_two_bits_comes_first(toy, graph):
    one = toy.prepared[graph]
    quantised = one.quantise(EIGHT)
    name = next(layer.name for layer in one.layers if layer.name.endswith("blocks.1.mlp.0"))
    coarse(quantised, name)
    worst = layer_noise(one, quantised, EIGHT, toy.holdout)[0]
    assert worst.layer == name
    assert worst.as_dict()["recipe_line"] == f'[{graph}] sixteen_bit = [..., "{name}"]'


def test_slots_that_are_not_filled_do_not_count(toy, tmp_path):
    one = toy.prepared["decoder"]
    quantised = one.quantise(EIGHT)
    for name in (HOLDOUT.mel, HOLDOUT.features, HOLDOUT.lengths, HOLDOUT.token_embeddings):
        shutil.copy(toy.job.calibration / name, tmp_path)
    before = by_layer(layer_noise(one, quantised, EIGHT, Rows(tmp_path, HOLDOUT)))
    embeddings = np.load(tmp_path / HOLDOUT.token_embeddings)
    for row, length in enumerate(np.load(tmp_path / HOLDOUT.lengths)):
        embeddings[row, length:] = 1e3
    np.save(tmp_path / HOLDOUT.token_embeddings, embeddings)
    after = by_layer(layer_noise(one, quantised, EIGHT, Rows(tmp_path, HOLDOUT)))
    for layer, noise in before.items():
        # The mask hides the scores of slots to come, but they are computed, and noisy.
        if not layer.endswith(".attn.scores"):
            assert after[layer].snr_db == pytest.approx(noise.snr_db, abs=0.1), layer


def coarse(model, layer):
    """Leave 2 of the 8 bits of a layer's weights: with 4, a toy's attention is as noisy on some processors."""
    [tensor] = [each for each in model.graph.initializer if each.name == f"{layer}.weight.integers"]
    codes = np.round(numpy_helper.to_array(tensor) / 64) * 64
    tensor.CopyFrom(numpy_helper.from_array(codes.clip(-127, 127).astype(np.int8), tensor.name))
