"""What every variant makes of known recordings, word for word: the float graphs in the accelerator's shapes.

The texts in `expected/` were written by this very code and read beside the references; a change in them is a change of
what users get. Write them anew with `python tests/test_expected_texts.py` after `make export` of each variant.
"""

import contextlib
import json
import sys
from pathlib import Path

import pytest
from whisper_runtime.audio import load_audio
from whisper_toolchain.checkpoints import load
from whisper_toolchain.evaluation.rungs import Rungs
from whisper_toolchain.shape_plan import VARIANTS, ShapePlan
from whisper_toolchain.stages.fetch import CHECKPOINT
from whisper_toolchain.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = ROOT / "tests" / "expected"


def texts(workspace, plan, recordings):
    """The float graphs' text of each recording. The decoder for the host drafts, which changes no text."""
    checkpoint = load(workspace.checkpoint(plan.variant) / CHECKPOINT)
    no_bundle = "float graphs alone"
    rungs = Rungs(
        plan, workspace.export(plan), checkpoint, workspace.whisper, Path(), no_bundle, "en", networks=no_bundle
    )
    with contextlib.closing(rungs.open("float")) as engine:
        return {name: engine.text(load_audio(path)).strip() for name, path in recordings.items()}


def recordings_of(speech, jfk):
    return {"jfk": jfk, **{item.id: item.path for item in speech.utterances() if item.text}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_texts_are_the_expected_ones(workspace, float_graphs, speech, jfk, variant):
    expected = json.loads((EXPECTED / f"{variant}.json").read_text(encoding="utf-8"))
    found = texts(workspace, float_graphs(variant), recordings_of(speech, jfk))
    assert "ask what you can do for your country" in found["jfk"]
    assert found == expected


if __name__ == "__main__":
    checkout = Workspace(ROOT)
    recordings = recordings_of(checkout.dataset(None), Path(sys.argv[1]))
    for name in VARIANTS:
        plan = ShapePlan.make(name, "hailo10h" if name.startswith("base") else "hailo8")
        text = json.dumps(texts(checkout, plan, recordings), indent=1, ensure_ascii=False) + "\n"
        (EXPECTED / f"{name}.json").write_text(text, encoding="utf-8")
