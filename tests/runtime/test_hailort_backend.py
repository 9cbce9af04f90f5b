"""The HailoRT backend on the strict fake: numbers, order, every failure by name, and nothing that hangs."""

import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from fractions import Fraction

import numpy as np
import onnxruntime
import pytest
import soundfile
from whisper_runtime import blocks, cli, sensors, stitching, watchdog, window_reader
from whisper_runtime.backends import hailort, open_backend
from whisper_runtime.backends.device_reader import DeviceReader
from whisper_runtime.backends.hailort import HailoRTBackend
from whisper_runtime.bundle import Bundle
from whisper_runtime.embedding import TokenEmbedding
from whisper_runtime.errors import (
    BackendError,
    DeviceInUseError,
    DeviceTimeoutError,
    DriverError,
    HefError,
    NoDeviceError,
    NotInstalledError,
    WrongArchitectureError,
)
from whisper_runtime.manifest import Manifest
from whisper_runtime.slot_decoder import SlotDecoder
from whisper_runtime.stitching import StitchingBackend
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain.bundle_writer import make_manifest, publish, write_host_arrays
from whisper_toolchain.float_model import host_arrays
from whisper_toolchain.host_decoder import write_host_decoder
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

from tests.toy_graphs import toy_graphs

SECONDS, SEQUENCE, WIDTH = 1, 6, 4
PARTS = (7, 7, 7, 9)
ARCHITECTURES = {"hailo8": 1, "hailo8l": 3, "hailo10h": 103}
SHAPES = {"mel": (1, 100, 80), "features": (1, 50, WIDTH), "token_embeddings": (SEQUENCE, 1, WIDTH)}


# Toy bundles


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """How the toy HEFs store each stream: bytes, zero point, scale."""

    mel: tuple = (2, 32768.0, 1e-4)
    encoded: tuple = (1, 128.0, 0.008)
    read: tuple = (1, 128.0, 0.008)
    embeddings: tuple = (2, 32768.0, 1e-4)
    logits: tuple = (1, 120.0, 0.02)


EIGHT = Quantisation()
SIXTEEN = Quantisation(encoded=(2, 32000.0, 3.2e-5), read=(2, 32000.0, 3.2e-5), logits=(2, 32768.0, 1e-4))
SHIFTED = dataclasses.replace(EIGHT, read=(1, 101.0, 0.011))
NARROWED = dataclasses.replace(SIXTEEN, read=(1, 128.0, 0.008))
WIDENED = dataclasses.replace(EIGHT, read=(2, 30000.0, 4e-5))


@pytest.fixture
def hef_file(fake_vendor_path):
    """The writer of synthetic HEFs."""
    import hef_file

    return hef_file


@pytest.fixture
def write_hefs(hef_file):
    """Writes encoder.hef and decoder.hef of the toy into a folder."""

    def call(
        folder,
        arch="hailo8",
        quantisation=EIGHT,
        header=3,
        named=True,
        order=range(4),
        original_names=None,
        width=WIDTH,
        sequence=SEQUENCE,
        parts=PARTS,
        sdk_version="3.33.0",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        encoder, decoder = toy_graphs(width, sequence, parts)

        def stream(name, shape, numbers, onnx_name, names):
            return hef_file.FakeStream(name, shape, *numbers, tuple(names), onnx_name)

        def write(net, inputs, outputs, model):
            names = {item.name: item.onnx_name for item in (*inputs, *outputs)}
            content = hef_file.build_hef(
                hw_arch=ARCHITECTURES[arch],
                network_group=net,
                inputs=inputs,
                outputs=outputs,
                payload=hef_file.graph_payload(model, names),
                version=header,
                sdk_version=sdk_version,
            )
            (folder / f"{net}.hef").write_bytes(content)

        q = quantisation
        write(
            "encoder",
            [stream("encoder/input_layer1", (1, 100, 80), q.mel, "mel", ["mel"])],
            [stream("encoder/conv9", (1, 50, width), q.encoded, "features", ["encoder.ln_post/Add"])],
            encoder,
        )
        if original_names is None:
            original_names = [[f"decoder.vocabulary.{i}/MatMul"] if named else ["/MatMul_7"] for i in range(4)]
        # A HEF holds the outputs in the compiler's order, and the layers' numbers are in no order at all.
        outputs = [
            stream(f"decoder/conv{50 - i}", (1, sequence, parts[i]), q.logits, f"logits_{i}", original_names[i])
            for i in order
        ]
        write(
            "decoder",
            [
                stream("decoder/input_layer1", (1, 50, width), q.read, "features", ["features"]),
                stream("decoder/input_layer2", (sequence, 1, width), q.embeddings, "token_embeddings", ["/Reshape"]),
            ],
            outputs,
            decoder,
        )
        return folder

    return call


def toy_manifest(arch="hailo8", emulated=False, parts=PARTS):
    return Manifest(
        name=f"whisper-toy-1s-seq{SEQUENCE}-{arch}",
        version="0.1.0+0",
        content_digest="0",
        emulated=emulated,
        variant="toy",
        arch=arch,
        seconds=SECONDS,
        sequence=SEQUENCE,
        dims={"n_mels": 80, "n_text_state": WIDTH},
        vocabulary_parts=parts,
        sot_sequence=(),
        eot=0,
        tokenizer_file="",
        files={},
        data={},
    )


@pytest.fixture
def fake(tmp_path, monkeypatch, fake_vendor_path):
    """Configures the fake device: keywords are the keys of FAKE_HAILO, kept from call to call."""
    path = tmp_path / "fake_hailo.json"
    settings = {}

    def call(**changes):
        settings.update(changes)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(settings))
        beside.replace(path)  # the device reads it at any time

    call()
    monkeypatch.setenv("FAKE_HAILO", str(path))
    monkeypatch.setattr(hailort, "JOB_TIMEOUT_MS", 3000)
    return call


@pytest.fixture
def bundle(fake, write_hefs, tmp_path):
    """A toy bundle for hailo8."""
    return Bundle(write_hefs(tmp_path / "bundle"), toy_manifest())


def mel(seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, (1, 100, 80)).astype(np.float32)


def embeddings(seed=0):
    return np.random.default_rng(100 + seed).normal(0, 0.5, (SEQUENCE, 1, WIDTH)).astype(np.float32)


def stored(values, numbers):
    """What a stream makes of values: rounded to its numbers, and back, in float64."""
    size, zero_point, scale = numbers
    zero_point, scale = float(np.float32(zero_point)), float(np.float32(scale))
    codes = np.clip(np.rint(values.astype(np.float64) / scale + zero_point), 0, 256**size - 1)
    return (codes - zero_point) * scale


def run_graph(model, outputs, feeds):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(outputs, {name: value.astype(np.float32) for name, value in feeds.items()})


def expected_features(quantisation, mel):
    """The encoder in onnxruntime, with both of its streams rounded as the device rounds them."""
    rounded = stored(mel, quantisation.mel).transpose(0, 2, 1)[:, :, None]
    (features,) = run_graph(toy_graphs(WIDTH, SEQUENCE, PARTS)[0], ["features"], {"mel": rounded})
    return stored(features, quantisation.encoded)


def expected_logits(quantisation, mel, embeddings):
    """The graphs in onnxruntime, with every stream rounded as the device rounds it."""
    features = stored(expected_features(quantisation, mel), quantisation.read)
    embedded = stored(embeddings, quantisation.embeddings).transpose(1, 2, 0)[..., None]
    feeds = {"features": features, "token_embeddings": embedded}
    parts = run_graph(toy_graphs(WIDTH, SEQUENCE, PARTS)[1], [f"logits_{i}" for i in range(4)], feeds)
    return np.concatenate([part[0] for part in parts], axis=-1)


def use_decode(backend, features):
    return backend.decode(features, embeddings(), [0])


def use_read(backend, features):
    return backend.read_features(features)


USES = pytest.mark.parametrize(("use", "with_decoder"), [(use_decode, True), (use_read, True), (use_read, False)])


def refusal(kind, call, *arguments):
    with pytest.raises(kind) as caught:
        call(*arguments)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    return message


# Numbers


@pytest.mark.parametrize(
    ("hailort_version", "arch", "header"),
    [("4.20.0", "hailo8", 2), ("4.23.0", "hailo8l", 3), ("5.2.0", "hailo10h", 3)],
)
@pytest.mark.parametrize(
    "quantisation", [EIGHT, SIXTEEN, SHIFTED, NARROWED, WIDENED], ids=["8", "16", "shifted", "16to8", "8to16"]
)
def test_logits_are_those_of_the_graphs(fake, write_hefs, tmp_path, quantisation, hailort_version, arch, header):
    fake(hailort=hailort_version, device={"architecture": arch.upper()})
    folder = write_hefs(tmp_path / "bundle", arch, quantisation, header)
    rows = [3, 0, 5]
    with open_backend(Bundle(folder, toy_manifest(arch))) as backend:
        for seed in range(3):
            logits = backend.decode(backend.encode(mel(seed)), embeddings(seed), rows)
            assert logits.dtype == np.float32
            expected = expected_logits(quantisation, mel(seed), embeddings(seed))[rows]
            assert logits.shape == expected.shape == (3, sum(PARTS))
            assert np.ptp(expected) > 10 * quantisation.logits[2]
            # Half a step of the output, and what codes before it make that round the other way in float32.
            limit = 0.55 * quantisation.logits[2] + 0.02 * quantisation.read[2]
            assert np.abs(logits - expected).max() <= limit


def test_a_result_is_the_callers(bundle):
    with open_backend(bundle) as backend:
        features = backend.encode(mel())
        first = backend.decode(features, embeddings(), [2])
        kept = first.copy()
        backend.decode(features, embeddings(1), [2])
        assert (first == kept).all()
        assert (backend.decode(features, embeddings(), [2]) == kept).all()
        assert backend.decode(features, embeddings(), []).shape == (0, sum(PARTS))


def test_any_memory_layout_is_taken(bundle):
    columns = np.asfortranarray(mel())
    columns.flags.writeable = False
    with open_backend(bundle) as backend:
        one = backend.decode(backend.encode(columns), np.repeat(embeddings(), 2, axis=2)[:, :, ::2], [1])
        two = backend.decode(backend.encode(mel()), embeddings(), [1])
    assert (one == two).all()


@pytest.mark.parametrize("quantisation", [SHIFTED, NARROWED, WIDENED])
def test_requantisation_is_what_hailort_does_by_way_of_floats(fake, quantisation):
    """Every code: bit for bit as HailoRT's float conversions, and within half a step of the exact value."""
    from hailo_platform._fake import formats
    from hailo_platform._fake.hef import StreamInfo

    def fake_stream(numbers, is_input):
        size, zero_point, scale = numbers[0], *map(float, map(np.float32, numbers[1:]))
        limits = (-zero_point * scale, (256**size - 1 - zero_point) * scale)
        return StreamInfo("s", "g", is_input, (1, 1, 256**size), size, zero_point, scale, limits, ())

    def stream(numbers):
        size, zero_point, scale = numbers
        kind = np.dtype({1: np.uint8, 2: np.uint16}[size])
        return hailort.Stream("s", (1, 1, 1), kind, float(np.float32(zero_point)), float(np.float32(scale)))

    source, target = stream(quantisation.encoded), stream(quantisation.read)
    table = hailort.requantisation_table(source, target)
    assert table.dtype == target.dtype
    codes = np.arange(np.iinfo(source.dtype).max + 1, dtype=source.dtype)
    giving, taking = fake_stream(quantisation.encoded, False), fake_stream(quantisation.read, True)
    taking = dataclasses.replace(taking, shape=(1, 1, len(codes)))
    floats = formats.from_chip(giving, formats.FLOAT32, codes)
    through = formats.to_chip(taking, formats.FLOAT32, floats.view(np.uint8)).reshape(-1)
    assert (table == through).all()
    top = int(np.iinfo(target.dtype).max)
    for code, found in zip(codes.tolist(), table.tolist(), strict=True):
        value = (Fraction(code) - Fraction(source.zero_point)) * Fraction(source.scale)
        exact = min(max(value / Fraction(target.scale) + Fraction(target.zero_point), 0), top)
        assert abs(found - exact) <= Fraction(51, 100)


def test_same_numbers_need_no_table():
    stream = hailort.Stream("a", (1, 1, 1), np.dtype(np.uint8), 3.0, 0.5)
    assert hailort.requantisation_table(stream, dataclasses.replace(stream, name="b")) is None


# Features as numbers, and a device without the decoder


@pytest.mark.parametrize("with_decoder", [True, False])
@pytest.mark.parametrize("quantisation", [EIGHT, SIXTEEN, SHIFTED], ids=["8", "16", "shifted"])
def test_features_are_read_with_the_encoders_own_numbers(fake, write_hefs, tmp_path, quantisation, with_decoder):
    folder = write_hefs(tmp_path / "bundle", quantisation=quantisation)
    with open_backend(Bundle(folder, toy_manifest()), with_decoder=with_decoder) as backend:
        for seed in range(3):
            features = backend.read_features(backend.encode(mel(seed)))
            assert features.dtype == np.float32
            assert features.shape == SHAPES["features"]
            error = np.abs(features - expected_features(quantisation, mel(seed)))
            # The same codes, but for a few where float32 rounds the mel or the result the other way.
            assert np.median(error) < 0.01 * quantisation.encoded[2]
            assert error.max() <= 1.01 * quantisation.encoded[2] + quantisation.mel[2]


def test_read_features_are_the_callers(bundle):
    with open_backend(bundle) as backend:
        first = backend.read_features(backend.encode(mel()))
        kept = first.copy()
        for seed in range(1, 4):  # every buffer is used again
            assert (backend.read_features(backend.encode(mel(seed))) != kept).any()
        assert (first == kept).all()


def test_a_long_window_is_the_devices_blocks_one_after_the_other(bundle, monkeypatch):
    """Without a decoder on it, the device encodes a block into the buffer of the one before."""
    for module in (blocks, stitching):
        monkeypatch.setattr(module, "OVERLAP_SECONDS", 0)
    mels = [mel(seed) for seed in (1, 2)]
    with open_backend(bundle, with_decoder=False) as backend:
        one, two = (backend.read_features(backend.encode(each)) for each in mels)
        state = one.shape[-1]
        weight, bias = 2 * np.eye(state)[None], np.ones((1, 50 * SECONDS, state))
        with StitchingBackend(backend, SECONDS, weight, bias) as long:
            found = long.read_features(long.encode(np.concatenate(mels, axis=1)))
    np.testing.assert_array_equal(found, np.concatenate((one, 2 * two + 1), axis=1))


def test_features_are_read_and_decoded_in_any_order(bundle):
    with open_backend(bundle) as backend:
        features = backend.encode(mel())
        logits = backend.decode(features, embeddings(), [2])
        numbers = backend.read_features(features)
        ahead = backend.encode(mel(1))
        assert (backend.read_features(features) == numbers).all()
        assert (backend.decode(features, embeddings(), [2]) == logits).all()
        assert (backend.read_features(ahead) != numbers).any()


def test_without_a_decoder_its_hef_is_not_touched(fake, bundle):
    (bundle.folder / "decoder.hef").unlink()
    fake(faults={"VDevice.create_infer_model": {"status": 8, "at": 2}})  # a second model would be refused
    with open_backend(bundle, with_decoder=False) as backend:
        features = backend.encode(mel())
        message = refusal(BackendError, backend.decode, features, embeddings(), [0])
        assert "open the bundle with its decoder" in message
        assert backend.read_features(features).any()


# Which stream is which


@pytest.mark.parametrize(
    "names",
    [
        None,
        [[f"logits_{i}"] for i in range(4)],
        [["decoder.ln/Add", f"/decoder/decoder.vocabulary.{i}/MatMul"] for i in range(4)],
    ],
)
def test_outputs_are_ordered_by_their_original_names(bundle, write_hefs, tmp_path, names):
    """Three parts are equally large, so only their names tell them apart."""
    shuffled = write_hefs(tmp_path / "shuffled", order=[2, 0, 3, 1], original_names=names)
    with open_backend(bundle) as backend:
        expected = backend.decode(backend.encode(mel()), embeddings(), [4])
    with open_backend(Bundle(shuffled, toy_manifest())) as backend:
        assert (backend.decode(backend.encode(mel()), embeddings(), [4]) == expected).all()


def test_without_names_of_ours_the_compilers_order_counts(bundle, write_hefs, tmp_path):
    unnamed = write_hefs(tmp_path / "unnamed", named=False)
    with open_backend(bundle) as backend:
        expected = backend.decode(backend.encode(mel()), embeddings(), [4])
    with open_backend(Bundle(unnamed, toy_manifest())) as backend:
        assert (backend.decode(backend.encode(mel()), embeddings(), [4]) == expected).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"named": False, "order": [0, 3, 1, 2]}, ["(1, 6, 7), (1, 6, 7), (1, 6, 7), (1, 6, 9)", "build it again"]),
        ({"original_names": [["logits_0"], ["logits_1"], ["logits_1"], ["logits_3"]]}, ["the order of the outputs"]),
        ({"original_names": [["logits_0"], [], ["logits_2"], ["logits_3"]]}, ["the order of the outputs"]),
        ({"original_names": [["logits_3"], ["logits_0"], ["logits_1"], ["logits_2"]]}, ["build it again"]),
        ({"parts": (7, 7, 8, 8)}, ["(1, 6, 8)", "build it again"]),
        ({"sequence": 7}, ["token_embeddings (6, 1, 4)", "decoder/input_layer2 (7, 1, 4)"]),
        ({"width": 5}, ["encoder.hef", "features (1, 50, 4)", "encoder/conv9 (1, 50, 5)"]),
    ],
)
def test_other_streams_than_the_manifests_are_refused_before_the_device_is_touched(
    fake, write_hefs, tmp_path, changes, words
):
    fake(faults={"VDevice.create": {"raise": "the device was touched"}})
    bundle = Bundle(write_hefs(tmp_path / "bundle", **changes), toy_manifest())
    message = refusal(HefError, open_backend, bundle)
    for word in words:
        assert word in message


def test_a_hef_for_another_chip_than_the_bundle_is_refused(fake, write_hefs, tmp_path):
    fake(faults={"VDevice.create": {"raise": "the device was touched"}})
    folder = write_hefs(tmp_path / "bundle", "hailo8l")
    message = refusal(HefError, open_backend, Bundle(folder, toy_manifest("hailo8")))
    assert "encoder.hef: compiled for hailo8l, but its bundle is for hailo8" in message


def test_a_dead_output_is_refused(fake, write_hefs, tmp_path):
    fake(faults={"VDevice.create": {"raise": "the device was touched"}})
    dead = dataclasses.replace(EIGHT, logits=(1, 25000.0, 0.001))
    bundle = Bundle(write_hefs(tmp_path / "bundle", quantisation=dead), toy_manifest())
    message = refusal(HefError, open_backend, bundle)
    assert "decoder.hef: dead output" in message


def test_outputs_with_a_scale_for_each_feature_are_refused(fake, write_hefs, tmp_path):
    """HailoRT says 0 then, and every logit would be 0."""
    none = dataclasses.replace(EIGHT, logits=(1, 0.0, 0.0))
    bundle = Bundle(write_hefs(tmp_path / "bundle", quantisation=none), toy_manifest())
    assert "no one scale for all of its values" in refusal(HefError, open_backend, bundle)


def test_a_missing_hef_is_named(bundle):
    (bundle.folder / "decoder.hef").unlink()
    assert "decoder.hef" in refusal(HefError, open_backend, bundle)


# Arguments


BAD = {
    "type": lambda array: array.astype(np.float64),
    "shape": lambda array: array[:, :, :-1],
    "rank": lambda array: array[None],
    "nan": lambda array: np.where(np.arange(array.size).reshape(array.shape) == 5, np.float32(np.nan), array),
    "inf": lambda array: np.where(np.arange(array.size).reshape(array.shape) == 5, np.float32(-np.inf), array),
    "list": lambda array: array.tolist(),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arrays_never_reach_hailort(bundle, kind):
    with open_backend(bundle) as backend:
        features = backend.encode(mel())
        expected = backend.decode(features, embeddings(), [0])
        word = "NaN or infinity" if kind in ("nan", "inf") else "the graph takes float32 "
        assert word in refusal(BackendError, backend.encode, BAD[kind](mel()))
        message = refusal(BackendError, backend.decode, features, BAD[kind](embeddings()), [0])
        assert message.startswith("token_embeddings: ")
        assert word in message
        # The backend is as good as before.
        assert (backend.decode(features, embeddings(), [0]) == expected).all()


@pytest.mark.parametrize("rows", [[-1], [SEQUENCE], [0, 99]])
def test_rows_must_be_slots(bundle, rows):
    with open_backend(bundle) as backend:
        message = refusal(BackendError, backend.decode, backend.encode(mel()), embeddings(), rows)
        assert f"the decoder has {SEQUENCE} slots" in message


def test_features_from_elsewhere_are_refused(fake, bundle):
    with open_backend(bundle) as backend:
        old = backend.encode(mel())
    with open_backend(bundle) as backend:
        for features in (old, np.zeros(SHAPES["features"], np.float32)):
            for call in (use_decode, use_read):
                assert "not made by this backend's encode" in refusal(BackendError, call, backend, features)


def test_buffers_that_do_not_fit_are_refused_by_us(bundle):
    """HailoRT looks at nothing but their size."""
    with open_backend(bundle) as backend:
        encoder, buffers = backend._encoder, backend._new_set()
        fixed = buffers.encoded.copy()
        fixed.flags.writeable = False
        for wrong in (
            buffers.encoded.view(np.int8),
            buffers.encoded.reshape(1, WIDTH, 50),
            np.zeros((1, 50, 2 * WIDTH), np.uint8)[:, :, ::2],
            fixed,
        ):
            assert "does not fit" in refusal(BackendError, encoder.bind, [buffers.mel], [wrong])


# Windows in flight


def test_the_next_window_can_be_encoded_before_this_one_is_decoded(fake, write_hefs, tmp_path):
    for name, quantisation in (("same", EIGHT), ("shifted", SHIFTED)):
        with open_backend(Bundle(write_hefs(tmp_path / name, quantisation=quantisation), toy_manifest())) as backend:
            assert backend.lookahead == 1
            alone = [backend.decode(backend.encode(mel(i)), embeddings(i), [1]) for i in range(4)]
            together = []
            features = backend.encode(mel(0))
            for i in range(4):
                ahead = backend.encode(mel(i + 1))
                together.append(backend.decode(features, embeddings(i), [1]))
                assert (backend.decode(features, embeddings(i), [1]) == together[-1]).all()
                features = ahead
            assert (np.array(alone) == np.array(together)).all()
            assert (together[0] != together[1]).any()


def test_encode_does_not_wait_for_its_own_window(fake, bundle):
    with open_backend(bundle) as backend:
        backend.decode(backend.encode(mel()), embeddings(), [0])
        fake(latency=0.3)
        start = time.monotonic()
        features = backend.encode(mel())
        assert time.monotonic() - start < 0.25
        backend.decode(features, embeddings(), [0])
        assert time.monotonic() - start >= 0.6


@USES
def test_features_that_are_kept_stay_good(fake, bundle, use, with_decoder):
    with open_backend(bundle, with_decoder=with_decoder) as backend:
        expected = [use(backend, backend.encode(mel(i))) for i in range(6)]
        kept = [backend.encode(mel(i)) for i in range(6)]
        for features, wanted in zip(kept, expected, strict=True):
            assert (use(backend, features) == wanted).all()
            assert (use(backend, backend.encode(mel(9))) != wanted).any()
            assert (use(backend, features) == wanted).all()


def test_buffers_are_used_again(bundle):
    with open_backend(bundle) as backend:
        seen = set()
        ahead = backend.encode(mel())
        for i in range(1, 20):
            features, ahead = ahead, backend.encode(mel(i))
            seen.add(id(features.buffers))
            backend.decode(features, embeddings(), [0])
        assert len(seen) <= 3


def test_features_that_are_dropped_while_they_are_encoded_disturb_nothing(fake, bundle):
    with open_backend(bundle) as backend:
        expected = backend.read_features(backend.encode(mel(5)))
        fake(latency=0.1)
        for i in range(5):
            backend.encode(mel(i))
        assert (backend.read_features(backend.encode(mel(5))) == expected).all()


# Failures


def test_hailort_that_is_not_installed(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "hailo_platform", None)
    message = refusal(NotInstalledError, open_backend, bundle)
    assert "is not installed here" in message
    assert "wheel" in message


@pytest.mark.parametrize("native", [None, "4.21.0"])
def test_hailort_whose_parts_do_not_fit(fake, bundle, native):
    fake(native_version=native)
    message = refusal(NotInstalledError, open_backend, bundle)
    assert "cannot be loaded" in message
    assert "of one version" in message
    assert "4.23.0" in message


FAILURES = [
    ("4.20.0", "VDevice.create", 64, DriverError, ["driver is not loaded", "4.20.0", "lsmod"]),
    ("4.23.0", "VDevice.create", 73, DeviceInUseError, ["--share-device", "sudo fuser -v /dev/hailo0"]),
    ("4.23.0", "VDevice.create", 74, DeviceInUseError, ["--share-device", "sudo fuser -v /dev/hailo0"]),
    ("4.23.0", "VDevice.create", 76, DriverError, ["does not fit HailoRT 4.23.0", "same version"]),
    ("4.20.0", "VDevice.create", 85, DriverError, ["does not fit HailoRT 4.20.0", "status 85"]),
    ("4.23.0", "InferModel.configure", 86, DriverError, ["does not fit HailoRT 4.23.0", "loading the encoder"]),
    ("4.23.0", "HEF.create", 91, HefError, ["encoder.hef", "corrupt"]),
    ("4.22.0", "HEF.create", 92, HefError, ["encoder.hef", "DFC 3.33.0", "use HailoRT 4.23"]),
    ("4.23.0", "HEF.create", 92, HefError, ["DFC 3.33.0", "build the bundle with the DFC"]),
    ("4.20.0", "HEF.create", 26, HefError, ["HailoRT 4.20.0 does not accept it", "use HailoRT 4.23"]),
    ("4.20.0", "InferModel.configure", 26, HefError, ["does not accept it", "for hailo8", "use HailoRT 4.23"]),
    ("4.23.0", "VDevice.create", 4, DeviceTimeoutError, ["opening the device", "reboot"]),
    ("4.23.0", "InferModel.configure", 87, DeviceTimeoutError, ["loading the encoder", "dmesg"]),
    ("4.23.0", "VDevice.create_infer_model", 3, BackendError, ["status 3", "OUT_OF_HOST_MEMORY", "hailort.log"]),
    ("4.23.0", "Bindings.set_buffer", 2, BackendError, ["preparing the encoder", "status 2"]),
    ("5.2.0", "VDevice.create", 97, BackendError, ["status 97", "whisper-runtime doctor"]),
]


@pytest.mark.parametrize(("version", "point", "status", "kind", "words"), FAILURES)
def test_each_failure_says_what_to_do(fake, write_hefs, tmp_path, version, point, status, kind, words):
    arch = "hailo10h" if version.startswith("5") else "hailo8"
    fake(hailort=version, device={"architecture": arch.upper()})
    bundle = Bundle(write_hefs(tmp_path / "bundle", arch, header=2), toy_manifest(arch))
    with open_backend(bundle):
        pass
    fake(faults={point: {"status": status}})
    message = refusal(kind, open_backend, bundle)
    for word in words:
        assert word in message
    fake(faults={})  # the device was given back
    with open_backend(bundle):
        pass


def test_no_device(fake, bundle):
    fake(device={"count": 0})
    message = refusal(NoDeviceError, open_backend, bundle)
    assert "lspci" in message


@pytest.mark.parametrize(("version", "kind"), [("4.20.0", DriverError), ("4.23.0", NoDeviceError)])
def test_no_driver_as_each_version_reports_it(fake, write_hefs, tmp_path, version, kind):
    fake(hailort=version, device={"driver": None})
    message = refusal(kind, open_backend, Bundle(write_hefs(tmp_path / "bundle", header=2), toy_manifest()))
    assert "driver is not loaded" in message


def test_a_driver_of_another_version(fake, bundle):
    fake(device={"driver": "4.20.0"})
    assert "does not fit HailoRT 4.23.0" in refusal(DriverError, open_backend, bundle)


@pytest.mark.parametrize("version", ["4.20.0", "4.23.0"])
@pytest.mark.parametrize("faults", [{}, {"Device.create": {"status": 36}}], ids=["identified", "unidentified"])
def test_the_wrong_device_is_named_with_the_bundle_to_use(fake, write_hefs, tmp_path, version, faults):
    """4.20 says 26 for it, later versions 93."""
    fake(hailort=version, device={"architecture": "HAILO8L"}, faults=faults)
    bundle = Bundle(write_hefs(tmp_path / "bundle", "hailo8", header=2), toy_manifest("hailo8"))
    if faults and version == "4.20.0":  # 26 may mean anything then
        assert "does not accept it" in refusal(HefError, open_backend, bundle)
        return
    message = refusal(WrongArchitectureError, open_backend, bundle)
    assert "encoder.hef: compiled for hailo8, but the device here is " in message
    if faults:
        assert "hailortcli fw-control identify" in message
    else:
        assert message.endswith("the device here is hailo8l: use the bundle whisper-toy-1s-seq6-hailo8l")


@pytest.mark.parametrize("version", ["4.22.0", "4.23.0"])
def test_the_right_device_under_the_wrong_hailort_is_not_called_the_wrong_device(fake, write_hefs, tmp_path, version):
    fake(hailort=version, device={"architecture": "HAILO10H"})
    bundle = Bundle(write_hefs(tmp_path / "bundle", "hailo10h", header=2), toy_manifest("hailo10h"))
    message = refusal(HefError, open_backend, bundle)
    assert f"encoder.hef: compiled for hailo10h, which HailoRT {version} cannot run (status 93)" in message
    assert message.endswith("though the device here is hailo10h: install HailoRT 5.x with its driver")


def test_a_hef_that_its_own_device_refuses_gets_no_advice_to_use_itself(fake, bundle):
    fake(faults={"InferModel.configure": {"status": 93}})
    message = refusal(HefError, open_backend, bundle)
    assert "HailoRT 4.23.0 does not accept it (status 93)" in message
    assert "use the bundle" not in message


def test_the_same_advice_is_given_once(fake, bundle):
    """Some of HailoRT's own texts name its log file."""
    fake(faults={"InferModel.configure": {"status": 36}})
    message = refusal(BackendError, open_backend, bundle)
    assert "HailoRT status 36: driver operation failed. See hailort.log: run 'whisper-runtime doctor'" in message
    fake(faults={"InferModel.configure": {"status": 3}})
    message = refusal(BackendError, open_backend, bundle)
    assert message.endswith(": look into hailort.log, or run 'whisper-runtime doctor'")


def test_a_hef_of_the_smaller_chip_runs_on_the_larger(fake, write_hefs, tmp_path):
    bundle = Bundle(write_hefs(tmp_path / "bundle", "hailo8l"), toy_manifest("hailo8l"))
    with open_backend(bundle) as backend:
        backend.decode(backend.encode(mel()), embeddings(), [0])


@pytest.mark.parametrize("logits", [(1, 120.0, 0.02), (2, 32768.0, 1e-4)], ids=["8 bits", "16 bits"])
def test_a_device_that_returns_constants_is_dead(fake, write_hefs, tmp_path, logits):
    quantisation = dataclasses.replace(EIGHT, logits=logits)
    with open_backend(Bundle(write_hefs(tmp_path / "bundle", quantisation=quantisation), toy_manifest())) as backend:
        features = backend.encode(mel())
        expected = backend.decode(features, embeddings(), [2])
        fake(output="nan")
        message = refusal(BackendError, backend.decode, features, embeddings(), [2])
        assert "returned a constant, 0 for every token of decoder/conv50: dead output" in message
        assert "whisper-runtime doctor" in message
        fake(output=None)
        assert (backend.decode(features, embeddings(), [2]) == expected).all()


@pytest.mark.parametrize("point", ["AsyncInferJob.completion", "ConfiguredInferModel.run_async"])
def test_a_failed_job_is_never_taken_for_a_result(fake, bundle, point):
    """HailoRT's wait() returns for a job that failed, too."""
    with open_backend(bundle) as backend:
        features = backend.encode(mel())
        backend.decode(features, embeddings(), [0])
        fake(faults={point: {"status": 8}})
        message = refusal(BackendError, backend.decode, features, embeddings(), [0])
        assert "running the decoder: " in message
        assert "status 8" in message
        fake(faults={})
        for call in (lambda: backend.decode(features, embeddings(), [0]), lambda: backend.encode(mel())):
            assert "has failed before: running the decoder" in refusal(BackendError, call)
    with open_backend(bundle) as backend:  # given back
        backend.decode(backend.encode(mel()), embeddings(), [0])


@USES
def test_a_failed_encoding_is_told_to_who_uses_it(fake, bundle, use, with_decoder):
    with open_backend(bundle, with_decoder=with_decoder) as backend:
        fake(faults={"AsyncInferJob.completion": {"status": 8}})
        features = backend.encode(mel())
        for _ in range(2):
            assert "running the encoder: " in refusal(BackendError, use, backend, features)
        assert "has failed before" in refusal(BackendError, backend.encode, mel())


@USES
@pytest.mark.parametrize("point", ["ConfiguredInferModel.run_async", "ConfiguredInferModel.wait_for_async_ready"])
def test_what_was_encoded_before_a_failure_can_still_be_used(fake, bundle, point, use, with_decoder):
    """HailoRT ends a model, and all that it is working on, when a job is refused."""
    with open_backend(bundle, with_decoder=with_decoder) as backend:
        expected = use(backend, backend.encode(mel()))
        fake(latency=0.1)
        features = backend.encode(mel())
        fake(faults={point: {"status": 8}})
        assert "running the encoder" in refusal(BackendError, backend.encode, mel(1))
        fake(faults={})
        assert (use(backend, features) == expected).all()
        assert "has failed before" in refusal(BackendError, backend.encode, mel(1))


@pytest.mark.parametrize(
    "point", ["AsyncInferJob.wait", "ConfiguredInferModel.run_async"], ids=["no answer", "stuck device"]
)
@USES
def test_a_stalled_device_hangs_nobody(fake, bundle, monkeypatch, point, use, with_decoder):
    monkeypatch.setattr(hailort, "JOB_TIMEOUT_MS", 200)
    backend = open_backend(bundle, with_decoder=with_decoder)
    fake(faults={point: {"stall": True}})
    start = time.monotonic()
    features = backend.encode(mel())
    message = refusal(DeviceTimeoutError, use, backend, features)
    assert "did not answer in time" in message
    assert time.monotonic() - start < 2
    start = time.monotonic()
    refusal(DeviceTimeoutError, backend.encode, mel())
    refusal(DeviceTimeoutError, use, backend, features)
    assert time.monotonic() - start < 0.1
    fake(faults={})
    backend.close()
    assert time.monotonic() - start < 5
    with open_backend(bundle, with_decoder=with_decoder) as backend:
        use(backend, backend.encode(mel()))


def test_a_dead_encoder_is_an_error_and_no_features(fake, bundle):
    with open_backend(bundle, with_decoder=False) as backend:
        fake(output="nan")
        message = refusal(BackendError, backend.read_features, backend.encode(mel()))
        assert "running the encoder: the device returned a constant, 0 for every value of encoder/conv9" in message
        assert "dead output" in message


# Giving the device back


def test_close_ends_what_is_running(fake, bundle, caplog):
    backend = open_backend(bundle)
    fake(latency=0.2)
    features = backend.encode(mel())
    backend.encode(mel(1))
    backend.close()
    backend.close()
    assert not caplog.records
    for call in (use_decode, use_read, lambda backend, features: backend.encode(mel())):
        assert "closed" in refusal(BackendError, call, backend, features)
    with open_backend(bundle):
        pass


def test_a_model_that_does_not_end_hangs_nobody(fake, bundle, monkeypatch, caplog):
    """HailoRT lets go of Python there; elsewhere nothing but the end of the process helps, see below."""
    monkeypatch.setattr(hailort, "RELEASE_SECONDS", 0.3)
    backend = open_backend(bundle)
    fake(faults={"ConfiguredInferModel.__exit__": {"sleep": 0.75}})
    start = time.monotonic()
    backend.close()
    assert time.monotonic() - start < 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "did not release the device within 0.3 s" in record.getMessage()
    time.sleep(1.8)  # so that the thread does not reach into the next test


@pytest.mark.parametrize(("version", "arch"), [("4.23.0", "hailo8"), ("5.2.0", "hailo10h")])
def test_callbacks_have_run_before_a_model_is_left(fake, write_hefs, tmp_path, monkeypatch, version, arch):
    """Of a job that was given up, too, if it ends after all."""
    fake(hailort=version, device={"architecture": arch.upper()})
    monkeypatch.setattr(hailort, "JOB_TIMEOUT_MS", 100)
    from hailo_platform.pyhailort.pyhailort import ConfiguredInferModel

    leaving, left = ConfiguredInferModel.__exit__, []

    def leave(self, *arguments):
        if self is backend._encoder._configured:
            left.append(features.job.called_back.is_set())
        return leaving(self, *arguments)

    monkeypatch.setattr(ConfiguredInferModel, "__exit__", leave)
    backend = open_backend(Bundle(write_hefs(tmp_path / "bundle", arch), toy_manifest(arch)))
    fake(latency=0.6)
    features = backend.encode(mel())
    refusal(DeviceTimeoutError, backend.decode, features, embeddings(), [0])
    backend.close()
    assert left == [True]
    assert features.job._error is None  # it was not cut off


@pytest.mark.parametrize("point", ["ConfiguredInferModel.shutdown", "VDevice.release"])
def test_a_release_that_fails_is_a_warning(fake, bundle, caplog, point):
    backend = open_backend(bundle)
    fake(faults={point: {"status": 36}})
    backend.close()
    assert any("failed to release" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("fault", ["VDevice.create_infer_model", "InferModel.configure", "Bindings.set_buffer"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_failed_opening_gives_the_device_back(fake, bundle, fault, at):
    fake(faults={fault: {"status": 8, "at": at}})
    refusal(BackendError, open_backend, bundle)
    fake(faults={})
    with open_backend(bundle):
        pass


# A driver that hangs inside a call for which HailoRT keeps hold of Python


WATCHED = """
    import contextlib, sys
    from pathlib import Path
    from whisper_runtime import watchdog
    from whisper_runtime.backends import hailort
    from whisper_runtime.hef import read_hef
    from whisper_runtime.manifest import Manifest

    hailort.OPENING_LIMIT, hailort.RELEASE_LIMIT = map(float, sys.argv[4:])
    folder = Path(sys.argv[1])
    manifest = Manifest(**eval(sys.argv[2]))
    with watchdog.watching() if sys.argv[3] == "watched" else contextlib.nullcontext():
        hefs = [read_hef(folder / name) for name in (hailort.ENCODER, hailort.DECODER)]
        backend = hailort.HailoRTBackend(*hefs, manifest)
        print("opened", flush=True)
        backend.close()
        print("closed", flush=True)
"""


def run_watched(bundle, opening, release, watched=True):
    """A process of its own that opens and closes a bundle with these limits in seconds."""
    manifest = repr(dataclasses.asdict(bundle.manifest))
    arguments = [bundle.folder, manifest, "watched" if watched else "alone", str(opening), str(release)]
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCHED), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("point", "limits", "printed", "doing"),
    [
        ("VDevice.create", (1, 30), "", "opening the device"),
        ("InferModel.configure", (1, 30), "", "opening the device"),
        ("ConfiguredInferModel.shutdown", (30, 1), "opened\n", "giving the device back"),
        ("VDevice.release", (30, 1), "opened\n", "giving the device back"),
    ],
)
def test_a_driver_that_hangs_ends_a_watched_process(fake, bundle, point, limits, printed, doing):
    fake(faults={point: {"sleep": 50}})
    start = time.monotonic()
    done = run_watched(bundle, *limits)
    assert time.monotonic() - start < 20
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, printed)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"whisper-runtime: {doing}: HailoRT did not return within 1 s, so this process is ended")
    assert "sudo modprobe -r hailo_pci && sudo modprobe hailo_pci" in line
    assert line.endswith("then run 'whisper-runtime doctor'")
    fake(faults={})
    with open_backend(bundle):  # the device is free
        pass


def test_without_a_watchdog_no_process_is_ended(fake, bundle):
    """A library must not end the program that uses it, however long a call takes."""
    fake(faults={"VDevice.create": {"sleep": 1.6}, "VDevice.release": {"sleep": 1.6}})
    done = run_watched(bundle, 1, 1, watched=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "opened\nclosed\n", "")


def test_a_watched_process_that_is_in_time_ends_as_ever(fake, bundle):
    done = run_watched(bundle, 30, 30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "opened\nclosed\n", "")


def test_time_between_the_watched_calls_does_not_count(capfd):
    with watchdog.watching():
        for _ in range(2):
            with watchdog.time_limit(1, "too late"):
                pass
            time.sleep(1.3)
        process = watchdog._watcher
        assert process.poll() is None
    assert process.returncode == 0
    assert capfd.readouterr() == ("", "")


def test_a_watcher_that_was_killed_stops_nobody():
    with watchdog.watching():
        for _ in range(2):
            with watchdog.time_limit(30, "too late"):
                watchdog._watcher.kill()
                watchdog._watcher.wait()


# Other processes


HOLDER = """
    import sys
    from hailo_platform import HailoSchedulingAlgorithm, VDevice
    params = VDevice.create_params()
    params.scheduling_algorithm = HailoSchedulingAlgorithm.ROUND_ROBIN
    if "shared" in sys.argv:
        params.group_id = "SHARED"
    if "service" in sys.argv:
        params.multi_process_service = True
    with VDevice(params):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def hold(fake, fake_vendor_path):
    """Starts another process that holds the device; call what it returns to end it."""
    running = []

    def call(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLDER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(fake_vendor_path)},
        )
        running.append(process)
        assert process.stdout.readline() == "held\n"
        return process.communicate

    yield call
    for process in running:
        process.communicate()


def test_a_device_that_another_process_holds(bundle, hold):
    end = hold()
    message = refusal(DeviceInUseError, open_backend, bundle)
    assert "close that program, or let both share the device (--share-device)" in message
    end()
    with open_backend(bundle):
        pass


def test_a_shared_device_needs_the_service_on_4(fake, bundle):
    message = refusal(BackendError, lambda: open_backend(bundle, share_device=True))
    assert "sudo systemctl enable --now hailort.service" in message


def test_a_shared_device_on_4(fake, bundle, hold):
    fake(service=True)
    end = hold("shared", "service")
    assert "--share-device" in refusal(DeviceInUseError, open_backend, bundle)
    with open_backend(bundle, share_device=True) as backend:
        backend.decode(backend.encode(mel()), embeddings(), [0])
    end()
    end = hold()
    message = refusal(DeviceInUseError, lambda: open_backend(bundle, share_device=True))
    assert "the other program must share it too" in message
    end()


def test_a_shared_device_on_5_needs_no_service(fake, write_hefs, tmp_path, hold):
    fake(hailort="5.2.0", device={"architecture": "HAILO10H"})
    bundle = Bundle(write_hefs(tmp_path / "bundle", "hailo10h"), toy_manifest("hailo10h"))
    hold("shared")
    refusal(DeviceInUseError, open_backend, bundle)
    with open_backend(bundle, share_device=True) as backend:
        backend.decode(backend.encode(mel()), embeddings(), [0])


# Choosing a backend


@pytest.mark.parametrize(
    ("emulated", "name", "share", "words"),
    [
        (True, "hailort", False, ["no HEFs", "onnxruntime"]),
        (True, None, True, ["no device to share", "--share-device"]),
        (False, "onnxruntime", False, ["compiled for hailo8", "hailort"]),
        (False, "tensorrt", False, ["unknown backend 'tensorrt'"]),
    ],
)
def test_impossible_combinations_are_refused(tmp_path, emulated, name, share, words):
    bundle = Bundle(tmp_path, toy_manifest(emulated=emulated))
    message = refusal(BackendError, open_backend, bundle, name, share)
    for word in words:
        assert word in message


def test_a_compiled_bundle_runs_on_hailort(bundle):
    for name in (None, "hailort"):
        with open_backend(bundle, name) as backend:
            assert isinstance(backend, HailoRTBackend)


# The transcriber and the command line


DIMS = Dimensions(80, 50, WIDTH, 1, 1, 51864, 448, WIDTH, 1, 1)
RANKS = "gpt2.tiktoken"


@pytest.fixture
def whole_bundle(fake, write_hefs, whisper_assets, toy_checkpoint, tmp_path, monkeypatch):
    """A published compiled bundle with a real tokenizer."""
    # The toy does not believe in anything that it says.
    monkeypatch.setattr(window_reader, "_LEAST_LOGPROB", -np.inf)
    monkeypatch.setattr(window_reader, "_NO_SPEECH_PROB", 1.0)
    plan = ShapePlan("toy", "hailo8", SECONDS, SEQUENCE, DIMS)
    scratch = write_hefs(tmp_path / "scratch", parts=(12966,) * 4)
    shutil.copyfile(whisper_assets / RANKS, scratch / RANKS)
    checkpoint = toy_checkpoint(DIMS, 0, spread=1.0)
    write_host_arrays(scratch, plan, *host_arrays(checkpoint))
    write_host_decoder(checkpoint, plan, scratch)
    tokenizer = Tokenizer.from_file(whisper_assets / RANKS, DIMS.n_vocab)
    made_from = {"checkpoint": {"tensor_digest": "0" * 64}, "calibration": {"count": 1}, "recipe": {}, "compiler": {}}
    manifest = make_manifest(scratch, plan, tokenizer, RANKS, made_from, {}, emulated=False, semver="0.1.0")
    return publish(scratch, manifest, tmp_path / "artifacts")


def noise(seconds=5):
    return np.random.default_rng(0).normal(0, 0.1, 16000 * seconds).astype(np.float32)


class Recorder:
    """A backend that notes its calls; encoding window `broken` fails."""

    def __init__(self, lookahead, broken=None):
        self.lookahead, self.broken, self.calls = lookahead, broken, []

    def encode(self, mel):
        window = sum(call[0] == "encode" for call in self.calls)
        self.calls.append(("encode", window))
        if window == self.broken:
            raise DeviceTimeoutError("the device is gone")
        return window

    def decode(self, features, token_embeddings, rows):
        if self.calls[-1] != ("decode", features):  # once for each window, however many tokens it has
            self.calls.append(("decode", features))
        logits = np.zeros((len(rows), 51864), np.float32)
        # One word, then the end of the text, without a doubt.
        logits[:, 1000 if rows[-1] == 1 else 50256] = 50
        return logits

    def close(self):
        self.calls.append(("close", None))


@pytest.fixture
def recorded(whisper_assets):
    def call(lookahead, broken=None):
        backend = Recorder(lookahead, broken)
        arrays = np.zeros((51864, WIDTH), np.float32), np.zeros((12, WIDTH), np.float32)
        tokenizer = Tokenizer.from_file(whisper_assets / RANKS, DIMS.n_vocab)
        decoder = SlotDecoder(backend, TokenEmbedding(*arrays), SEQUENCE)
        return backend, Transcriber.from_parts(backend, decoder, tokenizer, SECONDS)

    return call


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_windows_are_encoded_ahead_but_no_further_than_asked(recorded, lookahead):
    backend, transcriber = recorded(lookahead)
    segments, _ = transcriber.transcribe(noise())
    assert backend.calls == []  # lazy
    ends = [next(segments).end]
    assert backend.calls == [*(("encode", i) for i in range(lookahead + 1)), ("decode", 0)]
    ends.append(next(segments).end)
    assert backend.calls[-2:] == [("encode", lookahead + 1), ("decode", 1)]
    ends += [segment.end for segment in segments]
    windows = len(ends)
    assert ends == sorted(ends)
    assert 4 < ends[-1] <= 5.0
    assert [call for call in backend.calls if call[0] == "decode"] == [("decode", i) for i in range(windows)]
    assert [call for call in backend.calls if call[0] == "encode"] == [("encode", i) for i in range(windows)]


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_the_text_before_a_failed_window_is_not_lost(recorded, lookahead):
    backend, transcriber = recorded(lookahead, broken=2)
    segments, _ = transcriber.transcribe(noise())
    assert next(segments).end <= next(segments).start
    with pytest.raises(DeviceTimeoutError, match="the device is gone"):
        next(segments)
    assert [call for call in backend.calls if call[0] == "decode"] == [("decode", 0), ("decode", 1)]
    assert ("encode", 3) not in backend.calls


def test_the_transcriber_closes_its_backend(recorded):
    backend, transcriber = recorded(0)
    with transcriber:
        pass
    assert backend.calls == [("close", None)]


def test_text_through_the_device_is_that_of_single_windows(whole_bundle):
    """The toy is never sure, so each window is looked at several times while the next one is encoded."""
    with Transcriber(whole_bundle) as transcriber:
        ahead = list(transcriber.transcribe(noise(3))[0])
        transcriber._backend.lookahead = 0
        alone = list(transcriber.transcribe(noise(3))[0])
    assert ahead == alone
    assert len({segment.tokens for segment in ahead}) > 1


@pytest.mark.parametrize("decoder", ["device", "host"])
def test_words_through_the_device_leave_its_text_as_it_is(whole_bundle, decoder):
    """A window is encoded once more for its words, while the next one is encoded already."""
    with Transcriber(whole_bundle, decoder=decoder, beam_size=1) as transcriber:
        plain = list(transcriber.transcribe(noise(3))[0])
        timed = list(transcriber.transcribe(noise(3), word_timestamps=True)[0])
    assert [segment.tokens for segment in timed] == [segment.tokens for segment in plain]
    for segment, whole in zip(timed, plain, strict=True):
        assert "".join(word.word for word in segment.words).strip() == segment.text
        assert whole.start <= segment.start <= segment.end <= whole.end


def test_a_window_that_fails_on_the_device_loses_no_text(fake, whole_bundle, monkeypatch):
    # No second look at the first window, which would fail, too.
    monkeypatch.setattr(window_reader, "LOOKS", window_reader.LOOKS[:1])
    with Transcriber(whole_bundle) as transcriber:
        expected = [next(transcriber.transcribe(noise(3))[0])]
        # The second window's encoding is refused while the first one waits to be decoded.
        segments, _ = transcriber.transcribe(noise(3))
        fake(faults={"ConfiguredInferModel.run_async": {"status": 8, "at": 2}})
        found = [next(segments)]
        with pytest.raises(BackendError, match="running the encoder"):
            next(segments)
    assert found == expected
    with open_backend(Bundle.open(whole_bundle)):  # given back, although the failure is still at hand
        pass


def test_the_hosts_decoder_needs_only_the_encoder_of_the_device(fake, whole_bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise(2), 16000)
    fake(faults={"VDevice.create_infer_model": {"status": 8, "at": 2}})  # a second model would be refused
    with Transcriber(whole_bundle, decoder="host") as transcriber:
        texts = [segment.text for segment in transcriber.transcribe(noise(2))[0]]
    assert any(texts)
    fake(faults={})
    arguments = ["transcribe", str(tmp_path / "a.wav"), "--bundle", str(whole_bundle), "--decoder", "host"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.strip()


def test_the_command_line_shares_the_device_on_request(fake, whole_bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise(2), 16000)
    arguments = ["transcribe", str(tmp_path / "a.wav"), "--bundle", str(whole_bundle)]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("[   0.00 - ")
    assert cli.main([*arguments, "--share-device"]) == 1
    assert "hailort.service" in capsys.readouterr().err
    fake(service=True)
    assert cli.main([*arguments, "--share-device"]) == 0
    assert capsys.readouterr().out == text


def test_a_dead_device_is_an_error_and_no_text(fake, whole_bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise(2), 16000)
    fake(output="nan")
    assert cli.main(["transcribe", str(tmp_path / "a.wav"), "--bundle", str(whole_bundle)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "dead output" in err


def test_ctrl_c_gives_the_device_back(fake, whole_bundle, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "a.wav", noise(4), 16000)
    fake(latency=0.05)
    decode = HailoRTBackend.decode
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return decode(*arguments)

    monkeypatch.setattr(HailoRTBackend, "decode", interrupted)
    assert cli.main(["transcribe", str(tmp_path / "a.wav"), "--bundle", str(whole_bundle)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(calls) == 3
    with open_backend(Bundle.open(whole_bundle)):
        pass


# Evaluation on the device


@pytest.fixture
def evaluate(fake, whole_bundle, tmp_path, monkeypatch, capsys):
    """Evaluates the toy on two recordings and a file that is none: status, result (None without one), stderr."""
    monkeypatch.setattr(sensors, "SECONDS", 0.005)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    speech = tmp_path / "speech"
    speech.mkdir()
    for name in ("a", "b"):
        soundfile.write(speech / f"{name}.wav", noise(2), 16000 if name == "a" else 8000)
    (speech / "c.wav").write_bytes(b"no sound")
    for name in "abc":
        (speech / f"{name}.txt").write_text("alpha beta gamma")
    output = tmp_path / "evaluation.json"

    def call(*options):
        output.unlink(missing_ok=True)
        arguments = ["evaluate", str(speech), "--bundle", str(whole_bundle), "--output", str(output), *options]
        status = cli.main(arguments)
        result = json.loads(output.read_text()) if output.exists() else None
        return status, result, capsys.readouterr().err

    fake(latency=0.01, device={"watts": 2.5, "celsius": 61.0})
    return call


def test_a_device_is_evaluated_with_both_decoders(evaluate, whole_bundle):
    digest = Bundle.open(whole_bundle).manifest.content_digest
    status, result, _ = evaluate()
    assert status == 0
    assert [(rung["name"], rung["status"]) for rung in result["rungs"]] == [
        ("device", "measured"),
        ("device+host", "measured"),
    ]
    assert result["rungs"][1]["against"]["name"] == "device"
    assert not result["bundle"]["emulated"]
    (bad,) = result["dataset"]["unreadable"]
    assert bad["id"] == "c.wav"
    assert "/" not in bad["reason"]
    for rung in result["rungs"]:
        assert rung["calls"] > 0
        assert rung["stages"]["decoder"] > 0
        assert rung["score"]["words"] == 6
        assert rung["device"] == {"power_w": {"mean": 2.5, "max": 2.5}, "temperature_c": {"max": 61.0}, "reason": None}
    manifest = Bundle.open(whole_bundle).manifest
    assert manifest.content_digest == digest
    (record,) = manifest.data["evaluations"]
    assert sorted(record["wer"]) == ["device", "device+host"]


def test_fewer_rungs_do_not_replace_more(evaluate, whole_bundle):
    def recorded():
        return [sorted(record["wer"]) for record in Bundle.open(whole_bundle).manifest.data["evaluations"]]

    evaluate("--decoder", "host")
    evaluate("--decoder", "device")
    assert recorded() == [["device+host"], ["device"]]
    evaluate()
    evaluate()
    assert recorded() == [["device", "device+host"]]
    evaluate("--decoder", "device")
    assert recorded() == [["device", "device+host"], ["device"]]


@pytest.mark.parametrize(
    ("device", "faults", "power", "temperature", "words"),
    [
        ({}, {}, False, True, "power: .*status 48"),
        ({"watts": 3}, {"Control.get_chip_temperature": {"status": 18}}, True, False, "temperature: .*status 18"),
        ({"watts": 3}, {"Device.create": {"status": 36}}, False, False, "sensors: .*status 36"),
    ],
)
def test_a_sensor_that_is_not_there_is_null_with_the_reason(fake, evaluate, device, faults, power, temperature, words):
    fake(device=device, faults=faults)
    status, result, _ = evaluate("--decoder", "host")
    assert status == 0
    found = result["rungs"][0]["device"]
    assert (found["power_w"] is not None, found["temperature_c"] is not None) == (power, temperature)
    assert re.search(words, found["reason"])


def test_hailo10h_has_no_power_sensor_of_its_own(fake):
    fake(hailort="5.2.0", device={"architecture": "HAILO10H"})
    import hailo_platform

    with hailo_platform.VDevice() as vdevice:
        reader = DeviceReader(hailo_platform, vdevice.get_physical_devices()[0])
        assert reader.celsius() == 45.5
        with pytest.raises(hailo_platform.HailoRTException, match="13"):
            reader.watts()
        reader.close()


def test_sensors_that_hang_do_not_hang_the_end(monkeypatch, caplog):
    class Hanging:
        def watts(self):
            time.sleep(0.4)

        celsius = close = watts

    monkeypatch.setattr(sensors, "_PATIENCE", 0.05)
    read = sensors.Sensors(Hanging)
    began = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        read.close()
    assert time.perf_counter() - began < 0.3
    assert "hangs" in caplog.text


def test_an_interrupted_evaluation_goes_on(fake, evaluate, monkeypatch):
    decode = HailoRTBackend.decode
    uninterrupted = evaluate("--decoder", "device", "--language", "auto")[1]
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == uninterrupted["rungs"][0]["calls"]:
            signal.raise_signal(signal.SIGINT)
        return decode(*arguments)

    monkeypatch.setattr(HailoRTBackend, "decode", interrupted)
    status, result, err = evaluate("--decoder", "device")
    assert (status, result) == (130, None)
    assert "interrupted" in err
    monkeypatch.setattr(HailoRTBackend, "decode", decode)
    status, result, err = evaluate("--decoder", "device")
    assert status == 0
    assert "1 known from before" in err
    texts = ([clip["text"] for clip in each["rungs"][0]["clips"]] for each in (result, uninterrupted))
    assert next(texts) == next(texts)
    fake(faults={"VDevice.create": {"status": 74}})
    status, again, _ = evaluate("--decoder", "device")
    assert status == 0, "what is known needs no device"
    assert again["rungs"][0]["device"] == result["rungs"][0]["device"]


def test_a_device_that_is_not_there_is_one_line(fake, evaluate):
    fake(device={"count": 0})
    status, result, err = evaluate("--decoder", "device")
    assert (status, result) == (1, None)
    assert "no Hailo device" in err


def test_a_bundle_that_cannot_be_written_to_is_a_warning(evaluate, whole_bundle, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("whisper_runtime.evaluation.record.write_atomically", refuse)
    status, result, err = evaluate("--decoder", "host")
    assert status == 0
    assert result is not None
    assert "warning" in err
    assert "Read-only file system" in err
    assert Bundle.open(whole_bundle).manifest.data["evaluations"] == []
