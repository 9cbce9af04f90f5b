"""Evaluation: counts against jiwer, intervals, the journal, and real tiny.en weights with a broken rung."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jiwer
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo
from whisper_runtime import manifest as manifest_format
from whisper_runtime.bundle import Bundle
from whisper_runtime.evaluation.metrics import compare, difference, score
from whisper_runtime.measuring import Clip, Journal, measure
from whisper_toolchain.cli import main
from whisper_toolchain.download import sha256_file
from whisper_toolchain.errors import EvaluationError
from whisper_toolchain.evaluation.rungs import parse_rungs
from whisper_toolchain.stages.evaluate import Wanted, evaluate_rungs

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


def with_a_multilingual_vocabulary(folder: Path) -> None:
    """The decoder knows a token more, as a multilingual variant's does."""
    path = folder / "decoder.emulated.onnx"
    decoder = onnx.load(path, load_external_data=False)
    for node in decoder.graph.node:
        node.output[:] = ["shorter" if name == "logits_3" else name for name in node.output]
    decoder.graph.initializer.append(numpy_helper.from_array(np.array([0] * 5 + [1]), "one_more"))
    decoder.graph.node.append(onnx.helper.make_node("Pad", ["shorter", "one_more"], ["logits_3"], "one_more"))
    [logits] = [value for value in decoder.graph.output if value.name == "logits_3"]
    logits.type.tensor_type.shape.dim[2].dim_value += 1
    path.write_bytes(decoder.SerializeToString(deterministic=True))


@pytest.mark.parametrize(
    ("damage", "rungs", "says"),
    [
        (with_a_layer_at_four_bits, "float,emulated+float", "emulated+float (the quantised encoder): +"),
        (
            with_a_multilingual_vocabulary,
            "float,float+emulated",
            "float+emulated (the quantised decoder or the bundle's embeddings): it does not run: the bundle's decoder "
            "is of another variant: it knows 51865 tokens, tiny.en has 51864",
        ),
    ],
)
def test_what_is_broken_is_named(workspace, tiny_en_bundle, tiny_en_plan, tmp_path, damage, rungs, says):
    bundle = broken(tiny_en_bundle.folder, tmp_path / "broken", damage)
    sample = workspace.audio / "registry-sample"
    wanted = Wanted(sample, 10, rungs=rungs, bundle=bundle, output=tmp_path / "result.json")
    result = evaluate_rungs(workspace, tiny_en_plan, wanted, report=[].append)
    assert result["verdict"].startswith(f"first broken rung: {says}")


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
