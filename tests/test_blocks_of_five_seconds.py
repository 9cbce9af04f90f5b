"""base.en on a chip that takes five seconds of it: what the host's decoder makes of real speech, in blocks."""

import contextlib
import dataclasses
import shutil
from pathlib import Path

import pytest
from whisper_runtime.audio import SAMPLE_RATE, load_audio
from whisper_runtime.stitching import RELOCATIONS
from whisper_toolchain.checkpoints import load
from whisper_toolchain.evaluation.rungs import Rungs
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stages.export import export
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.word_errors import count_word_errors

JFK = "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."


@pytest.fixture(scope="module")
def open_host(workspace, weights):
    """Opens the float encoder with the decoder for the host, with or without relocations."""
    weights("base.en")
    plan = ShapePlan.make("base.en", "hailo8")
    stage = export(workspace, plan, workspace.audio / "registry-sample", report=lambda line: None)
    assert min(stage.results["check"]["relocation"]["snr_db"]) > 12
    checkpoint = load(workspace.checkpoint(plan.variant) / CHECKPOINT)
    reason = "float graphs alone"
    rungs = Rungs(plan, stage.folder, checkpoint, workspace.whisper, Path(), reason, "en", networks=reason)

    def call(without=None):
        if without is None:
            return contextlib.closing(rungs.open("float+host"))
        folder = shutil.copytree(stage.folder, without / "export")
        for name in RELOCATIONS:
            (folder / name).unlink()
        return contextlib.closing(dataclasses.replace(rungs, export=folder).open("float+host"))

    return call


def normal(text):
    return "".join(letter for letter in text.lower() if letter.isalnum() or letter == " ")


def test_eleven_seconds_are_one_window_and_word_for_word(open_host, jfk):
    with open_host() as engine:
        assert normal(engine.text(load_audio(jfk))) == normal(JFK)


def test_context_saves_words(open_host, workspace, speech, tmp_path):
    """All of the sample's recordings in English that are longer than a window of the encoder."""
    clips = [item for item in speech.utterances() if item.text and len(load_audio(item.path)) > 5 * SAMPLE_RATE]
    assert len(clips) >= 4
    errors = []
    for without in (None, tmp_path):
        with open_host(without) as engine:
            texts = [engine.text(load_audio(clip.path)) for clip in clips]
        errors.append(count_word_errors([clip.text for clip in clips], texts, workspace.whisper))
    stitched, plain = (each.substitutions + each.deletions + each.insertions for each in errors)
    assert stitched < plain
