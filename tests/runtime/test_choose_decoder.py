"""`--decoder auto`: the faster decoder is taken, and the log says why."""

import logging
import re
import shutil
import sys
import time

import numpy as np
import pytest
from whisper_runtime import blocks, stitching
from whisper_runtime.bundle import Bundle
from whisper_runtime.choose_decoder import BEAMS_SHARE, DRAFTED_SHARE, TOKENS, choose_decoder
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import DeviceTimeoutError
from whisper_runtime.host_decoder import CROSS_ATTENTION, HostDecoder
from whisper_runtime.manifest import Manifest
from whisper_runtime.stitching import RELOCATION_BIAS, RELOCATION_WEIGHT
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain.float_model import host_arrays
from whisper_toolchain.host_decoder import write_host_decoder
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 50, 32, 2, 2, 103, 64, 32, 2, 3)
PLAN = ShapePlan("toy", "hailo8", 1, 12, DIMS)
LINE = re.compile(r"decoder: (\w+) \((\d+\.\d) ms a token, (\w+) (\d+\.\d) ms\)")


class Device:
    """In place of an accelerator: it takes the seconds that it is told to."""

    lookahead = 0

    def __init__(self, step=0.0, reading=0.0, failure=None):
        self.step, self.reading, self.failure = step, reading, failure
        self.encoded = self.decoded = 0

    def encode(self, mel):
        assert (mel.shape, mel.dtype) == ((1, 100, 80), np.float32)
        assert mel.flags.c_contiguous
        self.encoded += 1
        return np.ones((1, 50, 32), np.float32)

    def decode(self, features, token_embeddings, rows):
        assert token_embeddings.shape == (12, 1, 32)
        self.decoded += 1
        if self.failure is not None:
            raise self.failure
        time.sleep(self.step)
        return np.zeros((len(rows), DIMS.n_vocab), np.float32)

    def read_features(self, features):
        time.sleep(self.reading)
        return features


@pytest.fixture(scope="module")
def checkpoint(toy_checkpoint):
    return toy_checkpoint(DIMS, 3)


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    write_host_decoder(checkpoint, PLAN, folder)
    manifest = Manifest(
        name=PLAN.bundle_name,
        version="0.1.0+0",
        content_digest="0",
        emulated=False,
        variant="toy",
        arch="hailo8",
        seconds=PLAN.seconds,
        sequence=PLAN.sequence,
        dims=DIMS.as_dict(),
        vocabulary_parts=PLAN.vocabulary_parts,
        sot_sequence=(7, 3, 9),
        eot=0,
        tokenizer_file="",
        files={},
        data={},
    )
    return Bundle(folder, manifest)


@pytest.fixture
def choose(bundle, checkpoint, caplog):
    """The decoder that was taken and the one line that was logged."""

    def call(device, bundle=bundle, **options):
        caplog.clear()
        with caplog.at_level(logging.INFO, "whisper_runtime"):
            _, decoder, _ = choose_decoder(
                device, TokenEmbedding(*host_arrays(checkpoint)), bundle, threads=1, **options
            )
        (record,) = caplog.records
        assert record.levelno == logging.INFO
        return decoder, record.getMessage()

    return call


def test_a_slow_device_loses(choose):
    decoder, line = choose(Device(step=0.03))
    assert decoder.name == "host"
    name, ours, other, theirs = LINE.fullmatch(line).groups()
    assert (name, other) == ("host", "device")
    assert float(ours) < 30 <= float(theirs)


def test_a_fast_device_wins(choose):
    decoder, line = choose(Device(reading=0.5))
    assert decoder.name == "device"
    name, ours, other, theirs = LINE.fullmatch(line).groups()
    assert (name, other) == ("device", "host")
    assert float(ours) < float(theirs)
    # Its steps are fast; what it does once a window counts by the token.
    assert 500 / TOKENS <= float(theirs) < 500


def test_a_stream_counts_what_drafts_save_the_device(choose):
    """Of a slow device's steps only a part; what it does once a window, such as reading its features, in full."""
    alone, drafted = (
        float(LINE.fullmatch(choose(Device(step=0.03), drafted=drafted)[1]).group(4)) for drafted in (False, True)
    )
    assert alone >= 30
    assert 30 * DRAFTED_SHARE <= drafted < 20


def test_what_the_hosts_beams_cost_counts_but_not_in_a_stream(choose, monkeypatch):
    """A stream's partial texts are decoded greedily."""
    branches, asked = HostDecoder.branches, []

    def slow(decoder, prompt, texts):
        asked.append(len(texts))
        time.sleep(0.02)
        return branches(decoder, prompt, texts)

    monkeypatch.setattr(HostDecoder, "branches", slow)
    decoder, _ = choose(Device(step=0.01), beam_size=4)
    assert decoder.name == "device"
    assert set(asked) == {4}
    assert choose(Device(step=0.05), drafted=True, beam_size=4)[0].name == "host"
    assert choose(Device(step=0.01), beam_size=1)[0].name == "host"


def test_texts_that_the_device_follows_in_doubt_count_but_not_in_a_stream(choose):
    def device_cost(**options):
        name, _, _, theirs = LINE.fullmatch(choose(Device(step=0.03), **options)[1]).groups()
        assert name == "host"
        return float(theirs)

    assert 30 <= device_cost() < 30 * BEAMS_SHARE
    assert 30 <= device_cost(beam_size=1) < 30 * BEAMS_SHARE
    assert device_cost(beam_size=2) >= 30 * BEAMS_SHARE
    assert device_cost(beam_size=2, drafted=True) < 30


def test_what_the_host_reads_block_by_block_counts_as_well(choose, bundle, checkpoint, tmp_path, monkeypatch):
    """It waits for it while a window is encoded and not when it is decoded."""
    for module in (blocks, stitching):
        monkeypatch.setattr(module, "OVERLAP_SECONDS", 0)
    folder = tmp_path
    write_host_decoder(checkpoint, PLAN, folder)  # for any number of frames, without an overlap
    np.save(folder / RELOCATION_WEIGHT, np.stack([np.eye(PLAN.state)] * 2))
    np.save(folder / RELOCATION_BIAS, np.zeros((2, PLAN.feature_frames, PLAN.state)))
    decoder, line = choose(Device(reading=0.1, step=0.001), Bundle(folder, bundle.manifest))
    assert decoder.name == "device"
    assert 300 / TOKENS <= float(LINE.fullmatch(line).group(4)) < 300


def test_it_takes_one_window_and_few_steps(choose):
    device = Device(step=0.001)
    choose(device)
    assert device.encoded == 1
    assert 4 <= device.decoded <= 6


@pytest.mark.parametrize("device", [Device(step=0.03), Device(reading=0.5)])
def test_what_was_taken_is_ready_and_has_counted_nothing(choose, device):
    decoder, _ = choose(device)
    assert decoder.calls == 0
    decoder.begin(device.encode(np.zeros((1, 100, 80), np.float32)))
    assert decoder.logits((7, 3, 9), [4], [3]).shape == (1, DIMS.n_vocab)
    assert decoder.calls > 0


def test_without_onnxruntime_the_device_is_taken(choose, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    decoder, line = choose(Device(step=0.03))
    assert decoder.name == "device"
    assert line.startswith("decoder: device, because ")
    assert "pip install 'onnxruntime" in line


def test_with_a_bundle_of_an_earlier_version_the_device_is_taken(choose, bundle, tmp_path):
    old = shutil.copytree(bundle.folder, tmp_path / "old")
    (old / CROSS_ATTENTION).unlink()
    decoder, line = choose(Device(step=0.03), Bundle(old, bundle.manifest))
    assert decoder.name == "device"
    assert line.startswith("decoder: device, because ")
    assert f"{old}: has no {CROSS_ATTENTION}" in line


def test_a_device_that_fails_is_an_error(bundle, checkpoint):
    device = Device(failure=DeviceTimeoutError("the device is gone"))
    with pytest.raises(DeviceTimeoutError, match="the device is gone"):
        choose_decoder(device, TokenEmbedding(*host_arrays(checkpoint)), bundle)


def test_a_real_bundle_is_measured_and_transcribes(tiny_en_bundle, jfk, caplog):
    with caplog.at_level(logging.INFO, "whisper_runtime"):
        transcriber = Transcriber(tiny_en_bundle.folder, decoder="auto")
    with transcriber:
        (line,) = filter(None, (LINE.fullmatch(record.getMessage()) for record in caplog.records))
        assert line.group(1) == transcriber.text_decoder.name
        assert float(line.group(2)) <= float(line.group(4))
        assert "fellow Americans" in transcriber.text(jfk)
