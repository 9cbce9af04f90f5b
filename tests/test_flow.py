"""The whole flow on real weights and real speech: commands, kills, and the text at the end."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from whisper_runtime import cli as runtime_cli
from whisper_runtime.bundle import Bundle
from whisper_runtime.transcriber import Transcriber
from whisper_toolchain import cli as toolchain_cli
from whisper_toolchain.word_errors import count_word_errors

PLAN = ["--variant", "tiny", "--arch", "hailo8"]


@pytest.fixture(scope="module")
def etchings(recording):
    """A clip of 5 s: "as for etchings they are of two kinds british and foreign"."""
    return recording("1272-128104-0008")


@pytest.fixture(scope="module")
def transcriber(tiny_en_bundle):
    return Transcriber(tiny_en_bundle.folder)


def test_transcribes_a_real_recording(transcriber, etchings):
    segments, info = transcriber.transcribe(etchings.path)
    (segment,) = segments
    assert "etchings" in segment.text
    assert "British and foreign." in segment.text
    assert (info.language, info.language_probability, info.task) == ("en", 1.0, "transcribe")
    assert info.duration == pytest.approx(soundfile.info(etchings.path).duration)
    assert segment.start == 0.0
    assert segment.end == pytest.approx(soundfile.info(etchings.path).duration)
    assert -1.0 < segment.avg_logprob < 0.0


def test_text_does_not_depend_on_the_container(transcriber, etchings, tmp_path):
    samples, rate = soundfile.read(etchings.path, dtype="float32")
    stereo = tmp_path / "stereo.flac"
    soundfile.write(stereo, np.stack([samples, samples], axis=1), rate)
    text = transcriber.text(etchings.path)
    assert transcriber.text(stereo) == text
    assert transcriber.text(samples) == text


def test_long_audio_is_cut_without_gaps(transcriber, recording):
    clips = [recording(name) for name in ("1272-128104-0008", "19-198-0001")]
    pause = np.zeros(8000, np.float32)
    parts = [soundfile.read(clip.path, dtype="float32")[0] for clip in clips]
    joined = np.concatenate([piece for part in parts for piece in (part, pause)])
    segments = list(transcriber.transcribe(joined)[0])
    assert len(segments) > 1
    assert segments[0].start == 0.0
    assert segments[-1].end <= len(joined) / 16000
    assert all(a.end <= b.start <= a.end + 2.0 for a, b in itertools.pairwise(segments))
    text = " ".join(segment.text for segment in segments).lower()
    assert "british and foreign" in text
    assert "immediate publication" in text


def test_emulated_bundle_is_close_to_float(transcriber, tiny_en_bundle, workspace, speech, tiny_en_plan):
    from whisper_toolchain.checkpoints import load
    from whisper_toolchain.float_model import float_transcriber
    from whisper_toolchain.stages.fetch import CHECKPOINT

    checkpoint = load(workspace.checkpoint("tiny.en") / CHECKPOINT)
    reference = float_transcriber(tiny_en_plan, tiny_en_bundle.exported.folder, checkpoint, workspace.whisper)
    clips = [clip for clip in speech.utterances() if clip.text]
    texts = [clip.text for clip in clips]
    by_bundle = count_word_errors(texts, [transcriber.text(clip.path) for clip in clips], workspace.whisper)
    by_float = count_word_errors(texts, [reference.text(clip.path) for clip in clips], workspace.whisper)
    assert by_float.words > 200
    assert by_float.percent < 12.0
    assert by_bundle.percent <= by_float.percent + 3.5  # on so few words, one is 0.4 points


def test_the_command_prints_the_text(tiny_en_bundle, transcriber, etchings, capsys):
    assert runtime_cli.main(["transcribe", str(etchings.path), "--bundle", str(tiny_en_bundle.folder)]) == 0
    captured = capsys.readouterr()
    assert transcriber.text(etchings.path) in captured.out
    assert "EMULATED" in captured.err


def test_info_says_that_a_bundle_is_emulated(tiny_en_bundle, capsys):
    assert runtime_cli.main(["info", str(tiny_en_bundle.folder)]) == 0
    text = capsys.readouterr().out
    assert "EMULATED" in text
    assert "tiny.en" in text
    assert "50257 50362, ends at 50256" in text


def test_the_runtime_needs_neither_torch_nor_the_toolchain(tiny_en_bundle, etchings):
    script = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'whisper_toolchain', 'transformers', 'scipy'):\n"
        "            raise ImportError('not on a device: ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from whisper_runtime.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["transcribe", str(etchings.path), "--bundle", str(tiny_en_bundle.folder)]
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "British and foreign." in result.stdout


BAD_AUDIO = {
    "empty": lambda path: path.write_bytes(b""),
    "png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "no-samples": lambda path: soundfile.write(path, np.zeros(0), 16000, format="WAV"),
    "nan": lambda path: soundfile.write(path, np.full(1600, np.nan), 16000, format="WAV", subtype="FLOAT"),
    "missing": lambda path: None,
}


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_bad_audio_is_one_line_and_does_not_stop_the_others(kind, tiny_en_bundle, etchings, tmp_path, capsys):
    bad = tmp_path / f"{kind}.wav"
    BAD_AUDIO[kind](bad)
    files = [str(bad), str(etchings.path)]
    assert runtime_cli.main(["transcribe", *files, "--bundle", str(tiny_en_bundle.folder)]) == 1
    captured = capsys.readouterr()
    assert "British and foreign." in captured.out
    complaints = [line for line in captured.err.splitlines() if line.startswith("whisper-runtime: ")]
    assert len(complaints) == 1
    assert bad.name in complaints[0]
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--variant", "small", "--arch", "hailo8"], "unknown variant 'small'"),
        (["--variant", "tiny", "--arch", "hailo7"], "unknown architecture 'hailo7'"),
        (["--variant", "base", "--arch", "hailo8", "--seconds", "10"], "does not compile for hailo8"),
        (["--variant", "tiny", "--arch", "hailo8"], "run `whisper-toolchain fetch"),
    ],
)
def test_toolchain_refusals_are_one_line(arguments, reason, tmp_path, capsys):
    assert toolchain_cli.main(["export", "--root", str(tmp_path), *arguments]) == 1
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_offline_without_anything_is_one_line(workspace, tmp_path, capsys):
    (tmp_path / "third_party").mkdir()
    shutil.copy(workspace.third_party / "whisper.lock.toml", tmp_path / "third_party")
    (tmp_path / "patches").symlink_to(workspace.root / "patches")
    assert toolchain_cli.main(["fetch", *PLAN, "--offline", "--root", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "offline" in captured.err
    assert captured.err.count("\n") == 1


def test_a_checkpoint_of_another_size_is_refused(new_workspace, weights, capsys):
    workspace = new_workspace()
    own = ["--variant", "base.en", "--arch", "hailo8", "--checkpoint", str(weights("tiny.en"))]
    speech = ["--dataset", str(workspace.audio / "registry-sample")]
    assert toolchain_cli.main(["fetch", *own, *speech, "--root", str(workspace.root)]) == 1
    error = capsys.readouterr().err
    assert "tiny.en" in error
    assert error.count("\n") == 1
    assert not workspace.checkpoint("base.en").exists()


def run_stage_command(root: Path, arguments: list[str], kill_when: Path | None) -> None:
    """Run a stage in a process of its own; with `kill_when`, SIGKILL it once that folder holds a file."""
    command = [sys.executable, "-m", "whisper_toolchain", *arguments, "--root", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if kill_when is not None:
        deadline = time.monotonic() + 120
        while not (kill_when.is_dir() and any(kill_when.iterdir())):
            assert process.poll() is None, "the stage ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def test_killed_in_any_stage_it_ends_in_the_same_bundle(new_workspace, tiny_en_bundle, tiny_en_plan):
    """Also shows that two builds in two folders give the same digest."""
    root = new_workspace().root
    plan = ["--variant", "tiny.en", "--arch", "hailo8"]
    speech = ["--dataset", str(root / "audio" / "registry-sample")]
    build = root / "build"
    shapes, names = build / tiny_en_plan.shape_name, build / tiny_en_plan.bundle_name
    stages = [
        (["fetch", *plan, *speech, "--offline"], build / "tiny.en" / "checkpoint.partial"),
        (["export", *plan, *speech], shapes / "export.partial"),
        (["calibrate", *plan, *speech, "--samples", "16"], shapes / "calibration.partial"),
        (["compile", *plan, "--compiler", "emulator"], names / "compiled.partial"),
        (["bundle", *plan], root / "artifacts" / tiny_en_plan.bundle_name / ".partial"),
    ]
    for arguments, partial in stages:
        run_stage_command(root, arguments, kill_when=partial)
        run_stage_command(root, arguments, kill_when=None)
        assert not partial.exists()
    ours = Bundle.open(root / "artifacts" / tiny_en_plan.bundle_name / "latest").manifest
    assert ours.content_digest == Bundle.open(tiny_en_bundle.folder).manifest.content_digest
