"""What every variant makes of known recordings, word for word: the float graphs in the accelerator's shapes.

The texts in `expected/` were written by this very code and read beside the references; a change in them is a change of
what users get. Write them anew with `python tests/test_expected_texts.py` after `make export` of each variant.
"""

import json
import sys
from pathlib import Path

import pytest
from whisper_toolchain.checkpoints import load
from whisper_toolchain.float_model import float_transcriber
from whisper_toolchain.shape_plan import ShapePlan
from whisper_toolchain.stages.export import export
from whisper_toolchain.stages.fetch import CHECKPOINT, fetch
from whisper_toolchain.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = ROOT / "tests" / "expected"
ARCHITECTURES = {"tiny": "hailo8", "tiny.en": "hailo8", "base": "hailo10h", "base.en": "hailo10h"}


def texts(workspace, variant, recordings):
    plan = ShapePlan.make(variant, ARCHITECTURES[variant])
    checkpoint = load(workspace.checkpoint(variant) / CHECKPOINT)
    with float_transcriber(plan, workspace.export(plan), checkpoint, workspace.whisper) as transcriber:
        return {name: transcriber.text(path, language="en") for name, path in recordings.items()}


def recordings_of(speech, jfk):
    return {"jfk": jfk, **{item.id: item.path for item in speech.utterances() if item.text}}


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_the_texts_are_the_expected_ones(tmp_path, speech, jfk, variant):
    for name in ("third_party", "patches", "audio"):
        (tmp_path / name).symlink_to(ROOT / name, target_is_directory=True)
    workspace = Workspace(tmp_path)
    sample = workspace.audio / "registry-sample"
    fetch(workspace, variant, None, sample, offline=False, report=print)
    export(workspace, ShapePlan.make(variant, ARCHITECTURES[variant]), sample, report=print)
    expected = json.loads((EXPECTED / f"{variant}.json").read_text(encoding="utf-8"))
    found = texts(workspace, variant, recordings_of(speech, jfk))
    assert "ask what you can do for your country" in found["jfk"]
    assert found == expected


if __name__ == "__main__":
    checkout = Workspace(ROOT)
    recordings = recordings_of(checkout.dataset(None), Path(sys.argv[1]))
    for name in ARCHITECTURES:
        text = json.dumps(texts(checkout, name, recordings), indent=1, ensure_ascii=False) + "\n"
        (EXPECTED / f"{name}.json").write_text(text, encoding="utf-8")
