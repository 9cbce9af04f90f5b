"""The fit that moves features to another place of a window: of an encoder where it is exact, of random weights."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.errors import AudioError
from whisper_runtime.stitching import RELOCATION_BIAS, RELOCATION_WEIGHT, for_host_decoder
from whisper_toolchain import relocation
from whisper_toolchain.datasets import open_dataset
from whisper_toolchain.errors import ExportError
from whisper_toolchain.model import build_model
from whisper_toolchain.relocation import some_speech, write_relocations
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 1500, 16, 2, 2, 51864, 448, 16, 2, 2)
PLAN = ShapePlan("base.en", "hailo8", 5, 24, DIMS)


def noise(seconds, seed=0):
    """Noise that comes and goes, as speech does."""
    random = np.random.default_rng(seed)
    loudness = np.repeat(random.uniform(0, 0.3, round(seconds * 10)), 1600)
    return (loudness * random.normal(0, 1, len(loudness))).astype(np.float32)


class LinearEncoder(torch.nn.Module):
    """Features are a linear function of the sound, plus one of the place that turns what it hears as well."""

    def __init__(self, places):
        super().__init__()
        self.register_buffer("positional_embedding", places)
        self.heard = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (80, 16)).astype(np.float32))

    def forward(self, mel):
        features = mel[0, :, 0, ::2].T @ self.heard
        turn = self.positional_embedding.mean()
        return (features + turn * features.flip(1) + 10 * self.positional_embedding)[None]


@pytest.fixture
def checkpoint(toy_checkpoint):
    return toy_checkpoint(DIMS, 0)


def test_what_is_linear_is_fitted_exactly(checkpoint, tmp_path):
    places = checkpoint.state["encoder.positional_embedding"]
    encoder = LinearEncoder(torch.from_numpy(places[:250]))
    check = write_relocations(SimpleNamespace(encoder=encoder), checkpoint, PLAN, tmp_path, [noise(40), noise(30, 1)])
    assert check.places == (3, 6)
    # What is left is the rounding to float16, and the ridge.
    assert min(check.snr_db) > 40
    assert max(check.unmoved_snr_db) < 10
    assert encoder.positional_embedding.shape == (250, 16)
    np.testing.assert_array_equal(encoder.positional_embedding.numpy(), places[:250])
    weight, bias = np.load(tmp_path / RELOCATION_WEIGHT), np.load(tmp_path / RELOCATION_BIAS)
    assert (weight.shape, weight.dtype) == ((2, 16, 16), np.float16)
    assert (bias.shape, bias.dtype) == ((2, 250, 16), np.float16)


def test_the_runtime_moves_each_block_to_the_place_it_was_fitted_for(checkpoint, tmp_path):
    """Through the files and the runtime's own stitching, a window is as if it were encoded in one piece."""
    places = torch.from_numpy(checkpoint.state["encoder.positional_embedding"])
    encoder = LinearEncoder(places[:250])
    write_relocations(SimpleNamespace(encoder=encoder), checkpoint, PLAN, tmp_path, [noise(70)])

    class Backend:
        def encode(self, mel):
            return encoder(torch.from_numpy(mel.transpose(0, 2, 1)[:, :, None].copy())).numpy()

        def read_features(self, features):
            return features

    stitching, seconds = for_host_decoder(Backend(), tmp_path, PLAN.seconds)
    assert seconds == PLAN.host_seconds == 11
    mel = np.random.default_rng(2).normal(0, 1, (1, 1100, 80)).astype(np.float32)
    found = stitching.encode(mel)[0]
    for first, last, block in ((0, 250, 0), (150, 400, 150), (300, 550, 300)):
        encoder.positional_embedding = places[block : block + 250]
        there = encoder(torch.from_numpy(mel[:, 2 * block : 2 * block + 500].transpose(0, 2, 1)[:, :, None].copy()))
        wanted = there[0, first - block : last - block].numpy()
        assert np.abs(found[first:last] - wanted).max() < 0.02 * np.abs(wanted).max()


def test_random_weights_gain_as_well(checkpoint, patched_whisper, tmp_path):
    model = build_model(patched_whisper, checkpoint, PLAN.feature_frames)
    check = write_relocations(model, checkpoint, PLAN, tmp_path, [noise(60)])
    assert min(check.snr_db) > max(check.unmoved_snr_db) + 3


@pytest.mark.parametrize(("lengths", "taken"), [([20], 5), ([3, 3], 5), ([2] * 10, 5), ([0.5, 2], 2.5)])
def test_speech_is_taken_from_many_recordings_and_never_more_than_is_needed(tmp_path, monkeypatch, lengths, taken):
    monkeypatch.setattr(relocation, "_SPEECH_SECONDS", 5)
    monkeypatch.setattr(relocation, "_RECORDING_SECONDS", 1)
    for number, length in enumerate(lengths):
        soundfile.write(tmp_path / f"{number}.wav", noise(length, number), SAMPLE_RATE)
    speech = some_speech(open_dataset(tmp_path).utterances())
    assert sum(map(len, speech)) == taken * SAMPLE_RATE
    assert max(map(len, speech)) <= max(1, 5 / len(lengths)) * SAMPLE_RATE


def test_a_recording_that_cannot_be_read_is_an_error(tmp_path):
    soundfile.write(tmp_path / "good.wav", noise(1), SAMPLE_RATE)
    utterances = open_dataset(tmp_path).utterances()
    (tmp_path / "good.wav").write_bytes(b"nothing")
    with pytest.raises(AudioError, match=r"good\.wav"):
        some_speech(utterances)


def test_a_relocation_that_moves_nothing_nearer_is_an_error(checkpoint, tmp_path):
    """Of an encoder that does not hear its place there is nothing to move."""
    encoder = LinearEncoder(torch.from_numpy(checkpoint.state["encoder.positional_embedding"][:250]))
    encoder.forward = lambda mel: (mel[0, :, 0, ::2].T @ encoder.heard)[None]
    with pytest.raises(ExportError, match="give more speech"):
        write_relocations(SimpleNamespace(encoder=encoder), checkpoint, PLAN, tmp_path, [noise(40)])
    assert list(tmp_path.iterdir()) == []


def test_a_single_short_recording_will_do(checkpoint, tmp_path):
    encoder = LinearEncoder(torch.from_numpy(checkpoint.state["encoder.positional_embedding"][:250]))
    check = write_relocations(SimpleNamespace(encoder=encoder), checkpoint, PLAN, tmp_path, [noise(1)])
    assert np.isfinite(check.snr_db).all()
    assert np.isfinite(np.load(tmp_path / RELOCATION_WEIGHT)).all()


@pytest.mark.parametrize(
    ("seconds", "blocks", "longest"),
    [(1, 1, 1), (2, 1, 2), (3, 8, 10), (4, 4, 10), (5, 3, 11), (9, 2, 16), (10, 1, 10), (30, 1, 30)],
)
def test_short_encoders_have_long_windows(seconds, blocks, longest):
    plan = dataclasses.replace(PLAN, seconds=seconds)
    assert (plan.host_blocks, plan.host_seconds) == (blocks, longest)
    assert plan.host_frames == (50 * seconds if blocks == 1 else "frames")
