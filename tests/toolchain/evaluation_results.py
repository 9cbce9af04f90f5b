"""Made-up results of evaluations, of the shape that the evaluate stage writes."""

from typing import Any

from whisper_runtime.evaluation.metrics import compare, difference, score
from whisper_runtime.evaluation.summary import SCHEMA
from whisper_runtime.evaluation.verdict import verdict


def clip(name: str, reference: str, text: str, duration: float = 4.0, audio: str = "") -> dict[str, Any]:
    errors = compare(reference, text, str)
    return {
        "id": name,
        "audio": audio or f"sha256 of {name}",
        "duration": duration,
        "reference": reference,
        "text": text,
        "errors": errors.errors,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
        "words": errors.words,
        "normalised_reference": errors.reference,
        "normalised_text": errors.text,
    }


def rung(name: str, clips: list[dict[str, Any]], before: dict[str, Any] | None = None) -> dict[str, Any]:
    errors = [compare(each["reference"], each["text"], str) for each in clips]
    against = None
    if before is not None:
        others = [compare(each["reference"], each["text"], str) for each in before["clips"]]
        found = difference(errors, others)
        against = {"name": before["name"], "points": found.points, "low": found.low, "high": found.high, "p": found.p}
    return {
        "name": name,
        "status": "measured",
        "changed": "what is new",
        "score": score(errors).as_dict(),
        "drafted": False,
        "calls": 10,
        "seconds": 2.0,
        "stages": {"encoder": 0.5, "decoder": 1.0},
        "real_time_factor": 0.1,
        "peak_memory_mb": None,
        "failed": [],
        "clips": clips,
        "against": against,
    }


def result(rungs: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    made = {
        "schema": SCHEMA,
        "date": "2026-11-28T08:00:00+00:00",
        "command": "whisper-toolchain evaluate --variant tiny",
        "bundle": {"name": "whisper-toy", "version": "0.1.0+0123", "digest": "0123abcd", "emulated": True},
        "dataset": {
            "name": "toy",
            "digest": "speech",
            "seed": 0,
            "limit": None,
            "clips": 2,
            "seconds": 8.0,
            "without_text": 0,
            "unreadable": [],
        },
        "language": "en",
        "normaliser": "Whisper's English",
        "machine": {"cores": 2},
        "toolchain": "0.1.0",
        "git_revision": "abc",
        "versions": {"numpy": "2"},
        "rungs": rungs,
        "verdict": verdict(rungs),
    }
    return {**made, **changes}


SAID = ("one two three four", "five six seven eight")


def missing(name: str, reason: str = "no device here") -> dict[str, Any]:
    return {"name": name, "status": "missing", "changed": "the device", "reason": reason}


def toy_result(**changes: Any) -> dict[str, Any]:
    """Stock, float, a broken quantised encoder, and a device that is not there."""
    stock = rung("stock", [clip(f"c{i}", said, said) for i, said in enumerate(SAID)])
    floats = rung("float", [clip("c0", SAID[0], SAID[0]), clip("c1", SAID[1], "five sax seven eight", 12.0)], stock)
    broken = [clip("c0", SAID[0], "won two tree four five"), clip("c1", SAID[1], "sax seven", 12.0)]
    return result([stock, floats, rung("emulated+float", broken, floats), missing("device")], **changes)
