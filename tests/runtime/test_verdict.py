"""Which rung is called broken, and what is said of few recordings."""

import pytest
from whisper_runtime.evaluation.verdict import FEW_CLIPS, verdict


def rung(points=0.0, low=0.0, clips=FEW_CLIPS, status="measured"):
    against = {"name": "float", "points": points, "low": low, "high": points + 1}
    figures = {"score": {"clips": clips}, "against": against} if status == "measured" else {"reason": "it fell over"}
    return {"name": "emulated", "status": status, "changed": "the quantised encoder", **figures}


def test_nothing_is_broken_by_chance_or_by_little():
    for one in (rung(1.9, 1.0), rung(9.0, 0.0), rung(9.0, -0.1)):
        assert verdict([one]) == "no broken rung: none is 2 points or more above its comparison, beyond chance"


@pytest.mark.parametrize(("clips", "few"), [(FEW_CLIPS, False), (FEW_CLIPS - 1, True), (3, True)])
def test_few_recordings_are_said_to_be_few(clips, few):
    said = verdict([rung(), rung(11.1, 9.1, clips)])
    assert said.startswith("first broken rung: emulated (the quantised encoder): +11.1 points against float, 95 %")
    assert said.endswith(f"; of {clips} recordings only, which is too few to be sure") == few


def test_what_does_not_run_is_broken_whatever_the_number_of_recordings():
    assert verdict([rung(status="failed")]).endswith("it does not run: it fell over")
