"""What a bundle's manifest keeps of an evaluation."""

from collections.abc import Mapping
from typing import Any

from whisper_runtime import manifest as manifest_format
from whisper_runtime.atomic_file import write_atomically
from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import EvaluationError

# One record for each of these and for the rungs: what a host and what a device measured on the same speech stand beside
# each other, and some rungs measured again do not replace the whole ladder.
_SAME = ("language", "dataset", "by")
_BEFORE = {"by": "toolchain"}  # in records of before there was another


def record(result: Mapping[str, Any], by: str) -> dict[str, Any]:
    """The record of a result.

    Args:
        result: what `summarise` returned.
        by: which command measured, "toolchain" or "runtime".
    """
    kept = ("name", "digest", "seed", "clips")
    failed = {rung["name"]: len(rung["failed"]) for rung in result["rungs"] if rung.get("failed")}
    measured = [rung for rung in result["rungs"] if rung["status"] == "measured"]
    return {
        "date": result["date"][: len("2026-01-31")],
        "by": by,
        "dataset": {name: result["dataset"][name] for name in kept},
        "unreadable": len(result["dataset"]["unreadable"]),
        "language": result["language"],
        "normaliser": result["normaliser"],
        "git_revision": result["git_revision"],
        "emulated": result["bundle"]["emulated"],
        "wer": {rung["name"]: [rung["score"][name] for name in ("wer", "wer_low", "wer_high")] for rung in measured},
        "failed": failed,
        "verdict": result["verdict"],
    }


def add_evaluation(bundle: Bundle, record: Mapping[str, Any]) -> None:
    """Put a record into a bundle's manifest, in place of earlier ones of the same rungs, or fewer, on the same speech.

    Its content digest and version stay: they do not cover evaluations.

    Raises:
        BundleError: the manifest is gone or damaged.
        EvaluationError: it cannot be replaced.
    """
    path = bundle.folder / manifest_format.FILENAME
    data = dict(Bundle.open_unverified(bundle.folder).manifest.data)
    earlier = [{**_BEFORE, **each} for each in data["evaluations"]]
    kept = [
        each
        for each in earlier
        if any(each.get(key) != record[key] for key in _SAME) or not each["wer"].keys() <= record["wer"].keys()
    ]
    data = {**data, "evaluations": [*kept, dict(record)]}
    sealed = manifest_format.seal(data, str(data["version"]).split("+")[0])
    try:
        write_atomically(path, [manifest_format.serialise(sealed)])
    except OSError as error:
        raise EvaluationError(f"{path}: the evaluation cannot be recorded: {error.strerror or error}") from error
