"""The vendor's path as a user walks it: `make all` with the compiler in DFC_PYTHON's place, interrupted and resumed.

The compiler and the device are the strict fakes; weights, speech, commands, files and text are real.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jiwer
import pytest
from whisper_runtime import window_reader
from whisper_runtime.bundle import Bundle
from whisper_runtime.hef import read_hef
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain import cli as toolchain_cli
from whisper_toolchain.bundle_writer import check_hef
from whisper_toolchain.errors import WhisperError
from whisper_toolchain.shape_plan import ShapePlan

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("Makefile", "requirements.lock", "patches", "runtime", "toolchain", ".venv", "audio")
SECONDS = 600
# Clear speech: the fake compiler and the emulator round differently, which on harder clips changes words.
CLIPS = ("spk1-snt4", "spk1-snt5", "spk2-snt1", "19-198-0001")


def start(root, environment, *variables):
    """Start `make all` in a process group of its own, as a terminal does, with its output in `make.log`."""
    with (root / "make.log").open("wb") as log:
        return subprocess.Popen(
            ["make", "all", *variables],
            cwd=root,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process, root):
    status = process.wait(SECONDS)
    return status, (root / "make.log").read_text()


def interrupt_when(process, root, sign):
    """Press Ctrl-C as soon as a file or folder is there."""
    deadline = time.monotonic() + SECONDS
    while not sign.exists():
        assert process.poll() is None, f"ended before {sign}: {(root / 'make.log').read_text()[-2000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    status, said = finish(process, root)
    assert status != 0
    assert "Traceback" not in said
    return said


TINY, BASE = ("tiny", "hailo8", "3.33.0"), ("base", "hailo10h", "5.1.0")
# What is the same for every variant, and takes long.
with_tiny = pytest.mark.parametrize("made", [TINY], indirect=True, ids=str)


@pytest.fixture(scope="module", params=[TINY, BASE], ids=str)
def made(request, speech, weights, dfc_python, tmp_path_factory):
    """A bundle from `make all COMPILER=dfc`; tiny's is interrupted in every stage and in steps of both graphs."""
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("these tests run make, and this checkout was not installed by make")
    variant, arch, dfc = request.param
    weights(variant)
    root = tmp_path_factory.mktemp("checkout")
    for name in SHARED:
        (root / name).symlink_to(ROOT / name)
    (root / "third_party").mkdir()
    for path in (ROOT / "third_party").iterdir():
        (root / "third_party" / path.name).symlink_to(path)
    settings = root / "fake.json"
    settings.write_text(json.dumps({"dfc": dfc}))
    variables = [f"VARIANT={variant}", f"ARCH={arch}", "COMPILER=dfc", f"DFC_PYTHON={dfc_python}"]
    variables.append(f"DATASET={root / 'audio' / 'registry-sample'}")
    environment = {"FAKE_HAILO": str(settings)}
    plan = ShapePlan.make(variant, arch)
    build, work = root / "build", root / "build" / plan.bundle_name / "dfc"
    signs = [
        build / variant / "checkpoint.partial",
        build / plan.shape_name / "export.partial",
        build / plan.shape_name / "calibration.partial",
        work / "partial" / "encoder.translate.log",
        work / "partial" / "encoder.optimise.log",
        work / "partial" / "decoder.optimise.log",
        work / "partial" / "decoder.compile.log",
        root / "artifacts" / plan.bundle_name / ".partial",
    ]
    if request.param != TINY:
        signs = []
    said = [interrupt_when(start(root, environment, *variables), root, sign) for sign in signs]
    status, last = finish(start(root, environment, *variables), root)
    assert status == 0, last[-3000:]
    bundle = root / "artifacts" / plan.bundle_name / "latest"
    return plan, root, bundle, [*said, last], (environment, variables)


@with_tiny
def test_an_interrupted_run_goes_on_where_it_stopped(made):
    _, _, _, said, _ = made
    in_decoder_optimise, in_decoder_compile = said[5], said[6]
    assert "dfc: encoder: optimise: done before" in in_decoder_compile
    assert "dfc: encoder: optimise: done before" not in in_decoder_optimise
    assert "dfc: decoder: optimise: done before" in said[7]
    for stage in ("fetch", "export", "calibrate", "compile"):
        assert f"{stage}: up to date" in said[-1]


def test_the_bundle_holds_what_was_compiled(made):
    plan, _, folder, _, _ = made
    manifest = Bundle.open(folder).manifest
    assert not manifest.emulated
    assert manifest.data["compiler"]["name"] == "dfc"
    for graph in ("encoder", "decoder"):
        hef = read_hef(folder / f"{graph}.hef")
        assert hef.architecture == plan.arch
        assert hef.network_groups == (f"whisper_{plan.variant}_{graph}",)
        assert "quantization_param(" in (folder / f"{graph}.alls").read_text()
        took = manifest.data["build"]["compilation"][graph]["optimise"]
        assert took["seconds"] > 0
        assert took["peak_memory_bytes"] > 1e8
    assert "==> decoder: compile" in (folder / "dfc.log").read_text()
    assert 20 < manifest.data["build"]["snr_db"]["features"] < 40


def test_a_second_run_does_nothing(made):
    _, root, folder, _, (environment, variables) = made
    before = folder.resolve()
    status, said = finish(start(root, environment, *variables), root)
    assert status == 0
    assert "dfc:" not in said
    assert "up to date" in said
    assert folder.resolve() == before


def test_without_the_device_the_demo_says_what_to_do(made):
    plan, _, _, said, _ = made
    assert f"demo: skipped, the bundle runs on a {plan.arch} and not here" in said[-1]
    assert "whisper-runtime transcribe FILE --bundle FOLDER" in said[-1]


def test_the_device_says_what_the_emulator_says(made, fake_vendor_path, monkeypatch, recording, tmp_path):
    """Real speech through the HailoRT backend, and the same graphs emulated for ONNX Runtime."""
    # Which look wins hangs on the last bits of a probability, and the device's logits are rounded once more.
    monkeypatch.setattr(window_reader, "LOOKS", window_reader.LOOKS[:1])
    plan, root, folder, _, _ = made
    settings = tmp_path / "device.json"
    architecture, version = ("HAILO10H", "5.1.0") if plan.arch == "hailo10h" else ("HAILO8", "4.23.0")
    settings.write_text(json.dumps({"device": {"architecture": architecture}, "hailort": version}))
    monkeypatch.setenv("FAKE_HAILO", str(settings))
    clips = [recording(name) for name in CLIPS]
    with Transcriber(folder) as transcriber:
        by_device = [transcriber.text(clip.path) for clip in clips]
    options = ["--variant", plan.variant, "--arch", plan.arch, "--root", str(root)]
    elsewhere = ["--compiled-dir", str(tmp_path / "emulated"), "--artifacts-dir", str(tmp_path / "artifacts")]
    assert toolchain_cli.main(["compile", *options, "--compiler", "emulator", *elsewhere[:2]]) == 0
    assert toolchain_cli.main(["bundle", *options, *elsewhere]) == 0
    with Transcriber(tmp_path / "artifacts" / plan.bundle_name / "latest") as transcriber:
        by_emulator = [transcriber.text(clip.path) for clip in clips]
    # The device's logits are rounded to integers: where the model hesitates to end, that decides.
    assert jiwer.wer(by_emulator, by_device) < 0.2  # six words of 49, three of them at such an end
    assert "Sunday is the best part" in " ".join(by_device)
    assert len(by_device[-1].split()) > 20  # 12 s: two windows or more


def test_the_command_transcribes_on_the_device(made, recording, tmp_path):
    plan, _, folder, _, _ = made
    settings = tmp_path / "device.json"
    settings.write_text(
        json.dumps(
            {"device": {"architecture": "HAILO10H"}, "hailort": "5.1.0"}
            if plan.arch == "hailo10h"
            else {"device": {"architecture": "HAILO8"}}
        )
    )
    result = subprocess.run(
        [sys.executable, "-m", "whisper_runtime", "transcribe", recording("1272-128104-0008").path, "--bundle", folder],
        env={**os.environ, "FAKE_HAILO": str(settings), "PYTHONPATH": str(ROOT / "tests" / "fakes")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "British and foreign" in result.stdout
    assert "EMULATED" not in result.stderr


def test_a_hef_for_another_architecture_does_not_get_into_a_bundle(made):
    plan, _, folder, _, _ = made
    other = ShapePlan.make(plan.variant, "hailo8l")
    check_hef(folder / "encoder.hef", plan)
    with pytest.raises(WhisperError, match=f"compiled for {plan.arch}, the bundle is for hailo8l"):
        check_hef(folder / "encoder.hef", other)


@with_tiny
def test_the_compilers_own_networks_are_rungs(made, dfc_python, recording, tmp_path, capsys):
    """The ladder from float to what the compiler quantised, run by the compiler in its own interpreter."""
    plan, root, _, _, (environment, _) = made
    speech = tmp_path / "speech.jsonl"
    clips = [recording(name) for name in CLIPS[:2]]
    entries = [{"id": clip.id, "audio": str(clip.path), "text": clip.text} for clip in clips]
    speech.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    rungs = ["float", "dfc-native", "dfc-optimised", "float+dfc-quantised", "dfc-quantised"]
    output = tmp_path / "evaluation.json"
    options = ["--variant", plan.variant, "--arch", plan.arch, "--root", str(root), "--dataset", str(speech)]
    options += ["--rungs", ",".join(rungs), "--output", str(output), "--dfc-python", dfc_python]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_HAILO", environment["FAKE_HAILO"])
        assert toolchain_cli.main(["evaluate", *options]) == 0
    result = json.loads(output.read_text())
    assert [(rung["name"], rung["status"]) for rung in result["rungs"]] == [(name, "measured") for name in rungs]
    texts = {rung["name"]: [clip["text"] for clip in rung["clips"]] for rung in result["rungs"]}
    assert texts["float"] == texts["dfc-native"] == texts["dfc-optimised"]
    assert "best part" in " ".join(texts["float"])
    assert jiwer.wer(texts["float"], texts["dfc-quantised"]) < 0.3
    against = {rung["name"]: rung["against"] and rung["against"]["name"] for rung in result["rungs"]}
    assert against["dfc-quantised"] == "dfc-optimised"
    assert against["dfc-optimised"] == "dfc-native"
