"""Long windows in blocks: what is encoded, where it is moved to, and how it is joined."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.errors import BackendError
from whisper_runtime.mel import window_mel
from whisper_runtime.stitching import (
    RELOCATION_BIAS,
    RELOCATION_WEIGHT,
    RELOCATIONS,
    StitchingBackend,
    for_host_decoder,
)

SECONDS, STATE = 5, 80
FRAMES = 50 * SECONDS


class Encoder:
    """Its features are every second frame of the mel, and it knows how often it was asked."""

    def __init__(self, seconds=SECONDS):
        self.seconds, self.mels, self.closed = seconds, [], False

    def encode(self, mel):
        assert mel.shape == (1, 100 * self.seconds, 80)
        assert mel.flags.c_contiguous
        self.mels.append(mel)
        return {"held": mel[:, ::2]}

    def read_features(self, features):
        return features["held"]

    def sensors(self):
        return None

    def close(self):
        self.closed = True


def unmoved(blocks):
    return np.stack([np.eye(STATE)] * (blocks - 1)), np.zeros((blocks - 1, FRAMES, STATE))


def noise(seconds):
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)


def mel_of(samples, seconds):
    return np.ascontiguousarray(window_mel(samples, seconds).T[None])


@given(st.floats(0, 11))
def test_blocks_join_without_a_seam_whatever_the_length(seconds):
    encoder = Encoder()
    stitching = StitchingBackend(encoder, SECONDS, *unmoved(3))
    assert stitching.seconds == 11
    mel = mel_of(noise(seconds), 11)
    features = stitching.read_features(stitching.encode(mel))
    # No more blocks than have sound. Its last frame reaches half a frame of 25 ms further.
    blocks = len(encoder.mels)
    assert (
        blocks == (1 if seconds < 4.98 else 2 if seconds < 7.98 else 3)
        or min(abs(seconds - 5), abs(seconds - 8)) < 0.03
    )
    assert features.shape == (1, 50 * (SECONDS + 3 * (blocks - 1)), STATE)
    np.testing.assert_array_equal(features, mel[:, ::2][:, : features.shape[1]])
    assert (mel[:, 2 * features.shape[1] :] == mel[:, -1:]).all()


def test_each_block_is_moved_to_its_own_place():
    weight, bias = unmoved(3)
    weight[1] *= 2
    bias[0], bias[1] = 10.0, np.arange(FRAMES)[:, None]
    mel = mel_of(noise(11), 11)
    features = StitchingBackend(Encoder(), SECONDS, weight, bias).encode(mel)[0]
    plain = mel[0, ::2]
    np.testing.assert_array_equal(features[:150], plain[:150])
    np.testing.assert_allclose(features[250:300], plain[250:300] + 10, rtol=1e-6)
    np.testing.assert_allclose(features[400:], 2 * plain[400:] + np.arange(100, FRAMES)[:, None], rtol=1e-5)


def test_where_two_blocks_overlap_one_is_faded_into_the_other():
    weight, bias = unmoved(3)
    bias[0], bias[1] = 100.0, 300.0
    mel = mel_of(noise(11), 11)
    moved = StitchingBackend(Encoder(), SECONDS, weight, bias).encode(mel)[0] - mel[0, ::2]
    ramp = np.arange(0.5, 100)[:, None]
    np.testing.assert_allclose(moved[150:250], np.broadcast_to(ramp, (100, STATE)), atol=1e-3)
    np.testing.assert_allclose(moved[300:400], np.broadcast_to(100 + 2 * ramp, (100, STATE)), atol=1e-3)


@pytest.mark.parametrize("seconds", [3, 4, 9])
def test_blocks_of_other_lengths_join_without_a_seam(seconds):
    """Blocks of three seconds reach into the next but one."""
    weight, bias = np.stack([np.eye(STATE)] * 2), np.zeros((2, 50 * seconds, STATE))
    encoder = Encoder(seconds)
    stitching = StitchingBackend(encoder, seconds, weight, bias)
    mel = mel_of(noise(stitching.seconds), stitching.seconds)
    features = stitching.encode(mel)
    assert len(encoder.mels) == 3
    assert stitching.seconds == seconds + 2 * (seconds - 2)
    np.testing.assert_array_equal(features, mel[:, ::2])


def test_silence_is_one_block():
    encoder = Encoder()
    StitchingBackend(encoder, SECONDS, *unmoved(3)).encode(mel_of(np.zeros(0, np.float32), 11))
    assert len(encoder.mels) == 1


@pytest.mark.parametrize("seconds", [5, 12])
def test_another_length_than_the_windows_is_refused(seconds):
    with pytest.raises(BackendError, match=f"{seconds}00 frames: a window has 1100"):
        StitchingBackend(Encoder(), SECONDS, *unmoved(3)).encode(mel_of(noise(1), seconds))


def test_the_devices_decoder_cannot_take_it():
    with pytest.raises(BackendError, match="--decoder host"):
        StitchingBackend(Encoder(), SECONDS, *unmoved(3)).decode(None, np.zeros(0), [0])


def test_it_closes_its_backend():
    encoder = Encoder()
    with StitchingBackend(encoder, SECONDS, *unmoved(2)) as stitching:
        assert stitching.sensors() is None
        assert not encoder.closed
    assert encoder.closed


def write(folder, weight, bias):
    np.save(folder / RELOCATION_WEIGHT, weight)
    np.save(folder / RELOCATION_BIAS, bias)


def test_relocations_are_taken_from_the_folder(tmp_path):
    encoder = Encoder()
    assert for_host_decoder(encoder, tmp_path, SECONDS) == (encoder, SECONDS)
    write(tmp_path, *(array.astype(np.float16) for array in unmoved(2)))
    backend, seconds = for_host_decoder(encoder, tmp_path, SECONDS)
    assert seconds == 8
    mel = mel_of(noise(8), 8)
    features = backend.encode(mel)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, mel[:, ::2])


def truncated(path):
    path.write_bytes(path.read_bytes()[:-8])


def archive(path):
    with path.open("wb") as file:
        np.savez(file, np.zeros(3))


def not_numbers(path):
    array = np.load(path)
    array.flat[0] = np.nan
    np.save(path, array)


@pytest.mark.parametrize("damage", [truncated, lambda path: path.write_bytes(b""), archive, not_numbers, Path.unlink])
@pytest.mark.parametrize("name", RELOCATIONS)
def test_damaged_relocations_are_one_clear_line(tmp_path, name, damage):
    encoder = Encoder()
    write(tmp_path, *unmoved(3))
    damage(tmp_path / name)
    with pytest.raises(BackendError, match=f"{name}: relocations cannot be read") as caught:
        for_host_decoder(encoder, tmp_path, SECONDS)
    assert "\n" not in str(caught.value)
    assert not encoder.closed


def test_a_window_that_is_all_overlap_has_no_relocations(tmp_path):
    write(tmp_path, np.stack([np.eye(STATE)]), np.zeros((1, 100, STATE)))
    with pytest.raises(BackendError, match="do not fit a window of 2 s"):
        for_host_decoder(Encoder(), tmp_path, 2)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        ((2, STATE, STATE - 1), (2, FRAMES, STATE)),
        ((2, STATE, STATE), (1, FRAMES, STATE)),
        ((2, STATE, STATE), (2, FRAMES - 1, STATE)),
        ((STATE,), (2, FRAMES, STATE)),
        ((), ()),
    ],
)
def test_relocations_of_another_shape_are_refused(tmp_path, weight, bias):
    write(tmp_path, np.zeros(weight), np.zeros(bias))
    with pytest.raises(BackendError, match="do not fit a window of 5 s"):
        for_host_decoder(Encoder(), tmp_path, SECONDS)


def test_no_pickle_is_loaded(tmp_path):
    write(tmp_path, np.array([{}], dtype=object), np.zeros((2, FRAMES, STATE)))
    with pytest.raises(BackendError, match="relocations cannot be read"):
        for_host_decoder(Encoder(), tmp_path, SECONDS)
