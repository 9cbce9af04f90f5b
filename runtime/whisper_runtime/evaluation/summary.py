"""What an evaluation found, as the one JSON document that the runtime and the toolchain both write."""

import datetime
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from whisper_runtime import __version__
from whisper_runtime.bundle import Bundle
from whisper_runtime.errors import EvaluationError
from whisper_runtime.evaluation.ladder import CHANGED, LADDER, on_device, position
from whisper_runtime.evaluation.metrics import ClipErrors, compare, difference, score
from whisper_runtime.evaluation.rung import MEASURED, RungRun
from whisper_runtime.evaluation.speech import read_by, without_folder
from whisper_runtime.evaluation.verdict import verdict
from whisper_runtime.machine import machine
from whisper_runtime.measuring import Clip

SCHEMA = 1
"""Of the JSON. It changes when a reader of the old one would be wrong, not when a key is added."""


def summarise(
    runs: Mapping[str, RungRun],
    clips: Sequence[Clip],
    normalise: Callable[[str], str],
    *,
    dataset: Mapping[str, Any],
    **facts: Any,
) -> dict[str, Any]:
    """The whole result.

    Args:
        runs: what became of each rung, by name.
        clips: the recordings.
        normalise: the normaliser, applied to references and transcripts.
        dataset: what `choose_clips` said of them.
        facts: keys of the result that the caller knows: `command`, `bundle`, `language`, `normaliser`, `toolchain`,
            `git_revision`, `versions`, `layer_noise`.

    Raises:
        EvaluationError: no rung was measured, or no transcript has a word.
    """
    first = next((run for run in runs.values() if run.status == MEASURED), None)
    if first is None:
        reasons = "; ".join(f"{name}: {run.reason}" for name, run in runs.items())
        raise EvaluationError(f"no rung could be measured: {reasons}")
    speech = read_by(first.clips, clips)
    try:
        rungs = _rungs(runs, clips, normalise, {clip["id"] for clip in speech["unreadable"]})
    except ValueError as error:  # such as transcripts of "uh" alone
        raise EvaluationError(f"{dataset['name']}: {error} once it is normalised") from error
    return {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **facts,
        "runtime": __version__,
        "machine": machine(),
        "dataset": {**dataset, **speech},
        "rungs": rungs,
        "verdict": verdict(rungs),
    }


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """The bundle's entry in the result."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.content_digest,
        "emulated": manifest.emulated,
    }


def layer_noise(bundle: Bundle) -> Any:
    """What the emulator measured of each layer while it compiled the bundle; None for other bundles."""
    return bundle.manifest.data["build"].get("compilation", {}).get("layer_noise")


def _rungs(
    runs: Mapping[str, RungRun], clips: Sequence[Clip], normalise: Callable[[str], str], told: Collection[str]
) -> list[dict[str, Any]]:
    """Figures of each rung, in the ladder's order. Of what cannot be read, ids in `told` are not listed again."""
    errors: dict[str, dict[str, ClipErrors]] = {}
    rungs = []
    for name in sorted(runs, key=position):
        run = runs[name]
        entry: dict[str, Any] = {"name": name, "status": run.status, "changed": CHANGED.get(name, "what was asked for")}
        rungs.append(entry)
        if run.status != MEASURED:
            entry["reason"] = run.reason
            continue
        good = [clip for clip in clips if not run.clips[clip.id].error]
        errors[name] = {clip.id: compare(clip.text or "", run.clips[clip.id].text, normalise) for clip in good}
        entry |= {**_figures(run, good, errors[name]), "against": _against(name, errors)}
        entry["failed"] = _failed(run, clips, told)
        entry["device"] = device_figures(run) if on_device(name) else None
    return rungs


def _failed(run: RungRun, clips: Iterable[Clip], told: Collection[str]) -> list[dict[str, Any]]:
    """The recordings that a rung has no text for: it fails on them, or they have gone since the first rung."""
    return [
        {
            "id": clip.id,
            "reason": without_folder(run.clips[clip.id].error, clip.path),
            "unreadable": run.clips[clip.id].unreadable,
        }
        for clip in clips
        if run.clips[clip.id].error and not (run.clips[clip.id].unreadable and clip.id in told)
    ]


def _figures(run: RungRun, good: Sequence[Clip], errors: Mapping[str, ClipErrors]) -> dict[str, Any]:
    found = run.clips
    seconds = sum(found[clip.id].duration for clip in good)
    total = sum(found[clip.id].seconds for clip in good)
    stages = sorted({stage for clip in good for stage in found[clip.id].stages})
    return {
        "score": score(list(errors.values())).as_dict(),
        "drafted": run.drafted,
        # Stock has neither stages nor calls of a decoder that we see.
        "calls": sum(found[clip.id].calls for clip in good) if stages else None,
        "seconds": total,
        "stages": {stage: sum(found[clip.id].stages.get(stage, 0.0) for clip in good) for stage in stages},
        "real_time_factor": total / seconds if seconds else 0.0,
        "peak_memory_mb": run.memory,
        "clips": [
            {
                "id": clip.id,
                "audio": found[clip.id].audio,
                "duration": found[clip.id].duration,
                "reference": clip.text,
                "text": found[clip.id].text,
                "errors": errors[clip.id].errors,
                "substitutions": errors[clip.id].substitutions,
                "deletions": errors[clip.id].deletions,
                "insertions": errors[clip.id].insertions,
                "words": errors[clip.id].words,
                "normalised_reference": errors[clip.id].reference,
                "normalised_text": errors[clip.id].text,
            }
            for clip in good
        ],
    }


def device_figures(run: RungRun) -> dict[str, Any]:
    """Power in watts and temperature in degrees Celsius while a rung was on the device, with why one is not there."""
    watts = [value for found in run.clips.values() for value in found.watts]
    celsius = [value for found in run.clips.values() for value in found.celsius]
    reason = run.sensors
    if not reason and not (watts and celsius):
        reason = "no reading fell into the time of a recording: too few or too short recordings"
    return {
        "power_w": {"mean": sum(watts) / len(watts), "max": max(watts)} if watts else None,
        "temperature_c": {"max": max(celsius)} if celsius else None,
        "reason": reason or None,
    }


def _against(name: str, errors: Mapping[str, Mapping[str, ClipErrors]]) -> dict[str, Any] | None:
    """The difference to the rung that this one is compared with, on the clips that both have."""
    for other in LADDER.get(name, ("float", "stock")):
        if other in errors:
            common = [clip for clip in errors[name] if clip in errors[other]]
            found = difference([errors[name][c] for c in common], [errors[other][c] for c in common])
            return {"name": other, "points": found.points, "low": found.low, "high": found.high, "p": found.p}
    return None
