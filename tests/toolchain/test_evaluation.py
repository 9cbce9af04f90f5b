"""Evaluation: counts against jiwer, intervals, the journal, and real tiny.en weights with a broken rung."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jiwer
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo
from whisper_runtime import manifest as manifest_format
from whisper_runtime.audio import load_audio
from whisper_runtime.bundle import Bundle
from whisper_runtime.evaluation.metrics import compare, difference, score
from whisper_runtime.evaluation.table import probability
from whisper_runtime.measuring import Clip, Journal, measure
from whisper_toolchain.checkpoints import load
from whisper_toolchain.cli import main
from whisper_toolchain.download import sha256_file
from whisper_toolchain.errors import EvaluationError
from whisper_toolchain.evaluation.rungs import StockEngine, parse_rungs
from whisper_toolchain.float_model import float_transcriber
from whisper_toolchain.model import build_model
from whisper_toolchain.stages.evaluate import Wanted, choose_clips, evaluate_rungs
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

PAIRS = [("one two three", "one two"), ("four", "four four four four five"), ("", "made up"), ("six seven", "")]


def test_counts_are_those_of_jiwer():
    found = score([compare(reference, text, str) for reference, text in PAIRS[:2] + PAIRS[3:]])
    references, texts = zip(*(PAIRS[:2] + PAIRS[3:]), strict=True)
    assert found.wer == pytest.approx(100 * jiwer.wer(list(references), list(texts)))
    assert found.cer == pytest.approx(100 * jiwer.cer(list(references), list(texts)))
    assert (found.hallucinations, found.empty) == (1, 1)
    assert found.wer_low <= found.wer <= found.wer_high


def test_what_is_said_into_silence_is_inserted():
    assert compare(*PAIRS[2], str).insertions == 2


def test_a_rung_does_not_differ_from_itself():
    clips = [compare(*pair, str) for pair in PAIRS]
    found = difference(clips, clips)
    assert (found.points, found.low, found.high, found.p) == (0, 0, 0, 1)


def with_errors(errors):
    """Transcripts of ten words each with so many words left out."""
    said = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return [compare(" ".join(said), " ".join(said[count:]), str) for count in errors]


def test_one_word_more_lost_in_each_of_many_recordings_is_no_chance():
    found = difference(with_errors([1, 2, 3] * 10), with_errors([0, 1, 2] * 10))
    assert (found.points, found.low, found.high) == (10, 10, 10)
    assert probability(found.p) == "p < 0.001"
    back = difference(with_errors([0, 1, 2] * 10), with_errors([1, 2, 3] * 10))
    assert (back.points, back.p) == (-10, found.p)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_the_probability_is_the_share_of_swaps_that_differ_as_much(errors):
    """All swaps of a few recordings' transcripts are counted here; the product draws from them."""
    others = [3] * len(errors)
    extra = [own - other for own, other in zip(errors, others, strict=True)]
    sums = [abs(int(np.dot(signs, extra))) for signs in itertools.product((-1, 1), repeat=len(extra))]
    exact = sum(each >= abs(sum(extra)) for each in sums) / len(sums)
    assert difference(with_errors(errors), with_errors(others)).p == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize(("p", "said"), [(0.0002, "p < 0.001"), (0.0042, "p 0.004"), (0.03, "p 0.03"), (1.0, "p 1.00")])
def test_a_probability_is_never_said_to_be_zero(p, said):
    assert probability(p) == said


@pytest.mark.parametrize("text", ["floot", "float+stock", "float+device", "", "host"])
def test_rungs_that_do_not_exist_are_refused(text):
    with pytest.raises(EvaluationError):
        parse_rungs(text)


class Echo:
    calls = 0
    sensors = None

    def __init__(self):
        self.stages = {}

    def text(self, samples):
        Echo.calls += 1
        return str(len(samples))


def test_an_interrupted_measurement_goes_on_and_a_bad_clip_is_counted(recording, tmp_path):
    good = recording("1272-128104-0008").path
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    clips = [Clip("good", good, "x"), Clip("bad", bad, "x"), Clip("gone", tmp_path / "gone.wav", "x")]
    journal = tmp_path / "journal.jsonl"
    first = list(measure(Echo, clips, Journal(journal)))
    assert [found.unreadable for found in first] == [False, True, True]
    journal.write_bytes(journal.read_bytes() + b'{"half a li')
    calls = Echo.calls
    again = list(measure(Echo, clips, Journal(journal)))
    assert Echo.calls == calls
    assert again[0] == first[0]


def broken(folder: Path, target: Path, damage: Callable[[Path], None]) -> Path:
    """A copy of a bundle that is damaged and then sealed as if that were right."""
    shutil.copytree(folder.resolve(), target)
    damage(target)
    data = Bundle.open_unverified(target).manifest.data
    files = {
        name: {"size": (target / name).stat().st_size, "sha256": sha256_file(target / name)} for name in data["files"]
    }
    sealed = manifest_format.seal({**data, "files": files}, data["version"].split("+")[0])
    (target / "manifest.json").write_bytes(manifest_format.serialise(sealed))
    return target


def without_positions(folder: Path) -> None:
    path = folder / "positional_embedding.npy"
    np.save(path, np.zeros_like(np.load(path)))


def without_the_encoders_positions(folder: Path) -> None:
    path = folder / "encoder.emulated.onnx"
    encoder = onnx.load(path, load_external_data=False)
    [positions] = [tensor for tensor in encoder.graph.initializer if tensor.name == "encoder.positional.constant"]
    positions.CopyFrom(numpy_helper.from_array(np.zeros(list(positions.dims), np.float32), positions.name))
    path.write_bytes(encoder.SerializeToString(deterministic=True))


def with_a_layer_at_four_bits(folder: Path) -> None:
    """conv2's weights, input and result with 16 steps instead of 256."""
    graph, convolution = onnx.load(folder / "encoder.emulated.onnx", load_external_data=False), "encoder.conv2"
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    where = ExternalDataInfo(tensors[f"{convolution}.weight.integers"])
    shape = tuple(tensors[f"{convolution}.weight.integers"].dims)
    codes = np.memmap(folder / where.location, np.int8, "r+", where.offset, shape)
    codes[:] = np.clip(np.round(codes / 16.0) * 16, -112, 112)
    codes.flush()
    [node] = [node for node in graph.graph.node if node.op_type == "Conv" and node.name.startswith(convolution)]
    grids = [node.input[0], node.output[0].removesuffix(".float") + ".8bit"]
    for grid in grids:
        scale, zero = (numpy_helper.to_array(tensors[f"{grid}.{part}"]) for part in ("scale", "zero_point"))
        for part, value in (("scale", scale * np.float32(17)), ("zero_point", np.uint8(round(int(zero) / 17)))):
            tensors[f"{grid}.{part}"].CopyFrom(numpy_helper.from_array(np.array(value), f"{grid}.{part}"))
    (folder / "encoder.emulated.onnx").write_bytes(graph.SerializeToString(deterministic=True))


@pytest.mark.parametrize("damage", [without_the_encoders_positions, with_a_layer_at_four_bits])
def test_what_is_broken_is_named(workspace, tiny_en_bundle, tiny_en_plan, tmp_path, damage):
    bundle = broken(tiny_en_bundle.folder, tmp_path / "broken", damage)
    sample = workspace.audio / "registry-sample"
    wanted = Wanted(sample, 10, rungs="float,emulated+float", bundle=bundle, output=tmp_path / "result.json")
    result = evaluate_rungs(workspace, tiny_en_plan, wanted, report=[].append)
    assert result["verdict"].startswith("first broken rung: emulated+float (the quantised encoder): +")


def test_the_decoder_of_another_variant_is_named_and_the_other_rungs_are_measured(
    workspace, tiny_en_bundle, tiny_en_plan, float_graphs, tiny_en_checkpoint, stock_whisper, recording, tmp_path
):
    """The whole ladder, with stock's texts against openai-whisper called here."""
    decoder = workspace.export(float_graphs("tiny")) / "decoder.onnx"
    bundle = broken(
        tiny_en_bundle.folder,
        tmp_path / "broken",
        lambda folder: shutil.copyfile(decoder, folder / "decoder.emulated.onnx"),
    )
    wanted = Wanted(workspace.audio / "registry-sample", 3, bundle=bundle, output=tmp_path / "result.json")
    result = evaluate_rungs(workspace, tiny_en_plan, wanted, report=[].append)
    assert result["verdict"] == (
        "first broken rung: float+emulated (the quantised decoder or the bundle's embeddings): it does not run: "
        "the bundle's decoder is of another variant: it knows 51865 tokens, tiny.en has 51864"
    )
    became = {rung["name"]: rung["status"] for rung in result["rungs"]}
    assert [name for name in became if became[name] == "failed"] == ["float+emulated", "emulated"]
    assert [name for name in became if became[name] == "measured"] == [
        *("stock", "float", "float+host", "emulated+float", "emulated+host")
    ]
    model = build_model(stock_whisper, tiny_en_checkpoint, 1500)
    for clip in result["rungs"][0]["clips"]:
        text = model.transcribe(load_audio(recording(clip["id"]).path), language="en", temperature=0.0, fp16=False)[
            "text"
        ]
        assert clip["text"] == text.strip()


def test_a_recording_on_which_stock_fails_is_counted(recording, tmp_path):
    class Model:
        def transcribe(self, samples, **options):
            raise RuntimeError("torch:\nno memory")

    spoken = recording("1272-128104-0008")
    clips = [Clip(spoken.id, spoken.path, spoken.text)]
    (measured,) = measure(lambda: StockEngine(Model(), "en", {}), clips, Journal(tmp_path / "journal"))
    assert "no memory" in measured.error
    assert "\n" not in measured.error


def test_the_language_reaches_model_and_normaliser(workspace, float_graphs, recording, tmp_path):
    """Real multilingual weights, told that English is German: they translate."""
    plan, spoken = float_graphs("tiny"), recording("1272-128104-0008")
    listed = tmp_path / "speech.jsonl"
    listed.write_text(json.dumps({"audio": str(spoken.path), "text": spoken.text}))
    texts = {}
    for language in ("de", "en"):
        wanted = Wanted(listed, rungs="float", language=language, output=tmp_path / f"{language}.json")
        result = evaluate_rungs(workspace, plan, wanted, report=[].append)
        assert result["language"] == language
        assert f"--language {language}" in result["command"]
        assert result["normaliser"] == {"de": "Whisper's basic", "en": "Whisper's English"}[language]
        texts[language] = result["rungs"][0]["clips"][0]["text"]
        with float_transcriber(
            plan, workspace.export(plan), load(workspace.checkpoint("tiny") / CHECKPOINT), workspace.whisper
        ) as transcriber:
            assert texts[language] == transcriber.text(spoken.path, language=language)
    assert texts["de"] != texts["en"]


def test_what_is_listed_and_not_there_is_counted_in_fetched_speech_too(recording, tmp_path):
    chapter = tmp_path / "audio" / "LibriSpeech" / "dev-clean" / "1272" / "128104"
    chapter.mkdir(parents=True)
    shutil.copyfile(recording("1272-128104-0008").path, chapter / "1272-128104-0008.flac")
    (chapter / "1272-128104.trans.txt").write_text("1272-128104-0008 SOMETHING\n1272-128104-0009 GONE\n")
    clips, dataset = choose_clips(Workspace(tmp_path), None, None, 0)
    assert [clip.id for clip in clips] == ["1272-128104-0008", "1272-128104-0009"]
    assert dataset["name"] == "librispeech-dev-clean"


def test_a_killed_evaluation_goes_on_in_the_middle_of_a_rung(workspace, tiny_en_bundle, tiny_en_plan, tmp_path):
    rungs, limit = "float+host,emulated+host", 6
    bundle = shutil.copytree(tiny_en_bundle.folder, tmp_path / "bundle")  # for what is recorded in it
    root = tmp_path / "root"
    (root / "build").mkdir(parents=True)
    for path in [*workspace.root.iterdir(), *(workspace.root / "build").iterdir()]:
        if path.name not in ("build", "evaluation"):
            (root / path.relative_to(workspace.root)).symlink_to(path)
    output = tmp_path / "result.json"
    command = [sys.executable, "-m", "whisper_toolchain", "evaluate", "--root", str(root), "--variant", "tiny.en"]
    command += ["--arch", "hailo8", "--rungs", rungs, "--limit", str(limit), "--output", str(output)]
    command += ["--dataset", str(workspace.audio / "registry-sample"), "--bundle", str(bundle)]

    def known() -> list[int]:
        journals = sorted((root / "build" / "evaluation").glob("*.jsonl"), key=lambda path: path.stat().st_ctime_ns)
        return [path.read_bytes().count(b"\n") for path in journals]

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and (len(known()) < 2 or sum(known()) <= limit):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = known()
    assert not output.exists()
    assert limit < sum(before) < 2 * limit
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"evaluate: float+host: {limit} clips, {limit} known from before" in again
    assert f"evaluate: emulated+host: {limit} clips, {sum(before) - limit} known from before" in again
    wanted = Wanted(
        workspace.audio / "registry-sample", limit, rungs=rungs, bundle=bundle, output=tmp_path / "whole.json"
    )
    whole = evaluate_rungs(workspace, tiny_en_plan, wanted, report=[].append)
    found = json.loads(output.read_text())
    assert found["verdict"] == whole["verdict"]
    for rung, other in zip(found["rungs"], whole["rungs"], strict=True):
        assert rung["score"] == other["score"]
        assert [clip["text"] for clip in rung["clips"]] == [clip["text"] for clip in other["clips"]]


def test_a_bundle_without_positional_add_is_named(workspace, tiny_en_bundle, tiny_en_plan, tmp_path):
    bundle = broken(tiny_en_bundle.folder, tmp_path / "broken", without_positions)
    digest = Bundle.open(bundle).manifest.content_digest
    wanted = Wanted(
        workspace.audio / "registry-sample",
        5,
        rungs="float,emulated+float,float+emulated,device,dfc-native,dfc-quantised",
        bundle=bundle,
        output=tmp_path / "result.json",
    )
    said = []
    result = evaluate_rungs(workspace, tiny_en_plan, wanted, report=said.append)
    assert result["verdict"].startswith("first broken rung: float+emulated (the quantised decoder")
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert "--dataset registry-sample" in result["command"]
    assert str(workspace.root.resolve()) not in (tmp_path / "result.json").read_text()
    page = (tmp_path / "result.html").read_text()
    assert "First broken rung: float+emulated" in page
    assert "<audio" in page
    assert main(["report", str(tmp_path / "result.json"), "--audio", str(workspace.audio / "registry-sample")]) == 0
    assert (tmp_path / "result.html").read_text() == page
    assert "EMULATED" in "\n".join(said)
    assert "dfc-native, dfc-quantised: missing: no network (HAR) in build/" in "\n".join(said)
    assert "device: missing: the bundle is emulated" in "\n".join(said)
    manifest = Bundle.open(bundle).manifest
    assert manifest.content_digest == digest
    assert manifest.data["evaluations"][0]["verdict"] == result["verdict"]
