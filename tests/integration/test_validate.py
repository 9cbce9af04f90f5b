"""Validation: the real model in the app against the runtime, and what makes it fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from integration import app_venv
from integration.app import EXAMPLES, App
from integration.app_run import AppRun
from integration.app_source import CLONE, cloned_app, newest_bundle
from integration.app_venv import AppPython, app_python
from integration.cli import main
from integration.clip import Clip, fetched_clip, repeated, shortened, silence
from integration.errors import AppError, ValidationError
from integration.install import install
from integration.validate import Project, _compare, differing_words, validate, words
from tests.integration.helpers import EMULATED, LIBRARIES, ROOT, STUBS, ignore, make_app, tone

PROJECT = Project(ROOT / "audio", ROOT / "build" / "app-venv", ROOT / "requirements.lock")


@pytest.fixture
def ready(monkeypatch):
    """This interpreter passes for one that was made for the app."""
    python = AppPython(Path(sys.executable), (EMULATED, LIBRARIES, STUBS))
    monkeypatch.setattr("integration.validate.app_python", lambda *_, **__: python)


def check(app, report=ignore, **options):
    given = {"bundle": None, "clip": None, "given_python": None, "offline": True, **options}
    validate(app, PROJECT, report=report, **given)


def test_real_words_from_the_app(examples_app, tiny_en_bundle, speech, recording, ready):
    lines = []
    install(examples_app, tiny_en_bundle.folder, emulated=True, report=ignore)
    utterance = recording("1272-128104-0008")
    check(examples_app, lines.append, clip=Clip.read(utterance.path, utterance.text))
    text = "\n".join(lines)
    assert "EMULATED: this run has no Hailo device" in text
    assert "reference AS FOR ETCHINGS" in text
    for who in ("runtime   ", "app       "):
        assert "etchings" in next(line for line in lines if line.startswith(who))
    assert "silence of 3 s: no speech" in text
    assert "70 s: 6 windows of 10 s" in text


def test_another_text_than_the_runtimes_fails():
    clip = tone()
    with pytest.raises(ValidationError, match=r"100% of the words differ"):
        _compare(AppRun(["the the the"], False, 1.0), clip, "as for etchings", ignore)
    lines = []
    _compare(AppRun(["As for, etching they are!"], False, 1.0), clip, "As for etchings, they are.", lines.append)
    assert lines[-1] == "the app's words are the runtime's but for: 'etchings' -> 'etching'"
    with pytest.raises(ValidationError, match="nothing to compare with"):
        _compare(AppRun(["words"], False, 1.0), clip, None, ignore)


@pytest.mark.parametrize(
    ("found", "expected", "share"), [("a b c", "a b c", 0), ("a c", "a b c", 1 / 3), ("x", "", 1), ("", "a", 1)]
)
def test_differing_words(found, expected, share):
    assert differing_words(words(found), words(expected))[1] == pytest.approx(share)


def test_what_must_be_there_first(examples_app, toy_bundle, tmp_path):
    def refusal(**options):
        with pytest.raises((ValidationError, AppError)) as caught:
            check(examples_app, **options)
        return str(caught.value)

    assert "make install-app first" in refusal()
    install(examples_app, toy_bundle("tiny.en"), emulated=True, report=ignore)
    other = toy_bundle("base.en", "hailo8l")
    assert "is not installed" in refusal(bundle=other)
    assert "no bundle" in refusal(bundle=tmp_path)
    next((examples_app / "app/whisper_bundles").glob("*/gpt2.tiktoken")).unlink()
    assert "missing or undone" in refusal()


def test_an_app_that_speaks_through_silence_fails(examples_app, toy_bundle, ready, monkeypatch):
    install(examples_app, toy_bundle(), emulated=True, report=ignore)
    monkeypatch.setattr("integration.validate._compare", lambda *_: None)
    monkeypatch.setattr("integration.validate.run_app", lambda *_: AppRun(["Thank you."], False, 1.0))
    with pytest.raises(ValidationError, match=r"silence: the app shows 'Thank you\.'"):
        check(examples_app, clip=tone())


def test_clips(tmp_path, speech):
    clip = fetched_clip(ROOT / "audio", 10)
    assert clip.reference
    assert 5 < clip.seconds <= 10 * 2 / 3
    assert shortened(clip, 0.2).seconds == pytest.approx(0.2)
    assert repeated(clip, 70).seconds == 70
    assert not silence(3).samples.any()
    clip.write(tmp_path / "clip.wav")
    again = Clip.read(tmp_path / "clip.wav")
    assert abs(again.samples - clip.samples).max() < 1e-4
    with pytest.raises(ValidationError, match="make audio"):
        fetched_clip(tmp_path, 10)


# The interpreter for the app


def python_of(app, folder, **options):
    given = {"given": None, "emulated": True, "offline": True, "report": ignore, **options}
    return app_python(App.find(app), folder, ROOT / "requirements.lock", **given)


def test_the_apps_requirements_with_our_torch(examples_app, tmp_path, monkeypatch):
    monkeypatch.setattr(app_venv.shutil, "which", lambda name: None)
    (examples_app / app_venv.REQUIREMENTS).write_text("transformers==4.50.1  # hub\ntorch==2.6.0\ntorchaudio\n")
    lines = []
    app = App.find(examples_app)
    wanted = app_venv._requirements(app, ROOT / "requirements.lock", True, lines.append)
    assert wanted[:3] == ["transformers==4.50.1", "torch==2.13.0", "torchaudio"]
    assert wanted[3].startswith("onnxruntime==")
    assert wanted[4:] == ["imageio-ffmpeg"]
    assert "in the place of the app's torch==2.6.0" in lines[0]


def test_offline_without_an_interpreter(examples_app, tmp_path):
    with pytest.raises(ValidationError, match="APP_PYTHON"):
        python_of(examples_app, tmp_path / "none")


def test_a_given_interpreter_is_used_and_completed(examples_app, tmp_path, monkeypatch):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "ffmpeg").write_text("#!/bin/sh\n")
    (bin_folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder), prepend=":")
    missing = {"import sounddevice": "OSError: PortAudio library not found"}
    monkeypatch.setattr(app_venv, "_fails", lambda _, script: missing.get(script, ""))
    lines = []
    python = python_of(examples_app, tmp_path, given=Path(sys.executable), report=lines.append)
    assert python.executable == Path(sys.executable)
    assert python.import_path[0].name == "emulated"
    assert python.import_path[-1].name == "stand_ins"
    assert any("STAND-IN for sounddevice" in line for line in lines)
    compiled = python_of(examples_app, tmp_path, given=Path(sys.executable), emulated=False)
    assert [path.name for path in compiled.import_path] == ["stand_ins"]


def test_a_compiled_bundle_is_not_validated_without_hailort(examples_app, tmp_path):
    with pytest.raises(ValidationError, match="No module named 'hailo_platform': a compiled bundle needs HailoRT"):
        python_of(examples_app, tmp_path, given=Path(sys.executable), emulated=False)


# Where the app and the bundle come from


@pytest.fixture
def vendor_repository(tmp_path):
    """A repository like the vendor's, to clone from."""
    app = make_app(tmp_path / "origin", "examples")
    root = app.parents[2]
    (root / "other").mkdir()
    (root / "other" / "large.bin").write_bytes(b"x")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "app"]):
        subprocess.run(["git", "-C", str(root), *command], check=True, capture_output=True)
    return f"file://{root}"


def test_a_clone_is_made_once_and_only_of_the_app(tmp_path, vendor_repository):
    folder = tmp_path / "third_party"
    folder.mkdir()
    clone = cloned_app(folder, offline=False, report=ignore, repository=vendor_repository)
    assert App.find(clone).root == (clone / EXAMPLES).resolve()
    assert not (clone / "other").exists()
    assert cloned_app(folder, offline=True, report=ignore, repository="nowhere") == clone


def test_without_a_network(tmp_path):
    with pytest.raises(AppError, match="APP_DIR"):
        cloned_app(tmp_path, offline=True, report=ignore)
    with pytest.raises(AppError, match="cannot be cloned"):
        cloned_app(tmp_path, offline=False, report=ignore, repository=f"file://{tmp_path}/nothing")
    assert list(tmp_path.iterdir()) == []


def test_install_validate_and_uninstall_leave_a_clean_checkout(tmp_path, vendor_repository, toy_bundle, capsys):
    (tmp_path / "third_party").mkdir()
    clone = cloned_app(tmp_path / "third_party", offline=False, report=ignore, repository=vendor_repository)
    bundle = tmp_path / "artifacts" / "whisper-tiny.en" / "0.1.0"
    shutil.copytree(toy_bundle(), bundle)
    (bundle.parent / "latest").symlink_to("0.1.0")
    assert newest_bundle(tmp_path / "artifacts") == bundle.parent / "latest"

    def status():
        done = subprocess.run(
            ["git", "-C", str(clone), "status", "--short"], capture_output=True, text=True, check=True
        )
        return done.stdout

    assert main(["install", "--root", str(tmp_path)]) == 1
    assert status() == ""
    assert main(["install", "--root", str(tmp_path), "--emulated"]) == 0
    assert "--variant tiny.en" in capsys.readouterr().out
    assert CLONE in str(clone)
    assert "app/hailo_whisper_pipeline.py" in status()
    assert main(["uninstall", "--root", str(tmp_path)]) == 0
    assert status() == ""


def test_the_command_line_says_what_is_missing(tmp_path, capsys):
    assert main(["uninstall", "--root", str(tmp_path)]) == 1
    assert "give the app's folder as APP_DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["install", "--bundel", "x"])
    assert capsys.readouterr().err.count("\n") == 1


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(AppError, match="build one with make all"):
        newest_bundle(tmp_path)
