"""Which recordings of an evaluation are worth a look."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whisper_toolchain.evaluation.result import measured_rungs

WORST = 8


@dataclass(frozen=True)
class ChosenClip:
    """A recording and why it was chosen.

    Attributes:
        clip: its entry on the last measured rung.
        before: its entry on the float rung; None where that was not measured.
        worst: whether it is among those with the most errors.
        lost: errors more than on the float rung, if it is among those that lost most; otherwise 0.
    """

    clip: Mapping[str, Any]
    before: Mapping[str, Any] | None
    worst: bool
    lost: int


def choose_clips(result: Mapping[str, Any], count: int = WORST) -> list[ChosenClip]:
    """The recordings with the most errors on the last measured rung, and those that lost most against float.

    Args:
        result: of an evaluation.
        count: of each of the two.
    """
    rungs = measured_rungs(result)
    if not rungs:
        return []
    last = rungs[-1]
    before = {}
    if last["name"] != "float":
        before = {key(clip): clip for rung in rungs if rung["name"] == "float" for clip in rung["clips"]}
    wrong = sorted((clip for clip in last["clips"] if clip["errors"]), key=lambda clip: (-clip["errors"], clip["id"]))
    extra = {key(clip): clip["errors"] - before[key(clip)]["errors"] for clip in wrong if key(clip) in before}
    most = {key(clip) for clip in wrong[:count]}
    lost = sorted((each for each in extra if extra[each] > 0), key=lambda each: (-extra[each], each))[:count]
    return [
        ChosenClip(clip, before.get(key(clip)), key(clip) in most, extra[key(clip)] if key(clip) in lost else 0)
        for clip in wrong
        if key(clip) in most or key(clip) in lost
    ]


def key(clip: Mapping[str, Any]) -> tuple[str, str]:
    """What makes two entries the same recording: its name and its sound."""
    return clip["id"], clip["audio"]
