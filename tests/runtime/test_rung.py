"""Measuring one rung: what is known from before."""

import numpy as np
import soundfile
from whisper_runtime.evaluation.rung import measure_rung, open_journal
from whisper_runtime.measuring import Clip


class Parrot:
    """An engine that says one word."""

    sensors = None
    calls = 0

    def __init__(self):
        self.stages = {}

    def text(self, samples):
        return "word"

    def close(self):
        pass


def test_known_is_what_is_known_of_these_recordings(tmp_path):
    clips = []
    for name in ("a", "b", "c"):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, np.full(1600, 0.1 * len(clips)), 16000)
        clips.append(Clip(name, path, "word"))
    clips.append(Clip("gone", tmp_path / "gone.wav", "word"))
    journal, lines = open_journal(tmp_path, {"rung": "float"}), []
    for chosen in (clips[:2], clips[1:], clips[3:]):
        measure_rung("float", Parrot, chosen, journal, report=lines.append)
    assert lines == [
        "evaluate: float: 2 clips",
        "evaluate: float: 3 clips, 1 known from before",
        "evaluate: float: 1 clips",
    ]
