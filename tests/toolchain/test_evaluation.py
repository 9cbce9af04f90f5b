"""Evaluation: counts against jiwer, intervals, the journal, and real tiny.en weights with a broken rung."""

import json
import shutil
from pathlib import Path

import jiwer
import numpy as np
import pytest
from whisper_runtime import manifest as manifest_format
from whisper_runtime.bundle import Bundle
from whisper_runtime.evaluation.metrics import compare, difference, score
from whisper_runtime.measuring import Clip, Journal, measure
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


def without_positions(folder: Path, target: Path) -> Path:
    """The same bundle but for its positional embedding, which is zero, sealed as if that were right."""
    shutil.copytree(folder.resolve(), target)
    path = target / "positional_embedding.npy"
    np.save(path, np.zeros_like(np.load(path)))
    data = Bundle.open_unverified(target).manifest.data
    files = {**data["files"], path.name: {"size": path.stat().st_size, "sha256": sha256_file(path)}}
    sealed = manifest_format.seal({**data, "files": files}, data["version"].split("+")[0])
    (target / "manifest.json").write_bytes(manifest_format.serialise(sealed))
    return target


def test_a_bundle_without_positional_add_is_named(workspace, tiny_en_bundle, tiny_en_plan, tmp_path):
    broken = without_positions(tiny_en_bundle.folder, tmp_path / "broken")
    digest = Bundle.open(broken).manifest.content_digest
    wanted = Wanted(
        workspace.audio / "registry-sample",
        5,
        rungs="float,emulated+float,float+emulated,device",
        bundle=broken,
        output=tmp_path / "result.json",
    )
    said = []
    result = evaluate_rungs(workspace, tiny_en_plan, wanted, report=said.append)
    assert result["verdict"].startswith("first broken rung: float+emulated (the quantised decoder")
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert "EMULATED" in "\n".join(said)
    assert "device          missing: the bundle is emulated" in "\n".join(said)
    manifest = Bundle.open(broken).manifest
    assert manifest.content_digest == digest
    assert manifest.data["evaluations"][0]["verdict"] == result["verdict"]
