"""What is said of recordings that a rung has no text for."""

from pathlib import Path

from whisper_runtime.evaluation.record import record
from whisper_runtime.evaluation.rung import MEASURED, RungRun
from whisper_runtime.evaluation.summary import summarise
from whisper_runtime.evaluation.table import table
from whisper_runtime.measuring import Clip, Measured

CLIPS = [Clip(name, Path("/private") / name, "one two three") for name in ("a.wav", "b.wav", "c.wav", "d.wav")]
GONE = {"error": "cannot read '/private/c.wav': gone", "unreadable": True}


def run(**errors):
    """A rung that has a text for every recording but those of which something is said."""
    clips = {}
    for clip in CLIPS:
        said = errors.get(clip.id[0], {"text": "one two three", "stages": {"encoder": 0.25, "decoder": 1.5}})
        clips[clip.id] = Measured(clip.id, clip.id, 2.0, **said)
    return RungRun(MEASURED, clips=clips)


def result_of(runs):
    return summarise(
        runs,
        CLIPS,
        str,
        dataset={"name": "toy", "digest": "0", "seed": 0, "limit": None, "without_text": 0},
        bundle={"name": "toy", "version": None, "digest": None, "emulated": False},
        language="en",
        normaliser="none",
        git_revision=None,
        versions={},
    )


def test_nothing_is_dropped_in_silence_and_a_rung_that_fails_on_one_recording_is_named():
    never = {"error": "cannot read '/private/d.wav': not audio", "unreadable": True}
    broken = {"error": "the device did not answer"}
    result = result_of({"float": run(d=never), "device": run(c=GONE, d=never), "device+host": run(a=broken, d=never)})
    assert result["dataset"]["unreadable"] == [{"id": "d.wav", "reason": "cannot read 'd.wav': not audio"}]
    first, later, last = result["rungs"]
    assert first["failed"] == []
    assert later["failed"] == [{"id": "c.wav", "reason": "cannot read 'c.wav': gone", "unreadable": True}]
    assert last["failed"] == [{"id": "a.wav", "reason": "the device did not answer", "unreadable": False}]
    assert [rung["score"]["clips"] for rung in result["rungs"]] == [3, 2, 2]
    # What has gone meanwhile is not the rung's fault.
    assert result["verdict"] == (
        "first broken rung: device+host (the decoder for the host behind the device): it fails on 1 of 3 recordings: "
        "the device did not answer"
    )
    kept = record(result, "runtime")
    assert (kept["unreadable"], kept["failed"]) == (1, {"device": 1, "device+host": 1})


def test_the_table_has_the_time_of_each_stage():
    result = result_of({"float": run()})
    head, line = (line.split() for line in table(result).splitlines()[1:3])
    assert head[head.index("calls") + 1 : head.index("RTF")] == ["enc", "s", "dec", "s"]
    assert "1.0 6.0" in " ".join(line)
