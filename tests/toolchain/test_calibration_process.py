"""A calibration set's recording as a process: killed at random points, and with little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from whisper_runtime.audio import SAMPLE_RATE
from whisper_toolchain import third_party
from whisper_toolchain.calibration import CALIBRATION
from whisper_toolchain.checkpoints import save
from whisper_toolchain.export import export_graphs
from whisper_toolchain.model import build_model
from whisper_toolchain.shape_plan import Dimensions, ShapePlan

DIMS = Dimensions(80, 50, 16, 2, 1, 51864, 448, 16, 2, 1)
KILLS = 10


@pytest.fixture(scope="module")
def toy(patched_whisper, patched_tree, toy_checkpoint, tmp_path_factory):
    """A folder with a toy model and speech, and a way to run toy_calibration.py on it."""
    folder = tmp_path_factory.mktemp("toy")
    checkpoint = toy_checkpoint(DIMS, 5)
    # With these, tokens change from place to place, and most texts end after a few; else all would be loops.
    checkpoint.state["decoder.positional_embedding"] *= 2
    checkpoint.state["decoder.token_embedding.weight"][50256] = 1.68 * checkpoint.state["decoder.ln.bias"]
    for name in ("decoder.ln.weight", "decoder.ln.bias"):
        checkpoint.state[name] *= 3  # few choices are close: the runtime's own decoder makes those again, and is slow
    save(checkpoint, folder / "checkpoint.safetensors")
    export_graphs(build_model(patched_whisper, checkpoint, 50), ShapePlan("toy", "hailo8", 1, 12, DIMS), folder)
    (folder / "ranks.tiktoken").write_bytes((third_party.assets(patched_tree) / "gpt2.tiktoken").read_bytes())
    (folder / "speech").mkdir()
    random = np.random.default_rng(0)
    for number in range(12):
        samples = np.concatenate(
            [scale * random.standard_normal(int(SAMPLE_RATE * random.uniform(0.2, 0.9))) for scale in (0.1, 0.001) * 4]
        )
        soundfile.write(folder / "speech" / f"{number:02}.wav", samples, SAMPLE_RATE)

    def run(*arguments):
        script = Path(__file__).with_name("toy_calibration.py")
        words = [sys.executable, str(script), arguments[0], str(folder), *map(str, arguments[1:])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return SimpleNamespace(folder=folder, run=run)


def test_killed_ten_times_it_ends_in_the_same_bytes(toy):
    assert toy.run("whole") == {"rows": 140}
    result = toy.run("interrupted", KILLS, 1)
    assert result["kills"] == KILLS
    assert result["status"] == 0
    # Every kill was in the midst of it: something was done, and something left to do.
    lines = result["lines"]
    assert lines[-1] == 0  # the journal of a finished set is gone
    assert lines[:-1] == sorted(lines[:-1])
    assert len(set(lines[:-1])) > KILLS // 2
    for name in (*CALIBRATION.arrays, CALIBRATION.rows):
        assert (toy.folder / "whole" / name).read_bytes() == (toy.folder / "interrupted" / name).read_bytes()
    rows = [json.loads(line) for line in (toy.folder / "whole" / CALIBRATION.rows).read_text().splitlines()]
    lengths = {len(row["tokens"]) for row in rows[:120]}
    assert len(lengths) > 3, lengths


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a second core to compare with")
def test_the_number_of_cores_makes_no_difference(toy):
    toy.run("whole")
    toy.run("one_core")
    for name in (*CALIBRATION.arrays, CALIBRATION.rows):
        assert (toy.folder / "whole" / name).read_bytes() == (toy.folder / "one_core" / name).read_bytes()


def test_memory_does_not_grow_with_the_rows(toy):
    """The arrays are more than twice as large as what the process may take beyond what few rows need.

    Some 30 MB are for the runtime's own decoder: few rows need not be among those that go to it.
    """
    further = 45_000_000
    result = toy.run("bounded", 3000, further)
    assert result["rows"] == 3000
    assert result["bytes"] > 2 * further
