"""A bundle whose encoder takes five seconds, through everything that opens one: random weights, all files real."""

import contextlib
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from whisper_runtime.audio import SAMPLE_RATE
from whisper_runtime.backends.onnxruntime import DECODER, ENCODER
from whisper_runtime.bundle import Bundle
from whisper_runtime.cli import describe
from whisper_runtime.errors import BackendError
from whisper_runtime.evaluation.bundle_rungs import open_rung
from whisper_runtime.stitching import RELOCATIONS, StitchingBackend
from whisper_runtime.streaming import StreamTranscriber
from whisper_runtime.tokenizer import Tokenizer
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain.bundle_writer import make_manifest, publish, write_host_arrays
from whisper_toolchain.evaluation import rungs
from whisper_toolchain.export import export_graphs
from whisper_toolchain.float_model import host_arrays
from whisper_toolchain.host_decoder import write_host_decoder
from whisper_toolchain.model import build_model
from whisper_toolchain.relocation import write_relocations
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 1500, 16, 2, 2, 51865, 448, 16, 2, 2)
PLAN = ShapePlan("base", "hailo8", 5, 24, DIMS)


def sound(seconds, seed=0):
    """Bursts of noise, seldom a pause."""
    random = np.random.default_rng(seed)
    loudness = np.repeat(random.choice([0.0005, 0.1, 0.1, 0.1], round(seconds * 4)), SAMPLE_RATE // 4)
    return (loudness * random.normal(0, 1, len(loudness))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(patched_whisper, whisper_assets, sure_checkpoint, tmp_path_factory):
    """The published bundle."""
    checkpoint = sure_checkpoint(DIMS, 3)
    root = tmp_path_factory.mktemp("long")
    scratch = root / "scratch"
    scratch.mkdir()
    model = build_model(patched_whisper, checkpoint, PLAN.feature_frames)
    export_graphs(model, PLAN, scratch)
    (scratch / "encoder.onnx").rename(scratch / ENCODER)
    (scratch / "decoder.onnx").rename(scratch / DECODER)
    write_host_decoder(checkpoint, PLAN, scratch)
    write_relocations(model, checkpoint, PLAN, scratch, [sound(60, 1)])
    write_host_arrays(scratch, PLAN, *host_arrays(checkpoint))
    shutil.copyfile(whisper_assets / "multilingual.tiktoken", scratch / "multilingual.tiktoken")
    tokenizer = Tokenizer.from_file(scratch / "multilingual.tiktoken", DIMS.n_vocab)
    made_from = {
        "checkpoint": {"tensor_digest": "0" * 64},
        "calibration": {"count": 1},
        "recipe": {"name": "none"},
        "compiler": {"name": "none", "version": "0"},
    }
    build = {"checkpoint_source": {"kind": "random"}, "calibration_source": "noise", "snr_db": {}}
    manifest = make_manifest(
        scratch, PLAN, tokenizer, "multilingual.tiktoken", made_from, build, emulated=True, semver="0.1.0"
    )
    return publish(scratch, manifest, root / "artifacts")


@pytest.mark.parametrize(("decoder", "longest"), [("host", 11), ("device", 5)])
def test_the_hosts_decoder_has_long_windows_and_the_devices_has_not(folder, decoder, longest, monkeypatch):
    with Transcriber(folder, decoder=decoder, beam_size=1) as transcriber:
        assert transcriber.seconds == longest
        encode, lengths = transcriber.reader.encode, []

        def noted(window, *look):
            lengths.append(window.seconds)
            return encode(window, *look)

        monkeypatch.setattr(transcriber.reader, "encode", noted)
        assert list(transcriber.transcribe(sound(22), language="en")[0])
    assert longest - 3 < max(lengths) <= longest


@pytest.mark.parametrize("decoder", ["host", "device"])
def test_words_have_times_in_long_windows_and_in_short_ones(folder, decoder):
    with Transcriber(folder, decoder=decoder, beam_size=1) as transcriber:
        plain = list(transcriber.transcribe(sound(22), language="en")[0])
        timed = list(transcriber.transcribe(sound(22), language="en", word_timestamps=True)[0])
    assert [segment.tokens for segment in timed] == [segment.tokens for segment in plain]
    times = [time for segment in timed for word in segment.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 0 <= times[0] < 11 < times[-1] <= 22


def test_auto_takes_either_whole(folder, caplog):
    with caplog.at_level(logging.INFO, "whisper_runtime"), Transcriber(folder, decoder="auto") as transcriber:
        assert transcriber.seconds == (11 if transcriber.text_decoder.name == "host" else 5)
        assert isinstance(transcriber._backend, StitchingBackend) == (transcriber.text_decoder.name == "host")
        list(transcriber.transcribe(sound(3), language="en")[0])
    assert "decoder: " in caplog.text


def test_the_language_is_heard_in_a_long_window(folder):
    with Transcriber(folder, decoder="host", beam_size=1) as transcriber:
        segments, info = transcriber.transcribe(sound(9))
        assert info.language in transcriber.tokenizer.languages
        assert 0 < info.language_probability <= 1
        assert list(segments)


def test_a_stream_commits_what_the_recording_gives(folder):
    samples = sound(30, 2)
    with Transcriber(folder, decoder="host", beam_size=1) as transcriber:
        whole = [segment.tokens for segment in transcriber.transcribe(samples, language="en")[0]]
        streamed = StreamTranscriber(transcriber, language="en")
        updates = [u for at in range(0, len(samples), 30000) for u in streamed.push(samples[at : at + 30000])]
        updates += streamed.finish()
    assert any(whole)
    assert [segment.tokens for update in updates for segment in update.committed] == whole


def test_an_evaluation_reads_as_the_transcriber_does(folder):
    samples = sound(11)
    with Transcriber(folder, decoder="host") as transcriber:
        text = transcriber.text(samples, language="en")
    assert text
    with contextlib.closing(open_rung(Bundle.open(folder), "host", "en")) as engine:
        assert engine.text(samples).strip() == text.strip()


def test_the_bundle_says_what_it_has(folder):
    bundle = Bundle.open(folder)
    assert set(RELOCATIONS) < set(bundle.manifest.files)
    assert "window 5 s (11 s with the host's decoder), 24 decoder slots" in describe(bundle.manifest)


def test_a_rung_that_cannot_be_opened_gives_its_backend_back(tmp_path, patched_tree, toy_checkpoint, monkeypatch):
    closed = []
    backend = SimpleNamespace(close=lambda: closed.append("backend"))
    monkeypatch.setattr(rungs, "open_float_backend", lambda export: backend)
    (tmp_path / RELOCATIONS[0]).write_bytes(b"")
    reason = "float graphs alone"
    ladder = rungs.Rungs(PLAN, tmp_path, toy_checkpoint(DIMS, 3), patched_tree, Path(), reason, "en", networks=reason)
    with pytest.raises(BackendError, match="relocations cannot be read"):
        ladder.open("float+host")
    assert closed == ["backend"]
