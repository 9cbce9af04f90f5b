"""`whisper-runtime evaluate` on an emulated bundle of real weights and real speech; on a device, see
test_hailort_backend.py.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from whisper_runtime import cli
from whisper_runtime.bundle import Bundle
from whisper_toolchain.stages.evaluate import Wanted, evaluate_rungs

CLIPS = ("1272-128104-0008", "librivox-0920")

WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "whisper", "whisper_toolchain", "numba", "onnx"):
            raise ImportError(f"{name} is not on a device")

sys.meta_path.insert(0, Refuse())
from whisper_runtime.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def bundle(tiny_en_bundle, tmp_path_factory):
    """A copy of the real bundle, for evaluations are recorded in it."""
    folder = tmp_path_factory.mktemp("bundle") / "copy"
    shutil.copytree(tiny_en_bundle.folder.resolve(), folder)
    return folder


@pytest.fixture(scope="module")
def listed(recording, tmp_path_factory):
    """Two real recordings, one that is damaged and one that is not there, as JSON lines."""
    folder = tmp_path_factory.mktemp("listed")
    (folder / "bad.wav").write_bytes(b"no sound")
    entries = [
        {"id": found.id, "audio": str(found.path), "text": found.text} for found in (recording(name) for name in CLIPS)
    ]
    entries += [{"audio": f"{name}.wav", "text": "nothing"} for name in ("bad", "gone")]
    path = folder / "speech.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_an_emulated_bundle_without_torch(listed, bundle, tmp_path, capsys):
    output = tmp_path / "evaluation.json"
    arguments = ["evaluate", str(listed), "--bundle", str(bundle), "--output", str(output)]
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert process.returncode == 0, process.stderr
    assert "EMULATED" in process.stdout
    assert "EMULATED" in process.stderr
    result = json.loads(output.read_text())
    assert [rung["name"] for rung in result["rungs"]] == ["emulated", "emulated+host"]
    assert result["rungs"][1]["against"]["name"] == "emulated"
    assert [clip["id"] for clip in result["dataset"]["unreadable"]] == ["bad.wav", "gone.wav"]
    for rung in result["rungs"]:
        assert rung["device"] is None
        assert rung["score"]["wer"] < 25
        assert rung["peak_memory_mb"] is None or rung["peak_memory_mb"] < 1000
    record = Bundle.open(bundle).manifest.data["evaluations"][-1]
    assert record["emulated"]
    assert (record["by"], sorted(record["wer"])) == ("runtime", ["emulated", "emulated+host"])
    assert (record["unreadable"], record["failed"]) == (2, {})
    assert cli.main(["info", str(bundle)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["evaluated"])
    rates = {rung["name"]: rung["score"] for rung in result["rungs"]}
    for name, score in rates.items():
        assert f"{name} {score['wer']:.1f} ({score['wer_low']:.1f}-{score['wer_high']:.1f})" in line
    assert f"2 clips of {result['dataset']['name']}, WER % (95 % interval): " in line
    assert f"; left out: 2 could not be read; {result['verdict']}" in line
    assert list((tmp_path / "cache" / "hailo-whisper" / "evaluation").glob("*.jsonl"))


def test_without_jiwer_it_is_one_line_that_says_what_to_install(listed, bundle):
    code = WITHOUT_TORCH.replace('"torch", ', '"jiwer", ')
    process = subprocess.run(
        [sys.executable, "-c", code, "evaluate", str(listed), "--bundle", str(bundle)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "word error rates need" in process.stderr
    assert "pip install jiwer" in process.stderr
    assert process.stderr.count("\n") == 1


def test_the_toolchain_writes_the_same_document(listed, workspace, bundle, tiny_en_plan, tmp_path, capsys):
    wanted = Wanted(listed, rungs="emulated", bundle=bundle, output=tmp_path / "host.json")
    host = evaluate_rungs(workspace, tiny_en_plan, wanted, report=lambda _: None)
    arguments = [str(listed), "--bundle", str(bundle), "--output", str(tmp_path / "device.json")]
    assert cli.main(["evaluate", *arguments, "--decoder", "device", "--json"]) == 0
    device = json.loads(capsys.readouterr().out)
    assert device == json.loads((tmp_path / "device.json").read_text())
    assert device.keys() == host.keys()
    assert device["dataset"] == host["dataset"]
    assert device["rungs"][0].keys() == host["rungs"][0].keys()
    assert device["rungs"][0]["clips"] == host["rungs"][0]["clips"]
    assert device["rungs"][0]["score"] == host["rungs"][0]["score"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--decoder", "slots"], "unknown decoder 'slots'"),
        (["--language", "de"], "language"),
        (["--output", "/"], "is a folder"),
    ],
)
def test_bad_options_are_one_line(listed, bundle, capsys, options, words):
    assert cli.main(["evaluate", str(listed), "--bundle", str(bundle), *options]) == 1
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_bad_speech_is_one_line(bundle, tmp_path, capsys, recording):
    options = ["--bundle", str(bundle), "--output", str(tmp_path / "result.json")]
    assert cli.main(["evaluate", str(tmp_path / "nowhere"), *options]) == 1
    assert "there is no dataset" in capsys.readouterr().err
    (tmp_path / "a.wav").symlink_to(recording(CLIPS[0]).path)
    assert cli.main(["evaluate", str(tmp_path), *options]) == 1
    assert "no recording has a transcript" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("uh")
    assert cli.main(["evaluate", str(tmp_path), *options, "--decoder", "host"]) == 1
    assert "no reference has a word" in capsys.readouterr().err
